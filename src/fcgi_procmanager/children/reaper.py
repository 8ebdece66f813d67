"""The workers of one manager, as processes: reaped, asked to leave, killed. Nobody else calls waitpid or kill.

Runs in the manager. Knows who is there (children.py), who is due for what (shutdown.py) and when to try again
(policy.py); it decides nothing about how many there should be, and forks nobody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Callable

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import WorkerEvent
from ..system import signals
from .ladder import Ladder
from .registry import Child, Children
from .respawn import Respawn


class Crew:
    """notify: for one line of the log. last_words: called before the death of a worker is judged, to hear its reports."""

    def __init__(self, notify: Callable[[str], None], last_words: Callable[[], object]) -> None:
        self.children = Children()
        self.respawn = Respawn()
        self.child_ended = False  # SIGCHLD came since the last look at who is lost
        self.killed = 0  # workers that were sent KILL
        self._notify = notify
        self._last_words = last_words

    def __len__(self) -> int:
        return len(self.children)

    @property
    def everybody(self) -> list[Child]:
        return [*self.children.staying.values(), *self.children.leaving.values()]

    @property
    def next_at(self) -> float:
        """When somebody is due for a signal (monotonic seconds)."""
        return min((child.ladder.next_at for child in self.children.leaving.values() if child.ladder), default=FOREVER)

    def forked(self, pid: int) -> None:
        self.children.add(pid, monotonic())

    # -- reaping ------------------------------------------------------------------------------------------------------

    def reap(self) -> int | None:
        """One child of any kind that has ended, or None."""
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            # No child at all. What the registry still holds was reaped by somebody else.
            for lost in self.children.pids:
                self.bury(lost, Exit(None))
            return None
        if pid == 0:
            self._bury_lost()
            return None
        self.bury(pid, Exit(raw))
        return pid

    def bury(self, pid: int, exit: Exit) -> None:
        """A child is gone: say so, and judge whether its replacement has to wait."""
        self._last_words()
        child = self.children.remove(pid)
        if child is None:
            return  # not ours: an orphan that came to process 1, or a helper of the application
        self._notify(f"server (pid {pid}) exited with status {exit}")
        if child.ladder is not None or (child.excused and exit.clean):
            self.respawn.left(child.ready_at, monotonic())
            return
        delay = self.respawn.died(child.spawned_at, child.ready_at, monotonic())
        if delay and not self.respawn.hopeless:
            self._notify(f"{self.respawn.failures} servers in a row failed; the next one starts in {delay:.1f} s")

    def _bury_lost(self) -> None:
        """A child has ended and there is none to reap: if it was one of ours, somebody else reaped it (a thread of the
        application that waits for any child), and nobody will ever tell us which."""
        if not self.child_ended or not hasattr(os, "waitid"):
            return
        self.child_ended = False
        for pid in self.children.pids:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self.bury(pid, Exit(None))

    # -- asking to leave ----------------------------------------------------------------------------------------------

    def retire(self, chosen: Iterable[Child], timeout: float) -> None:
        """Ask these workers to leave, now; they have `timeout` seconds, 0 for no limit."""
        chosen = list(chosen)
        if not chosen:
            return
        self._notify("sending TERM to PIDs, " + " ".join(str(child.pid) for child in chosen))
        now = monotonic()
        for child in chosen:
            self.children.retire(child, Ladder(now, timeout))
        self.escalate()

    def escalate(self) -> None:
        """Send those who have been asked to leave what is due."""
        now = monotonic()
        for child in list(self.children.leaving.values()):
            due = child.ladder.due(now) if child.ladder else None
            if due is not None:
                self._send(child, due)

    def force(self) -> None:
        """Those who are leaving are due for KILL."""
        for child in self.children.leaving.values():
            if child.ladder:
                child.ladder.force()

    def kill_everybody(self) -> None:
        """KILL, and reap, each by its number: another child of the application may live on."""
        for child in self.everybody:
            self.children.retire(child, Ladder(monotonic(), None))
            self._send(child, "KILL")
        for pid in self.children.pids:
            try:
                self.bury(pid, Exit(os.waitpid(pid, 0)[1]))
            except ChildProcessError:
                self.bury(pid, Exit(None))

    def _send(self, child: Child, name: str) -> None:
        try:
            os.kill(child.pid, signals.KILL if name == "KILL" else signals.number(name))
        except ProcessLookupError:
            self.bury(child.pid, Exit(None))  # not even a zombie is left: somebody else reaped it
            return
        if name == "KILL":
            child.on(WorkerEvent.KILL)
            self.killed += 1
