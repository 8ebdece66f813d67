"""pool.py SOCKET WORKERS [STANDBY]: a pool whose workers say on standard output when they are ready to serve."""

import os
import sys

from wsgi import app

from fcgi_procmanager import ProcManager, WSGIServer


class Manager(ProcManager):
    def manage(self) -> bool:
        worker = super().manage()
        os.write(1, b"%d\n" % os.getpid())
        return worker


workers, standby = (int(count) for count in (*sys.argv[2:], "0")[:2])
WSGIServer(app, manager=Manager(n_processes=workers, standby=standby), bindAddress=sys.argv[1]).run()
