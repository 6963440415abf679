"""A conditional variational autoencoder: a picture is drawn in two steps, first a latent nobody observes, then pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_positive, check_whole
from ..noise import Noise


class StraightPlusBody(nn.Module):
    """straight(x) + body(x): one convolution, plus three with SiLU between whose last starts at zero.

    (B, in_channels, H, W) -> (B, out_channels, H, W). At the start the map is affine, and so it stays where the body is zero.
    """

    def __init__(self, in_channels: int, out_channels: int, hidden: int):
        super().__init__()
        self.straight = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.first = nn.Conv2d(in_channels, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.third = nn.Conv2d(hidden, out_channels, 3, padding=1)
        nn.init.zeros_(self.third.weight)
        nn.init.zeros_(self.third.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.straight(x) + self.third(F.silu(self.second(F.silu(self.first(x)))))


def kl_to_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, exp(log_std)^2) || N(0, I)) = sum (mean^2 + s^2 - 1) / 2 - log s, in nats; (B, ...) twice -> (B,).

    Code that stores the log of the variance has half of it here; mixing the two is a common mistake.
    """
    return ((mean**2 + (2 * log_std).exp() - 1) / 2 - log_std).flatten(1).sum(1)


class ConditionalVAE(nn.Module):
    """p(y | cond) = integral of N(y; decode(u, cond), std^2) N(u; 0, I) over a latent image u.

    y (B, channels, H, W), cond (B, cond_channels, H, W), u (B, latent, H, W): one grid, any H and W. The prior of u is N(0, I)
    and does not know the condition; the decoder does, which is enough, for a decoder can bend N(0, I) into p(u | cond).
    q(u | y, cond) = N(mean, exp(log_std)^2), both from `encode`, every number of u independent of the others. `std=None`
    learns one observation standard deviation per channel, starting from 1; a number fixes it. Nothing keeps a learned one
    from going to zero when the data lie on a curve or a point: fix it then.

    Train by maximising `elbo`. While the bodies of both networks are zero, as at the start, this is factor analysis, a
    Gaussian model for which log p(y | cond) and the best q are known.

    Kingma & Welling, arXiv 1312.6114. Published code often takes the squared error for the likelihood and a weight for the KL:
    that is this bound with one fixed std, its log term left out, so that it can neither be learned nor read in nats.
    """

    def __init__(
        self, channels: int, cond_channels: int, latent: int = 4, hidden: int = 64, std: float | None = None
    ) -> None:
        super().__init__()
        self.channels = check_whole(channels, "channels")
        self.cond_channels = check_whole(cond_channels, "cond_channels")
        self.latent = check_whole(latent, "latent")
        check_whole(hidden, "hidden")
        self.encoder = StraightPlusBody(channels + cond_channels, 2 * latent, hidden)
        self.decoder = StraightPlusBody(latent + cond_channels, channels, hidden)
        start = 0.0 if std is None else math.log(check_positive(std, "std"))
        self.log_std = nn.Parameter(torch.full((channels, 1, 1), start), requires_grad=std is None)

    def _check(self, images: Tensor, name: str, channels: int, cond: Tensor) -> None:
        check_images(images, name, channels)
        check_images(cond, "cond", self.cond_channels)
        if images.shape[0] != cond.shape[0] or images.shape[2:] != cond.shape[2:]:
            shapes = f"{tuple(images.shape)} and {tuple(cond.shape)}"
            raise ValueError(f"{name} and cond must have the same batch size, height and width, but they are {shapes}")

    def encode(self, y: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of q(u | y, cond), each (B, latent, H, W)."""
        self._check(y, "y", self.channels, cond)
        mean, log_std = self.encoder(torch.cat([y, cond], 1)).chunk(2, 1)
        return mean, log_std

    def decode(self, u: Tensor, cond: Tensor) -> Tensor:
        """The mean of p(y | u, cond), (B, channels, H, W). It is no sample of y: `sample` adds what std says is missing."""
        self._check(u, "u", self.latent, cond)
        return self.decoder(torch.cat([u, cond], 1))

    def log_likelihood(self, y: Tensor, u: Tensor, cond: Tensor) -> Tensor:
        """log p(y | u, cond) = sum -((y - decode)/std)^2/2 - log std - log(2 pi)/2, in nats, (B,)."""
        error = (y - self.decode(u, cond)) / self.log_std.exp()
        return -(error**2 / 2 + self.log_std + math.log(2 * math.pi) / 2).flatten(1).sum(1)

    def elbo(self, y: Tensor, cond: Tensor, noise: Noise) -> Tensor:
        """log p(y | u, cond) - KL(q || N(0, I)) at one u drawn from q: (B,) nats, in the mean at most log p(y | cond).

        What the mean falls short by is KL(q(u | y, cond) || p(u | y, cond)), so it is 0 for the true posterior alone.
        One value may lie above log p; many draws of `noise` are to be averaged before comparing.
        """
        mean, log_std = self.encode(y, cond)
        u = mean + log_std.exp() * noise(mean)
        return self.log_likelihood(y, u, cond) - kl_to_standard_normal(mean, log_std)

    def sample(self, cond: Tensor, noise: Noise, temperature: float = 1.0) -> Tensor:
        """decode(u, cond) + std eps, (B, channels, H, W), with u and eps standard normal, both times `temperature` >= 0.

        Pictures in papers often show decode(u, cond) alone: smoother, and of another law than the one that `elbo` bounds.
        """
        check_images(cond, "cond", self.cond_channels)
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number that is not negative, but {temperature!r} came")
        u = temperature * noise(cond.new_empty(len(cond), self.latent, *cond.shape[2:]))
        mean = self.decode(u, cond)
        return mean + temperature * self.log_std.exp() * noise(mean)
