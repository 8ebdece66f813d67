"""Listening sockets: addresses, binding, inheriting, and removing what was bound.

The manager (or a single process) binds or inherits here, before its first fork; a worker only uses a `Listener` and
closes it. This module must never remove a file that this very process did not bind, never close a descriptor that
proved not to be a listening socket, and never accept a connection.
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
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Callable, Optional, Union

from .errors import ConfigError, ListenError

__all__ = ["Address", "AddressLike", "Listener", "bind", "inherit", "parse_address", "systemd_listeners"]

AddressLike = Optional[Union[str, tuple[object, ...]]]

DEFAULT_BACKLOG = 1024
DEFAULT_MODE = 0o660
SUN_PATH_MAX = 107 if sys.platform == "linux" else 103  # sun_path without its final NUL
SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START

_LOCK_PATIENCE = 5.0  # seconds; an honest rival holds the lock for less than a millisecond
_LOCK_PAUSE = 0.005
_FORMS = "give /path.sock, host:port, :port, [v6]:port, fd:N, or nothing for descriptor 0"


# -- addresses ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    """Where to listen: `kind` is 'unix', 'tcp' or 'fd', and only the fields of that kind mean anything."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    number: int = 0

    def describe(self) -> str:
        """The address as an operator would write it; `parse_address` reads it back."""
        if self.kind == "unix":
            return self.path
        if self.kind == "fd":
            return f"fd:{self.number}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(value: AddressLike) -> Address:
    """The `Address` that a string, a tuple as flup takes it, or nothing at all stands for."""
    if value is None or value == "":
        return Address("fd", number=0)
    if isinstance(value, tuple):
        return _parse_tuple(value)
    if isinstance(value, str):
        return _parse_text(value)
    raise _not_understood(value)


def _parse_text(value: str) -> Address:
    if value.startswith("fd:"):
        return Address("fd", number=_parse_number(value[3:], value))
    if "/" in value or value.endswith(".sock"):
        return _unix_address(value)
    if ":" in value:
        return _parse_tcp(value)
    if value.isdigit():
        raise ConfigError(f"address {value!r} is a bare number: write ':{value}' for a port, 'fd:{value}' otherwise")
    return _unix_address(value)


def _unix_address(path: str) -> Address:
    if "\0" in path:
        raise _not_understood(path)
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise ConfigError(f"address {path!r} is {length} bytes long, a socket path may have {SUN_PATH_MAX}: shorten it")
    return Address("unix", path=path)


def _parse_tcp(value: str) -> Address:
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = _check_v6(host[1:-1], value)
    elif ":" in host or "[" in host or "]" in host:
        raise _not_understood(value)
    return Address("tcp", host=host, port=_check_port(_parse_number(port, value), value))


def _parse_tuple(value: tuple[object, ...]) -> Address:
    if not 2 <= len(value) <= 4:
        raise _not_understood(value)
    host, port, scope = value[0], value[1], value[3] if len(value) == 4 else 0
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise _not_understood(value)
    if scope and "%" not in host:
        host = f"{host}%{scope}"
    if ":" in host:
        _check_v6(host, value)
    return Address("tcp", host=host, port=_check_port(port, value))


def _check_v6(host: str, value: AddressLike) -> str:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        raise _not_understood(value) from None
    return host


def _check_port(port: int, value: AddressLike) -> int:
    if not 0 <= port <= 65535:
        raise ConfigError(f"address {value!r} has port {port}: a port is a number from 0 to 65535")
    return port


def _parse_number(text: str, value: AddressLike) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _not_understood(value)
    return int(text)


def _not_understood(value: object) -> ConfigError:
    return ConfigError(f"address {value!r} is not understood: {_FORMS}")


# -- the listener ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _BoundFile:
    """The socket file that process `pid` made. The path is absolute: a daemon changes its directory."""

    path: str
    identity: tuple[int, int]
    pid: int


class Listener:
    """One listening, non-blocking socket, and the file it made if it made one."""

    def __init__(self, sock: socket.socket, address: Address, bound: _BoundFile | None = None) -> None:
        self.socket = sock
        self.address = address
        self._bound = bound

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self.socket.fileno()

    def describe(self) -> str:
        """The address in words, with the real port if port 0 was asked for."""
        return self.address.describe()

    def close(self) -> None:
        """Any process: close this process's descriptor; the file and the other processes' descriptors stay."""
        # A process without a descriptor 0 gives that number to the next file or socket it opens, which then is the
        # standard input of whatever it runs. Therefore descriptor 0 is replaced, not closed.
        if self.socket.fileno() == 0:
            with contextlib.suppress(OSError):
                _null_descriptor_zero(self.socket)
        self.socket.close()

    def remove(self) -> None:
        """The process that bound it: remove the socket file if it is still that very file, then close.

        After `close()` this does nothing: without the open socket the file's inode number may be somebody else's.
        """
        # Closed first, the file would look stale: a starter could replace it just before our unlink, which would then
        # take the file of a living server. Therefore the file goes while the socket still listens.
        if self._bound is not None and self._bound.pid == os.getpid() and self.fileno() >= 0:
            with _directory_lock(self._bound.path):
                _unlink_if_same(self._bound)
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.describe()} descriptor={self.fileno()}>"


def _null_descriptor_zero(sock: socket.socket) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, sock.detach(), inheritable=True)
    os.close(null)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _unlink_if_same(bound: _BoundFile) -> None:
    with contextlib.suppress(OSError):
        status = os.lstat(bound.path)
        if stat.S_ISSOCK(status.st_mode) and _identity(status) == bound.identity:
            os.unlink(bound.path)


# -- binding -----------------------------------------------------------------------------------------------------------


def bind(
    address: Address, *, backlog: int = DEFAULT_BACKLOG, mode: int | None = None, owner: str | None = None
) -> Listener:
    """Listen on `address`. `mode` (default 0o660) and `owner` ('user', 'user:group', ':group') are for socket files."""
    _check_backlog(backlog)
    mode = _check_mode(mode)
    ids = _parse_owner(owner)
    if address.kind == "fd":
        return inherit(address.number)
    if address.kind == "tcp":
        return _bind_tcp(address, backlog)
    return _bind_unix(address, backlog, mode, ids)


def _check_backlog(backlog: int) -> None:
    if not isinstance(backlog, int) or isinstance(backlog, bool) or not 0 <= backlog < 2**31:
        raise ConfigError(f"backlog must be a whole number from 0 up, not {backlog!r}")


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


# -- tcp ---------------------------------------------------------------------------------------------------------------


def _bind_tcp(address: Address, backlog: int) -> Listener:
    last: OSError | None = None
    for family, target in _resolve(address):
        try:
            sock = _listen_tcp(family, target, backlog)
        except OSError as error:
            last = error
            # Only an address that this machine lacks makes way for the next one: going on past one in use would
            # serve half of a name while another server has the other half.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
        else:
            return Listener(sock, replace(address, port=sock.getsockname()[1]))
    raise _tcp_error(address, last) from last


def _resolve(address: Address) -> list[tuple[int, tuple[object, ...]]]:
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", address.port))]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(f"{address.describe()}: the host cannot be resolved ({reason}): check its spelling") from None
    return [(family, target) for family, _, _, _, target in found]


def _listen_tcp(family: int, target: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _tcp_error(address: Address, error: OSError | None) -> ListenError:
    where = address.describe()
    code = error.errno if error is not None else None
    if code == errno.EADDRINUSE:
        return ListenError(f"{where} is in use: stop the other server or choose another port")
    if code in (errno.EACCES, errno.EPERM):
        return ListenError(f"{where} may not be bound by this user: choose a port above 1023, or start as root")
    if code == errno.EADDRNOTAVAIL:
        return ListenError(f"{where} is not an address of this machine: choose one of its own, or ':{address.port}'")
    return ListenError(f"{where} cannot be bound: {error.strerror if error is not None else 'no address found'}")


# -- socket files ------------------------------------------------------------------------------------------------------


def _bind_unix(address: Address, backlog: int, mode: int, ids: tuple[int, int]) -> Listener:
    # Between bind and listen a socket refuses connections exactly as a stale one does, and a second starter would
    # replace it. Therefore probing, replacing, binding and listening are one critical section per directory.
    try:
        with _directory_lock(address.path):
            _clear_stale(address.path)
            return _listen_unix(address, backlog, mode, ids)
    except OSError as error:
        raise _unix_error(address.path, error) from error


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
    # millisecond. Therefore: wait a while, then go on; `_listen_unix` looks once more whether the file is ours.
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
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{path} exists and is not a socket: move it away or choose another path")
    if _is_served(path):
        raise ListenError(f"{path} is held by a living server: stop it or choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


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


def _listen_unix(address: Address, backlog: int, mode: int, ids: tuple[int, int]) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound: _BoundFile | None = None
    try:
        bound = _bind_tightly(sock, address.path)
        _hand_over(address.path, mode, ids)
        sock.listen(backlog)
        sock.setblocking(False)
        if _identity(os.lstat(address.path)) != bound.identity:
            raise ListenError(f"{address.path} was taken by another server at this moment: choose another path")
    except BaseException:
        if bound is not None:
            _unlink_if_same(bound)
        sock.close()
        raise
    return Listener(sock, address, bound)


def _bind_tightly(sock: socket.socket, path: str) -> _BoundFile:
    # The file appears with the mode that the umask leaves, and a chmod comes too late for who opened the door in
    # between. Therefore it starts closed. The umask is the whole process's: a thread that makes a file right now
    # gets it tighter than wanted, never looser.
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    return _BoundFile(os.path.abspath(path), _identity(os.lstat(path)), os.getpid())


def _hand_over(path: str, mode: int, ids: tuple[int, int]) -> None:
    """Owner first: the mode would otherwise open the door to the group that the file happened to get."""
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


# -- inheriting --------------------------------------------------------------------------------------------------------


def inherit(number: int) -> Listener:
    """The listening stream socket that descriptor `number` already is; its file, if any, stays its maker's."""
    try:
        sock = socket.socket(fileno=number)
    except (OSError, ValueError, OverflowError):
        raise _not_listening(number) from None
    if not _is_listening(sock):
        sock.detach()
        raise _not_listening(number)
    sock.setblocking(False)
    # Descriptor 0 must be something in every program this process runs: closed on exec, the first file that program
    # opens would be its standard input. And a FastCGI program is expected to find its listener there after an exec.
    # Therefore 0 stays inheritable; who runs other programs gives them their own standard input.
    if number != 0:
        sock.set_inheritable(False)
    return Listener(sock, Address("fd", number=number))


def _is_listening(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _not_listening(number: int) -> ListenError:
    what = f"descriptor {number} is not a listening socket"
    if number == 0:
        return ListenError(f"{what}: give an address, or let a FastCGI spawner start this")
    return ListenError(f"{what}: let whoever starts this pass one there, or give an address")


def systemd_listeners() -> list[Listener]:
    """The sockets of systemd's socket activation, none if it is not meant for this process.

    The variables go in any case: a child whose pid happens to match would take descriptors that mean something else.
    """
    pid, count, _ = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if not (pid.isascii() and pid.isdigit() and count.isascii() and count.isdigit()):
        return []
    if len(pid) > 9 or len(count) > 9 or int(pid) != os.getpid():
        return []
    return _inherit_all(range(SYSTEMD_FIRST, SYSTEMD_FIRST + int(count)))


def _inherit_all(numbers: range) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for number in numbers:
            listeners.append(inherit(number))
    except ListenError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
