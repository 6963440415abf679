"""Calibration measures on exact Gaussian posteriors: the right verdicts, and bands that hold for correlated pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Generator

from tutorial_lib.calibration import coverage, rank_histogram, reliability
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian
from tutorial_lib.sr3 import conditional_law

K = 19


def seeded(seed=0):
    return Generator().manual_seed(seed)


def posterior_draws(count, k=K, scale=1.0, bias=0.0, seed=0):
    """Truths (count, 4) with k samples each of p(y | x), made narrower, wider or shifted in units of its own spread."""
    size, noise = 4, standard_normal(seed)
    place = torch.arange(size, dtype=torch.float64)
    prior = Gaussian(torch.linspace(-0.3, 0.4, size).double(), 0.5 * 0.8 ** (place[:, None] - place).abs())
    pool = torch.kron(torch.eye(2), torch.full((1, 2), 0.5)).double()
    truth = prior.sample(count, noise)
    x = truth @ pool.T + 0.1 * noise(truth[:, :2])
    gain, offset, covariance = conditional_law(prior, pool, 0.1)
    root = torch.linalg.cholesky(covariance)
    drawn = noise(torch.empty(k, count, size, dtype=torch.float64))
    return truth, x @ gain.T + offset + scale * drawn @ root.T + bias * covariance.diagonal().sqrt()


def rank_chances(k, scale=1.0, bias=0.0):
    """P(rank = r) of a standard normal truth among k samples of N(bias, scale^2): a binomial, averaged over the truth."""
    y = np.linspace(-9, 9, 3601)
    pmf = stats.binom.pmf(np.arange(k + 1)[:, None], k, stats.norm.cdf((y - bias) / scale))
    return integrate.simpson(stats.norm.pdf(y) * pmf, x=y)


CASES = {
    "calibrated": {},
    "too narrow": {"scale": 0.6},
    "too wide": {"scale": 1.6},
    "biased low": {"bias": -0.5},
    "biased high": {"bias": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_ranks_have_their_exact_law_and_the_right_verdict(name):
    """Counts within five binomial standard errors of the integral; one pixel of each posterior, so all independent."""
    truth, samples = posterior_draws(3000, **CASES[name])
    truth, samples = truth[:, 1], samples[:, :, 1]
    found = rank_histogram(truth, samples, seeded(), draws=300)
    chances = torch.from_numpy(rank_chances(K, **CASES[name]))
    assert found.counts.sum() == 3000 and found.counts.shape == found.low.shape == (K + 1,)
    assert ((found.counts - 3000 * chances).abs() < 5 * (3000 * chances * (1 - chances)).sqrt()).all()
    assert found.verdict() == name
    place = (torch.arange(K + 1) + 0.5) / (K + 1) - 0.5
    tilt = (chances * place).sum().item()
    spread = ((chances * place**2).sum() - tilt**2).item() / place.double().square().mean().item()
    assert found.tilt == pytest.approx(tilt, abs=5 * found.tilt_std)
    assert found.spread == pytest.approx(spread, abs=8 * found.spread_std)
    assert (found.p_value > 0.01) == (name == "calibrated") and found.p_value > 0
    outside = ((found.counts < found.low) | (found.counts > found.high)).sum()
    assert outside <= 4 if name == "calibrated" else outside >= 8


@pytest.mark.parametrize("name", CASES)
def test_whole_images_get_the_same_verdict(name):
    truth, samples = posterior_draws(1500, **CASES[name])
    truth, samples = truth.reshape(-1, 1, 2, 2), samples.reshape(K, -1, 1, 2, 2)
    found = rank_histogram(truth, samples, seeded(), bins=10, draws=300)
    assert found.verdict() == name and found.counts.sum() == truth.numel() and found.counts.shape == (10,)
    chances = torch.from_numpy(rank_chances(K, **CASES[name])).view(10, 2).sum(1)
    # four pixels of one image at most move together: a count of images, four at a time
    assert ((found.counts / 4 - 1500 * chances).abs() < 5 * (1500 * chances * (1 - chances)).sqrt()).all()


def test_bands_of_independent_items_are_binomial():
    truth, samples = posterior_draws(2000)
    found = rank_histogram(truth[:, 0], samples[:, :, 0], seeded(), draws=1000)
    share = 1 / (K + 1)
    low, high = stats.binom.ppf([0.025, 0.975], 2000, share)
    error = math.sqrt(2000 * share * (1 - share)) * 0.09  # of a 2.5 % quantile of 1000 draws
    assert ((found.low - low).abs() < 5 * error).all() and ((found.high - high).abs() < 5 * error).all()
    assert found.tilt_std == pytest.approx(math.sqrt(1 / 12 / 2000), rel=0.1)


def same_everywhere(count, pixels, seed, k=9):
    """Calibrated, but all pixels of an image nearly one number."""
    noise = standard_normal(seed)
    truth, samples = noise(torch.empty(count, 1)), noise(torch.empty(k, count, 1))
    truth = truth + 0.3 * noise(torch.empty(count, pixels))
    return truth, samples + 0.3 * noise(torch.empty(k, count, pixels))


def test_bands_hold_for_correlated_pixels_where_a_binomial_band_cries_wolf():
    """60 calibrated experiments: p-values below 0.1 in about a tenth of them. Pixels counted as if independent: in most."""
    runs, images, pixels = 60, 30, 50
    small, naive = 0, 0
    for seed in range(runs):
        truth, samples = same_everywhere(images, pixels, seed)
        found = rank_histogram(truth, samples, seeded(seed), draws=60)
        small += found.p_value < 0.1
        expected = truth.numel() / 10
        naive += stats.chi2.sf(((found.counts - expected) ** 2 / expected).sum().item(), 9) < 0.1
    assert stats.binom.ppf(1e-4, runs, 0.1) <= small <= stats.binom.ppf(1 - 1e-4, runs, 0.1)
    assert naive > 0.9 * runs


def test_errors_are_the_spread_between_images():
    """Independent items: binomial. Copies of one number as pixels: as if there were one pixel."""
    truth, samples = posterior_draws(2000)
    alone = rank_histogram(truth[:, :1], samples[:, :, :1], seeded(), draws=2)
    share = alone.counts / 2000
    torch.testing.assert_close(alone.errors, (2000 * share * (1 - share)).sqrt(), rtol=1e-3, atol=0)
    copies = [images[..., :1].expand(*images.shape[:-1], 7) for images in (truth, samples)]
    found = rank_histogram(*copies, seeded(), draws=100)
    torch.testing.assert_close(found.errors, 7 * alone.errors)
    assert found.tilt_std == pytest.approx(math.sqrt(1 / 12 / 2000), rel=0.2)


def test_a_verdict_on_pixels_does_not_need_the_right_correlation_between_them():
    """Each pixel's law is right, but the samples' pixels are independent, the truth's are one number: the band believes the
    samples and is far too narrow (a tiny p-value), the verdict, which looks at the variation between images, still holds."""
    wrong, small = 0, 0
    for seed in range(40):
        noise = standard_normal(seed)
        truth, samples = noise(torch.empty(40, 1)).expand(40, 50), noise(torch.empty(9, 40, 50))
        found = rank_histogram(truth, samples, seeded(seed), draws=60)
        wrong += found.verdict() != "calibrated"
        small += found.p_value < 0.05
    assert wrong <= 3 and small > 20  # a right band would be left in about 2 of 40; the verdict errs in about 1


def test_heavy_tails_without_tilt_or_spread_are_uneven():
    """Half of the truths a quarter as spread as the samples, half nearly twice: ranks vary about as they should, unevenly."""
    noise, share = standard_normal(0), torch.rand(20_000, generator=seeded(1))
    truth = noise(torch.empty(20_000)) * torch.where(share < 0.5, 0.25, 1.9)
    found = rank_histogram(truth, noise(torch.empty(9, 20_000)), seeded(), draws=100)
    assert found.verdict(deviations=abs(found.spread - 1) / found.spread_std + 0.1) == "uneven"
    assert found.counts[0] > 1.3 * found.counts[1] and found.counts[4] > 1.3 * found.counts[1]
    right = rank_histogram(noise(torch.empty(20_000)), noise(torch.empty(9, 20_000)), seeded(), draws=100)
    assert right.verdict() == "calibrated"


def test_ties_are_broken_at_random_and_only_by_the_generator():
    truth, samples = torch.zeros(200, 30), torch.zeros(4, 200, 30)
    found = rank_histogram(truth, samples, seeded(0), draws=100)
    error = math.sqrt(6000 * 0.2 * 0.8)
    assert ((found.counts - 1200).abs() < 5 * error).all() and found.verdict() == "calibrated"
    torch.manual_seed(1)
    again, other = (
        rank_histogram(truth, samples, seeded(0), draws=100),
        rank_histogram(truth, samples, seeded(1), draws=2),
    )
    assert torch.equal(found.counts, again.counts) and not torch.equal(found.counts, other.counts)
    samples = torch.tensor([0.0, 1.0, -1.0]).view(3, 1, 1).expand(3, 200, 30)  # one tie: ranks 1 or 2, half and half
    counts = rank_histogram(truth, samples, seeded(0), draws=100).counts
    assert counts[0] == counts[3] == 0 and abs(counts[1] - 3000) < 5 * math.sqrt(1500)


def test_eight_bit_images_stay_calibrated():
    """Rounding and clipping make ties in nearly every pixel; ties counted as below or as above would look biased."""
    truth, samples = posterior_draws(1500)
    rounded = [(5 * images).round().clamp(-1, 1) for images in (truth, samples)]
    assert rank_histogram(*rounded, seeded(), draws=100).verdict() == "calibrated"
    below = (rounded[1] < rounded[0]).sum(0)  # the mutant: ties count as above
    place = ((below + 0.5) / (K + 1) - 0.5).mean().item()
    assert abs(place) > 10 * rank_histogram(*rounded, seeded(), draws=100).tilt_std


def test_ranks_count_the_samples_below():
    truth = torch.tensor([[2.5], [0.0], [9.0]])
    samples = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).expand(3, 3, 1)
    assert rank_histogram(truth, samples, seeded()).counts.tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (0.6, 0.0), (1.6, 0.0), (1.0, 0.7)])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_coverage_is_the_sum_of_its_ranks(scale, bias, level):
    truth, samples = posterior_draws(1500, scale=scale, bias=bias)
    truth, samples = truth[:, 2], samples[:, :, 2]
    found = coverage(truth, samples, level, seeded(), draws=300)
    outside = round((1 - level) / 2 * (K + 1))
    expected = rank_chances(K, scale, bias)[outside : K + 1 - outside].sum()
    assert found.nominal == pytest.approx(level, abs=0.5 / (K + 1) * 2)
    assert found.observed == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / 1500))
    assert (found.low <= found.observed <= found.high) == (scale == 1 and bias == 0)
    error = 1.96 * math.sqrt(found.nominal * (1 - found.nominal) / 1500)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.25)


def test_width_of_the_interval():
    """Mean range of order statistics of a Gaussian, against scipy's density of an order statistic."""
    truth, samples = posterior_draws(1500)
    found = coverage(truth[:, 0], samples[:, :, 0], 0.8, seeded(), draws=2)
    fifth = stats.beta(2, K - 1)  # the second lowest of 19 uniform numbers
    centre = integrate.quad(lambda u: fifth.pdf(u) * stats.norm.ppf(u), 1e-12, 1 - 1e-12)[0]
    std = (samples[:, :, 0] - samples[:, :, 0].mean(0)).var(0).mean().sqrt().item()
    assert found.width == pytest.approx(-2 * centre * std, rel=0.01)


def test_the_interval_between_sample_quantiles_is_too_narrow():
    """The number that the docstring quotes, and why `coverage` counts ranks instead."""
    noise = standard_normal(0)
    truth, samples = noise(torch.empty(40_000)), noise(torch.empty(20, 40_000))
    low, high = torch.quantile(samples, torch.tensor([0.05, 0.95]), dim=0)
    inside = ((truth >= low) & (truth <= high)).float().mean().item()
    assert inside == pytest.approx(0.814, abs=5 * math.sqrt(0.814 * 0.186 / 40_000))


# --------------------------------------------------------------------------------------------------------- reliability


def forecasts(count, change=lambda p: p, seed=0):
    """True chances p, uniform; events drawn from them; what is said instead of p."""
    p = torch.rand(count, generator=seeded(seed), dtype=torch.float64)
    events = torch.rand(count, generator=seeded(seed + 1000), dtype=torch.float64) < p
    return events, change(p)


def test_a_right_forecast_lies_on_the_diagonal():
    events, said = forecasts(20_000)
    found = reliability(events, said)
    assert found.counts.sum() == 20_000 and (found.counts > 1800).all()
    edges = torch.linspace(0, 1, 11).double()
    assert ((found.predicted > edges[:-1]) & (found.predicted < edges[1:])).all()
    error = (found.predicted * (1 - found.predicted) / found.counts).sqrt()
    assert ((found.observed - found.predicted).abs() < 5 * error).all()
    assert found.error == pytest.approx(found.floor, rel=0.8) and found.error < 0.015


def test_the_floor_is_the_mean_error_of_right_forecasts():
    found = [reliability(*forecasts(300, seed=seed)) for seed in range(300)]
    errors = np.array([one.error for one in found])
    assert errors.mean() == pytest.approx(np.mean([one.floor for one in found]), abs=5 * errors.std() / math.sqrt(300))


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda p: 0.5 + 1.6 * (p - 0.5), -1, 1),  # overconfident: the extremes happen less often than said
        (lambda p: 0.5 + 0.5 * (p - 0.5), 1, -1),  # timid
        (lambda p: p.sqrt(), -1, -1),  # always too high
    ],
)
def test_wrong_forecasts_are_seen_and_named_by_their_side(change, low, high):
    """Signs of observed - said in the lower and the upper half."""
    events, said = forecasts(20_000, lambda p: change(p).clamp(0, 1))
    found = reliability(events, said, bins=6)
    assert found.error > 5 * found.floor
    gap = (found.observed - found.predicted).where(found.counts > 50, 0.0)
    lower, upper = gap[:2][gap[:2].abs().argmax()], gap[4:][gap[4:].abs().argmax()]
    assert torch.sign(lower) == -low and torch.sign(upper) == -high or low == high and (gap <= 0).all()


def test_intervals_are_wilsons():
    events = torch.tensor([1] * 7 + [0] * 13 + [1] * 30)
    said = torch.tensor([0.4] * 20 + [0.97] * 30)
    found = reliability(events, said, bins=5, level=0.9)
    for place, (hits, count) in ((2, (7, 20)), (4, (30, 30))):
        exact = stats.binomtest(hits, count).proportion_ci(0.9, method="wilson")
        assert found.low[place].item() == pytest.approx(exact.low) and found.high[place].item() == pytest.approx(
            exact.high
        )
    assert found.counts.tolist() == [0, 0, 20, 0, 30]
    assert found.observed.isnan().tolist() == [True, True, False, True, False]
    assert found.error == pytest.approx(20 / 50 * abs(0.35 - 0.4) + 30 / 50 * 0.03)


def test_shares_of_k_samples_fall_into_their_bins():
    """k / 10 lies on the edges of ten bins: it belongs to the bin above, and 1 to the last."""
    said = torch.arange(11) / 10
    found = reliability(torch.zeros(11), said)
    assert found.counts.tolist() == [1] * 9 + [2]
    torch.testing.assert_close(found.predicted[:9], said[:9].double(), atol=1e-6, rtol=0)


def test_clusters_widen_the_intervals_by_their_design_effect():
    """Ten copies of every event are worth one of them, and independent entries in clusters lose nothing much."""
    events, said = forecasts(2000)
    alone = reliability(events, said, bins=5)
    copies = reliability(events.repeat(10), said.repeat(10), bins=5, clusters=torch.arange(2000).repeat(10))
    torch.testing.assert_close(copies.observed, alone.observed)
    torch.testing.assert_close(copies.low, alone.low, atol=1e-9, rtol=0)
    torch.testing.assert_close(copies.high, alone.high, atol=1e-9, rtol=0)
    assert copies.floor == pytest.approx(alone.floor, rel=1e-6)
    blind = reliability(events.repeat(10), said.repeat(10), bins=5)
    assert ((blind.high - blind.low) < 0.4 * (alone.high - alone.low)).all()
    grouped = reliability(events, said, bins=5, clusters=torch.arange(2000) // 4)
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert (ratio >= 1 - 1e-9).all() and (ratio < 1.25).all()


def test_probabilities_of_few_samples_flatten_even_a_calibrated_curve():
    """Why the yardstick is one more sample in the truth's place: both curves agree, and neither is the diagonal."""
    k, count = 10, 40_000
    chance = torch.rand(count, generator=seeded(0), dtype=torch.float64)[None]
    drawn = torch.rand(k + 2, count, generator=seeded(1), dtype=torch.float64) < chance
    said = drawn[:k].double().mean(0)
    truth, yardstick = reliability(drawn[k], said, bins=11), reliability(drawn[k + 1], said, bins=11)
    exact = torch.arange(1, k + 2) / (k + 2)  # uniform chances: Laplace's rule of succession, (hits + 1) / (k + 2)
    for found in (truth, yardstick):
        error = (exact * (1 - exact) / found.counts).sqrt()
        assert ((found.observed - exact).abs() < 5 * error).all()
    assert (truth.observed[0] - truth.predicted[0]) > 20 * (exact[0] * (1 - exact[0]) / truth.counts[0]).sqrt()


# -------------------------------------------------------------------------------------------------------------- errors


def test_bad_input_gets_one_sentence():
    truth, samples = torch.zeros(3, 2), torch.zeros(4, 3, 2)
    for call in (
        lambda t, s: rank_histogram(t, s, seeded()),
        lambda t, s: coverage(t, s, 0.5, seeded()),
    ):
        with pytest.raises(ValueError, match="samples must have shape \\(K, \\*truth.shape\\)"):
            call(truth, samples[:, :2])
        with pytest.raises(ValueError, match="samples must have shape"):
            call(truth, samples[0])
        with pytest.raises(ValueError, match="truth and samples must be finite"):
            call(truth * math.nan, samples)
    with pytest.raises(ValueError, match="bins must divide the number of ranks, K \\+ 1 = 5, but 2 came"):
        rank_histogram(truth, samples, seeded(), bins=2)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        rank_histogram(truth, samples, seeded(), level=95)
    with pytest.raises(ValueError, match="samples must be at least 20 to tell a level of 0.95, but K = 4 came"):
        coverage(truth, samples, 0.95, seeded())
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        coverage(truth, samples, 1.0, seeded())
    for events, said, message in (
        (torch.zeros(3), torch.zeros(2), "events and probabilities must both have shape"),
        (torch.zeros(0), torch.zeros(0), "events and probabilities must both have shape"),
        (torch.tensor([0.5]), torch.zeros(1), "events must be zeros and ones"),
        (torch.zeros(1), torch.tensor([1.5]), "probabilities must lie between 0 and 1"),
        (torch.zeros(1), torch.tensor([math.nan]), "probabilities must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability(events, said)
    with pytest.raises(ValueError, match="clusters must have shape \\(2,\\), but \\(3,\\) came"):
        reliability(torch.zeros(2), torch.zeros(2), clusters=torch.zeros(3))
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        reliability(torch.zeros(2), torch.zeros(2), level=0.0)
