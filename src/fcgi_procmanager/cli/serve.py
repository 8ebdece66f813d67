"""`fcgi-procmanager serve MODULE:APP`: a pool that serves a WSGI application.

Runs before the manager starts. Must never leave an address or a file behind when an option is wrong.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from ..errors import ConfigError
from ..manager import handover
from ..manager.procmanager import ProcManager
from ..pool.poolmanager import PoolManager
from .arguments import Options, Parser
from .caddy import STATUS_PATH
from .configured import Configured
from .deployed import Deployed
from .hosting import Application, Place, host
from .loading import cache_settled_sources_only, load, search_here
from .pooloptions import set_umask
from .serveoptions import (
    add_serve_options,
    base_of,
    environment,
    examine,
    hint,
    place_of,
    server_settings,
    settings_of,
)
from .surroundings import Surroundings
from .touch import Touch

__all__ = ["add", "change_directory", "set_variables"]

_DESCRIPTION = """\
Serve the WSGI application NAME of MODULE ('application' if left out) by FastCGI.

Each worker loads it by itself, so that 'reload' (or HUP to the manager) brings new code. With --preload the manager loads
it once, which saves memory and time; at a reload it then executes itself, as USR2 always makes it do, when a process of
its own has shown that the new code can start. So it does when --manager is given, or when --chdir or the virtual
environment is a link that leads elsewhere by now.
"""

_EPILOG = """\
MODULE:NAME() calls NAME, a factory, with plain values between the brackets if there are any.

ADDRESS is /path.sock, host:port, :port, [v6]:port or fd:N; without one, the socket that systemd (LISTEN_FDS), a
superdaemon or a FastCGI spawner (descriptor 0) handed over.

Options may also come from a file (--config) and from variables; see docs/CONFIG.md. The command line comes first.

signals to the manager: TERM, INT stop gently; QUIT, or one of them more than a second later, stops at once;
HUP replaces the workers; USR2 the manager's code as well; TTIN, TTOU add and take away a worker; USR1 opens the log file anew.
"""


def add(commands: argparse._SubParsersAction[Parser]) -> Configured:
    parser = commands.add_parser("serve", help="serve a WSGI application", description=_DESCRIPTION, epilog=_EPILOG)
    parser.set_defaults(run=run, parser=parser)
    return add_serve_options(parser)


def run(options: Options) -> int:
    examine(options)
    hint(options)
    place, settings, surroundings = place_of(options), settings_of(options), Surroundings(options)
    return surroundings.live(place, lambda: _live(options, place, settings, surroundings))


def _live(options: Options, place: Place, settings: dict[str, Any], surroundings: Surroundings) -> int:
    file = options.table.file if options.table is not None else None
    touched = None if options.touch is None else os.path.abspath(options.touch)
    deployed = Deployed(options.chdir or "")
    set_umask(options)
    surroundings.enter(place, settings.get("pidfile") if options.processes else None)
    change_directory(options.chdir)
    search_here()
    cache_settled_sources_only()
    if options.manager is not None:
        set_variables(options)
    base = base_of(options, settings)
    application = Application(lambda: _load(options), options.preload)
    if options.preload and not handover.is_there():
        application.load()  # before anything is bound
    parts = [Touch(touched)] if touched is not None else []
    in_manager = options.preload or options.manager is not None
    return host(
        application,
        place,
        settings,
        base=base,
        on_ready=_greet,
        limits=server_settings(options),
        reload=options.reload_mode,
        is_outdated=lambda: in_manager or deployed.is_replaced or (file is not None and file.is_changed),
        parts=parts,
        watch=options.watch,
        prepare=surroundings.prepare,
    )


def _load(options: Options) -> Any:
    # Here, not in the manager if it can be: what is taken out of the file would stay in its environment for ever.
    set_variables(options)
    return load(options.application, hint(options))


def _greet(manager: ProcManager, url: str | None) -> None:
    if url is not None:
        status = f"; its status, from this machine: {url}{STATUS_PATH[1:]}" if isinstance(manager, PoolManager) else ""
        manager.notify(f"serving {url}{status}")


def set_variables(options: Options) -> None:
    """For the application."""
    os.environ.update(environment(options))
    time.tzset()  # the C library has read TZ when the log told the time


def change_directory(path: str | None) -> None:
    if path is None:
        return
    try:
        os.chdir(path)
    except OSError as error:
        raise ConfigError(f"--chdir {path}: {error.strerror}: name a directory that can be entered") from None
