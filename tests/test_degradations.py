"""Each part of the degradation against scipy, Pillow or a loop, the order of the parts, the variance of the noise."""

import io
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from PIL import Image

from tutorial_lib.degradations import blur, degrade, gaussian_kernel, jpeg, motion_kernel, second_order
from tutorial_lib.images import photo, resize
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Blur

KERNEL = torch.tensor(np.random.default_rng(0).random((5, 3)), dtype=torch.float32)
KERNEL = KERNEL / KERNEL.sum()


def image(channels=3, height=24, width=36, batch=2, seed=0):
    """Smooth colours with sharp edges, in [0, 1]."""
    noise = torch.rand(batch, channels, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return noise.repeat_interleave(4, -2).repeat_interleave(4, -1).roll((1, 2), (-2, -1))


def scipy_blur(images, kernel):
    planes = images.flatten(0, 1).double().numpy()
    blurred = np.stack([scipy.ndimage.convolve(plane, kernel.double().numpy(), mode="mirror") for plane in planes])
    return torch.tensor(blurred).reshape(images.shape).float()


def pillow_jpeg(images, quality):
    out = []
    for pixels in np.floor(images.clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255 + 0.5).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, format="JPEG", quality=quality)
        out.append(np.array(Image.open(file)).reshape(pixels.shape))
    return torch.tensor(np.stack(out)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (1, 7), (2, 4), (4, 4), (23, 5)])
def test_blur_is_scipys_mirrored_convolution(channels, shape):
    kernel = torch.tensor(np.random.default_rng(0).standard_normal(shape), dtype=torch.float32)
    hr = image(channels)
    torch.testing.assert_close(degrade(hr, kernel), scipy_blur(hr, kernel), rtol=0, atol=2e-5)
    rows, columns = shape[0], shape[1]
    inside = (..., slice(rows, 24 - rows), slice(columns, 36 - columns))
    torch.testing.assert_close(blur(hr, kernel)[inside], Blur(kernel)(hr)[inside], rtol=0, atol=2e-5)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_three_ways_to_downsample(channels, scale):
    hr = image(channels)
    bicubic, average, decimated = (degrade(hr, scale=scale, downsample=d) for d in ("bicubic", "average", "decimate"))
    torch.testing.assert_close(bicubic, resize(hr, 1 / scale), rtol=0, atol=0)
    for i in range(24 // scale):
        for j in range(36 // scale):
            block = hr[..., i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
            torch.testing.assert_close(average[..., i, j], block.mean((-2, -1)))
            torch.testing.assert_close(decimated[..., i, j], block[..., 0, 0], rtol=0, atol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_phase_of_each_downsampling(scale):
    """A ramp y = column: the LR pixel j is centred at scale j + (scale - 1)/2, but decimation reads scale j."""
    hr = torch.arange(12.0 * scale).expand(1, 1, 12 * scale, -1) / 100
    centre = (torch.arange(12.0) * scale + (scale - 1) / 2) / 100
    inside = slice(3, 9)  # bicubic bends the ramp at the mirrored border
    for downsample, shift in [("bicubic", 0.0), ("average", 0.0), ("decimate", -(scale - 1) / 200)]:
        row = degrade(hr, scale=scale, downsample=downsample)[0, 0, 5]
        torch.testing.assert_close(row[inside], centre[inside] + shift, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [5, 50, 95])
def test_jpeg_is_pillows(channels, quality):
    hr = image(channels) * 1.4 - 0.2  # leaves [0, 1]: must be clipped, not wrapped
    torch.testing.assert_close(jpeg(hr, quality), pillow_jpeg(hr, quality), rtol=0, atol=0)
    torch.testing.assert_close(degrade(hr, jpeg_quality=quality), pillow_jpeg(hr, quality), rtol=0, atol=0)


def test_worse_quality_is_further_from_the_original():
    hr = image(channels=1)
    errors = [(jpeg(hr, quality) - hr).square().mean() for quality in (95, 60, 25, 5)]
    assert errors == sorted(errors) and errors[0] < errors[-1] / 10


def test_noise_has_the_stated_deviation_and_comes_last_but_one():
    """The variance of n samples has relative standard error sqrt(2/n); what follows downsampling stays white."""
    hr, std = torch.full((4, 3, 256, 256), 0.5), 0.1
    noise = degrade(hr, gaussian_kernel(9, 2.0), scale=2, noise_std=std, noise=standard_normal(3)) - 0.5
    n = noise.numel()
    assert abs(noise.mean().item()) < 4 * std / math.sqrt(n)
    assert abs(noise.var().item() / std**2 - 1) < 4 * math.sqrt(2 / n)
    for shifted in (noise.roll(1, -1), noise.roll(1, -2), noise.roll(1, 1)):
        assert abs((noise * shifted).mean().item() / std**2) < 4 / math.sqrt(n)


def test_noise_is_handed_in_and_switched_off_by_zero():
    hr = image()
    drawn = standard_normal(5)(hr)
    torch.testing.assert_close(degrade(hr, noise_std=0.2, noise=standard_normal(5)), hr + 0.2 * drawn)
    torch.testing.assert_close(degrade(hr, noise_std=0.2), hr + 0.2 * standard_normal(0)(hr))
    state = torch.random.get_rng_state()
    degrade(hr, noise_std=0.2)
    second_order(image(), 4)
    assert torch.equal(state, torch.random.get_rng_state())

    def forbidden(like):
        raise AssertionError("noise was drawn although noise_std is 0")

    assert torch.equal(degrade(hr, noise=forbidden), hr)


@pytest.mark.parametrize("downsample", ["bicubic", "average", "decimate"])
def test_the_parts_come_in_the_order_of_the_equation(downsample):
    hr, noise_std = image(), 0.05
    parts = {
        "blur": lambda y: scipy_blur(y, KERNEL),
        "down": {
            "bicubic": lambda y: resize(y, 1 / 2),
            "average": lambda y: y.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-3, -1)),
            "decimate": lambda y: y[..., ::2, ::2],
        }[downsample],
        "noise": lambda y: y + noise_std * standard_normal(1)(y),
        "jpeg": lambda y: pillow_jpeg(y, 40),
    }

    def chain(*names):
        y = hr
        for name in names:
            y = parts[name](y)
        return y

    lr = degrade(hr, KERNEL, 2, noise_std, 40, standard_normal(1), downsample)
    # Blurs differ in the last digit of float32, which may flip the rounding of a few pixels before JPEG.
    assert (lr - chain("blur", "down", "noise", "jpeg")).abs().mean() < 1e-4
    swaps = [("blur", "noise", "down", "jpeg"), ("blur", "down", "jpeg", "noise"), ("blur", "jpeg", "down", "noise")]
    if downsample == "decimate":  # with the other two, blur and downsampling nearly commute
        swaps.append(("down", "blur", "noise", "jpeg"))
    for names in swaps:
        assert (lr - chain(*names)).abs().mean() > 1e-2


def test_samples_do_not_see_their_batch_mates():
    hr = image(batch=3)
    seeds = [torch.Generator().manual_seed(s) for s in (4, 0, 9)]
    batch = degrade(hr, KERNEL, 4, 0.1, 60, standard_normal(seeds))
    alone = degrade(hr[1:2], KERNEL, 4, 0.1, 60, standard_normal([torch.Generator().manual_seed(0)]))
    torch.testing.assert_close(batch[1:2], alone)
    torch.testing.assert_close(second_order(hr, 4, seed=7)[1:2], second_order(hr[1:2], 4, seed=8), rtol=0, atol=0)
    torch.testing.assert_close(second_order(hr, 4, seed=[3, 8, 1])[1:2], second_order(hr[1:2], 4, seed=8))


def test_gaussian_kernel_against_scipy_and_its_own_moments():
    for size, sigma in [(5, 0.8), (9, 2.0), (6, 1.3)]:
        row = scipy.signal.windows.gaussian(size, sigma)
        expected = torch.tensor(np.outer(row, row) / row.sum() ** 2, dtype=torch.float32)
        torch.testing.assert_close(gaussian_kernel(size, sigma), expected)
    kernel = gaussian_kernel(41, 4.0, 1.5, angle=30).double()
    up, right = 20.0 - torch.arange(41.0)[:, None], torch.arange(41.0)[None] - 20.0
    turn = torch.tensor([[math.cos(math.pi / 6), -0.5], [0.5, math.cos(math.pi / 6)]], dtype=torch.float64)
    expected = turn @ torch.diag(torch.tensor([16.0, 2.25], dtype=torch.float64)) @ turn.T  # in (right, up) axes
    moments = [[(a * b * kernel).sum() for b in (right, up)] for a in (right, up)]
    torch.testing.assert_close(torch.tensor(moments, dtype=torch.float64), expected, rtol=1e-3, atol=1e-3)
    assert gaussian_kernel(7, 1e-3)[3, 3] == 1 and gaussian_kernel(4, 1e-3).sum() == 1


def test_motion_kernel_is_the_integral_along_its_line():
    """Horizontally: a box of the length, smoothed by the triangle that shares a point between two pixels."""
    row = motion_kernel(5.0)[3]
    np.testing.assert_allclose(row, [0.025, 0.175, 0.2, 0.2, 0.2, 0.175, 0.025], atol=2e-4)
    for length, angle in [(5.0, 0.0), (3.7, 30.0), (8.0, -70.0), (0.5, 45.0), (6.0, 45.0)]:
        kernel = motion_kernel(length, angle).double()
        size = len(kernel)
        assert kernel.shape == (size, size) and size % 2 and kernel.sum() == pytest.approx(1, abs=1e-6)
        offset = torch.arange(size) - size // 2
        up, right = -offset[:, None], offset[None, :]
        assert abs((kernel * up).sum()) < 1e-6 and abs((kernel * right).sum()) < 1e-6
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        spread = length**2 / 12  # of an even line; sharing between two pixels adds at most 1/4 in each direction
        assert 0 <= (kernel * right**2).sum() - spread * cosine**2 < 0.26
        assert 0 <= (kernel * up**2).sum() - spread * sine**2 < 0.26
        assert (kernel * up * right).sum() == pytest.approx(spread * cosine * sine, abs=0.02)
    torch.testing.assert_close(motion_kernel(4.0, 90.0), motion_kernel(4.0).T)
    assert motion_kernel(6.0, 45.0)[1, 5] > 0.05 > motion_kernel(6.0, -45.0)[1, 5]  # counter-clockwise as seen


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_second_order_is_seeded_and_the_right_size(channels, scale):
    hr = image(channels)
    lr = second_order(hr, scale, seed=0)
    assert lr.shape == (2, channels, 24 // scale, 36 // scale) and lr.dtype == torch.float32
    assert torch.equal(lr, lr.clamp(0, 1))
    torch.testing.assert_close(lr * 255, (lr * 255).round(), rtol=0, atol=1e-4)
    assert torch.equal(lr, second_order(hr, scale, seed=0))
    assert not torch.equal(lr, second_order(hr, scale, seed=2))


def test_second_order_spoils_the_picture_in_many_ways_without_moving_it():
    hr = photo("chelsea")[..., 40:200, 60:252]
    clean = resize(hr, 1 / 4)
    results = second_order(hr.repeat(24, 1, 1, 1), 4)
    errors = (results - clean).square().mean((1, 2, 3)).sqrt()
    assert errors.min() > 1 / 255 and len(errors.unique()) == 24  # more than 8-bit rounding, which is 0.3 / 255

    def distance(rows, columns):
        return (results.mean(0, keepdim=True).roll((rows, columns), (-2, -1)) - clean)[..., 1:-1, 1:-1].square().mean()

    shifts = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
    assert min(shifts, key=lambda shift: distance(*shift)) == (0, 0)


def test_second_order_takes_tiny_images():
    for seed in range(30):
        assert second_order(torch.rand(1, 3, 4, 8), 4, seed).shape == (1, 3, 1, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: degrade(image(), scale=5), "hr must have a height and width that are multiples of 5"),
        (lambda: degrade(image(), scale=2.0), "scale must be a whole number of at least 1, but 2.0 came"),
        (lambda: degrade(image(), noise_std=-0.1), "noise_std must be a number of at least 0, but -0.1 came"),
        (lambda: degrade(image(), downsample="bicubik"), "downsample must be one of .* did you mean 'bicubic'"),
        (lambda: degrade(image(5), jpeg_quality=50), "images must have 1 or 3 channels for JPEG, but their shape is"),
        (lambda: degrade(image(), jpeg_quality=0), "quality must be a whole number from 1 to 100, but 0 came"),
        (lambda: degrade(image(), jpeg_quality=50.0), "quality must be a whole number from 1 to 100, but 50.0 came"),
        (
            lambda: degrade(image(), torch.ones(3)),
            r"kernel must be a finite matrix \(kh, kw\), but one of shape \(3,\)",
        ),
        (lambda: blur(image(height=4), torch.ones(9, 3)), "kernel must be narrower than twice the image to mirror it"),
        (lambda: degrade(image()[0]), r"hr must have shape \(B, C, H, W\), but its shape is"),
        (lambda: motion_kernel(0.0), "length must be a positive number, but 0.0 came"),
        (lambda: gaussian_kernel(0, 1.0), "size must be a whole number of at least 1, but 0 came"),
        (lambda: gaussian_kernel(3, 0.0), "sigma must be a positive number, but 0.0 came"),
        (lambda: gaussian_kernel(3, 1.0, -1.0), "sigma_across must be a positive number, but -1.0 came"),
        (lambda: second_order(image(2)), "hr must have 1 or 3 channels for JPEG, but its shape is"),
        (
            lambda: second_order(image(), seed=[1]),
            "seed must be one number or one per sample, but 1 came for 2 samples",
        ),
        (lambda: second_order(image(), 0), "scale must be a whole number of at least 1, but 0 came"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
