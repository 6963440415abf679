"""The discrete ELBO, term by term: what ancestral sampling pays for its start, for every step and for the last one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_one_of, check_positive, check_same_shape
from ..denoisers import Denoiser
from ..noise import Noise
from ..samplers.ancestral import Fraction, check_fraction
from ..samplers.states import check_run
from ..schedules import Schedule, Time
from ..steps import broadcast, forward_std, forward_step, posterior_std
from .bits import bin_log_prob


class ElboTerms(NamedTuple):
    """-ELBO in three parts, in nats: `prior` (B,), `steps` (B, number of steps), noisiest first, `reconstruction` (B,).

    `total` (B,) is their sum; -log p(z_0) is at most its mean over the noise.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps.sum(1) + self.reconstruction


def _summed(terms: Tensor, like: Tensor) -> Tensor:
    return terms.flatten(1).sum(1).to(like.dtype)


def noised_and_guess(
    denoiser: Denoiser, schedule: Schedule, z_0: Tensor, t: Time, noise: Noise
) -> tuple[Tensor, Tensor]:
    """One draw of z_t given z_0, and the denoiser's answer there."""
    z = forward_step(z_0, schedule, 0.0, t, noise)
    guess = denoiser(z, t)
    check_same_shape(guess, z_0, ("the denoiser's output", "z_0"))
    return z, guess


def _normal_kl(difference: Tensor, variance: Tensor, model_variance: Tensor | float) -> Tensor:
    """KL(N(m, variance) || N(m + difference, model_variance)) of each number, in nats."""
    ratio = variance / model_variance
    return (difference**2 / model_variance + (ratio - 1 - ratio.log())) / 2


def prior_kl(schedule: Schedule, z_0: Tensor, t_max: Time = 1.0, prior_std: float | None = None) -> Tensor:
    """KL(q(z_t | z_0) || N(0, prior_std^2 I)) at t = t_max, (B,), closed form; prior_std=None means sigma(t_max).

    The cost of starting from noise that knows nothing of the data. It does not depend on the network.
    """
    wide = z_0.double()
    variance = broadcast(schedule.sigma(t_max) ** 2, wide)
    model_variance = variance if prior_std is None else check_positive(prior_std, "prior_std") ** 2
    return _summed(_normal_kl(broadcast(schedule.alpha(t_max), wide) * wide, variance, model_variance), z_0)


def _variance(variance: str | Fraction | Tensor, schedule: Schedule, z: Tensor, t: Time, s: Time) -> Tensor:
    """The variance of the model's step from z at t to s, in float64, broadcasting to z."""
    wide = z.double()
    if isinstance(variance, Tensor):
        return broadcast(_positive(variance), wide)
    tilde, beta = (
        broadcast(std(schedule, *ends) ** 2, wide) for std, ends in ((posterior_std, (t, s)), (forward_std, (s, t)))
    )
    if callable(variance):
        v = check_fraction(variance(z, t, s), z)
        return beta**v * tilde ** (1 - v)
    return tilde if check_one_of(variance, ("posterior", "beta"), "variance") == "posterior" else beta


def _positive(variance: Tensor) -> Tensor:
    if not (variance > 0).all():
        raise ValueError(f"variance must hold positive numbers, but the least is {variance.min():.6g}")
    return variance.double()


def _check_variance(variance: str | Fraction | Tensor, steps: int) -> None:
    if isinstance(variance, Tensor):
        if variance.shape != (steps,):
            raise ValueError(
                f"variance must hold one number a step, ({steps},), but its shape is {tuple(variance.shape)}"
            )
    elif not callable(variance):
        check_one_of(variance, ("posterior", "beta"), "variance")


def _from_z_0(schedule: Schedule, t: Time, s: Time) -> Tensor:
    """The coefficient of z_0 in the mean of z_s given z_t and z_0, alpha_s (1 - (alpha_t sigma_s / alpha_s sigma_t)^2)."""
    left = schedule.alpha(t) * schedule.sigma(s) / (schedule.alpha(s) * schedule.sigma(t))
    return schedule.alpha(s) * (1 - left**2)


def step_kl(
    denoiser: Denoiser,
    schedule: Schedule,
    z_0: Tensor,
    t: Time,
    s: Time,
    noise: Noise,
    variance: str | Fraction | Tensor = "posterior",
) -> Tensor:
    """KL(q(z_s | z_t, z_0) || p(z_s | z_t)) for one draw of z_t, (B,): the ELBO's price of the step from t to s > 0.

    q has the mean of `steps.ddim_step` with eta = 1 and variance beta-tilde; p puts the denoiser's answer for z_0 and
    has the variance of `samplers.ddpm`: "posterior" (beta-tilde), "beta", a function variance(z, t, s) -> v in [0, 1],
    or the variance itself, a tensor () or (B,). With "posterior" this is (SNR_s - SNR_t) |z_0 - denoiser|^2 / 2 (Kingma
    et al. 2021, arXiv 2107.00630). `t` and `s` are numbers or one per sample; gradients reach the network and the
    fraction. Raises ValueError unless 0 < s < t.
    """
    if not (schedule.sigma(s) > 0).all():
        raise ValueError(f"s must be a time with noise (sigma > 0), but s = {s} came; the step to 0 is reconstruction")
    z, guess = noised_and_guess(denoiser, schedule, z_0, t, noise)
    error = broadcast(_from_z_0(schedule, t, s), z_0.double()) * (guess.double() - z_0)
    tilde = broadcast(posterior_std(schedule, t, s) ** 2, z_0.double())
    return _summed(_normal_kl(error, tilde, _variance(variance, schedule, z, t, s)), z_0)


def reconstruction_loss(
    denoiser: Denoiser,
    schedule: Schedule,
    z_0: Tensor,
    t: Time,
    noise: Noise,
    variance: Tensor | float | None = None,
    levels: int | None = None,
) -> Tensor:
    """-log p(z_0 | z_t) for one draw of z_t, (B,), the ELBO's last step, from t to 0, under N(denoiser, variance I).

    variance=None means "beta" of this step, sigma(t)^2: beta-tilde is 0 here, and a density needs a width.
    levels=None: a density, for continuous data; on discrete data it falls without bound as t -> 0. levels=k: the
    probability of k-level data, `bin_log_prob`.
    """
    _, guess = noised_and_guess(denoiser, schedule, z_0, t, noise)
    variance = (
        forward_std(schedule, 0.0, t) ** 2
        if variance is None
        else _positive(torch.as_tensor(variance, dtype=torch.float64))
    )
    variance = broadcast(variance, z_0.double())
    if levels is not None:
        return -bin_log_prob(z_0, guess, variance.sqrt(), levels)
    return _summed(((z_0.double() - guess) ** 2 / variance + variance.log() + math.log(2 * math.pi)) / 2, z_0)


def elbo_terms(
    denoiser: Denoiser,
    schedule: Schedule,
    z_0: Tensor,
    times: Tensor,
    noise: Noise,
    variance: str | Fraction | Tensor = "posterior",
    levels: int | None = None,
    prior_std: float | None = None,
    index: Tensor | None = None,
) -> ElboTerms:
    """The discrete ELBO of ancestral sampling along `times` (n + 1 of them, the last 0), one draw of every z_t.

    -log p(z_0) <= E[prior_kl + sum of the n - 1 `step_kl` + `reconstruction_loss`] (Ho et al. 2020, arXiv 2006.11239,
    eq. 5). n calls. `variance` as in `samplers.ddpm`, with "beta" at the last step; or a tensor (n,), one variance a
    step, the decoder's last, such as `optimal_variances`. `levels` and `prior_std` as in the parts. With `index` (B,)
    of whole numbers below n - 1, sample i pays for step index[i] only, times n - 1: steps is (B, 1), an unbiased
    estimate when the index is uniform, with 2 calls; without that factor it would be no ELBO. Raises ValueError for
    times that do not end at 0, an unknown variance, and data that are not on the k levels.
    """
    times = check_run(z_0, times)
    if times[-1] != 0:
        raise ValueError(f"times must end at 0, where the data are, but they end at {times[-1]:g}")
    count = len(times) - 1
    _check_variance(variance, count)
    start = prior_kl(schedule, z_0, times[0], prior_std)
    given = isinstance(variance, Tensor)
    if index is None:
        chosen, factor = range(count - 1), 1
    else:
        chosen, factor = [_check_index(index, len(z_0), count - 1)], count - 1
    steps = [
        factor * step_kl(denoiser, schedule, z_0, times[i], times[i + 1], noise, variance[i] if given else variance)
        for i in chosen
    ]
    last = reconstruction_loss(denoiser, schedule, z_0, times[-2], noise, variance[-1] if given else None, levels)
    return ElboTerms(start, torch.stack(steps, 1) if steps else z_0.new_zeros(len(z_0), 0), last)


def _check_index(index: Tensor, batch: int, steps: int) -> Tensor:
    whole = isinstance(index, Tensor) and index.dtype == torch.int64 and index.shape == (batch,)
    if not whole or not ((index >= 0) & (index < steps)).all():
        raise ValueError(
            f"index must hold a whole number below {steps} for each of the {batch} samples, but {index!r:.80} came"
        )
    return index.cpu()


def optimal_variances(denoiser: Denoiser, schedule: Schedule, z_0: Tensor, times: Tensor, noise: Noise) -> Tensor:
    """The variance (n,) of each step that makes the ELBO largest, float64: beta-tilde + c^2 E|z_0 - denoiser|^2 / D.

    c is the coefficient of z_0 in the posterior's mean; the last entry, where c = 1 and beta-tilde = 0, is the
    decoder's. The mean is over the batch z_0, one draw of noise a step. For an exact denoiser this is Analytic-DPM
    (Bao et al. 2022, arXiv 2201.06503), which writes the error as (sigma^2 / alpha^2) (1 - E|eps|^2 / D).
    """
    times = check_run(z_0, times)
    found = []
    for t, s in zip(times[:-1], times[1:], strict=True):
        _, guess = noised_and_guess(denoiser, schedule, z_0, t, noise)
        error = (guess.double() - z_0).square().mean()
        tilde = posterior_std(schedule, t, s) ** 2
        found.append(tilde + _from_z_0(schedule, t, s) ** 2 * error)
    return torch.stack(found)
