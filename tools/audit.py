"""Say where a chapter falls short: `python tools/audit.py [NN ...]`. Exit status 1 when anything does.

For each chapter: does the executed notebook agree with its source, is it long enough and not too long, does it derive,
verify, show and ask; has every figure alternative text; do its links lead somewhere; does it stay within its seconds.
For its exercises: a stub for each, none with a solution in it. For README and CONTRIBUTING: do the links exist.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import nbformat
from nbformat import NotebookNode
from notebook_files import ROOT, RUNNING_TIME, notebook_of, sources, twin_problem


@dataclass(frozen=True)
class Floors:
    """What a chapter must hold at least, and at most."""

    words: tuple[int, int] = (2000, 4500)
    code_cells: tuple[int, int] = (20, 45)
    figures: int = 8
    formulas: int = 6
    verified: int = 3
    questions: int = 3
    exercises: int = 4


CHAPTER = Floors()
START = Floors(words=(700, 4500), code_cells=(3, 45), figures=3, formulas=0, verified=0)  # 00 is short on purpose
CELL_LINES = 40
BYTES = 1_800_000
SECONDS = {"notebooks": 40, "solutions": 15}
PARTS = {
    "a heading with what the learner will be able to do": r"(?im)^#+ .*(you will be able to|learning objectives)",
    "prerequisites": r"(?i)prerequisites",
    "a reading time in minutes": r"(?i)\b\d+ (min|minutes)\b",
    "the survey's section": r"(?i)\bsurvey\b",
    "common mistakes": r"(?i)common mistakes?",
    "a recap": r"(?im)^#+ .*(recap|summary)",
    "references with arXiv ids": r"(?i)arxiv:? ?\d{4}\.\d{4,5}|arxiv\.org/abs/",
    "a link to its exercises": r"\]\(\.\./exercises/",
}
VERIFIES = re.compile(r"\bassert\b|assert_close|assert_allclose")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def count_words(text: str) -> int:
    """Words of explanation: without formulas, code and markup."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|<[^>]+>|\]\([^)]*\)", " ", text, flags=re.S)
    return len(re.findall(r"[A-Za-z][A-Za-z'’-]+", text))


def figure_problems(notebook: NotebookNode) -> tuple[int, list[str]]:
    """How many figures the outputs hold, and the cells where one lacks alternative text."""
    figures, problems = 0, []
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            for mime in (m for m in output.get("data", {}) if m.startswith("image/")):
                figures += 1
                if len(output.metadata.get(mime, {}).get("alt", "")) < 25:
                    problems.append(
                        f"cell {index}: a figure without alternative text (make it with tutorial_lib.plots)"
                    )
    return figures, problems


def link_problems(text: str, folder: Path) -> list[str]:
    """Relative links that lead nowhere and embedded pictures without alternative text."""
    problems = []
    for bang, words, target in LINK.findall(re.sub(r"```.*?```|`[^`\n]+`", "", text, flags=re.S)):
        if bang and len(words) < 15:
            problems.append(f"the picture {target} has no alternative text")
        if not re.match(r"[a-z]+:|#", target) and not (folder / unquote(target.split("#")[0])).exists():
            problems.append(f"the link {target} leads nowhere")
    return problems


def run_problems(notebook: NotebookNode, folder: str) -> list[str]:
    """Cells that failed, were not run or complained; widget state; seconds beyond the budget or not stated."""
    problems = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            problems.append(f"cell {index} was not executed")
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"cell {index} ends in an error")
            if output.get("name") == "stderr":
                problems.append(f"cell {index} writes to stderr: {output.text.strip()[:80]}")
            if any("widget" in mime for mime in output.get("data", {})):
                problems.append(f"cell {index} holds a widget view: run `make notebooks`")
    if "widgets" in notebook.metadata:
        problems.append("metadata.widgets is there: code hosts may then show 'Invalid Notebook'")
    stated = RUNNING_TIME.search(prose(notebook))
    if not stated or stated[2] == "NN":
        problems.append("no line 'Running time: about NN s' filled in by `make notebooks`")
    elif int(stated[2]) > SECONDS[folder]:
        problems.append(f"runs {stated[2]} s, where {SECONDS[folder]} s are allowed")
    return problems


def audit_chapter(source: Path) -> tuple[str, list[str]]:
    """One line with what a chapter holds, and its shortcomings."""
    path, floors = notebook_of(source), START if source.name.startswith("00") else CHAPTER
    twin = twin_problem(source)
    if twin and not path.exists():
        return source.stem, [twin]
    notebook = nbformat.read(path, as_version=4)
    text = prose(notebook)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    figures, problems = figure_problems(notebook)
    formulas = len(re.findall(r"\$\$.*?\$\$|\\begin\{(?:align|equation|gather)", text, flags=re.S))
    exercises = exercise_numbers(ROOT / "exercises" / path.name)
    held = {
        "words": (count_words(text), *floors.words),
        "code cells": (len(code), *floors.code_cells),
        "figures": (figures, floors.figures, 30),
        "display formulas": (formulas, floors.formulas, 200),
        "cells that verify by assertion": (sum(bool(VERIFIES.search(c)) for c in code), floors.verified, 45),
        "questions with folded answers": (text.count("<details"), floors.questions, 12),
        "exercises": (len(exercises), floors.exercises, 12),
    }
    problems += [twin] if twin else []
    problems += [f"{n} {what} ({low} to {high})" for what, (n, low, high) in held.items() if not low <= n <= high]
    longest = max((len([line for line in c.splitlines() if line.strip()]) for c in code), default=0)
    if longest > CELL_LINES:
        problems.append(f"a code cell of {longest} lines (at most {CELL_LINES}): move the plumbing into tutorial_lib")
    if not re.search(r"\bexplorer\(|\bwidgets\.", "\n".join(code)):
        problems.append("nothing to play with: no explorer")
    if path.stat().st_size > BYTES:
        problems.append(f"{path.stat().st_size / 1e6:.1f} MB (at most {BYTES / 1e6:.1f}): smaller figures")
    problems += [f"no {part}" for part, pattern in PARTS.items() if not re.search(pattern, text)]
    problems += run_problems(notebook, "notebooks") + link_problems(text, path.parent)
    line = f"{source.stem}: " + ", ".join(f"{n} {what}" for what, (n, *_) in held.items())
    return f"{line}, {path.stat().st_size / 1e6:.2f} MB", problems


def exercise_numbers(path: Path) -> list[str]:
    """The numbers in the headings "## Exercise 01.3: ..." of a notebook."""
    if not path.exists():
        return []
    return re.findall(r"(?m)^#+ Exercise (\d\d\.\d+)", prose(nbformat.read(path, as_version=4)))


def audit_solution(source: Path) -> list[str]:
    """What is wrong with worked answers and the exercises made from them."""
    path = notebook_of(source)
    problems = [twin] if (twin := twin_problem(source)) else []
    if not path.exists():
        return problems
    notebook = nbformat.read(path, as_version=4)
    problems += run_problems(notebook, "solutions") + figure_problems(notebook)[1]
    problems += link_problems(prose(notebook), path.parent)
    learners = ROOT / "exercises" / path.name
    if not learners.exists():
        return [*problems, f"exercises/{path.name} is missing: run `make exercises`"]
    body = "\n".join(cell.source for cell in nbformat.read(learners, as_version=4).cells)
    if "BEGIN SOLUTION" in body:
        problems.append(f"exercises/{path.name} holds a solution")
    if body.count("raise NotImplementedError()") < len(exercise_numbers(learners)):
        problems.append(f"exercises/{path.name}: an exercise without a stub that raises NotImplementedError")
    return problems


def main() -> int:
    numbers = sys.argv[1:]
    failed = 0
    for number in set(numbers) - {source.name[:2] for source in sources("notebooks")}:
        print(f"{number}: no such chapter")
        failed += 1
    for source in sources("notebooks", numbers):
        line, problems = audit_chapter(source)
        print(line)
        for problem in problems:
            print(f"    {source.stem}: {problem}")
        failed += len(problems)
    for source in sources("solutions", numbers):
        problems = audit_solution(source)
        for problem in problems:
            print(f"    solutions/{source.stem}: {problem}")
        failed += len(problems)
    for page in () if numbers else ("README.md", "CONTRIBUTING.md"):
        problems = link_problems((ROOT / page).read_text(), ROOT) if (ROOT / page).exists() else ["is missing"]
        for problem in problems:
            print(f"    {page}: {problem}")
        failed += len(problems)
    print(f"{failed} shortcoming{'s' * (failed != 1)}" if failed else "everything holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
