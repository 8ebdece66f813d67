"""Whether a worker is to leave, and why: the ways out of a worker, in one table. Pure.

Runs in each worker, and in the only process when there is no pool.

| way out    | decided by                                  | last line                             | status | its place is filled |
| ---------- | ------------------------------------------- | ------------------------------------- | ------ | ------------------- |
| told       | TERM or HUP                                 | `safe exit after SIGTERM`; idle: none | 0      | at once             |
| retired    | a limit, or the application's `sys.exit()`  | the reason that was given             | 0      | at once             |
| orphaned   | the end of its manager                      | `safe exit: manager has died`; idle: none | 0  | by nobody           |
| `exit`     | the application: `exit`, `abort`, `die`     | the message that was given            | given  | at once if 0        |
| refused    | it cannot serve: BootError, no listener     | none: the manager says why            | 2      | never, see `half`   |

The first three wait for the request in hand and for what was accepted besides; a worker that leaves by `exit` does not.
"""

from __future__ import annotations

from ..system.signals import LEAVE_SIGNALS


class Leaving:
    """told: TERM or HUP came, or a limit was reached. orphaned: the manager is gone."""

    __slots__ = ("_reason", "_received", "_unsaid", "orphaned", "told")

    def __init__(self, received: dict[str, int]) -> None:
        self.told: bool = False
        self.orphaned: bool = False
        self._received = received
        self._reason = ""
        self._unsaid = False

    def retire(self, reason: str) -> None:
        """Leave with this as the last line. The first reason holds."""
        self._reason = self._reason or reason
        self.told = True

    @property
    def retired(self) -> bool:
        """A limit was reached, or the application asked for the end of its worker."""
        return bool(self._reason)

    def put_off(self) -> None:
        """It is time to leave after this request, but something that was accepted is still to be answered."""
        self._unsaid = True

    def said(self) -> None:
        """Its last line is out."""
        self._unsaid = False

    @property
    def unsaid(self) -> bool:
        """The reason was found after a request, and nobody has said it yet."""
        return self._unsaid

    @property
    def reason(self) -> str:
        """The words of its last line."""
        if self._reason:
            return self._reason
        for name in LEAVE_SIGNALS:
            if self._received.get(name):
                return f"safe exit after SIG{name}"
        return "safe exit: manager has died"
