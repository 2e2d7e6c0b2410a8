"""Particle: what it promises beyond the recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from farsim.errors import UnknownSimulator
from simserver.catalogue import load
from simserver.sims.particle import Particle
from simserver.sims.particle.physics import Physics
from tests.simserver.particle_play import NAMES, arrays, make, random_actions, take

MODES = ("discrete", "continuous")


@st.composite
def games(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A scenario and options."""
    name = draw(st.sampled_from(NAMES))
    options: dict[str, Any] = {"action_mode": draw(st.sampled_from(MODES))}
    for parameter in load([name], {})[name].parameters:
        if parameter.name in ("N", "num_good", "num_adversaries", "num_food"):
            options[parameter.name] = draw(st.integers(1, 4))
        elif parameter.name in ("num_obstacles", "num_forests"):
            options[parameter.name] = draw(st.integers(0, 3))
        elif parameter.name == "local_ratio":
            options[parameter.name] = np.array(draw(st.floats(0, 1)))
        elif parameter.name == "terminate_on_success":
            options[parameter.name] = draw(st.integers(0, 1))
        elif parameter.name == "rewards":
            options[parameter.name] = draw(st.sampled_from(parameter.choices))
        elif parameter.name == "max_cycles":
            options[parameter.name] = draw(st.integers(1, 12))
    return name, options


def test_nine_scenarios_by_name() -> None:
    assert len(NAMES) == 9
    for name in NAMES:
        entry = load([name], {})[name]
        assert entry.description.startswith("Particle: ")
        assert {"max_cycles", "action_mode"} <= {p.name for p in entry.parameters}


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(UnknownSimulator, match="did you mean 'particle/simple_spread'"):
        load(["particle/spread"], {})
    with pytest.raises(UnknownSimulator, match="did you mean 'particle/simple_world_comm'"):
        load(["particle/simple_worldcomm"], {})


SPACES = {
    "simple": {"agents": (4, 5, 5)},
    "simple_adversary": {"adversaries": (8, 5, 5), "agents": (10, 5, 5)},
    "simple_crypto": {"eve": (4, 4, 4), "bob": (8, 4, 4), "alice": (8, 4, 4)},
    "simple_push": {"adversaries": (8, 5, 5), "agents": (19, 5, 5)},
    "simple_reference": {"agents": (21, 50, 15)},
    "simple_speaker_listener": {"speaker": (3, 3, 3), "listener": (11, 5, 5)},
    "simple_spread": {"agents": (18, 5, 5)},
    "simple_tag": {"adversaries": (16, 5, 5), "agents": (14, 5, 5)},
    "simple_world_comm": {"leader": (34, 20, 9), "adversaries": (34, 5, 5), "agents": (28, 5, 5)},
}


@pytest.mark.parametrize("name", SPACES)
def test_groups_and_spaces(name: str) -> None:
    for mode in MODES:
        sim = make(f"particle/{name}", 1, action_mode=mode)
        assert {group.name for group in sim.groups} == SPACES[name].keys()
        for group in sim.groups:
            seen, symbols, numbers = SPACES[name][group.name]
            assert group.observation_space == Box(-np.inf, np.inf, (seen,), np.float32)
            discrete = mode == "discrete"
            expected = Discrete(symbols) if discrete else Box(0, 1, (numbers,), np.float32)
            assert group.action_space == expected


@settings(max_examples=60)
@given(games(), st.integers(1, 5), st.integers(-(2**63), 2**63 - 1))
def test_what_every_batch_keeps_to(
    game: tuple[str, dict[str, Any]], num_envs: int, seed: int
) -> None:
    name, options = game
    sim = make(name, num_envs, **options)
    envs, random = np.arange(num_envs), np.random.default_rng(seed % 2**64)
    bodies = sim._scenario.bodies
    batch = sim.reset(envs, [seed] * num_envs, {})
    assert_array_equal(batch.started, envs)
    landmarks = sim._worlds.positions[bodies.num_agents :].copy()
    assert np.abs(sim._worlds.positions).max() <= 1
    for step in range(1, options["max_cycles"] + 1):
        batch = sim.step(envs, random_actions(sim, random, num_envs))
        ends = []
        for group, part in zip(sim.groups, batch.groups, strict=True):
            rows = num_envs * len(group.agents)
            assert part.observation.shape == (rows, *group.observation_space.shape)
            assert part.observation.dtype == np.float32 and np.isfinite(part.observation).all()
            assert part.reward.dtype == np.float64 and np.isfinite(part.reward).all()
            assert part.reward.shape == part.terminated.shape == part.truncated.shape == (rows,)
            assert (part.truncated == (step == options["max_cycles"])).all()
            assert not (part.truncated & part.terminated).any()
            for info in part.infos.values():
                assert info.rows is None and np.shape(info.values) == (rows,)
            ends.append(part.terminated.reshape(num_envs, -1))
        terminated = np.concatenate(ends, axis=1)
        assert_array_equal(terminated.any(axis=1), terminated.all(axis=1))
        if not options.get("terminate_on_success"):
            assert not terminated.any()
        worlds = sim._worlds
        assert_array_equal(worlds.positions[bodies.num_agents :], landmarks)
        speed = np.hypot(worlds.velocities[:, 0], worlds.velocities[:, 1])
        assert (speed <= bodies.max_speed[:, None] * (1 + 1e-12)).all()
        assert not worlds.velocities[~bodies.moves].any()


@settings(max_examples=40)
@given(games(), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_episodes_whatever_the_batch(
    game: tuple[str, dict[str, Any]], seed: int
) -> None:
    name, options = game
    random = np.random.default_rng(seed)
    alone, crowd = make(name, 1, **options), make(name, 5, **options)
    crowd.reset(np.arange(5), [seed + 1, seed + 2, seed, seed + 4, seed + 5], {})
    crowd.reset(np.array([0, 4]), None, {})
    batch = alone.reset(np.arange(1), [seed], {})
    again = crowd.reset(np.array([1, 2]), [seed + 9, seed], {})
    for _ in range(2):
        for told, expected in zip(arrays(crowd, again, 1), arrays(alone, batch, 0), strict=True):
            assert_array_equal(told, expected)
        for _ in range(options["max_cycles"]):
            actions = random_actions(crowd, random, 5)
            batch = alone.step(np.arange(1), take(alone, actions, [2]))
            some = [0, 2, 3] if random.random() < 0.5 else [0, 1, 2, 3, 4]
            again = crowd.step(np.array(some), take(crowd, actions, some))
            place = some.index(2)
            for told, expected in zip(
                arrays(crowd, again, place), arrays(alone, batch, 0), strict=True
            ):
                assert_array_equal(told, expected)
        batch = alone.reset(np.arange(1), None, {})
        again = crowd.reset(np.array([0, 2]), None, {})


@pytest.mark.parametrize("name", NAMES)
def test_worlds_without_a_seed_are_all_different(name: str) -> None:
    sims = [make(name, 4), make(name, 4)]
    seen = [sim.reset(np.arange(4), None, {}) and sim._worlds.positions for sim in sims]
    starts = np.concatenate(seen, axis=-1).reshape(-1, 8).T
    assert len(np.unique(starts, axis=0)) == 8


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from(["simple_spread", "simple_tag", "simple_push"]))
def test_bodies_push_each_other_alike(seed: int, name: str) -> None:
    """Without thrust or obstacles contact changes no team's momentum, but may a body's."""
    options = {"num_obstacles": 0} if name == "simple_tag" else {}
    bodies = make(f"particle/{name}", 1, **options)._scenario.bodies
    random = np.random.default_rng(seed)
    force = np.zeros((bodies.count, 2, 3))
    positions = random.uniform(-0.2, 0.2, (bodies.count, 2, 3))
    Physics(bodies)._add_contact(positions, force)
    assert_allclose(force.sum(axis=0), 0, atol=1e-9)
    order = random.permutation(bodies.num_agents)
    same_kind = len(bodies.teams) == 1
    if same_kind:
        shuffled = np.zeros_like(force)
        positions[: bodies.num_agents] = positions[order]
        Physics(bodies)._add_contact(positions, shuffled)
        assert_allclose(shuffled[: bodies.num_agents], force[order], atol=1e-9)


def test_coinciding_bodies_push_nothing_and_break_nothing() -> None:
    sim = make("particle/simple_spread", 1)
    sim.reset(np.arange(1), [1], {})
    sim._worlds.positions[:] = 0.25
    batch = sim.step(np.arange(1), [np.zeros(3, np.int64)])
    assert_array_equal(sim._worlds.velocities, 0)
    assert_array_equal(batch.groups[0].infos["collisions"].values, [2, 2, 2])
    assert_array_equal(batch.groups[0].infos["occupied_landmarks"].values, [3, 3, 3])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_original_rewards_of_spread_follow_from_the_others(mode: str, count: int) -> None:
    """The tutorial's number T is 2 N S - 25 N^2, S being the sum of mpe2's rewards."""
    returns = {}
    for rewards in ("mpe2", "original"):
        sim = make("particle/simple_spread", 8, N=count, rewards=rewards, action_mode=mode)
        envs, random = np.arange(8), np.random.default_rng(3)
        sim.reset(envs, list(range(8)), {})
        steps = [sim.step(envs, random_actions(sim, random, 8)).groups[0] for _ in range(25)]
        assert steps[-1].truncated.all()
        returns[rewards] = sum(step.reward.reshape(8, -1).sum(axis=1) for step in steps)
    expected = 2 * count * returns["mpe2"] - 25 * count**2
    assert_allclose(returns["original"], expected, rtol=1e-12)


def test_original_rewards_of_the_others() -> None:
    """Squared distances, shared sums, and the sign of the food's distance (SPEC section 3)."""

    def rewards(name: str) -> tuple[Particle, dict[str, np.ndarray], dict[str, np.ndarray]]:
        told = []
        for kind in ("mpe2", "original"):
            sim = make(f"particle/{name}", 6, rewards=kind)
            sim.reset(np.arange(6), list(range(6)), {})
            batch = sim.step(np.arange(6), random_actions(sim, np.random.default_rng(0), 6))
            told.append(dict(zip((g.name for g in sim.groups), batch.groups, strict=True)))
        by_group = [{name: part.reward for name, part in kind.items()} for kind in told]
        distances = {
            name: part.infos[info].values
            for name, part in told[0].items()
            for info in ("goal_distance", "food_distance")
            if info in part.infos
        }
        return by_group[0], by_group[1], distances

    mpe2, original, distance = rewards("simple_adversary")
    assert_allclose(original["adversaries"], -(distance["adversaries"] ** 2))
    assert_array_equal(original["agents"], mpe2["agents"])
    mpe2, original, distance = rewards("simple_reference")
    shared = -(distance["agents"].reshape(6, 2) ** 2).sum(axis=1)
    assert_allclose(original["agents"], shared.repeat(2))
    mpe2, original, distance = rewards("simple_speaker_listener")
    assert_array_equal(original["speaker"], 2 * mpe2["speaker"])
    assert_allclose(original["listener"], -2 * distance["listener"] ** 2)
    mpe2, original, distance = rewards("simple_world_comm")
    assert_allclose(original["agents"] - mpe2["agents"], 0.1 * distance["agents"])
    assert_array_equal(original["leader"], mpe2["leader"])


def test_success_terminates_a_chase_only_if_asked_for() -> None:
    for asked in (0, 1):
        sim = make("particle/simple_tag", 2, terminate_on_success=asked)
        sim.reset(np.arange(2), [1, 2], {})
        prey = sim._scenario.bodies.parts["agents"].start
        sim._worlds.positions[0, :, 0] = sim._worlds.positions[prey, :, 0] + 0.05
        batch = sim.step(np.arange(2), [np.zeros(6, np.int64), np.zeros(2, np.int64)])
        assert_array_equal(batch.groups[1].terminated, [bool(asked), False])
        assert not batch.groups[1].truncated.any()
