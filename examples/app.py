"""A WSGI application that shows what it was asked, for trying out a web server's configuration.

fcgi-procmanager serve app:application --listen /run/app/app.sock -n 4
"""

import os


def application(environ, start_response):
    size = len(environ["wsgi.input"].read())
    lines = [
        f"worker {os.getpid()}",
        f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}|{environ['PATH_INFO']}?{environ['QUERY_STRING']}",
        f"a body of {size} bytes",
    ]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["".join(line + "\n" for line in lines).encode("latin-1")]
