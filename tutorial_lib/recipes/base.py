"""What a recipe is, and what several of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ..denoisers import NetworkDenoiser
from ..schedules import vp_cosine
from ..steps import forward_step


@dataclass(frozen=True)
class Recipe:
    """What `training.fit` needs.

    network() makes a fresh network; batch(step) a dictionary of tensors (B, ...) that depends on `seed` and the step alone;
    loss(network, batch) one value per sample, (B,); shipped(network) the part whose weights are shipped, in `bits` (8 or 16).
    """

    name: str
    network: Callable[[], nn.Module]
    batch: Callable[[int], dict[str, Tensor]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    steps: int
    batch_size: int
    peak_lr: float
    warmup: int = 200
    ema_halflife: float = 700.0
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    precision: str = "bf16"
    seed: int = 0
    shipped: Callable[[nn.Module], nn.Module] = lambda network: network
    bits: int = 16
    data: str = ""
    description: str = ""


@dataclass(frozen=True)
class DirectRecipe:
    """What `training.solve` needs: weights that are computed in one go, without gradient steps.

    solve() returns the finished network; the same machine gives the same bits each time.
    """

    name: str
    solve: Callable[[], nn.Module]
    bits: int = 16
    data: str = ""
    description: str = ""


def step_generator(seed: int, step: int) -> Generator:
    """The random stream of one training step: the same for every process and every resumed run."""
    return Generator().manual_seed(seed * 1_000_003 + step)


def random_times(batch_size: int, generator: Generator) -> Tensor:
    """Times (batch_size,) in [0, 1): stratified, and more often in the middle.

    Sample i draws u in [i, i + 1) / batch_size, which makes the loss less noisy, and takes t = u + sin(2 pi u) / (4 pi):
    three times as often the middle, where structure is decided, as the ends, where little can be learned.
    """
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    return u + (2 * math.pi * u).sin() / (4 * math.pi)


def velocity_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """E |v - v_hat|^2 with v = alpha eps - sigma z_0 on the cosine path, times the batch's "weight" if it has one.

    Salimans and Ho, arXiv 2202.00512. The residual's weight is its spread (mean about 1): it depends on the condition and
    the place alone, so the minimiser is still the conditional mean; it spends the network's effort where errors can be seen
    instead of on the rounding noise of walls.
    """
    denoiser = NetworkDenoiser(network, "v", vp_cosine())
    t = batch["t"].double()
    z = forward_step(batch["z_0"], denoiser.schedule, 0.0, t, lambda like: batch["noise"])
    answer = network(*denoiser.inputs(z, t), batch.get("cond")).float()
    error = (answer - denoiser.target(batch["z_0"], batch["noise"], t)) ** 2
    return (error * batch.get("weight", 1)).mean((1, 2, 3))
