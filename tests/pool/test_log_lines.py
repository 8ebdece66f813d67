"""Bytes that come in pieces, as whole lines, and how a line is written."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.pool import lines
from fcgi_procmanager.pool.lines import LONGEST, Line, Lines


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_are_the_same_however_they_come(written: list[bytes], data: st.DataObject) -> None:
    stream, found, whole = b"".join(line + b"\n" for line in written), Lines(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        whole += found.feed(stream[:size])
        stream = stream[size:]
    assert whole == written
    assert found.last() == []


def test_what_is_not_ended_is_the_last_one() -> None:
    found = Lines()
    assert found.feed(b"a\nb") == [b"a"]
    assert found.rest == b"b"
    assert Lines(found.rest).feed(b"c\n") == [b"bc"]
    assert found.last() == [b"b"]
    assert found.last() == []


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_line_without_an_end_is_not_kept_without_end(pieces: int) -> None:
    text = bytes(97 + at % 26 for at in range(3 * LONGEST + 5))
    found, whole = Lines(), []
    for at in range(0, len(text), -(-len(text) // pieces)):
        whole += found.feed(text[at : at + -(-len(text) // pieces)])
        assert len(found.rest) <= LONGEST
    whole += found.feed(b"\nnext\n")
    assert whole[-1] == b"next"
    assert b"".join(whole[:-1]) == text
    assert max(map(len, whole)) <= LONGEST


AT = 1_700_000_000.1239


def test_a_line_for_people() -> None:
    written = lines.plain(Line(AT, "INFO", "server", 7, "stdout", "hello \udcff é"))
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.123[+-]\d\d:\d\d"
    assert re.fullmatch(moment + r" INFO FastCGI: server \(pid 7\) stdout: hello \\udcff é\n", written.decode())


def test_a_line_for_programs() -> None:
    text = 'he said "no"\n\u2028\x1b[31m'
    written = lines.as_json(Line(AT, "ERROR", "server", 7, "stderr", text), "shop")
    assert written.isascii()
    assert written.count(b"\n") == 1
    found = json.loads(written)
    assert list(found) == ["time", "level", "pool", "process", "pid", "stream", "message"]
    assert found.pop("time") == lines.moment(AT)
    assert found == {
        "level": "ERROR",
        "pool": "shop",
        "process": "server",
        "pid": 7,
        "stream": "stderr",
        "message": text,
    }


def test_our_own_line_is_taken_apart() -> None:
    line = lines.own(AT, "INFO", "FastCGI: manager (pid 3): server (pid 7) started", 1)
    assert line == Line(AT, "INFO", "manager", 3, "log", "server (pid 7) started")
    assert lines.words(line) == "FastCGI: manager (pid 3): server (pid 7) started"
    other = lines.own(AT, "INFO", "Traceback", 3)
    assert (other.process, other.pid, lines.words(other)) == ("", 3, "Traceback")


def test_a_record_of_several_lines_is_one_for_programs() -> None:
    line = lines.own(AT, "WARNING", "FastCGI: manager (pid 3): slow request: GET /\n  File", 1)
    assert json.loads(lines.as_json(line, "pool"))["message"] == "slow request: GET /\n  File"


def test_the_time_is_local_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for zone, written in (("UTC0", "2023-11-14T22:13:20.123+00:00"), ("XXX-5:30", "2023-11-15T03:43:20.123+05:30")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert lines.moment(AT) == written
    finally:
        monkeypatch.undo()
        time.tzset()
