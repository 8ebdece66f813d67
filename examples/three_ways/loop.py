"""The third way: a loop of one's own, the shape of every FastCGI script in Perl. No WSGI, no framework.

python loop.py /run/app/app.sock
"""

import sys

from fcgi_procmanager import FastCGI, ProcManager

if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else None
    manager = ProcManager(n_processes=2)
    listener = manager.listen(address)  # in the manager, once

    manager.manage()  # from here on this is a worker
    fcgi = FastCGI(listener, manager=manager)
    while request := fcgi.accept():  # None: this worker should leave
        manager.pre_dispatch()
        request.stdout.write(b"Content-Type: text/plain\r\n\r\n")
        request.stdout.write(f"hello from {request.params['PATH_INFO']}\n")
        request.finish()
        manager.post_dispatch()
