"""What was last seen of a group's agents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue, GroupBatch, IntArray, going_on, rows_of
from agent.description import Group
from agent.pieces import Masks
from farsim import spaces


class LastSeen:
    """The rows of one group on one shard, counted from the shard's first.

    Args:
        group: the agents and their spaces.
        num_envs: how many environments the shard has.

    Its arrays are replaced, never written to.

    Attributes:
        everyone: bool [rows], all True; ``going_on`` and ``acting`` are this very array when that
            holds for all.
        observation: batched value of all rows; None before the first reset.
        masks: of all rows.
        going_on: bool [rows]: whether the agent's episode goes on. With ``SAME_STEP`` also where
            it ended with its environment's, and the reply leaves open whether the agent is in the
            new episode and waits, or joins it later, if at all; until the next batch tells.
        acting: bool [rows]: whether the agent is to act in the next step.
    """

    def __init__(self, group: Group, num_envs: int) -> None:
        self.group = group
        self.observation: BatchedValue = None
        self.masks: Masks = ()
        self._agents = len(group.agents)
        self._count = num_envs * self._agents
        #: Of each row.
        self._environments = np.arange(self._count) // self._agents
        self.everyone = np.ones(self._count, np.bool_)
        self.going_on = self.acting = self._in_doubt = ~self.everyone
        self._has_doubts = False

    def blank(self) -> None:
        """Stands in for what has not been seen yet: zeros, and everything allowed."""
        self.observation = spaces.zeros(self.group.observation_space, self._count)
        if self.group.has_action_mask:
            self.masks = spaces.full_masks(self.group.action_space, self._count)

    @property
    def everyone_acts(self) -> bool:
        """Whether all agents of all environments are to act."""
        return self.acting is self.everyone

    def note(
        self, part: GroupBatch, first_row: int, environments: IntArray, started: IntArray
    ) -> None:
        """Remembers a batch about ``environments``.

        Args:
            part: whose rows count from ``first_row`` on.
            first_row: of the shard.
            environments: those that the batch is about, counted from the shard's first.
            started: those of them whose episode began.
        """
        if len(part.rows) == self._count:
            self._note_all(part, first_row, started)
            return
        index = part.rows - first_row if first_row else part.rows
        ended = part.terminated | part.truncated
        self.going_on = self._after(index, ended, environments, started)
        self.acting = self.acting.copy()
        self.acting[rows_of(environments, self._agents)] = False
        self.acting[part.acting - first_row] = True
        if self._has_doubts or np.count_nonzero(ended):
            self._note_doubts(ended, index, environments)
        group = self.group
        if self.observation is None:
            self.blank()
        self.observation = spaces.put(
            group.observation_space, self.observation, index, part.observation
        )
        masks = tuple(mask.copy() for mask in self.masks)
        for mask, seen in zip(masks, part.action_masks, strict=True):
            mask[index] = seen
        self.masks = masks

    def _note_all(self, part: GroupBatch, first_row: int, started: IntArray) -> None:
        """As ``note``, of a batch with all rows."""
        self.observation, self.masks = part.observation, part.action_masks
        self.going_on = self.everyone
        if part.acting is not part.rows:
            ended = part.terminated | part.truncated
            if np.count_nonzero(ended):
                self.going_on = going_on(self._environments, ended, started)
        if len(part.acting) == self._count:
            self.acting = self.everyone
        else:
            self.acting = np.zeros(self._count, np.bool_)
            self.acting[part.acting - first_row] = True
        if self.acting is not self.everyone or self._has_doubts:
            ended = part.terminated | part.truncated
            self._in_doubt = ended & self.going_on & ~self.acting
            self._has_doubts = bool(np.count_nonzero(self._in_doubt))

    def _after(
        self,
        index: IntArray,
        ended: NDArray[np.bool_],
        environments: IntArray,
        started: IntArray,
    ) -> NDArray[np.bool_]:
        """Whose episode goes on after a batch about the rows ``index``; see ``note``."""
        after = self.going_on.copy()
        named = rows_of(environments, self._agents)
        after[named[self._in_doubt[named]]] = False
        # Of the episode before, nobody is left.
        after[rows_of(started, self._agents)] = False
        after[index] = going_on(index // self._agents, ended, started)
        return after

    def _note_doubts(
        self, ended: NDArray[np.bool_], index: IntArray, environments: IntArray
    ) -> None:
        self._in_doubt = self._in_doubt.copy()
        self._in_doubt[rows_of(environments, self._agents)] = False
        self._in_doubt[index] = ended & self.going_on[index] & ~self.acting[index]
        self._has_doubts = bool(self._in_doubt.any())

    def to_send(
        self, environments: IntArray, idle: Callable[[], NDArray[np.bool_]]
    ) -> IntArray | None:
        """The rows whose actions a step of ``environments`` carries; None for all of them.

        Args:
            environments: counted from the shard's first.
            idle: says for each of them, bool, whether no agent's episode goes on: their actions
                are of no consequence, and no reason to name rows.
        """
        if self.everyone_acts:
            return None
        rows = rows_of(environments, self._agents)
        acting = self.acting[rows]
        alone = idle() if self._agents == 1 else np.repeat(idle(), self._agents)
        if np.count_nonzero(acting | alone) == len(rows):
            return None
        return rows[acting]

    def ending(
        self, environments: IntArray, idle: NDArray[np.bool_]
    ) -> tuple[IntArray, BatchedValue, Masks]:
        """The rows whose episode ends when ``environments`` do, and what was last seen of them.

        Args:
            environments: counted from the shard's first.
            idle: bool, for each of them whether no agent's episode goes on; then all agents count.
        """
        rows = rows_of(environments, self._agents)
        rows = rows[self.going_on[rows] | np.repeat(idle, self._agents)]
        observation = spaces.take(self.group.observation_space, self.observation, rows)
        return rows, observation, tuple(mask[rows] for mask in self.masks)
