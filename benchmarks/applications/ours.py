"""ours.py SOCKET WORKERS: the application under our WSGIServer."""

import sys

from wsgi import app

from fcgi_procmanager import ProcManager, WSGIServer

WSGIServer(app, manager=ProcManager(n_processes=int(sys.argv[2])), bindAddress=sys.argv[1]).run()
