"""The hooks around each request, in each of the ways to serve."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, standing_still, wait_until

Run = Callable[..., Script]

# Each request says `pre`, `app`, `post`, all with its worker's pid.
COMMON = """
    import os, signal, sys, threading
    from fcgi_procmanager import FastCGI, ProcManager, WSGIServer, adopt
    from fcgi_procmanager.fastcgi import request
    from harness.inside import restarts, say

    request._UNREAD_SECONDS = 60  # the test may be preempted while it sends
    lock = threading.Lock()

    class Manager(ProcManager):
        inside = 0
        handled = 0

        def pre_dispatch(self):
            super().pre_dispatch()
            self.inside += 1
            say("pre", os.getpid(), self.inside, restarts(signal.SIGTERM), restarts(signal.SIGHUP))

        def post_dispatch(self):
            self.inside -= 1
            self.handled += 1
            say("post", os.getpid(), self.inside)
            if self.handled == {limit}:
                self.exit("enough")
            super().post_dispatch()
            if not self.inside:
                say("between", os.getpid(), restarts(signal.SIGTERM), restarts(signal.SIGHUP))

    def application(environ, start_response):
        say("app", os.getpid())
        path = environ["PATH_INFO"]
        if path == "/raise":
            raise RuntimeError("on purpose")
        if path == "/wait":
            os.read(0, 1)
        start_response("200 OK", [])
        return [path.encode()]

    manager = Manager(n_processes={n}, die_timeout=60)
    address = sys.argv[1]
"""

WAYS = {
    "WSGIServer": """
    WSGIServer(application, manager=manager, bindAddress=address).run()
""",
    "WSGIServer in single process of a pool of threads": """
    WSGIServer(application, manager=manager, bindAddress=address, threads=2).run()
""",
    "adopt single": """
    from flup.server.fcgi_single import WSGIServer as Flup
    adopt(Flup(application, bindAddress=address), manager).run()
""",
    "adopt threaded": """
    from flup.server.fcgi import WSGIServer as Flup
    adopt(Flup(application, bindAddress=address, maxThreads=2), manager).run()
""",
    "loop": """
    listener = manager.listen(address)
    manager.manage()
    fcgi = FastCGI(listener, manager=manager)
    while request := fcgi.accept():
        manager.pre_dispatch()
        try:
            body = application(request.params, lambda *_: request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n"))
            request.stdout.writelines(body)
        except RuntimeError:
            request.stdout.write(b"Status: 500 No\\r\\n\\r\\n")
        request.finish()
        manager.post_dispatch()
""",
}

every_way = pytest.mark.parametrize("way", WAYS)
one_at_a_time = pytest.mark.parametrize("way", ["WSGIServer", "adopt single", "loop"])


def serve(run_script: Run, path: str, way: str, n: int = 1, limit: int = 0, **kw: Any) -> Script:
    script = run_script(COMMON.format(n=n, limit=limit) + WAYS[way], args=[path], **kw)
    script.wait_ready(n)
    return script


@every_way
def test_once_around_each_request(run_script: Run, sock_path: str, way: str) -> None:
    """New connections, a kept one, an unread body, an error: always pre, app, post."""
    script = serve(run_script, sock_path, way)
    (pid,) = script.workers()
    between = f"between {pid} False False"

    def one() -> None:
        assert script.lines(4) == [f"pre {pid} 1 True True", f"app {pid}", f"post {pid} 0", between]

    for path in ("/", "/raise", "/"):
        assert fcgi.fetch(sock_path, path).ended
        one()
    assert fcgi.fetch(sock_path, "/", body=b"x" * 200_000).ended
    one()
    with fcgi.Client(sock_path) as client:
        for _ in range(5):
            assert client.request(keep=True).ended
            one()
    with fcgi.Client(sock_path):
        pass  # says nothing: no request, no hook
    assert fcgi.fetch(sock_path, "/").ended
    one()
    assert script.stop() == 0
    assert script.output() == ""


@one_at_a_time
def test_post_dispatch_that_exits(run_script: Run, sock_path: str, way: str) -> None:
    """As a limit on the number of requests does: every reply is complete, each worker serves so many."""
    script = serve(run_script, sock_path, way, limit=3)
    for _ in range(9):
        assert wait_until(lambda: fcgi.fetch(sock_path)).ended
    script.wait_log("enough", 3)
    script.wait_log("exited with status 0", 3)
    assert script.stop() == 0
    served = re.findall(r"^app (\d+)$", script.output(), re.MULTILINE)
    assert sorted(served.count(pid) for pid in set(served)) == [3, 3, 3]


@every_way
def test_term_in_a_request(run_script: Run, sock_path: str, way: str) -> None:
    """post_dispatch still comes, once, and the worker is gone afterwards."""
    read, write = os.pipe()
    script = serve(run_script, sock_path, way, stdin=read)
    os.close(read)
    (pid,) = script.workers()
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/wait"))
        assert script.lines(2) == [f"pre {pid} 1 True True", f"app {pid}"]
        script.signal(signal.SIGTERM)
        script.wait_log("received signal TERM")
        os.write(write, b"!")
        assert client.read_reply().ended
    os.close(write)
    assert script.wait() == 0
    lines = script.output().splitlines()
    assert [line for line in lines if not line.startswith("between")] == [f"post {pid} 0"]


@pytest.mark.parametrize("way", ["adopt threaded", "WSGIServer in single process of a pool of threads"])
def test_overlapping_requests(run_script: Run, sock_path: str, way: str) -> None:
    """Once around each of them; SA_RESTART stays set until the last has ended."""
    read, write = os.pipe()
    script = serve(run_script, sock_path, way, stdin=read)
    os.close(read)
    (pid,) = script.workers()
    with ExitStack() as stack:
        clients = []
        for count in (1, 2):  # one thread may hold two that connect before either is in progress
            clients.append(stack.enter_context(fcgi.Client(sock_path)))
            clients[-1].send(fcgi.request_bytes(path="/wait"))
            assert script.lines(2) == [f"pre {pid} {count} True True", f"app {pid}"]
        os.write(write, b"!!")
        for client in clients:
            assert client.read_reply().ended
    assert script.lines(3) == [f"post {pid} 1", f"post {pid} 0", f"between {pid} False False"]
    os.close(write)
    assert script.stop() == 0


ROW = """
    import os, signal, sys, threading, time
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import restarts, say

    def look():
        return [restarts(number) for number in (signal.SIGTERM, signal.SIGHUP)]

    def watch():
        # A thread sees what a request cannot: that the flag is off again once the worker waits.
        while any(look()):
            time.sleep(0.001)
        say("off")

    def application(environ, start_response):
        say("flags", *look())
        if environ["PATH_INFO"] == "/handlers":
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.signal(number, signal.SIG_IGN))
            say("undone", *look())
        if environ["PATH_INFO"] == "/watch":
            threading.Thread(target=watch, daemon=True).start()
        start_response("200 OK", [])
        return [b"ok"]

    WSGIServer(application, manager=ProcManager(n_processes=1), bindAddress=sys.argv[1]).run()
"""


def test_requests_in_a_row_all_see_sa_restart(run_script: Run, sock_path: str) -> None:
    """Also the one behind a request that has put handlers back, which takes the flag off."""
    script = run_script(ROW, args=[sock_path])
    script.wait_ready()
    paths = ["/", "/handlers", "/"] * 4 + ["/watch"]
    with standing_still(*script.workers()):  # they wait in the queue together, and are served in order
        clients = [fcgi.Client(sock_path) for _ in paths]
        for client, path in zip(clients, paths):
            client.send(fcgi.request_bytes(path=path))
    for client in clients:
        with client:
            assert client.read_reply().ended
    lines = script.lines(len(paths) + 4 + 1)
    assert lines.count("flags True True") == len(paths)
    assert lines.count("undone False False") == 4
    assert lines[-1] == "off"
    assert script.stop() == 0
