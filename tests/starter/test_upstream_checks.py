"""What Server::Starter's own tests check of the command, on both sides."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest

from harness.process import alive, free_port, listening, wait_asleep, wait_dead
from starter.conftest import Launch
from starter.sides import SIDES, Superdaemon, run_command, write_over

pytestmark = pytest.mark.parametrize("side", SIDES)


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_hup_starts_a_new_worker_and_then_asks_the_old_one_to_leave(launch_side: Launch, side: str, name: str) -> None:
    daemon = launch_side(side, "--path=SOCK", f"--signal-on-hup={name}", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    first = daemon.wait_status(1)[1]
    assert daemon.ask("echo me") == "echo me"
    assert daemon.who() == (1, first)
    daemon.hup()
    both = daemon.wait_status(1, 2)
    assert both[1] == first
    daemon.wait_event(f"got {name} 1 {first}")
    assert sorted(daemon.status()) == [1, 2]
    daemon.file("hold").unlink()
    second = daemon.wait_status(2)[2]
    assert second == both[2]
    assert daemon.who() == (2, second)
    assert daemon.end() == 0
    assert not daemon.file("status").exists()


def test_the_old_worker_serves_until_a_new_one_has_started_well(launch_side: Launch, side: str) -> None:
    options = ("--path=SOCK", "--interval=3")  # a program that fails does so in less, also on a busy machine
    daemon = launch_side(side, *options, words=["failing=DIR/broken"], prepare=lambda it: it.file("broken").touch())
    daemon.wait_event(r"failing 1 \d+")
    daemon.file("broken").unlink()
    old, pid = daemon.wait_only()
    assert old > 1
    assert daemon.who() == (old, pid)
    daemon.file("broken").touch()
    daemon.hup()
    daemon.wait_event(rf"failing {old + 2} \d+")
    assert daemon.who() == (old, pid)
    assert daemon.status() == {old: pid}
    daemon.file("broken").unlink()
    new = daemon.wait_only(but=old)
    assert new[0] > old + 2
    assert daemon.who() == new
    assert daemon.end() == 0


def test_the_socket_file_is_removed_at_the_end(launch_side: Launch, side: str) -> None:
    daemon = launch_side(side, "--path=SOCK")
    daemon.wait_status(1)
    assert daemon.ask("echo me") == "echo me"
    assert daemon.end() == 0
    assert not os.path.exists(daemon.sock)


def test_the_worker_runs_in_dir(launch_side: Launch, side: str, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    daemon = launch_side(side, "--path=SOCK", f"--dir={folder}")
    daemon.wait_status(1)
    assert daemon.ask("cwd") == str(folder)
    daemon.end()


def test_the_old_worker_is_killed_after_the_delay(launch_side: Launch, side: str) -> None:
    daemon = launch_side(side, "--path=SOCK", "--kill-old-delay=2", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    daemon.wait_status(1)
    begun = time.monotonic()
    daemon.hup()
    daemon.wait_status(1, 2)
    daemon.wait_event(r"got TERM 1 \d+")
    assert time.monotonic() - begun > 1 + 0.9  # its survival time; and Perl sleeps in whole seconds
    daemon.file("hold").unlink()
    daemon.wait_status(2)
    daemon.end()


def test_auto_restart_replaces_the_worker_when_it_is_old_enough(launch_side: Launch, side: str) -> None:
    options = ("--enable-auto-restart", "--auto-restart-interval=4", "--kill-old-delay=1", "--envdir=DIR/calm")
    begun = time.monotonic()
    daemon = launch_side(
        side,
        "--path=SOCK",
        *options,
        words=["hold=DIR/hold", "calm=2"],
        prepare=lambda it: (it.file("calm").mkdir(), it.file("hold").touch()),
    )
    daemon.wait_status(1, 2)
    assert time.monotonic() - begun > 1 + 3 + 1 - 0.1  # two survival times; and Perl counts whole seconds
    daemon.wait_event(r"got TERM 1 \d+")
    daemon.file("hold").unlink()
    daemon.wait_status(2)
    assert daemon.who()[0] == 2
    daemon.end()


def test_the_worker_sees_the_files_of_the_envdir_as_variables(launch_side: Launch, side: str, tmp_path: Path) -> None:
    """A file that is removed gives the variable back the value that it had at the start."""
    envdir = tmp_path / "env"
    envdir.mkdir()
    (envdir / "FOO").write_text("one\nmore\n")
    (envdir / ".HIDDEN").write_text("hidden\n")
    daemon = launch_side(side, "--path=SOCK", f"--envdir={envdir}", env={"BAR": "given", "EMPTY": "kept"})
    (envdir / "EMPTY").touch()
    daemon.wait_status(1)
    seen = [_values(daemon)]
    changes = [{"FOO": "two", "BAR": "new", "LATE": "late"}, {"FOO": None, "BAR": None, "LATE": None}]
    for number, change in enumerate(changes, 2):
        # Perl reads the folder when a worker has died, and then serves a HUP that came meanwhile.
        daemon.come_to_rest()
        for name, value in change.items():
            write_over(envdir / name, f"{value}\n") if value else (envdir / name).unlink()
        daemon.hup()
        daemon.wait_status(number)
        seen.append(_values(daemon))
    assert seen == ["one given - - kept", "two new late - kept", "one given - - kept"]
    daemon.end()
    assert not daemon.file("status").exists()


def _values(daemon: Superdaemon) -> str:
    return " ".join(daemon.ask(f"env {name}") for name in ("FOO", "BAR", "LATE", ".HIDDEN", "EMPTY"))


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_an_address_of_one_family_is_not_reached_by_the_other(
    launch_side: Launch, side: str, host: str, other: str
) -> None:
    wild = {"127.0.0.1": "0.0.0.0", "::1": "[::]"}[host]
    port = free_port("::1")
    daemon = launch_side(side, f"--port={wild}:{port}")
    daemon.wait_event(r"up 1 \d+")
    assert daemon.ask("echo me", (host, port)) == "echo me"
    assert not listening((other, port))
    daemon.end()


def test_a_port_without_a_host_is_one_of_ipv4(launch_side: Launch, side: str) -> None:
    port = free_port()
    daemon = launch_side(side, f"--port={port}")
    daemon.wait_event(r"up 1 \d+")
    assert daemon.ask("echo me", ("127.0.0.1", port)) == "echo me"
    assert not listening(("::1", port))
    daemon.end()


def test_a_socket_can_be_put_on_descriptor_0(launch_side: Launch, side: str) -> None:
    port = free_port()
    daemon = launch_side(side, f"--port=127.0.0.1:{port}=0")
    daemon.wait_event(r"up 1 \d+")
    address = ("127.0.0.1", port)
    assert daemon.ask("env SERVER_STARTER_PORT", address) == f"127.0.0.1:{port}=0"
    assert "0" in daemon.ask("inherited", address).split()
    daemon.end()


def test_a_daemonised_superdaemon_is_stopped_by_its_pid_file(launch_side: Launch, side: str, tmp_path: Path) -> None:
    """The socket file outlives the launching process, and the PID file is gone when --stop returns."""
    daemon = launch_side(side, "--path=SOCK", "--daemonize", "--log-file=DIR/log", "--pid-file=DIR/pid")
    assert daemon.script.wait() == 0
    daemon.wait_status(1)
    pid = int(daemon.file("pid").read_text())
    wait_asleep(pid)
    assert alive(pid)
    assert pid != daemon.pid
    assert daemon.ask("echo me") == "echo me"
    status, _, _ = run_command(side, tmp_path / "stop", "--stop", f"--pid-file={daemon.file('pid')}")
    assert status == 0
    assert not daemon.file("pid").exists()
    wait_dead(pid)
    daemon.script.tree_gone()
    daemon.programs_gone()
    assert not os.path.exists(daemon.sock)


def test_without_ports_the_variable_is_there_and_empty(launch_side: Launch, side: str) -> None:
    show = 'import os; print(repr(os.environ.get("SERVER_STARTER_PORT"))); import signal; signal.pause()'
    daemon = launch_side(side, program=["python3", "-S", "-u", "-c", show])
    assert daemon.script.line() == "''"
    daemon.end()


@pytest.mark.parametrize("host", ["", "127.0.0.1:"])
def test_a_port_of_udp(launch_side: Launch, side: str, host: str) -> None:
    port = free_port()
    daemon = launch_side(side, f"--port={host}u{port}")
    daemon.wait_event(r"up 1 \d+")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        client.send(b"env SERVER_STARTER_PORT\n")
        assert client.recv(1000).decode().startswith(f"{host}{port}=")
    daemon.end(SIGTERM)
