"""The stream that carries one session of the learner-driven loop."""

from __future__ import annotations

import queue
from typing import Protocol

import grpc

from farsim import connection
from farsim.channel import ConnectionOptions
from farsim.http2 import client
from farsim.protocol import FLEET_KEY, SERVICE
from farsim.v1 import simulator_pb2 as pb

_RUN = f"{SERVICE}/Run"
_DESCRIBE = f"{SERVICE}/Describe"


class Connection(Protocol):
    """A connection to a server, and a stream of ``Run`` on it; for one thread at a time.

    Attributes:
        next_sequence: the number that a farewell would have; 0 as long as there is nothing to say
            it to.
    """

    next_sequence: int

    @property
    def heard_at(self) -> float:
        """When something came last, by ``time.monotonic``; at first, when it was connected."""

    def describe(self, seconds: float) -> pb.DescribeReply:
        """What the server says of itself, asked before the stream begins.

        Raises:
            grpc.RpcError: it says nothing within ``seconds``.
        """

    def start(self, seconds: float) -> None:
        """Begins the stream, after connecting within ``seconds`` if it is not connected yet."""

    def put(self, message: bytes) -> None:
        """Sends a message."""

    def take(self, seconds: float) -> bytes | grpc.RpcError | None:
        """What comes next: a message, or the error that broke the stream, or None if it ended.

        Raises:
            TimeoutError: nothing comes within ``seconds``.
        """

    def hang_up(self, farewell: bool = True) -> None:
        """Ends the stream and the connection, after a ``close`` request if ``farewell``."""


def connection_to(address: str, options: ConnectionOptions, fleet: str = "") -> Connection:
    """A connection of the kind that ``options`` ask for, which does nothing yet.

    Args:
        address: ``host:port``.
        options: how to connect.
        fleet: as at ``Wish``.

    Raises:
        InvalidOption: a file that ``options`` name cannot be read.
    """
    metadata = [(FLEET_KEY, fleet)] if fleet else []
    if options.transport == "direct" and client.can_reach(address):
        return _Direct(address, options, metadata)
    return _OverGrpcio(address, options, metadata)


class _Direct:
    """Reads and writes its socket in the thread that asks for it."""

    def __init__(
        self, address: str, options: ConnectionOptions, metadata: list[tuple[str, str]]
    ) -> None:
        self._client = client.Client(address, options, metadata)
        self.put, self.take = self._client.put, self._client.take
        self.next_sequence = 0

    @property
    def heard_at(self) -> float:
        return self._client.heard_at

    def describe(self, seconds: float) -> pb.DescribeReply:
        self._client.connect(seconds)
        return pb.DescribeReply.FromString(self._client.call(_DESCRIBE, b"", seconds))

    def start(self, seconds: float) -> None:
        self._client.connect(seconds)
        self._client.open(_RUN)

    def hang_up(self, farewell: bool = True) -> None:
        self._client.hang_up(_farewell(self, farewell))


class _OverGrpcio(connection.Connection):
    """gRPC's own client, and a thread that keeps what comes until it is asked for."""

    def __init__(
        self, address: str, options: ConnectionOptions, metadata: list[tuple[str, str]]
    ) -> None:
        self._inbox: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()
        super().__init__(address, options, _RUN, self._inbox.put, metadata)
        self.next_sequence = 0

    def describe(self, seconds: float) -> pb.DescribeReply:
        ask = self.channel.unary_unary(
            f"/{_DESCRIBE}", response_deserializer=pb.DescribeReply.FromString
        )
        reply: pb.DescribeReply = ask(b"", timeout=seconds)
        return reply

    def start(self, seconds: float = 0.0) -> None:
        super().start()

    def take(self, seconds: float) -> bytes | grpc.RpcError | None:
        try:
            return self._inbox.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def hang_up(self, farewell: bool = True) -> None:
        self.end(_farewell(self, farewell))


def _farewell(stream: Connection, wanted: bool) -> bytes | None:
    if not wanted or not stream.next_sequence:
        return None
    return pb.SimRequest(sequence=stream.next_sequence, close=pb.Close()).SerializeToString()
