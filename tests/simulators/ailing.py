"""A simulator with an illness for every option."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

from simserver.simulator import (
    Batch,
    BatchedValue,
    BatchSimulator,
    Group,
    GroupBatch,
    IntArray,
    Parameter,
)


def _number(name: str, description: str) -> Parameter:
    return Parameter(name, Box(0, 1e9, ()), np.float32(0), description)


class Ailing(BatchSimulator):
    """Does nothing, in the worst ways."""

    parameters = (
        _number("sleep", "seconds that a step waits"),
        _number("spin", "seconds that a step keeps the interpreter"),
        _number("bytes", "size of an observation"),
        _number("leaves", "values in an observation, each by itself"),
        _number("fails", "1: cannot be reset; 2: every step fails"),
        _number("dies", "1: a step ends the process"),
    )

    def __init__(self, num_envs: int, **options: Any) -> None:
        self._is = {name: float(value) for name, value in options.items()}
        members: dict[str, Any] = {"data": Box(0, 255, (max(int(self._is["bytes"]), 1),), np.uint8)}
        self._leaves = [f"leaf_{number}" for number in range(int(self._is["leaves"]))]
        members |= {name: Discrete(2) for name in self._leaves}
        self.groups = (Group(Dict(members), Discrete(2)),)

    def reset(
        self, envs: IntArray, seeds: Sequence[int] | None, options: Mapping[str, BatchedValue]
    ) -> Batch:
        if self._is["fails"] == 1:
            raise RuntimeError("there is no world today")
        return Batch([GroupBatch(self._look(len(envs)))], started=envs)

    def step(self, envs: IntArray, actions: Sequence[BatchedValue]) -> Batch:
        time.sleep(self._is["sleep"])
        until = time.thread_time() + self._is["spin"]
        while time.thread_time() < until:
            pass
        if self._is["dies"]:
            os._exit(1)
        if self._is["fails"] == 2:
            raise RuntimeError("the world has ended")
        nothing = np.zeros(len(envs), np.bool_)
        return Batch([GroupBatch(self._look(len(envs)), np.zeros(len(envs)), nothing, nothing)])

    def _look(self, count: int) -> dict[str, Any]:
        data = np.zeros((count, max(int(self._is["bytes"]), 1)), np.uint8)
        leaves = {name: np.zeros(count, np.int64) for name in self._leaves}
        return {"data": data, **leaves}
