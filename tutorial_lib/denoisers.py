"""Denoisers: callables denoiser(z, t, cond=None) -> E[z_0 given z_t], and wrappers for what predicts something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .checks import check_one_of, check_same_shape
from .schedules import Schedule, Time, vp_cosine
from .steps import add_scaled, broadcast

KINDS = ("z_0", "eps", "v", "score")
Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class Denoiser(Protocol):
    """Maps a state z (B, ...) at time t (one number, or one per sample) to an estimate of z_0, shaped like z."""

    def __call__(self, z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor: ...


def _to_z_0(output: Tensor, kind: str, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    if kind == "z_0":
        return output
    if kind == "v":
        total = alpha**2 + sigma**2
        return add_scaled(broadcast(alpha / total, z) * z, -sigma / total, output)
    if not (alpha > 0).all():
        raise ValueError(f"kind {kind!r} cannot give z_0 where alpha is 0, in pure noise; use 'v' or 'z_0', or t < 1")
    per_output = -sigma / alpha if kind == "eps" else sigma**2 / alpha
    return add_scaled(broadcast(1 / alpha, z) * z, per_output, output)


def to_z_0(output: Tensor, kind: str, z: Tensor, t: Time, schedule: Schedule) -> Tensor:
    """The estimate of z_0 that a prediction of another kind amounts to, at state z and time t.

    "z_0": itself. "eps": (z - sigma eps) / alpha. "score" (of p_t at z): (z + sigma^2 score) / alpha.
    "v" = alpha eps - sigma z_0: (alpha z - sigma v) / (alpha^2 + sigma^2); in variance-preserving schedules the
    denominator is 1 (Salimans & Ho 2022, arXiv 2202.00512). All tensors have the shape of z.
    Raises ValueError for "eps" and "score" where alpha(t) = 0, and for an unknown kind.
    """
    check_one_of(kind, KINDS, "kind")
    check_same_shape(output, z, ("output", "z"))
    return _to_z_0(output, kind, z, schedule.alpha(t), schedule.sigma(t))


def from_z_0(z_0: Tensor, kind: str, z: Tensor, t: Time, schedule: Schedule) -> Tensor:
    """The inverse of to_z_0: the prediction of the given kind that an estimate z_0 amounts to, at state z and time t.

    "eps": (z - alpha z_0) / sigma. "v": (alpha z - (alpha^2 + sigma^2) z_0) / sigma.
    "score": (alpha z_0 - z) / sigma^2.
    Raises ValueError where sigma(t) = 0 (except for "z_0"), and for an unknown kind.
    """
    check_one_of(kind, KINDS, "kind")
    check_same_shape(z_0, z, ("z_0", "z"))
    if kind == "z_0":
        return z_0
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if not (sigma > 0).all():
        raise ValueError(f"kind {kind!r} does not exist where sigma is 0 (no noise), but t = {t} came")
    per_z, per_z_0 = {
        "eps": (1 / sigma, -alpha / sigma),
        "v": (alpha / sigma, -(alpha**2 + sigma**2) / sigma),
        "score": (-1 / sigma**2, alpha / sigma**2),
    }[kind]
    return broadcast(per_z, z) * z + broadcast(per_z_0, z) * z_0


class NetworkDenoiser:
    """A network, called as network(u, level, cond), that speaks z_0. Without a schedule, the schedule is vp_cosine().

    The network works in variance-preserving coordinates whatever the schedule: with r = sqrt(alpha^2 + sigma^2) it sees
    u = z / r, which has unit variance when the data have, and its output is read as a prediction of `kind` for the pair
    (alpha / r, sigma / r). With kind "v" its target has unit variance too, and z_0 = (alpha u - sigma output) / r;
    for alpha = 1 this is EDM's preconditioning (arXiv 2206.00364, table 1, data of unit variance) with the sign of the
    output flipped. `level` (B,) is log_snr / 8, held within +-2.5; EDM feeds -log_snr / 8. It describes the noise and
    not the time, so a network can be sampled on another schedule.

    The network is given float32 and the answer has the state's dtype. Here its weights are constants: gradients reach
    the state and the condition, never the weights, so sampling keeps no graph. Training calls the network itself:
    `network(*denoiser.inputs(z, t), cond)` against `denoiser.target(z_0, eps, t)`.
    """

    def __init__(self, network: Network, kind: str = "v", schedule: Schedule | None = None) -> None:
        schedule = vp_cosine() if schedule is None else schedule
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, but a {type(schedule).__name__} came")
        self.network = network
        self.kind = check_one_of(kind, KINDS, "kind")
        self.schedule = schedule

    def _normalised(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        size = (alpha**2 + sigma**2).sqrt()
        return alpha / size, sigma / size, size

    def _level(self, z: Tensor, t: Time) -> Tensor:
        level = self.schedule.log_snr(t).clamp(-20, 20) / 8
        return level.to(z.device, torch.float32).expand(len(z))

    def inputs(self, z: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """(u, level): what the network is shown for the state z at time t, both float32; shapes of z and (B,)."""
        _, _, size = self._normalised(t)
        return (broadcast(1 / size, z) * z).float(), self._level(z, t)

    def target(self, z_0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should answer for z = alpha z_0 + sigma eps, shaped like z_0: the target of training."""
        check_same_shape(z_0, eps, ("z_0", "eps"))
        alpha, sigma, _ = self._normalised(t)
        if self.kind == "z_0":
            return z_0
        if self.kind == "eps":
            return eps
        if self.kind == "score":
            return broadcast(-1 / sigma, eps) * eps
        return broadcast(alpha, eps) * eps - broadcast(sigma, z_0) * z_0

    def __call__(self, z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        tracked = z.requires_grad or (isinstance(cond, Tensor) and cond.requires_grad)
        alpha, sigma, size = self._normalised(t)
        with torch.set_grad_enabled(torch.is_grad_enabled() and tracked):
            u = broadcast(1 / size, z) * z
            output = self.network(u.float(), self._level(z, t), cond).to(z.dtype)
            check_same_shape(output, z, ("the network's output", "z"))
            return _to_z_0(output, self.kind, u, alpha, sigma)


def pullback(denoiser: Denoiser, z: Tensor, t: Time) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(z_0, back): the estimate, and the map w -> J^T w by the transposed Jacobian J = dz_0/dz, both shaped like z.

    One call and, whenever `back` is used, one backward pass through the denoiser. Gradients are switched on inside, also
    under no_grad and inference_mode, and go to the state only, never into the weights. On exact denoisers J is
    alpha / sigma^2 times the covariance of z_0 given z. `w` counts as a constant. What comes back carries a graph itself
    only where z does (`oracles.affine_law`). Raises ValueError for a denoiser that cannot be differentiated, such as one
    that runs under no_grad of its own: its guidance would be silently zero.
    """
    tracked = torch.is_grad_enabled() and z.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        start = z if tracked else z.detach().clone().requires_grad_()
        answer = denoiser(start, t.clone() if isinstance(t, Tensor) else t)
        check_same_shape(answer, z, ("the denoiser's answer", "z"))
        if not answer.requires_grad:
            raise ValueError("denoiser must be differentiable in z, but its answer carries no gradient")

    def back(w: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            slope = torch.autograd.grad(answer, start, w, retain_graph=True, create_graph=tracked, allow_unused=True)[0]
        if slope is None:  # a gradient into the weights alone
            raise ValueError("denoiser must be differentiable in z, but its answer does not depend on z")
        return slope

    return (answer if tracked else answer.detach()), back


def count_calls(denoiser: Denoiser) -> Denoiser:
    """The same denoiser with an attribute `calls`: how often it was called, once per batch (NFE, a sampler's cost)."""

    def counted(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        counted.calls += 1
        return denoiser(z, t) if cond is None else denoiser(z, t, cond)

    counted.calls = 0
    return counted
