"""Sampling along the probability-flow ODE with solvers that look at one step at a time, and walking it back.

`heun` and `dpm_solver_2` correct a DDIM step by a second look at the noise: with eps = (z - alpha z_0) / sigma and the
noise-to-signal ratio rho = sigma/alpha, the flow is d(z/alpha) = eps d rho, DDIM holds eps where the step starts, and
they use a better eps (`turned_step`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import check_one_of, check_positive
from ..denoisers import Denoiser, from_z_0
from ..noise import Noise, standard_normal
from ..schedules import Schedule
from ..steps import add_scaled, broadcast, ddim_step, forward_step
from .states import DEFAULT_SEED, State, Step, check_run, walk

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


def pairs(times: Tensor, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """(t, s) for every step of the grid, with a progress bar when asked."""
    return tqdm(zip(times[:-1], times[1:], strict=True), total=len(times) - 1, disable=not progress, unit="step")


def must_be_first_order(schedule: Schedule, t: Tensor, s: Tensor) -> bool:
    """Whether the log-SNR is infinite at an end of the step: pure noise at t, or no noise at s."""
    return not (schedule.alpha(t) > 0 and schedule.sigma(s) > 0)


def turned_step(z: Tensor, z_0: Tensor, change: Tensor, schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """The DDIM step with eps + change instead of eps: ddim_step + (sigma_s - sigma_t alpha_s / alpha_t) change."""
    gain = schedule.sigma(s) - schedule.sigma(t) * schedule.alpha(s) / schedule.alpha(t)
    return add_scaled(ddim_step(z, z_0, schedule, t, s), gain, change)


def _churned_times(schedule: Schedule, times: Tensor, s_churn: float, s_min: float, s_max: float) -> Tensor:
    """For each step the time whose rho = sigma/alpha is (1 + gamma) times as large, at most t = 1."""
    starts = times[:-1]
    rho = schedule.sigma(starts) / schedule.alpha(starts)
    gamma = min(s_churn / len(starts), math.sqrt(2) - 1)
    noisier = schedule.time_at(-2 * (rho * (1 + gamma)).log())
    return torch.where((rho >= s_min) & (rho <= s_max) & rho.isfinite(), torch.maximum(noisier, starts), starts)


def heun(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """EDM's sampler (Karras et al. 2022, arXiv 2206.00364, algorithm 2): raise the noise a little, then Heun's step.

    In rho = sigma/alpha, which is their time, d(z/alpha) = eps d rho. Heun's step goes to s by DDIM, looks at eps there,
    and steps again from the start with the mean of both eps; second order on any grid. Each eps is divided by the sigma
    of its own end: public code divided the second by the sigma of the first. Before it, where s_min <= rho <= s_max,
    churn: `forward_step` to the time where rho is (1 + gamma) times as large, gamma = min(s_churn / n, sqrt(2) - 1) for
    n steps, its noise multiplied by s_noise. s_min and s_max are values of rho. The paper's ImageNet-64 setting is
    s_churn = 40, s_min = 0.05, s_max = 50, s_noise = 1.003 with 256 steps. Churn never goes beyond t = 1, so a step
    from there has none (the paper's may exceed its sigma_max).

    `probability_flow` takes its trapezoid in t instead; the two are equal where rho is a multiple of t, as on `edm`.
    First order, so one call: a step to sigma(s) = 0, which returns alpha_s z_0, and a step from pure noise (alpha = 0).
    All others take two calls: 2 n - 1 for n steps that end at 0. With churn, z_0 of a State is the estimate at the
    churned state, the only one made there. noise=None means standard_normal(DEFAULT_SEED); none is drawn without churn.
    Raises ValueError for a negative s_churn, for s_min > s_max or below 0, for an s_noise that is not positive and for
    times that do not decrease within [0, 1].
    """
    times = check_run(z, times)
    if not 0 <= s_churn < math.inf:
        raise ValueError(f"s_churn must be 0 or a positive number, but {s_churn!r} came")
    if not 0 <= s_min <= s_max:
        raise ValueError(f"s_min and s_max must obey 0 <= s_min <= s_max, but {s_min!r} and {s_max!r} came")
    check_positive(s_noise, "s_noise")
    noise = noise or standard_normal(DEFAULT_SEED)
    churned = _churned_times(schedule, times, s_churn, s_min, s_max) if s_churn else times[:-1]
    return _heun_in_rho(denoiser, schedule, z, times, churned, lambda like: s_noise * noise(like), progress)


def _heun_in_rho(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, times: Tensor, churned: Tensor, noise: Noise, progress: bool
) -> Iterator[State]:
    for i, (t, s) in enumerate(pairs(times, progress)):
        raised = forward_step(z, schedule, t, churned[i], noise) if churned[i] > t else z
        t_raised, z_0 = churned[i], None  # the old estimate goes before the new one comes
        z_0 = denoiser(raised, t_raised)
        yield State(z, t, z_0)
        z = ddim_step(raised, z_0, schedule, t_raised, s)
        if not must_be_first_order(schedule, t_raised, s):
            late = from_z_0(denoiser(z, s), "eps", z, s, schedule)
            change = (late - from_z_0(z_0, "eps", raised, t_raised, schedule)) / 2
            z = turned_step(raised, z_0, change, schedule, t_raised, s)
    yield State(z, times[-1], z_0)


def dpm_solver_2(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, times: Tensor, progress: bool = False
) -> Iterator[State]:
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, r_1 = 1/2): DDIM to the middle of the step in log-SNR, then one
    step from the start with the eps found there.

    With h the growth of lambda = log(alpha/sigma), half the log-SNR: u = (alpha_m / alpha_t) z - sigma_m (exp(h/2) - 1)
    eps(z, t), then z_s = (alpha_s / alpha_t) z - sigma_s (exp(h) - 1) eps(u, m). Second order on any grid. Public code
    that takes the middle in t, or in the index of a table, is another method. First order, so one call: a step to
    sigma(s) = 0, which returns alpha_s z_0 and never takes a log of 0, and a step from pure noise (alpha = 0). All
    others take two calls: 2 n - 1 for n steps that end at 0. Raises ValueError for times that do not decrease within
    [0, 1].
    """
    times = check_run(z, times)
    log_snr = schedule.log_snr(times)
    middles = dict(zip(times[:-1].tolist(), schedule.time_at((log_snr[:-1] + log_snr[1:]) / 2), strict=True))

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if must_be_first_order(schedule, t, s):
            return ddim_step(z, z_0, schedule, t, s)
        m = middles[t.item()]
        u = ddim_step(z, z_0, schedule, t, m)
        middle = from_z_0(denoiser(u, m), "eps", u, m, schedule)
        return turned_step(z, z_0, middle - from_z_0(z_0, "eps", z, t, schedule), schedule, t, s)

    return walk(denoiser, z, times, step, progress)
