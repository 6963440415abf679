"""YODA (Moser et al., arXiv 2308.07977): diffuse a pixel the longer, the more important it is. Trained, not zero-shot.

The network is told the LR image, as in SR3. Beside it there is an `importance` map a in [0, 1]: a pixel takes part from the
time t = lowest + (1 - lowest) a down to 0, and before that its state is the noised `guide` (the enlarged LR image, a state),
merged as RePaint merges known pixels. So each pixel has a late start of its own, as CCDF's image has one. Where published work
differs: the paper's map is the attention of a self-supervised transformer (DINO) on the LR image; `importance` here needs no
network. Every call still computes all pixels, and only a network that can leave pixels out would turn `share` into time saved.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_same_shape, check_whole
from .denoisers import Denoiser
from .images import resize
from .noise import Noise, standard_normal
from .samplers.states import DEFAULT_SEED, State, check_run, walk
from .schedules import Schedule, Time
from .steps import broadcast, ddim_step


def importance(lr: Tensor, scale: int = 1, window: int = 3) -> Tensor:
    """Local contrast of an LR image, enlarged: (B, C, h, w) in [0, 1] -> (B, 1, h scale, w scale) in [0, 1].

    The standard deviation of the channel mean over `window` x `window` LR pixels (borders repeated), divided by the image's
    largest; a constant image gets zeros. Flat areas come near 0, edges and texture near 1. Each image is alone.
    """
    check_whole(scale, "scale")
    if check_whole(window, "window") % 2 == 0:
        raise ValueError(f"window must be odd, but {window} came")
    if lr.ndim != 4 or not lr.is_floating_point():
        raise ValueError(f"lr must be a floating-point batch (B, C, H, W), but {tuple(lr.shape)} of {lr.dtype} came")
    grey = F.pad(lr.mean(1, keepdim=True), [window // 2] * 4, mode="replicate")
    patches = grey.unfold(2, window, 1).unfold(3, window, 1).flatten(4)
    contrast = patches.std(-1, unbiased=False)
    contrast = contrast / contrast.amax((2, 3), keepdim=True).clamp(min=1e-6)
    return resize(contrast, scale).clamp(0, 1) if scale > 1 else contrast


def diffused(importance: Tensor, t: Time, lowest: float = 0.0) -> Tensor:
    """The mask M(t): 1 where t <= lowest + (1 - lowest) importance, else 0; shape and dtype of `importance` (B, ...).

    `t` is one number or one per sample. Important pixels are diffused from early on, every pixel from t = `lowest` (in
    [0, 1]) on; at t = 0 the mask is all ones. Raises ValueError for an importance outside [0, 1].
    """
    if not 0 <= lowest <= 1:
        raise ValueError(f"lowest must lie between 0 and 1, but {lowest!r} came")
    if not (importance >= 0).all() or not (importance <= 1).all():
        raise ValueError(
            f"importance must lie between 0 and 1, but it runs from {importance.min():g} to {importance.max():g}"
        )
    begin = lowest + (1 - lowest) * importance.double()
    return (broadcast(torch.as_tensor(t, dtype=torch.float64), begin) <= begin).to(importance.dtype)


def share(importance: Tensor, times: Tensor, lowest: float = 0.0) -> Tensor:
    """The share of pixels and steps that are diffused along the decreasing grid `times`, (B,), from 0 to 1."""
    return torch.stack([diffused(importance, t, lowest).flatten(1).mean(1) for t in times[:-1]]).mean(0)


def masked_state(
    z_0: Tensor, guide: Tensor, mask: Tensor, schedule: Schedule, t: Time, noise: Noise
) -> tuple[Tensor, Tensor]:
    """(z_t, eps) for training: alpha_t (z_0 where the mask is 1, `guide` elsewhere) + sigma_t eps, as sampling shows it.

    z_0, guide (B, C, H, W) in state units, mask (B, 1, H, W) or their shape, t one number or one per sample.
    """
    check_same_shape(z_0, guide, ("z_0", "guide"))
    eps, alpha, sigma = noise(z_0), schedule.alpha(t), schedule.sigma(t)
    return broadcast(alpha, z_0) * torch.where(mask > 0, z_0, guide) + broadcast(sigma, z_0) * eps, eps


def masked_loss(output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Per sample, mean over all entries of mask (output - target)^2, (B,): only diffused pixels teach the network.

    The mean counts the pixels left out as zeros, so times at which few pixels are diffused weigh little.
    """
    check_same_shape(output, target, ("output", "target"))
    return (mask * (output - target).square()).flatten(1).mean(1)


def yoda(
    denoiser: Denoiser,
    schedule: Schedule,
    guide: Tensor,
    importance: Tensor,
    z: Tensor,
    times: Tensor,
    lowest: float = 0.0,
    eta: float = 1.0,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """z_s = M(t) z' + (1 - M(t)) (alpha_s guide + sigma_s eps), z' the DDPM (eta = 1) or DDIM (eta = 0) step from t to s.

    `denoiser` must be told the LR image (`sr3.with_condition`). guide (1 or B, C, H, W) is a state, importance
    (1 or B, 1, H, W); M(t) = diffused(importance, t, lowest). The merged pixels are at the level of **s**, the level of the
    state they join, and where a pixel is never diffused the sample is the guide. With importance 1 everywhere this is
    `samplers.ddim` bit for bit. n calls for n steps; None for noise means standard_normal(DEFAULT_SEED).
    """
    times, noise = check_run(z, times), noise or standard_normal(DEFAULT_SEED)
    for value, name, shape in ((guide, "guide", z.shape[1:]), (importance, "importance", (1, *z.shape[2:]))):
        if value.shape[1:] != torch.Size(shape) or len(value) not in (1, len(z)):
            expected = f"(1 or {len(z)}, {', '.join(map(str, shape))})"
            raise ValueError(f"{name} must have the shape {expected}, but its shape is {tuple(value.shape)}")
    diffused(importance, 0.0, lowest)  # complains now, and not at the first step

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        white = noise(z) if schedule.sigma(s) > 0 else torch.zeros_like(z)
        proposal = ddim_step(z, z_0, schedule, t, s, eta, lambda like: white)
        merged = schedule.alpha(s) * guide + schedule.sigma(s) * white
        return torch.where(diffused(importance, t, lowest) > 0, proposal, merged.to(z))

    return walk(denoiser, z, times, step, progress)
