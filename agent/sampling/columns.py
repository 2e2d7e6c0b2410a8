"""Arrays that grow with time, and nests of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import tree
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_FIRST_CAPACITY = 32


class Column:
    """An array [time, rows, ...] that grows with time, or a nest of such arrays.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._nest: Any = None
        self._leaves: list[NDArray[Any]] = []
        self._capacity = _FIRST_CAPACITY
        #: Of each leaf, the dtype of its last values, and since when they have it; what was before
        #: may be of another one, and the leaf then is of one that holds both.
        self._dtypes: list[tuple[int, np.dtype[Any]]] = []

    def start(self, time: int) -> None:
        """The first ``put`` is for ``time``; before that there is nothing."""
        self._capacity = max(_FIRST_CAPACITY, 2 * time)

    def put(self, time: int, values: Any, rows: IntArray | None = None) -> None:
        """Writes what ``rows`` have at ``time``; None for all of them.

        Args:
            time: at most one more than at any call before.
            values: an array [rows, ...] or a nest of them, the same one at every call.
            rows: increasing.
        """
        if self._nest is None and self._leaves and rows is None:
            block, (since, dtype) = self._leaves[0], self._dtypes[0]
            if since <= time < len(block) and values.dtype == dtype:
                block[time] = values
                return
        leaves = [values] if isinstance(values, np.ndarray) else tree.flatten(values)
        if not self._leaves:
            self._nest = None if isinstance(values, np.ndarray) else values
            self._leaves = [
                np.zeros((self._capacity, self._rows, *leaf.shape[1:]), leaf.dtype)
                for leaf in leaves
            ]
            self._dtypes = [(time, leaf.dtype) for leaf in leaves]
        while time >= len(self._leaves[0]):
            self._leaves = [np.concatenate([leaf, np.zeros_like(leaf)]) for leaf in self._leaves]
        for number, leaf in enumerate(leaves):
            column = self._leaves[number]
            if leaf.dtype != self._dtypes[number][1]:
                # Actions at random have another one than a network's.
                column = self._leaves[number] = self._settled(number, time).astype(
                    np.result_type(column, leaf)
                )
                self._dtypes[number] = (time, leaf.dtype)
            elif time < self._dtypes[number][0]:
                self._dtypes[number] = (time, leaf.dtype)  # The clock has been set back.
            if rows is None:
                column[time] = leaf
            else:
                column[time, rows] = leaf

    def take(self, times: IntArray, row: int) -> Any:
        """A copy of what one row had at ``times``: [times, ...]."""
        parts = []
        for leaf, (since, dtype) in zip(self._leaves, self._dtypes, strict=True):
            part = leaf[times, row]
            is_settled = len(times) and times[0] >= since
            parts.append(part.astype(dtype, copy=False) if is_settled else part)
        return self._nested(parts)

    def part(self, times: slice, row: int) -> Any:
        """As ``take``, of consecutive times."""
        if self._nest is None:
            block, (since, dtype) = self._leaves[0], self._dtypes[0]
            part = block[times, row]
            return part.astype(dtype) if times.start >= since else part.copy()
        parts = []
        for leaf, (since, dtype) in zip(self._leaves, self._dtypes, strict=True):
            parts.append(leaf[times, row].astype(dtype if times.start >= since else leaf.dtype))
        return self._nested(parts)

    def at(self, time: int, row: int) -> Any:
        """A copy of what one row had at one time."""
        return self._nested([leaf[time, row].copy() for leaf in self._leaves])

    def keep(self, first: int, last: int) -> None:
        """Moves times ``first`` to ``last`` to the beginning, and forgets the others."""
        for number, (since, dtype) in enumerate(self._dtypes):
            leaf = self._settled(number, first)
            kept = leaf[first : last + 1].copy()
            leaf[: len(kept)] = kept
            self._dtypes[number] = (max(0, since - first), dtype)

    def _settled(self, number: int, first: int) -> NDArray[Any]:
        """A leaf, in the dtype of its last values if that of times before ``first`` is another."""
        since, dtype = self._dtypes[number]
        if since <= first and self._leaves[number].dtype != dtype:
            self._leaves[number] = self._leaves[number].astype(dtype)
        return self._leaves[number]

    def _nested(self, leaves: list[NDArray[Any]]) -> Any:
        return leaves[0] if self._nest is None else tree.unflatten_as(self._nest, leaves)


def joined(first: Any, second: Any) -> Any:
    """Two nests of arrays, one after the other along the first dimension."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return tree.map_structure(lambda a, b: np.concatenate([a, b]), first, second)


def end_with(values: Any, last: Any) -> None:
    """Writes a nest of what is in a row into the last row of a nest of arrays."""
    if isinstance(values, np.ndarray):
        values[-1] = last
    else:
        tree.map_structure(end_with, values, last)


def chosen(values: Any, rows: IntArray | slice | int) -> Any:
    """``rows`` of a nest of arrays."""
    if isinstance(values, np.ndarray):
        return values[rows]
    return tree.map_structure(lambda leaf: leaf[rows], values)


def put(values: Any, rows: IntArray, new: Any) -> None:
    """Writes ``new`` into ``rows`` of a nest of arrays."""
    tree.map_structure(lambda leaf, value: leaf.__setitem__(rows, value), values, new)


def like(nest: Any, rows: int) -> Any:
    """Zeros in the form of a nest of arrays, for so many rows."""
    return tree.map_structure(lambda leaf: np.zeros((rows, *leaf.shape[1:]), leaf.dtype), nest)
