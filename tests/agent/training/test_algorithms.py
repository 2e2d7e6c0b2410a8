"""Every algorithm on real servers: it trains, saves, and its checkpoint plays."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agent.evaluation.arena import Arena
from agent.evaluation.learned import LearnedPolicy
from agent.evaluation.seeds import evaluation_seeds
from agent.training import checkpoint as checkpoints
from agent.training import configuration
from agent.training.algorithm import Plan, Simulators, build, look_at, plan
from agent.training.checkpoint import Manifest
from agent.training.display import display_on
from agent.training.interrupt import Interrupt
from agent.training.iteration import Iteration
from agent.training.loop import Checkpoints, train
from agent.training.ray_runtime import ray_runtime
from agent.training.records import Records
from agent.training.stopping import StopConditions
from farsim.errors import ServerUnavailable
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
MASKED = "tests.simulators.envs:Masked"

#: Small batches and networks. Value methods learn from the first steps on.
SETTINGS = {
    "PPO": "training: {train_batch_size_per_learner: 200, minibatch_size: 100, num_epochs: 1}",
    "APPO": "training: {train_batch_size_per_learner: 200}",
    "IMPALA": "training: {train_batch_size_per_learner: 200}",
    "DQN": "training: {num_steps_sampled_before_learning_starts: 50}",
    "SAC": "training: {num_steps_sampled_before_learning_starts: 50}",
}
COMMON = """
env_runners: {num_envs_per_env_runner: 4, rollout_fragment_length: 50}
rl_module: {model_config: {fcnet_hiddens: [16]}}
reporting: {min_time_s_per_iteration: 1, min_sample_timesteps_per_iteration: 50}
debugging: {seed: 7}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_runtime(cpus=8):
        yield


def plan_for(algo: str, server: Serving, simulator: str, **connection: float) -> Plan:
    simulators = Simulators([server.address], simulator, connection=connection)
    layers = [configuration.parse(SETTINGS[algo] + COMMON, "test.yaml").sections]
    return plan(algo, simulators, look_at(simulators), layers)


def manifest_of(planned: Plan, steps: int) -> Manifest:
    return Manifest(
        simulator=planned.interface.simulator,
        options={},
        session_options=planned.interface.session_options,
        algo=planned.algo,
        settings=planned.settings,
        observation_space=planned.observation_space,
        action_space=planned.interface.action_space,
        action_mask=planned.action_mask,
        iteration=1,
        steps=steps,
        seed=7,
    )


def weights(algorithm: Any) -> dict[str, np.ndarray]:
    # The learner's: that of the algorithm's own env runner lags behind with asynchronous ones.
    state = algorithm.learner_group.get_state(components="learner")["learner"]["rl_module"]
    return {name: np.array(value) for name, value in state["default_policy"].items()}


@pytest.mark.parametrize(
    ("algo", "simulator"),
    [
        ("PPO", "adder"),
        ("APPO", MASKED),
        ("IMPALA", "adder"),
        ("DQN", CARTPOLE),
        ("SAC", CARTPOLE),
    ],
)
def test_algorithms_learn_save_and_play(shared_server, tmp_path, algo, simulator):
    planned = plan_for(algo, shared_server, simulator)
    algorithm = build(planned)
    try:
        before = weights(algorithm)
        for _ in range(10):
            result = algorithm.train()
            if any((weights(algorithm)[name] != value).any() for name, value in before.items()):
                break
        else:
            pytest.fail("ten iterations have left the weights as they were")
        steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
        assert steps >= 50
        path = checkpoints.save(algorithm, manifest_of(planned, steps), tmp_path, "000001")
    finally:
        algorithm.stop()
    found = checkpoints.find(path)
    assert replace(found.manifest, session_options={}) == replace(
        manifest_of(planned, steps), session_options={}
    )
    arena = Arena([shared_server.address], simulator)
    policies = [LearnedPolicy(found, greedy, 0) for greedy in (True, False)]
    results = arena.play(policies, evaluation_seeds(0, 3), action_mask=planned.action_mask)
    assert all((episodes.lengths > 0).all() for episodes in results.values())
    assert Path(found.path) == path


def test_losing_all_servers_keeps_what_has_been_learned(tmp_path):
    impatient = {"resume_seconds": 0.3, "failover_seconds": 0.3, "recovery_seconds": 1.0}
    with serving("adder") as server:
        planned = plan_for("PPO", server, "adder", **impatient)
        algorithm = build(planned)
        manifest = manifest_of(planned, 0)
        saving = Checkpoints(algorithm, manifest, tmp_path / "checkpoints", tmp_path, every=0)
        console = Console(file=io.StringIO())
        stop = StopConditions(steps=10**6)
        done: list[Iteration] = []
        try:
            with (
                Interrupt(lambda: None) as interrupt,
                Records(tmp_path) as records,
                display_on(console, stop) as display,
                pytest.raises(ServerUnavailable, match="no server took"),
            ):
                train(
                    algorithm,
                    stop=stop,
                    saving=saving,
                    records=records,
                    display=display,
                    interrupt=interrupt,
                    steps_at_start=0,
                    iterated=lambda iteration: (done.append(iteration), server.kill()),
                )
        finally:
            algorithm.stop()
    kept = checkpoints.find(tmp_path).manifest
    assert (kept.iteration, kept.steps) == (1, done[0].steps)
    assert len(done) == 1 and kept.steps >= 200


def test_a_ray_cluster_that_is_not_there_is_an_error():
    with pytest.raises(ServerUnavailable, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        ray_runtime("127.0.0.1:1").__enter__()
