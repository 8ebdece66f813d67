"""All that is wrong in a file with options, a line each.

Runs in the command `check`. Must never touch what the file names: neither its addresses nor its application.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from ..basics import exits
from ..errors import ConfigError
from .arguments import Parser
from .collisions import collisions
from .configured import POOLS, SUPERDAEMON, Configured, pool_names, table_mistakes
from .exec import add as add_exec
from .messages import PROGRAM, complain, one_line, point, say
from .serve import add as add_serve
from .sources import PREFIX, Table, did_you_mean, variable
from .start_server import mistakes_in, variables
from .tomlfile import TomlFile

__all__ = ["check_file", "commands", "kind_of", "mistakes_of"]


def commands() -> dict[str, Configured]:
    """Those whose options may come from a file, by name."""
    found = Parser(prog=PROGRAM).add_subparsers()
    return {one.name: one for one in (add_serve(found), add_exec(found))}


def kind_of(table: Table, known: Mapping[str, Configured]) -> Configured:
    """The command that such a pool is for: by what it is to run, or else by the options that it has."""
    keys = {key.replace("_", "-") for key in table.data}
    for one in known.values():
        if one.needs in keys:
            return one
    return max(known.values(), key=lambda one: len(keys & {option.key for option in one.options}))


def check_file(path: str) -> int:
    """Say what is wrong, or what is in the file. The exit status."""
    known = commands()
    try:
        file = TomlFile(path)
    except ConfigError as error:
        point(str(error))
        return exits.USAGE
    mistakes = mistakes_of(file, known)
    for mistake in mistakes:
        point(one_line(mistake))
    for name in _unknown_variables(known):
        complain(f"warning: {name}")
    if mistakes:
        return exits.USAGE
    say(f"{path} is in order: {_contents(file, known)}")
    return exits.OK


def mistakes_of(file: TomlFile, known: Mapping[str, Configured]) -> list[str]:
    """All of them, a line each, in the order of the file."""
    return sorted(_mistakes(file, known), key=_line)


def _mistakes(file: TomlFile, known: Mapping[str, Configured]) -> Iterator[str]:
    yield from table_mistakes(file)
    for name in _tables(file):
        table = Table(file, (POOLS, name))
        if all(one.needs in table.data for one in known.values()):
            yield f"{file.where(*table.path)}: [{POOLS}.{name}] is one pool: it has either an application or a command"
        else:
            yield from kind_of(table, known).checked(table)
    yield from collisions(file, lambda table: kind_of(table, known))
    if isinstance(file.data.get(SUPERDAEMON), dict):
        yield from mistakes_in(Table(file, (SUPERDAEMON,)))
    if not file.data:
        yield f"{file.path}: there is nothing in it: write a table [pool.NAME]"


def _tables(file: TomlFile) -> list[str]:
    pools = file.data.get(POOLS)
    return [name for name, value in pools.items() if isinstance(value, dict)] if isinstance(pools, dict) else []


def _line(mistake: str) -> int:
    found = re.match(r".*?:(\d+): ", mistake)
    return int(found[1]) if found else 0


def _contents(file: TomlFile, known: Mapping[str, Configured]) -> str:
    found = [f"pool {name} ({kind_of(Table(file, (POOLS, name)), known).name})" for name in pool_names(file)]
    return ", ".join(found + [key for key in file.data if key == SUPERDAEMON])


def _unknown_variables(known: Mapping[str, Configured]) -> Iterator[str]:
    names = {variable(key) for one in known.values() for key in one.keys} | {*variables()}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in names:
            yield f"the variable {name} is unknown{did_you_mean(name, names)}"
