"""PID files: real processes that hold them, race for them, die with them and inherit them."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.errors import PidFileError
from fcgi_procmanager.system import pidfile
from fcgi_procmanager.system.pidfile import Claim, PidFile, UnusablePidFile, claim, holder, read_pid
from harness.process import wait_dead

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells who has a lock")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, which takes root")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.pid")


class Child:
    """A forked child that acts, reports in one line, and lives until `end` or `kill`."""

    def __init__(self, act: Callable[[], str], start: tuple[int, int] | None = None) -> None:
        report_r, report_w = os.pipe()
        hold_r, self._hold = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(act, start, report_w, hold_r)
        os.close(report_w)
        os.close(hold_r)
        self._report = os.fdopen(report_r)

    def _run(self, act: Callable[[], str], start: tuple[int, int] | None, report: int, hold: int) -> None:
        try:
            os.close(self._hold)
            if start is not None:
                os.close(start[1])
                os.read(start[0], 1)
            try:
                line = act()
            except Exception as error:
                line = f"{type(error).__name__}: {error}"
            os.write(report, line.encode() + b"\n")
            os.read(hold, 1)
        finally:
            os._exit(0)

    def report(self) -> str:
        return self._report.readline().rstrip("\n")

    def end(self, number: int | None = None) -> None:
        if number is None:
            os.write(self._hold, b"x")
        else:
            os.kill(self.pid, number)
        os.waitpid(self.pid, 0)
        os.close(self._hold)
        self._report.close()


def hold(path: str) -> Callable[[], str]:
    kept = PidFile(path)

    def act() -> str:
        kept.acquire()
        return "held"

    return act


def refusal(path: str) -> str:
    with pytest.raises(PidFileError) as caught:
        PidFile(path).acquire()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(path: str) -> list[str]:
    return os.listdir(os.path.dirname(path))


def open_descriptors() -> set[int]:
    listed = [int(name) for name in os.listdir("/dev/fd")]  # one of them is the listing's own, closed by now
    return {number for number in listed if _is_open(number)}


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


# -- one process -------------------------------------------------------------------------------------------------------


def test_acquire_and_release(path: str) -> None:
    file = PidFile(Path(path))
    assert file.path == path
    file.acquire()
    assert Path(path).read_text() == f"{os.getpid()}\n"
    assert names(path) == ["app.pid"]
    assert (read_pid(path), holder(path)) == (os.getpid(), os.getpid())
    file.acquire()
    file.release()
    assert names(path) == []
    file.release()
    assert (read_pid(path), holder(path)) == (None, None)
    file.acquire()
    file.release()
    assert names(path) == []


def test_descriptor_is_not_passed_on(path: str) -> None:
    before = open_descriptors()
    file = PidFile(path)
    file.acquire()
    [opened] = open_descriptors() - before
    assert not os.get_inheritable(opened)
    file.release()
    assert open_descriptors() == before


def test_mode(path: str) -> None:
    before = os.umask(0)
    try:
        file = PidFile(path)
        file.acquire()
    finally:
        os.umask(before)
    assert os.lstat(path).st_mode & 0o777 == 0o644
    file.release()


def test_release_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("app.pid")
    file.acquire()
    monkeypatch.chdir("/")
    file.release()
    assert os.listdir(tmp_path) == []


def test_second_object_of_one_process(path: str) -> None:
    file = PidFile(path)
    file.acquire()
    assert refusal(path) == (f"{path} is held by process {os.getpid()}: stop it first, or choose another --pidfile")
    file.release()


# -- what lies there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "\n", "garbage\n", "-5\n", "0\n", "12x\n", "9999999999\n", "99999999999999\n"])
def test_nonsense_is_taken_over(path: str, content: str) -> None:
    Path(path).write_text(content)
    assert (read_pid(path), holder(path)) == (None, None)
    file = PidFile(path)
    file.acquire()
    assert read_pid(path) == os.getpid()
    assert names(path) == ["app.pid"]
    file.release()


def test_number_of_a_dead_process_is_taken_over(path: str) -> None:
    dead = dead_pid()
    Path(path).write_text(f"{dead}\n")
    assert (read_pid(path), holder(path)) == (dead, None)
    file = PidFile(path)
    file.acquire()
    file.release()


def test_own_number_is_taken_over(path: str) -> None:
    Path(path).write_text(f"{os.getpid()}\n")
    assert holder(path) is None
    file = PidFile(path)
    file.acquire()
    file.release()


def test_recycled_number_is_taken_over(path: str) -> None:
    Path(path).write_text(f"{os.getppid()}\n")
    os.utime(path, (1, 1))
    assert holder(path) is None
    file = PidFile(path)
    file.acquire()
    file.release()


def test_living_process_that_does_not_lock(path: str) -> None:
    child = Child(lambda: "here")
    assert child.report() == "here"
    Path(path).write_text(f"  {child.pid}\nmore\n")
    assert holder(path) == child.pid
    assert f"is held by process {child.pid}:" in refusal(path)
    assert Path(path).read_text() == f"  {child.pid}\nmore\n"
    assert names(path) == ["app.pid"]
    child.end()
    assert holder(path) is None


def test_zombie_is_dead(path: str) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    wait_dead(pid)
    Path(path).write_text(f"{pid}\n")
    assert holder(path) is None
    file = PidFile(path)
    file.acquire()
    os.waitpid(pid, 0)
    file.release()


def test_locked_by_an_unnamed_process(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile, "_ATTEMPTS", 3)
    with open(path, "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert holder(path) is None
        assert "is held by another process:" in refusal(path)
    assert names(path) == ["app.pid"]


def test_only_the_beginning_is_read(path: str) -> None:
    Path(path).write_bytes(b" " * 70 + b"%d\n" % os.getppid())
    assert read_pid(path) is None


@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "fifo", "socket"])
def test_other_kinds_of_file_are_refused(tmp_path: Path, path: str, kind: str) -> None:
    target = tmp_path / "target"
    target.write_text(f"{dead_pid()}\n")
    if kind in ("symlink", "dangling"):
        os.symlink(target if kind == "symlink" else "nowhere", path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
    before, content = os.lstat(path), target.read_text()
    wanted = "is a symbolic link" if kind in ("symlink", "dangling") else "is not a regular file"
    assert wanted in refusal(path)
    with pytest.raises(UnusablePidFile) as caught:
        PidFile(path).acquire()
    reasons = {"symlink": "Is a symbolic link", "dangling": "Is a symbolic link", "directory": "Is a directory"}
    assert caught.value.reason == reasons.get(kind, "Is not a regular file")
    assert (read_pid(path), holder(path)) == (None, None)
    assert os.path.samestat(os.lstat(path), before)
    assert target.read_text() == content
    assert sorted(names(path)) == ["app.pid", "target"]


def test_a_file_that_is_held_is_not_taken_for_one_that_cannot_be_used(path: str) -> None:
    file = PidFile(path)
    file.acquire()
    with pytest.raises(PidFileError) as caught:
        PidFile(path).acquire()
    assert not isinstance(caught.value, UnusablePidFile)
    file.release()


def test_no_directory(tmp_path: Path) -> None:
    path = str(tmp_path / "gone" / "app.pid")
    with pytest.raises(UnusablePidFile) as caught:
        PidFile(path).acquire()
    assert caught.value.reason == "No such file or directory"
    assert refusal(path) == f"{path} cannot be used as a PID file: No such file or directory"
    assert (read_pid(path), holder(path)) == (None, None)


@needs_root
def test_unwritable_directory() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)

        def act() -> str:
            os.setuid(65534)
            return hold(os.path.join(directory, "app.pid"))()

        child = Child(act)
        assert child.report().endswith("cannot be used as a PID file: Permission denied")
        child.end()
        assert os.listdir(directory) == []


def test_failed_write_leaves_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert "No space left on device" in refusal(path)
    assert names(path) == []
    assert open_descriptors() == before


# -- who is proven to hold it -------------------------------------------------------------------------------------------


def test_the_holder_of_the_lock_is_proven(path: str) -> None:
    child = Child(hold(path))
    assert child.report() == "held"
    found = claim(path)
    assert (found.pid, found.locked, found.proven) == (child.pid, True, True)
    child.end()
    assert claim(path).pid is None
    assert not claim(path).proven


def test_nobody_is_proven_by_a_number_alone(path: str) -> None:
    child = Child(lambda: "here")
    assert child.report() == "here"
    Path(path).write_text(f"{child.pid}\n")
    assert claim(path) == Claim(child.pid)
    assert not claim(path).proven
    child.end()


@linux_only
def test_a_number_in_a_file_that_somebody_else_has_locked_proves_nothing(path: str) -> None:
    child, locker = Child(lambda: "here"), Child(hold(path))
    assert (child.report(), locker.report()) == ("here", "held")
    Path(path).write_text(f"{child.pid}\n")  # in place, as a manager does that does not lock
    found = claim(path)
    assert (found.pid, found.locked, found.proven) == (child.pid, True, False)
    assert found.lockers == {locker.pid}
    child.end()
    assert claim(path) == Claim(None, True, frozenset({locker.pid}))
    locker.end()


def test_where_the_system_does_not_tell_who_has_the_lock_the_number_counts(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pidfile, "_LOCKS", "/nonexistent/locks")
    child = Child(hold(path))
    assert child.report() == "held"
    assert claim(path) == Claim(child.pid, True)
    assert claim(path).proven
    child.end()


def test_to_ask_disturbs_nobody(path: str) -> None:
    Path(path).write_text(f"{dead_pid()}\n")
    with open(path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as somebody who asks at the same time
        assert claim(path) == Claim()
    file = PidFile(path)
    file.acquire()
    file.release()


# -- several processes -------------------------------------------------------------------------------------------------


def test_held_by_another_process(path: str) -> None:
    child = Child(hold(path))
    assert child.report() == "held"
    wanted = f"{path} is held by process {child.pid}: stop it first, or choose another --pidfile"
    assert refusal(path) == wanted
    assert holder(path) == child.pid
    assert names(path) == ["app.pid"]
    child.end()


def test_lock_counts_whatever_the_time_says(path: str) -> None:
    child = Child(hold(path))
    assert child.report() == "held"
    os.utime(path, (1, 1))
    assert holder(path) == child.pid
    assert "is held by" in refusal(path)
    child.end()


def test_killed_holder_is_taken_over(path: str) -> None:
    child = Child(hold(path))
    assert child.report() == "held"
    child.end(signal.SIGKILL)
    assert (read_pid(path), holder(path)) == (child.pid, None)
    file = PidFile(path)
    file.acquire()
    assert read_pid(path) == os.getpid()
    file.release()
    assert names(path) == []


def test_abandoned_in_a_child(path: str) -> None:
    file = PidFile(path)
    file.acquire()

    def act() -> str:
        file.abandon()
        file.release()
        file.abandon()
        try:
            PidFile(path).acquire()
        except PidFileError as error:
            return str(error)
        return "acquired"

    child = Child(act)
    assert f"is held by process {os.getpid()}:" in child.report()
    child.end()
    assert holder(path) == os.getpid()
    file.release()
    assert names(path) == []


def test_abandoned_lock_ends_with_the_manager(path: str) -> None:
    reader, writer = os.pipe()

    def manage() -> str:
        file = PidFile(path)
        file.acquire()
        done = os.pipe()
        if os.fork() == 0:
            file.abandon()
            os.write(done[1], b"x")
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.read(done[0], 1)
        return "held"

    manager = Child(manage)
    os.close(reader)
    assert manager.report() == "held"
    manager.end(signal.SIGKILL)
    file = PidFile(path)
    file.acquire()
    file.release()
    os.close(writer)


def test_release_in_a_child_leaves_the_file(path: str) -> None:
    file = PidFile(path)
    file.acquire()

    def act() -> str:
        file.release()
        return "released"

    child = Child(act)
    assert child.report() == "released"
    child.end()
    assert holder(path) == os.getpid()
    assert "is held by" in refusal(path)
    file.release()


def test_acquire_in_a_child_is_refused(path: str) -> None:
    file = PidFile(path)
    file.acquire()

    def act() -> str:
        file.acquire()
        return "acquired"

    child = Child(act)
    assert f"is held by process {os.getpid()}:" in child.report()
    child.end()
    file.release()


@pytest.mark.parametrize("how", ["replaced", "rewritten", "removed"])
def test_release_leaves_another_owner_alone(path: str, how: str) -> None:
    file = PidFile(path)
    file.acquire()
    if how != "rewritten":
        os.unlink(path)
    if how != "removed":
        Path(path).write_text("4711\n")
    file.release()
    assert names(path) == ([] if how == "removed" else ["app.pid"])
    assert read_pid(path) == (None if how == "removed" else 4711)


def interfere(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let `act` happen once, after the present file was opened and before it is locked."""
    lock, acts = pidfile._try_lock, [act]

    def late(descriptor: int) -> bool:
        if acts:
            acts.pop()()
        return lock(descriptor)

    monkeypatch.setattr(pidfile, "_try_lock", late)


def test_rival_replaces_the_file_before_the_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(path).write_text(f"{dead_pid()}\n")
    rivals: list[Child] = []

    def replace() -> None:
        rivals.append(Child(hold(path)))
        assert rivals[0].report() == "held"

    with monkeypatch.context() as patched:
        interfere(patched, replace)
        message = refusal(path)
    assert f"is held by process {rivals[0].pid}:" in message
    assert holder(path) == rivals[0].pid
    rivals[0].end()


def test_owner_leaves_before_the_lock(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(path).write_text(f"{os.getppid()}\n")
    interfere(monkeypatch, lambda: os.unlink(path))
    file = PidFile(path)
    file.acquire()
    assert read_pid(path) == os.getpid()
    file.release()
    assert names(path) == []


@pytest.mark.parametrize("present", ["nothing", "dead"])
def test_many_starters_one_file(path: str, present: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pidfile, "_ATTEMPTS", 10_000)  # however long the machine holds up the one who replaces the file
    dead = dead_pid()
    for _ in range(25):
        if present == "dead":
            Path(path).write_text(f"{dead}\n")
        start = os.pipe()
        children = [Child(hold(path), start) for _ in range(5)]
        os.close(start[0])
        os.close(start[1])
        _check_race(path, children)


def _check_race(path: str, children: list[Child]) -> None:
    reports = [child.report() for child in children]
    [winner] = [child for child, report in zip(children, reports) if report == "held"]
    losers = [report for report in reports if report != "held"]
    assert holder(path) == winner.pid
    assert names(path) == ["app.pid"]
    for child in children:
        child.end()
    assert all(report.startswith(f"PidFileError: {path} is held by process {winner.pid}:") for report in losers)
    os.unlink(path)
