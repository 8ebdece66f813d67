"""An application of many objects in a pool: `large.py frozen|without WORKERS MEGABYTES`. Each worker collects its garbage once, and
says so."""

from __future__ import annotations

import gc
import sys

from fcgi_procmanager import PoolManager


class Manager(PoolManager):
    def manager_init(self) -> None:
        super().manager_init()
        megabytes = int(sys.argv[3])
        # Objects that the garbage collector looks at, and some that only garbage kept alive.
        self.data = [[number, {"name": str(number), "values": [number] * 4}] for number in range(megabytes * 2200)]
        for _ in range(megabytes * 100):
            circle: list[object] = []
            circle.append(circle)
        if sys.argv[1] == "without":
            gc.freeze = lambda: None
        else:
            gc.collect()

    def server_init(self) -> None:
        super().server_init()
        gc.collect()
        print("collected", flush=True)


manager = Manager(int(sys.argv[2]))
manager.manage()
while not manager.leaving:
    manager._gate.wait()
