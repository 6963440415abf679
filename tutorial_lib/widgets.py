"""Things to play with: thin controls over pure functions that return a `plots.Figure`.

Pictures go into `ipywidgets.Image`, never into an Output widget, and the same picture for readers without a kernel is
made by `frames`. Nothing here knows about diffusion.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Mapping, Sequence

import ipywidgets
import numpy as np
import torch
from torch import Tensor

from .checks import check_one_of, check_positive
from .figures import Figure, image_grid, strip


class Panel(ipywidgets.VBox):
    """A column of controls and pictures which says in words what it is where widgets cannot be shown."""

    def __init__(self, children: Sequence, words: str):
        super().__init__(children)
        self._words = words

    def __repr__(self) -> str:
        return self._words


class Picture(ipywidgets.VBox):
    """A figure inside a panel: the image, and below it the caption and a folded description of what the image shows."""

    def __init__(self):
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%", "object_fit": "contain"})
        self.words = ipywidgets.HTML()
        super().__init__([self.image, self.words])

    def show(self, figure: Figure) -> None:
        """Replace what is shown. ipywidgets.Image has no alternative text, so the description stands beside it."""
        self.image.format, data = figure.encoded
        self.image.value = data
        caption = f"<em>{html.escape(figure.caption)}</em>" if figure.caption else ""
        self.words.value = (
            f"{caption}<details><summary>Description of the picture</summary>{html.escape(figure.alt)}</details>"
        )

    def say(self, message: str) -> None:
        """Show a message below the image."""
        self.words.value = f"<strong>{html.escape(message)}</strong>"


def control(name: str, value) -> ipywidgets.Widget:
    """One control from a short description.

    (low, high, step) or (low, high, step, start) gives a slider, of whole numbers when all are int; a list gives a
    menu; True or False a checkbox; a ready-made ipywidgets control is used as it is.
    """
    words = name.replace("_", " ")
    style = {"description_width": "initial"}
    if isinstance(value, ipywidgets.Widget):
        return value
    if isinstance(value, bool):
        return ipywidgets.Checkbox(value=value, description=words)
    if isinstance(value, list) and value:
        return ipywidgets.Dropdown(options=value, description=words, style=style)
    if isinstance(value, tuple) and len(value) in (3, 4):
        low, high, step = value[:3]
        whole = all(isinstance(v, int) for v in value)
        slider = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        return slider(
            value=value[3] if len(value) == 4 else low,
            min=low,
            max=high,
            step=step,
            description=words,
            continuous_update=False,
            style=style,
            layout={"width": "420px"},
        )
    raise TypeError(
        f"{name} must be (low, high, step), (low, high, step, start), a list, True or False, but {value!r} came"
    )


def explorer(draw: Callable[..., Figure], **controls) -> Panel:
    """Controls over a picture: `draw(name=value, ...)` is called with the value of each control and returns a Figure.

    `controls` are described as in `control`. The picture is redrawn when a control is let go. What `draw` raises is
    shown below the picture in one line, and the next change tries again.
    """
    made = {name: control(name, value) for name, value in controls.items()}
    picture = Picture()

    def update(_change=None) -> None:
        try:
            picture.show(draw(**{name: widget.value for name, widget in made.items()}))
        except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
            if _change is None:
                raise
            picture.say(str(error))

    for widget in made.values():
        widget.observe(update, "value")
    update()
    names = ", ".join(name.replace("_", " ") for name in made)
    return Panel([*made.values(), picture], f"Explorer ({names}): run this cell in JupyterLab to use its controls.")


def frames(
    draw: Callable[..., Figure],
    settings: Sequence[Mapping],
    *,
    title: str,
    alt: str,
    caption: str = "",
    columns: int | None = None,
) -> Figure:
    """The static strip beside an explorer: `draw` called with each of `settings`, the frames side by side."""
    drawn = [draw(**setting) for setting in settings]
    return strip(drawn, title=title, alt=alt, caption=caption, columns=columns)


def decode_photo(data: bytes, max_side: int = 192) -> Tensor:
    """Bytes of an image file to (1, 3, H, W) in [0, 1], upright, shrunk so that the longer side is at most `max_side`.

    Raises ValueError in one sentence when the bytes are no image that Pillow can read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"this file cannot be read as a picture ({error}); a PNG or JPEG file works") from error
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def upload(draw: Callable[[Tensor], Figure], example: Tensor, max_side: int = 192) -> Panel:
    """A button that takes the learner's own photo: `draw(image)` gets (1, 3, H, W) in [0, 1]; `example` is shown first.

    The photo goes to the kernel only: with JupyterLab on your own machine it never leaves it.
    """
    button = ipywidgets.FileUpload(accept="image/*", multiple=False, description="your photo")
    picture = Picture()

    def update(_change) -> None:
        if not button.value:
            return
        picture.say("working ...")
        try:
            picture.show(draw(decode_photo(bytes(button.value[0]["content"]), max_side)))
        except ValueError as error:
            picture.say(str(error))

    button.observe(update, "value")
    picture.show(draw(example))
    return Panel([button, picture], "Upload control: run this cell in JupyterLab to try your own photo.")


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's confidence interval for a proportion; z = 1.96 gives 95 %. (0, 1) when nothing was tried.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half-width = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n). Wilson
    1927, doi:10.1080/01621459.1927.10502953. The textbook p +- z sqrt(p (1 - p) / n) has width 0 at p = 0 and p = 1.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must lie between 0 and trials = {trials}, but {successes} came")
    if trials == 0:
        return 0.0, 1.0
    p, shrink = successes / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(values, seed: int = 0, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
    """Percentile bootstrap interval for the mean of `values`: resample with replacement, take the middle `level`."""
    values = np.asarray(values, dtype=np.float64).ravel()
    if not values.size:
        raise ValueError("values must hold at least one number, but it is empty")
    picks = np.random.default_rng(seed).integers(0, values.size, (draws, values.size))
    low, high = np.quantile(values[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Trials:
    """A blind experiment: every name `repeats` times in an order drawn from `seed`, one answer for each.

    Two different pictures never hide behind one order: each round shows all names once, shuffled anew.
    """

    def __init__(self, names: Sequence[str], repeats: int = 3, seed: int = 0):
        check_positive(repeats, "repeats")
        generator = np.random.default_rng(seed)
        self.names = list(names)
        self.order = [self.names[i] for _ in range(repeats) for i in generator.permutation(len(self.names))]
        self.answers: list[int] = []

    @property
    def current(self) -> str | None:
        """The name that is judged now; None when the experiment is over."""
        return self.order[len(self.answers)] if len(self.answers) < len(self.order) else None

    def answer(self, score: int) -> None:
        """Take the score of the current picture and go to the next."""
        if self.current is None:
            raise ValueError("the experiment is over: all pictures have been judged")
        self.answers.append(score)

    def opinion(self, name: str) -> tuple[float, float, float]:
        """Mean opinion score of a name with its 95 % bootstrap interval: (mean, low, high)."""
        check_one_of(name, self.names, "name")
        scores = [s for n, s in zip(self.order, self.answers, strict=False) if n == name]
        return (float(np.mean(scores)), *bootstrap_interval(scores))

    def preferred(self, name: str) -> tuple[float, float, float]:
        """Share of the trials of a name answered with 1 (not 0), with its Wilson interval: (share, low, high)."""
        check_one_of(name, self.names, "name")
        scores = [s for n, s in zip(self.order, self.answers, strict=False) if n == name]
        wins = sum(scores)
        return (wins / len(scores) if scores else math.nan, *wilson_interval(wins, len(scores)))


def rating(pictures: Mapping[str, Tensor], repeats: int = 3, seed: int = 0, zoom: int = 2) -> Panel:
    """An opinion-score experiment: judge each picture from 1 (bad) to 5 (excellent) without knowing which one it is.

    After the last answer the mean opinion score of each name appears with its 95 % interval. The answers stay in the
    panel's `trials`.
    """
    trials = Trials(list(pictures), repeats, seed)
    buttons = [
        ipywidgets.Button(description=f"{score} {word}")
        for score, word in enumerate(("bad", "poor", "fair", "good", "excellent"), start=1)
    ]
    return _experiment(trials, buttons, lambda name: pictures[name], trials.opinion, "opinion score", zoom)


def preference(pairs: Mapping[str, tuple[Tensor, Tensor]], repeats: int = 4, seed: int = 0, zoom: int = 2) -> Panel:
    """A two-alternative experiment: which of two pictures looks better?

    `pairs` maps a name to (first, second). The sides are shuffled; the share of answers for the *first* picture appears
    at the end with its Wilson interval: when 50 % lies inside, you have not shown a preference.
    """
    trials = Trials(list(pairs), repeats, seed)
    swapped = np.random.default_rng(seed + 1).integers(0, 2, len(trials.order)).astype(bool)
    buttons = [ipywidgets.Button(description=side) for side in ("left is better", "right is better")]

    def shown(name: str) -> Tensor:
        first, second = pairs[name]
        pair = (second, first) if swapped[len(trials.answers)] else (first, second)
        return torch.cat([pair[0], torch.ones_like(first[..., :8]), pair[1]], dim=-1)

    def score(button: int) -> int:
        return int((button == 0) != swapped[len(trials.answers)])

    return _experiment(trials, buttons, shown, trials.preferred, "share of answers for the first", zoom, score)


def _experiment(
    trials: Trials, buttons, shown, summary, what: str, zoom: int, score=lambda button: button + 1
) -> Panel:
    """The panel of `rating` and `preference`: a picture, its buttons, and the result after the last answer."""
    picture, line = Picture(), ipywidgets.HTML()

    def show() -> None:
        count = len(trials.answers)
        if trials.current is not None:
            line.value = f"picture {count + 1} of {len(trials.order)}"
            words = (
                f"Picture {count + 1} of {len(trials.order)} of the blind experiment; its name is hidden until the end."
            )
            picture.show(
                image_grid(shown(trials.current), title="How good does this look to you?", alt=words, zoom=zoom)
            )
            return
        for button in buttons:
            button.disabled = True
        results = (
            f"{name}: {m:.2f} (95 % interval {low:.2f} to {high:.2f})"
            for name in trials.names
            for m, low, high in [summary(name)]
        )
        line.value = f"<strong>{what}</strong><br>" + "<br>".join(map(html.escape, results))

    def answered(index: int) -> Callable:
        def press(_button) -> None:
            trials.answer(score(index))
            show()

        return press

    for index, button in enumerate(buttons):
        button.on_click(answered(index))
    show()
    panel = Panel(
        [line, picture, ipywidgets.HBox(buttons)], f"Experiment ({what}): run this cell in JupyterLab to take it."
    )
    panel.trials = trials
    return panel
