"""Every method behind one call: `super_resolve(lr, method=...)`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .checks import check_images, check_one_of, check_positive
from .color import back_projection
from .corruption import (
    cold_denoiser,
    cold_diffusion,
    draw_state,
    i2sb,
    i2sb_path,
    indi,
    indi_path,
    resshift,
    resshift_clock,
    resshift_path,
    staged_corruption,
    symmetric_clock,
)
from .denoisers import Denoiser, NetworkDenoiser
from .domains import Latent, Residual, Wavelet
from .images import resize
from .networks.implicit import padded
from .networks.regression import condition
from .noise import Noise, standard_normal
from .operators import Bicubic
from .photo_priors import CALLS, PRIOR_METHODS, zero_shot_sample
from .pretrained import (
    COLD_GROUPS,
    COLD_NOISE,
    LATENT_SCALE,
    SPREADS,
    WAVELET_SCALES,
    bicubic_spread,
    continuous_spread,
    load_pretrained,
)
from .samplers import ddim, last
from .schedules import Schedule, shifted_cosine, uniform_times, vp_cosine
from .sparse import sparse_super_resolve
from .sr3 import augment
from .tiles import MARGIN, in_tiles, tiled

METHODS: dict[str, str] = {
    "bicubic": "MATLAB's bicubic interpolation; any scale, nothing learned",
    "sparse": "pairs of small patches learned as a dictionary; the best before neural networks (scale 4)",
    "regression": "one network, one answer: close to the mean of all plausible photos, so smooth (scale 4)",
    "gan": "the regression trained on against a discriminator: sharp, one answer, may invent (scale 4)",
    "flow": "a normalising flow draws a sample of what the regression leaves out, in one call (scale 4)",
    "sr3": "a diffusion model of the whole photo told its bicubic enlargement (scale 4)",
    "sr3-cascade": "the same at scale 2, run twice (scale 4)",
    "srdiff": "a diffusion model adds a sample of what bicubic leaves out, told a network's features (scale 4)",
    "residual-diffusion": "a diffusion model adds a sample of what the regression leaves out (scale 4)",
    "wavelet": "the same in Haar bands, with a smaller network and fewer steps (scale 4)",
    "latent": "the same in the code of an autoencoder, on half the LR grid (scale 4)",
    "indi": "a bridge, from the regression's answer plus noise in even steps, with the network of 'wavelet' (scale 4)",
    "i2sb": "a bridge that starts at the regression's answer itself, with the same network (scale 4)",
    "resshift": "a bridge that starts in noise around the regression's answer, with the same network (scale 4)",
    "cold": "cold diffusion: bands of detail that faded, fine ones first, are restored (scale 4)",
    "continuous": "a diffusion model of what bicubic leaves out, one network for every scale from 2 to 4",
    "ilvr": "zero-shot: a prior that knows photos but not this task; low frequencies exchanged at every step (scale 4)",
    "ddrm": "zero-shot: the same prior, exchanged in the coordinates of the camera's SVD (scale 4)",
    "ddnm": "zero-shot: the same prior makes what the camera cannot see (scale 4)",
    "dps": "zero-shot: the same prior, pulled towards lr by a gradient (scale 4)",
    "pigdm": "zero-shot: the same, knowing how uncertain the prior's estimate is (scale 4)",
    "diffpir": "zero-shot: the prior's estimate and lr weighed against each other at every step (scale 4)",
}
FACE_METHODS: dict[str, str] = {
    "bicubic": METHODS["bicubic"],
    "regression": "one network, one answer: the mean of all plausible faces",
    "gan": "the regression trained on against a discriminator",
    "flow": "a normalising flow draws a sample of what the regression leaves out",
    "sr3": "a diffusion model of the whole face told its bicubic enlargement",
}
STEPS = {  # default network calls
    "sr3": 20,
    "sr3-cascade": (10, 10),
    "srdiff": 20,
    "residual-diffusion": 20,
    "wavelet": 8,
    "latent": 15,
    "indi": 9,
    "i2sb": 9,
    "resshift": 9,
    "cold": 9,
    "continuous": 20,
    **dict.fromkeys(PRIOR_METHODS, CALLS),
}
ETA = {  # share of DDPM's noise (beta-tilde) in each step
    "sr3": 1.0,
    "sr3-cascade": 1.0,
    "srdiff": 0.7,
    "residual-diffusion": 0.7,
    "wavelet": 0.7,
    "latent": 0.7,
    "continuous": 0.7,
}
EPSILON = 0.15**0.5  # noise of "indi" at its start, state units
BETA_MAX = 1.0  # of the clock of "i2sb"
KAPPA = 1.0  # noise of "resshift" at its start, state units
GAIN = {"indi": 1.0, "i2sb": 1.07, "resshift": 1.0}  # on the sample: few steps of a bridge leave too little variance
TEMPERATURE = 0.9  # of the flow
AUGMENTATION = 0.02  # noise that the second stage of the cascade adds to the first one's answer, state units
FIRST_TIME = 0.999  # of SR3, whose eps says nothing where alpha is 0, and of I2SB, which has no log_snr at t = 1
TILE = 192  # LR pixels


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

    Sides that are not whole numbers are rounded up. `method` is one of METHODS. `seed` fixes the sample: image i of a batch
    uses seed + i, or give one seed per image; the result for an image does not depend on its batch mates. `steps` is the
    number of network calls of the diffusion methods (of each stage in "sr3-cascade"). Images larger than `tile` LR pixels go
    through the networks in overlapping tiles whose margin exceeds the networks' reach, and noise is drawn for the whole
    image, so tiles agree with the whole; tile=None never cuts.
    Raises ValueError for an unknown method, a scale without weights, or an image that is not (B, 3, H, W).
    """
    check_images(lr, "lr", channels=3)
    check_one_of(method, METHODS, "method")
    check_positive(scale, "scale")
    if method == "bicubic":
        return resize(lr, scale).clamp(0, 1)
    if method == "continuous" and not 2 <= scale <= 4:
        raise ValueError(f"method 'continuous' has weights for scales from 2 to 4, but scale={scale} came")
    if method != "continuous" and scale != 4:
        raise ValueError(
            f"method {method!r} has weights for scale 4 only, but scale={scale} came; 'bicubic' takes any scale, "
            "'continuous' every scale from 2 to 4"
        )
    if tile is not None and (tile < 4 or tile % 4):
        raise ValueError(f"tile must be a positive multiple of 4 LR pixels or None, but {tile!r} came")
    check_steps(steps)
    x, noise = lr.float(), one_source_per_image(seed, len(lr))
    with torch.inference_mode():
        if method in ("regression", "gan"):
            sr = in_tiles(pretrained(f"photo-{method}-x4", x), [x], tile)
        elif method == "sparse":
            sr = sparse_super_resolve(x, pretrained("photo-sparse-x4", x))
        elif method == "flow":
            sr = flow_sample("photo", x, noise, tile)
        elif method == "sr3":
            times = sr3_times(steps or STEPS[method])
            sr = sr3_sample("photo-sr3-x4", x, upsampled(x, 4), noise, times, ETA[method], tile, progress)
        elif method == "sr3-cascade":
            sr = cascade(x, noise, (steps, steps) if steps else STEPS[method], tile, progress)
        elif method in GAIN:
            sr = bridged(x, method, noise, steps or STEPS[method], tile, progress)
        elif method in PRIOR_METHODS:
            sr = zero_shot_sample(
                x, method, pretrained("photo-unconditional", x), noise, steps or CALLS, tile, progress
            )
        elif method == "continuous":
            sr = continuous(x, scale, noise, steps or STEPS[method], tile, progress)
        else:
            function = {"srdiff": srdiff, "wavelet": wavelet, "latent": latent, "cold": cold}.get(
                method, residual_diffusion
            )
            sr = function(x, noise, steps or STEPS[method], tile, progress)
        return sr.clamp(0, 1).to(lr.dtype)


def face_super_resolve(
    lr: Tensor, method: str = "sr3", seed: int | Sequence[int] = 0, steps: int | None = None
) -> Tensor:
    """The procedural faces from (B, 3, 8, 8) to (B, 3, 32, 32), both in [0, 1], by one of FACE_METHODS.

    `seed` and `steps` as in `super_resolve`. The faces' networks know `data.faces` and nothing else.
    Raises ValueError for an unknown method and for images of another size.
    """
    check_images(lr, "lr", channels=3)
    check_one_of(method, FACE_METHODS, "method")
    if lr.shape[-2:] != (8, 8):
        raise ValueError(f"lr must hold faces of 8 x 8 pixels, (B, 3, 8, 8), but the shape {tuple(lr.shape)} came")
    check_steps(steps)
    x, noise = lr.float(), one_source_per_image(seed, len(lr))
    with torch.inference_mode():
        if method == "bicubic":
            sr = resize(x, 4)
        elif method in ("regression", "gan"):
            sr = pretrained(f"faces-{method}-x4", x)(x)
        elif method == "flow":
            sr = flow_sample("faces", x, noise, None)
        else:
            sr = sr3_sample("faces-sr3-x4", x, upsampled(x, 4), noise, sr3_times(steps or STEPS["sr3"]), ETA["sr3"])
        return sr.clamp(0, 1).to(lr.dtype)


def check_steps(steps: int | None) -> None:
    """Raise ValueError unless steps is None or a whole number of at least 1."""
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        raise ValueError(f"steps must be a whole number of at least 1, but {steps!r} came")


def one_source_per_image(seed: int | Sequence[int], count: int) -> Noise:
    """The noise of `count` images, each with its own stream: image i uses seed + i, or the i-th seed."""
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"seed must be one integer or one per image, but {len(seeds)} seeds came for {count} images")
    return standard_normal([Generator().manual_seed(s) for s in seeds])


def pretrained(name: str, lr: Tensor) -> nn.Module:
    """The shipped network on the device of lr."""
    return load_pretrained(name).to(lr.device)


def upsampled(images: Tensor, scale: int) -> Tensor:
    """The bicubic enlargement in state units: SR3's condition."""
    return 2 * resize(images, scale) - 1


def flow_sample(kind: str, lr: Tensor, noise: Noise, tile: int | None) -> Tensor:
    """mean + spread * f^-1(TEMPERATURE eps): the flow's sample of the regression's normalised residual, in one call.

    Lugmayr et al., arXiv 2006.14200, whose flow makes the whole photo.
    """
    regression, flow = pretrained(f"{kind}-regression-x4", lr), pretrained(f"{kind}-flow-x4", lr)
    eps = noise(lr.new_empty(len(lr), 48, *lr.shape[-2:]))

    def decode(x: Tensor, part: Tensor) -> Tensor:
        mean, spread, cond = condition(regression, x)
        return mean + spread * F.pixel_shuffle(flow.inverse(TEMPERATURE * part, cond), 4)

    return in_tiles(decode, [lr, eps], tile, 2 * MARGIN)  # the flow reaches on from where the regression ends


def sr3_times(steps: int) -> Tensor:
    """The grid of SR3's sampler: even times of the residual's cosine schedule."""
    return uniform_times(steps, FIRST_TIME)


def sr3_sample(
    name: str,
    lr: Tensor,
    cond: Tensor,
    noise: Noise,
    times: Tensor,
    eta: float,
    tile: int | None = None,
    progress: bool = False,
) -> Tensor:
    """SR3: from pure noise to an image in [0, 1], told cond (B, C, H, W) at the size of the answer, in state units.

    The network knows noise levels and no steps, so the grid `times` on `shifted_cosine(SPREADS[name])` is free;
    `sr3_times` is what benchmarks/sr3.py found. Saharia et al., arXiv 2104.07636, who search theirs as well; they clip the
    image at every step, which is not done here. lr only lends its grid to the tiles.
    """
    schedule = shifted_cosine(SPREADS[name])
    network = NetworkDenoiser(pretrained(name, lr), "eps", schedule)

    def denoiser(z: Tensor, t: Tensor, _: None = None) -> Tensor:
        return in_tiles(lambda _, c, part: network(part, t, c), [lr, cond, z], tile)

    z = noise(cond[:, :3])
    return (last(ddim(denoiser, schedule, z, times, eta=eta, noise=noise, progress=progress)) + 1) / 2


def cascade(lr: Tensor, noise: Noise, steps: tuple[int, int], tile: int | None, progress: bool) -> Tensor:
    """SR3 at scale 2 on lr, then on its own answer, which gets a little noise first so that mistakes are not believed.

    Ho et al., arXiv 2106.15282 (cascades, conditioning augmentation). One network serves both stages: photos look alike at
    both scales, and it is told how much noise its condition holds.
    """
    image, name = lr, "photo-sr3-x2"
    for stage, std in enumerate((0.0, AUGMENTATION)):
        cond = upsampled(image, 2)
        cond = augment(cond, 1 - std**2, noise) if std else cond
        told = torch.full_like(cond[:, :1], std)
        image = sr3_sample(
            name, image, torch.cat([cond, told], 1), noise, sr3_times(steps[stage]), ETA["sr3-cascade"], tile, progress
        )
    return image


def sampled(
    network: nn.Module,
    method: str,
    like: Tensor,
    cond: Tensor,
    noise: Noise,
    steps: int,
    tile: int | None,
    progress: bool,
) -> Tensor:
    """A state shaped like `like`: DDIM with the method's eta on the cosine schedule's even grid, told cond, tile by tile."""
    schedule = vp_cosine()
    denoiser = tiled(NetworkDenoiser(network, "v", schedule), cond, tile)
    return last(
        ddim(denoiser, schedule, noise(like), uniform_times(steps), eta=ETA[method], noise=noise, progress=progress)
    )


def srdiff(lr: Tensor, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """SRDiff: bicubic + spread * (a sample of the normalised residual), told features of a network trained beforehand.

    Li et al., arXiv 2104.14951, whose features come from RRDBs (`networks.rrdb`); here they are those of
    photo-regression-x4, which is there already. They multiply the residual by 2 and clip it; here it is divided by a local
    spread and not clipped.
    """
    regression = pretrained("photo-regression-x4", lr)
    base = resize(lr, 4)
    told = in_tiles(regression.features, [lr], tile)
    cond = torch.cat([F.pixel_unshuffle(base - 0.5, 4), told], 1)
    z_0 = sampled(pretrained("photo-srdiff-x4", lr), "srdiff", base, cond, noise, steps, tile, progress)
    return Residual(lambda x: resize(x, 4), bicubic_spread).decode(z_0, lr)


def regression_condition(lr: Tensor, tile: int | None) -> Tensor:
    """What the regression's diffusion models are told, (B, 115, h, w); half precision, for storage only."""
    regression = pretrained("photo-regression-x4", lr)
    return in_tiles(lambda x: condition(regression, x)[2].half(), [lr], tile)


def residual_diffusion(lr: Tensor, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """Predict, refine, project: mean + spread * (a DDIM sample of the normalised residual), made consistent with lr.

    Whang et al., arXiv 2112.02475, diffuse the plain residual; here it is divided by the spread that the regression
    expects at each pixel, so the state has unit variance on walls and on grass alike. The last line adds
    A^+ (lr - A sr), after which downsampling gives lr back.
    """
    regression = pretrained("photo-regression-x4", lr)
    like = lr.new_empty(len(lr), 3, 4 * lr.shape[-2], 4 * lr.shape[-1])
    cond = regression_condition(lr, tile)
    z_0 = sampled(pretrained("photo-residual-x4", lr), "residual-diffusion", like, cond, noise, steps, tile, progress)
    del cond

    def decode(x: Tensor, part: Tensor) -> Tensor:
        mean, spread, _ = condition(regression, x)
        return mean + spread * part

    return back_projection(in_tiles(decode, [lr, z_0], tile), lr, Bicubic(4))


def wavelet(lr: Tensor, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """Residual diffusion in two levels of Haar bands of unit variance, on the LR grid; made consistent with lr.

    Moser et al., arXiv 2304.01994 (DiWa), one level and the plain residual of a predictor.
    """
    cond, network = regression_condition(lr, tile), pretrained("photo-wavelet-x4", lr)
    return from_bands(sampled(network, "wavelet", no_bands(lr), cond, noise, steps, tile, progress), lr, tile)


def no_bands(lr: Tensor) -> Tensor:
    """The state (B, 48, h, w) of a photo that is what the regression answers: zeros."""
    return lr.new_zeros(len(lr), 48, *lr.shape[-2:])


def from_bands(z_0: Tensor, lr: Tensor, tile: int | None) -> Tensor:
    """The photo whose residual to the regression has these bands, made consistent with lr."""
    regression = pretrained("photo-regression-x4", lr)

    def decode(x: Tensor, part: Tensor) -> Tensor:
        mean, spread, _ = condition(regression, x)
        residual = Residual(lambda _: mean, lambda _: spread)
        return Wavelet(2, scales=WAVELET_SCALES, of=residual).decode(part, x)

    return back_projection(in_tiles(decode, [lr, z_0], tile), lr, Bicubic(4))


def bridged(lr: Tensor, method: str, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """One of "indi", "i2sb", "resshift" in the bands of `wavelet`, from z_1 = 0, the regression's answer; consistent with lr.

    No network of their own: one that is told z_1 (here, all the regression knows) is asked the same question by every
    bridge and by plain diffusion, namely for z_0 given z_t - (1 - alpha) z_1 at an SNR. The papers train theirs for one
    bridge, in pixels (InDI, I2SB) or in latents (ResShift).
    """
    z_1, times = no_bands(lr), torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    cond, network = regression_condition(lr, tile), pretrained("photo-wavelet-x4", lr)

    def denoiser(path: Schedule) -> Denoiser:
        return tiled(NetworkDenoiser(network, "v", path), cond, tile)

    if method == "i2sb":
        clock = symmetric_clock(BETA_MAX)
        states = i2sb(denoiser(i2sb_path(clock)), clock, z_1, FIRST_TIME * times, noise=noise, progress=progress)
    elif method == "resshift":
        clock = resshift_clock(steps, KAPPA)
        z = z_1 + KAPPA * float(clock(1.0).sqrt()) * noise(z_1)
        states = resshift(denoiser(resshift_path(clock, KAPPA)), clock, z, times, KAPPA, noise, progress)
    else:
        path = indi_path(EPSILON)
        z = draw_state(path, z_1, z_1, 1.0, noise)
        states = indi(denoiser(path), z, times, EPSILON, noise, progress)
    return from_bands(GAIN[method] * last(states), lr, tile)


def cold(lr: Tensor, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """Cold diffusion's second algorithm in the bands of `wavelet`, from a little noise; made consistent with lr.

    Bansal et al., arXiv 2208.09392, whose super-resolution pools the image and starts without noise.
    """
    e = COLD_NOISE * noise(no_bands(lr))
    denoiser = tiled(cold_denoiser(pretrained("photo-cold-x4", lr)), regression_condition(lr, tile), tile)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    states = cold_diffusion(denoiser, staged_corruption(COLD_GROUPS, e), e, times, progress=progress)
    return from_bands(last(states), lr, tile)


def latent(lr: Tensor, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """Residual diffusion in the latents of photo-autoencoder-x4, on half the LR grid; made consistent with lr.

    Rombach et al., arXiv 2112.10752, encode the image itself and tell the denoiser alone about the LR image; here the
    autoencoder is told as well, so its code holds only what the LR image leaves open.
    """
    height, width = lr.shape[-2:]
    x = F.pad(lr, (0, -width % 2, 0, -height % 2), mode="replicate")
    regression = pretrained("photo-regression-x4", lr)
    autoencoder = pretrained("photo-autoencoder-x4", lr)
    cond = F.pixel_unshuffle(regression_condition(x, tile), 2)
    half = tile and tile // 2
    like = lr.new_empty(len(lr), autoencoder.latent, x.shape[-2] // 2, x.shape[-1] // 2)
    z_0 = sampled(pretrained("photo-latent-x4", lr), "latent", like, cond, noise, steps, half, progress)
    del cond

    def decode(part: Tensor, x: Tensor) -> Tensor:
        mean, spread, told = condition(regression, x)
        residual = Residual(lambda _: mean, lambda _: spread)
        return Latent(autoencoder, LATENT_SCALE, condition=lambda _: told, of=residual).decode(part, x)

    sr = in_tiles(decode, [z_0, x], half)
    return back_projection(sr[..., : 4 * height, : 4 * width], lr, Bicubic(4))


def continuous(lr: Tensor, scale: float, noise: Noise, steps: int, tile: int | None, progress: bool) -> Tensor:
    """bicubic + spread * (a sample of the normalised residual) at any scale from 2 to 4. Gao et al., arXiv 2303.16491 (IDM)."""
    network = pretrained("photo-continuous", lr)
    base = resize(lr, scale)
    features = in_tiles(pretrained("photo-regression-x4", lr).features, [lr], tile)
    cond = network.condition(features, base - 0.5, scale)
    double = tile and 2 * tile  # of the folded grid
    z_0 = sampled(network.denoiser, "continuous", padded(base), cond, noise, steps, double, progress)
    z_0 = z_0[..., : base.shape[-2], : base.shape[-1]]
    return base + z_0 * continuous_spread(base, scale)
