"""Execute the text sources of chapters and solutions into notebooks whose bytes do not change when nothing changed.

    python tools/execute_notebooks.py            everything
    python tools/execute_notebooks.py 01 02      these chapters and their solutions
    python tools/execute_notebooks.py --changed  what differs from its source

Each notebook gets stable cell ids and execution counts, no timestamps and no widget state; large PNG figures are
quantised; the measured seconds go into the line "Running time: about NN s", rounded up to 5 s, and are rewritten in
both files only when they are off by more than a quarter.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import time
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from notebook_files import ROOT, RUNNING_TIME, dumps, notebook_of, read_source, sources, twin_problem
from PIL import Image

from tutorial_lib.files import write_atomically

CELL_SECONDS = 120  # a cell that takes longer fails by name


def execute(notebook: NotebookNode, folder: Path) -> float:
    """Run all cells in a fresh kernel that starts in `folder`; return the seconds the cells took."""
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    with client.setup_kernel():
        start = time.perf_counter()
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        return time.perf_counter() - start


def normalise(notebook: NotebookNode) -> None:
    """Drop what changes from run to run: widget state and views, progress bars; quantise large figures."""
    notebook.metadata.pop("widgets", None)
    count = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        if cell.source.strip():
            count += 1
            cell.execution_count = count
        kept = []
        for output in cell.outputs:
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "execution_count" in output:
                output.execution_count = cell.execution_count
            if re.search(r"\d%\|.*\|", data.get("text/plain", "") + output.get("text", "")):
                continue  # a progress bar
            if "image/png" in data:
                data["image/png"] = quantised(data["image/png"])
            if kept and output.output_type == "stream" and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
            kept.append(output)
        cell.outputs = kept


def quantised(encoded: str) -> str:
    """A PNG of more than 60 kB with a palette of at most 256 colours and no metadata; others stay as they are."""
    raw = base64.b64decode(encoded)
    with Image.open(io.BytesIO(raw)) as picture:
        if len(raw) <= 60_000 or picture.mode == "P":
            return base64.b64encode(raw).decode()
        small = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def stated_seconds(text: str, measured: float) -> str:
    """`text` with its running time: rounded up to 5 s, unchanged when it is off by at most a quarter."""
    found = RUNNING_TIME.search(text)
    if not found:
        return text
    rounded = max(5, -(-int(measured + 0.999) // 5) * 5)
    if found[2] != "NN" and abs(rounded - int(found[2])) <= int(found[2]) / 4:
        return text
    return RUNNING_TIME.sub(rf"\g<1>{rounded}\g<3>", text, count=1)


def build(source: Path) -> str:
    """Execute one source, write its notebook (and its source when the seconds changed); return a line to print."""
    notebook = read_source(source)
    seconds = execute(notebook, source.parent.parent)
    before = source.read_text()
    after = stated_seconds(before, seconds)
    if after != before:
        write_atomically(source, lambda path: path.write_text(after))
        timed = read_source(source)
        for cell, fresh in zip(notebook.cells, timed.cells, strict=True):
            cell.source, cell.id = fresh.source, fresh.id
    normalise(notebook)
    text = dumps(notebook)
    path = notebook_of(source)
    same = path.exists() and path.read_text() == text
    if not same:
        write_atomically(path, lambda temporary: temporary.write_text(text))
    return f"{path.relative_to(ROOT)}: {seconds:.1f} s, {len(text) / 1e6:.2f} MB, {'same bytes' if same else 'written'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", help="two-digit chapter numbers; all when left out")
    parser.add_argument("--changed", action="store_true", help="only notebooks that differ from their source")
    parser.add_argument("--only", choices=["notebooks", "solutions"], help="chapters alone or solutions alone")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # the reference machine
    folders = [arguments.only] if arguments.only else ["notebooks", "solutions"]
    wanted = [s for folder in folders for s in sources(folder, arguments.numbers)]
    if arguments.numbers and not wanted:
        parser.error(f"no source starts with {' or '.join(arguments.numbers)}")
    failed = 0
    for source in wanted:
        if arguments.changed and twin_problem(source) is None:
            continue
        try:
            print(build(source), flush=True)
        except (CellExecutionError, CellTimeoutError) as error:
            failed += 1
            print(f"{source.relative_to(ROOT)} failed:\n{error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
