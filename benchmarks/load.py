"""Load from HTTP clients: wrk where it is installed, else ab, else the small generator at the end of this file.

The small one is the slowest by far: with it the client is often what is measured.
"""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from common import HERE, Failed, figure, find

PATIENCE = 10  # seconds until a client counts its request as failed


class Load(NamedTuple):
    """What came of it. Times are milliseconds."""

    requests: int  # that were answered well
    seconds: float
    median: float
    p99: float
    worst: float
    failed: int  # errors of sockets, answers that are not 2xx, and those that came too late

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def generator() -> str:
    """The name of the one that is used."""
    return "wrk" if find("wrk") else "ab" if find("ab") else "load.py"


def load(port: int, path: str, clients: int, seconds: int, body: Path | None) -> Load:
    """So many clients, each with a connection that it keeps, ask again and again for so long."""
    url = f"http://127.0.0.1:{port}{path}"
    return {"wrk": _wrk, "ab": _ab, "load.py": _own}[generator()](url, clients, seconds, body)


def _wrk(url: str, clients: int, seconds: int, body: Path | None) -> Load:
    options = ["-t", "1", "-c", str(clients), "-d", f"{seconds}s", "--timeout", f"{PATIENCE}s"]
    script = ["-s", str(HERE / "load.lua"), url, "--", *([str(body)] if body else [])]
    return _result(_run([find("wrk") or "", *options, *script]))


def _own(url: str, clients: int, seconds: int, body: Path | None) -> Load:
    return _result(_run([sys.executable, __file__, url, str(clients), str(seconds), *([str(body)] if body else [])]))


def _result(printed: str) -> Load:
    found = re.search(r"^RESULT (.*)$", printed, re.M)
    if not found:
        raise Failed(f"the load generator said: {printed}")
    return Load(**json.loads(found[1]))


def _ab(url: str, clients: int, seconds: int, body: Path | None) -> Load:
    posts = ["-p", str(body), "-T", "application/octet-stream"] if body else []
    limits = ["-t", str(seconds), "-n", "100000000", "-s", str(PATIENCE)]
    printed = _run([find("ab") or "", "-q", "-k", "-r", "-c", str(clients), *limits, *posts, url])

    def number(pattern: str) -> float:
        found = re.search(pattern, printed, re.M)
        return float(found[1]) if found else 0

    wrong = int(number(r"^Non-2xx responses: +(\d+)"))
    return Load(
        requests=int(number(r"^Complete requests: +(\d+)")) - wrong,
        seconds=number(r"^Time taken for tests: +([\d.]+)"),
        median=number(r"^ +50% +(\d+)"),
        p99=number(r"^ +99% +(\d+)"),
        worst=number(r"^ +100% +(\d+)"),
        failed=int(number(r"^Failed requests: +(\d+)")) + wrong,
    )


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{argv[0]}: {done.stderr or done.stdout}")
    return done.stdout


# -- the small generator ----------------------------------------------------------------------------------------------


class Client:
    """One connection, one request at a time."""

    def __init__(self, address: tuple[str, int], message: bytes) -> None:
        self.sock = socket.create_connection(address, PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.message = message

    def ask(self) -> None:
        self.since = time.perf_counter()
        self._missing: int | None = None  # bytes of the answer
        self._head = b""
        self.sock.sendall(self.message)

    def answered(self) -> bool:
        """Take what has come; whether that was the rest. Raises Failed."""
        piece = self.sock.recv(1 << 18)
        if not piece:
            raise Failed("closed")
        if self._missing is None:
            self._head += piece
            head, end, piece = self._head.partition(b"\r\n\r\n")
            if not end:
                return False
            length = re.search(rb"^content-length: *(\d+)", head, re.I | re.M)
            if not re.match(rb"HTTP/1\.1 2", head) or not length:
                raise Failed(head.decode())
            self._missing = int(length[1])
        self._missing -= len(piece)
        return self._missing == 0


def main(url: str, clients: str, seconds: str, body: str = "") -> None:
    where = urlsplit(url)
    host, port = where.hostname or "", where.port or 80
    data = Path(body).read_bytes() if body else b""
    method, fields = ("POST", f"Content-Length: {len(data)}\r\n") if body else ("GET", "")
    message = f"{method} {where.path}?{where.query} HTTP/1.1\r\nHost: {host}:{port}\r\n{fields}\r\n".encode() + data
    times: list[float] = []
    failed = 0
    poller = select.epoll()
    connected: dict[int, Client] = {}

    def connect() -> None:
        client = Client((host, port), message)
        connected[client.sock.fileno()] = client
        poller.register(client.sock, select.EPOLLIN)
        client.ask()

    began = time.perf_counter()
    for _ in range(int(clients)):
        connect()
    while (now := time.perf_counter()) < began + int(seconds):
        for number, _ in poller.poll(0.1):
            client = connected[number]
            try:
                if not client.answered():
                    continue
                times.append(time.perf_counter() - client.since)
                client.ask()
            except (Failed, OSError):
                failed += 1
                del connected[number]
                client.sock.close()
                connect()
    times.sort()
    worst = figure(times or [0])
    result = Load(
        requests=len(times),
        seconds=now - began,
        median=worst.median * 1000,
        p99=(times or [0])[int(len(times) * 0.99)] * 1000,
        worst=worst.high * 1000,
        failed=failed,
    )
    print("RESULT", json.dumps(result._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
