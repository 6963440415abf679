"""Fewer network calls: students taught by a many-step teacher, a start that skips the noisiest steps, a grid worth its calls.

A student is a denoiser like its teacher. After progressive distillation its answer is the z_0 that makes one long DDIM
step land where two short ones of the teacher do; after consistency distillation it is where the teacher's flow ends.
Losses give one value per sample, (B,). Gradients reach the student only if its own weights take part in its answer:
`NetworkDenoiser` treats them as constants, `trainable` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .checks import check_positive, check_same_shape, check_whole
from .denoisers import Denoiser, NetworkDenoiser
from .noise import Noise, standard_normal
from .samplers import DEFAULT_SEED, State, dpm_solver_pp_2m
from .samplers.states import check_run, walk
from .schedules import Schedule, Time
from .steps import add_scaled, broadcast, ddim_step, forward_step

Distance = Callable[[Tensor], Tensor]  # an error (B, ...) -> one value per sample, (B,)


def trainable(network: nn.Module, schedule: Schedule | None = None) -> Denoiser:
    """The denoiser `NetworkDenoiser(network, "v", schedule)`, for training: here gradients reach the network's weights.

    With u = z / r, r = sqrt(alpha^2 + sigma^2) and the network's v, the answer is (alpha u - sigma v) / r. Where sigma is
    0 that is z / alpha whatever the network says, so the boundary condition of a consistency model, f(z, 0) = z, holds
    without further parameters; arXiv 2303.01469 builds it in with two functions c_skip and c_out, which this pair is.
    """
    denoiser = NetworkDenoiser(network, "v", schedule)

    def answer(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
        u, level = denoiser.inputs(z, t)
        alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
        size = alpha**2 + sigma**2
        output = network(u, level, cond).to(z.dtype)
        check_same_shape(output, z, ("the network's output", "z"))
        return add_scaled(broadcast(alpha / size, z) * z, -sigma / size.sqrt(), output)

    return answer


def pseudo_huber(error: Tensor, c: float = 0.03) -> Tensor:
    """sqrt(error^2 + c^2) - c, averaged over every sample, (B,): square for errors far below c, absolute value far above.

    Here each pixel counts by itself. arXiv 2310.14189 takes the root of the whole picture's square, which weighs whole
    pictures less when they are hard, and within a picture is still a square. Raises ValueError unless c > 0.
    """
    check_positive(c, "c")
    return ((error**2 + c**2).sqrt() - c).flatten(1).mean(1)


def _check_step(schedule: Schedule, times: tuple[Time, ...], names: str) -> list[Tensor]:
    moments = [torch.as_tensor(t, dtype=torch.float64) for t in times]
    inside = all(((t >= 0) & (t <= 1)).all() for t in moments)
    if not inside or not all((a > b).all() for a, b in zip(moments[:-1], moments[1:], strict=True)):
        came = ", ".join(str(t.tolist()) for t in moments)
        raise ValueError(f"times must obey 1 >= {names} >= 0, but {came} came")
    if not (schedule.sigma(moments[-2]) > 0).all():
        raise ValueError(f"a step must start where there is noise, but sigma is 0 at {moments[-2].tolist()}")
    return moments


def progressive_target(
    teacher: Denoiser, schedule: Schedule, z: Tensor, t: Time, s: Time, middle: Time | None = None
) -> Tensor:
    """The z_0 with which ONE DDIM step (eta 0) from t to s ends where the teacher's two, t to middle to s, end.

    Salimans & Ho 2022, arXiv 2202.00512, write it (z_s - (sigma_s/sigma_t) z) / (alpha_s - (sigma_s/sigma_t) alpha_t),
    with z_s the end of the two steps; that is w z_0(t) + (1 - w) z_0(middle), the mean of the teacher's two answers with
    w = (sigma_s/sigma_m) (alpha_m - (sigma_m/sigma_t) alpha_t) / (alpha_s - (sigma_s/sigma_t) alpha_t), computed so
    because it loses no digits in short steps. At s = 0 it is the second answer. `middle` is the mean of t and s by default,
    and t, s, middle are numbers or (B,). No gradient is kept. A public implementation had middle and s swapped.
    Raises ValueError unless 1 >= t > middle > s >= 0.
    """
    if middle is None:
        middle = (torch.as_tensor(t, dtype=torch.float64) + torch.as_tensor(s, dtype=torch.float64)) / 2
    t, middle, s = _check_step(schedule, (t, middle, s), "t > middle > s")
    (alpha_t, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = (
        (schedule.alpha(time), schedule.sigma(time)) for time in (t, middle, s)
    )
    with torch.no_grad():
        first = teacher(z, t)
        second = teacher(ddim_step(z, first, schedule, t, middle), middle)
        w = sigma_s / sigma_m * (alpha_m - sigma_m / sigma_t * alpha_t) / (alpha_s - sigma_s / sigma_t * alpha_t)
        return add_scaled(broadcast(1 - w, z) * second, w, first)


def progressive_loss(
    student: Denoiser,
    teacher: Denoiser,
    schedule: Schedule,
    z_0: Tensor,
    t: Time,
    s: Time,
    noise: Noise,
    middle: Time | None = None,
) -> Tensor:
    """max(alpha_t^2 / sigma_t^2, 1) |progressive_target - student(z_t, t)|^2, averaged over every sample, (B,).

    z_t = alpha_t z_0 + sigma_t noise. The weight is the paper's "truncated SNR" (arXiv 2202.00512): the SNR alone would
    be 0 in pure noise, where a student with one step does all of its work. For a student of n steps draw t from the n
    times of its grid and s the next one; then it becomes the teacher of the next, with half as many.
    """
    z = forward_step(z_0, schedule, 0.0, t, noise)
    target = progressive_target(teacher, schedule, z, t, s, middle)
    weight = ((schedule.alpha(t) / schedule.sigma(t)) ** 2).clamp(min=1).to(z)
    return weight * (student(z, t) - target).square().flatten(1).mean(1)


def flow_step(teacher: Denoiser, schedule: Schedule, z: Tensor, t: Time, s: Time, order: int = 2) -> Tensor:
    """One step of the teacher's flow from t to s, with one time per sample if need be: what consistency distillation walks.

    Order 1 is DDIM. Order 2 repeats it with the mean of the answers at both ends (UniC-1, arXiv 2302.04867), two calls;
    unlike Heun's rule in sigma it can leave pure noise and arrive at sigma = 0, where the second look would change nothing
    and is left out.
    """
    z_0 = teacher(z, t)
    z_s = ddim_step(z, z_0, schedule, t, s)
    if check_whole(order, "order") > 2:
        raise ValueError(f"order must be 1 or 2, but {order} came")
    if order == 1 or (schedule.sigma(s) == 0).all():
        return z_s
    return ddim_step(z, (z_0 + teacher(z_s, s)) / 2, schedule, t, s)


def consistency_target(
    target_student: Denoiser, teacher: Denoiser, schedule: Schedule, z: Tensor, t: Time, s: Time, order: int = 2
) -> Tensor:
    """What the student should answer at (z, t): the target student's answer at s, where the teacher's flow leads from there.

    Song et al. 2023, arXiv 2303.01469. All points of one flow line have the same answer, the line's clean end; where
    sigma(s) = 0 that end is z_s / alpha_s, and the target student is not asked, so the boundary holds whoever it is. It
    is the student itself or an average of its past weights. No gradient is kept: without that stop the cheapest way to
    agree is to answer the same to everything. Raises ValueError unless 1 >= t > s >= 0.
    """
    t, s = _check_step(schedule, (t, s), "t > s")
    with torch.no_grad():
        z_s = flow_step(teacher, schedule, z, t, s, order)
        end = broadcast(1 / schedule.alpha(s), z_s) * z_s
        arrived = schedule.sigma(s) == 0
        if arrived.all():
            return end
        answer = target_student(z_s, s)
        return torch.where(arrived.view(-1, *[1] * (z.ndim - 1)), end, answer)


def consistency_loss(
    student: Denoiser,
    target_student: Denoiser,
    teacher: Denoiser,
    schedule: Schedule,
    z_0: Tensor,
    t: Time,
    s: Time,
    noise: Noise,
    order: int = 2,
    distance: Distance = pseudo_huber,
) -> Tensor:
    """distance(student(z_t, t) - consistency_target(...)), (B,), at z_t = alpha_t z_0 + sigma_t noise (arXiv 2303.01469).

    t and s, numbers or (B,), are neighbours on a grid that ends at 0: the truth enters at that end and moves up one step
    of the grid at a time, so few steps learn fast and many steps follow the flow more closely.
    """
    z = forward_step(z_0, schedule, 0.0, t, noise)
    return distance(student(z, t) - consistency_target(target_student, teacher, schedule, z, t, s, order))


def solved_paths(teacher: Denoiser, schedule: Schedule, z: Tensor, times: Tensor) -> Tensor:
    """The teacher's flow from the states z (B, ...) along the n + 1 `times` by DPM-Solver++(2M), (B, n + 1, ...): n calls.

    A student that learns to answer the path's end from any of its points needs no target network: its targets are not
    made of its own answers. Luhman & Luhman 2021, arXiv 2101.02388, do so from the first point only.
    """
    with torch.no_grad():
        return torch.stack([state.z for state in dpm_solver_pp_2m(teacher, schedule, z, times)], 1)


def consistency_sample(
    student: Denoiser,
    schedule: Schedule,
    z: Tensor,
    times: Tensor,
    noise: Noise | None = None,
    progress: bool = False,
) -> Iterator[State]:
    """Jump to the end, add noise, jump again: z_0 = student(z, t), then z_s = alpha_s z_0 + sigma_s noise, n calls.

    Algorithm 1 of arXiv 2303.01469. The noise is fresh at every time: a consistency model knows where its flow ends, not
    the flow's direction, so a DDIM step with its answer would leave the law of z_s. trailing_times(1) is one jump from
    pure noise. noise=None means standard_normal(DEFAULT_SEED). Raises ValueError for times that do not decrease within
    [0, 1].
    """
    times = check_run(z, times)
    noise = noise or standard_normal(DEFAULT_SEED)

    def step(z: Tensor, z_0: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return forward_step(z_0, schedule, 0.0, s, noise)

    return walk(student, z, times, step, progress)


def truncated_start(guess: Tensor, schedule: Schedule, t: float, noise: Noise) -> Tensor:
    """z_t = alpha_t guess + sigma_t noise: a sampler then runs a grid from t < 1, and the steps above t are saved.

    Chung et al. 2022, arXiv 2112.05146 ("come closer, diffuse faster"). An error of the guess is first multiplied by
    alpha_t, then by what the reverse steps leave of it, while too small a t leaves the guess's own faults in place.
    Raises ValueError unless 0 < t <= 1.
    """
    if not 0 < t <= 1:
        raise ValueError(f"t must be a time above 0 and at most 1, but {t!r} came")
    return forward_step(guess, schedule, 0.0, t, noise)


def elbo_costs(schedule: Schedule, times: Tensor, errors: Tensor) -> Tensor:
    """Cost (T, T) in nats of the step from times[i] to times[j], j > i: (SNR(j) - SNR(i)) / 2 times errors[i].

    errors[i] is E |z_0 - denoiser(z, t)|^2 at times[i], summed over the pixels: one estimate per time, and every
    step's term of the ELBO follows (Watson et al. 2021, arXiv 2106.03802, with the posterior's variance). Entries that
    are no step to a cleaner time are infinite. Raises ValueError where sigma is 0: that step's term is a likelihood of
    the data, not a divergence.
    """
    times, errors = torch.as_tensor(times, dtype=torch.float64), torch.as_tensor(errors, dtype=torch.float64)
    if times.ndim != 1 or errors.shape != times.shape:
        shapes = f"{tuple(times.shape)} and {tuple(errors.shape)}"
        raise ValueError(f"times and errors must be lists of the same length, but their shapes are {shapes}")
    snr = schedule.log_snr(times).exp()
    if not snr.isfinite().all() or not (times.diff() < 0).all():
        raise ValueError(f"times must decrease and stay where sigma > 0, but {times.tolist()} came")
    costs = (snr - snr[:, None]) / 2 * errors[:, None]
    return torch.where(torch.ones_like(costs).triu(1) > 0, costs, torch.inf)


def best_times(cost: Tensor, n: int) -> tuple[Tensor, float]:
    """The cheapest way from index 0 to the last in exactly n steps: its n + 1 indices, and the sum of its costs.

    cost (T, T): cost[i, j] of the step from i to j > i; whatever stands on and below the diagonal is not looked at, and
    infinity forbids a step. Watson et al. 2021, arXiv 2106.03802: with the best k - 1 steps to every index known, the
    best k follow, in T^2 operations each. For costs that add up, no grid of n steps from these times is better. Raises
    ValueError for a cost that is not square or holds NaN, for more steps than there are, and when no way is left.
    """
    cost = torch.as_tensor(cost, dtype=torch.float64)
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) < 2:
        raise ValueError(f"cost must have shape (T, T) with T >= 2, but its shape is {tuple(cost.shape)}")
    if check_whole(n, "n") > len(cost) - 1:
        raise ValueError(f"n must be at most {len(cost) - 1}, the steps between {len(cost)} times, but {n} came")
    cost = torch.where(torch.ones_like(cost).triu(1) > 0, cost, torch.inf)
    if not (cost > -torch.inf).all():
        raise ValueError("cost must hold numbers or +infinity above the diagonal, but NaN or -infinity came")
    total = torch.full((len(cost),), torch.inf, dtype=torch.float64)
    total[0] = 0
    came_from = []
    for _ in range(n):
        total, before = (total[:, None] + cost).min(0)
        came_from.append(before)
    if not total[-1] < torch.inf:
        raise ValueError(f"no way of {n} steps is left: every one costs infinity")
    indices = [len(cost) - 1]
    for before in reversed(came_from):
        indices.append(int(before[indices[-1]]))
    return torch.tensor(indices[::-1]), total[-1].item()
