"""A TCP proxy that does to a connection what networks do: cut, stall and delay it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

_CHUNK = 65536


class Proxy:
    """Listens on a free loopback port and passes bytes on to ``target``.

    Runs in a thread of its own while the ``with`` block lasts; its methods may be called from any
    thread.

    Attributes:
        address: where it listens, ``host:port``.
        connections: how many it has accepted so far.
        cuts: how many connections it has cut.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.address = ""
        self.connections = 0
        self.cuts = 0
        self._delay = 0.0
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._do(self._start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self) -> int:
        """Resets all connections; how many there were."""

        async def cut() -> int:
            pairs = len(self._writers) // 2
            for writer in list(self._writers):
                writer.transport.abort()
            self.cuts += pairs
            return pairs

        return self._do(cut)

    def stall(self) -> None:
        """Passes nothing on, either way, until ``flow``; connections stay open."""

        async def stall() -> None:
            self._open.clear()

        self._do(stall)

    def flow(self) -> None:
        """Ends a stall."""

        async def flow() -> None:
            self._open.set()

        self._do(flow)

    def delay(self, seconds: float) -> None:
        """Holds everything back for so long, either way, from now on."""
        self._delay = seconds

    def refuse(self, refusing: bool = True) -> None:
        """Resets new connections at once, or no longer does."""
        self._refusing = refusing

    def _do(self, action: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run_coroutine_threadsafe(action(), self._loop).result(10)

    async def _start(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        self._server.close()
        self._delay = 0.0
        self._open.set()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            onward = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, onward[1]}
        self._writers |= writers
        try:
            await asyncio.gather(self._pass(reader, onward[1]), self._pass(onward[0], writer))
        finally:
            self._writers -= writers
            for end in writers:
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes one direction on, and its end."""
        try:
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()
