"""Simulators with several agents on real servers: they train, save, go on, and are filmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agent.evaluation.learned import check_spaces
from agent.models import masking
from agent.training import checkpoint as checkpoints
from agent.training import configuration, film
from agent.training.algorithm import Plan, Simulators, build, look_at, plan, restore
from agent.training.checkpoint import Manifest
from agent.training.configuration import InvalidConfiguration
from agent.training.film import FilmCrew
from agent.training.iteration import Iteration, read
from agent.training.policies import InvalidPolicies, PolicyWish
from agent.training.ray_runtime import ray_runtime
from agent.training.records import Records
from farsim.errors import SpaceMismatch, Unsupported
from tests.servers import Serving, serving

SCENARIOS = [
    "simple",
    "simple_adversary",
    "simple_crypto",
    "simple_push",
    "simple_reference",
    "simple_speaker_listener",
    "simple_spread",
    "simple_tag",
    "simple_world_comm",
]
SPREAD, TAG = "particle/simple_spread", "particle/simple_tag"
MASKED = "tests.simulators.agents:Masked"

#: Two updates or so in an iteration.
ON_POLICY = "training: {train_batch_size_per_learner: 100, minibatch_size: 50, num_epochs: 1}"
OFF_POLICY = (
    "training: {num_steps_sampled_before_learning_starts: 50, train_batch_size_per_learner: 16}"
)
SETTINGS = {
    "PPO": ON_POLICY,
    "MAPPO": ON_POLICY,
    "APPO": "training: {train_batch_size_per_learner: 100}",
    "DQN": OFF_POLICY,
    "SAC": OFF_POLICY,
    "MADDPG": OFF_POLICY,
}
TWO_RUNNERS = "env_runners: {num_env_runners: 2, rollout_fragment_length: auto}"
COMMON = """
env_runners: {num_envs_per_env_runner: 4, rollout_fragment_length: 25}
rl_module: {model_config: {fcnet_hiddens: [16]}}
reporting: {min_time_s_per_iteration: 0, min_sample_timesteps_per_iteration: 100}
debugging: {seed: 7}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_runtime(cpus=8):
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(*(f"particle/{name}" for name in SCENARIOS)) as server:
        yield server


def plan_for(
    algo: str,
    server: Serving,
    simulator: str,
    policies: PolicyWish | None = None,
    more: str = "",
    **options: Any,
) -> Plan:
    simulators = Simulators([server.address], simulator, options)
    layers = [configuration.parse(text, "test.yaml").sections for text in (COMMON, more)]
    layers.insert(0, configuration.parse(SETTINGS[algo], "test.yaml").sections)
    return plan(algo, simulators, look_at(simulators), layers, policies)


def manifest_of(planned: Plan, result: dict[str, Any]) -> Manifest:
    return Manifest(
        simulator=planned.interface.simulator,
        options={},
        session_options=planned.interface.session_options,
        algo=planned.algo,
        settings=planned.settings,
        observation_space=planned.observation_space,
        action_space=planned.action_space,
        action_mask=planned.action_mask,
        iteration=result["training_iteration"],
        steps=int(result["env_runners"]["num_env_steps_sampled_lifetime"]),
        seed=7,
        groups=planned.groups,
        policies=planned.mapping.by_agent if planned.mapping else {},
    )


def weights(algorithm: Any) -> dict[tuple[str, str], np.ndarray]:
    modules = algorithm.learner_group.get_weights()
    return {
        (policy, name): np.array(values)
        for policy, state in modules.items()
        for name, values in state.items()
    }


def changed(before: dict, after: dict) -> set[str]:
    """The policies that are not as they were."""
    return {key[0] for key, values in before.items() if (after[key] != values).any()}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("algo", ["MADDPG", "PPO"])
def test_scenarios_train_and_go_on_from_their_checkpoint(server, tmp_path, algo, scenario):
    planned = plan_for(algo, server, f"particle/{scenario}")
    algorithm = build(planned)
    try:
        first = weights(algorithm)
        for _ in range(2):
            result = algorithm.train()
        trained = weights(algorithm)
        assert changed(first, trained) == {key[0] for key in first}
        path = checkpoints.save(algorithm, manifest_of(planned, result), tmp_path, "000002")
    finally:
        algorithm.stop()
    found = checkpoints.find(path)
    assert found.manifest.groups == planned.groups
    assert set(found.manifest.policies) == {
        agent for agents in planned.groups.values() for agent in agents
    }
    check_spaces(found, planned.observation_space, planned.action_space)
    again = build(planned)
    try:
        restore(again, path, found.manifest.steps)
        restored = weights(again)
        assert changed(trained, restored) == set()
        result = again.train()
    finally:
        again.stop()
    assert result["training_iteration"] == 3
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] >= found.manifest.steps + 100


@pytest.mark.parametrize("algo", ["MAPPO", "APPO", "DQN", "SAC"])
def test_algorithms_learn_every_policy(server, algo):
    planned = plan_for(algo, server, "particle/simple_speaker_listener")
    algorithm = build(planned)
    try:
        first = weights(algorithm)
        for _ in range(20):
            algorithm.train()
            if changed(first, weights(algorithm)) == {"speaker", "listener"}:
                break
        else:
            pytest.fail("twenty iterations have left weights as they were")
    finally:
        algorithm.stop()


@pytest.mark.parametrize("algo", ["SAC", "MADDPG", "PPO"])
def test_continuous_actions_are_learned(server, algo):
    planned = plan_for(algo, server, TAG, action_mode="continuous")
    algorithm = build(planned)
    try:
        first = weights(algorithm)
        for _ in range(2):
            algorithm.train()
        assert changed(first, weights(algorithm)) == {"adversaries", "agents"}
    finally:
        algorithm.stop()


def test_policies_of_groups_with_masks_choose_what_is_allowed():
    with serving(MASKED) as server:
        planned = plan_for("PPO", server, MASKED)
        assert planned.action_mask
        masked = {
            agent
            for agent, space in planned.observation_space.spaces.items()  # type: ignore[attr-defined]
            if masking.is_masked(space)
        }
        assert masked == {"hen_0"}
        algorithm = build(planned)
        try:
            first = weights(algorithm)
            algorithm.train()
            assert changed(first, weights(algorithm)) == {key[0] for key in first}
            for episode in algorithm.env_runner.sample(num_episodes=2):
                hen = episode.agent_episodes["hen_0"]
                actions = hen.get_actions()
                allowed = hen.get_observations(slice(0, len(hen)))[masking.ACTION_MASK]
                assert allowed[np.arange(len(actions)), actions].all()
        finally:
            algorithm.stop()


def test_only_policies_to_train_change(server):
    planned = plan_for(
        "MADDPG",
        server,
        TAG,
        policies={"adversaries": "hunters", "agents": "prey"},
        more="multi_agent: {policies_to_train: [hunters]}",
    )
    algorithm = build(planned)
    try:
        first = weights(algorithm)
        for _ in range(2):
            algorithm.train()
        assert changed(first, weights(algorithm)) == {"hunters"}
    finally:
        algorithm.stop()


def test_two_env_runners_sample_and_report_every_agent(server):
    planned = plan_for("PPO", server, TAG, "each", more=TWO_RUNNERS)
    algorithm = build(planned)
    try:
        for _ in range(3):  # An episode takes two iterations.
            result = algorithm.train()
    finally:
        algorithm.stop()
    iteration = iteration_of(planned, result)
    agents = ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    assert list(iteration.agent_returns) == agents
    assert list(iteration.group_returns) == ["adversaries", "agents"]
    assert iteration.mean_return == pytest.approx(sum(iteration.agent_returns.values()))
    for agent in agents:
        assert np.isfinite(iteration.losses[f"{agent}/policy_loss"])
    assert "adversaries/collisions_mean" in iteration.infos
    assert "adversaries/collisions_last" in iteration.infos


def iteration_of(planned: Plan, result: dict[str, Any]) -> Iteration:
    return read(
        result,
        seconds=1,
        iteration_seconds=1,
        steps_before=0,
        steps_at_start=0,
        groups=planned.groups,
    )


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("shared", "'adversary_0' and 'agent_0' cannot share policy 'shared': their spaces differ"),
        ({"adversarie": "a"}, "none is 'adversarie'; did you mean 'adversaries'"),
        ({"adversaries": "a"}, "say nothing of agent 'agent_0'"),
        ("no.module:here", "cannot import 'no.module'"),
    ],
)
def test_policies_that_do_not_fit_are_errors(server, policies, expected):
    with pytest.raises(InvalidPolicies, match=expected):
        plan_for("MADDPG", server, TAG, policies)


def test_policies_to_train_must_be_there(server):
    with pytest.raises(
        InvalidConfiguration, match=r"test.yaml, line 1: .*'agentz'; did you mean 'agents'"
    ):
        plan_for("PPO", server, TAG, more="multi_agent: {policies_to_train: [agentz]}")


def test_a_checkpoint_of_other_agents_is_refused(server, tmp_path):
    planned = plan_for("PPO", server, SPREAD)
    other = plan_for("PPO", server, SPREAD, N=4)
    result = {"training_iteration": 1, "env_runners": {"num_env_steps_sampled_lifetime": 1}}
    checkpoint = checkpoints.Checkpoint(Path("somewhere"), manifest_of(planned, result))
    check_spaces(checkpoint, planned.observation_space, planned.action_space)
    with pytest.raises(SpaceMismatch, match="agent_3"):
        check_spaces(checkpoint, other.observation_space, other.action_space)


@pytest.mark.parametrize(
    ("algo", "simulator"), [("MADDPG", TAG), ("PPO", "particle/simple")], ids=["several", "one"]
)
def test_a_greedy_episode_becomes_a_video(server, tmp_path, algo, simulator):
    planned = plan_for(algo, server, simulator)
    algorithm = build(planned)
    try:
        crew = FilmCrew(algorithm, planned, tmp_path / "videos")
        with Records(tmp_path) as records:
            first = crew.shoot(1, 100, records)
            algorithm.train()
            before = weights(algorithm)
            second = crew.shoot(2, 200, records)
        assert changed(before, weights(algorithm)) == set()
        algorithm.train()
    finally:
        algorithm.stop()
    pictures, later = (iio.imread(path) for path in (first, second))
    assert second == tmp_path / "videos" / "000002.mp4"
    # As the episode begins, and after each of its 25 steps.
    assert len(pictures) == len(later) == 26
    assert (np.abs(pictures[0].astype(int) - later[0]) < 10).mean() > 0.999
    assert np.abs(pictures[-1].astype(int) - pictures[0]).max() > 100
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    kept = events.Images("greedy_episode")
    assert [image.step for image in kept] == [100, 200]
    assert len(iio.imread(kept[0].encoded_image_string, extension=".gif", index=None)) == 26


def test_an_episode_without_an_end_is_cut(server, tmp_path):
    planned = plan_for("PPO", server, SPREAD, max_cycles=60)
    algorithm = build(planned)
    try:
        crew = FilmCrew(algorithm, planned, tmp_path, max_steps=5)
        with Records(tmp_path) as records:
            assert len(iio.imread(crew.shoot(1, 100, records))) == 6
    finally:
        algorithm.stop()


def test_without_ffmpeg_the_video_is_a_gif(server, tmp_path, monkeypatch):
    def missing() -> None:
        raise film.VideoUnavailable("not there")

    monkeypatch.setattr(film.pictures, "check_mp4", missing)
    planned = plan_for("PPO", server, SPREAD)
    algorithm = build(planned)
    try:
        with Records(tmp_path) as records:
            path = FilmCrew(algorithm, planned, tmp_path).shoot(1, 100, records)
    finally:
        algorithm.stop()
    assert path.suffix == ".gif"
    assert len(iio.imread(path, index=None)) == 26


def test_a_simulator_without_pictures_says_so(shared_server, tmp_path):
    planned = plan_for("PPO", shared_server, "adder")
    with pytest.raises(Unsupported, match="simulator 'adder' gives no pictures"):
        FilmCrew(None, planned, tmp_path)  # type: ignore[arg-type]
