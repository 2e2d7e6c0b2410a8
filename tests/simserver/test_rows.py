"""Rows of batches put together: what is said of them stays with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from simserver import rows
from simserver.simulator import Group, GroupBatch, Info

GROUP = Group(Box(-1, 99, (1,), np.float32), Discrete(2))


def part(numbers: list[float], infos: dict[str, Info], index: Any = None) -> GroupBatch:
    count = len(numbers)
    none = np.zeros(count, np.bool_)
    seen = np.array(numbers, np.float32)[:, None]
    return GroupBatch(seen, np.ones(count), none, none, infos=infos, rows=index)


def told(infos: dict[str, Info], count: int) -> dict[str, dict[int, Any]]:
    """By name and position."""
    return {
        name: dict(
            zip(
                range(count) if info.rows is None else info.rows.tolist(),
                np.asarray(info.values).tolist(),
                strict=True,
            )
        )
        for name, info in infos.items()
    }


def test_infos_of_rows_that_begin_anew() -> None:
    """Of all rows, of those that ended alone, of some, of another kind, and only of new ones."""
    at = np.array([1, 3])
    before = part(
        [0, 1, 2, 3],
        {
            "time": Info(np.arange(4)),
            "ended": Info(np.array([0.5, 1.5]), at),
            "some": Info(np.array([7, 8]), np.array([0, 1])),
            "text": Info(["a", "b", "c", "d"]),
            "whole": Info(np.arange(4)),
        },
    )
    fresh = {
        "time": Info(np.array([10, 30])),
        "text": Info(["B", "D"]),
        "whole": Info(np.array([0.25, 0.75])),
        "began": Info(np.array([True, False])),
    }
    replaced = rows.with_finals(GROUP, before, at, at)
    assert rows.replace_ended(replaced, part([11, 13], fresh), at)
    assert replaced.final_observation[:, 0].tolist() == [1, 3]
    assert told(replaced.infos, 4) == {
        "time": {0: 0, 1: 10, 2: 2, 3: 30},
        "some": {0: 7},
        "text": {0: "a", 1: "B", 2: "c", 3: "D"},
        "whole": {0: 0, 1: 0.25, 2: 2, 3: 0.75},
        "began": {1: True, 3: False},
    }
    assert told(replaced.final_infos, 2) == {
        "time": {0: 1, 1: 3},
        "ended": {0: 0.5, 1: 1.5},
        "some": {0: 8},
        "text": {0: "b", 1: "d"},
        "whole": {0: 1, 1: 3},
    }


def test_merged_rows_are_in_order() -> None:
    one = part([0, 2], {"time": Info(np.array([5, 6])), "one": Info(np.array([1]), np.array([1]))})
    other = part([1, 3], {"time": Info(np.array([7, 8]))})
    one.rows, other.rows = np.array([10, 12]), np.array([11, 13])
    one.action_masks, other.action_masks = (
        (np.array([[True, False]] * 2),),
        (np.array([[False, True]] * 2),),
    )
    merged = rows.merge(GROUP, [one, other])
    assert merged.rows is not None
    assert merged.rows.tolist() == [10, 11, 12, 13]
    assert merged.observation[:, 0].tolist() == [0, 1, 2, 3]
    assert merged.action_masks[0][:, 0].tolist() == [True, False, True, False]
    assert told(merged.infos, 4) == {"time": {0: 5, 1: 7, 2: 6, 3: 8}, "one": {2: 1}}
