"""Checks for the exercises of chapter 13."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Generator, Tensor

from ..linear_operator import LinearOperator
from ..noise import standard_normal
from ..operators import AveragePool, Bicubic, Mask
from ..oracles import Gaussian, affine_law, denoiser_for, gaussian_w2
from ..samplers import last
from ..schedules import Schedule, flow, vp_cosine, vp_linear
from ..steps import ddim_step
from ..zero_shot import ccdf, resampling_path
from . import Exercise, Mistake

double = torch.float64


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=double)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=double)


def _level(generator: Generator) -> tuple[float, float]:
    """alpha and sigma of some level on a variance-preserving schedule."""
    alpha = _uniform(generator, 1, low=0.4, high=0.9).item()
    return alpha, (1 - alpha**2) ** 0.5


def _times(generator: Generator) -> tuple[float, float]:
    s, gap = (_uniform(generator, 1, low=0.2, high=0.4).item() for _ in range(2))
    return s + gap, s


# 13.1: the exchange.


def _exchange(proposal, x, operator, alpha, sigma, white, undo: str = "pinv", gain=None, spread: float = 1.0) -> Tensor:
    """Right as it stands. gain: of x in place of alpha; spread: the power of sigma (0 means no noise)."""
    noised = (gain or alpha) * x + (sigma**spread * operator(white) if spread else 0)
    return proposal + getattr(operator, undo)(noised - operator(proposal))


def _swapped(proposal, x, operator, alpha, sigma, white) -> Tensor:
    reference = alpha * operator.pinv(x) + sigma * white
    return reference + operator.pinv(operator(proposal - reference))


def _exchange_inputs(generator: Generator) -> tuple:
    operator = (AveragePool(2), Bicubic(2), Mask(torch.eye(8, dtype=double)))[generator.initial_seed() % 3]
    z, z_0, white = (_normal(generator, 2, 3, 8, 8) for _ in range(3))
    return z, operator(z_0), operator, *_level(generator), white


def _agrees(output: Tensor, proposal, x, operator, alpha, sigma, white) -> str | None:
    same = torch.allclose(operator(output), alpha * x + sigma * operator(white), atol=1e-8)
    return None if same else "A applied to your answer is not the measurement at this noise level."


# 13.2: the law of a step.


def _spread(step: Callable, z_0, schedule, t, s, start: Callable | None = None, power: float = 0.5) -> Tensor:
    """Right as it stands. start(t, s): the time of the noise in the state before."""

    def run(noise):
        sigma = schedule.sigma(start(t, s) if start else t)
        return step(schedule.alpha(t) * z_0 + sigma * noise(z_0), z_0, t, s, noise)

    return affine_law(run, z_0.numel())[1].diagonal() ** power / schedule.sigma(s)


def _projection_step(schedule: Schedule, operator: LinearOperator, x: Tensor, level: Callable) -> Callable:
    """ILVR's step with noise of standard deviation level(t, s) in the reference."""

    def step(z, z_0, t, s, noise):
        proposal = ddim_step(z, z_0, schedule, t, s, 1.0, noise)
        reference = schedule.alpha(s) * x + level(t, s) * operator(noise(z))
        return proposal + operator.pinv(reference - operator(proposal))

    return step


def _spread_inputs(generator: Generator) -> tuple:
    kind = generator.initial_seed() % 4
    schedule = (vp_linear(), flow(), vp_cosine(), vp_linear())[kind]
    power, late = ((1, False), (1, True), (2, False), (2, True))[kind]
    noise = (lambda t, s: schedule.sigma(t) ** power) if late else (lambda t, s: schedule.sigma(s) ** power)
    z_0 = _normal(generator, 1, 1, 4, 4)
    operator = Mask((_uniform(generator, 4, 4) < 0.5).double()) if kind % 2 else AveragePool(2)
    t, s = _times(generator)
    return _projection_step(schedule, operator, operator(z_0), noise), z_0, schedule, t, s


# 13.3: one jump back.


def _rest(kept: Tensor, sigma_s: Tensor, sigma_t: Tensor) -> Tensor:
    return (sigma_t**2 - kept**2).sqrt()


def _back(z, schedule, s, t, white, scale=torch.div, std=_rest) -> Tensor:
    """Right as it stands. scale(alpha_t, alpha_s): of the state; std: of the noise that is added to what is kept."""
    (old, sigma_s), (new, sigma_t) = ((schedule.alpha(v), schedule.sigma(v)) for v in (s, t))
    return scale(new, old) * z + std(new / old * sigma_s, sigma_s, sigma_t) * white


def _back_inputs(generator: Generator) -> tuple:
    t, s = _times(generator)
    z, white = _normal(generator, 2, 3, 4, 4), _normal(generator, 2, 3, 4, 4)
    return z, (vp_linear(), vp_cosine(), flow(), vp_linear())[generator.initial_seed() % 4], s, t, white


# 13.4: what RePaint costs.


def _legs(n: int, jump: int, repeat: int) -> tuple[int, int]:
    """Denoiser calls and single steps of noise on the path."""
    path = resampling_path(n, jump, repeat)
    moves = [j - i for i, j in zip(path[:-1], path[1:], strict=True)]
    return sum(move > 0 for move in moves), -sum(move for move in moves if move < 0)


def _legs_inputs(generator: Generator) -> tuple[int, int, int]:
    jump, repeat, stretches = (int(_uniform(generator, 1, low=low, high=low + 5)) for low in (2, 3, 4))
    return jump * stretches + generator.initial_seed() % 2, jump, repeat


# 13.5: a noisy measurement.


def _top_up(own: Tensor, sigma: float) -> Tensor:
    return (sigma**2 - own**2).clamp(min=0).sqrt()


def _noisy(c, seen, level, alpha, sigma, white, shrink=True, top_up=_top_up, everywhere=False) -> Tensor:
    """Right as it stands. shrink: the noise of x by alpha; everywhere: exchange every coordinate."""
    own = alpha * level if shrink else level
    return torch.where((own <= sigma) | everywhere, alpha * seen + top_up(own, sigma) * white, c)


def _noisy_inputs(generator: Generator) -> tuple:
    alpha, sigma = _level(generator)
    level = sigma * torch.tensor([0.1, 0.5, 0.9, 1.05, 1.5, 4.0], dtype=double) / alpha
    level = level * _uniform(generator, 6, low=0.97, high=1.03)
    level[2] = sigma * (1 + 1 / alpha) / 2  # between sigma and sigma / alpha
    c, seen, white = (_normal(generator, 3, 6) for _ in range(3))
    return c, seen, level, alpha, sigma, white


# 13.6: what a late start forgets.


def _left(alpha: float, sigma: float, variances: Tensor) -> Tensor:
    return alpha**2 * variances / (alpha**2 * variances + sigma**2)


def _left_inputs(generator: Generator) -> tuple[float, float, Tensor]:
    return *_level(generator), _uniform(generator, 5, low=0.05, high=3.0)


# 13.7: YODA's step.


def _begin(a: Tensor, lowest: float) -> Tensor:
    return lowest + (1 - lowest) * a


def _masked(proposal, guide, importance, t, lowest, alpha, sigma, white, begin=_begin, inside=torch.le, quiet=False):
    """Right as it stands. begin: each pixel's start; inside(t, begin): whether it is diffused; quiet: no noise in the guide."""
    diffused = inside(torch.tensor(t, dtype=double), begin(importance, lowest))
    return torch.where(diffused, proposal, alpha * guide + (0 if quiet else sigma) * white)


def _masked_inputs(generator: Generator) -> tuple:
    lowest = (0.25, 0.5, 0.0, 0.5)[generator.initial_seed() % 4]
    t = lowest + (1 - lowest) * 0.5  # exactly where importance is a half
    importance = (_uniform(generator, 2, 1, 8, 8) ** 2 * 8).round() / 8
    proposal, guide, white = (_normal(generator, 2, 3, 8, 8) for _ in range(3))
    return proposal, guide, importance, t, lowest, *_level(generator), white


# 13.8: the latest start.


@lru_cache
def _distance(start: float) -> float:
    """W2 per pixel of CCDF from `start`, 50 steps a unit of time, to the posterior of a smooth 6 x 6 image pooled by 3."""
    places = torch.cartesian_prod(torch.arange(6, dtype=double), torch.arange(6, dtype=double))
    covariance = 0.3 * torch.exp(-(torch.cdist(places, places) ** 2) / 8) + 0.01 * torch.eye(36, dtype=double)
    prior, schedule, pool = Gaussian(torch.zeros(1, 6, 6, dtype=double), covariance), vp_linear(), AveragePool(3)
    x = pool(prior.sample(1, standard_normal(3)))
    exact = prior.posterior(pool, x, 0.0)
    times = torch.linspace(start, 0, round(50 * start) + 1, dtype=double)
    walk = affine_law(lambda n: last(ccdf(denoiser_for(prior, schedule), schedule, pool, x, 0.0, times, noise=n)), 36)
    return gaussian_w2(*walk, exact.mean.flatten(), exact.covariance) / 6


def _latest() -> tuple[float, int]:
    start = next(k / 10 for k in range(1, 11) if _distance(k / 10) <= 1.1 * _distance(1.0))
    return start, round(50 * start)


CHAPTER = [
    Exercise(
        "13.1",
        "what the camera sees, exchanged at its noise level",
        reference=_exchange,
        inputs=_exchange_inputs,
        judge=_agrees,
        mistakes=[
            Mistake(
                "you used the adjoint for the pseudo-inverse",
                partial(_exchange, undo="adjoint"),
                "A A^T is not the identity, so only a part of the difference is taken away; A A^+ is.",
            ),
            Mistake(
                "you exchanged what the camera does not see",
                _swapped,
                "Range and null space are swapped: x speaks about A^+ A z, the model about the rest.",
            ),
            Mistake(
                "you pasted the clean measurement into a noisy state",
                partial(_exchange, spread=0),
                "A state at this level has noise of standard deviation sigma everywhere: add sigma A white.",
            ),
            Mistake(
                "you gave the measurement the variance for a standard deviation",
                partial(_exchange, spread=2),
                "RePaint's algorithm prints 1 - alpha-bar there; noise of that variance is its root times white.",
            ),
            Mistake(
                "you forgot alpha",
                partial(_exchange, gain=1.0),
                "A state holds alpha z_0, so its measurement holds alpha x.",
            ),
            Mistake(
                "your noise falls on the null space as well",
                lambda proposal, x, operator, alpha, sigma, white: (
                    proposal + operator.pinv(alpha * x - operator(proposal)) + sigma * white
                ),
                "The rest of the proposal is noisy enough already: the noise goes through A first.",
            ),
        ],
    ),
    Exercise(
        "13.2",
        "the spread of one step, measured exactly",
        reference=_spread,
        inputs=_spread_inputs,
        mistakes=[
            Mistake(
                "your start has no noise",
                partial(_spread, start=lambda t, s: 0.0),
                "The state at t is random too: alpha_t z_0 + sigma_t noise(z_0).",
            ),
            Mistake(
                "your start has the noise of level s",
                partial(_spread, start=lambda t, s: s),
                "The step leaves from t, so its state has sigma(t) there.",
            ),
            Mistake(
                "you returned a ratio of variances",
                lambda *arguments: _spread(*arguments) ** 2,
                "affine_law gives the covariance; take the root of its diagonal.",
            ),
            Mistake(
                "you did not divide by sigma",
                lambda *arguments: _spread(*arguments) * arguments[2].sigma(arguments[4]),
                "Asked is the ratio to the standard deviation that is right, sigma(s).",
            ),
        ],
    ),
    Exercise(
        "13.3",
        "back to a noisier level",
        reference=_back,
        inputs=_back_inputs,
        mistakes=[
            Mistake(
                "you added the noise of a clean image",
                partial(_back, std=lambda kept, sigma_s, sigma_t: sigma_t),
                "The state is noisy already; after scaling it holds alpha_t sigma_s / alpha_s of the sigma_t that it needs.",
            ),
            Mistake(
                "you scaled by alpha_t",
                partial(_back, scale=lambda new, old: new),
                "The state holds alpha_s z_0, and shall hold alpha_t z_0: scale by the ratio.",
            ),
            Mistake(
                "you did not scale the noise that is there",
                partial(_back, std=lambda kept, sigma_s, sigma_t: (sigma_t**2 - sigma_s**2).sqrt()),
                "Scaling the state shrinks its old noise as well, to alpha_t sigma_s / alpha_s.",
            ),
            Mistake(
                "you subtracted standard deviations",
                partial(_back, std=lambda kept, sigma_s, sigma_t: sigma_t - kept),
                "Variances of independent noises add, standard deviations do not.",
            ),
        ],
    ),
    Exercise(
        "13.4",
        "the calls on RePaint's path",
        reference=lambda *arguments: _legs(*arguments)[0],
        inputs=_legs_inputs,
        mistakes=[
            Mistake(
                "you counted the steps back as well",
                lambda *arguments: sum(_legs(*arguments)),
                "Adding noise asks no network; only steps down are calls.",
            ),
            Mistake(
                "you go back from the finished sample as well",
                lambda n, jump, repeat: n + len(range(0, n - jump + 1, jump)) * jump * (repeat - 1),
                "k begins at 1: a sample without noise is not noised again.",
            ),
            Mistake(
                "you repeat once too often",
                lambda n, jump, repeat: _legs(n, jump, repeat + 1)[0],
                "repeat counts the first walk of a stretch too: it goes back repeat - 1 times.",
            ),
            Mistake(
                "you paid one call for a whole jump",
                lambda n, jump, repeat: n + (_legs(n, jump, 2)[0] - n) // jump * (repeat - 1),
                "Going back is one draw of noise, but walking down again costs a call for each of `jump` steps.",
            ),
        ],
    ),
    Exercise(
        "13.5",
        "an exchange that knows the camera's noise",
        reference=_noisy,
        inputs=_noisy_inputs,
        mistakes=[
            Mistake(
                "you added sigma as a whole",
                partial(_noisy, top_up=lambda own, sigma: sigma),
                "x brings noise of its own, alpha times level; only what is missing to sigma is added.",
            ),
            Mistake(
                "you forgot that alpha shrinks the noise of x",
                partial(_noisy, shrink=False),
                "The state holds alpha x-bar, so its measurement's noise is alpha times level.",
            ),
            Mistake(
                "you subtracted standard deviations",
                partial(_noisy, top_up=lambda own, sigma: sigma - own),
                "Variances of independent noises add: the top-up is sqrt(sigma^2 - (alpha level)^2).",
            ),
            Mistake(
                "you believe x where it is noisier than the state",
                partial(_noisy, everywhere=True),
                "There is no room left for a top-up there: such a coordinate keeps its proposal c.",
            ),
        ],
    ),
    Exercise(
        "13.6",
        "the error that a late start leaves",
        reference=_left,
        inputs=_left_inputs,
        mistakes=[
            Mistake(
                "that is what the probability flow leaves",
                lambda *arguments: _left(*arguments).sqrt(),
                "The flow maps standard deviation to standard deviation; DDPM draws from p(z_0 | z_t), whose mean forgets more.",
            ),
            Mistake(
                "you stopped at the gain of the denoiser",
                lambda alpha, sigma, variances: _left(alpha, sigma, variances) / alpha,
                "The error of init is multiplied by alpha before the walk begins.",
            ),
            Mistake(
                "you answered what is forgotten",
                lambda *arguments: 1 - _left(*arguments),
                "Asked is what is left, which goes to 1 when the start has no noise.",
            ),
            Mistake(
                "you left sigma unsquared",
                lambda alpha, sigma, variances: _left(alpha, sigma**0.5, variances),
                "Compare variances: alpha^2 v of the signal and sigma^2 of the noise.",
            ),
        ],
    ),
    Exercise(
        "13.7",
        "YODA's step",
        reference=_masked,
        inputs=_masked_inputs,
        mistakes=[
            Mistake(
                "your mask is inverted",
                partial(_masked, inside=torch.gt),
                "Important pixels are diffused from early on: a pixel joins once t has fallen to its threshold.",
            ),
            Mistake(
                "your inequality is strict",
                partial(_masked, inside=torch.lt),
                "A pixel of importance 1 has the threshold 1, and must take part from t = 1 on.",
            ),
            Mistake(
                "you raised small importances to lowest",
                partial(_masked, begin=lambda a, lowest: a.clamp(min=lowest)),
                "Scale [0, 1] into [lowest, 1]; a clamp leaves the others where they were.",
            ),
            Mistake(
                "your guide has no noise",
                partial(_masked, quiet=True),
                "The network sees one state at one level: the pixels that wait need sigma white like the others.",
            ),
        ],
    ),
    Exercise(
        "13.8",
        "how late CCDF may start",
        reference=_latest,
        mistakes=[
            Mistake(
                "you judged by the data residual",
                (0.1, 5),
                "A z = x holds after every walk, however short; ask how far the law is from the posterior.",
            ),
            Mistake(
                "that start is too late",
                (0.3, 15),
                "Its distance is more than a tenth above that of the full walk; the blur of A^+ x is still in the samples.",
            ),
            Mistake(
                "you are on the safe side",
                (0.5, 25),
                "One start of the list is later and still within a tenth of the full walk.",
            ),
            Mistake(
                "you walked all the way",
                (1.0, 50),
                "The full walk is the yardstick; the question is how much of it can be left out.",
            ),
        ],
    ),
]
