"""Actions of all agents of all environments, with one forward pass for each policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector.utils import batch_space
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.spaces.space_utils import (
    clip_action,
    get_base_struct_from_space,
    unsquash_action,
)

from agent.sampling.columns import BoolArray, IntArray, chosen, joined, like, put
from agent.sampling.forward import Forward


@dataclass(frozen=True)
class Act:
    """What the agents of one group did that one policy decides for.

    Attributes:
        group: its number.
        policy: the policy.
        rows: of the group; None for all.
        observation: a nest of arrays [rows, ...], as are the next two.
        action: as the network gave it, which is what it learns from.
        extras: what else it said, by column name; empty for random actions.
    """

    group: int
    policy: str
    rows: IntArray | None
    observation: Any
    action: Any
    extras: Mapping[str, Any]


@dataclass(frozen=True)
class ActingGroup:
    """A group as policies see it.

    Attributes:
        action_space: that networks choose from.
        decode: from a batch of that space to one of the simulator's.
        rows: agents of all environments.
    """

    action_space: Space[Any]
    decode: Callable[[Any], Any]
    rows: int


class Acting:
    """Chooses actions.

    Args:
        groups: of the simulator.
        normalize_actions: RLlib's setting: networks act in -1..1, whatever the bounds of a Box.
        clip_actions: RLlib's setting: what is beyond the bounds of a Box is cut.
        device: where networks are.
        seed: of actions at random.
    """

    def __init__(
        self,
        groups: Sequence[ActingGroup],
        normalize_actions: bool,
        clip_actions: bool,
        device: Any,
        seed: int,
    ) -> None:
        self._groups = groups
        self._structs = [get_base_struct_from_space(group.action_space) for group in groups]
        self._normalize, self._clip = normalize_actions, clip_actions
        self._device = device
        self._forwards: dict[str, Forward] = {}
        self._batches = [batch_space(group.action_space, group.rows) for group in groups]
        for number, space in enumerate(self._batches):
            space.seed(seed + number)
        #: The policy of every row, by group; empty before ``assign``.
        self._policies = [np.full(group.rows, "", object) for group in groups]
        self._assigned: dict[str, list[tuple[int, IntArray | None]]] = {}

    def assign(self, group: int, rows: slice, policies: Sequence[str]) -> None:
        """Says who decides for rows of a group, from now on."""
        if self._policies[group][rows].tolist() != list(policies):
            self._policies[group][rows] = policies
            self._assigned = {}

    def counts(self, group: int, stepped: BoolArray) -> dict[str, int]:
        """How many of the rows of a group that stepped belong to each policy."""
        found: dict[str, int] = {}
        for policy, places in self._by_policy().items():
            for number, rows in places:
                if number == group:
                    found[policy] = int((stepped if rows is None else stepped[rows]).sum())
        return found

    def rows(self, act: Act) -> int:
        """How many agents an act is of."""
        return self._groups[act.group].rows if act.rows is None else len(act.rows)

    def choose(
        self,
        module: MultiRLModule,
        observations: Sequence[Any],
        acting: Sequence[BoolArray],
        explore: bool,
        time: int,
    ) -> tuple[list[Any], list[Act]]:
        """Actions of all agents that act.

        Args:
            module: the policies.
            observations: for each group a nest of arrays [rows, ...], as the networks take it.
            acting: for each group bool [rows].
            explore: whether actions are drawn, or the likeliest ones taken.
            time: environment steps so far, for schedules of exploration.

        Returns:
            For each group a batch of the simulator's actions with a row for every agent of every
            environment (zeros for those that do not act), and what the networks had said.
        """
        acts: list[Act] = []
        for policy, places in self._by_policy().items():
            parts = [(group, self._who(acting[group], rows)) for group, rows in places]
            parts = [(group, rows) for group, rows in parts if rows is None or len(rows)]
            seen = [
                observations[group] if rows is None else chosen(observations[group], rows)
                for group, rows in parts
            ]
            if parts:
                acts += self._forward(module, policy, parts, seen, explore, time)
        return self._for_simulator(acts), acts

    def choose_at_random(
        self, observations: Sequence[Any], acting: Sequence[BoolArray]
    ) -> tuple[list[Any], list[Act]]:
        """As ``choose``, by nobody but chance."""
        acts = []
        for number in range(len(self._groups)):
            rows = self._who(acting[number], None)
            sample = self._batches[number].sample()
            for policy, places in self._by_policy().items():
                for other, own in places:
                    if other != number:
                        continue
                    who = rows if own is None else self._who(acting[number], own)
                    if who is None:
                        acts.append(Act(number, policy, None, observations[number], sample, {}))
                    elif len(who):
                        seen, action = chosen(observations[number], who), chosen(sample, who)
                        acts.append(Act(number, policy, who, seen, action, {}))
        return self._for_simulator(acts, is_random=True), acts

    def _by_policy(self) -> Mapping[str, list[tuple[int, IntArray | None]]]:
        if not self._assigned:
            for number, policies in enumerate(self._policies):
                for policy in dict.fromkeys(policies.tolist()):
                    rows = np.flatnonzero(policies == policy)
                    where = (number, None if len(rows) == len(policies) else rows)
                    self._assigned.setdefault(policy, []).append(where)
        return self._assigned

    def _who(self, acting: BoolArray, rows: IntArray | None) -> IntArray | None:
        """Those of ``rows`` that act; None for all of the group."""
        if acting.all():
            return rows
        return np.flatnonzero(acting) if rows is None else rows[acting[rows]]

    def _forward(
        self,
        module: MultiRLModule,
        policy: str,
        parts: Sequence[tuple[int, IntArray | None]],
        seen: Sequence[Any],
        explore: bool,
        time: int,
    ) -> list[Act]:
        together = seen[0]
        for other in seen[1:]:
            together = joined(together, other)
        forward = self._forwards.get(policy)
        if forward is None or forward.module is not module[policy]:
            forward = self._forwards[policy] = Forward(module[policy], self._device)
        outputs = forward(together, explore, time)
        action = outputs.pop(Columns.ACTIONS)
        acts = []
        first = 0
        for (group, rows), observation in zip(parts, seen, strict=True):
            count = self._groups[group].rows if rows is None else len(rows)
            own = slice(first, first + count)
            extras = {name: chosen(values, own) for name, values in outputs.items()}
            acts.append(Act(group, policy, rows, observation, chosen(action, own), extras))
            first += count
        return acts

    def _for_simulator(self, acts: Sequence[Act], is_random: bool = False) -> list[Any]:
        actions: list[Any] = [None] * len(self._groups)
        for act in acts:
            action = act.action
            if not is_random:
                struct = self._structs[act.group]
                if self._normalize:
                    action = unsquash_action(action, struct)
                elif self._clip:
                    action = clip_action(action, struct)
            action = self._groups[act.group].decode(action)
            if act.rows is None:
                actions[act.group] = action
                continue
            if actions[act.group] is None:
                actions[act.group] = like(action, self._groups[act.group].rows)
            put(actions[act.group], act.rows, action)
        return [
            group.decode(like(space.sample(), group.rows)) if action is None else action
            for group, space, action in zip(self._groups, self._batches, actions, strict=True)
        ]
