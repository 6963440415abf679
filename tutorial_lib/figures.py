"""What a finished figure is, and the figures that show pictures: grids, magnified comparisons, strips of frames.

A `Figure` carries its title, caption and alternative text into the notebook and from there into exported HTML. The same
numbers give the same bytes. Pictures are drawn pixel for pixel: zoom repeats pixels, it never smooths them.
`plots` holds the drawings with axes and offers everything here as well.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image, ImageDraw

DPI = 100
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "image.resample": False,
}


@dataclass(frozen=True)
class Figure:
    """A finished figure: pixels (H, W, 3) uint8 with its title drawn in, a caption below it, and alternative text.

    Line drawings become palette PNG; photographs that make a large PNG become JPEG (quality 92, full colour
    resolution), because a palette of 256 colours would add grain of its own.
    """

    pixels: np.ndarray
    title: str
    caption: str
    alt: str
    photographic: bool = False

    @cached_property
    def encoded(self) -> tuple[str, bytes]:
        """(format, bytes) with format "png" or "jpeg"."""
        picture = Image.fromarray(self.pixels)
        if not self.photographic:
            picture = picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        data = _save(picture, "PNG")
        if self.photographic and len(data) > 60_000:
            return "jpeg", _save(picture, "JPEG")
        return "png", data

    def bundle(self) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """The picture as a notebook output: data, and metadata with the alternative text."""
        kind, data = self.encoded
        mime = f"image/{kind}"
        return {mime: base64.b64encode(data).decode(), "text/plain": f"Figure: {self.title}"}, {mime: {"alt": self.alt}}

    def words(self) -> dict[str, str]:
        """The output below the picture: the caption and, folded, the description.

        JupyterLab, code hosts and nbconvert's default template drop the metadata's alternative text, so a reader with a
        screen reader finds it here; `tools/export_html.py` also writes it into the img tag.
        """
        caption = f"*{self.caption}*\n\n" if self.caption else ""
        folded = f"<details><summary>Description: {html.escape(self.title)}</summary>{html.escape(self.alt)}</details>"
        return {"text/markdown": caption + folded, "text/plain": f"{self.caption} Description: {self.alt}".strip()}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data, metadata = self.bundle()
        display(data, metadata=metadata, raw=True)
        display(self.words(), raw=True)


def _save(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=92, subsampling=0)  # optimize=True overflows its buffer on noise
    return buffer.getvalue()


@rc_context(STYLE)
def finish(canvas: Canvas, title: str, alt: str, caption: str = "", photographic: bool = False) -> Figure:
    """Draw a matplotlib figure into a `Figure`. Use it for a drawing that no function below makes.

    Raises ValueError when the title or the alternative text is missing or too short to be of use.
    """
    _check_words(title, alt)
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    return Figure(np.asarray(agg.buffer_rgba())[..., :3].copy(), title, caption, alt, photographic)


def _check_words(title: str, alt: str) -> None:
    if not title.strip():
        raise ValueError("title must say what to see in the figure, but it is empty")
    if len(alt.strip()) < 25 or alt.strip() == title.strip():
        raise ValueError(
            f"alt must describe the figure to someone who cannot see it (25 characters or more), but {alt!r} came"
        )


def array(values) -> np.ndarray:
    """Tensor, array, number or list to a float64 NumPy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _pictures(images) -> list[np.ndarray]:
    """A batch (B, C, H, W), or a list of (1, C, H, W), (C, H, W) or (H, W), to a list of (H, W, 1 or 3)."""
    if not isinstance(images, list | tuple):
        images = array(images)
        images = list(images) if images.ndim == 4 else [images]
    pictures = []
    for index, image in enumerate(images):
        image = array(image)
        image = image[0] if image.ndim == 4 and len(image) == 1 else image
        image = image[None] if image.ndim == 2 else image
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(
                f"images[{index}] must be (H, W), (1 or 3, H, W) or (1, 1 or 3, H, W), but its shape is {image.shape}"
            )
        pictures.append(image.transpose(1, 2, 0))
    if not pictures:
        raise ValueError("images must hold at least one image, but it is empty")
    return pictures


def _colour(picture: np.ndarray, limits: tuple[float, float], cmap: str) -> np.ndarray:
    """(H, W, 1 or 3) within limits to (H, W, 3) uint8; one channel goes through the colour map."""
    from matplotlib import colormaps

    low, high = limits
    scaled = np.nan_to_num((picture - low) / (high - low)).clip(0, 1)
    if picture.shape[2] == 1:
        scaled = scaled.repeat(3, axis=2) if cmap == "gray" else colormaps[cmap](scaled[..., 0])[..., :3]
    return np.floor(scaled * 255 + 0.5).astype(np.uint8)


def _zoomed(pixels: np.ndarray, zoom: int) -> np.ndarray:
    if not isinstance(zoom, int) or zoom < 1:
        raise ValueError(f"zoom must be a whole number of at least 1, but {zoom!r} came")
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _cut(picture: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    top, left, height, width = crop
    if (
        min(top, left) < 0
        or min(height, width) < 1
        or top + height > picture.shape[0]
        or left + width > picture.shape[1]
    ):
        raise ValueError(f"crop must be (top, left, height, width) inside {picture.shape[:2]}, but {crop} came")
    return picture[top : top + height, left : left + width]


class _Sheet:
    """A white page of given size in pixels, y downwards, on which pictures are pasted unchanged."""

    def __init__(self, width: int, height: int):
        self.width, self.height = max(int(width), 340), int(height)
        self.canvas = Canvas(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        self.pasted: list[tuple[np.ndarray, int, int]] = []

    def paste(self, pixels: np.ndarray, left: int, top: int) -> None:
        self.pasted.append((pixels, int(left), int(top)))

    def write(self, text: str, x: float, y: float, size: float = 9, bold: bool = False) -> None:
        weight = "bold" if bold else "normal"
        self.canvas.text(x / self.width, 1 - y / self.height, text, size=size, ha="center", va="center", weight=weight)

    def finish(self, title: str, alt: str, caption: str) -> Figure:
        drawn = finish(self.canvas, title, alt, caption, photographic=True)
        for pixels, left, top in self.pasted:
            drawn.pixels[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return drawn


def wrapped(text: str, width: int, size: float) -> list[str]:
    """Lines of `text` that fit `width` pixels at a font size in points."""
    return textwrap.wrap(text, max(8, int(width / (size * 0.83)))) or [""]


def _headed(width: int, height: int, title: str) -> tuple[_Sheet, int]:
    """A sheet with the title on top; returns it and the y below the title."""
    width = max(width, 340)
    lines = wrapped(title, width, 11)
    top = 18 * len(lines) + 10
    sheet = _Sheet(width, height + top)
    sheet.write("\n".join(lines), sheet.width / 2, top / 2, size=11, bold=True)
    return sheet, top


def image_grid(
    images,
    titles: Sequence[str] | None = None,
    *,
    title: str,
    alt: str,
    caption: str = "",
    zoom: int = 1,
    columns: int | None = None,
    crop: tuple[int, int, int, int] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    cmap: str = "gray",
) -> Figure:
    """Pictures side by side, each pixel shown as zoom x zoom pixels.

    `crop` = (top, left, height, width) is cut from every picture first. `limits` are the values shown as black and
    white; one-channel pictures go through `cmap` ("gray"; "RdBu_r" with limits (-a, a) for signed differences).
    """
    pictures = [_colour(p if crop is None else _cut(p, crop), limits, cmap) for p in _pictures(images)]
    pictures = [_zoomed(p, zoom) for p in pictures]
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"titles must name each of the {len(pictures)} images, but {len(titles)} came")
    wide, tall = max(p.shape[1] for p in pictures), max(p.shape[0] for p in pictures)
    columns = columns or max(1, min(len(pictures), 960 // (wide + 8)))
    rows = -(-len(pictures) // columns)
    labels = [wrapped(t, wide, 9) for t in titles] if titles else [[]] * len(pictures)
    label_height = max(len(lines) for lines in labels) * 15 + 4
    sheet, top = _headed(columns * (wide + 8) + 8, rows * (tall + label_height + 8), title)
    margin = (sheet.width - columns * (wide + 8) + 8) // 2
    for index, (picture, lines) in enumerate(zip(pictures, labels, strict=True)):
        row, column = divmod(index, columns)
        x, y = margin + column * (wide + 8), top + row * (tall + label_height + 8)
        if lines:
            sheet.write("\n".join(lines), x + wide / 2, y + label_height / 2)
        sheet.paste(picture, x + (wide - picture.shape[1]) // 2, y + label_height)
    return sheet.finish(title, alt, caption)


def compare(
    images: Mapping[str, object],
    crops: Sequence[tuple[int, int, int, int]],
    *,
    title: str,
    alt: str,
    caption: str = "",
    zoom: int = 3,
    overview: str | None = None,
) -> Figure:
    """Magnified crops of several versions of one picture: one row a crop, one column a version.

    `images` maps a label to a picture, all of one size; `crops` are (top, left, height, width). `overview` names the
    version that is shown whole on the left, shrunk, with the crops outlined (white on black); None leaves it out.
    """
    pictures = {label: _colour(_pictures([image])[0], (0.0, 1.0), "gray") for label, image in images.items()}
    sizes = {p.shape[:2] for p in pictures.values()}
    if len(sizes) != 1:
        raise ValueError(f"images must all have one size, but sizes {sorted(sizes)} came")
    wide, tall = max(c[3] for c in crops) * zoom, [c[2] * zoom for c in crops]
    labels = [wrapped(label, wide, 9) for label in pictures]
    head = max(len(lines) for lines in labels) * 15 + 4
    body = sum(tall) + 8 * len(tall)
    whole = (
        _outlined(pictures[overview], crops, min(320, sizes.pop()[1])) if overview else np.zeros((0, 0, 3), np.uint8)
    )
    left = whole.shape[1] + (16 if overview else 8)
    sheet, top = _headed(left + len(pictures) * (wide + 8), max(head + body, head + whole.shape[0] + 8), title)
    if overview:
        sheet.write(f"{overview} (whole)", 8 + whole.shape[1] / 2, top + head / 2)
        sheet.paste(whole, 8, top + head)
    for column, (picture, lines) in enumerate(zip(pictures.values(), labels, strict=True)):
        x, y = left + column * (wide + 8), top + head
        sheet.write("\n".join(lines), x + wide / 2, top + head / 2)
        for crop, height in zip(crops, tall, strict=True):
            sheet.paste(_zoomed(_cut(picture, crop), zoom), x, y)
            y += height + 8
    return sheet.finish(title, alt, caption)


def _outlined(picture: np.ndarray, crops: Sequence[tuple[int, int, int, int]], width: int) -> np.ndarray:
    """The whole picture `width` pixels wide with a white frame on a black one around each crop."""
    scale = width / picture.shape[1]
    small = Image.fromarray(picture).resize((width, round(picture.shape[0] * scale)), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(small)
    for top, left, height, wide in crops:
        box = [left * scale, top * scale, (left + wide) * scale, (top + height) * scale]
        pen.rectangle([box[0] - 2, box[1] - 2, box[2] + 1, box[3] + 1], outline=(0, 0, 0))
        pen.rectangle([box[0] - 1, box[1] - 1, box[2], box[3]], outline=(255, 255, 255))
    return np.asarray(small)


def strip(figures: Sequence[Figure], *, title: str, alt: str, caption: str = "", columns: int | None = None) -> Figure:
    """Several finished figures as one: the frames of an explorer for readers without a kernel."""
    wide, tall = max(f.pixels.shape[1] for f in figures), max(f.pixels.shape[0] for f in figures)
    columns = columns or max(1, min(len(figures), 1000 // wide))
    scale = min(1.0, 1000 / (columns * wide))
    wide, tall = round(wide * scale), round(tall * scale)
    sheet, top = _headed(columns * wide, -(-len(figures) // columns) * tall, title)
    for index, figure in enumerate(figures):
        row, column = divmod(index, columns)
        frame = Image.fromarray(figure.pixels)
        if scale < 1:
            size = (round(frame.width * scale), round(frame.height * scale))
            frame = frame.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(np.asarray(frame), (sheet.width - columns * wide) // 2 + column * wide, top + row * tall)
    drawn = sheet.finish(title, alt, caption)
    return Figure(drawn.pixels, title, caption, alt, photographic=any(f.photographic for f in figures))
