"""Zero-shot methods one step at a time: their laws given z_0, against dense references, at their limits, and the public bugs.

A denoiser that returns the true z_0 leaves no excuse: whatever a method does with the measurement, the state at time s must
then have mean alpha_s z_0 and covariance sigma_s^2 I over all noise, the measurement's included. `affine_law` finds both
exactly. Distances between final laws miss some of the bugs kept here.
"""

from __future__ import annotations

import math
from functools import partial
from inspect import signature

import numpy as np
import pytest
import torch

from tutorial_lib import guidance, zero_shot
from tutorial_lib.denoisers import NetworkDenoiser, count_calls, pullback
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, Decimate, Dense, Grayscale, Identity, Mask
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for
from tutorial_lib.samplers import annealed_langevin, ddim, ddpm, last, trajectory
from tutorial_lib.schedules import Schedule, edm, flow, uniform_times, ve, vp_cosine, vp_linear
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
    resampling_path,
    snips,
)

double = torch.float64
VP = vp_linear()
SCHEDULES = {"vp": VP, "edm": edm(20.0), "flow": flow()}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
short_repaint = partial(repaint, jump=2, repeat=2)
KEEPING = {"ilvr": ilvr, "repaint": short_repaint, "ccdf": ccdf, "mcg": mcg}
SPECTRAL = {
    "ddrm": ddrm,
    "ddrm, eta_b 0.6": partial(ddrm, eta_b=0.6),
    "ddnm": ddnm,
    "ddnm, eta_total, travel": partial(ddnm, eta_total=0.85, travel_length=2, travel_repeat=2),
}
METHODS = {
    "ilvr": ilvr,
    "repaint": short_repaint,
    "ccdf": ccdf,
    "mcg": mcg,
    "dps": dps,
    "gdp": partial(gdp, scale=20.0),
    "pigdm": pigdm,
    "diffpir": diffpir,
    "snips": partial(snips, steps=2),
    "ddrm": ddrm,
    "ddnm": ddnm,
}
EXACT = {  # those whose sample explains a measurement without noise
    name: METHODS[name] for name in ("ilvr", "repaint", "ccdf", "mcg", "snips", "ddrm", "ddnm")
} | {"diffpir": partial(diffpir, least_noise=0.0)}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def eye(n):
    return torch.eye(n, dtype=double)


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def kernel():
    k = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=double)
    return k / k.sum()


OPERATORS = {
    "pool": AveragePool(2),
    "bicubic": Bicubic(2),
    "blur": Blur(kernel()),
    "mask": Mask(torch.rand(4, 2, generator=torch.Generator().manual_seed(1)) > 0.4),
    "decimated blur": Decimate(2) @ Blur(kernel()),
    "pool of grey of mask": AveragePool(2) @ Grayscale(2) @ Mask(torch.eye(4, 2) < 1),
}
every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
TRUTH = draw(1, 2, 4, 2, seed=3)


def knows(truth):
    """The denoiser that returns the true z_0, with a gradient of zero."""
    return lambda z, t, cond=None: truth + 0 * z


def wrong(z, t, cond=None):
    """A denoiser that is no good, but smooth, and treats each sample alone."""
    return 0.8 * (z + t).sin() + 0.2


def smooth_prior(shape, seed=0):
    """A Gaussian with correlated entries, of size about one."""
    size = math.prod(shape)
    root = draw(size, size, seed=seed) / math.sqrt(size)
    return Gaussian(0.3 * draw(size, seed=seed + 1).reshape(shape), root @ root.T + 0.1 * eye(size), shape)


# ---------------------------------------------------------------------------------------- the law of z_s given the true z_0


def law_error(method, schedule, operator, noise_std, end, truth=TRUTH):
    """Errors of mean and variance of z at `end`, relative to alpha and sigma^2, from a start that has the right law."""
    times = torch.linspace(0.8, end, 6, dtype=double)
    size = truth.numel()

    def run(noise):
        x = operator(truth)
        x = x + noise_std * noise(x)
        z = forward_step(truth, schedule, 0.0, times[0], noise)
        return last(method(knows(truth), schedule, operator, x, noise_std, times, z, noise=noise)).reshape(1, size)

    mean, covariance = affine_law(run, size)
    alpha, variance = schedule.alpha(end), schedule.sigma(end) ** 2
    return (
        ((mean - alpha * truth.flatten()).abs().max() / alpha).item(),
        ((covariance - variance * eye(size)).abs().max() / variance).item(),
    )


@pytest.mark.parametrize("noise_std", [0.0, 0.2])
@pytest.mark.parametrize("method", (KEEPING | SPECTRAL).values(), ids=KEEPING | SPECTRAL)
@every_operator
def test_the_state_has_the_noise_of_its_time(operator, method, noise_std):
    """Largest residuals seen: 5e-16 of alpha in the mean, 1e-15 of sigma^2 in the variance."""
    other = (SCHEDULES["edm"], 0.1) if noise_std else (SCHEDULES["flow"], 0.02)
    for schedule, end in ((VP, 0.3), other):
        mean, variance = law_error(method, schedule, operator, noise_std, end)
        assert mean < 1e-12 and variance < 1e-12


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_state_has_the_noise_of_its_time_in_any_channels(channels):
    truth = draw(1, channels, 4, 2, seed=5)
    for method in (ilvr, ddrm, ddnm):
        assert max(law_error(method, VP, AveragePool(2), 0.3, 0.1, truth)) < 1e-12


def test_diffpir_has_the_noise_of_its_time_without_noise_in_x():
    for zeta in (0.0, 0.3, 1.0):
        assert max(law_error(partial(diffpir, zeta=zeta), VP, OPERATORS["bicubic"], 0.0, 0.1)) < 1e-9


@pytest.mark.parametrize("noise_std", [0.0, 0.5])
def test_snips_settles_at_the_noise_of_its_level(noise_std):
    """Langevin steps of size a leave a coordinate's free variance too wide by 1 / (1 - a/4), and nothing else."""
    operator, a, t = OPERATORS["decimated blur"], 0.8, 0.3
    level = (VP.sigma(t) / VP.alpha(t)).item() ** 2
    svd = operator.svd(TRUTH)

    def run(noise):
        x = operator(TRUTH)
        x = x + noise_std * noise(x)
        method = snips(
            knows(TRUTH), VP, operator, x, noise_std, [t, t - 1e-9], noise(TRUTH), steps=60, step_size=a, noise=noise
        )
        return trajectory(method)[1].z.reshape(1, -1) / VP.alpha(t)

    mean, covariance = affine_law(run, TRUTH.numel())
    same(mean, TRUTH.flatten(), 1e-10)
    measured = (noise_std / svd.singular_values) ** 2
    assert noise_std == 0 or (measured > level).any() and (measured < level).any()
    heard = (level / measured.clamp(min=level)).clamp(max=1)
    free = torch.where(measured < level, level - measured, level * (1 - heard))
    along = torch.stack([svd.v(c[None]).flatten() for c in eye(len(measured))], 1)
    expected = level / (1 - a / 4) * (eye(TRUTH.numel()) - along @ along.T)
    expected = expected + along * (free / (1 - a / 4) + heard**2 * measured) @ along.T
    same(covariance, expected, 1e-9)


def test_snips_without_anything_seen_is_annealed_langevin():
    z, times = 3 * draw(2, 1, 4, 2), torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=double)
    x = torch.zeros(1, 1, 4, 2, dtype=double)
    ours = snips(wrong, VP, Mask(torch.zeros(4, 2)), x, 0.1, times, z, steps=3, step_size=0.1, noise=standard_normal(1))
    theirs = annealed_langevin(wrong, VP, z, times, steps=3, step_size=0.1, noise=standard_normal(1))
    for a, b in zip(ours, theirs, strict=True):
        same(a.z, b.z)
        same(a.z_0, b.z_0)


# ----------------------------------------------------------------- the papers' formulas, with a dense SVD, and the public bugs


def dense_ddrm(denoiser, schedule, matrix, x, noise_std, times, z, noise, eta=0.85, eta_b=1.0, bug=""):
    """The paper's three cases in variance-exploding coordinates, from numpy's SVD. `bug` puts one of the public ones in."""
    u, s, vt = (torch.from_numpy(part) for part in np.linalg.svd(matrix.numpy()))
    s = torch.cat([s, s.new_zeros(len(vt) - len(s))])
    seen = torch.zeros(1, len(vt), dtype=double)
    rank = int((s > 1e-12).sum())
    seen[:, :rank] = (x @ u)[:, :rank] / s[:rank]
    y = z / schedule.alpha(times[0])
    for t, to in zip(times[:-1], times[1:], strict=True):
        alpha, level_t, level = (
            schedule.alpha(t),
            schedule.sigma(t) / schedule.alpha(t),
            schedule.sigma(to) / schedule.alpha(to),
        )
        guess = denoiser(alpha * y, t)
        white = noise(y) @ vt.T if level > 0 else torch.zeros_like(y)
        if bug == "noise over root two":
            white = white / math.sqrt(2)
        c, c_t = guess @ vt.T, y @ vt.T
        columns = []
        for i in range(len(vt)):
            own = noise_std / s[i] if s[i] > 1e-12 else math.inf
            clear = (
                s[i] > noise_std
                if bug == "compared with noise_std"
                else (level > own if bug == "strict" else level >= own)
            )
            if s[i] <= 1e-12 or (bug and not clear and bug == "strict" and noise_std == 0):
                columns.append(
                    c[:, i] + level * math.sqrt(1 - eta**2) * (c_t - c)[:, i] / level_t + eta * level * white[:, i]
                )
            elif clear:
                spread = (level**2 - (eta_b * own) ** 2).clamp(min=0).sqrt()
                columns.append((1 - eta_b) * c[:, i] + eta_b * seen[:, i] + spread * white[:, i])
            else:
                towards = (seen - c)[:, i] / own if own > 0 else 0
                columns.append(c[:, i] + level * math.sqrt(1 - eta**2) * towards + eta * level * white[:, i])
        y = torch.stack(columns, 1) @ vt
    return schedule.alpha(times[-1]) * y


def dense_ddnm(denoiser, schedule, matrix, x, noise_std, times, z, noise, eta=0.85, bug=""):
    """DDNM+ as its SVD code writes it: lambda on the correction, d_1 on fresh noise, d_2 on the old direction."""
    u, s, vt = (torch.from_numpy(part) for part in np.linalg.svd(matrix.numpy()))
    s = torch.cat([s, s.new_zeros(len(vt) - len(s))])
    rank = int((s > 1e-12).sum())
    seen = torch.zeros(1, len(vt), dtype=double)
    seen[:, :rank] = (x @ u)[:, :rank] / s[:rank]
    for t, to in zip(times[:-1], times[1:], strict=True):
        guess = denoiser(z, t)
        eps = (z - schedule.alpha(t) * guess) / schedule.sigma(t)
        a, sigma = schedule.alpha(to), schedule.sigma(to)
        if bug == "alpha-bar for its root":
            a, sigma = a**2, (1 - a**4).clamp(min=0).sqrt()
        white, c, e = noise(z) @ vt.T if sigma > 0 else torch.zeros_like(z), guess @ vt.T, eps @ vt.T
        columns = []
        for i in range(len(vt)):
            own = a * noise_std / s[i] if i < rank else torch.tensor(0.0)
            if i >= rank:
                pull, d_1, d_2 = 0.0, eta * sigma, math.sqrt(1 - eta**2) * sigma
            elif sigma < own:
                pull, d_1, d_2 = math.sqrt(1 - eta**2) * sigma / own, eta * sigma, 0.0
            else:
                pull, d_1, d_2 = 1.0, (sigma**2 - own**2).clamp(min=0).sqrt(), 0.0
            if (
                bug == "alpha-bar for its root"
            ):  # the shortcut multiplies noise that is scaled already by its scale again
                d_1, d_2 = sigma * d_1, sigma * d_2
            columns.append(a * (c[:, i] + pull * (seen - c)[:, i]) + d_1 * white[:, i] + d_2 * e[:, i])
        z = torch.stack(columns, 1) @ vt
    return z


MATRIX = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)) * np.array([[1.5], [0.6], [0.2]]))
TIMES = torch.tensor([0.9, 0.6, 0.35, 0.2, 0.1, 0.03, 0.0], dtype=double)


def agree(ours, theirs, noise_std, atol=1e-12, **options):
    """Largest difference between a method of the package and a dense reference with the same noise."""
    x, z = draw(1, 3, seed=1), 2 * draw(4, 5, seed=2)
    found = last(ours(wrong, VP, Dense(MATRIX), x, noise_std, TIMES, z, noise=standard_normal(5)))
    return (found - theirs(wrong, VP, MATRIX, x, noise_std, TIMES, z, standard_normal(5), **options)).abs().max().item()


@pytest.mark.parametrize("noise_std", [0.0, 0.05, 0.4, 5.0])
def test_ddrm_and_ddnm_plus_are_the_papers_and_each_other(noise_std):
    """Residual below 5e-15."""
    assert agree(ddrm, dense_ddrm, noise_std) < 1e-12
    assert agree(partial(ddrm, eta_b=0.3, eta_total=0.5), dense_ddrm, noise_std, eta=0.5, eta_b=0.3) < 1e-12
    plus = partial(ddnm, eta_total=0.85)
    if noise_std:
        assert agree(plus, dense_ddnm, noise_std) < 1e-12
        assert agree(plus, dense_ddrm, noise_std) < 1e-12


def dense_law_error(reference, noise_std, end, **options):
    """`law_error` of a dense reference."""
    truth, times = draw(1, 5, seed=8), torch.linspace(0.8, end, 5, dtype=double)

    def run(noise):
        x = truth @ MATRIX.T
        x = x + noise_std * noise(x)
        z = forward_step(truth, VP, 0.0, times[0], noise)
        return reference(knows(truth), VP, MATRIX, x, noise_std, times, z, noise, **options)

    mean, covariance = affine_law(run, 5)
    sigma = VP.sigma(end)
    errors = (mean - VP.alpha(end) * truth[0]).abs().max(), (covariance / sigma**2 - eye(5)).abs().max()
    return max(error.item() for error in errors)


@pytest.mark.parametrize(
    "reference, bug",
    [
        (dense_ddrm, "noise over root two"),
        (dense_ddrm, "compared with noise_std"),
        (dense_ddnm, "alpha-bar for its root"),
    ],
)
def test_public_bugs_of_ddrm_and_ddnm_have_the_wrong_noise(reference, bug):
    assert dense_law_error(reference, 0.3, 0.1) < 1e-12
    assert dense_law_error(reference, 0.3, 0.1, bug=bug) > 0.05


def test_the_papers_strict_comparison_loses_the_measurement_at_the_end():
    x, z = draw(1, 3, seed=1), 2 * draw(4, 5, seed=2)
    for bug, close in (("", True), ("strict", False)):
        sample = dense_ddrm(wrong, VP, MATRIX, x, 0.0, TIMES, z, standard_normal(5), bug=bug)
        assert (((sample @ MATRIX.T - x).abs().max() < 1e-12).item()) == close


def masked(denoiser, schedule, operator, x, noise_std=0.0, times=None, z=None, *, noise, shift=0.0, power=1):
    """RePaint without resampling, as the paper draws it: known pixels of x noised, others from the DDPM step."""
    mask = operator.mask
    for t, s in zip(times[:-1], times[1:], strict=True):
        white = noise(z) if schedule.sigma(s) > 0 else torch.zeros_like(z)
        unknown = last(ddpm(denoiser, schedule, z, [t, s], noise=lambda like, white=white: white))
        at = (s + shift).clamp(max=t)
        known = schedule.alpha(at) * x + schedule.sigma(at) ** power * white
        z = mask * known + (1 - mask) * unknown
    yield from ddim(denoiser, schedule, z, [times[-1], times[-1] / 2], 0.0)


def test_repaint_and_ilvr_are_the_mask_of_the_paper():
    operator, x, z = OPERATORS["mask"], draw(1, 2, 4, 2, seed=4), 2 * draw(3, 2, 4, 2)
    theirs = next(masked(wrong, VP, operator, operator(x), 0.0, TIMES[:-1], z, noise=standard_normal(1))).z
    for method in (partial(repaint, repeat=1), ilvr, partial(mcg, scale=0.0)):
        same(last(method(wrong, VP, operator, operator(x), 0.0, TIMES[:-1], z, noise=standard_normal(1))), theirs)


@pytest.mark.parametrize(
    "mutant", [{"shift": 1.0}, {"power": 2}], ids=["noised to t and not s", "variance for a deviation"]
)
def test_public_bugs_of_ilvr_and_repaint_have_the_wrong_noise(mutant):
    """Both change the final distance to the posterior in the fourth digit only."""

    def method(*arguments, noise, **options):
        return iter([next(masked(*arguments, noise=noise, **options))])

    assert max(law_error(method, VP, OPERATORS["mask"], 0.0, 0.1)) < 1e-12
    assert max(law_error(partial(method, **mutant), VP, OPERATORS["mask"], 0.0, 0.1)) > 0.02


@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_methods_that_are_one_another(noise_std):
    operator, x, z = OPERATORS["bicubic"], draw(1, 2, 2, 1, seed=4), 2 * draw(3, 2, 4, 2)

    def run(method):
        return last(method(wrong, VP, operator, x, noise_std, TIMES, z, noise=standard_normal(1)))

    for method in (partial(repaint, repeat=1), ccdf, partial(mcg, scale=0.0)):
        same(run(method), run(ilvr))
    plain = last(ddpm(wrong, VP, z, TIMES, noise=standard_normal(1)))
    for method in (partial(dps, scale=0.0), partial(gdp, scale=0.0), partial(ilvr, until=1.0)):
        same(run(method), plain)
    if noise_std:
        same(run(partial(ddnm, eta_total=0.6)), run(partial(ddrm, eta_total=0.6)))


def test_ilvr_with_bicubic_enlargement_is_no_projection():
    from tutorial_lib.images import resize

    operator, x, z = Bicubic(2), draw(1, 1, 4, 6, seed=4), 2 * draw(2, 1, 8, 12)
    paper = partial(ilvr, enlarge=lambda x: resize(x, 2))
    found = last(paper(wrong, VP, operator, x, 0.0, TIMES, z))
    assert 0.05 < (operator(found) - x).abs().max() < 1
    # The last step is exactly z' + up(x - down z').
    before = trajectory(paper(wrong, VP, operator, x, 0.0, TIMES, z))[-2]
    same(found, before.z_0 + resize(x - operator(before.z_0), 2))


def test_starts_of_their_own():
    """sigma noise; CCDF's noised A^+ x or init; DDRM's noised measurement where it is less noisy than the state."""
    operator, x, noise = OPERATORS["bicubic"], draw(2, 2, 2, 1, seed=4), draw(2, 2, 4, 2)
    alpha, sigma = VP.alpha(0.3), VP.sigma(0.3)
    times = torch.tensor([0.3, 0.1, 0.0], dtype=double)

    def start(method, noise_std=0.0, **options):
        return next(
            iter(method(wrong, VP, operator, x, noise_std, times, noise=lambda like: noise.clone(), **options))
        ).z

    for method in (ilvr, dps, diffpir, ddnm):
        same(start(method), sigma * noise)
    same(start(ccdf), alpha * operator.pinv(x) + sigma * noise)
    same(start(ccdf, init=0.1 * noise), (0.1 * alpha + sigma) * noise)
    same(
        start(ddrm),
        sigma * noise + operator.pinv(alpha * x - operator(sigma * noise)) + operator.pinv(operator(sigma * noise)),
    )
    same(start(ddrm, 1e9), sigma * noise)


# ------------------------------------------------------------------------------------------------------------------ limits


@every_method
@every_schedule
def test_nothing_seen_is_the_prior(method, schedule):
    """A = 0: the unconditional sampler with the same noise."""
    operator, z = Mask(torch.zeros(4, 2)), schedule.sigma(0.9) * draw(2, 3, 4, 2)
    x = torch.zeros(1, 3, 4, 2, dtype=double)
    options = {"eta_total": 0.7} if method is ddrm else {}
    for noise_std in (0.0, 0.3):
        found = last(method(wrong, schedule, operator, x, noise_std, TIMES, z, noise=standard_normal(1), **options))
        noise, expected = standard_normal(1), z
        if method is METHODS["snips"]:
            expected = last(annealed_langevin(wrong, schedule, z, TIMES, 2, 0.066, noise))
        elif method is METHODS["repaint"]:
            path = resampling_path(6, 2, 2)
            for i, j in zip(path[:-1], path[1:], strict=True):
                if j < i:
                    expected = forward_step(expected, schedule, TIMES[i], TIMES[j], noise)
                else:
                    expected = last(ddpm(wrong, schedule, expected, TIMES[i : j + 1], noise=noise))
        elif method in (diffpir, ddrm):
            share = 0.1**0.5 if method is diffpir else 0.7
            for t, s in zip(TIMES[:-1], TIMES[1:], strict=True):
                guess, alpha, sigma = wrong(expected, t), schedule.alpha(s), schedule.sigma(s)
                eps = (expected - schedule.alpha(t) * guess) / schedule.sigma(t)
                white = noise(z) if sigma > 0 else 0
                expected = alpha * guess + sigma * ((1 - share**2) ** 0.5 * eps + share * white)
        else:
            expected = last(ddpm(wrong, schedule, z, TIMES, noise=noise))
        same(found, expected, 1e-11)


@pytest.mark.parametrize("method", [ilvr, ccdf, pigdm, ddnm, ddrm, diffpir, mcg], ids=lambda m: m.__name__)
def test_a_measurement_drowned_in_noise_is_no_measurement(method):
    """For those that know noise_std; DPS, GDP and, above its noise, SNIPS have no such limit."""
    operator, x, z = OPERATORS["decimated blur"], 10 * draw(1, 2, 2, 1), draw(2, 2, 4, 2)
    options = {ddrm: {"eta_total": 1.0}, ddnm: {"eta_total": 1.0}, diffpir: {"zeta": 1.0}, mcg: {"scale": 0.0}}
    found = last(method(wrong, VP, operator, x, 1e7, TIMES, z, noise=standard_normal(1), **options.get(method, {})))
    if method in (ddrm, ddnm, diffpir):
        noise, expected = standard_normal(1), z
        for t, s in zip(TIMES[:-1], TIMES[1:], strict=True):
            white = noise(z) if VP.sigma(s) > 0 else 0
            expected = VP.alpha(s) * wrong(expected, t) + VP.sigma(s) * white
    else:
        expected = last(ddpm(wrong, VP, z, TIMES, noise=standard_normal(1)))
    same(found, expected, 1e-5)


@pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)
def test_the_sample_explains_a_measurement_without_noise(method):
    for operator in OPERATORS.values():
        x, z = operator(draw(2, 2, 4, 2, seed=7)), 2 * draw(2, 2, 4, 2)
        found = last(method(wrong, VP, operator, x, 0.0, TIMES, z, noise=standard_normal(1)))
        same(operator(found), x, 1e-10)
        assert (found[0] - found[1]).abs().max() > 0.01
    x, z = draw(2, 2, 4, 2), draw(2, 2, 4, 2, seed=1)
    same(last(method(wrong, VP, Identity(), x, 0.0, TIMES, z)), x, 1e-10)  # SNIPS's code ignores x here


def test_snips_hears_an_operator_of_full_rank():
    """Its code takes the null space as the last `missing` coordinates, [-0:] = all of them when none is missing."""
    x, z, times = draw(1, 2, 4, 2), 3 * draw(2, 2, 4, 2), torch.linspace(0.9, 0.02, 30, dtype=double)
    found = last(snips(wrong, VP, Blur(kernel()), x, 0.05, times, z, steps=20, step_size=0.3))
    other = last(snips(wrong, VP, Blur(kernel()), -x, 0.05, times, z, steps=20, step_size=0.3))
    assert (found - other).abs().mean() > 0.5


def test_diffpir_and_ddim():
    operator, x, z = OPERATORS["bicubic"], draw(1, 2, 2, 1), 2 * draw(2, 2, 4, 2)
    found = last(diffpir(wrong, VP, operator, x, 0.1, TIMES, z, strength=1e14, zeta=0.0))
    same(found, last(ddim(wrong, VP, z, TIMES)), 1e-9)


def test_proximal_is_the_dense_solution():
    operator, x, z = OPERATORS["decimated blur"], draw(3, 2, 2, 1), draw(3, 2, 4, 2, seed=1)
    matrix, t, noise_std = operator.dense((2, 4, 2)), 0.4, 0.3
    rho = 2.5 * (noise_std * VP.alpha(t) / VP.sigma(t)) ** 2
    guess = wrong(z, t).flatten(1)
    expected = torch.linalg.solve(matrix.T @ matrix + rho * eye(16), (x.flatten(1) @ matrix + rho * guess).T).T
    found = guidance.proximal(wrong, operator, x, VP, noise_std, strength=2.5)(z, t)
    same(found.flatten(1), expected, 1e-11)
    exact = guidance.proximal(wrong, operator, x, VP, 0.0, least_noise=0.0)(z, t)
    same(exact, wrong(z, t) + operator.pinv(x - operator(wrong(z, t))), 1e-11)


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_pigdm_is_the_dense_formula(noise_std):
    operator, x, z, t = OPERATORS["bicubic"], draw(1, 2, 2, 1), draw(2, 2, 4, 2, seed=1), 0.4
    matrix, alpha, sigma = operator.dense((2, 4, 2)), VP.alpha(t), VP.sigma(t)
    spread = 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)
    middle = torch.linalg.pinv(spread * matrix @ matrix.T + noise_std**2 * eye(len(matrix)))
    missing = (x - operator(wrong(z, t))).flatten(1)
    pull = (missing @ middle @ matrix).reshape(z.shape)
    expected = wrong(z, t) + sigma**2 / alpha * 0.8 * (z + t).cos() * pull
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            found = guidance.pigdm(wrong, operator, x, VP, noise_std, prior_std=0.5)(z, t)
        same(found.clone(), expected, 1e-12)


# ----------------------------------------------------------------------------------------------------- one step, in formulas


def one_step(method, operator, x, z, t=0.5, s=0.3, **options):
    times = torch.tensor([t, s], dtype=double)
    return last(method(wrong, VP, operator, x, 0.0, times, z, noise=standard_normal(1), **options))


def test_dps_and_gdp_steps_are_their_formulas():
    """Gradients by hand: wrong has the Jacobian 0.8 cos(z + t)."""
    operator, x, z, t, s = OPERATORS["decimated blur"], draw(1, 2, 2, 1), draw(3, 2, 4, 2, seed=1), 0.5, 0.3
    proposal = last(ddpm(wrong, VP, z, [t, s], noise=standard_normal(1)))
    matrix = operator.dense((2, 4, 2))
    missing = x.flatten(1) - wrong(z, t).flatten(1) @ matrix.T
    pull = (missing @ matrix).reshape(z.shape)
    slope = 0.8 * (z + t).cos()
    length = missing.square().sum(1).sqrt().view(-1, 1, 1, 1)
    same(one_step(dps, operator, x, z, scale=0.7), proposal + 0.7 * slope * pull / length)
    same(one_step(dps, operator, x, z, scale=0.7, squared=True), proposal + 1.4 * slope * pull)
    ratio = VP.alpha(t) / VP.alpha(s)  # of the posterior's weight on z_0: alpha_s (1 - ratio^2 sigma_s^2 / sigma_t^2)
    weight = VP.alpha(s) * (1 - (ratio * VP.sigma(s) / VP.sigma(t)) ** 2)
    faded = weight * VP.sigma(t) ** 2 / VP.alpha(t) * 0.7 * slope * pull / length
    same(one_step(dps, operator, x, z, scale=0.7, fading=True), proposal + faded)
    moved, white = proposal + 0.7 * slope * pull / length, standard_normal(1)(z)
    known = VP.alpha(s) * x + VP.sigma(s) * operator(white)
    same(one_step(mcg, operator, x, z, scale=0.7), moved + operator.pinv(known - operator(moved)))
    beta = VP.sigma(s) ** 2 * (1 - (VP.alpha(t) * VP.sigma(s) / (VP.alpha(s) * VP.sigma(t))) ** 2)
    guided = proposal + 50 * beta * pull / (2 * 4)
    same(one_step(gdp, operator, x, z, scale=50.0), guided)
    brighter = one_step(gdp, operator, x, z, scale=50.0, quality=lambda z_0: (z_0 - 0.1).square().flatten(1).sum(1))
    same(brighter, guided - 50 * beta * 2 * (wrong(z, t) - 0.1))


def test_the_transpose_of_the_dps_code_is_another_gradient():
    """There the adjoint of bicubic downsampling is nearest-neighbour upsampling."""

    class Nearest(Bicubic):
        def adjoint(self, x):
            return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)

    x, z = draw(1, 2, 2, 1), draw(3, 2, 4, 2, seed=1)
    right, mutant = (one_step(dps, operator(2), x, z) for operator in (Bicubic, Nearest))
    state = z.clone().requires_grad_()
    (x - Bicubic(2)(wrong(state, 0.5))).flatten(1).norm(dim=1).sum().backward()
    proposal = last(ddpm(wrong, VP, z, [0.5, 0.3], noise=standard_normal(1)))
    same(right, proposal - 0.3 * state.grad)
    assert (mutant - proposal + 0.3 * state.grad).abs().max() > 0.1


def test_mcg_with_the_roles_swapped_does_not_explain_x(monkeypatch):
    """Its successor's code replaces what A does not see: (I - P) x + P z."""
    operator, z = OPERATORS["mask"], 2 * draw(2, 2, 4, 2)
    x = operator(draw(1, 2, 4, 2, seed=4))
    same(operator(last(mcg(wrong, VP, operator, x, 0.0, TIMES, z))), x.expand(2, -1, -1, -1), 1e-12)

    def swapped(schedule, operator, posed, method, enlarge=None):
        return lambda proposal, white, s: (
            operator.pinv(operator(proposal)) + (lambda y: y - operator.pinv(operator(y)))(schedule.alpha(s) * posed.x)
        )

    monkeypatch.setattr("tutorial_lib.zero_shot.posterior.known_part", swapped)
    assert (operator(last(mcg(wrong, VP, operator, x, 0.0, TIMES, z))) - x).abs().max() > 0.1


def test_blind_gdp_finds_brightness_and_offset():
    """With z_0 known, the parameters descend the mean square on their own: a linear recursion, then its fixed point."""
    truth, z = draw(2, 1, 4, 2, seed=3), draw(2, 1, 4, 2)
    x = 0.4 * truth[:1] + 0.1, 0.7 * truth[1:] - 0.3
    x, times = torch.cat(x), uniform_times(400)

    def degrade(z_0, parameters):
        gain, offset = parameters[:, :1, None, None], parameters[:, 1:, None, None]
        return gain * z_0 + offset

    start = torch.tensor([[1.0, 0.0]])
    states = trajectory(gdp_blind(knows(truth), VP, degrade, start, x, z, times, rate=0.5, scale=10.0))
    same(states[-1].parameters, torch.tensor([[0.4, 0.1], [0.7, -0.3]], dtype=double), 1e-6)
    features = torch.stack([truth.flatten(1), torch.ones(2, 8)], 2)
    expected = start.expand(2, -1).double()
    for state in states[:5]:
        same(state.parameters, expected)
        left = x.flatten(1) - (features @ expected[..., None])[..., 0]
        expected = expected + 0.5 * 2 / 4 / 8 * (features.mT @ left[..., None])[..., 0]
    same(states[-1].z, truth)
    known = last(gdp(wrong, VP, Identity(), x, 0.0, times[:9], z, scale=3.0, noise=standard_normal(2)))
    blind = gdp_blind(
        wrong,
        VP,
        lambda z_0, p: z_0 + 0 * p[:, :, None, None],
        torch.zeros(1, 1),
        x,
        z,
        times[:9],
        scale=3.0,
        noise=standard_normal(2),
    )
    same(last(blind), known)


# -------------------------------------------------------------------------------------------------------------- invariance


def setup(shape=(2, 4, 2), batch=3):
    prior = smooth_prior(shape)
    return prior, draw(batch, *shape, seed=9)


@every_method
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_rotating_everything_rotates_the_sample(method, noise_std):
    turn = torch.linalg.qr(draw(5, 5, seed=6))[0]
    prior = smooth_prior((5,))
    turned = Gaussian(turn @ prior.means[0], turn @ prior.covariances[0] @ turn.T)
    x, z = draw(1, 3, seed=1), draw(2, 5, seed=2)
    plain = method(denoiser_for(prior, VP), VP, Dense(MATRIX), x, noise_std, TIMES, z, noise=standard_normal(4))
    normal = standard_normal(4)
    rotated = method(
        denoiser_for(turned, VP),
        VP,
        Dense(MATRIX @ turn.T),
        x,
        noise_std,
        TIMES,
        z @ turn.T,
        noise=lambda n: normal(n) @ turn.T,
    )
    same(last(rotated), last(plain) @ turn.T, 1e-9)


@every_method
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_the_schedules_units_do_not_matter(method, noise_std):
    """z / alpha on the variance-exploding schedule with the same sigma / alpha: the same estimates and the same sample."""
    exploding = Schedule(torch.ones_like, lambda t: VP.sigma(t) / VP.alpha(t))
    prior, z = setup()
    operator = OPERATORS["bicubic"]
    x = operator(prior.sample(1))
    here = trajectory(method(denoiser_for(prior, VP), VP, operator, x, noise_std, TIMES, z, noise=standard_normal(1)))
    there = trajectory(
        method(
            denoiser_for(prior, exploding),
            exploding,
            operator,
            x,
            noise_std,
            TIMES,
            z / VP.alpha(0.9),
            noise=standard_normal(1),
        )
    )
    for a, b in zip(here, there, strict=True):
        same(a.z / VP.alpha(a.t), b.z, 1e-8)
        same(a.z_0, b.z_0, 1e-8)


@every_method
@pytest.mark.parametrize("shape", [(1, 4, 2), (2, 4, 2), (3, 2, 6), (5, 6, 4)], ids=str)
def test_samples_do_not_see_their_batch_mates(method, shape):
    operator = AveragePool(2)
    prior, z = setup(shape)
    x = operator(prior.sample(3))
    sources = [torch.Generator().manual_seed(i) for i in range(3)]
    together = last(method(denoiser_for(prior, VP), VP, operator, x, 0.2, TIMES, z, noise=standard_normal(sources)))
    assert together.shape == z.shape
    alone = standard_normal([torch.Generator().manual_seed(1)])
    single = last(method(denoiser_for(prior, VP), VP, operator, x[1:2], 0.2, TIMES, z[1:2], noise=alone))
    same(single, together[1:2], 1e-10)
    swapped = last(method(denoiser_for(prior, VP), VP, operator, x[[1]], 0.2, TIMES, z, noise=standard_normal(0)))
    shared = x[[1]].expand(3, -1, -1, -1)
    same(swapped, last(method(denoiser_for(prior, VP), VP, operator, shared, 0.2, TIMES, z, noise=standard_normal(0))))


def test_a_norm_over_the_whole_batch_couples_the_samples():
    operator, x = OPERATORS["bicubic"], draw(1, 2, 2, 1)
    z = torch.cat([draw(1, 2, 4, 2), 30 * draw(1, 2, 4, 2, seed=1)])

    def step(z):
        state = z.clone().requires_grad_()
        return torch.autograd.grad((x - operator(state)).norm(), state)[0]

    assert (step(z)[:1] - step(z[:1])).abs().max() > 0.01
    same(one_step(dps, operator, x, z)[:1], one_step(dps, operator, x, z[:1]), 1e-12)


@every_method
def test_float32_stays_float32_and_close(method):
    prior, z = setup()
    operator = OPERATORS["pool"]
    x = operator(prior.sample(1))
    precise = last(method(denoiser_for(prior, VP), VP, operator, x, 0.2, TIMES, z, noise=torch.ones_like))
    single = last(
        method(denoiser_for(prior, VP), VP, operator, x.float(), 0.2, TIMES, z.float(), noise=torch.ones_like)
    )
    assert single.dtype == torch.float32
    same(single.double(), precise, 2e-4)


# ----------------------------------------------------------------------------------------------------- calls, gradients, input


def test_resampling_is_the_papers():
    path = resampling_path(250, 10, 10)
    legs = [j - i for i, j in zip(path[:-1], path[1:], strict=True)]
    assert sum(leg == 1 for leg in legs) == 2410
    assert -sum(leg for leg in legs if leg < 0) == 2160
    assert len(legs) - sum(leg < 0 for leg in legs) + 2160 == 4570
    assert set(legs) == {1, -10} and path[0] == 0 and path[-1] == 250
    assert resampling_path(4, 1, 1) == [0, 1, 2, 3, 4]
    assert resampling_path(3, 1, 2) == [0, 1, 0, 1, 2, 1, 2, 3]


@pytest.mark.parametrize("name", METHODS)
def test_calls_are_counted(name):
    denoiser = count_calls(wrong)
    operator, z = OPERATORS["pool"], draw(2, 2, 4, 2)
    states = trajectory(METHODS[name](denoiser, VP, operator, operator(z), 0.1, TIMES, z))
    expected = {
        "repaint": sum(j > i for i, j in zip(*(lambda p: (p[:-1], p[1:]))(resampling_path(6, 2, 2)), strict=True))
    }
    expected["snips"] = 2 * 6 + 1
    assert denoiser.calls == expected.get(name, 6)
    assert len(states) == {"snips": 8}.get(name, denoiser.calls + 1)
    assert states[0].t == 0.9 and states[-1].t == 0
    same(states[0].z, z)
    if name not in ("pigdm", "diffpir"):  # their z_0 is the guided estimate
        same(states[0].z_0, wrong(z, torch.tensor(0.9, dtype=double)))


@pytest.mark.parametrize("name, steps", [
    ("ilvr", 100), ("repaint", 250), ("mcg", 1000), ("dps", 1000), ("gdp", 1000), ("pigdm", 100), ("diffpir", 100),
    ("ddrm", 20), ("ddnm", 100),
])  # fmt: skip
def test_default_steps_are_the_papers(name, steps, monkeypatch):
    asked = []
    monkeypatch.setattr(problem, "default_times", lambda schedule, steps: asked.append(steps) or uniform_times(2))
    method = repaint if name == "repaint" else METHODS[name]
    assert last(method(wrong, VP, OPERATORS["pool"], torch.zeros(2, 1, 2, 1))).shape == (2, 1, 4, 2)
    assert asked == [steps]


@pytest.mark.parametrize("name, calls", [("ilvr", 100), ("ccdf", 20), ("ddrm", 20), ("snips", 501)])
def test_defaults_run_and_start_below_pure_noise(name, calls):
    method = {"snips": snips}.get(name, METHODS[name])
    operator = Mask(torch.tensor([[1.0, 0.0]]))
    denoiser = count_calls(lambda z, t, cond=None: 0.5 * z)
    sample = last(method(denoiser, VP, operator, torch.ones(2, 1, 1, 2), noise=standard_normal(0)))
    assert sample.shape == (2, 1, 1, 2) and denoiser.calls == calls
    schedule = vp_cosine()
    start = next(iter(method(denoiser, schedule, operator, torch.ones(2, 1, 1, 2))))
    assert start.t < 1 and schedule.alpha(start.t) > 0


@pytest.mark.parametrize("name", ["dps", "mcg", "pigdm"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_switched_on_inside_and_reach_no_weights(name, context):
    layer = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    network = NetworkDenoiser(lambda u, level, cond: layer(u.double()).tanh(), schedule=VP)
    operator, z = OPERATORS["bicubic"], draw(2, 2, 4, 2)
    x = operator(draw(1, 2, 4, 2, seed=2))
    outside = last(METHODS[name](network, VP, operator, x, 0.1, TIMES, z))
    assert not outside.requires_grad
    with context():
        inside = last(METHODS[name](network, VP, operator, x, 0.1, TIMES, z))
        drawn = last(METHODS[name](network, VP, operator, x, 0.1, TIMES))
    same(inside.clone(), outside)
    assert drawn.shape == (1, 2, 4, 2)
    assert all(p.grad is None for p in layer.parameters())
    assert (outside - last(ddpm(network, VP, z, TIMES))).abs().max() > 0.01


def test_pullback_is_the_transposed_jacobian():
    z, w = draw(2, 3), draw(2, 3, seed=1)
    z_0, back = pullback(wrong, z, 0.3)
    same(z_0, wrong(z, 0.3))
    same(back(w), 0.8 * (z + 0.3).cos() * w)
    assert not z_0.requires_grad and not back(w).requires_grad


def test_every_method_begins_with_the_same_arguments():
    for name in ("ccdf", "ddnm", "ddrm", "diffpir", "dps", "gdp", "ilvr", "mcg", "pigdm", "repaint", "snips"):
        first = list(signature(getattr(zero_shot, name)).parameters)[:7]
        assert first == ["denoiser", "schedule", "operator", "measurement", "noise_std", "times", "z"], name


def weights_only(z, t, cond=None):
    """A denoiser whose gradient reaches its weights but not the state."""
    return torch.ones(1, requires_grad=True) * z.detach()


def blind(degrade, x=0.0):
    return last(
        gdp_blind(wrong, VP, degrade, torch.zeros(1, 1), torch.full((2, 1, 2, 2), x), torch.zeros(2, 1, 2, 2), TIMES)
    )


def good(**changes):
    problem = {
        "denoiser": wrong,
        "schedule": VP,
        "operator": AveragePool(2),
        "measurement": torch.zeros(1, 1, 2, 2),
        "times": TIMES,
    }
    return problem | changes


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ddnm(**good(operator=torch.eye(2))), "operator must be a LinearOperator, but a Tensor came"),
        (lambda: ilvr(**good(measurement=torch.zeros(1, 1, 2, 2).int())), "measurement must be a finite"),
        (lambda: ccdf(**good(measurement=torch.full((1, 1, 2, 2), math.nan))), "measurement must be a finite"),
        (lambda: dps(**good(z=torch.zeros(2, 1, 6, 4))), r"measurement must have the shape \(1 or 2, 1, 3, 2\) that the operator"),
        (lambda: dps(**good(measurement=torch.zeros(3, 1, 2, 2), z=torch.zeros(2, 1, 4, 4))), r"measurement must .* \(1 or 2,"),
        (lambda: ddrm(**good(noise_std=-1)), "noise_std must be a number that is not negative, in state units, but -1"),
        (lambda: ddrm(**good(noise_std=torch.zeros(2, 1))), "noise_std must be a number .* but a tensor of shape"),
        (lambda: ddrm(**good(eta_total=2)), "eta_total must lie between 0 and 1, but 2 came"),
        (lambda: ddrm(**good(eta_b=-1)), "eta_b must lie between 0 and 1, but -1 came"),
        (lambda: ddnm(**good(eta=1.5)), "eta must lie between 0 and 1, but 1.5 came"),
        (lambda: ddnm(**good(travel_length=0)), "travel_length must be a whole number of at least 1, but 0 came"),
        (lambda: repaint(**good(repeat=0)), "repeat must be a whole number of at least 1, but 0 came"),
        (lambda: ddnm(**good(times=[0.1, 0.5])), "times must decrease"),
        (lambda: dps(**good(scale=-0.1)), "scale must be a finite number of at least 0, but -0.1 came"),
        (lambda: mcg(**good(scale=math.inf)), "scale must be a finite number of at least 0, but inf came"),
        (lambda: gdp(**good(scale=math.nan)), "scale must be a finite number of at least 0, but nan came"),
        (lambda: snips(**good(steps=0)), "steps must be a whole number of at least 1, but 0 came"),
        (lambda: snips(**good(step_size=3.0)), "step_size must be below 2, beyond which a step overshoots, but 3.0 came"),
        (lambda: snips(**good(schedule=vp_cosine(), times=[1.0, 0.0])), "snips cannot leave pure noise"),
        (
            lambda: dps(**good(schedule=vp_cosine(), times=[1.0, 0.0]), fading=True),
            "dps with fading=True cannot leave pure noise",
        ),
        (lambda: last(pigdm(**good(schedule=vp_cosine(), times=[1.0, 0.0]))), "pigdm cannot guide pure noise"),
        (lambda: pigdm(**good(prior_std=0.0)), "prior_std must be a positive number, but 0.0 came"),
        (lambda: diffpir(**good(strength=0.0)), "strength must be a positive number, but 0.0 came"),
        (lambda: diffpir(**good(zeta=2)), "zeta must lie between 0 and 1, but 2 came"),
        (lambda: diffpir(**good(least_noise=-1)), "least_noise must not be negative, but -1 came"),
        (lambda: ilvr(**good(enlarge=lambda x: x, noise_std=0.1)), "enlarge is for measurements without noise"),
        (lambda: ccdf(**good(init=torch.zeros(1, 2, 4, 4))), r"operator\(init\) and measurement must have the same shape"),
        (lambda: ccdf(**good(init=torch.full((1, 1, 4, 4), math.nan))), "init must be a finite floating-point tensor"),
        (lambda: ccdf(**good(init=torch.zeros(1, 1, 4, 4), z=torch.zeros(1, 1, 4, 4))), "init and z both say where to start"),
        (lambda: ilvr(**good(until=2)), "until must lie between 0 and 1, but 2 came"),
        (lambda: ddnm(**good(travel_repeat=0)), "travel_repeat must be a whole number of at least 1, but 0 came"),
        (lambda: dps(**good(measurement=torch.zeros(3, 1, 2, 2), z=torch.zeros(1, 1, 4, 4))), r"measurement .* \(1, 1, 2, 2\)"),
        (lambda: last(dps(**good(denoiser=weights_only))), "denoiser must be differentiable in z, but its answer does not"),
        (lambda: last(gdp(**good(quality=lambda z_0: z_0.detach().sum((1, 2, 3))))), "quality must return .* carries no gradient"),
        (lambda: blind(lambda z_0, p: z_0), "degrade must be differentiable in z_0 and in its parameters, but its answer carries"),
        (lambda: blind(lambda z_0, p: p[:, :, None, None] + 0 * z_0.detach()), "degrade must be differentiable in z_0"),
        (lambda: blind(lambda z_0, p: z_0, math.nan), "measurement must be a finite"),
        (
            lambda: ddrm(**good(operator=Bicubic(2) @ Blur(kernel()))),
            "ddrm needs the SVD of the operator, and Composition has none in closed form; take pigdm, diffpir",
        ),
        (lambda: ilvr(**good(operator=Bicubic(2) @ Blur(kernel()), noise_std=0.1)), "ilvr with noise_std > 0 needs the SVD"),
        (lambda: last(dps(**good(denoiser=lambda z, t: z.detach()))), "denoiser must be differentiable in z"),
        (lambda: last(gdp(**good(quality=lambda z_0: z_0.sum()))), "quality must return one differentiable value per"),
        (
            lambda: gdp_blind(wrong, VP, lambda z, p: z, torch.zeros(3, 1), torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 2, 2)),
            r"parameters must be a floating-point tensor \(1 or 2, ...\), but \(3, 1\) came",
        ),
        (
            lambda: gdp_blind(wrong, VP, lambda z, p: z, torch.zeros(1, 1), torch.zeros(1, 1, 3, 2), torch.zeros(2, 1, 2, 2)),
            r"measurement and degrade\(z, parameters\) must have the same shape",
        ),
        (lambda: guidance.pigdm(wrong, AveragePool(2), torch.zeros(1, 1, 2, 2), VP)(draw(2, 1, 4, 4), torch.ones(2)),
         "a measurement guides one time at a time"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_noiseless_methods_take_operators_without_an_svd():
    operator, z = Bicubic(2) @ Blur(kernel()), draw(2, 2, 4, 2)
    x = operator(draw(1, 2, 4, 2, seed=2))
    for name in ("ilvr", "repaint", "ccdf", "mcg", "dps", "gdp", "pigdm", "diffpir", "ddnm"):
        assert last(METHODS[name](wrong, VP, operator, x, 0.0, TIMES, z)).isfinite().all()
    small = Dense(operator.dense((2, 4, 2)), (2, 4, 2))
    assert last(ddrm(wrong, VP, small, x.flatten(1), 0.2, TIMES, z)).isfinite().all()


def test_a_mixture_prior_runs_too():
    prior = GaussianMixture(
        torch.ones(2), torch.tensor([[-1.0] * 8, [1.0] * 8]), 0.05 * eye(8).expand(2, 8, 8), (1, 4, 2)
    )
    operator, t = AveragePool(2), uniform_times(20)
    x = operator(torch.ones(1, 1, 4, 2))
    for method in METHODS.values():
        z = ve().sigma(1.0) * standard_normal(1)(torch.empty(6, 1, 4, 2))
        found = last(method(denoiser_for(prior, ve()), ve(), operator, x, 0.1, t, z))
        assert found.isfinite().all()
    assert problem.default_times(ve(), 7).shape == (8,)
