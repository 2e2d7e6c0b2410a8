"""Adder: its arithmetic, its random streams, its states."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserver.sims.adder import Adder

SEEDS = st.integers(-(2**63), 2**63 - 1)
ADDENDS = st.lists(st.integers(-10, 10), min_size=10, max_size=10)
FULL = np.array([0, 100])


def make(num_envs: int, initial_value=FULL) -> Adder:
    return Adder(num_envs, initial_value=np.asarray(initial_value))


def values(batch) -> list[int]:
    return batch.groups[0].observation["value"].tolist()


def add(adder: Adder, *addends: int, envs=None):
    rows = np.arange(len(addends)) if envs is None else np.asarray(envs)
    return adder.step(rows, [{"addend": np.asarray(addends, np.int64)}])


def run_episodes(adder: Adder, env: int, episodes: int, addend: int) -> list[int]:
    """Every value of an environment that goes on with its own stream."""
    seen = []
    for _ in range(episodes):
        seen += values(adder.reset(np.array([env]), None, {}))
        for _ in range(10):
            seen += values(add(adder, addend, envs=[env]))
    return seen


@given(seed=SEEDS, addends=ADDENDS)
def test_an_episode_is_ten_additions(seed, addends):
    adder = make(1)
    space = adder.groups[0].observation_space
    [value] = values(adder.reset(np.array([0]), [seed], {}))
    assert 0 <= value <= 100
    for step, addend in enumerate(addends, 1):
        batch = add(adder, addend)
        value += addend
        [group] = batch.groups
        assert values(batch) == [value]
        assert space.contains({"value": np.array(value)})
        assert group.reward.tolist() == [-abs(value - 50)]
        assert group.terminated.tolist() == [False]
        assert group.truncated.tolist() == [step == 10]


def test_types_of_the_arrays():
    adder = make(3)
    batch = adder.reset(np.arange(3), [1, 2, 3], {})
    assert batch.groups[0].observation["value"].dtype == np.int64
    assert batch.groups[0].reward is None
    [group] = add(adder, 1, 2, 3).groups
    assert group.observation["value"].dtype == np.int64
    assert group.reward.dtype == np.float64
    assert group.terminated.dtype == group.truncated.dtype == np.bool_


def test_the_best_returns_are_those_of_the_docstring():
    for tens in range(6):
        adder = make(2, [50 - 10 * tens, 50 + 10 * tens])
        adder.reset(
            np.arange(2),
            None,
            {"initial_value": np.array([[50 - 10 * tens] * 2, [50 + 10 * tens] * 2])},
        )
        total = np.zeros(2)
        for step in range(10):
            addend = 10 if step < tens else 0
            total += add(adder, addend, -addend).groups[0].reward
        assert total.tolist() == [-5 * tens * (tens - 1)] * 2


def test_environments_of_a_batch_do_not_touch_each_other():
    adder = make(3, [40, 40])
    adder.reset(np.arange(3), None, {})
    batch = add(adder, 5, -5, envs=[0, 2])
    assert values(batch) == [45, 35]
    adder.reset(np.array([2]), None, {})
    batch = add(adder, 1, 1, 1)
    assert values(batch) == [46, 41, 41]


@given(seed=SEEDS, others=st.lists(SEEDS, max_size=4), position=st.integers(0, 4))
def test_a_seed_gives_the_same_episodes_whatever_the_batch(seed, others, position):
    position = min(position, len(others))
    alone = make(1)
    first = values(alone.reset(np.array([0]), [seed], {}))
    crowd = make(len(others) + 1)
    seeds = [*others[:position], seed, *others[position:]]
    together = values(crowd.reset(np.arange(len(seeds)), seeds, {}))
    assert [together[position]] == first
    crowd.reset(np.arange(len(seeds)), None, {})
    alone.reset(np.array([0]), None, {})
    assert run_episodes(crowd, position, 3, 1) == run_episodes(alone, 0, 3, 1)


def test_environments_without_a_seed_have_streams_of_their_own():
    drawn = [
        tuple(tuple(values(adder.reset(np.arange(4), None, {}))) for _ in range(20))
        for adder in (make(4), make(4))
    ]
    streams = {stream for batch in drawn for stream in zip(*batch, strict=True)}
    assert len(streams) == 8


def test_starts_cover_the_whole_range():
    adder = make(2000)
    assert set(values(adder.reset(np.arange(2000), range(2000), {}))) == set(range(101))


def test_a_given_range_holds_until_another_is_given():
    adder = make(2, [7, 9])
    envs = np.arange(2)
    assert {v for _ in range(50) for v in values(adder.reset(envs, None, {}))} == {7, 8, 9}
    given_range = {"initial_value": np.array([[20, 21]])}
    adder.reset(np.array([1]), None, given_range)
    drawn = [values(adder.reset(envs, None, {})) for _ in range(50)]
    assert {first for first, _ in drawn} == {7, 8, 9}
    assert {second for _, second in drawn} == {20, 21}


def test_the_reply_tells_the_value_drawn_and_replays_it():
    adder = make(3)
    batch = adder.reset(np.arange(3), [1, 2, 3], {})
    assert batch.started.tolist() == [0, 1, 2]
    used = batch.episode_options["initial_value"]
    assert used.tolist() == [[value, value] for value in values(batch)]
    [parameter] = adder.parameters
    assert all(parameter.space.contains(row) for row in used)
    again = make(3).reset(np.arange(3), None, {"initial_value": used})
    assert values(again) == values(batch)


def test_a_range_the_wrong_way_round_is_refused_and_changes_nothing():
    with pytest.raises(ValueError, match="initial_value: the lowest, 9, is above the highest, 7"):
        make(1, [9, 7])
    adder = make(2, [30, 30])
    adder.reset(np.arange(2), None, {})
    add(adder, 1, 1)
    with pytest.raises(ValueError, match="the lowest, 5, is above the highest, 4"):
        adder.reset(np.arange(2), [1, 2], {"initial_value": np.array([[0, 0], [5, 4]])})
    assert values(add(adder, 1, 1)) == [32, 32]
    assert values(adder.reset(np.arange(2), None, {})) == [30, 30]


@given(seed=SEEDS, before=st.integers(0, 10))
def test_a_saved_state_has_the_same_future_elsewhere(seed, before):
    original = make(1)
    original.reset(np.array([0]), [seed], {"initial_value": np.array([[10, 90]])})
    original.reset(np.array([0]), None, {})
    for _ in range(before):
        batch = add(original, 3)
    [state] = original.save_state(np.array([0]))
    copy = make(3)
    loaded = copy.load_state(np.array([2]), [state])
    if before:
        assert values(loaded) == values(batch)
    for step in range(before + 1, 11):
        expected, actual = add(original, -2).groups[0], add(copy, -2, envs=[2]).groups[0]
        assert actual.observation["value"].tolist() == expected.observation["value"].tolist()
        assert actual.reward.tolist() == expected.reward.tolist()
        assert actual.truncated.tolist() == expected.truncated.tolist() == [step == 10]
    assert run_episodes(copy, 2, 5, 1) == run_episodes(original, 0, 5, 1)


def test_bytes_that_are_no_state_are_refused_and_change_nothing():
    adder = make(2, [50, 50])
    adder.reset(np.arange(2), [1, 2], {})
    good, other = adder.save_state(np.arange(2))
    add(adder, 1, 1)
    broken = [
        b"",
        good[:-1],
        good + b"\0",
        (10**6).to_bytes(8, "little") + good[8:],
        good[:8] + (11).to_bytes(8, "little") + good[16:],
    ]
    for state in broken:
        with pytest.raises(ValueError, match="not a state of adder"):
            adder.load_state(np.arange(2), [other, state])
    assert values(add(adder, 1, 1)) == [52, 52]
