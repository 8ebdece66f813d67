"""Making a listening socket for an address: a TCP socket, a socket file, or a descriptor that is one already.

The manager (or a single process) binds here, before its first fork.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

from ..basics import checks
from ..errors import ConfigError, ListenError
from .addresses import Address
from .inherited import inherit
from .listener import Listener
from .socketfiles import listen_on

DEFAULT_BACKLOG = 1024


def bind(
    address: Address,
    *,
    backlog: int = DEFAULT_BACKLOG,
    mode: int | None = None,
    owner: str | None = None,
    take_over: bool = False,
    datagrams: bool = False,
) -> Listener:
    """Listen on `address`. `mode` (default 0o660), `owner` ('user', 'user:group', ':group') and `take_over`, which moves
    into the place of a living server, are for socket files. `datagrams`: UDP, for a host and port."""
    _check_backlog(backlog)
    if checks.flag("take_over", take_over) and address.kind != "unix":
        raise ConfigError(f"take_over is for a socket file, and {address.describe()} is none: leave it out")
    if address.kind == "fd":
        return inherit(address.number)
    if address.kind == "tcp":
        return _bind_tcp(address, backlog, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
    sock, bound = listen_on(address.path, backlog, mode, owner, take_over)
    return Listener(sock, address, bound)


def _check_backlog(backlog: int) -> None:
    if not isinstance(backlog, int) or isinstance(backlog, bool) or not 0 <= backlog < 2**31:
        raise ConfigError(f"backlog must be a whole number from 0 up, not {backlog!r}")


def _bind_tcp(address: Address, backlog: int, kind: int) -> Listener:
    last: OSError | None = None
    for family, target in _resolve(address, kind):
        try:
            sock = _listen_tcp(family, target, backlog, kind)
        except OSError as error:
            last = error
            # Only an address that this machine lacks makes way for the next one: going on past one in use would
            # serve half of a name while another server has the other half.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
        else:
            return Listener(sock, replace(address, port=sock.getsockname()[1]))
    raise _tcp_error(address, last) from last


def _resolve(address: Address, kind: int) -> list[tuple[int, tuple[object, ...]]]:
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", address.port))]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=kind, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(f"{address.describe()}: the host cannot be resolved ({reason}): check its spelling") from None
    return [(family, target) for family, _, _, _, target in found]


def _listen_tcp(family: int, target: tuple[object, ...], backlog: int, kind: int) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:  # of datagrams it would let a second server take this one's
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        if kind == socket.SOCK_STREAM:
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
