"""Simulators of the real Bonsai client behind a real gateway, driven by Farsim's own client."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)

from agent.fleet import Each
from agent.remote_vector_env import RemoteVectorEnv
from examples.bonsai_adder import DESCRIPTION
from farsim.cli import main
from farsim.errors import InvalidOption, ServerUnavailable, UnknownOption
from tests.simserver.bonsai.running import (
    ADDER,
    ROOT,
    WORKSPACE,
    Puppet,
    adders,
    gateway,
    number,
    struct,
)

ONE_NUMBER = {
    "config": struct(number("mass"), number("length", start=1, stop=2)),
    "state": struct(number("x", start=0, stop=10)),
    "action": struct(number("push", start=-1, stop=1)),
}
PUPPET = ("--reward", "state.x - previous.x", "--terminal", "state.x >= 9")


@pytest.fixture(scope="module")
def adder():
    """A gateway with three Adders that wait."""
    with gateway(*ADDER, "--lease-seconds", "2") as running, adders(running, 3):
        yield running


@pytest.fixture(scope="module")
def puppeteer():
    """A gateway that soon tells simulators to ask again, so that a test is never held up."""
    with gateway(*PUPPET, "--idle-seconds", "0.1", "--replace-seconds", "0.1") as running:
        yield running


@pytest.fixture
def learner():
    """The thread of whoever calls environments, which wait for a test's puppets meanwhile."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def play(puppeteer, learner):
    """A puppet and an environment that has it, one step into an episode at x = 2."""
    puppet = Puppet(puppeteer, ONE_NUMBER)
    assert puppet.ask(state={"x": 0}).type == "Idle"
    env = RemoteVectorEnv(puppeteer.address, "Puppet")
    resetting = learner.submit(env.reset)
    puppet.until("EpisodeStart", state={"x": 0})
    assert puppet.ask(state={"x": 1}).type == "Idle"
    resetting.result(30)
    stepping = learner.submit(env.step, push(0.5))
    event = puppet.until("EpisodeStep", state={"x": 1})
    assert event.episode_step.action == {"push": 0.5}
    assert puppet.ask(state={"x": 2}).type == "Idle"
    seen, reward, *_ = stepping.result(30)
    assert (seen["x"], reward) == (2, 1)
    yield puppet, env
    env.close()
    with puppet.client:
        if puppet.session is not None:
            puppet.client.session.delete(WORKSPACE, puppet.session.session_id)


def push(force):
    return {"push": np.array([force], np.float32)}


def add(number, envs=1):
    return {"addend": np.full(envs, number)}


def test_transitions_are_those_of_the_native_adder(adder, shared_server):
    here = RemoteVectorEnv(adder.address, "Adder", num_envs=2)
    there = RemoteVectorEnv(shared_server.address, "adder", num_envs=2)
    assert here.single_observation_space == there.single_observation_space
    assert here.single_action_space == there.single_action_space
    starts = {"initial_value": Each([[12, 12], [93, 93]])}
    for env in (here, there):
        seen, _ = env.reset(seed=1, options=starts)
        assert seen["value"].tolist() == [12, 93]
    here.action_space.seed(3)
    for _ in range(25):  # Two episodes and a half, with the resets between them.
        action = here.action_space.sample()
        ours, theirs = here.step(action), there.step(action)
        np.testing.assert_array_equal(ours[0]["value"], theirs[0]["value"])
        for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
            np.testing.assert_array_equal(mine, other)
    here.close()
    there.close()


def test_episodes_are_configured_by_options_and_drawn_by_seeds(adder):
    env = RemoteVectorEnv(adder.address, "Adder", num_envs=3)
    for given, allowed in ((7, {7}), ([3, 4], {3, 4})):
        seen, _ = env.reset(options={"initial_value": given})
        assert set(seen["value"].tolist()) <= allowed
    whole = {"initial_value": [0, 100]}
    first, again, other = (
        env.reset(seed=seed, options=whole)[0]["value"].tolist() for seed in (5, 5, 6)
    )
    assert first == again != other
    for wrong, error in (({"initial_value": [4, 3]}, InvalidOption), ({"mass": 1}, UnknownOption)):
        with pytest.raises(error):
            env.reset(options=wrong)
    env.close()


def test_it_keeps_the_contract(adder):
    """With sessions that come and go: those that a check breaks off have to run out first."""
    command = [sys.executable, "-m", "farsim", "check", adder.address, "--envs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_simulator_fails_its_environment_and_one_that_joins_takes_its_place():
    with gateway(*ADDER, "--idle-seconds", "0.5", "--replace-seconds", "30") as running:
        with adders(running, 1, "--timeout", "2") as [victim]:
            env = RemoteVectorEnv(running.address, "Adder")
            before, _ = env.reset(seed=1)
            victim.kill()
            seen, reward, terminated, truncated, infos = env.step(add(1))
        assert "did not advance within 2 s" in infos["fault"][0]
        assert (seen["value"], reward, terminated, truncated) == (before["value"], 0, False, True)
        with ThreadPoolExecutor(1) as learner:
            starting = learner.submit(env.step, add(1))  # Waits for a simulator.
            with adders(running, 1):
                seen, _, _, truncated, infos = starting.result(30)
                assert not truncated[0]
                assert "fault" not in infos
                after, reward, *_ = env.step(add(1))
                assert after["value"] == seen["value"] + 1
                assert reward == -abs(after["value"] - 50)
                env.close()


def test_sessions_wait_for_their_simulators_and_say_if_they_do_not_come(tmp_path):
    interface = tmp_path / "adder.json"
    interface.write_text(json.dumps({"name": "Adder", "description": DESCRIPTION}))
    described = (*ADDER, "--interface", str(interface))
    with gateway(*described) as running, ThreadPoolExecutor(1) as learner:
        opening = learner.submit(RemoteVectorEnv, running.address, "Adder", 2)
        with adders(running, 2):
            env = opening.result(30)
            env.reset()
            env.close()
    with (
        gateway(*described, "--wait-seconds", "0.2") as running,
        adders(running, 1),
        pytest.raises(ServerUnavailable, match="2 simulators 'Adder'"),
    ):
        RemoteVectorEnv(running.address, "Adder", 2, connection={"recovery_seconds": 0.1})


def test_a_lost_answer_can_be_asked_for_again(play, learner):
    puppet, env = play
    stepping = learner.submit(env.step, push(-1))
    number = puppet.sequence
    event = puppet.until("EpisodeStep", state={"x": 2})
    assert event.sequence_id == number + 1
    again = puppet.ask(sequence=number, state={"x": 2})
    assert again.as_dict() == event.as_dict()
    last = puppet.client.session.get_most_recent_action(WORKSPACE, puppet.session.session_id)
    assert last.as_dict() == event.as_dict()
    with pytest.raises(HttpResponseError, match="out of turn"):
        puppet.ask(sequence=number + 2, state={"x": 2})
    puppet.ask(sequence=number + 1, state={"x": 1})
    seen, reward, *_ = stepping.result(30)
    assert (seen["x"], reward) == (1, -1)  # Stepped once.


def test_a_configuration_without_bounds_is_left_to_the_simulator(play, learner):
    puppet, env = play
    resetting = learner.submit(env.reset, options={"length": 1.5})
    assert puppet.until("EpisodeFinish", state={"x": 2}).episode_finish.reason == "Interrupted"
    start = puppet.until("EpisodeStart", state={"x": 2})
    assert start.episode_start.config == {"length": 1.5}
    puppet.ask(state={"x": 0})
    infos = resetting.result(30)[1]
    assert infos["episode_options"]["length"].tolist() == [[1.5, 1.5]]


@pytest.mark.parametrize(
    ("answer", "terminated", "reason"),
    [
        ({"state": {"x": 9}}, True, "Terminal"),
        ({"state": {"x": 3}, "halted": True}, True, "Terminal"),
        ({"state": {"x": 11}}, False, "InternalError"),
        ({"state": {}}, False, "InternalError"),
        ({"state": {"x": 3}, "error": "the pump broke"}, False, "InternalError"),
    ],
)
def test_how_episodes_end(play, learner, answer, terminated, reason):
    puppet, env = play
    stepping = learner.submit(env.step, push(1))
    puppet.until("EpisodeStep", state={"x": 2})
    assert puppet.until("EpisodeFinish", **answer).episode_finish.reason == reason
    _, reward, term, trunc, infos = stepping.result(30)
    assert (term, trunc) == (terminated, not terminated)
    assert ("fault" in infos) is not terminated
    if "fault" in infos:
        assert reward == 0
        assert answer.get("error", "state") in infos["fault"][0]
    restarting = learner.submit(env.step, push(1))
    puppet.until("EpisodeStart", state={"x": 2})
    assert puppet.ask(state={"x": 4}).type == "Idle"
    seen, _, term, trunc, infos = restarting.result(30)
    assert (seen["x"], term, trunc, "fault" in infos) == (4, False, False, False)


def test_one_that_unregisters_is_a_fault_at_once_and_hears_of_it(play, learner):
    puppet, env = play
    stepping = learner.submit(env.step, push(1))
    puppet.until("EpisodeStep", state={"x": 2})
    puppet.client.session.delete(WORKSPACE, puppet.session.session_id)
    assert "it unregistered" in stepping.result(30)[4]["fault"][0]
    assert puppet.ask(state={"x": 2}).unregister.reason == "NotFound"
    for gone in (puppet.client.session.get, puppet.client.session.delete):
        with pytest.raises(ResourceNotFoundError, match="register again"):
            gone(WORKSPACE, puppet.session.session_id)
    assert "no simulator" in env.step(push(1))[4]["fault"][0]
    puppet.session, puppet.sequence = puppet.register(), 1
    assert puppet.ask(state={"x": 0}).type == "Idle"
    restarting = learner.submit(env.step, push(1))
    puppet.until("EpisodeStart", state={"x": 0})
    puppet.ask(state={"x": 1})
    assert "fault" not in restarting.result(30)[4]


def test_simulators_are_listed_with_what_they_do(play, puppeteer):
    puppet, _ = play
    free = Puppet(puppeteer, ONE_NUMBER)
    with free.client:
        listed = free.client.session.list(WORKSPACE)
        status = {each.session_id: each.session_status for each in listed}
        assert status == {
            puppet.session.session_id: "Attached",
            free.session.session_id: "Attachable",
        }
        others = free.client.session.list(WORKSPACE, session_status="neq:Attached")
        assert [each.session_id for each in others] == [free.session.session_id]
        session = free.client.session.get(WORKSPACE, puppet.session.session_id)
        assert session.interface.name == "Puppet"
        assert session.registration_time <= session.last_seen_time
        free.client.session.delete(WORKSPACE, free.session.session_id)


def test_registrations_that_can_not_be_used_are_refused(puppeteer, play):
    different = {**ONE_NUMBER, "state": struct(number("y"))}
    with pytest.raises(HttpResponseError, match="another description"):
        Puppet(puppeteer, different)
    with pytest.raises(HttpResponseError, match="no field 'x' here"):
        Puppet(puppeteer, different, name="Another")
    with pytest.raises(HttpResponseError, match="does not describe its state"):
        Puppet(puppeteer, None, name="Silent")
    Puppet(puppeteer, ONE_NUMBER, name="Third").client.close()


def test_the_access_key_is_wanted_and_a_stop_is_told():
    with gateway("--access-key", "right", "--idle-seconds", "30") as running:
        with running.client("wrong") as client, pytest.raises(ClientAuthenticationError):
            client.session.list(WORKSPACE)
        with running.client("right") as client:
            assert client.session.list(WORKSPACE) == []
    with gateway(*ADDER) as running, adders(running, 2) as simulators:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(20)
        # They end by themselves, for they have been told that it is over.
        assert [simulator.wait(20) for simulator in simulators] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reward", "-abs(state.value - "), "reward: '(' was never closed (column 5)"),
        (("--reward", "1", "--terminal", "sqr(2)"), "terminal: no function 'sqr'"),
        (("--reward", "nowhere:reward"), "reward: 'nowhere:reward' can not be loaded"),
        (("--halted", "often"), "halted is terminal or truncated"),
        (("--http", "0.0.0.0:0"), "without TLS anyone on the way could read"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(arguments, message, capsys):
    where = ("--address", "127.0.0.1:0", "--http", "127.0.0.1:0")
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "bonsai", *where, *arguments])
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert message in told.err
    assert "register at" not in told.out
