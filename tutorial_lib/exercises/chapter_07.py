"""Checks for the exercises of chapter 07."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..denoisers import Denoiser
from ..noise import Noise, standard_normal
from ..oracles import GaussianMixture, denoiser_for
from ..schedules import Schedule, vp_cosine, vp_linear
from . import Exercise, Mistake


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _states(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _descending(generator: Generator, count: int, low: float, high: float) -> list[float]:
    """Times in that range, falling, no two closer than half of an even spacing."""
    moved = torch.rand(count, generator=generator, dtype=torch.float64) / 2
    return (high - (high - low) * (torch.arange(count) + moved) / count).tolist()


def _schedule(generator: Generator) -> Schedule:
    return vp_cosine() if generator.initial_seed() % 2 else vp_linear()


def _mixture(generator: Generator) -> GaussianMixture:
    means = 1.5 * _states(generator, 3, 2)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, 0.1 * torch.eye(2).double().expand(3, 2, 2))


# 07.1: a DDIM step.


def _ddim(z: Tensor, z_0: Tensor, alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float) -> Tensor:
    return alpha_s * z_0 + sigma_s * (z - alpha_t * z_0) / sigma_t


def _ddim_inputs(generator: Generator) -> tuple:
    schedule, (t, s) = vp_linear(), _descending(generator, 2, 0.1, 0.7)
    levels = [function(time).item() for time in (t, s) for function in (schedule.alpha, schedule.sigma)]
    return _states(generator, 5, 3), _states(generator, 5, 3), *levels


# 07.2: Karras's grid.


def _karras(rho_max: float, rho_min: float, n: int, power: float = 7.0) -> Tensor:
    roots = torch.linspace(rho_max ** (1 / power), rho_min ** (1 / power), n, dtype=torch.float64)
    return torch.cat([roots**power, torch.zeros(1, dtype=torch.float64)])


def _karras_inputs(generator: Generator) -> tuple:
    n = int(torch.randint(4, 12, (), generator=generator))
    return _uniform(generator, 20, 90), _uniform(generator, 0.002, 0.02), n, _uniform(generator, 3, 8)


# 07.3: a Heun step in rho.


def _heun(
    denoiser: Denoiser,
    y: Tensor,
    rho: float,
    rho_next: float,
    share: float = 0.5,
    moved: bool = True,
    told: bool = True,
    divided: bool = True,
    guarded: bool = True,
) -> Tensor:
    """Right as it stands; each option breaks one thing."""
    first = (y - denoiser(y, rho)) / rho
    guess = y + (rho_next - rho) * first
    if rho_next == 0 and guarded:
        return guess
    looked = guess if moved else y
    second = (looked - denoiser(looked, rho_next if told else rho)) / (rho_next if divided else rho)
    return y + (rho_next - rho) * (first + second) * share


def _heun_inputs(generator: Generator) -> tuple:
    """The last draw steps to 0."""
    prior = _mixture(generator)

    def denoiser(y: Tensor, rho: float) -> Tensor:
        return prior.denoise(y, 1.0, max(rho, 1e-9))

    rho = _uniform(generator, 0.5, 2.0)
    rho_next = 0.0 if generator.initial_seed() == 3 else rho * _uniform(generator, 0.3, 0.6)
    return denoiser, prior.sample(6, standard_normal(1)) + rho * _states(generator, 6, 2), rho, rho_next


# 07.4: a step of DPM-Solver++(2M).


def _extrapolated(
    z: Tensor, z_0: Tensor, before: Tensor, lambdas: Tensor, levels: tuple, weight: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """(sigma_s / sigma_t) z - alpha_s (exp(-h) - 1) (z_0 + weight (z_0 - before)); weight(h_before, h)."""
    sigma_t, alpha_s, sigma_s = levels
    h_before, h = lambdas.diff()
    estimate = z_0 + weight(h_before, h) * (z_0 - before)
    return sigma_s / sigma_t * z - alpha_s * torch.expm1(-h) * estimate


def _with_weight(weight: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    def answer(
        z: Tensor, z_0: Tensor, z_0_before: Tensor, lambdas: Tensor, sigma_t: float, alpha_s: float, sigma_s: float
    ) -> Tensor:
        return _extrapolated(z, z_0, z_0_before, lambdas, (sigma_t, alpha_s, sigma_s), weight)

    return answer


_two_m = _with_weight(lambda h_before, h: h / (2 * h_before))


def _mean_length(
    z: Tensor, z_0: Tensor, z_0_before: Tensor, lambdas: Tensor, sigma_t: float, alpha_s: float, sigma_s: float
) -> Tensor:
    """The popular "v2": r is the longer over the shorter step, and the step has the mean length of both."""
    h_before, h = lambdas.diff()
    r = torch.maximum(h, h_before) / torch.minimum(h, h_before)
    estimate = z_0 + (z_0 - z_0_before) / (2 * r)
    return sigma_s / sigma_t * z - alpha_s * torch.expm1(-(h + h_before) / 2) * estimate


def _two_m_inputs(generator: Generator) -> tuple:
    schedule, times = vp_linear(), torch.tensor(_descending(generator, 3, 0.1, 0.7)).double()
    lambdas = schedule.log_snr(times) / 2
    levels = schedule.sigma(times[1]).item(), schedule.alpha(times[2]).item(), schedule.sigma(times[2]).item()
    return _states(generator, 5, 3), _states(generator, 5, 3), _states(generator, 5, 3), lambdas, *levels


# 07.5: the best variance of a step.


def _variance(
    alpha_t: float,
    sigma_t: float,
    alpha_s: float,
    sigma_s: float,
    gamma: float,
    weight: float = 2.0,
    level: float = 2.0,
) -> float:
    """Right with the second powers."""
    tau = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    return sigma_s**2 * tau + (alpha_s * tau) ** weight * (sigma_t / alpha_t) ** level * (1 - gamma)


def _variance_inputs(generator: Generator) -> tuple:
    return *_ddim_inputs(generator)[2:], _uniform(generator, 0.3, 0.9)


def _beta(alpha_t: float, sigma_t: float, alpha_s: float, sigma_s: float, gamma: float) -> float:
    return sigma_t**2 - (alpha_t * sigma_s / alpha_s) ** 2


# 07.6: the target of progressive distillation.


def _two_steps(
    teacher: Denoiser, schedule: Schedule, z: Tensor, t: float, m: float, s: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The state at s after two DDIM steps of the teacher, and both of its answers."""
    first = teacher(z, t)
    middle = _ddim(z, first, *_levels(schedule, t), *_levels(schedule, m))
    second = teacher(middle, m)
    return _ddim(middle, second, *_levels(schedule, m), *_levels(schedule, s)), first, second


def _levels(schedule: Schedule, t: float) -> tuple[Tensor, Tensor]:
    return schedule.alpha(t), schedule.sigma(t)


def _target(teacher: Denoiser, schedule: Schedule, z: Tensor, t: float, m: float, s: float) -> Tensor:
    z_s = _two_steps(teacher, schedule, z, t, m, s)[0]
    return _solved(schedule, z, z_s, t, s)


def _solved(schedule: Schedule, z: Tensor, z_s: Tensor, t: float, s: float) -> Tensor:
    """The z_0 with which one DDIM step from z at t arrives at z_s."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(schedule, t), _levels(schedule, s)
    return (z_s - sigma_s / sigma_t * z) / (alpha_s - sigma_s / sigma_t * alpha_t)


def _target_inputs(generator: Generator) -> tuple:
    schedule, times = _schedule(generator), _descending(generator, 3, 0.2, 0.9)
    return denoiser_for(_mixture(generator), schedule), schedule, _states(generator, 6, 2), *times


# 07.7: sampling from a consistency model.


def _jump(
    student: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    noise: Noise,
    fresh: str = "new",
    signal: bool = True,
    late: bool = True,
) -> Tensor:
    """Right as it stands; fresh: "new" noise, that "of z" (DDIM), or that of the "start"."""
    start = z
    for t, s in zip(times[:-1], times[1:], strict=True):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = _levels(schedule, t), _levels(schedule, s)
        z_0 = student(z, t)
        if fresh == "new":
            drawn = noise(z)
        else:
            drawn = (z - alpha_t * z_0) / sigma_t if fresh == "of z" else start / schedule.sigma(times[0])
        z = (alpha_s if signal else 1.0) * z_0 + (sigma_s if late else sigma_t) * drawn
    return z


def _jump_inputs(generator: Generator) -> tuple:
    schedule = _schedule(generator)
    times = torch.tensor([*_descending(generator, 3, 0.3, 0.95), 0.0], dtype=torch.float64)
    source = standard_normal(int(torch.randint(1, 10**6, (), generator=generator)))
    return denoiser_for(_mixture(generator), schedule), schedule, _states(generator, 6, 2), times, source


def _without_last(student: Denoiser, schedule: Schedule, z: Tensor, times: Tensor, noise: Noise) -> Tensor:
    return _jump(student, schedule, z, times[:-1], noise)


# 07.8: the cheapest path.


def _cheapest(cost: Tensor, n: int) -> Tensor:
    """Places (n + 1,) of the cheapest path of n steps from place 0 to the last."""
    best = torch.full((n + 1, len(cost)), torch.inf, dtype=cost.dtype)
    best[0, 0] = 0
    came = torch.zeros(n + 1, len(cost), dtype=torch.long)
    for k in range(1, n + 1):
        best[k], came[k] = (best[k - 1][:, None] + cost).min(0)
    path = [len(cost) - 1]
    for k in range(n, 0, -1):
        path.append(came[k, path[-1]].item())
    return torch.tensor(path[::-1])


def _greedy(cost: Tensor, n: int) -> Tensor:
    """From each place the cheapest step that leaves room for the others."""
    path = [0]
    for k in range(1, n):
        room = cost[path[-1]].clone()
        room[len(cost) - (n - k) :] = torch.inf
        path.append(room.argmin().item())
    return torch.tensor([*path, len(cost) - 1])


def _even(cost: Tensor, n: int) -> Tensor:
    return torch.linspace(0, len(cost) - 1, n + 1).round().long()


def _upwards_only(cost: Tensor) -> Tensor:
    return torch.where(torch.ones_like(cost).triu(1) > 0, cost, torch.inf)


def _cost(generator: Generator) -> tuple[Tensor, int]:
    """Costs that grow faster than the length of a step, rougher in some places than in others."""
    size, n = 12, int(torch.randint(3, 6, (), generator=generator))
    places = (torch.rand(size, generator=generator, dtype=torch.float64) ** 2 + 0.05).cumsum(0)
    jitter = 0.7 + 0.6 * torch.rand(size, size, generator=generator, dtype=torch.float64)
    return _upwards_only((places[None] - places[:, None]).clamp(min=0) ** 2 * jitter), n


def _no_more_than(path: Tensor, cost: Tensor, n: int) -> str | None:
    """The oracle: whatever the path, its cost, compared with all others of n steps."""
    inner = torch.combinations(torch.arange(1, len(cost) - 1), n - 1)
    ends = torch.zeros(len(inner), 1, dtype=torch.long), torch.full((len(inner), 1), len(cost) - 1)
    every = torch.cat([ends[0], inner, ends[1]], 1)
    cheapest = cost[every[:, :-1], every[:, 1:]].sum(1).min()
    path = torch.as_tensor(path)
    if cost[path[:-1], path[1:]].sum() <= cheapest * (1 + 1e-9):
        return None
    return "there is a cheaper path with as many steps."


CHAPTER = [
    Exercise(
        "07.1",
        "a DDIM step",
        reference=_ddim,
        inputs=_ddim_inputs,
        mistakes=[
            Mistake(
                "you left alpha_t out of the noise",
                lambda z, z_0, alpha_t, sigma_t, alpha_s, sigma_s: alpha_s * z_0 + sigma_s * (z - z_0) / sigma_t,
                "z = alpha_t z_0 + sigma_t eps, so eps = (z - alpha_t z_0) / sigma_t.",
            ),
            Mistake(
                "you divided the noise by the new sigma",
                lambda z, z_0, alpha_t, sigma_t, alpha_s, sigma_s: alpha_s * z_0 + z - alpha_t * z_0,
                "z is at time t, so its noise has the size sigma_t; only what you put back has the size sigma_s.",
            ),
            Mistake(
                "you kept the old alpha in front of z_0",
                lambda z, z_0, alpha_t, sigma_t, alpha_s, sigma_s: (
                    alpha_t * z_0 + sigma_s * (z - alpha_t * z_0) / sigma_t
                ),
                "The state at time s holds alpha_s z_0.",
            ),
            Mistake(
                "you took all the noise away",
                lambda z, z_0, alpha_t, sigma_t, alpha_s, sigma_s: alpha_s * z_0,
                "A state at time s > 0 still holds noise: sigma_s times the same eps.",
            ),
            Mistake(
                "you made the posterior's mean, a DDPM step without its noise",
                lambda z, z_0, alpha_t, sigma_t, alpha_s, sigma_s: (
                    alpha_s * z_0 + alpha_t * sigma_s**2 / (alpha_s * sigma_t**2) * (z - alpha_t * z_0)
                ),
                "DDIM keeps all of sigma_s for eps; DDPM keeps less, since it draws the rest anew.",
            ),
        ],
    ),
    Exercise(
        "07.2",
        "Karras's grid of noise levels",
        reference=_karras,
        inputs=_karras_inputs,
        mistakes=[
            Mistake(
                "you raised to the power where the root belongs, and took the root where the power belongs",
                lambda rho_max, rho_min, n, power: _karras(rho_max, rho_min, n, 1 / power),
                "Even spacing is in rho^(1/power), so that large noise levels are far apart and small ones close.",
            ),
            Mistake(
                "you spaced the noise levels themselves evenly",
                lambda rho_max, rho_min, n, power: _karras(rho_max, rho_min, n, 1.0),
                "That spends nearly all steps on pure noise; space the roots evenly.",
            ),
            Mistake(
                "you spaced the logarithms evenly",
                lambda rho_max, rho_min, n, power: torch.cat(
                    [torch.linspace(1, 0, n).double().mul(torch.tensor(rho_max / rho_min).log()).exp() * rho_min]
                    + [torch.zeros(1).double()]
                ),
                "That is the grid for an infinite power; a finite one leaves more steps at the noisy end.",
            ),
            Mistake(
                "your grid rises",
                lambda rho_max, rho_min, n, power: torch.cat(
                    [_karras(rho_min, rho_max, n, power)[:-1], torch.zeros(1).double()]
                ),
                "A sampler starts with the most noise: rho_max comes first.",
            ),
            Mistake(
                "you forgot the final 0",
                lambda rho_max, rho_min, n, power: _karras(rho_max, rho_min, n, power)[:-1],
                "rho_min is still noise; the last step goes to 0, so there are n + 1 numbers.",
            ),
            Mistake(
                "you counted the final 0 among the n levels",
                lambda rho_max, rho_min, n, power: _karras(rho_max, rho_min, n - 1, power),
                "n levels lie between rho_max and rho_min, both included, and the 0 comes after them.",
            ),
        ],
    ),
    Exercise(
        "07.3",
        "a Heun step in the noise-to-signal ratio",
        reference=lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next),
        inputs=_heun_inputs,
        mistakes=[
            Mistake(
                "you divided the second slope by the old rho",
                lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next, divided=False),
                "The second slope is the noise at the end of the step, and there the noise level is rho_next.",
            ),
            Mistake(
                "you took the second look from where you started",
                lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next, moved=False),
                "Step first; the second slope belongs to the state at which the step arrives.",
            ),
            Mistake(
                "you told the denoiser the old noise level",
                lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next, told=False),
                "After the step the noise level is rho_next, and the denoiser must know it.",
            ),
            Mistake(
                "you added the slopes without taking their mean",
                lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next, share=1.0),
                "The trapezoid takes half of each slope.",
            ),
            Mistake(
                "you stayed with the first slope",
                lambda denoiser, y, rho, rho_next: y + (rho_next - rho) * (y - denoiser(y, rho)) / rho,
                "That is DDIM; look again where the step arrives and use the mean of both slopes.",
            ),
            Mistake(
                "you looked again at a noise level of 0",
                lambda denoiser, y, rho, rho_next: _heun(denoiser, y, rho, rho_next, guarded=False),
                "There (y - denoiser) / rho is 0 / 0: the last step, to rho_next = 0, stays with the first slope.",
            ),
        ],
    ),
    Exercise(
        "07.4",
        "a step of DPM-Solver++(2M)",
        reference=_two_m,
        inputs=_two_m_inputs,
        mistakes=[
            Mistake(
                "you turned the ratio of the steps upside down",
                _with_weight(lambda h_before, h: h_before / (2 * h)),
                "z_0 changed by the difference in h_before; in h / 2 it changes by h / (2 h_before) of that.",
            ),
            Mistake(
                "you took the steps for equally long",
                _with_weight(lambda h_before, h: torch.tensor(0.5).to(h)),
                "1/2 is right only where both steps are equally long in lambda.",
            ),
            Mistake(
                "you extrapolated to the end of the step",
                _with_weight(lambda h_before, h: h / h_before),
                "One value has to stand for the whole step: take the one in its middle, half a step ahead.",
            ),
            Mistake(
                "you went back instead of ahead",
                _with_weight(lambda h_before, h: -h / (2 * h_before)),
                "Add (z_0 - z_0_before): the estimate goes on in the direction in which it has been changing.",
            ),
            Mistake(
                "you forgot the estimate from before",
                _with_weight(lambda h_before, h: torch.zeros_like(h)),
                "That is DDIM, of first order.",
            ),
            Mistake(
                'you wrote the popular "v2", with the mean of both lengths',
                _mean_length,
                "The step from t to s has the length h, whatever the step before it was; only its z_0 looks back.",
            ),
        ],
    ),
    Exercise(
        "07.5",
        "the best variance of a step",
        reference=_variance,
        inputs=_variance_inputs,
        mistakes=[
            Mistake(
                "you stopped at beta-tilde",
                lambda alpha_t, sigma_t, alpha_s, sigma_s, gamma: _variance(alpha_t, sigma_t, alpha_s, sigma_s, 1.0),
                "beta-tilde is right when z_0 is certain; add what the uncertainty of z_0 contributes.",
            ),
            Mistake(
                "you forgot to square the weight of z_0",
                lambda *arguments: _variance(*arguments, weight=1.0),
                "A variance passes through a factor as its square.",
            ),
            Mistake(
                "you forgot the square in sigma_t^2 / alpha_t^2",
                lambda *arguments: _variance(*arguments, level=1.0),
                "z_0 = (z - sigma_t eps) / alpha_t, so its variance is that of eps times (sigma_t / alpha_t)^2.",
            ),
            Mistake(
                "you took gamma for 1 - gamma",
                lambda alpha_t, sigma_t, alpha_s, sigma_s, gamma: _variance(
                    alpha_t, sigma_t, alpha_s, sigma_s, 1 - gamma
                ),
                "gamma is what the denoiser knows of eps; what it does not know is 1 - gamma.",
            ),
            Mistake(
                "you took the variance of the forward step",
                _beta,
                "beta is right for data of variance 1 only, whatever gamma says.",
            ),
            Mistake(
                "you returned the standard deviation",
                lambda *arguments: _variance(*arguments) ** 0.5,
                "The variance is asked for.",
            ),
        ],
    ),
    Exercise(
        "07.6",
        "the target of progressive distillation",
        reference=_target,
        inputs=_target_inputs,
        mistakes=[
            Mistake(
                "you swapped the middle and the end",
                lambda teacher, schedule, z, t, m, s: _target(teacher, schedule, z, t, s, m),
                "The teacher goes from t to m and from m to s, with t > m > s.",
            ),
            Mistake(
                "you took the teacher's last answer for the target",
                lambda teacher, schedule, z, t, m, s: _two_steps(teacher, schedule, z, t, m, s)[2],
                "Part of the way was made with the first answer; find the z_0 that leads from t to s in one step.",
            ),
            Mistake(
                "you took the teacher's first answer for the target",
                lambda teacher, schedule, z, t, m, s: _two_steps(teacher, schedule, z, t, m, s)[1],
                "Then the student learns what the teacher knows already, a single step.",
            ),
            Mistake(
                "you divided the teacher's last state by alpha_s",
                lambda teacher, schedule, z, t, m, s: _two_steps(teacher, schedule, z, t, m, s)[0] / schedule.alpha(s),
                "That state still holds noise; subtract the share of z that a DDIM step keeps, sigma_s / sigma_t.",
            ),
            Mistake(
                "you left out how much of the noise the step keeps",
                lambda teacher, schedule, z, t, m, s: (
                    (_two_steps(teacher, schedule, z, t, m, s)[0] - z) / (schedule.alpha(s) - schedule.alpha(t))
                ),
                "A DDIM step keeps sigma_s / sigma_t of z - alpha_t z_0: z_s = alpha_s z_0 + (sigma_s / sigma_t) (...).",
            ),
        ],
    ),
    Exercise(
        "07.7",
        "sampling from a consistency model",
        reference=_jump,
        inputs=_jump_inputs,
        mistakes=[
            Mistake(
                "you put the old noise back",
                lambda *arguments: _jump(*arguments, fresh="of z"),
                "That is DDIM; a consistency model jumps to z_0 and starts again from there with fresh noise.",
            ),
            Mistake(
                "you used the noise of the start again and again",
                lambda *arguments: _jump(*arguments, fresh="start"),
                "Draw with noise(z) after each jump.",
            ),
            Mistake(
                "you forgot alpha_s",
                lambda *arguments: _jump(*arguments, signal=False),
                "A state at time s is alpha_s z_0 + sigma_s noise.",
            ),
            Mistake(
                "you put back as much noise as you took away",
                lambda *arguments: _jump(*arguments, late=False),
                "The next state is at time s, so its noise has the size sigma_s; at the end that is 0.",
            ),
            Mistake(
                "you forgot the last jump",
                _without_last,
                "The state at times[-2] is noisy; one more call of the student takes it to times[-1] = 0.",
            ),
            Mistake(
                "you stopped after the first jump",
                lambda student, schedule, z, times, noise: student(z, times[0]),
                "That is the sample of one step; the others repair it.",
            ),
        ],
    ),
    Exercise(
        "07.8",
        "the cheapest schedule of n steps",
        reference=_cheapest,
        inputs=_cost,
        judge=_no_more_than,
        mistakes=[
            Mistake(
                "you took the cheapest step at every place",
                _greedy,
                "A cheap first step can force dear ones later; compare whole paths.",
            ),
            Mistake(
                "you spaced the places evenly",
                _even,
                "The costs differ from place to place; that is why one searches.",
            ),
            Mistake(
                "your path has one step too many",
                lambda cost, n: _cheapest(cost, n + 1),
                "n steps visit n + 1 places, both ends included.",
            ),
            Mistake(
                "your path has one step too few",
                lambda cost, n: _cheapest(cost, n - 1),
                "Count the steps, not the places between the ends: n steps have n - 1 places between them.",
            ),
            Mistake(
                "you returned the path backwards",
                lambda cost, n: _cheapest(cost, n).flip(0),
                "Walking back from the end gives the places in reverse: start at place 0.",
            ),
        ],
    ),
]
