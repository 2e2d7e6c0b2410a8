"""One call of ``Live``: replies in the order of the events, notices, and how it ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from agent.live.session import Session

logger = logging.getLogger(__name__)


class Entry:
    """An event that was received, and its reply once there is one.

    Args:
        sequence: the event's number.
        raw: the event.
    """

    __slots__ = ("arrived", "fingerprint", "reply", "sequence", "streams")

    def __init__(self, sequence: int, raw: bytes) -> None:
        self.sequence = sequence
        self.fingerprint = fingerprint(raw)
        self.arrived = time.perf_counter()
        self.reply: bytes | None = None
        #: Those on which the reply is due.
        self.streams: list[Stream] = []

    def settle(self, reply: bytes) -> None:
        """The reply is ready: sends it wherever it is due."""
        self.reply = reply
        for stream in self.streams:
            stream.wake()
        self.streams.clear()


def fingerprint(raw: bytes) -> bytes:
    """Tells events apart; observations may be too large to keep."""
    return raw if len(raw) <= 64 else hashlib.blake2b(raw, digest_size=16).digest()


class Stream:
    """One call of ``Live``.

    Args:
        context: the call's.
        bound: how many replies may wait for a client that does not read them.
    """

    def __init__(self, context: grpc.aio.ServicerContext, bound: int) -> None:
        self.session: Session | None = None
        self.begun = time.monotonic()
        self.has_ended = False
        self._context = context
        self._bound = bound
        self._due: deque[Entry | bytes] = deque()
        self._status: tuple[grpc.StatusCode, str] | None = None
        self._changed = asyncio.Event()
        #: Set when the reader may go on.
        self._room = asyncio.Event()
        self._room.set()
        #: Nothing more will come; the stream ends after the replies that are due.
        self._is_half_closed = False

    @property
    def is_working(self) -> bool:
        """Whether replies are due that have not been sent."""
        return bool(self._due) and not self.has_ended

    def expect(self, entry: Entry) -> None:
        """The reply to ``entry`` is due next, after those that are due already."""
        if self.has_ended:
            return
        self._due.append(entry)
        if entry.reply is None:
            entry.streams.append(self)
        else:
            self.wake()
        if len(self._due) >= self._bound:
            self._room.clear()

    def send(self, reply: bytes) -> None:
        """Sends ``reply`` after those that are due already."""
        self._due.append(reply)
        self.wake()

    def notify(self, notice: bytes) -> None:
        """Sends something that is no reply, ahead of what is not ready yet."""
        position = 0
        for item in self._due:
            if isinstance(item, Entry) and item.reply is None:
                break
            position += 1
        self._due.insert(position, notice)
        self.wake()

    def end(
        self,
        code: grpc.StatusCode | None = None,
        details: str = "",
        at_once: bool = False,
    ) -> None:
        """Ends the call, after what is ready to be sent. Later calls do nothing.

        Args:
            code: None for OK.
            details: for people.
            at_once: whether replies that are ready are dropped as well.
        """
        if self.has_ended:
            return
        self.has_ended = True
        if code is not None:
            self._status = (code, details)
        if at_once:
            self._due.clear()
        self.wake()
        self._room.set()

    def end_when_sent(self) -> None:
        """Ends the call with OK once all replies that are due have been sent."""
        self._is_half_closed = True
        self.wake()

    def wake(self) -> None:
        """Something may be ready to be sent."""
        self._changed.set()

    async def run(self, take: Callable[[Stream, bytes], None]) -> None:
        """Carries the call to its end; ``take`` gets every event received."""
        reader = asyncio.create_task(self._read(take))
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._write()
                if self.has_ended or (self._is_half_closed and not self._due):
                    break
        finally:
            self.has_ended = True
            reader.cancel()
        if self._status is not None:
            await self._context.abort(*self._status)

    async def _write(self) -> None:
        due = self._due
        while due:
            item = due[0]
            reply = item.reply if isinstance(item, Entry) else item
            if reply is None:
                return
            due.popleft()
            await self._context.write(reply)
            if len(due) < self._bound:
                self._room.set()

    async def _read(self, take: Callable[[Stream, bytes], None]) -> None:
        try:
            while not self.has_ended:
                raw = await self._context.read()
                if raw is grpc.aio.EOF:
                    self.end_when_sent()
                    return
                take(self, raw)
                if not self._room.is_set():
                    await self._room.wait()
        except DecodeError:
            self.end(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no farsim.v1.LiveEvent")
        except (grpc.RpcError, grpc.aio.UsageError):
            self.end()  # The client has gone; its session waits for it to come back.
        except Exception:
            logger.exception("a stream failed")
            self.end(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
