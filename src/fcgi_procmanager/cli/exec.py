"""`fcgi-procmanager exec -- PROGRAM ARGS…`: the options of a pool of copies of any FastCGI program.

Runs before the manager starts. Must never leave an address or a file behind when an option is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from typing import NoReturn

from ..basics import checks
from ..basics.records import FORMATS
from ..basics.states import ROLLING
from ..children.launch import Program, environment_from
from ..errors import ConfigError
from ..manager.programmanager import ProgramManager
from ..manager.programs import Copies
from ..system.image import logical_directory
from .arguments import Options, Parser, seconds, time_limit, whole
from .configured import Configured
from .hosting import Place, listen
from .pooloptions import (
    APPLICATION,
    LISTENING,
    LOG,
    WORKERS,
    absolute_address,
    add_pool_options,
    an_address,
    check_place,
    pool_settings,
    set_umask,
    variables,
)
from .surroundings import Surroundings

__all__ = ["add"]

_DESCRIPTION = """\
Keep copies of a FastCGI program that knows nothing of this one: QGIS Server, MapServer, a program in C or Perl. Each finds the
listening socket on its descriptor 0, as every FastCGI spawner has it.
"""

_COPIES = "a copy"  # the title of a group
_EPILOG = """\
ADDRESS is /path.sock, host:port, :port, [v6]:port or fd:N; without one, the socket that systemd (LISTEN_FDS), a superdaemon or a
FastCGI spawner (descriptor 0) handed over.

A copy is sent the stop signal while it has no connection (Linux tells), so that it loses no request. One that catches the signal
gets it after 10 seconds all the same, unless --stop-when-idle is given: its peers may keep connections open.

Options may also come from a file (--config) and from variables; see docs/CONFIG.md. The command line comes first.

signals to the manager: TERM, INT stop gently; QUIT, or one of them more than a second later, stops at once;
HUP replaces the copies, a quarter at a time, a new one first; TTIN, TTOU add and take away a copy; USR1 opens the log file anew,
for copies that are started afterwards.
"""


def add(commands: argparse._SubParsersAction[Parser]) -> Configured:
    parser = commands.add_parser(
        "exec", help="keep copies of any FastCGI program", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("command", metavar="-- PROGRAM ARGS", nargs=argparse.REMAINDER, help="what to run")
    add = parser.group(LISTENING).add_argument
    add("--listen", type=an_address, metavar="ADDRESS", help="FastCGI address (default: what was handed over)")
    add = parser.group(WORKERS).add_argument
    add("-n", "--processes", type=whole, default=2, metavar="N", help="copies (default: 2)")
    add = parser.group(_COPIES).add_argument
    add("--stop-signal", default="TERM", metavar="NAME", help="what asks a copy to leave; repeated (default: TERM)")
    add("--stop-when-idle", action="store_true", help="never send it while the copy has a connection")
    add(
        "--interval",
        type=seconds,
        metavar="SECONDS",
        help="a copy that has lived so long is good (default: 1)",
    )
    add(
        "--ready-timeout",
        type=time_limit,
        metavar="SECONDS",
        help="instead, it says READY=1 to NOTIFY_SOCKET within so long (default: not asked for)",
    )
    add = parser.group(APPLICATION).add_argument
    add("--chdir", metavar="DIRECTORY", help="where a copy starts (default: here)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the copies; may be given several times (default: none)",
    )
    add_pool_options(parser, "copies")
    add = parser.group(LOG).add_argument
    add("--log-format", choices=FORMATS, help="form of our own lines in the log (default: plain)")
    return Configured(parser, "command", _examine, ProgramManager)


def run(options: Options) -> int:
    _examine(options)
    place, program, surroundings = _place(options), _program(options), Surroundings(options, of_programs=True)
    return surroundings.live(place, lambda: _live(options, place, program, surroundings))


def _live(options: Options, place: Place, program: Program, surroundings: Surroundings) -> NoReturn:
    stop_signal = checks.signal_name("--stop-signal", options.stop_signal)
    settings = pool_settings(options, reload=ROLLING)
    set_umask(options)
    surroundings.enter(place, settings.get("pidfile"))
    manager = ProgramManager(_count(options.processes), **settings)
    surroundings.prepare(manager)
    listener = listen(manager, place, "--listen ADDRESS")
    program = replace(program, environment={**program.environment, **surroundings.account})
    # A program that was not written for us waits in accept, which must block. The flag is shared with it.
    listener.socket.setblocking(True)
    manager.copies = Copies(
        replace(program, descriptors={0: listener.fileno()}),
        listener,
        stop_signal,
        options.stop_when_idle,
        1.0 if options.interval is None else options.interval,
        options.ready_timeout,
    )
    manager.manage()
    raise AssertionError("manage() ends by SystemExit")


def _examine(options: Options) -> None:
    checks.signal_name("--stop-signal", options.stop_signal)
    _count(options.processes)
    _place(options)
    if options.interval is not None and options.ready_timeout is not None:
        raise ConfigError("--interval has no effect beside --ready-timeout: leave one of them out")
    if getattr(options, "pool_name", None) and options.table is None:
        raise ConfigError("--pool-name chooses a pool of a file: give --config FILE, or leave it out")
    variables(options.env)


def _count(processes: int) -> int:
    if processes == 0:
        raise ConfigError("-n 0: a program runs in a process of its own: give 1 or more")
    return processes


def _program(options: Options) -> Program:
    """Raises ConfigError when it cannot be run: what is only found out later is the last of many lines."""
    arguments = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not arguments or not arguments[0]:
        raise ConfigError("no program to run: give it after '--', as in 'exec --listen /run/app.sock -- /usr/bin/app'")
    directory = None if options.chdir is None else os.path.abspath(options.chdir)
    if directory is not None and not os.path.isdir(directory):
        raise ConfigError(f"--chdir {options.chdir}: no such directory: name one that can be entered")
    environment = {**environment_from(options.without_variables(os.environ)), **variables(options.env)}
    _check_executable(arguments[0], directory or ".", environment.get("PATH", os.defpath))
    return Program(
        arguments,
        environment,
        directory=directory or logical_directory(),
        session=True,  # control-C at a terminal reaches the manager alone, which ends things in order
        death_signal="KILL",  # some note TERM and stay
    )


def _check_executable(name: str, directory: str, search: str) -> None:
    if "/" not in name:
        if shutil.which(name, path=search) is None:
            raise ConfigError(f"{name}: no such program on the path: check its name, or give its path")
        return
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        raise ConfigError(f"{name}: no such program: check its path")
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise ConfigError(f"{name} is not executable: name a program that this user may run")


def _place(options: Options) -> Place:
    addresses = [] if options.listen is None else [absolute_address(options.listen)]
    place = Place(
        addresses, options.socket_mode, options.socket_owner, take_over=options.take_over, backlog=options.backlog
    )
    check_place(options, place)
    return place
