"""RLlib's default networks, with an action mask."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module import DefaultAPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from torch import Tensor

from agent.models import masking


class MaskedModule(DefaultAPPOTorchRLModule):
    """The default encoder and heads of PPO, APPO and IMPALA on ``observations``.

    The mask is applied to the logits, for Discrete and MultiDiscrete actions. ``model_config`` is
    that of RLlib's default modules, without recurrence.
    """

    def __init__(self, *, observation_space: Space[Any], **kwargs: Any) -> None:
        super().__init__(observation_space=masking.unmasked_space(observation_space), **kwargs)
        # What the module is given, and what a checkpoint of it is built from again.
        self.observation_space = observation_space

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        plain, mask = _split(batch)
        return _forbid(super()._forward(plain, **kwargs), mask)

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        plain, mask = _split(batch)
        return _forbid(super()._forward_train(plain, **kwargs), mask)

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        return super().compute_values(_split(batch)[0], embeddings)

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        plain, mask = _split(batch)
        return _forbid(super().forward_target(plain), mask, TARGET_NETWORK_ACTION_DIST_INPUTS)


def _split(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    observation, mask = masking.split(batch[Columns.OBS])
    return {**batch, Columns.OBS: observation}, mask


def _forbid(
    outputs: dict[str, Any], mask: Tensor | None, column: str = Columns.ACTION_DIST_INPUTS
) -> dict[str, Any]:
    return {**outputs, column: masking.forbid(outputs[column], mask)}
