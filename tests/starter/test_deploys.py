"""New code under load: our own workers under a superdaemon, ours or Perl's, behind nginx."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, open_fds, wait_until
from harness.tools import require
from harness.web import WEBS, Site

# The code of a release: `current` leads to its folder, and the reply says which it was.
APP = """
import os, time
RELEASE = os.path.basename(os.path.dirname(os.path.abspath(__file__)))

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.7)
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{RELEASE} {os.getppid()}".encode()]
"""


@dataclass
class Load:
    """Requests without a pause from two threads, each on a connection of its own."""

    port: int
    releases: set[str] = field(default_factory=set)
    done: int = 0
    slow: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(30)

    def ask(self, path: str, method: str = "GET") -> str:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, b"x" * 5000 if method == "POST" else None)
            reply = connection.getresponse()
            assert reply.status == 200, f"{method} {path}: {reply.status}"
            return reply.read().decode().split()[0]

    def ask_slowly(self) -> threading.Thread:
        def run() -> None:
            self._note("/slow", "GET")
            self.slow += 1

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            self._note("/page", "GET" if self.done % 3 else "POST")
            self.longest = max(self.longest, time.monotonic() - began)
            self.done += 1

    def _note(self, path: str, method: str) -> None:
        try:
            self.releases.add(self.ask(path, method))
        except (AssertionError, OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))


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
        self.site.app.wait_log("server .*initialized", workers)
        return self.site.app

    def status(self) -> list[str]:
        path = self._place / "status"
        return path.read_text().split() if path.exists() else []

    def serves_only(self, generation: int) -> None:
        wait_until(
            lambda: [line.split(":")[0] for line in self.status()] == [str(generation)], 30, f"generation {generation}"
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
    daemon = deployment.start(OURS, "--ready-timeout=30")
    deployment.site.start_front(lambda text: text.replace("fastcgi_keep_conn on;", f"fastcgi_keep_conn {keep};"))
    deployment.serves_only(1)
    before = len(open_fds(daemon.pid))
    with Load(deployment.site.port) as load:
        slow = []
        for number in range(1, 21):
            slow.append(load.ask_slowly())
            deployment.release(f"r{number}")
            done = load.done
            daemon.signal(signal.SIGHUP)
            deployment.serves_only(number + 1)
            wait_until(lambda done=done: load.done > done + 5, 20)
        for thread in slow:
            thread.join(30)
        wait_until(lambda: "r20" in load.releases, 20)
    print(f"{load.done} requests, longest {load.longest:.3f} s")
    posts_may_meet_a_close = keep == "on"  # docs/DEPLOY.md, zero downtime
    assert load.failures == [] or (posts_may_meet_a_close and len(load.failures) < 3), load.failures
    assert load.slow == 20
    assert load.releases == {f"r{number}" for number in range(21)}
    assert len(open_fds(daemon.pid)) == before, "descriptors leak"
    deployment.site.stop()


def test_a_release_that_cannot_start_never_takes_the_old_one_down(deployment: Deployment) -> None:
    """The third and the fourth attempt fail, and the fifth is good."""
    daemon = deployment.start(OURS, "--ready-timeout=30")
    deployment.site.start_front()
    deployment.serves_only(1)
    with Load(deployment.site.port) as load:
        deployment.release("r1", "raise RuntimeError('broken')")
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("seems to have failed to start", 2)
        assert load.failures == []
        deployment.release("r2")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "r2" in load.releases, 30)
    assert load.failures == []
    assert load.releases == {"r0", "r2"}
    deployment.site.stop()


def test_our_workers_find_their_socket_under_the_perl_superdaemon(deployment: Deployment) -> None:
    daemon = deployment.start([require("start_server")], workers=2)
    deployment.site.start_front()
    deployment.serves_only(1)
    with Load(deployment.site.port) as load:
        for number in (1, 2, 3):
            deployment.release(f"r{number}")
            daemon.signal(signal.SIGHUP)
            deployment.serves_only(number + 1)
            wait_until(lambda number=number: f"r{number}" in load.releases, 20)
    assert len(load.failures) < 3, load.failures  # kept connections and POST
    deployment.site.stop()
