"""Replies and bodies as they go over the wire: what HTTP says of their length, STDERR, and bodies that come without one."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from harness.fcgi import STDERR, STDOUT, Client, request_bytes
from harness.process import Script

Run = Callable[..., Script]

SOURCE = """
import json, os, sys, time
from fcgi_procmanager import ProcManager, WSGIServer, adopt
from fcgi_procmanager.fastcgi import request
from flup.server.fcgi_single import WSGIServer as Single
from harness.inside import say

request._UNREAD_SECONDS = 60  # the test may be preempted while it sends

def application(environ, start_response):
    path, stream = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/body":
        body = stream.read()
        found = [len(body), environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"), type(stream).__name__]
        reply = json.dumps(found).encode()
        start_response("200 OK", [("Content-Length", str(len(reply)))])
        return [reply]
    if path == "/called":
        say("called")
    if path == "/errors":
        for _ in range(3):
            environ["wsgi.errors"].write("a line\\n")
            environ["wsgi.errors"].flush()
    if path == "/many-errors":
        environ["wsgi.errors"].write("x" * 200_000)
        environ["wsgi.errors"].write("y")
    length = {"/length": [("Content-Length", "abc")], "/late": [("Content-Length", "9")], "/declared": [("Content-Length", "5")], "/long": [("Content-Length", "3")], "/short": [("Content-Length", "9")]}.get(path, [])
    write = start_response("204 No Content" if path == "/none" else "200 OK", [("X-A", "1"), *length])
    if path == "/raise":
        raise RuntimeError("on purpose")
    if path == "/late":
        def late():
            yield b"hel"
            environ["wsgi.errors"].write("too short")
        return late()
    if path == "/endless":
        def body():
            try:
                while True:
                    yield b"more"
            finally:
                say("closed")
        return body()
    return [b"hello"]

manager = ProcManager(1)
listener = manager.listen(sys.argv[1])
settings = eval(sys.argv[3])
if sys.argv[2] == "adopt":
    adopt(Single(application, bindAddress=None), manager, **settings).run()
WSGIServer(application, manager=manager, **settings).run()
"""


@pytest.fixture(params=["server", "threads", "adopt"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def start(run_script: Run, sock_path: str) -> Iterator[Callable[..., Script]]:
    def start(way: str, **settings: Any) -> Script:
        if way == "threads":
            settings["threads"] = 2
        script = run_script(SOURCE, args=[sock_path, way, repr(settings)])
        script.wait_ready()
        scripts.append(script)
        return script

    scripts: list[Script] = []
    yield start
    for script in scripts:
        if script.process.returncode is None:
            assert script.stop() == 0


def kinds(sock_path: str, path: str, **params: str) -> list[tuple[int, bytes]]:
    """The records of a reply, in order: kind and content."""
    with Client(sock_path) as client:
        client.send(request_bytes(params, path=path))
        found = []
        while (record := client.read_record()) is not None:
            found.append((record.type, record.content))
        return found


def without_length(size: int, path: str = "/body", **params: str) -> bytes:
    """A request whose body has no CONTENT_LENGTH."""
    return request_bytes({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": None, **params}, b"b" * size, path=path)


# STDERR


def test_stderr_comes_behind_the_first_of_the_reply(start: Callable[..., Script], sock_path: str) -> None:
    start("adopt")
    found = [kind for kind, content in kinds(sock_path, "/errors") if content]
    assert found[0] == STDOUT
    assert found.count(STDERR) == 1


def test_stderr_without_a_reply_comes_with_its_end(start: Callable[..., Script], sock_path: str) -> None:
    start("adopt")
    (kind, _), *_ = kinds(sock_path, "/many-errors")
    assert kind == STDOUT
    text = b"".join(content for kind, content in kinds(sock_path, "/many-errors") if kind == STDERR)
    assert text.startswith(b"x" * 1000)
    assert text.endswith(b"[1 bytes left out]\n"), "it is not gathered without end"


def test_behind_haproxy_it_goes_to_the_log(start: Callable[..., Script], sock_path: str) -> None:
    script = start("adopt")
    found = kinds(sock_path, "/errors", SERVER_SOFTWARE="HAProxy 2.6.12")
    assert STDERR not in [kind for kind, _ in found]
    script.wait_log("^a line$", 3)


def test_a_reply_that_breaks_off_loses_no_line_for_the_log(start: Callable[..., Script], sock_path: str) -> None:
    script = start("adopt")
    with Client(sock_path) as client:
        reply = client.request("/late")
    assert (reply.ended, reply.body, reply.stderr) == (False, b"hel", b"too short")
    script.wait_log("a reply ends 6 bytes short of its Content-Length of 9: broken off")


# How much of a body


def test_status_is_the_last_line_of_the_head(start: Callable[..., Script], sock_path: str, way: str) -> None:
    start(way)
    head = kinds(sock_path, "/hello")[0][1].partition(b"\r\n\r\n")[0]
    assert head.splitlines()[-1] == b"Status: 200 OK"
    assert b"X-A: 1" in head.splitlines()


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("/hello", {"REQUEST_METHOD": "HEAD"}, b"200 OK"),
        ("/declared", {"REQUEST_METHOD": "HEAD"}, b"200 OK"),
        ("/none", {}, b"204 No Content"),
        ("/raise", {"REQUEST_METHOD": "HEAD"}, b"500 Internal Server Error"),
    ],
)
def test_no_body_where_there_is_none(
    start: Callable[..., Script], sock_path: str, way: str, path: str, params: dict[str, str], status: bytes
) -> None:
    script = start(way)
    reply = b"".join(content for kind, content in kinds(sock_path, path, **params) if kind == STDOUT)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.splitlines()[-1] == b"Status: " + status
    assert body == b""
    assert "short of" not in script.log()


def test_a_body_that_nobody_gets_may_be_endless(start: Callable[..., Script], sock_path: str) -> None:
    script = start("server")
    kinds(sock_path, "/endless", REQUEST_METHOD="HEAD")
    assert script.line() == "closed"


def test_a_reply_at_hand_is_as_long_as_it_says_or_breaks_off(start: Callable[..., Script], sock_path: str) -> None:
    script = start("WSGIServer")
    with Client(sock_path) as client:
        client.send(request_bytes(path="/long"))
        reply = client.read_reply()
        assert (reply.body, reply.ended) == (b"hel", True)
    script.wait_log("a reply was cut at its Content-Length of 3")
    with Client(sock_path) as client:
        client.send(request_bytes(path="/short"))
        reply = client.read_reply()
        assert (reply.body, reply.ended) == (b"hello", False)
    script.wait_log("a reply ends 4 bytes short of its Content-Length of 9: broken off")
    assert script.stop() == 0


def test_a_length_that_is_no_number_is_an_error_of_the_application(
    start: Callable[..., Script], sock_path: str
) -> None:
    script = start("server")
    assert b"Status: 500" in kinds(sock_path, "/length")[0][1]
    script.wait_log("a Content-Length must be a number of bytes, not 'abc'")


# Bodies without a length


@pytest.mark.parametrize(("size", "kept_in"), [(1, "BytesIO"), (70_000, "BytesIO"), (3_000_000, "BufferedRandom")])
def test_a_body_without_a_length_gets_one(
    start: Callable[..., Script], sock_path: str, way: str, size: int, kept_in: str
) -> None:
    start(way)
    with Client(sock_path) as client:
        client.send(without_length(size, HTTP_TRANSFER_ENCODING="chunked"))
        assert client.read_reply().text == f'[{size}, "{size}", null, "{kept_in}"]'
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("tmp") and size == 0]


def test_it_may_be_handed_over_as_it_comes(start: Callable[..., Script], sock_path: str, way: str) -> None:
    start(way, body_without_length="stream")
    with Client(sock_path) as client:
        client.send(without_length(70_000))
        assert client.read_reply().text == '[70000, null, null, "BufferedReader"]'


def test_one_that_is_too_long_is_refused(start: Callable[..., Script], sock_path: str, way: str) -> None:
    script = start(way, body_limit=100_000)
    with Client(sock_path) as client:
        client.send(without_length(100_001, "/called"))
        assert client.read_reply().status == 413
    with Client(sock_path) as client:
        client.send(without_length(100_000))
        assert client.read_reply().text.startswith("[100000,")
    script.wait_log("refused a body without a length: it is longer than body_limit, 100000 bytes")
    assert "Traceback" not in script.log()


def test_one_that_cannot_be_stored_is_refused(run_script: Run, sock_path: str) -> None:
    source = "import tempfile\ntempfile.tempdir = '/no/such/place'\n" + SOURCE
    script = run_script(source, args=[sock_path, "server", "{}"])
    script.wait_ready()
    with Client(sock_path) as client:
        client.send(without_length(3_000_000, "/called"))
        assert client.read_reply().status == 500
    script.wait_log(r"refused a body without a length: it cannot be stored \(No such file or directory\)")
    assert "Traceback" not in script.log()
    assert script.stop() == 0


def test_one_that_ends_early_calls_nobody(start: Callable[..., Script], sock_path: str) -> None:
    script = start("server")
    whole = without_length(3_000_000, "/called")
    with Client(sock_path) as client:
        client.send(whole[: len(whole) // 2])
    script.wait_log("a request ended early")
    with Client(sock_path) as client:
        assert client.request("/hello").text == "hello"
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert script.output() == ""


# A body that nobody reads


def test_the_rest_of_a_body_is_read_before_the_reply_ends(
    start: Callable[..., Script], sock_path: str, way: str
) -> None:
    """The web server is still sending it: what it sends after the end of the reply costs its client the connection."""
    start(way)
    body = b"b" * 300_000
    whole = request_bytes({"REQUEST_METHOD": "POST"}, body, keep=True, path="/hello")
    with Client(sock_path) as client:
        client.send(whole[: len(whole) - 1000])
        assert not client.readable(0.05)
        client.send(whole[len(whole) - 1000 :])
        assert client.read_reply().text == "hello"
        assert client.request("/hello", keep=True).text == "hello"
