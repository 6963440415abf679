"""A conditional normalising flow: an invertible network between images and Gaussian noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..noise import Noise


class Coupling(nn.Module):
    """b -> exp(s(a, cond)) b + t(a, cond) for the second half b of the channels; the first half a passes unchanged.

    The Jacobian is triangular, so its log-determinant is the sum of s; s = 2 tanh(.) stays within e^-2 ... e^2. With one
    channel a is empty and s, t depend on the condition alone. Dinh et al., arXiv 1605.08803.
    """

    def __init__(self, channels: int, cond_channels: int, hidden: int):
        super().__init__()
        self.kept = channels // 2
        changed = channels - self.kept
        self.network = nn.Sequential(
            nn.Conv2d(self.kept + cond_channels, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, 2 * changed, 3, padding=1),
        )
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def scale_and_shift(self, kept: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.network(torch.cat([kept, cond.to(kept.dtype)], 1)).to(kept.dtype).chunk(2, 1)
        return 2 * (log_scale / 2).tanh(), shift

    def forward(self, y: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        a, b = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self.scale_and_shift(a, cond)
        return torch.cat([a, b * log_scale.exp() + shift], 1), log_scale.sum((1, 2, 3))

    def inverse(self, z: Tensor, cond: Tensor) -> Tensor:
        a, b = z[:, : self.kept], z[:, self.kept :]
        log_scale, shift = self.scale_and_shift(a, cond)
        return torch.cat([a, (b - shift) * (-log_scale).exp()], 1)


class Mixing(nn.Module):
    """y -> W y + b at every pixel, W (channels, channels): a learned rotation and scaling, so that every channel gets to
    be changed. log-determinant: pixels times log |det W|. Kingma and Dhariwal, arXiv 1807.03039, with the bias of their
    actnorm. Half precision would spoil the exactness, so this runs in the precision of y.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            log_det = torch.linalg.slogdet(self.weight)[1] * y[0, 0].numel()
            return F.conv2d(y, self.weight[:, :, None, None], self.bias), log_det

    def inverse(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            inverse = torch.linalg.inv(self.weight)[:, :, None, None]
            return F.conv2d(z - self.bias[:, None, None], inverse)


class ConditionalFlow(nn.Module):
    """z = f(y; cond), invertible in y: states (B, channels, h, w), condition (B, cond_channels, h, w) on the same grid.

    log p(y given cond) = log N(f(y; cond); 0, I) + log |det df/dy|. `steps` pairs of Mixing and Coupling; before the first
    step the condition goes through one shared layer to `hidden` channels. Images go in folded (pixel unshuffle), so the
    channels hold the pixels of a block. Lugmayr et al., arXiv 2006.14200 (SRFlow), whose flow has several scales and
    changes every channel by the condition as well. "Flow" means a flow of probability: no optical flow, no motion.
    """

    def __init__(self, channels: int, cond_channels: int, steps: int = 12, hidden: int = 64):
        super().__init__()
        self.prepare = nn.Sequential(nn.Conv2d(cond_channels, hidden, 1), nn.SiLU())
        self.mixings = nn.ModuleList(Mixing(channels) for _ in range(steps))
        self.couplings = nn.ModuleList(Coupling(channels, hidden, hidden) for _ in range(steps))

    def forward(self, y: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """(z, log |det df/dy|): noise shaped like y, and (B,) nats."""
        told = self.prepare(cond)
        total = y.new_zeros(len(y))
        for mixing, coupling in zip(self.mixings, self.couplings, strict=True):
            y, log_det = mixing(y)
            total = total + log_det
            y, log_det = coupling(y, told)
            total = total + log_det
        return y, total

    def inverse(self, z: Tensor, cond: Tensor) -> Tensor:
        """The y with f(y; cond) = z."""
        told = self.prepare(cond)
        for mixing, coupling in reversed(list(zip(self.mixings, self.couplings, strict=True))):
            z = mixing.inverse(coupling.inverse(z, told))
        return z

    def log_prob(self, y: Tensor, cond: Tensor) -> Tensor:
        """log p(y given cond), (B,) nats. Exact: no bound, no sampling."""
        z, log_det = self(y, cond)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum((1, 2, 3))

    def sample(self, cond: Tensor, noise: Noise, temperature: float = 1.0) -> Tensor:
        """f^-1(temperature eps; cond) with eps from `noise`. Below 1 the samples crowd around the most likely images."""
        channels = len(self.mixings[0].bias)
        z = noise(cond.new_empty(len(cond), channels, *cond.shape[-2:]))
        return self.inverse(temperature * z, cond)
