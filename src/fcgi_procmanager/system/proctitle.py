"""The name of this process in ps and top.

Manager and workers each set their own. It must never fail: a title is an aid, nothing depends on it.
"""

from __future__ import annotations

import contextlib

__all__ = ["set_title"]


def set_title(text: str) -> None:
    """Show `text` as the title of this process, where the system and the installation allow it."""
    with contextlib.suppress(Exception):
        from setproctitle import setproctitle

        setproctitle(text)
