"""Domains: decode undoes encode, states are what the docstring says, and the known mistakes are caught."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from tutorial_lib.domains import Pixel, Residual
from tutorial_lib.images import resize

random = Generator().manual_seed(0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_pixel_is_twice_the_image_minus_one(channels):
    hr = torch.rand(2, channels, 6, 9, generator=random)
    z_0 = Pixel().encode(hr)
    torch.testing.assert_close(z_0, hr + hr - torch.ones_like(hr))
    torch.testing.assert_close(Pixel().decode(z_0), hr)
    assert Pixel().encode(torch.zeros(1, 1, 1, 1)).item() == -1 and Pixel().encode(torch.ones(1, 1, 1, 1)).item() == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [1.0, 0.05, lambda lr: 0.1 + resize(lr, 3).abs().mean(1, keepdim=True)])
def test_residual_round_trip_and_sign(channels, spread):
    hr, lr = torch.rand(2, channels, 6, 9, generator=random), torch.rand(2, channels, 2, 3, generator=random)
    domain = Residual(lambda x: resize(x, 3), spread)
    z_0 = domain.encode(hr, lr)
    size = spread(lr) if callable(spread) else spread
    torch.testing.assert_close(z_0 * size + resize(lr, 3), hr, atol=1e-6, rtol=0)
    torch.testing.assert_close(domain.decode(z_0, lr), hr, atol=1e-6, rtol=0)
    assert not torch.allclose(resize(lr, 3) - z_0 * size, hr, atol=1e-2), "the check must see a flipped sign"


def test_nothing_is_clipped():
    """Mutant: SRDiff's code clips twice the residual to [-1, 1]; a white dot on black shows it."""
    hr, lr = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 1)
    hr[0, 0, 1, 1] = 1.0
    domain = Residual(lambda x: resize(x, 4), 0.5)
    assert domain.decode(domain.encode(hr, lr), lr)[0, 0, 1, 1].item() == pytest.approx(1.0)
    clipped = domain.encode(hr, lr).clamp(-1, 1)
    assert domain.decode(clipped, lr)[0, 0, 1, 1].item() == pytest.approx(0.5)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="hr and predictor"):
        Residual(lambda x: resize(x, 4)).encode(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 3, 3))
    with pytest.raises(ValueError, match="z_0 and predictor"):
        Residual(lambda x: resize(x, 4)).decode(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 3, 3))
