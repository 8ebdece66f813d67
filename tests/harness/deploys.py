"""An application that says of which release it is, and a load that deploys must not disturb."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field

# The code of a release: `current` leads to its folder, and the reply says which it was.
APP = """
import os, time
RELEASE = os.path.basename(os.path.dirname(os.path.abspath(__file__)))

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.7)
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{RELEASE} {os.getppid()}".encode()]
"""


@dataclass
class Load:
    """Requests without a pause from two threads, each on a connection of its own."""

    port: int
    posts: bool = True
    releases: set[str] = field(default_factory=set)
    done: int = 0
    slow: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(60)

    def ask(self, path: str, method: str = "GET") -> str:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, b"x" * 5000 if method == "POST" else None)
            reply = connection.getresponse()
            assert reply.status == 200, f"{method} {path}: {reply.status}"
            return reply.read().decode().split()[0]

    def ask_slowly(self) -> threading.Thread:
        def run() -> None:
            self._note("/slow", "GET")
            self.slow += 1

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            self._note("/page", "GET" if self.done % 3 or not self.posts else "POST")
            self.longest = max(self.longest, time.monotonic() - began)
            self.done += 1
            self.over.wait(0.002)  # the machine has something else to do as well

    def _note(self, path: str, method: str) -> None:
        try:
            self.releases.add(self.ask(path, method))
        except (AssertionError, OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
