"""The harness itself: what the other tests rely on must hold."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Callable

import pytest

from harness import fcgi
from harness.process import (
    Names,
    Overdue,
    Script,
    alive,
    children,
    context_switches,
    free_port,
    listening,
    open_fds,
    process_state,
    signal_masks,
    wait_asleep,
    wait_dead,
    wait_until,
)
from harness.tools import require, require_perl

Run = Callable[..., Script]

WAITER = """
    import signal
    from harness.inside import say
    say("ready")
    signal.pause()
"""

FAMILY = """
    import os, signal, sys
    from harness.inside import say
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    if os.fork() == 0:
        {child}
        say("child", os.getpid())
        while True:
            signal.pause()
    signal.pause()
"""


# Records


def test_records_survive_a_round_trip() -> None:
    data = fcgi.record(6, 300, b"abc", padding=5) + fcgi.begin(7, role=2, flags=1) + fcgi.abort(7)
    assert fcgi.split_records(data) == [
        fcgi.Record(6, 300, b"abc", 5),
        fcgi.Record(1, 7, b"\0\2\1" + bytes(5)),
        fcgi.Record(2, 7, b""),
    ]


def test_a_cut_record_is_noticed() -> None:
    with pytest.raises(ValueError, match="not whole"):
        fcgi.split_records(fcgi.record(6, 1, b"abc")[:-1])


@pytest.mark.parametrize("length", [0, 1, 127, 128, 70000])
def test_pairs_of_every_length_survive_a_round_trip(length: int) -> None:
    pairs = [
        (b"n" * length, b"v"),
        (b"name", b"v" * length),
        ("ü".encode(), "\udcff".encode("utf-8", "surrogateescape")),
    ]
    assert fcgi.decode_params(fcgi.encode_params(pairs)) == pairs


def test_params_are_cut_where_the_test_says_and_closed() -> None:
    encoded = fcgi.encode_params({"NAME": "value"})
    contents = [piece.content for piece in fcgi.split_records(fcgi.params_records({"NAME": "value"}, split=[1, 3]))]
    assert contents == [encoded[:1], encoded[1:3], encoded[3:], b""]


def test_a_body_is_sent_in_chunks_and_closed() -> None:
    contents = [piece.content for piece in fcgi.split_records(fcgi.stdin_records(b"abcde", chunk=2))]
    assert contents == [b"ab", b"cd", b"e", b""]


def test_a_request_has_the_variables_of_cgi() -> None:
    records = fcgi.split_records(fcgi.request_bytes({"HTTP_X": "y", "SERVER_ADDR": None}, b"hello", path="/a?b=c"))
    assert [piece.type for piece in records] == [fcgi.BEGIN_REQUEST, fcgi.PARAMS, fcgi.PARAMS, fcgi.STDIN, fcgi.STDIN]
    variables = dict(fcgi.decode_params(records[1].content))
    assert variables[b"REQUEST_METHOD"] == b"POST"
    assert variables[b"CONTENT_LENGTH"] == b"5"
    assert (variables[b"PATH_INFO"], variables[b"QUERY_STRING"]) == (b"/a", b"b=c")
    assert variables[b"HTTP_X"] == b"y"
    assert b"SERVER_ADDR" not in variables


# The client


def serve_once(listener: socket.socket, answer: bytes) -> threading.Thread:
    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(1 << 16)
            connection.sendall(answer)

    listener.settimeout(10)
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_fetch_reads_a_reply() -> None:
    answer = (
        fcgi.record(fcgi.STDOUT, 1, b"Status: 404 Not Found\r\nX-A: 1\r\nX-A: 2\r\n", padding=3)
        + fcgi.record(fcgi.STDERR, 1, b"oops")
        + fcgi.record(fcgi.STDOUT, 1, b"\r\nbody\n\nmore")
        + fcgi.record(fcgi.END_REQUEST, 1, b"\0\0\0\7\0" + bytes(3))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = serve_once(listener, answer)
        reply = fcgi.fetch(listener.getsockname(), "/")
        thread.join(10)
    assert (reply.status, reply.headers["x-a"], reply.body, reply.stderr) == (404, "1, 2", b"body\n\nmore", b"oops")
    assert (reply.ended, reply.app_status, reply.protocol_status) == (True, 7, fcgi.REQUEST_COMPLETE)


def test_replies_of_two_ids_are_told_apart() -> None:
    answer = b"".join(
        fcgi.record(fcgi.STDOUT, id, b"\n\nfor %d" % id) + fcgi.record(fcgi.END_REQUEST, id, bytes(8)) for id in (2, 1)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = serve_once(listener, answer)
        with fcgi.Client(listener.getsockname()) as client:
            client.send(b"x")
            assert [client.read_reply(id).body for id in (1, 2)] == [b"for 1", b"for 2"]
            assert client.at_eof()
        thread.join(10)


def test_a_silent_server_does_not_hold_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with fcgi.Client(listener.getsockname()) as client:
            client.timeout = 0.01
            assert not client.readable(0.01)
            with pytest.raises(socket.timeout):
                client.read_reply()
        assert listening(listener.getsockname())
    assert not listening(("127.0.0.1", free_port()))


# Scripts


def test_a_script_speaks_and_ends(run_script: Run) -> None:
    script = run_script(
        "import sys; print('out', *sys.argv[1:]); print('err', file=sys.stderr); sys.exit(7)", args=["a"]
    )
    assert script.line() == "out a"
    assert script.wait() == 7
    assert (script.output(), script.log()) == ("", "err\n")
    script.tree_gone()


def test_a_command_line_is_run_as_it_is(run_script: Run) -> None:
    script = run_script([sys.executable, "-c", "import os; print(os.environ['X'])"], env={"X": "y"})
    assert script.output() == "y\n"
    assert script.wait() == 0


def test_nothing_of_the_environment_leaks_into_a_script(run_script: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert run_script("import os; print(os.environ.get('LISTEN_FDS'))").line() == "None"


def test_a_signal_that_kills_is_a_negative_return_code(run_script: Run) -> None:
    script = run_script(WAITER)
    script.line()
    assert script.stop() == -signal.SIGTERM


def test_a_script_that_will_not_end_is_killed_and_shown(run_script: Run) -> None:
    script = run_script("import signal, sys; print('my log', file=sys.stderr); signal.pause()")
    script.wait_log("my log")
    with pytest.raises(Overdue, match="my log"):
        script.wait(timeout=0.01)
    script.tree_gone()


def test_an_orphan_belongs_to_the_tree(run_script: Run) -> None:
    script = run_script(FAMILY.format(child="signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    child = int(script.line().split()[1])
    assert script.workers() == script.wait_workers(1) == [child]
    assert script.tree() == sorted([script.pid, child])
    wait_asleep(script.pid)  # a signal that comes just before Python pauses would be acted on after that
    script.signal(signal.SIGTERM)
    assert script.wait() == 3
    with pytest.raises(Overdue, match=f"processes \\[{child}\\]"):
        script.tree_gone(timeout=0.01)
    script.signal(signal.SIGKILL, child)
    script.tree_gone()


def test_closing_kills_even_those_who_left_the_group(tmp_path: Path) -> None:
    with Script(FAMILY.format(child="os.setsid()"), tmp_path) as script:
        child = int(script.line().split()[1])
        script.signal(signal.SIGKILL)
        script.wait()
        assert alive(child)
    wait_dead(child)


def test_the_log_is_waited_for(run_script: Run) -> None:
    script = run_script(WAITER.replace('say("ready")', "import sys; sys.stderr.write('a 1\\nb\\na 2\\n')"))
    assert [match[1] for match in script.wait_log(r"^a (\d)$", count=2)] == ["1", "2"]
    with pytest.raises(Overdue, match="2 of 3"):
        script.wait_log("^a", count=3, timeout=0.01)


def test_waiting_for_the_log_of_a_dead_tree_ends_at_once(run_script: Run) -> None:
    with pytest.raises(Overdue, match="0 of 1"):
        run_script("pass").wait_log("never", timeout=60)


def test_pids_in_the_log_get_names() -> None:
    lines = [
        "FastCGI: manager (pid 40): server (pid 41) started",
        "FastCGI: server (pid 42): initialized",
        "FastCGI: manager (pid 40): sending TERM to PIDs, 41 43",
        "FastCGI: manager (pid 40): server (pid 41) exited with status 42",
        "something about 43",
    ]
    assert Names().apply(lines) == [
        "manager A: server (pid B) started",
        "server C: initialized",
        "manager A: sending TERM to PIDs, B D",
        "manager A: server (pid B) exited with status 42",
        "something about D",
    ]
    names = Names()
    assert [names.of(pid) for pid in range(100, 128)][-3:] == ["Z", "AA", "AB"]


def test_a_script_can_look_at_its_own_handlers(run_script: Run) -> None:
    script = run_script("""
        import signal
        from harness.inside import restarts
        signal.signal(signal.SIGTERM, lambda *_: None)
        print(restarts(signal.SIGTERM))
        signal.siginterrupt(signal.SIGTERM, False)
        print(restarts(signal.SIGTERM))
    """)
    assert script.lines(2) == ["False", "True"]


# Looking from outside


def test_a_process_is_seen_from_outside(run_script: Run) -> None:
    script = run_script("""
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        print("ready")
        signal.pause()
    """)
    script.line()
    wait_asleep(script.pid)
    masks = signal_masks(script.pid)
    assert signal.SIGUSR1 in masks["caught"]
    assert signal.SIGHUP in masks["ignored"]
    assert masks["blocked"] == {signal.SIGTERM}
    assert context_switches(script.pid) > 0
    assert {0, 1, 2} <= open_fds(script.pid).keys()
    assert script.pid in children(os.getpid())
    script.kill()
    assert process_state(script.pid) is None
    assert open_fds(script.pid) == {}


def test_a_condition_that_never_holds_is_named() -> None:
    assert wait_until(lambda: "yes") == "yes"
    with pytest.raises(Overdue, match="the moon"):
        wait_until(lambda: False, timeout=0.01, what="the moon")


# Tools and the guard


def test_a_missing_tool_skips() -> None:
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        require("no-such-tool")


def test_a_missing_perl_module_skips() -> None:
    require("perl")
    with pytest.raises(pytest.skip.Exception, match="No::Such is not installed"):
        require_perl("strict", "No::Such")


LEAKS = {
    "process": "import subprocess; subprocess.Popen(['sleep', '60']).returncode = 0",
    "descriptor": "import os; os.pipe()",
    "SIGHUP": "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    "left next to the socket": "open(sock_path, 'w').close()",
}


@pytest.mark.parametrize("name", LEAKS)
def test_the_guard_fails_a_test_that_leaves_something(run_script: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / "test_leak.py"
    path.write_text(f"def test_leak(sock_path):\n    {LEAKS[name]}\n\ndef test_next(): pass\n")
    options = ["-q", "-p", "conftest", "-p", "no:cacheprovider", "-W", "error", "-c", "/dev/null"]
    script = run_script(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", path],
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    output = script.output(60)
    assert script.wait() == 1
    assert name in output
    assert "2 passed, 1 error" in output
