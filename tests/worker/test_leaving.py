"""How a worker is told to leave when the application has touched its handlers, and what it says when it leaves."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Callable

import pytest

from harness.fcgi import Client, fetch, request_bytes
from harness.process import Script, wait_asleep

Run = Callable[..., Script]

HEAD = """
import os, signal, sys
from harness.inside import say
from fcgi_procmanager import *
from fcgi_procmanager.limits import Limits

def busy():
    say("busy", os.getpid())
    os.read(0, 1)

HANDLERS = {"default": signal.SIG_DFL, "ignore": signal.SIG_IGN, "own": lambda *_: None}
def replace():
    signal.signal(signal.SIGTERM, HANDLERS[sys.argv[2]])
"""

SITE = (
    HEAD
    + """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/replace":
        replace()
    if environ["PATH_INFO"] == "/busy":
        busy()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]
"""
)

SERVER = (
    SITE
    + """
manager = Limits(1, max_requests=int(os.environ["MAX"]))
WSGIServer(app, manager=manager, bindAddress=sys.argv[1], drain_timeout=0.3).run()
"""
)

LOOP = (
    SITE
    + """
manager = Limits(1, max_requests=int(os.environ["MAX"]))
manager.listen(sys.argv[1])
manager.manage()
fcgi = FastCGI(manager=manager, drain_timeout=0.3)
while request := fcgi.accept():
    manager.pre_dispatch()
    app(request.params, lambda *_: None)
    request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nanswered")
    request.finish()
    manager.post_dispatch()
"""
)


@pytest.fixture
def stdin() -> Iterator[tuple[int, int]]:
    """A pipe: each byte ends one busy request."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# Handlers that the application has replaced


@pytest.mark.parametrize("handler", ["default", "ignore", "own"])
@pytest.mark.parametrize("source", [SERVER, LOOP], ids=["server", "loop"])
def test_a_handler_that_the_application_replaced_is_taken_back_at_the_next_request(
    run_script: Run, sock_path: str, stdin: tuple[int, int], source: str, handler: str
) -> None:
    """A library that sets TERM in a request must not make it kill the next one, nor make the worker deaf."""
    script = run_script(source, env={"MAX": "0"}, args=[sock_path, handler], stdin=stdin[0])
    script.wait_log("server .*: initialized")
    assert fetch(sock_path, "/replace").text == "answered"
    with Client(sock_path) as client:
        client.send(request_bytes(path="/busy"))
        worker = int(script.line().split()[1])
        script.signal(signal.SIGTERM, worker)
        os.write(stdin[1], b"x")
        assert client.read_reply().text == "answered"
    script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
    script.wait_log("server .*: initialized", count=2)
    assert script.stop() == 0


# Why it left


@pytest.mark.parametrize("source", [SERVER, LOOP], ids=["server", "loop"])
@pytest.mark.parametrize("beside", ["nothing", "a silent connection", "a kept connection"])
def test_a_worker_says_once_that_it_has_served_enough(
    run_script: Run, sock_path: str, source: str, beside: str
) -> None:
    """However it leaves: from the hook after its last request, or from the loop, when others had to be waited for."""
    script = run_script(source, env={"MAX": "2"}, args=[sock_path])
    script.wait_log("server .*: initialized")
    (worker,) = script.workers()
    with Client(sock_path) as other:
        if beside == "nothing":
            other.close()
        if beside != "a kept connection":
            fetch(sock_path)
        else:
            assert other.request(keep=True).text == "answered"
        assert fetch(sock_path).text == "answered"
        script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
    assert why_it_left(script, worker) == ["safe exit after max_requests (2)"]
    script.wait_log("server .*: initialized", count=2)
    assert script.stop() == 0


@pytest.mark.parametrize("source", [SERVER, LOOP], ids=["server", "loop"])
@pytest.mark.parametrize("when", ["idle", "busy"])
@pytest.mark.parametrize("beside", ["nothing", "a silent connection", "a kept connection"])
def test_a_worker_says_once_that_it_was_told_to_leave_in_a_request(
    run_script: Run, sock_path: str, stdin: tuple[int, int], source: str, when: str, beside: str
) -> None:
    """Once if it was told during a request, however it leaves. An idle one leaves silently, as in the original."""
    script = run_script(source, env={"MAX": "0"}, args=[sock_path], stdin=stdin[0])
    script.wait_log("server .*: initialized")
    (worker,) = script.workers()
    with Client(sock_path) as other, Client(sock_path) as client:
        if beside == "nothing":
            other.close()
        if beside == "a kept connection":
            assert other.request(keep=True).text == "answered"
        client.send(request_bytes(path="/busy"))
        script.line()
        if when == "busy":
            script.signal(signal.SIGTERM, worker)
        os.write(stdin[1], b"x")
        assert client.read_reply().text == "answered"
        if when == "idle":
            wait_asleep(worker)
            script.signal(signal.SIGTERM, worker)
        script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
    assert why_it_left(script, worker) == (["safe exit after SIGTERM"] if when == "busy" else [])
    script.wait_log("server .*: initialized", count=2)
    assert script.stop() == 0


@pytest.mark.parametrize("order", [("HUP", "TERM"), ("TERM", "HUP")])
def test_a_worker_that_got_both_names_term(
    run_script: Run, sock_path: str, stdin: tuple[int, int], order: tuple[str, str]
) -> None:
    script = run_script(SERVER, env={"MAX": "0"}, args=[sock_path], stdin=stdin[0])
    script.wait_log("server .*: initialized")
    with Client(sock_path) as client:
        client.send(request_bytes(path="/busy"))
        worker = int(script.line().split()[1])
        for name in order:
            script.signal(signal.Signals[f"SIG{name}"], worker)
        os.write(stdin[1], b"x")
        assert client.read_reply().text == "answered"
    script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
    assert why_it_left(script, worker) == ["safe exit after SIGTERM"]
    script.wait_log("server .*: initialized", count=2)
    assert script.stop() == 0


def why_it_left(script: Script, worker: int) -> list[str]:
    return re.findall(rf"^FastCGI: server \(pid {worker}\): (safe exit.*)$", script.log(), re.MULTILINE)
