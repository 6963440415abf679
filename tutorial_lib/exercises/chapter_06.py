"""Checks for the exercises of chapter 06."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..denoisers import Denoiser
from ..noise import Noise, standard_normal
from ..oracles import GaussianMixture, denoiser_for
from ..schedules import Schedule, sub_vp, vp_linear
from . import Exercise, Mistake


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _states(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _source(generator: Generator) -> Noise:
    return standard_normal(int(torch.randint(1, 10**6, (), generator=generator)))


def _forward(z: Tensor, f: float, g: float, dt: float, noise: Noise) -> Tensor:
    return z + f * z * dt + g * abs(dt) ** 0.5 * noise(z)


def _forward_inputs(generator: Generator) -> tuple:
    """Steps of either sign: even draws go forwards, odd ones backwards."""
    z = _states(generator, 6, 3)
    sign = 1 if generator.initial_seed() % 2 == 0 else -1
    f, g, dt = (_uniform(generator, *ends) for ends in ((-3, -0.5), (1.5, 3), (0.02, 0.3)))
    return z, f, g, sign * dt, _source(generator)


def _slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    return torch.autograd.grad(function(t).sum(), t)[0]


def _coefficients(
    alpha: Callable, sigma: Callable, t: Tensor, growth: float = 1.0, squeeze: float = -2.0
) -> tuple[Tensor, Tensor]:
    """f and g^2; a right answer has growth 1 and squeeze -2."""
    f = _slope(lambda u: alpha(u).log(), t)
    return f, growth * _slope(lambda u: sigma(u) ** 2, t) + squeeze * f * sigma(t) ** 2


def _derived(alpha: Callable, sigma: Callable, t: Tensor) -> tuple[Tensor, Tensor]:
    f, g_squared = _coefficients(alpha, sigma, t)
    return f, g_squared.sqrt()


def _with(growth: float, squeeze: float) -> Callable:
    def answer(alpha: Callable, sigma: Callable, t: Tensor) -> tuple[Tensor, Tensor]:
        f, g_squared = _coefficients(alpha, sigma, t, growth, squeeze)
        return f, g_squared.sqrt()

    return answer


def _schedule(generator: Generator) -> Schedule:
    kind = (vp_linear, sub_vp)[generator.initial_seed() % 2]
    return kind(_uniform(generator, 0.2, 1.0), _uniform(generator, 8.0, 18.0))


def _schedule_inputs(generator: Generator) -> tuple:
    schedule = _schedule(generator)
    t = 0.1 + 0.5 * torch.rand(7, generator=generator, dtype=torch.float64)
    return schedule.alpha, schedule.sigma, t


def _ladder(generator: Generator) -> tuple[Tensor]:
    count = 5 + int(torch.randint(0, 6, (), generator=generator))
    return ((0.1 + torch.rand(count, generator=generator, dtype=torch.float64)).cumsum(0),)


def _ladder_diffusion(sigmas: Tensor) -> Tensor:
    return (torch.diff(sigmas**2) * (len(sigmas) - 1)).sqrt()


def _backward(
    z: Tensor, score: Tensor, f: float, g: float, dt: float, strength: float, noise: Noise, pull: float | None = None
) -> Tensor:
    """z - (f z - pull g^2 score) dt + strength g sqrt(dt) noise; right for pull = (1 + strength^2) / 2."""
    pull = (1 + strength**2) / 2 if pull is None else pull
    return z - (f * z - pull * g**2 * score) * dt + strength * g * dt**0.5 * noise(z)


def _backward_inputs(generator: Generator) -> tuple:
    z, score = _states(generator, 5, 4), _states(generator, 5, 4)
    ends = ((-3, -0.5), (1.5, 3), (0.02, 0.2), (0.2, 0.8))
    return z, score, *(_uniform(generator, *pair) for pair in ends), _source(generator)


def _velocity(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, t: float, share: float = 0.5, power: int | None = 2
) -> Tensor:
    """The ODE's right-hand side for share 1/2 and power 2; power None takes the denoiser for the score."""
    z_0 = denoiser(z, t)
    score = z_0 if power is None else (schedule.alpha(t) * z_0 - z) / schedule.sigma(t) ** power
    return schedule.drift(t) * z - share * schedule.diffusion(t) ** 2 * score


def _heun(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, t: float, s: float, share: float = 0.5, power: int | None = 2
) -> Tensor:
    here = _velocity(denoiser, schedule, z, t, share, power)
    there = _velocity(denoiser, schedule, z + (s - t) * here, s, share, power)
    return z + (s - t) * (here + there) / 2


def _midpoint(denoiser: Denoiser, schedule: Schedule, z: Tensor, t: float, s: float) -> Tensor:
    middle = (t + s) / 2
    half = z + (middle - t) * _velocity(denoiser, schedule, z, t)
    return z + (s - t) * _velocity(denoiser, schedule, half, middle)


def _half_heun(at_landing: bool, at_new_time: bool, share: float = 0.5) -> Callable:
    """Heun with the second slope taken in a wrong place, or summed instead of averaged."""

    def answer(denoiser: Denoiser, schedule: Schedule, z: Tensor, t: float, s: float) -> Tensor:
        here = _velocity(denoiser, schedule, z, t)
        landing = z + (s - t) * here if at_landing else z
        there = _velocity(denoiser, schedule, landing, s if at_new_time else t)
        return z + (s - t) * (here + there) * share

    return answer


def _solver_inputs(generator: Generator) -> tuple:
    means, schedule = 1.5 * _states(generator, 3, 2), vp_linear()
    prior = GaussianMixture(torch.ones(3), means, 0.1 * torch.eye(2, dtype=torch.float64).repeat(3, 1, 1))
    t = _uniform(generator, 0.25, 0.5)
    return denoiser_for(prior, schedule), schedule, _states(generator, 6, 2), t, t - _uniform(generator, 0.05, 0.1)


def _lengths(z: Tensor) -> Tensor:
    return z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _correct(z: Tensor, score: Tensor, size: Tensor, drawn: Tensor) -> Tensor:
    return z + size * score + (2 * size).sqrt() * drawn


def _corrector(z: Tensor, score: Tensor, drawn: Tensor, snr: float) -> Tensor:
    return _correct(z, score, 2 * (snr * _lengths(drawn) / _lengths(score)) ** 2, drawn)


def _corrector_inputs(generator: Generator) -> tuple:
    scales = torch.tensor([0.5, 2.0, 6.0], dtype=torch.float64).view(3, 1, 1, 1)
    z, drawn = _states(generator, 3, 2, 4, 5), _states(generator, 3, 2, 4, 5)
    return z, scales * _states(generator, 3, 2, 4, 5), drawn, _uniform(generator, 0.1, 0.4)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum((1, 2, 3), keepdim=True) / (_lengths(a) * _lengths(b))).arccos()


def _slerp_at(omega: Tensor, a: Tensor, b: Tensor, w: float) -> Tensor:
    return (((1 - w) * omega).sin() * a + (w * omega).sin() * b) / omega.sin()


def _slerp(a: Tensor, b: Tensor, w: float) -> Tensor:
    return _slerp_at(_angle(a, b), a, b, w)


def _codes(generator: Generator) -> tuple:
    a = _states(generator, 3, 2, 3, 4)
    tilt = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64).view(3, 1, 1, 1)
    return a, 0.5 * a + tilt * _states(generator, 3, 2, 3, 4), _uniform(generator, 0.15, 0.45)


def _solve(quantity: Callable[[float], Tensor], target: float) -> float:
    """The time in [0, 1] at which a falling quantity passes the target, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if quantity(middle) > target else (low, middle)
    return (low + high) / 2


def _memory(schedule: Schedule, variance: float, t: float) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * (variance / (alpha**2 * variance + sigma**2)).sqrt()


def _sigma_for_variance(schedule: Schedule, variance: float, t: float) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * (variance / (alpha**2 * variance + sigma)).sqrt()


def _even_inputs(generator: Generator) -> tuple[Schedule, float]:
    return _schedule(generator), _uniform(generator, 0.1, 0.6)


CHAPTER = [
    Exercise(
        "06.1",
        "one Euler-Maruyama step, in either direction",
        reference=_forward,
        inputs=_forward_inputs,
        mistakes=[
            Mistake(
                "you scaled the noise by dt",
                lambda z, f, g, dt, noise: z + f * z * dt + g * abs(dt) * noise(z),
                "Variances add, so a step of length dt has noise of standard deviation sqrt(dt).",
            ),
            Mistake(
                "you scaled the noise by g squared",
                lambda z, f, g, dt, noise: z + f * z * dt + g**2 * abs(dt) ** 0.5 * noise(z),
                "g is a standard deviation per root of time; g squared is its variance.",
            ),
            Mistake(
                "your drift ignores the direction of time",
                lambda z, f, g, dt, noise: z + f * z * abs(dt) + g * abs(dt) ** 0.5 * noise(z),
                "A negative dt runs the drift backwards; only the noise takes |dt|.",
            ),
            Mistake(
                "your noise lacks the diffusion g",
                lambda z, f, g, dt, noise: z + f * z * dt + abs(dt) ** 0.5 * noise(z),
                "The SDE says g dw: the noise is multiplied by g.",
            ),
            Mistake(
                "you added the drift without dt",
                lambda z, f, g, dt, noise: z + f * z + g * abs(dt) ** 0.5 * noise(z),
                "f z is a velocity; in the time dt it moves z by f z dt.",
            ),
            Mistake(
                "you took the root of a negative dt",
                lambda z, f, g, dt, noise: z + f * z * dt + g * (dt**0.5).real * noise(z),
                "Backwards in time dt is negative and its root imaginary; the noise takes the root of |dt|.",
            ),
        ],
    ),
    Exercise(
        "06.2",
        "drift and diffusion from alpha and sigma",
        reference=_derived,
        inputs=_schedule_inputs,
        mistakes=[
            Mistake(
                "you doubled the growth of the variance",
                _with(2.0, -2.0),
                "autograd on sigma**2 gives d sigma^2 / dt already; the 2 of 2 sigma sigma' is inside it.",
            ),
            Mistake(
                "you left out what the drift squeezes away",
                _with(1.0, 0.0),
                "The moment equation is dv/dt = 2 f v + g^2, so g^2 = d sigma^2 / dt - 2 f sigma^2.",
            ),
            Mistake(
                "you subtracted f sigma squared once instead of twice",
                _with(1.0, -1.0),
                "Squaring 1 + f dt gives 1 + 2 f dt: the drift acts on a variance with 2 f.",
            ),
            Mistake(
                "you added what the drift squeezes away with the wrong sign",
                _with(1.0, 2.0),
                "Solve dv/dt = 2 f v + g^2 for g^2: the term 2 f sigma^2 changes sides, and f is negative.",
            ),
            Mistake(
                "you forgot to divide by alpha in the drift",
                lambda alpha, sigma, t: (
                    _slope(alpha, t),
                    (_slope(lambda u: sigma(u) ** 2, t) - 2 * _slope(alpha, t) * sigma(t) ** 2).sqrt(),
                ),
                "dm/dt = f m with m = alpha z_0 gives f = alpha' / alpha, the slope of log alpha.",
            ),
            Mistake(
                "you returned g squared",
                lambda alpha, sigma, t: _coefficients(alpha, sigma, t),
                "The second result is g, the square root.",
            ),
        ],
    ),
    Exercise(
        "06.3",
        "the diffusion hidden in a noise ladder",
        reference=_ladder_diffusion,
        inputs=_ladder,
        mistakes=[
            Mistake(
                "you squared the differences instead of taking differences of squares",
                lambda sigmas: torch.diff(sigmas) * (len(sigmas) - 1) ** 0.5,
                "Variances add: a step brings sigma_i^2 - sigma_(i-1)^2, which is more than (sigma_i - sigma_(i-1))^2.",
            ),
            Mistake(
                "you took the slope of sigma squared at the left end",
                lambda sigmas: (2 * sigmas[:-1] * torch.diff(sigmas) * (len(sigmas) - 1)).sqrt(),
                "2 sigma sigma' holds in the limit; over a whole step the chain gathers sigma_i^2 - sigma_(i-1)^2.",
            ),
            Mistake(
                "you forgot the length of a step",
                lambda sigmas: torch.diff(sigmas**2).sqrt(),
                "A step gathers the variance g^2 dt with dt = 1 / n, not g^2.",
            ),
            Mistake(
                "you multiplied by dt where you should divide",
                lambda sigmas: (torch.diff(sigmas**2) / (len(sigmas) - 1)).sqrt(),
                "g^2 dt is the variance of a step, so g^2 is that variance divided by dt = 1 / n.",
            ),
            Mistake(
                "you took the number of levels for the number of steps",
                lambda sigmas: (torch.diff(sigmas**2) * len(sigmas)).sqrt(),
                "n + 1 levels have n steps between them.",
            ),
            Mistake(
                "you returned g squared",
                lambda sigmas: torch.diff(sigmas**2) * (len(sigmas) - 1),
                "The diffusion is g, the square root of variance per time.",
            ),
        ],
    ),
    Exercise(
        "06.4",
        "a backward step with any amount of noise",
        reference=_backward,
        inputs=_backward_inputs,
        mistakes=[
            Mistake(
                "you took the reverse SDE's pull for every strength",
                lambda z, score, f, g, dt, strength, noise: _backward(z, score, f, g, dt, strength, noise, 1.0),
                "Less noise needs less pull: the factor is (1 + strength^2) / 2, which is 1 only at strength 1.",
            ),
            Mistake(
                "you forgot that the ODE's half is always there",
                lambda z, score, f, g, dt, strength, noise: _backward(
                    z, score, f, g, dt, strength, noise, strength**2 / 2
                ),
                "Undoing the forward noise takes g^2 / 2, and the fresh noise another strength^2 g^2 / 2.",
            ),
            Mistake(
                "you added the strength to the pull without squaring it",
                lambda z, score, f, g, dt, strength, noise: _backward(
                    z, score, f, g, dt, strength, noise, (1 + strength) / 2
                ),
                "Shaking with strength * g has the variance strength^2 g^2 per unit of time.",
            ),
            Mistake(
                "your score has the wrong sign",
                lambda z, score, f, g, dt, strength, noise: _backward(
                    z, score, f, g, dt, strength, noise, -(1 + strength**2) / 2
                ),
                "Backwards in time the score pulls towards the crowd: z grows by + pull g^2 score dt.",
            ),
            Mistake(
                "you ran the drift forwards",
                lambda z, score, f, g, dt, strength, noise: _backward(z, score, -f, g, dt, strength, noise),
                "You go back in time, so f z is subtracted.",
            ),
            Mistake(
                "your noise ignores the strength",
                lambda z, score, f, g, dt, strength, noise: (
                    z - (f * z - (1 + strength**2) / 2 * g**2 * score) * dt + g * dt**0.5 * noise(z)
                ),
                "You put back strength times the noise: strength * g * sqrt(dt). At strength 0 there is none.",
            ),
            Mistake(
                "you walked forwards",
                lambda z, score, f, g, dt, strength, noise: _backward(
                    z, score, -f, g, dt, strength, noise, -(1 + strength**2) / 2
                ),
                "In the equation time falls, so its dt is minus yours: the whole bracket is subtracted.",
            ),
            Mistake(
                "you multiplied the score by g instead of g squared",
                lambda z, score, f, g, dt, strength, noise: (
                    z - (f * z - (1 + strength**2) / 2 * g * score) * dt + strength * g * dt**0.5 * noise(z)
                ),
                "The wind that replaces the shaking is g^2 score / 2: a variance per time, times the score.",
            ),
        ],
    ),
    Exercise(
        "06.5",
        "a Heun step of the probability-flow ODE",
        reference=_heun,
        inputs=_solver_inputs,
        mistakes=[
            Mistake(
                "you made a plain Euler step",
                lambda denoiser, schedule, z, t, s: z + (s - t) * _velocity(denoiser, schedule, z, t),
                "Heun looks at the velocity a second time, where the Euler step lands.",
            ),
            Mistake(
                "you took the second velocity at the old time",
                _half_heun(at_landing=True, at_new_time=False),
                "The Euler step lands at time s: denoiser, drift, diffusion, alpha and sigma must be those of s.",
            ),
            Mistake(
                "you took the second velocity at the old state",
                _half_heun(at_landing=False, at_new_time=True),
                "The Euler step has moved z; the second velocity belongs to where it landed.",
            ),
            Mistake(
                "you added the two velocities instead of averaging them",
                _half_heun(at_landing=True, at_new_time=True, share=1.0),
                "The step moves by (s - t) times the mean of the two.",
            ),
            Mistake(
                "you used the drift of the reverse SDE",
                lambda denoiser, schedule, z, t, s: _heun(denoiser, schedule, z, t, s, share=1.0),
                "The ODE has g^2 / 2 in front of the score, the SDE g^2.",
            ),
            Mistake(
                "you divided by sigma where the score has sigma squared",
                lambda denoiser, schedule, z, t, s: _heun(denoiser, schedule, z, t, s, power=1),
                "The score is (alpha * denoiser - z) / sigma^2; divided by sigma it is minus the noise.",
            ),
            Mistake(
                "you used the denoiser as the score",
                lambda denoiser, schedule, z, t, s: _heun(denoiser, schedule, z, t, s, power=None),
                "The denoiser returns the mean of z_0; the score is (alpha * denoiser - z) / sigma^2.",
            ),
            Mistake(
                "you used the midpoint method",
                _midpoint,
                "That has order two as well, but Heun takes its second velocity at the end of the step and averages.",
            ),
        ],
    ),
    Exercise(
        "06.6",
        "a corrector step, sample by sample",
        reference=_corrector,
        inputs=_corrector_inputs,
        mistakes=[
            Mistake(
                "you averaged the norms over the batch",
                lambda z, score, drawn, snr: _correct(
                    z, score, 2 * (snr * _lengths(drawn).mean() / _lengths(score).mean()) ** 2, drawn
                ),
                "Then a sample depends on its batch mates; keep one norm, and one step size, for each sample.",
            ),
            Mistake(
                "you took one norm of the whole batch",
                lambda z, score, drawn, snr: _correct(z, score, 2 * (snr * drawn.norm() / score.norm()) ** 2, drawn),
                "z.norm() runs over all samples; flatten(1).norm(dim=1) gives one for each.",
            ),
            Mistake(
                "you did not square the ratio",
                lambda z, score, drawn, snr: _correct(z, score, 2 * snr * _lengths(drawn) / _lengths(score), drawn),
                "The size epsilon is 2 (r |n| / |s|)^2: noise grows with its root, drift with epsilon itself.",
            ),
            Mistake(
                "you forgot the 2 under the root of the noise",
                lambda z, score, drawn, snr: (
                    z
                    + 2 * (snr * _lengths(drawn) / _lengths(score)) ** 2 * score
                    + 2**0.5 * snr * _lengths(drawn) / _lengths(score) * drawn
                ),
                "With drift epsilon * score the noise is sqrt(2 epsilon); with sqrt(epsilon) the law becomes too narrow.",
            ),
            Mistake(
                "your epsilon is half as large as it should be",
                lambda z, score, drawn, snr: _correct(z, score, (snr * _lengths(drawn) / _lengths(score)) ** 2, drawn),
                "Keep the 2 before the squared ratio, and make the step with epsilon, not with chapter 05's a = epsilon.",
            ),
            Mistake(
                "your ratio is upside down",
                lambda z, score, drawn, snr: _correct(
                    z, score, 2 * (snr * _lengths(score) / _lengths(drawn)) ** 2, drawn
                ),
                "A large score must give a small step: |n| / |s|.",
            ),
        ],
    ),
    Exercise(
        "06.7",
        "spherical interpolation of noise",
        reference=_slerp,
        inputs=_codes,
        mistakes=[
            Mistake(
                "you interpolated along a straight line",
                lambda a, b, w: (1 - w) * a + w * b,
                "The straight line leaves the shell on which noise lives; weigh with sines of the angle.",
            ),
            Mistake(
                "you swapped the ends",
                lambda a, b, w: _slerp(b, a, w),
                "w = 0 must give a and w = 1 must give b.",
            ),
            Mistake(
                "you did not divide by the sine of the angle",
                lambda a, b, w: _slerp(a, b, w) * _angle(a, b).sin(),
                "At w = 0 the weight of a must be 1: sin(omega) / sin(omega).",
            ),
            Mistake(
                "you measured one angle for the whole batch",
                lambda a, b, w: _slerp_at((a * b).sum().div(a.norm() * b.norm()).arccos(), a, b, w),
                "Each pair has its own angle: sum over channels, rows and columns only.",
            ),
            Mistake(
                "you measured an angle for each pixel",
                lambda a, b, w: _slerp_at(torch.cosine_similarity(a, b, 1).arccos()[:, None], a, b, w),
                "The shell is that of whole images: flatten first, or sum over channels, rows and columns.",
            ),
            Mistake(
                "you stretched the straight line to the length of a",
                lambda a, b, w: torch.lerp(a, b, w) * _lengths(a) / _lengths(torch.lerp(a, b, w)),
                "That stays on the shell, but at uneven speed; weigh with sines of the angle.",
            ),
            Mistake(
                "you took the cosine for the angle",
                lambda a, b, w: _slerp_at(_angle(a, b).cos(), a, b, w),
                "The normalised product is cos(omega); arccos turns it into the angle.",
            ),
            Mistake(
                "you scaled both ends to length 1",
                lambda a, b, w: _slerp(a / _lengths(a), b / _lengths(b), w),
                "Lengths matter only for the angle; the weights go on a and b as they are.",
            ),
        ],
    ),
    Exercise(
        "06.8",
        "the time at which a wrong score hurts SDE and ODE equally",
        reference=lambda schedule, variance: _solve(lambda t: _memory(schedule, variance, t), 0.5),
        inputs=_even_inputs,
        mistakes=[
            Mistake(
                "you solved for rho squared = 1/2",
                lambda schedule, variance: _solve(lambda t: _memory(schedule, variance, t) ** 2, 0.5),
                "That is where signal and noise are equally strong; the harm is equal where 2 rho = 1.",
            ),
            Mistake(
                "you solved for alpha = 1/2",
                lambda schedule, variance: _solve(schedule.alpha, 0.5),
                "alpha is the correlation only for data of variance 1; here rho = alpha sqrt(v_0 / v_t).",
            ),
            Mistake(
                "you solved for the SDE's own factor, alpha v_0 / v_t = 1/2",
                lambda schedule, variance: _solve(
                    lambda t: _memory(schedule, variance, t) ** 2 / schedule.alpha(t), 0.5
                ),
                "Compare with the ODE: divide by its factor sqrt(v_0 / v_t), which leaves rho.",
            ),
            Mistake(
                "you used sigma where the variance sigma squared belongs",
                lambda schedule, variance: _solve(lambda t: _sigma_for_variance(schedule, variance, t), 0.5),
                "v_t = alpha^2 v_0 + sigma^2: sigma is a standard deviation.",
            ),
        ],
        rtol=0.0,
        atol=1e-3,  # as the exercise promises
    ),
]
