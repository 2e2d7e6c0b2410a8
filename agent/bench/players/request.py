"""What one side of a comparison is asked for on its command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Batches of actions that are made beforehand, and come round again.
_TURNS = 64

#: A reward, float64, and two flags.
_RESULT_BYTES = 10


@dataclass(frozen=True)
class Request:
    """How to play.

    Attributes:
        addresses: of servers; empty in process.
        simulator: what they have, or what is to be made in process.
        options: values of its parameters; in process only.
        envs: environments in all.
        splits: requests on their way at a time, each of its share of the environments.
        seconds: how long a turn will take, for who can not stop in between.
        spin_seconds: how long waits keep the processor awake.
    """

    addresses: Sequence[str]
    simulator: str
    options: dict[str, Any]
    envs: int
    splits: int
    seconds: float
    spin_seconds: float = 0.0

    @property
    def connection(self) -> dict[str, float]:
        """How Farsim's own clients connect to servers that are there, or will never be."""
        return {"recovery_seconds": 10.0, "spin_seconds": self.spin_seconds}

    @classmethod
    def of_command_line(cls) -> Request:
        """From the process's only argument, a JSON object of the attributes."""
        return cls(**json.loads(sys.argv[1]))


class Chooser:
    """Actions at random, drawn beforehand.

    Args:
        actions: how many there are, 0, 1, ...
        rows: how many are chosen at a time.
    """

    def __init__(self, actions: int, rows: int) -> None:
        self._drawn = np.random.default_rng(0).integers(actions, size=(_TURNS, rows))
        self._turn = 0

    def choose(self) -> NDArray[np.int64]:
        """int64 [rows]."""
        self._turn = (self._turn + 1) % _TURNS
        return self._drawn[self._turn]


class Count:
    """Steps of environments that begin their next episode in the step after the last one.

    Args:
        envs: how many.
        rows: agents in all of them; those of an environment end together.
    """

    def __init__(self, envs: int, rows: int) -> None:
        self._envs, self._agents = envs, rows // envs
        self._over = 0

    def steps(self, terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> int:
        """Environment steps in the call that ended so."""
        steps = self._envs - self._over
        self._over = int(np.count_nonzero(terminated | truncated)) // self._agents
        return steps


def payload(rows: int, *seen: NDArray[Any]) -> int:
    """Bytes of a step's arrays, both ways: actions (int64), rewards, ends, and what is seen."""
    return rows * (8 + _RESULT_BYTES) + sum(array.nbytes for array in seen)
