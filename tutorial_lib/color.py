"""Colour shift and its cures: fixes for a finished image, and the weight that spends training where colours are decided.

Images are (B, C, H, W) in [0, 1], any C. `sr` is the super-resolved image, `lr` the LR image, at its own size or enlarged
to the size of sr already. Every image is fixed by itself. Nothing is clipped. `metrics.color_shift` measures.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_images, check_one_of, check_positive, check_same_shape, check_whole
from .images import resize
from .operators import LinearOperator

FLAT = 1e-6  # a channel whose standard deviation is below this has no contrast to rescale; 8-bit rounding makes 1e-3


def _enlarged(sr: Tensor, lr: Tensor) -> Tensor:
    """lr at the size of sr, by MATLAB's bicubic, in the dtype of sr."""
    check_images(sr, "sr")
    check_images(lr, "lr")
    scale = sr.shape[-1] // lr.shape[-1]
    if sr.shape[:2] != lr.shape[:2] or sr.shape[-2:] != (scale * lr.shape[-2], scale * lr.shape[-1]):
        raise ValueError(
            f"sr must be a whole number of times as large as lr {tuple(lr.shape)}, with as many channels,"
            f" but its shape is {tuple(sr.shape)}"
        )
    return (lr if scale == 1 else resize(lr, scale)).to(sr.dtype)


def adain_fix(sr: Tensor, lr: Tensor) -> Tensor:
    """Give every channel of every image the mean and the standard deviation of the enlarged LR image.

    (sr - mean(sr)) / std(sr) * std(up lr) + mean(up lr), statistics over the pixels of one image and channel: adaptive
    instance normalisation, StableSR's colour fix (arXiv 2305.07015). Any gain and offset per channel is removed exactly, and
    a second time changes nothing. But the enlarged LR image lacks detail, so its standard deviation is too small: a perfect
    sr loses contrast. A channel without contrast in sr (FLAT) gets the mean only. The published code adds 1e-5 to the
    variances, which the second time changes the image again.
    """
    target = _enlarged(sr, lr).double()
    image = sr.double()
    mean, target_mean = image.mean((2, 3), keepdim=True), target.mean((2, 3), keepdim=True)
    std, target_std = (v.std((2, 3), keepdim=True, correction=0) for v in (image, target))
    gain = torch.where(std > FLAT, target_std / std.clamp(min=FLAT), 1.0)
    return ((image - mean) * gain + target_mean).to(sr.dtype)


def fitting_levels(height: int, width: int, levels: int = 5) -> int:
    """How many a-trous levels an image of this size bears, at most `levels`: they reach 2^n - 1 <= min(height, width) / 2."""
    check_whole(levels, "levels")
    if min(height, width) < 2:
        raise ValueError(f"the image must be at least 2x2 pixels, but it is {height}x{width}")
    while 2 * (2**levels - 1) > min(height, width):
        levels -= 1
    return levels


def low_frequencies(images: Tensor, levels: int = 5) -> Tensor:
    """The coarse part of the a-trous wavelet transform, shaped like `images`; the rest, images minus this, is the detail.

    `levels` passes of the binomial filter (1, 2, 1) / 4 along rows and columns, its taps 1, 2, 4, ... pixels apart, mirrored
    at the border; limited by `fitting_levels`. At frequency f (cycles a pixel) along one axis pass l keeps cos^2(pi f 2^l):
    all of a constant, nothing of f = 1/2.
    """
    check_images(images, "images")
    kernel = torch.tensor([0.25, 0.5, 0.25], dtype=images.dtype, device=images.device)
    low = images.flatten(0, 1)[:, None]
    for level in range(fitting_levels(*images.shape[-2:], levels)):
        gap = 2**level
        low = F.conv2d(F.pad(low, (gap,) * 4, mode="reflect"), kernel.view(1, 1, 1, 3), dilation=gap)
        low = F.conv2d(low, kernel.view(1, 1, 3, 1), dilation=gap)
    return low.reshape(images.shape)


def wavelet_fix(sr: Tensor, lr: Tensor, levels: int = 5) -> Tensor:
    """The detail of sr on the coarse colours of the enlarged LR image: sr - low(sr) + low(up lr).

    StableSR's wavelet colour correction (arXiv 2305.07015), whose code has five levels for every size, three channels, and
    repeats the border. An offset of a channel is removed exactly, a slow tint nearly, the finest detail is kept. Five levels
    reach 31 pixels, so on small images they bring in much of the LR image's blur: `fitting_levels` has the limit. `low` is no
    projection, so a second time changes the image again; and a cast of the LR image itself is brought in faithfully.
    """
    up = _enlarged(sr, lr)
    return sr + low_frequencies(up - sr, levels)  # linear: low(up) - low(sr)


def back_projection(sr: Tensor, lr: Tensor, operator: LinearOperator) -> Tensor:
    """The nearest image to sr that the operator maps to lr: sr + A^+ (lr - A sr). Then A(result) = lr, to rounding.

    What A cannot see stays as it is, and a second time changes nothing. Exact when A reaches lr; where it cannot (more
    numbers than it has), A(result) is the nearest that it reaches. Irani & Peleg 1991 iterate with a kernel of their choice
    in place of A^+. It trusts lr entirely: its noise and its JPEG blocks come in as well. Raises ValueError when A sr has not
    the shape of lr.
    """
    check_images(sr, "sr")
    check_images(lr, "lr")
    seen = operator(sr)
    check_same_shape(seen, lr, ("operator(sr)", "lr"))
    return sr + operator.pinv((lr - seen).to(sr.dtype))


def p2_weight(log_snr: Tensor, gamma: float = 1.0, k: float = 1.0, kind: str = "eps") -> Tensor:
    """The factor of P2 weighting (Choi et al., arXiv 2204.00227) on a network's squared error, shaped like log_snr.

    On |eps - eps_hat|^2 with t drawn as before it is 1 / (k + SNR)^gamma; with gamma = k = 1 and alpha^2 + sigma^2 = 1 that is
    sigma^2. The same loss in other words: a squared error of "z_0" is multiplied by SNR more, one of "v" by SNR / (1 + SNR)
    (v of `NetworkDenoiser.target`). Applied to the error of z_0 or v without that it is another loss. Public ports have also
    used the whole table in place of its value at t, and looked it up by the wrong index; so here it is a function of the
    noise level: log_snr = schedule.log_snr(t), one per sample. `likelihood.p2_weight` is the weight of the ELBO that this
    amounts to. The paper has k = 1 and gamma 0.5 or 1.
    """
    check_one_of(kind, ("eps", "v", "z_0"), "kind")
    check_positive(k, "k")
    if not gamma >= 0:
        raise ValueError(f"gamma must not be negative, but {gamma!r} came")
    level = log_snr.clamp(-1e4, 1e4)  # infinite where there is no noise, or nothing else
    factor = -gamma * torch.logaddexp(
        level, level.new_tensor(math.log(k))
    )  # in logs: exp overflows beyond 88 in float32
    if kind == "z_0":
        return (level + factor).exp()
    return factor.exp() * (1 if kind == "eps" else level.sigmoid())
