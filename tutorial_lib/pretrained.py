"""Shipped weights: safetensors beside a card that says how they came to be, checked by hash before they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .checks import check_one_of
from .files import sha256
from .networks.regression import RegressionNetwork
from .networks.unet import UNet

FOLDER = Path(__file__).with_name("weights")

# name -> a fresh network of the right shape
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "photo-regression-x4": RegressionNetwork,
    "photo-residual-x4": lambda: residual_network(),
    "faces-unconditional-32": lambda: face_network(),
    "faces-distilled-32": lambda: face_network(),
    "digits-likelihood": lambda: digit_network(),
}


def residual_network() -> UNet:
    """The denoising U-Net of photo-residual-x4: state 3 channels folded by 4, condition of 115 channels on the LR grid."""
    return UNet(in_channels=3, out_channels=3, cond_channels=3 + 48 + 64, channels=(64, 128, 192), blocks=2, fold=4)


def face_network() -> UNet:
    """The denoising U-Net of the 32 x 32 faces: it works on a 16 x 16 grid of 12 channels and sees the whole face."""
    return UNet(in_channels=3, out_channels=3, channels=(96, 160), blocks=2, fold=2)


def digit_network() -> UNet:
    """The denoising U-Net of the 8 x 8 digits: it works on the 8 x 8 grid and on a 4 x 4 one below."""
    return UNet(in_channels=1, out_channels=1, channels=(32, 64), blocks=2, embedding=64)


def weights_path(name: str) -> Path:
    """Where the weights of `name` lie; raises ValueError for an unknown name."""
    return FOLDER / f"{check_one_of(name, NETWORKS, 'name')}.safetensors"


def read_cards() -> dict[str, dict]:
    """The model cards beside the weights: data, recipe, steps, seconds, machine, measured quality, sha256."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


MODEL_CARDS: dict[str, dict] = read_cards()


@lru_cache(maxsize=4)
def load_pretrained(name: str) -> nn.Module:
    """The network `name` with its shipped weights, float32, in evaluation mode, channels last, without gradients.

    Raises ValueError for an unknown name, FileNotFoundError when the file is not there, and RuntimeError when its SHA-256 is
    not the card's (a download cut short, a file changed by hand). The network is cached: treat it as read-only.
    """
    path = weights_path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"the weights of {name!r} are missing at {path}; rebuild them: python -m tutorial_lib train {name}"
        )
    expected = MODEL_CARDS[name]["sha256"]
    found = sha256(path)
    if found != expected:
        raise RuntimeError(
            f"{path.name} has SHA-256 {found[:12]}..., but its card says {expected[:12]}...; install it again"
        )
    network = NETWORKS[name]()
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
