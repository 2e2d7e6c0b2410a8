"""What simulators say of agents, summed up over episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.sampling.columns import BoolArray, IntArray

#: Under which RLlib's metrics have them, as for simulators with one agent.
INFO = "info"


class _Number:
    """One number of every agent of a group, over the steps of its running episode."""

    def __init__(self, rows: int) -> None:
        self.total = np.zeros(rows)
        self.count = np.zeros(rows, np.int64)
        self.last = np.full(rows, np.nan)


class EpisodeNumbers:
    """Every number in the infos of the running episodes.

    Args:
        rows: agents of all environments, for each group.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows
        self._groups: list[dict[str, _Number]] = [{} for _ in rows]

    def add(self, group: int, infos: Mapping[str, tuple[Any, IntArray]], good: BoolArray) -> None:
        """Notes the infos of a step.

        Args:
            group: its number.
            infos: by name, values and the rows of the group that they are of.
            good: bool [rows]: those whose step was one.
        """
        for name, (values, rows) in infos.items():
            if not isinstance(values, np.ndarray) or values.ndim != 1:
                continue
            if values.dtype.kind not in "biuf":
                continue
            number = self._groups[group].get(name)
            if number is None:
                number = self._groups[group][name] = _Number(self._rows[group])
            known = good[rows] & np.isfinite(values)
            if known.all():
                where, what = rows, values
            else:
                where, what = rows[known], values[known]
            number.total[where] += what
            number.count[where] += 1
            number.last[where] = what

    def begin(self, group: int, rows: slice) -> None:
        """New episodes begin in these rows."""
        for number in self._groups[group].values():
            number.total[rows] = 0.0
            number.count[rows] = 0
            number.last[rows] = np.nan

    def last(self, group: int, rows: IntArray) -> dict[int, dict[str, float]]:
        """What was said last of each of ``rows``, by row and name."""
        found: dict[int, dict[str, float]] = {row: {} for row in rows.tolist()}
        for name, number in self._groups[group].items():
            for row, value in zip(rows.tolist(), number.last[rows].tolist(), strict=True):
                if value == value:  # No NaN.
                    found[row][name] = value
        return found

    def of_episode(self, env: int, groups: Sequence[Any]) -> dict[tuple[str, ...], float]:
        """Means over the agents of each group: of all steps of the episode, and of its last one.

        Returns:
            By RLlib's key: ``info/<group>/<name>_mean`` and ``..._last``; without the group if
            there is just one.
        """
        found: dict[tuple[str, ...], float] = {}
        for group, numbers in zip(groups, self._groups, strict=True):
            agents = len(group.agents)
            rows = slice(env * agents, (env + 1) * agents)
            inside = (group.name,) if len(groups) > 1 else ()
            for name, number in numbers.items():
                count: NDArray[np.int64] = number.count[rows]
                if not count.any():
                    continue
                parts = name.split("/")
                key = (INFO, *inside, *parts[:-1])
                mean = number.total[rows].sum() / count.sum()
                found[(*key, f"{parts[-1]}_mean")] = float(mean)
                found[(*key, f"{parts[-1]}_last")] = float(np.nanmean(number.last[rows]))
        return found
