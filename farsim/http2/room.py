"""How much the peer lets this end send."""

from __future__ import annotations

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
