"""Live env runners that are made by hand, with small networks and without a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig

from agent.live.env_runner import LiveEnvRunner, LiveMultiAgentEnvRunner

SEEN = Box(-np.inf, np.inf, (4,), np.float32)
CHOICE = Discrete(2)


def configured(
    config: AlgorithmConfig | None = None,
    observation_space: Any = SEEN,
    action_space: Any = CHOICE,
    model: dict[str, Any] | None = None,
    **env_config: Any,
) -> Any:
    """A configuration for one agent: PPO's, unless another one is given."""
    settings = {"address": "127.0.0.1:0", "wait_seconds": 20.0, **env_config}
    return (
        (config or PPOConfig())
        .environment(
            "live",
            env_config=settings,
            observation_space=observation_space,
            action_space=action_space,
            disable_env_checking=True,
        )
        .env_runners(env_runner_cls=LiveEnvRunner, num_env_runners=0)
        .rl_module(model_config={"fcnet_hiddens": [8], **(model or {})})
        .debugging(seed=3, log_level="ERROR")
    )


@contextmanager
def runner_of(config: Any) -> Iterator[Any]:
    kind = LiveMultiAgentEnvRunner if config.is_multi_agent else LiveEnvRunner
    runner = kind(config=config, worker_index=0, num_workers=0)
    try:
        yield runner
    finally:
        runner.stop()


def all_of(runner: Any, episodes: int, steps: int = 1) -> list[Any]:
    """Chunks, from samples of so many steps, until so many episodes have come to their end."""
    found: list[Any] = []
    while sum(chunk.is_done for chunk in found) < episodes:
        chunks = runner.sample(num_timesteps=steps)
        assert chunks, "nothing has come"
        found += chunks
    return found


def new_weights(runner: Any, number: int, scale: float = 1.0) -> None:
    """What RLlib does after a learner's update."""
    state = runner.get_state(components="rl_module")["rl_module"]
    changed = {name: np.asarray(value) * scale for name, value in state.items()}
    runner.set_state({"rl_module": changed, "weights_seq_no": number})
