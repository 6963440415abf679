"""Data sets from the network: resumable downloads, archives checked before they are unpacked, pixels checked after.

What counts as right is `manifest.json`: the SHA-256 of the decoded pixels of every image that the shipped weights were
trained and judged on. Any source, and any folder filled by hand, that gives those pixels is as good as another.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ..checks import check_one_of
from .folder import data_folder

DATASETS = {
    "Set5": "5 test photos (Bevilacqua et al. 2012)",
    "Set14": "14 test photos (Zeyde et al. 2010)",
    "BSD100": "100 test photos, the validation part of BSDS500 (Martin et al. 2001)",
    "bsds500": "400 training photos, BSDS500's train and test parts (Arbelaez et al. 2011; for research and teaching)",
}
# None of these addresses could be tried from the machine that built this package: the hashes decide. The test sets are
# the originals for scale 4 of Huang et al. 2015 (sides are multiples of 4), one file at a time.
TEST_SETS = "https://raw.githubusercontent.com/jbhuang0604/SelfExSR/master/data/{name}/image_SRF_4/{stem}_SRF_4_HR.png"
BSDS500 = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz"
# The entries of an archive that hold images, and the name that each gets: its groups, joined.
TEST_ENTRY = re.compile(r"(?:^|/)(img_\d{3})(?:_SRF_4_HR)?(\.png)$")
BSDS500_ENTRY = re.compile(r"(?:^|/)(train/|test/)(\d+\.jpg)$")

MAX_DOWNLOAD = 2**30  # bytes
MAX_FILE = 2**26
MAX_UNPACKED = 2**29
MAX_ENTRIES = 100_000


@lru_cache(maxsize=1)
def manifest() -> dict[str, dict[str, str]]:
    """Data set -> file -> SHA-256 of its pixels (see `pixel_sha256`)."""
    return json.loads(Path(__file__).with_name("manifest.json").read_text())


def pixel_sha256(path: str | Path) -> str:
    """SHA-256 of "WIDTHxHEIGHT:" and the image's 8-bit RGB values row by row (grey repeated): the file format is free.

    JPEG pixels are those of libjpeg's exact integer decoder, which Pillow uses on every platform.
    """
    from PIL import Image

    with Image.open(path) as image:
        pixels = image.convert("RGB")
    return hashlib.sha256(f"{pixels.width}x{pixels.height}:".encode() + pixels.tobytes()).hexdigest()


def verify(name: str, root: str | Path | None = None) -> list[str]:
    """What is wrong with the data set in `root`/`name`, one line per file; empty when every pixel is right."""
    check_one_of(name, DATASETS, "name")
    folder = (data_folder() if root is None else Path(root)) / name
    return [
        f"{folder / file} {flaw}" for file, digest in manifest()[name].items() if (flaw := _flaw(folder / file, digest))
    ]


def download(
    name: str, root: str | Path | None = None, source: str | Path | None = None, progress: bool = False
) -> Path:
    """Fetch the data set `name` into `root`/`name` (default: `data_folder()`) and return that folder.

    Files that are there and right are kept, so a second call only verifies; a broken download goes on where it
    stopped. `source` is another address or a file on your disk: a zip or tar archive of the set. Images appear
    in the folder only when all that were missing have arrived and their pixels match `manifest.json`.

    Raises ValueError for an unknown name, a refused archive or wrong pixels (nothing of these is kept), and
    ConnectionError when the network fails, with what to do instead.
    """
    check_one_of(name, DATASETS, "name")
    root = data_folder() if root is None else Path(root)
    target, wanted = root / name, manifest()[name]
    missing = {file: digest for file, digest in wanted.items() if _flaw(target / file, digest)}
    if not missing:
        return target
    staging = root / f".{name}-download"  # kept after a network failure, for the next call to go on
    new = staging / "images"
    try:
        new.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"{root} cannot be written ({error.strerror}); set TUTORIAL_LIB_DATA to a folder of yours"
        ) from None
    try:
        if source is None and name != "bsds500":
            for file in _bar(missing, progress, name, total=len(missing)):
                if _flaw(new / file, missing[file]):
                    fetch(TEST_SETS.format(name=name, stem=Path(file).stem), new / file)
                    if _flaw(new / file, missing[file]):
                        raise ValueError(
                            f"{file} of {name} is not the image that the manifest names; nothing of it was kept"
                        )
        else:
            archive = _archive(BSDS500 if source is None else source, staging, progress)
            unpack(archive, BSDS500_ENTRY if name == "bsds500" else TEST_ENTRY, set(missing), new)
            wrong = [file for file, digest in missing.items() if _flaw(new / file, digest)]
            if wrong:
                raise ValueError(
                    f"{archive.name}: {len(wrong)} of {len(missing)} images of {name} are missing or not the published"
                )
    except ValueError:
        shutil.rmtree(staging)
        raise
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; call again to go on, or put the {len(wanted)} images into {target} by hand"
        ) from None
    for file in missing:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / file, target / file)
    shutil.rmtree(staging)
    return target


def fetch(url: str, path: Path, progress: bool = False, limit: int = MAX_DOWNLOAD) -> None:
    """Download `url` to `path`, which appears only when whole; `path` + ".part" holds a broken download, which goes on.

    Raises ConnectionError, in one line, when the network fails or the server ends early, and ValueError beyond `limit`
    bytes.
    """
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "tutorial_lib", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if start and not resumed:
                start = 0  # the server sends the whole file again
            length = answer.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            with open(part, "ab" if start else "wb") as file, _bar(None, progress, path.name, "B", start, total) as bar:
                while chunk := answer.read(2**16):
                    start += len(chunk)
                    if max(start, total or 0) > limit:
                        raise ValueError(f"{url} holds more than the {limit} bytes expected")
                    file.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what lies here is no beginning of what the server has
            part.unlink()
            return fetch(url, path, progress, limit)
        raise ConnectionError(f"{url} answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url} could not be fetched ({getattr(error, 'reason', error)})") from None
    if total is not None and start < total:
        raise ConnectionError(f"{url} ended after {start} of {total} bytes")
    os.replace(part, path)


def unpack(archive: Path, entry: re.Pattern, wanted: set[str], folder: Path) -> None:
    """Write the `wanted` images of a zip or tar archive into `folder`, after checking the whole table of contents.

    An entry belongs to the image whose name is the groups of `entry` joined. ValueError is raised, and nothing
    unpacked, when any entry points outside (absolute, "..", a drive), when an image is a link, a device or comes twice,
    or when sizes or counts exceed the limits. Other entries are never touched, and no entry's own path is ever used.
    """
    try:
        with closing(zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)) as opened:
            if isinstance(opened, zipfile.ZipFile):
                entries = [
                    (e.filename, e.file_size, _is_plain_zip(e), lambda e=e: opened.open(e)) for e in opened.infolist()
                ]
            else:
                entries = [(e.name, e.size, e.isreg(), lambda e=e: opened.extractfile(e)) for e in opened.getmembers()]
            chosen = _check_entries(archive.name, entries, entry, wanted)
            for file, (size, read) in chosen.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                with read() as stream:
                    data = stream.read(size + 1)
                if len(data) != size:
                    raise ValueError(f"{archive.name}: {file} is not as long as the archive says")
                (folder / file).write_bytes(data)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"{archive.name} is not a whole zip or tar archive") from error


def _check_entries(
    archive: str, entries: list[tuple[str, int, bool, Callable[[], BinaryIO]]], entry: re.Pattern, wanted: set[str]
) -> dict[str, tuple[int, Callable[[], BinaryIO]]]:
    """The entries to unpack, as image -> (size, opener), from (path, size, is a plain file, opener)."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{archive} was refused: it has {len(entries)} entries, more than {MAX_ENTRIES}")
    chosen = {}
    for path, size, plain, read in entries:
        if path.startswith("/") or "\\" in path or re.match(r"[A-Za-z]:", path) or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{archive} was refused: its entry {path!r} points outside the archive's folder")
        found = entry.search(path)
        file = "".join(found.groups()) if found else None
        if file not in wanted:
            continue
        if not plain:
            raise ValueError(f"{archive} was refused: its entry {path!r} is a link or a device, not a plain file")
        if file in chosen:
            raise ValueError(f"{archive} was refused: it holds {file} twice")
        if size > MAX_FILE or size + sum(s for s, _ in chosen.values()) > MAX_UNPACKED:
            raise ValueError(
                f"{archive} was refused: {path!r} makes it too large ({MAX_FILE} bytes, {MAX_UNPACKED} in all)"
            )
        chosen[file] = (size, read)
    return chosen


def _is_plain_zip(entry: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    return not entry.is_dir() and kind in (0, stat.S_IFREG)


def _archive(source: str | Path, staging: Path, progress: bool) -> Path:
    """The archive on this disk: `source` itself when it is a file, or downloaded into `staging`."""
    if not str(source).startswith(("http://", "https://")):
        if not Path(source).is_file():
            raise ValueError(f"source must be an http address or an archive on this disk, but {str(source)!r} came")
        return Path(source)
    path = staging / (hashlib.sha256(str(source).encode()).hexdigest()[:16] + ".archive")
    if not path.exists():
        fetch(str(source), path, progress)
    return path


def _flaw(path: Path, digest: str) -> str | None:
    """What is wrong with one image, or None."""
    if not path.is_file():
        return "is missing"
    try:
        return None if pixel_sha256(path) == digest else "is not the published image: its pixels differ"
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and more on damaged files
        return f"cannot be read as an image ({' '.join(str(error).split())})"


def _bar(
    files: dict[str, str] | None,
    progress: bool,
    name: str,
    unit: str = "image",
    start: int = 0,
    total: int | None = None,
):
    """A tqdm bar over files, or over bytes when `files` is None."""
    from tqdm.auto import tqdm

    return tqdm(files, desc=name, unit=unit, unit_scale=unit == "B", initial=start, total=total, disable=not progress)
