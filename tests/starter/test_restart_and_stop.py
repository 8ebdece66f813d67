"""--restart and --stop, which the original lets hang or hit strangers: ours end, with the truth."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any, Callable

import pytest

from harness.process import Script, process_state
from starter.conftest import Command, Launch
from starter.sides import OURS, Superdaemon, command

Run = Callable[..., Script]

# Where some fail: at a certain age they are taken for good, which a busy machine lets pass before they run.
READY = ("--ready-timeout=600",)


def files(daemon: Superdaemon) -> tuple[str, str]:
    return f"--pid-file={daemon.file('pid')}", f"--status-file={daemon.file('status')}"


@pytest.fixture
def launch_kept(launch: Launch) -> Launch:
    """A superdaemon with a PID file."""

    def start(*options: str, **more: Any) -> Superdaemon:
        daemon = launch("--path=SOCK", "--pid-file=DIR/pid", *options, **more)
        daemon.wait_status(1)
        return daemon

    return start


@pytest.fixture
def start_ours(run_script: Run) -> Callable[..., Script]:
    """`start_ours(*options)` starts our command beside the test."""
    return lambda *options: run_script([*command(OURS), *options])


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a signal would end."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


# -- --restart --------------------------------------------------------------------------------------------------------


def test_restart_follows_the_real_numbers_of_the_generations(launch_kept: Launch, run_ours: Command) -> None:
    daemon = launch_kept(*READY, words=["fail=2,3", "ready=fd"])
    assert run_ours("--restart", *files(daemon)) == (0, "", "")
    assert sorted(daemon.status()) == [4]
    assert daemon.end() == 0


def test_restart_waits_for_the_old_generation_to_leave(launch_kept: Launch, start_ours: Run) -> None:
    daemon = launch_kept(words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    restart = start_ours("--restart", *files(daemon))
    daemon.wait_status(1, 2)
    daemon.wait_event(r"got TERM 1 \d+")
    assert process_state(restart.pid) not in (None, "Z")
    daemon.file("hold").unlink()
    assert restart.wait() == 0
    assert sorted(daemon.status()) == [2]
    assert daemon.end() == 0


def test_restart_ends_in_time_when_no_new_generation_starts(launch_kept: Launch, run_ours: Command) -> None:
    daemon = launch_kept(*READY, words=["failing=DIR/broken", "ready=fd"])
    daemon.file("broken").touch()
    status, output, errors = run_ours("--restart", "--restart-timeout=2", *files(daemon))
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert sorted(daemon.status()) == [1]
    assert daemon.who()[0] == 1
    assert daemon.end() == 0


def test_restart_ends_in_time_when_an_old_generation_does_not_leave(launch_kept: Launch, run_ours: Command) -> None:
    daemon = launch_kept(words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    status, output, errors = run_ours("--restart", "--restart-timeout=3", *files(daemon))
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    daemon.wait_status(1, 2)
    daemon.file("hold").unlink()
    assert daemon.end() == 0


def test_two_restarts_at_once_both_end(launch_kept: Launch, start_ours: Run) -> None:
    daemon = launch_kept()
    both = [start_ours("--restart", *files(daemon)) for _ in range(2)]
    assert [restart.wait() for restart in both] == [0, 0]
    (generation,) = daemon.status()
    assert generation in (2, 3)
    assert daemon.end() == 0


def test_a_restart_during_a_change_waits_for_a_generation_of_its_own(launch_kept: Launch, run_ours: Command) -> None:
    """The one that is being started may have read the old configuration."""
    daemon = launch_kept("--interval=2")
    daemon.hup()
    daemon.wait_event(r"up 2 \d+")
    assert run_ours("--restart", *files(daemon))[0] == 0
    assert sorted(daemon.status()) == [3]
    assert daemon.end() == 0


@pytest.mark.leaves_socket
def test_restart_notices_that_the_superdaemon_was_killed(launch_kept: Launch, start_ours: Run) -> None:
    daemon = launch_kept(words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    restart = start_ours("--restart", *files(daemon))
    daemon.wait_status(1, 2)
    daemon.script.signal(SIGKILL)
    assert restart.wait() == 1
    assert len(restart.log().splitlines()) == 1


def test_restart_notices_that_the_superdaemon_was_stopped(launch_kept: Launch, start_ours: Run) -> None:
    words = ["ready=fd", "gate=DIR/gate"]
    daemon = launch_kept(*READY, words=words, prepare=lambda it: it.file("gate").touch())
    daemon.file("gate").unlink()
    restart = start_ours("--restart", *files(daemon))
    daemon.wait_event(r"up 2 \d+")
    assert daemon.end() == 0
    assert restart.wait() == 1
    assert len(restart.log().splitlines()) == 1


# -- --stop -----------------------------------------------------------------------------------------------------------


def test_stop_returns_when_the_superdaemon_is_gone(launch_kept: Launch, start_ours: Run) -> None:
    daemon = launch_kept(words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    stop = start_ours("--stop", files(daemon)[0])
    daemon.wait_event(r"got TERM 1 \d+")
    assert process_state(stop.pid) not in (None, "Z")
    daemon.file("hold").unlink()
    assert stop.wait() == 0
    assert not daemon.file("pid").exists()
    assert daemon.script.wait() == 0


# -- nobody is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["--stop", "--restart"])
@pytest.mark.parametrize("held", [False, True])
def test_a_stale_pid_file_makes_nobody_a_victim(
    run_ours: Command, stranger: subprocess.Popen[bytes], tmp_path: Path, verb: str, held: bool
) -> None:
    """Its number is that of another process by now, which even has the file open."""
    pid_file, status_file = tmp_path / "pid", tmp_path / "status"
    pid_file.write_text(f"{stranger.pid}\n")
    status_file.write_text("1:1\n")
    with open(pid_file if held else "/dev/null"):
        options = [f"--pid-file={pid_file}", *([f"--status-file={status_file}"] if verb == "--restart" else [])]
        status, output, errors = run_ours(verb, *options)
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert str(pid_file) in errors
    assert stranger.poll() is None
    assert pid_file.read_text() == f"{stranger.pid}\n"


@pytest.mark.parametrize("verb", ["--stop", "--restart"])
@pytest.mark.parametrize("content", [None, "", "nonsense\n", "4194304\n"])
def test_a_pid_file_that_names_no_superdaemon_is_said_in_one_line(
    run_ours: Command, tmp_path: Path, verb: str, content: str | None
) -> None:
    pid_file = tmp_path / "pid"
    if content is not None:
        pid_file.write_text(content)
    status, output, errors = run_ours(verb, f"--pid-file={pid_file}", f"--status-file={tmp_path}/status")
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert str(pid_file) in errors


@pytest.mark.leaves_socket
def test_after_a_kill_the_pid_file_is_stale(launch_kept: Launch, run_ours: Command) -> None:
    """The workers live on, and hold what the superdaemon held; they are no superdaemon."""
    daemon = launch_kept()
    worker = daemon.status()[1]
    daemon.script.signal(SIGKILL)
    daemon.script.wait()
    for verb in ("--stop", "--restart"):
        assert run_ours(verb, *files(daemon))[0] == 1
    assert daemon.who() == (1, worker)
    assert len(daemon.events()) == 1, "no signal for the worker"
