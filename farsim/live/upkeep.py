"""Keeping a live session up: when to connect, resume, say something, and open another one."""

from __future__ import annotations

import logging
import os
import socket

import grpc

from farsim.channel import ConnectionOptions, backoff, may_pass, translate
from farsim.errors import FarsimError, ProtocolError, ServerUnavailable
from farsim.live.session import Session, lost
from farsim.v1 import policy_pb2 as pb

logger = logging.getLogger(__name__)

#: A stream without a word for so many heartbeat intervals, while a reply is due, is broken.
SILENT_INTERVALS = 3

#: A keep-alive is sent after this part of the silence that the server allows.
_KEEP_ALIVE_PART = 1 / 3


def program() -> str:
    """This program, for the server's log."""
    return f"farsim {socket.gethostname()}:{os.getpid()}"


class Upkeep:
    """What a client does about its streams and sessions, as decisions: no threads, no sockets.

    Whoever owns the stream calls ``began``, ``received``, ``broke`` and ``tick``, and ends the
    stream when ``has_stream`` has become False. Not for several threads at a time.

    Args:
        address: ``host:port``.
        options: how patient to be.
        hello: what opens a session.
        now: by ``time.monotonic``, as everywhere here.
    """

    def __init__(
        self, address: str, options: ConnectionOptions, hello: pb.Hello, now: float
    ) -> None:
        self.address = address
        self.options = options
        self.session = Session(address, hello, options.max_message_bytes)
        #: Why there is no stream; None as long as there was no reason.
        self.reason: FarsimError | None = None
        self.has_stream = False
        self.is_closed = False
        #: When the next stream is to begin, if there is none.
        self.connect_at = now
        self._hello = hello
        self._began_at = now
        self._broken_at: float | None = None
        self._breaks = 0
        self._delays = backoff()

    @property
    def is_open(self) -> bool:
        """Whether there is a session that takes events: now, or once it has been resumed."""
        return self.session.welcome is not None and not self.session.is_lost

    def began(self, now: float) -> bytes:
        """A stream begins; its first message."""
        self.has_stream = True
        self._began_at = now
        return self.session.greeting(now)

    def received(self, message: bytes, now: float) -> list[bytes]:
        """Takes in a message; what to send in return."""
        session = self.session
        was_carried, due = session.is_carried, session.due
        answer = session.received(message, now)
        if session.is_draining and session.failure is None and not session.has_unanswered:
            session.fail(lost(self.address, "the server is about to stop"))
        if session.failure is not None:
            self._over(session.failure, now)
        elif was_carried and session.due > due:
            self._breaks = 0
        elif session.is_carried and not was_carried:
            if self._broken_at is not None:
                logger.info("resumed the live session on %s after: %s", self.address, self.reason)
            self._broken_at = None
        return answer

    def broke(self, error: grpc.RpcError | None, now: float) -> None:
        """The stream has ended, with a status or well."""
        if error is None:
            self._over(ServerUnavailable(f"{self.address} ended the stream", self.address), now)
        else:
            self._over(translate(error, self.address), now, may_pass(error))

    def refused(self, error: FarsimError, now: float) -> None:
        """No stream could begin."""
        self._over(error, now)

    def wake_at(self, heard_at: float) -> float:
        """When ``tick`` has to be called at the latest."""
        if not self.has_stream:
            return min(self.connect_at, self._give_up_at())
        if not self.session.is_carried:
            return self._began_at + self.options.connect_seconds
        return min(self._silent_at(heard_at), self._keep_alive_at())

    def tick(self, now: float, heard_at: float) -> bytes | None:
        """Does what is due; a message to send, if any.

        Args:
            now: the time.
            heard_at: when the last message came on this stream.
        """
        if not self.has_stream:
            if now >= self._give_up_at():
                self._abandon()
        elif not self.session.is_carried:
            if now >= self._began_at + self.options.connect_seconds:
                self._silent(now - self._began_at, now)
        elif now >= self._silent_at(heard_at):
            self._silent(now - heard_at, now)
        elif now >= self._keep_alive_at():
            event = pb.LiveEvent(keep_alive=pb.KeepAlive())
            return self.session.add("keep_alive", event, now).message
        return None

    def close(self) -> bytes | None:
        """No more events; the last message, if there is somebody to tell."""
        farewell = None if self.is_closed else self.session.farewell()
        self.is_closed = True
        self.session.fail(ProtocolError(f"the client of {self.address} is closed", self.address))
        return farewell

    def _silent(self, seconds: float, now: float) -> None:
        message = f"nothing was heard from {self.address} for {seconds:.1f} s"
        self._over(ServerUnavailable(message, self.address), now)

    def _over(self, reason: FarsimError, now: float, may_resume: bool = True) -> None:
        """The stream is of no more use; the session may be."""
        session = self.session
        # Who opens the first session is told by an exception.
        new = self.reason is None or self.reason.message != reason.message
        if new and session.welcome is not None:
            logger.warning("no live session on %s: %s", self.address, reason)
        self.reason = reason
        self.has_stream = False
        session.is_carried = False
        self._breaks += 1
        if self._broken_at is None:
            self._broken_at = now
            self._delays = backoff()
        # The first attempt is made at once.
        self.connect_at = now if self._breaks <= 1 else now + next(self._delays)
        if session.welcome is None or not may_resume or session.is_draining:
            self._abandon()
        elif session.failure is not None:
            self._renew()

    def _abandon(self) -> None:
        """The session is given up; the next stream opens another one."""
        reason = self.reason or ServerUnavailable(f"{self.address} is away", self.address)
        if self.session.welcome is not None:
            reason = lost(self.address, str(reason))
        self.session.fail(reason)
        self._renew()

    def _renew(self) -> None:
        self.session = Session(self.address, self._hello, self.options.max_message_bytes)

    def _give_up_at(self) -> float:
        if self.session.welcome is None or self._broken_at is None:
            return float("inf")
        return self._broken_at + self.options.resume_seconds

    def _silent_at(self, heard_at: float) -> float:
        since = max(heard_at, self.session.unanswered_since)
        return since + SILENT_INTERVALS * self.options.heartbeat_seconds

    def _keep_alive_at(self) -> float:
        welcome = self.session.welcome
        if welcome is None or welcome.idle_seconds <= 0 or not self.session.has_room:
            return float("inf")
        return self.session.sent_at + _KEEP_ALIVE_PART * welcome.idle_seconds
