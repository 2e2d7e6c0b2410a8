"""Selecting and merging the rows of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from farsim import spaces
from simserver.simulator import BatchedValue, Group, GroupBatch, Info, IntArray


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
    observation = spaces.concatenate(group.observation_space, [(batch.observation, count)])
    return _copied_around(observation, batch)


def with_finals(group: Group, step: GroupBatch, at: IntArray, final_rows: IntArray) -> GroupBatch:
    """``step`` to keep like ``copied``, when rows of it have ended, but for the observations.

    Args:
        group: whose.
        step: with a row for every agent.
        at: the positions of the rows that have ended.
        final_rows: these rows.

    Returns:
        A step whose ``observation`` is missing; that of the ended rows is ``final_observation``.
    """
    kept = _copied_around(None, step)
    kept.final_rows = final_rows
    kept.final_observation = spaces.take(group.observation_space, step.observation, at)
    return kept


def _copied_around(observation: BatchedValue, batch: GroupBatch) -> GroupBatch:
    return GroupBatch(
        observation=observation,
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
        rows=batch.rows,
        final_rows=batch.final_rows,
        final_observation=batch.final_observation,
        final_infos=batch.final_infos,
        acting=batch.acting,
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
    rows = np.sort(np.concatenate([_rows(part) for part in parts]))
    places = [np.searchsorted(rows, _rows(part)) for part in parts]
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
    masks = tuple(np.empty((total, *mask.shape[1:]), np.bool_) for mask in parts[0].action_masks)
    for part, place in zip(parts, places, strict=True):
        for mask, some in zip(masks, part.action_masks, strict=True):
            mask[place] = some
    observations = [(part.observation, place) for part, place in zip(parts, places, strict=True)]
    return GroupBatch(
        observation=spaces.scatter(group.observation_space, observations, total),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        action_masks=masks,
        infos=_merge_infos([part.infos for part in parts], places, total),
        rows=rows,
        acting=_merge_acting(parts),
    )


def replace_ended(step: GroupBatch, start: GroupBatch, at: IntArray) -> bool:
    """Puts, but for observations, what follows where rows have ended in their place.

    Args:
        step: of ``with_finals``; it is changed.
        start: what follows where rows have ended, in the same order.
        at: the positions of the rows that have ended.

    Returns:
        Whether it was done: False, and nothing is changed, if it takes more than that.
    """
    if start.rows is not None or start.acting is not None:
        return False
    if len(step.action_masks) != len(start.action_masks):
        return False
    for mask, new in zip(step.action_masks, start.action_masks, strict=True):
        mask[at] = new
    if step.infos or start.infos:
        _replace_infos(step, start, at)
    return True


def _replace_infos(before: GroupBatch, start: GroupBatch, at: IntArray) -> None:
    """The infos' side of ``replace_ended``."""
    rest, fresh = {}, dict(start.infos)
    infos, final = {}, {}
    for name, info in before.infos.items():
        new = fresh.get(name)
        whole = new is not None and info.rows is None and new.rows is None
        if new is not None and whole and _are_alike([info, new]):
            # By far the most common: something that is said of every row in every step.
            final[name] = Info(_pick(info.values, at))
            info.values[at] = new.values  # type: ignore[index]
            infos[name] = info
            del fresh[name]
        elif new is None and info.rows is not None and np.array_equal(info.rows, at):
            final[name] = Info(info.values)
        else:
            rest[name] = info
    if rest or fresh:
        count = len(before.reward) if before.reward is not None else 0
        going_on = np.setdiff1d(np.arange(count), at)
        kept = select_infos(rest, going_on, count)
        infos |= _merge_infos((kept, fresh), (going_on, at), count)
        final |= select_infos(rest, at, count)
    before.infos, before.final_infos = infos, final


def _are_alike(infos: Sequence[Info]) -> bool:
    """Whether all are arrays with rows of the same dtype and shape."""
    first = infos[0].values
    return isinstance(first, np.ndarray) and all(
        isinstance(info.values, np.ndarray)
        and info.values.dtype == first.dtype
        and info.values.shape[1:] == first.shape[1:]
        for info in infos
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


def _merge_infos(
    parts: Sequence[Mapping[str, Info]], places: Sequence[IntArray], total: int
) -> dict[str, Info]:
    pieces: dict[str, list[tuple[IntArray, Info]]] = {}
    for infos, place in zip(parts, places, strict=True):
        for name, info in infos.items():
            positions = place if info.rows is None else place[info.rows]
            pieces.setdefault(name, []).append((positions, info))
    return {name: _join(piece, total) for name, piece in pieces.items()}


def _join(pieces: list[tuple[IntArray, Info]], total: int) -> Info:
    """One info of the rows of several, each with their positions among ``total``."""
    if sum(len(place) for place, _ in pieces) == total and _are_alike([i for _, i in pieces]):
        first: np.ndarray = pieces[0][1].values  # type: ignore[assignment]
        whole = np.empty((total, *first.shape[1:]), first.dtype)
        for place, info in pieces:
            whole[place] = info.values
        return Info(whole)
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
