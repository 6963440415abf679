"""What the other tools share: where notebooks lie, how a text source becomes a notebook, and when the two are twins."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FORMATS = "ipynb,source//py:percent"  # JupyterLab saves the notebook and its source together
RUNNING_TIME = re.compile(r"(Running time: about )(\d+|NN)( s\b)")
METADATA = {
    "jupytext": {"formats": FORMATS},
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# The blank lines around a cell are kept so that the notebook gives back its source to the letter: JupyterLab refuses to
# open a notebook that is newer than its source and says something else.
KEPT = ("tags", "lines_to_next_cell", "lines_to_end_of_cell_marker")


def sources(folder: str, numbers: list[str] | None = None) -> list[Path]:
    """The text sources of `folder` ("notebooks" or "solutions") in reading order; `numbers` keeps some chapters."""
    paths = sorted((ROOT / folder / "source").glob("[0-9][0-9]_*.py"))
    return [p for p in paths if not numbers or p.name[:2] in numbers]


def notebook_of(source: Path) -> Path:
    """notebooks/source/01_slug.py -> notebooks/01_slug.ipynb."""
    return source.parent.parent / f"{source.stem}.ipynb"


def read_source(source: Path) -> NotebookNode:
    """A py:percent file as a notebook with stable cell ids and only the metadata that a reader needs."""
    notebook = jupytext.read(source)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        seen[cell.source] = seen.get(cell.source, -1) + 1
        cell.id = hashlib.sha256(f"{source.stem}\0{seen[cell.source]}\0{cell.source}".encode()).hexdigest()[:12]
        cell.metadata = NotebookNode({name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)})
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def content(notebook: NotebookNode) -> list[tuple[str, str, tuple[str, ...]]]:
    """What must agree between twins: type, source and tags of every cell."""
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in notebook.cells]


def twin_problem(source: Path) -> str | None:
    """None when a source and its notebook agree; otherwise one sentence naming the first cell that differs.

    Contents are compared, not file times: git keeps no times, and `jupytext --sync` would drop the older edit.
    """
    path = notebook_of(source)
    name = path.relative_to(ROOT)
    if not path.exists():
        return f"{name} is missing: run `make notebooks`"
    text, executed = content(read_source(source)), content(nbformat.read(path, as_version=4))
    for index, (a, b) in enumerate(zip(text, executed, strict=False)):
        if a != b:
            return f"{name}: cell {index} differs from {source.relative_to(ROOT)}: run `make notebooks`"
    if len(text) != len(executed):
        return f"{name} has {len(executed)} cells, its source {len(text)}: run `make notebooks`"
    given_back = jupytext.writes(nbformat.read(path, as_version=4), "py:percent")
    if given_back[given_back.index("# %%") :] != (whole := source.read_text())[whole.index("# %%") :]:
        return f"{name} gives back {source.relative_to(ROOT)} with other blank lines: run `make notebooks`"
    return None


def dumps(notebook: NotebookNode) -> str:
    """A notebook as text whose bytes depend on nothing but its content."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"
