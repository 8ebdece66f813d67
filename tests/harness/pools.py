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
from harness.process import Script, process_state, wait_until

SITE = """
import faulthandler, os, resource, signal, sys, time
from harness.inside import say
from fcgi_procmanager import *
from fcgi_procmanager.pool import answers

answers._PATIENCE = 60  # for who is preempted between his connect and his question

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
    if path == "open":
        open(argument).close()
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
        return fetch(self.address, path, **kw)

    def pid_of(self, path: str = "/") -> int:
        return int(self.ask(path).text)

    def at_once(self, paths: list[str]) -> list[Future[Reply]]:
        """All of these, each on a connection of its own. Each is sent before the next one connects: a worker that holds a client who has
        not spoken yet may take the next one, and the first would wait for the end of that."""
        clients = [self._sent(path) for path in paths]
        readers = ThreadPoolExecutor(len(paths))
        asked = [readers.submit(_read, client) for client in clients]
        readers.shutdown(wait=False)
        return asked

    def _sent(self, path: str) -> Client:
        client = Client(self.address, timeout=200)
        client.send(request_bytes(path=path))
        return client

    def settle(self) -> None:
        """Wait until no worker has anything in hand: a reply comes before its worker is idle again."""
        for pid in self.script.workers():
            wait_until(lambda pid=pid: process_state(pid) in ("S", "Z", None), 60, f"{pid} to be idle")

    @property
    def started(self) -> int:
        """How many workers have been forked so far."""
        return len(re.findall(r"server \(pid \d+\) started$", self.script.log(), re.MULTILINE))


def status(control: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What the command says of the pool with this control socket."""
    command = [sys.executable, "-m", "fcgi_procmanager", "status", "--control", str(control), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def facts(control: Path, *options: str) -> dict[str, Any]:
    done = status(control, "--json", *options)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


LATE = 0.001  # seconds between a connect and its request after which a worker may turn to others
VERY_LATE = 1.0  # the same, after which one that is leaving may give it up


def _ask_once(address: str, path: str) -> tuple[Reply, float]:
    """What came of one request, if anything did, and how many seconds passed from before the connect until it was sent."""
    began, reply = time.monotonic(), Reply()
    spoke_after = float("inf")
    with Client(address) as client:
        try:
            client.send(request_bytes(path=path))
            spoke_after = time.monotonic() - began
            while not reply.ended and (record := client.read_record()) is not None:
                reply.add(record)
        except (ConnectionError, EOFError):
            pass
    return reply, spoke_after


def ask_beside_deadly(address: str, path: str = "/") -> Reply:
    """Where requests kill their workers: a client that is preempted between its connect and its request is held by a worker that may die
    of somebody else's. Then it asks once more, as web servers do. What is lost of one that was not late is not ended."""
    while True:
        reply, spoke_after = _ask_once(address, path)
        if reply.ended or reply.stdout or spoke_after <= LATE:
            return reply


class Steady:
    """Requests without a pause from `clients` threads until it is left; what went wrong is in `failures`. prompt: the worker of each request
    that came at once after its connect."""

    def __init__(self, pool: Pool, clients: int, path: str = "/") -> None:
        self._pool, self._path = pool, path
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.failures: list[str] = []
        self.pids: set[int] = set()
        self.prompt: list[int] = []
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

    def wait(self, count: int, timeout: float = 120) -> None:
        """So many more requests."""
        until = self.done + count
        wait_until(lambda: self.done >= until or self.failures, timeout, f"{count} requests")

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                reply, spoke_after = _ask_once(self._pool.address, self._path)
                if not reply.ended and spoke_after > VERY_LATE:
                    continue
                assert reply.ended, reply
                pid = int(reply.text)
            except Exception as error:
                self.failures.append(repr(error))
                return
            with self._lock:
                self.pids.add(pid)
                if spoke_after <= LATE:
                    self.prompt.append(pid)
                self.done += 1


def _read(client: Client) -> Reply:
    with client:
        return client.read_reply()
