"""What the manager answers when it is hard: all workers busy, in every kind of pool; somebody else asks; counters after many requests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.status import wire
from fcgi_procmanager.status.snapshot import PoolStatus
from harness.fcgi import fetch
from harness.pools import Pool, ask_beside_deadly, facts
from harness.process import Script, wait_until

Run = Callable[..., Script]

KINDS = pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
REQUESTS = int(os.environ.get("FCGI_PROCMANAGER_REQUESTS", "400"))
DEADLY = 40  # one of so many kills its worker
CLIENTS = 4


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "app.control"


def asked(control: Path) -> PoolStatus:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(control))
        client.sendall(b"status\n")
        return wire.decode(b"".join(iter(lambda: client.recv(1 << 16), b"")))


@KINDS
def test_it_answers_while_all_workers_compute(pool: Pool, control: Path, tmp_path: Path, kind: str) -> None:
    """They use all there is of the processors, and more connections wait; on each of the ways that one can ask."""
    page = str(tmp_path / "status.sock")
    script = pool.start(f"4, pool={kind!r}, control={str(control)!r}, status_listen={page!r}", 1)
    gate = tmp_path / "gate"
    requests = pool.at_once([f"/compute/{gate}"] * 6)
    wait_until(lambda: asked(control).active == 4 and asked(control).queue == 2, 60, "all to be busy")
    times = []
    for _ in range(5):
        began = time.monotonic()
        found = asked(control)
        times.append(time.monotonic() - began)
        assert (found.active, found.total) == (4, 4)
    assert fetch(page, "/ping").status == 200
    assert fetch(page, "/status?json").status == 200
    gate.touch()
    print(f"{kind}: a status in {sorted(times)[2] * 1000:.1f} ms")  # pytest -rP
    assert [request.result().status for request in requests] == [200] * 6
    assert script.stop() == 0


@KINDS
def test_each_request_is_counted_once_with_kills_in_between(pool: Pool, control: Path, kind: str) -> None:
    """Several clients; FCGI_PROCMANAGER_REQUESTS: how many requests. Those that killed their worker are counted as such."""
    script = pool.start(f"{CLIENTS}, pool={kind!r}, control={str(control)!r}", 1)
    ended, killed = [0] * CLIENTS, [0] * CLIENTS
    failures: list[object] = []

    def client(which: int) -> None:
        for number in range(REQUESTS // CLIENTS):
            deadly = number % DEADLY == DEADLY - 1
            reply = ask_beside_deadly(pool.address, "/last" if deadly else "/")
            if reply.ended is deadly or not reply.stdout:
                failures.append(reply)
            killed[which] += deadly
            ended[which] += not deadly

    threads = [threading.Thread(target=client, args=(which,)) for which in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    wait_until(lambda: facts(control)["worker deaths"] == sum(killed), 60, "the last death")
    wait_until(lambda: facts(control)["accepted conn"] == REQUESTS, 60, lambda: f"all to be counted: {facts(control)}")
    found = facts(control)
    assert found["deadly requests"] == [{"request method": "GET", "request uri": "/last", "deaths": sum(killed)}]
    assert sum(ended) + sum(killed) == found["accepted conn"]
    assert script.stop() == 0


def test_slow_requests_are_counted_once_each(pool: Pool, control: Path, tmp_path: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}, slow_after=0.3, request_timeout=6", 2)
    gate = tmp_path / "gate"
    (slow,) = pool.at_once([f"/wait/{gate}"])
    script.wait_log("slow request: GET /wait/")
    gate.touch()
    assert (slow.result().status, slow.result().text.isdigit()) == (200, True)
    assert pool.ask("/sleep/20").status == 504
    wait_until(lambda: facts(control)["slow requests"] == 2, 60, "both to be counted")
    assert facts(control)["request timeouts"] == 1
    script.wait_log("slow request: GET /sleep/20 ")
    assert script.log().count("slow request") == 2
    assert script.stop() == 0


ASK = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
os.setgid(65534), os.setuid(65534)
other = socket.socket(socket.AF_UNIX)
try:
    other.connect(sys.argv[1])
    other.sendall(b"status\\n")
    print(other.recv(1000))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not hasattr(socket, "SO_PEERCRED"), reason="takes root, and a system that tells"
)
def test_nobody_else_is_answered_whatever_the_mode_of_the_socket(pool: Pool, sock_path: str) -> None:
    control = sock_path + ".control"
    script = pool.start(f"1, control={control!r}", 1)
    os.chmod(os.path.dirname(control), 0o755)
    said = []
    for mode in (0o600, 0o666):
        os.chmod(control, mode)
        done = subprocess.run(
            [sys.executable, "-c", ASK, control], capture_output=True, text=True, timeout=100, check=True
        )
        said.append(done.stdout.strip())
    assert said[0] == "Permission denied"
    assert said[1] in ("b''", "Broken pipe", "Connection reset by peer")
    assert asked(Path(control)).total == 1
    assert script.stop(signal.SIGTERM) == 0
