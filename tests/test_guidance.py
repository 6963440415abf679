"""Guidance where everything is known: mixtures whose components are the classes, and pairs of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.guidance import classifier, classifier_free, guided_gaussian, scale_from_w
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.samplers import ddim, ddpm, heun, last, probability_flow, trajectory
from tutorial_lib.schedules import edm, flow, log_snr_times, uniform_times, ve, vp_cosine, vp_linear
from tutorial_lib.sr3 import with_condition

SCHEDULES = {"vp": vp_linear(), "ve": ve(), "edm": edm(20.0), "flow": flow(), "cosine": vp_cosine()}
SHAPES = [(1, 2, 3), (2, 3, 2), (3, 1, 4), (5, 2, 1)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def classes(shape, count=3, seed=0):
    """A mixture of `count` classes with full covariances, on states of the given shape."""
    size, noise = math.prod(shape), standard_normal(seed)
    means = 0.8 * noise(torch.empty(count, size, dtype=torch.float64))
    roots = 0.3 * noise(torch.empty(count, size, size, dtype=torch.float64))
    weights = torch.linspace(1, 2, count, dtype=torch.float64)
    return GaussianMixture(weights, means, roots @ roots.mT / math.sqrt(size) + 0.02 * torch.eye(size), shape)


def only(prior, k):
    """The law of one class."""
    return Gaussian(prior.means[k].reshape(prior.shape), prior.covariances[k], prior.shape)


def bayes(prior, k, schedule):
    """log p(class k | z_t), the noise-aware classifier that cannot be bettered."""
    part = only(prior, k)

    def log_prob(z, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        joint = part.log_prob(z, alpha, sigma) + prior.weights[k].log()
        return joint - prior.log_prob(z, alpha, sigma)

    return log_prob


def by_class(prior, schedule):
    """A denoiser told a class: cond (B, 1) holds its number, -1 means not told."""

    def denoiser(z, t, cond=None):
        if cond is None:
            cond = -torch.ones(len(z), 1)
        alpha, sigma = schedule.alpha(t).expand(len(z)), schedule.sigma(t).expand(len(z))
        rows = []
        for i, k in enumerate(cond[:, 0].long().tolist()):
            law = prior if k < 0 else only(prior, k)
            rows.append(law.denoise(z[i : i + 1], alpha[i], sigma[i]))
        return torch.cat(rows)

    return denoiser


def states(shape, count=4, seed=1):
    return 1.5 * standard_normal(seed)(torch.empty(count, *shape, dtype=torch.float64))


TOLD = torch.tensor([[0.0], [1.0], [2.0], [1.0]])


def largest(a, b):
    return (a - b).abs().max().item()


# ------------------------------------------------------------------------------------------------ classifier guidance


def classifier_error(implementation):
    """How far guidance by the exact classifier at scale 1 is from the class's own denoiser, over schedules and times."""
    shape, errors = (2, 3, 2), []
    prior, z = classes(shape), states(shape)
    for schedule in SCHEDULES.values():
        for t in (0.02, 0.3, 0.7, 0.95):
            for k in range(3):
                guided = implementation(denoiser_for(prior, schedule), bayes(prior, k, schedule), schedule, 1.0)
                exact = only(prior, k).denoise(z, schedule.alpha(t), schedule.sigma(t))
                errors.append(largest(guided(z, t), exact) / (1 + exact.abs().max().item()))
    return max(errors)


def test_the_exact_classifier_gives_the_denoiser_of_its_class():
    assert classifier_error(classifier) < 1e-9


def mutant_of_classifier(factor):
    """D + factor(alpha, sigma, scale) grad log p(c | z)."""

    def implementation(denoiser, log_prob, schedule, scale=1.0):
        def guided(z, t, cond=None):
            state = z.clone().requires_grad_()
            gradient = torch.autograd.grad(log_prob(state, t).sum(), state)[0]
            return denoiser(z, t) + factor(schedule.alpha(t), schedule.sigma(t), scale) * gradient

        return guided

    return implementation


def through_batch_mates(denoiser, log_prob, schedule, scale=1.0):
    """The classifier sees the batch normalised by its own mean, as batch norm in training mode does."""

    def coupled(z, t):
        return log_prob(z - 0.5 * (z.mean(0) - z.mean(0).detach()), t)

    return classifier(denoiser, coupled, schedule, scale)


def mean_over_the_batch(denoiser, log_prob, schedule, scale=1.0):
    def guided(z, t, cond=None):
        state = z.clone().requires_grad_()
        gradient = torch.autograd.grad(log_prob(state, t).mean(), state)[0]
        return denoiser(z, t) + schedule.sigma(t) ** 2 / schedule.alpha(t) * scale * gradient

    return guided


def clean_classifier(denoiser, log_prob, schedule, scale=1.0):
    """A classifier of clean images, shown z_t / alpha as if it were one: it answers for the end of the path, t = 0."""
    return classifier(denoiser, lambda z, t: log_prob(z / schedule.alpha(t), 1e-6), schedule, scale)


CLASSIFIER_MUTANTS = {
    "scale off by one": mutant_of_classifier(lambda a, s, w: (w - 1) * s**2 / a),
    "one too much": mutant_of_classifier(lambda a, s, w: (w + 1) * s**2 / a),
    "without sigma^2 / alpha": mutant_of_classifier(lambda a, s, w: w),
    "sigma for sigma^2": mutant_of_classifier(lambda a, s, w: w * s / a),
    "without 1 / alpha": mutant_of_classifier(lambda a, s, w: w * s**2),
    "wrong sign": mutant_of_classifier(lambda a, s, w: -w * s**2 / a),
    "through batch mates": through_batch_mates,
    "mean over the batch": mean_over_the_batch,
    "clean classifier": clean_classifier,
}


@pytest.mark.parametrize("mutant", CLASSIFIER_MUTANTS.values(), ids=CLASSIFIER_MUTANTS)
def test_wrong_classifier_guidance_is_seen(mutant):
    assert classifier_error(mutant) > 1e-2


def test_the_mutants_hull_is_right_with_the_right_factor():
    assert classifier_error(mutant_of_classifier(lambda a, s, w: w * s**2 / a)) < 1e-9


@every_shape
@every_schedule
def test_whole_trajectories_are_those_of_the_class(shape, schedule):
    prior, t_max = classes(shape), 0.99
    times = uniform_times(12, t_max=t_max)
    z = schedule.sigma(t_max) * standard_normal(2)(torch.empty(3, *shape, dtype=torch.float64))
    for k in (0, 2):
        guided = classifier(denoiser_for(prior, schedule), bayes(prior, k, schedule), schedule)
        for run in (
            lambda d: ddim(d, schedule, z, times),
            lambda d: ddpm(d, schedule, z, times, noise=standard_normal(3)),
        ):
            paths = zip(trajectory(run(guided)), trajectory(run(denoiser_for(only(prior, k), schedule))), strict=True)
            for found, exact in paths:
                assert largest(found.z, exact.z) < 1e-8 * (1 + exact.z.abs().max())
                assert largest(found.z_0, exact.z_0) < 1e-8 * (1 + exact.z_0.abs().max())


def test_a_clean_classifier_misses_the_law_by_far_more_than_the_solver():
    """Two classes N(+-1, 0.5^2) in one dimension, sampled with 100 steps of Heun; moments against the class's own."""
    schedule = edm(20.0)
    prior = GaussianMixture(torch.ones(2), torch.tensor([[1.0], [-1.0]]).double(), 0.25 * torch.ones(2, 1, 1))
    times = log_snr_times(schedule, 100)
    z = 20 * standard_normal(0)(torch.empty(4000, 1, dtype=torch.float64))
    misses = {}
    for name, implementation in {"noise-aware": classifier, "clean": clean_classifier}.items():
        guided = implementation(denoiser_for(prior, schedule), bayes(prior, 0, schedule), schedule)
        sample = last(heun(guided, schedule, z, times))
        exact = last(heun(denoiser_for(only(prior, 0), schedule), schedule, z, times))
        misses[name] = largest(sample, exact)
    assert misses["noise-aware"] < 1e-7
    assert misses["clean"] > 0.5  # 1000 standard errors of the class's mean would be 8


def test_guidance_works_wherever_gradients_are_off():
    prior, schedule = classes((1, 2, 2)), vp_linear()
    expected = only(prior, 1).denoise(states((1, 2, 2)), schedule.alpha(0.4), schedule.sigma(0.4))
    guided = classifier(denoiser_for(prior, schedule), bayes(prior, 1, schedule), schedule)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            z, t = states((1, 2, 2)), torch.tensor(0.4, dtype=torch.float64)
            found = guided(z, t)
            assert not found.requires_grad
            torch.testing.assert_close(found, expected)
    weight = torch.ones(1, requires_grad=True)
    guided = classifier(denoiser_for(prior, schedule), lambda z, t: -weight * z.square().flatten(1).sum(1), schedule)
    assert not guided(states((1, 2, 2)), 0.4).requires_grad and weight.grad is None


def test_a_sampler_guided_by_a_classifier_stays_differentiable():
    """So `affine_law` gives its law: for two Gaussians of one covariance the classifier is log-linear."""
    schedule, eye = vp_linear(), torch.eye(2, dtype=torch.float64)
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)

    def tilt(z, t):  # log p(c | z_t) up to a constant, of N(mean, I) against N(0, I)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha / (alpha**2 + sigma**2) * (z @ mean) - 1e-3 * z.square().sum(1)

    guided = classifier(denoiser_for(Gaussian(torch.zeros(2).double(), eye), schedule), tilt, schedule)
    plain = classifier(
        denoiser_for(Gaussian(torch.zeros(2).double(), eye), schedule), lambda z, t: 0 * z.sum(1), schedule
    )
    laws = [
        affine_law(lambda n, d=d: last(ddim(d, schedule, n(torch.empty(1, 2).double()), uniform_times(40))), 2)
        for d in (guided, plain)
    ]
    assert largest(laws[0][0], mean) < 0.05 and largest(laws[1][0], torch.zeros(2)) < 1e-12
    assert (laws[0][1].diagonal() < laws[1][1].diagonal() - 1e-3).all()  # the square narrows: its own slope was seen


@every_shape
def test_samples_do_not_depend_on_their_batch_mates(shape):
    prior, schedule = classes(shape), vp_cosine()
    z, t = states(shape), torch.tensor([0.1, 0.4, 0.8, 0.4], dtype=torch.float64)
    scale = torch.tensor([0.0, 1.0, 3.0, -1.0])
    told = by_class(prior, schedule)
    for share, interval in ((0.0, None), (0.7, (0.2, 0.6))):
        guided = classifier_free(told, scale, rescale=share, interval=interval)(z, t, TOLD)
        for i in range(4):
            alone = classifier_free(told, scale[i].item(), rescale=share, interval=interval)
            torch.testing.assert_close(alone(z[i : i + 1], t[i].item(), TOLD[i : i + 1]), guided[i : i + 1])
    guided = classifier(denoiser_for(prior, schedule), bayes(prior, 1, schedule), schedule, scale)(z, t)
    for i in range(4):
        alone = classifier(denoiser_for(prior, schedule), bayes(prior, 1, schedule), schedule, scale[i].item())
        torch.testing.assert_close(alone(z[i : i + 1], t[i].item()), guided[i : i + 1])


def test_bad_classifiers_are_refused():
    prior, z = classes((1, 2, 2)), states((1, 2, 2))
    plain = denoiser_for(prior, vp_cosine())
    good = bayes(prior, 0, vp_cosine())
    with pytest.raises(ValueError, match="a classifier cannot guide pure noise, but alpha is 0 at t = 1"):
        classifier(plain, good, vp_cosine())(z, 1.0)
    for log_prob, message in (
        (lambda z, t: good(z, t).mean(), r"log_prob must return one value per sample, \(4,\), but the shape \(\) came"),
        (
            lambda z, t: good(z, t)[:, None],
            r"log_prob must return one value per sample, \(4,\), but the shape \(4, 1\)",
        ),
        (lambda z, t: good(z.detach(), t), "log_prob must be differentiable in z, but its answer carries no gradient"),
        (lambda z, t: (z * 0).flatten(1).sum(1).sqrt(), "log_prob has a gradient that is NaN or infinite at t = 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(plain, log_prob, vp_cosine())(z, 0.5)
    with pytest.raises(ValueError, match="scale must be one finite number or one per sample"):
        classifier(plain, good, vp_cosine(), math.nan)
    with pytest.raises(ValueError, match="the denoiser's answer and z must have the same shape"):
        classifier(lambda z, t: z[:, :, :1], good, vp_cosine())(z, 0.5)


# -------------------------------------------------------------------------------------------- classifier-free guidance


def free_error(implementation):
    """How far guidance is from D_u + s (D_c - D_u) with both denoisers typed as oracles, s = 0, 1, 2.5 and w = s - 1."""
    shape, errors = (2, 3, 2), []
    prior, z = classes(shape), states(shape)
    for schedule in (vp_linear(), edm(20.0), flow()):
        told, alpha, sigma = by_class(prior, schedule), schedule.alpha(0.5), schedule.sigma(0.5)
        prior_answer = prior.denoise(z, alpha, sigma)
        answers = torch.cat([only(prior, int(k)).denoise(z[i : i + 1], alpha, sigma) for i, k in enumerate(TOLD[:, 0])])
        for s in (0.0, 1.0, 2.5):
            expected = (1 - s) * prior_answer + s * answers
            w = s - 1
            torch.testing.assert_close(expected, (1 + w) * answers - w * prior_answer)
            errors.append(largest(implementation(told, s)(z, 0.5, TOLD), expected))
    return max(errors)


def test_classifier_free_guidance_is_the_line_through_both_denoisers():
    assert free_error(classifier_free) < 1e-12
    assert free_error(lambda told, s: classifier_free(told, s, null=-torch.ones(1, 1))) < 1e-12
    assert free_error(lambda told, s: classifier_free(told, s, unconditional=lambda z, t: told(z, t))) < 1e-12
    assert free_error(lambda told, s: classifier_free(told, scale_from_w(s - 1))) < 1e-12


FREE_MUTANTS = {
    "w for s": lambda told, s: lambda z, t, c: (1 + s) * told(z, t, c) - s * told(z, t),
    "s for w": lambda told, s: classifier_free(told, s - 1),
    "swapped": lambda told, s: lambda z, t, c: told(z, t, c) + s * (told(z, t) - told(z, t, c)),
    "from the conditional": lambda told, s: lambda z, t, c: told(z, t, c) + s * (told(z, t, c) - told(z, t)),
    "wrong sign": lambda told, s: lambda z, t, c: told(z, t) - s * (told(z, t, c) - told(z, t)),
    "condition dropped": lambda told, s: lambda z, t, c: told(z, t) + s * (told(z, t) - told(z, t)),
    "null dropped": lambda told, s: lambda z, t, c: told(z, t, c) + s * (told(z, t, c) - told(z, t, c)),
    "condition of a batch mate": lambda told, s: lambda z, t, c: classifier_free(told, s)(z, t, c.roll(1, 0)),
    "first condition for all": lambda told, s: lambda z, t, c: classifier_free(told, s)(z, t, c[:1]),
}


@pytest.mark.parametrize("mutant", FREE_MUTANTS.values(), ids=FREE_MUTANTS)
def test_wrong_classifier_free_guidance_is_seen(mutant):
    assert free_error(mutant) > 1e-2


@every_shape
@every_schedule
def test_both_guidances_are_one_denoiser_under_an_exact_classifier(shape, schedule):
    prior, z = classes(shape), states(shape)
    for k in range(3):
        cond = torch.full((4, 1), float(k))
        for s in (0.0, 0.5, 1.0, 3.0, -1.0):
            for t in (0.05, 0.5, torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)):
                free = classifier_free(by_class(prior, schedule), s)(z, t, cond)
                by_gradient = classifier(denoiser_for(prior, schedule), bayes(prior, k, schedule), schedule, s)(z, t)
                assert largest(free, by_gradient) < 1e-9 * (1 + free.abs().max())


def test_one_condition_and_one_null_serve_a_batch_and_calls_are_not_wasted():
    prior, schedule = classes((1, 2, 2)), vp_linear()
    z, told = states((1, 2, 2)), count_calls(by_class(prior, schedule))
    all_one = torch.ones(4, 1)
    expected = classifier_free(told, 3.0)(z, 0.5, all_one)
    assert told.calls == 2
    torch.testing.assert_close(classifier_free(told, 3.0, null=-torch.ones(1, 1))(z, 0.5, all_one[:1]), expected)
    torch.testing.assert_close(with_condition(classifier_free(told, 3.0), all_one[:1])(z, 0.5), expected)
    for scale, answer in ((1.0, told(z, 0.5, all_one)), (0.0, told(z, 0.5))):
        told.calls = 0
        assert torch.equal(classifier_free(told, scale)(z, 0.5, all_one), answer) and told.calls == 1
    filled = classifier_free(denoiser_for(only(prior, 1), schedule), 3.0, unconditional=denoiser_for(prior, schedule))
    torch.testing.assert_close(filled(z, 0.5), expected)
    single = classifier_free(told, 3.0)(z.float(), 0.5, all_one)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=0)


def test_a_network_is_shown_the_null_condition_it_was_trained_with():
    seen = []

    def network(u, level, cond):
        seen.append(cond)
        return u * 0 + (0 if cond is None else cond)

    denoiser, z, cond = NetworkDenoiser(network, "z_0"), states((3, 4, 4)), torch.rand(4, 3, 4, 4)
    found = classifier_free(denoiser, 2.0)(z, 0.5, cond)
    assert seen[1] is None and torch.equal(seen[0], cond)
    torch.testing.assert_close(found, 2 * cond.double())
    found = classifier_free(denoiser, 2.0, null=torch.full((1, 3, 4, 4), 0.25))(z, 0.5, cond)
    assert torch.equal(seen[3], torch.full((4, 3, 4, 4), 0.25))
    torch.testing.assert_close(found, 2 * cond.double() - 0.25)


def test_outside_of_the_interval_guidance_is_off():
    prior, schedule = classes((2, 3, 2)), edm(20.0)
    z, told = states((2, 3, 2)), by_class(prior, schedule)
    counted = count_calls(told)
    guided = classifier_free(counted, 4.0, interval=(0.2, 0.6))
    for t, calls in ((0.1, 1), (0.2, 2), (0.4, 2), (0.6, 2), (0.61, 1)):
        counted.calls = 0
        expected = classifier_free(told, 4.0 if calls == 2 else 1.0)(z, t, TOLD)
        torch.testing.assert_close(guided(z, t, TOLD), expected)
        assert counted.calls == calls
    t = torch.tensor([0.1, 0.2, 0.6, 0.7], dtype=torch.float64)
    each = classifier_free(told, torch.tensor([1.0, 4.0, 4.0, 1.0]))(z, t, TOLD)
    torch.testing.assert_close(guided(z, t, TOLD), each)
    nothing = classifier_free(told, 0.0, interval=(0.2, 0.6))
    torch.testing.assert_close(nothing(z, 0.1, TOLD), told(z, 0.1, TOLD))  # off is scale 1, not scale 0


@every_shape
def test_rescaling_gives_back_the_standard_deviation_of_every_sample(shape):
    prior, schedule = classes(shape), vp_linear()
    z, told = states(shape), by_class(prior, schedule)
    answer, plain = told(z, 0.5, TOLD), classifier_free(told, 6.0)(z, 0.5, TOLD)
    spread = lambda x: x.flatten(1).numpy().std(1)  # noqa: E731
    full = classifier_free(told, 6.0, rescale=1.0)(z, 0.5, TOLD)
    assert spread(full) == pytest.approx(spread(answer), rel=1e-10)
    assert spread(plain) != pytest.approx(spread(answer), rel=0.02)
    part = classifier_free(told, 6.0, rescale=0.7)(z, 0.5, TOLD)
    torch.testing.assert_close(part, 0.7 * full + 0.3 * plain)
    ratio = torch.from_numpy(spread(answer) / spread(plain)).view(-1, 1, 1, 1)
    torch.testing.assert_close(full, ratio * plain)
    torch.testing.assert_close(classifier_free(told, 1.0, rescale=1.0)(z, 0.5, TOLD), answer)


def test_a_sample_without_spread_is_left_alone():
    flat = classifier_free(lambda z, t, c=None: z * 0 + (0.5 if c is None else 1.0), 2.0, rescale=1.0)
    assert torch.equal(flat(torch.ones(2, 3), 0.5, torch.ones(2, 1)), torch.full((2, 3), 1.5))


def test_bad_requests_are_refused():
    told, z = by_class(classes((1, 2, 2)), vp_linear()), states((1, 2, 2))
    for options, message in (
        ({"scale": math.inf}, "scale must be one finite number or one per sample"),
        ({"scale": torch.ones(2, 2)}, "scale must be one finite number or one per sample"),
        ({"scale": 2.0, "rescale": 1.5}, "rescale must lie between 0 and 1, but 1.5 came"),
        ({"scale": 2.0, "interval": (0.6, 0.2)}, "interval must be two times with 0 <= t_low <= t_high <= 1"),
        ({"scale": 2.0, "interval": (0.0, 1.5)}, "interval must be two times"),
        ({"scale": 2.0, "null": torch.ones(1, 1), "unconditional": told}, "hand in one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier_free(told, **options)
    with pytest.raises(ValueError, match="cond must be the condition to guide to, but None came"):
        classifier_free(told, 3.0)(z, 0.5)
    with pytest.raises(ValueError, match="times must be one number or one per sample"):
        classifier_free(told, torch.tensor([1.0, 2.0]))(z, 0.5, TOLD)
    with pytest.raises(ValueError, match="the unconditional denoiser's answer and z must have the same shape"):
        classifier_free(told, 3.0, unconditional=lambda z, t: z[:, :, :1])(z, 0.5, TOLD)


# -------------------------------------------------------------------------------------------- what guidance samples


PAIRS = [
    (1.0, 0.1, 0.0, 1.0),
    (0.7, 0.4, -0.3, 0.4),
    (-1.0, 2.0, 0.5, 0.5),
]  # mean, variance, and those without condition


def flowed(s, pair, schedule, t_max=1.0):
    """Mean and variance after the flow of (1 - s) score_u + s score_c from N(0, sigma^2) at t_max to 0, by quadrature.

    In r = (sigma / alpha)^2 the homogeneous solution is phi = (v_c + r)^(s / 2) (v_u + r)^((1 - s) / 2).
    """
    mean, v, null_mean, null_v = pair
    end = (schedule.sigma(t_max) / schedule.alpha(t_max)).item() ** 2
    log_phi = lambda r: s / 2 * math.log(v + r) + (1 - s) / 2 * math.log(null_v + r)  # noqa: E731
    pull = lambda r: (s * mean / (v + r) + (1 - s) * null_mean / (null_v + r)) / 2  # noqa: E731
    pieces = [0.0, *[10.0**k for k in range(-3, 9) if 10.0**k < end], end]
    area = sum(
        quad(lambda r: pull(r) * math.exp(-log_phi(r)), a, b, epsrel=1e-12)[0]
        for a, b in zip(pieces, pieces[1:], strict=False)
    )
    return math.exp(log_phi(0)) * area, math.exp(2 * (log_phi(0) - log_phi(end))) * end


def line(pair, schedule):
    """Two denoisers for the pair, to be put on a line."""
    mean, v, null_mean, null_v = (torch.tensor([x], dtype=torch.float64) for x in pair)
    return denoiser_for(Gaussian(mean, v[None]), schedule), denoiser_for(Gaussian(null_mean, null_v[None]), schedule)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 2.0, 4.0, -1.0])
def test_guided_gaussian_is_the_end_of_the_flow_from_infinite_noise(pair, s):
    mean, variance = guided_gaussian(s, *pair)
    far_mean, far_variance = flowed(s, pair, edm(1e6))
    assert variance == pytest.approx(pair[1] ** s * pair[3] ** (1 - s), rel=1e-12)
    assert variance == pytest.approx(far_variance, rel=1e-9)
    assert mean == pytest.approx(far_mean, abs=1e-4 * (1 + abs(far_mean)))  # what r > 1e12 would add: 1 / sqrt(r)
    if s == 2:
        q = pair[1] / pair[3]
        root = (1 - q) ** 0.5 if q < 1 else (q - 1) ** 0.5
        bend = 1.0 if q == 1 else math.atanh(root) / root if q < 1 else math.atan(root) / root
        assert mean == pytest.approx(pair[2] + (1 + q * bend) * (pair[0] - pair[2]), rel=1e-12)


@pytest.mark.parametrize("schedule", [vp_linear(), edm(50.0), ve()], ids=["vp", "edm", "ve"])
@pytest.mark.parametrize("s", [0.0, 1.0, 2.5])
def test_a_fine_solver_ends_in_the_closed_form(schedule, s):
    """The flow is affine, so two starts give its law."""
    for pair in PAIRS:
        conditional, unconditional = line(pair, schedule)
        guided = classifier_free(conditional, s, unconditional=unconditional)
        z = schedule.sigma(1.0) * torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        times = torch.tensor([1.0, 1e-2, 1e-6, 0.0])
        end = last(probability_flow(guided, schedule, z, times, solver="scipy", rtol=1e-10, atol=1e-10))
        mean, variance = flowed(s, pair, schedule)
        rate = (
            s / pair[1] + abs(1 - s) / pair[3]
        )  # the last jump is first order in the variance of the noise left there
        tolerance = 1e-7 + 2 * rate * schedule.sigma(times[-2]).item() ** 2
        assert end[0].item() == pytest.approx(mean, rel=tolerance, abs=tolerance)
        assert (end[1] - end[0]).item() ** 2 == pytest.approx(variance, rel=tolerance)


def test_guidance_does_not_sample_the_tempered_law():
    """p_c^s p_u^(1 - s) has another variance and another mean; both agree at s = 0 and 1 only."""
    mean, v, null_mean, null_v = PAIRS[0]
    for s in (0.0, 0.5, 1.0, 2.0, 4.0):
        precision = s / v + (1 - s) / null_v
        tempered = torch.tensor([(s * mean / v + (1 - s) * null_mean / null_v) / precision, 1 / precision])
        guided = torch.tensor(guided_gaussian(s, *PAIRS[0]))
        if s in (0.0, 1.0):
            torch.testing.assert_close(guided, tempered)
        else:
            assert largest(guided, tempered) > 0.02
    assert guided_gaussian(4.0, *PAIRS[0])[1] == pytest.approx(1e-4)


def test_the_law_holds_along_common_axes():
    """Two dimensions with rotated covariances, the heun solver on a fine grid, exact law from its Jacobian."""
    schedule, s = edm(1000.0), 2.0
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    means = turn @ torch.tensor([[1.0, 0.0], [-0.5, 0.2]], dtype=torch.float64)  # columns: with and without condition
    variances = torch.tensor([[0.1, 0.5], [1.0, 0.8]], dtype=torch.float64)  # rows: with and without condition
    laws = [Gaussian(means[:, i], turn * variances[i] @ turn.T) for i in range(2)]
    guided = classifier_free(denoiser_for(laws[0], schedule), s, unconditional=denoiser_for(laws[1], schedule))
    times = log_snr_times(schedule, 400, t_min=1e-7)
    found = affine_law(lambda n: last(heun(guided, schedule, 1000 * n(torch.empty(1, 2).double()), times)), 2)
    along = turn.T @ means
    each = [
        guided_gaussian(s, along[i, 0].item(), variances[0, i].item(), along[i, 1].item(), variances[1, i].item())
        for i in range(2)
    ]
    mean, variance = (torch.tensor(part, dtype=torch.float64) for part in zip(*each, strict=True))
    assert gaussian_w2(*found, turn @ mean, turn * variance @ turn.T) < 2e-3
    assert gaussian_w2(*found, means[:, 0], laws[0].covariance) > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.0, 0.0, 0.0), "variance must be a positive number, but 0.0 came"),
        ((2.0, 0.0, 1.0, 0.0, -1.0), "null_variance must be a positive number, but -1.0 came"),
        ((math.inf, 0.0, 1.0), "scale must be a finite number, but inf came"),
    ],
)
def test_bad_gaussians_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        guided_gaussian(*arguments)
