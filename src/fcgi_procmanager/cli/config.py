"""`fcgi-procmanager config`: the options that are in force, and where each comes from, as a file that can be used.

Runs in a process of its own. Must never start anything.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from ..basics import exits
from .arguments import Options, Parser, octal
from .configured import POOLS, SUPERDAEMON, Configured, find_table
from .messages import one_line, tell
from .pooloptions import umask
from .sources import Option, Table, Value

__all__ = ["add"]

_DESCRIPTION = """\
Print the options that 'serve', 'exec', or the superdaemon, would have with these words, and behind each where it comes from: the
command line, a variable, a line of the file. What comes from nowhere is a comment with its default. The output can be used as a file for --config.
"""
_USAGE = """\
fcgi-procmanager config [serve | exec] [--config FILE] [--pool-name NAME] [OPTIONS of serve or exec]
       fcgi-procmanager config superdaemon [--config FILE] [OPTIONS of fcgi-start-server]"""
_WIDEST = 60  # characters; behind a longer value its origin is not aligned
_NAMELESS = "main"  # a pool that comes from no file


class _Words(Parser):
    """All that follows is for the parser of another command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(args or ())
        if {"-h", "--help"} & {*_before_program(words)}:
            self.print_help()
            self.exit(exits.OK)
        return Options(run=run, parser=self, words=words), []


def add(commands: argparse._SubParsersAction[Any]) -> None:
    commands._parser_class, usual = _Words, commands._parser_class
    try:
        commands.add_parser(
            "config", help="print the options in force", description=_DESCRIPTION, usage=_USAGE, add_help=False
        )
    finally:
        commands._parser_class = usual


def run(options: Options) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # as TOML has to be, whatever the terminal is
    from .configcheck import commands, kind_of  # not above: what it loads, the superdaemon too, would be in every pool

    words = options.words
    if words[:1] == [SUPERDAEMON]:
        for line in _lines_of_superdaemon(words[1:]):
            tell(line)
        return exits.OK
    known = commands()
    named = words[0] if words[:1] and words[0] in known else None
    words = words[1:] if named else words
    table = find_table(_places(words))
    command = known[named] if named else kind_of(table, known) if table is not None else known["serve"]
    given, unknown = command.parser.parse_known_args(words)
    if unknown:
        command.parser.unknown(unknown[0])
    for line in _lines(command, table, command.values(given, table)):
        tell(line)
    return exits.OK


def _places(words: Sequence[str]) -> Options:
    """--config and --pool-name, which say what command the rest is for."""
    parser = Parser(add_help=False)
    for name in ("--config", "--pool-name"):
        parser.add_argument(name)
    return parser.parse_known_args(_before_program(words))[0]


def _before_program(words: Sequence[str]) -> list[str]:
    return list(words[: words.index("--")] if "--" in words else words)


def _lines(command: Configured, table: Table | None, values: dict[str, Value]) -> list[str]:
    name = table.path[-1] if table is not None else _NAMELESS
    shown = [_line(command, option, values[option.key]) for option in command.options]
    return [f"# {command.name}", f"[{POOLS}.{_key(name)}]", *_aligned(shown)]


def _lines_of_superdaemon(words: Sequence[str]) -> list[str]:
    from .start_server import in_force

    shown = []
    for option, value in in_force(words):
        if value.origin != "default":
            shown.append((f"{option.key} = {_shown(option, value.value)}", value.origin))
        elif value.value in (None, [], ()):
            shown.append((f"# {option.key}", "not set"))
        else:
            shown.append((f"# {option.key} = {_shown(option, value.value)}", value.origin))
    return ["# fcgi-start-server", f"[{SUPERDAEMON}]", *_aligned(shown)]


def _aligned(shown: Sequence[tuple[str, str]]) -> list[str]:
    width = min(_WIDEST, max(len(text) for text, _ in shown))
    return [f"{text:{width}}  # {_comment(origin)}" for text, origin in shown]


def _line(command: Configured, option: Option, value: Value) -> tuple[str, str]:
    if value.origin != "default":
        return f"{option.key} = {_shown(option, value.value)}", value.origin
    default = command.in_force(option.key, value.value)
    if default not in (None, []):
        return f"# {option.key} = {_shown(option, default)}", value.origin
    told = re.search(r"\(default: ([^)]*)\)", command.help_of(option.key))
    return f"# {option.key}", f"default: {told[1]}" if told else "not set"


def _shown(option: Option, value: Any) -> str:
    """As TOML. A path is meant from here by now: in a file it would be meant from its folder."""
    if isinstance(value, list):
        return f"[{', '.join(_shown(option, one) for one in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(option.placed(value, os.getcwd()))
    if option.read_by in (octal, umask):
        return f"0o{value:o}"
    return f"{value:g}" if float(value).is_integer() and abs(value) < 1e6 else str(value)


def _text(text: str) -> str:
    """JSON's strings are strings of TOML, but for a character that TOML wants escaped."""
    import json  # not above: a pool has no use for it

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _comment(text: str) -> str:
    return "".join(character for character in one_line(text) if character.isprintable())
