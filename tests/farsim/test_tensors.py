"""Arrays as tensors and back; what a peer may get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from farsim import tensors
from farsim.errors import InvalidTensor, Unsupported
from farsim.v1 import tensor_pb2 as pb
from tests.farsim.space_strategies import DTYPES

ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


@given(ARRAYS)
def test_an_array_comes_back_as_it_was(array):
    sent = tensors.pack(array).SerializeToString()
    received = tensors.unpack(pb.Tensor.FromString(sent))
    assert received.dtype == array.dtype
    np.testing.assert_array_equal(received, array, strict=True)


@pytest.mark.parametrize(
    ("array", "dtype", "shape", "data"),
    [
        (np.array([True, False]), pb.DTYPE_BOOL, [2], "0100"),
        (np.array([0, 255], np.uint8), pb.DTYPE_UINT8, [2], "00ff"),
        (np.array([258], np.uint16), pb.DTYPE_UINT16, [1], "0201"),
        (np.array([1], np.uint32), pb.DTYPE_UINT32, [1], "01000000"),
        (np.array([2**64 - 2], np.uint64), pb.DTYPE_UINT64, [1], "feffffffffffffff"),
        (np.array([-1], np.int8), pb.DTYPE_INT8, [1], "ff"),
        (np.array([-2], np.int16), pb.DTYPE_INT16, [1], "feff"),
        (
            np.array([[1, 2], [3, 4]], np.int32),
            pb.DTYPE_INT32,
            [2, 2],
            "01000000020000000300000004000000",
        ),
        (np.array(-2, np.int64), pb.DTYPE_INT64, [], "feffffffffffffff"),
        (np.array([1.0], np.float16), pb.DTYPE_FLOAT16, [1], "003c"),
        (np.array([1.0], np.float32), pb.DTYPE_FLOAT32, [1], "0000803f"),
        (np.array([1.0], np.float64), pb.DTYPE_FLOAT64, [1], "000000000000f03f"),
        (np.zeros((0, 3), np.float32), pb.DTYPE_FLOAT32, [0, 3], ""),
    ],
)
def test_the_bytes_are_those_of_the_contract(array, dtype, shape, data):
    message = tensors.pack(array)
    assert (message.dtype, list(message.shape), message.data.hex()) == (dtype, shape, data)


def test_any_memory_layout_and_byte_order_is_sent_the_same_way():
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    expected = tensors.pack(array)
    assert tensors.pack(np.asfortranarray(array)) == expected
    assert tensors.pack(array.astype(">i4")) == expected
    assert tensors.pack(array.repeat(2, axis=1)[:, ::2]) == expected
    assert tensors.pack(np.broadcast_to(np.int32(7), (2, 2))) == tensors.pack(
        np.full((2, 2), 7, np.int32)
    )


def test_the_array_is_a_read_only_view_of_the_bytes():
    array = tensors.unpack(tensors.pack(np.arange(3)))
    assert isinstance(array.base, bytes)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize(
    "array",
    [np.array([1j]), np.array(["a"]), np.array([None]), np.array([1], "m8[s]"), np.longdouble(1)],
)
def test_other_dtypes_cannot_travel(array):
    with pytest.raises(Unsupported, match="use one of bool, uint8"):
        tensors.pack(array)


@pytest.mark.skipif(int(np.__version__[0]) < 2, reason="NumPy 1 has no arrays of 33 dimensions")
def test_an_array_of_too_many_dimensions_cannot_travel():
    with pytest.raises(Unsupported, match="at most 32 dimensions, not 33"):
        tensors.pack(np.zeros((1,) * 33))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (pb.Tensor(shape=[1], data=b"\0"), "dtypes bool, uint8.* found unspecified"),
        (pb.Tensor(dtype=37, shape=[1], data=b"\0"), "found 37"),
        (
            pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2], data=b"\0" * 7),
            r"8 bytes for float32 \[2\], found 7",
        ),
        (pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2], data=b"\0" * 9), "found 9"),
        (pb.Tensor(dtype=pb.DTYPE_FLOAT32, data=b""), r"4 bytes for float32 \[\], found 0"),
        (pb.Tensor(dtype=pb.DTYPE_INT8, shape=[0, 3], data=b"\0"), "found 1"),
        (
            pb.Tensor(dtype=pb.DTYPE_INT8, shape=[-1, -1], data=b"\0"),
            r"none of them negative, found \[-1, -1\]",
        ),
        (pb.Tensor(dtype=pb.DTYPE_INT8, shape=[2**62, 4], data=b""), "found 0"),
        (pb.Tensor(dtype=pb.DTYPE_INT8, shape=[2**62, 2**62, 0], data=b""), "fits memory"),
        (pb.Tensor(dtype=pb.DTYPE_INT8, shape=[1] * 33, data=b"\0"), "found 33 dimensions"),
        (pb.Tensor(dtype=pb.DTYPE_BOOL, shape=[3], data=b"\0\1\2"), "bytes 0 and 1 .* found 2"),
    ],
)
def test_what_does_not_agree_is_refused(message, complaint):
    with pytest.raises(InvalidTensor, match=complaint):
        tensors.unpack(message)


def test_dtypes_have_names_for_people():
    assert tensors.dtype_name(pb.DTYPE_FLOAT16) == "float16"
    assert tensors.dtype_name(pb.DTYPE_UNSPECIFIED) == "unspecified"
    assert tensors.dtype_name(99) == "99"
    assert tensors.describe(np.dtype("f4"), (2, 3)) == "float32 [2, 3]"


def test_every_dtype_of_the_contract_has_its_numpy_dtype():
    for name, code in pb.DType.items():
        if code:
            assert tensors.dtype_of(code).name == name.removeprefix("DTYPE_").lower()
            assert tensors.code_of(tensors.dtype_of(code)) == code
            assert tensors.code_of(tensors.dtype_of(code).newbyteorder(">")) == code
