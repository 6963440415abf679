"""The probability flow against closed forms: Gaussians, one-dimensional mixtures (it carries quantiles), the SDE's law."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from test_samplers_sde import GAUSSIAN, GRIDS, MEAN, PAPERS, VARIANCE, found_law, true_law
from test_schedules import BUILT, ends_in_pure_noise, every_schedule

from tutorial_lib.denoisers import count_calls, from_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, convergence_order, denoiser_for
from tutorial_lib.samplers import State, ddim, heun, invert, last, probability_flow, reverse_sde, trajectory
from tutorial_lib.schedules import Schedule, karras_times, uniform_times
from tutorial_lib.steps import ddim_step

scipy_flow = functools.partial(probability_flow, solver="scipy", rtol=1e-10, atol=1e-10)


def silent(sampler):
    """A sampler without noise behind the signature of one with."""
    return lambda *args, noise: sampler(*args)


def recursion(name, times):
    """Heun on a Gaussian by hand, where dz/dt = f z + g^2 (z - alpha mu) / (2 v)."""
    alpha, _, drift, squared = PAPERS[name]
    times = times.tolist()
    mean, variance = true_law(name, times[0])

    def slope(t):
        centre, v = true_law(name, t)
        return drift(t) + squared(t) / (2 * v), -squared(t) * centre / (2 * v)

    for t, s in zip(times[:-1], times[1:], strict=True):
        centre, v = true_law(name, t)
        if s == 0:
            gain = alpha(t) * VARIANCE / v
            mean, variance = MEAN + gain * (mean - centre), gain**2 * variance
            continue
        (a, b), (c, d), h = slope(t), slope(s), s - t
        gain = 1 + h / 2 * (a + c * (1 + h * a))
        mean = gain * mean + h / 2 * (b + d + c * h * b)
        variance = gain**2 * variance
    return mean, variance


def check_recursion(sampler, name, times, schedule=None):
    """The law, to rounding."""
    mean, variance = found_law(silent(sampler), schedule or BUILT[name], times, name)
    expected = recursion(name, times)
    assert mean == pytest.approx(expected[0], rel=1e-8, abs=1e-12)
    assert variance == pytest.approx(expected[1], rel=1e-8)


@pytest.mark.parametrize("name", PAPERS)
def test_the_law_of_heun_is_that_of_the_recursion(name):
    for n in (1, 2, 7, 30):
        check_recursion(probability_flow, name, uniform_times(n, 0.95))
        check_recursion(probability_flow, name, karras_times(BUILT[name], n, t_max=0.95))
        check_recursion(probability_flow, name, GRIDS["random"](None, n))


def gaussian_flow(z, schedule, t, s):
    """Where the flow carries z from time t to s: distances from the mean grow like the standard deviation."""
    std = [(schedule.alpha(x) ** 2 * VARIANCE + schedule.sigma(x) ** 2).sqrt() for x in (t, s)]
    return schedule.alpha(s) * MEAN + std[1] / std[0] * (z - schedule.alpha(t) * MEAN)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PAPERS)
def test_heun_converges_to_the_closed_form_like_1_over_n_squared(name, grid):
    """The largest error on the way: at single times the leading terms of this Gaussian happen to cancel."""
    schedule, z = BUILT[name], torch.tensor([[1.3]], dtype=torch.float64)

    def error(n):
        states = probability_flow(denoiser_for(GAUSSIAN, schedule), schedule, z, GRIDS[grid](schedule, n))
        return max((state.z - gaussian_flow(z, schedule, 0.95, state.t)).abs().item() for state in states)

    assert convergence_order(error, [40, 80, 160]) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("name", ends_in_pure_noise)
def test_the_flow_leaves_pure_noise_with_second_order(name):
    """Where alpha is 0 drift and diffusion are infinite, the velocity is not."""
    schedule, z = BUILT[name], torch.tensor([[1.3]], dtype=torch.float64)

    def error(n):
        times = torch.linspace(1, 0.1, n + 1, dtype=torch.float64)
        found = last(probability_flow(denoiser_for(GAUSSIAN, schedule), schedule, z, times))
        return (found - gaussian_flow(z, schedule, 1.0, 0.1)).abs()

    assert schedule.drift(1.0) == -math.inf
    if name == "zero_terminal_snr":  # made of a table: second order until the kinks of its 1000 knots show
        assert error(64) < 1e-3
    else:
        assert convergence_order(error, [16, 32, 64]) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_scipy_is_exact_to_its_tolerance(name, tolerance):
    schedule, times = BUILT[name], torch.tensor([0.95, 0.5, 0.1], dtype=torch.float64)
    denoiser = count_calls(denoiser_for(GAUSSIAN, schedule))
    z = schedule.sigma(0.95) * standard_normal(0)(torch.empty(3, 1, dtype=torch.float64))
    found = trajectory(probability_flow(denoiser, schedule, z, times, "scipy", tolerance, tolerance))
    for state in found:
        exact = gaussian_flow(z, schedule, 0.95, state.t)
        assert ((state.z - exact).abs() / (1 + exact.abs()) < 100 * tolerance).all()
    assert denoiser.calls > 20


MIXTURE = GaussianMixture(
    torch.tensor([0.3, 0.7]),
    torch.tensor([[-1.0], [0.8]], dtype=torch.float64),
    torch.tensor([[[0.04]], [[0.1]]], dtype=torch.float64),
)


def quantile(z, schedule, t):
    """The distribution function of the noised mixture at z."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    std = (alpha**2 * MIXTURE.covariances[:, 0, 0] + sigma**2).sqrt()
    return (MIXTURE.weights * torch.special.ndtr((z - alpha * MIXTURE.means[:, 0]) / std)).sum(1)


def check_quantiles(sampler, schedule, times, tolerance):
    """On a line the flow cannot cross itself, so it keeps the quantile of every state: its marginals are the mixture's."""
    z = schedule.alpha(times[0]) * 0.1 + schedule.sigma(times[0]) * torch.linspace(-2.5, 2.5, 21).double()[:, None]
    start = quantile(z, schedule, times[0])
    for state in sampler(denoiser_for(MIXTURE, schedule), schedule, z, times):
        torch.testing.assert_close(quantile(state.z, schedule, state.t), start, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PAPERS)
def test_the_flow_keeps_the_quantiles_of_a_mixture(name):
    schedule = BUILT[name]
    check_quantiles(scipy_flow, schedule, torch.tensor([0.95, 0.6, 0.2, 0.02]).double(), 1e-7)
    times = karras_times(schedule, 200, t_max=0.95)
    check_quantiles(probability_flow, schedule, times[times > 0.1], 2e-4)


def test_heun_on_edms_grid_is_edms_sampler():
    """Algorithm 1 of arXiv 2206.00364 without churn, typed in its own time sigma."""
    schedule, n = BUILT["edm"], 18
    levels = [(80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(n)] + [0.0]
    start = 80 * standard_normal(0)(torch.empty(2, 3, 4, dtype=torch.float64))
    z = start
    for now, later in zip(levels[:-1], levels[1:], strict=True):
        slope = (z - torch.tanh(z / (1 + now))) / now
        guess = z + (later - now) * slope
        if later > 0:
            guess = z + (later - now) * (slope + (guess - torch.tanh(guess / (1 + later))) / later) / 2
        z = guess
    found = last(
        probability_flow(lambda z, t: torch.tanh(z / (1 + 80 * t)), schedule, start, karras_times(schedule, n))
    )
    torch.testing.assert_close(found, z, rtol=1e-8, atol=1e-8)


def edm_by_the_paper(z, levels, draws, churn, low, high, amount, second_sigma=None):
    """Algorithm 2 of arXiv 2206.00364 in its own time sigma; draws() is the noise of a step that churns."""
    for now, later in zip(levels[:-1], levels[1:], strict=True):
        gamma = min(churn / (len(levels) - 1), math.sqrt(2) - 1) if low <= now <= high else 0.0
        raised = now + gamma * now
        if gamma:
            z = z + math.sqrt(raised**2 - now**2) * amount * draws()
        slope = (z - torch.tanh(z / (1 + raised))) / raised
        guess = z + (later - raised) * slope
        if later > 0:
            late = (guess - torch.tanh(guess / (1 + later))) / (second_sigma or (lambda now, later: later))(now, later)
            guess = z + (later - raised) * (slope + late) / 2
        z = guess
    return z


@pytest.mark.parametrize("churn", [0.0, 3.0, 40.0])
def test_heun_with_churn_is_edms_stochastic_sampler(churn):
    """Their grid from 80 and their window; a start at 40 leaves room for churn at the first step."""
    schedule, n = BUILT["edm"], 12
    levels = [(40 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 40 ** (1 / 7))) ** 7 for i in range(n)] + [0.0]
    times = torch.tensor(levels, dtype=torch.float64) / 80
    start = 40 * standard_normal(0)(torch.empty(2, 3, 4, dtype=torch.float64))
    noise, window = standard_normal(1), (0.05, 50.0)
    expected = edm_by_the_paper(start, levels, lambda: noise(start), churn, *window, 1.003)

    def found(**options):
        options = {"s_churn": churn, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003, **options}
        denoiser = count_calls(lambda z, t: torch.tanh(z / (1 + 80 * t)))
        sample = last(heun(denoiser, schedule, start, times, noise=standard_normal(1), **options))
        assert denoiser.calls == 2 * n - 1
        return sample

    torch.testing.assert_close(found(), expected, rtol=1e-8, atol=1e-8)
    for other in ({"s_churn": churn / 20}, {"s_noise": 1.1}, {"s_min": 1.0}, {"s_max": 1.0}):
        assert torch.allclose(found(**other), expected, rtol=1e-6) == (churn == 0)
    noise = standard_normal(1)
    mutant = edm_by_the_paper(start, levels, lambda: noise(start), churn, *window, 1.003, lambda now, later: now)
    assert not torch.allclose(found(), mutant, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["vp_linear", "sub_vp", "flow", "edm"])
def test_churn_keeps_the_law(name):
    """Noise that is added and taken away again: with fine steps the variance is that of the data at the last time."""
    schedule, prior = BUILT[name], Gaussian(torch.tensor([0.4]).double(), torch.tensor([[0.25]]).double())
    times = karras_times(schedule, 300, t_max=0.9)
    times = times[times > 0.1]

    def run(noise):
        alpha, sigma = schedule.alpha(times[0]), schedule.sigma(times[0])
        z = alpha * 0.4 + (0.25 * alpha**2 + sigma**2).sqrt() * noise(torch.empty(1, 1, dtype=torch.float64))
        return last(heun(denoiser_for(prior, schedule), schedule, z, times, s_churn=30.0, noise=noise))

    mean, covariance = affine_law(run, 1)
    alpha, sigma = schedule.alpha(times[-1]), schedule.sigma(times[-1])
    assert mean.item() == pytest.approx(0.4 * alpha.item(), abs=1e-3)
    assert covariance.item() == pytest.approx((0.25 * alpha**2 + sigma**2).item(), rel=5e-3)


def test_churn_stops_at_pure_noise_and_never_draws_there():
    drawn = []

    def noise(like):
        drawn.append(like)
        return torch.zeros_like(like)

    for name in ("vp_linear", "vp_cosine", "edm"):
        drawn.clear()
        states = heun(lambda z, t: z / 2, BUILT[name], torch.ones(1, 2), uniform_times(4), s_churn=4.0, noise=noise)
        assert last(states).isfinite().all()
        assert len(drawn) == 3  # four steps, the first from t = 1, which has no noisier time


# Bugs that public code has had.


class DoubledSlopes(Schedule):
    """Derivatives of alpha and sigma twice: the VP bug of public code."""

    def slopes(self, t):
        return tuple(2 * slope for slope in super().slopes(t))


def broken_flow(score_factor=0.5, sign=1.0):
    """Heun's rule on f z - score_factor g^2 score; right with 1/2."""

    def sampler(denoiser, schedule, z, times):
        def slope(z, t):
            score = from_z_0(denoiser(z, t), "score", z, t, schedule)
            return sign * (schedule.drift(t) * z - score_factor * schedule.diffusion(t) ** 2 * score)

        yield State(z, times[0], z)
        for t, s in zip(times[:-1], times[1:], strict=True):
            if s == 0:
                z = denoiser(z, t)
            else:
                early = slope(z, t)
                z = z + (s - t) / 2 * (early + slope(z + (s - t) * early, s))
            yield State(z, s, z)

    return sampler


def test_the_loop_of_the_mutants_passes_with_the_right_step():
    check_recursion(broken_flow(), "vp_linear", uniform_times(7, 0.95))
    check_quantiles(broken_flow(), BUILT["vp_linear"], torch.linspace(0.95, 0.1, 200).double(), 1e-3)


@pytest.mark.parametrize("broken", [{"score_factor": 1.0}, {"score_factor": 0.25}, {"sign": -1.0}])
def test_known_bugs_miss_recursion_and_quantiles(broken):
    for name in ("vp_linear", "ve"):
        with pytest.raises(AssertionError):
            check_recursion(broken_flow(**broken), name, uniform_times(7, 0.95))
        with pytest.raises(AssertionError):
            check_quantiles(broken_flow(**broken), BUILT[name], torch.linspace(0.95, 0.1, 200).double(), 1e-2)


def test_doubled_derivatives_are_noticed():
    schedule = DoubledSlopes(BUILT["vp_linear"].alpha, BUILT["vp_linear"].sigma)
    with pytest.raises(AssertionError):
        check_recursion(probability_flow, "vp_linear", uniform_times(7, 0.95), schedule)
    with pytest.raises(AssertionError):
        check_quantiles(scipy_flow, schedule, torch.tensor([0.95, 0.5, 0.1]).double(), 1e-2)


@pytest.mark.parametrize("name", ["vp_linear", "ve", "flow"])
def test_flow_and_sde_share_their_marginals(name):
    """Both laws at three times, extrapolated to infinitely many steps from n and 2 n by the order of each."""
    for end in (0.7, 0.4, 0.15):

        def law(sampler, n, end=end):
            times = torch.linspace(0.95, end, n + 1, dtype=torch.float64)
            return torch.tensor(found_law(sampler, BUILT[name], times, name))

        sde = 2 * law(reverse_sde, 100) - law(reverse_sde, 50)
        ode = (4 * law(silent(probability_flow), 50) - law(silent(probability_flow), 25)) / 3
        truth = torch.tensor(true_law(name, end))
        torch.testing.assert_close(sde, truth, rtol=1e-2, atol=2e-3)
        torch.testing.assert_close(ode, truth, rtol=5e-3, atol=1e-3)


@every_schedule
@pytest.mark.parametrize("solver", ["heun", "scipy"])
def test_a_batch_agrees_with_its_samples(schedule, solver):
    """Exactly on a grid; within the tolerance with scipy, whose steps the batch shares."""
    z = standard_normal(0)(torch.empty(3, 1, dtype=torch.float64)) * torch.tensor([[1.0], [5.0], [0.01]]).double()
    times = torch.tensor([0.9, 0.8, 0.75]).double()
    denoiser = denoiser_for(MIXTURE, schedule)
    together = last(probability_flow(denoiser, schedule, z, times, solver))
    for i in range(3):
        alone = last(probability_flow(denoiser, schedule, z[i : i + 1], times, solver))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12 if solver == "heun" else 1e-3)


IMAGES = GaussianMixture(
    torch.tensor([0.4, 0.6]),
    0.5 * standard_normal(5)(torch.empty(2, 30, dtype=torch.float64)),
    torch.stack([0.05 * torch.eye(30, dtype=torch.float64), 0.2 * torch.eye(30, dtype=torch.float64)]),
    shape=(3, 2, 5),
)


def round_trip(schedule, times, **solver):
    """How far sample -> noise -> sample comes from where it left, in root mean square."""
    denoiser = denoiser_for(IMAGES, schedule)
    picture = IMAGES.sample(4, standard_normal(6))
    noisy = trajectory(invert(denoiser, schedule, picture, times, **solver))
    assert [state.t.item() for state in noisy] == times.flip(0).tolist()
    assert torch.equal(noisy[0].z, picture) and torch.equal(noisy[0].z_0, picture)
    back = last(probability_flow(denoiser, schedule, noisy[-1].z, times, **solver))
    return (back - picture).square().mean().sqrt().item()


@pytest.mark.parametrize("name", [name for name in PAPERS if name not in ("ve", "edm")])
def test_a_sample_survives_the_round_trip_to_second_order(name):
    def error(n):
        return round_trip(BUILT[name], karras_times(BUILT[name], n, t_max=0.98, sigma_min=1e-3))

    assert error(20) < 0.1
    assert convergence_order(error, [20, 40, 80]) > 1.7


@pytest.mark.parametrize("name", ["edm", "ve", "from_betas"])
def test_a_sample_survives_the_round_trip(name):
    assert round_trip(BUILT[name], karras_times(BUILT[name], 80, sigma_min=0.01)) < 0.02


@pytest.mark.parametrize("name", ["vp_cosine", "flow"])
def test_the_round_trip_reaches_pure_noise(name):
    assert round_trip(BUILT[name], uniform_times(80)) < 3e-3


def test_scipy_makes_the_round_trip_to_its_tolerance():
    """Between noisy times the tolerance is all; the step from 0 is right to sigma^4, sigma = 0.01."""
    schedule = BUILT["vp_linear"]
    denoiser = denoiser_for(IMAGES, schedule)
    z = IMAGES.sample(4, standard_normal(6))
    times = torch.tensor([0.9, 0.05]).double()
    noisy = last(invert(denoiser, schedule, z, times, "scipy", 1e-10, 1e-10))
    torch.testing.assert_close(last(scipy_flow(denoiser, schedule, noisy, times)), z, rtol=0, atol=1e-7)
    times = torch.cat([torch.tensor([0.9]).double(), schedule.time_at([-2 * math.log(0.01)]), torch.zeros(1).double()])
    assert round_trip(schedule, times, solver="scipy", rtol=1e-10, atol=1e-10) < 1e-5


def test_the_noise_of_a_sample_has_the_law_of_noise():
    """2000 samples of a mixture walked to t = 1 of a schedule that ends in pure noise: uniform quantiles of N(0, 1)."""
    schedule = BUILT["flow"]
    z = MIXTURE.sample(2000, standard_normal(0))
    noise = last(invert(denoiser_for(MIXTURE, schedule), schedule, z, uniform_times(60)))
    levels = torch.special.ndtr(noise[:, 0]).sort().values
    gap = (levels - (torch.arange(2000) + 0.5) / 2000).abs().max()
    assert gap < 1.95 / math.sqrt(2000)  # Kolmogorov-Smirnov, one chance in a thousand


def test_ddim_walked_backwards_returns_to_first_order():
    schedule, denoiser = BUILT["vp_cosine"], denoiser_for(IMAGES, BUILT["vp_cosine"])
    picture = IMAGES.sample(4, standard_normal(6))

    def error(n):
        times = torch.linspace(0.95, 0.05, n + 1, dtype=torch.float64)
        z = picture
        for t, s in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):  # s > t: inversion
            z = ddim_step(z, denoiser(z, t), schedule, t, s)
        return (last(ddim(denoiser, schedule, z, times)) - picture).square().mean().sqrt()

    assert convergence_order(error, [100, 200, 400]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_calls_are_two_a_step_and_one_at_the_clean_end(n):
    schedule, z = BUILT["vp_cosine"], torch.ones(2, 3)
    for walk in (probability_flow, invert):
        denoiser = count_calls(lambda z, t: z / 2)
        last(walk(denoiser, schedule, z, uniform_times(n)))
        assert denoiser.calls == 2 * n - 1
        if n > 1:
            denoiser.calls = 0
            last(walk(denoiser, schedule, z, uniform_times(n)[:-1]))
            assert denoiser.calls == 2 * (n - 1)


def test_scipy_keeps_the_dtype_that_the_denoiser_is_asked_in():
    seen = set()

    def denoiser(z, t):
        seen.add((z.dtype, tuple(z.shape)))
        return z / 2

    z = torch.ones(2, 3, 4, 5)
    found = last(probability_flow(denoiser, BUILT["vp_linear"], z, torch.tensor([0.9, 0.1]), "scipy"))
    assert seen == {(torch.float32, (2, 3, 4, 5))} and found.dtype == torch.float32


def test_a_flow_that_scipy_cannot_follow_says_so():
    """NaN would keep scipy busy for ever; a velocity that jumps about makes its steps vanish."""
    with pytest.raises(
        ValueError, match="denoiser must return finite values, but NaN or infinite ones came at t = 0.9"
    ):
        last(probability_flow(lambda z, t: z * math.nan, BUILT["vp_linear"], torch.ones(1, 2), [0.9, 0.1], "scipy"))
