"""The first way, and the recommended one: WSGIServer, which knows its manager.

python wsgi_server.py /run/app/app.sock     serve at that address: a path, host:port or [v6]:port
python wsgi_server.py                       serve on the socket that systemd or a FastCGI spawner handed over
"""

import sys

from fcgi_procmanager import ProcManager, WSGIServer


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from {environ['PATH_INFO']}\n".encode()]


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else None
    manager = ProcManager(n_processes=2)
    WSGIServer(app, manager=manager, bindAddress=address).run()
