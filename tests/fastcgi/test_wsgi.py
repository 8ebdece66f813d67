"""`WSGIServer` under a manager, end to end: what an application can do, and what the web server then sees."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from harness import fcgi
from harness.process import Script, open_fds, wait_settled, wait_until

K64 = 1 << 16
SIZES = [0, 1, K64 - 1, K64, K64 + 1, 20 << 20]

APPLICATION = """
    import hashlib, json, os, sys
    from wsgiref.validate import validator
    from fcgi_procmanager import ProcManager, WSGIServer
    from fcgi_procmanager.fastcgi import held, request
    from harness.inside import say

    request._UNREAD_SECONDS = held.LINGER = 60       # the test may be preempted while it sends

    PLAIN = [("Content-Type", "text/plain")]
    PAGES = {}
    CLOSED = {}                          # path: how often close() was called

    def page(function):
        PAGES["/" + function.__name__] = validator(function)
        return function

    def raw(function):                   # does what wsgiref.validate forbids
        PAGES["/" + function.__name__] = function
        return function

    class Closing:
        def __init__(self, chunks, name):
            self.chunks, self.name = iter(chunks), name
        def __iter__(self):
            return self
        def __next__(self):
            return next(self.chunks)
        def close(self):
            CLOSED[self.name] = CLOSED.get(self.name, 0) + 1

    def number(environ):
        return int(environ["QUERY_STRING"] or 0)

    # -- bodies

    @page
    def read_all(environ, start_response):
        digest, size = hashlib.sha1(), 0
        while True:
            chunk = environ["wsgi.input"].read(100_000)
            if not chunk:
                break
            size += len(chunk)
            digest.update(chunk)
        start_response("200 OK", list(PLAIN))
        return [f"{size} {digest.hexdigest()} {environ['wsgi.input'].read(10)!r}".encode()]

    @page
    def read_length(environ, start_response):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        start_response("200 OK", list(PLAIN))
        return [f"{len(body)} {hashlib.sha1(body).hexdigest()}".encode()]

    @raw
    def read_everything(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", PLAIN)
        return [f"{len(body)} {hashlib.sha1(body).hexdigest()} {environ['wsgi.input'].read()!r}".encode()]

    @page
    def lines(environ, start_response):
        source = environ["wsgi.input"]
        first, part = source.readline(), source.readline(3)
        rest = [len(line) for line in source]
        start_response("200 OK", list(PLAIN))
        return [json.dumps([first.decode(), part.decode(), rest]).encode()]

    @page
    def readlines(environ, start_response):
        found = environ["wsgi.input"].readlines()
        start_response("200 OK", list(PLAIN))
        return [json.dumps([len(found), sum(map(len, found))]).encode()]

    @page
    def part(environ, start_response):
        start = environ["wsgi.input"].read(number(environ))
        start_response("200 OK", list(PLAIN))
        return [start]

    @page
    def unread(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return [b"r" * number(environ)]

    @page
    def echo(environ, start_response):
        start_response("200 OK", list(PLAIN))
        def copy():
            while chunk := environ["wsgi.input"].read(50_000):
                yield chunk
        return copy()

    # -- replies

    @page
    def reply(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return [b"x" * number(environ)]

    @page
    def chunks(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return (b"x" * size for size in (0, 1, 1000, 0, 70_000, number(environ)))

    @raw                                 # the validator hides the list, and with it its length
    def whole(environ, start_response):
        start_response("200 OK", PLAIN)
        return [b"x" * number(environ)]

    @raw
    def two(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return [b"ab", b"cd"]

    @raw
    def length(environ, start_response):
        start_response("200 OK", [*PLAIN, ("content-length", "3")])
        return [b"abc"]

    @raw
    def nothing(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return []

    @raw
    def status(environ, start_response):
        start_response(environ["QUERY_STRING"] + " Some Words", [])
        return []

    @page
    def use_write(environ, start_response):
        write = start_response("200 OK", list(PLAIN))
        write(b"one ")
        write(b"two ")
        return [b"three"]

    @raw
    def only_write(environ, start_response):
        start_response("200 OK", PLAIN)(b"written")
        return []

    @raw
    def step_by_step(environ, start_response):
        go = os.open(environ["QUERY_STRING"], os.O_RDONLY)
        start_response("200 OK", PLAIN)
        def produce():
            for _ in range(3):
                os.read(go, 1)
                yield b"piece"
            os.close(go)
        return produce()

    @page
    def file(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return environ["wsgi.file_wrapper"](open(environ["QUERY_STRING"], "rb"), 8192)

    @raw
    def headers(environ, start_response):
        start_response("201 Created", [("X-One", "1"), ("X-Two", "\\xe9"), ("X-One", "2")])
        return [b""]

    @raw
    def as_bytes(environ, start_response):           # as flup has it
        start_response(b"200 OK", [(b"X-Bytes", b"yes")])
        return [b"bytes"]

    @raw
    def inject(environ, start_response):
        evil = "a\\r\\nX-Evil: 1\\r\\n\\r\\n<script>"
        status, name, value = "200 OK", "X-Good", "good"
        if environ["QUERY_STRING"] == "status":
            status += evil
        elif environ["QUERY_STRING"] == "name":
            name += evil
        elif environ["QUERY_STRING"] == "newline":
            value += "\\nX-Evil: 1"
        elif environ["QUERY_STRING"] == "return":
            value += "\\rX-Evil: 1"
        elif environ["QUERY_STRING"] == "nul":
            value += "\\0"
        else:
            value += evil
        start_response(status, [(name, value)])
        return [b"body"]

    # -- failures

    @page
    def raise_before(environ, start_response):
        raise RuntimeError("on purpose <before>")

    @page
    def raise_after(environ, start_response):
        start_response("200 OK", list(PLAIN))
        raise RuntimeError("on purpose, after")

    @page
    def raise_at_once(environ, start_response):
        start_response("200 OK", list(PLAIN))
        def produce():
            raise RuntimeError("on purpose, before the first piece")
            yield b""
        return produce()

    @page
    def raise_in_the_middle(environ, start_response):
        start_response("200 OK", list(PLAIN))
        def produce():
            yield b"x" * number(environ)
            raise RuntimeError("on purpose, in the middle")
        return Closing(produce(), "middle")

    @page
    def raise_after_write(environ, start_response):
        start_response("200 OK", list(PLAIN))(b"written")
        raise RuntimeError("on purpose, after write")

    @raw
    def raise_in_close(environ, start_response):
        class Bad(Closing):
            def close(self):
                raise RuntimeError("on purpose, in close")
        start_response("200 OK", PLAIN)
        return Bad([b"x" * number(environ)], "bad")

    @raw
    def raise_base(environ, start_response):
        class Cancelled(BaseException):
            pass
        start_response("200 OK", PLAIN)
        if number(environ):
            return Closing(cancel(Cancelled), "base")
        raise Cancelled("on purpose, no Exception")

    def cancel(error):
        yield b"begun"
        raise error("on purpose, no Exception")

    @raw
    def leave(environ, start_response):
        if number(environ) > 1:
            start_response("200 OK", PLAIN)(b"begun")
        sys.exit(number(environ))

    @raw
    def fork(environ, start_response):               # a child that ends as Python programs do
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        os.waitpid(pid, 0)
        start_response("200 OK", PLAIN)
        return [b"parent"]

    @raw
    def no_start(environ, start_response):
        return [b"body"]

    @raw
    def start_twice(environ, start_response):
        start_response("200 OK", PLAIN)
        start_response("200 OK", PLAIN)
        return []

    @raw
    def bad_status(environ, start_response):
        start_response(environ["QUERY_STRING"], PLAIN)
        return []

    @raw
    def text_body(environ, start_response):
        start_response("200 OK", PLAIN)
        return ["t\xe9xt"]                            # as flup has it

    @raw
    def text_pieces(environ, start_response):
        write = start_response("200 OK", PLAIN)
        write("t\xe9xt")
        return iter(["t\xe9xt"])

    @raw
    def number_body(environ, start_response):
        start_response("200 OK", PLAIN)
        return [7]

    @page
    def replaced(environ, start_response):           # an error found in time
        start_response("200 OK", [("X-First", "1"), *PLAIN])
        try:
            raise ValueError("no")
        except ValueError:
            start_response("503 Sorry", [("X-Second", "2"), *PLAIN], sys.exc_info())
        return [b"sorry"]

    @page
    def replaced_late(environ, start_response):
        start_response("200 OK", list(PLAIN))(b"begun")
        try:
            raise ValueError("on purpose, too late")
        except ValueError:
            start_response("503 Sorry", list(PLAIN), sys.exc_info())
        return [b"never"]

    # -- close()

    @page
    def closing(environ, start_response):
        start_response("200 OK", list(PLAIN))
        return Closing([b"a", b"b"], "good")

    @raw
    def closing_unstarted(environ, start_response):
        return Closing([b"a"], "unstarted")

    @raw
    def closed(environ, start_response):
        start_response("200 OK", PLAIN)
        return [json.dumps(CLOSED).encode()]

    # -- the environment

    @page
    def environ(environ, start_response):
        start_response("200 OK", list(PLAIN))
        shown = {name: value if isinstance(value, (str, bool, int, tuple)) else type(value).__name__
                 for name, value in environ.items()}
        return [json.dumps(shown).encode()]

    @raw
    def worker(environ, start_response):
        start_response("200 OK", PLAIN)
        return [str(os.getpid()).encode()]

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        if path not in PAGES:
            path = "/environ"
        return PAGES[path](environ, start_response)

    class Application(WSGIServer):
        def __init__(self, *args, **kw):
            super().__init__(*args, **kw)

    if __name__ == "__main__":
        manager = ProcManager(n_processes=int(sys.argv[2]), start_delay=0, die_timeout=60)
        options = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
        Application(application, manager=manager, bindAddress=sys.argv[1], drain_timeout=60, **options).run()
"""


class Site:
    """The application above, running."""

    def __init__(self, script: Script, path: str) -> None:
        self.script = script
        self.path = path

    def get(self, path: str, **kw: Any) -> fcgi.Reply:
        return fcgi.fetch(self.path, path, timeout=60, **kw)

    def environ(self, **params: str | None) -> dict[str, Any]:
        variables = {"PATH_INFO": "/environ", **params}
        answer: dict[str, Any] = json.loads(self.get("/environ", **variables).body)
        return answer

    def since(self) -> int:
        return len(self.script.log())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two workers. The tests that end one of them find its replacement."""
    folder = tmp_path_factory.mktemp("site")
    path = f"/tmp/pm-{os.getpid()}-{folder.parent.name[-8:]}.sock"
    with Script(APPLICATION, folder, args=[path, 2]) as script:
        script.wait_ready(2)
        yield Site(script, path)
        assert script.stop() == 0
    assert not os.path.exists(path)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker, so that what is asked of it can be seen in it afterwards."""
    folder = tmp_path_factory.mktemp("lone")
    path = f"/tmp/pm-{os.getpid()}-{folder.parent.name[-8:]}1.sock"
    with Script(APPLICATION, folder, args=[path, 1]) as script:
        script.wait_ready()
        yield Site(script, path)
        assert script.stop() == 0


def body_of(size: int) -> bytes:
    block = bytes(range(256)) * 16 + b"odd"
    return (block * (size // len(block) + 1))[:size]


def sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def good(reply: fcgi.Reply) -> fcgi.Reply:
    assert reply.ended, reply
    assert (reply.app_status, reply.protocol_status) == (0, fcgi.REQUEST_COMPLETE)
    return reply


# Bodies


@pytest.mark.parametrize("size", SIZES)
def test_body_read_in_pieces(site: Site, size: int) -> None:
    body = body_of(size)
    assert good(site.get("/read_all", body=body)).text == f"{size} {sha1(body)} b''"


@pytest.mark.parametrize("size", SIZES[:-1])
def test_body_read_by_its_length(site: Site, size: int) -> None:
    body = body_of(size)
    assert good(site.get("/read_length", body=body, CONTENT_LENGTH=str(size))).text == f"{size} {sha1(body)}"


@pytest.mark.parametrize("size", SIZES)
def test_body_read_without_a_limit(site: Site, size: int) -> None:
    body = body_of(size)
    assert good(site.get("/read_everything", body=body)).text == f"{size} {sha1(body)} b''"


@pytest.mark.parametrize("count", [1, 5000])
def test_body_by_lines(site: Site, count: int) -> None:
    body = b"first\nsecond\n" + b"a line of it\n" * count + b"end"
    expected = ["first\n", "sec", [4, *[13] * count, 3]]
    assert json.loads(good(site.get("/lines", body=body)).body) == expected
    assert json.loads(good(site.get("/readlines", body=body)).body) == [count + 3, len(body)]


def test_one_line_of_a_megabyte(site: Site) -> None:
    assert json.loads(good(site.get("/readlines", body=b"x" * (1 << 20))).body) == [1, 1 << 20]


@pytest.mark.parametrize("chunk", [1, 7, 65535])
def test_body_in_small_records_with_padding(site: Site, chunk: int) -> None:
    body = body_of(5000)
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes({}, body, path="/read_all", chunk=chunk, padding=3))
        assert good(client.read_reply()).text == f"5000 {sha1(body)} b''"


def test_body_that_comes_slowly(site: Site) -> None:
    body = body_of(300)
    stream = fcgi.request_bytes({}, body, path="/read_all", chunk=100)
    with fcgi.Client(site.path) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for at in range(0, len(stream), 40):
            client.send(stream[at : at + 40])
        assert good(client.read_reply()).text == f"300 {sha1(body)} b''"


@pytest.mark.parametrize("keep", [False, True])
def test_part_of_a_body(site: Site, keep: bool) -> None:
    body = body_of(300_000)
    with fcgi.Client(site.path) as client:
        assert good(client.request("/part?1000", body, keep)).body == body[:1000]
        if keep:
            assert good(client.request("/part?70000", body, keep)).body == body[:70000]


def collect(client: fcgi.Client) -> fcgi.Reply:
    """As `Client.read_reply`, for large replies: the pieces are joined once, at the end."""
    reply, pieces = fcgi.Reply(), []
    while not reply.ended and (record := client.read_record()) is not None:
        if record.type == fcgi.STDOUT:
            pieces.append(record.content)
        else:
            reply.add(record)
    reply.stdout = b"".join(pieces)
    return reply


def post_without_deadlock(client: fcgi.Client, path: str, body: bytes, keep: bool) -> fcgi.Reply:
    """Send and read at the same time, as web servers do."""
    sender = threading.Thread(target=_send_all, args=(client, fcgi.request_bytes({}, body, keep=keep, path=path)))
    sender.start()
    try:
        return collect(client)
    finally:
        sender.join()


def _send_all(client: fcgi.Client, data: bytes) -> None:
    try:
        client.sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has answered and closed: nobody wants the rest


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("size", [12, 3 << 20])
def test_unread_body(site: Site, size: int, keep: bool) -> None:
    """20 MB that nobody reads: the reply arrives whole, and a kept connection goes on."""
    with fcgi.Client(site.path, timeout=60) as client:
        reply = post_without_deadlock(client, f"/unread?{size}", b"u" * (20 << 20), keep)
        assert good(reply).body == b"r" * size
        if keep:
            for _ in range(3):
                assert good(client.request("/read_all", b"next", keep=True)).text == f"4 {sha1(b'next')} b''"
        else:
            assert client.at_eof()


@pytest.mark.parametrize("keep", [False, True])
def test_echo_of_a_large_body(site: Site, keep: bool) -> None:
    body = body_of(20 << 20)
    with fcgi.Client(site.path, timeout=60) as client:
        reply = post_without_deadlock(client, "/echo", body, keep)
        assert sha1(good(reply).body) == sha1(body)


def test_many_requests_on_one_connection(site: Site) -> None:
    with fcgi.Client(site.path) as client:
        for number in range(200):
            body = b"%d" % number * (number % 7)
            assert good(client.request("/read_all", body, keep=True)).text == f"{len(body)} {sha1(body)} b''"
        assert good(client.request("/reply?3")).body == b"xxx"
        assert client.at_eof()


def test_pipelined_requests(site: Site) -> None:
    """Sent all at once, read or not: answered in order, no body in the wrong request."""
    bodies = [body_of(number * 997) for number in range(20)]
    paths = ["/read_all", "/unread?5", "/part?100"]
    with fcgi.Client(site.path) as client:
        stream = b"".join(
            fcgi.request_bytes({}, body, number + 1, True, path=paths[number % 3]) for number, body in enumerate(bodies)
        )
        sender = threading.Thread(target=_send_all, args=(client, stream))
        sender.start()
        for number, body in enumerate(bodies):
            text = (f"{len(body)} {sha1(body)} b''".encode(), b"rrrrr", body[:100])[number % 3]
            assert good(client.read_reply(number + 1)).body == text
        sender.join()


def test_two_requests_at_once_are_refused(site: Site) -> None:
    with fcgi.Client(site.path) as client:
        whole = fcgi.request_bytes({}, b"body", 1, True, path="/read_all")
        client.send(whole[:-8] + fcgi.begin(2, flags=1) + whole[-8:])
        assert client.read_reply(2).protocol_status == fcgi.CANT_MPX_CONN
        assert good(client.read_reply(1)).text == f"4 {sha1(b'body')} b''"


# Replies


@pytest.mark.parametrize("size", SIZES)
def test_reply(site: Site, size: int) -> None:
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path=f"/whole?{size}"))
        reply = good(collect(client))
    assert reply.body == b"x" * size
    assert reply.headers == {"status": "200 OK", "content-type": "text/plain", "content-length": str(size)}


@pytest.mark.parametrize("size", SIZES[:-1])
def test_reply_in_pieces(site: Site, size: int) -> None:
    assert good(site.get(f"/chunks?{size}")).body == b"x" * (71001 + size)


def test_file_wrapper(site: Site, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(body_of(300_001))
    assert good(site.get(f"/file?{tmp_path}/file")).body == body_of(300_001)


def test_content_length(site: Site) -> None:
    """It is added where it is known; never a second one; never where there is no body."""
    assert good(site.get("/length")).headers["content-length"] == "3"
    assert good(site.get("/nothing")).headers["content-length"] == "0"
    assert good(site.get("/two")).body == b"abcd"
    assert good(site.get("/two")).headers.get("content-length", "4") == "4"
    assert "content-length" not in good(site.get("/chunks?1")).headers
    for status in ("204", "304", "103"):
        reply = good(site.get(f"/status?{status}"))
        assert reply.headers == {"status": f"{status} Some Words"}
        assert reply.body == b""


def test_head(site: Site) -> None:
    """The length is that of the body which GET has: known if the application gave the body, else left out."""
    assert good(site.get("/whole?7", REQUEST_METHOD="HEAD")).headers["content-length"] == "7"
    assert "content-length" not in good(site.get("/nothing", REQUEST_METHOD="HEAD")).headers
    assert good(site.get("/length", REQUEST_METHOD="HEAD")).headers["content-length"] == "3"


def test_write_callable(site: Site) -> None:
    assert good(site.get("/use_write")).body == b"one two three"
    assert good(site.get("/only_write")).body == b"written"


def test_headers_as_they_are(site: Site) -> None:
    reply = good(site.get("/headers"))
    assert reply.stdout.startswith(b"X-One: 1\r\nX-Two: \xe9\r\nX-One: 2\r\n")
    assert good(site.get("/as_bytes")).headers["x-bytes"] == "yes"


@pytest.mark.parametrize("part", ["status", "name", "value", "newline", "return", "nul"])
def test_header_injection_is_refused(site: Site, part: str) -> None:
    reply = good(site.get(f"/inject?{part}"))
    assert reply.status == 500
    assert "x-evil" not in reply.headers
    assert b"script" not in reply.stdout
    assert b"\0" not in reply.stdout


def test_a_generator_is_sent_piece_by_piece(site: Site, tmp_path: Any) -> None:
    """Each piece is read here before the next one is even produced."""
    go = str(tmp_path / "go")
    os.mkfifo(go)
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path=f"/step_by_step?{go}"))
        with open(go, "wb", 0) as pipe:
            for count in (1, 2, 3):
                pipe.write(b"!")
                seen = b""
                while not seen.endswith(b"piece"):
                    record = client.read_record()
                    assert record is not None
                    assert record.type == fcgi.STDOUT
                    seen += record.content
                assert count == 3 or not client.readable(0.01)
            assert client.read_reply().ended


def test_text_for_bytes(site: Site) -> None:
    """No WSGI, but flup takes it: as latin-1."""
    reply = good(site.get("/text_body"))
    assert (reply.body, reply.headers["content-length"]) == (b"t\xe9xt", "4")
    assert good(site.get("/text_pieces")).body == b"t\xe9xt" * 2


# Failures


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "path",
    ["/raise_before", "/raise_after", "/raise_at_once", "/no_start", "/start_twice", "/number_body", "/raise_base?0"]
    + [f"/bad_status?{status}" for status in ("", "2", "200", "abc Reason", "2000 Reason")],
)
def test_error_page(site: Site, path: str, keep: bool) -> None:
    with fcgi.Client(site.path) as client:
        for _ in range(2):
            reply = good(client.request(path, keep=keep))
            assert reply.status == 500
            assert b"Unhandled Exception" in reply.body
            assert b"purpose" not in reply.body
            if not keep:
                return


@pytest.mark.parametrize(
    "path", ["/raise_in_the_middle?1", "/raise_in_the_middle?200000", "/raise_after_write", "/replaced_late"]
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_broken_reply_does_not_look_complete(site: Site, path: str, keep: bool) -> None:
    with fcgi.Client(site.path) as client:
        reply = client.request(path, keep=keep)
        assert not reply.ended
        assert reply.status == 200
        assert reply.body
        assert b"Unhandled" not in reply.body
    assert good(site.get("/reply?1")).body == b"x"


def test_any_exception_is_survived(lone: Site) -> None:
    """One that is no Exception: the reply must not look complete, nor the worker die for it."""
    pid = lone.get("/worker").body
    assert not lone.get("/raise_base?1").ended
    assert good(lone.get("/raise_base?0")).status == 500
    assert lone.get("/worker").body == pid


@pytest.mark.parametrize("size", [1, 200_000])
def test_close_that_raises(site: Site, size: int) -> None:
    """Whatever the web server has got by then, it is a complete error page or an incomplete reply."""
    reply = site.get(f"/raise_in_close?{size}")
    assert (reply.ended, reply.status) in ((True, 500), (False, 200))


def test_tracebacks_go_to_the_log(lone: Site) -> None:
    good(lone.get("/raise_before"))
    lone.script.wait_log(r"^RuntimeError: on purpose <before>")
    assert "Traceback" in lone.script.log()


def test_start_response_replaced_in_time(site: Site) -> None:
    reply = good(site.get("/replaced"))
    assert reply.status == 503
    assert "x-first" not in reply.headers
    assert reply.headers["x-second"] == "2"
    assert reply.body == b"sorry"


@pytest.mark.parametrize("status", [0, 1])
def test_sys_exit_before_the_reply(site: Site, status: int) -> None:
    """The client gets an error page; the worker leaves with this status and is replaced."""
    before = len(re.findall(f"exited with status {status}$", site.script.log(), re.MULTILINE))
    assert good(site.get(f"/leave?{status}")).status == 500
    site.script.wait_log(f"exited with status {status}$", before + 1)
    site.script.wait_workers(2)


def test_sys_exit_in_the_reply(site: Site) -> None:
    assert not site.get("/leave?2").ended
    site.script.wait_log("exited with status 2$")
    site.script.wait_workers(2)


def test_sys_exit_with_others_waiting(lone: Site) -> None:
    """What the worker has accepted, and what has begun to speak, is answered before it leaves."""
    stream = fcgi.request_bytes(path="/worker")
    pid = lone.get("/worker").body
    with fcgi.Client(lone.path) as early, fcgi.Client(lone.path) as kept, fcgi.Client(lone.path) as leaver:
        assert kept.request("/worker", keep=True).body == pid
        early.send(stream[:20])
        assert kept.request("/worker", keep=True).body == pid  # by now the early one is accepted
        leaver.send(fcgi.request_bytes(path="/leave?1"))
        assert leaver.read_reply().status == 500
        early.send(stream[20:])
        assert good(early.read_reply()).body == pid
        assert kept.at_eof()
    lone.script.wait_log("exited with status 1$")
    lone.script.wait_workers(1)


def test_a_child_of_the_application_harms_nobody(lone: Site) -> None:
    """It inherits every connection and the wait set, and ends: the parent answers, once, and hears all its peers."""
    with fcgi.Client(lone.path) as kept, fcgi.Client(lone.path) as early, fcgi.Client(lone.path) as client:
        pid = good(kept.request("/worker", keep=True)).body
        early.send(fcgi.begin())
        assert good(kept.request("/worker", keep=True)).body == pid
        for _ in range(3):
            assert good(client.request("/fork", keep=True)).body == b"parent"
            assert not client.readable(0.02)
        assert good(kept.request("/worker", keep=True)).body == pid
        early.send(fcgi.request_bytes(path="/worker")[16:])
        assert good(early.read_reply()).body == pid


def test_close_is_always_called(lone: Site) -> None:
    with fcgi.Client(lone.path) as client:
        before = json.loads(client.request("/closed", keep=True).body)
        good(client.request("/closing", keep=True))
        good(client.request("/closing_unstarted", keep=True))
        assert not client.request("/raise_in_the_middle?5", keep=True).ended
    after = json.loads(lone.get("/closed").body)
    assert {name: after[name] - before.get(name, 0) for name in ("good", "unstarted", "middle")} == {
        "good": 1,
        "unstarted": 1,
        "middle": 1,
    }


def test_close_is_called_when_the_client_is_gone(lone: Site) -> None:
    before = json.loads(lone.get("/closed").body).get("middle", 0)
    with fcgi.Client(lone.path) as client:
        client.send(fcgi.request_bytes(path="/raise_in_the_middle?5000000"))
    wait_until(lambda: json.loads(lone.get("/closed").body).get("middle", 0) == before + 1)


# The environment


def test_the_keys_of_wsgi(site: Site) -> None:
    environ = site.environ()
    assert environ["wsgi.version"] == [1, 0]
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.multithread"] is False
    assert environ["wsgi.run_once"] is False
    assert environ["REQUEST_METHOD"] == "GET"


@pytest.mark.parametrize(
    ("https", "scheme"), [("on", "https"), ("1", "https"), ("ON", "https"), ("off", "http"), ("", "http")]
)
def test_scheme(site: Site, https: str, scheme: str) -> None:
    assert site.environ(HTTPS=https)["wsgi.url_scheme"] == scheme


def test_names_that_pep_3333_forbids(site: Site) -> None:
    environ = site.environ(HTTP_CONTENT_TYPE="a/b", HTTP_CONTENT_LENGTH="7", CONTENT_TYPE="a/b")
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ
    assert environ["CONTENT_TYPE"] == "a/b"


def test_what_a_poor_web_server_leaves_out(site: Site) -> None:
    missing = dict.fromkeys(("REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "QUERY_STRING"))
    environ = site.environ(**missing, SCRIPT_NAME=None)
    assert (environ["REQUEST_METHOD"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("GET", "localhost", "80")
    assert (environ["SERVER_PROTOCOL"], environ["QUERY_STRING"], environ["SCRIPT_NAME"]) == ("HTTP/1.0", "", "")


@pytest.mark.parametrize(
    ("uri", "script", "path", "query"),
    [
        ("/a/b?c=d?e", None, "/a/b", "c=d?e"),
        ("/a/b?c=d", "", "/a/b", "c=d"),
        ("/app/b", "/app", "/b", ""),
        ("/app", "/app", "", ""),
        ("/with%20space%C3%A9", "", "/with space\xc3\xa9", ""),
        ("/plus+%2B%3F", "", "/plus++?", ""),
        ("/app%20one/x?y", "/app one", "/x", "y"),
        (b"/raw\xc3\xa9", "", "/raw\xc3\xa9", ""),
        (b"/raw\xc3\xa9%20", "", "/raw\xc3\xa9 ", ""),
        ("/apple", "/app", "/apple", ""),
        ("", "", "", ""),
    ],
)
def test_path_from_request_uri(site: Site, uri: Any, script: str | None, path: str, query: str) -> None:
    environ = site.environ(PATH_INFO=None, QUERY_STRING=None, REQUEST_URI=uri, SCRIPT_NAME=script)
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)


def test_path_info_that_is_there_is_kept(site: Site) -> None:
    environ = site.environ(PATH_INFO="/kept", QUERY_STRING="q", REQUEST_URI="/other%20one?x", SCRIPT_NAME="/s")
    assert [environ[name] for name in ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")] == ["/s", "/kept", "q"]


def test_one_environment_per_request(lone: Site) -> None:
    """Nothing of a request is left in the next one."""
    assert lone.environ(HTTP_X_SECRET="1")["HTTP_X_SECRET"] == "1"
    assert "HTTP_X_SECRET" not in lone.environ()


def test_long_parameters(site: Site) -> None:
    long = {f"HTTP_X_{number}": "v" * number * 1000 for number in range(40)}
    environ = site.environ(**long)
    assert {name: environ[name] for name in long} == long


def test_params_cut_anywhere(site: Site) -> None:
    """A sample of the offsets, all of which the parser's test covers, through a real connection."""
    params = {**fcgi.cgi_params("/environ"), "HTTP_X": "y" * 300}
    for at in range(1, len(fcgi.encode_params(params)), 9):
        with fcgi.Client(site.path) as client:
            client.send(fcgi.begin() + fcgi.params_records(params, split=[at]) + fcgi.stdin_records())
            assert json.loads(client.read_reply().body)["HTTP_X"] == "y" * 300, at


def test_get_values(site: Site) -> None:
    with fcgi.Client(site.path) as client:
        assert client.values() == {"FCGI_MAX_CONNS": "2", "FCGI_MAX_REQS": "2", "FCGI_MPXS_CONNS": "0"}
        assert good(client.request("/reply?1")).body == b"x"


# What must not grow


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_no_descriptor_is_leaked(lone: Site) -> None:
    pid = int(lone.get("/worker").body)

    def play() -> None:
        for path in ("/reply?1", "/raise_before", "/raise_in_the_middle?9", "/unread?1", "/raise_in_the_middle?900000"):
            lone.get(path)
        with fcgi.Client(lone.path) as client:
            client.request("/reply?1", keep=True)
        with fcgi.Client(lone.path) as client:
            client.send(fcgi.request_bytes(path="/reply?2000000"))
        with fcgi.Client(lone.path) as client:
            client.send(b"garbage, and quite a lot of it")
            assert client.at_eof()

    play()
    wait_settled(pid)
    before = set(open_fds(pid))
    for _ in range(20):
        play()
    wait_until(lambda: set(open_fds(pid)) == before)
