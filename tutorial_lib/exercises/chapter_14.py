"""Checks for the exercises of chapter 14."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Generator, Tensor

from ..blurs import Blur, Decimate
from ..linear_operator import SVD, LinearOperator
from ..operators import AveragePool, Bicubic, Grayscale, Mask
from ..oracles import Gaussian, affine_law, convergence_order, denoiser_for, gaussian_w2
from ..samplers import last
from ..schedules import flow, uniform_times, vp_cosine, vp_linear
from ..steps import posterior_std
from ..zero_shot import ddnm
from . import Exercise, Mistake

double = torch.float64


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=double)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=double)


# 14.1: two parents.


def _child(a: Tensor, b: Tensor, operator: LinearOperator, undo: str = "pinv") -> Tensor:
    return b + getattr(operator, undo)(operator(a) - operator(b))


def _child_inputs(generator: Generator) -> tuple[Tensor, Tensor, LinearOperator]:
    operator = (AveragePool(2), Bicubic(2), Grayscale(3), Mask(torch.eye(8)))[generator.initial_seed() % 4]
    return _normal(generator, 2, 3, 8, 8), _normal(generator, 2, 3, 8, 8), operator


def _looks_like_a(output: Tensor, a: Tensor, b: Tensor, operator: LinearOperator) -> str | None:
    same = torch.allclose(operator(output), operator(a), atol=1e-8)
    return None if same else "The camera must not be able to tell the child from a."


# 14.2: the pseudo-inverse of a chain with disjoint rows.


def _through(parts: Sequence[LinearOperator], z: Tensor) -> Tensor:
    for part in parts:
        z = part(z)
    return z


def _back_through(parts: Sequence[LinearOperator], x: Tensor, undo: str = "adjoint") -> Tensor:
    for part in reversed(parts):
        x = getattr(part, undo)(x)
    return x


def _chain_pinv(parts: Sequence[LinearOperator], x: Tensor, guarded: bool = True) -> Tensor:
    """Right as it stands. guarded: against zeros on the diagonal of A A^T."""
    gram = _through(parts, _back_through(parts, torch.ones_like(x)))
    weighed = torch.where(gram > 0, x / torch.where(gram > 0, gram, 1.0), 0.0) if guarded else x / gram
    return _back_through(parts, weighed)


def _chain_inputs(generator: Generator) -> tuple[tuple[LinearOperator, ...], Tensor]:
    mask = (_uniform(generator, 8, 8) < 0.5).double()
    mask[:2, :2] = 0  # a block of which nothing is left
    parts = (Mask(mask), Grayscale(3), AveragePool(2))
    kind = generator.initial_seed() % 4
    chain = (parts, parts[::2], (parts[1], parts[0], parts[2]), parts)[kind]
    return chain, _normal(generator, 2, 3 if kind == 1 else 1, 4, 4)


# 14.3: operators that one may trust.


class _Relabelled(Blur):
    """A blur whose coordinates run pixel by pixel while its singular values run channel by channel."""

    def svd(self, z: Tensor) -> SVD:
        right = super().svd(z)
        return SVD(right.singular_values.view(-1, z.shape[1]).T.flatten(), right.vt, right.v, right.ut, right.u)

    def __call__(self, z: Tensor) -> Tensor:
        svd = self.svd(z)
        return svd.u(svd.singular_values * svd.vt(z))

    def adjoint(self, x: Tensor) -> Tensor:
        svd = self.svd(x)
        return svd.v(svd.singular_values * svd.ut(x))


class _SameBack(Blur):
    """A blur that takes itself for its adjoint."""

    adjoint = Blur.__call__


class _NoInverse(Blur):
    """A blur that takes its adjoint for its pseudo-inverse."""

    def pinv(self, x: Tensor) -> Tensor:
        return self.adjoint(x)


def _rolled(kernel: Tensor) -> Callable[[Tensor], Tensor]:
    """The circular convolution with a 3 x 3 kernel, tap by tap."""

    def camera(z: Tensor) -> Tensor:
        taps = ((a, b) for a in range(3) for b in range(3))
        return sum(kernel[a, b] * z.roll((a - 1, b - 1), (2, 3)) for a, b in taps)

    return camera


def _verdicts(operators, camera, z, x, asks=("camera", "adjoint", "pinv"), shown: Callable | None = None) -> list[bool]:
    """Right as it stands. asks: which tests are made; shown: the image that both cameras see."""
    image = z if shown is None else shown(z)
    tests = {
        "camera": lambda a: torch.allclose(a(image), camera(image), atol=1e-6),
        "adjoint": lambda a: torch.isclose((a(z) * x).sum(), (z * a.adjoint(x)).sum(), atol=1e-6).item(),
        "pinv": lambda a: torch.allclose(a(a.pinv(a(z))), a(z), atol=1e-6),
    }
    return [all(tests[ask](a) for ask in asks) for a in operators]


def _verdict_inputs(generator: Generator) -> tuple:
    kernel = torch.tensor([[0.02, 0.03, 0.05], [0.05, 0.6, 0.15], [0.02, 0.03, 0.05]], dtype=double)
    kernel = kernel + 0.01 * _uniform(generator, 3, 3)
    kernel = kernel / kernel.sum()
    others = [_Relabelled(kernel), Blur(kernel.flip(0, 1)), _SameBack(kernel), _NoInverse(kernel)]
    others.insert(generator.initial_seed() % 4, Blur(kernel))
    return others, _rolled(kernel), _normal(generator, 1, 3, 8, 8), _normal(generator, 1, 3, 8, 8)


# 14.4: singular values of a blur that is decimated.


def _folded(kernel, size, scale, power: float = 2.0) -> Tensor:
    """Right as it stands. power: of the amplitudes that are averaged."""
    blocks = (scale, size[0] // scale, scale, size[1] // scale)
    folded = (torch.fft.fft2(kernel, s=size).abs() ** power).reshape(blocks).mean((0, 2))
    return folded ** (1 / power)


def _unfolded(kernel: Tensor, size: tuple[int, int], scale: int) -> Tensor:
    return torch.fft.fft2(kernel, s=size).abs()[: size[0] // scale, : size[1] // scale]


def _folded_inputs(generator: Generator) -> tuple[Tensor, tuple[int, int], int]:
    kernel = _uniform(generator, 3, 5) ** 2
    scale = 2 + generator.initial_seed() % 2
    return kernel / kernel.sum(), (4 * scale, 6 * scale), scale


def _as_dense(output: Tensor, kernel: Tensor, size: tuple[int, int], scale: int) -> str | None:
    exact = torch.linalg.svdvals((Decimate(scale) @ Blur(kernel)).dense((1, *size)))
    same = torch.allclose(output.flatten().sort(descending=True).values, exact, atol=1e-7)
    return None if same else "The dense matrix of this operator has other singular values."


# 14.5: DDNM's step.


def _ddnm(z, z_0, x, operator, schedule, t, s, white, v: Callable = posterior_std, raw=True, budget=True) -> Tensor:
    """Right as it stands. v: std of the fresh noise; raw: eps from the raw z_0; budget: what is left of sigma_s for eps."""
    sigma, fresh = schedule.sigma(s), v(schedule, t, s)
    corrected = z_0 + operator.pinv(x - operator(z_0))
    eps = (z - schedule.alpha(t) * (z_0 if raw else corrected)) / schedule.sigma(t)
    return schedule.alpha(s) * corrected + (sigma**2 - fresh**2 * budget).sqrt() * eps + fresh * white


def _ddnm_inputs(generator: Generator) -> tuple:
    schedule = (vp_linear(), vp_cosine(), flow(), vp_linear())[generator.initial_seed() % 4]
    operator = (AveragePool(2), Bicubic(2))[generator.initial_seed() % 2]
    s, gap = _uniform(generator, 2, low=0.2, high=0.4).tolist()
    z, z_0, other, white = (_normal(generator, 2, 3, 8, 8) for _ in range(4))
    return z, z_0, operator(other), operator, schedule, s + gap, s, white


# 14.6: the order of convergence.


@lru_cache
def _distance(n: int, eta: float) -> float:
    """W2 of DDNM with n steps to the posterior of the pair with correlation 0.9, first number measured as 1."""
    pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.9], [0.9, 1]], dtype=double))
    schedule, first, x = vp_linear(), Mask(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.0]], dtype=double)
    exact, denoiser = pair.posterior(first, x, 0.0), denoiser_for(pair, schedule)
    law = affine_law(lambda n_: last(ddnm(denoiser, schedule, first, x, 0.0, uniform_times(n), eta=eta, noise=n_)), 2)
    return gaussian_w2(*law, exact.mean, exact.covariance)


def _order(power: float = 1.0, eta: float = 1.0) -> tuple[float, int]:
    crossing = next(n for n in range(10, 90, 5) if _distance(n, 1.0) < _distance(n, 0.0))
    return power * convergence_order(lambda n: _distance(n, eta), (20, 40, 80)), crossing


# 14.7: DDRM, coordinate by coordinate.


def _ddrm(
    c_0, eps, seen, s, noise_std, alpha, sigma, share, white, per=True, shrink=True, strict=False, whole=False, mid=True
) -> Tensor:
    """Right as it stands. per: the case by the level per coordinate; shrink: by alpha; mid: the middle case goes along x."""
    level = torch.where(s > 0, noise_std / torch.where(s > 0, s, 1.0), torch.inf)
    loud = (alpha if shrink else 1) * (level if per else torch.full_like(level, noise_std))
    clear = (s > 0) & (sigma > loud if strict else sigma >= loud)
    own = torch.where(clear, alpha * level, 0.0) * (not whole)
    direct = alpha * seen + (sigma**2 - own**2).clamp(min=0).sqrt() * white
    heard = (s > 0) & ~clear & mid & (level > 0)
    along = torch.where(heard, (seen - c_0) / torch.where(heard, level, 1.0), eps)
    return torch.where(clear, direct, alpha * c_0 + sigma * ((1 - share**2) ** 0.5 * along + share * white))


def _ddrm_inputs(generator: Generator) -> tuple:
    end = generator.initial_seed() % 4 == 3
    alpha = 1.0 if end else _uniform(generator, 1, low=0.5, high=0.9).item()
    sigma = (1 - alpha**2) ** 0.5
    noise_std = 0.0 if end else 0.3 * sigma / alpha
    between = 0.3 * (1 + 1 / alpha) / 2  # alpha decides the case
    s = torch.tensor([1.0, 0.8, 0.5, between, 0.25, 0.15, 0.05, 0.0], dtype=double)
    c_0, eps, seen, white = (_normal(generator, 3, 8) for _ in range(4))
    share = _uniform(generator, 1, low=0.3, high=0.9).item()
    return c_0, eps, seen, s, noise_std, alpha, sigma, share, white


# 14.8: the law that SNIPS settles to.


def _settled(seen, level, own, variance, a, small=False, quiet=True, prior=True) -> tuple[Tensor, Tensor]:
    """Right as it stands. small: infinitely small steps; quiet: w is smaller where A sees; prior: c_0 follows c."""
    r = (level / own).clamp(max=1) ** 2
    w = torch.where(own <= level, level**2 - own.clamp(max=level) ** 2, level**2 * (1 - r)) if quiet else level**2
    pull = 1 - (1 - r) * (variance / (variance + level**2) if prior else 0)
    return r * seen / pull, w / pull / (1 if small else 1 - a * pull / 4)


def _settled_inputs(generator: Generator) -> tuple:
    level = _uniform(generator, 1, low=0.4, high=0.8).item()
    own = torch.tensor([0.2, 0.7, 1.3, 3.0, torch.inf], dtype=double) * level
    a = _uniform(generator, 1, low=0.3, high=1.0).item()
    return _normal(generator, 5), level, own, _uniform(generator, 5, low=0.2, high=2.0), a


CHAPTER = [
    Exercise(
        "14.1",
        "a child of two images",
        reference=_child,
        inputs=_child_inputs,
        judge=_looks_like_a,
        mistakes=[
            Mistake(
                "you swapped the parents",
                lambda a, b, operator: _child(b, a, operator),
                "The camera shall see a: the range part A^+ A a comes from a, the rest from b.",
            ),
            Mistake(
                "you used the adjoint for the pseudo-inverse",
                partial(_child, undo="adjoint"),
                "A^T A is no projection unless the rows of A are orthonormal; A^+ A always is.",
            ),
            Mistake(
                "you added the null part of b to the whole of a",
                lambda a, b, operator: a + b - operator.pinv(operator(b)),
                "a has a null part of its own, which must go: take A^+ A a.",
            ),
        ],
    ),
    Exercise(
        "14.2",
        "the pseudo-inverse of a chain with disjoint rows",
        reference=_chain_pinv,
        inputs=_chain_inputs,
        mistakes=[
            Mistake(
                "you composed the pseudo-inverses",
                partial(_back_through, undo="pinv"),
                "(A B)^+ is not B^+ A^+: where one pixel of a pooled block is visible, it alone must explain the mean.",
            ),
            Mistake(
                "you returned the adjoint",
                _back_through,
                "A^T x is A^+ x only when A A^T = I; divide x by the diagonal of A A^T first.",
            ),
            Mistake(
                "you divided by zero",
                partial(_chain_pinv, guarded=False),
                "A block of which nothing is visible has a zero in A A^T; its pseudo-inverse is 0 there.",
            ),
        ],
    ),
    Exercise(
        "14.3",
        "operators that one may trust",
        reference=_verdicts,
        inputs=_verdict_inputs,
        mistakes=[
            Mistake(
                "you only asked each operator about itself",
                partial(_verdicts, asks=("adjoint", "pinv")),
                "A wrong operator has an adjoint and a pseudo-inverse too: compare A z with camera(z).",
            ),
            Mistake(
                "you only compared with the camera",
                partial(_verdicts, asks=("camera",)),
                "The samplers use A^T and A^+ as well; test <A z, x> = <z, A^T x> and A A^+ A z = A z.",
            ),
            Mistake(
                "you showed the cameras a flat image",
                partial(_verdicts, shown=torch.ones_like),
                "Every kernel with the sum 1 leaves it as it is, mirrored ones too; take an image without symmetry.",
            ),
        ],
    ),
    Exercise(
        "14.4",
        "singular values by folding a spectrum",
        reference=_folded,
        inputs=_folded_inputs,
        judge=_as_dense,
        mistakes=[
            Mistake(
                "you did not fold",
                _unfolded,
                "After decimation scale^2 frequencies share one place, and each adds its power.",
            ),
            Mistake(
                "you averaged amplitudes",
                partial(_folded, power=1.0),
                "Average |k|^2 over the frequencies that alias, then take the root.",
            ),
            Mistake(
                "you forgot the root",
                lambda *arguments: _folded(*arguments) ** 2,
                "These are the eigenvalues of A A^T; singular values are their roots.",
            ),
        ],
    ),
    Exercise(
        "14.5",
        "DDNM's step",
        reference=_ddnm,
        inputs=_ddnm_inputs,
        mistakes=[
            Mistake(
                "you took eps from the corrected z_0",
                partial(_ddnm, raw=False),
                "The direction back to the noise is that of the raw denoiser; corrected, it moves the state twice.",
            ),
            Mistake(
                "your fresh noise is 0.85 sigma",
                partial(_ddnm, v=lambda schedule, t, s: 0.85 * schedule.sigma(s)),
                "That is the code's rule, which does not converge; asked is the posterior's standard deviation.",
            ),
            Mistake(
                "you left eps no less room",
                partial(_ddnm, budget=False),
                "Fresh noise takes its variance from sigma_s^2: sqrt(sigma_s^2 - v^2) is left for eps.",
            ),
        ],
    ),
    Exercise(
        "14.6",
        "how fast DDNM converges",
        reference=_order,
        mistakes=[
            Mistake(
                "that is the order of DDIM's rule, eta = 0",
                lambda: _order(eta=0.0),
                "Measure with eta = 1; its error begins smaller and falls more slowly.",
            ),
            Mistake(
                "you measured squared distances",
                lambda: _order(power=2.0),
                "gaussian_w2 is a distance; squaring it doubles the order.",
            ),
            Mistake(
                "your order has the wrong sign",
                lambda: _order(power=-1.0),
                "The error falls as n^-p, and p is the order.",
            ),
        ],
        rtol=2e-2,
    ),
    Exercise(
        "14.7",
        "DDRM's three cases",
        reference=_ddrm,
        inputs=_ddrm_inputs,
        mistakes=[
            Mistake(
                "you compared sigma with the noise of x itself",
                partial(_ddrm, per=False),
                "Divided by a small singular value that noise is large: each coordinate has its own level, noise_std / s.",
            ),
            Mistake(
                "you forgot that alpha shrinks the noise of x",
                partial(_ddrm, shrink=False),
                "The state holds alpha x-bar, so sigma is compared with alpha level.",
            ),
            Mistake(
                "your inequality is strict",
                partial(_ddrm, strict=True),
                "Without noise, at sigma = 0, both sides are 0, and x must win: otherwise A z = x fails in the end.",
            ),
            Mistake(
                "you added sigma as a whole",
                partial(_ddrm, whole=True),
                "alpha x-bar is noisy already: top up to sigma^2, do not add it.",
            ),
            Mistake(
                "you ignore x where it is louder than the state",
                partial(_ddrm, mid=False),
                "In the middle case the direction is (x-bar - c_0) / level; eps is for what A does not see.",
            ),
        ],
    ),
    Exercise(
        "14.8",
        "the law that SNIPS settles to",
        reference=_settled,
        inputs=_settled_inputs,
        mistakes=[
            Mistake(
                "your steps are infinitely small",
                partial(_settled, small=True),
                "Solve mean = k mean + ... and var = k^2 var + a w for the step as it is: it settles too wide.",
            ),
            Mistake(
                "you gave every coordinate the width level^2",
                partial(_settled, quiet=False),
                "That is the null space's; elsewhere x's own noise is part of it, or its pull narrows it.",
            ),
            Mistake(
                "you forgot that c_0 moves with c",
                partial(_settled, prior=False),
                "The denoiser answers variance / (variance + level^2) times c, so it pulls less than it seems.",
            ),
        ],
    ),
]
