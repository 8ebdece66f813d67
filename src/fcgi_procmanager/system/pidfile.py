"""A PID file that is locked, put in place atomically, and removed only by its owner.

The manager acquires and releases; a forked child only abandons; the stop and reload commands only ask for its `Claim`. This
module must never follow a symbolic link, remove a file of another owner, or write into one that is already in place, but for the
successor to whom its owner has lent it.

The locked descriptor is the truth, the number in the file is a courtesy to readers. Rejected: trusting the number
alone (recycled after a crash, and two starters can both find it dead), and writing first and locking later (a rival
sees an empty file and takes it for a stale one).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import PidFileError

__all__ = ["Claim", "PidFile", "UnusablePidFile", "claim", "holder", "read_pid"]

_READ_LIMIT = 64
_PID_MAX = 2**31 - 1  # pid_t
_NUMBER = re.compile(rb"[ \t]*([0-9]{1,10})[ \t\r]*(?:\n|\Z)")
_MTIME_SLACK = 1.0  # seconds; process start times are known to a clock tick, file times to the file system's grain
_ATTEMPTS = 200
_PAUSE = 0.005  # with _ATTEMPTS: a rival has one second to finish what takes it a millisecond
_LOCKS = "/proc/locks"  # Linux


class UnusablePidFile(PidFileError):
    """The path cannot be used, whoever may be alive. `reason` says why, in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Claim(NamedTuple):
    """What a PID file says to somebody who asks from outside."""

    pid: int | None = None  # the living process that it names
    locked: bool = False
    lockers: frozenset[int] = frozenset()  # who has the lock; empty where the system does not tell

    @property
    def proven(self) -> bool:
        """Whether the process that it names has the lock. A number alone proves nothing: the system gives it away again,
        and anybody can have written it."""
        return self.locked and self.pid is not None and (not self.lockers or self.pid in self.lockers)


class PidFile:
    """One PID file. Acquire in the process whose number it shall hold, after any daemon fork."""

    def __init__(self, path: str | os.PathLike[str], option: str = "--pidfile", others_lock: bool = False) -> None:
        """option: by what name a person chooses the path. others_lock: whoever may hold it has it locked, whatever number is in
        it; else one that is named and lives is left alone as well."""
        self._option = option
        self._others_lock = others_lock
        self.path: str = os.path.abspath(os.fspath(path))
        self._descriptor: int | None = None
        self._pid = 0

    @property
    def descriptor(self) -> int:
        """Manager: what has the lock, -1 while it is not held."""
        return -1 if self._descriptor is None else self._descriptor

    @classmethod
    def left(cls, path: str, descriptor: int) -> PidFile:
        """One that this process held before it executed itself."""
        pidfile = cls(path)
        pidfile._descriptor, pidfile._pid = descriptor, os.getpid()
        return pidfile

    def acquire(self) -> None:
        """Manager: put our number in place, or raise `PidFileError` and change nothing."""
        if self._descriptor is not None and self._pid == os.getpid():
            return
        self.abandon()
        try:
            self._acquire()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnusablePidFile(f"{self.path} cannot be used as a PID file: {reason}", reason) from error

    def release(self) -> None:
        """Manager: remove the file if it is still ours. May be repeated, never raises."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            if self._pid == os.getpid() and self._is_ours(descriptor):
                self._remove(descriptor)
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def abandon(self) -> None:
        """A forked child: close the inherited descriptor; the file and the manager's lock stay."""
        # A child that kept the descriptor would keep the lock alive after its manager; one that unlocked it would take
        # the lock from its manager, since both share it. Therefore: close, and nothing else.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    # -- a successor in another process -------------------------------------------------------------------------------

    def give_to(self, uid: int, gid: int) -> None:
        """Manager, before it gives up root: a successor, which is that user, is to put its number there."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # a file system without owners
                os.fchown(self._descriptor, uid, gid)

    def lend(self) -> None:
        """Manager: a successor may take the file. Nobody else does: our number is in it, and we live."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def take_back(self) -> None:
        """Manager: the successor is gone, and may have put its number there. Raises PidFileError when somebody else has it."""
        if self._descriptor is None:
            return
        if not os.path.lexists(self.path):
            self.abandon()
            self.acquire()
            return
        self._lock_patiently(self._descriptor)
        _put_number(self._descriptor)

    def succeed(self) -> None:
        """A successor: put our number into the file that its predecessor has lent, which may lie where we can make no other.
        Raises PidFileError."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self.acquire()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            raise UnusablePidFile(f"{self.path} cannot be used as a PID file: {reason}", reason) from error
        try:
            _refuse_irregular(self.path, os.fstat(descriptor))
            self._lock_patiently(descriptor)
            _put_number(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._pid = descriptor, os.getpid()

    def _lock_patiently(self, descriptor: int) -> None:
        """A starter holds it for the moment in which it looks who is there."""
        for _ in range(_ATTEMPTS):
            if _try_lock(descriptor):
                break
            time.sleep(_PAUSE)
        else:
            raise self._held(_parse(descriptor))
        if not _is_at(self.path, descriptor):
            raise self._held(read_pid(self.path))

    def _remove(self, descriptor: int) -> None:
        """The directory may belong to root, whom we are no more: the file then names nobody."""
        try:
            os.unlink(self.path)
        except PermissionError:
            os.ftruncate(descriptor, 0)

    def _acquire(self) -> None:
        temporary = f"{self.path}.{os.getpid()}.{os.urandom(4).hex()}"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, b"%d\n" % os.getpid())
            self._put_in_place(temporary)
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        self._descriptor, self._pid = descriptor, os.getpid()

    def _put_in_place(self, temporary: str) -> None:
        for _ in range(_ATTEMPTS):
            if self._link(temporary) or self._replace_stale(temporary):
                return
            time.sleep(_PAUSE)
        raise self._held(read_pid(self.path))

    def _link(self, temporary: str) -> bool:
        """Take a free path. A link, unlike a rename, fails when a rival was faster."""
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            return False
        return True

    def _replace_stale(self, temporary: str) -> bool:
        """Take the path from a dead owner; False if it changed under us and is to be looked at again."""
        with _opened(self.path) as present:
            if present is None:
                return False
            pid = _parse(present)
            if not _try_lock(present):
                # Locked, but the number is nobody's: a rival is replacing this file at this moment, or somebody asks
                # who holds it. Refusing now would name a dead process, therefore look again.
                if pid is not None and _is_alive(pid):
                    raise self._held(pid)
                return False
            # We may have locked a file that a rival has meanwhile replaced or removed: renaming over the path would
            # take the rival's. Only the holder of its lock moves the file in place, so what is true now stays true.
            if not _is_at(self.path, present):
                return False
            if pid is not None and not self._others_lock and _is_older(pid, os.fstat(present).st_mtime):
                raise self._held(pid)
            os.rename(temporary, self.path)
            return True

    def _is_ours(self, descriptor: int) -> bool:
        # A manager that does not lock writes its number into our file in place: same inode, other owner.
        return _try_lock(descriptor) and _is_at(self.path, descriptor) and _parse(descriptor) == self._pid

    def _held(self, pid: int | None) -> PidFileError:
        who = "another process" if pid is None else f"process {pid}"
        return PidFileError(f"{self.path} is held by {who}: stop it first, or choose another {self._option}")


def read_pid(path: str | os.PathLike[str]) -> int | None:
    """Any process: the number in the file, living or not; None if there is no such file or no number in it."""
    with contextlib.suppress(OSError, PidFileError), _opened(os.fspath(path)) as present:
        return None if present is None else _parse(present)
    return None


def holder(path: str | os.PathLike[str]) -> int | None:
    """Any process: the living process that holds the file, None if there is none."""
    with contextlib.suppress(OSError, PidFileError), _opened(os.fspath(path)) as present:
        return None if present is None else _living_holder(present)
    return None


def claim(path: str | os.PathLike[str]) -> Claim:
    """Any process: whom the file names, and who vouches for it."""
    with contextlib.suppress(OSError, PidFileError), _opened(os.fspath(path)) as present:
        if present is not None:
            return _claim(present)
    return Claim()


def _claim(present: int) -> Claim:
    pid = _living_holder(present)
    if _try_lock(present, fcntl.LOCK_SH):
        return Claim(pid)
    return Claim(pid, locked=True, lockers=_lockers(present))


def _lockers(present: int) -> frozenset[int]:
    """Who has the file locked, empty where that cannot be told: the kernel may know the file by another device number."""
    status = os.fstat(present)
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        with open(_LOCKS) as table:
            rows = [line.split() for line in table]
    except OSError:
        return frozenset()
    return frozenset(int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == file and int(row[4]) > 0)


def _living_holder(present: int) -> int | None:
    pid = _parse(present)
    if pid is None:
        return None
    if not _try_lock(present, fcntl.LOCK_SH):
        return pid if _is_alive(pid) else None
    return pid if _is_older(pid, os.fstat(present).st_mtime) else None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    """A descriptor of the regular file at `path`, None if nothing is there; anything else is refused unopened."""
    descriptor = _open_regular(path)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open_regular(path: str) -> int | None:
    try:
        _refuse_irregular(path, os.lstat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        _refuse_irregular(path, os.fstat(descriptor))
    except PidFileError:
        os.close(descriptor)
        raise
    return descriptor


def _refuse_irregular(path: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnusablePidFile(
            f"{path} is a symbolic link: name the file itself, or choose another --pidfile", "Is a symbolic link"
        )
    if not stat.S_ISREG(status.st_mode):
        reason = "Is a directory" if stat.S_ISDIR(status.st_mode) else "Is not a regular file"
        raise UnusablePidFile(f"{path} is not a regular file: move it away, or choose another --pidfile", reason)


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: str, descriptor: int) -> bool:
    """Whether `path` names the open file. An open file's inode number is never given away, so equal means the same."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _parse(descriptor: int) -> int | None:
    found = _NUMBER.match(os.pread(descriptor, _READ_LIMIT, 0))
    pid = int(found[1]) if found else 0
    return pid if 0 < pid <= _PID_MAX else None


def _put_number(descriptor: int) -> None:
    """In one write, and cut off afterwards: who reads in between finds our number and a line break before what is left."""
    number = b"%d\n" % os.getpid()
    os.pwrite(descriptor, number, 0)
    os.ftruncate(descriptor, len(number))


def _is_alive(pid: int) -> bool:
    return _started(pid) is not None


def _is_older(pid: int, written: float) -> bool:
    """Whether another living process `pid` started before the file was written, so that it can be the one it names."""
    started = _started(pid)
    return pid != os.getpid() and started is not None and started <= written + _MTIME_SLACK


def _started(pid: int) -> float | None:
    """When the process started, 0 if that is secret, None if it is dead or a zombie."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
