"""Values and tensors that are not what their space asks for."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    Graph,
    GraphInstance,
    MultiBinary,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from farsim import spaces, tensors
from farsim.errors import InvalidTensor
from farsim.v1 import tensor_pb2
from tests.farsim.space_strategies import (
    all_spaces,
    assert_same,
    value_lists,
)

F4 = tensor_pb2.DTYPE_FLOAT32


def garble(encoded, data):
    """Changes one thing about a list of tensors."""
    how = data.draw(st.sampled_from(["drop", "add", "data", "byte", "shape", "dtype", "count"]))
    if how == "add" or not encoded:
        encoded.append(tensors.pack(np.arange(data.draw(st.integers(0, 3)))))
        return
    index = data.draw(st.integers(0, len(encoded) - 1))
    tensor = encoded[index]
    if how == "drop":
        del encoded[index]
    elif how == "data":
        tensor.data = data.draw(st.sampled_from([tensor.data[:-1], tensor.data + b"\0"]))
    elif how == "byte" and tensor.data:
        at = data.draw(st.integers(0, len(tensor.data) - 1))
        tensor.data = (
            tensor.data[:at] + data.draw(st.binary(min_size=1, max_size=1)) + tensor.data[at + 1 :]
        )
    elif how == "shape":
        sizes = st.sampled_from([-(2**63), -1, 0, 1, 2, 2**31, 2**62, 2**63 - 1])
        shape = list(tensor.shape) or [1]
        shape[data.draw(st.integers(0, len(shape) - 1))] = data.draw(sizes)
        tensor.shape[:] = shape
    elif how == "dtype":
        tensor.dtype = data.draw(st.integers(-1, 14))
    elif (
        how == "count"
        and tensor.dtype == tensor_pb2.DTYPE_INT64
        and len(tensor.shape) == 1
        and 0 < tensor.shape[0] == len(tensor.data) / 8
    ):
        numbers = np.array(tensors.unpack(tensor))
        numbers[data.draw(st.integers(0, len(numbers) - 1))] = data.draw(
            st.sampled_from([-(2**63), -1, 0, 1, 1024, 2**31, 2**62, 2**63 - 1])
        )
        tensor.data = tensors.pack(numbers).data


class TestEncoding:
    @pytest.mark.parametrize(
        ("space", "values", "path", "complaint"),
        [
            (
                Box(-1, 1, (3,)),
                np.zeros((2, 4), "f4"),
                "",
                r"expected float32 \[2, 3\], found float32 \[2, 4\]",
            ),
            (
                Box(-1, 1, (3,)),
                np.zeros((3, 3), "f4"),
                "",
                r"expected float32 \[2, 3\], found float32 \[3, 3\]",
            ),
            (Box(-1, 1, (3,)), np.zeros(3, "f4"), "", "expected float32"),
            (Box(-1, 1, (1,)), [[1], [1, 2]], "", "expected an array, found list"),
            (Box(-1, 1, ()), [None, None], "", "expected float32, found object"),
            (Box(-1, 1, ()), np.array([1j, 2]), "", "expected float32, found complex128"),
            (
                Box(-1, 1, ()),
                np.array([1e300, 2]),
                "",
                "values that fit float32, found float64 beyond",
            ),
            (Box(0, 1, (), np.bool_), np.array([0, 1]), "", "expected bool, found int64"),
            (Discrete(5), np.array([1.0, 2.0]), "", "expected int64, found float64; convert"),
            (
                Discrete(5, dtype=np.uint8),
                np.array([1, 256]),
                "",
                "fit uint8, found int64 from 1 to 256",
            ),
            (
                Discrete(5, dtype=np.uint8),
                np.array([-1, 0]),
                "",
                "fit uint8, found int64 from -1 to 0",
            ),
            (Discrete(5), np.array([1, 2**63], np.uint64), "", "fit int64"),
            (Discrete(5), "ab", "", "expected int64"),
            (Text(3), ("a",), "", "expected 2 rows, found tuple of 1"),
            (Text(3), "ab", "", "expected 2 rows, found str"),
            (Text(3), ("a", 1), "", "a text in each row, found int"),
            (Text(3), ("a", "\ud800"), "", "UTF-8"),
            (Tuple((Discrete(2),)), np.zeros((2, 1), "i8"), "", "a tuple of 1, found ndarray of 2"),
            (Tuple((Discrete(2),)), (), "", "a tuple of 1, found tuple of 0"),
            (Tuple((Discrete(2),)), ([1],), "0", r"^at '0': expected int64 \[2\]"),
            (Dict(a=Discrete(2)), [1, 2], "", "a dict, found list of 2"),
            (Dict(a=Discrete(2)), {"b": [1, 2]}, "", r"members \['a'\], found \['b'\]"),
            (Dict(a=Dict(b=Discrete(2))), {"a": {"b": [1]}}, "a/b", "^at 'a/b': "),
            (Sequence(Discrete(2)), ((1,), 1), "", "a tuple of elements in each row, found int"),
            (Sequence(Discrete(2)), ((1,), (0.5,)), "element", "expected int64, found float64"),
            (
                Sequence(Discrete(2), stack=True),
                ([1], 1),
                "element",
                "expected an array or a tuple",
            ),
            (
                Sequence(Tuple((Discrete(2), Discrete(2))), stack=True),
                (([1], [1]), ([1], [1, 1])),
                "element/1",
                "expected int64",
            ),
            (Graph(Discrete(2), None), (1, 2), "", "a GraphInstance in each row, found int"),
            (
                Graph(Discrete(2), None),
                (GraphInstance(None, None, None),) * 2,
                "node",
                "found NoneType",
            ),
            (
                Graph(Discrete(2), None),
                (GraphInstance(np.array([1]), np.array([1]), None),) * 2,
                "edge",
                "expected 0 rows",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                (GraphInstance(np.array([1]), np.array([1]), None),) * 2,
                "links",
                r"int32 \[1, 2\]",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                (GraphInstance(np.array([1]), np.array([1]), np.array([[0, 1]])),) * 2,
                "links",
                "indices of the 1 nodes of row 0, found 1",
            ),
            (OneOf((Discrete(2),)), (1, 2), "", r"expected \(member, value\)"),
            (OneOf((Discrete(2),)), ((1, 1), (0, 1)), "", "from 0 to 0, found 1"),
            (OneOf((Discrete(2),)), ((-1, 1), (0, 1)), "", "from 0 to 0, found -1"),
            (OneOf((Discrete(2),)), (("0", 1), (0, 1)), "", "found '0'"),
            (
                OneOf((Discrete(2),)),
                ((0, [1, 1]), (0, [1, 1])),
                "0",
                r"^at '0': expected int64 \[2\]",
            ),
            (
                Sequence(Tuple(())),
                (((),) * 2000, ()),
                "",
                "at most 1024 elements that hold nothing",
            ),
        ],
    )
    def test_values_that_do_not_fit_are_not_sent(self, space, values, path, complaint):
        with pytest.raises(InvalidTensor, match=complaint) as caught:
            spaces.encode(space, values, 2)
        assert caught.value.subject == path


class TestDecoding:
    @pytest.mark.parametrize(
        ("space", "arrays", "path", "complaint"),
        [
            (Box(0, 1, (3,)), [], "", "expected 1 tensors, found 0"),
            (Box(0, 1, (3,)), [np.zeros((2, 3), "f4")] * 2, "", "expected 1 tensors, found 2"),
            (
                Box(0, 1, (3,)),
                [np.zeros((3, 2), "f4")],
                "",
                r"float32 \[2, 3\], found float32 \[3, 2\]",
            ),
            (Box(0, 1, (3,)), [np.zeros((2, 3), "f8")], "", "found float64"),
            (
                Box(0, 1, (3,)),
                [tensor_pb2.Tensor(dtype=F4, shape=[2, 3], data=b"\0" * 23)],
                "",
                "24 bytes .* found 23",
            ),
            (
                Box(0, 1, (3,)),
                [tensor_pb2.Tensor(dtype=F4, shape=[-2, -3], data=b"\0" * 24)],
                "",
                "negative",
            ),
            (
                Box(0, 1, (), np.bool_),
                [tensor_pb2.Tensor(dtype=1, shape=[2], data=b"\0\2")],
                "",
                "bytes 0 and 1",
            ),
            (Dict(a=Tuple((Discrete(2),))), [np.zeros(3, "i8")], "a/0", "^at 'a/0': expected"),
            (Text(3), [np.array([1, 2]), np.zeros(2, "u1")], "", r"uint8 \[3\], found uint8 \[2\]"),
            (
                Text(3),
                [np.array([1, -1]), np.zeros(0, "u1")],
                "lengths",
                "no negative number, found -1",
            ),
            (
                Text(3),
                [np.array([1]), np.zeros(1, "u1")],
                "lengths",
                r"int64 \[2\], found int64 \[1\]",
            ),
            (
                Text(3),
                [np.array([2**62, 2**63 - 1]), np.zeros(0, "u1")],
                "lengths",
                "at most 2147483647 in all",
            ),
            (
                Text(3),
                [np.array([2**31 - 1, 1]), np.zeros(0, "u1")],
                "lengths",
                "at most 2147483647 in all",
            ),
            (Text(3), [np.array([1, 1]), np.uint8([97, 255])], "", "UTF-8 in row 1"),
            (Text(3), [np.array([1, 1]), np.frombuffer("é".encode(), "u1")], "", "UTF-8 in row 0"),
            (Text(3), [np.array([3, 0]), np.uint8([0xED, 0xA0, 0x80])], "", "UTF-8 in row 0"),
            (
                Sequence(Discrete(2)),
                [np.array([1, 1]), np.zeros(3, "i8")],
                "element",
                r"int64 \[2\]",
            ),
            (
                Sequence(Tuple(())),
                [np.array([2**30, 1])],
                "",
                "1024 elements that hold nothing, found 1073741825",
            ),
            (
                Sequence(Box(0, 1, (0,)), stack=True),
                [np.array([0, 2**30]), tensor_pb2.Tensor(dtype=F4, shape=[2**30, 0])],
                "",
                "hold nothing",
            ),
            (
                Graph(Discrete(2), None),
                [np.array([1, 1]), np.array([0, 1]), np.zeros(2, "i8")],
                "",
                "no edges, .* found 1",
            ),
            (
                Graph(Discrete(2), None),
                [np.array([1, -1]), np.array([0, 0]), np.zeros(0, "i8")],
                "nodes",
                "negative",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                [
                    np.array([1, 2]),
                    np.array([0, 1]),
                    np.zeros(3, "i8"),
                    np.zeros(1, "i8"),
                    np.int32([[0, 2]]),
                ],
                "links",
                "the 2 nodes of row 1, found 2",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                [
                    np.array([1, 2]),
                    np.array([1, 0]),
                    np.zeros(3, "i8"),
                    np.zeros(1, "i8"),
                    np.int32([[-1, 0]]),
                ],
                "links",
                "the 1 nodes of row 0, found -1",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                [
                    np.array([1, 2]),
                    np.array([1, 0]),
                    np.zeros(3, "i8"),
                    np.zeros(1, "i8"),
                    np.array([[0, 0]]),
                ],
                "links",
                "int32 .* found int64",
            ),
            (
                OneOf((Discrete(2), MultiBinary(1))),
                [np.array([0, 2]), np.zeros(1, "i8"), np.zeros((1, 1), "i1")],
                "members",
                "from 0 to 1, found 2",
            ),
            (
                OneOf((Discrete(2), MultiBinary(1))),
                [np.array([-1, 1]), np.zeros(1, "i8"), np.zeros((1, 1), "i1")],
                "members",
                "found -1",
            ),
            (
                OneOf((Discrete(2), MultiBinary(1))),
                [np.array([0, 1]), np.zeros(2, "i8"), np.zeros((0, 1), "i1")],
                "0",
                r"int64 \[1\], found int64 \[2\]",
            ),
        ],
    )
    def test_they_are_refused_with_what_and_where(self, space, arrays, path, complaint):
        encoded = [tensors.pack(part) if isinstance(part, np.ndarray) else part for part in arrays]
        with pytest.raises(InvalidTensor, match=complaint) as caught:
            spaces.decode(space, encoded, 2)
        assert caught.value.subject == path

    @settings(max_examples=300)
    @given(all_spaces, st.data())
    def test_garbled_tensors_never_raise_anything_else(self, space, data):
        singles = data.draw(value_lists(space))
        rows = len(singles)
        encoded = spaces.encode(space, spaces.batch(space, singles), rows)
        for _ in range(data.draw(st.integers(1, 2))):
            garble(encoded, data)
        try:
            decoded = spaces.decode(space, encoded, rows)
        except InvalidTensor:
            return
        # What passes is what the space and the number of rows ask for.
        again = spaces.encode(space, decoded, rows)
        assert_same(decoded, spaces.decode(space, again, rows))
        spaces.outside(space, decoded, rows)
        spaces.unbatch(space, decoded, rows)
