"""Infos of a single-agent vector environment, as Gymnasium's have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from agent.batch import GroupBatch, Info, IntArray
from agent.description import Group, Parameter
from agent.pieces import Piece
from farsim import spaces


def merge_infos(
    num_envs: int,
    pieces: Sequence[Piece],
    group: Group,
    parameters: Mapping[str, Parameter],
    first: int = 0,
    final_observations: bool = True,
) -> dict[str, Any]:
    """Infos in Gymnasium's vector format: ``name`` and, for who has it, ``_name``.

    They are about ``num_envs`` environments from number ``first`` on. Adds "final_info" and, if
    ``final_observations``, "final_obs" for ``SAME_STEP``, "episode_options" for episodes that
    began, and "fault" for rows that are no transitions.
    """
    if not any(_says_more(piece, final_observations) for piece in pieces):
        return {}
    if first:
        pieces = [piece.moved(-first, [group]) for piece in pieces]
    infos = _columns(num_envs, [(part.rows, part.infos) for part in _only(pieces)])
    if any(len(part.final_rows) for part in _only(pieces)):
        _add_final(infos, num_envs, pieces, group.observation_space, final_observations)
    if any(piece.episode_options for piece in pieces):
        infos["episode_options"], infos["_episode_options"] = episode_options(
            num_envs, pieces, parameters
        )
    faults = {row: text for piece in pieces for row, text in piece.faults.items()}
    if faults:
        infos["fault"], infos["_fault"] = _sparse(num_envs, faults)
    return infos


def by_environment(infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]] | None:
    """Gymnasium's vector infos as a dict for each environment; None if there are none at all."""
    if not infos:
        return None
    found: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        if name.startswith("_"):
            continue
        if isinstance(values, dict):
            values = by_environment(values, num_envs) or [{} for _ in range(num_envs)]
        whose = infos.get(f"_{name}")
        for env in range(num_envs) if whose is None else np.flatnonzero(whose).tolist():
            found[env][name] = values[env]
    return found


def _says_more(piece: Piece, final_observations: bool) -> bool:
    """Whether there is an info in a piece."""
    part = piece.groups[0]
    if part.infos or part.final_infos or piece.episode_options or piece.faults:
        return True
    return final_observations and len(part.final_rows) > 0


def _only(pieces: Sequence[Piece]) -> list[GroupBatch]:
    """The rows of a single agent, which are its environments."""
    return [piece.groups[0] for piece in pieces]


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
    infos: dict[str, Any],
    num_envs: int,
    pieces: Sequence[Piece],
    space: Space[Any],
    with_observations: bool,
) -> None:
    whose = np.zeros(num_envs, np.bool_)
    observations: dict[int, Any] = {}
    for part in _only(pieces):
        count = len(part.final_rows)
        whose[part.final_rows] = True
        if count and with_observations:
            # A copy, which can be written to.
            batched = spaces.concatenate(space, [(part.final_observation, count)])
            singles = spaces.unbatch(space, batched, count)
            observations.update(zip(part.final_rows.tolist(), singles, strict=True))
    if with_observations:
        infos["final_obs"], infos["_final_obs"] = _sparse(num_envs, observations)
    final = _columns(num_envs, [(part.final_rows, part.final_infos) for part in _only(pieces)])
    if final or with_observations:
        infos["final_info"], infos["_final_info"] = final, whose


def episode_options(
    num_envs: int, pieces: Sequence[Piece], parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """The per-episode parameters of the episodes that began: ``name`` and, for whom, ``_name``.

    Returns:
        That, and bool [num_envs], for which environments there is any.
    """
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
