"""One clear sentence for every bad input: which argument, what came, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch
from torch import Tensor


def check_images(images: Tensor, argument: str = "images", channels: int | None = None, multiple_of: int = 1) -> Tensor:
    """Return `images` when it is a finite float tensor (B, C, H, W); otherwise raise TypeError or ValueError.

    `channels` fixes C; `multiple_of` asks that H and W be multiples of a scale.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{argument} must be a torch tensor (B, C, H, W), but a {type(images).__name__} came")
    if images.ndim != 4:
        raise ValueError(f"{argument} must have shape (B, C, H, W), but its shape is {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(
            f"{argument} must be floating point in [0, 1], but its dtype is {images.dtype}; divide by 255 first"
        )
    if 0 in images.shape:
        raise ValueError(f"{argument} must not be empty, but its shape is {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise ValueError(f"{argument} must have {channels} channels, but its shape is {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if height % multiple_of or width % multiple_of:
        raise ValueError(
            f"{argument} must have a height and width that are multiples of {multiple_of}, but it is {height}x{width};"
            f" crop_to_multiple({argument}, {multiple_of}) cuts the rest off"
        )
    if not torch.isfinite(images).all():
        raise ValueError(f"{argument} holds NaN or infinite values")
    return images


def check_same_shape(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Raise ValueError unless both tensors have the same shape."""
    if first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"{names[0]} and {names[1]} must have the same shape, but they are {shapes}")


def check_one_of(value: str, allowed: Iterable[str], argument: str) -> str:
    """Return `value` when it is allowed; otherwise raise ValueError with the nearest allowed name."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, but {value!r} came{hint}")


def check_positive(value: float, argument: str) -> float:
    """Return `value` when it is a positive finite number; otherwise raise ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{argument} must be a positive number, but {value!r} came")
    return value


def check_whole(value: int, argument: str, low: int = 1) -> int:
    """Return `value` when it is a whole number of at least `low`; otherwise raise ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{argument} must be a whole number of at least {low}, but {value!r} came")
    return value


def missing_package(package: str, command: str, purpose: str) -> ModuleNotFoundError:
    """The error for an optional package that is not installed, with the command that adds it."""
    return ModuleNotFoundError(
        f"{purpose} needs the package {package!r}, which is not installed; add it with: {command}"
    )
