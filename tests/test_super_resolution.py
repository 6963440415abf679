"""super_resolve: every method's contract, tiles against the whole, batches, seeds and bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from tutorial_lib.images import resize
from tutorial_lib.metrics import lr_consistency
from tutorial_lib.super_resolution import METHODS, in_tiles, super_resolve

LEARNED = [m for m in METHODS if m != "bicubic"]


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return resize(picture(1, 3, (height + 3) // 4, (width + 3) // 4, seed=seed), 4)[..., :height, :width].clamp(0, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (12, 9)])
def test_every_method_takes_any_size(method, size):
    lr = picture(2, 3, *size)
    kept = lr.clone()
    sr = super_resolve(lr, method=method, steps=2)
    assert sr.shape == (2, 3, 4 * size[0], 4 * size[1]) and sr.dtype == torch.float32
    assert torch.isfinite(sr).all() and sr.min() >= 0 and sr.max() <= 1
    assert torch.equal(lr, kept)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_does_not_depend_on_its_batch_mates(method):
    lr = torch.cat([smooth(12, 16, seed=i) for i in range(3)])
    together = super_resolve(lr, method=method, seed=5, steps=2)
    for i in range(3):
        alone = super_resolve(lr[i : i + 1], method=method, seed=5 + i, steps=2)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


def test_seeds_give_different_samples_and_zero_is_a_seed():
    lr = smooth(16, 12)
    first, again, other = (super_resolve(lr, seed=s, steps=3) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 1e-3


@pytest.mark.parametrize("method", LEARNED)
def test_tiles_agree_with_the_whole(method):
    """Sizes that neither the tile nor the pooling divides; the tile and its margin are the shipped ones, scaled by two."""
    lr = smooth(75, 170)
    whole = super_resolve(lr, method=method, steps=2, tile=None)
    cut = super_resolve(lr, method=method, steps=2, tile=64)
    torch.testing.assert_close(cut, whole, atol=2e-4, rtol=0)


def test_tiles_without_a_margin_disagree():
    """Mutant: the comparison above must see a seam."""
    from tutorial_lib.pretrained import load_pretrained

    lr = smooth(40, 72)
    network = load_pretrained("photo-regression-x4")
    with torch.inference_mode():
        difference = (in_tiles(network, [lr], 32, margin=0) - network(lr)).abs()
    assert difference.max() > 2e-3


def test_in_tiles_keeps_inputs_aligned():
    """Every pixel must come from its own place on every grid: the function here needs no margin at all."""
    coarse, fine = picture(1, 2, 13, 22), picture(1, 3, 26, 44)
    calls = []

    def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        calls.append(a.shape)
        return b + a.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)

    out = in_tiles(add, [coarse, fine], tile=8, margin=4)
    torch.testing.assert_close(out, add(coarse, fine))
    assert len(calls) == 2 * 3 + 1


def test_a_sample_downsamples_to_what_was_given():
    lr = smooth(24, 20)
    sr = super_resolve(lr, steps=4)
    assert lr_consistency(sr, lr, 4).item() > 45


def test_bad_input_is_named():
    lr = picture(1, 3, 8, 8)
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        super_resolve(lr, method="regresion")
    with pytest.raises(ValueError, match="'regression' has weights for scale 4 only, but scale=3 came"):
        super_resolve(lr, method="regression", scale=3)
    with pytest.raises(ValueError, match="lr must have 3 channels"):
        super_resolve(lr[:, :1])
    with pytest.raises(ValueError, match="lr holds NaN"):
        super_resolve(lr * float("nan"))
    with pytest.raises(ValueError, match="2 seeds came for 1 images"):
        super_resolve(lr, seed=[1, 2])
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, but 0 came"):
        super_resolve(lr, steps=0)
    with pytest.raises(ValueError, match="tile must be a positive multiple of 4"):
        super_resolve(lr, tile=6)
