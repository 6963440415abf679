"""Colour fixes: what they remove exactly, what they leave alone, what a second time does; P2's weights; CIELAB."""

from __future__ import annotations

import json
import math
from importlib import resources

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.color import rgb2lab

from tutorial_lib import likelihood
from tutorial_lib.color import adain_fix, back_projection, fitting_levels, low_frequencies, p2_weight, wavelet_fix
from tutorial_lib.denoisers import NetworkDenoiser, from_z_0
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import channel_shifts, color_shift, lr_consistency, psnr, rgb_to_lab
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, Grayscale
from tutorial_lib.schedules import edm, from_betas, vp_cosine, vp_linear
from tutorial_lib.steps import forward_step

double = torch.float64
EVERY_C = pytest.mark.parametrize("channels", [1, 2, 3, 5])
LINEAR = from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=double))


def images(channels, height=24, width=36, batch=2, seed=0):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=double)


def pair(channels, height=24, width=36, scale=4):
    return images(channels, height, width), images(channels, height // scale, width // scale, seed=1)


def cast(channels):
    """An offset for every channel and image."""
    return 0.2 * images(channels, 1, 1, seed=2) - 0.1


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


FIXES = {
    "adain": adain_fix,
    "wavelet": wavelet_fix,
    "back-projection": lambda sr, lr: back_projection(sr, lr, AveragePool(4)),
}


# ------------------------------------------------------------------------------------------------------- what all fixes do


@EVERY_C
@pytest.mark.parametrize("name", FIXES)
def test_a_constant_offset_is_removed_exactly(name, channels):
    sr, lr = pair(channels)
    same(FIXES[name](sr + cast(channels), lr), FIXES[name](sr, lr))


@EVERY_C
@pytest.mark.parametrize("name", FIXES)
def test_every_image_is_fixed_by_itself(name, channels):
    sr, lr = pair(channels)
    same(FIXES[name](sr[1:], lr[1:]), FIXES[name](sr, lr)[1:])
    order = torch.arange(channels - 1, -1, -1)  # and every channel: no RGB hard-coded
    same(FIXES[name](sr[:, order], lr[:, order]), FIXES[name](sr, lr)[:, order])
    assert FIXES[name](sr.float(), lr.float()).dtype == torch.float32


@pytest.mark.parametrize("name", ["adain", "back-projection"])
def test_a_second_time_changes_nothing(name):
    sr, lr = pair(3)
    once = FIXES[name](sr, lr)
    same(FIXES[name](once, lr), once)
    assert (once - sr).abs().max() > 0.05


@pytest.mark.parametrize("name", ["adain", "wavelet"])
def test_the_lr_image_may_come_enlarged(name):
    sr, lr = pair(3)
    same(FIXES[name](sr, resize(lr, 4)), FIXES[name](sr, lr))
    other = images(3, seed=5)
    fixed = FIXES[name](sr, other)  # the target decides the colour, sr the texture
    assert (fixed.mean((2, 3)) - other.mean((2, 3))).abs().max() < 0.01


@pytest.mark.parametrize("name", FIXES)
def test_a_photo_with_a_cast_gets_its_colours_back(name):
    hr = photo("astronaut")[..., :96, 100:228].double()
    lr = resize(hr, 1 / 4)
    tinted = hr * torch.tensor([1.06, 1.0, 0.93]).view(1, 3, 1, 1) + 0.02
    fix = (lambda sr, lr: back_projection(sr, lr, Bicubic(4))) if name == "back-projection" else FIXES[name]
    fixed = fix(tinted, lr)
    assert color_shift(fixed, hr).item() < color_shift(tinted, hr).item() / 30
    assert color_shift(fixed, hr, "lab").item() < color_shift(tinted, hr, "lab").item() / 10
    assert psnr(fixed, hr).item() > psnr(tinted, hr).item() + 8


# ------------------------------------------------------------------------------------------------------------------- AdaIN


def adain_with_the_variance(sr, lr):
    up = resize(lr, 4)
    moments = [(v.mean((2, 3), keepdim=True), v.var((2, 3), keepdim=True)) for v in (sr, up)]
    return (sr - moments[0][0]) / moments[0][1] * moments[1][1] + moments[1][0]


def adain_over_the_batch(sr, lr):
    up = resize(lr, 4)
    return (sr - sr.mean((0, 2, 3), keepdim=True)) / sr.std((0, 2, 3), keepdim=True) * up.std(
        (0, 2, 3), keepdim=True
    ) + up.mean((0, 2, 3), keepdim=True)


def adain_swapped(sr, lr):
    return adain_fix(resize(lr, 4), sr)


def published_adain(sr, lr):
    """With 1e-5 added to the variances."""
    up = resize(lr, 4)
    stats = [(v.mean((2, 3), keepdim=True), (v.var((2, 3), keepdim=True) + 1e-5).sqrt()) for v in (sr, up)]
    return (sr - stats[0][0]) / stats[0][1] * stats[1][1] + stats[1][0]


def check_adain(fix, channels=3):
    """numpy's means and standard deviations; the texture keeps its shape; idempotent."""
    sr, lr = pair(channels)
    fixed, up = fix(sr, lr), resize(lr, 4)
    np.testing.assert_allclose(fixed.numpy().mean((2, 3)), up.numpy().mean((2, 3)), atol=1e-12)
    np.testing.assert_allclose(fixed.numpy().std((2, 3)), up.numpy().std((2, 3)), atol=1e-12)
    for b in range(2):
        for c in range(channels):
            assert np.corrcoef(sr[b, c].flatten(), fixed[b, c].flatten())[0, 1] == pytest.approx(1, abs=1e-12)
    same(fix(fixed, lr), fixed)


@EVERY_C
def test_adain_gives_the_targets_mean_and_standard_deviation(channels):
    check_adain(adain_fix, channels)
    sr, lr = pair(channels)
    gain = 0.5 + images(channels, 1, 1, seed=3)
    same(adain_fix(gain * sr + cast(channels), lr), adain_fix(sr, lr))  # any gain and offset are forgotten


@pytest.mark.parametrize(
    "mutant", [adain_with_the_variance, adain_over_the_batch, adain_swapped, published_adain], ids=lambda m: m.__name__
)
def test_wrong_statistics_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_adain(mutant)


@pytest.mark.parametrize("dtype", [torch.float32, double])
def test_adain_does_not_blow_up_the_rounding_of_a_flat_channel(dtype):
    sr, lr = (v.to(dtype) for v in pair(3))
    sr[:, 1] = 0.1
    fixed = adain_fix(sr, lr)
    same(fixed[:, 1], resize(lr, 4).mean((2, 3))[:, 1, None, None].expand(2, 24, 36), atol=1e-6)
    sr[:, 1] += 2e-7 * images(1)[:, 0].to(dtype)  # contrast that no 8-bit image has
    fixed = adain_fix(sr, lr)
    same(fixed[:, 1], resize(lr, 4).mean((2, 3))[:, 1, None, None].expand(2, 24, 36), atol=2e-6)


@pytest.mark.parametrize("name", FIXES)
def test_fixes_keep_the_dtype_of_the_large_image(name):
    sr, lr = pair(3)
    fixed = FIXES[name](sr.float(), lr)
    assert fixed.dtype == torch.float32 and FIXES[name](sr, lr.float()).dtype == double
    same(fixed, FIXES[name](sr, lr).float(), atol=1e-5)


def test_adain_takes_contrast_from_a_perfect_answer():
    """The enlarged LR image has less detail, so its standard deviation is a little smaller: the fix costs what it costs."""
    hr = photo("astronaut")[..., :200, :260].double()
    lr = resize(hr, 1 / 4)
    ratio = adain_fix(hr, lr).std((2, 3)) / hr.std((2, 3))
    assert ((ratio > 0.9) & (ratio < 0.995)).all()
    assert psnr(wavelet_fix(hr, lr), hr) > psnr(adain_fix(hr, lr), hr) + 10
    same(back_projection(hr, lr, Bicubic(4)), hr)


# ----------------------------------------------------------------------------------------------------------------- wavelet


def referee_low(image, levels):
    """scipy's correlation with the dilated kernels written out; "mirror" is torch's "reflect"."""
    for level in range(levels):
        kernel = np.zeros(2 * 2**level + 1)
        kernel[[0, 2**level, -1]] = 0.25, 0.5, 0.25
        image = ndimage.correlate1d(ndimage.correlate1d(image, kernel, axis=0, mode="mirror"), kernel, 1, mode="mirror")
    return image


@EVERY_C
@pytest.mark.parametrize(("height", "width", "levels"), [(64, 70, 5), (24, 36, 3), (9, 6, 2), (2, 3, 1)])
def test_low_frequencies_are_the_a_trous_transforms(channels, height, width, levels):
    image = images(channels, height, width)
    low = low_frequencies(image)
    assert fitting_levels(height, width) == levels
    for b in range(2):
        for c in range(channels):
            np.testing.assert_allclose(low[b, c].numpy(), referee_low(image[b, c].numpy(), levels), atol=1e-12)


@pytest.mark.parametrize("frequency", [0.02, 0.1, 0.25, 0.5])
def test_each_pass_keeps_what_its_formula_says(frequency):
    """A mirrored cosine through the border's pixel centres is periodic, so the formula holds everywhere."""
    size = 101
    wave = (2 * math.pi * frequency * torch.arange(size, dtype=double)).cos().view(1, 1, 1, size).expand(1, 1, 80, size)
    for levels in (1, 2, 4):
        kept = math.prod(math.cos(math.pi * frequency * 2**level) ** 2 for level in range(levels))
        same(low_frequencies(wave, levels), kept * wave)


def wavelet_swapped(sr, lr):
    up = resize(lr, 4)
    return up + low_frequencies(sr - up)


def wavelet_adding_only(sr, lr):
    return sr + low_frequencies(resize(lr, 4))


def wavelet_by_a_box(sr, lr):
    return sr - sr.mean((2, 3), keepdim=True) + resize(lr, 4).mean((2, 3), keepdim=True)


def check_wavelet(fix):
    """The finest detail (a checkerboard of one pixel) stays whole, constants go over whole."""
    checker = torch.ones(1, 3, 64, 72, dtype=double)
    checker[..., ::2] *= -1
    checker[..., ::2, :] *= -1
    grey = torch.full((1, 3, 16, 18), 0.4, dtype=double) + cast(3)[:1]
    same(fix(0.7 + 0.1 * checker, grey), 0.1 * checker + grey[..., :1, :1], atol=1e-12)
    slow = (math.pi * torch.arange(72, dtype=double) / 71).cos() / 10  # a tint that changes slowly is exchanged as well
    assert (fix(grey.mean() + slow + 0 * checker, grey) - grey[..., :1, :1]).abs().max() < 0.03


def test_the_wavelet_fix_keeps_the_detail_and_takes_the_colour():
    check_wavelet(wavelet_fix)
    sr, lr = pair(3, 64, 72)
    high = wavelet_fix(sr, lr) - low_frequencies(resize(lr, 4))
    same(high, sr - low_frequencies(sr))
    same(wavelet_fix(sr, lr, 2), sr - low_frequencies(sr, 2) + low_frequencies(resize(lr, 4), 2))


@pytest.mark.parametrize("mutant", [wavelet_swapped, wavelet_adding_only, wavelet_by_a_box], ids=lambda m: m.__name__)
def test_wrong_wavelet_fixes_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_wavelet(mutant)


def test_the_wavelet_fix_is_no_projection():
    """Its filter's response lies between 0 and 1, so a second time takes more of the LR image; AdaIN's does not."""
    sr, lr = pair(3, 64, 72)
    once = wavelet_fix(sr, lr)
    twice = wavelet_fix(once, lr)
    assert (twice - once).abs().max() > 1e-3
    same(twice - once, low_frequencies(resize(lr, 4) - once))


def test_five_levels_reach_31_pixels_and_small_images_get_fewer():
    spot = torch.zeros(1, 1, 101, 101, dtype=double)
    spot[..., 50, 50] = 1
    seen = (low_frequencies(spot)[0, 0, 50] > 0).nonzero().flatten()
    assert (seen.min().item(), seen.max().item()) == (50 - 31, 50 + 31)
    assert [fitting_levels(n, n) for n in (2, 5, 6, 13, 14, 29, 30, 61, 62, 500)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert fitting_levels(500, 8) == 2 and fitting_levels(500, 500, 3) == 3


# --------------------------------------------------------------------------------------------------------- back-projection


@EVERY_C
@pytest.mark.parametrize("name", ["bicubic", "pool", "blur and pool"])
def test_back_projection_explains_the_lr_image(channels, name):
    operator = {
        "bicubic": Bicubic(4),
        "pool": AveragePool(4),
        "blur and pool": AveragePool(4) @ Blur(torch.tensor([[0.1, 0.2, 0.1], [0.0, 0.4, 0.2]], dtype=double)),
    }[name]
    sr, lr = pair(channels)
    fixed = back_projection(sr, lr, operator)
    tolerance = 1e-9 if name == "blur and pool" else 1e-12  # that one is solved by conjugate gradients
    same(operator(fixed), lr, tolerance)
    same(back_projection(fixed, lr, operator), fixed, tolerance)
    change = fixed - sr  # nothing is changed that the operator cannot see: the change is in the range of its adjoint
    same(operator.pinv(operator(change)), change, 10 * tolerance)
    assert (change.square().sum() < (operator.pinv(lr) - sr).square().sum()).item()


def check_projection(fix):
    sr, lr = pair(3)
    fixed = fix(sr, lr, AveragePool(4))
    same(AveragePool(4)(fixed), lr)
    same(fix(fixed, lr, AveragePool(4)), fixed)


def test_the_projection_check_passes_ours():
    check_projection(back_projection)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda sr, lr, operator: sr + operator.adjoint(lr - operator(sr)),
        lambda sr, lr, operator: sr - operator.pinv(lr - operator(sr)),
        lambda sr, lr, operator: sr + operator.pinv(lr),
        lambda sr, lr, operator: sr + resize(lr - operator(sr), 4),
    ],
    ids=["adjoint for pseudo-inverse", "sign", "residual forgotten", "bicubic for pseudo-inverse"],
)
def test_wrong_projections_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_projection(mutant)


def test_a_measurement_out_of_reach_is_met_as_nearly_as_can_be():
    sr, lr = images(3), images(1, seed=1)
    same(Grayscale()(back_projection(sr, lr, Grayscale())), lr)
    hr = photo("chelsea")[..., :64, :96].double()
    lr = (255 * resize(hr, 1 / 4)).round() / 255
    assert lr_consistency(back_projection(resize(lr, 4), lr, Bicubic(4)), lr, 4).item() > 200


# ---------------------------------------------------------------------------------------------------------------------- P2

PUBLISHED = {1: 0.0001, 50: 0.029, 250: 0.476, 500: 0.921}  # gamma = k = 1, 1000 betas from 1e-4 to 0.02, index from 1


def snr_table():
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return kept / (1 - kept)


def check_p2(weight):
    """weight(index from 1, gamma, k) on the eps loss, against the table and its published values."""
    for index, value in PUBLISHED.items():
        assert weight(index, 1.0, 1.0) == pytest.approx(value, abs=6e-5 if index == 1 else 6e-4)
        assert weight(index, 1.0, 1.0) == pytest.approx(1 / (1 + snr_table()[index - 1]), rel=1e-9)
        assert weight(index, 0.5, 2.0) == pytest.approx((2 + snr_table()[index - 1]) ** -0.5, rel=1e-9)


def ours(index, gamma, k):
    return p2_weight(LINEAR.log_snr(index / 1000), gamma, k).item()


def test_p2_has_the_papers_weights():
    check_p2(ours)
    t = torch.rand(5, dtype=double, generator=torch.Generator().manual_seed(0))
    for schedule in (vp_linear(), vp_cosine(), LINEAR):
        same(p2_weight(schedule.log_snr(t)), schedule.sigma(t) ** 2)


P2_MUTANTS = {
    "the wrong index": lambda index, gamma, k: ours(index + 1, gamma, k),
    "time counted backwards": lambda index, gamma, k: ours(1001 - index, gamma, k),
    "alpha-bar for SNR": lambda index, gamma, k: (k + LINEAR.alpha(index / 1000).item() ** 2) ** -gamma,
    "sigma over alpha for SNR": lambda index, gamma, k: (k + math.exp(-LINEAR.log_snr(index / 1000).item())) ** -gamma,
    "multiplied instead of divided": lambda index, gamma, k: 1 / ours(index, gamma, k),
    "half the log": lambda index, gamma, k: (k + math.exp(LINEAR.log_snr(index / 1000).item() / 2)) ** -gamma,
}


@pytest.mark.parametrize("mutant", P2_MUTANTS)
def test_wrong_p2_weights_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_p2(P2_MUTANTS[mutant])


def p2_on_z_0_as_if_it_were_eps(log_snr, gamma, k, kind):
    return p2_weight(log_snr, gamma, k, "eps")


def p2_divided_by_the_snr(log_snr, gamma, k, kind):
    factor = {"eps": 0.0, "v": 1.0, "z_0": -1.0}[kind] * log_snr
    return p2_weight(log_snr, gamma, k) * factor.exp()


def check_conversions(weight, schedule):
    """The same guess of z_0, scored as eps, as v and as z_0, must cost the same."""
    z_0, guess, t = images(2), images(2, seed=1), torch.tensor([0.2, 0.7], dtype=double)
    noise = standard_normal(0)(z_0)
    z = forward_step(z_0, schedule, 0.0, t, lambda like: noise)
    network = NetworkDenoiser(lambda u, level, cond: u, "v", schedule)
    size = (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt().view(2, 1, 1, 1)
    errors = {kind: from_z_0(guess, kind, z, t, schedule) for kind in ("eps", "z_0", "v")}
    errors["v"] = errors["v"] / size - network.target(z_0, noise, t)
    errors["eps"], errors["z_0"] = errors["eps"] - noise, guess - z_0
    costs = [
        weight(schedule.log_snr(t), 0.5, 1.5, kind) * error.square().mean((1, 2, 3)) for kind, error in errors.items()
    ]
    torch.testing.assert_close(costs[0], costs[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(costs[0], costs[2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [vp_linear(), vp_cosine(), edm(5.0)], ids=["vp", "cosine", "edm"])
def test_p2_in_every_kind_is_the_same_loss(schedule):
    check_conversions(p2_weight, schedule)


@pytest.mark.parametrize("mutant", [p2_on_z_0_as_if_it_were_eps, p2_divided_by_the_snr], ids=lambda m: m.__name__)
def test_p2_on_the_wrong_error_is_seen(mutant):
    with pytest.raises(AssertionError):
        check_conversions(mutant, vp_linear())


def test_the_elbos_p2_weight_is_the_same_one():
    log_snr = torch.linspace(-8, 8, 9, dtype=double)
    schedule = vp_cosine()
    weight = likelihood.p2_weight(schedule, 0.5, 2.0)(log_snr)
    same(weight / likelihood.simple_weight(schedule)(log_snr), p2_weight(log_snr, 0.5, 2.0))


def naive_p2(log_snr, gamma, k, kind):
    """The formula as the docstring has it."""
    factor = 1 / (k + log_snr.exp()) ** gamma
    return factor * {"eps": 1, "v": log_snr.sigmoid(), "z_0": log_snr.exp()}[kind]


@pytest.mark.parametrize("kind", ["eps", "v", "z_0"])
@pytest.mark.parametrize("gamma, k", [(1.0, 1.0), (0.5, 2.0), (1.5, 0.3), (0.0, 1.0)])
def test_p2_survives_log_snrs_whose_exponential_does_not(gamma, k, kind):
    """exp(88.8) is infinite in float32, and the weight of z_0 was infinity times 0. float64 has room up to 709."""
    log_snr = torch.tensor([-300.0, -89, -20, 0, 20, 87, 89, 100, 170])
    found = p2_weight(log_snr, gamma, k, kind)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, naive_p2(log_snr.double(), gamma, k, kind).float(), rtol=5e-5, atol=1e-37)
    assert kind != "z_0" or gamma != 1 or naive_p2(log_snr, gamma, k, kind).isnan().any()
    ends = p2_weight(torch.tensor([-math.inf, math.inf]), gamma, k, kind)
    clean = {"eps": float(gamma == 0), "v": float(gamma == 0)}.get(
        kind, 1.0 if gamma == 1 else math.inf if gamma < 1 else 0.0
    )
    noisy = k**-gamma if kind == "eps" else 0.0
    torch.testing.assert_close(ends, torch.tensor([noisy, clean]))


# ---------------------------------------------------------------------------------------------------------- measuring it


def test_cielab_is_scikit_images():
    hr = torch.cat([images(3, 12, 20), torch.zeros(2, 3, 1, 20), torch.ones(2, 3, 1, 20), 0.03 * images(3, 2, 20)], 2)
    for i in range(2):
        expected = rgb2lab(hr[i].permute(1, 2, 0).numpy())
        np.testing.assert_allclose(rgb_to_lab(hr)[i].permute(1, 2, 0).numpy(), expected, atol=0.02)
    grey = torch.linspace(-0.1, 1.2, 30, dtype=double).view(1, 1, 1, 30).expand(1, 3, 1, 30)
    lab = rgb_to_lab(grey)
    same(lab[:, 1:], torch.zeros(1, 2, 1, 30, dtype=double), atol=1e-10)
    assert (lab[0, 0, 0].diff() > 0).all()  # also outside [0, 1]
    assert rgb_to_lab(torch.ones(1, 3, 1, 1))[0, 0].item() == pytest.approx(100, abs=1e-10)
    red = rgb_to_lab(torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)).flatten().tolist()
    assert red == pytest.approx([53.24, 80.09, 67.20], abs=0.01)


@EVERY_C
def test_channel_shifts_have_a_sign_and_a_channel(channels):
    hr, offset = images(channels), cast(channels)
    same(channel_shifts(hr + offset, hr), offset[..., 0, 0])
    same(color_shift(hr + offset, hr), offset[..., 0, 0].abs().amax(1))


def test_a_shift_in_cielab_is_the_length_of_its_parts():
    hr = images(3)
    sr = hr + cast(3)
    parts = channel_shifts(sr, hr, "lab")
    expected = [
        (rgb2lab(sr[i].permute(1, 2, 0).numpy()) - rgb2lab(hr[i].permute(1, 2, 0).numpy())).mean((0, 1))
        for i in range(2)
    ]
    np.testing.assert_allclose(parts.numpy(), expected, atol=0.02)
    same(color_shift(sr, hr, "lab"), parts.square().sum(1).sqrt())
    grey = torch.full((1, 3, 8, 8), 0.5, dtype=double)
    warm = grey + torch.tensor([0.02, 0.0, -0.02]).view(1, 3, 1, 1)
    lightness, red_green, yellow_blue = channel_shifts(warm, grey, "lab")[0].tolist()
    assert abs(lightness) < 0.5 < red_green < yellow_blue
    noisy = 0.5 + 0.03 * standard_normal(0)(torch.empty(1, 3, 128, 128, dtype=double))
    assert color_shift(noisy, torch.full_like(noisy, 0.5), "lab").item() < 0.1


def test_the_record_of_causes_and_cures_is_complete():
    """Chapter 16 draws it; `benchmarks/color.py --json` writes it."""
    record = json.loads(resources.files("tutorial_lib.data").joinpath("color.json").read_text())
    seeds, cells = record["seeds"], record["cells"]
    assert seeds >= 4 and len({name.split("/")[0] for name in cells}) == 6
    for training in {name.split("/")[0] for name in cells}:
        assert all(f"{training}/{steps}/as sampled" in cells for steps in record["checkpoints"])
    for steps in record["looked_at"]:
        for way in ("not clipped", "4 steps", "averaged weights", "adain_fix", "wavelet_fix", "back_projection"):
            assert f"base/{steps}/{way}" in cells
    for cell in [*cells.values(), *({m: seeds * [v] for m, v in row.items()} for row in record["originals"].values())]:
        assert {"shift", "lab", "tint", "PSNR", "W1", "contrast"} <= cell.keys()
        assert all(len(values) == seeds and np.isfinite(values).all() for values in cell.values())
        red, green, blue = (np.array(cell[c]) for c in ("red", "green", "blue"))
        np.testing.assert_allclose(cell["tint"], (red**2 + green**2 + blue**2) ** 0.5, rtol=0.01, atol=0.01)
        assert (np.array(cell["shift"]) >= 0.99 * np.abs([red, green, blue]).max(0)).all()  # Jensen


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adain_fix(images(3), images(3, 5, 9)), "sr must be a whole number of times as large as lr"),
        (lambda: adain_fix(images(3), images(1, 6, 9)), "with as many channels"),
        (lambda: adain_fix(images(3), images(3, 6, 18)), "sr must be a whole number of times as large as lr"),
        (lambda: adain_fix(images(3), images(3, 48, 72)), "sr must be a whole number of times as large as lr"),
        (lambda: wavelet_fix(images(3)[0], images(3, 6, 9)), r"sr must have shape \(B, C, H, W\)"),
        (lambda: wavelet_fix(images(3), images(3, 6, 9), 0), "levels must be a whole number of at least 1, but 0 came"),
        (lambda: low_frequencies(images(3, 1, 9)), "the image must be at least 2x2 pixels, but it is 1x9"),
        (lambda: back_projection(images(3), images(3, 5, 9), AveragePool(4)), r"operator\(sr\) and lr must have"),
        (lambda: p2_weight(torch.zeros(1), gamma=-1.0), "gamma must not be negative, but -1.0 came"),
        (lambda: p2_weight(torch.zeros(1), k=0.0), "k must be a positive number, but 0.0 came"),
        (
            lambda: p2_weight(torch.zeros(1), kind="epsilon"),
            "kind must be one of 'eps', 'v', 'z_0', but 'epsilon' came",
        ),
        (lambda: color_shift(images(3), images(3), "hsv"), "space must be one of 'rgb', 'lab', but 'hsv' came"),
        (lambda: color_shift(images(2), images(2), "lab"), "images must have 3 channels"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
