"""One network for every scale: cells lie where `images.resize` puts their pixels, and what is told moves with the picture."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from test_networks import wake
from torch import Generator, nn

from tutorial_lib.images import resize
from tutorial_lib.networks import implicit
from tutorial_lib.networks.implicit import FOLD, ContinuousNetwork, padded, query_grid

SCALES = [2.0, 2.25, 2.5, 3.0, 3.2, 3.7, 4.0]
LEVEL = torch.tensor([0.3], dtype=torch.float64)


def draw(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def small(features=2, told=5):
    return wake(ContinuousNetwork(features, told, channels=(6, 8), blocks=1))


def hr_size(lr_size, scale):
    return tuple(math.ceil(n * scale - 1e-9) for n in lr_size)


def cells(size):
    return tuple(-(-n // 2) for n in size)


def ramps(height, width):
    """Features whose value is the row's and the column's centre, in LR pixels from the corner."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width)), indexing="ij")
    return torch.stack([y, x])[None]


def told_things(features, size, scale):
    """(smooth, near, offset, step): what the implicit function is shown, as it stands."""
    network = ContinuousNetwork(features.shape[1], 4, channels=(6, 8), blocks=1).double()
    network.implicit = nn.Identity()
    count = features.shape[1]
    return network.told(features, size, scale).split([count, count, 2, 1], 1)


@pytest.mark.parametrize("lr_size", [(1, 1), (3, 5), (8, 2)])
@pytest.mark.parametrize("scale", [Fraction(2), Fraction(9, 4), Fraction(3), Fraction(7, 2), Fraction(4)])
def test_cells_lie_where_fractions_put_them(lr_size, scale):
    size = cells(hr_size(lr_size, scale))
    grid, offset = query_grid(lr_size, size, float(FOLD / scale))
    assert grid.shape == (1, *size, 2) and offset.shape == (1, 2, *size)
    for axis, (n, count) in enumerate(zip(size, lr_size, strict=True)):
        for k in range(n):
            place = Fraction(2 * k + 1, 2) * FOLD / scale
            pixel = min(place.numerator // place.denominator, count - 1)
            found = offset.select(2 + axis, k)[0, axis]
            near_tie = abs(place - round(place)) < Fraction(1, 10**5) and 0 < place < count
            wanted = float(place - pixel - Fraction(1, 2))
            if near_tie:  # rounding may choose either side
                assert ((found - wanted).abs().min(1 - (found - wanted).abs()) < 1e-5).all()
            else:
                torch.testing.assert_close(found, torch.full_like(found, wanted), atol=2e-6, rtol=0)
            if place < count:
                assert found.abs().max() <= 0.5 + 1e-6
            column = grid.select(1 + axis, k)[0, :, 1 - axis]  # (x, y)
            torch.testing.assert_close(column, torch.full_like(column, float(2 * place / count - 1)), atol=2e-6, rtol=0)


@pytest.mark.parametrize("scale", SCALES)
def test_cells_lie_where_the_pixels_of_resize_lie(scale):
    """Bicubic keeps ramps: enlarged, they say where each HR pixel is. A cell's centre is the mean of its 2 x 2 pixels."""
    lr_size = (12, 16)
    where = padded(resize(ramps(*lr_size), scale))
    rows = (torch.arange(where.shape[2]) + 0.5) / scale
    inside = (rows > 2.5) & (rows < 9.5)
    torch.testing.assert_close(where[0, 0, inside, 20], rows[inside].double())  # pixel i lies at (i + 1/2) / scale
    centres = F.avg_pool2d(where, 2)
    grid, offset = query_grid(lr_size, tuple(centres.shape[2:]), FOLD / scale)
    found = (grid.flip(3).movedim(3, 1) + 1) / 2 * torch.tensor(lr_size).view(1, 2, 1, 1)
    parts = found[..., 4:-4, 4:-4].double(), centres[..., 4:-4, 4:-4]
    torch.testing.assert_close(*parts, atol=1e-5, rtol=0)
    smooth, near, told_offset, step = told_things(ramps(*lr_size), tuple(where.shape[2:]), scale)
    edge = torch.tensor(lr_size).view(1, 2, 1, 1) - 0.5
    torch.testing.assert_close(smooth, found.double().clamp(min=0.5).minimum(edge), atol=1e-5, rtol=0)
    assert torch.equal(told_offset, offset.double()) and (step - 2 / scale).abs().max() < 1e-6


def whole_image_corners(features, size, step):
    """The common mistake: align_corners=True puts the first and last pixels' centres onto the edges."""
    grid, _ = query_grid(tuple(features.shape[-2:]), size, step)
    return F.grid_sample(features, grid.double(), mode="bilinear", padding_mode="border", align_corners=True)


@pytest.mark.parametrize("scale", SCALES)
def test_aligned_corners_would_be_seen(scale):
    features, size = ramps(12, 16), cells(hr_size((12, 16), scale))
    smooth = told_things(features, hr_size((12, 16), scale), scale)[0]
    wrong = whole_image_corners(features, size, FOLD / scale)
    assert (smooth - wrong).abs().mean() > 0.05


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lr_size", [(1, 1), (1, 4), (7, 5), (12, 16)])
def test_the_nearest_feature_and_the_offset_speak_of_one_pixel(lr_size, scale):
    """Also where a cell's centre lies between two pixels, which at scale 3 happens in every third row."""
    size = hr_size(lr_size, scale)
    _, near, offset, _ = told_things(ramps(*lr_size), size, scale)
    rows, columns = ((torch.arange(n, dtype=torch.float64) + 0.5) * FOLD / scale for n in cells(size))
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]
    torch.testing.assert_close(near + offset, place, atol=1e-5, rtol=0)
    inside = (place < torch.tensor(lr_size).view(1, 2, 1, 1)).all(1)
    assert offset.abs().amax(1)[inside].max() <= 0.5 + 1e-5


@pytest.mark.parametrize(("scale", "pixels"), [(2.0, 1), (4.0, 1), (3.0, 2), (2.5, 4), (3.2, 5), (2.4, 5)])
def test_what_is_told_moves_with_the_picture(scale, pixels):
    """A shift by whole LR pixels that is one by whole cells too: told shifts likewise, up to the edges."""
    network, shift = small(), round(pixels * scale / 2)
    assert shift == pytest.approx(pixels * scale / 2)
    wide = draw(1, 2, 16, 18)
    size = hr_size((12, 12), scale)
    first = network.told(wide[..., :12, :12], size, scale)
    moved = network.told(wide[..., pixels : 12 + pixels, :12], size, scale)
    sideways = network.told(wide[..., :12, pixels : 12 + pixels], size, scale)
    for other, axis in ((moved, 2), (sideways, 3)):
        count = first.shape[axis] - shift
        ours, theirs = first.narrow(axis, shift, count), other.narrow(axis, 0, count)
        # cells between two pixels may fall to either, by rounding; elsewhere, off the edges, nothing may differ
        place = (torch.arange(first.shape[axis]) + 0.5) * FOLD / scale
        sure = ((place - place.round()).abs() > 1e-3)[shift:] & (place > pixels + 1)[shift:] & (place < 11)[shift:]
        assert sure.sum() >= 3
        index = sure.nonzero().flatten()
        lost = theirs.index_select(axis, index) - ours.index_select(axis, index)
        assert lost.abs().max() < 1e-4
    assert (first[..., 2:, :] - first[..., :-2, :]).abs().mean() > 0.01


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lr_size", [(1, 1), (5, 7), (4, 3)])
def test_any_scale_and_size(lr_size, scale):
    network, size = small(), hr_size(lr_size, scale)
    features, base, u = draw(2, 2, *lr_size), draw(2, 3, *size, seed=2), draw(2, 3, *size, seed=3)
    level = torch.tensor([0.3, -1.0], dtype=torch.float64)
    v = network(u, level, (features, base, scale))
    assert v.shape == u.shape and torch.isfinite(v).all()
    cond = network.condition(features, base, scale)
    assert cond.shape == (2, 5 + 12, *cells(size))
    torch.testing.assert_close(network.denoise(u, level, cond), v)
    torch.testing.assert_close(network(u[1:], level[1:], (features[1:], base[1:], scale)), v[1:])


def test_the_condition_is_told_and_the_folded_base_with_its_last_row_repeated():
    network, base = small(), draw(1, 3, 5, 8, seed=2)
    features = draw(1, 2, 2, 3)
    cond = network.condition(features, base, 2.6)
    assert torch.equal(cond[:, :5], network.told(features, (5, 8), 2.6))
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                part = cond[:, 5 + 4 * channel + 2 * row + column]
                rows = torch.tensor([row, row + 2, min(row + 4, 4)])
                assert torch.equal(part, base[:, channel, rows][..., column::2])
    assert torch.equal(padded(base)[..., :5, :], base) and torch.equal(padded(base)[..., 5, :], base[..., 4, :])
    u = draw(1, 3, 5, 8, seed=3)
    by_hand = network.denoiser(torch.cat([u, u[..., 4:, :]], 2), LEVEL, cond)[..., :5, :]
    torch.testing.assert_close(network(u, LEVEL, (features, base, 2.6)), by_hand)


def listens(network):
    """Whether features, base and scale each reach the answer."""
    features, base = draw(1, 2, 4, 4).requires_grad_(True), draw(1, 3, 12, 12, seed=2).requires_grad_(True)
    u = draw(1, 3, 12, 12, seed=3)
    out = network(u, LEVEL, (features, base, 3.0))
    slopes = torch.autograd.grad(out.square().sum(), (features, base), allow_unused=True)
    other = network(u, LEVEL, (features, base, 2.9))
    reached = [slope is not None and bool((slope.abs().amax((0, 1)) > 0).all()) for slope in slopes]
    return all(reached) and not torch.allclose(out, other)


def test_everything_told_reaches_the_answer(monkeypatch):
    network = small()
    assert listens(network)
    dropped = small()
    dropped.condition = lambda *cond: 0 * network.condition(*cond)
    assert not listens(dropped)
    deaf = small()
    nn.init.zeros_(deaf.implicit[-1].weight)
    assert not listens(deaf)
    monkeypatch.setattr(
        implicit, "query_grid", lambda lr_size, size, step, device: query_grid(lr_size, size, 2 / 3, device)
    )
    same_place = small()
    told = same_place.told(draw(1, 2, 4, 4), (12, 12), 3.0)
    assert not torch.allclose(told, same_place.told(draw(1, 2, 4, 4), (12, 12), 2.9)), "the cell's size is told as well"


def test_it_starts_by_saying_nothing():
    network = ContinuousNetwork(2, 5, channels=(6, 8), blocks=1)
    u, features = torch.randn(1, 3, 7, 9), torch.randn(1, 2, 3, 4)
    assert (network(u, torch.zeros(1), (features, torch.zeros(1, 3, 7, 9), 2.3)) == 0).all()


def test_bad_input_is_named():
    network = small()
    with pytest.raises(ValueError, match="scale must be a positive number, but 0 came"):
        network.told(draw(1, 2, 3, 3), (6, 6), 0)
    with pytest.raises(ValueError, match="features holds NaN"):
        network.told(draw(1, 2, 3, 3) * math.nan, (6, 6), 2.0)
    with pytest.raises(ValueError, match="features must have shape"):
        network.told(draw(2, 3, 3), (6, 6), 2.0)
