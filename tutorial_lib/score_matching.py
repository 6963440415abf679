"""Score matching: losses whose minimiser is the score grad log p of the data, and the noise ladder of NCSN.

A score function maps states z (B, ...) to vectors of the same shape; where noise levels matter it is called as
score(z, t). Every loss returns one value per sample, (B,), summed over the D dimensions of a state, with the factor 1/2
of the papers; take the mean. The four losses differ by constants that do not depend on the score function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .checks import check_positive, check_same_shape, check_whole
from .denoisers import Denoiser, from_z_0, to_z_0
from .noise import Noise
from .schedules import Schedule, Time
from .steps import broadcast, forward_step

Score = Callable[[Tensor], Tensor]
NoisyScore = Callable[[Tensor, Time], Tensor]


class Prior(Protocol):
    """A law whose diffused score is known in closed form, as in tutorial_lib.oracles."""

    def score(self, z: Tensor, alpha: Time, sigma: Time) -> Tensor: ...


def _half_square(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).square().sum(1) / 2


def _evaluated(score: Score, z: Tensor) -> tuple[Tensor, Tensor]:
    """z as a leaf that records gradients, and the score there."""
    z = z.detach().clone().requires_grad_()
    output = score(z)
    check_same_shape(output, z, ("the score's output", "z"))
    return z, output


def _along(output: Tensor, z: Tensor, direction: Tensor, create_graph: bool) -> Tensor:
    """v^T (ds/dz) v for each sample, v = direction: one backward pass."""
    if not output.requires_grad:  # a score that is constant in z
        return z.new_zeros(len(z))
    product = torch.autograd.grad(
        (output * direction).sum(), z, create_graph=create_graph, retain_graph=True, allow_unused=True
    )[0]
    return z.new_zeros(len(z)) if product is None else (product * direction).flatten(1).sum(1)


def explicit_loss(score: Score, true_score: Score, z: Tensor) -> Tensor:
    """|s(z) - grad log p(z)|^2 / 2, (B,): half the Fisher divergence in the mean over z ~ p.

    Hyvarinen 2005. It needs the true score, so it serves exact priors and the judging of a learned score. z must be
    drawn from the law that `true_score` belongs to; for noisy states use `score_error`, which sees to that.
    """
    output, target = score(z), true_score(z)
    check_same_shape(output, target, ("the score's output", "the true score"))
    return _half_square(output - target)


def implicit_loss(score: Score, z: Tensor) -> Tensor:
    """tr(ds/dz) + |s(z)|^2 / 2, (B,): the explicit loss less the constant E|grad log p|^2 / 2, without the true score.

    Hyvarinen 2005, by integration by parts. The trace is exact and costs D backward passes, so this is for few
    dimensions. Gradients reach the parameters of the score. A sample's score must not depend on its batch mates.
    """
    training = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        z, output = _evaluated(score, z)
        trace = z.new_zeros(len(z))
        for index in range(z[0].numel()):
            direction = torch.zeros_like(z)
            direction.flatten(1)[:, index] = 1
            trace = trace + _along(output, z, direction, training)
        loss = trace + _half_square(output)
    return loss if training else loss.detach()


def sliced_loss(score: Score, z: Tensor, noise: Noise, projections: int = 1, variance_reduced: bool = True) -> Tensor:
    """v^T (ds/dz) v + |s(z)|^2 / 2, (B,), averaged over random directions v: the implicit loss in expectation.

    Song et al. 2019, arXiv 1905.07088. `noise` draws v; any law with E[v v^T] = I will do: standard_normal, or
    `rademacher`, with which a diagonal Jacobian gives the exact trace. `variance_reduced=False` takes their first
    form, (v^T s)^2 / 2 in place of |s|^2 / 2. One backward pass a direction, whatever D.
    """
    check_whole(projections, "projections")
    training = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.enable_grad():
        z, output = _evaluated(score, z)
        total = z.new_zeros(len(z))
        for _ in range(projections):
            direction = noise(z.detach())
            square = _half_square(output)
            if not variance_reduced:
                square = (output * direction).flatten(1).sum(1) ** 2 / 2
            total = total + _along(output, z, direction, training) + square
        loss = total / projections
    return loss if training else loss.detach()


def rademacher(noise: Noise) -> Noise:
    """A source of random signs, +1 or -1 with probability 1/2 each, made from a source of normal numbers."""
    return lambda like: torch.where(noise(like) < 0, -1.0, 1.0).to(like)


def denoising_loss(
    score: NoisyScore, schedule: Schedule, z_0: Tensor, t: Time, noise: Noise, weighted: bool = False
) -> Tensor:
    """|s(z_t, t) + eps / sigma|^2 / 2, (B,), with z_t = alpha z_0 + sigma eps: the explicit loss at z_t plus a constant.

    Vincent 2011. The constant is (D / sigma^2 - E|grad log p_t|^2) / 2, so the true score does not reach zero unless
    the data are a single point. weighted=True multiplies by sigma^2, NCSN's lambda (Song & Ermon 2019, arXiv
    1907.05600): |sigma s + eps|^2 / 2, DDPM's error of eps in other words. `t` is one number or one per sample.
    Raises ValueError where sigma(t) is 0.
    """
    sigma = _noisy(schedule, t)
    eps = noise(z_0)
    z = broadcast(schedule.alpha(t), z_0) * z_0 + broadcast(sigma, z_0) * eps
    output = score(z, t)
    check_same_shape(output, z, ("the score's output", "z_0"))
    scaled = _half_square(broadcast(sigma, z) * output + eps)
    return scaled if weighted else broadcast(sigma**-2, scaled) * scaled


def score_error(
    score: NoisyScore, prior: Prior, schedule: Schedule, z_0: Tensor, t: Time, noise: Noise, weighted: bool = False
) -> Tensor:
    """|s(z_t, t) - grad log p_t(z_t)|^2 / 2, (B,): the explicit loss at noisy states, against the diffused prior.

    `z_0` are samples of `prior`, noised here to z_t. A perfect score has error 0. Public teaching code has compared
    with the prior that was not diffused, at samples that were not noised: a perfect network then looks wrong.
    weighted=True multiplies by sigma^2, as in `denoising_loss`. Raises ValueError where sigma(t) is 0.
    """
    sigma = _noisy(schedule, t)
    z = forward_step(z_0, schedule, 0.0, t, noise)
    error = explicit_loss(lambda z: score(z, t), lambda z: prior.score(z, schedule.alpha(t), sigma), z)
    return broadcast(sigma**2, error) * error if weighted else error


def _noisy(schedule: Schedule, t: Time) -> Tensor:
    """sigma(t), which must not be zero."""
    sigma = schedule.sigma(t)
    if not (sigma > 0).all():
        raise ValueError(f"t must be a time with noise (sigma > 0), but t = {t} came")
    return sigma


def score_from_denoiser(denoiser: Denoiser, schedule: Schedule) -> NoisyScore:
    """The score function (alpha denoiser(z, t) - z) / sigma^2 that a denoiser amounts to (Tweedie's formula)."""
    return lambda z, t: from_z_0(denoiser(z, t), "score", z, t, schedule)


def denoiser_from_score(score: NoisyScore, schedule: Schedule) -> Denoiser:
    """The denoiser (z + sigma^2 score(z, t)) / alpha that a score function amounts to, ready for every sampler."""
    return lambda z, t, cond=None: to_z_0(score(z, t), "score", z, t, schedule)


def noise_ladder(n: int = 10, sigma_max: float = 1.0, sigma_min: float = 0.01) -> Tensor:
    """n noise levels from sigma_max down to sigma_min with a constant ratio: a float64 tensor (n,).

    In the units of the states. The defaults are NCSN's for images in [0, 1] (Song & Ermon 2019, arXiv 1907.05600).
    """
    check_whole(n, "n", low=2)
    check_positive(sigma_min, "sigma_min")
    check_positive(sigma_max, "sigma_max")
    if sigma_min >= sigma_max:
        raise ValueError(f"sigma_min must be below sigma_max = {sigma_max!r}, but {sigma_min!r} came")
    ladder = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64).exp()
    ladder[0], ladder[-1] = sigma_max, sigma_min
    return ladder


def ladder_step_sizes(ladder: Tensor, epsilon: float = 2e-5) -> Tensor:
    """Langevin's step size at each level, a_i = epsilon sigma_i^2 / sigma_min^2, shaped like the ladder.

    Song & Ermon 2019, arXiv 1907.05600, in the convention z + (a/2) score + sqrt(a) noise of `langevin_step`. Their
    published code puts the same epsilon into z + a score + sqrt(2 a) noise, which is twice this step. In
    `annealed_langevin`, step_size = epsilon / sigma_min^2 is the same rule: a_i = step_size sigma_i^2.
    """
    check_positive(epsilon, "epsilon")
    return epsilon * _checked_ladder(ladder) ** 2 / ladder[-1].double() ** 2


def ladder_times(ladder: Tensor, schedule: Schedule) -> Tensor:
    """The times at which the schedule's sigma / alpha are the ladder's levels, then 0: float64 (n + 1,), decreasing.

    Raises ValueError for a level that the schedule does not reach.
    """
    ladder = _checked_ladder(ladder)
    times = schedule.time_at(-2 * ladder.log())
    reached = (-schedule.log_snr(times) / 2).exp()
    if not torch.allclose(reached, ladder, rtol=1e-6):
        worst = (reached / ladder).log().abs().argmax()
        raise ValueError(
            f"ladder must lie within the schedule's noise levels, but it has no sigma = {ladder[worst]:.6g}"
        )
    return torch.cat([times, times.new_zeros(1)])


def _checked_ladder(ladder: Tensor) -> Tensor:
    """The ladder in float64 when it is a decreasing list of positive levels."""
    levels = torch.as_tensor(ladder, dtype=torch.float64)
    if levels.ndim != 1 or not len(levels) or not (levels > 0).all() or not (levels.diff() < 0).all():
        raise ValueError(f"ladder must hold positive noise levels that decrease, but {ladder!r:.80} came")
    return levels
