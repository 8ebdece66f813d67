"""Behind real web servers, each with the very configuration that examples/ has for it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import FastCGI, ProcManager
from harness import fcgi
from harness.process import Script, wait_dead, wait_until
from harness.tools import find
from harness.web import ROOT, WEBS, Site

Run = Callable[..., Script]

APP = r"""
    import hashlib, json, os, sys
    from wsgiref.validate import validator
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import say

    LARGE = bytes(range(256)) * 4096 * 5

    def app(environ, start_response):
        path, length = environ["PATH_INFO"], int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        status, reply = "200 OK", b""
        if path == "/large":
            reply = LARGE
        elif path == "/missing":
            status, reply = "404 Not Found", b"not here"
        elif path == "/hold":
            say("holding")
            with open(os.environ["RELEASE"]) as release:  # until the test opens its end
                release.read()
            reply = b"released"
        else:
            reply = json.dumps({
                "worker": os.getpid(),
                "method": environ["REQUEST_METHOD"],
                "path": environ["SCRIPT_NAME"] + path,
                "split": [environ["SCRIPT_NAME"], path],
                "query": environ.get("QUERY_STRING", ""),
                "length": len(body),
                "hash": hashlib.sha256(body).hexdigest(),
            }).encode()
        headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(reply)))]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply]

    if __name__ == "__main__":
        manager = ProcManager(n_processes=int(sys.argv[1]), die_timeout=100)
        if len(sys.argv) > 2:
            manager.listen(sys.argv[2], owner=sys.argv[3] or None)
        WSGIServer(validator(app), manager=manager, drain_timeout=60).run()
"""
LARGE = bytes(range(256)) * 4096 * 5


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, for a Unix socket, that the web server's user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="pm-web-", dir="/tmp"))
    directory.chmod(0o777 if ROOT else 0o700)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def site(request: pytest.FixtureRequest, place: Path, run_script: Run) -> Site:
    return Site(WEBS[request.param], place, run_script, APP)


every_web = pytest.mark.parametrize("site", list(WEBS), indirect=True)
managed = pytest.mark.parametrize("site", [name for name in WEBS if not WEBS[name].spawns], indirect=True)
nginx = pytest.mark.parametrize("site", ["nginx"], indirect=True)


def test_caddy_is_always_here() -> None:
    assert find("caddy"), "the extra `web` is part of `test`"


@every_web
def test_requests_of_every_kind(site: Site) -> None:
    site.start()
    got = site.echo("/some/path?a=1&b=%20two")
    assert got["method"] == "GET"
    assert got["split"] == ["", "/some/path"]
    assert got["query"] == "a=1&b=%20two"
    assert site.echo("/")["split"] == ["", "/"]

    # Percent-encoding is taken off once; the bytes come as PEP 3333 has them.
    assert site.echo("/caf%C3%A9/a%20b%25")["path"].encode("latin-1").decode() == "/café/a b%"

    status, headers, content = site.ask("/missing")
    assert (status, content) == (404, b"not here")

    status, headers, content = site.ask("/large")
    assert (status, content == LARGE) == (200, True)

    status, headers, content = site.ask("/large", "HEAD")
    assert (status, content) == (200, b"")
    assert headers["Content-Length"] in (str(len(LARGE)), None)  # Apache 2.4 leaves it out

    for size in (1, 70_000, 3_000_000):
        body = random.Random(size).randbytes(size)
        got = site.echo("/upload", "POST", body)
        assert (got["method"], got["length"]) == ("POST", size)
        assert got["hash"] == hashlib.sha256(body).hexdigest()
    site.stop()


@managed
def test_a_stop_finishes_the_request_in_hand(site: Site) -> None:
    site.start(workers=2)
    with closing(site.connection()) as connection:
        connection.request("GET", "/hold")
        assert site.app.line() == "holding"
        site.app.signal(signal.SIGTERM)
        site.app.wait_log("sending TERM")
        site.app.wait_workers(1)  # the idle one has left
        site.release.write_text("")
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b"released")
    assert site.app.wait() == 0
    assert not os.path.exists(site.socket)
    site.front.signal(site.web.gentle)
    site.front.wait()
    site.front.tree_gone()


@managed
def test_an_idle_stop_is_immediate(site: Site) -> None:
    site.start(workers=3)
    for _ in range(5):  # leaves kept connections behind, where the web server keeps them
        assert site.ask("/")[0] == 200
    began = time.monotonic()
    assert site.app.stop() == 0
    assert time.monotonic() - began < 30  # far below the limits of a stop
    status, _, _ = site.ask("/")
    assert status in (502, 503)
    site.front.signal(site.web.gentle)
    site.front.wait()
    site.front.tree_gone()


@pytest.mark.parametrize("site", ["fcgid"], indirect=True)
def test_a_spawned_script_finishes_the_request_in_hand(site: Site) -> None:
    """mod_fcgid tells its scripts to end by TERM; one that is answering answers first."""
    site.start()
    worker = site.echo("/")["worker"]
    with closing(site.connection()) as connection:
        connection.request("GET", "/hold")
        site.front.wait_log("^holding")  # mod_fcgid joins the two outputs
        os.kill(worker, signal.SIGTERM)
        site.release.write_text("")
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b"released")
    wait_dead(worker)
    assert site.echo("/")["worker"] != worker
    site.stop()


@dataclass
class Load:
    """Requests without a pause from several threads, and what went wrong with them."""

    site: Site
    methods: tuple[str, ...]
    threads: int = 4
    done: int = 0
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._lock = threading.Lock()
        self._running = [threading.Thread(target=self._run, args=(number,)) for number in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._running:
            thread.join(100)

    def _run(self, number: int) -> None:
        count = 0
        while not self.over.is_set():
            count += 1
            began = time.monotonic()
            failure = self._one(self.methods[count % len(self.methods)], f"/{number}/{count}")
            with self._lock:
                self.done += 1
                self.longest = max(self.longest, time.monotonic() - began)
                if failure:
                    self.failures.append(failure)

    def _one(self, method: str, path: str) -> str:
        body = path.encode() * 500 if method == "POST" else None
        try:
            status, _, content = self.site.ask(path, method, body)
            if status != 200:
                return f"{method} {path}: status {status}"
            got = json.loads(content)
            wanted = (path, len(body or b""))
            return "" if (got["path"], got["length"]) == wanted else f"{method} {path}: {got}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"{method} {path}: {error!r}"


@nginx
@pytest.mark.parametrize("keep", ["on", "off"])
def test_reloads_under_load_lose_nothing(site: Site, keep: str, record_property: Callable[[str, object], None]) -> None:
    """With kept connections only requests that nginx may repeat: docs/DEPLOY.md says why."""

    def adapt(text: str) -> str:
        assert "fastcgi_keep_conn on;" in text
        return text.replace("fastcgi_keep_conn on;", f"fastcgi_keep_conn {keep};")

    site.start(workers=2, adapt=adapt)
    with Load(site, ("GET",) if keep == "on" else ("GET", "POST")) as load:
        for _ in range(10):
            before, served = set(site.app.workers()), load.done
            wait_until(lambda served=served: load.done > served + 20, 60, "some requests between two reloads")
            site.app.signal(signal.SIGHUP)
            wait_until(
                lambda before=before: len(now := site.app.workers()) == 2 and not before & set(now),
                60,
                "new workers in place of all old ones",
            )
    record_property("requests", load.done)
    print(f"keep_conn {keep}: {load.done} requests, longest {load.longest:.3f} s, failures {load.failures}")
    assert not load.failures
    assert load.done > 200
    site.stop()


def test_a_request_that_comes_with_the_order_to_leave_is_answered_at_once(sock_path: str) -> None:
    """The last look at a kept connection has read the request: no event will tell of it any more."""
    manager = ProcManager()
    listener = manager.listen(sock_path)
    loop = FastCGI(listener, manager=manager, drain_timeout=60)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(keep=True))
        request = loop.accept()
        assert request is not None
        request.finish()
        assert client.read_reply().ended

        client.send(fcgi.request_bytes(keep=True))
        manager.retire_self("told to leave")
        waits: list[float] = []
        manager._gate.wait = lambda deadline=0.0: waits.append(deadline) or []  # type: ignore[method-assign,assignment]
        request = loop.accept()
        assert (request is not None, waits) == (True, [])
        request.finish()
        assert client.read_reply().ended
        assert loop.accept() is None
    loop.close()
    manager._gate.close()
    listener.remove()
