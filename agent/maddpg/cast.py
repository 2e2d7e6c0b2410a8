"""Who takes part in a joint transition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium import Space
from gymnasium.spaces import Dict
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES

from agent.maddpg.actions import action_code
from agent.maddpg.module import observation_size
from farsim.errors import InvalidOption


@dataclass(frozen=True)
class Role:
    """What the agents of one module have in common.

    Attributes:
        agents: their names, in the order of all arrays.
        observation_space: of one of them.
        action_space: of one of them.
    """

    agents: tuple[str, ...]
    observation_space: Space[Any]
    action_space: Space[Any]

    @property
    def width(self) -> int:
        """Numbers in a critic's input for one agent's observation and action."""
        return observation_size(self.observation_space) + action_code(self.action_space, 1.0).width


#: By module.
Cast = Mapping[str, Role]


def cast_for(config: AlgorithmConfig, env_spaces: Mapping[str, Any] | None = None) -> Cast:
    """The agents of each policy of a configuration.

    Args:
        config: with policies and their mapping.
        env_spaces: as env runners report them; without, the configuration's are taken.

    Raises:
        InvalidOption: the spaces do not say which agents there are, the mapping cannot say whose
            policy is whose, or agents that differ share a policy.
    """
    agents = _agent_spaces(config, env_spaces or {})
    names: dict[str, list[str]] = {}
    for agent in sorted(agents):
        names.setdefault(_module_of(config, agent), []).append(agent)
    if set(names) != set(config.policies):
        raise InvalidOption(
            f"policy_mapping_fn maps the agents {sorted(agents)} to policies {sorted(names)}, "
            f"but config.multi_agent has the policies {sorted(config.policies)}",
            "policy_mapping_fn",
        )
    cast = {}
    for module_id in sorted(names):
        first, *others = names[module_id]
        for other in others:
            if agents[other] != agents[first]:
                raise InvalidOption(
                    f"agents '{first}' and '{other}' cannot share policy '{module_id}': their "
                    "spaces differ; map them to policies of their own",
                    "policy_mapping_fn",
                )
        cast[module_id] = Role(tuple(names[module_id]), *agents[first])
    return cast


def rest_width(cast: Cast, module_id: str) -> int:
    """Numbers in a centralised critic's input that are of other agents than its owner."""
    everyone = sum(len(role.agents) * role.width for role in cast.values())
    return everyone - cast[module_id].width


def others_of(cast: Mapping[str, tuple[str, ...]], module_id: str, agent: str) -> list[str]:
    """The order in which critics see the agents that are not their owner.

    Args:
        cast: the agents of each module.
        module_id: the owner's.
        agent: the owner.

    Returns:
        First the agents of the same module, then the other modules'.
    """
    alike = [other for other in cast[module_id] if other != agent]
    rest = [other for name in sorted(cast) if name != module_id for other in cast[name]]
    return alike + rest


def _module_of(config: AlgorithmConfig, agent: str) -> str:
    mapping: Any = config.policy_mapping_fn
    try:
        module_id: str = mapping(agent, None)
    except Exception as error:  # It is the user's.
        raise InvalidOption(
            f"policy_mapping_fn must tell the policy of agent '{agent}' without an episode, for "
            f"critics are built before the first one; it raised {type(error).__name__}: {error}",
            "policy_mapping_fn",
        ) from error
    return module_id


def _agent_spaces(
    config: AlgorithmConfig, env_spaces: Mapping[str, Any]
) -> dict[str, tuple[Space[Any], Space[Any]]]:
    candidates = [
        env_spaces.get(INPUT_ENV_SINGLE_SPACES),
        env_spaces.get(INPUT_ENV_SPACES),
        (config.observation_space, config.action_space),
    ]
    for candidate in candidates:
        if candidate and all(isinstance(space, Dict) for space in candidate):
            observed: Any = candidate[0]
            acted: Any = candidate[1]
            return {agent: (observed[agent], acted[agent]) for agent in observed}
    raise InvalidOption(
        "critics that see all agents must know them before the first episode: the environment's "
        "observation_space and action_space must be Dict spaces with one entry for each agent",
        "observation_space",
    )
