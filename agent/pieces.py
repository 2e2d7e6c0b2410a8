"""Parts of a vector environment's step that came from different requests, and their merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from agent.batch import Batch, BatchedValue, Info, IntArray
from agent.description import Group, Parameter
from farsim import spaces


@dataclass(frozen=True)
class Piece:
    """What is known about some rows of a vector environment after a reset or a step.

    Attributes:
        rows: int64, rows of the vector environment; everything below has one row for each.
        observation: batched value.
        reward: float64 [rows].
        terminated: bool [rows].
        truncated: bool [rows].
        action_masks: as at ``GroupBatch``.
        infos: by name; ``Info.rows`` are positions in ``rows``.
        faults: what went wrong, by row of the vector environment.
        final_rows: int64, rows of the vector environment whose episode ended, with ``SAME_STEP``.
        final_observation: theirs.
        final_infos: theirs; ``Info.rows`` are positions in ``final_rows``.
        started: int64, rows of the vector environment whose episode began.
        episode_options: theirs: batched values of parameters.
    """

    rows: IntArray
    observation: BatchedValue
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    action_masks: tuple[NDArray[np.bool_], ...] = ()
    infos: Mapping[str, Info] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)
    final_rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    final_observation: BatchedValue = None
    final_infos: Mapping[str, Info] = field(default_factory=dict)
    started: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    episode_options: Mapping[str, BatchedValue] = field(default_factory=dict)

    @classmethod
    def of_batch(cls, batch: Batch, first_row: int) -> Piece:
        """A batch of a session with one agent; its environment 0 is ``first_row``."""
        group = batch.groups[0]
        return cls(
            rows=group.rows + first_row,
            observation=group.observation,
            reward=group.reward,
            terminated=group.terminated,
            truncated=group.truncated,
            action_masks=group.action_masks,
            infos=group.infos,
            faults={env + first_row: str(error) for env, error in batch.faults.items()},
            final_rows=group.final_rows + first_row,
            final_observation=group.final_observation,
            final_infos=group.final_infos,
            started=batch.started + first_row,
            episode_options=batch.episode_options,
        )

    @classmethod
    def unchanged(
        cls, rows: IntArray, observation: BatchedValue, masks: tuple[NDArray[np.bool_], ...]
    ) -> Piece:
        """Rows that nothing was asked of: with the observation that they had."""
        flags = np.zeros(len(rows), np.bool_)
        return cls(rows, observation, np.zeros(len(rows)), flags, flags, masks)

    @classmethod
    def cut(
        cls,
        rows: IntArray,
        observation: BatchedValue,
        masks: tuple[NDArray[np.bool_], ...],
        reason: str,
    ) -> Piece:
        """Rows whose environments are gone: their episodes end where they were last seen."""
        return cls(
            rows,
            observation,
            np.zeros(len(rows)),
            np.zeros(len(rows), np.bool_),
            np.ones(len(rows), np.bool_),
            masks,
            faults=dict.fromkeys(rows.tolist(), reason),
        )

    def keep(self, group: Group, positions: IntArray) -> Piece:
        """The rows at ``positions``, increasing, of a piece that no episode ended in."""
        place = np.full(len(self.rows), -1, np.int64)
        place[positions] = np.arange(len(positions))
        infos = {}
        for name, info in self.infos.items():
            kept = np.flatnonzero(place[info.rows] >= 0)
            values = (
                info.values[kept]
                if isinstance(info.values, np.ndarray)
                else [info.values[i] for i in kept]
            )
            infos[name] = Info(values, place[info.rows[kept]])
        return Piece(
            self.rows[positions],
            spaces.take(group.observation_space, self.observation, positions),
            self.reward[positions],
            self.terminated[positions],
            self.truncated[positions],
            tuple(mask[positions] for mask in self.action_masks),
            infos,
            started=self.started,
            episode_options=self.episode_options,
        )


def merge_rows(group: Group, pieces: Sequence[Piece]) -> Piece:
    """One piece with the observations, rewards, ends and masks of all, in order of the rows.

    Its arrays are new and can be written to. The pieces' other fields are left to
    ``merge_infos``.
    """
    rows = np.concatenate([piece.rows for piece in pieces])
    observation = spaces.concatenate(
        group.observation_space, [(piece.observation, len(piece.rows)) for piece in pieces]
    )
    merged = Piece(
        rows,
        observation,
        np.concatenate([piece.reward for piece in pieces]),
        np.concatenate([piece.terminated for piece in pieces]),
        np.concatenate([piece.truncated for piece in pieces]),
        tuple(
            np.concatenate(leaf)
            for leaf in zip(*(piece.action_masks for piece in pieces), strict=True)
        ),
    )
    order = np.argsort(rows, kind="stable")
    if np.array_equal(order, np.arange(len(rows))):
        return merged
    return Piece(
        rows[order],
        spaces.take(group.observation_space, observation, order),
        merged.reward[order],
        merged.terminated[order],
        merged.truncated[order],
        tuple(mask[order] for mask in merged.action_masks),
    )


def merge_infos(
    num_envs: int,
    pieces: Sequence[Piece],
    observation_space: Space[Any],
    parameters: Mapping[str, Parameter],
) -> dict[str, Any]:
    """Infos in Gymnasium's vector format: ``name`` and, for who has it, ``_name``.

    Adds "final_obs" and "final_info" for ``SAME_STEP``, "episode_options" for episodes that began,
    and "fault" for rows that are no transitions.
    """
    infos = _columns(num_envs, [(piece.rows, piece.infos) for piece in pieces])
    if any(len(piece.final_rows) for piece in pieces):
        _add_final(infos, num_envs, pieces, observation_space)
    if any(piece.episode_options for piece in pieces):
        infos["episode_options"], infos["_episode_options"] = _episode_options(
            num_envs, pieces, parameters
        )
    faults = {row: text for piece in pieces for row, text in piece.faults.items()}
    if faults:
        infos["fault"], infos["_fault"] = _sparse(num_envs, faults)
    return infos


def _columns(num_envs: int, parts: Sequence[tuple[IntArray, Mapping[str, Info]]]) -> dict[str, Any]:
    """The infos of all parts, each given with the rows that its positions are about."""
    found: dict[str, list[tuple[IntArray, Any]]] = {}
    for rows, infos in parts:
        for name, info in infos.items():
            found.setdefault(name, []).append((rows[info.rows], info.values))
    nested: dict[str, Any] = {}
    for name, entries in sorted(found.items()):  # "a" before "a/b", should there be both.
        mask = np.zeros(num_envs, np.bool_)
        for rows, _ in entries:
            mask[rows] = True
        _insert(nested, name, _column(num_envs, entries), mask)
    return nested


def _column(num_envs: int, entries: Sequence[tuple[IntArray, Any]]) -> NDArray[Any]:
    shapes = {values.shape[1:] if isinstance(values, np.ndarray) else None for _, values in entries}
    if len(shapes) == 1 and None not in shapes:
        dtype = np.result_type(*(values.dtype for _, values in entries))
        (shape,) = shapes
        numbers = np.zeros((num_envs, *shape), dtype)  # type: ignore[misc]
        for rows, values in entries:
            numbers[rows] = values
        return numbers
    column = np.full(num_envs, None, dtype=object)
    for rows, values in entries:
        for row, value in zip(rows.tolist(), values, strict=True):
            column[row] = value
    return column


def _insert(infos: dict[str, Any], name: str, column: Any, mask: NDArray[np.bool_]) -> None:
    """Puts a column where its path leads, as the dict that it was before it was joined by "/"."""
    *outer, last = name.split("/")
    levels = [infos]
    for part in outer:
        inside = levels[-1].setdefault(part, {})
        if not isinstance(inside, dict):
            # A simulator of its own making has both "a" and "a/b": the second keeps its full name.
            infos[name], infos[f"_{name}"] = column, mask
            return
        levels.append(inside)
    for level, part in zip(levels, outer, strict=False):
        level[f"_{part}"] = level.get(f"_{part}", False) | mask
    levels[-1][last], levels[-1][f"_{last}"] = column, mask


def _add_final(
    infos: dict[str, Any], num_envs: int, pieces: Sequence[Piece], space: Space[Any]
) -> None:
    observations: dict[int, Any] = {}
    for piece in pieces:
        count = len(piece.final_rows)
        if count:
            # A copy, which can be written to.
            batched = spaces.concatenate(space, [(piece.final_observation, count)])
            singles = spaces.unbatch(space, batched, count)
            observations.update(zip(piece.final_rows.tolist(), singles, strict=True))
    infos["final_obs"], infos["_final_obs"] = _sparse(num_envs, observations)
    infos["final_info"] = _columns(
        num_envs, [(piece.final_rows, piece.final_infos) for piece in pieces]
    )
    infos["_final_info"] = infos["_final_obs"].copy()


def _episode_options(
    num_envs: int, pieces: Sequence[Piece], parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    columns: dict[str, Any] = {}
    begun = np.zeros(num_envs, np.bool_)
    names = {name for piece in pieces for name in piece.episode_options}
    for name in sorted(names & parameters.keys()):
        space = parameters[name].space
        entries: list[tuple[IntArray, Any]] = []
        mask = np.zeros(num_envs, np.bool_)
        for piece in pieces:
            if name not in piece.episode_options:
                continue
            batched = piece.episode_options[name]
            values = (
                batched
                if isinstance(batched, np.ndarray)
                else spaces.unbatch(space, batched, len(piece.started))
            )
            entries.append((piece.started, values))
            mask[piece.started] = True
        columns[name], columns[f"_{name}"] = _column(num_envs, entries), mask
        begun |= mask
    return columns, begun


def _sparse(num_envs: int, values: Mapping[int, Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    column = np.full(num_envs, None, dtype=object)
    mask = np.zeros(num_envs, np.bool_)
    for row, value in values.items():
        column[row] = value
        mask[row] = True
    return column, mask
