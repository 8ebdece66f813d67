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
from .loading import cache_settled_sources_only, describe_failure, load, search_here
from .messages import complain, say

__all__ = ["add"]

_LIMIT = 1 << 20  # bytes of the reply; one that streams for ever is long enough by then
_DESCRIPTION = """\
Load the application as 'serve' would, ask it for '/' under the eyes of wsgiref.validate, and say what came. Exit status 0
when it answered as WSGI has it, whatever the answer was; 2 when it did not, with one line that says why. A second line says whether
the accelerator in C is in force.

With --config, look at a file with options: each mistake is a line, with its place. Nothing is loaded, and no address is touched.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("check", help="load an application and try it", description=_DESCRIPTION)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("application", metavar="MODULE:NAME", nargs="?")
    parser.add_argument(
        "--config", metavar="FILE", help="a file with options, for 'serve', 'exec' or fcgi-start-server"
    )


def run(options: Options) -> int:
    if options.config is not None:
        from .configcheck import check_file  # not above: what it loads, the superdaemon too, would be in every pool

        status = check_file(options.config)
        if status != exits.OK or options.application is None:
            return status
    if options.application is None:
        options.parser.error("the following arguments are required: MODULE:NAME, or --config FILE")
    search_here()
    cache_settled_sources_only()
    try:
        say(_check(options.application))
        say(accelerator.told)
    except BootError as error:
        complain(str(error))
        return _leave(exits.USAGE)
    return _leave(exits.OK)


def _check(spec: str) -> str:
    sockets, threads = _sockets(), set(threading.enumerate())
    application = load(spec)
    _warn(spec, _sockets() - sockets, [thread for thread in threading.enumerate() if thread not in threads])
    status, size = _ask(application, spec)
    return f"{spec} answers GET / with {status}, {size} bytes"


def _ask(application: Callable[..., Any], spec: str) -> tuple[str, int]:
    """The status and the size of the reply to one request. Raises BootError."""
    environ: dict[str, Any] = {"wsgi.multiprocess": True, "wsgi.errors": sys.stderr, "QUERY_STRING": ""}
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
        raise BootError(f"{spec} breaks the rules of WSGI: {describe_failure(error)}") from None
    except (Exception, SystemExit) as error:
        raise BootError(f"{spec} fails to answer GET /: {describe_failure(error)}") from None
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
