"""ours_deadly.py SOCKET WORKERS: the application with the deadly address under our WSGIServer."""

import sys

from deadly import app
from fcgi_procmanager import ProcManager, WSGIServer

WSGIServer(app, manager=ProcManager(n_processes=int(sys.argv[2])), bindAddress=sys.argv[1]).run()
