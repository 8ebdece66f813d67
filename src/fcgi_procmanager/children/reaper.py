"""The children of one manager, as processes: reaped, asked to leave, killed. Nobody else calls waitpid; and kill only
`system/idle.py` and `trees.py`.

Runs in the manager. Knows who is there (registry.py) and who is due for what (ladder.py). What the end of a child means is for
the part of the loop that the child belongs to; a child that is in no part's registry is the application's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Callable

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import WorkerEvent
from ..system import signals, trees
from .ladder import Ladder
from .registry import WORKER, Child, Registry

Ended = Callable[[Child, Exit], None]


class Reaper:
    """notify: for one line of the log. ended: called with each child of ours that is gone, after it was announced.
    hear_reports: called before that, to hear what the child has reported. whole_trees: KILL is also for what a child has
    started: it cannot end its own any more."""

    def __init__(
        self,
        registry: Registry,
        notify: Callable[[str], None],
        ended: Ended,
        hear_reports: Callable[[], object],
        whole_trees: bool = False,
    ) -> None:
        self.registry = registry
        self.child_ended: bool = False  # SIGCHLD came since the last look at who is lost
        self.killed: int = 0  # workers that were sent KILL
        self._notify = notify
        self._ended = ended
        self._hear_reports = hear_reports
        self._whole_trees = whole_trees

    @property
    def next_at(self) -> float:
        """When somebody is due for a signal (monotonic seconds)."""
        return min((child.ladder.next_at for child in self.registry.leaving if child.ladder), default=FOREVER)

    # -- reaping ------------------------------------------------------------------------------------------------------

    def reap(self) -> int | None:
        """One child of any kind that has ended, or None."""
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            # No child at all. What the registry still holds was reaped by somebody else.
            for lost in self.registry.everybody:
                self.gone(lost.pid, Exit(None))
            return None
        if pid == 0:
            self._look_for_lost()
            return None
        self.gone(pid, Exit(raw))
        return pid

    def gone(self, pid: int, exit: Exit) -> None:
        """A child is gone: say so, and tell whoever it belongs to."""
        self._hear_reports()
        child = self.registry.remove(pid)
        if child is None:
            return  # not ours: an orphan that came to process 1, or a helper of the application
        self._notify(f"{child.kind} (pid {pid}) exited with status {exit}")
        self._ended(child, exit)

    def _look_for_lost(self) -> None:
        """A child has ended and there is none to reap: if it was one of ours, somebody else reaped it (a thread of the
        application that waits for any child), and nobody will ever tell us which."""
        if not self.child_ended:
            return
        self.child_ended = False
        for child in self.registry.everybody:
            if _is_lost(child.pid):
                self.gone(child.pid, Exit(None))

    # -- asking to leave ----------------------------------------------------------------------------------------------

    def retire(self, chosen: Iterable[Child], timeout: float, first: str = "TERM") -> None:
        """Ask these children to leave, now; they have `timeout` seconds, 0 for no limit."""
        chosen = list(chosen)
        if not chosen:
            return
        self._notify(f"sending {first} to PIDs, " + " ".join(str(child.pid) for child in chosen))
        self.ask_to_leave(chosen, timeout, first)

    def ask_to_leave(self, chosen: Iterable[Child], timeout: float, first: str = "TERM", repeated: bool = True) -> None:
        """The same, without a word."""
        now = monotonic()
        for child in chosen:
            self.registry.retire(child, Ladder(now, timeout, first, repeated))
        self.escalate()

    def escalate(self) -> None:
        """Send those who have been asked to leave what is due."""
        now = monotonic()
        for child in self.registry.leaving:
            due = child.ladder.due(now) if child.ladder else None
            if due is not None:
                self.send(child, due)

    def force(self) -> None:
        """Those who are leaving are due for KILL."""
        for child in self.registry.leaving:
            if child.ladder:
                child.ladder.force()

    def kill_everybody(self) -> None:
        """KILL, and reap, each by its number: another child of the application may live on."""
        for child in self.registry.everybody:
            self.kill(child)
        for child in self.registry.everybody:
            self.wait_for(child)

    def wait_for(self, child: Child) -> None:
        """One that was sent KILL."""
        self.gone(child.pid, _collect(child.pid))

    def kill(self, child: Child) -> None:
        """KILL. It is reaped in its time."""
        self.registry.retire(child, Ladder(monotonic(), None))
        self.send(child, "KILL")

    def ask_foreign(self, pid: int) -> None:
        """TERM to a child of the application, unless it has ended: its number may be somebody else's by now."""
        with contextlib.suppress(OSError):
            if not hasattr(os, "waitid") or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(pid, signals.number("TERM"))

    def send(self, child: Child, name: str) -> None:
        """One signal. A child that is gone without a trace is announced."""
        try:
            if name == "KILL" and self._whole_trees:
                trees.kill(child.pid)
            os.kill(child.pid, signals.number(name))
        except ProcessLookupError:
            self.gone(child.pid, Exit(None))  # not even a zombie is left: somebody else reaped it
            return
        if name == "KILL":
            child.on(WorkerEvent.KILL)
            self.killed += child.kind == WORKER


def _is_lost(pid: int) -> bool:
    """Whether somebody else has reaped this child."""
    try:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        else:  # whoever has its number by now is taken for it
            os.kill(pid, 0)
    except (ChildProcessError, ProcessLookupError, PermissionError):
        return True
    return False


def _collect(pid: int) -> Exit:
    try:
        return Exit(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return Exit(None)
