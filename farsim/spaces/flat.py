"""Batches of spaces that are arrays all through, as flat lists of their arrays."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from farsim import tensors
from farsim.spaces.kinds import BatchedValue

#: The kinds whose batch is one array.
_ARRAYS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class Flat(abc.ABC):
    """A plan of one space, so that nothing needs to be found out again for each batch of it."""

    #: Dtype, little-endian, and shape of one row of each array, in the order of the contract.
    leaves: list[tuple[np.dtype[Any], tuple[int, ...]]]

    def flatten(self, batched: BatchedValue) -> list[NDArray[Any]] | None:
        """The arrays of a batch; None if it has another structure. Dtypes and shapes may differ."""
        found: list[NDArray[Any]] = []
        return found if self._flatten(batched, found) else None

    def unflatten(self, arrays: list[NDArray[Any]]) -> BatchedValue:
        """The batch whose arrays these are."""
        return self._unflatten(iter(arrays))

    @abc.abstractmethod
    def _flatten(self, batched: BatchedValue, found: list[NDArray[Any]]) -> bool: ...

    @abc.abstractmethod
    def _unflatten(self, arrays: Iterator[NDArray[Any]]) -> BatchedValue: ...


def flat(space: Space[Any]) -> Flat | None:
    """The plan of a space; None for one that has a Text, a Sequence, a Graph or a OneOf inside.

    Raises:
        Unsupported: a dtype that the contract lacks.
    """
    if isinstance(space, _ARRAYS):
        return _Array(space)
    if isinstance(space, spaces.Dict):
        named = {name: flat(member) for name, member in space.spaces.items()}
        known = {name: member for name, member in named.items() if member is not None}
        return _Named(known) if len(known) == len(named) else None
    if isinstance(space, spaces.Tuple):
        found = [flat(member) for member in space.spaces]
        members = [member for member in found if member is not None]
        return _Ordered(members) if len(members) == len(found) else None
    return None


class _Array(Flat):
    def __init__(self, space: Any) -> None:
        dtype = tensors.dtype_of(tensors.code_of(np.dtype(space.dtype)))
        self.leaves = [(dtype, tuple(space.shape))]

    def _flatten(self, batched: BatchedValue, found: list[NDArray[Any]]) -> bool:
        found.append(batched)
        return type(batched) is np.ndarray

    def _unflatten(self, arrays: Iterator[NDArray[Any]]) -> BatchedValue:
        return next(arrays)


class _Named(Flat):
    def __init__(self, members: dict[str, Flat]) -> None:
        self._members = members
        self.leaves = [leaf for member in members.values() for leaf in member.leaves]

    def _flatten(self, batched: BatchedValue, found: list[NDArray[Any]]) -> bool:
        if not isinstance(batched, Mapping) or batched.keys() != self._members.keys():
            return False
        return all(member._flatten(batched[name], found) for name, member in self._members.items())

    def _unflatten(self, arrays: Iterator[NDArray[Any]]) -> BatchedValue:
        return {name: member._unflatten(arrays) for name, member in self._members.items()}


class _Ordered(Flat):
    def __init__(self, members: list[Flat]) -> None:
        self._members = members
        self.leaves = [leaf for member in members for leaf in member.leaves]

    def _flatten(self, batched: BatchedValue, found: list[NDArray[Any]]) -> bool:
        if not isinstance(batched, (tuple, list)) or len(batched) != len(self._members):
            return False
        pairs = zip(self._members, batched, strict=True)
        return all(member._flatten(value, found) for member, value in pairs)

    def _unflatten(self, arrays: Iterator[NDArray[Any]]) -> BatchedValue:
        return tuple(member._unflatten(arrays) for member in self._members)
