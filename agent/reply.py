"""Replies, read only as far as someone has to."""

from __future__ import annotations

import contextlib

from google.protobuf.message import DecodeError

from farsim import varint
from farsim.v1 import simulator_pb2 as pb

_SEQUENCE_TAG = pb.SimReply.SEQUENCE_FIELD_NUMBER << 3
_BATCH_TAG = pb.SimReply.BATCH_FIELD_NUMBER << 3 | 2
_TIMING_TAG = pb.SimReply.TIMING_FIELD_NUMBER << 3 | 2


class Reply:
    """A serialised ``SimReply``. That of a batch is not parsed here, as it may be large.

    Args:
        raw: its bytes.

    Attributes:
        raw: as given.
        sequence: its number, 0 for none.
        kind: the name of what it holds; None for nothing, and for bytes that are no ``SimReply``.
        begin: of a batch, where its bytes begin in ``raw``.
        end: of a batch, where they end.
        message: all of it, but of a batch nothing.
    """

    __slots__ = ("begin", "end", "kind", "message", "raw", "sequence")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.kind: str | None
        self.message = _NOTHING
        found = _numbered_batch(raw)
        if found is not None:
            self.sequence, self.begin, self.end = found
            self.kind = "batch"
            return
        with contextlib.suppress(DecodeError):
            self.message = pb.SimReply.FromString(raw)
        self.sequence, self.kind = self.message.sequence, self.message.WhichOneof("reply")
        if self.kind == "batch":
            # Written in another order than that of the fields' numbers.
            self.raw = self.message.batch.SerializeToString()
            self.begin, self.end = 0, len(self.raw)


_NOTHING = pb.SimReply()


def _numbered_batch(raw: bytes) -> tuple[int, int, int] | None:
    """The number, and where the batch begins and ends, of a reply with nothing else but timing.

    None if it is something else, or its fields are in another order.
    """
    try:
        if raw[0] != _SEQUENCE_TAG:
            return None
        sequence, at = varint.decoded(raw, 1)
        if raw[at] != _BATCH_TAG:
            return None
        length, begin = varint.decoded(raw, at + 1)
        end = begin + length
        if end != len(raw):
            if raw[end] != _TIMING_TAG:
                return None
            length, after = varint.decoded(raw, end + 1)
            if after + length != len(raw):
                return None
    except IndexError:
        return None
    return sequence, begin, end
