"""What people write for the ports of a superdaemon, and where the program finds them. Pure.

Source of the forms: Server::Starter 0.35.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ConfigError
from ..sockets.addresses import Address

FIRST = 3  # SD_LISTEN_FDS_START

_PORT = re.compile(r"(?:(?P<host>.+):)?(?P<udp>u)?(?P<port>[0-9]{1,5})(?:=(?P<number>[0-9]{1,6}))?", re.ASCII)


@dataclass(frozen=True)
class Port:
    """spec: what the program is told. number: the descriptor that it is to have; None for any."""

    spec: str
    address: Address
    datagrams: bool = False
    number: int | None = None


class Layout(NamedTuple):
    """Of the program's descriptors. numbers: of each socket, for SERVER_STARTER_PORT. descriptors: the program's number -> which
    socket. in_a_row: they also are in order from FIRST, for LISTEN_FDS."""

    numbers: tuple[int, ...]
    descriptors: dict[int, int]
    in_a_row: bool


def parse_port(text: str) -> Port:
    """`port`, `host:port`, `[v6]:port`, each with `u` before the port for UDP and `=fd` behind it. Raises ConfigError."""
    found = _PORT.fullmatch(str(text).strip())
    if found is None or int(found["port"]) > 65535:
        raise ConfigError(f"invalid ``port'' value:{text}")
    host = found["host"] or ""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    port = int(found["port"])
    shown = f"[{host}]" if ":" in host else host
    spec = f"{shown}:{port}" if host else str(port)
    number = None if found["number"] is None else int(found["number"])
    return Port(spec, Address("tcp", host=host, port=port), bool(found["udp"]), number)


def layout(wanted: Sequence[int | None]) -> Layout:
    """Where the sockets go of which some are to have a number. Raises ConfigError when two are to have the same.

    They are in a row from FIRST, in order, and at the wanted number as well, unless a wanted number is in the way."""
    fixed = [number for number in wanted if number is not None]
    for number in fixed:
        if fixed.count(number) > 1:
            raise ConfigError(f"descriptor {number} is asked for twice: give each port a number of its own")
    row = range(FIRST, FIRST + len(wanted))
    in_a_row = all(number is None or number not in row or number == FIRST + i for i, number in enumerate(wanted))
    if in_a_row:
        numbers = tuple(FIRST + i if number is None else number for i, number in enumerate(wanted))
        descriptors = {FIRST + i: i for i in range(len(wanted))}
    else:
        free = iter(number for number in range(FIRST, FIRST + 2 * len(wanted)) if number not in fixed)
        numbers = tuple(next(free) if number is None else number for number in wanted)
        descriptors = {}
    descriptors.update((number, i) for i, number in enumerate(numbers))
    return Layout(numbers, descriptors, in_a_row)
