"""The head of RLlib's RLlink: episodes that an external environment has sampled by itself."""

from __future__ import annotations

import json
import sys
import time

from agent.bench.players.request import payload
from farsim.bench.turns import Lines, Stride, take_turns


def main() -> None:
    """Plays; see ``farsim.bench.turns``. The client is ``rllink_client``, a process of its own."""
    lines = Lines()
    import gymnasium as gym
    import torch
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.external.env_runner_server_for_external_inference import (
        EnvRunnerServerForExternalInference,
    )
    from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

    torch.set_num_threads(1)
    env = gym.make("CartPole-v1")
    fragment = 500
    config = (
        PPOConfig()
        .environment(
            observation_space=env.observation_space,
            action_space=env.action_space,
            env_config={"port": json.loads(sys.argv[1])["port"]},
        )
        .env_runners(num_env_runners=0, rollout_fragment_length=fragment)
        .rl_module(model_config={"fcnet_hiddens": [64, 64]})
        .debugging(log_level="ERROR", seed=1)
    )
    runner = EnvRunnerServerForExternalInference(config=config, worker_index=0)
    size = payload(1, env.observation_space.sample())
    weights = 0

    def stride() -> Stride:
        nonlocal weights
        steps = sum(len(episode) for episode in runner.sample())
        runner.get_metrics()
        # New weights, after which the client goes on.
        weights += 1
        runner.set_state({**runner.get_state(), WEIGHTS_SEQ_NO: weights})
        return Stride(steps, steps * size, 0.0)

    while runner.server_socket is None:
        time.sleep(0.01)
    take_turns(lines, stride, fragment=fragment)
    runner.stop()


if __name__ == "__main__":
    main()
