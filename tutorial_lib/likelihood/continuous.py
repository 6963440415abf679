"""The ELBO in continuous time, the weights that other losses give to its noise levels, and a schedule that learns."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import color
from ..denoisers import Denoiser
from ..noise import Noise
from ..schedules import Schedule, Time
from .elbo import noised_and_guess

Weight = Callable[[Tensor], Tensor]  # log_snr -> weight, of the same shape


def continuous_loss(
    denoiser: Denoiser, schedule: Schedule, z_0: Tensor, t: Time, noise: Noise, weight: Weight | None = None
) -> Tensor:
    """-(1/2) SNR'(t) |z_0 - denoiser|^2 for one draw of z_t, (B,), nats per unit of time: the ELBO's steps as n grows.

    Kingma et al. 2021, arXiv 2107.00630: its integral over t takes the place of the sum of the steps, so for t uniform
    between t_min and t_max multiply by t_max - t_min. Substituting log_snr for t shows that the integral depends on the
    schedule through its ends only; the variance over t does not. `weight`, a function of log_snr, multiplies it: in
    terms of eps the loss is (1/2) integral weight |eps - eps_hat|^2 d log_snr. Gradients reach the network and the
    parameters of a learned schedule. `t` is a number or one per sample, with sigma(t) > 0.
    """
    slope = _snr_slope(schedule, t)
    _, guess = noised_and_guess(denoiser, schedule, z_0, t, noise)
    if weight is not None:
        slope = slope * weight(schedule.log_snr(t))
    error = (guess.double() - z_0).square().flatten(1).sum(1)
    return (-slope / 2 * error).to(z_0.dtype)


def _snr_slope(schedule: Schedule, t: Time) -> Tensor:
    """d SNR / dt, with a graph when the schedule has parameters that learn."""
    sigma = schedule.sigma(t)
    if not (sigma > 0).all():
        raise ValueError(f"t must be a time with noise (sigma > 0), but t = {t} came")
    learned = torch.is_grad_enabled() and sigma.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        t = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
        return torch.autograd.grad(snr.sum(), t, create_graph=learned)[0]


def likelihood_weight(log_snr: Tensor) -> Tensor:
    """1: the ELBO itself. On the error of the score this is g^2 (Song et al. 2021, arXiv 2101.09258)."""
    return torch.ones_like(log_snr)


def simple_weight(schedule: Schedule) -> Weight:
    """The weight 1 / (-d log_snr/dt) that DDPM's plain |eps - eps_hat|^2 / 2 with uniform t gives to each log_snr.

    Beside `likelihood_weight` it makes little of small noise, where most bits and little of what one sees are decided.
    Unlike the ELBO, this loss depends on the whole schedule; it carries no gradient to one that learns.
    """

    def weight(log_snr: Tensor) -> Tensor:
        t = schedule.time_at(log_snr)
        alpha_slope, sigma_slope = schedule.slopes(t)
        return 1 / (2 * (sigma_slope / schedule.sigma(t) - alpha_slope / schedule.alpha(t)))

    return weight


def p2_weight(schedule: Schedule, gamma: float = 1.0, k: float = 1.0) -> Weight:
    """`simple_weight` divided by (k + SNR)^gamma: P2 weighting (Choi et al. 2022, arXiv 2204.00227).

    The paper multiplies |eps - eps_hat|^2 with uniform t by 1 / (k + SNR)^gamma, so that still less is spent on small
    noise; `color.p2_weight` is that factor, also for losses in z_0 and v. gamma = 0 is `simple_weight`.
    """
    color.p2_weight(torch.zeros(()), gamma, k)  # bad numbers are refused now
    simple = simple_weight(schedule)
    return lambda log_snr: simple(log_snr) * color.p2_weight(log_snr, gamma, k)


def learned_schedule(logits: Tensor, log_snr_max: Time = 13.3, log_snr_min: Time = -5.0) -> Schedule:
    """A variance-preserving schedule whose log_snr falls from log_snr_max at t -> 0 to log_snr_min in K straight pieces.

    Piece i covers the times from i/K to (i + 1)/K and the share softmax(logits)[i] of the fall, so every `logits` (K,)
    gives a monotone schedule, and gradients reach logits and ends. Kingma et al. 2021 (arXiv 2107.00630) use a monotone
    network to the same end, with ends that learn as well. At t = 0 it is data (alpha 1, sigma 0): it jumps to
    log_snr_max just above, as `ve` does.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 1 or not len(logits) or not logits.is_floating_point():
        came = (
            f"{tuple(logits.shape)} of {logits.dtype}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        )
        raise ValueError(f"logits must be a floating-point tensor (K,), but {came} came")
    high, low = (torch.as_tensor(end).double() for end in (log_snr_max, log_snr_min))
    if not high > low:
        raise ValueError(f"log_snr_max must be above log_snr_min, but {high.item():g} and {low.item():g} came")
    shares = logits.double().softmax(0)
    fallen = torch.cat([shares.new_zeros(1), shares.cumsum(0)])

    def log_snr(t: Tensor) -> Tensor:
        piece = (t.detach() * len(shares)).floor().clamp(0, len(shares) - 1).long()
        return high - (high - low) * (fallen[piece] + (t * len(shares) - piece) * shares[piece])

    return Schedule(
        lambda t: torch.where(t > 0, torch.sigmoid(log_snr(t)).sqrt(), 1.0),
        lambda t: torch.where(t > 0, torch.sigmoid(-log_snr(t)).sqrt(), 0.0),
    )
