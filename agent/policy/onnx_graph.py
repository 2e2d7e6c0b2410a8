"""A policy as one torch module on tensors alone: preprocessing, network and postprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch
import tree
from gymnasium import Space, spaces
from ray.rllib.core.columns import Columns
from ray.rllib.utils.numpy import SMALL_NUMBER
from torch import Tensor, nn

import farsim.spaces
from agent.models import masking
from agent.models.encoding import WIDEST_SCALED
from agent.policy.network import Network
from agent.policy.preprocessing import Flatten, MeanStd, Step
from farsim.errors import FarsimError


class NotExportable(FarsimError, ValueError):
    """A policy that no ONNX model can stand for; says why."""


class Graph(nn.Module):
    """The likeliest actions for observations, as tensors from end to end.

    Args:
        network: the policy.
        has_distribution: whether it says from which distribution actions are drawn.

    Attributes:
        input_names: of the tensors that ``forward`` takes: one for each leaf of the observation
            space, ``action_mask`` and ``state_in``, as far as the policy has them.
        output_names: of those that it gives: one for each leaf of the action space,
            ``action_dist_inputs`` and ``state_out``, as far as the policy has them.

    Raises:
        NotExportable: a space that is no tensor.
    """

    def __init__(self, network: Network, has_distribution: bool) -> None:
        super().__init__()
        self.network = network
        self.module = network.module
        self.input_names = _names("observation", network.observation_space)
        if network.has_action_mask:
            self.input_names.append("action_mask")
        if network.is_recurrent:
            self.input_names.append("state_in")
        self.output_names = _names("action", network.action_space)
        self._actions = len(self.output_names)
        if has_distribution:
            self.output_names.append("action_dist_inputs")
        if network.is_recurrent:
            self.output_names.append("state_out")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        network, rest = self.network, list(inputs)
        seen = _take(network.observation_space, rest)
        mask = rest.pop(0) if network.has_action_mask else None
        encoding = network.encoding
        if encoding is not None and encoding.encodes_observations:
            seen = _vector(network.observation_space, seen)
            seen = seen.reshape(seen.shape[0], *encoding.encoded_shape)
        if mask is not None:
            seen = {masking.OBSERVATIONS: seen, masking.ACTION_MASK: mask}
        for step in network.recipe.steps:
            seen = _apply(step, seen)
        seen = tree.map_structure(lambda part: part.float() if _is_double(part) else part, seen)
        batch = {Columns.OBS: seen}
        if network.is_recurrent:
            batch[Columns.OBS] = tree.map_structure(lambda part: part[:, None], seen)
            batch[Columns.STATE_IN] = network.unpack(rest.pop(0))
        outputs = self.module._forward_inference(batch)
        return tuple(self._results(outputs))

    def _results(self, outputs: Mapping[str, Any]) -> list[Tensor]:
        network = self.network
        chosen, logits = outputs.get(Columns.ACTIONS), outputs.get(Columns.ACTION_DIST_INPUTS)
        if chosen is None:
            kind = network.module.get_inference_action_dist_cls()
            chosen = kind.from_logits(logits).to_deterministic().sample()
        if network.is_recurrent:
            chosen = tree.map_structure(lambda part: part[:, 0], chosen)
            logits = None if logits is None else logits[:, 0]
        results = _finished(network, network.action_space, chosen)
        if logits is not None:
            results.append(logits)
        if network.is_recurrent:
            parts = tree.flatten(outputs[Columns.STATE_OUT])
            results.append(torch.cat([part.flatten(1) for part in parts], dim=1))
        return results


def check_tensors(network: Network) -> None:
    """Raises ``NotExportable`` if the policy takes or gives something else than numbers."""
    _names("observation", network.observation_space)
    _names("action", network.action_space)


def leaves_of(space: Space[Any], value: Any) -> list[Any]:
    """The arrays or tensors of a batched value, in the order of the space's leaves."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keyed = isinstance(space, spaces.Dict)
        return [
            leaf
            for name, member in farsim.spaces.members(space).items()
            for leaf in leaves_of(member, value[name if keyed else int(name)])
        ]
    return [value]


def _names(what: str, space: Space[Any]) -> list[str]:
    names = []
    for path, leaf in farsim.spaces.leaves(space):
        if not isinstance(
            leaf, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        ):
            raise NotExportable(
                f"the {what} has a {type(leaf).__name__}{f' at {path}' if path else ''}, and an "
                "ONNX model takes and gives arrays of numbers",
                path,
            )
        names.append(f"{what}/{path}" if path else what)
    return names


def _take(space: Space[Any], rest: list[Tensor]) -> Any:
    """A batched value from the first of the tensors, which are used up."""
    if isinstance(space, spaces.Dict):
        return {name: _take(member, rest) for name, member in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_take(member, rest) for member in space.spaces)
    return rest.pop(0)


def _is_double(part: Tensor) -> bool:
    return part.dtype == torch.float64


def _apply(step: Step, batch: Any) -> Any:
    if isinstance(step, MeanStd):
        rows = batch.double()
        if step.de_mean:
            rows = rows - torch.from_numpy(np.asarray(step.mean, np.float64))
        if step.de_std:
            rows = rows / torch.from_numpy(np.asarray(step.std + SMALL_NUMBER, np.float64))
        if step.clip:
            rows = rows.clamp(-step.clip, step.clip)
        return rows.to(batch.dtype)
    if isinstance(step, Flatten):
        kept = step.space
        if step.removed:
            batch = {name: part for name, part in batch.items() if name not in step.removed}
            kept = spaces.Dict(
                {name: kept[name] for name in batch}  # type: ignore[index]
            )
        # RLlib goes through a Dict by its sorted names.
        return torch.cat([_flat(leaf, rows) for leaf, rows in _sorted(kept, batch)], dim=1)
    raise NotExportable(f"{type(step).__name__} has no counterpart in tensors")


def _sorted(space: Space[Any], batch: Any) -> list[tuple[Space[Any], Tensor]]:
    if isinstance(space, spaces.Dict):
        names = sorted(space.spaces)
        return [leaf for name in names for leaf in _sorted(space[name], batch[name])]
    if isinstance(space, spaces.Tuple):
        members = zip(space.spaces, batch, strict=True)
        return [leaf for member, part in members for leaf in _sorted(member, part)]
    return [(space, batch)]


def _flat(space: Space[Any], rows: Tensor) -> Tensor:
    """As RLlib flattens a leaf: a choice one-hot, whatever its start."""
    if isinstance(space, spaces.Discrete):
        return _one_hot(rows, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return torch.cat([_one_hot(rows[:, i], int(n)) for i, n in enumerate(space.nvec)], dim=1)
    return rows.flatten(1).float() if rows.dim() > 1 else rows[:, None].float()


def _one_hot(rows: Tensor, n: int) -> Tensor:
    return nn.functional.one_hot(rows.long(), n).float()


@singledispatch
def _vector(space: Space[Any], rows: Any) -> Tensor:
    """As ``agent.models.encoding`` makes vectors: float32 [n, width]."""
    raise NotExportable(f"{type(space).__name__} has no counterpart in tensors")


@_vector.register
def _(space: spaces.Box, rows: Any) -> Tensor:
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    scaled = (high - low <= WIDEST_SCALED) & (high > low)
    low, high = np.where(scaled, low, -1.0), np.where(scaled, high, 1.0)
    flat = rows.double().reshape(rows.shape[0], -1)
    low_tensor, range_tensor = torch.from_numpy(low), torch.from_numpy(high - low)
    return ((flat - low_tensor) / range_tensor * 2 - 1).float()


@_vector.register(spaces.Discrete)
def _(space: spaces.Discrete[Any], rows: Any) -> Tensor:
    return _one_hot(rows - int(space.start), int(space.n))


@_vector.register
def _(space: spaces.MultiDiscrete, rows: Any) -> Tensor:
    choices = (rows - torch.from_numpy(np.asarray(space.start))).reshape(rows.shape[0], -1)
    widths = enumerate(space.nvec.reshape(-1))
    return torch.cat([_one_hot(choices[:, i], int(n)) for i, n in widths], dim=1)


@_vector.register
def _(space: spaces.MultiBinary, rows: Any) -> Tensor:
    return rows.float().reshape(rows.shape[0], -1)


@_vector.register
def _(space: spaces.Tuple, rows: Any) -> Tensor:
    members = zip(space.spaces, rows, strict=True)
    return torch.cat([_vector(member, part) for member, part in members], dim=1)


@_vector.register
def _(space: spaces.Dict, rows: Any) -> Tensor:
    members = space.spaces.items()
    return torch.cat([_vector(member, rows[name]) for name, member in members], dim=1)


def _finished(network: Network, space: Space[Any], chosen: Any) -> list[Tensor]:
    """The simulator's actions, one tensor for each leaf of ``space``."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        keyed = isinstance(space, spaces.Dict)
        return [
            leaf
            for name, member in farsim.spaces.members(space).items()
            for leaf in _finished(network, member, chosen[name if keyed else int(name)])
        ]
    actions = chosen
    if isinstance(space, spaces.Box):
        actions = _scaled(network, space, actions)
    elif network.encoding is not None and isinstance(
        space, (spaces.Discrete, spaces.MultiDiscrete)
    ):
        actions = actions + torch.from_numpy(np.asarray(space.start))
    return [actions]


def _scaled(network: Network, space: spaces.Box, actions: Tensor) -> Tensor:
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    bounded = bool(np.all(space.bounded_below) and np.all(space.bounded_above))
    if network.recipe.unsquashes:
        if not bounded:
            return actions
        if np.issubdtype(space.dtype, np.integer):
            return actions + low
        actions = low + (actions + 1.0) * (high - low) / 2.0
    elif not network.recipe.clips:
        return actions
    return torch.minimum(torch.maximum(actions, low), high)
