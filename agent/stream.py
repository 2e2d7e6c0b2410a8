"""Numbered requests to one server, each carried out once, over gRPC streams that may break."""

from __future__ import annotations

import logging
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from agent.connection import Connection, connection_to
from agent.reply import Reply
from farsim import errors
from farsim.channel import ConnectionOptions, backoff, may_pass, translate
from farsim.errors import (
    DeadlineExceeded,
    FarsimError,
    MessageTooLarge,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
)
from farsim.protocol import PROTOCOL_VERSION
from farsim.steps import numbered
from farsim.v1 import simulator_pb2 as pb

logger = logging.getLogger(__name__)

#: A stream without a word for so many heartbeat intervals counts as broken.
SILENT_INTERVALS = 3

#: Error replies after which a session is of no further use.
_FINAL_ERRORS = (errors.Draining, errors.SequenceError, errors.SessionLost)


@dataclass(eq=False, slots=True)
class Request:
    """A request that has been sent.

    Attributes:
        what: its kind, for error messages.
        sequence: its number.
        seconds: its deadline, counted from ``sent_at``.
        sent_at: by ``time.monotonic``.
        message: its bytes, kept until it is answered.
        reply: None until then.
    """

    what: str
    sequence: int
    seconds: float
    sent_at: float
    message: bytes = field(repr=False)
    reply: Reply | None = field(default=None, repr=False)

    @property
    def deadline(self) -> float:
        return self.sent_at + self.seconds


class RequestStream:
    """The client's side of a session: numbers, deadlines, and resuming after a break.

    To be used by one thread at a time. It connects in the process that calls ``open``.

    Args:
        address: ``host:port``.
        options: how to connect, and how patient to be.
        fleet: as at ``Wish``.
    """

    def __init__(self, address: str, options: ConnectionOptions, fleet: str = "") -> None:
        self.address = address
        self._fleet = fleet
        self.options = options
        #: Why nothing more can be sent; None as long as it can.
        self.failure: FarsimError | None = None
        #: Whether the server has said that it is about to stop.
        self.draining = False
        self._opened: pb.Opened | None = None
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._next = 1
        self._unanswered: OrderedDict[int, Request] = OrderedDict()
        self._delays = backoff()
        #: Streams that broke since the last reply, since when there is none, and why.
        self._breaks = 0
        self._broken_at: float | None = None
        self._reason: FarsimError | None = None
        self._heartbeat_at = float("-inf")

    def open(self, connection: Connection, request: pb.Open) -> pb.Opened:
        """Opens the session; ``connection`` is from then on this object's to close."""
        connection.start(self.options.connect_seconds)
        self._attach(connection)
        body = pb.SimRequest(open=request).SerializeToString()
        sent = self.send("open", body, self.options.request_seconds)
        self._opened = self.receive(sent, "opened").message.opened
        return self._opened

    def send(self, what: str, body: bytes, seconds: float) -> Request:
        """Numbers and sends a request; its reply is due in ``seconds``.

        Waits only if as many requests as the server allows are without a reply: for the first's.

        Args:
            what: its kind, for error messages.
            body: the serialised ``SimRequest`` without its number.
            seconds: the deadline.

        Raises:
            MessageTooLarge: the request is over ``max_message_bytes``; it has not been sent.
            FarsimError: the session is lost, as at ``receive``.
        """
        self._check_usable()
        bound = self._opened.max_in_flight if self._opened is not None else 0
        while bound and len(self._unanswered) >= bound:
            self._wait_for(next(iter(self._unanswered.values())))
        message = numbered(self._next, body)
        if len(message) > self.options.max_message_bytes:
            raise MessageTooLarge(
                f"a {what} of {len(message)} bytes is over max_message_bytes "
                f"({self.options.max_message_bytes}): raise it on both ends, or name fewer "
                "environments",
                self.address,
            )
        self._next += 1
        sent = Request(what, self._next - 1, seconds, time.monotonic(), message)
        self._unanswered[sent.sequence] = sent
        if self._connection is not None:
            self._connection.next_sequence = self._next
            self._connection.put(message)
        return sent

    def receive(self, request: Request, kind: str) -> Reply:
        """The reply to ``request``; those to earlier requests are kept for their own call.

        Args:
            request: what ``send`` returned.
            kind: the field that the reply must have set.

        Raises:
            DeadlineExceeded: it did not come in time. The session is of no further use.
            SessionLost: the environments are gone, or the connection to them was for longer than
                ``resume_seconds``.
            FarsimError: what the server answered; nothing has then happened to any environment.
        """
        reply = self._wait_for(request)
        found = reply.kind
        if found == "error":
            error = errors.from_proto(reply.message.error)
            if isinstance(error, _FINAL_ERRORS):
                self._fail(error)
            raise error
        if found != kind:
            self._fail(
                ProtocolError(
                    f"{self.address} answered {request.what} with '{found}', not '{kind}'",
                    self.address,
                )
            )
        return reply

    def close(self) -> None:
        """Frees the environments on the server and everything here; again does nothing."""
        if self.failure is None:
            self.failure = ProtocolError(f"the session on {self.address} is closed", self.address)
        self._unanswered.clear()
        self._detach(farewell=True)

    # -- receiving ------------------------------------------------------------------------

    def _wait_for(self, request: Request) -> Reply:
        while request.reply is None:
            self._check_usable()
            if self._connection is None:
                self._resume(request)
            else:
                self._take(self._connection, request)
        return request.reply

    def _take(self, connection: Connection, request: Request) -> None:
        """Waits for the next thing that comes, or until the deadline or the silence is over."""
        limit = min(request.deadline, self._silent_at(connection))
        try:
            item = connection.take(max(0.0, limit - time.monotonic()))
        except TimeoutError:
            now = time.monotonic()
            if now >= request.deadline:
                self._fail(self._too_late(connection, request))
            if now >= self._silent_at(connection):
                silence = now - connection.heard_at
                self._break(f"nothing was heard from {self.address} for {silence:.1f} s")
        else:
            self._arrived(item)

    def _arrived(self, item: bytes | grpc.RpcError | None) -> None:
        if isinstance(item, bytes):
            self._handle(Reply(item))
        elif item is None:
            self._break(f"{self.address} ended the stream")
        else:
            error = translate(item, self.address)
            if not may_pass(item):
                self._fail(error)
            self._break(error.message, error)

    def _handle(self, reply: Reply) -> None:
        kind = reply.kind
        due = next(iter(self._unanswered), self._next)
        if kind == "heartbeat":
            self._heartbeat_at = time.monotonic()
        elif kind == "draining":
            self.draining = True
        elif kind is not None and reply.sequence == due and self._unanswered:
            answered = self._unanswered.pop(due)
            answered.reply = reply
            answered.message = b""
            self._breaks = 0
            self._heartbeat_at = float("-inf")
        elif kind is None or reply.sequence == 0 or reply.sequence >= due:
            what = kind or "bytes that are no SimReply"
            if kind == "error":
                what = f"an error ({reply.message.error.message})"
            self._fail(
                ProtocolError(
                    f"{self.address} sent {what}, numbered {reply.sequence}, where a reply to "
                    f"request {due} was due",
                    self.address,
                )
            )
        # Else a reply that came before: the request was repeated, and got it once more.

    def _silent_at(self, connection: Connection) -> float:
        """When the stream counts as broken unless something is heard before."""
        if self._opened is None or not self._unanswered:
            return float("inf")  # No heartbeat interval has been agreed on, or none is due.
        since = max(connection.heard_at, next(iter(self._unanswered.values())).sent_at)
        return since + SILENT_INTERVALS * self._opened.heartbeat_seconds

    def _too_late(self, connection: Connection | None, request: Request) -> DeadlineExceeded:
        now = time.monotonic()
        heartbeat = now - self._heartbeat_at
        if heartbeat < request.seconds:
            why = (
                f"the simulator is still working on it (it said so {heartbeat:.1f} s ago): raise "
                "request_seconds if it may take so long, or find out why it hangs"
            )
        elif connection is None:
            why = f"the connection broke and has not come back: {self._reason}"
        else:
            silence = now - max(connection.heard_at, request.sent_at)
            why = f"nothing was heard from the server for {silence:.1f} s"
        return DeadlineExceeded(
            f"{request.what} (request {request.sequence}) was not answered by {self.address} "
            f"within {request.seconds:g} s; {why}",
            self.address,
        )

    # -- breaking and resuming ------------------------------------------------------------

    def _break(self, message: str, error: FarsimError | None = None) -> None:
        """The stream is of no more use; the session may be."""
        self._reason = error or ServerUnavailable(message, self.address)
        self._breaks += 1
        self._broken_at = self._broken_at or time.monotonic()
        self._detach(farewell=False)
        if self._opened is None:
            self._fail(self._reason)
        if self.draining:
            self._fail(SessionLost(f"the server at {self.address} has stopped", self.address))

    def _resume(self, request: Request) -> None:
        """Connects anew; fails when ``resume_seconds`` or the deadline of ``request`` is over."""
        while self._connection is None:
            give_up = (self._broken_at or time.monotonic()) + self.options.resume_seconds
            if self._breaks > 1:
                # The last attempt, or the stream that it led to, was no success either.
                limit = min(request.deadline, give_up)
                time.sleep(max(0.0, min(next(self._delays), limit - time.monotonic())))
            else:
                self._delays = backoff()
            now = time.monotonic()
            if now >= request.deadline:
                self._fail(self._too_late(None, request))
            if now >= give_up:
                self._fail(
                    SessionLost(
                        f"the session on {self.address} could not be resumed within "
                        f"{self.options.resume_seconds:g} s: {self._reason}",
                        self.address,
                    )
                )
            self._reconnect(
                min(self.options.connect_seconds, request.deadline - now, give_up - now)
            )

    def _reconnect(self, seconds: float) -> None:
        """One attempt to resume, which may come to nothing."""
        token = self._opened.session_token if self._opened is not None else ""
        resume = pb.Resume(session_token=token, protocol_version=PROTOCOL_VERSION)
        until = time.monotonic() + seconds
        connection = connection_to(self.address, self.options, self._fleet)
        self._attach(connection)
        connection.start(seconds)
        connection.put(pb.SimRequest(resume=resume).SerializeToString())
        while self._connection is connection:
            try:
                item = connection.take(max(0.0, until - time.monotonic()))
            except TimeoutError:
                self._break(f"{self.address} did not answer within {seconds:.1f} s")
                return
            reply = Reply(item) if isinstance(item, bytes) else None
            if reply is not None and reply.kind in ("resumed", "error"):
                self._resumed(connection, reply.message)
                return
            self._arrived(item)

    def _resumed(self, connection: Connection, reply: pb.SimReply) -> None:
        """Goes on with the session: repeats what has not been answered."""
        if reply.HasField("error"):
            self._fail(errors.from_proto(reply.error))
        answered = next(iter(self._unanswered), self._next) - 1
        if not answered <= reply.resumed.last_sequence < self._next:
            self._fail(
                ProtocolError(
                    f"{self.address} resumed the session after request "
                    f"{reply.resumed.last_sequence}; {self._next - 1} have been sent and "
                    f"{answered} answered",
                    self.address,
                )
            )
        logger.info("resumed the session on %s after: %s", self.address, self._reason)
        self._broken_at = None
        connection.next_sequence = self._next
        for request in self._unanswered.values():
            connection.put(request.message)

    def _attach(self, connection: Connection) -> None:
        self._connection = connection
        # Also when the session is forgotten without being closed, and when the interpreter exits.
        self._finalizer = weakref.finalize(self, connection.hang_up)

    def _detach(self, farewell: bool) -> None:
        connection, self._connection = self._connection, None
        if self._finalizer is not None:
            self._finalizer.detach()
        if connection is not None:
            connection.hang_up(farewell)

    def _fail(self, error: FarsimError) -> NoReturn:
        self.failure = error
        self._unanswered.clear()
        self._detach(farewell=False)
        raise error

    def _check_usable(self) -> None:
        if self.failure is not None:
            raise type(self.failure)(self.failure.message, self.failure.subject)
