"""A simulator that offers all that a server can: teams, turns, masks, options, states, pictures."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from gymnasium.spaces import Sequence as ListOf

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

#: What a mover moves by, at its largest.
WIDTH = 3


class Everything(BatchSimulator):
    """Two movers, of whom the second leaves after two steps; a judge acts after every second one.

    A mover sees where it is, the noise that its environment drew, and a list of as many zeros as
    steps were made. Action 0 of a mover at 2 is not allowed, so that masks change.
    """

    description = "All that a server can offer, in one"
    render_modes = ("rgb_array",)
    can_save_state = True
    max_environments = 100
    parameters = (
        Parameter("length", Box(1, 1000, (), np.int64), 6, "of an episode", per_episode=True),
        Parameter("name", Text(8, min_length=1, charset="abc"), "a", choices=("a", "ab", "c")),
        Parameter("noise", Discrete(1000, start=1), 1000, "how many values it takes"),
    )

    def __init__(self, num_envs: int, *, length: int, name: str, noise: int) -> None:
        self._noise = int(noise)
        mover = Dict(
            place=Box(-1e6, 1e6, (), np.float64),
            noise=Box(0, 1000, (), np.int64),
            history=ListOf(Discrete(2), stack=True),
        )
        moves = Dict(by=Discrete(WIDTH), how=MultiDiscrete([2, 2]))
        self.groups = (
            Group(mover, moves, ("mover_0", "mover_1"), "movers", has_action_mask=True),
            Group(Box(-1e6, 1e6, (2,), np.float32), Box(-1, 1, (2,), np.float32), ("judge",), "j"),
        )
        self.max_episode_steps = 1000
        self._length = np.full(num_envs, int(length))
        self._time = np.zeros(num_envs, np.int64)
        self._place = np.zeros((num_envs, 2))
        self._drawn = np.zeros(num_envs, np.int64)
        self._random = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        if "length" in options:
            self._length[envs] = options["length"]
        for at, env in enumerate(envs.tolist()):
            if seeds is not None:
                self._random[env] = np.random.default_rng(seeds[at] % 2**64)
            self._drawn[env] = self._random[env].integers(self._noise)
        self._time[envs], self._place[envs] = 0, 0
        return self._started(envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        moves, judged = actions
        by = moves["by"].reshape(len(envs), 2) + moves["how"].sum(axis=1).reshape(len(envs), 2)
        there = np.stack([self._time[envs] >= 0, self._time[envs] < 2], axis=1)
        before = self._time[envs].copy()
        self._place[envs] += np.where(there, by, 0)
        # The judge's word counts only when it is to act.
        self._place[envs] += np.where(before % 2 == 1, judged[:, 0], 0)[:, None]
        self._time[envs] += 1
        batch = self._batch(envs, there)
        over = self._time[envs] >= self._length[envs]
        leaves = np.stack([np.zeros(len(envs), np.bool_), self._time[envs] == 2], axis=1)
        for part, rows, ends in (
            (batch.groups[0], there, (leaves | over[:, None])[there]),
            (batch.groups[1], np.ones(len(envs), np.bool_), over),
        ):
            part.reward = np.repeat(
                self._place[envs].sum(axis=1), rows.reshape(len(envs), -1).sum(1)
            )
            part.terminated = ends
            part.truncated = np.zeros(len(ends), np.bool_)
            if part.acting is not None:
                part.acting = np.setdiff1d(part.acting, part.rows[ends])
        return batch

    def render(self, envs: IntArray) -> Sequence[np.ndarray]:
        return [np.full((2, 3, 3), self._time[env], np.uint8) for env in envs]

    def save_state(self, envs: IntArray) -> list[bytes]:
        return [
            pickle.dumps(
                (
                    self._time[env],
                    self._place[env],
                    self._drawn[env],
                    self._length[env],
                    self._random[env],
                )
            )
            for env in envs
        ]

    def load_state(self, envs: IntArray, states: Sequence[bytes]) -> Batch:
        for env, state in zip(envs, states, strict=True):
            time, place, drawn, length, self._random[env] = pickle.loads(state)
            self._time[env], self._place[env] = time, place
            self._drawn[env], self._length[env] = drawn, length
        return self._started(envs)

    def _started(self, envs: IntArray) -> Batch:
        batch = self._batch(envs, np.stack([self._time[envs] >= 0, self._time[envs] < 2], axis=1))
        batch.started = envs
        batch.episode_options = {"length": self._length[envs]}
        return batch

    def _batch(self, envs: IntArray, there: np.ndarray) -> Batch:
        rows = (envs[:, None] * 2 + np.arange(2))[there]
        env, place = rows // 2, self._place[rows // 2, rows % 2]
        masks = (
            np.stack([place != 2, np.ones(len(rows), np.bool_), place < 4], axis=1),
            np.ones((len(rows), 4), np.bool_),
        )
        movers = GroupBatch(
            {
                "place": place,
                "noise": self._drawn[env],
                "history": tuple(np.zeros(time, np.int64) for time in self._time[env]),
            },
            action_masks=masks,
            infos={"time": Info(self._time[env]), "who": Info([f"m{row}" for row in rows])},
            rows=rows,
        )
        judge = GroupBatch(
            self._place[envs].astype(np.float32),
            rows=envs,
            acting=envs[self._time[envs] % 2 == 1],
        )
        return Batch([movers, judge])
