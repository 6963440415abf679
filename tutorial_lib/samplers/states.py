"""What samplers share: the State they yield, what consumes it, the checks of their input, and the walk along a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..denoisers import Denoiser
from ..schedules import Schedule

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


def check_run(z: Tensor, times: Tensor, least: int = 2) -> Tensor:
    """The times as float64 when a sampler can run from the states z along them; otherwise raise ValueError."""
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.ndim < 2:
        came = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise ValueError(f"z must be a floating-point batch of states (B, ...), but {came} came")
    if z.numel() and not torch.stack(z.detach().aminmax()).isfinite().all():  # makes no copy: states can be large
        raise ValueError("z must be finite, but it holds NaN or infinite values")
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or len(times) < least:
        count = "one time" if least == 1 else "two times"
        raise ValueError(f"times must be a list of at least {count}, but its shape is {tuple(times.shape)}")
    if not (times.diff() < 0).all() or not (times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"times must decrease from at most 1 to at least 0, but they are {times.tolist()[:5]}...")
    return times


def check_signal(schedule: Schedule, times: Tensor, sampler: str) -> None:
    """Raise ValueError where alpha is 0: such a time can be left by ddpm, ddim and probability_flow only."""
    if not (schedule.alpha(times) > 0).all():
        t = times[schedule.alpha(times) <= 0][0].item()
        raise ValueError(
            f"{sampler} cannot leave pure noise, but alpha is 0 at t = {t:g} (the drift is infinite there);"
            " start at t_max < 1, or use a schedule such as vp_linear"
        )


def walk(denoiser: Denoiser, z: Tensor, times: Tensor, step: Step, progress: bool) -> Iterator[State]:
    """From each time to the next: ask the denoiser, yield the State, take the step; at the end yield the sample."""
    for t, s in tqdm(zip(times[:-1], times[1:], strict=True), total=len(times) - 1, disable=not progress, unit="step"):
        z_0 = None  # the old estimate goes before the new one comes: states can be large
        z_0 = denoiser(z, t)
        yield State(z, t, z_0)
        z = step(z, z_0, t, s)
    yield State(z, times[-1], z_0)
