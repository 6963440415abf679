"""Something else than noise: walks that start at the LR image, and corruptions that are not Gaussian.

Each method is a generator of `State` like those of `samplers`: a denoiser(z, t), a grid of decreasing times, noise handed
in. `denoiser` estimates E[z_0 | z_t] for the method's own law of z_t, its training law. z_1 is the LR image enlarged to the
size of z_0, in the units of the states.

The laws of the bridges are schedules, read as z_t = alpha z_0 + (1 - alpha) z_1 + sigma eps, and `draw_state` draws from
them: `indi_path`, `i2sb_path`, `resshift_path`, `ir_sde_path`. With z_1 and z_0 the same it gives the walk's start,
draw_state(path, z_1, z_1, times[0], noise), since z_0 has no weight there (ResShift leaves 2 %, IR-SDE 1 %; both ignore it).

A network that is told z_1 loses nothing when it is shown z_t - (1 - alpha) z_1 instead, which is plain diffusion of z_0 on
that schedule. So a told bridge needs no other denoiser than diffusion does; what is its own is the start and the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .checks import check_positive, check_same_shape, check_whole
from .denoisers import Denoiser, from_z_0
from .latents import mean_reverting
from .noise import Noise, standard_normal
from .operators import LinearOperator
from .samplers import State, ddpm, reverse_sde
from .samplers.states import DEFAULT_SEED, check_run, walk
from .schedules import Schedule, Time
from .steps import bridge_step, broadcast, ddim_step, forward_step

Corruption = Callable[[Tensor, Time], Tensor]  # (z_0, t) -> the corrupted state; at t = 0 it is z_0
Clock = Callable[[Time], Tensor]  # t -> what `steps.bridge_step` calls the clock: rises from 0 at t = 0


def _float64(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def _not_negative(value: float, argument: str) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{argument} must not be negative, but {value!r} came")
    return value


# ------------------------------------------------------------------------------------------------- drawing from the laws


def draw_state(path: Schedule, z_0: Tensor, z_1: Tensor, t: Time, noise: Noise | None = None) -> Tensor:
    """z_t = alpha z_0 + (1 - alpha) z_1 + sigma eps: what a bridge's denoiser is trained on. t: a number or (B,).

    noise may be None where sigma(t) = 0. Raises ValueError for shapes that differ.
    """
    check_same_shape(z_0, z_1, ("z_0", "z_1"))
    return forward_step(z_0, path, 0.0, t, noise) + broadcast(1 - path.alpha(t), z_1) * z_1


def indi_path(epsilon: float = 0.0) -> Schedule:
    """InDI's law (arXiv 2303.11435): z_t = (1 - t) z_0 + t z_1 + epsilon sqrt(t) eps; epsilon in state units.

    The paper writes the noise t epsilon_t eps; this is its choice epsilon_t = epsilon / sqrt(t), Brownian motion. Its other
    choice, a constant epsilon_t, is epsilon = 0 with noise added to z_1 once, in training and at the start.
    """
    _not_negative(epsilon, "epsilon")
    return Schedule(lambda t: 1 - t, lambda t: epsilon * t.sqrt())


def symmetric_clock(beta_max: float = 0.3, beta_min: float = 0.1) -> Clock:
    """I2SB's accumulated variance: the integral of beta, whose root rises evenly to t = 1/2 and falls again.

    sqrt(beta(t)) = sqrt(beta_min) + (sqrt(beta_max) - sqrt(beta_min)) min(t, 1 - t): beta_max, named as in I2SB's code, is
    where the ramp would end at t = 1; only its first half is used, and mirrored. The code sums a table of 1000 values in
    which each beta counts before and after its own time, so its two variances do not add up to the total.
    """
    low = math.sqrt(check_positive(beta_min, "beta_min"))
    slope = math.sqrt(check_positive(beta_max, "beta_max")) - low

    def until(t: Tensor) -> Tensor:  # the integral from 0 to t <= 1/2
        return t * (low**2 + low * slope * t + slope**2 * t**2 / 3)

    half = until(torch.tensor(0.5, dtype=torch.float64))

    def clock(t: Time) -> Tensor:
        """The variance accumulated from 0 to t, float64."""
        t = _float64(t)
        return torch.where(t <= 0.5, until(t), 2 * half - until(1 - t))

    return clock


def i2sb_path(clock: Clock, ot_ode: bool = False) -> Schedule:
    """I2SB's law (arXiv 2302.05872, eq. 11): a Brownian bridge pinned at z_0 and at z_1.

    With v the clock, T = v(1) and w = T - v: z_t = (w z_0 + v z_1) / T + sqrt(v w / T) eps; ot_ode=True leaves the noise out.
    At t = 1 alpha and sigma are both 0: the state is z_1 and log_snr has no value, so a `NetworkDenoiser` starts a little
    earlier, at t_max < 1.
    """
    total = clock(1.0)

    def std(t: Tensor) -> Tensor:
        return (clock(t) * (total - clock(t)).clamp(min=0) / total).sqrt()

    return Schedule(lambda t: (total - clock(t)) / total, torch.zeros_like if ot_ode else std)


def resshift_clock(
    steps: int = 15, kappa: float = 2.0, power: float = 0.3, first: float | None = None, last: float = 0.99
) -> Clock:
    """ResShift's eta(t) (arXiv 2307.12348) for a grid of `steps` even steps, torch.linspace(1, 0, steps + 1).

    Geometric in **sqrt(eta)**: at the knots t = i / T, i = 1 ... T, sqrt(eta) = first (last / first)^(((i - 1) / (T - 1))^power),
    so that eta(1) = last^2 = 0.98 and not 1 (one step has this knot only); between them, and down to 0, sqrt(eta) is linear in
    t. first=None is the paper's min(0.04 / kappa, 0.04); the journal version takes 4 steps and first = 0.2.
    """
    check_whole(steps, "steps", 1)
    first = min(0.04 / check_positive(kappa, "kappa"), 0.04) if first is None else first
    if not 0 < first < last <= 1:
        raise ValueError(f"first and last must obey 0 < first < last <= 1, but {first!r} and {last!r} came")
    shares = torch.linspace(1, 0, steps, dtype=torch.float64).flip(0) ** check_positive(power, "power")  # one step: 1
    roots = torch.cat([torch.zeros(1, dtype=torch.float64), first * (last / first) ** shares])

    def clock(t: Time) -> Tensor:
        """eta at time t, float64."""
        place = _float64(t) * steps
        left = place.floor().clamp(0, steps - 1).long()
        return (roots[left] + (place - left) * (roots[left + 1] - roots[left])) ** 2

    return clock


def resshift_path(clock: Clock, kappa: float = 2.0) -> Schedule:
    """ResShift's law (arXiv 2307.12348, eq. 2): z_t = z_0 + eta (z_1 - z_0) + kappa sqrt(eta) eps.

    A Brownian bridge from z_0 to an LR end that is itself noisy, z_1 + kappa eps.
    """
    check_positive(kappa, "kappa")
    return Schedule(lambda t: 1 - clock(t), lambda t: kappa * clock(t).sqrt())


def resshift_input(z: Tensor, eta: Tensor, kappa: float = 2.0, pixel: bool = False) -> Tensor:
    """The state as ResShift shows it to its network: z / sqrt(1 + kappa^2 eta), of unit variance when z_0 and z_1 have.

    pixel=True is its rule for images in [-1, 1]: z / (1 + 3 kappa sqrt(eta)), which keeps three standard deviations of the
    noise inside. eta is the clock at the state's time, a number or (B,).
    """
    check_positive(kappa, "kappa")
    eta = _float64(eta)
    return z / broadcast(1 + 3 * kappa * eta.sqrt() if pixel else (1 + kappa**2 * eta).sqrt(), z)


def ir_sde_path(spread: float, delta: float = 0.01) -> Schedule:
    """IR-SDE's law (arXiv 2301.11699): `latents.mean_reverting` with its noise times lambda = spread, in state units.

    The code gives lambda in units of 1/255 of an image in [0, 1]; delta is how much of z_0 is left at t = 1.
    """
    check_positive(spread, "spread")
    unit = mean_reverting(delta)
    return Schedule(unit.alpha, lambda t: spread * unit.sigma(t))


# ------------------------------------------------------------------------------------------------------------ the bridges


def _bridge(
    denoiser: Denoiser,
    clock: Clock,
    z: Tensor,
    times: Tensor,
    kappa_squared: float,
    noise: Noise | None,
    progress: bool,
) -> Iterator[State]:
    """`steps.bridge_step` along the grid: InDI, I2SB and ResShift differ in the clock and in kappa_squared only."""
    times, noise = check_run(z, times), noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return bridge_step(z, z_0, clock(t), clock(s), kappa_squared, noise)

    return walk(denoiser, z, times, step, progress)


def indi(
    denoiser: Denoiser,
    z: Tensor,
    times: Tensor,
    epsilon: float = 0.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """InDI (Delbracio & Milanfar, arXiv 2303.11435): z_s = (s / t) z + (1 - s / t) z_0, a bridge whose clock is t.

    epsilon > 0 adds epsilon sqrt(s (t - s) / t) eps, the bridge's noise, for a denoiser trained on `indi_path(epsilon)`. One
    step returns the denoiser's answer, the mean of all plausible images; more steps follow dz/dt = (z - z_0) / t, which
    carries the law of z_1 to that of z_0, so one z_1 leads to one answer. A step divides by t and never starts at 0. n calls;
    noise=None means standard_normal(DEFAULT_SEED).
    """
    return _bridge(denoiser, _float64, z, times, _not_negative(epsilon, "epsilon") ** 2, noise, progress)


def i2sb(
    denoiser: Denoiser,
    clock: Clock,
    z: Tensor,
    times: Tensor,
    ot_ode: bool = False,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """I2SB (Liu et al., arXiv 2302.05872): the posterior of z_s between z_t and z_0, from z = z_1 without any noise.

    A bridge whose clock v is the accumulated variance, `symmetric_clock`: mean (v_s z + (v_t - v_s) z_0) / v_t, variance
    v_s (v_t - v_s) / v_t. ot_ode=True keeps the mean and drops the noise, in training as well (`i2sb_path`). The paper's
    network predicts (z_t - z_0) / sqrt(v_t): `to_z_0` of kind "eps" on a schedule with alpha = 1 and sigma = sqrt(v). Unless
    the denoiser is told z_1, the walk finds the law of all images; which image belongs to which z_1 it finds in part. n calls.
    """
    return _bridge(denoiser, clock, z, times, 0.0 if ot_ode else 1.0, noise, progress)


def resshift(
    denoiser: Denoiser,
    clock: Clock,
    z: Tensor,
    times: Tensor,
    kappa: float = 2.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """ResShift (Yue et al., arXiv 2307.12348): mean (eta_s z + (eta_t - eta_s) z_0) / eta_t, variance kappa^2 eta_s (eta_t -
    eta_s) / eta_t, from z = z_1 + kappa sqrt(eta(t_max)) eps.

    A bridge whose clock is eta itself, not its root, which is what `resshift_clock` spaces. On that clock's grid,
    torch.linspace(1, 0, 16), the paper's 15 calls. Told z_1 it is DDIM with 0 < eta < 1 on `resshift_path`. n calls;
    noise=None means standard_normal(DEFAULT_SEED).
    """
    return _bridge(denoiser, clock, z, times, check_positive(kappa, "kappa") ** 2, noise, progress)


def ir_sde(
    denoiser: Denoiser,
    z_1: Tensor,
    z: Tensor,
    times: Tensor,
    spread: float,
    delta: float = 0.01,
    posterior: bool = False,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """IR-SDE (Luo et al., arXiv 2301.11699): from z = z_1 + spread eps back along dz = theta (z_1 - z) dt + sigma dw.

    (z - z_1) / spread is variance-preserving diffusion on `latents.mean_reverting(delta)`, so the paper's reverse Euler steps
    are `samplers.reverse_sde` there (the reverse step *subtracts* the drift) and posterior=True, exact steps given z_0, is
    `samplers.ddpm`. A step to t = 0 returns the denoiser's answer. n calls; noise=None means standard_normal(DEFAULT_SEED).
    """
    check_same_shape(z_1, z, ("z_1", "z"))
    check_positive(spread, "spread")

    def inner(u: Tensor, t: Tensor) -> Tensor:
        return (denoiser(z_1 + spread * u, t) - z_1) / spread

    start, schedule = (z - z_1) / spread, mean_reverting(delta)
    if posterior:
        states = ddpm(inner, schedule, start, times, noise=noise, progress=progress)
    else:
        states = reverse_sde(inner, schedule, start, times, noise, progress)
    return (State(z_1 + spread * u, t, z_1 + spread * u_0) for u, t, u_0 in states)


# ----------------------------------------------------------------------------------------------------- other corruptions


def cold_diffusion(
    denoiser: Denoiser,
    corruption: Corruption | Schedule,
    z: Tensor,
    times: Tensor,
    algorithm: int = 2,
    progress: bool = False,
) -> Iterator[State]:
    """Cold diffusion (Bansal et al., arXiv 2208.09392): undo a corruption C that need not be random.

    Algorithm 1: z_s = C(z_0, s), and every error of z_0 enters. Algorithm 2: z_s = z - C(z_0, t) + C(z_0, s), in which an
    error enters by the change of C only; for C(z_0, t) = z_0 + t e not at all, and whatever the denoiser answers the walk
    ends at the true z_0. The step to t = 0 adds z - C(z_0, t) to the answer. Training: z_t = corruption(z_0, t), the paper
    with an L1 loss.

    A Schedule as `corruption` is C(z_0, t) = alpha z_0 + sigma eps with eps estimated from the state, (z - alpha z_0) / sigma:
    both algorithms are DDIM then. Nothing is drawn, so one start has one answer: diversity has to come with the start.
    Raises ValueError for another algorithm and for a corruption that changes the shape. n calls.
    """
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm must be 1 or 2, but {algorithm!r} came")
    times = check_run(z, times)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        corrupt = _estimated_noise(corruption, z, z_0, t) if isinstance(corruption, Schedule) else corruption
        there = corrupt(z_0, s)
        check_same_shape(there, z, ("corruption(z_0, s)", "z"))
        return there if algorithm == 1 else z - corrupt(z_0, t) + there

    return walk(denoiser, z, times, step, progress)


def _estimated_noise(schedule: Schedule, z: Tensor, z_0: Tensor, t: Tensor) -> Corruption:
    eps = from_z_0(z_0, "eps", z, t, schedule)
    return lambda z_0, t: forward_step(z_0, schedule, 0.0, t, lambda like: eps)


def soft_score(
    denoiser: Denoiser,
    schedule: Schedule,
    corruption: Corruption,
    z: Tensor,
    times: Tensor,
    eta: float = 1.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Soft diffusion (Daras et al., arXiv 2209.05442): z_t = alpha C_t z_0 + sigma eps, C_t linear; the paper has alpha = 1.

    The signal moves by what the corruption does to the estimate, alpha_s C_s z_0 - alpha_t C_t z_0 (the paper's momentum),
    and what is left, z - alpha_t C_t z_0, is noise that `steps.ddim_step` shrinks. C_t = I is `samplers.ddim` with this eta
    on every schedule. The score of z_t is (alpha C_t z_0 - z) / sigma^2 with z_0 = E[z_0 | z_t]. n calls; noise=None means
    standard_normal(DEFAULT_SEED).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, but {eta!r} came")
    times, noise = check_run(z, times), noise or standard_normal(DEFAULT_SEED)

    def signal(z_0: Tensor, t: Tensor) -> Tensor:
        return broadcast(schedule.alpha(t), z_0) * corruption(z_0, t)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        left = z - signal(z_0, t)
        return signal(z_0, s) + ddim_step(left, torch.zeros_like(left), schedule, t, s, eta, noise)

    return walk(denoiser, z, times, step, progress)


def draw_soft(schedule: Schedule, corruption: Corruption, z_0: Tensor, t: Time, noise: Noise) -> Tensor:
    """z_t = alpha C_t z_0 + sigma eps: what soft diffusion's denoiser is trained on; t is a number or (B,)."""
    return forward_step(corruption(z_0, t), schedule, 0.0, t, noise)


def soft_score_loss(answer: Tensor, z_0: Tensor, corruption: Corruption, t: Time) -> Tensor:
    """Mean over a state of (C_t answer - C_t z_0)^2, shape (B,): the error is measured *inside* C_t.

    Only C_t z_0 can be known from z_t, and only C_t E[z_0 | z_t] enters the score, so nothing is asked about what C_t has
    removed. |answer - z_0|^2 is another method: it asks for the mean of that, too. `t` is a number or (B,).
    """
    check_same_shape(answer, z_0, ("answer", "z_0"))
    return (corruption(answer, t) - corruption(z_0, t)).square().flatten(1).mean(1)


def fade_corruption(z_1: Tensor) -> Corruption:
    """C(z_0, t) = (1 - t) z_0 + t z_1: a cross-fade to any other state, linear in t as algorithm 2 likes it."""

    def corruption(z_0: Tensor, t: Time) -> Tensor:
        check_same_shape(z_0, z_1, ("z_0", "z_1"))
        return z_0 + broadcast(_float64(t), z_0) * (z_1 - z_0)

    return corruption


def operator_corruption(operator: LinearOperator) -> Corruption:
    """C(z_0, t) = z_0 - t (z_0 - A^+ A z_0): what A does not see fades out; pooling, resizing, masks, grey.

    At t = 1 it is A^+ x, x = A z_0 the measurement: the enlarged LR image that explains x.
    """

    def corruption(z_0: Tensor, t: Time) -> Tensor:
        return z_0 + broadcast(_float64(t), z_0) * (operator.pinv(operator(z_0)) - z_0)

    return corruption


def blur_corruption(std: float) -> Corruption:
    """C(z_0, t): a Gaussian blur of `std` t pixels; circular, the frequency f (cycles a pixel) times exp(-2 (pi f std t)^2).

    No frequency is lost for good, only pushed below rounding: a blur alone destroys nothing that noise would not have to.
    """
    check_positive(std, "std")

    def corruption(z_0: Tensor, t: Time) -> Tensor:
        rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device=z_0.device) for n in z_0.shape[-2:])
        squares = (rows[:, None] ** 2 + columns[: z_0.shape[-1] // 2 + 1] ** 2).to(z_0.dtype)
        exponent = broadcast(-2 * (math.pi * std * _float64(t)) ** 2, z_0).to(z_0)
        return torch.fft.irfft2(torch.fft.rfft2(z_0) * (exponent * squares).exp(), s=z_0.shape[-2:])

    return corruption


def staged_corruption(groups: Sequence[int], e: Tensor | float = 0.0) -> Corruption:
    """C(z_0, t): the channels of z_0 fade group by group, the last group first, and t e comes in.

    `groups` counts the channels of each group, coarse bands before fine ones in a `domains.Wavelet`. Of n groups the k-th,
    from 0, keeps the share n (1 - t) - k, held within [0, 1]; at t = 1 only e is left. e is an image of noise drawn once,
    for training as for a walk: without it all walks from t = 1 are the same.
    """
    if not groups:
        raise ValueError("groups must count the channels of at least one group, but it is empty")
    place = torch.cat([torch.full((check_whole(n, "groups"),), k) for k, n in enumerate(groups)]).view(-1, 1, 1)

    def corruption(z_0: Tensor, t: Time) -> Tensor:
        if z_0.shape[1] != len(place):
            raise ValueError(f"z_0 must have {len(place)} channels, the sum of groups, but {z_0.shape[1]} came")
        t = broadcast(_float64(t), z_0)
        left = (len(groups) * (1 - t) - place.to(z_0)).clamp(0, 1)
        return left * z_0 + t * e

    return corruption


def cold_denoiser(network: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Denoiser:
    """A network(z, level, cond) that answers with z_0, told the time: level = 2.5 - 5 t, the range `NetworkDenoiser` uses."""

    def denoiser(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        level = (2.5 - 5 * _float64(t)).to(z.device, torch.float32).expand(len(z))
        return network(z.float(), level, cond).to(z.dtype)

    return denoiser
