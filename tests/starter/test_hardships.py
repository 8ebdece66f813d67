"""A superdaemon that was held up, started without descriptors, or cannot write: it does not mistake the dead for the living."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, alive, process_state, wait_dead, wait_until

Run = Callable[..., Script]
COMMAND = [sys.executable, "-m", "fcgi_procmanager.starter"]


@pytest.fixture
def start(run_script: Run, tmp_path: Path) -> Callable[..., Script]:
    def run(*words: str, source: str = "", **more: object) -> Script:
        if source:
            (tmp_path / "program").write_text(f"#!/bin/sh\n{source}\n")
            (tmp_path / "program").chmod(0o755)
        return run_script([*COMMAND, *words], cwd=tmp_path, **more)

    return run


def test_one_that_died_while_nobody_looked_has_failed_to_start(start: Callable[..., Script], tmp_path: Path) -> None:
    # It stops the superdaemon itself: that may be quicker than a test. The time of three seconds is for a busy machine.
    dies = "case $SERVER_STARTER_GENERATION in 1) exec sleep 600;; 2) kill -STOP $PPID; : >over;; esac; exit 7"
    script = start("--status-file=status", "--interval=3", "--", "./program", source=dies)
    wait_until((tmp_path / "status").exists)
    first = int((tmp_path / "status").read_text().partition(":")[2])
    script.signal(signal.SIGHUP)
    second = int(script.wait_log(r"starting new worker (\d+)$", 2)[1][1])
    wait_until((tmp_path / "over").exists)
    wait_dead(second)
    time.sleep(3.1)  # its time is over, and more, before anybody looks
    script.signal(signal.SIGCONT)
    script.wait_log("seems to have failed to start")
    assert alive(first)
    assert "killing old workers" not in script.log()
    assert script.stop() == 0


def test_one_that_left_in_time_was_not_killed(start: Callable[..., Script], tmp_path: Path) -> None:
    leaves = "trap ': >asked' TERM; : >up; while ! [ -e leave ]; do sleep 0.05; done"
    script = start("--die-timeout=4", "--interval=0.2", "--status-file=status", "--", "./program", source=leaves)
    wait_until((tmp_path / "status").exists)
    wait_until((tmp_path / "up").exists)
    worker = int((tmp_path / "status").read_text().partition(":")[2])
    script.signal(signal.SIGTERM)
    wait_until((tmp_path / "asked").exists)
    script.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(script.pid) == "T")
    (tmp_path / "leave").touch()
    wait_dead(worker)
    time.sleep(4.1)
    script.signal(signal.SIGCONT)
    assert script.wait() == 0, script.log()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors_do_no_harm(run_script: Run, tmp_path: Path, closed: str) -> None:
    words = f"{' '.join(COMMAND)} --status-file=status --log-file=log --interval=0.2 -- sleep 600"
    script = run_script(["sh", "-c", f"exec {words} {closed}"], cwd=tmp_path)
    wait_until((tmp_path / "status").exists)
    before = _cpu(script.pid)
    time.sleep(0.3)
    assert _cpu(script.pid) - before < 0.1, "it spins"
    assert script.stop() == 0
    assert (tmp_path / "log").read_text().startswith("starting new worker ")
    assert (tmp_path / "log").read_text().endswith("exiting\n")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
@pytest.mark.parametrize("command", ["starter", "exec"])
def test_a_standard_error_that_nobody_reads_stops_nobody(tmp_path: Path, command: str, number: int) -> None:
    words = {
        "starter": [*COMMAND, "--pid-file=pid", "--", "sleep", "600"],
        "exec": [
            sys.executable,
            "-m",
            "fcgi_procmanager",
            "exec",
            "--listen",
            ":0",
            "--pidfile",
            "pid",
            "--",
            "sleep",
            "600",
        ],
    }[command]
    reading, writing = os.pipe()
    process = subprocess.Popen(words, cwd=tmp_path, stderr=writing)
    try:
        wait_until((tmp_path / "pid").exists)
        os.set_blocking(writing, False)
        try:
            while os.write(writing, b"x" * 4096):
                pass
        except BlockingIOError:
            os.set_blocking(writing, True)  # the flag is shared with those who write there
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else 1)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
    assert not (tmp_path / "pid").exists()


def test_sockets_of_systemd_are_there_in_the_background_too(run_script: Run, tmp_path: Path, sock_path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock_path)
        listener.listen()
        words = f"{' '.join(COMMAND)} --daemonize --pid-file=pid --log-file=log --interval=0.2"
        shell = f"exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec {words} -- sh -c 'env >seen; exec sleep 600'"
        script = run_script(["bash", "-c", shell], cwd=tmp_path, pass_fds=[listener.fileno()])
        assert script.wait() == 0, script.log()
        wait_until(
            lambda: (
                (tmp_path / "seen").exists()
                and f"SERVER_STARTER_PORT={sock_path}=3\n" in (tmp_path / "seen").read_text()
            )
        )
        subprocess.run([*COMMAND, "--stop", "--pid-file=pid"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    os.unlink(sock_path)


def test_the_status_file_of_another_superdaemon_is_left_alone(start: Callable[..., Script], tmp_path: Path) -> None:
    first = start("--status-file=status", "--interval=0.2", "--", "sleep", "600")
    wait_until((tmp_path / "status").exists)
    before = (tmp_path / "status").read_text()
    second = start("--status-file=status", "--interval=0.2", "--", "sleep", "600")
    assert second.wait() == 2
    assert "status belongs to another superdaemon: choose another --status-file" in second.log()
    assert (tmp_path / "status").read_text() == before
    assert first.stop() == 0
    assert not (tmp_path / "status").exists()


def test_a_status_that_could_not_be_written_is_written_later(start: Callable[..., Script], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").rename(tmp_path / "away")
    script = start("--status-file=folder/status", "--interval=0.2", "--", "sleep", "600")
    script.wait_log("failed to write the status file:")
    (tmp_path / "away").rename(tmp_path / "folder")
    wait_until((tmp_path / "folder" / "status").exists)
    assert script.log().count("failed to write") == 1
    assert script.stop() == 0


def test_a_program_that_calls_it_has_its_standard_descriptors_back(run_script: Run, tmp_path: Path) -> None:
    source = """
        import os, signal, sys, threading, time
        from fcgi_procmanager.starter import start_server

        def shown():
            return [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)], len(os.listdir("/proc/self/fd"))

        def stop_it():
            while not os.path.exists("status"):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        for target in ("log", "| cat >>piped", "log"):
            before = shown()
            threading.Thread(target=stop_it).start()
            assert start_server(exec=["sleep", "600"], interval=0.1, log_file=target, status_file="status") == 0
            assert shown() == before, (target, before, shown())
        print("fine")
    """
    script = run_script(source, cwd=tmp_path)
    assert script.line() == "fine", script.log()
    assert script.wait() == 0


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"exec": 5}, "exec"),
        ({"port": 1.5}, "port"),
        ({"port": b"80"}, "port"),
        ({"path": "\ud800"}, "path"),
        ({"path": 5}, "path"),
        ({"path": [1]}, "path"),
        ({"path": b"/x"}, "path"),
        ({"path": ""}, "path"),
    ],
)
def test_wrong_types_are_named(words: dict[str, object], name: str) -> None:
    from fcgi_procmanager import ConfigError
    from fcgi_procmanager.starter import start_server

    with pytest.raises(ConfigError, match=name):
        start_server(**{"exec": ["true"], **words})  # type: ignore[arg-type]


def test_a_program_that_dies_between_the_look_for_the_dead_and_the_wait_is_noticed(
    run_script: Callable[..., Script], tmp_path: Path
) -> None:
    """Nothing else happens: the end of the child is all that can wake the superdaemon."""
    script = run_script(
        """
        import os, signal, sys
        from fcgi_procmanager.children.reaper import Reaper
        from fcgi_procmanager.starter import start_server

        look, killed = Reaper.reap, []

        def look_and_kill(self):
            pid = look(self)
            workers = self.registry.workers.everybody
            if pid is None and workers and not killed and os.path.exists("now"):
                killed.append(workers[0].pid)
                os.kill(workers[0].pid, signal.SIGKILL)
                os.waitid(os.P_PID, workers[0].pid, os.WEXITED | os.WNOWAIT)
            return pid

        Reaper.reap = look_and_kill
        sys.exit(start_server(exec=["/bin/sleep", "1000"], port="127.0.0.1:0", interval=0.1))
    """,
        cwd=tmp_path,
    )
    script.wait_log("starting new worker")
    script.signal(signal.SIGHUP)
    script.wait_log(r"old worker \d+ died")  # all is quiet now
    (tmp_path / "now").touch()
    script.signal(signal.SIGUSR1)  # a look for the dead, and nothing to do
    script.wait_log(r"worker \d+ died unexpectedly with status:9, restarting")
    assert script.stop() == 0
