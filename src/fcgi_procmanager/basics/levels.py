"""How serious a line of the log is. No system call.

Our own lines are known by their words; of others, what they say themselves counts: the name of a level as `logging` writes it, a
number in angle brackets as systemd reads it, a traceback. What says nothing has the level of its stream.
"""

from __future__ import annotations

import re

DEBUG, INFO, WARNING, ERROR, CRITICAL = "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"

# The values of the `logging` module, which is not imported for them.
NUMBERS = {DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50}

_OWN = (
    (ERROR, re.compile(r"\bcannot\b|\bcould not\b|\bfailed\b|\brefuse[sd]?\b|no server ever became ready|^accept: ")),
    (
        WARNING,
        re.compile(
            r"exited with status (?!0\b)|\bdied in\b|\bkill(ed|ing)\b|not ready in|^slow request|has ended \d+ servers"
            r"|servers crashed|left out|^closed a connection|exit at once"
        ),
    ),
)

_NAMED = re.compile(r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL)\b")
_NAMED_WITHIN = 80  # characters: behind the time and the logger's name, before the message
_SYNONYMS = {"WARN": WARNING, "FATAL": CRITICAL}

_NUMBERED = re.compile(r"<([0-7])>")
_BY_NUMBER = (
    CRITICAL,
    CRITICAL,
    CRITICAL,
    ERROR,
    WARNING,
    INFO,
    INFO,
    DEBUG,
)  # emerg, alert, crit, err, warning, notice, info, debug

_TRACEBACK = "Traceback (most recent call last):"


def of_own(message: str) -> str:
    """Of a line that we have written."""
    for level, words in _OWN:
        if words.search(message):
            return level
    return INFO


class Levels:
    """Of the lines of one stream, one after another. default: of a line that says nothing."""

    def __init__(self, default: str) -> None:
        self._default = self._last = default
        self._in_traceback = False

    def of(self, text: str) -> tuple[str, str]:
        """The level of this line, and what is left of it without a number in angle brackets."""
        numbered = _NUMBERED.match(text)
        if numbered:
            self._in_traceback, self._last = False, _BY_NUMBER[int(numbered[1])]
            return self._last, text[numbered.end() :]
        self._last = self._of(text)
        return self._last, text

    def _of(self, text: str) -> str:
        if text.startswith(_TRACEBACK):
            self._in_traceback = True
            return ERROR
        if text[:1].isspace():
            return self._last  # it goes on
        if self._in_traceback:
            self._in_traceback = False  # the last line of it, which names the exception
            return ERROR
        named = _NAMED.search(text, 0, _NAMED_WITHIN)
        return _SYNONYMS.get(named[1], named[1]) if named else self._default
