"""The adaptive SDE solver: its paper's algorithm typed for one sample, the law it ends in, the steps that it chooses."""

from __future__ import annotations

import math

import pytest
import torch
from test_samplers_sde import MEAN, PAPERS, VARIANCE, true_law
from test_schedules import BUILT

from tutorial_lib.denoisers import count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.samplers import adaptive_sde, last, trajectory

GOALS = (0.8, 0.4, 0.15)
LIKE = torch.empty(2, 3, dtype=torch.float64)


def curved(z, t):
    """Some denoiser, also for one time per sample."""
    t = torch.as_tensor(t)
    return torch.tanh(2 * z + 0.3) * (1 - (t[:, None] if t.ndim else t) / 2)


def by_the_paper(name, z, draw, late=True, same_noise=True, root=1.0, previous_counts=True):
    """Algorithm 1 of arXiv 2105.14080 for one state (D,), from goal to goal; draw() makes noise. With places to break."""
    alpha, sigma_squared, drift, squared = PAPERS[name]

    def step(state, t, h, drawn):
        score = (alpha(t) * curved(state, t) - state) / sigma_squared(t)
        return -h * drift(t) * state + h * squared(t) * score + math.sqrt(h * squared(t)) * drawn

    t, length, previous, tries = GOALS[0], 0.05, z, 0
    for goal in GOALS[1:]:
        while t > goal:
            h, tries = min(length, t - goal), tries + 1
            drawn = draw()
            plain = z + step(z, t, h, drawn)
            better = (z + plain + step(plain, t - h if late else t, h, drawn if same_noise else draw())) / 2
            largest = torch.maximum(plain.abs(), previous.abs()) if previous_counts else plain.abs()
            error = ((plain - better) / (0.05 * largest).clamp(min=0.02)).norm().item() / math.sqrt(len(z)) ** root
            if error <= 1:
                z, previous = better, plain
                t = goal if h == t - goal else t - h
            length = 0.9 * h * error**-0.9
    return z, tries


def check_by_the_paper(name, **broken):
    """Two samples that take different steps, in one batch, against each alone."""
    start = torch.tensor([[0.5], [3.0]]).double() * standard_normal(0)(LIKE)

    def streams():
        return [torch.Generator().manual_seed(seed) for seed in (5, 6)]

    options = {"rtol": 0.05, "atol": 0.02, "first_step": 0.05, "noise": standard_normal(streams())}
    denoiser = count_calls(curved)
    found = last(adaptive_sde(denoiser, BUILT[name], start, GOALS, **options))
    tries = []
    for i, generator in enumerate(streams()):
        noise = standard_normal(generator)
        expected, count = by_the_paper(name, start[i], lambda noise=noise: noise(LIKE[:1])[0], **broken)
        tries.append(count)
        torch.testing.assert_close(found[i], expected, rtol=1e-7, atol=1e-7)
    assert tries[0] != tries[1]
    assert denoiser.calls == 2 * max(tries)


@pytest.mark.parametrize("name", PAPERS)
def test_the_states_are_those_of_the_paper(name):
    check_by_the_paper(name)


@pytest.mark.parametrize(
    "broken",
    [{"late": False}, {"same_noise": False}, {"root": 0.0}, {"root": 2.0}, {"previous_counts": False}],
    ids=["old time", "new noise", "norm, not mean", "mean twice", "previous state forgotten"],
)
def test_other_algorithms_are_noticed(broken):
    with pytest.raises(AssertionError):
        check_by_the_paper("vp_linear", **broken)


def gaussian_denoiser(name):
    """E[z_0 | z] of independent numbers N(MEAN, VARIANCE), as many as a state has."""

    def denoiser(z, t):
        alpha, sigma = (f(t).view(-1, 1) for f in (BUILT[name].alpha, BUILT[name].sigma))
        return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (z - alpha * MEAN)

    return denoiser


def law_found(name, dimensions, tolerance, count=20_000):
    """From the true law at 0.9 to 0.3: the excess of the variance, the shift of the mean, in true units; and the calls."""
    mean, variance = true_law(name, 0.9)
    expected, spread = true_law(name, 0.3)
    like = torch.empty(count // dimensions, dimensions, dtype=torch.float64)
    z, denoiser = mean + math.sqrt(variance) * standard_normal(0)(like), count_calls(gaussian_denoiser(name))
    tolerances = {"rtol": tolerance, "atol": tolerance / 2 * math.sqrt(spread)}
    found = last(adaptive_sde(denoiser, BUILT[name], z, [0.9, 0.3], **tolerances, noise=standard_normal(1)))
    shift = (found.mean() - expected) / math.sqrt(spread)
    return found.var().item() / spread - 1, shift.item(), denoiser.calls


ERROR = 5 / math.sqrt(20_000)  # five standard errors of the mean


@pytest.mark.parametrize("name", ["vp_linear", "ve", "sub_vp", "flow"])
def test_the_law_is_right_in_many_dimensions(name):
    """256 numbers a state: mean and variance within five standard errors and 1 %."""
    excess, shift, _ = law_found(name, 256, 0.05)
    assert abs(shift) < ERROR + 0.01
    assert abs(excess) < math.sqrt(2) * ERROR + 0.01


def test_in_one_dimension_the_law_is_too_wide_as_documented():
    assert law_found("vp_linear", 1, 0.05)[0] > 0.3


def test_looser_tolerances_take_fewer_calls_and_end_farther_off():
    loose, tight = law_found("vp_linear", 256, 1.0), law_found("vp_linear", 256, 0.05)
    assert loose[2] < tight[2] / 2
    assert abs(loose[0]) > 3 * math.sqrt(2) * ERROR > abs(tight[0])


def test_every_asked_time_is_visited_and_none_is_stepped_over():
    asked, schedule = [], BUILT["vp_linear"]
    times = [1.0, 0.7, 0.31, 0.3, 0.05]

    def denoiser(z, t):
        asked.append(t.clone())
        return z / 2

    z = standard_normal(0)(torch.empty(3, 4, dtype=torch.float64))
    states = trajectory(adaptive_sde(denoiser, schedule, z, times, first_step=0.5))
    assert [state.t.item() for state in states] == times
    for i in range(3):
        visited = torch.stack(asked)[:, i]
        assert all((visited == t).any() for t in times[:-1]) and visited.min().item() == pytest.approx(0.05)


def test_the_clean_end_is_one_call_from_t_min():
    asked, schedule, z = [], BUILT["vp_cosine"], torch.ones(2, 3, dtype=torch.float64)

    def denoiser(z, t):
        asked.append(t.clone())
        return z / 2

    for times, earliest in (([0.9, 0.0], 1e-3), ([0.9, 1e-4, 0.0], 1e-4)):
        asked.clear()
        states = trajectory(adaptive_sde(denoiser, schedule, z, times, rtol=0.1, atol=0.05))
        assert torch.equal(states[-1].z, states[-1].z_0) and states[-1].t == 0
        assert (asked[-1] == earliest).all() and torch.stack(asked).min().item() == pytest.approx(earliest)


def test_what_cannot_be_followed_says_so():
    z = torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="denoiser must return finite values"):
        last(adaptive_sde(lambda z, t: z * math.nan, BUILT["vp_linear"], z, [0.5, 0.1]))
    with pytest.raises(RuntimeError, match="adaptive_sde cannot keep rtol = 0.01 and atol = 1e-09; loosen them"):
        last(adaptive_sde(lambda z, t: (1e9 * z).sin() * 1e12, BUILT["vp_linear"], z, [0.5, 0.1], atol=1e-9))
