"""Every figure of the chapters: pure functions from numbers to a picture with title, caption and alternative text.

Each function returns a `Figure`; the last line of a cell shows it. Nothing here touches matplotlib's global state, and
the same numbers give the same bytes. Colours are those of Okabe and Ito (distinguishable for colour-blind readers);
line styles, markers and hatches differ as well, so that every figure reads in black and white.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas

from .figures import DPI, STYLE, Figure, array, compare, finish, image_grid, strip, wrapped

__all__ = [
    "Figure",
    "bars",
    "compare",
    "curves",
    "density_2d",
    "evolution",
    "finish",
    "heatmap",
    "histogram",
    "image_grid",
    "scatter",
    "strip",
]

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _axes(title: str, width: int, height: int, panels: int = 1):
    """A canvas with its title and `panels` axes side by side."""
    canvas = Canvas(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")
    axes = [canvas.add_subplot(1, panels, i + 1) for i in range(panels)]
    canvas.suptitle("\n".join(wrapped(title, width, 11)), size=11, weight="bold")
    return canvas, axes


def _marks(index: int, points: int) -> dict:
    """Colour, line and marker number `index`; at most about twelve markers on a line."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markevery": max(1, points // 12),
        "markersize": 5,
        "linewidth": 1.8,
    }


def _dress(axes, xlabel: str, ylabel: str, logx: bool = False, logy: bool = False, legend: bool = True) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend()


@rc_context(STYLE)
def curves(
    x,
    series: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "",
    ylabel: str = "",
    bands: Mapping[str, object] | None = None,
    vertical: Mapping[str, float] | None = None,
    horizontal: Mapping[str, float] | None = None,
    logx: bool = False,
    logy: bool = False,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    width: int = 700,
    height: int = 400,
) -> Figure:
    """Lines y(x): `series` maps a label to y, or to (x, y) where a line has its own x.

    `bands` maps some of the labels to a half-width (a standard error, say) or to (low, high), drawn as a shaded band.
    `vertical` and `horizontal` map a label to the place of a thin grey reference line.
    """
    canvas, (axes,) = _axes(title, width, height)
    for index, (label, values) in enumerate(series.items()):
        own = isinstance(values, tuple)
        xs, ys = (array(values[0]), array(values[1])) if own else (array(x), array(values))
        if xs.shape != ys.shape:
            raise ValueError(f"series[{label!r}] must have one y for each x, but x is {xs.shape} and y is {ys.shape}")
        style = _marks(index, len(xs))
        axes.plot(xs, ys, label=label, **style)
        if bands and label in bands:
            band = bands[label]
            low, high = map(array, band) if isinstance(band, tuple) else (ys - array(band), ys + array(band))
            axes.fill_between(xs, low, high, color=style["color"], alpha=0.18, linewidth=0)
    for places, line, vertically in ((vertical, axes.axvline, True), (horizontal, axes.axhline, False)):
        for label, place in (places or {}).items():
            line(place, color="#777777", linewidth=1)
            where = (place, 1.0) if vertically else (1.0, place)
            moved = axes.get_xaxis_transform() if vertically else axes.get_yaxis_transform()
            turn, side = (90, "top") if vertically else (0, "bottom")
            axes.text(
                *where, f" {label} ", transform=moved, rotation=turn, ha="right", va=side, size=8, color="#444444"
            )
    _dress(axes, xlabel, ylabel, logx, logy)
    axes.set(**{name: limits for name, limits in (("xlim", xlim), ("ylim", ylim)) if limits is not None})
    return finish(canvas, title, alt, caption)


@rc_context(STYLE)
def scatter(
    series: Mapping[str, tuple],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "",
    ylabel: str = "",
    errors: Mapping[str, tuple] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    joined: Sequence[str] = (),
    logx: bool = False,
    logy: bool = False,
    width: int = 700,
    height: int = 440,
) -> Figure:
    """Points: `series` maps a label to (x, y).

    `errors` maps labels to (dx, dy), either may be None; `names` writes a word beside each point of a label, and a label
    named by itself alone needs no legend; labels in `joined` are drawn with a line through their points.
    """
    canvas, (axes,) = _axes(title, width, height)
    words: list[tuple[float, float, str]] = []
    for index, (label, (xs, ys)) in enumerate(series.items()):
        xs, ys = np.atleast_1d(array(xs)), np.atleast_1d(array(ys))
        dx, dy = (errors or {}).get(label, (None, None))
        style = _marks(index, 1) | ({} if label in joined else {"linestyle": "none"})
        many = len(xs) > 100
        style |= {"markersize": 2, "alpha": 0.5} if many else {}
        bars = [None if e is None else np.broadcast_to(array(e), xs.shape) for e in (dx, dy)]
        named = list((names or {}).get(label, ()))
        shown = "_nolegend_" if named == [label] else label
        axes.errorbar(xs, ys, xerr=bars[0], yerr=bars[1], capsize=3, elinewidth=1, label=shown, **style)
        words += zip(xs, ys, named, strict=False)
    _dress(axes, xlabel, ylabel, logx, logy)
    _write_beside(axes, words)
    return finish(canvas, title, alt, caption)


def _write_beside(axes, words: Sequence[tuple[float, float, str]]) -> None:
    """Write each word (x, y, word) beside its point, above right, or at the first corner where no other word stands."""
    taken: list[tuple[float, float, float, float]] = []
    if words:
        axes.figure.draw_without_rendering()  # or the places of the points are not known yet
    for x, y, word in words:
        px, py = axes.transData.transform((x, y))
        wide, high = 6.5 * len(word), 13  # pixels
        corners = [(6, 5), (6, -13), (-6 - 0.72 * wide, 5), (-6 - 0.72 * wide, -13), (6, 14), (6, -22)]  # points
        boxes = [(px + 1.39 * dx, py + 1.39 * dy, px + 1.39 * dx + wide, py + 1.39 * dy + high) for dx, dy in corners]
        free = [all(b[2] < o[0] or o[2] < b[0] or b[3] < o[1] or o[3] < b[1] for o in taken) for b in boxes]
        best = free.index(True) if True in free else 0
        taken.append(boxes[best])
        axes.annotate(word, (x, y), xytext=corners[best], textcoords="offset points", size=8)


@rc_context(STYLE)
def histogram(
    series: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "",
    bins: int = 50,
    exact: Mapping[str, tuple] | None = None,
    vertical: Mapping[str, float] | None = None,
    width: int = 700,
    height: int = 380,
) -> Figure:
    """Densities of samples as outlines; `exact` maps a label to (x, density), drawn as a line above them."""
    canvas, (axes,) = _axes(title, width, height)
    samples = {label: array(values).ravel() for label, values in series.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins)
    for index, (label, values) in enumerate(samples.items()):
        heights = np.histogram(values, edges, density=True)[0]
        colour, line = COLOURS[(index + 1) % len(COLOURS)], LINES[index % len(LINES)]
        axes.stairs(heights, edges, label=label, color=colour, linestyle=line, linewidth=1.6)
        axes.stairs(heights, edges, color=colour, alpha=0.15, fill=True)
    for index, (label, (xs, density)) in enumerate((exact or {}).items()):
        axes.plot(array(xs), array(density), color="black", linestyle=LINES[index], linewidth=2, label=label)
    for label, place in (vertical or {}).items():
        axes.axvline(place, color="#777777", linewidth=1)
        axes.text(
            place, 1, f" {label} ", transform=axes.get_xaxis_transform(), rotation=90, ha="right", va="top", size=8
        )
    _dress(axes, xlabel, "density")
    return finish(canvas, title, alt, caption)


@rc_context(STYLE)
def bars(
    groups: Sequence[str],
    series: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    ylabel: str = "",
    errors: Mapping[str, object] | None = None,
    ylim: tuple[float, float] | None = None,
    width: int = 700,
    height: int = 380,
) -> Figure:
    """Grouped bars: `series` maps a label to one number a group; `errors` gives half-widths for some labels."""
    canvas, (axes,) = _axes(title, width, height)
    wide = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        x = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * wide
        error = None if errors is None or label not in errors else array(errors[label])
        look = {"color": COLOURS[(index + 1) % len(COLOURS)], "hatch": ("", "//", "..", "xx", "--")[index % 5]}
        axes.bar(x, array(values), wide * 0.92, yerr=error, capsize=3, edgecolor="black", label=label, **look)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylim=ylim)
    axes.grid(visible=False, axis="x")
    _dress(axes, "", ylabel, legend=False)
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series))
    return finish(canvas, title, alt, caption)


@rc_context(STYLE)
def heatmap(
    panels: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "",
    ylabel: str = "",
    limits: tuple[float, float] | None = None,
    cmap: str = "viridis",
    numbers: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    width: int | None = None,
    height: int = 340,
) -> Figure:
    """Matrices side by side with one common colour bar.

    `numbers` is a format such as ".2f" that writes each entry (a dash where it is NaN); `rows` and `columns` name them.
    """
    matrices = {label: array(matrix) for label, matrix in panels.items()}
    low, high = limits or (min(m.min() for m in matrices.values()), max(m.max() for m in matrices.values()))
    canvas, axes = _axes(title, width or max(420, 300 * len(matrices)), height, len(matrices))
    for ax, (label, matrix) in zip(axes, matrices.items(), strict=True):
        drawn = ax.imshow(matrix, vmin=low, vmax=high, cmap=cmap)
        ax.set_title(label, size=10)
        ax.grid(visible=False)
        if numbers:
            for (i, j), value in np.ndenumerate(matrix):
                dark = sum(drawn.cmap(drawn.norm(value))[:3]) < 1.5
                ink = "black" if np.isnan(value) or not dark else "white"
                ax.text(
                    j,
                    i,
                    "-" if np.isnan(value) else format(value, numbers),
                    ha="center",
                    va="center",
                    size=8,
                    color=ink,
                )
        if columns is not None:
            ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
        if rows is not None:
            ax.set_yticks(range(len(rows)), rows if ax is axes[0] else [""] * len(rows))
            ax.set_aspect("auto")
        _dress(ax, xlabel, ylabel)
    canvas.colorbar(drawn, ax=axes, shrink=0.8)
    return finish(canvas, title, alt, caption)


@rc_context(STYLE)
def density_2d(
    x,
    y,
    panels: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "$z_1$",
    ylabel: str = "$z_2$",
    points: Mapping[str, object] | None = None,
    arrows: tuple[object, object] | None = None,
    paths=None,
    width: int | None = None,
    height: int = 400,
) -> Figure:
    """Densities over the plane, dark where likely: each panel is (len(y), len(x)) with common levels.

    In every panel: `points` maps a label to (N, 2); `arrows` = (origins (N, 2), vectors (N, 2)); `paths` is
    (P, steps, 2).
    """
    densities = {label: array(values) for label, values in panels.items()}
    levels = np.linspace(0, max(d.max() for d in densities.values()), 12)
    canvas, axes = _axes(title, width or max(460, 360 * len(densities)), height, len(densities))
    for ax, (label, density) in zip(axes, densities.items(), strict=True):
        ax.contourf(array(x), array(y), density, levels=levels, cmap="Greys")
        for index, (name, xy) in enumerate((points or {}).items()):
            xy = array(xy).reshape(-1, 2)
            look = {"color": COLOURS[1 + index % 6], "marker": MARKERS[index % 7], "s": 30 if len(xy) < 30 else 7}
            ax.scatter(xy[:, 0], xy[:, 1], label=name, edgecolors="white", linewidths=0.4, **look)
        if arrows is not None:
            origin, vector = map(array, arrows)
            ax.quiver(*origin.T, *vector.T, color=COLOURS[2], angles="xy", width=0.004)
        for index, path in enumerate([] if paths is None else array(paths)):
            ax.plot(path[:, 0], path[:, 1], color=COLOURS[1 + index % 6], linestyle=LINES[index % 7], linewidth=1.2)
        ax.grid(visible=False)
        ax.set(xlim=(array(x).min(), array(x).max()), ylim=(array(y).min(), array(y).max()), aspect="equal")
        ax.set_title(label, size=10)
        _dress(ax, xlabel, ylabel)
    return finish(canvas, title, alt, caption)


@rc_context(STYLE)
def evolution(
    t,
    z,
    panels: Mapping[str, object],
    *,
    title: str,
    alt: str,
    caption: str = "",
    xlabel: str = "time $t$",
    ylabel: str = "state $z_t$",
    paths: Mapping[str, tuple] | None = None,
    columns: int | None = None,
    width: int | None = None,
    height: int = 320,
) -> Figure:
    """How one-dimensional laws change with time: each panel is a density (len(z), len(t)), dark where likely.

    Darkness has one scale for all panels. `paths` maps a panel's label to (times (n,), values (P, n)), drawn as lines
    over it. With `columns` the panels stand in rows, each `height` pixels high.
    """
    densities = {label: array(values) for label, values in panels.items()}
    columns = columns or len(densities)
    rows = -(-len(densities) // columns)
    wide = width or min(960, 120 + 280 * columns)
    canvas = Canvas(figsize=(wide / DPI, rows * height / DPI), dpi=DPI, layout="constrained")
    canvas.suptitle("\n".join(wrapped(title, wide, 11)), size=11, weight="bold")
    top = max(np.quantile(density, 0.999) for density in densities.values())
    grid = canvas.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for index, axes in enumerate(grid.flat):
        axes.set_visible(index < len(densities))
    for index, (axes, (label, density)) in enumerate(zip(grid.flat, densities.items(), strict=False)):
        axes.pcolormesh(array(t), array(z), density, cmap="Greys", vmin=0, vmax=top, shading="nearest", rasterized=True)
        times, values = map(array, (paths or {}).get(label, ([], np.empty((0, 0)))))
        for number, path in enumerate(values):
            colour, line = COLOURS[1 + number % 6], LINES[number % 3]
            axes.plot(times, path, color=colour, linestyle=line, linewidth=1.3)
        axes.grid(visible=False)
        axes.set_title(label, size=10)
        axes.set(xlim=(array(t).min(), array(t).max()), ylim=(array(z).min(), array(z).max()))
        axes.set_xlabel(xlabel if index // columns == rows - 1 else "")
        axes.set_ylabel(ylabel if index % columns == 0 else "")
    return finish(canvas, title, alt, caption)
