"""Networks: shapes, starts, locality (which tiling relies on), and sizes the pooling does not divide."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, nn

from tutorial_lib.images import resize
from tutorial_lib.networks import RegressionNetwork, UNet
from tutorial_lib.networks.regression import SMALLEST_SPREAD, condition
from tutorial_lib.networks.unet import ChannelNorm, noise_embedding
from tutorial_lib.tiles import MARGIN


def wake(network: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that nothing is hidden behind a zero."""
    source = Generator().manual_seed(0)
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=source) * (0.5 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1)
    return network.eval().double()


def reach(network, lr_size: int, fold: int) -> int:
    """How far, in pixels of the coarse grid, one changed row or column of a strip is felt in the output, both ways."""
    z = torch.randn(1, 3, 8 * fold, lr_size * fold, dtype=torch.float64, generator=Generator().manual_seed(1))
    centre, far = lr_size // 2, []
    for turn in (lambda x: x, lambda x: x.transpose(2, 3)):
        other = z.clone()
        other[..., centre * fold] += 1
        with torch.no_grad():
            changed = (turn(network(turn(z))) - turn(network(turn(other)))).abs().sum((0, 1, 2)) > 0
        columns = changed.nonzero().flatten()
        scale = changed.shape[0] // lr_size
        far += [centre - columns.min() // scale, columns.max() // scale - centre]
    return int(max(far))


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


def small_unet():
    return wake(UNet(3, 3, 0, (6, 8, 5), 1, fold=2, embedding=16))


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def seen_by(network, part, *arguments, **options):
    """What a part of the network is shown in one call: its first argument, or its second if that is an embedding."""
    shown = []
    handle = part.register_forward_pre_hook(lambda _, given: shown.append(given))
    network(*arguments, **options)
    handle.remove()
    return shown[0]


def test_what_a_unet_is_told_is_added_to_the_embedding_of_the_level():
    """Every block sees the same embedding, told on top; zeros are nothing; batch mates do not matter."""
    network, z, level = small_unet(), draw(2, 3, 16, 24), torch.tensor([0.3, -1.0], dtype=torch.float64)
    told = draw(2, 16, seed=2)
    with torch.no_grad():
        plain = network(z, level)
        assert torch.equal(network(z, level, told=0 * told), plain)
        out = network(z, level, told=told)
        assert not torch.allclose(out, plain)
        torch.testing.assert_close(network(z[1:], level[1:], told=told[1:]), out[1:])
        blocks = [block for blocks in [*network.down, *network.up] for block in blocks]
        assert len(blocks) == 5
        for block in blocks:
            before, after = (seen_by(network, block, z, level, told=t)[1] for t in (None, told))
            torch.testing.assert_close(after - before, told)


def test_modulation_multiplies_and_shifts_every_level_on_the_way_down():
    """features (1 + gain) + shift before they are halved, kept for the way up, or sent up; checked one level at a time."""
    network, z, level = small_unet(), draw(2, 3, 16, 24), torch.tensor([0.3, -1.0], dtype=torch.float64)
    shapes = [(2, 6, 8, 12), (2, 8, 4, 6), (2, 5, 2, 3)]
    zero = [(torch.zeros(shape).double(), torch.zeros(shape).double()) for shape in shapes]
    pairs = [(draw(*shape, seed=10 + i), draw(*shape, seed=20 + i)) for i, shape in enumerate(shapes)]
    after = [*network.shrink, network.grow[1]]  # what takes each level's features further
    with torch.no_grad():
        plain = network(z, level)
        assert torch.equal(network(z, level, modulation=zero), plain)
        for i, (gain, shift) in enumerate(pairs):
            one = [*zero[:i], (gain, shift), *zero[i + 1 :]]
            features, found = (seen_by(network, after[i], z, level, modulation=m)[0] for m in (None, one))
            if i < 2:
                features, found = (nn.functional.pixel_shuffle(x, 2) for x in (features, found))
                kept = seen_by(network, network.up[i][0], z, level, modulation=one)[0][:, -features.shape[1] :]
                torch.testing.assert_close(kept, found)
            torch.testing.assert_close(found, features + gain * features + shift)
            assert not torch.allclose(network(z, level, modulation=one), plain)
        out = network(z, level, modulation=pairs)
        alone = network(z[1:], level[1:], modulation=[(gain[1:], shift[1:]) for gain, shift in pairs])
        torch.testing.assert_close(alone, out[1:])
    for wrong in (pairs[:2], [*pairs, pairs[2]], []):
        with pytest.raises(ValueError, match=f"modulation must hold 3 pairs, one a level, but {len(wrong)} came"):
            network(z, level, modulation=wrong)


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
