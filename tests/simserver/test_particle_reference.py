"""Recordings of mpe2's particle environments, replayed to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from simserver.simulator import Batch, BoolArray, IntArray
from tests.simserver.particle_play import make
from tests.simserver.particle_traces import Trace, assert_recorded_values, folder, trace_paths

TRACES = trace_paths()


@pytest.fixture(params=TRACES, ids=[path.stem for path in TRACES])
def trace(request: pytest.FixtureRequest) -> Trace:
    path: Path = request.param
    return Trace.load(path)


class Replay:
    """Steps seeds of a trace, each in an environment of its own, and compares everything.

    Environment and seed may be any pairs: ``seed_of`` is the seed's number in each environment.
    """

    def __init__(self, trace: Trace, num_envs: int) -> None:
        self.trace = trace
        self.sim = make(trace.scenario, num_envs, **trace.options())
        self.seed_of = np.zeros(num_envs, np.int64)
        self.episode = np.zeros(num_envs, np.int64)
        self.steps = np.zeros(num_envs, np.int64)
        assert [name for group in self.sim.groups for name in group.agents] == trace.agents

    def seed(self, envs: IntArray, numbers: IntArray) -> None:
        """Starts the first episode of seeds, given by their numbers."""
        self.seed_of[envs], self.episode[envs], self.steps[envs] = numbers, 0, 0
        seeds = [self.trace.seeds[number] for number in numbers.tolist()]
        self._check_start(self.sim.reset(envs, seeds, {}), envs)

    def go_on(self, envs: IntArray) -> None:
        """Starts the next episode of the same streams."""
        self.episode[envs] += 1
        self.steps[envs] = 0
        self._check_start(self.sim.reset(envs, None, {}), envs)

    def step(self, envs: IntArray) -> BoolArray:
        """Takes the recorded actions; True where the episode ended."""
        arrays = self.trace.arrays
        at = self.seed_of[envs], self.episode[envs], self.steps[envs]
        self.steps[envs] += 1
        actions = [
            self._rows(envs, [arrays[f"actions.{name}"][at] for name in group.agents])
            for group in self.sim.groups
        ]
        batch = self.sim.step(envs, actions)
        for group, part in zip(self.sim.groups, batch.groups, strict=True):
            for key, values in {
                "obs": part.observation,
                "rewards": part.reward,
                "terminations": part.terminated,
                "truncations": part.truncated,
            }.items():
                recorded = [arrays[f"{key}.{name}"][at] for name in group.agents]
                rows = self._rows(envs, recorded)
                assert_recorded_values(self.trace.scenario, key, values, rows)
            assert part.observation.dtype == np.float32
        self._check_state(envs, "state", at)
        self._check_infos(batch, envs, at)
        ended: BoolArray = self.steps[envs] == arrays["lengths"][at[:2]]
        over = batch.groups[0].terminated | batch.groups[0].truncated
        assert_array_equal(over.reshape(len(envs), -1).all(axis=1), ended)
        return ended

    @staticmethod
    def _rows(envs: IntArray, by_agent: list[np.ndarray]) -> np.ndarray:
        values = np.stack(by_agent, axis=1)
        return values.reshape(len(envs) * len(by_agent), *values.shape[2:])

    def _check_start(self, batch: Batch, envs: IntArray) -> None:
        at = self.seed_of[envs], self.episode[envs]
        assert_array_equal(batch.started, envs)
        for group, part in zip(self.sim.groups, batch.groups, strict=True):
            recorded = [self.trace.arrays[f"obs0.{name}"][at] for name in group.agents]
            assert_array_equal(part.observation, self._rows(envs, recorded))
            assert part.reward is None
        self._check_state(envs, "init", at)
        worlds = self.sim._worlds.select(envs)
        landmarks = worlds.positions[worlds.bodies.num_agents :].transpose(2, 0, 1)
        assert_array_equal(landmarks, self.trace.arrays["init.landmark_pos"][at])
        goals = [name for name in ("goal", "key", *GOALS) if f"init.{name}" in self.trace.arrays]
        for name in goals:
            recorded = self.trace.arrays[f"init.{name}"][at]
            assert_array_equal(worlds.choice(GOALS.get(name, name)), recorded)

    def _check_state(self, envs: IntArray, key: str, at: tuple[IntArray, ...]) -> None:
        """float64 state, bit by bit."""
        worlds = self.sim._worlds.select(envs)
        agents = slice(0, worlds.bodies.num_agents)
        recorded = self.trace.arrays
        for name, values in {
            "agent_pos": worlds.positions[agents],
            "agent_vel": worlds.velocities[agents],
        }.items():
            assert_array_equal(values.transpose(2, 0, 1), recorded[f"{key}.{name}"][at], name)
        messages = recorded[f"{key}.agent_comm"][at]
        if worlds.bodies.vocabulary:
            assert_array_equal(worlds.messages.transpose(2, 0, 1), messages)
        else:
            assert not messages.any()

    def _check_infos(self, batch: Batch, envs: IntArray, at: tuple[IntArray, ...]) -> None:
        """Infos that the reference has as benchmark data."""
        for group, part in zip(self.sim.groups, batch.groups, strict=True):
            names = [f"benchmark.{name}" for name in group.agents]
            if names[0] not in self.trace.arrays:
                continue
            data = self._rows(envs, [self.trace.arrays[name][at] for name in names])
            infos = {name: info.values for name, info in part.infos.items()}
            scenario = self.trace.scenario.removeprefix("particle/simple_")
            if scenario == "spread":
                assert_array_equal(infos["collisions"], data[:, 1])
                assert_array_equal(infos["landmark_distance"], data[:, 2])
                assert_array_equal(infos["occupied_landmarks"], data[:, 3])
            elif scenario == "adversary":
                assert_allclose(infos["goal_distance"], np.sqrt(data[:, -1]), rtol=1e-15)
            elif scenario in ("tag", "world_comm") and group.name != "agents":
                assert_array_equal(infos["collisions"], data[:, 0])
            elif scenario == "crypto" and group.name != "alice":
                said, secret = data[:, :4], data[:, 4:]
                correct = said.any(axis=1) & (said.argmax(axis=1) == secret.argmax(axis=1))
                assert_array_equal(infos["correct"], correct)


#: What the recordings call the choices of simple_reference.
GOALS = {"goal_b_agent_0": "goal_of_1", "goal_b_agent_1": "goal_of_0"}


def episodes(trace: Trace) -> Iterator[tuple[int, int]]:
    for seed in range(len(trace.seeds)):
        for episode in range(trace.num_episodes):
            yield seed, episode


def test_reference_particle_recordings_are_there() -> None:
    assert TRACES, f"no recordings in {folder()}; FARSIM_REFERENCE names the folder above it"


def test_reference_particle_bodies_are_those_recorded(trace: Trace) -> None:
    bodies = make(trace.scenario, 1, **trace.options())._scenario.bodies
    agents, landmarks = trace.arrays["agent_props"], trace.arrays["landmark_props"]
    both = np.concatenate([agents[:, :5], landmarks[:, :5]])
    assert_array_equal(bodies.size, both[:, 0])
    assert_array_equal(bodies.moves, both[:, 1])
    assert_array_equal(bodies.collides, both[:, 2])
    assert_array_equal(bodies.max_speed, np.nan_to_num(both[:, 4], nan=np.inf))
    assert (both[:, 3] == 1).all(), "all bodies have mass 1"
    teams = [team for team in bodies.teams for _ in team.agents]
    acceleration = np.nan_to_num(agents[:, 5], nan=5.0)
    assert_array_equal([team.acceleration for team in teams], acceleration)
    assert_array_equal([not team.speaks for team in teams], agents[:, 6])


def test_reference_particle_worlds_one_after_another(trace: Trace) -> None:
    replay = Replay(trace, 1)
    env = np.arange(1)
    for seed, episode in episodes(trace):
        if episode:
            replay.go_on(env)
        else:
            replay.seed(env, np.array([seed]))
        steps = range(trace.arrays["lengths"][seed, episode])
        ended = [bool(replay.step(env)[0]) for _ in steps]
        assert ended == [False] * (len(ended) - 1) + [True]


def test_reference_particle_worlds_side_by_side(trace: Trace) -> None:
    count = len(trace.seeds)
    replay = Replay(trace, count)
    envs = np.arange(count)
    replay.seed(envs, envs[::-1])
    for episode in range(trace.num_episodes):
        if episode:
            replay.go_on(envs)
        going_on = envs
        while going_on.size:
            going_on = going_on[~replay.step(going_on)]


def test_reference_particle_worlds_in_subsets(trace: Trace) -> None:
    """Worlds are reset and stepped in any combination; none disturbs another."""
    count = 2 * len(trace.seeds)
    random = np.random.default_rng(7)
    replay = Replay(trace, count)
    waiting = np.ones(count, np.bool_)
    next_episode = np.zeros(count, np.int64)
    unplayed = list(random.permutation(np.repeat(np.arange(len(trace.seeds)), 3)))
    while unplayed or not waiting.all() or (next_episode % trace.num_episodes).any():
        some = random.random(count) < random.random()
        fresh = next_episode % trace.num_episodes == 0
        start = (some & waiting & fresh).nonzero()[0][: len(unplayed)]
        if start.size:
            replay.seed(start, np.array([unplayed.pop() for _ in start]))
        again = (some & waiting & ~fresh).nonzero()[0]
        if again.size:
            replay.go_on(again)
        for envs in (start, again):
            waiting[envs] = False
            next_episode[envs] += 1
        step = (some & ~waiting).nonzero()[0]
        if step.size:
            waiting[step] = replay.step(step)
