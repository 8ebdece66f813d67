"""ours_loop.py SOCKET WORKERS: the same in a hand-written FastCGI loop under our manager."""

import sys

from wsgi import REPLIES

from fcgi_procmanager import FastCGI, ProcManager

manager = ProcManager(n_processes=int(sys.argv[2]))
listener = manager.listen(sys.argv[1])
manager.manage()
fcgi = FastCGI(listener, manager=manager)
while request := fcgi.accept():
    manager.pre_dispatch()
    received = 0
    try:
        if request.params["CONTENT_LENGTH"]:
            while chunk := request.stdin.read(65536):
                received += len(chunk)
        size = request.params["QUERY_STRING"]
        body = b"%012d" % received if size == "12" else REPLIES[size]
        head = f"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n"
        request.stdout.write(head.encode() + body)
    except OSError:  # the client went away before all of its body had come
        pass
    request.finish()
    manager.post_dispatch()
