"""Starting, stopping, replacing and doing nothing: times, memory and wake-ups of pools, beside Perl's where it is installed."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
from common import APPLICATIONS, Aim, Failed, Program, Stage, figure, progress, ratios

OURS, PERL = "ours", "perl"
OF_AGE = 1.2  # seconds; a worker that is killed younger is taken for a failure, whose replacement may have to wait
STOP_PATIENCE = 60
MIB = 1024


class Pool:
    """A manager with its workers, from whose output it is known when each is ready."""

    def __init__(self, stage: Stage, kind: str, workers: int, standby: int = 0) -> None:
        script = APPLICATIONS / ("pool.py" if kind == OURS else "pool.pl")
        interpreter = sys.executable if kind == OURS else common.find("perl")
        self.kind, self.workers, self._stage = kind, workers, stage
        self.ready: dict[int, float] = {}  # of living workers, when they said so, oldest first
        place = stage.place(f"{kind}-{workers}-{len(os.listdir(stage.directory))}")
        began = time.monotonic()
        self.program: Program = stage.start(
            place.name, [interpreter, script, place / "sock", workers, *([standby] if standby else [])], talks=True
        )
        for _ in range(workers):
            self.next_ready()
        self.start_time = time.monotonic() - began

    def next_ready(self) -> float:
        """Wait for the next worker that is ready; when that was."""
        pid = int(self.program.line())
        self.ready[pid] = now = time.monotonic()
        return now

    def told_to_leave(self) -> float:
        """Seconds from TERM to an idle worker to its end. Its replacement is waited for."""
        pid = self._oldest()
        gone = os.pidfd_open(pid)
        try:
            began = time.monotonic()
            os.kill(pid, signal.SIGTERM)
            if not select.select([gone], [], [], 10)[0]:
                os.kill(pid, signal.SIGKILL)  # it has lost the signal
                return float("inf")
            return time.monotonic() - began
        finally:
            os.close(gone)
            self.next_ready()

    def cpu_of_leaving(self) -> float:
        """Seconds of CPU that an idle worker needs to end. The manager is held meanwhile, and what is left is looked at."""
        pid = self._oldest()
        gone = os.pidfd_open(pid)
        self.program.process.send_signal(signal.SIGSTOP)
        try:
            before = common.cpu_exactly(pid)
            os.kill(pid, signal.SIGTERM)
            if not select.select([gone], [], [], 10)[0]:
                os.kill(pid, signal.SIGKILL)
                return float("inf")
            return common.cpu_exactly(pid) - before
        finally:
            os.close(gone)
            self.program.process.send_signal(signal.SIGCONT)
            self.next_ready()

    def killed(self) -> float:
        """Seconds from SIGKILL to a worker until its replacement is ready."""
        pid = self._oldest(OF_AGE)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return self.next_ready() - began

    def stop(self) -> float:
        """Seconds from TERM to the manager until it is gone, and with it all workers."""
        began = time.monotonic()
        self.program.process.send_signal(signal.SIGTERM)
        try:
            self.program.process.wait(STOP_PATIENCE)
            return time.monotonic() - began
        except common.subprocess.TimeoutExpired:
            return float("inf")
        finally:
            self.program.stop()
            self._stage.programs.remove(self.program)

    def _oldest(self, age: float = 0) -> int:
        pid, since = next(iter(self.ready.items()))
        del self.ready[pid]
        time.sleep(max(0.02, since + age - time.monotonic()))
        return pid


def settle(pid: int) -> None:
    """Wait until a process has been asleep for a while."""
    seen = -1
    while (now := common.switches(pid)) != seen:
        seen = now
        time.sleep(0.2)


class Lifecycle:
    def __init__(self, stage: Stage, kinds: Sequence[str], quick: bool, sizes: Sequence[int]) -> None:
        self.stage, self.kinds, self.quick, self.sizes = stage, kinds, quick, sizes
        self.times: dict[str, dict[str, list[float]]] = {}
        self.idle: dict[str, dict[str, Any]] = {}
        self.pools: dict[str, dict[str, dict[str, Any]]] = {}

    def leave_and_replace(self) -> None:
        """One worker of four is told to leave, or killed; the kinds take turns, and so does a pool of ours with a standby."""
        pools = {kind: Pool(self.stage, kind, 4) for kind in self.kinds}
        with_standby = Pool(self.stage, OURS, 4, standby=1)
        self.times["replace_standby"] = {OURS: []}
        measure = {
            "leave": (Pool.told_to_leave, 200),
            "leave_cpu": (Pool.cpu_of_leaving, 50),
            "replace": (Pool.killed, 100),
        }
        for what, (method, count) in measure.items():
            self.times[what] = {kind: [] for kind in self.kinds}
            for _ in range(count // 10 if self.quick else count):
                for kind, pool in pools.items():
                    self.times[what][kind].append(method(pool) * 1000)
                if what == "replace":
                    self.times["replace_standby"][OURS].append(method(with_standby) * 1000)
            for kind in self.kinds:
                progress(f"{what}: {kind}: {figure(self.times[what][kind]).text()} ms")
        progress(f"replace, with a standby: {figure(self.times['replace_standby'][OURS]).text()} ms")
        for pool in (*pools.values(), with_standby):
            pool.stop()

    def do_nothing(self) -> None:
        """Wake-ups of idle pools of four."""
        seconds = 5
        pools = {kind: Pool(self.stage, kind, 4) for kind in self.kinds}
        looked = {kind: [pool.program.pid, *pool.ready] for kind, pool in pools.items()}
        for pids in looked.values():
            for pid in pids:
                settle(pid)
        before = {kind: [common.switches(pid) for pid in pids] for kind, pids in looked.items()}
        time.sleep(seconds)
        for kind, pids in looked.items():
            woken = [common.switches(pid) - was for pid, was in zip(pids, before[kind])]
            self.idle[kind] = {"seconds": seconds, "manager": woken[0], "workers": sum(woken[1:])}
            progress(f"idle: {kind}: manager {woken[0]}, workers {sum(woken[1:])} wake-ups in {seconds} s")
            pools[kind].stop()

    def grow(self) -> None:
        """Pools of several sizes, one at a time."""
        for size in self.sizes:
            for kind in self.kinds:
                self.pools.setdefault(str(size), {})[kind] = found = self._one_size(kind, size)
                progress(f"{size} workers: {kind}: started in {found['start']:.2f} s, stopped in {found['stop']:.2f} s")

    def _one_size(self, kind: str, size: int) -> dict[str, Any]:
        pool = Pool(self.stage, kind, size)
        manager = pool.program.pid
        settle(manager)
        step = max(1, size // 50)
        looked = list(pool.ready)[::step]
        memory = [common.pss(pid) / MIB for pid in looked]
        begun = [common.cpu_exactly(pid) * 1000 for pid in looked]
        forked = common.cpu_exactly(manager)
        window = 2 if self.quick else 10
        before = common.cpu_exactly(manager)
        time.sleep(window)
        used = common.cpu_exactly(manager) - before
        count = 0 if size == 1 else 5 if self.quick else 30
        replaced = [pool.killed() * 1000 for _ in range(count)]
        return {
            "start": pool.start_time,
            "start_cpu_ms": figure(begun).median,
            "manager_start_cpu": forked,
            "pss": figure(memory).median,
            "manager_cpu_us": used / window * 1e6,
            "replace": replaced,
            "stop": pool.stop(),
        }


def main() -> None:
    parser = common.options(__doc__ or "")
    parser.add_argument("--workers", default="1,2,10,100,1000", metavar="N,N", help="sizes of pools; %(default)s")
    given = parser.parse_args()
    sizes = [int(size) for size in given.workers.split(",")]
    if not hasattr(os, "pidfd_open"):
        raise Failed("this needs Linux and its pidfd_open")
    _raise_limit(max(sizes) + 200)
    kinds = [OURS]
    if common.perl_version("FCGI") and common.perl_version("FCGI::ProcManager"):
        kinds.append(PERL)
    else:
        progress("skipped: perl: FCGI and FCGI::ProcManager of Perl are not installed")
    with Stage() as stage:
        measured = Lifecycle(stage, kinds, given.quick, sizes)
        measured.leave_and_replace()
        measured.do_nothing()
        measured.grow()
    if given.json:
        kept = {"machine": common.machine(), "times": measured.times, "idle": measured.idle, "pools": measured.pools}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    common.publish(given.page, "lifecycle", common.machine() + ".\n\n" + _times_table(measured))
    common.publish(given.page, "pools", _pools_table(measured))
    common.publish(given.page, "lifecycle aims", Aim.table(_aims(measured)))


def _raise_limit(processes: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and soft < processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))


def _times_table(measured: Lifecycle) -> str:
    rows = []
    named = {
        "leave": "TERM to an idle worker until its end, ms",
        "leave_cpu": "CPU that it uses to end, ms",
        "replace": "SIGKILL until the next is ready, ms",
        "replace_standby": "the same with a standby, ms",
    }
    for what, words in named.items():
        times = measured.times[what]
        ratio = ratios(times[OURS], times[PERL]).text() if PERL in times else "-"
        rows.append((words, *(figure(times[kind]).text() if kind in times else "-" for kind in measured.kinds), ratio))
    for who in ("manager", "workers"):
        cells = (f"{measured.idle[kind][who]}" for kind in measured.kinds)
        rows.append((f"wake-ups of the idle {who} in {measured.idle[OURS]['seconds']} s", *cells, "-"))
    return common.table(("what (a pool of 4)", *measured.kinds, "ratio"), rows)


def _pools_table(measured: Lifecycle) -> str:
    rows = []
    for size, by_kind in measured.pools.items():
        for kind, found in by_kind.items():
            replaced = figure(found["replace"]).text() if found["replace"] else "-"
            started = (f"{found['start']:.2f}", f"{found['manager_start_cpu']:.2f}", f"{found['start_cpu_ms']:.2f}")
            idle = (f"{found['pss']:.2f}", f"{found['manager_cpu_us']:.0f}")
            rows.append((size, kind, *started, *idle, replaced, f"{found['stop']:.2f}"))
    start = ("start, s", "CPU of the manager, s", "CPU of a worker, ms")
    idle = ("PSS of a worker, MiB", "idle manager's CPU, µs/s")
    head = ("workers", "", *start, *idle, "killed to replaced, ms", "stop, s")
    return common.table(head, rows)


def _aims(measured: Lifecycle) -> list[Aim]:
    leave = figure(measured.times["leave"][OURS])
    aims = [Aim("an idle worker told to leave, ms", leave.text(), "at most 10", leave.median <= 10)]
    times = measured.times["replace"]
    replace = figure(times[OURS])
    aims.append(Aim("a killed worker replaced, ms", replace.text(), "under 3", replace.median < 3))
    standby = figure(measured.times["replace_standby"][OURS])
    aims.append(Aim("the same with a standby, ms", standby.text(), "under 1.5", standby.median < 1.5))
    if PERL in times:
        ratio = ratios(times[OURS], times[PERL])
        aims.append(Aim("the same, ours / Perl", ratio.text(), "at most 2", ratio.median <= 2))
    woken = measured.idle[OURS]["manager"] + measured.idle[OURS]["workers"]
    aims.append(Aim("wake-ups of an idle pool", str(woken), "0", woken == 0))
    pools = {int(size): by_kind[OURS] for size, by_kind in measured.pools.items()}
    most = pools.get(1000)
    if most:
        aims.append(Aim("1,000 workers started, s", f"{most['start']:.2f}", "under 5", most["start"] < 5))
        aims.append(Aim("PSS of one of 1,000, MiB", f"{most['pss']:.2f}", "under 1.5", most["pss"] < 1.5))
        cpu = most["manager_cpu_us"]
        aims.append(Aim("CPU of the manager of 1,000 idle workers, µs/s", f"{cpu:.0f}", "none", cpu < 1))
        if 2 in pools:
            few, many = figure(pools[2]["replace"]), figure(most["replace"])
            text = f"{many.median:.2f} and {few.median:.2f} ms"
            aims.append(Aim("one death among 1,000 and among 2", text, "the same", many.median <= few.median * 1.25))
    return aims


if __name__ == "__main__":
    common.run(main)
