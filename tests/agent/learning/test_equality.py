"""What ``PPOLearner`` learns against what RLlib's own learner makes of the same episodes."""

from __future__ import annotations

import copy
import logging
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import tree
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.learner import AddInfosFromEpisodesToTrainBatch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from agent.learning import PPOLearner
from agent.mappo import MAPPOConfig
from agent.models.masked import MaskedModule
from tests.agent.maddpg.worlds import Diary, by_letter, one_each

UPDATES = 2
UPDATE = {"num_epochs": 3, "minibatch_size": 32, "shuffle_batch_per_epoch": True}
LSTM = {"fcnet_hiddens": [8], "use_lstm": True, "lstm_cell_size": 6, "max_seq_len": 5}
CLIPPED = {"grad_clip": 0.1, "entropy_coeff": 0.01, "use_kl_loss": False}


class Choices(gym.Env[Any, np.int64]):
    """Nests as observations: numbers, and which of three actions are allowed."""

    observation_space = Dict(observations=Box(-5, 5, (4,), np.float32), action_mask=Box(0, 1, (3,)))
    action_space = Discrete(3)

    def __init__(self, config: Any = None) -> None:
        self._rewards = (config or {}).get("reward", 1.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: np.int64) -> Any:
        self._steps += 1
        return self._seen(), float(action) * self._rewards, self._steps >= 9, False, {}

    def _seen(self) -> Any:
        mask = np.ones(3, np.float32)
        mask[self.np_random.integers(3)] = 0
        return {
            "observations": self.np_random.normal(size=4).astype(np.float32).clip(-5, 5),
            "action_mask": mask,
        }


class Halved(ConnectorV2):
    """Half of every reward."""

    def __call__(self, *, episodes: Any, batch: Any, **kwargs: Any) -> Any:
        for episode in episodes:
            episode.rewards.data = episode.rewards.data / 2
        return batch


class Steeper:
    """Changes what a learner is to learn, and its gradients, and logs something of its own."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        learner: Any = super()
        loss = 3 * learner.compute_loss_for_module(**kwargs)
        metrics: Any = self
        metrics.metrics.log_value(("default_policy", "steep"), loss, window=4)
        return loss

    def postprocess_gradients_for_module(self, **kwargs: Any) -> Any:
        learner: Any = super()
        found = learner.postprocess_gradients_for_module(**kwargs)
        return {parameter: gradient / 2 for parameter, gradient in found.items()}


class SteeperStock(Steeper, PPOTorchLearner):
    pass


class SteeperOurs(Steeper, PPOLearner):
    pass


def config_of(env: Any, **training: Any) -> Any:
    model = training.pop("model", {"fcnet_hiddens": [16, 16], "vf_share_layers": False})
    config = training.pop("kind", PPOConfig)().environment(env, disable_env_checking=True)
    config.environment(env_config=training.pop("env_config", {}))
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=5)
    config.env_runners(add_default_connectors_to_env_to_module_pipeline=True)
    if env is Choices:
        spec = RLModuleSpec(module_class=MaskedModule, model_config=model)
        config.rl_module(rl_module_spec=spec)
    else:
        config.rl_module(model_config=model)
    mapping = training.pop("mapping", None)
    if mapping is not None:
        agents = env({}).possible_agents
        config.multi_agent(policies=set(map(mapping, agents)), policy_mapping_fn=mapping)
        config.multi_agent(policies_to_train=training.pop("policies_to_train", None))
    config.learners(**training.pop("learners", {}))
    config.training(learner_config_dict={}, lr=1e-2)
    return config.training(**training).debugging(seed=4, log_level="ERROR")


def samples_of(config: Any, steps: int = 201) -> tuple[list[list[Any]], Any]:
    """Episodes for several updates, and the spaces of their modules."""
    torch.set_num_threads(1)
    config.validate()
    kind = MultiAgentEnvRunner if config.is_multi_agent else SingleAgentEnvRunner
    runner = kind(config=config, worker_index=0)
    try:
        runner.set_state({"weights_seq_no": 0})
        found = [runner.sample(num_timesteps=steps) for _ in range(UPDATES)]
        return found, runner.get_spaces()
    finally:
        runner.stop()


def learner_of(config: Any, spaces: Any, kind: Any) -> Any:
    own = config.copy(copy_frozen=False)
    learner = kind(config=own, module_spec=own.get_multi_rl_module_spec(spaces=spaces))
    learner.build()
    return learner


def update(learner: Any, episodes: list[Any], number: int, settings: Any) -> dict[Any, Any]:
    np.random.seed(number)
    torch.manual_seed(number)
    timesteps = {"num_env_steps_sampled_lifetime": 100 * number}
    results = learner.update(episodes=copy.deepcopy(episodes), timesteps=timesteps, **settings)
    numbers = {path: stats.peek() for path, stats in tree.flatten_with_path(results)}
    numbers["next random number"] = np.random.random()
    return {path: value for path, value in numbers.items() if "timer" not in str(path)}


def assert_equal(ours: Any, stock: Any) -> None:
    pairs = (
        (ours.module.get_state(), stock.module.get_state()),
        (ours._get_optimizer_state(), stock._get_optimizer_state()),
        (dict(ours.curr_kl_coeffs_per_module), dict(stock.curr_kl_coeffs_per_module)),
    )
    for one, other in pairs:
        tree.map_structure(np.testing.assert_array_equal, one, other)


PLAIN = pytest.param("CartPole-v1", {}, UPDATE, id="plain")
CASES = [
    PLAIN,
    pytest.param("CartPole-v1", CLIPPED, UPDATE, id="clipped"),
    pytest.param("CartPole-v1", {"entropy_coeff": [[0, 0.1], [200, 0.0]]}, UPDATE, id="schedule"),
    pytest.param("CartPole-v1", {"model": {"vf_share_layers": True}}, UPDATE, id="shared"),
    pytest.param("CartPole-v1", {"grad_clip": 0.1, "grad_clip_by": "value"}, UPDATE, id="by-value"),
    pytest.param("CartPole-v1", {"grad_clip": 0.1, "grad_clip_by": "norm"}, UPDATE, id="by-norm"),
    pytest.param("CartPole-v1", {}, {**UPDATE, "minibatch_size": None}, id="whole"),
    pytest.param("CartPole-v1", {}, {}, id="once"),
    pytest.param("CartPole-v1", {}, {**UPDATE, "minibatch_size": 500}, id="more-than-there-is"),
    pytest.param("CartPole-v1", {}, {**UPDATE, "shuffle_batch_per_epoch": False}, id="in-order"),
    pytest.param("CartPole-v1", {"use_critic": False}, UPDATE, id="no-critic"),
    pytest.param("Pendulum-v1", {"grad_clip": 40.0, "vf_clip_param": 1e5}, UPDATE, id="box"),
    pytest.param(Choices, {**CLIPPED}, UPDATE, id="masked"),
    pytest.param(Choices, {"env_config": {"reward": np.inf}}, UPDATE, id="not-finite"),
    pytest.param(Diary, {"mapping": by_letter}, UPDATE, id="several-policies"),
    pytest.param(
        Diary,
        {"mapping": one_each, "policies_to_train": ["a_1", "c_0"], "env_config": {"leaves": 2}},
        UPDATE,
        id="some-of-several-policies",
    ),
]
OTHERS = [
    pytest.param("CartPole-v1", {"model": LSTM}, UPDATE, ["a network with state"], id="lstm"),
    pytest.param(
        "CartPole-v1",
        {"learners": {"learner_connector": lambda *_: Halved()}},
        UPDATE,
        ["connectors of your own (Halved)"],
        id="connector",
    ),
    pytest.param(
        Diary,
        {"kind": MAPPOConfig, "mapping": by_letter},
        UPDATE,
        ["connectors of your own (AddOthersObservations)"],
        id="mappo",
    ),
    pytest.param(
        "CartPole-v1",
        {"learners": {"learner_connector": lambda *_: AddInfosFromEpisodesToTrainBatch()}},
        {**UPDATE, "shuffle_batch_per_epoch": False},
        ["connectors of your own (AddInfosFromEpisodesToTrainBatch)", "no tensors"],
        id="infos",
    ),
]


@pytest.mark.parametrize(("env", "settings", "how"), CASES)
def test_learns_what_rllib_learns(env, settings, how, caplog) -> None:
    config = config_of(env, **settings)
    samples, spaces = samples_of(config)
    learners = [learner_of(config, spaces, kind) for kind in (PPOLearner, PPOTorchLearner)]
    learners[0].module.set_state(learners[1].module.get_state())
    for number, episodes in enumerate(samples):
        ours, stock = (update(learner, episodes, number, how) for learner in learners)
        np.testing.assert_equal(ours, stock)
        assert_equal(*learners)
    assert not [record for record in caplog.records if record.name.startswith("agent.learning")]


@pytest.mark.parametrize(("env", "settings", "how", "reasons"), OTHERS)
def test_goes_rllibs_way_and_says_so_once(env, settings, how, reasons, caplog) -> None:
    config = config_of(env, **settings)
    samples, spaces = samples_of(config)
    learners = [learner_of(config, spaces, kind) for kind in (PPOLearner, PPOTorchLearner)]
    learners[0].module.set_state(learners[1].module.get_state())
    with caplog.at_level(logging.WARNING, "agent.learning"):
        for number, episodes in enumerate(samples):
            ours, stock = (update(learner, episodes, number, how) for learner in learners)
            np.testing.assert_equal(ours, stock)
            assert_equal(*learners)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("agent.learning")]
    assert len(said) == len(reasons)
    assert all(reason in message for reason, message in zip(reasons, said, strict=True))


def test_subclasses_can_change_loss_and_gradients() -> None:
    config = config_of("CartPole-v1", **CLIPPED)
    samples, spaces = samples_of(config)
    learners = [learner_of(config, spaces, kind) for kind in (SteeperOurs, SteeperStock)]
    learners[0].module.set_state(learners[1].module.get_state())
    for number, episodes in enumerate(samples):
        ours, stock = (update(learner, episodes, number, UPDATE) for learner in learners)
        assert ours[("default_policy", "steep")] == stock[("default_policy", "steep")]
        np.testing.assert_equal(ours, stock)
        assert_equal(*learners)


def test_goes_on_from_a_state_of_rllibs_learner_and_back() -> None:
    config = config_of("CartPole-v1")
    samples, spaces = samples_of(config)
    ours, stock = (learner_of(config, spaces, kind) for kind in (PPOLearner, PPOTorchLearner))
    ours.module.set_state(stock.module.get_state())
    for number, episodes in enumerate(samples):
        for learner in (ours, stock):
            update(learner, episodes, number, UPDATE)
        states = [copy.deepcopy(learner.get_state()) for learner in (ours, stock)]
        for learner, state in zip((ours, stock), reversed(states), strict=True):
            learner._weights_seq_no = 0
            learner.set_state(state)
        assert_equal(ours, stock)


def test_leaves_episodes_as_they_are() -> None:
    config = config_of("CartPole-v1")
    samples, spaces = samples_of(config)
    learner = learner_of(config, spaces, PPOLearner)
    before = copy.deepcopy([episode.get_state() for episode in samples[0]])
    learner.update(episodes=samples[0], timesteps={}, **UPDATE)
    after = [episode.get_state() for episode in samples[0]]
    np.testing.assert_equal(after, before)
