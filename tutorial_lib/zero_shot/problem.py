"""What zero-shot methods share: the checked problem, the walk with steps back, and the measurement at a noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import check_same_shape, check_whole
from ..denoisers import Denoiser, pullback
from ..linear_operator import SVD, LinearOperator
from ..noise import Noise, standard_normal
from ..samplers.states import DEFAULT_SEED, State, Step, check_run
from ..schedules import Schedule, Time, uniform_times
from ..steps import ddim_step, forward_step

PURE_NOISE = 0.995  # where default grids start on a schedule that ends without any signal
Pull = Callable[[Tensor], Tensor]  # w -> J^T w, as `denoisers.pullback` gives it
GuidedStep = Callable[[Tensor, Tensor, Pull, Tensor, Tensor], Tensor]  # (z, z_0, back, t, s) -> the state at s


class Problem(NamedTuple):
    """A measurement that fits its operator, a start, a grid and a noise source."""

    x: Tensor
    noise_std: float
    z: Tensor
    times: Tensor
    noise: Noise


def check_noise_std(noise_std: float) -> float:
    """Return `noise_std` when it is a finite number that is not negative; otherwise raise ValueError."""
    if isinstance(noise_std, bool | Tensor) or not isinstance(noise_std, int | float) or not 0 <= noise_std < math.inf:
        came = f"a tensor of shape {tuple(noise_std.shape)}" if isinstance(noise_std, Tensor) else repr(noise_std)
        raise ValueError(f"noise_std must be a number that is not negative, in state units, but {came} came")
    return float(noise_std)


def check_share(value: float, argument: str) -> float:
    """Return `value` when it is a number in [0, 1]; otherwise raise ValueError."""
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{argument} must lie between 0 and 1, but {value!r} came")
    return value


def check_x(x: Tensor) -> None:
    """Raise ValueError unless x is a finite floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.isfinite().all():
        raise ValueError("measurement must be a finite floating-point tensor, in state units")


def check_measurement(operator: LinearOperator, x: Tensor) -> None:
    """Raise TypeError or ValueError unless there are an operator and a finite measurement."""
    if not isinstance(operator, LinearOperator):
        raise TypeError(f"operator must be a LinearOperator, but a {type(operator).__name__} came")
    check_x(x)


def default_times(schedule: Schedule, steps: int) -> Tensor:
    """`steps` even times from 1 (or just below, where alpha(1) is 0), then 0."""
    return uniform_times(steps, 1.0 if schedule.alpha(1.0) > 0 else PURE_NOISE)


def pose(
    schedule: Schedule,
    operator: LinearOperator,
    x: Tensor,
    noise_std: float,
    times: Tensor | None,
    z: Tensor | None,
    noise: Noise | None,
    steps: int,
    init: Tensor | None = None,
) -> Problem:
    """The problem with its defaults filled in; ValueError or TypeError where something does not fit.

    Without z the start is sigma noise at times[0], or alpha init + sigma noise around a state `init`.
    """
    check_measurement(operator, x)
    noise_std, noise = check_noise_std(noise_std), noise or standard_normal(DEFAULT_SEED)
    times = default_times(schedule, steps) if times is None else times
    if z is None:
        init = torch.zeros_like(operator.adjoint(x)) if init is None else init
        times = check_run(init, times)
        z = schedule.alpha(times[0]) * init + schedule.sigma(times[0]) * noise(init)
    times = check_run(z, times)
    made = operator(z[:1].detach()).shape[1:]
    if x.shape[1:] != made or len(x) not in (1, len(z)):
        expected = f"({'1' if len(z) == 1 else f'1 or {len(z)}'}, {', '.join(map(str, made))})"
        raise ValueError(
            f"measurement must have the shape {expected} that the operator makes of z, but its shape is {tuple(x.shape)}"
        )
    return Problem(x.to(z), noise_std, z, times, noise)


def spectrum(operator: LinearOperator, z: Tensor, method: str) -> SVD:
    """The operator's SVD, or a ValueError that says what to do without one."""
    svd = operator.svd(z[:1].detach())
    if svd is None:
        raise ValueError(
            f"{method} needs the SVD of the operator, and {type(operator).__name__} has none in closed form;"
            " take pigdm, diffpir or a measurement without noise, or for small states Dense(operator.dense(shape), shape)"
        )
    return svd


# ------------------------------------------------------------------------------------------------------------- walking


def resampling_path(n: int, jump: int, repeat: int) -> list[int]:
    """The grid points 0 (start) to n (sample) in the order in which RePaint visits them, first 0, last n.

    From the grid's points with k = 1, 1 + jump, 1 + 2 jump ... steps left, while k + jump <= n, it goes back `jump` points,
    `repeat` - 1 times each. A step to a higher index is a denoiser call, one to a lower index adds noise. RePaint's 250,
    10, 10 makes 2410 calls; its code counts 4570 transitions, since it adds noise in 2160 single steps (the same law).
    """
    for value, name in ((n, "n"), (jump, "jump"), (repeat, "repeat")):
        check_whole(value, name)
    left = {n - k: repeat - 1 for k in range(1, n - jump + 1, jump)}
    path = [0]
    while path[-1] < n:
        path.append(path[-1] + 1)
        if left.get(path[-1], 0):
            left[path[-1]] -= 1
            path.append(path[-1] - jump)
    return path


def travel(
    denoiser: Denoiser, schedule: Schedule, problem: Problem, path: list[int], step: Step, progress: bool
) -> Iterator[State]:
    """`samplers.states.walk` along a path that also goes back: a State at every denoiser call, and the sample."""
    z, times = problem.z, problem.times
    legs = list(zip(path[:-1], path[1:], strict=True))
    with tqdm(total=sum(j > i for i, j in legs), disable=not progress, unit="step") as bar:
        for i, j in legs:
            if j < i:
                z = forward_step(z, schedule, times[i], times[j], problem.noise)
                continue
            z_0 = None  # the old estimate goes before the new one comes
            z_0 = denoiser(z, times[i])
            yield State(z, times[i], z_0)
            z = step(z, z_0, times[i], times[j])
            bar.update()
    yield State(z, times[-1], z_0)


def guided_walk(denoiser: Denoiser, problem: Problem, step: GuidedStep, progress: bool) -> Iterator[State]:
    """`samplers.states.walk` for steps that also want the denoiser's transposed Jacobian."""
    z, times = problem.z, problem.times
    for t, s in tqdm(zip(times[:-1], times[1:], strict=True), total=len(times) - 1, disable=not progress, unit="step"):
        z_0, back = pullback(denoiser, z, t)
        yield State(z, t, z_0)
        z = step(z, z_0, back, t, s)
        del back
    yield State(z, times[-1], z_0)


# -------------------------------------------------------------------------------------------------------- shared steps


def ancestral(z: Tensor, z_0: Tensor, schedule: Schedule, t: Time, s: Time, white: Tensor) -> Tensor:
    """The DDPM step with noise that was drawn before."""
    return ddim_step(z, z_0, schedule, t, s, 1.0, lambda like: white)


def size(schedule: Schedule, t: Time) -> Tensor:
    """sqrt(alpha^2 + sigma^2): z / size is the state in variance-preserving coordinates, 1 on such schedules."""
    return (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2).sqrt()


def known_part(
    schedule: Schedule, operator: LinearOperator, problem: Problem, method: str, enlarge: Pull | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The projection of ILVR, RePaint, CCDF and MCG: a function (proposal, white, s) -> state at s that agrees with x.

    Without noise in x: proposal + A^+ (alpha_s x + sigma_s A white - A proposal). What A sees of the state becomes the
    measurement at the noise level of **s**, the level of the state it replaces; what A does not see stays. `white` may be
    the noise that made the proposal, since A^+ A white and the rest of it are independent.

    With noise in x: per singular value, alpha_s x brings noise of its own, alpha_s noise_std / singular value. It is topped
    up to sigma_s while that is more; a coordinate whose measurement is noisier than the state keeps its proposal.
    """
    x, noise_std = problem.x, problem.noise_std
    if not noise_std:
        if enlarge is None:
            return lambda proposal, white, s: (
                proposal + operator.pinv(_at_level(schedule, operator, x, white, s) - operator(proposal))
            )
        return lambda proposal, white, s: (
            proposal + enlarge(_at_level(schedule, operator, x, problem.noise(white), s) - operator(proposal))
        )
    svd = spectrum(operator, problem.z, f"{method} with noise_std > 0")
    seen, level = svd.ut(x) / svd.singular_values, noise_std / svd.singular_values

    def replace(proposal: Tensor, white: Tensor, s: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        room = sigma**2 - (alpha * level) ** 2
        change = alpha * seen + room.clamp(min=0).sqrt() * svd.vt(white) - svd.vt(proposal)
        return proposal + svd.v(torch.where(room >= 0, change, 0))

    return replace


def _at_level(schedule: Schedule, operator: LinearOperator, x: Tensor, white: Tensor, s: Time) -> Tensor:
    """The measurement of a state at time s: alpha_s x + sigma_s A white."""
    return schedule.alpha(s) * x + schedule.sigma(s) * operator(white)


def check_init(init: Tensor | None, operator: LinearOperator, x: Tensor) -> Tensor:
    """A clean state (B, ...) to start from, one for every x: `init` (1 or B, ...), or A^+ x."""
    check_measurement(operator, x)
    if init is None:
        return operator.pinv(x)
    if not isinstance(init, Tensor) or not init.is_floating_point() or not init.isfinite().all():
        raise ValueError("init must be a finite floating-point tensor, a state to start from")
    check_same_shape(operator(init[:1]), x[:1], ("operator(init)", "measurement"))
    return init.expand(len(x), *init.shape[1:]) if len(init) == 1 else init
