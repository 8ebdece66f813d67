"""The options of a pool that serves a WSGI application, and what they mean for its parts. `serve` and `check` have the same.

Runs before the manager starts. Must never touch the system; `base_of` alone loads code of the application.
"""

from __future__ import annotations

from typing import Any

from ..basics.states import PLAIN, ROLLING
from ..errors import ConfigError
from ..manager.procmanager import ProcManager
from ..pool.poolmanager import PoolManager
from ..system.image import IMAGE
from .adaptive import REQUEST, adaptive_settings, add_adaptive_options
from .arguments import Options, Parser, positive, size, time_limit, whole
from .borrowed import add_borrowed_options
from .configured import Configured, placed_path
from .effects import check_effects, drop_outranked
from .hosting import Place
from .loading import load_class
from .pasted import pasted
from .pooloptions import (
    APPLICATION,
    LISTENING,
    PROCESS,
    STOPPING,
    WORKERS,
    absolute_address,
    add_pool_options,
    an_address,
    check_place,
    pool_settings,
    variables,
)
from .sources import variable
from .watch import RELOAD_TIMEOUT, check_library
from .web import parse_web

__all__ = [
    "add_serve_options",
    "base_of",
    "environment",
    "examine",
    "hint",
    "place_of",
    "server_settings",
    "settings_of",
]

_TIMEOUTS = "timeouts of connections"  # the title of a group
_OF_SERVER = (
    *("threads", "body_limit"),
    *("head_timeout", "idle_timeout", "receive_timeout", "send_timeout", "drain_timeout"),
)
_READ_BY_PYTHON = ("PYTHON", "LD_")  # when it starts, and when we execute ourselves


def add_serve_options(parser: Parser) -> Configured:
    text = "what to serve: without a name it is 'application'; NAME() is a factory, which is called"
    parser.add_argument("application", metavar="MODULE:NAME", help=text)
    _add_listening(parser)
    _add_application(parser)
    add = parser.group(WORKERS, "never more than --processes says").add_argument
    add("-n", "--processes", type=whole, default=2, metavar="N", help="workers; 0 serves in this process (default: 2)")
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="requests that a worker serves at a time, for applications that wait for others (default: 1)",
    )
    add(
        "--standby",
        type=whole,
        metavar="N",
        help="workers that wait, booted, to take the place of one that ends (default: 0)",
    )
    add_adaptive_options(parser)
    add = parser.group(REQUEST).add_argument
    add("--body-limit", type=size, metavar="SIZE", help="of a body without a length, such as 200M (default: 64M)")
    _add_timeouts(parser)
    _add_reloading(parser)
    add_pool_options(parser, "workers")
    add = parser.group(PROCESS).add_argument
    add("--process-name", metavar="TITLE", help="title of a worker in ps (default: python-fcgi)")
    configured = Configured(parser, "application", examine, PoolManager)
    add_borrowed_options(parser)
    return configured


def _add_listening(parser: Parser) -> None:
    add = parser.group(LISTENING).add_argument
    add(
        "--listen",
        action="append",
        type=an_address,
        default=[],
        metavar="ADDRESS",
        help="FastCGI address; may be given several times (default: what was handed over)",
    )
    add("--web", metavar="HOST:PORT", help="serve browsers there, by a Caddy in front of the workers (default: none)")


def _add_application(parser: Parser) -> None:
    add = parser.group(APPLICATION).add_argument
    add("--chdir", metavar="DIRECTORY", help="where to look for MODULE and to run (default: here)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable for the application; may be given several times (default: none)",
    )
    add("--preload", action="store_true", help="load the application once, before the workers are forked")
    add("--manager", metavar="MODULE:CLASS", help="a subclass of ProcManager, for its hooks (default: PoolManager)")


def _add_timeouts(parser: Parser) -> None:
    add = parser.group(_TIMEOUTS, "of those that the web server makes").add_argument
    for name, text in (
        ("--head-timeout", "to bring the parameters of a request (default: 15)"),
        ("--idle-timeout", "that a kept one may be silent; longer than the web server's own (default: 75)"),
        ("--receive-timeout", "to wait for more of a body (default: 60)"),
        ("--send-timeout", "that the web server may keep a reply waiting, in all (default: 60)"),
        ("--drain-timeout", "to say its first word, once its worker is to leave (default: 3)"),
    ):
        add(name, type=time_limit, metavar="SECONDS", help=text)


def _add_reloading(parser: Parser) -> None:
    add = parser.group(STOPPING).add_argument
    add(
        "--reload-mode",
        choices=(ROLLING, PLAIN),
        default=ROLLING,
        help="new workers first, old ones when they are ready (rolling); or all at once (plain; default: rolling)",
    )
    add("--touch", metavar="FILE", help="do what USR2 does whenever this file changes (default: none)")
    add("--watch", action="store_true", help="for development: reload when a Python file here, or below, changes")


# -- what they mean ------------------------------------------------------------------------------------------------------


def examine(options: Options) -> None:
    """Of values that belong together, or that are read later only. Raises ConfigError."""
    drop_outranked(options)
    place_of(options)
    if options.web is not None:
        parse_web(options.web)
    environment(options)
    check_effects(options)
    if options.watch:
        check_library()


def place_of(options: Options) -> Place:
    place = Place(
        [absolute_address(address) for address in options.listen],
        options.socket_mode,
        options.socket_owner,
        options.web,
        options.take_over,
        options.backlog,
    )
    check_place(options, place)
    return place


def environment(options: Options) -> dict[str, str]:
    """What the application finds besides. Raises ConfigError."""
    found = variables(options.env)
    for name in found:
        if name.startswith(_READ_BY_PYTHON):
            raise ConfigError(f"--env {name}: it is read when Python starts: set the variable before the command")
        if name.startswith("FCGI_PROCMANAGER_"):
            raise ConfigError(f"--env {name}: it is for this command: give the option itself")
    return found


def settings_of(options: Options) -> dict[str, Any]:
    """For the manager's constructor, whatever its class is."""
    settings = pool_settings(
        options, n_processes=options.processes, process_name=options.process_name, standby=options.standby
    )
    if options.watch:
        settings.setdefault("reload_timeout", RELOAD_TIMEOUT)
    return settings


def base_of(options: Options, settings: dict[str, Any]) -> type[ProcManager]:
    """The class of the manager, loaded; `settings` get what is for that. Raises ConfigError, BootError."""
    base = load_class(options.manager, ProcManager, hint(options)) if options.manager else PoolManager
    settings.update(adaptive_settings(options, base))
    return base


def server_settings(options: Options) -> dict[str, Any]:
    """For the constructor of WSGIServer."""
    return {name: getattr(options, name) for name in _OF_SERVER if getattr(options, name) is not None}


def hint(options: Options) -> str:
    """How to see the traceback. To be asked for before --chdir is obeyed."""
    if getattr(options, "hint", None) is None:
        options.hint = f" (for the traceback: {_check_again(options)})"
    return str(options.hint)


def _check_again(options: Options) -> str:
    """Not with --env: it may have a secret, and this goes to a log."""
    words, here = ["check", "--traceback"], IMAGE.directory or "/"
    if options.table is not None:
        words += ["--config", placed_path(options.table.file.path, here), "--pool-name", options.table.path[-1]]
    if options.env and (options.table is None or options.values["env"].origin in ("command line", variable("env"))):
        return "the same words, with 'check --traceback' as the command"
    words += ["--chdir", placed_path(options.chdir or ".", here)]
    if options.manager is not None:
        words.append(f"--manager={options.manager}")
    words += [f"--{name}={value}" for name in ("user", "group") if (value := getattr(options, name)) is not None]
    return pasted([*words, options.application])
