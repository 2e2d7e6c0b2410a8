"""Actions to send: allowed ones, and ones that are wrong in one way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces as kinds

from farsim import spaces, tensors
from farsim.v1 import tensor_pb2


def allowed(space: gym.Space[Any], masks: Iterator[np.ndarray[Any, Any]] | None) -> Any:
    """A member of ``space``, drawn by the space's own generator, that the masks allow.

    Args:
        space: of one action.
        masks: one row of each mask, depth first; None for no masks.
    """
    if masks is None:
        return space.sample()
    if isinstance(space, kinds.Dict):
        return {name: allowed(member, masks) for name, member in space.spaces.items()}
    if isinstance(space, kinds.Tuple):
        return tuple(allowed(member, masks) for member in space.spaces)
    if isinstance(space, kinds.Discrete):
        return int(space.start) + _draw(space, next(masks))
    if isinstance(space, kinds.MultiDiscrete):
        widths = space.nvec.reshape(-1)
        pieces = np.split(next(masks), np.cumsum(widths)[:-1])
        drawn = np.array([_draw(space, piece) for piece in pieces]).reshape(space.shape)
        return (space.start + drawn).astype(space.dtype)
    for _ in spaces.mask_widths(space):
        next(masks)
    return space.sample()


def _draw(space: gym.Space[Any], mask: np.ndarray[Any, Any]) -> int:
    choices = np.flatnonzero(mask)
    # With nothing allowed anything may be sent: the check of masks says that this is wrong.
    return int(space.np_random.choice(choices if len(choices) else len(mask)))


def outside(
    space: gym.Space[Any], batch: list[tensor_pb2.Tensor], row: int
) -> list[tensor_pb2.Tensor] | None:
    """``batch`` with one element of ``row`` outside the space; None if every value is inside."""
    for first, leaf in enumerate(_array_leaves(space)):
        if leaf is None:
            return None
        strange = _strange(leaf)
        array = tensors.unpack(batch[first]).copy()
        if strange is not None and array[row].size:
            array.reshape(len(array), -1)[row, 0] = strange
            return [*batch[:first], tensors.pack(array), *batch[first + 1 :]]
    return None


def _array_leaves(space: gym.Space[Any]) -> Iterator[Any]:
    """The leaves up to the first one that is no array, for which None stands."""
    if isinstance(space, (kinds.Dict, kinds.Tuple)):
        for member in spaces.members(space).values():
            yield from _array_leaves(member)
    elif isinstance(space, (kinds.Box, kinds.Discrete, kinds.MultiDiscrete, kinds.MultiBinary)):
        yield space
    else:
        yield None


def _strange(leaf: Any) -> Any:
    """A value of the leaf's dtype that its first element does not take; None if there is none."""
    if isinstance(leaf, kinds.MultiBinary):
        return 2
    dtype = np.dtype(leaf.dtype)
    if dtype.kind == "f":
        return np.nan
    if dtype.kind == "b":
        return None
    if isinstance(leaf, kinds.Box):
        low, high = int(leaf.low.reshape(-1)[0]), int(leaf.high.reshape(-1)[0])
    else:
        start = np.asarray(leaf.start).reshape(-1)[0]
        count = leaf.n if isinstance(leaf, kinds.Discrete) else leaf.nvec.reshape(-1)[0]
        low, high = int(start), int(start) + int(count) - 1
    limits = np.iinfo(dtype)
    if high < limits.max:
        return high + 1
    return low - 1 if low > limits.min else None


def of_another_dtype(batch: list[tensor_pb2.Tensor]) -> list[tensor_pb2.Tensor]:
    """``batch`` whose first tensor has another dtype of the same meaning."""
    array = tensors.unpack(batch[0])
    other = np.float32 if array.dtype != np.float32 else np.float64
    return [tensors.pack(array.astype(other)), *batch[1:]]


def of_another_shape(batch: list[tensor_pb2.Tensor]) -> list[tensor_pb2.Tensor]:
    """``batch`` whose first tensor has one dimension more."""
    return [tensors.pack(tensors.unpack(batch[0])[..., None]), *batch[1:]]


def of_missing_bytes(batch: list[tensor_pb2.Tensor]) -> list[tensor_pb2.Tensor]:
    """``batch`` whose first tensor lacks its last byte."""
    broken = tensor_pb2.Tensor()
    broken.CopyFrom(batch[0])
    broken.data = broken.data[:-1]
    return [broken, *batch[1:]]
