"""Zero shot by projection: after every step, what the operator sees of the state is replaced by the measurement.

The three methods share the step (`problem.known_part`) and differ around it: ILVR walks once, RePaint goes back and forth
so that the two parts of the state can agree, CCDF starts late. On the exact posterior of a Gaussian none of them is
right, however small the steps: the replaced part does not know what the kept part has become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..denoisers import Denoiser
from ..linear_operator import LinearOperator
from ..noise import Noise
from ..samplers.states import State, walk
from ..schedules import Schedule, uniform_times
from .problem import Problem, ancestral, check_init, check_share, known_part, pose, resampling_path, travel

Map = Callable[[Tensor], Tensor]


def _projected(
    schedule: Schedule, problem: Problem, keep: Callable[[Tensor, Tensor, Tensor], Tensor], until: float = 0.0
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The ancestral step, then the projection at the level it has arrived at."""

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        white = problem.noise(z) if schedule.sigma(s) > 0 else torch.zeros_like(z)
        proposal = ancestral(z, z_0, schedule, t, s, white)
        return keep(proposal, white, s) if s >= until else proposal

    return step


def ilvr(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    until: float = 0.0,
    enlarge: Map | None = None,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """ILVR (Choi et al., arXiv 2108.02938): z_s = z' - P z' + P (alpha_s A^+ x + sigma_s eps), z' the DDPM step, P = A^+ A.

    The state's low frequencies are exchanged for those of the reference noised **to the level s of the state** (the paper's
    code noises to t, one level too much). Down to t = `until` (the paper's range_t; 0 makes A z = x hold in the end).
    `enlarge` replaces A^+: the paper's filter is bicubic up after bicubic down, which is no projection, so that A z = x is
    then never reached. With noise_std > 0, which the paper does not treat, each singular direction is exchanged while x is
    less noisy there than the state; this needs the operator's SVD. All in state units. n calls (default 100).
    """
    check_share(until, "until")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 100)
    if enlarge is not None and problem.noise_std:
        raise ValueError(f"enlarge is for measurements without noise, but noise_std is {noise_std!r}")
    keep = known_part(schedule, operator, problem, "ilvr", enlarge)
    return walk(denoiser, problem.z, problem.times, _projected(schedule, problem, keep, until), progress)


def repaint(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    jump: int = 10,
    repeat: int = 10,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """RePaint (Lugmayr et al., arXiv 2201.09865): known pixels from x noised to level s, unknown ones from the DDPM step.

    Then back: along `resampling_path(n, jump, repeat)` the state is noised `jump` grid points up and walked down again,
    `repeat` times in all at every jump-th point, so that unknown pixels can come to fit the known ones. repeat = 1 leaves
    seams and is ILVR. The paper inpaints (`Mask`); here A is any operator and the known part P z, P = A^+ A. Noise has the
    standard deviation sqrt(1 - alpha-bar): line 5 of the paper's algorithm prints the variance, and a library has copied it.
    Noise in x as in `ilvr`; but below the level of that noise, going back and forth forgets x again. All in state
    units. Calls: steps down on the path, 2410 for the paper's 250 times (default) and 10, 10; a State at every call. A grid
    of `jump` steps or fewer has no room to go back, so that nothing is resampled: on short grids take a smaller jump.
    """
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 250)
    path = resampling_path(len(problem.times) - 1, jump, repeat)
    keep = known_part(schedule, operator, problem, "repaint")
    return travel(denoiser, schedule, problem, path, _projected(schedule, problem, keep), progress)


def ccdf(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    init: Tensor | None = None,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """CCDF, Come-Closer-Diffuse-Faster (Chung et al., arXiv 2112.05146): begin late, from an image that is nearly right.

    The start is alpha init + sigma eps at times[0] < 1, `init` (1 or B, ...) being a state, A^+ x if None, or what a
    regression network says; a z of your own takes its place. Then (I - P) z' + P z_x, z' the DDPM step and z_x ~ q(z_s | A^+
    x), as in `ilvr`: every step is a contraction, which forgets the error of `init` as long as P is no expansion. The
    start's law is not that of noised images: too late a start keeps the blur of `init`, and the noise that A^+ has
    amplified. Noise in x as in `ilvr`. All in state units. n calls; times None: 20 even steps from t = 0.3.
    """
    if init is not None and z is not None:
        raise ValueError("init and z both say where to start: hand in one of them")
    times = uniform_times(20, 0.3) if times is None else times
    start = check_init(init, operator, measurement) if z is None else None
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 20, start)
    keep = known_part(schedule, operator, problem, "ccdf")
    return walk(denoiser, problem.z, problem.times, _projected(schedule, problem, keep), progress)
