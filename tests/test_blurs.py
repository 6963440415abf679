"""The cameras of super-resolution against scipy's and scikit-image's: blur, keep or average, turn grey, hide."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.measure
import torch

from tutorial_lib.blurs import Blur, Decimate, DecimatedBlur
from tutorial_lib.degradations import gaussian_kernel, motion_kernel
from tutorial_lib.operators import AveragePool, Grayscale, Mask

H, W = 8, 12
double = torch.float64
SHARP = gaussian_kernel(5, 0.5, 0.4, angle=30).double()  # no zero in its spectrum
LONG = motion_kernel(4.3, 25.0).double()
WIDE = gaussian_kernel(9, 1.1, 0.5, angle=-60).double()  # wider than 8 rows: wraps around
CROOKED = torch.rand(4, 3, generator=torch.Generator().manual_seed(3), dtype=double)
CROOKED /= CROOKED.sum()


def wrapped(kernel):
    return lambda plane: scipy.ndimage.convolve(plane, kernel.numpy(), mode="wrap")


def pooled(scale):
    return lambda plane: skimage.measure.block_reduce(plane, (scale, scale), np.mean)


def kept(scale):
    return lambda plane: plane[::scale, ::scale]


def matrix(*stages, channels=1):
    """The matrix of functions of planes, the first applied first; the same for every channel."""
    planes = []
    for plane in np.eye(H * W).reshape(-1, H, W):
        for stage in stages:
            plane = stage(plane)
        planes.append(plane.ravel())
    return np.kron(np.eye(channels), np.stack(planes, 1))


def grey(channels, pixels):
    return np.kron(np.full((1, channels), 1 / channels), np.eye(pixels))


def hidden(*shape, seed=5):
    return np.random.default_rng(seed).random(shape) > 0.35


CAMERAS = {  # name -> (operator for C channels, its matrix)
    "anisotropic blur": (lambda c: Blur(SHARP), lambda c: matrix(wrapped(SHARP), channels=c)),
    "motion blur": (lambda c: Blur(LONG), lambda c: matrix(wrapped(LONG), channels=c)),
    "decimated anisotropic blur": (
        lambda c: Decimate(2) @ Blur(WIDE),
        lambda c: matrix(wrapped(WIDE), kept(2), channels=c),
    ),
    "decimated motion blur": (
        lambda c: Decimate(4) @ Blur(LONG),
        lambda c: matrix(wrapped(LONG), kept(4), channels=c),
    ),
    "pooled motion blur": (
        lambda c: AveragePool(2) @ Blur(LONG),
        lambda c: matrix(wrapped(LONG), pooled(2), channels=c),
    ),
    "pooled blur, even by odd": (
        lambda c: AveragePool(4) @ Blur(CROOKED),
        lambda c: matrix(wrapped(CROOKED), pooled(4), channels=c),
    ),
    "grey of pooled blur": (
        lambda c: Grayscale(c) @ (AveragePool(2) @ Blur(SHARP)),
        lambda c: grey(c, H * W // 4) @ matrix(wrapped(SHARP), pooled(2), channels=c),
    ),
    "decimated blur of a blur": (
        lambda c: Decimate(2) @ Blur(LONG) @ Blur(CROOKED),
        lambda c: matrix(wrapped(CROOKED), wrapped(LONG), kept(2), channels=c),
    ),
    "mask of grey of pool": (
        lambda c: Mask(torch.tensor(hidden(H // 2, W // 2))) @ Grayscale(c) @ AveragePool(2),
        lambda c: np.diag(hidden(H // 2, W // 2).ravel() * 1.0) @ grey(c, H * W // 4) @ matrix(pooled(2), channels=c),
    ),
    "pool of grey of mask": (
        lambda c: AveragePool(2) @ Grayscale(c) @ Mask(torch.tensor(hidden(c, H, W))),
        lambda c: matrix(pooled(2)) @ grey(c, H * W) @ np.diag(hidden(c, H, W).ravel() * 1.0),
    ),
    "grey of mask of decimation": (
        lambda c: Grayscale(c) @ Mask(torch.tensor(hidden(c, H // 2, W // 2))) @ Decimate(2),
        lambda c: grey(c, H * W // 4) @ np.diag(hidden(c, H // 2, W // 2).ravel() * 1.0) @ matrix(kept(2), channels=c),
    ),
}


def of(function, shape):
    """The matrix of a function of tensors (B, *shape)."""
    size = math.prod(shape)
    return function(torch.eye(size, dtype=double).reshape(size, *shape)).flatten(1).T.numpy()


def close(found, expected, atol):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CAMERAS)
def test_cameras_are_those_of_scipy_and_scikit_image(name, channels):
    """The operator, its transpose, its singular values, its pseudo-inverse and the damped one."""
    operator, dense = (part(channels) for part in CAMERAS[name])
    shape = (channels, H, W)
    out = operator(torch.zeros(1, *shape)).shape[1:]
    close(of(operator, shape), dense, 1e-12)
    close(of(operator.adjoint, out), dense.T, 1e-12)
    left, s, right = np.linalg.svd(dense, full_matrices=False)
    found = operator.svd(torch.zeros(1, *shape, dtype=double))
    values = np.sort(found.singular_values.numpy())[::-1]
    close(values, s[: len(values)], 1e-12)
    close(s[len(values) :], 0, 1e-12)
    assert values[-1] > 1e-4  # so that what follows is well posed
    rank = len(values)
    inverse = (right[:rank].T / s[:rank]) @ left[:, :rank].T
    close(of(operator.pinv, out), inverse, 1e-8)
    damped = np.linalg.solve(dense.T @ dense + 0.01 * np.eye(dense.shape[1]), dense.T)
    close(of(lambda x: operator.damped_pinv(x, 0.01), out), damped, 1e-11)


def test_the_kernels_are_scipys():
    """A turned Gaussian at the pixels' centres; the integral along a line, shared by the four nearest pixels."""
    turn = np.array([[np.cos(0.6), -np.sin(0.6)], [np.sin(0.6), np.cos(0.6)]])
    covariance = turn @ np.diag([2.0**2, 0.8**2]) @ turn.T  # in (right, up)
    offset = np.arange(11) - 5.0
    places = np.stack(np.broadcast_arrays(offset[None, :], -offset[:, None]), -1)
    density = scipy.stats.multivariate_normal([0, 0], covariance).pdf(places)
    close(gaussian_kernel(11, 2.0, 0.8, angle=math.degrees(0.6)), density / density.sum(), 1e-7)
    for length, angle, size in ((4.3, 25.0, 7), (6.0, 115.0, 7), (0.7, -40.0, 3), (4.0, 90.0, 5)):
        along = np.linspace(-length / 2, length / 2, 40_001)
        taps = np.arange(size) - size // 2
        row, column = -np.sin(np.radians(angle)) * along, np.cos(np.radians(angle)) * along
        rows, columns = (np.maximum(0, 1 - abs(place - taps[:, None])) for place in (row, column))
        expected = np.trapezoid(rows[:, None] * columns[None], along, axis=-1) / length
        close(motion_kernel(length, angle), expected, 1e-4)


def test_a_blur_moves_the_picture_the_way_its_kernel_says():
    """One tap right of the centre and below it: every pixel takes what stood left of it and above."""
    kernel = torch.zeros(3, 5)
    kernel[2, 3] = 1
    z = torch.rand(1, 2, H, W, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Blur(kernel)(z), z.roll((1, 1), (-2, -1)), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        (Decimate(2) @ Blur(kernel))(z), z.roll((1, 1), (-2, -1))[..., ::2, ::2], rtol=0, atol=1e-6
    )


FAINT = {  # singular values down to 1e-4 of the largest
    "decimated": Decimate(4) @ Blur(gaussian_kernel(21, 4.0)),
    "pooled": AveragePool(4) @ Blur(gaussian_kernel(21, 4.0)),
}


@pytest.mark.parametrize("operator", FAINT.values(), ids=FAINT)
def test_faint_directions_keep_their_length_in_float32(operator):
    """V^T V = I to rounding, also where s is 1e-4 of the largest: divided in float32, it would be off by 1e-3."""
    z = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    svd, exact = operator.svd(z), operator.svd(z.double())
    s = svd.singular_values
    assert s.dtype == torch.float32 and s.min() < 5e-4 * s.max()
    c = torch.eye(len(s))[s.argsort()[:20]]
    assert svd.v(c).dtype == svd.vt(z).dtype == torch.float32
    torch.testing.assert_close(svd.vt(svd.v(c)), c, rtol=0, atol=5e-5)
    torch.testing.assert_close(svd.vt(z).double(), exact.vt(z.double()), rtol=0, atol=1e-5)


def test_blurs_compose_with_blurs_only_as_blurs():
    assert isinstance(Decimate(2) @ Blur(SHARP), DecimatedBlur)
    assert isinstance(AveragePool(2) @ Blur(SHARP) @ Blur(LONG), DecimatedBlur)
    assert isinstance(Blur(SHARP) @ Blur(LONG), Blur)
