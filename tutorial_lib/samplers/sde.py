"""Sampling by running the forward stochastic differential equation backwards: Euler-Maruyama, predictor-corrector, and
steps that choose their own length."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import check_positive, check_whole
from ..denoisers import Denoiser, from_z_0
from ..noise import Noise, standard_normal
from ..schedules import Schedule, Time
from ..steps import add_scaled, broadcast, langevin_step
from .states import DEFAULT_SEED, State, Step, check_run, check_signal, walk


def _euler(z: Tensor, z_0: Tensor, drawn: Tensor, schedule: Schedule, t: Tensor, length: Tensor) -> Tensor:
    """Euler and Maruyama's step from time t to t - length, with the coefficients of z and z_0 gathered in float64."""
    drift, diffusion = schedule.drift(t), schedule.diffusion(t)
    pull = length * (diffusion / schedule.sigma(t)) ** 2  # of sigma^2 score = alpha z_0 - z
    mean = add_scaled(broadcast(1 - length * drift - pull, z) * z, pull * schedule.alpha(t), z_0)
    return add_scaled(mean, diffusion * length.sqrt(), drawn)


def _euler_maruyama(schedule: Schedule, noise: Noise) -> Step:
    """The step of `reverse_sde`."""

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if not schedule.sigma(s) > 0:
            return broadcast(schedule.alpha(s), z_0) * z_0
        return _euler(z, z_0, noise(z), schedule, t, t - s)

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


SHORTEST = 1e-9  # a step that wants to be shorter than this has met something that no step length can follow


def adaptive_sde(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    rtol: float = 0.01,
    atol: float = 2 / 256,
    first_step: float = 0.01,
    t_min: float = 1e-3,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """The reverse SDE with steps that choose their own length, sample by sample ("Gotta go fast", Jolicoeur-Martineau
    et al. 2021, arXiv 2105.14080).

    From z at t, Euler and Maruyama's step of length h gives z'; a second step, again from z, with drift and diffusion of
    z' at t - h and the same noise, and the mean of both, z'', is better by about the error of z'. With tolerance delta =
    max(atol, rtol max(|z'|, |z'| of the last accepted step)) and E the root mean square of (z' - z'') / delta, z'' is
    accepted when E <= 1; the next length is 0.9 h E^-0.9. atol is in state units: one grey level of images in [-1, 1].

    `times` says where to start and to end, and at which times between to yield a State; no time is stepped over, but
    each sample takes as many steps as it needs. Two calls per attempt of the slowest sample, all samples at their own
    times (B,). When times end at sigma = 0, the SDE is run to t_min (or the time before, if that is smaller) and one
    more call returns alpha_s z_0. The State of a noisy last time has the estimate of the step that led to it.

    A sample never depends on its batch mates when it has a noise stream of its own. As in the paper, a refused step is
    tried again with new noise, and steps grow without limit after a lucky small E. Both prefer some noise to other: for
    images it does not show (with 64 numbers a state or more, mean and variance are right to about 2 %), but in few
    dimensions the law comes out wrong, by 60 % and more of the variance in one, and a tighter tolerance does not help. Use
    `ddpm` or `reverse_sde` there. noise=None means standard_normal(DEFAULT_SEED). Raises ValueError where alpha is 0
    (f and g are infinite), for a tolerance or length that is not positive, for times that do not decrease within
    [0, 1] and when the denoiser returns NaN or infinite values; RuntimeError when the tolerance cannot be kept.
    """
    times = check_run(z, times)
    check_signal(schedule, times, "adaptive_sde")
    for name, value in (("rtol", rtol), ("atol", atol), ("first_step", first_step), ("t_min", t_min)):
        check_positive(value, name)
    noise = noise or standard_normal(DEFAULT_SEED)
    return _adapt(denoiser, schedule, z, times, rtol, atol, first_step, t_min, noise, progress)


def _adapt(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    rtol: float,
    atol: float,
    first_step: float,
    t_min: float,
    noise: Noise,
    progress: bool,
) -> Iterator[State]:
    clean = not schedule.sigma(times[-1]) > 0
    goals = times[:-1] if clean else times
    if clean and goals[-1] > t_min:
        goals = torch.cat([goals, torch.tensor([t_min], dtype=torch.float64)])
    t, length = goals[0].repeat(len(z)), torch.full((len(z),), first_step, dtype=torch.float64)
    reached = torch.zeros(len(z), dtype=torch.long)  # the index among the goals where each sample is or has been last
    previous, told, at_goal, kept = z, 0, reached == 0, {}
    with tqdm(total=len(times) - 1, disable=not progress, unit="time") as bar:
        while True:
            done = reached == len(goals) - 1
            if not (done.all() and not clean):
                z_0 = denoiser(z, t)
            for k in reached[at_goal].unique().tolist():
                arrived = _column(at_goal & (reached == k), z)
                kept[k] = [
                    torch.where(arrived, new, old) for new, old in zip((z, z_0), kept.get(k, (z, z_0)), strict=True)
                ]
            while told in kept and (reached >= told).all() and goals[told] in times:
                yield State(kept[told][0], goals[told], kept.pop(told)[1])
                bar.update(told > 0)
                told += 1
            if done.all():
                break
            goal = goals[(reached + 1).clamp(max=len(goals) - 1)]
            arrives = length >= t - goal
            h = torch.where(done, 0.0, torch.where(arrives, t - goal, length))
            drawn = noise(z)
            plain = _euler(z, z_0, drawn, schedule, t, h)
            better = (z + _euler(plain, denoiser(plain, t - h), drawn, schedule, t - h, h)) / 2
            error = _scaled_error(plain, better, previous, rtol, atol)
            if not error.isfinite().all():
                raise ValueError("denoiser must return finite values, but adaptive_sde met NaN or infinite ones")
            accepted = (error <= 1) & ~done
            z, previous = (torch.where(_column(accepted, z), new, old) for new, old in ((better, z), (plain, previous)))
            at_goal = accepted & arrives
            t = torch.where(at_goal, goal, torch.where(accepted, t - h, t))
            reached = reached + at_goal
            length = torch.where(done, length, 0.9 * h * error.clamp(min=1e-12) ** -0.9)
            if (length < SHORTEST).any():
                raise RuntimeError(f"adaptive_sde cannot keep rtol = {rtol} and atol = {atol}; loosen them")
        if clean:
            yield State(broadcast(schedule.alpha(times[-1]), z_0) * z_0, times[-1], z_0)
            bar.update(1)


def _column(flags: Tensor, z: Tensor) -> Tensor:
    return flags.to(z.device).view(-1, *[1] * (z.ndim - 1))


def _scaled_error(plain: Tensor, better: Tensor, previous: Tensor, rtol: float, atol: float) -> Tensor:
    """The root mean square, sample by sample, of (z' - z'') / delta: (B,) in float64, without gradients."""
    tolerance = (rtol * torch.maximum(plain.abs(), previous.abs())).clamp(min=atol)
    scaled = ((plain - better) / tolerance).detach().double()
    return scaled.flatten(1).square().mean(1).sqrt().cpu()
