"""flup_alone.py SOCKET WORKERS: the application under flup's own single-process server, one for each worker.

flup's prefork server is not used: what it adds is its manager, which is not what is measured here. A client that goes away
ends a worker of flup with a traceback, so each is replaced.
"""

import os
import socket
import sys

from flup.server.fcgi_single import WSGIServer
from wsgi import app

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1024)
os.dup2(listener.fileno(), 0)  # where a FastCGI spawner puts it
if all(os.fork() for _ in range(int(sys.argv[2]))):  # ends at the first 0, which only a child sees
    os.wait()
    while os.fork():
        os.wait()
WSGIServer(app).run()
