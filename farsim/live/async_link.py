"""A live session for asyncio: a task that listens, and one that keeps it up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc

from farsim.channel import ConnectionOptions, call_metadata, open_aio_channel
from farsim.errors import FarsimError
from farsim.live.link import absence, again, late
from farsim.live.session import Sent, Session
from farsim.live.upkeep import Upkeep
from farsim.protocol import POLICY_SERVICE
from farsim.v1 import policy_pb2 as pb

#: How long closing waits for the server's word that it has understood.
_FAREWELL_SECONDS = 1.0


class AsyncLink:
    """As ``Link``, in one event loop; ``until`` is by ``time.monotonic`` here as well.

    Args:
        address: ``host:port``.
        options: how to connect, and how patient to be.
        hello: what opens a session.
    """

    def __init__(self, address: str, options: ConnectionOptions, hello: pb.Hello) -> None:
        self.address = address
        self._options = options
        self._upkeep = Upkeep(address, options, hello, time.monotonic())
        self._changed = asyncio.Event()
        self._stream: _Stream | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects.

        Raises:
            FarsimError: why no session could be opened at the first attempt.
        """
        self._task = asyncio.create_task(self._tend(), name=f"farsim live {self.address}")
        until = time.monotonic() + self._options.connect_seconds
        await self._wait(lambda: self._upkeep.is_open or self._upkeep.reason is not None, until)
        if not self._upkeep.is_open:
            raise again(absence(self._upkeep))

    async def session(self, until: float) -> Session:
        """As ``Link.session``."""
        await self._wait(lambda: self._upkeep.is_open or self._upkeep.is_closed, until)
        if not self._upkeep.is_open:
            raise again(self._upkeep.session.failure or absence(self._upkeep))
        return self._upkeep.session

    async def send(
        self, session: Session, what: str, event: pb.LiveEvent, until: float, is_awaited: bool
    ) -> Sent:
        """As ``Link.send``."""
        if not session.has_room:
            await self._wait(lambda: session.has_room or session.is_lost, until)
            if not session.has_room and not session.is_lost:
                raise late(self._upkeep, session)
        waiter = asyncio.Event() if is_awaited else None
        sent = session.add(what, event, time.monotonic(), waiter)
        if session.is_carried and self._stream is not None:
            self._stream.put(sent.message)
        return sent

    def post(self, session: Session, what: str, event: pb.LiveEvent) -> None:
        """As ``Link.post``."""
        for message in session.post(what, event, time.monotonic()):
            if self._stream is not None:
                self._stream.put(message)

    async def wait(self, sent: Sent, until: float) -> None:
        """As ``Link.wait``."""
        if isinstance(sent.waiter, asyncio.Event):
            try:
                await asyncio.wait_for(sent.waiter.wait(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                if not sent.is_done:
                    raise late(self._upkeep, sent.session) from None

    async def close(self) -> None:
        """Ends the session and the tasks; again does nothing."""
        farewell = self._upkeep.close()
        task, self._task = self._task, None
        self._notify()
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.end(farewell)

    def abandon(self) -> None:
        """Ends the session without waiting; for a client that is forgotten, from any thread."""
        task, self._task = self._task, None
        if task is not None:
            loop = task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: loop.create_task(self._end(task)))

    async def _end(self, task: asyncio.Task[None]) -> None:
        self._task = task
        await self.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, condition: Callable[[], object], until: float) -> None:
        while not condition():
            seconds = until - time.monotonic()
            if seconds <= 0:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except asyncio.TimeoutError:
                return

    async def _tend(self) -> None:
        # A cancellation gets lost in Python 3.11 if what is waited for comes at the same moment.
        while not self._upkeep.is_closed:
            now = time.monotonic()
            stream = self._stream
            if stream is not None:
                message = self._upkeep.tick(now, stream.heard_at)
                if message is not None:
                    stream.put(message)
            else:
                self._upkeep.tick(now, now)
                if now >= self._upkeep.connect_at:
                    self._connect(now)
            if stream is not None and not self._upkeep.has_stream:
                self._stream = None
                self._notify()
                await stream.end(None)
                continue
            await self._pause()

    async def _pause(self) -> None:
        """Until something has changed or is due."""
        now = time.monotonic()
        heard_at = now if self._stream is None else self._stream.heard_at
        # An event that is sent meanwhile may be due for a reply sooner than what is waited for.
        until = min(self._upkeep.wake_at(heard_at), now + self._options.heartbeat_seconds)
        changed = self._changed
        if until > now:
            await self._wait(changed.is_set, until)

    def _connect(self, now: float) -> None:
        try:
            stream = _Stream(self.address, self._options, self._arrived)
        except FarsimError as error:  # A file of the options cannot be read just now.
            self._upkeep.refused(error, now)
            self._notify()
            return
        self._stream = stream
        stream.put(self._upkeep.began(now))

    def _arrived(self, stream: _Stream, item: bytes | grpc.RpcError | None) -> None:
        if stream is not self._stream or self._upkeep.is_closed:
            return
        if isinstance(item, bytes):
            for message in self._upkeep.received(item, time.monotonic()):
                stream.put(message)
        else:
            self._upkeep.broke(item, time.monotonic())
        self._notify()


class _Stream:
    """One call of ``Live`` on a channel of its own, and the task that listens to it."""

    def __init__(
        self,
        address: str,
        options: ConnectionOptions,
        deliver: Callable[[_Stream, bytes | grpc.RpcError | None], None],
    ) -> None:
        metadata = call_metadata(options)
        self.heard_at = time.monotonic()
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._deliver = deliver
        self._channel = open_aio_channel(address, options)
        live = self._channel.stream_stream(f"/{POLICY_SERVICE}/Live")
        self._call = live(self._outgoing(), metadata=metadata)
        self._task = asyncio.create_task(self._listen(), name=f"farsim {address}")

    def put(self, message: bytes) -> None:
        self._outbox.put_nowait(message)

    async def end(self, farewell: bytes | None) -> None:
        """Ends the stream and closes the channel, after a last message if there is one."""
        if farewell is not None:
            self.put(farewell)
            self._outbox.put_nowait(None)
            await asyncio.wait([self._task], timeout=_FAREWELL_SECONDS)
        self._outbox.put_nowait(None)
        self._call.cancel()
        if self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._channel.close()

    async def _outgoing(self) -> AsyncIterator[bytes]:
        while (message := await self._outbox.get()) is not None:
            yield message

    async def _listen(self) -> None:
        try:
            async for message in self._call:
                self.heard_at = time.monotonic()
                self._deliver(self, message)
        except grpc.RpcError as error:
            self._deliver(self, error)
        else:
            self._deliver(self, None)
