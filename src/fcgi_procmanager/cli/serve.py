"""`fcgi-procmanager serve MODULE:APP`: the options of the pool that serves a WSGI application.

Runs before the manager starts. Must never leave an address or a file behind when an option is wrong.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..basics.states import PLAIN, ROLLING
from ..errors import ConfigError
from ..manager import handover
from ..manager.procmanager import ProcManager
from ..pool.poolmanager import PoolManager
from ..sockets.addresses import parse_address
from .adaptive import adaptive_settings, add_adaptive_options
from .arguments import Options, Parser, size, whole
from .caddy import STATUS_PATH
from .configured import Configured
from .deployed import Deployed
from .hosting import Application, Place, host
from .loading import cache_settled_sources_only, load, load_class, search_here
from .pooloptions import absolute_address, add_pool_options, an_address, choose_log, pool_settings
from .surroundings import Surroundings
from .touch import Touch
from .watch import RELOAD_TIMEOUT, check_library
from .web import parse_web

__all__ = ["add"]

_DESCRIPTION = """\
Serve the WSGI application NAME of MODULE ('application' if left out) by FastCGI.

Each worker loads it by itself, so that 'reload' (or HUP to the manager) brings new code. With --preload the manager loads
it once, which saves memory and time; at a reload it then executes itself, as USR2 always makes it do, when a process of
its own has shown that the new code can start. So it does when --manager is given, or when --chdir or the virtual
environment is a link that leads elsewhere by now.
"""

_RELOAD_MODE = "new workers first, old ones when they are ready (rolling); or all at once (plain; default: rolling)"
_EPILOG = """\
ADDRESS is /path.sock, host:port, :port, [v6]:port or fd:N; without one, the socket that systemd (LISTEN_FDS), a
superdaemon or a FastCGI spawner (descriptor 0) handed over.

Options may also come from a file (--config) and from variables; see docs/CONFIG.md. The command line comes first.

signals to the manager: TERM, INT stop gently; QUIT, or one of them more than a second later, stops at once;
HUP replaces the workers; USR2 the manager's code as well; TTIN, TTOU add and take away a worker; USR1 opens the log file anew.
"""


def add(commands: argparse._SubParsersAction[Parser]) -> Configured:
    parser = commands.add_parser("serve", help="serve a WSGI application", description=_DESCRIPTION, epilog=_EPILOG)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("application", metavar="MODULE:NAME")
    add = parser.add_argument
    add("-n", "--processes", type=whole, default=2, metavar="N", help="workers; 0 serves in this process (default: 2)")
    add(
        "--listen",
        action="append",
        type=an_address,
        default=[],
        metavar="ADDRESS",
        help="FastCGI address; may be given several times",
    )
    add("--web", metavar="HOST:PORT", help="serve browsers there, by a Caddy in front of the workers")
    add("--body-limit", type=size, metavar="SIZE", help="of a body without a length, such as 200M (default: 64M)")
    add("--chdir", metavar="DIRECTORY", help="where to look for MODULE and to run")
    add("--preload", action="store_true", help="load the application once, before the workers are forked")
    add("--manager", metavar="MODULE:CLASS", help="a subclass of ProcManager, for its hooks")
    add("--process-name", metavar="TITLE", help="title of a worker in ps")
    add(
        "--standby",
        type=whole,
        metavar="N",
        help="workers that wait, booted, to take the place of one that ends (default: 0)",
    )
    add_pool_options(parser, "workers")
    add("--touch", metavar="FILE", help="do what USR2 does whenever this file changes")
    add("--watch", action="store_true", help="for development: reload when a Python file here, or below, changes")
    add_adaptive_options(parser)
    add("--reload-mode", choices=(ROLLING, PLAIN), default=ROLLING, help=_RELOAD_MODE)
    return Configured(parser, "application", _examine, ProcManager)


def run(options: Options) -> int:
    place = _place(options)
    settings = pool_settings(
        options, n_processes=options.processes, process_name=options.process_name, standby=options.standby
    )
    if options.watch:
        _check_watch(options)
        settings.setdefault("reload_timeout", RELOAD_TIMEOUT)
    surroundings = Surroundings(options)
    return surroundings.live(place, lambda: _live(options, place, settings, surroundings))


def _live(options: Options, place: Place, settings: dict[str, Any], surroundings: Surroundings) -> int:
    file = options.table.file if options.table is not None else None
    touched = None if options.touch is None else os.path.abspath(options.touch)
    deployed = Deployed(options.chdir or "")
    surroundings.enter(place, settings.get("pidfile") if options.processes else None)
    choose_log(options)
    _change_directory(options.chdir)
    search_here()
    cache_settled_sources_only()
    base = load_class(options.manager, ProcManager) if options.manager else PoolManager
    settings.update(adaptive_settings(options, base))
    application = Application(lambda: load(options.application), options.preload)
    if options.preload and not handover.is_there():
        application.load()  # before anything is bound
    limits = {} if options.body_limit is None else {"body_limit": options.body_limit}
    parts = [Touch(touched)] if touched is not None else []
    in_manager = options.preload or options.manager is not None
    return host(
        application,
        place,
        settings,
        base=base,
        on_ready=_greet,
        limits=limits,
        reload=options.reload_mode,
        is_outdated=lambda: in_manager or deployed.is_replaced or (file is not None and file.is_changed),
        parts=parts,
        watch=options.watch,
        prepare=surroundings.prepare,
    )


def _examine(options: Options) -> None:
    """Of values that belong together, or that are read later only."""
    _place(options)
    if options.web is not None:
        parse_web(options.web)
    if options.watch:
        _check_watch(options)


def _check_watch(options: Options) -> None:
    if options.processes == 0:
        raise ConfigError("--watch needs a worker process: give -n 1 or more")
    check_library()


def _greet(manager: ProcManager, url: str | None) -> None:
    if url is not None:
        status = f"; its status, from this machine: {url}{STATUS_PATH[1:]}" if isinstance(manager, PoolManager) else ""
        manager.notify(f"serving {url}{status}")


def _place(options: Options) -> Place:
    addresses = [absolute_address(address) for address in options.listen]
    if not addresses and (options.socket_mode is not None or options.socket_owner is not None):
        raise ConfigError("--socket-mode and --socket-owner are for a socket file: name it with --listen /path.sock")
    if options.take_over and not (addresses and all(parse_address(address).kind == "unix" for address in addresses)):
        raise ConfigError("--take-over is for a socket file: name it with --listen /path.sock")
    return Place(addresses, options.socket_mode, options.socket_owner, options.web, options.take_over)


def _change_directory(path: str | None) -> None:
    if path is None:
        return
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(f"--chdir {path}: {error.strerror}: name a directory that can be entered") from None
