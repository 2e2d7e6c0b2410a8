"""RLlib's multi-agent env runner on remote simulators: real servers, real policies."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from agent.env_runner import EPISODES_CUT_BY_FAULT, FAULTS
from agent.multi_agent.env_runner import RemoteMultiAgentEnvRunner
from agent.training.ray_runtime import ray_runtime
from farsim.errors import SimulatorFault, Unsupported
from tests.servers import Serving, serving
from tests.simulators.told import ACTION, AGENT, DRAWN, EPISODE, TIME

TOLD = "tests.simulators.told:Told"
SPREAD = "particle/simple_spread"
NUMBERS = {"runner_0": 0, "runner_1": 1, "keeper": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(TOLD, SPREAD) as running:
        yield running


def config(server: Serving, simulator: str = TOLD, **options: Any) -> PPOConfig:
    mapping = options.pop("mapping", lambda agent, episode, **_: agent.split("_")[0])
    policies = options.pop("policies", {"runner", "keeper"})
    seed = options.pop("seed", 3)
    return (
        PPOConfig()
        .environment(
            "remote",
            env_config={
                "addresses": server.address,
                "simulator": simulator,
                "options": options,
            },
            disable_env_checking=True,
        )
        .env_runners(
            env_runner_cls=RemoteMultiAgentEnvRunner,
            num_env_runners=0,
            num_envs_per_env_runner=4,
            rollout_fragment_length=5,
        )
        .multi_agent(policies=policies, policy_mapping_fn=mapping)
        .debugging(seed=seed)
    )


def spread(server: Serving, **changes: Any) -> PPOConfig:
    return config(server, SPREAD, mapping=lambda *_, **__: "all", policies={"all"}, **changes)


@pytest.fixture
def runner(server: Serving) -> Iterator[RemoteMultiAgentEnvRunner]:
    made = RemoteMultiAgentEnvRunner(config=config(server))
    yield made
    made.stop()


def by_episode(chunks: list[MultiAgentEpisode]) -> dict[str, list[MultiAgentEpisode]]:
    found = defaultdict(list)
    for chunk in chunks:
        found[chunk.id_].append(chunk)
    return {
        name: sorted(parts, key=lambda part: part.env_t_started) for name, parts in found.items()
    }


def test_every_transition_is_what_the_simulator_said(runner):
    chunks = [chunk for _ in range(6) for chunk in runner.sample(num_timesteps=20)]
    assert len(by_episode(chunks)) >= 12
    seen = set()
    for parts in by_episode(chunks).values():
        assert parts[0].env_t_started == 0
        for before, after in itertools.pairwise(parts):
            assert before.env_t == after.env_t_started
            assert not before.is_done
        for agent, number in NUMBERS.items():
            mine = [part.agent_episodes[agent] for part in parts if agent in part.agent_ids]
            observations = np.concatenate([part.get_observations()[:-1] for part in mine])
            following = np.concatenate([part.get_observations()[1:] for part in mine])
            rewards = np.concatenate([part.get_rewards() for part in mine])
            actions = np.concatenate([part.get_actions() for part in mine])
            time = np.arange(len(observations))
            assert (observations[:, TIME] == time).all()
            assert (following[:, TIME] == time + 1).all()
            assert (observations[:, AGENT] == number).all()
            assert np.unique(np.concatenate([observations, following])[:, EPISODE]).size == 1
            assert (rewards == time + 1 + 100 * (number + 1)).all()
            if agent != "keeper":  # Its actions are scaled to the simulator's bounds.
                assert (following[:, ACTION] == actions).all()
            assert mine[0].t_started == 0
        seen.add(parts[0].agent_episodes["keeper"].get_observations(0)[EPISODE])
    assert len(seen) == len(by_episode(chunks))


def test_an_agent_that_leaves_is_terminated_and_the_rest_truncated(runner):
    episodes = runner.sample(num_episodes=4)
    assert len(episodes) == 4
    for episode in episodes:
        left = episode.agent_episodes["runner_1"]
        assert (len(left), left.is_terminated, left.is_truncated) == (3, True, False)
        for agent in ("runner_0", "keeper"):
            stayed = episode.agent_episodes[agent]
            assert (len(stayed), stayed.is_terminated, stayed.is_truncated) == (7, False, True)
        assert (episode.is_terminated, episode.is_truncated) == (False, True)
        # RLlib's clock of the agent that left stops; the others' go on to the end.
        assert episode.env_t_to_agent_t["runner_1"].data == [0, 1, 2, 3, "S", "S", "S", "S"]


def test_all_agents_truncated_at_once_are_not_terminated(server):
    """RLlib's own bookkeeping makes a termination of it, and bootstraps from nothing."""
    theirs = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, episode: "p")
    theirs.add_env_reset(observations={"a": 0.0, "b": 0.0})
    theirs.add_env_step(
        observations={"a": 1.0, "b": 1.0},
        actions={"a": 0, "b": 0},
        rewards={"a": 0.0, "b": 0.0},
        truncateds={"a": True, "b": True, "__all__": True},
    )
    assert theirs.is_terminated  # When this fails, RLlib has mended it.

    runner = RemoteMultiAgentEnvRunner(config=spread(server, max_cycles=6))
    try:
        for episode in runner.sample(num_episodes=8):
            assert (episode.is_terminated, episode.is_truncated) == (False, True)
            for part in episode.agent_episodes.values():
                assert (part.is_terminated, part.is_truncated) == (False, True)
                assert len(part) == 6
    finally:
        runner.stop()


def test_a_world_that_ends_is_terminated(server):
    runner = RemoteMultiAgentEnvRunner(config=config(server, terminates=1))
    try:
        for episode in runner.sample(num_episodes=4):
            assert (episode.is_terminated, episode.is_truncated) == (True, False)
            assert all(part.is_terminated for part in episode.agent_episodes.values())
    finally:
        runner.stop()


def starts(runner: RemoteMultiAgentEnvRunner, episodes: int = 8) -> list[float]:
    found = runner.sample(num_episodes=episodes)
    return [float(e.agent_episodes["keeper"].get_observations(0)[DRAWN]) for e in found]


def test_no_two_copies_and_no_two_runners_replay_one_stream(server):
    """RLlib's environment check resets every copy with seed 42, and runner w, copy i gets w + i."""
    here = config(server)
    runners = [
        RemoteMultiAgentEnvRunner(config=here, worker_index=index, num_workers=2)
        for index in (1, 2)
    ]
    again = RemoteMultiAgentEnvRunner(config=here, worker_index=1, num_workers=2)
    try:
        first, second = (starts(runner) for runner in runners)
        assert len({*first, *second}) == 16
        assert starts(again) == first
        assert not set(starts(again)) & set(first)
    finally:
        for runner in (*runners, again):
            runner.stop()


def test_evaluation_plays_the_same_episodes_each_time(server):
    here = config(server)
    here.in_evaluation = True
    runner = RemoteMultiAgentEnvRunner(config=here, worker_index=1, num_workers=1)
    try:
        assert starts(runner) == starts(runner)
    finally:
        runner.stop()


def test_no_step_is_lost_to_resets(server):
    runner = RemoteMultiAgentEnvRunner(config=spread(server, max_cycles=3))
    try:
        chunks = runner.sample(num_timesteps=4 * 30)
        assert sum(len(chunk) for chunk in chunks) == 4 * 30
        assert sum(chunk.is_done for chunk in chunks) == 4 * 10
    finally:
        runner.stop()


def test_metrics_are_those_of_whole_episodes(server):
    runner = RemoteMultiAgentEnvRunner(config=config(server))
    try:
        runner.sample(num_timesteps=4 * 16)  # Two episodes of each environment, and a bit.
        found = runner.get_metrics()
        mine = sum(range(1, 8)) + 7 * 100, sum(range(1, 4)) + 3 * 200, sum(range(1, 8)) + 7 * 300
        agents = found["agent_episode_returns_mean"]
        assert agents["runner_0"].peek() == mine[0]
        assert agents["runner_1"].peek() == mine[1]
        assert found["module_episode_returns_mean"]["runner"].peek() == mine[0] + mine[1]
        assert found["module_episode_returns_mean"]["keeper"].peek() == mine[2]
        assert found["episode_return_mean"].peek() == sum(mine)
        assert found["episode_len_mean"].peek() == 7
        assert found["num_episodes"].peek() == 8
        assert found["num_env_steps_sampled"].peek() == 64
        assert found["num_agent_steps_sampled"]["keeper"].peek() == 64
        assert found["num_agent_steps_sampled"]["runner_1"].peek() == 2 * 4 * 3 + 4 * 2
        assert found["info"]["keeper"]["time_last"].peek() == 7
        assert found["info"]["keeper"]["time_mean"].peek() == 4
        assert found[FAULTS].peek() == 0
    finally:
        runner.stop()


def test_a_fault_ends_one_episode_with_its_last_real_step(server):
    runner = RemoteMultiAgentEnvRunner(config=config(server, length=50, fails_every=90))
    try:
        chunks = runner.sample(num_timesteps=4 * 120)
        cut = [chunk for chunk in chunks if "fault" in chunk.custom_data]
        assert cut
        for chunk in cut:
            assert "out of order" in chunk.custom_data["fault"]
            assert (chunk.is_terminated, chunk.is_truncated) == (False, True)
            part = chunk.agent_episodes["keeper"]
            assert part.is_truncated
            assert (part.get_rewards() > 0).all()
            assert (np.diff(part.get_observations()[:, TIME]) == 1).all()
        steps = sum(len(chunk) for chunk in chunks)
        metrics = runner.get_metrics()
        assert metrics[FAULTS].peek() == len(cut) == metrics[EPISODES_CUT_BY_FAULT].peek()
        assert metrics["num_env_steps_sampled"].peek() == steps
    finally:
        runner.stop()


def test_a_simulator_that_only_fails_is_an_error(server):
    runner = RemoteMultiAgentEnvRunner(config=config(server, fails_every=1))
    try:
        with pytest.raises(SimulatorFault, match="out of order"):
            runner.sample(num_timesteps=400)
    finally:
        runner.stop()


def test_policies_may_be_drawn_for_each_episode(server):
    drawn = np.random.default_rng(1)
    agents: dict[tuple[str, str], str] = {}

    def mapping(agent: str, episode: MultiAgentEpisode, **_: Any) -> str:
        policy = "one" if drawn.random() < 0.5 else "two"
        assert (episode.id_, agent) not in agents
        agents[episode.id_, agent] = policy
        return policy

    made = config(server, SPREAD, mapping=mapping, policies={"one", "two"}, max_cycles=4)
    runner = RemoteMultiAgentEnvRunner(config=made)
    try:
        chunks = runner.sample(num_timesteps=4 * 30)
        for chunk in chunks:
            for agent, part in chunk.agent_episodes.items():
                assert part.module_id == agents[chunk.id_, agent]
                logits = part.get_extra_model_outputs("action_dist_inputs")
                own = runner.module[part.module_id]
                np.testing.assert_allclose(logits, play(own, part), rtol=1e-4, atol=1e-5)
        assert set(agents.values()) == {"one", "two"}
    finally:
        runner.stop()


def play(module: Any, part: Any) -> np.ndarray:
    import torch

    seen = torch.from_numpy(np.ascontiguousarray(part.get_observations()[:-1]))
    with torch.no_grad():
        return module.forward_exploration({"obs": seen})["action_dist_inputs"].numpy()


def test_actions_of_a_box_are_scaled_to_its_bounds(server):
    """The network acts around 0; the server refuses what is beyond the simulator's 0 to 1."""
    runner = RemoteMultiAgentEnvRunner(config=config(server))
    try:
        for chunk in runner.sample(num_timesteps=4 * 20):
            part = chunk.agent_episodes["keeper"]
            action = part.get_actions()[:, 0]
            arrived = part.get_observations()[1:, ACTION]
            np.testing.assert_allclose(arrived, np.clip((action + 1) / 2, 0, 1), atol=1e-6)
    finally:
        runner.stop()


def test_random_actions_need_no_policy(runner):
    chunks = runner.sample(num_timesteps=4 * 200, random_actions=True)
    actions = np.concatenate([c.agent_episodes["runner_0"].get_actions() for c in chunks])
    assert set(actions.tolist()) == {0, 1, 2, 3, 4}
    for chunk in chunks:
        arrived = chunk.agent_episodes["keeper"].get_observations()[1:, ACTION]
        assert ((arrived >= 0) & (arrived <= 1)).all()


class Watching(RLlibCallback):
    ended: list[tuple[int, int]]

    def on_episode_step(self, **_: Any) -> None:
        pass


class Counting(RLlibCallback):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.lengths: list[int] = []

    def on_episode_start(self, *, episode: Any, **_: Any) -> None:
        self.events.append(f"start {episode.id_}")

    def on_episode_end(self, *, episode: Any, prev_episode_chunks: Any, **_: Any) -> None:
        self.events.append(f"end {episode.id_}")
        chunks = [*prev_episode_chunks, episode]
        self.lengths.append(sum(len(chunk) for chunk in chunks))


def test_callbacks_hear_of_starts_and_ends_and_get_whole_episodes(server):
    runner = RemoteMultiAgentEnvRunner(config=config(server).callbacks(Counting))
    try:
        for _ in range(4):
            runner.sample(num_timesteps=20)
        heard = runner._callbacks[0]
        assert heard.lengths
        assert set(heard.lengths) == {7}
        ends = [event for event in heard.events if event.startswith("end")]
        assert len(ends) == len(heard.lengths)
        assert all(event.replace("end", "start") in heard.events for event in ends)
    finally:
        runner.stop()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda c: c.env_runners(
                env_to_module_connector=lambda env, spaces, device: FlattenObservations(
                    multi_agent=True
                )
            ),
            "env_to_module_connector",
        ),
        (lambda c: c.callbacks(Watching), "on_episode_step"),
        (lambda c: c.rl_module(model_config={"use_lstm": True}), "recurrent"),
    ],
)
def test_what_it_cannot_do_is_refused(server, change, complaint):
    with pytest.raises(Unsupported, match=complaint):
        RemoteMultiAgentEnvRunner(config=change(config(server)))


def test_ppo_trains_on_it(server):
    made = config(server).training(train_batch_size_per_learner=80, minibatch_size=40, num_epochs=1)
    with ray_runtime(cpus=2):
        algorithm = made.build_algo()
        try:
            result = algorithm.train()
        finally:
            algorithm.stop()
    assert result["env_runners"]["num_env_steps_sampled_lifetime"] == 80
    for policy in ("runner", "keeper"):
        assert np.isfinite(result["learners"][policy]["total_loss"])
