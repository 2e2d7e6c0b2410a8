"""PettingZoo environments that do what tests need."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from simserver.simulator import Parameter


class Crowd(ParallelEnv):
    """Two foxes, a hen that joins after the first step, and a scout with other spaces.

    An observation is (step, own action, a random number drawn at the reset). fox_1 ends after two
    steps, everyone after ``length``. The hen is told by its info that it may only do its step's
    number. Fox_0's action 3 raises, its 4 gives an observation of another shape, and 2 lets the
    scout vanish without a word; the scout's own 2 makes it leave after a last observation.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "crowd", "render_modes": ["rgb_array"]}
    possible_agents: ClassVar[list[str]] = ["fox_0", "fox_1", "hen_0", "scout"]

    def __init__(self, length: int = 4, name: str = "x", render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.agents: list[str] = []
        self._length, self._name = length, name
        self._random = np.random.default_rng()
        self._serial = np.random.default_rng().integers(2**40)

    def observation_space(self, agent: str) -> Box:
        return Box(0, 2**62, (4,) if agent == "scout" else (3,), np.int64)

    def action_space(self, agent: str) -> Discrete:
        return Discrete(5)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = ["fox_0", "fox_1", "scout"]
        self._step, self._drawn = 0, int(self._random.integers(2**40))
        return {agent: self._see(agent, 0) for agent in self.agents}, self._infos()

    def step(self, actions: dict[str, Any]) -> Any:
        assert actions.keys() == set(self.agents), f"{self.agents} are to act, not {actions}"
        if actions["fox_0"] == 3:
            raise RuntimeError("the fox broke it")
        self._step += 1
        there = list(self.agents) + ["hen_0"] * (self._step == 1)
        if actions["fox_0"] == 2:
            there.remove("scout")
        observations = {agent: self._see(agent, int(actions.get(agent, 0))) for agent in there}
        if actions["fox_0"] == 4:
            observations["fox_0"] = np.zeros(7, np.int64)
        infos = self._infos(there)
        terminated = {agent: agent == "fox_1" and self._step == 2 for agent in there}
        truncated = dict.fromkeys(there, self._step >= self._length)
        self.agents = [a for a in there if not (terminated[a] or truncated[a])]
        if actions.get("scout") == 2 and "scout" in self.agents:
            self.agents.remove("scout")
        return observations, dict.fromkeys(there, 1.0 + self._step), terminated, truncated, infos

    def render(self) -> np.ndarray:
        return np.full((4, 6, 3), self._step, np.uint8)

    def _see(self, agent: str, action: int) -> np.ndarray:
        return np.array([self._step, action, self._drawn, 0][: 4 if agent == "scout" else 3])

    def _infos(self, there: list[str] | None = None) -> dict[str, Any]:
        infos: dict[str, Any] = {agent: {} for agent in there or self.agents}
        infos["fox_0"] = {"nested": {"step": self._step}, "name": self._name}
        infos["fox_0"]["serial"] = self._serial
        if "hen_0" in infos:
            infos["hen_0"] = {"action_mask": np.arange(5) == self._step}
        return infos


class Masked(Crowd):
    """The hen is there from the start."""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed, options)
        self.agents = list(self.possible_agents)
        return {agent: self._see(agent, 0) for agent in self.agents}, self._infos()


class Auction(AECEnv):
    """Each bid is paid to all others; the last one left is stopped.

    A bid of 0 pays the others 5, and the bidder leaves. So it does after a bid of 3, but it stays
    among ``agents`` to the end. A bid of 4 raises. An observation is (number of bids so far, the
    last bid, an option). Agents are numbers, not strings.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "auction"}
    possible_agents: ClassVar[list[int]] = [0, 1, 2]
    farsim_parameters = (
        Parameter("start", Discrete(100), np.int64(7), "what is observed", per_episode=True),
    )

    def observation_space(self, agent: int) -> Box:
        return Box(0, 2**31, (3,), np.int64)

    def action_space(self, agent: int) -> Discrete:
        return Discrete(5)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self._start = int((options or {})["start"])
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {"agent": agent} for agent in self.agents}
        self.agent_selection = 0
        self._bids, self._last = 0, 0

    def observe(self, agent: int) -> np.ndarray:
        return np.array([self._bids, self._last, self._start])

    def step(self, action: Any) -> None:
        bidder = self.agent_selection
        if self.terminations[bidder] or self.truncations[bidder]:
            self._was_dead_step(action)
            return
        if action == 4:
            raise RuntimeError("too much")
        self._cumulative_rewards[bidder] = 0
        self._bids, self._last = self._bids + 1, int(action)
        self._clear_rewards()
        for other in self.agents:
            self.rewards[other] = 0 if other == bidder else int(action) or 5
        if action in (0, 3):
            self.terminations[bidder] = True
        staying = [agent for agent in self.agents if not self.terminations[agent]]
        if len(staying) == 1:
            self.truncations[staying[0]] = True
        later = [agent for agent in staying if agent > bidder] + staying
        self.agent_selection = later[0]
        self._accumulate_rewards()
        if action == 0:
            self._deads_step_first()


def make_crowd(length: int = 3) -> ParallelEnv[str, Any, Any]:
    """A function, which only tells by what it makes that it is PettingZoo's."""
    return Crowd(length)


def make_turns(length: int = 3) -> AECEnv[str, Any, Any]:
    """The crowd, in turns."""
    return parallel_to_aec(Masked(length))
