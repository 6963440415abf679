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

    With an SVD, `pinv`, `solve` and `solve_data` are exact to rounding; singular values below 32 machine epsilons of
    the input's dtype, relative to the largest, count as zero. Without one they run conjugate gradients in float64 until
    each sample's residual is 1e-12 of where it began, and warn when 1000 steps do not get there.
    """

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

        For argmin ||A z - x||^2 + rho ||z - z_0||^2 prefer z_0 + A^T solve_data(x - A z_0, rho): it is the same vector,
        but A^T x + rho z_0 loses the digits of rho z_0 when rho is small.
        """
        rho = _rho(rho)
        svd = self.svd(rhs)
        if svd is not None:
            return _shrink(rhs, svd.vt, svd.v, svd.singular_values, rho)
        z = _conjugate_gradients(lambda z: self.adjoint(self(z)) + rho * z, rhs.double(), "solve")
        return z.to(rhs.dtype)

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
    grey, Haar and chains of them; A^T A = c^2 I: Haar). `operators` adds blur of blur, grey of a resize or blur, and
    dense of dense. Otherwise (a resize of a blur, say) `svd` is None and the base class iterates. DDNM's code
    (2212.00490) composes pseudo-inverses for its old-photo task.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        self.outer, self.inner = outer, inner

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
