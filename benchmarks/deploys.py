"""Deploys under load: what requests have to suffer while a superdaemon replaces a whole server.

Four workers behind nginx. Requests come at a steady rate, each on a connection of its own, and one slow request is in flight all the
time; at first nothing else happens, then there is one deploy after the other.
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import common
from common import APPLICATIONS, Failed, Program, Stage, progress

WORKERS = 4
RATE = 100  # requests a second
NGINX = """
daemon off; worker_processes 1; pid {place}/nginx.pid; error_log {place}/error.log; {user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {place}/body; fastcgi_temp_path {place}/fastcgi;
    proxy_temp_path {place}/proxy; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $fastcgi_script_name;
            fastcgi_pass unix:{socket};
        }}
    }}
}}
"""


class Outcome(NamedTuple):
    """Seconds that requests took, and how many failed."""

    times: list[float]
    failed: int

    def row(self, name: str) -> tuple[str, ...]:
        milliseconds = sorted(1000 * one for one in self.times)
        at = [milliseconds[int(len(milliseconds) * share)] for share in (0.5, 0.99, 0.999)]
        shown = [f"{one:.1f}" for one in (*at, milliseconds[-1])]
        return name, str(len(milliseconds)), str(self.failed), *shown


def superdaemons() -> dict[str, list[str]]:
    """How each is started that is here."""
    found = {"fcgi-start-server": [sys.executable, "-m", "fcgi_procmanager.starter", "--ready-timeout=30"]}
    perl = common.find("start_server")
    if perl is None:
        progress("skipped: start_server: libserver-starter-perl is not installed")
    else:
        found["start_server (Perl)"] = [perl, "--interval=1"]
    return found


class Site:
    """A superdaemon, our servers under it, and nginx in front."""

    def __init__(self, stage: Stage, name: str, superdaemon: list[str]) -> None:
        self.place = stage.place(name.split(maxsplit=1)[0])
        self.port = common.free_port()
        socket = self.place / "sock"
        files = [f"--path={socket}", f"--pid-file={self.place}/pid", f"--status-file={self.place}/status"]
        serve = [sys.executable, "-m", "fcgi_procmanager", "serve", "deployed:app", "-n", WORKERS]
        self.program = stage.start(
            name.split(maxsplit=1)[0], [*superdaemon, *files, f"--dir={APPLICATIONS}", "--", *serve]
        )
        self.program.until((self.place / "status").exists, "the first generation")
        nginx = common.find("nginx")
        if nginx is None:
            raise Failed("nginx is not installed")
        conf = self.place / "nginx.conf"
        user = "user root;" if Path("/").owner() == Path("/proc/self").owner() else ""
        conf.write_text(NGINX.format(place=self.place, socket=socket, port=self.port, user=user))
        self.nginx: Program = stage.start(
            "nginx-" + name.split(maxsplit=1)[0], [nginx, "-e", self.place / "error.log", "-c", conf]
        )
        self.nginx.until((self.place / "nginx.pid").exists, "nginx")

    def generations(self) -> list[int]:
        return [int(line.partition(":")[0]) for line in (self.place / "status").read_text().split()]

    async def deploy(self) -> None:
        """Until only the new generation is there."""
        before = max(self.generations())
        self.program.process.send_signal(signal.SIGHUP)
        while min(self.generations(), default=0) <= before:
            await asyncio.sleep(0.01)

    async def ask(self, path: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            reply = await asyncio.wait_for(reader.read(), 30)
            if not (reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"hello")):
                raise Failed(f"{path}: {reply[:60]!r}")
        finally:
            writer.close()


async def load(site: Site, over: asyncio.Event) -> Outcome:
    times: list[float] = []
    failed = 0

    async def one() -> None:
        nonlocal failed
        began = time.perf_counter()
        try:
            await site.ask("/quick")
            times.append(time.perf_counter() - began)
        except (OSError, Failed, asyncio.TimeoutError):
            failed += 1

    async def slow() -> None:
        nonlocal failed
        while not over.is_set():
            try:
                await site.ask("/slow")
            except (OSError, Failed, asyncio.TimeoutError):
                failed += 1

    slowly = asyncio.ensure_future(slow())
    running = set()
    next_at = time.perf_counter()
    while not over.is_set():
        task = asyncio.ensure_future(one())
        running.add(task)
        task.add_done_callback(running.discard)
        next_at += 1 / RATE
        await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
    await asyncio.gather(slowly, *running)
    return Outcome(times, failed)


async def measure(site: Site, quiet: float, deploys: int) -> tuple[Outcome, Outcome]:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(quiet, over.set)
    before = await load(site, over)
    over = asyncio.Event()
    during = asyncio.ensure_future(load(site, over))
    for _ in range(deploys):
        await site.deploy()
    over.set()
    return before, await during


def main() -> None:
    given = common.options(__doc__ or "").parse_args()
    quiet, deploys = (2.0, 2) if given.quick else (20.0, 20)
    rows, kept = [], {}
    with Stage() as stage:
        for name, command in superdaemons().items():
            before, during = asyncio.run(measure(Site(stage, name, command), quiet, deploys))
            rows += [before.row(f"{name}, quiet"), during.row(f"{name}, {deploys} deploys")]
            kept[name] = {"quiet": before, "deploys": during}
            slower = statistics.median(during.times) / statistics.median(before.times)
            progress(
                f"{name}: {during.failed} of {len(during.times)} failed, the median is {slower:.2f} times the quiet one"
            )
    if given.json:
        given.json.write_text(json.dumps({"machine": common.machine(), "outcomes": kept}) + "\n")
    head = ("superdaemon", "requests", "failed", "median, ms", "99 %", "99.9 %", "longest")
    common.publish(given.page, "deploys", f"{common.machine()}.\n\n{common.table(head, rows)}")


if __name__ == "__main__":
    common.run(main)
