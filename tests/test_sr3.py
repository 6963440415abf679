"""SR3 on jointly Gaussian pairs, where the trained network is known; the law of its noise levels; grids; cascades."""

from __future__ import annotations

import math

import pytest
import torch
from test_schedules import BUILT
from torch import Generator

from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic
from tutorial_lib.oracles import Gaussian, affine_law, convergence_order, gaussian_w2
from tutorial_lib.samplers import ddim, ddpm, last
from tutorial_lib.schedules import from_betas, respace, uniform_times, vp_cosine, vp_linear
from tutorial_lib.sr3 import (
    PAPER_BETAS,
    augment,
    candidate_times,
    conditional_denoiser,
    conditional_law,
    linear_beta_times,
    noise_levels,
    search_times,
    with_condition,
)

LADDER = from_betas(PAPER_BETAS)
PAPER_GAMMAS = torch.cat([torch.ones(1, dtype=torch.float64), (1 - PAPER_BETAS).cumprod(0)])
UNLIKELY = 1e-6  # the chance that a right answer fails a statistical test here; the seeds are fixed


def eye(n):
    return torch.eye(n, dtype=torch.float64)


def even(n):
    """n steps evenly spaced in t, the last one to 0."""
    return torch.linspace(1, 0, n + 1, dtype=torch.float64)


def signal(size, correlation, scale=0.3):
    """Neighbouring numbers are alike, as pixels are."""
    place = torch.arange(size, dtype=torch.float64)
    mean = torch.linspace(-0.3, 0.4, size, dtype=torch.float64)
    return Gaussian(mean, scale * correlation ** (place[:, None] - place).abs())


def pool(size):
    """Means of neighbours, (size / 2, size)."""
    return torch.kron(torch.eye(size // 2), torch.full((1, 2), 0.5)).double()


HR, X, NOISE_STD = signal(4, 0.8, 0.5), torch.tensor([[0.6, -0.4]], dtype=torch.float64), 0.05
POSTERIOR = HR.posterior(pool(4), X, NOISE_STD)


# ------------------------------------------------------------------------------------------------------- noise levels


def ks_bound(count):
    """What sup |F_n - F| exceeds with a chance below UNLIKELY (Dvoretzky, Kiefer, Wolfowitz; Massart's constant)."""
    return math.sqrt(math.log(2 / UNLIKELY) / (2 * count))


def ks_distance(draws, cdf):
    draws = draws.sort().values
    steps = torch.arange(len(draws) + 1, dtype=torch.float64) / len(draws)
    exact = cdf(draws)
    return torch.maximum((steps[1:] - exact).abs().max(), (exact - steps[:-1]).abs().max()).item()


def ladder_cdf(gammas):
    """P(level <= gamma): every interval holds 1/N, evenly spread. Interpolated, typed apart from the package."""
    knots = gammas.flip(0).double()

    def cdf(gamma):
        gamma = gamma.double()
        right = torch.searchsorted(knots, gamma, right=True).clamp(1, len(knots) - 1)
        share = (gamma - knots[right - 1]) / (knots[right] - knots[right - 1])
        return (right - 1 + share) / (len(knots) - 1)

    return cdf


LADDERS = {
    "paper": PAPER_GAMMAS,
    "two levels": torch.tensor([1.0, 0.04], dtype=torch.float64),
    "three levels": torch.tensor([1.0, 0.9, 0.0], dtype=torch.float64),
    "float32": vp_linear().alpha(torch.linspace(0, 1, 11)).square().float(),
}


@pytest.mark.parametrize("name", LADDERS)
def test_noise_levels_are_uniform_within_uniform_intervals(name):
    gammas, count = LADDERS[name], 40_000
    drawn = noise_levels(gammas, count, Generator().manual_seed(0))
    assert drawn.shape == (count,) and drawn.dtype == gammas.dtype
    assert drawn.min() >= gammas[-1] and drawn.max() <= 1
    assert ks_distance(drawn, ladder_cdf(gammas)) < ks_bound(count)
    assert torch.equal(drawn, noise_levels(gammas, count, Generator().manual_seed(0)))


def uniform_roots(gammas, count, generator):
    """Published ports: sqrt(gamma) uniform within the interval."""
    return noise_levels(gammas.sqrt(), count, generator).square()


def only_rungs(gammas, count, generator):
    """DDPM: the N levels of the ladder and nothing between."""
    return gammas[torch.randint(1, len(gammas), (count,), generator=generator)]


def one_interval_short(gammas, count, generator):
    """Off by one: the noisiest interval never comes."""
    return noise_levels(gammas[:-1], count, generator)


@pytest.mark.parametrize("mutant", [uniform_roots, only_rungs, one_interval_short])
def test_other_laws_of_the_level_are_seen(mutant):
    gammas = torch.tensor([1.0, 0.3, 1e-3], dtype=torch.float64)
    for seed in range(3):
        drawn = mutant(gammas, 40_000, Generator().manual_seed(seed))
        assert ks_distance(drawn, ladder_cdf(gammas)) > 2 * ks_bound(40_000)


def continuous_cdf(schedule):
    """P(gamma(t) <= g) for t uniform on [0, 1] = 1 - t(g)."""
    return lambda gamma: 1 - schedule.time_at(torch.special.logit(gamma.double()))


def test_a_fine_ladder_is_a_uniform_time():
    """The law of gamma goes to that of gamma(t), t uniform: sup-distance at most 1/N, and a coarse ladder is seen."""
    schedule, grid = vp_linear(), torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    for n in (4, 16, 64, 256):
        gammas = schedule.alpha(torch.linspace(0, 1, n + 1)).square()
        distance = (ladder_cdf(gammas)(grid) - continuous_cdf(schedule)(grid)).abs().max().item()
        assert distance <= 1 / n
    count = 40_000
    for n, near in ((4, False), (2000, True)):
        gammas = schedule.alpha(torch.linspace(0, 1, n + 1)).square()
        drawn = noise_levels(gammas, count, Generator().manual_seed(0))
        assert (ks_distance(drawn, continuous_cdf(schedule)) < ks_bound(count) + 1 / n / 10) == near


def test_one_level_for_the_whole_batch_is_noisier_but_not_biased():
    """What ports do: the mean of any loss over batches stays, its variance is as large as the batch."""
    batch, rounds, generator = 16, 4000, Generator().manual_seed(0)
    loss = lambda gamma: (1 - gamma).sqrt()  # noqa: E731
    each = loss(noise_levels(PAPER_GAMMAS, batch * rounds, generator)).view(rounds, batch).mean(1)
    shared = loss(noise_levels(PAPER_GAMMAS, rounds, generator))
    error = ((each.var() + shared.var()) / rounds).sqrt()
    assert abs(each.mean() - shared.mean()) < 5 * error
    assert shared.var() / each.var() == pytest.approx(batch, rel=0.2)  # sd of a ratio of variances: about 2 %


@pytest.mark.parametrize(
    ("gammas", "message"),
    [
        (torch.tensor([1.0]), "gammas must hold at least two numbers"),
        (torch.ones(2, 3), "gammas must hold at least two numbers"),
        (torch.tensor([1, 0]), "gammas must hold at least two numbers"),
        (torch.tensor([0.9, 0.5]), "gammas must decrease from gammas\\[0\\] = 1"),
        (torch.tensor([0.1, 0.5, 1.0]), "gammas must decrease"),
        (torch.tensor([1.0, 0.5, 0.5]), "gammas must decrease"),
        (torch.tensor([1.0, 0.5, -0.1]), "gammas must decrease"),
        (torch.tensor([1.0, math.nan]), "gammas must decrease"),
    ],
)
def test_bad_ladders_are_refused(gammas, message):
    with pytest.raises(ValueError, match=message):
        noise_levels(gammas, 3, Generator())
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        noise_levels(PAPER_GAMMAS, 0, Generator())


# ----------------------------------------------------------------------------------- conditions and their augmentation


def test_augmented_conditions_have_their_law():
    cond = torch.tensor([[0.5, -0.2, 0.9]], dtype=torch.float64)
    for gamma in (0.0, 0.3, 0.99, 1.0):
        mean, covariance = affine_law(lambda noise, gamma=gamma: augment(cond, gamma, noise), 3)
        torch.testing.assert_close(mean, math.sqrt(gamma) * cond[0])
        torch.testing.assert_close(covariance, (1 - gamma) * eye(3), atol=1e-15, rtol=0)


@pytest.mark.parametrize("shape", [(4, 1, 3, 5), (4, 2, 4, 4), (4, 3, 2, 7), (4, 5, 3, 3)])
def test_every_sample_is_augmented_at_its_own_level(shape):
    cond = torch.rand(shape, generator=Generator().manual_seed(0))
    gamma = torch.tensor([1.0, 0.0, 0.5, 0.25])
    found = augment(cond, gamma, standard_normal(1))
    noise = standard_normal(1)(cond)
    assert found.dtype == cond.dtype and torch.equal(found[0], cond[0])
    torch.testing.assert_close(found[1], noise[1])
    torch.testing.assert_close(found[3], 0.5 * cond[3] + 0.75**0.5 * noise[3])
    with pytest.raises(ValueError, match="gamma must lie between 0 and 1, but it runs from 0.5 to 1.5"):
        augment(cond, torch.tensor([0.5, 1.5, 0.5, 0.5]), standard_normal(0))


def test_a_filled_in_condition_is_the_condition():
    seen = []

    def denoiser(z, t, cond=None):
        seen.append(cond)
        return z + cond.sum((1, 2, 3), keepdim=True)

    z, cond = torch.zeros(3, 2, 4, 6), torch.rand(3, 2, 4, 6)
    torch.testing.assert_close(with_condition(denoiser, cond)(z, 0.5), denoiser(z, 0.5, cond))
    one = with_condition(denoiser, cond[:1])(z, 0.5)
    torch.testing.assert_close(one, denoiser(z, 0.5, cond[:1].repeat(3, 1, 1, 1)))
    assert seen[-2].shape == z.shape
    with pytest.raises(ValueError, match="cond must hold 1 condition or one per sample, but 2 came for 3 samples"):
        with_condition(denoiser, cond[:2])(z, 0.5)
    network = lambda u, level, cond: u * level.view(-1, 1, 1, 1) + cond  # noqa: E731
    wrapped = NetworkDenoiser(network, "eps", LADDER)
    torch.testing.assert_close(with_condition(wrapped, cond)(z, 0.5), wrapped(z, 0.5, cond))


# -------------------------------------------------------------------------------------------------- the exact network


PAIRS = [(signal(4, 0.8), pool(4), 0.1), (signal(4, 0.8), pool(4), 0.0), (signal(6, 0.95), pool(6)[:1], 0.3)]


@pytest.mark.parametrize(("prior", "matrix", "noise_std"), PAIRS)
def test_the_law_given_x_is_the_posterior_for_every_x(prior, matrix, noise_std):
    gain, offset, covariance = conditional_law(prior, matrix, noise_std)
    for seed in range(3):
        x = standard_normal(seed)(torch.empty(1, len(matrix), dtype=torch.float64))
        posterior = prior.posterior(matrix, x, noise_std)
        torch.testing.assert_close(gain @ x[0] + offset, posterior.mean, atol=1e-10, rtol=0)
        torch.testing.assert_close(covariance, posterior.covariance, atol=1e-10, rtol=0)
        for t in (0.05, 0.4, 1.0):
            z = standard_normal(seed + 10)(torch.empty(5, prior.size, dtype=torch.float64))
            found = conditional_denoiser(prior, matrix, noise_std, LADDER)(z, t, x)
            expected = posterior.denoise(z, LADDER.alpha(t), LADDER.sigma(t))
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4, 6), (2, 4, 4), (3, 2, 4), (5, 2, 2)])
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
def test_images_with_one_x_and_one_time_each(shape, noise_std):
    """Against `posterior` one by one; batch mates do not matter."""
    size = math.prod(shape)
    prior = Gaussian(torch.linspace(-0.5, 0.5, size).double().reshape(shape), signal(size, 0.7).covariance, shape)
    operator, schedule = AveragePool(2), vp_cosine()
    z = standard_normal(0)(torch.empty(3, *shape, dtype=torch.float64))
    cond = standard_normal(1)(operator(z))
    t = torch.tensor([0.1, 0.6, 1.0], dtype=torch.float64)
    found = conditional_denoiser(prior, operator, noise_std, schedule)(z, t, cond)
    assert found.shape == z.shape
    for i in range(3):
        posterior = prior.posterior(operator, cond[i : i + 1], noise_std)
        expected = posterior.denoise(z[i : i + 1], schedule.alpha(t[i]), schedule.sigma(t[i]))
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-9, rtol=0)


def test_one_x_serves_states_at_their_own_times_in_their_own_precision():
    denoiser = conditional_denoiser(HR, pool(4), 0.1, LADDER)
    z = standard_normal(0)(torch.empty(3, 4, dtype=torch.float64))
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    found = denoiser(z, t, X)
    for i in range(3):
        torch.testing.assert_close(found[i : i + 1], denoiser(z[i : i + 1], t[i].item(), X))
    single = denoiser(z.float(), t, X.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, atol=1e-6, rtol=0)


def test_the_exact_network_is_affine_in_state_and_condition():
    denoiser = conditional_denoiser(HR, Bicubic(2).dense((1, 2, 2)), 0.1, LADDER)
    z, x = (standard_normal(seed)(torch.empty(2, n, dtype=torch.float64)) for seed, n in ((0, 4), (1, 1)))
    zero_z, zero_x = torch.zeros_like(z), torch.zeros_like(x)
    offset = denoiser(zero_z, 0.3, zero_x)
    in_z, in_x = denoiser(z, 0.3, zero_x) - offset, denoiser(zero_z, 0.3, x) - offset
    torch.testing.assert_close(denoiser(2 * z, 0.3, -3 * x), offset + 2 * in_z - 3 * in_x)
    assert in_z.abs().max() > 0.01 and in_x.abs().max() > 0.01


def test_regression_is_the_mean_of_the_conditional_law():
    """Affine least squares in the population: Cov(y, x) Cov(x)^-1, from moments of the pair alone; and on draws."""
    gain, offset, covariance = conditional_law(HR, pool(4), NOISE_STD)
    both = torch.cat([eye(4), pool(4)])  # (y, x) from y, but for the noise
    joint = both @ HR.covariance @ both.T
    joint[4:, 4:] += NOISE_STD**2 * eye(2)
    slope = torch.linalg.solve(joint[4:, 4:], joint[4:, :4]).T
    torch.testing.assert_close(gain, slope)
    torch.testing.assert_close(gain @ X[0] + offset, POSTERIOR.mean)
    count, noise = 200_000, standard_normal(0)
    y = HR.sample(count, noise)
    x = y @ pool(4).T + NOISE_STD * noise(y[:, :2])
    rows = torch.cat([x, torch.ones(count, 1)], 1)
    fitted = torch.linalg.lstsq(rows, y).solution
    errors = (covariance.diagonal()[None] * torch.linalg.inv(rows.T @ rows).diagonal()[:, None]).sqrt()
    assert ((fitted - torch.cat([gain.T, offset[None]])).abs() < 5 * errors).all()
    error = (y - x @ gain.T - offset).square().sum(1)
    assert abs(error.mean() - covariance.trace()) < 5 * error.std() / math.sqrt(count)


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="operator must act on 4 numbers"):
        conditional_law(HR, pool(6), 0.1)
    with pytest.raises(ValueError, match="noise_std must be a number that is not negative, but -1 came"):
        conditional_law(HR, pool(4), -1)
    with pytest.raises(ValueError, match="cond must be the LR image of every sample, but None came"):
        conditional_denoiser(HR, pool(4), 0.1, LADDER)(torch.zeros(1, 4), 0.5)


# ------------------------------------------------------------------------------------- SR3's sampler, in its own letters


def epsilon(x, y, gamma):
    """f(x, y_t, gamma): the noise in y_t = sqrt(gamma) y_0 + sqrt(1 - gamma) eps, typed from the joint covariance."""
    mean = HR.mean + (X_GAIN @ (x - pool(4) @ HR.mean).T).T
    inner = torch.linalg.inv(gamma * POSTERIOR.covariance + (1 - gamma) * eye(4))
    y_0 = mean + math.sqrt(gamma) * (y - math.sqrt(gamma) * mean) @ inner @ POSTERIOR.covariance
    return (y - math.sqrt(gamma) * y_0) / math.sqrt(1 - gamma)


X_COVARIANCE = pool(4) @ HR.covariance @ pool(4).T + NOISE_STD**2 * eye(2)
X_GAIN = HR.covariance @ pool(4).T @ torch.linalg.inv(X_COVARIANCE)


def paper_step(y, gamma, before, x, noise):
    """Algorithm 2 of the paper: alpha_t = gamma_t / gamma_{t-1} is what is retained."""
    alpha = gamma / before
    mean = (y - (1 - alpha) / math.sqrt(1 - gamma) * epsilon(x, y, gamma)) / math.sqrt(alpha)
    return mean + math.sqrt(1 - alpha) * noise(y) * (before < 1)


def alpha_as_variance(y, gamma, before, x, noise):
    """Pitfall: the other alpha_t, the variance that a step adds, put into SR3's mean."""
    alpha = 1 - gamma / before
    mean = (y - (1 - alpha) / math.sqrt(1 - gamma) * epsilon(x, y, gamma)) / math.sqrt(alpha)
    return mean + math.sqrt(gamma / before) * noise(y) * (before < 1)


def alpha_as_product(y, gamma, before, x, noise):
    """Another one: alpha_t read as the product alpha-bar_t."""
    mean = (y - (1 - gamma) / math.sqrt(1 - gamma) * epsilon(x, y, gamma)) / math.sqrt(gamma)
    return mean + math.sqrt(1 - gamma / before) * noise(y) * (before < 1)


def beta_tilde(y, gamma, before, x, noise):
    alpha = gamma / before
    mean = (y - (1 - alpha) / math.sqrt(1 - gamma) * epsilon(x, y, gamma)) / math.sqrt(alpha)
    return mean + math.sqrt((1 - alpha) * (1 - before) / (1 - gamma)) * noise(y)


def noise_at_the_end(y, gamma, before, x, noise):
    return paper_step(y, gamma, min(before, 1 - 1e-15), x, noise)


def root_for_gamma(y, gamma, before, x, noise):
    """A network that was told gamma is told sqrt(gamma)."""
    alpha = gamma / before
    mean = (y - (1 - alpha) / math.sqrt(1 - gamma) * epsilon(x, y, math.sqrt(gamma))) / math.sqrt(alpha)
    return mean + math.sqrt(1 - alpha) * noise(y) * (before < 1)


def noisy_condition(y, gamma, before, x, noise):
    """Noise goes onto the condition too, which must stay clean."""
    return paper_step(y, gamma, before, math.sqrt(gamma) * x + math.sqrt(1 - gamma) * noise(x), noise)


def noise_on_the_condition_instead(y, gamma, before, x, noise):
    noisy = math.sqrt(gamma) * x + math.sqrt(1 - gamma) * noise(x)
    return paper_step(y, gamma, before, noisy, torch.zeros_like)


def betas_of_the_long_table(y, gamma, before, x, noise):
    """A short chain with single betas read out of the table of 2000."""
    alpha = 1 - PAPER_BETAS[(PAPER_GAMMAS - gamma).abs().argmin() - 1].item()
    mean = (y - (1 - alpha) / math.sqrt(1 - gamma) * epsilon(x, y, gamma)) / math.sqrt(alpha)
    return mean + math.sqrt(1 - alpha) * noise(y) * (before < 1)


def levels(times, schedule=LADDER):
    """gamma_0 = 1, gamma_1, ... gamma_n of a grid."""
    return schedule.alpha(times).square().flip(0).tolist()


def law_of(step, times):
    gammas = levels(times)

    def run(noise):
        y = noise(torch.empty(1, 4, dtype=torch.float64))
        for t in range(len(gammas) - 1, 0, -1):
            y = step(y, gammas[t], gammas[t - 1], X, noise)
        return y

    return affine_law(run, 4)


def closed_recursion(gammas, mean, covariance):
    """Mean and covariance of SR3's output, direction by direction of the posterior's covariance: two numbers a step."""
    variances, axes = torch.linalg.eigh(covariance)
    centre = axes.T @ mean
    m, v = torch.zeros_like(centre), torch.ones_like(centre)
    for t in range(len(gammas) - 1, 0, -1):
        gamma, alpha = gammas[t], gammas[t] / gammas[t - 1]
        pull = (1 - alpha) / (gamma * variances + 1 - gamma)
        m = (m - pull * (m - math.sqrt(gamma) * centre)) / math.sqrt(alpha)
        v = (1 - pull) ** 2 * v / alpha + (1 - alpha) * (t > 1)
    return axes @ m, axes * v @ axes.T


def sampled_law(times, sampler=ddpm, prior=HR, matrix=None, x=X, noise_std=NOISE_STD, **options):
    matrix = pool(prior.size) if matrix is None else matrix
    denoiser = with_condition(conditional_denoiser(prior, matrix, noise_std, LADDER), x)

    def run(noise):
        z = noise(torch.empty(1, prior.size, dtype=torch.float64))
        return last(sampler(denoiser, LADDER, z, times, noise=noise, **options))

    return affine_law(run, prior.size)


def apart(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("times", [even(20), even(7), uniform_times(20), linear_beta_times(LADDER, 20, 1e-4), even(1)])
def test_sr3s_sampler_equals_its_closed_recursion(times):
    expected = closed_recursion(levels(times), POSTERIOR.mean, POSTERIOR.covariance)
    assert apart(sampled_law(times, variance="beta"), expected) < 1e-10
    assert apart(law_of(paper_step, times), expected) < 1e-10


def test_a_shorter_chain_that_stops_early_is_noisy():
    """times[-1] above 0: the last step then draws noise too, as in every sampler here."""
    times = even(20)[:-1]
    gammas = levels(times)
    m, v = closed_recursion([1.0, *gammas], POSTERIOR.mean, POSTERIOR.covariance)
    assert apart(sampled_law(times, variance="beta"), (m, v)) > 1e-2


@pytest.mark.parametrize(
    "mutant",
    [
        alpha_as_variance,
        alpha_as_product,
        beta_tilde,
        noise_at_the_end,
        root_for_gamma,
        noisy_condition,
        noise_on_the_condition_instead,
        betas_of_the_long_table,
    ],
)
def test_mutants_have_another_law(mutant):
    expected = closed_recursion(levels(even(20)), POSTERIOR.mean, POSTERIOR.covariance)
    found = law_of(mutant, even(20))
    assert apart(found, expected) > 5e-3
    right = gaussian_w2(*expected, POSTERIOR.mean, POSTERIOR.covariance)
    assert gaussian_w2(*found, POSTERIOR.mean, POSTERIOR.covariance) > 1.5 * right


def test_sr3_approaches_the_posterior_at_first_order():
    """The recursion equals the sampler to 1e-10, so it may stand for it where thousands of steps are needed."""

    def error(n, schedule):
        law = closed_recursion(levels(even(n), schedule), POSTERIOR.mean, POSTERIOR.covariance)
        return gaussian_w2(*law, POSTERIOR.mean, POSTERIOR.covariance)

    assert convergence_order(lambda n: error(n, vp_linear()), (2000, 4000, 8000)) == pytest.approx(1, abs=0.05)
    assert convergence_order(lambda n: error(n, LADDER), (500, 1000, 2000)) == pytest.approx(1, abs=0.1)
    assert error(2000, LADDER) < 2e-3


def test_beta_is_exact_where_the_posterior_has_unit_variance():
    """Then "beta" is right at any n; elsewhere it spreads too much. The trace of signal at t = 1 leaves gamma_N of error."""
    for n in (1, 3, 20):
        gammas = levels(even(n))
        mean, covariance = torch.full((2,), 0.5).double(), eye(2)
        m, v = closed_recursion(gammas, mean, covariance)
        added = 1 - gammas[1]  # the last step draws nothing, so its variance is missing
        torch.testing.assert_close(v, (1 - added) * covariance, atol=1e-12, rtol=0)
        torch.testing.assert_close(m, mean * (1 - gammas[-1]), atol=1e-12, rtol=0)


def test_ddim_and_ddpm_share_the_mean():
    """Every sampler's mean is E[y | x] on a Gaussian pair, whatever its variance, but for the start."""
    for options in ({"variance": "beta"}, {"variance": "posterior"}):
        assert (sampled_law(even(20), **options)[0] - POSTERIOR.mean).abs().max() < 1e-4
    mean, _ = sampled_law(even(20), ddim)
    left = levels(even(20))[-1] ** 0.5  # DDIM keeps the start's missing mean, ancestral noise forgets it
    assert (mean - POSTERIOR.mean).abs().max() < 2 * left


# ------------------------------------------------------------------------------------------------ the mean of K samples


def test_the_error_of_the_mean_of_k_samples_is_a_plus_b_over_k():
    """a = tr Cov[y | x] + squared bias (what regression pays), b = tr Cov[sample | x]; closed form against draws."""
    gain, offset, covariance = conditional_law(HR, pool(4), NOISE_STD)
    times, count, most = even(20), 4000, 4
    sample_mean, sample_covariance = closed_recursion(levels(times), POSTERIOR.mean, POSTERIOR.covariance)
    noise = standard_normal(3)
    y = HR.sample(count, noise)
    x = y @ pool(4).T + NOISE_STD * noise(y[:, :2])
    many = conditional_denoiser(HR, pool(4), NOISE_STD, LADDER)
    z = noise(torch.empty(count * most, 4, dtype=torch.float64))
    denoiser = with_condition(many, x.repeat_interleave(most, 0))
    samples = last(ddpm(denoiser, LADDER, z, times, variance="beta", noise=noise)).view(count, most, 4)
    bias = (levels(times)[-1] * (x @ gain.T + offset)).square().sum(1).mean()  # at most: the start forgets E[y | x]
    a, b = covariance.trace().item(), sample_covariance.trace().item()
    assert bias < 1e-6 and (sample_mean - POSTERIOR.mean).abs().max() < 1e-4
    found = []
    for k in (1, 2, 4):
        error = (samples[:, :k].mean(1) - y).square().sum(1)
        found.append(error.mean().item())
        assert abs(error.mean() - (a + b / k)) < 4 * error.std() / math.sqrt(count)
    regression = (x @ gain.T + offset - y).square().sum(1)
    assert abs(regression.mean() - a) < 4 * regression.std() / math.sqrt(count)
    assert found[0] > found[1] > found[2] > regression.mean()
    exact = b / covariance.trace().item()
    assert 1 < exact < 1.3  # twenty steps of "beta" spread a little too much; with the exact posterior b = a


# ------------------------------------------------------------------------------------------------------ choosing a grid


def test_linear_betas_are_evenly_spaced_on_the_trained_ladder():
    for schedule in (LADDER, vp_linear(), vp_cosine()):
        for n, first in ((2, 1e-4), (20, 1e-6), (20, 1e-2), (100, 1e-4)):
            times = linear_beta_times(schedule, n, first)
            assert times.shape == (n + 1,) and times[0] == 1 and times[-1] == 0
            retained = (schedule.alpha(times[1:-1]) / schedule.alpha(times[2:])) ** 2  # all steps but that from t = 1
            betas = 1 - retained.flip(0)
            assert betas[0].item() == pytest.approx(first, rel=1e-6)
            steps = betas.diff()
            if n > 2:
                torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-5, atol=1e-12)
    full = respace(LADDER, linear_beta_times(LADDER, 2000, 1e-6))
    torch.testing.assert_close(full, PAPER_BETAS, rtol=1e-6, atol=1e-10)
    with pytest.raises(ValueError, match="first must leave room for 2000 growing betas, but 0.01 is too large"):
        linear_beta_times(LADDER, 2000, 1e-2)
    with pytest.raises(ValueError, match="first must be a beta between 0 and 1"):
        linear_beta_times(LADDER, 20, 0.0)
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        linear_beta_times(LADDER, 1, 1e-4)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("n", [1, 2, 20, 100])
def test_candidates_are_grids(name, n):
    candidates = candidate_times(BUILT[name], n)
    assert "t" in candidates and len(candidates) >= (1 if n == 1 else 4)
    for times in candidates.values():
        assert times.shape == (n + 1,) and times.dtype == torch.float64
        assert times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    grids = list(candidates.values())
    assert not any(torch.equal(a, b) for i, a in enumerate(grids) for b in grids[:i])


def test_search_ranks_and_survives_nan():
    candidates = {"a": even(1), "b": even(2), "c": even(3)}
    ranked = search_times(lambda times: {2: 0.5, 3: math.nan, 4: 0.1}[len(times)], candidates)
    assert ranked == [(0.1, "c"), (0.5, "a"), (math.inf, "b")]
    with pytest.raises(ValueError, match="candidates must hold at least one grid"):
        search_times(lambda times: 0.0, {})


def test_twenty_steps_on_a_searched_grid_beat_both_plain_ones():
    """On a pair as correlated as neighbouring pixels. Both plain grids: every hundredth level of the trained ladder, and
    the ladder's own shape, 1e-6 upwards, with 20 betas. Which grid wins depends on the data: on the pair above it is
    another one."""
    prior, x = signal(8, 0.99), torch.linspace(0.6, -0.4, 4, dtype=torch.float64)[None]
    posterior = prior.posterior(pool(8), x, 0.0)

    def score(times):
        law = sampled_law(times, prior=prior, x=x, noise_std=0.0, variance="beta")
        return gaussian_w2(*law, posterior.mean, posterior.covariance)

    candidates = candidate_times(LADDER, 20)
    ranked = search_times(score, candidates)
    scores = {name: value for value, name in ranked}
    best, name = ranked[0]
    assert best == score(candidates[name]) == min(scores.values())
    assert best < 0.5 * scores["t"] and best < 0.1 * scores["linear betas from 1e-06"]
    law = closed_recursion(levels(candidates[name]), posterior.mean, posterior.covariance)
    assert best == pytest.approx(gaussian_w2(*law, posterior.mean, posterior.covariance), rel=1e-6)

    def other_pair(times):
        return gaussian_w2(*sampled_law(times, variance="beta"), POSTERIOR.mean, POSTERIOR.covariance)

    assert search_times(other_pair, candidates)[0][1] != name


# ------------------------------------------------------------------------------------------------------------- cascades

FINE, SMALL = signal(8, 0.95), torch.tensor([0.5, -0.3], dtype=torch.float64)
MIDDLE = Gaussian(pool(8) @ FINE.mean, pool(8) @ FINE.covariance @ pool(8).T)  # the law of x2 = pool y
DIRECT = FINE.posterior(pool(4) @ pool(8), SMALL[None], 0.0)
CHECKER = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)


def cascade_w2(gamma=1.0, bias=0.0, noise_std=0.0):
    """W2 between p(y | x4) and a cascade whose first stage answers its exact sample + bias + noise_std n.

    The second stage is the exact conditional law given an LR image augmented to gamma; gamma = 1: given a clean one.
    """
    gain, offset, covariance = conditional_law(MIDDLE, pool(4), 0.0)
    mean, covariance = gain @ SMALL + offset + bias, covariance + noise_std**2 * eye(4)
    mean, covariance = math.sqrt(gamma) * mean, gamma * covariance + (1 - gamma) * eye(4)
    gain, offset, rest = conditional_law(FINE, math.sqrt(gamma) * pool(8), math.sqrt(1 - gamma))
    return gaussian_w2(gain @ mean + offset, gain @ covariance @ gain.T + rest, DIRECT.mean, DIRECT.covariance)


def test_two_exact_stages_are_the_direct_posterior():
    """x2 is a function of y and x4 of x2, so p(y | x4) = integral of p(y | x2) p(x2 | x4)."""
    assert cascade_w2() < 1e-6  # a square root of rounding


def test_two_samplers_in_a_row_approach_the_direct_posterior():
    """Twice, the sample of the first as the condition of the second; exact law through both. (With beta-tilde, whose error
    falls from the start; that of "beta" changes its sign near twenty steps on this pair, so it is small there by luck.)"""
    first = conditional_denoiser(MIDDLE, pool(4), 0.0, LADDER)
    second = conditional_denoiser(FINE, pool(8), 0.0, LADDER)

    def error(n, swap=False):
        def run(noise):
            z = noise(torch.empty(1, 4, dtype=torch.float64))
            x2 = last(ddpm(with_condition(first, SMALL[None]), LADDER, z, even(n), noise=noise))
            x2 = MIDDLE.mean[None] if swap else x2
            z = noise(torch.empty(1, 8, dtype=torch.float64))
            return last(ddpm(with_condition(second, x2), LADDER, z, even(n), noise=noise))

        return gaussian_w2(*affine_law(run, 8), DIRECT.mean, DIRECT.covariance)

    coarse, fine = error(20), error(80)
    assert fine < 0.5 * coarse < 0.1
    assert error(20, swap=True) > 5 * coarse  # a second stage that is fed something else is far off


def test_augmentation_buys_something_only_where_the_first_stage_errs_against_the_data():
    """Exact W2 against gamma. The second stage knows how true LR images vary, and trusts a noisier one less.

    A first stage that leaves a checkerboard, which true LR images hardly have: augmentation halves the error. White noise:
    a little is won. A constant shift, which true images might have: nothing is won at any level. An exact first stage: it
    can only lose, for what the augmentation hides is gone. At gamma = 0 the LR image is ignored and only the prior is left.
    (A network that meets images unlike its training may also fail outright; an affine law cannot show that.)
    """
    gammas = [1 - 10**-power for power in torch.linspace(4, 0.5, 36).tolist()]

    def curve(**error):
        return [cascade_w2(gamma, **error) for gamma in gammas]

    exact, checker = curve(), curve(bias=0.4 * CHECKER)
    assert all(a < b for a, b in zip(exact, exact[1:], strict=False)) and exact[0] > cascade_w2()
    clean = cascade_w2(bias=0.4 * CHECKER)
    assert min(checker) < 0.5 * clean and checker[0] < clean < checker[-1]
    noisy, clean = curve(noise_std=0.3), cascade_w2(noise_std=0.3)
    assert 0.8 * clean < min(noisy) < 0.97 * clean
    shifted, clean = curve(bias=0.2 * CHECKER.abs()), cascade_w2(bias=0.2 * CHECKER.abs())
    assert min(shifted) > clean
    prior_alone = gaussian_w2(FINE.mean, FINE.covariance, DIRECT.mean, DIRECT.covariance)
    for error in ({}, {"bias": 0.4 * CHECKER}, {"noise_std": 0.3}):
        assert cascade_w2(0.0, **error) == pytest.approx(prior_alone, rel=1e-6)


def test_the_second_stage_must_be_told_how_much_the_condition_was_spoilt():
    """Spoilt but taken for clean, the condition's noise goes straight into the image."""
    gamma = 0.97
    gain, offset, rest = conditional_law(FINE, pool(8), 0.0)
    gain_1, offset_1, covariance = conditional_law(MIDDLE, pool(4), 0.0)
    mean = math.sqrt(gamma) * (gain_1 @ SMALL + offset_1 + 0.4 * CHECKER)
    covariance = gamma * covariance + (1 - gamma) * eye(4)
    untold = gaussian_w2(gain @ mean + offset, gain @ covariance @ gain.T + rest, DIRECT.mean, DIRECT.covariance)
    assert untold > 1.5 * cascade_w2(gamma, bias=0.4 * CHECKER)


def test_a_cascade_by_sampling_has_the_law_of_the_closed_form():
    """`augment` between two samplers, exact law by affine_law, against cascade_w2; many steps."""
    gamma, n = 0.97, 60
    first = conditional_denoiser(MIDDLE, pool(4), 0.0, LADDER)
    second = conditional_denoiser(FINE, math.sqrt(gamma) * pool(8), math.sqrt(1 - gamma), LADDER)

    def run(noise):
        z = noise(torch.empty(1, 4, dtype=torch.float64))
        x2 = last(ddpm(with_condition(first, SMALL[None]), LADDER, z, even(n), variance="beta", noise=noise))
        spoilt = augment(x2 + 0.4 * CHECKER, gamma, noise)
        z = noise(torch.empty(1, 8, dtype=torch.float64))
        return last(ddpm(with_condition(second, spoilt), LADDER, z, even(n), variance="beta", noise=noise))

    found = gaussian_w2(*affine_law(run, 8), DIRECT.mean, DIRECT.covariance)
    assert found == pytest.approx(cascade_w2(gamma, bias=0.4 * CHECKER), rel=0.05)
