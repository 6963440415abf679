"""A U-Net for states of any channel count, told the noise level and a condition on a coarser grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def noise_embedding(level: Tensor, size: int) -> Tensor:
    """Sines and cosines of a noise level (B,) -> (B, size), at frequencies 1/4 ... 32 per unit of level.

    Vaswani et al., arXiv 1706.03762, with frequencies chosen for a level that runs over a few units (log-SNR / 4), not
    for an index up to 1000: SR3's public port feeds a number in [0, 1] to frequencies made for 1000 steps.
    """
    frequencies = torch.exp(torch.linspace(math.log(0.25), math.log(32.0), size // 2, device=level.device))
    angles = level[:, None] * frequencies.to(level.dtype)
    return torch.cat([angles.sin(), angles.cos()], 1)


class ChannelNorm(nn.Module):
    """Divide each pixel's channels by their root mean square, with a learned gain.

    It looks at one pixel only. Group norm looks at the whole picture, so a tile would be normalised unlike the image it was
    cut from, and brightness would leak between places.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.gain.to(x.dtype), 1e-6).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + conv(silu(shift + gain * conv(silu(norm(x))))), gain and shift read from the noise level; the last conv starts at 0."""

    def __init__(self, in_channels: int, channels: int, embedding: int):
        super().__init__()
        self.norm = ChannelNorm(in_channels)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        for parameter in (self.modulation.weight, self.modulation.bias, self.second.weight, self.second.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(F.silu(self.norm(x)))
        return self.skip(x) + self.second(F.silu(h * (1 + gain) + shift))


class UNet(nn.Module):
    """forward(z, level, cond=None): (B, C, H, W), (B,), (B, cond_channels, H/fold, W/fold) -> (B, out_channels, H, W).

    The state is folded by `fold` (pixel unshuffle) before the first convolution and unfolded after the last, so all work
    happens on the coarser grid, where a condition of that size is stacked on. One level per entry of `channels`, `blocks`
    blocks on each way down and up, each level half the size of the one above. Any H and W: the folded grid is padded by
    repeating its edge to a multiple of 2^(levels - 1) and cut back. No attention and no normalisation across pixels: the
    output at a pixel depends only on its neighbourhood, so tiles agree with the whole.

    `told` (B, embedding) is added to what the network is told about the noise: words, classes. `modulation` holds a pair
    (gain, shift) for each level of the way down, (B, channels, h, w) on its grid: features become features (1 + gain) + shift
    (FiLM, Perez et al., arXiv 1709.07871, with gains that depend on the place as in StableSR, arXiv 2305.07015).

    Ronneberger et al., arXiv 1505.04597; Ho et al., arXiv 2006.11239, whose U-Net has group norm and attention instead.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        cond_channels: int = 0,
        channels: tuple[int, ...] = (64, 128, 192),
        blocks: int = 2,
        fold: int = 1,
        embedding: int = 128,
    ):
        super().__init__()
        self.fold = fold
        self.embedding = embedding
        self.embed = nn.Sequential(
            nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.enter = nn.Conv2d(in_channels * fold**2 + cond_channels, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(channels):
            last = i == len(channels) - 1
            self.down.append(nn.ModuleList(Block(width, width, embedding) for _ in range(blocks)))
            if not last:
                self.up.append(
                    nn.ModuleList(Block(2 * width if j == 0 else width, width, embedding) for j in range(blocks))
                )
                self.shrink.append(nn.Conv2d(4 * width, channels[i + 1], 1))
                self.grow.append(nn.Conv2d(channels[i + 1], 4 * width, 1))
        self.norm = ChannelNorm(channels[0])
        self.leave = nn.Conv2d(channels[0], out_channels * fold**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        z: Tensor,
        level: Tensor,
        cond: Tensor | None = None,
        told: Tensor | None = None,
        modulation: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        if modulation is not None and len(modulation) != len(self.down):
            raise ValueError(f"modulation must hold {len(self.down)} pairs, one a level, but {len(modulation)} came")
        x = F.pixel_unshuffle(z, self.fold)
        if cond is not None:
            x = torch.cat([x, cond], 1)
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.shrink)
        pad = (0, -width % multiple, 0, -height % multiple)
        if any(pad):
            x = F.pad(x, pad, mode="replicate")
        embedding = self.embed(noise_embedding(level, self.embedding))
        if told is not None:
            embedding = embedding + told
        x = self.enter(x)
        kept = []
        for i, level_blocks in enumerate(self.down):
            for block in level_blocks:
                x = block(x, embedding)
            if modulation is not None:
                gain, shift = modulation[i]
                x = x * (1 + gain) + shift
            if i < len(self.shrink):
                kept.append(x)
                x = self.shrink[i](F.pixel_unshuffle(x, 2))
        for i in reversed(range(len(self.up))):
            x = torch.cat([F.pixel_shuffle(self.grow[i](x), 2), kept.pop()], 1)
            for block in self.up[i]:
                x = block(x, embedding)
        x = self.leave(F.silu(self.norm(x)))[..., :height, :width]
        return F.pixel_shuffle(x, self.fold)
