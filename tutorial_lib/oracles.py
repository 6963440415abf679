"""Priors of which everything is known, and measures that compare a sampler with the truth.

A prior is a law of z_0. Noised, z_t = alpha z_0 + sigma eps; `alpha` and `sigma` are numbers, 0-d tensors or (B,)
tensors. Flat states are (B, D); with shape=(C, H, W), D = C H W, states are (B, C, H, W), flattened in that order.
Computed in float64, answered in the dtype of z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .checks import check_positive
from .denoisers import Denoiser
from .noise import Noise, standard_normal
from .operators import LinearOperator
from .schedules import Schedule, Time

DEFAULT_SEED = 7_002  # of noise=None; not 0, so that data never repeat the noise drawn from standard_normal(0)
SINGULAR = 1e-12  # eigenvalues below this fraction of the largest are zero


def _column(value: Time, z: Tensor) -> Tensor:
    """A number or one per sample as a float64 (1, 1) or (B, 1) beside flat states."""
    value = torch.as_tensor(value, dtype=torch.float64, device=z.device)
    if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, len(z))):
        raise ValueError(
            f"alpha and sigma must be one number or one per sample, but the shape {tuple(value.shape)} came"
        )
    return value.reshape(-1, 1)


def _choose(weights: Tensor, normal: Tensor) -> Tensor:
    """Indices drawn with probabilities `weights` from standard normal numbers, through their distribution function."""
    cumulative = weights.cumsum(0)
    uniform = torch.special.ndtr(normal.double()) * cumulative[-1]
    return torch.searchsorted(cumulative, uniform, right=True).clamp(max=len(weights) - 1)


def _states(z: Tensor, size: int, shape: tuple[int, ...]) -> Tensor:
    """The states z as float64 (B, D)."""
    if z.shape[1:] != shape:
        raise ValueError(f"z must have shape (B, {', '.join(map(str, shape))}), but its shape is {tuple(z.shape)}")
    return z.reshape(len(z), size).double()


class GaussianMixture:
    """z_0 ~ sum_k weights[k] N(means[k], covariances[k]); weights (K,), means (K, D), covariances (K, D, D).

    Noised, each part stays Gaussian: N(alpha m_k, alpha^2 S_k + sigma^2 I). Covariances may be singular, as they are
    after a noise-free measurement; densities then exist only for sigma > 0. `mean` (shaped like one state) and
    `covariance` (D, D) are those of the whole mixture. Weights are normalised. Raises ValueError for shapes that do not
    fit, weights that are negative, and covariances that are not symmetric and positive semi-definite.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, shape: tuple[int, ...] | None = None
    ) -> None:
        means = torch.as_tensor(means)
        self.dtype = means.dtype if means.is_floating_point() else torch.get_default_dtype()
        self.weights, self.means, self.covariances = (
            torch.as_tensor(part).detach().double() for part in (weights, means, covariances)
        )
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1]:
            came = f"{tuple(self.weights.shape)} and {tuple(means.shape)}"
            raise ValueError(f"weights must have shape (K,) and means (K, D), but the shapes {came} came")
        count, self.size = self.means.shape
        if self.covariances.shape != (count, self.size, self.size):
            expected = (count, self.size, self.size)
            raise ValueError(
                f"covariances must have shape {expected}, but their shape is {tuple(self.covariances.shape)}"
            )
        self.shape = (self.size,) if shape is None else tuple(shape)
        if math.prod(self.shape) != self.size:
            raise ValueError(f"shape must hold D = {self.size} numbers, but {self.shape} came")
        if not (self.weights >= 0).all() or not self.weights.sum() > 0:
            raise ValueError(f"weights must not be negative, nor all zero, but {self.weights.tolist()} came")
        scale = self.covariances.abs().amax((1, 2), keepdim=True)
        if not ((self.covariances - self.covariances.mT).abs() <= 1e-5 * scale).all():
            raise ValueError("covariances must be symmetric")
        self.weights = self.weights / self.weights.sum()
        eigenvalues, self._vectors = torch.linalg.eigh((self.covariances + self.covariances.mT) / 2)
        if not (eigenvalues >= -1e-5 * scale[..., 0]).all():
            raise ValueError("covariances must be positive semi-definite, but one has a negative eigenvalue")
        self._eigenvalues = torch.where(eigenvalues > SINGULAR * scale[..., 0], eigenvalues, 0.0)
        mean = self.weights @ self.means
        spread = self.means - mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        self.mean = mean.reshape(self.shape).to(self.dtype)
        self.covariance = (within + torch.einsum("k,ki,kj->ij", self.weights, spread, spread)).to(self.dtype)

    def _parts(self, z: Tensor, alpha: Time, sigma: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per sample and part: offset in the part's axes, variance there, log of weight times density. And alpha."""
        flat = _states(z, self.size, self.shape)
        alpha, sigma = _column(alpha, flat)[..., None], _column(sigma, flat)[..., None]
        means, vectors, eigenvalues = (part.to(z.device) for part in (self.means, self._vectors, self._eigenvalues))
        variances = alpha**2 * eigenvalues + sigma**2  # (B or 1, K, D)
        if not (variances > 0).all():
            raise ValueError("this law has no density at sigma = 0: its covariance is singular; ask with sigma > 0")
        offsets = torch.einsum("bkd,kde->bke", flat[:, None] - alpha * means, vectors)
        log_density = -0.5 * (offsets**2 / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
        return offsets, variances, self.weights.to(z.device).log() + log_density, alpha

    def sample(self, n: int, noise: Noise | None = None) -> Tensor:
        """n draws (n, ...), in the dtype of the means. noise=None means standard_normal(DEFAULT_SEED)."""
        normal = (noise or standard_normal(DEFAULT_SEED))(torch.empty(n, self.size + 1, dtype=self.dtype)).double()
        part = _choose(self.weights, normal[:, 0])
        axes = self._vectors * self._eigenvalues.sqrt()[:, None]
        drawn = self.means[part] + torch.einsum("nde,ne->nd", axes[part], normal[:, 1:])
        return drawn.to(self.dtype).reshape(n, *self.shape)

    def log_prob(self, z: Tensor, alpha: Time = 1.0, sigma: Time = 0.0) -> Tensor:
        """log p(z_t = z), shape (B,), in nats."""
        return self._parts(z, alpha, sigma)[2].logsumexp(1).to(z.dtype)

    def denoise(self, z: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """E[z_0 | z_t = z] = sum_k p(k | z) (m_k + alpha S_k (alpha^2 S_k + sigma^2 I)^-1 (z - alpha m_k)), like z."""
        offsets, variances, log_weights, alpha = self._parts(z, alpha, sigma)
        gains = alpha * self._eigenvalues.to(z.device) / variances
        guesses = self.means.to(z.device) + torch.einsum("kde,bke->bkd", self._vectors.to(z.device), gains * offsets)
        return torch.einsum("bk,bkd->bd", log_weights.softmax(1), guesses).reshape(z.shape).to(z.dtype)

    def score(self, z: Tensor, alpha: Time = 1.0, sigma: Time = 0.0) -> Tensor:
        """grad_z log p(z_t = z), shaped like z; Tweedie's (alpha denoise - z) / sigma^2, but computed directly."""
        offsets, variances, log_weights, _ = self._parts(z, alpha, sigma)
        slopes = torch.einsum("kde,bke->bkd", self._vectors.to(z.device), -offsets / variances)
        return torch.einsum("bk,bkd->bd", log_weights.softmax(1), slopes).reshape(z.shape).to(z.dtype)

    def _condition(
        self, operator: LinearOperator | Tensor, x: Tensor, noise_std: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances of z_0 given A z_0 + noise_std n = x."""
        matrix = torch.as_tensor(operator) if isinstance(operator, Tensor) else operator.dense(self.shape)
        matrix = matrix.to(self.means)
        if matrix.ndim != 2 or matrix.shape[1] != self.size:
            raise ValueError(
                f"operator must act on {self.size} numbers, but its matrix has shape {tuple(matrix.shape)}"
            )
        if x.numel() != len(matrix):
            raise ValueError(f"measurement must be one of {len(matrix)} numbers, but its shape is {tuple(x.shape)}")
        if not 0 <= noise_std < math.inf:
            raise ValueError(f"noise_std must be a number that is not negative, but {noise_std!r} came")
        noise = noise_std**2 * torch.eye(len(matrix)).to(self.means)
        residuals = x.reshape(-1).to(self.means) - self.means @ matrix.T  # (K, M)
        cross = self.covariances @ matrix.T
        values, vectors = torch.linalg.eigh(matrix @ cross + noise)
        largest = values.amax(1, keepdim=True).clamp(min=1e-300)
        seen = values > 1e-10 * largest
        inverse = torch.where(seen, 1 / torch.where(seen, values, 1.0), 0.0)
        offsets = torch.einsum("kde,kd->ke", vectors, residuals)
        # Evidence N(x; A m_k, A S_k A^T + noise), on the subspace where it has a density. Beside a part that pins more
        # directions exactly and still explains x, a part that pins fewer has no weight.
        log_evidence = -0.5 * (
            offsets**2 * inverse + torch.where(seen, values, 1.0).log() + math.log(2 * math.pi) * seen
        )
        log_weights = self.weights.log() + log_evidence.sum(1)
        tolerance = 1e-5 * (1 + x.abs().max().item())
        log_weights[((offsets * ~seen).abs() > tolerance).any(1)] = -math.inf
        if not (log_weights > -math.inf).any():
            raise ValueError("measurement is impossible under this prior; a noise_std above 0 makes room for it")
        rank = seen.sum(1)
        log_weights[rank > rank[log_weights > -math.inf].min()] = -math.inf
        gain = torch.einsum("kij,kjl->kil", cross, vectors * inverse[:, None] @ vectors.mT)
        means = self.means + torch.einsum("kij,kj->ki", gain, residuals)
        rest = torch.eye(self.size).to(self.means) - gain @ matrix
        covariances = rest @ self.covariances @ rest.mT + gain @ noise @ gain.mT  # Joseph's form: never negative
        return log_weights.softmax(0), means.to(self.dtype), covariances

    def posterior(self, operator: LinearOperator | Tensor, measurement: Tensor, noise_std: float) -> GaussianMixture:
        """The law of z_0 given measurement = A z_0 + noise_std n, again a mixture; its weights are updated by the
        evidence.

        `operator` is a LinearOperator or a matrix (M, D); `measurement` one measurement of M numbers, (1, ...);
        `noise_std` in state units. noise_std = 0 is exact, with pseudo-inverses where A S A^T is singular.
        Raises ValueError for a noise-free measurement that the prior cannot produce.
        """
        return GaussianMixture(*self._condition(operator, measurement, noise_std), shape=self.shape)


class Gaussian(GaussianMixture):
    """z_0 ~ N(mean, covariance); mean (D,), or any shape with D numbers, and covariance (D, D). See GaussianMixture."""

    def __init__(self, mean: Tensor, covariance: Tensor, shape: tuple[int, ...] | None = None) -> None:
        mean, covariance = torch.as_tensor(mean), torch.as_tensor(covariance)
        shape = tuple(mean.shape) if shape is None and mean.ndim > 1 else shape
        super().__init__(torch.ones(1), mean.reshape(1, -1), covariance[None], shape)

    def posterior(self, operator: LinearOperator | Tensor, measurement: Tensor, noise_std: float) -> Gaussian:
        """The law of z_0 given measurement = A z_0 + noise_std n, again a Gaussian; see GaussianMixture.posterior."""
        _, means, covariances = self._condition(operator, measurement, noise_std)
        return Gaussian(means[0], covariances[0], self.shape)


class EmpiricalData:
    """z_0 is one of the N points (N, ...), each equally likely: what a network that learnt its training set by heart
    knows.

    Noised, p_t = (1/N) sum_i N(alpha y_i, sigma^2 I); densities exist only for sigma > 0. `mean` and `covariance`
    (divided by N) are those of the points. Also called the ideal or optimal denoiser of a finite data set.
    """

    def __init__(self, points: Tensor) -> None:
        if not isinstance(points, Tensor) or points.ndim < 2 or not points.is_floating_point() or 0 in points.shape:
            raise ValueError(f"points must be a floating-point tensor (N, ...), but {points!r:.80} came")
        self.points = points.detach()
        self.shape, self.size = tuple(points.shape[1:]), points[0].numel()
        self._flat = self.points.reshape(len(points), -1).double()
        self.mean = self._flat.mean(0).reshape(self.shape).to(points.dtype)

    @cached_property
    def covariance(self) -> Tensor:  # on demand: for images it is far larger than the points
        spread = self._flat - self._flat.mean(0)
        return (spread.T @ spread / len(self.points)).to(self.points.dtype)

    def _log_weights(self, z: Tensor, alpha: Time, sigma: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States (B, D), alpha, sigma (B or 1, 1), and -||z - alpha y_i||^2 / (2 sigma^2), shape (B, N)."""
        flat = _states(z, self.size, self.shape)
        alpha, sigma = _column(alpha, flat), _column(sigma, flat)
        if not (sigma > 0).all():
            raise ValueError("points have no density at sigma = 0; ask with sigma > 0")
        points = self._flat.to(z.device)
        squares = (flat**2).sum(1, keepdim=True) - 2 * alpha * flat @ points.T + alpha**2 * (points**2).sum(1)
        return flat, alpha, sigma, -squares.clamp(min=0) / (2 * sigma**2)

    def sample(self, n: int, noise: Noise | None = None) -> Tensor:
        """n of the points, drawn with replacement. noise=None means standard_normal(DEFAULT_SEED)."""
        normal = (noise or standard_normal(DEFAULT_SEED))(torch.empty(n, 1, dtype=torch.float64))
        return self.points[_choose(torch.ones(len(self.points), dtype=torch.float64), normal[:, 0])]

    def log_prob(self, z: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """log p(z_t = z), shape (B,), in nats."""
        _, _, sigma, log_weights = self._log_weights(z, alpha, sigma)
        normalising = self.size * (sigma[:, 0].log() + math.log(2 * math.pi) / 2) + math.log(len(self.points))
        return (log_weights.logsumexp(1) - normalising).to(z.dtype)

    def denoise(self, z: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """E[z_0 | z_t = z]: the points y_i averaged with weights softmax(-||z - alpha y_i||^2 / (2 sigma^2))."""
        log_weights = self._log_weights(z, alpha, sigma)[3]
        return (log_weights.softmax(1) @ self._flat.to(z.device)).reshape(z.shape).to(z.dtype)

    def score(self, z: Tensor, alpha: Time, sigma: Time) -> Tensor:
        """grad_z log p(z_t = z) = (alpha denoise - z) / sigma^2, shaped like z."""
        flat, alpha, sigma, log_weights = self._log_weights(z, alpha, sigma)
        guess = log_weights.softmax(1) @ self._flat.to(z.device)
        return ((alpha * guess - flat) / sigma**2).reshape(z.shape).to(z.dtype)


def denoiser_for(prior: GaussianMixture | EmpiricalData, schedule: Schedule) -> Denoiser:
    """The exact denoiser(z, t) = E[z_0 | z_t = z] of a prior on a schedule."""

    def denoiser(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        return prior.denoise(z, schedule.alpha(t), schedule.sigma(t))

    return denoiser


def pair_denoiser(pairs: Gaussian, path: Schedule) -> Denoiser:
    """The exact E[z_0 | z_t] where z_t = alpha z_0 + (1 - alpha) z_1 + sigma eps, as on the bridges of `corruption`.

    `pairs` is a law of the 2 D numbers (z_0, z_1): image and enlarged LR image; states are (B, D). With cond = z_1, (B, D), it
    is E[z_0 | z_t, z_1]. Both are affine, so `affine_law` gives the exact law of what the bridges make.
    """
    if pairs.size % 2 or pairs.shape != (pairs.size,):
        raise ValueError(f"pairs must be a law of (z_0, z_1), 2 D numbers in a row, but its shape is {pairs.shape}")
    mean_0, mean_1 = pairs.means[0].chunk(2)
    (own, cross), (_, other) = (row.chunk(2, 1) for row in pairs.covariances[0].chunk(2, 0))
    regression = cross @ torch.linalg.pinv(other, hermitian=True)
    rest = own - regression @ cross.T
    identity = torch.eye(len(own), dtype=torch.float64)

    def denoiser(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        if z.ndim != 2 or z.shape[1] != len(own):
            raise ValueError(f"z must have shape (B, {len(own)}), but its shape is {tuple(z.shape)}")
        alpha, sigma, flat = path.alpha(t), path.sigma(t), z.double()
        if cond is None:
            shared = alpha * own + (1 - alpha) * cross
            total = alpha * shared + (1 - alpha) * (alpha * cross.T + (1 - alpha) * other) + sigma**2 * identity
            start, expected = mean_0, alpha * mean_0 + (1 - alpha) * mean_1
        else:
            shared, total = alpha * rest, alpha**2 * rest + sigma**2 * identity
            start = mean_0 + (cond.double() - mean_1) @ regression.T
            expected = alpha * start + (1 - alpha) * cond
        total = (total + total.T) / 2
        return (start + (flat - expected) @ (shared @ torch.linalg.pinv(total, hermitian=True)).T).to(z.dtype)

    return denoiser


def affine_law(run: Callable[[Noise], Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """Mean (dim,) and covariance (dim, dim) of what `run(noise)` returns, exact when it is affine in its noise.

    `run` draws everything random, the start included, through the `noise` that it is handed, and returns (1, dim).
    Under a denoiser that is affine in z (a Gaussian prior) nearly every sampler is such a map, out = mean + J n, so one
    run with zeros gives the mean and its Jacobian gives the covariance J J^T: no Monte Carlo, no derivation per method.
    Run it in float64. Raises ValueError when a second run with random noise shows that the map is not affine.
    """
    zeros: list[Tensor] = []

    def draw_zeros(like: Tensor) -> Tensor:
        zeros.append(torch.zeros_like(like).requires_grad_())
        return zeros[-1]

    with torch.enable_grad():
        out = run(draw_zeros)
    if out.numel() != dim:
        raise ValueError(f"run must return (1, dim) = (1, {dim}), but it returned {tuple(out.shape)}")
    mean = out.detach().reshape(dim)
    if not out.requires_grad:
        return mean, torch.zeros(dim, dim).to(mean)
    rows = []
    for entry in out.reshape(dim):
        gradients = torch.autograd.grad(entry, zeros, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    jacobian = torch.stack(rows)

    drawn: list[Tensor] = []
    normal = standard_normal(DEFAULT_SEED)

    def draw(like: Tensor) -> Tensor:
        drawn.append(normal(like.detach()))
        return drawn[-1]

    with torch.no_grad():
        found = run(draw).reshape(dim)
    predicted = mean + jacobian @ torch.cat([part.reshape(-1) for part in drawn])
    if not torch.allclose(found, predicted, rtol=1e-4, atol=1e-4):
        raise ValueError("run is not affine in its noise, so it has no law that a Jacobian gives; use a Gaussian prior")
    return mean, jacobian @ jacobian.T


def moment_residual(schedule: Schedule) -> float:
    """How far alpha and sigma are from the moments of the SDE dz = f z dt + g dw, f and g being drift and diffusion.

    scipy integrates dm/dt = f m and dv/dt = 2 f v + g^2 from t = 1e-3 to 0.99, started at alpha and sigma^2 there (both
    equations are linear, so an integrating factor turns them into two integrals, on a grid of a million times, fine
    enough for the corners of `from_betas`). The answer is the largest relative error of m against alpha and of sqrt(v)
    against sigma: under 1e-5 for a right schedule. A factor of two in a derivative, which public code has had, gives
    0.1 or more.
    """
    from scipy.integrate import cumulative_trapezoid

    times = torch.logspace(-3, math.log10(0.99), 1_000_000, dtype=torch.float64)
    alpha, sigma, drift, diffusion = (
        function(times).numpy() for function in (schedule.alpha, schedule.sigma, schedule.drift, schedule.diffusion)
    )
    log_growth = cumulative_trapezoid(drift, times, initial=0)
    growth = np.exp(log_growth)
    variance = growth**2 * (sigma[0] ** 2 + cumulative_trapezoid((diffusion / growth) ** 2, times, initial=0))
    errors = np.abs([alpha[0] * growth / alpha - 1, np.sqrt(variance) / sigma - 1])
    return float(errors.max()) if np.isfinite(errors).all() else math.inf


def convergence_order(error: Callable[[int], float], counts: Sequence[int]) -> float:
    """The p in error(n) ~ n^-p, fitted by least squares to log error(n) against log n over the step counts `counts`.

    Measure on a grid that is not uniform as well: some wrong second-order solvers keep their order on uniform ones.
    Raises ValueError for fewer than two counts and for an error that is zero or not finite.
    """
    if len(set(counts)) < 2:
        raise ValueError(f"counts must hold at least two different numbers of steps, but {list(counts)} came")
    errors = [check_positive(float(error(n)), f"error({n})") for n in counts]
    return -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def gaussian_w2(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Wasserstein-2 distance between two Gaussians: sqrt(||m_a - m_b||^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)).

    Means hold D numbers, covariances (D, D). A distance, in state units: some code reports its square.
    """
    shift = (mean_a.double() - mean_b.double()).square().sum()
    overlap = torch.linalg.matrix_norm(_root(covariance_a) @ _root(covariance_b), "nuc")
    spread = covariance_a.double().trace() + covariance_b.double().trace() - 2 * overlap
    return (shift + spread.clamp(min=0)).sqrt().item()
