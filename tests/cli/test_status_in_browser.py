"""The status page of a pool in a real browser, through Caddy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

from harness.process import Script, wait_until
from harness.tools import require_any

Run = Callable[..., Script]
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]


def dumped(chromium: str, url: str, profile: str) -> str:
    """The page as it is once the browser has made it."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    done = subprocess.run(
        [chromium, *options, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_status_of_the_demo(run_script: Run, tmp_path: Path) -> None:
    chromium = require_any("chromium", "chromium-browser", "google-chrome")
    script = run_script([*COMMAND, "demo", "--web", "127.0.0.1:0"], cwd=tmp_path)
    greeting = script.line()
    found = re.search(r"its status: (http://127\.0\.0\.1:\d+/-/status);", greeting)
    assert found is not None, greeting
    script.wait_ready(3)
    profile = tempfile.mkdtemp(prefix="pm-chromium-")
    try:
        page = wait_until(
            lambda: page if "3 of 3 workers idle" in (page := dumped(chromium, found[1], profile)) else "", 100
        )
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert "<svg" in page
    for pid in re.findall(r"server \(pid (\d+)\) started", script.log()):
        assert pid in page
    assert script.stop() == 0
