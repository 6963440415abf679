"""State domains: how an image becomes the state that diffuses, and comes back.

A domain has `encode(hr, lr) -> z_0` and `decode(z_0, lr) -> image`; images are (B, C, H, W) in [0, 1]. Domains compose:
`Residual`, `Wavelet` and `Latent` take what they transform from another domain, `of`. Pixel, Residual and Wavelet lose
nothing, so decode undoes encode to rounding; a Latent loses what its autoencoder loses. Nothing is clipped: residuals,
wavelet bands and latents have no reason to stay in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_images, check_one_of, check_positive, check_same_shape, check_whole


class Domain(Protocol):
    """What every domain offers."""

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Tensor: ...

    def decode(self, z_0: Tensor, lr: Tensor | None = None) -> Tensor: ...


class Autoencoder(Protocol):
    """What `Latent` needs of an autoencoder: states (B, C, H, W) to latents (B, c, h, w) and back, told a condition or None."""

    def encode(self, y: Tensor, cond: Tensor | None = None) -> Tensor: ...

    def decode(self, u: Tensor, cond: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Pixel:
    """The image itself, from [0, 1] to [-1, 1]: z_0 = 2 y - 1. Ho et al., arXiv 2006.11239."""

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Tensor:
        return 2 * check_images(hr, "hr") - 1

    def decode(self, z_0: Tensor, lr: Tensor | None = None) -> Tensor:
        return (check_images(z_0, "z_0") + 1) / 2


@dataclass(frozen=True)
class Residual:
    """What a predictor leaves, in units of how unsure it is: z_0 = (y - predictor(lr)) / spread(lr).

    `predictor(lr)` gives an image of y's shape, in image units (bicubic: SRDiff, arXiv 2104.14951; a network: Whang et al.,
    arXiv 2112.02475). `spread(lr)` gives a positive tensor that broadcasts against y, or is a number. Spread close to the
    local standard deviation of the error makes states of unit variance everywhere. SRDiff's code multiplies the residual by
    2 and clips it to [-1, 1], which loses every residual beyond half the range; nothing is clipped here.

    `of` is a domain whose state takes y's place; `predictor` and `spread` are then in its units and shape. With a Latent,
    predictor(lr) the latent of the enlarged LR image and spread a number, this is Refusion's space (arXiv 2304.08291).
    """

    predictor: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor] | float = 1.0
    of: Domain | None = None

    def __post_init__(self) -> None:
        if not callable(self.spread):
            check_positive(self.spread, "spread")

    def scale(self, lr: Tensor) -> Tensor | float:
        return self.spread(lr) if callable(self.spread) else self.spread

    def encode(self, hr: Tensor, lr: Tensor) -> Tensor:
        mean = self.predictor(check_images(lr, "lr"))
        y, name = (hr, "hr") if self.of is None else (self.of.encode(hr, lr), "the state")
        check_same_shape(check_images(y, name), mean, (name, "predictor(lr)"))
        return (y - mean) / self.scale(lr)

    def decode(self, z_0: Tensor, lr: Tensor) -> Tensor:
        mean = self.predictor(check_images(lr, "lr"))
        check_same_shape(check_images(z_0, "z_0"), mean, ("z_0", "predictor(lr)"))
        y = mean + z_0 * self.scale(lr)
        return y if self.of is None else self.of.decode(y, lr)


def split_bands(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level of the orthonormal Haar transform: (LL, H, V, D), each (B, C, H/2, W/2), of z (B, C, H, W).

    With the four pixels a b / c d of a 2 x 2 block: LL = (a + b + c + d) / 2, H = (a + b - c - d) / 2 (changes down the
    rows: horizontal edges, PyWavelets' cH), V = (a - b + c - d) / 2 (along the rows), D = (a - b - c + d) / 2. Papers that
    write LH and HL do not agree on which is which.
    """
    a, b, c, d = z[..., ::2, ::2], z[..., ::2, 1::2], z[..., 1::2, ::2], z[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a + b - c - d) / 2, (a - b + c - d) / 2, (a - b - c + d) / 2


def join_bands(ll: Tensor, h: Tensor, v: Tensor, d: Tensor) -> Tensor:
    """The inverse of `split_bands`, which is its transpose: (B, C, h, w) four times -> (B, C, 2 h, 2 w)."""
    z = ll.new_empty(*ll.shape[:-2], 2 * ll.shape[-2], 2 * ll.shape[-1])
    z[..., ::2, ::2], z[..., ::2, 1::2] = (ll + h + v + d) / 2, (ll + h - v - d) / 2
    z[..., 1::2, ::2], z[..., 1::2, 1::2] = (ll - h + v - d) / 2, (ll - h - v + d) / 2
    return z


def band_names(levels: int) -> tuple[str, ...]:
    """The bands of a Haar transform, coarse to fine: ("LL", "H2", "V2", "D2", "H1", "V1", "D1") for two levels."""
    return ("LL", *(f"{kind}{level}" for level in range(levels, 0, -1) for kind in "HVD"))


@dataclass(frozen=True)
class Wavelet:
    """The orthonormal Haar bands of another domain's state, stacked as channels of the coarsest grid.

    (B, C, H, W) -> (B, C 4^levels, H / 2^levels, W / 2^levels) for all bands, in the order of `band_names(levels)`: LL takes
    C channels, a band of level l takes C 4^(levels - l), folded to the coarsest grid (pixel unshuffle). Nothing is lost and
    lengths are kept (Parseval), so white noise stays white: diffusing here is diffusing there, seen in other axes.

    `bands` keeps some bands only; decode puts zeros for the others. With of=Residual(predictor) zero means "as predicted":
    a network diffuses details, and a regression answers for the rest. `scales` divides bands by their standard deviations
    (a missing band: 1), which makes the state's variance 1 in each. Moser et al., arXiv 2304.01994 (DiWa, one level, the
    residual of a predictor); Phung et al., arXiv 2211.16152. LL of an image in [-1, 1] reaches 2^levels: never clamp it.
    """

    levels: int = 1
    bands: Sequence[str] | None = None
    scales: Mapping[str, float] | None = None
    of: Domain = Pixel()

    def __post_init__(self) -> None:
        names = band_names(check_whole(self.levels, "levels"))
        for band in (*(self.bands or ()), *(self.scales or {})):
            check_one_of(band, names, "bands and scales")
        for band, scale in (self.scales or {}).items():
            check_positive(scale, f"scales[{band!r}]")
        if self.bands is not None and not self.bands:
            raise ValueError("bands must keep at least one band, but it is empty; None keeps all")

    def _kept(self) -> list[str]:
        return [name for name in band_names(self.levels) if self.bands is None or name in self.bands]

    def fold(self, name: str) -> int:
        """By how much a band's own grid is finer than the coarsest."""
        return 1 if name == "LL" else 2 ** (self.levels - int(name[1:]))

    def _scale(self, name: str) -> float:
        return (self.scales or {}).get(name, 1.0)

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Every band of z (B, C, H, W) by name, each on its own grid: (B, C, H / 2^l, W / 2^l); neither scaled nor dropped."""
        multiple = 2**self.levels
        if check_images(z, "the state").shape[-2] % multiple or z.shape[-1] % multiple:
            size = f"{z.shape[-2]} x {z.shape[-1]}"
            raise ValueError(
                f"height and width must be multiples of {multiple} for levels={self.levels}, but {size} came"
            )
        bands = {}
        for level in range(1, self.levels + 1):
            z, bands[f"H{level}"], bands[f"V{level}"], bands[f"D{level}"] = split_bands(z)
        return {name: bands.get(name, z) for name in band_names(self.levels)}

    def join(self, bands: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `split`; bands that are not given are zero."""
        if not bands:
            raise ValueError("bands must hold at least one band, but it is empty")
        for name in bands:
            check_one_of(name, band_names(self.levels), "bands")
        first, some = next(iter(bands.items()))
        height, width = (size << self._level(first) for size in some.shape[-2:])

        def band(name: str) -> Tensor:
            empty = some.new_zeros(*some.shape[:-2], height >> self._level(name), width >> self._level(name))
            check_same_shape(bands.get(name, empty), empty, (f"bands[{name!r}]", f"what fits bands[{first!r}]"))
            return bands.get(name, empty)

        z = band("LL")
        for level in range(self.levels, 0, -1):
            z = join_bands(z, band(f"H{level}"), band(f"V{level}"), band(f"D{level}"))
        return z

    def _level(self, name: str) -> int:
        return self.levels if name == "LL" else int(name[1:])

    def pack(self, z: Tensor) -> Tensor:
        """The inner state z (B, C, H, W) as the scaled, stacked bands that are kept."""
        bands = self.split(z)
        return torch.cat(
            [F.pixel_unshuffle(bands[name], self.fold(name)) / self._scale(name) for name in self._kept()], 1
        )

    def unpack(self, packed: Tensor) -> Tensor:
        """The inner state (B, C, H, W) of packed bands: the inverse of `pack` when all bands are kept."""
        kept = self._kept()
        parts = [self.fold(name) ** 2 for name in kept]  # channels per channel of the inner state
        if check_images(packed, "z_0").shape[1] % sum(parts):
            raise ValueError(
                f"z_0 must have a multiple of {sum(parts)} channels, for bands {', '.join(kept)}, "
                f"but {packed.shape[1]} came"
            )
        channels = packed.shape[1] // sum(parts)
        split = packed.split([channels * part for part in parts], 1)
        bands = {
            name: F.pixel_shuffle(part, self.fold(name)) * self._scale(name)
            for name, part in zip(kept, split, strict=True)
        }
        return self.join(bands)

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Tensor:
        return self.pack(self.of.encode(hr, lr))

    def decode(self, z_0: Tensor, lr: Tensor | None = None) -> Tensor:
        return self.of.decode(self.unpack(z_0), lr)


@dataclass(frozen=True)
class Latent:
    """An autoencoder's code of another domain's state, brought to unit variance: z_0 = (encode(state) - shift) / scale.

    `scale` and `shift` are a number or a tensor that broadcasts against latents; `latent_moments` measures them on training
    images. A diffusion model takes its data to have unit variance: Rombach et al., arXiv 2112.10752, multiply by a measured
    1 / std (0.18215 in Stable Diffusion). Multiply on the way in, divide on the way out, everywhere: forgetting one of the
    two gives grey or burnt images. `condition(lr)` is what the autoencoder is told, None for nothing. What decode(encode(y))
    loses, no diffusion model can bring back: measure it first.
    """

    autoencoder: Autoencoder
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    condition: Callable[[Tensor], Tensor] | None = None
    of: Domain = Pixel()

    def __post_init__(self) -> None:
        if not (torch.as_tensor(self.scale) > 0).all():
            raise ValueError(f"scale must be positive, but its least value is {torch.as_tensor(self.scale).min():g}")

    def _told(self, lr: Tensor | None) -> Tensor | None:
        return None if self.condition is None else self.condition(check_images(lr, "lr"))

    def _check(self, latent: Tensor, name: str) -> Tensor:
        check_images(latent, name)
        for argument in ("scale", "shift"):
            value = torch.as_tensor(getattr(self, argument))
            if value.ndim > 1 and value.shape[-3:-2] not in ((), (1,), latent.shape[1:2]):
                raise ValueError(
                    f"{name} must have {value.shape[-3]} channels as {argument} has, but {latent.shape[1]} came"
                )
        return latent

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Tensor:
        latent = self.autoencoder.encode(self.of.encode(hr, lr), self._told(lr))
        return (self._check(latent, "the autoencoder's latent") - self.shift) / self.scale

    def decode(self, z_0: Tensor, lr: Tensor | None = None) -> Tensor:
        latent = self._check(z_0, "z_0") * self.scale + self.shift
        return self.of.decode(self.autoencoder.decode(latent, self._told(lr)), lr)


def latent_moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    """(shift, scale), each (1, c, 1, 1): mean and standard deviation of every latent channel over samples and places.

    Measure them on many images: one pair for all, or the sampler could not undo it. A KL autoencoder's latent is drawn from
    q(u|y) = N(mean, std^2) in training, which adds E[std^2] to the variance; `Latent` diffuses its mean. Raises ValueError
    for a channel that does not vary.
    """
    check_images(latents, "latents")
    shift, scale = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
    if not (scale > 0).all():
        constant = (~(scale > 0)).flatten().nonzero().flatten().tolist()
        raise ValueError(f"latents must vary in every channel, but channels {constant} do not")
    return shift, scale
