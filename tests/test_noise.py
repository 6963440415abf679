"""Noise comes from handed-in sources only."""

from __future__ import annotations

import pytest
import torch

from tutorial_lib.noise import standard_normal


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_seed_repeats_itself_and_0_is_a_seed():
    like = torch.empty(2, 3, 4, 5)
    first, again, other = (standard_normal(seed)(like) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, standard_normal()(like))


def test_one_source_goes_on_drawing():
    noise = standard_normal(0)
    assert not torch.equal(noise(torch.empty(4, 4)), noise(torch.empty(4, 4)))


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = standard_normal(0)(torch.empty(5, 5))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert torch.equal(first, standard_normal(0)(torch.empty(5, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_follow_the_state(dtype):
    drawn = standard_normal(0)(torch.empty(2, 5, 3, 7, dtype=dtype))
    assert drawn.shape == (2, 5, 3, 7) and drawn.dtype == dtype


def test_mean_and_variance_are_0_and_1():
    drawn = standard_normal(0)(torch.empty(200_000, dtype=torch.float64))
    assert abs(drawn.mean()) < 5 / 200_000**0.5
    assert abs(drawn.var() - 1) < 5 * (2 / 200_000) ** 0.5


def test_each_sample_has_its_own_stream():
    both = standard_normal(generators([5, 6]))
    alone = standard_normal(generators([6]))
    for _ in range(3):
        pair, single = both(torch.empty(2, 3, 4)), alone(torch.empty(1, 3, 4))
        assert torch.equal(pair[1:], single)
        assert not torch.equal(pair[0], pair[1])


@pytest.mark.parametrize("source", [True, "0", "", 1.5, None, [0, 1]])
def test_a_source_of_another_kind_is_refused(source):
    with pytest.raises(TypeError, match="source must be an integer seed"):
        standard_normal(source)


def test_a_list_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="noise has 2 generators, but the batch has 3 samples"):
        standard_normal(generators([0, 1]))(torch.empty(3, 4))
