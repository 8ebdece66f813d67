"""Listeners: real sockets, real files, and real processes that race for them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.errors import ConfigError, ListenError
from fcgi_procmanager.sockets import addresses, binding, inherited, socketfiles
from fcgi_procmanager.sockets.addresses import Address, parse_address
from fcgi_procmanager.sockets.binding import bind
from fcgi_procmanager.sockets.inherited import inherit, systemd_listeners
from fcgi_procmanager.sockets.listener import Listener
from harness.process import free_port

HAS_V6 = socket.has_ipv6
try:
    with socket.socket(socket.AF_INET6) as _trial:
        _trial.bind(("::1", 0))
except OSError:
    HAS_V6 = False

needs_v6 = pytest.mark.skipif(not HAS_V6, reason="no IPv6 here")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners or users, which takes root")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


@pytest.fixture(autouse=True)
def _same_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    after = os.umask(before)
    assert after == 0o022


def in_child(act: Callable[[], str]) -> str:
    """What `act` returns in a forked child, or the name and text of what it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, act().encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as report:
        text = report.read().decode()
    os.waitpid(pid, 0)
    return text


def make_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected", "text"),
    [
        ("/run/app.sock", Address("unix", path="/run/app.sock"), "/run/app.sock"),
        ("./app", Address("unix", path="./app"), "./app"),
        ("app.sock", Address("unix", path="app.sock"), "app.sock"),
        ("/run/a:b", Address("unix", path="/run/a:b"), "/run/a:b"),
        ("plain", Address("unix", path="plain"), "plain"),
        ("localhost:9000", Address("tcp", host="localhost", port=9000), "localhost:9000"),
        (":9000", Address("tcp", port=9000), ":9000"),
        ("127.0.0.1:0", Address("tcp", host="127.0.0.1"), "127.0.0.1:0"),
        ("[::1]:65535", Address("tcp", host="::1", port=65535), "[::1]:65535"),
        ("fd:3", Address("fd", number=3), "fd:3"),
        ("", Address("fd"), "fd:0"),
        (None, Address("fd"), "fd:0"),
        (("", 9000), Address("tcp", port=9000), ":9000"),
        (("10.0.0.1", 80), Address("tcp", host="10.0.0.1", port=80), "10.0.0.1:80"),
        (("::1", 80, 0, 0), Address("tcp", host="::1", port=80), "[::1]:80"),
        (("fe80::1", 80, 0, 2), Address("tcp", host="fe80::1%2", port=80), "[fe80::1%2]:80"),
    ],
)
def test_address(value: addresses.AddressLike, expected: Address, text: str) -> None:
    assert parse_address(value) == expected
    assert expected.describe() == text
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "value",
    [
        "localhost:", "host:http", "host:-1", "host:65536", "host:٣", "::1:80", "[::1]", "[nonsense]:80", "[::1:80",
        "fd:", "fd:-1", "fd:x", "fd:9999999999", "9000", "/run/\0x", ("host",), ("host", "80"), ("host", True),
        ("host", 65536), (None, 80), ("a:b", 80), (), ("h", 1, 2, 3, 4), 80, b"/run/x", ["host", 80],
    ],
)  # fmt: skip
def test_address_refused(value: addresses.AddressLike) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(value)
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_address_path_length() -> None:
    longest = "/" + "x" * (addresses.SUN_PATH_MAX - 1)
    assert parse_address(longest).path == longest
    with pytest.raises(
        ConfigError, match=f"{addresses.SUN_PATH_MAX + 1} bytes long, a socket path may have {addresses.SUN_PATH_MAX}: "
    ):
        parse_address(longest + "x")
    with pytest.raises(ConfigError, match="bytes long"):
        parse_address("/" + "é" * 60)


# -- socket files ------------------------------------------------------------------------------------------------------


def test_unix_listens(path: str) -> None:
    listener = bind(parse_address(path))
    try:
        assert listener.describe() == path
        assert listener.fileno() == listener.socket.fileno()
        assert not listener.socket.getblocking()
        assert not listener.socket.get_inheritable()
        assert mode_of(path) == 0o660
        assert answers(path)
        listener.socket.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.socket.accept()
    finally:
        listener.remove()
    assert not os.path.lexists(path)
    assert listener.fileno() == -1
    listener.remove()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777, 0])
def test_unix_mode(path: str, mode: int) -> None:
    listener = bind(parse_address(path), mode=mode)
    assert mode_of(path) == mode
    listener.remove()


def test_unix_is_closed_until_it_has_its_mode(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    chmod = os.chmod

    def watching(target: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((mode_of(path), client.connect_ex(path)))
        chmod(target, mode)

    monkeypatch.setattr(os, "chmod", watching)
    bind(parse_address(path), mode=0o666).remove()
    assert seen == [(0o600, errno.ECONNREFUSED)]


@needs_root
@pytest.mark.parametrize(
    ("owner", "ids"),
    [("65534", (65534, 0)), ("65534:12", (65534, 12)), (":12", (0, 12)), ("root:root", (0, 0)), ("root", (0, 0))],
)
def test_unix_owner(path: str, owner: str, ids: tuple[int, int]) -> None:
    listener = bind(parse_address(path), owner=owner)
    status = os.lstat(path)
    listener.remove()
    assert (status.st_uid, status.st_gid) == ids


@pytest.mark.parametrize("owner", ["no-such-user-here", "root:no-such-group-here", ":", "", "root:", 5, "\0"])
def test_unix_owner_unknown(path: str, owner: str) -> None:
    with pytest.raises(ConfigError, match="owner"):
        bind(parse_address(path), owner=owner)
    assert not os.path.lexists(path)


@needs_root
def test_unix_owner_not_permitted() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        path = os.path.join(directory, "s.sock")

        def act() -> str:
            os.setuid(65534)
            bind(parse_address(path), owner="0")
            return "bound"

        assert in_child(act).startswith(f"ListenError: {path} cannot be given that owner")
        assert os.listdir(directory) == []


@needs_root
def test_unix_directory_not_permitted(path: str) -> None:
    def act() -> str:
        os.setuid(65534)
        bind(parse_address(path))
        return "bound"

    assert in_child(act).startswith(f"ListenError: {path} cannot be bound by this user")


@pytest.mark.parametrize("mode", [-1, 0o1000, "660", True])
def test_unix_mode_refused(path: str, mode: int) -> None:
    with pytest.raises(ConfigError, match="mode"):
        bind(parse_address(path), mode=mode)


@pytest.mark.parametrize("backlog", [-1, "5", True, 2**31])
def test_backlog_refused(path: str, backlog: int) -> None:
    with pytest.raises(ConfigError, match="backlog"):
        bind(parse_address(path), backlog=backlog)


def test_unix_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"no directory .*/gone: create it"):
        bind(Address("unix", path=str(tmp_path / "gone" / "s.sock")))


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling", "fifo"])
def test_unix_path_is_not_a_socket(tmp_path: Path, path: str, kind: str) -> None:
    other = str(tmp_path / "o.sock")
    make_stale(other)
    make: dict[str, Callable[[], object]] = {
        "file": lambda: Path(path).write_text("precious"),
        "directory": lambda: os.mkdir(path),
        "symlink": lambda: os.symlink(other, path),
        "dangling": lambda: os.symlink("nowhere", path),
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    before = os.lstat(path)
    with pytest.raises(ListenError, match="exists and is not a socket"):
        bind(parse_address(path))
    assert os.path.samestat(os.lstat(path), before)


def test_unix_living_server_is_left_alone(path: str) -> None:
    first = bind(parse_address(path))
    before = os.lstat(path)
    with pytest.raises(ListenError, match="is held by a living server"):
        bind(parse_address(path))
    assert os.path.samestat(os.lstat(path), before)
    assert answers(path)
    first.remove()


def test_unix_busy_server_is_left_alone(path: str) -> None:
    first = bind(parse_address(path), backlog=0)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]  # on PyPy two may wait
        for client in clients:
            client.setblocking(False)
            full = client.connect_ex(path)
        assert full == errno.EAGAIN
        with pytest.raises(ListenError, match="is held by a living server"):
            bind(parse_address(path))
    assert os.path.lexists(path)
    first.remove()


def test_unix_datagram_socket_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ListenError, match="cannot be bound"):
            bind(parse_address(path))
        assert os.path.lexists(path)


def test_unix_stale_is_replaced(path: str) -> None:
    make_stale(path)
    listener = bind(parse_address(path))
    assert answers(path)
    listener.remove()


def test_unix_failure_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(target: str, mode: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "chmod", failing)
    with pytest.raises(ListenError, match="Input/output error"):
        bind(parse_address(path))
    assert not os.path.lexists(path)


def test_unix_taken_meanwhile(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod, rivals = os.chmod, []

    def taking(target: str, mode: int) -> None:
        chmod(target, mode)
        os.unlink(path)
        rivals.append(socket.socket(socket.AF_UNIX))
        rivals[0].bind(path)
        rivals[0].listen()

    monkeypatch.setattr(os, "chmod", taking)
    with pytest.raises(ListenError, match="was taken by another server"):
        bind(parse_address(path))
    assert answers(path)
    rivals[0].close()


def test_unix_binds_without_the_directory_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", impossible)
    listener = bind(parse_address(path))
    listener.remove()
    assert not os.path.lexists(path)


def test_unix_lock_held_for_ever_is_no_veto(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketfiles, "_LOCK_PATIENCE", 0.02)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    bind(parse_address(path)).remove()
    os.close(directory)


def test_two_starters_one_stale_socket(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketfiles, "_LOCK_PATIENCE", 60)  # who holds the lock may be preempted
    for _ in range(60):
        make_stale(path)
        start_r, start_w = os.pipe()
        hold_r, hold_w = os.pipe()
        report_r, report_w = os.pipe()
        pids = [_racer(path, (start_r, start_w), (hold_r, hold_w), report_w) for _ in range(2)]
        os.close(report_w)
        os.close(start_w)
        outcome = sorted(os.read(report_r, 1) + os.read(report_r, 1))
        served = answers(path)
        os.close(hold_w)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        for descriptor in (start_r, hold_r, report_r):
            os.close(descriptor)
        assert outcome == sorted(b"LW")
        assert served
        os.unlink(path)


def _racer(path: str, start: tuple[int, int], hold: tuple[int, int], report: int) -> int:
    """A child that binds at the end of file on `start`, reports, and keeps what it has until that of `hold`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.close(start[1])
        os.close(hold[1])
        os.read(start[0], 1)
        try:
            listener = bind(parse_address(path))
            os.write(report, b"W")
        except ListenError:
            listener = None
            os.write(report, b"L")
        os.read(hold[0], 1)
        os._exit(0 if listener is None or listener.fileno() >= 0 else 1)
    finally:
        os._exit(1)


# -- removing ----------------------------------------------------------------------------------------------------------


def test_close_leaves_the_file(path: str) -> None:
    listener = bind(parse_address(path))
    listener.close()
    assert os.path.lexists(path)
    listener.remove()
    assert os.path.lexists(path)


def test_remove_leaves_a_successor_alone(path: str) -> None:
    first = bind(parse_address(path))
    os.unlink(path)
    second = bind(parse_address(path))
    first.remove()
    assert answers(path)
    second.remove()
    assert not os.path.lexists(path)


def test_remove_leaves_another_kind_of_file_alone(path: str) -> None:
    listener = bind(parse_address(path))
    os.unlink(path)
    Path(path).write_text("precious")
    listener.remove()
    assert Path(path).read_text() == "precious"


def test_file_goes_while_the_socket_listens(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = bind(parse_address(path))
    unlink, answered = os.unlink, []

    def watching(target: str) -> None:
        answered.append(answers(path))
        unlink(target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", watching)
        listener.remove()
    assert answered == [True]
    assert not os.path.lexists(path)


def test_remove_after_the_file_is_gone(path: str) -> None:
    listener = bind(parse_address(path))
    os.unlink(path)
    listener.remove()


def test_remove_in_a_child_leaves_the_file(path: str) -> None:
    listener = bind(parse_address(path))

    def act() -> str:
        listener.remove()
        return str(listener.fileno())

    assert in_child(act) == "-1"
    assert answers(path)
    listener.remove()


def test_remove_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listener = bind(parse_address("s.sock"))
    monkeypatch.chdir("/")
    listener.remove()
    assert os.listdir(tmp_path) == []


# -- tcp ---------------------------------------------------------------------------------------------------------------


def connect(listener: Listener) -> None:
    with socket.create_connection(listener.socket.getsockname()[:2]):
        pass


def test_tcp_listens() -> None:
    listener = bind(parse_address("127.0.0.1:0"))
    port = listener.socket.getsockname()[1]
    assert port > 0
    assert listener.describe() == f"127.0.0.1:{port}"
    assert not listener.socket.getblocking()
    assert not listener.socket.get_inheritable()
    connect(listener)
    listener.remove()


def test_tcp_all_interfaces() -> None:
    listener = bind(parse_address(":0"))
    assert listener.socket.getsockname()[0] == "0.0.0.0"
    assert listener.describe() == f":{listener.address.port}"
    listener.close()


@needs_v6
def test_tcp_v6() -> None:
    listener = bind(parse_address("[::1]:0"))
    assert listener.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert listener.describe() == f"[::1]:{listener.address.port}"
    connect(listener)
    listener.close()


def test_tcp_name() -> None:
    listener = bind(parse_address("localhost:0"))
    connect(listener)
    listener.close()


def test_tcp_in_use() -> None:
    first = bind(parse_address("127.0.0.1:0"))
    with pytest.raises(ListenError) as caught:
        bind(first.address)
    assert str(caught.value) == f"{first.describe()} is in use: stop the other server or choose another port"
    first.close()


def test_tcp_again_after_connections() -> None:
    first = bind(parse_address(f"127.0.0.1:{free_port()}"))
    client = socket.create_connection(first.socket.getsockname())
    served = first.socket.accept()[0]
    served.close()
    client.close()
    first.close()
    bind(first.address).close()


def test_tcp_foreign_address() -> None:
    with pytest.raises(ListenError, match="is not an address of this machine"):
        bind(parse_address("192.0.2.1:0"))


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70, "a..b"])
def test_tcp_unresolvable(host: str) -> None:
    with pytest.raises(ListenError, match="cannot be resolved"):
        bind(parse_address(f"{host}:80"))


def test_tcp_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(family: int, target: object, backlog: int, kind: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(binding, "_listen_tcp", refusing)
    with pytest.raises(ListenError, match="may not be bound by this user: choose a port above 1023"):
        bind(parse_address("127.0.0.1:80"))


# -- inheriting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["/unix", "127.0.0.1:0", pytest.param("[::1]:0", marks=needs_v6)])
def test_inherit_keeps_number_and_family(value: str, path: str) -> None:
    original = bind(parse_address(path if value == "/unix" else value))
    family = original.socket.family
    original.socket.setblocking(True)
    number = original.socket.detach()
    os.set_inheritable(number, True)
    listener = inherit(number)
    assert listener.fileno() == number
    assert listener.socket.family == family
    assert listener.describe() == f"fd:{number}"
    assert not os.get_blocking(number)
    assert not os.get_inheritable(number)
    listener.remove()
    assert os.path.lexists(path) == (value == "/unix")


def test_bind_to_a_descriptor() -> None:
    number = bind(parse_address("127.0.0.1:0")).socket.detach()
    listener = bind(parse_address(f"fd:{number}"))
    assert listener.fileno() == number
    listener.close()


def test_inherit_refuses_and_leaves_the_descriptor(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    idle = socket.socket()
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    file = os.open(tmp_path, os.O_RDONLY)
    for number in (reader, writer, ours.fileno(), idle.fileno(), datagram.fileno(), file):
        with pytest.raises(ListenError, match=f"descriptor {number} is not a listening socket: let whoever"):
            inherit(number)
        os.fstat(number)
        assert os.get_blocking(number)
    for sock in (ours, theirs, idle, datagram):
        sock.close()
    for descriptor in (reader, writer, file):
        os.close(descriptor)


@pytest.mark.parametrize("number", [-1, 100_000, 2**40])
def test_inherit_refuses_what_is_not_open(number: int) -> None:
    with pytest.raises(ListenError, match="is not a listening socket"):
        inherit(number)


DESCRIPTOR_ZERO = """
import os, sys
from fcgi_procmanager.errors import ListenError
from fcgi_procmanager.sockets.addresses import parse_address
from fcgi_procmanager.sockets.binding import bind
try:
    listener = bind(parse_address(None))
except ListenError as error:
    sys.exit(str(error))
print(listener.fileno(), listener.describe(), os.get_blocking(0), os.get_inheritable(0))
listener.remove()
print(os.path.samestat(os.fstat(0), os.stat(os.devnull)), os.get_inheritable(0))
"""


def run_python(code: str, stdin: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], stdin=stdin, capture_output=True, text=True, timeout=60
    )


def test_descriptor_zero(path: str) -> None:
    listener = bind(parse_address(path))
    done = run_python(DESCRIPTOR_ZERO, listener.fileno())
    assert (done.stdout, done.stderr) == ("0 fd:0 False True\nTrue True\n", "")
    assert answers(path)
    listener.remove()


def test_descriptor_zero_is_no_listener() -> None:
    done = run_python(DESCRIPTOR_ZERO, subprocess.DEVNULL)
    wanted = "descriptor 0 is not a listening socket: give an address, or let a FastCGI spawner start this\n"
    assert (done.returncode, done.stderr) == (1, wanted)


# -- systemd -----------------------------------------------------------------------------------------------------------


def activate(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", "a:b")):
        monkeypatch.setenv(name, value)


def systemd_names() -> set[str]:
    return {name for name in os.environ if name.startswith("LISTEN_")}


ACTIVATED = """
import os, sys
from fcgi_procmanager.sockets.inherited import systemd_listeners
for index, number in enumerate(sys.argv[1:]):
    os.dup2(int(number), 60 + index)
for index in range(len(sys.argv) - 1):
    os.dup2(60 + index, 3 + index)
os.environ["LISTEN_PID"] = str(os.getpid())
found = systemd_listeners()
print([one.describe() for one in found], [one.socket.family.name for one in found])
print([name for name in os.environ if name.startswith("LISTEN_")], systemd_listeners())
for one in found:
    one.remove()
"""


def test_systemd_listeners(path: str) -> None:
    sockets = [bind(parse_address(value)) for value in (path, "127.0.0.1:0")]
    numbers = [str(one.fileno()) for one in sockets]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ACTIVATED, *numbers],
        env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"},
        pass_fds=[one.fileno() for one in sockets],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("['fd:3', 'fd:4'] ['AF_UNIX', 'AF_INET']\n[] []\n", "")
    assert answers(path)
    for one in sockets:
        one.remove()


@pytest.mark.parametrize(
    ("pid", "count"),
    [("1", "2"), ("", ""), ("me", "2"), ("{pid}", "many"), ("{pid}", "-1"), ("{pid}", "0"), ("{pid}", "9" * 30)],
)
def test_systemd_means_somebody_else(monkeypatch: pytest.MonkeyPatch, pid: str, count: str) -> None:
    activate(monkeypatch, pid.format(pid=os.getpid()), count)
    assert systemd_listeners() == []
    assert systemd_names() == set()


def test_systemd_descriptor_is_no_listener(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    sock = bind(parse_address(path))
    reader, writer = os.pipe()
    monkeypatch.setattr(inherited, "SYSTEMD_FIRST", reader)
    activate(monkeypatch, str(os.getpid()), "1")
    with pytest.raises(ListenError, match=f"descriptor {reader} is not"):
        systemd_listeners()
    os.close(reader)
    os.close(writer)
    sock.remove()
