"""Checks for the exercises of chapter 09."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..noise import Noise, standard_normal
from . import Exercise, Mistake


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _noise(generator: Generator) -> Noise:
    return standard_normal(int(torch.randint(1, 10**6, (), generator=generator)))


# 09.1: levels between the neighbours of a ladder.


def _between(gammas: Tensor, t: Tensor, share: Tensor) -> Tensor:
    return gammas[t] + share * (gammas[t - 1] - gammas[t])


def _between_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    betas = _uniform(generator, 8, low=0.05, high=0.5)
    gammas = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    return gammas, 1 + torch.randperm(8, generator=generator)[:6], _uniform(generator, 6)


# 09.2: the paper's network as a denoiser.


def _network(generator: Generator) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A stand-in for f(x, y, gamma) -> eps whose answer depends on all three in a way that nothing else repeats."""
    weights = _normal(generator, 3)

    def f(x: Tensor, y: Tensor, gamma: Tensor) -> Tensor:
        gamma = torch.as_tensor(gamma, dtype=torch.float64).reshape(-1, 1)
        return torch.tanh(weights[0] * x + weights[1] * y) + weights[2] * gamma**2

    return f


def _wrapped(
    f: Callable,
    x: Tensor,
    z: Tensor,
    alpha: Tensor,
    told: Callable[[Tensor], Tensor] = lambda alpha: alpha**2,
    noise: float = 0.5,
    signal: float = 1.0,
) -> Tensor:
    """Right as it stands: f is told alpha^2, eps is multiplied by (1 - alpha^2)^0.5, the rest divided by alpha^1."""
    eps = f(x, z, told(alpha))
    column = alpha[:, None]
    return (z - (1 - column**2) ** noise * eps) / column**signal


def _wrapped_inputs(generator: Generator) -> tuple:
    return (
        _network(generator),
        _normal(generator, 5, 3),
        _normal(generator, 5, 3),
        _uniform(generator, 5, low=0.2, high=0.9),
    )


# 09.3: one step of SR3's sampler.


def _step(
    y: Tensor,
    eps: Tensor,
    gamma_t: float,
    gamma_s: float,
    noise: Noise,
    swapped: bool = False,
    level: str = "t",
    shrunk: bool = True,
    size: str = "beta",
    quiet_end: bool = True,
) -> Tensor:
    """Right as it stands; each option breaks one thing."""
    kept = gamma_t / gamma_s
    a = 1 - kept if swapped else kept
    below = {"t": math.sqrt(1 - gamma_t), "s": math.sqrt(1 - gamma_s) or 1.0, "variance": 1 - gamma_t}[level]
    mean = (y - (1 - a) / below * eps) / (math.sqrt(a) if shrunk else 1.0)
    std = {
        "beta": math.sqrt(1 - a),
        "variance": 1 - a,
        "tilde": math.sqrt((1 - a) * (1 - gamma_s) / (1 - gamma_t)),
    }[size]
    return mean if gamma_s == 1 and quiet_end else mean + std * noise(y)


def _step_inputs(generator: Generator) -> tuple:
    """The last draw steps to gamma = 1."""
    gamma_t = _uniform(generator, 1, low=0.2, high=0.6).item()
    gamma_s = 1.0 if generator.initial_seed() == 3 else gamma_t + 0.3 * _uniform(generator, 1, low=0.5).item()
    return _normal(generator, 5, 3), _normal(generator, 5, 3), gamma_t, gamma_s, _noise(generator)


def _broken_step(**options) -> Callable:
    return lambda y, eps, gamma_t, gamma_s, noise: _step(y, eps, gamma_t, gamma_s, noise, **options)


# 09.4: what the absolute error learns.


def _least_absolute(values: Tensor, weights: Tensor) -> Tensor:
    order = values.argsort()
    below = weights[order].cumsum(0) / weights.sum()
    return values[order][torch.searchsorted(below, torch.tensor(0.5, dtype=below.dtype))]


def _least_absolute_inputs(generator: Generator) -> tuple[Tensor, Tensor]:
    """Seven values; the first weight of the unsorted ones is large, but below a half."""
    weights = _uniform(generator, 7, low=0.2, high=1.0)
    weights[0] = 0.6 * weights[1:].sum()
    values = 3 * _normal(generator, 7)
    values[0] = values.abs().max() + 1  # the mode is the largest value: neither the mean nor the median
    return values, weights / weights.sum()


def _not_beaten(answer: Tensor, values: Tensor, weights: Tensor) -> str | None:
    """The oracle: no value on a fine grid has a smaller expected absolute error."""

    def cost(guess: Tensor) -> Tensor:
        return (weights * (values - guess.reshape(-1, 1)).abs()).sum(1)

    grid = torch.linspace(values.min().item(), values.max().item(), 2001, dtype=torch.float64)
    best = cost(torch.cat([grid, values])).min()
    if cost(torch.as_tensor(answer, dtype=torch.float64).reshape(1)) <= best + 1e-9:
        return None
    return "another value has a smaller expected absolute error."


# 09.5: conditioning augmentation.


def _spoilt(
    cond: Tensor,
    hr: Tensor,
    gamma: Tensor,
    noise: Noise,
    shrunk: bool = True,
    power: float = 0.5,
    where: str = "cond",
    shared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Right as it stands; each option breaks one thing."""
    column = gamma.mean().expand_as(gamma) if shared else gamma
    column = column.view(-1, 1, 1, 1)
    source = cond if where == "cond" else hr
    made = (column**power if shrunk else 1.0) * source + (1 - column) ** power * noise(source)
    return (made, hr) if where == "cond" else (cond, made)


def _spoilt_inputs(generator: Generator) -> tuple:
    return (
        _normal(generator, 4, 3, 6, 6),
        _normal(generator, 4, 3, 6, 6),
        _uniform(generator, 4, low=0.3, high=0.95),
        _noise(generator),
    )


# 09.6: a + b / K.


def _split(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """b: mean variance of one sample; a: squared error that no number of samples removes, without bias."""
    b = samples.var(1).mean()
    return (samples.mean(1) - truth).square().mean() - b / samples.shape[1], b


def _split_inputs(generator: Generator) -> tuple[Tensor, Tensor]:
    truth = _normal(generator, 6, 20)
    centre = truth + 0.7 * _normal(generator, 6, 20)
    count = int(torch.randint(3, 6, (), generator=generator))
    return centre[:, None] + 0.9 * _normal(generator, 6, count, 20), truth


# 09.7: the rank of the truth.


def _rank(truth: Tensor, samples: Tensor) -> Tensor:
    return (samples < truth[:, None]).sum(1)


def _rank_inputs(generator: Generator) -> tuple[Tensor, Tensor]:
    return _normal(generator, 6, 10), 0.3 + _normal(generator, 6, 9, 10)


# 09.8: how many answers a verdict needs.


def _needed(rate: float, z: float = 1.96) -> int:
    return math.ceil(z**2 * rate * (1 - rate) / (0.5 - rate) ** 2)


def _needed_inputs(generator: Generator) -> tuple[float]:
    return (_uniform(generator, 1, low=0.3, high=0.46).item(),)


CHAPTER = [
    Exercise(
        "09.1",
        "noise levels between the rungs of a ladder",
        reference=_between,
        inputs=_between_inputs,
        mistakes=[
            Mistake(
                "you took the rungs themselves",
                lambda gammas, t, share: gammas[t],
                "The network would only ever see N levels; the share says how far to go towards the cleaner neighbour.",
            ),
            Mistake(
                "you went towards the noisier neighbour",
                lambda gammas, t, share: gammas[t] + share * (gammas[(t + 1).clamp(max=len(gammas) - 1)] - gammas[t]),
                "t runs from 1 to N, so that t - 1 exists; t + 1 does not for t = N, and levels near 1 would never come up.",
            ),
            Mistake(
                "you interpolated sqrt(gamma), as a public port does",
                lambda gammas, t, share: _between(gammas.sqrt(), t, share) ** 2,
                "The paper draws gamma itself uniformly; the port's way is legitimate, but it is another distribution.",
            ),
            Mistake(
                "you used one interval for the whole batch",
                lambda gammas, t, share: _between(gammas, t[:1], share),
                "Each image of the batch has its own t; with a single one the loss jumps from step to step.",
            ),
            Mistake(
                "you interpolated the logarithm",
                lambda gammas, t, share: _between(gammas.log(), t, share).exp(),
                "Uniform in gamma means a straight line between gamma_t and gamma_(t-1).",
            ),
        ],
    ),
    Exercise(
        "09.2",
        "the paper's network as a denoiser",
        reference=lambda f, x, z, alpha: _wrapped(f, x, z, alpha),
        inputs=_wrapped_inputs,
        mistakes=[
            Mistake(
                "you told the network alpha, the square root of gamma",
                lambda f, x, z, alpha: _wrapped(f, x, z, alpha, told=lambda alpha: alpha),
                "This f was trained on gamma = alpha^2. Public ports train on the root: always feed what it was trained on.",
            ),
            Mistake(
                "you told the network the noise variance",
                lambda f, x, z, alpha: _wrapped(f, x, z, alpha, told=lambda alpha: 1 - alpha**2),
                "gamma is what is left of the signal's power, not what was added.",
            ),
            Mistake(
                "you multiplied eps by the variance",
                lambda f, x, z, alpha: _wrapped(f, x, z, alpha, noise=1.0),
                "z = alpha y + sigma eps, and sigma is the root of 1 - gamma.",
            ),
            Mistake(
                "you divided by gamma",
                lambda f, x, z, alpha: _wrapped(f, x, z, alpha, signal=2.0),
                "The signal was multiplied by alpha, the root of gamma; divide by the same number.",
            ),
            Mistake(
                "you handed x and z over in the wrong order",
                lambda f, x, z, alpha: (z - (1 - alpha[:, None] ** 2).sqrt() * f(z, x, alpha**2)) / alpha[:, None],
                "The LR image comes first in f(x, y, gamma); here both have the same shape, so nothing complains.",
            ),
        ],
    ),
    Exercise(
        "09.3",
        "one step of SR3, of any length",
        reference=lambda y, eps, gamma_t, gamma_s, noise: _step(y, eps, gamma_t, gamma_s, noise),
        inputs=_step_inputs,
        mistakes=[
            Mistake(
                "your alpha is the variance of the step",
                _broken_step(swapped=True),
                "Here alpha is what the step keeps, gamma_t / gamma_s; the survey's DDPM section calls 1 minus it alpha.",
            ),
            Mistake(
                "you divided eps by the new noise level",
                _broken_step(level="s"),
                "eps belongs to the state at t, whose noise has the size sqrt(1 - gamma_t).",
            ),
            Mistake(
                "you divided eps by 1 - gamma_t",
                _broken_step(level="variance"),
                "The mean needs the standard deviation, sqrt(1 - gamma_t).",
            ),
            Mistake(
                "you forgot to divide by sqrt(alpha)",
                _broken_step(shrunk=False),
                "The forward step shrank the image by sqrt(alpha), so the way back enlarges it.",
            ),
            Mistake(
                "you added noise of standard deviation 1 - alpha",
                _broken_step(size="variance"),
                "1 - alpha is the variance; noise is multiplied by its root.",
            ),
            Mistake(
                "you added the posterior's noise, beta-tilde",
                _broken_step(size="tilde"),
                "The paper draws with the variance of the forward step, 1 - alpha; public ports often take beta-tilde.",
            ),
            Mistake(
                "you added noise at the last step",
                _broken_step(quiet_end=False),
                "A step to gamma_s = 1 ends at the image: nothing would ever remove that noise again.",
            ),
        ],
    ),
    Exercise(
        "09.4",
        "the answer that the absolute error learns",
        reference=_least_absolute,
        inputs=_least_absolute_inputs,
        judge=_not_beaten,
        mistakes=[
            Mistake(
                "you answered the mean",
                lambda values, weights: (weights * values).sum(),
                "The mean is best for the squared error; p = 1 counts how far, not how far squared.",
            ),
            Mistake(
                "you answered the likeliest value",
                lambda values, weights: values[weights.argmax()],
                "The mode would be best if all errors counted the same, however large.",
            ),
            Mistake(
                "you forgot the weights",
                lambda values, weights: values.median(),
                "Half of the probability lies on either side, not half of the values.",
            ),
            Mistake(
                "you accumulated the weights in the order they came",
                lambda values, weights: values[torch.searchsorted(weights.cumsum(0), 0.5)],
                "Sort the values first, and the weights along with them.",
            ),
        ],
    ),
    Exercise(
        "09.5",
        "conditioning augmentation",
        reference=lambda cond, hr, gamma, noise: _spoilt(cond, hr, gamma, noise),
        inputs=_spoilt_inputs,
        mistakes=[
            Mistake(
                "you added noise without shrinking the condition",
                lambda cond, hr, gamma, noise: _spoilt(cond, hr, gamma, noise, shrunk=False),
                "Variance preserving: sqrt(gamma) in front of the condition keeps its size when noise is added.",
            ),
            Mistake(
                "you forgot both square roots",
                lambda cond, hr, gamma, noise: _spoilt(cond, hr, gamma, noise, power=1.0),
                "gamma and 1 - gamma are powers (variances); amplitudes are their roots.",
            ),
            Mistake(
                "you spoilt the HR image",
                lambda cond, hr, gamma, noise: _spoilt(cond, hr, gamma, noise, where="hr"),
                "The HR image has its own noise, that of the diffusion; this one goes onto the condition.",
            ),
            Mistake(
                "you used one level for all images",
                lambda cond, hr, gamma, noise: _spoilt(cond, hr, gamma, noise, shared=True),
                "gamma has one number per image: view it as (B, 1, 1, 1).",
            ),
        ],
    ),
    Exercise(
        "09.6",
        "what averaging K samples removes",
        reference=_split,
        inputs=_split_inputs,
        mistakes=[
            Mistake(
                "you divided the variance by K",
                lambda samples, truth: (
                    (samples.mean(1) - truth).square().mean()
                    - samples.var(1, unbiased=False).mean() / samples.shape[1],
                    samples.var(1, unbiased=False).mean(),
                ),
                "Around their own mean K samples scatter too little; divide by K - 1.",
            ),
            Mistake(
                "your a still holds the rest of b",
                lambda samples, truth: (
                    (samples.mean(1) - truth).square().mean(),
                    samples.var(1).mean(),
                ),
                "The mean of K samples has the error a + b/K; subtract b/K.",
            ),
            Mistake(
                "your b is the error of a single sample",
                lambda samples, truth: (
                    _split(samples, truth)[0],
                    (samples - truth[:, None]).square().mean(),
                ),
                "The error of one sample is a + b; b alone is the scatter of the samples around their own mean.",
            ),
            Mistake(
                "your b is a standard deviation",
                lambda samples, truth: (_split(samples, truth)[0], samples.var(1).mean().sqrt()),
                "a and b are squared errors, in squared units.",
            ),
        ],
    ),
    Exercise(
        "09.7",
        "the rank of the truth among the samples",
        reference=_rank,
        inputs=_rank_inputs,
        mistakes=[
            Mistake(
                "you counted the samples above the truth",
                lambda truth, samples: (samples > truth[:, None]).sum(1),
                "Rank 0 means that the truth is smaller than every sample.",
            ),
            Mistake(
                "you returned a share",
                lambda truth, samples: (samples < truth[:, None]).double().mean(1),
                "A rank is a whole number from 0 to K; there are K + 1 of them.",
            ),
            Mistake(
                "you counted from 1",
                lambda truth, samples: _rank(truth, samples) + 1,
                "With no sample below it the truth has rank 0.",
            ),
            Mistake(
                "you counted pixels instead of samples",
                lambda truth, samples: (samples < truth[:, None]).sum(2),
                "Sum over the samples, dimension 1; every pixel keeps its own rank.",
            ),
            Mistake(
                "you ranked the first sample",
                lambda truth, samples: (
                    (samples[:, 1:] < samples[:, :1]).sum(1) + (truth[:, None] < samples[:, :1]).sum(1)
                ),
                "Which place does the truth take among the samples? Compare all of them with it.",
            ),
        ],
    ),
    Exercise(
        "09.8",
        "how many answers a verdict needs",
        reference=_needed,
        inputs=_needed_inputs,
        mistakes=[
            Mistake(
                "you forgot to square",
                lambda rate: math.ceil(1.96 * math.sqrt(rate * (1 - rate)) / (0.5 - rate)),
                "The half-width falls with the square root of n, so n grows with the square of the precision.",
            ),
            Mistake(
                "you left out the 1.96",
                lambda rate: math.ceil(rate * (1 - rate) / (0.5 - rate) ** 2),
                "One standard error is a 68 % interval; 95 % needs 1.96 of them.",
            ),
            Mistake(
                "you asked the whole width to be as small as the distance to 50 %",
                lambda rate: math.ceil(4 * 1.96**2 * rate * (1 - rate) / (0.5 - rate) ** 2),
                "The interval reaches half of its width to either side.",
            ),
            Mistake(
                "you rounded down",
                lambda rate: _needed(rate) - 1,
                "With one answer fewer the interval still touches 50 %.",
            ),
        ],
        rtol=0.0,
        atol=1e-9,
    ),
]
