"""Messages whose arrays have known dtypes and shapes: their bytes, without protobuf objects.

Such a message is the same bytes every time, but for the elements of its arrays. A ``Layout`` is
those bytes, with gaps for the elements:

    >>> import numpy as np
    >>> from farsim.layout import Layout, delimited, tensor
    >>> layout = Layout(delimited(1, tensor(np.dtype(np.int16), (2,))))
    >>> b"".join(layout.fill([np.array([1, 2], np.int16)]))
    b'\\n\\x0b\\x08\\x07\\x12\\x01\\x02\\x1a\\x04\\x01\\x00\\x02\\x00'
    >>> layout.read(b'\\n\\x0b\\x08\\x07\\x12\\x01\\x02\\x1a\\x04\\x01\\x00\\x02\\x00')
    [array([1, 2], dtype=int16)]

What a ``Layout`` writes is what protobuf would write. What it does not recognise, it leaves to
protobuf: the contract lets a peer write the fields of a message in another way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from farsim import tensors, varint
from farsim.v1 import tensor_pb2

_DELIMITED = 2
#: Arrays of fewer bytes are cheaper to copy than to lend out as buffers.
_SMALL_BYTES = 4096
_DATA = tensor_pb2.Tensor.DATA_FIELD_NUMBER


@dataclass(frozen=True)
class Gap:
    """Room for the elements of an array, little-endian and in C order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


#: The bytes of a message, or of a part of it.
Pieces: TypeAlias = Sequence[bytes | Gap]


def delimited(number: int, pieces: Pieces) -> list[bytes | Gap]:
    """A length-delimited field that holds ``pieces``."""
    length = sum(piece.size if isinstance(piece, Gap) else len(piece) for piece in pieces)
    return [header(number, length), *pieces]


@lru_cache(maxsize=4096)
def header(number: int, length: int) -> bytes:
    """What comes before the ``length`` bytes of a length-delimited field."""
    return varint.encoded(number << 3 | _DELIMITED) + varint.encoded(length)


def tensor(dtype: np.dtype[Any], shape: tuple[int, ...]) -> list[bytes | Gap]:
    """A ``Tensor`` of ``dtype``, of either byte order, and ``shape``.

    Raises:
        Unsupported: the contract has no such dtype.
    """
    code = tensors.code_of(dtype)
    gap = Gap(tensors.dtype_of(code), shape)
    start = tensor_pb2.Tensor(dtype=code, shape=shape).SerializeToString()
    return [start, *(delimited(_DATA, [gap]) if gap.size else [gap])]


class Layout:
    """The bytes of a message, or of its first fields, with gaps for the elements of arrays.

    Attributes:
        size: how many bytes they are.
    """

    def __init__(self, pieces: Pieces) -> None:
        #: What is before each gap and after the last one, and where.
        self._constants: list[tuple[int, bytes]] = []
        #: Start, end, dtype and shape of each gap.
        self._gaps: list[tuple[int, int, np.dtype[Any], tuple[int, ...]]] = []
        at, constant = 0, b""
        for piece in pieces:
            if isinstance(piece, Gap):
                self._constants.append((at - len(constant), constant))
                self._gaps.append((at, at + piece.size, piece.dtype, piece.shape))
                at, constant = at + piece.size, b""
            else:
                at, constant = at + len(piece), constant + piece
        self._constants.append((at - len(constant), constant))
        self.size = at

    def fill(self, arrays: Iterable[NDArray[Any]]) -> list[Any] | None:
        """The bytes with the elements of ``arrays``, as buffers to join; they may be shared.

        None if an array has not exactly the dtype and the shape of its gap.
        """
        parts: list[Any] = []
        for array, gap, (_, constant) in zip(arrays, self._gaps, self._constants, strict=False):
            start, end, dtype, shape = gap
            if array.dtype != dtype or array.shape != shape:
                return None
            parts.append(constant)
            large = end - start > _SMALL_BYTES and array.flags.c_contiguous
            parts.append(array if large else array.tobytes())
        parts.append(self._constants[-1][1])
        return parts

    def read(self, raw: bytes, at: int = 0) -> list[NDArray[Any]] | None:
        """The arrays in the bytes from ``at`` on, read-only; None if the bytes are others.

        They are others also where a bool is neither 0 nor 1. Arrays of one byte an element are
        views of ``raw``.
        """
        for start, constant in self._constants:
            if not raw.startswith(constant, at + start):
                return None
        arrays = []
        for start, end, dtype, shape in self._gaps:
            if dtype.itemsize == 1:
                array: NDArray[Any] = np.ndarray(shape, dtype, raw, at + start)
                if dtype.kind == "b" and not _are_bools(raw[at + start : at + end]):
                    return None
            else:
                # A copy, which is aligned; NumPy is slow with arrays that are not.
                array = np.ndarray(shape, dtype, raw[at + start : at + end])
            arrays.append(array)
        return arrays


def _are_bools(data: bytes) -> bool:
    if len(data) <= _SMALL_BYTES:
        return not data.translate(None, b"\0\1")
    return bool(np.frombuffer(data, np.uint8).max() <= 1)
