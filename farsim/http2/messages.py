"""gRPC's messages in the data of a stream."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Callable

from farsim.http2.events import Broken, Event, TooLarge
from farsim.http2.frames import PADDED, PROTOCOL_ERROR

#: The largest window, and that gzip and zlib are told apart by how they begin.
_EITHER = zlib.MAX_WBITS | 32
#: A message that is larger than a processor's own cache is put together where it will stay, once
#: one byte in so many has come: a size is easily said. A smaller one is cheaper to copy.
_LARGE_BYTES, _AHEAD = 1 << 19, 16


def unpadded(flags: int, payload: bytes) -> bytes:
    """What a frame with these flags holds besides padding."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken("more padding than frame", PROTOCOL_ERROR)
    return payload[1 : len(payload) - payload[0]]


class MessageReader:
    """Cuts the data of a stream into messages.

    Args:
        max_message_bytes: the largest that may come.
        messages: where they are put.
    """

    def __init__(self, max_message_bytes: int, messages: deque[Event]) -> None:
        self._max_message_bytes = max_message_bytes
        self._messages = messages
        #: The message that has come in part, its prefix included, unless it is in ``_large``.
        self._partial = bytearray()
        self._large: _Large | None = None

    @property
    def is_within(self) -> bool:
        """Whether a message has come in part."""
        return bool(self._partial) or self._large is not None

    def forget(self) -> None:
        """Forgets the message that has come in part."""
        self._partial.clear()
        self._large = None

    @property
    def takes_more(self) -> bool:
        """Whether ``read`` can be used."""
        return self._large is not None

    def read(self, most: int, read_into: Callable[[memoryview], int]) -> int:
        """Lets ``read_into`` put what comes next where it belongs.

        Args:
            most: how many bytes that may be.
            read_into: reads into a buffer and says how many bytes.

        Returns:
            The same.
        """
        assert self._large is not None
        with self._large.room(most) as room:
            count = read_into(room)
        self._came(self._large, count)
        return count

    def add(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Takes what is between two places in ``buffer``.

        Raises:
            TooLarge: a message is over the limit.
            Broken: one is compressed in a way that nobody knows.
        """
        if self._large is not None:
            with self._large.room(end - at) as room:
                count = len(room)
                room[:] = memoryview(buffer)[at : at + count]
            self._came(self._large, count)
            at += count
        partial = self._partial
        while not partial and end - at >= 5:
            size = self._size(buffer, at)
            if end - at - 5 < size:
                break
            self._append(bytes(memoryview(buffer)[at + 5 : at + 5 + size]), buffer[at])
            at += 5 + size
        if at < end:
            partial += memoryview(buffer)[at:end]
            while len(partial) >= 5 and len(partial) - 5 >= (size := self._size(partial, 0)):
                self._append(bytes(memoryview(partial)[5 : 5 + size]), partial[0])
                del partial[: 5 + size]
            if len(partial) >= 5 and _LARGE_BYTES <= size <= len(partial) * _AHEAD:
                self._large = _Large(partial, size)
                partial.clear()

    def _came(self, large: _Large, count: int) -> None:
        large.come += count
        if large.come == large.size:
            self._large = None
            self._append(large.whole(), large.compressed)

    def _append(self, message: bytes, compressed: int) -> None:
        self._messages.append(self._inflated(message) if compressed else message)

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


class _Large:
    """A message that is put together where it will stay.

    Args:
        begun: its prefix and its first bytes.
        size: how many bytes it has, without the prefix.

    Attributes:
        compressed: as the prefix says.
        size: as given.
        come: how many of them are there.
    """

    def __init__(self, begun: bytearray, size: int) -> None:
        self.compressed, self.size, self.come = begun[0], size, len(begun) - 5
        # It lends its bytes out to be written to, and gives them away without a copy.
        self._file = io.BytesIO()
        self._file.seek(size - 1)
        self._file.write(b"\0")
        self._bytes = self._file.getbuffer()
        self._bytes[: self.come] = memoryview(begun)[5:]

    def room(self, most: int) -> memoryview:
        """For at most so many of the bytes that are to come next; to be released."""
        return self._bytes[self.come : min(self.size, self.come + most)]

    def whole(self) -> bytes:
        """The message; there is no room any more."""
        self._bytes.release()
        return self._file.getvalue()
