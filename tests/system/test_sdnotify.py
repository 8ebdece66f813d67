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
from harness.interpreter import cpython_only

linux = pytest.mark.skipif(sys.platform != "linux", reason="a matter of Linux")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield sock


def test_one_datagram(service: socket.socket) -> None:
    assert sdnotify.notify("READY=1", sdnotify.status("Zähler"), "MAINPID=1")
    assert service.recv(4096).decode() == "READY=1\nSTATUS=Zähler\nMAINPID=1"


@linux
def test_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert sdnotify.notify(sdnotify.WATCHDOG)
        assert sock.recv(4096) == b"WATCHDOG=1"


def test_a_line_break_begins_no_other_assignment() -> None:
    assert sdnotify.status("two\nREADY=1\r\nlines") == "STATUS=two READY=1 lines"


def test_seconds_are_microseconds_to_systemd() -> None:
    assert sdnotify.extend(1.5) == "EXTEND_TIMEOUT_USEC=1500000"


def test_ready_says_who() -> None:
    assert sdnotify.ready() == ("READY=1", f"MAINPID={os.getpid()}")


def test_reloading_says_when() -> None:
    before = time.monotonic_ns() // 1000
    state, when = sdnotify.reloading()
    name, _, value = when.partition("=")
    assert (state, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert sdnotify.notify("READY=1") is False


@pytest.mark.parametrize("name", ["", "relative", "vsock:2:1", "/nonexistent/notify", "@nobody-here", "/" + "x" * 300])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert sdnotify.notify("READY=1") is False
    assert sdnotify.is_asked_for() == (name[:1] in ("/", "@"))


def test_odd_text_does_not_raise(service: socket.socket) -> None:
    assert sdnotify.notify(sdnotify.status("\udcff"))
    assert service.recv(4096) == b"STATUS=?"


@linux
def test_a_full_queue_does_not_block_and_is_told_from_one_that_nobody_reads(service: socket.socket) -> None:
    sent = 0
    while sdnotify.notify("STATUS=more"):
        sent += 1
        assert sent < 100_000
    assert sent > 0
    assert sdnotify.notify("STATUS=more") is None


@pytest.mark.parametrize(
    ("period", "pid", "seconds"),
    [
        ("3000000", None, 3.0),
        ("3000000", "ours", 3.0),
        ("3000000", "1", 0.0),
        ("3000000", "x", 0.0),
        ("0", None, 0.0),
        ("-1", None, 0.0),
        ("soon", None, 0.0),
        ("9" * 30, None, 0.0),
        (None, None, 0.0),
    ],
)
def test_the_period_of_the_watchdog(
    monkeypatch: pytest.MonkeyPatch, period: str | None, pid: str | None, seconds: float
) -> None:
    for name, value in (("WATCHDOG_USEC", period), ("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert sdnotify.watchdog_period() == seconds


def test_what_is_forgotten_is_gone(service: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    sdnotify.forget()
    assert sdnotify.notify("READY=1") is False
    assert sdnotify.watchdog_period() == 0.0


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
@cpython_only("setproctitle does nothing there")
def test_title() -> None:
    assert run_python(SHOW_TITLE) == ("a title of ours\n", "")


def test_title_without_setproctitle() -> None:
    assert run_python(NO_SETPROCTITLE) == ("went on\n", "")


def test_title_that_cannot_be_set() -> None:
    set_title("\udcff")
    set_title("\0")
