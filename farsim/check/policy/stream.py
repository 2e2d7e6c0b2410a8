"""One call of ``Live``, on the bare messages: it sends whatever it is told to."""

from __future__ import annotations

import queue
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from farsim.check.stream import StreamEnded, code_name
from farsim.check.verdicts import Blocked
from farsim.protocol import POLICY_SERVICE
from farsim.v1 import policy_pb2 as pb


class LiveStream:
    """One call of ``Live``.

    Args:
        channel: to the server; the caller closes it.
        seconds: after which the call is given up.
    """

    def __init__(self, channel: grpc.Channel, seconds: float) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: Any = channel.stream_stream(f"/{POLICY_SERVICE}/Live")(
            iter(self._outbox.get, None), timeout=max(seconds, 0.01)
        )
        self.over = False

    def send(self, event: pb.LiveEvent | bytes) -> bytes:
        """Sends a message, or bytes as they are; the bytes."""
        data = event if isinstance(event, bytes) else event.SerializeToString()
        self._outbox.put(data)
        return data

    def receive(self) -> tuple[bytes, pb.LiveReply]:
        """The next reply, as it came and read; notices are passed over.

        Raises:
            StreamEnded: there is none.
            Blocked: it is no LiveReply.
        """
        while True:
            try:
                raw = next(self._call)
            except (StopIteration, grpc.RpcError):
                self.over = True
                self._outbox.put(None)
                raise StreamEnded(self._call.code(), self._call.details() or "") from None
            try:
                reply = pb.LiveReply.FromString(raw)
            except DecodeError as error:
                raise Blocked(f"{len(raw)} bytes came that are no LiveReply: {error}") from error
            if not reply.HasField("draining"):
                return raw, reply

    def status(self) -> grpc.StatusCode:
        """Reads on until the stream ends, and returns how it did."""
        try:
            while True:
                self.receive()
        except StreamEnded as ended:
            return ended.status

    def cut(self) -> None:
        """Breaks the stream without a word."""
        self.over = True
        self._call.cancel()
        self._outbox.put(None)


def told(reply: pb.LiveReply) -> str:
    """A reply in a few words."""
    kind = reply.WhichOneof("reply")
    if kind == "error":
        return f"{code_name(reply.error.code)} {reply.error.message!r}"
    return f"'{kind}'" if kind else "a reply with nothing in it"
