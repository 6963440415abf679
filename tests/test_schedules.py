"""Schedules against high-precision closed forms, published tables and diffusers."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from tutorial_lib import schedules
from tutorial_lib.schedules import Schedule
from tutorial_lib.steps import forward_std, posterior_std

LINEAR_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
BUILT = {
    "vp_linear": schedules.vp_linear(),
    "vp_cosine": schedules.vp_cosine(),
    "sub_vp": schedules.sub_vp(),
    "ve": schedules.ve(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "from_betas": schedules.from_betas(LINEAR_BETAS),
    "zero_terminal_snr": schedules.zero_terminal_snr(schedules.from_betas(LINEAR_BETAS)),
    "shifted_cosine": schedules.shifted_cosine(0.12),
}
every_schedule = pytest.mark.parametrize("schedule", BUILT.values(), ids=BUILT)
ends_in_pure_noise = ("vp_cosine", "flow", "zero_terminal_snr", "shifted_cosine")


def exact(name: str, t: float) -> tuple[float, float]:
    """alpha and sigma to 50 digits, written as the papers write them."""
    with mpmath.workdps(50):
        t = mpmath.mpf(t)
        integral = t * mpmath.mpf("0.1") + t**2 * mpmath.mpf("19.9") / 2
        if name == "vp_linear":
            alpha = mpmath.exp(-integral / 2)
            return float(alpha), float(mpmath.sqrt(1 - alpha**2))
        if name == "sub_vp":
            alpha = mpmath.exp(-integral / 2)
            return float(alpha), float(1 - alpha**2)
        if name == "vp_cosine":
            offset = mpmath.mpf(0.008)
            alpha = mpmath.cos((t + offset) / (1 + offset) * mpmath.pi / 2)
            alpha = alpha / mpmath.cos(offset / (1 + offset) * mpmath.pi / 2)
            return float(alpha), float(mpmath.sqrt(abs(1 - alpha**2)))
        if name == "ve":
            return 1.0, float(mpmath.mpf("0.01") * mpmath.mpf(5000) ** t)
        if name == "edm":
            return 1.0, float(80 * t)
        return float(1 - t), float(t)


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "sub_vp", "ve", "edm", "flow"])
@pytest.mark.parametrize("t", [1e-9, 1e-4, 0.03, 0.5, 0.97])
def test_alpha_and_sigma_to_all_digits(name, t):
    alpha, sigma = exact(name, t)
    assert BUILT[name].alpha(t).item() == pytest.approx(alpha, rel=1e-13)
    assert BUILT[name].sigma(t).item() == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize("t", [1e-4, 0.0105, 0.3337, 0.5, 0.97])
def test_alpha_and_sigma_of_the_table_and_its_stretched_copy_to_all_digits(t):
    """Products of 1 - beta to 50 digits, geometric interpolation between knots; then (alpha - end) / (1 - end)."""
    with mpmath.workdps(50):
        knots = [mpmath.mpf(1)]
        for beta in LINEAR_BETAS.tolist():
            knots.append(knots[-1] * mpmath.sqrt(1 - mpmath.mpf(beta)))
        place = mpmath.mpf(t) * 1000
        left = int(place)
        alpha = knots[left] ** (1 - (place - left)) * knots[left + 1] ** (place - left)
        stretched = (alpha - knots[-1]) / (1 - knots[-1])
        pairs = {
            name: (a, mpmath.sqrt(1 - a**2)) for name, a in (("from_betas", alpha), ("zero_terminal_snr", stretched))
        }
    for name, (expected_alpha, expected_sigma) in pairs.items():
        assert BUILT[name].alpha(t).item() == pytest.approx(float(expected_alpha), rel=1e-11)
        assert BUILT[name].sigma(t).item() == pytest.approx(float(expected_sigma), rel=1e-11)


TIMES = torch.tensor([1e-4, 0.01, 0.3, 0.7, 0.99], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "drift", "diffusion_squared"),
    [
        ("vp_linear", lambda t: -(0.1 + 19.9 * t) / 2, lambda t: 0.1 + 19.9 * t),
        (
            "sub_vp",
            lambda t: -(0.1 + 19.9 * t) / 2,
            lambda t: (0.1 + 19.9 * t) * (1 - (-2 * (0.1 * t + 19.9 * t**2 / 2)).exp()),
        ),
        ("ve", torch.zeros_like, lambda t: (0.01 * 5000**t) ** 2 * 2 * math.log(5000)),
        ("edm", torch.zeros_like, lambda t: 2 * 80**2 * t),
        ("flow", lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
        (
            "vp_cosine",
            lambda t: -math.pi / 2.016 * ((t + 0.008) * math.pi / 2.016).tan(),
            lambda t: math.pi / 1.008 * ((t + 0.008) * math.pi / 2.016).tan(),
        ),
    ],
)
def test_drift_and_diffusion_are_those_of_the_papers(name, drift, diffusion_squared):
    torch.testing.assert_close(BUILT[name].drift(TIMES), drift(TIMES), rtol=1e-9, atol=0)
    torch.testing.assert_close(BUILT[name].diffusion(TIMES) ** 2, diffusion_squared(TIMES), rtol=1e-9, atol=0)


@every_schedule
def test_the_ends_hold_no_nan(schedule):
    ends = torch.tensor([0.0, 1.0])
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.drift, schedule.diffusion):
        assert not function(ends).isnan().any()
    assert schedule.alpha(0.0) == 1 and schedule.sigma(0.0) == 0 and schedule.log_snr(0.0) == math.inf
    assert not schedule.sigma(0.0).signbit()
    assert schedule.drift(0.0).isfinite() and schedule.diffusion(0.0).isfinite()


@pytest.mark.parametrize("name", ends_in_pure_noise)
def test_pure_noise_is_pure(name):
    schedule = BUILT[name]
    assert schedule.alpha(1.0) == 0 and schedule.sigma(1.0) == pytest.approx(1, abs=1e-15)
    assert schedule.log_snr(1.0) == -math.inf and schedule.drift(1.0) == -math.inf


@every_schedule
def test_numbers_and_tensors_of_any_shape_give_float64(schedule):
    t = torch.tensor([[0.25, 0.5], [0.75, 0.125]])
    for function in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.drift, schedule.diffusion):
        assert function(t).dtype == torch.float64 and function(t).shape == (2, 2)
        assert function(t)[0, 1] == pytest.approx(function(0.5).item(), rel=1e-12)


@every_schedule
def test_time_at_inverts_log_snr(schedule):
    t = torch.tensor([[1e-5, 1e-3, 0.1], [0.5, 0.9, 0.999]], dtype=torch.float64)
    torch.testing.assert_close(schedule.time_at(schedule.log_snr(t)), t, rtol=1e-9, atol=0)
    assert schedule.time_at(math.inf) == 0 and schedule.time_at(-math.inf) == 1
    assert schedule.time_at(1e3) < 1e-15 and schedule.time_at(-1e3) > 1 - 1e-15


@every_schedule
def test_derivatives_exist_under_inference_mode(schedule):
    with torch.inference_mode():
        inside = schedule.drift(TIMES), schedule.diffusion(TIMES)
    assert torch.equal(inside[0], schedule.drift(TIMES)) and torch.equal(inside[1], schedule.diffusion(TIMES))


def test_a_schedule_of_plain_functions():
    schedule = Schedule(lambda t: 1.0, lambda t: 3 * t)
    assert schedule.alpha(torch.zeros(2, 3)).shape == (2, 3)
    assert schedule.drift(0.5) == 0 and schedule.diffusion(0.5).item() == pytest.approx(3)
    with pytest.raises(TypeError, match="sigma must be a function of t, but a float came"):
        Schedule(lambda t: t, 1.0)


def test_from_betas_has_the_table_at_its_knots():
    knots = torch.arange(1, 1001, dtype=torch.float64) / 1000
    schedule = BUILT["from_betas"]
    torch.testing.assert_close(schedule.alpha(knots) ** 2, (1 - LINEAR_BETAS).cumprod(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        (schedule.alpha(knots) ** 2).float(), DDIMScheduler().alphas_cumprod, rtol=1e-3, atol=0, check_dtype=False
    )  # diffusers' default table ends at 0.02 as ours and starts at 1e-4
    assert (schedule.alpha(0.0005).log() / schedule.alpha(0.001).log()).item() == pytest.approx(0.5, rel=1e-12)
    assert schedule.alpha(1.0).item() ** 2 == pytest.approx(4.0358e-5, rel=1e-4)  # DDPM's published end


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.1, 1.0], [0.0, 0.1], [float("nan")]])
def test_from_betas_refuses_what_is_no_table(betas):
    with pytest.raises(ValueError, match="betas must"):
        schedules.from_betas(betas)


def test_zero_terminal_snr_agrees_with_diffusers():
    betas = rescale_zero_terminal_snr(LINEAR_BETAS.clone())
    published = (1 - betas).cumprod(0).clamp(min=0).sqrt()
    knots = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ours = BUILT["zero_terminal_snr"]
    torch.testing.assert_close(ours.alpha(knots), published, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.alpha(knots) ** 2 + ours.sigma(knots) ** 2, torch.ones_like(knots))
    with pytest.raises(ValueError, match="variance preserving"):
        schedules.zero_terminal_snr(schedules.edm())


@every_schedule
def test_slopes_are_those_of_differences(schedule):
    for t in (0.0503, 0.5003, 0.9004):  # between the knots of a table
        alpha, sigma = (slope.item() for slope in schedule.slopes(t))
        for function, slope in ((schedule.alpha, alpha), (schedule.sigma, sigma)):
            h = 1e-5
            difference = ((function(t + h) - function(t - h)) / (2 * h)).item()
            assert slope == pytest.approx(difference, rel=1e-5, abs=1e-8)


@every_schedule
def test_slopes_make_drift_and_diffusion_and_outlive_them_in_pure_noise(schedule):
    alpha, sigma = schedule.slopes(TIMES)
    torch.testing.assert_close(schedule.drift(TIMES), alpha / schedule.alpha(TIMES))
    squared = 2 * schedule.sigma(TIMES) * (sigma - schedule.drift(TIMES) * schedule.sigma(TIMES))
    torch.testing.assert_close(schedule.diffusion(TIMES) ** 2, squared, rtol=1e-8, atol=0)
    ends = schedule.slopes(torch.tensor([0.0, 1.0]))
    assert all(slope.isfinite().all() and slope.dtype == torch.float64 for slope in ends)


VARIANCE_PRESERVING = ("vp_linear", "vp_cosine", "from_betas", "zero_terminal_snr")


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_a_respaced_chain_has_the_schedules_alpha_at_its_knots(name, n):
    schedule = BUILT[name]
    for times in (schedules.uniform_times(n, 0.97), schedules.karras_times(schedule, n, t_max=0.97)):
        betas = schedules.respace(schedule, times)
        assert betas.shape == (n,) and betas.dtype == torch.float64 and ((betas > 0) & (betas < 1)).all()
        knots = torch.arange(1, n + 1, dtype=torch.float64) / n
        short = schedules.from_betas(betas)
        torch.testing.assert_close(short.alpha(knots), schedule.alpha(times[:-1].flip(0)), rtol=1e-10, atol=0)
        torch.testing.assert_close(schedules.respace(schedule, times[:-1].tolist()), betas, rtol=0, atol=0)


def test_respacing_to_every_knot_changes_nothing_and_to_few_gives_larger_betas():
    times = schedules.trailing_times(1000)
    torch.testing.assert_close(schedules.respace(BUILT["from_betas"], times), LINEAR_BETAS, rtol=1e-9, atol=1e-13)
    few = schedules.respace(BUILT["from_betas"], schedules.trailing_times(50))
    by_product = [1 - (1 - LINEAR_BETAS[i : i + 20]).prod().item() for i in range(0, 1000, 20)]
    np.testing.assert_allclose(few.numpy(), by_product, rtol=1e-10)
    assert few[-1] > 10 * LINEAR_BETAS[-1]


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_respaced_betas_are_the_variances_of_the_steps_taken(name):
    """beta and beta-tilde of the short chain, as its table gives them, are those of `ddpm` between the long one's times."""
    schedule, times = BUILT[name], schedules.uniform_times(6, 0.95)
    betas = schedules.respace(schedule, times)
    bars = (1 - betas).cumprod(0)
    for i in range(6):
        t, s = times[5 - i], times[6 - i]
        assert betas[i].item() == pytest.approx(forward_std(schedule, s, t).item() ** 2, rel=1e-9)
        if i:
            tilde = betas[i] * (1 - bars[i - 1]) / (1 - bars[i])
            assert tilde.item() == pytest.approx(posterior_std(schedule, t, s).item() ** 2, rel=1e-9)


@pytest.mark.parametrize("name", ends_in_pure_noise[:1] + ends_in_pure_noise[2:])
def test_a_chain_from_pure_noise_ends_in_a_beta_of_1(name):
    betas = schedules.respace(BUILT[name], schedules.uniform_times(4))
    assert betas[-1] == 1 and (betas[:-1] < 1).all()


def test_respace_refuses_what_is_no_chain():
    for name in ("ve", "edm", "flow", "sub_vp"):
        with pytest.raises(ValueError, match="schedule must be variance preserving .* to have betas"):
            schedules.respace(BUILT[name], schedules.uniform_times(4))
    for times in ([], [0.0], [0.1, 0.5], [1.5, 0.5], [0.5, math.nan], [[0.5, 0.1]], [0.5, -0.1]):
        with pytest.raises(ValueError, match="times must be a list that decreases from at most 1"):
            schedules.respace(BUILT["vp_linear"], times)


@every_schedule
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_grids_hold_n_decreasing_times_and_then_0(schedule, n):
    grids = (
        schedules.uniform_times(n),
        schedules.log_snr_times(schedule, n),
        schedules.karras_times(schedule, n),
        schedules.trailing_times(n),
    )
    for times in grids:
        assert times.shape == (n + 1,) and times.dtype == torch.float64
        assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()


def test_uniform_and_log_snr_times_are_evenly_spaced():
    times = schedules.uniform_times(5, 0.9, 0.1)
    torch.testing.assert_close(times, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1, 0.0], dtype=torch.float64))
    assert schedules.uniform_times(1000)[1].item() == pytest.approx(0.999, rel=1e-12)
    levels = BUILT["vp_linear"].log_snr(schedules.log_snr_times(BUILT["vp_linear"], 9)[:-1])
    torch.testing.assert_close(levels.diff(), levels.diff().mean().expand(8), rtol=1e-9, atol=0)
    assert levels[-1] == pytest.approx(BUILT["vp_linear"].log_snr(1e-3).item())


def test_karras_times_are_edms():
    n = 18
    published = (80 ** (1 / 7) + np.arange(n) / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = schedules.karras_times(BUILT["edm"], n)
    np.testing.assert_allclose(BUILT["edm"].sigma(times[:-1]).numpy(), published, rtol=1e-9)
    vp = BUILT["vp_linear"]
    ratio = vp.sigma(schedules.karras_times(vp, n)[:-1]) / vp.alpha(schedules.karras_times(vp, n)[:-1])
    assert ratio[-1].item() == pytest.approx(0.002, rel=1e-9)
    rooted = ratio ** (1 / 7)
    torch.testing.assert_close(rooted.diff(), rooted.diff().mean().expand(n - 1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [1, 4, 7, 10, 13, 50, 999, 1000])
def test_trailing_times_are_diffusers_also_when_n_does_not_divide_1000(n):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(n)
    assert (schedules.trailing_times(n)[:-1] * 1000 - 1).round().long().tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "3"])
def test_a_grid_of_no_steps_is_refused(n):
    for grid in (
        schedules.uniform_times,
        schedules.trailing_times,
        lambda n: schedules.karras_times(BUILT["edm"], n),
        lambda n: schedules.log_snr_times(BUILT["edm"], n),
    ):
        with pytest.raises(ValueError, match="n must be a whole number of steps, at least 1"):
            grid(n)


def test_impossible_ranges_are_refused():
    with pytest.raises(ValueError, match="t_min = 0"):
        schedules.uniform_times(5, t_min=0)
    with pytest.raises(ValueError, match="t_max = 1.5"):
        schedules.log_snr_times(BUILT["edm"], 5, t_max=1.5)
    with pytest.raises(ValueError, match="at most total = 10, but 11"):
        schedules.trailing_times(11, total=10)
    with pytest.raises(ValueError, match="sigma_min must be below"):
        schedules.karras_times(BUILT["edm"], 5, sigma_min=90)


@pytest.mark.parametrize("spread", [0.05, 0.12, 1.0, 3.0])
def test_a_residual_of_that_spread_sees_the_cosine_schedule(spread):
    """spread alpha / sigma of the whole image is the cosine schedule's alpha / sigma: its log-SNR is larger by -2 log(spread)."""
    t = torch.linspace(1e-3, 0.999, 50, dtype=torch.float64)
    shifted, cosine = schedules.shifted_cosine(spread), schedules.vp_cosine()
    torch.testing.assert_close(shifted.log_snr(t) + 2 * math.log(spread), cosine.log_snr(t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shifted.alpha(t) ** 2 + shifted.sigma(t) ** 2, torch.ones_like(t), rtol=1e-12, atol=0)


@pytest.mark.parametrize("spread", [0.0, -1.0, math.nan])
def test_a_bad_spread_is_named(spread):
    with pytest.raises(ValueError, match="spread"):
        schedules.shifted_cosine(spread)
