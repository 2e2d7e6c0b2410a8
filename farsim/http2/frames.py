"""The frames of HTTP/2 (RFC 9113), as far as gRPC needs them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hpack.hpack import encode_integer

#: What a client says first.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9
)  # fmt: skip
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = 2, 3, 4, 5, 6
#: A setting that only this package knows, out of those that are free for such use (RFC 9113, 11.3;
#: others ignore it): whoever says it carries one stream at a time, and means the next hop with it.
ONE_STREAM = 0xFA51

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 3, 7, 8
FRAME_SIZE_ERROR, COMPRESSION_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY = 6, 9, 11, 12

#: Of a stream and of the connection: the largest, and what holds until the receiver says otherwise.
MAX_WINDOW, DEFAULT_WINDOW = 2**31 - 1, 65535

#: The bits of a stream's number, and of an increment; the one before them is reserved.
NUMBER = 2**31 - 1

#: Size (in two parts), kind, flags, stream; then also the prefix of a gRPC message.
frame_header = struct.Struct(">BHBBI")
prefixed_header = struct.Struct(">BHBBIBI")
setting = struct.Struct(">HI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame, of less than 2^24 bytes."""
    size = len(payload)
    return frame_header.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(setting.pack(*value) for value in values))


def greeting(client: bool, window: int, frame_bytes: int, header_bytes: int) -> bytes:
    """What an end says of itself first, after the preface if it is the client.

    Args:
        client: which end.
        window: what the peer may send before it is told that there is room for more.
        frame_bytes: the largest frame that may come.
        header_bytes: the most header fields, decoded.
    """
    values = [
        (INITIAL_WINDOW, window),
        (MAX_FRAME, frame_bytes),
        (MAX_HEADER_LIST, header_bytes),
        (ONE_STREAM, 1),
        (ENABLE_PUSH, 0) if client else (MAX_STREAMS, 1),
    ]
    preface = PREFACE if client else b""
    more = struct.pack(">I", window - DEFAULT_WINDOW)
    return preface + settings(values) + frame(WINDOW_UPDATE, 0, 0, more)


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Header fields, compressed by nothing, so that no state is shared with the peer."""
    block = bytearray()
    for name, value in fields:
        block.append(0)
        for text in (name.encode(), value.encode()):
            block += encode_integer(len(text), 7)
            block += text
    return bytes(block)


def headers(stream: int, flags: int, fields: Iterable[tuple[str, str]], frame_bytes: int) -> bytes:
    """A HEADERS frame, and those that go on with it where it would be too large."""
    block = header_block(fields)
    first, rest = block[:frame_bytes], block[frame_bytes:]
    whole = frame(HEADERS, flags | (0 if rest else END_HEADERS), stream, first)
    while rest:
        first, rest = rest[:frame_bytes], rest[frame_bytes:]
        whole += frame(CONTINUATION, 0 if rest else END_HEADERS, stream, first)
    return whole


def goodbye(last: int, code: int) -> bytes:
    """A GOAWAY frame; ``last`` is the last stream that has been or will be answered."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code))


def reset(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))
