"""pyproject.toml, constraints.txt and environment.yml agree; the wheel is complete; the licences credit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tutorial_lib.images import PHOTOS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pairs), "constraints.txt must pin each package with == and without a local version"
    return {canonicalize_name(pair[1]): pair[2] for pair in pairs}


def direct() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *EXTRAS.values()]
    return [Requirement(text) for group in groups for text in group]


def test_every_direct_dependency_is_pinned_within_its_range_and_as_tested():
    pinned = pins()
    for requirement in direct():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), (
            f"{name}=={pinned[name]} is outside {requirement.specifier}"
        )
        assert version(name).split("+")[0] == pinned[name], (
            f"{name}: tested with {version(name)}, pinned {pinned[name]}"
        )
        operators = {s.operator for s in requirement.specifier}
        dated = pinned[name].startswith("20")  # versions by date have no next major one
        assert ">=" in operators and ("<" in operators or dated), f"{name} needs a range with both ends"
    assert pinned["torch"] == "2.13.0"


def test_extras_hold_what_they_promise():
    names = {extra: {canonicalize_name(Requirement(r).name) for r in group} for extra, group in EXTRAS.items()}
    assert {"diffusers", "pywavelets", "scipy", "pytest", "hypothesis", "nbval", "playwright", "ruff"} <= names["test"]
    assert {"jupyterlab", "ipywidgets", "matplotlib", "jupytext"} <= names["notebooks"]
    core = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert "playwright" not in core | names["notebooks"]
    assert "torchvision" not in pins()


def test_environment_yml_gives_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    (python,) = (line for line in conda if line.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert f"torch=={pins()['torch']}" in pip["pip"] and "-c constraints.txt" in pip["pip"]
    (editable,) = (line for line in pip["pip"] if line.startswith("-e"))
    assert set(re.search(r"\[(.*)\]", editable)[1].split(",")) == set(EXTRAS)


def test_makefile_installs_the_tested_set_torch_first():
    recipe = (ROOT / "Makefile").read_text()
    first, second = re.findall(r"pip install (.*)", recipe.split("$(INSTALLED): ")[1])[:2]
    assert f"torch=={pins()['torch']}" in first and "-c constraints.txt" in first
    assert "-c constraints.txt" in second and f".[{','.join(EXTRAS)}]" in second


def test_the_wheel_holds_modules_and_data(tmp_path):
    copy = tmp_path / "copy"  # a build leaves files behind
    shutil.copytree(ROOT / "tutorial_lib", copy / "tutorial_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "LICENSE-text", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    run = subprocess.run([*command, str(copy)], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "tutorial_lib"
    wanted = [*package.rglob("*.py"), *package.glob("weights/*"), *package.glob("data/*.json")]
    assert {str(path.relative_to(ROOT)) for path in wanted if path.is_file()} <= inside
    assert not any(name.startswith(("tests/", "tools/")) for name in inside)


def test_licences_and_ci():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    text = (ROOT / "LICENSE-text").read_text()
    assert "Attribution 4.0 International" in text
    assert [name for name, credit in PHOTOS.items() if f"  {name}: {credit}" not in text] == []
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
