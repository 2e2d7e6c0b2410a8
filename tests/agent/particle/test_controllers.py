"""Scripted controllers, playing on a real server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.policy import LineUp, RandomGroup, ScriptedGroup
from agent.evaluation.multi_agent.summary import TeamSummary
from agent.evaluation.seeds import evaluation_seeds
from agent.particle.controllers import Controller, GoToLandmarks, scripted
from agent.particle.sight import sights
from agent.particle.steering import Actuator
from agent.training.interface import Interface, Simulators, look_at
from farsim.errors import Unsupported
from tests.servers import Serving, serving

SPREAD, TAG = "particle/simple_spread", "particle/simple_tag"
SCENARIOS = ("simple", "simple_adversary", "simple_crypto", "simple_push", "simple_reference")
SCENARIOS += ("simple_speaker_listener", "simple_tag", "simple_world_comm")


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(SPREAD, *(f"particle/{name}" for name in SCENARIOS)) as server:
        yield server


def there(server: Serving, simulator: str, **options) -> tuple[Simulators, Interface]:
    simulators = Simulators([server.address], simulator, options)
    return simulators, look_at(simulators)


def controllers_of(interface: Interface) -> dict[str, tuple[Controller, ...]]:
    return scripted(interface.simulator, interface.session_options, interface.groups)


def play(simulators: Simulators, line_ups: Sequence[LineUp], episodes: int) -> list[TeamSummary]:
    results = TeamArena(simulators).play(line_ups, evaluation_seeds(7, episodes))
    return [TeamSummary.of(up.name, found) for up, found in zip(line_ups, results, strict=True)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("continuous", {"best assignment": (-18.3, 0.5), "nearest landmark": (-51.5, 1.3)}),
        ("discrete", {"best assignment": (-23.1, 0.5), "nearest landmark": (-51.8, 1.2)}),
    ],
)
def test_spread_is_what_was_measured_for_such_controllers(server, mode, expected):
    """``reference/particle/SPEC.md`` section 4; its figures have standard errors of their own."""
    simulators, interface = there(server, SPREAD, action_mode=mode)
    line_ups = [
        LineUp(name, [ScriptedGroup(controller) for controller in controllers])
        for name, controllers in controllers_of(interface).items()
    ]
    assert {line_up.name for line_up in line_ups} == {*expected}
    for summary in play(simulators, line_ups, 400):
        mean, error = expected[summary.name]
        found = summary.total_return
        assert abs(found.mean - mean) < 3 * np.hypot(found.error, error)
        assert found.error < 2


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_side_does_far_better_than_chance(server, scenario, mode):
    simulators, interface = there(server, f"particle/{scenario}", action_mode=mode)
    (controllers,) = controllers_of(interface).values()
    # Those that can do nothing without each other.
    parties = [("bob", "alice"), ("speaker", "listener")]
    names = [group.name for group in interface.groups]
    sides = [party for party in parties if {*party} <= {*names}]
    sides += [(name,) for name in names if not any(name in party for party in sides)]
    line_ups = [
        LineUp(
            "+".join(side),
            [
                ScriptedGroup(controller) if group.name in side else RandomGroup(group, 0, number)
                for number, (group, controller) in enumerate(
                    zip(interface.groups, controllers, strict=True)
                )
            ],
        )
        for side in [(), *sides]
    ]
    chance, *summaries = play(simulators, line_ups, 100)
    for side, summary in zip(sides, summaries, strict=True):
        for name in side:
            mine, theirs = summary.groups[name].each, chance.groups[name].each
            assert mine.mean - theirs.mean > 5 * np.hypot(mine.error, theirs.error), name


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize("scenario", ["simple_reference", "simple_speaker_listener"])
def test_those_who_are_told_where_to_go_get_there(server, scenario, mode):
    simulators, interface = there(server, f"particle/{scenario}", action_mode=mode)
    (controllers,) = controllers_of(interface).values()
    line_up = LineUp("scripted", [ScriptedGroup(controller) for controller in controllers])
    (episodes,) = TeamArena(simulators).play([line_up], evaluation_seeds(1, 60))
    group = episodes.groups["agents" if scenario == "simple_reference" else "listener"]
    assert (group.infos["goal_distance"].last < 0.2).mean() > 0.95


@pytest.mark.parametrize("agents", [2, 3, 5])
def test_the_assignment_is_the_best_of_all(server, agents):
    _, interface = there(server, SPREAD, N=agents)
    (sight,) = sights(SPREAD, interface.session_options, interface.groups)
    controller = GoToLandmarks(sight, 5.0, together=True)
    distances = np.random.default_rng(0).random((20 * agents, agents))
    picked = controller._pick(distances).reshape(20, agents)
    for world, found in zip(distances.reshape(20, agents, agents), picked, strict=True):
        rows = np.arange(agents)
        best = min(
            world[rows, list(order)].sum() for order in itertools.permutations(range(agents))
        )
        assert world[rows, found].sum() == pytest.approx(best)
        assert sorted(found) == list(range(agents))


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("simple_spread", {"N": 5}),
        ("simple_adversary", {"N": 4}),
        ("simple_tag", {"num_good": 2, "num_adversaries": 4, "num_obstacles": 0}),
        ("simple_world_comm", {"num_good": 3, "num_adversaries": 2, "num_forests": 1}),
        ("simple_world_comm", {"num_good": 1, "num_adversaries": 1, "num_food": 3}),
    ],
)
def test_other_numbers_of_bodies_are_seen_for_what_they_are(server, scenario, options):
    simulators, interface = there(server, f"particle/{scenario}", **options)
    for controllers in controllers_of(interface).values():
        line_up = LineUp("", [ScriptedGroup(controller) for controller in controllers])
        (summary,) = play(simulators, [line_up], 4)
        assert np.isfinite(summary.total_return.mean)


def test_what_is_no_scenario_has_no_controllers(server):
    _, interface = there(server, TAG)
    assert scripted("adder", {}, ()) == {}
    with pytest.raises(Unsupported, match="none of the nine"):
        sights("particle/simple_ball", {}, interface.groups)
    wrong = replace(interface.groups[0], observation_space=Box(-1, 1, (7,)))
    with pytest.raises(Unsupported, match="expects 16 numbers"):
        sights(TAG, interface.session_options, (wrong, interface.groups[1]))


def test_actions_say_and_push_what_was_wanted():
    thrust = np.array([[0.9, -0.2], [-0.1, 0.1], [-0.3, -7.0]])
    symbol = np.array([0, 9, 4])
    discrete = Actuator(Discrete(50), moves=True)
    actions = discrete.actions(thrust, symbol)
    assert actions.tolist() == [2, 45, 23]
    assert discrete.thrust(actions).tolist() == [[1, 0], [0, 0], [0, -1]]
    continuous = Actuator(Box(0, 1, (15,)), moves=True)
    actions = continuous.actions(thrust, symbol)
    assert actions in Box(0, 1, (3, 15))
    np.testing.assert_allclose(continuous.thrust(actions), np.clip(thrust, -1, 1), atol=1e-7)
    assert actions[:, 5:].argmax(axis=1).tolist() == symbol.tolist()
    assert (actions[:, 5:].sum(axis=1) == 1).all()
    assert Actuator(Discrete(5), moves=True).actions(thrust, symbol).tolist() == [2, 0, 3]
    assert Actuator(Discrete(10), moves=False).actions(thrust, symbol).tolist() == [0, 9, 4]
    with pytest.raises(Unsupported):
        Actuator(MultiBinary(3), moves=True)
