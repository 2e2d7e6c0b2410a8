"""Policies that can be compared: something that acts on a batch of environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium import Space

from farsim import spaces


class Policy(Protocol):
    """Acts in all environments of a batch at a time.

    Attributes:
        name: for tables and charts.
    """

    name: str

    def begin(self, num_envs: int) -> None:
        """Forgets the past: new episodes begin in all environments."""

    def act(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        """A batch of actions.

        Args:
            observation: as ``RemoteVectorEnv`` gives it.
            infos: of the same moment, the action mask among them.
        """


class RandomPolicy:
    """Uniform over the action space, whether allowed or not."""

    def __init__(self, space: Space[Any], seed: int, name: str = "random") -> None:
        self.name = name
        self._space = space
        self._seed = seed
        self._num_envs = 0

    def begin(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._space.seed(self._seed)

    def act(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        return spaces.batch(self._space, [self._space.sample() for _ in range(self._num_envs)])


class MaskedRandomPolicy:
    """Uniform over the actions that the simulator's mask allows, for one Discrete action."""

    def __init__(self, start: int, seed: int, name: str = "random valid") -> None:
        self.name = name
        self._start = start
        self._seed = seed
        self._random = np.random.default_rng(seed)

    def begin(self, num_envs: int) -> None:
        self._random = np.random.default_rng(self._seed)

    def act(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        allowed = np.asarray(infos["action_mask"]).astype(bool)
        # Nothing is allowed where an episode is over; that action is ignored.
        allowed |= ~allowed.any(axis=1, keepdims=True)
        return np.argmax(self._random.random(allowed.shape) * allowed, axis=1) + self._start
