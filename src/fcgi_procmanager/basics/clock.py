"""Deadlines on the monotonic clock: a changed wall clock moves none of them. Pure but for reading the clock."""

from __future__ import annotations

import math
from time import monotonic

FOREVER = math.inf
_LONGEST = 1 << 30  # milliseconds, twelve days: poll(2) takes no more than an int; who waited so long looks again

__all__ = ["FOREVER", "milliseconds", "monotonic"]


def milliseconds(deadline: float, now: float) -> int | None:
    """What poll(2) takes to wait until `deadline` (monotonic seconds): None for ever, 0 when it has passed.

    Rounded up: a wait that ends a moment too early would spin until the deadline.
    """
    if deadline == FOREVER:
        return None
    return math.ceil(min(max(0.0, (deadline - now) * 1000), _LONGEST))
