"""Photos at scale 4 by cold diffusion: a network that undoes the loss of bands."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..corruption import cold_denoiser, staged_corruption
from ..pretrained import COLD_GROUPS, COLD_NOISE, cold_network
from .base import Recipe
from .domains import wavelet_patches
from .photos import PHOTO_DATA


def cold_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The weighted mean of |answer - z_0| for z_t = C(z_0, t), (B,): L1 as in the paper, so the answer is a median."""
    t = batch["t"].double()
    z = staged_corruption(COLD_GROUPS, COLD_NOISE * batch["noise"])(batch["z_0"], t)
    answer = cold_denoiser(network)(z, t, batch["cond"])
    return ((answer - batch["z_0"]).abs() * batch["weight"]).mean((1, 2, 3))


def photo_cold_x4(steps: int = 5_000, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """Cold diffusion: the Haar bands of what the regression leaves fade out, fine ones first, and are restored."""
    return Recipe(
        name="photo-cold-x4",
        network=cold_network,
        batch=lambda step: wavelet_patches(step, size, batch_size, seed),
        loss=cold_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"L1 of two levels of Haar bands, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"photo-cold-x4": photo_cold_x4}
