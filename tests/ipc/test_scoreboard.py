"""The scoreboard: fixed slots in memory that is shared over a fork, one writer each, and a reader that believes nothing."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from typing import Callable

import pytest

from fcgi_procmanager.ipc import scoreboard
from fcgi_procmanager.ipc.scoreboard import (
    BUSY,
    FREE,
    IDLE,
    LEAVING,
    LONG,
    READING,
    STARTING,
    Scoreboard,
    SharedSlot,
    Slot,
)


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    board = Scoreboard(10)
    yield board
    board.close()


def given(board: Scoreboard) -> Slot:
    slot = board.give(0)
    assert slot is not None
    return slot


def in_child(act: Callable[[], object]) -> int:
    """Runs `act` in a child and returns its pid once it has ended."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_ten_slots_are_given_and_the_eleventh_is_none(board: Scoreboard) -> None:
    slots = [board.give(3) for _ in range(10)]
    assert [slot.number for slot in slots if slot is not None] == list(range(10))
    assert board.give(3) is None
    last = board.read(9)
    assert last is not None
    assert (last.state, last.generation) == (STARTING, 3)


def test_what_children_write_is_seen_by_the_parent(board: Scoreboard) -> None:
    slots = [given(board) for _ in range(10)]
    pids = []
    for slot in slots:

        def act(slot: Slot = slot) -> None:
            slot.take()
            slot.ready()
            slot.begin("GET", f"/{slot.number}")

        pids.append(in_child(act))
    assert board.states == BUSY * 10
    entries = board.entries()
    assert [entry.pid for entry in entries] == pids
    assert [entry.uri for entry in entries] == [f"/{number}" for number in range(10)]
    for slot in slots:
        board.take_back(slot.number)
    assert board.states == FREE * 10
    assert board.entries() == []


def test_a_request_from_its_beginning_to_its_end(board: Scoreboard) -> None:
    slot = given(board)
    slot.take()
    slot.ready()
    assert board.states[:1] == IDLE
    slot.reading()
    assert board.states[:1] == READING
    slot.begin("POST", "/a?b=c")
    entry = board.read(0)
    assert entry is not None
    assert (entry.state, entry.method, entry.uri, entry.requests) == (BUSY, "POST", "/a?b=c", 1)
    assert entry.in_request
    assert entry.began_at >= entry.given_at > 0
    slot.long()
    assert board.states[:1] == LONG
    slot.end()
    entry = board.read(0)
    assert entry is not None
    assert (entry.state, entry.in_request) == (IDLE, False)
    assert entry.idle_since == entry.ended_at >= entry.began_at


def test_one_that_is_leaving_says_so_when_it_has_nothing_in_hand(board: Scoreboard) -> None:
    slot = given(board)
    slot.ready()
    slot.begin("GET", "/")
    slot.leave()
    assert board.states[:1] == BUSY
    slot.end()
    assert board.states[:1] == LEAVING


def test_what_is_no_request_cannot_take_long(board: Scoreboard) -> None:
    slot = given(board)
    slot.ready()
    slot.long()
    assert board.states[:1] == IDLE


def test_a_slot_outlives_its_worker_and_is_clean_for_the_next(board: Scoreboard) -> None:
    slot = given(board)

    def die() -> None:
        slot.take()
        slot.ready()
        slot.begin("GET", "/deadly")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(die)
    entry = board.take_back(slot.number)
    assert entry is not None
    assert (entry.pid, entry.in_request, entry.uri) == (pid, True, "/deadly")
    assert board.take_back(slot.number) is None
    again = given(board)
    assert again.number == slot.number
    entry = board.read(again.number)
    assert entry is not None
    assert (entry.pid, entry.requests, entry.uri, entry.state) == (0, 0, "", STARTING)


def test_a_worker_that_dies_at_any_moment_leaves_something_that_can_be_read(board: Scoreboard) -> None:
    """KILL while it writes as fast as it can, 60 times."""
    rng = random.Random(1)
    for _ in range(60):
        slot = given(board)
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            slot.take()
            slot.ready()
            os.write(tell, b"x")
            while True:
                slot.begin("GET", "/a" * 100)
                slot.end()
        os.read(ready, 1)
        threading.Event().wait(rng.random() / 500)  # the moment of the signal
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
        entry = board.take_back(slot.number)
        assert entry is not None
        assert entry.pid == pid
        assert entry.state in (IDLE, BUSY)
        assert ("/a" * 100).startswith(entry.uri)


def test_a_reader_beside_a_writer_never_fails(board: Scoreboard) -> None:
    slot = given(board)
    slot.take()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"x")
        while True:
            for uri in ("/" + "a" * 90, "/" + "b" * 200, "/"):
                slot.begin("GET", uri)
                slot.end()
    os.read(ready, 1)
    try:
        seen = [board.read(0) for _ in range(20000)]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)
    counts = [entry.requests for entry in seen if entry is not None]
    assert counts == sorted(counts)


def test_nonsense_is_read_as_nothing(board: Scoreboard) -> None:
    rng = random.Random(2)
    slot = given(board)
    memory, start = board._map, board._slots_at
    for _ in range(500):
        memory[start : start + scoreboard._SIZE] = rng.randbytes(scoreboard._SIZE)
        memory[64] = rng.randrange(256)
        entry = board.read(slot.number)
        if entry is not None:
            assert entry.state in scoreboard.STATES
            assert entry.began_at >= 0
            assert entry.ended_at >= 0
            assert entry.cpu >= 0
            assert isinstance(entry.uri, str)


@pytest.mark.parametrize("uri", ["/" + "x" * 5000, "/\udcff\u4e2d", "/\0tail", ""])
def test_what_does_not_fit_is_cut(board: Scoreboard, uri: str) -> None:
    slot = given(board)
    slot.begin("M" * 99, uri)
    entry = board.read(slot.number)
    assert entry is not None
    assert entry.method == "M" * 16
    assert len(entry.uri) <= 256


def test_who_becomes_busy_tells_when_too_few_are_idle(board: Scoreboard) -> None:
    slots = [given(board) for _ in range(4)]
    told = []
    for slot in slots:
        slot.ready()
        slot.tell = lambda slot=slot: told.append(slot.number)
    slots[0].begin("GET", "/")
    assert told == [], "the manager has not asked"
    slots[0].end()
    board.want_idle(2)
    slots[0].begin("GET", "/")
    slots[1].begin("GET", "/")
    assert told == [], "two are idle, as is wanted"
    slots[2].begin("GET", "/")
    assert told == [2]
    board.want_idle(0)
    slots[3].begin("GET", "/")
    assert told == [2]


def test_the_share_of_a_cpu_is_that_of_the_requests(board: Scoreboard) -> None:
    slot = given(board)
    slot.ready()
    slot.begin("GET", "/")
    before = os.times()
    while sum(os.times()[:2]) - sum(before[:2]) < 0.15:
        pass
    slot.end()
    entry = board.read(slot.number)
    assert entry is not None
    assert 0 < entry.cpu < 1.3
    threading.Event().wait(0.11)  # a request that does nothing
    slot.begin("GET", "/")
    threading.Event().wait(0.11)
    slot.end()
    entry = board.read(slot.number)
    assert entry is not None
    assert entry.cpu < 0.5


def test_threads_share_a_slot(board: Scoreboard) -> None:
    slot = SharedSlot(given(board))
    slot.ready()
    slot.begin("GET", "/1")
    slot.begin("GET", "/2")
    slot.end()
    assert board.states[:1] == BUSY
    slot.rest()
    slot.reading()
    assert board.states[:1] == BUSY, "another thread is in a request"
    slot.end()
    assert board.states[:1] == IDLE
    threads = [
        threading.Thread(target=lambda: [(slot.begin("GET", "/"), slot.end()) for _ in range(2000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = board.read(slot.number)
    assert entry is not None
    assert entry.requests == 2 + 8000
    assert entry.state == IDLE


def test_it_goes_over_an_exec_by_its_descriptor(board: Scoreboard) -> None:
    if board.descriptor < 0:
        pytest.skip("shared memory without a descriptor")
    slot = given(board)
    slot.take()
    slot.ready()
    again = Scoreboard(0, os.dup(board.descriptor))
    try:
        assert again.slots == board.slots
        entry = again.read(slot.number)
        assert entry is not None
        assert entry.pid == os.getpid()
        given_next = again.give(1)
        assert given_next is not None
        assert given_next.number != slot.number
    finally:
        again.close()


@pytest.mark.parametrize("slots", [1, 2, 63, 64, 65, 1000, 12800])
def test_the_number_of_slots_is_found_again_from_the_size(slots: int) -> None:
    board = Scoreboard(slots)
    try:
        assert len(board.states) == slots
        if board.descriptor >= 0:
            again = Scoreboard(0, os.dup(board.descriptor))
            assert again.slots == slots
            again.close()
    finally:
        board.close()


def test_closing_twice_is_allowed() -> None:
    board = Scoreboard(3)
    board.close()
    board.close()
