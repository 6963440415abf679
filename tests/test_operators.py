"""Every operator against a matrix built in another way: loops, np.roll, MATLAB's rule, PyWavelets, numpy's SVD."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import pywt
import scipy.ndimage
import scipy.signal
import torch

from tutorial_lib.images import resize, resize_matrix
from tutorial_lib.operators import (
    AveragePool,
    Bicubic,
    Blur,
    Decimate,
    DecimatedBlur,
    Dense,
    Grayscale,
    Haar,
    Identity,
    LinearOperator,
    Mask,
)

H, W = 8, 12
CHANNELS = (1, 2, 3, 5)
RNG = np.random.default_rng(0)
KERNELS = {f"{kh}x{kw}": RNG.random((kh, kw)) + 3 * (RNG.random((kh, kw)) > 0.8) for kh, kw in [(3, 3), (5, 3), (2, 4)]}
for kernel in KERNELS.values():
    kernel[0, 0] += 2 * kernel.sum()  # a dominant tap far from the centre: no symmetry, no zero in the spectrum
    kernel /= kernel.sum()
PIXELS = (RNG.random((H, W)) > 0.4).astype(float)


# ---- references, none of which calls the package ----


def per_channel(plane, channels):
    return np.kron(np.eye(channels), plane)


def matlab_matrix(size, scale):
    """imresize(., 1/scale): the contributions table of the MATLAB source, with its one-based indices."""

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    matrix = np.zeros((size // scale, size))
    mirrored = [*range(size), *reversed(range(size))]
    for out in range(1, size // scale + 1):
        u = out * scale + 0.5 * (1 - scale)
        left = math.floor(u - 4 * scale / 2)
        taps = range(left, left + 4 * scale + 2)
        weights = np.array([cubic((u - tap) / scale) / scale for tap in taps])
        for tap, weight in zip(taps, weights / weights.sum(), strict=True):
            matrix[out - 1, mirrored[(tap - 1) % (2 * size)]] += weight
    return matrix


def pool_matrix(scale, height=H, width=W):
    matrix = np.zeros((height // scale * (width // scale), height * width))
    for i in range(height):
        for j in range(width):
            matrix[i // scale * (width // scale) + j // scale, i * width + j] = 1 / scale**2
    return matrix


def decimation_matrix(scale, height=H, width=W):
    kept = [i * width + j for i in range(0, height, scale) for j in range(0, width, scale)]
    return np.eye(height * width)[kept]


def channel_masks(channels):
    """A mask of its own for every channel; one block of 2 x 2 is hidden in all of them."""
    masks = torch.stack([torch.tensor(PIXELS > 0).roll(i, 1) for i in range(channels)])
    masks[:, :2, :2] = False
    return masks


def columns(function, height=H, width=W):
    """The matrix of a function of one plane, column by column."""
    planes = np.eye(height * width).reshape(-1, height, width)
    return np.stack([function(plane).ravel() for plane in planes], 1)


def roll_matrix(kernel, height=H, width=W):
    kh, kw = kernel.shape

    def convolve(plane):
        taps = [(a, b) for a in range(kh) for b in range(kw)]
        return sum(kernel[a, b] * np.roll(plane, (a - kh // 2, b - kw // 2), (0, 1)) for a, b in taps)

    return columns(convolve, height, width)


def haar_matrix(levels, height=H, width=W):
    def transform(plane):
        return pywt.coeffs_to_array(pywt.wavedec2(plane, "haar", level=levels))[0]

    return columns(transform, height, width)


def grey_matrix(channels, pixels=H * W):
    return np.kron(np.full((1, channels), 1 / channels), np.eye(pixels))


def dense_matrix(channels):
    return np.random.default_rng(channels).standard_normal((40, channels * H * W))


def low_rank(channels):
    rng = np.random.default_rng(channels)
    return rng.standard_normal((30, 6)) @ rng.standard_normal((6, channels * H * W))


# name -> (operator for C channels, its matrix for C channels)
SINGLE = {
    "identity": (lambda c: Identity(), lambda c: np.eye(c * H * W)),
    "bicubic2": (lambda c: Bicubic(2), lambda c: per_channel(np.kron(matlab_matrix(H, 2), matlab_matrix(W, 2)), c)),
    "bicubic4": (lambda c: Bicubic(4), lambda c: per_channel(np.kron(matlab_matrix(H, 4), matlab_matrix(W, 4)), c)),
    "pool2": (lambda c: AveragePool(2), lambda c: per_channel(pool_matrix(2), c)),
    "pool4": (lambda c: AveragePool(4), lambda c: per_channel(pool_matrix(4), c)),
    "mask_plane": (lambda c: Mask(torch.tensor(PIXELS)), lambda c: per_channel(np.diag(PIXELS.ravel()), c)),
    "mask_channels": (
        lambda c: Mask(torch.tensor(PIXELS > 0).roll(1, 1)[None] & (torch.arange(c) != 1)[:, None, None]),
        lambda c: np.diag(np.concatenate([np.roll(PIXELS, 1, 1).ravel() * (i != 1) for i in range(c)])),
    ),
    "grey": (lambda c: Grayscale(), lambda c: grey_matrix(c)),
    "decimate2": (lambda c: Decimate(2), lambda c: per_channel(decimation_matrix(2), c)),
    "haar1": (lambda c: Haar(), lambda c: per_channel(haar_matrix(1), c)),
    "haar2": (lambda c: Haar(2), lambda c: per_channel(haar_matrix(2), c)),
    "dense": (lambda c: Dense(torch.tensor(dense_matrix(c)), (c, H, W)), dense_matrix),
    "dense_low_rank": (lambda c: Dense(torch.tensor(low_rank(c)), (c, H, W)), low_rank),
}
for name, kernel in KERNELS.items():
    SINGLE[f"blur{name}"] = (
        lambda c, kernel=kernel: Blur(torch.tensor(kernel)),
        lambda c, kernel=kernel: per_channel(roll_matrix(kernel), c),
    )
K33, K53, K24 = KERNELS.values()
SMALL = np.random.default_rng(7).standard_normal((5, 40))
HALF = PIXELS[: H // 2, : W // 2]


def blur_of(kernel):
    return Blur(torch.tensor(kernel))


# Compositions: closed forms first, conjugate gradients after.
CLOSED = {
    "mask@grey@pool": (
        lambda c: Mask(torch.tensor(HALF)) @ Grayscale() @ AveragePool(2),
        lambda c: np.diag(HALF.ravel()) @ grey_matrix(c, H * W // 4) @ per_channel(pool_matrix(2), c),
    ),
    "pool@pool": (
        lambda c: AveragePool(2) @ AveragePool(2),
        lambda c: per_channel(pool_matrix(2, H // 2, W // 2) @ pool_matrix(2), c),
    ),
    "grey@bicubic": (
        lambda c: Grayscale() @ Bicubic(2),
        lambda c: grey_matrix(c, H * W // 4) @ SINGLE["bicubic2"][1](c),
    ),
    "bicubic@grey": (
        lambda c: Bicubic(2) @ Grayscale(c),
        lambda c: SINGLE["bicubic2"][1](1) @ grey_matrix(c),
    ),
    "grey@blur": (lambda c: Grayscale() @ blur_of(K53), lambda c: grey_matrix(c) @ per_channel(roll_matrix(K53), c)),
    "blur@blur": (
        lambda c: blur_of(K53) @ blur_of(K24),
        lambda c: per_channel(roll_matrix(K53) @ roll_matrix(K24), c),
    ),
    "even@even": (
        lambda c: blur_of(K24) @ blur_of(K24),
        lambda c: per_channel(roll_matrix(K24) @ roll_matrix(K24), c),
    ),
    "haar@blur": (lambda c: Haar(2) @ blur_of(K33), lambda c: per_channel(haar_matrix(2) @ roll_matrix(K33), c)),
    "bicubic@haar": (
        lambda c: Bicubic(2) @ Haar(1),
        lambda c: SINGLE["bicubic2"][1](c) @ per_channel(haar_matrix(1), c),
    ),
    "mask@identity": (lambda c: SINGLE["mask_plane"][0](c) @ Identity(), SINGLE["mask_plane"][1]),
    "dense@dense": (lambda c: Dense(torch.tensor(SMALL)) @ SINGLE["dense"][0](c), lambda c: SMALL @ dense_matrix(c)),
    "dense@pool": (
        lambda c: Dense(torch.tensor(dense_matrix(c)[:, : c * 24]), (c, H // 2, W // 2)) @ AveragePool(2),
        lambda c: dense_matrix(c)[:, : c * 24] @ per_channel(pool_matrix(2), c),
    ),
    "pool@mask": (
        lambda c: AveragePool(2) @ Mask(torch.tensor(PIXELS)),
        lambda c: per_channel(pool_matrix(2) @ np.diag(PIXELS.ravel()), c),
    ),
    "pool@grey@mask": (
        lambda c: AveragePool(2) @ Grayscale(c) @ Mask(channel_masks(c)),
        lambda c: pool_matrix(2) @ grey_matrix(c) @ np.diag(channel_masks(c).numpy().ravel()),
    ),
    "decimate@mask": (
        lambda c: Decimate(2) @ Mask(torch.tensor(PIXELS)),
        lambda c: per_channel(decimation_matrix(2) @ np.diag(PIXELS.ravel()), c),
    ),
    "decimate@blur": (
        lambda c: Decimate(2) @ blur_of(K53),
        lambda c: per_channel(decimation_matrix(2) @ roll_matrix(K53), c),
    ),
    "decimate4@blur@blur": (
        lambda c: Decimate(4) @ blur_of(K53) @ blur_of(K24),
        lambda c: per_channel(decimation_matrix(4) @ roll_matrix(K53) @ roll_matrix(K24), c),
    ),
    "pool@blur": (
        lambda c: AveragePool(2) @ blur_of(K24),
        lambda c: per_channel(pool_matrix(2) @ roll_matrix(K24), c),
    ),
    "pool4@blur": (
        lambda c: AveragePool(4) @ blur_of(K53),
        lambda c: per_channel(pool_matrix(4) @ roll_matrix(K53), c),
    ),
    "grey@decimate@blur": (
        lambda c: Grayscale() @ (Decimate(2) @ blur_of(K33)),
        lambda c: grey_matrix(c, H * W // 4) @ per_channel(decimation_matrix(2) @ roll_matrix(K33), c),
    ),
}
ITERATED = {
    "bicubic@blur": (
        lambda c: Bicubic(2) @ blur_of(K33),
        lambda c: SINGLE["bicubic2"][1](c) @ per_channel(roll_matrix(K33), c),
    ),
    "mask@bicubic": (
        lambda c: Mask(torch.tensor(HALF)) @ Bicubic(2),
        lambda c: per_channel(np.diag(HALF.ravel()), c) @ SINGLE["bicubic2"][1](c),
    ),
}
ALL = SINGLE | CLOSED | ITERATED
every_operator = pytest.mark.parametrize("name", ALL)
every_channels = pytest.mark.parametrize("channels", CHANNELS)


# ---- what is checked, as functions, so that mutants can be put through them ----


def matrix_of(function, shape, dtype=torch.float64):
    """The matrix of a linear function of tensors (B, *shape)."""
    out = function(torch.eye(math.prod(shape), dtype=dtype).reshape(-1, *shape))
    assert out.dtype == dtype
    return out.flatten(1).T.numpy()


def measurement_shape(operator, shape):
    return operator(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:]


def close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


def check_matrix(operator, expected, shape):
    close(operator.dense(shape).numpy(), expected, 1e-12)


def check_adjoint(operator, shape):
    a = matrix_of(operator, shape)
    close(matrix_of(operator.adjoint, measurement_shape(operator, shape)), a.T, 1e-12)


def check_moore_penrose(operator, shape, dtype=torch.float64, tolerance=1e-9):
    a = matrix_of(operator, shape, dtype)
    p = matrix_of(operator.pinv, measurement_shape(operator, shape), dtype)
    close(a @ p @ a, a, tolerance)
    close(p @ a @ p, p, tolerance)
    close(a @ p, (a @ p).T, tolerance)
    close(p @ a, (p @ a).T, tolerance)


# ---- tests ----


@every_channels
@every_operator
def test_matrix_and_adjoint(name, channels):
    make, reference = ALL[name]
    check_matrix(make(channels), reference(channels), (channels, H, W))
    check_adjoint(make(channels), (channels, H, W))


@every_channels
@every_operator
def test_pseudo_inverse(name, channels):
    make, reference = ALL[name]
    operator, shape = make(channels), (channels, H, W)
    if channels == 1 or name not in ITERATED:
        check_moore_penrose(operator, shape)
        back = matrix_of(operator.pinv, measurement_shape(operator, shape))
        close(back, np.linalg.pinv(reference(channels), rcond=1e-12), 1e-9)
    else:  # conjugate gradients on a few vectors instead of a whole basis
        x = torch.randn(3, *measurement_shape(operator, shape), generator=torch.Generator().manual_seed(0)).double()
        operator(torch.zeros(1, *shape))
        expected = np.linalg.pinv(reference(channels), rcond=1e-12) @ x.flatten(1).numpy().T
        close(operator.pinv(x).flatten(1).numpy().T, expected, 1e-9)


@pytest.mark.parametrize(
    "name", ["identity", "bicubic2", "bicubic4", "pool4", "mask_channels", "grey", "haar2", "blur5x3"]
)
def test_pseudo_inverse_in_float32(name):
    check_moore_penrose(SINGLE[name][0](3), (3, H, W), torch.float32, 1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@every_channels
@every_operator
def test_solves(name, channels, dtype, tolerance):
    make, reference = ALL[name]
    operator, a = make(channels), reference(channels)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, channels, H, W, generator=generator).to(dtype)
    x = torch.randn(operator(z).shape, generator=generator).to(dtype)
    for rho in (0.3, torch.tensor(2.0, dtype=torch.float64)):
        small, large = operator.solve(z, rho), operator.solve_data(x, rho)
        assert small.shape == z.shape and large.shape == x.shape and small.dtype == large.dtype == dtype
        expected = np.linalg.solve(a.T @ a + float(rho) * np.eye(a.shape[1]), z.flatten(1).double().numpy().T)
        close(small.flatten(1).numpy().T, expected, tolerance)
        expected = np.linalg.solve(a @ a.T + float(rho) * np.eye(a.shape[0]), x.flatten(1).double().numpy().T)
        close(large.flatten(1).numpy().T, expected, tolerance)
        damped = operator.damped_pinv(x, rho)
        assert damped.shape == z.shape and damped.dtype == dtype
        close(damped.flatten(1).numpy().T, a.T @ expected, tolerance)


@pytest.mark.parametrize("operator, size", [
    (Dense(torch.diag(torch.tensor([1.0, 1e-2, 1e-5, 1e-7, 1e-13]).double())), (5,)),
    (blur_of(np.outer(*[np.exp(-(np.arange(-12, 13) ** 2) / 18.0)] * 2) / 18), (2, 24, 32)),
    (Decimate(2) @ blur_of(np.outer(*[np.exp(-(np.arange(-12, 13) ** 2) / 18.0)] * 2) / 18), (2, 24, 32)),
], ids=["dense", "blur", "decimated blur"])  # fmt: skip
def test_what_is_lost_in_rounding_counts_as_zero(operator, size):
    """32 epsilons of the input's dtype, relative to the largest: those singular values are gone, all others are there."""
    exact = np.linalg.svd(operator.dense(size).numpy(), compute_uv=False)
    for dtype, eps in ((torch.float32, 2.0**-23), (torch.float64, 2.0**-52)):
        kept = operator.svd(torch.zeros(1, *size, dtype=dtype)).singular_values
        assert len(kept) == (exact > 32 * eps * exact[0]).sum()
        assert (exact > 32 * 2.0**-23 * exact[0]).sum() < (exact > 32 * 2.0**-52 * exact[0]).sum()


def test_what_no_state_explains_is_not_blown_up():
    """Noise at frequencies that a box erases, rho small: A^T of (A A^T + rho I)^-1 x, each in float32, is off by hundreds."""
    operator = blur_of(np.full((1, 4), 0.25))
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    exact, rho = operator.damped_pinv(x.double(), 1e-10), 1e-10
    close(operator.adjoint(operator.solve_data(x.double(), rho)).numpy(), exact.numpy(), 1e-5)
    close(operator.damped_pinv(x, rho).numpy(), exact.numpy(), 1e-5)
    assert (operator.adjoint(operator.solve_data(x, rho)) - exact).abs().max() > 10


@every_channels
@pytest.mark.parametrize("name", SINGLE | CLOSED)
def test_svd(name, channels):
    make, reference = ALL[name]
    operator, shape = make(channels), (channels, H, W)
    svd = operator.svd(torch.zeros(1, *shape, dtype=torch.float64))
    rank = len(svd.singular_values)
    expected = np.linalg.svd(reference(channels), compute_uv=False)
    close(np.sort(svd.singular_values.numpy())[::-1], expected[:rank], 1e-10)
    close(expected[rank:], 0, 1e-10)
    vt, ut = matrix_of(svd.vt, shape), matrix_of(svd.ut, measurement_shape(operator, shape))
    v, u = matrix_of(svd.v, (rank,)), matrix_of(svd.u, (rank,))
    close(vt, v.T, 1e-11)
    close(ut, u.T, 1e-11)
    close(vt @ v, np.eye(rank), 1e-11)
    close(ut @ u, np.eye(rank), 1e-11)
    close(u * svd.singular_values.numpy() @ vt, reference(channels), 1e-11)


@pytest.mark.parametrize("name", ITERATED)
def test_svd_is_none_where_no_closed_form_is_known(name):
    assert ITERATED[name][0](3).svd(torch.zeros(1, 3, H, W)) is None


def test_bicubic_is_the_resize_and_handles_odd_scales():
    z = torch.rand(2, 2, 9, 15, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Bicubic(3)(z), resize(z, 1 / 3), rtol=0, atol=1e-6)
    check_matrix(Bicubic(3), per_channel(np.kron(matlab_matrix(9, 3), matlab_matrix(15, 3)), 2), (2, 9, 15))
    check_moore_penrose(Bicubic(3), (2, 9, 15))
    check_moore_penrose(AveragePool(3), (2, 9, 15))


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (7, 1), (2, 4), (1, 2), (4, 4), (9, 5)])
def test_blur_is_scipys_convolution(shape):
    """scipy.ndimage has the same centre for every size; scipy.signal's "same" only for odd ones. 9 rows wrap on 8."""
    rng = np.random.default_rng(0)
    kernel, plane = rng.standard_normal(shape), rng.standard_normal((H, W + 1))
    blurred = Blur(torch.tensor(kernel))(torch.tensor(plane)[None, None])[0, 0].numpy()
    close(blurred, scipy.ndimage.convolve(plane, kernel, mode="wrap"), 1e-12)
    if shape[0] % 2 and shape[1] % 2 and shape[0] <= H:
        close(blurred, scipy.signal.convolve2d(plane, kernel, "same", "wrap"), 1e-12)


def test_one_blur_serves_images_of_many_sizes():
    operator = blur_of(K53)
    for size in [(8, 12), (12, 8), (6, 7), (8, 12)]:
        check_matrix(operator, roll_matrix(K53, *size), (1, *size))
        check_moore_penrose(operator, (1, *size))


@pytest.mark.parametrize("levels", [1, 2, 3])
@every_channels
def test_haar_is_pywavelets(levels, channels):
    z = torch.randn(1, channels, 8, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for c, plane in enumerate(Haar(levels)(z)[0]):
        coefficients = pywt.wavedec2(z[0, c].numpy(), "haar", level=levels)
        close(plane.numpy(), pywt.coeffs_to_array(coefficients)[0], 1e-13)
    torch.testing.assert_close(Haar(levels).adjoint(Haar(levels)(z)), z)
    assert Haar(levels)(torch.ones(1, 1, 8, 8))[0, 0, 0, 0] == pytest.approx(2**levels)


def test_pseudo_inverse_of_a_blur_that_erases_frequencies():
    """A box of 4 on 12 pixels has exact zeros in its spectrum: they are left alone, not divided by rounding errors."""
    box = np.full((1, 4), 0.25)
    check_moore_penrose(blur_of(box), (2, 4, 12))
    check_moore_penrose(blur_of(box), (2, 4, 12), torch.float32, 1e-5)
    assert len(blur_of(box).svd(torch.zeros(1, 2, 4, 12)).singular_values) == 2 * 4 * (12 - 3)


@every_operator
def test_samples_do_not_see_their_batch_mates(name):
    operator = ALL[name][0](3)
    z = torch.randn(3, 3, H, W, generator=torch.Generator().manual_seed(0))
    other = torch.cat([100 * z[:1].flip(-1), z[1:]])
    x, changed = operator(z), operator(other)
    torch.testing.assert_close(x[1:], changed[1:], rtol=0, atol=0)
    for result, again in [
        (operator.adjoint(x), operator.adjoint(changed)),
        (operator.pinv(x), operator.pinv(changed)),
        (operator.solve(z, 0.1), operator.solve(other, 0.1)),
        (operator.solve_data(x, 0.1), operator.solve_data(changed, 0.1)),
    ]:
        assert not torch.equal(result[0], again[0])
        torch.testing.assert_close(result[1:], again[1:], rtol=0, atol=0)


@every_operator
def test_gradient_is_the_adjoint(name):
    operator = ALL[name][0](2)
    z = torch.randn(1, 2, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    x = operator(z)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * x).sum(), z)
    torch.testing.assert_close(gradient, operator.adjoint(weights), rtol=0, atol=1e-12)


def test_flat_states():
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([1, 0, 0, 1, 1])
    for operator, expected in [(Identity(), torch.eye(5)), (Mask(mask), torch.diag(mask)), (Dense(matrix), matrix)]:
        expected = expected.double()
        torch.testing.assert_close(operator(z), z @ expected.T)
        torch.testing.assert_close(operator.dense((5,)), expected)
        check_adjoint(operator, (5,))
        check_moore_penrose(operator, (5,))
        solved = torch.linalg.solve(expected.T @ expected + 0.2 * torch.eye(5, dtype=torch.float64), z.T).T
        torch.testing.assert_close(operator.solve(z, 0.2), solved)


def test_a_mask_that_keeps_nothing():
    z = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    nothing = Mask(torch.zeros(4, 6))
    assert not nothing(z).any() and not nothing.pinv(z).any()
    torch.testing.assert_close(nothing.solve(z, 0.5), z / 0.5)
    torch.testing.assert_close(nothing.solve_data(z, 0.5), z / 0.5)


def test_grey_remembers_or_is_told_its_channels():
    x = torch.rand(2, 1, 4, 6)
    assert Grayscale().adjoint(x).shape == (2, 3, 4, 6)
    assert Grayscale(5).pinv(x).shape == (2, 5, 4, 6)
    grey = Grayscale()
    grey(torch.rand(1, 2, 4, 6))
    assert grey.pinv(x).shape == (2, 2, 4, 6)
    torch.testing.assert_close(grey(grey.pinv(x)), x)


def test_conjugate_gradients_say_when_they_fail():
    """A wide Gaussian seen through a mask: hopeless to invert, easy for solve."""
    row = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 2.0**2))
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) > 0.4
    operator = Mask(mask) @ blur_of(np.outer(row, row) / row.sum() ** 2)
    x = operator(torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    with pytest.warns(UserWarning, match="pinv: 1000 steps of conjugate gradients left a relative residual of"):
        operator.pinv(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operator.solve(x, 0.01)
        assert not operator.pinv(torch.zeros_like(x)).any()


# ---- mutants: bugs of public code that these checks must catch ----


class TiledBlur(LinearOperator):
    """DDRM's and DDNM's Deblurring: pixel-major coordinates meet channel-major singular values. The public bug."""

    def __init__(self, kernel):
        self.blur = blur_of(kernel)

    def _spectral(self, z):
        svd = self.blur.svd(z)
        one_channel = self.blur.svd(z[:1, :1]).singular_values
        return svd, one_channel.repeat_interleave(z.shape[1])

    def __call__(self, z):
        svd, s = self._spectral(z)
        return svd.u(s * svd.vt(z))

    def adjoint(self, x):
        svd, s = self._spectral(x)
        return svd.v(s * svd.ut(x))

    def pinv(self, x):
        svd, s = self._spectral(x)
        return svd.v(svd.ut(x) / s)


class ShortBlur(Blur):
    """The same file's other bug: the loop over taps stops one short of an odd kernel's end."""

    def __init__(self, kernel):
        kernel = torch.tensor(kernel)
        kernel[-1], kernel[:, -1] = 0, 0
        super().__init__(kernel)


class FlippedBlur(Blur):
    """Correlation, as conv2d computes it, in place of convolution."""

    def __init__(self, kernel):
        super().__init__(torch.tensor(kernel).flip(0, 1))


@pytest.mark.parametrize("mutant", [TiledBlur, ShortBlur, FlippedBlur])
def test_wrong_blurs_pass_every_test_but_the_independent_matrix(mutant):
    operator, shape = mutant(K53), (3, H, W)
    check_adjoint(operator, shape)
    check_moore_penrose(operator, shape)
    with pytest.raises(AssertionError):
        check_matrix(operator, per_channel(roll_matrix(K53), 3), shape)


def test_bicubic_upsampling_is_not_the_pseudo_inverse():
    class Interpolated(Bicubic):
        def pinv(self, x):
            return resize(x, self.scale)

    check_adjoint(Interpolated(4), (2, 16, 24))
    with pytest.raises(AssertionError):
        check_moore_penrose(Interpolated(4), (2, 16, 24))
    z = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(Bicubic(4)(Bicubic(4).pinv(Bicubic(4)(z))), Bicubic(4)(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*ITERATED, "pool@mask", "pool@grey@mask"])
def test_composed_pseudo_inverses_are_not_the_pseudo_inverse(name):
    operator = ALL[name][0](2)
    inner, outer = operator.inner, operator.outer
    operator.pinv = lambda x: inner.pinv(outer.pinv(x))
    with pytest.raises(AssertionError):
        check_moore_penrose(operator, (2, H, W))


class CentredPool(AveragePool):
    """The box of an even pool put about its centre, as a convolution does by default: half a block off."""

    def __matmul__(self, inner):
        box = torch.full((self.scale, self.scale), 1 / self.scale**2)
        return Decimate(self.scale) @ (Blur(box) @ inner)


class UnfoldedBlur(DecimatedBlur):
    """Singular values read off the blur's own spectrum at the small grid's frequencies: nothing aliases."""

    def svd(self, z):
        right, step = super().svd(z), self.outer.scale
        height, width = (n // step for n in z.shape[-2:])
        wrong = self.inner.spectrum(z).abs()[:height, :width].expand(z.shape[1], -1, -1).flatten()
        return replace(right, singular_values=wrong)


def test_a_pool_shifted_by_half_a_block_is_seen():
    operator = CentredPool(4) @ blur_of(K53)
    check_adjoint(operator, (2, H, W))
    check_moore_penrose(operator, (2, H, W))
    with pytest.raises(AssertionError):
        check_matrix(operator, per_channel(pool_matrix(4) @ roll_matrix(K53), 2), (2, H, W))


def test_a_decimated_blur_without_aliasing_is_seen():
    with pytest.raises(AssertionError):
        check_moore_penrose(UnfoldedBlur(Decimate(2), blur_of(K53)), (2, H, W))


@pytest.mark.parametrize("name", ["bicubic2", "blur5x3", "dense", "decimate@blur"])
def test_what_is_kept_between_calls_serves_autograd(name):
    """A cache filled under inference_mode, as super_resolve does, must not break gradients later."""
    resize_matrix.cache_clear()
    operator, z = ALL[name][0](2), torch.rand(1, 2, H, W, dtype=torch.float64)
    with torch.inference_mode():
        operator.pinv(operator(z))
    z.requires_grad_()
    operator.pinv(operator(z)).square().sum().backward()
    assert z.grad.isfinite().all() and z.grad.any()


# ---- bad input ----


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Bicubic(0), "scale must be a whole number of at least 1, but 0 came"),
        (lambda: AveragePool(2.0), "scale must be a whole number of at least 1, but 2.0 came"),
        (lambda: Haar(True), "levels must be a whole number of at least 1, but True came"),
        (
            lambda: Bicubic(4)(torch.rand(1, 3, 8, 10)),
            "z must have a height and width that are multiples of 4, but it is",
        ),
        (lambda: Haar(2).adjoint(torch.rand(1, 3, 6, 8)), "x must have a height and width that are multiples of 4"),
        (lambda: Blur(torch.ones(3)), r"kernel must be a finite matrix \(kh, kw\), but one of shape \(3,\) came"),
        (lambda: Blur(torch.full((3, 3), math.nan)), "kernel must be a finite matrix"),
        (lambda: Blur(torch.ones(3, 3))(torch.rand(3, 8, 8)), r"z must have shape \(B, C, H, W\), but its shape is"),
        (lambda: Blur(torch.ones(3, 3))(np.ones((1, 1, 8, 8))), "z must be a torch tensor, but a ndarray came"),
        (lambda: Identity()(torch.ones(1, 1, 2, 2).int()), "z must be floating point, but its dtype is torch.int32"),
        (lambda: Identity()(torch.ones(0, 1, 2, 2)), "z must not be empty"),
        (lambda: Mask(torch.tensor([0.0, 0.5])), "mask must hold only 0 and 1, but its values run from 0 to 0.5"),
        (lambda: Mask(torch.ones(4, 4))(torch.rand(1, 1, 8, 8)), r"mask of shape \(4, 4\) does not fit z of shape"),
        (lambda: Grayscale(3)(torch.rand(1, 2, 8, 8)), "z must have 3 channels, but its shape is"),
        (lambda: Grayscale().adjoint(torch.rand(1, 2, 8, 8)), "x must have 1 channel, but its shape is"),
        (
            lambda: Dense(torch.ones(2, 3))(torch.rand(1, 4)),
            r"z must hold 3 values per sample, but its shape is \(1, 4\)",
        ),
        (lambda: Dense(torch.ones(2, 3), (2, 2)), r"shape must hold N = 3 values, but \(2, 2\) holds 4"),
        (lambda: Identity().solve(torch.rand(1, 1, 2, 2), 0.0), "rho must be a positive number, but 0.0 came"),
        (lambda: Identity().solve_data(torch.rand(1, 1, 2, 2), "1"), "rho must be a positive number, but '1' came"),
        (lambda: Identity().damped_pinv(torch.rand(1, 1, 2, 2), -1.0), "rho must be a positive number, but -1.0 came"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_only_operators_compose():
    with pytest.raises(TypeError):
        Identity() @ torch.eye(2)
