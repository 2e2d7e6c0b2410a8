"""Simulators of a real dm_env_rpc server and of a real OpenEnv server, through ``farsim serve``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from farsim.errors import SimulatorFault, UnknownSimulator
from simserver import catalogue
from simserver.adapters import json_fields
from simserver.simulator import BatchSimulator
from tests.neighbours import dm_catch, openenv_thermostat
from tests.servers import ROOT, serving


@dataclass
class Neighbours:
    catch: str
    thermostat: str


@pytest.fixture(scope="module")
def at() -> Iterator[Neighbours]:
    with dm_catch() as catch, openenv_thermostat() as thermostat:
        yield Neighbours(f"dmenv://{catch}", f"openenv+http://{thermostat}")


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Any:
    def make(name: str, count: int = 2, **options: Any) -> BatchSimulator:
        entry = catalogue.load([name], options)[name]
        simulator = entry.make(count, {each.name: each.default for each in entry.parameters})
        request.addfinalizer(simulator.close)
        return simulator

    return make


def every(count: int) -> Any:
    return np.arange(count)


# -- dm_env_rpc ---------------------------------------------------------------------------


def test_spaces_come_from_tensor_specs(at, make):
    (group,) = make(at.catch).groups
    assert group.action_space == Discrete(3, start=-1)
    board = Box(-np.inf, np.inf, (5, 3), np.float32)
    # Reward, discount, a text and what has no fixed length are no observations.
    members = {"board": board, "column": Discrete(3), "wind": Discrete(2)}
    assert group.observation_space == Dict(members)


def test_rewards_discounts_and_ends_of_dm_env_rpc(at, make):
    simulator = make(at.catch)
    board = simulator.reset(every(2), [1, 2], {}).groups[0].observation["board"]
    balls = board[:, 0].argmax(1)
    for _ in range(3):
        batch = simulator.step(every(2), [np.array([balls[0] - 1, 0])])
        assert not batch.groups[0].terminated.any()
    (part,) = simulator.step(every(2), [np.zeros(2, np.int64)]).groups
    clipped = np.clip(1 + 3 * (balls[0] - 1), 0, 2)
    assert part.reward[0] == (1 if clipped == balls[0] else -1)
    assert part.terminated.tolist() == [True, True]
    assert part.infos["discount"].values.tolist() == [0, 0]
    assert part.infos["comment"].values == ["down", "down"]


def test_a_discount_above_zero_at_the_end_is_truncation(at, make):
    simulator = make(at.catch, create="limit=2")
    simulator.reset(every(2), None, {})
    simulator.step(every(2), [np.zeros(2, np.int64)])
    (part,) = simulator.step(every(2), [np.zeros(2, np.int64)]).groups
    assert part.truncated.all()
    assert not part.terminated.any()


@pytest.mark.parametrize("seeding", ["auto", "create_world"])
def test_seeds_repeat_episodes(at, make, seeding):
    def balls(simulator: BatchSimulator, seeds: list[int] | None) -> list[list[int]]:
        batch = simulator.reset(every(2), seeds, {})
        return batch.groups[0].observation["board"][:, 0].argmax(1).tolist()

    simulator = make(at.catch, seeding=seeding)
    play = [balls(simulator, [3, 4]), *(balls(simulator, None) for _ in range(8))]
    assert play == [balls(simulator, [3, 4]), *(balls(simulator, None) for _ in range(8))]
    first, second = zip(*play, strict=True)
    assert first != second


def test_an_action_that_the_server_refuses_fails_its_environment_alone(at, make):
    simulator = make(at.catch, ranges="paddle=-2:2")
    simulator.reset(every(2), None, {})
    batch = simulator.step(every(2), [np.array([2, 0])])
    assert list(batch.faults) == [0]
    assert "does not move by 2" in str(batch.faults[0])
    assert batch.groups[0].truncated.tolist() == [True, False]
    simulator.reset(np.array([0]), None, {})
    assert not simulator.step(every(2), [np.zeros(2, np.int64)]).faults


def test_settings_that_the_server_refuses(at, make):
    with pytest.raises(Exception, match="no setting level"):
        make(at.catch, create="level=hard")


def test_a_server_that_is_not_there(make):
    with pytest.raises(SimulatorFault, match="UNAVAILABLE"):
        make("dmenv://127.0.0.1:1")
    with pytest.raises(SimulatorFault, match="schema"):
        make("openenv+http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["dmenv://", "dmenv://host", "ftp://host:1", "openenv+http://"])
def test_addresses_that_are_none(url):
    with pytest.raises(UnknownSimulator):
        catalogue.load([url], {})


# -- OpenEnv ------------------------------------------------------------------------------


def test_spaces_come_from_json_schemas(at, make):
    (group,) = make(at.thermostat).groups
    assert group.action_space == Dict({"level": Discrete(3), "window": Discrete(2)})
    number = Box(-np.inf, np.inf, (), np.float32)
    pair = Box(-np.inf, np.inf, (2,), np.float32)
    members = {"temperature": number, "outside": pair, "season": Discrete(2)}
    assert group.observation_space == Dict(members)


def test_an_episode_of_openenv(at, make):
    simulator = make(at.thermostat, ranges="temperature=-100:100")
    assert simulator.groups[0].observation_space["temperature"].low == -100
    before = simulator.reset(every(2), [5, 5], {}).groups[0]
    temperature = before.observation["temperature"]
    assert temperature[0] == temperature[1]
    closed = {"level": np.array([2, 0]), "window": np.array([1, 1])}
    (part,) = simulator.step(every(2), [closed]).groups
    assert part.observation["temperature"] == pytest.approx(np.add(temperature, [4, -2]))
    assert part.reward == pytest.approx(-abs(part.observation["temperature"] - 20) / 10, abs=1e-5)
    assert part.infos["comment"].values[1] == "cold"
    for _ in range(10):
        (part,) = simulator.step(every(2), [closed]).groups
        assert not (part.terminated | part.truncated).any()
    (part,) = simulator.step(every(2), [closed]).groups
    assert part.truncated.all()
    assert not part.terminated.any()


def test_a_world_that_freezes_is_terminated(at, make):
    simulator = make(at.thermostat, 1)
    simulator.reset(every(1), [1], {})
    ended = []
    while not ended:
        wide_open = {"level": np.array([0]), "window": np.array([0])}
        (part,) = simulator.step(every(1), [wide_open]).groups
        ended = np.flatnonzero(part.terminated | part.truncated).tolist()
    assert part.terminated.all()


def test_numbers_without_bounds_are_no_actions_until_they_have_some():
    schema = {"properties": {"id": {"type": "integer"}}, "required": ["id"]}
    with pytest.raises(Exception, match="ranges=id=LOW:HIGH"):
        json_fields.action(schema, {})
    field = json_fields.action(schema, {"id": (0, 6)})
    assert field.space == Discrete(7)
    assert field.write(np.int64(3)) == {"id": 3}


# -- both ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_keep_the_contract(at):
    with serving(at.catch, at.thermostat) as server:
        command = [sys.executable, "-m", "farsim", "check", server.address, "--envs", "2"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stdout
