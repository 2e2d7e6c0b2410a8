"""The agents of a PettingZoo environment in groups, and the masks in what they are told."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Discrete, MultiDiscrete
from numpy.typing import NDArray

from farsim import spaces
from simserver.simulator import Group

#: Where an environment keeps an agent's mask of allowed actions: in its observation, or its info.
MASK = "action_mask"


@dataclass(frozen=True)
class AgentGroup:
    """A group of agents, and how to read what they are told.

    Attributes:
        group: as the contract has it; the observation space is without the mask.
        ids: PettingZoo's names of the agents, in the group's order.
        in_observation: whether the mask is a member of the observation, which is a dictionary.
    """

    group: Group
    ids: tuple[Hashable, ...]
    in_observation: bool

    def read(
        self, observation: Any, info: Mapping[str, Any]
    ) -> tuple[Any, NDArray[np.bool_] | None, Mapping[str, Any]]:
        """The observation, the mask (bool [n], None without masks) and the info, apart.

        Raises:
            ValueError: the mask has another number of actions than the space.
            InvalidTensor: the observation has not the space's structure.
        """
        mask = None
        if self.in_observation:
            mask = observation[MASK]
            observation = _without_mask(observation)
        elif self.group.has_action_mask and MASK in info:
            mask = info[MASK]
            info = {name: value for name, value in info.items() if name != MASK}
        space = self.group.observation_space
        if not (
            isinstance(observation, np.ndarray)
            and observation.shape == space.shape
            and observation.dtype == space.dtype
        ):
            (observation,) = spaces.unbatch(space, spaces.batch(space, [observation]), 1)
        return observation, self._mask(mask), info

    def _mask(self, mask: Any) -> NDArray[np.bool_] | None:
        if not self.group.has_action_mask:
            return None
        (full,) = spaces.full_masks(self.group.action_space, 1)
        if mask is None:
            return full[0]
        parts = mask if isinstance(mask, tuple) else (mask,)
        flat = np.concatenate([np.asarray(part).reshape(-1) for part in parts]).astype(np.bool_)
        if flat.shape != full[0].shape:
            raise ValueError(
                f"an action mask of {flat.size} for {full[0].size} actions of group "
                f"'{self.group.name}'"
            )
        # Agents whose turn it is not are often allowed nothing; the contract wants something.
        return flat if flat.any() else full[0]


def groups_of(
    agents: Sequence[Hashable],
    observation_space: Callable[[Any], Space[Any]],
    action_space: Callable[[Any], Space[Any]],
    infos: Mapping[Any, Mapping[str, Any]],
) -> list[AgentGroup]:
    """Agents with the same stem of their names and equal spaces are a group.

    The stem is the name without a number at its end: that of "adversary_0" is "adversary", and
    that of a mere number "agents". It is the group's name; if agents with the same stem have
    different spaces, each group is called after its first agent.

    Args:
        agents: all that there may be.
        observation_space: of an agent.
        action_space: of an agent.
        infos: after a reset; an agent with a mask there shows that its group has masks.

    Raises:
        ValueError: there are no agents, or two have the same name.
    """
    names = [str(agent) for agent in agents]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"an environment has agents with different names, not {names}")
    found: list[tuple[str, Space[Any], Space[Any], list[Hashable]]] = []
    for agent in agents:
        stem, seen, acts = _stem(str(agent)), observation_space(agent), action_space(agent)
        for other, its_observation, its_action, members in found:
            if stem == other and seen == its_observation and acts == its_action:
                members.append(agent)
                break
        else:
            found.append((stem, seen, acts, [agent]))
    stems = [stem for stem, *_ in found]
    return [
        _group(stem if stems.count(stem) == 1 else str(members[0]), seen, acts, members, infos)
        for stem, seen, acts, members in found
    ]


def _group(
    name: str,
    observation_space: Space[Any],
    action_space: Space[Any],
    members: list[Hashable],
    infos: Mapping[Any, Mapping[str, Any]],
) -> AgentGroup:
    chooses = isinstance(action_space, (Discrete, MultiDiscrete))
    in_observation = (
        chooses and isinstance(observation_space, Dict) and MASK in observation_space.spaces
    )
    if in_observation:
        observation_space = _space_without_mask(observation_space)
    in_info = chooses and any(MASK in infos.get(agent, {}) for agent in members)
    agents = tuple(str(agent) for agent in members)
    group = Group(observation_space, action_space, agents, name, in_observation or in_info)
    return AgentGroup(group, tuple(members), in_observation)


def _stem(name: str) -> str:
    return re.sub(r"[\s_.-]*\d+$", "", name) or "agents"


def _space_without_mask(space: Any) -> Space[Any]:
    rest = {name: member for name, member in space.spaces.items() if name != MASK}
    if len(rest) == 1 and "observation" in rest:
        return rest["observation"]
    return Dict(rest)


def _without_mask(observation: Mapping[str, Any]) -> Any:
    rest = {name: value for name, value in observation.items() if name != MASK}
    if len(rest) == 1 and "observation" in rest:
        return rest["observation"]
    return rest
