"""`Supervisor`: a daemon that keeps a process running, and replaces it and itself by their new code.

Two processes run this file: the *supervisor*, which has nothing of the application but its code, and the *supervised process*,
forked from it. After App::Base::Daemon::Supervisor 0.08; the protocol between two generations is in handover.py.
"""

from __future__ import annotations

import atexit
import socket
from typing import NoReturn

from ..basics import checks, exits
from ..system import signals
from .daemon import Daemon
from .ending import Ending
from .invitation import Invitation
from .keeper import Keeper
from .workerhalf import WorkerHalf

__all__ = ["Supervisor"]


class Supervisor(Daemon):
    """Define `supervised_process()`, and `supervised_shutdown()` for what it does at its end.

    Class attributes, in seconds, for subclasses: `delay_before_respawn` (5) between the end of the process and its next start, doubled
    each time while it keeps failing; `hot_reload_timeout` (60) in which a new generation must become ready, and `die_timeout` (60) in
    which a process that was asked to leave must be gone before it is killed; 0 for no limit. `can_do_hot_reload`: USR2, or a second
    start, brings new code. `is_supervisor`: True in the supervisor, False in the supervised process. `generation`: 1, and one more
    with each hot reload. The rest is as of `Daemon`. Source: App::Base::Daemon::Supervisor 0.08.
    """

    delay_before_respawn: float = 5.0
    hot_reload_timeout: float = 60.0
    die_timeout: float = 60.0
    is_supervisor: bool = True
    generation: int = 1

    _role = "supervisor"
    _keeper: Keeper | None = None  # in the supervisor only
    _half: WorkerHalf | None = None  # in the supervised process only
    _mask: frozenset[int] | set[int] = frozenset()

    # -- hooks --------------------------------------------------------------------------------------------------------

    def supervised_process(self) -> None:
        """Supervised process: what it does. When it returns, the process ends with status 0, and is started again after the delay; an
        exception is an `error`."""
        raise NotImplementedError(f"{type(self).__name__} must define supervised_process()")

    def supervised_shutdown(self) -> int | None:
        """Supervised process, in the handler of TERM, INT or QUIT, at an `error`, and when the supervisor is gone: clean up. Returns the
        exit status, None for 0. Called once; further signals wait for its end."""
        return None

    # -- what the supervised process calls ------------------------------------------------------------------------------

    def ping_supervisor(self) -> None:
        """Supervised process: ask whether the supervisor lives, and wait for its answer. Without one it is an `error`."""
        answer = self._ask("ping", "Error reading from supervisor pipe")
        if answer != "pong":
            self.error(f"Error reading from supervisor pipe: {answer!r} in place of pong")

    def ready_to_take_over(self) -> None:
        """Supervised process: it can serve. Returns at once in the first generation; in a new one when the old process and its
        supervisor are gone. An `error` when that fails."""
        answer = self._ask("takeover", "Failed to take over")
        if answer != "ok":
            self.error(f"Failed to take over: {answer!r} in place of ok")

    @property
    def supervisor_pipe(self) -> socket.socket | None:
        """Either: its end of the stream on which the supervised process says `ping`, `takeover` or `shutdown`, each with a newline, and
        is answered `pong` or `ok`. None while there is none."""
        if self._half is not None:
            return self._half.pipe
        line = self._keeper.supervised.line if self._keeper is not None else None
        return line.socket if line is not None else None

    def _ask(self, word: str, failure: str) -> str:
        if self._half is None:
            raise RuntimeError("Supervisor pipe is not defined: this is not the supervised process")
        try:
            return self._half.ask(word)
        except (OSError, EOFError) as error:
            self.error(f"{failure}: {error}")
            return ""

    # -- the supervisor -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for name in ("delay_before_respawn", "hot_reload_timeout", "die_timeout"):
            checks.seconds(name, getattr(self, name))

    def _install_handlers(self) -> None:
        self._signals.install(signals.SUPERVISOR_SIGNALS)

    def _work(self, invitation: Invitation | None) -> int:
        if invitation is not None:
            self.generation = invitation.generation
        self._keeper = keeper = Keeper(
            self, self._command, self._started_in, self._signals, self._held, invitation, self._tell_started
        )
        status = keeper.run()
        if status is None:
            self._live_supervised(keeper)
        self._keeper = None
        return status or self.return_value

    def _become_supervised(self, mask: set[int]) -> None:
        """For the keeper: in the child, signals held."""
        self._mask = mask

    # -- the supervised process ---------------------------------------------------------------------------------------

    def _live_supervised(self, keeper: Keeper) -> NoReturn:
        """Signals are held until all that is the supervisor's is dropped, and there are handlers of our own."""
        self._keeper = None
        self._become_worker(keeper)
        try:
            signals.unblock(set(self._mask))
            assert self._half is not None
            self._half.watch()
            self.supervised_process()
        except Exception as error:
            self._crashed(error)
        raise SystemExit(exits.OK)

    def _become_worker(self, keeper: Keeper) -> None:
        self.is_supervisor = False
        self._role = "supervised process"
        if self._held is not None:
            self._held.abandon()
        if self._detached is not None:
            self._detached.close()
        keeper.drop()
        ends = keeper.supervised.ends
        assert ends is not None
        self._ending = Ending(self.supervised_shutdown)
        self._half = WorkerHalf(ends, self._orphaned)
        self._signals.renew()
        self._signals.restore("USR2", "CHLD")
        atexit.register(signals.ignore_late)  # a TERM that is repeated while Python shuts down would kill
        self._signals.install(signals.DAEMON_SIGNALS, self._ending.by_signal)

    def _orphaned(self) -> None:
        self.notify("the supervisor is gone")
        self._ending.leave()
