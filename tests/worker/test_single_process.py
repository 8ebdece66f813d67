"""The only process, without a manager: which signal wins, and what becomes of one that came too late."""

from __future__ import annotations

import os
import signal
from typing import Callable

import pytest

from harness.fcgi import Client, request_bytes
from harness.process import Script

Run = Callable[..., Script]

HEAD = """
import os, signal, sys
from harness.inside import say
from fcgi_procmanager import *

manager = ProcManager(0)
"""


@pytest.mark.parametrize(
    ("order", "returned"),
    [
        (("HUP", "TERM"), False),
        (("TERM", "HUP"), False),
        (("HUP", "INT"), False),
        (("INT", "HUP"), False),
        (("HUP",), True),
    ],
)
def test_a_stop_beats_a_reload_in_a_single_process(
    run_script: Run, sock_path: str, order: tuple[str, ...], returned: bool
) -> None:
    """Both during one request: `while server.run(): pass` must end."""
    read_end, write_end = os.pipe()
    try:
        script = run_script(
            HEAD
            + """
def app(environ, start_response):
    say("busy")
    os.read(0, 1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"answered"]
server = WSGIServer(app, bindAddress=sys.argv[1])
say("listening")
say("run", server.run())
""",
            args=[sock_path],
            stdin=read_end,
        )
        script.line()
        client = connect(sock_path)
        with client:
            client.send(request_bytes())
            assert script.line() == "busy"
            for name in order:
                script.signal(signal.Signals[f"SIG{name}"])
            os.write(write_end, b"x")
            assert client.read_reply().text == "answered"
        assert script.line() == f"run {returned}"
        assert script.wait() == 0
    finally:
        os.close(read_end)
        os.close(write_end)


def connect(path: str) -> Client:
    """A connection, once somebody listens there."""
    from harness.process import wait_until

    def attempt() -> Client | None:
        try:
            return Client(path)
        except OSError:
            return None

    client = wait_until(attempt, 60, "a server that listens")
    assert client is not None
    return client


TOO_LATE = (
    HEAD
    + """
count = 0
def own(*_):
    global count
    count += 1
number = getattr(signal, "SIG" + sys.argv[1])
signal.signal(number, own)
with manager._single_process():
    {inside}
say(count, signal.getsignal(number) is own)
"""
)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_that_nobody_has_acted_on_is_given_to_the_handler_that_is_put_back(run_script: Run, name: str) -> None:
    """It came in the last moments: noted by our handler, after the last look. Without this it would be lost."""
    script = run_script(TOO_LATE.format(inside="signal.raise_signal(number)"), args=[name])
    assert script.line() == "1 True"
    assert script.wait() == 0


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_that_was_acted_on_is_not_given_again(run_script: Run, name: str) -> None:
    inside = "signal.raise_signal(number); say(manager.leaving)"
    script = run_script(TOO_LATE.format(inside=inside), args=[name])
    assert script.lines(2) == ["True", "0 True"]
    assert script.wait() == 0


def test_a_late_term_without_a_handler_ends_the_process(run_script: Run) -> None:
    """The handler that is put back is the system's: what would have happened a moment later, happens."""
    script = run_script(
        HEAD + "with manager._single_process():\n    signal.raise_signal(signal.SIGTERM)\nsay('alive')\n"
    )
    assert script.wait() == -signal.SIGTERM
    assert script.output() == ""
