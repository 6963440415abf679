"""One network for every scale: an implicit function is asked for the condition at any place (IDM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_images, check_positive
from .unet import UNet

FOLD = 2  # the state is folded by this, whatever the scale


def query_grid(
    lr_size: tuple[int, int], size: tuple[int, int], step: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Where the centres of `size` = (n, m) cells, each `step` LR pixels high and wide, lie on the LR grid of `lr_size`.

    Returns (grid (1, n, m, 2) in [-1, 1] as (x, y), for grid_sample with align_corners=False; offset (1, 2, n, m): how far, as
    (y, x) in LR pixels, the centre lies from the centre of the LR pixel it falls into, within [-0.5, 0.5] inside the image).
    """
    places, offsets = [], []
    for n, count in zip(size, lr_size, strict=True):
        place = (torch.arange(n, dtype=torch.float32, device=device) + 0.5) * step  # LR pixels, edges at 0 and count
        offsets.append(place - place.floor().clamp(max=count - 1) - 0.5)
        places.append(2 * place / count - 1)
    y, x = torch.meshgrid(*places, indexing="ij")
    offset = torch.stack(torch.meshgrid(*offsets, indexing="ij"))
    return torch.stack([x, y], -1)[None], offset[None]


class ContinuousNetwork(nn.Module):
    """forward(u, level, cond): state (B, 3, H, W), (B,), (features, base, scale) -> v (B, 3, H, W), for any H and W.

    `features` (B, F, h, w) lie on the LR grid, `base` (B, 3, H, W) is the enlarged LR image in [-0.5, 0.5], and the HR pixel
    (i, j) lies at ((i + 1/2) / scale, (j + 1/2) / scale) LR pixels from the corner, as in `images.resize`. At each cell of the
    state's folded grid an implicit function, a small network of (the feature there, bilinear; the nearest feature; the
    offset from its centre; the cell's size in LR pixels) says what the denoiser is told: it can be asked at any place, so one
    set of weights serves every scale. The cell's size is 2 / scale, so the scale is told as well.

    Gao et al., arXiv 2303.16491 (IDM: such a function at every level of the U-Net's decoder, and a scale-adaptive mixture of
    LR features and generated ones); Chen et al., arXiv 2012.09161 (LIIF), for the implicit function itself.
    """

    def __init__(self, features: int = 64, told: int = 40, channels: tuple[int, ...] = (48, 96), blocks: int = 2):
        super().__init__()
        self.implicit = nn.Sequential(
            nn.Conv2d(2 * features + 3, 96, 1), nn.SiLU(), nn.Conv2d(96, 96, 1), nn.SiLU(), nn.Conv2d(96, told, 1)
        )
        cond_channels = told + 3 * FOLD**2
        self.denoiser = UNet(3, 3, cond_channels=cond_channels, channels=channels, blocks=blocks, fold=FOLD)

    def told(self, features: Tensor, hr_size: tuple[int, int], scale: float) -> Tensor:
        """What the implicit function says for every cell of an image of `hr_size` = (H, W) pixels, (B, told, H / 2, W / 2).

        It does not depend on the noise. Odd sides are rounded up: the last cell then reaches over the edge.
        """
        check_images(features, "features")
        size, step = tuple(-(-n // FOLD) for n in hr_size), FOLD / check_positive(scale, "scale")
        grid, offset = query_grid(tuple(features.shape[-2:]), size, step, features.device)
        sides = offset.new_tensor(features.shape[:1:-1])
        middle = grid - 2 * offset.flip(1).movedim(1, -1) / sides  # of the LR pixel that a cell's centre falls into

        def look(at: Tensor, mode: str) -> Tensor:
            at = at.expand(len(features), -1, -1, -1).to(features.dtype)
            return F.grid_sample(features, at, mode=mode, padding_mode="border", align_corners=False)

        smooth, near = look(grid, "bilinear"), look(middle, "nearest")
        place = torch.cat([offset, torch.full_like(offset[:, :1], step)], 1)
        place = place.to(features.dtype).expand(len(features), -1, -1, -1)
        return self.implicit(torch.cat([smooth, near, place], 1))

    def condition(self, features: Tensor, base: Tensor, scale: float) -> Tensor:
        """The denoiser's condition (B, told + 12, H / 2, W / 2), computed once per image; odd sides are padded by one."""
        told = self.told(features, tuple(base.shape[-2:]), scale)
        return torch.cat([told, F.pixel_unshuffle(padded(base), FOLD).to(told.dtype)], 1)

    def denoise(self, u: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        """v for the state u, given what `condition` returned."""
        return self.denoiser(padded(u), level, cond)[..., : u.shape[-2], : u.shape[-1]]

    def forward(self, u: Tensor, level: Tensor, cond: tuple[Tensor, Tensor, float]) -> Tensor:
        return self.denoise(u, level, self.condition(*cond))


def padded(image: Tensor) -> Tensor:
    """The image with its last row and column repeated where its height or width is odd."""
    return F.pad(image, (0, -image.shape[-1] % FOLD, 0, -image.shape[-2] % FOLD), mode="replicate")
