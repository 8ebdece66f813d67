"""Where the code of a service is: the folder and the interpreter that it was started with, as they were then.

Runs in the manager. Must never import anything of the application.
"""

from __future__ import annotations

import contextlib
import os
import sys

from ..system.image import IMAGE

__all__ = ["Deployed"]


class Deployed:
    """directory: of the application, as it was written, links and all."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.join(IMAGE.directory or "", directory)
        self._found = self._look()

    @property
    def is_replaced(self) -> bool:
        """A link leads elsewhere by now, or the virtual environment is another one: what this process forks has the old one."""
        return self._look() != self._found

    def _look(self) -> list[object]:
        places = (self._directory, sys.prefix, os.path.join(sys.prefix, "pyvenv.cfg"), sys.executable)
        return [_identity(place) for place in places]


def _identity(path: str) -> object:
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
