"""Every loss against closed forms: its value, its constant, its gradient, its minimiser.

For scores s(z) = A z + b and Gaussian data all losses are quadratic, so a few points with the right mean and covariance
give their expectations exactly. Only the mixture under noise needs Monte Carlo; its tolerance is five standard errors.
"""

from __future__ import annotations

import math

import pytest
import torch
from test_schedules import every_schedule

from tutorial_lib.denoisers import to_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, denoiser_for
from tutorial_lib.schedules import edm, ve, vp_cosine, vp_linear
from tutorial_lib.score_matching import (
    denoiser_from_score,
    denoising_loss,
    explicit_loss,
    implicit_loss,
    ladder_step_sizes,
    ladder_times,
    noise_ladder,
    rademacher,
    score_error,
    score_from_denoiser,
    sliced_loss,
)
from tutorial_lib.steps import langevin_step

MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
FACTOR = torch.tensor([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.6]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T
GAUSSIAN = Gaussian(MEAN, COVARIANCE)
SPREADS = torch.tensor([[[0.2, 0.0], [0.0, 0.2]], [[0.5, 0.2], [0.2, 0.3]]], dtype=torch.float64)
MIXTURE = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.5, 0.0], [1.0, 0.5]]).double(), SPREADS)
A = torch.tensor([[-0.7, 0.2, 0.1], [0.4, -1.1, 0.3], [-0.2, 0.5, -0.4]], dtype=torch.float64)
B = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)
CROSS = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)]).double()  # 6 points with mean 0 and covariance I
# Data and noise (36, 3), every point of one with every point of the other: all means and second moments are exact.
Z_0, EPS = (MEAN + CROSS @ FACTOR.T).repeat_interleave(6, 0), CROSS.repeat(6, 1)


def given(like):
    return EPS.to(like)


def linear(matrix, offset):
    return lambda z, t=None: z @ matrix.T + offset


def curved(z):
    return torch.stack([torch.sin(z[:, 0] * z[:, 1]), z[:, 2] ** 2 * z[:, 1], z[:, 0].tanh() * z[:, 2]], 1)


def expected_explicit(matrix, offset, mean, covariance):
    """E|A z + b + P (z - m)|^2 / 2 for z ~ N(m, S), P = S^-1."""
    total, at_mean = matrix + torch.linalg.inv(covariance), matrix @ mean + offset
    return (torch.trace(total @ covariance @ total.T) + at_mean @ at_mean) / 2


def diffused(schedule, t):
    """Mean and covariance of z_t, and sigma."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(3).double(), sigma


def true_score_of(prior, schedule):
    return lambda z, t: prior.score(z, schedule.alpha(t), schedule.sigma(t))


# Explicit, implicit, sliced: the constants between them


def test_explicit_loss_is_half_the_fisher_divergence():
    found = explicit_loss(linear(A, B), GAUSSIAN.score, Z_0)
    assert found.shape == (36,)
    torch.testing.assert_close(found.mean(), expected_explicit(A, B, MEAN, COVARIANCE))
    assert explicit_loss(GAUSSIAN.score, GAUSSIAN.score, Z_0).abs().max() == 0


def test_implicit_loss_is_the_explicit_one_less_its_constant():
    at_mean = A @ MEAN + B
    found = implicit_loss(linear(A, B), Z_0).mean()
    torch.testing.assert_close(found, torch.trace(A) + (torch.trace(A @ COVARIANCE @ A.T) + at_mean @ at_mean) / 2)
    constant = torch.trace(torch.linalg.inv(COVARIANCE)) / 2  # E|grad log p|^2 / 2
    torch.testing.assert_close(found + constant, expected_explicit(A, B, MEAN, COVARIANCE))


def test_for_a_mixture_the_constant_is_the_same_whatever_the_score():
    """By quadrature over a grid, for scores that are not linear."""
    axis = torch.linspace(-9, 9, 181, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    weights = MIXTURE.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
    assert abs(weights.sum() - 1) < 1e-10
    constant = weights @ MIXTURE.score(grid).square().sum(1) / 2
    assert constant > 1
    for score in (lambda z: torch.stack([torch.sin(z[:, 0] * z[:, 1]), z[:, 0].tanh() * z[:, 1]], 1), linear_2):
        explicit = weights @ explicit_loss(score, MIXTURE.score, grid)
        torch.testing.assert_close(weights @ implicit_loss(score, grid) + constant, explicit, rtol=1e-9, atol=1e-9)


def linear_2(z):
    return z @ A[:2, :2].T


def test_sliced_loss_is_the_implicit_one_in_expectation():
    """Over all 8 sign vectors of 3 dimensions, each once, the mean is exact."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    z = Z_0[:1] + 0.1
    wanted = implicit_loss(curved, z)
    for reduced in (True, False):
        found = sliced_loss(curved, z.expand(8, 3), lambda like: signs, variance_reduced=reduced)
        assert found.std() > 0.01
        torch.testing.assert_close(found.mean(), wanted[0])
        rows = iter(signs)
        averaged = sliced_loss(curved, z, lambda like, rows=rows: next(rows)[None], 8, variance_reduced=reduced)
        torch.testing.assert_close(averaged, wanted)


def test_with_signs_a_diagonal_jacobian_gives_the_exact_trace_and_normal_directions_do_not():
    def separate(z):
        return torch.sin(z) - z**3

    torch.testing.assert_close(sliced_loss(separate, Z_0, rademacher(standard_normal(0))), implicit_loss(separate, Z_0))
    assert (sliced_loss(separate, Z_0, standard_normal(0)) - implicit_loss(separate, Z_0)).abs().max() > 0.1


def test_normal_directions_have_no_bias_either():
    z = Z_0[:1].expand(20_000, 3)
    found = sliced_loss(curved, z, standard_normal(0))
    assert (found.mean() - implicit_loss(curved, z[:1])[0]).abs() < 5 * found.std() / 20_000**0.5


def test_rademacher_draws_signs_with_mean_0_from_its_source_only():
    drawn = rademacher(standard_normal(0))(torch.empty(4, 50_000))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert abs(drawn.mean()) < 5 / 200_000**0.5
    assert torch.equal(drawn, rademacher(standard_normal(0))(torch.empty(4, 50_000)))
    assert rademacher(torch.zeros_like)(torch.empty(3, dtype=torch.float64)).tolist() == [1, 1, 1]


# Denoising: a constant that is not zero, so that a loss which returns zero is seen


def check_denoising(loss, schedule, t):
    """Value and gradient for a linear score; value at the true score, a known number above zero."""
    mean, covariance, sigma = diffused(schedule, t)
    matrix, offset = A.clone().requires_grad_(), B.clone().requires_grad_()
    found = loss(linear(matrix, offset), schedule, Z_0, t, given)
    assert found.shape == (36,)
    constant = (3 / sigma**2 - torch.trace(torch.linalg.inv(covariance))) / 2
    wanted = expected_explicit(matrix, offset, mean, covariance) + constant
    torch.testing.assert_close(found.mean(), wanted, rtol=1e-8, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(found.mean(), (matrix, offset)), torch.autograd.grad(wanted, (matrix, offset)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert constant > 0
    true = loss(true_score_of(GAUSSIAN, schedule), schedule, Z_0, t, given)
    torch.testing.assert_close(true.mean(), constant, rtol=1e-7, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_denoising_loss_is_the_explicit_one_at_noisy_states_plus_its_constant(schedule, t):
    check_denoising(denoising_loss, schedule, t)


def as_written(change):
    """|s + eps / sigma|^2 / 2 with one thing changed."""

    def loss(score, schedule, z_0, t, noise):
        eps, alpha, sigma = noise(z_0), schedule.alpha(t), schedule.sigma(t)
        return change(score, z_0, eps, alpha, sigma, t)

    return loss


RIGHT = as_written(lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1) / 2)
MUTANTS = {
    "zeros": lambda score, z, eps, a, s, t: 0 * ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1),
    "no square": lambda score, z, eps, a, s, t: (score(a * z + s * eps, t) + eps / s).sum(1) / 2,
    "absolute value": lambda score, z, eps, a, s, t: (score(a * z + s * eps, t) + eps / s).abs().sum(1) / 2,
    "no half": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1),
    "weight sigma": lambda score, z, eps, a, s, t: s * ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1) / 2,
    "weight sigma^2": lambda score, z, eps, a, s, t: ((s * score(a * z + s * eps, t) + eps) ** 2).sum(1) / 2,
    "weight 1/sigma": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1) / 2 / s,
    "sign": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) - eps / s) ** 2).sum(1) / 2,
    "missing sigma": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps) ** 2).sum(1) / 2,
    "sigma squared": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s**2) ** 2).sum(1) / 2,
    "first coordinate": lambda score, z, eps, a, s, t: (score(a * z + s * eps, t) + eps / s)[:, 0] ** 2 / 2,
    "first sample": lambda score, z, eps, a, s, t: (
        ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1)[:1].expand(len(z)) / 2
    ),
    "mean of the batch": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s) ** 2).sum(1).mean() / 2,
    "mean over dimensions": lambda score, z, eps, a, s, t: ((score(a * z + s * eps, t) + eps / s) ** 2).mean(1) / 2,
    "clean input": lambda score, z, eps, a, s, t: ((score(z, t) + eps / s) ** 2).sum(1) / 2,
    "alpha forgotten": lambda score, z, eps, a, s, t: ((score(z + s * eps, t) + eps / s) ** 2).sum(1) / 2,
}


def test_the_check_passes_the_right_loss():
    check_denoising(RIGHT, vp_linear(), 0.4)


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_rejects_every_known_wrong_loss(name):
    with pytest.raises(AssertionError):
        check_denoising(as_written(MUTANTS[name]), vp_linear(), 0.4)


@pytest.mark.parametrize("t", [0.2, torch.linspace(0.1, 0.9, 36).double()])
def test_the_weight_is_sigma_squared_for_each_sample(t):
    plain, weighted = (denoising_loss(linear(A, B), vp_linear(), Z_0, t, given, weighted) for weighted in (False, True))
    torch.testing.assert_close(weighted, vp_linear().sigma(t) ** 2 * plain)
    errors = [score_error(linear(A, B), GAUSSIAN, vp_linear(), Z_0, t, given, weighted) for weighted in (False, True)]
    torch.testing.assert_close(errors[1], vp_linear().sigma(t) ** 2 * errors[0])


@pytest.mark.parametrize("v", [0.25, 0.0])
def test_the_weighted_constant_is_the_share_of_noise_in_the_variance(v):
    """D/2 (1 - sigma^2 / (alpha^2 v + sigma^2)) for N(0, v I), and 0 for a single point."""
    schedule, t = vp_linear(), 0.3
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    prior = Gaussian(torch.zeros(3).double(), v * torch.eye(3).double())
    z_0 = v**0.5 * CROSS.repeat_interleave(6, 0)
    found = denoising_loss(true_score_of(prior, schedule), schedule, z_0, t, given, weighted=True)
    expected = 1.5 * (1 - sigma**2 / (alpha**2 * v + sigma**2))
    torch.testing.assert_close(found.mean(), expected, atol=1e-12, rtol=1e-9)


def test_all_losses_share_their_minimiser_and_their_gradient():
    """Descending any of them, a linear score reaches -S^-1 (z - m); the gradients agree on the way."""
    schedule, t = vp_linear(), 0.3
    mean, covariance, _ = diffused(schedule, t)
    z = schedule.alpha(t) * Z_0 + schedule.sigma(t) * EPS
    directions = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)
    true_score = lambda z: GAUSSIAN.score(z, schedule.alpha(t), schedule.sigma(t))  # noqa: E731
    losses = {
        "explicit": lambda s: explicit_loss(s, true_score, z).mean(),
        "implicit": lambda s: implicit_loss(s, z).mean(),
        "sliced": lambda s: sum(sliced_loss(s, z, lambda like, v=v: v.expand(36, 3)).mean() for v in directions) / 8,
        "denoising": lambda s: denoising_loss(lambda z, t: s(z), schedule, Z_0, t, given).mean(),
    }
    best = -torch.linalg.inv(covariance)
    for matrix, offset in ((A, B), (best, -best @ mean)):
        parameters = [matrix.clone().requires_grad_(), offset.clone().requires_grad_()]
        wanted = torch.autograd.grad(expected_explicit(*parameters, mean, covariance), parameters)
        for loss in losses.values():
            found = torch.autograd.grad(loss(linear(*parameters)), parameters)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert max(part.abs().max() for part in wanted) < 1e-12  # the last pair is the minimiser


def test_denoising_on_a_mixture_prefers_one_score_to_another_by_as_much_as_the_explicit_loss():
    schedule, t = edm(1.0), 0.5
    z_0 = MIXTURE.sample(40_000, standard_normal(1))
    first, second = (lambda z, t: torch.tanh(z) @ A[:2, :2]), (lambda z, t: -z / (1 + z**2))
    gaps = []
    for loss in (denoising_loss, lambda s, *rest: score_error(s, MIXTURE, *rest)):
        gaps.append(
            loss(first, schedule, z_0, t, standard_normal(2)) - loss(second, schedule, z_0, t, standard_normal(2))
        )
    difference = gaps[0] - gaps[1]
    assert difference.mean().abs() < 5 * difference.std() / 200
    assert gaps[1].mean().abs() > 20 * difference.std() / 200  # the check could see a wrong loss


# Judging a score against the diffused prior


def undiffused_prior(score, prior, schedule, z_0, t, noise):
    z = schedule.alpha(t) * z_0 + schedule.sigma(t) * noise(z_0)
    return explicit_loss(lambda z: score(z, t), prior.score, z)


def undiffused_prior_and_samples(score, prior, schedule, z_0, t, noise):
    return explicit_loss(lambda z: score(z, t), prior.score, z_0)


def undiffused_samples(score, prior, schedule, z_0, t, noise):
    return explicit_loss(lambda z: score(z, t), lambda z: prior.score(z, schedule.alpha(t), schedule.sigma(t)), z_0)


def check_judge(judge):
    """The exact network has error 0, and a linear one the error in closed form."""
    schedule, t = vp_linear(), 0.4
    assert judge(true_score_of(MIXTURE, schedule), MIXTURE, schedule, Z_0[:, :2], t, lambda z: EPS[:, :2]).max() < 1e-20
    mean, covariance, _ = diffused(schedule, t)
    found = judge(linear(A, B), GAUSSIAN, schedule, Z_0, t, given).mean()
    torch.testing.assert_close(found, expected_explicit(A, B, mean, covariance), rtol=1e-9, atol=0)


def test_the_exact_network_has_error_0_against_the_diffused_mixture():
    check_judge(score_error)


@pytest.mark.parametrize("mutant", [undiffused_prior, undiffused_prior_and_samples, undiffused_samples])
def test_evaluation_against_the_undiffused_mixture_is_rejected(mutant):
    with pytest.raises(AssertionError):
        check_judge(mutant)


# Conversions


@every_schedule
def test_score_and_denoiser_turn_into_each_other(schedule):
    t = torch.linspace(0.1, 0.9, 36).double()
    denoiser, true_score = denoiser_for(GAUSSIAN, schedule), true_score_of(GAUSSIAN, schedule)
    torch.testing.assert_close(score_from_denoiser(denoiser, schedule)(Z_0, t), true_score(Z_0, t))
    torch.testing.assert_close(denoiser_from_score(true_score, schedule)(Z_0, t), denoiser(Z_0, t))
    assert torch.equal(
        denoiser_from_score(true_score, schedule)(Z_0, 0.3), to_z_0(true_score(Z_0, 0.3), "score", Z_0, 0.3, schedule)
    )


# The noise ladder


def test_the_ladder_is_geometric_and_ends_where_it_says():
    ladder = noise_ladder(10, 1.0, 0.01)
    assert ladder.dtype == torch.float64 and ladder[0] == 1.0 and ladder[-1] == 0.01
    ratios = ladder[1:] / ladder[:-1]
    torch.testing.assert_close(ratios, torch.full((9,), 0.01 ** (1 / 9), dtype=torch.float64), rtol=1e-12, atol=0)
    assert noise_ladder(2, 50.0, 0.3).tolist() == [50.0, 0.3]
    torch.testing.assert_close(noise_ladder(), ladder)


def test_the_step_rule_keeps_the_ratio_of_drift_and_noise_the_same_at_every_level():
    """Song & Ermon's reason for the rule: |a s / 2| / |sqrt(a) noise| does not depend on sigma when |s| ~ 1 / sigma."""
    ladder = noise_ladder(7, 5.0, 0.1)
    sizes = ladder_step_sizes(ladder, 3e-4)
    assert abs(sizes[-1] - 3e-4) < 1e-15
    ratios = []
    for sigma, size in zip(ladder, sizes, strict=True):
        score = -EPS / sigma
        drift = langevin_step(EPS, score, size, torch.zeros_like) - EPS
        spread = langevin_step(EPS, score, size, torch.ones_like) - EPS - drift
        ratios.append((drift.norm() / spread.norm()).item())
    assert max(ratios) - min(ratios) < 1e-12
    expected = (3e-4 / 0.1**2) ** 0.5 / 2
    assert abs(ratios[0] - expected) < 1e-12


@pytest.mark.parametrize("schedule", [edm(80.0), ve(0.005, 60.0), vp_linear(), vp_cosine()])
def test_ladder_times_are_where_the_schedule_has_the_ladders_levels(schedule):
    ladder = noise_ladder(6, 50.0, 0.02)
    times = ladder_times(ladder, schedule)
    assert times.shape == (7,) and times[-1] == 0 and (times.diff() < 0).all()
    torch.testing.assert_close(schedule.sigma(times[:-1]) / schedule.alpha(times[:-1]), ladder, rtol=1e-7, atol=0)


def test_ladder_times_reach_both_ends_of_the_ve_schedule():
    times = ladder_times(noise_ladder(5, 50.0, 0.01), ve(0.01, 50.0))
    assert times[0] == 1 and 0 < times[-2] < 1e-6
    torch.testing.assert_close(ve(0.01, 50.0).sigma(times[-2]), torch.tensor(0.01).double())


# Shapes, independence, inputs


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_channels_and_sizes_and_each_sample_by_itself(channels):
    z = standard_normal(0)(torch.empty(3, channels, 2, 3))
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    score, schedule = (lambda z, t=None: torch.sin(z) - 0.1 * z.flip(-1)), vp_cosine()

    def every_loss(z, generators):
        noise = standard_normal([torch.Generator().set_state(g.get_state()) for g in generators])
        prior = Gaussian(torch.zeros(channels, 2, 3), torch.eye(channels * 6))
        return [
            explicit_loss(score, torch.zeros_like, z),
            implicit_loss(score, z),
            sliced_loss(score, z, noise, projections=2),
            denoising_loss(score, schedule, z, 0.4, noise),
            score_error(score, prior, schedule, z, 0.4, noise),
        ]

    for whole, alone in zip(every_loss(z, generators), every_loss(z[1:2], generators[1:2]), strict=True):
        assert whole.shape == (3,) and whole.dtype == torch.float32
        torch.testing.assert_close(whole[1:2], alone)


def test_losses_work_without_gradients_and_keep_no_graph():
    z = Z_0.clone()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            for loss in (implicit_loss(curved, z), sliced_loss(curved, z, standard_normal(0))):
                assert not loss.requires_grad
    torch.testing.assert_close(implicit_loss(curved, z).detach(), loss_without_graph(z))


def loss_without_graph(z):
    with torch.no_grad():
        return implicit_loss(curved, z)


def test_a_score_that_is_constant_in_z_has_trace_0():
    wanted = (B**2).sum().expand(36) / 2
    torch.testing.assert_close(implicit_loss(lambda z: B.expand(36, 3), Z_0), wanted)
    free = B.clone().requires_grad_()
    torch.testing.assert_close(sliced_loss(lambda z: free.expand(36, 3), Z_0, standard_normal(0)).detach(), wanted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: implicit_loss(lambda z: z[:, :1], Z_0), "the score's output and z must have the same shape"),
        (lambda: explicit_loss(lambda z: z, lambda z: z[:, :2], Z_0), "the score's output and the true score"),
        (lambda: denoising_loss(lambda z, t: z[:1], vp_linear(), Z_0, 0.5, given), "the score's output and z_0"),
        (lambda: denoising_loss(linear(A, B), vp_linear(), Z_0, 0.0, given), "t must be a time with noise"),
        (lambda: score_error(linear(A, B), GAUSSIAN, vp_linear(), Z_0, 0.0, given), "t must be a time with noise"),
        (lambda: sliced_loss(curved, Z_0, given, projections=0), "projections must be a whole number"),
        (lambda: noise_ladder(1), "n must be a whole number of at least 2"),
        (lambda: noise_ladder(5, 0.1, 0.1), "sigma_min must be below sigma_max = 0.1, but 0.1 came"),
        (lambda: noise_ladder(5, 1.0, -1.0), "sigma_min must be a positive number"),
        (lambda: ladder_step_sizes(noise_ladder(), 0.0), "epsilon must be a positive number"),
        (lambda: ladder_step_sizes(noise_ladder().flip(0)), "ladder must hold positive noise levels that decrease"),
        (lambda: ladder_times(noise_ladder(5, 90.0, 0.1), edm(80.0)), "it has no sigma = 90"),
        (lambda: ladder_times(noise_ladder(5, 9.0, 0.001), ve()), "it has no sigma = 0.001"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
