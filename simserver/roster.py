"""Which agents are in an episode, which of them are to act, and what each saw last."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

import numpy as np

from farsim.errors import SimulatorFault
from simserver import rows
from simserver.last_seen import LastSeen
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
        everyone = [np.ones((num_envs, len(group.agents)), np.bool_) for group in groups]
        #: ``going`` and ``acting`` are these very arrays where that is so.
        self._everyone: list[BoolArray] = everyone
        self.going: list[BoolArray] = [~flags for flags in everyone]
        self.acting: list[BoolArray] = list(self.going)
        self._last = [
            LastSeen(group, flags.size) for group, flags in zip(groups, everyone, strict=True)
        ]
        self.mark()

    @property
    def all_in_episode(self) -> bool:
        """Whether it is sure at a glance that no environment's episode is over."""
        return any(map(is_, self.going, self._everyone))

    def over(self, envs: IntArray) -> BoolArray:
        """Of which of ``envs`` no agent's episode goes on."""
        flags = [going if len(envs) == len(going) else going[envs] for going in self.going]
        together = flags[0] if len(flags) == 1 else np.concatenate(flags, axis=1)
        any_of: BoolArray = together[:, 0] if together.shape[1] == 1 else np.any(together, axis=1)
        return ~any_of

    def to_act(self, number: int, envs: IntArray) -> BoolArray | None:
        """Who of a group's agents in ``envs`` is to act, bool [rows]; None for everyone."""
        acting = self.acting[number]
        if acting is self._everyone[number]:
            return None
        flags = (acting if len(envs) == len(acting) else acting[envs]).reshape(-1)
        return None if np.count_nonzero(flags) == flags.size else flags

    def mark(self) -> None:
        """Remembers how things are, before a step."""
        self._marked = list(self.going)
        for last in self._last:
            last.mark()

    def forget_step(self) -> None:
        """What was seen since the mark may be nonsense: goes back to what was seen before it."""
        for last in self._last:
            last.forget()

    def begin(self, envs: IntArray, batch: Batch) -> None:
        """``batch`` is what new episodes, or loaded ones, of ``envs`` start with."""
        if any(part.rows is not None for part in batch.groups):
            self.end(envs)  # Not all agents take part from the start.
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
            everyone = self._everyone[number]
            whole = part.rows is None and len(envs) == len(everyone)
            ended = _ended(part)
            index = None if whole else rows.of_batch(group, part, envs)
            if part.rows is None and part.acting is None and ended is None:
                self._everyone_goes_on(number, envs)
            elif whole and part.acting is None and ended is not None:
                flags = (~ended).reshape(everyone.shape)
                if batch.started is not None:
                    # A simulator with its own autoreset has begun the next episode already.
                    flags[batch.started] = True
                self.going[number] = self.acting[number] = flags
            else:
                named = rows.of_batch(group, part, envs)
                going = _going_on(group, named, ended, batch.started)
                self.going[number] = self.going[number].copy()
                self.going[number].reshape(-1)[named] = going
                self._note_acting(number, envs, named[going], part.acting)
            self._last[number].note(index, part.observation)

    def last_seen(self, number: int, envs: IntArray) -> BatchedValue:
        """What all of a group's agents in ``envs`` saw last; good until the next batch is noted."""
        if len(envs) == len(self._everyone[number]):
            return self._last[number].whole
        return self._last[number].take(rows.of_environments(self._groups[number], envs))

    def last_rows(self, envs: IntArray) -> list[tuple[IntArray, BatchedValue]]:
        """For each group the rows that a fault of ``envs`` has, and what they saw last.

        They are those whose episode went on at the mark, and where nobody's did, all.
        """
        going = self._marked
        nobody = ~np.any([flags[envs].any(axis=1) for flags in going], axis=0)
        found = []
        for number, group in enumerate(self._groups):
            concerned = going[number][envs] | nobody[:, None]
            index = rows.of_environments(group, envs)[concerned.reshape(-1)]
            found.append((index, self._last[number].take(index)))
        return found

    def _everyone_goes_on(self, number: int, envs: IntArray) -> None:
        """All of a group's agents in ``envs`` are in an episode, and are to act."""
        everyone = self._everyone[number]
        if self.going[number] is everyone and self.acting[number] is everyone:
            return

        def joined(flags: BoolArray) -> BoolArray:
            if len(envs) == len(everyone):
                return everyone
            flags = flags.copy()
            flags[envs] = True
            return everyone if np.count_nonzero(flags) == flags.size else flags

        acting_too = self.acting[number] is self.going[number]
        self.going[number] = joined(self.going[number])
        self.acting[number] = self.going[number] if acting_too else joined(self.acting[number])

    def _note_acting(
        self, number: int, envs: IntArray, going: IntArray, acting: IntArray | None
    ) -> None:
        """Of a group's agents in ``envs`` those that ``acting`` says are to act, None for all.

        Args:
            number: of the group.
            envs: the environments.
            going: the rows in them whose episode goes on.
            acting: what a batch says.
        """
        if acting is not None and not np.isin(acting, going).all():
            raise SimulatorFault(
                f"rows {np.setdiff1d(acting, going).tolist()} of group "
                f"'{self._groups[number].name}' are to act, but have ended, or are not in the "
                "batch"
            )
        flags = self.acting[number].copy()
        flags[envs] = False
        flags.reshape(-1)[going if acting is None else acting] = True
        self.acting[number] = flags


def _ended(part: GroupBatch) -> BoolArray | None:
    """Which rows of a batch have ended; None for none."""
    if part.terminated is None or part.truncated is None:
        return None
    # Of an author's 0 and 1, ~ would make -1 and -2.
    ended = np.asarray(part.terminated | part.truncated, np.bool_)
    return ended if np.count_nonzero(ended) else None


def _going_on(
    group: Group, index: IntArray, ended: BoolArray | None, started: IntArray | None
) -> BoolArray:
    """Which of the rows ``index`` of a batch are of an episode that goes on."""
    if ended is None:
        return np.ones(len(index), np.bool_)
    going = ~ended
    if started is not None and len(started):
        # A simulator with its own autoreset has begun the next episode already.
        environments = index if len(group.agents) == 1 else index // len(group.agents)
        begun = np.zeros(int(environments[-1]) + 1, np.bool_)
        begun[started[started < len(begun)]] = True
        going |= begun[environments]
    return going
