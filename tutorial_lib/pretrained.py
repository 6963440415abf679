"""Shipped weights: safetensors beside a card that says how they came to be, checked by hash before they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .checks import check_one_of
from .compact import expand
from .files import sha256
from .images import resize
from .networks.autoencoder import KLAutoencoder, VQAutoencoder
from .networks.classifier import FaceClassifier
from .networks.conditioning import ConditionedUNet, Modulator
from .networks.flow import ConditionalFlow
from .networks.implicit import ContinuousNetwork
from .networks.regression import RegressionNetwork
from .networks.sr3 import LocalSpread, SR3Network
from .networks.unet import UNet
from .networks.vae import ConditionalVAE
from .sparse import CoupledDictionary

FOLDER = Path(__file__).with_name("weights")

# name -> a fresh network of the right shape
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "photo-regression-x4": RegressionNetwork,
    "photo-residual-x4": lambda: residual_network(),
    "faces-unconditional-32": lambda: face_network(),
    "faces-distilled-32": lambda: face_network(),
    "faces-unconditional-64": lambda: large_face_network(),
    "photo-unconditional": lambda: photo_prior(),
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
    "photo-srdiff-x4": lambda: srdiff_network(),
    "photo-wavelet-x4": lambda: wavelet_network(),
    "photo-autoencoder-x4": lambda: photo_autoencoder(),
    "photo-latent-x4": lambda: latent_network(),
    "photo-cold-x4": lambda: cold_network(),
    "photo-continuous": lambda: continuous_network(),
    "faces-conditions-x4": ConditionedUNet,
    "faces-vae-x4": lambda: face_vae(),
    "faces-adapter-x4": lambda: face_adapter(),
    "faces-classifier-32": FaceClassifier,
    "faces-kl-32": lambda: KLAutoencoder(std=0.1),
    "faces-vq-32": lambda: VQAutoencoder(std=0.1),
}
SPREADS = {"photo-sr3-x4": 0.12, "photo-sr3-x2": 0.085, "faces-sr3-x4": 0.155}  # rms of hr - bicubic, state units
LOCAL_SPREADS = {
    "photo-sr3-x4": LocalSpread(floor=0.01, gain=1.7, most=0.25, window=13),
    "photo-sr3-x2": LocalSpread(floor=0.007, gain=1.3, most=0.2, window=5),
    "faces-sr3-x4": LocalSpread(floor=0.01, gain=1.2, most=0.3, window=13),
}
# about the sizes of photos' bands and latents: benchmarks/domains.py --units prints those of 40 photos (bands within 16 %)
WAVELET_SCALES = {"LL": 0.66, "H2": 1.5, "V2": 1.45, "D2": 1.1, "H1": 0.9, "V1": 0.88, "D1": 0.54}
LATENT_SCALE = 0.99
COLD_GROUPS = (12, 36)  # channels of photo-cold-x4 that fade together: LL, H2, V2, D2, and before them H1, V1, D1
COLD_NOISE = 0.2  # standard deviation of what is left of the state at t = 1


def bicubic_spread(lr: Tensor) -> Tensor:
    """How far a photo lies from its bicubic enlargement by 4 at each pixel, (B, 1, 4 h, 4 w), in image units: SRDiff's unit."""
    return LOCAL_SPREADS["photo-sr3-x4"](2 * resize(lr, 4) - 1) / 2


def continuous_spread(base: Tensor, scale: float) -> Tensor:
    """How far a photo lies from its enlargement `base` (B, 3, H, W) in [0, 1] at each pixel, at scales from 2 to 4, (B, 1, H, W).

    The numbers run between those of photo-sr3-x2 and photo-sr3-x4; image units.
    """
    more = (scale - 2) / 2
    local = LocalSpread(floor=0.007 + 0.003 * more, gain=1.3 + 0.4 * more, most=0.2 + 0.05 * more, window=9)
    return local(2 * base - 1) / 2


def sparse_dictionary() -> CoupledDictionary:
    """The dictionary of photo-sparse-x4: windows of 3 x 3 LR pixels, codes of three atoms."""
    return CoupledDictionary(scale=4, window=3, atoms=1024, features=32, nonzeros=3)


def residual_network() -> UNet:
    """The denoising U-Net of photo-residual-x4: state 3 channels folded by 4, condition of 115 channels on the LR grid."""
    return UNet(in_channels=3, out_channels=3, cond_channels=3 + 48 + 64, channels=(64, 128, 192), blocks=2, fold=4)


def face_network() -> UNet:
    """The denoising U-Net of the 32 x 32 faces: it works on a 16 x 16 grid of 12 channels and sees the whole face."""
    return UNet(in_channels=3, out_channels=3, channels=(96, 160), blocks=2, fold=2)


def large_face_network() -> UNet:
    """The denoising U-Net of the 64 x 64 faces: it works on a 16 x 16 grid of 48 channels and sees the whole face."""
    return UNet(in_channels=3, out_channels=3, channels=(80, 128), blocks=2, fold=4)


def photo_prior() -> UNet:
    """The denoising U-Net of photos without an LR image, any size in multiples of 8: it works on a grid four times coarser."""
    return UNet(in_channels=3, out_channels=3, channels=(96, 160), blocks=2, fold=4)


def digit_network() -> UNet:
    """The denoising U-Net of the 8 x 8 digits: it works on the 8 x 8 grid and on a 4 x 4 one below."""
    return UNet(in_channels=1, out_channels=1, channels=(32, 64), blocks=2, embedding=64)


def sr3_network() -> SR3Network:
    """SR3 for photos at scale 4: it works on the LR grid."""
    return SR3Network(LOCAL_SPREADS["photo-sr3-x4"], channels=(80, 128), blocks=2, fold=4)


def cascade_network() -> SR3Network:
    """SR3 for photos at scale 2, told how noisy its LR image is."""
    return SR3Network(LOCAL_SPREADS["photo-sr3-x2"], channels=(64, 128), blocks=2, fold=2, augmented=True)


def srdiff_network() -> UNet:
    """SRDiff's denoiser: the residual to bicubic, told the enlarged LR image (48) and the regression's features (64)."""
    return UNet(in_channels=3, out_channels=3, cond_channels=48 + 64, channels=(64, 128), blocks=2, fold=4)


def wavelet_network() -> UNet:
    """The denoiser of photo-wavelet-x4: 48 band channels on the LR grid, told the 115 channels of the regression."""
    return UNet(in_channels=48, out_channels=48, cond_channels=3 + 48 + 64, channels=(64, 128), blocks=2)


def cold_network() -> UNet:
    """The network of photo-cold-x4: 48 band channels on the LR grid, told the 115 channels of the regression."""
    return UNet(in_channels=48, out_channels=48, cond_channels=3 + 48 + 64, channels=(56, 96), blocks=2)


def photo_autoencoder() -> KLAutoencoder:
    """The regression's residual (3, 4 h, 4 w), told its 115 channels, as 32 numbers for every 2 x 2 LR pixels (192 values)."""
    return KLAutoencoder(3, 32, fold=4, levels=1, hidden=(48, 80), blocks=2, cond_channels=3 + 48 + 64, std=0.2)


def latent_network() -> UNet:
    """The denoiser of photo-latent-x4: 32 channels on half the LR grid, told the regression's 115 channels folded by 2."""
    return UNet(in_channels=32, out_channels=32, cond_channels=4 * (3 + 48 + 64), channels=(80, 112), blocks=2)


def continuous_network() -> ContinuousNetwork:
    """IDM in small: one network for every scale from 2 to 4, told the features of the regression."""
    return ContinuousNetwork(features=64, told=40, channels=(48, 96), blocks=2)


def face_vae() -> ConditionalVAE:
    """The VAE of DiffuseVAE's reference: faces folded to 8 x 8 x 48, two latent numbers a place, told the regression."""
    return ConditionalVAE(channels=48, cond_channels=3 + 48 + 64, latent=2, hidden=48)


def face_adapter() -> Modulator:
    """The adapter that steers the frozen faces-unconditional-32."""
    return Modulator((96, 160), fold=2, width=48)


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
    with torch.inference_mode(False):  # what is cached must also serve a caller who differentiates it
        network = NETWORKS[name]()
        network.load_state_dict(expand(load_file(path)))
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
