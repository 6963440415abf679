"""Derive the exercises from the worked solutions: what stands between the nbgrader markers becomes a stub.

    python tools/build_exercises.py            write exercises/NN_slug.ipynb from solutions/source/NN_slug.py
    python tools/build_exercises.py --check    change nothing; exit status 1 when a file would differ

`### BEGIN SOLUTION` ... `### END SOLUTION` becomes `raise NotImplementedError()`, `### BEGIN HIDDEN TESTS` ... goes, a
cell tagged `solution` (a discussion of the answer) is left out, and `assert check(...)` becomes `check(...)`, which
answers in one line instead of a traceback.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nbformat import NotebookNode
from notebook_files import ROOT, dumps, read_source, sources

from tutorial_lib.files import write_atomically

SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION[ \t]*\n?", re.S | re.M)
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS[ \t]*\n?", re.S | re.M)
STUB = "{0}# YOUR CODE HERE\n{0}raise NotImplementedError()\n"


def stub(text: str) -> str:
    """A solution cell without its solution. Raises ValueError for a marker without its partner."""
    text = SOLUTION.sub(lambda match: STUB.format(match[1]), text + "\n")
    text = HIDDEN.sub("", text)
    left = re.search(r"### (BEGIN|END) (SOLUTION|HIDDEN TESTS)", text)
    if left:
        raise ValueError(f"the marker {left[0]!r} has no partner")
    return re.sub(r"^assert (check\(.*\))$", r"\1", text, flags=re.M).rstrip("\n")


def exercises_of(source: Path) -> NotebookNode:
    """The learner's notebook of one solutions source: stubs, no outputs, no running time."""
    notebook = read_source(source)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", ())]
    for cell in notebook.cells:
        try:
            cell.source = stub(cell.source) if cell.cell_type == "code" else learners_text(cell.source)
        except ValueError as error:
            raise ValueError(f"{source.relative_to(ROOT)}: {error}") from error
        cell.metadata.clear()
    notebook.metadata.pop("jupytext", None)
    return notebook


def learners_text(text: str) -> str:
    """The title says Exercises instead of Solutions, and the running time of the solutions is left out."""
    text = re.sub(r"^(# .*)\bSolutions\b", r"\1Exercises", text, count=1, flags=re.M)
    return re.sub(r"^.*Running time: about (\d+|NN) s.*\n?", "", text, flags=re.M).rstrip("\n")


def main() -> int:
    check = "--check" in sys.argv[1:]
    texts = {f"{s.stem}.ipynb": dumps(exercises_of(s)) for s in sources("solutions")}
    folder = ROOT / "exercises"
    present = {p.name: p.read_text() for p in folder.glob("*.ipynb")}
    differ = sorted(name for name in texts.keys() | present.keys() if texts.get(name) != present.get(name))
    for name in differ:
        if check:
            print(f"exercises/{name} is not what solutions/source gives: run `make exercises`")
        elif name in texts:
            write_atomically(folder / name, lambda path, text=texts[name]: path.write_text(text))
            print(f"exercises/{name} written")
        else:
            (folder / name).unlink()
            print(f"exercises/{name} removed: it has no solution")
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
