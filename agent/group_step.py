"""What a reset or a step of many environments with many agents brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch import BatchedValue, Info, IntArray
from agent.fleet import Fleet
from agent.pieces import Masks, Piece
from agent.vector_infos import episode_options
from farsim import spaces

#: By name: the values, an array or a list of strings or arrays, and the rows of the group that
#: they are about, int64, one for each value.
RowInfos = Mapping[str, tuple[NDArray[Any] | list[Any], IntArray]]


@dataclass
class GroupStep:
    """One group's side of a reset or a step, for all environments.

    Its arrays are new and can be written to. With E environments and A agents, row ``e * A + a`` of
    R is agent ``a`` of environment ``e``.

    Attributes:
        observation: batched value [R]; the last one known where ``present`` is False. Where a new
            episode began, that one's first.
        reward: float64 [R]; 0 where absent.
        terminated: bool [R]: the agent's episode reached an end in this step.
        truncated: bool [R]: it was stopped from outside in this step.
        present: bool [R]: had a row in this reply.
        acting: bool [R]: is to act in the next step; the actions of the others are ignored.
        action_masks: bool [R, n] for each Discrete and MultiDiscrete leaf of the action space;
            empty if the simulator has no masks.
        infos: values by name, with the rows that they are about.
        final_rows: int64; with ``SAME_STEP`` the rows whose agent's episode ended in this step,
            while its environment started a new one.
        final_observation: theirs, batched in that order; None if there are none.
        final_infos: theirs.
    """

    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    present: NDArray[np.bool_]
    acting: NDArray[np.bool_]
    action_masks: Masks
    infos: RowInfos
    final_rows: IntArray
    final_observation: BatchedValue
    final_infos: RowInfos


@dataclass
class MultiAgentStep:
    """A reset or a step of many environments with many agents.

    Attributes:
        groups: one for each of the environment's.
        started: bool [num_envs]: a new episode began in this call.
        faults: of environments that failed in this call, what went wrong. Their rows have the
            observation from before, reward 0 and ``truncated``, and are no transitions.
        episode_options: of environments whose episode began, the per-episode parameters that it
            uses: ``name``, an array [num_envs, ...], and ``_name``, bool [num_envs], for whom.
        absent: bool [num_envs]: has no server at this moment, and no rows.
    """

    groups: tuple[GroupStep, ...]
    started: NDArray[np.bool_]
    faults: dict[int, str]
    episode_options: dict[str, Any]
    absent: NDArray[np.bool_]

    @classmethod
    def merge(cls, fleet: Fleet, pieces: Sequence[Piece]) -> MultiAgentStep:
        """What a call of ``fleet`` brought."""
        started = np.zeros(fleet.num_envs, np.bool_)
        for piece in pieces:
            started[piece.started] = True
        return cls(
            tuple(_group_step(fleet, number, pieces) for number in range(len(fleet.groups))),
            started,
            {env: reason for piece in pieces for env, reason in piece.faults.items()},
            episode_options(fleet.num_envs, pieces, fleet.description.parameters)[0],
            fleet.absent.copy(),
        )


def _group_step(fleet: Fleet, number: int, pieces: Sequence[Piece]) -> GroupStep:
    columns = fleet.whole.columns(number, pieces)
    parts = [piece.groups[number] for piece in pieces]
    final = [part for part in parts if len(part.final_rows)]
    final_rows = np.concatenate([np.zeros(0, np.int64), *(part.final_rows for part in final)])
    final_observation = None
    if final:
        space = fleet.groups[number].observation_space
        final_observation = spaces.concatenate(
            space, [(part.final_observation, len(part.final_rows)) for part in final]
        )
    return GroupStep(
        columns.observation,
        columns.reward,
        columns.terminated,
        columns.truncated,
        fleet.whole.present(number, pieces),
        fleet.whole.acting(number),
        columns.action_masks,
        _row_infos([(part.rows, part.infos) for part in parts]),
        final_rows,
        final_observation,
        _row_infos([(part.final_rows, part.final_infos) for part in final]),
    )


def _row_infos(parts: Sequence[tuple[IntArray, Mapping[str, Info]]]) -> RowInfos:
    found: dict[str, list[tuple[Any, IntArray]]] = {}
    for rows, infos in parts:
        for name, info in infos.items():
            found.setdefault(name, []).append((info.values, rows[info.rows]))
    return {
        name: (_joined([values for values, _ in entries]), np.concatenate([r for _, r in entries]))
        for name, entries in found.items()
    }


def _joined(values: list[Any]) -> NDArray[Any] | list[Any]:
    shapes = {part.shape[1:] if isinstance(part, np.ndarray) else None for part in values}
    if len(shapes) == 1 and None not in shapes:
        return np.concatenate(values)  # A copy, which can be written to.
    return [value for part in values for value in part]
