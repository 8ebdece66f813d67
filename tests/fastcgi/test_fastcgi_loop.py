"""The hand-written loop around `FastCGI.accept()`, the shape of every Perl FastCGI script."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from fcgi_procmanager import FastCGI, ProcManager
from fcgi_procmanager.errors import ConfigError
from harness import fcgi
from harness.process import Script, listening, open_fds, wait_asleep, wait_dead, wait_until

Run = Callable[..., Script]

LOOP = """
    import os, signal, sys
    from fcgi_procmanager import FastCGI, ProcManager
    from harness.inside import say

    manager = ProcManager(n_processes={n}, die_timeout=60)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    fcgi = FastCGI(listener, manager=manager, roles=(1, 2, 3))
    while request := fcgi.accept():
        manager.pre_dispatch()
        {body}
        manager.post_dispatch()
    say("left")
"""


def serve(run_script: Run, path: str, body: str, n: int = 1, **kw: Any) -> Script:
    source = LOOP.format(n=n, body=body.strip().replace("\n", "\n        "))
    script = run_script(source, args=[path], **kw)
    if n:
        script.wait_ready(n)
    else:
        wait_until(lambda: listening(path))
    return script


def test_the_script_of_the_manual(run_script: Run, sock_path: str) -> None:
    body = """
request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nhello")
request.finish()
"""
    script = serve(run_script, sock_path, body, 2)
    for _ in range(10):
        reply = fcgi.fetch(sock_path)
        assert (reply.body, reply.ended, reply.app_status, reply.protocol_status) == (b"hello", True, 0, 0)
    assert script.stop() == 0


def test_implicit_finish_at_the_next_accept(run_script: Run, sock_path: str) -> None:
    script = serve(
        run_script, sock_path, 'request.stdout.write(b"\\r\\n\\r\\n" + request.params["QUERY_STRING"].encode())'
    )
    with fcgi.Client(sock_path) as client:
        for number in range(20):
            assert client.request(f"/?{number}", keep=True).body == str(number).encode()
    for number in range(20):
        reply = fcgi.fetch(sock_path, f"/?{number}")
        assert (reply.body, reply.ended) == (str(number).encode(), True)
    assert script.stop() == 0


@pytest.mark.parametrize("leave", ["raise SystemExit(4)", "import sys; sys.exit(4)", "break"])
def test_unfinished_at_exit(run_script: Run, sock_path: str, leave: str) -> None:
    """A script that leaves its loop in a request: what it has written is sent, and the request ended."""
    body = f"""
request.stdout.write(b"\\r\\n\\r\\nlast words")
{leave}
"""
    script = serve(run_script, sock_path, body)
    reply = fcgi.fetch(sock_path)
    assert (reply.body, reply.ended) == (b"last words", True)
    script.wait_log("exited with status")
    assert script.stop() == 0


def test_unfinished_when_told_to_leave(run_script: Run, sock_path: str) -> None:
    """post_dispatch leaves: the request is complete by then."""
    body = """
request.stdout.write(b"\\r\\n\\r\\nwhole")
os.kill(os.getpid(), signal.SIGTERM)
"""
    script = serve(run_script, sock_path, body)
    for _ in range(3):
        reply = wait_until(lambda: fcgi.fetch(sock_path))
        assert (reply.body, reply.ended) == (b"whole", True)
    script.wait_log("safe exit after SIGTERM", 3)
    assert script.stop() == 0


def test_a_child_of_the_script_does_not_answer(run_script: Run, sock_path: str) -> None:
    """It inherits the request; the reply is its parent's alone, also when the child ends as a Python program does."""
    body = """
request.stdout.write(b"\\r\\n\\r\\nonce")
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
request.stdout.write(b" only")
"""
    script = serve(run_script, sock_path, body)
    with fcgi.Client(sock_path) as client:
        for _ in range(3):
            reply = client.request(keep=True)
            assert (reply.body, reply.ended) == (b"once only", True)
            assert not client.readable(0.02)
    assert script.stop() == 0


def test_streams(run_script: Run, sock_path: str) -> None:
    body = """
body, data = request.stdin.read(), request.data.read()
request.stderr.write("a warning\\n")
request.stderr.flush()
request.stdout.write("\\r\\n\\r\\n")
request.stdout.writelines([body, b"|", data])
request.stderr.write(b"another")
request.finish(app_status=len(body))
request.finish()
"""
    script = serve(run_script, sock_path, body)
    with fcgi.Client(sock_path) as client:
        for size in (0, 1, 100_000):
            client.send(fcgi.request_bytes(body=b"b" * size, data=b"d" * size, role=fcgi.FILTER, keep=True))
            reply = client.read_reply()
            assert reply.body == b"b" * size + b"|" + b"d" * size
            assert reply.stderr == b"a warning\nanother"
            assert (reply.app_status, reply.protocol_status) == (size, 0)
    assert script.stop() == 0


def test_filter_whose_file_comes_late(run_script: Run, sock_path: str) -> None:
    script = serve(
        run_script, sock_path, 'request.stdout.write(b"\\r\\n\\r\\n" + request.stdin.read() + request.data.read())'
    )
    with fcgi.Client(sock_path) as client:
        for body in (b"", b"body"):
            for _ in range(2):
                client.send(fcgi.begin(1, fcgi.FILTER, 1) + fcgi.params_records({"A": "b"}) + fcgi.stdin_records(body))
                assert not client.readable(0.05)
                client.send(fcgi.data_records(b"file"))
                assert client.read_reply().body == body + b"file"
    assert script.stop() == 0


@pytest.mark.parametrize(("status", "sent"), [(0, 0), (255, 255), (-1, 0xFFFFFFFF)])
def test_app_status(run_script: Run, sock_path: str, status: int, sent: int) -> None:
    body = f"""
if request.params["QUERY_STRING"]:
    request.stdout.write(b"\\r\\n\\r\\nsaid")
request.finish({status})
"""
    script = serve(run_script, sock_path, body)
    reply = fcgi.fetch(sock_path)
    assert (reply.app_status, reply.ended, reply.stdout) == (sent, True, b"")
    reply = fcgi.fetch(sock_path, "/?more")
    assert (reply.app_status, reply.ended, reply.body) == (sent, True, b"said")
    assert script.stop() == 0


def test_after_the_end_nothing_is_written(run_script: Run, sock_path: str) -> None:
    body = """
request.stdout.write(b"\\r\\n\\r\\nwhole")
stdin = request.stdin
request.finish()
for late in (lambda: request.stdout.write(b"late"), lambda: request.stderr.write(b"late"), lambda: stdin.read(1)):
    try:
        late()
    except ValueError as error:
        say("refused")
"""
    script = serve(run_script, sock_path, body)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(body=b"x" * 100_000, keep=True))
        assert client.read_reply().body == b"whole"
        assert script.lines(3) == ["refused"] * 3
        assert client.request(keep=True).body == b"whole"
    assert script.stop() == 0


def test_unread_bodies_do_not_mix(run_script: Run, sock_path: str) -> None:
    """Each request sees its own body only, however much of the one before was read."""
    script = serve(
        run_script,
        sock_path,
        'request.stdout.write(b"\\r\\n\\r\\n" + request.stdin.read(int(request.params["QUERY_STRING"])))',
    )
    with fcgi.Client(sock_path) as client:
        for number, size in enumerate((10, 70_000, 0, 200_000, 5, 65_535, 1)):
            body = bytes([97 + number]) * (size * 2)
            assert client.request(f"/?{size}", body, keep=True).body == body[:size]
    assert script.stop() == 0


def test_term_while_idle(run_script: Run, sock_path: str) -> None:
    """accept() returns None, and the script goes on behind its loop."""
    script = serve(run_script, sock_path, "pass")
    (pid,) = script.workers()
    wait_asleep(pid)
    os.kill(pid, signal.SIGTERM)
    assert script.line() == "left"
    wait_dead(pid)
    assert script.stop() == 0


def test_single_process(run_script: Run, sock_path: str) -> None:
    """n_processes=0: the same script, without a manager. It keeps the signal handlers it has."""
    script = serve(run_script, sock_path, 'request.stdout.write(b"\\r\\n\\r\\n%d" % os.getpid())', 0)
    for _ in range(3):
        assert fcgi.fetch(sock_path).body == str(script.pid).encode()
    with fcgi.Client(sock_path) as client:
        assert client.request(keep=True).ended
        wait_asleep(script.pid)
        script.signal(signal.SIGTERM)
        assert script.wait() == -signal.SIGTERM
    os.unlink(sock_path)


def test_without_a_manager_object(run_script: Run, sock_path: str) -> None:
    """The shortest of all, on descriptor 0."""
    source = """
        from fcgi_procmanager import FastCGI
        fcgi = FastCGI()
        while request := fcgi.accept():
            request.stdout.write(b"\\r\\n\\r\\nshort")
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock_path)
        listener.listen()
        script = run_script(source, stdin=listener)
        assert fcgi.fetch(sock_path).body == b"short"
        assert fcgi.fetch(sock_path).body == b"short"
        script.stop(signal.SIGKILL)
    os.unlink(sock_path)


def test_several_listeners(run_script: Run, sock_path: str) -> None:
    source = """
        import sys
        from fcgi_procmanager import FastCGI, ProcManager
        manager = ProcManager(n_processes=2, die_timeout=60)
        manager.listen(sys.argv[1])
        manager.listen(sys.argv[1] + "2")
        manager.manage()
        fcgi = FastCGI(manager=manager)
        while request := fcgi.accept():
            manager.pre_dispatch()
            request.stdout.write(b"\\r\\n\\r\\nhere")
            manager.post_dispatch()
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready(2)
    for _ in range(5):
        for path in (sock_path, sock_path + "2"):
            assert fcgi.fetch(path).body == b"here"
    assert script.stop() == 0


def test_manager_accept(run_script: Run, sock_path: str) -> None:
    """The loop below everything: no connection is lost, None at the end."""
    source = """
        import os, sys
        from fcgi_procmanager import ProcManager
        from harness.inside import say
        manager = ProcManager(n_processes=2, die_timeout=60)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        while (accepted := manager.accept(listener)) is not None:
            connection, address = accepted
            manager.pre_dispatch()
            connection.sendall(b"%d" % os.getpid())
            connection.close()
            manager.post_dispatch()
        say("left")
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready(2)
    pids = {str(pid).encode() for pid in script.workers()}
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(sock_path)
            assert sock.recv(100) in pids
    assert script.stop() == 0
    # None from accept(), or post_dispatch left where the TERM found it between the two.
    assert script.output().count("left\n") + script.log().count("safe exit after SIGTERM") == 2


# In this process, as a library


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


def test_in_one_process(listener: socket.socket) -> None:
    """Without signals, workers or files: a client and a server in turn."""
    before = set(open_fds())
    server = FastCGI(listener)
    with fcgi.Client(listener.getsockname()) as client:
        for number in range(3):
            client.send(fcgi.request_bytes(path=f"/?{number}", keep=True, id=number + 1))
            request = server.accept()
            assert request is not None
            assert request.params["QUERY_STRING"] == str(number)
            assert (request.request_id, request.role, request.keep) == (number + 1, fcgi.RESPONDER, True)
            assert not request.finished
            assert not request.aborted
            request.stdout.write(b"\r\n\r\nhere")
            request.finish()
            assert request.finished
            assert client.read_reply(number + 1).body == b"here"
    server.close()
    server.manager._worker.close_gate()
    assert set(open_fds()) == before


def test_close_finishes_and_lets_go(listener: socket.socket) -> None:
    server = FastCGI(listener)
    with fcgi.Client(listener.getsockname()) as client, fcgi.Client(listener.getsockname()) as other:
        client.send(fcgi.request_bytes(keep=True))
        request = server.accept()
        assert request is not None
        request.stdout.write(b"\r\n\r\nhalf")
        server.close()
        assert client.read_reply().body == b"half"
        server.close()
        other.send(b"")  # its connection is still in the backlog, the listener's owner may go on
        assert listener.fileno() >= 0
    server.manager._worker.close_gate()


@pytest.mark.parametrize("name", ["head_timeout", "idle_timeout", "receive_timeout", "send_timeout", "drain_timeout"])
@pytest.mark.parametrize("value", [0, -1, "1", None, True, float("nan")])
def test_wrong_timeouts(listener: socket.socket, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        FastCGI(listener, manager=ProcManager(), **{name: value})
