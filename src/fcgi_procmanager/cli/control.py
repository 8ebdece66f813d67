"""`fcgi-procmanager stop` and `reload`: a running manager is told by signal, and watched until it has obeyed.

Runs in a process of its own, beside the pool. Must never wait without a limit.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any

from ..basics import exits
from ..basics.clock import monotonic
from ..parent.overview import Overview
from ..system.running import Running, found
from .arguments import Options, seconds
from .messages import Progress, complain
from .pool import INTERVAL, Pool
from .reloads import Reload, family

__all__ = ["add"]

_TIMEOUT = 65.0  # seconds: the default die_timeout, and 5 to spare
_STOP = """\
Ask the manager to stop gently and wait until it is gone. Exit status 0 when it is, 1 when none was running or it is still
there after the time limit.
"""
_RELOAD = """\
Ask the manager to replace its workers and wait until that is done: every worker that was there is gone, and as many new
ones are ready. Exit status 0 when that is so, 1 when it did not come so far, or none was running.

A manager of 'serve' knows whether it has loaded what is to be replaced, and then executes itself. A script has mostly
imported its application before it made its workers: --manager makes it start again, in the same process.

The parent of several pools ('run') reads its file again, and passes the order on to each pool that stays. Done is it when every one of
them is reloaded, new ones are ready and those that are gone from the file have ended.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    for name, run, purpose, text in (
        ("stop", stop, "stop a running pool gently", _STOP),
        ("reload", reload, "replace the workers of a running pool", _RELOAD),
    ):
        parser = commands.add_parser(name, help=purpose, description=text)
        parser.set_defaults(run=run, parser=parser)
        parser.add_argument("--pidfile", required=True, metavar="FILE", help="PID file of the manager")
        parser.add_argument(
            "--timeout", type=seconds, default=_TIMEOUT, metavar="SECONDS", help="how long to wait (default: 65)"
        )
    parser.add_argument("--manager", action="store_true", help="new code of the manager as well (SIGUSR2)")


def stop(options: Options) -> int:
    with found(options.pidfile) as manager:
        if manager is None:
            return _not_running(options.pidfile)
        manager.send(signal.SIGTERM)
        if manager.ends_within(options.timeout):
            return exits.OK
        complain(
            f"process {manager.pid} is still stopping after {options.timeout:g} s: wait longer with --timeout, "
            f"or end it at once with 'kill -QUIT {manager.pid}'"
        )
        return exits.FAILED


def reload(options: Options) -> int:
    with found(options.pidfile) as manager:
        if manager is None:
            return _not_running(options.pidfile)
        before = family(options.pidfile)
        if before is not None:
            return _reload_all(manager, before, options)
        pool = Pool(manager.pid)
        if options.manager and not pool.can_be_renewed:
            complain(f"process {manager.pid} does not take new code by SIGUSR2: leave out --manager, or restart it")
            return exits.USAGE
        manager.send(signal.SIGUSR2 if options.manager else signal.SIGHUP)
        with Progress() as progress:
            failure = _follow(manager, pool, options.timeout, progress)
        if failure is None:
            return exits.OK
        complain(failure)
        return exits.FAILED


def _reload_all(manager: Running, before: Overview, options: Options) -> int:
    reload = Reload(manager, before, options.pidfile)
    manager.send(signal.SIGUSR2 if options.manager else signal.SIGHUP)
    failure = reload.refusal(options.timeout)
    if failure is None:
        with Progress() as progress:
            failure = reload.follow(_follow, progress)
    if failure is None:
        return exits.OK
    complain(failure)
    return exits.FAILED


def _follow(manager: Running, pool: Pool, timeout: float, progress: Progress) -> str | None:
    """Watch the pool until it is renewed: None, or what went wrong."""
    deadline = monotonic() + timeout
    while not manager.ends_within(min(INTERVAL, max(0.0, deadline - monotonic()))):
        pool.look()
        progress.show(pool.progress)
        if pool.renewed:
            return None
        if failure := pool.failure:
            return f"not reloaded, the old workers go on: {failure}"
        if pool.failing:
            return "the new workers end before they are ready: the manager's log says why; it goes on trying"
        if monotonic() >= deadline:
            return f"not reloaded after {timeout:g} s: {pool.describe()}; wait longer with --timeout"
    return f"the manager (process {manager.pid}) ended while it was to reload: its log says why"


def _not_running(path: str) -> int:
    complain(f"not running: no living process holds {path}")
    return exits.FAILED
