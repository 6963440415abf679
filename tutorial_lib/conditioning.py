"""Faces under every condition: what the shipped networks are told, and samples of what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_images, check_one_of
from .denoisers import Denoiser, NetworkDenoiser
from .guidance import classifier_free
from .images import resize
from .networks.classifier import FaceClassifier, attribute_log_prob
from .networks.conditioning import FACE_WAYS, AdaptedUNet
from .networks.regression import condition
from .noise import Noise
from .pretrained import load_pretrained
from .samplers import ddim, last
from .schedules import Schedule, Time, uniform_times, vp_cosine
from .super_resolution import one_source_per_image


def way_image(way: str, lr: Tensor, noise: Noise | None = None) -> Tensor | None:
    """The image (B, 3, 32, 32) in [0, 1] that `face_condition` wants for one of FACE_WAYS, from LR faces (B, 3, 8, 8).

    "reference": faces-regression-x4's answer (CDPMSR, arXiv 2302.12831). "vae": a draw of faces-vae-x4 with `noise` for its
    latent (DiffuseVAE, arXiv 2201.00308): another draw, another face. "none": None. Otherwise the bicubic enlargement, and
    then lr may also have 4 x 4 pixels.
    """
    check_one_of(way, FACE_WAYS, "way")
    check_images(lr, "lr", 3)
    if way == "none":
        return None
    if way not in ("reference", "vae"):
        return resize(lr, 32 / lr.shape[-1])
    if lr.shape[-2:] != (8, 8):
        raise ValueError(f"way {way!r} needs lr of 8 x 8 pixels, but the shape {tuple(lr.shape)} came")
    regression = load_pretrained("faces-regression-x4")
    if way == "reference":
        return regression(lr)
    if noise is None:
        raise ValueError("way 'vae' needs `noise` to draw its latent from, but None came")
    vae = load_pretrained("faces-vae-x4")
    mean, spread, told = condition(regression, lr)
    latent = noise(lr.new_empty(len(lr), vae.latent, *lr.shape[-2:]))
    return mean + spread * F.pixel_shuffle(vae.decode(latent, told), 4)


def sample_faces(
    cond: Tensor,
    seed: int | Sequence[int] = 0,
    steps: int = 20,
    eta: float = 1.0,
    scale: float = 1.0,
    null: Tensor | None = None,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """Samples (B, 3, 32, 32) in [0, 1] of faces-conditions-x4, told cond = `face_condition(...)`; image i uses seed + i.

    `scale` and `null` are those of `guidance.classifier_free`: null is what the other answer is told, usually the same
    without words. Another `denoiser` (of states in [-1, 1], on the cosine schedule) may take the network's place.
    Raises ValueError where null is missing and scale is not 1.
    """
    if scale != 1 and null is None:
        raise ValueError(f"null must be what the unguided answer is told, as scale is {scale}, but None came")
    schedule = vp_cosine()
    if denoiser is None:
        denoiser = NetworkDenoiser(load_pretrained("faces-conditions-x4"), "v", schedule)
    if scale != 1:
        denoiser = classifier_free(denoiser, scale, null=null)
    noise = one_source_per_image(seed, len(cond))

    def told(z: Tensor, t: Time, _: Tensor | None = None) -> Tensor:
        return denoiser(z, t, cond)

    with torch.no_grad():
        z = last(ddim(told, schedule, noise(cond[:, :3]), uniform_times(steps), eta=eta, noise=noise))
    return ((z + 1) / 2).clamp(0, 1)


def adapted_denoiser(fidelity: float = 1.0) -> NetworkDenoiser:
    """The frozen faces-unconditional-32 steered by faces-adapter-x4, told the enlarged LR face in [-1, 1] as its cond."""
    network = AdaptedUNet(load_pretrained("faces-unconditional-32"), load_pretrained("faces-adapter-x4"), fidelity)
    return NetworkDenoiser(network, "v", vp_cosine())


def face_log_prob(
    name: str, word: int | Tensor, schedule: Schedule, noise_aware: bool = True
) -> Callable[[Tensor, Time], Tensor]:
    """log p(word | z_t) of an attribute by faces-classifier-32, as `guidance.classifier` wants it: (z, t) -> (B,) nats.

    noise_aware=False tells the classifier that every state is clean: what a classifier of clean images would make of noise.
    """
    network: FaceClassifier = load_pretrained("faces-classifier-32")
    told = NetworkDenoiser(lambda *_: None, "v", schedule)

    def log_prob(z: Tensor, t: Time) -> Tensor:
        u, level = told.inputs(z, t)
        level = level if noise_aware else torch.full_like(level, 2.5)
        logs = attribute_log_prob(network(u, level), name)
        return logs.gather(1, torch.as_tensor(word, device=logs.device).expand(len(logs))[:, None]).squeeze(1)

    return log_prob


def read_attribute(images: Tensor, name: str) -> Tensor:
    """Which word of an attribute faces-classifier-32 reads off clean faces (B, 3, 32, 32) in [0, 1]: (B,) indices."""
    network = load_pretrained("faces-classifier-32")
    with torch.no_grad():
        return attribute_log_prob(network(2 * images - 1, images.new_full((len(images),), 2.5)), name).argmax(1)
