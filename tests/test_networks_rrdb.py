"""RRDB encoder: every layer sees all before it, branches are scaled by 0.2, and nothing is felt beyond the convolutions' reach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_networks import wake
from torch import Generator

from tutorial_lib.networks import rrdb
from tutorial_lib.networks.rrdb import RRDB, DenseBlock, RRDBEncoder
from tutorial_lib.tiles import MARGIN


def draw(*shape, seed=1):
    return torch.rand(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def by_hand(state, lr, seen_by=lambda seen: seen, inner=0.2, outer=0.2, slope=0.2, middle=0.5):
    """The paper's equations on the bare weights; the options make the mistakes that the tests must see."""

    def conv(name, x):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    first = x = conv("head", lr - middle)
    for i in range(sum(name.endswith("blocks.0.last.bias") for name in state)):
        entered = x
        for j in range(3):
            seen = [x]
            for k in range(4):
                h = conv(f"body.{i}.blocks.{j}.layers.{k}", torch.cat(seen_by(seen), 1))
                seen.append(torch.where(h > 0, h, slope * h))
            x = x + inner * conv(f"body.{i}.blocks.{j}.last", torch.cat(seen_by(seen), 1))
        x = entered + outer * x
    return first + conv("tail", x)


def without_the_middle(seen):
    """Only what came last and x: a chain of layers where all should be connected."""
    return [seen[0], *(torch.zeros_like(h) for h in seen[1:-1]), *seen[1:][-1:]]


MUTANTS = {
    "layers see x and their neighbour only": {"seen_by": without_the_middle},
    "dense branch not scaled": {"inner": 1.0},
    "block's branch not scaled": {"outer": 1.0},
    "another slope": {"slope": 0.01},
    "image not centred": {"middle": 0.0},
}


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (9, 3)])
@pytest.mark.parametrize("colors", [1, 2, 3, 5])
def test_the_encoder_is_the_papers_equations(size, colors):
    network = wake(RRDBEncoder(colors, channels=6, growth=4, blocks=2))
    lr = draw(2, colors, *size)
    found = network(lr)
    assert found.shape == (2, 6, *size)
    torch.testing.assert_close(found, by_hand(network.state_dict(), lr))
    torch.testing.assert_close(network(lr[1:]), found[1:])  # batch mates do not matter
    for name, mistake in MUTANTS.items():
        assert not torch.allclose(by_hand(network.state_dict(), lr, **mistake), found), name


def test_every_layer_sees_everything_before_it():
    """The weights from every earlier part to every later layer are there and take part: none has a gradient of zero."""
    block = wake(DenseBlock(channels=3, growth=2))
    block(draw(1, 3, 4, 4)).square().sum().backward()
    parts = [3, 2, 2, 2, 2]
    for k, layer in enumerate([*block.layers, block.last]):
        assert layer.weight.shape[1] == sum(parts[: k + 1])
        for piece in layer.weight.grad.split(parts[: k + 1], 1):
            assert piece.abs().max() > 0


def test_branches_count_a_fifth():
    """Silent convolutions with a bias: a dense block adds 0.2 of it, and the block around it keeps 1.2 of what came."""
    block, x = DenseBlock(3, 2).double(), draw(1, 3, 2, 5)
    for p in block.parameters():
        torch.nn.init.zeros_(p)
    torch.nn.init.constant_(block.last.bias, 7.0)
    torch.testing.assert_close(block(x), x + 1.4)
    whole = RRDB(3, 2).double()
    for p in whole.parameters():
        torch.nn.init.zeros_(p)
    torch.testing.assert_close(whole(x), 1.2 * x)
    assert rrdb.RESIDUAL_SCALE == 0.2


def test_the_reach_is_that_of_the_convolutions_and_less_than_the_margin_of_tiles():
    """Head, fifteen convolutions a block and tail look one pixel further each; nothing looks at the whole picture."""
    lr = draw(1, 3, 3, 120).requires_grad_(True)
    for blocks in (1, 3):
        network = wake(RRDBEncoder(blocks=blocks, channels=8, growth=4))
        slope = torch.autograd.grad(network(lr)[..., 60].sum(), lr)[0]  # a difference would drown in rounding: 0.2^n
        seen = slope.abs().sum((0, 1, 2)).nonzero().flatten()
        assert 60 - seen.min() == seen.max() - 60 == 2 + 15 * blocks < MARGIN


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="lr must have 3 channels"):
        RRDBEncoder(blocks=1)(torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="lr holds NaN"):
        RRDBEncoder(blocks=1)(torch.full((1, 3, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="growth must be a whole number of at least 1, but 0 came"):
        RRDBEncoder(growth=0)
    with pytest.raises(ValueError, match="blocks must be a whole number of at least 1, but 1.5 came"):
        RRDBEncoder(blocks=1.5)
