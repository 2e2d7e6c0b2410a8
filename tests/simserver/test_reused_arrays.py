"""A simulator may reuse the arrays that it returns; what reaches the client is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from simserver.episodes import Episodes
from simserver.simulator import Batch, BatchSimulator, Group, GroupBatch, Info, IntArray

COUNT = 4
ALL = np.arange(COUNT)


class Counter(BatchSimulator):
    """Environment e counts from 100 e and ends after e + 2 steps, with a mask and an info."""

    def __init__(self, num_envs: int, reuse: bool) -> None:
        space = Box(0, 1e6, (2,), np.float64)
        self.groups = (Group(space, Discrete(3), has_action_mask=True),)
        self._reuse = reuse
        self._time = np.zeros(num_envs, np.int64)
        self._arrays: dict[tuple[str, int], np.ndarray] = {}

    def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
        self._time[envs] = 0
        part = self._part(envs)
        part.reward = part.terminated = part.truncated = None
        return Batch([part], started=envs)

    def step(self, envs: IntArray, actions: Any) -> Batch:
        self._time[envs] += 1
        return Batch([self._part(envs)])

    def _part(self, envs: IntArray) -> GroupBatch:
        time = self._time[envs]
        over = time >= envs + 2
        return GroupBatch(
            observation=self._array(
                "seen", np.stack([100.0 * envs + time, -time + 1000.0], axis=1)
            ),
            reward=self._array("reward", 10.0 * time),
            terminated=self._array("terminated", over & (envs % 2 == 0)),
            truncated=self._array("truncated", over & (envs % 2 == 1)),
            action_masks=(self._array("mask", np.arange(3) <= (time % 3)[:, None]),),
            infos={"time": Info(self._array("time", time.copy()))},
        )

    def _array(self, name: str, values: np.ndarray) -> np.ndarray:
        if not self._reuse:
            return values
        # One array for each name, of which a call with fewer environments uses the first rows.
        kept = self._arrays.setdefault(
            (name, 0), np.zeros((COUNT, *values.shape[1:]), values.dtype)
        )
        kept[: len(values)] = values
        return kept[: len(values)]


def told(batch: Batch) -> list[Any]:
    """All that a batch says, as plain values."""
    (part,) = batch.groups
    started = None if batch.started is None else batch.started.tolist()
    fields = [
        part.observation,
        part.reward,
        part.terminated,
        part.truncated,
        *part.action_masks,
        part.infos["time"].values,
        part.final_rows,
        part.final_observation,
        *(info.values for info in part.final_infos.values()),
    ]
    return [started, *(None if field is None else np.asarray(field).tolist() for field in fields)]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_reused_arrays_make_no_difference(mode: AutoresetMode) -> None:
    both = [
        Episodes(lambda reuse=reuse: Counter(COUNT, reuse), COUNT, mode) for reuse in (False, True)
    ]
    for subject in both:
        subject.reset(ALL, None, {}, {})
    for _ in range(12):
        fresh, reused = (told(subject.step(ALL, [np.zeros(COUNT, np.int64)])) for subject in both)
        assert fresh == reused


def test_some_environments_are_stepped_with_same_step() -> None:
    """The rows that ended keep their place among those that were named."""
    subject = Episodes(lambda: Counter(COUNT, True), COUNT, AutoresetMode.SAME_STEP)
    subject.reset(ALL, None, {}, {})
    some = np.array([0, 2, 3])
    actions = [np.zeros(3, np.int64)]
    subject.step(some, actions)
    batch = subject.step(some, actions)
    (part,) = batch.groups
    assert batch.started.tolist() == [0]
    assert part.observation[:, 0].tolist() == [0, 202, 302]
    assert part.reward.tolist() == [20, 20, 20]
    assert part.terminated.tolist() == [True, False, False]
    assert part.final_rows.tolist() == [0]
    assert part.final_observation[:, 0].tolist() == [2]
    assert part.infos["time"].values.tolist() == [0, 2, 2]
    assert part.final_infos["time"].values.tolist() == [2]


@pytest.mark.parametrize("reuse", [False, True])
def test_one_that_can_not_begin_anew_keeps_what_it_saw_last(reuse: bool) -> None:
    """The one beside it that ended in the same step does begin."""

    class Stubborn(Counter):
        def reset(self, envs: IntArray, seeds: Any, options: Any) -> Batch:
            if self._time[2] and 2 in envs:
                raise RuntimeError("not again")
            return super().reset(envs, seeds, options)

    subject = Episodes(lambda: Stubborn(COUNT, reuse), COUNT, AutoresetMode.SAME_STEP)
    subject.reset(ALL, None, {}, {})
    actions = [np.zeros(COUNT, np.int64)]
    for _ in range(3):
        subject.step(ALL, actions)
    batch = subject.step(ALL, actions)
    (part,) = batch.groups
    assert list(batch.faults) == [2]
    assert batch.started.tolist() == [0]
    assert part.observation[:, 0].tolist() == [0, 101, 204, 304]
    assert part.reward.tolist() == [20, 10, 40, 40]
    assert part.terminated.tolist() == [True, False, True, False]
    assert part.final_rows.tolist() == [0]
    assert part.final_observation[:, 0].tolist() == [2]
