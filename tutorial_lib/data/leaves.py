"""Dead leaves: images made of overlapping discs, with the edges and the scale invariance of natural images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

OPAQUE = 1 / 512  # a pixel that lets less than this through is finished: half an 8-bit level


def leaves(
    n: int,
    size: int | tuple[int, int] = 64,
    seed: int = 0,
    radius: tuple[float, float] = (2.0, 32.0),
    channels: int = 3,
) -> Tensor:
    """`n` dead-leaves images (n, C, H, W) in [0, 1], float32; `size` is H = W or (H, W).

    Discs fall on top of each other until nothing behind them shows. Their centres are uniform, their radii r follow the
    density r^-3 between the two ends of `radius` (in pixels), which makes the image look alike at every scale between
    them, and their colours are uniform in [0, 1]^C. Two pixels at distance d lie in the same leaf with probability
    B(d) / (2 B(0) - B(d)), B(d) the mean overlap of a disc with itself shifted by d; so pixels have that times
    1/12 for covariance. Edges are antialiased by their coverage of the pixel. Lee, Mumford, Huang 2001,
    doi:10.1023/A:1011109015675.

    Image i depends on `seed`, i and the other arguments only, not on `n`. Discs are laid from the front to the back,
    which gives the same law and can stop when the image is covered. Raises ValueError for bad arguments.
    """
    height, width = (size, size) if isinstance(size, int) else size
    for value, argument in ((n, "n"), (height, "size"), (width, "size"), (channels, "channels")):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{argument} must be made of positive whole numbers, but {value!r} came")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0, but {seed!r} came")
    if not 0.5 <= radius[0] <= radius[1] < float("inf"):
        raise ValueError(f"radius must be (smallest, largest) with 0.5 <= smallest <= largest, but {radius!r} came")
    images = [_one(height, width, np.random.default_rng((seed, i)), radius, channels) for i in range(n)]
    return torch.from_numpy(np.stack(images).astype(np.float32))


def _one(height: int, width: int, rng: np.random.Generator, radius: tuple[float, float], channels: int) -> np.ndarray:
    """One image (C, H, W)."""
    image = np.zeros((channels, height, width))
    through = np.ones((height, width))  # the share of light that no leaf has stopped yet
    # Leaves that touch the image: a radius r can have its centre anywhere in (H + 2r)(W + 2r), hence that weight.
    radii = np.geomspace(*radius, 1024)
    weight = radii**-2 * (height + 2 * radii) * (width + 2 * radii)  # r^-3 dr = r^-2 d(log r)
    cumulative = np.cumsum(weight) / weight.sum()
    while through.max() > OPAQUE:
        r = radii[np.searchsorted(cumulative, rng.random(128))]
        y = rng.random(128) * (height + 2 * r) - r
        x = rng.random(128) * (width + 2 * r) - r
        colours = rng.random((128, channels))
        for r_, y_, x_, colour in zip(r.tolist(), y.tolist(), x.tolist(), colours, strict=True):
            top, left = max(0, int(y_ - r_ - 1)), max(0, int(x_ - r_ - 1))
            bottom, right = max(0, int(y_ + r_ + 1)), max(0, int(x_ + r_ + 1))
            light = through[top:bottom, left:right]
            if light.size == 0 or light.max() <= OPAQUE:
                continue
            rows = np.arange(top, top + light.shape[0])[:, None] + (0.5 - y_)
            columns = np.arange(left, left + light.shape[1]) + (0.5 - x_)
            cover = np.clip(r_ + 0.5 - np.sqrt(rows * rows + columns * columns), 0, 1)
            stopped = light * cover
            image[:, top:bottom, left:right] += colour[:, None, None] * stopped
            light -= stopped
    return image / (1 - through)  # what still shines through takes the colour in front of it
