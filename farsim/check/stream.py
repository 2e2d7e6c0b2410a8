"""One call of ``Run``, on the bare messages: it sends whatever it is told to."""

from __future__ import annotations

import queue
import time
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from farsim.check.verdicts import Blocked
from farsim.protocol import SERVICE
from farsim.v1 import simulator_pb2 as pb


class StreamEnded(Exception):
    """The stream is over where a reply should come.

    Args:
        status: how it ended.
        details: what the server said to it.
    """

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            super().__init__("no reply within this check's time (--seconds)")
        else:
            super().__init__(f"the end of the stream, with status {status.name} {details!r}")
        self.status = status


class Stream:
    """One call of ``Run``.

    Args:
        channel: to the server; the caller closes it.
        seconds: after which the call is given up.
    """

    def __init__(self, channel: grpc.Channel, seconds: float) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call: Any = channel.stream_stream(f"/{SERVICE}/Run")(
            iter(self._outbox.get, None), timeout=max(seconds, 0.01)
        )
        #: The numbers that heartbeats told of, and when each came.
        self.heartbeats: list[tuple[int, float]] = []
        #: When anything came last, ``time.monotonic``.
        self.last_word = time.monotonic()
        #: The longest silence before a reply, in seconds.
        self.longest_silence = 0.0
        self.over = False

    def send(self, request: pb.SimRequest | bytes) -> None:
        """Sends a message, or bytes as they are."""
        self.last_word = time.monotonic()
        self._outbox.put(request if isinstance(request, bytes) else request.SerializeToString())

    def receive(self) -> tuple[bytes, pb.SimReply]:
        """The next reply, as it came and read; notices are passed over.

        Raises:
            StreamEnded: there is none.
            Blocked: it is no SimReply.
        """
        while True:
            try:
                raw = next(self._call)
            except StopIteration:
                raise self._ended() from None
            except grpc.RpcError:
                raise self._ended() from None
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - self.last_word)
            self.last_word = now
            try:
                reply = pb.SimReply.FromString(raw)
            except DecodeError as error:
                raise Blocked(f"{len(raw)} bytes came that are no SimReply: {error}") from error
            if reply.HasField("heartbeat"):
                self.heartbeats.append((reply.sequence, now))
            elif not reply.HasField("draining"):
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

    def _ended(self) -> StreamEnded:
        self.over = True
        self._outbox.put(None)
        return StreamEnded(self._call.code(), self._call.details() or "")


def told(reply: pb.SimReply) -> str:
    """A reply in a few words."""
    kind = reply.WhichOneof("reply")
    if kind == "error":
        return f"{code_name(reply.error.code)} {reply.error.message!r}"
    return f"'{kind}'" if kind else "a reply with nothing in it"


def code_name(code: int) -> str:
    """``ERROR_CODE_...``, or the number if this version has none such."""
    return pb.ErrorCode.Name(code) if code in pb.ErrorCode.values() else f"error code {code}"
