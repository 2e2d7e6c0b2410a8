"""Messages of other episodes: who hears what, and what it does to those who need them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.messages import (
    Misheard,
    understanding,
    with_shuffled_messages,
)
from agent.evaluation.multi_agent.policy import LineUp, ScriptedGroup
from agent.evaluation.seeds import evaluation_seeds
from agent.group_step import GroupStep
from agent.particle.controllers import scripted
from agent.particle.sight import MESSAGE, sights
from agent.training.interface import Interface, Simulators, look_at
from farsim.errors import InvalidArgument, Unsupported
from tests.servers import Serving, serving

REFERENCE, LISTENER = "particle/simple_reference", "particle/simple_speaker_listener"
CRYPTO, SPREAD = "particle/simple_crypto", "particle/simple_spread"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(REFERENCE, LISTENER, CRYPTO, SPREAD) as server:
        yield server


class Listening:
    """Acts as another does, and keeps what that was given."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.heard: list[np.ndarray] = []

    def begin(self, num_envs: int) -> None:
        self.policy.begin(num_envs)

    def act(self, step: GroupStep) -> Any:
        self.heard.append(np.array(step.observation))
        return self.policy.act(step)


def line_up_of(interface: Interface) -> LineUp:
    (found,) = scripted(interface.simulator, interface.session_options, interface.groups).values()
    return LineUp("scripted", [Listening(ScriptedGroup(controller)) for controller in found])


def deaf(line_up: LineUp, interface: Interface, seed: int = 0) -> LineUp:
    return with_shuffled_messages(
        line_up, interface.simulator, interface.session_options, interface.groups, seed
    )


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
@pytest.mark.parametrize("simulator", [REFERENCE, LISTENER])
def test_each_hears_one_other_episode_and_sees_its_own(server, simulator, mode):
    simulators = Simulators([server.address], simulator, {"action_mode": mode})
    interface = look_at(simulators)
    number = len(interface.groups) - 1
    agents = len(interface.groups[number].agents)
    columns = sights(simulator, interface.session_options, interface.groups)[number].columns
    line_up = line_up_of(interface)
    misheard = deaf(line_up, interface)
    said: list[np.ndarray] = []

    class Truth:
        def begun(self, env, step) -> None:
            said.append(np.array(step.groups[number].observation))

        def stepped(self, transition) -> None:
            said.append(np.array(transition.after.groups[number].observation))

    TeamArena(simulators).play([misheard], evaluation_seeds(0, 12), observers=lambda _: [Truth()])
    heard = np.stack(line_up.policies[number].heard).reshape(25, 12, agents, -1)
    truth = np.stack(said[:25]).reshape(heard.shape)
    others = np.ones(heard.shape[-1], bool)
    others[columns[MESSAGE]] = False
    np.testing.assert_array_equal(heard[..., others], truth[..., others])
    source = misheard.policies[number]._source
    assert sorted(source) == list(range(12))
    assert (source != np.arange(12)).all()
    messages = truth[..., columns[MESSAGE]]
    assert messages[1:].any(axis=-1).all()
    np.testing.assert_array_equal(heard[..., columns[MESSAGE]], messages[:, source])
    assert (heard[..., columns[MESSAGE]] != messages).any()


@pytest.mark.parametrize("envs", [2, 3, 50])
def test_nobody_keeps_its_own_message_and_nobody_is_heard_twice(envs):
    group: Any = SimpleNamespace(agents=("a", "b"))
    for seed in range(20):
        misheard = Misheard(
            SimpleNamespace(begin=lambda num_envs: None, act=None), group, slice(1, 2), seed
        )
        misheard.begin(envs)
        observation = np.arange(envs * 2 * 3.0).reshape(envs * 2, 3)
        kept = observation.copy()
        found = misheard.shuffled(observation)
        np.testing.assert_array_equal(observation, kept)
        np.testing.assert_array_equal(found[:, [0, 2]], observation[:, [0, 2]])
        assert sorted(found[:, 1]) == sorted(observation[:, 1])
        assert (found[:, 1] != observation[:, 1]).all()


@pytest.mark.parametrize(
    ("simulator", "group"), [(REFERENCE, "agents"), (LISTENER, "listener"), (CRYPTO, "bob")]
)
def test_those_who_depend_on_messages_fail_without_them(server, simulator, group):
    simulators = Simulators([server.address], simulator)
    interface = look_at(simulators)
    line_up = line_up_of(interface)
    intact, shuffled = TeamArena(simulators).play(
        [line_up, deaf(line_up, interface)], evaluation_seeds(0, 300)
    )
    found = {one.group: one for one in understanding("scripted", False, intact, 0.2)}
    after = {one.group: one for one in understanding("scripted", True, shuffled, 0.2)}
    assert found[group].success.mean > 0.97
    # One of three landmarks or of two secrets is right all the same; a few are very near.
    chance = 1 / 2 if simulator == CRYPTO else 1 / 3
    assert abs(after[group].success.mean - chance) < 4 * after[group].success.error + 0.05
    if simulator != CRYPTO:
        distances = intact.groups[group].infos["goal_distance"].last
        near = (distances < 0.2).mean(axis=1)
        assert found[group].success.mean == pytest.approx(near.mean())
        assert found[group].success.error == pytest.approx(near.std(ddof=1) / np.sqrt(300))
        assert found[group].distance.mean == pytest.approx(distances.mean())
        assert after[group].distance.mean > found[group].distance.mean + 0.3


def test_where_nobody_talks_or_nobody_else_is_there_messages_are_not_shuffled(server):
    interface = look_at(Simulators([server.address], SPREAD))
    line_up = LineUp(
        "",
        [
            ScriptedGroup(
                scripted(SPREAD, interface.session_options, interface.groups)["best assignment"][0]
            )
        ],
    )
    with pytest.raises(Unsupported, match="nobody hears"):
        deaf(line_up, interface)
    simulators = Simulators([server.address], LISTENER)
    interface = look_at(simulators)
    with pytest.raises(InvalidArgument, match="two at least"):
        TeamArena(simulators).play([deaf(line_up_of(interface), interface)], evaluation_seeds(0, 1))
