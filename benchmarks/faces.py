"""What we claim about the unconditional faces: how near their law is to the data's, and that none is a copy.

    python benchmarks/faces.py                        4,096 samples, 10 steps of DPM-Solver++(2M) (about three minutes)
    python benchmarks/faces.py --steps 8 10 16        several numbers of steps
    python benchmarks/faces.py --cards                also writes the last row into the model's card

The distance is `sliced_wasserstein` between the patches of two sets of faces, times 255; the yardstick is the distance
between two sets of fresh faces of the same size. "Nearest" is the root mean square difference, times 255, to the nearest
of the training faces and their mirror images, for samples and for fresh faces that no network was trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.domains import Pixel
from tutorial_lib.files import write_atomically
from tutorial_lib.images import to_uint8
from tutorial_lib.metrics import sliced_wasserstein
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import MODEL_CARDS, load_pretrained, weights_path
from tutorial_lib.recipes.faces import FACES, training_faces
from tutorial_lib.samplers import dpm_solver_pp_2m, last
from tutorial_lib.schedules import log_snr_times, vp_cosine

NAME = "faces-unconditional-32"
BATCH = 64


def sample(count: int, steps: int) -> Tensor:
    """`count` samples (count, 3, 32, 32) in [0, 1], as an 8-bit file would hold them, by one network call a step."""
    denoiser, schedule = NetworkDenoiser(load_pretrained(NAME)), vp_cosine()
    noise = standard_normal(0)
    done = []
    with torch.inference_mode():
        for _ in range(0, count, BATCH):
            z = noise(torch.empty(BATCH, 3, 32, 32))
            done.append(last(dpm_solver_pp_2m(denoiser, schedule, z, log_snr_times(schedule, steps))))
    return to_uint8(Pixel().decode(torch.cat(done))[:count]).float() / 255


def distance(one: Tensor, other: Tensor) -> float:
    return 255 * sliced_wasserstein(list(one.split(1)), list(other.split(1))).item()


def nearest(images: Tensor) -> Tensor:
    """Root mean square difference, in 255ths, to the nearest training face or its mirror image, (B,)."""
    known = training_faces(32, FACES).flatten(1)
    best = torch.full((len(images),), torch.inf)
    for query in (images, images.flip(3)):
        flat = query.flatten(1) * 255
        for part in known.split(8192):
            best = torch.minimum(best, torch.cdist(flat, part.float()).amin(1))
    return best / (images[0].numel()) ** 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4096, help="how many samples and faces (default: 4096)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10], help="numbers of steps (default: 10)")
    parser.add_argument("--neighbours", type=int, default=512, help="how many samples are looked up (default: 512)")
    parser.add_argument("--cards", action="store_true", help="write the last row into the model's card")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    one, two = (to_uint8(faces(options.count, 32, seed=seed).images).float() / 255 for seed in (1, 2))
    print(
        f"{2 * options.count / (time.perf_counter() - start):.0f} faces drawn a second on {torch.get_num_threads()} threads"
    )
    yardstick = distance(one, two)
    print(f"two sets of {options.count} fresh faces: {yardstick:.4f} / 255")
    quality: dict[str, float | int] = {}
    for steps in options.steps:
        start = time.perf_counter()
        drawn = sample(options.count, steps)
        seconds = time.perf_counter() - start
        found = distance(drawn, one)
        print(f"{steps} steps: {found:.4f} / 255, {found / yardstick:.2f} times as much ({seconds:.0f} s)", flush=True)
        quality = {"samples": options.count, "DPM-Solver++(2M) steps": steps}
        quality |= {"sliced W1": round(found, 4), "sliced W1 of fresh faces": round(yardstick, 4)}
        quality |= {"ratio": round(found / yardstick, 2)}
    for label, images in (("samples", drawn), ("fresh faces", one)):
        away = nearest(images[: options.neighbours])
        least, median = away.min().item(), away.median().item()
        print(f"nearest training face of {label}: least {least:.2f}, median {median:.2f} / 255")
        quality |= {f"nearest training face of {label}, least": round(least, 2)}
        quality |= {f"nearest training face of {label}, median": round(median, 2)}
    if options.cards:
        path = weights_path(NAME).with_suffix(".json")
        text = json.dumps(MODEL_CARDS[NAME] | {"quality": quality}, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
