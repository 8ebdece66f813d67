"""Where the original is wrong about signals and about workers that die: ours must be right."""

from __future__ import annotations

import os
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGQUIT, SIGTERM
from typing import Callable

import pytest

from harness.process import Script, alive, open_fds, patient, wait_asleep, wait_dead, wait_until
from starter.conftest import Launch
from starter.sides import OURS, WORKER, Superdaemon, command

# -- the survival time ------------------------------------------------------------------------------------------------


def test_a_hup_does_not_shorten_the_survival_time(launch: Launch) -> None:
    begun = time.monotonic()
    daemon = launch("--path=SOCK", "--interval=2", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    daemon.wait_event(r"up 1 \d+")
    daemon.hup()
    wait_until(lambda: 1 in daemon.status(), 60)
    assert time.monotonic() - begun > 1.9
    both = daemon.wait_status(1, 2)
    assert daemon.age(both[1]) - daemon.age(both[2]) > 1.9
    daemon.file("hold").unlink()
    daemon.wait_status(2)
    assert len(daemon.wait_event(r"up \d+ \d+")) == 2
    assert daemon.end() == 0


def test_a_worker_that_dies_after_a_hup_in_its_survival_time_has_failed_to_start(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=600")
    pid = int(daemon.wait_event(r"up 1 (\d+)")[0][1])
    daemon.hup()
    daemon.script.signal(SIGKILL, pid)
    daemon.script.wait_log(rf"^new worker {pid} seems to have failed to start, exit status:9$")
    daemon.wait_event(r"up 2 \d+")
    assert daemon.status() == {}
    assert daemon.end() == 0


def test_a_failed_start_is_noticed_before_the_survival_time_is_over(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=600", words=["fail=1"])
    daemon.wait_event(r"up 2 \d+")
    assert daemon.end() == 0


def test_a_stop_does_not_wait_for_the_end_of_the_survival_time(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=600")
    daemon.wait_event(r"up 1 \d+")
    assert daemon.end() == 0


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_stop_does_not_wait_behind_the_delay_before_old_workers_are_killed(launch: Launch, number: int) -> None:
    daemon = launch("--path=SOCK", "--kill-old-delay=600")
    daemon.wait_status(1)
    daemon.hup()
    daemon.script.wait_log("^sleeping 600 secs before killing old workers$")
    daemon.wait_status(1, 2)
    assert daemon.end(number) == 0
    assert len(daemon.wait_event(r"got TERM \d \d+")) == 2


def test_a_worker_that_dies_during_the_delay_is_replaced_at_once(launch: Launch) -> None:
    """Two generations are there, and the one that serves dies: nobody waits for the delay to be over."""
    daemon = launch("--path=SOCK", "--kill-old-delay=600")
    daemon.wait_status(1)
    daemon.hup()
    daemon.script.wait_log("^sleeping 600 secs")
    daemon.script.signal(SIGKILL, daemon.status()[2])
    daemon.wait_event(r"up 3 \d+")
    assert daemon.end() == 0


def test_hups_that_arrive_during_a_change_are_merged_into_one_more(launch: Launch) -> None:
    words = ["ready=fd", "gate=DIR/gate"]
    daemon = launch("--path=SOCK", "--ready-timeout=600", words=words, prepare=lambda it: it.file("gate").touch())
    daemon.wait_status(1)
    daemon.file("gate").unlink()
    daemon.hup()
    daemon.wait_event(r"up 2 \d+")
    for _ in range(5):
        daemon.hup()
        wait_asleep(daemon.pid)  # it has acted on it, and the kernel has nothing to merge
    daemon.file("gate").touch()
    daemon.wait_status(3)
    daemon.hup()  # had another generation been due, it would be number 4 and this one number 5
    daemon.wait_status(4)
    assert daemon.end() == 0
    assert len(daemon.script.wait_log("^starting new worker")) == 4


# -- the end ----------------------------------------------------------------------------------------------------------


def _nothing_left(daemon: Superdaemon) -> bool:
    daemon.script.tree_gone()
    daemon.programs_gone()
    return not any(map(os.path.exists, (daemon.sock, daemon.file("pid"), daemon.file("status"))))


def test_a_worker_that_does_not_leave_is_killed_after_the_die_timeout(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid", "--die-timeout=1", words=["deaf"])
    daemon.wait_status(1)
    begun = time.monotonic()
    daemon.script.signal(SIGTERM)
    assert daemon.script.wait() == 1
    assert time.monotonic() - begun > 0.9
    assert _nothing_left(daemon)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_second_term_or_int_after_a_second_kills(launch: Launch, number: int) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid", "--die-timeout=0", words=["deaf"])
    daemon.wait_status(1)
    daemon.script.signal(SIGTERM)
    daemon.script.wait_log("^received TERM")
    time.sleep(1.1)  # a span in which nothing may happen
    assert alive(daemon.pid)
    daemon.script.signal(number)
    assert daemon.script.wait() == 1
    assert _nothing_left(daemon)


LONG_SECOND = """
import sys
from fcgi_procmanager.children import stop
from fcgi_procmanager.starter import start_server

stop._SAME_REQUEST = 100  # instead of a second, in which a busy test cannot be sure to send another one
folder, worker, sock = sys.argv[1:]
sys.exit(start_server(path=sock, exec=[sys.executable, "-S", worker, folder, f"hold={folder}/hold"]))
"""


def test_a_second_term_within_a_second_is_the_same_one(
    run_script: Callable[..., Script], tmp_path: Path, sock_path: str
) -> None:
    hold, events = tmp_path / "hold", tmp_path / "events"
    hold.touch()
    script = run_script(LONG_SECOND, args=[tmp_path, WORKER, sock_path])
    wait_until(lambda: events.exists() and events.read_text().startswith("up 1 "), 60)
    script.signal(SIGTERM)
    wait_until(lambda: "got TERM 1 " in events.read_text(), 60)
    for _ in range(2):
        script.signal(SIGTERM)
        wait_asleep(script.pid)  # it has acted on it
    hold.unlink()
    assert script.wait() == 0
    assert "while stopping" not in script.log()


@pytest.mark.parametrize("family", ["near", "away"])
def test_quit_ends_the_workers_and_their_children_at_once(launch: Launch, family: str) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid", "--die-timeout=0", words=["deaf", f"family={family}"])
    daemon.wait_status(1)
    daemon.hup()
    daemon.wait_event(r"child 2 \d+")
    daemon.wait_status(1, 2)
    daemon.script.signal(SIGQUIT)
    assert daemon.script.wait() == 1
    assert _nothing_left(daemon)


def test_quit_during_a_gentle_stop_ends_it_now(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid", "--die-timeout=600", words=["deaf", "family=near"])
    daemon.wait_event(r"child 1 \d+")
    daemon.wait_status(1)
    daemon.script.signal(SIGTERM)
    daemon.script.wait_log("^received TERM")
    daemon.script.signal(SIGQUIT)
    assert daemon.script.wait() == 1
    assert "killing workers that are still there" not in daemon.script.log()
    assert _nothing_left(daemon)


def test_a_hup_during_a_stop_is_ignored(launch: Launch) -> None:
    daemon = launch("--path=SOCK", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    daemon.wait_status(1)
    daemon.script.signal(SIGTERM)
    daemon.wait_event(r"got TERM 1 \d+")
    daemon.hup()
    daemon.file("hold").unlink()
    assert daemon.script.wait() == 0
    assert len(daemon.wait_event(r"up \d+ \d+")) == 1


# -- no signal is lost ------------------------------------------------------------------------------------------------


def _start_and_term(folder: Path, after: str, seconds: float) -> tuple[int, list[int]]:
    """Start one, send TERM so long after a line of its log (or after the start): its status, and who is left."""
    argv = [*command(OURS), f"--path={folder}/s", f"--pid-file={folder}/pid", f"--status-file={folder}/status"]
    with subprocess.Popen([*argv, "--", "sleep", "600"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        while after and not (lines and lines[-1].startswith(after)):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        time.sleep(seconds)
        process.send_signal(SIGTERM)
        try:
            _, rest = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            rest = "".join(lines) + "it hangs"
    workers = [int(line.split()[-1]) for line in [*lines, *rest.splitlines()] if line.startswith("starting new worker")]
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, SIGKILL)
    return process.returncode, left


def _sweep(folder: Path, count: int, after: str, longest: float) -> list[tuple[int, list[int], list[str]]]:
    chance = random.Random(4)

    def one(number: int, seconds: float) -> tuple[int, list[int], list[str]]:
        place = folder / str(number)
        place.mkdir()
        status, left = _start_and_term(place, after, seconds)
        return status, left, sorted(os.listdir(place))

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, range(count), [chance.uniform(0, longest) for _ in range(count)]))


def test_a_term_between_the_fork_and_the_program_is_not_lost(sock_path: str) -> None:
    """The original hangs in some of these, for ever."""
    ends = _sweep(Path(sock_path).parent, 80, "starting new worker", 0.03)
    _clear(Path(sock_path).parent)
    assert [end for end in ends if end != (0, [], [])] == []


def test_a_term_at_any_moment_of_the_start_leaves_nothing(sock_path: str) -> None:
    """Before the superdaemon has taken over its signals, TERM ends it as it does any program."""
    ends = _sweep(Path(sock_path).parent, 50, "", 0.2)
    _clear(Path(sock_path).parent)
    assert [end for end in ends if end not in ((0, [], []), (-SIGTERM, [], []))] == []


def _clear(folder: Path) -> None:
    for place in folder.iterdir():
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


# -- workers that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--interval=60",), ("--interval=0",)])
def test_failing_workers_are_started_again_ever_more_slowly(launch: Launch, options: tuple[str, ...]) -> None:
    """At once, after 0.1 s, 0.2 s, 0.4 s, 0.8 s, 1.6 s... (the original: 550 times in 5 s), and a HUP tries at once."""
    begun = time.monotonic()
    daemon = launch("--path=SOCK", *options, words=["failing=DIR/broken"], prepare=lambda it: it.file("broken").touch())
    daemon.wait_event("failing 6 .*")
    assert 1.5 < time.monotonic() - begun < patient(10)
    daemon.wait_event("failing 8 .*")
    assert time.monotonic() - begun > 1.5 + 1.6 + 3.2
    daemon.file("broken").unlink()
    daemon.hup()
    daemon.wait_event(r"up \d+ \d+", timeout=patient(10))
    assert daemon.end() == 0


def test_a_worker_that_dies_soon_after_its_acceptance_counts_as_a_failure(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=0")
    begun = time.monotonic()
    for number in range(1, 7):
        daemon.wait_event(rf"up {number} \d+")
        daemon.ask(f"exit {number}")
    assert time.monotonic() - begun > 1.3
    assert daemon.end() == 0


def test_the_superdaemon_is_idle_between_two_attempts(launch: Launch) -> None:
    daemon = launch("--path=SOCK", words=["fail=all"])
    daemon.wait_event("failing 5 .*")
    assert daemon.end() == 0


def test_a_stop_finds_no_worker_while_none_can_be_started(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--pid-file=DIR/pid", program=["/nonexistent/program"])
    daemon.script.wait_log("seems to have failed to start", 4)
    daemon.script.signal(SIGTERM)
    assert daemon.script.wait() == 0
    assert _nothing_left(daemon)


# Signals 32 and 33, which its posix_spawn ignores in what it starts: Python 3.13 uses it.
OF_THE_C_LIBRARY = 0x180000000


def test_the_program_has_the_default_actions_of_all_signals(launch: Launch) -> None:
    show = "grep -E 'Sig(Ign|Blk)' /proc/self/status; exec sleep 600"
    daemon = launch("--path=SOCK", program=["sh", "-c", show])
    masks = {
        name: int(mask, 16) & ~OF_THE_C_LIBRARY for name, mask in (line.split() for line in daemon.script.lines(2))
    }
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}, f"SIGPIPE is bit {SIGPIPE - 1}"
    assert daemon.end() == 0


def test_a_superdaemon_that_is_killed_takes_no_socket_with_it(launch: Launch, sock_path: str) -> None:
    """Another one can be started where it was, its files notwithstanding."""
    first = launch("--path=SOCK", "--pid-file=DIR/pid")
    worker = first.wait_status(1)[1]
    first.script.signal(SIGKILL)
    first.script.wait()
    os.kill(worker, SIGKILL)
    wait_dead(worker)
    second = launch(f"--path={sock_path}", f"--pid-file={first.file('pid')}")
    second.wait_status(1)
    assert second.ask("echo me", sock_path) == "echo me"
    assert second.end() == 0


def test_descriptors_do_not_leak_over_many_generations(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--interval=0", "--pid-file=DIR/pid", "--log-file=DIR/log")
    daemon.wait_status(1)
    daemon.wait_event(r"up 1 \d+")
    wait_asleep(daemon.pid)
    before, inherited = open_fds(daemon.pid), daemon.ask("inherited")
    for number in range(2, 22):
        daemon.hup()
        daemon.wait_event(rf"up {number} \d+")
        daemon.wait_status(number)
    wait_until(lambda: open_fds(daemon.pid) == before, 60, lambda: f"{before}, not {open_fds(daemon.pid)}")
    assert daemon.ask("inherited") == inherited
    daemon.script.signal(SIGHUP)
    assert daemon.end() == 0
