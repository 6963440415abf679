"""Checks for the exercises of chapter 12."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..corruption import Corruption, blur_corruption, indi, operator_corruption
from ..operators import AveragePool, LinearOperator, Mask
from ..samplers import last
from . import Exercise, Mistake


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _images(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


# 12.1: what the operator does not see fades.


def _fade_out(z_0: Tensor, t: Tensor, operator: LinearOperator, undo: Callable | None = None) -> Tensor:
    return z_0 + _images(t) * ((undo or operator.pinv)(operator(z_0)) - z_0)


def _fade_out_inputs(generator: Generator) -> tuple[Tensor, Tensor, LinearOperator]:
    t = torch.cat([_uniform(generator, 1, low=0.2, high=0.8), torch.tensor([0.0, 1.0], dtype=torch.float64)])
    mask = (_uniform(generator, 4, 6) < 0.5).double()
    operator = Mask(mask) if generator.initial_seed() % 3 == 2 else AveragePool(2)
    return _normal(generator, 3, 3, 4, 6), t, operator


def _still_seen(output: Tensor, z_0: Tensor, t: Tensor, operator: LinearOperator) -> str | None:
    same = torch.allclose(operator(output), operator(z_0), atol=1e-9)
    return None if same else "A applied to your answer differs from A z_0: only what A does not see may fade."


# 12.2: algorithm 2.


def _cold_step(z: Tensor, z_0: Tensor, corruption: Corruption, t: float, s: float) -> Tensor:
    return z - corruption(z_0, t) + corruption(z_0, s)


def _cold_step_inputs(generator: Generator) -> tuple[Tensor, Tensor, Corruption, float, float]:
    s, gap = (_uniform(generator, 1, low=0.1, high=0.4).item() for _ in range(2))
    corruption = (blur_corruption(2.0), operator_corruption(AveragePool(2)))[generator.initial_seed() % 2]
    return _normal(generator, 2, 3, 6, 8), _normal(generator, 2, 3, 6, 8), corruption, s + gap, s


# 12.3: the loss of soft score matching.


def _soft_loss(answer: Tensor, z_0: Tensor, corruption: Corruption, t: Tensor) -> Tensor:
    return (corruption(answer, t) - corruption(z_0, t)).square().mean((1, 2, 3))


def _soft_loss_inputs(generator: Generator) -> tuple[Tensor, Tensor, Corruption, Tensor]:
    corruption = (blur_corruption(2.0), operator_corruption(AveragePool(2)))[generator.initial_seed() % 2]
    z_0, answer = _normal(generator, 3, 3, 6, 8), _normal(generator, 3, 3, 6, 8)
    return answer, z_0, corruption, _uniform(generator, 3, low=0.2, high=0.4)


# 12.4: I2SB's label, and the bridge's posterior.


def _bridge(z: Tensor, label: Tensor, v_t: float, v_s: float, at: float = 0.5, sign: float = 1.0) -> tuple:
    """Right as it stands; `at` is the power of v_t beside the label."""
    z_0 = z - sign * v_t**at * label
    return (v_s * z + (v_t - v_s) * z_0) / v_t, v_s * (v_t - v_s) / v_t


def _bridge_inputs(generator: Generator) -> tuple[Tensor, Tensor, float, float]:
    v_s, gap = (_uniform(generator, 1, low=0.05, high=0.3).item() for _ in range(2))
    return _normal(generator, 2, 3, 4, 6), _normal(generator, 2, 3, 4, 6), v_s + gap, v_s


def _by_bayes(output: tuple, z: Tensor, label: Tensor, v_t: float, v_s: float) -> str | None:
    """z_s = z_0 + sqrt(v_s) n and z_t = z_s + sqrt(v_t - v_s) n': precisions add."""
    before, after = 1 / v_s, 1 / (v_t - v_s)
    mean = (before * (z - math.sqrt(v_t) * label) + after * z) / (before + after)
    right = torch.allclose(output[0], mean, atol=1e-9) and math.isclose(output[1], 1 / (before + after))
    return None if right else "Bayes' rule with z_0 before and z after gives another mean or variance."


def _bridge_variance(variance: Callable[[float, float], float]) -> Callable:
    return lambda z, label, v_t, v_s: (_bridge(z, label, v_t, v_s)[0], variance(v_t, v_s))


# 12.5: InDI's walk.


def _indi(
    denoiser: Callable,
    z_1: Tensor,
    n: int,
    share: Callable[[float, float], float] = lambda t, s: 1 - s / t,
    asked: Callable[[float, float], float] = lambda t, s: t,
    end: int = 0,
    anew: bool = False,
) -> Tensor:
    """Right as it stands. share: of z_0 in a step; asked: the time told; end: the last knot; anew: each step starts at z_1."""
    z = z_1
    for i in range(n, end, -1):
        t, s = i / n, (i - 1) / n
        z_0 = denoiser(z, asked(t, s))
        z = s * z_1 + (1 - s) * z_0 if anew else (1 - share(t, s)) * z + share(t, s) * z_0
    return z


def _indi_inputs(generator: Generator) -> tuple[Callable, Tensor, int]:
    gain, offset = _uniform(generator, 2, low=0.5, high=2.0).tolist()
    return (
        lambda z, t: (gain * z + t).sin() + offset * t,
        _normal(generator, 2, 3, 4, 6),
        3 + generator.initial_seed() % 4,
    )


def _as_the_library_walks(output: Tensor, denoiser: Callable, z_1: Tensor, n: int) -> str | None:
    theirs = last(indi(denoiser, z_1, torch.linspace(1, 0, n + 1, dtype=torch.float64)))
    return None if torch.allclose(output, theirs, atol=1e-9) else "corruption.indi walks elsewhere on the same grid."


# 12.6: steps until 95 % of the spread.

CORRELATION = 0.6


def _spread(n: int) -> float:
    """Standard deviation after n even InDI steps; z_0 and z_1 have variance 1 and the correlation above."""
    std = 1.0
    for i in range(n, 0, -1):
        t, s = i / n, (i - 1) / n
        shared = (1 - t) + t * CORRELATION
        answer = shared / ((1 - t) ** 2 + 2 * t * (1 - t) * CORRELATION + t**2)
        std *= s / t + (1 - s / t) * answer
    return std


def _steps_until(spread: float) -> int:
    return next(n for n in range(1, 10_000) if _spread(n) >= spread)


# 12.7: ResShift's schedule.


def _levels(
    steps: int, kappa: float, power: float, first: float, last: float, squared: int = 2
) -> tuple[Tensor, Tensor]:
    """Right as it stands; squared=1 takes sqrt(eta) for eta."""
    shares = torch.linspace(0, 1, steps, dtype=torch.float64)
    eta = (first * (last / first) ** shares**power) ** squared
    return eta, kappa * eta.sqrt()


def _levels_inputs(generator: Generator) -> tuple[int, float, float, float, float]:
    kappa, power = _uniform(generator, 2, low=0.3, high=0.9).tolist()
    return (4, 8, 15, 20)[generator.initial_seed() % 4], 4 * kappa, power, 0.02 + power / 10, 0.99


# 12.8: one network for every bridge.


def _told(
    plain: Callable,
    z: Tensor,
    z_1: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    weight: Callable[[Tensor], Tensor] = lambda alpha: 1 - alpha,
    size: Callable[[Tensor, Tensor], Tensor] = torch.hypot,
    power: float = 2.0,
) -> Tensor:
    """Right as it stands. weight: of the z_1 taken out; size: what the rest is divided by; power: log_snr is its log ratio."""
    u = (z - _images(weight(alpha)) * z_1) / _images(size(alpha, sigma))
    return plain(u, power * (alpha / sigma).log())


def _told_inputs(generator: Generator) -> tuple[Callable, Tensor, Tensor, Tensor, Tensor]:
    gain = _uniform(generator, 1, low=0.5, high=2.0).item()

    def plain(u: Tensor, log_snr: Tensor) -> Tensor:
        return (gain * u + _images(log_snr)).sin() + u

    alpha, sigma = _uniform(generator, 3, low=0.1, high=0.9), _uniform(generator, 3, low=0.1, high=2.0)
    return plain, _normal(generator, 3, 3, 4, 6), _normal(generator, 3, 3, 4, 6), alpha, sigma


CHAPTER = [
    Exercise(
        "12.1",
        "a corruption that takes away what an operator does not see",
        reference=_fade_out,
        inputs=_fade_out_inputs,
        judge=_still_seen,
        mistakes=[
            Mistake(
                "your time runs backwards",
                lambda z_0, t, operator: _fade_out(z_0, 1 - t, operator),
                "At t = 0 a corruption is the identity, at t = 1 it is complete.",
            ),
            Mistake(
                "you used the adjoint for the pseudo-inverse",
                lambda z_0, t, operator: _fade_out(z_0, t, operator, operator.adjoint),
                "A^T A z_0 is too dark where the rows of A are not orthonormal: a pool of 2 x 2 leaves a quarter.",
            ),
            Mistake(
                "you faded the whole image to zero",
                lambda z_0, t, operator: (1 - _images(t)) * z_0,
                "What A sees stays; at t = 1 the state is A^+ A z_0, the enlarged LR image.",
            ),
            Mistake(
                "you gave every image the first image's time",
                lambda z_0, t, operator: _fade_out(z_0, t[:1].expand(len(t)), operator),
                "t holds one time per image: bring it to the shape (B, 1, 1, 1).",
            ),
        ],
    ),
    Exercise(
        "12.2",
        "cold diffusion's second algorithm",
        reference=_cold_step,
        inputs=_cold_step_inputs,
        mistakes=[
            Mistake(
                "that is algorithm 1",
                lambda z, z_0, corruption, t, s: corruption(z_0, s),
                "It throws the state away, so every error of z_0 enters whole; keep z and add only the change of C.",
            ),
            Mistake(
                "you walk the wrong way",
                lambda z, z_0, corruption, t, s: z + corruption(z_0, t) - corruption(z_0, s),
                "Take away the corruption of now, C(z_0, t), and put on that of s.",
            ),
            Mistake(
                "you corrupted the state a second time",
                lambda z, z_0, corruption, t, s: z - corruption(z, t) + corruption(z_0, s),
                "z is corrupted already; C is a function of the clean estimate, C(z_0, t).",
            ),
            Mistake(
                "you took off the corruption of the time between",
                lambda z, z_0, corruption, t, s: z - corruption(z_0, t - s),
                "C(z_0, t - s) is an image, and the change of C is C(z_0, s) - C(z_0, t).",
            ),
        ],
    ),
    Exercise(
        "12.3",
        "the loss inside the corruption",
        reference=_soft_loss,
        inputs=_soft_loss_inputs,
        mistakes=[
            Mistake(
                "you measured outside the corruption",
                lambda answer, z_0, corruption, t: (answer - z_0).square().mean((1, 2, 3)),
                "That asks for details which C_t has removed; soft score matching compares C_t answer with C_t z_0.",
            ),
            Mistake(
                "you corrupted the answer only",
                lambda answer, z_0, corruption, t: (corruption(answer, t) - z_0).square().mean((1, 2, 3)),
                "Then a network that undoes C_t a second time wins; both sides go through C_t.",
            ),
            Mistake(
                "your time runs backwards",
                lambda answer, z_0, corruption, t: _soft_loss(answer, z_0, corruption, 1 - t),
                "The loss uses the corruption that made the state, C at time t.",
            ),
            Mistake(
                "you averaged over the batch",
                lambda answer, z_0, corruption, t: _soft_loss(answer, z_0, corruption, t).mean().expand(len(t)),
                "Each image has its own time and later its own weight: return (B,).",
            ),
        ],
    ),
    Exercise(
        "12.4",
        "one step of I2SB: mean and variance",
        reference=lambda *arguments: _bridge(*arguments),
        inputs=_bridge_inputs,
        judge=_by_bayes,
        mistakes=[
            Mistake(
                "you multiplied the label by v_t",
                lambda *arguments: _bridge(*arguments, at=1.0),
                "The label is (z_t - z_0) / sqrt(v_t): v is a variance.",
            ),
            Mistake(
                "you added the label",
                lambda *arguments: _bridge(*arguments, sign=-1.0),
                "The label points from z_0 to z_t, so it is taken away.",
            ),
            Mistake(
                "you swapped the weights of the mean",
                lambda z, label, v_t, v_s: (z - v_s / v_t**0.5 * label, _bridge(z, label, v_t, v_s)[1]),
                "For s close to t the state must hardly move: z has the weight v_s / v_t.",
            ),
            Mistake(
                "your variance looks to the wrong side",
                _bridge_variance(lambda v_t, v_s: v_t * (v_t - v_s) / v_s),
                "It must vanish at s = 0, where z_0 is known; yours is infinite there.",
            ),
            Mistake(
                "you gave the variance of a forward step",
                _bridge_variance(lambda v_t, v_s: v_t - v_s),
                "Forwards only z_s is known; backwards z_0 is known as well, which leaves the fraction v_s / v_t of it.",
            ),
            Mistake(
                "you returned the standard deviation",
                _bridge_variance(lambda v_t, v_s: math.sqrt(v_s * (v_t - v_s) / v_t)),
                "The variance was asked for; the sampler takes its root.",
            ),
        ],
    ),
    Exercise(
        "12.5",
        "InDI's walk from the LR image",
        reference=lambda *arguments: _indi(*arguments),
        inputs=_indi_inputs,
        judge=_as_the_library_walks,
        mistakes=[
            Mistake(
                "you swapped the weights",
                lambda *arguments: _indi(*arguments, share=lambda t, s: s / t),
                "z keeps s / t, the estimate gets the rest; the last step, to s = 0, returns the estimate.",
            ),
            Mistake(
                "you went the same fraction 1 / n of the way each time",
                lambda denoiser, z_1, n: _indi(denoiser, z_1, n, share=lambda t, s: 1 / n),
                "What is left of the way shrinks, so the fraction grows: (t - s) / t, and 1 in the last step.",
            ),
            Mistake(
                "you told the denoiser the time of arrival",
                lambda *arguments: _indi(*arguments, asked=lambda t, s: s),
                "The state still has the time t when the denoiser sees it.",
            ),
            Mistake(
                "you started every step from z_1 again",
                lambda *arguments: _indi(*arguments, anew=True),
                "That is cold diffusion's algorithm 1 on a fade; InDI mixes the present state with the estimate.",
            ),
            Mistake(
                "you stopped a step early",
                lambda *arguments: _indi(*arguments, end=1),
                "n steps go from t = 1 to s = 0; only t = 0 may not be divided by, and it is never a t.",
            ),
        ],
    ),
    Exercise(
        "12.6",
        "how many steps the spread costs",
        reference=lambda: _steps_until(0.95),
        mistakes=[
            Mistake(
                "you compared variances",
                _steps_until(math.sqrt(0.95)),
                "95 % of the spread means of the standard deviation, 0.9025 of the variance.",
            ),
            Mistake(
                "you closed 95 % of the gap between one step and the truth",
                _steps_until(CORRELATION + 0.95 * (1 - CORRELATION)),
                "The question is when the samples have 0.95 times the standard deviation of the data.",
            ),
            Mistake(
                "your standard deviation is still just below",
                _steps_until(0.95) - 1,
                "Take the first n at which 0.95 is reached.",
            ),
            Mistake(
                "you counted the knots of the grid",
                _steps_until(0.95) + 1,
                "n steps have n + 1 knots, and the denoiser is called n times.",
            ),
        ],
    ),
    Exercise(
        "12.7",
        "ResShift's levels",
        reference=lambda *arguments: _levels(*arguments),
        inputs=_levels_inputs,
        mistakes=[
            Mistake(
                "you took sqrt(eta) for eta",
                lambda *arguments: _levels(*arguments, squared=1),
                "The rule spaces the noise, so it is written for sqrt(eta); square it.",
            ),
            Mistake(
                "your last eta is 1",
                lambda steps, kappa, power, first, last: _levels(steps, kappa, power, first, 1.0),
                "sqrt(eta) ends at `last`, and eta at last^2: 0.98 for 0.99.",
            ),
            Mistake(
                "you forgot the power",
                lambda steps, kappa, power, first, last: _levels(steps, kappa, 1.0, first, last),
                "The share (i - 1) / (n - 1) is raised to `power` before it becomes an exponent.",
            ),
            Mistake(
                "you gave the noise a standard deviation of kappa eta",
                lambda steps, kappa, *rest: (_levels(steps, kappa, *rest)[0], kappa * _levels(steps, kappa, *rest)[0]),
                "The variance is kappa^2 eta, as for a Brownian motion whose clock is eta.",
            ),
        ],
    ),
    Exercise(
        "12.8",
        "one network for every bridge",
        reference=lambda *arguments: _told(*arguments),
        inputs=_told_inputs,
        mistakes=[
            Mistake(
                "you left z_1 in the state",
                lambda *arguments: _told(*arguments, weight=torch.zeros_like),
                "The network knows alpha z_0 + noise; take out (1 - alpha) z_1 first.",
            ),
            Mistake(
                "you took out alpha z_1",
                lambda *arguments: _told(*arguments, weight=lambda alpha: alpha),
                "In z_t = alpha z_0 + (1 - alpha) z_1 + sigma eps the weight of z_1 is 1 - alpha.",
            ),
            Mistake(
                "you did not rescale",
                lambda *arguments: _told(*arguments, size=lambda alpha, sigma: torch.ones_like(alpha)),
                "alpha^2 + sigma^2 is not 1 on a bridge; divide by its root, which changes no ratio.",
            ),
            Mistake(
                "you told it half the log SNR",
                lambda *arguments: _told(*arguments, power=1.0),
                "SNR is a ratio of variances: log(alpha^2 / sigma^2).",
            ),
            Mistake(
                "you told it the inverse of the SNR",
                lambda *arguments: _told(*arguments, power=-2.0),
                "log_snr is large where there is little noise.",
            ),
        ],
    ),
]
