"""The policy in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)

from agent.models.encoding import Encoding
from agent.training.checkpoint import Checkpoint, InvalidCheckpoint
from farsim import spaces
from farsim.errors import SpaceMismatch


class LearnedPolicy:
    """A trained network that acts, without RLlib's algorithm around it or a Ray cluster.

    Loading a checkpoint runs code that it contains, as RLlib pickles its modules: load only those
    that you trust.

    Args:
        checkpoint: where it is.
        greedy: takes the likeliest action; otherwise one drawn from the policy's distribution, as
            in training.
        seed: of the draws.
        name: for tables and charts.

    Raises:
        InvalidCheckpoint: the network cannot be loaded.
    """

    def __init__(self, checkpoint: Checkpoint, greedy: bool, seed: int, name: str = "") -> None:
        manifest = checkpoint.manifest
        self.name = name or f"{manifest.algo} {'greedy' if greedy else 'sampled'}"
        self._greedy = greedy
        self._seed = seed
        self._steps = manifest.steps
        self._encoding = Encoding(manifest.observation_space, manifest.action_space)
        self._action_struct = get_base_struct_from_space(self._encoding.action_space)
        environment = manifest.settings.get("environment", {})
        self._unsquashes = environment.get("normalize_actions", True)
        self._clips = environment.get("clip_actions", False)
        try:
            self._module = RLModule.from_checkpoint(checkpoint.module_path.absolute())
        except Exception as error:  # Unpickling may raise anything.
            raise InvalidCheckpoint(
                f"cannot load the network in {checkpoint.module_path}: "
                f"{type(error).__name__}: {error}",
                str(checkpoint.path),
            ) from error

    def begin(self, num_envs: int) -> None:
        torch.manual_seed(self._seed)

    def act(self, observation: Any, infos: Mapping[str, Any]) -> Any:
        encoded = self._encoding.encode(observation)
        batch = {Columns.OBS: _on_arrays(lambda rows: torch.from_numpy(np.array(rows)), encoded)}
        with torch.no_grad():
            if self._greedy:
                outputs = self._module.forward_inference(batch)
            else:
                outputs = self._module.forward_exploration(batch, t=self._steps)
            actions = self._choose(outputs)
        actions = _on_arrays(lambda part: part.numpy(), actions)
        if self._unsquashes:
            actions = unsquash_action(actions, self._action_struct)
        elif self._clips:
            actions = clip_action(actions, self._action_struct)
        return self._encoding.decode(actions)

    def _choose(self, outputs: Mapping[str, Any]) -> Any:
        if Columns.ACTIONS in outputs:
            return outputs[Columns.ACTIONS]
        if self._greedy:
            distribution = self._module.get_inference_action_dist_cls()
        else:
            distribution = self._module.get_exploration_action_dist_cls()
        chosen = distribution.from_logits(outputs[Columns.ACTION_DIST_INPUTS])
        return (chosen.to_deterministic() if self._greedy else chosen).sample()


def _on_arrays(function: Callable[[Any], Any], value: Any) -> Any:
    """``function`` of each array in nested dicts and tuples."""
    if isinstance(value, Mapping):
        return {name: _on_arrays(function, member) for name, member in value.items()}
    if isinstance(value, tuple):
        return tuple(_on_arrays(function, member) for member in value)
    return function(value)


def check_spaces(checkpoint: Checkpoint, observation: Space[Any], action: Space[Any]) -> None:
    """Raises ``SpaceMismatch`` unless the checkpoint was trained in these spaces.

    Args:
        checkpoint: the one to use.
        observation: of one environment, as the checkpoint's policy is to be given it.
        action: of one environment.
    """
    manifest = checkpoint.manifest
    found = [
        *spaces.differences(manifest.observation_space, observation, "observation"),
        *spaces.differences(manifest.action_space, action, "action"),
    ]
    if found:
        raise SpaceMismatch(
            f"{checkpoint.path} was trained for other spaces than '{manifest.simulator}' has "
            f"(here: the checkpoint, there: the simulator): {'; '.join(found)}",
            str(checkpoint.path),
        )
