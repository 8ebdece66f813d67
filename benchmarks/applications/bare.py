"""bare.py SOCKET WORKERS: the floor. Accept, receive once, send a reply that was made before, close; no protocol, no manager.

Good for requests that come in one piece and for nothing else.
"""

import os
import socket
import struct
import sys


def record(kind: int, content: bytes) -> bytes:
    return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content


def reply(body: bytes) -> bytes:
    content = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    pieces = [content[at : at + 65528] for at in range(0, len(content), 65528)]
    return b"".join(record(6, piece) for piece in pieces) + record(6, b"") + record(3, bytes(8))


REPLIES = {
    b"QUERY_STRING12": reply(b"000000000000"),
    b"QUERY_STRING10240": reply(b"x" * 10240),
    b"QUERY_STRING1048576": reply(b"x" * 1048576),
}

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1024)
if all(os.fork() for _ in range(int(sys.argv[2]))):  # ends at the first 0, which only a child sees
    while True:
        os.wait()
while True:
    connection, _ = listener.accept()
    try:
        received = connection.recv(65536)
        for mark, data in REPLIES.items():
            if mark in received:
                connection.sendall(data)
                break
    except OSError:  # the load is over and nginx has gone
        pass
    connection.close()
