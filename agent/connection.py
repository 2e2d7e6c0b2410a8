"""The stream that carries one session of the learner-driven loop."""

from __future__ import annotations

import queue

import grpc

from farsim import connection
from farsim.channel import ConnectionOptions
from farsim.protocol import FLEET_KEY, SERVICE
from farsim.v1 import simulator_pb2 as pb


class Connection(connection.Connection):
    """A stream of ``Run`` that keeps what comes until it is asked for.

    Args:
        address: ``host:port``.
        options: how to connect.
        fleet: as at ``Wish``.
    """

    def __init__(self, address: str, options: ConnectionOptions, fleet: str = "") -> None:
        #: What came: messages; at last the error that broke the stream, or None if it ended.
        self.inbox: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()
        metadata = [(FLEET_KEY, fleet)] if fleet else []
        super().__init__(address, options, f"{SERVICE}/Run", self.inbox.put, metadata)
        #: The number that a farewell would have; 0 as long as there is nothing to say it to.
        self.next_sequence = 0

    def hang_up(self, farewell: bool = True) -> None:
        """As ``end``, after a ``close`` request if ``farewell``."""
        request = None
        if farewell and self.next_sequence:
            close = pb.SimRequest(sequence=self.next_sequence, close=pb.Close())
            request = close.SerializeToString()
        self.end(request)
