"""A simulator of two teams whose agents take turns, end early and join late, all by plain rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    BoolArray,
    Group,
    GroupBatch,
    Info,
    IntArray,
    Parameter,
)

#: What an action does beside being counted: fail in this environment, or in all of them.
FAIL_ALONE, FAIL_TOGETHER = 8, 9

REDS = ("red_0", "red_1", "red_2")
BLUES = ("blue_0", "blue_1")


def alive(step: int, length: int) -> dict[str, bool]:
    """Who is in the episode after so many steps.

    red_1 ends after 2 steps, red_2 joins after 1, blue_1 joins after 2; all end after ``length``.
    """
    return {
        "red_0": step < length,
        "red_1": step < 2,
        "red_2": 1 <= step < length,
        "blue_0": step < length,
        "blue_1": 2 <= step < length,
    }


class Teams(BatchSimulator):
    """Observation: (environment, seed, episode, step, agent, sum of this agent's actions so far).

    Reds have it as int64, blues as float64. Reward: the action, of who is to act. With ``turns``
    reds act after an even number of steps and blues after an odd one.
    """

    render_modes = ("rgb_array",)
    parameters = (
        Parameter("length", Discrete(20, start=1), np.int64(5), per_episode=True),
        Parameter("turns", Discrete(2), np.int64(0)),
        Parameter("masks", Discrete(2), np.int64(0)),
        Parameter(
            "reset_faults", Discrete(9), np.int64(0), "so many resets fail", per_episode=True
        ),
    )

    def __init__(
        self,
        num_envs: int,
        *,
        length: np.int64,
        turns: np.int64,
        masks: np.int64,
        reset_faults: np.int64,
    ) -> None:
        masked = bool(masks)
        self.groups = (
            Group(Box(-(2**62), 2**62, (6,), np.int64), Discrete(10), REDS, "reds", masked),
            Group(Box(-np.inf, np.inf, (6,), np.float64), Discrete(10), BLUES, "blues", masked),
        )
        self._turns = bool(turns)
        self._length = np.full(num_envs, length)
        self._reset_faults = np.full(num_envs, reset_faults)
        self._failed_resets = np.zeros(num_envs, np.int64)
        self._seed = np.arange(num_envs)
        self._episode = np.full(num_envs, -1)
        self._step = np.zeros(num_envs, np.int64)
        self._sums = [np.zeros((num_envs, len(group.agents)), np.int64) for group in self.groups]

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        if "length" in options:
            self._length[envs] = options["length"]
        if seeds is not None:
            self._seed[envs] = seeds
            self._episode[envs] = -1
        if "reset_faults" in options:
            self._reset_faults[envs] = options["reset_faults"]
        self._step[envs] = 0
        for sums in self._sums:
            sums[envs] = 0
        failing = self._failed_resets[envs] < self._reset_faults[envs]
        self._failed_resets[envs] = np.where(failing, self._failed_resets[envs] + 1, 0)
        faults: dict[int, Exception] = {int(env): RuntimeError("no start") for env in envs[failing]}
        good = envs[~failing]
        self._episode[good] += 1
        groups = [self._describe(number, envs) for number in range(2)]
        return Batch(groups, faults, good, {"length": self._length[good]})

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        acting = [self._acting(number)[envs] for number in range(2)]
        counted = [
            np.where(flags, action.reshape(flags.shape), 0)
            for flags, action in zip(acting, actions, strict=True)
        ]
        if any((action == FAIL_TOGETHER).any() for action in counted):
            raise RuntimeError("all of it broke")
        failed = np.any([(action == FAIL_ALONE).any(axis=1) for action in counted], axis=0)
        before = [self._alive(number) for number in range(2)]
        self._step[envs] += ~failed
        for sums, action in zip(self._sums, counted, strict=True):
            sums[envs] += np.where(failed[:, None], 0, action)
        groups = []
        for number in range(2):
            rewards = np.where(failed[:, None], 0, counted[number])
            groups.append(self._describe(number, envs, before[number], rewards, failed))
        faults: dict[int, Exception] = {
            int(env): RuntimeError(f"{env} broke") for env in envs[failed]
        }
        return Batch(groups, faults)

    def render(self, envs: IntArray) -> Sequence[NDArray[np.uint8]]:
        return [np.full((2, 3, 3), self._step[env], np.uint8) for env in envs]

    def _alive(self, number: int) -> BoolArray:
        names = self.groups[number].agents
        steps = zip(self._step.tolist(), self._length.tolist(), strict=True)
        found = [[alive(step, length)[name] for name in names] for step, length in steps]
        return np.array(found, np.bool_)

    def _acting(self, number: int) -> BoolArray:
        turn = (self._step % 2 == number) | (not self._turns)
        return self._alive(number) & turn[:, None]

    def _describe(
        self,
        number: int,
        envs: IntArray,
        before: BoolArray | None = None,
        rewards: NDArray[np.int64] | None = None,
        failed: BoolArray | None = None,
    ) -> GroupBatch:
        group = self.groups[number]
        agents = len(group.agents)
        now, acting = self._alive(number)[envs], self._acting(number)[envs]
        present = now if before is None else now | before[envs]
        rows = (envs[:, None] * agents + np.arange(agents))[present]
        env, agent = rows // agents, rows % agents
        fields = [
            env,
            self._seed[env],
            self._episode[env],
            self._step[env],
            agent,
            self._sums[number][env, agent],
        ]
        part = GroupBatch(
            np.stack(fields, axis=1).astype(group.observation_space.dtype),
            rows=rows,
            infos={"step": Info(self._step[env])},
        )
        if group.has_action_mask:
            mask = np.ones((len(rows), 10), np.bool_)
            mask[np.arange(len(rows)), self._step[env] % 8] = False
            part.action_masks = (mask,)
        if rewards is not None and failed is not None:
            fault = np.repeat(failed[:, None], agents, axis=1)
            part.reward = rewards[present].astype(np.float64)
            part.terminated = (~now & ~fault)[present]
            part.truncated = fault[present]
            acting = acting & ~fault
        if self._turns:
            part.acting = (envs[:, None] * agents + np.arange(agents))[acting]
        return part


class Expected:
    """What the rules say an environment does, agent by agent; written apart from the simulator.

    Attributes:
        sums: of each agent's actions in the present episode.
    """

    def __init__(self, length: int, turns: bool) -> None:
        self.length, self.turns = length, turns
        self.step = 0
        self.sums: dict[str, int] = dict.fromkeys(REDS + BLUES, 0)

    @property
    def present(self) -> set[str]:
        return {name for name, lives in alive(self.step, self.length).items() if lives}

    @property
    def acting(self) -> set[str]:
        if not self.turns:
            return self.present
        return self.present & set((REDS, BLUES)[self.step % 2])

    def advance(self, actions: Mapping[str, int]) -> tuple[dict[str, int], set[str]]:
        """One step.

        Returns:
            The reward of every agent that was in the episode or joined, and who ended.
        """
        before, acting = self.present, self.acting
        for name in acting:
            self.sums[name] += actions[name]
        self.step += 1
        after = self.present
        rewards = {name: actions[name] if name in acting else 0 for name in before | after}
        return rewards, before - after
