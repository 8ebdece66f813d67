"""`fcgi-procmanager top`: a running pool on a terminal, as it changes.

Runs in a process of its own, beside the pool. Must leave the terminal as it was, whatever happens.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..basics import exits
from ..status import live
from ..status.snapshot import PoolStatus, Sample
from .arguments import Options
from .status import add_address, address_of, ask

__all__ = ["add"]

_MOST_SAMPLES = 500  # more than a terminal has columns
_DESCRIPTION = """\
Show a running pool as it changes, with the extra 'top'. Keys: u sorts by urgency, c by CPU, m by memory, t by the time of the
request, r by requests; q ends it.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("top", help="watch a running pool", description=_DESCRIPTION)
    parser.set_defaults(run=run, parser=parser)
    add_address(parser)


def run(options: Options) -> int:
    watched = _Watched(partial(ask, address_of(options)))
    watched()  # a mistake is said before the terminal changes
    with _keys():
        live.show(watched, _wait)
    return exits.OK


class _Watched:
    """The pool at this moment, with what was seen so far as its history: the manager keeps none unless it publishes a page."""

    def __init__(self, look: live.Ask) -> None:
        self._look = look
        self._samples: tuple[Sample, ...] = ()

    def __call__(self) -> PoolStatus:
        from dataclasses import replace

        pool = self._look()
        now = Sample(pool.now, pool.idle, pool.active, queue=pool.queue or 0, requests=pool.accepted)
        self._samples = (*self._samples, now)[-_MOST_SAMPLES:]
        return replace(pool, history=self._samples)


@contextmanager
def _keys() -> Iterator[None]:
    """Each key comes at once, and is not shown. Where the input is no terminal, all stays as it is."""
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _wait(seconds: float) -> str | None:
    """The next key; nothing when there was none in time, None at the end of the input."""
    number = sys.stdin.fileno()
    if not select.select([number], [], [], seconds)[0]:
        return ""
    return os.read(number, 1).decode("latin-1") or None
