"""What we claim about the uncertainty of SR3's faces: is the sampler as sure as it is right? As markdown tables.

    python benchmarks/calibration.py                  500 held-out faces from 8 x 8 to 32 x 32, 19 samples each
    python benchmarks/calibration.py --quick          40 faces, a hastier reader: a look, not a measurement
    python benchmarks/calibration.py --cards          also writes the numbers into the model's card
    python benchmarks/calibration.py --methods sr3 flow --steps 50

The faces are `faces` of another seed than any training used. Pixels: ranks of the truth among the samples and coverage of
central intervals, all in 8 bits, ties broken at random; bands are for a calibrated sampler, drawn from whole faces, because
the pixels of one face are correlated. Attributes: a small network, trained here on true faces (seed 11), reads them off
images. It reads the truth and the samples alike, so that a calibrated sampler's frequencies are right whatever the reader
confuses; its accuracy against the attributes that the faces were drawn with is printed. The probability of an attribute is
the share of a face's samples that show it; Wilson's intervals count the attributes of one face as one cluster. One more
sample, in the place of the truth, is the yardstick: what a calibrated sampler of so few samples would show.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tutorial_lib.calibration import coverage, rank_histogram, reliability
from tutorial_lib.data import faces
from tutorial_lib.files import write_atomically
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.pretrained import weights_path
from tutorial_lib.super_resolution import face_super_resolve

FACE_SEED, READER_SEED, CHECK_SEED = 2024, 11, 12  # the networks saw faces of seed 0
READ = {  # attributes that are read off images: name -> whether the face has it
    "glasses": lambda a: a["glasses"] > 0,
    "hat": lambda a: a["hat"] > 0,
    "long hair": lambda a: a["hair"] == 2,
    "beard": lambda a: a["beard"] == 1,
    "open mouth": lambda a: a["mouth_open"] == 1,
    "brown eyes": lambda a: a["eye_color"] == 0,
    "blue eyes": lambda a: a["eye_color"] == 1,
    "looks right": lambda a: a["pose"] > 0,
}
LEVELS = (0.5, 0.8, 0.9)


def rounded(images: Tensor) -> Tensor:
    """Images as an 8-bit file would hold them."""
    return to_uint8(images).float() / 255


def told_attributes(attributes: dict[str, Tensor]) -> Tensor:
    """What the faces were drawn with, (B, len(READ)) of zeros and ones."""
    return torch.stack([has(attributes) for has in READ.values()], 1).float()


def train_reader(count: int, epochs: int = 5) -> nn.Module:
    """A small network that reads the attributes off 32 x 32 faces: logits (B, len(READ)). About 20 seconds."""
    drawn = faces(count, 32, seed=READER_SEED)
    images, targets = 2 * rounded(drawn.images) - 1, told_attributes(drawn.attributes)
    generator = Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # initial weights
        reader = nn.Sequential(
            *(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64, len(READ))),
        )
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=1e-2)
    batches = [part for _ in range(epochs) for part in torch.randperm(count, generator=generator).split(64)]
    slower = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=len(batches))
    for part in batches:
        loss = F.binary_cross_entropy_with_logits(reader(images[part]), targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    return reader.eval().requires_grad_(False)


def read(reader: nn.Module, images: Tensor) -> Tensor:
    """(B, len(READ)) booleans."""
    return torch.cat([reader(2 * part - 1) > 0 for part in images.split(256)])


def draw(lr: Tensor, method: str, count: int, steps: int | None) -> Tensor:
    """`count` samples of every face, 8 bits, (count, B, 3, 32, 32); every sample of every face has its own seed."""
    found = []
    for k in range(count):
        parts = [
            face_super_resolve(part, method=method, seed=100_000 * (k + 1) + 100 * i, steps=steps)
            for i, part in enumerate(lr.split(100))
        ]
        found.append(rounded(torch.cat(parts)))
    return torch.stack(found)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def judge_pixels(truth: Tensor, samples: Tensor) -> dict[str, float]:
    """Print ranks, coverage and errors of the pixels; return what belongs into the card."""
    ranks = len(samples) + 1
    found = rank_histogram(truth, samples, Generator().manual_seed(0), bins=10 if ranks % 10 == 0 else None)
    total, bins = found.counts.sum(), len(found.counts)
    rows = [
        [f"{i + 1}", f"{count / total:.4f}", f"{error / total:.4f}", f"{low / total:.4f} to {high / total:.4f}"]
        for i, (count, error, low, high) in enumerate(
            zip(found.counts, found.errors, found.low, found.high, strict=True)
        )
    ]
    print(table((f"bin of ranks (of {bins})", "share of pixels", "standard error", "95 % band if calibrated"), rows))
    print(
        f"tilt {found.tilt:+.4f} (standard deviation {found.tilt_std:.4f}; above 0: samples too low),"
        f" spread {found.spread:.3f} ({found.spread_std:.3f}; above 1: samples too narrow),"
        f" p = {found.p_value:.3g}: {found.verdict()}\n"
    )
    card = {"rank tilt": round(found.tilt, 4), "rank spread": round(found.spread, 3)}
    rows = []
    for level in LEVELS:
        one = coverage(truth, samples, level, Generator().manual_seed(0))
        rows.append([f"{one.nominal:.0%}", f"{one.observed:.1%}", f"{one.low:.1%} to {one.high:.1%}"])
        rows[-1].append(f"{255 * one.width:.1f}")
        card[f"coverage of {one.nominal:.0%} intervals"] = round(one.observed, 3)
    print(table(("central interval", "holds the truth", "95 % band if calibrated", "mean width (/255)"), rows))
    error = lambda images: 255 * (images - truth).square().mean().sqrt().item()  # noqa: E731
    spread = 255 * samples.var(0).mean().sqrt().item()
    mean_error, one_error = error(samples.mean(0)), error(samples[0])
    expected = spread * (1 + 1 / len(samples)) ** 0.5
    print(
        f"root mean square error (/255): one sample {one_error:.2f}, mean of {len(samples)} samples {mean_error:.2f};"
        f" standard deviation of the samples {spread:.2f}, from which a calibrated sampler's mean would err by {expected:.2f}\n"
    )
    return card | {
        "error of the mean of samples (/255)": round(mean_error, 2),
        "the same if calibrated": round(expected, 2),
    }


def judge_attributes(seen: Tensor, said: Tensor, yardstick: Tensor, told: Tensor) -> dict[str, float]:
    """Print the reliability of attributes; all (B, len(READ)): read off the truth, shares of samples, read off one more
    sample, and what the faces were drawn with."""
    face = torch.arange(len(seen)).repeat_interleave(len(READ))
    truth, chance, fair = (
        reliability(events.flatten(), said.flatten(), clusters=face) for events in (seen, yardstick, told)
    )
    rows = []
    for i in range(len(truth.counts)):
        if truth.counts[i]:
            interval = f"{truth.low[i]:.3f} to {truth.high[i]:.3f}"
            rows.append([f"{truth.predicted[i]:.3f}", f"{truth.observed[i]:.3f}", interval])
            rows[-1] += [f"{chance.observed[i]:.3f}", f"{fair.observed[i]:.3f}", f"{truth.counts[i]}"]
    header = ("share of samples", "truth has it", "95 % interval", "one more sample has it", "drawn with it", "count")
    print(table(header, rows))
    print(
        f"expected calibration error {truth.error:.4f}; of one more sample {chance.error:.4f}; against the attributes drawn"
        f" with {fair.error:.4f}; if every share were the true probability, chance alone would give {truth.floor:.4f}\n"
    )
    rows = []
    for i, name in enumerate(READ):
        one, other = (reliability(events[:, i], said[:, i]) for events in (seen, yardstick))
        brier = (said[:, i] - seen[:, i].double()).square().mean().item()
        rate = seen[:, i].double().mean().item()
        rows.append([name, f"{rate:.3f}", f"{said[:, i].mean():.3f}", f"{one.error:.3f}", f"{other.error:.3f}"])
        rows[-1] += [f"{brier:.3f}", f"{rate * (1 - rate):.3f}"]
    header = ("attribute", "truth", "samples", "calibration error", "of one more sample")
    print(table((*header, "Brier score", "Brier score of always saying the share"), rows))
    return {
        "attributes: calibration error": round(truth.error, 4),
        "attributes: calibration error of one more sample": round(chance.error, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many faces (default: 500)")
    parser.add_argument("--samples", type=int, default=19, help="samples a face, one less than a ten (default: 19)")
    parser.add_argument("--steps", type=int, help="network calls a sample (default: the method's)")
    parser.add_argument("--methods", nargs="+", default=["sr3"], choices=("sr3", "flow"), help="samplers of faces")
    parser.add_argument("--quick", action="store_true", help="40 faces, a hastier reader: a look, not a measurement")
    parser.add_argument("--cards", action="store_true", help="write the numbers into the models' cards")
    options = parser.parse_args(arguments)
    if options.cards and options.quick:
        parser.error("--cards wants a measurement, so it does not go with --quick")
    if options.quick:
        options.count = 40
    drawn = faces(options.count, 32, seed=FACE_SEED)
    truth, told = rounded(drawn.images), told_attributes(drawn.attributes)
    lr = rounded(resize(truth, 1 / 4))
    reader = train_reader(2000 if options.quick else 8000)
    check = faces(2000, 32, seed=CHECK_SEED)
    right = (read(reader, rounded(check.images)) == told_attributes(check.attributes)).double().mean(0)
    print("### The reader, on 2,000 other true faces\n")
    always = told_attributes(check.attributes).mean(0)
    rows = [[n, f"{a:.3f}", f"{max(b, 1 - b):.3f}"] for n, a, b in zip(READ, right, always.tolist(), strict=True)]
    print(table(("attribute", "read rightly", "always saying the commoner one"), rows), flush=True)
    for method in options.methods:
        start = time.perf_counter()
        samples = draw(lr, method, options.samples + 1, options.steps)
        print(f"### {method}: {options.count} faces, {options.samples} samples each\n")
        card: dict[str, float] = {"faces": options.count, "samples": options.samples}
        card |= judge_pixels(truth, samples[:-1])
        shown = torch.stack([read(reader, one) for one in samples])
        said = shown[:-1].double().mean(0)
        card |= judge_attributes(read(reader, truth), said, shown[-1], told)
        print(f"({time.perf_counter() - start:.0f} s)\n", flush=True)
        if options.cards:
            name = f"faces-{method}-x4"
            path = weights_path(name).with_suffix(".json")
            found = json.loads(path.read_text())
            text = json.dumps(found | {"quality": found.get("quality", {}) | {"calibration": card}}, indent=2) + "\n"
            write_atomically(path, lambda temporary, text=text: temporary.write_text(text))


if __name__ == "__main__":
    main()
