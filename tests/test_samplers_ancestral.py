"""Analytic-DPM: exact for isotropic Gaussian data with any number of steps, and the best variance of its kind."""

from __future__ import annotations

import math

import pytest
import torch
from test_samplers import ONE, TABLE, gaussian, times_at
from test_schedules import BUILT

from tutorial_lib.denoisers import count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.samplers import analytic_dpm, ddpm, last, mean_square_eps, trajectory
from tutorial_lib.schedules import karras_times, uniform_times


def exact_gammas(schedule, times, variance):
    """E eps_hat^2 of N(0, variance) data: eps_hat = sigma z / (alpha^2 c + sigma^2)."""
    alpha, sigma = schedule.alpha(times[:-1]), schedule.sigma(times[:-1])
    return sigma**2 / (alpha**2 * variance + sigma**2)


def output_variance(sampler, schedule, times, variance, mean=0.0):
    """Of the sample, started from the exact law at times[0]; and its mean."""

    def run(noise):
        alpha, sigma = schedule.alpha(times[0]), schedule.sigma(times[0])
        start = alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * noise(ONE)
        return last(sampler(denoiser_for(gaussian(mean, variance), schedule), schedule, start, times, noise=noise))

    found_mean, covariance = affine_law(run, 1)
    return covariance.item(), found_mean.item()


def check_exact(sampler, n, variance, digits=1e-5):
    times = times_at(torch.linspace(999, 0, n, dtype=torch.float64).round())
    found = output_variance(lambda *args, noise: sampler(*args, times, variance, noise), TABLE, times, variance)[0]
    assert found == pytest.approx(variance, rel=digits)


@pytest.mark.parametrize(
    ("n", "variance"), [*((n, variance) for n in (10, 50, 250) for variance in (1.0, 0.25, 0.01)), (1000, 0.25)]
)
def test_exact_for_isotropic_gaussian_data_with_any_number_of_steps(n, variance):
    check_exact(
        lambda *args: analytic_dpm(*args[:4], gammas=exact_gammas(TABLE, args[4], variance), noise=args[6]), n, variance
    )
    if n <= 50:
        check_exact(lambda *args: analytic_dpm(*args[:4], noise=args[6]), n, variance)


@pytest.mark.parametrize("schedule_name", ["vp_linear", "sub_vp", "ve", "edm", "flow", "vp_cosine", "from_betas"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_exact_on_every_schedule_and_grid_at_every_step(schedule_name, n):
    schedule = BUILT[schedule_name]
    prior = gaussian(0.3, 0.25)
    for times in (uniform_times(n, 0.97), karras_times(schedule, n, t_max=0.97), torch.tensor([0.9, 0.35]).double()):
        for stop in range(len(times)):

            def run(noise, times=times, stop=stop):
                alpha, sigma = schedule.alpha(times[0]), schedule.sigma(times[0])
                start = alpha * 0.3 + (alpha**2 * 0.25 + sigma**2).sqrt() * noise(ONE)
                states = analytic_dpm(denoiser_for(prior, schedule), schedule, start, times, noise=noise)
                return trajectory(states)[stop].z

            mean, covariance = affine_law(run, 1)
            alpha, sigma = schedule.alpha(times[stop]).item(), schedule.sigma(times[stop]).item()
            assert mean.item() == pytest.approx(alpha * 0.3, rel=1e-9)
            assert covariance.item() == pytest.approx(alpha**2 * 0.25 + sigma**2, rel=1e-9)


def wrong(change):
    """analytic_dpm with gammas spoilt."""
    return lambda *args: analytic_dpm(
        *args[:4], gammas=change(exact_gammas(TABLE, args[4], args[5]), args[4]), noise=args[6]
    )


@pytest.mark.parametrize(
    "mutant",
    [
        wrong(lambda gammas, times: gammas.sqrt()),
        wrong(lambda gammas, times: gammas.roll(1)),
        wrong(lambda gammas, times: gammas * TABLE.alpha(times[:-1]) ** 2),
        lambda *args: analytic_dpm(*args[:4], last_std=0.0, noise=args[6]),
        lambda *args: ddpm(*args[:4], noise=args[6]),
        lambda *args: ddpm(*args[:4], "beta", noise=args[6]),
    ],
    ids=["root of gamma", "gamma of the wrong time", "alpha twice", "no noise at the end", "beta-tilde", "beta"],
)
def test_other_variances_are_not_exact(mutant):
    with pytest.raises(AssertionError):
        check_exact(mutant, 10, 0.25)


@pytest.mark.parametrize("shape", [(1, 6, 4), (2, 3, 5), (3, 4, 4), (5, 3, 2)])
def test_gammas_of_images(shape):
    """Measured on data: E ||eps_hat||^2 / D within five standard errors; from the denoiser: the trace, on average."""
    schedule, times = BUILT["vp_linear"], torch.tensor([0.8, 0.3, 0.0]).double()
    size = math.prod(shape)
    variances = torch.linspace(0.05, 1.0, size, dtype=torch.float64)
    prior = Gaussian(torch.zeros(shape, dtype=torch.float64), torch.diag(variances))
    denoiser = count_calls(denoiser_for(prior, schedule))
    data = prior.sample(3000, standard_normal(1))
    found = mean_square_eps(denoiser, schedule, data, times, standard_normal(2))
    assert denoiser.calls == 2 and found.dtype == torch.float64 and found.shape == (2,)
    for t, gamma in zip(times, found, strict=False):
        sigma = schedule.sigma(t)
        each = sigma**2 / (schedule.alpha(t) ** 2 * variances + sigma**2)
        error = (2 * each**2).sum().sqrt() / size / math.sqrt(len(data))
        assert abs(gamma - each.mean()) < 5 * error
    z = standard_normal(0)(torch.empty(2, *shape, dtype=torch.float64))
    by_gamma = last(analytic_dpm(denoiser, schedule, z, times, exact_mean(schedule, times, variances)))
    by_probe = last(analytic_dpm(denoiser, schedule, z, times))
    assert by_gamma.shape == by_probe.shape == z.shape and denoiser.calls == 2 + 2 + 2


def exact_mean(schedule, times, variances):
    alpha, sigma = schedule.alpha(times[:-1, None]), schedule.sigma(times[:-1, None])
    return (sigma**2 / (alpha**2 * variances + sigma**2)).mean(1)


def test_both_ways_agree_for_a_diagonal_covariance():
    """A probe of signs sees the whole diagonal at once; the noise that is drawn for it is not used again."""
    schedule, times = BUILT["vp_linear"], torch.tensor([0.8, 0.3, 0.1]).double()
    variances = torch.tensor([0.1, 0.2, 0.7, 1.0]).double()
    denoiser = denoiser_for(Gaussian(torch.zeros(4).double(), torch.diag(variances)), schedule)
    z = torch.ones(2, 4, dtype=torch.float64)
    ways = [
        last(analytic_dpm(denoiser, schedule, z, times, gammas, noise=torch.ones_like))
        for gammas in (None, exact_mean(schedule, times, variances))
    ]
    torch.testing.assert_close(*ways, rtol=1e-12, atol=1e-12)


def test_a_mixture_is_met_sample_by_sample():
    """Where the parts differ in width, each sample gets the variance of its own neighbourhood."""
    schedule, times = BUILT["ve"], torch.tensor([0.35, 0.0]).double()
    prior = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-9.0], [9.0]]).double(), torch.tensor([[[0.01]], [[1.0]]]).double()
    )
    z = torch.tensor([[-9.0], [9.0]]).double()
    found = last(analytic_dpm(denoiser_for(prior, schedule), schedule, z, times, noise=torch.ones_like))
    rho = schedule.sigma(0.35).item() ** 2
    for value, centre, variance in ((found[0], -9, 0.01), (found[1], 9, 1.0)):
        assert (value - centre).item() == pytest.approx(math.sqrt(rho * variance / (rho + variance)), rel=1e-6)


def test_bounds_hold():
    schedule, times = BUILT["edm"], torch.tensor([0.5, 0.4, 0.0], dtype=torch.float64)
    denoiser = denoiser_for(gaussian(0.0, 4.0), schedule)
    z = torch.zeros(1, 1, dtype=torch.float64)
    for t, s, largest in ((0.5, 0.4, 1.0), (0.5, 0.4, 100.0), (0.5, 0.4, 0.0)):
        sigma, later = 80 * t, 80 * s
        covariance = min(sigma**2 * 4 / (sigma**2 + 4), largest)
        left = (later / sigma) ** 2
        expected = math.sqrt(later**2 * (1 - left) + (1 - left) ** 2 * covariance)
        found = last(analytic_dpm(denoiser, schedule, z, times[:2], largest=largest, noise=torch.ones_like))
        assert found.item() == pytest.approx(expected, rel=1e-9)
    end = [
        last(analytic_dpm(denoiser, schedule, z, times[1:], last_std=std, noise=torch.ones_like)).item()
        for std in (math.inf, 0.0197, 0.0)
    ]
    assert end == pytest.approx([math.sqrt(32**2 * 4 / (32**2 + 4)), 0.0197, 0.0], rel=1e-9)


def test_one_call_a_step_and_gradients_through_the_probe():
    denoiser = count_calls(lambda z, t: torch.tanh(z))
    z = torch.ones(2, 3, requires_grad=True)
    last(analytic_dpm(denoiser, BUILT["vp_linear"], z, uniform_times(5))).sum().backward()
    assert denoiser.calls == 5 and (z.grad != 0).all()
    constant = last(analytic_dpm(lambda z, t: torch.ones_like(z), BUILT["vp_linear"], z.detach(), uniform_times(5)))
    assert torch.equal(constant, torch.ones(2, 3))  # certain data: no noise is left to draw at the end
