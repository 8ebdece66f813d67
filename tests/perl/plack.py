"""What Plack's FastCGI handler does with a manager, on ours: plack.py MANAGER SOCKET PIDFILE, plack.pl line by line."""

import os
import sys

from fcgi_procmanager import FastCGI, perl


class Recorder:
    def __init__(self, parameter):
        note(f"new({' '.join(sorted(parameter))})")

    def __getattr__(self, name):
        def method(*arguments):
            note(f"{name}({' '.join(arguments)})")
            return name != "pm_exit" or sys.exit(0)

        return method


def note(text):
    os.write(2, f"{text}\n".encode())


def main():
    name, socket, pid_file = sys.argv[1:]
    made = Recorder if name == "Recorder" else perl.ProcManager
    listener = perl.ProcManager().listen(socket)
    manager = made({"n_processes": 1, "pid_fname": pid_file, "pm_title": "app manager"})
    manager.pm_manage()
    fcgi = FastCGI(listener, manager=None if made is Recorder else manager)
    while request := fcgi.accept():
        manager.pm_pre_dispatch()
        request.stdout.write(b"Content-Type: text/plain\r\n\r\n%d" % os.getpid())
        request.finish()
        manager.pm_post_dispatch()
        note("cleanup")
        if request.params["PATH_INFO"] == "/bye":
            manager.pm_exit("safe exit with harakiri")


main()
