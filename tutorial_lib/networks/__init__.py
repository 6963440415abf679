"""Networks: plain convolutional modules that take and return (B, C, H, W) tensors."""

from .autoregressive import PixelModel
from .flow import ConditionalFlow
from .gan import Discriminator, adversarial_losses
from .regression import RegressionNetwork
from .sr3 import LocalSpread, SR3Network
from .unet import UNet
from .vae import ConditionalVAE

__all__ = [
    "ConditionalFlow",
    "ConditionalVAE",
    "Discriminator",
    "LocalSpread",
    "PixelModel",
    "RegressionNetwork",
    "SR3Network",
    "UNet",
    "adversarial_losses",
]
