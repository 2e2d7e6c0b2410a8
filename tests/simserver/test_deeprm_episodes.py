"""What DeepRM's episodes are made of: seeds, generated and given sequences, options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from simserver.sims.deeprm import DeepRM
from tests.simserver.deeprm_play import (
    arrivals,
    given_jobs,
    info,
    record,
    same,
    sequence_numbers,
    simulator,
)


def test_a_seed_gives_the_same_episodes_in_any_batch_and_position() -> None:
    alone, many = simulator(1, observation="both"), simulator(6, observation="both")
    many.reset(np.arange(6), None, {})
    batch = many.reset(np.array([1, 4]), [7, -7], {})
    for row, (env, seed) in enumerate(((1, 7), (4, -7))):
        first, again = alone.reset(np.arange(1), [seed], {}), batch
        for episode in range(3):
            one = record(alone, first, 0, episode)
            assert same(one, record(many, again, env, episode, row))
            first, row = alone.reset(np.arange(1), None, {}), 0
            again = many.reset(np.array([env]), None, {})


def test_environments_without_a_seed_never_share_a_stream() -> None:
    jobs = []
    for sim in (simulator(4), simulator(4)):
        first = sim.reset(np.arange(4), None, {})
        jobs += [record(sim, first, env, 0, row=env)[-1].tobytes() for env in range(4)]
    assert len(set(jobs)) == 8


def test_seeds_that_differ_give_different_episodes() -> None:
    sim = simulator(5)
    first = sim.reset(np.arange(5), [0, 1, -1, 2**63 - 1, -(2**63)], {})
    jobs = {record(sim, first, env, 0, row=env)[-1].tobytes() for env in range(5)}
    assert len(jobs) == 5


def test_num_ex_sequences_come_in_a_cycle_and_stay_with_the_seed() -> None:
    sim = simulator(2, num_ex=3, end="no_new_job")
    sim.reset(np.arange(2), [5, 6], {})
    first = [arrivals(sim, 0), *sequence_numbers(sim, 0, 5)]
    assert first[:3] == first[3:]
    assert len(set(first)) == 3
    assert arrivals(sim, 1) not in first
    sim.reset(np.array([1]), [5], {})
    assert [arrivals(sim, 1), *sequence_numbers(sim, 1, 2)] == first[:3]


def test_random_order_and_a_chosen_sequence_take_from_the_same_ones() -> None:
    options: dict[str, Any] = {"num_ex": 4, "end": "no_new_job"}
    cycle = simulator(1, **options)
    cycle.reset(np.arange(1), [9], {})
    sequences = [arrivals(cycle), *sequence_numbers(cycle, 0, 3)]

    mixed = simulator(1, **options, sequence_order="random")
    batch = mixed.reset(np.arange(1), [9], {})
    order = []
    for _ in range(30):
        order.append(int(batch.episode_options["sequence_index"][0]))
        assert arrivals(mixed) == sequences[order[-1]]
        batch = mixed.reset(np.arange(1), None, {})
    assert set(order) == {0, 1, 2, 3}
    assert order != [number % 4 for number in range(30)]

    mixed.reset(np.arange(1), None, {"sequence_index": np.array([2])})
    assert arrivals(mixed) == sequences[2]
    assert sequence_numbers(mixed, 0, 3) == [sequences[2]] * 3
    batch = mixed.reset(np.arange(1), [9], {"sequence_index": np.array([-1])})
    assert int(batch.episode_options["sequence_index"][0]) == order[0]


def test_the_rate_is_drawn_for_each_episode_and_told() -> None:
    sim = simulator(200, end="no_new_job")
    envs = np.arange(200)
    ranges = np.array([[0.2, 0.6]] * 100 + [[1.0, 1.0]] * 50 + [[0.0, 0.0]] * 50)
    batch = sim.reset(envs, None, {"new_job_rate": ranges})
    told = batch.episode_options["new_job_rate"]
    assert_array_equal(told[:, 0], told[:, 1])
    drawn = told[:100, 0]
    assert 0.2 <= drawn.min() < 0.3 < 0.5 < drawn.max() <= 0.6
    assert_array_equal(told[100:], ranges[100:])
    for _ in range(50):
        batch = sim.step(envs, [np.full(200, 10)])
    count = (info(batch, "jobs")[:, :, 0] >= 0).sum(axis=1)
    assert_array_equal(count[100:150], 49)
    assert_array_equal(count[150:], 0)
    assert np.corrcoef(count[:100], drawn)[0, 1] > 0.5
    again = sim.reset(envs[:100], None, {}).episode_options["new_job_rate"]
    assert (again != told[:100]).all()
    assert ((again >= 0.2) & (again <= 0.6)).all()


def test_generated_jobs_are_those_of_the_paper() -> None:
    sim = simulator(300, end="no_new_job", num_nw=49)
    sim.reset(np.arange(300), list(range(300)), {})
    for _ in range(50):
        batch = sim.step(np.arange(300), [np.full(300, 49)])
    jobs = info(batch, "jobs").reshape(-1, 7)
    jobs = jobs[jobs[:, 0] >= 0]
    length, sizes = jobs[:, 4], jobs[:, 5:]
    short = length <= 3
    assert_allclose(short.mean(), 0.8, atol=0.02)
    assert set(length) == {1, 2, 3, 10, 11, 12, 13, 14, 15}
    assert set(sizes.max(axis=1)) == {5, 6, 7, 8, 9, 10}
    assert set(sizes.min(axis=1)) == {1, 2}
    assert_allclose((sizes[:, 0] > 2).mean(), 0.5, atol=0.02)
    # 1.845 * rate, with one step in fifty that is never used.
    load = (sizes * length[:, None]).sum(axis=0) / 10 / (300 * 50)
    assert_allclose(load, 1.845 * 0.7 * 49 / 50, rtol=0.05)


def test_legacy_jobs_and_colors_start_anew_with_a_seed() -> None:
    sim = simulator(2, jobs="legacy", num_ex=2, colors="legacy", observation="both")
    first = sim.reset(np.arange(2), [1, 2], {})
    one = record(sim, first, 0, 0)
    assert same(one, record(sim, first, 1, 0, row=1))
    second = sim.reset(np.arange(2), None, {})
    assert not same(one, record(sim, second, 0, 0))
    first = sim.reset(np.arange(2), [3, 4], {})
    assert same(one, record(sim, first, 0, 0))


def test_a_given_sequence_holds_until_another_or_none_is_given() -> None:
    sim = simulator(2, end="no_new_job")
    envs = np.arange(2)
    jobs = [(9, (9, 9)), (3, (1, 2)), (0, (0, 0)), (15, (10, 10))]
    sim.reset(envs, [3, 3], {})
    own = arrivals(sim, 0)
    batch = sim.reset(envs, [3, 3], given_jobs(jobs, 2))
    assert_array_equal(batch.episode_options["sequence_index"], [-1, -1])
    for _ in range(2):
        for env in envs:
            shown = np.frombuffer(arrivals(sim, env), np.int32).reshape(50, 5)
            expected = np.full((50, 5), -1)
            expected[:2] = [(0, 1, 3, 1, 2), (1, 3, 15, 10, 10)]
            assert_array_equal(shown, expected)
        sim.reset(envs, None, {})
    empty = (np.zeros(0, np.int64),)
    sim.reset(envs[:1], [3], {"job_lengths": empty, "job_sizes": empty})
    assert arrivals(sim, 0) == own


def test_a_sequence_given_at_the_opening_holds_for_all() -> None:
    lengths, sizes = np.array([0, 5]), np.array([0, 0, 2, 3])
    sim = simulator(2, end="no_new_job", job_lengths=lengths, job_sizes=sizes)
    sim.reset(np.arange(2), None, {})
    assert arrivals(sim, 0) == arrivals(sim, 1)
    assert np.frombuffer(arrivals_again(sim), np.int32)[:5].tolist() == [0, 1, 5, 2, 3]


def arrivals_again(sim: DeepRM) -> bytes:
    sim.reset(np.arange(1), None, {})
    return arrivals(sim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (given_jobs([(1, (1, 1))] * 51), "51 time steps and simu_len is 50"),
        (given_jobs([(16, (1, 1))]), "16 time steps and max_job_len is 15"),
        (given_jobs([(1, (1, 11))]), "asks for 11 and max_job_size is 10"),
        (given_jobs([(1, (1, 1, 1))]), "need 2"),
        ({"job_lengths": (np.array([1]),)}, "together"),
        ({"new_job_rate": np.array([[0.7, 0.2]])}, "low, high"),
        ({"sequence_index": np.array([3])}, "num_ex only 3"),
        ({"job_colors": (np.array([0.5]),)}, "needs 39"),
        ({"job_colors": (np.full(39, 0.5),)}, "different"),
    ],
)
def test_options_of_an_episode_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str
) -> None:
    sim = simulator(1, num_ex=3)
    sim.reset(np.arange(1), [1], {})
    expected = arrivals(sim)
    with pytest.raises(ValueError, match=message):
        sim.reset(np.arange(1), [2], options)
    batch = sim.reset(np.arange(1), None, {"sequence_index": np.array([0])})
    assert arrivals(sim) == expected, "a refused reset has changed something"
    assert batch.episode_options["sequence_index"][0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_job_len": 20}, "max_job_len 20 must be less than time_horizon 20"),
        ({"max_job_size": 11}, "max_job_size 11 must not exceed res_slot 10"),
        ({"jobs": "legacy"}, "num_ex >= 1"),
        ({"jobs": "legacy", "num_ex": 1, "max_job_len": 4}, "5 or more"),
        ({"jobs": "legacy", "num_ex": 1, "new_job_rate": np.array([0.1, 0.2])}, "one rate"),
        ({"new_job_rate": np.array([0.2, 0.1])}, "low, high"),
        ({"job_lengths": np.array([99]), "job_sizes": np.array([1, 1])}, "max_job_len is 15"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulator(1, **options)


def test_legacy_jobs_have_one_rate() -> None:
    sim = simulator(1, jobs="legacy", num_ex=1)
    with pytest.raises(ValueError, match="when opening"):
        sim.reset(np.arange(1), None, {"new_job_rate": np.array([[0.5, 0.5]])})
