"""What the agents of PettingZoo environments are told, as the rows of batches."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farsim import spaces
from simserver.adapters import infos as info_columns
from simserver.adapters.agent_groups import AgentGroup
from simserver.adapters.pettingzoo_games import Agent, Told
from simserver.simulator import GroupBatch


@dataclass(frozen=True)
class _Row:
    observation: Any
    mask: NDArray[np.bool_] | None
    told: Told
    acts: bool


class AgentRows:
    """Collects, environment by environment, what one batch is to say.

    Args:
        groups: of every environment.
    """

    def __init__(self, groups: Sequence[AgentGroup]) -> None:
        self._groups = groups
        self._group_of = {agent: each for each in groups for agent in each.ids}
        self._rows: dict[int, dict[Agent, _Row]] = {}

    def add(
        self, env: int, told: Mapping[Agent, Told], acting: Container[Agent]
    ) -> dict[Agent, Any]:
        """Adds the rows of an environment: all of them, or none if this raises.

        Args:
            env: the environment, a later one than those before.
            told: what its agents were told.
            acting: who is to act next.

        Returns:
            The agents' observations, without masks.

        Raises:
            ValueError, InvalidTensor: what an agent was told does not fit its spaces.
        """
        rows = {}
        for agent, seen in told.items():
            group = self._group_of.get(agent)
            if group is None:
                raise ValueError(f"agent '{agent}' is not among possible_agents")
            observation, mask, info = group.read(seen.observation, seen.info)
            seen = Told(None, info, seen.reward, seen.terminated, seen.truncated)
            rows[agent] = _Row(observation, mask, seen, agent in acting and not seen.ended)
        self._rows[env] = rows
        return {agent: row.observation for agent, row in rows.items()}

    def stop(self, env: int, last: Mapping[Agent, Any]) -> None:
        """Adds rows of agents that were stopped, by what they saw last: reward 0, truncated."""
        rows = self._rows.setdefault(env, {})
        for agent, observation in last.items():
            rows[agent] = _Row(observation, None, Told(None, {}, truncated=True), False)

    def batches(self, started: bool = False) -> list[GroupBatch]:
        """One for each group; without rewards for episodes that have just ``started``."""
        return [self._batch(each, started) for each in self._groups]

    def _batch(self, each: AgentGroup, started: bool) -> GroupBatch:
        group, size = each.group, len(each.ids)
        found = [
            (env * size + place, rows[agent])
            for env, rows in self._rows.items()
            for place, agent in enumerate(each.ids)
            if agent in rows
        ]
        rows = [row for _, row in found]
        batch = GroupBatch(
            observation=spaces.batch(group.observation_space, [row.observation for row in rows]),
            infos=info_columns.columns([row.told.info for row in rows]),
        )
        if len(rows) < size * len(self._rows):
            batch.rows = np.array([index for index, _ in found], np.int64)
        if any(not row.acts and not row.told.ended for row in rows):
            batch.acting = np.array([index for index, row in found if row.acts], np.int64)
        if not started:
            batch.reward = np.array([row.told.reward for row in rows], np.float64)
            batch.terminated = np.array([row.told.terminated for row in rows], np.bool_)
            batch.truncated = np.array([row.told.truncated for row in rows], np.bool_)
        if group.has_action_mask:
            (masks,) = spaces.full_masks(group.action_space, len(rows))
            for place, row in enumerate(rows):
                if row.mask is not None:
                    masks[place] = row.mask
            batch.action_masks = (masks,)
        return batch
