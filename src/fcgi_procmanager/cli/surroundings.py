"""What a pool of the command is surrounded by: in the background or not, its log file, its user; with whoever typed it waiting.

Runs before the manager starts and in the manager; what `forked` does, in each worker. Must never load code of the application while
this is root, nor leave whoever typed the command without the truth.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Callable

from ..basics import exits, log
from ..basics.levels import ERROR
from ..basics.states import ManagerState
from ..children.registry import Registry
from ..errors import ConfigError, ProcManagerError
from ..events.logfile import LogFile
from ..manager import handover
from ..manager.half import ManagerHalf
from ..manager.parts import PoolPart
from ..manager.procmanager import ProcManager
from ..sockets.addresses import parse_address
from ..sockets.binding import bind
from ..sockets.inherited import superdaemon_listeners, systemd_listeners
from ..system import privileges
from ..system.detach import Detached, fork_away, leave_streams
from ..system.pidfile import PidFile
from ..system.privileges import Identity
from .arguments import Options
from .hosting import Place
from .messages import PROGRAM, one_line
from .pooloptions import STANDARD_ERROR, choose_log
from .web import bind_web

__all__ = ["Surroundings", "log_path"]

_SILENCE = f"{PROGRAM}: ended before its first worker was ready, without a word: its log says more"


class Surroundings(PoolPart):
    """of_programs: the workers are programs, which do not know what to do at USR1."""

    def __init__(self, options: Options, of_programs: bool = False) -> None:
        """Raises ConfigError."""
        self._wanted_daemon = bool(options.daemon)
        self._identity = _identity(options)
        self._choose_log = partial(choose_log, options)
        path = log_path(options.log_file)
        self._log = LogFile(path, Registry()) if path is not None else None
        self.reopens_in_worker: bool = self._log is not None and not of_programs
        self._detached: Detached | None = None
        self._pid_file: PidFile | None = None
        self._half: ManagerHalf | None = None
        self._last_words = ""

    # -- around it all ------------------------------------------------------------------------------------------------

    def live(self, place: Place, body: Callable[[], int]) -> int:
        """Go into the background if that is wanted, and do `body` there. In the process that was typed it returns the status that
        the manager has told it. Raises what `body` raises."""
        if self._wanted_daemon and not handover.is_there():
            if not place.addresses and place.web is None:
                # What was handed over is for this process, not for the next one.
                place.listeners = systemd_listeners() or superdaemon_listeners()
            away = self._fork_away()
            if isinstance(away, int):
                return away
            self._detached = away
        owner = os.getpid()
        try:
            return body()
        except ProcManagerError as error:
            if os.getpid() == owner:
                self._failed(f"{PROGRAM}: {one_line(error)}")
            raise
        except SystemExit as stop:
            if os.getpid() == owner:
                self._ended(stop)
            raise

    def _fork_away(self) -> Detached | int:
        try:
            return fork_away(_SILENCE)
        except OSError as error:
            raise ConfigError(f"--daemon: the system refuses to fork: {error.strerror}") from None

    def _failed(self, words: str) -> None:
        """It is said where people look: in the log, and to whoever typed the command."""
        if self._log is not None and self._log.is_open and not handover.is_there():
            log.write(words, ERROR)
            self._log.close()
        if self._detached is not None:
            self._detached.tell(exits.USAGE, words)

    def _ended(self, stop: SystemExit) -> None:
        if self._detached is not None:
            status = stop.code if isinstance(stop.code, int) and stop.code else exits.FAILED
            self._detached.tell(status, f"{PROGRAM}: {self._last_words or 'ended before its first worker was ready'}")

    # -- before the manager is made -----------------------------------------------------------------------------------

    def enter(self, place: Place, pidfile: str | None) -> None:
        """Open the log, choose its form, and open all that only root may open, and be root no more. Raises ProcManagerError."""
        if handover.is_there():
            self._go_on()
            self._choose_log()
            return
        if self._detached is not None:
            leave_streams()
        if self._log is not None:
            self._log.open(detached=self._detached is not None)
        self._choose_log()  # before all that may go wrong
        if self._identity is not None:
            self._open_as_root(place, pidfile, self._identity)
            privileges.drop(self._identity)

    def drop_root(self) -> None:
        """All of that, for who only looks: become the user that is given. Raises ConfigError."""
        if self._identity is not None:
            privileges.drop(self._identity)

    def _go_on(self) -> None:
        """This process was all that before it executed itself; its standard error is the log. A canary only writes there."""
        if self._log is not None and not handover.is_canary():
            with contextlib.suppress(ProcManagerError):  # it may lie where this user opens nothing
                self._log.open(detached=False)

    def _open_as_root(self, place: Place, pidfile: str | None, identity: Identity) -> None:
        uid, gid = -1 if identity.uid is None else identity.uid, identity.gid
        if self._log is not None:
            self._log.give_to(uid, gid)
        if place.web is not None:
            place.web_listener = bind_web(place.web)
        owner = place.owner if place.owner is not None else f"{'' if uid < 0 else uid}:{gid}"
        for text in place.addresses:
            address = parse_address(text)
            listener = bind(address, **{**place.how, "owner": owner})
            listener.asked = address.describe()
            place.listeners.append(listener)
        if pidfile is not None:
            self._pid_file = PidFile(pidfile)
            self._pid_file.acquire()
            self._pid_file.give_to(uid, gid)

    def prepare(self, manager: ProcManager) -> None:
        """The manager is made: it has what we have opened, and we attend it."""
        if self._pid_file is not None:
            manager._add_pid_file(self._pid_file)
        if manager._collects_output:
            self.reopens_in_worker = False
        if self._detached is not None or self._log is not None:
            manager._attend(self)

    @property
    def account(self) -> dict[str, str]:
        """What the environment of a program says of the user."""
        if self._identity is None or not self._identity.name:
            return {}
        return {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME")}

    # -- in the manager -----------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        if self._log is not None:
            half.hear("USR1")

    def turn(self, now: float) -> bool:
        if self._detached is not None and self._half is not None and self._half.life.state is ManagerState.RUNNING:
            self._detached.tell(exits.OK)
        return False

    def keeps_back(self, message: str) -> bool:
        self._last_words = message
        return False

    def reopen(self) -> None:
        if self._log is not None:
            self._log.reopen()

    # -- in a worker --------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        self._half = None
        if self._detached is not None:
            self._detached.close()
        if self._log is not None and not self.reopens_in_worker:
            self._log.let_go()

    def reopen_in_worker(self) -> None:
        self.reopen()


def _identity(options: Options) -> Identity | None:
    identity = privileges.find(options.user, options.group)
    if identity is None or identity.is_ours:
        return None
    privileges.check_possible(identity, "--user" if options.user is not None else "--group")
    return identity


def log_path(text: str | None) -> str | None:
    """None: standard error. Raises ConfigError."""
    if text is None or text == STANDARD_ERROR:
        return None
    if not text or text.lstrip().startswith("|"):
        raise ConfigError(
            f"--log-file {text!r}: give a file; for a command that reads the log, end the line with '2>&1 | COMMAND'"
        )
    return os.path.abspath(text)
