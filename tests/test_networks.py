"""Networks: shapes, starts, locality (which tiling relies on), and sizes the pooling does not divide."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from tutorial_lib.images import resize
from tutorial_lib.networks import RegressionNetwork, UNet
from tutorial_lib.networks.regression import SMALLEST_SPREAD, condition
from tutorial_lib.networks.unet import ChannelNorm, noise_embedding
from tutorial_lib.super_resolution import MARGIN


def wake(network: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that nothing is hidden behind a zero."""
    source = Generator().manual_seed(0)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=source) * (0.5 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1)
    return network.eval().double()


def reach(network, lr_size: int, fold: int) -> int:
    """How far, in pixels of the coarse grid, one changed input pixel is felt in the output."""
    z = torch.randn(1, 3, lr_size * fold, lr_size * fold, dtype=torch.float64, generator=Generator().manual_seed(1))
    centre = lr_size // 2
    other = z.clone()
    other[..., centre * fold, centre * fold] += 1
    with torch.no_grad():
        changed = (network(z) - network(other)).abs().sum((0, 1)) > 0
    rows = changed.any(1).nonzero().flatten()
    scale = changed.shape[0] // lr_size
    return int(max(centre - rows.min() // scale, rows.max() // scale - centre))


def test_regression_starts_at_bicubic():
    lr = torch.rand(2, 3, 7, 10, generator=Generator().manual_seed(0))
    torch.testing.assert_close(RegressionNetwork(16, 2)(lr), resize(lr, 4))


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (9, 3)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_regression_and_condition_shapes(size, scale):
    network = wake(RegressionNetwork(8, 1, scale))
    lr = torch.rand(2, 3, *size, dtype=torch.float64, generator=Generator().manual_seed(0))
    mean, spread, cond = condition(network, lr)
    fine = (size[0] * scale, size[1] * scale)
    assert mean.shape == (2, 3, *fine) and spread.shape == (2, 1, *fine)
    assert cond.shape == (2, 3 + 3 * scale**2 + 8, *size)
    assert (spread >= SMALLEST_SPREAD).all()
    torch.testing.assert_close(mean, network(lr))


def test_networks_reach_less_than_the_margin_of_tiles():
    assert reach(wake(RegressionNetwork()), 100, 1) < MARGIN
    unet = wake(UNet(3, 3, 0, (8, 8, 8), 2, fold=4))
    level = torch.zeros(1, dtype=torch.float64)
    found = reach(lambda z: unet(z, level), 120, 4)
    assert 30 < found < MARGIN  # the shipped network has these levels and blocks, only wider


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (12, 9), (1, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_unet_takes_any_size_and_channel_count(size, channels):
    network = wake(UNet(channels, channels, 2, (8, 8, 8), 1, fold=2))
    z = torch.rand(2, channels, 2 * size[0], 2 * size[1], dtype=torch.float64, generator=Generator().manual_seed(0))
    cond = torch.rand(2, 2, *size, dtype=torch.float64, generator=Generator().manual_seed(1))
    level = torch.tensor([0.3, -1.0], dtype=torch.float64)
    out = network(z, level, cond)
    assert out.shape == z.shape and torch.isfinite(out).all()
    alone = network(z[1:], level[1:], cond[1:])
    torch.testing.assert_close(out[1:], alone)  # batch mates do not matter
    assert not torch.allclose(network(z, level + 0.5, cond), out), "the level must matter"
    assert not torch.allclose(network(z, level, cond + 0.5), out), "the condition must matter"


def test_unet_starts_at_zero():
    z = torch.randn(1, 3, 8, 8, generator=Generator().manual_seed(0))
    assert (UNet(3, 3, 0, (8, 8), 1)(z, torch.zeros(1)) == 0).all()


def test_channel_norm_looks_at_one_pixel():
    x = torch.randn(2, 6, 3, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    out = ChannelNorm(6).double()(x)
    torch.testing.assert_close(out, x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt())


def test_noise_embedding_tells_levels_apart():
    levels = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    vectors = noise_embedding(levels, 64)
    assert vectors.shape == (201, 64)
    distance = torch.cdist(vectors, vectors)
    distance.fill_diagonal_(torch.inf)
    assert distance.min() > 0.1
