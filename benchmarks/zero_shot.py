"""Zero-shot super-resolution of pictures nobody knows the posterior of: photos and faces, scale 4.

    python benchmarks/zero_shot.py                          all sets and methods (about an hour and a half on one core)
    python benchmarks/zero_shot.py --json FILE              and keep it; chapter 15 shows tutorial_lib/data/zero_shot.json
    python benchmarks/zero_shot.py --show FILE              print what was kept
    python benchmarks/zero_shot.py --cards                  and the numbers into the cards of the two priors
    python benchmarks/zero_shot.py --choose                 the step sizes in tutorial_lib.photo_priors, on training photos
    python benchmarks/zero_shot.py --sets Set5 --samples 2  a part, in two minutes

Protocol: the central 96 x 96 pixels of every photo of Set5 and Set14, and 32 procedural faces of 64 x 64 that no network was
trained on. Measured by 4 x 4 pooling or by MATLAB's bicubic, without noise or with noise of 0.05 (of 1, white to black); not
rounded, not clipped. Every method makes the same number of network calls, 50, knows camera and noise, and has step sizes
chosen on training photos. Compared with four interpolations and with the regression network that was trained for bicubic
without noise.

    one         Y-PSNR (dB) of one sample, without the outermost 4 pixels, mean over pictures
    mean        Y-PSNR of the mean of 4 samples, and of 16 for ddrm and ddnm
    sliced W1   distance of a sample's patches from the original's, in grey levels
    residual    root mean square of camera(sample) - measurement, in units of 1; noise_std is right, 0 without noise
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutorial_lib.color import back_projection
from tutorial_lib.data import faces, folder, require_folder
from tutorial_lib.files import write_atomically
from tutorial_lib.images import resize
from tutorial_lib.metrics import psnr, sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, LinearOperator
from tutorial_lib.photo_priors import CALLS, PRIOR_METHODS, restore
from tutorial_lib.pretrained import load_pretrained, weights_path
from tutorial_lib.recipes.photos import photo_patches

SIZE, FACES, FACE_SEED = 96, 32, 2025
CAMERAS: dict[str, LinearOperator] = {"pooling": AveragePool(4), "bicubic": Bicubic(4)}
NOISES = (0.0, 0.05)
SAMPLES, MANY = 4, 16
MOST = ("ddrm", "ddnm")  # draw MANY samples
SETS = ("Set5", "Set14", "faces")
CHOICES = {
    "dps": [{"scale": s} for s in (3.0, 5.0, 8.0, 12.0)],
    "pigdm": [{"first": t, "prior_std": p} for t, p in ((0.995, 1.0), (0.95, 1.0), (0.9, 1.0), (0.8, 1.0), (0.9, 0.5))],
    "diffpir": [{"zeta": z, "strength": k} for z in (0.3, 1.0) for k in (1.0, 4.0)],
    "ddnm": [{"eta_total": f} for f in (None, 0.4, 0.6, 0.85)],
    "ddrm": [{}, {"eta_total": 1.0}],
}


def pictures(name: str) -> tuple[Tensor, str]:
    """(B, 3, H, W) in [0, 1], and the prior that fits them."""
    if name == "faces":
        return faces(FACES, 64, seed=FACE_SEED).images, "faces-unconditional-64"
    photos = folder(require_folder(name))
    centres = []
    for photo in photos:
        top, left = ((n - SIZE) // 2 for n in photo.shape[-2:])
        centres.append(photo[..., top : top + SIZE, left : left + SIZE])
    return torch.cat(centres), "photo-unconditional"


def interpolations(lr: Tensor, camera: LinearOperator, noise_std: float) -> dict[str, Tensor]:
    """Enlargements by 4 that know no photos."""
    bicubic = resize(lr, 4)
    found = {
        "nearest": F.interpolate(lr, scale_factor=4),
        "bilinear": F.interpolate(lr, scale_factor=4, mode="bilinear"),
        "bicubic": bicubic,
    }
    return found if noise_std else found | {"bicubic, made consistent": back_projection(bicubic, lr, camera)}


def row(samples: Tensor, hr: Tensor, lr: Tensor, camera: LinearOperator) -> dict[str, float]:
    """Numbers for samples (K, B, 3, H, W) of pictures hr (B, 3, H, W)."""
    first = samples[0].clamp(0, 1)
    found = {
        "one": torch.cat([psnr(one.clamp(0, 1), hr, crop=4) for one in samples]).mean().item(),
        "sliced W1": 255
        * torch.cat([sliced_wasserstein(a[None], b[None]) for a, b in zip(first, hr, strict=True)]).mean().item(),
        "residual": (camera(samples[0]) - lr).square().mean().sqrt().item(),
    }
    for k in (SAMPLES, MANY):
        if len(samples) >= k:
            found[f"mean of {k}"] = psnr(samples[:k].mean(0).clamp(0, 1), hr, crop=4).mean().item()
    return found


def draw(method: str, lr: Tensor, camera: LinearOperator, network: nn.Module, noise_std: float, count: int) -> Tensor:
    """Samples 0, ..., count - 1 (seeds) of every picture, (count, B, 3, H, W)."""
    with torch.inference_mode():
        return torch.stack(
            [restore(lr, method, camera, network, noise_std, CALLS, standard_normal(k)) for k in range(count)]
        )


def measured(hr: Tensor, camera: LinearOperator, noise_std: float) -> Tensor:
    """What the camera sees, with noise of seed 1000."""
    lr = camera(hr)
    return lr + noise_std * standard_normal(1000)(lr)


def table(name: str, camera: str, noise_std: float, methods: list[str], samples: int) -> dict[str, dict[str, float]]:
    """Rows of one set, camera and noise."""
    hr, prior = pictures(name)
    operator, network = CAMERAS[camera], load_pretrained(prior)
    lr = measured(hr, operator, noise_std)
    rows = {method: row(sr[None], hr, lr, operator) for method, sr in interpolations(lr, operator, noise_std).items()}
    with torch.inference_mode():
        rows["regression"] = row(load_pretrained("photo-regression-x4")(lr)[None], hr, lr, operator)
    for method in methods:
        count = MANY if method in MOST and samples == SAMPLES else samples
        rows[method] = row(draw(method, lr, operator, network, noise_std, count), hr, lr, operator)
    return rows


def show(results: list[dict]) -> None:
    """Markdown tables."""
    for result in results:
        print(f"\n**{result['set']}, {result['camera']} by 4, noise {result['noise_std']:g}**\n")
        print("| | one | mean | sliced W1 | residual |\n|---|---:|---:|---:|---:|")
        for method, found in result["rows"].items():
            means = ", ".join(f"{found[k]:.2f}" for k in (f"mean of {SAMPLES}", f"mean of {MANY}") if found.get(k))
            print(f"| {method} | {found['one']:.2f} | {means} | {found['sliced W1']:.2f} | {found['residual']:.1e} |")


def write_cards(results: list[dict]) -> None:
    """Put the methods' rows into the card of the prior they used, to four digits, under "quality"."""
    for prior, sets in (("photo-unconditional", ("Set5", "Set14")), ("faces-unconditional-64", ("faces",))):
        quality = {
            f"{result['set']}, {result['camera']}, noise {result['noise_std']:g}": {
                method: {k: float(f"{v:.4g}") for k, v in found.items()}
                for method, found in result["rows"].items()
                if method in PRIOR_METHODS
            }
            for result in results
            if result["set"] in sets
        }
        if quality:
            path = weights_path(prior).with_suffix(".json")
            card = json.loads(path.read_text())
            text = json.dumps(card | {"quality": card.get("quality", {}) | quality}, indent=2) + "\n"
            write_atomically(path, lambda temporary, text=text: temporary.write_text(text))


def choose() -> None:
    """Step sizes on eight training patches: one sample and the mean of two, without noise and with it."""
    hr = photo_patches(10**6, SIZE, 8, 0)["z_0"].add(1).div(2)
    network = load_pretrained("photo-unconditional")
    print("| method | camera | noise | one | mean of 2 | sliced W1 |\n|---|---|---:|---:|---:|---:|")
    shipped = dict(PRIOR_METHODS)
    for camera, noise_std in (("bicubic", 0.0), ("pooling", 0.0), ("pooling", 0.05)):
        operator = CAMERAS[camera]
        lr = measured(hr, operator, noise_std)
        for method, options in CHOICES.items():
            for option in options:
                PRIOR_METHODS[method] = with_options(shipped[method], option)
                samples = draw(method, lr, operator, network, noise_std, 2)
                found = row(samples, hr, lr, operator)
                pair = psnr(samples.mean(0).clamp(0, 1), hr, crop=4).mean().item()
                print(
                    f"| {method} {option or ''} | {camera} | {noise_std} | {found['one']:.2f} | {pair:.2f} |"
                    f" {found['sliced W1']:.2f} |",
                    flush=True,
                )
            PRIOR_METHODS[method] = shipped[method]


def with_options(method: Callable, options: dict[str, float]) -> Callable:
    """A method with some of its options set."""
    return lambda *arguments, **named: method(*arguments, **(named | options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=PRIOR_METHODS, default=list(PRIOR_METHODS))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--cards", action="store_true", help="write the numbers, or those of --show, into the cards")
    parser.add_argument("--choose", action="store_true")
    arguments = parser.parse_args()
    if arguments.choose:
        return choose()
    if arguments.show:
        results = json.loads(arguments.show.read_text())
        show(results)
        if arguments.cards:
            write_cards(results)
        return None
    results = []
    for name in arguments.sets:
        for camera in CAMERAS:
            for noise_std in NOISES:
                rows = table(name, camera, noise_std, arguments.methods, arguments.samples)
                results.append({"set": name, "camera": camera, "noise_std": noise_std, "calls": CALLS, "rows": rows})
                show(results[-1:])
                if arguments.json:
                    text = json.dumps(results, indent=1) + "\n"
                    write_atomically(arguments.json, lambda temporary, text=text: temporary.write_text(text))
    if arguments.cards:
        write_cards(results)
    return None


if __name__ == "__main__":
    main()
