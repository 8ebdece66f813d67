"""What the web servers of test_conformance.py have behind them: an address for each thing that a reply or a request may be.

    application.py WORKERS SOCKET OWNER WAY

WAY: `server`, `threads`, `adopt`, `adopt-threads`, or `loop`, which has its own few addresses.
"""

import hashlib
import json
import os
import sys
import tempfile
from urllib.parse import parse_qs

from fcgi_procmanager import FastCGI, ProcManager, WSGIServer, adopt
from fcgi_procmanager.fastcgi import request as requests

LENGTH = 1000  # what a reply of a wrong length says of itself
PIECE = b"0123456789" * 50

requests._UNREAD_SECONDS = 60  # a web server may be preempted while it sends what nobody reads


def application(environ, start_response):
    name, _, argument = environ["PATH_INFO"].lstrip("/").partition("/")
    address = ADDRESSES.get(name)
    if address is None:
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return []
    return address(environ, start_response, argument)


def _ok(start_response, *more):
    return start_response("200 OK", [("Content-Type", "text/plain"), *more])


def _length(number):
    return ("Content-Length", str(number))


# Replies


def page(environ, start_response, argument):
    _ok(start_response, _length(5))
    return [b"hello"]


def status(environ, start_response, code):
    start_response(f"{code} Some Reason", [("Content-Type", "text/plain"), ("Location", "/there"), _length(5)])
    return [b"there"]


def bodiless(environ, start_response, code):
    """A body that must not be sent."""
    start_response(f"{code} No Body", [("ETag", '"1"')])
    return [b"a body that belongs to nobody"]


def pieces(environ, start_response, argument):
    _ok(start_response)
    for _ in range(3):
        yield PIECE
        yield b""


def parts(environ, start_response, argument):
    _ok(start_response)
    return [PIECE, b"", PIECE, PIECE]


def written(environ, start_response, argument):
    write = _ok(start_response)
    write(PIECE)
    write(PIECE)
    return [PIECE]


def nothing(environ, start_response, argument):
    _ok(start_response)
    return []


def file(environ, start_response, argument):
    """Larger than the header says."""
    found = tempfile.TemporaryFile()  # noqa: SIM115
    found.write(b"x" * 100_000)
    found.seek(0)
    _ok(start_response, _length(LENGTH))
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(found) if wrapper else iter(lambda: found.read(4096), b"")


def long(environ, start_response, argument):
    """More than the header says."""
    write = _ok(start_response, _length(LENGTH))
    if argument == "list":
        return [b"x" * 5000]
    if argument == "write":
        write(b"x" * 5000)
        return []
    return iter([b"x" * 600] * 5)


def short(environ, start_response, argument):
    """Less than the header says."""
    _ok(start_response, _length(LENGTH))
    return [b"x" * 10] if argument == "list" else iter([b"x" * 5, b"x" * 5])


def fail(environ, start_response, argument):
    raise RuntimeError("on purpose")


def broken(environ, start_response, argument):
    _ok(start_response)
    yield PIECE
    raise RuntimeError("on purpose")


def logged(environ, start_response, argument):
    """A line for the log, sent at once, before there is a reply."""
    environ["wsgi.errors"].write("a line\n")
    environ["wsgi.errors"].flush()
    return page(environ, start_response, argument)


def events(environ, start_response, argument):
    """One, and the other when the test has seen it."""
    start_response("200 OK", [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
    yield b"data: one\n\n"
    with open(os.environ["RELEASE"]) as release:
        release.read()
    yield b"data: two\n\n"


# Requests


def read(environ, start_response, how):
    """What an application gets of a body, by each way to read it."""
    stream, declared = environ["wsgi.input"], environ.get("CONTENT_LENGTH") or ""
    body = READERS[how](stream, int(declared or 0))
    reply = {
        "length": len(body),
        "hash": hashlib.sha256(body).hexdigest(),
        "declared": declared,
        "encoded": environ.get("HTTP_TRANSFER_ENCODING", ""),
        "terminated": environ.get("wsgi.input_terminated"),
    }
    return _json(start_response, reply)


READERS = {
    "declared": lambda stream, length: stream.read(length),  # PEP 3333's way
    "all": lambda stream, length: stream.read(),
    "lines": lambda stream, length: b"".join(stream),
    "readline": lambda stream, length: b"".join(iter(stream.readline, b"")),
    "readlines": lambda stream, length: b"".join(stream.readlines()),
}


def ignore(environ, start_response, argument):
    return page(environ, start_response, argument)


def variables(environ, start_response, argument):
    return _json(start_response, {name: value for name, value in environ.items() if isinstance(value, str)})


def query(environ, start_response, argument):
    return _json(start_response, parse_qs(environ["QUERY_STRING"]))


def _json(start_response, value):
    reply = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), _length(len(reply))])
    return [reply]


ADDRESSES = {
    function.__name__: function
    for function in (
        page, status, bodiless, pieces, parts, written, nothing, file, long, short, fail, broken, logged, events, read, ignore,
        variables, query,
    )
}  # fmt: skip


# The ways to serve it


def serve(way, manager):
    if way in ("server", "threads"):
        WSGIServer(application, manager=manager, threads=1 if way == "server" else 4).run()
    elif way == "adopt":
        from flup.server.fcgi_single import WSGIServer as Single

        adopt(Single(application), manager).run()
    elif way == "adopt-threads":
        from flup.server.fcgi import WSGIServer as Threaded

        adopt(Threaded(application, maxThreads=4), manager).run()
    else:
        manager.manage()
        loop(FastCGI(manager=manager), manager)


def loop(fcgi, manager):
    """A script that writes CGI by itself."""
    while (request := fcgi.accept()) is not None:
        manager.pre_dispatch()
        name, _, _ = request.params["PATH_INFO"].lstrip("/").partition("/")
        if name == "logged":
            request.stderr.write(b"a line\n")
            request.stderr.flush()
        reply = b"hello"
        if name == "read":
            body = request.stdin.read()
            reply = json.dumps({"length": len(body), "hash": hashlib.sha256(body).hexdigest()}).encode()
        elif name == "variables":
            reply = json.dumps(request.params).encode()
        head = b"Content-Type: text/plain\r\nContent-Length: %d\r\nStatus: 200 OK\r\n\r\n" % len(reply)
        request.stdout.write(head if request.params["REQUEST_METHOD"] == "HEAD" else head + reply)
        request.finish()
        manager.post_dispatch()


if __name__ == "__main__":
    workers, socket, owner, way = sys.argv[1:]
    manager = ProcManager(int(workers), die_timeout=100)
    manager.listen(socket, owner=owner or None)
    serve(way, manager)
