"""The traditional baseline: coupled dictionaries for photos at scale 4."""

from __future__ import annotations

from ..pretrained import sparse_dictionary
from ..sparse import CoupledDictionary, coded_planes, learn_dictionary
from . import photos
from .base import DirectRecipe

PATCHES = 500  # windows of each photo


def photo_dictionary(seed: int = 0) -> CoupledDictionary:
    """Learn the dictionary from the luma of the training photos: what is coded of them, and a third of their memory."""
    pairs = [tuple(coded_planes(p[None].float() / 255) for p in pair) for pair in photos.training_pairs(4)]
    shape = sparse_dictionary()
    return learn_dictionary(
        pairs,
        scale=shape.scale,
        window=shape.window,
        atoms=len(shape.low),
        features=len(shape.analysis),
        nonzeros=shape.nonzeros,
        patches=PATCHES,
        seed=seed,
    )


def photo_sparse_x4(seed: int = 0) -> DirectRecipe:
    """Sparse codes of LR windows, and the HR details that go with them by least squares."""
    return DirectRecipe(
        name="photo-sparse-x4",
        solve=lambda: photo_dictionary(seed),
        data=photos.PHOTO_DATA,
        description=f"coupled dictionaries from {PATCHES} windows of each photo's luma, one pass of online learning",
    )
