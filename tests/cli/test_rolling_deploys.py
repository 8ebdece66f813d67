"""New code by `reload` behind nginx: requests do not notice that the application takes a while to start."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from harness.deploys import APP, Load
from harness.process import Script, wait_until
from harness.web import WEBS, Site

COMMAND = [sys.executable, "-m", "fcgi_procmanager"]
SLOW_START = "import time; time.sleep(1)\n" + APP.replace(
    "os.path.basename(os.path.dirname(os.path.abspath(__file__)))", "'{name}'"
)


# How the application is loaded, which decides what a reload does.
WAYS = {"by each worker": [], "by the manager": ["--preload"]}


class Served(Site):
    """`serve` with an application that takes a second to load."""

    def install(self, name: str, source: str = SLOW_START) -> None:
        aside = self.place / "app.new"
        aside.write_text(source.replace("{name}", name))
        os.rename(aside, self.place / "app.py")

    def serve(self, *options: str) -> Script:
        self.install("r0")
        listen = ["--listen", self.socket, "--pidfile", "pid"]
        self.app = self._run([*COMMAND, "serve", "app:app", "-n", "4", *listen, *options], cwd=self.place)
        self.app.wait_ready(4)
        self.start_front(lambda text: text.replace("fastcgi_keep_conn on;", "fastcgi_keep_conn off;"))
        return self.app

    def reload(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "reload", "--pidfile", "pid"],
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def site(sock_path: str, run_script: Callable[..., Script]) -> Iterator[Served]:
    place = Path(sock_path).parent / "site"
    place.mkdir()
    yield Served(WEBS["nginx"], place, run_script, "")
    shutil.rmtree(place)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
def test_deploys_of_an_application_that_starts_slowly_lose_nothing_and_hold_nobody_up(site: Served, way: str) -> None:
    site.serve("--reload-slice", "4", *WAYS[way])
    with Load(site.port) as load:
        wait_until(lambda: load.done > 20, 60)
        quiet = load.longest
        for number in range(1, 11):
            slow = load.ask_slowly()
            site.install(f"r{number}")
            done = site.reload()
            assert (done.returncode, done.stderr) == (0, "")
            wait_until(lambda number=number: f"r{number}" in load.releases, 60)
            slow.join(30)
    print(f"{way}: longest wait {quiet:.3f} s before the deploys, {load.longest:.3f} s in all")  # pytest -rP shows it
    assert load.failures == []
    assert load.releases == {f"r{number}" for number in range(11)}
    site.stop()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def (\n", "app.py:1: SyntaxError"),
        ("import nosuch\n", "app.py:1: ModuleNotFoundError: No module named 'nosuch'"),
        ("other = 1\n", "has no attribute 'app'"),
        ("import os; os._exit(3)\n", "exited with status 3 before it was ready"),
        ("raise SystemExit(4)\n", "SystemExit: 4"),
        ("import time; time.sleep(600)\n", "was not ready in"),
    ],
    ids=["syntax", "import", "attribute", "exits", "leaves", "hangs"],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_broken_deploy_loses_nothing_and_says_why(site: Served, way: str, source: str, reason: str) -> None:
    app = site.serve("--boot-timeout", "3" if reason == "was not ready in" else "60", *WAYS[way])
    before = app.workers()
    with Load(site.port) as load:
        site.install("broken", source)
        done = site.reload()
        assert done.returncode == 1
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
        seen = load.done
        wait_until(lambda: load.done > seen + 10, 60)
    assert load.failures == []
    assert load.releases == {"r0"}
    wait_until(lambda: app.workers() == before, 60, "the end of those that could not serve")
    site.stop()


def test_the_progress_is_shown_on_a_terminal(site: Served) -> None:
    app = site.serve()
    master, slave = pty.openpty()
    reload = subprocess.Popen([*COMMAND, "reload", "--pidfile", "pid"], cwd=site.place, stderr=slave)
    os.close(slave)
    said = b""
    try:
        while piece := os.read(master, 1000):
            said += piece
    except OSError:  # how a terminal ends
        pass
    os.close(master)
    assert reload.wait(20) == 0
    *steps, last = re.findall(rb"\r([^\r\x1b]*)\x1b\[K", said)
    # It may have come too late for one of them.
    assert len(steps) >= 2
    assert steps == sorted({*steps} & {b"%d of 4 workers replaced" % number for number in range(5)})
    assert last == b""
    assert said.endswith(b"\r\x1b[K")
    assert app.stop() == 0
    site.front.signal(site.web.gentle)
    site.front.wait()
