"""A pixel model: one number after the other, each drawn from a law over a few grey levels given all earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..checks import check_images, check_whole
from ..noise import standard_normal


class RowConv(nn.Conv2d):
    """A convolution over the pixel itself, its left neighbour, and nothing else: (B, in, H, W) -> (B, out, H, W).

    Features belong to the image's channels, in turn and equally many each: feature k of n to channel (k channels) // n.
    The left neighbour may be read whole. At the pixel itself, features of channel c read those of channels before c (kind
    "A", for the image itself) or up to c (kind "B", for features, which know nothing of channel c's own value). "B" in the
    first layer would show every number its own answer. `out` may hold several such blocks, as a gate's two halves are.
    """

    def __init__(self, in_features: int, out_features: int, kind: str, channels: int, halves: int = 1):
        super().__init__(in_features, halves * out_features, (1, 2), padding=(0, 1))
        source = torch.arange(in_features) * channels // in_features
        target = (torch.arange(out_features) * channels // out_features).repeat(halves)
        here = source < target[:, None] if kind == "A" else source <= target[:, None]
        left = torch.ones_like(here)
        self.register_buffer("mask", torch.stack([left, here], -1)[:, :, None].float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)[..., :-1]


class RowsAbove(nn.Conv2d):
    """A convolution over a pixel's row and the row above, three columns wide; `shift=1` over the row above alone."""

    def __init__(self, in_features: int, out_features: int, shift: int = 0):
        super().__init__(in_features, out_features, (2 - shift, 3))
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        rows = F.pad(x, (1, 1, 1, 0))
        return super().forward(rows[..., : rows.shape[-2] - self.shift, :])


def gate(x: Tensor) -> Tensor:
    """tanh(first half of the features) sigmoid(second half)."""
    value, weight = x.chunk(2, 1)
    return value.tanh() * weight.sigmoid()


class PixelModel(nn.Module):
    """log p(y | cond) = sum_i log p(y_i | y_1 ... y_(i-1), cond), exactly, for images of whole numbers 0 .. levels - 1.

    y_levels (B, channels, H, W), cond (B, cond_channels, H, W) on the same grid, any H and W. The order i is the raster's:
    row by row, in a row pixel by pixel, in a pixel channel by channel. `hidden` features per image channel.

    Two stacks of `layers` gated convolutions: one reads the rows above, the other the row itself from the left and, in
    every layer, the first. A single stack of masked square kernels, the original PixelCNN, never sees some pixels up and to
    the right (its blind spot); these two see every earlier pixel up to `layers` rows up, `layers` columns to the left, and in
    the rows above as far to the right. The condition is no secret: it is read by convolutions without masks, two pixels
    ahead as well. The model starts at the uniform law.

    van den Oord et al., arXiv 1601.06759 (masks A and B) and 1606.05328 (two stacks, gates), with 256 levels. PixelCNN++,
    arXiv 1701.05517, puts a mixture of logistic laws in the softmax's place, which knows that level 7 lies beside level 8.
    """

    def __init__(self, channels: int, cond_channels: int, levels: int = 16, hidden: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.channels = check_whole(channels, "channels")
        self.cond_channels = check_whole(cond_channels, "cond_channels")
        self.levels = check_whole(levels, "levels", low=2)
        width = channels * check_whole(hidden, "hidden")
        check_whole(layers, "layers")
        self.read = nn.Sequential(
            nn.Conv2d(cond_channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        )
        self.above, self.row, self.down = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.told_above, self.told_row = nn.ModuleList(), nn.ModuleList()
        for i in range(layers):
            first = i == 0
            self.above.append(RowsAbove(channels if first else width, 2 * width, shift=1 if first else 0))
            self.row.append(RowConv(channels if first else width, width, "A" if first else "B", channels, halves=2))
            self.down.append(nn.Conv2d(2 * width, 2 * width, 1))
            self.told_above.append(nn.Conv2d(width, 2 * width, 1))
            self.told_row.append(nn.Conv2d(width, 2 * width, 1))
        self.mix = RowConv(width, width, "B", channels)
        self.leave = RowConv(width, channels * levels, "B", channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def logits(self, y_levels: Tensor, cond: Tensor) -> Tensor:
        """(B, levels, channels, H, W): what softmax over dim 1 turns into p(y_i = level | earlier ones, cond)."""
        told = self.read(cond)
        above = row = 2 * y_levels.to(cond.dtype) / (self.levels - 1) - 1
        for i in range(len(self.row)):
            v = self.above[i](above) + self.told_above[i](told)
            h = self.row[i](row) + self.down[i](v) + self.told_row[i](told)
            above, row = (gate(v), gate(h)) if i == 0 else (above + gate(v), row + gate(h))
        out = self.leave(F.silu(self.mix(F.silu(row))))
        return out.unflatten(1, (self.channels, self.levels)).transpose(1, 2)

    def log_prob(self, y_levels: Tensor, cond: Tensor) -> Tensor:
        """log p(y_levels | cond), (B,) nats; a probability, not a density: at most 0, and over all images e^log_prob sums to 1.

        One network call. y_levels: whole numbers 0 .. levels - 1 of an integer dtype.
        """
        check_images(cond, "cond", self.cond_channels)
        if y_levels.is_floating_point() or y_levels.shape != (len(cond), self.channels, *cond.shape[2:]):
            expected = (len(cond), self.channels, *cond.shape[2:])
            came = f"{y_levels.dtype} of shape {tuple(y_levels.shape)}"
            raise ValueError(f"y_levels must be integers of shape {expected}, but {came} came")
        if y_levels.min() < 0 or y_levels.max() >= self.levels:
            came = f"{y_levels.min().item()} .. {y_levels.max().item()}"
            raise ValueError(f"y_levels must lie in 0 .. {self.levels - 1}, but {came} came")
        return -F.cross_entropy(self.logits(y_levels, cond), y_levels.long(), reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, cond: Tensor, generator: int | Generator | Sequence[Generator] = 0) -> Tensor:
        """Images y_levels (B, channels, H, W), int64, drawn number by number: channels H W network calls one after the other.

        `generator` is a seed, a torch.Generator, or a list with one per image, so that images do not depend on their batch.
        """
        check_images(cond, "cond", self.cond_channels)
        noise = standard_normal(generator)
        height, width = cond.shape[2:]
        y = torch.zeros(len(cond), self.channels, height, width, dtype=torch.int64, device=cond.device)
        for i in range(height):
            for j in range(width):
                for c in range(self.channels):
                    below = self.logits(y, cond)[:, :, c, i, j].double().softmax(1).cumsum(1)
                    uniform = torch.special.ndtr(noise(below.new_empty(len(y), 1)))
                    y[:, c, i, j] = (below[:, :-1] < uniform).sum(1)
        return y
