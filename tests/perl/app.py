"""The script under comparison, on fcgi_procmanager.perl: app.pl line by line."""

import os
import random
import signal
import sys

import fcgi_procmanager.perl
from fcgi_procmanager.perl import *  # noqa: F403
from fcgi_procmanager.perl import Constrained, MaxRequests, ProcManager, default_manager, pm_manage

change = {}
only = []
no_ink = []


class Hooked(ProcManager):
    def managing_init(self):
        super().managing_init()
        self.pm_notify("hook managing_init")
        ink()

    def handling_init(self):
        super().handling_init()
        self.pm_notify("hook handling_init")

    def pm_pre_dispatch(self):
        super().pm_pre_dispatch()
        self.pm_notify("hook pm_pre_dispatch")

    def pm_post_dispatch(self):
        super().pm_post_dispatch()
        self.pm_notify("hook pm_post_dispatch")

    def sig_manager(self, name):
        if name == "HUP":
            for key, value in change.items():
                self.pm_parameter(key, value)
        if not (only and name == "HUP"):
            super().sig_manager(name)


def ink():
    if no_ink:
        raise RuntimeError("no ink")


def number(text):
    return int(text) if text.lstrip("-").isdigit() else text


def main():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background

    style, *words = sys.argv[1:]
    parameter = {key: number(value) for key, value in (word.split("=", 1) for word in words)}
    init = parameter.pop("init", "")
    change.update(map(number, pair.split(":")) for pair in [parameter.pop("hup", "")] if pair)
    only.extend([1] * parameter.pop("hup_only", 0))
    no_ink.extend([1] * parameter.pop("no_ink", 0))
    if parameter.pop("ignore_chld", 0):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    made = {"object": ProcManager, "constrained": Constrained, "maxrequests": MaxRequests}.get(style, Hooked)
    if style == "class":
        fcgi_procmanager.perl.Default = Hooked
    manager = None if style in ("functions", "class") else made(parameter)

    managed = manager.pm_manage() if manager else pm_manage(**parameter)
    os.write(1, b"managed: %d\n" % managed)
    if init == "exit":
        sys.exit(3)

    manager = manager or default_manager()
    listener = manager.listen()
    while accepted := manager.accept(listener):
        client = accepted[0].makefile("rwb", buffering=0)
        accepted[0].close()
        call(manager, style, "pm_pre_dispatch")
        answer(manager, style, client, *receive(client))
        client.close()
        call(manager, style, "pm_post_dispatch")


def answer(manager, style, client, command, *words):
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
    elif command == "random":
        reply(client, random.random())
        receive(client)
    elif command == "chld":
        reply(client, {signal.SIG_IGN: "IGNORE", signal.SIG_DFL: "DEFAULT"}[signal.getsignal(signal.SIGCHLD)])
    elif command == "get":
        reply(client, call(manager, style, "pm_parameter", *words))
    elif command == "set":
        call(manager, style, "pm_parameter", *map(number, words))
        reply(client, call(manager, style, "pm_parameter", words[0]))
    elif command == "received":
        reply(client, call(manager, style, "pm_received_signal", *words) or 0)
    elif command == "title":
        call(manager, style, "pm_change_process_name", " ".join(words))
        reply(client, "ok")
    else:
        call(manager, style, command, *([" ".join(words)] if words else []))  # pm_exit and the like


def call(manager, style, method, *arguments):
    """Through the exported function where the style says so."""
    if style in ("functions", "class"):
        return globals()[method](*arguments)
    return getattr(manager, method)(*arguments)


def receive(client):
    return client.readline().decode().split()


def reply(client, text):
    client.write(f"{text}\n".encode())


main()
