"""The next sample, taken while the last one is learned from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig

from agent.env_runner import RemoteEnvRunner
from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner
from farsim.errors import InvalidOption, ServerUnavailable
from tests.agent.sampling.test_equality import assert_same, fields
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
TEAMS = "particle/simple_spread"
SAMPLES = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(CARTPOLE, TEAMS) as server:
        yield server


def config_of(address: str, simulator: str, ahead: bool, **more: Any) -> AlgorithmConfig:
    env_config = {"addresses": address, "simulator": simulator, "sample_ahead": ahead, **more}
    config = (
        PPOConfig()
        .environment("farsim", env_config=env_config, disable_env_checking=True)
        .env_runners(num_envs_per_env_runner=3, rollout_fragment_length=20, num_env_runners=1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=3)
    )
    if simulator == TEAMS:
        config.multi_agent(policies={"all"}, policy_mapping_fn=lambda *_, **__: "all")
    return config


def runner_of(config: AlgorithmConfig, worker_index: int = 1, num_workers: int = 1) -> Any:
    kind = RemoteMultiAgentEnvRunner if config.is_multi_agent else RemoteEnvRunner
    return kind(config=config, worker_index=worker_index, num_workers=num_workers)


def weights(module: Any, number: int) -> Any:
    random = np.random.default_rng(number)
    return tree.map_structure(
        lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), module.get_state()
    )


def update(runner: Any, number: int) -> None:
    """What RLlib sends after an update."""
    runner.set_state({"rl_module": weights(runner.module, number), "weights_seq_no": number})


def samples(server: Serving, simulator: str, ahead: bool) -> Any:
    """Of a run in which the weights of sample ``n`` are those of update ``n - 1``."""
    runner = runner_of(config_of(server.address, simulator, ahead))
    try:
        torch.manual_seed(0)
        update(runner, 1)
        found = []
        for number in range(1, SAMPLES + 1):
            if not ahead and number > 2:
                update(runner, number - 1)
            found.append((runner.sample(), runner.get_metrics()))
            if ahead:
                update(runner, number + 1)
        return found
    finally:
        runner.stop()


@pytest.mark.parametrize("simulator", [CARTPOLE, TEAMS])
def test_samples_are_those_of_the_weights_before_the_last_update(server: Serving, simulator: str):
    ahead, behind = (samples(server, simulator, ahead) for ahead in (True, False))
    assert len(ahead) == len(behind) == SAMPLES
    for (one, one_metrics), (other, other_metrics) in zip(ahead, behind, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            if simulator == CARTPOLE:
                assert_same(fields(a), fields(b), "episode")
            else:
                assert a.get_return() == b.get_return()
                assert a.env_steps() == b.env_steps()
        for name in ("num_env_steps_sampled", "num_episodes"):
            assert one_metrics[name].peek() == other_metrics[name].peek()


def test_it_goes_on_between_calls(server: Serving):
    runner = runner_of(config_of(server.address, CARTPOLE, True))
    steps = []
    step_async = runner.remote.step_async
    runner.remote.step_async = lambda *args: (steps.append(1), step_async(*args))
    runner.sample()
    assert len(steps) == 20
    runner.get_metrics()
    runner.get_state()  # Waits for it.
    assert len(steps) == 40
    runner.sample()
    assert len(steps) == 40
    runner.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "sample ahead"]


def test_whole_episodes_are_not_sampled_ahead_and_do_not_lose_a_sample(server: Serving):
    runner = runner_of(config_of(server.address, CARTPOLE, True))
    runner.sample()
    runner.get_metrics()
    ready = runner._ahead
    episodes = runner.sample(num_episodes=3, explore=False)
    assert len(episodes) == 3
    assert all(episode.is_done for episode in episodes)
    assert runner._ahead is ready
    runner.get_metrics()
    assert runner._ahead is ready
    runner.stop()


def test_what_went_wrong_is_told_when_the_sample_is_asked_for():
    with serving(CARTPOLE) as server:
        patience = {"resume_seconds": 0.2, "recovery_seconds": 0.2, "failover_seconds": 0.1}
        runner = runner_of(config_of(server.address, CARTPOLE, True, connection=patience))
        runner.sample()
        server.process.kill()
        server.process.wait()
        runner.get_metrics()
        update(runner, 2)
        with pytest.raises(ServerUnavailable):
            runner.sample()
        runner.stop()


def test_not_in_the_learners_process_nor_for_evaluation(server: Serving):
    config = config_of(server.address, CARTPOLE, True)
    with pytest.raises(InvalidOption, match="--env-runners 1"):
        runner_of(config.copy(copy_frozen=False).env_runners(num_env_runners=0), 0, 0)
    evaluation = config.copy(copy_frozen=False)
    evaluation.in_evaluation = True
    runner = runner_of(evaluation)
    runner.sample()
    runner.get_metrics()
    assert runner._ahead is None
    runner.stop()
