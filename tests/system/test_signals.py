"""Signals are noted, wake whoever waits, and leave no trace when they are given up."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Callable

import pytest

from fcgi_procmanager import ConfigError
from fcgi_procmanager.system.signals import MANAGER_SIGNALS, Signals
from harness.process import Script, process_state, sigcatch, signal_masks, wait_asleep, wait_until

Run = Callable[..., Script]

# A pool of one worker per entry, whose requests are lines on a Unix socket: the reply is what `answer` returns.
POOL = """
import asyncio, os, signal, socket, sys
from harness.inside import restarts, say, sigaction_flags
from fcgi_procmanager import ProcManager

def serve(manager, listener, answer):
    while (accepted := manager.accept(listener)) is not None:
        with accepted[0] as connection:
            manager.pre_dispatch()
            connection.sendall(str(answer(connection.recv(100).decode())).encode())
        manager.post_dispatch()
"""


@pytest.fixture
def signals() -> Iterator[Signals]:
    signals = Signals()
    yield signals
    signals.take()  # what is not taken is delivered again
    signals.close()


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def ask(path: str, text: str = "x") -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        sock.sendall(text.encode())
        return b"".join(iter(lambda: sock.recv(1000), b"")).decode()


# The object itself


def test_a_signal_is_noted_and_wakes(signals: Signals) -> None:
    signals.install(("HUP", "TERM"))
    assert not readable(signals.fileno())
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert signals.noted
    assert readable(signals.fileno())
    assert signals.take() == ["HUP", "HUP", "TERM"]
    assert not signals.noted
    assert not readable(signals.fileno())
    assert signals.take() == []


def test_more_signals_than_the_pipe_holds(signals: Signals) -> None:
    signals.install(("HUP",))
    for _ in range(40000):
        signal.raise_signal(signal.SIGHUP)
    assert len(signals.take()) == 40000
    assert not readable(signals.fileno())


def test_the_worker_is_told_in_the_handler(signals: Signals) -> None:
    told: list[str] = []
    signals.install(("HUP",), told.append)
    os.kill(os.getpid(), signal.SIGHUP)
    assert told == ["HUP"]


def test_closing_restores_what_was_found(signals: Signals) -> None:
    def mine(*_: object) -> None: ...

    ends = os.pipe()
    os.set_blocking(ends[1], False)
    before = signal.set_wakeup_fd(ends[1])
    old = signal.signal(signal.SIGHUP, mine)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        signals.install(MANAGER_SIGNALS)
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        signals.close()
        signals.close()
        assert signal.getsignal(signal.SIGHUP) is mine
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.set_wakeup_fd(before) == ends[1]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGHUP, old)
        for end in ends:
            os.close(end)


def test_what_was_not_acted_on_is_delivered_again(signals: Signals) -> None:
    heard: list[int] = []
    old = signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    try:
        for taken in (False, True):
            signals.install(("HUP",))
            signal.raise_signal(signal.SIGHUP)
            if taken:
                signals.take()
            signals.close()
            assert heard == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, old)


def test_a_child_of_the_application_has_the_handlers_that_were_found(signals: Signals) -> None:
    """What its parent has noted is not its own, and TERM ends it at once, also the one that comes first of all."""
    signals.install(("TERM", "HUP"))
    signal.raise_signal(signal.SIGHUP)
    for _ in range(100):
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(tell)
            os.read(told, 1)
            os._exit(0)
        os.close(told)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        os.close(tell)
    assert signals.take() == ["HUP"]


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_replaced_handler_is_taken_back_at_a_dispatch(signals: Signals, name: str) -> None:
    signals.install(("TERM", "HUP"))
    signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)
    signals.restart(True)
    signal.raise_signal(signal.Signals[f"SIG{name}"])
    assert signals.take() == [name]


def test_closing_after_the_owner_of_the_wakeup_descriptor_is_gone(signals: Signals) -> None:
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    signal.set_wakeup_fd(ends[1])
    signals.install(("HUP",))
    for end in ends:
        os.close(end)
    signals.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_two_are_nested(signals: Signals) -> None:
    inner = Signals()
    signals.install(("HUP", "TERM"))
    inner.install(("HUP",))
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
    assert (inner.take(), signals.take()) == (["HUP"], ["TERM"])
    inner.close()
    signal.raise_signal(signal.SIGHUP)
    assert readable(signals.fileno())
    assert signals.take() == ["HUP"]


def test_one_signal_is_given_up_and_the_rest_kept(signals: Signals) -> None:
    found = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    try:
        signals.install(("QUIT", "HUP"))
        signals.restore("QUIT")
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN
        signals.reset("HUP")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGQUIT, found)


def test_a_child_does_not_share_the_pipe(signals: Signals) -> None:
    signals.install(("HUP",))
    signal.raise_signal(signal.SIGHUP)
    before = os.fstat(signals.fileno())
    signals.renew()
    assert not os.path.samestat(before, os.fstat(signals.fileno()))
    assert (signals.noted, readable(signals.fileno())) == ((), False)
    signal.raise_signal(signal.SIGHUP)
    assert readable(signals.fileno())


def test_a_thread_is_refused_in_words(signals: Signals) -> None:
    """Not a ValueError of the signal module, and no descriptor is left (the guard looks)."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            signals.install(("HUP",))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert isinstance(raised[0], ConfigError)
    assert "no_signals=True" in str(raised[0])
    assert not signals.open


def test_what_an_event_loop_took_is_taken_back(signals: Signals) -> None:
    """An asyncio loop that listened to our signals leaves the default action and no wakeup descriptor."""
    import asyncio

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)

    signals.install(("TERM", "INT", "HUP"))
    asyncio.run(main())
    signals.rearm()
    for number, name in ((signal.SIGTERM, "TERM"), (signal.SIGINT, "INT"), (signal.SIGHUP, "HUP")):
        os.kill(os.getpid(), number)
        assert readable(signals.fileno())
        assert signals.take() == [name]


def test_a_handler_of_the_application_stays_hers(signals: Signals) -> None:
    def mine(*_: object) -> None: ...

    signals.install(("HUP", "TERM"))
    signal.signal(signal.SIGHUP, mine)
    signals.rearm()
    assert signal.getsignal(signal.SIGHUP) is mine
    signals.close()


def test_the_wakeup_descriptor_is_borrowed_from_a_living_loop(signals: Signals) -> None:
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    signals.install(("HUP",))
    signal.set_wakeup_fd(ends[1])
    owner = signals.claim()
    signal.raise_signal(signal.SIGHUP)
    assert readable(signals.fileno())
    assert not readable(ends[0])
    signals.give_back(owner)
    signals.rearm()
    assert signal.set_wakeup_fd(-1) == ends[1]
    for end in ends:
        os.close(end)


# In a pool


def test_sa_restart_is_on_inside_a_request_and_off_outside(run_script: Run, sock_path: str) -> None:
    """The kernel's own flags, in the order: before the first request, inside, after it, inside the next."""
    script = run_script(
        POOL
        + """
flags = lambda: [restarts(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
manager = ProcManager(1)
listener = manager.listen(sys.argv[1])
manager.manage()
seen = [flags()]
while (accepted := manager.accept(listener)) is not None:
    manager.pre_dispatch()
    seen.append(flags())
    with accepted[0] as connection:
        connection.recv(100)
        connection.sendall(repr(seen).encode())
    manager.post_dispatch()
    seen.append(flags())
""",
        args=[sock_path],
    )
    script.wait_log("initialized", count=2)
    off, on = [False] * 3, [True, True, False]
    assert ask(sock_path) == repr([off, on])
    assert ask(sock_path) == repr([off, on, off, on])
    assert script.stop() == 0


def test_signals_blocked_by_the_parent_still_stop_it(run_script: Run) -> None:
    """Whoever started it had TERM and HUP blocked, which survives an exec."""
    source = POOL + "manager = ProcManager(2)\nmanager.manage()\nmanager._gate.wait()\nmanager.post_dispatch()\n"
    starter = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD]);"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    script = run_script([sys.executable, "-c", starter, "-c", source])
    script.wait_log("server .*: initialized", count=2)
    for pid in [script.pid, *script.workers()]:
        wait_asleep(pid)  # the manager holds them itself while it forks
        assert not signal_masks(pid)["blocked"] & {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    worker = script.workers()[0]
    script.signal(signal.SIGTERM, worker)
    script.wait_log(rf"server \(pid {worker}\) exited with status 0")
    script.wait_log("server .*: initialized", count=3)
    assert script.stop() == 0


@pytest.mark.parametrize(
    "body",
    [
        "loop.add_signal_handler(signal.SIGTERM, print)",
        "loop.add_signal_handler(signal.SIGUSR1, print)",
        "loop.add_signal_handler(signal.SIGTERM, print); loop.remove_signal_handler(signal.SIGTERM)",
    ],
)
def test_asyncio_in_a_request_does_not_break_a_later_term(run_script: Run, sock_path: str, body: str) -> None:
    script = run_script(
        POOL
        + f"""
async def main():
    loop = asyncio.get_running_loop()
    {body}
    await asyncio.sleep(0)
def answer(text):
    if text == "loop":
        asyncio.run(main())
    elif text == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    return os.getpid()
manager = ProcManager(1)
listener = manager.listen(sys.argv[1])
manager.manage()
serve(manager, listener, answer)
manager.exit("left in order")
""",
        args=[sock_path],
    )
    script.wait_log("server .*: initialized")
    # TERM while idle, after the loop.
    worker = int(ask(sock_path, "loop"))
    wait_asleep(worker)
    script.signal(signal.SIGTERM, worker)
    script.wait_log(rf"server \(pid {worker}\) exited with status 0")
    # TERM in the middle of the next request: it is answered.
    worker = int(ask(sock_path, "loop"))
    assert int(ask(sock_path, "term")) == worker
    script.wait_log(rf"server \(pid {worker}\) exited with status 0")
    assert script.stop() == 0


@pytest.mark.parametrize("where", ["manager_init", "server_init"])
def test_asyncio_in_a_hook_does_not_break_a_later_term(run_script: Run, where: str) -> None:
    script = run_script(
        POOL
        + f"""
async def main():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
        asyncio.get_running_loop().add_signal_handler(number, print)
class Manager(ProcManager):
    def {where}(self):
        super().{where}()
        asyncio.run(main())
manager = Manager(1)
manager.manage()
while not manager.leaving:
    manager._gate.wait()
manager.post_dispatch()
"""
    )
    script.wait_log("server .*: initialized")
    first = script.workers()[0]
    script.signal(signal.SIGHUP)
    script.wait_log(rf"server \(pid {first}\) exited with status 0")
    script.wait_log("server .*: initialized", count=2)
    script.signal(signal.SIGKILL, script.wait_workers(1)[0])
    script.wait_log("server .*: initialized", count=3)
    assert script.stop() == 0
    assert "sending TERM" in script.log()


LOOK = """
def look():
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    handlers = [(n.name, signal.getsignal(n)) for n in signal.Signals if n not in (signal.SIGKILL, signal.SIGSTOP)]
    return handlers, signal.pthread_sigmask(signal.SIG_BLOCK, []), wakeup
"""


def test_two_managers_one_after_the_other(run_script: Run) -> None:
    """The first leaves handlers, mask, wakeup descriptor and descriptors as they were; the second works as well."""
    script = run_script(
        POOL
        + LOOK
        + """
def pool(number):
    manager = ProcManager(2, process_name=f"worker {number}")
    before = look(), os.listdir("/proc/self/fd")
    try:
        if manager.manage():
            say("up")
            while not manager.leaving:
                manager._gate.wait()
            manager.exit(f"left pool {number}")
    except SystemExit as end:
        if manager.role == "server":
            raise
        say("ended", end.code, before == (look(), os.listdir("/proc/self/fd")))
signal.signal(signal.SIGHUP, lambda *_: say("mine"))
pool(1)
os.kill(os.getpid(), signal.SIGHUP)
pool(2)
"""
    )
    for number in (1, 2):
        assert script.lines(2) == ["up", "up"]
        script.signal(signal.SIGHUP)
        assert script.lines(2) == ["up", "up"]
        script.signal(signal.SIGTERM)
        assert script.line() == "ended 0 True"
        if number == 1:
            assert script.line() == "mine"
    assert script.log().count(") started") == script.log().count("exited with status 0") == 8
    assert script.log().count("left pool") == 8
    assert script.wait() == 0
    script.tree_gone()


def test_a_worker_becomes_the_manager_of_its_own_pool(run_script: Run) -> None:
    """Nested: the inner pool stops with its manager, which then is a worker of the outer pool again."""
    script = run_script(
        POOL
        + LOOK
        + """
outer = ProcManager(1)
outer.manage()
before = look()
inner = ProcManager(2)
try:
    if inner.manage():
        say("inner worker", os.getpid())
        while not inner.leaving:
            inner._gate.wait()
        inner.exit("inner left")
except SystemExit as end:
    if inner.role == "server":
        raise
    say("inner pool ended", end.code, before == look())
while not outer.leaving:
    outer._gate.wait()
outer.exit("outer left")
"""
    )
    workers = [int(script.line().split()[-1]) for _ in range(2)]
    middle = script.workers()[0]
    script.signal(signal.SIGKILL, workers[0])
    replaced = script.line()
    assert replaced.startswith("inner worker")
    script.signal(signal.SIGTERM, middle)
    assert script.line() == "inner pool ended 0 True"
    wait_until(lambda: process_state(workers[1]) is None, what="the inner pool to be gone")
    assert script.workers() == [middle]
    # What the inner pool heard was its own: the outer worker goes on until it is told itself.
    assert script.stop() == 0
    assert f"server (pid {middle}) exited with status 0" in script.log()


def test_the_outer_manager_stops_both_pools(run_script: Run) -> None:
    script = run_script(
        POOL
        + """
from fcgi_procmanager.children import ladder
ladder.RESEND = 1e6  # a TERM that is repeated insists, and an inner manager would kill who has not left yet
outer = ProcManager(2)
outer.manage()
inner = ProcManager(2)
inner.manage()
say("up")
while not inner.leaving:
    inner._gate.wait()
inner.exit("inner left")
"""
    )
    assert script.lines(4) == ["up"] * 4
    assert script.stop() == 0
    assert script.log().count("inner left") == 4


# no_signals


def test_without_signals_nothing_is_installed(run_script: Run) -> None:
    script = run_script(
        POOL
        + LOOK
        + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        say("manager", look() == before)
before = look()
manager = Manager(1, no_signals=True)
manager.manage()
say("server", look() == before)
manager._gate.wait()
say("server", look() == before)
manager.post_dispatch()
"""
    )
    assert script.lines(2) == ["manager True", "server True"]
    assert not sigcatch(script.pid) & {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT}
    worker = script.workers()[0]
    script.signal(signal.SIGKILL)
    assert script.wait() == -signal.SIGKILL
    # The worker leaves because its manager is gone.
    assert script.line() == "server True"
    wait_until(lambda: process_state(worker) in (None, "Z"))
