"""State domains: how an image becomes the state that diffuses, and comes back.

A domain has `encode(hr, lr) -> z_0` and `decode(z_0, lr) -> image`; images are (B, C, H, W) in [0, 1]. decode undoes encode
exactly (to rounding). Nothing is clipped: a residual or a wavelet band has no reason to stay in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .checks import check_images, check_same_shape


@dataclass(frozen=True)
class Pixel:
    """The image itself, from [0, 1] to [-1, 1]: z_0 = 2 y - 1. Ho et al., arXiv 2006.11239."""

    def encode(self, hr: Tensor, lr: Tensor | None = None) -> Tensor:
        return 2 * check_images(hr, "hr") - 1

    def decode(self, z_0: Tensor, lr: Tensor | None = None) -> Tensor:
        return (check_images(z_0, "z_0") + 1) / 2


@dataclass(frozen=True)
class Residual:
    """What a predictor leaves, in units of how unsure it is: z_0 = (y - predictor(lr)) / spread(lr).

    `predictor(lr)` gives an image of y's shape, in image units (bicubic: SRDiff, arXiv 2104.14951; a network: Whang et al.,
    arXiv 2112.02475). `spread(lr)` gives a positive tensor that broadcasts against y, or is a number. Spread close to the
    local standard deviation of the error makes states of unit variance everywhere. SRDiff's code multiplies the residual by
    2 and clips it to [-1, 1], which loses every residual beyond half the range; nothing is clipped here.
    """

    predictor: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor] | float = 1.0

    def scale(self, lr: Tensor) -> Tensor | float:
        return self.spread(lr) if callable(self.spread) else self.spread

    def encode(self, hr: Tensor, lr: Tensor) -> Tensor:
        mean = self.predictor(check_images(lr, "lr"))
        check_same_shape(check_images(hr, "hr"), mean, ("hr", "predictor(lr)"))
        return (hr - mean) / self.scale(lr)

    def decode(self, z_0: Tensor, lr: Tensor) -> Tensor:
        mean = self.predictor(check_images(lr, "lr"))
        check_same_shape(check_images(z_0, "z_0"), mean, ("z_0", "predictor(lr)"))
        return mean + z_0 * self.scale(lr)
