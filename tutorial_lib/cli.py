"""The command line: `python -m tutorial_lib` with doctor, upscale, demo, train, benchmark and data.

Whatever the user can get wrong ends in one line on stderr and exit status 2. Modules are imported by the command that
needs them, so that `--help` and wrong arguments answer at once.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .recipes import DirectRecipe

ONE_ANSWER = ("bicubic", "sparse", "regression", "gan")  # methods whose samples are all alike
DEMO_METHODS = ("bicubic", "regression", "residual-diffusion")
BENCHMARK_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower")


class Parser(argparse.ArgumentParser):
    """argparse whose complaints take one line."""

    def error(self, message: str):
        self.exit(2, f"error: {message} ({self.prog} --help shows how)\n")


def whole_number(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but {text!r} came")
    return number


def factor(text: str) -> float:
    """A positive number, whole where it is, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, but {text!r} came")
    return int(number) if number == int(number) else number


def seed(text: str) -> int:
    """A whole number that torch's generators take as a seed, for argparse."""
    if not text.isdecimal() or int(text) >= 2**62:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^62, but {text!r} came")
    return int(text)


def build_parser() -> Parser:
    parser = Parser(prog="python -m tutorial_lib", description="Diffusion models for image super-resolution.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("doctor", help="check the installation and say what to do")
    command.set_defaults(run=run_doctor)

    command = commands.add_parser("upscale", help="make a photo, or a folder of photos, larger")
    command.add_argument("source", metavar="IN", type=Path, help="an image file, or a folder of them")
    command.add_argument("target", metavar="OUT", type=Path, help="the file to write, or a folder when IN is one")
    command.add_argument(
        "--method",
        default="residual-diffusion",
        help="residual-diffusion (default), wavelet, latent, indi, i2sb, resshift, cold, srdiff, sr3, sr3-cascade, "
        "continuous, ilvr, ddrm, ddnm, dps, pigdm, diffpir, flow, gan, regression, sparse or bicubic",
    )
    command.add_argument(
        "--scale",
        type=factor,
        default=4,
        help="times larger (default 4; bicubic: any number; continuous: from 2 to 4; the others: 4 only)",
    )
    command.add_argument("--steps", type=whole_number, help="network calls of a diffusion method (more: slower, finer)")
    command.add_argument(
        "--seed", type=seed, default=0, help="which plausible answer (default 0); same seed, same answer"
    )
    command.add_argument(
        "--samples",
        type=whole_number,
        default=1,
        help="write that many answers, OUT-1 ..., and their mean and spread, OUT-mean and OUT-std",
    )
    command.add_argument(
        "--compare", action="store_true", help="also write nearest, bicubic and method side by side, OUT-compare"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=run_upscale)

    command = commands.add_parser("demo", help="shrink a built-in photo, enlarge it by three methods and compare")
    command.add_argument(
        "--photo", default="chelsea", help="a built-in photo: chelsea, astronaut, coffee, china, flower ..."
    )
    command.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures")
    command.add_argument("--steps", type=whole_number, help="network calls of residual-diffusion")
    command.add_argument("--seed", type=seed, default=0, help="which of the plausible answers")
    command.set_defaults(run=run_demo)

    command = commands.add_parser("train", help="train the weights of a recipe")
    command.add_argument("recipe", metavar="RECIPE", help="a name in tutorial_lib.recipes, such as photo-sparse-x4")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder")
    command.add_argument("--out", type=Path, help="folder for the checkpoint and the weights (default: runs/RECIPE)")
    command.add_argument("--minutes", type=float, help="stop after that many minutes; --resume goes on")
    command.set_defaults(run=run_train)

    command = commands.add_parser("benchmark", help="a quick table of quality and seconds on built-in photos")
    command.set_defaults(run=run_benchmark)

    command = commands.add_parser("data", help="download the photos that training and the full benchmarks need")
    command.add_argument("name", metavar="NAME", nargs="?", help="one data set (default: all)")
    command.add_argument("--source", help="another address, or an archive on this disk, to take NAME from")
    command.set_defaults(run=run_data)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (doctor found something broken), 2 (bad input), 130 (Ctrl-C)."""
    arguments = build_parser().parse_args(argv)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs what `load` then raises
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (OSError, ValueError, RuntimeError, ArithmeticError, ImportError, MemoryError) as error:
        complain(error)
        return 2


def complain(error: Exception) -> None:
    """Print one line on stderr."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        text = "there is not enough memory for an image of this size; cut it into parts, or close other programs"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)


def run_doctor(arguments: argparse.Namespace) -> int:
    from .doctor import examine, report

    text, status = report(examine())
    print(text)
    return status


def run_upscale(arguments: argparse.Namespace) -> int:
    from .checks import check_one_of
    from .super_resolution import METHODS, STEPS

    check_one_of(arguments.method, METHODS, "--method")
    if arguments.samples > 1 and arguments.method in ONE_ANSWER:
        raise ValueError(f"--samples needs a method that draws samples, but {arguments.method!r} has one answer only")
    if arguments.steps is not None and arguments.method not in STEPS:
        raise ValueError(f"--steps needs a method that takes steps, but {arguments.method!r} gives its answer at once")
    jobs = find_jobs(arguments.source, arguments.target)
    failures = 0
    for source, target in jobs:
        try:
            upscale_file(source, target, arguments)
        except (OSError, ValueError) as error:
            complain(error)
            failures += 1
    if failures and len(jobs) > 1:
        print(f"{len(jobs) - failures} of {len(jobs)} images were upscaled", file=sys.stderr)
    return 2 if failures else 0


def find_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Which file goes where: one (source, target), or one for every image of a folder (OUT is made when missing)."""
    from .image_files import SUFFIXES

    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    if target.exists() and source.samefile(target):
        raise ValueError(f"{target}: OUT is IN itself; name another place, or the original would be lost")
    if not source.is_dir():
        return [(source, target)]
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise ValueError(f"{source} holds no image file ({', '.join(SUFFIXES)})")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file, but IN is a folder, so OUT must be a folder too")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: the folder {target.parent} does not exist")
    target.mkdir(exist_ok=True)
    return [(file, target / file.name) for file in files]


def upscale_file(source: Path, target: Path, arguments: argparse.Namespace) -> None:
    """Load, upscale the colours by the method and alpha by bicubic, and save; everything is checked before the work."""
    import torch

    from .image_files import SUFFIXES_16_BIT, check_output, load_with_bits, save
    from .images import resize
    from .super_resolution import super_resolve

    def beside(name: str) -> Path:
        return target.with_name(f"{target.stem}-{name}{target.suffix}")

    samples, scale = arguments.samples, arguments.scale
    images, bits = load_with_bits(source)
    bits = bits if target.suffix.lower() in SUFFIXES_16_BIT else 8
    answers = [target] if samples == 1 else [beside(str(i + 1)) for i in range(samples)]
    for path in (target, *answers):
        check_output(path, images.shape[1], bits)

    grey = images.shape[1] < 3
    colours = 1 if grey else 3
    lr = images[:, :colours].expand(-1, 3, -1, -1)
    alpha = [resize(images[:, colours:], scale).clamp(0, 1)] if images.shape[1] > colours else []

    def enlarge(method: str, seed: int, progress: bool) -> torch.Tensor:
        sr = super_resolve(lr, method=method, scale=scale, seed=seed, steps=arguments.steps, progress=progress)
        return sr.mean(1, keepdim=True) if grey else sr

    def with_alpha(colour: torch.Tensor) -> torch.Tensor:
        return torch.cat([colour, *alpha], 1)

    def write(picture: torch.Tensor, path: Path) -> None:
        save(picture, path, bits)
        print(f"{path}: {picture.shape[-1]}x{picture.shape[-2]}")

    first = mean = deviations = None
    for index, path in enumerate(answers):
        sr = enlarge(arguments.method, arguments.seed + index, not arguments.quiet)
        write(with_alpha(sr), path)
        if first is None:
            first, mean, deviations = sr, sr.clone(), torch.zeros_like(sr)
        else:  # Welford's update of mean and sum of squared deviations
            change = sr - mean
            mean += change / (index + 1)
            deviations += change * (sr - mean)
    if samples > 1:
        write(with_alpha(mean), beside("mean"))
        spread = (deviations / (samples - 1)).mean(1, keepdim=True).sqrt()
        white = spread.max().item()
        save(spread / white if white else spread, beside("std"), bits)
        print(f"{beside('std')}: standard deviation of the {samples} answers; white is {white:.4f}")
    if arguments.compare:
        bicubic = enlarge("bicubic", 0, False)
        rows, columns = (((torch.arange(n) + 0.5) / scale).long() for n in bicubic.shape[-2:])
        nearest = images[..., rows.clamp(max=images.shape[-2] - 1), :][..., columns.clamp(max=images.shape[-1] - 1)]
        write(torch.cat([nearest, with_alpha(bicubic), with_alpha(first)], -1), beside("compare"))


def run_demo(arguments: argparse.Namespace) -> int:
    import torch

    from .figures import image_grid
    from .images import crop_to_multiple, photo, resize, save, to_uint8

    hr = crop_to_multiple(photo(arguments.photo), 4)
    lr = to_uint8(resize(hr, 1 / 4)).float() / 255
    arguments.out.mkdir(parents=True, exist_ok=True)
    results, rows = measured(DEMO_METHODS, lr, hr, arguments.seed, arguments.steps, progress=True)
    print(table(rows))
    pictures = {"original": hr, **results}
    for name, picture in {"low-resolution": lr, **pictures}.items():
        save(picture, arguments.out / f"{name}.png")
    psnrs = {name: f"{name}, {value[1]:.2f} dB" for name, value in rows.items() if name != "original"}
    figure = image_grid(
        list(pictures.values()),
        [psnrs.get(name, name) for name in pictures],
        title=f"The photo {arguments.photo}, shrunk to a quarter and enlarged again",
        alt=f"Four versions of the photo {arguments.photo} side by side: {', '.join(pictures)}",
        columns=4,
    )
    save(torch.tensor(figure.pixels).permute(2, 0, 1)[None] / 255, arguments.out / "side-by-side.png")
    print(f"\nLook at {arguments.out / 'side-by-side.png'}; each picture lies beside it as a file of its own.")
    return 0


def measured(methods: Sequence[str], lr, hr, seed: int, steps: int | None, progress: bool):
    """Enlarge by some methods: {method: sr} and {method or "original": (seconds, Y-PSNR, LR match, sharpness)}."""
    from .metrics import lr_consistency, psnr, sharpness
    from .super_resolution import super_resolve

    rows = {"original": (None, None, lr_consistency(hr, lr, 4).item(), sharpness(hr).item())}
    results = {}
    for method in methods:
        start = time.perf_counter()
        sr = super_resolve(lr, method=method, scale=4, seed=seed, steps=steps, progress=progress)
        seconds = time.perf_counter() - start
        results[method] = sr
        rows[method] = (
            seconds,
            psnr(sr, hr, "y", crop=4).item(),
            lr_consistency(sr, lr, 4).item(),
            sharpness(sr).item(),
        )
    return results, rows


def table(rows: dict[str, tuple]) -> str:
    """Text table of what was `measured`."""
    lines = [f"{'method':20}{'seconds':>9}{'Y-PSNR dB':>11}{'LR match dB':>13}{'sharpness':>11}"]
    for name, (seconds, quality, consistency, sharp) in rows.items():
        timing, fidelity = (f"{v:.{d}f}" if v is not None else "-" for v, d in ((seconds, 1), (quality, 2)))
        lines.append(f"{name:20}{timing:>9}{fidelity:>11}{consistency:>13.1f}{sharp:>11.4f}")
    return "\n".join(lines)


def run_train(arguments: argparse.Namespace) -> int:
    from .checks import check_one_of
    from .recipes import DIRECT_RECIPES, RECIPES

    name = check_one_of(arguments.recipe, RECIPES | DIRECT_RECIPES, "RECIPE")
    out = arguments.out or Path("runs") / name
    if name in DIRECT_RECIPES:
        return solve_directly(DIRECT_RECIPES[name](), out, arguments.resume or arguments.minutes is not None)
    recipe = RECIPES[name]()
    if not arguments.resume and (out / "state.safetensors").exists():
        raise ValueError(
            f"{out} already holds a training state: go on with --resume, or name another folder with --out"
        )
    from .training import export, fit

    trained = fit(recipe, out=out, resume=arguments.resume, minutes=arguments.minutes)
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process reports
        return 0
    if trained.step < recipe.steps:
        print(f"stopped at step {trained.step} of {recipe.steps}; the same command with --resume goes on")
        return 0
    path = export(recipe, trained.checkpoint, out)
    print(f"{path}: trained for {trained.step} steps; copy it and its .json into tutorial_lib/weights to use it")
    return 0


def solve_directly(recipe: DirectRecipe, out: Path, in_parts: bool) -> int:
    from .training import solve

    if os.environ.get("RANK", "0") != "0":  # under torchrun one process suffices
        return 0
    if in_parts:
        print(f"{recipe.name} is computed in one go: --resume and --minutes change nothing")
    print(f"{solve(recipe, out)}: computed; copy it and its .json into tutorial_lib/weights to use it")
    return 0


def run_benchmark(arguments: argparse.Namespace) -> int:
    from .images import photo, resize, to_uint8
    from .super_resolution import METHODS

    sums: dict[str, list] = {}
    for name in BENCHMARK_PHOTOS:
        image = photo(name)
        top, left = (image.shape[-2] - 192) // 2, (image.shape[-1] - 192) // 2
        hr = image[..., top : top + 192, left : left + 192]
        _, rows = measured(METHODS, to_uint8(resize(hr, 1 / 4)).float() / 255, hr, 0, None, progress=False)
        for method, values in rows.items():
            sums.setdefault(method, []).append(values)
    count = len(BENCHMARK_PHOTOS)
    means = {
        method: tuple(None if column[0] is None else sum(column) / count for column in zip(*values, strict=True))
        for method, values in sums.items()
    }
    print(f"Means over 192x192 crops of {count} built-in photos ({', '.join(BENCHMARK_PHOTOS)}), scale 4")
    print(table(means))
    print("The full tables on Set5, Set14 and BSD100 come from a checkout of the repository:")
    print("  python -m tutorial_lib data && python benchmarks/quality.py && python benchmarks/speed.py")
    return 0


def run_data(arguments: argparse.Namespace) -> int:
    from .checks import check_one_of
    from .data import DATASETS, download

    names = list(DATASETS) if arguments.name is None else [check_one_of(arguments.name, DATASETS, "NAME")]
    if arguments.source is not None and len(names) > 1:
        raise ValueError("--source holds one data set, so NAME must say which")
    failures = 0
    for name in names:
        try:
            print(f"{name}: {download(name, source=arguments.source, progress=True)}")
        except (OSError, ValueError) as error:
            complain(error)
            failures += 1
    return 2 if failures else 0
