"""Which agents are in an episode, which of them are to act, and what each saw last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farsim import spaces
from farsim.errors import SimulatorFault
from simserver import rows
from simserver.simulator import Batch, BatchedValue, BoolArray, Group, GroupBatch, IntArray


class Roster:
    """Kept from the batches that a simulator returns.

    Its arrays are replaced, never written to: who has one keeps what was the case then.

    Args:
        groups: the simulator's.
        num_envs: how many environments it has.

    Attributes:
        going: for each group bool [envs, agents], whose episode goes on.
        acting: for each group bool [envs, agents], who is to act in the next step; a part of
            ``going``.
    """

    def __init__(self, groups: Sequence[Group], num_envs: int) -> None:
        self._groups = tuple(groups)
        self.going: list[BoolArray] = [
            np.zeros((num_envs, len(group.agents)), np.bool_) for group in groups
        ]
        self.acting: list[BoolArray] = list(self.going)
        self._last: list[BatchedValue] = [None] * len(self._groups)
        self.mark()

    def over(self, envs: IntArray) -> BoolArray:
        """Of which of ``envs`` no agent's episode goes on."""
        over = np.ones(len(envs), np.bool_)
        for going in self.going:
            of_envs = going if len(envs) == len(going) else going[envs]
            over &= ~of_envs.any(axis=1)
        return over

    def mark(self) -> None:
        """Remembers how things are, before a step."""
        self._marked = list(self.going), list(self._last)

    def forget_step(self) -> None:
        """What was seen since the mark may be nonsense: goes back to what was seen before it."""
        self._last = list(self._marked[1])

    def begin(self, envs: IntArray, batch: Batch) -> None:
        """``batch`` is what new episodes, or loaded ones, of ``envs`` start with."""
        self.end(envs)
        self.note(envs, batch)

    def end(self, envs: IntArray) -> None:
        """The episodes of ``envs`` are over for all their agents."""
        for state in (self.going, self.acting):
            for number, flags in enumerate(state):
                state[number] = flags.copy()
                state[number][envs] = False

    def note(self, envs: IntArray, batch: Batch) -> None:
        """Takes over what ``batch`` says of ``envs``.

        Raises:
            SimulatorFault: it says that a row acts which it lacks, or which has ended.
            InvalidTensor: an observation does not fit its space.
        """
        for number, (group, part) in enumerate(zip(self._groups, batch.groups, strict=True)):
            whole = part.rows is None and len(envs) == len(self.going[number])
            index = rows.of_batch(group, part, envs)
            going = _going_on(group, part, index, batch.started)
            if whole:
                self.going[number] = going.reshape(self.going[number].shape)
            else:
                self.going[number] = self.going[number].copy()
                self.going[number].reshape(-1)[index] = going
            if part.acting is None and whole:
                self.acting[number] = self.going[number]
            else:
                self.acting[number] = self.acting[number].copy()
                self.acting[number][envs] = False
                acting = index[going] if part.acting is None else part.acting
                if part.acting is not None and not np.isin(acting, index[going]).all():
                    raise SimulatorFault(
                        f"rows {np.setdiff1d(acting, index[going]).tolist()} of group "
                        f"'{group.name}' are to act, but have ended, or are not in the batch"
                    )
                self.acting[number].reshape(-1)[acting] = True
            self._remember(number, index, part.observation)

    def last_rows(self, envs: IntArray) -> list[tuple[IntArray, BatchedValue]]:
        """For each group the rows that a fault of ``envs`` has, and what they saw last.

        They are those whose episode went on at the mark, and where nobody's did, all.
        """
        going = self._marked[0]
        nobody = ~np.any([flags[envs].any(axis=1) for flags in going], axis=0)
        found = []
        for number, group in enumerate(self._groups):
            concerned = going[number][envs] | nobody[:, None]
            index = rows.of_environments(group, envs)[concerned.reshape(-1)]
            if self._last[number] is None:
                self._last[number] = self._zeros(number)
            found.append((index, spaces.take(group.observation_space, self._last[number], index)))
        return found

    def _remember(self, number: int, index: IntArray, observation: BatchedValue) -> None:
        space = self._groups[number].observation_space
        if len(index) == self.going[number].size:
            # A copy, since the simulator may reuse its arrays.
            self._last[number] = spaces.take(space, observation, index)
            return
        if self._last[number] is None:
            self._last[number] = self._zeros(number)
        self._last[number] = spaces.put(space, self._last[number], index, observation)

    def _zeros(self, number: int) -> BatchedValue:
        return spaces.zeros(self._groups[number].observation_space, self.going[number].size)


def _going_on(
    group: Group, part: GroupBatch, index: IntArray, started: IntArray | None
) -> BoolArray:
    """Which of the rows ``index`` of a batch are of an episode that goes on."""
    if part.terminated is None or part.truncated is None:
        return np.ones(len(index), np.bool_)
    # Of an author's 0 and 1, ~ would make -1 and -2.
    going: BoolArray = ~np.asarray(part.terminated | part.truncated, np.bool_)
    if started is not None:
        # A simulator with its own autoreset has begun the next episode already.
        going |= np.isin(index, rows.of_environments(group, started))
    return going
