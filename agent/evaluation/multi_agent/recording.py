"""Watching episodes with several agents: transitions for files, pictures for films."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.multi_agent.rollout import TeamTransition, is_number
from agent.evaluation.pictures import Reel
from agent.evaluation.trajectories import Format, Table, parts
from agent.group_step import MultiAgentStep
from agent.remote_multi_agent_vector_env import RemoteMultiAgentVectorEnv


class TeamTrajectories:
    """Watches episodes, and keeps each agent's transitions as rows, in a table for each group.

    Columns: ``episode`` (from 0, in the order of the seeds), ``step`` (from 0), ``agent``,
    ``observation``, ``acted`` (whether it was its turn; else its action was ignored), ``action``,
    ``reward``, ``next_observation``, ``terminated``, ``truncated``, ``fault``, and
    ``info/<name>`` for every number that the simulator says of it after the step; see
    ``Trajectories`` for values with parts.
    """

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}
        self._first_episode = 0
        self._env: RemoteMultiAgentVectorEnv | None = None
        self._step = 0

    def begun(self, env: RemoteMultiAgentVectorEnv, step: MultiAgentStep) -> None:
        if self._env is not None:
            self._first_episode += self._env.num_envs
        self._env = env
        self._step = 0

    def stepped(self, transition: TeamTransition) -> None:
        assert self._env is not None
        failed = np.zeros(self._env.num_envs, np.bool_)
        failed[list(transition.after.faults)] = True
        for number, group in enumerate(self._env.groups):
            size = len(group.agents)
            before, after = transition.before.groups[number], transition.after.groups[number]
            alive = transition.alive[number] & transition.going.repeat(size)
            rows = np.flatnonzero(alive & after.present)
            observed, acted = group.observation_space, group.action_space
            columns: dict[str, list[Any]] = {
                "episode": (rows // size + self._first_episode).tolist(),
                "step": [self._step] * len(rows),
                "agent": [group.agents[place] for place in (rows % size).tolist()],
                **parts(observed, before.observation, rows, "observation"),
                "acted": before.acting[rows].tolist(),
                **parts(acted, transition.actions[number], rows, "action"),
                "reward": after.reward[rows].tolist(),
                **parts(observed, after.observation, rows, "next_observation"),
                "terminated": after.terminated[rows].tolist(),
                "truncated": after.truncated[rows].tolist(),
                "fault": failed[rows // size].tolist(),
                **_numbers(after.infos, rows, len(alive)),
            }
            self._tables.setdefault(group.name, Table()).append(columns, len(rows))
        self._step += 1

    def write(self, folder: Path, file_format: Format) -> list[Path]:
        """Writes ``trajectories-<group>.csv`` or ``.parquet`` into ``folder``."""
        order = ["episode", "step", "agent"]
        return [
            table.write(folder / f"trajectories-{name}.{file_format}", file_format, order)
            for name, table in self._tables.items()
        ]


def _numbers(
    infos: Mapping[str, tuple[Any, Any]], rows: NDArray[np.int64], count: int
) -> dict[str, list[Any]]:
    """Columns of a group's infos, None where an agent has none."""
    found: dict[str, list[Any]] = {}
    for name, (values, where) in infos.items():
        if not is_number(values):
            continue
        full: NDArray[Any] = np.full(count, None, object)
        full[where] = values.tolist()
        found[f"info/{name}"] = full[rows].tolist()
    return found


class TeamFilm:
    """Watches an episode of the first environment, and keeps a picture of each step."""

    def __init__(self) -> None:
        self.frames = Reel()
        self._env: RemoteMultiAgentVectorEnv | None = None

    def begun(self, env: RemoteMultiAgentVectorEnv, step: MultiAgentStep) -> None:
        self._env = env
        self._shoot()

    def stepped(self, transition: TeamTransition) -> None:
        if transition.going[0] and 0 not in transition.after.faults:
            self._shoot()

    def _shoot(self) -> None:
        assert self._env is not None
        frames = self._env.render()
        if frames:
            self.frames.append(np.asarray(frames[0]))
