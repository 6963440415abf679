"""Checks for the exercises of chapter 04."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..noise import Noise, standard_normal
from ..schedules import Schedule, from_betas, vp_cosine
from ..steps import broadcast
from . import Exercise, Mistake

EpsModel = Callable[[Tensor, int], Tensor]


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _jump_with(z_0: Tensor, kept: Tensor, eps: Tensor) -> Tensor:
    return kept.sqrt() * z_0 + (1 - kept).sqrt() * eps


def _kept(betas: Tensor, k: int) -> Tensor:
    return (1 - betas[:k]).prod()


def _walk(z_0: Tensor, betas: Tensor, k: int, eps: Tensor) -> Tensor:
    for beta in betas[:k]:
        z_0 = (1 - beta).sqrt() * z_0 + beta.sqrt() * eps
    return z_0


def _jump_inputs(generator: Generator) -> tuple[Tensor, Tensor, int, Tensor]:
    betas = _uniform(generator, 0.01, 0.2, 12).sort().values
    z_0, eps = torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    return z_0, betas, 2 + int(torch.randint(0, 9, (), generator=generator)), eps


Step = tuple[Tensor, Tensor, Tensor, Tensor]  # alpha_t, sigma_t, alpha_s, sigma_s


def _step(generator: Generator) -> Step:
    """A step of a schedule that does not preserve the variance, so that shortcuts show."""
    alpha_s, a = _uniform(generator, 0.7, 0.95), _uniform(generator, 0.5, 0.9)
    sigma_s, beta = _uniform(generator, 0.3, 0.8), _uniform(generator, 0.1, 0.5)
    return a * alpha_s, (a**2 * sigma_s**2 + beta).sqrt(), alpha_s, sigma_s


def _parts(alpha_t: Tensor, sigma_t: Tensor, alpha_s: Tensor, sigma_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, beta and beta-tilde of a step."""
    a = alpha_t / alpha_s
    beta = sigma_t**2 - a**2 * sigma_s**2
    return a, beta, beta * sigma_s**2 / sigma_t**2


def _posterior(z_t: Tensor, z_0: Tensor, *step: Tensor) -> tuple[Tensor, Tensor]:
    a, beta, tilde = _parts(*step)
    return (a * step[3] ** 2 * z_t + step[2] * beta * z_0) / step[1] ** 2, tilde


def _swapped(z_t: Tensor, z_0: Tensor, *step: Tensor) -> tuple[Tensor, Tensor]:
    a, beta, tilde = _parts(*step)
    return (a * step[3] ** 2 * z_0 + step[2] * beta * z_t) / step[1] ** 2, tilde


def _with_parts(z_t: Tensor, z_0: Tensor, step: Step, a: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    precision = a**2 / beta + 1 / step[3] ** 2
    return (a * z_t / beta + step[2] * z_0 / step[3] ** 2) / precision, 1 / precision


def _posterior_inputs(generator: Generator) -> tuple[Tensor, ...]:
    return (*torch.randn(2, 3, 4, generator=generator, dtype=torch.float64), *_step(generator))


def _posterior_judge(output: tuple[Tensor, Tensor], z_t: Tensor, z_0: Tensor, *step: Tensor) -> str | None:
    """By conditioning the joint Gaussian of (z_s, z_t), instead of by completing the square."""
    alpha_t, sigma_t, alpha_s, sigma_s = step
    shared = alpha_t / alpha_s * sigma_s**2  # Cov[z_s, z_t | z_0]
    mean = alpha_s * z_0 + shared / sigma_t**2 * (z_t - alpha_t * z_0)
    variance = sigma_s**2 - shared**2 / sigma_t**2
    if (output[0] - mean).abs().max() > 1e-8 or abs(output[1] - variance) > 1e-8:
        return "this is not the law that Bayes' rule gives for z_s."
    return None


def _snr(kept: Tensor) -> Tensor:
    return kept / (1 - kept)


def _weights(kept: Tensor) -> Tensor:
    return 0.5 * (_snr(kept[:-1]) / _snr(kept[1:]) - 1)


def _weights_with_beta(kept: Tensor) -> Tensor:
    beta = 1 - kept[1:] / kept[:-1]
    return beta / (2 * (1 - beta) * (1 - kept[1:]))


def _kept_table(generator: Generator) -> tuple[Tensor]:
    return ((1 - _uniform(generator, 0.01, 0.3, 9)).cumprod(0),)


def _loss(
    network: Callable[[Tensor, Tensor], Tensor], z_0: Tensor, schedule: Schedule, t: Tensor, noise: Noise
) -> Tensor:
    eps = noise(z_0)
    return (network(_noised(z_0, schedule, t, eps), t) - eps).square().mean()


def _noised(z_0: Tensor, schedule: Schedule, t: Tensor, eps: Tensor, power: int = 1) -> Tensor:
    return broadcast(schedule.alpha(t), z_0) * z_0 + broadcast(schedule.sigma(t) ** power, z_0) * eps


def _loss_variant(kind: str) -> Callable[..., Tensor]:
    def loss(network, z_0, schedule, t, noise):
        eps = noise(z_0)
        if kind == "variance":
            return (network(_noised(z_0, schedule, t, eps, 2), t) - eps).square().mean()
        if kind == "clean":
            return (network(z_0, t) - eps).square().mean()
        if kind == "one time":
            t = t[:1].expand(len(z_0))
        answer = network(_noised(z_0, schedule, t, eps), t)
        if kind == "sum":
            return (answer - eps).square().flatten(1).sum(1).mean()
        return (answer - {"z_0": z_0, "fresh": noise(z_0)}.get(kind, eps)).square().mean()

    return loss


def _loss_inputs(generator: Generator) -> tuple:
    scale = 0.2 + torch.rand((), generator=generator, dtype=torch.float64).item()
    z_0 = 0.5 * torch.randn(4, 2, 3, 5, generator=generator, dtype=torch.float64)
    seed = int(torch.randint(0, 1000, (), generator=generator))

    def network(z: Tensor, t: Tensor) -> Tensor:
        return scale * z + broadcast(t.to(z), z) * z.tanh()

    return network, z_0, vp_cosine(), _uniform(generator, 0.1, 0.9, 4), standard_normal(seed)


def _chain_with(
    eps_model: EpsModel,
    betas: Tensor,
    z: Tensor,
    noise: Noise,
    std: Callable[[Tensor, Tensor, int], Tensor] = lambda betas, kept, k: betas[k - 1].sqrt(),
    last_noise: bool = False,
    forwards: bool = False,
    divide: bool = True,
    root: bool = True,
) -> Tensor:
    """DDPM's algorithm 2 with sigma^2 = beta, and switches for the ways to get it wrong."""
    kept = (1 - betas).cumprod(0)
    for k in range(1, len(betas) + 1) if forwards else range(len(betas), 0, -1):
        beta, gone = betas[k - 1], 1 - kept[k - 1]
        z = z - beta / (gone.sqrt() if root else gone) * eps_model(z, k)
        z = z / (1 - beta).sqrt() if divide else z
        if k > 1 or last_noise:
            z = z + std(betas, kept, k) * noise(z)
    return z


def _mixed_letters(eps_model: EpsModel, betas: Tensor, z: Tensor, noise: Noise) -> Tensor:
    kept = (1 - betas).cumprod(0)
    for k in range(len(betas), 0, -1):
        z = (z - (1 - betas[k - 1]) / (1 - kept[k - 1]).sqrt() * eps_model(z, k)) / betas[k - 1].sqrt()
        z = z + betas[k - 1].sqrt() * noise(z) if k > 1 else z
    return z


def _tilde_std(betas: Tensor, kept: Tensor, k: int) -> Tensor:
    return (betas[k - 1] * (1 - kept[k - 2]) / (1 - kept[k - 1])).sqrt()


def _chain_inputs(generator: Generator) -> tuple:
    slope = 0.2 + torch.rand((), generator=generator, dtype=torch.float64).item() / 2
    z = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    seed = int(torch.randint(0, 1000, (), generator=generator))

    def eps_model(z: Tensor, k: int) -> Tensor:
        return slope * z + 0.05 * k

    return eps_model, _uniform(generator, 0.02, 0.3, 6).sort().values, z, standard_normal(seed)


def _respaced(betas: Tensor, visited: Tensor, shift: int = 0, power: float = 1.0) -> Tensor:
    kept = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])[visited + shift] ** power
    return 1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])


def _summed(betas: Tensor, visited: Tensor) -> Tensor:
    total = betas.cumsum(0)[visited - 1]
    return total.diff(prepend=total.new_zeros(1))


def _respace_inputs(generator: Generator) -> tuple[Tensor, Tensor]:
    betas = _uniform(generator, 0.01, 0.2, 15).sort().values
    return betas, (torch.randperm(13, generator=generator)[:5] + 2).sort().values


def _respace_judge(output: Tensor, betas: Tensor, visited: Tensor) -> str | None:
    count, long = len(visited), from_betas(betas)
    knots = torch.arange(1, count + 1, dtype=torch.float64) / count
    if not torch.allclose(from_betas(output).alpha(knots), long.alpha(visited / len(betas)), rtol=1e-6):
        return "the short chain does not have the long chain's alpha-bar at the visited steps."
    return None


def _variance(loss: Tensor, *step: Tensor, power: int = 2, ratio: int = 2, known: int = 2) -> Tensor:
    """beta-tilde + (coefficient of z_0)^2 (sigma_t / alpha_t)^2 loss, and the ways to get it wrong."""
    parts = _parts(*step)
    return parts[known] + (step[2] * parts[1] / step[1] ** 2) ** power * (step[1] / step[0]) ** ratio * loss


def _variance_inputs(generator: Generator) -> tuple[Tensor, ...]:
    return (_uniform(generator, 0.1, 0.9), *_step(generator))


def _law_with(
    mean: Tensor,
    variance: Tensor,
    betas: Tensor,
    last_noise: bool = False,
    right_start: bool = False,
    square: bool = True,
    through_guess: bool = True,
    together: bool = True,
    tilde: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of DDPM (sigma^2 = beta) under the exact denoiser of N(mean, variance), started from N(0, 1)."""
    kept = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    end = kept[-1]
    m, v = (end.sqrt() * mean, end * variance + 1 - end) if right_start else (0 * mean, 1 + 0 * variance)
    for k in range(len(betas), 0, -1):
        alpha_t, gone_t, alpha_s, gone_s = kept[k].sqrt(), 1 - kept[k], kept[k - 1].sqrt(), 1 - kept[k - 1]
        gain = alpha_t * variance / (alpha_t**2 * variance + gone_t)  # z_0_hat = mean + gain (z - alpha_t mean)
        keep, use = (1 - betas[k - 1]).sqrt() * gone_s / gone_t, alpha_s * betas[k - 1] / gone_t
        m = keep * m + use * (mean + gain * (m - alpha_t * mean))
        slope = keep + use * gain if through_guess else keep
        added = betas[k - 1] * (gone_s / gone_t if tilde else 1)
        factor = slope**2 if together else keep**2 + (use * gain) ** 2
        v = (factor if square else slope) * v + (added if k > 1 or last_noise else 0)
    return m, v


def _law_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    count = 4 + int(torch.randint(0, 6, (), generator=generator))
    return _uniform(generator, 0.3, 1.0), _uniform(generator, 0.2, 0.8), _uniform(generator, 0.02, 0.3, count)


CHAPTER = [
    Exercise(
        "04.1",
        "from clean to step k in one jump",
        reference=lambda z_0, betas, k, eps: _jump_with(z_0, _kept(betas, k), eps),
        inputs=_jump_inputs,
        mistakes=[
            Mistake(
                "you multiplied the signal by alpha-bar itself",
                lambda z_0, betas, k, eps: _kept(betas, k) * z_0 + (1 - _kept(betas, k)).sqrt() * eps,
                "alpha-bar is a ratio of variances; states are multiplied by its square root.",
            ),
            Mistake(
                "you multiplied the noise by its variance",
                lambda z_0, betas, k, eps: _kept(betas, k).sqrt() * z_0 + (1 - _kept(betas, k)) * eps,
                "1 - alpha-bar is the variance of the noise; eps has to be multiplied by the standard deviation.",
            ),
            Mistake(
                "you went one step too far",
                lambda z_0, betas, k, eps: _jump_with(z_0, _kept(betas, k + 1), eps),
                "After k steps there are k factors: betas[0] belongs to step 1, so take betas[:k].",
            ),
            Mistake(
                "you stopped one step early",
                lambda z_0, betas, k, eps: _jump_with(z_0, _kept(betas, k - 1), eps),
                "After k steps there are k factors: betas[:k] holds exactly k numbers.",
            ),
            Mistake(
                "you took one step instead of k",
                lambda z_0, betas, k, eps: _jump_with(z_0, 1 - betas[k - 1], eps),
                "That is q(z_k given z_(k-1)); from z_0 all k steps count, as a product.",
            ),
            Mistake(
                "you walked the k steps with the same eps in each",
                _walk,
                "The steps' noises are independent: their variances add up, to 1 - alpha-bar, and one eps stands for all.",
            ),
            Mistake(
                "you added the betas up",
                lambda z_0, betas, k, eps: _jump_with(z_0, (1 - betas[:k].sum()).clamp(min=0), eps),
                "Each step keeps the fraction 1 - beta of what is left: multiply the fractions, do not add the losses.",
            ),
        ],
    ),
    Exercise(
        "04.2",
        "the posterior of one step, on any schedule",
        reference=_posterior,
        inputs=_posterior_inputs,
        mistakes=[
            Mistake(
                "you returned the standard deviation",
                lambda z_t, z_0, *step: (_posterior(z_t, z_0, *step)[0], _posterior(z_t, z_0, *step)[1].sqrt()),
                "The mean is right; the second result should be the variance, beta-tilde without a root.",
            ),
            Mistake(
                "you returned the precision",
                lambda z_t, z_0, *step: (_posterior(z_t, z_0, *step)[0], 1 / _posterior(z_t, z_0, *step)[1]),
                "a^2 / beta + 1 / sigma_s^2 is 1 / beta-tilde; the variance is its inverse.",
            ),
            Mistake(
                "you returned beta as the variance",
                lambda z_t, z_0, *step: (_posterior(z_t, z_0, *step)[0], _parts(*step)[1]),
                "beta is the variance of z_t given z_s; knowing z_0 as well leaves less: beta sigma_s^2 / sigma_t^2.",
            ),
            Mistake(
                "you exchanged the two weights",
                _swapped,
                "The noisier z_s is (large sigma_s), the more z_t counts: its weight is a sigma_s^2 / sigma_t^2.",
            ),
            Mistake(
                "you used alpha_t where a = alpha_t / alpha_s belongs",
                lambda z_t, z_0, *step: _with_parts(
                    z_t, z_0, step, step[0], step[1] ** 2 - step[0] ** 2 * step[3] ** 2
                ),
                "alpha_t leads from z_0 to z_t; the step from z_s to z_t multiplies by alpha_t / alpha_s only.",
            ),
            Mistake(
                "you took beta as 1 - a^2",
                lambda z_t, z_0, *step: _with_parts(z_t, z_0, step, step[0] / step[2], 1 - (step[0] / step[2]) ** 2),
                "That holds when alpha^2 + sigma^2 = 1; on any schedule beta = sigma_t^2 - a^2 sigma_s^2.",
            ),
            Mistake(
                "you forgot that z_t was multiplied by a",
                lambda z_t, z_0, *step: (
                    (step[3] ** 2 * z_t + step[2] * _parts(*step)[1] * z_0) / step[1] ** 2,
                    _parts(*step)[2],
                ),
                "In move 3 the factor of -2 z_s is a z_t / beta, not z_t / beta.",
            ),
        ],
        judge=_posterior_judge,
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "04.3",
        "the weights that L_simple dropped",
        reference=_weights,
        inputs=_kept_table,
        mistakes=[
            Mistake(
                "you forgot the one half",
                lambda kept: 2 * _weights(kept),
                "The KL divergence of two Gaussians of equal variance is the squared distance over TWICE the variance.",
            ),
            Mistake(
                "this is the weight of the error in z_0",
                lambda kept: 0.5 * (_snr(kept[:-1]) - _snr(kept[1:])),
                "The error in z_0 is sigma_t / alpha_t times the error in eps: divide by SNR(t).",
            ),
            Mistake(
                "you turned the ratio round",
                lambda kept: 0.5 * (1 - _snr(kept[1:]) / _snr(kept[:-1])),
                "Divide by SNR(t), the noisier end: the network sees z_t.",
            ),
            Mistake(
                "you divided by 2 beta instead of 2 beta-tilde",
                _weights_with_beta,
                "Here the reverse step has the posterior's variance, beta-tilde, so that is what stands in the KL.",
            ),
            Mistake(
                "you took alpha-bar for the SNR",
                lambda kept: 0.5 * (kept[:-1] / kept[1:] - 1),
                "SNR = alpha^2 / sigma^2 = alpha-bar / (1 - alpha-bar).",
            ),
        ],
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "04.4",
        "L_simple for a batch",
        reference=_loss,
        inputs=_loss_inputs,
        mistakes=[
            Mistake(
                "you compared the answer with z_0",
                _loss_variant("z_0"),
                "This network predicts the noise: compare with the eps that made z_t.",
            ),
            Mistake(
                "you showed the network the clean z_0",
                _loss_variant("clean"),
                "It must see the noised state z_t = alpha_t z_0 + sigma_t eps.",
            ),
            Mistake(
                "you multiplied eps by sigma squared",
                _loss_variant("variance"),
                "sigma_t is a standard deviation; its square is the variance of the noise.",
            ),
            Mistake(
                "you drew the noise twice",
                _loss_variant("fresh"),
                "The eps in the target has to be the very one inside z_t; draw once and keep it.",
            ),
            Mistake(
                "you used the first time for the whole batch",
                _loss_variant("one time"),
                "Each sample has its own t; reshape alpha(t) to (B, 1, 1, 1) before multiplying.",
            ),
            Mistake(
                "you summed over the pixels",
                _loss_variant("sum"),
                "Take the mean over everything, or the loss and the learning rate depend on the image size.",
            ),
        ],
    ),
    Exercise(
        "04.5",
        "DDPM's sampler, algorithm 2",
        reference=_chain_with,
        inputs=_chain_inputs,
        mistakes=[
            Mistake(
                "you added noise at the last step",
                lambda m, b, z, n: _chain_with(m, b, z, n, last_noise=True),
                "The step from k = 1 leads to the finished sample: return its mean.",
            ),
            Mistake(
                "you used beta as the standard deviation",
                lambda m, b, z, n: _chain_with(m, b, z, n, std=lambda betas, kept, k: betas[k - 1]),
                "beta is the variance; the noise is multiplied by its root.",
            ),
            Mistake(
                "you used beta-tilde",
                lambda m, b, z, n: _chain_with(m, b, z, n, std=_tilde_std),
                "A good choice, but here the larger variance, beta, is asked for.",
            ),
            Mistake(
                "you walked from k = 1 up to T",
                lambda m, b, z, n: _chain_with(m, b, z, n, forwards=True),
                "Sampling starts in pure noise, at k = T, and counts down.",
            ),
            Mistake(
                "you forgot to divide by the root of 1 - beta",
                lambda m, b, z, n: _chain_with(m, b, z, n, divide=False),
                "The forward step shrank the state by sqrt(1 - beta); the way back has to undo that.",
            ),
            Mistake(
                "you divided by 1 - alpha-bar without the root",
                lambda m, b, z, n: _chain_with(m, b, z, n, root=False),
                "eps has unit variance and sigma_t = sqrt(1 - alpha-bar) is its standard deviation in z_t.",
            ),
            Mistake(
                "you told the network k - 1",
                lambda m, b, z, n: _chain_with(lambda z, k: m(z, k - 1), b, z, n),
                "The state after k steps goes in with k itself; only the table's index is k - 1.",
            ),
            Mistake(
                "you mixed the letters of the survey and of SR3",
                _mixed_letters,
                "In SR3's formula alpha is 1 - beta; with the survey's alpha, a variance, the state explodes.",
            ),
        ],
    ),
    Exercise(
        "04.6",
        "the betas of a chain that skips steps",
        reference=_respaced,
        inputs=_respace_inputs,
        mistakes=[
            Mistake(
                "you read the old table at the visited steps",
                lambda betas, visited: betas[visited - 1],
                "Each new step covers several old ones, so it adds more noise: 1 - ratio of the alpha-bars at its ends.",
            ),
            Mistake(
                "you added the betas of the skipped steps",
                _summed,
                "Close for tiny betas, but what remains multiplies: 1 - product of (1 - beta).",
            ),
            Mistake(
                "you returned what a step keeps",
                lambda betas, visited: 1 - _respaced(betas, visited),
                "The ratio of alpha-bars is 1 - beta; you want beta.",
            ),
            Mistake(
                "you took the ratio of the alphas",
                lambda betas, visited: _respaced(betas, visited, power=0.5),
                "beta is a variance, so it needs alpha-bar = alpha^2: no root.",
            ),
            Mistake(
                "your first step starts at the wrong place",
                lambda betas, visited: torch.cat([betas[visited[:1] - 1], _respaced(betas, visited)[1:]]),
                "The first new step starts from the clean data, where alpha-bar is 1, and covers all steps up to visited[0].",
            ),
            Mistake(
                "you are off by one",
                lambda betas, visited: _respaced(betas, visited, shift=1),
                "Steps count from 1, so alpha-bar after step k is cumprod[k - 1].",
            ),
        ],
        judge=_respace_judge,
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "04.7",
        "the right variance, read off the training loss",
        reference=_variance,
        inputs=_variance_inputs,
        mistakes=[
            Mistake(
                "you took the loss for the variance of z_0",
                lambda loss, *step: _variance(loss, *step, ratio=0),
                "The loss is the error in eps; the error in z_0 is (sigma_t / alpha_t)^2 times as large.",
            ),
            Mistake(
                "you forgot to square the coefficient",
                lambda loss, *step: _variance(loss, *step, power=1),
                "A coefficient c in front of a random number multiplies its variance by c squared.",
            ),
            Mistake(
                "you forgot to square sigma_t / alpha_t",
                lambda loss, *step: _variance(loss, *step, ratio=1),
                "The loss is a squared error: going from eps to z_0 multiplies it by the square of the ratio.",
            ),
            Mistake(
                "you put beta where beta-tilde belongs",
                lambda loss, *step: _variance(loss, *step, known=1),
                "What is left when z_0 is known is the posterior's variance, beta sigma_s^2 / sigma_t^2.",
            ),
            Mistake(
                "you left out beta-tilde",
                lambda loss, *step: _variance(loss, *step) - _parts(*step)[2],
                "Even if z_0 were known, z_s would still have the posterior's variance; both parts add.",
            ),
            Mistake(
                "you mixed beta and beta-tilde with the loss as weight",
                lambda loss, *step: loss * _parts(*step)[1] + (1 - loss) * _parts(*step)[2],
                "Linear mixing is not what the law of total variance says: beta-tilde + c^2 Var[z_0 given z_t].",
            ),
            Mistake(
                "you returned the standard deviation",
                lambda loss, *step: _variance(loss, *step).sqrt(),
                "The variance is asked for, without a root.",
            ),
        ],
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "04.8",
        "the exact law of a whole chain",
        reference=_law_with,
        inputs=_law_inputs,
        mistakes=[
            Mistake(
                "you added noise at the last step",
                lambda m, v, b: _law_with(m, v, b, last_noise=True),
                "The step to the finished sample adds nothing.",
            ),
            Mistake(
                "you started from the right law at T",
                lambda m, v, b: _law_with(m, v, b, right_start=True),
                "The sampler starts from N(0, 1), whatever alpha-bar is: that is the whole point of the trap.",
            ),
            Mistake(
                "you multiplied the variance by the slope, not by its square",
                lambda m, v, b: _law_with(m, v, b, square=False),
                "If z_s = c z + noise, then Var[z_s] = c^2 Var[z] + the noise's variance.",
            ),
            Mistake(
                "you forgot that the guess depends on z as well",
                lambda m, v, b: _law_with(m, v, b, through_guess=False),
                "z enters twice: directly, and through z_0_hat = mean + gain (z - alpha_t mean). Add both factors before squaring.",
            ),
            Mistake(
                "you squared the two factors of z separately",
                lambda m, v, b: _law_with(m, v, b, together=False),
                "z and z_0_hat hold the same random number, so their factors add first: (A + B g)^2.",
            ),
            Mistake(
                "you added beta-tilde",
                lambda m, v, b: _law_with(m, v, b, tilde=True),
                "This chain samples with the variance beta.",
            ),
        ],
        rtol=1e-6,
        atol=1e-9,
    ),
]
