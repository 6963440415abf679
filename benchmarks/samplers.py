"""What we claim about samplers: error and quality per network call, beside diffusers, and what the student is worth.

    python benchmarks/samplers.py             all tables (under ten minutes on two cores)
    python benchmarks/samplers.py --quick     the same tables from few samples, in about a minute
    python benchmarks/samplers.py --cards     student and teacher with 1,024 faces each, and the student's rows into its card

Exact: three Gaussians on a line, whose flow is known: it keeps the rank of every point, so the quantile u of the noised law
ends in the quantile u of the data. Deterministic samplers are judged by the root mean square distance to that end, random
ones by the distance (W1) between the law of what they draw and the mixture, a hundred numbers to a state. Learned:
faces-unconditional-32, all samplers from the same noise, judged as in benchmarks/faces.py. Both on vp_linear, which every
sampler can leave, and, but where a name says otherwise, on one grid, even in log-SNR. A number in brackets is the calls
really made where they differ from the column's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from faces import distance
from speed import ratio
from torch import Tensor

from tutorial_lib.data import faces
from tutorial_lib.denoisers import Denoiser, NetworkDenoiser, count_calls
from tutorial_lib.distillation import consistency_sample
from tutorial_lib.domains import Pixel
from tutorial_lib.files import write_atomically
from tutorial_lib.images import to_uint8
from tutorial_lib.noise import standard_normal
from tutorial_lib.oracles import GaussianMixture, denoiser_for
from tutorial_lib.pretrained import MODEL_CARDS, load_pretrained, weights_path
from tutorial_lib.samplers import (
    adaptive_sde,
    analytic_dpm,
    annealed_langevin,
    ddim,
    ddpm,
    deis,
    dpm_solver_2,
    dpm_solver_pp_2m,
    heun,
    last,
    pndm,
    predictor_corrector,
    probability_flow,
    reverse_sde,
    trajectory,
    unipc,
)
from tutorial_lib.schedules import (
    Time,
    edm,
    from_betas,
    log_snr_times,
    trailing_times,
    uniform_times,
    vp_cosine,
    vp_linear,
)

TEACHER, STUDENT = "faces-unconditional-32", "faces-distilled-32"
SCHEDULE = vp_linear()
BATCH = 64
LAW = GaussianMixture(
    torch.tensor([0.3, 0.5, 0.2]),
    torch.tensor([[-1.2], [0.3], [1.5]], dtype=torch.float64),
    torch.tensor([[[0.04]], [[0.09]], [[0.02]]], dtype=torch.float64),
)
TOLERANCES = {8: 4.0, 16: 2.0, 32: 0.7, 64: 0.2}  # of the adaptive solver, which chooses its own calls
Run = Callable[[Denoiser, Tensor, int], Tensor]


def grid(n: int) -> Tensor:
    return log_snr_times(SCHEDULE, n, t_min=2e-3)


def fixed(
    sampler: Callable, steps: Callable[[int], int] = lambda calls: calls, times: Callable = grid, **options
) -> Run:
    """The sampler on a grid of as many steps as the calls pay for; None where they pay for none."""

    def run(denoiser: Denoiser, z: Tensor, calls: int) -> Tensor | None:
        n = steps(calls)
        return None if n < 1 else last(sampler(denoiser, SCHEDULE, z, times(n), **options))

    return run


def random(sampler: Callable, steps: Callable[[int], int] = lambda calls: calls, **options) -> Run:
    def run(denoiser: Denoiser, z: Tensor, calls: int) -> Tensor | None:
        return fixed(sampler, steps, noise=standard_normal(1), **options)(denoiser, z, calls)

    return run


def adaptive(denoiser: Denoiser, z: Tensor, calls: int) -> Tensor:
    ends = torch.tensor([1.0, 0.0])
    return last(adaptive_sde(denoiser, SCHEDULE, z, ends, rtol=TOLERANCES[calls], noise=standard_normal(1)))


def halved(calls: int) -> int:
    return (calls + 1) // 2


DETERMINISTIC: dict[str, Run] = {
    "ddim": fixed(ddim),
    "probability_flow (Heun in t), uniform grid": fixed(probability_flow, halved, uniform_times),
    "heun (in sigma/alpha)": fixed(heun, halved),
    "dpm_solver_2": fixed(dpm_solver_2, halved),
    "dpm_solver_pp_2m": fixed(dpm_solver_pp_2m),
    "unipc, order 2": fixed(unipc),
    "unipc, order 3": fixed(unipc, order=3),
    "pndm, Runge-Kutta start": fixed(pndm, lambda calls: calls - 9),
    "pndm, low-order start": fixed(pndm, start="lower_order"),
    "deis, order 3": fixed(deis),
}
RANDOM: dict[str, Run] = {
    "ddpm, beta-tilde": random(ddpm),
    "ddpm, beta": random(ddpm, variance="beta"),
    "ddim, eta 0.5": random(ddim, eta=0.5),
    "analytic_dpm": random(analytic_dpm, last_std=0.0),
    "reverse_sde, uniform grid": random(reverse_sde, times=uniform_times),
    "predictor_corrector, uniform grid": random(predictor_corrector, halved, times=uniform_times),
    "annealed_langevin, 3 a level": random(partial(annealed_langevin, steps=3), lambda calls: (calls - 1) // 3),
    "heun, churn 5": random(heun, halved, s_churn=5.0),
    "adaptive_sde": adaptive,
}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([first, *others]) + " |"

    print(f"\n{title}\n\n{line(head)}\n|{'|'.join('-' * (width + 2) for width in widths)}|")
    for row in rows:
        print(line(row))
    print(flush=True)


def cell(value: float, counted: int, calls: int) -> str:
    return f"{value:.4g}" + ("" if counted == calls else f" ({counted})")


def quantiles(u: Tensor, alpha: float, sigma: float) -> Tensor:
    """The u-quantiles of the mixture noised to alpha z_0 + sigma eps, by bisection."""
    weights, means = LAW.weights, alpha * LAW.means[:, 0]
    spreads = (alpha**2 * LAW.covariances[:, 0, 0] + sigma**2).sqrt()
    low, high = torch.full_like(u, -20.0), torch.full_like(u, 20.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = (weights * torch.special.ndtr((middle[:, None] - means) / spreads)).sum(1) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def coordinatewise(z: Tensor, t: Time, cond: Tensor | None = None) -> Tensor:
    """The exact denoiser of states whose numbers are independent draws of the mixture."""
    t = torch.as_tensor(t, dtype=torch.float64).expand(len(z)).repeat_interleave(z[0].numel())
    return denoiser_for(LAW, SCHEDULE)(z.reshape(-1, 1), t).reshape(z.shape)


def exact(budgets: Sequence[int], count: int) -> None:
    """Both tables of the mixture, whose end is known."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    start = quantiles(u, SCHEDULE.alpha(1.0).item(), SCHEDULE.sigma(1.0).item())
    end = quantiles(u, 1.0, 0.0)
    shuffled = start[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    drawn = LAW.sample(count)[:, 0].sort().values
    floor = (drawn - end).abs().mean().item()

    def root_mean_square(x: Tensor) -> float:
        return (x - end).square().mean().sqrt().item()

    def law_distance(x: Tensor) -> float:
        return (x.sort().values - end).abs().mean().item()

    parts = (
        ("deterministic, root mean square distance to the flow's exact end", DETERMINISTIC, start, root_mean_square),
        (
            f"random, W1 of {count} draws to the law ({floor:.4f} for {count} exact draws)",
            RANDOM,
            shuffled,
            law_distance,
        ),
    )
    for title, samplers, z, measure in parts:
        rows = []
        for name, run in samplers.items():
            row = [name]
            for calls in budgets:
                denoiser = count_calls(coordinatewise)
                x = run(denoiser, z.reshape(-1, 100), calls)
                row.append("" if x is None else cell(measure(x.flatten()), denoiser.calls, calls))
            rows.append(row)
        table(f"Exact mixture, {title}", ["sampler / calls", *map(str, budgets)], rows)


def fresh_faces(count: int, seed: int) -> Tensor:
    return to_uint8(faces(count, 32, seed=seed).images).float() / 255


def drawn_faces(run: Callable[[Tensor], Tensor], count: int) -> Tensor:
    """`count` faces from the same starts for everybody, as an 8-bit file would hold them."""
    noise, done = standard_normal(0), []
    for _ in range(0, count, BATCH):
        with torch.inference_mode():
            done.append(run(noise(torch.empty(BATCH, 3, 32, 32))))
    return to_uint8(Pixel().decode(torch.cat(done)[:count].nan_to_num(0.0, 1e3, -1e3))).float() / 255


def learned(budgets: Sequence[int], count: int) -> None:
    one, two = (fresh_faces(count, seed) for seed in (1, 2))
    rows = []
    for name, run in (DETERMINISTIC | RANDOM).items():
        row, seconds = [name], 0.0
        for calls in budgets:
            denoiser = count_calls(NetworkDenoiser(load_pretrained(TEACHER), "v", SCHEDULE))
            if run(lambda z, t: z, torch.zeros(1, 1), calls) is None:
                row.append("")
                continue
            begun = time.perf_counter()
            x = drawn_faces(lambda z, run=run, calls=calls, denoiser=denoiser: run(denoiser, z, calls), count)
            seconds = time.perf_counter() - begun
            row.append(cell(distance(x, one), round(denoiser.calls / -(-count // BATCH)), calls))
        rows.append([*row, f"{seconds:.1f}"])
    title = f"Faces, sliced W1 / 255 of {count} samples ({distance(one, two):.2f} between two sets of fresh faces)"
    table(title, ["sampler / calls", *map(str, budgets), f"s at {budgets[-1]}"], rows)


def table_levels(scheduler) -> dict[int, Tensor]:
    """What our network is told of the noise at each of their timesteps."""
    kept = scheduler.alphas_cumprod.double()
    level = ((kept / (1 - kept)).log() / 8).float()
    return {int(step): level[int(step)] for step in scheduler.timesteps}


def beside_diffusers(pairs: int, count: int, n: int = 20) -> None:
    """One network, our loop and theirs in turns: ratio of the times, and how far the states are apart."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DEISMultistepScheduler,
        EDMDPMSolverMultistepScheduler,
        EDMEulerScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )

    network = load_pretrained(TEACHER)
    z = standard_normal(0)(torch.empty(count, 3, 32, 32))
    leading = {"timestep_spacing": "leading", "prediction_type": "v_prediction"}
    log_rho = partial(deis, variable="log_rho")
    told_eps = {**leading, "prediction_type": "epsilon"}  # theirs would average v over several times
    rivals = {
        "ddim / DDIMScheduler": (ddim, DDIMScheduler(clip_sample=False, **leading)),
        "ddpm / DDPMScheduler": (
            lambda *run: ddpm(*run, noise=standard_normal(1)),
            DDPMScheduler(clip_sample=False, **leading),
        ),
        "ddim / EDMEulerScheduler": (ddim, EDMEulerScheduler(sigma_data=1.0)),
        "2m / EDMDPMSolverMultistepScheduler": (dpm_solver_pp_2m, EDMDPMSolverMultistepScheduler(sigma_data=1.0)),
        "unipc / UniPCMultistepScheduler": (unipc, UniPCMultistepScheduler(**leading)),
        "deis / DEISMultistepScheduler": (log_rho, DEISMultistepScheduler(solver_order=3, **leading)),
        "pndm / PNDMScheduler": (pndm, PNDMScheduler(**told_eps)),
    }
    rows = []
    for name, (sampler, scheduler) in rivals.items():
        scheduler.set_timesteps(n)
        karras = name.split(" / ")[1].startswith("EDM")
        if karras:
            schedule, start = edm(80.0), 80 * z
            times = scheduler.sigmas.double() / 80
            levels = [(-sigma.log() / 4).clamp(-2.5, 2.5) for sigma in scheduler.sigmas[:-1]]
        else:
            schedule, start = from_betas(scheduler.betas.double()), z
            steps = torch.unique(scheduler.timesteps).flip(0)
            steps = torch.arange(n - 1, -1, -1) * (1000 // n) if "PNDM" in name else steps
            times = torch.cat([(steps.double() + 1) / 1000, torch.zeros(1, dtype=torch.float64)])
            told = table_levels(scheduler)
            levels = [told[int(step)] for step in scheduler.timesteps]
        denoiser = NetworkDenoiser(network, "v", schedule)

        def ours(sampler=sampler, denoiser=denoiser, schedule=schedule, start=start, times=times) -> list[Tensor]:
            return [state.z for state in trajectory(sampler(denoiser, schedule, start, times))]

        def theirs(scheduler=scheduler, start=start, levels=levels, karras=karras) -> list[Tensor]:
            scheduler.set_timesteps(n)
            generator = torch.Generator().manual_seed(1)
            options = {"generator": generator} if isinstance(scheduler, DDPMScheduler) else {}
            states = [start]
            for step, level in zip(scheduler.timesteps, levels, strict=True):
                seen = scheduler.scale_model_input(states[-1], step)
                output = network(seen, level.expand(count))
                if karras:
                    output = -output
                elif isinstance(scheduler, PNDMScheduler):
                    alpha, sigma = (8 * level).sigmoid().sqrt(), (-8 * level).sigmoid().sqrt()
                    output = alpha * output + sigma * seen
                states.append(scheduler.step(output, step, states[-1], **options).prev_sample)
            return states

        end = -2 if isinstance(scheduler, DEISMultistepScheduler | PNDMScheduler) else -1  # their last step is not to 0
        with torch.inference_mode():
            found, expected, moved = ours(), theirs(), ours(start=start + 1e-5 * start.flip(0))
            first = (found[1] - expected[4 if "PNDM" in name else 1]).abs().max().item()
            apart, shaken = ((found[end] - other[end]).abs().max().item() for other in (expected, moved))
            middle, low, high = ratio(ours, theirs, pairs)
        rows.append(
            [name, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", f"{first:.0e}", f"{apart:.0e}", f"{shaken:.0e}"]
        )
    title = (
        f"Beside diffusers, one network, {n} steps, {count} faces: times in turns, the largest difference between ours and"
        " theirs (their tables are float32), and how far our own end moves when the start is moved by 1e-5 of itself"
    )
    head = ["ours / theirs", "time ratio", "pairs", "apart after a step", "at the end", "our end moved"]
    table(title, head, rows)


def student(count: int, cards: bool) -> None:
    """The student's few calls beside the teacher's many; with `cards` also into its card."""
    schedule = vp_cosine()

    def walked(sampler: Callable, denoiser: Denoiser, times: Tensor, z: Tensor) -> Tensor:
        return last(sampler(denoiser, schedule, z, times))

    one, two = (fresh_faces(count, seed) for seed in (1, 2))
    teacher, pupil = (NetworkDenoiser(load_pretrained(name)) for name in (TEACHER, STUDENT))
    ways: dict[str, tuple[Denoiser, Callable, Callable[[int], Tensor], Sequence[int]]] = {
        "student": (pupil, partial(consistency_sample, noise=standard_normal(1)), trailing_times, (1, 2, 4)),
        "teacher, ddim, trailing grid": (teacher, ddim, trailing_times, (1, 2, 4, 8)),
        "teacher, 2M, trailing grid": (teacher, dpm_solver_pp_2m, trailing_times, (1, 2, 4, 8)),
        "teacher, 2M, log-SNR grid": (
            teacher,
            dpm_solver_pp_2m,
            lambda n: log_snr_times(schedule, n, t_min=0.02),
            (4, 8, 16),
        ),
    }
    columns = (1, 2, 4, 8, 16)
    yardstick = distance(one, two)
    rows, quality = [], {"samples": count, "sliced W1 of fresh faces": round(yardstick, 4)}
    for name, (denoiser, sampler, times, budgets) in ways.items():
        row = [name]
        for calls in columns:
            if calls not in budgets:
                row.append("")
                continue
            begun = time.perf_counter()
            x = drawn_faces(partial(walked, sampler, denoiser, times(calls)), count)
            seconds = time.perf_counter() - begun
            found = distance(x, one)
            row.append(f"{found:.2f} ({1000 * seconds / count:.1f} ms)")
            quality |= {f"sliced W1, {name}, {calls} call{'s' if calls > 1 else ''}": round(found, 4)}
        rows.append(row)
    title = f"Student and teacher, sliced W1 / 255 of {count} samples ({yardstick:.2f} between two sets of fresh faces)"
    table(title, ["way / calls (time per face)", *map(str, columns)], rows)
    if cards:
        path = weights_path(STUDENT).with_suffix(".json")
        text = json.dumps(MODEL_CARDS[STUDENT] | {"quality": quality}, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few samples: about a minute")
    parser.add_argument("--count", type=int, help="faces per sampler (default: 192; 32 with --quick)")
    parser.add_argument("--cards", action="store_true", help="only the student, with 1024 faces, and into its card")
    options = parser.parse_args(arguments)
    if options.cards:
        student(options.count or 1024, cards=True)
        return
    count = options.count or (32 if options.quick else 192)
    exact((8, 16, 32, 64), 1000 if options.quick else 20_000)
    learned((8,) if options.quick else (8, 16, 32), count)
    beside_diffusers(1 if options.quick else 5, 4 if options.quick else 16)
    student(4 * count, cards=False)


if __name__ == "__main__":
    main()
