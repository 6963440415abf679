"""The VAE: with affine networks everything about it is known, and with one latent number integrals tell the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from torch import Generator
from torch.distributions import MultivariateNormal, kl_divergence

from tutorial_lib.networks import ConditionalVAE
from tutorial_lib.networks.vae import kl_to_standard_normal
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law

SIZES = [(1, 1, 1, 1), (2, 1, 1, 2), (3, 2, 2, 3), (5, 3, 4, 1)]  # channels, latent, H, W
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def affine_vae(size, std=0.6):
    """A VAE with random straight convolutions and bodies of zeros, an image and a condition."""
    channels, latent, height, width = size
    model = ConditionalVAE(channels, 2, latent, hidden=4, std=std).double()
    for i, layer in enumerate((model.encoder.straight, model.decoder.straight)):
        layer.weight.data = 0.4 * draw(*layer.weight.shape, seed=2 + i)
        layer.bias.data = 0.3 * draw(*layer.bias.shape, seed=4 + i)
    return model.requires_grad_(False), draw(1, channels, height, width), draw(1, 2, height, width, seed=9)


def exact_vae(size):
    """The same, but every pixel for itself, with columns of the decoder that are orthogonal and the true posterior as q.

    Also log p(y | cond), from scipy's normal density of one pixel at a time.
    """
    model, y, cond = affine_vae(size)
    channels, latent, height, width = size
    std = torch.linspace(0.3, 0.9, channels, dtype=torch.float64)
    strengths = torch.linspace(0.5, 2.0, latent, dtype=torch.float64)
    matrix = std[:, None] * torch.linalg.qr(draw(channels, latent))[0] * strengths  # W' S^-2 W = diag(strengths^2)
    told, bias = draw(channels, 2, seed=6), draw(channels, seed=7)
    variance = 1 / (1 + strengths**2)
    gain = variance[:, None] * matrix.T / std**2
    model.log_std.data = std.log().reshape(-1, 1, 1)
    encoder, decoder = model.encoder.straight, model.decoder.straight
    for layer in (encoder, decoder):
        layer.weight.data.zero_()
    decoder.weight.data[:, :, 1, 1] = torch.cat([matrix, told], 1)
    decoder.bias.data = bias
    encoder.weight.data[:latent, :, 1, 1] = torch.cat([gain, -gain @ told], 1)
    encoder.bias.data = torch.cat([-gain @ bias, variance.log() / 2])
    covariance = (matrix @ matrix.T + torch.diag(std**2)).numpy()
    means = torch.einsum("cd,bdhw->hwc", told, cond) + bias
    pairs = zip(y[0].permute(1, 2, 0).reshape(-1, channels), means.reshape(-1, channels), strict=True)
    log_p = sum(multivariate_normal.logpdf(pixel.numpy(), mean.numpy(), covariance) for pixel, mean in pairs)
    return model, y, cond, log_p


def average(elbo, model, y, cond):
    """The mean of elbo over its noise, exact where it is a quadratic: over the points +-sqrt(d) times each unit vector."""
    d = model.latent * y[0, 0].numel()
    points = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()

    def noise(like):
        return points.reshape(like.shape)

    return elbo(model, y.expand(2 * d, -1, -1, -1), cond.expand(2 * d, -1, -1, -1), noise).mean().item()


def parts(model, y, cond):
    """Matrix, offset and noise-free law of an affine decoder, and q, all dense: y = matrix u + offset + std eps."""
    zero = torch.zeros(1, model.latent, *y.shape[2:], dtype=torch.float64)
    offset = model.decode(zero, cond).flatten()
    units = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *zero.shape[1:])
    matrix = model.decode(units, cond.expand(len(units), -1, -1, -1)).flatten(1).T - offset[:, None]
    mean, log_std = (part.flatten() for part in model.encode(y, cond))
    return matrix, offset, MultivariateNormal(mean, scale_tril=torch.diag(log_std.exp()))


def expected_elbo(model, y, cond):
    """log p(y | cond) - KL(q || p(u | y, cond)), from Bayes' rule with full covariance matrices."""
    matrix, offset, q = parts(model, y, cond)
    std = model.log_std.exp().mean().item()
    size = matrix.shape[1]
    marginal = Gaussian(offset, matrix @ matrix.T + std**2 * torch.eye(len(matrix)).double())
    prior = Gaussian(torch.zeros(size).double(), torch.eye(size).double())
    posterior = prior.posterior(matrix, y.flatten() - offset, std)
    gap = kl_divergence(q, MultivariateNormal(posterior.mean.double(), posterior.covariance.double()))
    assert gap > 0.1, "a case where q is right shows little"
    return (marginal.log_prob(y.reshape(1, -1)) - gap).item()


def elbo(model, y, cond, noise):
    return model.elbo(y, cond, noise)


def variant(divergence=kl_to_standard_normal, spread=torch.exp, likelihood=ConditionalVAE.log_likelihood):
    def wrong(model, y, cond, noise):
        mean, log_std = model.encode(y, cond)
        return likelihood(model, y, mean + spread(log_std) * noise(mean), cond) - divergence(mean, log_std)

    return wrong


def without_log_term(model, y, u, cond):
    return ConditionalVAE.log_likelihood(model, y, u, cond) + y[0, 0].numel() * model.log_std.sum()


def std_for_variance(model, y, u, cond):
    std = model.log_std.exp()
    error = (y - model.decode(u, cond)) ** 2 / std
    return -(error / 2 + model.log_std + math.log(2 * math.pi) / 2).flatten(1).sum(1)


MUTANTS = {
    "kl added": variant(lambda mean, log_std: -kl_to_standard_normal(mean, log_std)),
    "kl averaged": variant(lambda mean, log_std: kl_to_standard_normal(mean, log_std) / mean[0].numel()),
    "kl with the log of the variance": variant(lambda mean, log_std: kl_to_standard_normal(mean, log_std / 2)),
    "kl with s for s squared": variant(lambda m, s: ((m**2 + s.exp() - 1) / 2 - s).flatten(1).sum(1)),
    "kl without the mean": variant(lambda m, s: kl_to_standard_normal(0 * m, s)),
    "s squared in the draw": variant(spread=lambda log_std: (2 * log_std).exp()),
    "no log std": variant(likelihood=without_log_term),
    "std for variance": variant(likelihood=std_for_variance),
}


def test_the_variant_without_a_mistake_is_the_elbo():
    model, y, cond = affine_vae(SIZES[2])
    assert average(variant(), model, y, cond) == average(elbo, model, y, cond)


@every_size
def test_with_the_true_posterior_the_elbo_is_log_p(size):
    model, y, cond, log_p = exact_vae(size)
    assert average(elbo, model, y, cond) == pytest.approx(log_p, abs=1e-10)


@every_size
def test_the_elbo_falls_short_by_the_divergence_from_the_true_posterior(size):
    model, y, cond = affine_vae(size)
    assert average(elbo, model, y, cond) == pytest.approx(expected_elbo(model, y, cond), abs=1e-9)


@pytest.mark.parametrize("size", SIZES[1:], ids=str)  # with one latent number a mean is a sum
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_elbo_is_seen(size, mutant):
    model, y, cond = affine_vae(size)
    assert abs(average(MUTANTS[mutant], model, y, cond) - expected_elbo(model, y, cond)) > 1e-2


def test_drawn_noise_gives_the_same_mean():
    model, y, cond = affine_vae((2, 1, 1, 2))
    n = 20_000
    values = model.elbo(y.expand(n, -1, -1, -1), cond.expand(n, -1, -1, -1), standard_normal(0))
    error = values.std().item() / math.sqrt(n)
    assert abs(values.mean().item() - expected_elbo(model, y, cond)) < 4 * error < 0.1


def test_the_divergence_is_the_one_of_torch():
    mean, log_std = draw(3, 2, 1, 4), draw(3, 2, 1, 4, seed=2)
    expected = kl_divergence(torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_std), expected.sum((1, 2, 3)))


def wake(model, size=0.9):
    """Random values everywhere, so that the bodies count and both networks are curved."""
    source = Generator().manual_seed(0)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=source, dtype=p.dtype) * (size / max(1, p[0].numel()) ** 0.5)
    return model.requires_grad_(False)


def test_a_curved_model_obeys_the_same_identity_by_integration():
    """One latent number: log p and KL(q || p(u | y)) by integrals over u, the ELBO by one over the noise."""
    model = wake(ConditionalVAE(2, 1, latent=1, hidden=8).double())
    wake(model.decoder, 4.0)
    y, cond = draw(1, 2, 1, 1), draw(1, 1, 1, 1, seed=2)
    u = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    decoded = model.decode(u.reshape(-1, 1, 1, 1), cond.expand(len(u), -1, -1, -1))[..., 0, 0].numpy()
    slope = np.gradient(decoded, u.numpy(), axis=0)
    assert np.ptp(slope, axis=0).min() > 0.2, "the decoder must be curved"
    joint = norm.logpdf(u.numpy()) + norm.logpdf(y[0, :, 0, 0], decoded, model.log_std.exp()[:, 0, 0]).sum(1)
    step = (u[1] - u[0]).item()
    log_p = np.log(np.exp(joint).sum() * step)
    mean, log_std = (part.item() for part in model.encode(y, cond))
    log_q = norm.logpdf(u.numpy(), mean, math.exp(log_std))
    gap = (np.exp(log_q) * (log_q - (joint - log_p))).sum() * step
    points = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights, n = (-(points**2) / 2).softmax(0), len(points)
    values = model.elbo(y.expand(n, -1, -1, -1), cond.expand(n, -1, -1, -1), lambda like: points.reshape(like.shape))
    assert (weights * values).sum().item() == pytest.approx(log_p - gap, abs=1e-6)
    assert gap > 0.01


def decoded_only(model, cond, noise, temperature=1.0):
    """The classic mistake: the decoder's mean is shown as a sample."""
    return model.decode(temperature * noise(cond.new_empty(len(cond), model.latent, *cond.shape[2:])), cond)


@every_size
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_have_the_law_of_the_model(size, temperature):
    model, y, cond = affine_vae(size)
    matrix, offset, _ = parts(model, y, cond)
    expected = temperature**2 * (matrix @ matrix.T + 0.6**2 * torch.eye(len(matrix)).double())

    def law(sample):
        return affine_law(lambda noise: sample(model, cond, noise, temperature).reshape(1, -1), y.numel())

    mean, covariance = law(ConditionalVAE.sample)
    torch.testing.assert_close(mean, offset)
    torch.testing.assert_close(covariance, expected)
    assert not torch.allclose(law(decoded_only)[1], expected)


def test_temperature_zero_is_the_decoded_origin():
    model, y, cond = affine_vae((3, 2, 2, 3))
    torch.testing.assert_close(model.sample(cond, standard_normal(0), 0.0), model.decode(torch.zeros(1, 2, 2, 3), cond))


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (5, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_size_and_no_influence_between_batch_mates(channels, grid):
    model = wake(ConditionalVAE(channels, 2, latent=3, hidden=6).double())
    y, cond = draw(4, channels, *grid), draw(4, 2, *grid, seed=2)

    def streams(first):
        return standard_normal([Generator().manual_seed(s) for s in range(first, 4)])

    for value in (lambda k: model.elbo(y[k:], cond[k:], streams(k)), lambda k: model.sample(cond[k:], streams(k))):
        together, alone = value(0), value(3)
        assert torch.isfinite(together).all()
        torch.testing.assert_close(together[3:], alone)
    assert model.elbo(y, cond, streams(0)).shape == (4,) and model.sample(cond, streams(0)).shape == y.shape
    assert not torch.allclose(model.sample(cond + 1, streams(0)), model.sample(cond, streams(0)))


def test_the_observation_std_is_learned_or_fixed():
    free, fixed = ConditionalVAE(2, 1), ConditionalVAE(2, 1, std=0.25)
    torch.testing.assert_close(fixed.log_std.exp(), torch.full((2, 1, 1), 0.25))
    assert free.log_std.requires_grad and not fixed.log_std.requires_grad
    y, cond = torch.randn(64, 2, 1, 2), torch.zeros(64, 1, 1, 2)
    free.elbo(y, cond, standard_normal(0)).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in free.parameters())
    assert free.log_std.grad.abs().min() > 0 and free.encoder.straight.weight.grad.abs().max() > 0


def test_bad_input_is_named():
    model, y, cond = ConditionalVAE(2, 1), torch.zeros(3, 2, 4, 5), torch.zeros(3, 1, 4, 5)
    noise = standard_normal(0)
    with pytest.raises(ValueError, match="y must have 2 channels"):
        model.elbo(y[:, :1], cond, noise)
    with pytest.raises(ValueError, match="y and cond must have the same batch size, height and width"):
        model.elbo(y, cond[..., :4], noise)
    with pytest.raises(ValueError, match="u and cond must have"):
        model.decode(torch.zeros(3, 4, 1, 1), cond)
    with pytest.raises(ValueError, match="temperature must be a number that is not negative"):
        model.sample(cond, noise, -1.0)
    with pytest.raises(ValueError, match="std must be a positive number"):
        ConditionalVAE(2, 1, std=0.0)
    with pytest.raises(ValueError, match="latent must be a whole number"):
        ConditionalVAE(2, 1, latent=0)
