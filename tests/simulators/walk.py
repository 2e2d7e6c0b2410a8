"""A PettingZoo environment whose agents leave one by one, for comparisons with RLlib's own loop."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class Walk(ParallelEnv):
    """Walkers leave when they have come far enough; with ``late``, the last of them joins late.

    An observation is (time, place, a number drawn at the reset); a walker's action is its step,
    and its reward what it has come nearer. The guide sees how many are there and how far they are.
    Who is still there after ``length`` steps is terminated, or with ``stopped`` truncated.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "walk"}
    possible_agents: ClassVar[list[str]] = ["guide", "walker_0", "walker_1", "walker_2"]

    def __init__(self, length: int = 7, stopped: bool = False, late: bool = False) -> None:
        self._length, self._stopped, self._late = length, stopped, late
        self._random = np.random.default_rng()
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Box:
        return Box(-100, 100, (2,) if agent == "guide" else (3,), np.float32)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(2 if agent == "guide" else 3)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._time, self._drawn = 0, self._random.normal(size=3)
        self._places = self._random.random(3)
        self.agents = [a for a in self.possible_agents if not (self._late and a == "walker_2")]
        return {agent: self._see(agent) for agent in self.agents}, {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert actions.keys() == set(self.agents), f"{self.agents} are to act, not {actions}"
        self._time += 1
        rewards = dict.fromkeys(self.agents, 0.25 * self._time)
        for agent in self.agents:
            if agent != "guide":
                step = int(actions[agent]) * 0.3 + 0.1 * int(actions.get("guide", 0))
                self._places[int(agent[-1])] += step
                rewards[agent] = step - 0.1
        there = list(self.agents)
        if self._late and self._time == 2:
            there.append("walker_2")
            rewards["walker_2"] = 0.0
        over = self._time >= self._length
        terminated = {
            agent: (agent in self.agents and agent != "guide" and self._places[int(agent[-1])] > 2)
            or (over and not self._stopped)
            for agent in there
        }
        truncated = {agent: over and not terminated[agent] for agent in there}
        self.agents = [a for a in there if not (terminated[a] or truncated[a])]
        seen = {agent: self._see(agent) for agent in there}
        return seen, rewards, terminated, truncated, {agent: {} for agent in there}

    def _see(self, agent: str) -> np.ndarray:
        if agent == "guide":
            return np.array([len(self.agents), self._places.sum()], np.float32)
        number = int(agent[-1])
        return np.array([self._time, self._places[number], self._drawn[number]], np.float32)
