"""Procedural faces and the digits: one law, at every resolution, on every machine."""

from __future__ import annotations

import re

import pytest
import torch

from tutorial_lib.data import digits, faces
from tutorial_lib.data.faces import CHANCES, CHUNK, NAMES, RANGES, _draw, _render
from tutorial_lib.metrics import sliced_wasserstein

MIRRORED = ("pose", "tilt", "light", "x")  # what changes sign in a mirror


def test_shapes_ranges_and_names():
    found = faces(5, 40, seed=3)
    assert found.images.shape == (5, 3, 40, 40) and found.images.dtype == torch.float32
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert set(found.attributes) == {*RANGES, *NAMES} and len(found.captions) == 5
    for name, value in found.attributes.items():
        low, high = RANGES.get(name, (0, len(NAMES.get(name, ())) - 1))
        assert value.shape == (5,) and (value >= low).all() and (value <= high).all()
        assert value.dtype == (torch.float32 if name in RANGES else torch.int64)


def test_face_i_depends_on_seed_and_i_only():
    many, few = faces(CHUNK + 7, 16, seed=0), faces(3, 16, seed=0)
    torch.testing.assert_close(many.images[:3], few.images, atol=1e-6, rtol=0)
    assert many.captions[:3] == few.captions
    late = faces(CHUNK + 1, 16, seed=0)
    torch.testing.assert_close(late.images[CHUNK], many.images[CHUNK], atol=1e-6, rtol=0)
    assert not torch.equal(faces(3, 16, seed=1).images, few.images)
    assert len({image.numpy().tobytes() for image in many.images}) == CHUNK + 7, "no two faces are alike"


@pytest.mark.parametrize("size", [16, 32, 48])
def test_edges_are_antialiased(size):
    """A small drawing is the large one averaged over blocks: coverage, not a yes or no per pixel."""
    small, large = faces(24, size, seed=5).images, faces(24, 8 * size, seed=5).images
    averaged = torch.nn.functional.avg_pool2d(large, 8)
    error = (small - averaged).abs().mean().item()
    point_sampled = (large[..., 4::8, 4::8] - averaged).abs().mean().item()
    assert error < 0.5 * point_sampled
    assert error < 0.3 / size  # shapes thinner than a pixel are the rest; it falls with the pixel


def test_the_mirror_image_of_a_face_is_a_face():
    """Nothing but pose, tilt, light and place tells left from right, and these are drawn symmetrically."""
    attributes = _draw(64, 2)
    flipped = {name: -value if name in MIRRORED else value for name, value in attributes.items()}
    torch.testing.assert_close(_render(flipped, 32), _render(attributes, 32).flip(3), atol=2e-4, rtol=0)
    assert all(low == -high for name, (low, high) in RANGES.items() if name in MIRRORED)


def test_attributes_follow_their_chances():
    attributes = _draw(20_000, 0)
    for name, words in NAMES.items():
        chances = torch.tensor(CHANCES.get(name, [1 / len(words)] * len(words)))
        assert chances.sum() == pytest.approx(1)
        shares = torch.bincount(attributes[name], minlength=len(words)) / 20_000
        assert ((shares - chances).abs() < 4.5 * (chances * (1 - chances) / 20_000).sqrt()).all()
    for name, (low, high) in RANGES.items():
        assert attributes[name].mean().item() == pytest.approx((low + high) / 2, abs=4.5 * (high - low) / 490)
    table = torch.stack([value.double() for value in attributes.values()])
    off = torch.corrcoef(table) - torch.eye(len(table))
    assert off.abs().max() < 5 / 20_000**0.5, "attributes are independent"


@pytest.mark.parametrize("name", [*RANGES, *NAMES])
def test_every_attribute_can_be_seen(name):
    """Setting one attribute to its two ends changes the pictures of the same people (some hide under hat or hair)."""
    low, high = RANGES.get(name, (0, len(NAMES.get(name, ())) - 1))
    plain = {"hat": 1, "hair": 1, "glasses": 0, "skin": 0.3} | ({name: low})
    one, other = faces(4, 32, seed=0, fixed=plain), faces(4, 32, seed=0, fixed=plain | {name: high})
    assert ((one.images - other.images).abs().amax((1, 2, 3)) > 0.05).all()
    assert all(torch.equal(one.attributes[key], other.attributes[key]) for key in one.attributes if key != name)


def test_fixed_leaves_the_people_as_they_were():
    plain, worn = faces(6, seed=4), faces(6, seed=4, fixed={"glasses": 1})
    assert (worn.attributes["glasses"] == 1).all() and all("glasses" in caption for caption in worn.captions)
    already = plain.attributes["glasses"] == 1
    assert torch.equal(plain.images[already], worn.images[already])


def test_captions_say_what_is_there():
    found = faces(400, 8, seed=0)
    for i, caption in enumerate(found.captions):
        word = {name: words[found.attributes[name][i]] for name, words in NAMES.items()}
        assert f"{word['background']} background" in caption
        assert ("beard" in caption) == (word["beard"] == "beard")
        assert ("beanie" in caption, "sun hat" in caption) == (word["hat"] == "beanie", word["hat"] == "sun hat")
        assert ("sunglasses" in caption) == (word["glasses"] == "sunglasses")
        assert ("glasses" in caption) == (word["glasses"] != "no")
        assert ("looking left" in caption) == (found.attributes["pose"][i] <= -0.4)
        assert ("smiling" in caption) == (found.attributes["smile"][i] > 0.35)
        assert ("no hair" in caption) == (word["hair"] == "no")
        assert not re.search(r"\ba [aeiou]", caption) and "  " not in caption


def test_two_sets_are_close_and_other_laws_are_far():
    one, two = faces(256, seed=0).images, faces(256, seed=1).images
    same = sliced_wasserstein(list(one.split(1)), list(two.split(1)))
    dark = sliced_wasserstein(list(one.split(1)), list((two * 0.9).split(1)))
    assert dark > 2 * same


def test_digits():
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32 and labels.shape == (1797,)
    assert torch.equal(images * 16, (images * 16).round()) and images.min() == 0 and images.max() == 1
    assert torch.bincount(labels).tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # scikit-learn's manual
    images.zero_()
    assert digits()[0].max() == 1, "each call gives a copy of its own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a whole number, at least 1, but 0 came"),
        ({"n": 2.0}, "n must be a whole number"),
        ({"n": 1, "size": 4}, "size must be a whole number, at least 8, but 4 came"),
        ({"n": 1, "seed": -1}, "seed must be a whole number, at least 0, but -1 came"),
        ({"n": 1, "fixed": {"glases": 1}}, "fixed must name attributes among pose, .* but 'glases' came"),
        ({"n": 1, "fixed": {"glasses": 3}}, "fixed.'glasses'. must be a whole number from 0 to 2, but 3 came"),
        ({"n": 1, "fixed": {"glasses": 0.5}}, "must be a whole number from 0 to 2, but 0.5 came"),
        ({"n": 1, "fixed": {"smile": 2.0}}, "must be a number from -0.7 to 1.0, but 2.0 came"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        faces(**arguments)
