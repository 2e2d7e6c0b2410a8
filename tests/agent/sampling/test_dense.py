"""Acting in NumPy beside acting in PyTorch."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import tree
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from ray.rllib.algorithms.ppo import PPOConfig

from agent.env_config import RemoteEnvConfig
from agent.env_runner import RemoteEnvRunner
from agent.sampling.dense import NumpyForward
from agent.sampling.forward import Forward
from farsim.errors import InvalidOption
from tests.agent.sampling.test_equality import CARTPOLE, config_of
from tests.servers import Serving

SEEN = Box(-1, 1, (5,), np.float32)


def module_of(actions: gym.Space[Any], **model: Any) -> Any:
    torch.manual_seed(3)
    config = PPOConfig().rl_module(model_config={"fcnet_hiddens": [16, 16], **model})
    config.environment(observation_space=SEEN, action_space=actions)
    spaces = {"__env_single__": (SEEN, actions), "default_policy": (SEEN, actions)}
    return config.get_rl_module_spec(spaces=spaces, inference_only=True).build()


def numpy_forward(module: Any) -> NumpyForward:
    return NumpyForward(module, "cpu", np.random.default_rng(1))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("actions", [Discrete(2), Discrete(4), Box(-1, 1, (2,), np.float32)])
def test_both_say_the_same(actions: gym.Space[Any], activation: str) -> None:
    module = module_of(actions, fcnet_activation=activation)
    seen = np.random.default_rng(2).uniform(-1, 1, (33, 5)).astype(np.float32)
    ours = numpy_forward(module)
    for _ in range(2):
        theirs = Forward(module, "cpu")(seen, True, 0)
        found = ours(seen, True, 0)
        assert set(found) == set(theirs)
        for name, values in theirs.items():
            assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        inputs = found["action_dist_inputs"]
        np.testing.assert_allclose(inputs, theirs["action_dist_inputs"], atol=1e-6)
        kind = module.get_exploration_action_dist_cls()
        distribution = kind.from_logits(torch.from_numpy(theirs["action_dist_inputs"]))
        logp = distribution.logp(torch.from_numpy(found["actions"]))
        np.testing.assert_allclose(found["action_logp"], logp.numpy(), atol=1e-5)
        # Weights that come from the learner are written into the same arrays.
        module.set_state(
            {name: np.asarray(value) * 1.5 for name, value in module.get_state().items()}
        )


@pytest.mark.parametrize("choices", [2, 4])
def test_choices_are_as_frequent_as_their_probabilities(choices: int) -> None:
    module = module_of(Discrete(choices))
    seen = np.repeat(np.array([[0.9, -0.8, 0.7, 0.1, -1.0]], np.float32), 40_000, axis=0)
    found = numpy_forward(module)(seen, True, 0)
    logits = found["action_dist_inputs"][0].astype(np.float64) * 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum()
    counts = np.bincount(found["actions"], minlength=choices)
    bound = 4 * np.sqrt(len(seen) * probabilities * (1 - probabilities))
    assert (np.abs(counts - len(seen) * probabilities) < bound).all()


def test_numbers_are_drawn_round_their_means() -> None:
    module = module_of(Box(-1, 1, (2,), np.float32))
    seen = np.repeat(np.array([[0.9, -0.8, 0.7, 0.1, -1.0]], np.float32), 40_000, axis=0)
    found = numpy_forward(module)(seen, True, 0)
    means, logs = np.split(found["action_dist_inputs"][0].astype(np.float64), 2)
    drawn = found["actions"].astype(np.float64)
    deviations = np.exp(logs)
    assert (np.abs(drawn.mean(axis=0) - means) < 4 * deviations / 200).all()
    np.testing.assert_allclose(drawn.std(axis=0), deviations, rtol=0.03)


@pytest.mark.parametrize(
    ("actions", "model"),
    [
        (MultiDiscrete([2, 3]), {}),
        (Discrete(4), {"fcnet_activation": "silu"}),
        (Discrete(4), {"use_lstm": True, "max_seq_len": 5}),
    ],
)
def test_what_it_does_not_know_goes_the_way_of_pytorch(actions, model, caplog) -> None:
    module = module_of(actions, **model)
    seen = np.zeros((3, 5), np.float32)
    state = None
    if module.is_stateful():
        state = tree.map_structure(
            lambda part: np.zeros((3, *part.shape), np.float32), module.get_initial_state()
        )
    with caplog.at_level(logging.WARNING, "agent.sampling.dense"):
        ours = numpy_forward(module)
    assert "can not act in NumPy" in caplog.text
    torch.manual_seed(1)
    found = ours(seen, True, 0, state)
    torch.manual_seed(1)
    theirs = Forward(module, "cpu")(seen, True, 0, state)
    np.testing.assert_array_equal(found["actions"], theirs["actions"])


def test_the_likeliest_actions_are_those_of_pytorch() -> None:
    module = module_of(Discrete(4))
    seen = np.random.default_rng(2).uniform(-1, 1, (33, 5)).astype(np.float32)
    found, theirs = numpy_forward(module)(seen, False, 0), Forward(module, "cpu")(seen, False, 0)
    np.testing.assert_array_equal(found["actions"], theirs["actions"])


def test_an_env_runner_samples_with_it(shared_server: Serving) -> None:
    lengths = []
    for _ in range(2):
        config = config_of(
            PPOConfig, shared_server, CARTPOLE, env_config={"inference": "numpy", "splits": 2}
        )
        runner: Any = RemoteEnvRunner(config=config, worker_index=1, num_workers=1)
        try:
            assert isinstance(
                runner.sample(num_timesteps=100) and runner._sampler._forward, NumpyForward
            )
            lengths.append([len(chunk) for chunk in runner.sample(num_timesteps=150)])
        finally:
            runner.stop()
    assert sum(lengths[0]) >= 150
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inference": "jax"}, r"env_config\['inference'\] is one of 'torch', 'numpy', not 'jax'"),
        ({"autoreset_mode": "Disabled"}, "one of '', 'SameStep', 'NextStep', not 'Disabled'"),
    ],
)
def test_what_there_is_to_choose_is_said(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        RemoteEnvConfig.of({"addresses": "127.0.0.1:1", **wrong})
