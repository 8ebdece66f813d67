"""How serious a line of the log is. No system call.

Our own lines are known by their words; of others, what they say themselves counts: the name of a level as `logging` writes it, a
number in angle brackets as systemd reads it, a traceback. What says nothing has the level of its stream.
"""

from __future__ import annotations

import re

DEBUG, INFO, WARNING, ERROR, CRITICAL = "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"

CHOICES = ("debug", "info", "warning", "error")  # of what is to be seen

# The values of the `logging` module, which is not imported for them.
NUMBERS = {DEBUG: 10, INFO: 20, WARNING: 30, ERROR: 40, CRITICAL: 50}

# Our own lines, by their words; one in which none of these is found is INFO. The first that is found counts. Those that quote a peer
# come first: nothing that is quoted may make a line what it is not.
_OWN = (
    (ERROR, r"^exception in "),
    (INFO, r"^(listening on|watching|serving|executing the new code:|a request ended early:) |: (not )?reloading\b"),
    (INFO, r"^removing existing socket file:"),
    (WARNING, r"\bdied in .* \(its request "),
    (WARNING, r"\bis killed: .* takes "),
    (WARNING, r"^slow request: "),
    (WARNING, r"\bhas ended \d+ servers"),
    (WARNING, r"\btook longer than .*\(request_timeout\)"),
    (
        WARNING,
        r"^closed a connection|^refused a body|^no control socket\b|^slow_log |^killed while stopping: |^pool .*; next attempt in ",
    ),
    (DEBUG, r"\bis ready after [\d.]+ s$"),
    (ERROR, r"\breload failed: "),
    (INFO, r"\bexited with status 0$"),
    (WARNING, r"\bexited with status |\bwas killed\b"),
    (ERROR, r"\bexception in |\bbecame ready\b|\bgiving up\b|\bcannot\b|\b[Cc]ould(n't| not)\b|\bcould be started\b"),
    (ERROR, r"\bfailed\b|\brefuse[sd]?\b|^(accept|fork|fork of a standby|open|unlink): |\blines are lost$"),
    (ERROR, r"\bservers crashed\b|\bhas a mistake\b|\bended at once\b|\bclosed descriptors of its worker$"),
    (
        WARNING,
        r"\bkill(ed|ing)\b|\bSending KILL to previous\b|\bwait timeout$|\bexit at once\b|\bmanager has died$|^the supervisor is gone$",
    ),
    (WARNING, r"\bnot ready in\b|\bdie too fast\b|\bleft out\b|\bno more may be started\b|\bbut use a CPU\b"),
    (
        WARNING,
        r"\bthe application called sys\.exit\b|\bchanges are not seen\b|\bdied unexpectedly\b|^logger \d+ died\b",
    ),
    (WARNING, r"^a reply (?:was cut|ends) |\bstarting it again$"),
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
    """Of a line that we have written, without what stands before its message."""
    for level, words in _OWN:
        if re.search(words, message):  # compiled when there is a line: a script that only imports us has none
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
