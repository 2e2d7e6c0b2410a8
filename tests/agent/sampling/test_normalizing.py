"""Batches through RLlib's ``MeanStdFilter``, beside one observation after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ray.rllib.utils.filter import MeanStdFilter

from agent.sampling.normalizing import can_normalize, normalized

SHAPES: list[tuple[int, ...]] = [(4,), (2, 3), ()]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"demean": False},
    {"destd": False},
    {"clip": None},
    {"demean": False, "destd": False},
]


def state(of: Any) -> list[Any]:
    return [
        value if isinstance(value, int) else value.tobytes()
        for stats in (of.running_stats, of.buffer)
        for value in (
            stats.num_pushes,
            stats.num_pushes_delta,
            stats.mean_array,
            stats.mean_delta_array,
            stats.sum_sq_diff_array,
            stats.sum_sq_diff_delta_array,
        )
    ]


def batches(shape: tuple[int, ...], dtype: Any, random: np.random.Generator) -> list[NDArray[Any]]:
    found = []
    for number in range(12):
        rows = 1 if number == 0 else int(random.integers(1, 9))
        batch = random.standard_normal((rows, *shape)) * random.choice([1, 1e-3, 100]) + 3
        if number == 3:
            batch[:] = -0.0
        if number == 5:
            batch[:] = batch[:1]
        found.append((abs(batch) if np.dtype(dtype).kind == "u" else batch).astype(dtype))
    return found


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # RLlib keeps the dtype.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_batch_is_filtered_as_its_rows_are_to_the_last_bit(shape, dtype, settings) -> None:
    random = np.random.default_rng(1)
    theirs, ours, other = (MeanStdFilter(np.array(shape, int), **settings) for _ in range(3))
    for number, batch in enumerate(batches(shape, dtype, random)):
        update = number % 4 != 2
        if number == 6:
            # What an algorithm does with the filters of its env runners.
            other(batch[0])
            for each in (theirs, ours):
                each.reset_buffer()
                each.apply_changes(other)
        rows = np.stack([theirs(row, update=update) for row in batch])
        assert can_normalize(ours, batch)
        found = normalized(ours, batch, update)
        assert (found.dtype, found.tobytes()) == (rows.dtype, rows.tobytes())
        assert state(ours) == state(theirs)


def test_another_shape_is_left_to_the_filter() -> None:
    assert not can_normalize(MeanStdFilter(np.array([4])), np.zeros((2, 3), np.float32))
