"""Rows of batches: taking, putting and joining them, and which lie outside their space."""

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
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
    Tuple,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from farsim import spaces
from farsim.errors import InvalidAction, InvalidTensor
from tests.farsim.space_strategies import (
    all_spaces,
    assert_same,
    boxes,
    single_values,
    value_lists,
)


class TestMembership:
    @pytest.mark.parametrize(
        ("space", "singles", "rows", "message"),
        [
            (
                Box(-1, 1, (2,)),
                np.float32([[0, 1], [-1, 1.5], [np.nan, 0]]),
                [1, 2],
                r"row 1: 1.5 at \[1\] is not from -1.0 to 1.0",
            ),
            (
                Box(-np.inf, np.inf, ()),
                np.float32([np.inf, np.nan]),
                [1],
                "row 1: nan is not from -inf to inf",
            ),
            (Discrete(3, start=-1), [-2, -1, 1, 2], [0, 3], "row 0: -2 is not from -1 to 1"),
            (
                Discrete(27, start=100, dtype=np.int8),
                np.int8([100, 126, 127, -128]),
                [2, 3],
                "row 2: 127 is not from 100 to 126",
            ),
            (
                Discrete(28, start=100, dtype=np.int8),
                np.int8([99, 127]),
                [0],
                "row 0: 99 is not from 100 to 127",
            ),
            (
                MultiDiscrete([2, 3], start=[0, 5]),
                [[1, 7], [2, 5], [0, 8]],
                [1, 2],
                r"row 1: 2 at \[0\] is not from 0 to 1",
            ),
            (
                MultiDiscrete([28], np.int8, start=[100]),
                np.int8([[100], [127], [-128]]),
                [2],
                r"row 2: -128 at \[0\] is not from 100 to 127",
            ),
            (
                MultiBinary(2),
                np.int8([[0, 1], [0, 2], [-1, 0]]),
                [1, 2],
                r"row 1: 2 at \[1\] is not 0 or 1",
            ),
            (
                Text(3, charset="ab"),
                ["a", "abab", "", "ac"],
                [1, 2, 3],
                "row 1: 'abab' has 4 characters, and not from 1 to 3",
            ),
            (Text(3, charset="ab"), ["ac"], [0], "row 0: 'ac' has the character 'c'"),
            (
                Tuple((Discrete(2), Discrete(3))),
                [(0, 3), (2, 0), (1, 1)],
                [0, 1],
                "row 1 at '0': 2 is not from 0 to 1",
            ),
            (
                Dict(a=Dict(b=Discrete(2))),
                [{"a": {"b": 1}}, {"a": {"b": 2}}],
                [1],
                "row 1 at 'a/b': 2 is not",
            ),
            (
                Sequence(Discrete(2)),
                [(0, 1), (), (0, 3, 4), (1,), (5,)],
                [2, 4],
                "row 2 at 'element': element 1: 3 is not",
            ),
            (
                Sequence(Discrete(2), stack=True),
                [np.array([0]), np.array([1, 2])],
                [1],
                "row 1 at 'element': element 1: 2 is not",
            ),
            (
                Sequence(Sequence(Discrete(2))),
                [((),), ((), (0, 1, 9))],
                [1],
                "row 1 at 'element/element': element 1: element 2: 9 is not",
            ),
            (
                Graph(Discrete(2), None),
                [
                    GraphInstance(np.array([0]), None, None),
                    GraphInstance(np.array([0, 2]), None, None),
                ],
                [1],
                "row 1 at 'node': node 1: 2 is not",
            ),
            (
                Graph(Discrete(2), Discrete(2)),
                [GraphInstance(np.array([0]), np.array([0, 2]), np.zeros((2, 2), np.int32))],
                [0],
                "row 0 at 'edge': edge 1: 2 is not",
            ),
            (
                OneOf((Discrete(2), MultiBinary(1))),
                [(0, 1), (1, np.int8([3])), (0, 2), (1, np.int8([1]))],
                [1, 2],
                "row 2 at '0': 2 is not from 0 to 1",
            ),
        ],
    )
    def test_rows_outside_are_found_and_told(self, space, singles, rows, message):
        values, count = spaces.batch(space, list(singles)), len(singles)
        assert spaces.outside(space, values, count).tolist() == rows
        with pytest.raises(InvalidAction, match=f"^{message}") as caught:
            spaces.check(space, values, count, InvalidAction, "groups[0].actions")
        assert caught.value.subject == "groups[0].actions"

    @given(boxes(), st.data())
    def test_boxes_agree_with_gymnasium(self, space, data):
        anything = hnp.arrays(space.dtype, space.shape)
        singles = data.draw(st.lists(single_values(space) | anything, max_size=4))
        values = spaces.batch(space, singles)
        expected = [row for row, single in enumerate(singles) if not space.contains(single)]
        assert spaces.outside(space, values, len(singles)).tolist() == expected


class TestRows:
    @given(all_spaces, st.data())
    def test_rows_are_taken_put_and_joined_as_single_values_are(self, space, data):
        singles = data.draw(value_lists(space, 4))
        rows = len(singles)
        values = spaces.batch(space, singles)
        some = st.lists(st.integers(0, rows - 1), max_size=4) if rows else st.just([])
        index = np.array(data.draw(some), np.int64)

        taken = spaces.take(space, values, index)
        assert_same(spaces.batch(space, [singles[i] for i in index]), taken)
        assert_same(spaces.batch(space, singles[1:3]), spaces.take(space, values, slice(1, 3)))

        joined = spaces.concatenate(space, [(values, rows), (taken, len(index))])
        assert_same(spaces.batch(space, [*singles, *(singles[i] for i in index)]), joined)
        assert_same(spaces.batch(space, []), spaces.concatenate(space, []))

        order = np.array(data.draw(st.permutations(range(rows))), np.int64)
        put = spaces.put(space, spaces.zeros(space, rows), order, spaces.take(space, values, order))
        assert_same(values, put)

    @given(all_spaces, st.integers(0, 3))
    def test_zeros_can_be_sent(self, space, rows):
        zeros = spaces.zeros(space, rows)
        assert_same(zeros, spaces.decode(space, spaces.encode(space, zeros, rows), rows))

    def test_put_leaves_the_original_alone(self):
        space = Dict(a=Discrete(9), b=Text(1))
        values = {"a": np.array([1, 2]), "b": ("x", "y")}
        part = {"a": np.array([7]), "b": ("z",)}
        put = spaces.put(space, values, np.array([1]), part)
        assert_same({"a": np.array([1, 7]), "b": ("x", "z")}, put)
        assert_same({"a": np.array([1, 2]), "b": ("x", "y")}, values)

    def test_what_fits_is_converted_and_nothing_is_copied_for_it(self):
        space = Dict(a=Discrete(9), b=Box(-1, 1, (2,)), c=Text(1))
        given = {"a": np.array([1, 2], np.int32), "b": np.zeros((2, 2), np.float32), "c": ["x", ""]}
        fitted = spaces.fitted(space, given, 2)
        assert_same({"a": np.array([1, 2]), "b": given["b"], "c": ("x", "")}, fitted)
        assert fitted["b"] is given["b"]
        with pytest.raises(
            InvalidTensor, match=r"^at 'a': expected int64 \[3\], found int32 \[2\]"
        ):
            spaces.fitted(space, given, 3)
        with pytest.raises(InvalidTensor, match=r"^at 'c': expected 2 rows, found list of 1"):
            spaces.fitted(space, given | {"c": ["x"]}, 2)
        with pytest.raises(InvalidTensor, match=r"^at 'a': expected int64, found float64"):
            spaces.fitted(space, given | {"a": [0.5, 1.0]}, 2)

    def test_parts_of_the_wrong_size_are_refused(self):
        space = Dict(a=Discrete(9), b=Text(1))
        values = {"a": np.array([1, 2]), "b": ("x", "y")}
        with pytest.raises(
            InvalidTensor, match=r"^at 'a': expected int64 \[3\], found int64 \[2\]"
        ):
            spaces.concatenate(space, [(values, 3)])
        with pytest.raises(InvalidTensor, match=r"^at 'b': expected 2 rows, found tuple of 1"):
            spaces.concatenate(space, [(values | {"b": ("x",)}, 2)])
        with pytest.raises(InvalidTensor, match=r"^at 'a': "):
            spaces.put(space, values, np.array([1]), values)
        with pytest.raises(InvalidTensor, match=r"^at 'a': expected 3 rows, found ndarray of 2"):
            spaces.unbatch(space, values, 3)
        with pytest.raises(
            InvalidTensor, match=r"^at 'a': expected int64 \[2\], found int64 \[2, 1\]"
        ):
            spaces.batch(space, [{"a": [1], "b": "x"}] * 2)

    def test_masks_have_a_flag_for_each_value_of_each_discrete_leaf(self):
        space = Tuple((Discrete(3, start=1), Dict(a=MultiDiscrete([2, 4]), b=Box(0, 1))))
        assert [path for path, _ in spaces.leaves(space)] == ["0", "1/a", "1/b"]
        assert spaces.mask_widths(space) == [3, 6]
        assert_same(
            (np.ones((2, 3), np.bool_), np.ones((2, 6), np.bool_)), spaces.full_masks(space, 2)
        )
