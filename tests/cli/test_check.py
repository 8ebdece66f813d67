"""`check` in the place of `serve`: the same options, the same errors, and what it tells to paste works anywhere."""

from __future__ import annotations

import functools
import os
import pwd
import re
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.cli.callables import why_no_application
from fcgi_procmanager.cli.configcheck import commands
from harness.process import Script, refusal

Command = Callable[..., Script]

FILES = {
    "myapp.py": """
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.environ.get("GREETING", "none").encode()]

def create_app():
    return application

class Settings:
    pass

async def asgi(scope, receive, send):
    pass
""",
    "broken.py": "import inner\n",
    "inner.py": """
def setting(name):
    try:
        return {}[name]
    except KeyError as error:
        raise RuntimeError("no configuration") from error

setting("DB")
""",
    "greeted.py": "import os\nos.environ['GREETING']\nfrom myapp import application\n",
    "hooks.py": "from fcgi_procmanager import ProcManager\nclass Manager(ProcManager):\n    pass\n",
    "failing.py": "def application(environ, start_response):\n    return 1 / 0\n",
}


USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "the app"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_it_takes_every_option_of_serve(command: Command, tmp_path: Path) -> None:
    """One for each of its types is enough: they come from one function."""
    words = (
        "--listen s.sock --pidfile pid --daemon --log-file log -n 3 --threads 2 --max-memory 200M --env GREETING=hello"
    )
    script = command("check", "myapp", *words.split(), "--chdir", "the app", cwd=tmp_path)
    assert script.wait() == 0, script.log()
    assert script.output().startswith("myapp answers GET / with 200 OK, 5 bytes\n")
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.suffix in (".sock", "") and entry.is_file()) == []


def test_it_has_all_of_them(command: Command) -> None:
    script = command("check", "--help")
    text = script.output()
    assert script.wait() == 0
    for option in commands()["serve"].options:
        if option.key != "application":
            assert f"--{option.key} " in text, option.key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing", "there is no module 'nothing' in "),
        ("myapp:create_app", "can be called without arguments, so it is a factory: name what it returns, as 'myapp:create_app()'"),
        ("myapp:Settings", "myapp:Settings is a class: name an object of it"),
        ("myapp:asgi", "myapp:asgi is an ASGI application, and this serves WSGI: wrap it"),
        ("broken", "inner.py:6: RuntimeError: no configuration (caused by inner.py:4: KeyError: 'DB') (for the traceback: "),
        ("myapp --chdir no", "--chdir no: No such file or directory: name a directory that can be entered"),
        ("myapp --user no-such-user", "no-such-user"),
        ("myapp --timeout 3", "--timeout is --request-timeout here"),
        ("myapp --web here", "--web 'here' is not understood"),
        ("myapp --manager hooks:Manger", "'hooks' has no attribute 'Manger' (did you mean 'Manager'"),
        ("myapp --manager hooks", "'hooks' names no class: give MODULE:CLASS"),
        ("myapp --manager hooks:Manager --max-age 1h", "--max-age is for a PoolManager: derive Manager from it"),
        ("myapp --pool dynamic --min-spare 9 -n 3", "min_spare"),
    ],
)  # fmt: skip
def test_a_mistake_has_the_same_line_in_both(command: Command, sock_path: str, words: str, message: str) -> None:
    told = [refusal(command(name, *words.split(), "--listen", sock_path)) for name in ("check", "serve")]
    assert message in told[0]
    assert told[0].replace("procmanager check --help", "procmanager serve --help") == told[1]


def pasted(line: str) -> str:
    found = re.search(r" \(for the traceback: (.*)\)$", line)
    assert found, line
    return found[1]


@pytest.mark.parametrize(
    "words",
    [
        "broken",
        "broken --chdir .",
        "failing",
        "myapp --manager broken:X",
        f"broken --user {USER}",
        "--config f --pool-name web",
    ],
)
def test_what_it_tells_to_paste_works_anywhere(
    command: Command, run_script: Callable[..., Script], app: Path, words: str
) -> None:
    (app / "f").write_text('[pool.web]\napplication = "broken"\nenv = "X=1"\nchdir = "."\n[pool.other]\n')
    script = command("check", *words.split())
    assert script.wait() == 2
    hint = pasted(script.log().splitlines()[-1])
    again = run_script(["sh", "-c", hint], cwd="/")
    assert again.wait() == 2
    *trace, last = again.log().splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert "The above exception was the direct cause" in again.log() or "1 / 0" in again.log()
    assert last == script.log().splitlines()[-1]


def test_what_a_variable_says_is_not_told_again(command: Command) -> None:
    message = refusal(command("check", "broken", "--env", "PASSWORD=secret"))
    assert pasted(message) == "the same words, with 'check --traceback' as the command"


def test_a_pool_of_a_file_is_loaded_when_it_is_named(command: Command, app: Path) -> None:
    (app / "file.toml").write_text("""
        [pool.web]
        application = "greeted"
        env = "GREETING=hello"
        [pool.maps]
        command = ["maps"]
    """)
    order = "file.toml is in order: pool web (serve), pool maps (exec)\n"
    for more, loaded in (
        ((), ""),
        (("--pool-name", "maps"), ""),
        (("--pool-name", "web"), "greeted answers GET / with 200"),
    ):
        script = command("check", "--config", "file.toml", *more)
        assert script.wait() == 0, script.log()
        text = script.output()
        assert text.startswith(order + loaded)
        assert loaded or text == order


# What a callable is


class Answer:
    def __init__(self, environ: object, start_response: object) -> None:
        pass


class Framework:
    def __init__(self, name: str = "x") -> None:
        pass

    def __call__(self, environ: object, start_response: object) -> None:
        pass


class Starlette:
    def __init__(self, debug: bool = False) -> None:
        pass

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        pass


class Bare:
    pass


class Made:
    """Calling it answers, without an object."""

    def __new__(cls, environ: object, start_response: object) -> list[bytes]:  # type: ignore[misc]
        return [b""]


class Answers(type):
    def __call__(cls, environ: object, start_response: object) -> list[bytes]:
        return [b""]


class Called(metaclass=Answers):
    pass


class Static:
    @staticmethod
    def __call__(environ: object, start_response: object) -> None:
        pass


class StaticOfOne:
    @staticmethod
    def __call__(config: object) -> None:
        pass


class Registers(type):
    pass


class Registered(metaclass=Registers):
    def __call__(self, environ: object, start_response: object) -> None:
        pass


def wsgi(environ: object, start_response: object) -> None:
    pass


def wsgi_with_more(environ: object, start_response: object, extra: int = 3) -> None:
    pass


def wsgi_of_defaults(env: object = None, start: object = None) -> None:
    pass


def anything(*args: object, **kw: object) -> None:
    pass


def keyword_only(environ: object, start_response: object, *, name: str) -> None:
    pass


async def asgi(scope: object, receive: object, send: object) -> None:
    pass


def plain_asgi(scope: object, receive: object, send: object) -> None:
    pass


def factory() -> None:
    pass


def factory_of_settings(config: object = None, debug: bool = False) -> None:
    pass


def factory_of_one(config: object) -> None:
    pass


@pytest.mark.parametrize(
    "found",
    [
        *(wsgi, wsgi_with_more, wsgi_of_defaults, anything, keyword_only, Answer, Framework(), Framework().__call__),
        *(Made, Called, Static(), Static().__call__, Registered()),
        *(functools.partial(asgi, 1), print, lambda *all: None, functools.wraps(factory)(anything)),
    ],
)
def test_what_may_be_an_application_passes(found: object) -> None:
    assert why_no_application(found, "a:b") == ""


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (asgi, "ASGI"),
        (plain_asgi, "ASGI"),
        (Starlette(), "ASGI"),
        (Starlette().__call__, "ASGI"),
        (Starlette, "ASGI"),
        (factory, "factory"),
        (factory_of_settings, "factory"),
        (lambda: None, "factory"),
        (factory_of_one, "takes 1 argument,"),
        (lambda a, b, c, d: None, "takes 4 arguments,"),
        (StaticOfOne(), "takes 1 argument,"),
        (Framework, "class"),
        (Static, "class"),
        (Registered, "class"),
        (Bare, "class"),
    ],
)
def test_what_is_none_is_told_apart(found: object, word: str) -> None:
    assert word in why_no_application(found, "a:b")
