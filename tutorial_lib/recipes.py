"""How every shipped weight comes to be: network, data, loss and numbers, one function per recipe.

`python -m tutorial_lib train photo-regression-x4` follows one from start to end.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor, nn

from .denoisers import NetworkDenoiser
from .distillation import pseudo_huber, solved_paths, trainable
from .images import crop_to_multiple, resize, to_uint8
from .likelihood import dequantise, uniform
from .networks.regression import RegressionNetwork, condition
from .networks.unet import UNet
from .noise import standard_normal
from .pretrained import digit_network, face_network, residual_network
from .schedules import log_snr_times, vp_cosine
from .steps import forward_step


@dataclass(frozen=True)
class Recipe:
    """What `training.fit` needs.

    network() makes a fresh network; batch(step) a dictionary of tensors (B, ...) that depends on `seed` and the step alone;
    loss(network, batch) one value per sample, (B,); shipped(network) the part whose weights are shipped.
    """

    name: str
    network: Callable[[], nn.Module]
    batch: Callable[[int], dict[str, Tensor]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    steps: int
    batch_size: int
    peak_lr: float
    warmup: int = 200
    ema_halflife: float = 700.0
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    precision: str = "bf16"
    seed: int = 0
    shipped: Callable[[nn.Module], nn.Module] = lambda network: network
    data: str = ""
    description: str = ""


PHOTO_DATA = "BSDS500 train and test (400 photos), MATLAB bicubic x4 rounded to 8 bits; BSD100, Set5, Set14 never seen"


def step_generator(seed: int, step: int) -> Generator:
    """The random stream of one training step: the same for every process and every resumed run."""
    return Generator().manual_seed(seed * 1_000_003 + step)


@lru_cache(maxsize=1)
def training_pairs(scale: int) -> list[tuple[Tensor, Tensor]]:
    """(lr, hr) uint8 pairs (C, H, W) of BSDS500's train and test photos; lr is MATLAB's bicubic rounded to 8 bits."""
    from .data import folder, require_folder

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
    from .pretrained import load_pretrained

    regression = load_pretrained("photo-regression-x4")
    records = []
    with torch.inference_mode():
        for lr, hr in training_pairs(4):
            for flip in (False, True):
                x, y = ((p.flip(2) if flip else p)[None].float() / 255 for p in (lr, hr))
                mean, spread, cond = condition(regression, x)
                records.append((cond[0].half(), ((y - mean) / spread)[0].half(), spread[0].half()))
    return records


def random_times(batch_size: int, generator: Generator) -> Tensor:
    """Times (batch_size,) in [0, 1): stratified, and more often in the middle.

    Sample i draws u in [i, i + 1) / batch_size, which makes the loss less noisy, and takes t = u + sin(2 pi u) / (4 pi):
    three times as often the middle, where structure is decided, as the ends, where little can be learned.
    """
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    return u + (2 * math.pi * u).sin() / (4 * math.pi)


def residual_patches(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """A batch of residual patches with everything random about it: places, times and noise."""
    generator = step_generator(seed, step)
    records = residual_pairs()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for i in torch.randint(len(records), (batch_size,), generator=generator).tolist():
        cond, residual, spread = records[i]
        y, x = (int(torch.randint(n - size + 1, (), generator=generator)) for n in cond.shape[-2:])
        fine = (slice(None), slice(4 * y, 4 * (y + size)), slice(4 * x, 4 * (x + size)))
        parts.append((cond[:, y : y + size, x : x + size].float(), residual[fine].float(), spread[fine].float()))
    cond, residual, spread = (torch.stack(p) for p in zip(*parts, strict=True))
    t = random_times(batch_size, generator)
    noise = torch.randn(residual.shape, generator=generator)
    return {"z_0": residual, "cond": cond, "weight": spread / TYPICAL_SPREAD, "t": t, "noise": noise}


def velocity_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """E |v - v_hat|^2 with v = alpha eps - sigma z_0 on the cosine path, times the batch's "weight" if it has one.

    Salimans and Ho, arXiv 2202.00512. The residual's weight is its spread (mean about 1): it depends on the condition and
    the place alone, so the minimiser is still the conditional mean; it spends the network's effort where errors can be seen
    instead of on the rounding noise of walls.
    """
    denoiser = NetworkDenoiser(network, "v", vp_cosine())
    t = batch["t"].double()
    z = forward_step(batch["z_0"], denoiser.schedule, 0.0, t, lambda like: batch["noise"])
    answer = network(*denoiser.inputs(z, t), batch.get("cond")).float()
    error = (answer - denoiser.target(batch["z_0"], batch["noise"], t)) ** 2
    return (error * batch.get("weight", 1)).mean((1, 2, 3))


TYPICAL_SPREAD = 0.04  # image units; only sets the loss's unit


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


FACES = 65_536  # how many faces the face models are trained on


@lru_cache(maxsize=1)
def training_faces(size: int, count: int) -> Tensor:
    """The training set (count, 3, size, size) of the face models, uint8: `faces` of seed 0. Half a minute for 32 x 32."""
    from .data import faces

    return torch.cat([to_uint8(images) for images in faces(count, size, seed=0).images.split(4096)])


def face_batch(step: int, size: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """A batch of training faces as states in [-1, 1], half of them mirrored, with times and noise."""
    generator = step_generator(seed, step)
    images = training_faces(size, FACES)
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


DIGIT_LOG_SNR = (-8.0, 12.0)  # of its training: from almost pure noise to noise of a 47th of a grey level


@lru_cache(maxsize=1)
def split_digits() -> tuple[Tensor, Tensor]:
    """(1437, 1, 8, 8) digits to train on and (360, 1, 8, 8) held out, in [0, 1]: every fifth, from the first on.

    The scans come in runs by the same writers, so both parts hold the same hands.
    """
    from .data import digits

    images, _ = digits()
    held_out = torch.arange(len(images)) % 5 == 0
    return images[~held_out], images[held_out]


def digit_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Dequantised training digits with times and noise; log_snr is uniform (stratified) over `DIGIT_LOG_SNR`.

    The weight 2 alpha^2 makes the loss of v a constant times the ELBO's integrand per unit of log_snr, SNR
    |z_0 - z_0_hat|^2 / 2: in variance-preserving schedules z_0 is off by sigma times what v is off.
    """
    generator = step_generator(seed, step)
    images, _ = split_digits()
    chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
    z_0 = dequantise(chosen, 17, uniform(standard_normal(generator)))
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    low, high = DIGIT_LOG_SNR
    log_snr = low + (high - low) * u.double()
    weight = (2 * log_snr.sigmoid()).float().view(-1, 1, 1, 1)
    noise = torch.randn(z_0.shape, generator=generator)
    return {"z_0": z_0, "t": vp_cosine().time_at(log_snr), "weight": weight, "noise": noise}


def digits_likelihood(steps: int = 6_000, batch_size: int = 128, seed: int = 0) -> Recipe:
    """Diffusion of 8 x 8 digits trained on its ELBO, so that it says how probable a digit is."""
    return Recipe(
        name="digits-likelihood",
        network=digit_network,
        batch=lambda step: digit_batch(step, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=2e-3,
        warmup=100,
        ema_halflife=300.0,
        weight_decay=0.1,
        precision="no",
        seed=seed,
        data="1,437 of the 1,797 digits of tutorial_lib.data.digits, dequantised; every fifth, from the first on, held out",
        description=f"v-prediction weighted as the ELBO (maximum likelihood), {batch_size} digits a step, log-SNR uniform",
    )


PATHS = 512  # solved flows in a block
POOL = 4  # blocks that a training step chooses from
BLOCK = 256  # steps until the oldest block makes way for a new one
FLOW_STEPS = 16


@lru_cache(maxsize=POOL)
def face_paths(block: int, seed: int) -> Tensor:
    """A block of solved flows of faces-unconditional-32 from fresh noise, float16: (PATHS, FLOW_STEPS + 1, 3, 32, 32)."""
    from .pretrained import load_pretrained

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
    from .pretrained import load_pretrained

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


RECIPES: dict[str, Callable[[], Recipe]] = {
    "photo-regression-x4": photo_regression_x4,
    "photo-residual-x4": photo_residual_x4,
    "faces-unconditional-32": faces_unconditional_32,
    "faces-distilled-32": faces_distilled_32,
    "digits-likelihood": digits_likelihood,
}
