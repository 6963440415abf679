"""The oracles against quadrature on a grid, autograd and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.integrate import solve_ivp
from test_schedules import BUILT, every_schedule

from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Dense, Grayscale
from tutorial_lib.oracles import (
    EmpiricalData,
    Gaussian,
    GaussianMixture,
    affine_law,
    convergence_order,
    denoiser_for,
    gaussian_w2,
    moment_residual,
)
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import Schedule, from_betas, karras_times


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


ONE_D = GaussianMixture(tensor([0.5, 0.2, 0.3]), tensor([[-1.0], [0.4], [1.5]]), tensor([[[0.09]], [[0.25]], [[0.04]]]))
TWO_D = GaussianMixture(
    tensor([0.6, 0.4]),
    tensor([[-1.0, 0.5], [0.8, -0.4]]),
    tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.15, -0.1], [-0.1, 0.4]]]),
)
SINGLE = Gaussian(tensor([0.3, -0.2]), tensor([[0.5, 0.3], [0.3, 0.4]]))
AXIS_1 = torch.linspace(-8, 8, 8001, dtype=torch.float64)[:, None]
SIDE = torch.linspace(-5, 5, 501, dtype=torch.float64)
AXIS_2 = torch.cartesian_prod(SIDE, SIDE)


def density(prior, points):
    """p(z_0) written out with scipy-like formulas, independent of the package's eigenvectors."""
    total = torch.zeros(len(points), dtype=torch.float64)
    for weight, mean, covariance in zip(prior.weights, prior.means, prior.covariances, strict=True):
        offset = points - mean
        exponent = -0.5 * (offset @ covariance.inverse() * offset).sum(1)
        total += weight * exponent.exp() / (2 * math.pi * covariance).det().sqrt()
    return total


def grid_of(prior):
    return (AXIS_1, 16 / 8000) if prior.size == 1 else (AXIS_2, (10 / 500) ** 2)


def by_quadrature(prior, z, alpha, sigma):
    """p(z_t = z) and E[z_0 | z_t = z] by summing over a fine grid of z_0."""
    points, cell = grid_of(prior)
    squares = ((z - alpha * points) ** 2).sum(1)
    joint = density(prior, points) * (-squares / (2 * sigma**2)).exp() / (2 * math.pi * sigma**2) ** (prior.size / 2)
    return joint.sum() * cell, (joint[:, None] * points).sum(0) / joint.sum()


priors = pytest.mark.parametrize("prior", [ONE_D, TWO_D, SINGLE], ids=["1-D mixture", "2-D mixture", "2-D Gaussian"])
levels = pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.3), (0.6, 0.8), (0.1, 0.995), (1.0, 2.0)])


@priors
@levels
def test_density_and_denoiser_by_quadrature(prior, alpha, sigma):
    z = alpha * prior.sample(4, standard_normal(3)) + sigma * standard_normal(4)(torch.empty(4, prior.size).double())
    for one in z:
        p, expected = by_quadrature(prior, one, alpha, sigma)
        assert prior.log_prob(one[None], alpha, sigma).item() == pytest.approx(p.log().item(), abs=1e-8)
        torch.testing.assert_close(prior.denoise(one[None], alpha, sigma)[0], expected, rtol=0, atol=1e-8)


@priors
def test_the_density_itself_and_its_integral(prior):
    points, cell = grid_of(prior)
    torch.testing.assert_close(prior.log_prob(points).exp(), density(prior, points), rtol=1e-9, atol=1e-30)
    assert prior.log_prob(points, 0.7, 0.5).exp().sum().item() * cell == pytest.approx(1, abs=1e-8)


@priors
@levels
def test_score_is_the_gradient_and_obeys_tweedie(prior, alpha, sigma):
    z = (2 * standard_normal(5)(torch.empty(6, prior.size).double())).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(z, alpha, sigma).sum(), z)
    score = prior.score(z.detach(), alpha, sigma)
    torch.testing.assert_close(score, gradient)
    torch.testing.assert_close((z.detach() + sigma**2 * score) / alpha, prior.denoise(z.detach(), alpha, sigma))


@priors
def test_limits_and_one_noise_level_per_sample(prior):
    z = standard_normal(0)(torch.empty(3, prior.size).double())
    torch.testing.assert_close(prior.denoise(z, 0.5, 0.0), 2 * z)
    torch.testing.assert_close(prior.denoise(z, 0.0, 1.0), prior.mean.expand(3, -1))
    alpha, sigma = tensor([0.9, 0.5, 0.0]), tensor([0.2, 0.7, 1.0])
    for method in (prior.denoise, prior.score, prior.log_prob):
        together = method(z, alpha, sigma)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], method(z[i : i + 1], alpha[i], sigma[i].item()))
    assert prior.denoise(z.float(), 0.5, 0.5).dtype == torch.float32


def check_mean_and_covariance(draws, mean, covariance):
    """z-scores of the first two moments, from the draws' own spread."""
    flat, mean = draws.reshape(len(draws), -1).double(), mean.reshape(-1).double()
    products = (flat - mean)[:, :, None] * (flat - mean)[:, None]
    for found, expected in ((flat, mean), (products, covariance.double())):
        error = found.std(0) / len(draws) ** 0.5 + 1e-12
        assert ((found.mean(0) - expected).abs() / error).max() < 5


@priors
def test_samples_have_the_mean_and_covariance(prior):
    points, cell = grid_of(prior)
    weights = density(prior, points) * cell
    torch.testing.assert_close(prior.mean, weights @ points, rtol=0, atol=1e-8)
    spread = points - prior.mean
    torch.testing.assert_close(prior.covariance, (weights[:, None] * spread).T @ spread, rtol=0, atol=1e-8)
    check_mean_and_covariance(prior.sample(20_000, standard_normal(0)), prior.mean, prior.covariance)
    with pytest.raises(AssertionError):
        check_mean_and_covariance(prior.sample(20_000) * 1.1, prior.mean, prior.covariance)


def test_samples_come_from_their_noise_alone():
    assert torch.equal(TWO_D.sample(5), TWO_D.sample(5))
    assert torch.equal(TWO_D.sample(5, standard_normal(0)), TWO_D.sample(5, standard_normal(0)))
    assert not torch.equal(TWO_D.sample(5), TWO_D.sample(5, standard_normal(0)))
    streams = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    pair = TWO_D.sample(2, standard_normal(streams))
    assert torch.equal(pair[1:], TWO_D.sample(1, standard_normal([torch.Generator().manual_seed(4)])))
    shares = torch.bincount((ONE_D.sample(20_000) > 0.95).long().flatten()) / 20_000
    expected = 0.3 * 0.997 + 0.2 * 0.1357  # beyond 0.95: nearly all of the third part, a little of the second
    assert shares[1].item() == pytest.approx(expected, abs=5 * 0.0034)


def posterior_by_quadrature(prior, matrix, x, noise_std):
    points, _ = grid_of(prior)
    weights = density(prior, points) * (-((x - points @ matrix.T) ** 2).sum(1) / (2 * noise_std**2)).exp()
    weights = weights / weights.sum()
    mean = weights @ points
    return mean, (weights[:, None] * (points - mean)).T @ (points - mean)


def check_posterior(posterior, prior, matrix, x, noise_std):
    mean, covariance = posterior_by_quadrature(prior, matrix, x, noise_std)
    torch.testing.assert_close(posterior.mean, mean, rtol=0, atol=1e-7)
    torch.testing.assert_close(posterior.covariance, covariance, rtol=0, atol=1e-7)


@pytest.mark.parametrize("prior", [TWO_D, SINGLE], ids=["mixture", "Gaussian"])
@pytest.mark.parametrize("matrix", [[[1.0, 0.0]], [[0.5, -2.0]], [[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]], [[0.0, 0.0]]])
@pytest.mark.parametrize("noise_std", [0.3, 1.0])
def test_posterior_by_quadrature(prior, matrix, noise_std):
    matrix = tensor(matrix)
    x = 0.4 + torch.arange(len(matrix)).double()[None] / 3
    posterior = prior.posterior(matrix, x, noise_std)
    assert type(posterior) is type(prior)
    check_posterior(posterior, prior, matrix, x, noise_std)
    torch.testing.assert_close(prior.posterior(Dense(matrix), x, noise_std).covariance, posterior.covariance)


def test_known_mistakes_are_not_the_posterior():
    matrix, x, noise_std = tensor([[1.0, 0.0]]), tensor([[0.9]]), 0.3
    right = TWO_D.posterior(matrix, x, noise_std)
    check_posterior(right, TWO_D, matrix, x, noise_std)
    weights_kept = GaussianMixture(TWO_D.weights, right.means, right.covariances)
    variance_for_std = TWO_D.posterior(matrix, x, noise_std**2)
    measurement_ignored = TWO_D
    sign_flipped = TWO_D.posterior(matrix, -x, noise_std)
    for mutant in (weights_kept, variance_for_std, measurement_ignored, sign_flipped):
        with pytest.raises(AssertionError):
            check_posterior(mutant, TWO_D, matrix, x, noise_std)


@pytest.mark.parametrize("prior", [TWO_D, SINGLE], ids=["mixture", "Gaussian"])
@pytest.mark.parametrize("row", [[1.0, 0.0], [0.6, -0.8]])
def test_a_noise_free_measurement_by_quadrature_along_its_line(prior, row):
    """z_0 lies on the line row . z_0 = x (row of length 1): one integral along it."""
    row, x = tensor([row]), 0.7
    along = tensor([[-row[0, 1], row[0, 0]]])
    points = x * row + torch.linspace(-8, 8, 16001, dtype=torch.float64)[:, None] * along
    weights = density(prior, points)
    weights = weights / weights.sum()
    mean = weights @ points
    posterior = prior.posterior(row, tensor([[x]]), 0.0)
    torch.testing.assert_close(posterior.mean, mean, rtol=0, atol=1e-8)
    expected = (weights[:, None] * (points - mean)).T @ (points - mean)
    torch.testing.assert_close(posterior.covariance, expected, rtol=0, atol=1e-8)
    samples = posterior.sample(50, standard_normal(0))
    torch.testing.assert_close(samples @ row.T, torch.full((50, 1), x).double(), rtol=0, atol=1e-7)
    nearly = prior.posterior(row, tensor([[x]]), 1e-5)
    torch.testing.assert_close(nearly.mean, posterior.mean, rtol=0, atol=1e-6)
    noisy = 0.9 * samples + 0.4
    assert posterior.denoise(noisy, 0.9, 0.4).isfinite().all()
    with pytest.raises(ValueError, match="no density at sigma = 0"):
        posterior.log_prob(samples)


def test_redundant_and_impossible_noise_free_measurements():
    twice = tensor([[1.0, 0.0], [2.0, 0.0]])
    expected = TWO_D.posterior(twice[:1], tensor([[0.5]]), 0.0)
    found = TWO_D.posterior(twice, tensor([[0.5, 1.0]]), 0.0)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.weights, expected.weights)
    with pytest.raises(ValueError, match="measurement is impossible under this prior"):
        TWO_D.posterior(twice, tensor([[0.5, 0.9]]), 0.0)


def test_a_part_that_pins_the_measurement_exactly_outweighs_a_spread_one():
    """One part is the point 1, the other N(0, 1): measuring exactly 1 has probability 1/2 under the first alone."""
    prior = GaussianMixture(tensor([0.5, 0.5]), tensor([[1.0], [0.0]]), tensor([[[0.0]], [[1.0]]]))
    assert prior.posterior(tensor([[1.0]]), tensor([[1.0]]), 0.0).weights.tolist() == [1.0, 0.0]
    assert prior.posterior(tensor([[1.0]]), tensor([[0.5]]), 0.0).weights.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_image_shaped_priors_and_operators(channels):
    shape = (channels, 4, 2)
    size = 8 * channels
    noise = standard_normal(channels)
    roots = noise(torch.empty(2, size, size, dtype=torch.float64)) / size**0.5
    means = noise(torch.empty(2, size, dtype=torch.float64))
    covariances = roots @ roots.mT + 0.1 * torch.eye(size)
    flat = GaussianMixture(tensor([0.3, 0.7]), means, covariances)
    prior = GaussianMixture(tensor([0.3, 0.7]), means, covariances, shape=shape)
    z = prior.sample(3)
    assert z.shape == (3, *shape) and prior.mean.shape == shape and prior.covariance.shape == (size, size)
    for name in ("denoise", "score", "log_prob"):
        ours, theirs = getattr(prior, name)(z, 0.8, 0.6), getattr(flat, name)(z.flatten(1), 0.8, 0.6)
        torch.testing.assert_close(ours.flatten(), theirs.flatten())
    operator = AveragePool(2) if channels != 3 else Grayscale()
    x = operator(z[:1])
    found = prior.posterior(operator, x, 0.1)
    expected = flat.posterior(operator.dense(shape), x.flatten(1), 0.1)
    assert found.sample(2).shape == (2, *shape)
    torch.testing.assert_close(found.mean.flatten(), expected.mean)
    exact = prior.posterior(operator, x, 0.0).sample(4)
    torch.testing.assert_close(operator(exact), x.expand(4, *x.shape[1:]), rtol=0, atol=1e-6)


def test_gaussian_takes_the_shape_of_its_mean():
    prior = Gaussian(torch.zeros(2, 3, 1), torch.eye(6))
    assert prior.sample(4).shape == (4, 2, 3, 1) and prior.sample(4).dtype == torch.float32
    assert prior.posterior(torch.eye(6)[:2], torch.ones(1, 2), 0.1).mean.shape == (2, 3, 1)


POINTS = EmpiricalData(standard_normal(0)(torch.empty(5, 2, 3, 1, dtype=torch.float64)))


def test_finite_data_by_explicit_sums():
    noise = standard_normal(1)
    z, alpha, sigma = (
        noise(torch.empty(4, 2, 3, 1).double()),
        tensor([1.0, 0.8, 0.5, 0.1]),
        tensor([0.2, 0.6, 0.9, 1.0]),
    )
    for i in range(4):
        weights, average = [], torch.zeros(2, 3, 1, dtype=torch.float64)
        for y in POINTS.points:
            square = ((z[i] - alpha[i] * y) ** 2).sum().item()
            weights.append(math.exp(-square / (2 * sigma[i] ** 2)) / (2 * math.pi * sigma[i].item() ** 2) ** 3 / 5)
            average += weights[-1] * y
        one = (z[i : i + 1], alpha[i], sigma[i])
        torch.testing.assert_close(POINTS.denoise(*one)[0], average / sum(weights))
        assert POINTS.log_prob(*one).item() == pytest.approx(math.log(sum(weights)), abs=1e-10)
        torch.testing.assert_close(POINTS.denoise(z, alpha, sigma)[i], average / sum(weights))
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(POINTS.log_prob(z, alpha, sigma).sum(), z)
    torch.testing.assert_close(POINTS.score(z.detach(), alpha, sigma), gradient)


def test_finite_data_are_a_mixture_of_points():
    mixture = GaussianMixture(torch.ones(5), POINTS.points.flatten(1), torch.zeros(5, 6, 6), shape=(2, 3, 1))
    z = standard_normal(2)(torch.empty(3, 2, 3, 1).double())
    torch.testing.assert_close(POINTS.denoise(z, 0.7, 0.7), mixture.denoise(z, 0.7, 0.7))
    torch.testing.assert_close(POINTS.score(z, 0.7, 0.7), mixture.score(z, 0.7, 0.7))
    torch.testing.assert_close(POINTS.mean, mixture.mean)
    torch.testing.assert_close(POINTS.covariance, mixture.covariance)
    near = POINTS.points[2:3] + 0.01
    torch.testing.assert_close(POINTS.denoise(near, 1.0, 1e-3), POINTS.points[2:3])


def test_finite_data_are_drawn_evenly():
    draws = POINTS.sample(10_000, standard_normal(0))
    counts = torch.stack([(draws == y).flatten(1).all(1).sum() for y in POINTS.points])
    assert counts.sum() == 10_000
    assert (counts - 2000).abs().max() < 5 * (10_000 * 0.2 * 0.8) ** 0.5
    with pytest.raises(ValueError, match="no density at sigma = 0"):
        POINTS.denoise(draws[:1], 1.0, 0.0)


def test_denoiser_for_reads_the_schedule():
    schedule, z = BUILT["vp_linear"], torch.ones(2, 2, dtype=torch.float64)
    found = denoiser_for(TWO_D, schedule)(z, 0.4)
    torch.testing.assert_close(found, TWO_D.denoise(z, schedule.alpha(0.4), schedule.sigma(0.4)))


def test_affine_law_of_a_known_map():
    first, second, offset = tensor([[1.0, 2.0], [0.0, -1.0]]), tensor([[0.5], [3.0]]), tensor([1.0, -2.0])

    def run(noise):
        a, b = noise(torch.empty(1, 2).double()), noise(torch.empty(1, 1).double())
        return a @ first.T + b @ second.T + offset

    mean, covariance = affine_law(run, 2)
    torch.testing.assert_close(mean, offset)
    torch.testing.assert_close(covariance, first @ first.T + second @ second.T)
    assert affine_law(lambda noise: offset[None], 2)[1].tolist() == [[0, 0], [0, 0]]


def test_affine_law_refuses_what_it_cannot_know():
    with pytest.raises(ValueError, match="not affine"):
        affine_law(lambda noise: noise(torch.empty(1, 2).double()) ** 3 + 1, 2)
    with pytest.raises(ValueError, match=r"must return \(1, dim\) = \(1, 3\), but it returned \(1, 2\)"):
        affine_law(lambda noise: noise(torch.empty(1, 2)), 3)


@every_schedule
def test_every_schedule_obeys_its_moment_equations(schedule):
    assert moment_residual(schedule) < 1e-6


def test_other_tables_obey_them_too():
    for count in (73, 100):
        assert moment_residual(from_betas(torch.linspace(1e-3, 0.2, count))) < 1e-5


class DoubledDrift(Schedule):
    def drift(self, t):
        return 2 * super().drift(t)


class DoubledDiffusion(Schedule):
    def diffusion(self, t):
        return 2**0.5 * super().diffusion(t)  # g^2 twice too large


class FlippedDrift(Schedule):
    def drift(self, t):
        return -super().drift(t)


@pytest.mark.parametrize("mutant", [DoubledDrift, DoubledDiffusion, FlippedDrift])
@pytest.mark.parametrize("name", ["vp_linear", "sub_vp", "flow"])
def test_doubled_and_flipped_derivatives_are_noticed(mutant, name):
    assert moment_residual(mutant(BUILT[name].alpha, BUILT[name].sigma)) > 1e-2


@pytest.mark.parametrize("name", ["ve", "edm"])
def test_a_doubled_diffusion_is_noticed_without_drift(name):
    assert moment_residual(DoubledDiffusion(BUILT[name].alpha, BUILT[name].sigma)) > 1e-2


def test_a_schedule_that_would_have_to_remove_noise_is_noticed():
    assert moment_residual(Schedule(lambda t: 1.0, lambda t: 2 - t)) == math.inf


@pytest.mark.parametrize("order", [1.0, 2.5])
def test_convergence_order_of_known_errors(order):
    assert convergence_order(lambda n: 3 * n**-order, (8, 16, 64)) == pytest.approx(order, rel=1e-12)
    with pytest.raises(ValueError, match="counts must hold at least two different"):
        convergence_order(lambda n: 1 / n, [8, 8])
    with pytest.raises(ValueError, match=r"error\(8\) must be a positive number"):
        convergence_order(lambda n: 0.0, [8, 16])


def test_ddim_converges_with_order_1_on_a_grid_that_is_not_uniform():
    """To the probability-flow ODE of a three-part mixture, solved by scipy: dz/dsigma = -sigma score (alpha = 1)."""
    schedule, start = BUILT["edm"], tensor([[6.0]])
    denoiser = denoiser_for(ONE_D, schedule)

    def slope(sigma, z):
        return -sigma * ONE_D.score(torch.from_numpy(z)[None], 1.0, sigma)[0].numpy()

    exact = solve_ivp(slope, (10.0, 0.05), start[0].numpy(), method="DOP853", rtol=1e-11, atol=1e-12).y[0, -1]

    def error(n):
        times = karras_times(schedule, n + 1, sigma_min=0.05, t_max=10 / 80)[:-1]
        return abs(last(ddim(denoiser, schedule, start, times)).item() - exact)

    assert convergence_order(error, (64, 128, 256)) == pytest.approx(1, abs=0.1)


def test_gaussian_w2_against_scipy():
    noise = standard_normal(0)
    roots = noise(torch.empty(2, 4, 4, dtype=torch.float64))
    a, b = roots @ roots.mT
    means = noise(torch.empty(2, 4, dtype=torch.float64))
    middle = scipy.linalg.sqrtm(scipy.linalg.sqrtm(a.numpy()) @ b.numpy() @ scipy.linalg.sqrtm(a.numpy()))
    square = ((means[0] - means[1]) ** 2).sum().item() + np.trace(a.numpy() + b.numpy() - 2 * middle).real
    assert gaussian_w2(means[0], a, means[1], b) == pytest.approx(square**0.5, rel=1e-8)
    assert gaussian_w2(means[0], a, means[0], a) < 1e-6
    one = torch.ones(1, 1)
    assert gaussian_w2(tensor([3.0]), one, tensor([0.0]), 25 * one) == pytest.approx(5)  # sqrt(9 + (5 - 1)^2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GaussianMixture(torch.ones(3), torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2)),
            "weights must have shape",
        ),
        (
            lambda: GaussianMixture(torch.ones(2), torch.zeros(2, 2), torch.eye(3).expand(2, 3, 3)),
            "covariances must have shape",
        ),
        (
            lambda: GaussianMixture(-torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]),
            "weights must not be negative",
        ),
        (lambda: Gaussian(torch.zeros(2), tensor([[1.0, 0.5], [0.0, 1.0]])), "covariances must be symmetric"),
        (lambda: Gaussian(torch.zeros(2), -torch.eye(2)), "positive semi-definite"),
        (lambda: Gaussian(torch.zeros(2), torch.eye(2), shape=(3, 1, 1)), "shape must hold D = 2 numbers"),
        (lambda: TWO_D.denoise(torch.zeros(1, 3), 1.0, 1.0), r"z must have shape \(B, 2\), but its shape is \(1, 3\)"),
        (
            lambda: TWO_D.denoise(torch.zeros(2, 2), torch.ones(3), 1.0),
            "alpha and sigma must be one number or one per sample",
        ),
        (lambda: TWO_D.posterior(torch.eye(3), torch.zeros(1, 3), 0.1), "operator must act on 2 numbers"),
        (lambda: TWO_D.posterior(torch.eye(2), torch.zeros(2, 2), 0.1), "measurement must be one of 2 numbers"),
        (
            lambda: TWO_D.posterior(torch.eye(2), torch.zeros(1, 2), -0.1),
            "noise_std must be a number that is not negative",
        ),
        (lambda: EmpiricalData(torch.zeros(3, dtype=torch.int64)), "points must be a floating-point tensor"),
    ],
)
def test_bad_input_gets_one_clear_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
