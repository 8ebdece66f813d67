"""Socket files: made with the right owner and mode, taken over when stale or when that is wanted, removed only by who made
them.

The manager (or a single process) runs this before its first fork and at its end. Must never remove a file that is not a
socket, nor one that another process made; nor, unless told to take over, one that a living server holds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Callable

from ..errors import ConfigError, ListenError
from .addresses import SUN_PATH_MAX

DEFAULT_MODE = 0o660

_LOCK_PATIENCE = 5.0  # seconds; an honest rival holds the lock for less than a millisecond
_LOCK_PAUSE = 0.005


@dataclass(frozen=True)
class BoundFile:
    """The socket file that process `pid` made. The path is absolute: a daemon changes its directory."""

    path: str
    identity: tuple[int, int]
    pid: int
    former: str = ""  # another name of the file that was there before, of a server that it has been taken over from

    def remove(self) -> None:
        """Remove the file if this process made it and it is still that very file. If the server that it was taken over
        from is still there, that one gets its path back."""
        if self.pid == os.getpid():
            with _directory_lock(self.path):
                _unlink_if_same(self)
                if self.former:
                    _unlink(self.former)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _unlink_if_same(bound: BoundFile) -> None:
    with contextlib.suppress(OSError):
        status = os.lstat(bound.path)
        if stat.S_ISSOCK(status.st_mode) and _identity(status) == bound.identity and not _give_back(bound):
            os.unlink(bound.path)


def _give_back(bound: BoundFile) -> bool:
    """Whether the former server still serves, and has its path again."""
    with contextlib.suppress(OSError):
        if bound.former and _is_served(bound.former):
            os.rename(bound.former, bound.path)
            return True
    return False


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def listen_on(
    path: str, backlog: int, mode: int | None, owner: str | None, take_over: bool = False
) -> tuple[socket.socket, BoundFile]:
    """A listening, non-blocking socket at `path`; with `take_over` in place of whoever serves there. Raises ConfigError,
    ListenError, and leaves nothing behind then."""
    mode, ids = _check_mode(mode), _parse_owner(owner)
    # Between bind and listen a socket refuses connections exactly as a stale one does, and a second starter would
    # replace it. Therefore probing, replacing, binding and listening are one critical section per directory.
    try:
        with _directory_lock(path):
            if take_over:
                return _take_over(path, backlog, mode, ids)
            _clear_stale(path)
            return _listen(path, backlog, mode, ids)
    except OSError as error:
        raise _unix_error(path, error) from error


@contextlib.contextmanager
def _directory_lock(path: str) -> Iterator[None]:
    """Hold an flock on the directory of `path`, where that can be had."""
    directory = _open_directory(path)
    locked = directory is not None and _flock_patiently(directory)
    try:
        yield
    finally:
        if directory is not None:
            if locked:  # a process forked meanwhile shares this lock: closing alone would leave it locked there
                fcntl.flock(directory, fcntl.LOCK_UN)
            os.close(directory)


def _open_directory(path: str) -> int | None:
    """None if it is unreadable, which costs only the lock, or missing, which bind will say."""
    try:
        return os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _flock_patiently(directory: int) -> bool:
    # Anybody who may read the directory may hold this lock for ever, and some programs do so to keep a temporary
    # directory from being cleaned. Refusing to start would give them a veto; a rival starter is through in a
    # millisecond. Therefore: wait a while, then go on; `_listen` looks once more whether the file is ours.
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOCK_PAUSE)
        except OSError:  # no flock on directories here (NFS)
            return False
        else:
            return True


def _clear_stale(path: str) -> None:
    """Make way: remove a dead server's socket file; refuse to touch anything else."""
    if not _is_socket(path):
        return
    if _is_served(path):
        raise ListenError(f"{path} is held by a living server: stop it or choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _is_socket(path: str) -> bool:
    """Whether a socket is there; False for nothing. Anything else is refused."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{path} exists and is not a socket: move it away or choose another path")
    return True


def _take_over(path: str, backlog: int, mode: int, ids: tuple[int, int]) -> tuple[socket.socket, BoundFile]:
    """Listen aside, then move into place: a client that connects meets the former server or this one, never nobody. What
    is in the former one's queue stays there."""
    aside, former = _name_aside(path), ""
    sock, bound = _listen(aside, backlog, mode, ids)
    try:
        if _is_socket(path):
            former = _second_name(path)
        os.rename(aside, path)
    except BaseException:
        _unlink_if_same(bound)
        if former:
            _unlink(former)
        sock.close()
        raise
    return sock, replace(bound, path=os.path.abspath(path), former=former)


def _name_aside(path: str) -> str:
    name = f"{path}.{os.urandom(3).hex()}"
    if len(os.fsencode(name)) > SUN_PATH_MAX:
        longest = SUN_PATH_MAX - (len(name) - len(path))
        raise ListenError(f"{path} is too long to be taken over: a path of {longest} bytes can be, shorten it")
    return name


def _second_name(path: str) -> str:
    """By which a living server can get its path back; empty if this user may not give it one, which costs only that."""
    name = os.path.abspath(_name_aside(path))
    with contextlib.suppress(OSError):
        if _is_served(path):
            os.link(path, name)
            return name
    return ""


def _is_served(path: str) -> bool:
    """Whether a connection would be taken, now or, with a full backlog, later."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


def _listen(path: str, backlog: int, mode: int, ids: tuple[int, int]) -> tuple[socket.socket, BoundFile]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound: BoundFile | None = None
    try:
        bound = _bind_tightly(sock, path)
        _hand_over(path, mode, ids)
        sock.listen(backlog)
        sock.setblocking(False)
        if _identity(os.lstat(path)) != bound.identity:
            raise ListenError(f"{path} was taken by another server at this moment: choose another path")
    except BaseException:
        if bound is not None:
            _unlink_if_same(bound)
        sock.close()
        raise
    return sock, bound


def _bind_tightly(sock: socket.socket, path: str) -> BoundFile:
    # The file appears with the mode that the umask leaves, and a chmod comes too late for who has connected in
    # between. Therefore it starts closed. The umask is the whole process's: a thread that makes a file right now
    # gets it tighter than wanted, never looser.
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    return BoundFile(os.path.abspath(path), _identity(os.lstat(path)), os.getpid())


def _hand_over(path: str, mode: int, ids: tuple[int, int]) -> None:
    """Owner first: the mode would otherwise let in the group that the file happened to get."""
    if ids != (-1, -1):
        try:
            os.chown(path, *ids, follow_symlinks=False)
        except PermissionError:
            raise ListenError(f"{path} cannot be given that owner by this user: start as root, or leave it out")
    os.chmod(path, mode)


def _unix_error(path: str, error: OSError) -> ListenError:
    directory = os.path.dirname(os.path.abspath(path))
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ListenError(f"{path} cannot be bound: there is no directory {directory}: create it first")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"{path} cannot be bound by this user: give it access to {directory} and to what is there")
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"{path} was taken by another server at this moment: choose another path")
    return ListenError(f"{path} cannot be bound: {error.strerror or error}")


def _check_mode(mode: int | None) -> int:
    if mode is None:
        return DEFAULT_MODE
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= 0o777:
        raise ConfigError(f"mode must be a number from 0 to 0o777, not {mode!r}")
    return mode


def _parse_owner(owner: str | None) -> tuple[int, int]:
    """The user and group numbers, -1 for what is to stay as it is."""
    if owner is None:
        return -1, -1
    if not isinstance(owner, str):
        raise ConfigError(f"owner must be 'user', 'user:group' or ':group', not {owner!r}")
    user, colon, group = owner.partition(":")
    if not (user or group) or (colon and not group):
        raise ConfigError(f"owner must be 'user', 'user:group' or ':group', not {owner!r}")
    return (
        _look_up("user", user, lambda name: pwd.getpwnam(name).pw_uid),
        _look_up("group", group, lambda name: grp.getgrnam(name).gr_gid),
    )


def _look_up(what: str, name: str, find: Callable[[str], int]) -> int:
    if not name:
        return -1
    if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
        return int(name)
    try:
        return find(name)
    except (KeyError, ValueError):
        raise ConfigError(f"owner names the unknown {what} {name!r}") from None
