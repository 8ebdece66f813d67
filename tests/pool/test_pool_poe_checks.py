"""What the tests of POE::Component::Daemon 0.1004 look at, of a pool: spare workers and a worker for each request.

Two of those tests, of the fourth connection to a pool of three, look at the wrong variable and pass whatever happens. Here they are as
they were meant.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import PoolManager
from harness.fcgi import Client, request_bytes
from harness.pools import Pool, facts
from harness.process import Script, wait_until

Run = Callable[..., Script]

# A request is a conversation: it says who serves, and goes on until its file is there.
TALK = """
def app(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(f"{os.getpid()}\\n".encode())
    while not os.path.exists(environ["PATH_INFO"]):
        time.sleep(0.005)
    write(f"{os.getpid()}\\n".encode())
    return []
"""


class Talk:
    """A request that has begun, if anybody serves it."""

    def __init__(self, address: str, done: Path) -> None:
        self._client = Client(address)
        self._done = done
        self._client.send(request_bytes(path=str(done)))

    @property
    def answers(self) -> bool:
        return self._client.readable(0.3)

    @property
    def pid(self) -> int:
        """Who serves it; said at once."""
        record = self._client.read_record()
        assert record is not None
        return int(record.content.split()[-1])

    def end(self) -> int:
        """Who served it to its end."""
        self._done.touch()
        reply = self._client.read_reply()
        assert reply.ended
        return int(reply.stdout.split()[-1])

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def talk(sock_path: str, tmp_path: Path) -> Iterator[Callable[[], Talk]]:
    begun: list[Talk] = []

    def start() -> Talk:
        begun.append(Talk(sock_path, tmp_path / f"done{len(begun)}"))
        return begun[-1]

    yield start
    for each in begun:
        each.close()


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def test_ten_children_at_the_start_are_twenty_idle_and_thirty_in_all_at_most() -> None:
    found = PoolManager(start_children=10, pool_name="alias")
    assert (found._sizing.spares.min_spare, found._sizing.spares.max_spare, found.n_processes) == (10, 20, 30)
    assert found._sizing.pool == "dynamic"
    assert found.pool_name == "alias"
    assert PoolManager(max_children=3)._sizing.pool == "per-request"


def test_spare_workers_that_serve_one_request_each(pool: Pool, talk: Callable[[], Talk], tmp_path: Path) -> None:
    control = tmp_path / "run.control"
    script = pool.start(f"start_children=2, requests=1, control={str(control)!r}", 2, TALK)
    first = talk()
    pid = first.pid
    second = talk()
    other = second.pid
    assert other != pid
    found = facts(control, "--full")
    assert (found["process manager"], found["active processes"]) == ("dynamic", 2)
    assert {one["pid"] for one in found["processes"] if one["state"] == "Running"} == {pid, other}
    assert (first.end(), second.end()) == (pid, other), "a conversation is with one worker"
    wait_until(lambda: not {pid, other} & {*script.workers()}, 60, "both to leave")
    third, fourth = talk(), talk()
    assert len({third.pid, fourth.pid, pid, other}) == 4
    assert third.end() != fourth.end()
    assert script.stop(signal.SIGTERM) == 0


def test_a_worker_for_each_request_and_never_a_fourth_one(pool: Pool, talk: Callable[[], Talk]) -> None:
    """The fourth connection has no answer while three are served, and has one as soon as one of those is over."""
    script = pool.start("max_children=3", 1, TALK)
    talks = [talk() for _ in range(3)]
    pids = [each.pid for each in talks]
    assert len({*pids}) == 3
    waits = talk()
    assert not waits.answers
    assert talks[0].end() == pids[0]
    pid = waits.pid
    assert pid not in pids
    fifth = talk()
    assert not fifth.answers
    assert [each.end() for each in talks[1:]] == pids[1:]
    last = fifth.pid
    assert last not in {pid, *pids}
    assert (waits.end(), fifth.end()) == (pid, last)
    assert script.stop() == 0
