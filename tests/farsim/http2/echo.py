"""A gRPC server in this process, of either kind that grpcio has, which answers in every way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

SERVICE = "plain.Echo"
KINDS = ("sync", "aio")


def _fail(request: bytes) -> tuple[grpc.StatusCode, str]:
    name, _, details = request.decode().partition(":")
    return grpc.StatusCode[name], details


def _metadata(context: Any) -> bytes:
    return repr(sorted((name, value) for name, value in context.invocation_metadata())).encode()


class _Sync:
    """``Blow`` answers as many bytes as it is told, ``Fail`` with the status it is told."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def echo(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return request

    def blow(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return bytes(int(request))

    def metadata(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return _metadata(context)

    def fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(*_fail(request))

    def hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.over.set)
        self.over.wait(20)
        return request

    def run(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.over.set)
        for request in requests:
            if request.startswith(b"fail "):
                context.abort(*_fail(request[5:]))
            if request == b"end":
                return
            yield request


class _Aio:
    def __init__(self) -> None:
        self.over = threading.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def blow(self, request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    async def metadata(self, request: bytes, context: Any) -> bytes:
        return _metadata(context)

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(*_fail(request))
        raise AssertionError

    async def hang(self, request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(20)
        finally:
            self.over.set()
        return request

    async def run(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                if request.startswith(b"fail "):
                    await context.abort(*_fail(request[5:]))
                if request == b"end":
                    return
                yield request
        finally:
            self.over.set()


class Echo:
    """A running server.

    Attributes:
        address: ``host:port``.
        over: set once a call of ``Hang`` or ``Run`` is over.
    """

    def __init__(self, kind: str, host: str, options: dict[str, Any], credentials: Any) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        methods = _Sync() if kind == "sync" else _Aio()
        self.over = methods.over
        unary, stream = (
            grpc.unary_unary_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        handlers = {
            "Echo": unary(methods.echo),
            "Blow": unary(methods.blow),
            "Metadata": unary(methods.metadata),
            "Fail": unary(methods.fail),
            "Hang": unary(methods.hang),
            "Run": stream(methods.run),
        }
        self._handler = grpc.method_handlers_generic_handler(SERVICE, handlers)
        settings = list(options.items())
        if kind == "sync":
            self._server = grpc.server(futures.ThreadPoolExecutor(4), options=settings)
            port = self._listen(host, credentials)
            self._server.start()
        else:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()

            async def start() -> int:
                self._server = grpc.aio.server(options=settings)
                port = self._listen(host, credentials)
                await self._server.start()
                return port

            port = asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)
        self.port = port
        self.address = f"{host}:{port}"

    def stop(self, grace: float | None = None) -> None:
        if self._loop is None:
            self._server.stop(grace).wait()
        else:
            stopping = asyncio.run_coroutine_threadsafe(self._server.stop(grace), self._loop)
            stopping.result(10)

    def close(self) -> None:
        self.over.set()
        self.stop()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _listen(self, host: str, credentials: Any) -> int:
        self._server.add_generic_rpc_handlers((self._handler,))
        if credentials is None:
            port = self._server.add_insecure_port(f"{host}:0")
        else:
            port = self._server.add_secure_port(f"{host}:0", credentials)
        return int(port)


@contextmanager
def echo(
    kind: str = "sync", host: str = "127.0.0.1", credentials: Any = None, **options: Any
) -> Iterator[Echo]:
    """Runs a server; options are gRPC's, without ``grpc.`` and with ``__`` for further dots."""
    settings = {"max_receive_message_length": 1 << 26, "max_send_message_length": -1} | options
    named = {f"grpc.{name.replace('__', '.')}": value for name, value in settings.items()}
    server = Echo(kind, host, named, credentials)
    try:
        yield server
    finally:
        server.close()
