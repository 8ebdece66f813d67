"""A subclass with hooks: the manager prepares the database once, each worker opens a handle of its own.

A database handle must not be opened before the fork: the workers would share one connection and mix up its replies.

python database.py /run/app/app.sock /var/lib/app/visits.db
"""

import os
import sqlite3
import sys

from fcgi_procmanager import ProcManager, WSGIServer


class Manager(ProcManager):
    def __init__(self, n_processes, *, database, **settings):
        super().__init__(n_processes, **settings)
        self.database = database
        self.db = None

    def manager_init(self):
        """Once, in the manager, before the first fork."""
        super().manager_init()
        handle = sqlite3.connect(self.database)
        with handle:
            handle.execute("CREATE TABLE IF NOT EXISTS visits (worker INTEGER, path TEXT)")
        handle.close()

    def server_init(self):
        """Once in each worker, before its first request."""
        super().server_init()
        self.db = sqlite3.connect(self.database)

    def visit(self, path):
        with self.db:  # one transaction
            self.db.execute("INSERT INTO visits VALUES (?, ?)", (os.getpid(), path))
        return self.db.execute("SELECT count(*), count(DISTINCT worker) FROM visits").fetchone()


def make_app(manager):
    def app(environ, start_response):
        visits, workers = manager.visit(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"{visits} visits, counted by {workers} workers\n".encode()]

    return app


if __name__ == "__main__":
    manager = Manager(2, database=sys.argv[2])
    WSGIServer(make_app(manager), manager=manager, bindAddress=sys.argv[1]).run()
