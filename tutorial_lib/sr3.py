"""SR3: training on continuous noise levels (Saharia et al., arXiv 2104.07636), and what its successors added.

Its sampler is `samplers.ddpm(with_condition(denoiser, cond), schedule, z, times, variance="beta")` on a schedule
`from_betas(PAPER_BETAS)`; nothing in it is new. What SR3 brought is how the network is trained (`noise_levels`), that the
grid may therefore be chosen afterwards (`candidate_times`, `search_times`), and cascades (`augment`). `conditional_law` and
`conditional_denoiser` are the exact answers for jointly Gaussian pairs of LR and HR images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from .checks import check_whole
from .denoisers import Denoiser
from .noise import Noise
from .operators import LinearOperator
from .oracles import SINGULAR, Gaussian
from .schedules import LOWEST_LOG_SNR, Schedule, Time, karras_times, log_snr_times
from .steps import broadcast

# The paper's 2000 levels, with the betas of its best-known public port: the paper's text does not print them.
PAPER_BETAS = torch.linspace(1e-6, 1e-2, 2000, dtype=torch.float64)


def noise_levels(gammas: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw (count,) noise levels gamma = alpha^2 as SR3 trains on: an interval of the ladder, then a level within it.

    `gammas` (N + 1,) decreases from gammas[0] = 1 (no noise). The interval [gammas[t], gammas[t - 1]] is uniform over
    t = 1 .. N, and gamma is uniform between its ends, so the network sees every level and not only N of them: that is why
    it can later be sampled on another schedule. Published ports draw sqrt(gamma) uniformly instead, and often one t for
    the whole batch (which leaves the mean of the loss as it is and makes it noisier). Raises ValueError for a ladder that
    does not decrease from 1 to at least 0. Saharia et al., arXiv 2104.07636, section 2.4; Chen et al., arXiv 2009.00713.
    """
    check_whole(count, "count")
    if gammas.ndim != 1 or len(gammas) < 2 or not gammas.is_floating_point():
        raise ValueError(
            f"gammas must hold at least two numbers (N + 1,), but the shape {tuple(gammas.shape)} in {gammas.dtype} came"
        )
    if not (abs(gammas[0] - 1) < 1e-6 and gammas[-1] >= 0 and (gammas.diff() < 0).all()):
        raise ValueError(
            "gammas must decrease from gammas[0] = 1 (no noise) to at least 0,"
            f" but they go from {gammas[0]:.6g} to {gammas[-1]:.6g} with a largest step of {gammas.diff().max():.3g}"
        )
    t = torch.randint(1, len(gammas), (count,), generator=generator)
    share = torch.rand(count, generator=generator, dtype=gammas.dtype)
    return gammas[t] + share * (gammas[t - 1] - gammas[t])


def augment(cond: Tensor, gamma: float | Tensor, noise: Noise) -> Tensor:
    """Conditioning augmentation: sqrt(gamma) cond + sqrt(1 - gamma) noise, shaped like `cond` (B, ...), in state units.

    `gamma` is one number or one per sample, from 1 (as it is) to 0 (nothing left). The second stage of a cascade is
    trained on true LR images spoilt like this and is told gamma; fed with the output of the first stage, spoilt to the
    same gamma, it sees less of that stage's mistakes. The best gamma is searched after training. The HR state has its own
    noise and its own level: this one goes onto the condition. Plain SR3 never adds noise to the condition.
    Raises ValueError for gamma outside [0, 1]. Ho et al., arXiv 2106.15282; Sahak et al. (SR3+), arXiv 2302.07864.
    """
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    if not ((gamma >= 0) & (gamma <= 1)).all():
        raise ValueError(f"gamma must lie between 0 and 1, but it runs from {gamma.min():.6g} to {gamma.max():.6g}")
    drawn = broadcast((1 - gamma).sqrt(), cond) * noise(cond)
    return (broadcast(gamma.sqrt(), cond) * cond + drawn).to(cond.dtype)


def with_condition(denoiser: Denoiser, cond: Tensor) -> Denoiser:
    """denoiser(z, t) with the condition filled in, as samplers want it. One condition (1, ...) serves any batch.

    Raises ValueError, when called, for another number of states than conditions.
    """

    def filled(z: Tensor, t: Time, _: None = None) -> Tensor:
        if len(cond) not in (1, len(z)):
            raise ValueError(f"cond must hold 1 condition or one per sample, but {len(cond)} came for {len(z)} samples")
        return denoiser(z, t, cond.expand(len(z), *cond.shape[1:]))

    return filled


def conditional_law(
    prior: Gaussian, operator: LinearOperator | Tensor, noise_std: float
) -> tuple[Tensor, Tensor, Tensor]:
    """p(y | x) = N(gain x + offset, covariance) for a Gaussian HR image y and its LR image x = A y + noise_std n.

    Gain (D, M), offset (D,), covariance (D, D), float64: gain = S A^T (A S A^T + noise_std^2 I)^-1 (a pseudo-inverse where
    nothing else exists), covariance = S - gain A S. Its mean is what regression learns, and the same covariance belongs to
    every x. `prior.posterior` gives the same law for one x; this one is a function of x, so laws can be chained: when x
    itself is N(m, C), y is N(gain m + offset, gain C gain^T + covariance). `operator` is a LinearOperator or a matrix
    (M, D). Raises ValueError for an operator that does not fit and for a negative noise_std.
    """
    matrix = operator if isinstance(operator, Tensor) else operator.dense(prior.shape)
    matrix = matrix.double()
    if matrix.ndim != 2 or matrix.shape[1] != prior.size:
        raise ValueError(f"operator must act on {prior.size} numbers, but its matrix has shape {tuple(matrix.shape)}")
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std must be a number that is not negative, but {noise_std!r} came")
    covariance, mean = prior.covariance.double(), prior.mean.double().reshape(-1)
    noise = noise_std**2 * torch.eye(len(matrix), dtype=torch.float64)
    cross = covariance @ matrix.T
    gain = cross @ torch.linalg.pinv(matrix @ cross + noise, hermitian=True, rtol=1e-10)
    rest = torch.eye(prior.size, dtype=torch.float64) - gain @ matrix
    left = rest @ covariance @ rest.T + gain @ noise @ gain.T  # Joseph's form: never negative but for rounding
    values, vectors = torch.linalg.eigh(left)
    values = torch.where(values > SINGULAR * covariance.diagonal().max(), values, 0.0)
    return gain, mean - gain @ (matrix @ mean), vectors * values @ vectors.T


def conditional_denoiser(
    prior: Gaussian, operator: LinearOperator | Tensor, noise_std: float, schedule: Schedule
) -> Denoiser:
    """The exact denoiser(z, t, cond) = E[y | z_t = z, x = cond] of a jointly Gaussian pair, affine in z and in cond.

    With m(x) the mean of `conditional_law`, it is m(x) + E[y - m(x) | z_t - alpha m(x)], the last under a Gaussian around 0.
    z is (B, ...) like the prior's states, cond (1 or B, ...) with M numbers each. What a perfectly trained SR3 network
    answers, told the level of the state and shown x without noise. Raises ValueError when cond is missing.
    """
    gain, offset, covariance = conditional_law(prior, operator, noise_std)
    around_zero = Gaussian(torch.zeros(prior.shape, dtype=torch.float64), covariance, prior.shape)

    def denoiser(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        if cond is None:
            raise ValueError("cond must be the LR image of every sample, but None came; see with_condition")
        mean = (cond.flatten(1).double() @ gain.T + offset).reshape(-1, *prior.shape)
        alpha, state = schedule.alpha(t), z.double()
        rest = around_zero.denoise(state - broadcast(alpha, state) * mean, alpha, schedule.sigma(t))
        return (mean + rest).to(z.dtype)

    return denoiser


def _last_log_gamma(schedule: Schedule) -> float:
    """log gamma at t = 1, gamma = alpha^2 / (alpha^2 + sigma^2), at least that of LOWEST_LOG_SNR."""
    return -math.log1p(math.exp(-schedule.log_snr(1.0).clamp(min=LOWEST_LOG_SNR).item()))


def linear_beta_times(schedule: Schedule, n: int, first: float) -> Tensor:
    """The times on `schedule` that a chain of n betas, evenly spaced from `first`, would visit; (n + 1,), from 1 to 0.

    The last beta is the one that ends at the level of `schedule` at t = 1 (or at LOWEST_LOG_SNR where that is pure noise).
    Inference schedules are often published as such a pair of a first and a last beta; a network that was told levels serves
    all of them. Raises ValueError when n betas of `first` are already more noise than that.
    """
    check_whole(n, "n", 2)
    if not 0 < first < 1:
        raise ValueError(f"first must be a beta between 0 and 1, but {first!r} came")
    end = _last_log_gamma(schedule)

    def log_gammas(last: float) -> Tensor:
        return torch.log1p(-torch.linspace(first, last, n, dtype=torch.float64)).cumsum(0)

    if log_gammas(first)[-1] <= end:
        raise ValueError(f"first must leave room for {n} growing betas, but {first!r} is too large for this schedule")
    low, high = first, 1 - 1e-15
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if log_gammas(middle)[-1] > end else (low, middle)
    log_gamma = log_gammas(low)
    times = schedule.time_at(log_gamma - torch.log(-torch.expm1(log_gamma))).flip(0)
    times[0] = 1.0
    return torch.cat([times, times.new_zeros(1)])


def candidate_times(schedule: Schedule, n: int) -> dict[str, Tensor]:
    """Grids of n steps from t = 1 to 0 to choose among, each under a name: a few families with one number of shape each.

    Powers of an even grid in t (power 1 reads every (N/n)-th level of a trained ladder), even in log-SNR down to three
    last levels, chains of n linear betas with four first betas (`linear_beta_times`, the family of PAPER_BETAS), and Karras's with
    three rho. Grids that do not exist on this schedule, or equal an earlier one, are left out.
    """
    check_whole(n, "n")
    even = torch.linspace(1, 0, n + 1, dtype=torch.float64)
    found = {("t" if power == 1 else f"t to the power {power:g}"): even**power for power in (1, 1.5, 2, 3)}
    for t_min in (1e-2, 1e-3, 1e-4):
        found[f"log-SNR down to t = {t_min:g}"] = log_snr_times(schedule, n, t_min=t_min)
    for first in (1e-6, 1e-4, 1e-3, 1e-2):
        if n > 1 and n * math.log1p(-first) > _last_log_gamma(schedule):
            found[f"linear betas from {first:g}"] = linear_beta_times(schedule, n, first)
    for rho in (3.0, 5.0, 7.0):
        found[f"Karras, rho = {rho:g}"] = karras_times(schedule, n, rho)
    kept: dict[str, Tensor] = {}
    for name, times in found.items():
        if (times.diff() < 0).all() and not any(torch.equal(times, other) for other in kept.values()):
            kept[name] = times
    return kept


def search_times(score: Callable[[Tensor], float], candidates: Mapping[str, Tensor]) -> list[tuple[float, str]]:
    """(score, name) of every candidate grid, the least score first; a score that is not a number comes last.

    `score(times)` samples with that grid and says how far the result is from the data: on a Gaussian pair the exact
    distance, on photos `sliced_wasserstein` or FID, but not PSNR, which prefers smooth pictures. Score on held-out images
    with fixed seeds, and quote the winner's score from other images: the least of many noisy scores is too good to be true.
    SR3 chose its schedule of at most 100 steps by such a search and FID; nothing is trained again. Raises ValueError for
    no candidates.
    """
    if not candidates:
        raise ValueError("candidates must hold at least one grid of times, but none came")
    scored = [(float(score(times)), name) for name, times in candidates.items()]
    return sorted(((math.inf if math.isnan(value) else value), name) for value, name in scored)
