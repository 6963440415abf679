"""Sampling from the posterior of the next state: DDPM with every choice of its variance, and DDIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..checks import check_one_of
from ..denoisers import Denoiser
from ..noise import Noise, standard_normal
from ..schedules import Schedule
from ..steps import broadcast, ddim_step, forward_std, posterior_std
from .states import DEFAULT_SEED, State, check_run, walk

Fraction = Callable[[Tensor, Tensor, Tensor], Tensor | float]  # (z, t, s) -> v in [0, 1], broadcasting to z


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
    times = check_run(z, times)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, but {eta!r} came")
    noise = noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return ddim_step(z, z_0, schedule, t, s, eta, noise)

    return walk(denoiser, z, times, step, progress)


def _check_fraction(v: Tensor | float, z: Tensor) -> Tensor:
    v = torch.as_tensor(v, dtype=torch.float64, device=z.device)
    if not ((v >= 0) & (v <= 1)).all():
        raise ValueError(f"variance(z, t, s) must lie between 0 and 1, but it runs from {v.min():.6g} to {v.max():.6g}")
    try:
        fits = torch.broadcast_shapes(v.shape, z.shape) == z.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"variance(z, t, s) must broadcast to {tuple(z.shape)}, but its shape is {tuple(v.shape)}")
    return v


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    variance: str | Fraction = "posterior",
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239): the mean of the posterior of z_s given z_t and z_0, plus
    noise.

    variance "posterior" (the paper's beta-tilde) adds that posterior's variance, sigma_s^2 (1 - (alpha_t sigma_s /
    (alpha_s sigma_t))^2), right when z_0 is certain; "beta" adds the variance of the forward step, sigma_t^2 - (alpha_t
    sigma_s / alpha_s)^2 (1 - alpha_t^2 / alpha_s^2 in variance-preserving schedules), right for N(0, I) data. A
    function variance(z, t, s) -> v in [0, 1], a number or a tensor that broadcasts to z, adds what lies between,
    exp(v log beta + (1 - v) log beta-tilde): the learned variance of Nichol & Dhariwal 2021, arXiv 2102.09672, whose
    network answers 2 v - 1. All are recomputed for the step really taken; public code that reads single-step betas
    from a table is wrong as soon as steps are skipped. A step to sigma_s = 0 adds no noise, so the log of beta-tilde =
    0 is never taken. noise=None means standard_normal(DEFAULT_SEED). Raises ValueError for an unknown variance, for v
    outside [0, 1] and for times that do not decrease within [0, 1].
    """
    if not callable(variance):
        check_one_of(variance, ("posterior", "beta"), "variance")
    if variance == "posterior":
        return ddim(denoiser, schedule, z, times, 1.0, noise, progress)
    times = check_run(z, times)
    noise = noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean = ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like)
        if not schedule.sigma(s) > 0:
            return mean
        std = forward_std(schedule, s, t)
        if variance == "beta":
            return mean + broadcast(std, mean) * noise(mean)
        v = _check_fraction(variance(z, t, s), z)
        std = std.to(v.device) ** v * posterior_std(schedule, t, s).to(v.device) ** (1 - v)
        return mean + std.to(mean.dtype) * noise(mean)

    return walk(denoiser, z, times, step, progress)
