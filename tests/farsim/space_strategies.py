"""Hypothesis strategies for spaces of every kind and values of them, and equality of values.

Single values are what ``farsim.spaces.unbatch`` gives: arrays of the space's dtype, NumPy scalars
for Discrete, None for the edges and links of a graph without edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces import GraphInstance
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from farsim.spaces import batch

INTEGERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]
DTYPES = ["?", *INTEGERS, "f2", "f4", "f8"]

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
CHARACTERS = st.characters(exclude_categories=["Cs"])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(SHAPES)
    finite = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    one, other = (
        draw(hnp.arrays(dtype, shape, elements=finite)),
        draw(hnp.arrays(dtype, shape, elements=finite)),
    )
    low, high = np.minimum(one, other), np.maximum(one, other)
    if dtype.kind == "f":
        low = np.where(draw(hnp.arrays(np.bool_, shape)), dtype.type(-np.inf), low)
        high = np.where(draw(hnp.arrays(np.bool_, shape)), dtype.type(np.inf), high)
    return spaces.Box(np.asarray(low), np.asarray(high), shape, dtype.type)


@st.composite
def ranges(draw: st.DrawFn, dtype: np.dtype[Any]) -> tuple[int, int]:
    """n and start of a Discrete of ``dtype``."""
    limits = np.iinfo(dtype)
    highest = min(limits.max, 2**63 - 1)  # Both are int64 in a description.
    start = draw(st.integers(limits.min, highest))
    return draw(st.integers(1, min(highest, limits.max - start + 1))), start


@st.composite
def discretes(draw: st.DrawFn) -> spaces.Discrete:
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    n, start = draw(ranges(dtype))
    return spaces.Discrete(n, start=start, dtype=dtype.type)


@st.composite
def multi_discretes(draw: st.DrawFn) -> spaces.MultiDiscrete:
    dtype, shape = np.dtype(draw(st.sampled_from(INTEGERS))), draw(SHAPES)
    size = int(np.prod(shape, dtype=int))
    pairs = draw(st.lists(ranges(dtype), min_size=size, max_size=size))
    n, start = (np.array([pair[i] for pair in pairs], dtype).reshape(shape) for i in (0, 1))
    return spaces.MultiDiscrete(n, dtype.type, start=start)


# MultiBinary([3]) is left out: Gymnasium holds it different from MultiBinary(3), the contract not.
multi_binaries = st.one_of(
    st.integers(1, 4),
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=3),
    st.just(()),
).map(spaces.MultiBinary)


@st.composite
def texts(draw: st.DrawFn) -> spaces.Text:
    characters = draw(st.lists(CHARACTERS, unique=True, max_size=5))
    longest = draw(st.integers(0, 6)) if characters else 0
    shortest = draw(st.integers(0, longest))
    charset = draw(st.sampled_from([frozenset(characters), "".join(characters)]))
    return spaces.Text(longest, min_length=shortest, charset=charset)


array_spaces = st.one_of(boxes(), discretes(), multi_discretes(), multi_binaries)
graphs = st.builds(spaces.Graph, boxes() | discretes(), st.none() | boxes() | discretes())


def _containers(inside: st.SearchStrategy[Space[Any]]) -> st.SearchStrategy[Space[Any]]:
    return st.one_of(
        st.lists(inside, max_size=3).map(spaces.Tuple),
        st.lists(
            st.tuples(st.text(CHARACTERS, max_size=4), inside),
            max_size=3,
            unique_by=lambda pair: pair[0],
        ).map(spaces.Dict),
        st.builds(spaces.Sequence, inside, stack=st.booleans()),
        st.lists(inside, min_size=1, max_size=3).map(spaces.OneOf),
    )


#: Spaces of all kinds, up to some levels deep.
all_spaces: st.SearchStrategy[Space[Any]] = st.recursive(
    array_spaces | texts() | graphs, _containers, max_leaves=5
)


#: One space of each kind, nested ones with the rest inside.
EXAMPLES: dict[str, Space] = {
    "box": spaces.Box(-1, 1, (3,)),
    "box with many bounds": spaces.Box(
        np.array([0, -np.inf]), np.array([np.inf, 5.0]), dtype=np.float64
    ),
    "box of bytes": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "box of bools": spaces.Box(0, 1, (2,), np.bool_),
    "scalar box": spaces.Box(0, 1, ()),
    "empty box": spaces.Box(0, 1, (0, 2)),
    "unbounded box of integers": spaces.Box(-np.inf, np.inf, (2,), np.int64),
    "discrete": spaces.Discrete(5),
    "discrete that starts elsewhere": spaces.Discrete(5, start=-2, dtype=np.int8),
    "multi discrete": spaces.MultiDiscrete([2, 3]),
    "multi discrete with axes": spaces.MultiDiscrete(
        [[2, 3], [4, 5]], np.int16, start=[[0, 1], [-2, 3]]
    ),
    "multi binary": spaces.MultiBinary(3),
    "multi binary with axes": spaces.MultiBinary((2, 2)),
    "text": spaces.Text(8, charset="abcé🙂"),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Tuple(()))),
    "dict": spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (2,))}),
    "sequence": spaces.Sequence(
        spaces.Dict({"text": spaces.Text(3, min_length=0), "number": spaces.Discrete(9)})
    ),
    "stacked sequence": spaces.Sequence(
        spaces.Dict({"text": spaces.Text(3), "number": spaces.Discrete(9)}), stack=True
    ),
    "sequence of sequences": spaces.Sequence(spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True)),
    "graph": spaces.Graph(spaces.Box(0, 1, (2,)), spaces.Discrete(3)),
    "graph without edges": spaces.Graph(spaces.Discrete(3), None),
    "one of": spaces.OneOf((spaces.Discrete(2), spaces.Box(0, 1, (2,)), spaces.Text(3))),
}


def single_values(space: Any) -> st.SearchStrategy[Any]:
    """Members of ``space``."""
    if isinstance(space, spaces.Box):
        return _within(space.low, space.high)
    if isinstance(space, spaces.Discrete):
        last = int(space.start) + int(space.n) - 1
        return st.integers(int(space.start), last).map(space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete):
        return _within(space.start, space.start + (space.nvec - 1))
    if isinstance(space, spaces.MultiBinary):
        return hnp.arrays(np.int8, space.shape, elements=st.integers(0, 1))
    if isinstance(space, spaces.Text):
        alphabet = sorted(space.character_set)
        return st.text(alphabet, min_size=space.min_length, max_size=space.max_length)
    if isinstance(space, spaces.Tuple):
        return st.tuples(*map(single_values, space.spaces))
    if isinstance(space, spaces.Dict):
        return st.fixed_dictionaries(
            {name: single_values(member) for name, member in space.spaces.items()}
        )
    if isinstance(space, spaces.Sequence):
        elements = st.lists(single_values(space.feature_space), max_size=3)
        if space.stack:
            return elements.map(lambda values: batch(space.feature_space, values))
        return elements.map(tuple)
    if isinstance(space, spaces.Graph):
        return _graph_values(space)
    if isinstance(space, spaces.OneOf):
        return st.one_of(
            [
                st.tuples(st.just(np.int64(index)), single_values(member))
                for index, member in enumerate(space.spaces)
            ]
        )
    raise TypeError(f"no values for {space!r}")


def value_lists(space: Space[Any], max_size: int = 3) -> st.SearchStrategy[list[Any]]:
    """Lists of members of ``space``, to be batched."""
    return st.lists(single_values(space), max_size=max_size)


def _within(low: np.ndarray, high: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    elements = [
        hnp.from_dtype(low.dtype, min_value=least, max_value=most, allow_nan=False)
        if low.dtype.kind != "b"
        else st.sampled_from(sorted({bool(least), bool(most)}))
        for least, most in zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True)
    ]
    return st.tuples(*elements).map(lambda values: np.array(values, low.dtype).reshape(low.shape))


@st.composite
def _graph_values(draw: st.DrawFn, space: spaces.Graph) -> GraphInstance:
    nodes = draw(value_lists(space.node_space))
    edges = draw(value_lists(space.edge_space)) if space.edge_space and nodes else []
    if not edges:
        return GraphInstance(batch(space.node_space, nodes), None, None)
    ends = st.integers(0, len(nodes) - 1)
    return GraphInstance(
        batch(space.node_space, nodes),
        batch(space.edge_space, edges),
        draw(hnp.arrays(np.int32, (len(edges), 2), elements=ends)),
    )


def assert_same(expected: Any, actual: Any) -> None:
    """Raises unless two values have the same structure, types, dtypes, shapes and content."""
    if isinstance(expected, np.ndarray | np.generic):
        assert type(actual) is type(expected)
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected, strict=True)
    elif isinstance(expected, dict):
        assert isinstance(actual, dict)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(value, actual[name])
    elif isinstance(expected, tuple | list):
        assert type(actual) is type(expected)
        assert len(actual) == len(expected)
        for one, other in zip(expected, actual, strict=True):
            assert_same(one, other)
    else:
        assert type(actual) is type(expected)
        assert actual == expected
