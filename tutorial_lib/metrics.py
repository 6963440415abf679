"""How good is a super-resolved image? Scores against the original, against the LR image, and without a reference.

Images are (B, C, H, W) in [0, 1]. `sr` is the super-resolved image, `hr` the original, `lr` the low-resolution input.
Every score is a tensor (B,), one value per image that does not depend on its batch mates, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_images, check_one_of, check_positive, check_same_shape, missing_package
from .images import crop_to_multiple, photo, resize, rgb_to_y


def psnr(sr: Tensor, hr: Tensor, channel: str = "y", crop: int = 0) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10(mean (sr - hr)^2), in dB, shape (B,); infinite for equal images.

    `channel="y"` scores the studio-range luma of RGB images (`rgb_to_y`), as super-resolution papers do, and takes
    images of one channel as luma already; `"rgb"` averages the squared error over all channels, however many. `crop`
    pixels are cut from every side (papers: the scale). Nothing is clipped or rounded here: published numbers come from
    8-bit images, so call `to_uint8(sr).float() / 255` first. Public code differs in the luma (full-range luma alone
    moves PSNR by -20 log10(219 / 255) = 1.3 dB), in rounding luma to 8 bits, and in the crop.
    """
    sr, hr = _planes(sr, hr, channel, crop)
    return -10 * torch.log10((sr - hr).square().mean((1, 2, 3)))


def ssim(sr: Tensor, hr: Tensor, channel: str = "y", crop: int = 0) -> Tensor:
    """Structural similarity, the mean over x of l(x) c(x) s(x), shape (B,), 1 for equal images; options as in `psnr`.

    SSIM(x) = (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2)) with local means, variances
    and covariance under an 11x11 Gaussian window of standard deviation 1.5, C1 = 0.01^2, C2 = 0.03^2 (on 0..255:
    times 255^2), over positions where the window fits, then over channels. Wang et al. 2004,
    doi:10.1109/TIP.2003.819861. scikit-image gives this value with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1; its defaults are a 7x7 box and the unbiased covariance.
    """
    sr, hr = _planes(sr, hr, channel, crop)
    if min(sr.shape[-2:]) < 11:
        raise ValueError(f"sr must keep at least 11x11 pixels after the crop, but {sr.shape[-2]}x{sr.shape[-1]} remain")
    mean_sr, mean_hr = _gaussian(sr, 1.5, 5), _gaussian(hr, 1.5, 5)
    var_sr = _gaussian(sr * sr, 1.5, 5) - mean_sr**2
    var_hr = _gaussian(hr * hr, 1.5, 5) - mean_hr**2
    covariance = _gaussian(sr * hr, 1.5, 5) - mean_sr * mean_hr
    luminance = (2 * mean_sr * mean_hr + 0.01**2) / (mean_sr**2 + mean_hr**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (var_sr + var_hr + 0.03**2)
    return (luminance * structure).mean((1, 2, 3))


def lr_consistency(sr: Tensor, lr: Tensor, scale: int) -> Tensor:
    """PSNR in dB, over all channels, between `lr` and `sr` shrunk again by `scale` with `resize`; shape (B,).

    It asks whether the answer explains the measurement and needs no original. Rounding alone limits it: an LR image
    of 8 bits whose original was shrunk exactly lies at 10 log10(12 * 255^2) = 58.9 dB. No crop, clipping or rounding.
    Raises ValueError unless `sr` is `scale` times as large as `lr`. SR3 (arXiv:2104.07636) reports the MSE x 1e5.
    """
    check_images(sr, "sr")
    check_images(lr, "lr")
    check_positive(scale, "scale")
    if sr.shape != (*lr.shape[:2], lr.shape[2] * scale, lr.shape[3] * scale):
        raise ValueError(
            f"sr must be {scale} times as large as lr {tuple(lr.shape)}, but its shape is {tuple(sr.shape)}"
        )
    return psnr(resize(sr.double(), 1 / scale), lr, channel="rgb")


def color_shift(sr: Tensor, hr: Tensor, space: str = "rgb") -> Tensor:
    """How far the mean colour moved, shape (B,): the size of `channel_shifts`.

    "rgb": the largest over channels of |mean over pixels of (sr - hr)|, in image units; any C. A cast of half an 8-bit level
    reads 0.5 / 255 = 0.002. "lab": the length of (dL*, da*, db*), CIE 1976's colour difference of the mean colours, for
    C = 3; about 2.3 can just be seen (Mahy et al. 1994). Errors that cancel over the image
    (blur, grain) do not count; in CIELAB, which is curved, they do in second order: grain of 0.03 adds less than 0.1.
    """
    shifts = channel_shifts(sr, hr, space)
    return shifts.abs().amax(1) if space == "rgb" else shifts.norm(dim=1)


def channel_shifts(sr: Tensor, hr: Tensor, space: str = "rgb") -> Tensor:
    """The mean over pixels of sr - hr with its sign, per channel, (B, C): the cast itself. Unlike a score, not one value.

    space="rgb": each channel as it is, in image units; any C. space="lab": (dL*, da*, db*) for C = 3, L* from 0 to 100,
    a* from green to red, b* from blue to yellow.
    """
    check_images(sr, "sr")
    check_images(hr, "hr")
    check_same_shape(sr, hr, ("sr", "hr"))
    check_one_of(space, ("rgb", "lab"), "space")
    if space == "rgb":
        return (sr.double() - hr.double()).mean((2, 3))
    return (rgb_to_lab(sr) - rgb_to_lab(hr)).mean((2, 3))


def rgb_to_lab(images: Tensor) -> Tensor:
    """CIELAB (L*, a*, b*) of sRGB images (B, 3, H, W), D65, float64. Values outside [0, 1] go on along the curves' ends."""
    rgb = check_images(images, "images", channels=3).double()
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = linear.new_tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    to_xyz = to_xyz / to_xyz.sum(1, keepdim=True)  # in units of white, so that grey has a* = b* = 0
    x, y, z = torch.einsum("ij,bjhw->ibhw", to_xyz, linear)
    x, y, z = (torch.where(v > 216 / 24389, v.clamp(min=0) ** (1 / 3), (24389 / 27 * v + 16) / 116) for v in (x, y, z))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def sharpness(images: Tensor, share: float = 0.05) -> Tensor:
    """How steep the steepest edges are: the mean luma gradient over the steepest `share` of the pixels, shape (B,).

    In image units per pixel: |grad Y| from differences of neighbouring pixels after a Gaussian of 0.7 pixels, Y by
    `rgb_to_y` (the mean of the channels unless C = 3). Compare `sharpness(sr)` with `sharpness(hr)`: below it edges are
    blurred, above it they are over-steep (halos, ringing). So nearer to the original's value is better, higher is not.
    The Gaussian and the choice of the steepest pixels keep grain out: white noise with all the power that bicubic
    enlargement by 4 loses wins back a tenth of the missing sharpness here, but nine tenths of the plain root mean
    square of the gradient. Raises ValueError for images below 8x8.
    """
    y = _luma(images, "images")
    if min(y.shape[-2:]) < 8:
        raise ValueError(f"images must be at least 8x8 pixels, but they are {y.shape[-2]}x{y.shape[-1]}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], but {share!r} came")
    y = _gaussian(y, 0.7, 3)
    gradient = torch.hypot(y.diff(dim=-1)[..., :-1, :], y.diff(dim=-2)[..., :-1]).flatten(1)
    return gradient.topk(math.ceil(share * gradient.shape[1]), dim=1).values.mean(1)


def sliced_wasserstein(
    sr: Tensor | Sequence[Tensor],
    hr: Tensor | Sequence[Tensor],
    patch: int = 7,
    stride: int = 3,
    projections: int = 128,
    seed: int = 0,
) -> Tensor:
    """Sliced Wasserstein distance of order 1 between the patches of two images, in image units.

    SW = mean over unit vectors w of W1({w . p}, {w . q}), W1 the area between the two distribution functions; p and q
    run over the patch x patch x C patches at every `stride`-th row and column (3 meets every phase of a 2x or 4x grid).
    The vectors are drawn from `seed`, so equal calls give equal values. Position is forgotten: it asks whether textures
    occur as often, not where.

    Two tensors of the same batch size are compared image by image: (B,). Two lists of tensors, of any sizes, are two
    sets whose patches are pooled: a scalar. Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3; code with squared
    distances inside reports order 2, which weighs rare large differences more.
    """
    for value, argument in ((patch, "patch"), (stride, "stride"), (projections, "projections")):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a positive whole number, but {value!r} came")
    pair = isinstance(sr, Tensor) and isinstance(hr, Tensor)
    if not pair and (isinstance(sr, Tensor) or isinstance(hr, Tensor)):
        raise TypeError(
            "sr and hr must be two tensors (image by image) or two lists of tensors (as sets), but one of each came"
        )
    first, second = ([sr], [hr]) if pair else (list(sr), list(hr))
    if not first or not second:
        raise ValueError("sr and hr must each hold at least one image, but an empty list came")
    for images, argument in ((first, "sr"), (second, "hr")):
        for image in images:
            check_images(image, argument)
            if image.shape[1] != first[0].shape[1]:
                raise ValueError(
                    f"sr and hr must have the same channels, but {first[0].shape[1]} and {image.shape[1]} came"
                )
            if min(image.shape[-2:]) < patch:
                raise ValueError(
                    f"{argument} must be at least {patch}x{patch} pixels, but its shape is {tuple(image.shape)}"
                )
    if pair and len(sr) != len(hr):
        raise ValueError(
            f"sr and hr hold {len(sr)} and {len(hr)} images; hand in lists [sr], [hr] to compare them as sets"
        )
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(projections, first[0].shape[1], patch, patch, generator=generator)
    directions = directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    total = 0.0
    for some in directions.to(first[0].device).split(32):
        values = [
            [F.conv2d(image.float(), some, stride=stride).flatten(2) for image in images] for images in (first, second)
        ]
        if not pair:  # (1, directions, patches of all images)
            values = [[torch.cat([v.transpose(0, 1).flatten(1) for v in side], 1)[None]] for side in values]
        total = total + _wasserstein_1(*(side[0] for side in values)).sum(1)
    return (total / projections) if pair else (total / projections)[0]


def flat_noise(sr: Tensor, hr: Tensor, window: int = 16, share: float = 0.15) -> Tensor:
    """Grain where the original is flat: its standard deviation in `sr` relative to that in `hr`, shape (B,).

    Windows of window x window pixels, half overlapping, are ranked by the luma's variance in `hr`; the lowest `share`
    of them (at least one) is flat. Both images lose their coarse shading (luma minus its blur by a Gaussian of two
    pixels); what is left is grain, and the value is rms(sr) / rms(hr) over the flat windows, each rms with the
    variance of 8-bit rounding (1/255)^2 / 12 added, so that a perfectly flat original does not divide by zero. 1: as
    grainy as the original; below: smoother; above: grain that was invented. Choosing the flattest windows of `hr`
    favours `hr` a little, so even an ideal sample reads slightly above 1.
    """
    sr, hr = _luma(sr, "sr"), _luma(hr, "hr")
    check_same_shape(sr, hr, ("sr", "hr"))
    if min(hr.shape[-2:]) < window:
        raise ValueError(f"hr must be at least {window}x{window} pixels, but it is {hr.shape[-2]}x{hr.shape[-1]}")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], but {share!r} came")

    def windows(y: Tensor) -> Tensor:  # (B, 1, H, W) -> (B, windows, pixels)
        return F.unfold(y, window, stride=max(1, window // 2)).transpose(1, 2)

    reach = min(6, min(hr.shape[-2:]) - 1)
    variance = windows(hr).var(2, unbiased=False)
    flat = variance.topk(max(1, math.ceil(share * variance.shape[1])), dim=1, largest=False).indices
    power = []
    for y in (sr, hr):
        grain = y - _gaussian(F.pad(y, (reach,) * 4, mode="reflect"), 2.0, reach)
        power.append(windows(grain).square().mean(2).gather(1, flat).mean(1) + 1 / (12 * 255**2))
    return (power[0] / power[1]).sqrt()


def lpips_distance(features_a: Sequence[Tensor], features_b: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """LPIPS from features: sum over layers of the mean over positions of sum_c w_c (a_c - b_c)^2, shape (B,).

    `features_a[l]` and `features_b[l]` are (B, C_l, H_l, W_l), both divided by their length over channels at every
    position first; `weights[l]` is (C_l,). Zhang et al. 2018, arXiv:1801.03924. The paper writes the weights inside the
    norm (so squared); its code, and this function, multiply the squared difference by them.
    """
    if not len(features_a) == len(features_b) == len(weights) > 0:
        raise ValueError(
            "features_a, features_b and weights must hold one entry per layer,"
            f" but {len(features_a)}, {len(features_b)} and {len(weights)} came"
        )
    distance = 0.0
    for a, b, weight in zip(features_a, features_b, weights, strict=True):
        check_same_shape(a, b, ("features_a", "features_b"))
        if weight.shape != a.shape[1:2]:
            raise ValueError(f"weights must have shape ({a.shape[1]},) for this layer, but it is {tuple(weight.shape)}")
        a, b = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
        distance = distance + (weight.view(1, -1, 1, 1) * (a - b).square()).sum(1).mean((1, 2))
    return distance


def lpips(sr: Tensor, hr: Tensor, net: str = "alex") -> Tensor:
    """LPIPS with its trained weights, shape (B,), 0 for equal images; arXiv:1801.03924. Needs C = 3.

    The optional package `lpips` and the weights of its network ("alex", "vgg" or "squeeze": numbers from different
    networks cannot be compared) are used; it wants images in [-1, 1], which is done here. Raises ModuleNotFoundError
    with the command to run when the package is absent. `lpips_distance` is the definition, for any features.
    """
    check_images(sr, "sr", channels=3)
    check_images(hr, "hr", channels=3)
    check_same_shape(sr, hr, ("sr", "hr"))
    check_one_of(net, ("alex", "vgg", "squeeze"), "net")
    with torch.no_grad():
        return _lpips_network(net).to(sr.device)(2 * sr.float() - 1, 2 * hr.float() - 1).flatten().double()


@lru_cache(maxsize=3)
def _lpips_network(net: str) -> torch.nn.Module:
    try:
        from lpips import LPIPS
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "lpips", "pip install lpips", "metrics.lpips") from None
    return LPIPS(net=net, verbose=False).eval()


def naturalness(images: Tensor) -> Tensor:
    """A no-reference score in the style of NIQE: the distance from the statistics of natural photos, shape (B,).

    d = sqrt((m - m0)^T ((S + S0) / 2)^-1 (m - m0)), where m and S are the mean and covariance of 36 features over the
    image's 96x96 patches and m0, S0 those of sharp patches of ten built-in photos. **Lower is more natural.** The
    features are moments of the luma after local mean and contrast are divided out, at two scales. It never sees the
    original, so invented texture pleases it as well as true texture. Mittal et al. 2013, doi:10.1109/LSP.2012.2227726,
    fits generalised Gaussians to the same moments and learns from 125 photos: its values cannot be compared with these.
    Raises ValueError for images below 96x96.
    """
    y = _luma(images, "images")
    if min(y.shape[-2:]) < 96:
        raise ValueError(f"images must be at least 96x96 pixels, but they are {y.shape[-2]}x{y.shape[-1]}")
    mean_0, covariance_0 = _natural_statistics()
    scores = []
    for one in y.split(1):
        features, _ = _scene_features(one)
        difference = features.mean(0) - mean_0
        covariance = torch.cov(features.T, correction=0) if len(features) > 1 else torch.zeros_like(covariance_0)
        scores.append(
            (difference @ torch.linalg.pinv((covariance + covariance_0) / 2, hermitian=True) @ difference).sqrt()
        )
    return torch.stack(scores)


@lru_cache(maxsize=1)
def _natural_statistics() -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of the features of sharp patches (contrast above 3/4 of a photo's largest)."""
    names = ("astronaut", "chelsea", "coffee", "rocket", "camera", "brick", "gravel", "grass", "china", "flower")
    pairs = [_scene_features(_luma(photo(name), "photo")) for name in names]
    features = torch.cat([features[contrast > 0.75 * contrast.max()] for features, contrast in pairs])
    return features.mean(0), torch.cov(features.T)


def _scene_features(y: Tensor) -> tuple[Tensor, Tensor]:
    """Features (patches, 36) and contrast (patches,) of one luma image (1, 1, H, W)."""
    features, contrast = [], None
    y = crop_to_multiple(y, 96)
    for block in (96, 48):
        level = 255 * (y if block == 96 else resize(y, 0.5))
        local = [_gaussian(F.pad(v, (3,) * 4, mode="replicate"), 7 / 6, 3) for v in (level, level**2)]
        deviation = (local[1] - local[0] ** 2).clamp_min(0).sqrt()
        normal = (level - local[0]) / (deviation + 1)

        def blocks(v: Tensor, block: int = block) -> Tensor:  # (1, 1, H, W) -> (patches, pixels)
            return F.unfold(v, block, stride=block)[0].T

        contrast = blocks(deviation).mean(1) if contrast is None else contrast
        n = blocks(normal)
        features += [n.square().mean(1), n.abs().mean(1) ** 2 / (n.square().mean(1) + 1e-12)]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            product = blocks(normal * normal.roll(shift, (2, 3)))
            features += [product.mean(1), product.abs().mean(1) ** 2 / (product.square().mean(1) + 1e-12)]
            features += [(side * product).clamp_min(0).square().mean(1).sqrt() for side in (1, -1)]
    return torch.stack(features, 1), contrast


def _planes(sr: Tensor, hr: Tensor, channel: str, crop: int) -> tuple[Tensor, Tensor]:
    """Both images checked, as luma or as they are, cropped, in float64."""
    check_images(sr, "sr")
    check_images(hr, "hr")
    check_same_shape(sr, hr, ("sr", "hr"))
    check_one_of(channel, ("y", "rgb"), "channel")
    if not isinstance(crop, int) or isinstance(crop, bool) or crop < 0 or 2 * crop >= min(sr.shape[-2:]):
        raise ValueError(
            f"crop must be a whole number that leaves pixels of {sr.shape[-2]}x{sr.shape[-1]}, but {crop!r} came"
        )
    sr, hr = sr.double(), hr.double()
    if channel == "y" and sr.shape[1] != 1:
        if sr.shape[1] != 3:
            raise ValueError(
                f"channel='y' needs images of 1 or 3 channels, but sr has {sr.shape[1]}; use channel='rgb'"
            )
        sr, hr = rgb_to_y(sr), rgb_to_y(hr)
    end = slice(crop, -crop) if crop else slice(None)
    return sr[..., end, end], hr[..., end, end]


def _luma(images: Tensor, argument: str) -> Tensor:
    """Luma (B, 1, H, W) in float64: `rgb_to_y` for three channels, the mean of the channels otherwise."""
    images = check_images(images, argument).double()
    return rgb_to_y(images) if images.shape[1] == 3 else images.mean(1, keepdim=True)


def _gaussian(images: Tensor, std: float, reach: int) -> Tensor:
    """Each channel filtered by a normalised (2 reach + 1)^2 Gaussian; the result loses `reach` pixels a side."""
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = images.flatten(0, 1)[:, None]
    return F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3)).unflatten(0, images.shape[:2]).squeeze(2)


def _wasserstein_1(a: Tensor, b: Tensor) -> Tensor:
    """W1 between the empirical distributions in the last dimension: (..., n), (..., m) -> (...), float64."""
    a, b = (v.sort(dim=-1).values.double() for v in (a, b))
    if a.shape == b.shape:
        return (a - b).abs().mean(-1)
    knots = torch.cat([a, b], -1).sort(dim=-1).values
    left = knots[..., :-1].contiguous()
    gap = [torch.searchsorted(v, left, right=True) / v.shape[-1] for v in (a, b)]
    return ((gap[0] - gap[1]).abs() * knots.diff(dim=-1)).sum(-1)
