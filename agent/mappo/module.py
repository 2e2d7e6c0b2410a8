"""An actor on own observations, and a value on those of all agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from gymnasium.spaces import Box
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchDiagGaussian
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from agent.maddpg.actions import action_code
from agent.maddpg.module import DEFAULT_HIDDENS, mlp, observation_size
from agent.mappo.connector import OTHERS


class MAPPOModule(TorchRLModule, ValueFunctionAPI, InferenceOnlyAPI):
    """For PPO; the learner's batch must have the column ``OTHERS``.

    Observations are a ``Box`` of any shape, taken as a vector; actions ``Discrete``,
    ``MultiDiscrete``, or a ``Box``, for which the actor's deviations are the same everywhere.
    ``model_config``: ``fcnet_hiddens``, units of the hidden layers (default 128, 128).
    """

    def setup(self) -> None:
        config = cast("Mapping[str, Any]", self.model_config)
        hiddens = config.get("fcnet_hiddens", DEFAULT_HIDDENS)
        size = observation_size(self.observation_space)
        code = action_code(self.action_space, 1.0)
        if self.action_dist_cls is None:
            self.action_dist_cls = code.distribution() or TorchDiagGaussian
        self.actor = mlp(size, hiddens, code.num_outputs)
        # Near-uniform at first, or exploration would start from an arbitrary preference.
        last = cast("nn.Linear", self.actor[-1])
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)
        self.log_std: nn.Parameter | None = None
        if isinstance(self.action_space, Box):
            self.log_std = nn.Parameter(torch.zeros(code.num_outputs))
        self.value = mlp(size + config.get("others_width", 0), hiddens, 1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        outputs = self.actor(_vectors(batch[Columns.OBS]))
        if self.log_std is not None:
            outputs = torch.cat([outputs, self.log_std.expand_as(outputs)], dim=-1)
        return {Columns.ACTION_DIST_INPUTS: outputs}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        everything = torch.cat([_vectors(batch[Columns.OBS]), batch[OTHERS]], dim=-1)
        return self.value(everything)[:, 0]

    def get_non_inference_attributes(self) -> list[str]:
        return ["value"]


def _vectors(observations: Tensor) -> Tensor:
    # Not len(): a number to whoever traces this, as an ONNX export does.
    return observations.float().reshape(observations.shape[0], -1)
