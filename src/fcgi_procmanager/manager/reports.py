"""What workers report through their pipe, as a part of the manager's loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from ..events.loop import Part
from ..ipc.channel import Channel

Heard = Callable[[bytes, int, str], None]


class Reports(Part):
    """heard: called with each report: its kind, the worker's pid, a text."""

    def __init__(self, channel: Channel, heard: Heard) -> None:
        self._channel = channel
        self._heard = heard

    def descriptors(self) -> Iterable[int]:
        return (self._channel.reports,)

    def turn(self, now: float) -> bool:
        return self.hear()

    def hear(self) -> bool:
        """Whether there was anything."""
        reports = self._channel.read_reports()
        for kind, pid, text in reports:
            self._heard(kind, pid, text)
        return bool(reports)
