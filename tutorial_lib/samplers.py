"""Samplers: generators of State, from the start to the sample.

Every sampler is `f(denoiser, schedule, z, times, ...)`: `z` (B, ...) is a state at times[0], often
`schedule.sigma(times[0])` times white noise; the last State is at times[-1], so it is noisy unless that is 0. Draw `z`
and the noise of the steps from one source: `noise = standard_normal(0); z = noise(like); last(ddpm(denoiser, schedule,
z, times, noise=noise))`. A sampler holds one state at a time, so memory does not grow with the number of steps. It
leaves autograd alone: run it under `torch.inference_mode()` when the denoiser is a bare network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .checks import check_one_of
from .denoisers import Denoiser
from .noise import Noise, standard_normal
from .schedules import Schedule
from .steps import broadcast, ddim_step, forward_std

DEFAULT_SEED = 7_001  # of noise=None; not 0, so that it never repeats a start drawn with standard_normal(0)


Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (z, z_0, t, s) -> the state at s


class State(NamedTuple):
    """Where a sampler stands: z (B, ...) at time t, and z_0, the denoiser's estimate there.

    The last State repeats the estimate of the step that led to it: no call is spent on a finished sample.
    """

    z: Tensor
    t: Tensor
    z_0: Tensor


def last(states: Iterable[State]) -> Tensor:
    """Run a sampler to its end and return the sample, a tensor shaped like the start."""
    state = None
    for state in states:  # noqa: B007
        pass
    if state is None:
        raise ValueError("states must hold at least one State, but it is empty (a sampler can be consumed only once)")
    return state.z


def trajectory(states: Iterable[State]) -> list[State]:
    """Run a sampler to its end and keep every State; memory grows with the number of steps."""
    return list(states)


def _check_run(z: Tensor, times: Tensor) -> Tensor:
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2:
        came = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise ValueError(f"z must be a floating-point batch of states (B, ...), but {came} came")
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times must be a list of at least two times, but its shape is {tuple(times.shape)}")
    if not (times.diff() < 0).all() or times[0] > 1 or times[-1] < 0:
        raise ValueError(f"times must decrease from at most 1 to at least 0, but they are {times.tolist()[:5]}...")
    return times


def _walk(denoiser: Denoiser, z: Tensor, times: Tensor, step: Step, progress: bool) -> Iterator[State]:
    for t, s in tqdm(zip(times[:-1], times[1:], strict=True), total=len(times) - 1, disable=not progress, unit="step"):
        z_0 = None  # the old estimate goes before the new one comes: states can be large
        z_0 = denoiser(z, t)
        yield State(z, t, z_0)
        z = step(z, z_0, t, s)
    yield State(z, times[-1], z_0)


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    eta: float = 0.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """DDIM (Song et al. 2021, arXiv 2010.02502): `steps.ddim_step` from each time to the next, one denoiser call a
    step.

    eta multiplies the standard deviation of the posterior: 0 is deterministic, 1 is `ddpm`. noise=None means
    standard_normal(DEFAULT_SEED). Public schedulers look for "the previous index" t - T/n, which is wrong on every grid
    but evenly spaced leading ones; here both ends of a step come from `times`. Raises ValueError for times that do not
    decrease within [0, 1] and for eta outside [0, 1].
    """
    times = _check_run(z, times)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, but {eta!r} came")
    noise = noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return ddim_step(z, z_0, schedule, t, s, eta, noise)

    return _walk(denoiser, z, times, step, progress)


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    variance: str = "posterior",
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239): the mean of the posterior of z_s given z_t and z_0, plus
    noise.

    variance "posterior" (the paper's beta-tilde) adds that posterior's variance, sigma_s^2 (1 - (alpha_t sigma_s /
    (alpha_s sigma_t))^2), right when z_0 is certain; "beta" adds the variance of the forward step, sigma_t^2 - (alpha_t
    sigma_s / alpha_s)^2 (1 - alpha_t^2 / alpha_s^2 in variance-preserving schedules), right for N(0, I) data. Both are
    recomputed for the step really taken, never read from a table of single steps. A step to sigma_s = 0 adds no noise.
    noise=None means standard_normal(DEFAULT_SEED). Raises ValueError for an unknown variance and for times that do not
    decrease within [0, 1].
    """
    check_one_of(variance, ("posterior", "beta"), "variance")
    if variance == "posterior":
        return ddim(denoiser, schedule, z, times, 1.0, noise, progress)
    times = _check_run(z, times)
    noise = noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean = ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like)
        if not schedule.sigma(s) > 0:
            return mean
        return mean + broadcast(forward_std(schedule, s, t), mean) * noise(mean)

    return _walk(denoiser, z, times, step, progress)
