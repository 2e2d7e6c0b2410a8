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

    def put(self, time: int, values: Any, rows: IntArray | None = None) -> None:
        """Writes what ``rows`` have at ``time``; None for all of them.

        Args:
            time: at most one more than at any call before.
            values: an array [rows, ...] or a nest of them, the same one at every call.
            rows: increasing.
        """
        leaves = [values] if isinstance(values, np.ndarray) else tree.flatten(values)
        if not self._leaves:
            self._nest = None if isinstance(values, np.ndarray) else values
            self._leaves = [
                np.zeros((_FIRST_CAPACITY, self._rows, *leaf.shape[1:]), leaf.dtype)
                for leaf in leaves
            ]
        while time >= len(self._leaves[0]):
            self._leaves = [np.concatenate([leaf, np.zeros_like(leaf)]) for leaf in self._leaves]
        for column, leaf in zip(self._leaves, leaves, strict=True):
            if rows is None:
                column[time] = leaf
            else:
                column[time, rows] = leaf

    def take(self, times: IntArray, row: int) -> Any:
        """A copy of what one row had at ``times``: [times, ...]."""
        parts = [leaf[times, row] for leaf in self._leaves]
        return parts[0] if self._nest is None else tree.unflatten_as(self._nest, parts)


def joined(first: Any, second: Any) -> Any:
    """Two nests of arrays, one after the other along the first dimension."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return tree.map_structure(lambda a, b: np.concatenate([a, b]), first, second)


def chosen(values: Any, rows: IntArray | slice) -> Any:
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
