"""The reverse SDE against scalar recursions typed from the papers, its order, and correctors sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from test_schedules import BUILT

from tutorial_lib.denoisers import from_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law, convergence_order, denoiser_for, gaussian_w2
from tutorial_lib.samplers import State, last, predictor_corrector, reverse_sde, trajectory
from tutorial_lib.samplers.sde import corrector_step_size
from tutorial_lib.schedules import Schedule, karras_times, uniform_times
from tutorial_lib.steps import langevin_step

ONE = torch.empty(1, 1, dtype=torch.float64)
LINEAR = {"drift": lambda t: -(0.1 + 19.9 * t) / 2, "alpha": lambda t: math.exp(-(0.1 * t + 19.9 * t**2 / 2) / 2)}
PAPERS = {  # alpha, sigma^2, f and g^2 as the papers print them
    "vp_linear": (LINEAR["alpha"], lambda t: 1 - LINEAR["alpha"](t) ** 2, LINEAR["drift"], lambda t: 0.1 + 19.9 * t),
    "sub_vp": (
        LINEAR["alpha"],
        lambda t: (1 - LINEAR["alpha"](t) ** 2) ** 2,
        LINEAR["drift"],
        lambda t: (0.1 + 19.9 * t) * (1 - math.exp(-2 * (0.1 * t + 19.9 * t**2 / 2))),
    ),
    "ve": (
        lambda t: 1,
        lambda t: 1e-4 * 5000 ** (2 * t),
        lambda t: 0,
        lambda t: 2e-4 * math.log(5000) * 5000 ** (2 * t),
    ),
    "edm": (lambda t: 1, lambda t: (80 * t) ** 2, lambda t: 0, lambda t: 2 * 80**2 * t),
    "flow": (lambda t: 1 - t, lambda t: t**2, lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
    "vp_cosine": (
        lambda t: math.cos((t + 0.008) * math.pi / 2.016) / math.cos(0.008 * math.pi / 2.016),
        lambda t: 1 - (math.cos((t + 0.008) * math.pi / 2.016) / math.cos(0.008 * math.pi / 2.016)) ** 2,
        lambda t: -math.pi / 2.016 * math.tan((t + 0.008) * math.pi / 2.016),
        lambda t: math.pi / 1.008 * math.tan((t + 0.008) * math.pi / 2.016),
    ),
}
MEAN, VARIANCE = 0.4, 0.25  # of the data
GAUSSIAN = Gaussian(torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[VARIANCE]], dtype=torch.float64))
GRIDS = {  # from 0.95 down to 0.1, without a last step to 0
    "uniform": lambda schedule, n: torch.linspace(0.95, 0.1, n + 1, dtype=torch.float64),
    "karras": lambda schedule, n: between_levels(schedule, n),
    "random": lambda schedule, n: jittered(n),
}


def between_levels(schedule, n):
    """Karras's spacing in (sigma/alpha)^(1/7) between the noise levels of times 0.95 and 0.1."""
    ends = (-schedule.log_snr(torch.tensor([0.95, 0.1]).double()) / 2).exp()
    roots = torch.linspace(*(ends ** (1 / 7)).tolist(), n + 1, dtype=torch.float64)
    return schedule.time_at(-14 * roots.log())


def jittered(n):
    """A uniform grid with every inner time moved by up to 0.4 of a step."""
    shift = torch.rand(n + 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64) - 0.5
    shift[[0, -1]] = 0
    return 0.95 - 0.85 * (torch.arange(n + 1) + 0.8 * shift) / n


def true_law(name, t):
    """Mean and variance of the noised data."""
    alpha, sigma_squared, _, _ = PAPERS[name]
    return alpha(t) * MEAN, alpha(t) ** 2 * VARIANCE + sigma_squared(t)


def found_law(sampler, schedule, times, name):
    """Exact mean and variance of what a sampler puts out, started from the true law."""
    start_mean, start_variance = true_law(name, times[0].item())

    def run(noise):
        z = start_mean + math.sqrt(start_variance) * noise(ONE)
        return last(sampler(denoiser_for(GAUSSIAN, schedule), schedule, z, times, noise=noise))

    mean, covariance = affine_law(run, 1)
    return mean.item(), covariance.item()


def recursion(name, times):
    """Euler-Maruyama on a Gaussian by hand: score = -(z - alpha mu) / v, and a last step to 0 is E[z_0 | z]."""
    alpha, _, drift, squared = PAPERS[name]
    times = times.tolist()
    mean, variance = true_law(name, times[0])
    for t, s in zip(times[:-1], times[1:], strict=True):
        centre, v = true_law(name, t)
        if s == 0:
            gain = alpha(t) * VARIANCE / v
            mean, variance = MEAN + gain * (mean - centre), gain**2 * variance
        else:
            gain = 1 - (t - s) * (drift(t) + squared(t) / v)
            mean = gain * mean + (t - s) * squared(t) / v * centre
            variance = gain**2 * variance + (t - s) * squared(t)
    return mean, variance


def check_recursion(sampler, name, times, schedule=None):
    """The law, to rounding."""
    mean, variance = found_law(sampler, schedule or BUILT[name], times, name)
    expected = recursion(name, times)
    assert mean == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert variance == pytest.approx(expected[1], rel=1e-8)


def predictor_alone(*args, noise):
    return predictor_corrector(*args, corrector_steps=0, noise=noise)


@pytest.mark.parametrize("sampler", [reverse_sde, predictor_alone])
@pytest.mark.parametrize("name", PAPERS)
def test_the_law_is_that_of_the_recursion(sampler, name):
    for n in (1, 2, 7, 30):
        check_recursion(sampler, name, uniform_times(n, 0.95))
        check_recursion(sampler, name, karras_times(BUILT[name], n, t_max=0.95))
        check_recursion(sampler, name, GRIDS["random"](None, n))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["vp_linear", "edm", "flow"])
def test_the_error_of_the_law_shrinks_like_1_over_n(name, grid):
    def error(n):
        times = GRIDS[grid](BUILT[name], n)
        mean, variance = found_law(reverse_sde, BUILT[name], times, name)
        true_mean, true_variance = true_law(name, times[-1].item())
        return gaussian_w2(
            *(
                torch.tensor(x).reshape(shape)
                for x, shape in ((mean, (1,)), (variance, (1, 1)), (true_mean, (1,)), (true_variance, (1, 1)))
            )
        )

    assert convergence_order(error, [40, 80, 160]) == pytest.approx(1, abs=0.2)


# Bugs that public code has had, each a step (z, z_0, schedule, t, s, noise).


def euler(z, z_0, schedule, t, s, noise, score_factor=1.0, sign=1.0, end=True):
    """The right step, written out, with places to break it."""
    if s == 0 and end:
        return z_0
    score = from_z_0(z_0, "score", z, t, schedule)
    slope = schedule.drift(t) * z - score_factor * schedule.diffusion(t) ** 2 * score
    return z + sign * slope * (s - t) + schedule.diffusion(t) * (t - s).sqrt() * noise(z)


class DoubledDrift(Schedule):
    """d log alpha / dt twice, and g^2 from it: the VP bug of public code."""

    def drift(self, t):
        return 2 * super().drift(t)


MUTANTS = {
    "half of g^2": lambda *args: euler(*args, score_factor=0.5),
    "wrong sign of dt": lambda *args: euler(*args, sign=-1.0),
    "noise at the last step": lambda *args: euler(*args, end=False),
    "variance for standard deviation": lambda z, z_0, schedule, t, s, noise: euler(
        z, z_0, schedule, t, s, lambda like: schedule.diffusion(t) * (t - s).sqrt() * noise(like)
    ),
    "no square root of dt": lambda z, z_0, schedule, t, s, noise: euler(
        z, z_0, schedule, t, s, lambda like: (t - s).sqrt() * noise(like)
    ),
    "drift and diffusion of the other end": lambda z, z_0, schedule, t, s, noise: (
        z_0
        if s == 0
        else z
        + (schedule.drift(s) * z - schedule.diffusion(s) ** 2 * from_z_0(z_0, "score", z, t, schedule)) * (s - t)
        + schedule.diffusion(s) * (t - s).sqrt() * noise(z)
    ),
}


def walked(step):
    """The samplers' loop around a step of our own."""

    def sampler(denoiser, schedule, z, times, noise):
        for t, s in zip(times[:-1], times[1:], strict=True):
            z = step(z, denoiser(z, t), schedule, t, s, noise)
            yield State(z, s, z)

    return sampler


def test_the_loop_of_the_mutants_passes_with_the_right_step():
    check_recursion(walked(euler), "vp_linear", uniform_times(7, 0.95))


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", ["vp_linear", "ve"])
def test_known_bugs_miss_the_recursion(mutant, name):
    with pytest.raises(AssertionError):
        check_recursion(walked(MUTANTS[mutant]), name, uniform_times(7, 0.95))


@pytest.mark.parametrize("name", ["vp_linear", "sub_vp", "vp_cosine", "flow"])
def test_a_doubled_derivative_misses_the_recursion(name):
    schedule = DoubledDrift(BUILT[name].alpha, BUILT[name].sigma)
    with pytest.raises(AssertionError):
        check_recursion(reverse_sde, name, uniform_times(7, 0.95), schedule)


STATES, SCORES, DRAWN = standard_normal(0)(torch.empty(3, 4, 3, 6, 7, dtype=torch.float64))
SIZES = torch.tensor([1.0, 30.0, 0.02, 5.0], dtype=torch.float64)  # very different batch mates


def check_correctors_are_strangers(step_size):
    """The step size of a sample is the same alone and in company."""
    scores = SCORES * SIZES.view(-1, 1, 1, 1)
    together = step_size(scores, DRAWN, 0.16, 100.0)
    alone = [step_size(scores[i : i + 1], DRAWN[i : i + 1], 0.16, 100.0) for i in range(4)]
    torch.testing.assert_close(together.expand(4), torch.cat([size.reshape(1) for size in alone]), rtol=1e-12, atol=0)


def norms_over_the_batch(score, drawn, snr, sigma):
    """torch.linalg.norm of the whole tensor."""
    return (2 * snr * drawn.norm() / score.norm()) ** 2


def mean_norms_over_the_batch(score, drawn, snr, sigma):
    """The average of the norms, as in the authors' code."""
    return (2 * snr * drawn.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()) ** 2


def test_the_corrector_does_not_know_its_batch_mates():
    check_correctors_are_strangers(corrector_step_size)


@pytest.mark.parametrize("mutant", [norms_over_the_batch, mean_norms_over_the_batch])
def test_a_corrector_that_knows_its_batch_mates_is_noticed(mutant):
    with pytest.raises(AssertionError):
        check_correctors_are_strangers(mutant)


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.3])
def test_the_corrector_has_the_signal_to_noise_ratio_of_the_paper(snr):
    """In its own convention, z + e score + sqrt(2 e) noise with e = 2 (snr ||noise|| / ||score||)^2, sample by sample."""
    scores = SCORES * SIZES.view(-1, 1, 1, 1)
    size = corrector_step_size(scores, DRAWN, snr, 1e3)
    for i in range(4):
        epsilon = 2 * (snr * math.sqrt((DRAWN[i] ** 2).sum()) / math.sqrt((scores[i] ** 2).sum())) ** 2
        assert size[i].item() == pytest.approx(2 * epsilon, rel=1e-12)
        paper = STATES[i] + epsilon * scores[i] + math.sqrt(2 * epsilon) * DRAWN[i]
        torch.testing.assert_close(langevin_step(STATES, scores, size, lambda like: DRAWN)[i], paper)
    pull = (langevin_step(STATES, scores, size, torch.zeros_like) - STATES).flatten(1).norm(dim=1)
    push = size.sqrt() * DRAWN.flatten(1).norm(dim=1)
    torch.testing.assert_close(pull, snr * push)


def test_a_vanishing_score_makes_no_giant_step():
    size = corrector_step_size(torch.zeros(2, 3), torch.ones(2, 3), 0.16, 0.5)
    assert size.tolist() == [0.25, 0.25]
    schedule, times = BUILT["vp_linear"], uniform_times(40)
    denoiser = denoiser_for(Gaussian(torch.zeros(1).double(), torch.tensor([[0.25]]).double()), schedule)
    z = standard_normal(0)(torch.empty(4000, 1, dtype=torch.float64))
    assert last(predictor_corrector(denoiser, schedule, z, times, noise=standard_normal(1))).abs().max() < 8


@pytest.mark.parametrize("corrector_steps", [1, 3])
def test_predictor_corrector_is_its_parts(corrector_steps):
    """Step by step, from the same noise: the predictor's step, then Langevin steps at the time arrived at."""
    schedule, times = BUILT["vp_linear"], torch.tensor([0.9, 0.6, 0.2, 0.0]).double()

    def denoiser(z, t):
        return torch.tanh(z) * (1 - t)

    noise, z = standard_normal(3), STATES
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = euler(z, denoiser(z, t), schedule, t, s, noise)
        for _ in range(corrector_steps if s > 0 else 0):
            score, drawn = from_z_0(denoiser(z, s), "score", z, s, schedule), noise(z)
            z = langevin_step(z, score, corrector_step_size(score, drawn, 0.1, schedule.sigma(s)), lambda like: drawn)  # noqa: B023
    states = trajectory(
        predictor_corrector(denoiser, schedule, STATES, times, corrector_steps, 0.1, noise=standard_normal(3))
    )
    torch.testing.assert_close(states[-1].z, z)
    assert torch.equal(states[-1].z, states[-2].z_0)


def test_correctors_bring_the_law_nearer_to_the_truth():
    """Twenty steps, 64 dimensions: the variance too wide by the predictor's error loses a quarter of the excess."""
    schedule, times = BUILT["vp_linear"], uniform_times(20)[:-1]
    denoiser = denoiser_for(Gaussian(torch.zeros(64).double(), 0.25 * torch.eye(64).double()), schedule)
    z = standard_normal(1)(torch.empty(1500, 64, dtype=torch.float64))
    truth = (schedule.alpha(times[-1]) ** 2 * 0.25 + schedule.sigma(times[-1]) ** 2).item()
    plain, corrected = (
        last(sampler(denoiser, schedule, z, times, noise=standard_normal(2))).var().item() - truth
        for sampler in (reverse_sde, predictor_corrector)
    )
    error = truth * math.sqrt(2 / z.numel())  # standard error of a variance
    assert plain > 10 * error and 0 < corrected < plain - 5 * error
