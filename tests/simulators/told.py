"""A simulator whose observations, rewards and infos say where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from simserver.simulator import Batch, BatchSimulator, Group, GroupBatch, Info, IntArray, Parameter

#: Of an observation: number of the episode, agent, time, what was done last, how it began.
EPISODE, AGENT, TIME, ACTION, DRAWN = range(5)


class Told(BatchSimulator):
    """Two teams, ``runners`` (2) and ``keeper`` (1); the second runner leaves after 3 steps.

    Agents of environment e in its episode k see (e + 1) * 1000 + k, their own number, the time,
    and their last action; a step is worth time + 100 * (the agent's number + 1).
    """

    parameters = (
        Parameter("length", Box(1, 1000, (), np.int64), 7),
        Parameter("terminates", Discrete(2), 0),
        Parameter("fails_every", Box(0, 10_000, (), np.int64), 0),
    )

    def __init__(self, num_envs: int, *, length: int, terminates: int, fails_every: int) -> None:
        self._length, self._terminates, self._fails_every = int(length), terminates, fails_every
        space = Box(-1e9, 1e9, (5,), np.float32)
        self.groups = (
            Group(space, Discrete(5), ("runner_0", "runner_1"), "runners"),
            Group(space, Box(0, 1, (2,), np.float32), ("keeper",), "keeper"),
        )
        self._time = np.zeros(num_envs, np.int64)
        self._episode = np.zeros(num_envs, np.int64)
        self._drawn = np.zeros(num_envs)
        self._random = [np.random.default_rng() for _ in range(num_envs)]
        self._steps = 0

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, Any]
    ) -> Batch:
        for place, env in enumerate(envs.tolist()):
            if seeds is not None:
                self._random[env] = np.random.default_rng(seeds[place] & 2**64 - 1)
            self._drawn[env] = self._random[env].random()
        self._time[envs] = 0
        self._episode[envs] += 1
        return Batch([GroupBatch(self._seen(envs, group, None)) for group in (0, 1)], started=envs)

    def step(self, envs: IntArray, actions: Sequence[Any]) -> Batch:
        self._time[envs] += 1
        self._steps += len(envs)
        time = self._time[envs]
        over = time >= self._length
        parts = []
        for group in (0, 1):
            agents = len(self.groups[group].agents)
            action = np.asarray(actions[group], np.float64).reshape(len(envs) * agents, -1)[:, 0]
            seen = self._seen(envs, group, action)
            number = np.tile(np.arange(agents) + 2 * group, len(envs))
            reward = np.repeat(time, agents) + 100.0 * (number + 1)
            ended = np.repeat(over, agents)
            terminated = ended if self._terminates else np.zeros_like(ended)
            truncated = np.zeros_like(ended) if self._terminates else ended
            rows = (envs[:, None] * agents + np.arange(agents)).reshape(-1)
            keep = np.ones(len(rows), np.bool_)
            if not group:
                leaves = (number == 1) & (np.repeat(time, agents) == 3)
                terminated = terminated | leaves
                truncated = truncated & ~leaves
                keep = (number == 0) | (np.repeat(time, agents) <= 3)
            parts.append(
                GroupBatch(
                    seen[keep],
                    reward[keep],
                    terminated[keep],
                    truncated[keep],
                    infos={"time": Info(np.repeat(time, agents)[keep].astype(np.float64))},
                    rows=rows[keep],
                )
            )
        faults: dict[int, Exception] = {}
        if self._fails_every and self._steps % self._fails_every < len(envs):
            faults = {int(envs[0]): RuntimeError("out of order")}
            for group, part in enumerate(parts):
                bad = part.rows // len(self.groups[group].agents) == envs[0]
                part.reward[bad], part.terminated[bad], part.truncated[bad] = 0.0, False, True
        return Batch(parts, faults)

    def _seen(self, envs: IntArray, group: int, action: Any) -> np.ndarray:
        agents = len(self.groups[group].agents)
        seen = np.zeros((len(envs) * agents, 5), np.float32)
        seen[:, EPISODE] = np.repeat((envs + 1) * 1000 + self._episode[envs], agents)
        seen[:, AGENT] = np.tile(np.arange(agents) + 2 * group, len(envs))
        seen[:, TIME] = np.repeat(self._time[envs], agents)
        seen[:, ACTION] = -1 if action is None else action
        seen[:, DRAWN] = np.repeat(self._drawn[envs], agents)
        return seen
