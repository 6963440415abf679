"""Checks for the exercises of chapter 02."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..images import rgb_to_y, to_uint8
from ..metrics import lpips_distance, psnr
from ..widgets import wilson_interval
from . import Exercise, Mistake


def _mse(sr: Tensor, hr: Tensor) -> Tensor:
    return (sr - hr).square().mean((1, 2, 3))


def _images(generator: Generator) -> tuple[Tensor, Tensor]:
    """Three pairs of quite different quality."""
    hr = torch.rand(3, 3, 12, 17, generator=generator)
    std = torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1)
    return hr + std * torch.randn(hr.shape, generator=generator), hr


def _protocol(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    return psnr(to_uint8(sr).double() / 255, hr.double(), crop=scale)


def _y_psnr(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """PSNR of luma planes, cropped."""
    inside = slice(scale, -scale)
    return -10 * torch.log10(_mse(sr[..., inside, inside].double(), hr[..., inside, inside].double()))


def _full_range(images: Tensor) -> Tensor:
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _outputs(generator: Generator) -> tuple[Tensor, Tensor, int]:
    """A good answer as floats that leave [0, 1], with a bad border, and an 8-bit original."""
    scale = 2 + int(torch.randint(0, 3, (), generator=generator))
    hr = torch.randint(0, 256, (2, 3, 24, 27), generator=generator) / 255
    sr = hr + 0.004 * torch.randn(hr.shape, generator=generator)
    border = F.pad(torch.zeros(1, 1, 24 - 2, 27 - 2), (1, 1, 1, 1), value=0.2)
    return sr + border, hr, scale


def _terms(a: Tensor, b: Tensor) -> Tensor:
    return _terms_with(a, b)


def _terms_with(
    a: Tensor,
    b: Tensor,
    peak: float = 1.0,
    correction: int = 0,
    power: float = 1.0,
    share: float = 0.5,
    mu: bool = False,
    cov_correction: int | None = None,
) -> Tensor:
    """Luminance, contrast and structure of windows (B, N), with everything that people get wrong switchable."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = a.mean(1), b.mean(1)
    std_a, std_b = a.std(1, correction=correction), b.std(1, correction=correction)
    lost = correction if cov_correction is None else cov_correction
    cov = ((a - mean_a[:, None]) * (b - mean_b[:, None])).sum(1) / (a.shape[1] - lost)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    first, second = (mean_a, mean_b) if mu else (std_a**power, std_b**power)
    contrast = (2 * first * second + c2) / (first**2 + second**2 + c2)
    structure = (cov + share * c2) / (std_a * std_b + share * c2)
    return torch.stack([luminance, contrast, structure], 1)


def _windows(generator: Generator) -> tuple[Tensor, Tensor]:
    a = 0.2 + 0.6 * torch.rand(4, 1, generator=generator) + 0.1 * torch.randn(4, 49, generator=generator)
    return a, 0.1 + 0.7 * a + 0.03 * torch.randn(a.shape, generator=generator)


def _unit(features: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return features / (features.square().sum(dim, keepdim=True).sqrt() + 1e-10)


def _layer(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return lpips_distance([a], [b], [weight])


def _weighted(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return (weight.view(1, -1, 1, 1) * (a - b) ** 2).sum(1).mean((1, 2))


def _features(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    a = torch.rand(2, 5, 6, 7, generator=generator)
    return a, a + 0.3 * torch.rand(a.shape, generator=generator), torch.rand(5, generator=generator)


def _wald(successes: int, trials: int) -> tuple[float, float]:
    p = successes / trials
    half = 1.96 * math.sqrt(p * (1 - p) / trials)
    return p - half, p + half


def _wilson_without_root_term(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    p, shrink = successes / trials, 1 + z * z / trials
    half = z * math.sqrt(p * (1 - p) / trials) / shrink
    return (p + z * z / (2 * trials)) / shrink - half, (p + z * z / (2 * trials)) / shrink + half


def _wilson_without_shrink(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    p = successes / trials
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return p + z * z / (2 * trials) - half, p + z * z / (2 * trials) + half


def _votes(generator: Generator) -> tuple[int, int]:
    trials = int(torch.randint(8, 60, (), generator=generator))
    return int(torch.randint(1, trials, (), generator=generator)), trials


def _plane(variance: float, blend: float) -> tuple[float, float]:
    return (1 + blend**2) * variance, 1 - math.sqrt(1 - variance + blend**2 * variance)


def _point(generator: Generator) -> tuple[float, float]:
    return tuple((0.15 + 0.7 * torch.rand(2, generator=generator, dtype=torch.float64)).tolist())


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    d = b - a
    return d.mean(), d.std() / math.sqrt(len(d))


def _scores(generator: Generator) -> tuple[Tensor, Tensor]:
    a = 27 + 4 * torch.randn(14, generator=generator, dtype=torch.float64)
    return a, a + 0.3 + 0.2 * torch.randn(14, generator=generator, dtype=torch.float64)


def _root(matrix: Tensor, power: float = 0.5) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def _transport(mean_covariance: Tensor, covariance: Tensor) -> Tensor:
    half, inverse = _root(mean_covariance), _root(mean_covariance, -0.5)
    return inverse @ _root(half @ covariance @ half) @ inverse


def _covariances(generator: Generator) -> tuple[Tensor, Tensor]:
    """The law of a posterior mean and the prior's: prior covariance C, measurement x = y + noise."""
    factor = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    covariance = factor @ factor.T / 4 + 0.1 * torch.eye(4, dtype=torch.float64)
    noise = torch.diag(0.1 + torch.rand(4, generator=generator, dtype=torch.float64))
    return covariance @ torch.linalg.inv(covariance + noise) @ covariance, covariance


def _transport_judge(map_: Tensor, mean_covariance: Tensor, covariance: Tensor) -> str | None:
    if (map_ @ mean_covariance @ map_.T - covariance).abs().max() > 1e-6:
        return "the covariance of T m is not C, so the answers do not have the law of the originals."
    return None


CHAPTER = [
    Exercise(
        "02.1",
        "PSNR of each image, in dB",
        reference=lambda sr, hr: -10 * torch.log10(_mse(sr, hr)),
        inputs=_images,
        mistakes=[
            Mistake(
                "you averaged the squared error over the whole batch",
                lambda sr, hr: -10 * torch.log10((sr - hr).square().mean()),
                "Average over channels, rows and columns only; the batch dimension stays: (B,).",
            ),
            Mistake(
                "you averaged the PSNRs over the batch",
                lambda sr, hr: (-10 * torch.log10(_mse(sr, hr))).mean(),
                "One number for each image is wanted, (B,); averaging comes later.",
            ),
            Mistake(
                "you summed the squared errors",
                lambda sr, hr: -10 * torch.log10((sr - hr).square().sum((1, 2, 3))),
                "MSE is a mean: with a sum, a larger image gets a lower PSNR for the same error in each pixel.",
            ),
            Mistake(
                "you took 20 log10 of the squared error",
                lambda sr, hr: -20 * torch.log10(_mse(sr, hr)),
                "20 log10 belongs to the root of the mean squared error, 10 log10 to the mean squared error itself.",
            ),
            Mistake(
                "you used the natural logarithm",
                lambda sr, hr: -10 * torch.log(_mse(sr, hr)),
                "Decibels need log10; torch.log is the natural one.",
            ),
            Mistake(
                "you used a peak of 255",
                lambda sr, hr: 10 * torch.log10(255**2 / _mse(sr, hr)),
                "These images lie in [0, 1], so the peak is 1; 255 adds 48.1 dB.",
            ),
            Mistake(
                "the sign is turned round",
                lambda sr, hr: 10 * torch.log10(_mse(sr, hr)),
                "A smaller error must give a larger PSNR.",
            ),
        ],
    ),
    Exercise(
        "02.2",
        "the papers' protocol: 8 bit, Y, border cut",
        reference=_protocol,
        inputs=_outputs,
        mistakes=[
            Mistake(
                "you scored the floats",
                lambda sr, hr, scale: psnr(sr, hr, crop=scale),
                "Published numbers come from image files: clip and round to 8 bits first, to_uint8(sr) / 255.",
            ),
            Mistake(
                "you clipped without rounding",
                lambda sr, hr, scale: psnr(sr.double().clamp(0, 1), hr.double(), crop=scale),
                "A file holds 256 levels, not floats between them; to_uint8 clips and rounds.",
            ),
            Mistake(
                "you forgot to divide the 8-bit values by 255",
                lambda sr, hr, scale: psnr(to_uint8(sr).double(), hr.double(), crop=scale),
                "to_uint8 gives 0 to 255, hr lies in [0, 1]: bring both to the same range.",
            ),
            Mistake(
                "you rounded without clipping",
                lambda sr, hr, scale: psnr((sr * 255 + 0.5).floor() / 255, hr, crop=scale),
                "A file holds nothing below 0 or above 255; to_uint8 clips.",
            ),
            Mistake(
                "you scored RGB",
                lambda sr, hr, scale: psnr(to_uint8(sr).double() / 255, hr.double(), "rgb", scale),
                "Papers score the Y channel: rgb_to_y, or channel='y'.",
            ),
            Mistake(
                "you used full-range luma",
                lambda sr, hr, scale: _y_psnr(
                    _full_range(to_uint8(sr).double() / 255), _full_range(hr.double()), scale
                ),
                "Weights 0.299, 0.587, 0.114 give luma from 0 to 255; papers use BT.601 in studio range, 16 to 235.",
            ),
            Mistake(
                "you did not cut the border",
                lambda sr, hr, scale: psnr(to_uint8(sr).double() / 255, hr.double()),
                "Cut `scale` pixels from every side before averaging.",
            ),
            Mistake(
                "you rounded the luma as well",
                lambda sr, hr, scale: _y_psnr(
                    to_uint8(rgb_to_y(to_uint8(sr).double() / 255)).double() / 255,
                    to_uint8(rgb_to_y(hr.double())).double() / 255,
                    scale,
                ),
                "Round the RGB image once; its luma stays a float.",
            ),
        ],
    ),
    Exercise(
        "02.3",
        "luminance, contrast and structure of SSIM",
        reference=_terms,
        inputs=_windows,
        mistakes=[
            Mistake(
                "you used the means in the contrast term",
                lambda a, b: _terms_with(a, b, mu=True),
                "Contrast compares the standard deviations sigma; with mu it is a second luminance term, blind to blur.",
            ),
            Mistake(
                "you used variances where the contrast term wants standard deviations",
                lambda a, b: _terms_with(a, b, power=2),
                "S(a, b) squares its arguments itself: hand it sigma, not sigma squared.",
            ),
            Mistake(
                "you used C2 in the structure term",
                lambda a, b: _terms_with(a, b, share=1.0),
                "The structure term has C3 = C2 / 2; only then do contrast and structure merge into one fraction.",
            ),
            Mistake(
                "you divided by N - 1",
                lambda a, b: _terms_with(a, b, correction=1),
                "SSIM uses the plain weighted moments of the window (correction=0), as in use_sample_covariance=False.",
            ),
            Mistake(
                "your standard deviations divide by N - 1, your covariance by N",
                lambda a, b: _terms_with(a, b, correction=1, cov_correction=0),
                "torch.var and torch.std divide by N - 1 unless you write correction=0.",
            ),
            Mistake(
                "your constants belong to images in 0..255",
                lambda a, b: _terms_with(a, b, peak=255.0),
                "C1 = (0.01 L)^2 with L = 1 here; with L = 255 the constants swamp every variance.",
            ),
        ],
        rtol=1e-5,
        atol=1e-6,
    ),
    Exercise(
        "02.4",
        "the LPIPS distance of one layer",
        reference=_layer,
        inputs=_features,
        mistakes=[
            Mistake(
                "you did not normalise the features",
                _weighted,
                "Divide both feature vectors by their length over the channels first.",
            ),
            Mistake(
                "you normalised over positions as well",
                lambda a, b, w: _weighted(_unit(a, (1, 2, 3)), _unit(b, (1, 2, 3)), w),
                "Each position has its own length: the norm runs over dimension 1 alone.",
            ),
            Mistake(
                "you normalised over space instead of channels",
                lambda a, b, w: _weighted(_unit(a, (2, 3)), _unit(b, (2, 3)), w),
                "The norm runs over the channels, dimension 1, at every position.",
            ),
            Mistake(
                "you squared the weights",
                lambda a, b, w: _weighted(_unit(a, 1), _unit(b, 1), w**2),
                "Here the weight multiplies the squared difference, so it stays outside the square.",
            ),
            Mistake(
                "you averaged over the channels",
                lambda a, b, w: _weighted(_unit(a, 1), _unit(b, 1), w) / a.shape[1],
                "The weights already say what a channel counts: sum over channels, average over positions.",
            ),
            Mistake(
                "you summed over positions",
                lambda a, b, w: _weighted(_unit(a, 1), _unit(b, 1), w) * a.shape[2] * a.shape[3],
                "Sum over channels, but average over positions, or large images are farther apart than small ones.",
            ),
        ],
    ),
    Exercise(
        "02.5",
        "Wilson's interval for a preference",
        reference=wilson_interval,
        inputs=_votes,
        mistakes=[
            Mistake(
                "this is Wald's interval",
                _wald,
                "It has width zero when all votes agree; Wilson solves (p_hat - p)^2 = z^2 p (1 - p) / n for p.",
            ),
            Mistake(
                "you left out z^2 / (4 n^2) under the root",
                _wilson_without_root_term,
                "Without it the interval still has width zero when all votes agree.",
            ),
            Mistake(
                "you forgot to divide by 1 + z^2 / n",
                _wilson_without_shrink,
                "Centre and half-width are both divided by 1 + z^2 / n.",
            ),
            Mistake(
                "you gave percent",
                lambda k, n: tuple(100 * end for end in wilson_interval(k, n)),
                "Return shares between 0 and 1, as successes / trials is one.",
            ),
            Mistake(
                "the ends are swapped",
                lambda k, n: wilson_interval(k, n)[::-1],
                "First the lower end (minus), then the upper one (plus).",
            ),
            Mistake(
                "you used z = 1.645",
                lambda k, n: wilson_interval(k, n, 1.645),
                "1.645 leaves 5 % on each side, a 90 % interval; 95 % needs 1.96.",
            ),
        ],
    ),
    Exercise(
        "02.6",
        "a point on the exact perception-distortion plane",
        reference=_plane,
        inputs=_point,
        mistakes=[
            Mistake(
                "you took the MSE as (1 + a) V",
                lambda v, a: ((1 + a) * v, _plane(v, a)[1]),
                "a scales the deviation of the sample, so its variance grows with a squared.",
            ),
            Mistake(
                "you forgot the error of the posterior mean",
                lambda v, a: (a**2 * v, _plane(v, a)[1]),
                "Truth and sample both deviate from the mean: V from the truth, a^2 V from the blend.",
            ),
            Mistake(
                "you compared variances instead of standard deviations",
                lambda v, a: (_plane(v, a)[0], v * (1 - a**2)),
                "W2 of two centred Gaussians on a line is the difference of their standard deviations.",
            ),
            Mistake(
                "you compared the laws for one x, not over all x",
                lambda v, a: (_plane(v, a)[0], (1 - a) * math.sqrt(v)),
                "W2 here lies between all answers, whatever x was, and the prior; so the mean's own variance 1 - V counts.",
            ),
            Mistake(
                "you gave the blend the variance a^2 V only",
                lambda v, a: (_plane(v, a)[0], 1 - a * math.sqrt(v)),
                "The posterior mean moves with x: it has variance 1 - V, and the blend adds a^2 V to it.",
            ),
        ],
    ),
    Exercise(
        "02.7",
        "a paired difference and its standard error",
        reference=_paired,
        inputs=_scores,
        mistakes=[
            Mistake(
                "you treated the two methods as independent",
                lambda a, b: ((b - a).mean(), ((a.var() + b.var()) / len(a)).sqrt()),
                "Take the difference image by image first: what both methods share then cancels.",
            ),
            Mistake(
                "you gave the standard deviation of one difference",
                lambda a, b: ((b - a).mean(), (b - a).std()),
                "The mean of n differences is sqrt(n) times more certain than one of them.",
            ),
            Mistake(
                "you divided by n instead of its root",
                lambda a, b: ((b - a).mean(), (b - a).std() / len(a)),
                "The variance of a mean is var / n, so the standard error is std / sqrt(n).",
            ),
            Mistake(
                "you divided the squares by n, not n - 1",
                lambda a, b: ((b - a).mean(), (b - a).std(correction=0) / math.sqrt(len(a))),
                "The mean was estimated from the same n numbers: correction=1, which is torch's default.",
            ),
            Mistake(
                "the difference has the wrong sign",
                lambda a, b: ((a - b).mean(), (b - a).std() / math.sqrt(len(a))),
                "The gain of b over a is b - a.",
            ),
        ],
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "02.8",
        "the cheapest realistic estimator",
        reference=_transport,
        inputs=_covariances,
        mistakes=[
            Mistake(
                "your map gives the right law, but not at the least cost",
                lambda m, c: _root(c) @ _root(m, -0.5),
                "C^(1/2) M^(-1/2) is not symmetric unless M and C commute; the cheapest map is the symmetric one.",
            ),
            Mistake(
                "you only rescaled by the total variance",
                lambda m, c: (c.trace() / m.trace()).sqrt() * torch.eye(len(m), dtype=m.dtype),
                "One factor repairs the trace, not the covariance: T M T^T must equal C in every direction.",
            ),
            Mistake(
                "you exchanged the two covariances",
                lambda m, c: _transport(c, m),
                "This map takes the originals to the posterior means; you want the way back.",
            ),
            Mistake(
                "you stopped one step early",
                lambda m, c: _root(_root(m) @ c @ _root(m)),
                "That root is M^(1/2) T M^(1/2); solve it for T.",
            ),
            Mistake(
                "your map leaves out M",
                lambda m, c: _root(c),
                "C^(1/2) would be right if m were white; m has the covariance M.",
            ),
        ],
        judge=_transport_judge,
        rtol=1e-6,
        atol=1e-8,
    ),
]
