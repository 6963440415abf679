"""The ELBO, discrete and in continuous time, against closed forms, torch's own divergences and scipy's quadrature.

On Gaussian data every term is quadratic in (z_0, eps), so a few points with the right mean and covariance give its
expectation exactly: no Monte Carlo, tolerances from rounding.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch.distributions import Normal, kl_divergence

from tutorial_lib.likelihood import (
    continuous_loss,
    elbo_terms,
    learned_schedule,
    likelihood_weight,
    optimal_variances,
    p2_weight,
    prior_kl,
    reconstruction_loss,
    simple_weight,
    step_kl,
)
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, convergence_order, denoiser_for, moment_residual
from tutorial_lib.schedules import (
    edm,
    flow,
    from_betas,
    karras_times,
    log_snr_times,
    sub_vp,
    uniform_times,
    ve,
    vp_cosine,
    vp_linear,
)
from tutorial_lib.steps import forward_step

BUILT = {
    "vp_linear": vp_linear(),
    "vp_cosine": vp_cosine(),
    "sub_vp": sub_vp(),
    "ve": ve(),
    "edm": edm(10),
    "flow": flow(),
    "from_betas": from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
}
every_schedule = pytest.mark.parametrize("name", BUILT)
DIM, SPREAD = 3, 0.3  # Gaussian data N(0, SPREAD I)
GAUSSIAN = Gaussian(torch.zeros(DIM, dtype=torch.float64), SPREAD * torch.eye(DIM, dtype=torch.float64))
ENTROPY = DIM / 2 * math.log(2 * math.pi * math.e * SPREAD)  # -E log p(z_0)
CROSS = math.sqrt(DIM) * torch.cat([torch.eye(DIM), -torch.eye(DIM)]).double()  # 6 points, mean 0 and covariance I
Z_0, EPS = math.sqrt(SPREAD) * CROSS.repeat_interleave(6, 0), CROSS.repeat(6, 1)  # every pair: (36, 3)
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[-0.8], [0.7]], dtype=torch.float64),
    torch.tensor([[[0.3]], [[0.2]]], dtype=torch.float64),
)


def given(like):
    return EPS.to(like)


def crooked(z, t, cond=None):
    """A denoiser that is nobody's exact one."""
    return (1.3 * z).tanh() + 0.2


# One step.


def transition(schedule, z_0, z_t, t, s):
    """q(z_s | z_t, z_0) by Bayes' rule in precisions, written without the package's own formulas."""
    alpha_t, sigma_t, alpha_s, sigma_s = (f(x).item() for x in (t, s) for f in (schedule.alpha, schedule.sigma))
    ratio = alpha_t / alpha_s
    forward = sigma_t**2 - (ratio * sigma_s) ** 2
    tilde = 1 / (ratio**2 / forward + 1 / sigma_s**2)
    return tilde * (ratio / forward * z_t + alpha_s / sigma_s**2 * z_0), tilde, forward


def model_variance(name, tilde, forward):
    third = math.exp(math.log(forward) / 3 + math.log(tilde) * 2 / 3)
    return {"posterior": tilde, "beta": forward, "fraction": third, "given": 0.04}[name]


VARIANCES = {
    "posterior": "posterior",
    "beta": "beta",
    "fraction": lambda z, t, s: 1 / 3,
    "given": torch.tensor(0.04, dtype=torch.float64),
}


def check_step(function, name, kind, channels=2):
    """KL of each number by torch.distributions, summed over the image."""
    schedule, t, s = BUILT[name], 0.6, 0.45
    z_0, eps = (standard_normal(seed)(torch.empty(4, channels, 2, 3, dtype=torch.float64)) for seed in (0, 1))
    found = function(crooked, schedule, z_0, t, s, lambda like: eps, VARIANCES[kind])
    z_t = schedule.alpha(t) * z_0 + schedule.sigma(t) * eps
    mean, tilde, forward = transition(schedule, z_0, z_t, t, s)
    guess, _, _ = transition(schedule, crooked(z_t, t), z_t, t, s)
    variance = model_variance(kind, tilde, forward)
    expected = kl_divergence(Normal(mean, math.sqrt(tilde)), Normal(guess, math.sqrt(variance))).sum((1, 2, 3))
    assert found.shape == (4,) and torch.allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("kind", VARIANCES)
@every_schedule
def test_a_step_costs_the_kl_of_torch(name, kind):
    check_step(step_kl, name, kind)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_step_of_any_channels(channels):
    check_step(step_kl, "vp_linear", "fraction", channels)


def wrong_step(swapped=False, mean=False, constant=True):
    """The step written anew, with one of the bugs."""

    def function(denoiser, schedule, z_0, t, s, noise, variance):
        z_t = forward_step(z_0, schedule, 0.0, t, noise)
        mean_q, tilde, forward = transition(schedule, z_0, z_t, t, s)
        mean_p, _, _ = transition(schedule, denoiser(z_t, t), z_t, t, s)
        q, p = tilde, model_variance("beta", tilde, forward)
        q, p = (p, q) if swapped else (q, p)
        each = (mean_q - mean_p) ** 2 / (2 * p) + constant * (q / p - 1 - math.log(q / p)) / 2
        return each.mean((1, 2, 3)) if mean else each.sum((1, 2, 3))

    return function


def test_the_step_of_the_mutants_passes_when_right():
    check_step(wrong_step(), "vp_linear", "beta")


@pytest.mark.parametrize(
    "bug", [{"swapped": True}, {"mean": True}, {"constant": False}], ids=lambda bug: next(iter(bug))
)
def test_known_bugs_are_not_the_kl(bug):
    with pytest.raises(AssertionError):
        check_step(wrong_step(**bug), "vp_linear", "beta")


@every_schedule
def test_with_beta_tilde_a_step_costs_the_gain_in_snr_times_half_the_squared_error(name):
    schedule, t, s = BUILT[name], 0.5, torch.linspace(0.1, 0.4, 36, dtype=torch.float64)
    found = step_kl(crooked, schedule, Z_0, t, s, given)
    z = schedule.alpha(t) * Z_0 + schedule.sigma(t) * EPS
    gain = schedule.log_snr(s).exp() - schedule.log_snr(t).exp()
    assert torch.allclose(found, gain / 2 * (crooked(z, t) - Z_0).square().sum(1), rtol=1e-9)


@pytest.mark.parametrize("prior_std", [None, 0.7])
@every_schedule
def test_the_start_costs_the_kl_of_torch(name, prior_std):
    schedule = BUILT[name]
    alpha, sigma = schedule.alpha(0.9), schedule.sigma(0.9)
    model = Normal(0, sigma if prior_std is None else torch.tensor(prior_std, dtype=torch.float64))
    expected = kl_divergence(Normal(alpha * Z_0, sigma), model).sum(1)
    assert torch.allclose(prior_kl(schedule, Z_0, 0.9, prior_std), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance", [None, 0.09])
def test_the_last_step_costs_the_density_of_torch(variance):
    schedule, t = BUILT["flow"], 0.3
    z = 0.7 * Z_0 + 0.3 * EPS
    std = 0.3 if variance is None else math.sqrt(variance)
    expected = -Normal(crooked(z, t), std).log_prob(Z_0).sum(1)
    assert torch.allclose(reconstruction_loss(crooked, schedule, Z_0, t, given, variance), expected, rtol=1e-10)


# The whole discrete ELBO.


def closed_variances(schedule, times):
    """Var(z_s | z_t) of Gaussian data, from the joint covariance of z_s and z_t; the last is that of z_0."""
    found = []
    for t, s in zip(times[:-1], times[1:], strict=True):
        total_s = schedule.alpha(s) ** 2 * SPREAD + schedule.sigma(s) ** 2
        total_t = schedule.alpha(t) ** 2 * SPREAD + schedule.sigma(t) ** 2
        found.append(total_s - (schedule.alpha(t) / schedule.alpha(s) * total_s) ** 2 / total_t)
    return torch.stack(found)


def exact_std(schedule, t):
    return (schedule.alpha(t) ** 2 * SPREAD + schedule.sigma(t) ** 2).sqrt().item()


def run_elbo(name, times, *args, **options):
    return elbo_terms(denoiser_for(GAUSSIAN, BUILT[name]), BUILT[name], Z_0, times, given, *args, **options)


GRIDS = {
    "one": lambda schedule: uniform_times(1, 0.9),
    "uniform": lambda schedule: uniform_times(7, 0.95),
    "log_snr": lambda schedule: log_snr_times(schedule, 6, 0.95),
    "karras": lambda schedule: karras_times(schedule, 5, t_max=0.9),
}


@pytest.mark.parametrize("grid", GRIDS)
@every_schedule
def test_with_the_optimal_variances_the_elbo_is_the_likelihood_at_any_number_of_steps(name, grid):
    schedule, times = BUILT[name], GRIDS[grid](BUILT[name])
    found = run_elbo(name, times, closed_variances(schedule, times), prior_std=exact_std(schedule, times[0]))
    assert found.steps.shape == (36, len(times) - 2)
    assert found.total.mean().item() == pytest.approx(ENTROPY, rel=1e-7)


def steps_gap(optimal, variance):
    """What another variance costs: KL between Gaussians of equal mean, per step."""
    ratio = optimal / variance
    return DIM / 2 * (ratio - 1 - ratio.log())


def exact_gap(schedule, times, kind):
    """-ELBO - entropy in closed form: the start's KL, every step's, the last one's."""
    optimal, taken = closed_variances(schedule, times), []
    for t, s in zip(times[:-1], times[1:], strict=True):
        if s == 0:
            taken.append(schedule.sigma(t) ** 2)
            continue
        _, tilde, forward = transition(schedule, 0.0, 0.0, t, s)
        taken.append(torch.tensor(model_variance(kind, tilde, forward), dtype=torch.float64))
    start = kl_divergence(Normal(0.0, exact_std(schedule, times[0])), Normal(0.0, schedule.sigma(times[0])))
    return (DIM * start + steps_gap(optimal, torch.stack(taken)).sum()).item()


@pytest.mark.parametrize("kind", ["posterior", "beta", "fraction"])
@pytest.mark.parametrize("grid", GRIDS)
@every_schedule
def test_the_gap_is_the_kl_of_each_step_and_never_negative(name, grid, kind):
    times = GRIDS[grid](BUILT[name])
    gap = run_elbo(name, times, VARIANCES[kind]).total.mean().item() - ENTROPY
    assert gap == pytest.approx(exact_gap(BUILT[name], times, kind), rel=1e-5, abs=1e-7) and gap > 0


@pytest.mark.parametrize("kind", ["posterior", "beta"])
def test_the_gap_falls_like_1_over_n(kind):
    """The variances' share of it: start and last step are the same for every n."""
    schedule = BUILT["vp_linear"]

    def error(n):
        times = log_snr_times(schedule, n, 0.95, 1e-3)
        optimal = run_elbo("vp_linear", times, closed_variances(schedule, times)).steps
        return (run_elbo("vp_linear", times, kind).steps.sum(1) - optimal.sum(1)).mean().item()

    assert convergence_order(error, [80, 160, 320]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["posterior", "beta", "fraction"])
def test_on_a_mixture_the_elbo_costs_more_than_the_entropy_less_with_more_steps(kind):
    """Means over noise and data by quadrature, the same nodes at every step: each term depends on one draw only.

    In the mean only: a chain of a few steps has a density of its own, larger than the true one here and there.
    """
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(40))
    grid = torch.linspace(-3.5, 3.5, 101, dtype=torch.float64)[:, None]
    mass, z_0, eps = MIXTURE.log_prob(grid).exp() * 0.07, grid.repeat_interleave(40, 0), nodes.repeat(101)[:, None]
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    gaps = []
    for n in (10, 20, 40):
        args = (denoiser_for(MIXTURE, vp_cosine()), vp_cosine(), z_0, uniform_times(n), lambda like: eps)
        cost = elbo_terms(*args, VARIANCES[kind]).total.reshape(101, 40) @ weights / weights.sum()
        gaps.append((mass @ (cost + MIXTURE.log_prob(grid))).item())
    assert 1e-3 < gaps[2] < 0.8 * gaps[1] < 0.64 * gaps[0]


def check_sampled(function):
    """One step a sample, chosen in turn: over all indices the mean is the full sum when the noise is the same."""
    times = uniform_times(6, 0.95)
    full = function("vp_linear", times, "beta").steps.sum(1)
    found = [function("vp_linear", times, "beta", index=torch.full((36,), i)) for i in range(5)]
    assert all(terms.steps.shape == (36, 1) for terms in found)
    assert torch.allclose(torch.stack([terms.steps[:, 0] for terms in found]).mean(0), full, rtol=1e-10)


def test_the_sampled_elbo_is_unbiased():
    check_sampled(run_elbo)
    mixed = run_elbo("vp_linear", uniform_times(6, 0.95), index=torch.arange(36) % 5).steps[:, 0]
    single = run_elbo("vp_linear", uniform_times(6, 0.95)).steps
    assert torch.allclose(mixed, 5 * single[torch.arange(36), torch.arange(36) % 5], rtol=1e-10)


def test_the_number_of_steps_forgotten_is_noticed():
    def forgotten(*args, index=None):
        terms = run_elbo(*args, index=index)
        return terms if index is None else terms._replace(steps=terms.steps / 5)

    with pytest.raises(AssertionError):
        check_sampled(forgotten)


def test_one_call_a_step_and_shapes_and_gradients():
    weight = torch.tensor(0.9, requires_grad=True)
    fraction = torch.tensor([[0.3], [0.6]], requires_grad=True).reshape(1, 2, 1, 1)
    asked = []

    def network(z, t, cond=None):
        asked.append(t)
        return weight * z

    z_0 = standard_normal(0)(torch.empty(3, 2, 4, 5))
    noise = standard_normal(1)
    found = elbo_terms(network, vp_linear(), z_0, uniform_times(4), noise, lambda z, t, s: fraction)
    assert len(asked) == 4 and found.steps.shape == (3, 3) and found.total.shape == (3,)
    assert found.total.dtype == torch.float32
    assert all(part.abs().sum() > 0 for part in torch.autograd.grad(found.total.sum(), (weight, fraction)))


def test_no_sample_knows_its_batch_mates():
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    z_0 = standard_normal(5)(torch.empty(3, 2, 4, 5))
    together = elbo_terms(crooked, vp_cosine(), z_0, uniform_times(4), standard_normal(generators)).total
    alone = standard_normal([torch.Generator().manual_seed(1)])
    assert torch.allclose(elbo_terms(crooked, vp_cosine(), z_0[1:2], uniform_times(4), alone).total, together[1:2])


# Optimal variances.


def test_optimal_variances_are_the_least_of_the_step_and_analytic_dpms():
    """Against a search over variances, for data that are not Gaussian; and against the published formula in E|eps|^2."""
    schedule, times = vp_linear(), uniform_times(5, 0.95)
    z_0 = MIXTURE.sample(500)
    eps = standard_normal(3)(z_0)
    denoiser = denoiser_for(MIXTURE, schedule)
    found = optimal_variances(denoiser, schedule, z_0, times, lambda like: eps)
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):

        def cost(log_variance, t=t, s=s):
            variance = torch.tensor(math.exp(log_variance), dtype=torch.float64)
            if s == 0:
                return reconstruction_loss(denoiser, schedule, z_0, t, lambda like: eps, variance).mean().item()
            return step_kl(denoiser, schedule, z_0, t, s, lambda like: eps, variance).mean().item()

        best = optimize.minimize_scalar(cost, bounds=(-15, 3), method="bounded", options={"xatol": 1e-9}).x
        assert found[i].item() == pytest.approx(math.exp(best), rel=1e-5)


def test_for_an_exact_denoiser_optimal_variances_are_analytic_dpms():
    """beta-tilde + c^2 (sigma^2 / alpha^2) (1 - E|eps_hat|^2 / D), c by Bayes' rule; and Var(z_s | z_t) of Gaussian data."""
    schedule, times = vp_cosine(), log_snr_times(vp_cosine(), 6, 0.95)
    denoiser = denoiser_for(GAUSSIAN, schedule)
    found = optimal_variances(denoiser, schedule, Z_0, times, given)
    assert torch.allclose(found, closed_variances(schedule, times), rtol=1e-8)
    for i, (t, s) in enumerate(zip(times[:-2], times[1:-1], strict=True)):
        z = schedule.alpha(t) * Z_0 + schedule.sigma(t) * EPS
        eps_hat = (z - schedule.alpha(t) * denoiser(z, t)) / schedule.sigma(t)
        c, tilde, _ = transition(schedule, 1.0, 0.0, t, s)
        rest = schedule.log_snr(t).neg().exp() * (1 - eps_hat.square().mean())
        assert found[i].item() == pytest.approx((tilde + c**2 * rest).item(), rel=1e-7)


# Continuous time.


def rate(name, t, **options):
    """Expected nats per unit of time on the Gaussian."""
    schedule = BUILT[name] if isinstance(name, str) else name
    return continuous_loss(denoiser_for(GAUSSIAN, schedule), schedule, Z_0, t, given, **options).mean().item()


@every_schedule
def test_the_rate_integrates_to_the_information_between_the_ends(name):
    """(D/2) log((1 + v SNR_min) / (1 + v SNR_max)) for any schedule: only the ends count."""
    schedule = BUILT[name]
    low, high = (1 + SPREAD * schedule.log_snr(t).exp().item() for t in (0.95, 0.01))
    nodes, weights = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(4))
    left = torch.arange(10, 950, dtype=torch.float64)[:, None] / 1000  # from_betas has a corner every 1/1000
    t = (left + (nodes + 0.5) / 1000).reshape(-1).repeat_interleave(36)
    eps = EPS.repeat(len(t) // 36, 1)
    args = (denoiser_for(GAUSSIAN, schedule), schedule, Z_0.repeat(len(t) // 36, 1), t, lambda like: eps)
    rates = continuous_loss(*args).reshape(940, 4, 36).mean(2)
    assert (rates @ weights).sum().item() / 1000 == pytest.approx(DIM / 2 * math.log(high / low), rel=1e-6)


@pytest.mark.parametrize("name", ["vp_linear", "vp_cosine", "edm"])
def test_the_integral_is_scipys(name):
    schedule = BUILT[name]
    low, high = (1 + SPREAD * schedule.log_snr(t).exp().item() for t in (0.95, 0.01))
    found = integrate.quad(lambda t: rate(name, t), 0.01, 0.95, epsrel=1e-9)[0]
    assert found == pytest.approx(DIM / 2 * math.log(high / low), rel=1e-7)


def test_the_steps_tend_to_the_integral_like_1_over_n():
    schedule = vp_cosine()
    low, high = (1 + SPREAD * schedule.log_snr(t).exp().item() for t in (0.95, 1e-2))

    def error(n):
        times = log_snr_times(schedule, n, 0.95, 1e-2)
        return run_elbo("vp_cosine", times).steps.sum(1).mean().item() - DIM / 2 * math.log(high / low)

    assert convergence_order(error, [80, 160, 320]) == pytest.approx(1, abs=0.05)


def test_start_rate_and_reconstruction_make_up_the_likelihood_of_every_sample():
    """A mixture, sample by sample: expectations over eps and log_snr by Gauss quadrature; vp_cosine ends in pure noise."""
    schedule, t_min = vp_cosine(), 1e-4
    denoiser = denoiser_for(MIXTURE, schedule)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    levels, level_weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(60))
    low, high = -30.0, schedule.log_snr(t_min).item()
    levels, level_weights = low + (high - low) / 2 * (levels + 1), (high - low) / 2 * level_weights
    times = schedule.time_at(levels)
    slopes = torch.tensor([1 / simple_weight(schedule)(level).item() for level in levels])
    for z in (-1.5, -0.2, 0.9):
        total = prior_kl(schedule, torch.tensor([[z]]).double())
        for weight, t in ((level_weights / slopes, times), (None, torch.tensor([t_min]).double())):
            z_0 = torch.full((len(t) * len(nodes), 1), z, dtype=torch.float64)
            eps, t = nodes.repeat(len(t))[:, None], t.repeat_interleave(len(nodes))
            args = (denoiser, schedule, z_0, t, lambda like, eps=eps: eps)
            cost = reconstruction_loss(*args) if weight is None else continuous_loss(*args)
            mean = cost.reshape(-1, len(nodes)) @ weights / weights.sum()
            total = total + (mean if weight is None else mean @ weight)
        exact = -MIXTURE.log_prob(torch.tensor([[z]]).double())
        assert total.item() == pytest.approx(exact.item(), abs=1e-4)


def test_weights_turn_the_rate_into_the_losses_of_the_papers():
    """eps with uniform t; g^2 |score error|^2 / 2; and the ELBO itself with weight 1."""
    for schedule in BUILT.values():
        t = torch.linspace(0.0503, 0.9507, 36, dtype=torch.float64)
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        z = alpha * Z_0 + sigma * EPS
        eps_error = (alpha * (Z_0 - crooked(z, t)) / sigma).square().sum(1)
        plain = continuous_loss(crooked, schedule, Z_0, t, given)
        simple = continuous_loss(crooked, schedule, Z_0, t, given, simple_weight(schedule))
        weighted = continuous_loss(crooked, schedule, Z_0, t, given, likelihood_weight)
        assert torch.allclose(simple, eps_error / 2, rtol=1e-6)
        assert torch.equal(weighted, plain)
        assert torch.allclose(plain, schedule.diffusion(t) ** 2 / 2 * eps_error / sigma[:, 0] ** 2, rtol=1e-6)


def check_p2(weight):
    """Times |eps - eps_hat|^2 / 2 at uniform t: (k + SNR)^-gamma; for DDPM's table and gamma = k = 1 that is 1 - alpha-bar."""
    schedule = BUILT["from_betas"]
    steps = torch.tensor([1, 50, 250, 500], dtype=torch.float64)
    log_snr = schedule.log_snr((steps - 0.5) / 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = torch.cat([torch.ones(1).double(), (1 - betas).cumprod(0)])
    middle = (kept[:-1] * kept[1:]).sqrt()[steps.long() - 1]  # alpha^2 half-way between two knots
    for gamma, k in ((1.0, 1.0), (0.5, 1.0), (2.0, 3.0), (0.0, 1.0)):
        expected = (k + middle / (1 - middle)) ** -gamma
        found = weight(schedule, gamma, k)(log_snr) / simple_weight(schedule)(log_snr)
        assert torch.allclose(found, expected, rtol=1e-5)


def test_p2_divides_the_loss_of_eps_by_k_plus_snr():
    check_p2(p2_weight)
    t = torch.linspace(0.05, 0.95, 36, dtype=torch.float64)
    alpha, sigma = BUILT["vp_cosine"].alpha(t)[:, None], BUILT["vp_cosine"].sigma(t)[:, None]
    eps_error = (alpha * (Z_0 - crooked(alpha * Z_0 + sigma * EPS, t)) / sigma).square().sum(1)
    args = (crooked, BUILT["vp_cosine"], Z_0, t, given, p2_weight(BUILT["vp_cosine"]))
    assert torch.allclose(continuous_loss(*args), sigma[:, 0] ** 2 * eps_error / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda schedule, gamma, k: lambda level: (k + level.exp()) ** -gamma,
        lambda schedule, gamma, k: lambda level: simple_weight(schedule)(level) * (k + level.exp()) ** gamma,
        lambda schedule, gamma, k: lambda level: simple_weight(schedule)(level) / (k + level) ** gamma,
    ],
    ids=["on the elbo's terms", "multiplied", "log_snr for snr"],
)
def test_a_wrong_p2_is_noticed(wrong):
    with pytest.raises(AssertionError):
        check_p2(wrong)


def test_at_pure_noise_the_rate_is_finite():
    """alpha(1) = 0: log_snr is -inf there, the slope of the SNR is not, and eps is known exactly."""
    for name in ("vp_cosine", "flow"):
        assert math.isfinite(rate(name, 1.0))
        assert rate(name, 1.0, weight=simple_weight(BUILT[name])) == 0


# Learned schedules.


LOGITS = torch.tensor([0.0, 1.5, -1.0, 0.5, -0.5], dtype=torch.float64)


def test_a_learned_schedule_is_monotone_between_its_ends():
    schedule = learned_schedule(LOGITS, 8.0, -6.0)
    t = torch.linspace(0.001, 1, 400, dtype=torch.float64)
    assert (schedule.log_snr(t).diff() < 0).all()
    assert schedule.log_snr(1.0).item() == pytest.approx(-6) and schedule.log_snr(1e-9).item() == pytest.approx(8)
    assert schedule.alpha(0.0) == 1 and schedule.sigma(0.0) == 0
    assert torch.allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t))
    shares = LOGITS.softmax(0).cumsum(0)
    assert torch.allclose(schedule.log_snr((torch.arange(5) + 1) / 5), 8 - 14 * shares)
    assert moment_residual(schedule) < 1e-4  # its corners cost the grid of the integration a digit
    assert torch.allclose(learned_schedule(torch.zeros(3)).log_snr(t), 13.3 - 18.3 * t)


def moments(logits, count=200):
    """Mean and variance over t (midpoints) and eps of the rate on the Gaussian, with gradients to the logits."""
    schedule = learned_schedule(logits, 8.0, -6.0)
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z_0, eps = Z_0.repeat(count, 1), EPS.repeat(count, 1)
    args = (denoiser_for(GAUSSIAN, schedule), schedule, z_0, t.repeat_interleave(36), lambda like: eps)
    losses = continuous_loss(*args)
    return losses.mean(), losses.var()


def test_between_its_ends_the_schedule_changes_the_variance_and_not_the_elbo():
    expected = DIM / 2 * math.log((1 + SPREAD * math.exp(8)) / (1 + SPREAD * math.exp(-6)))
    even, crooked_mean = (moments(logits) for logits in (torch.zeros(5).double(), LOGITS))
    assert even[0].item() == pytest.approx(expected, rel=1e-4)
    assert crooked_mean[0].item() == pytest.approx(expected, rel=1e-3)
    assert max(even[1], crooked_mean[1]) > 1.5 * min(even[1], crooked_mean[1])


def test_gradients_reach_the_schedule_and_lower_its_variance():
    logits = LOGITS.clone().requires_grad_()
    mean, variance = moments(logits)
    of_mean, of_variance = (torch.autograd.grad(part, logits, retain_graph=True)[0] for part in (mean, variance))
    assert of_mean.abs().max() / mean < 1e-2 < of_variance.abs().max() / variance
    start = variance.item()
    optimiser = torch.optim.Adam([logits], 0.1)
    for _ in range(25):
        optimiser.zero_grad()
        moments(logits, 50)[1].backward()
        optimiser.step()
    assert moments(logits.detach())[1] < 0.8 * start


def test_without_a_learned_schedule_the_rate_carries_no_gradient():
    assert not continuous_loss(crooked, vp_linear(), Z_0, 0.4, given).requires_grad


# Bad input.


IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
VP = vp_linear()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3)[:-1], given), "times must end at 0"),
        (lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), given, "betas"), "did you mean 'beta'"),
        (
            lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), given, torch.ones(2)),
            "variance must hold one number",
        ),
        (
            lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), torch.randn_like, -torch.ones(3)),
            "positive numbers",
        ),
        (
            lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), torch.zeros_like, lambda z, t, s: 2),
            "between 0 and 1",
        ),
        (lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), torch.zeros_like, levels=256), "must hold k = 256"),
        (
            lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), given, prior_std=-1.0),
            "prior_std must be a positive",
        ),
        (
            lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), given, index=torch.tensor([0, 2])),
            "index must hold",
        ),
        (lambda: elbo_terms(crooked, VP, IMAGES, uniform_times(3), given, index=torch.zeros(2)), "index must hold"),
        (lambda: elbo_terms(lambda z, t: z[0], VP, IMAGES, uniform_times(3), torch.zeros_like), "denoiser's output"),
        (lambda: step_kl(crooked, VP, IMAGES, 0.5, 0.0, torch.zeros_like), "s must be a time with noise"),
        (lambda: step_kl(crooked, VP, IMAGES, 0.5, 0.6, torch.zeros_like), "0.6"),
        (lambda: continuous_loss(crooked, VP, IMAGES, 0.0, torch.zeros_like), "t must be a time with noise"),
        (lambda: p2_weight(VP, gamma=-1.0), "gamma must not be negative"),
        (lambda: p2_weight(VP, k=0.0), "k must be a positive number"),
        (lambda: learned_schedule(torch.zeros(2, 2)), "logits must be a floating-point tensor"),
        (lambda: learned_schedule(torch.zeros(2), -1, 3), "log_snr_max must be above"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
