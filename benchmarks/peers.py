"""DPS, DDRM and DiffPIR side by side with deepinv: same exact denoiser, operator, noise, levels and calls.

    python benchmarks/peers.py            every table (about ten minutes)
    python benchmarks/peers.py --quick    one operator, 512 samples

deepinv is no dependency. Add it, in an environment of its own if you like, with

    python -m pip install -c constraints.txt deepinv==0.5.0

Gaussian images of 8 x 8 pixels with their exact denoiser, in state units; W2 to the exact posterior is per pixel, of the
Gaussian with the samples' mean and covariance, with its jackknife standard error, and includes what so few samples cannot
tell apart (last row). Spread is the samples' standard deviation over the posterior's. DiffPIR's lambda 2 is our strength 1:
deepinv takes the noise of images for that of states (a factor 4) and twice the paper's rho. DPS is tuned by the same search
on both sides. What the tables (2048 samples, deepinv 0.5.0) say, W2 ours | deepinv:

    pool x2      noise 0    DDRM 20 .0266 | .0334  100 .0133 | .0240   DiffPIR .1 .0163 | .0174  1 .0190 | .0190   DPS .0128 | .0118
    pool x2      noise 0.1  DDRM 20 .0485 | .0639  100 .0374 | .0559   DiffPIR .1 .0210 | .0209  1 .0357 | .0356   DPS .0257 | .0200
    inpainting   noise 0    DDRM 20 .0709 | .0677  100 .0417 | .0402   DiffPIR .1 .0768 | .0776  1 .0287 | .0290   DPS .0194 | .0221
    inpainting   noise 0.1  DDRM 20 .0629 | .0673  100 .0331 | .0452   DiffPIR .1 .0606 | .0607  1 .0340 | .0332   DPS .0327 | .0222
    blur         noise 0    DDRM 20 .0000 | .0000  100 .0000 | .0000   DiffPIR .1 .0257 | .0279  1 .0232 | .0248   DPS .0686 | .0671
    blur         noise 0.1  DDRM 20 .0577 | .0641  100 .0752 | .0720   DiffPIR .1 .0472 | .0479  1 .0350 | .0350   DPS .0291 | .0222

- DDRM of deepinv divides its noise by sqrt 2, so its samples have half the variance where nothing is measured. With the noise
  put right the two agree, except for the blur: deepinv drops every singular value up to noise_std. Leaving the same 35 of 64
  out of ours gives its numbers again, and better ones than DDRM's rule, which trusts weak values too much. On inpainting 20
  even steps leave too much spread, which half the variance hides.
- On one number with noise_std 1 (a singular value no larger than the noise) that makes deepinv deaf: gain 0.000 for 0.5.
- DiffPIR agrees to about two standard errors once our last step is left out: deepinv returns the state at its last level, with
  that level's noise, and throws its last call's answer away.
- DPS is another rule: deepinv adds the gradient to the score, so that its step fades with the noise, where the paper (and ours)
  keeps the step. By its rule and with its weight ours gives its numbers to two or three standard errors. Tuned, its rule is
  nearer to the posterior in five of six cases; untuned (weight 1) it hardly hears x, W2 .24 to .30, where our default has .013
  to .079.
- Processor seconds for 4 faces, 20 steps: DDRM .23 | .24, DiffPIR .24 | .24, DPS .50 | .49.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tutorial_lib.data import faces
from tutorial_lib.degradations import gaussian_kernel
from tutorial_lib.denoisers import Denoiser, NetworkDenoiser, count_calls
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Blur, Dense, LinearOperator, Mask
from tutorial_lib.oracles import Gaussian, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import State, last
from tutorial_lib.schedules import Schedule, edm, from_betas, vp_linear
from tutorial_lib.zero_shot import ddrm, diffpir, dps

VERSION = "0.5.0"
SHAPE, SIZE = (1, 8, 8), 64
STD = 0.25  # of a pixel in state units: deepinv clips estimates to [-1, 1], which is then four standard deviations away
BATCHES, TUNING = 8, 512
DDRM_STEPS, DIFFPIR_STEPS, DPS_STEPS = (20, 100), 100, 200
SCALE, WEIGHT = 0.3, 1.0  # the defaults of our dps and of deepinv's DPS
double = torch.float64


def import_deepinv():
    """deepinv, or one sentence that says how to get it."""
    try:
        with contextlib.suppress(RuntimeError):  # a torchvision built for CUDA beside a torch that is not
            import torchvision  # noqa: F401
        if "torchvision" not in sys.modules:
            stub = torch.library.Library("torchvision", "FRAGMENT")
            stub.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            stub.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import_deepinv.stub = stub  # it must stay alive
        import deepinv
    except ModuleNotFoundError as error:
        sys.exit(
            f"benchmarks/peers.py compares with deepinv, but {error.name} is not installed here; add it with"
            f" 'python -m pip install -c constraints.txt deepinv=={VERSION}'"
        )
    if deepinv.__version__ != VERSION:
        print(f"deepinv {deepinv.__version__}: the record in this file is of {VERSION}")
    return deepinv


def smooth_prior() -> Gaussian:
    places = torch.cartesian_prod(torch.arange(8), torch.arange(8)).to(double)
    correlation = 0.97 * torch.exp(-(torch.cdist(places, places) ** 2) / 8) + 0.03 * torch.eye(SIZE, dtype=double)
    return Gaussian(torch.zeros(SHAPE, dtype=double), STD**2 * correlation)


OPERATORS: dict[str, LinearOperator] = {
    "pool x2": AveragePool(2),
    "inpainting": Mask(standard_normal(7)(torch.empty(8, 8, dtype=double)) > 0),
    "blur": Blur(gaussian_kernel(5, 1.0).double()),
}


class Case(NamedTuple):
    """A measurement x = A z_0 + noise_std n in state units."""

    operator: LinearOperator
    noise_std: float
    x: Tensor
    posterior: Gaussian


def case(prior: Gaussian, operator: LinearOperator, noise_std: float) -> Case:
    x = operator(prior.sample(1, standard_normal(21)))
    x = x + noise_std * standard_normal(22)(x)
    return Case(operator, noise_std, x, prior.posterior(operator, x, noise_std))


Denoise = Callable[[Tensor, Tensor], Tensor]  # (z_0 + sigma n, sigma) -> z_0 in state units


def dense_physics(deepinv, operator: LinearOperator):
    """An operator of this package as deepinv's DecomposablePhysics, from its full SVD; measurements are (B, M)."""
    u, s, vt = (part.float() for part in torch.linalg.svd(operator.dense(SHAPE), full_matrices=True))
    m = len(u)
    return deepinv.physics.DecomposablePhysics(
        U=lambda c: c[:, :m] @ u.T,
        U_adjoint=lambda y: torch.nn.functional.pad(y @ u, (0, SIZE - m)),
        V=lambda c: (c @ vt).view(-1, *SHAPE),
        V_adjoint=lambda y: y.flatten(1) @ vt.T,
        mask=torch.nn.functional.pad(torch.where(s > 1e-6 * s[0], s, 0), (0, SIZE - len(s)))[None],
        img_size=SHAPE,
    )


class Peer:
    """deepinv's side. It works on images in [0, 1]: a state is 2 y - 1, so that noises of images are half as large."""

    def __init__(self, deepinv, denoise: Denoise, physics, y: Tensor, noise_std: float, shape: tuple[int, ...]):
        peer = self
        self.deepinv, self.physics, self.y, self.shape, self.calls = deepinv, physics, y, shape, 0
        self.noise_std = noise_std / 2

        class Exact(deepinv.models.Denoiser):
            def forward(self, y, sigma, **_):
                peer.calls += 1
                return (denoise(2 * y - 1, 2 * torch.as_tensor(sigma)) + 1) / 2

        self.denoiser = Exact()

    def _given(self, count: int, least: float = 0.0) -> tuple[Tensor, object]:
        self.physics.noise_model = self.deepinv.physics.GaussianNoise(max(self.noise_std, least))
        return self.y.expand(count, *self.y.shape[1:]).clone(), self.physics

    def ddrm(self, count: int, steps: int) -> Tensor:
        levels = torch.linspace(1, 0, steps + 1).tolist()
        return 2 * self.deepinv.sampling.DDRM(self.denoiser, sigmas=levels)(*self._given(count)) - 1

    def diffpir(self, count: int, steps: int, lambda_: float, zeta: float) -> Tensor:
        least = 5e-4  # the 0.001 of states that counts as no noise: without any its prox divides by 0
        fidelity, sigma = self.deepinv.optim.L2(), max(self.noise_std, least)
        model = self.deepinv.sampling.DiffPIR(self.denoiser, fidelity, sigma, steps, zeta, lambda_)
        start = self.physics.A_dagger(self.y).expand(count, *self.shape)
        return 2 * model(*self._given(count, least), x_init=start) - 1

    def dps(self, count: int, steps: int, weight: float) -> Tensor:
        model = self.deepinv.sampling.DPS(self.denoiser, num_steps=steps + 1, weight=weight)
        return 2 * model(*self._given(count), x_init=(count, *self.shape)) - 1

    def levels(self, steps: int) -> Tensor:
        """The times of DiffPIR's noise levels on `from_betas`, then 0."""
        seq = self.deepinv.sampling.DiffPIR(self.denoiser, self.deepinv.optim.L2(), max_iter=steps).seq
        return torch.cat([(1000 - seq.double()) / 1000, torch.zeros(1, dtype=double)])


class Ours:
    """The same methods of this package, on states of float32 as the peer's. `denoisers`: one for each schedule."""

    def __init__(
        self,
        denoisers: Callable[[Schedule], Denoiser],
        operator: LinearOperator,
        x: Tensor,
        noise_std: float,
        shape: tuple[int, ...],
        levels: Callable[[int], Tensor],
    ):
        self.denoisers, self.operator, self.x, self.noise_std = denoisers, operator, x.float(), noise_std
        self.shape, self.levels, self.calls = shape, levels, 0

    def _walk(self, method, schedule: Schedule, times: Tensor, count: int, **options) -> Iterator[State]:
        denoiser, noise = count_calls(self.denoisers(schedule)), standard_normal(1)
        z = schedule.sigma(times[0]).float() * noise(torch.empty(count, *self.shape))
        yield from method(denoiser, schedule, self.operator, self.x, self.noise_std, times, z, noise=noise, **options)
        self.calls += denoiser.calls

    def ddrm(self, count: int, steps: int) -> Tensor:
        return last(self._walk(ddrm, edm(2.0), torch.linspace(1, 0, steps + 1, dtype=double), count))

    def diffpir(self, count: int, steps: int, strength: float, zeta: float, finish: bool = True) -> Tensor:
        """finish=False: the state before the last step, which deepinv returns."""
        schedule = from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=double))
        walk = self._walk(diffpir, schedule, self.levels(steps), count, strength=strength, zeta=zeta)
        return last(walk) if finish else list(walk)[-2].z

    def dps(self, count: int, steps: int, scale: float, fading: bool = False) -> Tensor:
        """fading=True is deepinv's rule, whose weight is twice our scale: its images are in [0, 1]."""
        times = torch.linspace(1, 0, steps + 1, dtype=double)
        return last(self._walk(dps, vp_linear(), times, count, scale=scale, fading=fading))


@contextlib.contextmanager
def louder_noise() -> Iterator[None]:
    """deepinv's DDRM with its noise as it should be: it divides every draw by sqrt(2)."""
    quiet = torch.randn_like
    torch.randn_like = lambda *arguments, **options: math.sqrt(2) * quiet(*arguments, **options)
    try:
        yield
    finally:
        torch.randn_like = quiet


def distance(samples: Tensor, posterior: Gaussian) -> float:
    flat = samples.flatten(1).double()
    return gaussian_w2(flat.mean(0), flat.T.cov(), posterior.mean.flatten(), posterior.covariance) / math.sqrt(SIZE)


def measure(samples: Tensor, problem: Case) -> dict[str, float]:
    """W2 per pixel with its jackknife standard error, errors of mean and spread, residual."""
    flat, posterior = samples.flatten(1).double(), problem.posterior
    std = posterior.covariance.diagonal().clamp(min=0).sqrt()
    parts = flat.chunk(BATCHES)
    without = torch.tensor([distance(torch.cat([*parts[:i], *parts[i + 1 :]]), posterior) for i in range(BATCHES)])
    matrix = problem.operator.dense(SHAPE)
    used = matrix.abs().sum(1) > 0
    missing = (flat @ matrix.T - problem.x.flatten())[:, used]
    return {
        "w2": distance(samples, posterior),
        "error": ((BATCHES - 1) * without.var(correction=0)).sqrt().item(),
        "mean": (flat.mean(0) - posterior.mean.flatten()).square().mean().sqrt().item(),
        "spread": (flat.var(0).sum() / std.square().sum()).sqrt().item() if std.max() > 1e-6 else math.nan,
        "residual": missing.square().mean().sqrt().item(),
    }


def seconds(runs: list[Callable[[int], Tensor]], count: int) -> list[float]:
    """Processor seconds, the best of five for each, taken in turns."""
    best = [math.inf] * len(runs)
    for _ in range(5):
        for i, run in enumerate(runs):
            begin = time.process_time()
            run(count)
            best[i] = min(best[i], time.process_time() - begin)
    return best


def tuned(run: Callable[[int, float], Tensor], start: float, problem: Case) -> float:
    """The value with the smallest W2, to a quarter: a search from `start` by factors of 4, 2 and 1.25."""

    def score(value: float) -> float:
        if value not in found:
            torch.manual_seed(5)
            samples = run(TUNING, value)
            found[value] = distance(samples, problem.posterior) if samples.isfinite().all() else math.inf
        return found[value]

    found: dict[float, float] = {}
    best = start
    for factor in (4.0, 2.0, 1.25):
        while (nearer := min((best / factor, best * factor), key=score)) and score(nearer) < score(best):
            best = nearer
    return best


class Row(NamedTuple):
    method: str
    library: str
    side: Ours | Peer | None  # who counts the calls
    run: Callable[[int], Tensor]


def without_weak_values(ours: Ours, least: float) -> Ours:
    """Ours without the singular values up to `least`, which deepinv's DDRM drops; `ours` itself where there is none."""
    u, s, vt = torch.linalg.svd(ours.operator.dense(SHAPE), full_matrices=False)
    keep = s > least
    if keep[s > 1e-6 * s[0]].all():
        return ours
    strong = Dense((u[:, keep] * s[keep]) @ vt[keep], SHAPE)
    return Ours(ours.denoisers, strong, ours.x.flatten(1), ours.noise_std, SHAPE, ours.levels)


def rows(ours: Ours, peer: Peer, problem: Case) -> list[Row]:
    found, bolder = [], without_weak_values(ours, problem.noise_std / 2)  # deepinv compares in image units
    for steps in DDRM_STEPS:

        def repaired(n: int, steps: int = steps) -> Tensor:
            with louder_noise():
                return peer.ddrm(n, steps)

        name = f"DDRM, {steps} steps"
        found += [
            Row(name, "ours", ours, lambda n, steps=steps: ours.ddrm(n, steps)),
            Row(name, "deepinv", peer, lambda n, steps=steps: peer.ddrm(n, steps)),
            Row(name, "deepinv, noise x sqrt 2", peer, repaired),
        ]
        if bolder is not ours:
            found.append(Row(name, "ours, weak values left out", bolder, lambda n, steps=steps: bolder.ddrm(n, steps)))
    for zeta in (0.1, 1.0):
        name = f"DiffPIR, zeta {zeta}"
        found += [
            Row(name, "ours", ours, lambda n, zeta=zeta: ours.diffpir(n, DIFFPIR_STEPS, 1.0, zeta)),
            Row(
                name,
                "ours, last step left out",
                ours,
                lambda n, zeta=zeta: ours.diffpir(n, DIFFPIR_STEPS, 1.0, zeta, False),
            ),
            Row(name, "deepinv, lambda 2", peer, lambda n, zeta=zeta: peer.diffpir(n, DIFFPIR_STEPS, 2.0, zeta)),
            Row(name, "deepinv, lambda 7", peer, lambda n, zeta=zeta: peer.diffpir(n, DIFFPIR_STEPS, 7.0, zeta)),
        ]
    scale = tuned(lambda n, value: ours.dps(n, DPS_STEPS, value), SCALE, problem)
    weight = tuned(lambda n, value: peer.dps(n, DPS_STEPS, value), 100 * WEIGHT, problem)
    return [
        *found,
        Row("DPS, default", f"ours, scale {SCALE:g}", ours, lambda n: ours.dps(n, DPS_STEPS, SCALE)),
        Row("DPS, default", f"deepinv, weight {WEIGHT:g}", peer, lambda n: peer.dps(n, DPS_STEPS, WEIGHT)),
        Row("DPS, tuned", f"ours, scale {scale:.3g}", ours, lambda n: ours.dps(n, DPS_STEPS, scale)),
        Row("DPS, tuned", f"deepinv, weight {weight:g}", peer, lambda n: peer.dps(n, DPS_STEPS, weight)),
        Row("DPS, tuned", "ours, by deepinv's rule", ours, lambda n: ours.dps(n, DPS_STEPS, weight / 2, fading=True)),
        Row("draws of the posterior", "", None, lambda n: problem.posterior.sample(n, standard_normal(5))),
    ]


def errors(deepinv, name: str, noise_std: float, count: int) -> None:
    prior, operator = smooth_prior(), OPERATORS[name]
    problem = case(prior, operator, noise_std)
    y = ((problem.x.flatten(1) + operator.dense(SHAPE).sum(1)) / 2).float()
    physics = dense_physics(deepinv, operator)
    peer = Peer(deepinv, lambda z, sigma: prior.denoise(z, 1.0, sigma), physics, y, noise_std, SHAPE)
    ours = Ours(lambda s: denoiser_for(prior, s), operator, problem.x, noise_std, SHAPE, peer.levels)
    print(f"\n{name}, noise_std {noise_std}, {count} samples")
    print("| method | library | calls | W2 | error of mean | spread | residual |\n|---|---|---:|---:|---:|---:|---:|")
    for row in rows(ours, peer, problem):
        torch.manual_seed(3)
        before = row.side.calls if row.side else 0
        found = measure(row.run(count), problem)
        calls = row.side.calls - before if row.side else ""
        numbers = f"{found['mean']:.4f} | {found['spread']:.2f} | {found['residual']:.4f}"
        print(
            f"| {row.method} | {row.library} | {calls} | {found['w2']:.4f} ± {found['error']:.4f} | {numbers} |",
            flush=True,
        )


def gains(deepinv) -> None:
    """DDRM on one number, z_0 ~ N(0, 1), x = z_0 + noise_std n: how much of x arrives in the sample, and the variance."""
    print("\nDDRM, z_0 ~ N(0, 1), x = z_0 + noise_std n, 20 steps from sigma 1: gain, variance")
    print("| noise_std | posterior | ours | deepinv |\n|---:|---|---|---|")
    levels, count, shape = torch.linspace(1, 0, 21, dtype=double), 40_000, (1, 1, 1)
    prior = Gaussian(torch.zeros(shape, dtype=double), torch.eye(1, dtype=double))

    class Exact(deepinv.models.Denoiser):
        def forward(self, y, sigma, **_):
            return y / (1 + sigma**2)

    def ours(x: float, noise_std: float) -> Tensor:
        z, measured = standard_normal(1)(torch.empty(count, *shape, dtype=double)), torch.full((1, *shape), x).double()
        operator, denoiser = Mask(torch.ones(1, 1)), denoiser_for(prior, edm(1.0))
        return last(ddrm(denoiser, edm(1.0), operator, measured, noise_std, levels, z, noise=standard_normal(2)))

    def theirs(x: float, noise_std: float) -> Tensor:
        torch.manual_seed(4)
        physics = deepinv.physics.DecomposablePhysics(mask=torch.ones(1, 1), img_size=(1,))
        physics.noise_model = deepinv.physics.GaussianNoise(noise_std)
        return deepinv.sampling.DDRM(Exact(), sigmas=levels.tolist())(torch.full((count, 1), x), physics)

    for noise_std in (0.1, 0.5, 1.0):
        cells = [f"{1 / (1 + noise_std**2):.3f}, {noise_std**2 / (1 + noise_std**2):.3f}"]
        for library in (ours, theirs):
            at_0, at_1 = (library(x, noise_std) for x in (0.0, 1.0))
            cells.append(f"{(at_1.mean() - at_0.mean()).item():.3f}, {at_0.var().item():.3f}")
        print(f"| {noise_std} | " + " | ".join(cells) + " |", flush=True)


def speed(deepinv, count: int) -> None:
    """Seconds on faces, 3 x 32 x 32, half of the pixels missing: each library with its own operator."""
    shape, noise_std = (3, 32, 32), 0.1
    network = load_pretrained("faces-unconditional-32")
    mask = standard_normal(7)(torch.empty(32, 32)) > 0
    x = Mask(mask)(2 * faces(1, seed=1).images - 1)
    physics = deepinv.physics.Inpainting(img_size=shape, mask=mask.float().expand(shape))
    on_edm = NetworkDenoiser(network, "v", edm())
    peer = Peer(deepinv, lambda z, sigma: on_edm(z, sigma / 80), physics, physics.A((x + 1) / 2), noise_std, shape)
    ours = Ours(lambda s: NetworkDenoiser(network, "v", s), Mask(mask), x, noise_std, shape, peer.levels)
    runs: dict[str, tuple[Callable, Callable]] = {
        "DDRM, 20 steps": (lambda n: ours.ddrm(n, 20), lambda n: peer.ddrm(n, 20)),
        "DiffPIR, 20 steps": (lambda n: ours.diffpir(n, 20, 1.0, 0.1), lambda n: peer.diffpir(n, 20, 2.0, 0.1)),
        "DPS, 20 steps": (lambda n: ours.dps(n, 20, 3.0), lambda n: peer.dps(n, 20, 100.0)),
    }
    print(
        f"\nprocessor seconds for {count} faces of 32 x 32 (one thread, best of five)\n| method | ours | deepinv |\n|---|---:|---:|"
    )
    times = seconds([run for pair in runs.values() for run in pair], count)
    for name, mine, theirs in zip(runs, times[::2], times[1::2], strict=True):
        print(f"| {name} | {mine:.2f} | {theirs:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one operator, 512 samples")
    arguments = parser.parse_args()
    deepinv = import_deepinv()
    torch.set_num_threads(1)
    names = ["pool x2"] if arguments.quick else list(OPERATORS)
    for name in names:
        for noise_std in (0.0, 0.1):
            errors(deepinv, name, noise_std, 512 if arguments.quick else 2048)
    gains(deepinv)
    speed(deepinv, 4)


if __name__ == "__main__":
    main()
