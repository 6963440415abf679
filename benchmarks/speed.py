"""What we claim about speed, measured side by side: ratios first, seconds for orientation.

    python benchmarks/speed.py             a few minutes on two cores
    python benchmarks/speed.py --large     also a 4096 x 4096 output: seconds and peak memory, in a process of its own

Two rivals of a ratio take turns, and the median of the pairs is printed, so a machine that drifts or is shared does not
favour either.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.images import photo, resize
from tutorial_lib.networks.regression import condition
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddim, last
from tutorial_lib.schedules import uniform_times, vp_cosine
from tutorial_lib.super_resolution import STEPS, super_resolve


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 7) -> tuple[float, float, float]:
    """Median, smallest and largest of ours/theirs over pairs that take turns, after one warm-up each."""
    ours(), theirs()
    found = sorted(seconds(ours) / seconds(theirs) for _ in range(pairs))
    return statistics.median(found), found[0], found[-1]


def loops(calls: int = STEPS["residual-diffusion"]) -> None:
    """Our sampler loop against the bare network calls, and against the loop of diffusers' scheduler, with one network."""
    from diffusers import DDIMScheduler

    lr = resize(photo("chelsea")[..., :256, :256], 1 / 4)
    network, schedule = load_pretrained("photo-residual-x4"), vp_cosine()
    cond = condition(load_pretrained("photo-regression-x4"), lr)[2]
    denoiser = NetworkDenoiser(network, "v", schedule)
    z = standard_normal(0)(torch.empty(1, 3, 256, 256))
    times = uniform_times(calls)
    level = torch.zeros(1)
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False)

    def ours() -> None:
        last(ddim(lambda z, t: denoiser(z, t, cond), schedule, z, times))

    def bare() -> None:
        for _ in range(calls):
            network(z, level, cond)

    def theirs() -> None:
        scheduler.set_timesteps(calls)
        state = z
        for t in scheduler.timesteps:
            state = scheduler.step(network(state, level, cond), t, state).prev_sample

    with torch.inference_mode():
        for name, rival, bound in (("bare network calls", bare, 1.05), ("diffusers' DDIM loop", theirs, 1.0)):
            middle, low, high = ratio(ours, rival)
            print(f"our DDIM loop / {name}: {middle:.3f} (pairs {low:.3f} to {high:.3f}; goal: at most {bound})")


def whole_image() -> None:
    lr = resize(photo("astronaut"), 1 / 4)
    super_resolve(lr[..., :16, :16])
    for method in ("regression", "residual-diffusion"):
        taken = [seconds(lambda method=method: super_resolve(lr, method=method)) for _ in range(3)]
        goal = "; goal: at most 12" if method == "residual-diffusion" else ""
        print(f"128x128 -> 512x512 by {method}: {statistics.median(taken):.2f} s (median of 3{goal})")


def imports() -> None:
    def starting(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    pairs = [(starting("tutorial_lib"), starting("torch")) for _ in range(5)]
    extra = statistics.median(ours - theirs for ours, theirs in pairs)
    print(f"import tutorial_lib - import torch: {extra:+.2f} s (median of 5 pairs; goal: at most +0.30)")
    code = "import torch, time; t = time.perf_counter(); import tutorial_lib.super_resolution; print(time.perf_counter() - t)"
    more = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    print(f"import tutorial_lib.super_resolution after torch: {more:.2f} s")


def tiles() -> None:
    lr = resize(photo("rocket"), 1 / 4)
    for method in ("regression", "residual-diffusion"):
        whole, cut = (super_resolve(lr, method=method, steps=5, tile=tile) for tile in (None, 32))
        difference = (whole - cut).abs().max().item() * 255
        print(f"tiles of 32 LR pixels against the whole, {method}: largest difference {difference:.4f} of 255")


def large(method: str) -> None:
    lr = resize(photo("astronaut"), 2).clamp(0, 1)  # 1024 x 1024
    taken = seconds(lambda: super_resolve(lr, method=method))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"1024x1024 -> 4096x4096 by {method}: {taken:.0f} s, peak memory {peak:.2f} GiB (goal: under 2)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also measure a 4096 x 4096 output")
    parser.add_argument("--only-large", metavar="METHOD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_large:
        large(arguments.only_large)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    imports()
    whole_image()
    loops()
    tiles()
    if arguments.large:
        for method in ("regression", "residual-diffusion"):
            subprocess.run([sys.executable, __file__, "--only-large", method], check=True)


if __name__ == "__main__":
    main()
