"""Children that the application forks: they hold nothing of the worker's, and what they do changes no reply."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, alive, wait_dead, wait_until

Run = Callable[..., Script]

# The first argument is a descriptor: a child lives until the test writes to it.
SITE = """
    import multiprocessing, os, socket, stat, sys
    from fcgi_procmanager import FastCGI, ProcManager, WSGIServer, adopt
    from flup.server.fcgi_single import WSGIServer as Flup
    from harness.inside import say

    def live_on():
        say("child", os.getpid(), sum(map(is_socket, range(256))))
        os.read(int(sys.argv[1]), 1)
        os._exit(0)

    def is_socket(fd):
        try:
            return stat.S_ISSOCK(os.fstat(fd).st_mode)
        except OSError:
            return False

    def begin_a_child(path):
        if path == "/fork" and os.fork() == 0:
            live_on()
        if path == "/multiprocessing":
            multiprocessing.get_context("fork").Process(target=live_on, daemon=True).start()
        if path == "/return" and os.fork() == 0:
            say("returning", os.getpid())
        if path == "/exit" and os.fork() == 0:
            say("returning", os.getpid())
            sys.exit(5)

    def application(environ, start_response):
        begin_a_child(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]

    def loop():
        while request := fcgi.accept():
            manager.pre_dispatch()
            begin_a_child(request.params["PATH_INFO"])
            request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n%d" % os.getpid())
            request.finish()
            manager.post_dispatch()

    def serve(**kw):
        WSGIServer(application, manager=manager, drain_timeout=0.2, **kw).run()

    def bound():
        listener = manager.listen("127.0.0.1:0")
        say(listener.socket.getsockname()[1])
        return listener

    manager = ProcManager(n_processes=1, die_timeout=60)
"""

WAYS = {
    "WSGIServer": "serve(listener=bound())",
    "threads": "serve(listener=bound(), threads=3)",
    "a single process": """
    manager = ProcManager(n_processes=0)
    serve(listener=bound())
""",
    "threads of a single process": """
    manager = ProcManager(n_processes=0)
    serve(listener=bound(), threads=3)
""",
    "adopt": """
    bound()
    adopt(Flup(application), manager, drain_timeout=0.2).run()
""",
    "loop": """
    listener = bound()
    manager.manage()
    fcgi = FastCGI(listener, manager=manager, drain_timeout=0.2)
    loop()
""",
    "made before the workers, with a plain socket": """
    plain = socket.create_server(("127.0.0.1", 0))
    say(plain.getsockname()[1])
    fcgi = FastCGI(plain, manager=manager, drain_timeout=0.2)
    if not manager.manage():
        plain.close()
    loop()
""",
    "descriptor 0": "serve()",
    "descriptor 0, plain": """
    plain = socket.socket(fileno=0)
    fcgi = FastCGI(plain, manager=manager, drain_timeout=0.2)
    manager.manage()
    loop()
""",
}


@pytest.fixture
def hold() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def start(run_script: Run, hold: tuple[int, int]) -> Callable[[str], tuple[Script, Any]]:
    """The site served in one of the ways, and its address."""

    def start(way: str) -> tuple[Script, Any]:
        source = f"{SITE}\n    {WAYS[way].strip()}\n"
        args = {"args": [hold[0]], "pass_fds": [hold[0]]}
        if "descriptor 0" not in way:
            script = run_script(source, **args)
            address = ("127.0.0.1", int(script.line()))
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                script = run_script(source, stdin=listener, **args)
                address = listener.getsockname()
        return script, address

    return start


@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_lives_on_holds_no_socket(
    start: Callable[[str], tuple[Script, Any]], hold: tuple[int, int], way: str
) -> None:
    """The client of its request sees the end of the connection, held connections end with their worker, and when the pool
    has stopped the address is free: all while the child lives."""
    script, address = start(way)
    with fcgi.Client(address) as kept, fcgi.Client(address) as silent:
        assert kept.request(keep=True).ended
        with fcgi.Client(address) as client:
            assert client.request("/fork").ended
            _, child, sockets = script.line().split()
            assert client.at_eof()
        assert sockets == "0"
        assert kept.request(keep=True).ended  # the worker serves on
        script.signal(signal.SIGTERM)
        assert script.wait() == 0
        assert kept.at_eof()
        assert silent.at_eof()
    assert alive(int(child))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)
    with socket.create_server(address):
        pass
    assert alive(int(child))
    os.write(hold[1], b"!")
    script.tree_gone()


@pytest.mark.parametrize("way", ["WSGIServer", "threads"])
def test_a_process_of_multiprocessing_holds_no_socket(
    start: Callable[[str], tuple[Script, Any]], hold: tuple[int, int], way: str
) -> None:
    script, address = start(way)
    with fcgi.Client(address) as client:
        assert client.request("/multiprocessing").ended
        assert script.line().split()[2] == "0"
        assert client.at_eof()
    os.write(hold[1], b"!")
    assert script.stop() == 0


@pytest.mark.parametrize("path", ["/return", "/exit"])
@pytest.mark.parametrize("way", WAYS)
def test_a_child_that_comes_back_from_its_request_ends(
    start: Callable[[str], tuple[Script, Any]], way: str, path: str
) -> None:
    """It is no second server: it answers nobody, and its worker serves on."""
    script, address = start(way)
    with fcgi.Client(address) as kept:
        for _ in range(3):
            pid = kept.request(keep=True).text
            with fcgi.Client(address) as client:
                assert client.request(path).text == pid
                assert client.at_eof()
            child = int(script.line().split()[1])
            wait_dead(child)
            assert kept.request(keep=True).text == pid
    assert script.stop() == 0
    assert script.output() == ""
    assert "Traceback" not in script.log()
    assert "ended early" not in script.log()


def test_in_a_child_the_request_does_nothing(run_script: Run, sock_path: str) -> None:
    source = """
        import os, sys
        from fcgi_procmanager import FastCGI, ProcManager
        from harness.inside import say

        def spoil(request):
            request.stdout.write(b"from the child" * 10_000)
            request.stderr.write(b"likewise")
            request.stdout.flush()
            request.stdout.send_file(os.open(__file__, os.O_RDONLY), 0, 100)
            try:
                request.stdin.read()
            except OSError as error:
                say(type(error).__name__)
            request.finish()
            request.finish()
            request.abandon("the child has failed")
            say(request.finished, fcgi.accept())

        manager = ProcManager(n_processes=1)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        fcgi = FastCGI(listener, manager=manager)
        while request := fcgi.accept():
            manager.pre_dispatch()
            request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n")
            child = os.fork()
            if child == 0:
                spoil(request)
                os._exit(0)
            os.waitpid(child, 0)
            request.stdout.write(b"%d" % len(request.stdin.read()))
            request.finish()
            manager.post_dispatch()
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready()
    with fcgi.Client(sock_path) as client:
        whole = fcgi.request_bytes(body=b"x" * 100_000, keep=True)
        for _ in range(3):
            client.send(whole[:-50_000])
            assert script.lines(2) == ["PeerGone", "True None"]
            client.send(whole[-50_000:])
            reply = client.read_reply()
            assert (reply.text, reply.stderr, reply.ended) == ("100000", b"", True)
    assert script.stop() == 0


def test_processes_that_a_script_forks_before_its_loop_serve(run_script: Run, sock_path: str) -> None:
    """A pool made by hand: the object was there before its workers."""
    source = """
        import os, socket, sys
        from fcgi_procmanager import FastCGI
        from harness.inside import say

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(sys.argv[1])
        listener.listen()
        fcgi = FastCGI(listener)
        children = [os.fork()]
        if children != [0]:
            os.waitpid(children[0], 0)
            sys.exit()
        while request := fcgi.accept():
            request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n%d" % os.getpid())
    """
    script = run_script(source, args=[sock_path])
    pids = {int(wait_until(lambda: ask(sock_path))) for _ in range(3)}
    assert pids == set(script.workers())
    script.signal(signal.SIGTERM, pids.pop())
    assert script.wait() == 0
    os.unlink(sock_path)


def ask(path: str) -> str:
    try:
        return fcgi.fetch(path).text
    except (FileNotFoundError, ConnectionRefusedError):
        return ""


def test_a_connection_that_another_thread_is_accepting_is_not_held_by_a_child(run_script: Run) -> None:
    """A thread has accepted it and waits for the interpreter, while its neighbour forks. A thread that computes makes such
    waits long."""
    script = run_script(
        SITE
        + """
    import threading

    def count(path):
        if path == "/count" and os.fork() == 0:
            say(sum(map(is_socket, range(256))))
            os._exit(0)

    def compute():
        while True:
            sum(range(1000))

    begin_a_child = count
    threading.Thread(target=compute, daemon=True).start()
    manager = ProcManager(n_processes=0)
    serve(listener=bound(), threads=3)
"""
    )
    address = ("127.0.0.1", int(script.line()))
    for _ in range(100):
        with fcgi.Client(address) as client, fcgi.Client(address):
            client.send(fcgi.request_bytes(path="/count"))
            with fcgi.Client(address):
                assert script.line() == "0"
                assert client.read_reply().ended
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
