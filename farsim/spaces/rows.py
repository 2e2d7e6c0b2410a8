"""Batches and their rows: making, splitting, selecting, replacing and joining them.

Gymnasium's ``concatenate`` and ``iterate`` do some of this for some kinds of space; these
functions treat all ten alike. The layout of a batch is Gymnasium's, as said at the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space, spaces

from farsim.spaces.fitting import fit
from farsim.spaces.kinds import BatchedValue, IntArray, invalid, join, unsupported

#: What to make of the parts of one leaf: called with its space, the parts and its path.
_AtLeaf: TypeAlias = Callable[[Any, list[Any], str], Any]


def batch(space: Space[Any], values: Sequence[Any], path: str = "") -> BatchedValue:
    """One batch of single values, in the space's dtypes.

    Args:
        space: of one value.
        values: of that space, one for each row.
        path: where the space lies in another, for errors.

    Raises:
        InvalidTensor: a value whose structure, shape or dtype is not the space's. Whether the
            values lie within its bounds is not looked at.
    """

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        if not parts:
            return np.zeros((0, *leaf.shape), leaf.dtype)
        return fit(parts, leaf.dtype, (len(parts), *leaf.shape), path)

    return _combine(space, list(values), path, array, lambda leaf, parts, path: tuple(parts))


def take(space: Space[Any], batched: BatchedValue, index: IntArray | slice) -> BatchedValue:
    """The batch of the rows ``index``, in that order; with a slice, arrays are views."""

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        return np.asarray(parts[0])[index]

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        (values,) = parts
        return tuple(values[index] if isinstance(index, slice) else [values[i] for i in index])

    return _combine(space, [batched], "", array, listed)


def put(
    space: Space[Any], batched: BatchedValue, index: IntArray, part: BatchedValue
) -> BatchedValue:
    """A copy of ``batched`` whose rows ``index`` are those of ``part``, in order.

    Raises:
        InvalidTensor: ``part`` has not the space's structure and a row for each of ``index``.
    """

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        copy = np.array(parts[0])
        copy[index] = fit(parts[1], leaf.dtype, (len(index), *leaf.shape), path)
        return copy

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        copy = list(parts[0])
        for row, value in zip(index, expect_rows(parts[1], len(index), path), strict=True):
            copy[row] = value
        return tuple(copy)

    return _combine(space, [batched, part], "", array, listed)


def fitted(space: Space[Any], batched: BatchedValue, rows: int, path: str = "") -> BatchedValue:
    """A batch in exactly the space's dtypes; its arrays that have them are not copied.

    Args:
        space: of one row.
        batched: the batch, in which an array may also be a list.
        rows: how many it is to have.
        path: where the space lies in another, for errors.

    Raises:
        InvalidTensor: not the space's structure, not as many rows, or values that a dtype can not
            hold.
    """

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        return fit(parts[0], leaf.dtype, (rows, *leaf.shape), path)

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        return tuple(expect_rows(parts[0], rows, path))

    return _combine(space, [batched], path, array, listed)


def concatenate(
    space: Space[Any], parts: Sequence[tuple[BatchedValue, int]], path: str = ""
) -> BatchedValue:
    """One batch of the rows of several.

    Args:
        space: of one row.
        parts: the batches, each with its number of rows.
        path: where the space lies in another, for errors.

    Raises:
        InvalidTensor: a part has not the space's structure and as many rows as it should.
    """
    counts = [rows for _, rows in parts]

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        arrays = [
            fit(part, leaf.dtype, (rows, *leaf.shape), path)
            for part, rows in zip(parts, counts, strict=True)
        ]
        if len(arrays) == 1:
            return arrays[0].copy()
        return np.concatenate(arrays) if arrays else np.zeros((0, *leaf.shape), leaf.dtype)

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        rows = zip(parts, counts, strict=True)
        return tuple(value for part, count in rows for value in expect_rows(part, count, path))

    return _combine(space, [part for part, _ in parts], path, array, listed)


def scatter(
    space: Space[Any], parts: Sequence[tuple[BatchedValue, IntArray]], rows: int
) -> BatchedValue:
    """One batch of ``rows`` rows out of several.

    Args:
        space: of one row.
        parts: the batches, each with the row of the result that each of its rows becomes; together
            they name every row once.
        rows: how many there are.

    Raises:
        InvalidTensor: a part has not the space's structure and as many rows as it should.
    """
    places = [index for _, index in parts]

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        whole = np.empty((rows, *leaf.shape), leaf.dtype)
        for part, index in zip(parts, places, strict=True):
            whole[index] = fit(part, leaf.dtype, (len(index), *leaf.shape), path)
        return whole

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        whole: list[Any] = [None] * rows
        for part, index in zip(parts, places, strict=True):
            values = expect_rows(part, len(index), path)
            for row, value in zip(index.tolist(), values, strict=True):
                whole[row] = value
        return tuple(whole)

    return _combine(space, [part for part, _ in parts], "", array, listed)


def count(space: Space[Any], batched: BatchedValue, path: str = "") -> int:
    """How many rows a batch has, as its first leaf tells; 0 if the space has no leaf.

    Args:
        space: of one row.
        batched: the batch.
        path: where the space lies in another, for errors.

    Raises:
        InvalidTensor: the batch has not the space's structure.
    """
    lengths = []

    def leaf(leaf: Any, parts: list[Any], path: str) -> None:
        length = _length(parts[0])
        if length is None:
            raise invalid(path, f"expected an array or a tuple of rows, found {_found(parts[0])}")
        lengths.append(length)

    _combine(space, [batched], path, leaf, leaf)
    return lengths[0] if lengths else 0


def zeros(space: Space[Any], rows: int) -> BatchedValue:
    """A batch with the structure, shapes and dtypes of ``space``, not necessarily inside it.

    Arrays are zeros; texts, sequences and graphs are empty; a OneOf has its first member.
    """

    def array(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        return np.zeros((rows, *leaf.shape), leaf.dtype)

    def listed(leaf: Any, parts: list[Any], path: str) -> BatchedValue:
        return tuple(_blank(leaf) for _ in range(rows))

    return _combine(space, [], "", array, listed)


def _blank(space: Any) -> Any:
    if isinstance(space, spaces.Text):
        return ""
    if isinstance(space, spaces.Sequence):
        return zeros(space.feature_space, 0) if space.stack else ()
    if isinstance(space, spaces.Graph):
        return spaces.GraphInstance(zeros(space.node_space, 0), None, None)
    (value,) = unbatch(space.spaces[0], zeros(space.spaces[0], 1), 1)
    return np.int64(0), value


@singledispatch
def _combine(
    space: Space[Any], parts: list[Any], path: str, array: _AtLeaf, listed: _AtLeaf
) -> BatchedValue:
    """One batch out of ``parts``, all of which have the structure of ``space``.

    Its leaves are what ``array`` makes of the parts of each leaf whose batch is an array, and
    ``listed`` of those of the others.
    """
    raise unsupported(space)


@_combine.register(spaces.Box)
@_combine.register(spaces.Discrete)
@_combine.register(spaces.MultiDiscrete)
@_combine.register(spaces.MultiBinary)
def _combine_arrays(
    space: Space[Any], parts: list[Any], path: str, array: _AtLeaf, listed: _AtLeaf
) -> BatchedValue:
    return array(space, parts, path)


@_combine.register(spaces.Text)
@_combine.register(spaces.Sequence)
@_combine.register(spaces.Graph)
@_combine.register(spaces.OneOf)
def _combine_listed(
    space: Space[Any], parts: list[Any], path: str, array: _AtLeaf, listed: _AtLeaf
) -> BatchedValue:
    return listed(space, parts, path)


@_combine.register(spaces.Tuple)
def _combine_tuples(
    space: spaces.Tuple, parts: list[Any], path: str, array: _AtLeaf, listed: _AtLeaf
) -> BatchedValue:
    columns = [expect_members(space, part, path) for part in parts]
    return tuple(
        _combine(member, [column[i] for column in columns], join(path, i), array, listed)
        for i, member in enumerate(space.spaces)
    )


@_combine.register(spaces.Dict)
def _combine_dicts(
    space: spaces.Dict, parts: list[Any], path: str, array: _AtLeaf, listed: _AtLeaf
) -> BatchedValue:
    columns = [expect_names(space, part, path) for part in parts]
    return {
        name: _combine(
            member, [column[name] for column in columns], join(path, name), array, listed
        )
        for name, member in space.spaces.items()
    }


@singledispatch
def unbatch(space: Space[Any], batched: BatchedValue, rows: int, path: str = "") -> list[Any]:
    """The single values in a batch, as ``space.contains`` wants them.

    A row of a Discrete is a NumPy scalar. The rows of other arrays are views of the batch, 0-d
    arrays included, and as read-only as the batch; an environment that writes into its action
    needs a copy.

    Raises:
        InvalidTensor: the batch has not the space's structure and ``rows`` rows.
    """
    raise unsupported(space)


@unbatch.register(spaces.Box)
@unbatch.register(spaces.MultiDiscrete)
@unbatch.register(spaces.MultiBinary)
def _unbatch_arrays(
    space: Space[Any], batched: BatchedValue, rows: int, path: str = ""
) -> list[Any]:
    array = np.asarray(expect_rows(batched, rows, path))
    return [array[row, ...] for row in range(rows)]


@unbatch.register(spaces.Discrete)
@unbatch.register(spaces.Text)
@unbatch.register(spaces.Sequence)
@unbatch.register(spaces.Graph)
@unbatch.register(spaces.OneOf)
def _unbatch_listed(
    space: Space[Any], batched: BatchedValue, rows: int, path: str = ""
) -> list[Any]:
    return list(expect_rows(batched, rows, path))


@unbatch.register(spaces.Tuple)
def _unbatch_tuples(
    space: spaces.Tuple, batched: BatchedValue, rows: int, path: str = ""
) -> list[Any]:
    batched = expect_members(space, batched, path)
    columns = [
        unbatch(member, batched[i], rows, join(path, i)) for i, member in enumerate(space.spaces)
    ]
    return [tuple(column[row] for column in columns) for row in range(rows)]


@unbatch.register(spaces.Dict)
def _unbatch_dicts(
    space: spaces.Dict, batched: BatchedValue, rows: int, path: str = ""
) -> list[Any]:
    batched = expect_names(space, batched, path)
    columns = {
        name: unbatch(member, batched[name], rows, join(path, name))
        for name, member in space.spaces.items()
    }
    return [{name: column[row] for name, column in columns.items()} for row in range(rows)]


def expect_rows(values: Any, rows: int, path: str) -> Any:
    """``values`` if it is an array, tuple or list of ``rows`` rows; else ``InvalidTensor``."""
    if _length(values) != rows:
        raise invalid(path, f"expected {rows} rows, found {_found(values)}")
    return values


def expect_members(space: spaces.Tuple, value: Any, path: str) -> Sequence[Any]:
    """``value`` if it is a tuple or list with all members; else ``InvalidTensor``."""
    if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
        raise invalid(path, f"expected a tuple of {len(space.spaces)}, found {_found(value)}")
    return value


def expect_names(space: spaces.Dict, value: Any, path: str) -> Mapping[str, Any]:
    """``value`` if it is a mapping with the members' names, no others; else ``InvalidTensor``."""
    if not isinstance(value, Mapping):
        raise invalid(path, f"expected a dict, found {_found(value)}")
    if value.keys() != space.spaces.keys():
        raise invalid(path, f"expected members {list(space.spaces)}, found {list(value)}")
    return value


def _length(values: Any) -> int | None:
    """The number of rows in one leaf's part of a batch; None if it is no such thing."""
    if isinstance(values, np.ndarray):
        return len(values) if values.ndim else None
    return len(values) if isinstance(values, (tuple, list)) else None


def _found(value: Any) -> str:
    """What ``value`` is, for errors: "tuple of 3", "float"."""
    length = _length(value)
    return type(value).__name__ + ("" if length is None else f" of {length}")
