"""The generations of the program, as a part of the superdaemon's loop: started, tried, accepted, asked to leave.

Runs in the superdaemon. When what is due is decided in succession.py; this part does it, and says so in the words of Server::Starter
0.35. Must never ask an old one to leave before a new one is good.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Callable

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import WorkerState
from ..children import started
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import WORKER, Child, Children, Registry
from ..children.started import Started
from ..children.trial import Verdict
from ..events.loop import Part
from .options import Options
from .succession import Due, Succession

if TYPE_CHECKING:
    from .environment import Environment
    from .statusfile import StatusFile

_ASKED = "received HUP, spawning a new worker"
_NOT_EXECUTED = 255 << 8  # the wait status that the original's child has then


class Generations(Part):
    """program: makes what is to be executed as the generation of this number. notify: for one line of the log. reaper: set by who
    runs the loop. current: the one that was accepted; old ones are all others but the one that is tried."""

    kind = WORKER
    reaper: Reaper

    def __init__(
        self,
        options: Options,
        registry: Registry,
        environment: Environment,
        status: StatusFile,
        program: Callable[[int], Program],
        notify: Callable[[str], None],
    ) -> None:
        self._options = options
        self._environment = environment
        self._status = status
        self._program = program
        self._notify = notify
        self.children: Children = registry.of(WORKER)
        self.succession: Succession = Succession()
        self.current: Child | None = None
        self.stopping: bool = False
        self.last_failure: str = ""
        self._ever_shown = False  # there is no status file before a generation was good
        self._tried: Child | None = None
        self._started: dict[int, Started] = {}  # by pid, of those that are not reaped

    @property
    def complete(self) -> bool:
        """A good one serves, and nothing is in progress."""
        return self.current is not None and not self.succession.in_progress and not self.stopping

    # -- what the loop asks -------------------------------------------------------------------------------------------

    def descriptors(self) -> Iterable[int]:
        return [descriptor for one in self._started.values() for descriptor in one.descriptors()]

    def ask(self) -> None:
        """A new generation is wanted."""
        self.succession.ask(monotonic())

    def ask_by_signal(self) -> None:
        if not self.succession.is_busy:
            self._notify(_ASKED)
        self.ask()

    def turn(self, now: float) -> bool:
        for one in self._started.values():
            one.hear()
        if not self.stopping:
            self._status.retry(now)
            self._judge(now)
            self._restart_by_itself(now)
            while (due := self.succession.due(now)) is not None:
                if due is Due.START:
                    self._start()
                else:
                    self._hand_over(now)
                now = monotonic()
        return False

    @property
    def next_at(self) -> float:  # type: ignore[override]
        if self.stopping:
            return FOREVER
        return min(self.succession.next_at, self._verdict_at, self._restart_at, self._status.retry_at)

    def stop(self) -> None:
        self.stopping = True

    def close(self) -> None:
        while self._started:
            self._started.popitem()[1].close()

    # -- one generation -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        number = self.succession.started()
        self._environment.read()
        forked: list[int] = []

        def record(pid: int) -> None:
            forked.append(pid)
            self._notify(f"starting new worker {pid}")

        options = self._options
        try:
            one = started.start(
                self._program(number), self.children, number, options.interval, options.ready_timeout, record
            )
        except OSError as error:
            self._not_started(error, forked)
            return
        self._tried = one.child
        self._started[one.child.pid] = one

    def _not_started(self, error: OSError, forked: list[int]) -> None:
        if not forked:
            self._retry(f"fork(2) failed:{error.strerror}")
            return
        if error.filename == self._options.program[0]:
            why, status = f"failed to exec {error.filename}:{error.strerror}", _NOT_EXECUTED
        else:
            why, status = f"failed to chdir:{error.filename}:{error.strerror}", (error.errno or 1) << 8
        self._notify(why)
        self._retry(f"new worker {forked[0]} seems to have failed to start, exit status:{status}", why)

    def _retry(self, line: str, why: str = "") -> None:
        self._notify(line)
        self.last_failure = f"{line} ({why})" if why else line
        self._say_when(self.succession.failed(monotonic()))

    def _say_when(self, delay: float) -> None:
        if delay:
            self._notify(f"{self.succession.failures} failures in a row; starting the next worker in {delay:.1f} secs")

    def _judge(self, now: float) -> None:
        tried = self._tried
        if tried is None or tried.state is WorkerState.KILLED:
            return
        verdict = self._started[tried.pid].verdict(now)
        if verdict is Verdict.GOOD:
            self._accept(tried, now)
        elif verdict is Verdict.LATE:
            limit = f"{self._options.ready_timeout:g}"
            self._notify(f"new worker {tried.pid} was not ready after {limit} secs, killing it")
            self.reaper.kill(tried)  # what that means is said at its end

    def _accept(self, child: Child, now: float) -> None:
        self._tried = None
        self.children.became_ready(child.pid, now)
        self.current = child
        self.last_failure = ""
        self._show_status()  # first: who has read the line below looks there
        delay = self._environment.kill_old_delay
        old = self._old
        if old:
            listed = ",".join(str(one.pid) for one in old)
            self._notify(f"new worker is now running, sending {self._options.signal_on_hup} to old workers:{listed}")
            if delay:
                self._notify(f"sleeping {delay:g} secs before killing old workers")
        self.succession.accepted(now, delay if old else 0.0)

    def _hand_over(self, now: float) -> None:
        old = self._old
        if old:
            self._notify("killing old workers")
            self.reaper.ask_to_leave(old, self._options.drain_timeout, self._options.signal_on_hup, repeated=False)
            self._limit_drainers()
        self.succession.handed_over(now)
        if self.succession.in_progress:  # asked for meanwhile
            self._notify(_ASKED)

    def _limit_drainers(self) -> None:
        """The oldest are ended first."""
        limit = self._options.drain_limit
        draining = sorted(self.children.leaving.values(), key=lambda child: child.generation)
        for child in draining[: len(draining) - limit] if limit else ():
            self._notify(f"more than {limit} old workers, killing the oldest:{child.pid}")
            self.reaper.kill(child)

    @property
    def _old(self) -> list[Child]:
        """Those that serve and are to leave."""
        return [child for child in self.children.staying.values() if child not in (self.current, self._tried)]

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        status = exit.raw if exit.raw is not None else "unknown"
        one = self._started.pop(child.pid, None)
        if one is not None:
            one.close()
        if self.stopping:
            self._notify(f"worker {child.pid} died, status:{status}")
        elif child is self._tried:
            self._tried = None
            line = f"new worker {child.pid} seems to have failed to start, exit status:{status}"
            self._retry(line, f"it ended with status {exit}")
        elif child is self.current:
            self.current = None
            self._notify(f"worker {child.pid} died unexpectedly with status:{status}, restarting")
            self._say_when(self.succession.died(monotonic()))
        else:
            self._notify(f"old worker {child.pid} died, status:{status}")
        if not self.stopping:
            self._show_status()

    def _show_status(self) -> None:
        shown = {child.generation: child.pid for child in self.children.everybody if child is not self._tried}
        self._ever_shown = self._ever_shown or bool(shown)
        if self._ever_shown:
            self._status.show(shown)

    # -- by themselves ------------------------------------------------------------------------------------------------

    @property
    def _verdict_at(self) -> float:
        tried = self._tried
        return FOREVER if tried is None or tried.state is WorkerState.KILLED else self._started[tried.pid].next_at

    @property
    def _restart_at(self) -> float:
        """When a restart by itself is due: after the interval if no old one remains, after two of them in any case."""
        if not self._environment.auto_restart or self.current is None or self.succession.in_progress:
            return FOREVER
        old = len(self.children) > 1
        return self.succession.accepted_at + self._environment.auto_restart_interval * (2 if old else 1)

    def _restart_by_itself(self, now: float) -> None:
        if now < self._restart_at:
            return
        self._environment.read()  # it may say something else by now
        if now < self._restart_at:
            return
        forced = "forced, " if len(self.children) > 1 else ""
        self._notify(f"autorestart triggered ({forced}interval={self._environment.auto_restart_interval:g})")
        self.ask()
