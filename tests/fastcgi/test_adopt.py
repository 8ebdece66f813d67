"""`adopt()`: server objects of flup, single-threaded and threaded, under a manager that they know nothing of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from fcgi_procmanager import ProcManager, WSGIServer, adopt
from fcgi_procmanager.errors import ConfigError
from harness import fcgi
from harness.process import (
    Script,
    alive,
    context_switches,
    listening,
    standing_still,
    wait_asleep,
    wait_dead,
    wait_settled,
    wait_until,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from flup.server.fcgi import WSGIServer as Threaded
    from flup.server.fcgi_fork import WSGIServer as Forking
    from flup.server.fcgi_single import WSGIServer as Single

Run = Callable[..., Script]
PROMPT = 30.0  # seconds; all that could be waited for by mistake takes longer

SCRIPT = """
    import hashlib, json, os, sys
    from fcgi_procmanager import ProcManager, adopt
    from harness.inside import say

    kind, address, options = sys.argv[1], sys.argv[2] or None, json.loads(sys.argv[3])
    limits, listen, n = json.loads(sys.argv[4]), sys.argv[5], int(sys.argv[6])
    if kind == "single":
        from flup.server.fcgi_single import WSGIServer
    else:
        from flup.server.fcgi import WSGIServer

    def application(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/raise":
            raise RuntimeError("<on purpose>")
        if path == "/exit":
            sys.exit(3)
        start_response("200 OK", [("Content-Type", "text/plain")])
        if path == "/wait":
            say("waiting", os.getpid())
            os.read(wake, 1)
        elif path == "/read":
            body = environ["wsgi.input"].read(-1)
            return [f"{{len(body)}} {{hashlib.sha1(body).hexdigest()}}".encode()]
        elif path == "/big":
            return [b"x" * int(query)]
        elif path == "/late":
            return late()
        elif path == "/environ":
            shown = {{name: value for name, value in environ.items() if isinstance(value, (str, bool, tuple))}}
            return [json.dumps(shown).encode()]
        elif path == "/zero":
            return [json.dumps([os.path.sameopenfile(0, 0), os.readlink("/proc/self/fd/0")]).encode()]
        return [f"{{os.getpid()}} {{query}}".encode()]

    def late():
        yield b"begun"
        raise RuntimeError("on purpose")

    {subclass}

    wake = os.dup(0)
    manager = ProcManager(n_processes=n, die_timeout=60)
    if listen:
        manager.listen(listen)
    limits = {{**dict(head_timeout=100, idle_timeout=100, drain_timeout=60), **limits}}
    server = WSGIServer(application, bindAddress=address, **options)
    say("returned", adopt(server, manager, **limits).run())
"""

kinds = pytest.mark.parametrize("kind", ["single", "threaded"])


class Site:
    def __init__(self, run_script: Run, path: str, kind: str, n: int, made: list[Site], **kw: Any) -> None:
        read, self.write_end = os.pipe()
        made.append(self)
        self.path = path
        subclass = kw.pop("subclass", "pass").replace("\n", "\n    ")
        options, limits, listen = kw.pop("options", {}), kw.pop("limits", {}), kw.pop("listen", "")
        address = kw.pop("address", path)
        args = [kind, address, json.dumps(options), json.dumps(limits), listen, n]
        try:
            self.script = run_script(SCRIPT.format(subclass=subclass), args=args, stdin=kw.pop("stdin", read), **kw)
        finally:
            os.close(read)
        if n:
            self.script.wait_ready(n)
        else:
            wait_until(lambda: listening(path))

    def go_on(self, count: int = 1) -> None:
        os.write(self.write_end, b"!" * count)

    def worker(self) -> int:
        return self.script.workers()[0]

    def busy(self) -> int:
        return int(self.script.line().split()[1])

    def stop(self) -> None:
        began = time.monotonic()
        assert self.script.stop() == 0
        assert time.monotonic() - began < PROMPT


@pytest.fixture
def site(run_script: Run, sock_path: str) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []
    yield lambda kind, n=1, **kw: Site(run_script, sock_path, kind, n, made, **kw)
    for one in made:
        os.close(one.write_end)


# What is taken


def application(environ: Any, start_response: Any) -> Any:
    raise AssertionError("never called")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_refused(sock_path: str) -> None:
    manager = ProcManager(n_processes=1)

    class Access(Single):  # type: ignore[misc]
        def _isClientAllowed(self, addr: Any) -> bool:
            return False

    class Loop(Threaded):  # type: ignore[misc]
        def run(self) -> bool:
            return True

    for wrong in ("text", None, application, WSGIServer(application), manager, Forking(application)):
        with pytest.raises(ConfigError, match="adopt"):
            adopt(wrong, manager)
    with pytest.raises(ConfigError, match="manager must be a ProcManager, not 4"):
        adopt(Single(application), 4)  # type: ignore[arg-type]
    adopt(Single(application, multiplexed=True), manager)  # served one at a time, which loses nothing
    with pytest.raises(ConfigError, match="_isClientAllowed"):
        adopt(Access(application), manager)
    server = Loop(application)
    with pytest.raises(ConfigError, match="run"):
        adopt(server, manager)
    server.shutdown()
    with pytest.raises(ConfigError, match="head_timeout"):
        adopt(Single(application), manager, head_timeout=0)
    with pytest.raises(TypeError, match="no_such"):
        adopt(Single(application), manager, no_such=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_thread_is_left_when_the_manager_forks() -> None:
    before = set(threading.enumerate())
    server = Threaded(application, maxThreads=7)
    assert set(threading.enumerate()) - before
    adopted = adopt(server, ProcManager(n_processes=1))
    assert not set(threading.enumerate()) - before
    assert adopted.threads == 7
    assert adopt(Threaded(application), ProcManager()).threads > 1
    assert adopt(Single(application), ProcManager()).threads == 1


# Serving


@kinds
def test_requests(site: Any, kind: str) -> None:
    pool = site(kind, 2)
    for size in (0, 1, 65535, 65536, 300_000):
        body = b"b" * size
        reply = fcgi.fetch(pool.path, "/read", body=body)
        assert (reply.ended, reply.text) == (True, f"{size} {hashlib.sha1(body).hexdigest()}")
        assert fcgi.fetch(pool.path, f"/big?{size}").body == b"x" * size
    with fcgi.Client(pool.path) as client:
        for number in range(20):
            reply = client.request(f"/?{number}", keep=True)
            assert (reply.ended, reply.text.split()[1]) == (True, str(number))
            assert client.request("/", b"unread" * 30_000, keep=True).ended
    environ = json.loads(fcgi.fetch(pool.path, "/environ").body)
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.multithread"] is (kind == "threaded")
    pool.stop()


@kinds
def test_faults_of_flup_are_not_seen(site: Any, kind: str) -> None:
    """Pairs split over two records, questions never answered, silent and lingering peers that pin a worker."""
    pool = site(kind, 1)
    params = fcgi.cgi_params("/abcdefghij?query")
    for at in range(1, len(fcgi.encode_params(params)), 23):
        with fcgi.Client(pool.path) as client:
            client.send(fcgi.begin() + fcgi.params_records(params, split=[at]) + fcgi.stdin_records())
            assert client.read_reply().text.split()[1] == "query"
    with ExitStack() as stack:
        silent = [stack.enter_context(fcgi.Client(pool.path)) for _ in range(20)]
        assert silent[0].values()["FCGI_MPXS_CONNS"] == "0"
        for _ in range(20):
            kept = stack.enter_context(fcgi.Client(pool.path))
            assert kept.request(keep=True).ended
            lingering = stack.enter_context(fcgi.Client(pool.path))
            assert lingering.request().ended
        began = time.monotonic()
        assert fcgi.fetch(pool.path).ended
        assert time.monotonic() - began < PROMPT
    pool.stop()


@kinds
def test_failures(site: Any, kind: str) -> None:
    pool = site(kind, 1)
    reply = fcgi.fetch(pool.path, "/raise")
    assert (reply.ended, reply.status) == (True, 500)
    assert not fcgi.fetch(pool.path, "/late").ended
    assert fcgi.fetch(pool.path).ended
    assert "exited" not in pool.script.log()
    assert fcgi.fetch(pool.path, "/exit").status == 500
    pool.script.wait_log("exited with status 3")
    assert wait_until(lambda: fcgi.fetch(pool.path)).ended
    pool.stop()


@kinds
def test_debug_page(site: Any, kind: str) -> None:
    pool = site(kind, 1, options={"debug": True})
    reply = fcgi.fetch(pool.path, "/raise")
    assert (reply.ended, reply.status) == (True, 500)
    assert b"RuntimeError" in reply.body
    assert b"<on purpose>" not in reply.body
    pool.stop()


@kinds
def test_overridden_handler_and_error(site: Any, kind: str) -> None:
    subclass = """
class WSGIServer(WSGIServer):
    def error(self, req):
        assert req.server is self
        req.stdout.write(b"Status: 503 Busy\\r\\n\\r\\n" + req.params["PATH_INFO"].encode())
    def handler(self, req):
        if req.params["PATH_INFO"] != "/raw":
            return super().handler(req)
        req.stderr.write(b"said")
        req.stdout.write("Status: 201 Made\\r\\n\\r\\n")
        req.stdout.write(b"|".join([req.stdin.read(), req.data.read(), str((req.role, req.flags)).encode()]))
        return 0, 5
"""
    pool = site(kind, 1, subclass=subclass, options={"roles": [1, 3]})
    reply = fcgi.fetch(pool.path, "/raise")
    assert (reply.ended, reply.status, reply.body) == (True, 503, b"/raise")
    with fcgi.Client(pool.path) as client:
        client.send(fcgi.request_bytes(body=b"body", data=b"data", role=3, path="/raw"))
        reply = client.read_reply()
        assert (reply.status, reply.body, reply.stderr, reply.app_status) == (201, b"body|data|(3, 0)", b"said", 5)
    pool.stop()


@kinds
def test_silent_peers_are_bounded(site: Any, kind: str) -> None:
    limits = {"head_timeout": 0.3, "idle_timeout": 0.3, "receive_timeout": 0.3, "send_timeout": 0.5}
    pool = site(kind, 1, limits=limits)
    whole = fcgi.request_bytes(body=b"x" * 1000, path="/read")
    with ExitStack() as stack:

        def client(data: bytes) -> fcgi.Client:
            """Has sent that much when it is accepted: this process may be slower than the limits."""
            with standing_still(pool.worker()):
                made: fcgi.Client = stack.enter_context(fcgi.Client(pool.path))
                made.send(data)
            return made

        for data in (b"", whole[:5], whole[:100], whole[:-20]):
            assert not client(data).read_reply().ended
        kept = client(fcgi.request_bytes(keep=True))
        assert kept.read_reply().ended
        assert kept.at_eof()
        client(fcgi.request_bytes(path="/big?30000000"))
        assert client(fcgi.request_bytes()).read_reply().ended
    assert "exited" not in pool.script.log()
    pool.stop()


# Stopping


@kinds
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_idle_worker_leaves_at_once(site: Any, kind: str, number: int) -> None:
    pool = site(kind, 1)
    for _ in range(3):
        pid = pool.worker()
        wait_asleep(pid)
        began = time.monotonic()
        os.kill(pid, number)
        wait_dead(pid)
        assert time.monotonic() - began < PROMPT
        pool.script.wait_log("exited with status 0")
        pool.script.wait_workers(1)
        assert fcgi.fetch(pool.path).ended
    pool.stop()


@kinds
def test_idle_worker_sleeps(site: Any, kind: str) -> None:
    """No polling: nobody of an idle pool wakes up."""
    pool = site(kind, 1)
    assert fcgi.fetch(pool.path).ended
    pids = [pool.script.pid, pool.worker()]
    wait_settled(*pids)  # what the request has set going may still end
    before = [context_switches(pid) for pid in pids]
    time.sleep(0.6)  # a span in which nothing may happen
    assert [context_switches(pid) for pid in pids] == before
    pool.stop()


@kinds
def test_request_in_hand_is_finished(site: Any, kind: str) -> None:
    pool = site(kind, 1)
    with fcgi.Client(pool.path) as client, fcgi.Client(pool.path) as kept:
        assert kept.request(keep=True).ended
        client.send(fcgi.request_bytes(path="/wait?q", keep=True))
        pid = pool.busy()
        os.kill(pid, signal.SIGTERM)
        assert not client.readable(0.1)
        pool.go_on()
        assert client.read_reply().text == f"{pid} q"
        assert client.at_eof()
        assert kept.at_eof()
    wait_dead(pid)
    pool.stop()


@kinds
def test_kept_connections_do_not_delay_a_stop(site: Any, kind: str) -> None:
    pool = site(kind, 2)
    with ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(fcgi.Client(pool.path))
            assert client.request(keep=True).ended
        pool.stop()


@kinds
def test_connection_without_a_request_yet_is_answered(site: Any, kind: str) -> None:
    pool = site(kind, 1)
    pid = pool.worker()
    with fcgi.Client(pool.path) as client:
        client.send(fcgi.begin()[:4])
        assert fcgi.fetch(pool.path).ended
        os.kill(pid, signal.SIGTERM)
        assert not client.readable(0.1)
        client.send(fcgi.request_bytes()[4:])
        assert client.read_reply().text.split()[0] == str(pid)
    wait_dead(pid)
    pool.stop()


def in_progress(pool: Site, stack: ExitStack, **kw: Any) -> fcgi.Client:
    """A client that has sent a request. Who connects the next one before this one is in progress may have both held by the thread that
    serves one of them."""
    client = stack.enter_context(fcgi.Client(pool.path))
    client.send(fcgi.request_bytes(**kw))
    return client


@pytest.mark.parametrize("signalled", ["manager", "worker"])
def test_requests_in_several_threads_are_all_finished(site: Any, signalled: str) -> None:
    pool = site("threaded", 1, options={"maxThreads": 6})
    with ExitStack() as stack:
        clients, pids = [], set()
        for number in range(5):
            clients.append(in_progress(pool, stack, path=f"/wait?{number}", keep=number % 2 == 0))
            pids.add(pool.busy())
        assert len(pids) == 1
        if signalled == "manager":
            pool.script.signal(signal.SIGTERM)
            pool.script.wait_log("received signal TERM")
        else:
            os.kill(pids.copy().pop(), signal.SIGTERM)
        for left in range(5):
            assert sum(not client.readable(0.02) for client in clients) == 5 - left
            pool.go_on()
            wait_until(lambda done=left + 1: sum(client.readable() for client in clients) == done)  # type: ignore[misc]
        for number, client in enumerate(clients):
            assert client.read_reply().text == f"{next(iter(pids))} {number}"
            assert client.at_eof()
    wait_dead(next(iter(pids)))
    if signalled == "worker":
        pool.script.signal(signal.SIGTERM)
    assert pool.script.wait() == 0


def test_more_connections_than_threads(site: Any) -> None:
    """What no thread is free for stays where another worker can take it, and everybody is served in the end."""
    pool = site("threaded", 2, options={"maxThreads": 2})
    with ExitStack() as stack:
        clients, running = [], []
        for _ in range(4):
            clients.append(in_progress(pool, stack, path="/wait"))
            running.append(pool.busy())
        assert sorted(running.count(pid) for pid in set(running)) == [2, 2]
        clients += [in_progress(pool, stack, path="/wait") for _ in range(6)]
        pool.go_on(10)
        for client in clients:
            assert client.read_reply().ended
    pool.stop()


@kinds
def test_manager_killed(site: Any, kind: str) -> None:
    """Idle workers leave at once, a busy one after its reply."""
    pool = site(kind, 2)
    with fcgi.Client(pool.path) as client:
        client.send(fcgi.request_bytes(path="/wait"))
        busy = pool.busy()
        (idle,) = set(pool.script.workers()) - {busy}
        pool.script.signal(signal.SIGKILL)
        pool.script.wait()
        wait_dead(idle)
        assert alive(busy)
        pool.go_on()
        assert client.read_reply().ended
    pool.script.tree_gone()
    os.unlink(pool.path)


@kinds
def test_reloads_under_load(site: Any, kind: str) -> None:
    pool = site(kind, 2)
    failures: list[str] = []
    over = threading.Event()

    def ask(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            try:
                reply = fcgi.fetch(pool.path, f"/?{number}.{count}")
            except OSError as error:
                failures.append(repr(error))
                return
            if not reply.ended or reply.text.split()[1] != f"{number}.{count}":
                failures.append(repr(reply))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        before = set(pool.script.workers())
        pool.script.signal(signal.SIGHUP)
        wait_until(lambda old=before: not old & set(pool.script.workers()))  # type: ignore[misc]
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    pool.stop()


# Where it listens


@kinds
def test_descriptor_zero(site: Any, kind: str, sock_path: str) -> None:
    """Handed over by a spawner."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock_path)
        listener.listen()
        pool = site(kind, 2, address="", stdin=listener)
        assert fcgi.fetch(sock_path).ended
        assert json.loads(fcgi.fetch(sock_path, "/zero").body)[1].startswith("socket:")
        pool.stop()
    assert os.path.exists(sock_path)
    os.unlink(sock_path)


@kinds
def test_what_the_manager_listens_on(site: Any, kind: str, sock_path: str) -> None:
    """bindAddress None: the listener is on descriptor 0 of each worker, as a FastCGI application expects it."""
    pool = site(kind, 2, address="", listen=sock_path)
    assert fcgi.fetch(sock_path).ended
    assert json.loads(fcgi.fetch(sock_path, "/zero").body)[1].startswith("socket:")
    pool.stop()
    assert not os.path.exists(sock_path)


@kinds
@pytest.mark.parametrize(("number", "returned"), [(signal.SIGTERM, False), (signal.SIGHUP, True)])
def test_single_process(site: Any, kind: str, number: int, returned: bool) -> None:
    """With 0 processes it serves by itself, and returns what flup's run() returns."""
    pool = site(kind, 0)
    with fcgi.Client(pool.path) as client:
        reply = wait_until(lambda: client.request(keep=True))
        assert reply.ended
        assert reply.text.split()[0] == str(pool.script.pid)
        pool.script.signal(number)
        assert client.at_eof()
    assert pool.script.line() == f"returned {returned}"
    assert pool.script.wait() == 0
    assert not os.path.exists(pool.path)


@kinds
def test_umask(site: Any, kind: str) -> None:
    pool = site(kind, 1, options={"umask": 0o077})
    assert os.stat(pool.path).st_mode & 0o777 == 0o700
    pool.stop()


@kinds
def test_nothing_is_said_about_defects(site: Any, kind: str) -> None:
    pool = site(kind, 2)
    for _ in range(20):
        assert fcgi.fetch(pool.path, "/read", body=b"x" * 100).ended
        with fcgi.Client(pool.path) as client:
            client.send(fcgi.request_bytes(path="/read", body=b"x" * 100)[:-50])
    pool.stop()
    assert not re.search(r"Traceback|Error", pool.script.log())
