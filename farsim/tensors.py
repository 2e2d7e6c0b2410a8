"""NumPy arrays as ``farsim.v1.Tensor`` and back.

>>> import numpy as np
>>> from farsim import tensors
>>> message = tensors.pack(np.array([[1, 2]], np.int16))
>>> message.data
b'\\x01\\x00\\x02\\x00'
>>> tensors.unpack(message)
array([[1, 2]], dtype=int16)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farsim.errors import InvalidTensor, Unsupported
from farsim.v1 import tensor_pb2 as pb

#: The contract's bound, which is also that of NumPy before 2.0.
MAX_DIMENSIONS = 32

_DTYPES: dict[pb.DType, np.dtype[Any]] = {
    pb.DTYPE_BOOL: np.dtype(np.bool_),
    pb.DTYPE_UINT8: np.dtype(np.uint8),
    pb.DTYPE_UINT16: np.dtype("<u2"),
    pb.DTYPE_UINT32: np.dtype("<u4"),
    pb.DTYPE_UINT64: np.dtype("<u8"),
    pb.DTYPE_INT8: np.dtype(np.int8),
    pb.DTYPE_INT16: np.dtype("<i2"),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_FLOAT16: np.dtype("<f2"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def pack(array: NDArray[Any]) -> pb.Tensor:
    """The message for an array of any memory layout and byte order.

    Raises:
        Unsupported: a dtype that the contract lacks, or more than 32 dimensions.
    """
    array = np.asarray(array)
    code = _CODES.get(array.dtype)
    if code is None:
        code = code_of(array.dtype)
        array = array.astype(_DTYPES[code])
    if array.ndim > MAX_DIMENSIONS:
        raise Unsupported(f"a tensor has at most {MAX_DIMENSIONS} dimensions, not {array.ndim}")
    return pb.Tensor(dtype=code, shape=array.shape, data=array.tobytes())


def unpack(tensor: pb.Tensor) -> NDArray[Any]:
    """The array in a message: read-only, and without a copy of the elements.

    Raises:
        InvalidTensor: dtype, shape and bytes do not agree, or a bool is neither 0 nor 1.
    """
    dtype = dtype_of(tensor.dtype)
    shape = tuple(tensor.shape)
    data = tensor.data
    if shape and (len(shape) > MAX_DIMENSIONS or min(shape) < 0):
        raise InvalidTensor(
            f"expected at most {MAX_DIMENSIONS} dimensions, none of them negative, "
            f"found {_brief(shape)}"
        )
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidTensor(
            f"expected {expected} bytes for {describe(dtype, shape)}, found {len(data)}"
        )
    try:
        array = np.ndarray(shape, dtype, data)
    except ValueError as error:
        # An empty tensor whose other dimensions are beyond the address space.
        raise InvalidTensor(f"expected a shape that fits memory, found {shape}") from error
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise InvalidTensor(
            f"expected bytes 0 and 1 for {describe(dtype, shape)}, "
            f"found {array.view(np.uint8).max()}"
        )
    return array


def dtype_of(code: pb.DType) -> np.dtype[Any]:
    """The NumPy dtype, little-endian, of a ``DType``.

    Raises:
        InvalidTensor: ``DTYPE_UNSPECIFIED``, or a number that the contract does not have.
    """
    try:
        return _DTYPES[code]
    except KeyError:
        raise InvalidTensor(
            f"expected one of the dtypes {_dtype_names()}, found {dtype_name(code)}"
        ) from None


def code_of(dtype: np.dtype[Any]) -> pb.DType:
    """The ``DType`` of a NumPy dtype of either byte order.

    Raises:
        Unsupported: the contract has no such dtype.
    """
    code = _CODES.get(dtype)
    if code is None:
        code = _CODES.get(dtype.newbyteorder("<"))
    if code is None:
        raise Unsupported(f"dtype {dtype} cannot travel; use one of {_dtype_names()}")
    return code


def dtype_name(code: pb.DType) -> str:
    """What people call a ``DType``: "float32"; "unspecified" or "37" if there is none."""
    if code in _DTYPES:
        return _DTYPES[code].name
    return "unspecified" if code == pb.DTYPE_UNSPECIFIED else str(code)


def describe(dtype: np.dtype[Any], shape: Sequence[int]) -> str:
    """Dtype and shape for a message to people: "float32 [64, 91]"."""
    return f"{dtype.name} {_brief(shape)}"


def _brief(shape: Sequence[int]) -> str:
    """``shape``, but never so long that it floods a log."""
    if len(shape) > MAX_DIMENSIONS:
        return f"{len(shape)} dimensions"
    return str(list(shape))


def _dtype_names() -> str:
    return ", ".join(dtype.name for dtype in _DTYPES.values())
