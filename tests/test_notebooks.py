"""The committed notebooks: in step with their sources, executed, described, within their seconds, and exportable."""

from __future__ import annotations

import html
import re
from pathlib import Path

import audit
import build_exercises
import nbformat
import pytest
from export_html import page
from notebook_files import ROOT, dumps, notebook_of, sources, twin_problem

SOURCES = [*sources("notebooks"), *sources("solutions")]
EVERY = pytest.mark.parametrize("source", SOURCES, ids=lambda p: f"{p.parent.parent.name}/{p.stem}")


def test_no_notebook_without_a_source_and_no_chapter_without_exercises():
    for folder in ("notebooks", "solutions"):
        assert {p.stem for p in (ROOT / folder).glob("*.ipynb")} == {s.stem for s in sources(folder)}
    assert [s.stem for s in sources("notebooks")] == [s.stem for s in sources("solutions")]


@EVERY
def test_notebook_and_source_are_twins(source):
    assert twin_problem(source) is None


@EVERY
def test_outputs_are_complete_described_and_within_the_budget(source):
    path = notebook_of(source)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert audit.run_problems(notebook, path.parent.name) == []
    assert audit.figure_problems(notebook)[1] == []
    assert audit.link_problems(audit.prose(notebook), path.parent) == []
    assert dumps(notebook) == path.read_text(), "not in normal form: run `make notebooks`"


@EVERY
def test_alternative_texts_survive_the_export_to_html(source):
    notebook = nbformat.read(notebook_of(source), as_version=4)
    texts = [
        output.metadata[mime]["alt"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for mime in output.get("data", {})
        if mime.startswith("image/")
    ]
    if not texts:
        return
    exported = page(notebook)
    found = [html.unescape(a or b) for a, b in re.findall(r"<img (?:alt=\"([^\"]*)\"|alt='([^']*)')", exported)]
    assert found == texts


@EVERY
def test_some_numbers_are_compared_by_nbval(source):
    notebook = nbformat.read(notebook_of(source), as_version=4)
    assert any("nbval-check-output" in cell.metadata.get("tags", ()) for cell in notebook.cells)


def test_exercises_are_what_the_solutions_give():
    expected = {f"{s.stem}.ipynb": dumps(build_exercises.exercises_of(s)) for s in sources("solutions")}
    present = {p.name: p.read_text() for p in Path(ROOT / "exercises").glob("*.ipynb")}
    assert present.keys() == expected.keys()
    assert [name for name in expected if present[name] != expected[name]] == []
