"""What a manager leaves to the program that it executes, or shows to a canary: its listeners, its children, its pipes.

Written by the manager before the exec, into a file without a name whose descriptor an environment variable tells; read once, by the
process that it was written for. Must never be believed by another process that inherits the variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..basics.clock import FOREVER
from ..children.registry import Child
from ..sockets.addresses import parse_address
from ..sockets.existing import existing
from ..sockets.listener import Listener
from ..sockets.socketfiles import BoundFile
from ..system.pidfile import PidFile

_VARIABLE, PID_VARIABLE = "FCGI_PROCMANAGER_HANDOVER", "FCGI_PROCMANAGER_HANDOVER_PID"
_VERSION = 1  # of the format: a newer release may be what is executed
_LIMIT = 16 << 20  # bytes


@dataclass
class Handover:
    """mask: of signals, as it was before they were held. reports: in a canary, where it says how it went. channel: descriptors.
    attempts: reloads so far, those that failed as well. served: a worker has served. more: workers than the code says, by TTIN and
    TTOU. parts: what each part of the loop has left."""

    version: int = _VERSION
    canary: bool = False
    listeners: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: int = -1
    channel: list[int] = field(default_factory=list)
    pidfiles: dict[str, int] = field(default_factory=dict)
    children: list[dict[str, Any]] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    generation: int = 0
    attempts: int = 0
    served: bool = False
    more: int = 0

    # -- in the manager that leaves it --------------------------------------------------------------------------------

    def add_listener(self, listener: Listener) -> None:
        self.listeners.append(describe(listener))

    def add_child(self, child: Child) -> None:
        left = {name: getattr(child, name) for name in ("pid", "kind", "generation", "served", "spawned_at")}
        left["ready_at"] = None if child.ready_at == FOREVER else child.ready_at
        left["leaves_by"] = None
        if child.ladder is not None:
            left["leaves_by"] = 0 if child.ladder.deadline == FOREVER else child.ladder.deadline
        self.children.append(left)

    def descriptors(self) -> set[int]:
        """All that go with it."""
        numbers = {one["fd"] for one in self.listeners} | set(self.channel) | set(self.pidfiles.values())
        for part in self.parts.values():
            numbers |= set(part.get("descriptors", ()))
        return (numbers | {self.reports}) - {-1}

    def write(self) -> int:
        """Into a file without a name: its descriptor, which is to be closed. Raises OSError."""
        import json  # not above: workers would pay for it

        descriptor = _nameless_file()
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(self)).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    # -- in the program that was executed -----------------------------------------------------------------------------

    def take_listeners(self, asked: str) -> list[Listener]:
        """Those that the same words were asked for."""
        found = [one for one in self.listeners if one["asked"] == asked]
        self.listeners = [one for one in self.listeners if one["asked"] != asked]
        return [listener(one) for one in found]

    def remove_listeners(self) -> None:
        """Of those that nobody has asked for."""
        for one in self.listeners:
            listener(one).remove()
        self.listeners = []

    def abandon(self) -> None:
        """There is no pool any more: its workers see the end of their lifeline."""
        for number in self.channel:
            os.close(number)
        for path, descriptor in self.pidfiles.items():
            PidFile.left(path, descriptor).release()
        self.remove_listeners()


def describe(listener: Listener) -> dict[str, Any]:
    """What the next image is to know of it, for JSON."""
    bound = asdict(listener.bound) if listener.bound is not None else None
    address = listener.address.describe()
    return {"asked": listener.asked, "fd": listener.fileno(), "address": address, "bound": bound}


def listener(left: dict[str, Any]) -> Listener:
    """One that was described so."""
    sock = existing(left["fd"])
    sock.setblocking(False)
    bound = left["bound"]
    if bound is not None:
        bound = BoundFile(**{**bound, "identity": tuple(bound["identity"])})
    found = Listener(sock, parse_address(left["address"]), bound)
    found.asked = left["asked"]
    return found


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux: no disk can be full
        return os.memfd_create("handover")
    import tempfile  # not above: what it loads would cost every worker

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def environment(descriptor: int, ours: Mapping[str, str]) -> dict[str, str]:
    """Of the program, without PID_VARIABLE, which is to say what its pid is."""
    return {**ours, _VARIABLE: str(descriptor)}


def found() -> Handover | None:
    """What was left to this process; None if nothing was, or somebody has taken it."""
    return _found


def is_there() -> bool:
    """Whether this process takes over from an older image of itself, or tries to."""
    return _found is not None


def is_canary() -> bool:
    return _found is not None and _found.canary


def part(kind: str) -> dict[str, Any] | None:
    """What the part of the loop that keeps such children has left."""
    return _found.parts.get(kind) if _found is not None else None


def take() -> Handover | None:
    """The same, for the one who makes a pool of it."""
    global _found
    taken, _found = _found, None
    return taken


def _read() -> Handover | None:
    text, pid = os.environ.pop(_VARIABLE, ""), os.environ.pop(PID_VARIABLE, "")
    if pid != str(os.getpid()) or not text.isdigit():
        return None
    import json

    with contextlib.suppress(OSError), open(int(text), "rb") as file:
        left = json.loads(file.read(_LIMIT))
        if left.pop("version") != _VERSION:
            raise SystemExit("the manager is of another release of fcgi-procmanager: restart it")
        handover = Handover(**left)
        _keep(handover.descriptors())
        return handover
    return None


def _keep(descriptors: Iterable[int]) -> None:
    """For us alone: not for the programs that we run. But see `inherit` of descriptor 0."""
    for number in descriptors:
        if number != 0:
            os.set_inheritable(number, False)


_found = _read()  # at once: a program that the application runs must not find the variables
