"""What we claim about quality: every method on Set5, Set14, BSD100 and faces under one protocol, as markdown tables.

    python benchmarks/quality.py                         all sets, all methods, scale 4 (zero-shot methods not on BSD100)
    python benchmarks/quality.py --costs --planes out    parameters, multiply-adds; perception-distortion planes as PNG
    python benchmarks/quality.py --protocol              bicubic at 2, 3 and 4 beside the published numbers
    python benchmarks/quality.py --scales                "continuous" beside bicubic at 2, 2.5, 3, 3.5 and 4
    python benchmarks/quality.py --samples 10 --cards    also the fit over samples, and numbers into the models' cards
    python benchmarks/quality.py --sets Set5 --methods bicubic --limit 2 --json out/quality.json

Protocol: crop the original to a multiple of 4, shrink by `resize`, round to 8 bits; super-resolve; round to 8 bits;
Y-PSNR and SSIM without the outermost 4 pixels; everything else on whole images. Values are means over a set's images;
the plane's error bars are 1.96 standard errors of a method's
distance to the mean of all methods but the zero-shot ones on the same image. Those take an hour on BSD100
and are run there only when --methods names them; benchmarks/zero_shot.py compares them. faces: 500 procedural faces
that no network was trained on, from 8 x 8 to 32 x 32, by the networks for faces.
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

from tutorial_lib.data import faces, folder, require_folder
from tutorial_lib.files import write_atomically
from tutorial_lib.images import crop_to_multiple, resize, to_uint8
from tutorial_lib.metrics import color_shift, flat_noise, lr_consistency, psnr, sharpness, sliced_wasserstein, ssim
from tutorial_lib.noise import standard_normal
from tutorial_lib.photo_priors import PRIOR_METHODS
from tutorial_lib.pretrained import MODEL_CARDS, load_pretrained, weights_path
from tutorial_lib.super_resolution import FACE_METHODS, METHODS, STEPS, face_super_resolve, super_resolve

SETS = ("Set5", "Set14", "BSD100", "faces")
FACES, FACE_SEED = 500, 2024
SCALE = 4
COUNTS = (1, 2, 4, 8, 16)  # samples averaged for the fit
NOISY = "regression + white noise"  # as much noise as the sample differs from the regression
PUBLISHED = {  # bicubic at 2, 3, 4: reached here with the grey photo of Set14 as RGB; and as published
    "Set5": ("33.68/.9305, 30.40/.8690, 28.43/.8113", "33.66, 30.39, 28.42"),
    "Set14": ("30.33/.8700, 27.63/.7761, 26.09/.7050", "30.24, 27.55, 26.00"),
    "BSD100": ("29.56/.8436, 27.21/.7395, 25.96/.6682", "29.56, 27.21, 25.96"),
}
CARDS = {
    "sparse": "photo-sparse-x4",
    "regression": "photo-regression-x4",
    "gan": "photo-gan-x4",
    "flow": "photo-flow-x4",
    "sr3": "photo-sr3-x4",
    "sr3-cascade": "photo-sr3-x2",
    "srdiff": "photo-srdiff-x4",
    "residual-diffusion": "photo-residual-x4",
    "wavelet": "photo-wavelet-x4",
    "latent": "photo-latent-x4",
    "cold": "photo-cold-x4",
    "continuous": "photo-continuous",
}
BRIDGES = ("indi", "i2sb", "resshift")  # with the network of "wavelet"
ON_REGRESSION = (
    "flow",
    "srdiff",
    "residual-diffusion",
    "wavelet",
    "latent",
    *BRIDGES,
    "cold",
    "continuous",
)  # run it once
NETWORKS = CARDS | dict.fromkeys(BRIDGES, "photo-wavelet-x4")  # what a method computes with
NETWORKS |= dict.fromkeys(PRIOR_METHODS, "photo-unconditional")
NETWORKS |= {m: f"photo-regression-x4 {NETWORKS[m]}" for m in ON_REGRESSION}
NETWORKS["latent"] += " photo-autoencoder-x4"
SCALES = (2, 2.5, 3, 3.5, 4)  # of "continuous"
COLUMNS = {
    "Y-PSNR": "dB",
    "SSIM": "",
    "LR consistency": "dB",
    "colour shift": "/255",
    "sharpness": "/255",
    "sharpness error": "/255",
    "sliced W1": "/255",
    "flat noise": "ratio",
    "calls": "",
    "time": "s",
}


def rounded(images: Tensor) -> Tensor:
    """Images as an 8-bit file would hold them."""
    return to_uint8(images).float() / 255


def calls(method: str, steps: int | None) -> float:
    """Network calls of a method: each stage of a cascade, the regression others build on, and a decoder count."""
    once = (method in ON_REGRESSION) + (method == "latent")
    if method in STEPS:
        stages = STEPS[method] if isinstance(STEPS[method], tuple) else (STEPS[method],)
        return sum(steps or n for n in stages) + once
    return {"regression": 1, "gan": 1, "flow": 1}.get(method, 0) + once


def measure(sr: Tensor, hr: Tensor, lr: Tensor, network_calls: float = math.nan, seconds: float = math.nan) -> dict:
    """Numbers for images (B, 3, H, W), each (B,), in the units of COLUMNS."""
    sharp = sharpness(sr) * 255
    return {
        "Y-PSNR": psnr(sr, hr, crop=SCALE),
        "SSIM": ssim(sr, hr, crop=SCALE),
        "LR consistency": lr_consistency(sr, lr, SCALE),
        "colour shift": color_shift(sr, hr) * 255,
        "sharpness": sharp,
        "sharpness error": (sharp - sharpness(hr) * 255).abs(),
        "sliced W1": torch.stack([sliced_wasserstein(a[None], b[None]).squeeze() for a, b in zip(sr, hr, strict=True)])
        * 255,
        "flat noise": flat_noise(sr, hr),
        "calls": torch.full((len(sr),), float(network_calls)),
        "time": torch.full((len(sr),), seconds / len(sr)),
    }


def summarise(rows: dict[str, list[dict[str, Tensor]]]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Method -> means over all images of a set, and method -> standard errors, column by column.

    Images differ far more than methods do, so the errors are those of a method's distance to the mean of all methods on
    the same image, without the zero-shot methods unless there are no others.
    """
    columns = {m: {c: torch.cat([row[c].double() for row in found]) for c in COLUMNS} for m, found in rows.items()}
    present = [m for m in columns if m not in ("original", NOISY)]
    methods = [m for m in present if m not in PRIOR_METHODS] or present
    centre = {c: torch.stack([columns[m][c] for m in methods]).mean(0) for c in COLUMNS}
    means = {
        m: {c: v[v.isfinite()].mean().item() if v.isfinite().any() else v[0].item() for c, v in found.items()}
        for m, found in columns.items()
    }
    errors = {
        m: {c: ((v - centre[c]).std() / math.sqrt(len(v))).item() if len(v) > 1 else math.nan for c, v in found.items()}
        for m, found in columns.items()
    }
    return means, errors


def measure_set(
    images: Sequence[Tensor], methods: Sequence[str], steps: int | None, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Method -> mean row over the images of a set, and method -> standard errors; the original itself is the first row."""
    rows: dict[str, list[dict[str, Tensor]]] = {}
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
            rows.setdefault(method, []).append(measure(rounded(sr), hr, lr, calls(method, steps), seconds))
        if {"regression", "residual-diffusion"} <= answers.keys():
            std = (answers["residual-diffusion"] - answers["regression"]).square().mean().sqrt()
            noisy = answers["regression"] + std * standard_normal(seed)(hr)
            rows.setdefault(NOISY, []).append(measure(rounded(noisy), hr, lr))
    return summarise(rows)


def measure_faces(
    count: int, methods: Sequence[str], steps: int | None, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """The same for faces from 8 x 8 to 32 x 32, all at once."""
    hr = rounded(faces(count, 32, seed=FACE_SEED).images)
    lr = rounded(resize(hr, 1 / SCALE))
    rows = {"original": [measure(hr, hr, lr)]}
    for method in (m for m in methods if m in FACE_METHODS):
        start = time.perf_counter()
        sr = face_super_resolve(lr, method=method, seed=seed, steps=steps)
        seconds = time.perf_counter() - start
        rows[method] = [measure(rounded(sr), hr, lr, calls(method, steps), seconds)]
    return summarise(rows)


def costs(methods: Sequence[str], size: int = 64) -> dict[str, dict[str, float]]:
    """Parameters (millions) and multiply-adds per HR pixel (thousands), counted in the convolutions and matrix products
    of one run on a `size` x `size` LR image. The dictionary of "sparse" is searched outside of torch and not counted."""
    from torch.utils.flop_counter import FlopCounterMode

    lr = standard_normal(0)(torch.empty(1, 3, size, size)).mul(0.2).add(0.5).clamp(0, 1)
    rows = {}
    for method in methods:
        with FlopCounterMode(display=False) as counter:
            super_resolve(lr, method=method)
        names = NETWORKS.get(method, "").split()
        numbers = sum(p.numel() for name in names for p in load_pretrained(name).state_dict().values())
        rows[method] = {
            "parameters (M)": numbers / 1e6,
            "multiply-adds per HR pixel (thousands)": counter.get_total_flops() / 2 / (SCALE * size) ** 2 / 1e3,
        }
    return rows


def plane(name: str, rows: dict[str, dict[str, float]], errors: dict[str, dict[str, float]], path: Path) -> None:
    """Draw every method as a point: distortion (Y-PSNR) against perception (sliced W1), with error bars.

    Without the bridges, which would cover the point of "wavelet", whose network they use, and without zero-shot methods.
    """
    from tutorial_lib.plots import scatter

    shown = [method for method in rows if method not in ("original", NOISY, *BRIDGES, *PRIOR_METHODS)]

    def pair(table: dict, method: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
        return [factor * table[method]["Y-PSNR"]], [factor * table[method]["sliced W1"]]

    figure = scatter(
        {method: pair(rows, method) for method in shown},
        errors={method: pair(errors, method, 1.96) for method in shown},
        names={method: [method] for method in shown} if len(shown) > 7 else None,  # then colours and markers repeat
        title=f"{name}: right is closer to the original, down is closer to what originals look like",
        alt="; ".join(f"{m}: {rows[m]['Y-PSNR']:.2f} dB, sliced W1 {rows[m]['sliced W1']:.2f}" for m in shown),
        xlabel="Y-PSNR (dB)",
        ylabel="sliced W1 (/255)",
    )
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(figure.encoded[1]))


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


def measure_scales(images: Sequence[Tensor], seed: int) -> dict[str, dict[str, float]]:
    """Mean Y-PSNR and sliced W1 of "bicubic" and "continuous" at every one of SCALES.

    Where a scale is no whole number, the original is cut so that its LR image, times the scale, has its size again.
    """
    rows: dict[str, dict[str, float]] = {}
    for scale in SCALES:
        found: dict[str, list[tuple[float, float]]] = {"bicubic": [], "continuous": []}
        for image in images:
            height, width = (math.floor(int(n / scale / 2) * 2 * scale) for n in image.shape[-2:])
            hr = image[..., :height, :width]
            lr = rounded(resize(hr, 1 / scale))
            for method, values in found.items():
                sr = rounded(super_resolve(lr, method=method, scale=scale, seed=seed)[..., :height, :width])
                values.append((psnr(sr, hr, crop=4).item(), 255 * sliced_wasserstein(sr, hr).item()))
        for method, values in found.items():
            quality, distance = (sum(column) / len(values) for column in zip(*values, strict=True))
            rows[f"{method} x{scale}"] = {"Y-PSNR": quality, "sliced W1": distance}
    return rows


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
        for start, kinds in (("photo", [k for k in results if k != "faces"]), ("faces", ["faces"])):
            card = name.replace("photo", start)
            quality = {
                data: {
                    c: float(f"{v:.4g}") for c, v in results[data]["rows"][method].items() if c not in ("time", "calls")
                }
                for data in kinds
                if method in results.get(data, {}).get("rows", {})
            }
            if quality and card in MODEL_CARDS:
                path = weights_path(card).with_suffix(".json")
                found = json.loads(path.read_text())
                text = json.dumps(found | {"quality": found.get("quality", {}) | quality}, indent=2) + "\n"
                write_atomically(path, lambda temporary, text=text: temporary.write_text(text))


def report(results: dict, name: str, count: int, rows: dict, errors: dict, planes: Path | None) -> None:
    """Keep and print the table of one set, with the standard errors of the two axes of the plane."""
    results.setdefault(name, {"images": count}).update({"rows": rows, "standard errors": errors})
    print(f"### {name} x{SCALE}, {count} images\n")
    print(table(rows, lambda c: f"{c} ({COLUMNS[c]})" if COLUMNS[c] else c) + "\n")
    axes = ("Y-PSNR", "sliced W1")
    print("Standard errors of " + " and ".join(axes) + ":")
    print(
        "; ".join(f"{m} {errors[m][axes[0]]:.2g}, {errors[m][axes[1]]:.2g}" for m in rows if m != "original") + "\n",
        flush=True,
    )
    if planes:
        planes.mkdir(parents=True, exist_ok=True)
        plane(name, rows, errors, planes / f"plane_{name}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--limit", type=int, help="only the first N images of each set")
    parser.add_argument("--steps", type=int, help="network calls of the diffusion methods (default: the method's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="also fit the error of the mean of K samples on the first N images of each set (16 runs per image)",
    )
    parser.add_argument("--costs", action="store_true", help="also parameters and multiply-adds of every method")
    parser.add_argument("--planes", type=Path, metavar="FOLDER", help="draw plane_SET.png for each set into FOLDER")
    parser.add_argument(
        "--protocol", action="store_true", help="only bicubic at scales 2, 3, 4 beside the published numbers"
    )
    parser.add_argument("--scales", action="store_true", help="only bicubic and continuous at scales from 2 to 4")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--cards", action="store_true", help="also write them into the cards beside the weights")
    options = parser.parse_args(arguments)
    results = {}
    every = options.methods or list(METHODS)
    trained = options.methods or [m for m in METHODS if m not in PRIOR_METHODS]
    if options.costs:
        print("### Costs\n\n" + table(costs(every)) + "\n", flush=True)
    for name in options.sets:
        if name == "faces":
            if options.protocol or options.scales:
                continue
            count = min(FACES, options.limit or FACES)
            rows, errors = measure_faces(count, every, options.steps, options.seed)
            report(results, name, count, rows, errors, options.planes)
            continue
        try:
            images = folder(require_folder(name))[: options.limit]
        except FileNotFoundError as error:
            print(f"{name} is skipped: {error}\n")
            continue
        found = results.setdefault(name, {"images": len(images)})
        if options.protocol:
            found["bicubic"] = {scale: protocol(images, scale) for scale in (2, 3, 4)}
            ours = ", ".join(f"{p:.2f}/{s:.4f}" for p, s in found["bicubic"].values())
            print(f"{name}, {len(images)} images, bicubic x2, x3, x4: {ours}")
            print(f"  expected {PUBLISHED[name][0]}; published {PUBLISHED[name][1]}\n", flush=True)
            continue
        if options.scales:
            found["scales"] = measure_scales(images, options.seed)
            print(f"### {name}, {len(images)} images\n\n{table(found['scales'])}\n", flush=True)
            continue
        rows, errors = measure_set(images, trained if name == "BSD100" else every, options.steps, options.seed)
        report(results, name, len(images), rows, errors, options.planes)
        if options.samples and "residual-diffusion" in every:
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
