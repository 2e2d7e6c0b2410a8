"""What agents saw last, beside a plain list of it."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st

from farsim import spaces
from farsim.errors import InvalidTensor
from simserver.last_seen import LastSeen
from simserver.simulator import Group
from tests.farsim.space_strategies import assert_same

ROWS = 4
NUMBERS = Box(-9, 9, (2,), np.float32)
SPACES = [NUMBERS, Dict(a=NUMBERS, b=Tuple((Discrete(9), NUMBERS))), Dict(a=Text(5), b=NUMBERS)]

events = st.one_of(
    st.sampled_from(["mark", "forget", "all"]),
    st.lists(st.integers(0, ROWS - 1), unique=True).map(sorted),
)


@given(st.sampled_from(SPACES), st.lists(events, max_size=12))
def test_it_is_what_was_noted_since_the_mark(space: Space, sequence: list):
    last = LastSeen(Group(space, Discrete(2)), ROWS)
    now = spaces.unbatch(space, spaces.zeros(space, ROWS), ROWS)
    marked = list(now)
    for event in sequence:
        if event == "mark":
            last.mark()
            marked = list(now)
        elif event == "forget":
            last.forget()
            now = list(marked)
        else:
            rows = list(range(ROWS)) if event == "all" else event
            seen = [space.sample() for _ in rows]
            batched = spaces.batch(space, seen)
            last.note(None if event == "all" else np.array(rows, np.int64), batched)
            for row, value in zip(rows, spaces.unbatch(space, batched, len(rows)), strict=True):
                now[row] = value
    assert_same(spaces.batch(space, now), last.take(np.arange(ROWS)))
    assert_same(spaces.batch(space, [now[2], now[0]]), last.take(np.array([2, 0])))


def test_it_is_a_copy():
    last = LastSeen(Group(NUMBERS, Discrete(2)), 2)
    seen = np.ones((2, 2), np.float32)
    last.note(None, seen)
    seen[:] = 5
    assert last.take(np.arange(2)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("seen", [np.ones((3, 2), np.float32), np.ones(2, np.float32), [1, 2]])
def test_what_does_not_fit_is_refused(seen: object):
    last = LastSeen(Group(NUMBERS, Discrete(2)), 2)
    with pytest.raises(InvalidTensor):
        last.note(None, seen)
