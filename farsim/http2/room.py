"""How much the peer lets this end send, and this end the peer."""

from __future__ import annotations

import struct

from farsim.http2 import frames
from farsim.http2.events import Broken
from farsim.http2.frames import (
    DEFAULT_WINDOW,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    MAX_WINDOW,
    PROTOCOL_ERROR,
)


class Room:
    """The peer's windows and settings. Whoever sends data takes it off both windows.

    Attributes:
        frame: bytes in one frame.
        connection: bytes of data on the connection.
        stream: bytes of data on the stream; may be negative.
    """

    def __init__(self) -> None:
        self.frame = 16384
        self.connection = DEFAULT_WINDOW
        self.stream = 0
        self._initial = DEFAULT_WINDOW

    @property
    def now(self) -> int:
        """Bytes of data that may be sent in one frame; none if it is not positive."""
        return min(self.stream, self.connection, self.frame)

    def begin(self) -> None:
        """Another stream begins."""
        self.stream = self._initial

    def greeting(self, first: bytes) -> None:
        """Looks at how a server begins: with settings, if it speaks HTTP/2.

        Args:
            first: the first nine bytes.

        Raises:
            Broken: it does not.
        """
        if first.startswith(b"HTTP/1"):
            raise Broken("it speaks HTTP/1, not HTTP/2", PROTOCOL_ERROR)
        if first[3] != frames.SETTINGS:
            raise Broken("Socket closed: it does not speak HTTP/2", PROTOCOL_ERROR)

    def settings(self, payload: bytes) -> None:
        """Takes a SETTINGS frame.

        Raises:
            Broken: it is not well formed.
        """
        if len(payload) % 6:
            raise Broken("settings of a wrong size", FRAME_SIZE_ERROR)
        for name, value in frames.setting.iter_unpack(payload):
            if name == frames.INITIAL_WINDOW:
                if value > MAX_WINDOW:
                    raise Broken("a window that is too large", FLOW_CONTROL_ERROR)
                self.stream += value - self._initial
                self._initial = value
            elif name == frames.MAX_FRAME:
                if not 16384 <= value < 1 << 24:
                    raise Broken(f"frames of up to {value} bytes", PROTOCOL_ERROR)
                self.frame = value

    def grow(self, more: int, connection: bool) -> None:
        """Takes a WINDOW_UPDATE frame, for the connection or else for the stream.

        Raises:
            Broken: the window becomes larger than one may be.
        """
        if connection:
            self.connection += more
        else:
            self.stream += more
        if max(self.connection, self.stream) > MAX_WINDOW:
            raise Broken("a window that is too large", FLOW_CONTROL_ERROR)


class Granted:
    """How much this end lets the peer send, on the connection and on the stream.

    Args:
        window: bytes of data; the peer is told that there is room again when half are used up.
    """

    def __init__(self, window: int) -> None:
        self._half = window // 2
        #: Bytes that came since the peer was told that there is room for them again.
        self._connection = self._stream = 0

    def begin(self) -> None:
        """Another stream begins."""
        self._stream = 0

    def use(self, count: int, stream: int) -> bytes:
        """Counts bytes of data, padding included.

        Args:
            count: how many.
            stream: the present one if they came on it and more may come; else 0.

        Returns:
            The frames that make room for more where it runs short.
        """
        told = b""
        self._connection += count
        if self._connection >= self._half:
            told, self._connection = _window_update(0, self._connection), 0
        if stream:
            self._stream += count
            if self._stream >= self._half:
                told, self._stream = told + _window_update(stream, self._stream), 0
        return told


def _window_update(stream: int, more: int) -> bytes:
    return frames.frame(frames.WINDOW_UPDATE, 0, stream, struct.pack(">I", more))
