"""The authoring tools: stubs, twins, normal form, seconds, audit; and two kernels that run the same notebook alike."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import audit
import build_exercises
import execute_notebooks
import nbformat
import notebook_files
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

SOLUTION = '''def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    y = x + x
    return y
    ### END SOLUTION


### BEGIN HIDDEN TESTS
assert double(3) == 6
### END HIDDEN TESTS
'''

CHAPTER = """# ---
# jupyter:
#   jupytext:
#     formats: ipynb,source//py:percent
# ---

# %% [markdown]
# # A chapter
#
# Running time: about NN s.

# %% tags=["nbval-check-output"]
import os

print("seen", os.path.basename(os.getcwd()))
print("again")

# %%
import ipywidgets
from IPython.display import display

display(ipywidgets.IntSlider(3))
1 + 1

# %%
1 + 1
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with one chapter and its solutions in place of this one."""
    for module in (notebook_files, execute_notebooks, build_exercises, audit):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for folder in ("notebooks/source", "solutions/source", "exercises"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "notebooks/source/01_toy.py").write_text(CHAPTER)
    body = "\n".join(["# %% [markdown]", "# # Solutions 01", "#", "# Running time: about 5 s.", "", "# %%", SOLUTION])
    end = '# %%\nassert check("01.1", double)\n\n# %% [markdown] tags=["solution"]\n# Because.\n'
    (tmp_path / "solutions/source/01_toy.py").write_text(f"{body}\n{end}")
    return tmp_path


def test_stub_replaces_the_solution_and_keeps_the_rest():
    assert build_exercises.stub(SOLUTION) == (
        'def double(x):\n    """Twice x."""\n    # YOUR CODE HERE\n    raise NotImplementedError()'
    )
    assert build_exercises.stub('assert check("01.1", f)') == 'check("01.1", f)'
    assert build_exercises.stub("assert f(2) == 4") == "assert f(2) == 4"
    for broken in ("### BEGIN SOLUTION\nx = 1", "x = 1\n### END SOLUTION"):
        with pytest.raises(ValueError, match="has no partner"):
            build_exercises.stub(broken)


def test_exercises_are_derived_and_a_difference_is_seen(project, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    assert build_exercises.main() == 1  # missing
    monkeypatch.setattr(sys, "argv", ["build"])
    assert build_exercises.main() == 0
    path = project / "exercises/01_toy.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    assert [c.source.splitlines()[0] for c in cells] == ["# Exercises 01", "def double(x):", 'check("01.1", double)']
    assert "Running time" not in cells[0].source and "SOLUTION" not in path.read_text()
    monkeypatch.setattr(sys, "argv", ["build", "--check"])
    assert build_exercises.main() == 0
    path.write_text(path.read_text().replace("Twice x", "Twice  x"))
    assert build_exercises.main() == 1
    assert "01_toy.ipynb is not what solutions/source gives" in capsys.readouterr().out


def test_two_executions_give_the_same_bytes_and_the_twin_check_sees_edits(project):
    source = project / "notebooks/source/01_toy.py"
    path = project / "notebooks/01_toy.ipynb"
    assert "is missing" in notebook_files.twin_problem(source)
    assert "written" in execute_notebooks.build(source)
    first = path.read_bytes()
    assert "Running time: about 5 s" in source.read_text()
    assert notebook_files.twin_problem(source) is None
    assert "same bytes" in execute_notebooks.build(source)
    assert path.read_bytes() == first
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [c.execution_count for c in notebook.cells[1:]] == [1, 2, 3]
    assert notebook.cells[1].outputs[0].text == "seen notebooks\nagain\n"
    assert len({c.id for c in notebook.cells}) == 4
    assert "widget" not in first.decode().replace("ipywidgets", "") and "execution" not in notebook.cells[1].metadata
    assert dict(notebook.metadata) == notebook_files.METADATA
    for before, after in (
        ('"again"', '"twice"'),
        ("check-output", "skip"),
        ("# A chapter", "# Chapter"),
        ("1 + 1\n", ""),
    ):
        source.write_text(CHAPTER.replace("NN", "5").replace(before, after))
        assert "differs from" in notebook_files.twin_problem(
            source
        ) or "cells, its source" in notebook_files.twin_problem(source)
    source.write_text(CHAPTER.replace("NN", "5").replace("\n# %%\nimport", "\n\n# %%\nimport"))
    assert "other blank lines" in notebook_files.twin_problem(source)
    execute_notebooks.build(source)
    assert notebook_files.twin_problem(source) is None


def test_a_cell_over_its_time_fails_with_its_name(tmp_path):
    cells = [new_code_cell("x = 1", id="first"), new_code_cell("import time\ntime.sleep(3)", id="slow")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "sleepy.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-cell-timeout=1"]
    run = subprocess.run([*command, "sleepy.ipynb"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    assert "sleepy.ipynb::Cell 1" in run.stdout and "imeout" in run.stdout
    assert "1 failed, 1 passed" in run.stdout


def picture(size: int, mode: str = "RGB") -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_normal_form_of_outputs():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}, "text/plain": "Explorer"}
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}, "text/plain": "  0%|          | 0/3"}
    large = picture(200)
    cell = new_code_cell(
        "f()",
        execution_count=17,
        outputs=[
            new_output("stream", name="stdout", text="a\n"),
            new_output("stream", name="stdout", text="b\n"),
            new_output("display_data", bar),
            new_output("execute_result", view, execution_count=17),
            new_output("display_data", {"image/png": large}),
        ],
        metadata={"execution": {"iopub.execute_input": "now"}},
    )
    notebook = new_notebook(cells=[new_markdown_cell("m"), cell], metadata={"widgets": {"state": {}}})
    execute_notebooks.normalise(notebook)
    assert "widgets" not in notebook.metadata and not cell.metadata and cell.execution_count == 1
    stream, result, shown = cell.outputs
    assert stream.text == "a\nb\n" and result.data == {"text/plain": "Explorer"} and result.execution_count == 1
    assert len(shown.data["image/png"]) < 0.5 * len(large)
    assert execute_notebooks.quantised(picture(20)) == picture(20)  # small ones stay as they are


@pytest.mark.parametrize(
    ("stated", "measured", "expected"),
    [
        ("NN", 0.2, "5"),
        ("NN", 5.0, "5"),
        ("NN", 5.1, "10"),
        ("20", 14.0, "20"),  # 15 is a quarter less than 20: left alone
        ("20", 9.0, "10"),
        ("20", 24.0, "20"),
        ("20", 26.0, "30"),
    ],
)
def test_seconds_are_rewritten_only_when_off_by_more_than_a_quarter(stated, measured, expected):
    text = "Reading time: 40 min. Running time: about {} s on two cores."
    assert execute_notebooks.stated_seconds(text.format(stated), measured) == text.format(expected)


def test_audit_counts_words_and_finds_bad_links_and_missing_words(project):
    assert audit.count_words("Two words $x = y$ `code here` [linked text](target.md) $$E = mc^2$$ <b>bold</b>") == 5
    (project / "there.md").write_text("")
    text = "[a](there.md#part) [b](https://x.org) [c](#here) [d](gone.md) ![](there.md) `[e](code.md)`"
    assert audit.link_problems(text, project) == [
        "the link gone.md leads nowhere",
        "the picture there.md has no alternative text",
    ]
    output = new_output(
        "display_data", {"image/png": "x"}, metadata={"image/png": {"alt": "A grey square on white, centred."}}
    )
    bare = new_output("display_data", {"image/jpeg": "x"})
    notebook = new_notebook(cells=[new_code_cell("f", outputs=[output, bare])])
    count, problems = audit.figure_problems(notebook)
    assert count == 2 and len(problems) == 1 and "cell 0" in problems[0]


def test_audit_names_what_is_wrong_with_a_run():
    cells = [
        new_markdown_cell("Running time: about 50 s"),
        new_code_cell("a"),
        new_code_cell("b", execution_count=2, outputs=[new_output("error", ename="E", evalue="", traceback=[])]),
        new_code_cell("c", execution_count=3, outputs=[new_output("stream", name="stderr", text="warned")]),
    ]
    problems = "\n".join(audit.run_problems(new_notebook(cells=cells, metadata={"widgets": {}}), "notebooks"))
    for words in (
        "cell 1 was not executed",
        "cell 2 ends in an error",
        "cell 3 writes to stderr",
        "metadata.widgets",
        "50 s",
    ):
        assert words in problems
    cells = [new_markdown_cell("Running time: about 40 s"), new_code_cell("a", execution_count=1)]
    assert audit.run_problems(new_notebook(cells=cells), "notebooks") == []


def test_audit_lists_every_shortcoming_of_a_thin_chapter(project, monkeypatch, capsys):
    (project / "README.md").write_text("[gone](gone.md)")
    (project / "CONTRIBUTING.md").write_text("fine")
    execute_notebooks.build(project / "notebooks/source/01_toy.py")
    monkeypatch.setattr(sys, "argv", ["audit"])
    assert audit.main() == 1
    said = capsys.readouterr().out
    for words in (
        "4 words (2000 to 4500)",
        "0 figures",
        "no explorer",
        "no a recap"[:2],
        "README.md: the link gone.md",
    ):
        assert words in said, said
    monkeypatch.setattr(sys, "argv", ["audit", "07"])
    assert audit.main() == 1 and "07: no such chapter" in capsys.readouterr().out
