"""The house rules: who may import whom, how long a file may be, and that nothing public goes without a docstring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tutorial_lib"
FLOORS = (
    (
        "checks",
        "compact",
        "files",
        "noise",
        "image_files",
        "images",
        "schedules",
        "linear_operator",
        "blurs",
        "operators",
    ),
    ("steps", "denoisers", "oracles", "degradations", "metrics", "color", "tiles", "data"),
    (
        "samplers",
        "guidance",
        "likelihood",
        "score_matching",
        "domains",
        "latents",
        "corruption",
        "networks",
        "sparse",
        "sr3",
        "calibration",
        "zero_shot",
        "yoda",
    ),
    ("training", "recipes", "pretrained", "distillation"),
    ("super_resolution", "photo_priors", "conditioning"),
    ("figures", "plots", "widgets", "exercises", "cli", "doctor", "__main__"),
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
EVERY = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def unit(path: Path) -> str:
    """The module or subpackage directly below tutorial_lib that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    """Which parts of the package a file imports, inside functions included, for type checking excluded."""
    found = set()
    package = ("tutorial_lib", *path.relative_to(PACKAGE).parent.parts)

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            whole = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                parts = [*whole, alias.name]
                if parts[0] == "tutorial_lib" and len(parts) > 1:
                    found.add(parts[1])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found - {"__version__"}


@EVERY
def test_modules_import_from_their_own_floor_or_below(path):
    here = FLOOR[unit(path)]
    above = {name for name in imported_units(path) if FLOOR[name] > here}
    assert not above, f"{path.name} (floor {here + 1}) imports {sorted(above)} from a higher floor"


def test_there_are_no_cycles():
    edges = {name: set() for name in FLOOR}
    for path in MODULES:
        edges[unit(path)] |= imported_units(path) - {unit(path)}
    while edges:
        free = [name for name, targets in edges.items() if not targets & edges.keys()]
        assert free, f"these import each other in a circle: {sorted(edges)}"
        for name in free:
            del edges[name]


def test_the_check_sees_an_import_from_above(tmp_path, monkeypatch):
    bad = PACKAGE / "schedules.py"
    text = "from .samplers import ddim\nfrom tutorial_lib.data.folder import folder\nimport torch\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert imported_units(bad) == {"samplers", "data"}


@EVERY
def test_no_file_is_longer_than_one_sitting(path):
    limit = 600 if unit(path) == "exercises" else 450  # lists of exercises are read one exercise at a time
    assert len(path.read_text().splitlines()) <= limit


@pytest.mark.parametrize("path", [p for p in MODULES if unit(p) not in ("cli", "doctor")], ids=lambda p: p.stem)
def test_everything_public_has_a_docstring(path):
    """cli and doctor are programs: their functions are steps with telling names, not an interface."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            small = isinstance(node, ast.FunctionDef) and len(node.body) <= 3
            assert ast.get_docstring(node) or small, f"{path.name}: {node.name} has no docstring"
