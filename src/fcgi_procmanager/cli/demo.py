"""`fcgi-procmanager demo`: a small application that shows which worker answered, behind a web server.

`Demo` runs in each worker and belongs to it; the rest runs before the manager starts. Must never show anything that it did
not escape.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterable
from html import escape
from typing import Any, Callable
from urllib.parse import parse_qs

from ..basics import log
from ..basics.levels import CHOICES as LEVELS
from ..manager.procmanager import ProcManager
from ..pool.poolmanager import PoolManager
from .arguments import Options, whole
from .caddy import STATUS_PATH
from .hosting import Application, Place, host
from .messages import say

__all__ = ["Demo", "add"]

_WEB = "127.0.0.1:8000"
_LONGEST = 10.0  # seconds that a request may ask to sleep
_DESCRIPTION = f"""\
Serve a page that shows which worker answered, on http://{_WEB}/ unless told otherwise. Add ?sleep=SECONDS to a request to
see how a stop waits for it; /plain answers in plain text.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser("demo", help="see workers at work in a browser", description=_DESCRIPTION)
    parser.set_defaults(run=run, parser=parser)
    add = parser.add_argument
    add("-n", "--processes", type=whole, default=3, metavar="N", help="workers (default: 3)")
    add("--web", metavar="HOST:PORT", help=f"address for browsers (default: {_WEB}, or none with --listen)")
    add("--listen", action="append", default=[], metavar="ADDRESS", help="FastCGI address, for a web server of yours")
    add("--pidfile", metavar="FILE", help="PID file, for 'stop' and 'reload'")
    add("--log-level", choices=LEVELS, help="least of our own lines in the log (default: info)")


def run(options: Options) -> int:
    log.choose(None, options.log_level)
    web = options.web if options.web or options.listen else _WEB
    settings: dict[str, Any] = {"n_processes": options.processes}
    if options.pidfile is not None:
        settings["pidfile"] = os.path.abspath(options.pidfile)
    return host(Application(Demo), Place(options.listen, web=web), settings, base=PoolManager, on_ready=_greet)


def _greet(manager: ProcManager, url: str | None) -> None:
    where = url or ", ".join(listener.describe() for listener in manager.listeners)
    status = f"; its status: {url}{STATUS_PATH[1:]}" if url is not None else ""
    say(f"{where} is served by {manager.n_processes} workers{status}; reload: kill -HUP {os.getpid()}; stop: Ctrl-C")


class Demo:
    """The application. One is made in each worker."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._served = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self._served += 1
        time.sleep(_pause(environ.get("QUERY_STRING", "")))
        path = environ.get("PATH_INFO") or "/"
        if path == "/plain":
            return self._reply(environ, start_response, "200 OK", "text/plain", self._plain())
        if path == "/":
            return self._reply(environ, start_response, "200 OK", "text/html", self._page())
        text = f"There is nothing at {path}\n"
        return self._reply(environ, start_response, "404 Not Found", "text/plain", text)

    def _reply(
        self, environ: dict[str, Any], start_response: Callable[..., Any], status: str, kind: str, text: str
    ) -> Iterable[bytes]:
        body = text.encode("utf-8", "replace")
        headers = [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("worker", str(os.getpid())),
            ("requests", str(self._served)),
            ("uptime", f"{time.monotonic() - self._started:.1f} s"),
            ("manager", str(os.getppid())),
        ]

    def _plain(self) -> str:
        return "".join(f"{name} {value}\n" for name, value in self._facts())

    def _page(self) -> str:
        facts = {name: escape(value) for name, value in self._facts()}
        return _PAGE.format(style=_STYLE, script=_SCRIPT, **facts)


def _pause(query: str) -> float:
    """The seconds that a query asks to sleep, within limits; 0 for what is no number."""
    try:
        wanted = float(parse_qs(query).get("sleep", ["0"])[-1])
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(wanted) else min(max(wanted, 0.0), _LONGEST)


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worker {worker}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<p class="kind">fcgi-procmanager demo</p>
<h1>Worker <b>{worker}</b> answered</h1>
<dl>
<div><dt>Requests it has served</dt><dd>{requests}</dd></div>
<div><dt>It has been running for</dt><dd>{uptime}</dd></div>
<div><dt>Its manager</dt><dd>{manager}</dd></div>
</dl>
<p class="do"><a href="/">Ask again</a> <button id="many" type="button" hidden>Ask 24 times at once</button></p>
<ol id="tally"></ol>
<h2>Try it</h2>
<ul>
<li>Ask again: a worker that is free usually answers the next request as well. Ask 24 times at once to meet the others.</li>
<li><code>kill -HUP {manager}</code> replaces every worker; no request is lost.</li>
<li><code>kill {worker}</code> ends this worker; a new one takes its place.</li>
<li>Open <a href="/?sleep=5">a page that takes 5 seconds</a>, then press Ctrl-C in the terminal: it is still answered.</li>
<li><a href="/plain">Plain text</a> is there for <code>curl</code>.</li>
</ul>
</main>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7e; --paper: #f5f6f8; --card: #fff; --line: #dde2e9;
  --mark: #0b66c3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b8; --paper: #12161c; --card: #1a2029;
  --line: #2e3846; --mark: #6db3ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 40rem; margin: 8vh auto; padding: 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
.kind { margin: 0; color: var(--soft); }
h1 { margin: .2rem 0 1.2rem; font-size: 1.9rem; line-height: 1.2; }
h1 b { color: var(--mark); font-variant-numeric: tabular-nums; }
h2 { margin: 2rem 0 .4rem; font-size: 1rem; }
dl { margin: 0; border-top: 1px solid var(--line); }
dl div { display: flex; justify-content: space-between; gap: 1rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.do { margin: 1.4rem 0 0; }
.do a, button { display: inline-block; padding: .5rem 1rem; border: 1px solid var(--mark); border-radius: 8px;
  font: inherit; cursor: pointer; text-decoration: none; }
.do a { background: var(--mark); color: var(--card); }
button { background: none; color: var(--mark); }
[hidden] { display: none; }
a { color: var(--mark); }
ul { margin: 0; padding-left: 1.2rem; }
ol { list-style: none; margin: 1rem 0 0; padding: 0; font-variant-numeric: tabular-nums; }
code { font: .9em ui-monospace, monospace; }
"""

_SCRIPT = """
const many = document.getElementById("many"), tally = document.getElementById("tally");
many.hidden = false;
many.onclick = async () => {
  many.disabled = true;
  const count = {};
  const ask = async number => {
    // A browser asks for equal addresses one after the other: the first reply might do for all.
    const text = await (await fetch(`/plain?sleep=0.1&request=${number}`, {cache: "no-store"})).text();
    const worker = text.split(/\\s/)[1];
    count[worker] = (count[worker] || 0) + 1;
    tally.replaceChildren(...Object.entries(count).map(([pid, times]) => {
      const line = document.createElement("li");
      line.textContent = `worker ${pid}: ${"\\u25a0".repeat(times)} ${times}`;
      return line;
    }));
  };
  await Promise.allSettled(Array.from({length: 24}, (_, number) => ask(number)));
  many.disabled = false;
};
"""
