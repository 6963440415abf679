"""Bridges and corruptions against closed forms: exact restorers on Gaussian pairs, the papers' formulas, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage

from tutorial_lib.corruption import (
    blur_corruption,
    cold_denoiser,
    cold_diffusion,
    draw_soft,
    draw_state,
    fade_corruption,
    i2sb,
    i2sb_path,
    indi,
    indi_path,
    ir_sde,
    ir_sde_path,
    operator_corruption,
    resshift,
    resshift_clock,
    resshift_input,
    resshift_path,
    soft_score,
    soft_score_loss,
    staged_corruption,
    symmetric_clock,
)
from tutorial_lib.denoisers import to_z_0
from tutorial_lib.latents import mean_reverting
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Grayscale, Mask
from tutorial_lib.oracles import (
    Gaussian,
    affine_law,
    convergence_order,
    gaussian_w2,
    pair_denoiser,
)
from tutorial_lib.samplers import State, ddim, ddpm, last, trajectory
from tutorial_lib.schedules import Schedule, edm, log_snr_times, uniform_times, ve, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, forward_step

double = torch.float64
CLOCK, ETA, KAPPA = symmetric_clock(), resshift_clock(), 1.3
EVERY_C = pytest.mark.parametrize("channels", [1, 2, 3, 5])


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def even(n):
    return torch.linspace(1, 0, n + 1, dtype=double)


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def wrong(z, t, cond=None):
    """A denoiser that is no good, but smooth."""
    return 3 * (z + t).sin() + 0.5


# ------------------------------------------------------------------------------------------------ one family: identities


@EVERY_C
def test_indi_with_t_for_sigma_is_variance_exploding_ddim(channels):
    z, times = (
        draw(2, channels, 4, 6),
        torch.cat([torch.logspace(0, -3, 9, dtype=double), torch.zeros(1, dtype=double)]),
    )
    ours, theirs = indi(wrong, z, times), ddim(wrong, edm(1.0), z, times)
    for a, b in zip(ours, theirs, strict=True):
        same(a.z, b.z)
        same(a.z_0, b.z_0)
        assert a.t == b.t


@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("schedule", [vp_linear(), vp_cosine(), edm(), ve()], ids=["vp", "cosine", "edm", "ve"])
def test_cold_diffusion_of_estimated_noise_is_ddim(schedule, algorithm):
    z, times = draw(2, 3, 4, 6), uniform_times(7, 0.9)
    scale = schedule.sigma(0.9)
    found = last(cold_diffusion(wrong, schedule, scale * z, times, algorithm))
    same(found / scale, last(ddim(wrong, schedule, scale * z, times)) / scale)


def test_told_i2sb_is_ddpm_on_its_path():
    """Shown z_t - (1 - alpha) z_1, the bridge is ancestral sampling of z_0, with the same noise."""
    z_1, path, times = draw(2, 3, 4, 6, seed=1), i2sb_path(CLOCK), uniform_times(9, 0.9)
    start = draw_state(path, draw(2, 3, 4, 6), z_1, 0.9, standard_normal(5))

    def told(z, t):
        return wrong(z - (1 - path.alpha(t)) * z_1, t)

    ours = last(i2sb(told, CLOCK, start, times, noise=standard_normal(0)))
    same(ours, last(ddpm(wrong, path, start - (1 - path.alpha(0.9)) * z_1, times, noise=standard_normal(0))))


def test_told_resshift_is_ddim_with_eta_between_0_and_1():
    z_1, path = draw(2, 3, 4, 6, seed=1), resshift_path(ETA, KAPPA)
    z = start = z_1 + draw(2, 3, 4, 6)
    noise = standard_normal(0)
    for t, s in zip(even(15)[:-1], even(15)[1:], strict=True):
        a, b, now, then = path.alpha(t), path.alpha(s), ETA(t), ETA(s)
        eta = ((1 - then / now) / (1 - (a / b) ** 2 * then / now)).sqrt().item()
        assert 0 < eta <= 1
        shown = z - (1 - a) * z_1
        z = ddim_step(shown, wrong(shown, t), path, t, s, eta, noise) + (1 - b) * z_1
    found = resshift(
        lambda z, t: wrong(z - (1 - path.alpha(t)) * z_1, t), ETA, start, even(15), KAPPA, standard_normal(0)
    )
    same(last(found), z)


def test_a_told_denoiser_depends_on_the_noise_level_alone():
    """So one network, told z_1 and log_snr, serves every bridge and plain diffusion."""
    cond, u = draw(3, 2, seed=2), draw(3, 2, seed=3)
    plain = vp_linear()
    for path in (i2sb_path(CLOCK), resshift_path(ETA, KAPPA), ir_sde_path(0.4), indi_path(0.7)):
        t = torch.tensor(0.37, dtype=double)
        at = plain.time_at(path.log_snr(t))
        answers = [
            pair_denoiser(PAIRS, law)(law.alpha(x) * u + (1 - law.alpha(x)) * cond, x, cond)
            for law, x in ((path, t), (plain, at))
        ]
        same(*answers, atol=1e-10)  # time_at inverts log_snr to about that


# ------------------------------------------------------------------------------------------------------- laws, composition

Z_0, Z_1 = draw(1, 4, seed=11), draw(1, 4, seed=12)


def clock_by_quadrature(t, beta_max=0.3, beta_min=0.1):
    def beta(u):
        return (math.sqrt(beta_min) + (math.sqrt(beta_max) - math.sqrt(beta_min)) * min(u, 1 - u)) ** 2

    return integrate.quad(beta, 0, t, points=[0.5] if t > 0.5 else None, epsabs=1e-14)[0]


def i2sb_law(t):
    before, after = clock_by_quadrature(t), clock_by_quadrature(1.0) - clock_by_quadrature(t)
    total = before + after
    return (after * Z_0 + before * Z_1) / total, before * after / total


def resshift_law(t):
    eta = float(np.interp(15 * t, range(16), [0, *PAPER_ROOTS])) ** 2
    return Z_0 + eta * (Z_1 - Z_0), KAPPA**2 * eta


def ir_sde_law(t, spread=0.4, delta=0.01):
    theta_bar = -math.log(delta) * (t - math.sin(math.pi * t) / math.pi)
    return Z_1 + (Z_0 - Z_1) * math.exp(-theta_bar), spread**2 * -math.expm1(-2 * theta_bar)


# The published 15 steps by ResShift's rule, typed apart from the package.
PAPER_ROOTS = [(0.04 / KAPPA) * (0.99 / (0.04 / KAPPA)) ** ((i / 14) ** 0.3) for i in range(15)]
RESSHIFT = resshift_clock(kappa=KAPPA)
LAWS = {  # path, its closed form, and a sampler that steps along it
    "indi": (indi_path(0.6), lambda t: ((1 - t) * Z_0 + t * Z_1, 0.36 * t), lambda d, z, g, n: indi(d, z, g, 0.6, n)),
    "indi without noise": (indi_path(), lambda t: ((1 - t) * Z_0 + t * Z_1, 0.0), lambda d, z, g, n: indi(d, z, g)),
    "i2sb": (i2sb_path(CLOCK), i2sb_law, lambda d, z, g, n: i2sb(d, CLOCK, z, g, noise=n)),
    "ot-ode": (
        i2sb_path(CLOCK, True),
        lambda t: (i2sb_law(t)[0], 0.0),
        lambda d, z, g, n: i2sb(d, CLOCK, z, g, ot_ode=True),
    ),
    "resshift": (
        resshift_path(RESSHIFT, KAPPA),
        resshift_law,
        lambda d, z, g, n: resshift(d, RESSHIFT, z, g, KAPPA, n),
    ),
    "ir-sde": (
        ir_sde_path(0.4),
        ir_sde_law,
        lambda d, z, g, n: ir_sde(d, Z_1, z, g, 0.4, posterior=True, noise=n),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_states_are_drawn_from_the_papers_laws(name):
    path, law, _ = LAWS[name]
    for t in (0.02, 0.3, 0.5, 0.85, 1.0):
        mean, covariance = affine_law(lambda noise, t=t: draw_state(path, Z_0, Z_1, t, noise), 4)
        expected, variance = law(t)
        same(mean[None], expected)
        same(covariance, variance * torch.eye(4, dtype=double))


def check_composition(path, sampler):
    """Drawn at t and stepped to s with the true z_0, the state has the law at s: q(z_s | z_t, z_0) after q(z_t | z_0)."""

    def answer(z, t):
        return Z_0.expand_as(z)

    for t, s in [(1.0, 0.7), (0.8, 0.1), (0.3, 0.29), (0.5, 0.0)]:

        def run(noise, t=t, s=s):
            z = draw_state(path, Z_0, Z_1, t, noise)
            return last(sampler(answer, z, torch.tensor([t, s], dtype=double), noise))

        expected = affine_law(lambda noise, s=s: draw_state(path, Z_0, Z_1, s, noise), 4)
        for found, right in zip(affine_law(run, 4), expected, strict=True):
            same(found, right)


@pytest.mark.parametrize("name", LAWS)
def test_steps_compose(name):
    path, _, sampler = LAWS[name]
    check_composition(path, sampler)


def stepper(weight, variance):
    """A sampler from the weight of z and the variance as functions of the clocks at t and s and of the clock's total."""

    def make(clock, kappa_squared=1.0):
        def sampler(denoiser, z, times, noise):
            for t, s in zip(times[:-1], times[1:], strict=True):
                a, b, total = clock(t), clock(s), clock(1.0)
                z_0 = denoiser(z, t)
                z = z_0 + weight(a, b) * (z - z_0) + (kappa_squared * variance(a, b, total)).sqrt() * noise(z)
                yield State(z, s, z)

        return sampler

    return make


RIGHT = stepper(lambda t, s: s / t, lambda t, s, total: s * (t - s) / t)
BRIDGE_MUTANTS = {
    "variance from the wrong side": stepper(
        lambda t, s: s / t, lambda t, s, total: (t - s) * (total - t) / (total - s)
    ),
    "the forward step's variance": stepper(lambda t, s: s / t, lambda t, s, total: t - s),
    "the marginal's variance": stepper(lambda t, s: s / t, lambda t, s, total: s),
    "sqrt(eta) for eta": stepper(lambda t, s: (s / t).sqrt(), lambda t, s, total: s.sqrt() * (1 - (s / t).sqrt())),
    "weights swapped": stepper(lambda t, s: 1 - s / t, lambda t, s, total: s * (t - s) / t),
}
TARGETS = {
    "i2sb": (i2sb_path(CLOCK), CLOCK, 1.0),
    "resshift": (resshift_path(RESSHIFT, KAPPA), RESSHIFT, KAPPA**2),
    "indi": (indi_path(0.6), lambda t: torch.as_tensor(t, dtype=double), 0.36),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_frame_of_the_bridge_mutants_is_right(name):
    path, clock, kappa_squared = TARGETS[name]
    check_composition(path, RIGHT(clock, kappa_squared))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("mutant", BRIDGE_MUTANTS)
def test_wrong_bridges_do_not_compose(name, mutant):
    path, clock, kappa_squared = TARGETS[name]
    with pytest.raises(AssertionError):
        check_composition(path, BRIDGE_MUTANTS[mutant](clock, kappa_squared))


@pytest.mark.parametrize("name", LAWS)
def test_the_ends_are_exact(name):
    path, law, _ = LAWS[name]
    same(draw_state(path, Z_0, Z_1, 0.0, standard_normal(0)), Z_0, atol=0)
    at_one = draw_state(path, Z_0, Z_1, 1.0, torch.zeros_like)
    if name in ("i2sb", "ot-ode", "indi", "indi without noise"):
        same(at_one, Z_1, atol=0)
        assert name == "indi" or path.sigma(1.0) == 0
    same(draw_state(path, Z_1, Z_1, 0.6, torch.zeros_like), Z_1)  # where a walk starts: no z_0 needed


def test_i2sbs_label_is_eps_of_a_variance_exploding_schedule():
    """(z_t - z_0) / sqrt(v): so the package's conversions and preconditioning serve its networks."""
    clock_schedule = Schedule(torch.ones_like, lambda t: CLOCK(t).sqrt())
    z = draw_state(i2sb_path(CLOCK), Z_0, Z_1, 0.3, standard_normal(0))
    label = (z - Z_0) / math.sqrt(clock_by_quadrature(0.3))
    same(to_z_0(label, "eps", z, 0.3, clock_schedule), Z_0)


def test_indis_constant_noise_is_noise_on_the_lr_image():
    u = draw(1, 4, seed=3)
    same(draw_state(indi_path(), Z_0, Z_1 + 0.2 * u, 0.4), 0.6 * Z_0 + 0.4 * Z_1 + 0.4 * 0.2 * u)


def test_the_clock_of_i2sb_is_symmetric_and_its_two_sides_add_up():
    t = torch.linspace(0, 1, 41, dtype=double)
    same(CLOCK(t) + CLOCK(1 - t), CLOCK(1.0).expand(41))
    table = np.linspace(math.sqrt(1e-4), math.sqrt(3e-4), 1000)[:500] ** 2  # the code's 1000 steps, beta_max = 0.3
    assert CLOCK(1.0).item() == pytest.approx(2 * table.sum(), rel=2e-3)
    assert symmetric_clock(0.1, 0.1)(0.7).item() == pytest.approx(0.07)


def test_resshifts_schedule_is_the_papers():
    roots = resshift_clock()(even(15)).sqrt().flip(0)
    published = [0.02, 0.117, 0.176]
    same(roots[1:4], torch.tensor(published, dtype=double), atol=6e-4)
    same(roots[-2:], torch.tensor([0.909, 0.99], dtype=double), atol=6e-4)
    assert roots[0] == 0 and roots[-1].item() == pytest.approx(0.99, abs=1e-15)
    assert resshift_clock()(1.0).item() == pytest.approx(0.9801, abs=1e-12)  # not 0.99, and not 1
    short = resshift_clock(4, first=0.2)(even(4)).sqrt()
    assert short[-2].item() == pytest.approx(0.2) and (short.diff() < 0).all()
    same(resshift_clock()(even(15).float()), resshift_clock()(even(15)), atol=1e-5)  # float32 times land on the knots


def test_resshift_in_one_or_two_steps():
    """One step has the last knot only, and its clock is the square of a straight line; the walk is one answer."""
    for t in (0.0, 0.3, 1.0):
        assert resshift_clock(1)(t).item() == pytest.approx((0.99 * t) ** 2, abs=1e-15)
    t = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=double)
    same(resshift_clock(2, kappa=0.5)(t).sqrt(), torch.tensor([0.02, 0.04, 0.515, 0.99], dtype=double), atol=1e-15)
    same(resshift_clock(2, kappa=4.0)(0.5).sqrt(), torch.tensor(0.01, dtype=double), atol=1e-15)
    z = draw(2, 3, 4, 6)
    same(last(resshift(wrong, resshift_clock(1), z, even(1), noise=standard_normal(0))), wrong(z, 1.0))


@pytest.mark.parametrize("eta", [0.0, 0.3, torch.tensor([0.1, 0.9])], ids=["0", "0.3", "one per sample"])
def test_resshifts_network_is_shown_unit_variance(eta):
    """z_0 and z_1 alike and of unit variance: z_t has variance 1 + kappa^2 eta."""
    z = torch.ones(2, 3, 4, 5, dtype=double)
    eta_ = torch.as_tensor(eta, dtype=double)
    expected = (1 / (1 + 4 * eta_).sqrt()).expand(2).view(2, 1, 1, 1) * z
    same(resshift_input(z, eta, 2.0), expected, atol=1e-7 if isinstance(eta, torch.Tensor) else 1e-12)
    found = resshift_input(z, 0.25, 2.0, pixel=True)
    same(found, z / 4)


# ---------------------------------------------------------------------------------------------- Gaussian pairs: exactness

ROOT = draw(4, 4, seed=7)
PAIRS = Gaussian(torch.tensor([0.3, -0.2, 0.4, 0.0], dtype=double), ROOT @ ROOT.T / 4 + 0.05 * torch.eye(4))
MEAN, COV = PAIRS.means[0], PAIRS.covariances[0]
X = torch.tensor([[0.9, -0.5]], dtype=double)
REGRESSION = np.linalg.solve(COV[2:, 2:].numpy(), COV[2:, :2].numpy()).T
ANSWER = MEAN[:2] + torch.from_numpy(REGRESSION) @ (X[0] - MEAN[2:])
LEFT = COV[:2, :2] - torch.from_numpy(REGRESSION) @ COV[2:, :2]  # the covariance of p(z_0 | z_1)


@pytest.mark.parametrize("name", ["indi", "indi without noise", "i2sb", "resshift", "ir-sde"])
@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.98])
def test_the_exact_restorer_is_the_posterior_mean(name, t):
    path, z = LAWS[name][0], draw(3, 2, seed=4)
    denoiser, identity = pair_denoiser(PAIRS, path), torch.eye(2, dtype=double)
    alpha, sigma = path.alpha(t), path.sigma(t).item()
    seen = torch.cat([alpha * identity, (1 - alpha) * identity], 1)
    see_lr = torch.cat([torch.zeros(2, 2, dtype=double), identity], 1)
    for i, one in enumerate(z):
        same(denoiser(z, t)[i], PAIRS.posterior(seen, one, sigma).mean[:2], atol=1e-9)
        if t > 0:
            given = PAIRS.posterior(see_lr, X, 0.0)
            if sigma > 0:
                same(denoiser(z, t, X)[i], given.posterior(seen, one, sigma).mean[:2], atol=1e-9)


@pytest.mark.parametrize("cond", [None, X], ids=["untold", "told"])
@pytest.mark.parametrize("name", ["indi without noise", "i2sb", "ot-ode"])
def test_one_step_is_the_mmse_estimate(name, cond):
    path, _, sampler = LAWS[name]
    denoiser = pair_denoiser(PAIRS, path)
    found = last(sampler(lambda z, t: denoiser(z, t, cond), X, even(1), standard_normal(0)))
    same(found[0], ANSWER)


def test_one_step_from_a_noisy_start_is_the_mmse_estimate_from_it():
    """InDI with noise and ResShift start at z_1 + noise, and one step knows no more than that."""
    for path, std in ((indi_path(0.6), 0.6), (resshift_path(lambda t: torch.as_tensor(t).double(), 0.6), 0.6)):
        noisy = COV[2:, 2:] + std**2 * torch.eye(2, dtype=double)
        expected = MEAN[:2] + COV[:2, 2:] @ torch.linalg.solve(noisy, X[0] - MEAN[2:])
        same(last(indi(pair_denoiser(PAIRS, path), X, even(1), 0.6, standard_normal(0)))[0], expected)


def law_of(name, n, told, random_lr=False):
    path, _, sampler = LAWS[name]
    denoiser = pair_denoiser(PAIRS, path)

    def run(noise):
        lr = PAIRS.sample(1, noise)[:, 2:] if random_lr else X
        start = draw_state(path, lr, lr, 1.0, noise)
        return last(sampler(lambda z, t: denoiser(z, t, lr if told else None), start, even(n), noise))

    return affine_law(run, 2)


@pytest.mark.parametrize("name", ["indi", "i2sb"])
def test_told_bridges_have_the_right_mean_and_too_little_variance(name):
    """At any number of steps the mean is the posterior's; the variance falls short by what the last answers average away,
    as 1 / n, never more than all of it (one step)."""
    short = []
    for n in (1, 4, 16, 64):
        mean, covariance = law_of(name, n, told=True)
        same(mean, ANSWER)
        assert torch.linalg.eigvalsh(LEFT - covariance).min() > 0
        short.append((LEFT - covariance).trace().item())
    same(law_of(name, 1, told=True)[1], torch.zeros(2, 2, dtype=double))
    assert short[0] == pytest.approx(LEFT.trace().item()) and short[0] > short[1] > short[2] > short[3]
    assert short[2] / short[3] == pytest.approx(4, rel=0.25)


def test_resshift_treats_its_last_eta_as_1():
    """The start keeps no trace of z_0 although eta(1) = 0.98 says 2 % of it is there: a small bias that no step count cures."""
    bias = [(law_of("resshift", n, told=True)[0] - ANSWER).norm().item() for n in (15, 60)]
    assert bias[1] > 1e-3 and bias[1] == pytest.approx(bias[0], rel=0.5)
    clock = resshift_clock(kappa=KAPPA, last=1.0)
    denoiser = pair_denoiser(PAIRS, resshift_path(clock, KAPPA))
    mean, _ = affine_law(
        lambda noise: last(
            resshift(lambda z, t: denoiser(z, t, X), clock, X + KAPPA * noise(X), even(15), KAPPA, noise)
        ),
        2,
    )
    same(mean, ANSWER)


@pytest.mark.parametrize("name", ["indi without noise", "indi", "i2sb", "ot-ode"])
def test_untold_bridges_find_the_law_of_all_images(name):
    """Over all z_1 the output tends to the data's law at first order in the step; given one z_1 it need not be p(z_0 | z_1)."""

    def error(n):
        mean, covariance = law_of(name, n, told=False, random_lr=True)
        return gaussian_w2(mean, covariance, MEAN[:2], COV[:2, :2])

    assert convergence_order(error, [24, 48, 96]) == pytest.approx(1, abs=0.15) and error(96) < 0.03
    mean, covariance = law_of(name, 96, told=False)
    assert gaussian_w2(mean, covariance, ANSWER, LEFT) > 0.05
    if name in ("indi without noise", "ot-ode"):
        same(covariance, torch.zeros(2, 2, dtype=double))  # one z_1, one answer


def test_more_steps_without_noise_leave_the_mean_for_the_law():
    """InDI's walk from the MMSE estimate (least error, too little variance) to the data's variance (more error)."""
    errors, variances = [], []
    for n in (1, 2, 8, 64):
        path, _, sampler = LAWS["indi without noise"]
        denoiser = pair_denoiser(PAIRS, path)

        def joint(noise, n=n, denoiser=denoiser, sampler=sampler):
            both = PAIRS.sample(1, noise)
            return torch.cat([both[:, :2], last(sampler(denoiser, both[:, 2:], even(n), noise))], 1)

        _, covariance = affine_law(joint, 4)
        difference = covariance[:2, :2] + covariance[2:, 2:] - covariance[:2, 2:] - covariance[2:, :2]
        errors.append(difference.trace().item())
        variances.append(covariance[2:, 2:].trace().item())
    assert errors[0] == pytest.approx(LEFT.trace().item()) and sorted(errors) == errors
    assert sorted(variances) == variances and variances[-1] < COV[:2, :2].trace()


def paper_ir_sde(x, mu, score, times, noise, sign=1):
    """The reverse Euler steps in the paper's letters: dx = (theta (mu - x) - sigma^2 score) dt, backwards, lambda = 0.4."""
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        theta = -math.log(0.01) * (1 - math.cos(math.pi * t))
        drift = theta * (mu - x) - 2 * 0.4**2 * theta * score(x, t)
        x = x - sign * drift * (t - s) + 0.4 * math.sqrt(2 * theta * (t - s)) * noise(x)
    return x


@pytest.mark.parametrize("sign", [1, -1])
def test_ir_sde_takes_the_papers_steps(sign):
    path, times = ir_sde_path(0.4), torch.linspace(1, 0.1, 10, dtype=double)
    denoiser = pair_denoiser(PAIRS, path)
    start = X + 0.4 * draw(1, 2, seed=8)

    def score(x, t):
        guess = denoiser(x, t, X)
        return (path.alpha(t) * guess + (1 - path.alpha(t)) * X - x) / path.sigma(t) ** 2

    ours = last(ir_sde(lambda z, t: denoiser(z, t, X), X, start, times, 0.4, noise=standard_normal(9)))
    difference = (ours - paper_ir_sde(start, X, score, times, standard_normal(9), sign)).abs().max()
    assert difference < 1e-12 if sign == 1 else difference > 0.1  # -1: the drift added


# ---------------------------------------------------------------------------------------------------------- cold diffusion


def cold_1(denoiser, corruption, z, times):
    return cold_diffusion(denoiser, corruption, z, times, 1)


def cold_forgetting_the_error(denoiser, corruption, z, times):
    for t, s in zip(times[:-1], times[1:], strict=True):
        z = z - corruption(denoiser(z, t), s) + corruption(denoiser(z, t), t)  # the two swapped
        yield State(z, s, z)


def check_cancellation(sampler):
    z_0, e = draw(2, 3, 4, 6), draw(2, 3, 4, 6, seed=1)

    def corruption(x, t):
        return x + t * e

    same(last(sampler(wrong, corruption, corruption(z_0, 1.0), even(8))), z_0)
    same(last(sampler(wrong, corruption, corruption(z_0, 0.9), torch.tensor([0.9, 0.4], dtype=double))), z_0 + 0.4 * e)


def test_algorithm_2_forgives_every_error_of_a_linear_corruption():
    check_cancellation(cold_diffusion)


@pytest.mark.parametrize("mutant", [cold_1, cold_forgetting_the_error])
def test_algorithm_1_does_not(mutant):
    with pytest.raises(AssertionError):
        check_cancellation(mutant)


@EVERY_C
@pytest.mark.parametrize("algorithm", [1, 2])
@pytest.mark.parametrize("kind", ["blur", "pool", "fade"])
def test_a_perfect_restorer_walks_back_along_the_corruption(kind, channels, algorithm):
    z_0 = draw(2, channels, 4, 6)
    corruption = {
        "blur": blur_corruption(0.7),
        "pool": operator_corruption(AveragePool(2)),
        "fade": fade_corruption(draw(2, channels, 4, 6, seed=3)),
    }[kind]
    states = trajectory(cold_diffusion(lambda z, t: z_0, corruption, corruption(z_0, 1.0), even(5), algorithm))
    for state in states:
        same(state.z, corruption(z_0, state.t))
    same(states[-1].z, z_0)


def test_a_walk_from_the_lr_image_alone_has_one_answer():
    """Nothing is drawn: different noise sources cannot matter, and the answer of the exact restorer has no variance."""
    path = indi_path()
    denoiser = pair_denoiser(PAIRS, path)
    found = [last(cold_diffusion(denoiser, fade_corruption(X), X, even(30), algorithm)) for algorithm in (1, 2)]
    assert all(one.shape == (1, 2) for one in found)
    regression = last(cold_diffusion(lambda z, t: denoiser(z, t, X), fade_corruption(X), X, even(30)))
    same(regression[0], ANSWER)  # told z_1, the walk never leaves the MMSE estimate


@EVERY_C
def test_corruptions_are_what_they_say(channels):
    z_0, t = draw(2, channels, 8, 12), torch.tensor([0.4, 1.0], dtype=double)
    blurred = blur_corruption(2.0)(z_0, t)
    for i in range(2):
        for c in range(channels):
            spectrum = ndimage.fourier_gaussian(np.fft.fft2(z_0[i, c].numpy()), 2 * t[i].item())
            np.testing.assert_allclose(blurred[i, c].numpy(), np.fft.ifft2(spectrum).real, atol=1e-12)
    same(blur_corruption(2.0)(z_0[..., :7, :9], 0.0), z_0[..., :7, :9])
    operator = AveragePool(4)
    same(operator_corruption(operator)(z_0, 1.0), operator.pinv(operator(z_0)))
    part = operator_corruption(operator)(z_0, t)
    same(part[0], 0.6 * z_0[0] + 0.4 * operator.pinv(operator(z_0))[0])
    same(operator(part), operator(z_0))  # what A sees never changes
    mask = torch.zeros(8, 12, dtype=double)
    mask[2:5, 3:] = 1
    same(operator_corruption(Mask(mask))(z_0, 1.0), mask * z_0)
    if channels == 3:
        grey = operator_corruption(Grayscale())(z_0, 1.0)
        same(Grayscale()(grey), Grayscale()(z_0))
    other = draw(2, channels, 8, 12, seed=2)
    same(fade_corruption(other)(z_0, t)[1], other[1])


SHARES = {  # of groups of 1, 2 and 1 channels, by hand: three times the time left, spent from the first group on
    0.0: (1, 1, 1, 1),
    1 / 6: (1, 1, 1, 0.5),
    1 / 3: (1, 1, 1, 0),
    0.4: (1, 0.8, 0.8, 0),
    0.5: (1, 0.5, 0.5, 0),
    0.75: (0.75, 0, 0, 0),
    0.9: (0.3, 0, 0, 0),
    1.0: (0, 0, 0, 0),
}


def check_stages(corruption_of):
    z_0, e = draw(2, 4, 3, 5), draw(2, 4, 3, 5, seed=1)
    corruption, bare = corruption_of((1, 2, 1), e), corruption_of((1, 2, 1))
    for t, shares in SHARES.items():
        left = torch.tensor(shares, dtype=double).view(4, 1, 1)
        same(corruption(z_0, t), left * z_0 + t * e)
        same(bare(z_0, torch.tensor(t)), left * z_0, atol=1e-6)
    assert torch.equal(corruption(z_0, 0.0), z_0) and torch.equal(corruption(z_0, 1.0), e)
    t = torch.tensor([0.4, 0.75], dtype=double)
    together = corruption(z_0, t)
    for i in range(2):
        same(together[i : i + 1], corruption_of((1, 2, 1), e[i : i + 1])(z_0[i : i + 1], t[i].item()))
    small = corruption_of((1, 2, 1), e.float())(z_0.float(), t)
    assert small.dtype == torch.float32
    same(small, together.float(), atol=1e-6)


def stages(shares_at, noise_at=lambda t: t):
    """A staged corruption with other shares or another clock of e, for mutants."""

    def corruption_of(groups, e=0.0):
        place = torch.tensor([k for k, n in enumerate(groups) for _ in range(n)]).view(-1, 1, 1)

        def corruption(z_0, t):
            t = torch.as_tensor(t, dtype=double).reshape(-1, 1, 1, 1).to(z_0)
            return shares_at(len(groups), t, place).to(z_0) * z_0 + noise_at(t) * e

        return corruption

    return corruption_of


def test_channels_fade_group_by_group_the_last_one_first():
    check_stages(staged_corruption)
    check_stages(stages(lambda n, t, k: (n * (1 - t) - k).clamp(0, 1)))  # the frame of the mutants


STAGE_MUTANTS = {
    "the first group first": stages(lambda n, t, k: (n * (1 - t) - (n - 1 - k)).clamp(0, 1)),
    "all at once": stages(lambda n, t, k: 1 - t + 0 * k),
    "not held below 1": stages(lambda n, t, k: (n * (1 - t) - k).clamp(min=0)),
    "not held above 0": stages(lambda n, t, k: (n * (1 - t) - k).clamp(max=1)),
    "time counted backwards": stages(lambda n, t, k: (n * t - k).clamp(0, 1)),
    "the root of the share": stages(lambda n, t, k: (n * (1 - t) - k).clamp(0, 1).sqrt()),
    "noise by the root of t": stages(lambda n, t, k: (n * (1 - t) - k).clamp(0, 1), lambda t: t.sqrt()),
    "noise at all times": stages(lambda n, t, k: (n * (1 - t) - k).clamp(0, 1), lambda t: 1.0),
}


@pytest.mark.parametrize("mutant", STAGE_MUTANTS)
def test_wrong_stages_are_seen(mutant):
    with pytest.raises(AssertionError):
        check_stages(STAGE_MUTANTS[mutant])


@EVERY_C
def test_a_walk_through_the_stages_restores_coarse_channels_first(channels):
    """From noise alone: while a group comes back the finer ones are still gone; a perfect restorer ends at z_0."""
    z_0, e = draw(2, channels, 4, 6), 0.2 * draw(2, channels, 4, 6, seed=1)
    corruption = staged_corruption((1,) * channels, e)
    states = trajectory(cold_diffusion(lambda z, t: z_0, corruption, e, even(channels)))
    for k, state in enumerate(states):
        t = 1 - k / channels
        same(state.z[:, :k], z_0[:, :k] + t * e[:, :k])
        same(state.z[:, k:], t * e[:, k:])


def test_a_cold_network_is_told_the_time_in_the_range_of_the_other_networks():
    shown = []

    def network(z, level, cond):
        shown.append((z, level, cond))
        return 2 * z

    z, cond = draw(2, 3, 4, 6), draw(2, 1, 4, 6)
    denoiser = cold_denoiser(network)
    for t, level in [(0.0, 2.5), (0.3, 1.0), (0.5, 0.0), (1.0, -2.5), (torch.tensor([0.1, 0.9]), [2.0, -2.0])]:
        answer = denoiser(z, t, cond)
        u, told, seen = shown[-1]
        assert u.dtype == told.dtype == torch.float32 and answer.dtype == double and seen is cond
        same(told, torch.tensor(level).expand(2), atol=1e-6)
        same(u.double(), z, atol=1e-6)
        same(answer, 2 * z, atol=1e-6)
    denoiser(z, 0.5)
    assert shown[-1][2] is None
    weight = torch.ones(1, requires_grad=True)  # training goes through it
    cold_denoiser(lambda z, level, cond: weight * z)(z, 0.5).sum().backward()
    assert weight.grad.item() == pytest.approx(z.sum().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ soft diffusion

PLACE = torch.arange(4, dtype=double)
PRIOR = Gaussian(torch.tensor([0.5, -0.3, 0.2, 0.4], dtype=double), 0.8 ** (PLACE[:, None] - PLACE).abs())
POOL = torch.kron(torch.eye(2), torch.full((2, 2), 0.5)).double()  # a projection of rank 2


def matrix_at(t):
    return torch.eye(4, dtype=double) + torch.as_tensor(t, dtype=double) * (POOL - torch.eye(4))


def soft(z_0, t):
    """C_t: pooling fades in; at t = 1 two directions are gone."""
    t = torch.as_tensor(t, dtype=double).reshape(-1, 1)
    return z_0 + t * (z_0 @ POOL.T - z_0)


def soft_denoiser(schedule):
    """E[z_0 | z_t] = m + S C^T (C S C^T + sigma^2)^-1 (z - C m), alpha = 1."""

    def denoiser(z, t):
        c = matrix_at(t)
        gain = (
            PRIOR.covariances[0]
            @ c.T
            @ torch.linalg.inv(c @ PRIOR.covariances[0] @ c.T + schedule.sigma(t) ** 2 * torch.eye(4, dtype=double))
        )
        return PRIOR.means + (z - PRIOR.means @ c.T) @ gain.T

    return denoiser


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("schedule", [ve(), edm(2.0), vp_linear(), vp_cosine()], ids=["ve", "edm", "vp", "cosine"])
def test_soft_diffusion_without_a_corruption_is_ddim(schedule, eta):
    z, times = draw(2, 5, 4, 6), uniform_times(6)
    z = schedule.sigma(1.0) * z
    found = soft_score(wrong, schedule, lambda z_0, t: z_0, z, times, eta, standard_normal(0))
    same(last(found) / z.abs().max(), last(ddim(wrong, schedule, z, times, eta, standard_normal(0))) / z.abs().max())


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_the_score_of_soft_diffusion_is_exact_also_where_the_rank_is_lost(t):
    schedule, z = edm(1.5), draw(3, 4, seed=6)
    c = matrix_at(t)
    law = Gaussian(c @ PRIOR.means[0], c @ PRIOR.covariances[0] @ c.T)
    guess = soft_denoiser(schedule)(z, t)
    found = (soft(guess, t) - z) / schedule.sigma(t) ** 2
    same(found, law.score(z, 1.0, schedule.sigma(t)), atol=1e-10)


def test_soft_diffusion_steps_compose():
    schedule = edm(1.5)

    def answer(z, t):
        return Z_0.expand_as(z)

    for t, s in [(1.0, 0.6), (0.4, 0.1), (0.4, 0.0)]:
        times = torch.tensor([t, s], dtype=double)

        def run(noise, t=t, times=times):
            return last(soft_score(answer, schedule, soft, draw_soft(schedule, soft, Z_0, t, noise), times, 1.0, noise))

        expected = affine_law(lambda noise, s=s: draw_soft(schedule, soft, Z_0, s, noise) + 0 * noise(Z_0), 4)
        for found, right in zip(affine_law(run, 4), expected, strict=True):
            same(found, right)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_soft_diffusion_finds_the_prior(eta):
    schedule = edm(1.5)
    denoiser = soft_denoiser(schedule)
    start = matrix_at(1.0)

    def error(n):
        def run(noise):
            z_0 = PRIOR.sample(1, noise)
            z = z_0 @ start.T + schedule.sigma(1.0) * noise(z_0)
            return last(soft_score(denoiser, schedule, soft, z, even(n), eta, noise))

        mean, covariance = affine_law(run, 4)
        return gaussian_w2(mean, covariance, PRIOR.means[0], PRIOR.covariances[0])

    assert error(100) < 0.1 and convergence_order(error, [50, 100]) > 0.6


def loss_inside(answer, z_0, t):
    return soft_score_loss(answer, z_0, soft, t)


def loss_outside(answer, z_0, t):
    return (answer - z_0).square().flatten(1).mean(1)


def loss_of_the_wrong_time(answer, z_0, t):
    return soft_score_loss(answer, z_0, soft, 1 - torch.as_tensor(t))


def check_soft_loss(loss):
    """A dense product as referee; what C_1 has removed costs nothing; so the loss is least for any answer with the right C z_0."""
    z_0, answer, t = draw(3, 4), draw(3, 4, seed=1), torch.tensor([0.2, 0.7, 1.0], dtype=double)
    expected = torch.stack([(matrix_at(t[i]) @ (answer - z_0)[i]).square().mean() for i in range(3)])
    same(loss(answer, z_0, t), expected)
    same(loss(answer[:1], z_0[:1], t[:1]), expected[:1])
    lost = torch.tensor([[1.0, -1.0, 2.0, -2.0]], dtype=double)
    same(loss(z_0[:1] + lost, z_0[:1], torch.tensor([1.0])), torch.zeros(1, dtype=double))


def test_the_soft_loss_measures_inside_the_corruption():
    check_soft_loss(loss_inside)


@pytest.mark.parametrize("mutant", [loss_outside, loss_of_the_wrong_time])
def test_a_loss_outside_the_corruption_is_another(mutant):
    with pytest.raises(AssertionError):
        check_soft_loss(mutant)


# -------------------------------------------------------------------------------------------------- batches, noise, errors

SAMPLERS = {
    "indi": lambda z, noise: indi(wrong, z, even(3), 0.5, noise),
    "i2sb": lambda z, noise: i2sb(wrong, CLOCK, z, even(3), noise=noise),
    "resshift": lambda z, noise: resshift(wrong, ETA, z, even(3), noise=noise),
    "ir_sde": lambda z, noise: ir_sde(wrong, 0.1 * z, z, even(3), 0.4, noise=noise),
    "cold": lambda z, noise: cold_diffusion(wrong, operator_corruption(AveragePool(2)), z, even(3)),
    "stages": lambda z, noise: cold_diffusion(wrong, staged_corruption((1,) * z.shape[1], 0.1 * z), z, even(3)),
    "soft": lambda z, noise: soft_score(wrong, edm(1.0), blur_corruption(1.0), z, even(3), noise=noise),
}


@EVERY_C
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_do_not_depend_on_their_batch_mates(name, channels):
    z = draw(2, channels, 4, 6)
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    states = trajectory(SAMPLERS[name](z, standard_normal(sources)))
    assert len(states) == 4 and [s.t.item() for s in states] == even(3).tolist()
    assert all(s.z.shape == z.shape == s.z_0.shape for s in states)
    for state in states[:-1]:
        same(state.z_0, wrong(state.z, state.t))  # what the denoiser answered, in state units
    assert torch.equal(states[-1].z_0, states[-2].z_0)
    alone = last(SAMPLERS[name](z[1:], standard_normal([torch.Generator().manual_seed(1)])))
    same(alone, states[-1].z[1:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_handed_in_and_seed_0_is_a_seed(name):
    z = draw(2, 3, 4, 6).float()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (last(SAMPLERS[name](z, standard_normal(seed))) for seed in (0, 0, 1))
    default = last(SAMPLERS[name](z, None))
    assert torch.equal(before, torch.get_rng_state()) and first.dtype == torch.float32
    assert torch.equal(first, again) and torch.equal(default, last(SAMPLERS[name](z, None)))
    if name not in ("cold", "stages"):
        assert not torch.equal(first, other) and not torch.equal(first, default)


@EVERY_C
def test_states_are_drawn_with_one_time_per_sample(channels):
    z_0, z_1, t = draw(2, channels, 4, 6), draw(2, channels, 4, 6, seed=1), torch.tensor([0.2, 0.9], dtype=double)
    for path, *_ in LAWS.values():
        sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        together = draw_state(path, z_0, z_1, t, standard_normal(sources))
        alone = draw_state(path, z_0[1:], z_1[1:], 0.9, standard_normal(1))
        same(together[1:], alone)
    drawn = draw_soft(edm(1.0), blur_corruption(1.0), z_0, t, torch.zeros_like)
    same(drawn[1:], blur_corruption(1.0)(z_0[1:], 0.9))
    assert draw_state(indi_path(), z_0, z_1, t).shape == z_0.shape  # no noise needed where there is none


def test_the_unit_of_ir_sde_is_the_latents():
    t = torch.linspace(0, 1, 7, dtype=double)
    same(ir_sde_path(0.4).log_snr(t[1:]) + 2 * math.log(0.4), mean_reverting().log_snr(t[1:]))
    u, path = draw(1, 4), ir_sde_path(0.4)
    ours = draw_state(path, Z_0, Z_1, 0.5, lambda like: u)
    same((ours - Z_1) / 0.4, forward_step((Z_0 - Z_1) / 0.4, mean_reverting(), 0.0, 0.5, lambda like: u))


@pytest.mark.parametrize("posterior", [False, True])
def test_delta_is_what_ir_sde_leaves_of_z_0(posterior):
    """It reaches the path and both kinds of steps; with z_0 known the exact one is a product of two Gaussians."""
    start, answer, times = draw(1, 4, seed=4), draw(1, 4, seed=5), torch.tensor([0.6, 0.5], dtype=double)
    few, more = (
        last(ir_sde(lambda z, t: answer, Z_1, start, times, 0.4, delta, posterior, torch.zeros_like))
        for delta in (0.01, 0.2)
    )
    assert ir_sde_path(0.4, 0.2).alpha(1.0).item() == pytest.approx(0.2) and (few - more).abs().max() > 0.01
    if posterior:
        a, b = (0.2 ** (t - math.sin(math.pi * t) / math.pi) for t in (0.6, 0.5))
        kept, before, added = a / b, 0.16 * (1 - b**2), 0.16 * (1 - (a / b) ** 2)
        mean = (b * (answer - Z_1) / before + kept * (start - Z_1) / added) / (1 / before + kept**2 / added)
        same(more, Z_1 + mean)


def test_ir_sde_finds_the_posterior():
    path = ir_sde_path(0.4)
    denoiser = pair_denoiser(PAIRS, path)

    def error(n, posterior):
        def run(noise):
            z = draw_state(path, X, X, 1.0, noise)
            times = log_snr_times(path, n, t_min=1e-2)
            return last(ir_sde(lambda z, t: denoiser(z, t, X), X, z, times, 0.4, posterior=posterior, noise=noise))

        return gaussian_w2(*affine_law(run, 2), ANSWER, LEFT)

    for posterior in (False, True):
        assert error(80, posterior) < 0.1 and error(80, posterior) < error(20, posterior) / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: indi(wrong, X, even(2), -1.0), "epsilon must not be negative, but -1.0 came"),
        (lambda: indi_path(math.nan), "epsilon must not be negative, but nan came"),
        (lambda: indi(wrong, X, torch.tensor([0.0, 1.0])), "times must decrease"),
        (lambda: i2sb(wrong, CLOCK, X[0], even(2)), r"z must be a floating-point batch of states \(B, ...\)"),
        (lambda: symmetric_clock(0.0), "beta_max must be a positive number, but 0.0 came"),
        (lambda: resshift(wrong, ETA, X, even(2), kappa=0.0), "kappa must be a positive number, but 0.0 came"),
        (lambda: resshift_clock(0), "steps must be a whole number of at least 1, but 0 came"),
        (lambda: resshift_clock(first=1.2), "first and last must obey 0 < first < last <= 1, but 1.2 and 0.99 came"),
        (lambda: ir_sde_path(0.0), "spread must be a positive number, but 0.0 came"),
        (lambda: ir_sde(wrong, X, X[:, :1], even(2), 0.4), r"z_1 and z must have the same shape"),
        (lambda: draw_state(indi_path(), X, X[:, :1], 0.5), r"z_0 and z_1 must have the same shape"),
        (lambda: draw_state(indi_path(1.0), X, X, 0.5), "noise must be handed in for a random step"),
        (lambda: cold_diffusion(wrong, CLOCK, X, even(2), 3), "algorithm must be 1 or 2, but 3 came"),
        (
            lambda: last(cold_diffusion(wrong, lambda z, t: z[:, :1], X, even(2))),
            r"corruption\(z_0, s\) and z must have the same shape",
        ),
        (lambda: soft_score(wrong, ve(), soft, X, even(2), 2.0), "eta must lie between 0 and 1, but 2.0 came"),
        (lambda: soft_score_loss(X, X[:, :1], soft, 0.5), "answer and z_0 must have the same shape"),
        (lambda: fade_corruption(X)(X[:, :1], 0.5), "z_0 and z_1 must have the same shape"),
        (lambda: blur_corruption(-1.0), "std must be a positive number, but -1.0 came"),
        (lambda: staged_corruption(()), "groups must count the channels of at least one group, but it is empty"),
        (lambda: staged_corruption((2, 0)), "groups must be a whole number of at least 1, but 0 came"),
        (lambda: staged_corruption((2, 1))(draw(1, 4, 2, 2), 0.5), "z_0 must have 3 channels, .* but 4 came"),
        (
            lambda: staged_corruption((1, 1))(draw(2, 2, 2, 2), torch.rand(3)),
            "times must be one number or one per sample",
        ),
        (lambda: pair_denoiser(Gaussian(torch.zeros(3), torch.eye(3)), ve()), "pairs must be a law of"),
        (lambda: pair_denoiser(PAIRS, ve())(draw(1, 3), 0.5), r"z must have shape \(B, 2\)"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
