"""The photos that come with scikit-image and scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ..images import PHOTOS, photo


def photos(names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Built-in photos by name, (1, 3, H, W) in [0, 1]; all of PHOTOS (it holds the credits) unless `names` chooses.

    Raises ValueError for a name that is not in PHOTOS. `photo(name)` reads a single one.
    """
    if isinstance(names, str):
        raise TypeError(
            f"names must be a list of names, but the string {names!r} came; photo({names!r}) reads one photo"
        )
    return {name: photo(name) for name in (PHOTOS if names is None else names)}
