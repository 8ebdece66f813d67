"""The name of this process in ps and top.

Manager and workers each set their own. It must never fail: a title is an aid, nothing depends on it.
"""

from __future__ import annotations

from functools import cache
from typing import Callable

__all__ = ["set_title"]


def set_title(text: str) -> None:
    """Show `text` as the title of this process, where the system and the installation allow it."""
    try:
        _setter()(text)
    except Exception:
        pass


@cache
def _setter() -> Callable[[str], object]:
    """Looked for when a pool is started: it loads `logging`, which others do not pay for. The workers find it at hand."""
    try:
        from setproctitle import setproctitle
    except Exception:  # not installed, or not for this system
        return lambda text: None
    return setproctitle
