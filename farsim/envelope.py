"""The envelopes of ``SimulatorGateway.Attach``, without reading what is in them.

``ToSimulator.request`` and ``FromSimulator.reply`` have the same field number, so both look alike
on the wire: a tag, the length, and the bytes that a stream of ``Simulator.Run`` would carry.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from farsim import varint
from farsim.v1 import gateway_pb2, simulator_pb2

#: The full name of the service where simulator servers dial in.
GATEWAY_SERVICE = "farsim.v1.SimulatorGateway"

#: Field 2, length-delimited; see https://protobuf.dev/programming-guides/encoding/.
_TAG = b"\x12"
_DELIMITED = 2
_SEQUENCE = simulator_pb2.SimReply.SEQUENCE_FIELD_NUMBER << 3

_Envelope = TypeVar("_Envelope", gateway_pb2.FromSimulator, gateway_pb2.ToSimulator)


def seal(message: bytes) -> bytes:
    """A serialised ``SimRequest`` as a ``ToSimulator``, or ``SimReply`` as a ``FromSimulator``."""
    return b"".join((_TAG, varint.encoded(len(message)), message))


def unseal(kind: type[_Envelope], raw: bytes) -> bytes | _Envelope:
    """What is in an envelope.

    Returns:
        The very bytes of a request or reply; the envelope itself if it holds something else.

    Raises:
        DecodeError: the bytes are no ``kind``.
    """
    if raw[:1] == _TAG:
        try:
            length, begin = varint.decoded(raw, 1)
        except IndexError:
            raise DecodeError("a truncated message") from None
        if begin + length == len(raw):
            return raw[begin:]
    envelope = kind.FromString(raw)
    inner: Message | None = None
    if isinstance(envelope, gateway_pb2.FromSimulator):
        inner = envelope.reply if envelope.HasField("reply") else None
    elif envelope.HasField("request"):
        inner = envelope.request
    return envelope if inner is None else inner.SerializeToString()


def peek(reply: bytes) -> tuple[int, int]:
    """The number of a serialised ``SimReply``, and the field number of what it holds.

    Both are 0 where they are absent, or the bytes are no such message.
    """
    sequence = kind = at = 0
    try:
        while at < len(reply):
            tag, at = varint.decoded(reply, at)
            if tag == _SEQUENCE:
                sequence, at = varint.decoded(reply, at)
            elif tag & 7 == _DELIMITED:
                kind = tag >> 3
                length, at = varint.decoded(reply, at)
                at += length
            else:
                return 0, 0
    except IndexError:
        return 0, 0
    return (sequence, kind) if at == len(reply) else (0, 0)
