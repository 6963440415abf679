"""Sampling by letting each noise level settle before the next: annealed Langevin dynamics."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from ..checks import check_positive, check_whole
from ..denoisers import Denoiser, from_z_0
from ..noise import Noise, standard_normal
from ..schedules import Schedule
from ..steps import broadcast, langevin_step
from .states import DEFAULT_SEED, State, check_run, check_signal


def annealed_langevin(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    steps: int = 10,
    step_size: float = 0.1,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """NCSN's sampler (Song & Ermon 2019, arXiv 1907.05600): at every time `steps` Langevin steps on the law of that
    noise level, z + (a/2) score + sqrt(a) noise with a = step_size sigma_t^2.

    The paper's rule is a = epsilon sigma_i^2 / sigma_L^2 on its ladder sigma_1 > ... > sigma_L, so step_size = epsilon /
    sigma_L^2. A step size that does not shrink with sigma^2 diverges at the small levels or freezes at the large ones.
    At each level the variance settles too wide by the factor 1 / (1 - a/(4 v)) on a law of variance v (`langevin_step`).
    Going on to the next time, z is multiplied by alpha_s / alpha_t (1 on `ve`, the paper's case). A final time with
    sigma = 0 is reached by the denoiser: z becomes its estimate, without noise.

    Yields the start, then one State per time: z after the steps of that level, with the estimate of the last of them.
    One time alone is plain Langevin dynamics. Denoiser calls: steps per noisy time, and one for a final 0. noise=None
    means standard_normal(DEFAULT_SEED). Raises ValueError for steps < 1, a step_size that is not positive, times that do
    not decrease within [0, 1] or hold no noise, and where alpha is 0.
    """
    times = check_run(z, times, least=1)
    check_whole(steps, "steps")
    check_positive(step_size, "step_size")
    check_signal(schedule, times, "annealed_langevin")
    if not schedule.sigma(times[0]) > 0:
        raise ValueError(f"times must start where there is noise, but sigma is 0 at t = {times[0]:g}")
    return _levels(denoiser, schedule, z, times, steps, step_size, noise or standard_normal(DEFAULT_SEED), progress)


def _levels(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    steps: int,
    step_size: float,
    noise: Noise,
    progress: bool,
) -> Iterator[State]:
    before = z_0 = None
    for t in tqdm(times, disable=not progress, unit="level"):
        if schedule.sigma(t) > 0:
            z = z if before is None else broadcast(schedule.alpha(t) / schedule.alpha(before), z) * z
            step = step_size * schedule.sigma(t) ** 2
            for _ in range(steps):
                start = z_0 is None
                z_0 = denoiser(z, t)
                if start:
                    yield State(z, t, z_0)
                z = langevin_step(z, from_z_0(z_0, "score", z, t, schedule), step, noise)
            before = t
        else:
            z_0 = denoiser(z, before)
            z = broadcast(schedule.alpha(t), z_0) * z_0
        yield State(z, t, z_0)
