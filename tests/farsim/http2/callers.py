"""Calls by this client and by gRPC's own, and servers for them that are none of gRPC's."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from farsim.channel import ConnectionOptions, open_channel, translate
from farsim.errors import FarsimError
from farsim.http2 import frames
from farsim.http2.client import Client
from tests.farsim.http2.echo import SERVICE

SECONDS = 10.0
RUN = f"{SERVICE}/Run"
TRANSPORTS = ("direct", "grpcio")


@contextlib.contextmanager
def connected(address: str, **options: object) -> Iterator[Client]:
    client = Client(address, ConnectionOptions.of(options))
    client.connect(SECONDS)
    try:
        yield client
    finally:
        client.hang_up()


def call(
    transport: str, address: str, method: str, request: bytes = b"", **options: object
) -> bytes:
    """A unary call on a connection of its own, by this client or by gRPC's."""
    settings = ConnectionOptions.of(options)
    seconds = settings.connect_seconds
    if transport == "grpcio":
        with open_channel(address, settings) as channel:
            reply = channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=seconds)
            assert isinstance(reply, bytes)
            return reply
    client = Client(address, settings)
    try:
        client.connect(seconds)
        return client.call(f"{SERVICE}/{method}", request, seconds)
    finally:
        client.hang_up()


def failure(
    transport: str, address: str, method: str, request: bytes = b"", **options: object
) -> FarsimError:
    """How a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call(transport, address, method, request, **options)
    return translate(caught.value, address)


RESTLESS = {
    "keepalive_time_ms": 100,
    "keepalive_timeout_ms": 500,
    "http2__ping_timeout_ms": 500,
    "keepalive_permit_without_calls": 1,
    "http2__max_pings_without_data": 0,
}


@contextlib.contextmanager
def answering(said: bytes | None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that says ``said`` to all who say something, or nothing if None, and hangs up."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                sock.settimeout(SECONDS)
                if said is None:
                    stop.wait(SECONDS)
                else:
                    with tls.wrap_socket(sock, server_side=True) if tls else sock as wrapped:
                        wrapped.recv(1 << 16)
                        wrapped.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(SECONDS)


@contextlib.contextmanager
def replying(said: bytes) -> Iterator[str]:
    """An HTTP/2 server that says ``said`` once a whole request has come, and listens on."""
    ends = frames.END_STREAM

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            sock.settimeout(SECONDS)
            sock.sendall(frames.settings([]))
            come, at = b"", len(frames.PREFACE)
            while True:
                while len(come) < at + 9:
                    come += piece(sock)
                high, low, kind, flags, _ = frames.frame_header.unpack_from(come, at)
                at += 9 + (high << 16 | low)
                if kind == frames.SETTINGS and not flags & frames.ACK:
                    sock.sendall(frames.frame(frames.SETTINGS, frames.ACK, 0))
                if kind in (frames.DATA, frames.HEADERS) and flags & ends:
                    break
            sock.sendall(said)
            while sock.recv(1 << 16):
                pass

    def piece(sock: socket.socket) -> bytes:
        come = sock.recv(1 << 16)
        if not come:
            raise OSError("it hung up")
        return come

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)


def credentials(folder: Path, mutual: bool = False) -> grpc.ServerCredentials:
    pair = ((folder / "server-key.pem").read_bytes(), (folder / "server.pem").read_bytes())
    roots = (folder / "ca.pem").read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], roots, mutual)


def own_certificate(folder: Path) -> dict[str, str]:
    return {"tls_cert": str(folder / "client.pem"), "tls_key": str(folder / "client-key.pem")}
