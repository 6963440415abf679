"""Every step against Bayes' rule on Gaussians: its mean and variance, given where it starts.

A step is affine in its noise, so its law is exact: its mean is the step with zeros, its deviation what ones add.
"""

from __future__ import annotations

import pytest
import torch
from test_schedules import BUILT, every_schedule

from tutorial_lib.noise import standard_normal
from tutorial_lib.steps import bridge_step, ddim_step, forward_std, forward_step, langevin_step, posterior_std

PAIRS = [(0.9, 0.5), (0.5, 0.02), (0.02, 0.01), (1.0, 0.3)]
Z, Z_0 = standard_normal(0)(torch.empty(2, 3, 2, 4, 5, dtype=torch.float64))


def law(step, *args, **options):
    """Mean and standard deviation of step(..., noise=...)."""
    mean = step(*args, **options, noise=torch.zeros_like)
    spread = step(*args, **options, noise=torch.ones_like) - mean
    torch.testing.assert_close(spread, spread.mean().expand_as(spread))
    return mean, spread.mean()


def bayes(schedule, t, s):
    """q(z_s | z_t = Z, z_0 = Z_0): the product of q(z_t | z_s) and q(z_s | z_0), by completing the square."""
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
    kept = alpha_t / alpha_s
    added = sigma_t**2 - kept**2 * sigma_s**2
    precision = 1 / sigma_s**2 + kept**2 / added
    return (alpha_s * Z_0 / sigma_s**2 + kept * Z / added) / precision, precision**-0.5


def check_posterior(step, schedule, t, s):
    """The step with eta = 1 is the posterior."""
    mean, std = law(step, Z, Z_0, schedule, t, s, 1.0)
    expected_mean, expected_std = bayes(schedule, t, s)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(std, expected_std, rtol=1e-7, atol=1e-12)


def check_marginal(step, schedule, t, s, eta):
    """From z_t ~ q(z_t | z_0) the step leads to q(z_s | z_0), whatever eta."""
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
    centre, std = law(step, alpha_t * Z_0, Z_0, schedule, t, s, eta)
    torch.testing.assert_close(centre, alpha_s * Z_0, rtol=1e-9, atol=1e-9)
    moved, _ = law(step, alpha_t * Z_0 + sigma_t, Z_0, schedule, t, s, eta)
    variance = (moved - centre).mean() ** 2 + std**2
    torch.testing.assert_close(variance, sigma_s**2, rtol=1e-9, atol=1e-15)


def check_end(step, schedule):
    """The step to sigma = 0 gives z_0 and adds nothing."""
    mean, std = law(step, Z, Z_0, schedule, 0.01, 0.0, 1.0)
    assert std == 0
    torch.testing.assert_close(mean, Z_0, rtol=0, atol=1e-12)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_eta_1_is_the_posterior(schedule, t, s):
    check_posterior(ddim_step, schedule, t, s)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_marginals(schedule, t, s, eta):
    check_marginal(ddim_step, schedule, t, s, eta)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
def test_every_eta_has_the_moments_of_ddims_equation_12(schedule, t, s, eta):
    """Typed as arXiv 2010.02502 does: eta^2 beta-tilde of noise, the rest of sigma_s^2 along eps."""
    _, posterior_deviation = bayes(schedule, t, s)
    eps = (Z - schedule.alpha(t) * Z_0) / schedule.sigma(t)
    along = (schedule.sigma(s) ** 2 - eta**2 * posterior_deviation**2).clamp(min=0).sqrt()  # rounding
    mean, std = law(ddim_step, Z, Z_0, schedule, t, s, eta)
    torch.testing.assert_close(mean, schedule.alpha(s) * Z_0 + along * eps, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(std, eta * posterior_deviation, rtol=1e-7, atol=1e-12)


@every_schedule
@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_posterior_and_forward_deviations_belong_together(schedule, t, s):
    """beta-tilde = beta sigma_s^2 / sigma_t^2, and 1/beta-tilde adds up the precisions of both neighbours."""
    beta, tilde = forward_std(schedule, s, t) ** 2, posterior_std(schedule, t, s) ** 2
    torch.testing.assert_close(tilde, beta * (schedule.sigma(s) / schedule.sigma(t)) ** 2, rtol=1e-7, atol=0)
    torch.testing.assert_close(posterior_std(schedule, t, s), bayes(schedule, t, s)[1], rtol=1e-7, atol=0)
    if schedule is BUILT["vp_linear"]:
        assert beta.item() == pytest.approx(1 - ((schedule.alpha(t) / schedule.alpha(s)) ** 2).item(), rel=1e-9)
    assert posterior_std(schedule, t, 0.0) == 0


@every_schedule
def test_the_last_step_is_z_0_exactly_and_draws_nothing(schedule):
    check_end(ddim_step, schedule)

    def never(like):
        raise AssertionError("noise was drawn")

    assert torch.equal(ddim_step(Z, Z_0, schedule, 0.01, 0.0, 1.0, never), Z_0)


@every_schedule
def test_eta_multiplies_the_standard_deviation_of_the_posterior(schedule):
    full, half = (law(ddim_step, Z, Z_0, schedule, 0.6, 0.4, eta)[1] for eta in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2)


# Bugs that public code has had, each a step with the signature of ddim_step.


def variance_for_std(z, z_0, schedule, t, s, eta, noise):
    mean = ddim_step(z, z_0, schedule, t, s, eta, torch.zeros_like)
    std = ddim_step(z, z_0, schedule, t, s, eta, torch.ones_like) - mean
    return mean + std**2 * noise(z)


def previous_index_off_by_one(z, z_0, schedule, t, s, eta, noise):
    return ddim_step(z, z_0, schedule, t, s + 1e-3, eta, noise)


def noise_at_the_last_step(z, z_0, schedule, t, s, eta, noise):
    return ddim_step(z, z_0, schedule, t, max(s, 1e-3), eta, noise)


def whole_alpha_for_the_ratio(z, z_0, schedule, t, s, eta, noise):
    std = eta * schedule.sigma(s) * schedule.sigma(t)  # 1 - alpha_t^2 in place of 1 - (alpha_t / alpha_s)^2
    direction = (z - schedule.alpha(t) * z_0) / schedule.sigma(t)
    along = (schedule.sigma(s) ** 2 - std**2).clamp(min=0).sqrt()
    return schedule.alpha(s) * z_0 + along * direction + std * noise(z)


def flipped_direction(z, z_0, schedule, t, s, eta, noise):
    mean = ddim_step(2 * schedule.alpha(t) * z_0 - z, z_0, schedule, t, s, eta, torch.zeros_like)
    return mean + (
        ddim_step(z, z_0, schedule, t, s, eta, noise) - ddim_step(z, z_0, schedule, t, s, eta, torch.zeros_like)
    )


def eps_not_recomputed(z, z_0, schedule, t, s, eta, noise):
    """z_0 was changed (clipped, say) from Z_0 + 0.1, but the direction is still the old one's."""
    eps = (z - schedule.alpha(t) * (z_0 + 0.1)) / schedule.sigma(t)
    return ddim_step(z, z_0, schedule, t, s, eta, noise, eps)


MUTANTS = [
    variance_for_std,
    previous_index_off_by_one,
    whole_alpha_for_the_ratio,
    flipped_direction,
    eps_not_recomputed,
]


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize(("t", "s"), PAIRS[:3])
def test_known_bugs_are_not_the_posterior(mutant, t, s):
    with pytest.raises(AssertionError):
        check_posterior(mutant, BUILT["from_betas"], t, s)


@pytest.mark.parametrize("mutant", [variance_for_std, previous_index_off_by_one, eps_not_recomputed])
def test_known_bugs_change_the_marginals(mutant):
    with pytest.raises(AssertionError):
        check_marginal(mutant, BUILT["vp_linear"], 0.5, 0.3, 1.0)


def test_noise_at_the_last_step_is_noticed():
    with pytest.raises(AssertionError):
        check_end(noise_at_the_last_step, BUILT["vp_linear"])


def test_the_step_leaves_pure_noise():
    for name in ("flow", "vp_cosine", "zero_terminal_snr"):
        for eta in (0.0, 1.0):
            mean, std = law(ddim_step, Z, Z_0, BUILT[name], 1.0, 0.5, eta)
            assert mean.isfinite().all() and std.isfinite()


def test_an_eps_handed_in_is_followed():
    schedule = BUILT["vp_linear"]
    eps = torch.full_like(Z, 2.0)
    expected = schedule.alpha(0.3) * Z_0 + schedule.sigma(0.3) * 2
    torch.testing.assert_close(ddim_step(Z, Z_0, schedule, 0.5, 0.3, 0.0, None, eps), expected)
    own = (Z - schedule.alpha(0.5) * Z_0) / schedule.sigma(0.5)
    torch.testing.assert_close(
        ddim_step(Z, Z_0, schedule, 0.5, 0.3, 0.7, standard_normal(0), own),
        ddim_step(Z, Z_0, schedule, 0.5, 0.3, 0.7, standard_normal(0)),
    )


def test_without_noise_a_step_can_be_walked_back():
    schedule = BUILT["vp_cosine"]
    there = ddim_step(Z, Z_0, schedule, 0.3, 0.8)
    torch.testing.assert_close(ddim_step(there, Z_0, schedule, 0.8, 0.3), Z)


@every_schedule
def test_one_time_per_sample_is_one_step_per_sample(schedule):
    t, s = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.5, 0.4, 0.0])
    together = ddim_step(Z, Z_0, schedule, t, s, 0.5, torch.ones_like)
    for i in range(3):
        alone = ddim_step(Z[i : i + 1], Z_0[i : i + 1], schedule, t[i], s[i], 0.5, torch.ones_like)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_float32_states_stay_float32(channels):
    z, z_0 = standard_normal(0)(torch.empty(2, 2, channels, 3, 5))
    double = ddim_step(z.double(), z_0.double(), BUILT["vp_linear"], 0.5, 0.3, 1.0, torch.ones_like)
    found = ddim_step(z, z_0, BUILT["vp_linear"], 0.5, 0.3, 1.0, torch.ones_like)
    assert found.dtype == torch.float32 and found.shape == z.shape
    torch.testing.assert_close(found.double(), double, rtol=0, atol=2e-6)


def test_impossible_steps_are_refused():
    schedule, noise = BUILT["vp_linear"], standard_normal(0)
    with pytest.raises(ValueError, match="eta must lie between 0 and 1, but 1.5 came"):
        ddim_step(Z, Z_0, schedule, 0.5, 0.3, 1.5, noise)
    with pytest.raises(ValueError, match="must go to a cleaner time"):
        ddim_step(Z, Z_0, schedule, 0.3, 0.5, 1.0, noise)
    with pytest.raises(ValueError, match="must go to a cleaner time, but it goes from t = 0.3 to s = 0.5"):
        posterior_std(schedule, 0.3, 0.5)
    with pytest.raises(ValueError, match="noise must be handed in"):
        ddim_step(Z, Z_0, schedule, 0.5, 0.3, 1.0)
    with pytest.raises(ValueError, match="noise must be handed in"):
        langevin_step(Z, Z, 0.1, None)
    with pytest.raises(ValueError, match="must start where there is noise"):
        ddim_step(Z, Z_0, schedule, 0.0, 0.5)
    with pytest.raises(ValueError, match="z and z_0 must have the same shape"):
        ddim_step(Z, Z_0[:1], schedule, 0.5, 0.3)
    with pytest.raises(ValueError, match="going to a noisier time"):
        forward_step(Z, schedule, 0.5, 0.3, noise)
    with pytest.raises(ValueError, match="0 <= s < t"):
        bridge_step(Z, Z_0, 0.3, 0.5)
    with pytest.raises(ValueError, match="step_size must not be negative"):
        langevin_step(Z, Z, -0.1, noise)


@every_schedule
def test_forward_steps_compose_to_the_marginal(schedule):
    z, variance = Z_0, 0.0
    for s, t in [(0.0, 0.01), (0.01, 0.4), (0.4, 0.9)]:
        scale = (schedule.alpha(t) / schedule.alpha(s)) ** 2
        z, std = law(forward_step, z, schedule, s, t)
        variance = scale * variance + std**2
    torch.testing.assert_close(z, schedule.alpha(0.9) * Z_0)
    torch.testing.assert_close(variance, schedule.sigma(0.9) ** 2, rtol=1e-9, atol=0)


def test_a_bridge_with_variance_for_clock_is_variance_exploding_ddpm():
    schedule = BUILT["edm"]
    for t, s in PAIRS:
        found = law(bridge_step, Z, Z_0, schedule.sigma(t) ** 2, schedule.sigma(s) ** 2, 1.0)
        for ours, expected in zip(found, bayes(schedule, t, s), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)


def test_a_bridge_without_noise_is_ddim():
    schedule = BUILT["edm"]
    found = bridge_step(Z, Z_0, schedule.sigma(0.7), schedule.sigma(0.2))
    torch.testing.assert_close(found, ddim_step(Z, Z_0, schedule, 0.7, 0.2))


@pytest.mark.parametrize("kappa_squared", [0.5, 2.0])
def test_bridges_compose_to_brownian_motion(kappa_squared):
    """From z_t ~ N(z_0, kappa^2 t) steps lead to N(z_0, kappa^2 s), and to z_0 at the end."""
    variance = torch.tensor(kappa_squared, dtype=torch.float64)
    for t, s in [(1.0, 0.6), (0.6, 0.1)]:
        moved = bridge_step(Z_0 + 1, Z_0, t, s, kappa_squared, torch.zeros_like) - Z_0
        _, std = law(bridge_step, Z, Z_0, t, s, kappa_squared)
        variance = moved.mean() ** 2 * variance + std**2
        torch.testing.assert_close(variance, torch.tensor(kappa_squared * s, dtype=torch.float64))
    torch.testing.assert_close(bridge_step(Z, Z_0, 0.1, 0.0, kappa_squared), Z_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("step_size", "variance"), [(0.1, 1.0), (0.4, 0.25)])
def test_langevin_has_its_known_stationary_variance(step_size, variance):
    mean, std = law(langevin_step, Z, -Z / variance, step_size)
    gain = (mean / Z).mean()
    torch.testing.assert_close(mean, gain * Z)
    stationary = std**2 / (1 - gain**2)
    assert stationary.item() == pytest.approx(variance / (1 - step_size / (4 * variance)), rel=1e-12)
    half_convention = torch.tensor([step_size] * 3, dtype=torch.float64)
    torch.testing.assert_close(langevin_step(Z, -Z / variance, half_convention, torch.ones_like), mean + std)


# The other steps: mean and deviation given where they start, each check with bugs that it must see.


def check_forward(step, schedule, s, t):
    """q(z_t | z_s): with z_s ~ q(z_s | z_0) it must give q(z_t | z_0), and its mean must not depend on z_0."""
    mean, std = law(step, Z, schedule, s, t)
    torch.testing.assert_close(mean, schedule.alpha(t) / schedule.alpha(s) * Z, rtol=1e-9, atol=1e-12)
    kept = (mean / Z).mean() * schedule.sigma(s)
    torch.testing.assert_close(kept**2 + std**2, schedule.sigma(t) ** 2, rtol=1e-9, atol=0)


def check_bridge(step, t, s, kappa_squared):
    """Brownian motion from z_0 has covariance kappa^2 min(t, s): condition its value at s on that at t."""
    mean, std = law(step, Z, Z_0, t, s, kappa_squared)
    at_t, at_s, between = kappa_squared * t, kappa_squared * s, kappa_squared * min(t, s)
    torch.testing.assert_close(mean, Z_0 + between / at_t * (Z - Z_0))
    assert std.item() ** 2 == pytest.approx(at_s - between**2 / at_t, rel=1e-9)


def check_langevin(step, step_size):
    """z + (a/2) score + sqrt(a) noise, given z and the score."""
    mean, std = law(step, Z, Z_0, step_size)
    torch.testing.assert_close(mean, Z + step_size / 2 * Z_0)
    assert std.item() == pytest.approx(step_size**0.5, rel=1e-12)


@every_schedule
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.5), (0.5, 0.02), (0.02, 0.01)])
def test_the_forward_step_has_the_moments_of_the_chain(schedule, t, s):
    check_forward(forward_step, schedule, s, t)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.6), (7.0, 0.01), (0.5, 0.499)])
@pytest.mark.parametrize("kappa_squared", [0.3, 1.0, 4.0])
def test_the_bridge_step_has_the_moments_of_a_brownian_bridge(t, s, kappa_squared):
    check_bridge(bridge_step, t, s, kappa_squared)


@pytest.mark.parametrize("step_size", [1e-4, 0.1, 3.0])
def test_the_langevin_step_has_its_moments(step_size):
    check_langevin(langevin_step, step_size)


def forward_with_the_marginal_noise(z, schedule, s, t, noise):
    return schedule.alpha(t) / schedule.alpha(s) * z + schedule.sigma(t) * noise(z)


def forward_with_variance_for_std(z, schedule, s, t, noise):
    return schedule.alpha(t) / schedule.alpha(s) * z + forward_std(schedule, s, t) ** 2 * noise(z)


def forward_with_squared_ratio(z, schedule, s, t, noise):
    return (schedule.alpha(t) / schedule.alpha(s)) ** 2 * z + forward_std(schedule, s, t) * noise(z)


@pytest.mark.parametrize(
    "mutant", [forward_with_the_marginal_noise, forward_with_variance_for_std, forward_with_squared_ratio]
)
def test_broken_forward_steps_are_noticed(mutant):
    with pytest.raises(AssertionError):
        check_forward(mutant, BUILT["vp_linear"], 0.3, 0.5)


def bridge_with_variance_for_std(z, z_0, t, s, kappa_squared, noise):
    return z_0 + s / t * (z - z_0) + kappa_squared * s * (t - s) / t * noise(z)


def bridge_with_root_of_the_clock(z, z_0, t, s, kappa_squared, noise):
    return z_0 + (s / t) ** 0.5 * (z - z_0) + (kappa_squared * s * (t - s) / t) ** 0.5 * noise(z)


def bridge_with_kappa_for_kappa_squared(z, z_0, t, s, kappa_squared, noise):
    return bridge_step(z, z_0, t, s, kappa_squared**2, noise)


@pytest.mark.parametrize(
    "mutant", [bridge_with_variance_for_std, bridge_with_root_of_the_clock, bridge_with_kappa_for_kappa_squared]
)
def test_broken_bridges_are_noticed(mutant):
    with pytest.raises(AssertionError):
        check_bridge(mutant, 1.0, 0.6, 0.3)


def langevin_of_the_other_convention(z, score, a, noise):
    return z + a * score + (2 * a) ** 0.5 * noise(z)


def langevin_with_variance_for_std(z, score, a, noise):
    return z + a / 2 * score + a * noise(z)


def langevin_downhill(z, score, a, noise):
    return z - a / 2 * score + a**0.5 * noise(z)


@pytest.mark.parametrize(
    "mutant", [langevin_of_the_other_convention, langevin_with_variance_for_std, langevin_downhill]
)
def test_broken_langevin_steps_are_noticed(mutant):
    with pytest.raises(AssertionError):
        check_langevin(mutant, 0.1)


def test_one_time_per_sample_also_in_the_other_steps():
    t, s, schedule = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.5, 0.4, 0.1]), BUILT["vp_linear"]
    steps = {
        "forward": lambda z, z_0, t, s: forward_step(z, schedule, s, t, torch.ones_like),
        "bridge": lambda z, z_0, t, s: bridge_step(z, z_0, t, s, 0.7, torch.ones_like),
        "langevin": lambda z, z_0, t, s: langevin_step(z, z_0, t, torch.ones_like),
    }
    for step in steps.values():
        together = step(Z, Z_0, t, s)
        single = step(Z.float(), Z_0.float(), t, s)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), together, rtol=0, atol=2e-6)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], step(Z[i : i + 1], Z_0[i : i + 1], t[i], s[i]))
