"""Weights in few bytes: how far they are off, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from tutorial_lib.compact import compact, expand


def weights(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "kernel": torch.randn(5, 3, 3, 3, generator=g) * torch.tensor([1e-3, 1, 10, 0.1, 0]).view(-1, 1, 1, 1),
        "matrix": torch.randn(4, 7, generator=g),
        "bias": torch.randn(5, generator=g),
        "norm.scale": torch.randn(6, generator=g),  # a name of the network's own that ends like a scale of ours
        "number": torch.tensor(2.5),
    }


@pytest.mark.parametrize("bits", [8, 16])
def test_every_tensor_comes_back_with_its_name_and_shape(bits):
    before = weights()
    after = expand(compact(before, bits))
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    assert all(v.dtype == torch.float32 for v in after.values())
    for name in ("bias", "norm.scale", "number"):
        assert torch.equal(after[name], before[name].half().float())


def test_a_byte_is_off_by_half_a_step_of_its_group():
    """Groups of 16 along a row, by hand; the float16 scale may be 2^-11 too small, which the largest weight feels 127 times."""
    before = weights()
    stored = compact(before, 8)
    after = expand(stored)
    for name in ("kernel", "matrix"):
        assert stored[name].dtype == torch.int8
        for row, said in zip(before[name].flatten(1), after[name].flatten(1), strict=True):
            for start in range(0, len(row), 16):
                group, got = row[start : start + 16], said[start : start + 16]
                step = max(float(group.abs().max()) / 127, 2.0**-24)
                error = float((got - group).abs().max())
                assert error <= step * (0.5 + 127 * 2**-11) + 127 * 2.0**-25
                assert error > 0.1 * step or not group.any()  # it is stored in steps, not in full
    assert not after["kernel"][4].any()


def test_a_byte_costs_five_thousandths_of_a_normal_weight():
    """A step is max / 127 of 16 normal weights, an error uniform in one step for 15 of them, the largest being exact."""
    before = {"matrix": torch.randn(200, 1600, generator=torch.Generator().manual_seed(0))}
    error = (expand(compact(before, 8))["matrix"] - before["matrix"]).std()
    most = torch.randn(100_000, 16, generator=torch.Generator().manual_seed(1)).abs().amax(1)
    torch.testing.assert_close(error, (most**2).mean().mul(15 / 16 / 12).sqrt() / 127, rtol=0.01, atol=0)


def test_half_precision_is_half_precision():
    before = weights()
    assert all(torch.equal(v, before[k].half()) for k, v in compact(before).items())


def test_a_tensor_that_only_looks_like_a_scale_is_kept():
    """'norm.scale' beside an int8 'norm' is its scale; beside a float 'norm' it is a weight."""
    stored = {"norm": torch.ones(2), "norm.scale": torch.ones(2)}
    assert set(expand(stored)) == {"norm", "norm.scale"}


def test_other_bits_are_refused():
    with pytest.raises(ValueError, match="bits must be 8 or 16, but 4 came"):
        compact(weights(), 4)
