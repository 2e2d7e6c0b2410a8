"""A client that is answered directly, without gRPC, and says whatever it is told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import urllib.parse
from collections.abc import Iterable, Iterator

import grpc

from farsim.http2.events import Broken, Headers
from farsim.http2.link import Link
from farsim.v1 import simulator_pb2 as pb

RUN = "/farsim.v1.Simulator/Run"
DESCRIBE = "/farsim.v1.Simulator/Describe"
PATIENCE = 30.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def connected(address: str, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection, over TLS if ``tls`` says how."""
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)
    return sock if tls is None else tls.wrap_socket(sock, server_hostname=host)


def opening_fields(path: str, metadata: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """What a call begins with."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
    ]


class DirectStream:
    """One call; has the methods of ``RawStream``.

    Args:
        address: ``host:port``.
        metadata: of the call.
        path: of the method.
        tls: how to connect; None for plain text.
    """

    def __init__(
        self,
        address: str,
        metadata: Iterable[tuple[str, str]] = (),
        path: str = RUN,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = connected(address, tls)
        self.link = Link(self.sock, True, 1 << 26)
        self.trailers: dict[str, str] | None = None
        try:
            self.call(path, metadata)
        except Broken:
            self.link.close()
            raise

    def call(self, path: str = RUN, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """Begins the next call on the same connection."""
        self.trailers = None
        with self.link.lock:
            self.link.open(opening_fields(path, metadata))
            self.link.pump(0)

    def send(self, request: pb.SimRequest | bytes) -> None:
        with self.link.lock:
            self.link.send(request if isinstance(request, bytes) else request.SerializeToString())

    def ask(self, request: pb.SimRequest | bytes) -> pb.SimReply:
        self.send(request)
        return self.receive()

    @property
    def messages(self) -> Iterator[bytes]:
        """All that come, until the end of the call."""
        while self.trailers is None:
            with self.link.lock:
                event = self.link.take(PATIENCE)
            if isinstance(event, bytes):
                yield event
            elif isinstance(event, Headers):
                if event.end:
                    self.trailers = dict(event.fields)
            else:
                raise AssertionError(f"neither a message nor a status: {event}")

    @property
    def replies(self) -> Iterator[pb.SimReply]:
        return map(pb.SimReply.FromString, self.messages)

    def receive(self) -> pb.SimReply:
        for reply in self.replies:
            if not reply.HasField("heartbeat"):
                return reply
        raise EOFError("the server ended the stream")

    def cut(self) -> None:
        """Breaks the connection without a word."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        with self.link.lock:
            self.link.end()

    def status(self) -> grpc.StatusCode:
        """Reads on until the call ends, and returns how."""
        try:
            for _ in self.messages:
                pass
        except Broken:
            return grpc.StatusCode.UNAVAILABLE
        assert self.trailers is not None
        return _CODES[int(self.trailers["grpc-status"])]

    @property
    def details(self) -> str:
        """What the status says, once it is there."""
        return urllib.parse.unquote((self.trailers or {}).get("grpc-message", ""))

    def close(self) -> None:
        self.link.close()
