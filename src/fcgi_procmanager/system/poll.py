"""Looking at descriptors without waiting. Runs in any process."""

from __future__ import annotations

import select


def any_readable(*fds: int) -> bool:
    """Whether one of them has something to read, or is at its end."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
