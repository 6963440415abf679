"""Diffusion in other state domains: the residual to bicubic (SRDiff), wavelet bands (DiWa) and latents (LDM) of photos."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..domains import Wavelet, band_names
from ..images import resize, to_uint8
from ..networks.autoencoder import KLAutoencoder, VQAutoencoder
from ..pretrained import (
    LATENT_SCALE,
    WAVELET_SCALES,
    bicubic_spread,
    continuous_network,
    continuous_spread,
    latent_network,
    load_pretrained,
    photo_autoencoder,
    srdiff_network,
    wavelet_network,
)
from .base import Recipe, random_times, step_generator, velocity_loss
from .faces import FACES, face_batch
from .photos import PHOTO_DATA, TYPICAL_SPREAD, pieces, residual_pairs, residual_pieces, training_pairs


def diffused(z_0: Tensor, cond: Tensor, weight: Tensor | None, seed: int, step: int) -> dict[str, Tensor]:
    """The batch of `velocity_loss` (weight None: 1); times and noise come from another stream than the patches' places."""
    generator = step_generator(seed + 1000, step)
    t = random_times(len(z_0), generator)
    noise = torch.randn(z_0.shape, generator=generator)
    batch = {"z_0": z_0, "cond": cond, "t": t, "noise": noise}
    return batch if weight is None else batch | {"weight": weight}


@lru_cache(maxsize=1)
def srdiff_records() -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every training photo and its mirror image, as float16: what SRDiff is told (112, h, w), the residual to bicubic
    over its local spread, and that spread (image units)."""
    regression = load_pretrained("photo-regression-x4")
    records = []
    with torch.inference_mode():
        for lr, hr in training_pairs(4):
            for flip in (False, True):
                x, y = ((p.flip(2) if flip else p)[None].float() / 255 for p in (lr, hr))
                base = resize(x, 4)
                spread = bicubic_spread(x)
                cond = torch.cat([F.pixel_unshuffle(base - 0.5, 4), regression.features(x)], 1)
                records.append((cond[0].half(), ((y - base) / spread)[0].half(), spread[0].half()))
    return records


def srdiff_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches of the residual to bicubic; the weight is the local spread, as for the regression's residual."""
    cond, residual, spread = pieces(srdiff_records(), size, batch_size, step_generator(seed, step))
    return diffused(residual, cond, spread / TYPICAL_SPREAD, seed, step)


def photo_srdiff_x4(steps: int = 9_000, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """SRDiff: the residual to bicubic diffuses, told features of a network trained for super-resolution beforehand."""
    return Recipe(
        name="photo-srdiff-x4",
        network=srdiff_network,
        batch=lambda step: srdiff_patches(step, size, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"v of the residual to bicubic, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


def wavelet_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches of the regression's residual as Haar bands of unit variance. The weight is the pixels' mean spread times the
    band's scale, the unit in which an error of the state is seen in the image."""
    cond, residual, spread = residual_pieces(size, batch_size, step_generator(seed, step))
    domain = Wavelet(2, scales=WAVELET_SCALES)
    z_0 = domain.pack(residual)
    scale = torch.cat([torch.full((3 * domain.fold(b) ** 2,), WAVELET_SCALES[b]) for b in band_names(2)])
    weight = F.avg_pool2d(spread, 4) / TYPICAL_SPREAD * scale.view(1, -1, 1, 1)
    return diffused(z_0, cond, weight, seed, step)


def photo_wavelet_x4(steps: int = 5_000, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """DiWa: the Haar bands of what the regression leaves diffuse, told its features, its output and the LR image."""
    return Recipe(
        name="photo-wavelet-x4",
        network=wavelet_network,
        batch=lambda step: wavelet_patches(step, size, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"v of two levels of Haar bands, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


class HandedNoise(nn.Module):
    """An autoencoder whose latent noise comes with the batch."""

    def __init__(self, autoencoder: KLAutoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        eps = batch["eps"]
        return self.autoencoder(
            batch["y"], lambda like: eps.to(like.dtype), batch.get("cond"), batch.get("weight", 1.0)
        )


def autoencoder_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches of the regression's normalised residual; errors count by the pixels' spread, as they show in the image."""
    generator = step_generator(seed, step)
    cond, residual, spread = residual_pieces(size, batch_size, generator)
    eps = torch.randn(batch_size, 32, size // 2, size // 2, generator=generator)
    return {"y": residual, "cond": cond, "weight": spread / TYPICAL_SPREAD, "eps": eps}


def photo_autoencoder_x4(steps: int = 2_500, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """A KL autoencoder of what the regression leaves, told the regression at both ends: the first stage of latent diffusion."""
    return Recipe(
        name="photo-autoencoder-x4",
        network=lambda: HandedNoise(photo_autoencoder()),
        batch=lambda step: autoencoder_patches(step, size, batch_size, seed),
        loss=lambda network, batch: network(batch),
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.autoencoder,
        data=PHOTO_DATA,
        description=f"negative ELBO, decoder std 0.2, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


@lru_cache(maxsize=1)
def latent_records() -> list[tuple[Tensor, Tensor]]:
    """For every training photo and its mirror image, as float16: condition (115, h, w) and latents (32, h / 2, w / 2)."""
    autoencoder = load_pretrained("photo-autoencoder-x4")
    records = []
    with torch.inference_mode():
        for cond, residual, _ in residual_pairs():
            height, width = (n // 2 * 2 for n in cond.shape[-2:])
            cond = cond[:, :height, :width]
            latent = autoencoder.encode(residual[None, :, : 4 * height, : 4 * width].float(), cond[None].float())
            records.append((cond, latent[0].half()))
    return records


def latent_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches (size x size LR pixels, size even) of unit-variance latents with the condition folded to their grid."""
    generator = step_generator(seed, step)
    records = latent_records()
    parts: list[tuple[Tensor, Tensor]] = []
    for i in torch.randint(len(records), (batch_size,), generator=generator).tolist():
        cond, latent = records[i]
        y, x = (int(torch.randint((n - size) // 2 + 1, (), generator=generator)) for n in cond.shape[-2:])
        half = size // 2
        told = cond[:, 2 * y : 2 * y + size, 2 * x : 2 * x + size].float()
        parts.append((F.pixel_unshuffle(told, 2), latent[:, y : y + half, x : x + half].float()))
    cond, latent = (torch.stack(p) for p in zip(*parts, strict=True))
    return diffused(latent / LATENT_SCALE, cond, None, seed, step)


def photo_latent_x4(steps: int = 5_000, batch_size: int = 16, size: int = 40, seed: int = 0) -> Recipe:
    """Latent diffusion: the code of photo-autoencoder-x4 diffuses, on half the LR grid, told the regression."""
    return Recipe(
        name="photo-latent-x4",
        network=latent_network,
        batch=lambda step: latent_patches(step, size, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"v of the latents, {batch_size} patches of {size}x{size} LR pixels a step, mirrored",
    )


@lru_cache(maxsize=1)
def whole_photos() -> list[Tensor]:
    """BSDS500's train and test photos, uint8 (3, H, W)."""
    from ..data import folder, require_folder

    return [to_uint8(image)[0] for part in ("train", "test") for image in folder(require_folder("bsds500") / part)]


def continuous_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Small photos whose LR images are size x size, all of one random scale from 2 to 4, and what bicubic leaves of them."""
    generator = step_generator(seed, step)
    photos = whole_photos()
    fine = int(torch.randint(2 * size, 4 * size + 1, (), generator=generator))  # HR pixels
    scale = fine / size
    parts = []
    for i in torch.randint(len(photos), (batch_size,), generator=generator).tolist():
        photo = photos[i]
        y, x = (int(torch.randint(n - fine + 1, (), generator=generator)) for n in photo.shape[-2:])
        patch = torch.rot90(
            photo[:, y : y + fine, x : x + fine], int(torch.randint(4, (), generator=generator)), (1, 2)
        )
        parts.append(patch.flip(2) if int(torch.randint(2, (), generator=generator)) else patch)
    hr = torch.stack(parts).float() / 255
    lr = to_uint8(resize(hr, 1 / scale)).float() / 255
    base = resize(lr, scale)
    spread = continuous_spread(base, scale)
    batch = diffused((hr - base) / spread, base - 0.5, spread / TYPICAL_SPREAD, seed, step)
    features = load_pretrained("photo-regression-x4").features(lr)
    return batch | {"features": features, "scale": torch.full((batch_size,), scale)}


def continuous_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """`velocity_loss` of a network whose condition has parts: features on the LR grid, the enlarged LR image, the scale."""

    def told(u: Tensor, level: Tensor, base: Tensor) -> Tensor:
        return network(u, level, (batch["features"], base, float(batch["scale"][0])))

    return velocity_loss(told, batch)


def photo_continuous(steps: int = 5_000, batch_size: int = 16, size: int = 20, seed: int = 0) -> Recipe:
    """IDM in small: the residual to bicubic at every scale from 2 to 4, told features through an implicit function."""
    return Recipe(
        name="photo-continuous",
        network=continuous_network,
        batch=lambda step: continuous_patches(step, size, batch_size, seed),
        loss=continuous_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA.replace("bicubic x4", "bicubic x2 to x4"),
        description=f"v of the residual to bicubic, {batch_size} patches of {size}x{size} LR pixels a step, one scale a step",
    )


def face_code_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Training faces as states in [-1, 1], half of them mirrored, and noise for latents of 4 x 8 x 8."""
    batch = face_batch(step, 32, batch_size, seed)
    return {"y": batch["z_0"], "eps": batch["noise"].flatten(1)[:, : 4 * 8 * 8].reshape(-1, 4, 8, 8)}


def faces_kl_32(steps: int = 2_500, batch_size: int = 48, seed: int = 0) -> Recipe:
    """A KL autoencoder of faces: 32 x 32 x 3 numbers to 8 x 8 x 4."""
    return Recipe(
        name="faces-kl-32",
        network=lambda: HandedNoise(KLAutoencoder(std=0.1)),
        batch=lambda step: face_code_batch(step, batch_size, seed),
        loss=lambda network, batch: network(batch),
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.autoencoder,
        data=CODED_FACES,
        description=f"negative ELBO, decoder std 0.1, {batch_size} faces a step",
    )


def faces_vq_32(steps: int = 2_500, batch_size: int = 48, seed: int = 0) -> Recipe:
    """A vector-quantised autoencoder of faces: 32 x 32 x 3 numbers to 8 x 8 vectors of a book of 256."""
    return Recipe(
        name="faces-vq-32",
        network=lambda: VQAutoencoder(std=0.1),
        batch=lambda step: face_code_batch(step, batch_size, seed),
        loss=lambda network, batch: network(batch["y"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        data=CODED_FACES,
        description=f"squared error and the book's loss, {batch_size} faces a step",
    )


CODED_FACES = f"{FACES:,} faces of tutorial_lib.data.faces (seed 0, 32 x 32, rounded to 8 bits), half of them mirrored"

RECIPES: dict[str, Callable[[], Recipe]] = {
    "photo-srdiff-x4": photo_srdiff_x4,
    "photo-wavelet-x4": photo_wavelet_x4,
    "photo-autoencoder-x4": photo_autoencoder_x4,
    "photo-latent-x4": photo_latent_x4,
    "photo-continuous": photo_continuous,
    "faces-kl-32": faces_kl_32,
    "faces-vq-32": faces_vq_32,
}
