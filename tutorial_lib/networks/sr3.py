"""SR3's network: a U-Net that is shown the noisy image beside the enlarged LR image, and told how noisy it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import ChannelNorm, noise_embedding


def _convolution(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps a variance of 1 through silu, whose mean square is 0.36 for standard normal input."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    nn.init.normal_(layer.weight, std=1 / (0.6 * math.sqrt(inputs * size**2)))
    nn.init.zeros_(layer.bias)
    return layer


class BigGANBlock(nn.Module):
    """(skip(x) + conv(silu(shift + gain norm(conv(silu(norm(x))))))) / sqrt(2), at half or double size if asked.

    x: (B, inputs, h, w) -> (B, outputs, h', w'); `embedding` (B, E) gives gain and shift. The two branches have about unit
    variance each, so their sum is divided by sqrt(2): without it the variance would grow by one with every block.
    `resample` is "down" (mean of 2 x 2), "up" (nearest) or None, on both branches. Brock et al., arXiv 1809.11096.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, resample: str | None = None):
        super().__init__()
        self.resample = resample
        self.norm, self.norm_again = ChannelNorm(inputs), ChannelNorm(outputs)
        self.first, self.second = _convolution(inputs, outputs), _convolution(outputs, outputs)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if inputs != outputs:
            nn.init.normal_(self.skip.weight, std=1 / math.sqrt(inputs))

    def resized(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0) if self.resample == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(self.resized(F.silu(self.norm(x))))
        h = self.second(F.silu(self.norm_again(h) * (1 + gain) + shift))
        return (self.skip(self.resized(x)) + h) / math.sqrt(2)


@dataclass(frozen=True)
class LocalSpread:
    """A guess at how far a photo lies from its enlarged LR image at each pixel: little on walls, much in grass.

    __call__(cond): (B, C, H, W) in state units -> (B, 1, H, W), sqrt(floor^2 + x^2 / (1 + (x / most)^2)) with x = gain *
    the standard deviation of cond over a window x window neighbourhood (window odd). The numbers were read off training photos.
    `noise_std` (B, 1, 1, 1) is that of noise in cond: it is taken out of the deviation and added to the answer.
    """

    floor: float
    gain: float
    most: float
    window: int

    def __call__(self, cond: Tensor, noise_std: Tensor | float = 0.0) -> Tensor:
        half, known = self.window // 2, noise_std**2
        cond = cond if cond.dtype == torch.float64 else cond.float()
        mean, square = (F.avg_pool2d(c, self.window, 1, half, count_include_pad=False) for c in (cond, cond**2))
        x = self.gain**2 * ((square - mean**2).mean(1, keepdim=True) - known).clamp(min=0)
        return (self.floor**2 + x / (1 + x / self.most**2) + known).sqrt()


class SR3Network(nn.Module):
    """forward(u, level, cond): (B, C, H, W), (B,), (B, C or C + 1, H, W) -> eps (B, C, H, W); the fold divides H and W.

    u = alpha y + sigma eps is the noisy image in state units (alpha^2 + sigma^2 = 1), level = log_snr / 8 says how noisy,
    cond is the enlarged LR image in state units at the size of u. Everything happens on the grid folded by `fold` (pixel
    unshuffle), whose sides may be odd. With `augmented`, cond has one more channel, constant over the image: the standard
    deviation sqrt(1 - gamma) of the noise in the LR image, cond[:, :C] = sqrt(gamma) x + sqrt(1 - gamma) eps.

    What can be known without learning is written down: cond explains all of u but a residual of standard deviation
    s = spread(cond), so with size = sqrt((s alpha)^2 + sigma^2) the body sees (u - alpha cond) / size, of unit variance
    at every level and nearly everywhere, and eps = (sigma / size) (u - alpha cond) / size + (s alpha / size) body. A body
    of zeros gives the exact E[eps given u, cond] for a white Gaussian residual of that spread. This is Karras'
    preconditioning (arXiv 2206.00364) in SR3's letters, pixel by pixel; SR3 itself (Saharia et al., arXiv 2104.07636) stacks
    u and cond as they are and trains a hundred times longer. Like SR3: BigGAN blocks, skips over sqrt(2), the level told
    and not an index. Unlike SR3: no group norm and no attention, so tiles agree with the whole (see `unet.ChannelNorm`).
    """

    def __init__(
        self,
        spread: LocalSpread,
        channels: tuple[int, int] = (80, 128),
        blocks: int = 2,
        fold: int = 4,
        colors: int = 3,
        augmented: bool = False,
        embedding: int = 128,
    ):
        super().__init__()
        self.colors, self.fold, self.spread, self.embedding, self.augmented = colors, fold, spread, embedding, augmented
        fine, coarse = channels
        state = colors * fold**2
        self.embed = nn.Sequential(
            nn.Linear((2 if augmented else 1) * embedding, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.enter = nn.Conv2d(2 * state + 1, fine, 3, padding=1)
        self.down = nn.ModuleList(BigGANBlock(fine, fine, embedding) for _ in range(blocks))
        self.shrink = BigGANBlock(fine, coarse, embedding, "down")
        self.middle = nn.ModuleList(BigGANBlock(coarse, coarse, embedding) for _ in range(blocks))
        self.grow = BigGANBlock(coarse, fine, embedding, "up")
        self.up = nn.ModuleList(BigGANBlock(2 * fine if i == 0 else fine, fine, embedding) for i in range(blocks))
        self.norm = ChannelNorm(fine)
        self.leave = nn.Conv2d(fine, state, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def body(self, centred: Tensor, cond: Tensor, visible: Tensor, *levels: Tensor) -> Tensor:
        """The learned part, (B, C, H, W): of the normalised difference, the enlarged LR image, how well the residual is
        visible at each pixel of the folded grid (its own log-SNR / 8), and the levels told."""
        parts = [F.pixel_unshuffle(centred, self.fold), F.pixel_unshuffle(cond, self.fold), visible]
        x = torch.cat(parts, 1)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 2, 0, -height % 2), mode="replicate")
        embedding = self.embed(torch.cat([noise_embedding(level, self.embedding) for level in levels], 1))
        x = self.enter(x)
        for block in self.down:
            x = block(x, embedding)
        kept, x = x, self.shrink(x, embedding)
        for block in self.middle:
            x = block(x, embedding)
        x = torch.cat([self.grow(x, embedding), kept], 1)
        for block in self.up:
            x = block(x, embedding)
        x = self.leave(F.silu(self.norm(x)))[..., :height, :width]
        return F.pixel_shuffle(x, self.fold).to(centred.dtype)

    def forward(self, u: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        log_snr = 8 * level.view(-1, 1, 1, 1)
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
        base, told, noise_std = cond[:, : self.colors], [level], 0.0
        if self.augmented:
            std = cond[:, -1:, :1, :1]
            base, noise_std = base / (1 - std**2).sqrt(), std / (1 - std**2).sqrt()
            told.append(8 * std.flatten())  # the frequencies of noise_embedding fit a range of a few units
        s = self.spread(base, noise_std).to(u.dtype)
        visible = ((log_snr + 2 * F.avg_pool2d(s, self.fold).log()) / 8).clamp(-2.5, 2.5)
        size = ((s * alpha) ** 2 + sigma**2).sqrt()
        centred = (u - alpha * base) / size
        answer = self.body(centred, base, visible, *told)
        return sigma / size * centred + s * alpha / size * answer
