"""A simulator with two kinds of agents, whose spaces have to be translated for networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from farsim import spaces
from simserver.simulator import Batch, BatchedValue, BatchSimulator, Group, GroupBatch, IntArray

_LENGTH = 5


class Garage(BatchSimulator):
    """Drivers choose a gear of those that are allowed, counted from 2; a pump gives numbers.

    Nothing follows from what they do; an episode has 5 steps.
    """

    def __init__(self, num_envs: int) -> None:
        seen = Dict({"gear": Discrete(4), "speed": Box(-50.0, 50.0, (2,), np.float32)})
        self.groups = (
            Group(seen, Discrete(4, start=2), ("ann", "bob"), "drivers", has_action_mask=True),
            Group(Box(-9, 9, (3,), np.float64), Box(-2, 6, (1,), np.float32), ("pump",), "pumps"),
        )
        self._time = np.zeros(num_envs, np.int64)

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        self._time[envs] = 0
        return Batch([self._part(group, envs) for group in self.groups], started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        self._time[envs] += 1
        parts = []
        for group in self.groups:
            part = self._part(group, envs)
            rows = len(envs) * len(group.agents)
            part.reward = np.ones(rows)
            part.terminated = np.zeros(rows, np.bool_)
            part.truncated = np.repeat(self._time[envs] >= _LENGTH, len(group.agents))
            parts.append(part)
        return Batch(parts)

    def _part(self, group: Group, envs: IntArray) -> GroupBatch:
        rows = len(envs) * len(group.agents)
        space = group.observation_space
        part = GroupBatch(spaces.batch(space, [space.sample() for _ in range(rows)]))
        if group.has_action_mask:
            part.action_masks = (np.array([[True, False, True, True]]).repeat(rows, axis=0),)
        return part
