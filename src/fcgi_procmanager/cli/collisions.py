"""Pools of one file that would take a place from each other: an address, a PID file, a control socket. Pure.

Runs in the command `check`, and in the parent of several pools.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Callable

from ..errors import ConfigError
from ..pool.control import path_beside
from ..sockets.addresses import parse_address
from .configured import POOLS, Configured, pool_names
from .sources import Table, from_table
from .tomlfile import TomlFile

__all__ = ["collisions", "places"]

_ADDRESSES = ("listen", "web", "status-listen")
_PATHS = ("pidfile", "control")


def collisions(file: TomlFile, kind_of: Callable[[Table], Configured]) -> Iterator[str]:
    """A line for each place that a pool before it has as well. kind_of: the command of a pool."""
    taken: dict[str, tuple[str, str]] = {}
    for name in pool_names(file) if isinstance(file.data.get(POOLS), dict) else ():
        if not isinstance(file.data[POOLS][name], dict):
            continue
        table = Table(file, (POOLS, name))
        mine: set[str] = set()
        for key, place in places(table, kind_of(table)):
            other, others_key = taken.setdefault(place, (name, key))
            if other != name:
                yield f"{table.where(_written(table, key))}: [{POOLS}.{other}] has the same place, as its {others_key}: {place}"
            elif place in mine:
                yield f"{table.where(_written(table, key))}: {others_key} of this pool is the same place: {place}"
            mine.add(place)


def places(table: Table, command: Configured) -> Iterator[tuple[str, str]]:
    """What a pool takes for itself alone: a key, and the place as text. What cannot be read is left out: others complain of it."""
    values = {key: one.value for key, one in from_table(command.options, table).values.items()}
    for key in _ADDRESSES:
        given = values.get(key) or []
        for text in given if isinstance(given, list) else [given]:
            if place := _place(str(text)):
                yield key, place
    for key in _PATHS:
        if values.get(key):
            yield key, os.path.abspath(values[key])
    if (
        values.get("pidfile")
        and not values.get("control")
        and any(option.key == "control" for option in command.options)
    ):
        yield "control", path_beside(values["pidfile"])


def _place(text: str) -> str:
    """Empty for one that is nobody's own."""
    try:
        address = parse_address(text)
    except ConfigError:
        return ""
    if address.kind == "unix":
        return os.path.abspath(address.path)
    return address.describe() if address.kind == "tcp" and address.port else ""


def _written(table: Table, key: str) -> str:
    """As it stands in the file. The place of a control socket may come from the PID file."""
    for name in (key, key.replace("-", "_"), "pidfile"):
        if name in table.data:
            return name
    return key
