"""Checks for the exercises of chapter 11."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from ..domains import Wavelet
from . import Exercise, Mistake


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# 11.1: one level of the Haar transform.


def _corners(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return z[..., ::2, ::2], z[..., ::2, 1::2], z[..., 1::2, ::2], z[..., 1::2, 1::2]


def _quadrants(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h, w = z.shape[-2] // 2, z.shape[-1] // 2
    return z[..., :h, :w], z[..., :h, w:], z[..., h:, :w], z[..., h:, w:]


def _haar(z: Tensor, size: float = 2.0, corners: Callable = _corners) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = corners(z)
    return (a + b + c + d) / size, (a + b - c - d) / size, (a - b + c - d) / size, (a - b - c + d) / size


# 11.2: how far the bands reach.


def _reach(levels: int, low: float, high: float) -> tuple[float, float, float]:
    return 2.0**levels * low, 2.0**levels * high, 2.0 ** (levels - 1) * (high - low)


def _reach_inputs(generator: Generator) -> tuple[int, float, float]:
    low = _uniform(generator, 1, low=-1.5, high=-0.1).item()
    return 2 + generator.initial_seed() % 3, low, _uniform(generator, 1, low=0.3, high=2.0).item()


# 11.3: a residual, there and back.


def _there_and_back(
    hr: Tensor, prediction: Tensor, spread: Tensor, sampled: Tensor, inwards: float = 1.0, outwards: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Right as it stands; the two numbers flip signs."""
    return inwards * (hr - prediction) / spread, prediction + outwards * spread * sampled


def _there_and_back_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hr = _uniform(generator, 2, 3, 4, 6)
    prediction = hr + 0.2 * _normal(generator, 2, 3, 4, 6)
    return hr, prediction, _uniform(generator, 2, 1, 4, 6, low=0.05, high=0.3), _normal(generator, 2, 3, 4, 6)


# 11.4: unit variance.


def _factor(batches: Sequence[Tensor]) -> Tensor:
    return 1 / torch.cat([batch.flatten() for batch in batches]).std()


def _factor_inputs(generator: Generator) -> tuple[list[Tensor]]:
    """Three batches of different size; images differ in mean and contrast, and the whole is not centred."""
    batches = []
    for count in (5, 8, 3):
        place, size = 3 * _normal(generator, count, 1, 1, 1) + 2, _uniform(generator, count, 1, 1, 1, low=0.5, high=4.0)
        batches.append(place + size * _normal(generator, count, 3, 6, 5) + _normal(generator, 1))
    return (batches,)


# 11.5: the ceiling of an autoencoder.


def _decibels(a: Tensor, b: Tensor) -> Tensor:
    return -10 * (a - b).square().flatten(1).mean(1).log10()


def _round_trip(hr: Tensor, encode: Callable, decode: Callable, factor: float, back: float = -1.0) -> Tensor:
    """The image again; multiplied by factor on the way in and by factor^back on the way out."""
    return (decode(encode(2 * hr - 1) * factor * factor**back) + 1) / 2


def _ceiling(hr: Tensor, encode: Callable, decode: Callable, factor: float) -> Tensor:
    return _decibels(_round_trip(hr, encode, decode, factor), hr)


def _ceiling_inputs(generator: Generator) -> tuple:
    """An autoencoder that keeps 20 of 48 numbers, with a bias, so that the range of what it is given matters."""
    hr = _uniform(generator, 3, 3, 4, 4)
    axes = torch.linalg.qr(_normal(generator, 48, 48))[0][:, :20]
    centre = 0.3 * _normal(generator, 48)
    factor = _uniform(generator, 1, low=0.3, high=0.7).item()

    def encode(y: Tensor) -> Tensor:
        return ((y.flatten(1) - centre) @ axes).view(-1, 5, 2, 2)

    def decode(u: Tensor) -> Tensor:
        return (u.flatten(1) @ axes.T + centre).view(-1, 3, 4, 4)

    return hr, encode, decode, factor


# 11.6: vector quantisation.


def _nearest(u: Tensor, codebook: Tensor) -> Tensor:
    return torch.cdist(u, codebook).argmin(1)


def _quantised(
    u: Tensor,
    codebook: Tensor,
    pull: Tensor,
    weight: float,
    choose: Callable = _nearest,
    through: float = 1.0,
    to_codes: float = 0.0,
    commit: float = 1.0,
    shared: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Right as it stands; each option breaks one thing."""
    codes = choose(u, codebook)
    vectors = codebook[codes]
    apart = 2 * (u - vectors) / len(u)
    for_u = through * pull + (1 + weight if shared else commit * weight) * apart
    for_codes = to_codes * pull - (1 + weight if shared else 1.0) * apart
    return vectors, for_u, torch.zeros_like(codebook).index_add(0, codes, for_codes)


def _quantised_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    codebook = _uniform(generator, 6, 1, low=0.4, high=2.0) * _normal(generator, 6, 3)
    u = _normal(generator, 12, 3)
    return u, codebook, _normal(generator, 12, 3) / 4, _uniform(generator, 1, low=0.2, high=0.5).item()


def _as_autograd_does(answer: tuple, u: Tensor, codebook: Tensor, pull: Tensor, weight: float) -> str | None:
    """The oracle: the same three results from the loss, written with detach, by automatic differentiation."""
    u, codebook = u.clone().requires_grad_(), codebook.clone().requires_grad_()
    vectors = codebook[_nearest(u, codebook)]
    through = u + (vectors - u).detach()
    terms = (u.detach() - vectors).square() + weight * (u - vectors.detach()).square()
    right = torch.autograd.grad((through * pull).sum() + terms.sum(1).mean(), (u, codebook))
    if all(torch.allclose(mine, theirs, atol=1e-5) for mine, theirs in zip(answer[1:], right, strict=True)):
        return None
    return "automatic differentiation of the loss gives other gradients."


def _quantised_mistake(**options) -> Callable:
    return lambda u, codebook, pull, weight: _quantised(u, codebook, pull, weight, **options)


# 11.7: what a network costs on a folded grid.


def _multiply_adds(
    height: int,
    width: int,
    channels: int,
    fold: int,
    hidden: int,
    layers: int,
    area: int = 2,
    ends: int = 2,
    kernel: int = 9,
) -> int:
    """Right as it stands: the area falls with fold^2, the ends' channels grow with fold^2, a kernel has 9 entries."""
    places = height * width // fold**area
    outer = channels * fold**ends
    return places * kernel * (outer * hidden + layers * hidden**2 + hidden * outer)


def _multiply_adds_inputs(generator: Generator) -> tuple[int, int, int, int, int, int]:
    hidden, layers = (int(torch.randint(*span, (), generator=generator)) for span in ((16, 64), (2, 9)))
    return 32, 48, 3, (2, 4, 8, 2)[generator.initial_seed() % 4], hidden, layers


def _costs(**options) -> Callable:
    return lambda height, width, channels, fold, hidden, layers: _multiply_adds(
        height, width, channels, fold, hidden, layers, **options
    )


# 11.8: where the error lies.


def _shares(parts: list[Tensor]) -> Tensor:
    values = torch.stack(parts)
    return values / values.sum()


def _by_band(sr: Tensor, hr: Tensor, levels: int) -> list[Tensor]:
    return list(Wavelet(levels).split(sr - hr).values())


def _error_by_band(sr: Tensor, hr: Tensor, levels: int) -> Tensor:
    return _shares([band.square().sum() for band in _by_band(sr, hr, levels)])


def _error_by_band_inputs(generator: Generator) -> tuple[Tensor, Tensor, int]:
    hr = _uniform(generator, 2, 3, 8, 16)
    return 0.7 * hr + 0.3 * _uniform(generator, 2, 3, 8, 16), hr, 1 + generator.initial_seed() % 3


def _difference_of_energies(sr: Tensor, hr: Tensor, levels: int) -> Tensor:
    a, b = (Wavelet(levels).split(image).values() for image in (sr, hr))
    return _shares([(x.square().sum() - y.square().sum()).abs() for x, y in zip(a, b, strict=True)])


def _relative(sr: Tensor, hr: Tensor, levels: int) -> Tensor:
    bands = zip(_by_band(sr, hr, levels), Wavelet(levels).split(hr).values(), strict=True)
    return _shares([error.square().sum() / band.square().sum() for error, band in bands])


CHAPTER = [
    Exercise(
        "11.1",
        "one level of the orthonormal Haar transform",
        reference=lambda z: _haar(z),
        inputs=lambda generator: (_normal(generator, 2, 3, 6, 8),),
        mistakes=[
            Mistake(
                "you averaged the four pixels",
                lambda z: _haar(z, size=4.0),
                "Averages shrink white noise to a quarter of its variance; divide by 2, so that lengths are kept.",
            ),
            Mistake(
                "you divided by sqrt(2)",
                lambda z: _haar(z, size=math.sqrt(2)),
                "One direction needs sqrt(2); a block has two directions, so the factor comes twice.",
            ),
            Mistake(
                "you swapped H and V",
                lambda z: tuple(_haar(z)[i] for i in (0, 2, 1, 3)),
                "H is the top row minus the bottom row, which answers to horizontal edges (PyWavelets' cH).",
            ),
            Mistake(
                "you cut the image into quadrants",
                lambda z: _haar(z, corners=_quadrants),
                "The four pixels of a block are neighbours: take every other row and every other column.",
            ),
            Mistake(
                "your details have the opposite sign",
                lambda z: tuple(sign * band for sign, band in zip((1, -1, -1, 1), _haar(z), strict=True)),
                "Top minus bottom and left minus right; with other signs another program's bands join to a mirrored block.",
            ),
        ],
    ),
    Exercise(
        "11.2",
        "how far the bands of an image reach",
        reference=_reach,
        inputs=_reach_inputs,
        mistakes=[
            Mistake(
                "you gave LL the range of the pixels",
                lambda levels, low, high: (low, high, (high - low) / 2),
                "That is the range of averages; the orthonormal LL is the sum of four pixels, divided by 2.",
            ),
            Mistake(
                "you let the range grow by sqrt(2) a level",
                lambda levels, low, high: (
                    2 ** (levels / 2) * low,
                    2 ** (levels / 2) * high,
                    2 ** (levels / 2 - 1) * (high - low),
                ),
                "A level works in two directions, with sqrt(2) for each.",
            ),
            Mistake(
                "you let the range grow by 4 a level",
                lambda levels, low, high: (4.0**levels * low, 4.0**levels * high, 4.0**levels * (high - low) / 2),
                "Four pixels are added and the sum is divided by 2.",
            ),
            Mistake(
                "you gave the details the whole range of LL",
                lambda levels, low, high: (
                    2.0**levels * low,
                    2.0**levels * high,
                    2.0**levels * (high - low),
                ),
                "Two entries are added and two subtracted: the largest is (high + high - low - low) / 2 of the level above.",
            ),
            Mistake(
                "you counted a level too few",
                lambda levels, low, high: _reach(levels - 1, low, high),
                "Level 1 already doubles: four pixels of value 1 give LL = 2.",
            ),
        ],
    ),
    Exercise(
        "11.3",
        "a residual, there and back",
        reference=_there_and_back,
        inputs=_there_and_back_inputs,
        mistakes=[
            Mistake(
                "you flipped the sign on the way in",
                lambda hr, p, s, z: _there_and_back(hr, p, s, z, inwards=-1.0),
                "What is added back must be what was taken away: hr - prediction in, prediction + state out.",
            ),
            Mistake(
                "you flipped the sign on the way out",
                lambda hr, p, s, z: _there_and_back(hr, p, s, z, outwards=-1.0),
                "Subtracting the sample paints every detail in negative; the residual is what the prediction lacks.",
            ),
            Mistake(
                "you flipped the sign both times",
                lambda hr, p, s, z: _there_and_back(hr, p, s, z, -1.0, -1.0),
                "That is consistent in itself (ResShift writes x - y), but weights trained with hr - prediction would fail.",
            ),
            Mistake(
                "you multiplied by the spread on the way in and divided on the way out",
                lambda hr, p, s, z: ((hr - p) * s, p + z / s),
                "The state should have variance 1: divide what is about as large as the spread by the spread.",
            ),
            Mistake(
                "you forgot the spread on the way out",
                lambda hr, p, s, z: (_there_and_back(hr, p, s, z)[0], p + z),
                "The sample is in units of the spread; multiply before you add it.",
            ),
            Mistake(
                "you clipped the state to [-1, 1]",
                lambda hr, p, s, z: (
                    _there_and_back(hr, p, s, z)[0].clamp(-1, 1),
                    _there_and_back(hr, p, s, z.clamp(-1, 1))[1],
                ),
                "A state of variance 1 exceeds 1 about a third of the time; nothing but an image has these bounds.",
            ),
        ],
    ),
    Exercise(
        "11.4",
        "the factor that gives latents unit variance",
        reference=_factor,
        inputs=_factor_inputs,
        mistakes=[
            Mistake(
                "you measured every image alone",
                lambda batches: 1 / torch.cat([batch.flatten(1).std(1) for batch in batches]).mean(),
                "The differences between images count: a bright and a dark image, both flat, are not of variance 0 together.",
            ),
            Mistake(
                "you averaged the batches' standard deviations",
                lambda batches: 1 / torch.stack([batch.std() for batch in batches]).mean(),
                "Batches have different sizes and means; pool their sums and their squares, or put all values together.",
            ),
            Mistake(
                "you used the first batch only",
                lambda batches: _factor(batches[:1]),
                "A few images are a poor sample of latents; the factor is fixed for ever, so measure it on many.",
            ),
            Mistake(
                "you returned the standard deviation",
                lambda batches: 1 / _factor(batches),
                "The latents are to be multiplied by the answer.",
            ),
            Mistake(
                "you took the root mean square",
                lambda batches: torch.cat([batch.flatten() for batch in batches]).square().mean().rsqrt(),
                "The standard deviation is taken around the mean; these latents are not centred.",
            ),
            Mistake(
                "you divided by the variance",
                lambda batches: _factor(batches) ** 2,
                "Multiplying values by a factor multiplies their variance by its square.",
            ),
        ],
        rtol=1e-3,
    ),
    Exercise(
        "11.5",
        "the ceiling that an autoencoder sets",
        reference=_ceiling,
        inputs=_ceiling_inputs,
        mistakes=[
            Mistake(
                "you did not divide by the factor on the way back",
                lambda hr, e, d, f: _decibels(_round_trip(hr, e, d, f, back=0.0), hr),
                "The decoder expects what the encoder made; with a factor below 1 it paints grey.",
            ),
            Mistake(
                "you multiplied by the factor both times",
                lambda hr, e, d, f: _decibels(_round_trip(hr, e, d, f, back=1.0), hr),
                "Multiply on the way in, divide on the way out.",
            ),
            Mistake(
                "you compared states",
                lambda hr, e, d, f: _decibels(d(e(2 * hr - 1)), 2 * hr - 1),
                "From -1 to 1 errors are twice as large, 6 dB; compare images, or take 2 as the peak.",
            ),
            Mistake(
                "you encoded the image without making it a state",
                lambda hr, e, d, f: _decibels(d(e(hr)), hr),
                "The autoencoder was made for states in [-1, 1].",
            ),
            Mistake(
                "you averaged the squared errors of all images",
                lambda hr, e, d, f: _decibels(_round_trip(hr, e, d, f).reshape(1, -1), hr.reshape(1, -1)).expand(
                    len(hr)
                ),
                "Each image has its own ceiling, as it has its own PSNR.",
            ),
        ],
    ),
    Exercise(
        "11.6",
        "gradients through a vector quantiser",
        reference=lambda u, codebook, pull, weight: _quantised(u, codebook, pull, weight),
        inputs=_quantised_inputs,
        judge=_as_autograd_does,
        mistakes=[
            Mistake(
                "the decoder's gradient never reaches the encoder",
                _quantised_mistake(through=0.0),
                "Straight through: on the way back the quantiser is an identity, so `pull` arrives at u unchanged.",
            ),
            Mistake(
                "the decoder's gradient moves the codebook",
                _quantised_mistake(to_codes=1.0),
                "It goes straight through to u; the codebook moves only towards the vectors that chose it.",
            ),
            Mistake(
                "you forgot the commitment",
                _quantised_mistake(commit=0.0),
                "weight * |u - sg[e]|^2 holds the encoder near the entries; its gradient belongs to u.",
            ),
            Mistake(
                "you forgot to stop the gradients of the two loss terms",
                _quantised_mistake(shared=True),
                "The first term moves only the codebook, the second, with its weight, only u.",
            ),
            Mistake(
                "you chose entries by the largest inner product",
                _quantised_mistake(choose=lambda u, codebook: (u @ codebook.T).argmax(1)),
                "Long entries win every inner product; the nearest one has the smallest distance.",
            ),
        ],
    ),
    Exercise(
        "11.7",
        "what a network costs on a folded grid",
        reference=lambda *arguments: _multiply_adds(*arguments),
        inputs=_multiply_adds_inputs,
        mistakes=[
            Mistake(
                "you let the area shrink by the fold only",
                _costs(area=1),
                "Height and width both shrink, so there are fold^2 times fewer places.",
            ),
            Mistake(
                "you forgot that folding makes channels",
                _costs(ends=0),
                "Nothing is lost: the first and the last convolution see channels * fold^2 channels.",
            ),
            Mistake(
                "you kept the full area",
                _costs(area=0),
                "Every convolution runs on the folded grid.",
            ),
            Mistake(
                "you forgot the kernel",
                _costs(kernel=1),
                "Each output number is a sum over 3 x 3 places and all input channels.",
            ),
            Mistake(
                "you left out the last convolution",
                lambda h, w, c, fold, hidden, layers: (
                    _multiply_adds(h, w, c, fold, hidden, layers) - h * w * 9 * hidden * c
                ),
                "The answer has as many channels as the folded input: one more convolution, hidden to channels * fold^2.",
            ),
        ],
        rtol=1e-9,
    ),
    Exercise(
        "11.8",
        "the error of an image, band by band",
        reference=_error_by_band,
        inputs=_error_by_band_inputs,
        mistakes=[
            Mistake(
                "you averaged within each band",
                lambda sr, hr, levels: _shares([band.square().mean() for band in _by_band(sr, hr, levels)]),
                "Fine bands have more entries; only sums of squares add up to the error of the image.",
            ),
            Mistake(
                "you subtracted energies",
                _difference_of_energies,
                "Two bands can have equal energy and be quite different: split the difference of the images.",
            ),
            Mistake(
                "you compared each band with its own energy",
                _relative,
                "A relative error says how wrong a band is, not how much of the whole error it holds.",
            ),
            Mistake(
                "you added magnitudes",
                lambda sr, hr, levels: _shares([band.abs().sum() for band in _by_band(sr, hr, levels)]),
                "Parseval holds for squares.",
            ),
            Mistake(
                "you took the root of each sum",
                lambda sr, hr, levels: (
                    _error_by_band(sr, hr, levels).sqrt() / _error_by_band(sr, hr, levels).sqrt().sum()
                ),
                "Root mean squares do not add up to the whole; squares do.",
            ),
        ],
    ),
]
