"""What each agent saw last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from farsim import spaces
from farsim.spaces.flat import flat
from simserver.simulator import BatchedValue, Group, IntArray


class LastSeen:
    """The last observation of each row of a group, with a mark to go back to.

    Args:
        group: whose.
        count: how many rows it has, over all environments.
    """

    def __init__(self, group: Group, count: int) -> None:
        self._space = group.observation_space
        self._count = count
        self._flat = flat(self._space)
        self._whole = self._leaves(count)
        #: As a batched value, or as arrays if the space has nothing else: then two sets of them
        #: change roles, and the marked one is not written to.
        self._now: Any = None
        self._marked: Any = None
        self._spare: list[NDArray[Any]] | None = None

    def mark(self) -> None:
        """Remembers how things are."""
        if self._marked is not self._now:
            self._spare, self._marked = self._marked, self._now

    def forget(self) -> None:
        """Goes back to the mark."""
        if self._marked is not self._now:
            self._spare, self._now = self._now, self._marked

    def note(self, index: IntArray | None, observation: BatchedValue) -> None:
        """``index`` are the rows of ``observation``, None for all; it is copied.

        Raises:
            InvalidTensor: the observation does not fit the space.
        """
        count = self._count if index is None else len(index)
        if self._flat is None:
            everything = index is None or count == self._count
            part = spaces.concatenate(self._space, [(observation, count)])
            before = None if everything else self.whole
            self._now = part if everything else spaces.put(self._space, before, index, part)  # type: ignore[arg-type]
            return
        arrays = self._flat.flatten(observation)
        leaves = self._whole if index is None else self._leaves(count)
        if arrays is None or [(each.dtype, each.shape) for each in arrays] != leaves:
            fitting = spaces.concatenate(self._space, [(observation, count)])
            arrays = self._flat.flatten(fitting) or []
        kept = self._writable(index is None)
        for array, new in zip(kept, arrays, strict=True):
            array[... if index is None else index] = new

    @property
    def whole(self) -> BatchedValue:
        """The last observations of all rows, zeros where there is none; good until ``note``."""
        if self._now is None:
            self._now = self._zeros()
        return self._now if self._flat is None else self._flat.unflatten(self._now)

    def take(self, index: IntArray) -> BatchedValue:
        """A copy of the last observations of rows, zeros where there is none."""
        return spaces.take(self._space, self.whole, index)

    def _leaves(self, rows: int) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and shape of each array of so many rows."""
        leaves = [] if self._flat is None else self._flat.leaves
        return [(dtype, (rows, *shape)) for dtype, shape in leaves]

    def _zeros(self) -> Any:
        value = spaces.zeros(self._space, self._count)
        return value if self._flat is None else self._flat.flatten(value)

    def _writable(self, whole: bool) -> list[NDArray[Any]]:
        """The arrays to write to, with what they have to have before."""
        if self._now is None or self._now is self._marked:
            before, self._now = self._now, self._spare or self._zeros()
            self._spare = None
            if not whole:
                for array, old in zip(self._now, before or self._zeros(), strict=True):
                    array[...] = old
        return self._now
