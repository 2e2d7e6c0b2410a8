"""Remote simulators as a Gymnasium vector environment, next to Gymnasium's own."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agent import REMOTE_ENV_ID
from agent.remote_vector_env import RemoteVectorEnv
from agent.session import Each, Session
from farsim.channel import ConnectionOptions
from farsim.errors import (
    EpisodeOver,
    InvalidAction,
    InvalidArgument,
    ProtocolError,
    ServerUnavailable,
    SimulatorFault,
    SpaceMismatch,
    UnknownOption,
    UnknownSimulator,
    Unsupported,
)
from tests.agent.threads import lasting_threads, new_threads
from tests.proxy import Proxy
from tests.servers import ROOT, Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
SLOW = "tests.simulators.envs:Slow"
MASKED = "tests.simulators.envs:Masked"
RELAY = "tests.simulators.relay:Relay"
FAIL = -0.5

#: Fast enough for tests in which servers go away for good.
IMPATIENT = ConnectionOptions(
    resume_seconds=0.3, failover_seconds=0.3, recovery_seconds=1.5, heartbeat_seconds=0.2
)


def assert_same(here: Any, there: Any) -> None:
    """Equal in structure, dtypes and values."""
    assert type(here) is type(there)
    if isinstance(here, dict):
        assert set(here) == set(there)
        for key in here:
            assert_same(here[key], there[key])
    elif isinstance(here, tuple) or (isinstance(here, np.ndarray) and here.dtype == object):
        assert len(here) == len(there)
        for one, other in zip(here, there, strict=True):
            assert_same(one, other)
    elif isinstance(here, np.ndarray):
        assert here.dtype == there.dtype
        np.testing.assert_array_equal(here, there)
    else:
        assert here == there


@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_cartpole_is_the_same_as_in_process(
    shared_server: Serving, mode: AutoresetMode, num_envs: int
) -> None:
    local = gym.make_vec("CartPole-v1", num_envs, "sync", vector_kwargs={"autoreset_mode": mode})
    remote = gym.make_vec(
        REMOTE_ENV_ID,
        num_envs,
        "vector_entry_point",
        addresses=[shared_server.address] * 3,
        simulator=CARTPOLE,
        autoreset_mode=mode,
    )
    rng = np.random.default_rng(3)
    ended = 0
    try:
        assert remote.metadata["autoreset_mode"] is mode
        assert remote.single_observation_space == local.single_observation_space
        assert remote.observation_space == local.observation_space
        assert remote.single_action_space == local.single_action_space
        assert remote.action_space == local.action_space
        assert_same(remote.reset(seed=7), local.reset(seed=7))
        for number in range(250):
            actions = rng.integers(0, 2, num_envs)
            here, there = remote.step(actions), local.step(actions)
            assert_same(here, there)
            over = here[2] | here[3]
            ended += int(over.sum())
            if mode is AutoresetMode.DISABLED and over.any():
                seed = [100 + number + i for i in range(num_envs)]
                assert_same(
                    remote.reset(seed=seed, options={"reset_mask": over}),
                    local.reset(seed=seed, options={"reset_mask": over.copy()}),
                )
        assert ended > 5
    finally:
        remote.close()
        local.close()


def test_make_vec_by_name_alone(shared_server: Serving) -> None:
    program = (
        "import sys, gymnasium\n"
        "name = 'agent:farsim/Remote-v0'\n"
        "env = gymnasium.make_vec(name, 2, addresses=sys.argv[1], simulator='adder')\n"
        "env.reset(seed=1)\n"
        "assert not {'ray', 'torch', 'simserver'} & set(sys.modules)\n"
        "print(env)\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, shared_server.address]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "RemoteVectorEnv(farsim/Remote-v0, num_envs=2)\n"


def test_environments_are_dealt_in_blocks(shared_server: Serving) -> None:
    with serving("adder") as other:
        addresses = [shared_server.address, other.address]
        env = RemoteVectorEnv(addresses, "adder", num_envs=5)
        assert env.addresses == [shared_server.address] * 3 + [other.address] * 2
        observation, infos = env.reset(seed=3)
        assert env.observation_space.contains(observation)
        in_order = [env.reset(seed=3)[0]["value"].tolist() for _ in range(2)]
        assert in_order[0] == in_order[1] == observation["value"].tolist()
        singles = []
        for row in range(5):
            with Session.open(shared_server.address, "adder") as session:
                singles.append(session.reset(seeds=[3 + row]).groups[0].observation["value"][0])
        assert singles == in_order[0]
        # What the episodes really use: the drawn value.
        used = infos["episode_options"]["initial_value"]
        assert used.tolist() == [[value, value] for value in in_order[0]]
        actions = [{"addend": n} for n in range(5)]
        expected = observation["value"] + np.arange(5)
        observation, reward, *_ = env.step(actions)
        assert observation["value"].tolist() == expected.tolist()
        assert reward.dtype == np.float64
        observation, *_ = env.step({"addend": np.arange(5, dtype=np.int8)})
        assert observation["value"].tolist() == (expected + np.arange(5)).tolist()
        env.close()


def test_per_episode_options_and_partial_resets(shared_server: Serving) -> None:
    env = RemoteVectorEnv([shared_server.address] * 2, "adder", num_envs=3)
    with pytest.raises(ProtocolError, match="the first reset is of all"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ProtocolError, match=r"reset\(\) comes before"):
        env.step({"addend": np.zeros(3, np.int64)})
    starts = Each([[n, n] for n in (1, 2, 3)])
    observation, _ = env.reset(options={"initial_value": starts})
    assert observation["value"].tolist() == [1, 2, 3]
    env.step({"addend": np.array([1, 1, 1])})
    observation, infos = env.reset(
        options={"initial_value": [9, 9], "reset_mask": np.array([False, True, False])}
    )
    assert observation["value"].tolist() == [2, 9, 4]
    assert infos["_episode_options"].tolist() == [False, True, False]
    observation, *_ = env.step({"addend": np.array([0, 1, 0])})
    assert observation["value"].tolist() == [2, 10, 4]
    for _ in range(9):
        env.step({"addend": np.array([0, 0, 0])})
    # Environments 0 and 2 began again one step ago, with the options given last.
    observation, *_ = env.step({"addend": np.array([5, 5, 5])})
    assert observation["value"].tolist() == [6, 9, 8]
    env.close()


def test_masks_and_nested_infos(shared_server: Serving) -> None:
    env = RemoteVectorEnv([shared_server.address] * 2, MASKED, num_envs=3)
    observation, infos = env.reset(options={"target": Each([0, 2, 4])})
    assert observation.tolist() == [0, 2, 4]
    assert infos["action_mask"].dtype == np.int8
    assert infos["action_mask"].argmax(axis=1).tolist() == [0, 2, 4]
    assert infos["nested"]["target"].tolist() == [0, 2, 4]
    assert infos["nested"]["_target"].all() and infos["_nested"].all()
    assert infos["name"].tolist() == ["t0", "t2", "t4"]
    for row in range(3):
        assert env.single_action_space.sample(mask=infos["action_mask"][row]) == 2 * row
    env.close()


def test_masks_in_the_observation(shared_server: Serving) -> None:
    env = RemoteVectorEnv(
        [shared_server.address] * 2,
        MASKED,
        num_envs=2,
        autoreset_mode="SameStep",
        action_mask_in_observation=True,
    )
    observation, _ = env.reset(options={"target": Each([1, 3])})
    assert env.observation_space.contains(observation)
    assert observation["action_mask"].tolist() == np.eye(5)[[1, 3]].tolist()
    observation, *_, infos = env.step(np.array([1, 3]))
    assert observation["observations"].tolist() == [1, 3]
    assert infos["final_obs"][0] in env.single_observation_space
    assert infos["final_obs"][0]["action_mask"].tolist() == [1.0] * 5
    env.close()
    with pytest.raises(Unsupported, match="needs a simulator with action masks"):
        RemoteVectorEnv(shared_server.address, "adder", action_mask_in_observation=True)


def test_render(shared_server: Serving) -> None:
    env = RemoteVectorEnv([shared_server.address] * 2, SLOW, 3, render_mode="rgb_array")
    env.reset()
    env.step(np.zeros(3))
    env.reset(options={"reset_mask": np.array([False, False, True])})
    frames = env.render()
    assert frames is not None
    assert [(frame.shape, frame.dtype) for frame in frames] == [((4, 6, 3), np.uint8)] * 3
    assert [frame.max() for frame in frames] == [1, 1, 0]
    env.close()
    assert RemoteVectorEnv(shared_server.address, "adder").render() is None


def test_bad_calls(shared_server: Serving) -> None:
    address = shared_server.address
    env = RemoteVectorEnv([address] * 2, CARTPOLE, 3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=1)
    before, *_ = env.step(np.array([0, 1, 0]))
    wrong: list[tuple[type[Exception], Any]] = [
        (InvalidAction, lambda: env.step(np.array([0, 1]))),
        (InvalidAction, lambda: env.step(np.array([0, 1, 2]))),
        (InvalidAction, lambda: env.step(np.array([0, -1, 1], np.int32))),
        (InvalidAction, lambda: env.step(np.array([0.0, 1.0, 1.0]))),
        (InvalidAction, lambda: env.step({"a": 1})),
        (InvalidArgument, lambda: env.reset(seed=[1, 2])),
        (InvalidArgument, lambda: env.reset(options={"reset_mask": [True]})),
        (InvalidArgument, lambda: env.reset(options={"reset_mask": np.zeros(3, np.bool_)})),
        (InvalidArgument, lambda: env.reset(options={"reset_mask": np.ones(3)})),
    ]
    for number, (error, call) in enumerate(wrong):
        with pytest.raises(error) as caught:
            call()
        assert type(caught.value) is error, number
    kept, _ = env.reset(options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_array_equal(kept[1:], before[1:])
    for _ in range(200):
        *_, terminated, truncated, _ = env.step(np.array([0, 1, 0]))
        if (terminated | truncated).any():
            break
    with pytest.raises(EpisodeOver):
        env.step(np.array([0, 1, 0]))
    with pytest.raises(UnknownOption):
        env.reset(options={"gravity": 3})
    env.close()
    env.close()
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.step(np.array([0, 1, 0]))
    with pytest.raises(UnknownSimulator):
        RemoteVectorEnv(address, "nobody")
    with pytest.raises(InvalidArgument, match="num_envs"):
        RemoteVectorEnv(address, "adder", 0)
    with pytest.raises(ValueError, match="not a valid AutoresetMode"):
        RemoteVectorEnv(address, "adder", autoreset_mode="Sometimes")


def test_several_agents_are_no_vector_environment() -> None:
    with serving(RELAY) as server, pytest.raises(Unsupported, match="'long'"):
        RemoteVectorEnv(server.address)


def test_servers_must_agree_on_spaces(shared_server: Serving) -> None:
    with serving("tests.simulators.envs:make_vector", CARTPOLE) as other:
        addresses = [shared_server.address, other.address]
        RemoteVectorEnv(addresses, CARTPOLE, 2).close()
    with (
        serving("gymnasium/MountainCar-v0") as one,
        serving("gymnasium/CartPole-v1") as two,
        pytest.raises(SpaceMismatch, match="is not like the others: observation"),
    ):
        RemoteVectorEnv([one.address, two.address], "", 2)


def test_forgetting_an_environment_closes_it(shared_server: Serving) -> None:
    gc.collect()
    before = set(threading.enumerate())
    env = RemoteVectorEnv([shared_server.address] * 2, "adder", 2)
    env.reset()
    assert new_threads(before)
    del env
    gc.collect()
    assert not lasting_threads(before)


# -- faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", AutoresetMode)
def test_an_environment_that_fails_does_not_take_others_with_it(
    shared_server: Serving, mode: AutoresetMode
) -> None:
    env = RemoteVectorEnv([shared_server.address] * 2, SLOW, 4, autoreset_mode=mode)
    env.reset()
    env.step(np.zeros(4))
    observation, reward, terminated, truncated, infos = env.step(np.array([0.0, FAIL, 0.0, 0.0]))
    assert reward.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert terminated.tolist() == [False] * 4
    assert truncated.tolist() == [False, True, False, False]
    assert infos["_fault"].tolist() == [False, True, False, False]
    assert "negative time" in infos["fault"][1]
    if mode is AutoresetMode.SAME_STEP:
        assert observation[:, 0].tolist() == [2, 0, 2, 2]
        assert infos["final_obs"][1].tolist() == [1]
    else:
        assert observation[:, 0].tolist() == [2, 1, 2, 2]
    if mode is AutoresetMode.DISABLED:
        observation, infos = env.reset(options={"reset_mask": truncated})
        assert observation[:, 0].tolist() == [2, 0, 2, 2]
        assert "fault" not in infos
    observation, reward, terminated, truncated, infos = env.step(np.zeros(4))
    begins = mode is AutoresetMode.NEXT_STEP
    assert observation[:, 0].tolist() == [3, 0 if begins else 1, 3, 3]
    assert reward.tolist() == [1.0, 0.0 if begins else 1.0, 1.0, 1.0]
    assert not (terminated | truncated).any()
    assert "fault" not in infos
    env.close()


@pytest.fixture
def pair(shared_server: Serving) -> Iterator[tuple[Serving, Serving]]:
    with serving(SLOW, "adder") as one, serving(SLOW, "adder") as two:
        yield one, two


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_killed_server_is_replaced_by_another(
    pair: tuple[Serving, Serving], mode: AutoresetMode
) -> None:
    one, two = pair
    env = RemoteVectorEnv(
        [one.address, two.address], SLOW, 4, autoreset_mode=mode, connection=IMPATIENT
    )
    env.reset(seed=1)
    env.step(np.zeros(4))
    one.kill()
    observation, reward, terminated, truncated, infos = env.step(np.zeros(4))
    assert truncated.tolist() == [True, True, False, False]
    assert not terminated.any()
    assert reward.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert infos["_fault"].tolist() == truncated.tolist()
    assert one.address in infos["fault"][0]
    if mode is AutoresetMode.SAME_STEP:
        assert observation[:, 0].tolist() == [0, 0, 2, 2]
        assert [infos["final_obs"][row].tolist() for row in (0, 1)] == [[1], [1]]
    else:
        assert observation[:, 0].tolist() == [1, 1, 2, 2]
        assert env.addresses == [None] * 2 + [two.address] * 2
    if mode is AutoresetMode.DISABLED:
        with pytest.raises(EpisodeOver, match=r"\[0, 1\]"):
            env.step(np.zeros(4))
        observation, _ = env.reset(options={"reset_mask": truncated})
        assert observation[:, 0].tolist() == [0, 0, 2, 2]
    observation, reward, terminated, truncated, infos = env.step(np.zeros(4))
    begins = mode is AutoresetMode.NEXT_STEP
    assert observation[:, 0].tolist() == [0 if begins else 1] * 2 + [3, 3]
    assert reward.tolist() == [0.0 if begins else 1.0] * 2 + [1.0, 1.0]
    assert not (terminated | truncated).any()
    assert env.addresses == [two.address] * 4
    env.close()


def test_a_server_that_comes_back_gets_its_environments_back(pair: tuple[Serving, Serving]) -> None:
    one, two = pair
    env = RemoteVectorEnv([one.address, two.address], SLOW, 2)
    env.reset()
    one.kill()
    with serving(SLOW, address=one.address):
        *_, truncated, _ = env.step(np.zeros(2))
        assert truncated.tolist() == [True, False]
        observation, *_ = env.step(np.zeros(2))
        assert observation[:, 0].tolist() == [0, 2]
        assert env.addresses == [one.address, two.address]
        env.close()


def test_reopened_environments_keep_options_and_have_new_seeds(
    pair: tuple[Serving, Serving],
) -> None:
    one, two = pair
    env = RemoteVectorEnv(
        one.address, "adder", 3, connection=IMPATIENT, fallback_addresses=two.address
    )
    first, _ = env.reset(seed=5, options={"initial_value": Each([[0, 100], [0, 100], [7, 7]])})
    one.kill()
    env.step({"addend": np.zeros(3, np.int64)})
    second, *_, infos = env.step({"addend": np.zeros(3, np.int64)})
    assert env.addresses == [two.address] * 3
    assert infos["_episode_options"].all()
    assert first["value"][2] == second["value"][2] == 7
    assert first["value"][:2].tolist() != second["value"][:2].tolist()
    env.close()


def test_nobody_left(pair: tuple[Serving, Serving]) -> None:
    one, two = pair
    env = RemoteVectorEnv([one.address, two.address], SLOW, 2, connection=IMPATIENT)
    env.reset()
    one.kill()
    two.kill()
    *_, truncated, infos = env.step(np.zeros(2))
    assert truncated.all() and infos["_fault"].all()
    for call in (lambda: env.step(np.zeros(2)), env.reset):
        with pytest.raises(ServerUnavailable, match=r"within 1.5 s") as caught:
            call()
        assert one.address in str(caught.value) and two.address in str(caught.value)
    with serving(SLOW, address=two.address):
        observation, _ = env.reset()
        assert observation[:, 0].tolist() == [0, 0]
        assert env.addresses == [two.address] * 2
        env.close()


def test_a_hung_step_passes_its_deadline(shared_server: Serving) -> None:
    options = ConnectionOptions(request_seconds=0.5, heartbeat_seconds=0.1)
    env = RemoteVectorEnv([shared_server.address] * 2, SLOW, 2, connection=options)
    env.reset()
    observation, *_, truncated, infos = env.step(np.array([5.0, 0.0]))
    assert observation[:, 0].tolist() == [0, 1]
    assert truncated.tolist() == [True, False]
    assert "still working on it" in infos["fault"][0]
    observation, *_, truncated, infos = env.step(np.array([0.0, 0.0]))
    assert observation[:, 0].tolist() == [0, 2]
    assert "fault" not in infos
    env.close()


def test_cut_connections_go_unnoticed(shared_server: Serving) -> None:
    with Proxy(shared_server.address) as proxy:
        env = RemoteVectorEnv([proxy.address] * 2, SLOW, 4)
        env.reset()
        for number in range(1, 40):
            if number % 4 == 0:
                proxy.cut()
            observation, reward, terminated, truncated, infos = env.step(np.zeros(4))
            assert observation[:, 0].tolist() == [number] * 4
            assert reward.tolist() == [1.0] * 4
            assert not (terminated | truncated).any()
            assert "fault" not in infos
        env.close()


def test_environments_that_can_not_be_reset(shared_server: Serving) -> None:
    with serving("tests.simulators.integrity:IntegritySimulator") as server:
        env = RemoteVectorEnv(server.address, num_envs=3)
        env.reset(seed=1)
        with pytest.raises(SimulatorFault, match=r"environments \[1\] on .* could not be reset 4"):
            env.reset(options={"reset_faults": Each([0, 100, 0])})
        with pytest.raises(ProtocolError, match=r"call reset\(\) first"):
            env.step(np.zeros(3, np.int64))
        # Some attempts fail, the last does not.
        _, infos = env.reset(options={"reset_faults": Each([0, 3, 0])})
        assert "fault" not in infos
        env.close()
