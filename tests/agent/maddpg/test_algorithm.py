"""MADDPG as RLlib's algorithm: it learns, saves, comes back and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray import tune
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

from agent.maddpg import MADDPG
from agent.training.ray_runtime import ray_runtime
from tests.agent.maddpg.worlds import Approach, Diary, by_letter, config_for, one_each

DISCRETE, CONTINUOUS = Discrete(3), Box(-1.0, 1.0, (1,), np.float32)


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    # Networks this small only lose by threads that wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ray_runtime(cpus=4):
        yield
    torch.set_num_threads(threads)


def greedy(algorithm: MADDPG) -> dict[str, np.ndarray[Any, Any]]:
    """What each policy's actor says to the same observations."""
    module: Any = algorithm.env_runner_group.local_env_runner.module
    observation = torch.linspace(-1, 1, 30).reshape(10, 3)
    outputs = {}
    for name in sorted(module.keys()):
        answer = module[name].forward_inference({Columns.OBS: observation})
        outputs[name] = next(iter(answer.values())).detach().numpy()
    return outputs


def learned(algorithm: MADDPG) -> Any:
    learner: Any = algorithm.learner_group._learner
    return learner.get_state()


def same(one: Any, other: Any) -> bool:
    """Whether nested states hold the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return bool(one == other)


def average_return(algorithm: MADDPG, episodes: int) -> float:
    """Of greedy episodes, summed over the agents."""
    runner: Any = algorithm.env_runner_group.local_env_runner
    played = runner.sample(num_episodes=episodes, explore=False)
    return float(np.mean([episode.get_return() for episode in played]))


@pytest.mark.parametrize(
    ("space", "mapping"),
    [(DISCRETE, one_each), (CONTINUOUS, lambda agent, *_: "both")],
    ids=["discrete, one policy each", "continuous, one for both"],
)
def test_it_learns(space: Any, mapping: Any) -> None:
    config = config_for(
        Approach,
        mapping,
        {"action_space": space},
        num_steps_sampled_before_learning_starts=200,
        env_steps_per_update=4,
        train_batch_size_per_learner=128,
        actor_lr=5e-3,
        critic_lr=5e-3,
        tau=0.05,
    )
    config.reporting(min_sample_timesteps_per_iteration=1500)
    algorithm = config.build_algo()
    untrained = average_return(algorithm, 40)

    results = algorithm.train()

    assert results["num_env_steps_sampled_lifetime"] >= 1500
    trained = average_return(algorithm, 40)
    algorithm.stop()
    # Standing still gives about -20, going straight to the goals -5.
    assert untrained < -14
    assert trained > -8


@pytest.mark.parametrize("keep_replay", [False, True])
def test_a_checkpoint_comes_back_and_goes_on(keep_replay: bool, tmp_path: Path) -> None:
    config = config_for(Diary, by_letter, store_replay_in_checkpoints=keep_replay)
    algorithm = config.build_algo()
    for _ in range(2):
        algorithm.train()
    algorithm.save_to_path(str(tmp_path))
    rows = len(algorithm.replay)
    actions, state = greedy(algorithm), learned(algorithm)
    algorithm.stop()

    restored = MADDPG.from_checkpoint(str(tmp_path))

    assert same(greedy(restored), actions)
    after = learned(restored)
    assert same(after["rl_module"], state["rl_module"])
    assert any("target_critic" in name for name in after["rl_module"]["a"])
    assert same(after["optimizer"], state["optimizer"])
    assert len(restored.replay) == (rows if keep_replay else 0)
    for _ in range(2):  # The first one may only fill the replay.
        results = restored.train()
    assert results["training_iteration"] == 4
    assert results["num_env_steps_sampled_lifetime"] >= 4 * 40
    assert not same(learned(restored)["rl_module"], state["rl_module"])
    restored.stop()


def test_a_checkpoints_networks_act_on_their_own(tmp_path: Path) -> None:
    config = config_for(Diary, by_letter)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.save_to_path(str(tmp_path))
    expected = greedy(algorithm)
    algorithm.stop()

    module: Any = MultiRLModule.from_checkpoint(
        tmp_path / "learner_group" / "learner" / "rl_module"
    )

    observation = torch.linspace(-1, 1, 30).reshape(10, 3)
    for name, outputs in expected.items():
        answer = module[name].forward_inference({Columns.OBS: observation})
        np.testing.assert_array_equal(next(iter(answer.values())).detach().numpy(), outputs)


def test_env_runners_get_the_new_actors_and_no_critics() -> None:
    config = config_for(Diary, by_letter)
    config.env_runners(num_env_runners=2)
    algorithm = config.build_algo()

    results = algorithm.train()

    state = learned(algorithm)["rl_module"]
    seen = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: {name: runner.module[name].get_state() for name in "abc"},
        local_env_runner=False,
    )
    assert len(seen) == 2
    for modules in seen:
        for name, values in modules.items():
            assert values and all(key.startswith("actor.") for key in values)
            assert same(values, {key: state[name][key] for key in values})
    for name in "abc":
        metrics = results["learners"][name]
        for metric in ("critic_loss", "policy_loss", "q_mean", "actor_entropy"):
            assert np.isfinite(metrics[metric])
        assert metrics["gradients_actor_global_norm"] > 0
        assert metrics["gradients_critic_global_norm"] > 0
    algorithm.stop()


def test_updates_keep_pace_with_the_steps_sampled() -> None:
    config = config_for(Diary, by_letter, env_steps_per_update=16)
    algorithm = config.build_algo()
    updates: list[int] = []
    update = algorithm._update
    algorithm._update = lambda: (updates.append(1), update())[1]  # type: ignore[method-assign]

    results: dict[str, Any] = {}
    for _ in range(3):
        results = algorithm.train()

    # Learning starts with the sample that fills the replay; a sample is 8 steps.
    sampled = results["num_env_steps_sampled_lifetime"] - (40 - 8)
    assert len(updates) == sampled // 16
    algorithm.stop()


@pytest.mark.slow
def test_tune_runs_it(tmp_path: Path) -> None:
    config = config_for(Diary, by_letter, actor_lr=tune.grid_search([1e-3, 1e-2]))
    tuner = tune.Tuner(
        MADDPG,
        param_space=config,
        run_config=tune.RunConfig(
            stop={"training_iteration": 2}, storage_path=str(tmp_path), verbose=0
        ),
    )
    results = tuner.fit()
    assert len(results) == 2 and not results.errors
    assert {result.config["actor_lr"] for result in results} == {1e-3, 1e-2}
