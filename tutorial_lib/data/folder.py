"""Folders of images: yours, and the one that downloaded data sets lie in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..checks import check_one_of
from ..images import load

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"}


class Folder(Sequence):
    """The images of a folder in the order of their paths, read one at a time when asked for; `paths` are the files."""

    def __init__(self, paths: list[Path], rgb: bool):
        self.paths, self.rgb = paths, rgb

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice) -> Tensor | Folder:
        if isinstance(index, slice):
            return Folder(self.paths[index], self.rgb)
        image = load(self.paths[index])
        if not self.rgb:
            return image
        colour = image[:, :3] if image.shape[1] >= 3 else image[:, :1]  # drop alpha
        return colour.expand(-1, 3, -1, -1).contiguous()


def folder(path: str | Path, rgb: bool = True, recursive: bool = False) -> Folder:
    """The images in a folder, lazily: a sequence whose items are (1, 3, H, W) in [0, 1], float32; `.paths` names them.

    Sorted by path; PNG, JPEG, TIFF, WebP and BMP; hidden files are left out. Grey images are repeated over three
    channels and alpha is dropped, unless `rgb=False` keeps the file's channels. `recursive=True` enters subfolders.
    Raises FileNotFoundError or NotADirectoryError for a bad path and ValueError for a folder without images; a damaged
    image raises when it is asked for.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, but a folder of images was expected")
    found = path.rglob("*") if recursive else path.iterdir()
    paths = sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file())
    if not paths:
        raise ValueError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
    return Folder(paths, rgb)


def data_folder() -> Path:
    """Where data sets lie: the environment variable TUTORIAL_LIB_DATA; without it `../shared/data` beside the project
    where that exists (development); without that `~/.cache/tutorial_lib`. The folder need not exist yet."""
    if os.environ.get("TUTORIAL_LIB_DATA"):
        return Path(os.environ["TUTORIAL_LIB_DATA"]).expanduser()
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return beside if beside.is_dir() else Path.home() / ".cache" / "tutorial_lib"


def require_folder(name: str) -> Path:
    """The folder of the data set `name` when all its files are there; otherwise FileNotFoundError says how to get it.

    Only names are looked at, which is quick; `verify(name)` compares every pixel.
    """
    from .download import manifest

    wanted = manifest()[check_one_of(name, manifest(), "name")]
    path = data_folder() / name
    missing = [file for file in wanted if not (path / file).is_file()]
    if missing:
        what = (
            f"{name} is not in {path.parent}" if len(missing) == len(wanted) else f"{path} lacks {len(missing)} images"
        )
        raise FileNotFoundError(
            f"{what}; fetch it with: python -m tutorial_lib data {name} (TUTORIAL_LIB_DATA names the folder)"
        )
    return path
