"""FastCGI programs that were not written for us, for the tests of `exec`, and what those tests share.

Programs answer / with their pid; /held says "in hand PID" on standard output and waits for the gate.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, wait_until
from harness.tools import require, require_perl

HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]


def libfcgi(folder: Path) -> list[str]:
    """The program in C, compiled into that folder."""
    gcc = require("gcc")
    if not os.path.exists("/usr/include/fcgiapp.h"):
        pytest.skip("libfcgi-dev is not installed")
    program = folder / "libfcgi"
    subprocess.run([gcc, "-O1", "-o", str(program), str(HERE / "libfcgi.c"), "-lfcgi"], check=True, timeout=60)
    return [str(program)]


def perl(folder: Path) -> list[str]:
    return [require_perl("FCGI"), str(HERE / "perl_fcgi.pl")]


def plain(folder: Path) -> list[str]:
    return [sys.executable, str(HERE / "plain.py")]


PROGRAMS: dict[str, Callable[[Path], list[str]]] = {"libfcgi": libfcgi, "perl": perl, "plain": plain}


def open_gate(folder: Path) -> None:
    """Let one held request go on, once it waits at the gate."""
    os.close(wait_until(lambda: _open_if_awaited(folder / "gate"), 60, "a request at the gate"))


def _open_if_awaited(gate: Path) -> int | None:
    try:
        return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nobody reads
            return None
        raise


class Load:
    """Clients that ask again and again, each on a connection of its own, until told to stop."""

    def __init__(self, address: str, clients: int = 2) -> None:
        self.replies = 0
        self.pids: set[int] = set()
        self.wrong: list[object] = []
        self._address = address
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def wait_more(self, count: int) -> None:
        """Until so many more replies have come."""
        enough = self.replies + count
        wait_until(lambda: self.wrong or self.replies >= enough, 60, lambda: f"replies, not {self.replies}")

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                reply = fcgi.fetch(self._address, timeout=30)
                pid = int(reply.text)
                assert reply.ended, reply
            except (OSError, EOFError, ValueError, AssertionError) as error:
                self.wrong.append(error)
                return
            with self._lock:
                self.replies += 1
                self.pids.add(pid)
            self._over.wait(0.001)  # the machine has something else to do as well


class Folder:
    """Where a test starts its programs: a gate in it, a PID file called `pid`, and the socket file."""

    def __init__(self, path: Path, run: Callable[..., Script], sock_path: str) -> None:
        self.path = path
        self.sock_path = sock_path
        self._run = run
        path.mkdir()
        os.mkfifo(path / "gate")

    def run(self, *args: object, env: dict[str, str] | None = None, **kw: Any) -> Script:
        """A command of ours, called there."""
        return self.run_plain([*COMMAND, *args], env=env, **kw)

    def run_plain(self, argv: Sequence[object], env: dict[str, str] | None = None, **kw: Any) -> Script:
        """Another command, called there."""
        merged = {"GATE": str(self.path / "gate"), **(env or {})}
        return self._run(list(map(str, argv)), env=merged, **{"cwd": self.path, **kw})

    def exec(self, program: Sequence[str], *options: object, n: int = 2, wait: bool = True, **kw: Any) -> Script:
        """`exec` on the socket file, by default once all copies were started."""
        script = self.run(
            *("exec", "--listen", self.sock_path, "--pidfile", "pid", "-n", n, *options, "--", *program), **kw
        )
        if wait:
            wait_started(script, n)
        return script

    def control(self, name: str, *options: object) -> None:
        """`stop` or `reload`, which is to succeed without a word."""
        done = self.run(name, "--pidfile", "pid", *options)
        assert done.wait(30) == 0, done.log()
        assert done.log() == ""

    def ask(self, path: str = "/") -> str:
        reply = fcgi.fetch(self.sock_path, path, timeout=30)  # a program may be starting
        assert reply.ended, reply
        return reply.text

    def hold(self, script: Script) -> Held:
        return Held(self, script)


class Held:
    """A request that a copy has in hand until the gate is opened."""

    def __init__(self, folder: Folder, script: Script) -> None:
        self._folder = folder
        self._client = fcgi.Client(folder.sock_path, timeout=20)
        self._client.send(fcgi.request_bytes(path="/held"))
        self.pid = int(script.line().removeprefix("in hand "))

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def let_go(self) -> None:
        """The request goes on, and is answered in full by who had it in hand."""
        open_gate(self._folder.path)
        reply = self._client.read_reply()
        assert reply.ended
        assert int(reply.text) == self.pid

    def readable(self, timeout: float) -> bool:
        """Whether something has come, or the connection has ended, within so many seconds."""
        return self._client.readable(timeout)

    def broken_off(self) -> bool:
        return not self._client.read_reply().ended


def wait_started(script: Script, count: int) -> list[int]:
    script.wait_log(r"server \(pid \d+\) started$", count)
    return script.wait_workers(count)
