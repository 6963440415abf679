"""Images: files, ranges, colour planes and MATLAB's bicubic resize.

An image is a float32 tensor (B, C, H, W) in [0, 1], RGB when C = 3.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import metadata

import numpy as np
import torch
from torch import Tensor

from .checks import check_images, check_one_of, check_positive
from .image_files import load, save  # noqa: F401

# Photos that come with ordinary packages: name -> (package, file or function, credit).
PHOTOS = {
    "astronaut": "Eileen Collins, NASA, public domain (scikit-image)",
    "chelsea": "Chelsea the cat, Stefan van der Walt, CC0 (scikit-image)",
    "coffee": "Pikolo Espresso, Rachel Michetti, CC0 (scikit-image)",
    "rocket": "Falcon 9 launch, SpaceX, CC0 (scikit-image)",
    "hubble_deep_field": "Hubble eXtreme Deep Field, NASA and ESA, public domain (scikit-image)",
    "retina": "Fundus photograph, public domain (scikit-image)",
    "immunohistochemistry": "Human colonic glands, CMM of Norwegian University, CC0 (scikit-image)",
    "camera": "Cameraman, Lav Varshney, CC0 (scikit-image)",
    "brick": "Brick wall, CC0Textures, CC0 (scikit-image)",
    "gravel": "Gravel, CC0Textures, CC0 (scikit-image)",
    "grass": "Grass, Linda Vista Public Domain Textures, CC0 (scikit-image)",
    "coins": "Greek coins from Pompeii, Brooklyn Museum, no known restrictions (scikit-image)",
    "moon": "Surface of the Moon, NASA, public domain (scikit-image)",
    "page": "Scanned page of text (scikit-image)",
    "china": "Summer Palace, Beijing, Rob Lee, CC BY 2.0 (scikit-learn)",
    "flower": "Dahlia, dany13, CC BY 2.0 (scikit-learn)",
}


def photo(name: str) -> Tensor:
    """One built-in photo as (1, 3, H, W) in [0, 1]; grey photos are repeated over three channels.

    Raises ValueError for a name that is not in PHOTOS (which maps each name to its credit).
    """
    check_one_of(name, PHOTOS, "name")
    if name in ("china", "flower"):  # the file itself: importing scikit-learn for load_sample_image takes seconds
        return load(metadata.distribution("scikit-learn").locate_file(f"sklearn/datasets/images/{name}.jpg"))
    import skimage.data

    pixels = np.asarray(getattr(skimage.data, name)())
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    return torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1)[None].float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] to whole numbers 0..255: clip, scale, round half up (MATLAB's rule; torch.round rounds half to even)."""
    check_images(images)
    return (images.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)


def rgb_to_y(images: Tensor) -> Tensor:
    """BT.601 luma in studio range: Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255, shape (B, 1, H, W).

    Y runs from 16/255 to 235/255. This is MATLAB's rgb2ycbcr, which super-resolution papers score on; JPEG's and
    scikit-image's full-range luma (0.299, 0.587, 0.114) differ from it by a factor and an offset.
    """
    check_images(images, channels=3)
    weights = images.new_tensor([65.481, 128.553, 24.966]) / 255
    return (images * weights.view(1, 3, 1, 1)).sum(1, keepdim=True) + 16 / 255


def crop_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Cut rows from the bottom and columns from the right until H and W are multiples of `multiple`."""
    check_images(images)
    height, width = (n - n % multiple for n in images.shape[-2:])
    if not (height and width):
        raise ValueError(
            f"images are {images.shape[-2]}x{images.shape[-1]}: too small to crop to a multiple of {multiple}"
        )
    return images[..., :height, :width]


@lru_cache(maxsize=64)
def resize_matrix(size: int, factor: float) -> Tensor:
    """The (round-up(size * factor), size) float64 matrix of MATLAB's one-dimensional bicubic `imresize`.

    Row i holds the weights of Keys' cubic kernel (a = -1/2) around u = (i + 1/2) / factor - 1/2, widened by 1/factor when
    shrinking (antialiasing) and normalised to sum to 1; taps beyond the border are mirrored. Keys 1981,
    doi:10.1109/TASSP.1981.1163711. `torch.nn.functional.interpolate` agrees in the interior with antialias=True, but
    cuts the kernel off at the border; its default, antialias=False, uses a = -3/4 and aliases.
    """
    with torch.inference_mode(False):  # what is kept must also serve autograd
        return _resize_matrix(size, factor)


def _resize_matrix(size: int, factor: float) -> Tensor:
    out_size = math.ceil(size * factor - 1e-9)
    stretch = max(1.0, 1 / factor)  # kernel half-width is 2 * stretch input pixels
    centre = (torch.arange(out_size, dtype=torch.float64) + 0.5) / factor - 0.5
    taps = math.ceil(4 * stretch) + 2
    index = (centre - 2 * stretch).floor().long()[:, None] + torch.arange(taps)
    distance = ((centre[:, None] - index) / stretch).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    weights = weights / weights.sum(1, keepdim=True)
    index = index % (2 * size)
    index = torch.where(index < size, index, 2 * size - 1 - index)
    return torch.zeros(out_size, size, dtype=torch.float64).scatter_add_(1, index, weights)


def resize(images: Tensor, factor: float) -> Tensor:
    """MATLAB-compatible bicubic resize with antialiasing: (B, C, H, W) -> (B, C, round-up(H * factor), round-up(W * factor)).

    Out = R_H images R_W^T with R = resize_matrix. Results are not clipped: bicubic overshoots at edges.
    Raises ValueError when `factor` is not a positive number.
    """
    check_images(images)
    check_positive(factor, "factor")
    rows, columns = (resize_matrix(n, float(factor)).to(images) for n in images.shape[-2:])
    return rows @ images @ columns.T
