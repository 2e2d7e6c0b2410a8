"""RLlib's env runner on real servers, without a Ray cluster unless the test is about one."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig

from agent.env_config import RemoteEnvConfig
from agent.env_runner import MAX_FAULTS_IN_A_ROW, RemoteEnvRunner
from agent.training.ray_runtime import ray_runtime
from farsim.errors import InvalidOption, ServerUnavailable, SimulatorFault, UnknownOption
from tests.agent.ledger import Ledger
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
INTEGRITY = "tests.simulators.integrity:IntegritySimulator"
IMPATIENT = {
    "resume_seconds": 0.3,
    "failover_seconds": 0.3,
    "recovery_seconds": 1.5,
    "heartbeat_seconds": 0.2,
}


def ppo(env_config: dict[str, Any], **env_runners: Any) -> PPOConfig:
    """A configuration for runners that are made by hand, with a small network."""
    settings = {"num_envs_per_env_runner": 4, "rollout_fragment_length": 25, "num_env_runners": 0}
    return (
        PPOConfig()
        .environment("farsim", env_config=env_config, disable_env_checking=True)
        .env_runners(env_runner_cls=RemoteEnvRunner, **{**settings, **env_runners})
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=3)
    )


def runner_of(config: AlgorithmConfig, worker_index: int = 1, num_workers: int = 1) -> Any:
    return RemoteEnvRunner(config=config, worker_index=worker_index, num_workers=num_workers)


@pytest.fixture(scope="module")
def integrity() -> Iterator[Serving]:
    with serving(INTEGRITY) as server:
        yield server


@pytest.mark.parametrize(
    ("worker_index", "num_workers", "own"),
    [
        (0, 0, ["a:1", "a:2", "a:3", "a:4", "a:5"]),
        (1, 2, ["a:1", "a:3", "a:5"]),
        (2, 2, ["a:2", "a:4"]),
        (5, 5, ["a:5"]),
        (6, 7, ["a:1"]),
        (7, 7, ["a:2"]),
        (0, 3, ["a:1", "a:4"]),
    ],
)
def test_addresses_are_dealt_to_runners(worker_index, num_workers, own) -> None:
    config = RemoteEnvConfig.of({"addresses": "a:1-5", "fallback_addresses": ["f:1"]})
    found, spare = config.places(worker_index, num_workers, in_evaluation=False)
    assert found == own
    assert set(spare) == {f"a:{n}" for n in range(1, 6)} | {"f:1"}


def test_evaluation_has_addresses_of_its_own() -> None:
    config = RemoteEnvConfig.of({"addresses": "a:1-2", "evaluation_addresses": "e:1-2"})
    assert config.places(2, 2, in_evaluation=True)[0] == ["e:2"]
    assert config.places(2, 2, in_evaluation=False)[0] == ["a:2"]
    assert RemoteEnvConfig.of({"addresses": "a:1"}).places(1, 1, in_evaluation=True)[0] == ["a:1"]


def test_wrong_configurations(shared_server: Serving) -> None:
    with pytest.raises(UnknownOption, match="no key 'address'; did you mean 'addresses'"):
        runner_of(ppo({"address": shared_server.address}))
    with pytest.raises(InvalidOption, match="env_config needs 'addresses'"):
        runner_of(ppo({"simulator": "adder"}))
    wrong = {"addresses": shared_server.address, "connection": {"request_second": 1}}
    with pytest.raises(UnknownOption, match="did you mean 'request_seconds'"):
        runner_of(ppo(wrong))


def test_samples_are_what_the_environment_does(shared_server: Serving) -> None:
    config = ppo({"addresses": [shared_server.address], "simulator": CARTPOLE})
    runner = runner_of(config)
    local = gym.make("CartPole-v1")
    try:
        chunks = runner.sample(num_timesteps=400)
        assert 400 <= sum(map(len, chunks)) < 404
        # The first episodes of the four environments, replayed from the seeds that they had.
        runner._resets = 0
        firsts = {local.reset(seed=seed)[0].tobytes(): seed for seed in runner._seeds()}
        assert len(firsts) == 4
        replayed = 0
        for chunk in chunks:
            observations = chunk.get_observations()
            seed = firsts.get(observations[0].tobytes())
            if seed is None:
                continue
            replayed += 1
            local.reset(seed=seed)
            for number, action in enumerate(chunk.get_actions()):
                observation, reward, terminated, truncated, _ = local.step(action)
                np.testing.assert_array_equal(observation, observations[number + 1])
                assert reward == chunk.get_rewards()[number]
            assert (terminated, truncated) == (chunk.is_terminated, chunk.is_truncated)
        assert replayed == 4
        metrics = runner.get_metrics()
        assert metrics["faults"].peek() == metrics["episodes_cut_by_fault"].peek() == 0
    finally:
        local.close()
        runner.stop()


def test_no_two_environments_share_a_seed(shared_server: Serving) -> None:
    env_config = {"addresses": [shared_server.address], "simulator": CARTPOLE}
    seeds = set()
    for in_evaluation in (False, True):
        config = ppo(env_config)
        config.in_evaluation = in_evaluation
        for worker_index in (1, 2):
            runner = runner_of(config, worker_index, 2)
            first, second = runner._seeds(), runner._seeds()
            # Evaluation repeats its episodes; training never does.
            assert (first == second) == in_evaluation
            seeds |= {*first, *second}
            again = runner_of(config, worker_index, 2)
            assert again._seeds() == first
            for one in (runner, again):
                one.stop()
    assert len(seeds) == 2 * 2 * 4 + 2 * 4


@pytest.mark.parametrize("to_numpy", [True, False])
def test_faults_end_episodes_and_are_no_transitions(integrity: Serving, to_numpy: bool) -> None:
    options = {"fail_alone_rate": 0.05, "fail_together_rate": 0.02}
    config = ppo({"addresses": [integrity.address], "options": options})
    config.env_runners(episodes_to_numpy=to_numpy)
    runner, ledger = runner_of(config), Ledger()
    try:
        for _ in range(10):
            ledger.book(runner.sample(num_timesteps=100))
        metrics = runner.get_metrics()
        faults, cut = metrics["faults"].peek(), metrics["episodes_cut_by_fault"].peek()
        ledger.settle([episode.id_ for episode in runner._ongoing_episodes], cut, faults)
        assert faults > 20
        assert cut > 10
        assert metrics["num_env_steps_sampled_lifetime"].peek() == ledger.steps
        ended = [seen for seen in ledger.episodes.values() if seen.end == "terminated"]
        assert metrics["num_episodes_lifetime"].peek() == len(ended) > 10
        # Only whole episodes count in returns and lengths, and nothing is kept of the others.
        assert metrics["episode_len_max"].peek() == max(seen.steps for seen in ended)
        assert set(runner._ongoing_episodes_for_metrics) <= {
            episode.id_ for episode in runner._ongoing_episodes
        }
    finally:
        runner.stop()


def test_whole_episodes_are_sampled_past_faults(integrity: Serving) -> None:
    config = ppo({"addresses": [integrity.address], "options": {"fail_alone_rate": 0.03}})
    runner, ledger = runner_of(config), Ledger()
    try:
        chunks = runner.sample(num_episodes=12)
        ledger.book(chunks)
        assert sum(chunk.is_terminated for chunk in chunks) == 12
    finally:
        runner.stop()


def test_an_environment_that_only_fails_is_an_error(integrity: Serving) -> None:
    config = ppo({"addresses": [integrity.address], "options": {"fail_alone_rate": 1.0}})
    runner = runner_of(config)
    try:
        with pytest.raises(SimulatorFault, match=f"failed {MAX_FAULTS_IN_A_ROW} times in a row"):
            runner.sample()
    finally:
        runner.stop()


def test_servers_die_and_come_back() -> None:
    ledger = Ledger()
    with serving(INTEGRITY) as one, serving(INTEGRITY) as two:
        addresses = [one.address, two.address]
        runner = runner_of(ppo({"addresses": addresses, "connection": IMPATIENT}))
        ledger.book(runner.sample())
        one.kill()
        ledger.book(runner.sample())
        assert runner.env.unwrapped.addresses == [two.address] * 4
        with serving(INTEGRITY, address=one.address):
            two.kill()
            ledger.book(runner.sample())
            assert runner.env.unwrapped.addresses == [one.address] * 4
        # Nobody is left.
        with pytest.raises(ServerUnavailable, match="no server took 2 environments") as caught:
            runner.sample()
        assert type(pickle.loads(pickle.dumps(caught.value))) is ServerUnavailable
        with pytest.raises(ServerUnavailable):
            runner.sample()
        with serving(INTEGRITY, address=two.address):
            before = set(ledger.episodes)
            chunks = runner.sample()
            ledger.book(chunks)
            assert not before & {chunk.id_ for chunk in chunks}
            # Nobody tells of those that were lost when nobody was left: the sample was an error.
            assert runner.get_metrics()["faults"].peek() == 2 + 4
            runner.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_runtime(cpus=4):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("config_class", [PPOConfig, DQNConfig])
def test_algorithms_train(
    cluster: None, shared_server: Serving, config_class: type[AlgorithmConfig]
) -> None:
    env_config = {"addresses": [shared_server.address], "simulator": CARTPOLE}
    config = (
        config_class()
        .environment("farsim", env_config=env_config, disable_env_checking=True)
        .env_runners(env_runner_cls=RemoteEnvRunner, num_env_runners=0, num_envs_per_env_runner=4)
        .training(train_batch_size_per_learner=64)
        .reporting(min_sample_timesteps_per_iteration=200, min_time_s_per_iteration=0)
    )
    if config_class is PPOConfig:
        config.training(num_epochs=1, minibatch_size=64)
    else:
        config.training(num_steps_sampled_before_learning_starts=100, training_intensity=1.0)
    algorithm = config.build_algo()
    try:
        for _ in range(2):
            result = algorithm.train()
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] >= 200
        assert result["env_runners"]["faults"] == 0
        assert result["learners"]["default_policy"]["total_loss"]
    finally:
        algorithm.stop()


@pytest.mark.slow
def test_training_goes_on_when_servers_die(cluster: None) -> None:
    """With runners in processes of their own, one of which evaluates."""
    with serving(CARTPOLE) as one, serving(CARTPOLE) as two, serving(CARTPOLE) as third:
        config = ppo(
            {
                "addresses": [one.address, two.address],
                "evaluation_addresses": [third.address],
                "simulator": CARTPOLE,
                "connection": IMPATIENT,
            },
            num_env_runners=2,
        ).evaluation(evaluation_interval=1, evaluation_num_env_runners=1, evaluation_duration=4)
        config.training(train_batch_size_per_learner=400, num_epochs=1)
        algorithm = config.build_algo()
        try:
            steps = []
            for iteration in range(4):
                if iteration == 1:
                    one.kill()
                if iteration == 2:
                    third.kill()
                result = algorithm.train()
                steps.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
                assert result["evaluation"]["env_runners"]["num_episodes"] >= 4
            assert all(after - before >= 400 for before, after in itertools.pairwise(steps))
            # One of the runners had all its four environments on the server that died.
            assert result["env_runners"]["faults"] == 4
            assert result["fault_tolerance"]["num_remote_worker_restarts"] == 0
        finally:
            algorithm.stop()
