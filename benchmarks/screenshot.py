"""Pictures of the page of the demo and of the status page of a pool at work, by a real browser: `screenshot.py docs`.

For the second a dynamic pool with Caddy in front is kept busy for two minutes, in waves, so that the page has something to show.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import common
from common import Failed, Stage, progress

APPLICATION = """\
import time
def app(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"""
PATHS = ("/", "/search", "/cart", "/articles/fork-and-exec", "/api/orders", "/report")
DEMO, STATUS = "1100,700", "1100,1000"  # of the window, in pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where demo.png and status.png are written")
    parser.add_argument("--seconds", type=float, default=120, help="of load (default: 120)")
    given = parser.parse_args()
    with Stage() as stage:
        browser = Browser(stage, given.folder.resolve())
        browser.picture("demo.png", _demo(stage), DEMO)
        url = _shop(stage)
        _load(url, given.seconds)
        browser.picture("status.png", f"{url}-/status", STATUS)


class Browser:
    def __init__(self, stage: Stage, folder: Path) -> None:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            raise Failed("there is no Chromium here: install chromium")
        profile = stage.place("profile")
        self._command = [found, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}"]
        self._folder = folder

    def picture(self, name: str, url: str, size: str) -> None:
        options = [f"--screenshot={self._folder / name}", f"--window-size={size}", url]
        subprocess.run([*self._command, *options], check=True, stderr=subprocess.DEVNULL, timeout=60)
        progress(f"wrote {self._folder / name}")


def _demo(stage: Stage) -> str:
    stage.start("demo", [sys.executable, "-m", "fcgi_procmanager", "demo", "--web", "127.0.0.1:0"])
    return _url(stage.directory / "demo.log")


def _shop(stage: Stage) -> str:
    place = stage.place("site")
    (place / "shop.py").write_text(APPLICATION)
    options = ["--web", "127.0.0.1:0", "-n", "8", "--pool", "dynamic", "--pool-name", "shop", "--max-requests", "5000"]
    serve = [sys.executable, "-m", "fcgi_procmanager", "serve", "shop:app", "--chdir", place, *options]
    stage.start("pool", [*serve, "--slow-after", "2"])
    return _url(stage.directory / "pool.log")


def _url(log: Path) -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = re.search(r"(http://127\.0\.0\.1:\d+/)", log.read_text()) if log.exists() else None
        if found is not None:
            return found[1]
        time.sleep(0.05)
    raise Failed("the server did not start")


def _load(url: str, seconds: float) -> None:
    began = time.monotonic()
    clients = [threading.Thread(target=_client, args=(url, began, seconds, number), daemon=True) for number in range(7)]
    for client in clients:
        client.start()
    time.sleep(seconds)  # the picture is of a pool at work: the clients are still there


def _client(url: str, began: float, seconds: float, number: int) -> None:
    chance = random.Random(number)
    while time.monotonic() < began + seconds + 20:
        if (time.monotonic() - began) % 40 < 5 * number:  # in waves
            time.sleep(0.5)
            continue
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{url[:-1]}{chance.choice(PATHS)}?{chance.random():.2f}") as reply,
        ):
            reply.read()


if __name__ == "__main__":
    common.run(main)
