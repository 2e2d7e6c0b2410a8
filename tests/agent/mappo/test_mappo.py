"""PPO with a value function that sees all agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from agent.maddpg.cast import cast_for, others_of
from agent.mappo import MAPPO, MAPPOConfig
from agent.mappo.connector import OTHERS
from agent.training.ray_runtime import ray_runtime
from farsim.errors import InvalidOption
from tests.agent.maddpg.worlds import Approach, Diary, by_letter, one_each


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    # Networks this small only lose by threads that wait for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ray_runtime(cpus=4):
        yield
    torch.set_num_threads(threads)


def config_for(
    env: type[MultiAgentEnv], mapping: Any, env_config: dict[str, Any], **training: Any
) -> MAPPOConfig:
    agents = env(env_config).possible_agents
    config = MAPPOConfig().environment(env, env_config=env_config, disable_env_checking=True)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=10)
    config.multi_agent(policies=set(map(mapping, agents)), policy_mapping_fn=mapping)
    config.rl_module(model_config={"fcnet_hiddens": [32]})
    config.debugging(seed=2, log_level="ERROR")
    config.training(**training)
    return config


@pytest.mark.parametrize("leaves", [0, 2])
def test_values_see_what_the_others_saw_at_the_same_time(leaves: int) -> None:
    config = config_for(Diary, by_letter, {"leaves": leaves})
    config.validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    spaces = runner.get_spaces()
    learner = config.get_default_learner_class()(
        config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces)
    )
    learner.build()
    episodes = runner.sample(num_timesteps=70, random_actions=True)
    runner.stop()

    batch: Any = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=None
    )

    cast = {name: role.agents for name, role in cast_for(config, spaces).items()}
    assert others_of(cast, "a", "a_1") == ["a_0", "b_0", "c_0"]
    rows = batch["b"]
    own, mask = rows["obs"], rows["loss_mask"]
    others = rows[OTHERS].reshape(len(own), 3, 3)  # a_0, a_1, c_0
    assert mask.sum() >= 70
    # The last step of an episode's piece is there for its value only.
    for place, agent in enumerate(["a_0", "a_1", "c_0"]):
        gone = (own[:, 1] > leaves) if leaves and agent == "a_1" else torch.zeros_like(mask)
        seen = others[:, place, :2]
        assert torch.equal(seen[~gone], own[~gone][:, :2])
        assert not seen[gone].any()
    assert len(own) > mask.sum()


def test_agents_that_share_a_module_come_first_in_its_values() -> None:
    agents = {"x": ("x_0", "x_1"), "a": ("a_0",), "y": ("y_0", "y_1")}
    assert others_of(agents, "x", "x_1") == ["x_0", "a_0", "y_0", "y_1"]


@pytest.mark.parametrize(
    "space", [Discrete(3), Box(-1.0, 1.0, (1,), np.float32)], ids=["discrete", "continuous"]
)
@pytest.mark.usefixtures("ray")
def test_it_learns_and_comes_back(space: Any, tmp_path: Path) -> None:
    config = config_for(
        Approach,
        lambda agent, *_, **__: "both",
        {"action_space": space},
        train_batch_size_per_learner=400,
        minibatch_size=200,
        num_epochs=8,
        lr=1e-2,
        gamma=0.9,
        vf_clip_param=float("inf"),
    )
    algorithm = config.build_algo()
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(8)]
    algorithm.save_to_path(str(tmp_path))
    algorithm.stop()

    restored = MAPPO.from_checkpoint(str(tmp_path))
    again = restored.train()
    restored.stop()

    assert returns[-1] > returns[0] + 8
    assert again["training_iteration"] == 9
    assert again["env_runners"]["episode_return_mean"] > returns[0] + 8


def test_it_is_for_several_agents() -> None:
    with pytest.raises(InvalidOption, match="multi_agent"):
        MAPPOConfig().environment("CartPole-v1").validate()


def test_all_agents_must_be_known() -> None:
    config = config_for(Diary, one_each, {})
    config.environment(observation_space=Box(0, 1, (3,)))
    with pytest.raises(InvalidOption, match="Dict spaces"):
        cast_for(config, {INPUT_ENV_SINGLE_SPACES: None})
