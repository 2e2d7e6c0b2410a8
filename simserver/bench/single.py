"""One environment of a batch simulator, as Gymnasium knows environments.

Importing this registers ``farsim/Single-v0``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import register, registry
from gymnasium.vector import AutoresetMode

from simserver import catalogue
from simserver.episodes import Episodes


class Single(gym.Env[Any, Any]):
    """A simulator with one agent, in process.

    Args:
        simulator: its name, as ``farsim serve`` takes it.
        options: values of its parameters.
    """

    def __init__(self, simulator: str, options: Mapping[str, Any] | None = None) -> None:
        entry = catalogue.load([simulator], dict(options or {}))[simulator]
        values = {parameter.name: parameter.default for parameter in entry.parameters}
        self._episodes = Episodes(lambda: entry.make(1, values), 1, AutoresetMode.DISABLED)
        (group,) = self._episodes.groups
        self.observation_space = group.observation_space
        self.action_space = group.action_space
        self._only = np.zeros(1, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        seeds = None if seed is None else [seed]
        (batch,) = self._episodes.reset(self._only, seeds, {}, {}).groups
        return batch.observation[0].copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        (batch,) = self._episodes.step(self._only, [np.array([action])]).groups
        assert batch.reward is not None
        assert batch.terminated is not None and batch.truncated is not None
        return (
            batch.observation[0].copy(),
            float(batch.reward[0]),
            bool(batch.terminated[0]),
            bool(batch.truncated[0]),
            {},
        )

    def close(self) -> None:
        self._episodes.close()


if "farsim/Single-v0" not in registry:
    register("farsim/Single-v0", entry_point="simserver.bench.single:Single")
