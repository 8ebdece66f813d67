"""`exec` keeps copies of a FastCGI program that was not written for us: how they are started, kept and given up."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.programs import PROGRAMS, Folder, plain, wait_started
from harness import fcgi
from harness.process import Script, alive, cmdline, free_port, listening, open_fds, wait_asleep, wait_dead, wait_until

LINUX = sys.platform.startswith("linux")


def refused(script: Script, status: int = 2) -> str:
    """The one line that it said before it ended with that status."""
    assert script.wait() == status, script.log()
    script.tree_gone()
    (line,) = script.log().splitlines()
    assert line.startswith("fcgi-procmanager: ")
    return line.partition(": ")[2]


# Serving


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_serves_on_descriptor_0_and_ends_without_a_trace(folder: Folder, tmp_path: Path, name: str) -> None:
    script = folder.exec(PROGRAMS[name](tmp_path), n=3)
    assert int(folder.ask()) in script.workers()
    assert (folder.path / "pid").read_text() == f"{script.pid}\n"
    assert script.stop() == 0
    assert not (folder.path / "pid").exists()
    assert not os.path.exists(folder.sock_path)
    assert script.output() == ""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_serves_by_tcp(folder: Folder, tmp_path: Path, name: str) -> None:
    port = free_port()
    script = folder.run("exec", "--listen", f"127.0.0.1:{port}", "-n", 1, "--", *PROGRAMS[name](tmp_path))
    (pid,) = wait_started(script, 1)
    assert fcgi.fetch(("127.0.0.1", port)).text == str(pid)
    assert script.stop() == 0


def test_two_copies_unless_told_otherwise(folder: Folder, program: list[str]) -> None:
    script = folder.run("exec", "--listen", folder.sock_path, "--", *program)
    wait_started(script, 2)
    assert script.stop() == 0


def test_several_requests_at_a_time_are_served_by_several_copies(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=3)
    with folder.hold(script) as first, folder.hold(script) as second:
        third = int(folder.ask())
        assert {first.pid, second.pid, third} == {*script.workers()}
        os.kill(first.pid, signal.SIGKILL)
        os.kill(second.pid, signal.SIGKILL)
        assert first.broken_off()
        assert second.broken_off()
    assert script.stop() == 0


def test_the_log_is_that_of_a_manager(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=1)
    (pid,) = script.workers()
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    lines = script.log().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [A-Z]+ "
    words = [re.sub(stamp, "", line) for line in lines]
    assert f"FastCGI: manager (pid {script.pid}): server (pid {pid}) started" in words
    assert f"FastCGI: manager (pid {script.pid}): received signal TERM" in words
    assert all(re.match(rf"{stamp}FastCGI: manager \(pid {script.pid}\): ", line) for line in lines)


def test_the_title_of_the_manager_and_the_name_of_the_program(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, "--manager-process-name", "my manager", n=1)
    (pid,) = script.workers()
    assert cmdline(script.pid) == "my manager"
    wait_until(lambda: cmdline(pid) == " ".join(program), 60, "the program")
    assert script.stop() == 0


def test_a_program_is_found_by_the_path(folder: Folder) -> None:
    script = folder.exec(["sleep", "600"], n=1)
    (pid,) = script.workers()
    wait_until(lambda: cmdline(pid) == "sleep 600", 60, "sleep")
    assert script.stop() == 0


def test_a_program_has_no_other_descriptors_and_hears_every_signal(folder: Folder) -> None:
    script = folder.exec(["sleep", "600"], n=1)
    (pid,) = script.workers()
    wait_until(lambda: cmdline(pid) == "sleep 600", 60, "sleep")
    wait_asleep(pid, 20)  # it is still loading its libraries for a moment
    fds = open_fds(pid)
    assert fds[0].startswith("socket:")
    assert {fd: target for fd, target in fds.items() if fd > 2 and not target.startswith("pipe:")} == {}
    assert len(fds) <= 4, f"0, 1, 2 and what the harness itself hands down, not {fds}"
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(mask, 16) for mask in re.findall(r"^(?:SigBlk|SigIgn):\s+(\w+)$", status, re.MULTILINE)]
    of_the_c_library = 0x180000000  # 32 and 33, which its posix_spawn ignores in what it starts: Python 3.13 uses it
    assert [mask & ~of_the_c_library for mask in masks] == [0, 0]
    assert script.stop() == 0


def test_the_socket_of_a_spawner_is_handed_on(folder: Folder, program: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = folder.run("exec", "-n", 1, "--", *program, stdin=listener)
        (pid,) = wait_started(script, 1)
        assert fcgi.fetch(listener.getsockname()).text == str(pid)
        assert script.stop() == 0


def test_the_socket_of_systemd_is_handed_on(folder: Folder, program: list[str]) -> None:
    """And nothing of its protocol is left in the environment of the program."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shell = 'exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"'
        command = [sys.executable, "-m", "fcgi_procmanager", "exec", "-n", "1", "--", *program]
        script = folder.run_plain(["sh", "-c", shell, *command], stdin=listener)
        (pid,) = wait_started(script, 1)
        address = listener.getsockname()
        assert fcgi.fetch(address).text == str(pid)
        assert fcgi.fetch(address, "/env/LISTEN_PID").text in ("is not set", str(pid))
        assert script.stop() == 0


def test_mode_and_owner_of_the_socket(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, "--socket-mode", "600", "--socket-owner", f"{os.getuid()}")
    assert stat.S_IMODE(os.stat(folder.sock_path).st_mode) == 0o600
    assert script.stop() == 0


def test_a_socket_is_taken_over_from_a_living_server(folder: Folder, program: list[str]) -> None:
    old = folder.exec(program, n=1)
    assert "held by a living server" in refused(folder.run("exec", "--listen", folder.sock_path, "--", *program))
    (folder.path / "pid").rename(folder.path / "old.pid")
    new = folder.exec(program, "--take-over", n=1)
    assert int(folder.ask()) in new.workers()
    assert old.stop() == 0
    assert int(folder.ask()) in new.workers()
    assert new.stop() == 0


def test_variables_of_the_environment(folder: Folder, program: list[str]) -> None:
    options = ("--env", "GREETING=hello", "--env", "EQUALS=a=b", "--env", "EMPTY=")
    script = folder.exec(program, *options, n=1, env={"GREETING": "replaced", "KEPT": "yes"})
    assert [folder.ask(f"/env/{name}") for name in ("GREETING", "EQUALS", "EMPTY", "KEPT")] == [
        "hello",
        "a=b",
        "",
        "yes",
    ]
    assert script.stop() == 0


# Keeping them


def test_one_that_is_killed_is_replaced(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=2)
    killed, other = script.workers()
    os.kill(killed, signal.SIGKILL)
    script.wait_log(rf"server \(pid {killed}\) exited with status 137 \(SIGKILL\)")
    script.wait_log(r"server \(pid \d+\) started$", 3)
    assert killed not in script.wait_workers(2)
    assert alive(other)
    assert folder.ask()
    assert script.stop() == 0


def test_one_that_ends_in_a_request_is_replaced(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=1)
    (pid,) = script.workers()
    assert not fcgi.fetch(folder.sock_path, "/crash").ended
    script.wait_log(rf"server \(pid {pid}\) exited with status 3")
    wait_started(script, 1)
    assert int(folder.ask()) != pid
    assert script.stop() == 0


def test_who_ends_at_once_is_started_later_each_time_and_then_given_up(folder: Folder) -> None:
    script = folder.exec(["sh", "-c", "exit 7"], "--interval", "20", n=2, wait=False)
    assert script.wait(30) == 1, script.log()
    script.tree_gone()
    assert 5 <= len(script.wait_log(r"exited with status 7")) <= 10
    assert not os.path.exists(folder.sock_path)
    assert not (folder.path / "pid").exists()


def test_one_that_has_been_good_is_not_given_up_and_backs_off(folder: Folder, tmp_path: Path) -> None:
    """Until it can be started again: no more than a handful of starts meanwhile."""
    flag = tmp_path / "works"
    flag.touch()
    shell = f'[ -e {flag} ] || exit 7; exec "$0" "$@"'
    script = folder.exec(["sh", "-c", shell, *plain(tmp_path)], "--interval", "0.1", n=1)
    folder.control("reload")  # which waits until the new copy is good
    (pid,) = script.workers()
    flag.unlink()
    os.kill(pid, signal.SIGKILL)
    script.wait_log(r"exited with status 7", 5)
    assert len(re.findall("exited with status 7", script.log())) <= 7
    flag.touch()
    wait_until(lambda: script.workers() and listening(folder.sock_path), 60, "another copy")
    assert int(folder.ask()) in script.workers()
    assert script.stop() == 0


def test_more_and_fewer_copies(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=1)
    script.signal(signal.SIGTTIN)
    both = wait_started(script, 2)
    script.signal(signal.SIGTTOU)
    (left,) = script.wait_workers(1)
    assert left in both
    script.signal(signal.SIGTTOU)
    script.wait_log("received signal TTOU", 2)
    assert int(folder.ask()) == left, "never below one"
    assert script.stop() == 0


@pytest.mark.skipif(not LINUX, reason="only Linux tells a program that its parent has died")
def test_copies_die_with_a_manager_that_is_killed(folder: Folder, program: list[str]) -> None:
    script = folder.exec(["sleep", "600"], n=3)
    pids = script.workers()
    script.signal(signal.SIGKILL)
    assert script.wait() == -signal.SIGKILL
    for pid in pids:
        wait_dead(pid)
    script.tree_gone()
    again = folder.exec(program, n=1)  # what the dead one left is recognised
    assert folder.ask()
    assert again.stop() == 0


# Mistakes of the caller


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--", "/nowhere/program"], "/nowhere/program"),
        (["--", "no-such-program-anywhere"], "no-such-program-anywhere"),
        (["--", "./gate"], "gate"),
        (["--", "./text"], "text"),
        (["--", "."], "."),
        (["--chdir", "nowhere", "--", "sleep", "600"], "nowhere"),
        (["--stop-signal", "NOSUCH", "--", "sleep", "600"], "NOSUCH"),
        (["--env", "NOVALUE", "--", "sleep", "600"], "NOVALUE"),
        (["-n", "0", "--", "sleep", "600"], "0"),
        (["--die-timeout", "soon", "--", "sleep", "600"], "soon"),
        (["--"], "no program"),
        ([], "no program"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(folder: Folder, options: list[str], words: str) -> None:
    (folder.path / "text").write_text("not executable\n")
    line = refused(folder.run("exec", "--listen", folder.sock_path, "--pidfile", "pid", *options))
    assert words in line
    assert not os.path.exists(folder.sock_path)
    assert not (folder.path / "pid").exists()


def test_without_a_socket_there_is_nothing_to_serve(folder: Folder, program: list[str]) -> None:
    assert "--listen" in refused(folder.run("exec", "--", *program))


def test_a_pid_file_that_is_held_is_refused(folder: Folder, program: list[str]) -> None:
    script = folder.exec(program, n=1)
    other: Any = folder.run("exec", "--listen", f"127.0.0.1:{free_port()}", "--pidfile", "pid", "--", *program)
    assert "pid" in refused(other)
    assert folder.ask() == str(script.workers()[0])
    assert script.stop() == 0
