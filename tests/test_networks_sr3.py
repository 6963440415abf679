"""SR3's network: exact where a Gaussian residual makes it so, local enough for tiles, and steady in size."""

from __future__ import annotations

import math

import pytest
import torch
from test_networks import reach, wake
from torch import Generator

from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.networks import LocalSpread, SR3Network, sr3
from tutorial_lib.networks.sr3 import BigGANBlock
from tutorial_lib.networks.unet import noise_embedding
from tutorial_lib.oracles import Gaussian
from tutorial_lib.pretrained import LOCAL_SPREADS
from tutorial_lib.schedules import vp_cosine, vp_linear
from tutorial_lib.tiles import MARGIN

LEVELS = torch.tensor([-2.4, -1.0, -0.2, 0.0, 0.3, 1.0, 2.0], dtype=torch.float64)


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


VARYING = LocalSpread(floor=0.05, gain=1.5, most=0.4, window=3)
SPREADS = {
    "the same everywhere": LocalSpread(floor=0.1, gain=0.0, most=1.0, window=3),
    "large": LocalSpread(floor=1.0, gain=0.0, most=1.0, window=1),
    "local": VARYING,
}


def small(colors=3, fold=4, spread=VARYING, **options):
    return SR3Network(spread, (8, 12), 1, fold, colors=colors, embedding=16, **options).double()


def exact_eps(u, level, mean, spread):
    """E[eps given u] when z_0 is N(mean, spread^2), each pixel for itself, one image at a time, by the Gaussian oracle."""
    answers = []
    for z, one, centre, std in zip(u, level, mean, spread.expand(mean.shape), strict=True):
        alpha, sigma = torch.sigmoid(8 * one).sqrt(), torch.sigmoid(-8 * one).sqrt()
        prior = Gaussian(centre, torch.diag(std.flatten() ** 2))
        answers.append((z - alpha * prior.denoise(z[None], alpha, sigma)[0]) / sigma)
    return torch.stack(answers)


def error(answer, spread=VARYING):
    """How far the untrained network (its body is zero) is from the exact answer, at its worst over the levels."""
    n = len(LEVELS)
    cond, u = 0.3 * draw(n, 2, 4, 6), draw(n, 2, 4, 6, seed=2)
    return (answer(small(2, 2, spread), u, LEVELS, cond) - exact_eps(u, LEVELS, cond, spread(cond))).abs().max().item()


def called(network, u, level, cond):
    return network(u, level, cond)


@pytest.mark.parametrize("spread", SPREADS)
def test_a_body_of_zeros_is_exact_for_a_white_residual(spread):
    assert error(called, SPREADS[spread]) < 1e-9


def half_the_level(network, u, level, cond):
    return network(u, level / 2, cond)


def level_squared(network, u, level, cond):
    """gamma handed in where sqrt(gamma) is meant: alpha and sigma squared."""
    squared = torch.sigmoid(8 * level) ** 2
    return network(u, torch.logit(squared) / 8, cond)


def spread_squared(network, u, level, cond):
    network.spread = lambda cond, noise_std: VARYING(cond, noise_std) ** 2
    return network(u, level, cond)


def one_spread(network, u, level, cond):
    """The mean of the spread instead of the spread at each pixel."""
    network.spread = lambda cond, noise_std: VARYING(cond, noise_std).mean().expand(len(cond), 1, *cond.shape[2:])
    return network(u, level, cond)


def cond_unscaled(network, u, level, cond):
    """cond subtracted as it is, not times alpha."""
    alpha = torch.sigmoid(8 * level).sqrt().view(-1, 1, 1, 1)
    return network(u, level, cond / alpha)


def noise_on_the_wrong_image(network, u, level, cond):
    """Erratum E10: the LR image is noised and the state stays clean."""
    return network(cond, level, u)


def without_cond(network, u, level, cond):
    return network(u, level, torch.zeros_like(cond))


MUTANTS = [
    half_the_level,
    level_squared,
    spread_squared,
    one_spread,
    cond_unscaled,
    noise_on_the_wrong_image,
    without_cond,
]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_reading_is_seen(mutant):
    assert error(mutant) > 1e-2


@pytest.mark.parametrize("schedule", [vp_cosine(), vp_linear()], ids=["cosine", "linear"])
def test_through_a_denoiser_it_is_the_oracle(schedule):
    """NetworkDenoiser reads it as eps and hands it log-SNR / 8: together they return E[z_0 given z_t]."""
    cond, z = 0.3 * draw(1, 3, 4, 8), draw(1, 3, 4, 8, seed=2)
    denoiser = NetworkDenoiser(small().float(), "eps", schedule)
    prior = Gaussian(cond[0], torch.diag(VARYING(cond).expand(cond.shape).flatten() ** 2))
    for t in (0.1, 0.4, 0.7):
        exact = prior.denoise(z, schedule.alpha(t), schedule.sigma(t))
        torch.testing.assert_close(denoiser(z, t, cond.float()), exact, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("std", [0.0, 0.3, 0.8])
def test_an_augmented_condition_is_scaled_back(std):
    """cond = sqrt(gamma) x + sqrt(1 - gamma) noise, sqrt(1 - gamma) beside it: the network starts from cond / sqrt(gamma)."""
    network = small(2, 2, augmented=True)
    n = len(LEVELS)
    x, u = 0.3 * draw(n, 2, 4, 6), draw(n, 2, 4, 6, seed=2)
    cond = torch.cat([math.sqrt(1 - std**2) * x, torch.full((n, 1, 4, 6), std, dtype=torch.float64)], 1)
    spread = VARYING(x, std / math.sqrt(1 - std**2))  # noise of this deviation is left in cond / sqrt(gamma)
    torch.testing.assert_close(network(u, LEVELS, cond), exact_eps(u, LEVELS, x, spread), atol=1e-9, rtol=0)
    network = wake(network)
    other = torch.cat([cond[:, :2], (cond[:, 2:] + 0.05).clamp(max=0.9)], 1)
    assert not torch.allclose(network(u, LEVELS, other), network(u, LEVELS, cond))


@pytest.mark.parametrize("level", [-1.5, 0.0, 0.5, 1.5])
def test_what_the_body_is_asked_has_unit_variance(level):
    """For a Gaussian residual, both the body's first input and its target have variance 1, within four standard errors."""
    network, n = small(1, 1, SPREADS["the same everywhere"]), 40_000
    alpha, sigma = (torch.tensor(sign * 8 * level).double().sigmoid().sqrt() for sign in (1, -1))
    cond, residual, eps = draw(n, 1, 1, 1), 0.1 * draw(n, 1, 1, 1, seed=2), draw(n, 1, 1, 1, seed=3)
    u, levels = alpha * (cond + residual) + sigma * eps, torch.full((n,), level, dtype=torch.float64)
    seen = []
    network.body = lambda centred, *_: torch.zeros_like(centred)
    zero = network(u, levels, cond)
    network.body = lambda centred, *_: seen.append(centred) or torch.ones_like(centred)
    per_body = network(u, levels, cond) - zero
    for part in (seen[0], (eps - zero) / per_body):
        assert abs(part.square().mean() - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (4, 7)])
@pytest.mark.parametrize("colors", [1, 2, 3, 5])
@pytest.mark.parametrize("fold", [1, 2, 4])
def test_any_grid_any_colors_and_no_influence_between_batch_mates(size, colors, fold):
    network = wake(small(colors, fold))
    shape = (3, colors, size[0] * fold, size[1] * fold)
    u, cond, level = draw(*shape), draw(*shape, seed=2), torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64)
    out = network(u, level, cond)
    assert out.shape == shape and torch.isfinite(out).all()
    torch.testing.assert_close(network(u[1:], level[1:], cond[1:]), out[1:])
    visible = torch.zeros(3, 1, *size, dtype=torch.float64)
    body = network.body(u, cond, visible, level)
    for other in ((u, cond + 0.5, visible, level), (u, cond, visible + 0.5, level), (u, cond, visible, level + 0.5)):
        assert not torch.allclose(network.body(*other), body)


def test_it_reaches_less_than_the_margin_of_tiles():
    network, level = wake(SR3Network(LOCAL_SPREADS["photo-sr3-x4"], (8, 8))), torch.zeros(1, dtype=torch.float64)
    shown = {
        "state": reach(lambda z: network(z, level, torch.zeros_like(z)), 120, 4),
        "condition": reach(lambda z: network(torch.zeros_like(z), level, z), 120, 4),
    }
    assert all(10 < found < MARGIN for found in shown.values()), shown


def square_after(blocks, block=BigGANBlock.forward):
    """Mean square of what a chain of fresh blocks makes of white noise, away from the border."""
    torch.manual_seed(0)
    chain = [BigGANBlock(48, 48, 8) for _ in range(blocks)]
    x, embedding = draw(2, 48, 40, 40).float(), torch.zeros(2, 8)
    with torch.no_grad():
        for one in chain:
            x = block(one, x, embedding)
    return x[..., 12:-12, 12:-12].square().mean().item()


def undivided(block, x, embedding):
    return math.sqrt(2) * block(x, embedding)


def without_skip(block, x, embedding):
    return block(x, embedding) - x / math.sqrt(2)


def test_blocks_keep_the_size_of_white_noise():
    assert square_after(1) == pytest.approx(1, abs=0.05)
    assert square_after(6) == pytest.approx(1, abs=0.15)
    assert square_after(1, undivided) == pytest.approx(2, abs=0.1)  # every block adds its branch's variance of one
    assert square_after(6, undivided) == pytest.approx(7, abs=0.7)
    assert square_after(1, without_skip) < 0.6


def test_a_block_that_changes_width_keeps_the_size_too():
    torch.manual_seed(0)
    x = draw(4, 64, 24, 24).float()
    with torch.no_grad():
        out = BigGANBlock(64, 96, 8)(x, torch.zeros(4, 8))[..., 2:-2, 2:-2]
    assert out.square().mean() == pytest.approx(1, abs=0.05)


def test_silu_leaves_the_stated_mean_square():
    x = torch.linspace(-10, 10, 100_001, dtype=torch.float64)
    weights = (-(x**2) / 2).softmax(0)
    assert (weights * torch.nn.functional.silu(x) ** 2).sum() == pytest.approx(0.6**2, abs=0.01)


@pytest.mark.parametrize(("resample", "size"), [("down", (3, 5)), ("up", (12, 20)), (None, (6, 10))])
def test_blocks_change_the_grid_as_asked(resample, size):
    out = BigGANBlock(4, 7, 8, resample)(draw(2, 4, 6, 10).float(), torch.zeros(2, 8))
    assert out.shape == (2, 7, *size)


def test_the_body_is_told_the_level_and_how_visible_the_residual_is(monkeypatch):
    """The level is embedded as it comes. An image beside it holds log(s^2 alpha^2 / sigma^2) / 8, s averaged over each fold."""
    told, seen = [], []
    monkeypatch.setattr(sr3, "noise_embedding", lambda level, size: told.append(level) or noise_embedding(level, size))
    network, cond = small(1, 2), 0.3 * draw(7, 1, 4, 6, seed=2)
    network.enter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -1, :2, :3]))
    network(draw(7, 1, 4, 6), LEVELS, cond)
    torch.testing.assert_close(told[0], LEVELS)
    snr = ((8 * LEVELS).sigmoid() / (-8 * LEVELS).sigmoid()).reshape(-1, 1, 1)
    mean = VARYING(cond).reshape(7, 2, 2, 3, 2).mean((2, 4))
    torch.testing.assert_close(seen[0], ((mean**2 * snr).log() / 8).clamp(-2.5, 2.5))


def spread_by_hand(cond, spread, noise_std):
    """LocalSpread pixel by pixel, its window cut off at the border."""
    out = torch.empty(len(cond), 1, *cond.shape[2:], dtype=cond.dtype)
    half = spread.window // 2
    for i in range(cond.shape[2]):
        for j in range(cond.shape[3]):
            part = cond[:, :, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
            variance = (part.flatten(2).var(2, unbiased=False).mean(1) - noise_std**2).clamp(min=0)
            x = spread.gain * variance.sqrt()
            out[:, 0, i, j] = (spread.floor**2 + 1 / (1 / x**2 + 1 / spread.most**2) + noise_std**2).sqrt()
    return out


@pytest.mark.parametrize("window", [1, 3, 5, 13])
@pytest.mark.parametrize("noise_std", [0.0, 0.2])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_local_spread_is_the_one_by_hand(channels, noise_std, window):
    spread, cond = LocalSpread(0.02, 1.5, 0.3, window), 0.3 * draw(2, channels, 5, 8)
    found = spread(cond, noise_std)
    torch.testing.assert_close(found, spread_by_hand(cond, spread, noise_std), atol=1e-6, rtol=0)
    torch.testing.assert_close(spread(cond[1:], noise_std), found[1:])
    several = torch.tensor([noise_std, 0.1], dtype=torch.float64).reshape(2, 1, 1, 1)
    torch.testing.assert_close(spread(cond, several)[:1], found[:1])


def test_the_local_spread_runs_from_floor_to_most():
    spread, wall = LocalSpread(0.01, 1.7, 0.25, 5), torch.full((1, 3, 8, 9), 0.7, dtype=torch.float64)
    torch.testing.assert_close(spread(wall), torch.full((1, 1, 8, 9), 0.01, dtype=torch.float64), atol=1e-6, rtol=0)
    grass = spread(100 * draw(1, 3, 8, 9))
    torch.testing.assert_close(grass, torch.full_like(grass, math.hypot(0.01, 0.25)), atol=1e-3, rtol=0)
    assert spread(wall.float()).dtype == torch.float32
