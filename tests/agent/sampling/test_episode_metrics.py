"""Metrics of complete episodes, beside what RLlib makes of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from agent.env_runner import RemoteEnvRunner
from tests.agent.sampling.test_equality import CARTPOLE, assert_same_metric, config_of
from tests.servers import serving


class LogsAll(RemoteEnvRunner):
    """Logs as RLlib does."""

    _log_episode_metrics = SingleAgentEnvRunner._log_episode_metrics


@pytest.mark.parametrize("window", [7, 100])
def test_metrics_are_those_of_rllib_whatever_the_window(window: int) -> None:
    found = []
    with serving(CARTPOLE) as server:
        for kind in (LogsAll, RemoteEnvRunner):
            config = config_of(PPOConfig, server, CARTPOLE)
            config.reporting(metrics_num_episodes_for_smoothing=window)
            torch.manual_seed(2)
            runner = kind(config=config, worker_index=1, num_workers=1)
            try:
                metrics = []
                for _ in range(3):
                    # Several samples for the same metrics, and chunks of episodes in each.
                    ended = sum(
                        episode.is_done
                        for _ in range(3)
                        for episode in runner.sample(num_timesteps=150)
                    )
                    assert ended > 7
                    metrics.append(runner.get_metrics())
                    assert len(runner._ongoing_episodes_for_metrics) <= runner.num_envs
                found.append(metrics)
            finally:
                runner.stop()
    for theirs, ours in zip(*found, strict=True):
        assert set(theirs) == set(ours)
        for name in theirs:
            if name.startswith(
                ("episode_return", "episode_len", "agent_", "module_episode", "num_")
            ):
                assert_same_metric(theirs[name], ours[name], name)
        seconds = ours["episode_duration_sec_mean"]
        assert 0 < seconds.peek() < np.inf
        assert len(seconds.values) == len(theirs["episode_duration_sec_mean"].values)
