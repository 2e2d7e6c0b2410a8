"""The other end of a connection, which says what it is told to, frame by frame."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from farsim.http2 import frames
from farsim.http2.events import Broken, Event
from farsim.http2.link import Link

CALL = [(":method", "POST"), (":scheme", "http"), (":path", "/a/B"), (":authority", "x")]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
LIMIT = 1 << 23
SECONDS = 10.0


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Peer:
    """Reads frames and writes bytes, on a socket whose every wait ends within ten seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(10)
        self._come = bytearray()

    def say(self, *pieces: bytes) -> None:
        self.sock.sendall(b"".join(pieces))

    def preface(self) -> bytes:
        return self._bytes(len(frames.PREFACE))

    def hear(self) -> Frame:
        high, low, kind, flags, stream = frames.frame_header.unpack(self._bytes(9))
        return Frame(kind, flags, stream, self._bytes(high << 16 | low))

    def hear_kind(self, kind: int, flags: int = 0) -> Frame:
        """The next frame of a kind that has all of ``flags``."""
        while True:
            frame = self.hear()
            if frame.kind == kind and frame.flags & flags == flags:
                return frame

    def hear_data(self, count: int) -> bytes:
        """The data of as many frames as it takes to have ``count`` bytes."""
        data = b""
        while len(data) < count:
            data += self.hear_kind(frames.DATA).payload
        return data

    def is_hung_up_on(self) -> bool:
        """Reads all there is, until the end."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def _bytes(self, count: int) -> bytes:
        while len(self._come) < count:
            piece = self.sock.recv(1 << 16)
            if not piece:
                raise EOFError(bytes(self._come))
            self._come += piece
        piece = bytes(self._come[:count])
        del self._come[:count]
        return piece


@contextmanager
def client(limit: int = LIMIT, stall_seconds: float = 10.0) -> Iterator[tuple[Link, Peer]]:
    """A client's link with a stream open, and the server, which has sent its settings."""
    near, far = socket.socketpair()
    link, peer = Link(near, True, limit, stall_seconds), Peer(far)
    with far:
        with link.lock:
            link.open(CALL)
            link.pump(0)
        peer.preface()
        peer.say(frames.settings([]))
        yield link, peer
        link.close()


@contextmanager
def server(limit: int = LIMIT, stall_seconds: float = 10.0) -> Iterator[tuple[Link, Peer]]:
    """A server's link and a client, which has sent its preface and settings."""
    near, far = socket.socketpair()
    link, peer = Link(near, False, limit, stall_seconds), Peer(far)
    with far:
        peer.say(frames.PREFACE, frames.settings([]))
        yield link, peer
        link.close()


@contextmanager
def both(
    limit: int = LIMIT,
    stall_seconds: float = 10.0,
    tcp: bool = False,
    folder: Path | None = None,
    version: str = "TLSv1_3",
) -> Iterator[tuple[Link, Link]]:
    """A client's link and a server's; over TLS, with the certificates in ``folder``, if given."""
    if tcp:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far = listener.accept()[0]
    else:
        near, far = socket.socketpair()
    if folder is not None:
        near, far = _secured(near, far, folder, ssl.TLSVersion[version])
    links = Link(near, True, limit, stall_seconds), Link(far, False, limit, stall_seconds)
    try:
        yield links
    finally:
        for link in links:
            link.close()


def _secured(
    near: socket.socket, far: socket.socket, folder: Path, version: ssl.TLSVersion
) -> tuple[socket.socket, socket.socket]:
    of_client = ssl.create_default_context(cafile=folder / "ca.pem")
    of_client.maximum_version = version
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(of_server.wrap_socket, far, server_side=True)
        return of_client.wrap_socket(near, server_hostname="localhost"), serving.result(10)


def headers(
    fields: list[tuple[str, str]], stream: int = 1, end: bool = False, frame_bytes: int = 16384
) -> bytes:
    return frames.headers(stream, frames.END_STREAM if end else 0, fields, frame_bytes)


def data(payload: bytes, stream: int = 1, end: bool = False) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if end else 0, stream, payload)


def message(payload: bytes) -> bytes:
    """With the prefix that gRPC puts before it."""
    return struct.pack(">BI", 0, len(payload)) + payload


def window(more: int, stream: int = 0) -> bytes:
    return frames.frame(frames.WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def take(link: Link, seconds: float = SECONDS) -> Event:
    with link.lock:
        event = link.take(seconds)
    assert event is not None, "nothing came"
    return event


def broken(link: Link) -> Broken:
    """How the connection broke."""
    with pytest.raises(Broken) as caught:
        while True:
            take(link)
    return caught.value


def send(link: Link, payload: bytes, end: bool = False) -> None:
    with link.lock:
        link.send(payload, end)


def is_silent(link: Link) -> bool:
    """Whether nothing has come that would be taken."""
    with link.lock:
        return link.take(0) is None


def opened(link: Link, peer: Peer, initial: int) -> None:
    """Lets a server's link begin an answer to a client with a window of that size."""
    peer.say(frames.settings([(frames.INITIAL_WINDOW, initial)]), headers(CALL, end=True))
    take(link)
    with link.lock:
        link.answer(ANSWER)
