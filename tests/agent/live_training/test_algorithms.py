"""RLlib's algorithms on live simulators, which are processes of their own."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.algorithms.sac import SACConfig

from agent.training.ray_runtime import quiet, ray_runtime
from farsim import LiveClient
from tests.agent.live_training import game
from tests.agent.live_training.cartpole import playing, start
from tests.agent.live_training.game import Game, Recording
from tests.agent.live_training.runners import configured
from tests.agent.live_training.test_replay import Duel, of_two
from tests.agent.live_training.test_several_agents import compare, hide_and_seek, parts_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    quiet()
    with ray_runtime(cpus=8):
        yield


def weights(algorithm: Any) -> dict[str, Any]:
    state = algorithm.learner_group.get_state(components="learner")["learner"]["rl_module"]
    return {
        f"{policy}/{name}": np.array(value)
        for policy, members in state.items()
        for name, value in members.items()
    }


def learns(algorithm: Any) -> dict[str, Any]:
    """RLlib's result of the iteration that has changed the weights."""
    before = weights(algorithm)
    for _ in range(10):
        result: dict[str, Any] = algorithm.train()
        after = weights(algorithm)
        if any((after[name] != value).any() for name, value in before.items()):
            return result
    raise AssertionError("ten iterations have left the weights as they were")


def test_ppo_learns_while_simulators_come_and_go() -> None:
    config = configured(
        PPOConfig().training(
            lr=1e-3,
            train_batch_size_per_learner=1000,
            minibatch_size=125,
            num_epochs=6,
            vf_loss_coeff=0.01,
        ),
        model={"fcnet_hiddens": [32], "vf_share_layers": True},
        limits={"lease_seconds": 0.2},
    )
    algorithm = config.build_algo()
    try:
        address = algorithm.env_runner.live_address
        with playing(address, seeds=(0, 1000, 2000)) as processes:
            returns: list[float] = []
            for number in range(30):
                found = algorithm.train()["env_runners"]
                returns.append(float(found["episode_return_mean"]))
                if number == 2:
                    processes[0].kill()
                if number == 4:
                    processes.append(start(address, 3000))
                if number > 6 and returns[-1] > 100:
                    break
        # By chance it is about 22.
        assert returns[0] < 50 < 100 < returns[-1]
        live = found["info"]["live"]
        assert live["simulators"] == 3
        assert live["lost"] == 1
        assert live["staleness_max"] <= 1
    finally:
        algorithm.stop()


@pytest.mark.parametrize("algo", [APPOConfig, IMPALAConfig, DQNConfig, SACConfig])
def test_other_algorithms_learn(algo: Any) -> None:
    config = algo()
    if hasattr(config, "replay_buffer_config"):
        config.training(num_steps_sampled_before_learning_starts=50)
    else:
        config.training(train_batch_size_per_learner=100)
    config.reporting(min_time_s_per_iteration=1, min_sample_timesteps_per_iteration=60)
    algorithm = configured(config).build_algo()
    try:
        with playing(algorithm.env_runner.live_address):
            result = learns(algorithm)
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] >= 60
    finally:
        algorithm.stop()


def test_each_env_runner_has_a_port_and_simulators() -> None:
    config = configured(
        PPOConfig().training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1),
        wait_seconds=1.0,
    ).env_runners(num_env_runners=2)
    algorithm = config.build_algo()
    try:
        addresses = algorithm.env_runner_group.foreach_env_runner(lambda one: one.live_address)
        assert addresses[0] == ""  # The algorithm's own takes nobody.
        assert len(set(addresses[1:])) == 2
        with playing(addresses[1]), playing(addresses[2]):
            result = learns(algorithm)
        assert result["env_runners"]["num_env_steps_sampled_lifetime"] >= 200
    finally:
        algorithm.stop()


def test_several_agents_with_policies_of_their_own_learn() -> None:
    config = hide_and_seek(
        PPOConfig().training(train_batch_size_per_learner=60, minibatch_size=20, num_epochs=2)
    )
    algorithm = config.build_algo()
    stop = threading.Event()

    def live() -> None:
        with LiveClient(algorithm.env_runner.live_address, mode="collect") as client:
            seed = 0
            while not stop.is_set():
                seed += 1
                Game(client, seed).play(rounds=4)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        before = weights(algorithm)
        learns(algorithm)
        after = weights(algorithm)
        for policy in ("seek", "hide"):
            names = [name for name in before if name.startswith(policy)]
            assert any((before[name] != after[name]).any() for name in names), policy
    finally:
        stop.set()
        thread.join(20)
        algorithm.stop()


@pytest.mark.parametrize("algo", [DQNConfig, SACConfig])
def test_several_agents_learn_from_a_replay_buffer(algo: Any) -> None:
    config = algo()
    kept = {"type": "MultiAgentPrioritizedEpisodeReplayBuffer", "capacity": 10_000}
    config.training(
        num_steps_sampled_before_learning_starts=50,
        replay_buffer_config={**config.replay_buffer_config, **kept},
    )
    config.reporting(min_time_s_per_iteration=1, min_sample_timesteps_per_iteration=60)
    algorithm = of_two(config).build_algo()
    stop = threading.Event()

    def live() -> None:
        with LiveClient(algorithm.env_runner.live_address, mode="collect") as client:
            number = 0
            while not stop.is_set():
                number += 1
                Duel(client, number).play(rounds=3)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        before = weights(algorithm)
        result = learns(algorithm)
        after = weights(algorithm)
        for policy in ("first", "second"):
            names = [name for name in before if name.startswith(policy)]
            assert any((before[name] != after[name]).any() for name in names), policy
        # Simulators do not wait for the learner: more than the one step that it asks for.
        assert result["env_runners"]["info"]["live"]["steps_per_sample"] > 1
    finally:
        stop.set()
        thread.join(20)
        algorithm.stop()


class Receiving(PPOTorchLearner):
    """Keeps what comes to the learner, as it comes."""

    received: list[Any] = []  # noqa: RUF012

    def update(self, training_data: Any, **options: Any) -> Any:
        self.received.extend(copy.deepcopy(training_data.episodes))
        return super().update(training_data=training_data, **options)


def test_the_learner_receives_what_another_process_recorded(tmp_path: Path) -> None:
    Receiving.received.clear()
    config = (
        PPOConfig()
        .training(train_batch_size_per_learner=20, minibatch_size=10, num_epochs=1)
        .learners(learner_class=Receiving)
    )
    # However long it takes to learn: nothing is too old.
    algorithm = hide_and_seek(config, max_staleness=-1).build_algo()
    record, games = tmp_path / "record.json", 3
    try:
        with game.playing(algorithm.env_runner.live_address, games, record) as process:
            while not record.exists():
                assert process.poll() is None
                algorithm.train()
            # Those that go on meanwhile bring a batch, with what was left of the first ones.
            algorithm.train()
            algorithm.train()
    finally:
        algorithm.stop()
    parts = parts_of(Receiving.received)
    names = sorted({name for name, _ in parts}, key=lambda name: int(name.rpartition("-")[2]))
    recordings = [Recording(**one) for one in json.loads(record.read_text())]
    assert len(recordings) == games
    for name, recording in zip(names, recordings, strict=False):
        for agent in ("seeker", "second", "hider"):
            compare(recording, agent, parts[name, agent])
