"""`fcgi-procmanager check MODULE:APP`: load an application and ask it for one page, without serving anybody.

Runs in a process of its own. Must never show a traceback: what the application did wrong is one line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Callable
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from ..basics import accelerator, exits
from ..errors import BootError
from .arguments import Options
from .configured import POOLS, Configured, find_table, pool_names
from .hosting import make_manager
from .loading import cache_settled_sources_only, describe_failure, load, print_traceback, search_here
from .messages import complain, say
from .pooloptions import set_umask
from .serve import change_directory, set_variables
from .serveoptions import add_serve_options, base_of, examine, hint, settings_of
from .sources import Table, variable
from .surroundings import Surroundings

__all__ = ["add"]

_LIMIT = 1 << 20  # bytes of the reply; one that streams for ever is long enough by then
_DESCRIPTION = """\
Load the application as 'serve' would, ask it for '/' under the eyes of wsgiref.validate, and say what came. Exit status 0
when it answered as WSGI has it, whatever the answer was; 2 when it did not, with one line that says why. A second line says whether
the accelerator in C is in force.

It takes every option of 'serve', so that this word can take the place of that one in a command line. No address and no file is touched.

With --config, look at a file with options: each mistake is a line, with its place. Only with --pool-name, or MODULE:NAME, an
application is loaded as well.
"""
_TRACEBACK = "show where an application has failed, all of it"


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("check", help="load an application and try it", description=_DESCRIPTION)
    configured = add_serve_options(parser)
    parser.add_argument("--traceback", action="store_true", help=_TRACEBACK)
    parser.set_defaults(run=lambda options: _run(options, configured), parser=parser, complete=None)


def _run(options: Options, configured: Configured) -> int:
    file = getattr(options, "config", None)
    if file is None:
        file = os.environ.get(variable("config")) or None
    named = getattr(options, "application", None) or os.environ.get(variable("application"))
    if file is None and not named:
        options.parser.error("the following arguments are required: MODULE:NAME, or --config FILE")
    table = None
    if file is not None:
        from .configcheck import check_file  # not above: what it loads, the superdaemon too, would be in every pool

        status = check_file(file)
        pool = getattr(options, "pool_name", None) or os.environ.get(variable("pool-name"))
        if status != exits.OK or not (named or pool):
            return status
        table = _table(options, pool)
        if not named and table is not None and configured.needs not in table.data:
            return status  # a program: there is nothing to load
    configured.complete_from(options, table)
    return _try(options)


def _table(options: Options, pool: str | None) -> Table | None:
    """None where the file does not say which pool is meant, or only has one of another kind."""
    from .tomlfile import TomlFile  # not above: few have a file

    if pool:
        return find_table(options)
    file = TomlFile(options.config if getattr(options, "config", None) else os.environ[variable("config")])
    names = pool_names(file)
    if len(names) != 1 or "command" in file.data[POOLS][names[0]]:
        return None
    return find_table(options)


def _try(options: Options) -> int:
    examine(options)
    hint(options)
    settings, surroundings = settings_of(options), Surroundings(options)
    set_umask(options)
    surroundings.drop_root()
    change_directory(options.chdir)
    search_here()
    cache_settled_sources_only()
    set_variables(options)
    try:
        base = base_of(options, settings)
        make_manager(base, settings)
        say(_check(options))
        say(accelerator.told)
    except BootError as error:
        if options.traceback and error.__context__ is not None:
            print_traceback(error.__context__)
        complain(str(error))
        return _leave(exits.USAGE)
    return _leave(exits.OK)


def _check(options: Options) -> str:
    spec = options.application
    sockets, threads = _sockets(), set(threading.enumerate())
    application = load(spec, hint(options))
    _warn(spec, _sockets() - sockets, [thread for thread in threading.enumerate() if thread not in threads])
    status, size = _ask(application, options)
    return f"{spec} answers GET / with {status}, {size} bytes"


def _ask(application: Callable[..., Any], options: Options) -> tuple[str, int]:
    """The status and the size of the reply to one request. Raises BootError."""
    spec = options.application
    environ: dict[str, Any] = {
        "wsgi.multiprocess": options.processes > 0,
        "wsgi.multithread": (options.threads or 1) > 1,
        "wsgi.errors": sys.stderr,
        "QUERY_STRING": "",
    }
    setup_testing_defaults(environ)
    statuses: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        statuses.append(status)
        return body.append

    body: list[bytes] = []
    try:
        with _warnings(spec):
            _read(validator(application)(environ, start_response), body)
    except AssertionError as error:
        raise BootError(f"{spec} breaks the rules of WSGI: {describe_failure(error)}{hint(options)}") from None
    except (Exception, SystemExit) as error:
        raise BootError(f"{spec} fails to answer GET /: {describe_failure(error)}{hint(options)}") from None
    if not statuses:
        raise BootError(f"{spec} breaks the rules of WSGI: it never called start_response")
    return statuses[-1], sum(map(len, body))


@contextlib.contextmanager
def _warnings(spec: str) -> Iterator[None]:
    """What is bad style but not wrong, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                complain(f"warning: {spec}: {warning.message}")


def _read(reply: Any, body: list[bytes]) -> None:
    try:
        for chunk in reply:
            body.append(chunk)
            if sum(map(len, body)) > _LIMIT:
                break
    finally:
        reply.close()


def _warn(spec: str, sockets: set[int], threads: list[threading.Thread]) -> None:
    left = [f"the thread {thread.name!r} running" for thread in threads]
    left += [f"a socket open (descriptor {number})" for number in sorted(sockets)]
    if left:
        complain(
            f"warning: loading {spec} left {' and '.join(left)}: with --preload, workers would lack the thread or share the "
            "socket; open it in server_init instead"
        )


def _sockets() -> set[int]:
    found = set()
    for number in map(int, os.listdir("/dev/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found.add(number)
        except OSError:
            pass  # the descriptor that was listing the directory
    return found


def _leave(status: int) -> int:
    """A thread of the application that never ends would keep this process for ever."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
