"""The networks of one MADDPG policy: a decentralised actor and a critic that may see everyone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agent.maddpg.actions import action_code
from agent.models.encoding import UnsupportedSpace

#: Units of the hidden layers, of actor and critic.
DEFAULT_HIDDENS = (128, 128)


class Critic(nn.Module):
    """The value of an agent's action, given what the others see and do.

    Args:
        own: numbers in the agent's observation and action together.
        rest: numbers in those of all others that it takes into account; 0 for none.
        hiddens: units of the hidden layers.
        count: of independent estimates.
    """

    def __init__(self, own: int, rest: int, hiddens: Sequence[int], count: int) -> None:
        super().__init__()
        self.rest = rest
        self.estimates = nn.ModuleList(mlp(own + rest, hiddens, 1) for _ in range(count))

    def forward(self, observation: Tensor, action: Tensor, rest: Tensor | None) -> Tensor:
        """Q [estimates, ...] of observations [..., o], actions [..., a] and others [..., rest]."""
        parts = [observation, action]
        if self.rest:
            parts.append(cast("Tensor", rest))
        joint = torch.cat(parts, dim=-1)
        return torch.stack([estimate(joint)[..., 0] for estimate in self.estimates])


class MADDPGModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """An actor on own observations, and a critic.

    Observations are a ``Box`` of any shape, taken as a vector. Where agents share a module, they
    share its actor and its critic, which sees the agent in question first.

    ``model_config``, besides what ``MADDPGConfig`` puts there: ``fcnet_hiddens``, units of the
    hidden layers of both networks (default 128, 128), and ``critic_hiddens``, if the critic's are
    to differ.

    Actions: for ``Discrete`` and ``MultiDiscrete`` the outputs are logits; for a ``Box`` the
    module draws the actions itself.
    """

    def setup(self) -> None:
        config = cast("Mapping[str, Any]", self.model_config)
        self.observation_size = observation_size(self.observation_space)
        self.actions = action_code(self.action_space, config.get("gumbel_temperature", 1.0))
        if self.action_dist_cls is None:
            self.action_dist_cls = self.actions.distribution()
        hiddens = config.get("fcnet_hiddens", DEFAULT_HIDDENS)
        self.actor = mlp(self.observation_size, hiddens, self.actions.num_outputs)
        self.critic = Critic(
            self.observation_size + self.actions.width,
            config.get("critic_rest", 0),
            config.get("critic_hiddens") or hiddens,
            2 if config.get("twin_critics", False) else 1,
        )

    def outputs(self, observation: Tensor) -> Tensor:
        """What the actor says to observations [n, *shape]: [n, outputs]."""
        # Not len(): a number to whoever traces this, as an ONNX export does.
        return self.actor(observation.float().reshape(observation.shape[0], -1))

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, explore=False)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, explore=True)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Observations [n, agents of this module, size] as the learner has them."""
        return {Columns.ACTION_DIST_INPUTS: self.actor(batch[Columns.OBS])}

    def _act(self, batch: dict[str, Any], explore: bool) -> dict[str, Any]:
        outputs = self.outputs(batch[Columns.OBS])
        if self.actions.distribution() is not None:
            return {Columns.ACTION_DIST_INPUTS: outputs}
        encoded = self.actions.draw(outputs) if explore else self.actions.greedy(outputs)
        return {Columns.ACTIONS: self.actions.decode(encoded)}

    def make_target_networks(self) -> None:
        self.target_actor = make_target_network(self.actor)
        self.target_critic = make_target_network(self.critic)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.actor, self.target_actor), (self.critic, self.target_critic)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_actor(batch[Columns.NEXT_OBS])}

    def get_non_inference_attributes(self) -> list[str]:
        return ["critic", "target_actor", "target_critic"]


def observation_size(space: Space[Any] | None) -> int:
    """Numbers in an observation.

    Raises:
        UnsupportedSpace: not a ``Box``.
    """
    if not isinstance(space, Box):
        raise UnsupportedSpace(f"MADDPG observes a Box of numbers, not {space}")
    return int(np.prod(space.shape))


def mlp(inputs: int, hiddens: Sequence[int], outputs: int) -> nn.Sequential:
    """Layers with ReLU between them."""
    sizes = [inputs, *hiddens]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
