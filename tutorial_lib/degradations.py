"""How a good photo becomes a bad one: x = ((y (*) k) downsampled by s + n) compressed by JPEG.

Images are (B, C, H, W) in [0, 1] and all noise levels are in these image units (10/255 is visible noise). Inside
diffusion code, where z_0 = 2 y - 1, the same noise has twice the standard deviation.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from .checks import check_images, check_one_of, check_positive, check_whole
from .images import resize, to_uint8
from .noise import Noise, standard_normal
from .operators import AveragePool

Range = tuple[float, float]


def degrade(
    hr: Tensor,
    kernel: Tensor | None = None,
    scale: int = 1,
    noise_std: float = 0.0,
    jpeg_quality: int | None = None,
    noise: Noise | None = None,
    downsample: str = "bicubic",
) -> Tensor:
    """x = ((y (*) k) downsampled by s + n) compressed by JPEG, in this order: (B, C, H, W) -> (B, C, H/scale, W/scale).

    Every part is off by default. `kernel` (kh, kw) blurs as `blur` does. `downsample` is
    "bicubic": MATLAB's antialiased resize (the classical LR image is this alone, without kernel or noise);
    "average": the mean of each block;
    "decimate": x[i, j] = y[scale i, scale j], the top left pixel of each block (phase 0), without antialiasing: the
    kernel must do that. The first two keep the picture's centre; decimation moves its content by (scale - 1) / 2 HR
    pixels to the top left, which DPIR and DiffPIR code undoes by a shift.
    `noise_std` is in [0, 1] image units; `noise` draws it, default standard_normal(0). Nothing is clipped or rounded,
    so that the noise stays Gaussian, except by JPEG (`jpeg_quality` 1..100), which stores 8-bit values.
    """
    check_one_of(downsample, ("bicubic", "average", "decimate"), "downsample")
    check_whole(scale, "scale")
    if not isinstance(noise_std, int | float) or not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std must be a number of at least 0, but {noise_std!r} came")
    check_images(hr, "hr", multiple_of=scale)
    x = hr if kernel is None else blur(hr, kernel)
    if downsample == "bicubic":
        x = resize(x, 1 / scale)
    elif downsample == "average":
        x = AveragePool(scale)(x)
    else:
        x = x[..., ::scale, ::scale]
    if noise_std:
        x = x + noise_std * (noise or standard_normal(0))(x)
    return x if jpeg_quality is None else jpeg(x, jpeg_quality)


def blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel with `kernel` (kh, kw), the photo mirrored at its border: shape (B, C, H, W) stays.

    Mirrored about the border pixels' centres (torch's "reflect", scipy.ndimage's "mirror"), so nothing leaks from the
    opposite side as it does in the circular `operators.Blur`; inside, both agree. Centre (kh // 2, kw // 2). A kernel
    that sums to 1 keeps the brightness; this is not enforced.
    """
    check_images(images)
    kernel = torch.as_tensor(kernel)
    if kernel.ndim != 2 or 0 in kernel.shape or not torch.isfinite(kernel).all():
        raise ValueError(f"kernel must be a finite matrix (kh, kw), but one of shape {tuple(kernel.shape)} came")
    (kh, kw), (height, width) = kernel.shape, images.shape[-2:]
    if kh // 2 >= height or kw // 2 >= width:
        raise ValueError(
            f"kernel must be narrower than twice the image to mirror it, but it is {kh}x{kw} on {height}x{width}"
        )
    margins = (kw - 1 - kw // 2, kw // 2, kh - 1 - kh // 2, kh // 2)  # left, right, top, bottom
    planes = F.pad(images, margins, mode="reflect").flatten(0, 1)[:, None]
    return F.conv2d(planes, kernel.flip(0, 1)[None, None].to(images)).reshape(images.shape)


def gaussian_kernel(size: int, sigma: float, sigma_across: float | None = None, angle: float = 0.0) -> Tensor:
    """A Gaussian kernel (size, size) that sums to 1, float32, sampled at pixel centres about the middle of the square.

    `sigma` (in pixels) is the standard deviation along the direction `angle`, in degrees counter-clockwise from
    horizontal as seen in the picture; `sigma_across` the one at right angles to it, by default the same. With an even
    `size` the middle lies between pixels, so blurring moves the image by half a pixel to the top left.
    """
    check_whole(size, "size")
    check_positive(sigma, "sigma")
    sigma_across = sigma if sigma_across is None else check_positive(sigma_across, "sigma_across")
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    up, right = -offset[:, None], offset[None, :]
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    along, across = cosine * right + sine * up, cosine * up - sine * right
    exponent = -((along / sigma) ** 2 + (across / sigma_across) ** 2) / 2
    kernel = (exponent - exponent.max()).exp()
    return (kernel / kernel.sum()).float()


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    """The kernel of a camera that moves `length` pixels in a straight line while the shutter is open; sums to 1, float32.

    `angle` as in `gaussian_kernel`: degrees counter-clockwise from horizontal as seen in the picture. The line is spread
    evenly over the pixels that it passes, each of its points shared by the four nearest (bilinear), so that any length and
    angle work and the middle stays where it is. (size, size) with the least odd size that holds the line at any angle.
    """
    check_positive(length, "length")
    half = math.ceil(length / 2)
    count = 64 * math.ceil(length)
    along = ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5) * length
    taps = torch.arange(-half, half + 1, dtype=torch.float64)
    turned = math.radians(angle)
    rows, columns = (
        (1 - (taps - place[:, None]).abs()).clamp(min=0)
        for place in (-math.sin(turned) * along, math.cos(turned) * along)
    )
    return (torch.einsum("pi,pj->ij", rows, columns) / count).float()


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Each image through Pillow's JPEG and back: (B, C, H, W) with C = 1 or 3, `quality` from 1 (worst) to 100.

    Values are clipped to [0, 1] and rounded to 8 bits first. Pillow's defaults hold: colour is stored at half
    resolution (4:2:0). Not differentiable.
    """
    check_images(images)
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels for JPEG, but their shape is {tuple(images.shape)}")
    if not isinstance(quality, int) or isinstance(quality, bool) or not 1 <= quality <= 100:
        raise ValueError(f"quality must be a whole number from 1 to 100, but {quality!r} came")
    decoded = []
    for pixels in to_uint8(images.detach()).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)).reshape(pixels.shape))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(images) / 255


def second_order(hr: Tensor, scale: int = 4, seed: int | Sequence[int] = 0) -> Tensor:
    """Real-ESRGAN's random degradation (2107.10833): (B, C, H, W) -> (B, C, H/scale, W/scale), C = 1 or 3, in 8 bits.

    Two rounds of blur, resize, noise and JPEG with random settings, then a resize to the target. Sample i uses
    seed + i (or seed[i]) for everything random, so the same seed gives the same result, alone or in any batch. As in
    the paper's code: both rounds' ranges, Gaussian or Poisson noise, grey or coloured, and the random order of the last
    JPEG and the last resize. Left out: sinc filters and generalised or plateau-shaped Gaussian kernels.
    """
    check_images(hr, "hr", multiple_of=check_whole(scale, "scale"))
    if hr.shape[1] not in (1, 3):
        raise ValueError(f"hr must have 1 or 3 channels for JPEG, but its shape is {tuple(hr.shape)}")
    seeds = range(seed, seed + len(hr)) if isinstance(seed, int) else seed
    if len(seeds) != len(hr):
        raise ValueError(f"seed must be one number or one per sample, but {len(seeds)} came for {len(hr)} samples")
    lr = [_degrade_twice(y[None], scale, Generator().manual_seed(s)) for y, s in zip(hr, seeds, strict=True)]
    return torch.cat(lr)


def _degrade_twice(y: Tensor, scale: int, generator: Generator) -> Tensor:
    height, width = y.shape[-2] // scale, y.shape[-1] // scale
    x = _random_blur(y, (0.2, 3.0), generator)
    x = _random_resize(x, y.shape[-2:], (0.15, 1.5), (0.7, 0.2), generator)
    x = _random_noise(x, (1 / 255, 30 / 255), (0.05, 3.0), generator)
    x = _random_jpeg(x, generator)
    if _uniform(0, 1, generator) < 0.8:
        x = _random_blur(x, (0.2, 1.5), generator)
    x = _random_resize(x, (height, width), (0.3, 1.2), (0.4, 0.3), generator)
    x = _random_noise(x, (1 / 255, 25 / 255), (0.05, 2.5), generator)
    if _uniform(0, 1, generator) < 0.5:
        x = _random_jpeg(_resize_to(x, (height, width), generator), generator)
    else:
        x = _resize_to(_random_jpeg(x, generator), (height, width), generator)
    return to_uint8(x).to(y) / 255


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _random_blur(x: Tensor, sigmas: Range, generator: Generator) -> Tensor:
    """Gaussian of random width, round in two cases of three, on an odd square of 7 to 21 (less on tiny images)."""
    size = 2 * torch.randint(3, 11, (), generator=generator).item() + 1
    sigma, across, angle = (_uniform(*bounds, generator) for bounds in (sigmas, sigmas, (0.0, 180.0)))
    if _uniform(0, 1, generator) < 2 / 3:
        across = sigma
    return blur(x, gaussian_kernel(min(size, 2 * min(x.shape[-2:]) - 1), sigma, across, angle))


def _random_resize(x: Tensor, size: Sequence[int], factors: Range, shares: Range, generator: Generator) -> Tensor:
    """To `size` times a factor: below 1 and above 1 with the two probabilities in `shares`, otherwise 1."""
    choice, down, up = _uniform(0, 1, generator), _uniform(factors[0], 1, generator), _uniform(1, factors[1], generator)
    factor = down if choice < shares[0] else up if choice < sum(shares) else 1.0
    return _resize_to(x, [max(1, round(n * factor)) for n in size], generator)


def _resize_to(x: Tensor, size: Sequence[int], generator: Generator) -> Tensor:
    mode = ("area", "bilinear", "bicubic")[torch.randint(3, (), generator=generator).item()]
    if mode == "area":
        return F.interpolate(x, tuple(size), mode=mode)
    return F.interpolate(x, tuple(size), mode=mode, antialias=True)


def _random_noise(x: Tensor, stds: Range, poisson_scales: Range, generator: Generator) -> Tensor:
    """Gaussian noise of random strength, or the Poisson noise of 255 counts times a random scale; grey in 40 %."""
    draw = standard_normal(generator)
    grey = _uniform(0, 1, generator) < 0.4
    source = x.mean(1, keepdim=True) if grey else x
    if _uniform(0, 1, generator) < 0.5:
        noise = _uniform(*stds, generator) * draw(source)
    else:
        scale = _uniform(*poisson_scales, generator)
        counts = source.clamp(0, 1).cpu() * 255
        noise = scale * (torch.poisson(counts, generator=generator) - counts).to(x) / 255
    return (x + noise).clamp(0, 1)


def _random_jpeg(x: Tensor, generator: Generator) -> Tensor:
    return jpeg(x, torch.randint(30, 96, (), generator=generator).item())
