"""Which policy decides for which agent."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from agent.description import Group
from farsim import spaces
from farsim.errors import FarsimError
from farsim.options import nearest

#: Ready-made ways to share policies, besides mappings and functions.
SHARED, EACH, GROUP = "shared", "each", "group"
WAYS = (SHARED, EACH, GROUP)

#: What people may say: one of ``WAYS``, "module:function", or policies by agent or group.
PolicyWish = str | Mapping[str, str]

#: Names under which RLlib would keep a folder elsewhere, or take the agents for a single one.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]|[ .]$|^\.|^$|^default_policy$')


class InvalidPolicies(FarsimError, ValueError):
    """A mapping from agents to policies that cannot be used."""


@dataclass(frozen=True)
class PolicyMapping:
    """Who decides for whom; RLlib's ``policy_mapping_fn``.

    Attributes:
        by_agent: the policy of every agent, in the order of the simulator's.
    """

    by_agent: Mapping[str, str]

    def __call__(self, agent: str, episode: Any = None, **kwargs: Any) -> str:
        return self.by_agent[agent]

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the policies, in the order of their first agents."""
        return tuple(dict.fromkeys(self.by_agent.values()))


def read_wish(text: str) -> PolicyWish:
    """What ``--policies`` says: a word, or a mapping as in YAML.

    Raises:
        InvalidPolicies: neither.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidPolicies(f"--policies {text}: {error}", text) from error
    return check_wish(value, "--policies")


def check_wish(value: Any, place: str) -> PolicyWish:
    """The value of ``policies``, wherever it is from.

    Args:
        value: as it was read.
        place: "file.yaml, line 3", for errors.
    """
    if isinstance(value, Mapping) and value:
        return {str(name): str(policy) for name, policy in value.items()}
    if isinstance(value, str) and (value in WAYS or ":" in value):
        return value
    close = nearest(value, WAYS) if isinstance(value, str) else ""
    raise InvalidPolicies(
        f"{place}: policies are {', '.join(WAYS)}, module:function, or a mapping from agents or "
        f"groups to policies such as {{adversaries: team, agent_0: prey}}, not {value!r}{close}",
        str(value),
    )


def map_policies(wish: PolicyWish, groups: Sequence[Group]) -> PolicyMapping:
    """The policy of every agent.

    Args:
        wish: what people want. In a mapping an agent's own entry comes before its group's. A
            function is asked once for each agent, by its name.
        groups: the agents.

    Raises:
        InvalidPolicies: an agent without a policy, one that is not there, agents of one policy
            whose spaces differ, a name that RLlib does not take, or a function that cannot be had.
    """
    members = [(group, agent) for group in groups for agent in group.agents]
    if isinstance(wish, Mapping):
        found = _from_mapping(wish, groups)
    elif wish == SHARED:
        found = {agent: SHARED for _, agent in members}
    elif wish == EACH:
        found = {agent: agent for _, agent in members}
    elif wish == GROUP:
        found = {agent: group.name for group, agent in members}
    else:
        found = _from_function(wish, [agent for _, agent in members])
    for agent, policy in found.items():
        if _FORBIDDEN.search(policy):
            raise InvalidPolicies(
                f"the policy of agent '{agent}' cannot be named '{policy}': it names a folder in "
                "checkpoints, and 'default_policy' is RLlib's for simulators with one agent",
                policy,
            )
    _check_spaces(found, members)
    return PolicyMapping(found)


def _from_mapping(wish: Mapping[str, str], groups: Sequence[Group]) -> dict[str, str]:
    known = [group.name for group in groups]
    known += [agent for group in groups for agent in group.agents]
    for name in wish:
        if name not in known:
            raise InvalidPolicies(
                f"policies: of the groups and agents ({_listed(groups)}) none is '{name}'"
                f"{nearest(name, known)}",
                name,
            )
    found = {}
    for group in groups:
        for agent in group.agents:
            policy = wish.get(agent, wish.get(group.name))
            if policy is None:
                raise InvalidPolicies(
                    f"policies say nothing of agent '{agent}': name it, or its group "
                    f"'{group.name}'",
                    agent,
                )
            found[agent] = policy
    return found


def _from_function(path: str, agents: Sequence[str]) -> dict[str, str]:
    function = _function(path)
    found = {}
    for agent in agents:
        try:
            policy = function(agent)
        except Exception as error:  # It is the user's.
            raise InvalidPolicies(
                f"{path}('{agent}') raised {type(error).__name__}: {error}; it takes the name of "
                "an agent, and returns that of its policy",
                path,
            ) from error
        if not isinstance(policy, str):
            raise InvalidPolicies(
                f"{path}('{agent}') returned {policy!r}, which is not the name of a policy", path
            )
        found[agent] = policy
    return found


def _function(path: str) -> Callable[[str], Any]:
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise InvalidPolicies(
            f"policies: cannot import '{module_name}' here ({os.getcwd()}): {error}", path
        ) from error
    if not callable(function):
        raise InvalidPolicies(
            f"policies: module '{module_name}' has no function '{attribute}'", path
        )
    return function


def _check_spaces(found: Mapping[str, str], members: Sequence[tuple[Group, str]]) -> None:
    first: dict[str, tuple[Group, str]] = {}
    for group, agent in members:
        other, other_agent = first.setdefault(found[agent], (group, agent))
        if other is group:
            continue
        differences = [
            *spaces.differences(other.observation_space, group.observation_space, "observation"),
            *spaces.differences(other.action_space, group.action_space, "action"),
        ]
        if other.has_action_mask != group.has_action_mask:
            differences.append("only one of them has action masks")
        if differences:
            raise InvalidPolicies(
                f"agents '{other_agent}' and '{agent}' cannot share policy '{found[agent]}': "
                f"their spaces differ ({'; '.join(differences)}); give them policies of their own, "
                "as 'group' does",
                found[agent],
            )


def _listed(groups: Sequence[Group]) -> str:
    return "; ".join(f"{group.name}: {', '.join(group.agents)}" for group in groups)
