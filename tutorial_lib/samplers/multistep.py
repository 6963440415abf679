"""Multistep samplers: one denoiser call a step, and what earlier calls found makes the step more accurate.

All of them are a DDIM step with a better estimate in place of the newest one. DPM-Solver++ and UniPC extrapolate z_0,
PNDM and DEIS eps = (z - alpha z_0) / sigma. In lambda = log(alpha/sigma), half the log-SNR, a step has the length h.
The first steps are of lower order, for want of earlier estimates. Where lambda is infinite nothing is extrapolated: a
step to sigma(s) = 0 is first order and returns alpha_s z_0, so no log of 0 is ever taken; a step from pure noise
(alpha = 0) is first order too, and its estimate is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checks import check_one_of, check_whole
from ..denoisers import Denoiser, from_z_0
from ..schedules import Schedule
from ..steps import add_scaled, ddim_step
from .ode import must_be_first_order, pairs, turned_step
from .states import State, check_run

HIGHEST_ORDER = 4  # extrapolation with more estimates is unstable at the step counts that samplers are used with


def _check_order(order: int, highest: int = HIGHEST_ORDER) -> int:
    if check_whole(order, "order") > highest:
        raise ValueError(f"order must be at most {highest}, but {order} came")
    return order


def _half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.log_snr(t) / 2


def dpm_solver_pp_2m(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, times: Tensor, progress: bool = False
) -> Iterator[State]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): a DDIM step whose z_0 is extrapolated half a step ahead.

    z_s = (sigma_s / sigma_t) z - alpha_s (exp(-h) - 1) D with D = (1 + 1/(2 r)) z_0 - 1/(2 r) z_0_before and r =
    h_before / h. Second order on any grid, n calls for n steps. Public code that turns r upside down keeps its order,
    because the errors cancel along the grid, and is nevertheless wrong at every step; the popular "2M v2" is only of
    order 1 on grids that are not uniform in log-SNR. Orders at the ends: see the top of this file. Raises ValueError
    for times that do not decrease within [0, 1].
    """
    return _second_order(denoiser, schedule, z, check_run(z, times), progress)


def _second_order(denoiser: Denoiser, schedule: Schedule, z: Tensor, times: Tensor, progress: bool) -> Iterator[State]:
    before = None  # lambda and estimate of the last step
    for t, s in pairs(times, progress):
        z_0 = denoiser(z, t)
        yield State(z, t, z_0)
        here, there = _half_log_snr(schedule, t), _half_log_snr(schedule, s)
        estimate = z_0
        if before is not None and schedule.sigma(s) > 0:
            r = (here - before[0]) / (there - here)
            estimate = z_0 + (z_0 - before[1]) / (2 * r)
        z = ddim_step(z, estimate, schedule, t, s)
        before = (here, z_0) if schedule.alpha(t) > 0 else None
    yield State(z, times[-1], z_0)


def unipc(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    order: int = 2,
    corrector: bool = True,
    variant: str = "bh2",
    progress: bool = False,
) -> Iterator[State]:
    """UniPC (Zhao et al. 2023, arXiv 2302.04867), predicting z_0: a predictor from `order` estimates, and a corrector
    that repeats the step once the estimate at its end is known.

    That estimate serves the next prediction too, so n steps cost n calls; the corrector raises the order of convergence
    by one. The order is 3 for order = 2. Both are z_s = (sigma_s / sigma_t) z - alpha_s (exp(-h) - 1) z_0 - alpha_s B
    sum_m rho_m (z_0^m - z_0) / r_m with r_m = (lambda_m - lambda_t) / h; the weights rho solve sum_m r_m^(k-1) rho_m =
    k! phi_(k+1)(-h) (-h) / B, k = 1, 2, ..., phi_1(x) = (exp(x) - 1) / x and phi_(k+1)(x) = (phi_k(x) - 1/k!) / x. With
    one such term rho = 1/2 whatever B is. B = exp(-h) - 1 for variant "bh2", -h for "bh1". The predictor alone
    (corrector=False) of order 2 and "bh2" is `dpm_solver_pp_2m`.

    Yields the corrected z with the estimate made at the predicted one, as in the authors' code. The last state is not
    corrected: that would cost one more call. Public code also lowers the order towards the end of every grid, which
    costs the third order; here only a step to sigma(s) = 0 is of order 1 (see the top of this file). Raises ValueError
    for an order outside 1 to 3, an unknown variant and times that do not decrease within [0, 1].
    """
    times = check_run(z, times)
    _check_order(order, 3)
    check_one_of(variant, ("bh2", "bh1"), "variant")
    return _predict_and_correct(denoiser, schedule, z, times, order, corrector, variant, progress)


Estimates = Sequence[tuple[Tensor, Tensor]]  # (lambda, z_0) of earlier times, the newest first


def _predict_and_correct(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    order: int,
    corrector: bool,
    variant: str,
    progress: bool,
) -> Iterator[State]:
    past: Estimates = []
    start = None  # where the last step started: z and t
    for t, s in pairs(times, progress):
        z_0 = denoiser(z, t)
        new = (_half_log_snr(schedule, t), z_0)
        if corrector and start is not None:
            z = _unified_step(start[0], past, schedule, start[1], t, variant, new)
        yield State(z, t, z_0)
        if must_be_first_order(schedule, t, s):
            z, past, start = ddim_step(z, z_0, schedule, t, s), [], None
        else:
            past, start = [new, *past][:order], (z, t)
            z = _unified_step(z, past, schedule, t, s, variant)
    yield State(z, times[-1], z_0)


def _unified_step(
    z: Tensor,
    past: Estimates,
    schedule: Schedule,
    t: Tensor,
    s: Tensor,
    variant: str,
    new: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """UniP's step from z at t to s, and with the estimate `new` at s UniC's."""
    (here, z_0), others = past[0], [*past[1:], *([] if new is None else [new])]
    h = _half_log_snr(schedule, s) - here
    z = ddim_step(z, z_0, schedule, t, s)
    if not others:
        return z
    nodes = torch.stack([(there - here) / h for there, _ in others])
    scale = torch.expm1(-h) if variant == "bh2" else -h
    for weight, node, (_, estimate) in zip(_unified_weights(nodes, h, scale), nodes, others, strict=True):
        z = add_scaled(z, -schedule.alpha(s) * scale * weight / node, estimate - z_0)
    return z


def _unified_weights(nodes: Tensor, h: Tensor, scale: Tensor) -> Tensor:
    if len(nodes) == 1:
        return torch.full_like(nodes, 0.5)
    phi, right = torch.expm1(-h) / -h, []
    for k in range(1, len(nodes) + 1):
        phi = (phi - 1 / math.factorial(k)) / -h
        right.append(math.factorial(k) * phi * -h / scale)
    powers = nodes ** torch.arange(len(nodes), dtype=nodes.dtype)[:, None]
    return torch.linalg.solve(powers, torch.stack(right))


Quadrature = tuple[Tensor, Tensor, Tensor]  # (n + 1,) places of the times, (n, Q) places and (n, Q) masses in each step
POINTS = 16  # of Gauss and Legendre: exact to rounding for polynomials times exp over ten units of log rho


def _gauss(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Places (n, Q) between the starts and the ends, and weights (Q,) that sum to 1."""
    places, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(POINTS))
    return starts[:, None] + (ends - starts)[:, None] * (places + 1) / 2, weights / 2


def _adams_weights(nodes: Tensor, places: Tensor, masses: Tensor) -> Tensor:
    """The mean over a step of each Lagrange polynomial of the nodes (k,): weights that sum to 1."""
    weights = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        polynomial = ((places[:, None] - others) / (node - others)).prod(1)
        weights.append((masses * polynomial).sum() / masses.sum())
    return torch.stack(weights)


def _adams(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    order: int,
    quadrature: Quadrature,
    runge_kutta: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None,
    progress: bool,
) -> Iterator[State]:
    """Adams-Bashforth: DDIM's step with the mean over the step of the polynomial through the last `order` eps.

    runge_kutta(z, z_0, t, s), when given, takes the steps that have fewer eps.
    """
    knots, places, masses = quadrature
    past: list[tuple[Tensor, Tensor]] = []  # place and eps, the newest first
    for i, (t, s) in enumerate(pairs(times, progress)):
        z_0 = None  # the old estimate goes before the new one comes
        z_0 = denoiser(z, t)
        yield State(z, t, z_0)
        if must_be_first_order(schedule, t, s):
            z, past = ddim_step(z, z_0, schedule, t, s), []
            continue
        eps = from_z_0(z_0, "eps", z, t, schedule)
        past = [(knots[i], eps), *past][:order]
        if len(past) < order and runge_kutta is not None:
            z = runge_kutta(z, z_0, t, s)
            continue
        weights = _adams_weights(torch.stack([knot for knot, _ in past]), places[i], masses[i])
        change = torch.zeros_like(eps)
        for weight, (_, earlier) in zip(weights[1:], past[1:], strict=True):
            change = add_scaled(change, weight, earlier - eps)
        z = turned_step(z, z_0, change, schedule, t, s)
    yield State(z, times[-1], z_0)


def pndm(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    order: int = 4,
    start: str = "runge_kutta",
    progress: bool = False,
) -> Iterator[State]:
    """PNDM (Liu et al. 2022, arXiv 2202.09778): Adams and Bashforth's mean of the last eps, moved on by DDIM's formula.

    The mean over the step of the polynomial in t through the last `order` eps: (55 eps_i - 59 eps_(i-1) + 37 eps_(i-2)
    - 9 eps_(i-3)) / 24 for order 4 on an evenly spaced grid. The paper and public code know these numbers only; here
    the weights follow the grid, which keeps the order on every other. The mean is over t while the flow weighs eps with
    d rho, rho = sigma/alpha, so the order of convergence is 2, as the paper says, whatever `order` is (4 where rho is a
    multiple of t, as on `edm`); `deis` weighs rightly.

    start "runge_kutta" (the paper's F-PNDM) takes the first order - 1 steps by the classical Runge-Kutta rule, 4 calls
    each: n + 3 (order - 1) calls for n >= order steps. "lower_order" (the PLMS of public code, apart from its first
    step) begins with fewer eps: n calls. Steps to sigma(s) = 0 and from pure noise: one call, see the top of this file;
    after the latter the start follows. Raises ValueError for an order outside 1 to 4, an unknown start and times that
    do not decrease within [0, 1].
    """
    times = check_run(z, times)
    _check_order(order)
    check_one_of(start, ("runge_kutta", "lower_order"), "start")
    places, weights = _gauss(times[:-1], times[1:])
    quadrature = (times, places, weights.expand_as(places))

    def runge_kutta(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        eps, middle = from_z_0(z_0, "eps", z, t, schedule), (t + s) / 2
        change, total = torch.zeros_like(eps), torch.zeros_like(eps)
        for end, share in ((middle, 1 / 3), (middle, 1 / 3), (s, 1 / 6)):
            u = turned_step(z, z_0, change, schedule, t, end)
            change = from_z_0(denoiser(u, end), "eps", u, end, schedule) - eps
            total = total + share * change
        return turned_step(z, z_0, total, schedule, t, s)

    chosen = runge_kutta if start == "runge_kutta" else None
    return _adams(denoiser, schedule, z, times, order, quadrature, chosen, progress)


def deis(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    order: int = 3,
    variable: str = "time",
    progress: bool = False,
) -> Iterator[State]:
    """DEIS (Zhang & Chen 2023, arXiv 2204.13902, AB-DEIS): the flow d(z/alpha) = eps d rho, rho = sigma/alpha, with eps
    replaced by the polynomial through its last `order` values and the integral over rho taken exactly.

    z_s = (alpha_s / alpha_t) z + alpha_s sum_j C_j eps_j with C_j the integral of the j-th Lagrange polynomial over rho
    from rho_t to rho_s. The polynomial is one in `variable`: "time" is the paper's tAB-DEIS, whose number is order - 1,
    the degree; "log_rho" is what diffusers calls DEIS. The integrals are Gauss and Legendre's, exact to rounding for
    "log_rho". n calls for n steps. The order of convergence is `order` once the first steps are behind; these are of
    lower order, and on a grid whose first steps are not finer they leave second order in the end. Order 1 is DDIM.
    Orders at the ends: see the top of this file. Raises ValueError for an order outside 1 to 4, an unknown variable and
    times that do not decrease within [0, 1].
    """
    times = check_run(z, times)
    _check_order(order)
    check_one_of(variable, ("time", "log_rho"), "variable")
    log_rho = -_half_log_snr(schedule, times)
    places, weights = _gauss(log_rho[:-1], log_rho[1:])
    masses = weights * places.exp()  # d rho = rho d log rho
    quadrature = (log_rho, places, masses) if variable == "log_rho" else (times, schedule.time_at(-2 * places), masses)
    return _adams(denoiser, schedule, z, times, order, quadrature, None, progress)
