"""Gymnasium environments that do what tests need."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from simserver.simulator import Parameter


class Slow(gym.Env[np.ndarray, np.ndarray]):
    """Counts its steps, each of which takes as many seconds as the action says.

    A negative action makes it raise, and -1 return an observation of another shape.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None, limit: int = 1000) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0, 2**31, (1,), np.int64)
        self.action_space = Box(-1, 60, (), np.float64)
        self._limit = limit
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return np.array([0]), {}

    def step(self, action: np.ndarray) -> Any:
        if action == -1:
            return np.zeros(2), 1.0, False, False, {}
        if action < 0:
            raise RuntimeError("negative time")
        time.sleep(float(action))
        self._steps += 1
        return np.array([self._steps]), 1.0, False, self._steps >= self._limit, {}

    def render(self) -> np.ndarray:
        return np.full((4, 6, 3), self._steps, np.uint8)


class Masked(gym.Env[int, np.int64]):
    """Allows just the action that equals the target, which a reset option sets."""

    farsim_parameters = (
        Parameter("target", Discrete(5), np.int64(0), "the allowed action", per_episode=True),
    )

    def __init__(self) -> None:
        self.observation_space = Discrete(5)
        self.action_space = Discrete(5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._target = int((options or {})["target"])
        return np.int64(self._target), self._info()

    def step(self, action: np.int64) -> Any:
        return np.int64(self._target), float(action == self._target), True, False, self._info()

    def _info(self) -> dict[str, Any]:
        mask = np.zeros(5, np.int8)
        mask[self._target] = 1
        return {"action_mask": mask, "nested": {"target": self._target}, "name": f"t{self._target}"}


class Mixed(gym.Env[Any, Any]):
    """Observations and actions of several parts; ends in a cliff or after twelve steps."""

    def __init__(self) -> None:
        self.observation_space = Dict(gear=Discrete(3), place=Box(-20, 20, (2,), np.float32))
        self.action_space = Tuple((Discrete(3), Box(-2, 2, (2,), np.float32)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._place = self.np_random.normal(size=2).astype(np.float32)
        self._gear, self._steps = np.int64(0), 0
        return self._observation(), {"cliff": 3.0}

    def step(self, action: Any) -> Any:
        self._gear, move = np.int64(action[0]), action[1]
        self._place = np.clip(self._place + move * (1 + self._gear), -20, 20).astype(np.float32)
        self._steps += 1
        fell = bool(np.abs(self._place).max() > 3)
        info = {"distance": float(np.abs(self._place).max())}
        return self._observation(), float(move.sum()), fell, self._steps >= 12, info

    def _observation(self) -> Any:
        return {"gear": self._gear, "place": self._place.copy()}


class Steered(Mixed):
    """The same with one choice for an action."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = Discrete(3)

    def step(self, action: Any) -> Any:
        return super().step((action, np.array([0.7, -0.4], np.float32)))


class Breaks(gym.Env[np.ndarray, np.int64]):
    """Each instance can be reset twice, and then never again."""

    def __init__(self) -> None:
        self.observation_space = Box(0, 10, (1,), np.int64)
        self.action_space = Discrete(2)
        self._resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._resets += 1
        if self._resets > 2:
            raise ValueError("worn out")
        return np.array([self._resets]), {}

    def step(self, action: np.int64) -> Any:
        return np.array([0]), 1.0, True, False, {}


class BreaksOnce(gym.vector.SyncVectorEnv):
    """A vector environment whose action 1 raises, and which must be reset before a step."""

    def __init__(self, num_envs: int) -> None:
        super().__init__([lambda: gym.make("CartPole-v1")] * num_envs)

    def step(self, actions: Any) -> Any:
        if np.all(actions == 1):
            raise RuntimeError("boom")
        return super().step(actions)


def make_vector(num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """A vector environment of Gymnasium's own."""
    return gym.make_vec("CartPole-v1", num_envs, gym.VectorizeMode.SYNC)
