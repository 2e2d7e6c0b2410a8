"""Which TCP ports of a host say anything at all: accepted, or refused.

A port that a packet filter closes is silent. ``python port_scan.py ADDRESS`` prints the others as
JSON, by what they say.
"""

from __future__ import annotations

import errno
import json
import resource
import select
import socket
import sys

#: For answers, which take microseconds where there is no wire.
_SECONDS = 1.0


def scan(address: str) -> dict[str, list[int]]:
    """The ports that are not silent."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))
    said: dict[str, list[int]] = {"accepted": [], "refused": []}
    for first in range(1, 65536, 16384):
        poll = select.poll()
        asked = {}
        for port in range(first, min(first + 16384, 65536)):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex((address, port))
            poll.register(connection, select.POLLOUT)
            asked[connection.fileno()] = (port, connection)
        while ready := poll.poll(_SECONDS * 1000):
            for descriptor, _ in ready:
                port, connection = asked[descriptor]
                code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                said["accepted" if code == 0 else "refused"].append(port)
                assert code in (0, errno.ECONNREFUSED), errno.errorcode[code]
                poll.unregister(descriptor)
        for _, connection in asked.values():
            connection.close()
    return said


if __name__ == "__main__":
    print(json.dumps(scan(sys.argv[1])))
