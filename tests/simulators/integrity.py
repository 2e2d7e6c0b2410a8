"""A simulator whose data show by themselves whether anything was lost, repeated or mixed up."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)

NUM_ACTIONS = 7
_PRIME = 2**31 - 1
_RATE = Box(0.0, 1.0, (), np.float64)

#: What the exceptions say, to tell them apart.
ALONE, TOGETHER, IN_RESET = "told to fail alone", "told to fail together", "told to fail in a reset"


def length(lineage: int, env: int, episode: int) -> int:
    """After how many steps an episode terminates, 4 to 40."""
    return 4 + (lineage + 7919 * env + 104729 * episode) % 37


def next_chain(chain: NDArray[np.int64], action: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is left in the next observation of all actions so far."""
    return (chain * 48271 + 31 * action + 17) % _PRIME


def reward(chain: NDArray[np.int64], action: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of an action where the chain was ``chain``."""
    return ((chain + 1000 * action) % 9973).astype(np.float64)


class IntegritySimulator(BatchSimulator):
    """Observation: (lineage, environment, episode, step, chain), float64 [5], all whole numbers.

    The lineage is drawn for each simulator that is made; episodes are counted from 0 in each
    environment; the chain is made of all actions of the episode.
    """

    parameters = (
        Parameter("fail_alone_rate", _RATE, np.float64(0), "of an environment's steps"),
        Parameter("fail_together_rate", _RATE, np.float64(0), "of steps of all"),
        Parameter("hang_rate", _RATE, np.float64(0), "of steps of all"),
        Parameter("hang_seconds", Box(0, 60, (), np.float64), np.float64(0)),
        Parameter(
            "reset_faults",
            Discrete(1000),
            np.int64(0),
            "so many resets fail before one does not",
            per_episode=True,
        ),
    )

    def __init__(
        self,
        num_envs: int,
        *,
        fail_alone_rate: np.float64,
        fail_together_rate: np.float64,
        hang_rate: np.float64,
        hang_seconds: np.float64,
        reset_faults: np.int64,
    ) -> None:
        self.groups = (Group(Box(0, 2.0**53, (5,), np.float64), Discrete(NUM_ACTIONS)),)
        self._rates = (fail_alone_rate, fail_together_rate, hang_rate)
        self._hang_seconds = float(hang_seconds)
        self._lineage = secrets.randbits(40)
        self._random = np.random.default_rng()
        self._episode = np.full(num_envs, -1)
        self._step = np.zeros(num_envs, np.int64)
        self._chain = np.zeros(num_envs, np.int64)
        self._reset_faults = np.full(num_envs, reset_faults)
        self._failed_resets = np.zeros(num_envs, np.int64)

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        if "reset_faults" in options:
            self._reset_faults[envs] = options["reset_faults"]
        failing = self._failed_resets[envs] < self._reset_faults[envs]
        self._failed_resets[envs] = np.where(failing, self._failed_resets[envs] + 1, 0)
        good = envs[~failing]
        self._episode[good] += 1
        self._step[good] = 0
        self._chain[good] = self._random.integers(_PRIME, size=len(good))
        faults: dict[int, Any] = {int(env): RuntimeError(IN_RESET) for env in envs[failing]}
        batch = GroupBatch(self._observe(envs))
        return Batch([batch], faults, good, {"reset_faults": self._reset_faults[good]})

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        alone, together, hang = self._rates
        if self._random.random() < hang:
            time.sleep(self._hang_seconds)
        if self._random.random() < together:
            raise RuntimeError(TOGETHER)
        failing = self._random.random(len(envs)) < alone
        chain, action = self._chain[envs], actions[0]
        earned = np.where(failing, 0.0, reward(chain, action))
        self._chain[envs] = np.where(failing, chain, next_chain(chain, action))
        self._step[envs] += ~failing
        ends = [length(self._lineage, int(env), int(self._episode[env])) for env in envs]
        faults: dict[int, Any] = {int(env): RuntimeError(ALONE) for env in envs[failing]}
        batch = GroupBatch(
            self._observe(envs), earned, (self._step[envs] == ends) & ~failing, failing
        )
        return Batch([batch], faults)

    def _observe(self, envs: IntArray) -> NDArray[np.float64]:
        columns = [
            np.full(len(envs), self._lineage),
            envs,
            self._episode[envs],
            self._step[envs],
            self._chain[envs],
        ]
        return np.stack(columns, axis=1).astype(np.float64)
