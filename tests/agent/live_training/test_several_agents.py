"""Simulators with several agents: what the learner gets is what the simulator recorded."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.policy import PolicySpec

from agent.live.env_runner import LiveMultiAgentEnvRunner
from agent.models.encoding import Encoding
from farsim import LiveClient
from farsim.errors import InvalidOption, UnknownPolicy
from farsim.live import Group
from tests.agent.live_training.game import HIDER, SEEKER, Game, Recording, policy_of
from tests.agent.live_training.runners import runner_of


def hide_and_seek(config: AlgorithmConfig | None = None, **env_config: Any) -> Any:
    settings = {"address": "127.0.0.1:0", "wait_seconds": 0.5, "groups": (SEEKER, HIDER)}
    codings = {
        name: Encoding(group.observation_space, group.action_space)
        for name, group in (("seek", SEEKER), ("hide", HIDER))
    }
    return (
        (config or PPOConfig())
        .environment("live", env_config={**settings, **env_config}, disable_env_checking=True)
        .env_runners(env_runner_cls=LiveMultiAgentEnvRunner, num_env_runners=0)
        .multi_agent(
            policies={
                name: PolicySpec(
                    observation_space=coding.observation_space, action_space=coding.action_space
                )
                for name, coding in codings.items()
            },
            policy_mapping_fn=policy_of,
        )
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(seed=3, log_level="ERROR")
    )


def parts_of(episodes: list[Any]) -> dict[tuple[str, str], list[Any]]:
    """The agents' chunks in order, by episode and agent."""
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for episode in episodes:
        for agent, part in episode.agent_episodes.items():
            found[episode.id_, agent].append(part)
    return found


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_what_the_learner_gets_equals_the_recording(steps: int) -> None:
    with runner_of(hide_and_seek()) as runner:
        with LiveClient(runner.live_address, mode="collect") as client:
            games = [Game(client, seed) for seed in range(3)]

            def live() -> None:
                for number, game in enumerate(games):
                    game.play(rounds=4 + number)

            thread = threading.Thread(target=live)
            thread.start()
            episodes: list[Any] = []
            while thread.is_alive() or runner._experience.episodes:
                episodes += runner.sample(num_timesteps=steps)
            thread.join(20)
            episodes += runner.sample(num_timesteps=1)
        parts = parts_of(episodes)
        names = sorted({name for name, _ in parts}, key=lambda name: int(name.rpartition("-")[2]))
        assert len(names) == 3
        for name, game in zip(names, games, strict=True):
            for agent in ("seeker", "second", "hider"):
                compare(game, agent, parts[name, agent])
        counts = runner.get_metrics()
        total = sum(sum(map(sum, game.earned.values())) for game in games) / 3
        assert counts["episode_return_mean"].peek() == pytest.approx(total)
        for policy in ("seek", "hide"):
            sampled = sum(
                len(game.done[agent])
                for game in games
                for agent in game.done
                if policy_of(agent) == policy
            )
            assert counts["num_module_steps_sampled_lifetime"][policy].peek() == sampled


def compare(game: Recording, agent: str, chunks: list[Any]) -> None:
    group = HIDER if agent == "hider" else SEEKER
    coding = Encoding(group.observation_space, group.action_space)
    observations: list[Any] = []
    actions: list[Any] = []
    rewards: list[float] = []
    for chunk in chunks:
        assert chunk.module_id == policy_of(agent)
        assert chunk.t_started == len(actions)
        own = list(chunk.get_observations())
        if observations:
            np.testing.assert_array_equal(observations.pop(), own[0])
        observations += own
        actions += list(chunk.get_actions())
        rewards += list(chunk.get_rewards())
    seen = game.seen[agent]
    if agent == "hider":
        batch = {name: np.array([one[name] for one in seen]) for name in ("hidden", "place")}
        np.testing.assert_array_equal(observations, coding.encode(batch))
        assert [action + 1 for action in actions] == game.done[agent]
    else:
        np.testing.assert_array_equal(observations, seen)
        scaled = np.clip(np.array(actions) * 2, -2, 2)
        np.testing.assert_allclose(scaled, game.done[agent], rtol=1e-5, atol=1e-6)
    assert rewards == game.earned[agent]
    ends = [(chunk.is_terminated, chunk.is_truncated) for chunk in chunks]
    assert ends[:-1] == [(False, False)] * (len(ends) - 1)
    assert ends[-1] == (game.terminated[agent], not game.terminated[agent])


def test_time_is_that_of_the_whole_episode() -> None:
    config = hide_and_seek(wait_seconds=20.0)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        game = Game(client, 0)
        game.play(rounds=3)
        (episode,) = runner.sample(num_timesteps=5)
    episode.validate()
    # Three turns, seven moves, and the end.
    assert (episode.env_t_started, episode.env_t) == (0, 11)
    assert episode.is_truncated  # Since the second seeker was.
    times = {
        agent: [time for time, own in enumerate(clock.get()) if own != episode.SKIP_ENV_TS_TAG]
        for agent, clock in episode.env_t_to_agent_t.items()
    }
    assert times["hider"] == [0, 2, 3, 5]
    assert times["second"] == [3, 4, 5, 6, 7, 8, 9]
    assert times["seeker"] == [1, 3, 4, 5, 6, 7, 8, 10, 11]


def test_agents_that_are_not_known_are_refused() -> None:
    with runner_of(hide_and_seek()) as runner:
        stranger = Group(SEEKER.observation_space, SEEKER.action_space, ("stranger",), "others")
        with pytest.raises(UnknownPolicy, match="stranger"):
            LiveClient(runner.live_address, mode="collect", groups=[stranger]).close()


def test_groups_have_to_be_said() -> None:
    with pytest.raises(InvalidOption, match="groups"), runner_of(hide_and_seek(groups=())):
        pass
