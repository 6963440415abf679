"""Faces told things in many ways, an adapter for a network that was told nothing, and a classifier of noisy faces."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..data.captions import PHRASES
from ..denoisers import NetworkDenoiser
from ..images import resize, to_uint8
from ..networks.classifier import CLASSIFIED, FaceClassifier, attribute_log_prob
from ..networks.conditioning import FACE_WAYS, AdaptedUNet, ConditionedUNet, face_condition
from ..networks.regression import condition
from ..networks.vae import ConditionalVAE
from ..pretrained import face_adapter, face_vae, load_pretrained
from . import faces
from .base import Recipe, random_times, step_generator, velocity_loss
from .sr3 import FACE_PAIRS

SMALLER = 0.3  # share of the LR faces that have 4 x 4 pixels instead of 8 x 8
SPEECHLESS = (
    0.4  # share of the faces that come without words; of the others' phrases each is left out with this chance:
)
DROPPED = 0.2


@lru_cache(maxsize=1)
def face_facts() -> tuple[Tensor, dict[str, Tensor]]:
    """Words (FACES, len(PHRASES)) and attributes of the training faces, drawn as small as can be: only facts are kept."""
    from ..data import faces as draw
    from ..data.captions import words

    drawn = draw(faces.FACES, 8, seed=0)
    return words(drawn.captions), drawn.attributes


def chosen_faces(batch_size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(hr (B, 3, 32, 32) in [0, 1], words (B, P), index (B,)): training faces, half of them mirrored, left and right too."""
    images = faces.training_faces(32, faces.FACES)
    index = torch.randint(len(images), (batch_size,), generator=generator)
    hr, said = images[index].float() / 255, face_facts()[0][index]
    mirrored = torch.rand(batch_size, generator=generator) < 0.5
    hr = torch.where(mirrored.view(-1, 1, 1, 1), hr.flip(3), hr)
    order = list(range(len(PHRASES)))
    left, right = PHRASES.index("looking left"), PHRASES.index("looking right")
    order[left], order[right] = right, left
    return hr, torch.where(mirrored[:, None], said[:, order], said), index


def enlarged(hr: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """(lr, enlarged lr): LR faces of pixels x pixels, rounded to 8 bits, and their bicubic enlargement, in [0, 1]."""
    lr = to_uint8(resize(hr, pixels / hr.shape[-1])).float() / 255
    return lr, resize(lr, hr.shape[-1] / pixels)


def vae_state(lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, spread, cond) of the faces' regression: what the VAE models is (hr - mean) / spread, folded by 4, given cond."""
    return condition(load_pretrained("faces-regression-x4"), lr)


def face_vae_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Normalised residuals of the regression folded to 8 x 8, its condition, and the noise of the latent draw."""
    generator = step_generator(seed, step)
    hr, _, _ = chosen_faces(batch_size, generator)
    mean, spread, cond = vae_state(enlarged(hr, 8)[0])
    eps = torch.randn(batch_size, 2, 8, 8, generator=generator)
    return {"y": F.pixel_unshuffle((hr - mean) / spread, 4), "cond": cond, "eps": eps}


class NegativeElbo(nn.Module):
    """A VAE with its loss inside forward: the negative ELBO in nats per value, (B,)."""

    def __init__(self, vae: ConditionalVAE):
        super().__init__()
        self.vae = vae

    def forward(self, y: Tensor, cond: Tensor, eps: Tensor) -> Tensor:
        return -self.vae.elbo(y, cond, lambda like: eps.to(like.dtype)) / y[0].numel()


def faces_vae_x4(steps: int = 1_500, batch_size: int = 64, seed: int = 0) -> Recipe:
    """A conditional VAE of what the regression leaves of faces: draws DiffuseVAE's references."""
    return Recipe(
        name="faces-vae-x4",
        network=lambda: NegativeElbo(face_vae()),
        batch=lambda step: face_vae_batch(step, batch_size, seed),
        loss=lambda network, batch: network(batch["y"], batch["cond"], batch["eps"]),
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=200.0,
        seed=seed,
        shipped=lambda network: network.vae,
        data=FACE_PAIRS,
        description=f"negative ELBO of the regression's normalised residual, {batch_size} faces a step",
    )


def vae_reconstruction(hr: Tensor, lr: Tensor, generator: Generator) -> Tensor:
    """What the VAE makes of the face itself, through one draw of its latent: the reference in DiffuseVAE's training."""
    vae = load_pretrained("faces-vae-x4")
    mean, spread, cond = vae_state(lr)
    latent, log_std = vae.encode(F.pixel_unshuffle((hr - mean) / spread, 4), cond)
    latent = latent + log_std.exp() * torch.randn(latent.shape, generator=generator)
    return mean + spread * F.pixel_shuffle(vae.decode(latent, cond), 4)


def conditions_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Faces, each told its LR image in one of FACE_WAYS, with some of its caption's phrases or none."""
    generator = step_generator(seed, step)
    hr, said, _ = chosen_faces(batch_size, generator)
    way = torch.randint(len(FACE_WAYS), (batch_size,), generator=generator)
    lr, image = enlarged(hr, 8)
    small = torch.rand(batch_size, generator=generator) < SMALLER
    image = torch.where(small.view(-1, 1, 1, 1), enlarged(hr, 4)[1], image)
    reference = load_pretrained("faces-regression-x4")(lr)
    drawn = vae_reconstruction(hr, lr, generator)
    for name, other in (("reference", reference), ("vae", drawn)):
        image = torch.where((way == FACE_WAYS.index(name)).view(-1, 1, 1, 1), other, image)
    kept = torch.rand(said.shape, generator=generator) >= DROPPED
    speaks = torch.rand(batch_size, 1, generator=generator) >= SPEECHLESS
    cond = face_condition("concat", image, said * kept * speaks)
    told = (way != FACE_WAYS.index("none")).view(-1, 1, 1, 1)
    cond[:, :3] *= told
    cond[:, 3 : 3 + len(FACE_WAYS)] = F.one_hot(way, len(FACE_WAYS)).float()[:, :, None, None]
    t = random_times(batch_size, generator)[torch.randperm(batch_size, generator=generator)]
    noise = torch.randn(hr.shape, generator=generator)
    return {"z_0": 2 * hr - 1, "cond": cond, "t": t, "noise": noise}


def faces_conditions_x4(steps: int = 5_000, batch_size: int = 32, seed: int = 0) -> Recipe:
    """One network of faces for every way of telling it an LR image, with words or without."""
    return Recipe(
        name="faces-conditions-x4",
        network=ConditionedUNet,
        batch=lambda step: conditions_batch(step, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        warmup=300,
        ema_halflife=500.0,
        seed=seed,
        data=FACE_PAIRS.replace("to 8 x 8", "to 8 x 8 or 4 x 4") + "; captions",
        description=f"v-prediction, {batch_size} faces a step, each told its LR image in one of six ways, 60 % with words",
    )


def adapter_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Faces with their bicubic enlargement from 8 x 8 as the condition."""
    generator = step_generator(seed, step)
    hr, _, _ = chosen_faces(batch_size, generator)
    cond = 2 * enlarged(hr, 8)[1] - 1
    t = random_times(batch_size, generator)
    noise = torch.randn(hr.shape, generator=generator)
    return {"z_0": 2 * hr - 1, "cond": cond, "t": t, "noise": noise}


def faces_adapter_x4(steps: int = 1_500, batch_size: int = 32, seed: int = 0) -> Recipe:
    """An adapter that steers the frozen faces-unconditional-32 with an LR face; the frozen weights are not trained."""
    return Recipe(
        name="faces-adapter-x4",
        network=lambda: AdaptedUNet(copy.deepcopy(load_pretrained("faces-unconditional-32")), face_adapter()),
        batch=lambda step: adapter_batch(step, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=300.0,
        seed=seed,
        shipped=lambda network: network.adapter,
        data=FACE_PAIRS,
        description=f"v-prediction through the frozen faces-unconditional-32, {batch_size} faces a step",
    )


def classifier_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Noisy faces at random times, and which word of every attribute of CLASSIFIED is true."""
    generator = step_generator(seed, step)
    hr, _, index = chosen_faces(batch_size, generator)
    truth = torch.stack([face_facts()[1][name][index] for name in CLASSIFIED], 1)
    t = torch.rand(batch_size, generator=generator)
    return {"z_0": 2 * hr - 1, "truth": truth, "t": t, "noise": torch.randn(hr.shape, generator=generator)}


def classifier_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """-log p(true words | noisy face), summed over the attributes, in nats, (B,)."""
    told = NetworkDenoiser(lambda *_: None)
    t = batch["t"].double()
    z = (
        told.schedule.alpha(t).view(-1, 1, 1, 1) * batch["z_0"]
        + told.schedule.sigma(t).view(-1, 1, 1, 1) * batch["noise"]
    )
    logits = network(*told.inputs(z, t))
    parts = [
        attribute_log_prob(logits, name).gather(1, batch["truth"][:, i : i + 1]) for i, name in enumerate(CLASSIFIED)
    ]
    return -torch.cat(parts, 1).sum(1)


def faces_classifier_32(steps: int = 2_000, batch_size: int = 64, seed: int = 0) -> Recipe:
    """A classifier that reads glasses, hats, beards, hair and backgrounds off faces at every noise level."""
    return Recipe(
        name="faces-classifier-32",
        network=FaceClassifier,
        batch=lambda step: classifier_batch(step, batch_size, seed),
        loss=classifier_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=1e-3,
        ema_halflife=200.0,
        seed=seed,
        data=f"{faces.FACES:,} faces of tutorial_lib.data.faces (seed 0, 32 x 32), half of them mirrored, with noise",
        description=f"cross-entropy of five attributes, {batch_size} noisy faces a step",
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "faces-vae-x4": faces_vae_x4,
    "faces-conditions-x4": faces_conditions_x4,
    "faces-adapter-x4": faces_adapter_x4,
    "faces-classifier-32": faces_classifier_32,
}
