"""Minibatches of a train batch, in the order of RLlib's ``MiniBatchCyclicIterator``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import tree
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns

Order = NDArray[np.int64]


class Rows(dict[str, Any]):
    """Columns of a minibatch.

    Attributes:
        valid: int64, where ``LOSS_MASK`` is True; None if that is everywhere.
        num_valid: in how many rows it is.
    """

    def __init__(self, columns: Mapping[str, Any], valid: torch.Tensor | None, num_valid: int):
        super().__init__(columns)
        self.valid = valid
        self.num_valid = num_valid


class Minibatch:
    """Of all modules, as much of RLlib's ``MultiAgentBatch`` as its learner needs.

    Attributes:
        policy_batches: columns by module.
        is_last: whether no other comes in this update.
    """

    def __init__(self, policy_batches: dict[str, Rows], steps: int, is_last: bool) -> None:
        self.policy_batches = policy_batches
        self.is_last = is_last
        self._steps = steps

    def env_steps(self) -> int:
        """Of the whole batch, as with RLlib."""
        return self._steps


class Minibatches:
    """Every row of every module at least ``epochs`` times.

    Modules with fewer rows begin again while others are not through.

    Args:
        batch: by module and column, nests of tensors [rows, ...].
        steps: environment steps of the batch.
        size: rows of each module in a minibatch; None for all.
        epochs: how often.
        shuffle: whether a module's rows are put into another order, of NumPy's global generator,
            each time it begins again.

    Attributes:
        count: how many there are.
    """

    def __init__(
        self,
        batch: Mapping[str, Mapping[str, Any]],
        *,
        steps: int,
        size: int | None,
        epochs: int,
        shuffle: bool,
    ) -> None:
        self._batch = batch
        self._steps = steps
        lengths = {name: len(columns[Columns.LOSS_MASK]) for name, columns in batch.items()}
        if size is None and epochs == 1:
            self.count = 1
            self._orders = {name: np.arange(length)[None] for name, length in lengths.items()}
            return
        size = size or steps
        self.count = max(math.ceil(epochs * length / size) for length in lengths.values())
        self._orders = _orders(lengths, size, self.count, shuffle)

    def __iter__(self) -> Iterator[Minibatch]:
        modules = {
            name: _rows(columns, self._orders[name]) for name, columns in self._batch.items()
        }
        for number in range(self.count):
            rows = {name: next(minibatches) for name, minibatches in modules.items()}
            yield Minibatch(rows, self._steps, number == self.count - 1)


def are_rows(batch: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether ``Minibatches`` can be made of a batch: tensors alone, and a mask over their rows."""
    for columns in batch.values():
        mask = columns.get(Columns.LOSS_MASK)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 1:
            return False
        for nest in columns.values():
            leaves = tree.flatten(nest)
            # Infos are a list of dicts, which may all be empty.
            if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
                return False
            if any(leaf.ndim == 0 or len(leaf) != len(mask) for leaf in leaves):
                return False
    return True


def _orders(lengths: Mapping[str, int], size: int, count: int, shuffle: bool) -> dict[str, Order]:
    """By module, [count, size]: which rows each minibatch has."""
    rounds = {name: [np.arange(length)] for name, length in lengths.items()}
    for number in range(1, count + 1):
        for name, length in lengths.items():
            # RLlib shuffles as soon as the last row has been taken, even if nothing comes after.
            while number * size >= len(rounds[name]) * length:
                last = rounds[name][-1]
                rounds[name].append(last[np.random.permutation(length)] if shuffle else last)
    return {
        name: np.concatenate(orders)[: count * size].reshape(count, size)
        for name, orders in rounds.items()
    }


def _rows(columns: Mapping[str, Any], order: Order) -> Iterator[Rows]:
    """A module's minibatches. Tensors are put in order for about an epoch at a time."""
    mask = columns[Columns.LOSS_MASK]
    device, length = mask.device, len(mask)
    is_valid = mask.cpu().numpy()
    names = list(columns)
    leaves = [tree.flatten(columns[name]) for name in names]
    is_nest = [not isinstance(columns[name], torch.Tensor) for name in names]
    size = order.shape[1]
    at_once = max(1, length // size)
    for first in range(0, len(order), at_once):
        some = order[first : first + at_once]
        where = torch.from_numpy(some.reshape(-1)).to(device)
        parts = [
            list(zip(*(leaf.index_select(0, where).split(size) for leaf in of_name), strict=True))
            for of_name in leaves
        ]
        for number, rows in enumerate(some):
            kept = np.flatnonzero(is_valid[rows])
            values = (
                tree.unflatten_as(columns[name], part[number]) if nest else part[number][0]
                for name, part, nest in zip(names, parts, is_nest, strict=True)
            )
            valid = None if len(kept) == size else torch.from_numpy(kept).to(device)
            yield Rows(dict(zip(names, values, strict=True)), valid, len(kept))
