"""Checks for the exercises of chapter 00."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ..images import crop_to_multiple, to_uint8
from ..schedules import Schedule, vp_cosine, vp_linear
from . import Exercise, Mistake


def _number(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _schedule(generator: Generator) -> Schedule:
    if torch.rand((), generator=generator) < 0.3:
        return vp_cosine()
    return vp_linear(beta_max=_number(generator, 5, 25))


def _images(generator: Generator) -> tuple[Tensor]:
    """Random values, some outside [0, 1], and all whose 255-fold is exactly half-way between two whole numbers."""
    halves = (torch.arange(255) + 0.5) / 255
    halves = halves[halves * 255 % 1 == 0.5]
    values = torch.rand(3 * 12 * 20, generator=generator) * 1.4 - 0.2
    values[: len(halves)] = halves
    return (values[torch.randperm(len(values), generator=generator)].reshape(1, 3, 12, 20),)


def _is_uint8(output: object, images: Tensor) -> str | None:
    if isinstance(output, Tensor) and output.dtype == torch.uint8:
        return None
    return "the values are right, but the dtype must be torch.uint8; end with .to(torch.uint8)."


def _to_crop(generator: Generator) -> tuple[Tensor, int]:
    """An image and a scale; the first draw's width, and some heights, are multiples of the scale already."""
    scale = int(torch.randint(2, 5, (), generator=generator))
    height = 5 * scale + int(torch.randint(1, scale, (), generator=generator))
    return torch.rand(2, 3, height, 7 * scale, generator=generator), scale


def _size(generator: Generator) -> tuple[int, int, int]:
    scale = int(torch.randint(2, 5, (), generator=generator))
    height, width = (int(n) for n in torch.randint(10, 60, (2,), generator=generator))
    return height * scale + 1, width * scale + scale - 1, scale


def _missing_numbers(height: int, width: int, scale: int) -> tuple[int, int, int]:
    h, w = height // scale, width // scale
    return h, w, 3 * h * w * (scale**2 - 1)


def _pair(generator: Generator) -> tuple[Tensor, Tensor]:
    """Two images of a batch with very different errors."""
    hr = torch.rand(2, 3, 9, 14, generator=generator)
    strength = torch.tensor([0.02, 0.2]).view(2, 1, 1, 1)
    return hr + strength * torch.randn(hr.shape, generator=generator), hr


def _psnr(sr: Tensor, hr: Tensor) -> Tensor:
    return -10 * torch.log10((sr - hr).square().mean((1, 2, 3)))


def _image_and_noise(generator: Generator) -> tuple[Tensor, float]:
    return torch.rand(1, 3, 6, 8, generator=generator), _number(generator, 0.02, 0.3)


def _one_number(generator: Generator) -> tuple[float, float, Schedule, float]:
    z_0, eps = _number(generator, -1, 1), float(torch.randn((), generator=generator))
    return z_0, eps, _schedule(generator), _number(generator, 0.1, 0.9)


def _stuck_in_noise(z: object, z_0: float, eps: float, schedule: Schedule, t: float) -> str | None:
    """The oracle: z - alpha z_0 must be sigma eps."""
    left = float(z) - float(schedule.alpha(t)) * z_0
    if math.isclose(left, float(schedule.sigma(t)) * eps, rel_tol=1e-3, abs_tol=1e-4):
        return None
    return "what remains after alpha z_0 is taken away is not sigma eps."


def _even(t: object, schedule: Schedule) -> str | None:
    """The oracle: signal and noise weigh the same at the time that was found."""
    alpha, sigma = float(schedule.alpha(float(t))), float(schedule.sigma(float(t)))
    return None if abs(alpha - sigma) < 1e-3 else f"there alpha is {alpha:.3f} and sigma is {sigma:.3f}, not equal."


CHAPTER = [
    Exercise(
        "00.1",
        "images as whole numbers from 0 to 255",
        reference=to_uint8,
        inputs=_images,
        mistakes=[
            Mistake(
                "you cut the decimals off instead of rounding",
                lambda images: (images.clamp(0, 1) * 255).to(torch.uint8),
                "Converting to an integer type drops what is behind the point, so the picture gets half a level darker:"
                " add 0.5 first.",
            ),
            Mistake(
                "you rounded halves to the even neighbour",
                lambda images: (images.clamp(0, 1) * 255).round().to(torch.uint8),
                "torch.round sends 2.5 to 2; super-resolution papers round half up, floor(value + 0.5).",
            ),
            Mistake(
                "values outside [0, 1] were not clipped",
                lambda images: (images * 255 + 0.5).floor().to(torch.int64).remainder(256).to(torch.uint8),
                "Bicubic overshoots at edges, and 260 wraps round to 4 in 8 bits: white turns into black. Clip first.",
            ),
            Mistake(
                "you multiplied by 256",
                lambda images: (images.clamp(0, 1) * 256).clamp(max=255).to(torch.uint8),
                "White, 1.0, is level 255, and black is level 0, so there are 255 steps between them.",
            ),
        ],
        judge=_is_uint8,
    ),
    Exercise(
        "00.2",
        "an image cropped to a size that the scale divides",
        reference=crop_to_multiple,
        inputs=_to_crop,
        mistakes=[
            Mistake(
                "the image became empty where nothing had to be cut",
                lambda images, scale: images[..., : -(images.shape[-2] % scale), : -(images.shape[-1] % scale)],
                "When the remainder is 0, the slice [:-0] is [:0], which is empty. Slice up to size - remainder.",
            ),
            Mistake(
                "you cut from the top and the left",
                lambda images, scale: images[..., images.shape[-2] % scale :, images.shape[-1] % scale :],
                "Everyone cuts at the bottom and the right; another choice shifts the image and PSNR collapses.",
            ),
            Mistake(
                "you returned the small size instead of the cropped one",
                lambda images, scale: images[..., : images.shape[-2] // scale, : images.shape[-1] // scale],
                "H // scale is the number of low-resolution rows; the crop keeps scale times as many.",
            ),
            Mistake(
                "you sliced the first two axes",
                lambda images, scale: images[
                    : images.shape[-2] - images.shape[-2] % scale, : images.shape[-1] - images.shape[-1] % scale
                ],
                "Images are (B, C, H, W): rows and columns are the last two axes, so start the slice with an ellipsis.",
            ),
        ],
        judge=lambda output, images, scale: (
            None if output.shape[-2] % scale == output.shape[-1] % scale == 0 else "the scale does not divide the size."
        ),
    ),
    Exercise(
        "00.3",
        "what shrinking keeps, and how many numbers it throws away",
        reference=_missing_numbers,
        inputs=_size,
        mistakes=[
            Mistake(
                "you rounded the small size up",
                lambda height, width, scale: (
                    -(-height // scale),
                    -(-width // scale),
                    3 * -(-height // scale) * -(-width // scale) * (scale**2 - 1),
                ),
                "The image is cropped before it is shrunk, so the rows and columns that are left over do not count.",
            ),
            Mistake(
                "you forgot the three colours",
                lambda height, width, scale: (
                    height // scale,
                    width // scale,
                    (height // scale) * (width // scale) * (scale**2 - 1),
                ),
                "Each pixel of a colour image holds three numbers.",
            ),
            Mistake(
                "you let the scale count once instead of once for each direction",
                lambda height, width, scale: (
                    height // scale,
                    width // scale,
                    3 * (height // scale) * (width // scale) * (scale - 1),
                ),
                "Height and width both grow by the scale, so one small pixel becomes scale * scale large ones.",
            ),
            Mistake(
                "you counted all numbers of the large image",
                lambda height, width, scale: (
                    height // scale,
                    width // scale,
                    3 * (height // scale) * (width // scale) * scale**2,
                ),
                "Take away the numbers that the small image still holds.",
            ),
            Mistake(
                "you swapped height and width",
                lambda height, width, scale: (
                    width // scale,
                    height // scale,
                    3 * (height // scale) * (width // scale) * (scale**2 - 1),
                ),
                "Sizes are given as (height, width), rows first, although we say 384 x 256 of a picture's width first.",
            ),
        ],
        rtol=0,
        atol=0.5,
    ),
    Exercise(
        "00.4",
        "PSNR from the mean squared error",
        reference=_psnr,
        inputs=_pair,
        mistakes=[
            Mistake(
                "you averaged over the batch",
                lambda sr, hr: (-10 * torch.log10((sr - hr).square().mean())).expand(len(sr)),
                "One value per image: take the mean over axes 1, 2 and 3 only. One bad image would drown the rest.",
            ),
            Mistake(
                "you used the peak 255",
                lambda sr, hr: 10 * torch.log10(255**2 / (sr - hr).square().mean((1, 2, 3))),
                "The peak belongs to the range: these images run from 0 to 1, so it is 1. You are 48 dB too high.",
            ),
            Mistake(
                "the sign is wrong",
                lambda sr, hr: 10 * torch.log10((sr - hr).square().mean((1, 2, 3))),
                "PSNR is peak over error, so a smaller error must give a larger value.",
            ),
            Mistake(
                "you took the natural logarithm",
                lambda sr, hr: -10 * torch.log((sr - hr).square().mean((1, 2, 3))),
                "Decibels are made with the logarithm to base 10, torch.log10.",
            ),
            Mistake(
                "you put the factor 20 in front of the squared error",
                lambda sr, hr: -20 * torch.log10((sr - hr).square().mean((1, 2, 3))),
                "10 goes with the mean squared error, 20 with its root.",
            ),
            Mistake(
                "you averaged the absolute error",
                lambda sr, hr: -10 * torch.log10((sr - hr).abs().mean((1, 2, 3))),
                "Square the differences before you average.",
            ),
        ],
        rtol=1e-3,
    ),
    Exercise(
        "00.5",
        "an image and its noise in state units",
        reference=lambda images, noise_std: (2 * images - 1, 2 * noise_std),
        inputs=_image_and_noise,
        mistakes=[
            Mistake(
                "you left the noise in image units",
                lambda images, noise_std: (2 * images - 1, noise_std),
                "Twice the range is twice the noise: whatever multiplies the image multiplies its standard deviation.",
            ),
            Mistake(
                "you shifted the noise as well",
                lambda images, noise_std: (2 * images - 1, 2 * noise_std - 1),
                "A shift moves the mean, not the spread, and a standard deviation is never negative.",
            ),
            Mistake(
                "you multiplied the standard deviation by 4",
                lambda images, noise_std: (2 * images - 1, 4 * noise_std),
                "4 is the factor of the variance; the standard deviation is its root.",
            ),
            Mistake(
                "your states run from -0.5 to 0.5",
                lambda images, noise_std: (images - 0.5, noise_std),
                "The range [0, 1] is stretched to [-1, 1]: black is -1 and white is 1.",
            ),
        ],
    ),
    Exercise(
        "00.6",
        "one number on its way into noise",
        reference=lambda z_0, eps, schedule, t: schedule.alpha(t) * z_0 + schedule.sigma(t) * eps,
        inputs=_one_number,
        mistakes=[
            Mistake(
                "you multiplied the noise by sigma squared",
                lambda z_0, eps, schedule, t: schedule.alpha(t) * z_0 + schedule.sigma(t) ** 2 * eps,
                "eps has variance 1; to give it variance sigma squared, multiply it by sigma.",
            ),
            Mistake(
                "you multiplied the signal by alpha squared",
                lambda z_0, eps, schedule, t: schedule.alpha(t) ** 2 * z_0 + schedule.sigma(t) * eps,
                "alpha squared is what papers call alpha-bar or gamma; the state holds its root times z_0.",
            ),
            Mistake(
                "you did not scale the signal down",
                lambda z_0, eps, schedule, t: z_0 + schedule.sigma(t) * eps,
                "Noise is mixed in, not only added: the signal shrinks by alpha(t). Without it the state would grow.",
            ),
            Mistake(
                "you swapped alpha and sigma",
                lambda z_0, eps, schedule, t: schedule.sigma(t) * z_0 + schedule.alpha(t) * eps,
                "At t = 0 the state must be the clean number: alpha(0) = 1 belongs to z_0 and sigma(0) = 0 to eps.",
            ),
        ],
        judge=_stuck_in_noise,
    ),
    Exercise(
        "00.7",
        "the time at which signal and noise are equally strong",
        reference=lambda schedule: schedule.time_at(0.0),
        inputs=lambda generator: (_schedule(generator),),
        mistakes=[
            Mistake(
                "you asked for log_snr = 1",
                lambda schedule: schedule.time_at(1.0),
                "The ratio is 1 where both are equal, and the logarithm of 1 is 0.",
            ),
            Mistake(
                "you took the middle of the time",
                lambda schedule: 0.5,
                "Schedules spend their time differently: vp_linear has passed the balance well before t = 0.5.",
            ),
            Mistake(
                "you looked for alpha = 0.5",
                lambda schedule: schedule.time_at(math.log(0.25 / 0.75)),
                "alpha and sigma need not add up to 1: where alpha squared + sigma squared = 1, both are 0.71.",
            ),
        ],
        judge=_even,
        atol=1e-3,
    ),
]
