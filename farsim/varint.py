"""Numbers as protobuf writes them on the wire, seven bits a byte.

See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations


def encoded(number: int) -> bytes:
    """The bytes of a number that is not negative."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


#: No number has more, and a peer that writes more is not read on.
_MOST_BYTES = 10


def decoded(data: bytes, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it.

    Raises:
        IndexError: the bytes end before the number does, or it has more than 64 bits can take.
    """
    number = data[at]
    if number < 0x80:
        return number, at + 1
    number = 0
    for place in range(_MOST_BYTES):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise IndexError("a number of more than ten bytes")
