"""What telling a model something is worth: the faces of chapter 10, measured on faces no network was trained on.

    python benchmarks/conditioning.py              every way with and without words, guidance, the adapter, the classifier
    python benchmarks/conditioning.py --cards      also into the cards of faces-conditions-x4 and its helpers
    python benchmarks/conditioning.py --faces 20   fewer faces

Ways: LR faces of 8 x 8 pixels, and of 4 x 4 where a way knows them, are told to faces-conditions-x4 in each of FACE_WAYS.
Y-PSNR and LR consistency are means over faces, with 1.96 standard errors; diversity is the standard deviation between samples
of one face; sliced W1 is that between the set of samples and the set of originals; "read" is the share of faces whose glasses,
hat and beard the classifier reads off the sample as they are. All at SAMPLES samples a face, STEPS network calls each.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib.conditioning import adapted_denoiser, read_attribute, sample_faces, way_image
from tutorial_lib.data import faces
from tutorial_lib.data.captions import words
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.files import write_atomically
from tutorial_lib.images import resize, to_uint8
from tutorial_lib.metrics import lr_consistency, psnr, sliced_wasserstein
from tutorial_lib.networks.classifier import CLASSIFIED, attribute_log_prob
from tutorial_lib.networks.conditioning import FACE_WAYS, face_condition
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import load_pretrained, weights_path
from tutorial_lib.schedules import vp_cosine

FACES, SEED, SAMPLES, STEPS = 100, 2024, 2, 20
READ = ("glasses", "hat", "beard")
SMALL = ("concat", "film", "features")  # ways that the networks also know from 4 x 4 pixels
SCALES = (0.0, 1.0, 2.0, 4.0)
FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean over faces and 1.96 standard errors."""
    return values.mean().item(), 1.96 * values.std().item() / math.sqrt(len(values))


def judge(samples: Tensor, hr: Tensor, lr: Tensor, attributes: dict[str, Tensor]) -> dict[str, float]:
    """Numbers for samples (S, n, 3, 32, 32) of n faces."""
    flat = samples.flatten(0, 1)
    repeat = len(samples)
    quality = torch.stack([psnr(one, hr) for one in samples]).mean(0)
    kept = torch.stack([lr_consistency(one, lr, 32 // lr.shape[-1]) for one in samples]).mean(0)
    right = torch.stack([(read_attribute(flat, name) == attributes[name].repeat(repeat)).float() for name in READ])
    read = right.mean(0).view(repeat, -1).mean(0)
    row = {}
    for name, values in (("Y-PSNR", quality), ("LR consistency", kept), ("read", read)):
        row[name], row[f"{name} +-"] = mean_and_error(values)
    row["diversity (/255)"] = 255 * samples.var(0).mean().sqrt().item()
    originals = list(hr.split(1))
    distances = [sliced_wasserstein(list(one.split(1)), originals).item() for one in samples]
    row["sliced W1 (/255)"] = 255 * sum(distances) / len(distances)
    return row


def samples_of(
    cond_of: Callable[[int], Tensor],
    scale: float = 1.0,
    null: Tensor | None = None,
    denoiser: NetworkDenoiser | None = None,
) -> Tensor:
    """(SAMPLES, n, 3, 32, 32): samples of the conditions cond_of(seed), with other noise each."""
    seeds = [1000 * k for k in range(SAMPLES)]
    return torch.stack([sample_faces(cond_of(s), s, STEPS, scale=scale, null=null, denoiser=denoiser) for s in seeds])


def told(way: str, lr: Tensor, said: Tensor | None, seed: int) -> Tensor:
    """The condition of one way; the VAE's draw is another for every seed."""
    return face_condition(way, way_image(way, lr, standard_normal(seed + 7)), said, count=len(lr))


def ways(
    hr: Tensor, lr: Tensor, said: Tensor, attributes: dict[str, Tensor], names: Sequence[str] = FACE_WAYS
) -> dict[str, dict[str, float]]:
    """Every way without and with the caption."""
    rows = {}
    for way in names:
        for label, spoken in ((way, None), (f"{way} + words", said)):
            samples = samples_of(lambda seed, way=way, spoken=spoken: told(way, lr, spoken, seed))
            rows[label] = judge(samples, hr, lr, attributes)
    return rows


def guided(hr: Tensor, lr: Tensor, said: Tensor, attributes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Words at every guidance scale: with the LR face (concat), and without it."""
    rows = {}
    for way in ("none", "concat"):
        for scale in SCALES:
            null = told(way, lr, None, 0)
            samples = samples_of(lambda seed, way=way: told(way, lr, said, seed), scale=scale, null=null)
            rows[f"{way}, scale {scale:g}"] = judge(samples, hr, lr, attributes)
    return rows


def adapter(hr: Tensor, lr: Tensor, attributes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """The frozen prior with its adapter at every fidelity."""
    cond = 2 * resize(lr, 4) - 1
    return {
        f"fidelity {fidelity:g}": judge(
            samples_of(lambda _: cond, denoiser=adapted_denoiser(fidelity)), hr, lr, attributes
        )
        for fidelity in FIDELITIES
    }


def classifier(hr: Tensor, attributes: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Share of right words for every attribute at several noise levels, told the level and told "clean"."""
    network, schedule, rows = load_pretrained("faces-classifier-32"), vp_cosine(), {}
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.2, 0.4, 0.6, 0.8):
        alpha, sigma = schedule.alpha(t).float(), schedule.sigma(t).float()
        u = alpha * (2 * hr - 1) + sigma * noise
        level = (schedule.log_snr(t).clamp(-20, 20) / 8).float().expand(len(hr))
        for label, said in ((f"t = {t:g}", level), (f"t = {t:g}, told clean", torch.full_like(level, 2.5))):
            with torch.no_grad():
                logits = network(u, said)
            rows[label] = {
                name: (attribute_log_prob(logits, name).argmax(1) == attributes[name]).float().mean().item()
                for name in CLASSIFIED
            }
    return rows


def write_card(name: str, quality: dict) -> None:
    """Put numbers, to four digits, under "quality" of a card."""
    path = weights_path(name).with_suffix(".json")
    short = {key: {c: float(f"{v:.4g}") for c, v in row.items()} for key, row in quality.items()}
    text = json.dumps(json.loads(path.read_text()) | {"quality": short}, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown; a column "x +-" goes into the one before."""
    columns = [c for c in next(iter(rows.values())) if not c.endswith("+-")]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [f"{row[c]:.2f}" + (f" ± {row[f'{c} +-']:.2f}" if f"{c} +-" in row else "") for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=FACES)
    parser.add_argument("--cards", action="store_true", help="also write the numbers into the models' cards")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    drawn = faces(options.faces, 32, seed=SEED)
    hr = to_uint8(drawn.images).float() / 255
    lr = to_uint8(resize(hr, 1 / 4)).float() / 255
    said = words(drawn.captions)
    results = {
        "classifier": classifier(hr, drawn.attributes),
        "ways": ways(hr, lr, said, drawn.attributes),
        "4 x 4": ways(hr, to_uint8(resize(hr, 1 / 8)).float() / 255, said, drawn.attributes, SMALL),
        "guidance": guided(hr, lr, said, drawn.attributes),
        "adapter": adapter(hr, lr, drawn.attributes),
    }
    titles = {
        "classifier": "What the classifier reads",
        "ways": "How the LR face of 8 x 8 pixels is told",
        "4 x 4": "The same from 4 x 4 pixels",
        "guidance": "Guidance by words",
        "adapter": "A frozen prior's adapter",
    }
    for name, rows in results.items():
        print(f"### {titles[name]}, {options.faces} faces\n\n{table(rows)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.cards:
        write_card("faces-classifier-32", results["classifier"])
        small = {f"{way}, 4 x 4": row for way, row in results["4 x 4"].items()}
        write_card("faces-conditions-x4", results["ways"] | small)
        write_card("faces-vae-x4", {way: results["ways"][way] for way in ("vae", "vae + words")})
        write_card("faces-adapter-x4", results["adapter"])


if __name__ == "__main__":
    main()
