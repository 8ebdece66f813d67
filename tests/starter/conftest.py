"""Fixtures of the tests of `fcgi-start-server`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest

from starter.sides import OURS, Superdaemon, run_command

Launch = Callable[..., Superdaemon]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def launch_side(tmp_path: Path, sock_path: str) -> Iterator[Launch]:
    """`launch_side(side, *options, words=[...])` starts a `Superdaemon`; whatever it leaves is killed at the end."""
    with ExitStack() as stack:
        count = 0

        def launch(side: str, *options: str, **more: Any) -> Superdaemon:
            nonlocal count
            count += 1
            sock = sock_path if count == 1 else f"{sock_path}{count}"
            daemon = Superdaemon(side, more.pop("folder", tmp_path / f"{side}{count}"), sock, *options, **more)
            stack.callback(daemon.close)
            return daemon

        yield launch


@pytest.fixture
def launch(launch_side: Launch) -> Launch:
    """The same for ours."""
    return lambda *options, **more: launch_side(OURS, *options, **more)


@pytest.fixture
def run_ours(tmp_path: Path) -> Command:
    """`run_ours(*options)` runs our command to its end: status, standard output, standard error."""
    count = 0

    def run(*options: str, **more: Any) -> tuple[int, str, str]:
        nonlocal count
        count += 1
        return run_command(OURS, tmp_path / f"command{count}", *options, **more)

    return run
