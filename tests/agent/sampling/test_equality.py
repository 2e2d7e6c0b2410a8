"""Episodes cut out of arrays against those that RLlib's own loop makes, field by field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

from agent.env_runner import RemoteEnvRunner
from agent.models.masked import MaskedModule
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
PENDULUM = "gymnasium/Pendulum-v1"
DISCRETE = "gymnasium/Taxi-v3"
MIXED = "tests.simulators.envs:Mixed"
MASKED = "tests.simulators.envs:Masked"
DEEPRM = "deeprm"
SMALL = {"fcnet_hiddens": [8]}

#: What differs from run to run, whoever makes the episodes.
_NOT_COMPARED = {"id_", "_start_time", "_last_step_time"}


class Stock(RemoteEnvRunner):
    """RLlib's own loop."""

    def _works_on_batches(self) -> bool:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(CARTPOLE, PENDULUM, DISCRETE, MIXED, MASKED, DEEPRM) as server:
        yield server


def config_of(kind: type[AlgorithmConfig], server: Serving, simulator: str, **more: Any) -> Any:
    env_config = {
        "addresses": server.address,
        "simulator": simulator,
        "splits": 1,
        "autoreset_mode": "NextStep",
    }
    env_config |= more.pop("env_config", {})
    model = more.pop("model", SMALL)
    module = more.pop("module", None)
    network: dict[str, Any] = {"model_config": model}
    if module is not None:
        spec = RLModuleSpec(module_class=module, model_config=model)
        network = {"rl_module_spec": spec}
    settings = {"num_envs_per_env_runner": 5, "rollout_fragment_length": 30, "num_env_runners": 0}
    return (
        kind()
        .environment("farsim", env_config=env_config, disable_env_checking=True)
        .env_runners(**{**settings, **more})
        .rl_module(**network)
        .debugging(seed=3)
    )


def flat_normalized(env: Any = None, spaces: Any = None, device: Any = None) -> list[Any]:
    return [FlattenObservations(), MeanStdFilter()]


def normalized(env: Any = None, spaces: Any = None, device: Any = None) -> list[Any]:
    return [MeanStdFilter()]


def flat(env: Any = None, spaces: Any = None, device: Any = None) -> list[Any]:
    return [FlattenObservations()]


def samples(kind: type[RemoteEnvRunner], config: Any, calls: list[dict[str, Any]]) -> Any:
    """What an env runner samples in several calls, and its metrics after each."""
    torch.manual_seed(1)
    runner = kind(config=config.copy(copy_frozen=False), worker_index=1, num_workers=1)
    try:
        runner.env.action_space.seed(5)
        weights = np.random.default_rng(7)
        runner.module.set_state(
            tree.map_structure(
                lambda leaf: weights.normal(0.0, 0.3, leaf.shape).astype(np.float32),
                runner.module.get_state(),
            )
        )
        found = []
        for number, call in enumerate(calls):
            torch.manual_seed(number)
            np.random.seed(number)
            runner._weights_seq_no = number
            found.append((runner.sample(**call), runner.get_metrics()))
            assert (runner._sampler is None) == (kind is Stock)
        return found
    finally:
        runner.stop()


def fields(episode: SingleAgentEpisode) -> dict[str, Any]:
    state = episode.get_state()
    return {name: value for name, value in state.items() if name not in _NOT_COMPARED}


def assert_same(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        assert isinstance(other, dict), where
        assert set(one) == set(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert type(one) is type(other), where
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    elif isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray), where
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        np.testing.assert_array_equal(one, other, where)
    else:
        assert one == other or (one != one and other != other), (where, one, other)


STEPS: list[dict[str, Any]] = [{"num_timesteps": 150, "explore": True}] * 3
EVERYTHING: list[dict[str, Any]] = [
    {"num_timesteps": 40, "explore": True, "random_actions": True},
    {"num_timesteps": 31, "explore": True, "random_actions": True},
    {"num_timesteps": 150, "explore": True},
    {"num_timesteps": 3, "explore": True},
    {"num_timesteps": 101, "explore": False},
    {"num_episodes": 7, "explore": False},
    {"num_timesteps": 60, "explore": True, "force_reset": True},
]
LONG: list[dict[str, Any]] = [{"num_timesteps": 400, "explore": True}] * 3
# RLlib can not make an episode in which SAC explores in one part, and does not in another.
APART: list[dict[str, Any]] = [*LONG, {**LONG[0], "explore": False, "force_reset": True}]
WHOLE: list[dict[str, Any]] = [*STEPS, {"num_episodes": 7, "explore": False}, *STEPS[:1]]
LSTM = {**SMALL, "use_lstm": True, "lstm_cell_size": 6, "max_seq_len": 5}
NORMALIZED = {"env_to_module_connector": normalized}
FLAT = {"env_to_module_connector": flat}
BOTH = {"env_to_module_connector": flat_normalized}
JOBS = {"simu_len": 8, "num_nw": 3, "end": "no_new_job", "action_limit": 14}


def masked(module: type) -> dict[str, Any]:
    return {
        "env_config": {"options": JOBS, "action_mask_in_observation": True},
        "module": module,
    }


@pytest.mark.parametrize(
    ("kind", "simulator", "calls", "more"),
    [
        pytest.param(PPOConfig, CARTPOLE, EVERYTHING, {}, id="ppo"),
        pytest.param(PPOConfig, PENDULUM, LONG, {}, id="ppo-continuous"),
        pytest.param(PPOConfig, CARTPOLE, EVERYTHING, NORMALIZED, id="ppo-normalized"),
        pytest.param(PPOConfig, DISCRETE, LONG, FLAT, id="ppo-one-hot"),
        pytest.param(PPOConfig, MIXED, STEPS, BOTH, id="ppo-dict-flat-normalized"),
        pytest.param(PPOConfig, CARTPOLE, WHOLE, {"model": LSTM}, id="ppo-lstm"),
        pytest.param(
            PPOConfig, CARTPOLE, STEPS, {"model": LSTM, **NORMALIZED}, id="ppo-lstm-normalized"
        ),
        pytest.param(
            PPOConfig, CARTPOLE, STEPS, {"episode_lookback_horizon": 4}, id="ppo-lookback"
        ),
        pytest.param(
            PPOConfig, CARTPOLE, STEPS, {"episode_lookback_horizon": 0}, id="ppo-no-lookback"
        ),
        pytest.param(PPOConfig, DEEPRM, WHOLE, masked(MaskedModule), id="ppo-masks"),
        pytest.param(
            PPOConfig, DEEPRM, WHOLE, masked(ActionMaskingTorchRLModule), id="ppo-masks-of-rllib"
        ),
        pytest.param(IMPALAConfig, DEEPRM, STEPS, masked(MaskedModule), id="impala-masks"),
        pytest.param(IMPALAConfig, CARTPOLE, STEPS, {}, id="impala"),
        pytest.param(APPOConfig, CARTPOLE, STEPS, {}, id="appo"),
        pytest.param(SACConfig, PENDULUM, APART, {}, id="sac"),
        pytest.param(DQNConfig, CARTPOLE, EVERYTHING, {}, id="dqn"),
    ],
)
def test_episodes_are_those_of_rllib(server, kind, simulator, calls, more) -> None:
    config = config_of(kind, server, simulator, **dict(more))
    stock, ours = (samples(runner, config, calls) for runner in (Stock, RemoteEnvRunner))
    ended = 0
    for number, ((theirs, their_metrics), (found, metrics)) in enumerate(
        zip(stock, ours, strict=True)
    ):
        assert len(found) == len(theirs)
        for place, (one, other) in enumerate(zip(found, theirs, strict=True)):
            assert type(one) is SingleAgentEpisode
            one.validate()
            ended += one.is_done
            assert_same(fields(one), fields(other), f"call {number}, episode {place}: ")
        for name in their_metrics:
            if name.startswith(
                ("episode_return", "episode_len", "num_", "agent_", "module_episode")
            ):
                assert_same_metric(their_metrics[name], metrics[name], name)
        assert set(their_metrics) <= set(metrics)
    assert ended
    assert ended < sum(len(found) for found, _ in ours)


def assert_same_metric(one: Any, other: Any, name: str) -> None:
    if isinstance(one, dict):
        for key in one:
            assert_same_metric(one[key], other[key], f"{name}/{key}")
    else:
        np.testing.assert_equal(one.peek(), other.peek(), name)
