"""A file with options, in TOML: read with care, and asked where in it a key stands.

Runs before anything is started, once. Must never wait for what is no file, nor believe, as root, what anybody may have written.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..system.image import logical_directory
from . import tomlkeys
from .messages import complain, one_line

__all__ = ["TomlFile"]

_LIMIT = 1 << 20  # bytes: nobody writes so many options
_POSITION = re.compile(r" *\(at (?:line (\d+), column (\d+)|end of document)\)")


class TomlFile:
    """path: as it was given. data: all that is in it."""

    def __init__(self, path: str) -> None:
        """Raises ConfigError, whose message begins with the path, and where there is one the line."""
        if not path:
            raise ConfigError("--config: name a file")
        self.path = path
        self._place = os.path.join(logical_directory() or os.getcwd(), path)
        with self._open() as file:
            self._seen = _identity(os.fstat(file.fileno()))
            content = file.read(_LIMIT + 1)
        self._text = self._decode(content)
        self.data: Mapping[str, Any] = self._parse()
        self._keys = tomlkeys.find(self._text, self.data, _loads)

    @property
    def directory(self) -> str:
        """As it was written, links and all: a link may lead elsewhere by the next time."""
        return os.path.dirname(self._place)

    @property
    def is_changed(self) -> bool:
        """Whether it is another file than the one that was read, or none at all."""
        try:
            return _identity(os.stat(self._place)) != self._seen
        except PermissionError:  # we were root when we read it: nobody can tell now
            return False
        except OSError:
            return True

    def where(self, *path: str) -> str:
        """FILE:LINE of a key, or FILE and its table where the line is not known."""
        spot = self._keys.get(path)
        if spot is not None:
            return f"{self.path}:{spot.line}"
        return f"{self.path}: [{'.'.join(path[:-1])}]" if path[1:] else self.path

    def bare(self, *path: str) -> str:
        """The value of a key as it is written, where that is a number: 0660 is a mode to people, and 0o660 as well."""
        spot = self._keys.get(path)
        return spot.bare if spot is not None else ""

    # -- reading ------------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        try:
            # A pipe would make us wait for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.path}: {getattr(error, 'strerror', error)}: name a file that can be read"
            ) from None
        try:
            self._check(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return open(descriptor, "rb")

    def _check(self, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{self.path} is not a regular file: it is read again at a reload, so give one")
        if found.st_size > _LIMIT:
            raise ConfigError(f"{self.path} has {found.st_size} bytes: a file of options has {_LIMIT} at most")
        loose = self._loose(found)
        if loose and os.geteuid() == 0:
            raise ConfigError(f"{loose} can be written by anybody, and this is root: take that away with 'chmod o-w'")
        if loose:
            complain(f"warning: {loose} can be written by anybody: take that away with 'chmod o-w'")

    def _loose(self, found: os.stat_result) -> str:
        """The file, or its folder, if anybody may put other options there."""
        if found.st_mode & stat.S_IWOTH:
            return self.path
        folder = os.stat(os.path.dirname(self._place)).st_mode
        return os.path.dirname(self.path) or "." if folder & stat.S_IWOTH and not folder & stat.S_ISVTX else ""

    def _decode(self, content: bytes) -> str:
        if len(content) > _LIMIT:
            raise ConfigError(f"{self.path} grows while it is read")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{self.path}:{line}: this is not UTF-8, as TOML has to be") from None

    def _parse(self) -> Mapping[str, Any]:
        try:
            return _loads(self._text)
        except RecursionError:
            raise ConfigError(f"{self.path}: it is nested too deeply") from None
        except ValueError as error:
            raise ConfigError(self._mistake(str(error))) from None

    def _mistake(self, text: str) -> str:
        """The parser's words, with the position in front."""
        position = _POSITION.search(text)
        words = one_line(_POSITION.sub("", text))
        if position is None:
            return f"{self.path}: this is not TOML: {words}"
        line = position[1] or str(self._text.rstrip().count("\n") + 1)
        column = f" (column {position[2]})" if position[2] else " (at the end of the file)"
        return f"{self.path}:{line}: this is not TOML: {words}{column}"


def _loads(text: str) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib  # not above: few have a file
    else:
        import tomli as tomllib
    data: Mapping[str, Any] = tomllib.loads(text)
    return data


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
