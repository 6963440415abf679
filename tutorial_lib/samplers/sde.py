"""Sampling by running the forward stochastic differential equation backwards: Euler-Maruyama, predictor-corrector."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import check_positive, check_whole
from ..denoisers import Denoiser, from_z_0
from ..noise import Noise, standard_normal
from ..schedules import Schedule, Time
from ..steps import add_scaled, broadcast, langevin_step
from .states import DEFAULT_SEED, State, Step, check_run, check_signal, walk


def _euler_maruyama(schedule: Schedule, noise: Noise) -> Step:
    """The step of `reverse_sde`, with the coefficients of z and z_0 gathered in float64."""

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha, sigma, length = schedule.alpha(t), schedule.sigma(t), t - s
        if not schedule.sigma(s) > 0:
            return broadcast(schedule.alpha(s), z_0) * z_0
        drift, diffusion = schedule.drift(t), schedule.diffusion(t)
        pull = length * (diffusion / sigma) ** 2  # z + pull sigma^2 score - length f z, score = (alpha z_0 - z)/sigma^2
        mean = add_scaled(broadcast(1 - length * drift - pull, z) * z, pull * alpha, z_0)
        return add_scaled(mean, diffusion * length.sqrt(), noise(mean))

    return step


def reverse_sde(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Euler-Maruyama on the reverse SDE dz = (f z - g^2 score) dt + g dw, run from t down to s (Anderson 1982; Song et
    al. 2021, arXiv 2011.13456): z_s = z + (f z - g^2 score)(s - t) + g sqrt(t - s) noise.

    f and g are the schedule's drift and diffusion at t, derived from alpha and sigma; score = (alpha z_0 - z) / sigma^2.
    The error of the law shrinks like 1/n; at equal n `ddpm`, which solves the part with z_0 fixed exactly, is usually
    closer. A step to sigma(s) = 0 returns alpha_s z_0: no noise at the last step. n calls for n steps. noise=None means
    standard_normal(DEFAULT_SEED). Raises ValueError for times that do not decrease within [0, 1] and for a start where
    alpha is 0, since f and g are infinite there.
    """
    times = check_run(z, times)
    check_signal(schedule, times, "reverse_sde")
    return walk(denoiser, z, times, _euler_maruyama(schedule, noise or standard_normal(DEFAULT_SEED)), progress)


def corrector_step_size(score: Tensor, drawn: Tensor, snr: float, sigma: Time) -> Tensor:
    """The step size a (B,) of `langevin_step` at which the drift is snr times as long as the noise: ||(a/2) score|| =
    snr ||sqrt(a) noise||, so a = 4 (snr ||noise|| / ||score||)^2, but at most sigma^2.

    Song et al. 2021 (arXiv 2011.13456, algorithms 4 and 5) write z + e score + sqrt(2 e) noise with e = 2 (snr ||noise||
    / ||score||)^2: the same, for a = 2 e. Norms are per sample; the authors' code averages them over the batch, which
    lets batch mates change a sample. The bound is ours: where the score vanishes, at a mode, a would be infinite, which
    in one or two dimensions throws samples far away, while a <= sigma^2 never overshoots on a Gaussian law. Even so the
    rule wants many dimensions, where the norms hardly vary: in few, a depends on the state and on the draw, and the law
    settles too wide.
    """
    lengths = drawn.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
    return torch.minimum((2 * snr * lengths.double()) ** 2, torch.as_tensor(sigma).to(lengths.device) ** 2)


def predictor_corrector(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    corrector_steps: int = 1,
    snr: float = 0.16,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Predictor-corrector sampling (Song et al. 2021, arXiv 2011.13456): from t to s the step of `reverse_sde`, then
    `corrector_steps` Langevin steps on the law of time s with the step size `corrector_step_size`.

    The paper's extra factor alpha_i = 1 - beta_i of the VP corrector is 1 in continuous time and left out. There is no
    corrector after a step to sigma(s) = 0. Calls for n steps: n + (n - 1) corrector_steps when times end at 0, else
    n (1 + corrector_steps). noise=None means standard_normal(DEFAULT_SEED). Raises ValueError as `reverse_sde` does,
    for corrector_steps < 0 and for an snr that is not positive.
    """
    times = check_run(z, times)
    check_signal(schedule, times, "predictor_corrector")
    check_whole(corrector_steps, "corrector_steps", low=0)
    check_positive(snr, "snr")
    noise = noise or standard_normal(DEFAULT_SEED)
    predict = _euler_maruyama(schedule, noise)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        z = predict(z, z_0, t, s)
        for _ in range(corrector_steps if schedule.sigma(s) > 0 else 0):
            score = from_z_0(denoiser(z, s), "score", z, s, schedule)
            drawn = noise(z)
            size = corrector_step_size(score, drawn, snr, schedule.sigma(s))
            z = langevin_step(z, score, size, lambda like, drawn=drawn: drawn)
        return z

    return walk(denoiser, z, times, step, progress)
