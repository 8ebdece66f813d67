"""How serious a line is: our own by their words, others by what they say themselves."""

from __future__ import annotations

import logging

import pytest

from fcgi_procmanager.basics import levels
from fcgi_procmanager.basics.levels import CRITICAL, DEBUG, ERROR, INFO, WARNING, Levels


@pytest.mark.parametrize(
    ("message", "level"),
    [
        ("initialized", INFO),
        ("server (pid 7) started", INFO),
        ("server (pid 7) exited with status 0", INFO),
        ("server (pid 7) exited with status 1", WARNING),
        ("server (pid 7) exited with status 139 (SIGSEGV)", WARNING),
        ("server (pid 7) died in GET /a (its request 3, after 0.1 s)", WARNING),
        ("server (pid 7) is killed: GET / takes 30.1 s (request_timeout)", WARNING),
        ("slow request: GET / for 2.0 s in server (pid 7), its request 1\nFile ...", WARNING),
        ("replacing server (pid 7): max_requests (500)", INFO),
        ("reload failed: server (pid 7) was not ready in 60 s: 2 old servers go on", ERROR),
        ("no server ever became ready in 5 attempts", ERROR),
        ("dying: safe exit from signal TERM", INFO),
        ("exit at once from signal QUIT", WARNING),
        ("/srv/failed/shop.py changed: reloading", INFO),
        ("/srv/failed/shop.py changed: not reloading a pool that is about to end", INFO),
        ("pool web: fork failed: Resource temporarily unavailable; next attempt in 1.0 s", WARNING),
    ],
)
def test_our_own_lines(message: str, level: str) -> None:
    assert levels.of_own(message) == level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("something", WARNING),
        ("", WARNING),
        ("INFO:root:something", INFO),
        ("2026-01-02 03:04:05,678 [DEBUG] app.views: something", DEBUG),
        ("WARN something", WARNING),
        ("FATAL: something", CRITICAL),
        ("no ERRORS here", WARNING),
        ("x" * 100 + " ERROR is too far behind", WARNING),
    ],
)
def test_the_name_of_a_level(text: str, level: str) -> None:
    assert Levels(WARNING).of(text) == (level, text)


@pytest.mark.parametrize(("number", "level"), [*enumerate([CRITICAL] * 3 + [ERROR, WARNING, INFO, INFO, DEBUG])])
def test_the_number_of_a_level(number: int, level: str) -> None:
    assert Levels(WARNING).of(f"<{number}>something") == (level, "something")


def test_a_number_that_is_none() -> None:
    assert Levels(INFO).of("<8>something") == (INFO, "<8>something")


def test_a_traceback_is_an_error_to_its_last_line() -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\nValueError: no\nsomething else'
    found = Levels(INFO)
    assert [found.of(line)[0] for line in text.splitlines()] == [ERROR] * 4 + [INFO]


def test_what_is_indented_goes_on() -> None:
    found = Levels(INFO)
    assert [found.of(line)[0] for line in ("CRITICAL: a", "  b", "\tc", "d", "  e")] == [CRITICAL] * 3 + [INFO] * 2


def test_the_numbers_are_those_of_logging() -> None:
    assert {name: getattr(logging, name) for name in levels.NUMBERS} == levels.NUMBERS
