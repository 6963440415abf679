"""Networks: plain convolutional modules that take and return (B, C, H, W) tensors."""

from .autoencoder import KLAutoencoder, VQAutoencoder
from .autoregressive import PixelModel
from .classifier import FaceClassifier
from .conditioning import AdaptedUNet, ConditionedUNet, Modulator
from .flow import ConditionalFlow
from .gan import Discriminator, adversarial_losses
from .implicit import ContinuousNetwork
from .regression import RegressionNetwork
from .rrdb import RRDBEncoder
from .sr3 import LocalSpread, SR3Network
from .unet import UNet
from .vae import ConditionalVAE

__all__ = [
    "AdaptedUNet",
    "ConditionalFlow",
    "ConditionalVAE",
    "ConditionedUNet",
    "ContinuousNetwork",
    "Discriminator",
    "FaceClassifier",
    "KLAutoencoder",
    "LocalSpread",
    "Modulator",
    "PixelModel",
    "RRDBEncoder",
    "RegressionNetwork",
    "SR3Network",
    "UNet",
    "VQAutoencoder",
    "adversarial_losses",
]
