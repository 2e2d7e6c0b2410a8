"""gRPC's messages in the data of a stream."""

from __future__ import annotations

import zlib
from collections import deque

from farsim.http2.events import Broken, Event, TooLarge
from farsim.http2.frames import PROTOCOL_ERROR

#: The largest window, and that gzip and zlib are told apart by how they begin.
_EITHER = zlib.MAX_WBITS | 32


class MessageReader:
    """Cuts the data of a stream into messages.

    Args:
        max_message_bytes: the largest that may come.
        messages: where they are put.

    Attributes:
        partial: the message that has come in part, its prefix included.
    """

    def __init__(self, max_message_bytes: int, messages: deque[Event]) -> None:
        self.partial = bytearray()
        self._max_message_bytes = max_message_bytes
        self._messages = messages

    def add(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Takes what is between two places in ``buffer``.

        Raises:
            TooLarge: a message is over the limit.
            Broken: one is compressed in a way that nobody knows.
        """
        partial = self.partial
        while not partial and end - at >= 5:
            size = self._size(buffer, at)
            if end - at - 5 < size:
                break
            message = bytes(memoryview(buffer)[at + 5 : at + 5 + size])
            self._messages.append(self._inflated(message) if buffer[at] else message)
            at += 5 + size
        if at < end:
            partial += memoryview(buffer)[at:end]
            while len(partial) >= 5 and len(partial) - 5 >= (size := self._size(partial, 0)):
                message = bytes(memoryview(partial)[5 : 5 + size])
                self._messages.append(self._inflated(message) if partial[0] else message)
                del partial[: 5 + size]

    def _size(self, buffer: bytes | bytearray, at: int) -> int:
        """The size of the message that begins there."""
        size = int.from_bytes(buffer[at + 1 : at + 5], "big")
        if size > self._max_message_bytes:
            raise TooLarge(
                f"Received message larger than max ({size} vs. {self._max_message_bytes})"
            )
        return size

    def _inflated(self, message: bytes) -> bytes:
        """A message compressed with gzip or deflate: servers may do it though nobody offers it."""
        inflater = zlib.decompressobj(_EITHER)
        try:
            inflated = inflater.decompress(message, self._max_message_bytes + 1)
        except zlib.error as error:
            raise Broken(
                f"a message that cannot be decompressed: {error}", PROTOCOL_ERROR
            ) from None
        if len(inflated) > self._max_message_bytes:
            raise TooLarge(
                f"Received message larger than max (decompressed vs. {self._max_message_bytes})"
            )
        if not inflater.eof:
            raise Broken("a message that cannot be decompressed: it is cut off", PROTOCOL_ERROR)
        return inflated
