"""inside.py SOCKET REQUESTS: a worker that measures itself. One line of JSON for each line that it is sent.

The application is the instrument. At its call number `REQUESTS` it stops the clock, plays the web server (reads the replies, connects
and sends the next requests, all of which wait in the queue of the socket), and starts the clock again as its last act. So
what is timed is that many whole requests, from the end of one call of the application to the next: our end of a reply,
both hooks, accept, receive, parse, environ, the call. The web server's share is not in it, nor is any waiting.

The other things are timed inside the same call, on the same socket: a loop of the bare system calls, a hand-written FastCGI
loop, the two hooks alone. The clock is the CPU time of this process, so that others on the machine disturb less.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from time import process_time_ns

sys.path.append(str(Path(__file__).resolve().parent.parent))
from common import page, reply, request
from fcgi_procmanager import FastCGI, ProcManager, WSGIServer

PATH, COUNT = sys.argv[1], int(sys.argv[2])
HOOKS = 5000
REQUESTS = [request(page(number)) for number in range(COUNT)]
BODY = b"0" * 12
REPLY = reply(BODY)


def connect(number: int) -> socket.socket:
    """The web server's side of one request."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(PATH)
    sock.send(REQUESTS[number])
    return sock


def settle(clients: list[socket.socket]) -> None:
    for client in clients:
        answer = client.recv(65536)
        if not (len(answer) >= len(BODY) and BODY in answer):
            raise SystemExit(f"a wrong reply: {answer!r}")
        client.close()


class Instrument:
    def __init__(self) -> None:
        self.calls = -1  # the first request comes from outside
        self.clients: list[socket.socket] = []
        self.open: list[socket.socket] = []
        self.began = 0

    def app(self, environ, start_response):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls in (0, COUNT):
            ended = process_time_ns()
            self._between((ended - self.began) / 1e3 / COUNT if self.began else None)
            self.calls = 0
            start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
            self.began = process_time_ns()
            return [BODY]
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "12")])
        return [BODY]

    def _between(self, server: float | None) -> None:
        """One round is over, and the next is prepared."""
        settle(self.clients[:-1])  # the last one is in hand
        for client in self.open:
            client.close()
        self.open = self.clients[-1:]
        if server is not None:
            found = {"server": server, "bare": bare(), "loop": loop(), "hooks": hooks(), "swaps": swaps()}
            print(json.dumps(found), flush=True)
        if not sys.stdin.readline():
            os.kill(os.getppid(), signal.SIGTERM)
        self.clients = [connect(number) for number in range(COUNT)]


def bare() -> float:
    """What the system itself takes: microseconds per request."""
    clients = [connect(number) for number in range(COUNT)]
    sock = listener.socket
    began = process_time_ns()
    for _ in range(COUNT):
        connection, _ = sock.accept()
        connection.recv(65536)
        connection.send(REPLY)
        connection.close()
    ended = process_time_ns()
    settle(clients)
    return (ended - began) / 1e3 / COUNT


def loop() -> float:
    """The shape of a script with a loop of its own."""
    fcgi = FastCGI(listener, manager=manager)
    clients = [connect(number) for number in range(COUNT)]
    head = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n"
    began = process_time_ns()
    for _ in range(COUNT):
        taken = fcgi.accept()
        manager.pre_dispatch()
        taken.stdout.write(head + BODY)
        taken.finish()
        manager.post_dispatch()
    ended = process_time_ns()
    fcgi.close()
    settle(clients)
    return (ended - began) / 1e3 / COUNT


def hooks() -> float:
    """pre_dispatch and post_dispatch of a managed worker, in microseconds."""
    before, after = manager.pre_dispatch, manager.post_dispatch
    began = process_time_ns()
    for _ in range(HOOKS):
        before()
        after()
    return (process_time_ns() - began) / 1e3 / HOOKS


def swaps() -> float:
    """SA_RESTART set and taken off again on two signals: the least that both hooks have to do."""
    swap, term, hup = signal.siginterrupt, signal.SIGTERM, signal.SIGHUP
    began = process_time_ns()
    for _ in range(HOOKS):
        swap(term, False)
        swap(hup, False)
        swap(term, True)
        swap(hup, True)
    return (process_time_ns() - began) / 1e3 / HOOKS


manager = ProcManager(n_processes=1)
listener = manager.listen(PATH)
select.select([sys.stdin], [], [])  # nothing to measure before somebody asks
WSGIServer(Instrument().app, manager=manager, listener=listener).run()
