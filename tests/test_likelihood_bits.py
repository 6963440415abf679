"""Bins of a Gaussian, dequantisation and bits per dimension, against scipy and against counting."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal

from tutorial_lib.likelihood import bin_log_prob, bits_per_dim, dequantise, elbo_terms, reconstruction_loss, uniform
from tutorial_lib.noise import standard_normal
from tutorial_lib.schedules import uniform_times, vp_linear

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def crooked(z, t, cond=None):
    """A denoiser that is nobody's exact one."""
    return (1.3 * z).tanh() + 0.2


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("mean", [-1.3, 0.1, 5.0])
@pytest.mark.parametrize("std", [1e-3, 0.1, 2.0])
def test_the_bins_sum_to_one_and_are_scipys(levels, mean, std):
    places = 2 * torch.arange(levels, dtype=torch.float64)[:, None] / (levels - 1) - 1
    found = bin_log_prob(places, torch.full_like(places, mean), std, levels)
    assert found.exp().sum().item() == pytest.approx(1, rel=1e-12) and found.isfinite().all()
    edges = places[:-1, 0].numpy() + 1 / (levels - 1)
    law = stats.norm(mean, std)
    cumulative, rest = np.append(law.cdf(edges), 1.0), np.insert(law.sf(edges), 0, 1.0)
    expected = np.where(places[:, 0] < mean, np.diff(cumulative, prepend=0.0), -np.diff(rest, append=0.0))
    assert np.allclose(found.exp().numpy(), expected, rtol=1e-6, atol=1e-300)


def test_a_bin_far_away_costs_what_scipy_says_and_has_a_gradient():
    """Public code clamps such a bin at log 1e-12 = -27.6, where no gradient is left."""
    mean = torch.tensor([[0.9]], dtype=torch.float64, requires_grad=True)
    found = bin_log_prob(torch.tensor([[-1.0]]).double(), mean, 0.01, 256)
    assert found.item() == pytest.approx(stats.norm(0.9, 0.01).logcdf(-1 + 1 / 255), rel=1e-9)
    assert torch.autograd.grad(found.sum(), mean)[0] < -1000


def test_with_levels_the_elbo_is_a_probability():
    """One step: the sum over all level images of exp(-reconstruction) is 1 for the same z_t; images sum over numbers."""
    first = torch.tensor([[[[-1.0, 0.0], [1.0, 0.0]]]])
    found = reconstruction_loss(crooked, vp_linear(), first, 0.2, torch.zeros_like, levels=3)
    alpha, sigma = vp_linear().alpha(0.2), vp_linear().sigma(0.2)
    each = [bin_log_prob(z.reshape(1, 1), crooked((alpha * z).reshape(1, 1), 0), sigma, 3) for z in first.reshape(-1)]
    assert found.item() == pytest.approx(-sum(each).item(), rel=1e-5)
    terms = elbo_terms(crooked, vp_linear(), first, uniform_times(3), torch.zeros_like, levels=3)
    last = reconstruction_loss(crooked, vp_linear(), first, 1e-3, torch.zeros_like, levels=3)
    assert torch.equal(terms.reconstruction, last)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantised_values_fill_their_bins_evenly(levels):
    places = torch.arange(levels).repeat(50).double()
    z = dequantise((places / (levels - 1))[:, None], levels, uniform(standard_normal(0)))[:, 0]
    assert z.min() >= -1 and z.max() < 1
    assert torch.equal(((z + 1) * levels / 2).floor(), places)
    assert stats.kstest(((z + 1) * levels / 2 - places).numpy(), "uniform").pvalue > 1e-3


def test_uniform_numbers_stay_below_one():
    assert uniform(lambda like: torch.full_like(like, 40.0))(torch.empty(2)).max() < 1


def check_counting(bits):
    """k equally likely levels cost log2 k: as the density 1/2 on [-1, 1], and as the probability 1/k."""
    for levels in (2, 17, 256):
        for dim in (1, 3, 192):
            density = torch.full((2,), -dim * math.log(2), dtype=torch.float64)
            assert torch.allclose(bits(density, dim, levels), torch.tensor(math.log2(levels)).double())


def test_k_equally_likely_levels_cost_log2_k():
    check_counting(bits_per_dim)
    mass = torch.tensor([-192 * math.log(17.0)], dtype=torch.float64)
    assert bits_per_dim(mass, 192).item() == pytest.approx(math.log2(17))


def wrong_bits(log_prob, dim, levels, scale):
    return -(log_prob / dim + scale(levels)) / math.log(2)


@pytest.mark.parametrize(
    "scale",
    [lambda k: 0, lambda k: math.log(k / 2), lambda k: math.log(1 / k), lambda k: math.log(2 / (k - 1))],
    ids=["forgotten", "wrong sign", "[0, 1] taken for [-1, 1]", "k - 1"],
)
def test_a_wrong_jacobian_is_noticed(scale):
    with pytest.raises(AssertionError):
        check_counting(functools.partial(wrong_bits, scale=scale))


def test_dequantised_bits_bound_those_of_the_bins_and_bits_without_it_bound_nothing():
    """Levels 0 and 1 of two, half each: 1 bit at least. A density with a spike on each level claims less than none."""

    def spikes(std):
        return lambda z: torch.logsumexp(Normal(torch.tensor([-1.0, 1.0]).double(), std).log_prob(z), 1) - math.log(2)

    images = (torch.arange(2000) % 2).double()[:, None]
    for std in (1.0, 0.5, 0.1):
        z = dequantise(images, 2, uniform(standard_normal(0)))
        assert bits_per_dim(spikes(std)(z), 1, 2).mean() > 1
    assert bits_per_dim(spikes(0.01)(2 * images - 1), 1, 2).mean() < -3
    density = Normal(-0.3, 0.6)
    mass = (density.cdf(torch.tensor(0.0)) - density.cdf(torch.tensor(-1.0))).item()
    bound = -integrate.quad(lambda z: density.log_prob(torch.tensor(z)).item(), -1, 0)[0] / math.log(2)
    assert -math.log2(mass) < bound < -math.log2(mass) + 0.5
    z = dequantise(torch.zeros(4000, 1).double(), 2, uniform(standard_normal(1)))
    found = bits_per_dim(density.log_prob(z)[:, 0], 1, 2)
    assert found.mean().item() == pytest.approx(bound, abs=5 * found.std().item() / math.sqrt(4000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dequantise(IMAGES, 256, torch.zeros_like), "images must hold k = 256 levels"),
        (lambda: dequantise(IMAGES.round(), 1, torch.zeros_like), "levels must be a whole number of at least 2"),
        (lambda: dequantise(IMAGES.round(), 2, standard_normal(0)), "noise must be uniform"),
        (lambda: bin_log_prob(IMAGES, IMAGES, 1.0, 256), "z_0 must hold k = 256 levels"),
        (lambda: bin_log_prob(IMAGES.round(), IMAGES[:1], 1.0, 3), "mean and z_0 must have the same shape"),
        (lambda: bits_per_dim(torch.zeros(2), 0), "dim must be a whole number"),
        (lambda: bits_per_dim(torch.zeros(2), 3, 1), "levels must be a whole number"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
