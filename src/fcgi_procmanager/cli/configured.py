"""A command whose options may also come from a file and from variables, as argparse knows them.

Runs before anything is started. What options there are, how they are read and which of them are paths is all taken from the parser of
the command: an option that is added there is one of the file as well.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable

from ..errors import ConfigError
from ..sockets.addresses import parse_address
from .arguments import Options, Parser
from .pooloptions import plain_address
from .sources import (
    FLAG,
    LIST,
    ONE,
    Found,
    Option,
    Table,
    Value,
    as_it_is,
    did_you_mean,
    from_table,
    from_variables,
    variable,
)

if TYPE_CHECKING:
    from .tomlfile import TomlFile

__all__ = ["POOLS", "SUPERDAEMON", "Configured", "find_table", "good", "placed_path", "pool_names", "table_mistakes"]

POOLS, SUPERDAEMON = "pool", "superdaemon"
_TABLES = (POOLS, SUPERDAEMON)

_ELSEWHERE = "options from elsewhere"  # the title of a group
_FILE = "file with options, in TOML: a table [pool.NAME] for each pool (default: none)"
_POOL = "name of the pool: which one of those in the file, and what is shown of it (default: the only one)"
_MORE = ("config", "pool-name")  # they tell where options are, and are none themselves
_ALIAS = argparse.SUPPRESS  # as the help of an option: it is only another way to write one


class Configured:
    """The options of a command that keeps a pool. needs: without it there is nothing to run. examine: looks at values together; raises
    ConfigError. constructor: who has the defaults of those that the command has none for."""

    def __init__(
        self,
        parser: Parser,
        needs: str,
        examine: Callable[[Options], object],
        constructor: Callable[..., object],
    ) -> None:
        """The parser is complete by now: of what is not typed it must say nothing from here on."""
        self.parser = parser
        self.needs = needs
        self.examine = examine
        self._actions = {action.dest.replace("_", "-"): action for action in _own(parser)}
        self.options: list[Option] = [_option(key, action) for key, action in self._actions.items()]
        self._constructor = constructor
        _say_nothing_untyped(parser, self._actions.values())
        group = parser.group(_ELSEWHERE)
        group.add_argument("--config", metavar="FILE", help=_FILE)
        group.add_argument("--pool-name", metavar="NAME", help=_POOL)
        parser.set_defaults(complete=self.complete, without_variables=self.without_variables)

    @property
    def keys(self) -> list[str]:
        """Of variables."""
        return [*self._actions, *_MORE]

    @property
    def name(self) -> str:
        """Of the command."""
        return self.parser.prog.rpartition(" ")[2]

    def complete(self, options: Options) -> None:
        """What was not typed comes from elsewhere. Also sets `options.values`, with the origin of each, and `options.table`, where it
        was read from. Raises ConfigError."""
        self.complete_from(options, find_table(options))

    def complete_from(self, options: Options, table: Table | None) -> None:
        """The same with this table of a file, or none. Raises ConfigError."""
        options.table = table
        values = self.values(options, table)
        for key, value in values.items():
            setattr(options, self._actions[key].dest, value.value)
        options.values = values
        if not values[self.needs].value:
            self._miss(table)

    def values(self, options: Options, table: Table | None) -> dict[str, Value]:
        """All of them."""
        values = {option.key: Value(option.default, "default") for option in self.options}
        if table is not None:
            self._check_kind(table)
            values.update(good(from_table(self.options, table), table))
        values.update(good(from_variables(self.options, os.environ)))
        for key, action in self._actions.items():
            typed: Any = getattr(options, action.dest, None)
            if action.nargs == argparse.REMAINDER and typed and typed[:1] == ["--"]:
                typed = typed[1:]
            if typed not in (None, []):
                values[key] = Value(typed, "command line")
        return values

    def without_variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """For a program that we run: what is said to us is not said to it, which may be one of ours."""
        ours = {*map(variable, self.keys)}
        return {name: value for name, value in environ.items() if name not in ours}

    def in_force(self, key: str, value: Any) -> Any:
        """With the defaults of the manager itself."""
        return _defaults_of(self._constructor).get(self._actions[key].dest) if value is None else value

    def help_of(self, key: str) -> str:
        return str(self._actions[key].help)

    def checked(self, table: Table) -> list[str]:
        """All that is wrong in the table, a line each."""
        found = from_table(self.options, table)
        if found.mistakes:
            return found.mistakes
        options = Options()
        for option in self.options:
            value = found.values.get(option.key, Value(option.default, ""))
            setattr(options, self._actions[option.key].dest, value.value)
        try:
            self.examine(options)
        except ConfigError as error:
            return [f"{self._place_of(str(error), table)}: {error}"]
        return []

    def _place_of(self, message: str, table: Table) -> str:
        """Of the option that it names, if that is in the table."""
        for name in re.findall(r"--([a-z-]+)", message):
            for key in (name, name.replace("-", "_")):
                if key in table.data:
                    return table.where(key)
        return f"{table.file.where(*table.path)}: [{'.'.join(table.path)}]"

    def _check_kind(self, table: Table) -> None:
        """A pool of the other command is no mistake, but not ours."""
        others = {"application": "serve", "command": "exec"}
        for key, command in others.items():
            if key in table.data and key != self.needs:
                name = ".".join(table.path)
                raise ConfigError(
                    f"{table.where(key)}: [{name}] has the key {key}: run it by '{command}', not by '{self.name}'"
                )

    def _miss(self, table: Table | None) -> None:
        if table is not None:
            where = table.file.where(*table.path)
            raise ConfigError(
                f"{where}: [{'.'.join(table.path)}] has no key {self.needs}, and the command line names none"
            )
        if self.needs == "application":
            self.parser.error("the following arguments are required: MODULE:NAME")


def find_table(options: Options) -> Table | None:
    """The pool that is meant, by the command line or else by variables; None without a file. Raises ConfigError."""
    path = getattr(options, "config", None) or os.environ.get("FCGI_PROCMANAGER_CONFIG")
    name = getattr(options, "pool_name", None)
    if not path:
        return None
    if path.endswith(".py") or path.startswith("python:"):
        raise ConfigError(f"{path}: options are in a file of TOML here, not of Python: see docs/CONFIG.md")
    from .tomlfile import TomlFile  # not above: few have a file

    file = TomlFile(path)
    for mistake in table_mistakes(file):
        raise ConfigError(mistake)
    return Table(file, (POOLS, _chosen(file, name or os.environ.get("FCGI_PROCMANAGER_POOL_NAME") or None)))


def table_mistakes(file: TomlFile) -> Iterator[str]:
    """What is wrong above the keys, a line each."""
    for key, value in file.data.items():
        if key not in _TABLES:
            kind = "table" if isinstance(value, dict) else "key"
            near = did_you_mean(key, _TABLES)
            yield f"{file.where(key)}: unknown {kind} {key}{near or '; options are in [pool.NAME] or [superdaemon]'}"
        elif not isinstance(value, dict):
            yield f"{file.where(key)}: {key} must be a table: write [{'pool.NAME' if key == POOLS else key}]"
    pools = file.data.get(POOLS)
    for key, value in pools.items() if isinstance(pools, dict) else ():
        if not isinstance(value, dict):
            yield f"{file.where(POOLS, key)}: {key} is in no pool: pools have names, as in [pool.NAME]"


def pool_names(file: TomlFile) -> list[str]:
    return list(file.data.get(POOLS, {}))


def _chosen(file: TomlFile, name: str | None) -> str:
    names = pool_names(file)
    shown = ", ".join(names)
    if not names:
        raise ConfigError(f"{file.path}: there is no pool in it: write a table [pool.NAME]")
    if name is not None and name not in names:
        near = did_you_mean(name, names)
        raise ConfigError(f"{file.path}: there is no pool {name!r}: it has {shown}{near}")
    if name is None and len(names) > 1:
        raise ConfigError(f"{file.path}: there are several pools, {shown}: choose one by --pool-name NAME")
    return names[0] if name is None else name


def good(found: Found, table: Table | None = None) -> dict[str, Value]:
    """Raises ConfigError with the first mistake."""
    if not found.mistakes:
        return found.values
    more = len(found.mistakes) - 1
    rest = f" (and {more} more: see 'fcgi-procmanager check --config {table.file.path}')" if more and table else ""
    raise ConfigError(found.mistakes[0] + rest)


# -- what argparse knows -------------------------------------------------------------------------------------------------


def _own(parser: Parser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest not in ("help", *_MORE) and action.help != _ALIAS]


def _option(key: str, action: argparse.Action) -> Option:
    if isinstance(action, argparse._StoreTrueAction):
        return Option(key, FLAG, str, False)
    takes_words = action.nargs == argparse.REMAINDER
    is_list = takes_words or isinstance(action, argparse._AppendAction)
    return Option(
        key,
        LIST if is_list else ONE,
        _reader(action),
        ([] if takes_words else action.default),
        _PLACED.get(str(action.metavar), as_it_is),
        one_is_enough=not takes_words,
        read_by=action.type,
    )


def _reader(action: argparse.Action) -> Callable[[str], Any]:
    kind: Callable[[str], Any] = action.type if callable(action.type) else str
    choices = list(action.choices or ())

    def read(text: str) -> Any:
        value = kind(text)
        if choices and value not in choices:
            near = did_you_mean(text, choices)
            raise ValueError(f"{text!r} is none of {', '.join(choices)}{near}")
        return value

    return read


def _say_nothing_untyped(parser: Parser, actions: Any) -> None:
    """Each option keeps silent unless it is typed. A flag can be taken back: the file may have set it."""
    for action in list(actions):
        action.default = argparse.SUPPRESS
        if not action.option_strings and action.nargs is None:
            action.nargs, action.required = "?", False
        if isinstance(action, argparse._StoreTrueAction):
            name = action.option_strings[-1].replace("--", "--no-", 1)
            parser.add_argument(name, dest=action.dest, action="store_false", default=argparse.SUPPRESS, help=_ALIAS)


def _defaults_of(constructor: Callable[..., object]) -> dict[str, Any]:
    import inspect  # not above: it is for the command `config` only

    found: dict[str, Any] = {}
    for one in reversed(constructor.__mro__) if isinstance(constructor, type) else (constructor,):
        parameters = inspect.signature(one).parameters.values()
        found.update((one.name, one.default) for one in parameters if one.default is not inspect.Parameter.empty)
    return found


# -- paths in a file -----------------------------------------------------------------------------------------------------


def placed_path(text: str, directory: str) -> str:
    """Not made shorter where it goes up: that may lead through a link."""
    if text in ("", "-") or text.lstrip().startswith("|"):
        return text
    path = os.path.join(directory, text)
    return path if os.pardir in text.split(os.sep) else os.path.normpath(path)


def _placed_address(text: str, directory: str) -> str:
    plain = plain_address(text)
    try:
        address = parse_address(plain)
    except ConfigError:
        return text  # who reads it says why
    return placed_path(address.path, directory) if address.kind == "unix" else plain


_PLACED = {"FILE": placed_path, "DIRECTORY": placed_path, "ADDRESS": _placed_address}
