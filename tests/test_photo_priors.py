"""photo_priors: every method typed again around the bare network with the camera as a matrix; sizes, tiles, calls, input."""

from __future__ import annotations

import importlib.util
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from tutorial_lib.denoisers import pullback
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.metrics import lr_consistency
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Mask
from tutorial_lib.photo_priors import CALLS, FIRST_TIME, PRIOR_METHODS, prior_denoiser, restore, zero_shot_sample
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import last
from tutorial_lib.schedules import uniform_times, vp_cosine
from tutorial_lib.super_resolution import METHODS, STEPS, one_source_per_image, super_resolve

double = torch.float64
every_method = pytest.mark.parametrize("method", PRIOR_METHODS)


def network():
    return load_pretrained("photo-unconditional")


def smooth(height, width, seed=0, channels=3):
    rough = torch.rand(1, channels, (height + 3) // 4, (width + 3) // 4, generator=Generator().manual_seed(seed))
    return resize(rough, 4)[..., :height, :width].clamp(0, 1)


# ----------------------------------------------------------------------------------------------- the methods, typed again


class Typed:
    """One walk of the cosine path with even steps, the camera a dense matrix per channel, the prior a bare v-network."""

    def __init__(self, x, matrix, size, steps, noise_std, noise, options):
        self.x, self.matrix, self.inverse = x.flatten(2), matrix, torch.linalg.pinv(matrix)
        self.size, self.noise_std, self.draw, self.options = size, noise_std, noise, options
        self.times = self.even(FIRST_TIME, steps)
        self.network = network()

    def even(self, first, steps):
        return [first - (first - 1e-3) * i / max(steps - 1, 1) for i in range(steps)] + [0.0]

    def noise(self):
        return self.draw(torch.empty(len(self.x), 3, *self.size))

    def see(self, z):
        return z.flatten(2) @ self.matrix.T

    def back(self, x, matrix=None):
        return (x @ (self.inverse if matrix is None else matrix).T).reshape(len(x), 3, *self.size)

    def levels(self, t):
        end = math.pi / 2 / 1.008
        alpha = math.sin((1 - t) * end) / math.sin(end)
        return alpha, math.sqrt(math.sin(t * end) * math.sin((2 - t) * end)) / math.sin(end)

    def estimate(self, z, t):
        """alpha z - sigma v on the image mirrored, its edge repeated, to multiples of 8."""
        alpha, sigma = self.levels(t)
        rows, columns = (np.pad(np.arange(n), (0, -n % 8), mode="symmetric") for n in self.size)
        level = torch.full((len(z),), min(2 * math.log(alpha / sigma), 20) / 8)
        v = self.network(z[..., rows, :][..., columns], level, None)
        return alpha * z - sigma * v[..., : self.size[0], : self.size[1]]

    def walk(self, z, step):
        for t, s in zip(self.times[:-1], self.times[1:], strict=True):
            z = step(z, t, s, *self.levels(t), *self.levels(s))
        return z

    def start(self):
        return self.levels(self.times[0])[1] * self.noise()

    def ancestral(self, z, z_0, white, alpha, sigma, alpha_s, sigma_s):
        """DDPM: the posterior's standard deviation is fresh."""
        fresh = sigma_s * math.sqrt(1 - (alpha * sigma_s / alpha_s / sigma) ** 2)
        eps = (z - alpha * z_0) / sigma
        return alpha_s * z_0 + math.sqrt(sigma_s**2 - fresh**2) * eps + fresh * white

    def white(self, s):
        return self.noise() if s > 0 else torch.zeros(len(self.x), 3, *self.size)

    def ilvr(self):
        def step(z, t, s, *levels):
            white, (alpha_s, sigma_s) = self.white(s), levels[2:]
            z = self.ancestral(z, self.estimate(z, t), white, *levels)
            return z + self.back(alpha_s * self.x + sigma_s * self.see(white) - self.see(z))

        return self.walk(self.start(), step)

    def ddrm(self):
        f = self.options.get("eta_total", 0.85)

        def step(z, t, s, alpha, sigma, alpha_s, sigma_s):
            z_0, white = self.estimate(z, t), self.white(s)
            z = alpha_s * z_0 + sigma_s * (math.sqrt(1 - f**2) * (z - alpha * z_0) / sigma + f * white)
            return z + self.back(alpha_s * self.x + sigma_s * self.see(white) - self.see(z))

        return self.walk(self.levels(self.times[0])[0] * self.back(self.x) + self.start(), step)

    def ddnm(self):
        def step(z, t, s, alpha, sigma, alpha_s, sigma_s):
            z_0, white = self.estimate(z, t), self.white(s)
            moved = self.ancestral(z, z_0, white, alpha, sigma, alpha_s, sigma_s)
            if "eta_total" in self.options:
                share = self.options["eta_total"]
                eps = (z - alpha * z_0) / sigma
                moved = alpha_s * z_0 + sigma_s * (math.sqrt(1 - share**2) * eps + share * white)
            return moved + alpha_s * self.back(self.x - self.see(z_0))

        return self.walk(self.start(), step)

    def dps(self):
        def step(z, t, s, *levels):
            with torch.inference_mode(False), torch.enable_grad():
                state = z.clone().requires_grad_()
                z_0 = self.estimate(state, t)
                (self.x.clone() - self.see(z_0)).square().sum((1, 2)).sqrt().sum().backward()
            down = -self.options.get("scale", 0.3) * state.grad
            return self.ancestral(z, z_0.detach(), self.white(s), *levels) + down

        return self.walk(self.start(), step)

    def pigdm(self):
        prior = self.options.get("prior_std", 1.0)

        def step(z, t, s, alpha, sigma, *levels):
            spread = (sigma * prior) ** 2 / ((alpha * prior) ** 2 + sigma**2)
            gram = self.matrix @ self.matrix.T
            inner = torch.linalg.inv(gram + self.noise_std**2 / spread * torch.eye(len(gram)))
            with torch.inference_mode(False), torch.enable_grad():
                state = z.clone().requires_grad_()
                z_0 = self.estimate(state, t)
                pull = self.back((self.x.clone() - self.see(z_0.detach())) @ inner.clone(), self.matrix.T)
                (z_0 * pull).sum().backward()
            guided = z_0.detach() + sigma**2 / alpha / spread * state.grad
            return self.ancestral(z, guided, self.white(s), alpha, sigma, *levels)

        self.times = self.even(0.9, len(self.times) - 1)
        return self.walk(self.levels(0.9)[0] * self.back(self.x) + self.start(), step)

    def diffpir(self):
        zeta, strength = self.options.get("zeta", 0.1), self.options.get("strength", 1.0)

        def step(z, t, s, alpha, sigma, alpha_s, sigma_s):
            z_0 = self.estimate(z, t)
            rho = strength * (max(self.noise_std, 1e-3) * alpha / sigma) ** 2
            inner = torch.linalg.inv(self.matrix @ self.matrix.T + rho * torch.eye(len(self.matrix)))
            z_0 = z_0 + self.back((self.x - self.see(z_0)) @ inner, self.matrix.T)
            eps = (z - alpha * z_0) / sigma
            return alpha_s * z_0 + sigma_s * (math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * self.white(s))

        return self.walk(self.start(), step)


def options(method):
    """What the package's choice of step sizes hands to the method of `zero_shot`."""
    return getattr(PRIOR_METHODS[method], "keywords", {})


def camera(function, height, width):
    """The matrix of a function of planes, column by column."""
    planes = torch.eye(height * width).reshape(-1, 1, height, width)
    return function(planes).flatten(1).T.contiguous()


@pytest.mark.parametrize("size", [(3, 5), (2, 4)], ids=["12 x 20", "8 x 16"])
@every_method
def test_each_method_is_its_formulas_around_the_bare_network(method, size):
    """Then the nearest image that downsamples to lr. Sides of 12 and 20 are mirrored to 16 and 24 for the network."""
    lr, (height, width) = smooth(*size, seed=2), (4 * size[0], 4 * size[1])
    matrix = camera(lambda planes: resize(planes, 1 / 4), height, width)
    typed = Typed(2 * lr - 1, matrix, (height, width), 4, 0.0, one_source_per_image(6, 1), options(method))
    with torch.inference_mode():
        sr = (getattr(typed, method)() + 1) / 2
        sr = sr + typed.back(lr.flatten(2) - typed.see(sr))
    found = super_resolve(lr, method=method, seed=6, steps=4)
    torch.testing.assert_close(found, sr.clamp(0, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("noise_std", [0.0, 0.04])
@pytest.mark.parametrize("method", ["pigdm", "diffpir"])
def test_noise_is_handed_over_in_state_units(method, noise_std):
    """Pooling by 2 of 8 x 12 pixels with noise in image units, which doubles; not made consistent afterwards."""
    hr = smooth(8, 12, seed=3)
    lr = AveragePool(2)(hr)
    lr = lr + noise_std * standard_normal(8)(lr)
    matrix = camera(lambda planes: F.avg_pool2d(planes, 2), 8, 12)
    typed = Typed(2 * lr - 1, matrix, (8, 12), 3, 2 * noise_std, standard_normal(6), options(method))
    found = restore(lr, method, AveragePool(2), network(), noise_std, steps=3, noise=standard_normal(6))
    with torch.no_grad():
        expected = (getattr(typed, method)() + 1) / 2
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)
    if noise_std:
        other = restore(lr, method, AveragePool(2), network(), noise_std / 2, steps=3, noise=standard_normal(6))
        assert (other - expected).abs().max() > 5e-3


@every_method
def test_restoring_is_the_zero_shot_method_on_states(method):
    operator, noise_std = AveragePool(2), 0.03
    lr = operator(smooth(8, 8, seed=4).expand(2, -1, -1, -1)) + torch.tensor([0.0, 0.02]).view(2, 1, 1, 1)
    found = restore(lr, method, operator, network(), noise_std, steps=3, noise=standard_normal(1))
    states = PRIOR_METHODS[method](
        prior_denoiser(network()),
        vp_cosine(),
        operator,
        2 * lr - 1,
        2 * noise_std,
        uniform_times(3, FIRST_TIME),
        noise=standard_normal(1),
    )
    torch.testing.assert_close(found, (last(states) + 1) / 2, rtol=0, atol=1e-6)
    assert found.shape == (2, 3, 8, 8) and (found[0] - found[1]).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------ the denoiser


@pytest.mark.parametrize("size", [(8, 16), (12, 20), (1, 3), (9, 5)])
def test_the_prior_takes_sides_of_any_length(size):
    """Mirrored with the edge repeated, at the right and at the bottom, also several times over."""
    z, t = standard_normal(0)(torch.empty(2, 3, *size)), 0.4
    rows, columns = (np.pad(np.arange(n), (0, -n % 8), mode="symmetric") for n in size)
    schedule = vp_cosine()
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    with torch.no_grad():
        v = network()(z[..., rows, :][..., columns], torch.full((2,), 2 * math.log(alpha / sigma) / 8), None)
    expected = alpha * z - sigma * v[..., : size[0], : size[1]]
    torch.testing.assert_close(prior_denoiser(network())(z, t), expected, rtol=0, atol=1e-5)


def test_the_prior_denoises():
    """States of a photo that it never saw: closer to it than the best multiple of the state, per pixel."""
    hr = photo("chelsea")[..., 100:164, 100:164]
    z_0, schedule = 2 * hr - 1, vp_cosine()
    for t in (0.2, 0.5, 0.8):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        z = alpha * z_0 + sigma * standard_normal(1)(z_0)
        size = z_0.square().mean()
        best = (alpha * size / (alpha**2 * size + sigma**2)).float() * z
        found = prior_denoiser(network())(z, t)
        assert (found - z_0).square().mean() < 0.5 * (best - z_0).square().mean()


def test_gradients_go_through_tiles_and_mirrors():
    """J^T w with tiles and without: each window sends its share back to the pixels that it has seen."""
    z = standard_normal(0)(torch.empty(1, 3, 12, 470))
    w = standard_normal(1)(z)
    whole, cut = (pullback(prior_denoiser(network(), tile), z, 0.3) for tile in (None, 64))
    torch.testing.assert_close(cut[0], whole[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(cut[1](w), whole[1](w), atol=2e-4, rtol=0)
    assert all(p.grad is None for p in network().parameters())


# ------------------------------------------------------------------------------------------------------- calls, samples, input


@every_method
def test_calls_are_counted_and_seeds_are_samples(method):
    lr, calls = smooth(4, 3), []
    heard = network().register_forward_pre_hook(lambda *_: calls.append(1))
    first = super_resolve(lr, method=method)
    assert len(calls) == STEPS[method] == CALLS <= 50
    few = [super_resolve(lr, method=method, seed=seed, steps=3) for seed in (0, 1, 0)]
    assert len(calls) == CALLS + 9
    heard.remove()
    assert torch.equal(few[0], few[2]) and (few[0] - few[1]).abs().mean() > 1e-3
    assert first.isfinite().all()


@every_method
def test_samples_downsample_to_what_was_given(method):
    lr = 0.25 + 0.5 * smooth(9, 6)
    sr = zero_shot_sample(lr, method, network(), one_source_per_image(0, 1), 4, None, False)
    torch.testing.assert_close(Bicubic(4)(sr), lr, rtol=0, atol=2e-5)
    assert lr_consistency(super_resolve(lr, method=method, steps=12), lr, 4).item() > 30  # what clipping leaves of it


@every_method
def test_networks_are_shown_tiles(method):
    """170 LR pixels are three tiles of 64: one step is three calls then, and a whole one without tiles."""
    shown, lr = [], smooth(2, 170)
    heard = network().register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].shape[-1]))
    super_resolve(lr, method=method, steps=1, tile=64)
    super_resolve(lr, method=method, steps=1, tile=None)
    heard.remove()
    assert len(shown) == 4 and shown[0] < shown[3] == 680


@every_method
def test_samples_of_photos_are_plausible(method):
    """50 calls on 48 x 48 pixels of a photo: a sample pays for what it invents, but no more than 4 dB against bicubic."""
    hr = photo("chelsea")[..., 100:148, 100:148]
    lr = to_uint8(resize(hr, 1 / 4)).float() / 255
    error = (super_resolve(lr, method=method) - hr).square().mean()
    assert 0.4 < (error / (resize(lr, 4) - hr).square().mean()).item() < 2.5


def test_they_are_methods_of_super_resolve_with_options_of_zero_shot():
    assert set(PRIOR_METHODS) == {"ilvr", "ddrm", "ddnm", "dps", "pigdm", "diffpir"} <= set(METHODS)
    for method, function in PRIOR_METHODS.items():
        inner = getattr(function, "func", function)
        assert inner.__name__.removeprefix("late_") == method and set(options(method)) <= set(
            inspect.signature(inner).parameters
        )


def test_bad_input_is_named():
    lr = smooth(2, 2)
    with pytest.raises(ValueError, match="method must be one of .* but 'pigmd' came; did you mean 'pigdm'"):
        restore(lr, "pigmd", Bicubic(4), network())
    with pytest.raises(ValueError, match="lr holds NaN"):
        restore(lr * math.nan, "ddnm", Bicubic(4), network())
    with pytest.raises(ValueError, match="n must be a whole number of steps, at least 1, but 0 came"):
        restore(lr, "ddnm", Bicubic(4), network(), steps=0)
    with pytest.raises(ValueError, match="noise_std must be a number that is not negative, in state units"):
        restore(lr, "ddnm", Bicubic(4), network(), -0.1)
    with pytest.raises(ValueError, match="ddrm needs the SVD of the operator, and Composition has none"):
        restore(lr, "ddrm", Mask(torch.tensor([[1, 0], [1, 1]])) @ Bicubic(4), network())
    with pytest.raises(ValueError, match="'ddnm' has weights for scale 4 only, but scale=2 came"):
        super_resolve(lr, method="ddnm", scale=2)


def test_the_quality_benchmark_takes_zero_shot_methods_alone_and_beside_others():
    """Standard errors are of the distance to the mean of the other methods; where there are none, of the zero-shot ones."""
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "quality.py"
    spec = importlib.util.spec_from_file_location("quality_benchmark", path)
    quality = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quality)
    rows = {
        method: [dict.fromkeys(quality.COLUMNS, torch.tensor([value, -value]))]
        for method, value in (("ddnm", 3.0), ("dps", 1.0), ("bicubic", 2.0))
    }
    _, together = quality.summarise(rows)
    assert together["bicubic"]["SSIM"] == 0 and together["ddnm"]["SSIM"] == pytest.approx(1.0)
    _, alone = quality.summarise({m: rows[m] for m in ("ddnm", "dps")})
    assert alone["ddnm"]["SSIM"] == alone["dps"]["SSIM"] == pytest.approx(1.0)
