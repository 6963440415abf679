"""Photos at scale 4: the regression, and the diffusion of what it leaves."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from ..images import crop_to_multiple, resize, to_uint8
from ..networks.regression import RegressionNetwork, condition
from ..pretrained import photo_prior, residual_network
from .base import Recipe, random_times, step_generator, velocity_loss

PHOTO_DATA = "BSDS500 train and test (400 photos), MATLAB bicubic x4 rounded to 8 bits; BSD100, Set5, Set14 never seen"


@lru_cache(maxsize=1)
def training_pairs(scale: int) -> list[tuple[Tensor, Tensor]]:
    """(lr, hr) uint8 pairs (C, H, W) of BSDS500's train and test photos; lr is MATLAB's bicubic rounded to 8 bits."""
    from ..data import folder, require_folder

    pairs = []
    for part in ("train", "test"):
        for image in folder(require_folder("bsds500") / part):
            hr = crop_to_multiple(image, scale)
            pairs.append((to_uint8(resize(hr, 1 / scale))[0], to_uint8(hr)[0]))
    return pairs


def random_patch(pair: tuple[Tensor, Tensor], size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """One aligned patch (size x size on the LR grid), flipped or turned at random; still uint8."""
    lr, hr = pair
    scale = hr.shape[-1] // lr.shape[-1]
    top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in lr.shape[-2:])
    turns, flip = int(torch.randint(4, (), generator=generator)), int(torch.randint(2, (), generator=generator))

    def cut(image: Tensor, k: int) -> Tensor:
        patch = image[:, top * k : (top + size) * k, left * k : (left + size) * k]
        patch = torch.rot90(patch, turns, (1, 2))
        return patch.flip(2) if flip else patch

    return cut(lr, 1), cut(hr, scale)


def random_patches(step: int, scale: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """A batch of LR and HR patches in [0, 1], each from a photo chosen at random."""
    generator = step_generator(seed, step)
    pairs = training_pairs(scale)
    chosen = torch.randint(len(pairs), (batch_size,), generator=generator).tolist()
    lr, hr = zip(*[random_patch(pairs[i], size, generator) for i in chosen], strict=True)
    return {"lr": torch.stack(lr).float() / 255, "hr": torch.stack(hr).float() / 255}


class RegressionWithSpread(nn.Module):
    """The regression network with its loss inside forward, so that every parameter takes part under several processes."""

    def __init__(self):
        super().__init__()
        self.regression = RegressionNetwork()

    def forward(self, lr: Tensor, hr: Tensor) -> Tensor:
        features = self.regression.features(lr)
        error = hr - self.regression.mean(lr, features)
        spread = self.regression.spread(features.detach())
        fit = error.abs().mean((1, 2, 3))
        likelihood = spread.log() + (error.detach() ** 2).mean(1, keepdim=True) / (2 * spread**2)
        return fit + 0.01 * likelihood.mean((1, 2, 3))


def photo_regression_x4(steps: int = 7_000, batch_size: int = 16, size: int = 32, seed: int = 0) -> Recipe:
    """L1 regression of the photo, plus the Gaussian likelihood of its own error for the spread (no gradient to the rest)."""
    return Recipe(
        name="photo-regression-x4",
        network=RegressionWithSpread,
        batch=lambda step: random_patches(step, 4, size, batch_size, seed),
        loss=lambda network, batch: network(batch["lr"], batch["hr"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=6e-4,
        seed=seed,
        shipped=lambda network: network.regression,
        data=PHOTO_DATA,
        description=f"L1 and spread likelihood, {batch_size} patches of {size}x{size} LR pixels a step, flipped and turned",
    )


@lru_cache(maxsize=1)
def residual_pairs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every training photo and its mirror image: condition (115, h, w), normalised residual and spread, as float16.

    The regression sees whole photos here, so nothing near a patch's border is made up.
    """
    from ..pretrained import load_pretrained

    regression = load_pretrained("photo-regression-x4")
    records = []
    with torch.inference_mode():
        for lr, hr in training_pairs(4):
            for flip in (False, True):
                x, y = ((p.flip(2) if flip else p)[None].float() / 255 for p in (lr, hr))
                mean, spread, cond = condition(regression, x)
                records.append((cond[0].half(), ((y - mean) / spread)[0].half(), spread[0].half()))
    return records


TYPICAL_SPREAD = 0.04  # image units; only sets the loss's unit


def pieces(
    records: list[tuple[Tensor, Tensor, Tensor]], size: int, batch_size: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Condition, state and spread of patches (size x size on the LR grid) of records like `residual_pairs` chosen at random."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in torch.randint(len(records), (batch_size,), generator=generator).tolist():
        cond, residual, spread = records[i]
        y, x = (int(torch.randint(n - size + 1, (), generator=generator)) for n in cond.shape[-2:])
        fine = (slice(None), slice(4 * y, 4 * (y + size)), slice(4 * x, 4 * (x + size)))
        parts.append((cond[:, y : y + size, x : x + size].float(), residual[fine].float(), spread[fine].float()))
    cond, residual, spread = (torch.stack(p) for p in zip(*parts, strict=True))
    return cond, residual, spread


def residual_pieces(size: int, batch_size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Condition, normalised residual and spread of patches (size x size on the LR grid) of photos chosen at random."""
    return pieces(residual_pairs(), size, batch_size, generator)


def residual_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """A batch of residual patches with everything random about it: places, times and noise."""
    generator = step_generator(seed, step)
    cond, residual, spread = residual_pieces(size, batch_size, generator)
    t = random_times(batch_size, generator)
    noise = torch.randn(residual.shape, generator=generator)
    return {"z_0": residual, "cond": cond, "weight": spread / TYPICAL_SPREAD, "t": t, "noise": noise}


def photo_residual_x4(steps: int = 13_000, batch_size: int = 16, size: int = 32, seed: int = 0) -> Recipe:
    """Diffusion of the regression's normalised residual, told its features, its output and the LR image."""
    return Recipe(
        name="photo-residual-x4",
        network=residual_network,
        batch=lambda step: residual_patches(step, size, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=6e-4,
        warmup=400,
        ema_halflife=1000.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"v-prediction on the cosine path, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


def photo_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """A batch of patches (size x size) of photos as states in [-1, 1], with times and noise."""
    z_0 = 2 * random_patches(step, 4, size // 4, batch_size, seed)["hr"] - 1
    generator = step_generator(seed + 1000, step)
    t = random_times(batch_size, generator)
    return {"z_0": z_0, "t": t, "noise": torch.randn(z_0.shape, generator=generator)}


def photo_unconditional(steps: int = 18_000, batch_size: int = 32, size: int = 64, seed: int = 0) -> Recipe:
    """Diffusion of patches of photos, told nothing but the noise level: the prior of zero-shot super-resolution."""
    return Recipe(
        name="photo-unconditional",
        network=photo_prior,
        batch=lambda step: photo_patches(step, size, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=400,
        ema_halflife=700.0,
        seed=seed,
        bits=8,
        data="BSDS500 train and test (400 photos); BSD100, Set5, Set14 never seen",
        description=f"v-prediction on the cosine path, {batch_size} patches of {size}x{size} pixels a step, flipped and turned",
    )
