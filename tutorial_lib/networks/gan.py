"""The other half of a generative adversarial network: a discriminator, and the two losses of the game."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """forward(hr, lr): (B, C, s h, s w), (B, C, h, w) -> logits (B, 1, h', w'), one per patch: is this piece a photograph?

    Both images come in the same units; lr tells which photograph is asked for. Works on the grid folded by `fold`, then halves it
    `halvings` times. Spectral norm bounds how fast the answer can change (Miyato et al., arXiv 1802.05957), which keeps the
    generator's gradient alive when the discriminator is winning. Patches: Isola et al., arXiv 1611.07004. SRGAN's (Ledig et
    al., arXiv 1609.04802) gives one answer per image.
    """

    def __init__(self, colors: int = 3, channels: int = 32, fold: int = 2, halvings: int = 2):
        super().__init__()
        self.fold = fold
        layers: list[nn.Module] = [
            spectral_norm(nn.Conv2d(colors * (fold**2 + 1), channels, 3, padding=1)),
            nn.LeakyReLU(0.2),
        ]
        for _ in range(halvings):
            layers += [
                spectral_norm(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)),
                nn.LeakyReLU(0.2),
            ]
            channels *= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, hr: Tensor, lr: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(hr, self.fold)
        known = F.interpolate(lr, size=folded.shape[-2:])
        return self.layers(torch.cat([folded, known], 1))


def adversarial_losses(discriminator: nn.Module, real: Tensor, fake: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    """(discriminator_loss, generator_loss), each (B,): the hinge game, in one pass that serves both players.

    Discriminator: mean of max(0, 1 - D(real)) + max(0, 1 + D(fake)), with fake as a constant. Generator: mean of -D(fake),
    with the discriminator's weights as constants. So the sum of both can be given to one optimiser: neither player gets
    a gradient from the other's loss. Lim and Ye, arXiv 1705.02894; Goodfellow et al., arXiv 1406.2661, whose generator loss
    log(1 - D) fades away when the discriminator wins.
    """
    real_logits, fake_logits = discriminator(real, cond), discriminator(fake.detach(), cond)
    discriminator_loss = F.relu(1 - real_logits).flatten(1).mean(1) + F.relu(1 + fake_logits).flatten(1).mean(1)
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    frozen |= dict(discriminator.named_buffers())
    training = discriminator.training
    discriminator.eval()  # the spectral norm's power iteration must not move twice
    generator_loss = -torch.func.functional_call(discriminator, frozen, (fake, cond)).flatten(1).mean(1)
    discriminator.train(training)
    return discriminator_loss, generator_loss
