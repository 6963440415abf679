"""Faces without an LR image: the unconditional diffusion model, and its student."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..denoisers import NetworkDenoiser
from ..distillation import pseudo_huber, solved_paths, trainable
from ..images import to_uint8
from ..networks.unet import UNet
from ..pretrained import face_network, large_face_network
from ..schedules import log_snr_times, vp_cosine
from .base import Recipe, random_times, step_generator, velocity_loss

FACES = 65_536  # how many faces the face models are trained on
LARGE_FACES = 32_768  # of 64 x 64 pixels


@lru_cache(maxsize=1)
def training_faces(size: int, count: int) -> Tensor:
    """The training set (count, 3, size, size) of the face models, uint8: `faces` of seed 0. Half a minute for 32 x 32."""
    from ..data import faces

    return torch.cat([to_uint8(images) for images in faces(count, size, seed=0).images.split(4096)])


def face_batch(step: int, size: int, batch_size: int, seed: int, count: int | None = None) -> dict[str, Tensor]:
    """A batch of training faces (FACES unless `count`) as states in [-1, 1], half of them mirrored, with times and noise."""
    generator = step_generator(seed, step)
    images = training_faces(size, FACES if count is None else count)
    chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    chosen = torch.where(mirrored.view(-1, 1, 1, 1), chosen.flip(3), chosen)
    t = random_times(batch_size, generator)
    noise = torch.randn(chosen.shape, generator=generator)
    return {"z_0": chosen.float() / 127.5 - 1, "t": t, "noise": noise}


def faces_unconditional_32(steps: int = 18_000, batch_size: int = 64, seed: int = 0) -> Recipe:
    """Diffusion of 32 x 32 faces, told nothing but the noise level."""
    return Recipe(
        name="faces-unconditional-32",
        network=face_network,
        batch=lambda step: face_batch(step, 32, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=400,
        ema_halflife=700.0,
        seed=seed,
        data=f"{FACES:,} faces of tutorial_lib.data.faces (seed 0, 32 x 32, rounded to 8 bits), half of them mirrored",
        description=f"v-prediction on the cosine path, {batch_size} faces a step",
    )


def faces_unconditional_64(steps: int = 18_000, batch_size: int = 32, seed: int = 0) -> Recipe:
    """Diffusion of 64 x 64 faces, told nothing but the noise level: the prior of zero-shot super-resolution."""
    return Recipe(
        name="faces-unconditional-64",
        network=large_face_network,
        batch=lambda step: face_batch(step, 64, batch_size, seed, LARGE_FACES),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=400,
        ema_halflife=700.0,
        seed=seed,
        bits=8,
        data=f"{LARGE_FACES:,} faces of tutorial_lib.data.faces (seed 0, 64 x 64, rounded to 8 bits), half of them mirrored",
        description=f"v-prediction on the cosine path, {batch_size} faces a step",
    )


PATHS = 512  # solved flows in a block
POOL = 4  # blocks that a training step chooses from
BLOCK = 256  # steps until the oldest block makes way for a new one
FLOW_STEPS = 16


@lru_cache(maxsize=POOL)
def face_paths(block: int, seed: int) -> Tensor:
    """A block of solved flows of faces-unconditional-32 from fresh noise, float16: (PATHS, FLOW_STEPS + 1, 3, 32, 32)."""
    from ..pretrained import load_pretrained

    teacher = NetworkDenoiser(load_pretrained("faces-unconditional-32"))
    generator = step_generator(seed, -1 - block)  # no training step has a negative number
    starts = torch.randn(PATHS, 3, 32, 32, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [solved_paths(teacher, vp_cosine(), z, flow_times()).half() for z in starts.split(64)]
    return torch.cat(parts)


def flow_times() -> Tensor:
    """The grid of the solved flows: even in log-SNR, so dense near pure noise, where coarse grids lose most, and near t = 0."""
    return log_snr_times(vp_cosine(), FLOW_STEPS, t_min=0.02)


def path_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Points z at times t on solved flows, and the flows' ends z_0: a quarter of the points is pure noise, few are clean."""
    generator = step_generator(seed, step)
    first = step // BLOCK
    chosen = torch.randint(POOL * PATHS, (batch_size,), generator=generator)
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    index = (FLOW_STEPS * u**2).long().clamp(max=FLOW_STEPS - 1)
    paths = torch.stack([face_paths(first + i // PATHS, seed)[i % PATHS] for i in chosen.tolist()])
    here = paths[torch.arange(batch_size), index]
    return {"z": here.float(), "t": flow_times()[index].float(), "z_0": paths[:, -1].float()}


def path_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Pseudo-Huber distance between the student's answer at a point of a flow and that flow's end, (B,)."""
    answer = trainable(network, vp_cosine())(batch["z"], batch["t"].double())
    return pseudo_huber(answer - batch["z_0"])


def copied_face_network() -> UNet:
    """A network that starts as faces-unconditional-32: one answer of a denoiser is a first, blurred guess at the flow's end."""
    from ..pretrained import load_pretrained

    return copy.deepcopy(load_pretrained("faces-unconditional-32")).train().requires_grad_(True)


def faces_distilled_32(steps: int = 9_000, batch_size: int = 32, seed: int = 0) -> Recipe:
    """A student that answers at once where the flow of faces-unconditional-32 ends, from any point of it."""
    return Recipe(
        name="faces-distilled-32",
        network=copied_face_network,
        batch=lambda step: path_batch(step, batch_size, seed),
        loss=path_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=5e-4,
        warmup=200,
        ema_halflife=300.0,
        seed=seed,
        data="none: its own noise, and the flow of faces-unconditional-32 solved from it",
        description=f"ends of flows ({FLOW_STEPS} steps of DPM-Solver++(2M)), {batch_size} of their points a step",
    )
