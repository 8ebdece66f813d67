"""`exec` stops and replaces copies of a program gently, by a signal that the program knows or while it is idle."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from itertools import accumulate
from pathlib import Path

import pytest

from cli.programs import PROGRAMS, Folder, plain, wait_started
from harness import fcgi
from harness.notify import Notified
from harness.process import Script, alive, cmdline, sigcatch, wait_dead, wait_until

LINUX = sys.platform.startswith("linux")
IDLE_IS_SEEN = pytest.mark.skipif(not LINUX, reason="only Linux tells whether a program has a connection in hand")

GENTLE = [
    pytest.param("libfcgi", ["--stop-signal", "USR1"], id="libfcgi by USR1"),
    pytest.param("perl", ["--stop-signal", "USR1"], id="perl by USR1"),
    *(pytest.param(name, ["--stop-signal", "HUP"], id=f"{name} by HUP", marks=IDLE_IS_SEEN) for name in PROGRAMS),
    pytest.param("plain", [], id="plain when idle", marks=IDLE_IS_SEEN),
]


def failed(script: Script, status: int = 1) -> str:
    assert script.wait(30) == status, script.log()
    return script.log()


# Stopping


@pytest.mark.parametrize(("name", "options"), GENTLE)
def test_a_stop_waits_for_the_request_in_hand(folder: Folder, tmp_path: Path, name: str, options: list[str]) -> None:
    script = folder.exec(PROGRAMS[name](tmp_path), *options, n=3)
    with folder.hold(script) as held:
        script.signal(signal.SIGTERM)
        wait_until(lambda: script.workers() == [held.pid], 60, "the idle ones to leave")
        held.let_go()
    assert script.wait() == 0, script.log()
    script.tree_gone()


def test_stop_by_the_pid_file(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program)
    folder.control("stop")
    assert script.wait(0.5) == 0, "gone already"
    script.tree_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_reaches_the_copies_through_the_manager_only(
    folder: Folder, program: list[str], number: signal.Signals
) -> None:
    """They are not in the group that a terminal or a supervisor signals, or else a request in hand would be lost."""
    script = folder.exec(program, n=2)
    with folder.hold(script) as held:
        script.signal_group(number)
        wait_until(lambda: script.workers() == [held.pid], 60, "the idle one to leave")
        held.let_go()
    assert script.wait() == 0, script.log()


@pytest.mark.parametrize("on_term", [None, "ignore"])
def test_who_does_not_leave_in_time_is_killed(folder: Folder, program: list[str], on_term: str | None) -> None:
    env = {"ON_TERM": on_term} if on_term else {}
    script = folder.exec(program, "--die-timeout", "0.5", n=2, env=env)
    with folder.hold(script) as held:
        script.signal(signal.SIGTERM)
        assert held.broken_off()
    assert script.wait() == 1, script.log()
    script.wait_log(rf"server \(pid {held.pid}\) exited with status 137 \(SIGKILL\)")
    assert not os.path.exists(folder.sock_path)
    assert not (folder.path / "pid").exists()


def test_with_a_delay_the_copies_serve_on(folder: Folder, program: list[str]) -> None:
    with closing(Notified()) as notified:
        script = folder.exec(program, "--drain-delay", "300", n=2, env=notified.environment)
        notified.wait("READY")
    script.signal(signal.SIGTERM)
    script.wait_log("draining: serving for 300 s more")
    assert folder.ask()
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1, script.log()
    script.tree_gone()


def test_quit_stops_at_once(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=2)
    with folder.hold(script) as held:
        script.signal(signal.SIGQUIT)
        assert held.broken_off()
    assert script.wait() == 1, script.log()
    script.tree_gone()


@IDLE_IS_SEEN
def test_one_that_would_end_at_once_is_told_when_idle(folder: Folder, program: list[str]) -> None:
    """It catches the signal, so only the option tells that this is not gentle."""
    script = folder.exec(program, "--stop-when-idle", n=2, env={"ON_TERM": "exit"})
    assert folder.ask()
    with folder.hold(script) as held:
        script.signal(signal.SIGTERM)
        wait_until(lambda: script.workers() == [held.pid], 60, "the idle one to leave")
        held.let_go()
    assert script.wait() == 0, script.log()


@IDLE_IS_SEEN
def test_the_signal_is_not_sent_while_a_request_is_in_hand(folder: Folder, program: list[str]) -> None:
    """Not even to one that notes it: the second TERM, after a second, would kill it."""
    script = folder.exec(program, "--stop-when-idle", n=1, env={"ON_TERM": "flag"})
    (pid,) = script.workers()
    with folder.hold(script) as held:
        assert held.pid == pid
        reload = folder.run("reload", "--pidfile", "pid")
        script.wait_log("sending TERM")
        assert not held.readable(2.5)
        assert signal.SIGTERM in sigcatch(pid)
        held.let_go()
    assert reload.wait(30) == 0, reload.log()
    assert not alive(pid)
    assert script.stop() == 0


@IDLE_IS_SEEN
def test_the_signal_is_repeated_while_it_is_idle(folder: Folder, program: list[str]) -> None:
    """MapServer 8.0 only looks at what it has noted after the next request, which may never come."""
    script = folder.exec(program, "--stop-when-idle", n=1, env={"ON_TERM": "flag"})
    (pid,) = script.workers()
    assert folder.ask()
    folder.control("reload")
    assert not alive(pid)
    assert script.stop() == 0


def test_a_stop_during_a_back_off_does_not_wait(folder: Folder, tmp_path: Path) -> None:
    script = folder.exec(["sh", "-c", "exit 7"], n=1, wait=False)
    script.wait_log("exited with status 7", 3)
    script.signal(signal.SIGTERM)
    assert script.wait() in (0, 1)
    script.tree_gone()


# Reloading


@pytest.mark.parametrize(("name", "options"), GENTLE)
def test_a_reload_waits_for_the_request_in_hand(folder: Folder, tmp_path: Path, name: str, options: list[str]) -> None:
    script = folder.exec(PROGRAMS[name](tmp_path), "--interval", "0.2", *options, n=2)
    before = script.workers()
    with folder.hold(script) as held:
        reload = folder.run("reload", "--pidfile", "pid")
        wait_until(lambda: {*before} & {*script.workers()} == {held.pid}, 60, "the idle one to be replaced")
        assert int(folder.ask()) not in before
        assert reload.process.poll() is None
        held.let_go()
    assert reload.wait(30) == 0, reload.log()
    assert not any(map(alive, before))
    assert len(script.wait_workers(2)) == 2
    assert script.stop() == 0


def test_a_reload_kills_after_the_time_that_is_given(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, "--interval", "0.2", "--reload-timeout", "0.3", n=2)
    with folder.hold(script) as held:
        folder.control("reload")
        assert held.broken_off()
    script.wait_log(rf"server \(pid {held.pid}\) exited with status 137 \(SIGKILL\)")
    assert script.stop() == 0


def test_at_a_reload_there_are_never_fewer_copies(folder: Folder, program: list[str]) -> None:
    """A new one is good before an old one is told to leave: the log tells the order."""
    script = folder.exec(program, "--interval", "0.2", n=2)
    folder.control("reload")
    events = script.wait_log(r"server \(pid \d+\) (started|exited)", 6)
    running = list(accumulate(1 if match[1] == "started" else -1 for match in events))
    assert min(running[1:]) == 2, running
    assert script.stop() == 0


def test_hup_starts_the_program_that_is_there_now(folder: Folder) -> None:
    """The folder is a link to a release, and the program is looked for in it anew each time."""
    for release in ("one", "two"):
        (folder.path / release).mkdir()
        script_file = folder.path / release / "program"
        script_file.write_text(f'#!/bin/sh\nexec {sys.executable} {plain(folder.path)[-1]} {release} "$@"\n')
        script_file.chmod(0o755)
    current = folder.path / "current"
    current.symlink_to("one")
    script = folder.exec(["./program"], "--chdir", "current", "--interval", "0.2")
    assert (folder.ask("/version"), folder.ask("/cwd")) == ("one", str(folder.path / "one"))
    for release in ("two", "one"):
        current.unlink()
        current.symlink_to(release)
        folder.control("reload")
        assert (folder.ask("/version"), folder.ask("/cwd")) == (release, str(folder.path / release))
    assert script.stop() == 0


def test_a_reload_to_a_program_that_is_gone_says_so_and_the_old_ones_serve_on(folder: Folder) -> None:
    program = folder.path / "program"
    source = f'#!/bin/sh\nexec {sys.executable} {plain(folder.path)[-1]} "$@"\n'
    program.write_text(source)
    program.chmod(0o755)
    script = folder.exec([str(program)], "--interval", "0.2")
    folder.control("reload")  # which waits until the copies are good
    before = script.workers()
    for pid in before:
        wait_until(lambda pid=pid: cmdline(pid).startswith(sys.executable), 60, "the shell to have read the file")
    program.unlink()
    assert "cannot be run: No such file or directory" in failed(folder.run("reload", "--pidfile", "pid"))
    assert int(folder.ask()) in before
    assert {*before} <= {*script.workers()}
    program.write_text(source)
    program.chmod(0o755)
    folder.control("reload")
    assert not any(map(alive, before))
    assert int(folder.ask()) in script.workers()
    assert script.stop() == 0


# Readiness


@pytest.mark.parametrize("how", ["NOTIFY_SOCKET", "BY_NEWLINE"])
def test_a_reload_waits_until_new_copies_say_that_they_are_ready(
    folder: Folder, program: list[str], tmp_path: Path, how: str
) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    env = {"READY": str(ready), **({how: "1"} if how == "BY_NEWLINE" else {})}
    script = folder.exec(program, "--ready-timeout", "20", n=1, env=env)
    (pid,) = script.workers()
    assert script.line() == f"up {pid}"
    assert folder.ask() == str(pid)
    ready.unlink()
    reload = folder.run("reload", "--pidfile", "pid")
    new = int(script.line().removeprefix("up "))
    assert {folder.ask() for _ in range(20)} == {str(pid)}
    assert alive(new)
    assert reload.process.poll() is None
    ready.touch()
    assert reload.wait(30) == 0, reload.log()
    wait_dead(pid)
    assert folder.ask() == str(new)
    assert script.stop() == 0


def test_who_is_never_ready_is_given_up(folder: Folder, program: list[str], tmp_path: Path) -> None:
    script = folder.exec(program, "--ready-timeout", "0.2", n=1, wait=False, env={"READY": str(tmp_path / "never")})
    assert "ready" in failed(script)
    script.tree_gone()
    assert not os.path.exists(folder.sock_path)


def test_who_is_not_ready_at_a_reload_leaves_the_old_ones(folder: Folder, program: list[str], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    script = folder.exec(program, "--ready-timeout", "8", n=1, env={"READY": str(ready)})
    (pid,) = script.workers()
    assert folder.ask() == str(pid)
    ready.unlink()
    assert "was not ready in time" in failed(folder.run("reload", "--pidfile", "pid"))
    assert folder.ask() == str(pid)
    assert script.stop() == 0


def test_a_connection_that_says_nothing_harms_nobody(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=1)
    for _ in range(3):
        fcgi.Client(folder.sock_path).close()
    assert folder.ask() == str(wait_started(script, 1)[0])
    assert script.stop() == 0
