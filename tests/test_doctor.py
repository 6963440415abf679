"""The doctor on healthy and on broken environments: each thing broken on purpose must be named, with its repair."""

from __future__ import annotations

import socket
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from tutorial_lib import doctor, pretrained
from tutorial_lib.files import sha256

CHECKS = ["python", "dependencies", "kernel", "widgets", "fonts", "weights", "data", "cores", "memory", "accelerator"]


def package(requires, extras=()):
    """What importlib.metadata would say about our package."""
    from email.message import Message

    message = Message()
    for text in requires:
        message["Requires-Dist"] = text
    for extra in extras:
        message["Provides-Extra"] = extra
    return message


@pytest.fixture
def installed(monkeypatch):
    """Set requirements, extras and installed versions (name -> version)."""

    def arrange(requires, versions, extras=("notebooks", "test")):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "metadata", lambda name: package(requires, extras))
        monkeypatch.setattr(metadata, "version", version)

    return arrange


def statuses(rows):
    return {name: status for status, name, _ in rows}


def test_this_environment_has_every_row(monkeypatch):
    """The real thing, without a network: every check answers, none crashes, and every dependency has its row."""

    def no_network(*arguments, **options):
        raise AssertionError("the doctor must not use the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    rows = doctor.examine()
    found = statuses(rows)
    assert {"Python", "kernel", "widgets", "fonts", "data folder", "cores", "memory", "accelerator"} <= set(found)
    assert all(len(row) == 3 and row[0] in ("OK", "WARN", "FAIL") and "\n" not in row[2] for row in rows)
    assert not any("could not be checked" in detail for _, _, detail in rows)
    for status, name, detail in rows:
        if status == "OK" and name in ("torch", "numpy", "pillow"):
            assert detail == metadata.version(name)
    assert found["Python"] == "OK"


def test_output_holds_no_secrets(monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "f7c1-very-secret")
    monkeypatch.setenv("HF_TOKEN", "f7c1-very-secret")
    text, _ = doctor.report(doctor.examine())
    assert "f7c1-very-secret" not in text


def test_old_python_fails(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    ((status, _, detail),) = doctor.python()
    assert status == "FAIL" and "3.10.4" in detail and "3.11" in detail
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert doctor.python()[0][0] == "OK"


def test_dependencies_missing_too_old_and_optional(installed):
    installed(
        [
            "torch<3,>=2.6",
            "numpy>=2",
            "tqdm>=4",
            'jupyterlab>=4.3; extra == "notebooks"',
            'pytest>=8; extra == "test"',
            'nbval>=0.11; extra == "test"',
            'pywin32>=300; sys_platform == "never"',
            'tutorial-lib[notebooks]; extra == "test"',
        ],
        {"torch": "2.13.0+cpu", "numpy": "1.26.4", "nbval": "0.9"},
    )
    rows = doctor.dependencies()
    assert statuses(rows) == {
        "torch": "OK",
        "numpy": "FAIL",  # too old
        "tqdm": "FAIL",  # missing
        "jupyterlab": "FAIL",  # missing and the notebooks need it
        "pytest": "WARN",  # only the tests need it
        "nbval": "WARN",
    }
    details = {name: detail for _, name, detail in rows}
    assert details["torch"] == "2.13.0+cpu"
    assert details["numpy"] == '1.26.4 does not fit; install: pip install "numpy>=2"'
    assert 'pip install "tqdm>=4"' in details["tqdm"] and "tests" in details["pytest"]


def test_package_not_installed_fails(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    ((status, name, detail),) = doctor.dependencies()
    assert (status, name) == ("FAIL", "tutorial-lib") and "pip install -e" in detail


def kernel_with(monkeypatch, argv):
    from jupyter_client import kernelspec

    def find(self, name):
        if argv is None:
            raise kernelspec.NoSuchKernel(name)
        return SimpleNamespace(argv=argv)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", find)
    ((status, _, detail),) = doctor.kernel()
    return status, detail


def test_kernel(monkeypatch, tmp_path):
    assert kernel_with(monkeypatch, [sys.executable, "-m", "ipykernel_launcher"])[0] == "OK"
    assert kernel_with(monkeypatch, ["python", "-m", "ipykernel_launcher"])[0] == "OK"
    status, detail = kernel_with(monkeypatch, None)
    assert status == "FAIL" and "ipykernel install" in detail
    status, detail = kernel_with(monkeypatch, [str(tmp_path / "gone" / "python")])
    assert status == "FAIL" and "not there" in detail
    other = tmp_path / "python"
    other.write_text("")
    status, detail = kernel_with(monkeypatch, [str(other)])
    assert status == "WARN" and str(other) in detail and sys.executable in detail


def test_widgets_need_the_extension_of_jupyterlab(monkeypatch, tmp_path):
    from jupyter_core import paths

    monkeypatch.setattr(paths, "jupyter_path", lambda *names: [str(tmp_path.joinpath(*names))])
    ((status, _, detail),) = doctor.widgets()
    assert status == "FAIL" and "jupyterlab_widgets" in detail
    place = tmp_path / "labextensions" / "@jupyter-widgets" / "jupyterlab-manager"
    place.mkdir(parents=True)
    (place / "package.json").write_text("{}")
    assert doctor.widgets()[0][0] == "OK"


def test_missing_font_fails(monkeypatch):
    import matplotlib

    assert doctor.fonts()[0][0] == "OK"
    monkeypatch.setitem(matplotlib.rcParams, "font.sans-serif", ["No Such Font At All"])
    ((status, _, detail),) = doctor.fonts()
    assert status == "FAIL" and "No Such Font At All" in detail


def test_weights_right_changed_missing_and_none(monkeypatch, tmp_path):
    whole, changed = tmp_path / "whole.safetensors", tmp_path / "changed.safetensors"
    whole.write_bytes(b"weights")
    changed.write_bytes(b"weights")
    cards = {name: {"sha256": sha256(whole)} for name in ("whole", "changed", "gone")}
    changed.write_bytes(b"weightz")
    monkeypatch.setattr(pretrained, "MODEL_CARDS", cards)
    monkeypatch.setattr(pretrained, "weights_path", lambda name: tmp_path / f"{name}.safetensors")
    rows = doctor.weights()
    assert [status for status, _, _ in rows] == ["OK", "FAIL", "FAIL"]
    assert "SHA-256" in rows[1][2] and "python -m tutorial_lib train gone" in rows[2][2]
    monkeypatch.setattr(pretrained, "MODEL_CARDS", {})
    assert doctor.weights()[0][0] == "FAIL"


def test_data_folder_only_warns(monkeypatch, tmp_path):
    from tutorial_lib.data import DATASETS

    monkeypatch.setenv("TUTORIAL_LIB_DATA", str(tmp_path))
    ((status, _, detail),) = doctor.data()
    assert status == "WARN" and "python -m tutorial_lib data" in detail and "Set5" in detail
    for name in DATASETS:
        (tmp_path / name).mkdir()
    assert doctor.data()[0][0] == "OK"


def test_cores_and_memory_warn_when_small(monkeypatch):
    import os

    import psutil

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert doctor.cores()[0][0] == "WARN"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert doctor.cores() == [("OK", "cores", "2")]
    for free, status in ((1, "WARN"), (8, "OK")):
        found = SimpleNamespace(total=16 * 2**30, available=free * 2**30)
        monkeypatch.setattr(psutil, "virtual_memory", lambda found=found: found)
        assert doctor.memory() == [(status, "memory", doctor.memory()[0][2])]
        assert f"16.0 GiB, {free}.0 GiB free" in doctor.memory()[0][2]


def test_accelerator_is_named(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    assert doctor.accelerator() == [("OK", "accelerator", "Some GPU")]


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_that_crashes_is_a_fail_row(monkeypatch, name):
    """A package broken at import raises anything; the doctor reports it and goes on with the other checks."""

    def broken():
        raise RuntimeError("undefined symbol:\n  _ZN3c10")

    broken.__name__ = name
    for other in CHECKS:
        monkeypatch.setattr(doctor, other, lambda other=other: [("OK", other, "")])
    monkeypatch.setattr(doctor, name, broken)
    rows = doctor.examine()
    assert len(rows) == len(CHECKS)
    failed = [row for row in rows if row[0] == "FAIL"]
    assert len(failed) == 1 and failed[0][1] == name and "RuntimeError: undefined symbol: _ZN3c10" in failed[0][2]


def test_broken_torch_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` raise ImportError
    rows = doctor.guarded(doctor.accelerator)
    assert rows[0][0] == "FAIL" and "torch" in rows[0][2]


def test_report_says_what_to_do_and_sets_the_status():
    good, warn, bad = ("OK", "Python", "3.11"), ("WARN", "data folder", "empty"), ("FAIL", "kernel", "gone; make it")
    text, status = doctor.report([good, warn])
    assert status == 0 and text.splitlines()[-1] == doctor.NEXT
    text, status = doctor.report([good, warn, bad])
    assert status == 1 and "repair kernel" in text.splitlines()[-1] and doctor.NEXT not in text
    assert text.splitlines()[:3] == [
        "OK    Python       3.11",
        "WARN  data folder  empty",
        "FAIL  kernel       gone; make it",
    ]
