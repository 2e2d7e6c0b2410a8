"""Calls of ``Run``: what is to be sent, and how they end, whatever carries them."""

from __future__ import annotations

import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol

import grpc

from farsim.v1 import simulator_pb2 as pb
from simserver.session import Session

#: A stream that has opened no session by then is ended.
OPEN_WITHIN_SECONDS = 60.0
NOT_OPENED = (grpc.StatusCode.DEADLINE_EXCEEDED, "no session was opened on this stream")


class Call(Protocol):
    """What a stream needs of a call; ``grpc.ServicerContext`` has it."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Calls ``callback`` when the call is over; False if it is over already."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call with a status, by an exception."""


class Stream(ABC):
    """One call of ``Run``, as the service sees it.

    Attributes:
        session: which it carries; None as long as it carries none.
        begun: when it began, by ``time.monotonic``.
        working: whether a request has been received whose reply is not on its way yet.
        opening: when the open request being carried out began; None if none is.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self.begun = time.monotonic()
        self.working = False
        self.opening: float | None = None
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._ended = False

    @abstractmethod
    def send(self, reply: bytes) -> None:
        """Sends a reply, from the thread that carries out the requests."""

    @abstractmethod
    def notify(self, notice: bytes) -> None:
        """Sends a message that is no reply, from any thread, without waiting for the client."""

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """Ends the call after what has been sent, with OK or ``code``. Later calls do nothing.

        From any thread, and without waiting for the client.
        """
        if code is not None and self._status is None:
            self._status = (code, details)
        self._ended = True

    def wait_for_room(self, bound: int) -> None:
        """Blocks while ``bound`` replies wait for a client that does not read them."""

    @property
    def busy(self) -> tuple[int, float]:
        """The request being carried out and when it was begun; 0 and 0.0 if none is."""
        if self.session is not None:
            return self.session.busy
        return (1, self.opening) if self.opening is not None else (0, 0.0)


class GrpcStream(Stream):
    """A call that gRPC carries: what is sent waits for gRPC's thread to come and take it."""

    def __init__(self) -> None:
        super().__init__()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, reply: bytes) -> None:
        self._outbox.put(reply)

    def notify(self, notice: bytes) -> None:
        self._outbox.put(notice)

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        super().end(code, details)
        self._outbox.put(None)

    def wait_for_room(self, bound: int) -> None:
        while self._outbox.qsize() >= bound and not self._ended:
            time.sleep(0.01)

    def messages(self, context: Call, default_heartbeat: float) -> Iterator[bytes]:
        """What to send, until the end; sends heartbeats while a request is being carried out."""
        while True:
            session = self.session
            timeout = session.heartbeat_seconds if session else default_heartbeat
            try:
                item = self._outbox.get(timeout=timeout)
            except queue.Empty:
                sequence, since = self.busy
                if sequence:
                    yield heartbeat(sequence, since)
                elif session is None and time.monotonic() - self.begun > OPEN_WITHIN_SECONDS:
                    context.abort(*NOT_OPENED)
                continue
            if item is None:
                if self._status is not None:
                    context.abort(*self._status)
                return
            yield item


def heartbeat(sequence: int, since: float) -> bytes:
    """The message that says that a request is still being carried out."""
    notice = pb.Heartbeat(elapsed_seconds=time.monotonic() - since)
    return pb.SimReply(sequence=sequence, heartbeat=notice).SerializeToString()
