"""Remote environments as RLlib's own multi-agent env runner knows them: dictionaries by agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import Space
from gymnasium.spaces import Dict
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.vector.vector_multi_agent_env import VectorMultiAgentEnv


class AgentSpaces(MultiAgentEnv):
    """Who takes part in an environment, and with which spaces; nothing can be stepped here."""

    def __init__(self, spaces: Mapping[str, tuple[Space[Any], Space[Any]]]) -> None:
        self.possible_agents = list(spaces)
        self.agents = list(spaces)
        self.observation_spaces = {agent: space[0] for agent, space in spaces.items()}
        self.action_spaces = {agent: space[1] for agent, space in spaces.items()}
        super().__init__()


class RemoteDictEnv(VectorMultiAgentEnv):
    """Tells RLlib the agents and spaces of remote environments.

    Args:
        remote: the environments.
        spaces: observation and action space by agent, as policies see them.
    """

    def __init__(self, remote: Any, spaces: Mapping[str, tuple[Space[Any], Space[Any]]]) -> None:
        self.remote = remote
        self.num_envs = remote.num_envs
        self.envs = [AgentSpaces(spaces)] * remote.num_envs
        self.single_observation_spaces = {agent: space[0] for agent, space in spaces.items()}
        self.single_action_spaces = {agent: space[1] for agent, space in spaces.items()}
        self.single_observation_space = Dict(self.single_observation_spaces)
        self.single_action_space = Dict(self.single_action_spaces)
        self.observation_space = self.single_observation_space
        self.action_space = self.single_action_space
        self.metadata = {}

    def render(self) -> Any:
        """One RGB picture, uint8 [height, width, 3], of each environment."""
        return self.remote.render()

    def close_extras(self, **kwargs: Any) -> None:
        self.remote.close()
