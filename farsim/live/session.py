"""A live session as its numbers and messages, without a stream: both clients put it on theirs."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.message import DecodeError

from farsim import errors
from farsim.errors import FarsimError, MessageTooLarge, ProtocolError, SessionLost
from farsim.protocol import PROTOCOL_VERSION
from farsim.v1 import policy_pb2 as pb

#: Error replies after which a session is of no further use.
_FINAL_ERRORS = (errors.Draining, errors.SequenceError, errors.SessionLost)


class Waiter(Protocol):
    """``threading.Event`` or ``asyncio.Event``."""

    def set(self) -> None: ...


@dataclass(eq=False)
class Sent:
    """An event on its way.

    Attributes:
        what: its kind, for error messages.
        sequence: its number.
        session: the one that it belongs to.
        sent_at: by ``time.monotonic``.
        waiter: set when there is a reply or an error, if anybody waits for it.
        message: its bytes, kept until it is answered.
        reply: None until then.
        error: why there is no reply and will be none, or what the server answered instead.
    """

    what: str
    sequence: int
    session: Session
    sent_at: float
    message: bytes = field(repr=False)
    waiter: Waiter | None = field(default=None, repr=False)
    reply: pb.LiveReply | None = field(default=None, repr=False)
    error: FarsimError | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None

    def settle(self, reply: pb.LiveReply | None, error: FarsimError | None) -> None:
        """It has been answered, or will never be."""
        self.message = b""
        self.reply, self.error = reply, error
        if self.waiter is not None:
            self.waiter.set()


class Session:
    """The client's side of one session: numbers, what is unanswered, and what a stream begins with.

    Not for several threads at a time.

    Args:
        address: of the server, for errors.
        hello: what opens it.
        max_message_bytes: the largest event that may be sent.
    """

    def __init__(self, address: str, hello: pb.Hello, max_message_bytes: int) -> None:
        self.address = address
        self.welcome: pb.Welcome | None = None
        #: Why nothing more can be sent; None as long as it can.
        self.failure: FarsimError | None = None
        #: Whether a stream carries the session now.
        self.is_carried = False
        #: Whether the server has said that it is about to stop.
        self.is_draining = False
        #: When the last event was sent, by ``time.monotonic``.
        self.sent_at = 0.0
        self._hello = hello
        self._max_message_bytes = max_message_bytes
        self._next = 1
        self._unanswered: OrderedDict[int, Sent] = OrderedDict()
        #: Events that wait until there is room for them.
        self._posted: deque[tuple[str, pb.LiveEvent]] = deque()

    @property
    def is_lost(self) -> bool:
        """Whether it takes no more events."""
        return self.failure is not None or self.is_draining

    @property
    def has_unanswered(self) -> bool:
        return bool(self._unanswered)

    @property
    def unanswered_since(self) -> float:
        """When the oldest event without a reply was sent; infinity if there is none."""
        first = next(iter(self._unanswered.values()), None)
        return float("inf") if first is None else first.sent_at

    @property
    def has_room(self) -> bool:
        """Whether another event may be sent before a reply comes."""
        bound = self.welcome.max_in_flight if self.welcome is not None else 1
        return not bound or len(self._unanswered) < bound

    def greeting(self, now: float) -> bytes:
        """What a new stream begins with: hello, or resume."""
        if self.welcome is None:
            event = pb.LiveEvent(hello=self._hello)
            return self.add("hello", event, now).message
        resume = pb.ResumeLive(
            session_token=self.welcome.session_token, protocol_version=PROTOCOL_VERSION
        )
        return pb.LiveEvent(resume=resume).SerializeToString()

    def add(self, what: str, event: pb.LiveEvent, now: float, waiter: Waiter | None = None) -> Sent:
        """Numbers an event. If a stream carries the session, the caller sends its message.

        Raises:
            MessageTooLarge: it is over ``max_message_bytes``; it has no number.
            FarsimError: the session is lost.
        """
        if self.failure is not None:
            raise type(self.failure)(self.failure.message, self.failure.subject)
        if self.is_draining:
            raise lost(self.address, "the server is about to stop")
        event.sequence = self._next
        message = event.SerializeToString()
        if len(message) > self._max_message_bytes:
            raise MessageTooLarge(
                f"an event ({what}) of {len(message)} bytes is over max_message_bytes "
                f"({self._max_message_bytes}): raise it on both ends",
                self.address,
            )
        self._next += 1
        sent = Sent(what, event.sequence, self, now, message, waiter)
        self._unanswered[sent.sequence] = sent
        self.sent_at = now
        return sent

    def post(self, what: str, event: pb.LiveEvent, now: float) -> list[bytes]:
        """Has an event sent as soon as there is room; what to send now. Nobody hears of it."""
        self._posted.append((what, event))
        return self._make_use_of_room(now)

    def farewell(self) -> bytes | None:
        """The message that ends the session; None if there is nobody to tell."""
        if self.failure is not None or not self.is_carried:
            return None
        return pb.LiveEvent(sequence=self._next, goodbye=pb.Goodbye()).SerializeToString()

    def received(self, message: bytes, now: float) -> list[bytes]:
        """Takes in what the server says; what to send now in return.

        A server that breaks the contract loses the session, as does one that is at its end.
        """
        try:
            reply = pb.LiveReply.FromString(message)
        except DecodeError:
            reply = pb.LiveReply()
        kind = reply.WhichOneof("reply")
        if kind == "draining":
            self.is_draining = True
        elif kind == "resumed":
            return self._resumed(reply.resumed.last_sequence)
        elif kind == "error" and reply.sequence == 0:
            self.fail(errors.from_proto(reply.error))
        elif kind is not None and reply.sequence in self._unanswered and reply.sequence == self.due:
            self._answered(self._unanswered.pop(reply.sequence), kind, reply)
        elif kind is None or not 0 < reply.sequence < self.due:
            self._break_off(
                f"{self.address} sent {kind or 'bytes that are no LiveReply'}, numbered "
                f"{reply.sequence}, where a reply to event {self.due} was due"
            )
        # Else a reply that came before: the event was repeated, and got it once more.
        return self._make_use_of_room(now)

    @property
    def due(self) -> int:
        """The number of the next reply."""
        return next(iter(self._unanswered), self._next)

    def fail(self, error: FarsimError) -> None:
        """The session is over; whoever waits for a reply gets ``error``."""
        if self.failure is not None:
            return
        self.failure = error
        self.is_carried = False
        unanswered, self._unanswered = self._unanswered, OrderedDict()
        for sent in unanswered.values():
            sent.settle(None, error)

    def _answered(self, sent: Sent, kind: str, reply: pb.LiveReply) -> None:
        error: FarsimError | None = None
        if kind == "welcome" and sent.what == "hello":
            self.welcome = reply.welcome
            self.is_carried = True
        elif kind == "error":
            error = errors.from_proto(reply.error)
            if sent.what == "hello":
                self.fail(error)
            elif isinstance(error, _FINAL_ERRORS):
                error = lost(self.address, error.message)
                self.fail(error)
        elif kind != ("actions" if sent.what == "observe" else "done"):
            error = ProtocolError(
                f"{self.address} answered {sent.what} with '{kind}'", self.address
            )
            self.fail(error)
        sent.settle(reply, error)

    def _resumed(self, last: int) -> list[bytes]:
        if not self.due - 1 <= last < self._next:
            self._break_off(
                f"{self.address} resumed the session after event {last}; {self._next - 1} have "
                f"been sent and {self.due - 1} answered"
            )
            return []
        self.is_carried = True
        return [sent.message for sent in self._unanswered.values()]

    def _make_use_of_room(self, now: float) -> list[bytes]:
        messages = []
        while self._posted and self.has_room and self.is_carried and not self.is_lost:
            messages.append(self.add(*self._posted.popleft(), now).message)
        return messages

    def _break_off(self, message: str) -> None:
        self.fail(ProtocolError(message, self.address))


def lost(address: str, why: str) -> SessionLost:
    """The error for a session that is gone."""
    return SessionLost(
        f"the live session on {address} is lost ({why}): its episodes have ended as truncated "
        "there; begin another one",
        address,
    )
