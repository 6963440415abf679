"""plots and figures: exact pixels, stable bytes, words that reach the exported page, readable without colour."""

from __future__ import annotations

import io
import re

import IPython.display
import nbconvert
import nbformat.v4
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from export_html import page
from PIL import Image

from tutorial_lib import plots
from tutorial_lib.figures import Figure
from tutorial_lib.images import photo, to_uint8

ALT = 'Three bars: "left" is twice as high as the others.'
WORDS = {"title": "The left bar wins", "alt": ALT, "caption": "Made up."}


def contains(pixels: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` stands somewhere in `pixels`, pixel for pixel."""
    height, width = part.shape[:2]
    rows, columns = np.nonzero((pixels == part[0, 0]).all(-1))
    return any(np.array_equal(pixels[r : r + height, c : c + width], part) for r, c in zip(rows, columns, strict=True))


def decoded(figure: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure.encoded[1])).convert("RGB"))


def drawings() -> dict[str, Figure]:
    """One figure of every kind."""
    x = np.linspace(0, 1, 40)
    plane = np.exp(-((x[:, None] - 0.5) ** 2) - (x - 0.3) ** 2)
    samples = np.random.default_rng(0).normal(size=500)
    picture = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    return {
        "curves": plots.curves(
            x, {"a": x, "b": (x[:9], x[:9] ** 2)}, bands={"a": 0.1 + 0 * x}, vertical={"t": 0.4}, **WORDS
        ),
        "scatter": plots.scatter({"a": ([1, 2], [3, 4])}, errors={"a": (None, 0.2)}, names={"a": ["u", "v"]}, **WORDS),
        "histogram": plots.histogram({"a": samples}, exact={"law": (x, x)}, vertical={"mean": 0.0}, **WORDS),
        "bars": plots.bars(["u", "v"], {"a": [1, 2], "b": [2, 1]}, errors={"a": [0.1, 0.1]}, **WORDS),
        "heatmap": plots.heatmap({"A": plane[:3, :4]}, numbers=".1f", **WORDS),
        "density_2d": plots.density_2d(
            x, x, {"p": plane}, points={"s": [[0.1, 0.2]]}, paths=np.ones((1, 3, 2)), **WORDS
        ),
        "evolution": plots.evolution(
            x, x, {"p": plane, "q": plane}, paths={"q": (x[:3], np.ones((2, 3)))}, columns=1, **WORDS
        ),
        "image_grid": plots.image_grid(picture, ["noise"], zoom=3, **WORDS),
        "compare": plots.compare({"a": picture, "b": picture}, [(1, 2, 4, 5)], overview="a", **WORDS),
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("zoom", [1, 4])
def test_pictures_are_shown_pixel_for_pixel(channels, zoom):
    images = torch.rand(3, channels, 7, 11, generator=torch.Generator().manual_seed(1))
    figure = plots.image_grid(images, ["one", "two", "three"], zoom=zoom, **WORDS)
    for image in to_uint8(images):
        shown = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
        assert contains(figure.pixels, shown.repeat(zoom, 0).repeat(zoom, 1))
        assert not contains(figure.pixels, shown.repeat(zoom, 0).repeat(zoom, 1)[:, ::-1])  # the test can fail
    assert np.array_equal(decoded(figure), figure.pixels)  # small enough for lossless PNG


def test_crop_limits_and_single_pictures():
    ramp = torch.linspace(-1, 1, 24).view(4, 6)
    figure = plots.image_grid(ramp, crop=(1, 2, 2, 3), limits=(-1, 1), **WORDS)
    expected = np.floor((ramp[1:3, 2:5].numpy() + 1) / 2 * 255 + 0.5).astype(int)
    assert contains(figure.pixels, np.repeat(expected[..., None], 3, -1))


def test_compare_magnifies_the_named_crop_of_each_version():
    images = torch.rand(2, 3, 30, 40, generator=torch.Generator().manual_seed(2))
    figure = plots.compare({"a": images[:1], "b": images[1:]}, [(3, 5, 8, 10), (20, 1, 6, 10)], zoom=3, **WORDS)
    for image in to_uint8(images).permute(0, 2, 3, 1).numpy():
        for top, left, height, width in [(3, 5, 8, 10), (20, 1, 6, 10)]:
            assert contains(figure.pixels, image[top : top + height, left : left + width].repeat(3, 0).repeat(3, 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.image_grid(torch.zeros(1, 2, 4, 4), **WORDS), "images[0] must be (H, W), (1 or 3, H, W)"),
        (lambda: plots.image_grid([], **WORDS), "images must hold at least one image"),
        (lambda: plots.image_grid(torch.zeros(2, 3, 4, 4), ["one"], **WORDS), "titles must name each of the 2 images"),
        (
            lambda: plots.image_grid(torch.zeros(4, 4), crop=(0, 0, 5, 5), **WORDS),
            "crop must be (top, left, height, width)",
        ),
        (lambda: plots.image_grid(torch.zeros(4, 4), zoom=1.5, **WORDS), "zoom must be a whole number"),
        (lambda: plots.image_grid(torch.zeros(4, 4), title="t", alt="a picture"), "alt must describe"),
        (lambda: plots.image_grid(torch.zeros(4, 4), title=" ", alt=ALT), "title must say what to see"),
        (lambda: plots.curves([1, 2], {"a": [1, 2, 3]}, **WORDS), "series['a'] must have one y for each x"),
        (
            lambda: plots.compare({"a": torch.zeros(8, 8), "b": torch.zeros(9, 8)}, [(0, 0, 2, 2)], **WORDS),
            "images must all have one size",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_same_numbers_same_bytes_and_no_metadata():
    first, second = drawings(), drawings()
    for name, figure in first.items():
        assert figure.encoded == second[name].encoded, name
        info = Image.open(io.BytesIO(figure.encoded[1])).info
        assert not {"Software", "Creation Time", "date"} & set(info), name
        assert len(figure.encoded[1]) < 60_000, name


def test_different_numbers_different_pictures():
    x = np.linspace(0, 1, 20)
    one, two = (plots.curves(x, {"a": y}, **WORDS).encoded for y in (x, x**2))
    assert one != two


def test_photographs_stay_small_and_close_to_the_original():
    cat = photo("chelsea")[..., :288, :384]
    figure = plots.image_grid([cat, cat.flip(-1)], ["cat", "mirrored"], **WORDS)
    kind, data = figure.encoded
    assert kind == "jpeg" and len(data) < 120_000
    assert np.abs(decoded(figure).astype(float) - figure.pixels).mean() < 2.5  # of 255


def test_heatmap_shows_smallest_and_largest_in_the_ends_of_the_colour_map():
    figure = plots.heatmap({"A": [[0.0, 1.0]]}, **WORDS)
    from matplotlib import colormaps

    for value in (0.0, 1.0):
        colour = np.round(np.array(colormaps["viridis"](value)[:3]) * 255)
        assert (np.abs(figure.pixels - colour).max(-1) <= 1).sum() > 1000


def test_heatmap_names_rows_and_columns(monkeypatch):
    """The names stand once beside the rows and below each panel, and a missing entry is a dash."""
    axes = []
    made = plots._axes
    monkeypatch.setattr(plots, "_axes", lambda *a, **k: axes.append(made(*a, **k)) or axes[-1])
    panels = {"a": [[1.0, float("nan")]], "b": [[2.0, 3.0]]}
    words = {"title": "t", "alt": "a table of two panels with one missing number"}
    plots.heatmap(panels, limits=(1, 3), numbers=".1f", rows=["row"], columns=["left", "right"], **words)
    first, second = axes[0][1]
    assert [t.get_text() for t in first.texts] == ["1.0", "-"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["row"]
    assert [t.get_text() for t in second.get_yticklabels()] == [""]
    assert [t.get_text() for t in second.get_xticklabels()] == ["left", "right"]


def test_lines_differ_without_colour():
    marks = [plots._marks(i, 40) for i in range(7)]
    assert len({str(m["linestyle"]) for m in marks}) == 7
    assert len({m["marker"] for m in marks}) == 7


def test_strip_holds_every_frame():
    frames = [
        plots.image_grid(torch.rand(1, 3, 20, 330, generator=torch.Generator().manual_seed(s)), **WORDS)
        for s in range(3)
    ]
    figure = plots.strip(frames[:2], **WORDS)
    assert all(contains(figure.pixels, f.pixels[30:, 10:300]) for f in frames[:2])
    assert not contains(figure.pixels, frames[2].pixels[30:, 10:300])


@pytest.mark.parametrize("name", ["curves", "image_grid"])
def test_words_survive_into_the_output_and_into_exported_html(name, monkeypatch):
    shown = []
    monkeypatch.setattr(
        IPython.display, "display", lambda data, metadata=None, raw=False: shown.append((data, metadata or {}))
    )
    drawings()[name]._ipython_display_()
    outputs = [nbformat.v4.new_output("display_data", data, metadata=metadata) for data, metadata in shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("figure", outputs=outputs)])
    exported = page(notebook)
    (tag,) = BeautifulSoup(exported, "html.parser").select("img[src^='data:image']")
    assert tag["alt"] == ALT
    plain, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)  # drops alt, so the text stands below the picture
    for text in (exported, plain):
        assert re.search(r"<em>Made up\.</em>", text)
        assert BeautifulSoup(text, "html.parser").details.text == f"Description: The left bar wins{ALT}"
    assert shown[0][0]["text/plain"] == "Figure: The left bar wins"


def test_names_beside_points_do_not_cover_each_other():
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7, 4.4), dpi=plots.DPI, layout="constrained")
    axes = canvas.subplots()
    places = [(0.0, 0.0), (0.01, 0.01), (0.02, 0.0), (1.0, 1.0)]
    axes.plot(*zip(*places, strict=True), "o")
    plots._write_beside(axes, [(x, y, f"method {i}") for i, (x, y) in enumerate(places)])
    canvas.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [f"method {i}" for i in range(4)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert axes.texts[3].get_position() == (6, 5)  # nothing stands in its way


def test_a_label_named_by_itself_needs_no_legend(monkeypatch):
    seen = []
    monkeypatch.setattr(plots, "finish", lambda canvas, *_: seen.append(canvas))
    points = {"one": ([0.0], [1.0]), "two": ([1.0], [0.0])}
    plots.scatter(points, names={"one": ["one"], "two": ["two"]}, title="Two points", alt="two points " * 3)
    plots.scatter(points, names={"one": ["first"]}, title="Two points", alt="two points " * 3)
    assert seen[0].axes[0].get_legend() is None
    assert [text.get_text() for text in seen[1].axes[0].get_legend().get_texts()] == ["one", "two"]
