"""What a line of the log of requests says, without a pool: every code, every mistake, and what a client cannot do."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fcgi_procmanager.errors import ConfigError
from fcgi_procmanager.fastcgi.logged import Answered
from fcgi_procmanager.pool.accessformat import ADDRESS, DEFAULT, JSON, LINE, Origin, compile_format, fields, shown

ORIGIN = Origin("web", 100, 101)
NOW = 1_700_000_000.25

PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/a/b?c=d",
    "REMOTE_ADDR": "192.0.2.1",
    "REMOTE_USER": "ann",
    "SCRIPT_FILENAME": "/srv/app",
    "CONTENT_LENGTH": "12",
    "HTTP_USER_AGENT": "a browser",
}
HEAD = b'Content-Type: text/html\r\nX-Empty: \r\nX-Name:  a "value" \r\nStatus: 404 Not Found\r'


def answered(params: dict[str, Any] | None = None, **more: Any) -> Answered:
    given = {"status": "404", "head": HEAD, "size": 7, "ended_at": NOW, "seconds": 0.25, "user": 0.05, "system": 0.1}
    return Answered(PARAMS if params is None else params, **{**given, "memory": 3 << 20, **more})


def line(format: str | None, one: Answered | None = None) -> str:
    written = compile_format(format).line(one if one is not None else answered(), ORIGIN)
    assert written.endswith(b"\n")
    return written[:-1].decode()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("%%", "%"),
        ("100%%C", "100%C"),
        ("%m", "GET"),
        ("%r", "/a/b"),
        ("%Q", "?"),
        ("%q", "c=d"),
        ("%r%Q%q", "/a/b?c=d"),
        ("%r %Q %q", "/a/b ? c=d"),
        ("<%r%Q%q>%r%Q%q", "</a/b?c=d>/a/b?c=d"),
        ("%s", "404"),
        ("%d", "0.250"),
        ("%{seconds}d", "0.250"),
        ("%{milliseconds}d", "250.000"),
        ("%{milli}d", "250.000"),
        ("%{microseconds}d", "250000"),
        ("%{micro}d", "250000"),
        ("%C", "60.00"),
        ("%{total}C", "60.00"),
        ("%{user}C", "20.00"),
        ("%{system}C", "40.00"),
        ("%M", str(3 << 20)),
        ("%{bytes}M", str(3 << 20)),
        ("%{kilobytes}M", str(3 << 10)),
        ("%{megabytes}M", "3"),
        ("%p", "101"),
        ("%P", "100"),
        ("%n", "web"),
        ("%R", "192.0.2.1"),
        ("%u", "ann"),
        ("%l", "12"),
        ("%f", "/srv/app"),
        ("%b", "7"),
        ("%{HTTP_USER_AGENT}e", r"a\x20browser"),
        ('"%{HTTP_USER_AGENT}e"', '"a browser"'),
        ("%{content-type}o", "text/html"),
        ("%{X-NAME}o", r"a\x20\x22value\x22"),
        ("%{status}o", r"404\x20Not\x20Found"),
        ("%{X-Empty}o", "-"),
        ("%{X-Other}o", "-"),
        ("%{HTTP_OTHER}e", "-"),
        ("é %m", "é GET"),
    ],
)
def test_each_code(code: str, text: str) -> None:
    assert line(code) == text


def test_what_is_not_there() -> None:
    nothing = answered({}, status="", head=b"", size=0, memory=0, seconds=0.0)
    assert line('%m %r [%Q%q] %s %R %u %l %f %b %M %C "%r%Q%q"', nothing) == '- - [] - - - 0 - 0 - 0.00 "-"'


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"SCRIPT_NAME": "/app", "PATH_INFO": "/x", "QUERY_STRING": "y"}, "/app/x?y"),
        ({"SCRIPT_NAME": "/app", "PATH_INFO": "/x"}, "/app/x"),
        ({"REQUEST_URI": "/x", "QUERY_STRING": "of=a+rewrite"}, "/x"),
        ({"REQUEST_URI": "/x?"}, "/x"),
        ({"REQUEST_URI": "/x?a?b"}, "/x?a?b"),
        ({"REQUEST_URI": "?a"}, "-?a"),
    ],
)
def test_the_address(params: dict[str, str], text: str) -> None:
    assert line("%r_%Q_%q", answered(params)).replace("_", "") == text
    assert line("%r%Q%q", answered(params)) == text


def test_the_times_are_of_the_beginning_and_of_the_end() -> None:
    one = answered(ended_at=NOW, seconds=60.0)
    assert line("%{%s}t %{%s}T", one) == "1699999940 1700000000"
    assert line("%t", one) == time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(NOW - 60))


def test_a_time_is_written_anew_each_second() -> None:
    format = compile_format("%{%s}T")
    assert [format.line(answered(ended_at=at), ORIGIN) for at in (5.0, 5.9, 6.0, 5.0)] == [
        b"5\n",
        b"5\n",
        b"6\n",
        b"5\n",
    ]


def test_a_time_may_not_end_the_line() -> None:
    assert line("%{%H%n%t%H}t").count("\n") == 0


def test_the_default() -> None:
    pattern = r'192\.0\.2\.1 - ann \[\S+[+-]\d{4}\] "GET /a/b\?c=d" 404 7 250\.000 ms 60\.00% 3072 kB 101'
    assert re.fullmatch(pattern, line(None)), line(None)


@pytest.mark.parametrize(
    ("format", "measures"),
    [
        ("%m", ""),
        ("%C", "C"),
        ("%{user}C", "S"),
        ("%M", "M"),
        ("%C %{system}C %M", "CSM"),
        (DEFAULT, "CM"),
        (JSON, "CM"),
    ],
)
def test_only_what_is_asked_for_is_measured(format: str, measures: str) -> None:
    assert compile_format(format).measures == set(measures)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ("%m %z", "'%z' at character 4 is none of %b %C %d"),
        ("%", "'%' at character 1 is no code"),
        ("a %{x", "'%{x' at character 3 is no code"),
        ("%{x}%", "'%{x}%' at character 1"),
        ("%{x}m", "'%{x}m' at character 1 takes nothing in braces: write %m"),
        ("%{hours}d", "has none of seconds, milliseconds"),
        ("%{idle}C", "has none of total, user, system"),
        ("%{pages}M", "has none of bytes"),
        ("%e", "'%e' at character 1 has no name: write %{NAME}e"),
        ("%{}o", "has no name"),
        ("%m\n", "cannot be printed"),
        ("", "is empty"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(format: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_format(format)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- what a client sends --------------------------------------------------------------------------------------------------

ANYTHING = st.text(max_size=60) | st.text(alphabet=' "\\\n\r\t\0\x1b\x7f\x85\u2028é%{}a', max_size=60)
FIELDS = '%R %u %m %f %l %n %{X}e %{h}o "%r%Q%q" "%{X}e" "%{h}o"'
SPLIT = re.compile(r'"[^"]*"|[^ "]+')


@given(ANYTHING, ANYTHING, ANYTHING)
@example('" 200 forged "', "\\", "\n")
@example("\\x22", "\x1b[2J", "\r\n127.0.0.1 - -")
def test_nobody_forges_a_field_or_a_line(one: str, two: str, three: str) -> None:
    params = {
        **dict.fromkeys(("REMOTE_ADDR", "REMOTE_USER", "REQUEST_METHOD", "SCRIPT_FILENAME", "CONTENT_LENGTH"), one),
        "REQUEST_URI": two,
        "X": three,
    }
    head = b"h: " + three.encode("utf-8", "replace").replace(b"\n", b"") + b"\r\nStatus: 200"
    text = line(FIELDS, answered(params, head=head))
    assert text.isascii()
    assert text.isprintable()
    assert len(SPLIT.findall(text)) == 11, text
    assert re.sub(r'"[^"]*"|[^ "]+', "", text) == " " * 10, text


@given(ANYTHING, ANYTHING, st.text(max_size=3000))
def test_json_is_what_came(one: str, two: str, three: str) -> None:
    params = {"REMOTE_USER": one, "REQUEST_METHOD": two, "REQUEST_URI": "/" + three}
    text = line(JSON, answered(params))
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < LINE
    found = json.loads(text)
    of_logging = fields(answered(params), ORIGIN)
    assert {name: found[name] for name in of_logging} == of_logging
    assert found["remote_user"] == (one or None) or found["remote_user"].endswith("...")
    path, _, query = ("/" + three).partition("?")
    assert found["uri"] == path or found["uri"].endswith("...")
    assert found["query"] == query or found["query"].endswith("...") or len(found["query"]) < 3
    assert found["method"] == (two or None) or found["method"].endswith("...")


@given(st.text(), st.integers(0, 50), st.sampled_from([1, 7, 40]))
def test_a_value_is_cut_at_its_size_as_it_is_written(text: str, repeat: int, limit: int) -> None:
    written = shown(text * repeat, limit)
    assert len(written) <= limit
    if limit > 10 and text and len(repr(text * repeat)) < limit // 10:
        assert not written.endswith("...")


@pytest.mark.parametrize("one", ["a", "\n", '"', "é", "\U0001f600"])
@pytest.mark.parametrize("format", [None, JSON, FIELDS, "%{X}e" * 100])
def test_a_line_is_never_longer_than_a_pipe_takes_as_a_whole(one: str, format: str | None) -> None:
    names = ("REMOTE_ADDR", "REMOTE_USER", "REQUEST_METHOD", "REQUEST_URI", "SCRIPT_FILENAME", "CONTENT_LENGTH", "X")
    params = dict.fromkeys(names, one * 5000)
    params["REQUEST_URI"] = f"/{one * 5000}?{one * 5000}"
    written = compile_format(format).line(answered(params), ORIGIN)
    assert len(written) <= LINE
    assert written.count(b"\n") == 1


@pytest.mark.parametrize("one", ["a", "\n"])
def test_what_follows_a_long_address_is_there(one: str) -> None:
    params = {**PARAMS, "REQUEST_URI": f"/{one * 5000}?{one * 5000}", "REMOTE_USER": one * 5000}
    assert line(None, answered(params)).endswith('..." 404 7 250.000 ms 60.00% 3072 kB 101')
    found = json.loads(line(JSON, answered(params)))
    assert found["status"] == 404
    assert len(json.dumps(found["uri"])) <= ADDRESS + 2


def test_the_keys_of_json() -> None:
    found = json.loads(line(JSON))
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW)) in found["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000[+-]\d\d:\d\d", found.pop("time"))
    assert found == {
        **{
            "level": "INFO",
            "pool": "web",
            "pid": 101,
            "remote_addr": "192.0.2.1",
            "remote_user": "ann",
            "method": "GET",
        },
        **{"uri": "/a/b", "query": "c=d", "status": 404, "bytes": 7, "duration": 0.25, "cpu": 60.0, "memory": 3 << 20},
    }
    assert json.loads(line(JSON, answered(status="099")))["status"] == 99
    nothing = json.loads(line(JSON, answered({}, status="", memory=0)))
    assert [name for name, value in nothing.items() if value is None] == [
        *("remote_addr", "remote_user", "method", "status", "memory")
    ]


def test_what_an_application_puts_among_the_parameters_harms_nothing() -> None:
    class Odd:
        def __str__(self) -> str:
            return 'an "object"'

    params = {"REMOTE_USER": Odd(), "REQUEST_METHOD": 5, "REQUEST_URI": b"/x", "REMOTE_ADDR": True}
    assert line("%u %m %R", answered(params)) == r"an\x20\x22object\x22 5 True"
    assert json.loads(line(JSON, answered(params)))["remote_user"] == 'an "object"'
