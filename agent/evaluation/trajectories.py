"""Every transition of played episodes, as a table in CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from agent.evaluation.rollout import Transition, scalar_columns
from agent.remote_vector_env import RemoteVectorEnv
from agent.training.checkpoint import plain
from farsim import spaces as farsim_spaces

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["csv", "parquet"]


class Trajectories:
    """Watches episodes, and keeps each transition as a row.

    Columns: ``episode`` (from 0, in the order of the seeds), ``step`` (from 0), ``observation``,
    ``action``, ``reward``, ``next_observation``, ``terminated``, ``truncated``, ``fault``, and
    ``info/<name>`` for every number that the simulator says after the step. A value with parts has
    one column for each, such as ``observation/value``; an array is a list, in CSV as JSON.
    """

    def __init__(self) -> None:
        self._table = Table()
        self._first_episode = 0
        self._env: RemoteVectorEnv | None = None
        self._observation: Any = None
        self._steps: NDArray[np.int64] = np.zeros(0, np.int64)

    def begun(self, env: RemoteVectorEnv, observation: Any, infos: Mapping[str, Any]) -> None:
        if self._env is not None:
            self._first_episode += self._env.num_envs
        self._env = env
        self._observation = observation
        self._steps = np.zeros(env.num_envs, np.int64)

    def stepped(self, transition: Transition) -> None:
        assert self._env is not None
        rows = transition.rows
        env = self._env
        faulty = np.zeros(env.num_envs, np.bool_) | transition.infos.get("_fault", False)
        columns: dict[str, list[Any]] = {
            "episode": (rows + self._first_episode).tolist(),
            "step": self._steps[rows].tolist(),
            **parts(env.single_observation_space, self._observation, rows, "observation"),
            **parts(env.single_action_space, transition.actions, rows, "action"),
            "reward": transition.rewards[rows].tolist(),
            **parts(
                env.single_observation_space,
                transition.observation,
                rows,
                "next_observation",
            ),
            "terminated": transition.terminated[rows].tolist(),
            "truncated": transition.truncated[rows].tolist(),
            "fault": faulty[rows].tolist(),
        }
        for name, (values, present) in scalar_columns(transition.infos).items():
            columns[f"info/{name}"] = [
                value if known else None
                for value, known in zip(values[rows].tolist(), present[rows], strict=True)
            ]
        self._table.append(columns, len(rows))
        self._observation = transition.observation
        self._steps[rows] += 1

    def table(self) -> pd.DataFrame:
        """All rows, ordered by episode and step."""
        return self._table.frame(["episode", "step"])

    def write(self, folder: Path, file_format: Format) -> Path:
        """Writes ``trajectories.csv`` or ``trajectories.parquet`` into ``folder``."""
        path = folder / f"trajectories.{file_format}"
        return self._table.write(path, file_format, ["episode", "step"])


class Table:
    """Rows that come in batches, some with columns that others do not have."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}
        self._length = 0

    def append(self, columns: Mapping[str, list[Any]], count: int) -> None:
        """Adds ``count`` rows; None where a column is not among theirs."""
        for name, values in columns.items():
            # Columns that come late, as those of an episode's end do, are empty before.
            kept = self._columns.setdefault(name, [None] * self._length)
            kept += values
        self._length += count
        for kept in self._columns.values():
            kept += [None] * (self._length - len(kept))

    def frame(self, order: list[str]) -> pd.DataFrame:
        """All rows, sorted by the columns ``order``."""
        import pandas as pd

        return pd.DataFrame(self._columns).sort_values(order, ignore_index=True)

    def write(self, path: Path, file_format: Format, order: list[str]) -> Path:
        """Writes all rows, sorted by the columns ``order``, to ``path``."""
        frame = self.frame(order)
        if file_format == "parquet":
            frame.to_parquet(path, index=False)
            return path
        for name in frame.columns:
            if frame[name].map(lambda value: isinstance(value, list)).any():
                frame[name] = frame[name].map(json.dumps)
        frame.to_csv(path, index=False)
        return path


def parts(
    space: Space[Any], batch: Any, rows: NDArray[np.int64], name: str
) -> dict[str, list[Any]]:
    """The columns of some rows of a batch, by name."""
    return dict(_leaves(space, batch, rows, name))


def _leaves(
    space: Space[Any], batch: Any, rows: NDArray[np.int64], name: str
) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(space, spaces.Dict):
        for key, member in space.spaces.items():
            yield from _leaves(member, batch[key], rows, f"{name}/{key}")
    elif isinstance(space, spaces.Tuple):
        for index, member in enumerate(space.spaces):
            yield from _leaves(member, batch[index], rows, f"{name}/{index}")
    elif isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        # Flat, as Parquet's writers take lists of numbers but not of lists of different shapes.
        array = np.asarray(batch)[rows]
        yield name, (array.reshape(len(rows), -1) if array.ndim > 1 else array).tolist()
    else:
        singles = farsim_spaces.take(space, batch, rows)
        yield name, [json.dumps(plain(_members(value))) for value in singles]


def _members(value: Any) -> Any:
    """A Graph's arrays by name; everything else as it is."""
    return value._asdict() if hasattr(value, "_asdict") else value
