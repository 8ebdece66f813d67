"""Requests that end their worker, beside a healthy load, in every kind of pool."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest

from harness.pools import Pool, ask_beside_deadly
from harness.process import Script, patient

RATE = 20  # deadly requests a second
SECONDS = 3


class Healthy:
    """Requests without a pause, and the longest of them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._over = threading.Event()
        self.done, self.longest = 0, 0.0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            reply = ask_beside_deadly(self._pool.address)
            if not reply.ended:
                self.failures.append(repr(reply))
            self.longest = max(self.longest, time.monotonic() - began)
            self.done += 1
            self._over.wait(0.005)

    def stop(self) -> None:
        self._over.set()


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
def test_deadly_requests_cost_the_healthy_ones_nothing(
    run_script: Callable[..., Script], sock_path: str, kind: str
) -> None:
    pool = Pool(run_script, sock_path)
    script = pool.start(f"4, pool={kind!r}", 1)
    healthy = Healthy(pool)
    client = threading.Thread(target=healthy.run)
    client.start()
    began, deadly = time.monotonic(), []
    with ThreadPoolExecutor(RATE * SECONDS) as clients:
        for number in range(RATE * SECONDS):
            time.sleep(max(0, began + number / RATE - time.monotonic()))  # the rate is what is tested
            path = "/kill/SEGV" if number % 2 else "/exit"
            deadly.append(clients.submit(ask_beside_deadly, pool.address, path))
    replies = [one.result() for one in deadly]
    healthy.stop()
    client.join()
    print(f"{kind}: {healthy.done} healthy requests, the longest {healthy.longest:.3f} s")  # pytest -rP shows it
    assert not any(reply.ended for reply in replies)
    assert healthy.failures == []
    assert healthy.longest < patient(3)
    script.wait_log(r"died in GET /(kill/SEGV|exit) ", len(replies))
    assert script.stop() == 0
