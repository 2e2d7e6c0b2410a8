"""Which rows of a batch lie outside their space, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim.errors import FarsimError
from farsim.spaces.kinds import BatchedValue, IntArray, join, unsupported
from farsim.spaces.ragged import Chosen, Elements, NodesAndEdges, owners

_UNSIGNED = {np.dtype(f"i{size}"): np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def outside(space: Space[Any], values: BatchedValue, rows: int) -> IntArray:
    """The rows, strictly increasing, whose value is no member of ``space``.

    Bounds are inclusive, and NaN is outside of every Box. ``values`` has the structure, shapes
    and dtypes of the space, as what ``decode`` and ``batch`` return.

    Raises:
        InvalidTensor: the structure of a Sequence, Graph or OneOf is wrong.
    """
    if is_surely_inside(space, values):
        return np.zeros(0, np.int64)
    found = [fault.rows for fault in _faults(space, values, rows, "")]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def check(
    space: Space[Any],
    values: BatchedValue,
    rows: int,
    error: type[FarsimError],
    subject: str,
) -> None:
    """Raises ``error`` about ``subject`` if ``outside`` finds a row.

    The message names the row, the path of the leaf, the value and what would be allowed.
    """
    if is_surely_inside(space, values):
        return
    for fault in _faults(space, values, rows, ""):
        row = int(fault.rows[0])
        place = f"row {row} at '{fault.path}'" if fault.path else f"row {row}"
        raise error(f"{place}: {fault.explain(row)}", subject)


def is_surely_inside(space: Space[Any], values: BatchedValue) -> bool:
    """Whether a glance shows that no row is outside: at a Discrete from 0, as most actions are.

    Args:
        space: of one row.
        values: a batched value of it; where the space is Discrete an array, of integers of any
            size.
    """
    if not isinstance(space, spaces.Discrete) or space.start != 0 or not len(values):
        return False
    # As unsigned numbers, negative ones are the largest.
    unsigned = _UNSIGNED.get(values.dtype)
    return unsigned is not None and int(np.maximum.reduce(values.view(unsigned))) < int(space.n)


@dataclass(frozen=True)
class _Fault:
    """What is wrong with one leaf: in which rows (at least one), and what in one of them."""

    path: str
    rows: IntArray
    explain: Callable[[int], str]

    def of_rows(self, owner: IntArray, what: str = "") -> _Fault:
        """The fault of the rows that own the things this one is about.

        Args:
            owner: the row of every thing, in increasing order.
            what: what a thing is called, if its number within the row is to be told.
        """
        rows, first = np.unique(owner[self.rows], return_index=True)
        things = dict(zip(rows.tolist(), self.rows[first].tolist(), strict=True))

        def explain(row: int) -> str:
            thing = things[row]
            number = f"{what} {thing - np.searchsorted(owner, row)}: " if what else ""
            return number + self.explain(thing)

        return _Fault(self.path, rows, explain)


@singledispatch
def _faults(space: Space[Any], values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    raise unsupported(space)


def _elementwise(
    values: NDArray[Any],
    inside: NDArray[np.bool_],
    path: str,
    allowed: Callable[[tuple[int, ...]], str],
) -> Iterator[_Fault]:
    """The fault of an array of rows, if any element is not inside.

    Args:
        values: [rows, ...shape].
        inside: of the same shape.
        path: of the leaf.
        allowed: says for the index of an element in its row what it may be.
    """
    if inside.all():
        return
    rows = np.flatnonzero(~inside.reshape(len(inside), -1).all(axis=1))

    def explain(row: int) -> str:
        index = tuple(np.argwhere(~inside[row])[0].tolist())
        place = f" at {list(index)}" if index else ""
        return f"{values[row][index]}{place} is not {allowed(index)}"

    yield _Fault(path, rows, explain)


@_faults.register(spaces.Box)
def _box(space: spaces.Box, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    inside = (values >= space.low) & (values <= space.high)
    yield from _elementwise(
        values, inside, path, lambda index: f"from {space.low[index]} to {space.high[index]}"
    )


@_faults.register(spaces.Discrete)
def _discrete(
    space: spaces.Discrete[Any], values: BatchedValue, rows: int, path: str
) -> Iterator[_Fault]:
    if is_surely_inside(space, values):
        return
    # As Python integers: start + n can be beyond the dtype when start + n - 1 is not.
    first, last = int(space.start), int(space.start) + int(space.n) - 1
    inside = (values >= first) & (values <= last)
    yield from _elementwise(values, inside, path, lambda index: f"from {first} to {last}")


@_faults.register(spaces.MultiDiscrete)
def _multi_discrete(
    space: spaces.MultiDiscrete, values: BatchedValue, rows: int, path: str
) -> Iterator[_Fault]:
    first, last = space.start, space.start + (space.nvec - 1)
    inside = (values >= first) & (values <= last)
    yield from _elementwise(
        values, inside, path, lambda index: f"from {first[index]} to {last[index]}"
    )


@_faults.register(spaces.MultiBinary)
def _multi_binary(
    space: spaces.MultiBinary, values: BatchedValue, rows: int, path: str
) -> Iterator[_Fault]:
    yield from _elementwise(values, (values == 0) | (values == 1), path, lambda index: "0 or 1")


@_faults.register(spaces.Text)
def _text(space: spaces.Text, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    def explain(row: int) -> str:
        text = values[row]
        if not space.min_length <= len(text) <= space.max_length:
            lengths = f"from {space.min_length} to {space.max_length}"
            return f"{text!r:.80} has {len(text)} characters, and not {lengths}"
        strange = min(set(text) - space.character_set)
        return f"{text!r:.80} has the character {strange!r}, which is not in the space"

    wrong = [
        row
        for row, text in enumerate(values)
        if not space.min_length <= len(text) <= space.max_length
        or not space.character_set.issuperset(text)
    ]
    if wrong:
        yield _Fault(path, np.array(wrong, np.int64), explain)


@_faults.register(spaces.Tuple)
def _tuple(space: spaces.Tuple, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    for index, member in enumerate(space.spaces):
        yield from _faults(member, values[index], rows, join(path, index))


@_faults.register(spaces.Dict)
def _dict(space: spaces.Dict, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    for name, member in space.spaces.items():
        yield from _faults(member, values[name], rows, join(path, name))


@_faults.register(spaces.Sequence)
def _sequence(
    space: spaces.Sequence, values: BatchedValue, rows: int, path: str
) -> Iterator[_Fault]:
    elements = Elements.of(space, values, rows, path)
    total, inside = int(elements.lengths.sum()), join(path, "element")
    for fault in _faults(space.feature_space, elements.batched, total, inside):
        yield fault.of_rows(owners(elements.lengths), "element")


@_faults.register(spaces.Graph)
def _graph(space: spaces.Graph, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    parts = NodesAndEdges.of(space, values, rows, path)
    total, inside = int(parts.node_counts.sum()), join(path, "node")
    for fault in _faults(space.node_space, parts.nodes, total, inside):
        yield fault.of_rows(owners(parts.node_counts), "node")
    if space.edge_space is None:
        return
    total, inside = int(parts.edge_counts.sum()), join(path, "edge")
    for fault in _faults(space.edge_space, parts.edges, total, inside):
        yield fault.of_rows(owners(parts.edge_counts), "edge")


@_faults.register(spaces.OneOf)
def _one_of(space: spaces.OneOf, values: BatchedValue, rows: int, path: str) -> Iterator[_Fault]:
    chosen = Chosen.of(space, values, rows, path)
    for number, member in enumerate(space.spaces):
        owner = chosen.rows_of(number)
        for fault in _faults(member, chosen.batched[number], len(owner), join(path, number)):
            yield fault.of_rows(owner)
