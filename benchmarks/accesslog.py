"""What the log of requests costs a request, in microseconds: a small reply on a kept connection, with no log and with each kind of line.

In one process, which is client and server in turn, in many rounds: each way in each round, and the least of all rounds of a way. What
else the machine does makes a round longer, never shorter.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Callable

import common
from common import Aim
from fcgi_procmanager import PoolManager
from fcgi_procmanager.fastcgi import protocol
from fcgi_procmanager.fastcgi.connection import Connection, Limits
from fcgi_procmanager.fastcgi.pairs import encode
from fcgi_procmanager.fastcgi.request import Request

ON_A_REQUEST = 20.0  # microseconds
REQUESTS = 200  # in a round
WITHOUT = "no log"
FORMATS = {
    "the default line": None,
    "no CPU, no memory": '%R - %u [%t] "%m %r%Q%q" %s %b %{milliseconds}d',
    "user and system": "%m %r %s %{user}C %{system}C",
    "JSON": "json",
}
PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/a/path/of/usual/length?with=a&query=string",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/a/path/of/usual/length",
    "QUERY_STRING": "with=a&query=string",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
}
REPLY = [b"Content-Type: text/plain\r\nContent-Length: 5\r\nStatus: 200 OK\r\n\r\n", b"hello"]

Make = Callable[..., Request]


def main() -> None:
    given = common.options(__doc__ or "").parse_args()
    rounds = 50 if given.quick else 500
    with common.Stage() as stage:
        found = _measure(rounds, str(stage.place("log") / "requests"))
    conditions = f"{common.machine()}; the least of {rounds} rounds of {REQUESTS} requests, in turn; the log on this machine's disk."
    if given.json:
        given.json.write_text(json.dumps({"conditions": conditions, "figures": found}, indent=1) + "\n")
    base = found[WITHOUT]
    rows = [(name, f"{value:.1f}", f"{value - base:+.1f}") for name, value in found.items()]
    page = conditions + "\n\n" + common.table(("what", "us a request", "beside no log"), rows)
    common.publish(given.page, "access log", page)
    cost = found["the default line"] - base
    aim = Aim("the log of requests, a line", f"{cost:.1f} us", f"less than {ON_A_REQUEST:g} us", cost < ON_A_REQUEST)
    common.publish(given.page, "access log aims", Aim.table([aim]))


def _measure(rounds: int, path: str) -> dict[str, float]:
    ways: dict[str, Make] = {WITHOUT: Request}
    managers = []
    for name, format in FORMATS.items():
        manager = PoolManager(0, access_log=path, access_format=format)
        manager.manage()  # a single process: it opens the log, and returns
        assert manager._make_request is not None
        managers.append(manager)
        ways[name] = manager._make_request
    least = dict.fromkeys(ways, float("inf"))
    with _connected() as (client, server):
        for _ in range(rounds):
            for name, make in ways.items():
                least[name] = min(least[name], _round(client, server, make))
    return {name: seconds / REQUESTS * 1e6 for name, seconds in least.items()}


@contextmanager
def _connected() -> Iterator[tuple[socket.socket, Connection]]:
    ours, theirs = socket.socketpair()
    limits = Limits((protocol.RESPONDER,), {}, 10, 10)
    with ours, theirs:
        yield ours, Connection(theirs, limits)


def _round(client: socket.socket, server: Connection, make: Make) -> float:
    asked, done = _asked(), partial(_nothing)
    began = time.perf_counter()
    for _ in range(REQUESTS):
        client.send(asked)
        assert server.poll()
        request = make(server, done)
        request.reply(list(REPLY))
        request.finish()
        server.next_request()
        client.recv(4096)
    return time.perf_counter() - began


def _nothing(connection: Connection, keep: bool) -> None:
    pass


def _asked() -> bytes:
    begin = struct.pack("!HB5x", protocol.RESPONDER, protocol.KEEP_CONN)
    params = encode(PARAMS)
    parts = ((protocol.BEGIN_REQUEST, begin), (protocol.PARAMS, params), (protocol.PARAMS, b""), (protocol.STDIN, b""))
    return b"".join(protocol.header(kind, 1, len(content)) + content for kind, content in parts)


if __name__ == "__main__":
    common.run(main)
