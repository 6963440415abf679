"""How much noise the bridges of `super_resolve` bring: the choice of EPSILON, BETA_MAX, KAPPA and GAIN.

    python benchmarks/bridges.py            the choices beside residual-diffusion and wavelet (about 3 processor minutes)

Ten pieces of 256 x 256 pixels of BSDS500's train folder, which the networks have seen: no evaluation set takes part in the
choice. Y-PSNR in dB, sliced W1 in grey levels. With 9 calls of the network of "wavelet" every choice lies on about one line
of the plane; the shipped one (*) has the sliced W1 of residual-diffusion to 1 %, and lies above it in Y-PSNR.
"""

from __future__ import annotations

import argparse

import torch

from tutorial_lib import super_resolution
from tutorial_lib.data import folder, require_folder
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.metrics import psnr, sliced_wasserstein
from tutorial_lib.super_resolution import super_resolve

PIECES, FIRST, APART, SIZE = 10, 3, 20, 256
CHOICES: dict[str, list[dict[str, float]]] = {  # method -> values of the module's constants; "gain" is GAIN[method]
    "indi": [{"EPSILON": e**0.5, "gain": 1.0} for e in (0.1, 0.15, 0.2, 0.3, 0.5)],
    "i2sb": [{"BETA_MAX": b, "gain": g} for b in (0.3, 1.0) for g in (1.0, 1.07, 1.14)],
    "resshift": [{"KAPPA": k, "gain": g} for k in (0.5, 1.0, 2.0) for g in (1.0, 1.06)],
}


def score(method: str, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Mean Y-PSNR and sliced W1 of a method; image i has seed i."""
    rows = []
    for i, (lr, hr) in enumerate(pairs):
        sr = to_uint8(super_resolve(lr, method=method, seed=i)).float() / 255
        rows.append((psnr(sr, hr, crop=4).item(), 255 * sliced_wasserstein(sr, hr).item()))
    distortion, perception = torch.tensor(rows).mean(0).tolist()
    return distortion, perception


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    photos = folder(require_folder("bsds500") / "train")
    originals = [photos[FIRST + APART * i][..., :SIZE, :SIZE] for i in range(PIECES)]
    pairs = [(to_uint8(resize(hr, 1 / 4)).float() / 255, hr) for hr in originals]
    print("| method | noise | gain | Y-PSNR (dB) | sliced W1 (/255) |\n|---|---:|---:|---:|---:|")
    for method in ("residual-diffusion", "wavelet"):
        distortion, perception = score(method, pairs)
        print(f"| {method} |  |  | {distortion:.2f} | {perception:.3f} |", flush=True)
    for method, choices in CHOICES.items():
        for choice in choices:
            (name, value), (_, gain) = choice.items()
            shipped = getattr(super_resolution, name), super_resolution.GAIN[method]
            setattr(super_resolution, name, value)
            super_resolution.GAIN[method] = gain
            distortion, perception = score(method, pairs)
            star = "*" if shipped == (value, gain) else ""
            print(f"| {method}{star} | {name} {value:.3g} | {gain} | {distortion:.2f} | {perception:.3f} |", flush=True)
            setattr(super_resolution, name, shipped[0])
            super_resolution.GAIN[method] = shipped[1]


if __name__ == "__main__":
    main()
