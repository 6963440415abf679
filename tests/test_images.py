"""Resizing, luma, rounding, cropping and built-in photos against independent references. (Files: test_files.py.)"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tutorial_lib.images import PHOTOS, crop_to_multiple, photo, resize, rgb_to_y, to_uint8


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def matlab_rows(signal, factor):
    """MATLAB's imresize in one dimension, from its documentation, as loops over output samples and taps.

    Sample i (from 1) lies at u = i / factor + (1 - 1 / factor) / 2 of the input; taps beyond it are found by mirroring
    the signal with its border samples repeated (numpy's "symmetric").
    """
    width = 4 if factor >= 1 else 4 / factor
    shrink = min(1, factor)
    count = math.ceil(len(signal) * factor - 1e-9)
    padding = math.ceil(width) + 2
    padded = np.pad(signal, padding, mode="symmetric")
    out = np.zeros(count)
    for i in range(1, count + 1):
        u = i / factor + 0.5 * (1 - 1 / factor)
        first = math.floor(u - width / 2)
        weights, values = [], []
        for tap in range(first, first + math.ceil(width) + 2):
            x = abs(shrink * (u - tap))
            if x <= 1:
                weight = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x <= 2:
                weight = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            else:
                weight = 0.0
            weights.append(weight)
            values.append(padded[tap - 1 + padding])
        out[i - 1] = np.dot(weights, values) / np.sum(weights)
    return out


@pytest.mark.parametrize("factor", [1 / 2, 1 / 3, 1 / 4, 0.25, 2, 3, 4, 1.0, 0.37, 2.6])
@pytest.mark.parametrize("size", [(24, 36), (13, 31)])
def test_resize_is_matlabs_borders_included(factor, size):
    image = random_images(1, 2, *size)
    expected = np.apply_along_axis(matlab_rows, 2, image.double().numpy(), factor)
    expected = np.apply_along_axis(matlab_rows, 3, expected, factor)
    ours = resize(image, factor)
    assert ours.shape == (1, 2, math.ceil(size[0] * factor - 1e-9), math.ceil(size[1] * factor - 1e-9))
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_resize_agrees_with_torch_and_pillow_in_the_interior_only(channels, scale):
    image = random_images(2, channels, 24 * scale, 17 * scale)
    ours = resize(image, 1 / scale)
    torchs = F.interpolate(image, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    pillows = Image.fromarray(image[1, 0].numpy()).resize((17, 24), Image.Resampling.BICUBIC)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(ours[inside], torchs[inside], rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1, 0][inside], np.asarray(pillows)[inside], atol=1e-5)
    assert (ours - torchs).abs().max() > 1e-3  # at the border torch cuts the kernel off, MATLAB mirrors


def test_resize_up_agrees_with_torch_in_the_interior():
    image = random_images(1, 3, 15, 11)
    torchs = F.interpolate(image, scale_factor=4, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(resize(image, 4)[..., 8:-8, 8:-8], torchs[..., 8:-8, 8:-8], rtol=0, atol=1e-5)


def mean_error(other, scale=4):
    """RMS difference between `resize` and another way to shrink, on white noise."""
    image = random_images(1, 1, 96, 96)
    return (resize(image, 1 / scale) - other(image, 1 / scale))[..., 3:-3, 3:-3].square().mean().sqrt().item()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x, f: F.interpolate(x, scale_factor=f, mode="bicubic", align_corners=False),
        lambda x, f: F.interpolate(x, scale_factor=f, mode="bicubic", antialias=True, align_corners=True),
        lambda x, f: F.avg_pool2d(x, round(1 / f)),
        lambda x, f: resize(x.roll((1, 1), (2, 3)), f),
    ],
    ids=["no antialiasing", "aligned corners", "average pooling", "shifted by one pixel"],
)
def test_common_resize_mistakes_would_be_seen(mistake):
    assert mean_error(mistake) > 0.005
    assert mean_error(lambda x, f: F.interpolate(x, scale_factor=f, mode="bicubic", antialias=True)) < 1e-6


@pytest.mark.parametrize("factor", [1 / 3, 4, 0.7])
def test_resize_keeps_constants_and_treats_axes_channels_and_batch_alike(factor):
    constant = torch.full((1, 5, 12, 9), 0.3)
    torch.testing.assert_close(
        resize(constant, factor), torch.full_like(resize(constant, factor), 0.3), rtol=0, atol=1e-6
    )
    image = random_images(3, 2, 12, 30)  # 30 times each factor is whole, so that mirroring keeps the grid
    torch.testing.assert_close(
        resize(image.transpose(2, 3), factor).transpose(2, 3), resize(image, factor), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(resize(image.flip(3), factor).flip(3), resize(image, factor), rtol=0, atol=2e-6)
    torch.testing.assert_close(resize(image[1:2, 1:], factor), resize(image, factor)[1:2, 1:], rtol=0, atol=1e-6)


def test_resize_rounds_up_reaches_one_pixel_and_keeps_the_dtype():
    assert resize(random_images(1, 3, 7, 9), 1 / 4).shape == (1, 3, 2, 3)
    assert resize(random_images(1, 1, 1, 1), 4).shape == (1, 1, 4, 4)
    assert resize(random_images(1, 1, 3, 2), 1 / 4).shape == (1, 1, 1, 1)
    assert resize(random_images(1, 1, 9, 9).double(), 1 / 3).dtype == torch.float64
    image = random_images(1, 1, 12, 12).requires_grad_()
    resize(image, 1 / 3).sum().backward()  # differentiable: every pixel counts, in all 1/9 each
    assert image.grad.sum().item() == pytest.approx(16, rel=1e-5)


# Luma, rounding, cropping


@pytest.mark.parametrize(
    ("rgb", "y"), [((0, 0, 0), 16), ((1, 1, 1), 235), ((1, 0, 0), 81.481), ((0, 1, 0), 144.553), ((0, 0, 1), 40.966)]
)
def test_luma_of_the_pure_colours_is_that_of_bt_601(rgb, y):
    image = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(
        rgb_to_y(image), torch.full((2, 1, 4, 5), y / 255, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_luma_agrees_with_scikit_image():
    from skimage.color import rgb2ycbcr

    image = random_images(1, 3, 6, 7).double()
    expected = rgb2ycbcr(image[0].permute(1, 2, 0).numpy())[..., 0] / 255
    np.testing.assert_allclose(rgb_to_y(image)[0, 0], expected, atol=1e-12)


def test_rounding_clips_and_rounds_half_up():
    levels = torch.arange(256).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(levels.float() / 255), levels.to(torch.uint8))
    values = torch.tensor([-0.2, 0.0, 0.5 / 255, 2.5 / 255, 2.49 / 255, 1.0, 1.7], dtype=torch.float64).view(1, 1, 1, 7)
    assert to_uint8(values).flatten().tolist() == [0, 0, 1, 3, 2, 255, 255]  # torch.round would give 0, 0, 0, 2, 2


def test_crop_keeps_the_upper_left_corner():
    image = random_images(1, 5, 14, 23)
    assert torch.equal(crop_to_multiple(image, 4), image[..., :12, :20])
    assert torch.equal(crop_to_multiple(image, 1), image)
    assert torch.equal(crop_to_multiple(image[..., :12, :20], 4), image[..., :12, :20])


# Photos


@pytest.mark.parametrize("name", PHOTOS)
def test_every_photo_is_rgb_in_unit_range(name):
    image = photo(name)
    assert image.shape[:2] == (1, 3) and image.dtype == torch.float32 and min(image.shape[2:]) > 100
    assert image.min() >= 0 and 0.3 < image.max() <= 1
    assert torch.equal(to_uint8(image).float() / 255, image)  # exact 8-bit levels


def test_photo_is_the_file_of_scikit_image():
    import skimage.data

    np.testing.assert_array_equal(to_uint8(photo("chelsea"))[0].permute(1, 2, 0), skimage.data.chelsea())
    np.testing.assert_array_equal(to_uint8(photo("camera"))[0, 2], skimage.data.camera())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: photo("chelsey"), "did you mean 'chelsea'"),
        (lambda: resize(torch.rand(1, 3, 8, 8), 0), "factor must be a positive number"),
        (lambda: resize(torch.rand(1, 3, 8, 8), -2.0), "factor must be a positive number"),
        (lambda: resize(torch.rand(3, 8, 8), 2), "images must have shape"),
        (lambda: resize(torch.full((1, 1, 4, 4), math.nan), 2), "NaN"),
        (lambda: rgb_to_y(torch.rand(1, 1, 8, 8)), "must have 3 channels"),
        (lambda: crop_to_multiple(torch.rand(1, 3, 3, 8), 4), "too small to crop"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_whole_numbers_are_refused_with_advice():
    with pytest.raises(TypeError, match="divide by 255"):
        resize(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 2)
