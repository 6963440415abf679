"""Checks for the exercises of chapter 05."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..noise import Noise, standard_normal
from ..oracles import GaussianMixture
from ..score_matching import ladder_step_sizes, noise_ladder
from . import Exercise, Mistake

Score = Callable[[Tensor], Tensor]
Mixture = tuple[Tensor, Tensor, Tensor, Tensor, float, float]  # z, weights, means, variances, alpha, sigma


def _mixture(generator: Generator) -> Mixture:
    means = torch.tensor([-2.0, 0.5, 3.0]) + 0.3 * torch.randn(3, generator=generator)
    weights = (0.2 + torch.rand(3, generator=generator)).double()
    alpha, sigma = (0.4 + 0.5 * torch.rand(2, generator=generator)).tolist()
    z = 3 * torch.randn(7, generator=generator).double()
    variances = 0.1 + 0.4 * torch.rand(3, generator=generator).double()
    return z, weights / weights.sum(), means.double(), variances, alpha, sigma


def _mixture_score(z: Tensor, weights: Tensor, means: Tensor, variances: Tensor, alpha: float, sigma: float) -> Tensor:
    law = GaussianMixture(weights, means[:, None], variances[:, None, None])
    return law.score(z[:, None], alpha, sigma)[:, 0]


def _springs(mixture: Mixture, shared: bool = True, normal: bool = True, logarithm: bool = True) -> Tensor:
    """A mixture's score with what people get wrong switchable: responsibilities, the 1/sqrt(variance), the log."""
    z, weights, means, variances, alpha, sigma = mixture
    total = alpha**2 * variances + sigma**2
    offsets = alpha * means - z[:, None]
    log_joint = weights.log() - offsets**2 / (2 * total) - (total.log() / 2 if normal else 0)
    joint = log_joint.exp() / math.sqrt(2 * math.pi)
    shares = (joint if not logarithm else log_joint.softmax(1)) if shared else weights
    return (shares * offsets / total).sum(1)


def _chain(
    score: Score, z: Tensor, step_size: float, steps: int, noise: Noise, push: float = 0.5, power: float = 0.5
) -> Tensor:
    for _ in range(steps):
        z = z + push * step_size * score(z) + step_size**power * noise(z)
    return z


def _stuck(score: Score, z: Tensor, step_size: float, steps: int, noise: Noise) -> Tensor:
    fixed = score(z)
    return _chain(lambda z: fixed, z, step_size, steps, noise)


def _same_noise(score: Score, z: Tensor, step_size: float, steps: int, noise: Noise) -> Tensor:
    eps = noise(z)
    return _chain(score, z, step_size, steps, lambda like: eps)


def _walkers(generator: Generator) -> tuple[Score, Tensor, float, int, Noise]:
    variance = 0.5 + torch.rand((), generator=generator).item()
    z = 2 * torch.randn(5, 2, generator=generator)
    seed = int(torch.randint(0, 1000, (), generator=generator))
    return lambda z: -z / variance - 0.1 * z**3, z, 0.1, 6, standard_normal(seed)


def _linear(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    matrix = torch.randn(3, 3, generator=generator) - torch.eye(3)
    return matrix, torch.randn(3, generator=generator), torch.randn(6, 3, generator=generator)


def _at(matrix: Tensor, offset: Tensor, z: Tensor) -> Tensor:
    return z @ matrix.T + offset


def _implicit(matrix: Tensor, offset: Tensor, z: Tensor) -> Tensor:
    return torch.trace(matrix) + _at(matrix, offset, z).square().sum(1) / 2


def _denoising(score: Score, z_0: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    return _residual(score, z_0, sigma, eps).square().sum(1) / 2


def _residual(score: Score, z_0: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    return sigma[:, None] * score(z_0 + sigma[:, None] * eps) + eps


def _noisy(generator: Generator) -> tuple[Score, Tensor, Tensor, Tensor]:
    z_0, eps = torch.randn(2, 6, 3, generator=generator)
    return lambda z: -z / (1 + z.abs()), z_0, 0.2 + 1.5 * torch.rand(6, generator=generator), eps


def _from_score(score: Tensor, z: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    return _three((z + sigma**2 * score) / alpha, -sigma * score, alpha, sigma)


def _three(z_0: Tensor, eps: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    return z_0, eps, alpha * eps - sigma * z_0


def _scored(generator: Generator) -> tuple[Tensor, Tensor, float, float]:
    """Not variance preserving, so that a forgotten alpha^2 + sigma^2 is seen."""
    score, z = torch.randn(2, 4, 3, 5, generator=generator)
    alpha, sigma = (0.3 + torch.rand(2, generator=generator)).tolist()
    return score, z, alpha, sigma


def _ladder(count: int, sigma_max: float, sigma_min: float, epsilon: float) -> tuple[Tensor, Tensor]:
    ladder = noise_ladder(count, sigma_max, sigma_min)
    return ladder, ladder_step_sizes(ladder, epsilon)


def _levels(count: int, high: float, low: float, geometric: bool = True) -> Tensor:
    if not geometric:
        return torch.linspace(high, low, count, dtype=torch.float64)
    return torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64).exp()


def _rungs(generator: Generator) -> tuple[int, float, float, float]:
    high, low = torch.rand(2, generator=generator).tolist()
    return 4 + int(torch.randint(0, 9, (), generator=generator)), 5 + 20 * high, 0.05 + 0.1 * low, 1e-3


def _ladder_judge(output: tuple, count: int, high: float, low: float, epsilon: float) -> str | None:
    ladder = torch.as_tensor(output[0])
    ratios = ladder[1:] / ladder[:-1]
    return None if (ratios - ratios[0]).abs().max() < 1e-4 else "neighbouring levels do not have one ratio."


def _annealed(
    score: Callable[[Tensor, float], Tensor],
    z: Tensor,
    ladder: list[float],
    step_size: float,
    steps: int,
    noise: Noise,
    power: float = 2,
    constant: bool = False,
    shift: int = 0,
    denoise: bool = True,
    root: float = 0.5,
    push: float = 0.5,
    last: int = 2,
) -> Tensor:
    """Annealed Langevin dynamics with what people get wrong switchable."""
    for i, sigma in enumerate(ladder):
        a = step_size * (ladder[-1] if constant else sigma) ** power
        told = ladder[min(i + shift, len(ladder) - 1)]
        for _ in range(steps):
            z = z + push * a * score(z, told) + a**root * noise(z)
    return z + ladder[-1] ** last * score(z, ladder[-1]) if denoise else z


def _annealing(generator: Generator) -> tuple:
    v = 0.3 + torch.rand((), generator=generator).item()
    z = 4 * torch.randn(5, 2, generator=generator)
    seed = int(torch.randint(0, 1000, (), generator=generator))
    score = lambda z, sigma: (torch.tanh(z) - z) / (v + sigma**2)  # noqa: E731
    return score, z, _levels(4, 4.0, 0.4).tolist(), 0.15, 3, standard_normal(seed)


def _noise_after_the_end(score, z, ladder, step_size, steps, noise):
    z = _annealed(score, z, ladder, step_size, steps, noise)
    return z + ladder[-1] * noise(z)


def _variance(
    v: float,
    ladder: list[float],
    step_size: float,
    steps: int,
    shrink: int = 2,
    gain: int = 2,
    diffused: bool = True,
    a_power: int = 1,
    start: float | None = None,
) -> float:
    """Exact output variance of annealed Langevin on N(0, v), with what people get wrong switchable."""
    variance = ladder[0] ** 2 if start is None else start
    for sigma in ladder:
        a, u = step_size * sigma**2, v + (sigma**2 if diffused else 0)
        for _ in range(steps):
            variance = (1 - a / (2 * u)) ** shrink * variance + a**a_power
    return (v / (v + ladder[-1] ** 2)) ** gain * variance


def _run(generator: Generator) -> tuple[float, list[float], float, int]:
    v = 0.5 + torch.rand((), generator=generator).item()
    count = 3 + int(torch.randint(0, 4, (), generator=generator))
    return v, _levels(count, 2.0, 0.5).tolist(), 0.3, 2 + int(torch.randint(0, 4, (), generator=generator))


CHAPTER = [
    Exercise(
        "05.1",
        "the score of a noisy mixture",
        reference=_mixture_score,
        inputs=_mixture,
        mistakes=[
            Mistake(
                "you took the score of the clean mixture",
                lambda z, w, m, v, alpha, sigma: _mixture_score(z, w, m, v, 1.0, 0.0),
                "With noise each part is N(alpha m_k, alpha^2 v_k + sigma^2).",
            ),
            Mistake(
                "you forgot alpha",
                lambda z, w, m, v, alpha, sigma: _mixture_score(z, w, m, v, 1.0, sigma),
                "z = alpha z_0 + sigma eps: the means are multiplied by alpha, the variances by alpha^2.",
            ),
            Mistake(
                "you multiplied the means by alpha, but not the variances by alpha^2",
                lambda z, w, m, v, alpha, sigma: _mixture_score(z, w, alpha * m, v, 1.0, sigma),
                "alpha z_0 has variance alpha^2 v_k.",
            ),
            Mistake(
                "you left the weights out of the responsibilities",
                lambda z, w, m, v, a, s: _mixture_score(z, torch.ones_like(w) / len(w), m, v, a, s),
                "A part with twice the weight is twice as likely to have made z: w_k N_k(z).",
            ),
            Mistake(
                "you added sigma to the variance",
                lambda z, w, m, v, alpha, sigma: _mixture_score(z, w, m, v, alpha, math.sqrt(sigma)),
                "Variances add: alpha^2 v_k + sigma^2, with sigma squared.",
            ),
            Mistake(
                "you weighted the springs with the weights",
                lambda *mixture: _springs(mixture, shared=False),
                "The springs are weighted by the responsibilities, w_k N_k(z) divided by their sum.",
            ),
            Mistake(
                "you left the 1 / sqrt(variance) out of the parts' densities",
                lambda *mixture: _springs(mixture, normal=False),
                "A narrow Gaussian is taller: its density has the factor 1 / sqrt(variance), so log N_k has -log(variance)/2.",
            ),
            Mistake(
                "you took the gradient of p instead of log p",
                lambda *mixture: _springs(mixture, logarithm=False),
                "The score is the gradient of the logarithm: divide by p(z).",
            ),
            Mistake(
                "the sign is turned round",
                lambda *arguments: -_mixture_score(*arguments),
                "The score points uphill, from z towards the means.",
            ),
        ],
    ),
    Exercise(
        "05.2",
        "Langevin dynamics",
        reference=_chain,
        inputs=_walkers,
        mistakes=[
            Mistake(
                "you multiplied the noise by a instead of sqrt(a)",
                lambda *arguments: _chain(*arguments, power=1.0),
                "a is the variance of the noise, so its standard deviation is sqrt(a).",
            ),
            Mistake(
                "you multiplied the score by a instead of a/2",
                lambda *arguments: _chain(*arguments, push=1.0),
                "With noise sqrt(a) the push is a/2; a belongs together with sqrt(2a).",
            ),
            Mistake(
                "you mixed two conventions: a/2 beside sqrt(2a)",
                lambda score, z, a, *others: _chain(score, z, 2 * a, *others, push=0.25),
                "sqrt(2a) belongs to a push of a. With a push of a/2 the noise is sqrt(a).",
            ),
            Mistake(
                "the sign of the score is turned round",
                lambda *arguments: _chain(*arguments, push=-0.5),
                "The score points uphill and the walkers go uphill: add it.",
            ),
            Mistake(
                "you left the noise out",
                lambda *arguments: _chain(*arguments[:4], torch.zeros_like),
                "Without noise every walker ends on a peak; it is the noise that makes them samples.",
            ),
            Mistake(
                "you computed the score once, at the start",
                _stuck,
                "The walkers move, so the score has to be asked again at every step.",
            ),
            Mistake(
                "you drew the noise once",
                _same_noise,
                "Every step needs fresh noise: call noise(z) inside the loop.",
            ),
        ],
    ),
    Exercise(
        "05.3",
        "the implicit loss of a linear score",
        reference=_implicit,
        inputs=_linear,
        mistakes=[
            Mistake(
                "you forgot the factor 1/2",
                lambda a, b, z: torch.trace(a) + _at(a, b, z).square().sum(1),
                "The square comes with 1/2, the trace without.",
            ),
            Mistake(
                "you halved the trace as well",
                lambda a, b, z: _implicit(a, b, z) - torch.trace(a) / 2,
                "Only the square comes with 1/2: it stems from (s - grad log p)^2 / 2, the trace from the cross term.",
            ),
            Mistake(
                "you summed all entries of A",
                lambda a, b, z: a.sum() + _at(a, b, z).square().sum(1) / 2,
                "The trace is the sum of the diagonal only.",
            ),
            Mistake(
                "you took the determinant",
                lambda a, b, z: torch.linalg.det(a) + _at(a, b, z).square().sum(1) / 2,
                "Integration by parts leaves the divergence of s, which is the trace of its Jacobian.",
            ),
            Mistake(
                "the trace has the wrong sign",
                lambda a, b, z: _implicit(a, b, z) - 2 * torch.trace(a),
                "A good score has a negative divergence (it points inwards) and must be rewarded for it.",
            ),
            Mistake(
                "you averaged over the dimensions",
                lambda a, b, z: torch.trace(a) + _at(a, b, z).square().mean(1) / 2,
                "The squared norm is a sum over dimensions; with a mean it no longer balances the trace.",
            ),
            Mistake(
                "you multiplied with the transpose of A",
                lambda a, b, z: _implicit(a.T, b, z),
                "Rows of z are states, so s(z) = A z + b is z @ A.T + b.",
            ),
        ],
    ),
    Exercise(
        "05.4",
        "denoising score matching, weighted by sigma squared",
        reference=_denoising,
        inputs=_noisy,
        mistakes=[
            Mistake(
                "you showed the network the clean input",
                lambda score, z_0, sigma, eps: (sigma[:, None] * score(z_0) + eps).square().sum(1) / 2,
                "The network is asked at the noisy state z_0 + sigma eps.",
            ),
            Mistake(
                "the sign of the target is turned round",
                lambda score, z_0, sigma, eps: (_residual(score, z_0, sigma, eps) - 2 * eps).square().sum(1) / 2,
                "The score points back to the data, so its target is -eps / sigma.",
            ),
            Mistake(
                "you left the weight out",
                lambda score, z_0, sigma, eps: _denoising(score, z_0, sigma, eps) / sigma**2,
                "The loss is multiplied by lambda = sigma^2.",
            ),
            Mistake(
                "you weighted by sigma",
                lambda score, z_0, sigma, eps: _denoising(score, z_0, sigma, eps) / sigma,
                "lambda is sigma squared, because the squared score grows like 1 / sigma^2.",
            ),
            Mistake(
                "your target lacks 1 / sigma",
                lambda score, z_0, sigma, eps: (
                    (sigma[:, None] * (score(z_0 + sigma[:, None] * eps) + eps)).square().sum(1) / 2
                ),
                "The target is -eps / sigma: the score of N(z_0, sigma^2) at z_0 + sigma eps.",
            ),
            Mistake(
                "you forgot the square",
                lambda score, z_0, sigma, eps: _residual(score, z_0, sigma, eps).sum(1) / 2,
                "Positive and negative residuals cancel without the square.",
            ),
            Mistake(
                "you forgot the factor 1/2",
                lambda score, z_0, sigma, eps: 2 * _denoising(score, z_0, sigma, eps),
                "All losses of this chapter carry 1/2.",
            ),
            Mistake(
                "you used the first coordinate only",
                lambda score, z_0, sigma, eps: _residual(score, z_0, sigma, eps)[:, 0].square() / 2,
                "Sum over all dimensions of a state.",
            ),
            Mistake(
                "you used the first sample only",
                lambda score, z_0, sigma, eps: _denoising(score, z_0, sigma, eps)[:1].expand(len(z_0)),
                "Every sample has a loss of its own.",
            ),
            Mistake(
                "you averaged over the dimensions",
                lambda score, z_0, sigma, eps: _residual(score, z_0, sigma, eps).square().mean(1) / 2,
                "The squared norm is a sum over dimensions.",
            ),
        ],
    ),
    Exercise(
        "05.5",
        "from the score to z_0, eps and v",
        reference=_from_score,
        inputs=_scored,
        mistakes=[
            Mistake(
                "your Tweedie has sigma in place of sigma squared",
                lambda s, z, alpha, sigma: _three((z + sigma * s) / alpha, -sigma * s, alpha, sigma),
                "z_0 = (z + sigma^2 score) / alpha.",
            ),
            Mistake(
                "your z_0 is not divided by alpha",
                lambda s, z, alpha, sigma: _three(z + sigma**2 * s, -sigma * s, alpha, sigma),
                "z + sigma^2 score estimates alpha z_0; divide by alpha.",
            ),
            Mistake(
                "the sign in Tweedie is turned round",
                lambda s, z, alpha, sigma: _three((z - sigma**2 * s) / alpha, -sigma * s, alpha, sigma),
                "The score points from the noisy state to the data: add it.",
            ),
            Mistake(
                "the sign of eps is turned round",
                lambda s, z, alpha, sigma: _three((z + sigma**2 * s) / alpha, sigma * s, alpha, sigma),
                "score = -eps / sigma, so eps = -sigma score.",
            ),
            Mistake(
                "your eps is divided by sigma",
                lambda s, z, alpha, sigma: _three((z + sigma**2 * s) / alpha, -s / sigma, alpha, sigma),
                "score = -eps / sigma, so eps is sigma times the score, up to the sign.",
            ),
            Mistake(
                "your eps has sigma squared",
                lambda s, z, alpha, sigma: _three((z + sigma**2 * s) / alpha, -(sigma**2) * s, alpha, sigma),
                "score = -eps / sigma, with the standard deviation: eps = -sigma score. Only Tweedie has the square.",
            ),
            Mistake(
                "your three results come in another order",
                lambda *arguments: [_from_score(*arguments)[i] for i in (1, 0, 2)],
                "Return z_0 first, then eps, then v.",
            ),
            Mistake(
                "your v has alpha and sigma exchanged",
                lambda s, z, a, sigma: (*(p := _from_score(s, z, a, sigma)[:2]), sigma * p[1] - a * p[0]),
                "v = alpha eps - sigma z_0.",
            ),
            Mistake(
                "your v has the opposite sign",
                lambda *arguments: (*_from_score(*arguments)[:2], -_from_score(*arguments)[2]),
                "v = alpha eps - sigma z_0, the derivative of alpha z_0 + sigma eps along the circle from data to noise.",
            ),
            Mistake(
                "you took alpha^2 + sigma^2 = 1 for granted",
                lambda s, z, a, sigma: (*(p := _from_score(s, z, a, sigma)[:2]), (a * z - p[0]) / sigma),
                "v = (alpha z - z_0) / sigma holds in variance-preserving schedules only; take alpha eps - sigma z_0.",
            ),
        ],
    ),
    Exercise(
        "05.6",
        "the noise ladder and its step sizes",
        reference=_ladder,
        inputs=_rungs,
        judge=_ladder_judge,
        mistakes=[
            Mistake(
                "your levels are evenly spaced",
                lambda n, high, low, eps: ((lad := _levels(n, high, low, False)), eps * lad**2 / low**2),
                "The ratio of neighbours is constant, not their difference: even spacing in log sigma.",
            ),
            Mistake(
                "your ladder goes up",
                lambda n, high, low, eps: ((lad := _levels(n, low, high)), eps * lad**2 / low**2),
                "The sampler starts at the largest level: the ladder decreases.",
            ),
            Mistake(
                "your levels stop short of sigma_min",
                lambda n, high, low, eps: ((lad := _levels(n + 1, high, low)[:-1]), eps * lad**2 / low**2),
                "n levels make n - 1 ratios: the last level is sigma_min itself.",
            ),
            Mistake(
                "your step sizes grow with sigma instead of sigma squared",
                lambda n, high, low, eps: ((lad := _levels(n, high, low)), eps * lad / low),
                "a_i = epsilon sigma_i^2 / sigma_min^2: both are squared.",
            ),
            Mistake(
                "you forgot to divide by sigma_min squared",
                lambda n, high, low, eps: ((lad := _levels(n, high, low)), eps * lad**2),
                "epsilon is the step at the smallest level, where sigma_i^2 / sigma_min^2 is 1.",
            ),
            Mistake(
                "you divided by sigma_max squared",
                lambda n, high, low, eps: ((lad := _levels(n, high, low)), eps * lad**2 / high**2),
                "epsilon is the step at the smallest level: divide by sigma_min^2.",
            ),
            Mistake(
                "your step is the same at all levels",
                lambda n, high, low, eps: (_levels(n, high, low), torch.full((n,), eps, dtype=torch.float64)),
                "A constant step freezes at the large levels or throws the walkers out at the small ones.",
            ),
        ],
    ),
    Exercise(
        "05.7",
        "annealed Langevin dynamics",
        reference=_annealed,
        inputs=_annealing,
        mistakes=[
            Mistake(
                "your step size is constant",
                lambda *arguments: _annealed(*arguments, constant=True),
                "At level sigma the step is a = step_size sigma^2, with that level's sigma.",
            ),
            Mistake(
                "your step grows with sigma instead of sigma squared",
                lambda *arguments: _annealed(*arguments, power=1),
                "a = step_size sigma^2.",
            ),
            Mistake(
                "you multiplied the noise by a instead of sqrt(a)",
                lambda *arguments: _annealed(*arguments, root=1.0),
                "The noise of a Langevin step has variance a.",
            ),
            Mistake(
                "you multiplied the score by a instead of a/2",
                lambda *arguments: _annealed(*arguments, push=1.0),
                "A Langevin step with noise sqrt(a) has the push a/2.",
            ),
            Mistake(
                "your last denoising has sigma in place of sigma squared",
                lambda *arguments: _annealed(*arguments, last=1),
                "Tweedie is z + sigma^2 score.",
            ),
            Mistake(
                "you asked for the score one level too low",
                lambda *arguments: _annealed(*arguments, shift=1),
                "While you walk at level i the score must be told sigma_i, the level the state has.",
            ),
            Mistake(
                "you left out the denoising at the end",
                lambda *arguments: _annealed(*arguments, denoise=False),
                "Finish with Tweedie at the last level: z + sigma^2 score.",
            ),
            Mistake(
                "you added noise after the end",
                _noise_after_the_end,
                "The denoised state is the result; nothing is added to it.",
            ),
            Mistake(
                "you took one step a level",
                lambda score, z, ladder, step_size, steps, noise: _annealed(score, z, ladder, step_size, 1, noise),
                "Each level gets `steps` steps.",
            ),
        ],
    ),
    Exercise(
        "05.8",
        "the exact output variance of a whole run",
        reference=_variance,
        inputs=_run,
        mistakes=[
            Mistake(
                "you used the variance of the clean data",
                lambda *arguments: _variance(*arguments, diffused=False),
                "At level sigma the score belongs to the diffused law N(0, v + sigma^2).",
            ),
            Mistake(
                "you did not square the factor of the step",
                lambda *arguments: _variance(*arguments, shrink=1),
                "z is multiplied by 1 - a/(2u), so its variance is multiplied by the square of that.",
            ),
            Mistake(
                "you did not square the factor of the last denoising",
                lambda *arguments: _variance(*arguments, gain=1),
                "z is multiplied by v / (v + sigma^2), so its variance is multiplied by the square of that.",
            ),
            Mistake(
                "you left out the denoising at the end",
                lambda *arguments: _variance(*arguments, gain=0),
                "Tweedie on N(0, v) multiplies by v / (v + sigma^2), with the sigma of the last level.",
            ),
            Mistake(
                "you added a squared",
                lambda *arguments: _variance(*arguments, a_power=2),
                "The noise is sqrt(a) eps: its variance is a.",
            ),
            Mistake(
                "you started from variance sigma_1",
                lambda v, ladder, step_size, steps: _variance(v, ladder, step_size, steps, start=ladder[0]),
                "Noise of standard deviation sigma_1 has variance sigma_1 squared.",
            ),
            Mistake(
                "you started from variance v + sigma_1 squared",
                lambda v, ladder, *others: _variance(v, ladder, *others, start=v + ladder[0] ** 2),
                "The sampler starts in pure noise, sigma_1 eps, which holds no data yet.",
            ),
            Mistake(
                "you assumed that every level settles",
                lambda v, ladder, step_size, steps: _variance(v, ladder, step_size, 10_000),
                "A level takes only `steps` steps; carry the variance along instead of putting in the stationary one.",
            ),
        ],
    ),
]
