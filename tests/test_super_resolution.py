"""super_resolve: every method's contract, tiles against the whole, batches, seeds and bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Generator
from torch.nn.functional import pixel_shuffle

from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import resize
from tutorial_lib.metrics import lr_consistency
from tutorial_lib.networks.regression import condition
from tutorial_lib.pretrained import SPREADS, load_pretrained
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import shifted_cosine
from tutorial_lib.sr3 import with_condition
from tutorial_lib.super_resolution import (
    AUGMENTATION,
    ETA,
    FACE_METHODS,
    METHODS,
    TEMPERATURE,
    face_super_resolve,
    in_tiles,
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
    """Sizes that neither the tile nor the pooling divides; the tile and its margin are the shipped ones, scaled by two."""
    lr = smooth(75, 170)
    whole = super_resolve(lr, method=method, steps=2, tile=None)
    cut = super_resolve(lr, method=method, steps=2, tile=64)
    torch.testing.assert_close(cut, whole, atol=2e-4, rtol=0)


def test_tiles_without_a_margin_disagree():
    """Mutant: the comparison above must see a seam."""
    lr = smooth(40, 72)
    network = load_pretrained("photo-regression-x4")
    with torch.inference_mode():
        difference = (in_tiles(network, [lr], 32, margin=0) - network(lr)).abs()
    assert difference.max() > 2e-3


def test_in_tiles_keeps_inputs_aligned():
    """Every pixel must come from its own place on every grid: the function here needs no margin at all."""
    coarse, fine = picture(1, 2, 13, 22), picture(1, 3, 26, 44)
    calls = []

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(a.shape)
        return b + a.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)

    out = in_tiles(add, [coarse, fine], tile=8, margin=4)
    torch.testing.assert_close(out, add(coarse, fine))
    assert len(calls) == 2 * 3 + 1


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


def test_bad_faces_are_named():
    with pytest.raises(ValueError, match="lr must hold faces of 8 x 8 pixels"):
        face_super_resolve(picture(1, 3, 9, 8))
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        face_super_resolve(picture(1, 3, 8, 8), method="regresion")
    with pytest.raises(ValueError, match="steps must be a whole number"):
        face_super_resolve(picture(1, 3, 8, 8), steps=True)
