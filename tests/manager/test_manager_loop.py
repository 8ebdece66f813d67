"""What a part of the manager's loop may do: wait, take turns, have children of its own, hold a stop back."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Callable

import pytest

from harness.process import Script, alive, children, wait_dead, wait_until

Run = Callable[..., Script]

HEAD = """
import os, signal, sys
from harness.inside import idle, say
from harness.process import patient
from fcgi_procmanager import *
from fcgi_procmanager.basics.clock import FOREVER, monotonic
from fcgi_procmanager.children.launch import Program
from fcgi_procmanager.manager.parts import PoolPart

class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        say("manager_init")
    def server_init(self):
        super().server_init()
        say("server_init")
"""

TELLS = """
class Tells(PoolPart):
    def begin(self, half): say("begin", len(half.registry))
    def stop(self): say("stop")
    def last_line(self, status): say("last line", status)
    def close(self): say("close")
    def forked(self): say("forked", signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
    def prepare_worker(self): say("prepare")
"""

# A part whose child is a program: it says how the child ended, and starts it once.
HAS_A_CHILD = """
class Keeper(PoolPart):
    kind = "helper"
    def __init__(self, *arguments):
        self.arguments = arguments
    def begin(self, half):
        self.half = half
        self.child = half.execute(Program(self.arguments, {"PATH": os.environ["PATH"]}), self.kind)
        say(self.child.pid)
    def ended(self, child, exit):
        say("ended", child.pid == self.child.pid, exit)

class Other(PoolPart):
    kind = "other helper"
    def ended(self, child, exit):
        say("not mine")
"""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# What it hears of


def test_a_part_hears_of_all_that_happens_in_its_order(run_script: Run) -> None:
    script = run_script(
        HEAD
        + TELLS
        + """
manager = Manager(1)
manager._attend(Tells())
manager.manage()
say("worker")
idle(manager)
"""
    )
    assert script.lines(6) == ["manager_init", "begin 0", "forked True", "prepare", "server_init", "worker"]
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert script.output().split("\n")[:3] == ["stop", "close", "last line 0"]


WAYS_OUT = {
    "quit": ("", "idle(manager)", 1),
    "nobody can start": ("def prepare_worker(self): sys.exit(3)", "", 1),
    "a worker refuses": ("def prepare_worker(self): raise BootError('no such thing')", "", 2),
    "begin raises": ("def begin(self, half): raise ConfigError('not so')", "", 1),
    "turn raises": ("def turn(self, now): raise RuntimeError('broken')", "idle(manager)", 1),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_part_is_closed_on_every_way_out(run_script: Run, way: str) -> None:
    body, end, status = WAYS_OUT[way]
    script = run_script(
        HEAD
        + f"""
class Closed(PoolPart):
    def close(self): say("close")
    {body}
manager = ProcManager(2)
manager._attend(Closed())
manager.manage()
say("worker")
{end}
"""
    )
    if way == "quit":
        assert script.lines(2) == ["worker", "worker"]
        script.signal(signal.SIGQUIT)
    assert script.wait() == status
    script.tree_gone()
    assert "close" in script.output().split("\n")


# Turns


def test_a_part_has_its_turn_at_its_time_and_the_loop_sleeps_until_then(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Timer(PoolPart):
    turns = 0
    next_at = monotonic() + 0.3
    def turn(self, now):
        self.turns += 1
        if now >= self.next_at:
            say("due", now - self.next_at < patient(3), self.turns)
            self.next_at = FOREVER
        return False
manager = ProcManager(1)
manager._attend(Timer())
manager.manage()
idle(manager)
"""
    )
    word, in_time, turns = script.line().split()
    assert (word, in_time) == ("due", "True")
    # Each report and signal is a turn, and a look before each wait: a loop that spins has thousands in this time.
    assert int(turns) < 30
    assert script.stop() == 0


def test_a_descriptor_of_a_part_wakes_the_loop(run_script: Run, pipe: tuple[int, int]) -> None:
    script = run_script(
        HEAD
        + """
os.set_blocking(0, False)
class Reader(PoolPart):
    def descriptors(self):
        return (0,)
    def turn(self, now):
        try:
            say("read", os.read(0, 100).decode())
        except BlockingIOError:
            pass
        return False
manager = ProcManager(1)
manager._attend(Reader())
manager.manage()
say("worker")
idle(manager)
""",
        stdin=pipe[0],
    )
    assert script.line() == "worker"
    for word in ("one", "two"):
        os.write(pipe[1], word.encode())
        assert script.line() == f"read {word}"
    assert script.stop() == 0


def test_a_part_can_have_the_pool_looked_at(run_script: Run, pipe: tuple[int, int]) -> None:
    """True from its turn: what it has changed is acted on now, not at the next signal."""
    script = run_script(
        HEAD
        + """
class Sizing(PoolPart):
    called = ()
    def descriptors(self):
        return self.called
    def begin(self, half):
        self.called = (0,)
    def turn(self, now):
        if not self.called or not manager.server_pids:
            return False
        manager.n_processes = int(os.read(0, 1))
        self.called = ()
        return True
manager = ProcManager(1)
manager._attend(Sizing())
manager.manage()
idle(manager)
""",
        stdin=pipe[0],
    )
    script.wait_log("initialized", count=2)
    os.write(pipe[1], b"3")
    script.wait_log("server .* initialized", count=3)
    assert script.stop() == 0


def test_a_part_that_always_wants_the_pool_looked_at_keeps_nobody_from_being_reaped(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Restless(PoolPart):
    next_at = 0
    def turn(self, now):
        return True
manager = ProcManager(2)
manager._attend(Restless())
manager.manage()
say(os.getpid())
idle(manager)
"""
    )
    first, _ = script.lines(2)
    script.signal(signal.SIGKILL, int(first))
    script.wait_log(rf"server \(pid {first}\) exited with status 137")
    script.line()
    assert script.stop() == 0


# Children of its own


@pytest.mark.parametrize(
    ("command", "end"), [("exit 0", "0"), ("exit 3", "3"), ("kill -SEGV $$", "139 (SIGSEGV)")], ids=["0", "3", "SEGV"]
)
def test_the_end_of_its_child_is_announced_and_told_to_it_alone(run_script: Run, command: str, end: str) -> None:
    script = run_script(
        HEAD
        + HAS_A_CHILD
        + f"""
manager = ProcManager(2)
manager._attend(Other())
manager._attend(Keeper("/bin/sh", "-c", {command!r}))
manager.manage()
idle(manager)
"""
    )
    pid = script.line()
    assert script.line() == f"ended True {end}"
    script.wait_log(
        rf"^FastCGI: manager \(pid {script.pid}\): helper \(pid {pid}\) exited with status {re.escape(end)}$"
    )
    script.wait_log("server .* initialized", count=2)
    assert script.stop() == 0
    assert "in a row failed" not in script.log()
    assert script.output() == ""


def test_its_child_is_no_worker(run_script: Run, pipe: tuple[int, int]) -> None:
    """Not one that is counted, reloaded, or in `server_pids`."""
    script = run_script(
        HEAD
        + HAS_A_CHILD
        + """
class Manager(ProcManager):
    told = False
    def wait(self):
        if len(self.server_pids) == 2 and not self.told:
            self.told = True
            say("servers", keeper.child.pid in self.server_pids)
        return super().wait()
manager = Manager(2)
keeper = Keeper("/bin/cat")
manager._attend(keeper)
manager.manage()
idle(manager)
""",
        stdin=pipe[0],
    )
    helper = int(script.line())
    assert script.line() == "servers False"
    script.wait_log("server .* initialized", count=2)
    script.signal(signal.SIGHUP)
    script.wait_log("server .* initialized", count=4)
    assert alive(helper)
    sent = script.wait_log("sending TERM to PIDs, (.*)$")[0][1].split()
    assert len(sent) == 2
    assert str(helper) not in sent
    assert script.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
def test_its_child_does_not_outlive_the_manager(run_script: Run, pipe: tuple[int, int], how: signal.Signals) -> None:
    script = run_script(
        HEAD
        + HAS_A_CHILD
        + """
manager = ProcManager(1)
manager._attend(Keeper("/bin/cat"))
manager.manage()
say("worker")
idle(manager)
""",
        stdin=pipe[0],
    )
    helper = int(script.line())
    assert script.line() == "worker"
    assert helper in children(script.pid)
    assert script.stop(how) == (0 if how == signal.SIGTERM else 1)
    wait_dead(helper)
    assert script.line() == "ended True 137 (SIGKILL)"


def test_a_program_that_cannot_be_run_is_an_error_and_no_child(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Keeper(PoolPart):
    kind = "helper"
    def begin(self, half):
        try:
            half.execute(Program(["/no/such"], {}), self.kind)
        except OSError as error:
            say(error.filename, len(half.registry))
    def ended(self, child, exit):
        say("not there")
manager = ProcManager(1)
manager._attend(Keeper())
manager.manage()
say("worker")
idle(manager)
"""
    )
    assert script.lines(2) == ["/no/such 0", "worker"]
    assert script.stop() == 0
    assert script.output() == ""


# A stop


HOLDS = """
class Holds(PoolPart):
    holds_stop = True
    def stop(self): say("stop")
    def descriptors(self): return (0,) if self.holds_stop else ()
    def turn(self, now):
        if os.get_blocking(0):
            os.set_blocking(0, False)
        try:
            self.holds_stop = not os.read(0, 1)
        except BlockingIOError:
            pass
        return not self.holds_stop
manager = ProcManager(1, die_timeout={timeout})
manager._attend(Holds())
manager.manage()
say("worker")
idle(manager)
"""


def test_a_part_that_has_something_to_finish_is_waited_for_before_the_workers(
    run_script: Run, pipe: tuple[int, int]
) -> None:
    script = run_script(HEAD + HOLDS.format(timeout=60), stdin=pipe[0])
    assert script.line() == "worker"
    (worker,) = script.workers()
    script.signal(signal.SIGTERM)
    assert script.line() == "stop"
    with pytest.raises(AssertionError):
        wait_until(lambda: "sending TERM" in script.log() or not alive(worker), 0.3)
    os.write(pipe[1], b"x")
    script.wait_log("sending TERM to PIDs")
    assert script.wait() == 0


def test_quit_does_not_wait_for_it(run_script: Run, pipe: tuple[int, int]) -> None:
    script = run_script(HEAD + HOLDS.format(timeout=60), stdin=pipe[0])
    assert script.line() == "worker"
    script.signal(signal.SIGTERM)
    assert script.line() == "stop"
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1
    script.tree_gone()


def test_nobody_waits_for_it_when_no_worker_is_left(run_script: Run, pipe: tuple[int, int]) -> None:
    """It is there for them: when they are gone, there is nothing to finish."""
    script = run_script(HEAD + HOLDS.format(timeout=60), stdin=pipe[0])
    assert script.line() == "worker"
    (worker,) = script.workers()
    script.signal(signal.SIGTERM)
    assert script.line() == "stop"
    script.signal(signal.SIGKILL, worker)
    script.tree_gone()
