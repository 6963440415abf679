"""Checks for the exercises of chapter 00."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..images import crop_to_multiple, to_uint8
from ..schedules import Schedule, vp_cosine, vp_linear
from . import Exercise, Mistake, difference


def _number(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _each(reference: Callable, *names: str) -> Callable:
    """A judge for a tuple of results that names the first one that is wrong."""

    def judge(output: object, *arguments: object) -> str | None:
        if not isinstance(output, tuple | list) or len(output) != len(names):
            return f"expected {len(names)} results: {', '.join(names)}."
        for name, given, right in zip(names, output, reference(*arguments), strict=True):
            if problem := difference(given, right, 1e-6, 1e-5):
                return f"{name}: {problem}"
        return None

    return judge


def _schedule(generator: Generator) -> Schedule:
    if torch.rand((), generator=generator) < 0.3:
        return vp_cosine()
    return vp_linear(beta_max=_number(generator, 5, 25))


def _images(generator: Generator) -> tuple[Tensor]:
    """Random values, some outside [0, 1], and all whose 255-fold is exactly half-way between two whole numbers."""
    halves = (torch.arange(255) + 0.5) / 255
    halves = halves[halves * 255 % 1 == 0.5]
    values = torch.rand(3 * 12 * 20, generator=generator) * 1.4 - 0.2
    values[values < 0] = -0.5  # -127 levels exactly, so without clipping floor and conversion agree
    values[: len(halves)] = halves
    return (values[torch.randperm(len(values), generator=generator)].reshape(1, 3, 12, 20),)


def _is_uint8(output: object, images: Tensor) -> str | None:
    if isinstance(output, Tensor) and output.dtype == torch.uint8:
        return None
    return "the values are right, but the dtype must be torch.uint8; end with .to(torch.uint8)."


def _to_crop(generator: Generator) -> tuple[Tensor, int]:
    """A scale and images whose rows and columns leave each their own remainder, at times 0; more images than rows."""
    scale = int(torch.randint(3, 6, (), generator=generator))
    rows, columns = (int(n) for n in torch.randint(0, scale, (2,), generator=generator))
    height, width = 3 * scale + rows, 4 * scale + columns
    return torch.rand(height + 1, 3, height, width, generator=generator), scale


def _is_corner(output: Tensor, images: Tensor, scale: int) -> str | None:
    """The largest upper left corner whose size the scale divides, pixel for pixel."""
    right = crop_to_multiple(images, scale)
    if output.shape != right.shape:
        return f"at scale {scale} the shape {tuple(images.shape)} became {tuple(output.shape)}, which is not the right size."
    same = torch.equal(output, right)
    return None if same else "the size is right, the pixels are not: do not crop around the centre, and do not resize."


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


def _state_and_noise(images: Tensor, noise_std: float) -> tuple[Tensor, float]:
    return 2 * images - 1, 2 * noise_std


def _one_number(generator: Generator) -> tuple[float, float, Schedule, float]:
    z_0, eps = _number(generator, -1, 1), float(torch.randn((), generator=generator))
    return z_0, eps, _schedule(generator), _number(generator, 0.1, 0.9)


def _noise_left(z: object, z_0: float, eps: float, schedule: Schedule, t: float) -> str | None:
    """The oracle: z - alpha z_0 must be sigma eps."""
    left, right = float(z) - float(schedule.alpha(t)) * z_0, float(schedule.sigma(t)) * eps
    if math.isclose(left, right, rel_tol=1e-3, abs_tol=1e-4):
        return None
    return f"your z minus alpha z_0 is {left:.4f}, but sigma eps is {right:.4f} (with the eps handed in, no draw of yours)."


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
                "Converting to an integer type drops what stands after the decimal point, so the picture gets half a level"
                " darker: add 0.5 first.",
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
                "you neither clipped nor rounded",
                lambda images: (images * 255).to(torch.int64).remainder(256).to(torch.uint8),
                "Clip to [0, 1] first, for 260 wraps round to 4 in 8 bits; and add 0.5, for conversion cuts decimals off.",
            ),
            Mistake(
                "you multiplied by 256, and white wrapped round to black",
                lambda images: (images.clamp(0, 1) * 256).to(torch.int64).remainder(256).to(torch.uint8),
                "1.0 must become 255, the largest number of 8 bits; 256 does not fit and turns into 0.",
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
            Mistake(
                "nothing was cut",
                lambda images, scale: images,
                "A slice that ends beyond the last row keeps every row, so make sure that you round the size down, not up.",
            ),
            Mistake(
                "you cut the rows only",
                lambda images, scale: images[..., : images.shape[-2] - images.shape[-2] % scale, :],
                "The width has a remainder of its own: cut the last axis too.",
            ),
            Mistake(
                "you cut the columns only",
                lambda images, scale: images[..., : images.shape[-1] - images.shape[-1] % scale],
                "After an ellipsis a single slice means the last axis, the columns; rows need a slice of their own.",
            ),
        ],
        judge=_is_corner,
        unique=False,
    ),
    Exercise(
        "00.3",
        "what shrinking keeps, and how many numbers it throws away",
        reference=_missing_numbers,
        inputs=_size,
        mistakes=[
            Mistake(
                "you rounded the small size up",
                lambda h, w, s: (-(-h // s), -(-w // s), 3 * -(-h // s) * -(-w // s) * (s**2 - 1)),
                "The image is cropped before it is shrunk, so the rows and columns that are left over do not count.",
            ),
            Mistake(
                "you forgot the three colours",
                lambda h, w, s: (h // s, w // s, (h // s) * (w // s) * (s**2 - 1)),
                "Each pixel of a colour image holds three numbers.",
            ),
            Mistake(
                "you let the scale count once instead of once for each direction",
                lambda h, w, s: (h // s, w // s, 3 * (h // s) * (w // s) * (s - 1)),
                "Height and width both grow by the scale, so one small pixel becomes scale * scale large ones.",
            ),
            Mistake(
                "you counted all numbers of the large image",
                lambda h, w, s: (h // s, w // s, 3 * (h // s) * (w // s) * s**2),
                "Take away the numbers that the small image still holds.",
            ),
            Mistake(
                "you swapped height and width",
                lambda h, w, s: (w // s, h // s, 3 * (h // s) * (w // s) * (s**2 - 1)),
                "Sizes are given as (height, width), rows first, although we say 384 x 256 of a picture's width first.",
            ),
            Mistake(
                "you counted the numbers of the image before it was cropped",
                lambda h, w, s: (h // s, w // s, 3 * (h * w - (h // s) * (w // s))),
                "The rows and columns that the crop removes are not lost to the scale: count the cropped image.",
            ),
            Mistake(
                "you divided with / instead of //",
                lambda h, w, s: (h / s, w / s, 3 * (h / s) * (w / s) * (s**2 - 1)),
                "There are no fractions of a row: // drops the remainder, which is what the crop does.",
            ),
            Mistake(
                "you returned the cropped size instead of the small one",
                lambda h, w, s: (h // s * s, w // s * s, 3 * (h // s) * (w // s) * (s**2 - 1)),
                "The first two results belong to the image after shrinking: height // scale and width // scale.",
            ),
        ],
        judge=_each(_missing_numbers, "the small height", "the small width", "the missing numbers"),
        unique=False,
    ),
    Exercise(
        "00.4",
        "PSNR from the mean squared error",
        reference=_psnr,
        inputs=_pair,
        mistakes=[
            Mistake(
                "you used the peak 255",
                lambda sr, hr: 10 * torch.log10(255**2 / (sr - hr).square().mean((1, 2, 3))),
                "The peak belongs to the range: these images run from 0 to 1, so it is 1. You are 48 dB too high.",
            ),
            Mistake(
                "the sign is wrong",
                lambda sr, hr: 10 * torch.log10((sr - hr).square().mean((1, 2, 3))),
                "PSNR compares the peak with the error, so a smaller error must give a larger value.",
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
            Mistake(
                "you put the factor 10 in front of the root mean squared error",
                lambda sr, hr: -10 * torch.log10((sr - hr).square().mean((1, 2, 3)).sqrt()),
                "The root halves the logarithm: leave the root out, or write 20.",
            ),
            Mistake(
                "you added the squared errors up instead of averaging them",
                lambda sr, hr: -10 * torch.log10((sr - hr).square().sum((1, 2, 3))),
                "A sum grows with the size of the picture; PSNR takes the mean.",
            ),
            Mistake(
                "you averaged before you squared",
                lambda sr, hr: -10 * torch.log10((sr - hr).mean((1, 2, 3)).square()),
                "Errors above and below zero cancel in that mean, so a noisy picture looks perfect: square each one first.",
            ),
            Mistake(
                "you averaged the logarithms of the pixels",
                lambda sr, hr: (-10 * torch.log10((sr - hr).square())).mean((1, 2, 3)),
                "Average the squared errors first, then take one logarithm for each image.",
            ),
            Mistake(
                "you averaged over the batch and returned a single value",
                lambda sr, hr: -10 * torch.log10((sr - hr).square().mean()),
                "The result has shape (B,): hand the axes (1, 2, 3) to mean.",
            ),
            Mistake(
                "you returned the mean squared error itself",
                lambda sr, hr: (sr - hr).square().mean((1, 2, 3)),
                "Decibels are still missing: -10 times the logarithm to base 10 of it.",
            ),
        ],
        rtol=1e-3,
    ),
    Exercise(
        "00.5",
        "an image and its noise in state units",
        reference=_state_and_noise,
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
                "your states run from -0.5 to 0.5",
                lambda images, noise_std: (images - 0.5, noise_std),
                "The range [0, 1] is stretched to [-1, 1]: black is -1 and white is 1.",
            ),
            Mistake(
                "you halved the noise",
                lambda images, noise_std: (2 * images - 1, noise_std / 2),
                "The way from images to states stretches by 2, noise included; halving belongs to the way back.",
            ),
            Mistake(
                "you went the way back, from states to images",
                lambda images, noise_std: ((images + 1) / 2, noise_std / 2),
                "(z + 1) / 2 turns a state into an image. Solve it for z.",
            ),
            Mistake(
                "you returned the two results in the wrong order",
                lambda images, noise_std: (2 * noise_std, 2 * images - 1),
                "First the state, then the standard deviation.",
            ),
        ],
        judge=_each(_state_and_noise, "the state", "the standard deviation"),
        unique=False,
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
            Mistake(
                "you mixed with 1 - t and t",
                lambda z_0, eps, schedule, t: (1 - t) * z_0 + t * eps,
                "t is only a clock: how much signal and noise it means, the schedule says, alpha(t) and sigma(t).",
            ),
            Mistake(
                "you took 1 - alpha for sigma",
                lambda z_0, eps, schedule, t: schedule.alpha(t) * z_0 + (1 - schedule.alpha(t)) * eps,
                "Variances add up to 1 in these schedules, factors do not: sigma is schedule.sigma(t).",
            ),
            Mistake(
                "you moved z_0 to [-1, 1] once more",
                lambda z_0, eps, schedule, t: schedule.alpha(t) * (2 * z_0 - 1) + schedule.sigma(t) * eps,
                "z_0 is a state already; 2 y - 1 belongs to images y in [0, 1].",
            ),
            Mistake(
                "you read alpha as the papers' alpha-bar",
                lambda z_0, eps, schedule, t: schedule.alpha(t) ** 0.5 * z_0 + (1 - schedule.alpha(t)) ** 0.5 * eps,
                "Here alpha(t) = sqrt(alpha-bar) and sigma(t) = sqrt(1 - alpha-bar), so no further root is needed.",
            ),
        ],
        judge=_noise_left,
        unique=False,
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
            Mistake(
                "you turned the time back into a log_snr",
                lambda schedule: schedule.log_snr(schedule.time_at(0.0)),
                "time_at already gives the time that is asked for; log_snr of it is the value you put in.",
            ),
            Mistake(
                "you asked for log_snr = 0.5",
                lambda schedule: schedule.time_at(0.5),
                "time_at takes a log_snr, not a time or a share: equal strength is the ratio 1, and its logarithm is 0.",
            ),
            Mistake(
                "you used the cosine schedule instead of the one handed in",
                lambda schedule: vp_cosine().time_at(0.0),
                "The function gets its schedule as an argument, and each check hands in another.",
            ),
        ],
        judge=_even,
        atol=1e-3,
    ),
]
