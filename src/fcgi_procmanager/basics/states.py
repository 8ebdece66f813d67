"""Roles, and the two life cycles: of a manager and of one worker as its manager sees it.

The law: everything that changes a state is an event in one of these tables. An event that has no cell is a defect of the
caller: it raises and changes nothing. The tables know nothing of processes, signals or time.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Generic, TypeVar


class Role(str, enum.Enum):
    """What this process is. The values are the originals' words, and those of the log lines."""

    MANAGER = "manager"
    SERVER = "server"

    def __str__(self) -> str:
        return self.value


PLAIN, ROLLING = "plain", "rolling"  # how a pool is reloaded: all leave at once; or a new one first


class ManagerState(enum.Enum):
    IDLE = "idle"  # made, or ended: no worker, no handler, no file
    STARTING = "starting"  # prepared; no worker has become ready yet
    RUNNING = "running"  # at least one worker has become ready
    STOPPING = "stopping"  # every worker has been asked to leave
    KILLING = "killing"  # the time is up, or somebody insisted: KILL


class ManagerEvent(enum.Enum):
    START = "start"
    READY = "ready"  # a worker announced that it can serve
    STOP = "stop"
    FORCE = "force"  # the deadline passed, a second TERM, or QUIT
    END = "end"


class WorkerState(enum.Enum):
    SPAWNED = "spawned"  # forked; not yet able to serve
    READY = "ready"  # announced by the worker itself, never inferred from its age
    RETIRING = "retiring"  # asked to leave; answers what it has accepted
    KILLED = "killed"  # sent KILL; to be reaped


class WorkerEvent(enum.Enum):
    READY = "ready"
    RETIRE = "retire"
    KILL = "kill"


_MANAGER_TABLE: Mapping[tuple[ManagerState, ManagerEvent], ManagerState] = {
    (ManagerState.IDLE, ManagerEvent.START): ManagerState.STARTING,
    (ManagerState.STARTING, ManagerEvent.READY): ManagerState.RUNNING,
    (ManagerState.STARTING, ManagerEvent.STOP): ManagerState.STOPPING,
    (ManagerState.STARTING, ManagerEvent.FORCE): ManagerState.KILLING,
    (ManagerState.STARTING, ManagerEvent.END): ManagerState.IDLE,
    (ManagerState.RUNNING, ManagerEvent.READY): ManagerState.RUNNING,
    (ManagerState.RUNNING, ManagerEvent.STOP): ManagerState.STOPPING,
    (ManagerState.RUNNING, ManagerEvent.FORCE): ManagerState.KILLING,
    (ManagerState.RUNNING, ManagerEvent.END): ManagerState.IDLE,
    (ManagerState.STOPPING, ManagerEvent.READY): ManagerState.STOPPING,
    (ManagerState.STOPPING, ManagerEvent.FORCE): ManagerState.KILLING,
    (ManagerState.STOPPING, ManagerEvent.END): ManagerState.IDLE,
    (ManagerState.KILLING, ManagerEvent.READY): ManagerState.KILLING,
    (ManagerState.KILLING, ManagerEvent.FORCE): ManagerState.KILLING,
    (ManagerState.KILLING, ManagerEvent.END): ManagerState.IDLE,
}

_WORKER_TABLE: Mapping[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.SPAWNED, WorkerEvent.READY): WorkerState.READY,
    (WorkerState.SPAWNED, WorkerEvent.RETIRE): WorkerState.RETIRING,
    (WorkerState.SPAWNED, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.READY, WorkerEvent.RETIRE): WorkerState.RETIRING,
    (WorkerState.READY, WorkerEvent.KILL): WorkerState.KILLED,
    # A worker that was still booting when it was asked to leave may announce itself before it looks: not an error.
    (WorkerState.RETIRING, WorkerEvent.READY): WorkerState.RETIRING,
    (WorkerState.RETIRING, WorkerEvent.RETIRE): WorkerState.RETIRING,
    (WorkerState.RETIRING, WorkerEvent.KILL): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.READY): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.RETIRE): WorkerState.KILLED,
    (WorkerState.KILLED, WorkerEvent.KILL): WorkerState.KILLED,
}

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


class IllegalEvent(RuntimeError):
    """A defect of this package: an event came that the table has no cell for. Nothing was changed."""


class LifeCycle(Generic[S, E]):
    """One current state, moved only by events of its table."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Mapping[tuple[S, E], S], state: S) -> None:
        self._table = table
        self.state: S = state

    def on(self, event: E) -> S:
        """Move by `event` and return the new state. Raises `IllegalEvent` where the table has no cell."""
        try:
            self.state = self._table[self.state, event]
        except KeyError:
            raise IllegalEvent(f"{event} while {self.state}") from None
        return self.state


def manager_life() -> LifeCycle[ManagerState, ManagerEvent]:
    return LifeCycle(_MANAGER_TABLE, ManagerState.IDLE)


def worker_life() -> LifeCycle[WorkerState, WorkerEvent]:
    return LifeCycle(_WORKER_TABLE, WorkerState.SPAWNED)
