"""SR3's inference schedule, searched: which grid of n noise levels, and how much noise in each step?

    python benchmarks/sr3.py                    20 steps of photo-sr3-x4 on the built-in photos
    python benchmarks/sr3.py --steps 10 50      other numbers of steps
    python benchmarks/sr3.py --cascade          how much noise the second stage of the cascade should be given

Score: the mean sliced W1 distance to the originals (in /255, less is better) over crops of the built-in photos, which are
in no training and no test set; beside it flat noise (1 is the original's) and Y-PSNR. One seed per crop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from tutorial_lib import super_resolution
from tutorial_lib.images import photo, resize, to_uint8
from tutorial_lib.metrics import flat_noise, psnr, sliced_wasserstein
from tutorial_lib.pretrained import SPREADS
from tutorial_lib.schedules import shifted_cosine
from tutorial_lib.sr3 import candidate_times, search_times
from tutorial_lib.super_resolution import FIRST_TIME, one_source_per_image, sr3_sample, super_resolve, upsampled

CROPS = {"astronaut": (0, 120), "chelsea": (60, 120), "coffee": (100, 150), "rocket": (120, 200), "flower": (150, 250)}
ETAS = (0.0, 0.5, 0.7, 0.85)  # beside 1, with which all grids are tried


def crops(size: int) -> tuple[Tensor, Tensor]:
    """(lr, hr): size x size pieces of the built-in photos, in [0, 1]; lr rounded to 8 bits."""
    hr = torch.cat([photo(name)[..., y : y + size, x : x + size] for name, (y, x) in CROPS.items()])
    return to_uint8(resize(hr, 1 / 4)).float() / 255, hr


def judged(sr: Tensor, hr: Tensor) -> tuple[float, float, float]:
    """Sliced W1 (/255), flat noise (ratio) and Y-PSNR (dB), means over the crops."""
    sr = sr.clamp(0, 1)
    values = (255 * sliced_wasserstein(sr, hr), flat_noise(sr, hr), psnr(sr, hr, crop=4))
    return tuple(v[v.isfinite()].mean().item() for v in values)


def line(name: str, values: tuple[float, float, float]) -> str:
    return f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |"


def search(steps: int, lr: Tensor, hr: Tensor) -> None:
    """First every grid with eta = 1 (ancestral sampling), then the winner and the even grid with every eta."""
    schedule = shifted_cosine(SPREADS["photo-sr3-x4"])
    grids = {name: FIRST_TIME * times for name, times in candidate_times(schedule, steps).items()}
    found: dict[str, tuple[float, float, float]] = {}

    def ranked(eta: float, names: Sequence[str]) -> list[tuple[float, str]]:
        values = []  # of the grids in their order, which is the order in which they are scored

        def score(times: Tensor) -> float:
            with torch.inference_mode():
                noise = one_source_per_image(0, len(lr))
                values.append(judged(sr3_sample("photo-sr3-x4", lr, upsampled(lr, 4), noise, times, eta), hr))
            return values[-1][0]

        ranking = search_times(score, {name: grids[name] for name in names})
        found.update({f"{name}, eta = {eta:g}": row for name, row in zip(names, values, strict=True)})
        return ranking

    best = ranked(1.0, list(grids))[0][1]
    for eta in ETAS:
        ranked(eta, list(dict.fromkeys((best, "t"))))
    print(f"### {steps} steps\n\n| grid, eta | sliced W1 (/255) | flat noise | Y-PSNR (dB) |\n|---|---:|---:|---:|")
    for name, values in sorted(found.items(), key=lambda item: item[1][0]):
        print(line(name, values), flush=True)
    print()


def cascade(lr: Tensor, hr: Tensor) -> None:
    """Noise levels for the second stage's condition: 0 believes the first stage's every mistake."""
    shipped = super_resolution.AUGMENTATION
    print("### cascade\n\n| augmentation | sliced W1 (/255) | flat noise | Y-PSNR (dB) |\n|---|---:|---:|---:|")
    for std in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
        super_resolution.AUGMENTATION = std
        print(line(f"{std:g}", judged(super_resolve(lr, method="sr3-cascade"), hr)), flush=True)
    super_resolution.AUGMENTATION = shipped


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--size", type=int, default=160, help="side of the crops in HR pixels, a multiple of 4")
    parser.add_argument("--cascade", action="store_true", help="search the cascade's augmentation instead")
    options = parser.parse_args(arguments)
    lr, hr = crops(options.size)
    if options.cascade:
        cascade(lr, hr)
        return
    for steps in options.steps:
        search(steps, lr, hr)


if __name__ == "__main__":
    main()
