"""Every method behind one call: `super_resolve(lr, method=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from .checks import check_images, check_one_of, check_positive
from .denoisers import Denoiser, NetworkDenoiser
from .images import resize
from .networks.regression import condition
from .noise import standard_normal
from .operators import Bicubic
from .pretrained import load_pretrained
from .samplers import ddim, last
from .schedules import uniform_times, vp_cosine

METHODS: dict[str, str] = {
    "bicubic": "MATLAB's bicubic interpolation; any scale, nothing learned",
    "regression": "one network, one answer: close to the mean of all plausible photos, so smooth (scale 4)",
    "residual-diffusion": "a diffusion model adds a sample of what the regression leaves out (scale 4)",
}
STEPS = 20  # default network calls of residual-diffusion
ETA = 0.7  # share of DDPM's noise in each step: less leaves hatching on smooth walls, more brings samples nearer their mean
TILE, MARGIN = 192, 48  # LR pixels; the margin exceeds the reach of both networks


def super_resolve(
    lr: Tensor,
    method: str = "residual-diffusion",
    scale: float = 4,
    seed: int | Sequence[int] = 0,
    steps: int | None = None,
    progress: bool = False,
    tile: int | None = TILE,
) -> Tensor:
    """Super-resolve images: (B, 3, H, W) in [0, 1] -> (B, 3, scale H, scale W) in [0, 1], any H and W.

    `method` is one of METHODS. `seed` fixes the sample: image i of a batch uses seed + i, or give one seed per image; the
    result for an image does not depend on its batch mates. `steps` is the number of network calls (residual-diffusion).
    Images larger than `tile` LR pixels go through the networks in overlapping tiles whose margin exceeds the networks' reach,
    and noise is drawn for the whole image, so tiles agree with the whole; tile=None never cuts.
    Raises ValueError for an unknown method, a scale without weights, or an image that is not (B, 3, H, W).
    """
    check_images(lr, "lr", channels=3)
    check_one_of(method, METHODS, "method")
    check_positive(scale, "scale")
    if method == "bicubic":
        return resize(lr, scale).clamp(0, 1)
    if scale != 4:
        raise ValueError(
            f"method {method!r} has weights for scale 4 only, but scale={scale} came; 'bicubic' takes any scale"
        )
    if tile is not None and (tile < 4 or tile % 4):
        raise ValueError(f"tile must be a positive multiple of 4 LR pixels or None, but {tile!r} came")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps must be a whole number of at least 1, but {steps!r} came")
    with torch.inference_mode():
        if method == "regression":
            network = load_pretrained("photo-regression-x4").to(lr.device)
            return in_tiles(network, [lr.float()], tile).clamp(0, 1).to(lr.dtype)
        return residual_diffusion(lr.float(), seed, steps or STEPS, tile, progress).to(lr.dtype)


def residual_diffusion(lr: Tensor, seed: int | Sequence[int], steps: int, tile: int | None, progress: bool) -> Tensor:
    """Predict, refine, project: mean + spread * (a DDIM sample of the normalised residual), made consistent with lr.

    Whang et al., arXiv 2112.02475, diffuse the plain residual; here it is divided by the spread that the regression
    expects at each pixel, so the state has unit variance on walls and on grass alike. The last line adds
    A^+ (lr - A sr), after which downsampling gives lr back.
    """
    seeds = [seed + i for i in range(len(lr))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(lr):
        raise ValueError(f"seed must be one integer or one per image, but {len(seeds)} seeds came for {len(lr)} images")
    noise = standard_normal([Generator().manual_seed(s) for s in seeds])
    regression = load_pretrained("photo-regression-x4").to(lr.device)
    schedule = vp_cosine()
    denoiser = NetworkDenoiser(load_pretrained("photo-residual-x4").to(lr.device), "v", schedule)
    # half precision for storage only: at 4096 x 4096 the condition is the largest thing in memory
    cond = in_tiles(lambda x: condition(regression, x)[2].half(), [lr], tile)
    z = noise(lr.new_empty(len(lr), 3, 4 * lr.shape[-2], 4 * lr.shape[-1]))
    states = ddim(
        tiled(denoiser, cond, tile), schedule, z, uniform_times(steps), eta=ETA, noise=noise, progress=progress
    )
    del z  # the sampler holds the state now, and drops it as it goes on
    z_0 = last(states)
    del cond, states, denoiser

    def decode(x: Tensor, part: Tensor) -> Tensor:
        mean, spread, _ = condition(regression, x)
        return mean + spread * part

    sr = in_tiles(decode, [lr, z_0], tile)
    operator = Bicubic(4)
    return (sr + operator.pinv(lr - operator(sr))).clamp(0, 1)


def tiled(denoiser: Denoiser, cond: Tensor, tile: int | None) -> Denoiser:
    """The denoiser with its condition filled in, working through large states tile by tile."""

    def denoise(z: Tensor, t: Tensor, _: None = None) -> Tensor:
        return in_tiles(lambda c, part: denoiser(part, t, c.float()), [cond, z], tile)

    return denoise


def in_tiles(function: Callable[..., Tensor], inputs: list[Tensor], tile: int | None, margin: int = MARGIN) -> Tensor:
    """function(*inputs), computed in overlapping tiles of `tile` pixels of the first input's grid plus `margin` around.

    Other inputs and the output may lie on finer grids (their size a multiple of the first's). Equal to function(*inputs) to
    rounding when the margin exceeds the function's reach and tile and margin are multiples of what it downsamples by.
    """
    height, width = inputs[0].shape[-2:]
    if tile is None or (height <= tile + margin and width <= tile + margin):
        return function(*inputs)
    out = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y, x = max(0, top - margin), max(0, left - margin)
            parts = []
            for tensor in inputs:
                k = tensor.shape[-1] // width
                parts.append(tensor[..., y * k : (bottom + margin) * k, x * k : (right + margin) * k])
            part = function(*parts)
            k = part.shape[-1] // parts[0].shape[-1]
            if out is None:
                out = part.new_empty(*part.shape[:2], height * k, width * k)
            inner = part[..., (top - y) * k : (bottom - y) * k, (left - x) * k : (right - x) * k]
            out[..., top * k : bottom * k, left * k : right * k] = inner
    return out
