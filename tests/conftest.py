"""Fixtures of all tests, and the guard that fails a test which leaves a process, a descriptor or a handler behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, settings

from harness.process import Script, Source, children, open_fds, process_state

HAS_PROC = os.path.isdir("/proc/self/fd")

# Opened at first use by the interpreter or the C library and then kept for good.
KEPT_OPEN = ("/dev/urandom", "/dev/random")

_STOPPING = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)

# The machine may be busy with other tests: how long an example takes says nothing.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaves_socket: the test may leave files next to its socket (sock_path)")
    _hear_every_signal()


def _hear_every_signal() -> None:
    """What is ignored or blocked here (by nohup, by a shell that starts us in the background) would be so in every program
    that a test starts."""
    for number, action in ((signal.SIGINT, signal.default_int_handler), *((n, signal.SIG_DFL) for n in _STOPPING)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, action)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before and torn down after everything else of the test."""
    if not HAS_PROC:
        yield
        return
    pid = os.getpid()
    processes, descriptors, signals = set(children(pid, zombies=True)), open_fds(), _signals()
    yield
    leaks = _leaked_processes(pid, processes) + _leaked_descriptors(descriptors) + _changed_signals(signals)
    if leaks and not request.node.stash.get(_failed, False):
        pytest.fail("the test left behind: " + "; ".join(leaks), pytrace=False)


@pytest.fixture
def run_script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """`run_script(source_or_argv, **kw)` starts a `Script`; whatever it leaves is killed when the test ends."""
    with ExitStack() as stack:
        count = 0

        def run(source: Source, **kw: Any) -> Script:
            nonlocal count
            count += 1
            return stack.enter_context(Script(source, tmp_path / f"script{count}", **kw))

        yield run


@pytest.fixture
def sock_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of a Unix socket, short enough for one, in a directory of its own that must be empty at the end."""
    folder = tempfile.mkdtemp(prefix="pm-", dir="/tmp")
    try:
        yield os.path.join(folder, "s")
        left = sorted(os.listdir(folder))
    finally:
        shutil.rmtree(folder)
    if left and not (request.node.get_closest_marker("leaves_socket") or request.node.stash.get(_failed, False)):
        pytest.fail(f"left next to the socket: {', '.join(left)}", pytrace=False)


def _leaked_processes(pid: int, before: set[int]) -> list[str]:
    leaked = []
    for child in set(children(pid, zombies=True)) - before:
        leaked.append(f"process {child} (state {process_state(child)})")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return leaked


def _leaked_descriptors(before: dict[int, str]) -> list[str]:
    """A descriptor that only an unreachable object still holds is closed first; its ResourceWarning fails the test."""
    if _new_descriptors(before):
        gc.collect()
    return [f"descriptor {fd} ({target})" for fd, target in _new_descriptors(before).items()]


def _new_descriptors(before: dict[int, str]) -> dict[int, str]:
    return {
        fd: target for fd, target in open_fds().items() if before.get(fd) != target and not target.startswith(KEPT_OPEN)
    }


def _signals() -> dict[str, Any]:
    """Handlers, mask and wakeup descriptor of the test process itself."""
    state: dict[str, Any] = {number.name: signal.getsignal(number) for number in _numbers()}
    state["the signal mask"] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    state["the wakeup descriptor"] = wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return state


def _numbers() -> list[signal.Signals]:
    return [number for number in signal.Signals if number not in (signal.SIGALRM, signal.SIGKILL, signal.SIGSTOP)]


def _changed_signals(before: dict[str, Any]) -> list[str]:
    """Puts right what it finds wrong, so that one test cannot spoil the next."""
    after = _signals()
    changed = [name for name, value in before.items() if after[name] != value]
    if changed:
        for number in _numbers():
            if number.name in changed and before[number.name] is not None:
                signal.signal(number, before[number.name])
        signal.pthread_sigmask(signal.SIG_SETMASK, before["the signal mask"])
        signal.set_wakeup_fd(before["the wakeup descriptor"])
    return [f"{name} is now {after[name]}" for name in changed]
