"""What a line-up's episodes come to, with standard errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.evaluation.multi_agent.rollout import FloatArray, TeamEpisodes
from agent.evaluation.summary import Estimate

#: Of an info, in an episode: over its steps, and in the last one.
MEAN, LAST = "mean", "last"


@dataclass(frozen=True)
class GroupSummary:
    """One group's side.

    Attributes:
        each: the return of an agent, mean over the group's.
        agents: the return of each, by name.
        infos: by name and by ``MEAN`` or ``LAST``, mean over the group's agents.
    """

    each: Estimate
    agents: Mapping[str, Estimate]
    infos: Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True)
class TeamSummary:
    """One line-up.

    Attributes:
        name: the line-up's.
        episodes: how many count.
        faulty: how many were cut short by a fault, and do not count.
        truncated: how many were stopped from outside.
        total_return: undiscounted, summed over all agents.
        length: in steps.
        groups: by name.
    """

    name: str
    episodes: int
    faulty: int
    truncated: int
    total_return: Estimate
    length: Estimate
    groups: Mapping[str, GroupSummary]

    @classmethod
    def of(cls, name: str, episodes: TeamEpisodes) -> TeamSummary:
        good = episodes.good
        groups = {}
        for group_name, group in good.groups.items():
            infos = {}
            for info, numbers in group.infos.items():
                infos[info, MEAN] = Estimate.of(over_agents(numbers.mean))
                infos[info, LAST] = Estimate.of(over_agents(numbers.last))
            groups[group_name] = GroupSummary(
                each=Estimate.of(group.returns.mean(axis=1)),
                agents={
                    agent: Estimate.of(group.returns[:, place])
                    for place, agent in enumerate(group.agents)
                },
                infos=infos,
            )
        return cls(
            name=name,
            episodes=len(good.lengths),
            faulty=int(episodes.faulty.sum()),
            truncated=int(good.truncated.sum()),
            total_return=Estimate.of(good.returns),
            length=Estimate.of(good.lengths.astype(float)),
            groups=groups,
        )

    def row(self) -> dict[str, Any]:
        """Flat, for CSV: each estimate in two columns."""
        row: dict[str, Any] = {
            "policy": self.name,
            "episodes": self.episodes,
            "faulty": self.faulty,
            "truncated": self.truncated,
            **columns("return", self.total_return),
            **columns("length", self.length),
        }
        for name, group in self.groups.items():
            row |= columns(f"{name}/return_each", group.each)
            if len(group.agents) > 1:
                for agent, estimate in group.agents.items():
                    row |= columns(f"{name}/return/{agent}", estimate)
            for (info, kind), estimate in group.infos.items():
                row |= columns(f"{name}/{info}_{kind}", estimate)
        return row


def over_agents(numbers: FloatArray) -> FloatArray:
    """The mean over the agents that have a number: [n] of [n, A], NaN where none has."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=1)
    total = np.where(known, numbers, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def columns(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate in two columns."""
    return {name: estimate.mean, f"{name}_se": estimate.error}


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A CSV with a line for each row; columns without any value are left out."""
    names = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(_known(row.get(name)) for row in rows)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
