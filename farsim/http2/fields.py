"""Blocks of header fields as they come, in one frame or several."""

from __future__ import annotations

from dataclasses import dataclass

import hpack

from farsim.http2.events import Broken, Headers, TooLarge
from farsim.http2.frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    PRIORITY,
    PROTOCOL_ERROR,
)

#: The largest block, compressed or not.
HEADER_BYTES = 1 << 15


@dataclass
class _Block:
    stream: int
    end: bool
    payload: bytearray


class FieldReader:
    """Puts blocks together and decodes them.

    Attributes:
        midway: whether a block has begun and not ended; nothing else may come between.
    """

    def __init__(self) -> None:
        self.midway = False
        self._block: _Block | None = None
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES)

    def begin(self, flags: int, stream: int, payload: bytes) -> Headers | None:
        """Takes a HEADERS frame, without its padding.

        Returns:
            None if more of the block is to come.

        Raises:
            TooLarge: the fields are more than ``HEADER_BYTES``.
            Broken: the peer does what the protocol does not allow.
        """
        if flags & PRIORITY:
            if len(payload) < 5:
                raise Broken("header fields that are cut off", PROTOCOL_ERROR)
            payload = payload[5:]
        self._block = _Block(stream, bool(flags & END_STREAM), bytearray())
        return self._add(flags, payload)

    def go_on(self, kind: int, flags: int, stream: int, payload: bytes) -> Headers | None:
        """Takes the frame that comes while ``midway``, or a CONTINUATION; as ``begin``."""
        if self._block is None:
            raise Broken("header fields without their beginning", PROTOCOL_ERROR)
        if kind != CONTINUATION or stream != self._block.stream:
            raise Broken("header fields without their end", PROTOCOL_ERROR)
        return self._add(flags, payload)

    def _add(self, flags: int, payload: bytes) -> Headers | None:
        block = self._block
        assert block is not None
        block.payload += payload
        if len(block.payload) > HEADER_BYTES:
            raise TooLarge("more header fields than allowed", ENHANCE_YOUR_CALM)
        self.midway = not flags & END_HEADERS
        if self.midway:
            return None
        self._block = None
        try:
            # Also those of a stream that nobody waits for: they change the decoder's table.
            fields = self._decoder.decode(bytes(block.payload))
        except hpack.OversizedHeaderListError:
            raise TooLarge("more header fields than allowed", ENHANCE_YOUR_CALM) from None
        except hpack.HPACKError as error:
            raise Broken(f"header fields that cannot be read: {error}", COMPRESSION_ERROR) from None
        return Headers(block.stream, [(str(name), str(value)) for name, value in fields], block.end)
