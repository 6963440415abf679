"""Sampling along the probability-flow ODE, and walking it back from a sample to its noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import check_one_of, check_positive
from ..denoisers import Denoiser
from ..schedules import Schedule
from ..steps import add_scaled, broadcast
from .states import State, Step, check_run, walk

SOLVERS = ("heun", "scipy")


def _velocity(z: Tensor, z_0: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """dz/dt = alpha' z_0 + sigma' eps with eps = (z - alpha z_0) / sigma, coefficients gathered in float64."""
    alpha_slope, sigma_slope = schedule.slopes(t)
    rate = sigma_slope / schedule.sigma(t)
    return add_scaled(broadcast(rate, z) * z, alpha_slope - schedule.alpha(t) * rate, z_0)


def _heun(denoiser: Denoiser, schedule: Schedule) -> Step:
    """An Euler step, then the mean of the velocities at both of its ends."""

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        early = _velocity(z, z_0, schedule, t)
        guess = z + (s - t) * early
        late = _velocity(guess, denoiser(guess, s), schedule, s)
        return z + (s - t) / 2 * (early + late)

    return step


def _scipy(denoiser: Denoiser, schedule: Schedule, rtol: float, atol: float) -> Step:
    """scipy's adaptive Runge-Kutta 4(5), in float64; the denoiser is asked in the dtype of z."""
    from scipy.integrate import solve_ivp

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        def slope(time: float, flat: object) -> object:
            now = torch.as_tensor(time, dtype=torch.float64)
            state = torch.from_numpy(flat).reshape(z.shape).to(z)
            velocity = _velocity(state, denoiser(state, now), schedule, now).detach()
            if not velocity.isfinite().all():  # scipy would try ever smaller steps, for ever
                raise ValueError(f"denoiser must return finite values, but NaN or infinite ones came at t = {time:g}")
            return velocity.cpu().double().reshape(-1).numpy()

        start = z.detach().cpu().double().reshape(-1).numpy()
        found = solve_ivp(slope, (t.item(), s.item()), start, "RK45", rtol=rtol, atol=atol)
        if not found.success:
            raise RuntimeError(f"scipy could not integrate from t = {t:g} to {s:g}: {found.message}")
        return torch.from_numpy(found.y[:, -1]).reshape(z.shape).to(z)

    return step


def _solver(solver: str, denoiser: Denoiser, schedule: Schedule, rtol: float, atol: float) -> Step:
    check_one_of(solver, SOLVERS, "solver")
    check_positive(rtol, "rtol")
    check_positive(atol, "atol")
    return _heun(denoiser, schedule) if solver == "heun" else _scipy(denoiser, schedule, rtol, atol)


def probability_flow(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    solver: str = "heun",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    progress: bool = False,
) -> Iterator[State]:
    """The ODE whose solutions have the marginals of the SDE, dz/dt = f z - (g^2 / 2) score (Song et al. 2021, arXiv
    2011.13456); no noise is drawn.

    With score = (alpha z_0 - z) / sigma^2 the right-hand side is (d alpha/dt) z_0 + (d sigma/dt) eps, which stays finite
    where alpha is 0 and f, g are not: this form is used, so pure noise is a possible start. Solver "heun": an Euler step
    and a trapezoid on the grid, error like 1/n^2; on `edm` with `karras_times` it is the deterministic sampler of Karras
    et al. 2022, arXiv 2206.00364. Two calls a step, one for a step to sigma(s) = 0, which returns alpha_s z_0 (2 n - 1
    calls in all). Solver "scipy": an adaptive Runge-Kutta 4(5) between the times, to rtol and atol, a referee that
    chooses its own number of calls; give it few times, and a smooth schedule (the kinks of `from_betas` cost it
    thousands of calls). Its step size is shared by the batch, so a sample depends on its batch mates within the
    tolerance, and it keeps no gradients; with "heun" neither is so. Raises ValueError for an unknown solver, a tolerance
    that is not positive and times that do not decrease within [0, 1].
    """
    times = check_run(z, times)
    inner = _solver(solver, denoiser, schedule, rtol, atol)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if not schedule.sigma(s) > 0:
            return broadcast(schedule.alpha(s), z_0) * z_0
        return inner(z, z_0, t, s)

    return walk(denoiser, z, times, step, progress)


def invert(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    solver: str = "heun",
    rtol: float = 1e-5,
    atol: float = 1e-5,
    progress: bool = False,
) -> Iterator[State]:
    """The probability flow walked back: from a sample z at times[-1] to the state at times[0] that leads to it.

    `times` is the decreasing grid of `probability_flow`, which returns from the last State to the sample within the
    error of the solver. Where the walk starts at sigma = 0, the first step undoes alpha_s z_0 = sample to first order:
    z_s = alpha_s (2 sample - denoiser(alpha_s sample, s)). Calls, solvers and errors as in `probability_flow`; the
    States come with increasing time, the first one's estimate at sigma = 0 being the sample itself.
    """
    times = check_run(z, times).flip(0)
    inner = _solver(solver, denoiser, schedule, rtol, atol)

    def estimate(z: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return denoiser(z, t) if schedule.sigma(t) > 0 else broadcast(1 / schedule.alpha(t), z) * z

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if schedule.sigma(t) > 0:
            return inner(z, z_0, t, s)
        alpha = schedule.alpha(s)
        noiseless = broadcast(alpha, z_0) * z_0
        return add_scaled(2 * noiseless, -alpha, denoiser(noiseless, s))

    return walk(estimate, z, times, step, progress)
