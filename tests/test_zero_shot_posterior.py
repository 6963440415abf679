"""Zero-shot methods against the exact posterior of Gaussian priors: what converges to it, at which order, and what never does.

`affine_law` gives the exact law of what an affine method draws, so every number here is exact, without Monte Carlo.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tutorial_lib import guidance
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Dense, Identity
from tutorial_lib.oracles import Gaussian, affine_law, convergence_order, denoiser_for, gaussian_w2
from tutorial_lib.samplers import ddpm, last
from tutorial_lib.schedules import Schedule, from_betas, log_snr_times, uniform_times, vp_linear
from tutorial_lib.zero_shot import ddnm, ddrm, diffpir, dps, gdp, ilvr, pigdm, repaint, snips

double = torch.float64
VP = vp_linear()
DDPM = from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=double))


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def eye(n):
    return torch.eye(n, dtype=double)


PAIR = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=double))
FIRST, ONE = Dense(torch.tensor([[1.0, 0.0]])), torch.ones(1, 1, dtype=double)
FOUR = Gaussian(torch.zeros(4, dtype=double), eye(4))
WIDE, SEEN = Dense(draw(2, 4)), draw(1, 2, seed=1)


def law(method, prior, operator, x, noise_std, times, schedule=VP, start=None):
    """Exact mean and covariance of the sample, from sigma noise or from a start of the method's own (start=False)."""
    denoiser = denoiser_for(prior, schedule)

    def run(noise):
        z = None if start is False else schedule.sigma(times[0]) * noise(prior.mean[None])
        return last(method(denoiser, schedule, operator, x, noise_std, times, z, noise=noise)).reshape(1, -1)

    return affine_law(run, prior.size)


def distance(method, prior, operator, x, noise_std, times, schedule=VP):
    """Exact W2 between what a method draws and the posterior."""
    posterior = prior.posterior(operator, x, noise_std)
    mean, covariance = law(method, prior, operator, x, noise_std, times, schedule)
    return gaussian_w2(mean, covariance, posterior.mean.flatten(), posterior.covariance)


def deaf(method):
    """A method as published that does not know of the noise in x."""
    return lambda denoiser, schedule, operator, x, noise_std, times, z, **options: method(
        denoiser, schedule, operator, x, 0.0, times, z, **options
    )


# Distances recorded before this code was written, with other code: prior with correlation 0.9, first entry observed as 1,
# 20 and 100 even steps of the linear schedule; without noise and with noise_std = 0.3.
RECORDED = {
    "pigdm": (pigdm, {20: (0.088, 0.121), 100: (0.048, 0.069)}),
    "ddnm": (deaf(ddnm), {20: (0.133, 0.314), 100: (0.026, 0.315)}),
    "ddnm, eta_total": (deaf(partial(ddnm, eta_total=0.85)), {20: (0.175, 0.322), 100: (0.063, 0.320)}),
    "dps squared": (partial(dps, scale=0.1, squared=True), {20: (0.645, 0.445), 100: (0.097, 0.274)}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_distances_are_those_on_record(name):
    method, record = RECORDED[name]
    for steps, (clean, noisy) in record.items():
        assert distance(method, PAIR, FIRST, ONE, 0.0, uniform_times(steps)) == pytest.approx(clean, abs=1.5e-3)
        assert distance(method, PAIR, FIRST, ONE, 0.3, uniform_times(steps)) == pytest.approx(noisy, abs=1.5e-3)


def test_the_control_is_the_exact_denoiser_of_the_posterior():
    for noise_std, record in ((0.0, {20: 0.105, 100: 0.031}), (0.3, {20: 0.140, 100: 0.042})):
        posterior = PAIR.posterior(FIRST, ONE, noise_std)
        for steps, expected in record.items():

            def run(noise, steps=steps, posterior=posterior):
                z = noise(torch.empty(1, 2, dtype=double))
                return last(ddpm(denoiser_for(posterior, VP), VP, z, uniform_times(steps), noise=noise))

            found = gaussian_w2(*affine_law(run, 2), posterior.mean, posterior.covariance)
            assert found == pytest.approx(expected, abs=1.5e-3)


def order(method, prior, operator, x, noise_std, grid=uniform_times, counts=(20, 40, 80)):
    return convergence_order(lambda n: distance(method, prior, operator, x, noise_std, grid(n)), counts)


def even_in_log_snr(n):
    return log_snr_times(VP, n)


def pooled():
    """A smooth law of images of 1 x 2 x 4 pixels, one pooled measurement."""
    root = draw(8, 8, seed=4) / 3
    prior = Gaussian(0.3 * draw(1, 2, 4, seed=5), root @ root.T + 0.05 * eye(8), (1, 2, 4))
    return prior, AveragePool(2), AveragePool(2)(prior.sample(1, standard_normal(2)))


def test_ddnm_finds_the_posterior_at_first_order_without_noise():
    """Measured on PAIR .133, .064, .032, on a pooled law .36, .21, .12, .068 at 160; the code's eta_total stays off."""
    for problem, least in ((pooled(), 0.75), ((PAIR, FIRST, ONE), 0.9)):
        assert least < order(ddnm, *problem, 0.0) < 1.4
    assert order(partial(ddnm, eta_total=0.85), *pooled(), 0.0, even_in_log_snr, (40, 80)) < 0.3


def from_corrected(denoiser, schedule, operator, x, noise_std, times, z, noise):
    """DDNM whose direction is recomputed from the corrected z_0, as after clipping: wrong here."""

    def corrected(z, t):
        guess = denoiser(z, t)
        return guess + operator.pinv(x - operator(guess))

    return ddpm(corrected, schedule, z, times, noise=noise)


def test_ddnm_with_the_direction_of_the_corrected_estimate_stays_off():
    assert order(from_corrected, *pooled(), 0.0, counts=(40, 80)) < 0.3


def test_ddnm_plus_never_finds_the_posterior():
    assert min(distance(ddnm, PAIR, FIRST, ONE, 0.3, uniform_times(n)) for n in (20, 100)) > 0.25  # 0.33 at 1000


def test_ddrm_gets_worse_with_more_steps():
    """On N(0, 1), noise_std = 1, the posterior has gain and variance 1/2; on record (.58, .12) at its own 20 steps."""
    prior = Gaussian(torch.zeros(1, dtype=double), eye(1))

    def gain_and_variance(schedule, times):
        (one, variance), (zero, _) = (
            law(ddrm, prior, Identity(), torch.full((1, 1), y, dtype=double), 1.0, times, schedule, False)
            for y in (1.0, 0.0)
        )
        return (one - zero).item(), variance.item()

    ladder = Schedule(torch.ones_like, lambda t: torch.where(t > 0, 0.01 * 1e4**t, 0.0))  # 100 down to 0.01, then 0
    gain, variance = gain_and_variance(ladder, uniform_times(20, 1.0, 1e-9))
    assert gain == pytest.approx(0.58, abs=0.005) and variance == pytest.approx(0.12, abs=0.005)
    errors = [abs(gain_and_variance(VP, uniform_times(n))[0] - 0.5) for n in (20, 50, 150)]
    assert errors[0] < errors[1] < errors[2] and errors[2] > 0.2


def test_ddrm_that_compares_with_noise_std_drops_the_measurement():
    """A library's DDRM: at noise_std = 0.5 its gain is 0.016 where 0.8 is exact; ours, on the same steps, is near 0.8."""
    prior = Gaussian(torch.zeros(1, dtype=double), eye(1))
    gains = []
    for y in (0.0, 1.0):
        gains.append(
            law(ddrm, prior, Identity(), torch.full((1, 1), y, dtype=double), 0.5, uniform_times(20), VP, False)[0]
        )
    assert 0.7 < (gains[1] - gains[0]).item() < 0.95


def pigdm_by_hand(spread, hears_noise=True):
    """PiGDM's answer for N(0, I) data with any r^2, and for which x may have no noise."""

    def guided(z, t, noise_std):
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        guess, matrix, r2 = alpha * z / (alpha**2 + sigma**2), WIDE.matrix, spread(alpha, sigma)
        inner = r2 * matrix @ matrix.T + (noise_std**2 if hears_noise else 0.0) * eye(2)
        pull = torch.linalg.solve(inner, (SEEN - guess @ matrix.T).T).T @ matrix
        return guess + sigma**2 / alpha * alpha / (alpha**2 + sigma**2) * pull

    return guided


def pigdm_error(guided, noise_stds=(0.0, 0.3, 2.0)):
    """Largest distance from E[z_0 | z_t, x] under N(0, I), over times and noise in x."""
    z, errors = 1.5 * draw(3, 4, seed=2), []
    for noise_std in noise_stds:
        exact = denoiser_for(FOUR.posterior(WIDE, SEEN, noise_std), VP)
        errors += [(guided(z, t, noise_std) - exact(z, t)).abs().max().item() for t in (0.05, 0.3, 0.7)]
    return max(errors)


def right_spread(alpha, sigma):
    return sigma**2 / (alpha**2 + sigma**2)


def test_pigdm_is_the_exact_denoiser_of_white_data():
    """Residual 6e-15."""
    prior = denoiser_for(FOUR, VP)
    assert pigdm_error(lambda z, t, std: guidance.pigdm(prior, WIDE, SEEN, VP, std)(z, t)) < 1e-11
    assert pigdm_error(pigdm_by_hand(right_spread)) < 1e-11


@pytest.mark.parametrize(
    "mutant",
    [
        pigdm_by_hand(lambda alpha, sigma: (sigma / alpha) ** 2),
        pigdm_by_hand(lambda alpha, sigma: right_spread(alpha, sigma) ** 0.5),
        pigdm_by_hand(right_spread, hears_noise=False),
    ],
    ids=["variance-exploding r", "r for its square", "deaf to noise"],
)
def test_wrong_pigdms_are_not(mutant):
    assert pigdm_error(mutant, (0.3, 2.0)) > 0.05


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_pigdm_finds_the_posterior_of_white_data_only(noise_std):
    """On PAIR it stays at .05 and .07 however many steps; so does N(m, I / 4) unless prior_std says so."""
    half = Gaussian(draw(4, seed=3), 0.25 * eye(4))
    told = partial(pigdm, prior_std=0.5)
    assert 0.8 < order(told, half, WIDE, SEEN, noise_std, even_in_log_snr, (20, 40)) < 1.3
    assert distance(pigdm, PAIR, FIRST, ONE, noise_std, uniform_times(200)) > 0.04


def test_repaint_needs_its_resampling():
    """On record at 1000 steps: 0.30 without, 0.046 with 5 visits, mean 0.626 where 0.9 is right. At 100: .303, .060, .615."""
    times = uniform_times(50)
    alone, five = (partial(repaint, jump=1, repeat=repeat) for repeat in (1, 5))
    assert distance(alone, PAIR, FIRST, ONE, 0.0, times) > 0.29
    assert distance(five, PAIR, FIRST, ONE, 0.0, times) < 0.1
    mean, _ = law(alone, PAIR, FIRST, ONE, 0.0, times)
    assert mean[0] == pytest.approx(1.0) and 0.55 < mean[1] < 0.65
    assert distance(ilvr, PAIR, FIRST, ONE, 0.3, times) < distance(deaf(ilvr), PAIR, FIRST, ONE, 0.3, times) - 0.08


def test_diffpir_at_both_ends_of_zeta():
    """On record at 1000 steps: .126 and .117 without noise, .171 and .108 with; far from there at 100."""
    for zeta, clean, noisy in ((1.0, 0.128, 0.178), (0.1, 0.382, 0.337)):
        for noise_std, recorded in ((0.0, clean), (0.3, noisy)):
            found = distance(partial(diffpir, zeta=zeta), PAIR, FIRST, ONE, noise_std, uniform_times(100))
            assert found == pytest.approx(recorded, abs=0.01)


def test_snips_is_near_the_posterior_when_it_takes_its_time():
    """20 steps of 0.2 a level: .12 and .06; half the steps of the same size leave it in the noise of the start."""
    times = log_snr_times(VP, 30)
    for noise_std, near in ((0.0, 0.13), (0.3, 0.07)):
        found = [
            distance(partial(snips, steps=steps, step_size=0.2), PAIR, FIRST, ONE, noise_std, times)
            for steps in (5, 20)
        ]
        assert found[1] < near and found[1] < 0.2 * found[0]


def test_gdp_follows_the_measurement_more_with_its_scale():
    residuals = [
        (law(partial(gdp, scale=scale), PAIR, FIRST, ONE, 0.0, uniform_times(100))[0][0] - 1).abs().item()
        for scale in (0.0, 2.0, 8.0)
    ]
    assert residuals[0] == pytest.approx(1.0, abs=1e-6) and residuals[0] > residuals[1] > residuals[2]


def test_an_ignored_measurement_is_seen():
    """Every method that stands here must be nearer to the posterior than the prior is."""
    posterior = PAIR.posterior(FIRST, ONE, 0.3)
    ignored = gaussian_w2(PAIR.mean, PAIR.covariance, posterior.mean, posterior.covariance)
    for method in (pigdm, ddnm, ddrm, diffpir, ilvr, partial(repaint, jump=1, repeat=2)):
        assert distance(method, PAIR, FIRST, ONE, 0.3, uniform_times(40)) < 0.5 * ignored


def test_another_schedule_with_the_same_noise_levels_gives_the_same_law():
    exploding = Schedule(torch.ones_like, lambda t: VP.sigma(t) / VP.alpha(t))
    for method in (ddnm, pigdm, ddrm):
        here, there = (law(method, *pooled()[:2], pooled()[2], 0.2, uniform_times(20), s) for s in (VP, exploding))
        for a, b in zip(here, there, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
