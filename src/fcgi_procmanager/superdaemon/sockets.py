"""The sockets of a superdaemon: bound once, or handed over to it, and given to every generation under the same numbers.

Runs in the superdaemon. Must never remove a file that it has not made, nor accept a connection.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from ..errors import ConfigError, ListenError
from ..sockets import serverports
from ..sockets.addresses import parse_address
from ..sockets.binding import bind
from ..sockets.listener import Listener
from .options import Options
from .ports import Port, layout

_SPARE = 16  # descriptors that a program needs besides while it is started


@dataclass(frozen=True)
class Shared:
    """spec: what the program is told. number: the descriptor that it is to have; None for any. name: for LISTEN_FDNAMES."""

    listener: Listener
    spec: str
    name: str
    number: int | None = None


class Sockets:
    """handed_over: those that systemd holds, with their names. notify: for one line of the log."""

    def __init__(self, handed_over: Sequence[tuple[Listener, str]], notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._shared = [Shared(listener, listener.describe(), name) for listener, name in handed_over]

    def open(self, options: Options) -> None:
        """Bind what is asked for: ports, then paths. Raises ConfigError and ListenError, with everything undone."""
        try:
            for port in options.ports:
                self._shared.append(self._bind_port(port, options))
            for path in options.paths:
                self._shared.append(self._bind_path(path, options))
            # A program that was not written for us waits in accept, which must block. The flag is shared with it.
            for shared in self._shared:
                shared.listener.socket.setblocking(True)
            self._layout = layout([shared.number for shared in self._shared])
            _check_numbers(self._layout.descriptors, options.ports)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        for shared in self._shared:
            shared.listener.remove()
        self._shared.clear()

    @property
    def descriptors(self) -> Mapping[int, int]:
        """The program's number -> ours."""
        return {number: self._shared[i].listener.fileno() for number, i in self._layout.descriptors.items()}

    @property
    def environment(self) -> dict[str, str]:
        """What the program is told of them."""
        specs = [shared.spec for shared in self._shared]
        told = {serverports.VARIABLE: serverports.write(list(zip(specs, self._layout.numbers)))}
        if self._shared and self._layout.in_a_row:
            told["LISTEN_FDS"] = str(len(self._shared))
            told["LISTEN_FDNAMES"] = ":".join(shared.name for shared in self._shared)
        return told

    def _bind_port(self, port: Port, options: Options) -> Shared:
        try:
            listener = bind(port.address, backlog=options.backlog, datagrams=port.datagrams)
        except ListenError as error:
            if not isinstance(error.__cause__, OSError):
                raise ListenError(f"failed to resolve host:{port.address.host}: check its spelling") from None
            raise ListenError(f"failed to bind to {port.spec}:{_reason(error)}") from None
        if port.number is not None:
            self._notify(f"socket is duplicated to file descriptor {port.number}")
        return Shared(listener, port.spec, _name(port.spec), port.number)

    def _bind_path(self, path: str, options: Options) -> Shared:
        is_there = _is_socket(path)
        # The directory is part of the address: a name alone may be a port to parse_address.
        address = parse_address(path if "/" in path else f"./{path}")
        try:
            listener = bind(address, backlog=options.backlog, mode=options.socket_mode, owner=options.socket_owner)
        except ListenError as error:
            raise ListenError(f"failed to listen to file {path}:{_reason(error)}") from None
        if is_there:
            self._notify(f"removing existing socket file:{path}")
        return Shared(listener, path, _name(path))


def _is_socket(path: str) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return False


def _reason(error: ListenError) -> str:
    """The system's word for it, as scripts know it, and what to do about it."""
    said, _, advice = str(error).rpartition(": ")
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror if cause.strerror == advice else f"{cause.strerror}: {advice}"
    return f"{said.partition(' ')[2]}: {advice}"


def _name(spec: str) -> str:
    """As systemd takes it: a colon ends a name."""
    return spec.replace(":", "-")


def _check_numbers(descriptors: Mapping[int, int], ports: Sequence[Port]) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    highest = max(descriptors, default=0)
    if most != resource.RLIM_INFINITY and highest + 2 * len(descriptors) + _SPARE > most:
        chosen = any(port.number == highest for port in ports)
        advice = "choose a smaller number" if chosen else "raise the limit (ulimit -n)"
        raise ConfigError(f"descriptor {highest} is too high for the limit of {most} open files: {advice}")
