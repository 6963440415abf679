"""Between k-level data and densities: bins of a Gaussian, dequantisation, and bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_same_shape, check_whole
from ..noise import Noise

FAR = 1e15  # standard deviations: the outer ends of the first and the last bin


def _level_index(unit: Tensor, levels: int, argument: str, formula: str) -> Tensor:
    """i of values i/(k - 1), which must be those values to within a hundredth of a level."""
    check_whole(levels, "levels", low=2)
    place = (unit.double() * (levels - 1)).round()
    on_level = ((unit * (levels - 1) - place).abs() <= 0.01) & (place >= 0) & (place < levels)
    if not on_level.all():
        count = (~on_level).sum().item()
        raise ValueError(f"{argument} must hold k = {levels} levels, {formula}, but {count} values lie elsewhere")
    return place


def bin_log_prob(z_0: Tensor, mean: Tensor, std: Tensor | float, levels: int = 256) -> Tensor:
    """log P of the k-level data z_0 under N(mean, std^2) cut into bins, (B,), in nats: DDPM's decoder (arXiv 2006.11239).

    Level i of k lies at 2 i/(k - 1) - 1, in the middle of a bin of width 2/(k - 1); the outer bins reach to infinity, so
    that the k probabilities sum to 1. This is a probability already: no dequantisation, no Jacobian. `std` broadcasts
    to z_0. Public code takes the difference of two distribution functions and clamps it at 1e-12, which caps the price
    of a bad answer; here it is taken in the log and never clamped. Raises ValueError for data between the levels.
    """
    check_same_shape(mean, z_0, ("mean", "z_0"))
    place = _level_index((z_0.double() + 1) / 2, levels, "z_0", "2 i/(k - 1) - 1")
    half = 1 / (levels - 1)
    offset = z_0.double() - mean.double()
    low = torch.where(place == 0, -FAR, (offset - half) / std)
    high = torch.where(place == levels - 1, FAR, (offset + half) / std)
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # the tail with digits
    log_high = torch.special.log_ndtr(high)
    log_mass = log_high + (-torch.expm1(torch.special.log_ndtr(low) - log_high)).log()
    return log_mass.flatten(1).sum(1).to(z_0.dtype)


def uniform(noise: Noise) -> Noise:
    """A source of numbers spread evenly over [0, 1), made from a source of normal numbers."""

    def draw(like: Tensor) -> Tensor:
        return torch.special.ndtr(noise(like)).clamp(max=1 - torch.finfo(like.dtype).eps / 2)

    return draw


def dequantise(images: Tensor, levels: int, noise: Noise) -> Tensor:
    """k-level images, i/(k - 1) in [0, 1], as continuous states 2 (i + u)/k - 1 in [-1, 1), u = noise(images) uniform.

    `noise` draws u, such as uniform(standard_normal(0)). The mean of log p(z) over u, plus log(2/k) a dimension, is at
    most log P(i) (Theis et al. 2016, arXiv 1511.01844). A density asked at the k levels themselves can be made as large
    as one likes: it says nothing of the images. `domains.Pixel` spaces the same levels 2/(k - 1) apart, as
    `bin_log_prob` does: a model judged on dequantised states is trained on them. Raises ValueError for values between
    the levels and for u outside [0, 1].
    """
    place = _level_index(images, levels, "images", "i/(k - 1)")
    u = noise(images)
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError(
            f"noise must be uniform in [0, 1], but it runs from {u.min():.6g} to {u.max():.6g}; use uniform()"
        )
    return (2 * (place + u) / levels - 1).to(images.dtype)


def bits_per_dim(log_prob: Tensor, dim: int, levels: int | None = None) -> Tensor:
    """-log2 P / D of k-level data: -(log_prob + D log(2/k)) / (D log 2), shaped like log_prob (nats), D = dim.

    levels=k: log_prob is the density of `dequantise(images, levels=k)`, whose levels lie 2/k apart, so that each
    dimension's density times 2/k is a probability: 7 bits for k = 256, the number that public code adds without saying
    why. levels=None: log_prob is a probability already, such as -elbo_terms(..., levels=k).total, and nothing is added.
    k levels, all equally likely, cost log2 k.
    """
    check_whole(dim, "dim")
    width = 1.0 if levels is None else 2 / check_whole(levels, "levels", low=2)
    return -(log_prob / dim + math.log(width)) / math.log(2)
