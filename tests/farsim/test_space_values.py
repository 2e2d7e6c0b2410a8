"""Batches of values of every kind as tensors and back; what a peer may get wrong."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import Space
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
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from hypothesis import given
from hypothesis import strategies as st

from farsim import spaces, tensors
from farsim.errors import InvalidAction, Unsupported
from farsim.v1 import tensor_pb2
from tests.farsim.space_strategies import (
    EXAMPLES,
    all_spaces,
    array_spaces,
    assert_same,
    single_values,
    value_lists,
)

EACH = pytest.mark.parametrize("space", EXAMPLES.values(), ids=EXAMPLES)


def sent_tensors(encoded):
    message = tensor_pb2.Value(tensors=encoded).SerializeToString()
    return tensor_pb2.Value.FromString(message).tensors


def sample(space):
    """A sample as ``unbatch`` gives it, also where Gymnasium's own is not of the space's dtype."""
    return spaces.unbatch(space, spaces.batch(space, [space.sample()]), 1)[0]


class TestValues:
    @EACH
    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_samples_come_back_equal(self, space, rows):
        space.seed(0)
        singles = [sample(space) for _ in range(rows)]
        values = spaces.batch(space, singles)
        encoded = spaces.encode(space, values, rows)
        assert len(encoded) == spaces.tensor_count(space)
        decoded = spaces.decode(space, sent_tensors(encoded), rows)
        assert_same(values, decoded)
        assert_same(singles, spaces.unbatch(space, decoded, rows))
        assert spaces.outside(space, decoded, rows).tolist() == []
        assert all(space.contains(single) for single in spaces.unbatch(space, decoded, rows))

    @given(all_spaces, st.data())
    def test_any_values_come_back_equal(self, space, data):
        singles = data.draw(value_lists(space))
        values = spaces.batch(space, singles)
        encoded = spaces.encode(space, values, len(singles))
        assert len(encoded) == spaces.tensor_count(space)
        decoded = spaces.decode(space, sent_tensors(encoded), len(singles))
        assert_same(values, decoded)
        assert_same(singles, spaces.unbatch(space, decoded, len(singles)))
        spaces.check(space, decoded, len(singles), InvalidAction, "action")

    @given(array_spaces, st.data())
    def test_batches_are_those_of_gymnasium(self, space, data):
        singles = data.draw(st.lists(single_values(space), min_size=1, max_size=3))
        expected = concatenate(space, singles, create_empty_array(space, len(singles)))
        assert_same(expected, spaces.batch(space, singles))

    @EACH
    def test_batches_are_in_the_batched_space(self, space):
        space.seed(1)
        values = spaces.batch(space, [sample(space) for _ in range(3)])
        assert batch_space(space, 3).contains(values)

    def test_the_tensors_are_those_of_the_contract(self):
        def hexadecimal(space, *singles):
            encoded = spaces.encode(space, spaces.batch(space, singles), len(singles))
            names = [tensors.dtype_name(tensor.dtype) for tensor in encoded]
            return [
                f"{name} {list(tensor.shape)} {tensor.data.hex()}"
                for name, tensor in zip(names, encoded, strict=True)
            ]

        one = "0000803f"
        assert hexadecimal(Box(-1, 1, (2,)), np.float32([0, 1]), np.float32([1, 1])) == [
            f"float32 [2, 2] 00000000{one}{one}{one}"
        ]
        assert hexadecimal(Discrete(9, dtype=np.int16), 3, 4) == ["int16 [2] 03000400"]
        assert hexadecimal(MultiBinary(3), np.int8([1, 0, 1])) == ["int8 [1, 3] 010001"]
        assert hexadecimal(Text(4, charset="aé"), "a", "éa") == [
            "int64 [2] 01000000000000000300000000000000",
            "uint8 [4] 61c3a961",
        ]
        bytes_of = Discrete(9, dtype=np.uint8)
        assert hexadecimal(Sequence(bytes_of), (1, 2), (), (3,)) == [
            "int64 [3] 020000000000000000000000000000000100000000000000",
            "uint8 [3] 010203",
        ]
        number = Discrete(9, dtype=np.uint8)
        linked = GraphInstance(np.uint8([5, 6]), np.uint8([7]), np.int32([[1, 0]]))
        alone = GraphInstance(np.uint8([8]), None, None)
        assert hexadecimal(Graph(number, number), alone, linked) == [
            "int64 [2] 01000000000000000200000000000000",
            "int64 [2] 00000000000000000100000000000000",
            "uint8 [3] 080506",
            "uint8 [1] 07",
            "int32 [1, 2] 0100000000000000",
        ]
        assert hexadecimal(Graph(number, None), alone) == [
            "int64 [1] 0100000000000000",
            "int64 [1] 0000000000000000",
            "uint8 [1] 08",
        ]
        both = OneOf((number, MultiBinary(2)))
        assert hexadecimal(both, (1, np.int8([0, 1])), (0, 4), (1, np.int8([1, 1]))) == [
            "int64 [3] 010000000000000000000000000000000100000000000000",
            "uint8 [1] 04",
            "int8 [2, 2] 00010101",
        ]
        mixed = Dict([("z", number), ("a", Tuple((number, number)))])
        assert hexadecimal(mixed, {"z": 1, "a": (2, 3)}, {"z": 4, "a": (5, 6)}) == [
            "uint8 [2] 0104",
            "uint8 [2] 0205",
            "uint8 [2] 0306",
        ]

    def test_decoded_arrays_are_views_that_cannot_be_written(self):
        space = Box(-1, 1, (2,))
        decoded = spaces.decode(space, spaces.encode(space, np.zeros((3, 2), np.float32), 3), 3)
        assert not decoded.flags.writeable

    def test_the_rows_of_a_discrete_are_scalars_and_of_a_scalar_box_arrays(self):
        (gear,) = spaces.unbatch(Discrete(3), np.array([2]), 1)
        assert type(gear) is np.int64
        (angle,) = spaces.unbatch(Box(0, 1, ()), np.zeros(1, np.float32), 1)
        assert type(angle) is np.ndarray

    def test_edges_may_be_given_as_none_or_as_no_edges(self):
        space = Graph(Discrete(3), Discrete(3))
        nodes, none = np.array([1]), np.zeros(0, np.int64)
        given_none = spaces.encode(space, [GraphInstance(nodes, None, None)], 1)
        given_empty = [GraphInstance(nodes, none, np.zeros((0, 2), np.int32))]
        assert spaces.encode(space, given_empty, 1) == given_none

    @pytest.mark.parametrize(
        ("space", "values", "expected"),
        [
            (Discrete(5), np.int32([1, 2]), np.int64([1, 2])),
            (Discrete(5, dtype=np.uint8), np.int64([1, 4]), np.uint8([1, 4])),
            (Discrete(2), np.array([True, False]), np.int64([1, 0])),
            (Discrete(5), [1, 2], np.int64([1, 2])),
            (Box(0, 1, ()), np.float64([0.5, 1]), np.float32([0.5, 1])),
            (Box(0, 9, ()), np.int64([3, 4]), np.float32([3, 4])),
            (Box(-np.inf, np.inf, ()), [np.inf, np.nan], np.float32([np.inf, np.nan])),
            (Box(0, 1, (), ">f4"), np.float32([0.5, 1]), np.float32([0.5, 1])),
        ],
    )
    def test_dtypes_are_converted_where_no_value_changes(self, space, values, expected):
        decoded = spaces.decode(space, spaces.encode(space, values, 2), 2)
        assert decoded.dtype == expected.dtype
        np.testing.assert_array_equal(decoded, expected)

    @pytest.mark.parametrize(
        "function",
        [
            spaces.tensor_count,
            lambda s: spaces.encode(s, [], 0),
            lambda s: spaces.batch(s, []),
            lambda s: spaces.unbatch(s, [], 0),
            lambda s: spaces.outside(s, [], 0),
            lambda s: spaces.zeros(s, 1),
            lambda s: spaces.decode(s, [], 0),
            spaces.digest,
            spaces.to_proto,
        ],
    )
    def test_other_kinds_of_space_are_unsupported(self, function):
        with pytest.raises(Unsupported, match="Box, Discrete, MultiDiscrete"):
            function(Space())
