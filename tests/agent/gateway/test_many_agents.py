"""Environments with many agents on servers that come and go."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np

from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner
from tests.agent.multi_agent.test_env_runner import NUMBERS, TOLD, config
from tests.gateways import dialling, gateway
from tests.simulators.told import AGENT, EPISODE, TIME

CONNECTION = {
    "request_seconds": 30.0,
    "resume_seconds": 5.0,
    "failover_seconds": 20.0,
    "recovery_seconds": 60.0,
}


def check(chunks: list[Any]) -> int:
    """That all transitions are what the simulator said; how many steps of environments."""
    for chunk in chunks:
        for agent in chunk.agent_ids:
            episode = chunk.agent_episodes[agent]
            observations, rewards = episode.get_observations(), episode.get_rewards()
            time = observations[0, TIME] + np.arange(len(rewards))
            np.testing.assert_array_equal(observations[:-1, TIME], time)
            np.testing.assert_array_equal(observations[1:, TIME], time + 1)
            np.testing.assert_array_equal(observations[:, AGENT], NUMBERS[agent])
            np.testing.assert_array_equal(observations[:, EPISODE], observations[0, EPISODE])
            np.testing.assert_array_equal(rewards, time + 1 + 100 * (NUMBERS[agent] + 1))
        if chunk.env_t_started == 0:
            assert chunk.agent_episodes["keeper"].get_observations(0)[TIME] == 0
    return sum(map(len, chunks))


def test_environments_are_absent_and_come_back() -> None:
    with ExitStack() as stack:
        head = stack.enter_context(gateway("--away-seconds", "0.5"))
        served = (head.listens_at, TOLD, "--seats", "2")
        stack.enter_context(dialling(*served))
        second = stack.enter_context(dialling(*served))
        head.wait_for_seats(4)
        settings: Any = config(SimpleNamespace(address=head.address))  # type: ignore[arg-type]
        settings.env_config |= {"envs_per_session": 1, "connection": CONNECTION}
        runner: Any = RemoteMultiAgentEnvRunner(settings, worker_index=1, num_workers=1)
        stack.callback(runner.stop)
        steps = check(runner.sample(num_timesteps=40))
        assert None not in runner.remote.addresses
        second.kill()
        for _ in range(3):
            chunks = runner.sample(num_timesteps=40)
            steps += check(chunks)
        assert runner.remote.addresses.count(None) == 2
        assert sum(runner._waiting) == 2
        stack.enter_context(dialling(*served))
        while None in runner.remote.addresses:
            steps += check(runner.sample(num_timesteps=40))
        steps += check(runner.sample(num_timesteps=40))
        assert not runner._waiting.any()
        metrics = runner.get_metrics()
        assert metrics["faults"].peek() == 2
        assert metrics["num_env_steps_sampled_lifetime"].peek() == steps
