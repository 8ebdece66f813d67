"""The memory of workers of one preloaded application, with and without what the manager does for it before it forks.

Each worker serves, makes garbage and collects it, as any does in time; then the proportional memory (PSS) of all is added up.
"""

from __future__ import annotations

import json
import sys

import psutil

import common
from common import APPLICATIONS, Aim, Stage, progress

WORKERS = 8
LESS = 1 / 3  # of the memory


def main() -> None:
    parser = common.options(__doc__ or "")
    given = parser.parse_args()
    size = 20 if given.quick else 200  # MB of objects
    with Stage() as stage:
        found = {way: _measure(stage, way, size) for way in ("without", "frozen")}
    conditions = f"{common.machine()}; {WORKERS} workers of an application of {size} MB of Python objects."
    if given.json:
        given.json.write_text(json.dumps({"conditions": conditions, "megabytes": found}, indent=1) + "\n")
    rows = [(way, f"{total:.0f}", f"{total / WORKERS:.0f}") for way, total in found.items()]
    common.publish(given.page, "memory", conditions + "\n\n" + common.table(("", "PSS in all, MB", "a worker"), rows))
    saved = 1 - found["frozen"] / found["without"]
    aim = Aim("less memory, frozen", f"{100 * saved:.0f} %", f"at least {100 * LESS:.0f} %", saved >= LESS)
    common.publish(given.page, "memory aims", Aim.table([aim]))


def _measure(stage: Stage, way: str, size: int) -> float:
    """MB of all workers."""
    pool = stage.start(way, [sys.executable, APPLICATIONS / "large.py", way, WORKERS, size], talks=True)
    for _ in range(WORKERS):
        pool.line()  # each says so when it has collected
    workers = [child for child in psutil.Process(pool.pid).children() if child.is_running()]
    total = sum(worker.memory_full_info().pss for worker in workers) / 2**20
    progress(f"{way}: {total:.0f} MB in {len(workers)} workers")
    return total


if __name__ == "__main__":
    common.run(main)
