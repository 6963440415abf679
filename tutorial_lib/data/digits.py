"""Handwritten digits: the 8 x 8 scans that come with scikit-learn."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def _load() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    scans = load_digits()
    return torch.from_numpy(scans.images).float()[:, None] / 16, torch.from_numpy(scans.target).long()


def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 digits: images (1797, 1, 8, 8) in [0, 1], white on black, float32, and labels (1797,) from 0 to 9.

    Each pixel counts the ink in a 4 x 4 block of a 32 x 32 scan, so its value is one of the 17 levels k/16. From the test
    part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, doi:10.24432/C50P49,
    CC BY 4.0), shipped with scikit-learn.
    """
    images, labels = _load()
    return images.clone(), labels.clone()
