"""The one place that forks: signals around the fork, and what a program finds when it is executed. Real children."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager.children import launch
from fcgi_procmanager.children.launch import Program
from fcgi_procmanager.system import atfork, signals
from harness.process import (
    Script,
    children,
    cmdline,
    open_fds,
    process_state,
    signal_masks,
    wait_asleep,
    wait_dead,
)
from harness.tools import require

Run = Callable[..., Script]

# A process with handlers of its own for what a manager handles: they must never run in a child.
HEAD = """
import os, random, signal, sys, time
from collections import Counter
from fcgi_procmanager.children import launch
from fcgi_procmanager.children.launch import Program
from fcgi_procmanager.system import signals
from harness.inside import say

OWNER = os.getpid()
heard = []

def of_the_parent(signum, frame):
    if os.getpid() != OWNER:
        os._exit(99)
    heard.append(signum)

for name in signals.MANAGER_SIGNALS:
    signal.signal(signals.number(name), of_the_parent)

def of_the_child(signum, frame):
    os._exit(7)

def until_told(mask):
    signal.signal(signal.SIGTERM, of_the_child)
    signals.unblock(mask)
    while True:
        time.sleep(0.01)  # a handler that is due just before a wait runs after it

def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

def end_of(pid):
    return os.waitpid(pid, 0)[1]
"""


# The fork


def test_a_fork_returns_the_recorded_pid_in_the_parent_and_nothing_in_the_child(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
recorded = []
pid = launch.fork(recorded.append, lambda mask: (signals.unblock(mask), say("mask", mask == set())))
if pid == 0:
    say("child", recorded, os.getppid() == OWNER)
    os._exit(3)
say("parent", recorded == [pid], os.waitstatus_to_exitcode(end_of(pid)))
"""
    )
    assert script.lines(3) == ["mask True", "child [] True", "parent True 3"]
    assert script.wait() == 0


def test_a_signal_to_the_parent_waits_until_the_child_is_recorded(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
recorded = []
def stop(signum, frame):
    say(signal.Signals(signum).name, len(recorded))
def record(pid):
    for number in numbers:
        os.kill(OWNER, number)
    sum(range(1000))  # where the interpreter would run a handler
    recorded.append(pid)

numbers = [signals.number(name) for name in signals.MANAGER_SIGNALS if name != "CHLD"]
numbers += [signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM]
for number in numbers:
    signal.signal(number, stop)
pid = launch.fork(record, until_told)
say("done")
os.kill(pid, signal.SIGTERM)
say(os.waitstatus_to_exitcode(end_of(pid)))
"""
    )
    heard = sorted(iter(script.line, "done"))
    names = ("ALRM", "HUP", "INT", "QUIT", "TERM", "TTIN", "TTOU", "USR1", "USR2")
    assert heard == [f"SIG{name} 1" for name in names]
    assert script.line() == "7"
    assert script.wait() == 0


def test_a_signal_to_the_child_waits_until_the_child_lets_it_in(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
def become(mask):
    for name in signals.MANAGER_SIGNALS:
        os.kill(os.getpid(), signals.number(name))
    sum(range(1000))
    say("not yet")
    until_told(mask)
say(os.waitstatus_to_exitcode(end_of(launch.fork(lambda pid: None, become))))
"""
    )
    # Of the others the handlers are still the parent's here: the child has said what it does at TERM, nothing else.
    assert script.line() == "not yet"
    assert script.line() in ("7", "99")
    assert script.wait() == 0


def test_a_term_at_any_moment_of_its_birth_ends_a_child_by_its_own_handler(run_script: Run) -> None:
    """The moments from its first, in which nobody has its pid yet but the system, to well after it has its handler."""
    script = run_script(
        HEAD
        + """
rng = random.Random(1)
ends = Counter()
for turn in range(300):
    delay = rng.random() * rng.choice([0.0, 0.0003, 0.001, 0.003])
    reading, writing = os.pipe()
    sender = os.fork()
    if sender == 0:
        os.write(writing, b"x")
        family = f"/proc/{OWNER}/task/{OWNER}/children"
        mine = str(os.getpid())
        while not (others := [pid for pid in open(family).read().split() if pid != mine]):
            pass
        spin(delay)
        os.kill(int(others[0]), signal.SIGTERM)
        os._exit(0)
    os.read(reading, 1)  # it looks already
    ends[end_of(launch.fork(lambda pid: None, until_told))] += 1
    os.waitpid(sender, 0)
    os.close(reading)
    os.close(writing)
say(dict(ends), heard.count(signal.SIGTERM))
"""
    )
    assert script.line(100) == f"{{{7 << 8}: 300}} 0"
    assert script.wait() == 0


def test_a_term_at_any_moment_around_a_fork_runs_the_handler_of_the_parent_once(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
rng = random.Random(2)
wrong = []
for turn in range(300):
    before, recorded = heard.count(signal.SIGTERM), []
    delay = rng.random() * rng.choice([0.0003, 0.001, 0.003])
    reading, writing = os.pipe()
    sender = os.fork()
    if sender == 0:
        os.write(writing, b"x")
        spin(delay)
        os.kill(OWNER, signal.SIGTERM)
        os._exit(0)
    os.read(reading, 1)
    pid = launch.fork(recorded.append, until_told)
    os.waitpid(sender, 0)
    sum(range(100))
    if heard.count(signal.SIGTERM) != before + 1 or recorded != [pid]:
        wrong.append(turn)
    os.kill(pid, signal.SIGTERM)
    if end_of(pid) != 7 << 8:
        wrong.append(turn)
    os.close(reading)
    os.close(writing)
say(wrong)
"""
    )
    assert script.line(100) == "[]"
    assert script.wait() == 0


@pytest.mark.parametrize("held", [set(), {signal.SIGUSR1, signal.SIGTERM}])
def test_a_refused_fork_leaves_the_mask_as_it_was(monkeypatch: pytest.MonkeyPatch, held: set[int]) -> None:
    def refuse() -> int:
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    before = signal.pthread_sigmask(signal.SIG_SETMASK, held)
    try:
        with pytest.raises(BlockingIOError):
            launch.fork(pytest.fail, pytest.fail)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == held
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert atfork._forks_by_us == 0


def test_a_fork_that_an_audit_hook_forbids_leaves_the_mask_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is not the only one who can refuse."""

    def refuse() -> int:
        raise RuntimeError("not here")

    monkeypatch.setattr(os, "fork", refuse)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        with pytest.raises(RuntimeError):
            launch.fork(pytest.fail, pytest.fail)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_record_that_fails_leaves_the_mask_as_it_was(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
pids = []
def record(pid):
    pids.append(pid)
    raise LookupError
try:
    launch.fork(record, until_told)
except LookupError:
    say(signal.pthread_sigmask(signal.SIG_BLOCK, []))
os.kill(pids[0], signal.SIGTERM)
say(end_of(pids[0]) >> 8)
"""
    )
    assert script.lines(2) == ["set()", "7"]
    assert script.wait() == 0


def test_what_is_buffered_is_not_written_by_the_child_again(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
sys.stdout.write("once\\n")
if launch.fork(lambda pid: None, signals.unblock) == 0:
    sys.exit()
os.wait()
""",
        env={"PYTHONUNBUFFERED": ""},
    )
    assert script.wait() == 0
    assert script.output() == "once\n"


# A program


class Cat:
    """`cat` as the program: it says back what it is given, and is looked at from outside meanwhile."""

    def __init__(self, descriptors: Mapping[int, int] | None = None, **kw: Any) -> None:
        self.recorded: list[int] = []
        read_end, self._give = os.pipe()
        self._told, write_end = os.pipe()
        try:
            arguments = [require("cat"), "-u", "-"]
            given = {0: read_end, 1: write_end, **(descriptors or {})}
            self.pid = launch.execute(Program(arguments, kw.pop("environment", {}), given, **kw), self.recorded.append)
        finally:
            os.close(read_end)
            os.close(write_end)
        self.say(b"ready\n")  # the new program is in place when it answers

    def say(self, data: bytes) -> None:
        os.write(self._give, data)
        assert os.read(self._told, 100) == data

    def end(self) -> int:
        os.close(self._give)
        assert os.read(self._told, 100) == b""
        os.close(self._told)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self) -> Cat:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.end() == 0


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    """Four descriptors with neighbouring numbers, each of a file of its own."""
    found = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(4)]
    yield found
    for fd in found:
        os.close(fd)


def test_a_program_is_recorded_and_runs_when_execute_returns() -> None:
    with Cat() as cat:
        assert cat.recorded == [cat.pid]
        assert cmdline(cat.pid) == f"{require('cat')} -u -"
        assert cat.pid in children(os.getpid())


@pytest.mark.parametrize(
    "wiring",
    [
        pytest.param([0, None, None, None], id="as it is"),
        pytest.param([1, 0, None, None], id="swapped"),
        pytest.param([1, 2, 3, 0], id="all turned"),
        pytest.param([3, 2, 1, 0], id="reversed"),
        pytest.param([None, 0, 1, 2], id="shifted up"),
        pytest.param([1, 2, 3, None], id="shifted down"),
        pytest.param([2, 2, 2, 2], id="one under many numbers"),
    ],
)
def test_each_descriptor_gets_its_number_whoever_has_it_now(files: list[int], wiring: list[int | None]) -> None:
    wanted = {files[number]: files[ours] for number, ours in enumerate(wiring) if ours is not None}
    targets = open_fds()
    with Cat(wanted) as cat:
        found = open_fds(cat.pid)
        assert {fd: found.get(fd) for fd in wanted} == {fd: targets[ours] for fd, ours in wanted.items()}
        assert set(found) == {0, 1, 2} | set(wanted), "and nothing else"
    assert open_fds() == targets, "ours are where they were"


@pytest.mark.parametrize("offset", range(8))
def test_a_number_that_a_pipe_of_ours_has_during_the_launch_is_as_good_as_any(files: list[int], offset: int) -> None:
    number = files[-1] + 1 + offset
    with Cat({number: files[0]}) as cat:
        found = open_fds(cat.pid)
        assert found[number] == open_fds()[files[0]]
        assert set(found) == {0, 1, 2, number}


def test_the_lowest_numbers_may_be_swapped(run_script: Run, tmp_path: Path) -> None:
    """0 is what the program writes to, 3 what it reads, and in the program it is the other way round."""
    script = run_script(
        HEAD
        + """
reading, writing = os.pipe()
back, told = os.pipe()
high = [os.dup(fd) for fd in (reading, writing, back, told)]
os.closerange(3, 7)
for number, fd in ((3, high[0]), (0, high[3])):
    os.dup2(fd, number)
os.write(high[1], b"round")
for fd in (high[0], high[1], high[3]):
    os.close(fd)
pid = launch.execute(Program(["/bin/sh", "-c", "cat >&3"], {}, {0: 3, 3: 0}), lambda pid: None)
os.close(0)
say(os.read(high[2], 100), os.read(high[2], 100), end_of(pid))
""",
    )
    assert script.line() == "b'round' b'' 0"
    assert script.wait() == 0


def test_a_descriptor_of_ours_that_is_inheritable_is_not_the_programs(files: list[int]) -> None:
    """A spawner's, a C library's, or one that is for another program."""
    os.set_inheritable(files[1], True)
    os.set_inheritable(files[3], True)
    with Cat({files[2]: files[0]}) as cat:
        assert set(open_fds(cat.pid)) == {0, 1, 2, files[2]}


def test_standard_error_is_inherited_unless_it_is_named(files: list[int]) -> None:
    with Cat() as cat:
        assert open_fds(cat.pid)[2] == open_fds()[2]
    with Cat({2: files[0]}) as cat:
        assert open_fds(cat.pid)[2] == open_fds()[files[0]]


@pytest.mark.parametrize("environment", [{}, {"A": "1", "PATH": "/no/such", "B": "x=\udc80 y"}])
def test_the_environment_is_the_whole_of_what_is_given(environment: dict[str, str]) -> None:
    with Cat(environment=environment) as cat:
        found = Path(f"/proc/{cat.pid}/environ").read_bytes().split(b"\0")[:-1]
        assert sorted(found) == sorted(os.fsencode(f"{name}={value}") for name, value in environment.items())


def test_a_name_is_looked_for_on_the_path_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "our-own-cat").symlink_to(require("cat"))
    environment = {"PATH": f"/no/such:{tmp_path}"}
    read_end, write_end = os.pipe()
    pid = launch.execute(Program(["our-own-cat"], environment, {0: read_end}), lambda pid: None)
    os.close(read_end)
    os.close(write_end)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("given", [True, False])
def test_it_starts_in_its_directory(tmp_path: Path, given: bool) -> None:
    with Cat(directory=str(tmp_path) if given else None) as cat:
        assert os.readlink(f"/proc/{cat.pid}/cwd") == (str(tmp_path.resolve()) if given else os.getcwd())


@pytest.mark.parametrize("own", [True, False])
def test_it_has_a_session_of_its_own_when_that_is_asked_for(own: bool) -> None:
    with Cat(session=own) as cat:
        there = (os.getsid(cat.pid), os.getpgid(cat.pid))
        assert there == ((cat.pid, cat.pid) if own else (os.getsid(0), os.getpgrp()))


@pytest.mark.parametrize("ours", [signal.SIG_IGN, lambda *_: None])
def test_no_signal_is_ignored_or_held_in_the_program_whatever_is_ours(ours: Any) -> None:
    numbers = [signals.number(name) for name in (*signals.MANAGER_SIGNALS, "PIPE", "XFSZ") if name != "CHLD"]
    found = {number: signal.signal(number, ours) for number in numbers}
    try:
        with Cat() as cat:
            masks = signal_masks(cat.pid)
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)
    assert (masks["blocked"], masks["caught"], masks["pending"]) == (set(), set(), set())
    assert not masks["ignored"] & {*numbers, signal.SIGCHLD}


# Its end


TELLS_OF_TERM = """
import os, signal
def told(signum, frame):
    os.write(1, b"TERM\\n")
    os._exit(0)
signal.signal(signal.SIGTERM, told)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def pid_of_program(script: Script) -> int:
    """Told by us, once the program waits. It says so itself, sooner or later than we do."""
    said = script.lines(2)
    said.remove("ready")
    wait_asleep(int(said[0]))
    return int(said[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
def test_a_program_that_dies_with_us_gets_term_when_we_are_killed(run_script: Run) -> None:
    script = run_script(
        HEAD
        + f"""
program = Program([sys.executable, "-S", "-c", {TELLS_OF_TERM!r}], {{}}, session=True, death_signal="TERM")
say(launch.execute(program, lambda pid: None))
while True:
    signal.pause()
"""
    )
    pid = pid_of_program(script)
    script.signal(signal.SIGKILL)
    assert script.line() == "TERM"
    wait_dead(pid)


def test_a_program_that_does_not_die_with_us_lives_on(run_script: Run) -> None:
    script = run_script(
        HEAD
        + f"""
program = Program([sys.executable, "-S", "-c", {TELLS_OF_TERM!r}], {{}}, session=True)
say(launch.execute(program, lambda pid: None))
while True:
    signal.pause()
"""
    )
    pid = pid_of_program(script)
    script.signal(signal.SIGKILL)
    script.wait()
    os.kill(pid, signal.SIGTERM)
    assert script.line() == "TERM", "this one only"
    wait_dead(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
def test_a_program_whose_manager_died_too_soon_to_tell_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)
    pid = launch.execute(Program([require("true")], {}, death_signal="TERM"), lambda pid: None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127


def test_a_term_right_after_the_launch_ends_the_program(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
reading, writing = os.pipe()
ends = Counter()
for _ in range(200):
    pid = launch.execute(Program(["/bin/cat"], {}, {0: reading}), lambda pid: None)
    os.kill(pid, signal.SIGTERM)
    ends[end_of(pid)] += 1
say(dict(ends), heard.count(signal.SIGTERM))
"""
    )
    assert script.line(100) == "{15: 200} 0"
    assert script.wait() == 0


@pytest.mark.parametrize("latest", [0.0, 0.0005, 0.004])
def test_a_term_between_the_fork_and_the_program_is_not_lost(run_script: Run, latest: float) -> None:
    """Sent while it is recorded, when it is our copy, with our handlers, for a moment more or for longer."""
    script = run_script(
        HEAD
        + """
rng = random.Random(3)
latest = float(sys.argv[1])
def kill(pid):
    spin(rng.random() * latest)
    os.kill(pid, signal.SIGTERM)
reading, writing = os.pipe()
ends = Counter()
for _ in range(200):
    ends[end_of(launch.execute(Program(["/bin/cat"], {}, {0: reading}), kill))] += 1
say(dict(ends), heard.count(signal.SIGTERM))
""",
        args=[latest],
    )
    assert script.line(100) == "{15: 200} 0"
    assert script.wait() == 0


def test_a_killed_child_is_no_failure_to_run_the_program() -> None:
    pid = launch.execute(Program([require("cat")], {}, {}), lambda pid: os.kill(pid, signal.SIGKILL))
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


# A program that cannot be run


def unreadable(tmp_path: Path) -> Program:
    (tmp_path / "data").write_text("#!/bin/sh\n")
    return Program([str(tmp_path / "data")], {})


def not_a_program(tmp_path: Path) -> Program:
    (tmp_path / "text").write_text("only words\n")
    (tmp_path / "text").chmod(0o755)
    return Program([str(tmp_path / "text")], {})


FAILURES: dict[str, tuple[Callable[[Path], Program], int]] = {
    "no such file": (lambda tmp_path: Program([str(tmp_path / "none")], {}), errno.ENOENT),
    "nowhere on the path": (lambda tmp_path: Program(["none"], {"PATH": str(tmp_path)}), errno.ENOENT),
    "not executable": (unreadable, errno.EACCES),
    "a directory": (lambda tmp_path: Program([str(tmp_path)], {}), errno.EACCES),
    "not a program": (not_a_program, errno.ENOEXEC),
    "too long": (lambda tmp_path: Program(["/bin/sh", "x" * 10_000_000], {}), errno.E2BIG),
    "no such directory": (lambda _: Program(["/bin/sh"], {}, directory="/no/such"), errno.ENOENT),
    "no such descriptor": (lambda _: Program(["/bin/sh"], {}, {5: 99_999}), errno.EBADF),
    "not a string": (lambda _: Program(["/bin/sh"], {"A": 5}), errno.EIO),  # type: ignore[dict-item]
    "a NUL": (lambda _: Program(["/bin/sh", "a\0b"], {}), errno.EIO),
}


@pytest.mark.parametrize("why", FAILURES)
def test_a_program_that_cannot_be_run_is_an_error_in_the_parent(tmp_path: Path, why: str) -> None:
    make, number = FAILURES[why]
    program, recorded, before = make(tmp_path), [], open_fds()
    with pytest.raises(OSError) as caught:
        launch.execute(program, recorded.append)
    assert (caught.value.errno, caught.value.filename) == (number, program.directory or program.arguments[0])
    (pid,) = recorded
    assert process_state(pid) is None, "reaped"
    assert open_fds() == before
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_reason_is_told_even_when_somebody_else_reaps(tmp_path: Path) -> None:
    """The system, where SIGCHLD is ignored; else a thread that waits for any child."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(FileNotFoundError):
            launch.execute(Program([str(tmp_path / "none")], {}), lambda pid: None)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_refused_fork_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    before = open_fds()
    with pytest.raises(BlockingIOError):
        launch.execute(Program(["/bin/sh"], {}), pytest.fail)
    assert open_fds() == before


def test_a_copy_of_our_pipe_in_another_process_holds_us_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_EXEC_PATIENCE", 100)
    before = open_fds()
    copies: list[int] = []

    def copy(pid: int) -> None:
        copies.extend(os.dup(fd) for fd in open_fds().keys() - before.keys())

    pid = launch.execute(Program([require("true")], {}), copy)
    for fd in copies:
        os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0
