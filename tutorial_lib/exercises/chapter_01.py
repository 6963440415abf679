"""Checks for the exercises of chapter 01: degradation, pseudo-inverse, null space, regularisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..degradations import degrade, gaussian_kernel
from ..images import crop_to_multiple, resize, to_uint8
from ..operators import Bicubic, Blur, LinearOperator
from . import Exercise, Mistake, difference

# 01.1


def _round(image: Tensor) -> Tensor:
    return to_uint8(image).to(image) / 255


def _make_pair(image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    hr = crop_to_multiple(image, scale)
    return _round(resize(hr, 1 / scale)), hr


def _centre_crop(image: Tensor, scale: int) -> Tensor:
    top, left = image.shape[-2] % scale // 2, image.shape[-1] % scale // 2
    return crop_to_multiple(image[..., top:, left:], scale)


def _aliased_pair(image: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    hr = crop_to_multiple(image, scale)
    small = F.interpolate(hr, (hr.shape[-2] // scale, hr.shape[-1] // scale), mode="bicubic")
    return _round(small), hr


def _photo_like(generator: Generator, height: int, width: int, channels: int = 3) -> Tensor:
    coarse = torch.rand(1, channels, 8, 8, generator=generator)
    fine = 0.3 * torch.rand(1, channels, height, width, generator=generator)
    return 0.7 * F.interpolate(coarse, (height, width), mode="bilinear") + fine


def _odd_photo(generator: Generator) -> tuple[Tensor, int]:
    """A photo of which one side is a multiple of the scale and the other is not; which one is drawn."""
    scale = (3, 4)[int(torch.randint(2, (), generator=generator))]
    sides = [8 * scale, 10 * scale + scale - 1]
    if torch.rand((), generator=generator) < 0.5:
        sides.reverse()
    return _photo_like(generator, *sides), scale


# 01.2


def _blur_and_sample(hr: Tensor, kernel: Tensor, scale: int) -> Tensor:
    return degrade(hr, kernel, scale=scale, downsample="decimate")


def _zero_border(hr: Tensor, kernel: Tensor, scale: int) -> Tensor:
    size, channels = len(kernel), hr.shape[1]
    weights = kernel.flip(0, 1).expand(channels, 1, size, size)
    return F.conv2d(hr, weights, padding=size // 2, groups=channels)[..., ::scale, ::scale]


def _random_kernel(generator: Generator) -> tuple[Tensor, Tensor, int]:
    kernel = torch.rand(5, 5, generator=generator)
    return _photo_like(generator, 24, 36), kernel / kernel.sum(), 3


# 01.3


def _pinv(matrix: Tensor) -> Tensor:
    return matrix.T @ torch.linalg.inv(matrix @ matrix.T)


def _wide_matrix(generator: Generator) -> tuple[Tensor]:
    return (torch.randn(3, 7, generator=generator, dtype=torch.float64),)


def _for_tall_matrices(matrix: Tensor) -> Tensor:
    """inv(A^T A) A^T, which rounding turns into garbage, or into an error, where A^T A has no inverse."""
    try:
        return torch.linalg.inv(matrix.T @ matrix) @ matrix.T
    except torch.linalg.LinAlgError:
        return torch.full_like(matrix.T, torch.nan)


def _penrose(output: Tensor, matrix: Tensor) -> str | None:
    """A A+ = I and A+ A symmetric: together they hold for the pseudo-inverse alone, when the rows are independent."""
    inverse, (rows, columns) = torch.as_tensor(output).to(matrix), matrix.shape
    if inverse.shape != (columns, rows):
        return f"expected a tensor of shape {(columns, rows)}, but one of shape {tuple(inverse.shape)} came."
    if not torch.allclose(matrix @ inverse, torch.eye(rows).to(matrix), rtol=1e-6, atol=1e-8):
        return "A times your answer is not the identity, so A A+ A is not A."
    seen = inverse @ matrix
    if not torch.allclose(seen, seen.T, rtol=1e-6, atol=1e-8):
        return "your y explains x but is not the shortest one: it has a part in the null space."
    return None


# 01.4


def _impostor(operator: LinearOperator, y: Tensor, w: Tensor, amount: float) -> Tensor:
    return y + amount * (w - operator.pinv(operator(w)))


def _same_measurement(output: Tensor, operator: LinearOperator, y: Tensor, *_) -> str | None:
    return None if (operator(output) - operator(y)).abs().max() < 1e-4 else "A maps your image to another measurement."


def _two_photos(generator: Generator) -> tuple[LinearOperator, Tensor, Tensor, float]:
    amount = 0.2 + 0.7 * torch.rand((), generator=generator).item()
    return Bicubic(4), _photo_like(generator, 24, 32), _photo_like(generator, 24, 32), amount


# 01.5


def _make_consistent(operator: LinearOperator, sr: Tensor, x: Tensor) -> Tensor:
    return sr + operator.pinv(x - operator(sr))


def _explains(output: Tensor, operator: LinearOperator, sr: Tensor, x: Tensor) -> str | None:
    return None if (operator(output) - x).abs().max() < 1e-4 else "A maps your answer to something other than x."


def _wrong_answer(generator: Generator) -> tuple[LinearOperator, Tensor, Tensor]:
    return Bicubic(4), _photo_like(generator, 24, 32), _photo_like(generator, 6, 8)


# 01.6


def _lost(s: Tensor, c: Tensor, rho: float) -> Tensor:
    return ((rho / (s**2 + rho)) ** 2 * c**2).sum()


def _amplified(s: Tensor, noise_std: float, rho: float) -> Tensor:
    return noise_std**2 * (s**2 / (s**2 + rho) ** 2).sum()


def _expected_error(s: Tensor, c: Tensor, noise_std: float, rho: float) -> tuple[Tensor, Tensor]:
    return _lost(s, c, rho), _amplified(s, noise_std, rho)


def _which_is_off(output: tuple, s: Tensor, c: Tensor, noise_std: float, rho: float) -> str | None:
    if not isinstance(output, tuple | list) or len(output) != 2:
        return "expected two numbers, (lost signal, amplified noise)."
    right = _expected_error(s, c, noise_std, rho)
    for name, value, wanted in zip(("lost signal (first)", "amplified noise (second)"), output, right, strict=True):
        if problem := difference(value, wanted, 1e-4, 1e-5):
            return f"{name}: {problem}"
    return None


def _spectrum(generator: Generator) -> tuple[Tensor, Tensor, float, float]:
    s = torch.rand(20, generator=generator, dtype=torch.float64) + 0.05
    c = 3 * torch.randn(20, generator=generator, dtype=torch.float64)
    noise_std, rho = (0.1 + 0.5 * torch.rand(2, generator=generator)).tolist()
    return s, c, noise_std, rho


# 01.7


def _residual(operator: LinearOperator, x: Tensor, rho: float) -> float:
    """The mean squared residual of the regularised answer, which grows with rho."""
    return (operator(operator.adjoint(operator.solve_data(x, rho))) - x).square().mean().item()


def _rho_where(operator: LinearOperator, x: Tensor, target: float) -> float:
    low, high = 1e-10, 1e4
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _residual(operator, x, middle) < target else (low, middle)
    return middle


def _choose_rho(operator: LinearOperator, x: Tensor, noise_std: float) -> float:
    return _rho_where(operator, x, noise_std**2)


def _noisy_blur(generator: Generator) -> tuple[LinearOperator, Tensor, float]:
    lens = Blur(gaussian_kernel(7, 1.0))
    noise_std = 0.02 + 0.03 * torch.rand((), generator=generator).item()
    blurred = lens(_photo_like(generator, 20, 24, channels=1).double())
    noise = torch.randn(blurred.shape, generator=generator, dtype=torch.float64)
    return lens, blurred + noise_std * noise, noise_std


CHAPTER = [
    Exercise(
        "01.1",
        "a pair for the classical benchmark",
        reference=_make_pair,
        inputs=_odd_photo,
        mistakes=[
            Mistake(
                "you did not crop the photo to a multiple of the scale",
                lambda image, scale: (_round(resize(image, 1 / scale)), image),
                "crop_to_multiple(image, scale) comes first, or HR and LR pixels do not line up.",
            ),
            Mistake(
                "you left out the rounding to 8 bits",
                lambda image, scale: (resize(_make_pair(image, scale)[1], 1 / scale), _make_pair(image, scale)[1]),
                "LR images are stored as files: to_uint8(lr).float() / 255.",
            ),
            Mistake(
                "you left out the division by 255",
                lambda image, scale: (255 * _make_pair(image, scale)[0], _make_pair(image, scale)[1]),
                "to_uint8 returns levels from 0 to 255; images here go from 0 to 1: to_uint8(lr).float() / 255.",
            ),
            Mistake(
                "you shrank without antialiasing",
                _aliased_pair,
                "F.interpolate leaves antialiasing out unless you ask for it; use images.resize(hr, 1 / scale).",
            ),
            Mistake(
                "you cropped around the centre",
                lambda image, scale: _make_pair(_centre_crop(image, scale), scale),
                "The convention is to cut at the bottom and at the right only.",
            ),
            Mistake(
                "you returned HR first",
                lambda image, scale: _make_pair(image, scale)[::-1],
                "The order asked for is (lr, hr).",
            ),
        ],
    ),
    Exercise(
        "01.2",
        "blur, then sample every s-th pixel",
        reference=_blur_and_sample,
        inputs=_random_kernel,
        mistakes=[
            Mistake(
                "you correlated instead of convolving",
                lambda hr, kernel, scale: _blur_and_sample(hr, kernel.flip(0, 1), scale),
                "F.conv2d does not turn the kernel around; convolution needs kernel.flip(0, 1).",
            ),
            Mistake(
                "you transposed the kernel",
                lambda hr, kernel, scale: _blur_and_sample(hr, kernel.T, scale),
                "The first index of the kernel runs down the rows, as in the image.",
            ),
            Mistake(
                "you sampled first and blurred the small image",
                lambda hr, kernel, scale: degrade(hr[..., ::scale, ::scale], kernel),
                "Blur acts on the HR image; sampling comes after it.",
            ),
            Mistake(
                "you padded the border with zeros",
                _zero_border,
                'The photo does not end in black: pad with F.pad(..., mode="reflect").',
            ),
            Mistake(
                "you took the middle pixel of each block",
                lambda hr, kernel, scale: degrade(hr, kernel)[..., scale // 2 :: scale, scale // 2 :: scale],
                "Here sampling starts at pixel 0: x[i, j] = blurred[s i, s j].",
            ),
        ],
    ),
    Exercise(
        "01.3",
        "the pseudo-inverse of a wide matrix",
        reference=_pinv,
        inputs=_wide_matrix,
        judge=_penrose,
        unique=False,
        mistakes=[
            Mistake(
                "you returned the transpose",
                lambda matrix: matrix.T,
                "The transpose undoes A only when A A^T is the identity.",
            ),
            Mistake(
                "you inverted A A^T and forgot to multiply by A^T",
                lambda matrix: torch.linalg.inv(matrix @ matrix.T),
                "The solution of A A^T w = x is w; the image is y = A^T w.",
            ),
            Mistake(
                "you inverted A^T A",
                _for_tall_matrices,
                "A wide matrix makes A^T A singular; inv(A^T A) A^T is for tall matrices, A^T inv(A A^T) for wide ones.",
            ),
            Mistake(
                "you divided the transpose by the squared lengths of the rows",
                lambda matrix: matrix.T / matrix.square().sum(1),
                "That is right only for rows at right angles to each other; A A^T has entries off its diagonal.",
            ),
        ],
    ),
    Exercise(
        "01.4",
        "another photo with the same measurement",
        reference=_impostor,
        inputs=_two_photos,
        judge=_same_measurement,
        mistakes=[
            Mistake(
                "you added all of w",
                lambda operator, y, w, amount: y + amount * w,
                "Only the null part of w is invisible to A: w - A+ A w.",
            ),
            Mistake(
                "you added the part of w that A sees",
                lambda operator, y, w, amount: y + amount * operator.pinv(operator(w)),
                "A+ A w is the range part; the null part is what is left when you take it away from w.",
            ),
            Mistake(
                "you used the adjoint for the pseudo-inverse",
                lambda operator, y, w, amount: y + amount * (w - operator.adjoint(operator(w))),
                "A^T A is no projection unless all singular values are 1.",
            ),
            Mistake(
                "you enlarged by bicubic interpolation for the pseudo-inverse",
                lambda operator, y, w, amount: y + amount * (w - resize(operator(w), 4)),
                "Bicubic up after bicubic down is no projection; use operator.pinv.",
            ),
            Mistake(
                "you clipped the result to [0, 1]",
                lambda operator, y, w, amount: _impostor(operator, y, w, amount).clamp(0, 1),
                "Clipping changes what A sees; leave values outside [0, 1] as they are.",
            ),
            Mistake(
                "you left out the amount",
                lambda operator, y, w, amount: _impostor(operator, y, w, 1.0),
                "The null part is to be multiplied by amount.",
            ),
        ],
    ),
    Exercise(
        "01.5",
        "any answer made consistent with x",
        reference=_make_consistent,
        inputs=_wrong_answer,
        judge=_explains,
        mistakes=[
            Mistake(
                "you corrected by the adjoint",
                lambda operator, sr, x: sr + operator.adjoint(x - operator(sr)),
                "One step along A^T only reduces the residual; A+ removes it.",
            ),
            Mistake(
                "you corrected by bicubic interpolation",
                lambda operator, sr, x: sr + resize(x - operator(sr), 4),
                "Enlarging by interpolation does not undo the shrinking; use operator.pinv.",
            ),
            Mistake(
                "your correction has the wrong sign",
                lambda operator, sr, x: sr - operator.pinv(x - operator(sr)),
                "What is missing in A sr is x - A sr, and it is added.",
            ),
            Mistake(
                "you threw the answer away",
                lambda operator, sr, x: operator.pinv(x),
                "A+ x explains x, but the null part of sr should stay.",
            ),
        ],
    ),
    Exercise(
        "01.6",
        "expected lost signal and amplified noise",
        reference=_expected_error,
        inputs=_spectrum,
        judge=_which_is_off,
        unique=False,
        mistakes=[
            Mistake(
                "you returned the amplified noise first",
                lambda *given: _expected_error(*given)[::-1],
                "The order asked for is (lost signal, amplified noise).",
            ),
            Mistake(
                "you used the noise's standard deviation where its variance belongs",
                lambda s, c, std, rho: (_lost(s, c, rho), std * _amplified(s, 1.0, rho)),
                "Independent errors add by their squares: noise_std**2.",
            ),
            Mistake(
                "you took the share that is kept for the share that is lost",
                lambda s, c, std, rho: (_lost(rho / s, c, rho), _amplified(s, std, rho)),
                "The answer keeps s^2 / (s^2 + rho) of c, so rho / (s^2 + rho) of it is lost.",
            ),
            Mistake(
                "you did not square the factors",
                lambda s, c, std, rho: ((rho / (s**2 + rho) * c**2).sum(), std**2 * (s / (s**2 + rho)).sum()),
                "A factor f on a coefficient is a factor f^2 on its squared error.",
            ),
            Mistake(
                "the amplified noise is right, but the factor of the lost signal is not squared",
                lambda s, c, std, rho: ((rho / (s**2 + rho) * c**2).sum(), _amplified(s, std, rho)),
                "What is lost of c is rho / (s^2 + rho) times c, and its error is the square of all that.",
            ),
            Mistake(
                "the lost signal is right, but the factor of the amplified noise is not squared",
                lambda s, c, std, rho: (_lost(s, c, rho), std**2 * (s / (s**2 + rho)).sum()),
                "Noise of variance sigma^2 times a factor f has the variance f^2 sigma^2.",
            ),
            Mistake(
                "the lost signal is right, but s in the numerator of the amplified noise is not squared",
                lambda s, c, std, rho: (_lost(s, c, rho), std**2 * (s / (s**2 + rho) ** 2).sum()),
                "The factor s / (s^2 + rho) is squared as a whole.",
            ),
            Mistake(
                "you did not square s in the denominators",
                lambda s, c, std, rho: (_lost(s.sqrt(), c, rho), std**2 * (s**2 / (s + rho) ** 2).sum()),
                "A^T A has the eigenvalues s^2, so the denominator is s^2 + rho.",
            ),
            Mistake(
                "the lost signal is right, but rho is missing in the amplified noise",
                lambda s, c, std, rho: (_lost(s, c, rho), _amplified(s, std, 0.0)),
                "Noise is multiplied by s / (s^2 + rho), no longer by 1 / s.",
            ),
        ],
    ),
    Exercise(
        "01.7",
        "rho chosen by the noise level alone",
        reference=_choose_rho,
        inputs=_noisy_blur,
        rtol=0.02,
        atol=0.0,
        mistakes=[
            Mistake(
                "you matched the mean squared residual to the standard deviation",
                lambda operator, x, noise_std: _rho_where(operator, x, noise_std),
                "A squared residual is compared with a variance: noise_std**2.",
            ),
            Mistake(
                "you matched the sum of the squared residuals to the variance of one pixel",
                lambda operator, x, noise_std: _rho_where(operator, x, noise_std**2 / x.numel()),
                "Take the mean over pixels, or compare the sum with N noise_std**2.",
            ),
            Mistake(
                "you returned the smallest rho, which explains x best",
                lambda operator, x, noise_std: 1e-10,
                "A residual below the noise level means that the answer explains the noise as well.",
            ),
            Mistake(
                "you returned the noise's variance",
                lambda operator, x, noise_std: noise_std**2,
                "That would be right if the image had variance 1 in every coefficient; here only the residual tells.",
            ),
        ],
    ),
]
