"""One wait for everything a worker may be called to, and the baton that keeps a connection from being left in the backlog."""

from __future__ import annotations

import copy
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest

from fcgi_procmanager.basics.clock import monotonic
from fcgi_procmanager.ipc.baton import Baton
from fcgi_procmanager.system.signals import Signals
from fcgi_procmanager.worker.gate import Gate
from harness.process import Script, context_switches, patient, process_state, wait_asleep, wait_until

Run = Callable[..., Script]


@pytest.fixture
def signals() -> Iterator[Signals]:
    signals = Signals()
    signals.install(("HUP",))
    yield signals
    signals.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


@pytest.fixture
def baton() -> Iterator[Baton]:
    baton = Baton()
    yield baton
    baton.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def soon() -> float:
    return monotonic() + 30


def test_what_is_ready_is_named(signals: Signals, pipe: tuple[int, int]) -> None:
    gate = Gate(signals)
    gate.add(pipe[0])
    os.write(pipe[1], b"x")
    assert gate.wait(soon()) == [pipe[0]]
    gate.remove(pipe[0])
    assert gate.wait(monotonic()) == []
    gate.close()


def test_the_deadline_ends_a_wait_and_never_early(signals: Signals) -> None:
    gate = Gate(signals)
    deadline = monotonic() + 0.0213
    assert gate.wait(deadline) == []
    assert monotonic() >= deadline
    assert gate.wait(monotonic() - 1) == []
    gate.close()


def test_a_signal_before_the_wait_is_not_lost(signals: Signals) -> None:
    gate = Gate(signals)
    os.kill(os.getpid(), signal.SIGHUP)
    began = monotonic()
    assert gate.wait(soon()) == []
    assert monotonic() - began < patient(2)
    assert gate.wait(monotonic()) == []  # and it is over
    gate.close()


def test_a_signal_ends_the_wait(signals: Signals) -> None:
    gate = Gate(signals)
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGHUP))
    timer.start()
    began = monotonic()
    assert gate.wait(soon()) == []
    assert monotonic() - began < patient(2)
    timer.join()
    gate.close()


def test_the_end_of_the_manager_is_noticed_once(signals: Signals, pipe: tuple[int, int]) -> None:
    gate = Gate(signals, lifeline=pipe[0])
    assert gate.wait(monotonic()) == []
    assert not gate.orphaned
    os.close(pipe[1])
    assert gate.wait(soon()) == []
    assert gate.orphaned
    began = monotonic()
    assert gate.wait(began + 0.02) == []
    assert monotonic() - began >= 0.02  # no spinning over the end of file
    gate.close()


def test_the_baton_stands_for_every_listener(signals: Signals, baton: Baton, listener: socket.socket) -> None:
    gate = Gate(signals, baton=baton)
    gate.add_listener(listener.fileno())
    gate.add_listener(listener.fileno())
    baton.give()
    assert gate.wait(soon()) == [listener.fileno()]
    assert gate.wait(monotonic()) == []
    gate.close()


def test_the_baton_is_passed_on_for_a_backlog_only(signals: Signals, baton: Baton, listener: socket.socket) -> None:
    gate, another = Gate(signals, baton=baton), Gate(signals, baton=baton)
    gate.pass_on(listener.fileno())
    assert another.wait(monotonic()) == []
    with socket.create_connection(listener.getsockname()):
        gate.pass_on(listener.fileno())
        another.add_listener(listener.fileno())
        assert sorted(another.wait(soon())) == [listener.fileno()]
        assert not select.select([baton.read_end], [], [], 0)[0]
    gate.close()
    another.close()


def test_a_full_baton_blocks_nobody(baton: Baton) -> None:
    for _ in range(70000):
        baton.give()
    baton.take()
    baton.give()


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_baton_is_not_for_one_that_has_left_its_listeners(
    signals: Signals, baton: Baton, listener: socket.socket, when: str
) -> None:
    """It takes no connection: with the baton in its hand, another one would go on sleeping."""
    leaving, another = Gate(signals, baton=baton), Gate(None, baton=baton)
    for gate in (leaving, another):
        gate.add_listener(listener.fileno())
    if when == "before":
        baton.give()
    leaving.remove_listeners()
    if when == "after":
        baton.give()
    assert leaving.wait(monotonic()) == []
    assert another.wait(soon()) == [listener.fileno()]
    leaving.close()
    another.close()


class Interrupted(Exception):
    pass


def interrupted() -> None:
    raise Interrupted


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="without it the baton wakes everybody")
def test_a_baton_that_woke_one_who_leaves_wakes_another(baton: Baton, listener: socket.socket) -> None:
    """One of those that sleep is woken for it. When that one is interrupted before it takes it, and leaves, the other
    must not sleep on."""
    untaken = copy.copy(baton)
    untaken.take = interrupted  # type: ignore[method-assign]
    leaving, another = Gate(None, baton=untaken), Gate(None, baton=baton)
    for gate in (leaving, another):
        gate.add_listener(listener.fileno())
    found: list[list[int]] = []
    sleepers = [
        threading.Thread(target=leave_interrupted, args=(leaving,)),
        threading.Thread(target=lambda: found.append(another.wait(soon()))),
    ]
    for sleeper in sleepers:
        sleeper.start()
    quiet([sleeper.native_id or 0 for sleeper in sleepers])
    baton.give()
    for sleeper in sleepers:
        sleeper.join()
    assert found == [[listener.fileno()]]
    leaving.close()
    another.close()


def leave_interrupted(gate: Gate) -> None:
    with pytest.raises(Interrupted):
        gate.wait(soon())
    gate.remove_listeners()


def test_listeners_are_left_together(signals: Signals, listener: socket.socket) -> None:
    gate = Gate(signals)
    gate.add_listener(listener.fileno())
    with socket.create_connection(listener.getsockname()):
        assert gate.wait(soon()) == [listener.fileno()]
        gate.remove_listeners()
        assert gate.wait(monotonic()) == []
    gate.close()


def test_without_signals(pipe: tuple[int, int]) -> None:
    gate = Gate(Signals())
    assert gate.wake == -1
    gate.add(pipe[0])
    os.write(pipe[1], b"x")
    assert gate.wait(soon()) == [pipe[0]]
    gate.close()


def test_poll_stands_in_where_there_is_no_epoll(
    signals: Signals, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import select

    monkeypatch.delattr(select, "epoll")
    gate = Gate(signals, lifeline=pipe[0])
    deadline = monotonic() + 0.01
    assert gate.wait(deadline) == []
    assert deadline <= monotonic() < deadline + patient(2)
    os.close(pipe[1])
    gate.wait(soon())
    assert gate.orphaned
    gate.close()


# In a pool

HERD = """
import os, sys
from fcgi_procmanager import ProcManager
manager = ProcManager(8)
listener = manager.listen(sys.argv[1])
manager.manage()
while (accepted := manager.accept(listener)) is not None:
    manager.pre_dispatch()
    with accepted[0] as connection:
        connection.sendall(str(os.getpid()).encode())
    manager.post_dispatch()
manager.exit("left")
"""


def ask(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        return int(b"".join(iter(lambda: sock.recv(100), b"")))


def test_one_connection_wakes_one_of_many(run_script: Run, sock_path: str) -> None:
    script = run_script(HERD, args=[sock_path])
    script.wait_log("server .*: initialized", count=8)
    workers = script.workers()
    for worker in [script.pid, *workers]:
        wait_asleep(worker)
    quiet(workers)
    before = {worker: context_switches(worker) for worker in workers}
    answered = []
    for _ in range(8):
        answered.append(ask(sock_path))
        quiet(workers)  # who has just answered may take the next connection before the one that was woken for it
    woken = {worker for worker in workers if context_switches(worker) > before[worker]}
    assert woken == set(answered)
    assert script.stop() == 0


def quiet(workers: list[int]) -> None:
    """Until all sleep and have slept for a moment: two equal looks 20 ms apart. Who waits for a processor does not sleep."""
    deadline = monotonic() + 20
    while monotonic() < deadline:
        before = [context_switches(worker) for worker in workers]
        time.sleep(0.02)
        asleep = all(process_state(worker) == "S" for worker in workers)
        if asleep and before == [context_switches(worker) for worker in workers]:
            return
    raise AssertionError("the workers never came to rest")


LEAVES_WHEN_CALLED = """
import os, signal, sys
from fcgi_procmanager import ProcManager

class Manager(ProcManager):
    '''Of the first two workers, the one that is woken is sent TERM just before its nth look whether it should leave.'''
    started = 0
    looks = None
    def notify(self, message):
        super().notify(message)
        if message.endswith("started"):
            self.started += 1
    def watch(self):
        real = self._gate.wait
        def wait(*args):
            ready = real(*args)
            if ready and self.looks is None:
                try:
                    os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
                    self.looks = 0
                except FileExistsError:
                    self.looks = 99
            return ready
        self._gate.wait = wait
    @property
    def leaving(self):
        if self.looks is not None:
            self.looks += 1
            if self.looks == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGTERM)
        return ProcManager.leaving.fget(self)

manager = Manager(2)
listener = manager.listen(sys.argv[1])
manager.manage()
if manager.started >= 2:  # a third worker would look for itself and hide the loss
    manager._gate.wait()
    manager.exit("left")
manager.watch()
while (accepted := manager.accept(listener)) is not None:
    with accepted[0] as connection:
        connection.sendall(str(os.getpid()).encode())
manager.exit("left")
"""


@pytest.mark.parametrize("look", [1, 2, 3, 4])
def test_a_worker_called_and_told_to_leave_wakes_another(
    run_script: Run, sock_path: str, tmp_path: object, look: int
) -> None:
    """TERM between being woken for a connection and accepting it: the connection must not wait for the next one."""
    script = run_script(LEAVES_WHEN_CALLED, args=[sock_path, f"{tmp_path}/first", look])
    script.wait_log("server .*: initialized", count=2)
    workers = script.workers()
    for worker in workers:
        wait_asleep(worker)
    quiet(workers)
    assert ask(sock_path) in workers
    assert script.stop() == 0


def test_a_killed_worker_leaves_its_connection_to_the_next(run_script: Run, sock_path: str) -> None:
    """Both are stopped, a connection comes, one is killed: whoever replaces it looks before it waits."""
    script = run_script(HERD.replace("ProcManager(8)", "ProcManager(1)"), args=[sock_path])
    script.wait_log("server .*: initialized")
    worker = script.workers()[0]
    wait_asleep(worker)
    script.signal(signal.SIGSTOP, worker)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(sock_path)
        script.signal(signal.SIGKILL, worker)
        assert int(sock.recv(100)) != worker
    wait_until(lambda: len(script.workers()) == 1)
    assert script.stop() == 0
