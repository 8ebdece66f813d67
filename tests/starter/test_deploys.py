"""New code under load: our own workers under a superdaemon, ours or Perl's, behind nginx."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from harness.deploys import APP, Load
from harness.process import Script, open_fds, wait_asleep, wait_until
from harness.tools import require
from harness.web import WEBS, Site


class Deployment:
    """A superdaemon with our command under it; a release is a folder, and `current` leads to the one that is to serve."""

    def __init__(self, place: Path, site: Site, run: Callable[..., Script]) -> None:
        self._place = place
        self.site = site
        self._run = run
        self.release("r0")

    def release(self, name: str, source: str = APP) -> None:
        folder = self._place / name
        folder.mkdir()
        (folder / "app.py").write_text(source)
        aside = self._place / "next"
        aside.symlink_to(folder)
        os.rename(aside, self._place / "current")

    def start(self, superdaemon: list[str], *options: str, workers: int = 3) -> Script:
        place = self._place
        files = [f"--pid-file={place}/pid", f"--status-file={place}/status"]
        serve = [sys.executable, "-m", "fcgi_procmanager", "serve", "app:app", "-n", str(workers)]
        where = [f"--path={self.site.socket}", f"--dir={place}/current"]
        self.site.app = self._run([*superdaemon, *where, *files, *options, "--", *serve], cwd=place)
        self.site.app.wait_ready(workers)
        return self.site.app

    def status(self) -> list[str]:
        path = self._place / "status"
        return path.read_text().split() if path.exists() else []

    def serves_only(self, generation: int) -> None:
        wait_until(
            lambda: [line.split(":")[0] for line in self.status()] == [str(generation)], 60, f"generation {generation}"
        )


@pytest.fixture
def deployment(sock_path: str, run_script: Callable[..., Script]) -> Iterator[Deployment]:
    place = Path(sock_path).parent / "site"
    place.mkdir()
    yield Deployment(place, Site(WEBS["nginx"], place, run_script, ""), run_script)
    shutil.rmtree(place)


OURS = [sys.executable, "-m", "fcgi_procmanager.starter"]


@pytest.mark.parametrize("keep", ["on", "off"])
def test_twenty_deploys_under_load_lose_nothing(deployment: Deployment, keep: str) -> None:
    daemon = deployment.start(OURS, "--ready-timeout=600")
    deployment.site.start_front(lambda text: text.replace("fastcgi_keep_conn on;", f"fastcgi_keep_conn {keep};"))
    deployment.serves_only(1)
    before = len(open_fds(daemon.pid))
    # Of kept connections only what nginx may repeat: docs/DEPLOY.md, zero downtime.
    with Load(deployment.site.port, posts=keep == "off") as load:
        slow = []
        wait_until(lambda: "r0" in load.releases)
        for number in range(1, 21):
            slow.append(load.ask_slowly())
            deployment.release(f"r{number}")
            daemon.signal(signal.SIGHUP)
            deployment.serves_only(number + 1)
            done = load.done
            wait_until(lambda number=number, done=done: f"r{number}" in load.releases and load.done > done + 5)
        for thread in slow:
            thread.join(60)
    print(f"{load.done} requests, longest {load.longest:.3f} s")
    assert load.failures == []
    assert load.slow == 20
    assert load.releases == {f"r{number}" for number in range(21)}
    # A pipe on which a generation says that it is ready is open for a moment more, now as before.
    wait_until(lambda: len(open_fds(daemon.pid)) <= before, 60, "descriptors leak")
    deployment.site.stop()


def test_a_release_that_cannot_start_never_takes_the_old_one_down(deployment: Deployment) -> None:
    """The third and the fourth attempt fail, and the fifth is good."""
    daemon = deployment.start(OURS, "--ready-timeout=600")
    deployment.site.start_front()
    deployment.serves_only(1)
    with Load(deployment.site.port, posts=False) as load:
        wait_until(lambda: "r0" in load.releases)
        deployment.release("r1", "raise RuntimeError('broken')")
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("seems to have failed to start", 2)
        assert load.failures == []
        deployment.release("r2")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "r2" in load.releases)
    assert load.failures == []
    assert load.releases == {"r0", "r2"}
    deployment.site.stop()


def test_our_workers_find_their_socket_under_the_perl_superdaemon(deployment: Deployment) -> None:
    daemon = deployment.start([require("start_server")], workers=2)
    deployment.site.start_front()
    deployment.serves_only(1)
    with Load(deployment.site.port, posts=False) as load:
        for number in (1, 2, 3):
            deployment.release(f"r{number}")
            wait_asleep(daemon.pid)  # it can miss a signal that comes between two looks for them
            daemon.signal(signal.SIGHUP)
            deployment.serves_only(number + 1)
            wait_until(lambda number=number: f"r{number}" in load.releases)
    assert load.failures == []
    wait_asleep(daemon.pid)
    deployment.site.stop()
