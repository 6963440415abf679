"""What is installed, what is missing and what to do about it: `python -m tutorial_lib doctor`.

Nothing here uses the network or prints environment variables, so the output can go into a bug report as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

Row = tuple[str, str, str]  # (status, name, detail)
OK, WARN, FAIL = "OK", "WARN", "FAIL"
DISTRIBUTION = "tutorial-lib"
NEEDED_EXTRAS = ("notebooks",)  # the others (test) are for people who change the code
OLDEST_PYTHON = (3, 11)
NEXT = "Everything needed is there. Next: jupyter lab notebooks/00_start_here.ipynb"
GIB = 2**30


def examine() -> list[Row]:
    """Every check as (status, name, detail); status is OK, WARN (works without it) or FAIL. Never raises."""
    rows: list[Row] = []
    for check in (python, dependencies, kernel, widgets, fonts, weights, data, cores, memory, accelerator):
        rows += guarded(check)
    return rows


def guarded(check: Callable[[], list[Row]]) -> list[Row]:
    """The rows of one check; an exception becomes a FAIL row that quotes it."""
    try:
        return check()
    except Exception as error:  # a broken package can raise anything when it is imported
        text = " ".join(str(error).split())
        return [(FAIL, check.__name__, f"could not be checked ({type(error).__name__}: {text}); install again")]


def report(rows: list[Row]) -> tuple[str, int]:
    """The rows as text with what to do at the end, and the exit status: 0 when nothing failed, else 1."""
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{status:4}  {name:{width}}  {detail}" for status, name, detail in rows]
    failed = [name for status, name, _ in rows if status == FAIL]
    if failed:
        lines += ["", f"To do: repair {', '.join(failed)} as the FAIL lines say, then run the doctor again."]
    else:
        lines += ["", NEXT]
    return "\n".join(lines), int(bool(failed))


def python() -> list[Row]:
    found = ".".join(map(str, sys.version_info[:3]))
    if tuple(sys.version_info[:2]) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return [
            (FAIL, "Python", f"{found}, but {oldest} or newer is needed; install it and make the environment again")
        ]
    return [(OK, "Python", f"{found} at {sys.executable}")]


def dependencies() -> list[Row]:
    """One row for each requirement in the installed package's metadata, which pyproject.toml fills."""
    from packaging.requirements import Requirement

    try:
        own = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return [(FAIL, DISTRIBUTION, 'is not installed; in the checkout: pip install -e ".[notebooks,test]"')]
    rows: dict[str, Row] = {}  # a package that two extras name is told once, as its first mention has it
    for text in own.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        extras = [e for e in ("", *(own.get_all("Provides-Extra") or [])) if _applies(requirement, e)]
        if extras and requirement.name != DISTRIBUTION:
            row = _dependency(requirement, any(e in ("", *NEEDED_EXTRAS) for e in extras))
            rows.setdefault(requirement.name, row)
    return list(rows.values())


def _applies(requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _dependency(requirement, needed: bool) -> Row:
    status = FAIL if needed else WARN
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        purpose = "" if needed else " (only the tests need it)"
        return status, requirement.name, f'missing{purpose}; install it: pip install "{wanted}"'
    if not requirement.specifier.contains(version, prereleases=True):
        return status, requirement.name, f'{version} does not fit; install: pip install "{wanted}"'
    return OK, requirement.name, version


def kernel() -> list[Row]:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    repair = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        argv = KernelSpecManager().get_kernel_spec("python3").argv
    except NoSuchKernel:
        return [(FAIL, "kernel", f"Jupyter finds no kernel python3; make it: {repair}")]
    program = Path(argv[0])
    if program.is_absolute() and not program.exists():
        return [(FAIL, "kernel", f"the kernel python3 starts {program}, which is not there; make it again: {repair}")]
    if program.is_absolute() and os.path.abspath(program) != os.path.abspath(sys.executable):
        return [(WARN, "kernel", f"the kernel python3 runs {program}, not {sys.executable}; change it: {repair}")]
    return [(OK, "kernel", f"python3, ipykernel {metadata.version('ipykernel')}")]


def widgets() -> list[Row]:
    from jupyter_core.paths import jupyter_path

    version = metadata.version("ipywidgets")
    places = [
        Path(p) / "@jupyter-widgets" / "jupyterlab-manager" / "package.json" for p in jupyter_path("labextensions")
    ]
    if not any(place.exists() for place in places):
        repair = "pip install --force-reinstall jupyterlab_widgets"
        return [(FAIL, "widgets", f"ipywidgets {version}, but JupyterLab's part is missing (no sliders): {repair}")]
    return [(OK, "widgets", f"ipywidgets {version} with its JupyterLab extension")]


def fonts() -> list[Row]:
    from matplotlib import font_manager, rcParams

    family = rcParams["font.sans-serif"][0]
    try:
        path = font_manager.findfont(family, fallback_to_default=False)
    except ValueError:
        return [
            (
                FAIL,
                "fonts",
                f"matplotlib does not find {family}; install it again: pip install --force-reinstall matplotlib",
            )
        ]
    return [(OK, "fonts", f"{family} ({Path(path).name})")]


def weights() -> list[Row]:
    from .files import sha256
    from .pretrained import MODEL_CARDS, weights_path

    if not MODEL_CARDS:
        return [(FAIL, "weights", "no model card is installed; install the package again")]
    rows = []
    for name, card in MODEL_CARDS.items():
        path = weights_path(name)
        if not path.exists():
            detail = f"{path} is missing; install the package again, or rebuild: python -m tutorial_lib train {name}"
            rows.append((FAIL, f"weights {name}", detail))
        elif sha256(path) != card["sha256"]:
            detail = f"{path} has another SHA-256 than its card says; install the package again"
            rows.append((FAIL, f"weights {name}", detail))
        else:
            rows.append((OK, f"weights {name}", f"SHA-256 {card['sha256'][:12]}, {path.stat().st_size / 1e6:.1f} MB"))
    return rows


def data() -> list[Row]:
    from .data import DATASETS, data_folder

    folder = data_folder()
    missing = [name for name in DATASETS if not (folder / name).is_dir()]
    if missing:
        detail = (
            f"{folder} lacks {', '.join(missing)}; only training and benchmarks need them: python -m tutorial_lib data"
        )
        return [(WARN, "data folder", detail)]
    return [(OK, "data folder", f"{folder} ({', '.join(DATASETS)})")]


def cores() -> list[Row]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 2:
        return [(WARN, "cores", f"{count}; the stated running times are for two")]
    return [(OK, "cores", str(count))]


def memory() -> list[Row]:
    import psutil

    found = psutil.virtual_memory()
    detail = f"{found.total / GIB:.1f} GiB, {found.available / GIB:.1f} GiB free"
    if found.available < 2 * GIB:
        return [(WARN, "memory", f"{detail}; large photos may not fit, close other programs")]
    return [(OK, "memory", detail)]


def accelerator() -> list[Row]:
    import torch

    if torch.cuda.is_available():
        return [(OK, "accelerator", torch.cuda.get_device_name(0))]
    if torch.backends.mps.is_available():
        return [(OK, "accelerator", "Apple GPU (the chapters run on the processor)")]
    return [(OK, "accelerator", "none; everything here runs on the processor")]
