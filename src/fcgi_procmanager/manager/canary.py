"""A canary: a process that executes the new code and does all that comes before the first request, to see whether it can.

Runs in a child of the manager, instead of `manage()`. Must never serve, and never remove what is the manager's.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

from ..basics import exits, log
from ..basics.states import Role
from ..errors import BootError
from ..ipc.channel import READY, REFUSED, report
from ..system.proctitle import set_title
from .handover import Handover, found

if TYPE_CHECKING:
    from .procmanager import ProcManager

KIND = "canary"  # in the words of the log


def prove(manager: ProcManager, handover: Handover) -> NoReturn:
    """Say in the end how it went."""
    status = exits.FAILED
    try:
        set_title(f"{manager.manager_process_name} ({KIND})")
        _become_ready(manager)
        report(handover.reports, READY)
        status = exits.OK
    except BootError as error:
        if error.__context__ is not None:
            log.write_traceback(error.__context__)
        refuse(handover, str(error))
        status = exits.USAGE
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else exits.FAILED
    except BaseException as error:
        log.write_traceback(error)
    finally:
        manager._remove_listeners()  # those that it has bound
        log.flush_standard_streams()
        _end_children()
        # Nothing that the application does at an exit: it would do it to what its older generation uses.
        os._exit(status)


def refuse(handover: Handover, why: str) -> None:
    """The manager repeats it."""
    report(handover.reports, REFUSED, why)


def refuse_if_one(why: str) -> None:
    """The command ends before it has come to a pool: for this reason, if this is a canary."""
    left = found()
    if left is not None and left.canary:
        refuse(left, why)


def _end_children() -> None:
    """What the new code has started for itself: here nobody needs it, and it would hold the listeners. We have a session of our own."""
    if os.getpgrp() == os.getpid():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(os.getpid(), signal.SIGTERM)


def _become_ready(manager: ProcManager) -> None:
    if manager.n_processes == 0:
        raise BootError("the new code asks for no worker: n_processes is 0")
    manager.manager_init()
    manager.role = Role.SERVER
    for part in manager._parts:
        part.prepare_worker()
    manager.server_init()
