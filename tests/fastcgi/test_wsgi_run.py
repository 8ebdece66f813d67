"""`WSGIServer`'s constructor, what its subclasses override, and `run()` in each of its shapes: pool, single process, CGI."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import FastCGI, ProcManager, WSGIServer
from fcgi_procmanager.errors import ConfigError
from harness import fcgi
from harness.process import Script, free_port, wait_until

Run = Callable[..., Script]

POOL = """
    import json, sys
    from fcgi_procmanager import ProcManager, WSGIServer
    from fcgi_procmanager.fastcgi import request
    from harness.inside import say

    request._UNREAD_SECONDS = 60  # the test may be preempted while it sends

    def application(environ, start_response):
        if environ.get("PATH_INFO") == "/raise":
            raise RuntimeError("<script>alert('x')</script>")
        start_response("200 OK", [("Content-Type", "text/plain")])
        shown = {{name: value for name, value in environ.items() if isinstance(value, (str, bool))}}
        return [json.dumps(shown).encode()]

    {subclass}

    manager = ProcManager(n_processes={n}, die_timeout=60)
    {server}(application, manager=manager, bindAddress={address!r}, {options}).run()
"""


def pool(run_script: Run, address: Any, options: str = "", subclass: str = "pass", n: int = 1, **kw: Any) -> Script:
    server = "Server" if subclass != "pass" else "WSGIServer"
    indented = subclass.replace("\n", "\n    ")
    script = run_script(POOL.format(subclass=indented, n=n, server=server, address=address, options=options), **kw)
    script.wait_ready(n)
    return script


def fetch(path: Any, url: str = "/", **kw: Any) -> fcgi.Reply:
    reply = fcgi.fetch(path, url, **kw)
    assert reply.ended
    return reply


# The constructor


def application(environ: Any, start_response: Any) -> Any:
    raise AssertionError("never called")


def test_multiplexed_is_taken_and_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    """web.py asks for it. The handlers of pytest are those of a root logger that somebody has configured."""
    with caplog.at_level("INFO"):
        WSGIServer(application, multiplexed=True)
    assert caplog.text.count("multiplexed=True has no effect") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"body_without_length": "no"},
        {"body_limit": -1},
        {"body_limit": "1M"},
        {"threads": 0},
        {"threads": True},
        {"umask": "022"},
        {"head_timeout": 0},
        {"send_timeout": "x"},
        {"idle_timeout": -1},
    ],
)
def test_wrong_values_are_refused_at_construction(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WSGIServer(application, **wrong)
    with pytest.raises(TypeError, match="no_such_option"):
        WSGIServer(application, no_such_option=1)


def test_application_must_be_callable() -> None:
    with pytest.raises(ConfigError, match="application"):
        WSGIServer("application")  # type: ignore[arg-type]


def test_application_must_not_be_for_asgi() -> None:
    class Asgi:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    for found in (Asgi(), Asgi().__call__):
        with pytest.raises(ConfigError, match="is for ASGI"):
            WSGIServer(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["/run/app.sock", 3, [], [5]])
def test_a_listener_must_be_one(wrong: Any) -> None:
    for server in (lambda: WSGIServer(application, listener=wrong), lambda: FastCGI(wrong)):
        with pytest.raises(ConfigError, match=r"listener must be what manager.listen\(\) returned"):
            server()


def test_a_manager_in_the_place_of_something_else() -> None:
    """One line that says what was meant."""
    for server in (
        lambda: WSGIServer(application, ProcManager(4), "/nowhere"),
        lambda: FastCGI(manager=4),
        lambda: FastCGI(ProcManager(4)),
    ):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="manager=") as raised:
            server()
        assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"write manager=ProcManager\(3\)"):
        WSGIServer(application, manager=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"must be a ProcManager, not <class .*write manager=ProcManager\(4\)"):
        WSGIServer(application, manager=ProcManager)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="environ must be a dict, not"):
        WSGIServer(application, "/run/app.sock")  # type: ignore[arg-type]


def test_constructor_of_flup() -> None:
    """Every parameter by its position in flup, and the attributes that its subclasses use."""
    server = WSGIServer(application, {"A": "1"}, "/nowhere", 0o77, False, True, (1, 2), False)
    assert (server.application, server.environ, server.debug, server.roles) == (application, {"A": "1"}, True, (1, 2))
    assert (server.multithreaded, server.multiprocess, server.forceCGI) == (False, False, False)
    assert WSGIServer(application, manager=ProcManager(n_processes=3)).multiprocess


@pytest.mark.parametrize(("umask", "mode"), [(None, 0o660), (0o077, 0o700), (0o007, 0o770), (0, 0o777)])
def test_umask_is_the_mode_of_the_socket(run_script: Run, sock_path: str, umask: int | None, mode: int) -> None:
    script = pool(run_script, sock_path, f"umask={umask}")
    assert stat.S_IMODE(os.stat(sock_path).st_mode) == mode
    assert fetch(sock_path).status == 200
    assert script.stop() == 0


def test_environ_is_added_to_each_request(run_script: Run, sock_path: str) -> None:
    script = pool(run_script, sock_path, "environ={'APP_HOME': '/srv', 'HTTP_HOST': 'fixed'}")
    for _ in range(2):
        environ = json.loads(fetch(sock_path, HTTP_HOST="other").body)
        assert (environ["APP_HOME"], environ["HTTP_HOST"]) == ("/srv", "fixed")
    assert script.stop() == 0


def test_tcp(run_script: Run) -> None:
    address = ("127.0.0.1", free_port())
    script = pool(run_script, address)
    assert fetch(address).status == 200
    body = b"x" * 300_000
    assert fetch(address, "/", body=body).status == 200
    with fcgi.Client(address) as client:  # refused, and the refusal arrives although the parameters were not read
        client.send(fcgi.request_bytes(role=fcgi.AUTHORIZER))
        assert client.read_reply().protocol_status == fcgi.UNKNOWN_ROLE
    assert script.stop() == 0


# Roles


def test_roles_that_are_not_wanted(run_script: Run, sock_path: str) -> None:
    script = pool(run_script, sock_path)
    for role in (fcgi.AUTHORIZER, fcgi.FILTER, 9):
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes(role=role, keep=True))
            reply = client.read_reply()
            assert (reply.protocol_status, reply.stdout) == (fcgi.UNKNOWN_ROLE, b"")
            assert client.request("/").status == 200
    assert script.stop() == 0


def test_authorizer_and_filter(run_script: Run, sock_path: str) -> None:
    subclass = """
class Server(WSGIServer):
    def handler(self, req):
        if req.role != 3:
            return super().handler(req)
        body = req.stdin.read() if req.params["QUERY_STRING"] == "body" else b"-"
        req.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\n" + body + b"|" + req.data.read(3) + b"|" + req.data.read())
        return 0, 7
"""
    script = pool(run_script, sock_path, "roles=(1, 2, 3)", subclass)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(role=fcgi.AUTHORIZER, keep=True))
        assert client.read_reply().status == 200
        for size in (0, 5, 300_000):
            data = bytes(range(256)) * (size // 256 + 1)
            for query, body in (("body", b"the body"), ("", b"-")):
                sent = b"the body" if size < 6 else b"the body" * 20_000
                stream = fcgi.request_bytes(role=3, keep=True, body=sent, data=data[:size], path=f"/?{query}")
                _send(client, stream)
                reply = client.read_reply()
                expected = (sent if query else body) + b"|" + data[:size][:3] + b"|" + data[:size][3:]
                assert reply.body == expected
                assert reply.app_status == 7
    assert script.stop() == 0


def _send(client: fcgi.Client, data: bytes) -> None:
    client.send(data)


# What subclasses override


def test_debug_page_escapes(run_script: Run, sock_path: str) -> None:
    script = pool(run_script, sock_path, "debug=True")
    reply = fetch(sock_path, "/raise")
    assert reply.status == 500
    assert b"RuntimeError" in reply.body
    assert b"<script>" not in reply.body
    assert script.stop() == 0


def test_error_of_a_subclass(run_script: Run, sock_path: str) -> None:
    subclass = """
class Server(WSGIServer):
    def error(self, req):
        if req.params.get("QUERY_STRING") == "again":
            raise ValueError("in the error page")
        kind = sys.exc_info()[0].__name__
        req.stdout.write(f"Status: 503 Busy\\r\\nContent-Type: text/plain\\r\\n\\r\\nsorry: {kind}".encode())
"""
    script = pool(run_script, sock_path, "", subclass)
    reply = fetch(sock_path, "/raise")
    assert (reply.status, reply.body) == (503, b"sorry: RuntimeError")
    assert not fcgi.fetch(sock_path, "/raise?again").ended
    script.wait_log("ValueError: in the error page")
    assert fetch(sock_path).status == 200
    assert "exited" not in script.log()  # the worker has survived it
    assert script.stop() == 0


def test_handler_of_a_subclass(run_script: Run, sock_path: str) -> None:
    subclass = """
class Server(WSGIServer):
    def handler(self, req):
        if req.params["PATH_INFO"] == "/wsgi":
            return super().handler(req)
        req.stderr.write(b"to the error log")
        req.stdout.write("Content-Type: text/plain\\r\\n\\r\\nby hand ")
        req.stdout.writelines([b"in ", b"lines"])
        req.stdout.flush()
        return 0, 3
"""
    script = pool(run_script, sock_path, "", subclass)
    reply = fetch(sock_path, "/other", body=b"unread")
    assert (reply.body, reply.stderr, reply.app_status) == (b"by hand in lines", b"to the error log", 3)
    assert json.loads(fetch(sock_path, "/wsgi").body)["PATH_INFO"] == "/wsgi"
    assert script.stop() == 0


# Who may connect


@pytest.mark.parametrize(
    ("allowed", "served"), [("127.0.0.1", True), (" 10.0.0.1 , 127.0.0.1", True), ("10.0.0.1", False)]
)
def test_web_server_addresses(run_script: Run, allowed: str, served: bool) -> None:
    address = ("127.0.0.1", free_port())
    script = pool(run_script, address, env={"FCGI_WEB_SERVER_ADDRS": allowed})
    with fcgi.Client(address) as client:
        try:
            client.send(fcgi.request_bytes())
            reply = client.read_reply()
        except (ConnectionResetError, BrokenPipeError):
            reply = fcgi.Reply()
    assert reply.ended is served
    assert script.stop() == 0


# A single process


SINGLE = """
    import sys
    from fcgi_procmanager import WSGIServer
    from harness.inside import say

    def application(environ, start_response):
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/slow":
            say("busy")
            sys.stdin.readline()
        return [str(environ["wsgi.multiprocess"]).encode()]

    server = WSGIServer(application, bindAddress=sys.argv[1])
    for _ in range(int(sys.argv[2])):
        say("run")
        say("returned", server.run())
"""


@pytest.mark.parametrize(
    ("number", "returned"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGHUP, True)]
)
def test_single_process(run_script: Run, sock_path: str, number: int, returned: bool) -> None:
    script = run_script(SINGLE, args=[sock_path, 1])
    assert script.line() == "run"
    wait_until(lambda: os.path.exists(sock_path))
    assert wait_until(lambda: _try(sock_path)).body == b"False"
    script.signal(number)
    assert script.line() == f"returned {returned}"
    assert script.wait() == 0
    assert not os.path.exists(sock_path)


def test_single_process_runs_again(run_script: Run, sock_path: str) -> None:
    """`while server.run(): pass`, as with flup."""
    script = run_script(SINGLE, args=[sock_path, 3])
    for _ in range(3):
        assert script.line() == "run"
        assert wait_until(lambda: _try(sock_path)).ended
        script.signal(signal.SIGHUP)
        assert script.line() == "returned True"
    assert script.wait() == 0


def test_single_process_finishes_its_request(run_script: Run, sock_path: str) -> None:
    read, write = os.pipe()
    try:
        script = run_script(SINGLE, args=[sock_path, 1], stdin=read)
        assert wait_until(lambda: _try(sock_path)).ended
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes(path="/slow"))
            assert script.lines(2) == ["run", "busy"]
            script.signal(signal.SIGTERM)
            os.write(write, b"\n")
            assert client.read_reply().ended
        assert script.line() == "returned False"
        assert script.wait() == 0
    finally:
        os.close(read)
        os.close(write)


def _try(path: str) -> Any:
    try:
        return fcgi.fetch(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


# CGI


CGI = """
    import sys
    from wsgiref.validate import validator
    from fcgi_procmanager import ProcManager, WSGIServer

    @validator
    def application(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["QUERY_STRING"].encode() + b" " + body]

    WSGIServer(application, manager=ProcManager(n_processes=2), {options}).run()
"""


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ("", {}),
        ("forceCGI=True, bindAddress='/nonexistent/never'", {}),
        ("bindAddress='/nonexistent/never'", {"FCGI_FORCE_CGI": "Yes"}),
    ],
)
def test_cgi(tmp_path: Path, options: str, extra: dict[str, str]) -> None:
    """Started by a web server for one request, without a listening socket."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(CGI.format(options=options)))
    environ = {
        **fcgi.cgi_params("/x?query", b"the body"),
        **extra,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run(
        [sys.executable, str(script)], input=b"the body", env=environ, capture_output=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"Status: 200 OK\r\n")
    assert body == b"query the body"


def test_descriptor_zero(run_script: Run, sock_path: str) -> None:
    """Started by a web server as a FastCGI application: the same script serves."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock_path)
        listener.listen()
        script = run_script(CGI.format(options=""), stdin=listener, env={"GATEWAY_INTERFACE": "CGI/1.1"})
    script.wait_ready(2)
    assert fetch(sock_path, "/x?query", body=b"the body").body == b"query the body"
    assert script.stop() == 0
    assert os.path.exists(sock_path)  # its owner removes it
    os.unlink(sock_path)
