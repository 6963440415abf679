"""What came before diffusion: a GAN and a normalising flow for photos, and the same with a regression for faces."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks.gan import Discriminator, adversarial_losses
from ..networks.regression import RegressionNetwork, condition
from ..pretrained import face_flow_network, face_regression_network, flow_network, load_pretrained
from .base import Recipe, step_generator
from .photos import PHOTO_DATA, RegressionWithSpread, random_patches, residual_pieces
from .sr3 import FACE_PAIRS, face_pairs


class Game(nn.Module):
    """A generator that starts as a regression network, its discriminator, and the loss of both in one forward."""

    def __init__(self, generator: RegressionNetwork, fold: int, balance: float):
        super().__init__()
        self.generator = generator
        self.discriminator = Discriminator(fold=fold)
        self.balance = balance
        for p in generator.unsure.parameters():  # a GAN has no spread
            p.requires_grad_(False)

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        fake = self.generator(lr)
        discriminator_loss, generator_loss = adversarial_losses(
            self.discriminator, 2 * hr - 1, 2 * fake - 1, 2 * lr - 1
        )
        content = (fake - hr).abs().mean((1, 2, 3))
        return discriminator_loss + content + self.balance * generator_loss


def trainable_copy(name: str) -> RegressionNetwork:
    """The shipped regression network, ready to be trained on."""
    return copy.deepcopy(load_pretrained(name)).train().requires_grad_(True)


def photo_gan_x4(steps: int = 2_500, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """A GAN that starts as photo-regression-x4: SRGAN's game with L1 for its content loss."""
    return Recipe(
        name="photo-gan-x4",
        network=lambda: Game(trainable_copy("photo-regression-x4"), fold=2, balance=0.005),
        batch=lambda step: random_patches(step, 4, size, batch_size, seed + 50),
        loss=lambda network, batch: network(batch["lr"], batch["hr"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=2e-4,
        betas=(0.5, 0.99),
        clip=10.0,
        ema_halflife=200.0,
        seed=seed,
        shipped=lambda network: network.generator,
        data=PHOTO_DATA,
        description=f"L1 + 0.005 hinge GAN from photo-regression-x4, {batch_size} patches of {size}x{size} LR pixels a step",
    )


def flow_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """-log p(state given condition) in nats per channel, (B,): the flow on the image folded to the condition's grid."""
    return network(batch["y"], batch["cond"])


class FoldedFlow(nn.Module):
    """A flow with its loss inside forward; the state (B, 3, 4 h, 4 w) is folded to (B, 48, h, w)."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, y: Tensor, cond: Tensor) -> Tensor:
        return -self.flow.log_prob(F.pixel_unshuffle(y, 4), cond) / y[0].numel()


def residual_states(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches of the regression's normalised residual, dequantised: uniform noise of one grey level of the original."""
    generator = step_generator(seed, step)
    cond, residual, spread = residual_pieces(size, batch_size, generator)
    return {"cond": cond, "y": residual + (torch.rand(residual.shape, generator=generator) - 0.5) / 255 / spread}


def photo_flow_x4(steps: int = 3_000, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """A normalising flow of the regression's normalised residual, told what the regression knows."""
    return Recipe(
        name="photo-flow-x4",
        network=lambda: FoldedFlow(flow_network()),
        batch=lambda step: residual_states(step, size, batch_size, seed),
        loss=flow_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.flow,
        data=PHOTO_DATA,
        description=f"negative log-likelihood, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


class FaceRegression(RegressionWithSpread):
    """The regression of faces: squared error, so that it estimates the mean."""

    def __init__(self):
        nn.Module.__init__(self)
        self.regression = face_regression_network()

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        features = self.regression.features(lr)
        error = hr - self.regression.mean(lr, features)
        spread = self.regression.spread(features.detach())
        likelihood = spread.log() + (error.detach() ** 2).mean(1, keepdim=True) / (2 * spread**2)
        return 10 * error.square().mean((1, 2, 3)) + 0.01 * likelihood.mean((1, 2, 3))


def face_images(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """LR and HR faces in [0, 1]."""
    lr, hr, _ = face_pairs(step, batch_size, seed)
    return {"lr": lr, "hr": hr}


def faces_regression_x4(steps: int = 2_500, batch_size: int = 64, seed: int = 0) -> Recipe:
    """Squared-error regression of faces from 8 x 8 to 32 x 32, with its spread."""
    return Recipe(
        name="faces-regression-x4",
        network=FaceRegression,
        batch=lambda step: face_images(step, batch_size, seed),
        loss=lambda network, batch: network(batch["lr"], batch["hr"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.regression,
        data=FACE_PAIRS,
        description=f"squared error and spread likelihood, {batch_size} faces a step",
    )


def faces_gan_x4(steps: int = 2_000, batch_size: int = 64, seed: int = 0) -> Recipe:
    """A GAN that starts as faces-regression-x4."""
    return Recipe(
        name="faces-gan-x4",
        network=lambda: Game(trainable_copy("faces-regression-x4"), fold=2, balance=0.01),
        batch=lambda step: face_images(step, batch_size, seed + 50),
        loss=lambda network, batch: network(batch["lr"], batch["hr"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=2e-4,
        betas=(0.5, 0.99),
        clip=10.0,
        ema_halflife=200.0,
        seed=seed,
        shipped=lambda network: network.generator,
        data=FACE_PAIRS,
        description=f"L1 + 0.01 hinge GAN from faces-regression-x4, {batch_size} faces a step",
    )


def face_residuals(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """The normalised residual of faces-regression-x4, dequantised, with what that network knows."""
    lr, hr, generator = face_pairs(step, batch_size, seed)
    with torch.inference_mode():
        mean, spread, cond = condition(load_pretrained("faces-regression-x4"), lr)
    level = (torch.rand(hr.shape, generator=generator) - 0.5) / 255
    return {"cond": cond.clone(), "y": (hr + level - mean) / spread}


def faces_flow_x4(steps: int = 2_500, batch_size: int = 64, seed: int = 0) -> Recipe:
    """A normalising flow of what faces-regression-x4 leaves."""
    return Recipe(
        name="faces-flow-x4",
        network=lambda: FoldedFlow(face_flow_network()),
        batch=lambda step: face_residuals(step, batch_size, seed),
        loss=flow_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.flow,
        data=FACE_PAIRS,
        description=f"negative log-likelihood, {batch_size} faces a step",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "photo-gan-x4": photo_gan_x4,
    "photo-flow-x4": photo_flow_x4,
    "faces-regression-x4": faces_regression_x4,
    "faces-gan-x4": faces_gan_x4,
    "faces-flow-x4": faces_flow_x4,
}
