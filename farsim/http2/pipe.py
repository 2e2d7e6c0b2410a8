"""A connected socket, plain or TLS, whose reading and writing never wait for each other."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import TypeAlias

from farsim.http2.events import Broken
from farsim.http2.spin import Spin

#: Bytes to be sent.
Piece: TypeAlias = "bytes | memoryview"

_BUFFER_BYTES = 1 << 17
#: What frames need at most is less than this; a larger buffer is given back when it is empty.
_KEPT_BYTES = 1 << 22
#: Pieces up to this size together are joined before they are sent, larger ones go as they are.
_JOINED_BYTES = 1 << 14

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Pipe:
    """Reads into a buffer of its own and writes all or nothing.

    Args:
        sock: with its handshake done, if it is TLS; the pipe owns it from now on.
        stall_seconds: how long writing waits for a peer that takes nothing.
        unread_bytes: how much a write that waits may read meanwhile.
        spin_seconds: see ``Spin``.

    Attributes:
        buffer: what has been read.
        begin: where in it begins what nobody has taken yet.
        end: where that ends.
        heard_at: when something came last, by ``time.monotonic``.
        sent_at: when something went last.
        stall_seconds: as given.
    """

    def __init__(
        self,
        sock: socket.socket,
        stall_seconds: float,
        unread_bytes: int,
        spin_seconds: float = 0.0,
    ) -> None:
        self.buffer = bytearray(_BUFFER_BYTES)
        self.begin = self.end = 0
        self.heard_at = self.sent_at = time.monotonic()
        self.stall_seconds, self._unread_bytes = stall_seconds, unread_bytes
        #: Whether a write has read something.
        self._came_meanwhile = False
        self._sock = sock
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._spin = Spin(spin_seconds)
        self._readable, self._writable, self._either = (select.poll() for _ in range(3))
        self._readable.register(sock, select.POLLIN)
        self._writable.register(sock, select.POLLOUT)
        self._either.register(sock, select.POLLIN | select.POLLOUT)

    @property
    def is_empty(self) -> bool:
        """Whether all that has been read has been taken."""
        return self.begin == self.end

    def wait(self, seconds: float | None) -> bool:
        """Whether something comes within ``seconds``, or ever if None."""
        if self._came_meanwhile or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()):
            return True
        return self._spin.wait(self._readable, seconds)

    def watch(self, descriptor: int) -> None:
        """Ends ``wait`` also when another file can be read, which is left to the caller."""
        self._readable.register(descriptor, select.POLLIN)

    def has_room(self) -> bool:
        """Whether something small can be sent without waiting."""
        return bool(self._writable.poll(0))

    def read(self) -> bool:
        """Reads what has come, into the buffer.

        Returns:
            Whether there may be more.

        Raises:
            Broken: the peer has closed the connection, or it broke.
        """
        if self._came_meanwhile:
            self._came_meanwhile = False
            return True
        return self._fill()

    def read_into(self, room: memoryview) -> int:
        """Reads what has come into ``room`` instead, when the buffer is empty.

        Returns:
            How many bytes; 0 if there is nothing now.

        Raises:
            Broken: as ``read``.
        """
        try:
            count = self._sock.recv_into(room)
        except _NOT_NOW:
            return 0
        except (OSError, ValueError) as error:
            raise Broken(_said(error)) from error
        if not count:
            raise Broken("Socket closed")
        self.heard_at = time.monotonic()
        return count

    def write(self, pieces: tuple[Piece, ...]) -> None:
        """Sends all of ``pieces``.

        Raises:
            Broken: the peer takes nothing for ``stall_seconds``, or the connection broke.
        """
        size = sum(map(len, pieces))
        try:
            if size <= _JOINED_BYTES or self._tls:
                sent = self._sock.send(b"".join(pieces))
            else:
                sent = self._sock.sendmsg(pieces)
        except _NOT_NOW:
            sent = 0
        except (OSError, ValueError) as error:
            raise Broken(_said(error)) from error
        if sent < size:
            self._write_slowly(memoryview(b"".join(pieces))[sent:])
        self.sent_at = time.monotonic()

    def put_back(self, data: bytes) -> None:
        """Takes what was read from the socket before it came here."""
        self._room(len(data))
        self.buffer[self.end : self.end + len(data)] = data
        self.end += len(data)
        self._came_meanwhile = True

    def shut(self, last: bytes | None) -> None:
        """Wakes whoever waits here, after sending ``last`` if there is room for it."""
        with contextlib.suppress(OSError, ValueError):
            if last is not None:
                self._sock.send(last)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Frees the socket; nobody may be waiting here, as its number may soon be another's."""
        self._sock.close()

    def _fill(self) -> bool:
        if self.begin == self.end:
            self.begin = self.end = 0
            if len(self.buffer) > _KEPT_BYTES:
                self.buffer = bytearray(_BUFFER_BYTES)
        elif self.end == len(self.buffer):
            self._room(1)
        room = len(self.buffer) - self.end
        count = self.read_into(memoryview(self.buffer)[self.end :])
        self.end += count
        return count == room or (self._tls and count > 0)

    def _room(self, count: int) -> None:
        """Moves what nobody has taken to the front, of a larger buffer if it takes one."""
        waiting = self.buffer[self.begin : self.end]
        if len(waiting) + count > len(self.buffer) // 2:
            self.buffer = bytearray(2 * (len(waiting) + count))
        self.buffer[: len(waiting)] = waiting
        self.begin, self.end = 0, len(waiting)

    def _write_slowly(self, view: memoryview) -> None:
        """Goes on when the peer takes more, and reads meanwhile: it may wait for that first."""
        until = time.monotonic() + self.stall_seconds
        while len(view):
            full = self.end - self.begin > self._unread_bytes
            poll = self._writable if full else self._either
            ready = poll.poll(max(0, int(1000 * (until - time.monotonic()))))
            if not ready:
                raise Broken(f"the peer took nothing for {self.stall_seconds:g} s")
            if ready[0][1] & ~select.POLLOUT and not full:
                self._fill()
                self._came_meanwhile = True
            try:
                view = view[self._sock.send(view) :]
            except _NOT_NOW:
                continue
            except (OSError, ValueError) as error:
                raise Broken(_said(error)) from error
            until = time.monotonic() + self.stall_seconds


def _said(error: Exception) -> str:
    """As gRPC says it, for whoever reads either."""
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "Socket closed"
    if isinstance(error, ssl.SSLError):
        return f"Ssl handshake failed: {error.reason or error}"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "Connection reset by peer"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "this end has closed the connection"
