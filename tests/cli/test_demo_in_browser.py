"""What README.md says of the demo, done with a real browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Callable

from harness.browser import browser
from harness.process import Script, wait_settled
from harness.tools import require

Run = Callable[..., Script]
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]

PRESS = """
new Promise(done => {
  many.click();
  const look = () => many.disabled ? setTimeout(look, 20) : done(tally.innerText);
  look();
})
"""


def start(run_script: Run, folder: Path) -> tuple[Script, str, set[int]]:
    require("caddy")
    script = run_script([*COMMAND, "demo", "--web", "127.0.0.1:0"], cwd=folder)
    url = re.match(r"http://\S+/", script.line())
    assert url
    script.wait_ready(3)
    workers = {int(one[1]) for one in script.wait_log(r"server \(pid (\d+)\): initialized", 3)}
    return script, url[0], workers


def test_ask_24_times_at_once_meets_all_workers(run_script: Run, tmp_path: Path) -> None:
    script, url, workers = start(run_script, tmp_path)
    with browser(run_script) as page:
        page.open(url)
        assert page.evaluate("many.innerText") == "Ask 24 times at once"
        for _ in range(2):  # what is cached by then is not taken for an answer
            met = dict(re.findall(r"worker (\d+): \S+ (\d+)", page.evaluate(PRESS)))
            assert sum(map(int, met.values())) == 24
            assert set(map(int, met)) == workers
    assert script.stop() == 0


def test_one_request_after_the_other_meets_the_same_worker(run_script: Run, tmp_path: Path) -> None:
    """As long as it is free again: here all are at rest before the next one."""
    script, url, workers = start(run_script, tmp_path)
    with browser(run_script) as page:
        met = []
        for _ in range(8):
            wait_settled(*workers)
            page.open(url)
            met.append(int(page.evaluate("document.querySelector('h1 b').innerText")))
    assert len(set(met)) == 1
    assert set(met) <= workers
    assert script.stop() == 0
