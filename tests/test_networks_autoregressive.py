"""The pixel model: no look ahead, probabilities that sum to one, and samples that follow them, by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Generator

from tutorial_lib.networks import PixelModel
from tutorial_lib.networks.autoregressive import RowConv

TINY = [(1, 3, (1, 1)), (1, 4, (1, 2)), (2, 3, (1, 2)), (3, 3, (1, 1)), (1, 2, (3, 2)), (5, 2, (1, 1)), (2, 2, (2, 2))]
every_tiny = pytest.mark.parametrize("tiny", TINY, ids=str)  # channels, levels, grid


def awake(channels, levels, layers=3):
    """A model of random weights, larger where the image comes in and where the laws go out, so that each number counts."""
    model, source = PixelModel(channels, 2, levels, hidden=4, layers=layers).double(), Generator().manual_seed(0)
    for p in model.parameters():
        size = 1.5 / p[0].numel() ** 0.5 if p.ndim > 1 else 0.1
        p.data = size * torch.randn(p.shape, generator=source, dtype=p.dtype)
    for layer in (model.above[0], model.row[0], model.leave):
        layer.weight.data *= 2
    return model.requires_grad_(False)


def see_own_value(model):
    """The classic mistake: mask "B" in the first layer, where the image itself comes in."""
    row = model.row[0]
    wrong = RowConv(row.in_channels, row.out_channels // 2, "B", model.channels, halves=2).double()
    row.mask = wrong.mask
    return model


def no_mask(model):
    for layer in (*model.row, model.mix, model.leave):
        layer.mask = torch.ones_like(layer.mask)
    return model


def everything(channels, levels, grid):
    """All images of a grid, (levels^(channels h w), channels, h, w)."""
    count = channels * grid[0] * grid[1]
    return torch.tensor(list(itertools.product(range(levels), repeat=count))).reshape(-1, channels, *grid)


def condition(grid, n=1, seed=1):
    one = torch.randn(1, 2, *grid, dtype=torch.float64, generator=Generator().manual_seed(seed))
    return one.expand(n, -1, -1, -1)


def total(model, tiny):
    y = everything(*tiny)
    return model.log_prob(y, condition(tiny[2], len(y))).exp().sum().item()


@every_tiny
def test_probabilities_of_all_images_sum_to_one(tiny):
    assert total(awake(*tiny[:2]), tiny) == pytest.approx(1, abs=1e-12)


@every_tiny
def test_mask_b_in_the_first_layer_breaks_the_sum(tiny):
    assert abs(total(see_own_value(awake(*tiny[:2])), tiny) - 1) > 1e-3


def dependence(model, channels, grid):
    """|d logits at (channel, pixel) / d value at (channel, pixel)|, both in raster order, as a square table."""
    y = torch.rand(1, channels, *grid, dtype=torch.float64, generator=Generator().manual_seed(3)) * (model.levels - 1)
    cond = condition(grid)
    jacobian = torch.autograd.functional.jacobian(lambda y: model.logits(y, cond), y)[0, ..., 0, :, :, :]
    n = channels * grid[0] * grid[1]
    return jacobian.abs().amax(0).permute(1, 2, 0, 4, 5, 3).reshape(n, n)


GRIDS = [(1, 1), (1, 2), (2, 1), (3, 3), (2, 4), (4, 3)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_a_number_depends_on_all_earlier_ones_and_on_nothing_else(channels, grid):
    table = dependence(awake(channels, 3), channels, grid)
    now_and_later = torch.ones_like(table).triu() > 0
    assert (table[now_and_later] == 0).all()
    assert (table[~now_and_later] > 1e-12).all(), "a blind spot"  # every grid here is within reach of three layers


@pytest.mark.parametrize("mutant", [see_own_value, no_mask])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_wrong_mask_is_seen(mutant, channels):
    assert (dependence(mutant(awake(channels, 3)), channels, (2, 2)).triu() > 1e-12).any()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_stated_reach(layers):
    """`layers` rows up, as far to the right there, and at least as far to the left."""
    size = 9
    table = dependence(awake(1, 2, layers=layers), 1, (size, size))
    seen = table[4 * size + 4].reshape(size, size) > 1e-12
    rows, columns = seen.nonzero().T
    assert rows.min() == 4 - layers and rows.max() == 4 and columns.max() == 4 + layers
    assert seen[4 - layers : 4, 4 - layers : 5 + layers].all() and seen[4, 4 - layers : 4].all()


def test_the_condition_is_read_whole():
    model, cond = awake(2, 3), condition((2, 3)).clone()
    y = torch.zeros(1, 2, 2, 3, dtype=torch.long)
    jacobian = torch.autograd.functional.jacobian(lambda cond: model.logits(y, cond), cond)[0, ..., 0, :, :, :]
    assert (jacobian.abs().amax((0, 1)).flatten(0, 1).amax(2).flatten(1) > 1e-12).all()


@pytest.mark.parametrize(("channels", "levels", "grid"), TINY)
def test_it_starts_at_the_uniform_law(channels, levels, grid):
    y = everything(channels, levels, grid)
    cond = torch.zeros(len(y), 2, *grid)
    expected = -channels * grid[0] * grid[1] * math.log(levels)
    torch.testing.assert_close(PixelModel(channels, 2, levels).log_prob(y, cond), torch.full((len(y),), expected))


def at_once(model, cond, generator):
    """The mistake: every number is drawn from the laws given an image of zeros, in one call."""
    blank = torch.zeros(len(cond), model.channels, *cond.shape[2:], dtype=torch.long)
    laws = model.logits(blank, cond).softmax(1).movedim(1, -1)
    return torch.multinomial(laws.flatten(0, -2), 1, generator=generator).reshape(blank.shape)


def backwards(model, cond, generator):
    """The mistake: the raster is walked from the last number to the first."""
    y = torch.zeros(len(cond), model.channels, *cond.shape[2:], dtype=torch.long)
    for index in reversed(list(itertools.product(*map(range, y.shape[1:])))):
        law = model.logits(y, cond)[(slice(None), slice(None), *index)].softmax(1)
        y[(slice(None), *index)] = torch.multinomial(law, 1, generator=generator)[:, 0]
    return y


def flipped(model, cond, generator):
    """The mistake: the numbers are right, and in the wrong places."""
    return model.sample(cond, generator).flip(1, 2, 3)


def p_value(sample, tiny, n=4_000):
    """Chi-square test of n samples against the probabilities of all images; unlikely ones are counted together."""
    model, y = awake(*tiny[:2]), everything(*tiny)
    expected = n * model.log_prob(y, condition(tiny[2], len(y))).exp()
    drawn = sample(model, condition(tiny[2], n), Generator().manual_seed(0)).flatten(1)
    codes = (drawn * tiny[1] ** torch.arange(drawn.shape[1] - 1, -1, -1)).sum(1)
    counts = torch.bincount(codes, minlength=len(y)).double()
    rare = expected < 10
    counts, expected = (torch.cat([part[~rare], part[rare].sum()[None]]) for part in (counts, expected))
    some = expected > 1e-6
    return chisquare(counts[some], expected[some] / expected[some].sum() * counts[some].sum()).pvalue


@every_tiny
def test_samples_follow_the_probabilities(tiny):
    assert p_value(PixelModel.sample, tiny) > 1e-3


@pytest.mark.parametrize("mutant", [at_once, backwards, flipped])
@pytest.mark.parametrize("tiny", [(2, 3, (1, 2)), (2, 2, (2, 2))], ids=str)
def test_wrong_sampling_is_seen(mutant, tiny):
    assert p_value(mutant, tiny) < 1e-6


def test_sampling_costs_one_call_a_number():
    model = awake(3, 2)
    calls = []
    model.read.register_forward_hook(lambda *_: calls.append(1))
    model.sample(condition((2, 4)), 0)
    assert len(calls) == 3 * 2 * 4
    model.log_prob(torch.zeros(1, 3, 2, 4, dtype=torch.long), condition((2, 4)))
    assert len(calls) == 3 * 2 * 4 + 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_batch_mates_do_not_matter(channels):
    model, grid = awake(channels, 4), (2, 3)
    cond = torch.randn(3, 2, *grid, dtype=torch.float64, generator=Generator().manual_seed(5))
    y = model.sample(cond, [Generator().manual_seed(s) for s in range(3)])
    assert y.shape == (3, channels, *grid) and y.dtype == torch.int64 and y.min() >= 0 and y.max() <= 3
    assert (model.sample(cond[2:], [Generator().manual_seed(2)]) == y[2:]).all()
    torch.testing.assert_close(model.log_prob(y, cond)[2:], model.log_prob(y[2:], cond[2:]))
    assert (model.sample(cond, 0) == model.sample(cond, 0)).all()
    assert not (model.sample(cond, 0) == model.sample(cond, 1)).all()


def test_it_learns_a_table_of_probabilities():
    """Cross-entropy weighted by a known law of two pixels, two modes apart; what is left is KL(law || model)."""
    y = everything(1, 4, (1, 2))
    first, second = y.flatten(1).T
    law = torch.where(first == 3 - second, 0.24, 0.04 / 12)
    law = law / law.sum()
    torch.manual_seed(0)
    model, cond = PixelModel(1, 1, 4, hidden=16, layers=2), torch.zeros(len(y), 1, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (law * (law.log() - model.log_prob(y, cond))).sum()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    alone = torch.stack([law[first == k].sum() for k in range(4)]).log()
    other = torch.stack([law[second == k].sum() for k in range(4)]).log()
    assert (law * (law.log() - alone[first] - other[second])).sum() > 1, "independent pixels would leave this much"


def test_bad_input_is_named():
    model, cond = PixelModel(2, 1, 4), torch.zeros(3, 1, 2, 2)
    y = torch.zeros(3, 2, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="y_levels must be integers of shape"):
        model.log_prob(y.float(), cond)
    with pytest.raises(ValueError, match=r"y_levels must be integers of shape \(3, 2, 2, 2\)"):
        model.log_prob(y[:1], cond)
    with pytest.raises(ValueError, match=r"y_levels must lie in 0 .. 3, but 0 .. 4 came"):
        model.log_prob(y + 4 * (torch.arange(3) == 1).view(3, 1, 1, 1), cond)
    with pytest.raises(ValueError, match="cond must have 1 channels"):
        model.sample(torch.zeros(3, 2, 2, 2), 0)
    with pytest.raises(ValueError, match="levels must be a whole number of at least 2"):
        PixelModel(1, 1, levels=1)
