"""Several live agents and RLlib's replay: what is sampled is what happened."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.policy.policy import PolicySpec
from ray.rllib.utils.replay_buffers.multi_agent_prioritized_episode_buffer import (
    MultiAgentPrioritizedEpisodeReplayBuffer,
)

from agent.live.env_runner import LiveMultiAgentEnvRunner
from farsim import LiveClient
from farsim.live import Group
from tests.agent.live_training.runners import runner_of

GROUPS = (
    Group(Box(-1e6, 1e6, (3,), np.float32), Discrete(2), ("early",), "first"),
    Group(Box(-1e6, 1e6, (2,), np.float32), Discrete(3), ("late",), "second"),
)


def policy_of(agent: str, episode: Any = None, **_: Any) -> str:
    return "first" if agent == "early" else "second"


def of_two(config: Any, **env_config: Any) -> Any:
    settings = {"address": "127.0.0.1:0", "wait_seconds": 0.5, "groups": GROUPS}
    return (
        config.environment("live", env_config={**settings, **env_config}, disable_env_checking=True)
        .env_runners(env_runner_cls=LiveMultiAgentEnvRunner, num_env_runners=0)
        .multi_agent(
            policies={
                group.name: PolicySpec(
                    observation_space=group.observation_space, action_space=group.action_space
                )
                for group in GROUPS
            },
            policy_mapping_fn=policy_of,
        )
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=3, log_level="ERROR")
    )


class Duel:
    """Turns; the second one joins late and ends early. No observation comes twice.

    Attributes:
        transitions: by policy and the first number of what was seen: action, reward, the first
            number of what was seen next, and whether the world ended.
    """

    def __init__(self, client: LiveClient, number: int) -> None:
        self.transitions: dict[tuple[str, float], tuple[int, float, float, bool]] = {}
        self._client, self._count = client, 1000.0 * number
        self._last: dict[str, tuple[float, int, float]] = {}

    def play(self, rounds: int) -> None:
        self._episode = self._client.episode()
        self._move("early")
        self._move("early")
        for _ in range(rounds):
            self._move("late")
            self._move("early", "late")
            self._move("early")
        self._move("late", "early", ends={"late"})
        for _ in range(rounds):
            self._move("early")
        seen = self._look("early", over=True)
        self._episode.end(seen[0], rewards=seen[1], terminateds={"early": True})

    def _move(self, *agents: str, ends: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        observations, rewards = {}, {}
        for agent in agents:
            own, earned = self._look(agent, agent in ends)
            observations |= own
            rewards |= earned
        actions = self._episode.observe(
            observations, rewards=rewards, terminateds=dict.fromkeys(ends, True)
        )
        for agent, action in actions.items():
            self._last[agent] = (float(observations[agent][0]), int(action))

    def _look(self, agent: str, over: bool) -> tuple[dict[str, Any], dict[str, float]]:
        self._count += 1
        rewards = {}
        if agent in self._last:
            before, action = self._last.pop(agent)
            rewards[agent] = self._count / 8
            self.transitions[policy_of(agent), before] = (
                action,
                self._count / 8,
                self._count,
                over,
            )
        width = 3 if agent == "early" else 2
        return {agent: np.full(width, self._count, np.float32)}, rewards


@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_what_is_replayed_is_what_happened(steps: int) -> None:
    buffer = MultiAgentPrioritizedEpisodeReplayBuffer(capacity=10_000)
    config = of_two(DQNConfig())
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        duels = [Duel(client, number) for number in range(3)]

        def live() -> None:
            for number, duel in enumerate(duels):
                duel.play(rounds=2 + number)

        thread = threading.Thread(target=live)
        thread.start()
        while thread.is_alive() or runner._experience.episodes:
            buffer.add(runner.sample(num_timesteps=steps))
        thread.join(20)
        buffer.add(runner.sample(num_timesteps=1))
    known = {key: value for duel in duels for key, value in duel.transitions.items()}
    found = set()
    for _ in range(20):
        for one in buffer.sample(
            num_items=64, n_step=1, gamma=0.99, beta=0.4, sample_episodes=True
        ):
            assert len(one) == 1
            key = (one.module_id, float(one.get_observations(0)[0]))
            wanted = known[key]
            row = (
                int(one.get_actions(0)),
                float(one.get_rewards(0)),
                float(one.get_observations(-1)[0]),
                one.is_terminated,
            )
            assert row == wanted, key
            found.add(key)
    assert found == set(known)
