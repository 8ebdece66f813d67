"""A daemon: it starts or says why not, it is alone, it leaves its surroundings, it ends in order; and its command line."""

from __future__ import annotations

import os
import pwd
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import fcgi_procmanager
from daemon.programs import holder, readable_python, serving, supervisor, words
from fcgi_procmanager import ConfigError, Daemon
from fcgi_procmanager.system.pidfile import claim
from harness.process import Script, alive, open_fds, parent, process_state, wait_dead, wait_until

Run = Callable[..., Script]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = pwd.getpwnam("nobody")

SOURCE = """
import os, signal, sys, threading, time
from fcgi_procmanager import Daemon
from harness.inside import say

class Clock(Daemon):
    '''Tells the time.

    Usage: 100% of it.'''

{changes}

{main}
"""
MAIN = 'if __name__ == "__main__":\n    Clock.main()\n'
WAIT = """
    def daemon_run(self):
        say("running", os.getpid())
        while True:
            time.sleep(1)  # a signal that comes just before Python sleeps is acted on after it

    def handle_shutdown(self):
        say("shutdown", os.getpid())
"""


def source(changes: str = WAIT, main: str = MAIN) -> str:
    return SOURCE.format(changes=changes, main=main)


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "clock.pid"


@pytest.fixture
def start(run_script: Run, pid_file: Path) -> Callable[..., Script]:
    """In the foreground unless options are given."""

    def start(changes: str = WAIT, *options: object, main: str = MAIN) -> Script:
        return run_script(source(changes, main), args=options or ("--no-fork", "--pid-file", pid_file))

    return start


@pytest.fixture
def started(start: Callable[..., Script], pid_file: Path) -> Iterator[Script]:
    """In the background; the daemon writes nothing."""
    script = start("    def daemon_run(self): time.sleep(1000)", "--pid-file", pid_file)
    assert script.wait() == 0, script.log()
    yield script
    os.kill(holder(pid_file), signal.SIGTERM)
    script.tree_gone()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Of root, and everybody may look into it."""
    with tempfile.TemporaryDirectory(prefix="daemon-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


# -- in the background ----------------------------------------------------------------------------------------------------


def test_the_file_is_there_when_the_one_who_typed_it_goes_on(started: Script, pid_file: Path) -> None:
    pid = int(pid_file.read_text())
    assert alive(pid)
    assert pid != started.pid


def test_it_is_away_from_whoever_typed_it(started: Script, pid_file: Path) -> None:
    pid = holder(pid_file)
    assert os.getsid(pid) not in (pid, os.getsid(0), started.pid)  # in a session of its own that it does not lead
    assert parent(pid) != started.pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {open_fds(pid)[number] for number in (0, 1, 2)} == {os.devnull}
    assert "Umask:\t0022" in Path(f"/proc/{pid}/status").read_text()


def test_a_second_start_is_refused_and_changes_nothing(
    started: Script, start: Callable[..., Script], pid_file: Path
) -> None:
    pid = holder(pid_file)
    for options in (("--pid-file", pid_file), ("--no-fork", "--pid-file", pid_file)):
        second = start(WAIT, *options)
        assert second.wait() == 2
        assert f"Couldn't lock {pid_file}. Is another copy of this daemon already running?" in second.log()
        assert second.log().count("\n") == 1
    assert holder(pid_file) == pid


def test_starts_at_the_same_time_leave_one(start: Callable[..., Script], pid_file: Path) -> None:
    scripts = [start("    def daemon_run(self): time.sleep(1000)", "--pid-file", pid_file) for _ in range(6)]
    assert sorted(script.wait() for script in scripts) == [0, 2, 2, 2, 2, 2]
    os.kill(holder(pid_file), signal.SIGTERM)
    for script in scripts:
        script.tree_gone()


def test_run_returns_in_the_process_that_called_it_and_nowhere_else(
    start: Callable[..., Script], pid_file: Path
) -> None:
    main = 'say("status", Clock(pid_file=sys.argv[1]).run())\nsay("after", os.getpid())'
    script = start("    def daemon_run(self): pass", pid_file, main=main)
    assert words(script, "status") == ["0"]
    assert words(script, "after") == [str(script.pid)]
    assert script.wait() == 0
    script.tree_gone()
    assert script.output() == ""


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ("--pid-file", "/no/such/folder/pid"),
            "/no/such/folder/pid cannot be used as a PID file: No such file or direct",
        ),
        (("--user", "no-such-user"), "Can't find user no-such-user"),
        (("--group", "no-such-group"), "Can't find group no-such-group"),
    ],
)
def test_what_is_wrong_is_one_line_for_whoever_typed_it(
    start: Callable[..., Script], pid_file: Path, options: tuple[str, ...], line: str
) -> None:
    script = start(WAIT, "--pid-file", pid_file, *options)
    assert script.wait() == 2
    assert line in script.log()
    assert script.log().count("\n") == 1
    script.tree_gone()
    assert not pid_file.exists()


def test_an_error_at_the_very_start_is_heard(start: Callable[..., Script], pid_file: Path) -> None:
    changes = """
    def _settle(self, identity):
        super()._settle(identity)
        self.error("there is no ", "clock")
    """
    script = start(changes, "--pid-file", pid_file)
    assert script.wait() == 255
    assert script.log() == "Clock: there is no clock\n"
    script.tree_gone()
    assert not pid_file.exists()


def test_a_daemon_that_is_killed_before_it_has_started(start: Callable[..., Script], pid_file: Path) -> None:
    changes = """
    def _settle(self, identity):
        os.kill(os.getpid(), signal.SIGKILL)
    """
    script = start(changes, "--pid-file", pid_file)
    assert script.wait() == 1
    assert script.log() == "Clock: ended before it had started: run it with --no-fork to see why\n"


@as_root
def test_it_runs_as_the_user_and_lets_go_of_a_file_in_a_folder_of_root(run_script: Run, open_folder: Path) -> None:
    python, env = readable_python()
    pid_file, program = open_folder / "pid", open_folder / "script.py"
    program.write_text(source("    def daemon_run(self): time.sleep(1000)"))
    script = run_script([python, program, "--pid-file", pid_file, "--user", "nobody"], env=env)
    assert script.wait() == 0, script.log()
    pid = holder(pid_file)
    status = Path(f"/proc/{pid}/status").read_text()
    for name, number in (("Uid", NOBODY.pw_uid), ("Gid", NOBODY.pw_gid)):
        assert f"{name}:\t{number}\t{number}\t{number}\t{number}\n" in status
    groups = sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid)))
    assert f"Groups:\t{' '.join(map(str, groups))} \n" in status
    assert pid_file.stat().st_uid == NOBODY.pw_uid
    os.kill(pid, signal.SIGTERM)
    script.tree_gone()
    # It cannot be removed by somebody who is not root; but it names nobody any more, and the next start finds its place free.
    assert pid_file.read_text() == ""
    again = run_script([python, program, "--pid-file", pid_file], env=env)
    assert again.wait() == 0, again.log()
    os.kill(holder(pid_file), signal.SIGTERM)
    again.tree_gone()
    assert not pid_file.exists()


@as_root
def test_a_hot_reload_as_the_user_in_a_folder_of_root(run_script: Run, open_folder: Path) -> None:
    python, env = readable_python()
    pid_file, program = open_folder / "pid", open_folder / "script.py"
    program.write_text(supervisor())
    script = run_script([python, program, "--no-fork", "--pid-file", pid_file, "--user", "nobody"], env=env)
    serving(script)
    os.kill(holder(pid_file), signal.SIGUSR2)
    words(script, "process")
    words(script, "shutdown")
    words(script, "ready")
    assert claim(pid_file).proven
    pid = holder(pid_file)
    assert os.stat(f"/proc/{pid}").st_uid == NOBODY.pw_uid
    os.kill(pid, signal.SIGTERM)
    script.tree_gone()
    assert pid_file.read_text() == ""


@as_root
def test_attributes_of_the_class_name_the_user_too(start: Callable[..., Script]) -> None:
    changes = '    user = "nobody"\n    def daemon_run(self): say("is", *os.getresuid(), os.environ["USER"])'
    script = start(changes, "--no-fork", "--no-pid-file")
    uid = str(NOBODY.pw_uid)
    assert words(script, "is") == [uid, uid, uid, "nobody"]
    assert script.wait() == 0


@as_root
def test_without_root_it_is_a_notice(start: Callable[..., Script]) -> None:
    main = 'os.setgid(54322), os.setuid(54321)\nClock(no_fork=True, no_pid_file=True, user="root").run()'
    script = start('    def daemon_run(self): say("is", os.getuid())', main=main)
    assert words(script, "is") == ["54321"]
    assert script.wait() == 0
    assert "Not running as root, can't setuid/setgid" in script.log()


# -- in the foreground ----------------------------------------------------------------------------------------------------


def test_it_ends_when_it_has_nothing_more_to_do(start: Callable[..., Script], pid_file: Path) -> None:
    script = start('    def daemon_run(self): say("pid", open(self.pid_file).read())')
    assert words(script, "pid") == [str(script.pid)]
    assert script.wait() == 0
    assert script.log() == ""
    assert not pid_file.exists()


def test_the_status_that_it_wants(start: Callable[..., Script]) -> None:
    script = start("    def daemon_run(self): self.return_value = 9", "--no-fork", "--no-pid-file")
    assert script.wait() == 9


def test_an_error_runs_the_hook_and_is_status_255(start: Callable[..., Script], pid_file: Path) -> None:
    changes = '    def daemon_run(self): self.error("no ", 5)\n    def handle_shutdown(self): say("shutdown")'
    script = start(changes)
    words(script, "shutdown")
    assert script.wait() == 255
    assert script.log_lines(normalise=False) == [f"Clock: daemon (pid {script.pid}): Shutting down: no 5"]
    assert not pid_file.exists()


def test_an_error_in_a_thread_ends_the_whole(start: Callable[..., Script]) -> None:
    changes = """
    def daemon_run(self):
        threading.Thread(target=self.error, args=("in a thread",), daemon=True).start()
        while True:
            time.sleep(1)
    """
    script = start(changes, "--no-fork", "--no-pid-file")
    assert script.wait() == 255
    assert "Shutting down: in a thread" in script.log()


def test_an_exception_is_an_error_and_a_traceback(start: Callable[..., Script]) -> None:
    script = start('    def daemon_run(self): raise ValueError("no time")', "--no-fork", "--no-pid-file")
    assert script.wait() == 255
    assert "Traceback" in script.log()
    assert script.log().endswith(": Shutting down: ValueError: no time\n")


def test_no_warn_says_nothing(start: Callable[..., Script]) -> None:
    script = start('    def daemon_run(self): raise ValueError("no time")', "--no-fork", "--no-pid-file", "--no-warn")
    assert script.wait() == 255
    assert script.log() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_runs_the_hook_once_and_ends_it(start: Callable[..., Script], pid_file: Path, number: int) -> None:
    script = start()
    words(script, "running")
    script.signal(number)
    words(script, "shutdown")
    assert script.wait() == 0
    assert script.output() == ""
    assert not pid_file.exists()


def test_what_the_hook_returns_is_the_status(start: Callable[..., Script]) -> None:
    changes = "    def daemon_run(self): os.kill(os.getpid(), signal.SIGTERM)\n    def handle_shutdown(self): return 7"
    assert start(changes, "--no-fork", "--no-pid-file").wait() == 7


def test_a_child_of_the_daemon_holds_neither_its_lock_nor_its_handlers(
    start: Callable[..., Script], pid_file: Path
) -> None:
    changes = """
    def daemon_run(self):
        if os.fork() == 0:
            say("child", os.getpid())
        time.sleep(1000)
    """
    script = start(changes)
    child = int(words(script, "child")[0])
    script.signal(signal.SIGKILL)
    script.wait()
    assert alive(child)
    second = start()
    words(second, "running")
    assert holder(pid_file) == second.pid
    os.kill(child, signal.SIGTERM)
    wait_dead(child)
    assert second.stop() == 0


def test_handlers_are_given_back(start: Callable[..., Script]) -> None:
    main = """
before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)]
status = Clock(no_fork=True, no_pid_file=True).run()
say(status, before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)])
"""
    script = start("    def daemon_run(self): pass", main=main)
    assert script.line() == "0 True"
    assert script.wait() == 0


# -- the command line -----------------------------------------------------------------------------------------------------


def test_help_is_no_mistake(start: Callable[..., Script]) -> None:
    script = start(WAIT, "--help")
    text = script.output()
    assert script.wait() == 0
    assert "Usage: 100% of it." in text
    for option in ("--no-fork", "--pid-file", "--no-pid-file", "--no-warn", "--user", "--group", "--help"):
        assert option in text


@pytest.mark.parametrize("option", ["--no-such-option", "--no-for", "-x", "--no-such=1"])
def test_what_is_unknown_is_one_line(start: Callable[..., Script], option: str) -> None:
    script = start(WAIT, option)
    assert script.wait() == 2
    assert script.log() == f"script.py: Unknown option {option.partition('=')[0]}; see 'script.py --help'\n"


def test_options_and_arguments_of_the_program(start: Callable[..., Script]) -> None:
    changes = """
    @classmethod
    def add_arguments(cls, parser):
        parser.add_argument("--zone", type=int, default=0)

    def daemon_run(self):
        say("zone", self.options.zone, self.options.no_fork, *self.arguments)
    """
    script = start(changes, "--no-fork", "--zone", "2", "--no-pid-file", "a", "--", "-b")
    assert words(script, "zone") == ["2", "True", "a", "-b"]
    assert script.wait() == 0
    wrong = start(changes, "--zone", "east")
    assert wrong.wait() == 2
    assert wrong.log().count("\n") == 1


def test_where_the_pid_file_is_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_BASE_DAEMON_PIDDIR", str(tmp_path))
    assert Daemon().pid_file == str(tmp_path / "Daemon.pid")
    monkeypatch.delenv("APP_BASE_DAEMON_PIDDIR")
    assert Daemon().pid_file == "/var/run/Daemon.pid"


def test_both_are_public_names() -> None:
    assert {"Daemon", "Supervisor"} <= set(fcgi_procmanager.__all__)
    assert issubclass(fcgi_procmanager.Supervisor, fcgi_procmanager.Daemon)


def test_it_must_be_defined_what_it_does(run_script: Run) -> None:
    main = "Clock(no_fork=True, no_pid_file=True).run()"
    script = run_script(source("    pass", main))
    assert script.wait() == 255
    assert "NotImplementedError: Clock must define daemon_run()" in script.log()


def test_a_whole_life_of_a_command_line_with_closed_descriptors(run_script: Run, pid_file: Path) -> None:
    script = run_script(source("    def daemon_run(self): time.sleep(1000)"), args=("--pid-file", pid_file))
    assert script.wait() == 0
    pid = holder(pid_file)
    assert process_state(pid) == "S" or wait_until(lambda: process_state(pid) == "S")
    os.kill(pid, signal.SIGTERM)
    script.tree_gone()
    closed = run_script(
        [
            "/bin/sh",
            "-c",
            f'exec {sys.executable} "$0" --pid-file {pid_file} <&- >&- 2>&-',
            str(script.directory / "script.py"),
        ]
    )
    assert closed.wait() == 0
    os.kill(holder(pid_file), signal.SIGTERM)
    closed.tree_gone()
    with pytest.raises(ConfigError):
        Daemon(user="no-such-user", no_fork=True, no_pid_file=True).run()
