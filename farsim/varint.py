"""Numbers as protobuf writes them on the wire, seven bits a byte.

See https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations


def encoded(number: int) -> bytes:
    """The bytes of a number that is not negative."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def decoded(data: bytes, at: int) -> tuple[int, int]:
    """The number at a position, and the position after it.

    Raises:
        IndexError: the bytes end before the number does.
    """
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
