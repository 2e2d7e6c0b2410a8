"""What a policy's episodes come to, with standard errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.rollout import Episodes


@dataclass(frozen=True)
class Estimate:
    """A mean over episodes, and its standard error; NaN if there are none."""

    mean: float = math.nan
    error: float = math.nan

    @classmethod
    def of(cls, values: NDArray[Any] | None) -> Estimate:
        if values is None:
            return cls()
        known = values[~np.isnan(values)]
        if not len(known):
            return cls()
        error = float(np.std(known, ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
        return cls(float(np.mean(known)), error)

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        digits = 2 if abs(self.mean) < 50 else 1
        error = "" if math.isnan(self.error) else f" ± {self.error:.{digits}f}"
        return f"{self.mean:.{digits}f}{error}"


@dataclass(frozen=True)
class Summary:
    """One policy at one load.

    Attributes:
        policy: its name.
        load: the chance of an arrival in a time step, for DeepRM; NaN otherwise.
        episodes: how many count.
        faulty: how many were cut short by a fault, and do not count.
        truncated: how many were stopped from outside.
        total_return: undiscounted.
        length: in steps.
        slowdown: mean over an episode's jobs that were placed, for DeepRM.
        unscheduled: jobs of an episode that were never placed, for DeepRM.
        dropped: jobs of an episode that found the backlog full, for DeepRM.
    """

    policy: str
    load: float
    episodes: int
    faulty: int
    truncated: int
    total_return: Estimate
    length: Estimate
    slowdown: Estimate
    unscheduled: Estimate
    dropped: Estimate

    @classmethod
    def of(cls, policy: str, episodes: Episodes, load: float = math.nan) -> Summary:
        good = ~episodes.faulty
        infos = {name: values[good] for name, values in episodes.infos.items()}
        return cls(
            policy=policy,
            load=load,
            episodes=int(good.sum()),
            faulty=int(episodes.faulty.sum()),
            truncated=int(episodes.truncated[good].sum()),
            total_return=Estimate.of(episodes.returns[good]),
            length=Estimate.of(episodes.lengths[good].astype(float)),
            slowdown=Estimate.of(infos.get("slowdown")),
            unscheduled=Estimate.of(infos.get("jobs_unscheduled")),
            dropped=Estimate.of(infos.get("jobs_dropped")),
        )

    def row(self) -> dict[str, Any]:
        """Flat, for CSV: each estimate in two columns."""
        row: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                row[name] = value["mean"]
                row[f"{name}_se"] = value["error"]
            else:
                row[name] = value
        return row


def write_csv(summaries: Sequence[Summary], path: Path) -> None:
    """One row for each; columns without any value are left out."""
    rows = [summary.row() for summary in summaries]
    columns = [
        name
        for name in rows[0]
        if any(not (isinstance(row[name], float) and math.isnan(row[name])) for row in rows)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
