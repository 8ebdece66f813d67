"""A FastCGI program that knows no signal: one connection at a time on descriptor 0, one request on each.

/      its pid
/held  says "in hand PID" on descriptor 1, then waits until somebody opens the other end of the fifo in GATE
/crash ends it with status 3
/env/NAME, /cwd, /version, /fds  a variable, the folder, the argument, the descriptors from 3 on

ON_TERM in the environment is what TERM does: `ignore`, `exit` at once whatever is in hand, or `flag`: end after the next
request, and be killed by a second TERM (as MapServer 8.0). With READY it says "up PID", and is ready when that file is there.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from harness import fcgi
from harness.inside import say


def main() -> None:
    told = set_signal(os.environ.get("ON_TERM"))
    if "READY" in os.environ:
        wait_and_say_ready()
    listener = socket.socket(fileno=0)
    while not told:
        connection, _ = listener.accept()
        with connection:
            answer(connection)


def set_signal(kind: str | None) -> list[int]:
    """What TERM does; the list is filled when it is to end after a request."""
    told: list[int] = []

    def flag(number: int, frame: object) -> None:
        told.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    handlers = {"ignore": signal.SIG_IGN, "exit": lambda *_: os._exit(0), "flag": flag, None: signal.SIG_DFL}
    signal.signal(signal.SIGTERM, handlers[kind])
    return told


def answer(connection: socket.socket) -> None:
    path = receive(connection)
    if path is None:  # somebody who only looked whether we listen
        return
    head = b"Content-Type: text/plain\r\n\r\n"
    end = fcgi.record(fcgi.END_REQUEST, 1, bytes(8))
    connection.sendall(fcgi.record(fcgi.STDOUT, 1, head + body(path).encode()) + fcgi.record(fcgi.STDOUT, 1) + end)


def receive(connection: socket.socket) -> str | None:
    """The path that is asked for, once the whole request is here."""
    params = b""
    with connection.makefile("rb") as stream:
        while header := stream.read(8):
            _, type, _, length, padding = fcgi.HEADER.unpack(header)
            content = stream.read(length + padding)[:length]
            if type == fcgi.PARAMS:
                params += content
            elif type == fcgi.STDIN and not content:
                return dict(fcgi.decode_params(params))[b"PATH_INFO"].decode()
    return None


def body(path: str) -> str:
    if path == "/held":
        say("in hand", os.getpid())
        open(os.environ["GATE"]).close()
    elif path == "/crash":
        os._exit(3)
    elif path.startswith("/env/"):
        return os.environ.get(path[5:], "is not set")
    elif path == "/cwd":
        return os.getcwd()
    elif path == "/version":
        return sys.argv[1]
    elif path == "/fds":
        return " ".join(fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    return str(os.getpid())


def wait_and_say_ready() -> None:
    say("up", os.getpid())
    while not os.path.exists(os.environ["READY"]):
        time.sleep(0.005)
    if "SERVER_STARTER_NOTIFY_FD" in os.environ and "BY_NEWLINE" in os.environ:
        os.write(int(os.environ["SERVER_STARTER_NOTIFY_FD"]), b"\n")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = os.environ["NOTIFY_SOCKET"]
        sock.connect("\0" + name[1:] if name.startswith("@") else name)
        sock.send(b"READY=1")


main()
