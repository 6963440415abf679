"""log p by the probability flow against exact densities, and the size of what the solver cannot repair."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tutorial_lib.likelihood import log_likelihood
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, convergence_order, denoiser_for
from tutorial_lib.samplers import invert, last
from tutorial_lib.schedules import edm, flow, log_snr_times, sub_vp, ve, vp_cosine, vp_linear
from tutorial_lib.score_matching import rademacher

SCHEDULES = {
    "vp_linear": vp_linear(),
    "vp_cosine": vp_cosine(),
    "sub_vp": sub_vp(),
    "ve": ve(),
    "edm": edm(10),
    "flow": flow(),
}
MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[-1.0, 0.5], [0.8, -0.3]], dtype=torch.float64),
    torch.tensor([[[0.04, 0.01], [0.01, 0.09]], [[0.1, -0.03], [-0.03, 0.05]]], dtype=torch.float64),
)
POINTS = MIXTURE.sample(8)
SCHEDULE = SCHEDULES["vp_linear"]
DENOISER = denoiser_for(MIXTURE, SCHEDULE)


def ends(t_min=1e-3, t_max=1.0):
    return torch.tensor([t_max, t_min], dtype=torch.float64)


def density(prior, schedule, t):
    return lambda z: prior.log_prob(z, schedule.alpha(t), schedule.sigma(t))


def check_exact(function, name, tolerance=1e-6, t_min=1e-3):
    """log p at t_min of the mixture, the exact density at t = 1 being handed in."""
    schedule = SCHEDULES[name]
    exact = density(MIXTURE, schedule, t_min)(POINTS)
    found = function(denoiser_for(MIXTURE, schedule), schedule, POINTS, ends(t_min), density(MIXTURE, schedule, 1.0))
    assert found.shape == exact.shape and (found - exact).abs().max() < tolerance


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_exact_density_at_t_min(name):
    check_exact(lambda *args: log_likelihood(*args, rtol=1e-8, atol=1e-8), name)


def test_heun_agrees_and_its_error_falls_like_1_over_n_squared():
    def error(n):
        times = torch.linspace(1, 0.2, n + 1, dtype=torch.float64)
        prior = density(MIXTURE, SCHEDULE, 1.0)
        found = log_likelihood(DENOISER, SCHEDULE, POINTS, times, prior, solver="heun")
        return (found - density(MIXTURE, SCHEDULE, 0.2)(POINTS)).abs().max().item()

    assert convergence_order(error, [40, 80, 160]) == pytest.approx(2, abs=0.2)
    assert error(160) < 1e-2


def as_written(sign=1, own_prior=True, drift=True, score=True, mean=False):
    """The same integral with f, g and the score, the score's divergence by central differences; or one of the bugs."""

    def rates(z, t, schedule):
        def score_at(z):
            return MIXTURE.score(z, schedule.alpha(t), schedule.sigma(t))

        f, half = schedule.drift(t), schedule.diffusion(t) ** 2 / 2
        steps = 1e-4 * torch.eye(z.shape[1], dtype=torch.float64)
        trace = sum((score_at(z + step) - score_at(z - step))[:, i] for i, step in enumerate(steps)) / 2e-4
        divergence = drift * f * z.shape[1] - score * half * trace
        return f * z - half * score_at(z), sign * divergence / (z.shape[1] if mean else 1)

    def function(denoiser, schedule, z, times, prior):
        grid, growth = torch.linspace(times[-1].item(), times[0].item(), 41, dtype=torch.float64), 0
        for t, s in zip(grid[:-1], grid[1:], strict=True):  # the classical Runge-Kutta step of order 4
            h = s - t
            a, p = rates(z, t, schedule)
            b, q = rates(z + h / 2 * a, t + h / 2, schedule)
            c, u = rates(z + h / 2 * b, t + h / 2, schedule)
            d, v = rates(z + h * c, s, schedule)
            z, growth = z + h / 6 * (a + 2 * b + 2 * c + d), growth + h / 6 * (p + 2 * q + 2 * u + v)
        normal = torch.distributions.Normal(0, schedule.sigma(1.0))
        return growth + (prior(z) if own_prior else normal.log_prob(z).sum(1))

    return function


MUTANTS = {
    "the divergence with the wrong sign": {"sign": -1},
    "N(0, I) taken for the density at t = 1": {"own_prior": False},
    "the drift's divergence D f forgotten": {"drift": False},
    "the score's divergence forgotten": {"score": False},
    "mean over the dimensions for the sum": {"mean": True},
}


def test_the_loop_of_the_mutants_passes_when_right():
    check_exact(as_written(), "vp_linear", 5e-4, 0.1)


@pytest.mark.parametrize("name", MUTANTS)
def test_known_bugs_miss_the_exact_density(name):
    with pytest.raises(AssertionError):
        check_exact(as_written(**MUTANTS[name]), "vp_linear", 5e-4, 0.1)


@pytest.mark.parametrize("name", ["vp_linear", "ve", "edm"])
def test_what_a_normal_prior_costs_is_its_own_error_where_the_flow_arrives(name):
    """prior=None is N(0, sigma(1)^2 I); the mistake is log N - log p_1 at the end of the path, 2e-3 for vp_linear."""
    schedule = SCHEDULES[name]
    denoiser = denoiser_for(MIXTURE, schedule)
    found = log_likelihood(denoiser, schedule, POINTS, ends(), rtol=1e-8, atol=1e-8)
    mistake = found - density(MIXTURE, schedule, 1e-3)(POINTS)
    arrived = last(invert(denoiser, schedule, POINTS, ends(), "scipy", 1e-8, 1e-8))
    normal = torch.distributions.Normal(0, schedule.sigma(1.0)).log_prob(arrived).sum(1)
    assert torch.allclose(mistake, normal - density(MIXTURE, schedule, 1.0)(arrived), atol=1e-6)
    low, high = {"vp_linear": (1e-3, 5e-3), "ve": (3e-3, 2e-2), "edm": (1e-2, 1e-1)}[name]
    assert low < mistake.abs().max() < high


def test_where_the_end_is_pure_noise_the_normal_prior_is_exact():
    for name in ("vp_cosine", "flow"):
        check_exact(lambda *args: log_likelihood(*args[:4], rtol=1e-8, atol=1e-8), name, 1e-5)


def test_it_is_the_density_at_t_min_and_not_of_the_data():
    """log p_t - log p_0 -> sigma^2 (tr H + |s|^2 + D + z s) / 2 (Fokker-Planck), about 5e-5, 5e-3, 0.09 here."""
    schedule = SCHEDULES["vp_linear"]
    score = MIXTURE.score(POINTS)
    jacobian = torch.autograd.functional.jacobian(lambda z: MIXTURE.score(z).sum(0), POINTS)
    slope = (jacobian.diagonal(dim1=0, dim2=2).sum(-1) + score.square().sum(1) + 2 + (POINTS * score).sum(1)) / 2
    gaps = {}
    for t_min in (1e-5, 1e-3, 1e-2):
        prior = density(MIXTURE, schedule, 1.0)
        args = (denoiser_for(MIXTURE, schedule), schedule, POINTS, ends(t_min), prior)
        gaps[t_min] = log_likelihood(*args, rtol=1e-8, atol=1e-8) - MIXTURE.log_prob(POINTS)
    for t_min in (1e-5, 1e-3):
        predicted = schedule.sigma(t_min) ** 2 * slope
        assert torch.allclose(gaps[t_min], predicted, rtol=0.02, atol=1e-3 * predicted.abs().max().item() + 1e-7)
    sizes = [gap.abs().max().item() for gap in gaps.values()]
    assert 1e-5 < sizes[0] < 1e-4 and 1e-3 < sizes[1] < 1e-2 and 0.02 < sizes[2] < 0.2


@pytest.mark.parametrize("name", SCHEDULES)
def test_any_denoiser_gives_a_density_that_integrates_to_one(name):
    """Exact or not: the flow moves mass, the divergence keeps count of it."""
    z = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    schedule = SCHEDULES[name]

    def denoiser(z, t, cond=None):
        return (1.5 * z).tanh() - 0.2

    times = log_snr_times(schedule, 120, t_min=0.02)[:-1] if name != "ve" else torch.linspace(1, 0.4, 120).double()
    found = log_likelihood(denoiser, schedule, z, times, solver="heun").exp()
    assert torch.trapezoid(found, z[:, 0]).item() == pytest.approx(1, abs=2e-3)
    assert found.max() > 3 * found[800]  # two hills with a valley between them


def averaged(directions, denoiser, schedule, z, times):
    """Mean over a finite set of directions v, each held for the whole batch."""
    found = [
        log_likelihood(denoiser, schedule, z, times, noise=lambda like, v=v: v.expand_as(like), solver="heun")
        for v in directions
    ]
    return torch.stack(found)


def test_hutchinson_is_unbiased():
    """Over all signs, and over points with mean 0 and covariance I, the mean of v^T J v is the trace exactly."""
    schedule = SCHEDULES["vp_linear"]
    args = (denoiser_for(MIXTURE, schedule), schedule, POINTS, log_snr_times(schedule, 12)[:-1])
    exact = log_likelihood(*args, solver="heun")
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=torch.float64)
    points = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    for directions in (signs, points):
        found = averaged(directions, *args)
        assert torch.allclose(found.mean(0), exact, rtol=1e-10)
        assert found.std(0).min() > 1e-3  # each alone is not exact: these Jacobians are not diagonal


@pytest.mark.parametrize("solver", ["heun", "scipy"])
def test_rademacher_is_exact_for_a_diagonal_jacobian_and_normal_is_not(solver):
    prior = Gaussian(torch.tensor([0.5, -1.0, 0.3]).double(), torch.diag(torch.tensor([0.1, 0.5, 2.0])).double())
    schedule, z = SCHEDULES["vp_linear"], prior.sample(5)
    args = (denoiser_for(prior, schedule), schedule, z, log_snr_times(schedule, 12)[:-1])
    exact = log_likelihood(*args, solver=solver)
    signs = log_likelihood(*args, solver=solver, noise=rademacher(standard_normal(0)))
    assert torch.allclose(signs, exact, rtol=1e-9)
    assert (log_likelihood(*args, solver=solver, noise=standard_normal(0)) - exact).abs().max() > 0.1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_shape_in_their_own_dtype(channels):
    size = channels * 6
    factor = torch.eye(size) * 0.5 + 0.1 * standard_normal(0)(torch.empty(size, size))
    prior = Gaussian(torch.full((channels, 2, 3), 0.2), factor @ factor.T)
    schedule, z = SCHEDULES["vp_cosine"], prior.sample(3)
    found = log_likelihood(denoiser_for(prior, schedule), schedule, z, ends(), rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert torch.allclose(found, density(prior, schedule, 1e-3)(z), atol=5e-3)


def test_no_sample_knows_its_batch_mates_and_inference_mode_is_fine():
    schedule = SCHEDULES["vp_linear"]
    times = log_snr_times(schedule, 10)[:-1]
    together = log_likelihood(denoiser_for(MIXTURE, schedule), schedule, POINTS, times, solver="heun")
    with torch.inference_mode():
        alone = log_likelihood(denoiser_for(MIXTURE, schedule), schedule, POINTS[3:4], times, solver="heun")
    assert torch.allclose(alone, together[3:4], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_likelihood(DENOISER, SCHEDULE, POINTS, ends(0.0)), "times must end where there is noise"),
        (lambda: log_likelihood(DENOISER, SCHEDULE, POINTS, ends().flip(0)), "times must decrease"),
        (lambda: log_likelihood(DENOISER, SCHEDULE, POINTS, ends(), solver="huen"), "did you mean 'heun'"),
        (lambda: log_likelihood(DENOISER, SCHEDULE, POINTS, ends(), rtol=0), "rtol must be a positive number"),
        (lambda: log_likelihood(DENOISER, SCHEDULE, POINTS, ends(), prior=lambda z: z), "prior must return one number"),
        (lambda: log_likelihood(lambda z, t: z.detach(), SCHEDULE, POINTS, ends()), "must record its gradient"),
        (lambda: log_likelihood(lambda z, t: z[:1], SCHEDULE, POINTS, ends()), "the denoiser's output and z must have"),
        (lambda: log_likelihood(lambda z, t: z / 0, SCHEDULE, POINTS, ends()), "denoiser must return finite values"),
        (lambda: log_likelihood(DENOISER, SCHEDULE, [1.0], ends()), "z must be a floating-point batch"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
