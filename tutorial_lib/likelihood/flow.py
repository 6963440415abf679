"""The exact log-likelihood of a denoiser: log p carried along the probability-flow ODE by its divergence."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import check_one_of, check_positive, check_same_shape
from ..denoisers import Denoiser
from ..noise import Noise
from ..samplers.states import check_run
from ..schedules import Schedule

LogDensity = Callable[[Tensor], Tensor]  # states (B, ...) -> log p, (B,)
Rates = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (z, t) -> dz/dt and its divergence (B,)


def _guess_and_trace(denoiser: Denoiser, z: Tensor, t: Tensor, direction: Tensor | None) -> tuple[Tensor, Tensor]:
    """The denoiser's answer and the trace of its Jacobian (B,): exact, or v^T J v with v = direction."""
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        guess = denoiser(z, t)
        check_same_shape(guess, z, ("the denoiser's output", "z"))
        if not guess.requires_grad:
            raise ValueError("denoiser must record its gradient with respect to z, but its answer has none")
        size = z[0].numel()
        basis = torch.eye(size).to(z).reshape(size, 1, *z.shape[1:]) if direction is None else direction.detach()[None]
        trace = z.detach().new_zeros(len(z))
        for v in basis:
            product = torch.autograd.grad(guess, z, v.expand_as(z).clone(), retain_graph=True)[0]
            trace = trace + (product * v).flatten(1).sum(1)
    return guess.detach(), trace


def _rates(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, t: Tensor, direction: Tensor | None
) -> tuple[Tensor, Tensor]:
    """dz/dt of the probability flow and its divergence (B,), in a form that stays finite where alpha is 0."""
    alpha_slope, sigma_slope = schedule.slopes(t)
    per_z = sigma_slope / schedule.sigma(t)
    per_guess = alpha_slope - schedule.alpha(t) * per_z
    guess, trace = _guess_and_trace(denoiser, z, t, direction)
    return per_z * z + per_guess * guess, per_z * z[0].numel() + per_guess * trace


def _heun(rates: Rates, z: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    growth = z.new_zeros(len(z), dtype=torch.float64)
    for t, s in zip(times[:-1], times[1:], strict=True):
        early, early_divergence = rates(z, t)
        late, late_divergence = rates(z + (s - t) * early, s)
        z = z + (s - t) / 2 * (early + late)
        growth = growth + (s - t) / 2 * (early_divergence + late_divergence)
    return z, growth


def _scipy(rates: Rates, z: Tensor, times: Tensor, rtol: float, atol: float) -> tuple[Tensor, Tensor]:
    from scipy.integrate import solve_ivp

    def slope(time: float, joint: object) -> object:
        state = torch.from_numpy(joint[: -len(z)]).reshape(z.shape).to(z)
        velocity, divergence = rates(state, torch.as_tensor(time, dtype=torch.float64))
        joint_slope = torch.cat([velocity.double().reshape(-1), divergence.double()])
        if not joint_slope.isfinite().all():  # scipy would try ever smaller steps, for ever
            raise ValueError(f"denoiser must return finite values, but NaN or infinite ones came at t = {time:g}")
        return joint_slope.cpu().numpy()

    start = torch.cat([z.double().reshape(-1), z.new_zeros(len(z), dtype=torch.float64)]).cpu().numpy()
    found = solve_ivp(slope, (times[0].item(), times[-1].item()), start, "RK45", rtol=rtol, atol=atol)
    if not found.success:
        raise RuntimeError(f"scipy could not integrate from t = {times[0]:g} to {times[-1]:g}: {found.message}")
    end = torch.from_numpy(found.y[:, -1]).to(z.device)
    return end[: -len(z)].reshape(z.shape).to(z), end[-len(z) :]


def log_likelihood(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    prior: LogDensity | None = None,
    noise: Noise | None = None,
    solver: str = "scipy",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """log p_t(z) at t = times[-1] > 0, (B,), in nats: log prior(z at times[0]) + integral of the flow's divergence.

    Song et al. 2021, arXiv 2011.13456, along dz/dt = (d alpha/dt) z_0 + (d sigma/dt) eps, from z at times[-1] up
    to times[0]. Two errors do not vanish with the solver's. It is the density at t_min, not of the data. And prior=None
    means N(0, sigma(t_max)^2 I), which p at t_max is only nearly; hand in a function prior(z) -> log p (B,) where it is
    known. noise=None takes the exact divergence, D backward passes a call, for few dimensions; otherwise v^T J v with
    one v = noise(z) kept along the whole path (Hutchinson): unbiased for standard_normal and, with less variance,
    `score_matching.rademacher`, which is exact where the Jacobian is diagonal. Solver "scipy" (Runge-Kutta 4(5), to
    rtol and atol) uses the ends of `times` only and steps that serve the whole batch, "heun" every time, error like
    1/n^2. The denoiser's answer for a sample must not depend on its batch mates. Answers carry no gradient. Raises
    ValueError for times that end at 0, an unknown solver, and a denoiser without a gradient.
    """
    times = check_run(z, times).flip(0)
    check_one_of(solver, ("scipy", "heun"), "solver")
    check_positive(rtol, "rtol")
    check_positive(atol, "atol")
    if not schedule.sigma(times[0]) > 0:
        raise ValueError("times must end where there is noise, such as 1e-5, but sigma is 0 at their end; leave it out")
    z = z.detach()
    direction = None if noise is None else noise(z)

    def rates(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _rates(denoiser, schedule, z, t, direction)

    end, growth = _heun(rates, z, times) if solver == "heun" else _scipy(rates, z, times, rtol, atol)
    start = prior(end) if prior is not None else _log_normal(end, schedule.sigma(times[-1]))
    if start.shape != (len(z),):
        raise ValueError(
            f"prior must return one number per sample, ({len(z)},), but the shape {tuple(start.shape)} came"
        )
    return (start + growth).detach().to(z.dtype)


def _log_normal(z: Tensor, std: Tensor) -> Tensor:
    return -((z.double() / std) ** 2 / 2 + std.log() + math.log(2 * math.pi) / 2).flatten(1).sum(1)
