"""An application that takes a while to load, as real ones do, and has slow replies besides quick ones."""

import time

time.sleep(0.3)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.5)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
