"""The same replies and requests through every web server, in every way to serve, against the table of docs/WEBSERVERS.md.

Each row of that table is a probe here, each column a web server in one of the configurations that the pages give. What a
web server itself makes of a reply or a request stands in the table; whatever serves the application, it is the same.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from harness.process import Script
from harness.web import ROOT, WEBS, Site

Run = Callable[..., Script]
Probe = Callable[[Site], str]

HERE = Path(__file__).parent
PAGE = Path(__file__).resolve().parents[2] / "docs" / "WEBSERVERS.md"

LENGTH, PIECES = 1000, 1500  # bytes; see application.py
CHUNKS = 9
SILENCE = 4  # seconds; Apache and lighttpd close a connection that says nothing for 5
BODY = bytes(range(256)) * 300  # more than one record, with line ends in it


# The web servers and their configurations


def replaced(old: str, new: str) -> Callable[[str], str]:
    def adapt(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return adapt


def without(*lines: str) -> Callable[[str], str]:
    def adapt(text: str) -> str:
        for line in lines:
            assert line in text
            text = text.replace(line, "")
        return text

    return adapt


NGINX_STREAMS = "fastcgi_keep_conn on; fastcgi_buffering off; fastcgi_request_buffering off;"

# The heading of each column: the web server, and what is changed in its example.
FRONTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "nginx": ("nginx", str),
    "nginx, closing": ("nginx", replaced("fastcgi_keep_conn on;", "")),
    "nginx, streaming": ("nginx", replaced("fastcgi_keep_conn on;", NGINX_STREAMS)),
    "Apache": ("apache", str),
    "Apache, reusing": ("apache", replaced('fcgi://localhost/"', 'fcgi://localhost/" enablereuse=on flushpackets=on')),
    "lighttpd": ("lighttpd", str),
    "lighttpd, buffering": ("lighttpd", without("server.stream-response-body = 1", "server.stream-request-body = 1")),
    "HAProxy": ("haproxy", str),
    "HAProxy, closing": ("haproxy", replaced("    option keep-conn", "    no option keep-conn")),
    "Caddy": ("caddy", str),
    "Caddy, buffering": ("caddy", replaced("transport fastcgi {", "request_buffers 1MiB\n\t\ttransport fastcgi {")),
}
WAYS = ("server", "threads", "adopt", "adopt-threads")


# What a client sees


class Reply(NamedTuple):
    """whole: it ended as its headers say. status 0: there was none."""

    status: int
    headers: Any
    body: bytes
    whole: bool = True


class Client:
    """One connection to the web server, kept as long as that keeps it. A client that comes late, since it was preempted, takes
    another one."""

    def __init__(self, site: Site) -> None:
        self.connection = site.connection()
        self.opened = 0
        self._used = 0.0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
        if self.connection.sock is None:
            self.opened += 1
        elif time.monotonic() - self._used > SILENCE:
            self.connection.close()
        reply = self._ask(path, method, body, headers)
        self._used = time.monotonic()
        return reply

    def _ask(self, path: str, method: str, body: Any, headers: dict[str, str]) -> Reply:
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it closed
                self.connection.request(
                    method, path, body, {name.replace("_", "-"): value for name, value in headers.items()},
                    encode_chunked="Transfer_Encoding" in headers,
                )  # fmt: skip
            reply = self.connection.getresponse()
        except (ConnectionError, http.client.HTTPException):
            self.connection.close()
            return Reply(0, {}, b"", False)
        try:
            return Reply(reply.status, reply.headers, reply.read())
        except (http.client.IncompleteRead, ConnectionError) as error:
            self.connection.close()
            return Reply(reply.status, reply.headers, getattr(error, "partial", b""), False)

    @property
    def works(self) -> bool:
        """The next request is answered as if nothing had been before it."""
        reply = self.ask("/page")
        return (reply.status, reply.body, reply.whole) == (200, b"hello", True)


def ask(site: Site, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
    with Client(site) as client:
        return client.ask(path, method, body, **headers)


def verdict(wrong: dict[str, Any]) -> str:
    return "ok" if not wrong else f"wrong: {wrong}"


# Replies


def redirections(site: Site) -> str:
    with Client(site) as client:
        found = {code: client.ask(f"/status/{code}").status for code in (200, 201, 301, 302, 303, 307, 308, 404)}
    return verdict({str(code): status for code, status in found.items() if code != status})


def head(site: Site) -> str:
    wrong = {}
    with Client(site) as client:
        for path, status, length in (("/page", 200, "5"), ("/pieces", 200, None), ("/fail", 500, None)):
            reply = client.ask(path, "HEAD")
            if (reply.status, reply.body) != (status, b"") or (
                length and reply.headers["Content-Length"] not in (length, None)
            ):
                wrong[path] = reply
            if not client.works:
                wrong[path] = "spoils the connection"
    return verdict(wrong)


def bodiless(site: Site) -> str:
    wrong = {}
    with Client(site) as client:
        for code in (204, 304):
            reply = client.ask(f"/bodiless/{code}")
            if (reply.status, reply.body) != (code, b""):
                wrong[str(code)] = reply
            if not client.works:
                wrong[str(code)] = "spoils the connection"
    return verdict(wrong)


def shapes(site: Site) -> str:
    wrong = {}
    with Client(site) as client:
        for path, size in (("/pieces", PIECES), ("/parts", PIECES), ("/written", PIECES), ("/nothing", 0)):
            reply = client.ask(path)
            if (reply.status, len(reply.body), reply.whole) != (200, size, True):
                wrong[path] = (reply.status, len(reply.body), reply.whole)
    return verdict(wrong)


def long(site: Site) -> str:
    wrong = {}
    for path in ("/long/iter", "/long/list", "/long/write", "/file"):
        with Client(site) as client:
            for _ in range(3):
                reply = client.ask(path)
                if (reply.status, len(reply.body), reply.whole) != (200, LENGTH, True):
                    wrong[path] = (reply.status, len(reply.body), reply.whole)
                if not client.works:
                    wrong[path] = "spoils the connection"
    return "cut" if not wrong else verdict(wrong)


def short(site: Site) -> str:
    replies = [ask(site, f"/short/{shape}") for shape in ("iter", "list")]
    assert ask(site, "/page").body == b"hello", "and the web server takes the next one"
    return broken_or_whole(replies, 10)


def broken(site: Site) -> str:
    return broken_or_whole([ask(site, "/broken")], 500)


def broken_or_whole(replies: list[Reply], sent: int) -> str:
    assert all(len(reply.body) <= sent or reply.status != 200 for reply in replies)
    # What breaks off at once is an error page where the web server has not begun the reply yet.
    return "looks whole" if any(reply.whole and reply.status == 200 for reply in replies) else "broken off"


def fail(site: Site) -> str:
    reply = ask(site, "/fail")
    return str(reply.status) if reply.whole and b"Unhandled Exception" in reply.body else verdict({"/fail": reply})


def logged(site: Site) -> str:
    wrong = {}
    with Client(site) as client:
        for _ in range(3):
            reply = client.ask("/logged")
            if (reply.status, reply.body) != (200, b"hello"):
                wrong["/logged"] = reply
    return verdict(wrong)


def events(site: Site, seconds: float = 2) -> str:
    """Whether the first one comes before the second one is made: within so many seconds."""
    with closing(site.connection()) as connection:
        connection.request("GET", "/events")
        connection.sock.settimeout(seconds)
        try:
            reply = connection.getresponse()
            came = reply.read1(100) if reply.status == 200 else b""
            found = "at once" if came == b"data: one\n\n" else f"wrong: {came!r}"
        except socket.timeout:
            found = "at the end"
        site.release.write_text("")
    return found


# Requests


def uploads(site: Site) -> str:
    wrong = {}
    with Client(site) as client:
        for how in ("declared", "all", "lines", "readline", "readlines"):
            reply = client.ask(f"/read/{how}", "POST", BODY)
            if reply.status != 200 or not arrived(reply):
                wrong[how] = reply
    return verdict(wrong)


def arrived(reply: Reply, body: bytes = BODY) -> bool:
    got = json.loads(reply.body)
    return bool((got["length"], got["hash"]) == (len(body), hashlib.sha256(body).hexdigest()))


def chunked(site: Site) -> str:
    found = set()
    for how in ("declared", "all", "lines"):
        # Too large to have come whole when the web server has read the head.
        pieces = iter([BODY[:1000], *[BODY] * CHUNKS, BODY[1000:]])
        reply = ask(site, f"/read/{how}", "POST", pieces, Transfer_Encoding="chunked")
        if reply.status != 200:
            found.add(str(reply.status))
        else:
            got = json.loads(reply.body)
            whole = BODY[:1000] + BODY * CHUNKS + BODY[1000:]
            right = (
                arrived(reply, whole)
                and got["declared"] == str(len(whole))
                and not got["encoded"]
                and got["terminated"]
            )
            found.add("ok" if right else f"wrong: {got}")
    return ", ".join(sorted(found))


def unread(site: Site) -> str:
    """Whether a client keeps its connection when the application has not read its upload."""
    with Client(site) as client:
        for _ in range(10):
            reply = client.ask("/ignore", "POST", BODY * 4)
            if (reply.status, reply.body) != (200, b"hello"):
                return f"wrong: {reply}"
            if not client.works:
                return "wrong: spoils the connection"
        return "ok" if client.opened == 1 else f"{client.opened} connections"


def path(site: Site) -> str:
    reply = ask(site, "/variables/a%20b/%C3%A9//c%2Fd?x=%2F")
    assert reply.status == 200, reply
    found = json.loads(reply.body)
    assert found["QUERY_STRING"] == "x=%2F"
    assert found.get("SCRIPT_NAME", "") == ""
    return "`" + str(found["PATH_INFO"]).encode("latin-1").decode() + "`"


def user(site: Site) -> str:
    reply = ask(site, "/variables", Authorization="Basic bm9ib2R5Ong=")
    return "unverified" if "REMOTE_USER" in json.loads(reply.body) else "no"


PROBES: dict[str, Probe] = {
    "a status with Location": redirections,
    "HEAD": head,
    "204, 304 with a body": bodiless,
    "pieces, lists, `write()`": shapes,
    "more than Content-Length": long,
    "less than Content-Length": short,
    "breaks off, length unknown": broken,
    "an exception": fail,
    "a log line before the reply": logged,
    "server-sent events": events,
    "an upload": uploads,
    "a chunked upload": chunked,
    "an upload that nobody reads": unread,
    "PATH_INFO of `/a%20b/%C3%A9//c%2Fd`": path,
    "REMOTE_USER from Authorization": user,
}


def expected() -> dict[str, dict[str, str]]:
    """The table of the page: by web server, by probe. A slash stands between outcomes that depend on the moment."""
    table: dict[str, dict[str, str]] = {}
    fronts: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0] == "what":
            fronts = cells[1:]
        elif cells and cells[0] in PROBES:
            for front, cell in zip(fronts, cells[1:]):
                table.setdefault(front, {})[cells[0]] = cell
    return table


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pm-web-", dir="/tmp"))
    directory.chmod(0o777 if ROOT else 0o700)
    yield directory
    shutil.rmtree(directory)


def start(front: str, way: str, place: Path, run_script: Run) -> Site:
    web, adapt = FRONTS[front]
    return Site(WEBS[web], place, run_script, (HERE / "application.py").read_text()).start(2, adapt, [way])


def test_the_page_has_every_web_server_and_every_probe() -> None:
    assert {front: set(rows) for front, rows in expected().items()} == {front: set(PROBES) for front in FRONTS}


PAIRS = [(front, way) for way in WAYS for front in FRONTS if way != "adopt-threads" or "," not in front]


@pytest.mark.parametrize(("front", "way"), PAIRS)
def test_replies_and_requests_are_what_the_page_says(front: str, way: str, place: Path, run_script: Run) -> None:
    site = start(front, way, place, run_script)
    wanted = expected()[front]
    at_once = wanted["server-sent events"] == "at once"
    probes = {**PROBES, "server-sent events": partial(events, seconds=60 if at_once else 2)}
    found = {title: probe(site) for title, probe in probes.items()}
    assert {title: outcome for title, outcome in found.items() if outcome not in wanted[title].split(" / ")} == {}
    site.stop()


@pytest.mark.parametrize("front", [front for front in FRONTS if "," not in front])
def test_a_loop_of_its_own(front: str, place: Path, run_script: Run) -> None:
    """What it writes is its own; what it gets, and its lines for the log, are as with every server."""
    site = start(front, "loop", place, run_script)
    for _ in range(3):
        with Client(site) as client:
            assert client.works
            assert logged(site) == "ok"
            assert unread(site) == "ok"
            reply = client.ask("/read", "POST", BODY)
            assert reply.status == 200
            assert arrived(reply)
            head = client.ask("/page", "HEAD")
            assert (head.status, head.body) == (200, b"")
            assert path(site) == expected()[front]["PATH_INFO of `/a%20b/%C3%A9//c%2Fd`"]
            assert client.works
    site.stop()
