"""A call of ``Run`` on a client's own connection."""

from __future__ import annotations

import time
import urllib.parse
from collections import deque
from collections.abc import Callable

import grpc

from farsim.http2.events import Broken, TooLarge
from farsim.http2.link import Link
from simserver.stream import Stream, heartbeat

#: The shortest time between two heartbeats, whatever the client asks for.
_SHORTEST_HEARTBEAT = 0.02
#: How long the status of a call that another thread has ended may wait for a client that takes
#: nothing.
_FAREWELL_SECONDS = 5.0
#: More than a heartbeat or a notice takes, bytes.
_NOTICE_BYTES = 64
#: What stays as it is in ``grpc-message``: all that can be printed, but for "%".
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def trailers(code: grpc.StatusCode, details: str = "") -> list[tuple[str, str]]:
    """How a call ends, as gRPC's header fields say it."""
    fields = [("grpc-status", str(code.value[0]))]
    if details:
        fields.append(("grpc-message", urllib.parse.quote(details, safe=_PLAIN)))
    return fields


class DirectStream(Stream):
    """A call whose replies are written by the thread that carries out its requests.

    What other threads have to say, the end of the call above all, is sent by that thread as soon
    as it waits for the client again, or by a ``Keeper`` while it is at work.

    Args:
        link: the connection.
        number: of the call's stream there.
        wake: tells both of them that there is something to say.
        default_heartbeat: seconds between heartbeats as long as there is no session.

    Attributes:
        failure: what broke the connection, once this call has noticed.
    """

    def __init__(
        self, link: Link, number: int, wake: Callable[[], None], default_heartbeat: float
    ) -> None:
        super().__init__()
        self.failure: Broken | None = None
        self._link, self._number, self._wake = link, number, wake
        self._default_heartbeat = default_heartbeat
        self._notices: deque[bytes] = deque()
        self._answered = False
        self._heartbeat_at = self._ended_at = 0.0

    @property
    def ended(self) -> bool:
        """Whether the call is to end, or has ended."""
        return self._ended

    def send(self, reply: bytes) -> None:
        with self._link.lock:
            self._put(reply)

    def notify(self, notice: bytes) -> None:
        self._notices.append(notice)
        self._wake()

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        if not self._ended:
            self._ended_at = time.monotonic()
        super().end(code, details)
        self._wake()

    def flush(self) -> None:
        """Sends what other threads had to say, and how the call ends. With the link's lock."""
        while self._notices:
            self._put(self._notices.popleft())
        if self._ended and not self._is_over:
            fields = trailers(*(self._status or (grpc.StatusCode.OK,)))
            try:
                self._link.answer(fields if self._answered else HEADERS + fields, end=True)
            except Broken as failure:
                self.failure = failure

    def refuse(self, failure: TooLarge) -> None:
        """Ends the call, and with it the connection, because of a message that is too large."""
        self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, str(failure))
        with self._link.lock:
            self.flush()
        self.failure = failure

    def look_after(self, now: float, bound: int) -> float | None:
        """Does what is to be done while the call's own thread is at work; waits for nobody.

        Args:
            now: on the clock of ``time.monotonic``.
            bound: how many requests may wait.

        Returns:
            In how many seconds to come again; None if the call is over.
        """
        link, session = self._link, self.session
        interval = session.heartbeat_seconds if session else self._default_heartbeat
        interval = max(_SHORTEST_HEARTBEAT, interval)
        late = self._ended and now - self._ended_at > _FAREWELL_SECONDS
        if not link.lock.acquire(blocking=False):
            # The call's thread waits for the client, or for room to write to it.
            if late:
                link.close()
            return interval / 2
        patience, link.stall_seconds = link.stall_seconds, 0.0
        try:
            due = interval
            if link.has_room(_NOTICE_BYTES):
                due = self._beat(now, interval)
                self.flush()
                if len(link.events) < bound:
                    link.pump(0)
            elif late:
                link.close()
            return None if self._is_over else min(due, interval / 2)
        except TooLarge as failure:
            self.refuse(failure)
        except Broken as failure:
            self.failure = failure
        finally:
            link.stall_seconds = patience
            link.lock.release()
        return None

    @property
    def _is_over(self) -> bool:
        """Whether nothing can be sent any more; the link may carry the next call already."""
        return self.failure is not None or self._link.sending_on != self._number

    def _beat(self, now: float, interval: float) -> float:
        """Sends a heartbeat if it is time; in how many seconds the next is due."""
        sequence, since = self.busy
        if not sequence or self._ended:
            return interval
        due = max(since, self._heartbeat_at) + interval - now
        if due > 0:
            return due
        self._put(heartbeat(sequence, since))
        self._heartbeat_at = now
        return interval

    def _put(self, message: bytes) -> None:
        if self._is_over:
            return
        try:
            if not self._answered:
                self._answered = True
                self._link.answer(HEADERS)
            self._link.send(message)
        except Broken as failure:
            self.failure = failure
