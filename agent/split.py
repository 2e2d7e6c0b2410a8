"""Environments of a fleet that are stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.pieces import Masks, Piece
from agent.shard import Shard
from farsim import spaces
from farsim.errors import InvalidAction, InvalidTensor


@dataclass(frozen=True)
class Columns:
    """One group's side of a reset or a step, for all environments of a split.

    Its arrays are new and can be written to. With E environments and A agents, row ``e * A + a`` of
    R is agent ``a`` of environment ``e``.

    Attributes:
        observation: batched value; the last one known where there was none in this call.
        reward: float64 [R]; 0 where absent.
        terminated: bool [R].
        truncated: bool [R].
        present: bool [R]: had a row in this call's replies.
        acting: bool [R]: is to act in the next step.
        action_masks: bool [R, n] for each Discrete and MultiDiscrete leaf of the action space.
    """

    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    present: NDArray[np.bool_]
    acting: NDArray[np.bool_]
    action_masks: Masks


class Split:
    """Consecutive environments, with sessions of their own.

    Args:
        first: the number of the first one in the fleet.
        num_envs: how many.
        shards: where they are, in order.
    """

    def __init__(self, first: int, num_envs: int, shards: Sequence[Shard]) -> None:
        self.first, self.num_envs, self.shards = first, num_envs, tuple(shards)
        self.groups = self.shards[0].groups

    @property
    def environments(self) -> slice:
        """Their numbers in the fleet."""
        return slice(self.first, self.first + self.num_envs)

    def holds(self, piece: Piece) -> bool:
        """Whether a piece is about environments of this split."""
        return self.first <= int(piece.environments[0]) < self.first + self.num_envs

    def fit(self, number: int, actions: Any) -> BatchedValue:
        """The actions of group ``number`` as a batched value, checked where agents are to act.

        Raises:
            InvalidAction: another structure or shape, values that the dtype can not hold, or, of
                an agent that is to act, not in the action space.
        """
        group = self.groups[number]
        space, agents = group.action_space, group.agents
        count = self.num_envs * len(agents)
        try:
            # Through a batch of one part, which converts what can be without changing a value.
            fitted = spaces.concatenate(space, [(actions, count)])
        except InvalidTensor as error:
            whose = "" if len(self.groups) == 1 else f" of group '{group.name}'"
            raise InvalidAction(f"actions{whose}: {error.message}", "actions") from None
        seen = [shard.seen[number] for shard in self.shards]
        rows, chosen, named = None, fitted, count
        if not all(last.everyone_acts for last in seen):
            rows = np.flatnonzero(np.concatenate([last.acting for last in seen]))
            chosen, named = spaces.take(space, fitted, rows), len(rows)
        try:
            spaces.check(space, chosen, named, InvalidAction, "actions")
        except InvalidAction as error:
            first = int(spaces.outside(space, chosen, named)[0])
            env, agent = divmod(first if rows is None else int(rows[first]), len(agents))
            what = error.message.removeprefix(f"row {first}").removeprefix(":").lstrip()
            raise InvalidAction(
                f"action of '{agents[agent]}' in environment {self.first + env}: {what}", "actions"
            ) from None
        return fitted

    def part_for(self, shard: Shard, actions: Sequence[BatchedValue]) -> Sequence[BatchedValue]:
        """Of the actions of every group, made by ``fit``, those of one shard."""
        if len(self.shards) == 1:
            return actions
        parts = []
        for group, action in zip(self.groups, actions, strict=True):
            agents, first = len(group.agents), shard.first - self.first
            rows = slice(first * agents, (first + shard.num_envs) * agents)
            parts.append(spaces.take(group.action_space, action, rows))
        return parts

    def columns(self, number: int, pieces: Sequence[Piece]) -> Columns:
        """Group ``number``, after a call that brought ``pieces``."""
        group = self.groups[number]
        agents = len(group.agents)
        count = self.num_envs * agents
        seen = [shard.seen[number] for shard in self.shards]
        parts = [piece.groups[number] for piece in pieces]
        if len(parts) == len(seen) and sum(len(part.rows) for part in parts) == count:
            # Each shard's rows in one piece, so that they are in order.
            reward = np.concatenate([part.reward for part in parts])
            terminated = np.concatenate([part.terminated for part in parts])
            truncated = np.concatenate([part.truncated for part in parts])
            present = np.ones(count, np.bool_)
        else:
            reward = np.zeros(count)
            terminated, truncated, present = (np.zeros(count, np.bool_) for _ in range(3))
            for part in parts:
                rows = part.rows - self.first * agents
                reward[rows] = part.reward
                terminated[rows] = part.terminated
                truncated[rows] = part.truncated
                present[rows] = True
        return Columns(
            spaces.concatenate(
                group.observation_space, [(last.observation, len(last.acting)) for last in seen]
            ),
            reward,
            terminated,
            truncated,
            present,
            np.concatenate([last.acting for last in seen]),
            tuple(
                np.concatenate(leaf) for leaf in zip(*(last.masks for last in seen), strict=True)
            ),
        )
