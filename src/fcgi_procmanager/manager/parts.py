"""What a part of the loop may do besides when it attends a manager, which forks workers of its own code.

Runs in the manager; `forked`, `prepare_worker` and `reopen_in_worker` in a worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..events.loop import Part

if TYPE_CHECKING:
    from .half import ManagerHalf


class PoolPart(Part):
    """What `ProcManager._attend` takes. What it does not need, it leaves as it is here.

    starting_suffix: added to the title of a worker that is not ready yet. traces: why a worker cannot serve is told with the
    traceback at the start too, not only in a reload. needs_new_manager: the manager has loaded what a reload is to replace, so that
    it has to execute itself. reopens_in_worker: each worker has a log file of this part open, and gets USR1 when the manager does.
    """

    starting_suffix: str = ""
    traces: bool = False
    needs_new_manager: bool = False
    reopens_in_worker: bool = False

    def begin(self, half: ManagerHalf) -> None:
        """The manager is prepared, and its hook has been called; no new worker is there yet. BootError keeps workers from being
        started, or in a manager that has executed itself from being replaced."""

    def leave(self) -> dict[str, Any] | None:
        """The manager executes itself: what this part of the new one is to have, for JSON; `descriptors` are kept open."""
        return None

    def keeps_back(self, message: str) -> bool:
        """Hear a line of the manager's log. True when it is not to be written now."""
        return False

    def holds_on(self, why: str) -> bool:
        """Nobody has ever served, and trying again would not help. True when this part will ask for a reload: until then the
        manager waits instead of ending."""
        return False

    def last_line(self, status: int) -> None:
        """The manager has left nobody behind, and says its last line next."""

    def reopen(self) -> None:
        """USR1: log files may have been moved. Only if the part has asked for the signal (`ManagerHalf.hear`)."""

    def reopen_in_worker(self) -> None:
        """The same in a worker, if `reopens_in_worker`. It is called in the handler, in the middle of a request as well: what it raises
        is dropped, and it must not write to a stream, whose code may be what was interrupted."""

    def take_in(self) -> None:
        """A child is gone, and is announced next: hear what it has said."""

    def give_output(self) -> Mapping[int, int]:
        """A program is about to be started for the pool: its standard output and standard error, where this part takes them. Raises
        OSError."""
        return {}

    def output_given(self, kind: str, pid: int) -> None:
        """It has been. kind: in the words of the log; pid: 0 if it could not be."""

    def forked(self) -> None:
        """In a new worker, signals held: let go of what is the manager's."""

    def prepare_worker(self) -> None:
        """In a new worker, before `server_init`. BootError as there."""
