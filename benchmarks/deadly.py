"""Requests that kill their worker: what becomes of the healthy ones that come at the same time, and afterwards.

Four workers. Healthy requests come at a steady rate all the time, each on a connection of its own; deadly ones, which end their
worker by SIGSEGV, come so many times a second, then no more. FastCGI servers are spoken to directly, so that no web server
repeats a request.
"""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path
from typing import NamedTuple

import common
from common import APPLICATIONS, Failed, Stage, progress
from peers import Gunicorn, Ours, Peer, PhpFpm, Uwsgi

WORKERS = 4
HEALTHY = 20  # a second
PATIENCE = 5.0  # seconds that a client waits for its reply
ANSWER = b"0" * 12  # of a request without a body
END_REQUEST = b"\x01\x03"


# -- the servers --------------------------------------------------------------------------------------------------------


class OursDeadly(Ours):
    script = "ours_deadly.py"


class GunicornDeadly(Gunicorn):
    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        return _deadly(super().command(place, socket, workers))


class UwsgiDeadly(Uwsgi):
    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        return _deadly(super().command(place, socket, workers))


def _deadly(command: list[str]) -> list[str]:
    return ["deadly:app" if word == "wsgi:app" else word for word in command]


SERVERS: list[Peer] = [OursDeadly(), PhpFpm(), GunicornDeadly(), UwsgiDeadly()]


# -- the clients --------------------------------------------------------------------------------------------------------


class Client:
    """Requests to one server, in its language."""

    def __init__(self, socket: Path, http: bool) -> None:
        self._socket = socket
        self._http = http
        self._words = {path: self._request(path) for path in ("/page", "/deadly")}

    def _request(self, path: str) -> bytes:
        if self._http:
            return f"GET {path}?12 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        named = {"PATH_INFO": path, "REQUEST_URI": f"{path}?12", "DOCUMENT_URI": path}
        script = str(APPLICATIONS / "deadly.php")  # php-fpm's way to be told what to run
        return common.request({**common.VARIABLES, **named, "SCRIPT_FILENAME": script})

    async def answered(self, path: str) -> bool:
        """One request on a connection of its own; whether the whole reply came in time."""
        try:
            return self._is_whole(await asyncio.wait_for(self._reply(path), PATIENCE))
        except (OSError, asyncio.TimeoutError):
            return False

    async def _reply(self, path: str) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(self._words[path])
            return await reader.read(-1)
        finally:
            writer.close()

    def _is_whole(self, reply: bytes) -> bool:
        if self._http:
            return reply.partition(b"\r\n")[0].endswith(b" 200 OK") and reply.endswith(ANSWER)
        return ANSWER in reply and reply[-16:-14] == END_REQUEST

    async def every(self, path: str, rate: int, seconds: float) -> int:
        """So many requests a second, whatever becomes of those before; how many were answered."""
        loop = asyncio.get_running_loop()
        began, asked = loop.time(), []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            asked.append(asyncio.ensure_future(self.answered(path)))
        return sum(await asyncio.gather(*asked))


# -- what is measured ---------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Healthy requests that were answered: while deadly ones came, and afterwards."""

    during: int
    after: int


class Spans(NamedTuple):
    """Seconds with deadly requests, and without."""

    during: float
    after: float


async def _suffer(client: Client, deadly: int, spans: Spans) -> Outcome:
    during = asyncio.ensure_future(client.every("/page", HEALTHY, spans.during))
    killing = asyncio.ensure_future(client.every("/deadly", deadly, spans.during))
    await asyncio.sleep(spans.during)
    after = asyncio.ensure_future(client.every("/page", HEALTHY, spans.after))
    await killing
    return Outcome(await during, await after)


def measure(stage: Stage, server: Peer, deadly: int, spans: Spans) -> Outcome:
    """A fresh pool, and what it answers."""
    name = f"{server.name}-{deadly}"
    place = stage.place(name)
    socket = place / "sock"
    program = stage.start(name, server.command(place, socket, WORKERS))
    program.until(lambda: socket.exists() and common.listens(socket), "a socket that listens")
    client = Client(socket, server.http)
    program.until(lambda: asyncio.run(client.answered("/page")), "an answer")
    outcome = asyncio.run(_suffer(client, deadly, spans))
    program.stop()
    stage.programs.remove(program)
    progress(f"{server.name}, {deadly} deadly a second: {outcome.during} answered during, {outcome.after} after")
    return outcome


def main() -> None:
    given = common.options(__doc__ or "").parse_args()
    rates, spans = ([20], Spans(2, 2)) if given.quick else ([5, 20, 100], Spans(10, 15))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = [server for server in SERVERS if server.version()]
    for server in SERVERS:
        if server not in found:
            progress(f"skipped: {server.name}: {server.needs} is not installed")
    outcomes: dict[str, dict[int, Outcome]] = {}
    with Stage() as stage:
        for rate in rates:
            for server in found:
                outcomes.setdefault(server.name, {})[rate] = measure(stage, server, rate, spans)
    if given.json:
        kept = {"machine": common.machine(), "spans": spans._asdict(), "outcomes": outcomes}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    versions = "; ".join(server.version() for server in found)
    common.publish(given.page, "deadly", f"{common.machine()}. {versions}.\n\n{_table(outcomes, rates, spans)}")
    if not outcomes[SERVERS[0].name][rates[0]].during:
        raise Failed("ours has answered nothing")


def _table(outcomes: dict[str, dict[int, Outcome]], rates: list[int], spans: Spans) -> str:
    asked = Outcome(round(HEALTHY * spans.during), round(HEALTHY * spans.after))
    head = ["healthy requests answered"]
    for rate in rates:
        head += [f"{rate} deadly a second: during, of {asked.during}", f"after, of {asked.after}"]
    rows = [(name, *(str(number) for rate in rates for number in by_rate[rate])) for name, by_rate in outcomes.items()]
    return common.table(head, rows)


if __name__ == "__main__":
    common.run(main)
