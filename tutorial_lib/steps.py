"""One step of a sampler as a pure function: both ends named, noise handed in.

`t` and `s` are numbers, 0-d tensors, or (B,) tensors with one time per sample. States are in state units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_same_shape
from .noise import Noise
from .schedules import Schedule, Time


def broadcast(coefficient: Tensor, z: Tensor) -> Tensor:
    """A coefficient to multiply a batch of states (B, ...): 0-d ones as they are, (B,) ones cast, moved and shaped."""
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.shape != z.shape[:1]:
        shape = tuple(coefficient.shape)
        raise ValueError(f"times must be one number or one per sample, but the shape {shape} came for {len(z)} samples")
    return coefficient.to(z).view(-1, *[1] * (z.ndim - 1))


def add_scaled(z: Tensor, coefficient: Tensor, other: Tensor) -> Tensor:
    """z += coefficient * other in place, so z must be the caller's own: states can be the largest thing in memory."""
    return z.addcmul_(broadcast(coefficient, z).to(z), other)


def _add_noise(z: Tensor, std: Tensor, noise: Noise | None) -> Tensor:
    if not (std > 0).any():
        return z
    if noise is None:
        raise ValueError("noise must be handed in for a random step, for example standard_normal(0), but None came")
    return add_scaled(z, std, noise(z))


def posterior_std(schedule: Schedule, t: Time, s: Time) -> Tensor:
    """Standard deviation of z_s given z_t and z_0: sigma_s sqrt(1 - (alpha_t sigma_s / (alpha_s sigma_t))^2), DDPM's
    sqrt(beta-tilde)."""
    left = schedule.alpha(t) * schedule.sigma(s) / (schedule.alpha(s) * schedule.sigma(t))
    if not (left < 1).all():
        raise ValueError(f"with eta > 0 a step must go to a cleaner time, but it goes from t = {t} to s = {s}")
    return schedule.sigma(s) * (1 - left**2).sqrt()


def ddim_step(
    z: Tensor,
    z_0: Tensor,
    schedule: Schedule,
    t: Time,
    s: Time,
    eta: float = 0.0,
    noise: Noise | None = None,
    eps: Tensor | None = None,
) -> Tensor:
    """From the state z at time t to time s < t, given an estimate z_0 of the data.

    z_s = alpha_s z_0 + sqrt(sigma_s^2 - v^2) eps + v noise, with eps = (z - alpha_t z_0) / sigma_t,
    v = eta sigma_s sqrt(tau) and tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2. eta = 0 is DDIM (arXiv 2010.02502),
    eta = 1 draws from the exact posterior of z_s given z and z_0 (DDPM, arXiv 2006.11239), for every schedule.

    Here eta multiplies the posterior's standard deviation. Elsewhere the same letter has meant: the posterior's
    variance (azula); the fraction of the whole sigma_s that is fresh, noise eta sigma_s (DDRM, DDNM: `eta_total` in
    this package); a variance fraction of the whole sigma_s (DiffPIR's zeta); the SDE's diffusion, noise
    sigma_s sqrt(1 - exp(-2 eta h)) (k-diffusion's SDE solvers, deepinv's alpha).

    Hand in `eps` when z_0 was corrected and the direction must stay the raw denoiser's (DDNM). When z_0 was clipped,
    leave it out: eps is then recomputed from the clipped z_0, as it must be. With sigma_s = 0 the result is alpha_s z_0
    and nothing is drawn. With eta = 0, s > t is allowed (inversion). Raises ValueError for eta outside [0, 1] and,
    with eta > 0, for s >= t.
    """
    check_same_shape(z, z_0, ("z", "z_0"))
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, but {eta!r} came")
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
    if not (sigma_t > 0).all():
        raise ValueError(f"a step must start where there is noise, but sigma(t) is 0 at t = {t}")
    std = torch.zeros_like(sigma_s)
    if eta > 0:
        std = eta * posterior_std(schedule, t, s)
    along = (sigma_s**2 - std**2).clamp(min=0).sqrt()  # the clamp only catches rounding: std <= sigma_s
    if eps is None:  # alpha_s z_0 + along (z - alpha_t z_0) / sigma_t, with the coefficients gathered in float64
        mean = add_scaled(broadcast(along / sigma_t, z) * z, alpha_s - along * alpha_t / sigma_t, z_0)
    else:
        check_same_shape(z, eps, ("z", "eps"))
        mean = add_scaled(broadcast(alpha_s, z) * z_0, along, eps)
    return _add_noise(mean, std, noise)


def bridge_step(
    z: Tensor, z_0: Tensor, t: Time, s: Time, kappa_squared: float = 0.0, noise: Noise | None = None
) -> Tensor:
    """A Brownian bridge to z_0, from clock t to s: z_0 + (s/t) (z - z_0) + sqrt(kappa_squared s (t - s) / t) noise.

    The clock is variance-like, not this package's time: t = (sigma/alpha)^2 gives ancestral sampling in
    variance-exploding coordinates, I2SB (arXiv 2302.05872) uses the accumulated forward variance, ResShift (arXiv
    2307.12348) its eta_t, InDI (arXiv 2303.11435) its t with kappa_squared = 0. The mean is the same in all of them.
    Raises ValueError unless 0 <= s < t.
    """
    check_same_shape(z, z_0, ("z", "z_0"))
    t, s = (torch.as_tensor(clock, dtype=torch.float64) for clock in (t, s))
    if not ((s >= 0) & (s < t)).all():
        raise ValueError(f"the bridge's clock must obey 0 <= s < t, but t = {t} and s = {s} came")
    mean = z_0 + broadcast(s / t, z) * (z - z_0)
    return _add_noise(mean, (kappa_squared * s * (t - s) / t).sqrt(), noise)


def forward_std(schedule: Schedule, s: Time, t: Time) -> Tensor:
    """Standard deviation of z_t given z_s: sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2), DDPM's sqrt(beta)."""
    kept = schedule.alpha(t) / schedule.alpha(s) * schedule.sigma(s)
    variance = schedule.sigma(t) ** 2 - kept**2
    if not (variance >= 0).all():
        raise ValueError(f"noise can only be added going to a noisier time, but it goes from s = {s} to t = {t}")
    return variance.sqrt()


def forward_step(z: Tensor, schedule: Schedule, s: Time, t: Time, noise: Noise) -> Tensor:
    """Add noise: from the state z at time s to time t > s, z_t = (alpha_t / alpha_s) z + forward_std noise.

    With s = 0 this is q(z_t | z_0) = N(alpha_t z_0, sigma_t^2 I). Raises ValueError when t is cleaner than s.
    """
    std = forward_std(schedule, s, t)
    return _add_noise(broadcast(schedule.alpha(t) / schedule.alpha(s), z) * z, std, noise)


def langevin_step(z: Tensor, score: Tensor, step_size: Time, noise: Noise) -> Tensor:
    """One step of unadjusted Langevin dynamics: z + (a/2) score + sqrt(a) noise, with a = step_size.

    `step_size` is one number or one per sample. Song & Ermon 2019, arXiv 1907.05600. Other code writes (e, sqrt(2 e)):
    there e = a/2. On N(0, v) the stationary variance is v / (1 - a/(4 v)), not v: the step size leaves a bias. Raises
    ValueError for a negative step size.
    """
    check_same_shape(z, score, ("z", "score"))
    step_size = torch.as_tensor(step_size, dtype=torch.float64)
    if not (step_size >= 0).all():
        raise ValueError(f"step_size must not be negative, but {step_size} came")
    return _add_noise(z + broadcast(step_size / 2, z) * score, step_size.sqrt(), noise)
