"""Networks: plain convolutional modules that take and return (B, C, H, W) tensors."""

from .regression import RegressionNetwork
from .unet import UNet

__all__ = ["RegressionNetwork", "UNet"]
