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
from .networks.flow import ConditionalFlow
from .networks.regression import RegressionNetwork
from .networks.sr3 import LocalSpread, SR3Network
from .networks.unet import UNet
from .sparse import CoupledDictionary

FOLDER = Path(__file__).with_name("weights")

# name -> a fresh network of the right shape
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "photo-regression-x4": RegressionNetwork,
    "photo-residual-x4": lambda: residual_network(),
    "faces-unconditional-32": lambda: face_network(),
    "faces-distilled-32": lambda: face_network(),
    "digits-likelihood": lambda: digit_network(),
    "photo-sparse-x4": lambda: sparse_dictionary(),
    "photo-gan-x4": RegressionNetwork,
    "photo-flow-x4": lambda: flow_network(),
    "photo-sr3-x4": lambda: sr3_network(),
    "photo-sr3-x2": lambda: cascade_network(),
    "faces-regression-x4": lambda: face_regression_network(),
    "faces-gan-x4": lambda: face_regression_network(),
    "faces-flow-x4": lambda: face_flow_network(),
    "faces-sr3-x4": lambda: face_sr3_network(),
}
SPREADS = {"photo-sr3-x4": 0.12, "photo-sr3-x2": 0.085, "faces-sr3-x4": 0.155}  # rms of hr - bicubic, state units
LOCAL_SPREADS = {
    "photo-sr3-x4": LocalSpread(floor=0.01, gain=1.7, most=0.25, window=13),
    "photo-sr3-x2": LocalSpread(floor=0.007, gain=1.3, most=0.2, window=5),
    "faces-sr3-x4": LocalSpread(floor=0.01, gain=1.2, most=0.3, window=13),
}


def sparse_dictionary() -> CoupledDictionary:
    """The dictionary of photo-sparse-x4: windows of 3 x 3 LR pixels, codes of three atoms."""
    return CoupledDictionary(scale=4, window=3, atoms=1024, features=32, nonzeros=3)


def residual_network() -> UNet:
    """The denoising U-Net of photo-residual-x4: state 3 channels folded by 4, condition of 115 channels on the LR grid."""
    return UNet(in_channels=3, out_channels=3, cond_channels=3 + 48 + 64, channels=(64, 128, 192), blocks=2, fold=4)


def face_network() -> UNet:
    """The denoising U-Net of the 32 x 32 faces: it works on a 16 x 16 grid of 12 channels and sees the whole face."""
    return UNet(in_channels=3, out_channels=3, channels=(96, 160), blocks=2, fold=2)


def digit_network() -> UNet:
    """The denoising U-Net of the 8 x 8 digits: it works on the 8 x 8 grid and on a 4 x 4 one below."""
    return UNet(in_channels=1, out_channels=1, channels=(32, 64), blocks=2, embedding=64)


def sr3_network() -> SR3Network:
    """SR3 for photos at scale 4: it works on the LR grid."""
    return SR3Network(LOCAL_SPREADS["photo-sr3-x4"], channels=(80, 128), blocks=2, fold=4)


def cascade_network() -> SR3Network:
    """SR3 for photos at scale 2, told how noisy its LR image is."""
    return SR3Network(LOCAL_SPREADS["photo-sr3-x2"], channels=(64, 128), blocks=2, fold=2, augmented=True)


def flow_network() -> ConditionalFlow:
    """The flow of photo-flow-x4: blocks of 4 x 4 pixels, told the 115 channels of `networks.regression.condition`."""
    return ConditionalFlow(channels=48, cond_channels=3 + 48 + 64, steps=12, hidden=64)


def face_regression_network() -> RegressionNetwork:
    """The regression from 8 x 8 to 32 x 32 faces."""
    return RegressionNetwork(channels=64, blocks=6)


def face_flow_network() -> ConditionalFlow:
    """The flow of faces-flow-x4."""
    return ConditionalFlow(channels=48, cond_channels=3 + 48 + 64, steps=10, hidden=64)


def face_sr3_network() -> SR3Network:
    """SR3 for faces from 8 x 8 to 32 x 32: it works on a 16 x 16 grid."""
    return SR3Network(LOCAL_SPREADS["faces-sr3-x4"], channels=(64, 96), blocks=2, fold=2)


def weights_path(name: str) -> Path:
    """Where the weights of `name` lie; raises ValueError for an unknown name."""
    return FOLDER / f"{check_one_of(name, NETWORKS, 'name')}.safetensors"


def read_cards() -> dict[str, dict]:
    """The model cards beside the weights: data, recipe, steps, seconds, machine, measured quality, sha256."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


MODEL_CARDS: dict[str, dict] = read_cards()


@lru_cache(maxsize=8)
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
