"""A slow link on this machine: a TCP proxy that holds bytes back, for want of the kernel's netem.

python -m agent.bench.proxy '{"targets": ["127.0.0.1:50051"], "round_trip_ms": 5, "megabits": 100}'

Prints where it listens for each target, as one JSON document, and ends when standard input does.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from collections import deque
from typing import cast

#: What is passed on at a time, so that a large message trickles in as over a real link.
_PIECE_BYTES = 16 * 1024

#: How much may be on its way in one direction of a connection, above what the link itself holds.
_BUFFER_BYTES = 4 * 1024 * 1024

#: What a direction that was idle may send at once.
_BURST_BYTES = 16 * 1024


class Lane:
    """One direction of a link, which its connections share.

    Args:
        seconds: that each byte takes.
        bytes_per_second: of all of them together; 0 for no bound.
    """

    def __init__(self, seconds: float, bytes_per_second: float) -> None:
        self.seconds = seconds
        self.bytes_per_second = bytes_per_second
        # A token bucket, told as the time at which it will be empty.
        self._busy_until = 0.0

    @property
    def capacity(self) -> float:
        """Bytes of a connection that may be held here."""
        return _BUFFER_BYTES + self.seconds * (self.bytes_per_second or 1e9)

    def arrival(self, now: float, size: int) -> float:
        """When ``size`` bytes that are sent at ``now`` have arrived."""
        if self.bytes_per_second:
            idle_since = now - _BURST_BYTES / self.bytes_per_second
            self._busy_until = max(self._busy_until, idle_since) + size / self.bytes_per_second
            now = max(now, self._busy_until)
        return now + self.seconds


class Half(asyncio.Protocol):
    """One end of a connection; what it receives leaves by the other end, later and in order."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._other: Half | None = None
        #: When each piece is due; the end of the stream is an empty one.
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._other_is_full = False

    def join(self, other: Half) -> None:
        """Sends what arrives here to ``other``."""
        self._other = other
        self._deliver()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        now = self._loop.time()
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            self._pieces.append((self._lane.arrival(now, len(piece)), piece))
        self._held += len(data)
        if self._held > self._lane.capacity and self._transport is not None:
            self._transport.pause_reading()
        self._deliver()

    def eof_received(self) -> bool:
        self._pieces.append((self._lane.arrival(self._loop.time(), 0), b""))
        self._deliver()
        return True  # The other direction stays open.

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._other is not None:
            self._other.leave()

    def leave(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.hold(True)

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.hold(False)

    def hold(self, is_full: bool) -> None:
        """Passes nothing on while the other end takes nothing."""
        self._other_is_full = is_full
        self._deliver()

    def _deliver(self) -> None:
        """Passes on what is due, and comes again when more is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        target = self._other._transport if self._other is not None else None
        if target is None or self._other_is_full:
            return
        now = self._loop.time()
        while self._pieces and self._pieces[0][0] <= now and not self._other_is_full:
            _, piece = self._pieces.popleft()
            self._held -= len(piece)
            if piece:
                target.write(piece)
            elif target.can_write_eof():
                target.write_eof()
        if self._held <= self._lane.capacity / 2 and self._transport is not None:
            self._transport.resume_reading()
        if self._pieces and not self._other_is_full:
            self._timer = self._loop.call_at(self._pieces[0][0], self._deliver)


class SlowLink:
    """Listens on a free loopback port, and passes on to one server.

    Args:
        target: ``host:port``.
        round_trip_ms: that it adds; half of it each way.
        megabits: a second, each way, of all connections together; 0 for no bound.
    """

    def __init__(self, target: str, round_trip_ms: float, megabits: float) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._there, self._back = (Lane(round_trip_ms / 2000, megabits * 1e6 / 8) for _ in range(2))
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self) -> str:
        """Begins; where."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def _accept(self) -> Half:
        near = Half(self._there)
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return near

    async def _connect(self, near: Half) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(lambda: Half(self._back), *self._target)
        except OSError:
            near.leave()
            return
        far.join(near)
        near.join(far)


async def serve(targets: list[str], round_trip_ms: float, megabits: float) -> None:
    """Tells where it listens, and serves until standard input ends."""
    links = [SlowLink(target, round_trip_ms, megabits) for target in targets]
    print(json.dumps({"addresses": [await link.listen() for link in links]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serves what the command line asks for."""
    # epoll and poll wait for whole milliseconds; select for microseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        loop.run_until_complete(serve(**json.loads(sys.argv[1])))
    finally:
        loop.close()


if __name__ == "__main__":
    main()
