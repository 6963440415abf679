"""Guidance: functions that turn a denoiser into one that listens harder to a condition, or to a measurement.

For conditions there are two kinds and one scale. `classifier_free` compares a denoiser that was told the condition with one
that was not; `classifier` adds the gradient of log p(condition | z_t). In both, scale 0 is the prior, scale 1 is p(z_0 |
condition) by Bayes' rule, and more exaggerates. Under an exact classifier both are the same denoiser at every scale. What a
scale above 1 samples is not p(z_0) p(condition | z_0)^scale: `guided_gaussian` says what it is where that is known.

For measurements x = A z_0 + noise there are `pigdm` and `proximal`, which need no training (see `zero_shot`).

The result is called denoiser(z, t, cond) as before; samplers want denoiser(z, t), so fill in the condition last, with
`sr3.with_condition(classifier_free(denoiser, 3.0), cond)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_positive, check_same_shape
from .denoisers import Denoiser, pullback
from .linear_operator import LinearOperator
from .schedules import Schedule, Time
from .steps import broadcast

LogProb = Callable[[Tensor, Time], Tensor]  # (z, t) -> log p(condition | z_t = z) in nats, (B,)


def scale_from_w(w: float) -> float:
    """The `scale` that the paper calls w: 1 + w. Ho & Salimans, arXiv 2207.12598, guide by (1 + w) eps_c - w eps_u."""
    return 1 + w


def _check_scale(scale: float | Tensor) -> Tensor:
    scale = torch.as_tensor(scale, dtype=torch.float64)
    if scale.ndim > 1 or not scale.isfinite().all():
        raise ValueError(f"scale must be one finite number or one per sample (B,), but {scale.tolist()} came")
    return scale


def _check_interval(interval: tuple[float, float] | None) -> None:
    if interval is not None and not (len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1):
        raise ValueError(f"interval must be two times with 0 <= t_low <= t_high <= 1, but {interval!r} came")


def _expanded(cond: Tensor | None, z: Tensor) -> Tensor | None:
    """One condition (1, ...) for every sample."""
    return cond.expand(len(z), *cond.shape[1:]) if isinstance(cond, Tensor) and len(cond) == 1 else cond


def _rescaled(guided: Tensor, told: Tensor, share: float) -> Tensor:
    """`guided` with its standard deviation, per sample, brought back to that of `told`, by the share `share`."""
    now, before = (x.flatten(1).std(1, correction=0) for x in (guided, told))
    factor = torch.where(now > 0, before / torch.where(now > 0, now, 1.0), 1.0)
    return broadcast(1 + share * (factor - 1), guided) * guided


def classifier_free(
    denoiser: Denoiser,
    scale: float | Tensor,
    null: Tensor | None = None,
    unconditional: Denoiser | None = None,
    *,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Classifier-free guidance: a denoiser(z, t, cond) that answers D_u + scale (D_c - D_u), shaped like z.

    D_c = denoiser(z, t, cond). D_u = denoiser(z, t, null), with `null` what the network was shown in training where the
    condition was dropped (None, or a tensor (1 or B, ...) such as zeros), or unconditional(z, t) when another denoiser
    knows the prior. Then cond may already be filled into `denoiser`. Two calls where scale is neither 0 nor 1, else one.

    `scale` is one number or one per sample (B,): 0 is the prior, 1 switches guidance off (the survey's lambda; GLIDE,
    Stable Diffusion, diffusers). The paper's w is scale - 1, see `scale_from_w`; the two differ by one, so a number
    copied from the other convention runs without a word. The formula is the same for eps, v and scores.

    `interval` = (t_low, t_high): outside of it scale is 1 (Kynkaanniemi et al., arXiv 2404.07724, in noise levels).
    `rescale` in [0, 1]: the answer's standard deviation over a sample is brought back, by that share, to D_c's (Lin et al.,
    arXiv 2305.08891; there and in diffusers on the network's own output, here on z_0). The mean is scaled with it; a sample
    without spread is left alone.

    Raises ValueError for both `null` and `unconditional`, numbers out of range, and, when called, for a missing condition:
    without it D_c = D_u, and guidance would do nothing at any scale. Ho & Salimans 2022, arXiv 2207.12598.
    """
    strength = _check_scale(scale)
    _check_interval(interval)
    if null is not None and unconditional is not None:
        raise ValueError(
            "null and unconditional both say what the denoiser without a condition is: hand in one of them"
        )
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie between 0 and 1, but {rescale!r} came")

    def guided(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        if cond is None and unconditional is None:
            raise ValueError("cond must be the condition to guide to, but None came; see sr3.with_condition")
        now = strength
        if interval is not None:
            time = torch.as_tensor(t, dtype=torch.float64)
            now = torch.where((time >= interval[0]) & (time <= interval[1]), strength.to(time.device), 1.0)
        told = None
        if (now != 0).any():
            told = denoiser(z, t) if cond is None else denoiser(z, t, _expanded(cond, z))
            check_same_shape(told, z, ("the denoiser's answer", "z"))
        if told is not None and (now == 1).all():
            return told
        untold = unconditional(z, t) if unconditional is not None else denoiser(z, t, _expanded(null, z))
        check_same_shape(untold, z, ("the unconditional denoiser's answer", "z"))
        if told is None:
            return untold
        answer = untold + broadcast(now.to(z), z) * (told - untold)
        return _rescaled(answer, told, rescale) if rescale else answer

    return guided


def _gradient(log_prob: LogProb, z: Tensor, t: Time) -> Tensor:
    """grad_z log_prob(z, t), per sample, whether or not gradients are switched on outside."""
    tracked = torch.is_grad_enabled() and z.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        state = z if tracked else z.detach().clone().requires_grad_()
        value = log_prob(state, t.clone() if isinstance(t, Tensor) else t)
        if value.shape != z.shape[:1]:
            shape = tuple(value.shape)
            raise ValueError(f"log_prob must return one value per sample, ({len(z)},), but the shape {shape} came")
        if not value.requires_grad:
            raise ValueError("log_prob must be differentiable in z, but its answer carries no gradient")
        gradient = torch.autograd.grad(value.sum(), state, create_graph=tracked)[0]
    if not gradient.isfinite().all():
        raise ValueError(f"log_prob has a gradient that is NaN or infinite at t = {t}")
    return gradient


def classifier(denoiser: Denoiser, log_prob: LogProb, schedule: Schedule, scale: float | Tensor = 1.0) -> Denoiser:
    """Classifier guidance: a denoiser(z, t, cond) that answers D + scale sigma^2 / alpha grad_z log p(c | z_t), like z.

    log_prob(z, t) -> (B,) nats is the classifier's answer for the class wanted, at the noisy state z in state units, and
    every sample's value may depend on that sample only (no batch norm in training mode). It must have been trained on
    noisy states: one that only knows clean images answers about z_t as if it were an image. Gradients are switched on
    inside, also under no_grad and inference_mode; nothing reaches the classifier's weights.

    `scale` is one number or one per sample (B,); 1 is Bayes' rule, which gives p(z_0 | c) exactly when the classifier is
    exact; then every scale equals `classifier_free` at that scale. On a denoiser that already knows c, scale is the CFG
    paper's w. For eps the term is -scale sigma grad, with sigma = sqrt(1 - alpha-bar) where variance is preserved.
    Published samplers add scale beta grad to the step's mean instead, evaluated at z_t: the same to first order in the step.

    Raises ValueError, when called, where alpha is 0 (sigma^2 / alpha is infinite: start at t_max < 1), for a log_prob of
    another shape, without gradient, or with one that is not finite. Dhariwal & Nichol 2021, arXiv 2105.05233.
    """
    strength = _check_scale(scale)

    def guided(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if not (alpha > 0).all():
            raise ValueError(f"a classifier cannot guide pure noise, but alpha is 0 at t = {t}; start at t_max < 1")
        answer = denoiser(z, t) if cond is None else denoiser(z, t, cond)
        check_same_shape(answer, z, ("the denoiser's answer", "z"))
        per_gradient = strength.to(alpha.device) * sigma**2 / alpha
        return answer + broadcast(per_gradient.to(z), z) * _gradient(log_prob, z, t)

    return guided


def _one_time(t: Time) -> None:
    if isinstance(t, Tensor) and t.numel() != 1:
        raise ValueError(f"a measurement guides one time at a time, but t has the shape {tuple(t.shape)}")


def pigdm(
    denoiser: Denoiser,
    operator: LinearOperator,
    x: Tensor,
    schedule: Schedule,
    noise_std: float = 0.0,
    prior_std: float = 1.0,
) -> Denoiser:
    """Pseudo-inverse guidance: a denoiser(z, t) that answers E[z_0 | z, x] as if z_0 given z were N(D, r^2 I), shaped like z.

        D + (sigma^2 / alpha) J^T A^T (r^2 A A^T + noise_std^2 I)^-1 (x - A D),   J = dD/dz
        r^2 = sigma^2 p^2 / (alpha^2 p^2 + sigma^2),   p = prior_std

    x (1 or B, ...) = A z_0 + noise_std n in state units. With p = 1 r^2 is the paper's sigma^2 / (alpha^2 + sigma^2), the
    covariance of N(0, I) data: for that prior the answer is exact. p is the standard deviation of one entry of z_0.
    noise_std = 0 uses A^+. Any operator: its SVD where it has one, else conjugate gradients. One call and one backward
    pass. The answer is the same on every schedule in state units (a schedule with the same sigma / alpha gives the same
    z_0). Published code knows only A^+, and multiplies the gradient by sqrt(alpha-bar_t) or by sqrt(alpha-bar_t
    alpha-bar_s) of its own sampler. Raises ValueError, when called, where alpha is 0 and for a denoiser without gradient.
    Song et al., ICLR 2023, openreview 9_gsMA8MRKQ.
    """
    check_positive(prior_std, "prior_std")

    def guided(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        _one_time(t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if not (alpha > 0).all():
            raise ValueError(f"pigdm cannot guide pure noise, but alpha is 0 at t = {t}; start at t_max < 1")
        z_0, back = pullback(denoiser if cond is None else lambda z, t: denoiser(z, t, cond), z, t)
        spread = (sigma * prior_std) ** 2 / ((alpha * prior_std) ** 2 + sigma**2)
        missing = x.to(z_0) - operator(z_0)
        rho = noise_std**2 / spread
        pull = operator.damped_pinv(missing, rho) if rho > 0 else operator.pinv(missing)
        return z_0 + (sigma**2 / alpha / spread).to(z_0) * back(pull)

    return guided


def proximal(
    denoiser: Denoiser,
    operator: LinearOperator,
    x: Tensor,
    schedule: Schedule,
    noise_std: float = 0.0,
    strength: float = 1.0,
    least_noise: float = 1e-3,
) -> Denoiser:
    """A denoiser(z, t) that answers argmin ||A y - x||^2 + rho ||y - D||^2, rho = strength (noise_std alpha / sigma)^2.

    DiffPIR's data step (Zhu et al., arXiv 2305.08995): D is drawn to what x says, hard while there is much noise, where D
    knows little. With strength = 1 it is the mean of z_0 given x when z_0 is N(D, (sigma / alpha)^2 I). x (1 or B, ...) =
    A z_0 + noise_std n in state units; a noise_std below `least_noise` counts as that much, and 0 for both is the exact
    projection D + A^+ (x - A D). strength -> infinity leaves D alone. Any operator; no gradient. The published code puts
    noise in image units (at least 0.001) over sigma / alpha in state units: its lambda = 1 is strength = 1/4 here.
    """
    check_positive(strength, "strength")
    if not 0 <= least_noise < math.inf:
        raise ValueError(f"least_noise must not be negative, but {least_noise!r} came")

    def guided(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        _one_time(t)
        z_0 = denoiser(z, t) if cond is None else denoiser(z, t, cond)
        missing = x.to(z_0) - operator(z_0)
        rho = strength * (max(noise_std, least_noise) * schedule.alpha(t) / schedule.sigma(t)) ** 2
        return z_0 + (operator.damped_pinv(missing, rho) if rho > 0 else operator.pinv(missing))

    return guided


def guided_gaussian(
    scale: float, mean: float, variance: float, null_mean: float = 0.0, null_variance: float = 1.0
) -> tuple[float, float]:
    """(mean, variance) of what classifier-free guidance samples between two Gaussians, exactly.

    Conditional N(mean, variance) against N(null_mean, null_variance), along the probability flow from infinite noise to
    none, on any schedule. With r = sigma^2 / alpha^2 and y = z / alpha, guidance flows along
    dy/dr = (1 - scale) (y - null_mean) / (2 (null_variance + r)) + scale (y - mean) / (2 (variance + r)), a linear equation:

        variance:  variance^scale null_variance^(1 - scale)
        mean:      null_mean + share (mean - null_mean), q = variance / null_variance,
                   share = scale q^(scale/2) F(1/2, 1 + scale/2; 3/2; 1 - q), F Gauss's hypergeometric function

    For q = 1 the share is `scale`: the mean runs ahead of the condition. The law p_c^scale p_u^(1 - scale), for which
    guidance is often taken, has the variance 1 / (scale / variance + (1 - scale) / null_variance) and another mean.
    In several dimensions this holds along common axes of both covariances. Raises ValueError for a scale that is not
    finite and variances that are not positive.
    """
    from scipy.special import hyp2f1

    for value, argument in ((variance, "variance"), (null_variance, "null_variance")):
        if not 0 < value < math.inf:
            raise ValueError(f"{argument} must be a positive number, but {value!r} came")
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, but {scale!r} came")
    q = variance / null_variance
    share = scale * q ** (scale / 2) * float(hyp2f1(0.5, 1 + scale / 2, 1.5, 1 - q))
    return null_mean + share * (mean - null_mean), null_variance * q**scale
