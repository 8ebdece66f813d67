"""Perl and Python side by side: each case plays the same script on FCGI::ProcManager 0.28, FCGI::Engine 0.22 or Plack and
on ours, with the same signals and requests, and compares what is seen of the two line by line.

What is compared: the log of each process (pids replaced by `*`), the return code, and the facts that the case notes: the
PID file, process titles, replies. Processes run side by side, so the order of lines of different processes means
nothing, and neither does that of workers that start and end together: those lines are sorted.

Every difference is listed at its case: what only Perl says, what only ours says, and the reason (P1 to P24 are known
faults of the original, docs/PORTING.md). Any other fails, and so does one that is listed but not seen.
"""

from __future__ import annotations

import difflib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM

import pytest

from harness.process import Overdue, alive, cmdline, sigcatch, wait_until
from harness.tools import require_perl
from perl.sides import CASES, Play, Stage, case, differs, staged, started

MODULES = {"app": "FCGI::ProcManager", "engine": "FCGI::Engine::ProcManager", "plack": "Plack::Handler::FCGI"}
MORE_MODULES = {"maxrequests": "FCGI::ProcManager::MaxRequests", "sizecheck_num_requests": "Linux::Pid"}

RAW = "the status is decoded: a person reads 3 and 137 (SIGKILL), not a 16-bit word"
ORPHANS = "P15: a worker notices at once, and also while idle, that its manager is gone"
FILE_LAST = "P8: the PID file goes last: while it is there, somebody serves"
CONTROL_C = "INT comes from a terminal to the manager as well, which stops its workers in order"
HELD = "P8: a PID file that a living process holds is refused; Perl writes over it and removes it at its end"
UNDONE = "what was done for a pool that does not come about is undone"
SINGLE = "a single process is left alone: Perl gives it handlers after its first request, which then swallow a TERM"


# -- FCGI::ProcManager: starting --------------------------------------------------------------------------------------


@case("app", "object", "n_processes=2", "pid_fname=DIR/app.pid")
def start(play: Play) -> None:
    play.ready(2)
    play.note_titles()
    play.note_pid_file("while serving")
    play.note(*play.script.lines(2))
    play.note("its own worker answers:", int(play.ask("pid")) in play.workers)
    play.end()
    play.note_pid_file("at the end")


@case("app", "functions", "n_processes=2", "pid_fname=DIR/app.pid", "pm_title=my app")
def default_instance(play: Play) -> None:
    start(play)


@case("app", "class", "n_processes=1")
@differs(
    "", "server: hook pm_pre_dispatch", "the functions reach the overrides of a replaced class; Perl's go past them"
)
@differs("", "server: hook pm_post_dispatch", "the same")
def replaced_default_class(play: Play) -> None:
    play.ready()
    play.ask("pid")
    play.end()


@case("app", "hooked", "n_processes=1")
def hooks(play: Play) -> None:
    play.ready()
    play.ask("pid")
    play.ask("pid")
    play.end()


@case("app", "object", "n_processes=0", "pid_fname=DIR/app.pid")
@differs("fact: return code 0", "fact: return code -15", SINGLE)
@differs("fact: TERM handled after a request: True", "fact: TERM handled after a request: False", SINGLE)
def n_0(play: Play) -> None:
    play.note(play.script.line())
    play.note("TERM handled:", SIGTERM in sigcatch(play.script.pid))
    play.note("it answers itself:", int(play.ask("pid")) == play.script.pid, "workers", play.workers)
    play.note("TERM handled after a request:", SIGTERM in sigcatch(play.script.pid))
    play.note_pid_file("while serving")
    play.end()


@case("app", "object", "n_processes=-1", "pid_fname=DIR/app.pid")
@differs("fact: return code 0", "fact: return code 1", "P12: it was taken for a stop that went well")
@differs("manager: initialized", "", "P12")
@differs("manager: dying:", "", "P12")
@differs("", "other: fcgi_procmanager.errors.ConfigError: n_processes must not be negative: -1", "P12")
def n_negative(play: Play) -> None:
    play.wait()
    play.note_pid_file("at the end")


@case("app", "object", "n_processes=3", "start_delay=1")
def start_delay(play: Play) -> None:
    play.ready(3)
    first, second, third = sorted(map(started, play.workers))
    play.note("a second apart:", second - first >= 0.98, third - second >= 0.98)
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=/nonexistent/app.pid")
@differs(
    "manager: unlink: /nonexistent/app.pid: No such file or directory", "", "P8: what was never written is not removed"
)
def unwritable_pid_file(play: Play) -> None:
    play.ready()
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=DIR")
@differs("manager: unlink: DIR: Is a directory", "", "P8: what was never written is not removed")
def pid_file_is_a_directory(play: Play) -> None:
    play.ready()
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=DIR/app.pid", "LIVING")
@differs("fact: it starts: True", "fact: it starts: False", HELD)
@differs("fact: return code 0", "fact: return code 1", HELD)
@differs("fact: PID file at the end: none", "fact: PID file at the end: another's", HELD)
@differs("manager: initialized", "", HELD)
@differs("manager: server (pid *) started", "", HELD)
@differs("manager: received signal TERM", "", HELD)
@differs("manager: sending TERM to PIDs, *", "", HELD)
@differs("manager: server (pid *) exited with status 0", "", HELD)
@differs("manager: dying: safe exit from signal TERM", "", HELD)
@differs("server: initialized", "", HELD)
@differs("-", "", HELD)
@differs(
    "",
    "other: fcgi_procmanager.errors.PidFileError: DIR/app.pid is held by process *: stop it first, "
    "or choose another --pidfile",
    HELD,
)
def pid_file_of_a_living_process(play: Play) -> None:
    try:
        play.ready()
    except Overdue:
        play.note("it starts: False")
        play.wait()
    else:
        play.note("it starts: True")
        play.end()
    play.note_pid_file("at the end")


@case("app", "hooked", "n_processes=1", "pid_fname=DIR/app.pid", "no_ink=1")
@differs("fact: PID file at the end: the manager's number", "fact: PID file at the end: none", UNDONE)
@differs("other: no ink", "other: RuntimeError: no ink", UNDONE)
def managing_init_dies(play: Play) -> None:
    play.note("it ends well:", play.script.wait() == 0)
    play.note_pid_file("at the end")


@case("app", "object", "n_processes=1", "ignore_chld=1")
def ignored_sigchld(play: Play) -> None:
    play.ready()
    play.note("in a worker it is", play.ask("chld"))
    play.ask("quit 0")
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=2")
def random_numbers(play: Play) -> None:
    play.ready(2)
    first, second = play.hold("random"), play.hold("random")
    play.note("two workers draw the same number:", first.reply == second.reply)
    play.finish(first)
    play.finish(second)
    play.end()


# -- FCGI::ProcManager: HUP and TERM ----------------------------------------------------------------------------------


@case("app", "object", "n_processes=2", "pid_fname=DIR/app.pid")
def hup(play: Play) -> None:
    play.ready(2)
    play.signal(SIGHUP)
    play.ready(4)
    play.note_pid_file("after HUP")
    play.end()


@case("app", "object", "n_processes=1")
def hup_while_busy(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGHUP)
    play.script.wait_log("sending TERM")
    play.finish(held)
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=1")
@differs("manager: sending TERM to PIDs, *", "", "a second HUP finds nobody who has not been asked already")
def a_second_hup_during_a_reload(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGHUP)
    play.script.wait_log("sending TERM")
    play.signal(SIGHUP)
    play.finish(held)
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=1")
def hup_to_a_busy_worker(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGHUP, play.workers[0])
    play.finish(held)
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=3")
def term_while_idle(play: Play) -> None:
    play.ready(3)
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=DIR/app.pid")
@differs("fact: PID file while stopping: none", "fact: PID file while stopping: the manager's number", FILE_LAST)
def term_while_busy(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGTERM)
    play.script.wait_log("sending TERM")
    play.note_pid_file("while stopping")
    play.note("the request in hand is answered:", play.finish(held))
    play.wait()
    play.note_pid_file("at the end")


@case("app", "object", "n_processes=1", "die_timeout=1", "pid_fname=DIR/app.pid")
@differs("", "manager: server (pid *) exited with status 137 (SIGKILL)", "P13: who was killed is reaped, and said so")
def term_and_a_stubborn_worker(play: Play) -> None:
    play.ready()
    play.hold("stubborn")
    play.end()
    play.script.tree_gone()
    play.note_pid_file("at the end")


@case("app", "object", "n_processes=1")
@differs(
    "fact: a later TERM waits", "fact: a later TERM stops at once", "P5: who asks again after a second cannot wait"
)
@differs("fact: return code 0", "fact: return code 1", "P5: somebody was killed")
@differs("server: safe exit after SIGTERM", "", "P5")
@differs(
    "manager: server (pid *) exited with status 0", "manager: server (pid *) exited with status 137 (SIGKILL)", "P5"
)
@differs("", "manager: received signal TERM while stopping: killing 1 servers", "P5")
@differs(
    "manager: dying: safe exit from signal TERM",
    "manager: killed while stopping: safe exit from signal TERM",
    "P5: the last line says that it was not gentle",
)
def term_twice(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGTERM)
    play.script.wait_log("sending TERM")
    time.sleep(1.1)  # a span in which nothing may happen: a second TERM within it is the same one
    play.signal(SIGTERM)
    try:
        wait_until(lambda: not alive(play.script.pid), play.patience())
        play.note("a later TERM stops at once")
    except Overdue:
        play.note("a later TERM waits")
        play.finish(held)
    play.wait()


@case("app", "object", "n_processes=1")
@differs("fact: return code -1", "fact: return code 0", "P5: HUP while stopping killed the manager; it is ignored")
@differs("", "manager: server (pid *) exited with status 0", "P5")
@differs("", "manager: dying: safe exit from signal TERM", "P5")
def hup_while_stopping(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.signal(SIGTERM)
    play.script.wait_log("sending TERM")
    play.signal(SIGHUP)
    play.finish(held)
    play.wait()
    play.script.tree_gone()


@case("app", "object", "n_processes=1", "pid_fname=DIR/app.pid")
@differs("fact: return code -2", "fact: return code 0", "P6: INT stops like TERM")
@differs("", "manager: received signal INT", "P6")
@differs("", "manager: sending TERM to PIDs, *", "P6")
@differs("", "manager: server (pid *) exited with status 0", "P6")
@differs("", "manager: dying: safe exit from signal INT", "P6")
@differs("fact: PID file at the end: the manager's number", "fact: PID file at the end: none", "P6")
@differs("fact: workers without a manager stay", "fact: workers without a manager leave", "P6")
@differs("server: safe exit: manager has died", "", "P6")
def interrupt(play: Play) -> None:
    play.ready()
    play.end(SIGINT)
    play.note_pid_file("at the end")
    play.note_orphans()


@case("app", "object", "n_processes=1")
@differs("fact: the same worker answers: False", "fact: the same worker answers: True", CONTROL_C)
@differs("manager: server (pid *) exited with status 2", "", CONTROL_C)
@differs("manager: server (pid *) started", "", CONTROL_C)
@differs("server: initialized", "", CONTROL_C)
@differs("-", "", CONTROL_C)
def interrupt_to_a_worker(play: Play) -> None:
    play.ready()
    first = play.workers[0]
    play.signal(SIGINT, first)
    with suppress(Overdue):
        wait_until(lambda: not alive(first), play.patience(ours_leave=False))
    play.note("the same worker answers:", int(play.ask("pid")) == first)
    play.end()


@case("app", "object", "n_processes=0")
@differs("fact: reply: done", "fact: reply:", SINGLE)
@differs("fact: it serves on: True", "fact: it serves on: False", SINGLE)
@differs("fact: return code -9", "fact: return code -1", SINGLE)
def n_0_hup_and_term_while_busy(play: Play) -> None:
    play.script.line()
    held = play.hold("wait")
    play.signal(SIGHUP)
    play.signal(SIGTERM)
    try:
        play.note("reply:", play.finish(held))
        play.note("it serves on:", bool(play.ask("pid")))
    except OSError:
        play.note("reply:")
        play.note("it serves on: False")
    play.end(SIGKILL)


# -- FCGI::ProcManager: workers and managers that end -----------------------------------------------------------------


@case("app", "object", "n_processes=1")
def worker_exits_0(play: Play) -> None:
    play.ready()
    play.ask("quit 0")
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=1")
@differs("manager: server (pid *) exited with status 768", "manager: server (pid *) exited with status 3", RAW)
def worker_exits_3(play: Play) -> None:
    play.ready()
    play.ask("quit 3")
    play.ready(2)
    play.end()


@case("app", "object", "n_processes=1")
@differs(
    "manager: server (pid *) exited with status 9", "manager: server (pid *) exited with status 137 (SIGKILL)", RAW
)
def worker_is_killed(play: Play) -> None:
    play.ready()
    play.ask("kill")
    play.ready(2)
    play.end()


@case("app", "functions", "n_processes=1", "pid_fname=DIR/app.pid")
def pm_exit_in_a_worker(play: Play) -> None:
    play.ready()
    play.ask("pm_exit safe exit with harakiri")
    play.ready(2)
    play.note_pid_file("afterwards")
    play.end()


@case("app", "functions", "n_processes=1", "pid_fname=DIR/app.pid")
@differs("manager: server (pid *) exited with status 256", "manager: server (pid *) exited with status 1", RAW)
def pm_abort_in_a_worker(play: Play) -> None:
    play.ready()
    play.ask("pm_abort broken")
    play.ready(2)
    play.note_pid_file("afterwards")
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=DIR/app.pid")
@differs(
    "fact: PID file afterwards: none",
    "fact: PID file afterwards: the manager's number",
    "P8: a worker cannot remove its manager's PID file",
)
@differs("manager: unlink: DIR/app.pid: No such file or directory", "", "P8")
def pm_die_in_a_worker(play: Play) -> None:
    play.ready()
    play.ask("pm_die enough")
    play.ready(2)
    play.note_pid_file("afterwards")
    play.end()


@case("app", "object", "n_processes=1", "pid_fname=DIR/app.pid")
@differs("fact: workers without a manager stay", "fact: workers without a manager leave", ORPHANS)
@differs("server: safe exit: manager has died", "", ORPHANS)
def manager_is_killed(play: Play) -> None:
    play.ready()
    play.end(SIGKILL)
    play.note_pid_file("at the end")
    play.note_orphans()


@case("app", "object", "n_processes=1")
def manager_is_killed_during_a_request(play: Play) -> None:
    play.ready()
    held = play.hold("wait")
    play.end(SIGKILL)
    play.note("the request in hand is answered:", play.finish(held))
    play.script.tree_gone()


@case("app", "object", "n_processes=1", "no_signals=1", "pid_fname=DIR/app.pid")
@differs(
    "manager: server (pid *) exited with status 15", "manager: server (pid *) exited with status 143 (SIGTERM)", RAW
)
@differs("fact: workers without a manager stay", "fact: workers without a manager leave", ORPHANS)
@differs("server: safe exit: manager has died", "", ORPHANS)
def no_signals(play: Play) -> None:
    play.ready()
    play.note("TERM handled:", [SIGTERM in sigcatch(pid) for pid in (play.script.pid, *play.workers)])
    play.hold("wait")
    play.signal(SIGTERM, play.workers[0])
    play.ready(2)
    play.end()
    play.note_pid_file("at the end")
    play.note_orphans()


# -- FCGI::ProcManager: parameters and limits -------------------------------------------------------------------------


@case("app", "hooked", "n_processes=1", "hup=n_processes:3", "hup_only=1")
@differs("fact: workers 1", "fact: workers 3", "Perl sees the new number when the next worker ends, and not before")
def n_processes_raised(play: Play) -> None:
    play.ready()
    play.signal(SIGHUP)
    play.note_workers(3)
    play.ask("quit 0")
    play.ready(4)
    play.end()


@case("app", "hooked", "n_processes=3", "hup=n_processes:1", "hup_only=1")
@differs("fact: workers 3", "fact: workers 1", "a lower number takes effect as a higher one does")
@differs("", "manager: sending TERM to PIDs, * *", "the same")
@differs("manager: sending TERM to PIDs, * * *", "manager: sending TERM to PIDs, *", "the same")
@differs("manager: received signal TERM", "", "the same: here it comes first")
@differs("", "manager: received signal TERM", "the same: here it comes after two have left")
def n_processes_lowered(play: Play) -> None:
    play.ready(3)
    play.signal(SIGHUP)
    play.note_workers(1)
    play.end()


@case("app", "hooked", "n_processes=2", "die_timeout=60", "hup=die_timeout:3", "hup_only=1")
@differs("", "manager: server (pid *) exited with status 137 (SIGKILL)", "P13")
def die_timeout_lowered(play: Play) -> None:
    play.ready(2)
    play.hold("stubborn")
    play.signal(SIGHUP)
    play.end()


@case("app", "object", "n_processes=1", "flavour=sweet")
def parameters_in_a_worker(play: Play) -> None:
    play.ready()
    play.note(*[play.ask(f"get {key}") for key in ("n_processes", "die_timeout", "role", "start_delay", "pm_title")])
    play.note(
        play.ask("get flavour"), play.ask("set n_processes 9"), play.ask("set colour red"), play.ask("get colour")
    )
    play.note("the manager's number:", play.ask("get MANAGER_PID") == str(play.script.pid))
    play.note(play.ask("received TERM"), play.ask("title another name"), cmdline(play.workers[0]))
    play.note("workers", len(play.workers))
    play.end()


@case("app", "object", "n_processes=1")
def a_worker_tells_itself_to_leave(play: Play) -> None:
    play.ready()
    play.note(play.ask("received TERM 1"))
    play.ready(2)
    play.end()


@case("app", "constrained", "n_processes=1", "max_requests=2")
def max_requests(play: Play) -> None:
    play.ready()
    first, second = play.ask("pid"), play.ask("pid")
    play.ready(2)
    play.note("one worker answers twice:", first == second, "then another:", play.ask("pid") != first)
    play.end()


@case("app", "constrained", "n_processes=1", "PM_MAX_REQUESTS=1")
def max_requests_from_the_environment(play: Play) -> None:
    play.ready()
    play.ask("pid")
    play.ready(2)
    play.end()


def _two_requests(play: Play) -> None:
    play.note(play.script.line())
    play.note("it answers itself:", *[int(play.ask("pid")) == play.script.pid for _ in range(2)])


@case("app", "constrained", "n_processes=0", "max_requests=2")
def max_requests_of_a_single_process(play: Play) -> None:
    _two_requests(play)
    play.wait()


SIZE = "server: safe exit due to memory limits exceeded after 2 requests"
FIGURES = "P20: with the figures"


@case("app", "constrained", "n_processes=1", "max_requests=99", "max_size=10", "sizecheck_num_requests=2")
@differs(SIZE, f"{SIZE}: * KB, max_size 10 KB", FIGURES)
def max_size(play: Play) -> None:
    play.ready()
    first, second = play.ask("pid"), play.ask("pid")
    play.ready(2)
    play.note("one worker answers twice:", first == second)
    play.end()


@case("app", "constrained", "n_processes=1", "max_requests=2", "max_size=99999999", "sizecheck_num_requests=1")
def max_size_that_is_not_reached(play: Play) -> None:
    max_requests(play)


@case("app", "constrained", "n_processes=1", "max_size=10", "sizecheck_num_requests=2")
@differs("fact: workers that answered 1", "fact: workers that answered 2", "P20: each limit works alone")
@differs("", f"{SIZE}: * KB, max_size 10 KB", "P20")
@differs("", "manager: server (pid *) started", "P20")
@differs("", "manager: server (pid *) exited with status 0", "P20")
@differs("", "server: initialized", "P20")
@differs("", "-", "P20")
def max_size_without_a_limit_of_requests(play: Play) -> None:
    play.ready()
    pids = [play.ask("pid"), play.ask("pid")]
    with suppress(Overdue):
        play.script.wait_log("safe exit due to memory limits", timeout=play.patience())
        play.ready(2)
    pids.append(play.ask("pid"))
    play.note("workers that answered", len(set(pids)))
    play.end()


@case("app", "maxrequests", "n_processes=1", "max_requests=2")
@differs(
    "server: safe exit after max_requests",
    "server: safe exit after max_requests (2)",
    "the limit is named, as it is in Constrained",
)
def max_requests_by_a_module_of_its_own(play: Play) -> None:
    max_requests(play)


@case("app", "maxrequests", "n_processes=1", "PM_MAX_REQUESTS=1")
@differs("server: safe exit after max_requests", "server: safe exit after max_requests (1)", "the same")
def max_requests_by_a_module_of_its_own_from_the_environment(play: Play) -> None:
    max_requests_from_the_environment(play)


@case("app", "maxrequests", "n_processes=0", "max_requests=1")
@differs("fact: return code 0", "fact: return code -15", SINGLE)
def a_single_process_has_no_max_requests(play: Play) -> None:
    _two_requests(play)
    play.end()


# -- FCGI::Engine -----------------------------------------------------------------------------------------------------


@case(
    "engine", "hooked", "n_processes=1", "pidfile=DIR/app.pid", "process_name=my worker", "manager_process_name=my pm"
)
def engine_start(play: Play) -> None:
    play.ready()
    play.note_titles()
    play.note_pid_file("while serving")
    play.note(play.ask("file"), play.ask("pids"), play.script.line())
    play.end()
    play.note_pid_file("at the end")


@case("engine", "plain", "n_processes=2", "pidfile=DIR/app.pid")
def engine_hup(play: Play) -> None:
    play.ready(2)
    play.note_titles()
    play.signal(SIGHUP)
    play.ready(4)
    play.end()


@case("engine", "hooked", "n_processes=1", "pidfile=DIR/app.pid")
@differs("fact: PID file while stopping: none", "fact: PID file while stopping: the manager's number", FILE_LAST)
def engine_term_while_busy(play: Play) -> None:
    term_while_busy(play)


@case("engine", "plain", "n_processes=1", "pidfile=DIR/app.pid", "die_timeout=1")
@differs("", "manager: server (pid *) exited with status 137 (SIGKILL)", "P13: who was killed is reaped, and said so")
def engine_term_and_a_stubborn_worker(play: Play) -> None:
    term_and_a_stubborn_worker(play)


@case("engine", "plain", "n_processes=1", "pidfile=DIR/app.pid")
@differs("manager: server (pid *) exited with status 768", "manager: server (pid *) exited with status 3", RAW)
def engine_worker_exits_3(play: Play) -> None:
    worker_exits_3(play)


@case("engine", "plain", "n_processes=1", "pidfile=DIR/app.pid")
@differs("manager: server (pid *) exited with status 256", "manager: server (pid *) exited with status 1", RAW)
def engine_exit_and_abort_in_a_worker(play: Play) -> None:
    play.ready()
    play.ask("exit bye")
    play.ready(2)
    play.ask("abort broken")
    play.ready(3)
    play.note_pid_file("afterwards")
    play.end()


@case("engine", "hooked", "n_processes=0", "pidfile=DIR/app.pid")
@differs("fact: return code 0", "fact: return code -15", SINGLE)
def engine_n_0(play: Play) -> None:
    play.note(play.script.line())
    play.note("it answers itself:", int(play.ask("pid")) == play.script.pid)
    play.note_pid_file("while serving")
    play.end()


@case("engine", "plain", "n_processes=1", "pidfile=/nonexistent/app.pid")
@differs(
    "manager: Could not write the PID file because: Can't write to /nonexistent/app.pid: No such file or directory "
    "at FILE line N.",
    "manager: Could not write the PID file because: /nonexistent/app.pid cannot be used as a PID file: "
    "No such file or directory",
    "no place in our source code is named",
)
@differs(
    "manager: Could not remove PID file: No such file or directory", "", "P8: what was never written is not removed"
)
def engine_unwritable_pid_file(play: Play) -> None:
    play.ready()
    play.end()


@case("engine", "plain", "n_processes=1", "pidfile=DIR")
@differs(
    "manager: Could not write the PID file because: Can't write to DIR: Is a directory at FILE line N.",
    "manager: Could not write the PID file because: DIR is not a regular file: move it away, or choose another --pidfile",
    "no place in our source code is named",
)
@differs("manager: Could not remove PID file: Is a directory", "", "P8: what was never written is not removed")
def engine_pid_file_is_a_directory(play: Play) -> None:
    play.ready()
    play.end()


@case("engine", "plain", "n_processes=1")
@differs("fact: return code 255", "fact: return code 0", "without a PID file, TERM crashes FCGI::Engine")
@differs(
    'manager: Could not write the PID file because: Can\'t call method "write" on an undefined value at FILE line N.',
    "",
    "the same",
)
@differs('other: Can\'t call method "remove" on an undefined value at FILE line N.', "", "the same")
@differs("fact: workers without a manager stay", "fact: workers without a manager leave", "the same")
@differs("server: safe exit: manager has died", "", "the same")
@differs("", "manager: sending TERM to PIDs, *", "the same")
@differs("", "manager: server (pid *) exited with status 0", "the same")
@differs("", "manager: dying: safe exit from signal TERM", "the same")
def engine_no_pid_file(play: Play) -> None:
    play.ready()
    play.end()
    play.note_orphans()


@case("engine", "plain", "n_processes=2", "start_delay=1", "pidfile=DIR/app.pid")
@differs("fact: workers 1", "fact: workers 2", "FCGI::Engine sleeps for ever after the first fork")
@differs("", "manager: server (pid *) started", "the same")
@differs("manager: sending TERM to PIDs, *", "manager: sending TERM to PIDs, * *", "the same")
@differs("", "manager: server (pid *) exited with status 0", "the same")
@differs("", "server: initialized", "the same")
@differs("", "-", "the same")
def engine_start_delay(play: Play) -> None:
    play.ready()
    play.note_workers(2)
    play.end()


@case("engine", "constrained", "n_processes=1", "max_requests=2", "pidfile=DIR/app.pid")
def engine_max_requests(play: Play) -> None:
    max_requests(play)


@case("engine", "constrained", "n_processes=0", "max_requests=2")
def engine_max_requests_of_a_single_process(play: Play) -> None:
    max_requests_of_a_single_process(play)


@case(
    *("engine", "constrained", "n_processes=1", "pidfile=DIR/app.pid"),
    *("max_requests=99", "max_process_size=10", "sizecheck_num_requests=2"),
)
@differs(SIZE, f"{SIZE}: * KB, max_process_size 10 KB", FIGURES)
def engine_max_size(play: Play) -> None:
    max_size(play)


@case("engine", "plain", "n_processes=1", "pidfile=DIR/app.pid")
@differs("fact: workers without a manager stay", "fact: workers without a manager leave", ORPHANS)
@differs("server: safe exit: manager has died", "", ORPHANS)
def engine_manager_is_killed(play: Play) -> None:
    manager_is_killed(play)


# -- Plack, which brings its own use of a manager ---------------------------------------------------------------------


@case("plack", "Recorder", "SOCKET", "DIR/app.pid")
def plack_calls(play: Play) -> None:
    play.script.wait_log("pm_manage")
    play.note("one process answers both:", play.visit("/") == play.visit("/bye"))
    play.wait()


@case("plack", "FCGI::ProcManager", "SOCKET", "DIR/app.pid")
def plack_and_harakiri(play: Play) -> None:
    play.ready()
    play.note_titles()
    play.note_pid_file("while serving")
    first = play.visit("/")
    play.note("the same worker:", play.visit("/bye") == first)
    play.ready(2)
    play.note("another worker:", play.visit("/") != first)
    play.end()
    play.note_pid_file("at the end")


# -- comparing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, sock_path: str) -> Iterator[Stage]:
    with staged(tmp_path, sock_path) as set_up:
        yield set_up


@pytest.mark.parametrize("name", CASES)
def test_alike_but_for_the_listed_differences(name: str, stage: Stage) -> None:
    this = CASES[name]
    more = [module for word, module in MORE_MODULES.items() if any(a.startswith(word) for a in this.arguments)]
    require_perl(MODULES[this.script], *more)
    stories = []
    for language in ("pl", "py"):
        play = stage(f"{this.script}.{language}", *this.arguments)
        this.play(play)
        stories.append(play.story())
    seen = [line for line in difflib.ndiff(*stories) if line[0] in "-+"]
    listed = [f"- {one.perl}" for one in this.differences] + [f"+ {one.ours}" for one in this.differences]
    unlisted = Counter(seen) - Counter(listed)
    unseen = Counter(line for line in listed if line[2:]) - Counter(seen)
    if not (unlisted or unseen):
        return
    pytest.fail("\n".join([f"unlisted {unlisted}, unseen {unseen}", *difflib.ndiff(*stories)]), pytrace=False)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].differences])
def test_every_difference_has_a_reason(name: str) -> None:
    assert all(one.reason and one.perl != one.ours for one in CASES[name].differences)


def test_a_worker_that_dies_at_once_is_not_replaced_without_pause(stage: Stage) -> None:
    """P7, which no line by line comparison can show: Perl forks as fast as it can."""
    require_perl("FCGI::ProcManager")
    perl, ours = (stage(f"app.{language}", "object", "n_processes=1", "init=exit") for language in ("pl", "py"))
    third = "servers in a row failed; the next one starts in 0.4 s"
    ours.script.wait_log(third)
    assert ours.script.log().partition(third)[0].count("started") <= 5
    perl.script.wait_log("started", 50)
    perl.script.kill()
    ours.end()
