"""One gRPC stream to a server, and the thread that listens to it."""

from __future__ import annotations

import queue
import threading
import time

import grpc
from google.protobuf.message import DecodeError

from farsim.channel import ConnectionOptions, open_channel
from farsim.protocol import SERVICE
from farsim.v1 import simulator_pb2 as pb

#: How long hanging up waits for the server's word that the environments are freed.
_FAREWELL_SECONDS = 1.0


class Connection:
    """A stream on a channel of its own.

    A thread that always has a read pending lets the replies of several servers arrive at one
    time, and costs some 0.03 ms a round trip over reading in the caller's thread, which could not
    wait with a time limit.

    Args:
        address: ``host:port``.
        options: how to connect.
    """

    def __init__(self, address: str, options: ConnectionOptions) -> None:
        self.channel = open_channel(address, options)
        #: What came: messages; at last the error that broke the stream, or None if it ended.
        self.inbox: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()
        #: When the last message came, by ``time.monotonic``; at first, when the stream began.
        self.heard_at = time.monotonic()
        #: The number that a farewell would have; 0 as long as there is nothing to say it to.
        self.next_sequence = 0
        self._address = address
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: grpc.Call | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins the stream."""
        self.heard_at = time.monotonic()
        # Bytes in and out: what is repeated after a break must be the very same bytes.
        run = self.channel.stream_stream(f"/{SERVICE}/Run")
        self._call = run(iter(self._outbox.get, None))
        self._thread = threading.Thread(
            target=self._listen, args=(self._call,), name=f"farsim {self._address}", daemon=True
        )
        self._thread.start()

    def put(self, message: bytes) -> None:
        """Sends a message as soon as the stream takes it; never blocks."""
        self._outbox.put(message)

    def hang_up(self, farewell: bool = True) -> None:
        """Ends the stream and closes the channel, after a ``close`` request if ``farewell``.

        May be called from any thread, the listening one included: a garbage collection there may
        be what lets go of a session.
        """
        if farewell and self.next_sequence:
            close = pb.SimRequest(sequence=self.next_sequence, close=pb.Close())
            self._outbox.put(close.SerializeToString())
            self._outbox.put(None)
            self._join()
        if self._call is not None:
            self._call.cancel()
        # gRPC's own thread waits for the next request to send, also after a cancellation.
        self._outbox.put(None)
        self.channel.close()
        self._join()

    def _join(self) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_FAREWELL_SECONDS)

    def _listen(self, call: grpc.Call) -> None:
        try:
            for message in call:
                self.heard_at = time.monotonic()
                self.inbox.put(message)
            self.inbox.put(None)
        except grpc.RpcError as error:
            self.inbox.put(error)


def parse(message: bytes) -> pb.SimReply:
    """The reply in a message; one without content if the bytes are none."""
    try:
        return pb.SimReply.FromString(message)
    except DecodeError:
        return pb.SimReply()
