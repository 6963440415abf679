"""Checks for the exercises of chapter 16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..color import adain_fix, back_projection, low_frequencies, wavelet_fix
from ..images import photo, resize
from ..linear_operator import LinearOperator
from ..metrics import psnr, rgb_to_lab
from ..noise import standard_normal
from ..operators import AveragePool, Bicubic
from . import Exercise, Mistake


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _tinted(generator: Generator, height: int = 8, width: int = 12) -> tuple[Tensor, Tensor]:
    """(an image with a cast and grain, the image), both (2, 3, H, W); the first may leave [0, 1]."""
    hr = _uniform(generator, 2, 3, height, width)
    cast = _uniform(generator, 2, 3, 1, 1, low=-0.3, high=0.3)
    return hr + cast + 0.1 * _normal(generator, *hr.shape), hr


# 16.1: the colour difference.


def _delta_e(sr: Tensor, hr: Tensor, weights: tuple[float, float, float] = (1, 1, 1), order: int = 2) -> Tensor:
    """Right as it stands."""
    shift = (rgb_to_lab(sr) - rgb_to_lab(hr)).mean((2, 3)) * torch.tensor(weights)
    return shift.norm(p=order, dim=1)


# 16.2: AdaIN.


def _adain(sr: Tensor, up: Tensor, dims: tuple[int, ...] = (2, 3), power: float = 1.0) -> Tensor:
    """Right as it stands. dims: what the statistics run over; power: of the standard deviations."""
    mean, target = (v.mean(dims, keepdim=True) for v in (sr, up))
    gain = (up.std(dims, correction=0, keepdim=True) / sr.std(dims, correction=0, keepdim=True)) ** power
    return (sr - mean) * gain + target


# 16.3: back-projection.


def _project(sr: Tensor, lr: Tensor, operator: LinearOperator, undo: Callable | None = None, sign: int = 1) -> Tensor:
    """Right as it stands."""
    return sr + sign * (undo or operator.pinv)(lr - operator(sr))


def _project_inputs(generator: Generator) -> tuple[Tensor, Tensor, LinearOperator]:
    sr, hr = _tinted(generator)
    operator = (AveragePool(2), Bicubic(2))[generator.initial_seed() % 2]
    return sr, operator(hr), operator


def _explains(output: Tensor, sr: Tensor, lr: Tensor, operator: LinearOperator) -> str | None:
    return None if torch.allclose(operator(output), lr, atol=1e-9) else "A applied to your answer is not the LR image."


# 16.4: the wavelet fix.


def _exchange(sr: Tensor, up: Tensor, low: Callable) -> Tensor:
    return sr - low(sr) + low(up)


def _exchange_inputs(generator: Generator) -> tuple[Tensor, Tensor, Callable]:
    sr, hr = _tinted(generator)
    return sr, resize(resize(hr, 1 / 4), 4), lambda images: low_frequencies(images, 2)


# 16.5: P2 weighting in three languages.


def _p2(log_snr: Tensor, gamma: float, k: float, kind: str) -> Tensor:
    factor = (k + log_snr.exp()) ** -gamma
    return factor * {"eps": torch.ones_like, "z_0": torch.exp, "v": torch.sigmoid}[kind](log_snr)


def _p2_inputs(generator: Generator) -> tuple[Tensor, float, float, str]:
    gamma, k = _uniform(generator, 2, low=0.3, high=1.5).tolist()
    kind = ("eps", "v", "z_0", "v")[generator.initial_seed() % 4]
    return _uniform(generator, 5, low=-4.0, high=4.0), gamma, k, kind


# 16.6: zero terminal SNR.


def _rescale(alpha_bar: Tensor, power: float = 0.5, stretch: bool = True) -> Tensor:
    """Right as it stands. power: of alpha_bar in which it is shifted; stretch: bring the first back to its place."""
    root = alpha_bar**power
    shifted = root - root[-1]
    return (shifted * (root[0] / shifted[0] if stretch else 1.0)) ** (1 / power)


def _rescale_inputs(generator: Generator) -> tuple[Tensor]:
    low, high = 1e-4, _uniform(generator, 1, low=0.01, high=0.03).item()
    return (torch.cumprod(1 - torch.linspace(low, high, 100, dtype=torch.float64), 0),)


# 16.7: the brightness that a sampler forgets.


def _brightness(
    mean: float, std: float, pixels: int, alpha_bar: float, root: float = 0.5, one_call: bool = False
) -> tuple[float, float]:
    """Right as it stands. root: the power that makes alpha of alpha_bar; one_call: a posterior mean in place of the flow."""
    alpha, own = alpha_bar**root, pixels**0.5 * std
    total = alpha**2 * own**2 + 1 - alpha**2
    gain = alpha * own**2 / total if one_call else own / total**0.5
    return mean * (1 - gain * alpha), gain / pixels**0.5


def _ancestral_brightness(mean: float, std: float, pixels: int, alpha_bar: float) -> tuple[float, float]:
    """What DDPM makes of the same start: z_0 drawn from the posterior, not carried by the flow."""
    own = pixels * std**2
    share = alpha_bar * own / (alpha_bar * own + 1 - alpha_bar)
    return mean * (1 - share), ((own * (1 - share) + share**2 / alpha_bar) / pixels) ** 0.5


def _brightness_inputs(generator: Generator) -> tuple[float, float, int, float]:
    mean, std, alpha_bar = (_uniform(generator, 1, low=0.1, high=0.5).item() for _ in range(3))
    return mean, std / 4, 4 ** (2 + generator.initial_seed() % 4), alpha_bar


# 16.8: which fix.


def _fixed(name: str) -> tuple[str, float]:
    """(name, mean PSNR): three photos, tinted from left to right, beside a noisy LR image, repaired by one fix."""
    hr = torch.cat([photo(p)[..., 60:188, 130:290].double() for p in ("chelsea", "coffee", "astronaut")])
    noisy = resize(hr, 1 / 4)
    noisy = noisy + 0.05 * standard_normal(0)(noisy)
    ramp = torch.linspace(0, 1, hr.shape[-1], dtype=torch.float64)
    sr = hr + ramp * torch.tensor([0.12, 0.0, -0.12], dtype=torch.float64).view(1, 3, 1, 1)
    fixes = {
        "none": lambda: sr,
        "adain": lambda: adain_fix(sr, noisy),
        "wavelet": lambda: wavelet_fix(sr, noisy),
        "back-projection": lambda: back_projection(sr, noisy, Bicubic(4)),
    }
    return name, psnr(fixes[name](), hr, channel="rgb").mean().item()


CHAPTER = [
    Exercise(
        "16.1",
        "the colour difference of two images",
        reference=lambda sr, hr: _delta_e(sr, hr),
        inputs=_tinted,
        mistakes=[
            Mistake(
                "you averaged the pixels' own differences",
                lambda sr, hr: (rgb_to_lab(sr) - rgb_to_lab(hr)).norm(dim=1).mean((1, 2)),
                "Grain has a length everywhere; average (dL, da, db) over the pixels first, so that only the cast is left.",
            ),
            Mistake(
                "you converted the mean colours",
                lambda sr, hr: (
                    rgb_to_lab(sr.mean((2, 3), keepdim=True)) - rgb_to_lab(hr.mean((2, 3), keepdim=True))
                ).norm(dim=1)[:, 0, 0],
                "CIELAB is curved: the mean of converted pixels is not the converted mean.",
            ),
            Mistake(
                "you left out the lightness",
                lambda sr, hr: _delta_e(sr, hr, (0, 1, 1)),
                "Too bright is a shift as well: L* counts like a* and b*.",
            ),
            Mistake(
                "you added the three magnitudes",
                lambda sr, hr: _delta_e(sr, hr, order=1),
                "Delta E of 1976 is a length: the root of the sum of squares.",
            ),
            Mistake(
                "you measured in RGB",
                lambda sr, hr: (sr - hr).mean((2, 3)).norm(dim=1),
                "Convert with rgb_to_lab; the eye's steps are not RGB's.",
            ),
        ],
    ),
    Exercise(
        "16.2",
        "AdaIN's colour fix",
        reference=lambda sr, up: _adain(sr, up),
        inputs=_tinted,
        mistakes=[
            Mistake(
                "you divided by the variance",
                lambda sr, up: _adain(sr, up, power=2.0),
                "A contrast is an amplitude: take the ratio of standard deviations.",
            ),
            Mistake(
                "you only moved the mean",
                lambda sr, up: _adain(sr, up, power=0.0),
                "A gain per channel is part of the fix: (sr - mean) times std(up) / std(sr).",
            ),
            Mistake(
                "your statistics run over the batch",
                lambda sr, up: _adain(sr, up, (0, 2, 3)),
                "Every image has its own cast; average over the pixels of one image.",
            ),
            Mistake(
                "your statistics run over the channels",
                lambda sr, up: _adain(sr, up, (1, 2, 3)),
                "A tint is a difference between channels; each needs its own mean and standard deviation.",
            ),
            Mistake(
                "you fixed the wrong image",
                lambda sr, up: _adain(up, sr),
                "The details of sr shall stay; only its statistics come from the LR image.",
            ),
        ],
    ),
    Exercise(
        "16.3",
        "back-projection",
        reference=lambda sr, lr, operator: _project(sr, lr, operator),
        inputs=_project_inputs,
        judge=_explains,
        mistakes=[
            Mistake(
                "you used the adjoint for the pseudo-inverse",
                lambda sr, lr, operator: _project(sr, lr, operator, operator.adjoint),
                "A A^T is not the identity, so one step leaves most of the residual; A A^+ is.",
            ),
            Mistake(
                "you added the residual with the wrong sign",
                lambda sr, lr, operator: _project(sr, lr, operator, sign=-1),
                "lr - A sr is what sr lacks, so it is added.",
            ),
            Mistake(
                "you enlarged the residual with bicubic weights",
                lambda sr, lr, operator: _project(sr, lr, operator, lambda rest: resize(rest, 2)),
                "Shrinking a bicubic enlargement does not give it back; A^+ is made so that A A^+ does.",
            ),
            Mistake(
                "you added the whole LR image",
                lambda sr, lr, operator: sr + operator.pinv(lr),
                "Only the residual lr - A sr is missing in sr.",
            ),
        ],
    ),
    Exercise(
        "16.4",
        "the wavelet fix",
        reference=_exchange,
        inputs=_exchange_inputs,
        mistakes=[
            Mistake(
                "you swapped low and high",
                lambda sr, up, low: up - low(up) + low(sr),
                "That keeps the tint and throws the details away: low frequencies come from the LR image.",
            ),
            Mistake(
                "you fixed the clipped image",
                lambda sr, up, low: _exchange(sr.clamp(0, 1), up, low),
                "Clipping first moves the means that the fix is to correct; clip at the very end.",
            ),
            Mistake(
                "you clipped the answer",
                lambda sr, up, low: _exchange(sr, up, low).clamp(0, 1),
                "Leave that to whoever saves the image: another fix may still follow.",
            ),
            Mistake(
                "you added without taking away",
                lambda sr, up, low: sr + low(up),
                "sr has low frequencies of its own; subtract low(sr).",
            ),
            Mistake(
                "you added the whole LR image",
                lambda sr, up, low: sr - low(sr) + up,
                "Its blurred edges would be added to the sharp ones; only low(up) comes in.",
            ),
        ],
    ),
    Exercise(
        "16.5",
        "P2 weighting for eps, v and z_0",
        reference=_p2,
        inputs=_p2_inputs,
        mistakes=[
            Mistake(
                "you gave every kind the weight of eps",
                lambda log_snr, gamma, k, kind: _p2(log_snr, gamma, k, "eps"),
                "An error of z_0 is an error of eps divided by alpha / sigma: the same loss needs the factor SNR.",
            ),
            Mistake(
                "you took exp(log_snr / 2) for the SNR",
                lambda log_snr, gamma, k, kind: _p2(log_snr / 2, gamma, k, kind),
                "log_snr is the log of alpha^2 / sigma^2, squares included.",
            ),
            Mistake(
                "you divided where you should multiply",
                lambda log_snr, gamma, k, kind: _p2(log_snr, gamma, k, "eps") ** 2 / _p2(log_snr, gamma, k, kind),
                "Nearly clean states make errors of z_0 small; the factor SNR lifts them to those of eps.",
            ),
            Mistake(
                "your P2 factor is upside down",
                lambda log_snr, gamma, k, kind: _p2(log_snr, -gamma, k, kind),
                "P2 takes weight from clean states: 1 / (k + SNR)^gamma.",
            ),
        ],
    ),
    Exercise(
        "16.6",
        "a schedule that ends in pure noise",
        reference=lambda alpha_bar: _rescale(alpha_bar),
        inputs=_rescale_inputs,
        mistakes=[
            Mistake(
                "you rescaled alpha-bar itself",
                lambda alpha_bar: _rescale(alpha_bar, power=1.0),
                "Shift and stretch the amplitude sqrt(alpha-bar), then square.",
            ),
            Mistake(
                "you set the last value to 0 and left the others",
                lambda alpha_bar: torch.cat([alpha_bar[:-1], torch.zeros(1, dtype=alpha_bar.dtype)]),
                "Then one step has to jump over all the signal that was left; spread it over the schedule.",
            ),
            Mistake(
                "you shifted and did not stretch",
                lambda alpha_bar: _rescale(alpha_bar, stretch=False),
                "The first value shall stay what it was: multiply by first / (first - last).",
            ),
            Mistake(
                "you returned the amplitude",
                lambda alpha_bar: _rescale(alpha_bar) ** 0.5,
                "Square it in the end: alpha-bar was asked for.",
            ),
        ],
    ),
    Exercise(
        "16.7",
        "the brightness that a sampler forgets",
        reference=lambda *arguments: _brightness(*arguments),
        inputs=_brightness_inputs,
        mistakes=[
            Mistake(
                "you forgot the number of pixels",
                lambda mean, std, pixels, alpha_bar: _brightness(mean, std, 1, alpha_bar),
                "The mean of P pixels of noise has the standard deviation 1 / sqrt(P), so brightness stands far above it.",
            ),
            Mistake(
                "you took alpha-bar for its root",
                lambda *arguments: _brightness(*arguments, root=1.0),
                "The signal has the amplitude sqrt(alpha-bar).",
            ),
            Mistake(
                "you made a single call of the denoiser",
                lambda *arguments: _brightness(*arguments, one_call=True),
                "The posterior mean shrinks; the flow carries standard deviation to standard deviation.",
            ),
            Mistake(
                "that is what DDPM makes of the start",
                _ancestral_brightness,
                "It draws from the posterior and forgets a little less; the probability flow is an affine map.",
            ),
            Mistake(
                "you started where training ended",
                lambda mean, std, pixels, alpha_bar: (mean, std),
                "That start has the mean sqrt(alpha-bar) m; the sampler starts at 0 with variance 1.",
            ),
        ],
    ),
    Exercise(
        "16.8",
        "the fix that you would ship",
        reference=lambda: _fixed("wavelet"),
        mistakes=[
            Mistake(
                "you ship the tint",
                lambda: _fixed("none"),
                "Measure again: one of the fixes is several dB better than nothing.",
            ),
            Mistake(
                "AdaIN has one gain and one offset for the whole image",
                lambda: _fixed("adain"),
                "This tint grows from left to right, and the LR image's noise spoils its contrast; try the others.",
            ),
            Mistake(
                "back-projection believes the noise",
                lambda: _fixed("back-projection"),
                "A answer = lr holds perfectly, grain included; compare the PSNR.",
            ),
        ],
        rtol=1e-3,
    ),
]
