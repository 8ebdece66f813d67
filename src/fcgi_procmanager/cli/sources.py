"""Where an option's value comes from: the command line, a variable, a table of a file, or its default. Pure.

Runs before anything is started. What options there are is told by those who read the command line: there must be no other list of them.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ..errors import ConfigError
from .messages import one_line

if TYPE_CHECKING:
    from .tomlfile import TomlFile

__all__ = [
    "FLAG",
    "LIST",
    "ONE",
    "PREFIX",
    "Found",
    "Option",
    "Table",
    "Value",
    "as_it_is",
    "did_you_mean",
    "from_table",
    "from_variables",
    "variable",
]

PREFIX = "FCGI_PROCMANAGER_"

FLAG, ONE, LIST = "flag", "one", "list"

_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def as_it_is(text: str, directory: str) -> str:
    """What is no path."""
    return text


@dataclass(frozen=True)
class Option:
    """key: its name, with dashes. read: from what a person would have typed; raises ValueError or ArgumentTypeError. read_by: the kind
    of value, where that has a name. placed: what a
    path or an address means that is written in a file of this folder. one_is_enough: a list of one may be written without its
    brackets."""

    key: str
    shape: str
    read: Callable[[str], Any]
    default: Any = None
    placed: Callable[[str, str], str] = as_it_is
    one_is_enough: bool = True
    read_by: object = None

    def values(self, texts: Sequence[str]) -> Any:
        """Raises ConfigError, which says what is wrong."""
        try:
            read = [self.read(text) for text in texts]
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise ConfigError(f"{self.key}: {one_line(error)}") from None
        return read if self.shape == LIST else read[-1]


class Value(NamedTuple):
    """origin: for a person."""

    value: Any
    origin: str


class Found(NamedTuple):
    """mistakes: a line each, with its place in front."""

    values: dict[str, Value]
    mistakes: list[str]


class Table(NamedTuple):
    """A table of a file: path, such as ("pool", "web")."""

    file: TomlFile
    path: tuple[str, ...]

    @property
    def data(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.file.data
        for part in self.path:
            found = found[part]
        return found

    def where(self, key: str) -> str:
        return self.file.where(*self.path, key)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


# -- variables -----------------------------------------------------------------------------------------------------------


def from_variables(options: Iterable[Option], environ: Mapping[str, str], prefix: str = PREFIX) -> Found:
    """An empty one is as good as none."""
    found = Found({}, [])
    for option in options:
        name = variable(option.key, prefix)
        text = environ.get(name, "")
        if not text.strip():
            continue
        try:
            found.values[option.key] = Value(_from_variable(option, text), name)
        except ConfigError as error:
            found.mistakes.append(f"{name}: {_without_key(option, error)}")
    return found


def variable(key: str, prefix: str = PREFIX) -> str:
    return prefix + key.upper().replace("-", "_")


def _from_variable(option: Option, text: str) -> Any:
    if option.shape == FLAG:
        return _flag(text.strip().lower())
    if option.shape == ONE:
        return option.values([text])
    import shlex  # not above: few have such a variable

    try:
        return option.values(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"{error}: give words as in a shell") from None


def _flag(text: str) -> bool:
    if text not in _ON + _OFF:
        raise ConfigError(f"{text!r} is neither yes nor no: give 1 or 0")
    return text in _ON


def _without_key(option: Option, error: ConfigError) -> str:
    return str(error).removeprefix(f"{option.key}: ")


# -- a table -------------------------------------------------------------------------------------------------------------


def from_table(options: Iterable[Option], table: Table) -> Found:
    known = {option.key: option for option in options}
    found = Found({}, [])
    for key, value in table.data.items():
        option = known.get(key.replace("_", "-"))
        place = table.where(key)
        if option is None:
            found.mistakes.append(f"{place}: {_unknown(key, value, known)}")
        elif option.key in found.values:
            found.mistakes.append(f"{place}: {key} is given twice, with a dash and with an underscore")
        else:
            try:
                found.values[option.key] = Value(_from_file(option, table, key, value), place)
            except ConfigError as error:
                found.mistakes.append(f"{place}: {error}")
    return found


def _unknown(key: str, value: object, known: Collection[str]) -> str:
    from .borrowed import said_of_key  # not above: few make this mistake

    if told := said_of_key(key.replace("_", "-"), known):
        return f"unknown key {key}: it {told}"
    names = [name.replace("-", "_") for name in known] if "_" in key else known
    what = "table" if isinstance(value, dict) else "key"
    return f"unknown {what} {key or repr(key)}{did_you_mean(key, names)}"


def _from_file(option: Option, table: Table, key: str, value: object) -> Any:
    if option.shape == FLAG:
        if not isinstance(value, bool):
            raise ConfigError(f"{option.key} must be true or false, not {_shown(value)}")
        return value
    if option.shape == LIST and (isinstance(value, list) or not option.one_is_enough):
        if not isinstance(value, list):
            raise ConfigError(f'{option.key} must be a list, such as ["/usr/bin/app", "-x"], not {_shown(value)}')
        texts = [_text(option, one, "") for one in value]
    else:
        texts = [_text(option, value, table.file.bare(*table.path, key))]
    return option.values([option.placed(text, table.file.directory) for text in texts])


def _text(option: Option, value: object, bare: str) -> str:
    """As it would be typed. A number as it is written: of 0o660 the parser only says 432."""
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigError(f"{option.key} must be a text without NUL")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return bare.replace("_", "") or str(value)
    wanted = "a list of strings" if option.shape == LIST else "a string or a number"
    raise ConfigError(f"{option.key} must be {wanted}, not {_shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{one_line(value)}"'
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value)
