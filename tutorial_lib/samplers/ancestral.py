"""Sampling from the posterior of the next state: DDIM, DDPM with every choice of its variance, and the best one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..checks import check_one_of, check_same_shape
from ..denoisers import Denoiser, from_z_0
from ..noise import Noise, standard_normal
from ..schedules import Schedule
from ..steps import add_scaled, broadcast, ddim_step, forward_std, forward_step, posterior_std
from .ode import pairs
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


def check_fraction(v: Tensor | float, z: Tensor) -> Tensor:
    """The answer of a `Fraction` as float64 when it lies in [0, 1] and broadcasts to z; otherwise raise ValueError."""
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
        v = check_fraction(variance(z, t, s), z)
        std = std.to(v.device) ** v * posterior_std(schedule, t, s).to(v.device) ** (1 - v)
        return mean + std.to(mean.dtype) * noise(mean)

    return walk(denoiser, z, times, step, progress)


def mean_square_eps(denoiser: Denoiser, schedule: Schedule, data: Tensor, times: Tensor, noise: Noise) -> Tensor:
    """E ||eps_hat||^2 / D at every time but a final 0, (n,): what Analytic-DPM needs to know of a denoiser.

    eps_hat = (z - alpha z_0) / sigma at z = alpha data + sigma noise, averaged over the batch `data` (B, ...) of clean
    states, one denoiser call a time. Measure it once for a denoiser and a grid and hand it to `analytic_dpm` as gammas.
    """
    times = check_run(data, times, least=1)
    means = []
    for t in times[schedule.sigma(times) > 0]:
        z = forward_step(data, schedule, 0.0, t, noise)
        means.append(from_z_0(denoiser(z, t), "eps", z, t, schedule).double().square().mean().cpu())
    return torch.stack(means)


def _response(denoiser: Denoiser, z: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """z_0, and the mean of the diagonal of its Jacobian, (B,) in float64, seen through one probe of random signs."""
    drawn = noise(z)
    tracked = torch.is_grad_enabled() and z.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        sign = torch.where(drawn >= 0, 1.0, -1.0).to(z)
        start = z if tracked else z.detach().clone().requires_grad_()
        answer = denoiser(start, t.clone())
        check_same_shape(start, answer, ("z", "z_0"))
        slope = torch.zeros_like(start)
        if answer.requires_grad:
            slope = torch.autograd.grad((answer * sign).sum(), start, retain_graph=tracked)[0]
    return answer if tracked else answer.detach(), (slope * sign).detach().flatten(1).mean(1).double()


def analytic_dpm(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    gammas: Tensor | None = None,
    largest: float = math.inf,
    last_std: float = math.inf,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Analytic-DPM (Bao et al. 2022, arXiv 2201.06503): DDPM with the best variance that is one number for all pixels.

    Knowing z_t leaves z_0 a covariance, which the posterior of z_s given z_t and z_0 misses; with c its mean diagonal
    the best variance is beta-tilde + (alpha_s tau)^2 c, tau = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2, alpha_s tau
    being the weight of z_0 in the posterior's mean. Exact for isotropic Gaussian data with any number of steps, from a
    start that has the law of z at times[0]; hence also the step to sigma(s) = 0 draws noise, unlike in every other
    sampler here.

    gammas (n,), from `mean_square_eps`, is the paper's way: c = (sigma_t^2 / alpha_t^2) (1 - gamma), at one call a step.
    Without it c comes from the denoiser at hand, sample by sample: Cov[z_0 | z_t] = (sigma_t^2 / alpha_t) dz_0/dz, whose
    diagonal is averaged through one probe of random signs, so each call is followed by a backward pass. c is kept
    between 0 and `largest` (the paper, for data in [-1, 1]: 1). last_std is the most noise that the step to sigma(s) =
    0 may draw, as a standard deviation; 0 leaves it out, and the paper, for images in [-1, 1], chooses
    (4/255) sqrt(pi/2) = 0.0197, which moves a pixel by two grey levels on average.

    n calls. noise=None means standard_normal(DEFAULT_SEED). Raises ValueError where alpha is 0, for gammas that do not
    fit, for a negative bound and for times that do not decrease within [0, 1].
    """
    times = check_run(z, times)
    if not (schedule.alpha(times) > 0).all():
        raise ValueError(
            f"analytic_dpm cannot leave pure noise, but alpha is 0 at t = {times[0]:g} (the denoiser does not show the"
            " covariance of z_0 there); start at t_max < 1, or use a schedule such as vp_linear"
        )
    for name, bound in (("largest", largest), ("last_std", last_std)):
        if not bound >= 0:
            raise ValueError(f"{name} must not be negative, but {bound!r} came")
    if gammas is not None:
        gammas = torch.as_tensor(gammas, dtype=torch.float64)
        if gammas.shape != (len(times) - 1,) or not (gammas >= 0).all():
            came = f"{tuple(gammas.shape)}" if gammas.shape != (len(times) - 1,) else f"{gammas.min():.6g} among them"
            raise ValueError(
                f"gammas must hold one number >= 0 for each of the {len(times) - 1} steps, but {came} came"
            )
    noise = noise or standard_normal(DEFAULT_SEED)
    return _best_variance(denoiser, schedule, z, times, gammas, largest, last_std, noise, progress)


def _best_variance(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    gammas: Tensor | None,
    largest: float,
    last_std: float,
    noise: Noise,
    progress: bool,
) -> Iterator[State]:
    for i, (t, s) in enumerate(pairs(times, progress)):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        z_0 = None  # the old estimate goes before the new one comes
        if gammas is None:
            z_0, response = _response(denoiser, z, t, noise)
            uncertainty = sigma**2 / alpha * response.cpu()
        else:
            z_0 = denoiser(z, t)
            uncertainty = (sigma / alpha) ** 2 * (1 - gammas[i])
        yield State(z, t, z_0)
        tilde = posterior_std(schedule, t, s)
        weight = schedule.alpha(s) * (1 - (alpha * schedule.sigma(s) / (schedule.alpha(s) * sigma)) ** 2)
        std = (tilde**2 + weight**2 * uncertainty.clamp(0, largest)).sqrt()
        if not schedule.sigma(s) > 0:
            std = std.clamp(max=last_std)
        z = ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like)
        z = add_scaled(z, std, noise(z)) if (std > 0).any() else z
    yield State(z, times[-1], z_0)
