"""`fcgi-procmanager status`: how a running pool is, asked of its manager through the control socket.

Runs in a process of its own, beside the pool. Must never wait without a limit, nor believe what it gets.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import sys
from typing import Any

from ..basics import exits
from ..basics.clock import monotonic
from ..errors import ControlError
from ..parent import overview
from ..parent.overview import Overview
from ..pool.control import path_beside
from ..status import jsonform, table, wire
from ..status.snapshot import PoolStatus
from ..status.verdict import DOWN, verdict
from . import statuses
from .arguments import Options

__all__ = ["add", "add_address", "address_of", "ask", "ask_any"]

_TIMEOUT = 5.0  # seconds
_LIMIT = 1 << 26  # bytes of an answer
_DESCRIPTION = """\
Show how a running pool is: whether it can take more, how many workers there are and what each one does. Exit status 0 when
it serves, 1 when nobody serves or none is running.

Of the parent of several pools ('run'): the same of each, one after the other; with --json an object with one for each name. Exit
status 0 when all of them serve.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("status", help="show how a running pool is", description=_DESCRIPTION)
    parser.set_defaults(run=run, parser=parser)
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, with the keys of php-fpm and more")
    parser.add_argument(
        "--full", action="store_true", help="with the proportional memory (PSS), and JSON with each worker"
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--pidfile", metavar="FILE", help="PID file of the manager")
    where.add_argument("--control", metavar="PATH", help="its control socket (default: beside the PID file)")


def address_of(options: Options) -> str:
    return str(options.control) if options.control is not None else path_beside(options.pidfile)


def run(options: Options) -> int:
    found = ask_any(address_of(options), options.full)
    width, colour = shutil.get_terminal_size().columns, _has_colours()
    if isinstance(found, Overview):
        seen = statuses.look(found, lambda path: ask(path, options.full))
        text = statuses.as_json(seen, options.full) if options.json else statuses.as_text(seen, width, colour)
        is_down = statuses.is_down(seen)
    else:
        text = (
            f"{jsonform.render(found, options.full).decode()}\n" if options.json else table.render(found, width, colour)
        )
        is_down = verdict(found).level == DOWN
    with contextlib.suppress(BrokenPipeError):  # a pager that was left
        sys.stdout.write(text)
        sys.stdout.flush()
    return exits.FAILED if is_down else exits.OK


def ask(path: str, full: bool = False) -> PoolStatus:
    """Of one pool. Raises ControlError and ProtocolError."""
    return wire.decode(_answer(path, full))


def ask_any(path: str, full: bool = False) -> PoolStatus | Overview:
    """Of a pool, or of the parent of several. Raises ControlError and ProtocolError."""
    answer = _answer(path, full)
    return overview.decode(answer) if overview.is_overview(answer) else wire.decode(answer)


def _answer(path: str, full: bool) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT)
        try:
            sock.connect(path)
            sock.sendall(b"status full\n" if full else b"status\n")
            answer = _all_of(sock)
        except socket.timeout:
            raise ControlError(f"{path}: the manager has not answered in {_TIMEOUT:g} s: its log may say why") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(f"not running: nobody listens on {path}, the control socket of a pool") from None
        except PermissionError:
            raise ControlError(
                f"{path}: this user may not ask: run this as the owner of the pool, or as root"
            ) from None
        except OSError as error:
            raise ControlError(
                f"{path}: {error.strerror or error}: name the control socket of a running pool"
            ) from None
    if not answer:
        raise ControlError(f"{path}: the manager did not answer: it answers its own user and root")
    return answer


def _all_of(sock: socket.socket) -> bytes:
    pieces, size, until = [], 0, monotonic() + _TIMEOUT
    while piece := sock.recv(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _LIMIT or monotonic() > until:
            raise socket.timeout
    return b"".join(pieces)


def _has_colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
