"""The second way: a flup server that is there already, put under a manager. Add "threaded" for several threads in each worker.

python adopted.py /run/app/app.sock [threaded]
"""

import sys

from flup.server import fcgi, fcgi_single

from fcgi_procmanager import ProcManager, adopt


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello from {environ['PATH_INFO']}\n".encode()]


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else None
    if "threaded" in sys.argv[2:]:
        server = fcgi.WSGIServer(app, bindAddress=address, maxThreads=4)
    else:
        server = fcgi_single.WSGIServer(app, bindAddress=address)
    adopt(server, ProcManager(n_processes=2)).run()
