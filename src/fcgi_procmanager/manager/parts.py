"""What a part of the loop may do besides when it attends a manager, which forks workers of its own code.

Runs in the manager; `forked` and `prepare_worker` in a new worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events.loop import Part

if TYPE_CHECKING:
    from .half import ManagerHalf


class PoolPart(Part):
    """What `ProcManager.attend` takes. What it does not need, it leaves as it is here.

    starting_suffix: added to the title of a worker that is not ready yet.
    """

    starting_suffix: str = ""

    def begin(self, half: ManagerHalf) -> None:
        """The manager is prepared, and its hook has been called; no worker is there yet."""

    def keeps_back(self, message: str) -> bool:
        """Hear a line of the manager's log. True when it is not to be written now."""
        return False

    def last_line(self, status: int) -> None:
        """The manager has left nobody behind, and says its last line next."""

    def reopen(self) -> None:
        """USR1: log files may have been moved. Only if the part has asked for the signal (`ManagerHalf.hear`)."""

    def forked(self) -> None:
        """In a new worker, signals held: let go of what is the manager's."""

    def prepare_worker(self) -> None:
        """In a new worker, before `server_init`. BootError as there."""
