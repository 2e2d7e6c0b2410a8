"""One remote environment as PettingZoo has them, judged by PettingZoo's own tests."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
from mpe2 import simple_tag_v3
from pettingzoo.test import parallel_api_test, parallel_seed_test

from agent.remote_parallel_env import RemoteParallelEnv
from farsim.channel import ConnectionOptions
from farsim.errors import EpisodeOver, InvalidAction, InvalidOption, ProtocolError, Unsupported
from tests.servers import Serving, serving
from tests.simulators.teams import FAIL_ALONE

TEAMS = "tests.simulators.teams:Teams"
CROWD = "tests.simulators.agents:Crowd"
AUCTION = "tests.simulators.agents:Auction"
TAG = "particle/simple_tag"
MPE2_TAG = "pettingzoo/mpe2.simple_tag_v3"
PARTICLE = (TAG, "particle/simple_spread", "particle/simple_world_comm", "particle/simple_crypto")

IMPATIENT = ConnectionOptions(
    resume_seconds=0.3, failover_seconds=0.3, recovery_seconds=1.5, heartbeat_seconds=0.2
)


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(*PARTICLE, MPE2_TAG, TEAMS, CROWD, AUCTION) as server:
        yield server


@pytest.mark.parametrize("simulator", [*PARTICLE, MPE2_TAG, TEAMS])
def test_passes_pettingzoos_own_test(server: Serving, simulator: str) -> None:
    with RemoteParallelEnv(server.address, simulator) as env:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parallel_api_test(env, num_cycles=100)
        # It gives an option that nobody has, and agents of a team need not all come to be.
        unknown = [w for w in caught if "'options' is no parameter" in str(w.message)]
        assert [w.category for w in unknown] == [UserWarning]
        others = {str(w.message) for w in caught} - {str(w.message) for w in unknown}
        assert not others or (simulator == TEAMS and len(others) == 1), others


@pytest.mark.parametrize("simulator", [TAG, MPE2_TAG, TEAMS])
def test_passes_pettingzoos_own_seed_test(server: Serving, simulator: str) -> None:
    parallel_seed_test(lambda: RemoteParallelEnv(server.address, simulator), num_cycles=30)


@pytest.mark.parametrize("simulator", [TAG, MPE2_TAG])
def test_is_the_same_as_in_process(server: Serving, simulator: str) -> None:
    local = simple_tag_v3.parallel_env(max_cycles=6)
    remote = RemoteParallelEnv(server.address, simulator, {"max_cycles": 6})
    rng = np.random.default_rng(8)
    assert set(remote.possible_agents) == set(local.possible_agents)
    for agent in remote.possible_agents:
        assert remote.action_space(agent) == local.action_space(agent)
        assert remote.observation_space(agent) == local.observation_space(agent)
    for seed in (5, None):
        here, there = remote.reset(seed)[0], local.reset(seed)[0]
        for number in range(6):
            assert here.keys() == there.keys()
            for agent, observation in here.items():
                assert observation.dtype == there[agent].dtype
                np.testing.assert_array_equal(observation, there[agent])
            actions = {agent: rng.integers(5) for agent in local.agents}
            here, *rest, _ = remote.step(actions)
            there, *expected, _ = local.step(actions)
            assert rest == expected
            assert list(rest[2].values()) == [number == 5] * 4
            assert set(remote.agents) == set(local.agents)
        with pytest.raises(EpisodeOver):
            remote.step({})
    remote.close()


def test_agents_leave_and_join(server: Serving) -> None:
    with RemoteParallelEnv(server.address, TEAMS, {"masks": 1}, render_mode="rgb_array") as env:
        assert env.agents == []
        assert env.possible_agents == ["red_0", "red_1", "red_2", "blue_0", "blue_1"]
        assert (env.num_agents, env.max_num_agents) == (0, 5)
        observations, infos = env.reset(seed=3, options={"length": 3})
        assert env.agents == list(observations) == list(infos) == ["red_0", "red_1", "blue_0"]
        assert infos["blue_0"]["episode_options"] == {"length": 3}
        seen = []
        for number in range(1, 4):
            actions = dict.fromkeys(env.agents, number)
            observations, rewards, terminations, truncations, infos = env.step(actions)
            assert {agent: value[3] for agent, value in observations.items()} == dict.fromkeys(
                rewards, number
            )
            assert rewards == {agent: float(actions.get(agent, 0)) for agent in rewards}
            assert not any(truncations.values())
            assert all(info["step"] == number for info in infos.values())
            assert infos["red_0"]["action_mask"].tolist() == [int(n != number) for n in range(10)]
            seen.append(
                (set(observations), {agent for agent, ends in terminations.items() if ends})
            )
            assert set(env.agents) == seen[-1][0] - seen[-1][1]
            frame = env.render()
            assert frame is not None and frame.max() == number
        assert seen == [
            ({"red_0", "red_1", "red_2", "blue_0"}, set()),
            ({"red_0", "red_1", "red_2", "blue_0", "blue_1"}, {"red_1"}),
            ({"red_0", "red_2", "blue_0", "blue_1"}, {"red_0", "red_2", "blue_0", "blue_1"}),
        ]
        assert env.agents == []


def test_infos_are_nested_again(server: Serving) -> None:
    with RemoteParallelEnv(server.address, CROWD, {"name": "c"}) as env:
        _, infos = env.reset()
        assert infos["fox_0"]["nested"] == {"step": 0}
        assert infos["fox_0"]["name"] == "c"
        assert "name" not in infos["scout"]
        assert env.metadata["name"] == CROWD
        assert str(env) == CROWD


@pytest.mark.parametrize("simulator", [AUCTION, TEAMS])
def test_agents_that_take_turns_are_refused(server: Serving, simulator: str) -> None:
    options = {"turns": 1} if simulator == TEAMS else {}
    with (
        RemoteParallelEnv(server.address, simulator, options) as env,
        pytest.raises(Unsupported, match=r"take turns .* use RemoteMultiAgentVectorEnv"),
    ):
        env.reset()


def test_a_fault_ends_the_episode(server: Serving) -> None:
    with RemoteParallelEnv(server.address, TEAMS) as env:
        env.reset(seed=1)
        before, *_ = env.step(dict.fromkeys(env.agents, 1))
        agents = list(env.agents)
        actions = {**dict.fromkeys(agents, 1), "blue_0": FAIL_ALONE}
        observations, rewards, terminations, truncations, infos = env.step(actions)
        assert list(observations) == agents
        for agent in agents:
            np.testing.assert_array_equal(observations[agent], before[agent])
            assert (rewards[agent], terminations[agent], truncations[agent]) == (0.0, False, True)
            assert "0 broke" in infos[agent]["fault"]
        with pytest.raises(EpisodeOver):
            env.step({})
        _, infos = env.reset()
        assert not any("fault" in info for info in infos.values())
        assert len(env.agents) == 3


def test_a_lost_server_ends_the_episode() -> None:
    with (
        serving(TEAMS) as one,
        serving(TEAMS) as two,
        RemoteParallelEnv([one.address, two.address], TEAMS, connection=IMPATIENT) as env,
    ):
        env.reset(seed=1, options={"length": 9})
        one.kill()
        _, _, _, truncations, infos = env.step(dict.fromkeys(env.agents, 1))
        assert truncations == dict.fromkeys(["red_0", "red_1", "blue_0"], True)
        assert one.address in infos["red_0"]["fault"]
        observations, infos = env.reset()
        assert infos["red_0"]["episode_options"] == {"length": 9}
        assert observations["red_0"][1] not in (0, 1)  # Another seed than any before.
        env.step(dict.fromkeys(env.agents, 1))


def test_bad_calls(server: Serving) -> None:
    env = RemoteParallelEnv(server.address, TEAMS)
    with pytest.raises(ProtocolError, match=r"reset\(\) comes before"):
        env.step({})
    with pytest.raises(InvalidOption, match="a reset takes: length"):
        env.reset(options={"turns": 1})
    with pytest.warns(UserWarning, match=r"'speed' is no parameter .* a reset takes: length"):
        env.reset(options={"speed": 1})
    fine = dict.fromkeys(env.agents, 0)
    wrong = [
        ({"red_0": 0, "blue_0": 0}, r"\['red_1'\] are missing"),
        ({**fine, "red_2": 0}, r"\['red_2'\] are not among them"),
        ({**fine, "blue_0": 10}, "'blue_0' in environment 0: 10 is not from"),
        ({**fine, "red_1": 0.5}, "red_0, red_1"),
    ]
    for actions, message in wrong:
        with pytest.raises(InvalidAction, match=message):
            env.step(actions)
    env.step(fine)
    with pytest.raises(Unsupported, match="no view of all of its state"):
        env.state()
    assert env.render() is None
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="can not be pickled or copied"):
            way(env)
    env.close()
    env.close()
    assert env.agents == []
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.reset()
