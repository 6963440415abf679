"""Samplers under exact denoisers: the law of what they put out, digit for digit, and step for step."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from test_schedules import BUILT, every_schedule

from tutorial_lib.denoisers import to_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for
from tutorial_lib.samplers import State, ddim, ddpm, last, trajectory
from tutorial_lib.schedules import from_betas, respace, trailing_times, uniform_times
from tutorial_lib.steps import ddim_step, forward_std, posterior_std

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


def test_eta_1_is_ddpm_and_eta_0_draws_nothing():
    schedule, times, z = BUILT["vp_cosine"], uniform_times(5), torch.ones(2, 3)

    def never(like):
        raise AssertionError("noise was drawn")

    denoiser = torch.tanh
    same = last(ddim(lambda z, t: denoiser(z), schedule, z, times, 1.0, standard_normal(0)))
    assert torch.equal(same, last(ddpm(lambda z, t: denoiser(z), schedule, z, times, noise=standard_normal(0))))
    last(ddim(lambda z, t: denoiser(z), schedule, z, times, noise=never))


def test_the_last_state_is_at_the_last_time_and_noisy_there():
    schedule, times = BUILT["vp_linear"], torch.tensor([1.0, 0.7, 0.4])
    for name in ("posterior", "beta"):
        found = output_law(SAMPLERS[name], denoiser_for(gaussian(0.0, 0.0), schedule), schedule, times)
        assert found[1] > 0.9 * schedule.sigma(0.4).item() ** 2
    assert last(ddim(lambda z, t: z, schedule, torch.ones(1, 1), times)).isfinite().all()


def test_a_consumed_sampler_is_refused():
    with pytest.raises(ValueError, match="states must hold at least one State"):
        last(iter(()))
    with pytest.raises(ValueError, match="z and z_0 must have the same shape"):
        last(ddim(lambda z, t: z[:, :1], BUILT["flow"], torch.ones(1, 2), uniform_times(3)))


# The learned variance, exp(v log beta + (1 - v) log beta-tilde).


def learned(fraction):
    return lambda *args, noise: ddpm(*args, variance=fraction, noise=noise)


@every_schedule
@pytest.mark.parametrize(("v", "name"), [(1.0, "beta"), (0.0, "posterior")])
def test_the_ends_of_the_learned_variance_are_the_fixed_ones(schedule, v, name):
    z = schedule.sigma(1.0) * standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    for times in (uniform_times(6), torch.tensor([0.9, 0.4, 0.1]).double()):
        for fraction in (lambda z, t, s: v, lambda z, t, s: torch.full_like(z, v)):
            ours = last(ddpm(lambda z, t: z / 2, schedule, z, times, fraction, standard_normal(1)))
            fixed = last(SAMPLERS[name](lambda z, t: z / 2, schedule, z, times, noise=standard_normal(1)))
            torch.testing.assert_close(ours, fixed, rtol=1e-12, atol=1e-12 * schedule.sigma(1.0).item())


def check_log_interpolation(sampler, times):
    """One step of a denoiser that answers 0: the variance of z_s - mean is the geometric mean of the two, typed out."""
    t, s = times[:2].tolist()
    for v in (0.25, 0.8):
        mean, variance = affine_law(
            lambda noise, v=v: last(sampler(v)(lambda z, t: 0 * z, TABLE, ONE.new_zeros(1, 1), times[:2], noise=noise)),
            1,
        )
        bar_t, bar_s = TABLE.alpha(t).item() ** 2, TABLE.alpha(s).item() ** 2
        beta = 1 - bar_t / bar_s
        tilde = beta * (1 - bar_s) / (1 - bar_t)
        assert mean == 0
        assert variance.item() == pytest.approx(math.exp(v * math.log(beta) + (1 - v) * math.log(tilde)), rel=1e-9)


def single_step_betas(v):
    """beta and beta-tilde of neighbouring indices, though the step skips many (diffusers before PR 2090)."""

    def step(z, z_0, schedule, t, s, noise):
        near = t - 1e-3
        std = forward_std(schedule, near, t) ** v * posterior_std(schedule, t, near) ** (1 - v)
        return ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like) + std * noise(z)

    return lambda *args, noise: walk(*args, noise, step)


def linear_interpolation(v):
    def step(z, z_0, schedule, t, s, noise):
        std = (v * forward_std(schedule, s, t) ** 2 + (1 - v) * posterior_std(schedule, t, s) ** 2).sqrt()
        return ddim_step(z, z_0, schedule, t, s, 1.0, torch.zeros_like) + std * noise(z)

    return lambda *args, noise: walk(*args, noise, step)


def test_the_learned_variance_interpolates_logarithms_of_the_step_taken():
    for indices in ([999, 500], [20, 3], [400, 399], [1, 0]):
        check_log_interpolation(lambda v: learned(lambda z, t, s: v), times_at(torch.tensor(indices)))


@pytest.mark.parametrize("mutant", [single_step_betas, linear_interpolation])
def test_learned_variances_of_other_steps_or_scales_are_noticed(mutant):
    with pytest.raises(AssertionError):
        check_log_interpolation(mutant, times_at(torch.tensor([20, 3])))


@pytest.mark.parametrize("data_variance", [0.0, 0.25, 0.9, 1.0])
def test_the_best_fraction_makes_every_state_exact(data_variance):
    """For data N(0, c) the reverse step is Gaussian with variance beta v_s / v_t, v = alpha^2 c + sigma^2, so
    v = log(v_s sigma_t^2 / (v_t sigma_s^2)) / log(sigma_t^2 / sigma_s^2): all of beta for c = 1, none for c = 0."""
    schedule, times = BUILT["vp_linear"], uniform_times(5)

    def total(t):
        return schedule.alpha(t) ** 2 * data_variance + schedule.sigma(t) ** 2

    def best(z, t, s):
        ratio = (schedule.sigma(t) / schedule.sigma(s)) ** 2
        return (((total(s) / total(t)) * ratio).log() / ratio.log()).clamp(0, 1)  # the clamp is for rounding

    denoiser = denoiser_for(gaussian(0.0, data_variance), schedule)
    for stop in range(1, 6):

        def run(noise, stop=stop):
            start = total(times[0]).sqrt() * noise(ONE)
            return trajectory(ddpm(denoiser, schedule, start, times, best, noise))[stop].z

        _, variance = affine_law(run, 1)
        expected = total(times[stop])
        if stop == 5:  # the last step is E[z_0 | z], which is narrower than the data
            expected = schedule.alpha(times[4]) ** 2 * data_variance**2 / total(times[4])
        assert variance.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)


def test_a_learned_variance_may_differ_from_number_to_number():
    z = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    v = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([0.5, 0.2]).double()
    found = last(ddpm(lambda z, t: 0 * z, TABLE, z, times, lambda z, t, s: v, torch.ones_like))
    per_sample = last(ddpm(lambda z, t: 0 * z, TABLE, z, times, lambda z, t, s: v[:, :1, :1, :1], torch.ones_like))
    for i, j in [(0, 0), (1, 2)]:
        alone = last(ddpm(lambda z, t: 0 * z, TABLE, z, times, lambda z, t, s: v[i, j, 0, 0].item(), torch.ones_like))  # noqa: B023
        torch.testing.assert_close(found[i, j, 0, 0], alone[i, j, 0, 0])
    assert per_sample[0].unique().numel() == 1 and per_sample[0, 0, 0, 0] != per_sample[1, 0, 0, 0]
    single = last(ddpm(lambda z, t: 0 * z, TABLE, z.float(), times, lambda z, t, s: v, torch.ones_like))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-6, atol=1e-6)


def test_the_learned_variance_is_told_the_state_and_both_ends_and_never_the_last_step():
    times, asked = uniform_times(4), []

    def fraction(z, t, s):
        asked.append((z, t.item(), s.item()))
        return 0.5

    states = trajectory(ddpm(lambda z, t: z / 2, BUILT["vp_linear"], torch.ones(1, 2), times, fraction))
    assert [ends[1:] for ends in asked] == list(zip(times[:-2].tolist(), times[1:-1].tolist(), strict=True))
    assert all(torch.equal(z, state.z) for (z, _, _), state in zip(asked, states, strict=False))


def test_the_learned_range_of_diffusers_on_leading_grids():
    """Its network answers 2 v - 1 in a second half of channels."""
    scheduler = DDPMScheduler(clip_sample=False, timestep_spacing="leading", variance_type="learned_range")
    scheduler.set_timesteps(20)
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    generator, z = torch.Generator().manual_seed(1), start
    for index in scheduler.timesteps:
        output = torch.cat([torch.tanh(z), torch.cos(3 * z)], dim=1)
        z = scheduler.step(output, index, z, generator=generator).prev_sample

    def denoiser(z, t):
        return to_z_0(torch.tanh(z), "eps", z, t, TABLE)

    def fraction(z, t, s):
        return (torch.cos(3 * z) + 1) / 2

    found = last(ddpm(denoiser, TABLE, start, times_at(scheduler.timesteps), fraction, standard_normal(1)))
    torch.testing.assert_close(found, z, rtol=2e-3, atol=2e-3)  # their table is float32


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (1.2, r"variance\(z, t, s\) must lie between 0 and 1, but it runs from 1.2 to 1.2"),
        (-0.1, "must lie between 0 and 1"),
        (math.nan, "must lie between 0 and 1"),
        (torch.full((5, 2), 0.5), r"must broadcast to \(1, 2\), but its shape is \(5, 2\)"),
        (torch.full((3,), 0.5), "must broadcast to"),
    ],
)
def test_impossible_fractions_are_refused(v, message):
    with pytest.raises(ValueError, match=message):
        last(ddpm(lambda z, t: z / 2, BUILT["vp_linear"], torch.ones(1, 2), uniform_times(3), lambda z, t, s: v))


@pytest.mark.parametrize("n", [1, 4, 13])
def test_a_respaced_chain_is_the_long_one_sampled_on_its_grid(n):
    """The short chain as a table of its own, on all its knots, has the same states, for each variance."""
    times = trailing_times(n)
    short = from_betas(respace(TABLE, times))
    knots = torch.arange(n, -1, -1, dtype=torch.float64) / n
    z = standard_normal(0)(torch.empty(2, 3, dtype=torch.float64))
    for name in PUBLISHED:
        long_way = last(SAMPLERS[name](lambda z, t: torch.tanh(z), TABLE, z, times, noise=standard_normal(1)))
        short_way = last(SAMPLERS[name](lambda z, t: torch.tanh(z), short, z, knots, noise=standard_normal(1)))
        torch.testing.assert_close(long_way, short_way, rtol=1e-8, atol=1e-8)


# The two meanings of one letter: the survey's alpha_t is a variance in its DDPM part, a retention in its SR3 part.


def survey_step(z, z_0, schedule, t, s, noise, mixed=False):
    """z_s = (z_t - alpha / sqrt(1 - gamma_t) eps) / sqrt(1 - alpha) + sqrt(alpha) noise, alpha = 1 - gamma_t / gamma_s."""
    gamma_t, gamma_s = schedule.alpha(t) ** 2, schedule.alpha(s) ** 2
    alpha = 1 - gamma_t / gamma_s
    eps = (z - gamma_t.sqrt() * z_0) / (1 - gamma_t).sqrt()
    in_mean = 1 - alpha if mixed else alpha
    mean = (z - in_mean / (1 - gamma_t).sqrt() * eps) / (1 - in_mean).sqrt()
    return mean + alpha.sqrt() * noise(z) if s > 0 else mean


@pytest.mark.parametrize("n", [10, 50])
def test_the_surveys_step_is_ddpm_with_beta_unless_conventions_are_mixed(n):
    def survey(mixed):
        return lambda *args, noise: walk(
            *args, noise, lambda z, z_0, schedule, t, s, noise: survey_step(z, z_0, schedule, t, s, noise, mixed)
        )

    check_published(survey(mixed=False), "beta", n)
    with pytest.raises(AssertionError):
        check_published(survey(mixed=True), "beta", n)


def test_clipping_needs_a_new_eps():
    """A clipped z_0 with the old eps leaves the level of the noise: at s the state is not alpha_s z_0 + sigma_s eps."""

    def denoiser(z, t):
        return (z / TABLE.alpha(t)).clamp(-1, 1)

    z, times = torch.tensor([[3.0, -2.5, 0.2]]).double(), torch.tensor([0.6, 0.3]).double()

    def check(found):
        clipped = denoiser(z, 0.6)
        eps = (z - TABLE.alpha(0.6) * clipped) / TABLE.sigma(0.6)
        torch.testing.assert_close(found, TABLE.alpha(0.3) * clipped + TABLE.sigma(0.3) * eps)

    check(last(ddim(denoiser, TABLE, z, times)))
    raw = (z - TABLE.alpha(0.6) * (z / TABLE.alpha(0.6))) / TABLE.sigma(0.6)
    with pytest.raises(AssertionError):
        check(ddim_step(z, denoiser(z, 0.6), TABLE, 0.6, 0.3, 0.0, None, raw))
