"""Taking a socket file over from a living server: real sockets and pools, clients that never stop asking."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError, ProcManager
from fcgi_procmanager.errors import ListenError
from fcgi_procmanager.sockets import addresses, socketfiles
from fcgi_procmanager.sockets.addresses import Address, parse_address
from fcgi_procmanager.sockets.binding import bind
from fcgi_procmanager.sockets.listener import Listener
from harness import fcgi
from harness.process import Script, wait_until

Run = Callable[..., Script]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners, which takes root")


@pytest.fixture
def path(sock_path: str) -> str:
    return sock_path


@pytest.fixture
def old(path: str) -> Iterator[Listener]:
    listener = bind(parse_address(path))
    yield listener
    listener.remove()


def take_over(path: str, **kw: Any) -> Listener:
    return bind(parse_address(path), take_over=True, **kw)


def names(path: str) -> list[str]:
    return sorted(os.listdir(os.path.dirname(path)))


def reaches(path: str, listener: Listener) -> bool:
    """Whether a client that connects to `path` comes to this listener."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        try:
            listener.socket.accept()[0].close()
        except BlockingIOError:
            return False
    return True


# -- one file ----------------------------------------------------------------------------------------------------------


def test_new_clients_come_to_the_new_server_and_queued_ones_stay(path: str, old: Listener) -> None:
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(path)
        new = take_over(path)
        assert reaches(path, new)
        connection = old.socket.accept()[0]
        connection.sendall(b"served")
        connection.close()
        assert early.recv(10) == b"served"
    old.remove()
    assert reaches(path, new)
    new.remove()
    assert names(path) == []


@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_without_a_living_server_it_is_a_start_like_any_other(path: str, before: str) -> None:
    if before == "stale":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    new = take_over(path)
    assert (new.describe(), new.address) == (path, parse_address(path))
    assert names(path) == ["s"]
    assert reaches(path, new)
    new.remove()
    assert names(path) == []


@needs_root
def test_mode_and_owner_are_right_before_the_path_leads_there(
    path: str, old: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.rename

    def watching(source: str, target: str) -> None:
        status = os.lstat(source)
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, client.connect_ex(source)))
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", watching)
        new = take_over(path, mode=0o640, owner="65534:12")
    assert seen == [(0o640, 65534, 12, 0)]
    new.socket.accept()[0].close()
    assert reaches(path, new)
    old.remove()
    new.remove()


def test_the_file_aside_is_closed_until_it_has_its_mode(
    path: str, old: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    chmod = os.chmod

    def watching(target: str, mode: int) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            seen.append((stat.S_IMODE(os.lstat(target).st_mode), client.connect_ex(target)))
        chmod(target, mode)

    monkeypatch.setattr(os, "chmod", watching)
    new = take_over(path, mode=0o666)
    assert seen == [(0o600, errno.ECONNREFUSED)]
    old.remove()
    new.remove()


@pytest.mark.leaves_socket
@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "dangling", "fifo"])
def test_what_is_not_a_socket_is_never_replaced(path: str, kind: str) -> None:
    other = f"{path}.other"
    living = bind(parse_address(other))
    make: dict[str, Callable[[], object]] = {
        "file": lambda: Path(path).write_text("precious"),
        "directory": lambda: os.mkdir(path),
        "symlink": lambda: os.symlink(other, path),
        "dangling": lambda: os.symlink("nowhere", path),
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    before = os.lstat(path)
    with pytest.raises(ListenError, match=f"{path} exists and is not a socket"):
        take_over(path)
    assert os.path.samestat(os.lstat(path), before)
    assert reaches(other, living)
    assert names(path) == ["s", "s.other"]
    living.remove()


@pytest.mark.parametrize("fails", ["chmod", "rename"])
def test_a_failure_leaves_the_living_server_and_nothing_else(
    path: str, old: Listener, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, failing)
        with pytest.raises(ListenError, match=f"{path} cannot be bound: Input/output error"):
            take_over(path)
    assert names(path) == ["s"]
    assert reaches(path, old)


def test_a_path_that_has_no_room_for_a_name_aside_is_refused(path: str) -> None:
    longest = f"{path}{'x' * (addresses.SUN_PATH_MAX - 7 - len(path))}"
    take_over(longest).remove()
    with pytest.raises(ListenError, match=f"is too long to be taken over: a path of {len(longest)} bytes can be"):
        take_over(f"{longest}x")
    assert names(path) == []


@pytest.mark.parametrize("address", ["127.0.0.1:0", "fd:0", None])
def test_what_is_not_a_socket_file_cannot_be_taken_over(address: str | None) -> None:
    with pytest.raises(ConfigError, match="take_over is for a socket file"):
        ProcManager().listen(address, take_over=True)
    with pytest.raises(ConfigError, match="take_over"):
        bind(parse_address(address), take_over=True)


def test_it_is_a_switch(path: str) -> None:
    with pytest.raises(ConfigError, match="take_over must be True or False"):
        bind(Address("unix", path=path), take_over="yes")  # type: ignore[arg-type]


# -- the way back ------------------------------------------------------------------------------------------------------


def test_a_new_server_that_ends_first_gives_the_path_back(path: str, old: Listener) -> None:
    take_over(path).remove()
    assert reaches(path, old)
    assert names(path) == ["s"]
    old.remove()
    assert names(path) == []


def test_the_path_goes_back_through_a_row_of_servers(path: str, old: Listener) -> None:
    second, third = take_over(path), take_over(path)
    third.remove()
    assert reaches(path, second)
    second.remove()
    assert reaches(path, old)
    assert names(path) == ["s"]


def test_one_in_the_middle_of_the_row_takes_nothing_with_it(path: str, old: Listener) -> None:
    second, third = take_over(path), take_over(path)
    second.remove()
    assert reaches(path, third)
    old.remove()
    third.remove()
    assert names(path) == []


def test_where_the_former_file_may_not_have_a_second_name_it_is_taken_over_all_the_same(
    path: str, old: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", forbidden)
    new = take_over(path)
    assert reaches(path, new)
    assert names(path) == ["s"]
    new.remove()
    assert names(path) == []


# -- races -------------------------------------------------------------------------------------------------------------


def test_a_server_that_stops_at_that_moment_does_not_remove_the_file_of_its_successor(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketfiles, "_LOCK_PATIENCE", 60)  # who holds the lock may be preempted
    for _ in range(100):
        old, taken = bind(parse_address(path)), []
        barrier = threading.Barrier(2)

        def take(barrier: threading.Barrier = barrier, taken: list[Listener] = taken) -> None:
            barrier.wait(60)
            taken.append(take_over(path))

        thread = threading.Thread(target=take)
        thread.start()
        barrier.wait(60)
        old.remove()
        thread.join(60)
        assert reaches(path, taken[0])
        taken[0].remove()
        assert names(path) == []


def test_it_happens_under_the_lock_of_the_directory(path: str, old: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = []
    rename = os.rename
    monkeypatch.setattr(socketfiles, "_LOCK_PATIENCE", 0)

    def watching(source: str, target: str) -> None:
        descriptor = socketfiles._open_directory(path)
        assert descriptor is not None
        locked.append(not socketfiles._flock_patiently(descriptor))
        os.close(descriptor)
        rename(source, target)

    monkeypatch.setattr(os, "rename", watching)
    new = take_over(path)
    assert locked == [True]
    old.remove()
    new.remove()


def test_a_starter_that_may_not_take_over_finds_a_living_server_at_every_moment(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename has no moment in which the path is free or refuses."""
    monkeypatch.setattr(socketfiles, "_LOCK_PATIENCE", 60)  # who holds the lock may be preempted
    living = [bind(parse_address(path))]
    over = threading.Event()
    wrong: list[object] = []

    def start() -> None:
        while not over.is_set():
            try:
                bind(parse_address(path)).remove()
                wrong.append("it started")
            except ListenError as error:
                if "is held by a living server" not in str(error):
                    wrong.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    for _ in range(200):
        living.append(take_over(path))
        living.pop(0).remove()
    over.set()
    thread.join(60)
    living[0].remove()
    assert wrong == []


# -- pools -------------------------------------------------------------------------------------------------------------

POOL = """
    import os
    import sys
    from fcgi_procmanager import ProcManager, WSGIServer

    def app(environ, start_response):
        start_response("200 OK", [])
        return [str(os.getppid()).encode()]

    manager = ProcManager(n_processes=2)
    manager.listen(sys.argv[1], take_over=True)
    if "broken" in sys.argv:
        sys.exit("no ink")
    WSGIServer(app, manager=manager, drain_timeout=60).run()  # for who is preempted between his connect and his request
"""


class Clients:
    """They ask, a connection a request, until told to stop: what went wrong, and which managers' workers answered."""

    def __init__(self, path: str, count: int = 4) -> None:
        self.path = path
        self.wrong: list[object] = []
        self.answers: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, pid: int) -> None:
        """Until workers of this manager have answered, and nobody else any more."""
        wait_until(lambda: self.wrong or set(self.answers[-20:]) == {str(pid)}, 60, f"answers of {pid}")

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                reply = fcgi.fetch(self.path)
            except (OSError, EOFError, AssertionError) as error:
                self.wrong.append(error)
                return
            if not (reply.ended and reply.status == 200):
                self.wrong.append(reply)
            self.answers.append(reply.text)


def start(run_script: Run, path: str, *more: str) -> Script:
    script = run_script(POOL, args=[path, *more])
    script.wait_ready(2)
    return script


def test_start_the_new_then_stop_the_old_loses_no_request(run_script: Run, sock_path: str) -> None:
    pool = start(run_script, sock_path)
    with Clients(sock_path) as clients:
        for _ in range(20):
            clients.wait_for(pool.pid)
            former, pool = pool, start(run_script, sock_path)
            assert former.stop() == 0
            assert clients.wrong == []
        clients.wait_for(pool.pid)
    assert clients.wrong == []
    assert pool.stop() == 0
    assert names(sock_path) == []


def test_a_new_pool_that_cannot_serve_leaves_the_old_one_in_its_place(run_script: Run, sock_path: str) -> None:
    pool = start(run_script, sock_path)
    broken = run_script(POOL, args=[sock_path, "broken"])
    assert broken.wait() == 1
    assert fcgi.fetch(sock_path).text == str(pool.pid)
    assert names(sock_path) == ["s"]
    assert pool.stop() == 0
    assert names(sock_path) == []


@pytest.mark.leaves_socket
def test_after_a_killed_one_the_next_takes_over_as_well(run_script: Run, sock_path: str) -> None:
    first = start(run_script, sock_path)
    second = start(run_script, sock_path)
    second.signal(SIGKILL)
    second.tree_gone()
    third = start(run_script, sock_path)
    assert first.stop(SIGTERM) == 0
    assert fcgi.fetch(sock_path).text == str(third.pid)
    assert third.stop() == 0
