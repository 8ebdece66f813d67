"""What a person can do wrong: one line that says what to do, exit status 2, and nothing of another server disturbed."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import __version__
from fcgi_procmanager.basics import accelerator
from fcgi_procmanager.system.pidfile import PidFile
from harness.process import Script, listening, refusal

Command = Callable[..., Script]

GOOD = """
import sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

settings = {"a": 1}

class Plain:
    pass
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The directory where the command is run, with a good module in it."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "good.py").write_text(GOOD)
    return folder


# The command line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("serv good", "there is no command 'serv': did you mean 'serve'?"),
        ("-w 4 -b :0 good", "'-w' is no command: did you mean 'fcgi-procmanager serve -w ...'?"),
        ("good:app -w 4", "'good:app' is no command: did you mean 'fcgi-procmanager serve good:app ...'?"),
        ("serve", "arguments are required: MODULE:NAME; see 'fcgi-procmanager serve --help'"),
        ("serve good --listn x", r"unknown option '--listn' \(did you mean --listen\?\)"),
        ("serve good --die=3", "unknown option '--die'"),
        ("serve good more", "unknown argument 'more'"),
        ("serve good -n", "-n/--processes: expected one argument"),
        ("serve good -n two", "-n/--processes: 'two' is not a whole number: give one from 0 up"),
        ("serve good -n=-1", "-n/--processes: '-1' is not a whole number"),
        ("serve good --die-timeout soon", "--die-timeout: 'soon' is not a number of seconds: give one"),
        ("serve good --die-timeout=-1", "--die-timeout: '-1' is not a number of seconds"),
        ("serve good --reload-timeout=-1", "--reload-timeout: '-1' is not a number of seconds"),
        ("serve good --body-limit 5X", "--body-limit: '5X' is not a size: give a number of bytes, or such as 200M"),
        ("serve good --body-limit M", "--body-limit: 'M' is not a size"),
        ("serve good --start-delay nan", "--start-delay: 'nan' is not a number of seconds"),
        ("serve good --listen s --socket-mode 680", "--socket-mode: '680' is not a file mode: give three octal digits"),
        ("serve good --listen s --socket-mode 4777", "--socket-mode: '4777' is not a file mode"),
        ("serve good --socket-mode 600", "are for a socket file: name it with --listen"),
        ("serve good --take-over", "--take-over is for a socket file: name it with --listen /path.sock"),
        ("serve good --take-over --listen s.sock --listen :0", "--take-over is for a socket file"),
        ("serve good --listen :port", "address ':port' is not understood: give /path.sock, host:port"),
        ("serve good --listen :99999", "a port is a number from 0 to 65535"),
        ("serve good --listen s.sock --socket-owner no-such-user", "unknown user 'no-such-user'"),
        ("serve good --web here", "--web 'here' is not understood: give HOST:PORT"),
        ("serve good --web 127.0.0.1:0 -n 0", "--web needs a worker process: give -n 1 or more"),
        ("serve good --chdir /no/such", "--chdir /no/such: No such file or directory: name a directory"),
        ("serve good", "no address to serve on: give --listen ADDRESS or --web HOST:PORT"),
        ("serve good --listen fd:77", "descriptor 77 is not a listening socket"),
        ("stop", "arguments are required: --pidfile"),
        ("reload --pidfile p --timeout x", "--timeout: 'x' is not a number of seconds"),
    ],
)
def test_a_wrong_command_line_is_one_line(command: Command, app: Path, line: str, message: str) -> None:
    assert re.search(message, refusal(command(*line.split())))
    assert sorted(entry.name for entry in app.iterdir() if entry.name != "__pycache__") == ["good.py"]


def test_version_and_help_are_for_standard_output(command: Command) -> None:
    for option, text in (("--version", f"fcgi-procmanager {__version__}\n"), ("--help", "serve a WSGI application")):
        script = command(option)
        assert text in script.output()
        assert script.wait() == 0
        assert script.log() == ""


def test_the_installed_command_is_the_module(run_script: Callable[..., Script]) -> None:
    script = run_script([Path(sys.executable).parent / "fcgi-procmanager", "--version"])
    assert script.output() == f"fcgi-procmanager {__version__}\n"
    assert script.wait() == 0


# The application

BROKEN = {
    "missing.py": "import no_such_dependency\n",
    "wrong.py": "import os\n\nundefined_name\n",
    "syntax.py": "x = 1\ndef f(:\n",
    "leaves.py": "import sys\nsys.exit('by itself')\n",
    "deep.py": "import json\ndef parse():\n    json.loads('x')\nparse()\n",
    "lines.py": "raise ValueError('one\\ntwo')\n",
    "package/__init__.py": "",
    "package/inner.py": "from package import helper\n",
    "package/helper.py": "1/0\n",
}

LOADING = [
    ("no_such", "there is no module 'no_such' in .*: check the name, or give --chdir"),
    ("goood:app", r"there is no module 'goood' in .* \(did you mean 'good'\?\)"),
    ("good.part", "there is no module 'good.part': 'good' is a module, not a package"),
    ("package.iner", r"no module 'package.iner' \(did you mean 'package.inner'\?\)"),
    ("package.inner", "package/helper.py:1: ZeroDivisionError: division by zero"),
    (
        "missing",
        r"missing.py:1: ModuleNotFoundError: .*no_such_dependency.*check --traceback --chdir .*/app missing\)$",
    ),
    ("wrong", "wrong.py:3: NameError: name 'undefined_name' is not defined"),
    ("syntax", "syntax.py:2: SyntaxError: "),
    ("leaves", "leaves.py:2: SystemExit: by itself"),
    ("deep", "deep.py:3: JSONDecodeError: Expecting value"),
    ("lines", "lines.py:1: ValueError: one two"),
    ("good:aplication", r"'good' has no attribute 'aplication' \(did you mean 'application'\?\)"),
    ("good:wsgi", r"'good' has no attribute 'wsgi' \(did you mean 'application'\?\)"),
    ("good:settings.b", "'good.settings' has no attribute 'b'"),
    ("good:settings", "good:settings is a value of type 'dict', which cannot be called: name a WSGI application"),
    ("good:sys", "good:sys is a module, which cannot be called"),
    ("good:application)", "is not understood: give MODULE:NAME"),
    ("good:", "is not understood: give MODULE:NAME"),
    (":application", "is not understood: give MODULE:NAME"),
    ("good.py", "'good.py' names a file: name the module, such as good:application"),
    ("sub/good.py", "name the module, such as good:application with --chdir sub"),
    ("sub/good.py:app", "name the module, such as good:app with --chdir sub"),
    ("package/inner.py", "name the module, such as package.inner:application$"),
    ("good.application", "did you mean good:application"),
]


def break_things(app: Path) -> None:
    for name, text in BROKEN.items():
        (app / name).parent.mkdir(exist_ok=True)
        (app / name).write_text(text)


@pytest.mark.parametrize(("spec", "message"), LOADING)
def test_an_application_that_cannot_be_loaded_is_one_line(
    command: Command, app: Path, sock_path: str, spec: str, message: str
) -> None:
    break_things(app)
    assert re.search(message, refusal(command("serve", spec, "--listen", sock_path)))


@pytest.mark.parametrize("options", [["--preload"], ["-n", "0"], ["-n", "1"], ["-n", "8"]])
@pytest.mark.parametrize(("spec", "message"), [LOADING[i] for i in (0, 6, 11)])
def test_wherever_it_is_loaded(
    command: Command, app: Path, sock_path: str, options: list[str], spec: str, message: str
) -> None:
    break_things(app)
    pidfile = app / "pid"
    more = [] if options == ["-n", "0"] else ["--pidfile", pidfile]
    script = command("serve", spec, "--listen", sock_path, *more, *options)
    assert re.search(message, refusal(script))
    assert not pidfile.exists()


def test_a_worker_that_fails_in_another_way_shows_its_traceback(command: Command, app: Path, sock_path: str) -> None:
    (app / "manager.py").write_text(
        "from fcgi_procmanager import ProcManager\n"
        "class Failing(ProcManager):\n"
        "    def server_init(self):\n"
        "        super().server_init()\n"
        "        raise RuntimeError('not today')\n"
    )
    script = command("serve", "good", "--listen", sock_path, "--manager", "manager:Failing")
    assert script.wait() == 1
    assert "RuntimeError: not today" in script.log()
    assert script.log().splitlines()[-1].endswith("no server ever became ready in 5 attempts")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("good:Plain", "good:Plain is the class 'Plain': name a class that inherits from ProcManager"),
        ("good:application", "name a class that inherits from ProcManager"),
        ("no_such:Manager", "there is no module 'no_such'"),
        ("good", "'good' names no class: give MODULE:CLASS"),
        ("narrow:Narrow", "narrow:Narrow cannot be made with n_processes: TypeError: "),
    ],
)
def test_a_manager_class_that_does_not_fit(
    command: Command, app: Path, sock_path: str, spec: str, message: str
) -> None:
    (app / "narrow.py").write_text(
        "from fcgi_procmanager import ProcManager\n"
        "class Narrow(ProcManager):\n"
        "    def __init__(self):\n"
        "        super().__init__(3)\n"
    )
    assert message in refusal(command("serve", "good", "--listen", sock_path, "--manager", spec))


# The place


@pytest.mark.leaves_socket
def test_a_socket_of_a_living_server_is_left_alone(command: Command, sock_path: str) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(sock_path)
        living.listen(8)
        message = refusal(command("serve", "good", "--listen", sock_path))
        assert message == f"{sock_path} is held by a living server: stop it or choose another path"
        assert listening(sock_path)


@pytest.mark.parametrize("option", ["--listen", "--web"])
def test_a_port_in_use_is_one_line(command: Command, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as living:
        where = f"127.0.0.1:{living.getsockname()[1]}"
        message = refusal(command("serve", "good", option, where))
        assert message == f"{where} is in use: stop the other server or choose another port"


@pytest.mark.leaves_socket
def test_what_is_not_a_socket_is_never_removed(command: Command, sock_path: str) -> None:
    Path(sock_path).write_text("precious")
    assert "is not a socket: move it away" in refusal(command("serve", "good", "--listen", sock_path))
    assert Path(sock_path).read_text() == "precious"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9000", "tcp://127.0.0.1:9000", "127.0.0.1", "9000", "localhost"])
def test_what_is_no_address_makes_no_socket_file(command: Command, app: Path, address: str) -> None:
    assert "give /path.sock or HOST:PORT" in refusal(command("serve", "good", "--listen", address))
    assert not [path for path in app.iterdir() if path.is_socket()]


def test_a_missing_directory_is_named(command: Command, app: Path) -> None:
    message = refusal(command("serve", "good", "--listen", "none/s.sock"))
    assert f"there is no directory {app}/none: create it first" in message


def test_a_pid_file_of_a_living_process_is_left_alone(command: Command, app: Path, sock_path: str) -> None:
    living = PidFile(app / "pid")
    living.acquire()
    try:
        message = refusal(command("serve", "good", "--listen", sock_path, "--pidfile", "pid"))
        assert message == f"{app}/pid is held by process {os.getpid()}: stop it first, or choose another --pidfile"
        assert (app / "pid").read_text() == f"{os.getpid()}\n"
    finally:
        living.release()


@pytest.mark.parametrize("path", ["none/pid", "/proc/pid", "good.py/pid", "."])
def test_a_pid_file_that_cannot_be_written_is_one_line(command: Command, sock_path: str, path: str) -> None:
    message = refusal(command("serve", "good", "--listen", sock_path, "--pidfile", path))
    assert re.search("cannot be used as a PID file|is not a regular file", message)


# check


def test_check_says_what_came(command: Command) -> None:
    script = command("check", "good")
    assert script.output() == f"good answers GET / with 200 OK, 5 bytes\n{accelerator.told}\n"
    assert script.wait() == 0
    assert script.log() == ""


ANSWERS = """
def raises(environ, start_response):
    return 1 / 0

def silent(environ, start_response):
    return []

def text(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["text"]

def leaves(environ, start_response):
    raise SystemExit("enough")

def writes(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])(b"abc")
    return [b"de"]

def endless(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    while True:
        yield bytes(100000)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "answers:raises fails to answer GET /: answers.py:3: ZeroDivisionError: division by zero"),
        ("silent", "answers:silent breaks the rules of WSGI: "),
        ("text", "answers:text breaks the rules of WSGI: "),
        ("leaves", "answers:leaves fails to answer GET /: answers.py:13: SystemExit: enough"),
        ("none", "'answers' has no attribute 'none'"),
    ],
)
def test_check_says_what_is_wrong(command: Command, app: Path, name: str, message: str) -> None:
    (app / "answers.py").write_text(ANSWERS)
    assert refusal(command("check", f"answers:{name}")).startswith(message)


@pytest.mark.parametrize(
    ("name", "reply"), [("writes", "404 Not Found, 5 bytes"), ("endless", "200 OK, 1100000 bytes")]
)
def test_check_accepts_any_status_and_any_way_of_writing(command: Command, app: Path, name: str, reply: str) -> None:
    (app / "answers.py").write_text(ANSWERS)
    script = command("check", f"answers:{name}")
    assert script.output() == f"answers:{name} answers GET / with {reply}\n{accelerator.told}\n"
    assert script.wait() == 0


def test_check_warns_of_what_workers_would_share_or_lack(command: Command, app: Path) -> None:
    (app / "left.py").write_text(
        "import socket, threading\n"
        "from good import application\n"
        "held = socket.socket()\n"
        "threading.Thread(target=threading.Event().wait, name='ticker').start()\n"
    )
    script = command("check", "left")
    assert script.output() == f"left answers GET / with 200 OK, 5 bytes\n{accelerator.told}\n"
    assert script.wait() == 0, "a thread that never ends must not keep the command"
    assert re.fullmatch(
        r"fcgi-procmanager: warning: loading left left the thread 'ticker' running and a socket open .*\n", script.log()
    )


# Byte code

CACHING = """
    import os, sys, time
    from fcgi_procmanager.cli.loading import cache_settled_sources_only, search_here
    search_here()
    cache_settled_sources_only()
    for name, age in ("fresh", -1), ("settled", 10):  # seconds; up to two are fresh, and this may be held up
        with open(name + ".py", "w") as file:
            file.write("x = 1")
        os.utime(name + ".py", (time.time() - age,) * 2)
        __import__(name)
        print(name, os.path.exists(sys.modules[name].__cached__))
"""


def test_byte_code_of_a_source_that_may_change_again_within_its_second_is_not_kept(
    run_script: Callable[..., Script], app: Path
) -> None:
    script = run_script(CACHING, cwd=app)
    assert script.lines(2) == ["fresh False", "settled True"]
    assert script.wait() == 0
