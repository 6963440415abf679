"""YODA's mask over time, tried: two networks trained alike, with and without the masked loss, sampled with and without masks.

    python benchmarks/yoda.py                every table (about 4 processor minutes of one core)
    python benchmarks/yoda.py --json FILE    also write the record; chapter 13 draws tutorial_lib/data/yoda.json

Faces from 8 x 8 to 32 x 32, a small `SR3Network` told the enlarged LR face, eps weighted as in recipes/sr3.py, times uniform on
the shifted cosine schedule, AdamW with 50 steps of warm-up and a linear fall to 0, gradients clipped to norm 1. "masked" sees
`yoda.masked_state` and learns by `yoda.masked_loss`, lowest LOWEST, importance by local contrast of the LR face; "plain" is
SR3. Sampling is DDPM in 20 steps with z_0 clipped to [-1, 1]: every pixel all the way; with YODA's mask; and, as a control,
every pixel from one common late start that works on the same share of pixels. All cells of one seed share faces and noise, so
differences are paired by seed; every +- is a standard error over SEEDS training seeds. PSNR is over RGB, sliced W1 and colour
shift in grey levels of 255.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib import yoda
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.files import write_atomically
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.metrics import color_shift, psnr, sliced_wasserstein
from tutorial_lib.networks.sr3 import SR3Network
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import LOCAL_SPREADS, SPREADS
from tutorial_lib.recipes.base import step_generator
from tutorial_lib.samplers import last
from tutorial_lib.schedules import shifted_cosine, uniform_times
from tutorial_lib.sr3 import with_condition

SIZE, SCALE, FOLD, TRAINING, HELD_OUT, SEEDS = 32, 4, 4, 4096, 64, 3
TRAINING_STEPS, PEAK, STEPS, LOWEST = 800, 2e-3, 20, 0.1
NAME = "faces-sr3-x4"  # whose numbers the network takes for the spread of faces around their enlargement
SHIFTED = shifted_cosine(SPREADS[NAME])
TRAININGS = {  # batch, whether the loss is masked
    "plain": (16, False),
    "masked": (16, True),
    "plain, batch of 2": (2, False),
    "masked, batch of 2": (2, True),
}
MEASURES = ("PSNR", "W1", "shift", "share")


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(hr, lr): faces rounded to 8 bits."""
    hr = to_uint8(faces(count, SIZE, seed=seed).images).float() / 255
    return hr, to_uint8(resize(hr, 1 / SCALE)).float() / 255


def enlarged(lr: Tensor) -> Tensor:
    """The guide: the LR face enlarged by bicubic interpolation, a state."""
    return 2 * resize(lr, SCALE) - 1


def maps(lr: Tensor, way: str) -> tuple[Tensor, float]:
    """(importance, lowest) of a way of sampling, for `yoda.yoda`."""
    contrast = yoda.importance(lr, SCALE)
    if way == "YODA":
        return contrast, LOWEST
    if way == "every pixel":
        return torch.ones_like(contrast), 0.0
    begin = LOWEST + (1 - LOWEST) * contrast
    return begin.mean((1, 2, 3), keepdim=True).expand_as(contrast), 0.0  # one late start for the whole face


def train(name: str, data: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int) -> dict[str, dict]:
    """Every cell of one training: {way of sampling: measures}."""
    batch, masked = TRAININGS[name]
    states, guides, contrast = 2 * data[0] - 1, enlarged(data[1]), yoda.importance(data[1], SCALE)
    torch.manual_seed(seed)
    network = SR3Network(LOCAL_SPREADS[NAME], channels=(32, 48), blocks=1, fold=FOLD)
    denoiser = NetworkDenoiser(network, "eps", SHIFTED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(TRAINING_STEPS):
        network.train()
        generator = step_generator(seed, step)
        index = torch.randint(len(states), (batch,), generator=generator)
        t = ((torch.arange(batch) + torch.rand(batch, generator=generator)).double() / batch).clamp(min=1e-3)
        white = torch.randn(states[index].shape, generator=generator)
        mask = yoda.diffused(contrast[index], t, LOWEST) if masked else torch.ones_like(contrast[index])
        z, eps = yoda.masked_state(states[index], guides[index], mask, SHIFTED, t, lambda _, white=white: white)
        spread = network.spread(guides[index])
        root = (spread / SPREADS[NAME] * (1 + (-SHIFTED.log_snr(t)).exp().float().view(-1, 1, 1, 1) / spread**2)).sqrt()
        answer = network(*denoiser.inputs(z, t), guides[index])
        loss = yoda.masked_loss(root * answer, root * eps, mask).mean()
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min((step + 1) / 50, 1 - step / TRAINING_STEPS)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return {way: look(network, test, way) for way in ("every pixel", "YODA", "one late start")}


def look(network: SR3Network, test: tuple[Tensor, Tensor], way: str) -> dict[str, float]:
    """Measures of 64 samples."""
    hr, lr = test
    answer = with_condition(NetworkDenoiser(network.eval(), "eps", SHIFTED), enlarged(lr))
    noise, guide, times = standard_normal(0), enlarged(lr), uniform_times(STEPS, 0.995)
    chosen, lowest = maps(lr, way)
    with torch.no_grad():
        states = yoda.yoda(
            lambda z, t: answer(z, t).clamp(-1, 1), SHIFTED, guide, chosen, noise(guide), times, lowest, noise=noise
        )
        sr = ((last(states) + 1) / 2).clamp(0, 1)
    return {
        "PSNR": psnr(sr, hr, channel="rgb").mean().item(),
        "W1": 255 * sliced_wasserstein([sr], [hr]).item(),
        "shift": 255 * color_shift(sr, hr).mean().item(),
        "share": yoda.share(chosen, times, lowest).mean().item(),
    }


def plus_minus(values: list[float], digits: int = 2) -> str:
    column = torch.tensor(values, dtype=torch.float64)
    return f"{column.mean():.{digits}f} ± {column.std() / len(values) ** 0.5:.{digits}f}"


def report(cells: dict[str, dict[str, list[float]]]) -> None:
    """Print the table: "training/steps/sampling" -> measure -> one value per seed."""
    print(
        f"Mean ± standard error of {SEEDS} seeds\n\n| | " + " | ".join(MEASURES) + " |\n|---|" + "---:|" * len(MEASURES)
    )
    for name, cell in cells.items():
        print(f"| {name} | " + " | ".join(plus_minus(cell[m]) for m in MEASURES) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, test = pairs(TRAINING, 0), pairs(HELD_OUT, 2024)
    cells: dict[str, dict[str, list[float]]] = {}
    for seed in range(SEEDS):
        for name in TRAININGS:
            for key, row in train(name, data, test, seed).items():
                cell = cells.setdefault(f"{name}/{key}", {})
                for measure, value in row.items():
                    cell.setdefault(measure, []).append(float(f"{value:.4g}"))
    report(cells)
    if options.json:
        bicubic = resize(test[1], SCALE).clamp(0, 1)
        record = {
            "training_steps": TRAINING_STEPS,
            "seeds": SEEDS,
            "lowest": LOWEST,
            "cells": cells,
            "bicubic": {
                "PSNR": round(psnr(bicubic, test[0], channel="rgb").mean().item(), 2),
                "W1": round(255 * sliced_wasserstein([bicubic], [test[0]]).item(), 2),
            },
        }
        text = json.dumps(record, separators=(",", ":")).replace('},"', '},\n"') + "\n"
        write_atomically(options.json, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
