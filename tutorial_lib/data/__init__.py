"""Images to learn from and to be judged on: built in, generated, from a folder, or downloaded once and checked."""

from __future__ import annotations

from .digits import digits
from .download import DATASETS, download, verify
from .faces import Faces, faces
from .folder import data_folder, folder, require_folder
from .leaves import leaves
from .photos import photos

__all__ = [
    "DATASETS",
    "Faces",
    "data_folder",
    "digits",
    "download",
    "faces",
    "folder",
    "leaves",
    "photos",
    "require_folder",
    "verify",
]
