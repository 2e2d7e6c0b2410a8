"""Sockets that listen at an address, as gRPC understands addresses."""

from __future__ import annotations

import errno
import socket
from typing import Any

from farsim.serving import can_not_listen

_BACKLOG = 1024
#: gRPC takes either for all addresses of both families.
_ANYWHERE = ("0.0.0.0", "::")


def bind(address: str) -> list[socket.socket]:
    """Listens at all that ``host:port`` means, as gRPC does; at one port, also if it is 0.

    Raises:
        InvalidAddress: it can not be listened on.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        listeners = [_anywhere(int(port))] if host in _ANYWHERE else _at(host, int(port))
    except OSError as error:
        raise can_not_listen(address, error) from error
    for listener in listeners:
        listener.setblocking(False)
    return listeners


def _anywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)


def _at(host: str, port: int) -> list[socket.socket]:
    """At as many of the addresses of a name as there are on this machine, one at least."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, name in found:
        at: tuple[Any, ...] = name
        if listeners:
            at = (name[0], listeners[0].getsockname()[1], *name[2:])
        try:
            listeners.append(socket.create_server(at, family=family, backlog=_BACKLOG))
        except OSError as error:
            failure = failure or error
    if not listeners and failure is not None:
        raise failure
    return listeners
