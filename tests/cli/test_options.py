"""The options of `serve`, as people bring them from other servers, and as its help tells them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.cli.borrowed import ELSEWHERE, SAME
from fcgi_procmanager.cli.configcheck import commands
from harness import fcgi
from harness.process import Script, free_port, listening, refusal, wait_until

Command = Callable[..., Script]

APP = """
import os, threading

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    umask = os.umask(0o077)
    os.umask(umask)
    said = [os.environ.get("GREETING"), environ["wsgi.multithread"], f"{umask:o}", os.getpid()]
    return [" ".join(map(str, said)).encode()]

def create_app(greeting="nothing", *, times=1):
    def made(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [(greeting * times).encode()]
    return made
"""

ZONE = """
import time

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [time.strftime("%z").encode()]
"""

# Answers when two requests are in hand at once.
PAIR = """
import threading

both = threading.Barrier(2)

def application(environ, start_response):
    both.wait(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"together"]
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "myapp.py").write_text(APP)
    (folder / "my-app.py").write_text(APP)
    return folder


def origins(script: Script) -> dict[str, str]:
    """What `config` says of the command line."""
    assert script.wait() == 0, script.log()
    return dict(re.findall(r"^([a-z-]+) = (.*?) +# command line$", script.output(), re.MULTILINE))


# From gunicorn and uvicorn


def test_what_means_the_same_is_taken(command: Command, app: Path) -> None:
    line = "-w 3 -b unix:/tmp/x.sock --bind :9000 -b fd://5 -D -e A=1 -u root -g root -m 027 -p pid --reload"
    found = origins(command("config", "serve", "myapp", *line.split(), "--error-logfile", "log"))
    assert found == {
        "application": '"myapp"',
        "processes": "3",
        "listen": '["/tmp/x.sock", ":9000", "fd:5"]',
        "daemon": "true",
        "env": '["A=1"]',
        "user": '"root"',
        "group": '"root"',
        "umask": "0o27",
        "pidfile": f'"{app}/pid"',
        "watch": "true",
        "log-file": f'"{app}/log"',
    }


def test_each_of_them_has_an_option_of_ours() -> None:
    known = commands()["serve"].parser._option_string_actions
    for theirs, ours in SAME.items():
        assert known[theirs].dest == known[ours].dest
        assert theirs != ours


@pytest.mark.parametrize("name", [name for names, _ in ELSEWHERE for name in names])
def test_of_what_means_something_else_one_line_says_what_to_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = commands()["serve"].parser
    assert name not in parser._option_string_actions
    for word in (name, f"{name}=3" if name.startswith("--") else f"{name}3"):
        with pytest.raises(SystemExit) as stop:
            parser.unknown(word)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"fcgi-procmanager: {name} is ")
        assert line.endswith("; see 'fcgi-procmanager serve --help'")


@pytest.mark.parametrize("text", [text for _, text in ELSEWHERE])
def test_what_these_lines_name_is_there(text: str) -> None:
    known = commands()["serve"].parser._option_string_actions
    assert not {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)} - {*known}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--timeout 30", "--timeout is --request-timeout here: the request gets 504"),
        ("-t30", "-t is --request-timeout here"),
        ("-k gevent", "-k is not needed: a worker serves one request at a time, or as many as --threads says"),
        ("--host=0.0.0.0 --port 80", "--host is part of an address here: --web HOST:PORT for browsers"),
        (
            "-b localhost",
            "argument -b/--bind: 'localhost' is not understood: give unix:/path.sock, HOST:PORT or fd://N",
        ),
        ("-c gunicorn.conf.py", "gunicorn.conf.py: options are in a file of TOML here, not of Python"),
    ],
)
def test_as_it_is_typed(command: Command, line: str, message: str) -> None:
    for words in (["myapp", *line.split()], [*line.split(), "myapp"]):
        assert refusal(command("serve", *words)).startswith(message)


def test_a_key_of_theirs_in_a_file(command: Command, app: Path) -> None:
    (app / "file.toml").write_text('[pool.web]\napplication = "myapp"\nworkers = 3\ntimeout = 3\n')
    script = command("check", "--config", "file.toml")
    assert script.wait() == 2
    assert script.log().splitlines() == [
        "file.toml:3: unknown key workers: it is processes here",
        "file.toml:4: unknown key timeout: it is --request-timeout here: the request gets 504, "
        "and a worker that does not come back is killed",
    ]


# The help


@pytest.mark.parametrize("name", ["serve", "exec"])
def test_each_option_is_in_a_group_and_tells_its_default(name: str) -> None:
    configured = commands()[name]
    parser = configured.parser
    loose = {action.dest for action in parser._optionals._group_actions if action.help != argparse.SUPPRESS}
    assert loose == {"help"}
    for option in configured.options:
        action = configured._actions[option.key]
        if not action.option_strings or isinstance(action, argparse._StoreTrueAction):
            continue
        told = re.search(r"\(.*default: ([^)]*)\)$", str(action.help))
        assert told, option.key
        default = configured.in_force(option.key, option.default)
        if default not in (None, [], 0):
            assert told[1] == (f"{default:g}" if isinstance(default, float) else str(default)), option.key


def test_without_a_command_each_is_a_line(command: Command) -> None:
    script = command()
    assert script.output() == ""
    assert script.wait() == 2
    first, *lines, last = script.log().splitlines()
    assert first == "fcgi-procmanager: which command?"
    assert last == "see 'fcgi-procmanager COMMAND --help'"
    assert "  serve       serve a WSGI application" in lines
    assert all(re.fullmatch(r"  [a-z]+ +[\w ]+", line) for line in lines)


# New ones, from the command line, variables and a file

NEW = {"threads": "2", "umask": "027", "backlog": "5", "idle-timeout": "7.5", "env": "GREETING=hello"}


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_new_options_from_anywhere(command: Command, app: Path, sock_path: str, how: str) -> None:
    words, env, file = [], {}, [f'[pool.web]\napplication = "myapp"\nlisten = "{sock_path}"\nprocesses = 1']
    for key, value in NEW.items():
        if how == "option":
            words += [f"--{key}", value]
        elif how == "variable":
            env[f"FCGI_PROCMANAGER_{key.upper().replace('-', '_')}"] = value
        else:
            file.append(f'{key} = "{value}"')
    (app / "file.toml").write_text("\n".join(file))
    script = command("serve", "--config", "file.toml", *words, "--pidfile", "pid", env=env)
    script.wait_ready(1)
    greeting, multithread, umask, _ = fcgi.fetch(sock_path).text.split()
    assert (greeting, multithread, umask) == ("hello", "True", "27")
    assert stat.S_IMODE(os.stat(app / "pid").st_mode) & 0o027 == 0
    assert script.stop() == 0


def test_threads_serve_together(command: Command, app: Path, sock_path: str) -> None:
    (app / "pair.py").write_text(PAIR)
    script = command("serve", "pair", "--listen", sock_path, "-n", "1", "--threads", "2")
    script.wait_ready(1)
    with fcgi.Client(sock_path) as one, fcgi.Client(sock_path) as other:
        for client in (one, other):
            client.send(fcgi.request_bytes())
        assert [client.read_reply().text for client in (one, other)] == ["together"] * 2
    assert script.stop() == 0


@pytest.mark.parametrize("address", ["SOCK", "PORT"])
def test_the_backlog_is_that_of_the_socket(command: Command, sock_path: str, address: str) -> None:
    place = sock_path if address == "SOCK" else f"127.0.0.1:{free_port()}"
    script = command("serve", "myapp", "--listen", place, "--backlog", "5", "-n", "1", "--pidfile", "pid")
    script.wait_ready(1)
    status = command("status", "--pidfile", "pid", "--json")
    assert status.wait() == 0, status.log()
    assert json.loads(status.output())["listen queue len"] == 5
    assert script.stop() == 0


def test_a_variable_that_is_taken_out_of_the_file_is_gone_after_a_reload(
    command: Command, app: Path, sock_path: str
) -> None:
    text = f'[pool.web]\napplication = "myapp"\nlisten = "{sock_path}"\nprocesses = 1\npidfile = "pid"\n'
    (app / "file.toml").write_text(text + 'env = "GREETING=hello"\n')
    script = command("serve", "--config", "file.toml")
    script.wait_ready(1)
    assert fcgi.fetch(sock_path).text.startswith("hello ")
    (app / "file.toml").write_text(text)
    reload = command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log() + script.log()
    wait_until(lambda: fcgi.fetch(sock_path).text.startswith("None "), 20, script.log)
    assert script.stop() == 0


@pytest.mark.parametrize("manager", [(), ("--manager", "fcgi_procmanager:PoolManager")])
def test_the_time_zone_is_a_variable_as_any_other(
    command: Command, app: Path, sock_path: str, manager: tuple[str, ...]
) -> None:
    (app / "zone.py").write_text(ZONE)
    script = command("serve", "zone", "--listen", sock_path, "-n", "1", "--env", "TZ=XYZ-9", *manager)
    script.wait_ready(1)
    assert fcgi.fetch(sock_path).text == "+0900"
    assert script.stop() == 0


def test_the_value_of_a_variable_is_in_no_log(command: Command, sock_path: str) -> None:
    words = ("-e", "A=secret", "--env", "B=secret", "--env=C=secret", "-eD=secret=more", "--manager-process-name=m=1")
    script = command("serve", "myapp", "--listen", sock_path, "-n", "1", *words)
    script.wait_ready(1)
    script.signal(signal.SIGUSR2)
    (line,) = script.wait_log("executing the new code: .*")
    assert line[0].endswith(" -e A=... --env B=... --env=C=... -eD=... --manager-process-name=m=1")
    script.wait_ready(2)
    assert script.stop() == 0
    assert "secret" not in script.log()


def test_umask_and_backlog_of_exec(command: Command, app: Path, sock_path: str) -> None:
    words = ("--listen", sock_path, "--umask", "027", "--env", "A=b", "-n", "1", "--backlog", "5")
    script = command("exec", *words, "--", "/bin/sh", "-c", 'echo "$A $(umask)"; exec sleep 600')
    assert script.line() == "b 0027"
    assert room(sock_path) == 6, "one more than the backlog, as ever"
    assert script.stop() == 0


def room(path: str) -> int:
    """How many connections a Unix socket takes that nobody accepts."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(path)
            except BlockingIOError:
                return number
    return 100


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("myapp:create_app()", "nothing"),
        ("myapp:create_app('hello', times=2)", "hellohello"),
        ("my-app:create_app('dash')", "dash"),
    ],
)
def test_a_factory_is_called_with_plain_values(command: Command, sock_path: str, spec: str, text: str) -> None:
    script = command("serve", spec, "--listen", sock_path, "-n", "1")
    script.wait_ready(1)
    assert fcgi.fetch(sock_path).text == text
    assert script.stop() == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("myapp:create_app(open('x'))", "is not understood: give MODULE:NAME(...) with plain values"),
        ("myapp:create_app(**{})", "is not understood: give MODULE:NAME(...) with plain values"),
        ("myapp:create_app()()", "is not understood: give MODULE:NAME(...) with plain values"),
        ("myapp:create_app('a').made('b')", "is not understood: give MODULE:NAME(...) with plain values"),
        (
            "myapp:create_app(1, 2)",
            "myapp:create_app(1, 2) fails: TypeError: create_app() takes from 0 to 1 positional",
        ),
        ("myapp:APP()", "'myapp' has no attribute 'APP'"),
        ("my-ap", "there is no module 'my-ap' in "),
        ("my-app.py", "'my-app.py' names a file: name the module, such as my-app:application"),
    ],
)
def test_names_that_are_wrong(command: Command, sock_path: str, spec: str, message: str) -> None:
    assert message in refusal(command("serve", "--listen", sock_path, spec))


# Options without an effect


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--listen :0 --socket-mode 600", "are for a socket file: name it with --listen /path.sock"),
        ("--listen fd:0 --socket-owner root", "are for a socket file: name it with --listen /path.sock"),
        ("--listen fd:0 --backlog 3", "--backlog is for a socket that is made here"),
        ("--web :0 --listen fd:0 --backlog 3", "--backlog is for a socket that is made here"),
        ("--umask 22", "argument --umask: '22' is not clear: give three octal digits, such as 022"),
        ("--backlog 0", "argument --backlog: 0 is too few: give a whole number from 1 up"),
        ("--min-spare 2", "--min-spare has no effect while --pool is static: give --pool dynamic"),
        ("--pool ondemand --max-spare 2", "--max-spare has no effect while --pool is ondemand"),
        ("--process-idle-timeout 2", "--process-idle-timeout has no effect while --pool is static"),
        ("--pool per-request --max-requests 2", "--max-requests has no effect while --pool is per-request"),
        ("--request-grace 2", "--request-grace has no effect without --request-timeout: give that too"),
        ("--slow-log x", "--slow-log has no effect without --slow-after"),
        ("--access-format json", "--access-format has no effect without --access-log"),
        ("--memory-measure pss", "--memory-measure has no effect without --max-memory"),
        ("--emergency-restart-interval 3", "has no effect without --emergency-restart-threshold"),
        ("--reload-mode plain --reload-slice 1", "--reload-slice has no effect with --reload-mode plain"),
        ("-n 0 --touch x", "--touch needs a worker process: give -n 1 or more"),
        ("-n 0 --max-requests 3", "--max-requests needs a worker process"),
        ("-n 0 --pidfile pid", "--pidfile needs a worker process"),
        ("-n 0 --watch", "--watch needs a worker process"),
        ("-n 0 --web :0", "--web needs a worker process"),
        ("-n 0 --daemon", "--daemon needs a worker process"),
        ("-n 0 --log-file x", "--log-file needs a worker process"),
        ("-n 0 --preload", "--preload needs a worker process"),
        ("-n 0 --pool ondemand", "--pool needs a worker process"),
        ("-n 0 --pool dynamic --min-spare 1", "--pool needs a worker process"),
        ("-n 0 --reload-mode plain", "--reload-mode needs a worker process"),
        ("-n 0 --die-timeout 0", "--die-timeout needs a worker process"),
        ("--env PYTHONPATH=x", "--env PYTHONPATH: it is read when Python starts: set the variable before the command"),
        ("--env FCGI_PROCMANAGER_PROCESSES=3", "it is for this command: give the option itself"),
        ("--env X", "--env 'X' is not understood: give NAME=VALUE"),
        ("--env =secret", "--env '=...' is not understood: give NAME=VALUE"),
    ],
)
def test_an_option_without_an_effect_is_one_line(command: Command, line: str, message: str) -> None:
    for name in ("serve", "check"):
        assert message in refusal(command(name, "myapp", *line.split()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--interval 2 --ready-timeout 3", "--interval has no effect beside --ready-timeout: leave one of them out"),
        ("--pool-name web", "--pool-name chooses a pool of a file: give --config FILE, or leave it out"),
        ("--listen :0 --socket-mode 600", "are for a socket file: name it with --listen /path.sock"),
        ("--backlog 3", "--backlog is for a socket that is made here"),
    ],
)
def test_an_option_of_exec_without_an_effect_is_one_line(command: Command, line: str, message: str) -> None:
    assert message in refusal(command("exec", *line.split(), "--", "true"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--port 0 --socket-mode 600", "--socket-mode and --socket-owner are for a socket file: name it with --path"),
        ("--port 0 --restart-timeout 3", "--restart-timeout is for --restart: give that too, or leave it out"),
    ],
)
def test_an_option_of_the_superdaemon_without_an_effect_is_one_line(
    run_script: Callable[..., Script], line: str, message: str
) -> None:
    script = run_script([sys.executable, "-m", "fcgi_procmanager.starter", *line.split(), "--", "true"])
    assert script.wait() == 2, script.log()
    (said,) = script.log().splitlines()
    assert message in said


OF_WORKERS = """
web = "127.0.0.1:0"
watch = true
daemon = true
log-file = "log"
pidfile = "pid"
preload = true
pool = "dynamic"
min-spare = 2
process-idle-timeout = 3
request-timeout = 3
request-grace = 1
reload-mode = "plain"
die-timeout = 0
"""


def test_a_single_process_on_the_command_line_overrules_a_file(command: Command, app: Path, sock_path: str) -> None:
    text = f'[pool.web]\napplication = "myapp"\nlisten = "{sock_path}"\nmax-requests = 3\n'
    (app / "file.toml").write_text(text + OF_WORKERS)
    script = command("serve", "--config", "file.toml", "-n", "0", "--pool", "static", "--log-file", "-")
    wait_until(lambda: os.path.exists(sock_path) and listening(sock_path), 60, script.log)
    assert fcgi.fetch(sock_path).text.startswith("None ")
    assert script.stop() == 0
    assert not {"log", "pid"} & {*os.listdir(app)}
    (app / "file.toml").write_text(text + "processes = 0\n")
    assert (
        refusal(command("serve", "--config", "file.toml")) == "--max-requests needs a worker process: give -n 1 or more"
    )
