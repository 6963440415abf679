"""Samplers of the probability flow by their orders of convergence, and value for value against diffusers and each other.

Orders are measured on a mixture of three Gaussians on a line, between rho = sigma/alpha = 10 and 0.05, on Karras's grid
and on one whose steps differ at random by up to a factor of three.
"""

from __future__ import annotations

import functools
import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from scipy.integrate import solve_ivp
from test_samplers import TABLE, times_at
from test_schedules import BUILT, ends_in_pure_noise, every_schedule

from tutorial_lib.denoisers import count_calls, from_z_0, to_z_0
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, affine_law, convergence_order, denoiser_for
from tutorial_lib.samplers import (
    State,
    ddim,
    deis,
    dpm_solver_2,
    dpm_solver_pp_2m,
    heun,
    last,
    pndm,
    trajectory,
    unipc,
)
from tutorial_lib.samplers.ode import turned_step
from tutorial_lib.schedules import karras_times, uniform_times
from tutorial_lib.steps import ddim_step

HIGH, LOW = 10.0, 0.05
WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.5, 0.2]), np.array([-1.2, 0.3, 1.5]), np.array([0.04, 0.09, 0.02])
STARTS = HIGH * np.linspace(-1.5, 1.5, 9) + 0.17  # z / alpha


def mixture_denoiser(schedule):
    """E[z_0 | z] of the mixture, typed here."""
    weights, means, variances = (torch.from_numpy(part) for part in (WEIGHTS, MEANS, VARIANCES))

    def denoiser(z, t):
        rho, y = schedule.sigma(t) / schedule.alpha(t), z / schedule.alpha(t)
        total = variances + rho**2
        chances = (weights.log() - total.log() / 2 - (y - means) ** 2 / (2 * total)).softmax(1)
        return (chances * (means + variances / total * (y - means))).sum(1, keepdim=True)

    return denoiser


@functools.cache
def reference():
    """Where the flow carries the starts, from rho = 10 to 0.05: scipy, to twelve digits."""

    def slope(log_rho, y):
        total = VARIANCES + math.exp(2 * log_rho)
        offsets = y[:, None] - MEANS
        logits = np.log(WEIGHTS) - np.log(total) / 2 - offsets**2 / (2 * total)
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        return y - (chances * (MEANS + VARIANCES / total * offsets)).sum(1)

    found = solve_ivp(slope, (math.log(HIGH), math.log(LOW)), STARTS, "DOP853", rtol=1e-12, atol=1e-12)
    return found.y[:, -1]


def ratios(grid, n):
    """rho at the n + 1 times of a grid; the random one repeats sixteen step lengths in log rho."""
    if grid == "karras":
        return np.linspace(HIGH ** (1 / 7), LOW ** (1 / 7), n + 1) ** 7
    lengths = np.tile(np.random.default_rng(0).uniform(0.5, 1.5, 16), n // 16)
    shares = np.concatenate([[0.0], lengths.cumsum()]) / lengths.sum()
    return HIGH ** (1 - shares) * LOW**shares


def with_a_fine_start(rho):
    """The first step cut into nine, each about four times as long as the one before."""
    cuts = 4.0 ** -np.arange(8.0, 0.0, -1.0)
    return np.concatenate([rho[:1], rho[0] * (rho[1] / rho[0]) ** cuts, rho[1:]])


def measured_error(sampler, schedule, rho):
    times = schedule.time_at(torch.from_numpy(-2 * np.log(rho)))
    z = schedule.alpha(times[0]) * torch.from_numpy(STARTS)[:, None]
    found = last(sampler(mixture_denoiser(schedule), schedule, z, times)) / schedule.alpha(times[-1])
    return np.sqrt(np.mean((found[:, 0].numpy() - reference()) ** 2))


def measured_order(sampler, grid, schedule, refine=lambda rho: rho):
    return convergence_order(lambda n: measured_error(sampler, schedule, refine(ratios(grid, n))), [160, 320])


ORDERS = {
    "ddim": (ddim, 1),
    "heun": (heun, 2),
    "dpm_solver_2": (dpm_solver_2, 2),
    "dpm_solver_pp_2m": (dpm_solver_pp_2m, 2),
    "unipc 1": (partial(unipc, order=1), 2),
    "unipc 2": (unipc, 3),
    "unipc 2 bh1": (partial(unipc, variant="bh1"), 3),
    "pndm": (pndm, 2),
    "pndm low": (partial(pndm, start="lower_order"), 2),
    "deis 2": (partial(deis, order=2), 2),
    "deis 2 log_rho": (partial(deis, order=2, variable="log_rho"), 2),
}


@pytest.mark.parametrize("grid", ["karras", "random"])
@pytest.mark.parametrize("name", ORDERS)
def test_orders_of_convergence(name, grid):
    sampler, order = ORDERS[name]
    assert measured_order(sampler, grid, BUILT["vp_linear"]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("grid", ["karras", "random"])
def test_three_eps_give_third_order_once_the_start_is_fine(grid):
    found = measured_order(partial(deis, order=3), grid, BUILT["vp_linear"], with_a_fine_start)
    assert found == pytest.approx(3, abs=0.15)


def test_pndm_is_of_fourth_order_where_rho_is_a_multiple_of_t():
    """There its mean over t is the mean over rho, and its start the classical Runge-Kutta rule."""
    assert measured_order(pndm, "karras", BUILT["edm"]) == pytest.approx(4, abs=0.2)


def test_unipc_3_is_of_a_higher_order_than_unipc_2():
    assert measured_order(partial(unipc, order=3), "karras", BUILT["vp_linear"]) > 3.5


# Wrong second-order solvers that look right.


def wrong_2m(ratio=lambda r: r, v2=False):
    """++2M with places to break it."""

    def sampler(denoiser, schedule, z, times):
        before = None
        for t, s in zip(times[:-1], times[1:], strict=True):
            z_0, level = denoiser(z, t), schedule.log_snr(torch.stack([t, s])) / 2
            yield State(z, t, z_0)
            estimate = z_0
            if before is not None and s > 0:
                h, h_before = level[1] - level[0], level[0] - before[0]
                r = ratio(h_before / h)
                if (
                    v2
                ):  # k-diffusion's discussion 56: r is the longer over the shorter, and the step has their mean length
                    r, length = torch.maximum(h, h_before) / torch.minimum(h, h_before), (h + h_before) / 2
                estimate = (1 + 1 / (2 * r)) * z_0 - before[1] / (2 * r)
            start, z = z, ddim_step(z, estimate, schedule, t, s)
            if v2 and before is not None and s > 0:
                z = schedule.sigma(s) / schedule.sigma(t) * start - schedule.alpha(s) * torch.expm1(-length) * estimate
            before = (level[0], z_0)
        yield State(z, times[-1], z_0)

    return sampler


def wrong_heun(denoiser, schedule, z, times):
    """The second slope divided by the first sigma."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0 = denoiser(z, t)
        yield State(z, t, z_0)
        guess = ddim_step(z, z_0, schedule, t, s)
        late = (guess - schedule.alpha(s) * denoiser(guess, s)) / schedule.sigma(t)
        change = (late - from_z_0(z_0, "eps", z, t, schedule)) / 2
        z = turned_step(z, z_0, change, schedule, t, s)
    yield State(z, times[-1], z_0)


def middle_in_time(denoiser, schedule, z, times):
    """DPM-Solver-2's eps taken in the middle of t, as if that were the middle of the step."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        z_0, m = denoiser(z, t), t + 0.3 * (s - t)
        yield State(z, t, z_0)
        u = ddim_step(z, z_0, schedule, t, m)
        change = from_z_0(denoiser(u, m), "eps", u, m, schedule) - from_z_0(z_0, "eps", z, t, schedule)
        z = turned_step(z, z_0, change, schedule, t, s)
    yield State(z, times[-1], z_0)


def same_values(one, other, grid="random", n=32, schedule=BUILT["vp_linear"]):
    times = schedule.time_at(torch.from_numpy(-2 * np.log(ratios(grid, n))))
    z = schedule.alpha(times[0]) * torch.from_numpy(STARTS)[:, None]
    pair = [trajectory(sampler(mixture_denoiser(schedule), schedule, z, times)) for sampler in (one, other)]
    for ours, theirs in zip(*pair, strict=True):
        torch.testing.assert_close(ours.z, theirs.z, rtol=1e-10, atol=1e-10)


def test_the_loop_of_the_mutants_passes_with_the_right_ratio():
    same_values(dpm_solver_pp_2m, wrong_2m())


def test_an_inverted_ratio_keeps_its_order_and_is_wrong_by_value():
    """Its errors cancel along the grid, so only values tell, and only where steps differ in length."""
    inverted = wrong_2m(lambda r: 1 / r)
    for grid in ("karras", "random"):
        assert measured_order(inverted, grid, BUILT["vp_linear"]) == pytest.approx(2, abs=0.15)
        with pytest.raises(AssertionError):
            same_values(dpm_solver_pp_2m, inverted, grid)
        with pytest.raises(AssertionError):
            same_values(partial(unipc, corrector=False), inverted, grid)


def test_the_popular_v2_is_of_first_order_on_a_karras_grid():
    v2 = wrong_2m(v2=True)
    assert measured_order(v2, "karras", BUILT["edm"]) == pytest.approx(1, abs=0.15)
    with pytest.raises(AssertionError):
        same_values(dpm_solver_pp_2m, v2)
    even = torch.linspace(math.log(HIGH), math.log(LOW), 33, dtype=torch.float64)
    times, z = BUILT["edm"].time_at(-2 * even), torch.from_numpy(STARTS)[:, None]
    pair = [last(f(mixture_denoiser(BUILT["edm"]), BUILT["edm"], z, times)) for f in (v2, dpm_solver_pp_2m)]
    torch.testing.assert_close(*pair)  # where steps are even in log-SNR nothing is wrong with it


@pytest.mark.parametrize(("mutant", "right"), [(wrong_heun, heun), (middle_in_time, dpm_solver_2)])
def test_second_looks_at_the_wrong_place_lose_their_order(mutant, right):
    assert measured_order(mutant, "karras", BUILT["edm"]) < 1.3
    rho = ratios("karras", 160)
    assert measured_error(mutant, BUILT["edm"], rho) > 20 * measured_error(right, BUILT["edm"], rho)


# Value for value.


@every_schedule
@pytest.mark.parametrize("end", [0.0, 0.2])
def test_the_predictor_of_unipc_is_2m(schedule, end):
    generator = torch.Generator().manual_seed(0)
    times = torch.cat(
        [torch.rand(9, generator=generator, dtype=torch.float64).sort(descending=True).values * 0.6 + 0.3]
    )
    times = torch.cat([times, torch.tensor([end], dtype=torch.float64)])
    z = schedule.sigma(times[0]) * standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    ours = last(unipc(lambda z, t: torch.tanh(z), schedule, z, times, corrector=False))
    theirs = last(dpm_solver_pp_2m(lambda z, t: torch.tanh(z), schedule, z, times))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_order_1_of_all_is_ddim():
    schedule, times = BUILT["vp_cosine"], uniform_times(7)
    z = standard_normal(0)(torch.empty(2, 3, dtype=torch.float64))
    expected = last(ddim(lambda z, t: torch.tanh(z), schedule, z, times))
    for sampler in (partial(unipc, order=1, corrector=False), partial(pndm, order=1), partial(deis, order=1)):
        found = last(sampler(lambda z, t: torch.tanh(z), schedule, z, times))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 18, 40])
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [(ddim, EDMEulerScheduler()), (dpm_solver_pp_2m, EDMDPMSolverMultistepScheduler(solver_order=2))],
    ids=["euler", "2m"],
)
def test_euler_and_2m_are_diffusers_on_its_own_sigmas(sampler, scheduler, n):
    """Their sigmas are float32 and their first sigma 80; their network sees z / sqrt(sigma^2 + 1/4)."""
    schedule = BUILT["edm"]
    scheduler.set_timesteps(n)
    times = scheduler.sigmas.double() / 80
    start = 80 * standard_normal(0)(torch.empty(2, 3, 4, 5))

    def denoiser(z, t):
        return torch.tanh(z / (1 + 80 * t.to(z)))

    theirs = start
    for step in scheduler.timesteps:
        seen = scheduler.scale_model_input(theirs, step)
        sigma = scheduler.sigmas[scheduler.step_index]
        output = denoiser(theirs, sigma / 80)
        skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
        assert seen.shape == theirs.shape
        theirs = scheduler.step((output - skip * theirs) / out, step, theirs)[0]
    ours = last(sampler(denoiser, schedule, start.double(), times))
    rounding = 1e-6 if n > 2 else 3e-5  # of their float32 sum of numbers up to 300, which a few more steps forget
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-6, atol=rounding)


def diffusers_states(scheduler, n, network, start):
    """All states of a scheduler but the last: these schedulers end by a step to where they already are."""
    scheduler.set_timesteps(n)
    states = [start]
    for step in scheduler.timesteps[:-1]:
        states.append(scheduler.step(network(states[-1]), step, states[-1]).prev_sample)
    return states


def network(z):
    return torch.tanh(z)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_in_log_rho_is_diffusers(order):
    scheduler = DEISMultistepScheduler(solver_order=order, lower_order_final=False)
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    states = diffusers_states(scheduler, 12, network, start)
    times = TABLE.time_at(-2 * scheduler.sigmas.double().log())

    def denoiser(z, t):
        return to_z_0(network(z), "eps", z, t, TABLE)

    ours = trajectory(deis(denoiser, TABLE, start, times[:-1], order, "log_rho"))
    for i in (1, 2, 3, 4):
        torch.testing.assert_close(ours[i].z, states[i].double(), rtol=2e-4, atol=2e-4)
    if order > 1:
        other = trajectory(deis(denoiser, TABLE, start, times[:-1], order - 1, "log_rho"))
        assert (other[4].z - states[4]).abs().max() > 1e-3  # orders differ by more than the tolerance


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_is_diffusers_before_the_last_step(order, variant):
    scheduler = UniPCMultistepScheduler(
        solver_order=order, solver_type=variant, lower_order_final=False, use_karras_sigmas=True
    )
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    network_states = diffusers_states(scheduler, 12, network, start)
    times = TABLE.time_at(-2 * scheduler.sigmas[:-1].double().log())

    def denoiser(z, t):
        return to_z_0(network(z), "eps", z, t, TABLE)

    predicted = []

    def seen(z, t):
        predicted.append(z)
        return denoiser(z, t)

    last(unipc(seen, TABLE, start, times, order, variant=variant))
    for i in range(1, 6):
        torch.testing.assert_close(predicted[i], network_states[i].double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("runge_kutta", [True, False])
def test_pndm_is_diffusers_on_leading_grids(runge_kutta):
    """With the Runge-Kutta start, theirs too; and the start matters by more than the tolerance."""
    n = 20
    scheduler = PNDMScheduler(skip_prk_steps=False, timestep_spacing="leading")
    start = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    states = diffusers_states(scheduler, n, network, start)
    indices = torch.arange(n - 1, -1, -1) * (1000 // n)

    def denoiser(z, t):
        return to_z_0(network(z), "eps", z, t, TABLE)

    chosen = "runge_kutta" if runge_kutta else "lower_order"
    ours = trajectory(pndm(denoiser, TABLE, start, times_at(indices)[:-1], start=chosen))
    theirs = [states[0], *states[4:13:4], *states[13:]]  # after every Runge-Kutta step of four calls, then every call
    close = [torch.allclose(a.z, b.double(), rtol=1e-3, atol=1e-3) for a, b in zip(ours[:12], theirs, strict=False)]
    assert all(close) if runge_kutta else not all(close)


def test_adams_weights_on_even_grids_are_the_printed_ones():
    """Read off by a denoiser whose eps is 1 at one of the times and 0 at the others."""
    for order, printed in ((2, [3, -1]), (3, [23, -16, 5]), (4, [55, -59, 37, -9])):
        times = torch.linspace(0.9, 0.4, order + 1, dtype=torch.float64)
        schedule = BUILT["edm"]
        for j in range(order):
            calls = iter(range(order))

            def denoiser(z, t, calls=calls, one=order - 1 - j):
                return z - 80 * t * float(next(calls) == one)

            states = trajectory(pndm(denoiser, schedule, torch.zeros(1, 1).double(), times, order, "lower_order"))
            change = (states[-1].z - states[-2].z) / (80 * (times[-1] - times[-2]))
            assert change.item() == pytest.approx(printed[j] / {2: 2, 3: 12, 4: 24}[order], rel=1e-9)


# Exact laws under Gaussian data, from recursions typed here.

MEAN, VARIANCE = 0.4, 0.25


def recursion(name, schedule, times, drawn):
    """The state as a number, for eps and z_0 of a Gaussian: z_0 = mean + k (z / alpha - mean), in rho and y = z / alpha."""
    rho = (schedule.sigma(times) / schedule.alpha(times)).tolist()
    y = drawn

    def guess(y, rho):
        return MEAN + VARIANCE / (VARIANCE + rho**2) * (y - MEAN)

    def eps(y, rho):
        return (y - guess(y, rho)) / rho

    seen = []
    for i, (now, later) in enumerate(zip(rho[:-1], rho[1:], strict=True)):
        if later == 0:
            y = guess(y, now)
            continue
        seen.append((math.log(now), guess(y, now), eps(y, now)))
        step = later - now
        if name == "heun":
            y = y + step * (eps(y, now) + eps(y + step * eps(y, now), later)) / 2
        elif name == "dpm_solver_2":
            middle = math.sqrt(now * later)
            y = y + step * eps(y + (middle - now) * eps(y, now), middle)
        elif i == 0:
            y = y + step * eps(y, now)
        elif name == "dpm_solver_pp_2m":
            r = (seen[-2][0] - seen[-1][0]) / (math.log(now) - math.log(later))
            best = seen[-1][1] + (seen[-1][1] - seen[-2][1]) / (2 * r)
            y = later / now * y + (1 - later / now) * best
        else:  # deis, two eps, linear in log rho: integral of (log rho - log now) d rho
            inner = later * (math.log(later) - math.log(now)) - step
            y = y + step * seen[-1][2] + inner * (seen[-1][2] - seen[-2][2]) / (seen[-1][0] - seen[-2][0])
    return y


LAWS = {
    "heun": heun,
    "dpm_solver_2": dpm_solver_2,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "deis": partial(deis, order=2, variable="log_rho"),
}


@pytest.mark.parametrize("schedule_name", BUILT)
@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_that_of_the_recursion(name, schedule_name):
    schedule = BUILT[schedule_name]
    prior = Gaussian(torch.tensor([MEAN]).double(), torch.tensor([[VARIANCE]]).double())
    for times in (uniform_times(6, 0.95), karras_times(schedule, 9, t_max=0.95)[:-1]):
        scale = (schedule.sigma(times[0]) / schedule.alpha(times[0])).item()

        def run(noise, times=times):
            start = schedule.sigma(times[0]) * noise(torch.empty(1, 1, dtype=torch.float64))
            found = last(LAWS[name](denoiser_for(prior, schedule), schedule, start, times))
            return found / schedule.alpha(times[-1])

        mean, covariance = affine_law(run, 1)
        expected = recursion(name, schedule, times, 0.0)
        slope = recursion(name, schedule, times, scale) - expected
        assert mean.item() == pytest.approx(expected, rel=1e-8, abs=1e-8)
        assert covariance.item() == pytest.approx(slope**2, rel=1e-6)


# Ends of the grid.


@pytest.mark.parametrize("schedule_name", ends_in_pure_noise)
@pytest.mark.parametrize("name", ["heun", "dpm_solver_2", "dpm_solver_pp_2m", "unipc 2", "pndm", "deis 2"])
def test_pure_noise_is_left_by_one_ddim_step(name, schedule_name):
    schedule, sampler = BUILT[schedule_name], ORDERS[name][0]
    times, z = uniform_times(5), standard_normal(0)(torch.empty(2, 3, dtype=torch.float64))
    denoiser = count_calls(lambda z, t: torch.tanh(z))
    first = trajectory(sampler(denoiser, schedule, z, times[:2]))[-1].z
    torch.testing.assert_close(first, ddim_step(z, torch.tanh(z), schedule, times[0], times[1]))
    assert denoiser.calls == 1
    rest = trajectory(sampler(denoiser, schedule, first, times[1:]))
    whole = trajectory(sampler(denoiser, schedule, z, times))
    torch.testing.assert_close(whole[-1].z, rest[-1].z, rtol=1e-12, atol=1e-12)  # nothing of pure noise is remembered


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_calls_are_those_of_the_formula(n):
    schedule, z = BUILT["vp_linear"], torch.ones(2, 3)
    two = dict.fromkeys(("heun", "dpm_solver_2"), 2 * n - 1)
    formulas = two | {"pndm": n + 3 * min(3, n - 1)}
    for name, (sampler, _) in ORDERS.items():
        denoiser = count_calls(lambda z, t: z / 2)
        last(sampler(denoiser, schedule, z, uniform_times(n)))
        assert denoiser.calls == formulas.get(name, n)
        if n > 1:
            denoiser.calls = 0
            last(sampler(denoiser, schedule, z, uniform_times(n)[:-1]))
            assert denoiser.calls == {"heun": 2 * n - 2, "dpm_solver_2": 2 * n - 2}.get(name, formulas.get(name, n) - 1)


def test_a_second_order_step_to_no_noise_would_be_nan():
    """The bug of public code, log 0 at the last step, which the common first-order end prevents."""

    def endless(denoiser, schedule, z, times):
        before = None
        for t, s in zip(times[:-1], times[1:], strict=True):
            z_0, level = denoiser(z, t), schedule.log_snr(torch.stack([t, s])) / 2
            h = level[1] - level[0]
            estimate = z_0 if before is None else z_0 + (z_0 - before[1]) * h / (2 * (level[0] - before[0]))
            z = schedule.sigma(s) / schedule.sigma(t) * z - schedule.alpha(s) * torch.expm1(-h) * estimate
            before = (level[0], z_0)
            yield State(z, s, z_0)

    schedule, z = BUILT["vp_linear"], torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert last(endless(lambda z, t: z / 2, schedule, z, uniform_times(5))).isfinite().all()
    for sampler, _ in ORDERS.values():
        states = trajectory(sampler(lambda z, t: z / 2, schedule, z, uniform_times(5)))
        assert torch.equal(states[-1].z, states[-1].z_0)
