"""LSGM's terms in a linear Gaussian world where each has a closed form; a compact code; IR-SDE as a domain and a schedule."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch

from tutorial_lib.domains import Latent, Pixel
from tutorial_lib.images import resize
from tutorial_lib.latents import (
    LSGMTerms,
    cross_entropy,
    lsgm_terms,
    mean_reverting,
    mean_reverting_domain,
    restore_with_prior,
)
from tutorial_lib.networks.autoencoder import KLAutoencoder
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2, moment_residual
from tutorial_lib.samplers import ddim, last, reverse_sde
from tutorial_lib.schedules import edm, log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import forward_step

double = torch.float64


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def spread_places(count):
    return (torch.arange(count, dtype=double) + 0.5) / count


def close(values, expected, slack=0.0):
    """The mean of `values` is `expected` within 5 standard errors."""
    error = values.std().item() / math.sqrt(len(values))
    assert abs(values.mean().item() - expected) < 5 * error + slack, (values.mean().item(), expected, error)
    return error


# --------------------------------------------------------------------------------------------------------------- LSGM

STD, PRIOR_VARIANCE = 0.3, torch.tensor([2.0, 0.5], dtype=double)
AXES = torch.linalg.qr(draw(4, 2, seed=1)).Q  # y = AXES u + STD noise; orthonormal columns make the posterior diagonal
POSTERIOR_VARIANCE = 1 / (1 / PRIOR_VARIANCE + 1 / STD**2)
GAIN = (POSTERIOR_VARIANCE / STD**2)[:, None] * AXES.T


class Linear:
    """q(u | y) = N(gain y, std^2), p(y | u) = N(AXES u, STD^2); y (B, 1, 2, 2), u (B, 2, 1, 1)."""

    def __init__(self, gain=GAIN, variance=POSTERIOR_VARIANCE):
        self.gain, self.variance, self.std = gain, variance, STD

    def moments(self, y, cond=None):
        mean = (y.flatten(1) @ self.gain.T)[..., None, None]
        return mean, (self.variance.log() / 2).view(1, 2, 1, 1).expand_as(mean)

    def decode(self, u, cond=None):
        return (u.flatten(1) @ AXES.T).view(-1, 1, 2, 2)


def diagonal(variance):
    return Gaussian(torch.zeros(2, dtype=double), torch.diag(variance), (2, 1, 1))


def terms_at(y, autoencoder, prior, count=20_000, schedule=None):
    schedule = schedule or vp_linear()
    many = y.expand(count, 1, 2, 2)
    return lsgm_terms(
        autoencoder, denoiser_for(prior, schedule), schedule, many, spread_places(count), standard_normal(3)
    )


def gaussian_cross_entropy(mean, variance, prior_variance):
    return ((mean**2 + variance) / prior_variance + (2 * math.pi * prior_variance).log()).sum().item() / 2


Y = draw(1, 1, 2, 2, seed=7)
ENCODERS = {
    "the posterior": Linear(),
    "too wide": Linear(variance=2 * POSTERIOR_VARIANCE),
    "shrunk": Linear(gain=0.8 * GAIN, variance=torch.tensor([0.3, 0.02], dtype=double)),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("schedule", [vp_linear(), vp_cosine(), edm()], ids=["vp_linear", "vp_cosine", "edm"])
def test_every_term_has_its_closed_form(name, schedule):
    encoder = ENCODERS[name]
    terms = terms_at(Y, encoder, diagonal(PRIOR_VARIANCE), schedule=schedule)
    mean = encoder.gain @ Y.flatten()
    error = (Y.flatten() - AXES @ mean).square().sum() + encoder.variance.sum()
    close(terms.reconstruction, error.item() / (2 * STD**2) + 2 * math.log(2 * math.pi * STD**2))
    entropy = (2 * math.pi * math.e * encoder.variance).log().sum() / 2
    torch.testing.assert_close(terms.negative_entropy, -entropy.expand(20_000))
    close(terms.cross_entropy, gaussian_cross_entropy(mean, encoder.variance, PRIOR_VARIANCE), slack=2e-3)
    torch.testing.assert_close(terms.total, sum(terms))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_loss_bounds_the_likelihood_and_misses_by_the_kl_to_the_posterior(name):
    encoder = ENCODERS[name]
    covariance = AXES @ torch.diag(PRIOR_VARIANCE) @ AXES.T + STD**2 * torch.eye(4)
    log_p = Gaussian(torch.zeros(4, dtype=double), covariance).log_prob(Y.flatten(1)).item()
    ratio = encoder.variance / POSTERIOR_VARIANCE
    offset = (encoder.gain - GAIN) @ Y.flatten()
    gap = ((ratio - 1 - ratio.log()) + offset**2 / POSTERIOR_VARIANCE).sum().item() / 2
    assert gap >= 0 and (gap < 1e-12) == (name == "the posterior")
    close(terms_at(Y, encoder, diagonal(PRIOR_VARIANCE)).total, -log_p + gap, slack=2e-3)


def test_the_best_prior_is_the_aggregate_posterior():
    """Mean cross-entropy over y = entropy of all encoded images + KL from the prior: least, and tight, at their law."""
    data = Gaussian(torch.zeros(4, dtype=double), AXES @ torch.diag(PRIOR_VARIANCE) @ AXES.T + STD**2 * torch.eye(4))
    y = data.sample(40_000, standard_normal(5)).view(-1, 1, 2, 2)
    encoder = Linear()
    aggregate = (encoder.gain @ data.covariance @ encoder.gain.T).diagonal() + encoder.variance
    torch.testing.assert_close(aggregate, PRIOR_VARIANCE)  # the data follow the model
    entropy = (2 * math.pi * math.e * aggregate).log().sum().item() / 2
    for variance in (aggregate, torch.ones(2, dtype=double)):
        kl = (aggregate / variance - 1 - (aggregate / variance).log()).sum().item() / 2
        schedule = vp_linear()
        mean, log_std = encoder.moments(y)
        u = mean + log_std.exp() * draw(*mean.shape, seed=6)
        found = cross_entropy(
            denoiser_for(diagonal(variance), schedule), schedule, u, spread_places(40_000), standard_normal(3)
        )
        close(found, entropy + kl, slack=2e-3)
        assert (kl < 1e-12) == (variance is aggregate) and (kl < 1e-12 or kl > 0.2)


def test_the_integral_is_minus_log_p_at_every_point_of_a_mixture():
    """Not Gaussian, and not a mean over u: with an exact denoiser the bound is tight point by point."""
    prior = GaussianMixture(
        torch.tensor([0.3, 0.7]),
        torch.tensor([[-1.0, 0.5], [0.8, 0.2]], dtype=double),
        torch.stack([torch.diag(torch.tensor(v, dtype=double)) for v in ([0.05, 0.2], [0.3, 0.1])]),
        (2, 1, 1),
    )
    schedule, count = vp_cosine(), 40_000
    for point in ((-1.0, 0.4), (0.1, 0.3), (2.0, -1.0)):
        u = torch.tensor(point, dtype=double).view(1, 2, 1, 1)
        found = cross_entropy(
            denoiser_for(prior, schedule), schedule, u.expand(count, 2, 1, 1), spread_places(count), standard_normal(1)
        )
        close(found, -prior.log_prob(u).item(), slack=5e-3)


MUTANTS = {
    "entropy added": lambda t: t.reconstruction - t.negative_entropy + t.cross_entropy,
    "a KL to N(0, I) instead": lambda t: t.reconstruction + t.negative_entropy + standard_cross_entropy(),
    "no entropy": lambda t: t.reconstruction + t.cross_entropy,
    "the error's half forgotten": lambda t: t.total + t.cross_entropy,
}


def standard_cross_entropy():
    return gaussian_cross_entropy(GAIN @ Y.flatten(), POSTERIOR_VARIANCE, torch.ones(2, dtype=double))


@lru_cache
def many_terms():
    return terms_at(Y, Linear(), diagonal(PRIOR_VARIANCE), 150_000)


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_sums_are_seen(name):
    covariance = AXES @ torch.diag(PRIOR_VARIANCE) @ AXES.T + STD**2 * torch.eye(4)
    log_p = Gaussian(torch.zeros(4, dtype=double), covariance).log_prob(Y.flatten(1)).item()
    values = MUTANTS[name](many_terms())
    close(many_terms().total, -log_p, slack=2e-3)
    with pytest.raises(AssertionError):
        close(values, -log_p, slack=2e-3)


def test_one_loss_trains_autoencoder_and_prior_together():
    torch.manual_seed(0)
    autoencoder, gain = KLAutoencoder(channels=2, hidden=(8, 8)), torch.nn.Parameter(torch.tensor(0.5))
    y = torch.rand(3, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([0.1, 0.5, 0.9])
    terms = lsgm_terms(autoencoder, lambda z, t: gain * z, vp_linear(), y, places, standard_normal(0))
    assert isinstance(terms, LSGMTerms) and all(term.shape == (3,) for term in terms)
    terms.total.sum().backward()
    assert gain.grad.abs() > 0 and autoencoder.enter.weight.grad.abs().max() > 0
    first = standard_normal(0)
    alone = lsgm_terms(
        autoencoder,
        lambda z, t: gain * z,
        vp_linear(),
        y[:1],
        places[:1],
        lambda like: first(y.new_empty(3, *like.shape[1:]))[:1],
    )
    torch.testing.assert_close(alone.total, terms.total[:1])  # batch mates do not matter


def test_bad_places_are_refused():
    u, denoiser = draw(2, 2, 1, 1), denoiser_for(diagonal(PRIOR_VARIANCE), vp_linear())
    for places in (torch.tensor([0.5]), torch.tensor([0.5, 1.0]), torch.tensor([-0.1, 0.5])):
        with pytest.raises(ValueError, match=r"places must hold one number in \[0, 1\) for each of 2 latents"):
            cross_entropy(denoiser, vp_linear(), u, places, standard_normal(0))


# -------------------------------------------------------------------------------------------------- a compact code

PLACE = torch.arange(8, dtype=double)
HR = Gaussian(torch.zeros(8, dtype=double), 0.9 ** (PLACE[:, None] - PLACE).abs())
POOL = torch.kron(torch.eye(4), torch.full((1, 2), 0.5)).double()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("x", [(0.5, -0.2, 0.1, 1.0), (0.0, 0.0, 0.0, 0.0)])
def test_a_compact_code_samples_its_directions_of_the_posterior_and_no_other(size, x):
    """The best code: the widest directions of p(y | x). W2^2 to the posterior is the variance of the directions left out."""
    lr = torch.tensor(x, dtype=double).view(1, 1, 1, 4)
    posterior = HR.posterior(POOL, lr.flatten(1), 0.0)
    variances, axes = torch.linalg.eigh(posterior.covariance)
    axes, kept = axes[:, -size:], variances[-size:]

    def centre(lr):
        return HR.posterior(POOL, lr.flatten(1), 0.0).mean

    def denoiser(z, t, lr):
        return Gaussian(axes.T @ centre(lr), torch.diag(kept)).denoise(z, schedule.alpha(t), schedule.sigma(t))

    def restorer(lr, c):
        return (centre(lr) + (c - centre(lr) @ axes) @ axes.T).view(-1, 1, 1, 8)

    schedule, times = vp_linear(), log_snr_times(vp_linear(), 80)

    def run(noise):
        return restore_with_prior(restorer, denoiser, schedule, lr, size, times, noise, eta=0.0).flatten(1)

    mean, covariance = affine_law(run, 8)
    assert torch.linalg.matrix_rank(covariance) == size
    assert gaussian_w2(mean, covariance, posterior.mean, posterior.covariance) ** 2 == pytest.approx(
        variances[:-size].clamp(min=0).sum().item(), abs=0.02
    )
    code = Gaussian(axes.T @ posterior.mean, torch.diag(kept))
    exact = denoiser_for(code, schedule)
    start = schedule.sigma(times[0])
    alone = affine_law(
        lambda noise: last(ddim(exact, schedule, start * noise(torch.empty(1, size, dtype=double)), times)), size
    )
    torch.testing.assert_close(covariance, axes @ alone[1] @ axes.T, rtol=0, atol=1e-12)  # only the code diffuses


def test_the_restorer_runs_once():
    seen = []

    def restorer(lr, c):
        seen.append(tuple(c.shape))
        return resize(lr, 2) + c.sum(1).view(-1, 1, 1, 1)

    lr = torch.rand(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    calls = []

    def denoiser(c, t, lr):
        calls.append(tuple(c.shape))
        return 0.5 * c + lr.mean((1, 2, 3))[:, None]

    out = restore_with_prior(restorer, denoiser, vp_cosine(), lr, 5, uniform_times(4), standard_normal(0))
    assert out.shape == (3, 2, 8, 12) and seen == [(3, 5)] and calls == [(3, 5)] * 4
    with pytest.raises(ValueError, match="size must be a whole number of at least 1, but 0 came"):
        restore_with_prior(restorer, denoiser, vp_cosine(), lr, 0, uniform_times(4), standard_normal(0))


# --------------------------------------------------------------------------------------------- the way to the LR image


@pytest.mark.parametrize("delta", [0.005, 0.01, 0.2])
def test_the_mean_reverting_path_is_that_of_its_sde(delta):
    """theta = -drift, sigma^2 = 2 theta in units of lambda; theta_bar is its integral, by the midpoint rule."""
    schedule = mean_reverting(delta)
    t = torch.linspace(0.01, 0.99, 50, dtype=double)
    theta = -2 * math.log(delta) * (math.pi * t / 2).sin() ** 2
    torch.testing.assert_close(schedule.drift(t), -theta, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(schedule.diffusion(t) ** 2, 2 * theta, rtol=1e-9, atol=1e-12)
    assert schedule.alpha(1.0).item() == pytest.approx(delta, rel=1e-12)
    fine = (torch.arange(20_000, dtype=double) + 0.5) / 20_000
    theta_bar = (-2 * math.log(delta) * (math.pi * fine * 0.6 / 2).sin() ** 2).mean() * 0.6
    assert schedule.alpha(0.6).item() == pytest.approx(math.exp(-theta_bar), rel=1e-8)
    assert moment_residual(schedule) < 1e-5
    with pytest.raises(ValueError, match="delta must lie between 0 and 1, but 1.5 came"):
        mean_reverting(1.5)


class Squeeze:
    """An autoencoder without loss: pixel unshuffle, another gain and offset."""

    def encode(self, y, cond=None):
        return 3 * torch.nn.functional.pixel_unshuffle(y, 2) + 1

    def decode(self, u, cond=None):
        return torch.nn.functional.pixel_shuffle((u - 1) / 3, 2)


SPREAD = 0.4


def setting():
    generator = torch.Generator().manual_seed(0)
    hr, lr = (torch.rand(1, 2, n, 2 * n, generator=generator, dtype=double) for n in (4, 1))
    latent = Latent(Squeeze(), 2.0)
    domain = mean_reverting_domain(latent, lambda lr: resize(lr, 4), SPREAD)
    return hr, lr, latent.encode(hr), latent.encode(resize(lr, 4)), domain


@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_refusions_latents_have_the_closed_form_law(t):
    """x_t = mu + lambda z_t ~ N(mu + (x_0 - mu) e^-theta_bar, lambda^2 (1 - e^-2 theta_bar)), to rounding."""
    hr, lr, x_0, mu, domain = setting()
    schedule = mean_reverting()
    z_0 = domain.encode(hr, lr)

    def run(noise):
        z = forward_step(z_0, schedule, 0.0, t, noise)
        return (mu + SPREAD * z).flatten(1)

    mean, covariance = affine_law(run, z_0.numel())
    theta_bar = -math.log(0.01) * (t - math.sin(math.pi * t) / math.pi)
    expected = mu + (x_0 - mu) * math.exp(-theta_bar)
    torch.testing.assert_close(mean, expected.flatten(), rtol=0, atol=1e-12)
    variance = SPREAD**2 * -math.expm1(-2 * theta_bar)
    torch.testing.assert_close(covariance, variance * torch.eye(z_0.numel(), dtype=double), rtol=0, atol=1e-12)


def test_the_domain_comes_back_and_its_zero_is_the_lr_image():
    hr, lr, _, mu, domain = setting()
    torch.testing.assert_close(domain.decode(domain.encode(hr, lr), lr), hr)
    torch.testing.assert_close(domain.decode(torch.zeros_like(mu), lr), resize(lr, 4))
    plain = mean_reverting_domain(Pixel(), lambda lr: resize(lr, 4), SPREAD)  # IR-SDE itself: no autoencoder
    torch.testing.assert_close(plain.encode(hr, lr), (2 * hr - 2 * resize(lr, 4)) / SPREAD)


def paper_steps(x, mu, score, times, noise, sign=1, theta_factor=1):
    """IR-SDE's reverse Euler steps in its own letters: dx = (theta (mu - x) - sigma^2 score) dt, backwards."""
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        theta = theta_factor * -math.log(0.01) * (1 - math.cos(math.pi * t))
        drift = theta * (mu - x) - sign * 2 * SPREAD**2 * theta * score(x, t)
        x = x - drift * (t - s) + SPREAD * math.sqrt(2 * theta * (t - s)) * noise(x)
    return x


@pytest.mark.parametrize("wrong", [None, {"sign": -1}, {"theta_factor": 0.5}])
def test_our_samplers_are_the_papers_in_other_units(wrong):
    """The same noise gives the same latent, to rounding; a score that is added, or half a theta, does not."""
    hr, lr, _, mu, domain = setting()
    size, schedule = mu.numel(), mean_reverting()
    roots = draw(size, size, seed=2) / size
    prior = Gaussian(domain.encode(hr, lr)[0], roots @ roots.T + 0.1 * torch.eye(size))  # of z_0 = (x_0 - mu) / lambda
    times, z = torch.linspace(1, 0.05, 12, dtype=double), draw(*mu.shape, seed=4)
    ours = last(reverse_sde(denoiser_for(prior, schedule), schedule, z, times, standard_normal(9)))

    def score(x, t):
        return prior.score((x - mu) / SPREAD, schedule.alpha(t), schedule.sigma(t)) / SPREAD

    theirs = paper_steps(mu + SPREAD * z, mu, score, times, standard_normal(9), **(wrong or {}))
    difference = (mu + SPREAD * ours - theirs).abs().max().item()
    assert difference < 1e-12 if wrong is None else difference > 1e-2
