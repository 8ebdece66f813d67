"""Two pools that wait for one listener, as two generations under a superdaemon do: one that leaves takes no wake-up along."""

from __future__ import annotations

import sys
from typing import Callable

import pytest

from harness.process import Script

Run = Callable[..., Script]

# A connection and a TERM come to the only worker of the first pool at the same moment, whose manager stands still: nobody
# replaces it. The second pool is idle. Whoever was woken, somebody answers.
SWEEP = """
import os, random, signal, socket, sys, time
from harness import fcgi
from fcgi_procmanager import FastCGI, ProcManager, WSGIServer

path, kind, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(100)
listener.setblocking(False)
REPLY = b"Content-Type: text/plain\\r\\n\\r\\nok"

def loop(manager):
    fcgi = FastCGI(listener, manager=manager, drain_timeout=60)
    while (request := fcgi.accept()) is not None:
        manager.pre_dispatch()
        request.stdout.write(REPLY)
        request.finish()
        manager.post_dispatch()

def by_hand(manager):
    while (accepted := manager.accept(listener)) is not None:
        accepted[0].recv(4096)
        accepted[0].sendall(REPLY)
        accepted[0].close()

def threads(manager):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]
    WSGIServer(app, manager=manager, listener=listener, threads=2, drain_timeout=60).serve()

def start():
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(told)
            manager = ProcManager(1)
            manager.notify = lambda message: None
            manager.manage()
            os.write(tell, b"%d" % os.getpid())
            os.close(tell)
            {"loop": loop, "by_hand": by_hand, "threads": threads}[kind](manager)
            manager.leave()
        finally:
            os._exit(0)
    os.close(tell)
    worker = int(os.read(told, 20))
    os.close(told)
    for thread in os.listdir(f"/proc/{worker}/task"):
        while "poll" not in open(f"/proc/{worker}/task/{thread}/wchan").read():
            time.sleep(0.0005)
    return pid, worker

def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass

lost, chance = 0, random.Random(7)
for _ in range(rounds):
    pools = [start(), start()]
    (manager, worker), _ = pools
    os.kill(manager, signal.SIGSTOP)
    client = socket.socket(socket.AF_UNIX)
    steps = [lambda: client.connect(path), lambda: os.kill(worker, signal.SIGTERM)]
    chance.shuffle(steps)
    steps[0]()
    spin(chance.random() * 0.00015)
    steps[1]()
    client.sendall(fcgi.request_bytes())
    client.settimeout(60)
    try:
        lost += not client.recv(1000)
    except OSError:
        lost += 1
    client.close()
    for pid in (pid for pool in pools for pid in pool):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    for manager, _ in pools:
        os.waitpid(manager, 0)
print("lost", lost)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says who waits")
@pytest.mark.parametrize("kind", ["loop", "by_hand", "threads"])
@pytest.mark.leaves_socket
def test_one_that_leaves_takes_no_wake_up_along(run_script: Run, sock_path: str, kind: str) -> None:
    script = run_script(SWEEP, args=[sock_path, kind, 60])
    assert script.line(200) == "lost 0"
    assert script.wait() == 0
