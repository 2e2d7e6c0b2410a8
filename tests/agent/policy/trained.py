"""Small checkpoints of every kind, made by RLlib in a second each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from agent.training import checkpoint as checkpoints
from agent.training import configuration
from agent.training.algorithm import Simulators, build, look_at, plan
from agent.training.checkpoint import Manifest
from agent.training.policies import PolicyWish
from agent.training.ray_runtime import quiet, ray_runtime
from tests.servers import serving

MASKED = "tests.simulators.envs:Masked"
TAG = "particle/simple_tag"
GARAGE = "tests.simulators.garage:Garage"

FARSIM_PPO = """
training: {train_batch_size_per_learner: 100, minibatch_size: 50, num_epochs: 1}
env_runners: {num_envs_per_env_runner: 4}
rl_module: {model_config: {fcnet_hiddens: [16]}}
debugging: {seed: 7}
"""
FARSIM_MADDPG = """
training: {num_steps_sampled_before_learning_starts: 50, train_batch_size_per_learner: 16}
env_runners: {num_envs_per_env_runner: 4}
reporting: {min_sample_timesteps_per_iteration: 100}
rl_module: {model_config: {fcnet_hiddens: [16]}}
debugging: {seed: 7}
"""


class Reach(gym.Env):
    """Two numbers to move to 0: bounds of the actions that are neither -1..1 nor symmetric."""

    observation_space = Box(-50.0, 50.0, (3,), np.float32)
    action_space = Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 5.0], np.float32))

    def __init__(self, config: Any = None) -> None:
        self._time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._time = 0
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self._time += 1
        return self._observe(), -float(np.sum(action)), False, self._time >= 10, {}

    def _observe(self) -> Any:
        return (self.np_random.normal(3.0, 7.0, 3)).astype(np.float32)


class Nested(Reach):
    """Dicts and choices to look at."""

    observation_space = Dict({"gear": Discrete(4), "speed": Box(-50.0, 50.0, (2,), np.float32)})
    action_space = Discrete(3)

    def _observe(self) -> Any:
        speed = self.np_random.normal(3.0, 7.0, 2).astype(np.float32)
        return {"gear": int(self.np_random.integers(4)), "speed": speed}


class TwoKinds(MultiAgentEnv):
    """An ant that chooses, and two bees that share a policy, with numbers for actions."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.possible_agents = self.agents = ["ant", "bee_0", "bee_1"]
        bee = Box(-9.0, 9.0, (2,), np.float32), Box(-2.0, 6.0, (1,), np.float32)
        self.observation_spaces = {
            "ant": Box(-9.0, 9.0, (3,), np.float32),
            "bee_0": bee[0],
            "bee_1": bee[0],
        }
        self.action_spaces = {"ant": Discrete(4), "bee_0": bee[1], "bee_1": bee[1]}
        self._random = np.random.default_rng(5)
        self._time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._time = 0
        return self._observe(), {}

    def step(self, actions: Any) -> Any:
        self._time += 1
        rewards = dict.fromkeys(actions, 1.0)
        return self._observe(), rewards, {"__all__": False}, {"__all__": self._time >= 10}, {}

    def _observe(self) -> Any:
        return {
            name: self._random.normal(i, 2.0 + i, space.shape).astype(np.float32)
            for i, (name, space) in enumerate(self.observation_spaces.items())
        }


class Scaled(SingleAgentObservationPreprocessor):
    """A user's own: observations in another unit."""

    def preprocess(self, observation: Any, episode: Any) -> Any:
        return (observation / 25.0 - 0.5).astype(np.float32)


class Previous(SingleAgentObservationPreprocessor):
    """A user's own that looks back: the change since the observation before."""

    def preprocess(self, observation: Any, episode: Any) -> Any:
        before = episode.get_observations(-2, fill=0.0)
        return np.asarray(observation - before, np.float32)


class Reluctant(ConnectorV2):
    """A user's own on the way back: half of what the network wants."""

    def __call__(self, *, rl_module: Any, batch: Any, episodes: Any, **_: Any) -> Any:
        self.foreach_batch_item_change_in_place(batch, "actions", lambda action, *_: action * 0.5)
        return batch


def policy_of(agent: str, episode: Any = None, **_: Any) -> str:
    return "ants" if agent == "ant" else "bees"


def _ppo(env: Any, model: DefaultModelConfig, connectors: Any = None) -> AlgorithmConfig:
    return (
        PPOConfig()
        .environment(env)
        .env_runners(num_env_runners=0, env_to_module_connector=connectors)
        .training(train_batch_size_per_learner=60, minibatch_size=30, num_epochs=1)
        .rl_module(model_config=model)
        .debugging(seed=3)
    )


SMALL = DefaultModelConfig(fcnet_hiddens=[16], vf_share_layers=False)
LSTM = DefaultModelConfig(
    fcnet_hiddens=[16], use_lstm=True, lstm_cell_size=8, max_seq_len=5, vf_share_layers=True
)


def configurations() -> dict[str, AlgorithmConfig]:
    """RLlib's own, by name. Classes in them are pickled by this module's name."""
    return {
        "normalised": _ppo(Reach, SMALL, lambda env, spaces, device: MeanStdFilter()),
        "nested": _ppo(
            Nested,
            SMALL,
            lambda env, spaces, device: [FlattenObservations(), MeanStdFilter()],
        ),
        "lstm": _ppo("CartPole-v1", LSTM),
        "own": _ppo(Reach, SMALL, lambda env, spaces, device: [Scaled(), MeanStdFilter()]),
        "own-lstm": _ppo("CartPole-v1", LSTM, lambda env, spaces, device: Scaled()),
        "own-back": _ppo(Reach, SMALL).env_runners(
            module_to_env_connector=lambda env, spaces: Reluctant()
        ),
        "own-previous": _ppo(Reach, SMALL, lambda env, spaces, device: Previous()),
        "sac": SACConfig()
        .environment(Reach)
        .env_runners(num_env_runners=0, rollout_fragment_length=10)
        .training(num_steps_sampled_before_learning_starts=10, train_batch_size_per_learner=16)
        .reporting(min_sample_timesteps_per_iteration=30)
        .rl_module(model_config=SMALL)
        .debugging(seed=3),
        "multi": _ppo(
            TwoKinds, SMALL, lambda env, spaces, device: MeanStdFilter(multi_agent=True)
        ).multi_agent(policies={"ants", "bees"}, policy_mapping_fn=policy_of),
    }


def train(config: AlgorithmConfig, folder: Path) -> Path:
    """A checkpoint after one iteration."""
    quiet()
    algorithm = config.build_algo()
    try:
        algorithm.train()
        algorithm.save_to_path(str(folder))
    finally:
        algorithm.stop()
    return folder


@dataclass(frozen=True)
class Run:
    """A training by Farsim."""

    algo: str
    simulator: str
    options: Mapping[str, Any] = field(default_factory=dict)
    policies: PolicyWish | None = None


TEAM_RUNS = {
    "maddpg": Run("MADDPG", TAG),
    "maddpg-continuous": Run("MADDPG", TAG, {"action_mode": "continuous"}, "each"),
    "mappo-continuous": Run("MAPPO", TAG, {"action_mode": "continuous"}),
    "ppo": Run("PPO", GARAGE),
}

DEEPRM = {"num_nw": 3, "simu_len": 10}
DEEPRM_RUNS = {
    "deeprm": Run("PPO", "deeprm", DEEPRM),
    "deeprm-unmasked": Run("PPO", "deeprm", {**DEEPRM, "action_mask": "none"}),
}


def train_farsim(run: Run, address: str, folder: Path, iterations: int = 1) -> Path:
    """The folder of a run as ``farsim train`` leaves it, as far as checkpoints go."""
    simulators = Simulators([address], run.simulator, run.options)
    text = FARSIM_MADDPG if run.algo == "MADDPG" else FARSIM_PPO
    layers = [configuration.parse(text, "test.yaml").sections]
    planned = plan(run.algo, simulators, look_at(simulators), layers, run.policies)
    algorithm = build(planned)
    try:
        for number in range(1, iterations + 1):
            algorithm.train()
            manifest = Manifest(
                simulator=planned.interface.simulator,
                options=run.options,
                session_options=planned.interface.session_options,
                algo=run.algo,
                settings=planned.settings,
                observation_space=planned.observation_space,
                action_space=planned.action_space,
                action_mask=planned.action_mask,
                iteration=number,
                steps=100 * number,
                seed=7,
                groups=planned.groups,
                policies=planned.mapping.by_agent if planned.mapping else {},
            )
            saved = checkpoints.save(algorithm, manifest, folder / "checkpoints", f"{number:06d}")
            checkpoints.point_to(folder, saved)
    finally:
        algorithm.stop()
    return folder


def main(folder: Path) -> None:
    """Makes all of them, each in a folder of its name."""
    with ray_runtime(cpus=2), serving(MASKED, TAG, GARAGE, "deeprm") as server:
        for name, config in configurations().items():
            train(config, folder / name)
        train_farsim(Run("PPO", MASKED), server.address, folder / "masked", iterations=2)
        for name, run in (TEAM_RUNS | DEEPRM_RUNS).items():
            train_farsim(run, server.address, folder / name)
