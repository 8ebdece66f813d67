"""The options of `serve` for an adaptive pool: how many workers, their limits, and where the manager says how it is.

Runs before the manager starts. Must never touch the system.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..basics.records import FORMATS
from ..children.sizing import KINDS, STATIC
from ..errors import ConfigError
from ..manager.procmanager import ProcManager
from ..pool.accessformat import compile_format
from ..pool.poolmanager import PoolManager
from .arguments import Options, Parser, duration, seconds, size, whole
from .pooloptions import LOG, WORKERS, absolute_address

__all__ = ["REQUEST", "adaptive_settings", "add_adaptive_options"]

_PATHS = ("control", "slow_log")

# Titles of groups.
_WORKER, REQUEST, _SEEN = "limits of a worker", "limits of a request", "what is to be seen"


def add_adaptive_options(parser: Parser) -> None:
    group = parser.group(WORKERS)
    add = group.add_argument
    kinds = "as many as --processes says (static), as are busy and some to spare (dynamic), none at rest (ondemand), or one for each request"
    add("--pool", choices=KINDS, help=f"{kinds} (default: {STATIC})")
    add("--start-servers", type=whole, metavar="N", help="dynamic: workers at the start (default: as --min-spare)")
    add("--min-spare", type=whole, metavar="N", help="dynamic: idle workers at least (default: derived)")
    add("--max-spare", type=whole, metavar="N", help="dynamic: idle workers at most (default: derived)")
    add(
        "--process-idle-timeout",
        type=seconds,
        metavar="SECONDS",
        help="before one that is too many leaves (default: 10)",
    )
    group = parser.group(_WORKER, "its replacement is ready first, where there is time")
    add = group.add_argument
    add(
        "--max-requests",
        type=whole,
        metavar="N",
        help="it serves no more; up to a tenth fewer, by chance (default: no limit)",
    )
    add("--max-memory", type=size, metavar="SIZE", help="such as 200M (default: no limit)")
    add("--memory-measure", choices=("rss", "pss"), help="what is counted: all of it, or its share (default: rss)")
    add("--max-age", type=duration, metavar="TIME", help="such as 1h (default: no limit)")
    add(
        "--babysit",
        type=seconds,
        metavar="SECONDS",
        help="look so often for workers that only use a CPU, or hang at their start (default: never)",
    )
    add(
        "--emergency-restart-threshold",
        type=whole,
        metavar="N",
        help="so many crashes replace all workers (default: never)",
    )
    add("--emergency-restart-interval", type=seconds, metavar="SECONDS", help="in this time (default: 60)")
    group = parser.group(REQUEST)
    add = group.add_argument
    add(
        "--request-timeout",
        type=seconds,
        metavar="SECONDS",
        help="RequestTimeout is raised in it: 504 (default: no limit)",
    )
    add("--request-grace", type=seconds, metavar="SECONDS", help="later its worker is killed (default: 5)")
    add("--slow-after", type=seconds, metavar="SECONDS", help="report its stack, once (default: never)")
    add("--slow-log", metavar="FILE", help="report it there (default: in the log)")
    group = parser.group(LOG)
    add = group.add_argument
    add(
        "--log-format",
        choices=FORMATS,
        help="plain, json: collect what workers write, too; bare: no time and no level (default: plain, and nothing is collected)",
    )
    add(
        "--access-log",
        metavar="FILE",
        help="a line there for each request; - for standard error; USR1 to the manager opens it anew (default: none)",
    )
    add(
        "--access-format",
        type=_format,
        metavar="FORMAT",
        help="what it says, as php-fpm's access.format, or json (default: docs/POOL.md)",
    )
    group = parser.group(_SEEN)
    add = group.add_argument
    add("--control", metavar="PATH", help="socket for 'status' and 'top' (default: beside the PID file)")
    add(
        "--status-listen",
        metavar="ADDRESS",
        help="answer a web server there by FastCGI: /status, /metrics, /ping (default: nowhere)",
    )


_NAMES = (
    *("pool", "start_servers", "min_spare", "max_spare", "process_idle_timeout"),
    *("max_requests", "max_memory", "memory_measure", "max_age", "babysit"),
    *("emergency_restart_threshold", "emergency_restart_interval"),
    *("request_timeout", "request_grace", "slow_after", "slow_log"),
    *("log_format", "access_log", "access_format", "control", "status_listen"),
)


def adaptive_settings(options: Options, base: type[ProcManager]) -> dict[str, Any]:
    """For the constructor of `base`: what was given. Raises ConfigError when it has no use for that."""
    given = {name: getattr(options, name) for name in _NAMES if getattr(options, name) is not None}
    if given and not issubclass(base, PoolManager):
        option = "--" + next(iter(given)).replace("_", "-")
        raise ConfigError(f"{option} is for a PoolManager: derive {base.__name__} from it, or leave the option out")
    if issubclass(base, PoolManager) and (name := _name(options)):
        given["pool_name"] = name
    for name in _PATHS:
        if name in given:
            given[name] = os.path.abspath(given[name])
    if "status_listen" in given:
        given["status_listen"] = absolute_address(given["status_listen"])
    return given


def _format(text: str) -> str:
    try:
        compile_format(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _name(options: Options) -> str | None:
    """Of the pool."""
    return options.pool_name or (options.table.path[-1] if options.table is not None else None)
