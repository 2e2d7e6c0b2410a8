"""The policies of a checkpoint for several agents, by group."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Dict
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)

from agent.batch import BatchedValue
from agent.description import Group
from agent.group_step import GroupStep
from agent.models import masking
from agent.models.encoding import Encoding
from agent.sampling.columns import IntArray, chosen, like, put
from agent.sampling.forward import Forward
from agent.training.checkpoint import Checkpoint, InvalidCheckpoint
from agent.training.interface import masked_space
from farsim import spaces
from farsim.errors import InvalidArgument, SpaceMismatch
from farsim.options import nearest


class LearnedGroup:
    """The trained policies of a group's agents, without RLlib's algorithm around them.

    Loading a checkpoint runs code that it contains, as RLlib pickles its modules: load only those
    that you trust.

    Args:
        checkpoint: where they are.
        group: whose; the checkpoint has one of that name with the same spaces.
        greedy: takes the likeliest actions; otherwise acts as while training, without chance from
            outside the policy.
        seed: of the draws.

    Raises:
        InvalidArgument: the checkpoint has no such group or agents.
        SpaceMismatch: the group had other spaces there.
        InvalidCheckpoint: a network cannot be loaded.
    """

    def __init__(self, checkpoint: Checkpoint, group: Group, greedy: bool, seed: int) -> None:
        check_group(checkpoint, group)
        manifest = checkpoint.manifest
        self._group = group
        self._greedy = greedy
        self._seed = seed
        self._steps = manifest.steps
        self._masked = manifest.action_mask and group.has_action_mask
        self._encoding = Encoding(_observed(group, self._masked), group.action_space)
        self._struct = get_base_struct_from_space(self._encoding.action_space)
        self._unsquashes, self._clips = _action_settings(manifest.algo, manifest.settings)
        self._policies = [manifest.policies[agent] for agent in group.agents]
        self._forwards = {
            name: Forward(_load(checkpoint, name), torch.device("cpu"))
            for name in dict.fromkeys(self._policies)
        }
        self._rows: dict[str, IntArray] = {}

    def begin(self, num_envs: int) -> None:
        torch.manual_seed(self._seed)
        policies = np.array(self._policies * num_envs)
        self._rows = {name: np.flatnonzero(policies == name) for name in self._forwards}

    def act(self, step: GroupStep) -> BatchedValue:
        observation: Any = step.observation
        if self._masked:
            observation = {
                masking.OBSERVATIONS: observation,
                masking.ACTION_MASK: step.action_masks[0].astype(np.float32),
            }
        seen = self._encoding.encode(observation)
        actions: Any = None
        for name, rows in self._rows.items():
            outputs = self._forwards[name](chosen(seen, rows), not self._greedy, self._steps)
            action = outputs[Columns.ACTIONS]
            if actions is None:
                actions = like(action, sum(map(len, self._rows.values())))
            put(actions, rows, action)
        if self._unsquashes:
            actions = unsquash_action(actions, self._struct)
        elif self._clips:
            actions = clip_action(actions, self._struct)
        return self._encoding.decode(actions)


def check_group(checkpoint: Checkpoint, group: Group) -> None:
    """Raises unless a checkpoint has policies for a group as it is here.

    Raises:
        InvalidArgument: it has no such group or agents.
        SpaceMismatch: the group had other spaces there.
    """
    manifest = checkpoint.manifest
    if not manifest.is_multi_agent:
        raise InvalidArgument(
            f"{checkpoint.path} was trained on '{manifest.simulator}' with one agent, which is no "
            f"policy for group '{group.name}'",
            str(checkpoint.path),
        )
    if group.name not in manifest.groups:
        raise InvalidArgument(
            f"{checkpoint.path} has no group '{group.name}'"
            f"{nearest(group.name, manifest.groups)}; it was trained on '{manifest.simulator}'",
            str(checkpoint.path),
        )
    missing = [agent for agent in group.agents if agent not in manifest.policies]
    if missing:
        raise InvalidArgument(
            f"{checkpoint.path} has no policy for {', '.join(missing)}; its agents are "
            f"{', '.join(manifest.policies)}",
            str(checkpoint.path),
        )
    masked = manifest.action_mask and group.has_action_mask
    for agent in group.agents:
        found = [
            *spaces.differences(
                _of(manifest.observation_space, agent), _observed(group, masked), "observation"
            ),
            *spaces.differences(_of(manifest.action_space, agent), group.action_space, "action"),
        ]
        if found:
            raise SpaceMismatch(
                f"{checkpoint.path} was trained for other spaces of '{agent}' than the simulator "
                f"has (here: the checkpoint, there: the simulator): {'; '.join(found)}",
                str(checkpoint.path),
            )


def _observed(group: Group, masked: bool) -> Space[Any]:
    return masked_space(group) if masked else group.observation_space


def _of(space: Space[Any], agent: str) -> Space[Any]:
    assert isinstance(space, Dict)
    return space[agent]


def _action_settings(algo: str, settings: Mapping[str, Mapping[str, Any]]) -> tuple[bool, bool]:
    """Whether networks act in -1..1, and whether what they say is cut at the bounds."""
    normalize = True
    if algo == "MADDPG":
        config = importlib.import_module("agent.maddpg").MADDPGConfig()
        normalize = config.normalize_actions
    chosen_settings = settings.get("environment", {})
    return (
        chosen_settings.get("normalize_actions", normalize),
        chosen_settings.get("clip_actions", False),
    )


def _load(checkpoint: Checkpoint, policy: str) -> Any:
    path = checkpoint.module_paths[policy]
    try:
        return RLModule.from_checkpoint(path.absolute())
    except Exception as error:  # Unpickling may raise anything.
        raise InvalidCheckpoint(
            f"cannot load the network in {path}: {type(error).__name__}: {error}",
            str(checkpoint.path),
        ) from error
