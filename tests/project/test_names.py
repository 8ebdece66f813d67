"""What scripts import, and what their editor tells them: the public names, their attributes, and their keyword parameters."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fcgi_procmanager
from fcgi_procmanager import (
    FastCGI,
    Listener,
    ProcManager,
    Request,
    Role,
    WSGIServer,
)
from fcgi_procmanager.fastcgi.settings import Settings, Timeouts
from fcgi_procmanager.manager.parameters import Parameters, PoolParameters

TOP = Path(__file__).resolve().parents[2]

# What an editor is to say of each line.
SCRIPT = """
from fcgi_procmanager import FastCGI, PoolManager, ProcManager, WSGIServer, adopt
from fcgi_procmanager.limits import Limits
from typing import Any
app: Any
WSGIServer(app, manager=ProcManager(4), idle_timeout=90, receive_timeout=20.5)
WSGIServer(app, idle_timeout="long")  # wrong
WSGIServer(app, idle_timeuot=90)  # wrong
FastCGI(send_timeout="long")  # wrong
adopt(app, ProcManager(4), body_limit=3, drain_timeout=1)
adopt(app, ProcManager(4), body_limit="3M")  # wrong
PoolManager(4, pool="dynamic", die_timeout=3, reload="plain")
PoolManager(4, die_timeout="long")  # wrong
Limits(4, max_requests=3, reload="rolling")
Limits(4, pidfile=4)  # wrong
"""


def test_all_names_are_there() -> None:
    assert sorted(fcgi_procmanager.__all__) == fcgi_procmanager.__all__
    for name in fcgi_procmanager.__all__:
        assert getattr(fcgi_procmanager, name).__name__ == name
    assert set(fcgi_procmanager.__all__) <= set(dir(fcgi_procmanager))


def test_what_a_script_is_given_has_a_public_name(sock_path: str) -> None:
    manager = ProcManager()
    listener = manager.listen(sock_path)
    assert type(listener) is Listener
    assert manager.role is Role.MANAGER
    listener.remove()
    returned = inspect.signature(FastCGI.accept).return_annotation
    assert returned == f"{Request.__name__} | None"


def _types(function: Any) -> dict[str, str]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}


def _fields(typed: Any) -> dict[str, str]:
    return {name: getattr(kind, "__forward_arg__", kind) for name, kind in typed.__annotations__.items()}


def test_the_keywords_that_are_passed_on_are_those_of_who_gets_them() -> None:
    core = _types(ProcManager)
    assert _fields(Parameters) == core
    assert _fields(PoolParameters) == {name: kind for name, kind in core.items() if name != "reload"}
    loop, server = _types(FastCGI), _types(WSGIServer)
    assert _fields(Timeouts) == {name: kind for name, kind in loop.items() if name.endswith("_timeout")}
    assert _fields(Settings) == {**_fields(Timeouts), **{name: kind for name, kind in server.items() if "body" in name}}


def test_an_editor_knows_the_keywords(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = ["--config-file", str(TOP / "pyproject.toml"), "--cache-dir", str(tmp_path), "--hide-error-context"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--follow-imports=silent", "--no-error-summary", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=TOP,
    )
    wrong = {number for number, line in enumerate(SCRIPT.splitlines(), 1) if line.endswith("# wrong")}
    assert set(map(int, re.findall(r"script\.py:(\d+): error", done.stdout))) == wrong, done.stdout + done.stderr
