"""What RLlib's ``MeanStdFilter`` makes of one observation after the other, for a batch of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.utils.filter import RunningStat
from ray.rllib.utils.numpy import SMALL_NUMBER


def can_normalize(rows: Any, batch: Any) -> bool:
    """Whether ``normalized`` knows how.

    Args:
        rows: a filter, ``ray.rllib.utils.filter.MeanStdFilter``.
        batch: what it is to see.
    """
    stats = rows.running_stats
    return (
        isinstance(stats, RunningStat)
        and isinstance(batch, np.ndarray)
        and batch.shape[1:] == stats.shape
        and not rows.no_preprocessor
    )


def normalized(rows: Any, batch: NDArray[Any], update: bool) -> NDArray[Any]:
    """The batch as the filter makes it, to the last bit, in the batch's dtype.

    Args:
        rows: the filter.
        batch: [rows, ...], which it sees in this order.
        update: whether each of them counts, for itself and those that follow.
    """
    stats, buffer = rows.running_stats, rows.buffer
    if update and len(batch) and not (stats.num_pushes and buffer.num_pushes):
        first = np.asarray(rows(batch[0], update=True))
        return np.concatenate([first[None], normalized(rows, batch[1:], update)])
    if update and len(batch):
        means, stds = _push((stats, buffer), batch)
    else:
        means, stds = stats.mean, stats.std
    after = batch
    if rows.demean:
        after = after - means
    if rows.destd:
        after = after / (stds + SMALL_NUMBER)
    if rows.clip:
        after = np.clip(after, -rows.clip, rows.clip)
    return after.astype(batch.dtype)


def _push(
    both: tuple[RunningStat, RunningStat], batch: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """As ``RunningStat.push`` of one row after the other, where neither is without any.

    Returns:
        Means and standard deviations of the first of them after each row: [rows, ...].
    """
    seen = batch.reshape(len(batch), 1, -1).astype(np.float64)
    pushes = np.array([[stats.num_pushes] for stats in both])
    numbers = np.arange(1.0, len(seen) + 1)[:, None, None] + pushes
    deltas, steps, means = np.empty((3, len(seen), len(both), seen.shape[-1]))
    mean = np.stack([stats.mean_array.reshape(-1) for stats in both])
    for value, number, delta, step, after in zip(seen, numbers, deltas, steps, means, strict=True):
        np.subtract(value, mean, out=delta)
        np.divide(delta, number, out=step)
        mean = np.add(mean, step, out=after)
    squares = deltas * (seen - means)
    sums = _added([stats.sum_sq_diff_array for stats in both], squares)
    deltas_of_mean = _added([stats.mean_delta_array for stats in both], steps)
    deltas_of_sum = _added([stats.sum_sq_diff_delta_array for stats in both], squares)
    for number, stats in enumerate(both):
        stats.num_pushes += len(seen)
        stats.num_pushes_delta += len(seen)
        stats.mean_array[...] = mean[number].reshape(stats.shape)
        stats.sum_sq_diff_array[...] = sums[-1, number].reshape(stats.shape)
        stats.mean_delta_array[...] = deltas_of_mean[-1, number].reshape(stats.shape)
        stats.sum_sq_diff_delta_array[...] = deltas_of_sum[-1, number].reshape(stats.shape)
    variances = (sums[:, 0] / (numbers[:, 0] - 1.0)).astype(np.float32)
    stds = np.sqrt(np.maximum(0, variances))
    return means[:, 0].reshape(batch.shape), stds.reshape(batch.shape)


def _added(first: list[NDArray[Any]], parts: NDArray[Any]) -> NDArray[Any]:
    """What the first ones become as one part after the other is added: as ``parts``."""
    start = np.stack([array.reshape(-1) for array in first])
    return np.add.accumulate(np.concatenate([start[None], parts]))[1:]
