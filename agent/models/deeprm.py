"""The policy network for DeepRM: one scorer for all job slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from gymnasium import Space
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

from agent.deeprm.observation import CompactObservation
from agent.models import masking

DEFAULT_WIDTH = 32

#: Returns are in the hundreds, and the last layer should not have to grow its weights to match.
_VALUE_UNIT = 10.0


class _State(NamedTuple):
    """What the networks see of a batch.

    Attributes:
        slots: [n, M, features], zeros for an empty slot.
        occupied: [n, M, 1], 1 where there is a job.
        cluster: [n, features] of everything that is not about one slot.
        startable: bool [n, M], whether the slot's job can start now on a cluster that runs none.
    """

    slots: torch.Tensor
    occupied: torch.Tensor
    cluster: torch.Tensor
    startable: torch.Tensor


class _Features(nn.Module):
    """From compact observations to what a scheduler looks at, all in about 0..1."""

    def __init__(self, layout: CompactObservation) -> None:
        super().__init__()
        self._layout = layout
        self._unscale: torch.Tensor
        scale = layout.scale() if layout.normalize_compact else layout.scale() ** 0
        self.register_buffer("_unscale", torch.from_numpy(scale), persistent=False)
        resources = layout.num_res
        self.slot_size = 4 + 3 * resources
        self.cluster_size = (1 + resources) * layout.time_horizon + 3

    def forward(self, observation: torch.Tensor) -> _State:
        layout, n = self._layout, observation.shape[0]
        horizon, resources, slots = layout.time_horizon, layout.num_res, layout.num_nw
        rows = observation.float() * self._unscale
        plan = (1 + resources) * horizon
        jobs_left = rows[:, :horizon]
        free = rows[:, horizon:plan].view(n, resources, horizon)
        jobs = rows[:, plan:-1].view(n, slots, 1 + resources)
        length, size = jobs[:, :, :1], jobs[:, :, 1:]
        occupied = (length > 0).float()

        # The least that is free over the job's time steps decides whether it can start now.
        least = _running_least(free)
        last = (length[:, None, :, 0].long() - 1).clamp(0, horizon - 1)
        least = torch.gather(least, 2, last.expand(n, resources, slots)).transpose(1, 2)
        fits = (least >= size).all(dim=2, keepdim=True).float() * occupied
        left_now = (free[:, None, :, 0] - size) * occupied / layout.res_slot

        size = size / layout.max_job_size
        relative = length / layout.max_job_len
        # What a job costs for each time step that it stays.
        urgency = occupied / length.clamp(min=1)
        cluster = [
            jobs_left / layout.res_slot,
            free.reshape(n, -1) / layout.res_slot,
            rows[:, -1:] / layout.backlog_size,
            occupied.mean(dim=1),
            urgency.mean(dim=1),
        ]
        return _State(
            torch.cat([relative, occupied, size, fits, left_now, size * relative, urgency], dim=2),
            occupied,
            torch.cat(cluster, dim=1),
            (fits[:, :, 0] > 0) & (jobs_left[:, :1] == 0),
        )


def _running_least(values: torch.Tensor) -> torch.Tensor:
    """The least so far along the last axis."""
    if not torch.onnx.is_in_onnx_export():
        return torch.cummin(values, dim=-1).values
    # ONNX has no such operator: of 2, of 4, of 8, ... at a time.
    reach = 1
    while reach < values.shape[-1]:
        least = torch.minimum(values[..., reach:], values[..., :-reach])
        values = torch.cat([values[..., :reach], least], dim=-1)
        reach *= 2
    return values


class _SlotEncoder(nn.Module):
    """An embedding [n, M, width] of each slot; zeros for an empty one."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self._layers = _mlp(inputs, width, width)

    def forward(self, state: _State) -> torch.Tensor:
        return self._layers(state.slots) * state.occupied


class _Actor(nn.Module):
    """Logits [n, M + 1]: a score for the job in each slot, and one for the void action.

    The score depends on the job, on the cluster, and on the other jobs through their mean and
    maximum, so that exchanging two slots exchanges their logits and changes nothing else.
    """

    def __init__(self, features: _Features, width: int) -> None:
        super().__init__()
        self._slots = _SlotEncoder(features.slot_size, width)
        self._context = _mlp(features.cluster_size + 2 * width, 2 * width, width)
        self._of_slot = nn.Linear(width, width)
        self._of_context = nn.Linear(width, width)
        self._start = nn.Linear(width, 1)
        self._void = nn.Linear(width, 1)
        # Near-uniform at first, or exploration would start from an arbitrary preference.
        for head in (self._start, self._void):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, state: _State) -> torch.Tensor:
        slots = self._slots(state)
        pooled = [state.cluster, slots.mean(dim=1), slots.max(dim=1).values]
        context = self._context(torch.cat(pooled, dim=1))
        hidden = torch.relu(self._of_slot(slots) + self._of_context(context)[:, None])
        return torch.cat([self._start(hidden)[:, :, 0], self._void(context)], dim=1)


class _Critic(nn.Module):
    """The value [n] of a state."""

    def __init__(self, features: _Features, width: int) -> None:
        super().__init__()
        self._slots = _SlotEncoder(features.slot_size, width)
        self._layers = _mlp(features.cluster_size + width, 2 * width, width)
        self._value = nn.Linear(width, 1)

    def forward(self, state: _State) -> torch.Tensor:
        slots = self._slots(state)
        hidden = self._layers(torch.cat([state.cluster, slots.mean(dim=1)], dim=1))
        return self._value(hidden)[:, 0] * _VALUE_UNIT


class DeepRMModule(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI, InferenceOnlyAPI):
    """For compact observations of any number of slots, resources and time steps.

    Weights are shared across job slots, which matters more than the algorithm: a plain
    multilayer perceptron has to learn each slot by itself, and stays at the level of random.

    Observations may be plain or come as ``{"observations", "action_mask"}``; a mask is applied to
    the logits. ``model_config`` holds ``layout``, the options of ``CompactObservation``, and
    ``width``, of the hidden layers.

    A good policy holds long jobs back for a while in case short ones arrive. How long it has done
    so is nothing that the observation tells, so it learns to end the wait by chance, and always
    taking the likeliest action would wait forever. Hence inference, which is deterministic, never
    lets time pass while nothing runs and some job could start. Exploration is free to.

    Works with PPO, APPO and IMPALA.
    """

    def setup(self) -> None:
        config = cast("Mapping[str, Any]", self.model_config)
        layout = CompactObservation.from_options(config["layout"])
        space = masking.unmasked_space(cast("Space[Any]", self.observation_space))
        if not layout.describes(space):
            raise ValueError(f"observations of {layout} have shape ({layout.length},), not {space}")
        width = config.get("width", DEFAULT_WIDTH)
        self.features = _Features(layout)
        self.actor = _Actor(self.features, width)
        self.critic = _Critic(self.features, width)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self._logits(self.actor, batch)}

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observation, mask = masking.split(batch[Columns.OBS])
        with torch.no_grad():
            state = self.features(observation)
            logits = masking.forbid(self.actor(state), mask)
            can_start = (state.startable & (logits[:, :-1] > masking.FORBIDDEN_LOGIT)).any(dim=1)
            logits[can_start, -1] = masking.FORBIDDEN_LOGIT
        return {Columns.ACTION_DIST_INPUTS: logits}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        observation, _ = masking.split(batch[Columns.OBS])
        return self.critic(self.features(observation))

    def make_target_networks(self) -> None:
        self.target_actor = make_target_network(self.actor)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.actor, self.target_actor)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self._logits(self.target_actor, batch)}

    def get_non_inference_attributes(self) -> list[str]:
        return ["critic", "target_actor"]

    def _logits(self, actor: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        observation, mask = masking.split(batch[Columns.OBS])
        return masking.forbid(actor(self.features(observation)), mask)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs), nn.ReLU()
    )
