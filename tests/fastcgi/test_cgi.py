"""`FastCGI(as_cgi=True)`: a loop that prints its reply, as scripts with FCGI.pm and CGI::Fast do."""

from __future__ import annotations

from typing import Callable

import pytest

from fcgi_procmanager import ConfigError, FastCGI
from harness import fcgi
from harness.process import Script, open_fds

Run = Callable[..., Script]

LOOP = """
    import os, subprocess, sys
    from fcgi_procmanager import FastCGI, ProcManager
    from harness.inside import say

    before = sys.stdin, sys.stdout
    manager = ProcManager(1)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    environment = dict(os.environ)
    fcgi = FastCGI(listener, manager=manager, as_cgi=True)
    while request := fcgi.accept():
        {body}
        request.finish()
        assert (sys.stdin, sys.stdout) == before, "left in place"
        assert os.environ == environment
"""


def serve(run_script: Run, path: str, body: str) -> Script:
    script = run_script(LOOP.format(body=body.strip().replace("\n", "\n        ")), args=[path])
    script.wait_ready(1)
    return script


def test_what_is_printed_is_the_reply(run_script: Run, sock_path: str) -> None:
    body = r"""
print("Content-Type: text/plain\r\n\r\n", end="")
print(os.environ["REQUEST_METHOD"], os.environ["QUERY_STRING"], sys.stdin.read())
sys.stdout.buffer.write(b"bytes")
"""
    script = serve(run_script, sock_path, body)
    for number in range(20):
        reply = fcgi.fetch(sock_path, f"/?{number}", body=b"body %d" % number)
        assert reply.body == b"POST %d body %d\nbytes" % (number, number)
    assert script.stop() == 0
    assert script.output() == ""


def test_a_loop_without_a_finish(run_script: Run, sock_path: str) -> None:
    """The next `accept` ends the request, and so does the end of the script."""
    source = """
        import sys
        from fcgi_procmanager import FastCGI, ProcManager

        manager = ProcManager(1)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        fcgi = FastCGI(listener, manager=manager, as_cgi=True)
        while request := fcgi.accept():
            print("\\r\\n\\r\\nlast words", end="")
            if request.params["QUERY_STRING"] == "leave":
                sys.exit()
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready(1)
    for query in ("", "", "leave", ""):
        assert fcgi.fetch(sock_path, f"/?{query}").body == b"last words"
    assert script.stop() == 0


def test_bytes_that_are_no_text(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\n" + os.environ["X_NAME"] + sys.stdin.read(), end="")
"""
    script = serve(run_script, sock_path, body)
    every = bytes(range(1, 256))
    name = every.decode("latin-1")  # the harness sends it as UTF-8
    assert fcgi.fetch(sock_path, X_NAME=name, body=every).body == name.encode() + every
    assert script.stop() == 0


def test_what_an_environment_cannot_hold(run_script: Run, sock_path: str) -> None:
    """Nor what it must not: a client chooses HTTP_PROXY, and libraries would use it."""
    body = r"""
print("\r\n\r\n" + repr(sorted(set(os.environ) - set(environment))))
"""
    script = serve(run_script, sock_path, body)
    known = fcgi.fetch(sock_path).body
    params = {"A=B": "1", "N\0L": "1", "NUL": "a\0b", "HTTP_PROXY": "http://evil", "": "1"}
    assert fcgi.fetch(sock_path, **params).body == known
    assert script.stop() == 0


def test_a_variable_of_the_process_is_there_again(run_script: Run, sock_path: str) -> None:
    script = serve(run_script, sock_path, r'print("\r\n\r\n" + os.environ["PATH"], end="")')
    assert fcgi.fetch(sock_path, PATH="/of/the/request").body == b"/of/the/request"
    assert fcgi.fetch(sock_path).body not in (b"/of/the/request", b"")
    assert script.stop() == 0


def test_a_program_that_the_script_runs(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\n" + subprocess.run("echo $QUERY_STRING", shell=True, stdout=subprocess.PIPE, text=True).stdout, end="")
"""
    script = serve(run_script, sock_path, body)
    assert fcgi.fetch(sock_path, "/?query").body == b"query\n"
    assert script.stop() == 0


def test_between_requests_it_goes_where_it_went(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\nhello", end="")
request.finish()
print("for the log", flush=True)
"""
    script = serve(run_script, sock_path, body)
    assert fcgi.fetch(sock_path).body == b"hello"
    assert script.line() == "for the log"
    assert script.stop() == 0


def test_a_stream_that_the_script_puts_in_place_itself(run_script: Run, sock_path: str) -> None:
    """It is not ours to take away, and ours may be closed."""
    source = """
        import io, sys
        from fcgi_procmanager import FastCGI, ProcManager

        manager = ProcManager(1)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        fcgi = FastCGI(listener, manager=manager, as_cgi=True)
        while request := fcgi.accept():
            print("\\r\\n\\r\\nhello", end="")
            sys.stdin.close()
            own = sys.stdout = io.StringIO()
            request.finish()
            assert sys.stdout is own
    """
    script = run_script(source, args=[sock_path])
    script.wait_ready(1)
    for _ in range(3):
        assert fcgi.fetch(sock_path).body == b"hello"
    assert script.stop() == 0


def test_a_child_that_the_script_forks_prints_for_the_log(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\nhel", end="")
if os.fork() == 0:
    print("child", flush=True)
    os._exit(0)
os.wait()
print("lo", end="")
"""
    script = serve(run_script, sock_path, body)
    assert fcgi.fetch(sock_path).body == b"hello"
    assert script.line() == "child"
    assert script.stop() == 0


def test_a_long_reply_leaves_in_pieces_and_flush_sends(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\nfirst", end="", flush=True)
sys.stdin.read(4)
print("x" * 1000000, end="")
"""
    script = serve(run_script, sock_path, body)
    reply = fcgi.fetch(sock_path, body=b"body")
    assert reply.body == b"first" + b"x" * 1000000
    assert script.stop() == 0


def test_nothing_is_left_of_a_request(run_script: Run, sock_path: str) -> None:
    body = r"""
print("\r\n\r\n", end="")
kept = sys.stdout, sys.stdin
"""
    script = serve(run_script, sock_path, body)
    (worker,) = script.workers()
    with fcgi.Client(sock_path) as client:
        client.request("/", keep=True)
        before = open_fds(worker)
        for number in range(50):
            client.request(f"/?{number}", keep=True, body=b"x" * 100000)
        assert open_fds(worker) == before
    assert script.stop() == 0


def test_a_parameter_that_is_no_flag() -> None:
    with pytest.raises(ConfigError, match="as_cgi must be True or False"):
        FastCGI(as_cgi=1)  # type: ignore[arg-type]
