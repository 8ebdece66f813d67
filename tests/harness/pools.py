"""An application in an adaptive pool, and clients of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

from harness.fcgi import Client, Reply, fetch, request_bytes
from harness.process import Script, wait_until

SITE = """
import faulthandler, os, resource, signal, sys, time
from harness.inside import say
from fcgi_procmanager import *

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
kept = []

def app(environ, start_response):
    path, _, argument = environ["PATH_INFO"][1:].partition("/")
    if path == "sleep":
        time.sleep(float(argument))
    if path == "wait":
        open(f"{argument}.{os.getpid()}", "w").close()
        while not os.path.exists(argument):
            time.sleep(0.005)
    if path == "kill":
        os.kill(os.getpid(), getattr(signal, "SIG" + argument))
    if path == "last":
        start_response("200 OK", [("Content-Type", "text/plain")])(b"these are its last words")
        os.kill(os.getpid(), signal.SIGKILL)
    if path == "exit":
        os._exit(3)
    if path == "grow":
        kept.append(bytearray(int(argument) << 20))
    if path == "compute":
        while not os.path.exists(argument):
            pass
    if path == "spin":
        until = time.monotonic() + float(argument)
        while time.monotonic() < until:
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

{more}
WSGIServer(app, manager={manager}({arguments}), bindAddress=sys.argv[1]).run()
"""


class Pool:
    """A pool that serves at `address`."""

    def __init__(self, run_script: Callable[..., Script], address: str, site: str = SITE) -> None:
        """site: the source of the script, with {more}, {manager} and {arguments} in it."""
        self._run, self._site = run_script, site
        self.address = address
        self.script: Script

    def start(self, arguments: str, workers: int, more: str = "", manager: str = "PoolManager", **kw: Any) -> Script:
        source = self._site.replace("{more}", more).replace("{manager}", manager).replace("{arguments}", arguments)
        self.script = self._run(source, args=[self.address], **kw)
        self.script.wait_ready(workers)
        return self.script

    def ask(self, path: str = "/", **kw: Any) -> Reply:
        return fetch(self.address, path, **{"timeout": 30, **kw})

    def pid_of(self, path: str = "/") -> int:
        return int(self.ask(path).text)

    def at_once(self, paths: list[str]) -> list[Future[Reply]]:
        """All of these, each on a connection of its own."""
        clients = ThreadPoolExecutor(len(paths))
        asked = [clients.submit(self.ask, path) for path in paths]
        clients.shutdown(wait=False)
        return asked

    @property
    def started(self) -> int:
        """How many workers have been forked so far."""
        return len(re.findall(r"server \(pid \d+\) started$", self.script.log(), re.MULTILINE))


def status(control: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What the command says of the pool with this control socket."""
    command = [sys.executable, "-m", "fcgi_procmanager", "status", "--control", str(control), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def facts(control: Path, *options: str) -> dict[str, Any]:
    done = status(control, "--json", *options)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


LATE = 0.001  # seconds between a connect and its request after which a worker may turn to others


def ask_beside_deadly(address: str, path: str = "/") -> Reply:
    """Where requests kill their workers: a client that is preempted between its connect and its request is held by a worker that may die
    of somebody else's. Then it asks once more, as web servers do. What is lost of one that was not late is not ended."""
    while True:
        began, reply = time.monotonic(), Reply()
        late = True
        with Client(address, 30) as client:
            try:
                client.send(request_bytes(path=path))
                late = time.monotonic() - began > LATE
                while not reply.ended and (record := client.read_record()) is not None:
                    reply.add(record)
            except (ConnectionError, EOFError):
                pass
        if reply.ended or reply.stdout or not late:
            return reply


class Steady:
    """Requests without a pause from `clients` threads until it is left; what went wrong is in `failures`."""

    def __init__(self, pool: Pool, clients: int, path: str = "/") -> None:
        self._pool, self._path = pool, path
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.failures: list[str] = []
        self.pids: set[int] = set()
        self.done = 0
        self._threads = [threading.Thread(target=self._work) for _ in range(clients)]

    def __enter__(self) -> Steady:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count: int, timeout: float = 60) -> None:
        """So many more requests."""
        until = self.done + count
        wait_until(lambda: self.done >= until or self.failures, timeout, f"{count} requests")

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                reply = self._pool.ask(self._path)
                self.pids.add(int(reply.text))
            except Exception as error:
                self.failures.append(repr(error))
                return
            with self._lock:
                self.done += 1
