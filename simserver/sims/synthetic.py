"""Synthetic: nothing but a set time for each step, and observations of a set size."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Discrete

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)

#: Observations that are there to be handed out by turns; made once.
_SIGHTS = 8


class _Cores:
    """As many as steps can be taken at a time; each knows how much too long it has slept."""

    def __init__(self, count: int) -> None:
        self._idle: queue.SimpleQueue[float] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(0.0)

    def work(self, seconds: float) -> None:
        if not seconds:
            return
        owed = self._idle.get()
        begun = time.perf_counter()
        time.sleep(max(0.0, seconds - owed))
        self._idle.put(max(0.0, owed - seconds + time.perf_counter() - begun))


#: Of this process, by their number.
_cores: dict[int, _Cores] = {}


class Synthetic(BatchSimulator):
    """To measure what is around a simulator.

    - Observation: one of eight fixed arrays, by turns: environment ``i`` begins with the i-th one.
      float32 [``values``] or, with ``image``, uint8 [84, 84, 4]. Nothing is random.
    - Action: ``Discrete(4)``, of no effect.
    - Reward: 1 for each step.
    - Episode: ``episode_steps`` steps, then truncated.

    A step of ``n`` environments takes ``n * step_seconds + batch_seconds``, spent asleep. The
    sessions of a process take their steps one after the other, as if they computed on one core, or
    with ``cores`` as many at a time. What a sleep was too long is taken off a later one.
    """

    description = "a set time for each step, and observations of a set size"
    parameters = (
        Parameter(
            "step_seconds",
            Box(0.0, 3600.0, (), np.float64),
            np.array(0.0),
            "what a step of one environment takes; they are stepped one after the other",
            unit="s",
        ),
        Parameter(
            "batch_seconds",
            Box(0.0, 3600.0, (), np.float64),
            np.array(0.0),
            "what a step takes besides, for any number of environments",
            unit="s",
        ),
        Parameter(
            "cores",
            Box(1, 1024, (), np.int64),
            np.array(1),
            "steps that the sessions of a process take at a time",
        ),
        Parameter(
            "values", Box(1, 1 << 24, (), np.int64), np.array(4), "numbers in an observation"
        ),
        Parameter("image", Discrete(2), np.int64(0), "1: observations are images"),
        Parameter(
            "episode_steps", Box(1, 1 << 30, (), np.int64), np.array(200), "length of an episode"
        ),
    )

    def __init__(
        self,
        num_envs: int,
        *,
        step_seconds: float,
        batch_seconds: float,
        cores: int,
        values: int,
        image: int,
        episode_steps: int,
    ) -> None:
        random = np.random.default_rng(0)
        if image:
            space = Box(0, 255, (84, 84, 4), np.uint8)
            sights = random.integers(0, 256, (_SIGHTS, *space.shape), np.uint8)
        else:
            space = Box(-np.inf, np.inf, (int(values),), np.float32)
            sights = random.standard_normal((_SIGHTS, int(values)), np.float32)
        self.groups = (Group(space, Discrete(4)),)
        self.max_episode_steps = int(episode_steps)
        # Whole batches, so that handing one out copies nothing.
        self._sights = [sights[(np.arange(num_envs) + turn) % _SIGHTS] for turn in range(_SIGHTS)]
        self._step_seconds, self._batch_seconds = float(step_seconds), float(batch_seconds)
        self._cores = _cores.setdefault(int(cores), _Cores(int(cores)))
        self._steps = np.zeros(num_envs, np.int64)

    def reset(
        self,
        envs: IntArray,
        seeds: Sequence[int] | None,
        options: Mapping[str, BatchedValue],
    ) -> Batch:
        self._steps[envs] = 0
        return Batch([GroupBatch(self._look(envs))], started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        self._cores.work(len(envs) * self._step_seconds + self._batch_seconds)
        self._steps[envs] += 1
        return Batch(
            [
                GroupBatch(
                    self._look(envs),
                    reward=np.ones(len(envs)),
                    terminated=np.zeros(len(envs), np.bool_),
                    truncated=self._steps[envs] >= self.max_episode_steps,
                )
            ]
        )

    def _look(self, envs: IntArray) -> np.ndarray:
        turns = self._steps[envs] % _SIGHTS
        if len(envs) == len(self._steps) and (turns == turns[0]).all():
            return self._sights[turns[0]]
        return np.stack(
            [self._sights[turn][env] for env, turn in zip(envs.tolist(), turns, strict=True)]
        )
