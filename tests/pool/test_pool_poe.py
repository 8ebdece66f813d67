"""What POE::Component::Daemon has besides: children of the application, a shutdown, a status as text; and FCGI::ProcManager::Dynamic."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import PoolManager
from harness.fcgi import fetch
from harness.pools import Pool
from harness.process import Script, alive, wait_until

Run = Callable[..., Script]


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def test_a_child_of_the_application_ends_with_the_pool_and_without_a_word(pool: Pool) -> None:
    more = (
        "import subprocess\nclass Manager(PoolManager):\n    def manager_init(self):\n        super().manager_init()\n"
        "        for seconds in ('600', '0'):\n"
        "            child = subprocess.Popen(['sleep', seconds])\n            self.foreign_child(child.pid)\n"
        "            say(child.pid)\n"
    )
    script = pool.start("2", 2, more, "Manager")
    lasting, short = (int(line) for line in script.lines(2))
    wait_until(lambda: not alive(short), 60, "the end of the short one")
    assert alive(lasting)
    assert script.stop() == 0
    wait_until(lambda: not alive(lasting), 60, "the end of the lasting one")
    assert not re.search(rf"\b({lasting}|{short})\b", script.log())


@pytest.mark.parametrize("process", ["manager", "worker"])
def test_a_shutdown_from_within(pool: Pool, process: str) -> None:
    more = (
        "import threading\n"
        "class Manager(PoolManager):\n    def manager_init(self):\n        super().manager_init()\n"
        "        if len(sys.argv) > 2: threading.Timer(0.3, self.shutdown).start()\n"
        "def app(environ, start_response):\n    manager.shutdown()\n    start_response('200 OK', [])\n    return [str(os.getpid()).encode()]\n"
        "manager = Manager(2)\nWSGIServer(app, manager=manager, bindAddress=sys.argv[1]).run()\n"
    )
    if process == "manager":
        script = pool._run(("import os, sys\nfrom fcgi_procmanager import *\n" + more), args=[pool.address, "x"])
        assert script.wait() == 0
        assert "safe exit from signal TERM" in script.log()
    else:
        script = pool.start("2", 2, more)
        pid = pool.pid_of()
        script.wait_log(rf"server \(pid {pid}\): shutdown$")
        wait_until(lambda: pid not in script.workers() and len(script.workers()) == 2, 60, "another one")
        assert script.stop() == 0


def test_the_status_as_text(pool: Pool) -> None:
    more = (
        "class Manager(PoolManager):\n    def manager_sig_handler(self, name):\n"
        "        if name == 'TTIN':\n            print(self.status().splitlines()[0], flush=True)\n"
        "        else:\n            super().manager_sig_handler(name)\n"
    )
    script = pool.start("2", 2, more, "Manager")

    def asked() -> str:
        script.signal(signal.SIGTTIN)
        return script.line()

    wait_until(lambda: asked().startswith("ok: 2 of 2 workers idle"), 60, "both to be ready")
    assert script.stop() == 0


DYNAMIC = """
import os, sys, time
from fcgi_procmanager import FastCGI
from fcgi_procmanager.perl import Dynamic

manager = Dynamic({"n_processes": 2, "max_nproc": 5, "delta_time": 0.5})
listener = manager.listen(sys.argv[1])
manager.pm_manage()
requests = FastCGI(listener, manager=manager)
while manager.pm_loop() and (request := requests.accept()) is not None:
    manager.pm_pre_dispatch()
    path = request.params["PATH_INFO"]
    while path != "/" and not os.path.exists(path):
        time.sleep(0.005)
    request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\n%d" % os.getpid())
    request.finish()
    manager.pm_post_dispatch()
"""


def test_dynamic_has_between_min_nproc_and_max_nproc_workers(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    script = run_script(DYNAMIC, args=[sock_path])
    script.wait_ready(2)
    pool = Pool(run_script, sock_path)
    pool.script = script
    gate = tmp_path / "gate"
    asked = pool.at_once([str(gate)] * 8)
    script.wait_workers(5)
    time.sleep(0.1)  # in which nothing may happen
    assert len(script.workers()) == 5
    gate.touch()
    assert all(future.result().ended for future in asked)
    script.wait_workers(2)
    assert fetch(sock_path).ended
    line = script.log().splitlines()[0]
    assert line[:4].isdigit(), "the date is before each line, as in the original"
    assert " - FastCGI: manager (pid " in line
    assert script.stop() == 0


@pytest.mark.parametrize(
    ("given", "kind", "numbers"),
    [
        ({"start_children": 10}, "dynamic", (30, 10, 10, 20)),
        ({"start_children": 2, "max_children": 10}, "dynamic", (10, 2, 2, 8)),
        ({"max_children": 5}, "per-request", (5, 1, 0, 0)),
        ({"max_children": 5, "pool": "ondemand"}, "ondemand", (5, 1, 0, 0)),
    ],
)
def test_the_parameters_of_poe(given: dict[str, Any], kind: str, numbers: tuple[int, ...]) -> None:
    manager = PoolManager(**given, requests=7)
    assert manager._sizing.pool == kind
    assert (manager.n_processes, *manager._sizing.spares[1:]) == numbers
    assert manager.max_requests == 7
