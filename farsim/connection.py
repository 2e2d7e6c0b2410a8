"""One gRPC stream to a server, and the thread that listens to it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

import grpc

from farsim.channel import ConnectionOptions, open_channel

#: How long hanging up waits for the server's word that it has understood.
_FAREWELL_SECONDS = 1.0


class Connection:
    """A stream of bytes in both directions, on a channel of its own.

    A thread that always has a read pending lets what several servers say arrive at one time, and
    costs some 0.03 ms a round trip over reading in the caller's thread, which could not wait with
    a time limit.

    Args:
        address: ``host:port``.
        options: how to connect.
        method: full name of the service and the method, as in ``farsim.v1.Simulator/Run``.
        deliver: called in the listening thread with what comes: messages; at last the error that
            broke the stream, or None if it ended.
        metadata: to send with the call.
    """

    def __init__(
        self,
        address: str,
        options: ConnectionOptions,
        method: str,
        deliver: Callable[[bytes | grpc.RpcError | None], None],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.channel = open_channel(address, options)
        #: When the last message came, by ``time.monotonic``; at first, when the stream began.
        self.heard_at = time.monotonic()
        self._address = address
        self._method = method
        self._deliver = deliver
        self._metadata = tuple(metadata)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: grpc.Call | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins the stream."""
        self.heard_at = time.monotonic()
        # Bytes in and out: what is repeated after a break must be the very same bytes.
        run = self.channel.stream_stream(f"/{self._method}")
        self._call = run(iter(self._outbox.get, None), metadata=self._metadata)
        self._thread = threading.Thread(
            target=self._listen, args=(self._call,), name=f"farsim {self._address}", daemon=True
        )
        self._thread.start()

    def put(self, message: bytes) -> None:
        """Sends a message as soon as the stream takes it; never blocks."""
        self._outbox.put(message)

    def end(self, farewell: bytes | None = None) -> None:
        """Ends the stream and closes the channel, after the message ``farewell`` if there is one.

        May be called from any thread, the listening one included: a garbage collection there may
        be what lets go of a session.
        """
        if farewell is not None:
            self._outbox.put(farewell)
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
                self._deliver(message)
        except grpc.RpcError as error:
            self._deliver(error)
        else:
            self._deliver(None)
