"""The life cycles, cell by cell, and how an exit status is read."""

from __future__ import annotations

import itertools
import signal

import pytest

from fcgi_procmanager.basics import states
from fcgi_procmanager.basics.exits import Exit
from fcgi_procmanager.basics.states import IllegalEvent, ManagerEvent, ManagerState, Role, WorkerEvent, WorkerState

# A row per state, a column per event in the order of its enumeration; "-" is an illegal event.
MANAGER = {
    "idle": "starting - - - -",
    "starting": "- running stopping killing idle",
    "running": "- running stopping killing idle",
    "stopping": "- stopping - killing idle",
    "killing": "- killing - killing idle",
}
WORKER = {
    "spawned": "ready retiring killed",
    "ready": "- retiring killed",
    "retiring": "retiring retiring killed",
    "killed": "killed killed killed",
}
MANAGER_CELLS = list(itertools.product(ManagerState, ManagerEvent))
WORKER_CELLS = list(itertools.product(WorkerState, WorkerEvent))


def expected(table: dict[str, str], state: str, column: int) -> str | None:
    cell = table[state].split()[column]
    return None if cell == "-" else cell


@pytest.mark.parametrize(("state", "event"), MANAGER_CELLS)
def test_every_cell_of_the_manager(state: ManagerState, event: ManagerEvent) -> None:
    life = states.manager_life()
    life.state = state
    check(life, event, expected(MANAGER, state.value, list(ManagerEvent).index(event)))


@pytest.mark.parametrize(("state", "event"), WORKER_CELLS)
def test_every_cell_of_a_worker(state: WorkerState, event: WorkerEvent) -> None:
    life = states.worker_life()
    life.state = state
    check(life, event, expected(WORKER, state.value, list(WorkerEvent).index(event)))


def check(life: states.LifeCycle, event: object, wanted: str | None) -> None:
    before = life.state
    if wanted is None:
        with pytest.raises(IllegalEvent, match=str(event)):
            life.on(event)
        assert life.state is before
    else:
        assert life.on(event).value == wanted
        assert life.state.value == wanted


def test_a_stop_only_goes_up() -> None:
    """No event but the end leads from killing anywhere, nor from stopping back to running."""
    for state, after in (
        (ManagerState.STOPPING, {"stopping", "killing", "idle"}),
        (ManagerState.KILLING, {"killing", "idle"}),
    ):
        assert set(MANAGER[state.value].split()) - {"-"} == after


def test_lives_begin_where_they_should() -> None:
    assert states.manager_life().state is ManagerState.IDLE
    assert states.worker_life().state is WorkerState.SPAWNED
    assert [role.value for role in Role] == ["manager", "server"]


@pytest.mark.parametrize(
    ("raw", "words", "code", "number", "clean"),
    [
        (0, "0", 0, None, True),
        (3 << 8, "3", 3, None, False),
        (255 << 8, "255", 255, None, False),
        (int(signal.SIGKILL), "137 (SIGKILL)", None, 9, False),
        (int(signal.SIGSEGV) | 0x80, "139 (SIGSEGV)", None, 11, False),  # with a core
        (63, "191 (signal 63)", None, 63, False),
        (None, "unknown", None, None, False),
    ],
)
def test_an_exit_in_words(raw: int | None, words: str, code: int | None, number: int | None, clean: bool) -> None:
    exit = Exit(raw)
    assert (str(exit), exit.code, exit.signal, exit.clean) == (words, code, number, clean)
