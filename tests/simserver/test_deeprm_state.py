"""Saved states of DeepRM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.simserver.deeprm_play import (
    TIGHT,
    compact_of,
    given_jobs,
    mask_of,
    record,
    same,
    simulator,
)

SAVED = [
    {},
    {"running_removal": "reference", "observation": "both", "action_mask": "fits_horizon"},
    {"observation": "both", "colors": "legacy", "jobs": "legacy", "num_ex": 3},
    {"num_ex": 5, "sequence_order": "random", "action_limit": 70, "masks_in_info": 1},
]


@pytest.mark.parametrize("options", SAVED)
def test_a_saved_state_goes_on_exactly_anywhere(options: dict[str, Any]) -> None:
    options = {**TIGHT, **options}
    sim, other = simulator(3, **options), simulator(2, **options)
    envs, random = np.arange(3), np.random.default_rng(0)
    jobs = given_jobs([(2, (1, 1))] * 20, 1)
    sim.reset(envs, [1, 2, 3], {})
    batch = sim.reset(envs[2:], None, jobs)
    for _ in range(20):
        batch = sim.step(envs, [random.integers(0, 4, 3)])
    saved = sim.save_state(envs[1:])
    other.reset(np.arange(2), None, {})
    loaded = other.load_state(np.arange(2), saved[::-1])
    assert loaded.groups[0].reward is None
    assert_array_equal(compact_of(loaded), compact_of(batch)[:0:-1])
    assert_array_equal(mask_of(loaded), mask_of(batch)[:0:-1])
    for env, place in ((1, 1), (2, 0)):
        for episode in range(3):
            if episode:
                batch = sim.reset(np.array([env]), None, {})
                again = other.reset(np.array([place]), None, {})
                assert_array_equal(
                    again.episode_options["new_job_rate"], batch.episode_options["new_job_rate"]
                )
            else:
                sim.load_state(np.array([env]), [saved[env - 1]])
                batch = again = other.load_state(np.array([place]), [saved[env - 1]])
            assert same(record(sim, batch, env, episode), record(other, again, place, episode))
    assert other.save_state(np.arange(1)) != saved[1:]


def test_a_state_that_is_none_of_ours_is_refused_and_changes_nothing() -> None:
    sim, env = simulator(2), np.arange(1)
    sim.reset(np.arange(2), [1, 2], {})
    for _ in range(30):
        sim.step(np.arange(2), [np.array([0, 10])])
    (state,) = sim.save_state(env)
    header, body = state.split(b"\n", 1)
    wrong = {
        "no saved state": b"something else",
        "is no saved|no saved state": b"",
        "bytes of data": state[:-1],
        "version 2": header.replace(b'"version": 1', b'"version": 2') + b"\n" + body,
        "num_nw": simulator_state(num_nw=9),
        "arrays": header.replace(b'"slot_job"', b'"slot_jobs"') + b"\n" + body,
        "not between|not all|more jobs": header + b"\n" + b"\xfe" * len(body),
    }
    for message, data in wrong.items():
        with pytest.raises(ValueError, match=message):
            sim.load_state(np.arange(2), [state, data])
        assert sim.save_state(env) == [state]


def simulator_state(**options: Any) -> bytes:
    sim = simulator(1, **options)
    sim.reset(np.arange(1), None, {})
    return sim.save_state(np.arange(1))[0]
