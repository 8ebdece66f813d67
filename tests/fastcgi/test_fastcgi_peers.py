"""Peers that are silent, slow, gone or wrong: none of them costs another client its reply, nor a worker its life."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, open_fds, standing_still, wait_settled, wait_until

Run = Callable[..., Script]

PROMPT = 30.0  # seconds; far below any of the long timeouts

SITE = """
    import hashlib, json, os, sys
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import say

    def application(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/read":
            try:
                body = environ["wsgi.input"].read()
            except OSError as error:
                say(type(error).__name__, error)
                raise
            start_response("200 OK", [])
            return [f"{len(body)} {hashlib.sha1(body).hexdigest()}".encode()]
        if path == "/ignore":                                    # an application that goes on without its body
            try:
                environ["wsgi.input"].read()
            except OSError:
                pass
            start_response("200 OK", [])
            return [b"whatever"]
        if path == "/stubborn":
            say("reading")
            try:
                environ["wsgi.input"].read()
            except Exception as error:
                say(type(error).__name__)
            start_response("200 OK", [])
            return [b"never"]
        if path == "/big":
            start_response("200 OK", [])
            return [b"x" * int(query)]
        if path == "/stream":
            start_response("200 OK", [])
            return stream(int(query))
        if path == "/wait":
            say("waiting")
            os.read(0, 1)
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]

    def stream(count):
        try:
            for _ in range(count):
                yield b"x" * 100_000
        finally:
            say("stream closed")

    manager = ProcManager(n_processes=int(sys.argv[2]), die_timeout=100)
    WSGIServer(application, manager=manager, bindAddress=sys.argv[1], **json.loads(sys.argv[3])).run()
"""


def serve(run_script: Run, path: str, n: int = 1, stdin: Any = None, **timeouts: float) -> Script:
    long = {"head_timeout": 100, "idle_timeout": 100}
    script = run_script(SITE, args=[path, n, json.dumps({**long, **timeouts})], stdin=stdin)
    script.wait_ready(n)
    return script


def unharmed(script: Script, n: int = 1) -> None:
    """Nobody has died, nothing was said about a defect, and the stop is prompt."""
    assert "Traceback" not in script.log()
    assert "exited" not in script.log()
    began = time.monotonic()
    assert script.stop() == 0
    assert time.monotonic() - began < PROMPT


@contextmanager
def sent(script: Script, path: str, data: bytes) -> Iterator[fcgi.Client]:
    """A client that has sent this when the only worker accepts it: this process may be slower than a short head_timeout."""
    with ExitStack() as stack:
        with standing_still(*script.workers()):
            client = stack.enter_context(fcgi.Client(path))
            client.send(data)
        yield client


def unhindered(script: Script, path: str) -> None:
    """A reply that has not waited for anybody's timeout, where the head_timeout is short."""
    began = time.monotonic()
    with sent(script, path, fcgi.request_bytes()) as client:
        assert client.read_reply().ended
    assert time.monotonic() - began < PROMPT


def prompt(path: str, url: str = "/", **kw: Any) -> fcgi.Reply:
    """A reply that has not waited for anybody's timeout."""
    began = time.monotonic()
    reply = fcgi.fetch(path, url, **kw)
    assert reply.ended
    assert time.monotonic() - began < PROMPT
    return reply


# Silent peers


def test_silent_connections_pin_nobody(run_script: Run, sock_path: str) -> None:
    """20 that have said nothing and 20 kept open after a request, with two workers: the next client is served at once."""
    script = serve(run_script, sock_path, 2)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(fcgi.Client(sock_path))
            kept = stack.enter_context(fcgi.Client(sock_path))
            assert kept.request(keep=True).ended
        for _ in range(10):
            prompt(sock_path)
    unharmed(script, 2)


def test_each_of_many_kept_connections_is_served_again(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, 2)
    with ExitStack() as stack:
        kept = [stack.enter_context(fcgi.Client(sock_path)) for _ in range(20)]
        for _ in range(3):
            for client in reversed(kept):
                assert client.request(keep=True).ended
        for client in kept:  # all at once
            client.send(fcgi.request_bytes(keep=True))
        for client in kept:
            assert client.read_reply().ended
    unharmed(script, 2)


def test_silent_connection_is_closed_at_head_timeout(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, head_timeout=0.3)
    with sent(script, sock_path, b"") as client, sent(script, sock_path, fcgi.request_bytes(keep=True)) as kept:
        assert kept.read_reply().ended
        assert client.at_eof()
        assert kept.request(keep=True).ended
    unharmed(script)


def test_kept_connection_is_closed_at_idle_timeout(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, idle_timeout=0.3)
    with fcgi.Client(sock_path) as kept:
        kept.send(b"".join(fcgi.request_bytes(id=number, keep=True) for number in (1, 2, 3)))
        assert all(kept.read_reply(number).ended for number in (1, 2, 3))
        assert kept.at_eof()
    unharmed(script)


@pytest.mark.parametrize("first", [False, True])
def test_trickling_peer_is_cut_at_head_timeout(run_script: Run, sock_path: str, first: bool) -> None:
    """Bytes that trickle in do not lengthen its time, and others are served meanwhile."""
    script = serve(run_script, sock_path, head_timeout=0.6)
    stream = fcgi.request_bytes(keep=True)
    with sent(script, sock_path, b"" if first else stream) as client:
        if not first:
            assert client.read_reply().ended
        began = time.monotonic()
        cut = False
        for at in range(len(stream) - 50):
            try:
                client.send(stream[at : at + 1])
            except (BrokenPipeError, ConnectionResetError):
                cut = True
                break
            unhindered(script, sock_path)
            if client.readable(0.01):
                cut = True
                break
        assert cut
        assert time.monotonic() - began < PROMPT
    unharmed(script)


def test_a_trickling_peer_is_cut_before_others_that_have_more_time(run_script: Run, sock_path: str) -> None:
    """Behind them in the order of the deadlines, it would live as long as they do: here ten minutes."""
    source = """
        import sys
        from fcgi_procmanager import FastCGI, ProcManager
        manager = ProcManager(1)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        fcgi = FastCGI(listener, manager=manager, head_timeout=1.5)
        while request := fcgi.accept():
            fcgi.head_timeout = 600
            request.finish()
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready()
    with ExitStack() as stack:
        with standing_still(*script.workers()):
            client, first, *others, last = [stack.enter_context(fcgi.Client(sock_path)) for _ in range(6)]
            for one in (first, last):
                one.send(fcgi.request_bytes())
        assert first.read_reply().ended
        assert last.read_reply().ended
        with suppress(BrokenPipeError, ConnectionResetError):  # this process may come too late for that
            client.send(b"\1")
            assert client.at_eof()
        assert not any(other.readable() for other in others)
    unharmed(script)


# A body that does not come


def test_body_that_stops(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, receive_timeout=0.4)
    with sent(script, sock_path, fcgi.request_bytes(body=b"x" * 100_000, path="/read")[:-20_000]) as client:
        assert script.line().startswith("PeerGone")
        assert not client.read_reply().ended
    prompt(sock_path)
    unharmed(script)


def test_slow_body_is_waited_for(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path)
    stream = fcgi.request_bytes(body=b"x" * 8, path="/read", chunk=1)
    with fcgi.Client(sock_path) as client:
        client.send(stream[: -9 * 9 + 1])
        for at in range(len(stream) - 9 * 9 + 1, len(stream)):
            client.send(stream[at : at + 1])
            client.readable(0.01)
        assert client.read_reply().text == f"8 {hashlib.sha1(b'x' * 8).hexdigest()}"
    unharmed(script)


@pytest.mark.parametrize("path", ["/read", "/ignore"])
@pytest.mark.parametrize("size", [10, 500_000])
def test_peer_that_closes_in_its_body(run_script: Run, sock_path: str, path: str, size: int) -> None:
    script = serve(run_script, sock_path)
    for _ in range(5):
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes(body=b"x" * size, path=path)[:-9])
        if path == "/read":
            assert script.line().startswith("PeerGone")
        prompt(sock_path)
    script.wait_log("a request ended early", 5 if path == "/read" else 0)
    unharmed(script)


def test_abort_in_the_body(run_script: Run, sock_path: str) -> None:
    """The application is told while it waits; the kept connection goes on."""
    script = serve(run_script, sock_path)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(body=b"x" * 1000, path="/read", keep=True)[:-8])
        client.send(fcgi.abort())
        assert script.line().startswith("PeerGone")
        assert client.read_reply().ended
        assert client.request(keep=True).ended
    unharmed(script)


def test_broken_stream_in_the_body(run_script: Run, sock_path: str) -> None:
    """The connection is closed with a line in the log; the worker is as before."""
    script = serve(run_script, sock_path)
    for path in ("/read", "/ignore", "/stubborn"):
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes(body=b"x" * 1000, path=path, keep=True)[:-8])
            assert not client.readable(0.05)
            if path == "/stubborn":
                assert script.line() == "reading"
            client.send(b"garbage!" * 10 + fcgi.request_bytes(keep=True))
            reply = client.read_reply()
            assert (reply.ended, reply.stdout) == (False, b"")
        prompt(sock_path)
    assert script.line() == "ProtocolError"
    unharmed(script)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x01", b"\x01\x01\x00", bytes(range(256)) * 1000])
def test_garbage(run_script: Run, sock_path: str, data: bytes) -> None:
    script = serve(run_script, sock_path, head_timeout=0.3)
    with fcgi.Client(sock_path) as client:
        try:
            client.send(data)
            while client.read_record() is not None:
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
    unhindered(script, sock_path)
    unharmed(script)


def test_flood_of_questions(run_script: Run, sock_path: str) -> None:
    """A peer that asks and never reads is cut off; its answers do not pile up."""
    script = serve(run_script, sock_path)
    with fcgi.Client(sock_path) as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        client.send(fcgi.get_values() * 100_000)
    prompt(sock_path)
    unharmed(script)


# A reply that nobody reads


@pytest.mark.parametrize("path", ["/big?30000000", "/stream?300"])
@pytest.mark.parametrize("keep", [False, True])
def test_peer_that_never_reads(run_script: Run, sock_path: str, path: str, keep: bool) -> None:
    """It holds its worker for send_timeout, no longer; a reply to nobody is not produced to its end."""
    script = serve(run_script, sock_path, send_timeout=0.5)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path=path, keep=keep))
        began = time.monotonic()
        assert client.readable(60)
        reply = fcgi.fetch(sock_path)
        assert reply.ended
        assert time.monotonic() - began < PROMPT
        if path.startswith("/stream"):
            assert script.line() == "stream closed"
    unharmed(script)


def test_trickling_reader_has_one_budget(run_script: Run, sock_path: str) -> None:
    """One byte now and then must not renew the time that the reply may take."""
    script = serve(run_script, sock_path, send_timeout=0.7)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/stream?3000"))
        over = threading.Event()
        reader = threading.Thread(target=_trickle, args=(client.sock, over))
        reader.start()
        began = time.monotonic()
        assert fcgi.fetch(sock_path).ended
        assert time.monotonic() - began < PROMPT
        over.set()
        reader.join()
    assert script.line() == "stream closed"
    unharmed(script)


def _trickle(sock: socket.socket, over: threading.Event) -> None:
    sock.settimeout(60)
    while not over.wait(0.02):
        if not sock.recv(20_000):
            return


def test_slow_reader_gets_everything(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path)
    with fcgi.Client(sock_path) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(fcgi.request_bytes(path="/big?3000000"))
        assert not client.at_eof()
        time.sleep(0.2)
        assert client.read_reply().body == b"x" * 3_000_000
    unharmed(script)


# Peers that go


def test_half_closed_after_the_request(run_script: Run, sock_path: str) -> None:
    """Nothing more will come, and the reply is wanted all the same."""
    script = serve(run_script, sock_path)
    for path in ("/", "/read", "/big?3000000"):
        for keep in (False, True):
            with fcgi.Client(sock_path) as client:
                client.send(fcgi.request_bytes(path=path, keep=keep, body=b"body" if path == "/read" else b""))
                client.shut_write()
                assert client.read_reply().ended
                assert client.at_eof()
    unharmed(script)


def test_half_closed_in_the_head(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path)
    for size in (0, 5, 100):
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes()[:size])
            client.shut_write()
            assert client.at_eof()
    unharmed(script)


@pytest.mark.parametrize("keep", [False, True])
def test_peer_that_closes_at_once(run_script: Run, sock_path: str, keep: bool) -> None:
    script = serve(run_script, sock_path)
    for _ in range(30):
        for path in ("/", "/big?3000000"):
            with fcgi.Client(sock_path) as client:
                client.send(fcgi.request_bytes(path=path, keep=keep))
        with fcgi.Client(sock_path):
            pass
    prompt(sock_path)
    unharmed(script)


def test_lingering_peer(run_script: Run, sock_path: str) -> None:
    """It keeps its end open after the reply, although it did not ask for that: nobody waits for it, now or at a stop."""
    script = serve(run_script, sock_path)
    with ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(fcgi.Client(sock_path))
            client.send(fcgi.request_bytes())
            assert client.read_reply().ended
        prompt(sock_path)
        for _ in range(5):  # the reply comes before the request is complete
            client = stack.enter_context(fcgi.Client(sock_path))
            client.send(fcgi.request_bytes(body=b"x" * 70_000)[:-8])
            assert client.read_reply().ended
        prompt(sock_path)
        unharmed(script)


def test_a_reply_is_not_destroyed_by_what_the_peer_has_sent(run_script: Run) -> None:
    """Over TCP a close with bytes unread resets the connection, and what the peer has not received yet is lost."""
    source = """
        import os
        from fcgi_procmanager import ProcManager, WSGIServer
        from fcgi_procmanager.fastcgi import held
        from harness.inside import say

        def application(environ, start_response):
            start_response("200 OK", [])
            if environ["PATH_INFO"] == "/wait":
                say("waiting")
                os.read(0, 1)
            return [b"x" * 300_000]

        held.LINGER = 60
        manager = ProcManager(1)
        listener = manager.listen("127.0.0.1:0")
        say(listener.socket.getsockname()[1])
        WSGIServer(application, manager=manager, listener=listener).run()
    """
    read, write = os.pipe()
    script = run_script(source, stdin=read)
    address = ("127.0.0.1", int(script.line()))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(60)
        sock.connect(address)
        sock.sendall(fcgi.request_bytes(body=b"b" * 300_000, path="/wait"))
        assert script.line() == "waiting"
        os.write(write, b"!")
        assert fcgi.fetch(address).ended  # the worker has done with the first one
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    records = fcgi.split_records(received)
    assert b"".join(one.content for one in records if one.type == fcgi.STDOUT).endswith(b"\n" + b"x" * 300_000)
    assert records[-1].type == fcgi.END_REQUEST
    os.close(read)
    os.close(write)
    unharmed(script)


def test_lingering_peer_that_goes_on_sending(run_script: Run, sock_path: str) -> None:
    """The rest of a body is swallowed, so that the reply is not destroyed by a reset; but not for ever."""
    script = serve(run_script, sock_path)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(body=b"x" * 70_000)[:-70_000])
        assert client.read_reply().ended
        refused = threading.Event()
        sender = threading.Thread(target=_send_until_refused, args=(client, refused))
        sender.start()
        while not refused.wait(0.05):
            prompt(sock_path)
        sender.join()
    unharmed(script)


def _send_until_refused(client: fcgi.Client, refused: threading.Event) -> None:
    try:
        while True:
            client.send(fcgi.record(fcgi.STDIN, 1, b"x" * 60_000))
            refused.wait(0.01)
    except (BrokenPipeError, ConnectionResetError):
        refused.set()


def test_many_peers_at_once(run_script: Run, sock_path: str) -> None:
    """Good and bad ones together: every good one gets its own reply."""
    script = serve(run_script, sock_path, 2, head_timeout=30, receive_timeout=30, send_timeout=30)
    failures: list[str] = []

    def good(number: int) -> None:
        for count in range(15):
            body = b"%d/%d " % (number, count) * (number * count * 40 + 1)
            expected = f"{len(body)} {hashlib.sha1(body).hexdigest()}"
            try:
                reply = fcgi.fetch(sock_path, "/read", body=body)
                if not reply.ended or reply.text != expected:
                    failures.append(f"{reply} instead of {expected}")
            except OSError as error:
                failures.append(repr(error))

    def bad(number: int) -> None:
        for count in range(6):
            try:
                with fcgi.Client(sock_path) as client:
                    whole = fcgi.request_bytes(body=b"y" * 5000, path="/read")
                    client.send((b"garbage!" * 9, whole[:50], whole[:-30], whole, b"")[(number + count) % 5])
                    if count % 2:
                        client.readable(0.2)
            except OSError:
                pass

    threads = [threading.Thread(target=good, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=bad, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    unharmed(script, 2)


def test_no_descriptor_is_leaked(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, head_timeout=0.1, idle_timeout=0.1, receive_timeout=0.1, send_timeout=0.1)
    (pid,) = script.workers()
    whole = fcgi.request_bytes(body=b"y" * 500, path="/read")

    unhindered(script, sock_path)
    wait_settled(pid)
    before = set(open_fds(pid))
    for _ in range(5):
        for data in (b"", whole[:20], whole[:-100], whole, b"?" * 50, fcgi.request_bytes(keep=True)):
            with sent(script, sock_path, data) as client:
                client.readable(0.02)
            with sent(script, sock_path, data) as client:
                while client.read_record() is not None:
                    pass
    wait_until(lambda: set(open_fds(pid)) == before)
    unharmed(script)


def test_descriptors_run_out(run_script: Run, sock_path: str) -> None:
    """The connection that has been silent longest makes room for the new one, which is served."""
    limited = SITE.replace(
        "    manager = ",
        "    import resource\n    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n    manager = ",
    )
    script = run_script(limited, args=[sock_path, 1, "{}"])
    script.wait_ready()
    with ExitStack() as stack:
        kept = []
        for _ in range(60):
            kept.append(stack.enter_context(fcgi.Client(sock_path)))
            assert kept[-1].request(keep=True).ended
        assert kept[0].at_eof()
        assert kept[-1].request(keep=True).ended
        prompt(sock_path)
    script.wait_log("accept: Too many open files")
    unharmed(script)


def test_requests_of_one_connection_wait_for_their_turn(run_script: Run, sock_path: str) -> None:
    """While one is served, the next one behind it is not begun, and nobody else waits for either with a second worker."""
    with socket.socket() as hold:
        hold.bind(("127.0.0.1", 0))
        left, right = socket.socketpair()
        script = serve(run_script, sock_path, 2, stdin=left)
        with left, right, fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes(path="/wait", keep=True) + fcgi.request_bytes(path="/wait", id=2, keep=True))
            assert script.line() == "waiting"
            for _ in range(20):
                prompt(sock_path)
            right.send(b"!")
            assert client.read_reply(1).ended
            assert script.line() == "waiting"
            right.send(b"!")
            assert client.read_reply(2).ended
        unharmed(script, 2)


def test_log_lines_about_peers(run_script: Run, sock_path: str) -> None:
    """One line for each that did wrong, none for those that are only gone."""
    script = serve(run_script, sock_path, head_timeout=0.3)
    for data in (b"nonsense" * 3, b"GET / HTTP/1.1\r\n\r\n", fcgi.begin(), b""):
        with sent(script, sock_path, data) as client:
            assert client.at_eof()
    with standing_still(*script.workers()), fcgi.Client(sock_path) as client:
        client.send(fcgi.begin())
    unhindered(script, sock_path)
    assert script.stop() == 0
    lines = re.findall(r"server \(pid \d+\): (closed a connection.*)", script.log())
    assert lines == [
        "closed a connection: FastCGI version 110, not 1",
        "closed a connection: the peer speaks HTTP, not FastCGI: put a web server in between (fastcgi_pass), or see serve --web",
        "closed a connection: the parameters of its request did not come in time",
    ]
