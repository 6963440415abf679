"""Tiles against the whole: every pixel from its own place on every grid, a margin that suffices and one that does not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from tutorial_lib.images import resize
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.tiles import MARGIN, in_tiles, tiled


def picture(*shape, seed=0):
    return torch.rand(*shape, generator=Generator().manual_seed(seed))


def test_tiles_without_a_margin_disagree():
    """Mutant: a comparison of tiles with the whole must see a seam."""
    lr = resize(picture(1, 3, 10, 18), 4).clamp(0, 1)
    network = load_pretrained("photo-regression-x4")
    with torch.inference_mode():
        difference = (in_tiles(network, [lr], 32, margin=0) - network(lr)).abs()
    assert difference.max() > 2e-3


def test_in_tiles_keeps_inputs_aligned():
    """Every pixel must come from its own place on every grid: the function here needs no margin at all."""
    coarse, fine = picture(1, 2, 13, 22), picture(1, 3, 26, 44)
    calls = []

    def add(a, b):
        calls.append(a.shape)
        return b + a.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)

    out = in_tiles(add, [coarse, fine], tile=8, margin=4)
    torch.testing.assert_close(out, add(coarse, fine))
    assert len(calls) == 2 * 3 + 1


def smoothed(x, fine):
    """Reach: 2 pixels of x's grid; zeros beyond the image's border, which a tile inside must not see. Answers twice as fine."""
    kernel = picture(4 * x.shape[1], x.shape[1], 5, 5, seed=3)
    return F.pixel_shuffle(F.conv2d(x, kernel, padding=2), 2) + F.avg_pool2d(fine, 3, stride=1, padding=1)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(9, 21), (21, 9), (16, 17), (7, 8)])
def test_a_margin_of_the_reach_is_enough_and_one_pixel_less_is_not(size, channels):
    x, fine = picture(2, channels, *size), picture(2, channels, 2 * size[0], 2 * size[1], seed=1)
    whole = smoothed(x, fine)
    torch.testing.assert_close(in_tiles(smoothed, [x, fine], 4, margin=2), whole)
    assert (in_tiles(smoothed, [x, fine], 4, margin=1) - whole).abs().max() > 1e-2
    alone = in_tiles(smoothed, [x[1:], fine[1:]], 4, margin=2)
    torch.testing.assert_close(alone, whole[1:])


def test_tiles_are_as_large_as_they_say():
    """The windows that the function sees: tile and margin, cut off at the image's border; every part is wanted once."""
    rows, columns = torch.meshgrid(torch.arange(11.0), torch.arange(19.0), indexing="ij")
    seen = []

    def note(x):
        seen.append(tuple(int(v) for v in (x[0, 0, 0, 0], x[0, 0, -1, 0] + 1, x[0, 1, 0, 0], x[0, 1, 0, -1] + 1)))
        return x

    image = torch.stack([rows, columns])[None]
    assert torch.equal(in_tiles(note, [image], 8, margin=3), image)
    assert seen == [(0, 11, 0, 11), (0, 11, 5, 19), (0, 11, 13, 19), (5, 11, 0, 11), (5, 11, 5, 19), (5, 11, 13, 19)]
    seen.clear()
    in_tiles(note, [image[..., :11]], 8, margin=3)
    assert seen == [(0, 11, 0, 11)]  # nothing is cut that one tile and its margin hold
    in_tiles(note, [image[..., :12]], 8, margin=3)
    assert len(seen) == 1 + 4
    seen.clear()
    in_tiles(note, [image], None)
    assert seen == [(0, 11, 0, 19)]
    wide = torch.zeros(1, 2, 1, MARGIN + 9)  # the margin, when none is handed in
    in_tiles(note, [wide[..., 1:]], 8)
    assert len(seen) == 2
    in_tiles(note, [wide], 8)
    assert len(seen) == 2 + -(-(MARGIN + 9) // 8)


@pytest.mark.parametrize("t", [torch.tensor(0.3), torch.tensor([0.1, 0.9])], ids=["one time", "one per sample"])
@pytest.mark.parametrize("tile", [None, 4])
def test_a_tiled_denoiser_is_the_denoiser_with_its_condition(t, tile):
    """The condition may be stored in half precision and on a coarser grid; a walk hands in no condition."""
    z, cond, seen = picture(2, 3, 14, 4 * MARGIN, seed=2), picture(2, 5, 7, 2 * MARGIN).half(), []

    def denoiser(z, t, cond):
        seen.append(cond.dtype)
        mean = cond.mean(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (t.view(-1, 1, 1, 1) if t.ndim else t) * z + mean

    whole = denoiser(z, t, cond.float())
    torch.testing.assert_close(tiled(denoiser, cond, tile)(z, t), whole)
    torch.testing.assert_close(tiled(denoiser, cond[1:], tile)(z[1:], t[1:] if t.ndim else t), whole[1:])
    assert set(seen) == {torch.float32}
    assert len(seen) == 3 if tile is None else len(seen) > 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: in_tiles(len, [x], 0), "tile must be a whole number of at least 1, but 0 came"),
        (lambda x: in_tiles(len, [x], -4), "tile must be a whole number of at least 1, but -4 came"),
        (lambda x: in_tiles(len, [x], 2.0), "tile must be a whole number of at least 1, but 2.0 came"),
        (lambda x: in_tiles(len, [x], 4, -1), "margin must be a whole number of at least 0, but -1 came"),
        (lambda x: in_tiles(len, [x, picture(1, 1, 12, 19)], 4), "whole multiples of it, 6x9, but 12x19 came"),
        (lambda x: in_tiles(len, [x, picture(1, 1, 6, 18)], 4), "whole multiples of it, 6x9, but 6x18 came"),
        (lambda x: in_tiles(len, [x, picture(1, 1, 3, 4)], None), "whole multiples of it, 6x9, but 3x4 came"),
        (lambda x: tiled(len, x, 0)(x, 0.5), "tile must be a whole number of at least 1, but 0 came"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(picture(1, 1, 6, 9))
