"""The policies of a checkpoint and of those that came after it, behind the live service."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tree
from gymnasium import Space
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.spaces.space_utils import unbatch

from agent.live.inference import Answer, PolicySpec, Query
from agent.policy.network import Network, Outputs, States, build_module
from agent.policy.pipeline import PipelineNetwork
from agent.policy.recipe import PolicyRecipe, Recipe
from farsim import spaces
from farsim.errors import InvalidArgument, SpaceMismatch, UnknownPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """The policies of one checkpoint, ready to act.

    Attributes:
        number: goes up with each checkpoint.
        networks: by policy.
        origin: the checkpoint, for people.
    """

    number: int
    networks: Mapping[str, Network]
    origin: str

    @classmethod
    def of(cls, number: int, recipe: Recipe, device: str) -> Version:
        """Builds the networks, and lets each act once, so that no query waits for that."""
        modules = {name: build_module(module, device) for name, module in recipe.modules.items()}
        networks = {
            policy.name: _network(policy, modules[policy.module], recipe.steps)
            for policy in recipe.policies
        }
        for network in networks.values():
            _act(network, [_blank(network)])
        return cls(number, networks, recipe.origin)


class CheckpointInference:
    """``agent.live.inference.Inference`` by RLlib's networks, several versions of them.

    A version is put in place in one assignment: what is being computed goes on with the one that
    it began with, and no batch sees two.

    Args:
        recipe: the first checkpoint.
        keep: how many versions can be asked for at most.
        device: "cpu" or "cuda".
        extras: whether answers carry what a learner needs, under RLlib's names of columns.

    Raises:
        InvalidCheckpoint: the networks cannot be built.
    """

    def __init__(
        self, recipe: Recipe, keep: int = 2, device: str = "cpu", extras: bool = False
    ) -> None:
        if keep < 1:
            raise InvalidArgument(f"at least one version is kept, not {keep}", "keep")
        self._keep = keep
        self._device = device
        self._extras = extras
        self._adding = threading.Lock()
        self._versions: tuple[Version, ...] = (
            Version.of(max(1, recipe.iteration), recipe, device),
        )

    @property
    def current(self) -> Version:
        """The newest version."""
        return self._versions[-1]

    def policies(self) -> Sequence[PolicySpec]:
        current = self.current
        return [_spec(name, network, current.origin) for name, network in current.networks.items()]

    def versions(self, policy: str) -> Sequence[int]:
        current = self._versions
        if policy not in current[-1].networks:
            raise UnknownPolicy(
                f"no policy '{policy}': there are {', '.join(current[-1].networks)}", policy
            )
        return [version.number for version in current]

    def act(self, policy: str, queries: Sequence[Query], version: int = 0) -> Sequence[Answer]:
        chosen = self._find(version)
        network = chosen.networks.get(policy)
        if network is None:
            raise UnknownPolicy(f"no policy '{policy}': there are {', '.join(chosen.networks)}")
        answers: list[Answer | None] = [None] * len(queries)
        for greedy in (True, False):
            rows = [row for row, query in enumerate(queries) if query.greedy is greedy]
            if rows:
                outputs = _act(network, [queries[row] for row in rows])
                for row, answer in zip(rows, self._answers(network, outputs), strict=True):
                    answers[row] = replace(answer, version=chosen.number)
        return [answer for answer in answers if answer is not None]

    def add(self, recipe: Recipe) -> int:
        """Makes a newer checkpoint the current version, once it is ready to act; its number.

        That is the checkpoint's iteration, unless it would not go up.

        Raises:
            SpaceMismatch: its policies are others, or in other spaces; says where they differ.
            InvalidCheckpoint: the networks cannot be built.
        """
        with self._adding:
            current = self.current
            number = max(current.number + 1, recipe.iteration)
            new = Version.of(number, recipe, self._device)
            check_same(current, new)
            self._versions = (*self._versions, new)[-self._keep :]
        return number

    def _find(self, number: int) -> Version:
        versions = self._versions
        if not number:
            return versions[-1]
        for version in versions:
            if version.number == number:
                return version
        kept = ", ".join(str(version.number) for version in versions)
        raise UnknownPolicy(f"no version {number} is kept: there are {kept}", str(number))

    def _answers(self, network: Network, outputs: Outputs) -> list[Answer]:
        actions = rows_of(network.action_space, outputs.actions)
        states = [None] * len(actions) if outputs.states is None else list(outputs.states)
        if not self._extras:
            return [
                Answer(action, state, 0, {}) for action, state in zip(actions, states, strict=True)
            ]
        columns: dict[str, Any] = {Columns.ACTIONS: unbatch(outputs.chosen)}
        if outputs.logp is not None:
            columns[Columns.ACTION_LOGP] = outputs.logp
        if outputs.inputs is not None:
            columns[Columns.ACTION_DIST_INPUTS] = outputs.inputs
        if outputs.state_out is not None:
            columns[Columns.STATE_OUT] = unbatch(outputs.state_out)
        return [
            Answer(action, state, 0, {name: rows[index] for name, rows in columns.items()})
            for index, (action, state) in enumerate(zip(actions, states, strict=True))
        ]


def rows_of(space: Space[Any], actions: Any) -> Sequence[Any]:
    """The single values of a batched one."""
    if isinstance(actions, np.ndarray):
        return list(actions)
    return spaces.unbatch(space, actions, len(tree.flatten(actions)[0]))


def check_same(current: Version, new: Version) -> None:
    """Raises ``SpaceMismatch`` unless one can take the other's place."""
    if current.networks.keys() != new.networks.keys():
        raise SpaceMismatch(
            f"{new.origin} has the policies {', '.join(new.networks)}, and "
            f"{', '.join(current.networks)} are served"
        )
    for name, network in new.networks.items():
        old = current.networks[name]
        found = [
            *spaces.differences(old.observation_space, network.observation_space, "observation"),
            *spaces.differences(old.action_space, network.action_space, "action"),
        ]
        if old.has_action_mask != network.has_action_mask:
            found.append(f"action mask: {old.has_action_mask}, {network.has_action_mask}")
        if old.state_size != network.state_size:
            found.append(f"recurrent state: {old.state_size} numbers, {network.state_size}")
        if found:
            raise SpaceMismatch(
                f"{new.origin} is for other spaces than {current.origin} (here: what is served, "
                f"there: the new one), policy '{name}': {'; '.join(found)}",
                name,
            )


def _network(policy: PolicyRecipe, module: RLModule, steps: int) -> Network:
    kind = Network if policy.pipeline is None else PipelineNetwork
    return kind(policy, module, steps)


def _spec(name: str, network: Network, origin: str) -> PolicySpec:
    pipeline = network.recipe.pipeline
    return PolicySpec(
        name=name,
        observation_space=network.observation_space,
        action_space=network.action_space,
        has_action_mask=network.has_action_mask,
        is_recurrent=network.is_recurrent,
        agents=network.recipe.agents,
        checkpoint=origin if pipeline is None else f"{origin}, {pipeline.note}",
    )


def _act(network: Network, queries: Sequence[Query]) -> Outputs:
    """The outputs for queries that agree on ``greedy``."""
    return network.act(
        spaces.batch(network.observation_space, [query.observation for query in queries]),
        _masks(network, queries) if network.has_action_mask else None,
        _states(network, queries) if network.is_recurrent else None,
        queries[0].greedy,
    )


def _masks(network: Network, queries: Sequence[Query]) -> NDArray[np.float32]:
    """Float32 [n, actions]; whoever says nothing allows everything."""
    widths = spaces.mask_widths(network.action_space)
    rows = np.ones((len(queries), sum(widths)), np.float32)
    for row, query in enumerate(queries):
        if query.action_masks:
            rows[row] = np.concatenate([np.asarray(mask) for mask in query.action_masks])
    return rows


def _states(network: Network, queries: Sequence[Query]) -> States:
    return np.stack([_state(network, query.state) for query in queries])


def _state(network: Network, state: Any) -> States:
    if state is None:
        return network.initial_state
    row = np.frombuffer(state, np.float32) if isinstance(state, bytes) else np.asarray(state)
    if row.shape != (network.state_size,):
        raise InvalidArgument(
            f"a state of this policy has {network.state_size} numbers, not {row.size}: send what "
            "the last reply for the episode said, or nothing in a new episode",
            "state",
        )
    return row


def _blank(network: Network) -> Query:
    """An observation that is like no other, to warm up with."""
    observation = spaces.unbatch(
        network.observation_space, spaces.zeros(network.observation_space, 1), 1
    )[0]
    return Query(observation, (), None, True, None)
