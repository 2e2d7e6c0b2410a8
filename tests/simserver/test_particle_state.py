"""Saved states of Particle."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.simserver.particle_play import NAMES, arrays, make, random_actions, take


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["discrete", "continuous"])
def test_a_saved_state_goes_on_exactly_anywhere(name: str, mode: str) -> None:
    sim, other = make(name, 3, action_mode=mode), make(name, 2, action_mode=mode)
    envs, random = np.arange(3), np.random.default_rng(0)
    sim.reset(envs, [1, 2, 3], {})
    for _ in range(7):
        batch = sim.step(envs, random_actions(sim, random, 3))
    saved = sim.save_state(envs[1:])
    other.reset(np.arange(2), None, {})
    loaded = other.load_state(np.arange(2), saved[::-1])
    assert loaded.groups[0].reward is None
    for mine, theirs in ((1, 1), (2, 0)):
        for group, before, after in zip(sim.groups, batch.groups, loaded.groups, strict=True):
            rows, count = before.observation, len(group.agents)
            assert_array_equal(
                after.observation[theirs * count : (theirs + 1) * count],
                rows[mine * count : (mine + 1) * count],
            )
    for episode in range(3):
        steps = 18 if episode == 0 else 25
        if episode:
            sim.reset(envs, None, {})
            other.reset(np.arange(2), None, {})
        for _ in range(steps):
            actions = random_actions(sim, random, 3)
            batch = sim.step(envs, actions)
            again = other.step(np.arange(2), take(other, actions, [2, 1]))
            for mine, theirs in ((1, 1), (2, 0)):
                told = zip(arrays(sim, batch, mine), arrays(other, again, theirs), strict=True)
                for one, two in told:
                    assert_array_equal(one, two)
        assert batch.groups[0].truncated.all() and again.groups[0].truncated.all()
    assert sim.save_state(envs[1:]) == other.save_state(np.arange(2))[::-1]


def test_a_state_that_is_none_of_ours_is_refused_and_changes_nothing() -> None:
    name = "particle/simple_push"
    sim, envs = make(name, 2), np.arange(2)
    sim.reset(envs, [1, 2], {})
    sim.step(envs, random_actions(sim, np.random.default_rng(0), 2))
    state, second = sim.save_state(envs)
    header, body = state.split(b"\n", 1)
    stranger = make("particle/simple_tag", 1)
    longer = make(name, 1, max_cycles=30)
    for simulator in (stranger, longer):
        simulator.reset(np.arange(1), None, {})
    wrong = {
        "no saved state": b"something else",
        "bytes of data": state[:-1],
        "version 2": header.replace(b'"version": 1', b'"version": 2') + b"\n" + body,
        "scenario": stranger.save_state(np.arange(1))[0],
        "max_cycles": longer.save_state(np.arange(1))[0],
        "arrays": header.replace(b'"velocities"', b'"speeds"') + b"\n" + body,
        "all finite": header + b"\n" + b"\xff" * len(body),
        "choices": header + b"\n" + body[:128] + b"\x09" + body[129:],
        "random stream": state[:-8] + b"\xff" * 8,
    }
    for message, data in wrong.items():
        with pytest.raises(ValueError, match=message):
            sim.load_state(envs, [second, data])
        assert sim.save_state(envs) == [state, second]
