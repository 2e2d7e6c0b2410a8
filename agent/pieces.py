"""What single requests brought, in the numbering of a whole vector environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from agent.batch import Batch, BatchedValue, GroupBatch, Info, IntArray
from agent.description import Group
from farsim import spaces

Masks = tuple[NDArray[np.bool_], ...]


@dataclass(slots=True)  # Not frozen: each step makes one, which would take three times as long.
class Piece:
    """What is known about some environments of a vector environment after a reset or a step.

    Attributes:
        environments: int64, which ones; like everything here counted in the vector environment.
        groups: one for each group, with rows of the vector environment.
        faults: what went wrong, by environment.
        started: int64, the environments whose episode began.
        episode_options: theirs: batched values of parameters.
    """

    environments: IntArray
    groups: tuple[GroupBatch, ...]
    faults: Mapping[int, str] = field(default_factory=dict)
    started: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    episode_options: Mapping[str, BatchedValue] = field(default_factory=dict)

    @classmethod
    def of_batch(cls, batch: Batch, groups: Sequence[Group], first: int) -> Piece:
        """A batch of a session whose environment 0 is ``first``."""
        piece = cls(
            batch.environments,
            batch.groups,
            {env: str(error) for env, error in batch.faults.items()},
            batch.started,
            batch.episode_options,
        )
        return piece.moved(first, groups) if first else piece

    def moved(self, by: int, groups: Sequence[Group]) -> Piece:
        """The same about environments whose numbers are higher by ``by``."""
        return replace(
            self,
            environments=self.environments + by,
            groups=tuple(
                part.moved(by * len(group.agents))
                for group, part in zip(groups, self.groups, strict=True)
            ),
            faults={env + by: reason for env, reason in self.faults.items()},
            started=self.started + by,
        )

    @classmethod
    def cut(
        cls,
        environments: IntArray,
        last: Sequence[tuple[IntArray, BatchedValue, Masks]],
        reason: str,
    ) -> Piece:
        """Environments that are gone: their episodes end where they were last seen.

        Args:
            environments: which.
            last: for each group the rows whose episode ends, with what was last seen of them.
            reason: what went wrong.
        """
        return cls(
            environments,
            tuple(
                GroupBatch(
                    rows,
                    observation,
                    np.zeros(len(rows)),
                    np.zeros(len(rows), np.bool_),
                    np.ones(len(rows), np.bool_),
                    masks,
                )
                for rows, observation, masks in last
            ),
            dict.fromkeys(environments.tolist(), reason),
        )

    def keep(self, groups: Sequence[Group], environments: IntArray) -> Piece:
        """The part about ``environments``, of a piece in which no episode ended."""
        return Piece(
            environments,
            tuple(
                _keep(group, part, np.flatnonzero(np.isin(part.rows // agents, environments)))
                for group, part, agents in _with_agents(groups, self.groups)
            ),
            started=self.started,
            episode_options=self.episode_options,
        )

    def after(self, groups: Sequence[Group], lost: Piece) -> Piece:
        """This piece, in which episodes begin, in one with the end of those before.

        Args:
            groups: the agents and their spaces.
            lost: made by ``cut``, of at least these environments.
        """
        parts = []
        for group, fresh, gone in zip(groups, self.groups, lost.groups, strict=True):
            ours = np.isin(gone.rows // len(group.agents), self.environments)
            parts.append(_after(group, fresh, _keep(group, gone, np.flatnonzero(ours))))
        faults = {env: lost.faults[env] for env in self.environments.tolist()}
        return replace(self, groups=tuple(parts), faults=faults)


def _with_agents(
    groups: Sequence[Group], parts: Sequence[GroupBatch]
) -> list[tuple[Group, GroupBatch, int]]:
    return [(g, part, len(g.agents)) for g, part in zip(groups, parts, strict=True)]


def _keep(group: Group, part: GroupBatch, positions: IntArray) -> GroupBatch:
    """The rows at ``positions``, increasing."""
    place = np.full(len(part.rows), -1, np.int64)
    place[positions] = np.arange(len(positions))
    infos = {}
    for name, info in part.infos.items():
        kept = np.flatnonzero(place[info.rows] >= 0)
        values = (
            info.values[kept]
            if isinstance(info.values, np.ndarray)
            else [info.values[i] for i in kept]
        )
        infos[name] = Info(values, place[info.rows[kept]])
    rows = part.rows[positions]
    return GroupBatch(
        rows,
        spaces.take(group.observation_space, part.observation, positions),
        part.reward[positions],
        part.terminated[positions],
        part.truncated[positions],
        tuple(mask[positions] for mask in part.action_masks),
        infos,
        acting=part.acting[np.isin(part.acting, rows)],
    )


def _after(group: Group, fresh: GroupBatch, gone: GroupBatch) -> GroupBatch:
    """The first rows of an episode, and the last ones of the episode before, as in one step."""
    rows = np.union1d(fresh.rows, gone.rows)
    place = np.searchsorted(rows, fresh.rows)
    count = len(rows)
    masks = spaces.full_masks(group.action_space, count) if group.has_action_mask else ()
    for mask, part in zip(masks, fresh.action_masks, strict=True):
        mask[place] = part
    blank = spaces.zeros(group.observation_space, count)
    return GroupBatch(
        rows=rows,
        observation=spaces.put(group.observation_space, blank, place, fresh.observation),
        reward=np.zeros(count),
        terminated=np.zeros(count, np.bool_),
        truncated=np.isin(rows, gone.rows),
        action_masks=masks,
        infos={name: Info(info.values, place[info.rows]) for name, info in fresh.infos.items()},
        final_rows=gone.rows,
        final_observation=gone.observation if len(gone.rows) else None,
        acting=fresh.acting,
    )
