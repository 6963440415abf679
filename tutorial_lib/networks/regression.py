"""The regression network: one guess per LR image, and how unsure it is where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images import resize

SMALLEST_SPREAD = 0.5 / 255  # image units: rounding to 8 bits alone leaves about this much


class ResidualBlock(nn.Module):
    """EDSR's block without normalisation: x + conv(relu(conv(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class RegressionNetwork(nn.Module):
    """An EDSR-like network that works on the LR grid and adds detail to bicubic interpolation.

    forward(lr): (B, 3, h, w) in [0, 1] -> mean (B, 3, s h, s w), the estimate of E[hr given lr] (a median when trained with
    L1), unclipped. spread(features): -> (B, 1, s h, s w), the estimated standard deviation of hr - mean, in image units.
    features(lr): -> (B, channels, h, w), what both are read from; condition(lr) packs all three for a diffusion model.

    Lim et al., arXiv 1707.02921 (EDSR: no batch normalisation); Shi et al., arXiv 1609.05158 (pixel shuffle). EDSR's
    published code upsamples in two stages with convolutions on the finer grids; one pixel shuffle costs half as much.
    """

    def __init__(self, channels: int = 64, blocks: int = 16, scale: int = 4):
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(channels) for _ in range(blocks)])
        self.tail = nn.Conv2d(channels, channels, 3, padding=1)
        self.detail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)
        self.unsure = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, scale**2, 3, padding=1),
        )
        for layer in (self.detail, self.unsure[-1]):  # start at bicubic, with a spread of 0.03
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.unsure[-1].bias, -3.5)

    def features(self, lr: Tensor) -> Tensor:
        first = self.head(lr - 0.5)
        return first + self.tail(self.body(first))

    def mean(self, lr: Tensor, features: Tensor) -> Tensor:
        return resize(lr, self.scale) + F.pixel_shuffle(self.detail(features), self.scale).float()

    def spread(self, features: Tensor) -> Tensor:
        log_spread = F.pixel_shuffle(self.unsure(features), self.scale).float()
        return log_spread.clamp(max=0).exp() + SMALLEST_SPREAD

    def forward(self, lr: Tensor) -> Tensor:
        return self.mean(lr, self.features(lr))


def condition(network: RegressionNetwork, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Everything the regression knows: mean (B, 3, s h, s w), spread (B, 1, s h, s w) and a condition on the LR grid.

    The condition stacks lr, the mean folded to the LR grid (pixel unshuffle) and the features: (B, 3 + 3 s^2 + channels,
    h, w). A diffusion model of the residual is told this at every step; it is computed once per image.
    """
    features = network.features(lr)
    mean = network.mean(lr, features)
    folded = F.pixel_unshuffle(mean, network.scale)
    return mean, network.spread(features), torch.cat([lr - 0.5, folded - 0.5, features.float()], 1)
