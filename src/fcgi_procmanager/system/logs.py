"""A file that lines are added to: opened so that nobody leads us elsewhere.

Runs in whoever keeps a log. Must never cut a file, nor wait for somebody who reads it.
"""

from __future__ import annotations

import contextlib
import errno
import os

from ..errors import ConfigError

_MODE = 0o640
_REASONS = {
    errno.ELOOP: "it is a symbolic link of another user",
    errno.ENXIO: "it is a pipe that nobody reads",
}


def open_log(path: str, what: str = "failed to open log file:", flags: int = 0) -> int:
    """Its descriptor, at the end of the file, which is made if there is none. what: comes before the path where that fails. Raises
    ConfigError."""
    flags |= os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        # A link that somebody else has put there could lead anywhere.
        return os.open(path, flags if _is_own_link(path) else flags | os.O_NOFOLLOW, _MODE)
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise ConfigError(f"{what}{path}: {reason}: name a file that can be written") from None


def _is_own_link(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.path.islink(path) and os.lstat(path).st_uid in (0, os.geteuid())
    return False
