"""Digits: the diffusion model that says how probable a digit is."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..likelihood import dequantise, uniform
from ..noise import standard_normal
from ..pretrained import digit_network
from ..schedules import vp_cosine
from .base import Recipe, step_generator, velocity_loss

DIGIT_LOG_SNR = (-8.0, 12.0)  # of its training: from almost pure noise to noise of a 47th of a grey level


@lru_cache(maxsize=1)
def split_digits() -> tuple[Tensor, Tensor]:
    """(1437, 1, 8, 8) digits to train on and (360, 1, 8, 8) held out, in [0, 1]: every fifth, from the first on.

    The scans come in runs by the same writers, so both parts hold the same hands.
    """
    from ..data import digits

    images, _ = digits()
    held_out = torch.arange(len(images)) % 5 == 0
    return images[~held_out], images[held_out]


def digit_batch(step: int, batch_size: int, seed: int) -> dict[str, Tensor]:
    """Dequantised training digits with times and noise; log_snr is uniform (stratified) over `DIGIT_LOG_SNR`.

    The weight 2 alpha^2 makes the loss of v a constant times the ELBO's integrand per unit of log_snr, SNR
    |z_0 - z_0_hat|^2 / 2: in variance-preserving schedules z_0 is off by sigma times what v is off.
    """
    generator = step_generator(seed, step)
    images, _ = split_digits()
    chosen = images[torch.randint(len(images), (batch_size,), generator=generator)]
    z_0 = dequantise(chosen, 17, uniform(standard_normal(generator)))
    u = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
    low, high = DIGIT_LOG_SNR
    log_snr = low + (high - low) * u.double()
    weight = (2 * log_snr.sigmoid()).float().view(-1, 1, 1, 1)
    noise = torch.randn(z_0.shape, generator=generator)
    return {"z_0": z_0, "t": vp_cosine().time_at(log_snr), "weight": weight, "noise": noise}


def digits_likelihood(steps: int = 6_000, batch_size: int = 128, seed: int = 0) -> Recipe:
    """Diffusion of 8 x 8 digits trained on its ELBO, so that it says how probable a digit is."""
    return Recipe(
        name="digits-likelihood",
        network=digit_network,
        batch=lambda step: digit_batch(step, batch_size, seed),
        loss=velocity_loss,
        steps=steps,
        batch_size=batch_size,
        peak_lr=2e-3,
        warmup=100,
        ema_halflife=300.0,
        weight_decay=0.1,
        precision="no",
        seed=seed,
        data="1,437 of the 1,797 digits of tutorial_lib.data.digits, dequantised; every fifth, from the first on, held out",
        description=f"v-prediction weighted as the ELBO (maximum likelihood), {batch_size} digits a step, log-SNR uniform",
    )
