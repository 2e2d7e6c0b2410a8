"""Environments of a fleet that are stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue
from agent.pieces import Masks, Piece
from agent.shard import Shard
from farsim import spaces
from farsim.errors import InvalidAction, InvalidTensor


class Columns(NamedTuple):
    """One group's side of a reset or a step, for all environments of a split.

    Its arrays are new and can be written to. With E environments and A agents, row ``e * A + a`` of
    R is agent ``a`` of environment ``e``.

    Attributes:
        observation: batched value; the last one known where there was none in this call.
        reward: float64 [R]; 0 where absent.
        terminated: bool [R].
        truncated: bool [R].
        action_masks: bool [R, n] for each Discrete and MultiDiscrete leaf of the action space.
    """

    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
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
        #: Their numbers in the fleet.
        self.environments = slice(first, first + num_envs)

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
        is_plain = type(actions) is np.ndarray and actions.shape == (count,)
        if is_plain and spaces.is_surely_inside(space, actions):
            return actions.astype(space.dtype, copy=False)
        try:
            fitted = spaces.fitted(space, actions, count)
        except InvalidTensor as error:
            whose = "" if len(self.groups) == 1 else f" of group '{group.name}'"
            raise InvalidAction(f"actions{whose}: {error.message}", "actions") from None
        if isinstance(fitted, np.ndarray) and not len(spaces.outside(space, fitted, count)):
            return fitted  # Whoever is to act.
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
        count = self.num_envs * len(group.agents)
        seen = [shard.seen[number] for shard in self.shards]
        parts = [piece.groups[number] for piece in pieces]
        if len(parts) == len(seen) and sum(len(part.rows) for part in parts) == count:
            # Each shard's rows in one piece, so that they are in order.
            reward = _joined([part.reward for part in parts])
            terminated = _joined([part.terminated for part in parts])
            truncated = _joined([part.truncated for part in parts])
        else:
            reward = np.zeros(count)
            terminated, truncated = np.zeros((2, count), np.bool_)
            for part in parts:
                rows = part.rows - self.first * len(group.agents)
                reward[rows] = part.reward
                terminated[rows] = part.terminated
                truncated[rows] = part.truncated
        observations = [last.observation for last in seen]
        if isinstance(observations[0], np.ndarray):
            observation = _joined(observations)
        else:
            counts = [len(last.everyone) for last in seen]
            observation = spaces.concatenate(
                group.observation_space, list(zip(observations, counts, strict=True))
            )
        masks = tuple(_joined(leaf) for leaf in zip(*(last.masks for last in seen), strict=True))
        return Columns(observation, reward, terminated, truncated, masks)

    def present(self, number: int, pieces: Sequence[Piece]) -> NDArray[np.bool_]:
        """Who of group ``number`` had a row in the call that brought ``pieces``: bool [R]."""
        agents = len(self.groups[number].agents)
        present = np.zeros(self.num_envs * agents, np.bool_)
        for piece in pieces:
            present[piece.groups[number].rows - self.first * agents] = True
        return present

    def acting(self, number: int) -> NDArray[np.bool_]:
        """Who of group ``number`` is to act in the next step: bool [R]."""
        return _joined([shard.seen[number].acting for shard in self.shards])


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One after the other, in a new array."""
    return arrays[0].copy() if len(arrays) == 1 else np.concatenate(arrays)
