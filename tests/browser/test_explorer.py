"""Chapter 01 in a real JupyterLab in a real browser: all cells run, the slider moves, the picture changes."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# The notebook whose first explorer is tried; authors of other chapters name theirs by the environment variable.
NOTEBOOK = os.environ.get("BROWSER_NOTEBOOK", "01_super_resolution_basics.ipynb")
PIXELS = """image => {
    if (!image.complete || !image.naturalWidth) return '';
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def wait_until(page, condition, seconds: float, what: str):
    """The first true value of `condition()`; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        page.wait_for_timeout(100)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def prompts(page) -> list[str]:
    """The prompts of the code cells: "[ ]:" not run, "[*]:" running, "[7]:" done."""
    return [text.strip() for text in page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()]


def run_all_cells(page, url: str, token: str, notebook: str) -> None:
    """Open a notebook, forget its stored outputs and run every cell."""
    page.goto(f"{url}/doc/tree/notebooks/{notebook}?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    # A Run All given before the kernel is connected is dropped silently: wait for the status bar, and see that it took.
    page.wait_for_selector(".jp-StatusBar-TextItem:has-text('| Idle')", timeout=60_000)
    click(page, "Edit", "editmenu:clear-all")
    wait_until(page, lambda: not page.locator(".jp-Notebook .jp-OutputArea-output").count(), 10, "the outputs to go")
    for _attempt in range(5):
        click(page, "Run", "runmenu:run-all")
        page.wait_for_timeout(1000)
        if any(re.match(r"\[[\d*]", prompt) for prompt in prompts(page)):
            break
    wait_until(
        page,
        lambda: all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts(page)),
        100,
        f"all cells to finish; the prompts were {prompts(page)}",
    )


def click(page, menu: str, command: str) -> None:
    page.click(f"li.lm-MenuBar-item:has-text('{menu}')")
    page.click(f"li.lm-Menu-item[data-command='{command}']")


def picture(panel) -> str:
    """A digest of the pixels that an explorer shows; empty while it is being replaced."""
    from playwright.sync_api import Error

    try:
        url = panel.locator("img.widget-image").first.evaluate(PIXELS, timeout=2000)
    except Error:
        return ""
    return hashlib.sha256(url.encode()).hexdigest() if url else ""


@pytest.mark.browser
def test_the_explorer_of_chapter_01_answers_the_slider(lab, page):
    if not (ROOT / "notebooks" / NOTEBOOK).exists():
        pytest.fail(f"notebooks/{NOTEBOOK} does not exist")
    run_all_cells(page, *lab, NOTEBOOK)
    if not page.locator(".widget-slider").count():  # an explorer of checkboxes only
        box = page.locator(".widget-checkbox input[type=checkbox]").first
        panel = box.locator("xpath=ancestor::*[contains(concat(' ', @class, ' '), ' widget-vbox ')][last()]")
        before = wait_until(page, lambda: picture(panel), 20, "the first picture")
        box.click()
        wait_until(page, lambda: picture(panel) not in ("", before), 20, "the picture to change after a click")
        return
    slider = page.locator(".widget-slider").first
    slider.scroll_into_view_if_needed()
    panel = slider.locator("xpath=ancestor::*[contains(concat(' ', @class, ' '), ' widget-vbox ')][1]")
    readout, handle = slider.locator(".widget-readout"), slider.locator(".noUi-handle").first
    seen = [wait_until(page, lambda: picture(panel), 20, "the first picture")]

    def changed(what: str) -> None:
        digest = wait_until(page, lambda: (now := picture(panel)) not in ("", seen[-1]) and now, 20, what)
        seen.append(digest)

    value = readout.inner_text()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    if readout.inner_text() == value:  # it stood at its upper end
        page.keyboard.press("ArrowLeft")
    changed("the picture to change after an arrow key")
    assert readout.inner_text() != value

    bar, knob = slider.locator(".noUi-target").bounding_box(), handle.bounding_box()
    from_left = knob["x"] + knob["width"] / 2 < bar["x"] + bar["width"] / 2
    page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
    page.mouse.down()
    page.mouse.move(bar["x"] + bar["width"] * (0.98 if from_left else 0.02), bar["y"] + bar["height"] / 2, steps=8)
    page.mouse.up()
    changed("the picture to change after the slider was dragged")

    folded = panel.locator("details").first
    assert len(folded.text_content()) > 40, "the picture has no description"
    errors = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
    assert page.locator(errors).count() == 0, page.locator(errors).all_inner_texts()
