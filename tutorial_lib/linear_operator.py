"""What every linear measurement x = A z can do: by its SVD where one is known, by conjugate gradients elsewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_positive

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SVD:
    """A = U diag(s) V^T with only the r singular values that are not zero (the thin form).

    `singular_values` is s, shape (r,), all positive, in no particular order. The four maps move between images and
    spectral coordinates (B, r), whose k-th column belongs to s[k]:

        vt(z): state -> (B, r)         v(c): (B, r) -> state          V^T V = I
        ut(x): measurement -> (B, r)   u(c): (B, r) -> measurement    U^T U = I

    so A z = u(s * vt(z)) and A^+ x = v(ut(x) / s). The null space needs no basis: the part of z that A does not see is
    z - v(vt(z)), and white noise projected this way is white there. Where coordinates come from a grid they are
    flattened channel by channel (C, then rows, then columns), and s is laid out by the same flattening. Public DDRM
    (2201.11793) and DDNM (2212.00490) code orders a blur's coordinates pixel by pixel but tiles s channel by channel:
    A becomes another operator, and no test of adjoint or pseudo-inverse notices.
    """

    singular_values: Tensor
    vt: Map
    v: Map
    ut: Map
    u: Map


class LinearOperator:
    """Base class: a subclass gives `__call__`, `adjoint` and, if it can, `svd`; the rest follows.

    With an SVD, `pinv`, `damped_pinv`, `solve` and `solve_data` are exact to rounding; singular values below 32 machine epsilons of
    the input's dtype, relative to the largest, count as zero. Without one they run conjugate gradients in float64 until
    each sample's residual is 1e-12 of where it began, and warn when 1000 steps do not get there.

    `disjoint` says that no entry of the state enters two measurements (masks, pooling, grey, decimation and every chain
    of them), so that A A^T is diagonal and an SVD is at hand.
    """

    disjoint = False

    def __call__(self, z: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def adjoint(self, x: Tensor) -> Tensor:
        """A^T x: measurement -> state, with <A z, x> = <z, A^T x>."""
        raise NotImplementedError(f"{type(self).__name__} must define adjoint")

    def svd(self, z: Tensor) -> SVD | None:
        """The SVD for states with the shape (B aside), dtype and device of `z`; None where no closed form is known."""
        return None

    def pinv(self, x: Tensor) -> Tensor:
        """A^+ x (Moore-Penrose): A A^+ A = A, A^+ A A^+ = A^+, and A A^+ and A^+ A are symmetric."""
        back = self.adjoint(x)
        svd = self.svd(back)
        if svd is not None:
            return svd.v(svd.ut(x) / svd.singular_values)
        z = _conjugate_gradients(lambda z: self.adjoint(self(z)), self.adjoint(x.double()), "pinv")
        return z.to(x.dtype)

    def solve(self, rhs: Tensor, rho: float) -> Tensor:
        """(A^T A + rho I)^-1 rhs for a state `rhs` and rho > 0.

        For argmin ||A z - x||^2 + rho ||z - z_0||^2 prefer z_0 + damped_pinv(x - A z_0, rho): it is the same vector,
        but A^T x + rho z_0 loses the digits of rho z_0 when rho is small.
        """
        rho = _rho(rho)
        svd = self.svd(rhs)
        if svd is not None:
            return _shrink(rhs, svd.vt, svd.v, svd.singular_values, rho)
        z = _conjugate_gradients(lambda z: self.adjoint(self(z)) + rho * z, rhs.double(), "solve")
        return z.to(rhs.dtype)

    def damped_pinv(self, x: Tensor, rho: float) -> Tensor:
        """A^T (A A^T + rho I)^-1 x for a measurement x and rho > 0: argmin ||A z - x||^2 + rho ||z||^2, A^+ x as rho -> 0.

        Not adjoint(solve_data(x, rho)) in so many words: the part of x that A never makes, such as noise at frequencies that
        a blur erases, would be divided by rho first, and in float32 the adjoint would not bring it back to 0.
        """
        rho = _rho(rho)
        back = self.adjoint(x)
        svd = self.svd(back)
        if svd is not None:
            return svd.v(svd.ut(x) * (svd.singular_values / (svd.singular_values**2 + rho)))
        z = _conjugate_gradients(lambda z: self.adjoint(self(z)) + rho * z, self.adjoint(x.double()), "damped_pinv")
        return z.to(x.dtype)

    def solve_data(self, rhs: Tensor, rho: float) -> Tensor:
        """(A A^T + rho I)^-1 rhs for a measurement `rhs` and rho > 0."""
        rho = _rho(rho)
        svd = self.svd(self.adjoint(rhs))
        if svd is not None:
            return _shrink(rhs, svd.ut, svd.u, svd.singular_values, rho)
        x = _conjugate_gradients(lambda x: self(self.adjoint(x)) + rho * x, rhs.double(), "solve_data")
        return x.to(rhs.dtype)

    def dense(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
        """The matrix (M, N) of A for states of `shape` = (C, H, W): rows and columns in C, H, W order."""
        n = math.prod(shape)
        return self(torch.eye(n, dtype=dtype).reshape(n, *shape)).flatten(1).T.contiguous()

    def __matmul__(self, inner: LinearOperator) -> LinearOperator:
        if not isinstance(inner, LinearOperator):
            return NotImplemented
        return Composition(self, inner)


class Composition(LinearOperator):
    """A @ B: z -> A(B(z)). (A B)^T = B^T A^T, but (A B)^+ is not B^+ A^+ in general: take pooling after a mask.

    The SVD is closed when A or B is a multiple of an orthogonal map on the space between them (B B^T = c^2 I: pooling,
    grey, Haar and chains of them; A^T A = c^2 I: Haar), and when both are `disjoint` (pooling of grey of a mask, in any
    order). `operators` and `blurs` add blur of blur, decimation or pooling of a blur, grey of a resize or blur, and
    dense of dense. Otherwise (a bicubic resize of a blur, a mask of a resize) `svd` is None and the base class
    iterates; small ones can be had as Dense(operator.dense(shape), shape). DDNM's code (2212.00490) composes
    pseudo-inverses for its old-photo task, pooling of grey of a mask, which is not the pseudo-inverse.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        self.outer, self.inner = outer, inner
        self.disjoint = outer.disjoint and inner.disjoint

    def __call__(self, z: Tensor) -> Tensor:
        return self.outer(self.inner(z))

    def adjoint(self, x: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(x))

    def svd(self, z: Tensor) -> SVD | None:
        between = self.inner(z[:1])
        outer, inner = self.outer.svd(between), self.inner.svd(z)
        if outer is None or inner is None:
            return None
        if _all_equal(inner.singular_values, between.numel()):
            return SVD(
                outer.singular_values * inner.singular_values[0],
                vt=lambda z: outer.vt(inner.u(inner.vt(z))),
                v=lambda c: inner.v(inner.ut(outer.v(c))),
                ut=outer.ut,
                u=outer.u,
            )
        if _all_equal(outer.singular_values, between.numel()):
            return SVD(
                outer.singular_values[0] * inner.singular_values,
                vt=inner.vt,
                v=inner.v,
                ut=lambda x: inner.ut(outer.v(outer.ut(x))),
                u=lambda c: outer.u(outer.vt(inner.u(c))),
            )
        if self.disjoint:
            ones = torch.ones_like(self.outer(between), dtype=torch.float64)
            back = to_shape(ones.shape[1:])
            return svd_from_gram(self, z, flatten, back, self(self.adjoint(ones)).flatten())
        return None


def _rho(rho: float | Tensor) -> float:
    return check_positive(rho.item() if isinstance(rho, Tensor) and rho.numel() == 1 else rho, "rho")


def _all_equal(s: Tensor, size: int) -> bool:
    """Whether there are `size` singular values and all are the same to rounding: a multiple of an orthogonal map."""
    return len(s) == size and bool(s.max() - s.min() <= 32 * torch.finfo(s.dtype).eps * s.max())


def _shrink(rhs: Tensor, to: Map, back: Map, s: Tensor, rho: float) -> Tensor:
    """(Q diag(s^2) Q^T + rho I)^-1 rhs with Q^T = `to`, Q = `back`: over s^2 + rho inside span(Q), over rho outside."""
    c = to(rhs)
    inside = back(c / (s**2 + rho))
    return inside if len(s) == rhs[0].numel() else inside + (rhs - back(c)) / rho


def _conjugate_gradients(apply: Map, rhs: Tensor, caller: str) -> Tensor:
    """Solve apply(y) = rhs for a symmetric non-negative `apply`, from y = 0, every sample with its own step lengths.

    Starting from zero keeps y in the range of `apply`, so the answer is the shortest one. Hestenes and Stiefel 1952.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (rhs.ndim - 1))

    y, residual, direction = torch.zeros_like(rhs), rhs, rhs
    size = start = dot(rhs, rhs)
    for _ in range(1000):
        running = size > 1e-24 * start
        if not running.any():
            return y
        image = apply(direction)
        step = torch.where(running, size / torch.where(running, dot(direction, image), 1), 0)
        y, residual = y + step * direction, residual - step * image
        new_size = dot(residual, residual)
        direction = residual + torch.where(running, new_size / torch.where(running, size, 1), 0) * direction
        size = new_size
    reached = (size / start.clamp_min(torch.finfo(start.dtype).tiny)).max().sqrt()
    warnings.warn(
        f"{caller}: 1000 steps of conjugate gradients left a relative residual of {reached:.1e}", stacklevel=3
    )
    return y


def check_state(z: Tensor, argument: str, multiple_of: int = 1, flat: bool = False) -> Tensor:
    """Return `z` when it is floating point and (B, C, H, W), or (B, D) if `flat`. Values are not looked at."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{argument} must be a torch tensor, but a {type(z).__name__} came")
    if not z.is_floating_point():
        raise TypeError(f"{argument} must be floating point, but its dtype is {z.dtype}")
    if z.ndim != 4 and not (flat and z.ndim >= 2):
        expected = "(B, C, H, W) or (B, D)" if flat else "(B, C, H, W)"
        raise ValueError(f"{argument} must have shape {expected}, but its shape is {tuple(z.shape)}")
    if 0 in z.shape:
        raise ValueError(f"{argument} must not be empty, but its shape is {tuple(z.shape)}")
    if not flat and (z.shape[-2] % multiple_of or z.shape[-1] % multiple_of):
        raise ValueError(
            f"{argument} must have a height and width that are multiples of {multiple_of},"
            f" but it is {z.shape[-2]}x{z.shape[-1]}"
        )
    return z


def flatten(z: Tensor) -> Tensor:
    return z.flatten(1)


def to_shape(shape: tuple[int, ...]) -> Map:
    return lambda c: c.reshape(len(c), *shape)


def picking(kept: Tensor) -> Map:
    return lambda z: z.flatten(1)[:, kept]


def putting(kept: Tensor, shape: tuple[int, ...]) -> Map:
    return lambda c: c.new_zeros(len(c), math.prod(shape)).index_copy(1, kept, c).reshape(len(c), *shape)


def clearly_positive(s: Tensor, dtype: torch.dtype) -> Tensor:
    """Which singular values are not zero, for states of this dtype."""
    return s > 32 * torch.finfo(dtype).eps * s.max()


def svd_from_gram(operator: LinearOperator, z: Tensor, basis: Map, back: Map, gram: Tensor) -> SVD:
    """The SVD of an `operator` whose A A^T is diagonal in a known orthonormal basis of the measurements.

    `basis` takes a measurement (B, ...) to its coordinates (B, M) there, `back` is its inverse, and `gram` (M,) in
    float64 holds the eigenvalues of A A^T. Then U is the basis, s = sqrt(gram) where that is not zero, and
    V^T z = U^T A z / s is orthonormal by itself. That division is done in float64: in float32 the directions of small s
    would lose their length to rounding.
    """
    s = gram.clamp(min=0).sqrt()
    kept = clearly_positive(s, z.dtype).nonzero()[:, 0].to(z.device)
    exact, pick, put = s.to(z.device)[kept], picking(kept), putting(kept, (len(s),))
    return SVD(
        exact.to(z.dtype),
        vt=lambda z: (pick(basis(operator(z.double()))) / exact).to(z.dtype),
        v=lambda c: operator.adjoint(back(put(c.double() / exact))).to(c.dtype),
        ut=lambda x: pick(basis(x)),
        u=lambda c: back(put(c)),
    )
