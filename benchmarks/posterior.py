"""What zero-shot methods really draw: their distance to the exact posterior, where the posterior is known.

    python benchmarks/posterior.py                                     the table of chapter 15 (40 minutes on one core)
    python benchmarks/posterior.py --quick                             a part of it, in a minute and a half
    python benchmarks/posterior.py --json tutorial_lib/data/posterior.json   and keep it
    python benchmarks/posterior.py --show tutorial_lib/data/posterior.json   print what was kept

Priors: a Gaussian of smooth images, 1 x 8 x 8, and a mixture of two of them (a bright blob, a dark one). Measurements: 2 x 2
and 4 x 4 pooling, bicubic by 2, half of the pixels, a Gaussian blur; with noise of 0 and 0.1 in state units. All methods use
the exact denoiser of the prior, even times on vp_linear, and as many steps as the network calls in the column pay for
(up to 1000; mixtures, which need Monte Carlo, up to 300).

    W2        to the posterior, per pixel: Wasserstein-2 / sqrt(64). Exact where the method is affine under a Gaussian prior
              ("exact"). Elsewhere from samples: for a Gaussian prior W2 of the Gaussian with the mean and covariance of
              8192 samples, which is at most the true distance; for the mixture along fixed directions, 2048 samples. The
              jackknife takes off the bias of so few samples and gives the standard error; "floor" is what as many
              draws from the posterior itself get: below it nothing can be told apart
    residual  root mean square of A z - x, per measured number; a posterior sample has about noise_std
    coverage  how often z_0 lies in the method's central 90 % per pixel; 90 % is right, less is overconfident; none where
              the measurement leaves nothing open
    seconds   for 16 samples
    lost      farther away than 10 in every pixel: diverged, or still in the noise of the start

Affine laws are found step by step: a method that is shown the origin and the unit vectors of state and noise tells its
matrices, so that covariances follow exactly, whatever the number of steps.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from tutorial_lib.degradations import gaussian_kernel
from tutorial_lib.denoisers import count_calls
from tutorial_lib.files import write_atomically
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import AveragePool, Bicubic, Blur, LinearOperator, Mask
from tutorial_lib.oracles import Gaussian, GaussianMixture, denoiser_for, gaussian_w2
from tutorial_lib.samplers import State, ddpm, last
from tutorial_lib.schedules import log_snr_times, uniform_times, vp_linear
from tutorial_lib.steps import forward_std
from tutorial_lib.zero_shot import (
    ccdf,
    ddnm,
    ddrm,
    diffpir,
    dps,
    gdp,
    ilvr,
    mcg,
    pigdm,
    repaint,
    resampling_path,
    snips,
)

SHAPE, SIZE = (1, 8, 8), 64
SCHEDULE = vp_linear()
DRAWS, MANY_DRAWS, PARTS, DIRECTIONS = 2048, 8192, 8, 64
double = torch.float64
Method = Callable[..., Iterator[State]]


def draw(*shape: int, seed: int) -> Tensor:
    return standard_normal(seed)(torch.empty(*shape, dtype=double))


def priors() -> dict[str, GaussianMixture]:
    rows, columns = torch.meshgrid(*[torch.arange(8, dtype=double)] * 2, indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    squares = torch.cdist(places, places) ** 2
    smooth = 0.3 * torch.exp(-squares / 8) + 0.01 * torch.eye(SIZE, dtype=double)
    blob = 0.8 * torch.exp(-((rows - 3.5) ** 2 + (columns - 3.5) ** 2) / 8).flatten()
    both = torch.stack([blob, -blob])
    weights = torch.tensor([0.6, 0.4], dtype=double)
    return {
        "Gaussian": Gaussian(torch.zeros(SHAPE, dtype=double), smooth),
        "mixture": GaussianMixture(weights, both, 0.3 * smooth.expand(2, -1, -1), SHAPE),
    }


OPERATORS: dict[str, LinearOperator] = {
    "pool x2": AveragePool(2),
    "pool x4": AveragePool(4),
    "bicubic x2": Bicubic(2),
    "inpainting": Mask(draw(8, 8, seed=7) > 0),
    "blur": Blur(gaussian_kernel(5, 1.0).double()),
}


def even(calls: int) -> Tensor:
    return uniform_times(calls)


def ladder(calls: int) -> Tensor:
    return log_snr_times(SCHEDULE, max(2, (calls - 1) // 5))


class Entry:
    """A method with its options, its grid for a number of calls, and whether it is affine under a Gaussian prior."""

    def __init__(self, method: Method, times: Callable[[int], Tensor] = even, affine: bool = True, path=None, levels=0):
        self.method, self.times, self.affine, self.path, self.levels = method, times, affine, path, levels

    def sample(self, denoiser, operator, x, noise_std, calls, z, noise) -> Tensor:
        """Samples from starts `z` of white noise; (B, 1, 8, 8)."""
        times = self.times(calls)
        options = {} if self.path is None else {"jump": 1, "repeat": 4}
        start = SCHEDULE.sigma(times[0]) * z
        if self.method is ccdf:
            start = start + SCHEDULE.alpha(times[0]) * operator.pinv(x)
        return last(self.method(denoiser, SCHEDULE, operator, x, noise_std, times, start, noise=noise, **options))


METHODS: dict[str, Entry] = {
    "exact denoiser of the posterior": Entry(None),
    "ilvr": Entry(ilvr),
    "repaint, 4 visits": Entry(repaint, lambda calls: even(max(2, (calls + 3) // 4)), path=4),
    "ccdf, from t = 0.3": Entry(ccdf, lambda calls: uniform_times(calls, 0.3)),
    "mcg": Entry(mcg, affine=False),
    "dps, scale 0.3": Entry(dps, affine=False),
    "dps, scale 1": Entry(partial(dps, scale=1.0), affine=False),
    "gdp": Entry(gdp),
    "pigdm": Entry(pigdm),
    "pigdm, told the prior's std": Entry(partial(pigdm, prior_std=0.31**0.5)),
    "diffpir, zeta 0.1": Entry(diffpir),
    "diffpir, zeta 1": Entry(partial(diffpir, zeta=1.0)),
    "snips, 5 steps of 0.066 a level": Entry(snips, ladder, levels=5),
    "snips, 5 steps of 0.5 a level": Entry(partial(snips, step_size=0.5), ladder, levels=5),
    "ddrm": Entry(ddrm),
    "ddnm, eta 1": Entry(ddnm),
    "ddnm, eta_total 0.85": Entry(partial(ddnm, eta_total=0.85)),
}


# ------------------------------------------------------------------------------------------------- exact, step by step


def affine_map(
    step: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor], draws: int
) -> tuple[Tensor, Tensor, Tensor]:
    """b (D,), M (D, D), N (D, draws D) of a step z -> b + M z + N n that draws noise `draws` times."""
    unit = torch.eye(SIZE, dtype=double)
    z = torch.zeros(1 + SIZE * (1 + draws), SIZE, dtype=double)
    z[1 : 1 + SIZE] = unit
    drawn = 0

    def noise(like: Tensor) -> Tensor:
        nonlocal drawn
        out = torch.zeros_like(z)
        if drawn < draws:
            out[1 + SIZE * (1 + drawn) :][:SIZE] = unit
        drawn += 1
        return out.reshape(like.shape)

    out = step(z.reshape(-1, *SHAPE), noise).reshape(len(z), SIZE)
    return out[0], (out[1 : 1 + SIZE] - out[0]).T, (out[1 + SIZE :] - out[0]).T


def exact_law(entry: Entry, denoiser, operator, x, noise_std: float, calls: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what an affine method draws."""
    times = entry.times(calls)
    sigma, alpha = SCHEDULE.sigma(times[0]), SCHEDULE.alpha(times[0])
    mean, covariance = torch.zeros(SIZE, dtype=double), sigma**2 * torch.eye(SIZE, dtype=double)
    if entry.method is ccdf:
        mean = alpha * operator.pinv(x).flatten()

    def take(step, draws=1):
        nonlocal mean, covariance
        shift, matrix, noise = affine_map(step, draws)
        mean, covariance = shift + matrix @ mean, matrix @ covariance @ matrix.T + noise @ noise.T

    def run(z, noise, grid, **options):
        return entry.method(denoiser, SCHEDULE, operator, x, noise_std, grid, z, noise=noise, **options)

    if entry.levels:
        for t, s in zip(times[:-1], times[1:], strict=True):
            if s > 0:  # the second State is the end of level t; the next level begins at alpha_s / alpha_t times that
                factor = SCHEDULE.alpha(s) / SCHEDULE.alpha(t)
                take(lambda z, n: factor * next(islice(run(z, n, [t, s]), 1, None)).z, entry.levels)  # noqa: B023
            else:
                take(lambda z, n: last(run(z, n, [t, s])), entry.levels)  # noqa: B023
        return mean, covariance
    path = list(range(len(times))) if entry.path is None else resampling_path(len(times) - 1, 1, entry.path)
    options = {} if entry.path is None else {"repeat": 1}
    maps: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
    for i, j in zip(path[:-1], path[1:], strict=True):
        t, s = times[i], times[j]
        if j < i:
            kept, std = SCHEDULE.alpha(s) / SCHEDULE.alpha(t), forward_std(SCHEDULE, t, s)
            mean, covariance = kept * mean, kept**2 * covariance + std**2 * torch.eye(SIZE, dtype=double)
            continue
        if (i, j) not in maps:
            maps[i, j] = affine_map(lambda z, n: last(run(z, n, [t, s], **options)), 1)  # noqa: B023
        shift, matrix, noise = maps[i, j]
        mean, covariance = shift + matrix @ mean, matrix @ covariance @ matrix.T + noise @ noise.T
    return mean, covariance


def normal_coverage(mean: Tensor, std: Tensor, true_mean: Tensor, true_std: Tensor) -> float:
    """P(|z - mean| < 1.645 std) for z ~ N(true_mean, true_std^2), averaged over pixels."""
    high, low = (((mean + sign * 1.6449 * std) - true_mean) / true_std.clamp(min=1e-6) for sign in (1, -1))
    return (torch.special.ndtr(high) - torch.special.ndtr(low)).mean().item()


def exact_row(entry: Entry, prior, posterior, operator, x, noise_std: float, calls: int) -> dict[str, float]:
    mean, covariance = exact_law(entry, denoiser_for(prior, SCHEDULE), operator, x, noise_std, calls)
    matrix = operator.dense(SHAPE)
    heard = (covariance @ matrix.T * matrix.T).sum(0).clamp(min=0) + (matrix @ mean - x.flatten()) ** 2
    used = matrix.abs().sum(1) > 0
    true_mean, true_std = posterior.mean.flatten(), posterior.covariance.diagonal().clamp(min=0).sqrt()
    open_pixels = true_std > 1e-6
    coverage = normal_coverage(
        *(part[open_pixels] for part in (mean, covariance.diagonal().clamp(min=0).sqrt(), true_mean, true_std))
    )
    w2 = gaussian_w2(mean, covariance, true_mean, posterior.covariance) / math.sqrt(SIZE)
    return {"w2": w2, "residual": heard[used].mean().sqrt().item(), "coverage": coverage}


# ------------------------------------------------------------------------------------------------------- Monte Carlo


def gaussian_distance(samples: Tensor, truth: Tensor, posterior) -> float:
    """Squared W2 per pixel of the Gaussian with the samples' mean and covariance: a lower bound, exact for Gaussians."""
    flat = samples.flatten(1)
    return gaussian_w2(flat.mean(0), flat.T.cov(), posterior.mean.flatten(), posterior.covariance) ** 2 / SIZE


def sliced_distance(samples: Tensor, truth: Tensor, posterior) -> float:
    """Squared W2 along fixed directions, their mean: at most W2 squared per pixel."""
    directions = torch.nn.functional.normalize(draw(SIZE, DIRECTIONS, seed=11), dim=0)
    lines = [(points.flatten(1) @ directions).sort(0)[0] for points in (samples, truth)]
    return (lines[0] - lines[1]).square().mean().item()


def jackknife(distance: Callable[..., float], samples: Tensor, truth: Tensor, posterior) -> tuple[float, float]:
    """A squared distance without its bias of order 1 / number of samples, and its standard error."""
    parts = list(zip(samples.chunk(PARTS), truth.chunk(PARTS), strict=True))
    without = []
    for k in range(PARTS):
        rest = [torch.cat(kept) for kept in zip(*(pair for i, pair in enumerate(parts) if i != k), strict=True)]
        without.append(distance(*rest, posterior))
    values = torch.tensor(without, dtype=double)
    value = PARTS * distance(samples, truth, posterior) - (PARTS - 1) * values.mean().item()
    return value, ((PARTS - 1) * values.var(correction=0)).sqrt().item()


def sampled_row(entry: Entry, prior, posterior, operator, x, noise_std: float, calls: int) -> dict[str, float]:
    gaussian = isinstance(posterior, Gaussian)
    count, distance = (MANY_DRAWS, gaussian_distance) if gaussian else (DRAWS, sliced_distance)
    z, noise = draw(count, *SHAPE, seed=1), standard_normal(2)
    samples = entry.sample(denoiser_for(prior, SCHEDULE), operator, x, noise_std, calls, z, noise)
    if not samples.isfinite().all():
        return {"w2": math.inf, "residual": math.inf, "coverage": 0.0}
    truth, other = posterior.sample(count, standard_normal(3)), posterior.sample(count, standard_normal(4))
    square, error = jackknife(distance, samples, truth, posterior)
    least = sum(jackknife(distance, other, truth, posterior))
    w2 = math.sqrt(max(square, 0.0))
    low, high = (samples.flatten(1).quantile(q, dim=0) for q in (0.05, 0.95))
    flat = truth.flatten(1)
    open_pixels = flat.std(0) > 1e-6
    inside = ((flat >= low) & (flat <= high))[:, open_pixels].double().mean().item()
    matrix = operator.dense(SHAPE)
    used = matrix.abs().sum(1) > 0
    missing = (samples.flatten(1) @ matrix.T - x.flatten())[:, used]
    return {
        "w2": w2,
        "error": math.sqrt(max(square, 0.0) + error) - w2,
        "floor": math.sqrt(max(least, 0.0)),
        "residual": missing.square().mean().sqrt().item(),
        "coverage": inside,
    }


def row(name: str, prior_name: str, prior, operator_name: str, noise_std: float, calls: int) -> dict[str, object]:
    operator = OPERATORS[operator_name]
    z_0 = prior.sample(1, standard_normal(21))
    x = operator(z_0)
    x = x + noise_std * draw(*x.shape, seed=22) if noise_std else x
    posterior = prior.posterior(operator, x, noise_std)
    entry = METHODS[name]
    told = prior
    if entry.method is None:  # the control: plain sampling with a denoiser that has been told x

        def control(denoiser, schedule, operator, x, noise_std, times, z, noise):
            return ddpm(denoiser, schedule, z, times, noise=noise)

        entry, told = Entry(control), posterior
    exact = entry.affine and prior_name == "Gaussian"
    found = (exact_row if exact else sampled_row)(entry, told, posterior, operator, x, noise_std, calls)
    counted = count_calls(denoiser_for(told, SCHEDULE))
    begin = time.perf_counter()
    entry.sample(counted, operator, x, noise_std, calls, draw(16, *SHAPE, seed=1), standard_normal(2))
    return {
        "method": name,
        "prior": prior_name,
        "measurement": operator_name,
        "noise_std": noise_std,
        "calls": counted.calls,
        "column": calls,
        "exact": exact,
        **{key: float(f"{value:.4g}") for key, value in found.items() if math.isfinite(value)},
        "lost": not math.isfinite(found["w2"]) or found["w2"] > 10,
        "seconds": float(f"{time.perf_counter() - begin:.2g}"),
    }


def show(rows: list[dict[str, object]], columns: list[int]) -> None:
    """One table for each prior, measurement and noise: W2 in the columns, then what else there is at the last."""
    keys = list(dict.fromkeys((r["prior"], r["measurement"], r["noise_std"]) for r in rows))
    for key in keys:
        print(f"\n{key[0]} prior, {key[1]}, noise_std {key[2]}")
        case = [r for r in rows if (r["prior"], r["measurement"], r["noise_std"]) == key]
        here = [c for c in columns if any(r["column"] == c for r in case)]
        heads = [f"W2 @{c}" for c in here]
        print("| method | " + " | ".join(heads) + f" | residual | coverage | calls | seconds | (at {here[-1]})")
        for name in METHODS:
            mine = {r["column"]: r for r in case if r["method"] == name}
            if not mine:
                continue
            cells = []
            for c in here:
                r = mine[c]
                text = "lost" if r["lost"] else f"{r['w2']:.4f}"
                cells.append(text if r["exact"] or r["lost"] else f"{text} ±{r['error']:.4f} ({r['floor']:.3f})")
            end = mine[here[-1]]
            rest = [
                f"{end.get('residual', math.inf):.4f}",
                f"{100 * end['coverage']:.0f} %" if "coverage" in end else "-",
                str(end["calls"]),
                f"{end['seconds']:.2g}",
            ]
            print("| " + " | ".join([name, *cells, *rest]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two measurements, one noise level each, 10 and 100 calls")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--show", help="only print the tables of such a file")
    arguments = parser.parse_args()
    if arguments.show:
        kept = json.loads(Path(arguments.show).read_text())
        return show(kept["rows"], kept["columns"])
    torch.set_num_threads(1)
    columns = [10, 100] if arguments.quick else [10, 30, 100, 300, 1000]
    cases = (
        [("pool x2", 0.0), ("inpainting", 0.1)] if arguments.quick else [(o, s) for o in OPERATORS for s in (0.0, 0.1)]
    )
    rows: list[dict[str, object]] = []
    for prior_name, prior in priors().items():
        here = [c for c in columns if prior_name == "Gaussian" or c <= 300]  # Monte Carlo takes its time
        for operator_name, noise_std in cases:
            begin = time.perf_counter()
            for name in METHODS:
                rows += [row(name, prior_name, prior, operator_name, noise_std, calls) for calls in here]
            print(f"{prior_name}, {operator_name}, {noise_std}: {time.perf_counter() - begin:.0f} s", flush=True)
            if arguments.json:
                text = json.dumps({"columns": columns, "rows": rows}).replace("}, {", "},\n{")
                write_atomically(arguments.json, lambda path, text=text: path.write_text(text + "\n"))
    show(rows, columns)


if __name__ == "__main__":
    main()
