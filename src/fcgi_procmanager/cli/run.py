"""`fcgi-procmanager run --config FILE`: every pool of a file, each with a manager of its own, under one parent.

Runs in the process that was typed, which becomes the parent, or in its daemon. Must never load an application.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from ..basics import exits, log
from ..basics.records import PLAIN
from ..errors import ConfigError, ProcManagerError
from ..system import signals
from ..system.detach import Detached, fork_away, leave_streams
from ..system.image import IMAGE
from .arguments import Options
from .messages import PROGRAM, complain, one_line
from .surroundings import log_path

if TYPE_CHECKING:
    from .family import Family

__all__ = ["add"]

_DESCRIPTION = """\
Keep every pool of a file: a manager for each [pool.NAME], started by 'serve' or 'exec', and started again when it dies. What one pool
loads, or dies of, is nothing to the others.
"""

_EPILOG = """\
signals: TERM, INT stop every pool gently; QUIT, or one of them more than a second later, stops at once; HUP and USR2 read the file
again, start pools that are new in it, stop those that are gone, and are passed on to the others; USR1 opens the log files anew.
A file with a mistake is refused as a whole. To add a worker to a pool send TTIN to its manager; 'status' shows its number.

exit status: 0 after a gentle stop; 1 when somebody had to be killed, or a pool could not be started; 2 for a mistake in the file or in
a pool at the first start, which ends all of them.
"""
_SILENCE = f"{PROGRAM}: ended before every pool was ready, without a word: its log says more"


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("run", help="keep every pool of a file", description=_DESCRIPTION, epilog=_EPILOG)
    parser.set_defaults(run=run, parser=parser)
    add = parser.add_argument
    add("--config", metavar="FILE", help="file with the pools, in TOML: a table [pool.NAME] for each")
    add("--pidfile", metavar="FILE", help="PID file of the parent, for 'stop', 'reload' and 'status'")
    add(
        "--log-file",
        metavar="FILE",
        help="write there, and so do pools that have none; USR1 opens it anew (default: -, which is standard error)",
    )
    add("--daemon", action="store_true", help="go on in the background, once every pool is ready")


def run(options: Options) -> int:
    from .family import Family  # not above: what it loads, the superdaemon too, would be in every pool

    path = options.config or os.environ.get("FCGI_PROCMANAGER_CONFIG", "")
    if not path:
        options.parser.error("the following arguments are required: --config FILE")
    pidfile = None if options.pidfile is None else os.path.abspath(options.pidfile)
    family = Family(path, pidfile, log_path(options.log_file))
    wanted = family.read()  # before we go into the background: a mistake is one line to whoever typed this
    detached = None
    if options.daemon:
        away = _fork_away()
        if isinstance(away, int):
            return away
        detached = away
        leave_streams()
    try:
        return _live(family, wanted, detached)
    except ProcManagerError as error:
        if detached is not None:
            detached.tell(exits.USAGE, f"{PROGRAM}: {one_line(error)}")
        raise


def _live(family: Family, wanted: Any, detached: Detached | None) -> int:
    from ..parent.parent import Parent

    parent = Parent(
        family.read,
        wanted,
        _starter(),
        pidfile=family.pidfile,
        control=family.control,
        log_file=family.log_file,
        detached=detached,
    )
    log.choose(PLAIN if family.log_file is not None else None)  # the journal does not read a file
    status = parent.run()
    signals.ignore_late()
    if parent.failure:
        complain(parent.failure)
        if detached is not None:
            detached.tell(status, f"{PROGRAM}: {parent.failure}")
    return status


def _fork_away() -> Detached | int:
    try:
        return fork_away(_SILENCE)
    except OSError as error:
        raise ConfigError(f"--daemon: the system refuses to fork: {error.strerror}") from None


def _starter() -> tuple[str, ...]:
    """The words that we were started by, up to the command."""
    words = IMAGE.arguments
    return words[: len(words) - len(sys.argv) + 1]
