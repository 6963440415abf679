"""Export chapters to HTML with the alternative text of every figure in its img tag: `make html` writes out/html.

nbconvert's default template drops the alternative text that outputs carry in their metadata; the two blocks below put
it back. A page is one self-contained file, apart from MathJax, which it loads from the web to set its formulas.
"""

from __future__ import annotations

import html
import sys
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from notebook_files import ROOT, notebook_of, sources

TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block data_png -%}{{ super() | with_alt(output, 'image/png') }}{%- endblock -%}
{%- block data_jpg -%}{{ super() | with_alt(output, 'image/jpeg') }}{%- endblock -%}
"""


def with_alt(tag: str, output: NotebookNode, mime: str) -> str:
    """The HTML of one picture with its alternative text, when the output's metadata holds one."""
    alt = output.metadata.get(mime, {}).get("alt", "")
    return tag.replace("<img ", f'<img alt="{html.escape(alt)}" ', 1) if alt else tag


def page(notebook: NotebookNode) -> str:
    """One notebook as an HTML page."""
    exporter = HTMLExporter(
        extra_loaders=[DictLoader({"with_alt.html.j2": TEMPLATE})], template_file="with_alt.html.j2"
    )
    exporter.register_filter("with_alt", with_alt)
    return exporter.from_notebook_node(notebook)[0]


def main() -> int:
    folder = ROOT / "out" / "html"
    for source in (s for kind in ("notebooks", "solutions") for s in sources(kind, sys.argv[1:])):
        path: Path = notebook_of(source)
        target = folder / path.parent.name / f"{path.stem}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(nbformat.read(path, as_version=4)))
        print(target.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
