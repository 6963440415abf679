"""Checks for the exercises of chapter 15."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Generator, Tensor

from ..denoisers import pullback
from ..noise import standard_normal
from ..operators import AveragePool, LinearOperator, Mask
from ..oracles import Gaussian, GaussianMixture, denoiser_for
from ..samplers import last
from ..schedules import Schedule, flow, uniform_times, vp_linear
from ..zero_shot import ddnm, diffpir, dps, gdp, ilvr, mcg, pigdm
from . import Exercise, Mistake

double = torch.float64


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=double)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=double)


def _smooth(side: int) -> Tensor:
    """The covariance of smooth images of side x side pixels."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).to(double)
    return 0.3 * torch.exp(-(torch.cdist(places, places) ** 2) / 8) + 0.01 * torch.eye(side**2, dtype=double)


def _images_prior(generator: Generator) -> GaussianMixture:
    """Two kinds of 4 x 4 images, so that the denoiser is not linear."""
    means, weights = _normal(generator, 2, 16), torch.tensor([0.6, 0.4], dtype=double)
    return GaussianMixture(weights, means, 0.3 * _smooth(4).expand(2, -1, -1), (1, 4, 4))


# 15.1: down the norm.


def _descent(
    denoiser: Callable,
    z: Tensor,
    t: float,
    x: Tensor,
    operator: LinearOperator,
    lengths: Callable,
    jacobian: bool = True,
) -> Tensor:
    """Right with lengths = _each. jacobian=False: the direction at z_0, not carried back to z."""
    z_0, back = pullback(denoiser, z, t)
    missing = x - operator(z_0)
    direction = operator.adjoint(missing / lengths(missing))
    return back(direction) if jacobian else direction


def _each(missing: Tensor) -> Tensor:
    return missing.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _descent_inputs(generator: Generator) -> tuple[Callable, Tensor, float, Tensor, LinearOperator]:
    prior, operator = _images_prior(generator), AveragePool(2)
    t = _uniform(generator, 1, low=0.1, high=0.7).item()
    x = operator(prior.sample(3, standard_normal(generator)))
    return denoiser_for(prior, vp_linear()), _normal(generator, 3, 1, 4, 4), t, x, operator


# 15.2: four languages of one step.


def _factor(kind: str, value: float, length: Tensor) -> Tensor:
    return {
        "norm": lambda: value / length,
        "paper": lambda: 2 * value / length,
        "square": lambda: torch.full_like(length, 2 * value),
        "likelihood": lambda: torch.full_like(length, value**-2),
    }[kind]()


def _factor_inputs(generator: Generator) -> tuple[str, float, Tensor]:
    kind = ("norm", "paper", "square", "likelihood")[generator.initial_seed() % 4]
    return kind, _uniform(generator, 1, low=0.2, high=0.9).item(), _uniform(generator, 5, low=1.5, high=6.0)


# 15.3: what z says about x.


def _left(covariance: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
    """E[z_0 | z] = gain z, and the covariance of z_0 given z."""
    identity = torch.eye(len(covariance), dtype=double)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * identity)
    return gain, covariance - alpha * gain @ covariance


def _law(
    covariance: Tensor,
    matrix: Tensor,
    z: Tensor,
    alpha: float,
    sigma: float,
    noise_std: float,
    spread: Callable | None = None,
    power: int = 2,
) -> tuple[Tensor, Tensor]:
    """Right as it stands. spread: another covariance of z_0 given z; power: of noise_std."""
    gain, left = _left(covariance, alpha, sigma)
    left = left if spread is None else spread(covariance, alpha, sigma)
    white = torch.eye(len(matrix), dtype=double)
    return z @ (matrix @ gain).T, matrix @ left @ matrix.T + noise_std**power * white


def _law_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, float, float, float]:
    root, matrix = _normal(generator, 5, 5), _normal(generator, 3, 5)
    t, noise_std = _uniform(generator, 1, low=0.2, high=0.8), _uniform(generator, 1, low=0.1, high=0.6).item()
    return root @ root.T / 5, matrix, _normal(generator, 4, 5), (1 - t).item(), t.item(), noise_std


# 15.4: pseudo-inverse guidance.


def _pigdm(
    denoiser: Callable,
    schedule: Schedule,
    matrix: Tensor,
    x: Tensor,
    z: Tensor,
    t: float,
    noise_std: float,
    width: Callable = lambda alpha, sigma: sigma**2 / (alpha**2 + sigma**2),
    lead: Callable = lambda alpha, sigma: sigma**2 / alpha,
    jacobian: bool = True,
) -> Tensor:
    """Right as it stands. width: r^2; lead: the factor on the score of x."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    z_0, back = pullback(denoiser, z, t)
    variance = width(alpha, sigma) * matrix @ matrix.T + noise_std**2 * torch.eye(len(matrix), dtype=double)
    pull = torch.linalg.solve(variance, (x - z_0 @ matrix.T).T).T @ matrix
    return z_0 + lead(alpha, sigma) * (back(pull) if jacobian else pull)


def _pigdm_inputs(generator: Generator) -> tuple:
    """Every other draw has the prior N(0, I), for which the answer is the exact E[z_0 | z, x]."""
    root, matrix, noise_std = _normal(generator, 5, 5), _normal(generator, 3, 5), 0.4
    covariance = torch.eye(5, dtype=double) if generator.initial_seed() % 2 else root @ root.T / 5
    prior, t = Gaussian(torch.zeros(5, dtype=double), covariance), _uniform(generator, 1, low=0.2, high=0.8).item()
    x = prior.sample(4, standard_normal(generator)) @ matrix.T + noise_std * _normal(generator, 4, 3)
    return denoiser_for(prior, flow()), flow(), matrix, x, _normal(generator, 4, 5), t, noise_std


# 15.5: the data step of DiffPIR.


def _data_step(z_0: Tensor, x: Tensor, matrix: Tensor, rho: float, pull: float | None = None) -> Tensor:
    """Right as it stands. pull: another weight of z_0 on the right-hand side."""
    left = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=double)
    right = x @ matrix + (rho if pull is None else pull) * z_0
    return torch.linalg.solve(left, right.T).T


def _weighed(alpha: float, sigma: float, noise_std: float) -> float:
    return (noise_std * alpha / sigma) ** 2


def _data_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, float, float, float]:
    t, noise_std = _uniform(generator, 1, low=0.2, high=0.8).item(), _uniform(generator, 1, low=0.3, high=0.8).item()
    return _normal(generator, 4, 5), _normal(generator, 4, 3), _normal(generator, 3, 5), 1 - t, t, noise_std


def _stationary(
    output: Tensor, z_0: Tensor, x: Tensor, matrix: Tensor, alpha: float, sigma: float, noise_std: float
) -> str | None:
    slope = (output @ matrix.T - x) @ matrix / noise_std**2 + (output - z_0) * (alpha / sigma) ** 2
    return None if slope.abs().max() < 1e-6 else "The slope of the two terms together is not zero at your answer."


# 15.6: one blind step.


def _exposure(
    z_0: Tensor, gains: Tensor, x: Tensor, rate: float, entries: float | None = None, sign: int = 1
) -> Tensor:
    """Right as it stands. entries: what the sum over an image is divided by, else their number."""
    image, dark = (z_0 + 1) / 2, (x + 1) / 2
    slope = (2 * (gains.view(-1, 1, 1, 1) * image - dark) * image).sum((1, 2, 3))
    return gains - sign * rate * slope / (entries or image[0].numel())


def _exposure_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    z_0, gains = _uniform(generator, 3, 3, 4, 5, low=-1), _uniform(generator, 3, low=0.2)
    dark = _uniform(generator, 3, 1, 1, 1, low=0.2) * (z_0 + 1) / 2
    return z_0 + 0.1 * _normal(generator, *z_0.shape), gains, 2 * dark - 1, 0.3


# 15.7: who listens to noise_std.

CANDIDATES = (ilvr, mcg, dps, gdp, pigdm, diffpir, ddnm)


def _listening(
    methods: list[Callable],
    denoiser: Callable,
    schedule: Schedule,
    operator: LinearOperator,
    x: Tensor,
    z: Tensor,
    levels: tuple[float, float] = (0.05, 0.5),
    seeds: tuple[int, int] = (0, 0),
) -> list[bool]:
    """Right as it stands: the experiment."""

    def sample(method: Callable, noise_std: float, seed: int) -> Tensor:
        return last(
            method(denoiser, schedule, operator, x, noise_std, uniform_times(3), z, noise=standard_normal(seed))
        )

    pairs = [[sample(method, *pair) for pair in zip(levels, seeds, strict=True)] for method in methods]
    return [not torch.equal(first, second) for first, second in pairs]


def _close_to_noise(methods, denoiser, schedule, operator, x, z) -> list[bool]:
    def residual(method: Callable) -> float:
        noise = standard_normal(0)
        sample = last(method(denoiser, schedule, operator, x, 0.05, uniform_times(3), z, noise=noise))
        return (operator(sample) - x).square().mean().sqrt().item()

    return [0.5 < residual(method) / 0.05 < 2 for method in methods]


def _listening_inputs(generator: Generator) -> tuple:
    prior = _images_prior(generator)
    operator = (AveragePool(2), Mask(torch.arange(4) > 1))[generator.initial_seed() % 2]
    order = torch.randperm(len(CANDIDATES), generator=generator)
    x, z = operator(prior.sample(1, standard_normal(generator))), _normal(generator, 1, 1, 4, 4)
    return [CANDIDATES[i] for i in order], denoiser_for(prior, vp_linear()), vp_linear(), operator, x, z


# 15.8: the step size that samples the posterior.

SCALES = (0.2, 0.5, 1.5, 5.0, 12.0)


@cache
def _best_scale() -> float:
    prior, operator, noise_std = Gaussian(torch.zeros(1, 8, 8, dtype=double), _smooth(8)), AveragePool(2), 0.2
    clean = operator(prior.sample(1, standard_normal(1)))
    x = clean + noise_std * standard_normal(2)(clean)
    posterior = prior.posterior(operator, x, noise_std)
    std = posterior.covariance.diagonal().sqrt().view(1, 8, 8)
    z, times = standard_normal(3)(torch.empty(256, 1, 8, 8, dtype=double)), uniform_times(50)
    errors = {}
    for scale in SCALES:
        denoiser = denoiser_for(prior, vp_linear())
        walk = dps(denoiser, vp_linear(), operator, x, noise_std, times, z, scale=scale, noise=standard_normal(4))
        samples = last(walk)
        errors[scale] = (
            ((samples.mean(0) - posterior.mean).square() + (samples.std(0) - std).square()).mean().sqrt().item()
        )
    return min(errors, key=errors.get)


CHAPTER = [
    Exercise(
        "15.1",
        "down the norm, sample by sample",
        reference=partial(_descent, lengths=_each),
        inputs=_descent_inputs,
        mistakes=[
            Mistake(
                "you left out the denoiser's Jacobian",
                partial(_descent, lengths=_each, jacobian=False),
                "That is a direction for z_0; the state is z, and z_0 depends on it: carry it back with J^T.",
            ),
            Mistake(
                "your norm runs over the whole batch",
                partial(_descent, lengths=torch.linalg.vector_norm),
                "Then a sample's step depends on who else is in the batch; one norm per sample.",
            ),
            Mistake(
                "that is the descent of the squared norm",
                partial(_descent, lengths=lambda missing: 0.5),
                "The gradient of a norm has the residual's direction and not its length: divide by the norm.",
            ),
            Mistake(
                "you go uphill",
                partial(_descent, lengths=lambda missing: -_each(missing)),
                "The residual x - A z_0 contains -A z_0, so minus its gradient points along +J^T A^T (x - A z_0).",
            ),
            Mistake(
                "you used A^+ where the gradient has A^T",
                lambda denoiser, z, t, x, operator: pullback(denoiser, z, t)[1](
                    operator.pinv((missing := x - operator(denoiser(z, t))) / _each(missing))
                ),
                "Differentiating A z_0 gives the adjoint; the pseudo-inverse has other lengths.",
            ),
        ],
    ),
    Exercise(
        "15.2",
        "four names for one step",
        reference=_factor,
        inputs=_factor_inputs,
        mistakes=[
            Mistake(
                "you took the paper's zeta' for the code's scale",
                lambda kind, value, length: _factor("norm" if kind == "paper" else kind, value, length),
                "zeta' / length times the gradient of the square: the square's derivative brings a factor 2.",
            ),
            Mistake(
                "you forgot the 2 of the square",
                lambda kind, value, length: _factor(kind, value, length) / (2 if kind == "square" else 1),
                "d/dz ||r||^2 is 2 r dr/dz; only the logarithm of a Gaussian has a half in front.",
            ),
            Mistake(
                "your likelihood has no half",
                lambda kind, value, length: _factor(kind, value, length) * (2 if kind == "likelihood" else 1),
                "log N = -||r||^2 / (2 noise_std^2) + const: the half and the square's 2 cancel.",
            ),
            Mistake(
                "you did not divide by the length",
                lambda kind, value, length: _factor(kind, value, length) * (length if kind == "norm" else 1),
                "The gradient of ||r|| is a unit vector, J^T A^T r / ||r||, however large the residual is.",
            ),
        ],
    ),
    Exercise(
        "15.3",
        "what the state says about the measurement",
        reference=_law,
        inputs=_law_inputs,
        mistakes=[
            Mistake(
                "that is the point estimate of DPS",
                partial(_law, spread=lambda covariance, alpha, sigma: torch.zeros_like(covariance)),
                "z leaves z_0 open; what is open adds A C A^T, C = cov(z_0 | z), to the measurement's own noise.",
            ),
            Mistake(
                "that is the width of PiGDM",
                partial(
                    _law,
                    spread=lambda covariance, alpha, sigma: (
                        sigma**2 / (alpha**2 + sigma**2) * torch.eye(len(covariance), dtype=double)
                    ),
                ),
                "r^2 I belongs to the prior N(0, I); here the prior's covariance is given.",
            ),
            Mistake(
                "you took the prior's covariance",
                partial(_law, spread=lambda covariance, alpha, sigma: covariance),
                "z already says something about z_0: what is left is S - alpha^2 S (alpha^2 S + sigma^2 I)^-1 S.",
            ),
            Mistake(
                "you forgot to square noise_std",
                partial(_law, power=1),
                "noise_std is a standard deviation, and covariances add.",
            ),
            Mistake(
                "you measured z / alpha",
                lambda covariance, matrix, z, alpha, sigma, noise_std: (
                    z @ matrix.T / alpha,
                    _law(covariance, matrix, z, alpha, sigma, noise_std)[1],
                ),
                "The mean of x is A E[z_0 | z], and the denoiser shrinks z towards the prior's mean.",
            ),
        ],
    ),
    Exercise(
        "15.4",
        "pseudo-inverse guidance",
        reference=_pigdm,
        inputs=_pigdm_inputs,
        mistakes=[
            Mistake(
                "you took r for r^2",
                partial(_pigdm, width=lambda alpha, sigma: sigma / (alpha**2 + sigma**2) ** 0.5),
                "The covariance of A z_0 given z is r^2 A A^T.",
            ),
            Mistake(
                "your r^2 is sigma^2",
                partial(_pigdm, width=lambda alpha, sigma: sigma**2),
                "N(0, I) data noised with alpha and sigma leave the variance sigma^2 / (alpha^2 + sigma^2).",
            ),
            Mistake(
                "you did not hear noise_std",
                lambda *arguments: _pigdm(*arguments[:-1], 0.0),
                "Add noise_std^2 I to r^2 A A^T before you solve.",
            ),
            Mistake(
                "you moved the estimate by alpha times the score",
                partial(_pigdm, lead=lambda alpha, sigma: alpha),
                "Tweedie: a score g of z_t moves the estimate of z_0 by sigma^2 / alpha g, at every level.",
            ),
            Mistake(
                "you left out the denoiser's Jacobian",
                partial(_pigdm, jacobian=False),
                "The score is a gradient in z, and x depends on z through the denoiser.",
            ),
        ],
    ),
    Exercise(
        "15.5",
        "the data step of DiffPIR",
        reference=lambda z_0, x, matrix, *levels: _data_step(z_0, x, matrix, _weighed(*levels)),
        inputs=_data_inputs,
        judge=_stationary,
        mistakes=[
            Mistake(
                "your rho is upside down",
                lambda z_0, x, matrix, *levels: _data_step(z_0, x, matrix, 1 / _weighed(*levels)),
                "Multiply both terms by noise_std^2: the weight of ||y - z_0||^2 is (noise_std alpha / sigma)^2.",
            ),
            Mistake(
                "you left alpha out",
                lambda z_0, x, matrix, alpha, *rest: _data_step(z_0, x, matrix, _weighed(1.0, *rest)),
                "In the units of z_0 the noise of the state is sigma / alpha.",
            ),
            Mistake(
                "you added z_0 without its weight",
                lambda z_0, x, matrix, *levels: _data_step(z_0, x, matrix, _weighed(*levels), 1.0),
                "Set the slope to zero: A^T (A y - x) + rho (y - z_0) = 0, so rho multiplies z_0 too.",
            ),
            Mistake(
                "you let x decide everything that A sees",
                lambda z_0, x, matrix, *levels: z_0 + (x - z_0 @ matrix.T) @ torch.linalg.pinv(matrix).T,
                "That is the limit without noise; with noise x and z_0 are weighed against each other.",
            ),
        ],
    ),
    Exercise(
        "15.6",
        "a step towards the exposure",
        reference=_exposure,
        inputs=_exposure_inputs,
        mistakes=[
            Mistake(
                "you scaled the states",
                lambda z_0, gains, x, rate: _exposure(2 * z_0 - 1, gains, 2 * x - 1, rate),
                "A gain acts on light: turn states into images, (z + 1) / 2, before you multiply.",
            ),
            Mistake(
                "you measured the loss in states",
                lambda z_0, gains, x, rate: _exposure(z_0, gains, x, 4 * rate),
                "The difference of two states is twice that of the images, so its square is four times the loss.",
            ),
            Mistake(
                "you summed where the loss is a mean",
                partial(_exposure, entries=1.0),
                "Divide by the number of entries of one image, or the step grows with the image.",
            ),
            Mistake(
                "you took the mean over the batch as well",
                lambda z_0, gains, x, rate: _exposure(z_0, gains, x, rate / len(z_0)),
                "Every image has a gain of its own; what it learns must not depend on the number of others.",
            ),
            Mistake(
                "you go uphill",
                partial(_exposure, sign=-1),
                "The gain moves against the slope of the loss.",
            ),
        ],
    ),
    Exercise(
        "15.7",
        "who listens to noise_std",
        reference=lambda methods, *_: [method not in (dps, gdp) for method in methods],  # by their docstrings
        inputs=_listening_inputs,
        mistakes=[
            Mistake(
                "you gave each run fresh noise",
                partial(_listening, seeds=(0, 1)),
                "Then every two samples differ; start both runs from a new standard_normal of the same seed.",
            ),
            Mistake(
                "your two noise levels are almost none",
                partial(_listening, levels=(1e-5, 1e-4)),
                "DiffPIR counts everything below 0.001 as 0.001; ask with levels that matter.",
            ),
            Mistake(
                "you answered the opposite question",
                lambda *arguments: [not heard for heard in _listening(*arguments)],
                "True for a method whose sample changes with noise_std.",
            ),
            Mistake(
                "you looked at the residual",
                _close_to_noise,
                "A deaf method can come close to noise_std by accident, and a hearing one miss it; change noise_std alone.",
            ),
        ],
    ),
    Exercise(
        "15.8",
        "the step size that samples the posterior",
        reference=lambda: _best_scale(),
        mistakes=[
            Mistake(
                "0.2 leaves most of the measurement unheard",
                lambda: 0.2,
                "Compare the means: yours is still near the prior's, and the spread is too wide.",
            ),
            Mistake(
                "1.5 explains the noise",
                lambda: 1.5,
                "It comes closer to x than the truth does; its mean moves away from the posterior's.",
            ),
            Mistake(
                "5 has about the right residual and coverage for the wrong reason",
                lambda: 5.0,
                "Its steps overshoot and rattle: the spread is an accident and the mean is wrong. Add both errors.",
            ),
            Mistake(
                "12 only rattles",
                lambda: 12.0,
                "The step is so large that the last ones throw the sample across the posterior.",
            ),
        ],
        rtol=1e-3,
    ),
]
