"""The program that the superdaemons run in these tests, started as `worker.py FOLDER [words]`.

What happens to it goes to FOLDER/events, one line each (`up GENERATION PID`, `got SIGNAL GENERATION PID`). It answers one
line of a client with one line, on every socket that it is given. Words:

    fail=1,3      these generations end at once, with status 3 (`fail=all`: every one). Give them an interval that a busy
                  machine keeps: it is their time for that
    failing=PATH  it ends at once while that file is there
    hold=PATH     while that file is there, it serves on after a stop signal
    deaf          TERM and INT are ignored
    family=WHERE  it has a child, deaf to everything, that lives on, `near` or `away` in a session of its own
    ready=HOW     it says that it is ready: `notify` or `fd`
    gate=PATH     before that, it waits until that file is there, or it is asked to stop
    calm=2        from this generation on there is no further restart by itself: see `calm_down`
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

STOPPING = ("TERM", "INT", "HUP", "USR1", "USR2", "QUIT")


class Worker:
    def __init__(self, folder: str, words: list[str]) -> None:
        self.folder = folder
        self.options = dict(word.partition("=")[::2] for word in words)
        self.generation = os.environ.get("SERVER_STARTER_GENERATION", "-")
        self.leaving = False

    def event(self, *words: object) -> None:
        line = " ".join(map(str, words)) + "\n"
        fd = os.open(os.path.join(self.folder, "events"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, line.encode())
        os.close(fd)

    def run(self) -> None:
        self.ignored = sorted(n.name for n in signal.Signals if signal.getsignal(n) == signal.SIG_IGN)
        self.fail_if_asked()
        if self.options.get("calm") == self.generation:
            self.calm_down()
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for name in STOPPING:
            signal.signal(getattr(signal, f"SIG{name}"), self.asked_to_stop)
        if "deaf" in self.options:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        if "family" in self.options:
            self.start_a_family()
        sockets = given_sockets()
        self.event("up", self.generation, os.getpid())
        self.say_ready()
        self.serve(sockets, read_end)

    def fail_if_asked(self) -> None:
        generations = self.options.get("fail", "").split(",")
        if self.generation in generations or "all" in generations or os.path.exists(self.options.get("failing", "")):
            self.event("failing", self.generation, os.getpid())
            os._exit(3)

    def calm_down(self) -> None:
        """With `--envdir=DIR/calm`. The test itself would have to be quicker than the interval."""
        path = os.path.join(self.folder, "calm", ".new")
        with open(path, "w") as file:
            file.write("100000\n")
        os.rename(path, os.path.join(self.folder, "calm", "AUTO_RESTART_INTERVAL"))

    def start_a_family(self) -> None:
        child = os.fork()
        if child == 0:
            for name in STOPPING:
                signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
            if self.options["family"] == "away":
                os.setsid()
            self.event("child", self.generation, os.getpid())
            while True:
                time.sleep(60)

    def say_ready(self) -> None:
        how = self.options.get("ready")
        gate = self.options.get("gate")
        while gate and not os.path.exists(gate):
            time.sleep(0.005)
            if self.leaving:
                return
        if how == "notify":
            notify("READY=1")
        if how == "fd":
            os.write(int(os.environ["SERVER_STARTER_NOTIFY_FD"]), b"\n")

    def notify_again(self, message: str) -> str:
        try:
            notify(message) if message else os.write(int(os.environ["SERVER_STARTER_NOTIFY_FD"]), b"\n")
        except OSError as error:
            return str(error)
        return "done"

    def asked_to_stop(self, number: int, _: object) -> None:
        self.event("got", signal.Signals(number).name[3:], self.generation, os.getpid())
        self.leaving = True

    def held(self) -> bool:
        return os.path.exists(self.options.get("hold", ""))

    def serve(self, sockets: list[socket.socket], wakeup: int) -> None:
        poll = select.poll()
        by_fd = {sock.fileno(): sock for sock in sockets}
        for fd in [*by_fd, wakeup]:
            poll.register(fd, select.POLLIN)
        for sock in sockets:
            sock.setblocking(False)
        while not self.leaving or self.held():
            for fd, _ in poll.poll(5 if self.leaving else None):
                if fd == wakeup:
                    os.read(wakeup, 100)
                else:
                    with contextlib.suppress(BlockingIOError):  # another generation was quicker
                        self.answer(by_fd[fd])

    def answer(self, sock: socket.socket) -> None:
        if sock.type == socket.SOCK_DGRAM:
            line, peer = sock.recvfrom(1000)
            sock.sendto(f"{self.reply(line.decode().strip())}\n".encode(), peer)
            return
        client, _ = sock.accept()
        with client, client.makefile("rw", newline="\n") as stream:
            stream.write(f"{self.reply(stream.readline().strip())}\n")

    def reply(self, command: str) -> str:
        verb, _, rest = command.partition(" ")
        if verb == "exit":
            os._exit(int(rest))
        if verb == "print":
            os.write(1, f"{rest}\n".encode())
        if verb in ("notify", "newline"):
            return self.notify_again(rest)
        facts = {
            "who": f"{self.generation} {os.getpid()}",
            "env": os.environ.get(rest, "-"),
            "cwd": os.getcwd(),
            "ignored": " ".join(self.ignored),
            "program": sys.argv[0],
            "inherited": " ".join(map(str, sorted(inherited))),
        }
        return facts.get(verb, command)


def notify(message: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def given_sockets() -> list[socket.socket]:
    """Those of SERVER_STARTER_PORT; without it or when it is empty, none."""
    pairs = filter(None, os.environ.get("SERVER_STARTER_PORT", "").split(";"))
    return [socket.socket(fileno=int(pair.rpartition("=")[2])) for pair in pairs]


def open_sockets() -> list[int]:
    links = {int(fd): os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")}
    return [fd for fd, link in links.items() if os.path.islink(link) and os.readlink(link).startswith("socket:")]


if __name__ == "__main__":
    inherited = open_sockets()
    Worker(sys.argv[1], sys.argv[2:]).run()
