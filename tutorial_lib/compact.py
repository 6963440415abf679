"""Weights in few bytes: what a weights file holds, and how it becomes float32 again."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = ".scale"  # added to the name of a tensor kept in whole numbers
GROUP = 16  # weights that share a scale
LEAST = 2.0**-24  # the smallest positive float16


def compact(weights: dict[str, Tensor], bits: int = 16) -> dict[str, Tensor]:
    """A network's state dict for storage: float16, or with bits=8 kernels and matrices as whole numbers of one byte.

        q = round(w / scale), scale = max |w| / 127 of 16 neighbours in a row, a row being what makes one output channel

    A weight is then off by about scale / 2 at most, a normally distributed one by 0.5 % of its standard deviation; it costs
    9 bits. Biases and other vectors stay float16. Raises ValueError for other bits.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, but {bits!r} came")
    stored = {}
    for name, weight in weights.items():
        weight = weight.detach()
        if bits == 16 or weight.ndim < 2:
            stored[name] = weight.half().contiguous()
            continue
        rows = weight.float().flatten(1)
        groups = F.pad(rows, (0, -rows.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
        stored[name + SCALE] = (groups.abs().amax(2) / 127).clamp(min=LEAST).half()
        whole = (rows / _spread(stored[name + SCALE], rows)).round().clamp(-127, 127)
        stored[name] = whole.to(torch.int8).view(weight.shape).contiguous()
    return stored


def expand(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 state dict that `compact` stored."""
    weights = {}
    for name, value in stored.items():
        if value.dtype == torch.int8:
            rows = value.float().flatten(1)
            weights[name] = (rows * _spread(stored[name + SCALE], rows)).view(value.shape)
        elif not (name.endswith(SCALE) and stored.get(name.removesuffix(SCALE), value).dtype == torch.int8):
            weights[name] = value.float()
    return weights


def _spread(scale: Tensor, rows: Tensor) -> Tensor:
    """The scale of every weight, from that of every group."""
    return scale.float().repeat_interleave(GROUP, 1)[:, : rows.shape[1]]
