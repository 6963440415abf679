"""Zero-shot methods on the cameras of the chapters: laws, float32 at both ends of time, contexts, starts, and the benchmark.

Small states with several channels, oblong, seen through pooled, decimated and masked blurs with odd and even kernels.
"""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from test_zero_shot_steps import METHODS, TIMES, VP, double, draw, knows, same, smooth_prior, wrong

from tutorial_lib import guidance
from tutorial_lib.degradations import gaussian_kernel, motion_kernel
from tutorial_lib.denoisers import count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, Decimate, Dense, Grayscale, Identity, Mask
from tutorial_lib.oracles import affine_law, denoiser_for
from tutorial_lib.samplers import ddim, ddpm, last, trajectory
from tutorial_lib.schedules import Schedule, edm, flow, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import forward_step
from tutorial_lib.zero_shot import (
    ccdf,
    ddnm,
    ddrm,
    diffpir,
    dps,
    gdp,
    gdp_blind,
    ilvr,
    mcg,
    pigdm,
    problem,
    repaint,
    snips,
)

ROOT = Path(__file__).resolve().parent.parent
MOTION = motion_kernel(2.6, 20.0)  # 5 x 5
TURNED = gaussian_kernel(4, 0.9, 0.5, angle=30)
SOME = torch.rand(3, 2, 6, generator=torch.Generator().manual_seed(2)) > 0.4
CAMERAS = {  # name -> (operator, shape of its states)
    "decimated motion blur": (Decimate(2) @ Blur(MOTION), (2, 4, 6)),
    "pooled anisotropic blur": (AveragePool(2) @ Blur(TURNED), (1, 4, 6)),
    "mask of grey of pool": (Mask(torch.tensor([[1, 0, 1]])) @ Grayscale(5) @ AveragePool(2), (5, 2, 6)),
    "pool of grey of mask": (AveragePool(2) @ Grayscale(3) @ Mask(SOME), (3, 2, 6)),
    "bicubic by 3": (Bicubic(3), (3, 3, 6)),
    "blur that erases": (Blur(torch.full((1, 3), 1 / 3)), (1, 4, 6)),
}
every_camera = pytest.mark.parametrize("camera", CAMERAS)
ENDS = {"cosine": (vp_cosine(), 0.995), "edm": (edm(80.0), 1.0), "flow": (flow(), 0.995), "vp": (vp_linear(), 1.0)}


def ones(like):
    return torch.ones_like(like)


# ---------------------------------------------------------------------------------------------------------- laws on cameras


@pytest.mark.parametrize("noise_std", [0.0, 0.15])
@every_camera
def test_the_state_has_the_noise_of_its_time_behind_every_camera(camera, noise_std):
    """Var[z_s | z_0] = sigma_s^2 I and mean alpha_s z_0, the measurement's noise included."""
    operator, shape = CAMERAS[camera]
    truth, times = draw(1, *shape, seed=3), torch.tensor([0.7, 0.4, 0.2], dtype=double)
    alpha, variance = VP.alpha(0.2), VP.sigma(0.2) ** 2
    for method in (ilvr, partial(ddrm, eta_b=0.7), ddnm):

        def run(noise, method=method):
            x = operator(truth)
            x = x + noise_std * noise(x)
            z = forward_step(truth, VP, 0.0, times[0], noise)
            return last(method(knows(truth), VP, operator, x, noise_std, times, z, noise=noise)).reshape(1, -1)

        mean, covariance = affine_law(run, truth.numel())
        same(mean / alpha, truth.flatten(), 1e-10)
        same(covariance / variance, torch.eye(truth.numel(), dtype=double), 1e-10)


@pytest.mark.parametrize("schedule", [VP, edm(20.0), flow()], ids=["vp", "edm", "flow"])
@every_camera
def test_ddnm_plus_is_ddrm_behind_every_camera(camera, schedule):
    operator, shape = CAMERAS[camera]
    z = schedule.sigma(0.9) * draw(2, *shape)
    for noise_std in (0.03, 0.3, 3.0):
        x = draw(1, *operator(z).shape[1:], seed=1)
        found = [
            last(method(wrong, schedule, operator, x, noise_std, TIMES, z, noise=standard_normal(1)))
            for method in (partial(ddnm, eta_total=0.7), partial(ddrm, eta_total=0.7))
        ]
        same(found[0] / z.abs().max(), found[1] / z.abs().max(), 1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_channels_and_samples_may_change_places(name):
    operator, z = Decimate(2) @ Blur(MOTION), draw(3, 3, 4, 6)
    x, order = draw(3, 3, 2, 3, seed=1), [2, 0, 1]
    normal = standard_normal(5)
    plain = last(METHODS[name](wrong, VP, operator, x, 0.1, TIMES, z, noise=standard_normal(5)))
    turned = last(
        METHODS[name](
            wrong,
            VP,
            operator,
            x[order][:, order],
            0.1,
            TIMES,
            z[order][:, order],
            noise=lambda n: normal(n)[order][:, order],
        )
    )
    same(turned, plain[order][:, order], 1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_one_measurement_for_all_is_each_its_own_copy(name):
    operator, z = AveragePool(2), draw(3, 2, 4, 6)
    x = operator(draw(1, 2, 4, 6, seed=1))
    one, many = (
        last(METHODS[name](wrong, VP, operator, given, 0.1, TIMES, z, noise=standard_normal(1)))
        for given in (x, x.expand(3, -1, -1, -1))
    )
    same(one, many, 1e-13)
    drawn = METHODS[name](wrong, VP, operator, x.expand(3, -1, -1, -1), 0.1, TIMES, noise=standard_normal(1))
    assert next(iter(drawn)).z.shape == z.shape


def test_what_a_mask_hides_of_x_says_nothing():
    """Noise on hidden pixels of x: nobody but the norms of DPS and MCG, as published, takes notice."""
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 0, 1, 1]])
    x, z = draw(1, 1, 2, 4), draw(2, 1, 2, 4, seed=1)
    for name, method in METHODS.items():
        seen, other = (
            last(method(wrong, VP, Mask(mask), given, 0.2, TIMES, z, noise=standard_normal(1)))
            for given in (mask * x, x)
        )
        if name in ("dps", "mcg"):
            assert (seen - other).abs().max() > 1e-3
        else:
            same(seen, other, 1e-11)


# ----------------------------------------------------------------------------------------------- float32 at the ends of time


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
@pytest.mark.parametrize("end", ENDS)
def test_float32_from_nearly_pure_noise_to_nearly_none(end, noise_std):
    schedule, t = ENDS[end]
    times = torch.tensor([t, 0.8, 0.4, 0.1, 1e-2, 1e-3, 1e-4, 0.0], dtype=double)
    prior = smooth_prior((2, 4, 6))
    operator, z = Decimate(2) @ Blur(MOTION), schedule.sigma(t) * draw(2, 2, 4, 6, seed=1)
    x, denoiser = operator(prior.sample(1)), denoiser_for(prior, schedule)
    for name, method in METHODS.items():
        precise = last(method(denoiser, schedule, operator, x, noise_std, times, z, noise=ones))
        single = last(method(denoiser, schedule, operator, x.float(), noise_std, times, z.float(), noise=ones))
        assert single.dtype == torch.float32
        error = (single - precise).abs().max() / precise.abs().max().clamp(min=1)
        assert error < 2e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", METHODS)
def test_the_state_decides_on_the_precision(name):
    """A measurement that comes in another one is cast, not the other way round."""
    operator, z = AveragePool(2), draw(2, 1, 4, 4)
    x = operator(draw(1, 1, 4, 4, seed=1)).float()
    for state, other in ((z.float(), x.double()), (z.double(), x)):
        found = last(METHODS[name](wrong, VP, operator, other, 0.1, TIMES, state, noise=ones))
        same(found, last(METHODS[name](wrong, VP, operator, x.to(state), 0.1, TIMES, state, noise=ones)), 0.0)
        assert found.dtype == state.dtype


@pytest.mark.parametrize("t", [1.0, 0.5, 0.01])
def test_data_steps_in_float32_where_the_operator_erases(t):
    """Noise in x at erased frequencies, and rho down to 1e-10: divided by rho, it would come back as thousands."""
    operator, z = Blur(torch.full((1, 4), 0.25)), draw(2, 3, 8, 12).float()
    x = operator(z) + 0.1 * draw(2, 3, 8, 12, seed=1).float()
    for noise_std in (0.0, 0.1):
        for guided in (guidance.proximal, guidance.pigdm):
            single, precise = (
                guided(wrong, operator, x.to(dtype), VP, noise_std)(z.to(dtype), t) for dtype in (torch.float32, double)
            )
            error = (single - precise).abs().max() / precise.abs().max()
            assert error < 2e-6


# -------------------------------------------------------------------------------------------------- contexts, starts, states


@pytest.mark.parametrize("name", [*METHODS, "gdp_blind"])
def test_inference_mode_changes_nothing(name):
    """Also when the measurement, the start and the operator's caches were made under it."""

    def degrade(z_0, parameters):
        return parameters[:, :1, None, None] * z_0

    def run():
        operator, z = Decimate(2) @ Blur(MOTION.clone()), draw(2, 2, 4, 6)
        if name == "gdp_blind":
            start = torch.ones(1, 1, dtype=double)
            end = trajectory(gdp_blind(wrong, VP, degrade, start, 0.5 * z, z, TIMES, scale=3.0, quality=quality))[-1]
            assert (end.parameters - start).abs().min() > 0.01
            return end.z
        x = operator(draw(1, 2, 4, 6, seed=2))
        return last(METHODS[name](wrong, VP, operator, x, 0.1, TIMES, z))

    def quality(z_0):
        return z_0.diff(dim=-1).square().flatten(1).sum(1)

    expected = run()
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            found = run()
        same(found.clone(), expected, 1e-13)


def test_blind_and_seeing_gdp_go_down_the_same_quality():
    """With a degradation that ignores its parameters, to rounding the same walk; without the quality another one."""
    z, x = draw(2, 1, 4, 4), draw(2, 1, 4, 4, seed=1)

    def rough(z_0):
        return z_0.diff(dim=-1).square().flatten(1).sum(1)

    def ignore(z_0, parameters):
        return z_0 + 0 * parameters[:, :, None, None]

    seeing, blind, careless = (
        last(states)
        for states in (
            gdp(wrong, VP, Identity(), x, 0.0, TIMES, z, scale=3.0, quality=rough),
            gdp_blind(wrong, VP, ignore, torch.zeros(1, 1), x, z, TIMES, scale=3.0, quality=rough),
            gdp_blind(wrong, VP, ignore, torch.zeros(1, 1), x, z, TIMES, scale=3.0),
        )
    )
    same(blind, seeing)
    assert (careless - seeing).abs().max() > 0.01


def test_ilvr_stops_at_the_time_it_is_told():
    """Steps that arrive at `until` or above it are projected, later ones are the plain sampler's."""
    operator, x, z = AveragePool(2), draw(1, 1, 2, 2), draw(2, 1, 4, 4, seed=1)
    normal = [draw(2, 1, 4, 4, seed=i) for i in range(5)]

    def stream(first=0):
        drawn = iter(normal[first:])
        return lambda like: next(drawn).clone()

    times, until = TIMES[1:], TIMES[3].item()
    found = last(ilvr(wrong, VP, operator, x, 0.0, times, z, until=until, noise=stream()))
    early = last(ilvr(wrong, VP, operator, x, 0.0, times[:3], z, noise=stream()))
    same(found, last(ddpm(wrong, VP, early, times[2:], noise=stream(2))))
    later = last(ilvr(wrong, VP, operator, x, 0.0, times, z, until=until + 1e-6, noise=stream()))
    assert (later - found).abs().max() > 1e-3


def test_a_fixed_enlargement_noises_its_reference_anew():
    """The paper's code draws the reference's noise apart from the step's: without a projection they would be one another's."""
    operator, x, z = AveragePool(2), draw(1, 1, 2, 2), draw(1, 1, 4, 4, seed=1)
    drawn = [draw(1, 1, 4, 4, seed=i) for i in (2, 3)]
    stream, times = iter(drawn), torch.tensor([0.5, 0.3], dtype=double)
    found = last(
        ilvr(
            wrong,
            VP,
            operator,
            x,
            0.0,
            times,
            z,
            enlarge=lambda x: 3 * operator.adjoint(x),
            noise=lambda like: next(stream),
        )
    )
    proposal = last(ddpm(wrong, VP, z, times, noise=lambda like: drawn[0].clone()))
    reference = VP.alpha(0.3) * x + VP.sigma(0.3) * operator(drawn[1])
    same(found, proposal + 3 * operator.adjoint(reference - operator(proposal)))


def test_ccdf_begins_where_it_is_told():
    """One `init` for all x, one of its own for each, one x for many; and no pseudo-inverse is spent on it."""
    calls, operator = [], AveragePool(2)
    operator.pinv = lambda x: calls.append(1) or AveragePool(2).pinv(x)
    times, x, init = torch.tensor([0.3, 0.1], dtype=double), draw(3, 1, 2, 2), draw(3, 1, 4, 4, seed=1)

    def start(x, init):
        return next(iter(ccdf(wrong, VP, operator, x, 0.0, times, init=init, noise=ones))).z

    same(start(x, init), VP.alpha(0.3) * init + VP.sigma(0.3))
    same(start(x, init[:1]), (VP.alpha(0.3) * init[:1] + VP.sigma(0.3)).expand(3, -1, -1, -1))
    same(start(x[:1], init), VP.alpha(0.3) * init + VP.sigma(0.3))
    assert not calls
    denoiser = count_calls(wrong)
    states = trajectory(ccdf(denoiser, VP, AveragePool(2), x))
    assert denoiser.calls == 20 and states[0].t == 0.3 and states[-1].t == 0


@pytest.mark.parametrize("share", [0.0, 1.0, 9.0])
def test_ddrm_starts_at_the_level_of_its_time(share):
    """Over the noise of x and its own: sigma^2 in every coordinate, the mean alpha z_0 where x is less noisy, else 0."""
    operator, truth, t = Decimate(2) @ Blur(MOTION), draw(1, 1, 4, 6, seed=3), 0.45
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    s, right = torch.linalg.svd(operator.dense((1, 4, 6)), full_matrices=False)[1:]
    gap = (s[:-1] / s[1:]).argmax()  # between singular values that differ most
    noise_std = (share * sigma / alpha * (s[gap] + s[gap + 1]) / 2).item()

    def run(noise):
        x = operator(truth)
        x = x + noise_std * noise(x)
        return next(iter(ddrm(wrong, VP, operator, x, noise_std, [t, 0.1], noise=noise))).z.reshape(1, -1)

    mean, covariance = affine_law(run, 24)
    same(covariance, sigma**2 * torch.eye(24, dtype=double), 1e-12)
    clear = alpha * noise_std / s <= sigma
    assert clear.sum() == {0.0: len(s), 1.0: gap + 1, 9.0: 0}[share]
    same(mean, alpha * (right.T * clear) @ right @ truth.flatten(), 1e-12)


def test_the_estimate_that_guided_samplers_show_is_the_guided_one():
    operator, x, z = Bicubic(2), draw(1, 1, 2, 2), draw(2, 1, 4, 4, seed=1)
    for method, guided in ((pigdm, guidance.pigdm), (diffpir, guidance.proximal)):
        state = next(iter(method(wrong, VP, operator, x, 0.2, TIMES, z)))
        same(state.z_0, guided(wrong, operator, x, VP, 0.2)(z, TIMES[0]))
    for eta in (0.0, 0.6):
        told = guidance.pigdm(wrong, operator, x, VP, 0.2, prior_std=0.5)
        expected = last(ddim(told, VP, z, TIMES, eta, standard_normal(1)))
        found = last(pigdm(wrong, VP, operator, x, 0.2, TIMES, z, eta=eta, prior_std=0.5, noise=standard_normal(1)))
        same(found, expected)


def test_snips_goes_from_level_to_level_in_its_own_coordinates():
    """Two levels by hand on A = I without noise in x (r = 1, w = l^2), then the end: x itself, or the denoiser's answer."""
    x, z = draw(1, 1, 1, 2), draw(1, 1, 1, 2, seed=1)
    drawn = [draw(1, 1, 1, 2, seed=i) for i in (2, 3)]
    a, times = 0.4, torch.tensor([0.5, 0.2, 0.0], dtype=double)
    for noise_std in (0.0, 0.01):
        stream, y = iter(drawn), z / VP.alpha(0.5)
        states = trajectory(
            snips(
                wrong,
                VP,
                Identity(),
                x,
                noise_std,
                times,
                z,
                steps=1,
                step_size=a,
                noise=lambda like, s=stream: next(s),
            )
        )
        for t, white in zip((0.5, 0.2), drawn, strict=True):
            level = (VP.sigma(t) / VP.alpha(t)) ** 2 - noise_std**2
            y = y + a / 2 * (x - y) + (a * level).sqrt() * white
        same(states[2].z, VP.alpha(0.2) * y)
        same(states[3].z, x if noise_std == 0 else wrong(VP.alpha(0.2) * y, 0.2))


def test_going_back_adds_noise_to_the_state_itself():
    """DDNM's time travel and RePaint's: q(z_t | z_s), with the state and not with the estimate of z_0."""
    operator, x, z = AveragePool(2), draw(1, 1, 2, 2), draw(1, 1, 4, 4, seed=1)
    times = torch.tensor([0.9, 0.6, 0.3, 0.0], dtype=double)
    for method, travelling in (
        (partial(repaint, repeat=1), partial(repaint, jump=1, repeat=2)),
        (ddnm, partial(ddnm, travel_length=1, travel_repeat=2)),
    ):
        noise, expected = standard_normal(3), z
        path = problem.resampling_path(3, 1, 2)
        assert path == [0, 1, 0, 1, 2, 1, 2, 3]
        for i, j in zip(path[:-1], path[1:], strict=True):
            if j < i:
                expected = forward_step(expected, VP, times[i], times[j], noise)
            else:
                expected = last(method(wrong, VP, operator, x, 0.0, times[i : j + 1], expected, noise=noise))
        same(last(travelling(wrong, VP, operator, x, 0.0, times, z, noise=standard_normal(3))), expected)
    lengths = [problem.resampling_path(9, *pair) for pair in ((3, 2), (2, 3))]
    denoiser = count_calls(wrong)
    last(ddnm(denoiser, VP, operator, x, 0.0, uniform_times(9), z, travel_length=3, travel_repeat=2))
    assert denoiser.calls == sum(j > i for i, j in zip(lengths[0][:-1], lengths[0][1:], strict=True))
    assert denoiser.calls != sum(j > i for i, j in zip(lengths[1][:-1], lengths[1][1:], strict=True))
    last(repaint(denoiser := count_calls(wrong), VP, operator, x, 0.0, uniform_times(10), z))
    assert denoiser.calls == 10  # a grid of `jump` steps has no room to go back


def test_scales_mean_the_same_in_every_units():
    """dps, mcg and gdp on the same noise levels with z twice, and a hundred times, as large: the same sample."""
    operator, z = Dense(draw(3, 5)), draw(2, 5, seed=2)
    x = draw(1, 3, seed=1)
    for factor in (2.0, 100.0):
        louder = Schedule(lambda t, f=factor: f * VP.alpha(t), lambda t, f=factor: f * VP.sigma(t))
        for method in (dps, mcg, partial(gdp, scale=20.0), partial(dps, fading=True)):

            def there(y, t, cond=None, f=factor):
                return wrong(y / f, t)

            plain = last(method(wrong, VP, operator, x, 0.0, TIMES, z, noise=standard_normal(1)))
            large = last(method(there, louder, operator, x, 0.0, TIMES, factor * z, noise=standard_normal(1)))
            same(large / factor, plain, 1e-9)


# ----------------------------------------------------------------------------------------------------------- the benchmark


def benchmark():
    spec = importlib.util.spec_from_file_location("posterior_benchmark", ROOT / "benchmarks" / "posterior.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_posterior_is_what_the_benchmark_finds():
    """Its shortest column, one measurement with both noises, every exact entry: to the digits that are kept."""
    module = benchmark()
    record = json.loads((ROOT / "tutorial_lib" / "data" / "posterior.json").read_text())["rows"]
    prior, found = module.priors()["Gaussian"], 0
    for kept in record:
        if not kept["exact"] or kept["column"] != 10 or kept["measurement"] != "inpainting" or kept["lost"]:
            continue
        row = module.row(kept["method"], "Gaussian", prior, kept["measurement"], kept["noise_std"], 10)
        assert row["calls"] == kept["calls"], kept
        for key in ("w2", "residual", "coverage"):
            assert row[key] == pytest.approx(kept[key], rel=1e-3, abs=1e-6), (kept, row)
        found += 1
    assert found >= 20


def test_distances_from_samples_are_those_of_the_exact_law():
    """Methods whose law is known, measured as the sampled ones are: within four errors; exact draws: at the floor."""
    module = benchmark()
    prior, operator = module.priors()["Gaussian"], module.OPERATORS["pool x4"]
    x = operator(prior.sample(1, standard_normal(21)))
    posterior = prior.posterior(operator, x, 0.0)
    for name in ("ddnm, eta 1", "diffpir, zeta 1"):
        entry = module.METHODS[name]
        exact = module.exact_row(entry, prior, posterior, operator, x, 0.0, 10)
        found = module.sampled_row(entry, prior, posterior, operator, x, 0.0, 10)
        assert abs(found["w2"] - exact["w2"]) < 4 * found["error"] < 0.02, (name, exact, found)
        assert found["coverage"] == pytest.approx(exact["coverage"], abs=0.01)
        assert found["floor"] < 0.01
        plain = module.gaussian_distance(posterior.sample(256, standard_normal(5)), None, posterior) ** 0.5
        assert plain > 5 * found["floor"]  # what the bias would be without the jackknife


def test_laws_found_step_by_step_are_those_of_the_whole_walk():
    """The benchmark's matrices of single steps against the Jacobian of a run from beginning to end."""
    module = benchmark()
    prior, operator = module.priors()["Gaussian"], AveragePool(4)
    denoiser, x = denoiser_for(prior, module.SCHEDULE), draw(1, 1, 2, 2)
    for name in ("repaint, 4 visits", "ccdf, from t = 0.3", "snips, 5 steps of 0.5 a level", "ddnm, eta 1"):
        entry, calls = module.METHODS[name], 9 if "repaint" in name else 3

        def run(noise, entry=entry, calls=calls):
            z = noise(torch.empty(1, 1, 8, 8, dtype=double))
            return entry.sample(denoiser, operator, x, 0.1, calls, z, noise).reshape(1, -1)

        for a, b in zip(module.exact_law(entry, denoiser, operator, x, 0.1, calls), affine_law(run, 64), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
