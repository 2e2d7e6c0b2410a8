"""What comes over an HTTP/2 connection besides bytes, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from farsim.http2.frames import NO_ERROR


class Broken(Exception):
    """The connection is of no more use.

    Attributes:
        code: the HTTP/2 error that the peer was or is to be told.
    """

    def __init__(self, message: str, code: int = NO_ERROR) -> None:
        super().__init__(message)
        self.code = code


class TooLarge(Broken):
    """A message, or header fields, over the size limit."""


@dataclass(frozen=True)
class Headers:
    """Header fields of the stream, its trailers included.

    Attributes:
        stream: its number.
        fields: names and values, in order.
        end: whether the peer will send no more on this stream.
    """

    stream: int
    fields: list[tuple[str, str]]
    end: bool


@dataclass(frozen=True)
class End:
    """The peer will send no more on the stream.

    Attributes:
        code: None if it has said all; else the HTTP/2 error with which it gave up the stream.
    """

    code: int | None = None


#: What a stream brings: messages, header fields, its end.
Event: TypeAlias = "bytes | Headers | End"
