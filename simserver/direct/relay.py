"""Clients that are not ours, passed on byte by byte to gRPC's own server."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import socket
import ssl
import struct
import tempfile
import weakref
from pathlib import Path

import grpc

#: As much as is read at once, and waits to be written, each way.
_CHUNK_BYTES = 1 << 17
#: The longest name of a Unix socket on Linux; macOS has 103.
_LONGEST_PATH = 103
#: What gRPC takes literally in an address.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]+")
#: Closing resets the connection.
_NO_LINGER = struct.pack("ii", 1, 0)

_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Upstream:
    """Where gRPC's own server listens: a Unix socket that nobody else can connect to.

    Args:
        server: it gets the address, and must not have been started.

    Raises:
        OSError: this platform has no such sockets, or there is no folder to keep one in.
    """

    def __init__(self, server: grpc.Server) -> None:
        if not hasattr(socket, "AF_UNIX") or not hasattr(select, "poll"):
            raise OSError("no Unix sockets here")
        folder = _private_folder()
        path = os.path.join(folder, "grpc")
        self._remove: weakref.finalize[..., Upstream] = weakref.finalize(
            self, shutil.rmtree, folder, True
        )
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            self._remove()
            raise OSError(str(error)) from error
        self._path = path
        if hasattr(os, "O_PATH") and Path("/proc/self/fd").is_dir():
            # A socket without a name, which a killed process does not leave behind.
            file = os.open(path, os.O_PATH)
            self._path = f"/proc/self/fd/{file}"
            self._remove()
            self._remove = weakref.finalize(self, os.close, file)

    def connect(self) -> socket.socket:
        """A connection to the server.

        Raises:
            OSError: it does not listen any more.
        """
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Frees what the socket was kept in. Again does nothing."""
        self._remove()


def _private_folder() -> str:
    for parent in (tempfile.gettempdir(), "/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            folder = tempfile.mkdtemp(prefix="farsim-", dir=parent)
            if _PLAIN_PATH.fullmatch(folder) and len(folder) + len("/grpc") <= _LONGEST_PATH:
                return folder
            os.rmdir(folder)
    raise OSError("no folder for a socket")


class Relay:
    """Passes on what a client and gRPC's server say to each other.

    Args:
        client: plain or TLS, with its handshake done.
        server: of ``Upstream``.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server

    def run(self, received: bytes) -> None:
        """Passes on until the server has said all, or one of them breaks off; then closes both.

        Args:
            received: what has been read from the client already.
        """
        there = _Way(self._client, self._server, received)
        back = _Way(self._server, self._client)
        try:
            self._client.setblocking(False)
            self._server.setblocking(False)
            while True:
                there.move()
                back.move()
                if back.done:  # Who has heard all need not say the rest.
                    break
                poll = select.poll()
                # One of which nothing is wanted would end the wait by having hung up.
                if wants := there.wants_to_read | back.wants_to_write:
                    poll.register(self._client, wants)
                if wants := back.wants_to_read | there.wants_to_write:
                    poll.register(self._server, wants)
                poll.poll()
        except (OSError, ValueError):
            with contextlib.suppress(OSError):
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        finally:
            self._client.close()
            self._server.close()

    def leave(self) -> None:
        """Ends it after what the server has said already; from any thread."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)


class _Way:
    """One direction of a relay.

    Attributes:
        done: whether its source has ended and all has been passed on.
    """

    def __init__(self, source: socket.socket, target: socket.socket, waiting: bytes = b"") -> None:
        self.done = False
        self._source, self._target = source, target
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self._waiting = memoryview(waiting)
        self._ended = False

    @property
    def wants_to_read(self) -> int:
        return 0 if self._ended or len(self._waiting) else select.POLLIN

    @property
    def wants_to_write(self) -> int:
        return select.POLLOUT if len(self._waiting) else 0

    def move(self) -> None:
        """Passes on what there is, as long as the target takes it.

        Raises:
            OSError: one of the two has broken off.
        """
        try:
            while not self.done:
                if len(self._waiting):
                    self._waiting = self._waiting[self._target.send(self._waiting) :]
                elif self._ended:
                    self.done = True
                    self._target.shutdown(socket.SHUT_WR)
                else:
                    self._waiting = self._buffer[: self._source.recv_into(self._buffer)]
                    self._ended = not len(self._waiting)
        except _NOT_NOW:
            pass
