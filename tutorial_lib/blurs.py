"""Blurs, and blurs of which only every s-th pixel is kept: the cameras of super-resolution, by Fourier transform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_whole
from .linear_operator import (
    SVD,
    Composition,
    LinearOperator,
    check_state,
    clearly_positive,
    flatten,
    picking,
    putting,
    svd_from_gram,
    to_shape,
)


class Blur(LinearOperator):
    """Circular convolution of every channel with one `kernel` (kh, kw).

        x[i, j] = sum_ab kernel[a, b] z[i - a + kh // 2, j - b + kw // 2], indices modulo H and W

    The centre is (kh // 2, kw // 2): the middle tap of an odd kernel, the tap right of and below the middle of an even
    one, as in scipy.ndimage.convolve(mode="wrap"). It is a true convolution (torch.nn.functional.conv2d does not flip
    the kernel), it wraps around at the border, and a kernel wider than the image wraps too. Computed by FFT.
    Coordinates of the SVD: the discrete Hartley transform, a real orthonormal Fourier basis; s = |FFT(kernel)|.
    DDRM's code (2201.11793) takes separable kernels only and drops the last tap of odd ones.
    """

    def __init__(self, kernel: Tensor):
        kernel = torch.as_tensor(kernel).detach().to(torch.float64)
        if kernel.ndim != 2 or 0 in kernel.shape or not torch.isfinite(kernel).all():
            raise ValueError(f"kernel must be a finite matrix (kh, kw), but one of shape {tuple(kernel.shape)} came")
        self.kernel = kernel
        self._cache: tuple[tuple[int, int], Tensor] | None = None

    def spectrum(self, z: Tensor) -> Tensor:
        """FFT of the kernel on the grid of `z`, its centre at the origin: complex128 (H, W), on the kernel's device."""
        height, width = size = tuple(z.shape[-2:])
        if self._cache is None or self._cache[0] != size:
            with torch.inference_mode(False):  # what is kept must also serve autograd
                kernel = self.kernel.clone()
                rows, columns = ((torch.arange(k) - k // 2) % n for k, n in zip(kernel.shape, size, strict=True))
                index = (rows[:, None] * width + columns).flatten().to(kernel.device)
                wrapped = kernel.new_zeros(height * width).index_add(0, index, kernel.flatten())
                self._cache = size, torch.fft.fft2(wrapped.reshape(size))
        return self._cache[1]

    def __call__(self, z: Tensor) -> Tensor:
        return _fourier_multiply(check_state(z, "z"), self.spectrum(z))

    def adjoint(self, x: Tensor) -> Tensor:
        return _fourier_multiply(check_state(x, "x"), self.spectrum(x).conj())

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if not isinstance(inner, Blur):
            return super().__matmul__(inner)
        first, second = inner.kernel, self.kernel
        margins = [n - 1 for n in second.shape]
        kernel = F.conv2d(first[None, None], second.flip(0, 1)[None, None], padding=margins)[0, 0]
        # The centres add; for two even lengths a zero at the end keeps the sum in the middle.
        even = [int(a % 2 == 0 and b % 2 == 0) for a, b in zip(first.shape, second.shape, strict=True)]
        return Blur(F.pad(kernel, (0, even[1], 0, even[0])))

    def svd(self, z: Tensor) -> SVD:
        return _fourier_svd(check_state(z, "z"), self.spectrum(z))


class Decimate(LinearOperator):
    """Keep the top left pixel of each `scale` x `scale` block: x[i, j] = z[scale i, scale j].

    (B, C, H, W) -> (B, C, H/scale, W/scale), the downsampling of x = (y * k) downsampled by s. Every singular value is
    1, and A^+ = A^T puts zeros between the pixels. Alone it aliases: blur first. `Decimate(s) @ Blur(kernel)` has an
    SVD. It moves the picture by (s - 1) / 2 pixels against pooling and bicubic, which keep its centre.
    """

    disjoint = True

    def __init__(self, scale: int):
        self.scale = check_whole(scale, "scale")

    def __call__(self, z: Tensor) -> Tensor:
        return check_state(z, "z", self.scale)[..., :: self.scale, :: self.scale]

    def adjoint(self, x: Tensor) -> Tensor:
        height, width = (n * self.scale for n in check_state(x, "x").shape[-2:])
        z = x.new_zeros(*x.shape[:-2], height, width)
        z[..., :: self.scale, :: self.scale] = x
        return z

    def svd(self, z: Tensor) -> SVD:
        x = self(z[:1])
        back = to_shape(x.shape[1:])
        return SVD(
            z.new_ones(x.numel()),
            vt=lambda z: self(z).flatten(1),
            v=lambda c: self.adjoint(back(c)),
            ut=flatten,
            u=back,
        )

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if isinstance(inner, Blur):
            return DecimatedBlur(self, inner)
        return super().__matmul__(inner)


class DecimatedBlur(Composition):
    """Decimate(s) @ Blur(kernel), the camera of classical super-resolution: blur with any kernel, keep every s-th pixel.

    A A^T is a circular convolution of the small image, so the Hartley basis of the small grid diagonalises it, with
    s_k^2 the mean of |FFT(kernel)|^2 over the scale^2 frequencies that alias into k (Zhao et al. 2016, who solve the
    same system in the Fourier domain). V^T = diag(1/s) U^T A mixes those frequencies. Pooling of a blur is one of these.
    """

    def svd(self, z: Tensor) -> SVD:
        x = self(z[:1])
        channels, height, width = x.shape[1:]
        step = self.outer.scale
        power = self.inner.spectrum(z).abs() ** 2
        folded = power.reshape(step, height, step, width).mean((0, 2))
        back = to_shape(x.shape[1:])
        return svd_from_gram(
            self,
            z,
            basis=lambda x: _hartley(x).flatten(1),
            back=lambda c: _hartley(back(c)),
            gram=folded.expand(channels, -1, -1).flatten(),
        )

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if isinstance(inner, Blur):
            return DecimatedBlur(self.outer, self.inner @ inner)
        return super().__matmul__(inner)


def pooled_blur(scale: int, blur: Blur) -> DecimatedBlur:
    """Average pooling of a blur as a decimated one: the mean over a block is itself a convolution."""
    side = check_whole(scale, "scale")
    box = torch.zeros(2 * side - 1, 2 * side - 1, dtype=torch.float64)
    box[:side, :side] = 1 / side**2  # the centre is tap (side - 1, side - 1): x[i] averages z[i], ..., z[i + side - 1]
    return DecimatedBlur(Decimate(side), Blur(box) @ blur)


def _fourier_multiply(z: Tensor, spectrum: Tensor) -> Tensor:
    half = spectrum[:, : z.shape[-1] // 2 + 1].to(z.device, z.dtype.to_complex())
    return torch.fft.irfft2(torch.fft.rfft2(z) * half, s=z.shape[-2:])


def _hartley(z: Tensor) -> Tensor:
    """The orthonormal, symmetric transform Re F - Im F of the FFT F: real, and its own inverse."""
    spectrum = torch.fft.fft2(z, norm="ortho")
    return spectrum.real - spectrum.imag


def _fourier_svd(z: Tensor, spectrum: Tensor) -> SVD:
    """A = phase * |spectrum|: V is the Hartley basis, U that basis after the phase, s = |spectrum| where not zero."""
    shape = tuple(z.shape[1:])
    gain = spectrum.abs()
    seen = clearly_positive(gain, z.dtype)
    phase = torch.where(seen, spectrum, 0) / torch.where(seen, gain, 1)
    kept = seen.expand(shape).flatten().nonzero()[:, 0].to(z.device)
    pick, put = picking(kept), putting(kept, shape)
    return SVD(
        gain.to(z).expand(shape).flatten()[kept],
        vt=lambda z: pick(_hartley(z)),
        v=lambda c: _hartley(put(c)),
        ut=lambda x: pick(_hartley(_fourier_multiply(x, phase.conj()))),
        u=lambda c: _fourier_multiply(_hartley(put(c)), phase),
    )
