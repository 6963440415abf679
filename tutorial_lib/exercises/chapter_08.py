"""Checks for the exercises of chapter 08."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..noise import Noise, standard_normal
from ..score_matching import rademacher
from . import Exercise, Mistake


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _whole(generator: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _states(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# 08.1


def _bits(log_p: Tensor, dim: int, levels: int, sign: float = 1.0, length: float = 2.0, base: float = 2.0) -> Tensor:
    return -(log_p + sign * dim * math.log(length / levels)) / (dim * math.log(base))


def _bits_inputs(generator: Generator) -> tuple:
    dim = _whole(generator, 5, 200)
    return _states(generator, 6) * 20 - dim, dim, _whole(generator, 4, 256)


# 08.2


def _dequantise(images: Tensor, levels: int, u: Tensor) -> Tensor:
    return 2 * ((images * (levels - 1)).round() + u) / levels - 1


def _dequantise_inputs(generator: Generator) -> tuple:
    levels = (5, 17, 9, 33)[generator.initial_seed() % 4]
    shape = (3, 1, 4, 5)
    images = torch.randint(levels, shape, generator=generator).double() / (levels - 1)
    return images, levels, torch.rand(shape, generator=generator, dtype=torch.float64)


# 08.3


def _price(z_0: Tensor, guess: Tensor, snr_t: float, snr_s: float) -> Tensor:
    return (snr_s - snr_t) / 2 * (z_0 - guess).flatten(1).square().sum(1)


def _price_inputs(generator: Generator) -> tuple:
    z_0, snr_t = _states(generator, 5, 2, 3, 4), _uniform(generator, 0.2, 3)
    return z_0, z_0 + 0.3 * _states(generator, 5, 2, 3, 4), snr_t, snr_t * _uniform(generator, 1.5, 4)


# 08.4


def _best_variance(beta_tilde: float, c: float, z_0: Tensor, guess: Tensor) -> Tensor:
    return beta_tilde + c**2 * (z_0 - guess).square().mean()


def _best_variance_inputs(generator: Generator) -> tuple:
    z_0 = _states(generator, 7, 2, 3, 3)
    ends = _uniform(generator, 0.05, 0.5), _uniform(generator, 0.2, 0.7)
    return *ends, z_0, z_0 + 0.4 * _states(generator, 7, 2, 3, 3)


# 08.5


def _probed(function: Callable, z: Tensor, probes: int, noise: Noise, count: int | None = None) -> Tensor:
    """Mean over probes of v^T J v; `count` divides in place of the number of probes."""
    total = 0
    for _ in range(probes):
        v, x = noise(z), z.detach().clone().requires_grad_()
        product = torch.autograd.grad(function(x), x, v)[0]
        total = total + (product * v).flatten(1).sum(1)
    return total / (count or probes)


def _without_second_v(function: Callable, z: Tensor, probes: int, noise: Noise) -> Tensor:
    total = 0
    for _ in range(probes):
        v, x = noise(z), z.detach().clone().requires_grad_()
        total = total + torch.autograd.grad(function(x), x, v)[0].flatten(1).sum(1)
    return total / probes


def _without_first_v(function: Callable, z: Tensor, probes: int, noise: Noise) -> Tensor:
    x = z.detach().clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0].flatten(1).sum(1)


def _probe_inputs(generator: Generator) -> tuple:
    matrix = _states(generator, 6, 6) / 2
    noise = rademacher(standard_normal(_whole(generator, 1, 10**6)))

    def function(z: Tensor) -> Tensor:
        return (z.flatten(1) @ matrix).tanh().view_as(z) + z * z[:, :1]

    return function, _states(generator, 4, 2, 3), _whole(generator, 2, 5), noise


# 08.6


def _carried(
    velocity: Callable,
    divergence: Callable,
    z: Tensor,
    times: Tensor,
    log_prior: Callable,
    sign: float = 1.0,
    arrived: bool = True,
    step: bool = True,
) -> Tensor:
    """log p at times[0] by Euler's method up to times[-1]; the flags are the mistakes."""
    start, total = z, 0
    for t, s in zip(times[:-1], times[1:], strict=True):
        total = total + sign * divergence(z, t) * ((s - t) if step else 1.0)
        z = z + (s - t) * velocity(z, t)
    return log_prior(z if arrived else start) + total


def _carried_inputs(generator: Generator) -> tuple:
    rate = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)
    bend = _uniform(generator, 0.3, 0.8)

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        return -rate * z + bend * t * z.sin()

    def divergence(z: Tensor, t: Tensor) -> Tensor:
        return (-rate + bend * t * z.cos()).sum(1)

    def log_prior(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0, 1).log_prob(z).sum(1)

    times = (0.1 + torch.rand(7, generator=generator, dtype=torch.float64)).cumsum(0) / 8
    return velocity, divergence, _states(generator, 5, 3), times, log_prior


# 08.7


def _simple(log_snr: Callable, t: Tensor, gamma: float, k: float) -> Tensor:
    """w(lambda) of the P2 loss at lambda = log_snr(t); gamma = 0 is the simple loss."""
    slope = _slope(log_snr, t)
    return 1 / (-slope) / (k + log_snr(t).exp()) ** gamma


def _slope(log_snr: Callable, t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    return torch.autograd.grad(log_snr(t).sum(), t)[0]


def _weight_inputs(generator: Generator) -> tuple:
    start, fall, bend = _uniform(generator, 3, 6), _uniform(generator, 6, 9), _uniform(generator, 0.5, 2.5)

    def log_snr(t: Tensor) -> Tensor:
        return start - fall * t - bend * t**3

    ends = (0.5, 1.5), (0.5, 2.0)
    t = torch.rand(6, generator=generator, dtype=torch.float64)
    return log_snr, t, *(_uniform(generator, *pair) for pair in ends)


# 08.8


def _walk(log_snr: Tensor, rate: Tensor, n: int) -> Tensor:
    """n + 1 values of log_snr between which equal shares of the bill lie, from the largest down."""
    order = torch.argsort(log_snr, descending=True)
    x, y = log_snr[order], rate[order]
    paid = torch.cat([y.new_zeros(1), ((y[1:] + y[:-1]) / 2 * (x[:-1] - x[1:])).cumsum(0)])
    wanted = torch.linspace(0, 1, n + 1, dtype=paid.dtype) * paid[-1]
    right = torch.searchsorted(paid, wanted).clamp(1, len(paid) - 1)
    left = right - 1
    return x[left] + (wanted - paid[left]) / (paid[right] - paid[left]) * (x[right] - x[left])


def _walk_inputs(generator: Generator) -> tuple:
    x = torch.linspace(-8, 9, 400 + _whole(generator, 0, 50), dtype=torch.float64)
    middle = _uniform(generator, -1, 3)
    rate = 0.05 + torch.sigmoid(x - middle) / 2 + _uniform(generator, 0.1, 0.5) * (-((x - middle) ** 2)).exp()
    return x, rate, _whole(generator, 6, 12)


def _judge_walk(output: Tensor, log_snr: Tensor, rate: Tensor, n: int) -> str | None:
    if output.shape != (n + 1,) or not (output.diff() < 0).all():
        return f"n + 1 = {n + 1} values that fall from the largest log_snr to the smallest are asked for."
    fine = torch.linspace(0, 1, 41, dtype=output.dtype)
    shares = []
    for high, low in zip(output[:-1], output[1:], strict=True):
        places = low + (high - low) * fine
        right = torch.searchsorted(log_snr, places).clamp(1, len(log_snr) - 1)
        share = (places - log_snr[right - 1]) / (log_snr[right] - log_snr[right - 1])
        heights = rate[right - 1] + share * (rate[right] - rate[right - 1])
        shares.append(torch.trapezoid(heights, places))
    spread = torch.stack(shares)
    if (spread / spread.mean() - 1).abs().max() < 0.02:
        return None
    return "the bill between neighbouring values is not the same everywhere."


CHAPTER = [
    Exercise(
        "08.1",
        "bits per dimension of dequantised data",
        _bits,
        [
            Mistake(
                "you left out the width of a level",
                lambda log_p, dim, levels: -log_p / (dim * math.log(2)),
                "A density becomes a probability only when it is multiplied by the length 2/k of each level's interval.",
            ),
            Mistake(
                "you answered in nats",
                lambda log_p, dim, levels: _bits(log_p, dim, levels, base=math.e),
                "Divide by log 2: one bit is 0.693 nats.",
            ),
            Mistake(
                "you added the width with the wrong sign",
                lambda log_p, dim, levels: _bits(log_p, dim, levels, -1.0),
                "A probability is density times width, so log(2/k) is added to log p, before the minus sign.",
            ),
            Mistake(
                "you took the states for values in [0, 1]",
                lambda log_p, dim, levels: _bits(log_p, dim, levels, length=1.0),
                "States run from -1 to 1, so k levels share a length of 2: that is 7 bits for 256 levels, not 8.",
            ),
            Mistake(
                "you counted the width once for the whole image",
                lambda log_p, dim, levels: -(log_p + math.log(2 / levels)) / (dim * math.log(2)),
                "log_p belongs to all dimensions, so each of them contributes its own log(2/k).",
            ),
        ],
        _bits_inputs,
    ),
    Exercise(
        "08.2",
        "dequantisation",
        _dequantise,
        [
            Mistake(
                "you put the levels 2/(k - 1) apart",
                lambda images, levels, u: 2 * ((images * (levels - 1)).round() + u) / (levels - 1) - 1,
                "k intervals of equal length fill [-1, 1), so each is 2/k long; with 2/(k - 1) the last one sticks out.",
            ),
            Mistake(
                "you counted the level from value times k",
                lambda images, levels, u: 2 * ((images * levels).round() + u) / levels - 1,
                "Values are i/(k - 1): the brightest, 1, is level k - 1.",
            ),
            Mistake(
                "you centred the noise on the level",
                lambda images, levels, u: _dequantise(images, levels, u - 0.5),
                "u in [0, 1) fills the bin from its lower edge; subtract 1/2 and the darkest level falls below -1.",
            ),
            Mistake(
                "you stayed in [0, 1]",
                lambda images, levels, u: ((images * (levels - 1)).round() + u) / levels,
                "States live in [-1, 1): double, then subtract 1.",
            ),
            Mistake(
                "you added no noise",
                lambda images, levels, u: _dequantise(images, levels, torch.full_like(u, 0.5)),
                "Without u the states still sit on k points, and a density there can be made as large as one likes.",
            ),
        ],
        _dequantise_inputs,
        rtol=1e-6,
    ),
    Exercise(
        "08.3",
        "what a step of the ELBO costs",
        _price,
        [
            Mistake(
                "you forgot the one half",
                lambda z_0, guess, snr_t, snr_s: 2 * _price(z_0, guess, snr_t, snr_s),
                "The KL of two Gaussians of equal variance is |difference of means|^2 / (2 variance).",
            ),
            Mistake(
                "you averaged over the dimensions",
                lambda z_0, guess, snr_t, snr_s: _price(z_0, guess, snr_t, snr_s) / z_0[0].numel(),
                "The KL of independent numbers is the sum of theirs; a mean makes every term too small by the factor D.",
            ),
            Mistake(
                "you swapped the ends of the step",
                lambda z_0, guess, snr_t, snr_s: _price(z_0, guess, snr_s, snr_t),
                "s is the cleaner end, so SNR(s) is the larger one; a KL divergence is never negative.",
            ),
            Mistake(
                "you used log SNR for SNR",
                lambda z_0, guess, snr_t, snr_s: _price(z_0, guess, math.log(snr_t), math.log(snr_s)),
                "The price is proportional to the gain in SNR itself.",
            ),
            Mistake(
                "you averaged over the batch as well",
                lambda z_0, guess, snr_t, snr_s: _price(z_0, guess, snr_t, snr_s).mean(),
                "One price for each sample, (B,): keep the first dimension.",
            ),
        ],
        _price_inputs,
    ),
    Exercise(
        "08.4",
        "the best variance of a step",
        _best_variance,
        [
            Mistake(
                "you forgot to square c",
                lambda beta_tilde, c, z_0, guess: beta_tilde + c * (z_0 - guess).square().mean(),
                "An error of z_0 moves the mean by c times as much, and variances take the square.",
            ),
            Mistake(
                "you left out beta-tilde",
                lambda beta_tilde, c, z_0, guess: c**2 * (z_0 - guess).square().mean(),
                "Even a perfect guess leaves the posterior's own variance, beta-tilde.",
            ),
            Mistake(
                "you summed the error over the dimensions",
                lambda beta_tilde, c, z_0, guess: beta_tilde + c**2 * (z_0 - guess).flatten(1).square().sum(1).mean(),
                "One variance serves every number, so E is the mean squared error of one number.",
            ),
            Mistake(
                "you returned a standard deviation",
                lambda beta_tilde, c, z_0, guess: _best_variance(beta_tilde, c, z_0, guess).sqrt(),
                "The variance is asked for.",
            ),
            Mistake(
                "you took the square of the mean error",
                lambda beta_tilde, c, z_0, guess: beta_tilde + c**2 * (z_0 - guess).mean() ** 2,
                "Square first, then average: positive and negative errors must not cancel.",
            ),
        ],
        _best_variance_inputs,
    ),
    Exercise(
        "08.5",
        "a divergence from random signs",
        _probed,
        [
            Mistake(
                "you did not multiply by v a second time",
                _without_second_v,
                "v^T J is only half of it: the inner product with v picks out the diagonal in the mean.",
            ),
            Mistake(
                "you summed over the probes",
                lambda function, z, probes, noise: _probed(function, z, probes, noise, 1),
                "Take the mean over the probes: each alone is already an unbiased estimate of the whole trace.",
            ),
            Mistake(
                "you used one vector of ones",
                _without_first_v,
                "The gradient of the plain sum adds up all entries of the Jacobian; random signs make the others cancel.",
            ),
            Mistake(
                "you divided by the number of dimensions",
                lambda function, z, probes, noise: _probed(function, z, probes, noise) / z[0].numel(),
                "The divergence is the sum of the diagonal.",
            ),
        ],
        _probe_inputs,
    ),
    Exercise(
        "08.6",
        "log p carried along a flow",
        _carried,
        [
            Mistake(
                "you subtracted the divergence",
                lambda *args: _carried(*args, sign=-1.0),
                "On the way up log p falls by the divergence, so what it was before is what it is at the end plus the sum.",
            ),
            Mistake(
                "you asked the prior at the starting point",
                lambda *args: _carried(*args, arrived=False),
                "The prior is the law at the end of the path: hand it the state that arrives there.",
            ),
            Mistake(
                "you left out the divergence",
                lambda *args: _carried(*args, sign=0.0),
                "Where paths spread, the density thins out: without that term the result does not integrate to one.",
            ),
            Mistake(
                "you forgot the length of the steps",
                lambda *args: _carried(*args, step=False),
                "It is an integral over time: each divergence counts for s - t.",
            ),
        ],
        _carried_inputs,
    ),
    Exercise(
        "08.7",
        "a loss as a weight on log SNR",
        _simple,
        [
            Mistake(
                "you multiplied by the slope",
                lambda log_snr, t, gamma, k: -_slope(log_snr, t) / (k + log_snr(t).exp()) ** gamma,
                "dt = d lambda / (d lambda / dt): a schedule that rushes through a level gives it little weight.",
            ),
            Mistake(
                "you kept the sign of the slope",
                lambda log_snr, t, gamma, k: 1 / _slope(log_snr, t) / (k + log_snr(t).exp()) ** gamma,
                "lambda falls with t, and a weight must be positive.",
            ),
            Mistake(
                "you used log SNR in P2's factor",
                lambda log_snr, t, gamma, k: 1 / (-_slope(log_snr, t)) / (k + log_snr(t).abs()) ** gamma,
                "P2 divides by (k + SNR)^gamma: take the exponential first.",
            ),
            Mistake(
                "you multiplied by P2's factor",
                lambda log_snr, t, gamma, k: 1 / (-_slope(log_snr, t)) * (k + log_snr(t).exp()) ** gamma,
                "P2 takes weight away from small noise, where the SNR is large: divide.",
            ),
            Mistake(
                "you forgot the change of variable",
                lambda log_snr, t, gamma, k: 1 / (k + log_snr(t).exp()) ** gamma,
                "Uniform in t is not uniform in lambda: 1 / (-d lambda/dt) is missing.",
            ),
        ],
        _weight_inputs,
        rtol=1e-3,
    ),
    Exercise(
        "08.8",
        "a schedule with nearly the least variance",
        _walk,
        [
            Mistake(
                "you spaced log SNR evenly",
                lambda log_snr, rate, n: torch.linspace(
                    log_snr.max().item(), log_snr.min().item(), n + 1, dtype=log_snr.dtype
                ),
                "That gives each step the same length; equal shares of the bill need short steps where the rate is high.",
            ),
            Mistake(
                "you spaced by the inverse of the rate",
                lambda log_snr, rate, n: _walk(log_snr, 1 / rate, n),
                "Spend more time where more is paid: the density of times is proportional to the rate.",
            ),
            Mistake(
                "you counted from noise to data",
                lambda log_snr, rate, n: _walk(log_snr, rate, n).flip(0),
                "t = 0 is data: the first value is the largest log SNR.",
            ),
        ],
        _walk_inputs,
        judge=_judge_walk,
        unique=False,
        rtol=1e-3,
        atol=1e-3,
    ),
]
