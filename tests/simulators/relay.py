"""A two-agent simulator whose agents end at different times, and which fails when told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    Info,
    IntArray,
    Parameter,
)

FAIL = 3


class Relay(BatchSimulator):
    """The short agent ends after ``length`` steps, the long one after twice as many.

    An observation is (environment, episode of this environment, step). Action ``FAIL`` of
    environment 0's short agent makes the whole simulator raise, action ``FAIL`` of another
    environment's makes just that environment fail.
    """

    parameters = (
        Parameter("length", Discrete(10, start=1), np.int64(2), per_episode=True),
        Parameter("offset", Discrete(100), np.int64(0)),
    )

    def __init__(self, num_envs: int, *, length: np.int64, offset: np.int64) -> None:
        space = Box(-1, 2**31, (3,), np.int64)
        self.groups = (Group(space, Discrete(4), ("short", "long"), name="runners"),)
        self._episode = np.full(num_envs, int(offset) - 1)
        self._step = np.zeros(num_envs, np.int64)
        self._length = np.full(num_envs, length)

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        self._episode[envs] += 1
        self._step[envs] = 0
        if "length" in options:
            self._length[envs] = options["length"]
        rows = (envs[:, None] * 2 + np.arange(2)).reshape(-1)
        batch = Batch([GroupBatch(self._observe(rows), rows=rows)], started=envs)
        batch.episode_options = {"length": self._length[envs]}
        return batch

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        short_action = actions[0].reshape(len(envs), 2)[:, 0]
        if np.any((short_action == FAIL) & (envs == 0)):
            raise RuntimeError("all of it broke")
        self._step[envs] += 1
        faults: dict[int, Exception] = {
            int(env): RuntimeError("one broke") for env in envs[short_action == FAIL]
        }
        step, length = self._step[envs], self._length[envs]
        failed = short_action == FAIL
        present = np.stack([(step <= length) | failed, np.ones(len(envs), np.bool_)], axis=1)
        ended = np.stack([step == length, step == 2 * length], axis=1) & ~failed[:, None]
        rows = (envs[:, None] * 2 + np.arange(2))[present]
        count = len(rows)
        part = GroupBatch(
            self._observe(rows),
            reward=np.repeat(step, 2).reshape(-1, 2)[present].astype(np.float64),
            terminated=ended[present],
            truncated=np.repeat(failed, 2).reshape(-1, 2)[present],
            infos={
                "step": Info(self._step[rows // 2]),
                "even": Info(np.ones(int((rows % 2 == 0).sum())), np.flatnonzero(rows % 2 == 0)),
            },
            rows=rows,
        )
        if failed.any():
            part.reward = np.where(np.repeat(failed, 2).reshape(-1, 2)[present], 0, part.reward)
        assert count == len(part.reward)
        return Batch([part], faults)

    def _observe(self, rows: IntArray) -> np.ndarray:
        env = rows // 2
        return np.stack([env, self._episode[env], self._step[env]], axis=1)
