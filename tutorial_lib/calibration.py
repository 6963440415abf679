"""Is a sampler as sure as it is right? Ranks of the truth among samples, probabilities against frequencies, coverage.

A sampler of p(y | x) is calibrated when the truth could be one of its samples: given x, truth and samples are exchangeable.
Everything here tests consequences of that. Sharpness is another matter: a sampler that ignores x and draws from p(y) is
calibrated as well, so report an error beside it.

The first dimension of `truth` counts items that are independent of each other (images); what follows it (pixels) belongs
together. Pixels of an image are correlated, so a million of them say less than a million coin tosses: all bands here come
from whole images. For ranks and coverage they are drawn: in each image one of the K + 1 members (the truth, the K samples)
is picked at random to play the truth, which under calibration has the same law as the real one, correlations included.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .checks import check_whole


class RankHistogram(NamedTuple):
    """How often the truth has which rank among the samples; see `rank_histogram`."""

    counts: Tensor  # (bins,) truths per bin of ranks, lowest first; their sum is the number of pixels
    errors: Tensor  # (bins,) standard error of `counts`, from their variation between images
    low: Tensor  # (bins,) and `high`: within these a calibrated sampler's count lies with the chance `level`
    high: Tensor
    tilt: float  # mean of (rank + 1/2) / (K + 1) - 1/2: above 0 where the samples lie too low, below 0 where too high
    tilt_std: float  # its standard deviation: for a calibrated sampler, or between images, whichever is larger
    spread: float  # variance of the rank over that of a uniform one: above 1 samples are too narrow, below too wide
    spread_std: float  # likewise
    p_value: float  # the chance that a calibrated sampler's histogram is at least this uneven (sum of squares)

    def verdict(self, deviations: float = 3.0) -> str:
        """What stands out most: samples "too narrow", "too wide", "biased low" or "biased high", "uneven", or "calibrated".

        Judged by tilt and spread, in standard deviations; where neither stands out, "uneven" means that some bin is off by
        one standard error more than `deviations` (heavy tails, for example: full in the middle and at both ends). With many
        pixels even a tiny miscalibration is significant, so say how large tilt and spread are as well.
        """
        off = {
            "biased low" if self.tilt > 0 else "biased high": abs(self.tilt) / max(self.tilt_std, 1e-12),
            "too narrow" if self.spread > 1 else "too wide": abs(self.spread - 1) / max(self.spread_std, 1e-12),
        }
        worst = max(off, key=off.__getitem__)
        if off[worst] > deviations:
            return worst
        error = torch.maximum(self.errors, (self.high - self.low) / 4)
        gap = (self.counts - self.counts.mean()).abs() / error.clamp(min=1e-12)
        return "uneven" if gap.max() > deviations + 1 else "calibrated"


class Coverage(NamedTuple):
    """How often central intervals hold the truth; see `coverage`."""

    observed: float  # share of truths inside
    nominal: float  # the level that K samples can give, nearest to the one asked for
    low: float  # and `high`: within these a calibrated sampler's share lies with the chance 95 %
    high: float
    width: float  # mean width of the intervals, in the units of the samples


class Reliability(NamedTuple):
    """Predicted probabilities against observed frequencies; see `reliability`."""

    predicted: Tensor  # (bins,) mean probability in the bin, NaN where the bin is empty
    observed: Tensor  # (bins,) share of events
    low: Tensor  # (bins,) and `high`: Wilson's interval around `observed`
    high: Tensor
    counts: Tensor  # (bins,) predictions in the bin
    error: float  # expected calibration error: mean of |observed - predicted| over bins, weighted by their counts
    floor: float  # what `error` would be on average if every probability were right (chance alone keeps it above 0)


def _check_samples(truth: Tensor, samples: Tensor) -> None:
    if truth.ndim < 1 or samples.shape[1:] != truth.shape or len(samples) < 1 or not truth.numel():
        raise ValueError(
            f"samples must have shape (K, *truth.shape), but samples {tuple(samples.shape)} and truth"
            f" {tuple(truth.shape)} came"
        )
    if not (torch.isfinite(truth).all() and torch.isfinite(samples).all()):
        raise ValueError("truth and samples must be finite, but NaN or infinite values came")


def _member_ranks(members: Tensor, generator: Generator) -> Tensor:
    """Rank 0 .. K of each of the K + 1 members (first dimension) among all of them, ties in random order; same shape."""
    shuffled = torch.rand(members.shape, generator=generator).argsort(0)
    order = shuffled.gather(0, members.gather(0, shuffled).argsort(dim=0, stable=True))  # stable: ties stay shuffled
    places = torch.arange(len(members)).view(-1, *[1] * (members.ndim - 1)).expand_as(order)
    return torch.empty_like(order).scatter_(0, order, places)


def _rank_counts(truth: Tensor, samples: Tensor, generator: Generator) -> Tensor:
    """How often each member of each image has each rank: (B, K + 1 members, K + 1 ranks), the truth first."""
    count, images, tables = len(samples) + 1, len(truth), []
    chunk = max(1, 2**21 // (count * (truth.numel() // images)))
    for some, many in zip(truth.split(chunk), samples.split(chunk, 1), strict=True):
        members = torch.cat([some[None], many]).reshape(count, len(some), -1)
        ranks = _member_ranks(members, generator)
        cell = torch.arange(len(some)).view(-1, 1) + len(some) * torch.arange(count).view(-1, 1, 1)  # member, image
        table = torch.bincount((cell * count + ranks).flatten(), minlength=count * len(some) * count)
        tables.append(table.view(count, len(some), count).transpose(0, 1))
    return torch.cat(tables).double()


def _as_if_calibrated(tables: Tensor, draws: int, generator: Generator) -> Tensor:
    """Rank counts when a random member of each image plays the truth: (draws, ranks)."""
    images, members, _ = tables.shape
    rows = tables.reshape(images * members, -1)
    first = members * torch.arange(images)
    chosen = first + torch.randint(members, (draws, images), generator=generator)
    return torch.stack([rows.index_select(0, row).sum(0) for row in chosen])


def rank_histogram(
    truth: Tensor,
    samples: Tensor,
    generator: Generator,
    bins: int | None = None,
    level: float = 0.95,
    draws: int = 1000,
) -> RankHistogram:
    """The rank of each pixel of `truth` (B, ...) among the K `samples` (K, B, ...) of it, counted over images and pixels.

    Flat for a calibrated sampler; U-shaped when samples are too narrow (the truth often lies outside), a hump when too wide,
    sloped when biased. Ties, which 8-bit images and clipping bring, are broken at random with `generator`, which also draws
    the band: pointwise, with the chance `level`, from `draws` histograms in which a random member of each image plays the
    truth. That band is right for any K and any correlation within an image; it needs images to be independent. It belongs
    to samples that are right as whole images: where each pixel's law is right but pixels vary too independently of each
    other, the histogram is flat and the band, which believes the samples, too narrow; `errors` then tells more.
    `bins` joins neighbouring ranks and must divide K + 1 (default: K + 1). Raises ValueError for shapes that do not fit and
    for bins that do not divide. How to read rank histograms: Hamill 2001, Monthly Weather Review 129, 550-560.
    """
    _check_samples(truth, samples)
    ranks = len(samples) + 1
    bins = check_whole(ranks if bins is None else bins, "bins", 2)
    check_whole(draws, "draws", 2)
    if ranks % bins:
        raise ValueError(f"bins must divide the number of ranks, K + 1 = {ranks}, but {bins} came")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, but {level!r} came")
    tables = _rank_counts(truth, samples, generator)
    found, drawn = tables[:, 0].sum(0, keepdim=True), _as_if_calibrated(tables, draws, generator)
    place = (torch.arange(ranks, dtype=torch.float64) + 0.5) / ranks - 0.5

    def tilt(counts: Tensor) -> Tensor:
        return counts @ place / truth.numel()

    def spread(counts: Tensor) -> Tensor:
        return (counts @ place**2 / truth.numel() - tilt(counts) ** 2) / (place**2).mean()

    def binned(counts: Tensor) -> Tensor:
        return counts.view(len(counts), bins, -1).sum(2)

    def unevenness(counts: Tensor) -> Tensor:
        return (binned(counts) - truth.numel() / bins).square().sum(1)

    def error(parts: Tensor) -> Tensor:  # of a sum of contributions (images, ...)
        return parts.std(0) * math.sqrt(len(parts)) if len(parts) > 1 else torch.zeros_like(parts[0])

    each = tables[:, 0]
    tilts, spreads = each @ place, each @ (place - tilt(found)) ** 2 / (place**2).mean()
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(binned(drawn), tails, dim=0)
    uneven = (unevenness(drawn) >= unevenness(found)).sum().item()
    return RankHistogram(
        counts=binned(found)[0],
        errors=error(binned(each)),
        low=low,
        high=high,
        tilt=tilt(found).item(),
        tilt_std=max(tilt(drawn).std().item(), error(tilts).item() / truth.numel()),
        spread=spread(found).item(),
        spread_std=max(spread(drawn).std().item(), error(spreads).item() / truth.numel()),
        p_value=(uneven + 1) / (draws + 1),
    )


def coverage(truth: Tensor, samples: Tensor, level: float, generator: Generator, draws: int = 1000) -> Coverage:
    """How often the central interval of the K `samples` (K, B, ...) holds the `truth` (B, ...).

    The interval runs from the l-th lowest to the l-th highest sample, which holds a further draw of the same law with the
    chance (K + 1 - 2 l) / (K + 1), exactly, for every law; l is chosen so that this `nominal` level is nearest to `level`.
    (The interval between the samples' own quantiles, often used, is too narrow: with K = 20 the one between the 5 % and
    95 % quantiles holds 81 %.) Ties and band as in `rank_histogram`. Raises ValueError when K samples cannot tell `level`
    from the range of them all, or from nothing.
    """
    _check_samples(truth, samples)
    check_whole(draws, "draws", 2)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, but {level!r} came")
    ranks = len(samples) + 1
    outside = round((1 - level) / 2 * ranks)
    if outside < 1 or 2 * outside >= ranks:
        raise ValueError(
            f"samples must be at least {math.floor(1 / (1 - level) + 1e-9)} to tell a level of {level:g}, but K = {ranks - 1} came"
        )
    tables = _rank_counts(truth, samples, generator)
    inside = slice(outside, ranks - outside)
    shares = _as_if_calibrated(tables, draws, generator)[:, inside].sum(1) / truth.numel()
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    ordered = samples.sort(0).values
    width = (ordered[ranks - 1 - outside] - ordered[outside - 1]).double().mean().item()
    return Coverage((tables[:, 0, inside].sum() / truth.numel()).item(), 1 - 2 * outside / ranks, low, high, width)


def _wilson(share: Tensor, count: Tensor, deviations: float) -> tuple[Tensor, Tensor]:
    """Wilson's score interval of a share among `count` (any positive number, also an effective one)."""
    squared = deviations**2 / count
    centre = (share + squared / 2) / (1 + squared)
    half = (squared * (share * (1 - share) + squared / 4)).sqrt() / (1 + squared)
    return (centre - half).clamp(min=0), (centre + half).clamp(max=1)


def reliability(
    events: Tensor, probabilities: Tensor, bins: int = 10, level: float = 0.95, clusters: Tensor | None = None
) -> Reliability:
    """What happened, `events` (N,) of zeros and ones, against what was predicted, `probabilities` (N,) in [0, 1].

    Predictions are sorted into `bins` equally wide bins; in each, the share of events is compared with the mean prediction
    (a reliability diagram draws one over the other; the diagonal is calibrated). `low` and `high` are Wilson's interval with
    the chance `level`. `clusters` (N,) of whole numbers says which entries belong together, such as several attributes of
    one face: the count in Wilson's interval is then divided by the design effect, the variance that the clusters' sums
    show over that of independent entries (never below 1), and `floor` grows alike.

    A probability read off K samples, k / K, is itself uncertain: even a calibrated sampler then shows a curve flatter than
    the diagonal (no event ever in K samples does not mean never). The fair yardstick is the curve of one more sample in the
    place of the truth. Raises ValueError for shapes or values that do not fit. Calibration error: Guo et al. 2017,
    arXiv 1706.04599.
    """
    events, probabilities = torch.as_tensor(events).double(), torch.as_tensor(probabilities).double()
    check_whole(bins, "bins")
    if events.ndim != 1 or events.shape != probabilities.shape or not len(events):
        raise ValueError(
            "events and probabilities must both have shape (N,), but the shapes"
            f" {tuple(events.shape)} and {tuple(probabilities.shape)} came"
        )
    if not ((events == 0) | (events == 1)).all():
        raise ValueError("events must be zeros and ones (or booleans), but other values came")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"probabilities must lie between 0 and 1, but {probabilities.min():.6g} to {probabilities.max():.6g} came"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, but {level!r} came")
    if clusters is not None and clusters.shape != events.shape:
        raise ValueError(f"clusters must have shape {tuple(events.shape)}, but {tuple(clusters.shape)} came")
    place = (probabilities * bins + 1e-6).long().clamp(max=bins - 1)
    counts = torch.bincount(place, minlength=bins).double()

    def mean_of(values: Tensor) -> Tensor:
        return torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values) / counts

    predicted, observed = mean_of(probabilities), mean_of(events)
    effect = torch.ones(bins, dtype=torch.float64)
    if clusters is not None:
        groups, member = torch.unique(torch.stack([place, clusters.long()]), dim=1, return_inverse=True)
        sums = torch.zeros(groups.shape[1], dtype=torch.float64).index_add_(0, member, events - observed[place])
        squares = torch.zeros(bins, dtype=torch.float64).index_add_(0, groups[0], sums.square())
        independent = counts * observed * (1 - observed)
        effect = torch.where(independent > 0, squares / independent, 1.0).clamp(min=1.0)
    deviations = torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)).item()
    low, high = _wilson(observed, counts / effect, deviations)
    share = counts / len(events)
    by_chance = math.sqrt(2 / math.pi) * (mean_of(probabilities * (1 - probabilities)) * effect / counts).sqrt()
    error, floor = ((share * part).nansum().item() for part in ((observed - predicted).abs(), by_chance))
    return Reliability(predicted, observed, low, high, counts.long(), error, floor)
