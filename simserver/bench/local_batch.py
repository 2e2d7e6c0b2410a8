"""Any simulator as arrays in and arrays out, with nothing in between: what servers are beside."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from simserver import catalogue
from simserver.episodes import Episodes
from simserver.simulator import GroupBatch

Arrays = list[NDArray[Any]]


class LocalBatch(abc.ABC):
    """Environments that begin their next episode in the step after the last one.

    Attributes:
        num_envs: how many.
        rows: agents of all environments; the length of every array.
        actions: how many actions there are, 0, 1, ...
    """

    num_envs: int
    rows: int
    actions: int

    @abc.abstractmethod
    def reset(self, seed: int) -> Arrays:
        """Observations, then masks if there are any."""

    @abc.abstractmethod
    def step(self, actions: NDArray[np.int64]) -> Arrays:
        """Rewards (float64), terminations and truncations (bool), then as ``reset``."""

    def close(self) -> None:
        """Frees the environments."""


class GymnasiumBatch(LocalBatch):
    """One of Gymnasium's vector environments."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        self.num_envs = self.rows = env.num_envs
        self.actions = int(_discrete(env.single_action_space).n)

    def reset(self, seed: int) -> Arrays:
        observation, _ = self._env.reset(seed=seed)
        return [observation]

    def step(self, actions: NDArray[np.int64]) -> Arrays:
        observation, reward, terminated, truncated, _ = self._env.step(actions)
        return [reward, terminated, truncated, observation]

    def close(self) -> None:
        self._env.close()


class SimulatorBatch(LocalBatch):
    """One of Farsim's batch simulators, with one group of agents."""

    def __init__(self, name: str, options: Mapping[str, Any], num_envs: int) -> None:
        entry = catalogue.load([name], options)[name]
        defaults = {parameter.name: parameter.default for parameter in entry.parameters}
        self._episodes = Episodes(
            lambda: entry.make(num_envs, defaults), num_envs, AutoresetMode.NEXT_STEP
        )
        (group,) = self._episodes.groups
        self._every = np.arange(num_envs)
        self.num_envs = num_envs
        self.rows = num_envs * len(group.agents)
        self.actions = int(_discrete(group.action_space).n)

    def reset(self, seed: int) -> Arrays:
        seeds = range(seed, seed + self.num_envs)
        batch = self._episodes.reset(self._every, list(seeds), {}, {})
        return self._sight(batch.groups[0])

    def step(self, actions: NDArray[np.int64]) -> Arrays:
        (batch,) = self._episodes.step(self._every, [actions]).groups
        assert batch.reward is not None
        assert batch.terminated is not None and batch.truncated is not None
        return [batch.reward, batch.terminated, batch.truncated, *self._sight(batch)]

    def close(self) -> None:
        self._episodes.close()

    def _sight(self, batch: GroupBatch) -> Arrays:
        return [batch.observation, *batch.action_masks]


def make(name: str, options: Mapping[str, Any], num_envs: int) -> LocalBatch:
    """A batch of a simulator, by the name that ``farsim serve`` takes."""
    kind, _, rest = name.partition("/")
    if kind == "gymnasium":
        return GymnasiumBatch(gym.make_vec(rest, num_envs, gym.VectorizeMode.SYNC))
    if kind == "gymnasium-vector":
        return GymnasiumBatch(gym.make_vec(rest, num_envs, gym.VectorizeMode.VECTOR_ENTRY_POINT))
    return SimulatorBatch(name, options, num_envs)


def layout(arrays: Sequence[NDArray[Any]]) -> list[tuple[str, list[int]]]:
    """The dtype and shape of each, for whoever is to read their bytes."""
    return [(array.dtype.str, list(array.shape)) for array in arrays]


def _discrete(space: gym.Space[Any]) -> gym.spaces.Discrete[Any]:
    if not isinstance(space, gym.spaces.Discrete):
        raise TypeError(f"a comparison needs Discrete actions, not {space}")
    return space
