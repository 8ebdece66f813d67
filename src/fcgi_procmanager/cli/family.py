"""The pools of a file as a parent is to keep them: looked at as `check` does, and each with the command line of its manager.

Runs in the parent, at its start and at each reload. Must never load an application, nor touch an address.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ..basics.clock import FOREVER
from ..children.launch import environment_from
from ..errors import ConfigError
from ..parent.wanted import Wanted
from ..pool.control import path_beside
from ..sockets.addresses import SUN_PATH_MAX
from .collisions import places
from .configcheck import commands, kind_of, mistakes_of
from .configured import POOLS, Configured, pool_names
from .pooloptions import STANDARD_ERROR
from .sources import PREFIX, Table, Value, from_table, variable
from .tomlfile import TomlFile

__all__ = ["Family"]

_KEPT_VARIABLE = variable("config")
_LOGS = ("log-file", "access-log")
_SUPERDAEMONS = f"{PREFIX}SUPERDAEMON_"  # a copy of `exec` may be one


class Family:
    """pidfile, log_file: of the parent, absolute; None for none. control: where the parent answers, None for nowhere."""

    def __init__(self, path: str, pidfile: str | None, log_file: str | None) -> None:
        self._path = path
        self.pidfile = pidfile
        self.log_file = log_file
        self.control: str | None = None if pidfile is None else path_beside(pidfile)
        self._known = commands()

    def read(self) -> dict[str, Wanted]:
        """As the file is now. Raises ConfigError with its first mistake."""
        file = TomlFile(self._path)
        mistakes = mistakes_of(file, self._known)
        see = f": see 'fcgi-procmanager check --config {self._path}'"
        if not mistakes:
            mistakes, see = list(self._mistakes_under_a_parent(file)), ""
        if mistakes:
            raise ConfigError(mistakes[0] + (f" (and {len(mistakes) - 1} more{see})" if mistakes[1:] else ""))
        return {name: self._wanted(Table(file, (POOLS, name))) for name in pool_names(file)}

    def _mistakes_under_a_parent(self, file: TomlFile) -> Iterator[str]:
        """What is right in a pool that is started by itself."""
        names = pool_names(file) if isinstance(file.data.get(POOLS), dict) else []
        if not names:
            yield f"{file.path}: there is no pool in it: write a table [pool.NAME]"
        ours = {path for path in (self.pidfile, self.control) if path is not None}
        for name in names:
            if isinstance(file.data[POOLS][name], dict):
                yield from self._mistakes(Table(file, (POOLS, name)), ours)

    def _mistakes(self, table: Table, ours: set[str]) -> Iterator[str]:
        command = kind_of(table, self._known)
        values, name = _values(command, table), f"[{'.'.join(table.path)}]"
        here = table.file.where(*table.path)
        if not values[command.needs].value:
            yield f"{here}: {name} has no key {command.needs}"
        if values["daemon"].value:
            yield f"{table.where('daemon')}: {name} cannot go into the background by itself: take daemon away, and give --daemon to 'run'"
        if values["processes"].value == 0:
            yield f"{table.where('processes')}: {name} has no manager with 0 processes: give 1 or more"
        if not values["listen"].value and not ("web" in values and values["web"].value):
            yield f"{here}: {name} has no address: give it a key listen"
        for key, place in places(table, command):
            if place in ours:
                yield f"{here}: {name} has {place} as its {key}, which belongs to 'run': choose another"

    # -- one pool -----------------------------------------------------------------------------------------------------

    def _wanted(self, table: Table) -> Wanted:
        command = kind_of(table, self._known)
        values = _values(command, table)
        name = table.path[-1]
        words = [command.name, "--config", self._path, f"--pool-name={name}"]
        control = self._control_of(command, values, name)
        if control and not values["control"].value and not values["pidfile"].value:
            words.append(f"--control={control}")
        if self.log_file is not None and values["log-file"].value in (None, STANDARD_ERROR):
            words.append(f"--log-file={self.log_file}")
        return Wanted(
            name,
            command.name,
            tuple(words),
            self._environment(),
            _patience(command, values),
            control,
            reopens=self.log_file is not None
            or any(values[key].value not in (None, STANDARD_ERROR) for key in _LOGS if key in values),
            places=frozenset(place for _, place in places(table, command)),
            fixed=(words, None if command.name == "serve" else repr(table.data)),
        )

    def _control_of(self, command: Configured, values: Mapping[str, Value], name: str) -> str:
        """Empty for a pool that answers nowhere: copies of a program; one whose manager is of a class that may not answer; one of
        another user, who may not make a socket beside our PID file; and where the path would be too long for a socket."""
        if "control" not in values:
            return ""
        if values["control"].value:
            return os.path.abspath(str(values["control"].value))
        if values["pidfile"].value:
            return path_beside(values["pidfile"].value)
        if self.control is None or any(values[key].value for key in ("manager", "user", "group")):
            return ""
        path = f"{self.control.removesuffix('.control')}.{quote(name, safe=' ')}.control"
        return path if len(os.fsencode(path)) <= SUN_PATH_MAX else ""

    def _environment(self) -> dict[str, str]:
        """Without what was meant for one pool: all of them would obey it."""
        return {
            name: value
            for name, value in environment_from(os.environ).items()
            if not name.startswith(PREFIX) or name == _KEPT_VARIABLE or name.startswith(_SUPERDAEMONS)
        }


def _values(command: Configured, table: Table) -> dict[str, Value]:
    """As its manager has them, without its command line and variables."""
    return {option.key: Value(option.default, "") for option in command.options} | from_table(
        command.options, table
    ).values


def _patience(command: Configured, values: Mapping[str, Any]) -> float:
    """Seconds that its manager may take to stop. A class of the application may have a limit that we do not know."""
    given = values["die-timeout"].value
    if given == 0 or (given is None and "manager" in values and values["manager"].value):
        return FOREVER
    return float(command.in_force("die-timeout", given)) + float(values["drain-delay"].value or 0)
