"""Colour shift caused on purpose: by which training, by which sampling, and what each cure leaves and costs.

    python benchmarks/color.py                every table (about 10 processor minutes of one core)
    python benchmarks/color.py --json FILE    also write the record; chapter 16 draws tutorial_lib/data/color.json

Faces from 4 x 4 to 16 x 16, a small U-Net told the enlarged LR face, which diffuses the whole face as SR3 does. "base" learns
eps on DDPM's 1000 betas in batches of 16 out of 4096 faces, by AdamW with 50 steps of warm-up and gradients clipped to norm
1; each other training changes one thing, but the zero-terminal one both schedule and prediction. Sampling is DDPM in 20 steps
with z_0 clipped to [-1, 1], as public SR3 code does; each other sampling changes one thing. Cures are applied to the base's
samples. All cells of one seed share the order of faces, the noise of training as far as the batch allows, and the noise of
sampling, so differences between cells are paired by seed; every +- is a standard error over SEEDS training seeds. Shift is
`metrics.color_shift` (grey levels of 255; CIELAB), tint the length of the mean cast that all samples share, PSNR is over RGB,
sliced W1 in grey levels, contrast the standard deviation of a channel relative to the original's.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib.color import adain_fix, back_projection, p2_weight, wavelet_fix
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.files import write_atomically
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.metrics import channel_shifts, color_shift, psnr, sliced_wasserstein
from tutorial_lib.networks.unet import UNet
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Bicubic
from tutorial_lib.recipes.base import step_generator
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import Schedule, from_betas, uniform_times, zero_terminal_snr
from tutorial_lib.sr3 import with_condition
from tutorial_lib.steps import forward_step
from tutorial_lib.training import ema_weight

SIZE, TRAINING, HELD_OUT, SEEDS = 16, 4096, 64, 6
CHECKPOINTS = (50, 100, 200, 400, 800)  # training steps
LOOKED_AT = (200, 800)  # where every sampling and every cure is measured, for the base
PEAK, STEPS, FEW = 1e-3, 20, 4
LINEAR = from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))  # alpha-bar_T = 4e-5
SHORT = from_betas(
    torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)
)  # the same betas, 100 of them: alpha-bar_T = 0.36
TRAININGS: dict[str, tuple[str, Schedule, int, float]] = {  # kind, schedule, batch, gamma of P2
    "base": ("eps", LINEAR, 16, 0.0),
    "batch of 2": ("eps", LINEAR, 2, 0.0),
    "P2": ("eps", LINEAR, 16, 1.0),
    "v": ("v", LINEAR, 16, 0.0),
    "alpha-bar_T = 0.36": ("eps", SHORT, 16, 0.0),
    "its zero-terminal version, v": ("v", zero_terminal_snr(SHORT), 16, 0.0),
}
CURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "adain_fix": adain_fix,
    "wavelet_fix": wavelet_fix,
    "back_projection": lambda sr, lr: back_projection(sr, lr, Bicubic(4)),
}


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(hr, lr): faces rounded to 8 bits."""
    hr = to_uint8(faces(count, SIZE, seed=seed).images).float() / 255
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


def told(lr: Tensor) -> Tensor:
    """The condition on the folded grid: the enlarged LR face."""
    return torch.nn.functional.pixel_unshuffle(2 * resize(lr, 4) - 1, 2)


def network_for(seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet(3, 3, 12, channels=(48, 64), blocks=1, fold=2)


def sample(
    network: UNet,
    kind: str,
    schedule: Schedule,
    lr: Tensor,
    steps: int = STEPS,
    clip: bool = True,
    informed: bool = False,
) -> Tensor:
    """Faces (B, 3, 16, 16), not clipped to [0, 1]; `informed` starts from the noised enlargement instead of pure noise."""
    answer = with_condition(NetworkDenoiser(network.eval(), kind, schedule), told(lr))

    def clipped(z: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        return answer(z, t).clamp(-1, 1)

    noise, enlarged = standard_normal(0), 2 * resize(lr, 4) - 1
    z = forward_step(enlarged, schedule, 0.0, 1.0, noise) if informed else noise(enlarged)
    with torch.no_grad():
        states = ddim(clipped if clip else answer, schedule, z, uniform_times(steps), eta=1.0, noise=noise)
        return (last(states) + 1) / 2


def measures(sr: Tensor, hr: Tensor) -> dict[str, float]:
    """One number each for a set of faces; sr is clipped to [0, 1] here, as a file would."""
    sr = sr.clamp(0, 1)
    red, green, blue = (255 * channel_shifts(sr, hr).mean(0)).tolist()
    return {
        "shift": 255 * color_shift(sr, hr).mean().item(),
        "lab": color_shift(sr, hr, "lab").mean().item(),
        "tint": math.sqrt(red**2 + green**2 + blue**2),
        "red": red,
        "green": green,
        "blue": blue,
        "PSNR": psnr(sr, hr, channel="rgb").mean().item(),
        "W1": 255 * sliced_wasserstein([sr], [hr]).item(),
        "contrast": (sr.std((2, 3)) / hr.std((2, 3))).mean().item(),
    }


def train(name: str, data: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int) -> dict[str, dict]:
    """Every cell of one training: {"steps/sampling": measures}."""
    kind, schedule, batch, gamma = TRAININGS[name]
    states, cond = 2 * data[0] - 1, told(data[1])
    network, average = network_for(seed), network_for(seed)
    denoiser = NetworkDenoiser(network, kind, schedule)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    found = {}
    for step in range(CHECKPOINTS[-1]):
        network.train()
        generator = step_generator(seed, step)
        index = torch.randint(len(states), (batch,), generator=generator)
        t = (torch.arange(batch) + torch.rand(batch, generator=generator)).double() / batch
        t = t.clamp(min=1e-3)
        eps = torch.randn(states[index].shape, generator=generator)
        z = forward_step(states[index], schedule, 0.0, t, lambda _, eps=eps: eps)
        error = network(*denoiser.inputs(z, t), cond[index]) - denoiser.target(states[index], eps, t)
        weight = p2_weight(schedule.log_snr(t), gamma).float()  # all ones where gamma is 0
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 50)
        optimizer.zero_grad()
        (weight * error.square().mean((1, 2, 3))).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, ema_weight(step, 50))
        if step + 1 in CHECKPOINTS:
            found |= {f"{step + 1}/{way}": row for way, row in look(network, average, name, test, step + 1).items()}
    return found


def look(network: UNet, average: UNet, name: str, test: tuple[Tensor, Tensor], steps: int) -> dict[str, dict]:
    """Measures of the samples; at LOOKED_AT also of other samplings, and for the base of every sampling and every cure."""
    kind, schedule, _, _ = TRAININGS[name]
    hr, lr = test
    sr = sample(network, kind, schedule, lr)
    rows = {"as sampled": measures(sr, hr)}
    if steps not in LOOKED_AT:
        return rows
    if schedule is SHORT:
        rows["informed start"] = measures(sample(network, kind, schedule, lr, informed=True), hr)
    if name in ("base", "v"):
        rows["not clipped"] = measures(sample(network, kind, schedule, lr, clip=False), hr)
        rows[f"{FEW} steps"] = measures(sample(network, kind, schedule, lr, steps=FEW), hr)
    if name in ("base", "batch of 2"):
        rows["averaged weights"] = measures(sample(average, kind, schedule, lr), hr)
    return rows | ({cure: measures(fix(sr, lr), hr) for cure, fix in CURES.items()} if name == "base" else {})


def plus_minus(values: list[float], digits: int = 2) -> str:
    column = torch.tensor(values, dtype=torch.float64)
    return f"{column.mean():.{digits}f} ± {column.std() / len(values) ** 0.5:.{digits}f}"


def report(cells: dict[str, dict[str, list[float]]], originals: dict[str, dict[str, float]]) -> None:
    """Print every table: "training/steps/sampling" -> measure -> one value per seed."""
    columns = ("shift", "lab", "tint", "PSNR", "W1", "contrast")
    head = "| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns)
    print(f"### Trainings, after so many steps: mean ± standard error of {SEEDS} seeds\n\n{head}")
    for name in TRAININGS:
        for steps in CHECKPOINTS:
            row = cells[f"{name}/{steps}/as sampled"]
            print(f"| {name}, {steps} | " + " | ".join(plus_minus(row[c]) for c in columns) + " |")
    for steps in LOOKED_AT:
        print(f"\n### Samplings and cures after {steps} steps, and the paired change\n\n{head}")
        for name in TRAININGS:
            before = cells[f"{name}/{steps}/as sampled"]
            for key, row in cells.items():
                if key.startswith(f"{name}/{steps}/"):
                    change = [plus_minus([a - b for a, b in zip(row[c], before[c], strict=True)]) for c in columns]
                    both = (f"{plus_minus(row[c])} ({d})" for c, d in zip(columns, change, strict=True))
                    print(f"| {name}, {key.split('/')[-1]} | " + " | ".join(both) + " |")
    print(f"\n### What needs no network\n\n{head}")
    for name, row in originals.items():
        print(f"| {name} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, test = pairs(TRAINING, 0), pairs(HELD_OUT, 2024)
    hr, lr = test
    originals = {"bicubic": measures(resize(lr, 4), hr)}
    originals |= {f"original, {cure}": measures(fix(hr, lr), hr) for cure, fix in CURES.items()}
    cells: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        for name in TRAININGS:
            for key, row in train(name, data, test, seed).items():
                cell = cells.setdefault(f"{name}/{key}", {})
                for measure, value in row.items():
                    cell.setdefault(measure, []).append(float(f"{value:.4g}"))
    report(cells, originals)
    if options.json:
        short = {name: {c: float(f"{v:.4g}") for c, v in row.items()} for name, row in originals.items()}
        record = {
            "checkpoints": CHECKPOINTS,
            "looked_at": LOOKED_AT,
            "seeds": SEEDS,
            "cells": cells,
            "originals": short,
        }
        text = json.dumps(record, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n"
        write_atomically(options.json, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
