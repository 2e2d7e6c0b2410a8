"""Selecting and merging the rows of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from farsim import spaces
from simserver.simulator import Group, GroupBatch, Info, IntArray


def of_environments(group: Group, envs: IntArray) -> IntArray:
    """The rows of all agents of ``envs`` in ``group``, in order."""
    agents = len(group.agents)
    if agents == 1:
        return envs
    return (envs[:, None] * agents + np.arange(agents)).reshape(-1)


def of_batch(group: Group, batch: GroupBatch, envs: IntArray) -> IntArray:
    """The rows of ``group`` that ``batch`` has, for a batch about ``envs``."""
    return of_environments(group, envs) if batch.rows is None else batch.rows


def copied(group: Group, batch: GroupBatch, count: int) -> GroupBatch:
    """``batch``, of ``count`` rows, to keep while its simulator goes on, which may reuse arrays."""
    return replace(
        batch,
        observation=spaces.concatenate(group.observation_space, [(batch.observation, count)]),
        reward=None if batch.reward is None else np.array(batch.reward),
        terminated=None if batch.terminated is None else np.array(batch.terminated),
        truncated=None if batch.truncated is None else np.array(batch.truncated),
        action_masks=tuple(np.array(mask) for mask in batch.action_masks),
        infos={
            name: replace(info, values=np.array(info.values))
            if isinstance(info.values, np.ndarray)
            else info
            for name, info in batch.infos.items()
        },
    )


def select(group: Group, batch: GroupBatch, rows: IntArray, positions: IntArray) -> GroupBatch:
    """The part of ``batch`` at ``positions``; ``rows`` are the rows of the whole batch."""
    return GroupBatch(
        observation=spaces.take(group.observation_space, batch.observation, positions),
        reward=None if batch.reward is None else batch.reward[positions],
        terminated=None if batch.terminated is None else batch.terminated[positions],
        truncated=None if batch.truncated is None else batch.truncated[positions],
        action_masks=tuple(mask[positions] for mask in batch.action_masks),
        infos=select_infos(batch.infos, positions, len(rows)),
        rows=rows[positions],
        acting=None if batch.acting is None else np.intersect1d(batch.acting, rows[positions]),
    )


def select_infos(infos: dict[str, Info], positions: IntArray, count: int) -> dict[str, Info]:
    """The infos about ``positions`` of a batch of ``count`` rows, renumbered to their order."""
    selected: dict[str, Info] = {}
    if not infos:
        return selected
    new_position = np.full(count, -1, np.int64)
    new_position[positions] = np.arange(len(positions))
    for name, info in infos.items():
        moved = new_position if info.rows is None else new_position[info.rows]
        kept = np.flatnonzero(moved >= 0)
        if kept.size:
            order = kept[np.argsort(moved[kept], kind="stable")]
            selected[name] = Info(_pick(info.values, order), moved[order])
    return selected


def merge(group: Group, parts: Sequence[GroupBatch]) -> GroupBatch:
    """One batch of the rows of all ``parts``, in order of the rows, which no two share.

    Every part has ``rows``. A part without rewards counts as rows that have just started:
    reward 0, neither terminated nor truncated.
    """
    rows = np.concatenate([_rows(part) for part in parts])
    order = np.argsort(rows, kind="stable")
    places = _places(parts, order)
    total = len(rows)
    reward = np.zeros(total)
    terminated, truncated = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
    for part, place in zip(parts, places, strict=True):
        if part.reward is not None:
            reward[place] = part.reward
        if part.terminated is not None:
            terminated[place] = part.terminated
        if part.truncated is not None:
            truncated[place] = part.truncated
    masks = zip(*(part.action_masks for part in parts), strict=True)
    observations = [(part.observation, place) for part, place in zip(parts, places, strict=True)]
    return GroupBatch(
        observation=spaces.scatter(group.observation_space, observations, total),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        action_masks=tuple(np.concatenate(leaf)[order] for leaf in masks),
        infos=_merge_infos(parts, places),
        rows=rows[order],
        acting=_merge_acting(parts),
    )


def replace_ended(
    group: Group, before: GroupBatch, start: GroupBatch, at: IntArray, final_rows: IntArray
) -> GroupBatch | None:
    """A step of which some rows have ended, and begun anew in the same step.

    Args:
        group: whose.
        before: the step, with a row for every agent.
        start: what follows where rows have ended, in the same order.
        at: the positions of the rows that have ended.
        final_rows: these rows.

    Returns:
        The step with the start in their place; None if it takes more than that.
    """
    special = (before.rows, before.acting, start.rows, start.acting)
    if any(part is not None for part in special) or len(before.action_masks) != len(
        start.action_masks
    ):
        return None
    space, count = group.observation_space, len(before.reward) if before.reward is not None else 0
    infos = before.infos
    if before.infos or start.infos:
        going_on = np.setdiff1d(np.arange(count), at)
        kept = replace(start, infos=select_infos(before.infos, going_on, count))
        infos = _merge_infos([kept, start], [going_on, at])
    masks = []
    for mask, new in zip(before.action_masks, start.action_masks, strict=True):
        masks.append(np.array(mask))
        masks[-1][at] = new
    return replace(
        before,
        observation=spaces.put(space, before.observation, at, start.observation),
        action_masks=tuple(masks),
        infos=infos,
        final_rows=final_rows,
        final_observation=spaces.take(space, before.observation, at),
        final_infos=select_infos(before.infos, at, count),
    )


def without_episode(group: Group, index: IntArray) -> GroupBatch:
    """Rows of agents that take no part in the episode their environment starts: all zeros."""
    count = len(index)
    masks = spaces.full_masks(group.action_space, count) if group.has_action_mask else ()
    return GroupBatch(
        spaces.zeros(group.observation_space, count),
        action_masks=masks,
        rows=index,
        acting=np.zeros(0, np.int64),
    )


def acting(batch: GroupBatch, rows: IntArray) -> IntArray:
    """The rows that are to act after ``batch``, whose rows are ``rows``.

    In a batch without ``started``: there, ended rows are over.
    """
    if batch.acting is not None:
        return batch.acting
    if batch.terminated is None or batch.truncated is None:
        return rows
    return rows[~(batch.terminated | batch.truncated)]


def started(batch: GroupBatch, count: int) -> GroupBatch:
    """``batch`` as part of the reply to a step: reward 0, neither terminated nor truncated."""
    return replace(
        batch,
        reward=np.zeros(count),
        terminated=np.zeros(count, np.bool_),
        truncated=np.zeros(count, np.bool_),
    )


def _rows(part: GroupBatch) -> IntArray:
    if part.rows is None:
        raise ValueError("a part to merge names its rows")
    return part.rows


def _merge_acting(parts: Sequence[GroupBatch]) -> IntArray | None:
    if all(part.acting is None for part in parts):
        return None
    return np.sort(np.concatenate([acting(part, _rows(part)) for part in parts]))


def _places(parts: Sequence[GroupBatch], order: IntArray) -> list[IntArray]:
    """For each part the places that its rows have in the order of all rows."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ends = np.cumsum([len(_rows(part)) for part in parts]).tolist()
    return [place[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _merge_infos(parts: Sequence[GroupBatch], places: Sequence[IntArray]) -> dict[str, Info]:
    pieces: dict[str, list[tuple[IntArray, Info]]] = {}
    for part, place in zip(parts, places, strict=True):
        for name, info in part.infos.items():
            positions = place if info.rows is None else place[info.rows]
            pieces.setdefault(name, []).append((positions, info))
    return {name: _join(piece) for name, piece in pieces.items()}


def _join(pieces: list[tuple[IntArray, Info]]) -> Info:
    positions = np.concatenate([position for position, _ in pieces])
    order = np.argsort(positions, kind="stable")
    values: np.ndarray | list[str]
    if all(isinstance(info.values, np.ndarray) for _, info in pieces):
        values = np.concatenate([info.values for _, info in pieces])
    else:
        values = [str(value) for _, info in pieces for value in info.values]
    return Info(_pick(values, order), positions[order])


def _pick(values: np.ndarray | Sequence[str], index: IntArray) -> np.ndarray | list[str]:
    if isinstance(values, np.ndarray):
        return values[index]
    return [values[i] for i in index]
