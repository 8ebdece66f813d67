"""The script under comparison, on fcgi_procmanager.engine: engine.pl line by line."""

import os
import signal
import sys

from fcgi_procmanager.engine import Constrained, PidFile, ProcManager, augment


class Hooked(ProcManager):
    @augment
    def manager_init(self):
        self.notify("hook manager_init")

    @augment
    def server_init(self):
        self.notify("hook server_init")

    @augment
    def pre_dispatch(self):
        self.notify("hook pre_dispatch")

    @augment
    def post_dispatch(self):
        self.notify("hook post_dispatch")


def main():
    made = {"plain": ProcManager, "constrained": Constrained}.get(sys.argv[1], Hooked)
    attribute = {key: number(value) for key, value in (word.split("=", 1) for word in sys.argv[2:])}
    if "pidfile" in attribute:
        attribute["pidfile"] = PidFile(file=attribute["pidfile"])
    manager = made(**attribute)

    managed = manager.manage()
    os.write(1, b"managed: %d\n" % managed)

    listener = manager.listen()
    while accepted := manager.accept(listener):
        client = accepted[0].makefile("rwb", buffering=0)
        accepted[0].close()
        manager.pre_dispatch()
        answer(manager, client, *receive(client))
        client.close()
        manager.post_dispatch()


def answer(manager, client, command, *words):
    if command == "pid":
        reply(client, os.getpid())
    elif command == "wait":
        reply(client, "waiting")
        receive(client)
        reply(client, "done")
    elif command == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        reply(client, "stubborn")
        receive(client)
    elif command == "quit":
        sys.exit(int(words[0]))
    elif command == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif command == "pids":
        reply(client, manager.pid_count())
    elif command == "file":
        reply(client, "running" if manager.pidfile.is_running() else "not running")
    else:
        getattr(manager, command)(" ".join(words))  # exit, abort, die


def number(text):
    return int(text) if text.lstrip("-").isdigit() else text


def receive(client):
    return client.readline().decode().split()


def reply(client, text):
    client.write(f"{text}\n".encode())


main()
