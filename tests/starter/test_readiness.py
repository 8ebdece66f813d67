"""What the original's users ask for: readiness, and the protocols of systemd."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from signal import SIGTERM

import pytest

from harness.process import Overdue, free_port, wait_dead
from starter.conftest import Launch
from starter.sides import Superdaemon


class Upward:
    """A NOTIFY_SOCKET as systemd has it."""

    def __init__(self, name: str) -> None:
        self.address = name
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(name.replace("@", "\0", 1))
        self.seen = b""

    def wait(self, word: str, timeout: float = 60) -> str:
        """The next message with a line that begins so; all others until then must not say that we are ready."""
        deadline = time.monotonic() + timeout
        while True:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            message = self.sock.recv(4096).decode()
            if any(line.startswith(word) for line in message.splitlines()):
                return message
            assert "READY=1" not in message, message

    def silent(self, timeout: float) -> bool:
        self.sock.settimeout(timeout)
        try:
            return "READY=1" not in self.sock.recv(4096).decode()
        except OSError:  # its time is over
            return True


@pytest.fixture(params=["file", "abstract"])
def upward(request: pytest.FixtureRequest) -> Iterator[Upward]:
    if request.param == "abstract":
        upward = Upward(f"@fcgi-test-{os.getpid()}-{time.monotonic_ns()}")
    else:
        folder = tempfile.mkdtemp(prefix="pm-", dir="/tmp")
        upward = Upward(f"{folder}/notify")
    with closing(upward.sock):
        yield upward
    if request.param == "file":
        os.unlink(upward.address)
        os.rmdir(os.path.dirname(upward.address))


# -- readiness of a generation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["notify", "fd"])
def test_a_generation_is_good_when_it_says_so(launch: Launch, how: str) -> None:
    """And not before, however long it has lived, nor later."""
    daemon = launch("--path=SOCK", "--interval=1", "--ready-timeout=600", words=[f"ready={how}", "gate=DIR/gate"])
    daemon.wait_event(r"up 1 \d+")
    with pytest.raises(Overdue):
        daemon.wait_status(1, timeout=1.5)
    daemon.file("gate").touch()
    daemon.wait_status(1)
    daemon.hup()
    daemon.wait_status(2)
    assert daemon.end() == 0


@pytest.mark.parametrize("how", ["notify", "fd"])
def test_a_generation_may_say_it_again_and_in_the_other_way(launch: Launch, how: str) -> None:
    """A program that knows several systems does; it must not die of it (of SIGPIPE, if it were one in C)."""
    daemon = launch("--path=SOCK", "--interval=1", "--ready-timeout=600", words=[f"ready={how}"])
    worker = daemon.wait_status(1)[1]
    answers = [daemon.ask(word) for word in ("notify READY=1", "newline", "notify STATUS=well", "newline")]
    assert answers == ["done"] * 4
    assert daemon.who() == (1, worker)
    assert daemon.status() == {1: worker}
    assert daemon.end() == 0


def test_a_ready_generation_does_not_wait_for_the_interval(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=600", "--ready-timeout=600", words=["ready=notify"])
    daemon.wait_status(1)
    assert daemon.end() == 0


def test_a_generation_that_is_not_ready_in_time_has_failed_to_start(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--ready-timeout=2", words=["ready=fd", "gate=DIR/gate"])
    daemon.file("gate").touch()
    first, pid = daemon.wait_only()  # on a busy machine any of them may be late, and then another one is started
    daemon.file("gate").unlink()
    daemon.hup()
    late = int(daemon.script.wait_log(r"^received HUP.*\nstarting new worker (\d+)$")[0][1])
    daemon.script.wait_log(rf"^new worker {late} (seems to have failed to start|was not ready)")
    wait_dead(late)
    assert daemon.status() == {first: pid}
    daemon.file("gate").touch()
    generation, _ = daemon.wait_only(but=first)
    assert generation > first + 1
    assert daemon.end() == 0


def test_a_generation_that_dies_before_it_is_ready_has_failed_at_once(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--ready-timeout=600", words=["ready=notify", "fail=1"])
    daemon.wait_status(2)
    assert daemon.end() == 0


def test_a_worker_that_is_deaf_and_not_ready_is_killed(launch: Launch) -> None:
    words = ["ready=fd", "gate=DIR/gate", "deaf"]
    daemon = launch("--path=SOCK", "--ready-timeout=1", "--die-timeout=1", words=words)
    # On a busy machine the first one may have been killed before it was up.
    generation, pid = map(int, daemon.wait_event(r"up (\d+) (\d+)")[0].groups())
    wait_dead(pid)
    daemon.script.wait_log("^starting new worker", generation + 1)
    assert daemon.end() in (0, 1)


def test_without_readiness_the_program_gets_none_of_its_variables(launch: Launch, upward: Upward) -> None:
    env = {"NOTIFY_SOCKET": upward.address, "SERVER_STARTER_NOTIFY_FD": "7", "WATCHDOG_USEC": "1000000"}
    daemon = launch("--path=SOCK", env=env)
    daemon.wait_status(1)
    assert daemon.ask("env NOTIFY_SOCKET") == "-"
    assert daemon.ask("env SERVER_STARTER_NOTIFY_FD") == "-"
    assert daemon.end() == 0


# -- up to systemd ----------------------------------------------------------------------------------------------------


def test_systemd_hears_of_every_change(launch: Launch, upward: Upward) -> None:
    env = {"NOTIFY_SOCKET": upward.address}
    words = ["ready=notify", "gate=DIR/gate"]
    daemon = launch("--path=SOCK", "--ready-timeout=600", words=words, env=env)
    daemon.wait_event(r"up 1 \d+")
    assert upward.silent(0.3)
    assert daemon.status() == {}
    daemon.file("gate").touch()
    upward.wait("READY=1")
    daemon.wait_status(1)
    assert daemon.ask("env NOTIFY_SOCKET") not in ("-", upward.address)
    daemon.file("gate").unlink()
    daemon.hup()
    reloading = upward.wait("RELOADING=1")
    assert "MONOTONIC_USEC=" in reloading
    assert upward.silent(0.3)
    daemon.file("gate").touch()
    upward.wait("READY=1")
    daemon.wait_status(2)
    daemon.script.signal(SIGTERM)
    upward.wait("STOPPING=1")
    assert daemon.script.wait() == 0


def test_systemd_hears_that_the_superdaemon_lives(launch: Launch, upward: Upward) -> None:
    env = {"NOTIFY_SOCKET": upward.address, "WATCHDOG_USEC": "400000"}
    daemon = launch("--path=SOCK", "--ready-timeout=600", words=["ready=notify"], env=env)
    daemon.wait_status(1)
    upward.wait("READY=1")
    for _ in range(3):
        upward.wait("WATCHDOG=1")
    assert daemon.ask("env WATCHDOG_USEC") == "-"
    daemon.script.signal(SIGTERM)
    assert "EXTEND_TIMEOUT_USEC=" in upward.wait("STOPPING=1")
    assert daemon.script.wait() == 0


def test_systemd_hears_that_it_goes_on_after_a_failed_change(launch: Launch, upward: Upward) -> None:
    """While the next generation fails, the old one serves; ready again is said when there is a new one."""
    words = ["fail=2,3", "ready=fd"]
    daemon = launch("--path=SOCK", "--ready-timeout=600", words=words, env={"NOTIFY_SOCKET": upward.address})
    upward.wait("READY=1")
    daemon.hup()
    upward.wait("RELOADING=1")
    upward.wait("READY=1")
    daemon.wait_status(4)
    assert daemon.end() == 0


def test_a_notify_socket_where_nobody_listens_harms_nothing(launch: Launch) -> None:
    daemon = launch("--path=SOCK", env={"NOTIFY_SOCKET": "/nonexistent/notify"})
    daemon.wait_status(1)
    daemon.hup()
    daemon.wait_status(2)
    assert daemon.end() == 0


# -- sockets of systemd -----------------------------------------------------------------------------------------------

AS_SYSTEMD = """
import os, sys
count, *rest = sys.argv[1:]
fds, command = list(map(int, rest[: int(count)])), rest[int(count) :]
high = [os.dup2(fd, 100 + number) for number, fd in enumerate(fds)]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
for fd in high:
    os.close(fd)
os.execvp("sh", ["sh", "-c", 'export LISTEN_PID=${FORCED:-$$}; exec "$@"', "sh", *command])
"""


@pytest.fixture
def launch_activated(launch: Launch) -> Launch:
    """`launch_activated(sockets, *options)`: with these sockets from descriptor 3 on, and LISTEN_PID."""

    def start(sockets: list[socket.socket], *options: str, env: dict[str, str], **more: object) -> Superdaemon:
        fds = [sock.fileno() for sock in sockets]
        head = [sys.executable, "-S", "-c", AS_SYSTEMD, str(len(fds)), *map(str, fds)]
        env = {"LISTEN_FDS": str(len(fds)), **env}
        return launch(*options, launcher=lambda argv: [*head, *argv], pass_fds=fds, env=env, **more)

    return start


def test_inherited_sockets_appear_under_their_own_address(launch_activated: Launch, sock_path: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp, closing(socket.socket(socket.AF_UNIX)) as unix:
        port = tcp.getsockname()[1]
        unix.bind(sock_path)
        unix.listen()
        daemon = launch_activated([tcp, unix], env={"LISTEN_FDNAMES": "web:admin"})
        daemon.wait_status(1)
        assert daemon.ask("env SERVER_STARTER_PORT") == f"127.0.0.1:{port}=3;{sock_path}=4"
        assert daemon.ask("inherited", ("127.0.0.1", port)) == "3 4"
        assert daemon.ask("env LISTEN_FDNAMES") == "web:admin"
        assert daemon.ask("env LISTEN_FDS") == "2"
        assert daemon.ask("env LISTEN_PID") == str(daemon.status()[1])
        daemon.hup()
        daemon.wait_status(2)
        assert daemon.ask("env LISTEN_PID") == str(daemon.status()[2])
        assert daemon.end() == 0
        assert os.path.exists(sock_path), "the socket file is systemd's"
        os.unlink(sock_path)


def test_inherited_sockets_and_those_of_options_are_all_there(launch_activated: Launch) -> None:
    other = free_port()
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp:
        port = tcp.getsockname()[1]
        daemon = launch_activated([tcp], "--path=SOCK", f"--port=127.0.0.1:{other}", env={"LISTEN_FDNAMES": "web"})
        daemon.wait_status(1)
        pairs = dict(pair.rsplit("=", 1) for pair in daemon.ask("env SERVER_STARTER_PORT").split(";"))
        assert set(pairs) == {f"127.0.0.1:{port}", f"127.0.0.1:{other}", daemon.sock}
        assert sorted(pairs.values()) == ["3", "4", "5"]
        assert pairs[daemon.sock] == "5"
        names = daemon.ask("env LISTEN_FDNAMES").split(":")
        assert len(names) == 3
        assert names[int(pairs[f"127.0.0.1:{port}"]) - 3] == "web"
        for address in (("127.0.0.1", port), ("127.0.0.1", other), daemon.sock):
            assert daemon.ask("echo me", address) == "echo me"
        assert daemon.end() == 0


def test_sockets_for_another_process_are_not_taken(launch_activated: Launch) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp:
        daemon = launch_activated([tcp], "--path=SOCK", env={"FORCED": "1"})
        daemon.wait_status(1)
        pairs = daemon.ask("env SERVER_STARTER_PORT").split(";")
        assert [pair.rpartition("=")[0] for pair in pairs] == [daemon.sock]
        assert daemon.ask("env LISTEN_FDS") == "1"
        assert daemon.end() == 0


def test_any_socket_activated_program_can_be_run(launch: Launch) -> None:
    """Ports first, then paths, from descriptor 3 on; one that has a number of its own is there as well."""
    ports = [free_port() for _ in range(2)]
    daemon = launch("--path=SOCK", f"--port=127.0.0.1:{ports[0]}=40", f"--port=127.0.0.1:{ports[1]}")
    pid = daemon.wait_status(1)[1]
    assert daemon.ask("env LISTEN_FDS") == "3"
    assert daemon.ask("env LISTEN_PID") == str(pid)
    assert daemon.ask("inherited") == "3 4 5 40"
    assert daemon.ask("env SERVER_STARTER_PORT") in (
        f"127.0.0.1:{ports[0]}=40;127.0.0.1:{ports[1]}=4;{daemon.sock}=5",
        f"127.0.0.1:{ports[0]}=3;127.0.0.1:{ports[1]}=4;{daemon.sock}=5",
    )
    assert len(daemon.ask("env LISTEN_FDNAMES").split(":")) == 3
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (3, 40)} == {os.readlink(f"/proc/{pid}/fd/3")}
    assert daemon.end() == 0
