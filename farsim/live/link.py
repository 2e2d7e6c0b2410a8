"""A live session for threads: a stream that listens, and a thread that keeps it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import grpc

from farsim.channel import ConnectionOptions
from farsim.connection import Connection
from farsim.errors import DeadlineExceeded, FarsimError, ServerUnavailable
from farsim.live.session import Sent, Session
from farsim.live.upkeep import Upkeep
from farsim.protocol import POLICY_SERVICE
from farsim.v1 import policy_pb2 as pb

#: How long closing waits for the thread that keeps the session up.
_CLOSE_SECONDS = 5.0


class Link:
    """Carries events to a server, over as many streams and sessions as it takes.

    Its methods may be called from any thread.

    Args:
        address: ``host:port``.
        options: how to connect, and how patient to be.
        hello: what opens a session.
    """

    def __init__(self, address: str, options: ConnectionOptions, hello: pb.Hello) -> None:
        self.address = address
        self._options = options
        self._upkeep = Upkeep(address, options, hello, time.monotonic())
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._discarded: list[Connection] = []
        self._streams = 0
        self._waiting = 0
        self._thread = threading.Thread(
            target=self._tend, name=f"farsim live {address}", daemon=True
        )

    def open(self) -> None:
        """Connects.

        Raises:
            FarsimError: why no session could be opened at the first attempt.
        """
        self._thread.start()
        until = time.monotonic() + self._options.connect_seconds
        with self._changed:
            self._wait(lambda: self._upkeep.is_open or self._upkeep.reason is not None, until)
            if not self._upkeep.is_open:
                raise again(absence(self._upkeep))

    def session(self, until: float) -> Session:
        """The session that takes events.

        Args:
            until: how long to wait for one, by ``time.monotonic``.

        Raises:
            FarsimError: there was none by then; says why.
        """
        with self._changed:
            self._wait(lambda: self._upkeep.is_open or self._upkeep.is_closed, until)
            if not self._upkeep.is_open:
                raise again(self._upkeep.session.failure or absence(self._upkeep))
            return self._upkeep.session

    def send(
        self,
        session: Session,
        what: str,
        event: pb.LiveEvent,
        until: float,
        is_awaited: bool,
    ) -> Sent:
        """Sends an event as soon as the server's bound of events in flight allows.

        Raises:
            DeadlineExceeded, ServerUnavailable: it did not by ``until``; nothing has been sent.
            FarsimError: the session is lost, or the event too large.
        """
        with self._changed:
            if not session.has_room:
                self._wait(lambda: session.has_room or session.is_lost, until)
                if not session.has_room and not session.is_lost:
                    raise late(self._upkeep, session)
            waiter = threading.Event() if is_awaited else None
            sent = session.add(what, event, time.monotonic(), waiter)
            if session.is_carried and self._connection is not None:
                self._connection.put(sent.message)
            return sent

    def post(self, session: Session, what: str, event: pb.LiveEvent) -> None:
        """Sends an event as soon as the server's bound allows; does not wait for that."""
        with self._changed:
            for message in session.post(what, event, time.monotonic()):
                if self._connection is not None:
                    self._connection.put(message)

    def wait(self, sent: Sent, until: float) -> None:
        """Waits until an awaited event is done.

        Raises:
            DeadlineExceeded, ServerUnavailable: it was not by ``until``.
        """
        seconds = min(until - time.monotonic(), threading.TIMEOUT_MAX)
        if isinstance(sent.waiter, threading.Event) and not sent.waiter.wait(max(0.0, seconds)):
            raise late(self._upkeep, sent.session)

    def close(self) -> None:
        """Ends the session and the threads; again does nothing."""
        with self._changed:
            if self._upkeep.is_closed:
                return
            farewell = self._upkeep.close()
            connection, self._connection = self._connection, None
            discarded, self._discarded = self._discarded, []
            self._changed.notify_all()
        if connection is not None:
            connection.end(farewell)
        for other in discarded:
            other.end()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_SECONDS)

    def _wait(self, condition: Callable[[], object], until: float) -> None:
        self._waiting += 1
        try:
            while not condition():
                seconds = until - time.monotonic()
                if seconds <= 0:
                    break
                self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._waiting -= 1

    # -- the thread that keeps the session up -----------------------------------------------

    def _tend(self) -> None:
        while True:
            with self._changed:
                if self._upkeep.is_closed:
                    return
                self._act(time.monotonic())
                discarded, self._discarded = self._discarded, []
                if not discarded:
                    self._changed.wait(self._pause(time.monotonic()))
            for connection in discarded:
                connection.end()

    def _act(self, now: float) -> None:
        """Does what is due."""
        connection = self._connection
        if connection is not None:
            message = self._upkeep.tick(now, connection.heard_at)
            if message is not None:
                connection.put(message)
            self._drop_if_over()
        else:
            self._upkeep.tick(now, now)
            if now >= self._upkeep.connect_at:
                self._connect(now)

    def _pause(self, now: float) -> float:
        heard_at = now if self._connection is None else self._connection.heard_at
        # An event that is sent meanwhile may be due for a reply sooner than what is waited for.
        longest = self._options.heartbeat_seconds
        return max(0.0, min(self._upkeep.wake_at(heard_at) - now, longest))

    def _connect(self, now: float) -> None:
        self._streams += 1
        deliver = partial(self._arrived, self._streams)
        try:
            connection = Connection(self.address, self._options, f"{POLICY_SERVICE}/Live", deliver)
        except FarsimError as error:  # A file of the options cannot be read just now.
            self._upkeep.refused(error, now)
            self._changed.notify_all()
            return
        self._connection = connection
        greeting = self._upkeep.began(now)
        connection.start()
        connection.put(greeting)

    def _arrived(self, stream: int, item: bytes | grpc.RpcError | None) -> None:
        """Takes in what comes, in the listening thread of the ``stream``-th stream."""
        with self._changed:
            connection = self._connection
            if connection is None or stream != self._streams:
                return
            session = self._upkeep.session
            was_open = self._upkeep.is_open
            if isinstance(item, bytes):
                for message in self._upkeep.received(item, time.monotonic()):
                    connection.put(message)
            else:
                self._upkeep.broke(item, time.monotonic())
            self._drop_if_over()
            changed = session is not self._upkeep.session or was_open != self._upkeep.is_open
            if self._waiting or changed:
                self._changed.notify_all()

    def _drop_if_over(self) -> None:
        if not self._upkeep.has_stream and self._connection is not None:
            self._discarded.append(self._connection)
            self._connection = None
            self._changed.notify_all()


def again(error: FarsimError) -> FarsimError:
    """The same error, to be raised in another place."""
    return type(error)(error.message, error.subject)


def absence(upkeep: Upkeep) -> FarsimError:
    """Why there is no session."""
    return upkeep.reason or ServerUnavailable(
        f"{upkeep.address} did not answer within {upkeep.options.connect_seconds:g} s",
        upkeep.address,
    )


def late(upkeep: Upkeep, session: Session) -> FarsimError:
    """Why a reply has not come in time."""
    if session.is_carried or session.is_lost:
        return DeadlineExceeded(
            f"{upkeep.address} did not answer in time: give a longer deadline, or a fallback "
            "that acts in its stead",
            upkeep.address,
        )
    return ServerUnavailable(
        f"the connection to {upkeep.address} broke and has not come back: {upkeep.reason}",
        upkeep.address,
    )
