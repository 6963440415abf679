"""What we claim about quality: every method on Set5, Set14 and BSD100 under one protocol, as markdown tables.

    python benchmarks/quality.py                         all sets, all methods, scale 4
    python benchmarks/quality.py --protocol              bicubic at 2, 3 and 4 beside the published numbers
    python benchmarks/quality.py --samples 10 --cards    also the fit over samples, and numbers into the models' cards
    python benchmarks/quality.py --sets Set5 --methods bicubic --limit 2 --json out/quality.json

Protocol: crop the original to a multiple of 4, shrink by `resize`, round to 8 bits; super-resolve; round to 8 bits;
Y-PSNR and SSIM without the outermost 4 pixels; everything else on whole images. Values are means over a set's images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib.data import folder, require_folder
from tutorial_lib.files import write_atomically
from tutorial_lib.images import crop_to_multiple, resize, to_uint8
from tutorial_lib.metrics import color_shift, flat_noise, lr_consistency, psnr, sharpness, sliced_wasserstein, ssim
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import MODEL_CARDS, weights_path
from tutorial_lib.super_resolution import METHODS, super_resolve

SETS = ("Set5", "Set14", "BSD100")
SCALE = 4
COUNTS = (1, 2, 4, 8, 16)  # samples averaged for the fit
NOISY = "regression + white noise"  # as much noise as the sample differs from the regression
PUBLISHED = {  # bicubic at 2, 3, 4: reached here with the grey photo of Set14 as RGB; and as published
    "Set5": ("33.68/.9305, 30.40/.8690, 28.43/.8113", "33.66, 30.39, 28.42"),
    "Set14": ("30.33/.8700, 27.63/.7761, 26.09/.7050", "30.24, 27.55, 26.00"),
    "BSD100": ("29.56/.8436, 27.21/.7395, 25.96/.6682", "29.56, 27.21, 25.96"),
}
CARDS = {"regression": "photo-regression-x4", "residual-diffusion": "photo-residual-x4"}
COLUMNS = {
    "Y-PSNR": "dB",
    "SSIM": "",
    "LR consistency": "dB",
    "colour shift": "/255",
    "sharpness": "/255",
    "sharpness error": "/255",
    "sliced W1": "/255",
    "flat noise": "ratio",
    "time": "s",
}


def rounded(images: Tensor) -> Tensor:
    """Images as an 8-bit file would hold them."""
    return to_uint8(images).float() / 255


def measure(sr: Tensor, hr: Tensor, lr: Tensor, seconds: float = math.nan) -> dict[str, float]:
    """One row of numbers for one image, in the units of COLUMNS."""
    sharp = sharpness(sr).item() * 255
    return {
        "Y-PSNR": psnr(sr, hr, crop=SCALE).item(),
        "SSIM": ssim(sr, hr, crop=SCALE).item(),
        "LR consistency": lr_consistency(sr, lr, SCALE).item(),
        "colour shift": color_shift(sr, hr).item() * 255,
        "sharpness": sharp,
        "sharpness error": abs(sharp - sharpness(hr).item() * 255),
        "sliced W1": sliced_wasserstein(sr, hr).item() * 255,
        "flat noise": flat_noise(sr, hr).item(),
        "time": seconds,
    }


def measure_set(
    images: Sequence[Tensor], methods: Sequence[str], steps: int | None, seed: int
) -> dict[str, dict[str, float]]:
    """Method -> mean row over the images of a set; the original itself is the first row."""
    rows: dict[str, list[dict[str, float]]] = {}
    for image in images:
        hr = crop_to_multiple(image, SCALE)
        lr = rounded(resize(hr, 1 / SCALE))
        rows.setdefault("original", []).append(measure(hr, hr, lr))
        answers = {}
        for method in methods:
            start = time.perf_counter()
            sr = super_resolve(lr, method=method, scale=SCALE, seed=seed, steps=steps)
            seconds = time.perf_counter() - start
            answers[method] = sr
            rows.setdefault(method, []).append(measure(rounded(sr), hr, lr, seconds))
        if {"regression", "residual-diffusion"} <= answers.keys():
            std = (answers["residual-diffusion"] - answers["regression"]).square().mean().sqrt()
            noisy = answers["regression"] + std * standard_normal(seed)(hr)
            rows.setdefault(NOISY, []).append(measure(rounded(noisy), hr, lr))
    return {name: {c: sum(r[c] for r in found) / len(found) for c in COLUMNS} for name, found in rows.items()}


def fit_of_samples(images: Sequence[Tensor], method: str, steps: int | None, seed: int) -> dict[str, float]:
    """Fit E(K) = a + b / K to the Y-MSE of the mean of K samples, K = 1 .. 16, averaged over the set.

    `a` is the error of the mean of infinitely many samples, `b` the variance of one. For samples of the exact posterior
    a = b = the least MSE there is, and one sample lies 3 dB below the mean. a and b are printed as PSNR.
    """
    errors = torch.zeros(len(COUNTS), dtype=torch.float64)
    regression = 0.0
    for image in images:
        hr = crop_to_multiple(image, SCALE)
        lr = rounded(resize(hr, 1 / SCALE))
        total = torch.zeros_like(hr, dtype=torch.float64)
        for k in range(1, COUNTS[-1] + 1):
            total += super_resolve(lr, method=method, scale=SCALE, seed=seed + k - 1, steps=steps)
            if k in COUNTS:
                errors[COUNTS.index(k)] += mse(total / k, hr) / len(images)
        regression += mse(super_resolve(lr, method="regression", scale=SCALE, seed=seed), hr) / len(images)
    design = torch.tensor([[1.0, 1 / k] for k in COUNTS], dtype=torch.float64)
    a, b = torch.linalg.lstsq(design, errors[:, None]).solution.flatten().tolist()
    return {f"K={k}": dB(e) for k, e in zip(COUNTS, errors.tolist(), strict=True)} | {
        "a": dB(a),
        "b": dB(b),
        "regression": dB(regression),
    }


def mse(sr: Tensor, hr: Tensor) -> float:
    """Mean squared error of luma without the outermost SCALE pixels, recovered from the PSNR."""
    return 10 ** (-psnr(sr.clamp(0, 1), hr.to(sr), crop=SCALE).item() / 10)


def dB(error: float) -> float:
    """Mean squared error as PSNR; not a number when a fit went below zero."""
    return -10 * math.log10(error) if error > 0 else math.nan


def protocol(images: Sequence[Tensor], scale: int) -> tuple[float, float]:
    """Mean Y-PSNR and SSIM of bicubic at one scale."""
    scores = []
    for image in images:
        hr = crop_to_multiple(image, scale)
        sr = rounded(resize(rounded(resize(hr, 1 / scale)), scale))
        scores.append((psnr(sr, hr, crop=scale).item(), ssim(sr, hr, crop=scale).item()))
    return tuple(sum(column) / len(scores) for column in zip(*scores, strict=True))


def cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def table(rows: dict[str, dict[str, float]], head: Callable[[str], str] = str) -> str:
    """Markdown: one line per row, one column per key of the first."""
    columns = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(head(c) for c in columns) + " |", "|---|" + "---:|" * len(columns)]
    return "\n".join(
        lines + [f"| {name} | " + " | ".join(cell(row[c]) for c in columns) + " |" for name, row in rows.items()]
    )


def finite(value: object) -> object:
    """The same nested numbers with None (null in JSON) where one is infinite or missing."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_cards(results: dict[str, dict]) -> None:
    """Put the measured means of each method into the card of its weights, to four digits, under "quality"."""
    for method, name in CARDS.items():
        quality = {
            data: {column: float(f"{value:.4g}") for column, value in found["rows"][method].items() if column != "time"}
            for data, found in results.items()
            if method in found.get("rows", {})
        }
        path = weights_path(name).with_suffix(".json")
        text = json.dumps(MODEL_CARDS[name] | {"quality": quality}, indent=2) + "\n"
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--limit", type=int, help="only the first N images of each set")
    parser.add_argument("--steps", type=int, help="network calls of the diffusion methods (default: the method's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="also fit the error of the mean of K samples on the first N images of each set (16 runs per image)",
    )
    parser.add_argument(
        "--protocol", action="store_true", help="only bicubic at scales 2, 3, 4 beside the published numbers"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--cards", action="store_true", help="also write them into the cards beside the weights")
    options = parser.parse_args(arguments)
    results = {}
    for name in options.sets:
        try:
            images = folder(require_folder(name))[: options.limit]
        except FileNotFoundError as error:
            print(f"{name} is skipped: {error}\n")
            continue
        found = results[name] = {"images": len(images)}
        if options.protocol:
            found["bicubic"] = {scale: protocol(images, scale) for scale in (2, 3, 4)}
            ours = ", ".join(f"{p:.2f}/{s:.4f}" for p, s in found["bicubic"].values())
            print(f"{name}, {len(images)} images, bicubic x2, x3, x4: {ours}")
            print(f"  expected {PUBLISHED[name][0]}; published {PUBLISHED[name][1]}\n", flush=True)
            continue
        found["rows"] = measure_set(images, options.methods, options.steps, options.seed)
        print(f"### {name} x{SCALE}, {len(images)} images\n")
        print(table(found["rows"], lambda c: f"{c} ({COLUMNS[c]})" if COLUMNS[c] else c) + "\n", flush=True)
        if options.samples and "residual-diffusion" in options.methods:
            few = images[: options.samples]
            found["fit"] = fit_of_samples(few, "residual-diffusion", options.steps, options.seed)
            print("Y-PSNR (dB) of the mean of K samples, and the fit MSE = a + b/K (a, b as PSNR; of the mean")
            print(f"error over images, not the mean PSNR), first {len(few)} images of {name}:\n")
            print(table({"residual-diffusion": found["fit"]}) + "\n", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(finite(results), indent=1) + "\n")
    if options.cards:
        write_cards(results)


if __name__ == "__main__":
    main()
