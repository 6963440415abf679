"""Noise schedules: how much signal, alpha(t), and noise, sigma(t), a state z_t = alpha(t) z_0 + sigma(t) eps holds.

Time t runs from 0 (data) to 1 (noise). Everything here is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_positive

Time = float | Tensor
EARLIEST = 1e-12  # derivatives at t = 0 are limits from inside, taken here
LOWEST_LOG_SNR = -10.2  # grids spaced by noise level treat everything noisier as pure noise (sigma/alpha = 164)


def _in_float64(function: Callable[[Tensor], Tensor], name: str) -> Callable[[Time], Tensor]:
    def call(t: Time) -> Tensor:
        """The schedule at time t (0 = data, 1 = noise), a number or a tensor: a float64 tensor of t's shape."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return torch.as_tensor(function(t), dtype=torch.float64, device=t.device).expand_as(t)

    call.__name__ = name
    return call


def _derivative(function: Callable[[Tensor], Tensor], t: Time) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        t = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        value = function(t)
        if not value.requires_grad:  # a constant function
            return torch.zeros_like(t)
        return torch.autograd.grad(value.sum(), t)[0]


@dataclass(frozen=True)
class Schedule:
    """Two functions of time, alpha(t) and sigma(t), and what follows from them.

    Both are written for float64 tensors; once in the schedule they also accept numbers. Every method returns a float64
    tensor of t's shape. The SDE dz = f z dt + g dw with these marginals has
    f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2 (Kingma et al. 2021, arXiv 2107.00630); both are
    differentiated from alpha and sigma, so they cannot disagree with them. Public code that types them a second time
    has had them wrong by a factor of two.
    """

    alpha: Callable[[Time], Tensor]
    sigma: Callable[[Time], Tensor]

    def __post_init__(self) -> None:
        for name in ("alpha", "sigma"):
            function = getattr(self, name)
            if not callable(function):
                raise TypeError(f"{name} must be a function of t, but a {type(function).__name__} came")
            object.__setattr__(self, name, _in_float64(function, name))

    def log_snr(self, t: Time) -> Tensor:
        """log(alpha^2 / sigma^2): +inf where there is no noise, -inf where there is no signal."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time_at(self, log_snr: Time) -> Tensor:
        """The time with this log_snr, by bisection, to about 1e-16; beyond the schedule's ends, that end (0 or 1)."""
        target = torch.as_tensor(log_snr, dtype=torch.float64)
        early, late = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(64):
            middle = (early + late) / 2
            too_clean = self.log_snr(middle) > target
            early, late = torch.where(too_clean, middle, early), torch.where(too_clean, late, middle)
        # The exact ends are returned as such, for a schedule may end in -inf or +inf.
        late = torch.where(target <= self.log_snr(torch.ones_like(target)), 1.0, late)
        return torch.where(target >= self.log_snr(torch.zeros_like(target)), 0.0, late)

    def slopes(self, t: Time) -> tuple[Tensor, Tensor]:
        """(d alpha/dt, d sigma/dt), per unit of time: finite also where alpha is 0; limits from inside at t = 0."""
        t = torch.as_tensor(t, dtype=torch.float64).clamp(min=EARLIEST)
        return _derivative(self.alpha, t), _derivative(self.sigma, t)

    def drift(self, t: Time) -> Tensor:
        """f(t) = d log alpha / dt, per unit of time; -inf where alpha is 0, the limit from inside at t = 0."""
        t = torch.as_tensor(t, dtype=torch.float64).clamp(min=EARLIEST)
        return _derivative(self.alpha, t) / self.alpha(t)

    def diffusion(self, t: Time) -> Tensor:
        """g(t) = sqrt(d sigma^2/dt - 2 f sigma^2); +inf where alpha is 0, NaN where noise would have to be removed."""
        t = torch.as_tensor(t, dtype=torch.float64).clamp(min=EARLIEST)
        growth = _derivative(lambda t: self.sigma(t) ** 2, t)
        return (growth - 2 * self.drift(t) * self.sigma(t) ** 2).sqrt()


def _variance_preserving(log_alpha: Callable[[Tensor], Tensor]) -> Schedule:
    """alpha^2 + sigma^2 = 1 from log alpha <= 0; expm1 keeps every digit of a small sigma."""
    return Schedule(lambda t: log_alpha(t).exp(), lambda t: torch.expm1(2 * log_alpha(t)).abs().sqrt())


def _linear_log_alpha(beta_min: float, beta_max: float) -> Callable[[Tensor], Tensor]:
    check_positive(beta_min, "beta_min")
    check_positive(beta_max, "beta_max")
    return lambda t: -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2


def vp_linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """DDPM in continuous time: beta(t) = beta_min + t (beta_max - beta_min), log alpha = -1/2 integral of beta.

    alpha^2 + sigma^2 = 1, and g^2 = beta. Song et al. 2021, arXiv 2011.13456. DDPM's table of 1000 betas,
    `from_betas(torch.linspace(1e-4, 0.02, 1000))`, tends to this as its steps shrink but is not equal to it.
    """
    return _variance_preserving(_linear_log_alpha(beta_min, beta_max))


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The sub-VP SDE: alpha as in vp_linear, sigma = 1 - alpha^2 (a standard deviation; its square is the variance).

    Song et al. 2021, arXiv 2011.13456.
    """
    log_alpha = _linear_log_alpha(beta_min, beta_max)
    return Schedule(lambda t: log_alpha(t).exp(), lambda t: -torch.expm1(2 * log_alpha(t)))


def vp_cosine(offset: float = 0.008) -> Schedule:
    """alpha = cos(pi/2 (t + offset) / (1 + offset)), divided by its value at 0; alpha^2 + sigma^2 = 1.

    alpha(1) is exactly 0: the end is pure noise, so a network must not predict eps there. Nichol & Dhariwal 2021,
    arXiv 2102.09672, tabulate this with betas cut at 0.999, which leaves a trace of signal at the end; without that cut
    eps-prediction divides by zero.
    """
    check_positive(offset, "offset")
    end = math.pi / 2 / (1 + offset)  # cos(pi/2 (t + offset) / (1 + offset)) = sin((1 - t) end)

    def sigma(t: Tensor) -> Tensor:  # sin^2 a - sin^2 b = sin(a - b) sin(a + b) keeps every digit of a small sigma
        return ((t * end).sin() * ((2 - t) * end).sin()).sqrt() / math.sin(end)

    return Schedule(lambda t: ((1 - t) * end).sin() / math.sin(end), sigma)


def shifted_cosine(spread: float) -> Schedule:
    """The cosine schedule of a residual of standard deviation `spread`, as a schedule of the whole image.

    log_snr(t) = that of `vp_cosine` - 2 log(spread). An image whose LR version is known differs from it by a small residual
    only, which drowns at noise levels at which the image itself could still be seen clearly: this is where the steps of a
    conditional model and its training should go. Hoogeboom et al., arXiv 2301.11093, shift in the same way for image
    size. alpha(1) = 0: predict eps from t < 1 only.
    """
    check_positive(spread, "spread")
    cosine = vp_cosine()

    def size(t: Tensor) -> Tensor:
        return (cosine.alpha(t) ** 2 + (spread * cosine.sigma(t)) ** 2).sqrt()

    return Schedule(lambda t: cosine.alpha(t) / size(t), lambda t: spread * cosine.sigma(t) / size(t))


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t for t > 0, and sigma(0) = 0.

    Song et al. 2021, arXiv 2011.13456, appendix C, with the same jump from 0 to sigma_min just above t = 0. Public code
    has sigma(0) = sigma_min; here t = 0 always means data.
    """
    check_positive(sigma_min, "sigma_min")
    check_positive(sigma_max, "sigma_max")
    ratio = sigma_max / sigma_min
    return Schedule(torch.ones_like, lambda t: torch.where(t > 0, sigma_min * ratio**t, 0.0))


def edm(sigma_max: float = 80.0) -> Schedule:
    """alpha = 1, sigma = sigma_max t. Karras et al. 2022, arXiv 2206.00364, whose time is sigma itself, up to 80."""
    check_positive(sigma_max, "sigma_max")
    return Schedule(torch.ones_like, lambda t: sigma_max * t)


def flow() -> Schedule:
    """alpha = 1 - t, sigma = t: the straight path of flow matching (arXiv 2210.02747, which counts time backwards)."""
    return Schedule(lambda t: 1 - t, lambda t: t)


def from_betas(betas: Tensor | Sequence[float]) -> Schedule:
    """A discrete DDPM table of N betas: alpha(0) = 1, and at the knots t = (i + 1)/N alpha^2 = product of 1 - beta_j, j
    <= i.

    Between knots log alpha is linear in t (as in DPM-Solver, arXiv 2206.00927); alpha^2 + sigma^2 = 1. Index i of a
    network trained on the table is time (i + 1)/N, so index 0 still holds a little noise and t = 0 holds none.
    Raises ValueError unless all betas lie strictly between 0 and 1.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64)
    if betas.ndim != 1 or not len(betas):
        raise ValueError(f"betas must be a list of numbers, but its shape is {tuple(betas.shape)}")
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            f"betas must lie strictly between 0 and 1, but they run from {betas.min():.6g} to {betas.max():.6g};"
            " zero_terminal_snr(schedule) makes a schedule end in pure noise"
        )
    count = len(betas)
    table = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0) / 2])

    def log_alpha(t: Tensor) -> Tensor:
        knots = table.to(t.device)
        left = (t.detach() * count).floor().clamp(0, count - 1).long()
        return knots[left] + (t * count - left) * (knots[left + 1] - knots[left])

    return _variance_preserving(log_alpha)


def _check_variance_preserving(schedule: Schedule, purpose: str) -> None:
    probe = torch.linspace(0, 1, 11, dtype=torch.float64)
    total = schedule.alpha(probe) ** 2 + schedule.sigma(probe) ** 2
    if not torch.allclose(total, torch.ones_like(total), atol=1e-9):
        raise ValueError(f"schedule must be variance preserving (alpha^2 + sigma^2 = 1) {purpose}")


def respace(schedule: Schedule, times: Tensor | Sequence[float]) -> Tensor:
    """The betas (n,) of the short chain that visits n decreasing times and then 0: beta = 1 - (alpha_t / alpha_s)^2 from
    each time t to the next, s.

    Noisiest last, as `from_betas` reads them: `from_betas(respace(schedule, times))` has the schedule's alpha at its
    knots, so that beta-tilde and every other quantity of the short chain is right. Reading single betas out of the long
    table instead (arXiv 2102.09672 warns of it) makes every variance too small. `times` is a grid as `uniform_times`
    gives it; a missing final 0 is added. Where alpha is 0 the last beta is 1, which `from_betas` refuses. Raises
    ValueError unless the schedule is variance preserving and the times decrease within [0, 1].
    """
    _check_variance_preserving(schedule, "to have betas")
    times = torch.as_tensor(times, dtype=torch.float64)
    if times.ndim != 1 or not len(times) or not (times.diff() < 0).all() or not (0 < times[0] <= 1 and times[-1] >= 0):
        raise ValueError(f"times must be a list that decreases from at most 1 to at least 0, but {times.tolist()} came")
    times = times if times[-1] == 0 else _then_zero(times)
    alpha = schedule.alpha(times)
    return (1 - (alpha[:-1] / alpha[1:]) ** 2).flip(0)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and stretch alpha so that alpha(1) = 0 exactly: alpha' = (alpha - alpha(1)) / (1 - alpha(1)), sigma'^2 = 1
    - alpha'^2.

    Lin et al. 2024, arXiv 2305.08891. They keep the alpha of the first of N steps; here alpha(0) = 1 is kept, which
    differs by about 1e-6 for N = 1000. At t = 1 only "v" and "z_0" predictions make sense.
    Raises ValueError for a schedule without alpha^2 + sigma^2 = 1.
    """
    _check_variance_preserving(schedule, "to be given a zero terminal SNR")
    last = schedule.alpha(1.0)

    def alpha(t: Tensor) -> Tensor:
        return (schedule.alpha(t) - last.to(t.device)) / (1 - last.to(t.device))

    def sigma(t: Tensor) -> Tensor:  # 1 - alpha'^2 = (1 - alpha')(1 + alpha'), and 1 - alpha = sigma^2 / (1 + alpha)
        missing = schedule.sigma(t) ** 2 / (1 + schedule.alpha(t)) / (1 - last.to(t.device))
        return (missing * (1 + alpha(t))).sqrt()

    return Schedule(alpha, sigma)


def _check_count(n: int) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a whole number of steps, at least 1, but {n!r} came")


def _check_range(t_max: float, t_min: float) -> None:
    if not 0 < t_min < t_max <= 1:
        raise ValueError(f"times must obey 0 < t_min < t_max <= 1, but t_min = {t_min!r} and t_max = {t_max!r} came")


def _then_zero(times: Tensor) -> Tensor:
    return torch.cat([times, times.new_zeros(1)])


def uniform_times(n: int, t_max: float = 1.0, t_min: float = 1e-3) -> Tensor:
    """n times evenly spaced from t_max to t_min, then 0: a float64 tensor (n + 1,), so n steps."""
    _check_count(n)
    _check_range(t_max, t_min)
    return _then_zero(torch.linspace(t_max, t_min, n, dtype=torch.float64))


def log_snr_times(schedule: Schedule, n: int, t_max: float = 1.0, t_min: float = 1e-3) -> Tensor:
    """n times evenly spaced in log_snr from t_max to t_min, then 0 (DPM-Solver's grid, arXiv 2206.00927).

    Where the schedule ends in pure noise (log_snr below LOWEST_LOG_SNR) the first time is still t_max and the others
    are spaced as if it had LOWEST_LOG_SNR.
    """
    _check_count(n)
    _check_range(t_max, t_min)
    first = schedule.log_snr(t_max).clamp(min=LOWEST_LOG_SNR).item()
    times = schedule.time_at(torch.linspace(first, schedule.log_snr(t_min).item(), n, dtype=torch.float64))
    times[0] = t_max
    return _then_zero(times)


def karras_times(schedule: Schedule, n: int, rho: float = 7.0, sigma_min: float = 0.002, t_max: float = 1.0) -> Tensor:
    """n times evenly spaced in (sigma/alpha)^(1/rho) from t_max down to sigma/alpha = sigma_min, then 0.

    On `edm()` this is the grid of Karras et al. 2022, arXiv 2206.00364, eq. 5 (rho = 7, 0.002 to 80). On another
    schedule the same noise-to-signal ratios are looked up in time; where it starts above sigma_min (as `ve` does) or
    ends in pure noise, the spacing uses the schedule's own least ratio or LOWEST_LOG_SNR, and the first time stays
    t_max.
    """
    _check_count(n)
    check_positive(rho, "rho")
    check_positive(sigma_min, "sigma_min")
    earliest = 1e-6
    _check_range(t_max, earliest)
    high = schedule.log_snr(t_max).clamp(min=LOWEST_LOG_SNR).div(-2).exp().item()
    low = max(sigma_min, schedule.log_snr(earliest).div(-2).exp().item())
    if low >= high:
        raise ValueError(f"sigma_min must be below sigma/alpha at t_max, which is {high:.6g}, but {sigma_min!r} came")
    ratios = torch.linspace(high ** (1 / rho), low ** (1 / rho), n, dtype=torch.float64) ** rho
    times = schedule.time_at(-2 * ratios.log()).clamp(min=earliest)
    times[0] = t_max
    return _then_zero(times)


def trailing_times(n: int, total: int = 1000) -> Tensor:
    """n of the knots k/total of `from_betas`, evenly spaced and counted from the end t = 1, then 0.

    Lin et al. 2024, arXiv 2305.08891. "Leading" grids, still the default in much public code, never visit t = 1, so
    they start from a state noisier than the network believes. Any n up to `total` works, also one that does not divide
    it.
    """
    _check_count(n)
    _check_count(total)
    if n > total:
        raise ValueError(f"n must be at most total = {total}, but {n} came")
    steps = torch.arange(n, dtype=torch.float64)
    return _then_zero((total - steps * (total / n)).round() / total)
