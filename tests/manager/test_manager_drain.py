"""`drain_delay`: after a TERM the pool serves on for a while, and only then the stop begins."""

from __future__ import annotations

import re
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import ConfigError, ProcManager
from harness import fcgi
from harness.notify import Notified
from harness.process import Script, wait_until

Run = Callable[..., Script]

# Longer than any test takes: what has to end sooner is ended by something else.
LONG = 300

POOL = """
import os, sys
from fcgi_procmanager import *

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

manager = ProcManager(2, drain_delay=float(sys.argv[2]), reload="rolling", pidfile="pid")
WSGIServer(app, manager=manager, bindAddress=sys.argv[1]).run()
"""

BOOTING = """
import os, sys, time
from fcgi_procmanager import *

class Manager(ProcManager):
    def server_init(self):
        while not self.leaving:
            time.sleep(0.005)

manager = Manager(1, drain_delay=float(sys.argv[1]))
manager.manage()
"""


@pytest.fixture
def pool(run_script: Run, sock_path: str, tmp_path: Path) -> Callable[..., Script]:
    def start(delay: float, **kw: object) -> Script:
        script = run_script(POOL, args=[sock_path, delay], cwd=tmp_path, **kw)
        script.wait_ready(2)
        return script

    return start


def test_it_serves_on_and_then_stops_as_ever(pool: Callable[..., Script], sock_path: str) -> None:
    delay = 6.5  # in which the request has to be answered
    script = pool(delay)
    begin = time.monotonic()
    script.signal(signal.SIGTERM)
    script.wait_log("draining: serving for 6.5 s more")
    assert int(fcgi.fetch(sock_path).text) in script.workers()
    assert script.wait() == 0
    assert time.monotonic() - begin >= delay
    script.tree_gone()
    told = [line.partition("): ")[2] for line in script.log().splitlines() if "manager" in line]
    assert told[-5:-4] == ["draining: serving for 6.5 s more"], script.log()
    assert told[-1] == "dying: safe exit from signal TERM"


def test_the_dead_are_replaced_meanwhile(pool: Callable[..., Script], sock_path: str) -> None:
    script = pool(LONG)
    script.signal(signal.SIGINT)
    script.wait_log("draining")
    old = script.workers()
    for pid in old:
        script.signal(signal.SIGKILL, pid)
    wait_until(lambda: len(now := script.workers()) == 2 and not {*old} & {*now}, 60, "new workers")
    assert int(fcgi.fetch(sock_path).text) not in old
    assert script.stop(signal.SIGQUIT) == 1


def test_a_reload_means_nothing_any_more_and_the_size_can_be_set(pool: Callable[..., Script]) -> None:
    script = pool(LONG)
    script.signal(signal.SIGTERM)
    script.wait_log("draining")
    old = script.workers()
    script.signal(signal.SIGHUP)
    script.signal(signal.SIGTTIN)  # which comes after it
    assert {*old} < {*script.wait_workers(3)}
    script.wait_ready(3)
    assert "sending TERM" not in script.log()
    assert script.stop(signal.SIGQUIT) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_who_insists_ends_it_at_once(pool: Callable[..., Script], number: signal.Signals) -> None:
    script = pool(LONG)
    begin = time.monotonic()
    script.signal(signal.SIGTERM)
    script.wait_log("draining")
    while script.process.poll() is None:  # the same once more within a second is the same request
        assert time.monotonic() < begin + 20
        script.signal(number)
        time.sleep(0.05)
    assert number == signal.SIGQUIT or time.monotonic() - begin >= 1
    assert script.wait() == 1
    script.tree_gone()
    name = number.name[3:]
    assert re.search(f"received signal {name} while draining: killing 2 servers$", script.log(), re.MULTILINE)
    assert script.log().endswith(f"exit at once from signal {name}\n")


def test_who_insists_when_the_delay_is_just_over_need_not_wait_a_second_more(run_script: Run, tmp_path: Path) -> None:
    deaf = "\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()\n"
    source = (
        "import signal\nfrom fcgi_procmanager import *\nmanager = ProcManager(1, drain_delay=1.1)\nmanager.manage()"
    )
    script = run_script(source + deaf, cwd=tmp_path)
    script.wait_ready()
    script.signal(signal.SIGTERM)
    script.wait_log("sending TERM")
    script.signal(signal.SIGTERM)
    assert script.wait() == 1
    assert "while stopping: killing 1 servers" in script.log()


def test_a_pool_that_does_not_serve_yet_stops_at_once(run_script: Run, tmp_path: Path) -> None:
    script = run_script(BOOTING, args=[LONG], cwd=tmp_path)
    script.wait_log("server .*started")
    assert script.stop(signal.SIGTERM) == 0
    assert "draining" not in script.log()


def test_systemd_knows_at_once(pool: Callable[..., Script], sock_path: str) -> None:
    with closing(Notified()) as notified:
        script = pool(LONG, env=notified.environment)
        notified.wait("READY")
        script.signal(signal.SIGTERM)
        stopping = notified.wait("STOPPING")
        assert stopping["STATUS"] == "draining: 2 of 2 servers ready"
        assert "EXTEND_TIMEOUT_USEC" in stopping
        notified.wait("EXTEND_TIMEOUT_USEC")
        assert script.stop(signal.SIGQUIT) == 1
        notified.hear(0)
        assert notified.states().count("STOPPING") == 1


@pytest.mark.parametrize("value", ["1", -1, None, True, float("inf")])
def test_what_is_no_delay_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^drain_delay must "):
        ProcManager(1, drain_delay=value)  # type: ignore[arg-type]
