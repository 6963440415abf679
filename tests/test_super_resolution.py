"""super_resolve: every method's contract, tiles against the whole, batches, seeds and bad input."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import pywt
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from torch import Generator
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tutorial_lib.cli import build_parser
from tutorial_lib.corruption import (
    draw_state,
    i2sb,
    i2sb_path,
    indi,
    indi_path,
    resshift,
    resshift_clock,
    resshift_path,
    symmetric_clock,
)
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.domains import Wavelet
from tutorial_lib.images import crop_to_multiple, photo, resize, to_uint8
from tutorial_lib.metrics import lr_consistency
from tutorial_lib.networks import LocalSpread
from tutorial_lib.networks.regression import condition
from tutorial_lib.operators import Bicubic
from tutorial_lib.pretrained import LATENT_SCALE, SPREADS, WAVELET_SCALES, continuous_spread, load_pretrained
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import shifted_cosine, uniform_times, vp_cosine
from tutorial_lib.sr3 import with_condition
from tutorial_lib.super_resolution import (
    AUGMENTATION,
    BETA_MAX,
    EPSILON,
    ETA,
    FACE_METHODS,
    FIRST_TIME,
    GAIN,
    KAPPA,
    METHODS,
    STEPS,
    TEMPERATURE,
    face_super_resolve,
    one_source_per_image,
    sr3_times,
    super_resolve,
)

LEARNED = [m for m in METHODS if m != "bicubic"]


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return resize(picture(1, 3, (height + 3) // 4, (width + 3) // 4, seed=seed), 4)[..., :height, :width].clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 9)])
def test_every_method_takes_any_size(method, size):
    lr = picture(2, 3, *size)
    kept = lr.clone()
    sr = super_resolve(lr, method=method, steps=2)
    assert sr.shape == (2, 3, 4 * size[0], 4 * size[1]) and sr.dtype == torch.float32
    assert torch.isfinite(sr).all() and sr.min() >= 0 and sr.max() <= 1
    assert torch.equal(lr, kept)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_does_not_depend_on_its_batch_mates(method):
    lr = torch.cat([smooth(12, 16, seed=i) for i in range(3)])
    together = super_resolve(lr, method=method, seed=5, steps=2)
    for i in range(3):
        alone = super_resolve(lr[i : i + 1], method=method, seed=5 + i, steps=2)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


def test_seeds_give_different_samples_and_zero_is_a_seed():
    lr = smooth(16, 12)
    first, again, other = (super_resolve(lr, seed=s, steps=3) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 1e-3


@pytest.mark.parametrize("method", LEARNED)
def test_tiles_agree_with_the_whole(method):
    """Strips, whose sides neither the tile nor the pooling divides; the margin is the shipped one."""
    tile, length = (32, 170) if method == "latent" else (64, 150)  # the latents' grid is half of the LR grid
    for size in ((13, length), (length, 13)):
        lr = smooth(*size)
        whole = super_resolve(lr, method=method, steps=2, tile=None)
        cut = super_resolve(lr, method=method, steps=2, tile=tile)
        rounding = 2e-4
        torch.testing.assert_close(cut, whole, atol=rounding, rtol=0)


def test_a_sample_downsamples_to_what_was_given():
    lr = smooth(24, 20)
    sr = super_resolve(lr, steps=4)
    assert lr_consistency(sr, lr, 4).item() > 45


def test_bad_input_is_named():
    lr = picture(1, 3, 8, 8)
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        super_resolve(lr, method="regresion")
    with pytest.raises(ValueError, match="'regression' has weights for scale 4 only, but scale=3 came"):
        super_resolve(lr, method="regression", scale=3)
    with pytest.raises(ValueError, match="lr must have 3 channels"):
        super_resolve(lr[:, :1])
    with pytest.raises(ValueError, match="lr holds NaN"):
        super_resolve(lr * float("nan"))
    with pytest.raises(ValueError, match="2 seeds came for 1 images"):
        super_resolve(lr, seed=[1, 2])
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, but 0 came"):
        super_resolve(lr, steps=0)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 4"):
        super_resolve(lr, tile=6)


@pytest.mark.parametrize("method", FACE_METHODS)
def test_faces_come_out_four_times_larger_and_independent_of_their_batch_mates(method):
    hr = faces(3, 32, seed=77).images
    lr = resize(hr, 1 / 4).clamp(0, 1)
    together = face_super_resolve(lr, method=method, seed=4, steps=3)
    assert together.shape == hr.shape and together.min() >= 0 and together.max() <= 1
    for i in range(3):
        alone = face_super_resolve(lr[i : i + 1], method=method, seed=4 + i, steps=3)
        rounding = 2e-3 if method == "flow" else 1e-4  # each of its ten inverse couplings may enlarge it by up to e^2
        torch.testing.assert_close(together[i : i + 1], alone, atol=rounding, rtol=0)


def test_learned_methods_beat_bicubic_on_faces_that_nobody_trained_on():
    hr = faces(32, 32, seed=77).images
    lr = resize(hr, 1 / 4).clamp(0, 1)
    errors = {
        m: (face_super_resolve(lr, method=m) - hr).square().mean().item() for m in ("bicubic", "regression", "sr3")
    }
    assert errors["regression"] < errors["sr3"] < errors["bicubic"]


def test_sr3_is_told_the_enlarged_image_and_the_noise_level():
    """Its steps, typed again around the bare network, which answers eps."""
    lr = smooth(9, 14)
    source = one_source_per_image(3, 1)
    schedule = shifted_cosine(SPREADS["photo-sr3-x4"])
    network = load_pretrained("photo-sr3-x4")
    cond = 2 * resize(lr, 4) - 1
    times = sr3_times(4)
    z = source(cond)
    with torch.inference_mode():
        for t, s in zip(times[:-1], times[1:], strict=True):
            alpha, sigma, alpha_s, sigma_s = (f(u).item() for u in (t, s) for f in (schedule.alpha, schedule.sigma))
            eps = network(z, schedule.log_snr(t).clamp(-20, 20).float().view(1) / 8, cond)
            beta = 1 - (alpha / alpha_s) ** 2
            fresh = beta**0.5 * sigma_s / sigma * ETA["sr3"]
            z = (z - sigma * eps) / alpha * alpha_s + max(sigma_s**2 - fresh**2, 0) ** 0.5 * eps
            z = z + fresh * source(cond) if s > 0 else z
    expected = ((z + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(super_resolve(lr, method="sr3", seed=3, steps=4), expected, atol=2e-4, rtol=0)


def test_the_flows_sample_is_mean_plus_spread_times_the_inverse_of_tempered_noise():
    lr = smooth(9, 14)
    noise = one_source_per_image(5, 1)(torch.empty(1, 48, 9, 14))
    with torch.inference_mode():
        mean, spread, cond = condition(load_pretrained("photo-regression-x4"), lr)
        state = pixel_shuffle(load_pretrained("photo-flow-x4").inverse(TEMPERATURE * noise, cond), 4)
    expected = (mean + spread * state).clamp(0, 1)
    torch.testing.assert_close(super_resolve(lr, method="flow", seed=5), expected, atol=1e-4, rtol=0)


def test_the_cascade_is_two_stages_and_tells_the_second_how_noisy_its_condition_is():
    """The stages typed again: the second sees the first one's answer with AUGMENTATION of noise, and is told so."""
    lr, source = smooth(6, 9), one_source_per_image(2, 1)
    grid, name, image = sr3_times(3), "photo-sr3-x2", lr
    schedule = shifted_cosine(SPREADS[name])
    network = NetworkDenoiser(load_pretrained(name), "eps", schedule)
    with torch.inference_mode():
        for std in (0.0, AUGMENTATION):
            cond = 2 * resize(image, 2) - 1
            if std:
                cond = (1 - std**2) ** 0.5 * cond + std * source(cond)
            told = torch.cat([cond, torch.full_like(cond[:, :1], std)], 1)
            states = ddim(
                with_condition(network, told), schedule, source(cond), grid, eta=ETA["sr3-cascade"], noise=source
            )
            image = (last(states) + 1) / 2
    found = super_resolve(lr, method="sr3-cascade", seed=2, steps=3)
    torch.testing.assert_close(found, image.clamp(0, 1), atol=2e-4, rtol=0)


def typed_sample(network, shape, cond, steps, eta, source):
    """DDIM on the cosine schedule around a bare network that answers v, step by step."""
    schedule, z = vp_cosine(), source(torch.empty(shape))
    times = uniform_times(steps)
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma, alpha_s, sigma_s = (f(u).item() for u in (t, s) for f in (schedule.alpha, schedule.sigma))
        v = network(z, schedule.log_snr(t).clamp(-20, 20).float().expand(len(z)) / 8, cond)
        z_0, eps = alpha * z - sigma * v, sigma * z + alpha * v
        beta = 1 - (alpha / alpha_s) ** 2
        fresh = eta * beta**0.5 * sigma_s / sigma
        z = alpha_s * z_0 + max(sigma_s**2 - fresh**2, 0) ** 0.5 * eps
        z = z + fresh * source(z) if s > 0 else z
    return z


def projected(sr, lr):
    """The nearest image that downsamples to lr, clipped."""
    operator = Bicubic(4)
    return (sr + operator.pinv(lr - operator(sr))).clamp(0, 1)


def told_bands(lr):
    """What the networks of bands are told: the regression's condition as it is stored, in half precision."""
    return condition(load_pretrained("photo-regression-x4"), lr)[2].half().float()


def typed_photo(z_0, lr):
    """Bands of the residual in units of their scales, joined by PyWavelets, on the regression's answer; consistent with lr."""
    mean, spread, _ = condition(load_pretrained("photo-regression-x4"), lr)
    names = ("LL", "H2", "V2", "D2", "H1", "V1", "D1")
    parts = dict(zip(names, z_0.split([3, 3, 3, 3, 12, 12, 12], 1), strict=True))
    bands = {name: WAVELET_SCALES[name] * part for name, part in parts.items()}
    fine = {name: pixel_shuffle(band, 2) if name.endswith("1") else band for name, band in bands.items()}
    pyramid = [fine["LL"].numpy(), *([fine[f"{kind}{level}"].numpy() for kind in "HVD"] for level in (2, 1))]
    residual = torch.from_numpy(pywt.waverec2(pyramid, "haar"))
    return projected(mean + spread * residual, lr)


SIZES = pytest.mark.parametrize("size", [(9, 14), (8, 11)])


@SIZES
def test_srdiff_is_bicubic_plus_a_sample_in_units_of_the_local_spread(size):
    lr, source = smooth(*size), one_source_per_image(4, 1)
    base, regression = resize(lr, 4), load_pretrained("photo-regression-x4")
    with torch.inference_mode():
        cond = torch.cat([pixel_unshuffle(base - 0.5, 4), regression.features(lr)], 1)
        z_0 = typed_sample(load_pretrained("photo-srdiff-x4"), base.shape, cond, 4, ETA["srdiff"], source)
        spread = LocalSpread(floor=0.01, gain=1.7, most=0.25, window=13)(2 * base - 1) / 2
    expected = (base + spread * z_0).clamp(0, 1)
    torch.testing.assert_close(super_resolve(lr, method="srdiff", seed=4, steps=4), expected, atol=2e-4, rtol=0)


@SIZES
def test_wavelet_is_a_sample_of_bands_joined_by_pywavelets(size):
    lr, source = smooth(*size), one_source_per_image(4, 1)
    with torch.inference_mode():
        z_0 = typed_sample(
            load_pretrained("photo-wavelet-x4"), (1, 48, *size), told_bands(lr), 4, ETA["wavelet"], source
        )
        expected = typed_photo(z_0, lr)
    torch.testing.assert_close(super_resolve(lr, method="wavelet", seed=4, steps=4), expected, atol=5e-4, rtol=0)


@SIZES
def test_latent_is_a_decoded_sample_and_odd_sides_are_made_even_by_repeating_the_edge(size):
    lr, source = smooth(*size), one_source_per_image(4, 1)
    height, width = size
    x = lr[:, :, [*range(height), *[height - 1] * (height % 2)]][..., [*range(width), *[width - 1] * (width % 2)]]
    with torch.inference_mode():
        mean, spread, cond = condition(load_pretrained("photo-regression-x4"), x)
        told = pixel_unshuffle(cond.half(), 2).float()
        shape = (1, 32, x.shape[2] // 2, x.shape[3] // 2)
        z_0 = typed_sample(load_pretrained("photo-latent-x4"), shape, told, 4, ETA["latent"], source)
        residual = load_pretrained("photo-autoencoder-x4").decode(LATENT_SCALE * z_0, cond)
    expected = projected((mean + spread * residual)[..., : 4 * height, : 4 * width], lr)
    torch.testing.assert_close(super_resolve(lr, method="latent", seed=4, steps=4), expected, atol=5e-4, rtol=0)


@SIZES
@pytest.mark.parametrize("scale", [2, 2.6, 3, 4.0])
def test_continuous_is_bicubic_plus_a_sample_at_any_scale_from_two_to_four(size, scale):
    """Sides are rounded up; where they are odd the network works on one row or column more."""
    lr, source = smooth(*size), one_source_per_image(4, 1)
    base, network = resize(lr, scale), load_pretrained("photo-continuous")
    height, width = (math.ceil(n * scale - 1e-9) for n in size)
    assert base.shape == (1, 3, height, width)
    with torch.inference_mode():
        features = load_pretrained("photo-regression-x4").features(lr)
        whole = F.pad(base, (0, width % 2, 0, height % 2), mode="replicate")
        told = network.told(features, (height, width), float(scale))
        cond = torch.cat([told, pixel_unshuffle(whole - 0.5, 2)], 1)
        z_0 = typed_sample(network.denoiser, whole.shape, cond, 4, ETA["continuous"], source)[..., :height, :width]
        more = (scale - 2) / 2
        local = LocalSpread(floor=0.007 + 0.003 * more, gain=1.3 + 0.4 * more, most=0.2 + 0.05 * more, window=9)
        expected = (base + local(2 * base - 1) / 2 * z_0).clamp(0, 1)
    found = super_resolve(lr, method="continuous", scale=scale, seed=4, steps=4)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------------------- bridges


def answer(z, alpha, sigma, cond):
    """E[z_0 | alpha z_0 + sigma eps = z] by the network of "wavelet", which answers v of the state of unit variance."""
    size = math.hypot(alpha, sigma)
    log_snr = max(2 * math.log(alpha / sigma), -20) if alpha else -20
    v = load_pretrained("photo-wavelet-x4")(z / size, torch.full((len(z),), log_snr / 8), cond)
    return alpha / size * z / size - sigma / size * v


def typed_indi(n, cond, noise):
    """z_t = (1 - t) z_0 + sqrt(c t) eps, so eps comes from the state and a part of the noise is drawn anew."""
    c = EPSILON**2
    z = math.sqrt(c) * noise()
    for i in range(n, 0, -1):
        t, s = i / n, (i - 1) / n
        z_0 = answer(z, 1 - t, math.sqrt(c * t), cond)
        eps = (z - (1 - t) * z_0) / math.sqrt(c * t)
        fresh = math.sqrt(c * s * (1 - s / t))
        z = (1 - s) * z_0 + math.sqrt(c * s - fresh**2) * eps
        z = z + fresh * noise() if s else z
    return z


def typed_i2sb(n, cond, noise):
    """Brownian motion from z_0: z_s is known from both sides, with precisions 1 / v_s and 1 / (v_t - v_s)."""

    def until(t):
        slope = math.sqrt(BETA_MAX) - math.sqrt(0.1)
        return quad(lambda u: (math.sqrt(0.1) + slope * min(u, 1 - u)) ** 2, 0, t, points=[min(t, 0.5)])[0]

    z, total = torch.zeros_like(cond[:, :1]).expand(-1, 48, -1, -1), until(1.0)
    for i in range(n, 0, -1):
        v, before = until(FIRST_TIME * i / n), until(FIRST_TIME * (i - 1) / n)
        z_0 = answer(z, 1 - v / total, math.sqrt(v * (total - v) / total), cond)
        if before == 0:
            return z_0
        precision = 1 / before + 1 / (v - before)
        z = (z_0 / before + z / (v - before)) / precision + precision**-0.5 * noise()


def typed_resshift(n, cond, noise):
    """q(z_s | z_0) = N((1 - eta_s) z_0, kappa^2 eta_s), of whose variance the posterior's is drawn anew."""
    first = min(0.04 / KAPPA, 0.04)
    eta = [0.0, *((first * (0.99 / first) ** ((i / max(n - 1, 1)) ** 0.3)) ** 2 for i in range(n))]
    eta[-1] = 0.99**2
    z = KAPPA * 0.99 * noise()
    for now, then in zip(eta[:0:-1], eta[-2::-1], strict=True):
        z_0 = answer(z, 1 - now, KAPPA * math.sqrt(now), cond)
        eps = (z - (1 - now) * z_0) / (KAPPA * math.sqrt(now))
        fresh = KAPPA * math.sqrt(then * (1 - then / now))
        z = (1 - then) * z_0 + math.sqrt(KAPPA**2 * then - fresh**2) * eps
        z = z + fresh * noise() if then else z
    return z


TYPED = {"indi": typed_indi, "i2sb": typed_i2sb, "resshift": typed_resshift}


@SIZES
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("method", TYPED)
def test_bridges_take_their_papers_steps_with_the_network_of_wavelet(method, size, steps):
    lr, source = smooth(*size), one_source_per_image(4, 1)
    with torch.inference_mode():
        z_0 = TYPED[method](steps, told_bands(lr), lambda: source(torch.empty(1, 48, *size)))
        expected = typed_photo(GAIN[method] * z_0, lr)
    torch.testing.assert_close(super_resolve(lr, method=method, seed=4, steps=steps), expected, atol=5e-4, rtol=0)


def walked_from(method, steps, lr, z_1, told, noise):
    """The package's bridge from z_1 with the shipped network, which is shown z_t - (1 - alpha) z_1 if it is told."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    clock = {"i2sb": symmetric_clock(BETA_MAX), "resshift": resshift_clock(steps, KAPPA)}.get(method)
    path = {
        "indi": lambda: indi_path(EPSILON),
        "i2sb": lambda: i2sb_path(clock),
        "resshift": lambda: resshift_path(clock, KAPPA),
    }[method]()
    network, cond = NetworkDenoiser(load_pretrained("photo-wavelet-x4"), "v", path), told_bands(lr)

    def denoiser(z, t):
        return network(z - (1 - path.alpha(t)) * z_1 if told else z, t, cond)

    if method == "i2sb":
        times = FIRST_TIME * times
        return last(i2sb(denoiser, clock, (1 - path.alpha(FIRST_TIME)) * z_1, times, noise=noise))
    start = draw_state(path, 0 * z_1, z_1, 1.0, noise)
    if method == "indi":
        return last(indi(denoiser, start, times, EPSILON, noise))
    return last(resshift(denoiser, clock, start, times, KAPPA, noise))


@pytest.mark.parametrize("method", TYPED)
def test_a_bridge_from_bicubic_gives_the_same_photo(method):
    """Told z_1, a network makes every z_1 the same walk: here bicubic's enlargement in place of the regression's answer."""
    lr = smooth(9, 14)
    with torch.inference_mode():
        mean, spread, _ = condition(load_pretrained("photo-regression-x4"), lr)
        z_1 = Wavelet(2, scales=WAVELET_SCALES).pack((resize(lr, 4) - mean) / spread)
        assert z_1.square().mean() > 0.1
        photos = [
            typed_photo(GAIN[method] * walked_from(method, 4, lr, z_1, told, one_source_per_image(4, 1)), lr)
            for told in (True, False)
        ]
    found = super_resolve(lr, method=method, seed=4, steps=4)
    torch.testing.assert_close(found, photos[0], atol=5e-4, rtol=0)
    assert (found - photos[1]).abs().max() > 5e-3  # not told, it is another walk


@pytest.mark.parametrize("steps", [1, 2, 5])
@SIZES
def test_cold_restores_bands_by_the_second_algorithm_from_a_little_noise(size, steps):
    """Typed by hand: of the 36 fine channels the share 1 - 2 t is there, of the 12 coarse ones 2 - 2 t, at most all."""
    lr = smooth(*size)
    e = 0.2 * one_source_per_image(4, 1)(torch.empty(1, 48, *size))

    def faded(z_0, t):
        coarse, fine = min(2 - 2 * t, 1), max(1 - 2 * t, 0)
        return torch.cat([coarse * z_0[:, :12], fine * z_0[:, 12:]], 1) + t * e

    with torch.inference_mode():
        z, network, cond = e, load_pretrained("photo-cold-x4"), told_bands(lr)
        for i in range(steps, 0, -1):
            t, s = i / steps, (i - 1) / steps
            z_0 = network(z, torch.tensor([2.5 - 5 * t]), cond)
            z = z - faded(z_0, t) + faded(z_0, s)
        expected = typed_photo(z, lr)
    torch.testing.assert_close(super_resolve(lr, method="cold", seed=4, steps=steps), expected, atol=5e-4, rtol=0)


DIFFUSIVE = {
    "srdiff": "photo-srdiff-x4",
    "residual-diffusion": "photo-residual-x4",
    "wavelet": "photo-wavelet-x4",
    "latent": "photo-latent-x4",
    "indi": "photo-wavelet-x4",
    "i2sb": "photo-wavelet-x4",
    "resshift": "photo-wavelet-x4",
    "cold": "photo-cold-x4",
    "continuous": "photo-continuous",
}


@pytest.mark.parametrize("method", DIFFUSIVE)
def test_steps_are_network_calls_and_seeds_are_samples(method):
    lr, calls = smooth(6, 5), []
    network = load_pretrained(DIFFUSIVE[method])
    heard = getattr(network, "denoiser", network).register_forward_pre_hook(lambda *_: calls.append(1))
    first = super_resolve(lr, method=method)
    assert len(calls) == STEPS[method]
    other, again = (super_resolve(lr, method=method, seed=seed, steps=STEPS[method]) for seed in (1, 0))
    super_resolve(lr, method=method, steps=3)
    assert len(calls) == 3 * STEPS[method] + 3
    heard.remove()
    assert torch.equal(first, again) and (first - other).abs().mean() > 1e-4


@pytest.mark.parametrize("method", DIFFUSIVE)
def test_networks_are_shown_tiles(method):
    """170 LR pixels are three tiles of 64: one step is three calls then, and a whole one without tiles."""
    shown, lr = [], smooth(3, 170)
    network = load_pretrained(DIFFUSIVE[method])
    network = getattr(network, "denoiser", network)
    heard = network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].shape[-1]))
    super_resolve(lr, method=method, steps=1, tile=64)
    super_resolve(lr, method=method, steps=1, tile=None)
    heard.remove()
    assert len(shown) == 4 and shown[0] < shown[3]


@pytest.mark.parametrize("scale", [2, 2.5, 3.3])
def test_tiles_agree_with_the_whole_at_every_scale(scale):
    lr = smooth(11, 121)
    whole = super_resolve(lr, method="continuous", scale=scale, steps=1, tile=None)
    assert whole.shape[2:] == (math.ceil(11 * scale), math.ceil(121 * scale))
    cut = super_resolve(lr, method="continuous", scale=scale, steps=1, tile=32)
    torch.testing.assert_close(cut, whole, atol=2e-4, rtol=0)


@pytest.mark.parametrize("scale", [2, 2.3, 3, 3.99])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_continuous_takes_any_size_at_any_scale(size, scale):
    lr = picture(2, 3, *size)
    sr = super_resolve(lr, method="continuous", scale=scale, steps=2, seed=3)
    assert sr.shape == (2, 3, *(math.ceil(n * scale - 1e-9) for n in size)) and torch.isfinite(sr).all()
    alone = super_resolve(lr[1:], method="continuous", scale=scale, steps=2, seed=4)
    torch.testing.assert_close(sr[1:], alone, atol=1e-4, rtol=0)


def test_scales_without_weights_are_named():
    lr = picture(1, 3, 4, 4)
    for scale in (1.99, 4.01, 8):
        with pytest.raises(
            ValueError, match=f"'continuous' has weights for scales from 2 to 4, but scale={scale} came"
        ):
            super_resolve(lr, method="continuous", scale=scale)
    for method in (m for m in METHODS if m not in ("bicubic", "continuous")):
        with pytest.raises(ValueError, match=f"'{method}' has weights for scale 4 only, .* 'continuous' every scale"):
            super_resolve(lr, method=method, scale=3)
    with pytest.raises(ValueError, match="scale must be a positive number"):
        super_resolve(lr, method="continuous", scale=float("nan"))


@pytest.mark.parametrize("method", ["wavelet", "latent", "indi", "i2sb", "resshift", "cold"])
def test_samples_around_the_regression_downsample_to_what_was_given(method):
    lr = smooth(23, 20)
    assert lr_consistency(super_resolve(lr, method=method, steps=3), lr, 4).item() > 45


@pytest.fixture(scope="module")
def crops():
    """(lr, hr) of 96 x 96 pixels from photos that nobody trained on."""
    cut = [
        crop_to_multiple(photo(name), 4)[..., 60:156, 60:156] for name in ("chelsea", "coffee", "astronaut", "china")
    ]
    hr = torch.cat(cut)
    return to_uint8(resize(hr, 1 / 4)).float() / 255, hr


@pytest.mark.parametrize("method", DIFFUSIVE)
def test_samples_of_photos_are_plausible(crops, method):
    """A sample pays for what it invents: here at most 3 dB against bicubic. A flipped residual pays 6 dB."""
    lr, hr = (images[:2] for images in crops)
    error = (super_resolve(lr, method=method) - hr).square().mean().item()
    assert 0.7 < error / (resize(lr, 4) - hr).square().mean().item() < 2


@pytest.mark.parametrize("method", ["indi", "i2sb", "resshift", "cold"])
def test_one_step_is_close_to_the_regression_and_more_steps_leave_it(crops, method):
    """One answer knows no more than the LR image: nearer to the regression than a third of the way that a sample goes."""
    lr = crops[0][:2]
    regression = projected(super_resolve(lr, method="regression"), lr)
    one, sample = ((super_resolve(lr, method=method, steps=n) - regression).std() for n in (1, STEPS[method]))
    assert one < (sample / 3 if method != "cold" else sample)


def test_bridges_cost_at_most_fifteen_calls():
    assert all(STEPS[method] <= 15 for method in ("indi", "i2sb", "resshift", "cold"))


def test_every_method_is_named_where_people_look(capsys):
    """In the help of the command line and in the README's line on it."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["upscale", "--help"])
    told = re.search(r"\n +--method METHOD(.*?)\n +--scale", capsys.readouterr().out, re.DOTALL)[1]
    named = set(re.findall(r"[a-z0-9-]+", re.sub(r"-\s+", "-", told)))
    line = re.search(r"\[--method (\S+)\]", (Path(__file__).parents[1] / "README.md").read_text())[1]
    assert set(METHODS) <= named and set(METHODS) == set(line.split("|"))


def test_states_of_photos_have_about_unit_variance(crops):
    """The numbers that SCALES and spreads were measured by, met again on other photos: within a factor of 1.6."""
    lr, hr = crops
    with torch.inference_mode():
        mean, spread, cond = condition(load_pretrained("photo-regression-x4"), lr)
        residual = (hr - mean) / spread
        latents = load_pretrained("photo-autoencoder-x4").encode(residual, cond) / LATENT_SCALE
        states = {"latent": latents}
        for scale in (2, 3, 4):
            small = to_uint8(resize(hr, 1 / scale)).float() / 255
            base = resize(small, scale)[..., :96, :96]
            states[f"continuous {scale}"] = (hr - base) / continuous_spread(base, scale)
        for name, bands in zip(("H", "V", "D"), pywt.dwt2(residual.numpy(), "haar")[1], strict=True):
            states[f"wavelet {name}1"] = torch.from_numpy(bands) / WAVELET_SCALES[f"{name}1"]
    for name, state in states.items():
        assert 1 / 1.6 < state.square().mean().sqrt().item() < 1.6, name


def test_bad_faces_are_named():
    with pytest.raises(ValueError, match="lr must hold faces of 8 x 8 pixels"):
        face_super_resolve(picture(1, 3, 9, 8))
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        face_super_resolve(picture(1, 3, 8, 8), method="regresion")
    with pytest.raises(ValueError, match="steps must be a whole number"):
        face_super_resolve(picture(1, 3, 8, 8), steps=True)
