"""A line of the log as values, and the forms in which it is written."""

from __future__ import annotations

import json
import re
import time

import pytest

from fcgi_procmanager.basics import records
from fcgi_procmanager.basics.records import Line

AT = 1_700_000_000.1239


def test_a_line_for_people() -> None:
    written = records.plain(Line(AT, "INFO", "server", 7, "stdout", "hello \udcff é"))
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.123[+-]\d\d:\d\d"
    assert re.fullmatch(moment + r" INFO FastCGI: server \(pid 7\) stdout: hello \\udcff é\n", written.decode())


def test_a_line_for_programs() -> None:
    text = 'he said "no"\n\u2028\x1b[31m'
    written = records.as_json(Line(AT, "ERROR", "server", 7, "stderr", text), "shop")
    assert written.isascii()
    assert written.count(b"\n") == 1
    found = json.loads(written)
    assert list(found) == ["time", "level", "pool", "process", "pid", "stream", "message"]
    assert found.pop("time") == records.moment(AT)
    assert found == {
        "level": "ERROR",
        "pool": "shop",
        "process": "server",
        "pid": 7,
        "stream": "stderr",
        "message": text,
    }


def test_our_own_line_is_taken_apart() -> None:
    line = records.own(AT, "FastCGI: manager (pid 3): server (pid 7) started", 1)
    assert line == Line(AT, "INFO", "manager", 3, "log", "server (pid 7) started")
    assert records.words(line) == "FastCGI: manager (pid 3): server (pid 7) started"
    other = records.own(AT, "Traceback", 3)
    assert (other.process, other.pid, records.words(other)) == ("", 3, "Traceback")


def test_a_record_of_several_lines_is_one_for_programs() -> None:
    line = records.own(AT, "FastCGI: manager (pid 3): slow request: GET /\n  File", 1)
    assert json.loads(records.as_json(line, "pool"))["message"] == "slow request: GET /\n  File"


def test_the_time_is_local_and_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for zone, written in (("UTC0", "2023-11-14T22:13:20.123+00:00"), ("XXX-5:30", "2023-11-15T03:43:20.123+05:30")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert records.moment(AT) == written
    finally:
        monkeypatch.undo()
        time.tzset()


FAILED = {"method": "GET", "path": "/a", "exception": "Traceback:\n  File\nValueError: no"}


def test_an_exception_is_one_record_for_programs_and_whole_for_people() -> None:
    line = records.own(AT, "FastCGI: server (pid 7): exception in GET /a: ValueError: no", 7, more=FAILED)
    found = json.loads(records.as_json(line, "pool"))
    assert found["message"] == "exception in GET /a: ValueError: no"
    assert {key: found[key] for key in FAILED} == FAILED
    assert (found["level"], found["process"], found["pid"]) == ("ERROR", "server", 7)
    first, *rest = records.plain(line).decode().splitlines()
    assert first.endswith(" ERROR FastCGI: server (pid 7): exception in GET /a: ValueError: no")
    assert rest == FAILED["exception"].splitlines()
    assert records.bare(line).decode().splitlines() == [first.partition(" ERROR ")[2], *rest]


def test_for_the_journal_each_line_has_its_priority() -> None:
    line = records.own(AT, "FastCGI: manager (pid 3): slow request: GET /\n  File", 1)
    assert records.journal(line) == b"<4>FastCGI: manager (pid 3): slow request: GET /\n<4>  File\n"


def test_the_level_of_a_line_with_another_word_in_front() -> None:
    assert records.own(AT, "Shop: manager (pid 3): slow request: GET /", 3).level == "WARNING"
    assert records.own(AT, "FastCGI: manager (pid 3): slow request: GET /", 3, "ERROR").level == "ERROR"
