"""Chromium, told what to do over its debugging pipe."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Callable

from .process import Overdue, Script, readable, wait_until
from .tools import require_any

Run = Callable[..., Script]

_OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]

# It reads from descriptor 3 and writes to descriptor 4.
_LAUNCHER = """
import fcntl, os, sys
given, taken = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 5) for number in sys.argv[1:3])
for number, descriptor in ((3, given), (4, taken)):
    os.dup2(descriptor, number)
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page in a browser of its own."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands = commands
        self._replies = replies
        self._numbers = itertools.count(1)
        self._received = b""
        self._session: dict[str, str] = {}

    def open(self, url: str) -> None:
        """Until all of it is there."""
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self._do("Page.navigate", url=url)
        wait_until(lambda: self.evaluate("[location.href, document.readyState]") == [url, "complete"], 60, url)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, waited for if it is a promise."""
        done = self._do("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def _do(self, method: str, **params: object) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._message()
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return reply["result"]

    def _message(self) -> Any:
        while b"\0" not in self._received:
            if not readable(self._replies, 60):
                raise Overdue("the browser says nothing")
            data = os.read(self._replies, 1 << 16)
            assert data, "the browser has ended"
            self._received += data
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def browser(run_script: Run) -> Iterator[Page]:
    """A page, in a Chromium that is gone afterwards; skips where there is none."""
    chromium = require_any("chromium", "chromium-browser", "google-chrome")
    profile = tempfile.mkdtemp(prefix="pm-chromium-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, profile, ignore_errors=True)
        given, commands = os.pipe()
        replies, taken = os.pipe()
        for descriptor in (commands, replies):
            stack.callback(os.close, descriptor)
        options = [*_OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        launcher = [sys.executable, "-c", _LAUNCHER, str(given), str(taken)]
        try:
            script = run_script([*launcher, chromium, *options], pass_fds=[given, taken])
        finally:
            os.close(given)
            os.close(taken)
        stack.callback(script.close)
        yield Page(commands, replies)
