"""Where the original is wrong about files: PID file, socket, status file, log, and --daemonize. Ours must be right."""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from contextlib import closing
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGUSR1

import pytest

from harness.process import alive, children, process_state, wait_dead, wait_until
from starter.conftest import Command, Launch
from starter.sides import Superdaemon

# -- what belongs to somebody else ------------------------------------------------------------------------------------


def test_a_second_start_with_a_held_pid_file_refuses_and_harms_nothing(launch: Launch, run_ours: Command) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid")
    worker = daemon.wait_status(1)[1]
    inode = daemon.file("pid").stat().st_ino, os.stat(daemon.sock).st_ino
    options = daemon.script.argv[daemon.script.argv.index("-m") + 2 :]
    status, output, errors = run_ours(*options)
    assert status in (1, 2)
    assert output == ""
    assert str(daemon.file("pid")) in errors.splitlines()[-1]
    assert daemon.file("pid").read_text() == f"{daemon.pid}\n"
    assert (daemon.file("pid").stat().st_ino, os.stat(daemon.sock).st_ino) == inode
    assert daemon.status() == {1: worker}
    assert daemon.who() == (1, worker)
    assert daemon.end() == 0


def test_a_stale_pid_file_is_taken_over(launch: Launch, tmp_path: Path) -> None:
    """Its number is that of a stranger by now; what counts is that nobody has locked the file."""
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{os.getpid()}\n")
    daemon = launch(f"--pid-file={pid_file}")
    daemon.wait_status(1)
    assert pid_file.read_text() == f"{daemon.pid}\n"
    assert daemon.end() == 0
    assert not pid_file.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "fifo"])
@pytest.mark.leaves_socket
def test_what_is_not_a_socket_is_never_removed(run_ours: Command, sock_path: str, kind: str) -> None:
    path = Path(sock_path)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (path.parent / "precious").write_text("precious")
        path.symlink_to(path.parent / "precious")
    else:
        path.write_text("precious")
    before = path.lstat()
    status, _, errors = run_ours(f"--path={path}", "--", "sleep", "600")
    assert status in (1, 2)
    assert str(path) in errors.splitlines()[-1]
    after = path.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert kind not in ("file", "link") or path.read_text() == "precious"


@pytest.mark.leaves_socket
def test_files_that_belong_to_another_instance_by_now_are_kept_at_the_end(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid")
    daemon.wait_status(1)
    os.unlink(daemon.sock)
    daemon.file("pid").unlink()
    daemon.file("pid").write_text("another's\n")
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(daemon.sock)
        assert daemon.end() == 0
        assert os.path.exists(daemon.sock)
    assert daemon.file("pid").read_text() == "another's\n"


@pytest.mark.parametrize(
    ("options", "mode"), [((), 0o660), (("--socket-mode=600",), 0o600), (("--socket-mode=0777",), 0o777)]
)
def test_the_socket_file_has_a_safe_mode_that_an_option_opens(
    launch: Launch, options: tuple[str, ...], mode: int
) -> None:
    daemon = launch("--path=SOCK", *options)
    daemon.wait_event(r"up 1 \d+")
    assert stat.S_IMODE(os.stat(daemon.sock).st_mode) == mode
    assert daemon.end() == 0


@pytest.mark.parametrize("mode", ["9", "rwx", "-1", "10000"])
def test_a_wrong_socket_mode_is_a_mistake_of_the_caller(run_ours: Command, sock_path: str, mode: str) -> None:
    status, output, errors = run_ours(f"--path={sock_path}", f"--socket-mode={mode}", "--", "true")
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert mode in errors


def test_the_status_file_is_sorted_by_number(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=0", words=["hold=DIR/hold"])
    for number in range(1, 9):
        daemon.wait_event(rf"up {number} \d+")
        daemon.wait_status(number)
        daemon.hup()
    daemon.wait_event(r"up 9 \d+")
    daemon.wait_status(9)
    daemon.file("hold").touch()
    daemon.hup()
    pids = daemon.wait_status(9, 10)
    assert daemon.file("status").read_text() == f"9:{pids[9]}\n10:{pids[10]}\n"
    daemon.file("hold").unlink()
    assert daemon.end() == 0


# -- the log ----------------------------------------------------------------------------------------------------------


def _logger(daemon: Superdaemon) -> list[int]:
    """The children that are no workers."""
    workers = {int(event.split()[2]) for event in daemon.events()}
    return [pid for pid in children(daemon.pid) if pid not in workers]


def _wait_log_file(daemon: Superdaemon, text: str, name: str = "log") -> None:
    path = daemon.file(name)
    wait_until(lambda: path.exists() and text in path.read_text(), 60, f"{text!r} in {path}")


def test_a_dead_logger_is_started_again_and_no_line_is_lost(launch: Launch) -> None:
    """Not even those that it had not read."""
    daemon = launch("--path=SOCK", "--log-file=| exec cat >> DIR/log", words=["hold=DIR/hold"])
    daemon.wait_status(1)
    _wait_log_file(daemon, "starting new worker")
    for number in (2, 3):
        (logger,) = _logger(daemon)
        daemon.script.signal(SIGSTOP, logger)
        wait_until(lambda logger=logger: process_state(logger) == "T")  # type: ignore[misc]
        daemon.ask(f"print line {number}")
        daemon.hup()
        daemon.wait_status(number)
        daemon.script.signal(SIGKILL, logger)
        _wait_log_file(daemon, f"line {number}")
    assert daemon.end() == 0
    _wait_log_file(daemon, "exiting\n")
    lines = Counter(daemon.file("log").read_text().splitlines())
    starts = [line for line in lines if line.startswith("starting new worker")]
    expected = ["line 2", "line 3", "exiting"]
    assert len(starts) == 3
    assert lines["received HUP, spawning a new worker"] == 2
    assert [lines[line] for line in [*starts, *expected]] == [1] * 6


def test_a_logger_that_cannot_live_is_not_started_in_a_heavy_loop(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--log-file=| echo x >> DIR/starts")
    daemon.wait_status(1)
    daemon.hup()
    daemon.wait_status(2)
    wait_until(daemon.file("starts").exists)
    assert len(daemon.file("starts").read_text()) // 2 < 30
    assert daemon.end() == 0


def test_usr1_opens_the_log_file_anew(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--log-file=DIR/log")
    daemon.wait_status(1)
    daemon.file("log").rename(daemon.file("log.1"))
    daemon.script.signal(SIGUSR1)
    wait_until(daemon.file("log").exists, 60, "a new log file")
    daemon.hup()
    daemon.wait_status(2)
    daemon.ask("print from the new worker")
    _wait_log_file(daemon, "from the new worker")
    assert daemon.end() == 0
    old, new = daemon.file("log.1").read_text(), daemon.file("log").read_text()
    assert "starting new worker" in old
    assert "received HUP" not in old
    assert "received HUP" in new
    assert new.endswith("exiting\n")


def test_usr1_starts_the_logger_anew(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--log-file=| exec cat >> DIR/log")
    daemon.wait_status(1)
    _wait_log_file(daemon, "starting new worker")
    (logger,) = _logger(daemon)
    daemon.script.signal(SIGUSR1)
    wait_until(lambda: any(pid != logger for pid in _logger(daemon)), 60, "another logger")
    daemon.hup()
    daemon.wait_status(2)
    wait_dead(logger)
    daemon.ask("print from the new worker")
    _wait_log_file(daemon, "from the new worker")
    assert daemon.end() == 0
    _wait_log_file(daemon, "exiting\n")  # nobody waits for the logger
    text = daemon.file("log").read_text()
    assert [text.count(part) for part in ("received HUP", "exiting")] == [1, 1]


def test_usr1_without_a_log_file_does_nothing(launch: Launch) -> None:
    daemon = launch("--path=SOCK")
    worker = daemon.wait_status(1)[1]
    daemon.script.signal(SIGUSR1)
    assert daemon.who() == (1, worker)
    assert daemon.end() == 0
    assert len(daemon.events()) == 2


# -- --daemonize ------------------------------------------------------------------------------------------------------

DAEMON = ("--path=SOCK", "--daemonize", "--log-file=DIR/log", "--pid-file=DIR/pid")


def test_daemonize_returns_when_the_first_generation_is_good(launch: Launch, run_ours: Command) -> None:
    daemon = launch(*DAEMON)
    assert daemon.script.wait() == 0
    assert sorted(daemon.status()) == [1]
    pid = int(daemon.file("pid").read_text())
    assert os.getsid(pid) not in (pid, daemon.pid)
    assert alive(pid)
    assert run_ours("--stop", f"--pid-file={daemon.file('pid')}")[0] == 0
    daemon.script.tree_gone()
    daemon.programs_gone()


def test_daemonize_waits_for_a_second_attempt(launch: Launch, run_ours: Command) -> None:
    # Ready, not old enough: on a busy machine one that is to fail might reach any age.
    daemon = launch(*DAEMON, "--ready-timeout=600", words=["fail=1", "ready=fd"])
    assert daemon.script.wait() == 0
    assert sorted(daemon.status()) == [2]
    assert run_ours("--stop", f"--pid-file={daemon.file('pid')}")[0] == 0
    daemon.script.tree_gone()
    daemon.programs_gone()


def test_daemonize_gives_up_after_five_failures_and_leaves_nothing(launch: Launch) -> None:
    daemon = launch(*DAEMON, "--interval=600", words=["fail=all"])
    assert daemon.script.wait() == 1
    daemon.script.tree_gone()
    daemon.programs_gone()
    assert len(daemon.wait_event("failing .*")) == 5
    assert "failed to start" in daemon.script.log()
    assert not any(map(os.path.exists, (daemon.sock, daemon.file("pid"), daemon.file("status"))))
    assert "failed to start" in daemon.file("log").read_text()


def test_daemonize_says_why_it_cannot_listen(launch: Launch, tmp_path: Path) -> None:
    daemon = launch("--path=/nonexistent/s", *DAEMON[1:])
    assert daemon.script.wait() in (1, 2)
    daemon.script.tree_gone()
    daemon.programs_gone()
    assert "failed to listen to file /nonexistent/s:No such file or directory" in daemon.script.log()
    assert not daemon.file("pid").exists()


def test_daemonize_refuses_a_held_pid_file(launch: Launch, run_ours: Command) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid")
    daemon.wait_status(1)
    options = (f"--pid-file={daemon.file('pid')}", f"--log-file={daemon.file('log')}", "--daemonize")
    status, _, errors = run_ours(*options, "--", "sleep", "600")
    assert status in (1, 2)
    assert str(daemon.file("pid")) in errors
    assert daemon.file("pid").read_text() == f"{daemon.pid}\n"
    assert daemon.end() == 0
