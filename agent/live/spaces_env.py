"""Live simulators as RLlib's env runners know environments: by their spaces only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from gymnasium import Space
from gymnasium.spaces import Dict
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv

from farsim.errors import Unsupported


class LiveSpaces(VectorEnv[Any, Any, Any]):
    """The spaces of simulators with one agent; nothing can be stepped here."""

    def __init__(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.num_envs = 1
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, 1)
        self.action_space = batch_space(action_space, 1)

    def reset(self, **_: Any) -> NoReturn:
        raise _stepped()

    def step(self, actions: Any) -> NoReturn:
        raise _stepped()


class _Agents(MultiAgentEnv):
    def __init__(self, spaces: Mapping[str, tuple[Space[Any], Space[Any]]]) -> None:
        self.possible_agents = list(spaces)
        self.agents = list(spaces)
        self.observation_spaces = {agent: pair[0] for agent, pair in spaces.items()}
        self.action_spaces = {agent: pair[1] for agent, pair in spaces.items()}
        super().__init__()


class LiveAgentSpaces(VectorMultiAgentEnv):
    """The agents and spaces of simulators with several agents; nothing can be stepped here.

    Args:
        spaces: observation and action space by agent, as networks take them.
    """

    def __init__(self, spaces: Mapping[str, tuple[Space[Any], Space[Any]]]) -> None:
        self.num_envs = 1
        self.envs = [_Agents(spaces)]
        self.single_observation_spaces = {agent: pair[0] for agent, pair in spaces.items()}
        self.single_action_spaces = {agent: pair[1] for agent, pair in spaces.items()}
        self.single_observation_space = Dict(self.single_observation_spaces)
        self.single_action_space = Dict(self.single_action_spaces)
        self.observation_space = self.single_observation_space
        self.action_space = self.single_action_space
        self.metadata = {}

    def reset(self, **_: Any) -> NoReturn:
        raise _stepped()

    def step(self, actions: Any) -> NoReturn:
        raise _stepped()


def _stepped() -> Unsupported:
    return Unsupported("live simulators step by themselves; call sample() to get what they do")
