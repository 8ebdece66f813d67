"""`ProgramManager`: a manager whose workers are copies of a program that was not written for us.

Runs in the manager only: `manage()` never returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError
from .procmanager import ProcManager
from .programs import Copies, Programs
from .workers import Workers

if TYPE_CHECKING:
    from .half import ManagerHalf


class ProgramManager(ProcManager):
    """copies: what is kept, `n_processes` times; set before `manage()`. The rest is as of `ProcManager`."""

    copies: Copies

    # This manager has no code of theirs: what they execute is new in any case.
    _ON_SIGNAL = {**ProcManager._ON_SIGNAL, "USR2": ProcManager._on_reload}

    def manage(self) -> bool:
        if self.standby:
            raise ConfigError(
                "standby is for workers that are forked: a program that was not written for us cannot wait for a word"
            )
        return super().manage()

    def _make_workers(self, half: ManagerHalf) -> Workers:
        return Programs(self, half, self.copies)
