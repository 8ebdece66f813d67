#!/usr/bin/env python3
"""A script that the web server starts by itself and hands its socket on descriptor 0: mod_fcgid, spawn-fcgi, lighttpd.

mod_fcgid starts as many copies as it needs and gives each one request at a time. It is the process manager; therefore this
one keeps no workers, and still ends gently when it is told to.
"""

from fcgi_procmanager import ProcManager, WSGIServer


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from {environ['PATH_INFO']}\n".encode()]


if __name__ == "__main__":
    WSGIServer(app, manager=ProcManager(0)).run()
