"""Zero shot by decomposition: with A = U diag(s) V^T the measurement is one number for each coordinate of V^T z_0.

    V^T z_0 = c_0,   x-bar = U^T x / s = c_0 + (noise_std / s) n

A coordinate that A sees (s > 0) has a measurement with noise of its own, noise_std / s; the null space has none. SNIPS runs
Langevin dynamics coordinate by coordinate, DDRM and DDNM+ one step of diffusion. For them the noise of the measurement
becomes part of the noise that the state at s must have: given z_0, and over the measurement's noise, V^T z_s has mean
alpha_s c_0 and standard deviation sigma_s in every coordinate, whenever the denoiser is right about z_0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from ..checks import check_positive, check_whole
from ..denoisers import Denoiser, from_z_0
from ..linear_operator import SVD, LinearOperator
from ..noise import Noise
from ..samplers.states import State, check_signal, walk
from ..schedules import Schedule, log_snr_times
from ..steps import posterior_std
from .problem import PURE_NOISE, Problem, check_share, pose, resampling_path, spectrum, travel


def _fresh_share(schedule: Schedule, t: Tensor, s: Tensor, eta: float, eta_total: float | None) -> Tensor:
    """The share of sigma_s that is drawn anew: eta_total, or eta times the posterior's standard deviation over sigma_s."""
    if eta_total is not None:
        return torch.as_tensor(eta_total, dtype=torch.float64)
    sigma = schedule.sigma(s)
    return eta * posterior_std(schedule, t, s) / sigma if sigma > 0 else torch.zeros_like(sigma)


def _mixed(z: Tensor, z_0: Tensor, eps: Tensor, white: Tensor, schedule: Schedule, s: Tensor, share: Tensor) -> Tensor:
    """alpha_s z_0 + sigma_s (sqrt(1 - share^2) eps + share white)."""
    alpha, sigma = schedule.alpha(s).to(z), schedule.sigma(s)
    return alpha * z_0 + (sigma * (1 - share**2).sqrt()).to(z) * eps + (sigma * share).to(z) * white


def _spectral_step(
    svd: SVD,
    problem: Problem,
    schedule: Schedule,
    t: Tensor,
    s: Tensor,
    z: Tensor,
    z_0: Tensor,
    share: Tensor,
    eta_b: float,
) -> Tensor:
    """DDRM's three cases in state units; see `ddrm`."""
    white = problem.noise(z) if schedule.sigma(s) > 0 else torch.zeros_like(z)
    unseen = _mixed(z, z_0, from_z_0(z_0, "eps", z, t, schedule), white, schedule, s, share)
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    seen, level = svd.ut(problem.x) / svd.singular_values, problem.noise_std / svd.singular_values
    guess, drawn = svd.vt(z_0), svd.vt(white)
    clear = sigma >= alpha * level
    direct = alpha * ((1 - eta_b) * guess + eta_b * seen)
    direct = direct + (sigma**2 - (eta_b * alpha * level) ** 2).clamp(min=0).sqrt() * drawn
    towards = (seen - guess) / torch.where(clear, 1.0, level)  # only used where level > 0
    weighed = alpha * guess + sigma * ((1 - share**2).sqrt() * towards + share * drawn)
    return unseen + svd.v(torch.where(clear, direct, weighed) - svd.vt(unseen))


def ddrm(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    eta_total: float = 0.85,
    eta_b: float = 1.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """DDRM (Kawar et al., arXiv 2201.11793, eq. 7 and 8), written for any schedule. With f = eta_total, c_0 = V^T z_0 and
    eps = (z - alpha_t z_0) / sigma_t, coordinate i of the next state is

        alpha_s c_0 + sigma_s (sqrt(1 - f^2) V^T eps + f n)                                   where s_i = 0
        alpha_s c_0 + sigma_s (sqrt(1 - f^2) (x-bar - c_0) / level + f n)                     where sigma_s < alpha_s level
        alpha_s ((1 - eta_b) c_0 + eta_b x-bar) + sqrt(sigma_s^2 - (eta_b alpha_s level)^2) n  elsewhere, level = noise_std / s_i

    f is the fraction of the **whole** sigma_s that is fresh, not DDIM's eta. The start follows the same rule at times[0],
    unless z is handed in. Equality falls into the last case, so that without noise and with eta_b = 1 the sample explains x
    exactly; the paper's code uses strict inequalities and returns the denoiser's answer at the end. It is not a sampler of
    the posterior: with noise in x it gets worse with more steps. Needs the operator's SVD. All in state units. n
    calls (default 20).
    """
    check_share(eta_total, "eta_total")
    check_share(eta_b, "eta_b")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 20)
    svd, share = spectrum(operator, problem.z, "ddrm"), torch.as_tensor(eta_total, dtype=torch.float64)
    if z is None:
        problem = problem._replace(z=_measured_start(svd, problem, schedule))

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return _spectral_step(svd, problem, schedule, t, s, z, z_0, share, eta_b)

    return walk(denoiser, problem.z, problem.times, step, progress)


def _measured_start(svd: SVD, problem: Problem, schedule: Schedule) -> Tensor:
    """alpha x-bar in the noise, where the measurement is less noisy than the state; the start's own noise elsewhere."""
    alpha, sigma = schedule.alpha(problem.times[0]), schedule.sigma(problem.times[0])
    room = sigma**2 - (alpha * problem.noise_std / svd.singular_values) ** 2
    c = svd.vt(problem.z)
    known = alpha * svd.ut(problem.x) / svd.singular_values + room.clamp(min=0).sqrt() * c / sigma
    return problem.z + svd.v(torch.where(room >= 0, known - c, 0))


def ddnm(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    eta: float = 1.0,
    eta_total: float | None = None,
    travel_length: int = 1,
    travel_repeat: int = 1,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """DDNM (Wang et al., arXiv 2212.00490): z_0 <- A^+ x + (I - A^+ A) z_0, then a DDIM step along the raw denoiser's eps.

        z_s = alpha_s (z_0 - A^+ (A z_0 - x)) + sqrt(sigma_s^2 - v^2) eps + v n

    v = eta times the posterior's standard deviation as in `samplers.ddim`; eta = 1 (here the default) converges to the exact
    posterior of a Gaussian as steps shrink, when there is no noise in x. eta_total = 0.85, the code's rule, is v = eta_total
    sigma_s instead and stays off. Any operator; in the end A z = x.

    noise_std > 0 is DDNM+: coordinate by coordinate what `ddrm` does with eta_b = 1, and the same fraction v / sigma_s; it
    needs the operator's SVD. The code's shortcut without an SVD confuses alpha with alpha^2 and injects far too little noise.
    travel_repeat > 1 walks every stretch of `travel_length` steps that often (`resampling_path`), going back by adding noise
    as in the paper's algorithm 4; its code noises the uncorrected z_0 instead. All in state units. Calls: n (default
    100), more with time travel.
    """
    check_share(eta, "eta")
    if eta_total is not None:
        check_share(eta_total, "eta_total")
    check_whole(travel_length, "travel_length")
    check_whole(travel_repeat, "travel_repeat")
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 100)
    svd = spectrum(operator, problem.z, "ddnm with noise_std > 0") if problem.noise_std else None

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        share = _fresh_share(schedule, t, s, eta, eta_total)
        if svd is not None:
            return _spectral_step(svd, problem, schedule, t, s, z, z_0, share, 1.0)
        eps = from_z_0(z_0, "eps", z, t, schedule)
        white = problem.noise(z) if schedule.sigma(s) > 0 and share > 0 else torch.zeros_like(z)
        corrected = z_0 + operator.pinv(problem.x - operator(z_0))
        return _mixed(z, corrected, eps, white, schedule, s, share)

    path = resampling_path(len(problem.times) - 1, travel_length, travel_repeat)
    return travel(denoiser, schedule, problem, path, step, progress)


def snips(
    denoiser: Denoiser,
    schedule: Schedule,
    operator: LinearOperator,
    measurement: Tensor,
    noise_std: float = 0.0,
    times: Tensor | None = None,
    z: Tensor | None = None,
    *,
    steps: int = 5,
    step_size: float = 0.066,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """SNIPS (Kawar et al., arXiv 2105.14951): annealed Langevin dynamics coordinate by coordinate, `steps` a noise level.

    In y = z / alpha at level l = sigma / alpha, with c = V^T y, c_0 = V^T z_0 and a = step_size every step is

        c + (a/2) (r x-bar + (1 - r) c_0 - c) + sqrt(a w) n,    r = min(1, (l s_i / noise_std)^2)
        w = l^2 - (noise_std / s_i)^2 where r = 1, l^2 (1 - r) where r < 1; r = 0 and w = l^2 in the null space

    which is the paper's: above the measurement's noise its gradient alone, x-bar being less noisy than the state; below,
    the prior's score and the measurement's gradient together; step sizes w. step_size is twice its c / sigma_L^2 in the
    convention z + a/2 score + sqrt(a) n; the code's celeba file has 3.3e-6 / 0.01^2 and 5 steps on 500 levels (0.066 here).
    Each level settles too wide by 1 / (1 - a/4) in variance. Its code ignores x when A has full rank (a slice [-0:]).

    The last time, 0, is reached by the denoiser (one more call) and, without noise, by x where A sees. States as in
    `annealed_langevin`. Needs the SVD. All in state units. Calls: `steps` a level, + 1 (default 100 levels).
    """
    check_whole(steps, "steps")
    if not check_positive(step_size, "step_size") < 2:
        raise ValueError(f"step_size must be below 2, beyond which a step overshoots, but {step_size!r} came")
    if times is None:
        times = log_snr_times(schedule, 100, 1.0 if schedule.alpha(1.0) > 0 else PURE_NOISE)
    problem = pose(schedule, operator, measurement, noise_std, times, z, noise, 100)
    check_signal(schedule, problem.times, "snips")
    svd = spectrum(operator, problem.z, "snips")
    return _coordinates(denoiser, schedule, svd, problem, steps, step_size, progress)


def _coordinates(
    denoiser: Denoiser, schedule: Schedule, svd: SVD, problem: Problem, steps: int, step_size: float, progress: bool
) -> Iterator[State]:
    seen, measured = svd.ut(problem.x) / svd.singular_values, (problem.noise_std / svd.singular_values) ** 2
    y, before = problem.z / schedule.alpha(problem.times[0]), problem.times[0]
    z_0 = None
    for t in tqdm(problem.times, disable=not progress, unit="level"):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if sigma > 0:
            level = (sigma / alpha) ** 2
            heard = level / torch.maximum(measured, level.to(measured))  # r
            spread = torch.where(measured <= level, level - measured, level * (1 - heard))  # w
            for _ in range(steps):
                first, z_0 = z_0 is None, denoiser(alpha * y, t)
                if first:
                    yield State(alpha * y, t, z_0)
                white = problem.noise(y)
                moved = y + step_size / 2 * (z_0 - y) + (step_size * level).sqrt() * white
                c, guess = svd.vt(y), svd.vt(z_0)
                kept = c + step_size / 2 * (heard * seen + (1 - heard) * guess - c)
                kept = kept + (step_size * spread).sqrt() * svd.vt(white)
                y = moved + svd.v(kept - svd.vt(moved))
            before = t
        else:
            z_0 = denoiser(schedule.alpha(before) * y, before)
            y = z_0 if problem.noise_std else z_0 + svd.v(seen - svd.vt(z_0))
        yield State(alpha * y, t, z_0)
