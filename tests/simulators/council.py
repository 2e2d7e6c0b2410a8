"""Agents that take turns, leave early and join late, all in one simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete

from simserver.simulator import Batch, BatchedValue, BatchSimulator, Group, GroupBatch, IntArray

#: The speaker's action that makes its environment fail; environment 0's makes all fail.
FAIL = 4
#: The one that makes the reply to the step nonsense.
NONSENSE = 3
#: Steps after which the first speaker is done, the last one joins, and all others are stopped.
LEAVES, JOINS, END = 3, 2, 4


class Council(BatchSimulator):
    """Speakers take turns; a clerk acts after every second step, and sees what was said.

    An observation is (environment, episode of this environment, step, own action as it arrived).
    The speaker whose turn it is gets its action as reward, everyone else -1.
    """

    def __init__(self, num_envs: int) -> None:
        space = Box(-1, 2**31, (4,), np.int64)
        self.groups = (
            Group(space, Discrete(5), ("speaker_0", "speaker_1", "speaker_2"), "speakers"),
            Group(space, Discrete(3, start=1), ("clerk",), "clerks", has_action_mask=True),
        )
        self._episode = np.full(num_envs, -1)
        self._step = np.zeros(num_envs, np.int64)

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        self._episode[envs] += 1
        self._step[envs] = 0
        speakers = [int(env) * 3 + speaker for env in envs for speaker in (0, 1)]
        no_actions = [np.full(3 * len(envs), -1), np.full(len(envs), -1)]
        parts = [
            self._part(0, envs, speakers, no_actions[0]),
            self._part(1, envs, envs.tolist(), no_actions[1]),
        ]
        return Batch(parts, started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        said, written = actions
        said_by = said.reshape(-1, 3)
        turns = [self._turn(int(env)) for env in envs]
        words = np.array([said_by[place, turn] for place, turn in enumerate(turns)])
        if np.any((words == FAIL) & (envs == 0)):
            raise RuntimeError("all of it broke")
        faults: dict[int, Exception] = {
            int(env): RuntimeError("one broke") for env in envs[words == FAIL]
        }
        before = self._step[envs]
        self._step[envs] += 1
        speakers = [
            int(env) * 3 + speaker
            for env, step in zip(envs, before, strict=True)
            for speaker in range(3)
            if not (speaker == 0 and step >= LEAVES)
            and (speaker < 2 or step >= JOINS or (step + 1 == JOINS and env not in faults))
        ]
        clerks = self._part(1, envs, envs.tolist(), written)
        part = self._part(0, envs, speakers, said)
        place = {int(env): where for where, env in enumerate(envs)}
        part.reward = np.full(len(speakers), -1.0)
        for at, row in enumerate(speakers):
            if turns[place[row // 3]] == row % 3:
                part.reward[at] = words[place[row // 3]]
        clerks.reward = np.full(len(envs), -1.0)
        if np.any(words == NONSENSE):
            clerks.observation = clerks.observation[:, :2]
        for each, size in ((part, 3), (clerks, 1)):
            rows = envs if each.rows is None else each.rows
            step = self._step[rows // size]
            failed = np.isin(rows // size, list(faults))
            early = (
                (rows % size == 0) & (step == LEAVES) if size == 3 else np.zeros(len(rows), bool)
            )
            each.terminated = early & ~failed
            each.truncated = (step == END) | failed
            each.reward = np.where(failed, 0.0, each.reward)
            over = each.terminated | each.truncated
            each.acting = np.intersect1d(each.acting, rows[~over])
        return Batch([part, clerks], faults)

    def _turn(self, env: int) -> int:
        """Who is to speak: the speakers who are there, in turn."""
        step = int(self._step[env])
        there = [0] * (step < LEAVES) + [1] + [2] * (step >= JOINS)
        return there[step % len(there)]

    def _part(self, group: int, envs: IntArray, rows: list[int], actions: np.ndarray) -> GroupBatch:
        index = np.array(rows, np.int64)
        size = len(self.groups[group].agents)
        env = index // size
        own = actions[np.searchsorted(envs, env) * size + index % size]
        observation = np.stack([env, self._episode[env], self._step[env], own], axis=1)
        if group == 0:
            acting = np.array([int(e) * 3 + self._turn(int(e)) for e in envs], np.int64)
            return GroupBatch(observation, rows=index, acting=acting)
        return GroupBatch(
            observation,
            acting=envs[self._step[envs] % 2 == 1],
            action_masks=(np.array([[True, False, True]]).repeat(len(rows), axis=0),),
        )


class SteadyCouncil(Council):
    """As the contract wants it: a seed decides the episodes, and idle agents' actions nothing.

    Its speakers can still fail, but talk no nonsense.
    """

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        if seeds is not None:
            self._episode[envs] = np.array(seeds) % 1000
        return super().reset(envs, seeds, options)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        said, written = (np.array(action) for action in actions)
        turns = [place * 3 + self._turn(int(env)) for place, env in enumerate(envs)]
        idle = np.setdiff1d(np.arange(len(said)), turns)
        said[idle], written[self._step[envs] % 2 == 0] = 0, 1
        return super().step(envs, [np.where(said == NONSENSE, 0, said), written])
