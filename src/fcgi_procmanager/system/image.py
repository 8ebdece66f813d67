"""The program that this process executes: its command line, and executing it once more.

Runs in the manager. The command line is noted when this module is imported, before a title of ours takes its place. Must never
resolve a symbolic link: `current -> releases/42` leads elsewhere by the time it is executed again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from . import commandline

__all__ = ["IMAGE", "Image", "logical_directory"]

_VALUE = re.compile(r"^(--env=[^=]*|(?!--)[^=]*)=.*", re.DOTALL)  # NAME=VALUE, behind -e or a word of its own


@dataclass(frozen=True)
class Image:
    """program: what is executed. directory: where that was typed; None where it is gone."""

    program: str
    arguments: tuple[str, ...]
    directory: str | None

    @property
    def shown(self) -> str:
        """For a log: without the values of variables, which may be secrets."""
        return " ".join(_VALUE.sub(r"\1=...", word) for word in self.arguments)

    def execute(self, environment: Mapping[str, str], descriptors: Iterable[int]) -> NoReturn:
        """Become this program, with these descriptors. Raises OSError, with everything as it was."""
        here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        kept = [number for number in descriptors if not os.get_inheritable(number)]
        try:
            if self.directory is not None:
                os.chdir(self.directory)
            for number in kept:
                os.set_inheritable(number, True)
            os.execvpe(self.program, list(self.arguments), dict(environment))
        finally:
            for number in kept:
                os.set_inheritable(number, False)
            with contextlib.suppress(OSError):
                os.fchdir(here)
            os.close(here)


def logical_directory() -> str | None:
    """The folder that we were started in, if a link leads there: it may lead elsewhere when the next generation starts."""
    shown = os.environ.get("PWD", "")
    try:
        is_here = os.path.isabs(shown) and os.path.samefile(shown, ".")
    except OSError:
        return None
    return shown if is_here and os.path.realpath(shown) != shown else None


def _this() -> Image:
    arguments = tuple(commandline.words())
    # A path is meant from the directory, whatever is there by then. A name was looked up already.
    program = arguments[0] if os.sep in arguments[0] else sys.executable or arguments[0]
    return Image(program, arguments, _directory())


def _directory() -> str | None:
    with contextlib.suppress(OSError):
        return logical_directory() or os.getcwd()
    return None


IMAGE = _this()
