"""Limits of a worker, under the core and under the originals' names: real workers that serve, grow, leave and are replaced."""

from __future__ import annotations

import os
import re
import sys
from signal import SIGTERM
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError, limits, perl
from fcgi_procmanager.limits import Limits
from harness import fcgi
from harness.process import Script, listening, wait_until

Run = Callable[..., Script]
VARIABLES = ("PM_MAX_REQUESTS", "PM_MAX_SIZE", "PM_SIZECHECK_NUM_REQUESTS")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="proportional sizes are Linux's")

# A worker that serves a request for each word it reads: how many MB to hold from then on, touched or (with a v) not.
SERVER = """
    import mmap
    import os
    import sys
    from fcgi_procmanager import engine, limits, perl
    from harness.inside import say

    class Core(limits.Limits):
        pass

    made = {"Core": Core, "Engine": engine.Constrained}.get(sys.argv[1]) or getattr(perl, sys.argv[1])
    manager = made(n_processes=1, **eval(sys.argv[2]))
    base = bytearray(int(sys.argv[3]) << 20)  # in the manager, so shared by all its workers
    base[::4096] = b"x" * len(base[::4096])
    manager.manage()
    held = []
    say("worker", os.getpid())
    while word := sys.stdin.readline().strip():
        manager.pre_dispatch()
        held.append(mmap.mmap(-1, max(1, int(word.rstrip("v"))) << 20))
        if "v" not in word:
            held[-1].write(b"x" * len(held[-1]))
        say(os.getpid())
        manager.post_dispatch()
"""


class Served:
    """A pool of one worker of SERVER, whose requests are words."""

    def __init__(self, run: Run, made: str, parameters: dict[str, Any], base: int = 0, **kw: Any) -> None:
        read_end, write_end = os.pipe()
        self.words = os.fdopen(write_end, "w", buffering=1)
        self.script = run(SERVER, args=[made, repr(parameters), base], stdin=read_end, **kw)
        os.close(read_end)
        self.worker()

    def worker(self) -> str:
        word, pid = self.script.line().split()
        assert word == "worker"
        return pid

    def request(self, word: str = "0") -> str:
        self.words.write(f"{word}\n")
        return self.script.line()

    def leaves(self) -> str:
        """Wait until the worker has been replaced; the last line of the one that left."""
        self.worker()
        return self.script.wait_log(r"server .*: (safe exit.*)")[-1][1]

    def stays(self) -> None:
        """One more request, answered by the same worker."""
        assert self.request() == self.request()
        assert "safe exit" not in self.script.log()


@pytest.fixture
def serve(run_script: Run) -> Any:
    made: list[Served] = []

    def start(name: str, parameters: dict[str, Any], base: int = 0, **kw: Any) -> Served:
        made.append(Served(run_script, name, parameters, base, **kw))
        return made[-1]

    yield start
    for served in made:
        served.script.signal(SIGTERM)
        served.words.close()  # a worker that reads a pipe does not hear the TERM
        assert served.script.wait() == 0


Serve = Callable[..., Served]


@pytest.mark.parametrize("made", ["Core", "Constrained", "MaxRequests", "Engine"])
def test_a_worker_leaves_after_its_requests_and_is_replaced(made: str, serve: Serve) -> None:
    served = serve(made, {"max_requests": 3})
    first = [served.request() for _ in range(3)]
    assert served.leaves() == "safe exit after max_requests (3)"
    second = [served.request() for _ in range(3)]
    assert len(set(first)) == len(set(second)) == 1
    assert set(first) != set(second)
    served.leaves()
    assert "exited with status 0" in served.script.log()


@pytest.mark.parametrize("made", ["Core", "Constrained", "MaxRequests", "Engine"])
def test_0_is_no_limit(made: str, serve: Serve) -> None:
    served = serve(made, {"max_requests": 0})
    served.stays()


SIZES = [
    ("Core", {"max_size": 100 * 1024}, "max_size 102400 KB"),
    ("Constrained", {"max_size": 100 * 1024, "sizecheck_num_requests": 1}, "max_size 102400 KB"),
    ("Engine", {"max_process_size": 100 * 1024, "sizecheck_num_requests": 1}, "max_process_size 102400 KB"),
    ("Engine", {"max_unshared_size": 100 * 1024, "sizecheck_num_requests": 1}, "max_unshared_size 102400 KB"),
]


@pytest.mark.parametrize(("made", "parameters", "limit"), SIZES)
def test_a_worker_that_has_grown_leaves(made: str, parameters: dict[str, int], limit: str, serve: Serve) -> None:
    """P20: without a limit of requests beside it. The message names the figure and the limit."""
    served = serve(made, parameters)
    served.request()
    served.request("150")
    message = served.leaves()
    found = re.fullmatch(r"safe exit due to memory limits exceeded after 2 requests: (\d+) KB, (.*)", message)
    assert found is not None, message
    assert found[2] == limit
    assert 150 * 1024 < int(found[1]) < 250 * 1024


def test_max_size_is_in_megabytes_and_looked_at_each_time(serve: Serve) -> None:
    served = serve("MaxSize", {"max_size": 100})
    served.request()
    served.request("150")
    found = re.fullmatch(r"safe exit after max_size \(100 MB\): (\d+) MB", served.leaves())
    assert found is not None
    assert 150 <= int(found[1]) < 250


@pytest.mark.parametrize(("made", "parameters"), [(made, parameters) for made, parameters, _ in SIZES])
def test_memory_that_is_only_reserved_does_not_count(made: str, parameters: dict[str, int], serve: Serve) -> None:
    served = serve(made, parameters)
    served.request("2000v")
    served.stays()


@pytest.mark.parametrize(
    ("made", "parameters"),
    [
        ("Core", {"max_size": 100 * 1024, "sizecheck_num_requests": 3}),
        ("Constrained", {"max_size": 100 * 1024, "sizecheck_num_requests": 3, "max_requests": 50}),
        ("Engine", {"max_process_size": 100 * 1024, "sizecheck_num_requests": 3}),
    ],
)
def test_the_size_is_looked_at_every_so_many_requests(made: str, parameters: dict[str, int], serve: Serve) -> None:
    served = serve(made, parameters)
    served.request("150")
    served.request()
    served.request()
    assert "after 3 requests" in served.leaves()


def test_requests_are_counted_whatever_the_size(serve: Serve) -> None:
    served = serve("Constrained", {"max_requests": 2, "max_size": 1 << 30, "sizecheck_num_requests": 1})
    served.request()
    served.request()
    assert served.leaves() == "safe exit after max_requests (2)"


@linux_only
def test_shared_memory_counts_in_part_on_request(serve: Serve) -> None:
    """150 MB that the manager has filled: all of them resident in the worker, half of them in proportion."""
    serve("Constrained", {"max_size": 130 << 10, "sizecheck_num_requests": 1, "size_of": "pss"}, 150).stays()
    resident = serve("Constrained", {"max_size": 130 << 10, "sizecheck_num_requests": 1}, 150)
    resident.request()
    assert "max_size 133120 KB" in resident.leaves()


@linux_only
def test_too_little_shared_memory(serve: Serve) -> None:
    serve("Engine", {"min_share_size": 100 << 10, "sizecheck_num_requests": 1}, 150).stays()
    alone = serve("Engine", {"min_share_size": 100 << 10, "sizecheck_num_requests": 1})
    alone.request()
    assert "min_share_size 102400 KB" in alone.leaves()


def test_a_worker_that_owes_answers_gives_them_first(run_script: Run) -> None:
    script = run_script(
        """
        from fcgi_procmanager.limits import Limits
        from harness.inside import say

        owed = [True, True, False]
        manager = Limits(n_processes=1, max_requests=1)
        manager.manage()
        manager._add_busy_check(lambda: owed.pop(0))
        for count in range(9):
            say(count, manager.leaving)
            manager.pre_dispatch()
            manager.post_dispatch()
        """
    )
    assert script.lines(3) == ["0 False", "1 True", "2 True"]
    script.wait_log(r"safe exit after max_requests \(1\)$")
    script.stop()


def test_no_request_is_lost_at_the_limit(run_script: Run, sock_path: str) -> None:
    script = run_script(
        """
        import os
        import sys
        from fcgi_procmanager import WSGIServer
        from fcgi_procmanager.perl import MaxRequests

        def app(environ, start_response):
            start_response("200 OK", [])
            return [str(os.getpid()).encode()]

        WSGIServer(app, manager=MaxRequests(n_processes=2, max_requests=2), bindAddress=sys.argv[1]).run()
        """,
        args=[sock_path],
    )
    script.wait_ready(2)
    served = []
    for _ in range(10):
        with fcgi.Client(sock_path) as client:
            served.append(client.request().text)
    assert all(map(str.isdigit, served))
    assert max(served.count(pid) for pid in served) == 2
    script.stop()


def test_a_limit_lowered_below_the_count_holds_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    manager = Limits(max_requests=5)
    manager.request_count = 7
    assert manager.limit_reached() == "safe exit after max_requests (5): 7 requests"


@pytest.mark.parametrize("made", [perl.MaxRequests, Limits])
def test_a_single_process_has_no_limits(made: Any) -> None:
    manager = made(max_requests=1)
    assert manager.manage() is False
    for _ in range(3):
        manager.pre_dispatch()
        manager.post_dispatch()


@pytest.mark.parametrize(
    ("made", "limits", "line"),
    [
        ("perl", "max_requests=2", r"safe exit after max_requests \(2\)"),
        ("engine", "max_requests=2", r"safe exit after max_requests \(2\)"),
        (
            "perl",
            "max_size=1, sizecheck_num_requests=2",
            "safe exit due to memory limits exceeded after 2 requests: .*",
        ),
    ],
)
def test_a_single_process_of_a_constrained_manager_leaves_at_its_limit(
    made: str, limits: str, line: str, run_script: Run
) -> None:
    script = run_script(
        f"""
        from fcgi_procmanager import {made}
        from harness.inside import say

        manager = {made}.Constrained({limits})
        assert not manager.manage()
        for number in range(1, 4):
            manager.pre_dispatch()
            say("request", number)
            manager.post_dispatch()
        """
    )
    assert script.output() == "request 1\nrequest 2\n"
    assert script.wait() == 0
    assert re.fullmatch(rf"FastCGI: manager \(pid {script.pid}\): {line}\n", script.log())


def test_a_single_process_that_owes_answers_gives_them_first(capfd: pytest.CaptureFixture[str]) -> None:
    owed = [True, True, False]
    manager = perl.Constrained(max_requests=1)
    manager._add_busy_check(lambda: owed.pop(0))
    for _ in range(2):
        manager.pm_pre_dispatch()
        manager.pm_post_dispatch()
        assert manager.leaving
    with pytest.raises(SystemExit) as end:
        manager.pm_post_dispatch()
    assert end.value.code == 0
    assert capfd.readouterr().err.endswith(": safe exit after max_requests (1)\n")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_single_process_answers_what_it_has_accepted_before_it_leaves(
    threads: int, run_script: Run, sock_path: str
) -> None:
    script = run_script(
        """
        import sys
        from fcgi_procmanager import WSGIServer
        from fcgi_procmanager.perl import Constrained

        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"whole"]

        manager = Constrained(max_requests=2)
        WSGIServer(app, manager=manager, bindAddress=sys.argv[1], threads=int(sys.argv[2])).run()
        """,
        args=[sock_path, threads],
    )
    wait_until(lambda: listening(sock_path))
    with fcgi.Client(sock_path) as one, fcgi.Client(sock_path) as two:
        assert [client.request().text for client in (one, two)] == ["whole", "whole"]
    assert script.wait() == 0


@pytest.mark.parametrize("made", [perl.Constrained, perl.MaxRequests, perl.MaxSize])
def test_an_explicit_value_beats_the_environment(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "9")
    for key in made.ENVIRONMENT:
        assert getattr(made(), key) == 9
        assert getattr(made({key: 4}), key) == 4
        assert getattr(made(**{key: 0}), key) == 0


def test_constrained_has_no_limit_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
    manager = perl.Constrained()
    assert (manager.max_requests, manager.max_size, manager.sizecheck_num_requests) == (0, 0, 0)


@pytest.mark.parametrize("text", ["many", "-1", "1.5"])
def test_nonsense_in_the_environment_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PM_MAX_REQUESTS", text)
    with pytest.raises(ConfigError, match="PM_MAX_REQUESTS"):
        perl.Constrained()


@pytest.mark.parametrize(
    ("key", "value"), [("max_requests", -1), ("max_size", "big"), ("sizecheck_num_requests", 1.5), ("size_of", "vsz")]
)
def test_a_wrong_value_is_refused_by_name(key: str, value: Any) -> None:
    for made in (Limits, perl.Constrained):
        with pytest.raises(ConfigError, match=key):
            made(**{key: value})
    with pytest.raises(ConfigError, match=key):
        perl.Constrained().pm_parameter(key, value)


def test_pss_is_refused_where_the_system_does_not_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        def memory_full_info(self) -> object:
            return object()

    monkeypatch.setattr(limits.psutil, "Process", Elsewhere)
    with pytest.raises(ConfigError, match="Linux"):
        Limits(size_of="pss")
