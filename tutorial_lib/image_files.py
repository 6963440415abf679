"""Reading and writing image files: PNG, JPEG, TIFF, WebP and BMP, 8 and 16 bits, grey to RGBA, upright.

Pillow reads and writes what has 8 bits. It has no mode for 16-bit colour and silently keeps the upper 8 bits, so
imagecodecs (libpng) handles 16-bit PNG and tifffile handles TIFF. `load` and `save` are re-exported by `images`.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checks import check_images
from .files import write_atomically

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
SUFFIXES_16_BIT = (".png", ".tif", ".tiff")
SUFFIXES_WITHOUT_ALPHA = (".jpg", ".jpeg", ".bmp")
MAX_PIXELS = 178_956_970  # a file that claims more is taken for a decompression bomb (twice Pillow's warning limit)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 0x0112  # the tag's number in EXIF and in TIFF


def load(path: str | Path) -> Tensor:
    """One image file as float32 (1, C, H, W) in [0, 1]: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    Palettes become RGB or RGBA, EXIF orientation is applied, of several pages the first counts, 16 bits are kept.
    Raises FileNotFoundError or IsADirectoryError, and ValueError in one line for a file that is no image, is truncated
    or damaged, claims more than MAX_PIXELS pixels, or has fewer than two.
    """
    return load_with_bits(path)[0]


def load_with_bits(path: str | Path) -> tuple[Tensor, int]:
    """What `load` returns, and the file's bits per channel (8 or 16)."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but an image file was expected")
    if not path.is_file():
        raise ValueError(f"{path} is not an ordinary file, but an image file was expected")
    with open(path, "rb") as file:
        head = file.read(32)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes), but an image file was expected")

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be read raises; what can be read needs no remark
            if head.startswith(TIFF_SIGNATURES):
                images, bits = _read_tiff(path)
            elif head.startswith(PNG_SIGNATURE) and head[24:25] == b"\x10":  # byte 24: bit depth
                images, bits = _read_png_16(path), 16
            else:
                images, bits = _read_with_pillow(path), 8
    except (MemoryError, ImportError):  # not the file's fault
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} may be a decompression bomb: {_one_line(error)}") from error
    except UnidentifiedImageError as error:
        if head.startswith((PNG_SIGNATURE, b"\xff\xd8\xff", b"BM", b"RIFF", *TIFF_SIGNATURES)):
            raise ValueError(
                f"{path} is truncated or damaged: it starts like an image, but its header is broken"
            ) from error
        raise ValueError(f"{path} is not an image of a known kind (PNG, JPEG, TIFF, WebP, BMP)") from error
    except Unsupported as error:
        raise ValueError(f"{path} {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, their own and more
        raise ValueError(f"{path} is truncated or damaged: {_one_line(error)}") from error
    height, width = images.shape[-2:]
    if height * width < 2:
        raise ValueError(f"{path} has {height}x{width} pixels; an image of at least two pixels was expected")
    return images, bits


class Unsupported(Exception):
    """A sound image of a kind that `load` does not read; the text goes on after the file's name."""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(height: int, width: int) -> None:
    from PIL import Image

    if height * width > MAX_PIXELS:
        raise Image.DecompressionBombError(f"it claims {width}x{height} pixels, more than {MAX_PIXELS}")


def _to_tensor(pixels: np.ndarray, white: int) -> Tensor:
    """(H, W) or (H, W, C) whole numbers 0..white -> float32 (1, C, H, W) in [0, 1]."""
    planes = np.atleast_3d(pixels).transpose(2, 0, 1)[None]
    return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).div_(white)


def _upright(images: Tensor, orientation: int) -> Tensor:
    """Apply EXIF orientation 1..8: 5 to 8 transpose; then 2, 3, 6, 7 mirror columns and 3, 4, 7, 8 mirror rows."""
    if orientation in (5, 6, 7, 8):
        images = images.transpose(-1, -2)
    mirrored = [dim for dim, cases in ((-1, (2, 3, 6, 7)), (-2, (3, 4, 7, 8))) if orientation in cases]
    return images.flip(mirrored).contiguous()


def _open_with_pillow(path: Path):
    from PIL import Image

    image = Image.open(path, formats=("PNG", "JPEG", "TIFF", "WEBP", "BMP"))  # not EPS: that runs a program
    _check_size(image.height, image.width)
    return image


def _read_with_pillow(path: Path) -> Tensor:
    from PIL import ImageOps

    with _open_with_pillow(path) as file:
        if 0 in file.size:
            raise Unsupported(f"has {file.height}x{file.width} pixels; an image of at least two pixels was expected")
        file.load()
        image = ImageOps.exif_transpose(file)
    if image.mode in ("F", "I", "I;16", "I;16B", "I;16L"):
        raise Unsupported(f"holds pixels of Pillow's mode {image.mode}; 8 or 16 bits per channel were expected")
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if transparent or image.mode == "PA" else "RGB")
    elif image.mode in ("1", "L"):
        image = image.convert("LA" if transparent else "L")
    elif image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    elif image.mode not in ("LA", "RGBA"):
        image = image.convert("RGBA" if transparent else "RGB")
    return _to_tensor(np.asarray(image), 255)


def _read_png_16(path: Path) -> Tensor:
    from imagecodecs import png_decode

    with _open_with_pillow(path) as file:
        orientation = file.getexif().get(ORIENTATION, 1)
    return _upright(_to_tensor(png_decode(path.read_bytes()), 65535), orientation)


def _read_tiff(path: Path) -> tuple[Tensor, int]:
    """Grey and RGB of up to 16 bits by tifffile, everything else (palette, CMYK, JPEG inside, one bit) by Pillow."""
    from tifffile import PHOTOMETRIC, TiffFile

    with TiffFile(path) as tiff:
        page = tiff.pages[0]
        _check_size(page.imagelength, page.imagewidth)
        if (
            page.photometric not in (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
            or page.dtype == bool
        ):
            return _read_with_pillow(path), 8
        if page.dtype not in (np.uint8, np.uint16) or page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel > 4:
            raise Unsupported(
                f"is a TIFF of {page.samplesperpixel} channels of {page.dtype} with axes {page.axes};"
                " 1 to 4 channels of 8 or 16 bits were expected"
            )
        if not page.imagelength * page.imagewidth:
            raise Unsupported(
                f"has {page.imagelength}x{page.imagewidth} pixels; an image of at least two pixels was expected"
            )
        pixels = page.asarray()
        orientation = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
        images = _to_tensor(pixels.transpose(1, 2, 0) if page.axes == "SYX" else pixels, 2**page.bitspersample - 1)
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            images[:, 0] = 1 - images[:, 0]
        if page.extrasamples == (1,):  # colours already multiplied by alpha
            images[:, :-1] = torch.where(images[:, -1:] > 0, images[:, :-1] / images[:, -1:], 0).clamp(max=1)
    return _upright(images, orientation), 16 if page.bitspersample > 8 else 8


def check_output(path: str | Path, channels: int = 3, bits: int = 8) -> Path:
    """Return `path` when `save` could write there; call it before a long computation.

    Raises ValueError for an unknown extension or one that cannot hold the channels or bits, FileNotFoundError for a
    missing folder, IsADirectoryError for a folder, PermissionError for a place that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but the name of an image file was expected")
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} must end in one of {', '.join(SUFFIXES)}, but its extension is {path.suffix or 'missing'}"
        )
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, but {bits!r} came")
    if bits == 16 and suffix not in SUFFIXES_16_BIT:
        raise ValueError(f"{path}: {suffix} holds 8 bits per channel; 16 need one of {', '.join(SUFFIXES_16_BIT)}")
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"images must have 1 to 4 channels to be saved, but {channels} came")
    if channels in (2, 4) and suffix in SUFFIXES_WITHOUT_ALPHA:
        raise ValueError(f"{path}: {suffix} has no alpha channel, but the image has one; use .png, .tif or .webp")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    try:
        if path.exists():
            with open(path, "r+b"):
                pass
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PermissionError(f"{path} cannot be written: {error.strerror}") from error
    return path


def save(images: Tensor, path: str | Path, bits: int = 8) -> None:
    """Write one image (1, C, H, W) in [0, 1], C = 1 to 4, in the format that the extension names; whole or not at all.

    Values are clipped and rounded half up to 8 or 16 bits (16 for PNG and TIFF). JPEG and WebP are written at quality
    95, JPEG without chroma subsampling. Raises what `check_output` raises.
    """
    check_images(images)
    if len(images) != 1:
        raise ValueError(f"images must hold one image (1, C, H, W) to be saved, but its shape is {tuple(images.shape)}")
    path = check_output(path, images.shape[1], bits)
    white = 2**bits - 1
    planes = (images[0].detach().float().clamp(0, 1) * white + 0.5).floor().cpu().numpy()
    pixels = np.ascontiguousarray(planes.astype(np.uint8 if bits == 8 else np.uint16).transpose(1, 2, 0))
    if len(planes) == 1:
        pixels = pixels[..., 0]
    suffix = path.suffix.lower()

    def write(temporary: Path) -> None:
        if suffix in (".tif", ".tiff"):
            from tifffile import imwrite

            photometric = "rgb" if len(planes) > 2 else "minisblack"
            alpha = {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if len(planes) in (2, 4) else {}
            imwrite(temporary, pixels, photometric=photometric, compression="zlib", metadata=None, **alpha)
        elif suffix == ".png" and bits == 16:
            from imagecodecs import png_encode

            temporary.write_bytes(png_encode(pixels))
        else:
            from PIL import Image

            options = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
            options |= {"subsampling": 0} if suffix in (".jpg", ".jpeg") else {}
            Image.fromarray(pixels).save(temporary, **options)

    try:
        write_atomically(path, write)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or _one_line(error)}") from error
