"""What a state domain buys: the same small network trained in each for the same seconds, and the autoencoders' ceilings.

    python benchmarks/domains.py                     convergence (about 12 minutes of one core) and ceilings
    python benchmarks/domains.py --ceilings --cards  the ceilings only, also into the autoencoders' cards
    python benchmarks/domains.py --units             only what pretrained.WAVELET_SCALES and LATENT_SCALE stand for
    python benchmarks/domains.py --json FILE         also write the curves; chapter 11 draws tutorial_lib/data/domains.json

Faces from 8 x 8 to 32 x 32. Every domain brings its state to an 8 x 8 grid, where the same U-Net works, told the enlarged LR
face folded to that grid: multiply-adds differ by the first and last convolution alone. Seconds are processor seconds of
training on one thread, without drawing the batch. Each checkpoint's averaged weights sample faces that no network was
trained on; Y-PSNR is a mean over faces, sliced W1 the distance between the set of samples and the set of originals.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib.data import faces, folder, require_folder
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.domains import Domain, Latent, Pixel, Residual, Wavelet, latent_moments
from tutorial_lib.files import write_atomically
from tutorial_lib.images import crop_to_multiple, resize, to_uint8
from tutorial_lib.metrics import psnr, sliced_wasserstein
from tutorial_lib.networks.regression import condition
from tutorial_lib.networks.unet import UNet
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import load_pretrained, weights_path
from tutorial_lib.recipes.base import random_times, step_generator, velocity_loss
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import uniform_times, vp_cosine
from tutorial_lib.sr3 import with_condition
from tutorial_lib.training import ema_weight

TRAINING, HELD_OUT, SEEDS = 8192, 128, 3
CHECKPOINTS = (4, 8, 16, 32, 48)  # seconds
BATCH, PEAK = 32, 1e-3
RESDIFF = "residual to a network, told its bands"


def enlarge(lr: Tensor) -> Tensor:
    return resize(lr, 4)


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(hr, lr): faces rounded to 8 bits."""
    hr = to_uint8(faces(count, 32, seed=seed).images).float() / 255
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


def domains(hr: Tensor, lr: Tensor) -> dict[str, Domain]:
    """The domains compared; every scale is measured on the training faces, so that each state has unit variance."""
    spread = (hr - enlarge(lr)).std().item()
    regression = load_pretrained("faces-regression-x4")
    left = (hr - regression(lr)).std().item()

    def wavelet(of: Domain) -> Wavelet:
        plain = Wavelet(2, of=of)
        return Wavelet(2, scales={n: b.std().item() for n, b in plain.split(of.encode(hr, lr)).items()}, of=of)

    found = {
        "pixel": Pixel(),
        "residual to bicubic": Residual(enlarge, spread),
        "residual to a network": Residual(regression, left),
        "wavelet": wavelet(Pixel()),
        "wavelet of the residual": wavelet(Residual(enlarge, spread)),
    }
    plain = Latent(load_pretrained("faces-kl-32"))
    shift, scale = latent_moments(plain.encode(hr))
    return found | {"latent": Latent(plain.autoencoder, scale, shift)}


def network_for(state: Tensor, cond: Tensor) -> UNet:
    """The same U-Net for every domain, on the 8 x 8 grid."""
    fold = state.shape[-1] // 8
    return UNet(state.shape[1], state.shape[1], cond.shape[1], channels=(64, 96), blocks=2, fold=fold)


def told(lr: Tensor, detailed: bool = False) -> Tensor:
    """The condition on the 8 x 8 grid: the enlarged LR face, and for ResDiff (arXiv 2303.08714) the Haar bands of the
    regression's answer, each divided by its own standard deviation."""
    cond = torch.nn.functional.pixel_unshuffle(2 * enlarge(lr) - 1, 4)
    if not detailed:
        return cond
    bands = Wavelet(2).pack(2 * load_pretrained("faces-regression-x4")(lr) - 1)
    return torch.cat([cond, bands / bands.std((0, 2, 3), keepdim=True)], 1)


def measure(network: UNet, domain: Domain, like: Tensor, cond: Tensor, hr: Tensor, lr: Tensor) -> dict[str, float]:
    """Quality of 20-step samples."""
    noise, schedule = standard_normal(0), vp_cosine()
    denoiser = with_condition(NetworkDenoiser(network.eval(), "v", schedule), cond)
    with torch.no_grad():
        states = ddim(denoiser, schedule, noise(like), uniform_times(20), eta=1.0, noise=noise)
        sr = domain.decode(last(states), lr).clamp(0, 1)
    network.train()
    return {
        "Y-PSNR": psnr(sr, hr).mean().item(),
        "sliced W1": 255 * sliced_wasserstein(list(sr.split(1)), list(hr.split(1))).item(),
    }


def converge(
    domain: Domain, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], seed: int, detailed: bool = False
) -> list[dict]:
    """Train for CHECKPOINTS[-1] processor seconds; the quality at every checkpoint."""
    hr, lr = train
    with torch.no_grad():
        states, cond = domain.encode(hr, lr), told(lr, detailed)
        like, shown = domain.encode(*test), told(test[1], detailed)
    torch.manual_seed(seed)
    network, average = network_for(states, cond), network_for(states, cond)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    found, spent, step = [], 0.0, 0
    while len(found) < len(CHECKPOINTS):
        generator = step_generator(seed, step)
        index = torch.randint(len(states), (BATCH,), generator=generator)
        batch = {"z_0": states[index], "cond": cond[index], "t": random_times(BATCH, generator)}
        batch["noise"] = torch.randn(batch["z_0"].shape, generator=generator)
        began = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 100)
        optimizer.zero_grad()
        velocity_loss(network, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, ema_weight(step, 100))
        spent, step = spent + time.process_time() - began, step + 1
        if spent >= CHECKPOINTS[len(found)]:
            found.append({"steps": step} | measure(average, domain, like, shown, *test))
    return found


def ceilings() -> dict[str, dict[str, dict[str, float]]]:
    """Quality of decode(encode(hr)): what no diffusion model on these codes can pass."""
    hr, lr = pairs(500, 2024)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("faces-kl-32", "faces-vq-32"):
        domain = Latent(load_pretrained(name))
        with torch.no_grad():
            sr = domain.decode(domain.encode(hr)).clamp(0, 1)
        distance = sliced_wasserstein(list(sr.split(1)), list(hr.split(1))).item()
        rows[name] = {"faces": {"Y-PSNR": psnr(sr, hr).mean().item(), "sliced W1": 255 * distance}}
    autoencoder, regression = load_pretrained("photo-autoencoder-x4"), load_pretrained("photo-regression-x4")
    for data in ("Set5", "Set14"):
        try:
            images = [crop_to_multiple(image, 8) for image in folder(require_folder(data))]
        except FileNotFoundError as error:
            print(f"{data} is skipped: {error}\n")
            continue
        values = []
        for image in images:
            small = to_uint8(resize(image, 1 / 4)).float() / 255
            with torch.no_grad():
                mean, spread, cond = condition(regression, small)
                inner = Residual(lambda _, mean=mean: mean, lambda _, spread=spread: spread)
                domain = Latent(autoencoder, condition=lambda _, cond=cond: cond, of=inner)
                sr = domain.decode(domain.encode(image, small), small).clamp(0, 1)
            values.append((psnr(sr, image, crop=4).item(), 255 * sliced_wasserstein(sr, image).item()))
        quality, distance = (sum(column) / len(values) for column in zip(*values, strict=True))
        rows.setdefault("photo-autoencoder-x4", {})[data] = {"Y-PSNR": quality, "sliced W1": distance}
    return rows


def units(count: int = 40) -> dict[str, float]:
    """Root mean square of every Haar band of the regression's normalised residual, and the standard deviation of the
    autoencoder's latents, over the first photos of BSDS500's train folder."""
    autoencoder, regression = load_pretrained("photo-autoencoder-x4"), load_pretrained("photo-regression-x4")
    sums: dict[str, float] = {}
    for image in folder(require_folder("bsds500") / "train")[:count]:
        hr = crop_to_multiple(image, 8)
        small = to_uint8(resize(hr, 1 / 4)).float() / 255
        with torch.no_grad():
            mean, spread, cond = condition(regression, small)
            state = (hr - mean) / spread
            parts = Wavelet(2).split(state) | {"latents": autoencoder.encode(state, cond)}
        for name, part in parts.items():
            sums[name] = sums.get(name, 0.0) + part.square().mean().item() / count
    return {name: value**0.5 for name, value in sums.items()}


def report(curves: dict[str, list[list[dict]]]) -> None:
    """Print, for every domain and checkpoint, the mean and range over seeds."""
    for quantity in ("Y-PSNR", "sliced W1", "steps"):
        print(f"### {quantity} after so many seconds, mean (least to greatest of {SEEDS} seeds)\n")
        print("| | " + " | ".join(f"{s} s" for s in CHECKPOINTS) + " |\n|---|" + "---:|" * len(CHECKPOINTS))
        for name, runs in curves.items():
            cells = []
            for k in range(len(CHECKPOINTS)):
                values = [run[k][quantity] for run in runs]
                cells.append(f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})")
            print(f"| {name} | " + " | ".join(cells) + " |")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ceilings", action="store_true", help="only the autoencoders' ceilings")
    parser.add_argument("--units", action="store_true", help="only the sizes of bands and latents on training photos")
    parser.add_argument("--cards", action="store_true", help="write the ceilings into the autoencoders' cards")
    parser.add_argument("--json", type=Path, help="write the curves here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.units:
        print(", ".join(f"{name} {value:.2f}" for name, value in units().items()))
        return
    rows = ceilings()
    print("### decode(encode(original))\n\n| | set | Y-PSNR | sliced W1 |\n|---|---|---:|---:|")
    for name, sets in rows.items():
        for data, row in sets.items():
            print(f"| {name} | {data} | {row['Y-PSNR']:.2f} | {row['sliced W1']:.2f} |")
    print(flush=True)
    if options.cards:
        for name, sets in rows.items():
            path = weights_path(name).with_suffix(".json")
            short = {data: {c: float(f"{v:.4g}") for c, v in row.items()} for data, row in sets.items()}
            text = json.dumps(json.loads(path.read_text()) | {"quality": short}, indent=2) + "\n"
            write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
    if options.ceilings:
        return
    train, test = pairs(TRAINING, 0), pairs(HELD_OUT, 2024)
    found = domains(*train)
    found[RESDIFF] = found["residual to a network"]
    curves = {
        name: [converge(domain, train, test, seed, name == RESDIFF) for seed in range(SEEDS)]
        for name, domain in found.items()
    }
    report(curves)
    if options.json:
        text = json.dumps({"seconds": CHECKPOINTS, "curves": curves}, indent=1) + "\n"
        write_atomically(options.json, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
