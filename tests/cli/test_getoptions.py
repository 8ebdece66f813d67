"""A command line as Getopt::Long reads it; the sides are compared in tests/starter."""

from __future__ import annotations

import pytest

from fcgi_procmanager.cli.getoptions import FLAG, NUMBER, TEXT, read

KINDS = {"port": TEXT, "path": TEXT, "interval": NUMBER, "stop": FLAG, "status-file": TEXT}


@pytest.mark.parametrize(
    ("line", "values", "arguments"),
    [
        ("--port 80 -- app -x --stop", {"port": ["80"]}, ["app", "-x", "--stop"]),
        ("app --port=80 arg --stop", {"port": ["80"], "stop": [""]}, ["app", "arg"]),
        ("-po 1 -port=2 --PORT 3", {"port": ["1", "2", "3"]}, []),
        ("--int -5", {"interval": ["-5"]}, []),
        ("--int=1.5", {"interval": ["1.5"]}, []),
        ("--port --stop", {"port": ["--stop"]}, []),
        ("--port -- x", {"port": ["--"]}, ["x"]),
        ("--port=a=b -", {"port": ["a=b"]}, ["-"]),
        ("", {}, []),
    ],
)
def test_what_it_understands(line: str, values: dict[str, list[str]], arguments: list[str]) -> None:
    assert read(line.split(), KINDS) == (values, arguments, [])


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("--foo", "Unknown option: foo"),
        ("-x", "Unknown option: x"),
        ("--p 1", "Option p is ambiguous (path, port)"),
        ("--st", "Option st is ambiguous (status-file, stop)"),
        ("--port", "Option port requires an argument"),
        ("--port=", "Option port requires an argument"),
        ("--interval abc", 'Value "abc" invalid for option interval (number expected)'),
        ("--stop=1", "Option stop does not take an argument"),
    ],
)
def test_what_it_does_not(line: str, mistake: str) -> None:
    assert read(line.split(), KINDS).mistakes == [mistake]
