"""ESRGAN's residual-in-residual dense blocks: the feature encoder of SRDiff."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_whole

RESIDUAL_SCALE = 0.2  # of every dense block's and every RRDB's branch, as in ESRGAN


class DenseBlock(nn.Module):
    """x + 0.2 conv5([x, x1, x2, x3, x4]), x_k = leaky_relu(conv_k([x, x1, ..., x_(k-1)])): each layer sees all before it."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels + k * growth, growth, 3, padding=1) for k in range(4))
        self.last = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(F.leaky_relu(layer(torch.cat(seen, 1)), 0.2))
        return x + RESIDUAL_SCALE * self.last(torch.cat(seen, 1))


class RRDB(nn.Module):
    """x + 0.2 dense(dense(dense(x))): a residual block whose branch is made of residual blocks.

    The branch keeps its own x, as in the published code, so the skip path's gain is 1.2 a block, not 1.
    """

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*[DenseBlock(channels, growth) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


class RRDBEncoder(nn.Module):
    """forward(lr): (B, colors, h, w) in [0, 1] -> features (B, channels, h, w), on the LR grid. No normalisation layers.

    Wang et al., arXiv 1809.00219 (ESRGAN); Li et al., arXiv 2104.14951 (SRDiff), who train it for super-resolution first and
    then tell the denoiser its features at every step. It runs once per image, not once per step.
    """

    def __init__(self, colors: int = 3, channels: int = 32, growth: int = 16, blocks: int = 3):
        super().__init__()
        for value, name in ((colors, "colors"), (channels, "channels"), (growth, "growth"), (blocks, "blocks")):
            check_whole(value, name)
        self.colors = colors
        self.head = nn.Conv2d(colors, channels, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(channels, growth) for _ in range(blocks)])
        self.tail = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        first = self.head(check_images(lr, "lr", self.colors) - 0.5)
        return first + self.tail(self.body(first))
