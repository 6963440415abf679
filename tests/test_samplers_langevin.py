"""Annealed Langevin dynamics: its exact law on Gaussians, level by level, and the variance at which a level settles."""

from __future__ import annotations

import math

import pytest
import torch
from test_schedules import BUILT, every_schedule

from tutorial_lib.denoisers import count_calls, from_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.samplers import annealed_langevin, last, trajectory
from tutorial_lib.schedules import karras_times
from tutorial_lib.steps import langevin_step

ONE = torch.empty(1, 1, dtype=torch.float64)
MEAN, VARIANCE = 0.4, 0.25  # of the data
GAUSSIAN = Gaussian(torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[VARIANCE]], dtype=torch.float64))


def found_law(sampler, schedule, times, **options):
    """Exact mean and variance of what a sampler puts out, started from N(0, sigma^2)."""

    def run(noise):
        z = schedule.sigma(times[0]) * noise(ONE)
        return last(sampler(denoiser_for(GAUSSIAN, schedule), schedule, z, times, noise=noise, **options))

    mean, covariance = affine_law(run, 1)
    return mean.item(), covariance.item()


def recursion(schedule, times, steps, step_size):
    """By hand: score = -(z - alpha mu) / v; between levels z grows by the ratio of alphas; 0 is E[z_0 | z]."""
    times = times.tolist()
    mean, variance, before = 0.0, schedule.sigma(times[0]).item() ** 2, times[0]
    for t in times:
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        if sigma == 0:
            alpha, sigma = schedule.alpha(before).item(), schedule.sigma(before).item()
            gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
            return MEAN + gain * (mean - alpha * MEAN), gain**2 * variance
        ratio = alpha / schedule.alpha(before).item()
        mean, variance, v, a = ratio * mean, ratio**2 * variance, alpha**2 * VARIANCE + sigma**2, step_size * sigma**2
        for _ in range(steps):
            mean = mean - a / 2 * (mean - alpha * MEAN) / v
            variance = (1 - a / 2 / v) ** 2 * variance + a
        before = t
    return mean, variance


def check_recursion(sampler, schedule, times, steps=4, step_size=0.3):
    """The law, to rounding."""
    found = found_law(sampler, schedule, times, steps=steps, step_size=step_size)
    expected = recursion(schedule, times, steps, step_size)
    assert found[0] == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert found[1] == pytest.approx(expected[1], rel=1e-9)


@every_schedule
def test_the_law_is_that_of_the_recursion(schedule):
    for n in (1, 2, 7):
        times = karras_times(schedule, n, t_max=0.95)
        check_recursion(annealed_langevin, schedule, times)
        check_recursion(annealed_langevin, schedule, times[:-1], steps=1, step_size=1.5)


@pytest.mark.parametrize("name", ["ve", "vp_linear"])
@pytest.mark.parametrize("step_size", [0.05, 0.5, 2.0])
def test_one_level_settles_at_its_known_variance(name, step_size):
    """v / (1 - a / (4 v)), not v: mean and variance after many steps at a single noise level."""
    schedule, t = BUILT[name], 0.6
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    v, a = alpha**2 * VARIANCE + sigma**2, step_size * sigma**2
    steps = math.ceil(20 * 2 * v / a)  # the start is forgotten to exp(-20)
    mean, variance = found_law(
        annealed_langevin, schedule, torch.tensor([t], dtype=torch.float64), steps=steps, step_size=step_size
    )
    assert variance == pytest.approx(v / (1 - a / (4 * v)), rel=1e-9)
    assert mean == pytest.approx(alpha * MEAN, rel=1e-7)


def levels(denoiser, schedule, z, times, steps, step_size, noise, step=None, size=None, end=True):
    """NCSN written out, with places to break it; as a list, for `last`."""
    size = size or (lambda t: step_size * schedule.sigma(t) ** 2)
    step = step or langevin_step
    before = times[0]
    for t in times:
        if t == 0:
            z = denoiser(z, before) if end else denoiser(z, before) + 0.01 * noise(z)
            continue
        z = schedule.alpha(t) / schedule.alpha(before) * z
        for _ in range(steps):
            z = step(z, from_z_0(denoiser(z, t), "score", z, t, schedule), size(t), noise)
        before = t
    yield trajectory(annealed_langevin(denoiser, schedule, z, times[:1], steps=1, noise=noise))[0]


def epsilon_convention(z, score, a, noise):
    return z + a * score + math.sqrt(2 * a) * noise(z)


def variance_for_std(z, score, a, noise):
    return z + a / 2 * score + a * noise(z)


def whole_step_on_the_score(z, score, a, noise):
    return z + a * score + a.sqrt() * noise(z)


def flipped_score(z, score, a, noise):
    return langevin_step(z, -score, a, noise)


MUTANTS = {
    "steps of the other convention": {"step": epsilon_convention},
    "variance for standard deviation": {"step": variance_for_std},
    "the half forgotten": {"step": whole_step_on_the_score},
    "flipped score": {"step": flipped_score},
    "noise at the last step": {"end": False},
    "a constant step": {"size": lambda t: torch.tensor(1e-3)},
    "sigma for sigma^2": {"size": lambda t: 0.3 * BUILT["ve"].sigma(t)},
}


def mutated(options):
    def sampler(denoiser, schedule, z, times, steps, step_size, noise):
        return levels(denoiser, schedule, z, times, steps, step_size, noise, **options)

    return sampler


def test_the_loop_of_the_mutants_passes_with_the_right_step():
    check_recursion(mutated({}), BUILT["ve"], karras_times(BUILT["ve"], 5, t_max=0.95))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_known_bugs_miss_the_recursion(mutant):
    with pytest.raises(AssertionError):
        check_recursion(mutated(MUTANTS[mutant]), BUILT["ve"], karras_times(BUILT["ve"], 5, t_max=0.95))


def test_a_state_per_level_and_the_start():
    schedule, times = BUILT["ve"], karras_times(BUILT["ve"], 5)
    denoiser, z = count_calls(lambda z, t: z / 2), torch.ones(2, 3, 4, 5)
    states = trajectory(annealed_langevin(denoiser, schedule, z, times, steps=7, noise=standard_normal(0)))
    assert denoiser.calls == 5 * 7 + 1
    assert [state.t.item() for state in states] == [1.0, *times.tolist()]
    assert torch.equal(states[0].z, z) and torch.equal(states[0].z_0, z / 2)
    assert torch.equal(states[-1].z, states[-2].z / 2) and torch.equal(states[-1].z, states[-1].z_0)
    noisy = count_calls(lambda z, t: z / 2)
    assert len(trajectory(annealed_langevin(noisy, schedule, z, times[:-1], steps=7))) == 6
    assert noisy.calls == 35


def test_many_small_steps_find_the_weights_of_a_mixture():
    """Ten levels of a geometric ladder from 3 to 0.1, well mixed: 0.2 to 0.8, within five standard errors."""
    schedule = BUILT["ve"]
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double()
    prior = GaussianMixture(torch.tensor([0.2, 0.8]), means, 0.01 * torch.eye(2).double().expand(2, 2, 2))
    ladder = torch.logspace(math.log10(3), -1, 10, dtype=torch.float64)
    times = torch.cat([schedule.time_at(-2 * ladder.log()), torch.zeros(1).double()])
    z = 3 * standard_normal(0)(torch.empty(1500, 2, dtype=torch.float64))
    sampler = annealed_langevin(
        denoiser_for(prior, schedule), schedule, z, times, steps=40, step_size=0.2, noise=standard_normal(1)
    )
    share = (last(sampler)[:, 0] < 0).double().mean().item()
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 1500)
