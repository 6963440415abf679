"""widgets: moving a control redraws the picture; the statistics behind the experiments agree with scipy."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime

import ipywidgets
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image

from tutorial_lib import plots, widgets

ALT = "A grey square; the larger the level, the brighter it is."


def draw(level: int = 0, inverted: bool = False) -> plots.Figure:
    if level == 9:
        raise ValueError("level 9 cannot be drawn")
    value = 1 - level / 10 if inverted else level / 10
    return plots.image_grid(
        torch.full((8, 8), value), title=f"Level {level}", alt=f"{ALT} Level {level}.", caption="A < B"
    )


def tree(widget) -> list:
    return [widget, *(w for child in getattr(widget, "children", ()) for w in tree(child))]


def first(panel, kind):
    return next(w for w in tree(panel) if isinstance(w, kind))


def test_a_slider_redraws_the_picture_and_its_description():
    panel = widgets.explorer(draw, level=(0, 9, 1, 3), inverted=False)
    slider, image = first(panel, ipywidgets.IntSlider), first(panel, ipywidgets.Image)
    assert (slider.value, slider.continuous_update) == (3, False)
    assert image.value == draw(3).encoded[1]
    slider.value = 7
    assert image.value == draw(7).encoded[1] != draw(3).encoded[1]
    words = first(panel, widgets.Picture).words.value
    assert "Level 7." in words and "A &lt; B" in words
    first(panel, ipywidgets.Checkbox).value = True
    assert image.value == draw(7, True).encoded[1]
    assert not any(isinstance(w, ipywidgets.Output) for w in tree(panel))
    assert repr(panel) == "Explorer (level, inverted): run this cell in JupyterLab to use its controls."


def test_what_draw_raises_is_shown_and_the_next_change_tries_again():
    panel = widgets.explorer(draw, level=(0, 9, 1))
    slider, picture = first(panel, ipywidgets.IntSlider), first(panel, widgets.Picture)
    slider.value = 9
    assert "level 9 cannot be drawn" in picture.words.value
    slider.value = 2
    assert picture.image.value == draw(2).encoded[1] and "cannot" not in picture.words.value
    with pytest.raises(ValueError, match="level 9"):  # a first picture that cannot be drawn is the author's mistake
        widgets.explorer(draw, level=(9, 10, 1))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((0, 5, 1), ipywidgets.IntSlider),
        ((0.0, 1.0, 0.1), ipywidgets.FloatSlider),
        (["a", "b"], ipywidgets.Dropdown),
        (True, ipywidgets.Checkbox),
        (ipywidgets.IntText(3), ipywidgets.IntText),
    ],
)
def test_controls(value, kind):
    made = widgets.control("noise_level", value)
    assert isinstance(made, kind)
    if not isinstance(value, ipywidgets.Widget):
        assert made.description == "noise level"


@pytest.mark.parametrize("value", [(0, 1), "abc", [], 3])
def test_a_control_that_cannot_be_made_is_named(value):
    with pytest.raises(TypeError, match="level must be"):
        widgets.control("level", value)


def test_frames_draw_the_same_function():
    figure = widgets.frames(draw, [{"level": 1}, {"level": 8}], title="Brighter", alt=ALT)
    for level in (1, 8):
        strip, frame = figure.pixels, draw(level).pixels[30:38, 160:180]
        assert any(
            np.array_equal(strip[r : r + 8, c : c + 20], frame)
            for r, c in np.argwhere((strip[:-8, :-20] == frame[0, 0]).all(-1))
        )


def jpeg(width: int, height: int, orientation: int = 1) -> bytes:
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    exif = picture.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_photos_are_decoded_upright_and_shrunk():
    image = widgets.decode_photo(jpeg(400, 200, orientation=6), max_side=100)
    assert image.shape == (1, 3, 100, 50)  # orientation 6 turns it by a quarter
    assert image.dtype == torch.float32 and abs(image[0, 0].mean().item() - 1) < 0.02 and image[0, 1].max() < 0.02
    assert widgets.decode_photo(jpeg(30, 20)).shape == (1, 3, 20, 30)  # never enlarged
    for broken in (b"", b"no picture", jpeg(400, 200)[:200]):
        with pytest.raises(ValueError, match="cannot be read as a picture"):
            widgets.decode_photo(broken)


def test_upload_shows_the_example_then_the_learners_photo():
    def shape(image):
        return plots.image_grid(image, title=f"{tuple(image.shape)}", alt=ALT)

    panel = widgets.upload(shape, torch.zeros(1, 3, 8, 8))
    picture, button = first(panel, widgets.Picture), first(panel, ipywidgets.FileUpload)
    assert picture.image.value == shape(torch.zeros(1, 3, 8, 8)).encoded[1]

    def send(content):
        common = {"name": "a", "type": "image/jpeg", "size": len(content), "last_modified": datetime.now(UTC)}
        button.set_trait("value", ({**common, "content": memoryview(content)},))

    send(jpeg(40, 20))
    assert picture.image.value == shape(widgets.decode_photo(jpeg(40, 20))).encoded[1]
    send(b"junk")
    assert "cannot be read as a picture" in picture.words.value


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (3, 10), (17, 40), (1, 1)])
def test_wilson_interval_is_scipys(successes, trials):
    z = scipy.stats.norm.ppf(0.975)
    exact = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(widgets.wilson_interval(successes, trials, z), (exact.low, exact.high), atol=1e-12)


def test_wilson_interval_edges():
    assert widgets.wilson_interval(0, 0) == (0.0, 1.0)
    assert widgets.wilson_interval(4, 4)[0] < 0.6  # the textbook interval would be (1, 1)
    with pytest.raises(ValueError, match="successes must lie between 0 and trials = 3"):
        widgets.wilson_interval(4, 3)


def test_bootstrap_interval_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = widgets.bootstrap_interval(values, draws=20_000)
    half = 1.96 * values.std() / math.sqrt(400)
    # A quantile at 2.5 % of 20,000 draws has a standard error of 0.019 standard deviations; 6 of them for each end.
    assert abs(low - (values.mean() - half)) < 0.115 * half / 1.96
    assert abs(high - (values.mean() + half)) < 0.115 * half / 1.96
    again = widgets.bootstrap_interval(values)
    assert again == widgets.bootstrap_interval(values) != widgets.bootstrap_interval(values, seed=1)
    with pytest.raises(ValueError, match="values must hold"):
        widgets.bootstrap_interval([])


def test_trials_show_each_name_once_a_round_in_an_order_of_the_seed():
    trials = widgets.Trials(["a", "b", "c"], repeats=4, seed=0)
    assert [sorted(trials.order[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert (
        trials.order
        == widgets.Trials(["a", "b", "c"], 4, seed=0).order
        != widgets.Trials(["a", "b", "c"], 4, seed=1).order
    )
    while trials.current:
        trials.answer({"a": 5, "b": 2, "c": 3}[trials.current])
    assert trials.opinion("a") == (5.0, 5.0, 5.0)
    assert trials.opinion("b")[0] == 2.0
    with pytest.raises(ValueError, match="experiment is over"):
        trials.answer(1)
    with pytest.raises(ValueError, match="name must be one of"):
        trials.opinion("d")


def test_rating_gives_each_picture_the_score_of_the_button():
    panel = widgets.rating({"dark": torch.zeros(1, 3, 8, 8), "bright": torch.ones(1, 3, 8, 8)}, repeats=2)
    buttons = [w for w in tree(panel) if isinstance(w, ipywidgets.Button)]
    assert [b.description[0] for b in buttons] == list("12345")
    while panel.trials.current:
        assert panel.trials.current not in first(panel, widgets.Picture).words.value  # blind
        buttons[4 if panel.trials.current == "bright" else 1].click()
    assert panel.trials.opinion("bright")[0] == 5 and panel.trials.opinion("dark")[0] == 2
    assert "bright: 5.00" in panel.children[0].value and all(b.disabled for b in buttons)


def test_preference_counts_for_the_first_picture_on_whichever_side_it_is():
    dark, bright = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8) * 0.8
    panel = widgets.preference({"pair": (dark, bright)}, repeats=12)
    buttons = [w for w in tree(panel) if isinstance(w, ipywidgets.Button)]
    sides = set()
    while panel.trials.current:
        shown = np.asarray(Image.open(io.BytesIO(first(panel, widgets.Picture).image.value)).convert("L")).astype(int)
        black = np.argwhere(shown[-20:] == 0)[:, 1].mean()
        grey = np.argwhere(shown[-20:] == 204)[:, 1].mean()
        side = 0 if black < grey else 1
        sides.add(side)
        buttons[side].click()
    assert sides == {0, 1}
    share, low, high = panel.trials.preferred("pair")
    assert share == 1 and (low, high) == widgets.wilson_interval(12, 12)
