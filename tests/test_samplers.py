"""Samplers under exact denoisers: the law of what they put out, digit for digit, and step for step."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from test_schedules import BUILT, every_schedule

from tutorial_lib.denoisers import count_calls, to_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for
from tutorial_lib.samplers import State, ddim, ddpm, last, trajectory
from tutorial_lib.schedules import trailing_times, uniform_times
from tutorial_lib.steps import ddim_step

ONE = torch.empty(1, 1, dtype=torch.float64)
TABLE = BUILT["from_betas"]

# Output variances on data N(0, 0.25), from scalar recursions made elsewhere; start N(0, 1), DDPM's table of 1000 betas.
PUBLISHED = {
    "posterior": {10: 0.10422, 50: 0.19642, 250: 0.23602, 1000: 0.24613},
    "beta": {10: 0.35852, 50: 0.26788, 250: 0.25335, 1000: 0.25075},
    "ddim": {10: 0.13076, 50: 0.22270, 250: 0.24430, 1000: 0.24850},
}
SAMPLERS = {
    "posterior": ddpm,
    "beta": lambda *args, noise: ddpm(*args, variance="beta", noise=noise),
    "ddim": ddim,
}


def times_at(indices):
    """Indices into the table of 1000 betas as times, then 0."""
    return torch.cat([(indices.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])


def gaussian(mean, variance):
    return Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def output_law(sampler, denoiser, schedule, times, stop=None):
    """Exact mean and variance of the state after `stop` steps (None: all), started from N(0, sigma^2 at times[0])."""

    def run(noise):
        start = schedule.sigma(times[0]) * noise(ONE)
        return trajectory(sampler(denoiser, schedule, start, times, noise=noise))[-1 if stop is None else stop].z

    mean, covariance = affine_law(run, 1)
    return mean.item(), covariance.item()


def check_published(sampler, name, n):
    """All printed digits of the published variance."""
    times = times_at(torch.linspace(999, 0, n, dtype=torch.float64).round())
    denoiser = denoiser_for(gaussian(0.0, 0.25), TABLE)
    mean, covariance = affine_law(lambda noise: last(sampler(denoiser, TABLE, noise(ONE), times, noise=noise)), 1)
    assert mean.item() == 0
    assert f"{covariance.item():.5f}" == f"{PUBLISHED[name][n]:.5f}"


@pytest.mark.parametrize("n", [10, 50, 250, 1000])
@pytest.mark.parametrize("name", PUBLISHED)
def test_output_variances_to_all_printed_digits(name, n):
    check_published(SAMPLERS[name], name, n)


def walk(denoiser, schedule, z, times, noise, step):
    """The samplers' loop around a step of our own."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = step(z, denoiser(z, t), schedule, t, s, noise)
        yield State(z, s, z)


def variance_for_std(z, z_0, schedule, t, s, noise):
    mean = ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like)
    return mean + (ddim_step(z, z_0, schedule, t, s, 1.0, torch.ones_like) - mean) ** 2 * noise(z)


def previous_index_by_division(z, z_0, schedule, t, s, noise):
    return ddim_step(
        z, z_0, schedule, t, max(t - 1 / 10, 0 * t), 1.0, noise
    )  # t - T // n, on a grid that is not "leading"


def previous_index_off_by_one(z, z_0, schedule, t, s, noise):
    return ddim_step(z, z_0, schedule, t, max(s - 1e-3, 0 * s), 1.0, noise)


def noise_at_the_last_step(z, z_0, schedule, t, s, noise):
    mean = ddim_step(z, z_0, schedule, t, s, 1.0, noise)
    return mean + 0.01 * noise(z) if s == 0 else mean  # the first step's sqrt(beta)


def table_of_single_steps(z, z_0, schedule, t, s, noise):
    """beta-tilde of neighbouring indices, though the step skips many."""
    mean = ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like)
    single = max(t - 1e-3, 0 * t)
    std = ddim_step(z, z_0, schedule, t, single, 1.0, torch.ones_like) - ddim_step(
        z, z_0, schedule, t, single, 1.0, torch.zeros_like
    )
    return mean + std


@pytest.mark.parametrize(
    "step",
    [
        variance_for_std,
        previous_index_by_division,
        previous_index_off_by_one,
        noise_at_the_last_step,
        table_of_single_steps,
    ],
)
def test_known_bugs_miss_the_published_variance(step):
    def mutant(denoiser, schedule, z, times, noise):
        return walk(denoiser, schedule, z, times, noise, step)

    with pytest.raises(AssertionError):
        check_published(mutant, "posterior", 10)


def test_the_loop_of_the_mutants_passes_with_the_right_step():
    def right(denoiser, schedule, z, times, noise):
        return walk(
            denoiser, schedule, z, times, noise, lambda z, z_0, *rest: ddim_step(z, z_0, *rest[:3], 1.0, rest[3])
        )

    check_published(right, "posterior", 10)


@every_schedule
@pytest.mark.parametrize("name", ["posterior", "ddim"])
def test_certain_data_give_the_exact_law_at_every_step(schedule, name):
    """With one possible z_0 the denoiser is right: each state has moments alpha mu and sigma^2, however few steps."""
    times = uniform_times(4)
    start_mean = schedule.alpha(1.0) * 0.7
    for stop in range(5):
        shifted = output_law(
            lambda d, sch, z, ts, noise: SAMPLERS[name](d, sch, z + start_mean, ts, noise=noise),
            denoiser_for(gaussian(0.7, 0.0), schedule),
            schedule,
            times,
            stop,
        )
        assert shifted[0] == pytest.approx(0.7 * schedule.alpha(times[stop]).item(), rel=1e-7, abs=1e-9)
        assert shifted[1] == pytest.approx(schedule.sigma(times[stop]).item() ** 2, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("n", [1, 3, 13])
def test_beta_is_exact_for_standard_normal_data_before_the_last_step(n):
    schedule, times = BUILT["vp_linear"], uniform_times(n + 1)
    for stop in range(n + 1):
        found = output_law(SAMPLERS["beta"], denoiser_for(gaussian(0.0, 1.0), schedule), schedule, times, stop)
        start = schedule.alpha(1.0).item() ** 2  # N(0, sigma^2) at the start lacks alpha^2 of the true variance 1
        shrink = (schedule.alpha(1.0) / schedule.alpha(times[stop])).item() ** 2
        assert found[1] == pytest.approx(1 - start * shrink if stop else 1 - start, rel=1e-5)


@every_schedule
@pytest.mark.parametrize("n", [1, 7, 13])
@pytest.mark.parametrize("name", PUBLISHED)
def test_any_number_of_steps_ends_finite_and_without_noise(schedule, n, name):
    """The last step is the denoiser's answer, also from pure noise, where alpha is 0."""
    prior = gaussian(0.3, 0.25)
    z = schedule.sigma(1.0) * standard_normal(0)(torch.empty(4, 1, dtype=torch.float64))
    states = trajectory(
        SAMPLERS[name](denoiser_for(prior, schedule), schedule, z, trailing_times(n), noise=standard_normal(1))
    )
    assert all(state.z.isfinite().all() for state in states)
    assert torch.equal(states[-1].z, states[-2].z_0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_error_shrinks_like_1_over_n(name):
    schedule = BUILT["vp_cosine"]
    denoiser = denoiser_for(gaussian(0.0, 0.25), schedule)
    coarse, fine = (abs(output_law(SAMPLERS[name], denoiser, schedule, uniform_times(n))[1] - 0.25) for n in (40, 160))
    assert 3 < coarse / fine < 5


@pytest.mark.parametrize("n", [2, 10, 50])
def test_ddim_is_diffusers_on_leading_grids(n):
    """Leading grids are where diffusers' previous index, t - T // n, is the grid's own."""
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(n)
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    theirs = start
    for index in scheduler.timesteps:
        theirs = scheduler.step(torch.tanh(theirs), index, theirs).prev_sample

    def denoiser(z, t):
        return to_z_0(torch.tanh(z), "eps", z, t, TABLE)

    ours = last(ddim(denoiser, TABLE, start, times_at(scheduler.timesteps)))
    torch.testing.assert_close(
        ours, theirs, rtol=1e-3, atol=1e-3
    )  # their table is float32, and tanh is chaotic at sigma = 1
    one = next(s for i, s in enumerate(ddim(denoiser, TABLE, start, times_at(scheduler.timesteps))) if i == 1).z
    step = scheduler.step(torch.tanh(start), scheduler.timesteps[0], start).prev_sample
    torch.testing.assert_close(one, step, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
def test_ddpm_is_diffusers_on_leading_grids(ours, theirs):
    scheduler = DDPMScheduler(clip_sample=False, timestep_spacing="leading", variance_type=theirs)
    scheduler.set_timesteps(20)
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    generator, z = torch.Generator().manual_seed(1), start
    for index in scheduler.timesteps:
        z = scheduler.step(torch.tanh(z), index, z, generator=generator).prev_sample

    def denoiser(z, t):
        return to_z_0(torch.tanh(z), "eps", z, t, TABLE)

    found = last(ddpm(denoiser, TABLE, start, times_at(scheduler.timesteps), ours, standard_normal(1)))
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["posterior", "beta"])
def test_a_sample_does_not_depend_on_its_batch_mates(name):
    schedule, times = BUILT["vp_linear"], uniform_times(7)

    def run(seeds):
        noise = standard_normal([torch.Generator().manual_seed(seed) for seed in seeds])
        like = torch.empty(len(seeds), 2, 3, 5, dtype=torch.float64)
        return last(SAMPLERS[name](lambda z, t: torch.tanh(z), schedule, noise(like), times, noise=noise))

    batch = run([0, 1, 2])
    for i in range(3):
        assert torch.equal(batch[i : i + 1], run([i]))
    assert not torch.allclose(batch[0], batch[1])


def test_seed_0_repeats_and_differs_from_seed_1_and_from_the_default():
    schedule, times, z = BUILT["vp_linear"], uniform_times(5), torch.ones(2, 3)

    def run(noise):
        return last(ddpm(lambda z, t: z / 2, schedule, z, times, noise=noise))

    assert torch.equal(run(standard_normal(0)), run(standard_normal(0)))
    assert not torch.equal(run(standard_normal(0)), run(standard_normal(1)))
    assert torch.equal(run(None), run(None)) and not torch.equal(run(None), run(standard_normal(0)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(None)
    assert torch.equal(before, torch.get_rng_state())


def test_eta_1_is_ddpm_and_eta_0_draws_nothing():
    schedule, times, z = BUILT["vp_cosine"], uniform_times(5), torch.ones(2, 3)

    def never(like):
        raise AssertionError("noise was drawn")

    denoiser = torch.tanh
    same = last(ddim(lambda z, t: denoiser(z), schedule, z, times, 1.0, standard_normal(0)))
    assert torch.equal(same, last(ddpm(lambda z, t: denoiser(z), schedule, z, times, noise=standard_normal(0))))
    last(ddim(lambda z, t: denoiser(z), schedule, z, times, noise=never))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", PUBLISHED)
def test_states_come_in_order_and_keep_shape_and_dtype(channels, name):
    times, z = uniform_times(6), torch.ones(2, channels, 3, 5)
    denoiser = count_calls(lambda z, t: z / 2)
    states = trajectory(SAMPLERS[name](denoiser, BUILT["vp_linear"], z, times, noise=standard_normal(0)))
    assert denoiser.calls == 6 and len(states) == 7
    assert torch.equal(states[0].z, z) and [s.t.item() for s in states] == times.tolist()
    assert all(s.z.shape == z.shape and s.z.dtype == s.z_0.dtype == torch.float32 for s in states)
    assert torch.equal(states[2].z_0, states[2].z / 2) and torch.equal(states[-1].z_0, states[-2].z_0)


def test_the_last_state_is_at_the_last_time_and_noisy_there():
    schedule, times = BUILT["vp_linear"], torch.tensor([1.0, 0.7, 0.4])
    for name in ("posterior", "beta"):
        found = output_law(SAMPLERS[name], denoiser_for(gaussian(0.0, 0.0), schedule), schedule, times)
        assert found[1] > 0.9 * schedule.sigma(0.4).item() ** 2
    assert last(ddim(lambda z, t: z, schedule, torch.ones(1, 1), times)).isfinite().all()


def test_memory_does_not_grow_with_the_number_of_steps():
    alive, most = [], 0

    def denoiser(z, t):
        nonlocal most
        answer = z / 2
        alive.append(weakref.ref(answer))
        gc.collect(0)
        most = max(most, sum(ref() is not None for ref in alive))
        return answer

    last(ddpm(denoiser, BUILT["vp_linear"], torch.ones(1, 4), uniform_times(100), noise=standard_normal(0)))
    assert most <= 3


def test_inference_mode_and_gradients():
    schedule, times = BUILT["vp_linear"], uniform_times(4)
    with torch.inference_mode():
        assert last(ddpm(lambda z, t: z / 2, schedule, torch.ones(1, 2), times)).is_inference()
    z = torch.ones(1, 2, requires_grad=True)
    last(ddim(lambda z, t: z / 2, schedule, z, times)).sum().backward()
    assert (z.grad != 0).all()


def test_progress_is_shown_when_asked(capsys):
    z = torch.ones(1, 2)
    last(ddim(lambda z, t: z, BUILT["flow"], z, uniform_times(3), progress=True))
    assert "3/3" in capsys.readouterr().err
    last(ddim(lambda z, t: z, BUILT["flow"], z, uniform_times(3)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "times must be a list of at least two times"),
        ([[1.0, 0.0]], "times must be a list of at least two times"),
        ([0.0, 0.5, 1.0], "times must decrease"),
        ([1.0, 0.5, 0.5, 0.0], "times must decrease"),
        ([999, 500, 0], "times must decrease from at most 1"),
        ([0.5, -0.1], "times must decrease"),
        ([1.0, math.nan, 0.0], "times must decrease"),
    ],
)
@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_bad_times_are_refused_at_once(sampler, times, message):
    with pytest.raises(ValueError, match=message):
        sampler(lambda z, t: z, BUILT["flow"], torch.ones(1, 2), times)


def test_other_bad_input_is_refused_at_once():
    def denoiser(z, t):
        return z

    times, z = uniform_times(3), torch.ones(1, 2)
    with pytest.raises(ValueError, match="eta must lie between 0 and 1, but 2 came"):
        ddim(denoiser, BUILT["flow"], z, times, eta=2)
    with pytest.raises(
        ValueError, match="variance must be one of 'posterior', 'beta', but 'bta' came; did you mean 'beta'"
    ):
        ddpm(denoiser, BUILT["flow"], z, times, variance="bta")
    with pytest.raises(ValueError, match="z must be a floating-point batch of states"):
        ddim(denoiser, BUILT["flow"], torch.ones(3, dtype=torch.int64), times)
    with pytest.raises(ValueError, match="states must hold at least one State"):
        last(iter(()))
    with pytest.raises(ValueError, match="z and z_0 must have the same shape"):
        last(ddim(lambda z, t: z[:, :1], BUILT["flow"], z, times))
