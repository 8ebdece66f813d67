"""Threads in a worker: requests overlap, and a stop, a limit or a dead manager are as gentle as with one."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack

import pytest

from harness.fcgi import Client, fetch, request_bytes
from harness.process import wait_until

SCRIPT = """
    import os, sys, threading, time
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import restarts, say

    class Manager(ProcManager):
        def pre_dispatch(self):
            super().pre_dispatch()
            self.seen = getattr(self, "seen", 0) + 1
        def post_dispatch(self):
            if environ_limit and self.seen >= environ_limit:
                self.retire_self("safe exit after enough")
            super().post_dispatch()

    environ_limit = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    meeting = threading.Barrier(int(sys.argv[2]))

    def app(environ, start_response):
        assert environ["wsgi.multithread"] is True
        what = environ["QUERY_STRING"]
        if what == "meet":
            say("in")
            meeting.wait(60)
        elif what == "wait":
            say("in", os.getpid())
            os.read(int(environ["X_FD"]), 1) if "X_FD" in environ else time.sleep(0.5)
        elif what == "exit":
            sys.exit(3)
        flag = restarts(15)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{os.getpid()} {flag}".encode()]

    manager = Manager(n_processes=int(os.environ.get("N", "1")), die_timeout=60)
    WSGIServer(app, manager=manager, bindAddress=sys.argv[1], threads=int(sys.argv[2]), drain_timeout=60).run()
"""


def together(count, path, query):
    """What that many clients get that ask at once, one after the other: each has sent before the next connects."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(stack.enter_context(Client(path)))
            clients[-1].send(request_bytes({"QUERY_STRING": query}))
        return [client.read_reply() for client in clients]


@pytest.fixture
def start(run_script, sock_path):
    def start(threads=4, limit=0, **environ):
        script = run_script(SCRIPT, args=[sock_path, str(threads), str(limit)], env=environ)
        script.wait_ready(int(environ.get("N", "1")))
        return script

    return start


def test_requests_of_one_worker_overlap(start, sock_path):
    script = start(threads=4)
    replies = together(4, sock_path, "meet")
    assert [reply.status for reply in replies] == [200] * 4
    assert {reply.text.split()[1] for reply in replies} == {"True"}, "SA_RESTART is set while a request is in progress"
    assert script.stop() == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_every_reply_is_finished_before_the_worker_leaves(start, sock_path, sent):
    script = start(threads=4)
    replies = []
    asking = threading.Thread(target=lambda: replies.extend(together(4, sock_path, "wait")))
    asking.start()
    pid = int(script.lines(4)[0].split()[1])
    script.signal(sent, pid)
    asking.join(100)
    assert [reply.ended for reply in replies] == [True] * 4
    script.wait_log(rf"server \(pid {pid}\) exited with status 0")
    assert script.stop() == 0


def test_an_idle_worker_leaves_at_once(start):
    script = start(threads=8)
    assert script.stop() == 0
    assert "KILL" not in script.log()


def test_kept_connections_do_not_hold_up_a_stop(start, sock_path):
    script = start(threads=4)
    with Client(sock_path) as one, Client(sock_path) as two:
        assert one.request(keep=True).ended
        assert two.request(keep=True).ended
        assert script.stop() == 0


def test_a_killed_manager_takes_its_threads_along(start, sock_path):
    script = start(threads=4)
    workers = script.workers()
    script.signal(signal.SIGKILL)
    script.tree_gone()
    assert workers
    os.unlink(sock_path)  # nobody was left to do it


def test_a_limit_reached_in_a_thread_replaces_the_worker(start, sock_path):
    script = start(threads=3, limit=5)
    first = fetch(sock_path).text.split()[0]
    wait_until(lambda: fetch(sock_path).text.split()[0] != first, what="another worker")
    script.wait_log("safe exit after enough|exited with status 0")
    assert script.stop() == 0


def test_an_application_that_exits_in_a_thread(start, sock_path):
    script = start(threads=3)
    assert fetch(sock_path, QUERY_STRING="exit").status == 500
    script.wait_log("exited with status 3")
    assert fetch(sock_path).status == 200
    assert script.stop() == 0


def test_reloads_under_load_lose_nothing(start, sock_path):
    script = start(threads=3, N="2")
    stop = threading.Event()
    failures, served = [], []

    def ask():
        while not stop.is_set():
            reply = fetch(sock_path)
            (served if reply.ended and reply.status == 200 else failures).append(reply)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(1, 6):
        script.signal(signal.SIGHUP)
        script.wait_log(r"server \(pid \d+\) started", count=2 + 2 * round_)
    stop.set()
    for thread in threads:
        thread.join(100)
    assert not failures
    assert served
    assert script.stop() == 0
