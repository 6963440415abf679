"""What every sampler owes its caller: order, shapes, calls, finiteness, independence of batch mates, clear refusals."""

from __future__ import annotations

import functools
import gc
import math
import weakref

import pytest
import torch
from test_schedules import BUILT, ends_in_pure_noise

from tutorial_lib.denoisers import count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import EmpiricalData, Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.samplers import (
    adaptive_sde,
    analytic_dpm,
    annealed_langevin,
    ddim,
    ddpm,
    deis,
    dpm_solver_2,
    dpm_solver_pp_2m,
    heun,
    invert,
    last,
    pndm,
    predictor_corrector,
    probability_flow,
    reverse_sde,
    trajectory,
    unipc,
)
from tutorial_lib.schedules import karras_times, log_snr_times, trailing_times, uniform_times

SAMPLERS = {
    "ddim": ddim,
    "ddim eta 0.6": functools.partial(ddim, eta=0.6),
    "posterior": ddpm,
    "beta": functools.partial(ddpm, variance="beta"),
    "learned": functools.partial(ddpm, variance=lambda z, t, s: 0.3),
    "annealed_langevin": functools.partial(annealed_langevin, steps=3),
    "reverse_sde": reverse_sde,
    "predictor_corrector": functools.partial(predictor_corrector, corrector_steps=2),
    "flow by heun": probability_flow,
    "scipy": functools.partial(probability_flow, solver="scipy"),
    "heun": heun,
    "heun churned": functools.partial(heun, s_churn=5.0),
    "dpm_solver_2": dpm_solver_2,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
    "unipc": unipc,
    "unipc 3": functools.partial(unipc, order=3, variant="bh1"),
    "pndm": pndm,
    "pndm low": functools.partial(pndm, order=3, start="lower_order"),
    "deis": deis,
    "deis log_rho": functools.partial(deis, order=2, variable="log_rho"),
    "analytic_dpm": functools.partial(analytic_dpm, last_std=0.0),
    "adaptive_sde": functools.partial(adaptive_sde, rtol=0.1, atol=0.05),
}
WITH_NOISE = (
    *("ddim", "ddim eta 0.6", "posterior", "beta", "learned", "annealed_langevin", "reverse_sde"),
    *("predictor_corrector", "heun", "heun churned", "analytic_dpm", "adaptive_sde"),
)
DRAWS_NOTHING = [name for name in SAMPLERS if name not in WITH_NOISE or name in ("ddim", "heun")]
STUCK_IN_PURE_NOISE = ("annealed_langevin", "reverse_sde", "predictor_corrector", "analytic_dpm", "adaptive_sde")
CALLS = {  # for n steps, the last one to 0; None: as many as it likes
    "annealed_langevin": lambda n: 3 * n + 1,
    "predictor_corrector": lambda n: n + 2 * (n - 1),
    "flow by heun": lambda n: 2 * n - 1,
    "heun": lambda n: 2 * n - 1,
    "heun churned": lambda n: 2 * n - 1,
    "dpm_solver_2": lambda n: 2 * n - 1,
    "pndm": lambda n: n + 9,
    "scipy": None,
    "adaptive_sde": None,
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
on_a_grid = pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "scipy"])


def sample(name, denoiser, schedule, z, times, seed=1, **options):
    """All states of a sampler; those that draw get their noise from `seed`, a number or one generator per sample."""
    if name in WITH_NOISE:
        options["noise"] = seed if callable(seed) else standard_normal(seed)
    return trajectory(SAMPLERS[name](denoiser, schedule, z, times, **options))


@on_a_grid
@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("schedule_name", BUILT)
def test_any_number_of_steps_ends_finite_and_without_noise(name, n, schedule_name):
    """The last state is the denoiser's answer, on every schedule and grid; most samplers also leave pure noise."""
    schedule = BUILT[schedule_name]
    t_max = 0.98 if name in STUCK_IN_PURE_NOISE and schedule_name in ends_in_pure_noise else 1.0
    denoiser = denoiser_for(Gaussian(torch.tensor([0.3]), torch.tensor([[0.25]])), schedule)
    z = schedule.sigma(t_max) * standard_normal(0)(torch.empty(4, 1, dtype=torch.float64))
    grids = (karras_times(schedule, n, t_max=t_max), uniform_times(n, t_max), log_snr_times(schedule, n, t_max))
    for times in grids[: 1 if name in ("annealed_langevin", "adaptive_sde") else 3]:
        states = sample(name, denoiser, schedule, z, times)
        assert all(state.z.isfinite().all() and state.z_0.isfinite().all() for state in states)
        assert torch.equal(states[-1].z, states[-1].z_0)
    if t_max == 1:
        assert sample(name, denoiser, schedule, z, trailing_times(n))[-1].z.isfinite().all()


@every_sampler
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_states_come_in_order_and_keep_shape_and_dtype(name, channels):
    times, z = uniform_times(6), torch.ones(2, channels, 3, 5)
    denoiser = count_calls(lambda z, t: z / 2)
    states = sample(name, denoiser, BUILT["vp_linear"], z, times)
    if CALLS.get(name, len) is not None:
        assert denoiser.calls == CALLS.get(name, lambda n: n)(6)
    assert torch.equal(states[0].z, z) and torch.equal(states[0].z_0, z / 2)
    first = [times[0].item()] if name == "annealed_langevin" else []  # its start, then a State per level
    assert [state.t.item() for state in states] == first + times.tolist()
    assert all(s.z.shape == s.z_0.shape == z.shape and s.z.dtype == s.z_0.dtype == torch.float32 for s in states)


@every_sampler
def test_float32_states_follow_float64_states(name):
    z = standard_normal(0)(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    answers = [
        sample(
            name, lambda z, t: torch.tanh(z), BUILT["vp_cosine"], z.to(dtype), uniform_times(5, 0.9), torch.ones_like
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert answers[0][-1].z.dtype == torch.float32
    torch.testing.assert_close(answers[0][-1].z.double(), answers[1][-1].z, rtol=0, atol=1e-4)


@on_a_grid
def test_a_sample_does_not_depend_on_its_batch_mates(name):
    schedule, times = BUILT["vp_linear"], uniform_times(7)
    scale = {0: 1.0, 1: 300.0, 2: 0.01}  # mates so different that any shared norm or step size shows

    def run(seeds):
        noise = standard_normal([torch.Generator().manual_seed(seed) for seed in seeds])
        like = torch.empty(len(seeds), 2, 3, 5, dtype=torch.float64)
        start = noise(like) * torch.tensor([scale[seed] for seed in seeds], dtype=torch.float64).view(-1, 1, 1, 1)
        return sample(name, lambda z, t: torch.tanh(z), schedule, start, times, noise)[-1].z

    batch = run([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(batch[i : i + 1], run([i]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(batch[0], batch[1])


@every_sampler
def test_seeds_repeat_and_the_default_is_not_seed_0(name):
    schedule, times, z = BUILT["vp_linear"], uniform_times(4), torch.ones(2, 3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    default = last(SAMPLERS[name](lambda z, t: z / 2, schedule, z, times))
    assert torch.equal(default, last(SAMPLERS[name](lambda z, t: z / 2, schedule, z, times)))
    assert torch.equal(before, torch.get_rng_state())
    zero, again, one = (sample(name, lambda z, t: z / 2, schedule, z, times, seed)[-1].z for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    draws = name not in DRAWS_NOTHING
    assert torch.equal(zero, one) != draws and torch.equal(zero, default) != draws


@on_a_grid
def test_memory_does_not_grow_with_the_number_of_steps(name):
    alive, most = [], 0

    def denoiser(z, t):
        nonlocal most
        answer = z / 2
        alive.append(weakref.ref(answer))
        gc.collect(0)
        most = max(most, sum(ref() is not None for ref in alive))
        return answer

    last(SAMPLERS[name](denoiser, BUILT["vp_linear"], torch.ones(1, 4), uniform_times(40)))
    assert most <= (4 if name == "unipc 3" else 3)  # the three estimates that it extrapolates, and the new one


@every_sampler
def test_certain_data_are_found(name):
    """With one possible z_0 every sampler ends there."""
    schedule = BUILT["vp_cosine"]
    denoiser = denoiser_for(EmpiricalData(torch.tensor([[0.7, -0.2]])), schedule)
    for times in (uniform_times(5, 0.95), karras_times(schedule, 5, t_max=0.95)):
        found = sample(name, denoiser, schedule, torch.ones(3, 2, dtype=torch.float64), times)[-1].z
        torch.testing.assert_close(found, torch.tensor([[0.7, -0.2]] * 3).double(), rtol=1e-6, atol=1e-6)


EXACT_IN_THE_LIMIT = [
    name for name in SAMPLERS if name not in ("scipy", "annealed_langevin", "predictor_corrector", "adaptive_sde")
]


@pytest.mark.parametrize("name", EXACT_IN_THE_LIMIT)
@pytest.mark.parametrize("end", [0.6, 0.2])
@pytest.mark.parametrize("schedule_name", ["vp_linear", "sub_vp", "ve", "edm", "flow"])
def test_times_that_end_early_give_states_of_that_noise_level(name, end, schedule_name):
    """Started from the true law, 60 steps end near N(alpha mu, alpha^2 c + sigma^2) at times[-1] > 0."""
    schedule, start = BUILT[schedule_name], 0.9
    times = torch.cat([karras_times(schedule, 400, t_max=start)[:-1], torch.tensor([end]).double()])
    times = times[times >= end].unique().flip(0)
    times = times[torch.linspace(0, len(times) - 1, 61).round().long().unique()]
    mean, variance = 0.4, 0.5
    denoiser = denoiser_for(Gaussian(torch.tensor([mean]).double(), torch.tensor([[variance]]).double()), schedule)

    def run(noise):
        alpha, sigma = schedule.alpha(start), schedule.sigma(start)
        z = alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * noise(torch.empty(1, 1, dtype=torch.float64))
        return sample(name, denoiser, schedule, z, times, noise)[-1].z

    found_mean, found = affine_law(run, 1)
    alpha, sigma = schedule.alpha(end), schedule.sigma(end)
    std = (alpha**2 * variance + sigma**2).sqrt()
    assert abs(found_mean.item() - alpha * mean) < 0.05 * std
    assert found.item() == pytest.approx(std.item() ** 2, rel=0.12)


@pytest.mark.parametrize("name", [*EXACT_IN_THE_LIMIT, "scipy"])
def test_a_mixture_keeps_its_weights(name):
    """Two far modes, 0.3 and 0.7: the share of samples nearer the first, within five standard errors of its 2000."""
    schedule = BUILT["ve"]
    prior = GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[-2.0], [2.0]]).double(), torch.full((2, 1, 1), 0.05).double()
    )
    times = karras_times(schedule, 40)
    z = schedule.sigma(1.0) * standard_normal(0)(torch.empty(2000, 1, dtype=torch.float64))
    times = times[[0, -2, -1]] if name == "scipy" else times
    found = sample(name, denoiser_for(prior, schedule), schedule, z, times)[-1].z
    share = (found < 0).double().mean().item()
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 2000)
    assert (found.abs() - 2).abs().median() < 0.4


@every_sampler
def test_inference_mode(name):
    with torch.inference_mode():
        z = torch.ones(1, 2)
        assert sample(name, lambda z, t: z / 2, BUILT["vp_linear"], z, uniform_times(3))[-1].z.isfinite().all()


@on_a_grid
def test_gradients_reach_the_start(name):
    z = torch.ones(1, 2, requires_grad=True)
    sample(name, lambda z, t: z / 2, BUILT["vp_linear"], z, uniform_times(4))[-1].z.sum().backward()
    assert (z.grad != 0).all()


@every_sampler
def test_progress_is_shown_when_asked(name, capsys):
    z, times = torch.ones(1, 2), uniform_times(3)
    sample(name, lambda z, t: z, BUILT["ve"], z, times, progress=True)
    assert ("4/4" if name == "annealed_langevin" else "3/3") in capsys.readouterr().err
    sample(name, lambda z, t: z, BUILT["ve"], z, times)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([[1.0, 0.0]], "times must be a list of at least"),
        ([], "times must be a list of at least"),
        ([0.0, 0.5, 1.0], "times must decrease"),
        ([1.0, 0.5, 0.5, 0.0], "times must decrease"),
        ([999, 500, 0], "times must decrease from at most 1"),
        ([0.5, -0.1], "times must decrease"),
        ([1.0, math.nan, 0.0], "times must decrease"),
        ([math.nan], "times must"),
    ],
)
@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), invert], ids=[*SAMPLERS, "invert"])
def test_bad_times_are_refused_at_once(sampler, times, message):
    with pytest.raises(ValueError, match=message):
        sampler(lambda z, t: z, BUILT["ve"], torch.ones(1, 2), times)


@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), invert], ids=[*SAMPLERS, "invert"])
@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.ones(3), r"z must be a floating-point batch of states \(B, ...\), but \(3,\) of torch.float32 came"),
        (torch.ones(3, 1, dtype=torch.int64), "z must be a floating-point batch"),
        ([[1.0]], "z must be a floating-point batch of states .* but a list came"),
        (torch.tensor([[1.0, math.nan]]), "z must be finite, but it holds NaN"),
        (torch.tensor([[1.0, -math.inf]]), "z must be finite, but it holds NaN or infinite values"),
    ],
)
def test_bad_states_are_refused_at_once(sampler, z, message):
    with pytest.raises(ValueError, match=message):
        sampler(lambda z, t: z, BUILT["ve"], z, uniform_times(3))


def denoiser_never_called(z, t):
    raise AssertionError("the denoiser was called")


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (ddim, {"eta": 2}, "eta must lie between 0 and 1, but 2 came"),
        (ddim, {"eta": math.nan}, "eta must lie between 0 and 1"),
        (ddpm, {"variance": "bta"}, "variance must be one of 'posterior', 'beta', but 'bta' came; did you mean 'beta'"),
        (ddpm, {"variance": 0.5}, "variance must be one of 'posterior', 'beta', but 0.5 came"),
        (annealed_langevin, {"steps": 0}, "steps must be a whole number of at least 1, but 0 came"),
        (annealed_langevin, {"steps": 2.5}, "steps must be a whole number"),
        (annealed_langevin, {"step_size": -0.1}, "step_size must be a positive number, but -0.1 came"),
        (annealed_langevin, {"step_size": math.nan}, "step_size must be a positive number, but nan came"),
        (predictor_corrector, {"snr": 0}, "snr must be a positive number, but 0 came"),
        (predictor_corrector, {"corrector_steps": -1}, "corrector_steps must be a whole number of at least 0"),
        (probability_flow, {"solver": "huen"}, "solver must be one of 'heun', 'scipy', but 'huen' came; did you mean"),
        (probability_flow, {"rtol": 0.0}, "rtol must be a positive number"),
        (probability_flow, {"atol": math.inf}, "atol must be a positive number"),
        (invert, {"solver": "spicy"}, "did you mean 'scipy'"),
        (heun, {"s_churn": -1}, "s_churn must be 0 or a positive number, but -1 came"),
        (heun, {"s_churn": math.nan}, "s_churn must be 0 or a positive number"),
        (heun, {"s_min": 2, "s_max": 1}, "s_min and s_max must obey 0 <= s_min <= s_max, but 2 and 1 came"),
        (heun, {"s_noise": 0}, "s_noise must be a positive number, but 0 came"),
        (unipc, {"order": 4}, "order must be at most 3, but 4 came"),
        (unipc, {"order": 0}, "order must be a whole number of at least 1, but 0 came"),
        (unipc, {"variant": "bh3"}, "variant must be one of 'bh2', 'bh1', but 'bh3' came"),
        (pndm, {"order": 5}, "order must be at most 4, but 5 came"),
        (pndm, {"start": "runge"}, "start must be one of 'runge_kutta', 'lower_order', but 'runge' came; did you mean"),
        (deis, {"order": 2.5}, "order must be a whole number"),
        (
            deis,
            {"variable": "rho"},
            "variable must be one of 'time', 'log_rho', but 'rho' came; did you mean 'log_rho'",
        ),
        (
            analytic_dpm,
            {"gammas": torch.ones(2)},
            r"gammas must hold one number >= 0 for each of the 3 steps, but \(2,",
        ),
        (analytic_dpm, {"gammas": [0.5, -0.1, 1]}, "gammas must hold .* but -0.1 among them came"),
        (analytic_dpm, {"largest": -1}, "largest must not be negative, but -1 came"),
        (analytic_dpm, {"last_std": math.nan}, "last_std must not be negative, but nan came"),
        (adaptive_sde, {"rtol": 0}, "rtol must be a positive number, but 0 came"),
        (adaptive_sde, {"atol": -1.0}, "atol must be a positive number"),
        (adaptive_sde, {"first_step": math.inf}, "first_step must be a positive number"),
        (adaptive_sde, {"t_min": 0.0}, "t_min must be a positive number"),
    ],
)
def test_bad_options_are_refused_at_once(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(denoiser_never_called, BUILT["ve"], torch.ones(1, 2), uniform_times(3), **options)


@pytest.mark.parametrize("sampler", [reverse_sde, predictor_corrector, annealed_langevin, analytic_dpm, adaptive_sde])
@pytest.mark.parametrize("schedule_name", ends_in_pure_noise)
def test_what_cannot_leave_pure_noise_says_so(sampler, schedule_name):
    message = f"{sampler.__name__} cannot leave pure noise, but alpha is 0 at t = 1 .*start at t_max < 1"
    with pytest.raises(ValueError, match=message):
        sampler(denoiser_never_called, BUILT[schedule_name], torch.ones(1, 2), uniform_times(3))


def test_annealed_langevin_needs_noise_to_start_from():
    with pytest.raises(ValueError, match="times must start where there is noise, but sigma is 0 at t = 0"):
        annealed_langevin(denoiser_never_called, BUILT["ve"], torch.ones(1, 2), [0.0])


@on_a_grid
def test_a_denoiser_of_the_wrong_shape_is_noticed(name):
    with pytest.raises((ValueError, RuntimeError)):
        sample(name, lambda z, t: z[:, :1, :2], BUILT["vp_linear"], torch.ones(2, 3, 4), uniform_times(3))
