"""Zero shot by estimating the posterior's score: grad log p(z_t | x) = grad log p(z_t) + grad log p(x | z_t).

The second term is an average over all images that z_t leaves open. MCG, DPS and GDP put the denoiser's one estimate in place
of that average and step down ||x - A z_0||; PiGDM takes a Gaussian of a known width around it; DiffPIR corrects the estimate
itself and needs no gradient. Only PiGDM and DiffPIR know how noisy x is. Step sizes of the others are the papers', tuned on
photographs with their number of steps: fewer steps want larger ones.

On schedules that do not preserve variance, gradients are taken in the coordinates z / sqrt(alpha^2 + sigma^2), so that a step
size means the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .. import guidance
from ..checks import check_positive, check_same_shape
from ..denoisers import Denoiser, from_z_0
from ..linear_operator import LinearOperator
from ..noise import Noise, standard_normal
from ..samplers import ddim
from ..samplers.states import DEFAULT_SEED, State, check_run, check_signal, walk
from ..schedules import Schedule
from ..steps import posterior_std
from .problem import (
    Problem,
    Pull,
    ancestral,
    check_share,
    check_x,
    default_times,
    guided_walk,
    known_part,
    pose,
    size,
)

Quality = Callable[[Tensor], Tensor]  # z_0 -> (B,), lower is better
Degrade = Callable[[Tensor, Tensor], Tensor]  # (z_0, parameters) -> x
QUALITY = "quality must return one differentiable value per sample"
DEGRADE = "degrade must be differentiable in z_0 and in its parameters"


class BlindState(NamedTuple):
    """A `State` and the degradation's parameters (B, ...) as estimated so far."""

    z: Tensor
    t: Tensor
    z_0: Tensor
    parameters: Tensor


def _not_negative(value: float, argument: str) -> float:
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{argument} must be a finite number of at least 0, but {value!r} came")
    return value


def _descent(operator: LinearOperator, x: Tensor, z_0: Tensor, back: Pull, squared: bool) -> Tensor:
    """-grad_z ||x - A z_0(z)||, or of its square, per sample; 0 where x is explained already."""
    missing = x - operator(z_0)
    pull = back(operator.adjoint(missing))
    if squared:
        return 2 * pull
    length = torch.linalg.vector_norm(missing.flatten(1), dim=1).view(-1, *[1] * (z_0.ndim - 1))
    return torch.where(length > 0, pull / torch.where(length > 0, length, 1.0), 0)


def dps(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    scale: float = 0.3,
    squared: bool = False,
    fading: bool = False,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """DPS (Chung et al., arXiv 2209.14687): z_s = z' - scale grad_z ||x - A z_0(z)||, z' the DDPM step.

    The norm is not squared, and it is taken per sample; scale 0.3 is the code's for superresolution and blur on 1000 steps,
    0.5 for inpainting, and should grow when steps are fewer. The paper writes zeta' / ||r|| grad ||r||^2, which is twice
    zeta' grad ||r||. squared=True steps down ||r||^2 with the fixed step `scale`. The paper's code takes the norm over the
    whole batch, so that samples disturb each other. What x holds where A never reaches, such as noise on masked pixels, counts
    in the norm. fading=True adds the descent to the score, as deepinv does, in place of the state: z_0 moves by sigma_t^2 /
    alpha_t times it before the DDPM step, so that steps fade with the noise; scales are others then. noise_std is not used:
    the formula's 1 / (2 noise_std^2) went into `scale`. Any operator. All in state units. n calls, each with a backward pass
    (default 1000).
    """
    _not_negative(scale, "scale")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 1000)
    if fading:
        check_signal(schedule, problem.times, "dps with fading=True")

    def step(z: Tensor, z_0: Tensor, back: Pull, t: Tensor, s: Tensor) -> Tensor:
        down = scale * _descent(operator, problem.x, z_0, back, squared)
        if fading:
            guided = z_0 + (schedule.sigma(t) ** 2 / schedule.alpha(t)).to(z) * down
            return _ancestral(problem, schedule, z, guided, t, s)[0]
        return _ancestral(problem, schedule, z, z_0, t, s)[0] + size(schedule, t) * size(schedule, s) * down

    return guided_walk(denoiser, problem, step, progress)


def _ancestral(
    problem: Problem, schedule: Schedule, z: Tensor, z_0: Tensor, t: Tensor, s: Tensor
) -> tuple[Tensor, Tensor]:
    """The DDPM step and the noise that went into it."""
    white = problem.noise(z) if schedule.sigma(s) > 0 else torch.zeros_like(z)
    return ancestral(z, z_0, schedule, t, s, white), white


def mcg(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    scale: float = 0.3,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """MCG (Chung et al., arXiv 2206.00941): the gradient step of `dps`, then the projection of `ilvr`.

    The gradient moves what A does not see, which projections leave alone; the projection makes A z = x hold in the end. The
    paper's alpha grad ||W r||^2 with W = I and alpha = c / ||r|| is scale = 2 c. Its successor's code projects with the
    roles of data and measurement swapped, so that its "MCG" is no baseline for inpainting or blur. With noise in x the
    projection drags the state off its noise level; here it counts that noise as in `ilvr` (SVD needed). All in
    state units. n calls, each with a backward pass (default 1000).
    """
    _not_negative(scale, "scale")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 1000)
    keep = known_part(schedule, operator, problem, "mcg")

    def step(z: Tensor, z_0: Tensor, back: Pull, t: Tensor, s: Tensor) -> Tensor:
        proposal, white = _ancestral(problem, schedule, z, z_0, t, s)
        down = _descent(operator, problem.x, z_0, back, squared=False)
        return keep(proposal + scale * size(schedule, t) * size(schedule, s) * down, white, s)

    return guided_walk(denoiser, problem, step, progress)


# ----------------------------------------------------------------------------------------------------------------- GDP


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor, says: str) -> Tensor:
    """The gradient of a loss (B,) per sample, also under no_grad and inference_mode; `says` begins the error's sentence."""
    tracked = torch.is_grad_enabled() and at.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        place = at if tracked else at.detach().clone().requires_grad_()
        value = loss(place)
        if value.shape != at.shape[:1]:
            raise ValueError(f"{says}, but the shape {tuple(value.shape)} came for {len(at)} samples")
        slope = None
        if value.requires_grad:
            slope = torch.autograd.grad(value.sum(), place, create_graph=tracked, allow_unused=True)[0]
        if slope is None:
            raise ValueError(f"{says}, but its answer carries no gradient")
        return slope


def _covariance_step(
    problem: Problem, schedule: Schedule, z: Tensor, z_0: Tensor, down: Tensor, scale: float, t: Tensor, s: Tensor
) -> Tensor:
    """The DDPM step with its mean moved by scale Sigma down, Sigma the posterior's variance (in unit-variance coordinates)."""
    shift = scale * posterior_std(schedule, t, s) ** 2 / size(schedule, s)
    return _ancestral(problem, schedule, z, z_0, t, s)[0] + shift.to(z) * down


def gdp(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    scale: float = 2000.0,
    quality: Quality | None = None,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """GDP (Fei et al., arXiv 2304.01247), guidance on z_0: the DDPM step's mean moves by -scale Sigma grad_{z_0} L.

    L is the mean over the measurement of (x - A z_0)^2 in image units, so a quarter of that in states, plus quality(z_0)
    (B,), a loss of the image alone such as a total variation; Sigma is the variance of the step. The gradient stops at z_0
    and never runs through the denoiser. scale 2000 is the superresolution script's; being per mean, it depends on the size
    of x: on small states take less, since a factor scale Sigma / (2 M) s_max^2 above 2 overshoots. The last step has
    Sigma = 0, so the sample is the denoiser's answer. noise_std is not used. Any operator. All in state units. n calls
    (default 1000).
    """
    _not_negative(scale, "scale")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 1000)
    entries = problem.x[0].numel()

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        down = operator.adjoint(problem.x - operator(z_0)) / (2 * entries)
        down = down if quality is None else down - _gradient(quality, z_0, QUALITY)
        return _covariance_step(problem, schedule, z, z_0, down, scale, t, s)

    return walk(denoiser, problem.z, problem.times, step, progress)


def gdp_blind(
    denoiser: Denoiser,
    schedule: Schedule,
    degrade: Degrade,
    parameters: Tensor,
    measurement: Tensor,
    z: Tensor,
    times: Tensor | None = None,
    *,
    scale: float = 2000.0,
    rate: float = 0.1,
    quality: Quality | None = None,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[BlindState]:
    """Blind GDP (arXiv 2304.01247, algorithm 3): x = degrade(z_0, parameters) with parameters that nobody knows.

    At every step the image goes down the loss of `gdp` under the present parameters, and the parameters (1 or B, ...), which
    start as given, take one step parameters - rate grad L of their own, per sample. `degrade` is differentiable in both and
    need not be linear: brightness and haze in the paper. What it cannot tell apart stays open: x = f z_0 with an unknown f
    explains a dark room as well as a dark photograph, and only the prior decides. Yields `BlindState`. All in state units. n
    calls (default 1000).
    """
    _not_negative(scale, "scale")
    check_positive(rate, "rate")
    check_x(measurement)
    noise = noise or standard_normal(DEFAULT_SEED)
    times = check_run(z, default_times(schedule, 1000) if times is None else times)
    if not isinstance(parameters, Tensor) or not parameters.is_floating_point() or len(parameters) not in (1, len(z)):
        came = tuple(parameters.shape) if isinstance(parameters, Tensor) else type(parameters).__name__
        raise ValueError(f"parameters must be a floating-point tensor (1 or {len(z)}, ...), but {came} came")
    parameters = parameters.expand(len(z), *parameters.shape[1:]).to(z)
    made = degrade(z, parameters)
    if measurement.shape[1:] != made.shape[1:] or len(measurement) not in (1, len(z)):
        check_same_shape(measurement, made, ("measurement", "degrade(z, parameters)"))
    problem = Problem(measurement.to(z), 0.0, z, times, noise)
    return _blind(denoiser, schedule, degrade, parameters, problem, scale, rate, quality, progress)


def _blind(
    denoiser: Denoiser,
    schedule: Schedule,
    degrade: Degrade,
    parameters: Tensor,
    problem: Problem,
    scale: float,
    rate: float,
    quality: Quality | None,
    progress: bool,
) -> Iterator[BlindState]:
    def loss(z_0: Tensor, parameters: Tensor) -> Tensor:
        return (problem.x - degrade(z_0, parameters)).square().flatten(1).mean(1) / 4

    z, times = problem.z, problem.times
    z_0 = None
    for t, s in tqdm(zip(times[:-1], times[1:], strict=True), total=len(times) - 1, disable=not progress, unit="step"):
        z_0 = denoiser(z, t)
        yield BlindState(z, t, z_0, parameters)
        # clones, for what was made under inference_mode cannot be part of a gradient
        down = -_gradient(lambda place: loss(place, parameters.clone()), z_0, DEGRADE)  # noqa: B023
        down = down if quality is None else down - _gradient(quality, z_0, QUALITY)
        downhill = -_gradient(lambda place: loss(z_0.clone(), place), parameters, DEGRADE)  # noqa: B023
        z = _covariance_step(problem, schedule, z, z_0, down, scale, t, s)
        parameters = parameters + rate * downhill
    yield BlindState(z, times[-1], z_0, parameters)


# ----------------------------------------------------------------------------------------------- guided denoisers at work


def pigdm(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    eta: float = 1.0,
    prior_std: float = 1.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """PiGDM (Song et al., ICLR 2023): `samplers.ddim` with this eta on the denoiser `guidance.pigdm`.

    Exact, as steps shrink, for a prior N(m, prior_std^2 I) and any operator; biased for every other. Any operator, with or
    without noise in x. The sample explains x only as well as the last guided estimate does. All in state units. n
    calls, each with a backward pass (default 100).
    """
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 100)
    guided = guidance.pigdm(denoiser, operator, problem.x, schedule, problem.noise_std, prior_std)
    return ddim(guided, schedule, problem.z, problem.times, eta, problem.noise, progress)


def diffpir(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    strength: float = 1.0,
    zeta: float = 0.1,
    least_noise: float = 1e-3,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """DiffPIR (Zhu et al., arXiv 2305.08995): z_0 <- argmin ||A y - x||^2 + rho ||y - z_0||^2 (`guidance.proximal`), then

        z_s = alpha_s z_0 + sigma_s (sqrt(1 - zeta) eps + sqrt(zeta) n),   eps = (z - alpha_t z_0) / sigma_t

    with eps **from the corrected z_0**, unlike DDNM's. zeta is the fresh fraction of the whole variance: 0.1 in the published
    superresolution setting, up to 1 for inpainting. rho = strength (noise_std alpha_t / sigma_t)^2; strength is the paper's
    lambda, and least_noise keeps rho above 0. strength -> infinity and zeta = 0 give DDIM. The paper starts from the noised
    bicubic image: z = forward_step(enlarged, schedule, 0.0, times[0], noise) is that start. Any operator. All in
    state units. n calls, no gradients (default 100).
    """
    check_share(zeta, "zeta")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 100)
    guided = guidance.proximal(denoiser, operator, problem.x, schedule, problem.noise_std, strength, least_noise)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(s).to(z), schedule.sigma(s).to(z)
        mean = alpha * z_0 + sigma * (1 - zeta) ** 0.5 * from_z_0(z_0, "eps", z, t, schedule)
        return mean + sigma * zeta**0.5 * problem.noise(z) if sigma > 0 and zeta > 0 else mean

    return walk(guided, problem.z, problem.times, step, progress)
