"""Metrics against scikit-image, scipy and closed forms, and against the mistakes that public code makes."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from tutorial_lib import metrics
from tutorial_lib.images import photo, resize, rgb_to_y
from tutorial_lib.metrics import (
    color_shift,
    flat_noise,
    lpips_distance,
    lr_consistency,
    naturalness,
    psnr,
    sharpness,
    sliced_wasserstein,
    ssim,
)


def random_images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_pair(channels, height=40, width=33, batch=2):
    hr = random_images(batch, channels, height, width)
    return (hr + 0.1 * (random_images(batch, channels, height, width, seed=1) - 0.5)).clamp(0, 1), hr


@pytest.fixture(scope="module")
def cat():
    return photo("chelsea")[..., 40:232, 100:292]


# PSNR


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("offset", [0.1, -0.02, 1 / 255])
def test_psnr_of_a_constant_offset_in_rgb(channels, offset):
    hr = random_images(2, channels, 12, 17)
    expected = torch.full((2,), -20 * math.log10(abs(offset)), dtype=torch.float64)
    torch.testing.assert_close(psnr(hr.double() + offset, hr, channel="rgb"), expected, rtol=0, atol=1e-9)


def test_psnr_of_a_constant_offset_in_y_has_the_219_of_studio_range():
    hr = random_images(2, 3, 12, 17).double()
    expected = torch.full((2,), -20 * math.log10(0.1 * 219 / 255), dtype=torch.float64)
    torch.testing.assert_close(psnr(hr + 0.1, hr), expected, rtol=0, atol=1e-9)


def test_one_channel_counts_as_luma_already():
    grey = random_images(1, 1, 12, 17)
    assert psnr(grey.double() + 0.1, grey).item() == pytest.approx(20, abs=1e-9)


def test_psnr_matches_its_definition_written_in_numpy():
    sr, hr = random_pair(3)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    for crop in (0, 1, 4):
        a, b = (v.double().numpy()[:, :, crop : 40 - crop, crop : 33 - crop] for v in (sr, hr))
        expected = 10 * np.log10(1 / (((a - b) * weights[:, None, None]).sum(1) ** 2).mean((1, 2)))
        np.testing.assert_allclose(psnr(sr, hr, crop=crop), expected, atol=1e-9)
        np.testing.assert_allclose(
            psnr(sr, hr, "rgb", crop), 10 * np.log10(1 / ((a - b) ** 2).mean((1, 2, 3))), atol=1e-9
        )


def test_crop_ignores_the_border_and_only_the_border():
    hr = random_images(1, 3, 20, 24)
    border = hr.clone()
    border[..., :4, :] = border[..., -4:, :] = border[..., :4] = border[..., -4:] = 0
    assert psnr(border, hr, crop=4).item() == math.inf
    assert psnr(border, hr, crop=3).item() < 60


# SSIM


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_ssim_equals_scikit_image_in_rgb(channels):
    sr, hr = random_pair(channels)
    for crop in (0, 3):
        ours = ssim(sr, hr, "rgb", crop)
        for i in range(2):
            a, b = (v[i, :, crop : 40 - crop, crop : 33 - crop].double().numpy() for v in (sr, hr))
            assert ours[i].item() == pytest.approx(referee_ssim(a, b), abs=1e-9)


def test_ssim_equals_scikit_image_in_y(cat):
    sr = resize(resize(cat, 1 / 4), 4)
    a, b = (rgb_to_y(v.double())[0].numpy() for v in (sr, cat))
    assert ssim(sr, cat).item() == pytest.approx(referee_ssim(a, b), abs=1e-9)
    assert ssim(cat, cat).item() == pytest.approx(1, abs=1e-12)


def referee_ssim(a, b):
    """scikit-image cuts its mean by 5 pixels at every side when the window is 11 wide, which is the valid region."""
    return structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=0
    )


@pytest.mark.parametrize(
    "options",
    [
        {"gaussian_weights": False, "win_size": 7, "use_sample_covariance": False, "data_range": 1},
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255},
        {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": True, "data_range": 1},
    ],
    ids=["box window", "range 255 on [0, 1] images", "unbiased covariance"],
)
def test_common_ssim_mistakes_would_be_seen(cat, options):
    sr = resize(resize(cat, 1 / 4), 4)
    a, b = (rgb_to_y(v.double())[0, 0].numpy() for v in (sr, cat))
    assert abs(structural_similarity(a, b, **options) - ssim(sr, cat).item()) > 1e-4


# LR consistency, colour


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_lr_consistency_of_a_shifted_answer(channels):
    sr = random_images(2, channels, 24, 36).double()
    lr = resize(sr, 1 / 3)
    torch.testing.assert_close(lr_consistency(sr + 0.01, lr, 3), torch.full((2,), 40.0).double(), rtol=0, atol=1e-6)
    assert (lr_consistency(sr, lr, 3) > 200).all()
    assert (lr_consistency(sr + 1, lr, 3).abs() < 1e-6).all()  # values beyond [0, 1] are errors too, not clipped away


def test_lr_consistency_of_an_8_bit_measurement_is_the_rounding_limit(cat):
    lr = resize(cat.double(), 1 / 4)
    rounded = (lr * 255).round() / 255
    assert lr_consistency(cat, rounded, 4).item() == pytest.approx(10 * math.log10(12 * 255**2), abs=0.2)


def test_lr_consistency_uses_the_antialiased_kernel(cat):
    plain = F.interpolate(cat, scale_factor=1 / 4, mode="bicubic", align_corners=False)
    assert lr_consistency(cat, plain, 4).item() < 40


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_color_shift_is_the_largest_channel_mean_error(channels):
    hr = random_images(2, channels, 16, 12).double()
    offsets = torch.zeros(2, channels, dtype=torch.float64)
    offsets[0, -1], offsets[1, 0] = -0.03, 0.02  # a texture of mean 0 on top must not count
    texture = torch.ones(16, 12, dtype=torch.float64)
    texture[::2] = -1
    sr = hr + offsets[..., None, None] + 0.1 * texture
    torch.testing.assert_close(color_shift(sr, hr), torch.tensor([0.03, 0.02], dtype=torch.float64), rtol=0, atol=1e-12)


# Sharpness


def test_sharpness_of_a_ramp_is_its_slope():
    ramp = (0.01 * torch.arange(20.0).double()).view(1, 1, 1, 20) + (0.02 * torch.arange(16.0).double()).view(
        1, 1, 16, 1
    )
    for channels in (1, 2, 5):
        slope = math.hypot(0.01, 0.02)
        assert sharpness(ramp.expand(1, channels, 16, 20)).item() == pytest.approx(slope, abs=1e-12)
    assert sharpness(ramp.expand(1, 3, 16, 20)).item() == pytest.approx(slope * 219 / 255, abs=1e-12)


def test_sharpness_counts_only_the_steepest_share():
    step = torch.zeros(1, 1, 20, 106, dtype=torch.float64)
    step[..., 53:] = 1  # 99 columns of differences remain; of them the steepest is the step of the smoothed edge
    taps = torch.exp(-(torch.arange(-3.0, 4).double() ** 2) / (2 * 0.7**2))
    assert sharpness(step, share=0.01).item() == pytest.approx((taps[3] / taps.sum()).item(), abs=1e-12)
    assert sharpness(step, share=1.0).item() == pytest.approx(1 / 99, abs=1e-12)


def test_blur_lowers_sharpness_and_noise_cannot_buy_it_back(cat):
    blurred = resize(resize(cat, 1 / 4), 4)
    noise = torch.randn(cat.shape, generator=torch.Generator().manual_seed(0)) * (cat - blurred).std()
    missing = (sharpness(cat) - sharpness(blurred)).item()
    assert missing > 0.2 * sharpness(cat).item()
    assert abs((sharpness(blurred + noise) - sharpness(blurred)).item()) < 0.35 * missing


# Sliced Wasserstein


def referee_patches(image, patch, stride):
    """Patches (n, C * patch * patch) by plain slicing."""
    _, height, width = image.shape
    rows, columns = range(0, height - patch + 1, stride), range(0, width - patch + 1, stride)
    return np.stack([image[:, r : r + patch, c : c + patch].ravel() for r in rows for c in columns])


def referee_sliced(firsts, seconds, channels, patch, stride, projections, seed):
    """scipy's one-dimensional distance, averaged over the directions that the seed gives."""
    directions = torch.randn(projections, channels, patch, patch, generator=torch.Generator().manual_seed(seed))
    directions = directions.reshape(projections, -1).double().numpy()
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    a, b = (
        np.concatenate([referee_patches(i.double().numpy(), patch, stride) for i in side]) for side in (firsts, seconds)
    )
    return np.mean([scipy.stats.wasserstein_distance(a @ d, b @ d) for d in directions])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sliced_wasserstein_equals_scipy_image_by_image(channels):
    sr, hr = random_pair(channels)
    for options in (
        {"patch": 7, "stride": 3, "projections": 40, "seed": 0},
        {"patch": 4, "stride": 1, "projections": 5, "seed": 3},
    ):
        ours = sliced_wasserstein(sr, hr, **options)
        expected = [referee_sliced([sr[i]], [hr[i]], channels, **options) for i in range(2)]
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_sliced_wasserstein_equals_scipy_between_sets_of_different_sizes():
    first = [random_images(2, 3, 20, 31), random_images(1, 3, 16, 12, seed=4) * 0.7]
    second = [random_images(1, 3, 25, 14, seed=5) ** 2]
    options = {"patch": 7, "stride": 3, "projections": 33, "seed": 1}
    expected = referee_sliced([*first[0], first[1][0]], [second[0][0]], 3, **options)
    ours = sliced_wasserstein(first, second, **options)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(expected, abs=2e-6)


def test_sliced_wasserstein_of_a_constant_offset():
    hr = random_images(1, 1, 30, 30)
    directions = torch.randn(128, 49, generator=torch.Generator().manual_seed(0))
    expected = 0.1 * (directions.sum(1) / directions.norm(dim=1)).abs().mean().item()
    assert sliced_wasserstein(hr + 0.1, hr).item() == pytest.approx(expected, abs=2e-6)


def test_sliced_wasserstein_forgets_position_and_is_deterministic(cat):
    assert sliced_wasserstein(cat, cat).item() == 0
    mirrored = sliced_wasserstein([cat], [cat.flip(3)]).item()
    blurred = sliced_wasserstein(resize(resize(cat, 1 / 4), 4), cat)
    assert mirrored < blurred.item() / 3
    assert torch.equal(blurred, sliced_wasserstein(resize(resize(cat, 1 / 4), 4), cat))
    assert not torch.equal(blurred, sliced_wasserstein(resize(resize(cat, 1 / 4), 4), cat, seed=1))


# Grain


def half_flat(grain, seed, texture=0.2):
    """An image whose left half is flat but for grain, its right half strongly textured."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.full((160, 160), texture)
    strength[:, :80] = grain
    return 0.5 + strength * torch.randn(1, 1, 160, 160, generator=generator)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_flat_noise_is_the_ratio_of_grain(ratio):
    # A window of 256 pixels knows its variance to sqrt(2/256) = 9 %; taking the flattest third of the flat half
    # therefore costs hr about 5 % of its deviation, and the Monte-Carlo error of the ratio is 1.5 %.
    value = flat_noise(half_flat(0.02 * ratio, 1), half_flat(0.02, 2)).item()
    assert ratio * 1.005 < value < ratio * 1.1


def test_flat_noise_looks_only_at_flat_places_and_survives_a_perfectly_flat_original():
    hr = half_flat(0.02, 2)
    sr = hr.clone()
    sr[..., 96:] = torch.rand(160, 64, generator=torch.Generator().manual_seed(5))
    assert flat_noise(sr, hr).item() == pytest.approx(1, abs=1e-12)
    constant = torch.full((1, 3, 32, 40), 0.5)
    assert flat_noise(constant, constant).item() == pytest.approx(1, abs=1e-12)
    shaded = constant + torch.linspace(0, 0.3, 40)
    assert flat_noise(shaded, shaded).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_flat_noise_takes_any_number_of_channels(channels):
    hr = half_flat(0.02, 2).expand(1, channels, 160, 160)
    assert flat_noise(0.5 + 2 * (hr - 0.5), hr).item() == pytest.approx(2, rel=0.01)


# LPIPS


def referee_lpips(features_a, features_b, weights):
    """The definition in loops."""
    total = 0.0
    for a, b, w in zip(features_a, features_b, weights, strict=True):
        _, height, width = a.shape
        layer = 0.0
        for i in range(height):
            for j in range(width):
                u, v = a[:, i, j] / np.linalg.norm(a[:, i, j]), b[:, i, j] / np.linalg.norm(b[:, i, j])
                layer += (w * (u - v) ** 2).sum()
        total += layer / (height * width)
    return total


def test_lpips_distance_is_the_definition():
    shapes = [(2, 4, 5, 6), (2, 3, 2, 3)]
    a = [random_images(*s, seed=i, dtype=torch.float64) - 0.3 for i, s in enumerate(shapes)]
    b = [random_images(*s, seed=9 + i, dtype=torch.float64) - 0.3 for i, s in enumerate(shapes)]
    weights = [random_images(4, seed=20).double(), random_images(3, seed=21).double()]
    ours = lpips_distance(a, b, weights)
    for i in range(2):
        expected = referee_lpips([f[i].numpy() for f in a], [f[i].numpy() for f in b], [w.numpy() for w in weights])
        assert ours[i].item() == pytest.approx(expected, rel=1e-8)
    assert (lpips_distance(a, [3 * f for f in a], weights) < 1e-15).all()  # length over channels does not count
    with pytest.raises(ValueError, match="weights must have shape"):
        lpips_distance(a, b, weights[::-1])


def test_lpips_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    metrics._lpips_network.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install lpips"):
        metrics.lpips(random_images(1, 3, 64, 64), random_images(1, 3, 64, 64))


def test_lpips_hands_the_package_images_in_minus_one_to_one(monkeypatch):
    class Network(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().mean((1, 2, 3)).view(-1, 1, 1, 1) + 0 * a.min().clamp(-1, 1)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=lambda net, verbose: Network()))
    metrics._lpips_network.cache_clear()
    try:
        white, black = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
        torch.testing.assert_close(metrics.lpips(white, black), torch.full((2,), 2.0).double())
    finally:
        metrics._lpips_network.cache_clear()


# Naturalness


def test_naturalness_prefers_photos_to_blur_and_noise_and_cannot_see_invention():
    hr = photo("astronaut")[..., :300, :289]
    blurred = resize(resize(hr, 1 / 4), 4)[..., :300, :289]
    noisy = (hr + 0.1 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    natural = naturalness(hr).item()
    assert naturalness(blurred).item() > 1.5 * natural
    assert naturalness(noisy).item() > 1.5 * natural
    other = photo("gravel")[..., :288, :288]  # another photo altogether still scores as natural
    assert naturalness(other).item() < naturalness(blurred).item() / 1.5


# Every score


SCORES = {
    "psnr": psnr,
    "ssim": ssim,
    "color_shift": color_shift,
    "sharpness": lambda sr, hr: sharpness(sr),
    "sliced_wasserstein": sliced_wasserstein,
    "flat_noise": flat_noise,
    "lr_consistency": lambda sr, hr: lr_consistency(sr, resize(hr, 1 / 2), 2),
    "naturalness": lambda sr, hr: naturalness(sr),
}


@pytest.mark.parametrize("name", SCORES)
def test_one_value_per_image_whatever_its_batch_mates(name):
    size = 100 if name == "naturalness" else 40
    sr, hr = random_pair(3, size, size + 8, batch=3)
    together = SCORES[name](sr, hr)
    assert together.shape == (3,) and together.dtype == torch.float64
    alone = torch.cat([SCORES[name](sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-8)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9)), "sr and hr must have the same shape"),
        (lambda: psnr(torch.rand(1, 5, 8, 8), torch.rand(1, 5, 8, 8)), "use channel='rgb'"),
        (lambda: psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), "yuv"), "channel must be one of"),
        (lambda: psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), crop=4), "crop must be a whole number"),
        (lambda: psnr(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), crop=-1), "crop must be a whole number"),
        (lambda: psnr(torch.rand(3, 8, 8), torch.rand(3, 8, 8)), "sr must have shape"),
        (lambda: ssim(torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12), crop=1), "at least 11x11"),
        (lambda: lr_consistency(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 3, 2), 4), "4 times as large"),
        (lambda: sharpness(torch.rand(1, 1, 7, 9)), "at least 8x8"),
        (lambda: sliced_wasserstein(torch.rand(1, 3, 6, 9), torch.rand(1, 3, 9, 9)), "at least 7x7"),
        (lambda: sliced_wasserstein(torch.rand(1, 3, 9, 9), torch.rand(2, 3, 9, 9)), "as sets"),
        (lambda: sliced_wasserstein([], [torch.rand(2, 3, 9, 9)]), "at least one image"),
        (lambda: sliced_wasserstein(torch.rand(1, 3, 9, 9), torch.rand(1, 2, 9, 9)), "same channels"),
        (lambda: sliced_wasserstein(torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9), stride=0), "stride must be"),
        (lambda: flat_noise(torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9)), "at least 16x16"),
        (lambda: naturalness(torch.rand(1, 3, 95, 200)), "at least 96x96"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_tensor_against_a_list_is_refused():
    with pytest.raises(TypeError, match="one of each"):
        sliced_wasserstein([torch.rand(1, 3, 9, 9)], torch.rand(1, 3, 9, 9))
