"""SR3: photos and faces told their enlarged LR image, and the network that the cascade uses twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from ..images import crop_to_multiple, resize, to_uint8
from ..noise import standard_normal
from ..pretrained import LOCAL_SPREADS, SPREADS, cascade_network, face_sr3_network, sr3_network
from ..schedules import shifted_cosine
from ..sr3 import augment, noise_levels
from . import faces
from .base import Recipe, step_generator
from .photos import PHOTO_DATA, random_patch, random_patches

LEVELS = 2000  # of the ladder between whose neighbours levels are drawn, as in the paper
STRONGEST_AUGMENTATION = 0.2  # state units


def noised(name: str, hr: Tensor, cond: Tensor, generator: Generator) -> dict[str, Tensor]:
    """SR3's training batch from images in [0, 1]: states, condition, noise, log_snr (B,) and the loss's weight (B, 1, H, W).

    With s the local spread, s / typical * (1 + (sigma / (s alpha))^2) makes the error of eps an error of v of the
    normalised residual, weighted by the spread so that effort goes where errors can be seen. SR3's own weight is 1: then
    nearly all of the gradient comes from the few steps with little noise, and the paper's million steps make up for it. The
    weight depends on level, place and condition alone, so the minimiser is E[eps] as before.
    """
    ladder = shifted_cosine(SPREADS[name]).alpha(torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)) ** 2
    log_snr = noise_levels(ladder, len(hr), generator).logit().clamp(-20, 20).float()  # what `NetworkDenoiser` can tell
    std = cond[:, 3:, :1, :1]  # of an augmented condition
    scale = (1 - std**2).sqrt() if std.numel() else 1.0
    s = LOCAL_SPREADS[name](cond[:, :3] / scale, std / scale if std.numel() else 0.0)
    weight = s / SPREADS[name] * (1 + (-log_snr).exp().view(-1, 1, 1, 1) / s**2)
    noise = torch.randn(hr.shape, generator=generator)
    return {"z_0": 2 * hr - 1, "cond": cond, "noise": noise, "log_snr": log_snr, "weight": weight}


def sr3_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """weight E |eps - network(sqrt(gamma) y + sqrt(1 - gamma) eps, level, cond)|^2, (B,). Saharia et al., arXiv 2104.07636.

    Noise goes into the image alone, never into the LR image. The paper also tries the absolute error, whose minimiser is
    a median: no longer the mean of the noise that the sampler's derivation needs.
    """
    log_snr = batch["log_snr"].view(-1, 1, 1, 1)
    u = log_snr.sigmoid().sqrt() * batch["z_0"] + (-log_snr).sigmoid().sqrt() * batch["noise"]
    answer = network(u, batch["log_snr"] / 8, batch["cond"])
    return (batch["weight"] * (answer - batch["noise"]) ** 2).mean((1, 2, 3))


def sr3_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Photo patches with their bicubic enlargement; its noise comes from another stream than the patches' places."""
    patches = random_patches(step, 4, size, batch_size, seed)
    generator = step_generator(seed + 1000, step)
    return noised("photo-sr3-x4", patches["hr"], 2 * resize(patches["lr"], 4) - 1, generator)


def photo_sr3_x4(steps: int = 12_000, batch_size: int = 16, size: int = 24, seed: int = 0) -> Recipe:
    """SR3 at scale 4: the photo itself diffuses, told its bicubic enlargement."""
    return Recipe(
        name="photo-sr3-x4",
        network=sr3_network,
        batch=lambda step: sr3_patches(step, size, batch_size, seed),
        loss=sr3_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA,
        description=f"eps told the noise level, {batch_size} patches of {size}x{size} LR pixels a step, flipped and turned",
    )


@lru_cache(maxsize=1)
def cascade_pairs() -> list[tuple[Tensor, Tensor]]:
    """(lr, hr) uint8 pairs at scale 2 from both stages: a quarter of a photo to its half, and its half to the whole."""
    from ..data import folder, require_folder

    pairs = []
    for part in ("train", "test"):
        for image in folder(require_folder("bsds500") / part):
            whole = crop_to_multiple(image, 4)
            half, quarter = (to_uint8(resize(whole, factor))[0] for factor in (1 / 2, 1 / 4))
            pairs += [(quarter, half), (half, to_uint8(whole)[0])]
    return pairs


def cascade_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Patches from both stages whose enlarged LR image is noised by up to STRONGEST_AUGMENTATION, a quarter of them not."""
    generator = step_generator(seed, step)
    pairs = cascade_pairs()
    chosen = torch.randint(len(pairs), (batch_size,), generator=generator).tolist()
    patches = [random_patch(pairs[i], size, generator) for i in chosen]
    lr, hr = (torch.stack(part).float() / 255 for part in zip(*patches, strict=True))
    std = (torch.rand(batch_size, generator=generator) * 4 / 3 - 1 / 3).clamp(min=0) * STRONGEST_AUGMENTATION
    cond = augment(2 * resize(lr, 2) - 1, 1 - std.double() ** 2, standard_normal(generator))
    told = std.view(-1, 1, 1, 1).expand(-1, 1, *cond.shape[-2:])
    return noised("photo-sr3-x2", hr, torch.cat([cond, told], 1), generator)


def photo_sr3_x2(steps: int = 4_000, batch_size: int = 16, size: int = 28, seed: int = 0) -> Recipe:
    """SR3 at scale 2 with conditioning augmentation: the cascade runs it on the LR image, then on its own answer."""
    return Recipe(
        name="photo-sr3-x2",
        network=cascade_network,
        batch=lambda step: cascade_patches(step, size, batch_size, seed),
        loss=sr3_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=PHOTO_DATA.replace("x4", "x2 and x4"),
        description=f"eps told both noise levels, {batch_size} patches of {size}x{size} LR pixels a step, flipped and turned",
    )


def face_pairs(step: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor, Generator]:
    """(lr, hr, generator): training faces in [0, 1], half of them mirrored, with LR images rounded to 8 bits."""
    generator = step_generator(seed, step)
    images = faces.training_faces(32, faces.FACES)
    hr = images[torch.randint(len(images), (batch_size,), generator=generator)].float() / 255
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    hr = torch.where(mirrored.view(-1, 1, 1, 1), hr.flip(3), hr)
    return to_uint8(resize(hr, 1 / 4)).float() / 255, hr, generator


def face_sr3_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Training faces with their bicubic enlargement from 8 x 8, noised."""
    lr, hr, generator = face_pairs(step, batch_size, seed)
    return noised("faces-sr3-x4", hr, 2 * resize(lr, 4) - 1, generator)


def faces_sr3_x4(steps: int = 4_000, batch_size: int = 64, seed: int = 0) -> Recipe:
    """SR3 for faces from 8 x 8 to 32 x 32."""
    return Recipe(
        name="faces-sr3-x4",
        network=face_sr3_network,
        batch=lambda step: face_sr3_batch(step, batch_size, seed),
        loss=sr3_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=FACE_PAIRS,
        description=f"eps told the noise level, {batch_size} faces a step",
    )


FACE_PAIRS = f"{faces.FACES:,} faces of tutorial_lib.data.faces (seed 0), half mirrored; MATLAB bicubic 32 x 32 to 8 x 8, rounded"

RECIPES: dict[str, Callable[[], Recipe]] = {
    "photo-sr3-x4": photo_sr3_x4,
    "photo-sr3-x2": photo_sr3_x2,
    "faces-sr3-x4": faces_sr3_x4,
}
