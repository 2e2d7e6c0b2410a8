"""Policies that are being learned: RLlib's networks as simulators see them, version by version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import tree
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from agent.live.inference import Answer, Masks, PolicySpec, Query
from agent.models import masking
from agent.models.encoding import Encoding
from farsim import spaces
from farsim.errors import UnknownPolicy, Unsupported


class Seat:
    """One policy's place between simulators and its network.

    Args:
        spec: what simulators see of the policy.
        takes_mask: whether the network gets the action mask with the observation.
        normalize_actions: RLlib's setting: the network acts in -1..1, whatever a Box's bounds.
        clip_actions: RLlib's setting: what is beyond the bounds of a Box is cut.

    Raises:
        Unsupported: the network is to get masks of more than one leaf.
    """

    def __init__(
        self, spec: PolicySpec, takes_mask: bool, normalize_actions: bool, clip_actions: bool
    ) -> None:
        self.spec = spec
        self._takes_mask = takes_mask and spec.has_action_mask
        observed = spec.observation_space
        if self._takes_mask:
            widths = list(spaces.mask_widths(spec.action_space))
            if len(widths) != 1:
                raise Unsupported(
                    f"policy '{spec.name}': a network takes the mask of one Discrete or "
                    f"MultiDiscrete action, and this has {len(widths)}"
                )
            mask = Box(0.0, 1.0, (widths[0],), np.float32)
            observed = Dict({masking.OBSERVATIONS: observed, masking.ACTION_MASK: mask})
        self._encoding = Encoding(observed, spec.action_space)
        self._struct = get_base_struct_from_space(self.action_space)
        self._normalize, self._clip = normalize_actions, clip_actions

    @property
    def observation_space(self) -> Space[Any]:
        """That the network sees."""
        return self._encoding.observation_space

    @property
    def action_space(self) -> Space[Any]:
        """That the network chooses from."""
        return self._encoding.action_space

    def encode(self, observations: Sequence[Any], masks: Sequence[Masks]) -> Any:
        """A batch as the network takes it, of observations as simulators give them."""
        batch = spaces.batch(self.spec.observation_space, observations)
        if self._takes_mask:
            full = spaces.full_masks(self.spec.action_space, 1)[0][0]
            flags = [mask[0] if mask else full for mask in masks]
            batch = {masking.OBSERVATIONS: batch, masking.ACTION_MASK: np.array(flags, np.float32)}
        return self._encoding.encode(batch)

    def encode_one(self, observation: Any, masks: Masks) -> Any:
        """One observation as the network takes it."""
        return _rows(self.encode([observation], [masks]), 0)

    def for_simulator(self, actions: Any, rows: int) -> list[Any]:
        """Single actions for simulators, of a batch as the network gave it."""
        if self._normalize:
            actions = unsquash_action(actions, self._struct)
        elif self._clip:
            actions = clip_action(actions, self._struct)
        actions = self._encoding.decode(actions)
        return spaces.unbatch(self.spec.action_space, actions, rows)

    def for_network(self, action: Any) -> Any:
        """An action that somebody else took, as the network would have had to give it."""
        return _for_network(self.spec.action_space, action, self._normalize)


def _for_network(space: Space[Any], action: Any, normalize: bool) -> Any:
    if isinstance(space, Dict):
        return {
            name: _for_network(member, action[name], normalize)
            for name, member in space.spaces.items()
        }
    if isinstance(space, Tuple):
        pairs = zip(space.spaces, action, strict=True)
        return tuple(_for_network(member, part, normalize) for member, part in pairs)
    if isinstance(space, Discrete):
        return np.int64(action - space.start)
    if isinstance(space, MultiDiscrete):
        return (np.asarray(action) - space.start).astype(space.dtype)
    if isinstance(space, Box) and normalize and np.issubdtype(space.dtype, np.floating):
        bounded = space.bounded_below & space.bounded_above & (space.high > space.low)
        if bounded.all():
            scaled = 2.0 * (np.asarray(action) - space.low) / (space.high - space.low) - 1.0
            return scaled.astype(space.dtype)
    return np.asarray(action)


class LearnedPolicies:
    """The ``Inference`` over an env runner's RLModules.

    Weights change between two forward passes, together with the version that answers carry.

    Args:
        seats: of all policies.
        module: of a policy, by its name.
        device: where the networks are.
    """

    def __init__(
        self, seats: Sequence[Seat], module: Callable[[str], Any], device: Any = None
    ) -> None:
        self.seats: Mapping[str, Seat] = {seat.spec.name: seat for seat in seats}
        self._module, self._device = module, device
        self._lock = threading.RLock()
        self._version = 1
        self._weights_seq_no = 0
        self._explore, self._steps = True, 0

    @property
    def version(self) -> int:
        """Of the weights now."""
        return self._version

    def policies(self) -> Sequence[PolicySpec]:
        return [seat.spec for seat in self.seats.values()]

    def versions(self, policy: str) -> Sequence[int]:
        return [self._version]

    def sampling(self, explore: bool, steps: int) -> None:
        """From now on actions are drawn or not, at so many environment steps of all runners."""
        with self._lock:
            self._explore, self._steps = explore, steps

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within, nobody is answered."""
        with self._lock:
            yield

    def changed(self, weights_seq_no: int) -> None:
        """The networks have other weights; to be called in the same ``still``.

        Args:
            weights_seq_no: RLlib's number for them, which versions follow; 0 if it has none.
        """
        with self._lock:
            self._version = max(self._version + 1, weights_seq_no + 1)
            self._weights_seq_no = weights_seq_no or self._weights_seq_no

    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        greedy = [query.greedy for query in queries]
        if any(greedy) and not all(greedy):
            return self._mixed(policy, queries, version)
        seat = self.seats[policy]
        observations = [query.observation for query in queries]
        encoded = seat.encode(observations, [query.action_masks for query in queries])
        with self._lock:
            if version not in (0, self._version):
                raise UnknownPolicy(
                    f"version {version} of policy '{policy}' is not served any more: learning has "
                    f"come to {self._version}; leave the version open"
                )
            number, seq_no = self._version, self._weights_seq_no
            explore = self._explore and not greedy[0]
            states = [query.state for query in queries]
            outputs = forward(
                self._module(policy), encoded, states, explore, self._steps, self._device
            )
        columns = [_rows(outputs, row) for row in range(len(queries))]
        actions = seat.for_simulator(outputs[Columns.ACTIONS], len(queries))
        return [
            Answer(
                action=action,
                state=own.get(Columns.STATE_OUT),
                version=number,
                extras={Columns.OBS: _rows(encoded, row), WEIGHTS_SEQ_NO: seq_no, **own},
            )
            for row, (action, own) in enumerate(zip(actions, columns, strict=True))
        ]

    def _mixed(self, policy: str, queries: Sequence[Query], version: int) -> Sequence[Answer]:
        answers: list[Any] = [None] * len(queries)
        with self._lock:  # One version for all of them.
            for greedy in (False, True):
                rows = [row for row, query in enumerate(queries) if query.greedy is greedy]
                found = self.act(policy, [queries[row] for row in rows], version)
                for row, answer in zip(rows, found, strict=True):
                    answers[row] = answer
        return answers


def forward(
    module: Any, observation: Any, states: Sequence[Any], explore: bool, steps: int, device: Any
) -> dict[str, Any]:
    """One policy's actions on a batch, as RLlib's default connectors would have them.

    Args:
        module: an RLModule.
        observation: a nest of arrays [rows, ...].
        states: for each row the state after the step before; None where an episode begins, or
            for a module without memory.
        explore: whether to draw actions, or take the likeliest ones.
        steps: environment steps so far, for schedules of exploration.
        device: where the module is.

    Returns:
        Nests of NumPy arrays [rows, ...] by column: "actions", and what the learner wants to know.
    """
    batch = {Columns.OBS: convert_to_torch_tensor(observation, device=device)}
    is_stateful = module.is_stateful()
    if is_stateful:
        first = convert_to_numpy(module.get_initial_state())
        nests = [first if state is None else state for state in states]
        stacked = tree.map_structure(lambda *leaves: np.stack(leaves), *nests)
        batch[Columns.STATE_IN] = convert_to_torch_tensor(stacked, device=device)
        batch[Columns.OBS] = tree.map_structure(lambda leaf: leaf[:, None], batch[Columns.OBS])
    with torch.no_grad():
        if explore:
            outputs = dict(module.forward_exploration(batch, t=steps))
        else:
            outputs = dict(module.forward_inference(batch))
        if is_stateful:
            outputs = {
                name: value
                if name == Columns.STATE_OUT
                else tree.map_structure(lambda leaf: leaf.squeeze(1), value)
                for name, value in outputs.items()
            }
        if Columns.ACTIONS not in outputs:
            if explore:
                kind = module.get_exploration_action_dist_cls()
            else:
                kind = module.get_inference_action_dist_cls()
            distribution = kind.from_logits(outputs[Columns.ACTION_DIST_INPUTS])
            if not explore:
                distribution = distribution.to_deterministic()
            outputs[Columns.ACTIONS] = distribution.sample()
            if Columns.ACTION_LOGP not in outputs:
                outputs[Columns.ACTION_LOGP] = distribution.logp(outputs[Columns.ACTIONS])
    arrays: dict[str, Any] = convert_to_numpy(outputs)  # type: ignore[assignment]
    return arrays


def _rows(nest: Any, row: int) -> Any:
    """One row of a nest of arrays."""
    return tree.map_structure(lambda leaf: leaf[row], nest)
