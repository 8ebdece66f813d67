"""Requests that kill their worker: they cost the others nothing, and the machine not much."""

from __future__ import annotations

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

from harness.pools import ask_beside_deadly
from harness.process import Script, patient

Run = Callable[..., Script]

HEAD = """
import os, resource, signal, sys
from harness.inside import idle, say
from fcgi_procmanager import *

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""

SITE = (
    HEAD
    + """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if environ["PATH_INFO"] == "/exit":
        os._exit(3)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
WSGIServer(app, manager=ProcManager(4), bindAddress=sys.argv[1]).run()
"""
)

RATE = 20  # requests a second of each kind


class Load:
    """Requests at a steady rate, each on a connection of its own, whatever becomes of those before it."""

    def __init__(self, address: str, path: str, seconds: float) -> None:
        self._clients = ThreadPoolExecutor(64)
        self._replies: list[Any] = []
        self._began = time.monotonic()
        self._pace = threading.Thread(target=self._run, args=(address, path, round(seconds * RATE)))
        self._pace.start()

    def _run(self, address: str, path: str, count: int) -> None:
        for number in range(count):
            # The rate is what is tested; nothing is waited for here.
            time.sleep(max(0, self._began + number / RATE - time.monotonic()))
            self._replies.append(self._clients.submit(outcome, address, path))

    def end(self) -> list[str]:
        self._pace.join()
        self._clients.shutdown()
        return [reply.result() for reply in self._replies]


def outcome(address: str, path: str) -> str:
    began = time.monotonic()
    reply = ask_beside_deadly(address, path)
    if time.monotonic() - began > patient(3):
        return "late"
    return reply.text if reply.ended else "cut off"


@pytest.mark.parametrize("deadly", ["/segv", "/exit"])
def test_requests_that_kill_their_worker_cost_the_others_nothing(run_script: Run, sock_path: str, deadly: str) -> None:
    """A healthy request waits in the shared backlog until a worker takes it: while the deadly ones come, and after."""
    script = run_script(SITE, args=[sock_path])
    script.wait_ready(4)
    killing, healthy = Load(sock_path, deadly, 3), Load(sock_path, "/", 4.5)
    killed = killing.end()
    script.wait_workers(4)
    replies = healthy.end()
    assert replies == ["fine"] * len(replies)
    assert killed == ["cut off"] * len(killed)
    assert "next one starts in" not in script.log()
    assert script.stop() == 0


def test_a_worker_that_dies_after_it_was_ready_is_replaced_at_once_even_young(run_script: Run) -> None:
    script = run_script(HEAD + "manager = ProcManager(1)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n")
    worker, began = int(script.line()), time.monotonic()
    for _ in range(8):
        script.signal(signal.SIGKILL, worker)
        worker = int(script.line())
    assert time.monotonic() - began < patient(3)  # with a doubling delay, they would have taken 12.7 s
    assert "next one starts in" not in script.log()
    assert script.stop() == 0


def test_a_worker_that_dies_before_it_is_ready_is_delayed_ever_longer(run_script: Run, tmp_path: Path) -> None:
    """Also in a pool that has served: a database that is gone is not asked a thousand times a second."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        if os.path.exists("broken"):
            os._exit(1)
manager = Manager(1)
manager.manage()
say(os.getpid())
idle(manager)
""",
        cwd=tmp_path,
    )
    worker = int(script.line())
    (tmp_path / "broken").touch()
    script.signal(signal.SIGKILL, worker)
    found = script.wait_log(r"servers in a row failed; the next one starts in (\S+) s$", count=4)
    assert [match[1] for match in found[:4]] == ["0.1", "0.2", "0.4", "0.8"]
    began = time.monotonic()
    assert script.stop() == 0  # the delay of the next one does not hold a stop
    assert time.monotonic() - began < patient(3)


OFTEN = 2.0  # seconds in which it is counted


def test_workers_that_die_as_soon_as_they_are_ready_do_not_eat_the_machine(run_script: Run) -> None:
    """Again and again, before they have served: they are forked ever more rarely, and one line for each round says so."""
    began = time.monotonic()
    script = run_script(HEAD + "manager = ProcManager(4)\nmanager.manage()\nos._exit(1)\n")
    script.wait_log("started", count=4)
    time.sleep(OFTEN)  # nothing is waited for: this is the time in which they are counted
    script.wait_log("started", count=5)
    script.wait_log("in a row failed")
    log, passed = script.log(), time.monotonic() - began
    assert log.count("started") < 100
    remarks = [line for line in log.splitlines() if not re.search("initialized$|started$|exited with status 1$", line)]
    assert 1 <= len(remarks) <= 2 * passed + 4, remarks
    assert script.stop() == 0
