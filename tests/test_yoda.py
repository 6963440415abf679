"""YODA: its mask over time, the merged pixels' level, the exact law of its samples, its loss, its errors, its record."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
import torch

from tutorial_lib.denoisers import count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool
from tutorial_lib.oracles import Gaussian, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.samplers import ddim, ddpm, last, trajectory
from tutorial_lib.schedules import edm, flow, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import ddim_step, posterior_std
from tutorial_lib.yoda import diffused, importance, masked_loss, masked_state, share, yoda

double = torch.float64
SCHEDULES = {"vp": vp_linear(), "cosine": vp_cosine(), "ve": edm(3.0), "flow": flow()}
EVERY = pytest.mark.parametrize("name", SCHEDULES)
EVERY_C = pytest.mark.parametrize("channels", [1, 2, 3, 5])


def draw(*shape, seed=0):
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def same(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def smooth(shape=(1, 2, 4)):
    """A Gaussian prior of neighbours that agree, its 2x2 pooling of one sample, and the exact posterior."""
    rows, columns = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).double()
    prior = Gaussian(torch.full(shape, 0.2, dtype=double), torch.exp(-torch.cdist(places, places) / 3))
    x = AveragePool(2)(prior.sample(1, standard_normal(5)))
    return prior, x, prior.posterior(AveragePool(2), x, 0.1)


# --------------------------------------------------------------------------------------------------------------- the mask


def test_a_pixel_is_diffused_from_its_importance_on():
    a = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=double).view(1, 1, 1, 4)
    for t, lowest, expected in (
        (1.0, 0.0, [0, 0, 0, 1]),
        (0.5, 0.0, [0, 0, 1, 1]),  # at the time of its importance a pixel takes part
        (0.51, 0.0, [0, 0, 0, 1]),
        (0.0, 0.0, [1, 1, 1, 1]),
        (0.4, 0.2, [0, 1, 1, 1]),  # 0.2 + 0.8 * 0.25 = 0.4
        (0.2, 0.2, [1, 1, 1, 1]),
        (1.0, 1.0, [1, 1, 1, 1]),
    ):
        assert diffused(a, t, lowest).flatten().tolist() == expected
    both = diffused(a.expand(2, -1, -1, -1), torch.tensor([0.3, 0.6]), 0.0)
    assert both[:, 0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    assert diffused(a.float(), 0.5).dtype == torch.float32


def test_share_counts_the_diffused_pixels_of_the_steps():
    a = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=double).view(1, 1, 2, 2)
    same(share(a, uniform_times(4)), torch.tensor([(1 + 1 + 2 + 3) / 16], dtype=double))  # leaving 1, .75, .5, .25
    same(share(torch.ones_like(a), uniform_times(7)), torch.ones(1, dtype=double))


@EVERY_C
def test_importance_is_local_contrast_alone_per_image(channels):
    lr = torch.rand(3, channels, 6, 9, generator=torch.Generator().manual_seed(1), dtype=double)
    found = importance(lr)
    grey = np.pad(lr.mean(1).numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.array([[[g[i : i + 3, j : j + 3].std() for j in range(9)] for i in range(6)] for g in grey])
    expected /= expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=1e-12)
    same(importance(0.3 * lr + 0.1), found, 1e-10)  # neither gain nor offset
    large = importance(lr, 4)
    assert large.shape == (3, 1, 24, 36) and large.min() >= 0 and large.max() <= 1
    same(importance(lr[1:2], 4), large[1:2])
    assert importance(torch.full_like(lr, 0.5)).abs().max() == 0


# ------------------------------------------------------------------------------------------------------------ the sampler


@EVERY
@EVERY_C
def test_masks_of_ones_are_ddim_and_ddpm_bit_for_bit(name, channels):
    schedule, z, times = SCHEDULES[name], draw(2, channels, 4, 6), uniform_times(6)
    guide, ones = draw(1, channels, 4, 6, seed=1), torch.ones(1, 1, 4, 6)
    restore = lambda z, t: torch.tanh(z)  # noqa: E731
    for eta in (0.0, 0.4, 1.0):
        ours = last(yoda(restore, schedule, guide, ones, z, times, eta=eta, noise=standard_normal(3)))
        theirs = last(ddim(restore, schedule, z, times, eta, standard_normal(3)))
        assert torch.equal(ours, theirs)
    theirs = last(ddpm(restore, schedule, z, times, noise=standard_normal(3)))
    same(last(yoda(restore, schedule, guide, ones, z, times, noise=standard_normal(3))), theirs)


@EVERY
def test_a_pixel_that_is_never_diffused_is_the_guide_noised_to_the_level_of_s(name):
    schedule, z, times = SCHEDULES[name], draw(2, 3, 4, 6), uniform_times(6)
    guide, none = draw(2, 3, 4, 6, seed=1), torch.zeros(1, 1, 4, 6)
    states = trajectory(yoda(lambda z, t: torch.tanh(z), schedule, guide, none, z, times, noise=standard_normal(3)))
    noise = standard_normal(3)
    for state in states[1:]:
        white = noise(z) if schedule.sigma(state.t) > 0 else 0
        same(state.z, schedule.alpha(state.t) * guide + schedule.sigma(state.t) * white)
    same(states[-1].z, guide)


def variances(step, schedule, t, s):
    """Exact Var[z_s | z_0] of every pixel after one `step` with the true z_0 as the answer and a right state at t."""
    truth = draw(1, 1, 2, 3, seed=2)

    def run(noise):
        z = schedule.alpha(t) * truth + schedule.sigma(t) * noise(truth)
        return step(z, truth, t, s, noise)

    mean, law = affine_law(run, 6)
    same(mean, schedule.alpha(s) * truth.flatten())  # the guide of this test is the truth too
    return law


HALF = torch.tensor([[0.2, 0.9, 0.5], [1.0, 0.0, 0.6]], dtype=double).view(1, 1, 2, 3)


def ours(schedule):
    def step(z, truth, t, s, noise):
        return trajectory(yoda(lambda z, t: truth, schedule, truth, HALF, z, torch.stack([t, s]), noise=noise))[-1].z

    return step


def at_level_t(schedule):
    """The bug of public ILVR code: pixels that join are noised to t, the level that has just been left."""

    def step(z, truth, t, s, noise):
        white = noise(z)
        proposal = ddim_step(z, truth, schedule, t, s, 1.0, lambda like: white)
        merged = schedule.alpha(s) * truth + schedule.sigma(t) * white
        return torch.where(diffused(HALF, t) > 0, proposal, merged)

    return step


@EVERY
def test_every_state_is_at_the_level_of_s(name):
    schedule, (t, s) = SCHEDULES[name], torch.tensor([0.55, 0.3], dtype=double)
    same(variances(ours(schedule), schedule, t, s), schedule.sigma(s) ** 2 * torch.eye(6, dtype=double))
    wrong = variances(at_level_t(schedule), schedule, t, s).diagonal() - schedule.sigma(s) ** 2
    assert (wrong > 1e-3).tolist() == (HALF < 0.55).flatten().tolist()


def dense_law(posterior, schedule, guide, begin, times, inverted=False):
    """Mean and covariance of YODA's samples by hand: matrices, no sampler."""
    mean_0, covariance = posterior.means[0], posterior.covariances[0]
    size, identity = len(mean_0), torch.eye(len(mean_0), dtype=double)
    mean, law = torch.zeros(size, dtype=double), schedule.sigma(times[0]) ** 2 * identity
    for t, s in zip(times[:-1], times[1:], strict=True):
        a, sigma, b, left = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        gain = a * covariance @ torch.linalg.inv(a**2 * covariance + sigma**2 * identity)
        std = posterior_std(schedule, t, s) if left > 0 else left
        along = (left**2 - std**2).sqrt() / sigma
        jacobian = (b - along * a) * gain + along * identity
        chosen = (t <= begin).to(double)
        chosen = 1 - chosen if inverted else chosen
        stepped = (b - along * a) * (mean_0 - a * gain @ mean_0) + jacobian @ mean
        mean = chosen * stepped + (1 - chosen) * b * guide
        law = torch.diag(chosen) @ jacobian @ law @ jacobian.T @ torch.diag(chosen)
        law = law + torch.diag(chosen * std**2 + (1 - chosen) * left**2)
    return mean, law


def test_on_a_gaussian_pair_the_law_of_the_samples_is_the_dense_one():
    prior, x, posterior = smooth()
    schedule, times, lowest = vp_linear(), uniform_times(40), 0.2
    guide = AveragePool(2).pinv(x)
    chosen = torch.linspace(0, 1, 8, dtype=double).view(1, 1, 2, 4)
    told = denoiser_for(posterior, schedule)

    def run(noise):
        return last(yoda(told, schedule, guide, chosen, noise(guide), times, lowest, noise=noise))

    mean, law = affine_law(run, 8)
    begin = lowest + (1 - lowest) * chosen.flatten()
    by_hand = dense_law(posterior, schedule, guide.flatten(), begin, times)
    same(mean, by_hand[0])
    same(law, by_hand[1], 1e-9)
    inverted = dense_law(posterior, schedule, guide.flatten(), begin, times, inverted=True)
    assert (inverted[0] - mean).abs().max() > 0.01 and (inverted[1] - law).abs().max() > 0.01


def test_with_every_pixel_the_told_posterior_is_reached_and_late_starts_cost():
    prior, x, posterior = smooth()
    schedule, guide = vp_linear(), AveragePool(2).pinv(x)
    told, truth = denoiser_for(posterior, schedule), (posterior.means[0], posterior.covariances[0])

    def distance(start, n):
        chosen = torch.full((1, 1, 2, 4), start, dtype=double)

        def run(noise):
            return last(yoda(told, schedule, guide, chosen, noise(guide), uniform_times(n), noise=noise))

        return gaussian_w2(*affine_law(run, 8), *truth)

    assert distance(1.0, 200) < 0.55 * distance(1.0, 100) < 0.3 * distance(1.0, 25)  # first order
    late = [distance(start, 100) for start in (0.0, 0.05, 0.1, 0.2, 0.4)]
    assert all(a > b for a, b in zip(late[:-1], late[1:], strict=True))
    assert (
        abs(late[0] - gaussian_w2(guide.flatten(), torch.zeros(8, 8, dtype=double), *truth)) < 1e-9
    )  # the guide alone


def test_samples_of_a_batch_do_not_meet_and_calls_are_counted():
    schedule, z, times = vp_cosine(), draw(3, 2, 4, 6), uniform_times(5)
    guide, chosen = draw(3, 2, 4, 6, seed=1), torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(2))
    counted = count_calls(lambda z, t: torch.tanh(z))
    silent = lambda like: torch.full_like(like, 0.3)  # noqa: E731
    together = last(yoda(counted, schedule, guide, chosen, z, times, 0.1, noise=silent))
    assert counted.calls == 5
    for i in range(3):
        part = slice(i, i + 1)
        same(
            last(yoda(counted, schedule, guide[part], chosen[part], z[part], times, 0.1, noise=silent)), together[part]
        )
    first = last(yoda(counted, schedule, guide, chosen, z, times))
    assert torch.equal(first, last(yoda(counted, schedule, guide, chosen, z, times)))  # its own seed
    single = last(yoda(counted, schedule, guide.float(), chosen, z.float(), times, noise=silent))
    assert single.dtype == torch.float32


# --------------------------------------------------------------------------------------------------------------- training


def test_loss_and_state_by_hand():
    mask = torch.tensor([[[[1.0, 0.0]]], [[[0.0, 0.0]]]], dtype=double)
    output = torch.tensor([[[[3.0, 5.0]], [[1.0, 7.0]]]] * 2, dtype=double)  # (2, 2, 1, 2)
    same(masked_loss(output, torch.zeros_like(output), mask), torch.tensor([(9 + 1) / 4, 0.0], dtype=double))
    z_0, guide, schedule = draw(2, 2, 1, 2), draw(2, 2, 1, 2, seed=1), vp_linear()
    t = torch.tensor([0.3, 0.8], dtype=double)
    z, eps = masked_state(z_0, guide, mask, schedule, t, standard_normal(2))
    same(eps, draw(2, 2, 1, 2, seed=2))
    for i in range(2):
        mixed = mask[i] * z_0[i] + (1 - mask[i]) * guide[i]
        same(z[i], schedule.alpha(t[i]) * mixed + schedule.sigma(t[i]) * eps[i])


def test_what_is_not_diffused_teaches_nothing():
    output = draw(2, 3, 4, 4).requires_grad_()
    mask = diffused(torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), 0.5)
    masked_loss(output, torch.zeros(2, 3, 4, 4, dtype=double), mask).sum().backward()
    assert ((output.grad != 0) == (mask > 0).expand_as(output)).all()


def test_the_record_is_complete():
    """Chapter 13 draws it; `benchmarks/yoda.py --json` writes it."""
    record = json.loads(resources.files("tutorial_lib.data").joinpath("yoda.json").read_text())
    cells, seeds = record["cells"], record["seeds"]
    assert seeds >= 3 and {"PSNR", "W1"} <= record["bicubic"].keys()
    for training in ("plain", "masked", "plain, batch of 2", "masked, batch of 2"):
        ways = [cells[f"{training}/{way}"] for way in ("every pixel", "YODA", "one late start")]
        for cell in ways:
            assert all(len(cell[m]) == seeds and np.isfinite(cell[m]).all() for m in ("PSNR", "W1", "shift", "share"))
        assert set(ways[0]["share"]) == {1.0}
        np.testing.assert_allclose(ways[1]["share"], ways[2]["share"], atol=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, z: diffused(a, 0.5, 1.5), "lowest must lie between 0 and 1, but 1.5 came"),
        (lambda a, z: diffused(2 * a, 0.5), "importance must lie between 0 and 1, but it runs from 2 to 2"),
        (lambda a, z: importance(z[0]), r"lr must be a floating-point batch \(B, C, H, W\), but"),
        (lambda a, z: importance(z, 4, 2), "window must be odd, but 2 came"),
        (lambda a, z: importance(z, 0), "scale must be a whole number of at least 1, but 0 came"),
        (lambda a, z: masked_loss(z, z[:1], a), "output and target"),
        (lambda a, z: masked_state(z, z[:1], a, vp_linear(), 0.5, standard_normal(0)), "z_0 and guide"),
        (
            lambda a, z: yoda(None, vp_linear(), z[:, :1], a, z, [1.0, 0.0]),
            r"guide must have the shape \(1 or 2, 3, 4, 4\)",
        ),
        (
            lambda a, z: yoda(None, vp_linear(), z, z, z, [1.0, 0.0]),
            r"importance must have the shape \(1 or 2, 1, 4, 4\)",
        ),
        (lambda a, z: yoda(None, vp_linear(), z, a, z, [0.0, 1.0]), "times must decrease"),
        (lambda a, z: yoda(None, vp_linear(), z, a - 0.5, z, [1.0, 0.0], 2.0), "lowest must lie between 0 and 1"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 1, 4, 4, dtype=double), draw(2, 3, 4, 4))
