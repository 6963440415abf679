"""Checks for the exercises of chapter 03: regression and the four families before diffusion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from . import Exercise, Mistake


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _whole(generator: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


# 03.1: what an average of samples costs.


def _average_inputs(generator: Generator) -> tuple:
    return _uniform(generator, 0.01, 0.5, 5), _whole(generator, 3, 9)


def _average_simulated(output: Tensor, variance: Tensor, k: int) -> str | None:
    """The oracle: draw truths and samples from the same law, and average."""
    drawn = variance.sqrt() * _normal(torch.Generator().manual_seed(1), 40_000, k + 1, len(variance))
    squares = (drawn[:, 0] - drawn[:, 1:].mean(1)).square()
    error = squares.std(0) / math.sqrt(len(squares))
    if ((squares.mean(0) - output).abs() < 5 * error).all():
        return None
    return "a simulation with 40,000 truths finds another squared error."


# 03.2: what L1 returns.


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    order = values.argsort()
    reached = weights[order].cumsum(0) >= weights.sum() / 2
    return values[order][reached.nonzero()[0, 0]]


def _median_inputs(generator: Generator) -> tuple:
    values = _normal(generator, 9)
    weights = _uniform(generator, 0.2, 1.0, 9)
    high = values.topk(3).indices
    weights[high] = weights[high] * 4  # the heavy values lie on one side, so that median, mean and mode differ
    return values, weights / weights.sum()


def _no_better(output: Tensor, values: Tensor, weights: Tensor) -> str | None:
    losses = ((values[:, None] - values).abs() * weights).sum(1)
    loss = ((torch.as_tensor(output) - values).abs() * weights).sum()
    return None if loss <= losses.min() + 1e-9 else "another of the values has a smaller mean absolute error."


# 03.3: the hinge game.


def _hinge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), -fake.mean()


def _hinge_inputs(generator: Generator) -> tuple:
    return 1.5 * _normal(generator, 12) + 0.5, 1.5 * _normal(generator, 12) - 0.4


# 03.4: the best discriminator.


def _best_logit(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    return log_p - log_q + math.log(share / (1 - share))


def _densities(generator: Generator) -> tuple:
    return _normal(generator, 7), _normal(generator, 7) - 0.5, float(_uniform(generator, 0.15, 0.4))


def _by_bayes(output: Tensor, log_p: Tensor, log_q: Tensor, share: float) -> str | None:
    real, fake = share * log_p.exp(), (1 - share) * log_q.exp()
    if torch.allclose(torch.sigmoid(output.double()), real / (real + fake), atol=1e-6):
        return None
    return "the sigmoid of your answer is not the probability that the sample is real."


# 03.5: the bound of a variational autoencoder.


def _elbo(
    y: Tensor,
    mean: Tensor,
    sigma: float,
    mu: Tensor,
    log_var: Tensor,
    sign: float = 1.0,
    constant: bool = True,
) -> Tensor:
    scale = math.log(sigma) if constant else 0.0
    fit = -0.5 * ((y - mean) / sigma).square() - scale - 0.5 * math.log(2 * math.pi)
    return fit.sum(1) - sign * 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)


def _elbo_inputs(generator: Generator) -> tuple:
    y = _normal(generator, 5, 6)
    sigma = float(_uniform(generator, 0.2, 0.6))
    return y, y + 0.3 * _normal(generator, 5, 6), sigma, _normal(generator, 5, 3), _normal(generator, 5, 3) - 0.5


def _turned_kl(y: Tensor, mean: Tensor, sigma: float, mu: Tensor, log_var: Tensor) -> Tensor:
    """The bound with KL(p || q) in place of KL(q || p)."""
    right = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)
    wrong = 0.5 * ((1 + mu.square()) / log_var.exp() - 1 + log_var).sum(1)
    return _elbo(y, mean, sigma, mu, log_var) + right - wrong


def _mean_of_pixels(y: Tensor, mean: Tensor, sigma: float, mu: Tensor, log_var: Tensor) -> Tensor:
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(1)
    return (_elbo(y, mean, sigma, mu, log_var) + kl) / y.shape[1] - kl


# 03.6: who may be seen.


def _mask(size: int, first: bool) -> Tensor:
    place = torch.arange(size * size).reshape(size, size)
    middle = size * size // 2
    return (place < middle if first else place <= middle).double()


def _mask_inputs(generator: Generator) -> tuple:
    return 2 * _whole(generator, 1, 4) + 1, bool(torch.rand((), generator=generator) < 0.5)


def _own_row_too(size: int, first: bool) -> Tensor:
    mask = _mask(size, first)
    mask[size // 2, size // 2 + 1 :] = 1
    return mask


def _above_only(size: int, first: bool) -> Tensor:
    mask = _mask(size, first)
    mask[size // 2, : size // 2] = 0
    return mask


def _upper_left(size: int, first: bool) -> Tensor:
    mask = _mask(size, first)
    mask[:, size // 2 + 1 :] = 0
    return mask


# 03.7: the likelihood of a flow of one layer.


def _affine_nll(
    y: Tensor, shift: Tensor, log_scale: Tensor, sign: float = 1.0, constant: float = 0.5 * math.log(2 * math.pi)
) -> Tensor:
    z = (y - shift) * (-log_scale).exp()
    return (0.5 * z.square() + sign * log_scale + constant).sum(1)


def _affine_inputs(generator: Generator) -> tuple:
    shift, log_scale = _normal(generator, 6, 4), 0.5 * _normal(generator, 6, 4) - 0.4
    return shift + log_scale.exp() * _normal(generator, 6, 4), shift, log_scale


def _multiplied(y: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    z = (y - shift) * log_scale.exp()
    return (0.5 * z.square() + log_scale + 0.5 * math.log(2 * math.pi)).sum(1)


def _as_distribution(output: Tensor, y: Tensor, shift: Tensor, log_scale: Tensor) -> str | None:
    exact = -torch.distributions.Normal(shift, log_scale.exp()).log_prob(y).sum(1)
    return None if torch.allclose(output.double(), exact, rtol=1e-4) else "torch's Normal finds other likelihoods."


# 03.8: how wrong the shares are.


def _share_error(chosen: Tensor, share: Tensor) -> Tensor:
    found = chosen.mean(1)
    return ((found - share).square() - found * (1 - found) / (chosen.shape[1] - 1)).mean()


def _share_inputs(generator: Generator) -> tuple:
    share = _uniform(generator, 0.2, 0.8, 12)
    sampler = (share + 0.25 * _normal(generator, 12)).clamp(0.05, 0.95)
    k = _whole(generator, 5, 9)
    return (torch.rand(12, k, generator=generator, dtype=torch.float64) < sampler[:, None]).double(), share


CHAPTER = [
    Exercise(
        "03.1",
        "the error of an average of samples",
        reference=lambda variance, k: variance * (1 + 1 / k),
        inputs=_average_inputs,
        judge=_average_simulated,
        mistakes=[
            Mistake(
                "you forgot that the truth is a draw as well",
                lambda variance, k: variance / k,
                "variance / k is how far the average strays from the posterior's mean; the truth strays by variance.",
            ),
            Mistake(
                "you gave the error of the posterior's mean",
                lambda variance, k: variance.clone(),
                "That is the limit of many samples; an average of k of them strays from the mean by variance / k.",
            ),
            Mistake(
                "you gave the error of a single sample",
                lambda variance, k: 2 * variance,
                "Sample and truth each stray by variance, but an average of k samples strays by variance / k only.",
            ),
            Mistake(
                "you added standard deviations",
                lambda variance, k: (variance.sqrt() + (variance / k).sqrt()).square(),
                "Truth and average are independent given x, so their variances add.",
            ),
            Mistake(
                "you divided by k - 1",
                lambda variance, k: variance * (1 + 1 / (k - 1)),
                "k - 1 belongs to the estimate of an unknown variance; the mean of k draws has variance / k.",
            ),
        ],
    ),
    Exercise(
        "03.2",
        "the answer that L1 prefers",
        reference=_weighted_median,
        inputs=_median_inputs,
        judge=_no_better,
        mistakes=[
            Mistake(
                "you returned the mean",
                lambda values, weights: (values * weights).sum() / weights.sum(),
                "The mean minimises the squared error; the absolute error counts on which side a value lies.",
            ),
            Mistake(
                "you forgot the weights",
                lambda values, weights: values.median(),
                "Half of the probability must lie on each side, which need not be half of the values.",
            ),
            Mistake(
                "you returned the most likely value",
                lambda values, weights: values[weights.argmax()],
                "The mode minimises the chance of being wrong at all; L1 asks by how much.",
            ),
            Mistake(
                "you did not sort the values",
                lambda values, weights: values[(weights.cumsum(0) >= weights.sum() / 2).nonzero()[0, 0]],
                "Add up the weights from the smallest value to the largest.",
            ),
            Mistake(
                "you took the middle of the range",
                lambda values, weights: (values.min() + values.max()) / 2,
                "That minimises the largest possible error; the mean absolute error wants half of the weight on each side.",
            ),
        ],
    ),
    Exercise(
        "03.3",
        "the two losses of the hinge game",
        reference=_hinge,
        inputs=_hinge_inputs,
        mistakes=[
            Mistake(
                "you swapped real and fake in the discriminator's loss",
                lambda real, fake: (F.relu(1 + real).mean() + F.relu(1 - fake).mean(), -fake.mean()),
                "The discriminator wants real logits above 1 and fake ones below -1.",
            ),
            Mistake(
                "you forgot the margin",
                lambda real, fake: (F.relu(-real).mean() + F.relu(fake).mean(), -fake.mean()),
                "Without the 1 a discriminator that answers 0 everywhere has no loss.",
            ),
            Mistake(
                "you cut the generator's loss off as well",
                lambda real, fake: (_hinge(real, fake)[0], F.relu(1 - fake).mean()),
                "Only the discriminator has a hinge; the generator's loss is the plain mean of -fake.",
            ),
            Mistake(
                "your generator helps the discriminator",
                lambda real, fake: (_hinge(real, fake)[0], fake.mean()),
                "The generator wants its logits large, so its loss is minus their mean.",
            ),
            Mistake(
                "you left out the hinge",
                lambda real, fake: (2 - real.mean() + fake.mean(), -fake.mean()),
                "Beyond the margin an answer is good enough and must not count: relu.",
            ),
            Mistake(
                "you took half of the discriminator's loss",
                lambda real, fake: (_hinge(real, fake)[0] / 2, -fake.mean()),
                "The two parts are added, each with weight 1.",
            ),
        ],
    ),
    Exercise(
        "03.4",
        "the best discriminator there can be",
        reference=_best_logit,
        inputs=_densities,
        judge=_by_bayes,
        mistakes=[
            Mistake(
                "you forgot how many of the samples are real",
                lambda log_p, log_q, share: log_p - log_q,
                "Where both densities are equal, the chance of being real is the share of real samples.",
            ),
            Mistake(
                "you gave the chance of being a fake",
                lambda log_p, log_q, share: -_best_logit(log_p, log_q, share),
                "The logit is large where the real density p is larger.",
            ),
            Mistake(
                "you returned a probability",
                lambda log_p, log_q, share: torch.sigmoid(_best_logit(log_p, log_q, share)),
                "The logit is asked for, log(D / (1 - D)).",
            ),
            Mistake(
                "you turned the odds of the shares upside down",
                lambda log_p, log_q, share: _best_logit(log_p, log_q, 1 - share),
                "More real samples make every sample more likely to be real.",
            ),
            Mistake(
                "you took the densities' ratio for its logarithm",
                lambda log_p, log_q, share: (log_p - log_q).exp() * share / (1 - share),
                "These are the odds D / (1 - D); the logit is their logarithm.",
            ),
        ],
    ),
    Exercise(
        "03.5",
        "the bound of a variational autoencoder",
        reference=lambda y, mean, sigma, mu, log_var: _elbo(y, mean, sigma, mu, log_var),
        inputs=_elbo_inputs,
        mistakes=[
            Mistake(
                "you added the divergence",
                lambda y, mean, sigma, mu, log_var: _elbo(y, mean, sigma, mu, log_var, sign=-1),
                "Saying more in the latent costs: the KL is subtracted.",
            ),
            Mistake(
                "you measured the divergence in the other direction",
                _turned_kl,
                "KL(q || p): what the encoder's law costs under the prior N(0, I).",
            ),
            Mistake(
                "you took log_var for the logarithm of the standard deviation",
                lambda y, mean, sigma, mu, log_var: _elbo(y, mean, sigma, mu, 2 * log_var),
                "The variance is exp(log_var).",
            ),
            Mistake(
                "you left the decoder's sigma out of the normalisation",
                lambda y, mean, sigma, mu, log_var: _elbo(y, mean, sigma, mu, log_var, constant=False),
                "A Gaussian density has 1 / sigma in front, for each pixel.",
            ),
            Mistake(
                "you averaged over the pixels",
                _mean_of_pixels,
                "The log-likelihood of an image is the sum over its pixels; a mean makes the KL that much heavier.",
            ),
            Mistake(
                "you dropped the divergence",
                lambda y, mean, sigma, mu, log_var: _elbo(y, mean, sigma, mu, log_var, sign=0),
                "Without it the encoder may hide everything in the latent, and the prior's samples decode to nothing.",
            ),
        ],
    ),
    Exercise(
        "03.6",
        "who may be seen",
        reference=_mask,
        inputs=_mask_inputs,
        mistakes=[
            Mistake(
                "you let the first layer see the pixel that it has to predict",
                lambda size, first: _mask(size, False),
                "Then the loss falls to almost nothing and the samples are worthless.",
            ),
            Mistake(
                "you hid the middle in every layer",
                lambda size, first: _mask(size, True),
                "After the first layer the middle holds only what came before the pixel; hiding it wastes it.",
            ),
            Mistake(
                "you showed the whole row",
                _own_row_too,
                "The pixels to the right are drawn later.",
            ),
            Mistake(
                "you showed the future and hid the past",
                lambda size, first: _mask(size, first).flip(0, 1),
                "Pixels are drawn row by row from the top left, so what lies above and to the left is known.",
            ),
            Mistake(
                "you went down the columns",
                lambda size, first: _mask(size, first).T.contiguous(),
                "Raster order goes along the rows: everything above is known, also above and to the right.",
            ),
            Mistake(
                "you hid what lies above and to the right",
                _upper_left,
                "Whole rows above are drawn already, their right halves included.",
            ),
            Mistake(
                "you hid the left half of the row",
                _above_only,
                "The pixels to the left in the same row are drawn already.",
            ),
        ],
    ),
    Exercise(
        "03.7",
        "the likelihood of a flow of one layer",
        reference=lambda y, shift, log_scale: _affine_nll(y, shift, log_scale),
        inputs=_affine_inputs,
        judge=_as_distribution,
        mistakes=[
            Mistake(
                "you gave the volume the wrong sign",
                lambda y, shift, log_scale: _affine_nll(y, shift, log_scale, sign=-1),
                "A wide scale spreads the density thin, so it makes the negative log-likelihood larger.",
            ),
            Mistake(
                "you forgot the volume",
                lambda y, shift, log_scale: _affine_nll(y, shift, log_scale, sign=0),
                "Without log|det| a flow wins by squeezing everything to z = 0.",
            ),
            Mistake(
                "you forgot the Gaussian's constant",
                lambda y, shift, log_scale: _affine_nll(y, shift, log_scale, constant=0.0),
                "log N(z; 0, 1) = -z^2 / 2 - log(2 pi) / 2, for each number.",
            ),
            Mistake(
                "you multiplied where the inverse divides",
                _multiplied,
                "y = shift + exp(log_scale) z, so z = (y - shift) / exp(log_scale).",
            ),
            Mistake(
                "you averaged over the numbers of a sample",
                lambda y, shift, log_scale: _affine_nll(y, shift, log_scale) / y.shape[1],
                "Densities of independent numbers multiply, so their logarithms add up.",
            ),
            Mistake(
                "you returned the log-likelihood itself",
                lambda y, shift, log_scale: -_affine_nll(y, shift, log_scale),
                "The negative one is asked for, the loss that training makes small.",
            ),
        ],
    ),
    Exercise(
        "03.8",
        "how wrong the shares of the modes are",
        reference=_share_error,
        inputs=_share_inputs,
        mistakes=[
            Mistake(
                "you counted chance as an error",
                lambda chosen, share: (chosen.mean(1) - share).square().mean(),
                "Even a perfect sampler's shares scatter; subtract the variance of a share of K draws.",
            ),
            Mistake(
                "you divided by K",
                lambda chosen, share: (
                    (chosen.mean(1) - share).square() - chosen.mean(1) * (1 - chosen.mean(1)) / chosen.shape[1]
                ).mean(),
                "f (1 - f) / K underestimates the variance on average; f (1 - f) / (K - 1) does not.",
            ),
            Mistake(
                "you took the variance that a perfect sampler would have",
                lambda chosen, share: (
                    (chosen.mean(1) - share).square() - share * (1 - share) / chosen.shape[1]
                ).mean(),
                "The scatter belongs to the sampler's own share, which you estimate from its draws.",
            ),
            Mistake(
                "you pooled the conditions before you compared",
                lambda chosen, share: (chosen.mean(1) - share).mean().square(),
                "A sampler that errs upwards here and downwards there would look perfect; square for each x first.",
            ),
            Mistake(
                "you returned the root of the mean square",
                lambda chosen, share: _share_error(chosen, share).clamp(min=0).sqrt(),
                "The mean squared error is asked for: its root would be biased, and may not exist.",
            ),
            Mistake(
                "you added the variance",
                lambda chosen, share: (
                    (chosen.mean(1) - share).square() + chosen.mean(1) * (1 - chosen.mean(1)) / (chosen.shape[1] - 1)
                ).mean(),
                "The squared difference holds the scatter already; take it away.",
            ),
        ],
    ),
]
