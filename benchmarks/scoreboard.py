"""What the scoreboard costs a request, in microseconds: the state before it is there, its beginning, its end, and all of them.

In one process, the least of many short runs: what else the machine does makes a run longer, never shorter.
"""

from __future__ import annotations

import json
import timeit
from time import monotonic
from typing import Callable

import common
from common import Aim
from fcgi_procmanager.ipc.scoreboard import Scoreboard

ON_A_REQUEST = 1.0  # microseconds
CALLS = 1000  # in a run


def main() -> None:
    parser = common.options(__doc__ or "")
    given = parser.parse_args()
    found = _measure(50 if given.quick else 500)
    conditions = f"{common.machine()}; the least of {50 if given.quick else 500} runs of {CALLS} calls, 64 slots."
    if given.json:
        given.json.write_text(json.dumps({"conditions": conditions, "figures": found}, indent=1) + "\n")
    rows = [(name, f"{value:.2f}") for name, value in found.items()]
    common.publish(given.page, "scoreboard", conditions + "\n\n" + common.table(("what", "us"), rows))
    cost = found["all of a request"]
    aim = Aim("the scoreboard, a request", f"{cost:.2f} us", f"less than {ON_A_REQUEST:g} us", cost < ON_A_REQUEST)
    common.publish(given.page, "scoreboard aims", Aim.table([aim]))


def _measure(runs: int) -> dict[str, float]:
    board = Scoreboard(64)
    slot = board.give(0)
    assert slot is not None
    slot.take()
    slot.ready()

    def begin() -> None:
        slot.begin("GET", "/a/path/of/usual/length?with=a&query=string")

    def request() -> None:
        slot.reading()
        slot.begin("GET", "/a/path/of/usual/length?with=a&query=string")
        slot.end()

    found = {
        "the clock, for comparison": _least(monotonic, runs),
        "reading": _least(slot.reading, runs),
        "begin": _least(begin, runs),
        "end": _least(slot.end, runs),
        "all of a request": _least(request, runs),
    }
    board.want_idle(1)
    found["the same while the manager wants to know"] = _least(request, runs)
    board.close()
    return found


def _least(call: Callable[[], object], runs: int) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=runs)) / CALLS * 1e6


if __name__ == "__main__":
    common.run(main)
