"""Linear measurements x = A z: what a camera, a mask or a resize keeps of an image, and what can be undone of it.

Every operator maps states (B, C, H, W) to measurements, keeps the dtype and device of its input, treats each sample of
a batch alike and alone, and is differentiable. `Identity`, `Mask` and `Dense` also take flat states (B, D).

    x = operator(z)              A z
    operator.adjoint(x)          A^T x
    operator.pinv(x)             A^+ x, the shortest z among those with the smallest ||A z - x||
    operator.damped_pinv(x, rho) A^T (A A^T + rho I)^-1 x
    operator.solve(z, rho)       (A^T A + rho I)^-1 z
    operator.solve_data(x, rho)  (A A^T + rho I)^-1 x
    operator.svd(z)              an `SVD` for states shaped like z, or None where no closed form is known
    operator.dense((C, H, W))    the matrix itself, for small sizes
    A @ B                        z -> A(B(z))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .blurs import Blur, Decimate, DecimatedBlur, pooled_blur
from .checks import check_whole
from .images import resize_matrix
from .linear_operator import (
    SVD,
    Composition,
    LinearOperator,
    check_state,
    clearly_positive,
    flatten,
    picking,
    putting,
    to_shape,
)

__all__ = [
    "SVD",
    "AveragePool",
    "Bicubic",
    "Blur",
    "Composition",
    "Decimate",
    "DecimatedBlur",
    "Dense",
    "Grayscale",
    "Haar",
    "Identity",
    "LinearOperator",
    "Mask",
]


class Identity(LinearOperator):
    """A = I: denoising."""

    disjoint = True

    def __call__(self, z: Tensor) -> Tensor:
        return check_state(z, "z", flat=True)

    def adjoint(self, x: Tensor) -> Tensor:
        return check_state(x, "x", flat=True)

    def svd(self, z: Tensor) -> SVD:
        check_state(z, "z", flat=True)
        return SVD(z.new_ones(z[0].numel()), flatten, to_shape(z.shape[1:]), flatten, to_shape(z.shape[1:]))


class Bicubic(LinearOperator):
    """MATLAB's antialiased bicubic downsampling by a whole `scale`: (B, C, H, W) -> (B, C, H/scale, W/scale).

    A = R_H (x) R_W with R = resize_matrix(size, 1/scale), the same as images.resize(z, 1/scale). Its SVD is the
    Kronecker product of two small ones: U = U_H (x) U_W, s_ij = s_H[i] s_W[j]. Bicubic upsampling is neither A^T nor
    A^+, and down after up is not the identity, as ILVR (2108.02938) and the DPS code (2209.14687) would need.
    """

    def __init__(self, scale: int):
        self.scale = check_whole(scale, "scale")

    def __call__(self, z: Tensor) -> Tensor:
        check_state(z, "z", self.scale)
        return self._rows(z.shape[-2], z) @ z @ self._rows(z.shape[-1], z).T

    def adjoint(self, x: Tensor) -> Tensor:
        check_state(x, "x")
        return self._rows(x.shape[-2] * self.scale, x).T @ x @ self._rows(x.shape[-1] * self.scale, x)

    def _rows(self, size: int, like: Tensor) -> Tensor:
        return resize_matrix(size, 1 / self.scale).to(like)

    def svd(self, z: Tensor) -> SVD:
        check_state(z, "z", self.scale)
        (u_h, s_h, vt_h), (u_w, s_w, vt_w) = (
            [factor.to(z) for factor in _bicubic_svd(size, self.scale)] for size in z.shape[-2:]
        )
        grid = to_shape((z.shape[1], len(s_h), len(s_w)))
        return SVD(
            torch.outer(s_h, s_w).expand(z.shape[1], -1, -1).flatten(),
            vt=lambda z: (vt_h @ z @ vt_w.T).flatten(1),
            v=lambda c: vt_h.T @ grid(c) @ vt_w,
            ut=lambda x: (u_h.T @ x @ u_w).flatten(1),
            u=lambda c: u_h @ grid(c) @ u_w.T,
        )


class AveragePool(LinearOperator):
    """Mean of each `scale` x `scale` block: (B, C, H, W) -> (B, C, H/scale, W/scale).

    A A^T = I / scale^2, so every singular value is 1/scale and A^+ = scale^2 A^T repeats each value over its block:
    here, and not for bicubic, nearest-neighbour upsampling is the pseudo-inverse.
    """

    disjoint = True

    def __init__(self, scale: int):
        self.scale = check_whole(scale, "scale")

    def __call__(self, z: Tensor) -> Tensor:
        return F.avg_pool2d(check_state(z, "z", self.scale), self.scale)

    def adjoint(self, x: Tensor) -> Tensor:
        return self._repeat(check_state(x, "x")) / self.scale**2

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        return pooled_blur(self.scale, inner) if isinstance(inner, Blur) else super().__matmul__(inner)

    def _repeat(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)

    def svd(self, z: Tensor) -> SVD:
        x = self(z[:1])
        unflatten = to_shape(x.shape[1:])
        return SVD(
            z.new_full((x.numel(),), 1 / self.scale),
            vt=lambda z: (self(z) * self.scale).flatten(1),
            v=lambda c: self._repeat(unflatten(c)) / self.scale,
            ut=flatten,
            u=unflatten,
        )


class Mask(LinearOperator):
    """Keep the pixels where `mask` is 1 and set the others to 0: x = m z, the same shape as z.

    `mask` holds 0 and 1 (or booleans) and broadcasts against one state: (H, W) for all channels, (C, H, W), or (D,) for
    flat states. A = A^T = A^+ = A A^+. Some papers drop the masked pixels instead, which gives a shorter measurement.
    """

    disjoint = True

    def __init__(self, mask: Tensor):
        mask = torch.as_tensor(mask).to(torch.float64)
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"mask must hold only 0 and 1, but its values run from {mask.min():g} to {mask.max():g}")
        self.mask = mask

    def _like(self, z: Tensor, argument: str) -> Tensor:
        check_state(z, argument, flat=True)
        shape = tuple(z.shape[1:])
        mask = self.mask[0] if self.mask.ndim == z.ndim and len(self.mask) == 1 else self.mask
        if mask.ndim > len(shape) or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)):
            raise ValueError(
                f"mask of shape {tuple(self.mask.shape)} does not fit {argument} of shape {tuple(z.shape)}"
            )
        return mask.to(z).expand(shape)

    def __call__(self, z: Tensor) -> Tensor:
        return z * self._like(z, "z")

    def adjoint(self, x: Tensor) -> Tensor:
        return x * self._like(x, "x")

    def pinv(self, x: Tensor) -> Tensor:
        return self.adjoint(x)

    def svd(self, z: Tensor) -> SVD:
        kept = self._like(z, "z").flatten().nonzero()[:, 0]
        pick, put = picking(kept), putting(kept, z.shape[1:])
        return SVD(z.new_ones(len(kept)), vt=pick, v=put, ut=pick, u=put)


class Grayscale(LinearOperator):
    """Mean over channels: (B, C, H, W) -> (B, 1, H, W). A A^T = I / C, so A^+ = C A^T copies the grey to all channels.

    A grey measurement does not say how many channels its state had. `adjoint` and `pinv` give `channels` of them; by
    default as many as the state that was last put through (3 before the first). Plain mean as in DDRM and DDNM; the
    luma of `images.rgb_to_y` weighs the channels differently.
    """

    disjoint = True

    def __init__(self, channels: int | None = None):
        self.channels = None if channels is None else check_whole(channels, "channels")
        self._last_channels = self.channels or 3

    def __call__(self, z: Tensor) -> Tensor:
        check_state(z, "z")
        if self.channels not in (None, z.shape[1]):
            raise ValueError(f"z must have {self.channels} channels, but its shape is {tuple(z.shape)}")
        self._last_channels = z.shape[1]
        return z.mean(1, keepdim=True)

    def adjoint(self, x: Tensor) -> Tensor:
        check_state(x, "x")
        if x.shape[1] != 1:
            raise ValueError(f"x must have 1 channel, but its shape is {tuple(x.shape)}")
        return x.expand(-1, self._last_channels, -1, -1) / self._last_channels

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if isinstance(inner, Bicubic | Blur | DecimatedBlur):
            return inner @ self  # averaging channels commutes with what treats them alike, and this order has an SVD
        return super().__matmul__(inner)

    def svd(self, z: Tensor) -> SVD:
        check_state(z, "z")
        channels, height, width = z.shape[1:]
        plane, root = to_shape((1, height, width)), channels**0.5
        return SVD(
            z.new_full((height * width,), 1 / root),
            vt=lambda z: (z.sum(1) / root).flatten(1),
            v=lambda c: plane(c).expand(-1, channels, -1, -1) / root,
            ut=flatten,
            u=plane,
        )


class Haar(LinearOperator):
    """Orthonormal Haar wavelet transform of every channel, `levels` deep, (B, C, H, W) -> the same shape.

    One level maps pairs (a, b) to sums (a + b)/sqrt(2), put first, and differences (a - b)/sqrt(2), put last, along
    rows and columns; the next level acts on the sums of both (the top left quarter). Mallat's layout, as PyWavelets'
    coeffs_to_array(wavedec2(z, "haar")). A^T A = I, so A^+ = A^T. A constant image c has the top left value c 2^levels:
    an image in [-1, 1] leaves that range, so clamping coefficients to it is a bug.
    """

    def __init__(self, levels: int = 1):
        self.levels = check_whole(levels, "levels")

    def __call__(self, z: Tensor) -> Tensor:
        return self._transform(check_state(z, "z", 2**self.levels), range(self.levels), _haar_split)

    def adjoint(self, x: Tensor) -> Tensor:
        return self._transform(check_state(x, "x", 2**self.levels), reversed(range(self.levels)), _haar_join)

    @staticmethod
    def _transform(z: Tensor, levels, along: Callable[[Tensor, int], Tensor]) -> Tensor:
        z = z.clone()
        for level in levels:
            height, width = z.shape[-2] >> level, z.shape[-1] >> level
            z[..., :height, :width] = along(along(z[..., :height, :width], -2), -1)
        return z

    def svd(self, z: Tensor) -> SVD:
        check_state(z, "z", 2**self.levels)
        unflatten = to_shape(z.shape[1:])
        return SVD(
            z.new_ones(z[0].numel()),
            vt=lambda z: self(z).flatten(1),
            v=lambda c: self.adjoint(unflatten(c)),
            ut=flatten,
            u=unflatten,
        )


class Dense(LinearOperator):
    """Any `matrix` (M, N): states (B, N), or (B, C, H, W) with C H W = N in that order, to measurements (B, M).

    `shape` = (C, H, W) makes `adjoint` and `pinv` return images; without it they return (B, N).
    """

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None):
        matrix = torch.as_tensor(matrix)
        if matrix.ndim != 2 or 0 in matrix.shape or not torch.isfinite(matrix).all():
            raise ValueError(f"matrix must be a finite matrix (M, N), but one of shape {tuple(matrix.shape)} came")
        if shape is not None and math.prod(shape) != matrix.shape[1]:
            raise ValueError(
                f"shape must hold N = {matrix.shape[1]} values, but {tuple(shape)} holds {math.prod(shape)}"
            )
        self.matrix = matrix.to(torch.float64)
        self.shape = (matrix.shape[1],) if shape is None else tuple(shape)
        self._factors: tuple[Tensor, Tensor, Tensor] | None = None

    def _flat(self, z: Tensor, argument: str, size: int) -> Tensor:
        check_state(z, argument, flat=True)
        if z[0].numel() != size:
            raise ValueError(f"{argument} must hold {size} values per sample, but its shape is {tuple(z.shape)}")
        return z.flatten(1)

    def __call__(self, z: Tensor) -> Tensor:
        return self._flat(z, "z", self.matrix.shape[1]) @ self.matrix.T.to(z)

    def adjoint(self, x: Tensor) -> Tensor:
        return (self._flat(x, "x", self.matrix.shape[0]) @ self.matrix.to(x)).reshape(-1, *self.shape)

    def svd(self, z: Tensor) -> SVD:
        self._flat(z, "z", self.matrix.shape[1])
        if self._factors is None:
            with torch.inference_mode(False):  # what is kept must also serve autograd
                self._factors = torch.linalg.svd(self.matrix.clone(), full_matrices=False)
        kept = clearly_positive(self._factors[1], z.dtype)
        u, s, vt = self._factors[0][:, kept].to(z), self._factors[1][kept].to(z), self._factors[2][kept].to(z)
        unflatten = to_shape(z.shape[1:])
        return SVD(
            s, lambda z: z.flatten(1) @ vt.T, lambda c: unflatten(c @ vt), lambda x: x.flatten(1) @ u, lambda c: c @ u.T
        )

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if isinstance(inner, Dense):
            return Dense(self.matrix @ inner.matrix, inner.shape)
        return super().__matmul__(inner)


@lru_cache(maxsize=16)
def _bicubic_svd(size: int, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False):  # what is kept must also serve autograd
        return torch.linalg.svd(resize_matrix(size, 1 / scale), full_matrices=False)


def _haar_split(z: Tensor, dim: int) -> Tensor:
    a, b = z.unflatten(dim, (-1, 2)).unbind(dim)
    return torch.cat([a + b, a - b], dim) / 2**0.5


def _haar_join(z: Tensor, dim: int) -> Tensor:
    low, high = z.chunk(2, dim)
    return torch.stack([low + high, low - high], dim).flatten(dim - 1, dim) / 2**0.5
