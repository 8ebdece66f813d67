"""Listening sockets: binding, inheriting, and removing what was bound.

The manager (or a single process) binds or inherits here, before its first fork; a worker only uses a `Listener` and
closes it. This module must never remove a file that this very process did not bind, never close a descriptor that
proved not to be a listening socket, and never accept a connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import replace

from .addresses import Address
from .errors import ConfigError, ListenError
from .socketfiles import BoundFile, listen_on

DEFAULT_BACKLOG = 1024
SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START


class Listener:
    """One listening, non-blocking socket, and the file it made if it made one."""

    def __init__(self, sock: socket.socket, address: Address, bound: BoundFile | None = None) -> None:
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
        if self._bound is not None and self.fileno() >= 0:
            self._bound.remove()
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.describe()} descriptor={self.fileno()}>"


def _null_descriptor_zero(sock: socket.socket) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, sock.detach(), inheritable=True)
    os.close(null)


def bind(
    address: Address, *, backlog: int = DEFAULT_BACKLOG, mode: int | None = None, owner: str | None = None
) -> Listener:
    """Listen on `address`. `mode` (default 0o660) and `owner` ('user', 'user:group', ':group') are for socket files."""
    _check_backlog(backlog)
    if address.kind == "fd":
        return inherit(address.number)
    if address.kind == "tcp":
        return _bind_tcp(address, backlog)
    sock, bound = listen_on(address.path, backlog, mode, owner)
    return Listener(sock, address, bound)


def _check_backlog(backlog: int) -> None:
    if not isinstance(backlog, int) or isinstance(backlog, bool) or not 0 <= backlog < 2**31:
        raise ConfigError(f"backlog must be a whole number from 0 up, not {backlog!r}")


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
