"""A JupyterLab server on loopback and a headless Chromium for the browser tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Settings that keep the server from looking for news, and all cells of a notebook in the page.
SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',
}


def chromium() -> str:
    """The browser's path; skips the test where there is none, fails with REQUIRE_BROWSER=1."""
    path = os.environ.get("CHROMIUM") or next((p for p in map(shutil.which, NAMES) if p), None)
    if path:
        return path
    message = "no Chromium here, so the browser tests did not run (Debian: apt-get install chromium)"
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address and token of a JupyterLab that serves a copy of the notebooks; stopped at the end."""
    chromium()
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    shutil.copytree(ROOT / "notebooks", work / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for notebook in (work / "notebooks").glob("*.ipynb"):
        notebook.touch()  # newer than its source, as after `make notebooks`: JupyterLab must open it all the same
    for name, text in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{kind}_DIR": str(home / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}"]
    command += [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]
    environment = {**os.environ, **own, "JUPYTER_TOKEN": token, "OMP_NUM_THREADS": "1"}
    log = home / "server.log"
    with open(log, "wb") as sink:
        server = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=home, start_new_session=True
        )
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api/status", token, server, log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # its own group: the server and its kernels
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for_server(url: str, token: str, server: subprocess.Popen, log: Path) -> None:
    """Return when the server answers; RuntimeError with its log when it ends or is silent for a minute."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
            urllib.request.urlopen(request, timeout=5).read()
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.3)


@pytest.fixture
def page(request):
    """A page of a fresh headless browser; a screenshot goes to out/ when the test fails."""
    from playwright.sync_api import sync_playwright

    flags = [
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(30_000)
        yield page
        if getattr(request.node, "failed", True):
            (ROOT / "out").mkdir(exist_ok=True)
            page.screenshot(path=ROOT / "out" / f"{request.node.name}.png")
        browser.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed
