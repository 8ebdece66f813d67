"""systemd: datagrams as a real socket receives them, and process titles as the system shows them."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fcgi_procmanager.system import sdnotify
from fcgi_procmanager.system.proctitle import set_title

linux = pytest.mark.skipif(sys.platform != "linux", reason="a matter of Linux")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield sock


def test_one_datagram(service: socket.socket) -> None:
    assert sdnotify.notify("READY=1\nSTATUS=Zähler\nMAINPID=1")
    assert service.recv(4096).decode() == "READY=1\nSTATUS=Zähler\nMAINPID=1"


@linux
def test_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert sdnotify.ready()
        assert sock.recv(4096) == b"READY=1"


def test_states(service: socket.socket) -> None:
    assert sdnotify.ready("4 workers")
    assert service.recv(4096) == b"READY=1\nSTATUS=4 workers"
    assert sdnotify.stopping("two\nREADY=1\r\nlines")
    assert service.recv(4096) == b"STOPPING=1\nSTATUS=two READY=1 lines"
    assert sdnotify.stopping()
    assert service.recv(4096) == b"STOPPING=1"


def test_reloading_says_when(service: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    assert sdnotify.reloading("new code")
    first, second, third = service.recv(4096).decode().split("\n")
    assert (first, third) == ("RELOADING=1", "STATUS=new code")
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not sdnotify.ready()


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1", "/nonexistent/notify", "@nobody-here", "/" + "x" * 300])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not sdnotify.ready()


def test_odd_text_does_not_raise(service: socket.socket) -> None:
    assert sdnotify.ready("\udcff")
    assert service.recv(4096) == b"READY=1\nSTATUS=?"


@linux
def test_full_queue_does_not_block(service: socket.socket) -> None:
    sent = 0
    while sdnotify.notify("STATUS=more"):
        sent += 1
        assert sent < 100_000
    assert sent > 0


SHOW_TITLE = """
import os
from fcgi_procmanager.system.proctitle import set_title
set_title("a title of ours")
print(open(f"/proc/{os.getpid()}/cmdline").read().rstrip(chr(0)))
"""

NO_SETPROCTITLE = """
import sys
sys.modules["setproctitle"] = None
from fcgi_procmanager.system.proctitle import set_title
set_title("unseen")
print("went on")
"""


def run_python(code: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    return done.stdout, done.stderr


@linux
def test_title() -> None:
    assert run_python(SHOW_TITLE) == ("a title of ours\n", "")


def test_title_without_setproctitle() -> None:
    assert run_python(NO_SETPROCTITLE) == ("went on\n", "")


def test_title_that_cannot_be_set() -> None:
    set_title("\udcff")
    set_title("\0")
