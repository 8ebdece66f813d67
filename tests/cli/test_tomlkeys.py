"""The line of each key of a TOML text: right, or none at all, whatever stands in strings, comments and lists."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fcgi_procmanager.cli.tomlkeys import Spot, find

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def lines(text: str) -> dict[str, int]:
    return {".".join(path): spot.line for path, spot in find(text, tomllib.loads(text), tomllib.loads).items()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# a = 1\n\n  b = 2  # c = 3", {"b": 3}),
        ("[pool.web]\na = 1\n[ pool . maps ]\nb = 2", {"pool": 1, "pool.web": 1, "pool.web.a": 2, "pool.maps": 3, "pool.maps.b": 4}),
        ("a.b.c = 1\na.d = 2", {"a": 1, "a.b": 1, "a.b.c": 1, "a.d": 2}),
        ('"a b" = 1\n\'c"\' = 2\n"\\u0065" = 3', {"a b": 1, 'c"': 2, "e": 3}),
        ('s = """\nx = 1\n"""\nb = 2', {"s": 1, "b": 4}),
        ("s = '''\n[x]\ny = 1'''\nb = 2", {"s": 1, "b": 4}),
        ('s = """a\\"""\nx = 1""""\nb = 2', {"s": 1, "b": 3}),
        ("s = ''''quoted'''''\nb = 2", {"s": 1, "b": 2}),
        ('s = ""\nt = \'\'\nb = "# no [comment]"', {"s": 1, "t": 2, "b": 3}),
        ('a = [ # b = 1\n  "]", [1, 2], # ]\n  { c = 3 },\n]\nd = 4', {"a": 1, "d": 5}),
        ('a = { b = { c = "}" }, d = [1,\n2] }\ne = 1', {"a": 1, "a.b": 1, "a.b.c": 1, "a.d": 1, "e": 3}),
        ("a = 1979-05-27 07:32:00 # then\nb = [1979-05-27 07:32:00, 2]\nc = 3", {"a": 1, "b": 2, "c": 3}),
        ("[[a]]\nb = 1\n[a.c]\nd = 2\n[[a]]\n[e]\nf = 3", {"a": 1, "e": 6, "e.f": 7}),
        ("a = 1\r\n\r\nb = 2\r\n", {"a": 1, "b": 3}),
        ("a = {}\nb = []\n[c]", {"a": 1, "b": 2, "c": 3}),
    ],
)  # fmt: skip
def test_lines(text: str, found: dict[str, int]) -> None:
    assert lines(text) == found


def test_a_number_is_told_as_it_is_written() -> None:
    text = 'a = 0o660 # mode\nb = 1_000\nc = "0o660"\nd = {e = 0x1F}\nf = true'
    found = find(text, tomllib.loads(text), tomllib.loads)
    assert {path[-1]: spot.bare for path, spot in found.items()} == {
        **{"a": "0o660", "b": "1_000", "c": "", "d": "", "e": "0x1F", "f": "true"}
    }


def test_nothing_is_told_where_the_two_differ() -> None:
    assert find("a = 1", {"a": 1, "b": 2}, tomllib.loads) == {}
    assert find("a = 1\n?", {"a": 1}, tomllib.loads) == {}
    assert find("a = 1", {"a": 1}, tomllib.loads) == {("a",): Spot(1, "1")}


# What looks like keys, tables, quotes and ends of them, in every place where it means nothing.
NOISE = st.lists(
    st.sampled_from(["a = 1", "[b]", "[[c]]", "#", "{", "}", "]", ",", " ", "\n", "=", "d.e = 'x'"]), max_size=8
).map("".join)
VALUES = st.one_of(
    st.integers(-9, 9).map(str),
    NOISE.map(lambda text: "'" + text.replace("\n", " ").replace("'", "") + "'"),
    NOISE.map(lambda text: '"""' + text + '\\""""'),
    NOISE.map(lambda text: "'''" + text.replace("'", "") + "'''"),
    NOISE.map(lambda text: "[ # " + text.replace("\n", " ") + "\n 'z', {q = 1} ]"),
    NOISE.map(lambda text: "{ r = '" + text.replace("\n", " ").replace("'", "") + "', s.t = [\n] }"),
)
COMMENTS = NOISE.map(lambda text: "# " + text.replace("\n", " "))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), VALUES, COMMENTS), max_size=8))
def test_each_key_is_on_the_line_on_which_it_was_written(entries: list[tuple[bool, str, str]]) -> None:
    text, table, expected = "", "", {}
    for number, (opens, value, comment) in enumerate(entries):
        if opens:
            table = f"t{number}"
            expected[table] = text.count("\n") + 1
            text += f"[{table}] {comment}\n"
        key = f"k{number}"
        expected[f"{table}.{key}" if table else key] = text.count("\n") + 1
        text += f"  {key} = {value} {comment}\n"
    found: dict[str, Any] = lines(text)
    assert {
        key: line for key, line in found.items() if key.rpartition(".")[2][0] in "kt" and "s.t" not in key
    } == expected
