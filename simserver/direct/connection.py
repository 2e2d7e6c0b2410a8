"""A client's connection, served by one thread."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import grpc
from google.protobuf.message import DecodeError

from farsim.errors import ProtocolVersionError
from farsim.http2.events import Broken, End, Event, Headers, TooLarge
from farsim.http2.link import Link
from farsim.protocol import SERVICE
from farsim.serving import REFUSED, TokenCheck
from farsim.v1 import simulator_pb2 as pb
from simserver.direct.keeper import Keeper
from simserver.direct.stream import HEADERS, DirectStream, trailers
from simserver.direct.waker import Waker
from simserver.limits import Limits
from simserver.service import SimulatorService
from simserver.stream import NOT_OPENED, OPEN_WITHIN_SECONDS

#: How long a connection without a call is kept, and how long a unary call may take to ask.
_IDLE_SECONDS = 60.0
#: How long what a client still sends is thrown away.
_DISCARD_SECONDS = 2.0


class Connection:
    """Answers the calls of one client, one after the other.

    Args:
        sock: plain or TLS, with its handshake done.
        service: what is served.
        limits: the server's.
        token_check: whom to let in; None for everyone.
        keeper: for the calls of all connections.
        spin_seconds: how long waiting for a request keeps the processor awake.
    """

    def __init__(
        self,
        sock: socket.socket,
        service: SimulatorService,
        limits: Limits,
        token_check: TokenCheck | None,
        keeper: Keeper,
        spin_seconds: float = 0.0,
    ) -> None:
        self._sock, self._service, self._limits = sock, service, limits
        self._token_check, self._keeper = token_check, keeper
        self._link = Link(sock, False, limits.max_message_bytes, spin_seconds=spin_seconds)
        self._waker = Waker()
        self._link.watch(self._waker.descriptor)
        self._leaving = False

    def serve(self, received: bytes) -> None:
        """Answers calls in the calling thread until the connection is over.

        Args:
            received: what has been read already.
        """
        link, failure = self._link, Broken("")
        try:
            link.received(received)
            while (event := self._next(time.monotonic() + _IDLE_SECONDS)) is not None:
                # What comes without a beginning belongs to a call that is over.
                if isinstance(event, Headers) and event.stream == link.sending_on:
                    self._answer(event)
        except Broken as broken:
            failure = broken
            if isinstance(broken, TooLarge):
                with link.lock:
                    discard(self._sock)
        finally:
            with (
                link.lock
            ):  # The keeper may have it for a moment, and the farewell would be left out.
                link.close(failure.code)
            self._waker.close()

    def leave(self) -> None:
        """Ends the connection when no call is open; from any thread."""
        self._leaving = True
        self._waker.set()

    def close(self) -> None:
        """Ends the connection at once; from any thread."""
        self._link.close()

    # -- calls ----------------------------------------------------------------------------

    def _answer(self, headers: Headers) -> None:
        fields, number = dict(headers.fields), headers.stream
        path = fields.get(":path")
        check = self._token_check
        if check is not None and not check.accepts(fields.get("authorization", "")):
            self._end(number, grpc.StatusCode.UNAUTHENTICATED, REFUSED)
        elif path == f"/{SERVICE}/Run":
            self._run(number, headers.end)
        elif path == f"/{SERVICE}/Describe":
            self._describe(number, headers.end)
        else:
            self._end(number, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    def _run(self, number: int, is_all: bool) -> None:
        stream = DirectStream(self._link, number, self._wake, self._limits.heartbeat_seconds)
        self._service.enter(stream)
        self._keeper.add(stream)
        try:
            self._service.carry_out(stream, () if is_all else self._requests(stream))
            with self._link.lock:
                stream.flush()
        finally:
            self._keeper.discard(stream)
            self._service.leave(stream)
        if stream.failure is not None:
            raise stream.failure

    def _requests(self, stream: DirectStream) -> Iterator[bytes]:
        """The requests of a call, until it ends or something breaks, which ``stream`` then has."""
        until: float | None = stream.begun + OPEN_WITHIN_SECONDS
        while True:
            try:
                event = self._next(until, stream)
            except TooLarge as failure:
                stream.refuse(failure)
                return
            except Broken as failure:
                stream.failure = failure
                return
            if isinstance(event, bytes):
                yield event
                if until is not None and stream.session is not None:
                    until = None
                    self._keeper.wake()  # Its heartbeats may come faster than the default.
            elif event is None:
                if not stream.ended:
                    stream.end(*NOT_OPENED)
                return
            elif isinstance(event, End) or event.end:
                return

    def _describe(self, number: int, is_all: bool) -> None:
        try:
            event = None if is_all else self._next(time.monotonic() + _IDLE_SECONDS)
            if not isinstance(event, bytes):
                self._end(number, grpc.StatusCode.CANCELLED, "no request came")
                return
            reply = self._service.describe(pb.DescribeRequest.FromString(event))
        except DecodeError:
            self._end(number, grpc.StatusCode.INTERNAL, "Exception deserializing request!")
        except ProtocolVersionError as error:
            self._end(number, grpc.StatusCode.FAILED_PRECONDITION, error.message)
        except TooLarge as failure:
            self._end(number, grpc.StatusCode.RESOURCE_EXHAUSTED, str(failure))
            raise
        else:
            self._end(number, grpc.StatusCode.OK, reply=reply.SerializeToString())

    def _end(
        self, number: int, code: grpc.StatusCode, details: str = "", reply: bytes | None = None
    ) -> None:
        """Ends a call, unless the client has given it up."""
        with self._link.lock:
            if self._link.sending_on != number:
                return
            if reply is None:
                self._link.answer(HEADERS + trailers(code, details), end=True)
                return
            self._link.answer(HEADERS)
            self._link.send(reply)
            if self._link.sending_on == number:
                self._link.answer(trailers(code, details), end=True)

    # -- events ---------------------------------------------------------------------------

    def _wake(self) -> None:
        self._waker.set()
        self._keeper.wake()

    def _next(self, until: float | None, stream: DirectStream | None = None) -> Event | None:
        """What comes next; None if nothing does by then, or if ``stream`` is to end.

        Raises:
            Broken: the connection is of no more use.
        """
        link = self._link
        with link.lock:
            while True:
                if stream is not None:
                    stream.flush()
                    if stream.failure is not None:
                        raise stream.failure
                    if stream.ended:
                        return None
                elif self._leaving and not link.events:
                    return None
                if link.events:
                    return link.events.popleft()
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                link.pump(left)
                self._waker.clear()


def discard(sock: socket.socket) -> None:
    """Throws away what comes, until the client hangs up or for a while.

    A client that is sending does not read why it should not, and it never will if the connection
    is closed before what it has sent is read: that resets the connection.
    """
    until = time.monotonic() + _DISCARD_SECONDS
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    with contextlib.suppress(OSError):
        while (left := until - time.monotonic()) > 0 and poll.poll(1000 * left):
            # Not by way of TLS, which may be what has failed.
            if not socket.socket.recv(sock, 1 << 16):
                return
