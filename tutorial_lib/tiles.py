"""Large images in overlapping tiles, with the same result as in one piece."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .checks import check_whole
from .denoisers import Denoiser
from .schedules import Time

MARGIN = 48  # LR pixels around a tile: more than any of the shipped networks reaches


def tiled(denoiser: Denoiser, cond: Tensor, tile: int | None) -> Denoiser:
    """The denoiser with its condition filled in, working through large states tile by tile."""

    def denoise(z: Tensor, t: Time, _: None = None) -> Tensor:
        return in_tiles(lambda c, part: denoiser(part, t, c.float()), [cond, z], tile)

    return denoise


def in_tiles(function: Callable[..., Tensor], inputs: list[Tensor], tile: int | None, margin: int = MARGIN) -> Tensor:
    """function(*inputs), computed in overlapping tiles of `tile` pixels of the first input's grid plus `margin` around.

    Other inputs and the output may lie on finer grids (their size a multiple of the first's). Equal to function(*inputs) to
    rounding when the margin exceeds the function's reach and tile and margin are multiples of what it downsamples by.
    tile=None never cuts. Raises ValueError for a tile below 1, a margin below 0 and a grid that is no multiple.
    """
    height, width = inputs[0].shape[-2:]
    for tensor in inputs[1:]:
        k = tensor.shape[-1] // width
        if tensor.shape[-2:] != (k * height, k * width):
            raise ValueError(
                f"inputs must lie on the first one's grid or on whole multiples of it, {height}x{width},"
                f" but {tensor.shape[-2]}x{tensor.shape[-1]} came"
            )
    if tile is not None:
        check_whole(tile, "tile")
    check_whole(margin, "margin", 0)
    if tile is None or (height <= tile + margin and width <= tile + margin):
        return function(*inputs)
    out = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y, x = max(0, top - margin), max(0, left - margin)
            parts = []
            for tensor in inputs:
                k = tensor.shape[-1] // width
                parts.append(tensor[..., y * k : (bottom + margin) * k, x * k : (right + margin) * k])
            part = function(*parts)
            k = part.shape[-1] // parts[0].shape[-1]
            if out is None:
                out = part.new_empty(*part.shape[:2], height * k, width * k)
            inner = part[..., (top - y) * k : (bottom - y) * k, (left - x) * k : (right - x) * k]
            out[..., top * k : bottom * k, left * k : right * k] = inner
    return out
