"""What we claim about the digit model: bits per dimension of digits that it never saw, by the ELBO and by the flow.

    python benchmarks/likelihood.py                   360 held-out digits, 4 draws of the dequantisation (a few minutes)
    python benchmarks/likelihood.py --draws 1         quicker and less certain
    python benchmarks/likelihood.py --cards           also writes the numbers into the model's card

Every number is a mean over digits with a 95 % interval (bootstrap over digits; each digit's bits are first averaged over the
draws). Bits are -log2 of the density of a dequantised digit, less the log2 of a grey level's width, per pixel: log2 17 = 4.09
for a model that knows nothing. The yardsticks are fitted to the same 1,437 digits: each pixel's own histogram, a Gaussian
and a mixture of 20 Gaussians.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tutorial_lib.denoisers import Denoiser, NetworkDenoiser
from tutorial_lib.files import write_atomically
from tutorial_lib.likelihood import (
    bits_per_dim,
    continuous_loss,
    dequantise,
    elbo_terms,
    learned_schedule,
    log_likelihood,
    prior_kl,
    reconstruction_loss,
    uniform,
)
from tutorial_lib.noise import standard_normal
from tutorial_lib.pretrained import MODEL_CARDS, load_pretrained, weights_path
from tutorial_lib.recipes.digits import DIGIT_LOG_SNR, split_digits
from tutorial_lib.schedules import uniform_times
from tutorial_lib.score_matching import rademacher
from tutorial_lib.widgets import bootstrap_interval

NAME, LEVELS, DIM = "digits-likelihood", 17, 64
SCHEDULE = learned_schedule(torch.zeros(1), DIGIT_LOG_SNR[1], DIGIT_LOG_SNR[0])  # log_snr falls in a straight line
T_MIN = 1e-6


def states(images: Tensor, seed: int) -> Tensor:
    return dequantise(images, LEVELS, uniform(standard_normal(seed)))


def exact(denoiser: Denoiser, z: Tensor, steps: int, seed: int) -> Tensor:
    """-log p of the probability flow, Heun, divergence by one vector of signs (Hutchinson)."""
    times = uniform_times(steps + 1, t_min=T_MIN)[:-1]
    noise = rademacher(standard_normal(1000 + seed))  # not the stream of the dequantisation
    return -log_likelihood(denoiser, SCHEDULE, z, times, noise=noise, solver="heun")


def continuous(denoiser: Denoiser, z: Tensor, draws: int, seed: int) -> Tensor:
    """-ELBO with infinitely many steps: start, the rate at `draws` noise levels evenly spread over log_snr, last step."""
    noise = standard_normal(2000 + seed)
    offset = torch.rand(len(z), generator=torch.Generator().manual_seed(3000 + seed)).double()
    rates = sum(continuous_loss(denoiser, SCHEDULE, z, (offset + i) / draws, noise) for i in range(draws)) / draws
    return prior_kl(SCHEDULE, z) + rates + reconstruction_loss(denoiser, SCHEDULE, z, T_MIN, noise)


def discrete(denoiser: Denoiser, z: Tensor, steps: int, seed: int) -> Tensor:
    """-ELBO of ancestral sampling with that many steps and the variances beta."""
    return elbo_terms(
        denoiser, SCHEDULE, z, uniform_times(steps, t_min=T_MIN), standard_normal(4000 + seed), "beta"
    ).total


def interval(bits: Tensor) -> str:
    low, high = bootstrap_interval(bits.double())
    return f"{bits.mean():.3f} [{low:.3f}, {high:.3f}]"


def averaged(cost: Callable[[Tensor, int], Tensor], images: Tensor, draws: int, levels: int | None = LEVELS) -> Tensor:
    """Bits per dimension of each image, (B,), mean over draws of the dequantisation."""
    found = [bits_per_dim(-cost(states(images, seed), seed), DIM, levels) for seed in range(draws)]
    return torch.stack(found).mean(0)


def yardsticks(train: Tensor, images: Tensor, draws: int) -> dict[str, Tensor]:
    """Bits of models that are fitted in a second."""
    from sklearn.mixture import GaussianMixture

    counts = torch.nn.functional.one_hot((train.flatten(1) * (LEVELS - 1)).long(), LEVELS).sum(0).double() + 0.5
    place = (images.flatten(1) * (LEVELS - 1)).long()[..., None]
    log_prob = (counts / counts.sum(1, keepdim=True)).log().expand(len(images), -1, -1).gather(2, place).sum((1, 2))
    found = {"each pixel's own histogram": bits_per_dim(log_prob, DIM)}
    many = torch.cat([states(train, 100 + seed) for seed in range(4)]).flatten(1).double().numpy()
    for count in (1, 20):
        model = GaussianMixture(count, reg_covar=1e-3, random_state=0).fit(many)

        def cost(z: Tensor, seed: int, model: GaussianMixture = model) -> Tensor:
            return -torch.from_numpy(model.score_samples(z.flatten(1).double().numpy()))

        found["a Gaussian" if count == 1 else f"{count} Gaussians"] = averaged(cost, images, draws)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4, help="draws of dequantisation and noise a digit (default: 4)")
    parser.add_argument("--steps", type=int, default=80, help="Heun steps and steps of the ELBO (default: 80)")
    parser.add_argument("--cards", action="store_true", help="write the numbers into the model's card")
    options = parser.parse_args(arguments)
    train, images = split_digits()
    denoiser = NetworkDenoiser(load_pretrained(NAME), "v", SCHEDULE)
    for name, bits in yardsticks(train, images, options.draws).items():
        print(f"{name:34} {interval(bits)}", flush=True)
    measured: dict[str, str | int] = {"held-out digits": len(images), "draws": options.draws}
    costs = {
        "bits per dimension, exact (flow)": lambda z, seed: exact(denoiser, z, options.steps, seed),
        "bits per dimension, ELBO": lambda z, seed: continuous(denoiser, z, options.steps, seed),
        f"bits per dimension, ELBO of {options.steps} steps": lambda z, seed: discrete(
            denoiser, z, options.steps, seed
        ),
    }
    for name, cost in costs.items():
        start = time.perf_counter()
        with torch.no_grad():
            measured[name] = interval(averaged(cost, images, options.draws))
        print(f"{name:34} {measured[name]} ({time.perf_counter() - start:.0f} s)", flush=True)
    with torch.no_grad():
        seen = averaged(costs["bits per dimension, ELBO"], train[:: len(train) // len(images)], options.draws)
    measured["bits per dimension, ELBO, digits of the training"] = interval(seen)
    print(f"{'ELBO of digits it was trained on':34} {interval(seen)}")
    if options.cards:
        path = weights_path(NAME).with_suffix(".json")
        text = json.dumps(MODEL_CARDS[NAME] | {"quality": measured}, indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
