"""The env runner and live clients: what the learner gets is what simulators went through."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tree
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agent.live.live_config import LiveConfig
from agent.models.masked import MaskedModule
from farsim import LiveClient
from farsim.errors import InvalidOption, SpaceMismatch, UnknownOption, UnknownPolicy, Unsupported
from farsim.live import Group
from tests.agent.live_training.cartpole import playing
from tests.agent.live_training.runners import (
    SEEN,
    all_of,
    configured,
    new_weights,
    runner_of,
)


class Walk:
    """A simulator that never sees the same twice; it keeps what happened.

    Attributes:
        seen: observations.
        done: actions that were taken.
        earned: after each.
    """

    def __init__(self, client: LiveClient, number: int = 0) -> None:
        self.seen: list[Any] = []
        self.done: list[Any] = []
        self.earned: list[float] = []
        self.episode = client.episode()
        self._number = number

    def look(self) -> tuple[Any, float]:
        count = len(self.seen)
        self.seen.append(np.array([self._number, count, np.sin(count), 1], np.float32))
        reward = 0.5 * count - self._number if count else 0.0
        if count:
            self.earned.append(reward)
        return self.seen[-1], reward

    def step(self, **options: Any) -> None:
        self.done.append(self.episode.observe(*self.look(), **options))

    def log(self, action: Any) -> None:
        observation, reward = self.look()
        self.episode.log_action(observation, action, reward)
        self.done.append(action)

    def end(self, terminated: bool, **options: Any) -> None:
        self.episode.end(*self.look(), terminated=terminated, truncated=not terminated, **options)


def joined(chunks: list[Any]) -> tuple[list[Any], list[Any], list[float]]:
    """Observations, actions and rewards of chunks that follow one another."""
    observations: list[Any] = []
    actions: list[Any] = []
    rewards: list[float] = []
    for chunk in chunks:
        own = list(chunk.get_observations())
        if observations:
            np.testing.assert_array_equal(observations.pop(), own[0])
        observations += own
        actions += list(chunk.get_actions())
        rewards += list(chunk.get_rewards())
    return observations, actions, rewards


def test_the_learner_gets_what_the_simulator_recorded() -> None:
    config = configured(wait_seconds=0.5)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)

        def live() -> None:
            for _ in range(40):
                walk.step()
            walk.end(terminated=True)

        thread = threading.Thread(target=live)
        thread.start()
        chunks = all_of(runner, episodes=1, steps=7)
        thread.join(20)
        assert len(chunks) > 1
        assert len({chunk.id_ for chunk in chunks}) == 1
        assert [chunk.t_started for chunk in chunks] == np.cumsum([0, *map(len, chunks)])[
            :-1
        ].tolist()
        assert [chunk.is_done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].is_terminated
        observations, actions, rewards = joined(chunks)
        np.testing.assert_array_equal(observations, walk.seen)
        np.testing.assert_array_equal(actions, walk.done)
        np.testing.assert_allclose(rewards, walk.earned)
        metrics = runner.get_metrics()
        assert metrics["episode_return_mean"].peek() == pytest.approx(sum(walk.earned))
        assert metrics["episode_len_mean"].peek() == 40
        assert metrics["num_env_steps_sampled_lifetime"].peek() == 40


def test_log_probabilities_are_those_of_the_actions() -> None:
    with (
        runner_of(configured()) as runner,
        LiveClient(runner.live_address, mode="collect") as client,
    ):
        walk = Walk(client)
        for _ in range(20):
            walk.step()
        walk.end(terminated=False)
        (chunk,) = all_of(runner, episodes=1, steps=20)
        assert chunk.is_truncated
        assert set(walk.done) == {0, 1}  # They are drawn.
        batch = {Columns.OBS: torch.from_numpy(np.array(walk.seen[:-1]))}
        logits = runner.module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
        wanted = torch.log_softmax(logits, -1)[torch.arange(20), torch.tensor(walk.done)]
        found = chunk.get_extra_model_outputs(Columns.ACTION_LOGP)
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5)


def test_a_recurrent_policy_remembers_and_the_learner_sees_its_states() -> None:
    config = configured(model={"use_lstm": True, "lstm_cell_size": 6, "max_seq_len": 5})
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        for _ in range(8):
            walk.step()
        first = runner.sample(num_timesteps=7)
        for _ in range(5):
            walk.step()
        walk.end(terminated=True)
        chunks = first + all_of(runner, episodes=1)
        state = tree.map_structure(lambda leaf: leaf[None], runner.module.get_initial_state())
        states = [
            tree.flatten(chunk.get_extra_model_outputs(Columns.STATE_OUT)) for chunk in chunks
        ]
        logps = np.concatenate([c.get_extra_model_outputs(Columns.ACTION_LOGP) for c in chunks])
        for number, (observation, action) in enumerate(zip(walk.seen, walk.done, strict=False)):
            batch = {
                Columns.OBS: torch.from_numpy(observation)[None, None],
                Columns.STATE_IN: state,
            }
            with torch.no_grad():
                outputs = runner.module.forward_exploration(batch)
            state = outputs[Columns.STATE_OUT]
            found = np.concatenate([leaves[0] for leaves in states])[number]
            np.testing.assert_allclose(found, tree.flatten(state)[0][0].numpy(), atol=1e-6)
            logp = torch.log_softmax(outputs[Columns.ACTION_DIST_INPUTS][0, 0], -1)[action]
            np.testing.assert_allclose(logps[number], logp, rtol=1e-5)
        # The learner begins a chunk with the state at the end of the one before.
        before = chunks[1].get_extra_model_outputs(
            Columns.STATE_OUT, indices=-1, neg_index_as_lookback=True
        )
        np.testing.assert_array_equal(tree.flatten(before)[0], states[0][0][-1])


def test_nobody_there_does_not_hold_up_sample() -> None:
    with runner_of(configured(wait_seconds=0.3)) as runner:
        told: list[float] = []
        runner.on_waiting = lambda _, seconds: told.append(seconds)
        assert runner.sample() == []
        assert told
        metrics = runner.get_metrics()
        assert metrics["num_env_steps_sampled"].peek() == 0
        assert metrics["info"]["live"]["simulators"].peek() == 0
        assert metrics["info"]["live"]["port"].peek() == int(runner.live_address.split(":")[1])


def test_what_is_asked_while_waiting_ends_the_wait() -> None:
    def stop(runner: Any, seconds: float) -> None:
        raise KeyboardInterrupt

    with runner_of(configured(wait_seconds=60.0)) as runner:
        runner.on_waiting = stop
        with pytest.raises(KeyboardInterrupt):
            runner.sample()


def test_a_slow_simulator_holds_nobody_up() -> None:
    with (
        runner_of(configured()) as runner,
        LiveClient(runner.live_address, mode="collect") as client,
    ):
        slow, quick = Walk(client, 1), Walk(client, 2)
        slow.step()
        for _ in range(10):
            quick.step()
        (chunk,) = runner.sample(num_timesteps=9)
        np.testing.assert_array_equal(chunk.get_observations(), quick.seen)
        slow.step()
        quick.step()
        chunks = runner.sample(num_timesteps=2)
        assert sorted(len(chunk) for chunk in chunks) == [1, 1]


def test_a_killed_simulator_leaves_a_truncated_episode(tmp_path: Path) -> None:
    record = tmp_path / "record"
    config = configured(limits={"lease_seconds": 0.1})
    with runner_of(config) as runner:
        # No episode of CartPole is over so soon.
        with playing(runner.live_address, record=record, actions=6):
            until(lambda: record.is_file() and len(record.read_text().splitlines()) == 6)
            until(lambda: runner.simulators == 1)
        until(lambda: runner.simulators == 0)
        (chunk,) = runner.sample(num_timesteps=5)
        played = [json.loads(line) for line in record.read_text().splitlines()]
        assert (chunk.is_terminated, chunk.is_truncated) == (False, True)
        # Of the action before it died nobody knows the outcome.
        np.testing.assert_allclose(chunk.get_observations(), [seen for seen, _ in played])
        assert chunk.get_actions().tolist() == [action for _, action in played[:-1]]
        metrics = runner.get_metrics()
        assert metrics["info"]["live"]["lost"].peek() == 1
        # Its return says nothing about the policy.
        assert metrics["num_episodes"].peek() == 0


def until(condition: Callable[[], bool]) -> None:
    """Waits for what other processes do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_nobody_fetches_is_bounded() -> None:
    config = configured(capacity=3, wait_seconds=0.3)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        for _ in range(8):
            walk.step()
        (chunk,) = runner.sample(num_timesteps=100)
        np.testing.assert_array_equal(chunk.get_observations(), walk.seen[:4])
        assert runner.metrics.peek(("info", "live", "overflow")) == 4
        assert runner.metrics.peek(("info", "live", "steps_per_sample")) == 3
        walk.step()
        walk.end(terminated=True)
        # What comes next begins where things were kept again.
        (chunk,) = runner.sample(num_timesteps=2)
        np.testing.assert_array_equal(chunk.get_observations(), walk.seen[7:])


def test_an_aborted_episode_is_for_nobody() -> None:
    with (
        runner_of(configured()) as runner,
        LiveClient(runner.live_address, mode="collect") as client,
    ):
        failed, good = Walk(client, 1), Walk(client, 2)
        for walk in (failed, good):
            for _ in range(3):
                walk.step()
        failed.episode.abort()
        good.end(terminated=True)
        (chunk,) = all_of(runner, episodes=1)
        np.testing.assert_array_equal(chunk.get_observations(), good.seen)
        assert runner.metrics.peek(("info", "live", "aborted")) == 1


def test_only_sessions_that_collect_are_learned_from() -> None:
    with (
        runner_of(configured(wait_seconds=0.3)) as runner,
        LiveClient(runner.live_address, mode="serve", sampling="greedy") as client,
    ):
        walk = Walk(client)
        for _ in range(5):
            walk.step()
        walk.end(terminated=True)
        batch = {Columns.OBS: torch.from_numpy(np.array(walk.seen[:-1]))}
        logits = runner.module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
        assert walk.done == logits.argmax(-1).tolist()
        assert runner.sample(num_timesteps=1) == []


def act_by_hand(client: LiveClient) -> Walk:
    """Three actions of the policy, one of a person, two of the policy, one that was overridden."""
    walk = Walk(client)
    for _ in range(3):
        walk.step()
    walk.log(1)
    for _ in range(3):
        walk.step()
    walk.done[-1] = 1 - walk.done[-1]
    walk.step(action_taken=walk.done[-1])
    walk.step()
    walk.end(terminated=True)
    return walk


def test_on_policy_data_is_cut_where_somebody_else_acted() -> None:
    with (
        runner_of(configured()) as runner,
        LiveClient(runner.live_address, mode="collect") as client,
    ):
        walk = act_by_hand(client)
        chunks = all_of(runner, episodes=1)
        pieces = [(0, 3), (4, 6), (7, 9)]
        assert len({chunk.id_ for chunk in chunks}) == 3
        for chunk, (first, last) in zip(chunks, pieces, strict=True):
            np.testing.assert_array_equal(chunk.get_observations(), walk.seen[first : last + 1])
            np.testing.assert_array_equal(chunk.get_actions(), walk.done[first:last])
            np.testing.assert_allclose(chunk.get_rewards(), walk.earned[first:last])
            assert chunk.is_terminated is (last == 9)
            assert not chunk.is_truncated
        assert runner.metrics.peek(("info", "live", "off_policy")) == 2
        # What people look at is the whole episode.
        assert runner.get_metrics()["episode_return_mean"].peek() == pytest.approx(sum(walk.earned))


def test_algorithms_with_a_replay_buffer_get_all_actions() -> None:
    config = configured(DQNConfig())
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = act_by_hand(client)
        chunks = all_of(runner, episodes=1)
        observations, actions, rewards = joined(chunks)
        np.testing.assert_array_equal(observations, walk.seen)
        np.testing.assert_array_equal(actions, walk.done)
        np.testing.assert_allclose(rewards, walk.earned)


def test_actions_of_others_are_learned_as_the_network_would_have_said_them() -> None:
    space = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    config = configured(SACConfig(), action_space=space)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        walk.step()
        walk.log(np.array([1.0, 2.5], np.float32))
        walk.end(terminated=True)
        observations, actions, _ = joined(all_of(runner, episodes=1))
        np.testing.assert_array_equal(observations, walk.seen)
        np.testing.assert_allclose(actions[1], [0.5, -0.5], atol=1e-6)
        # And the policy's own, scaled from -1..1.
        np.testing.assert_allclose(
            (actions[0] + 1) / 2 * [4, 10] + [-2, 0], walk.done[0], rtol=1e-5
        )


def test_stale_transitions_are_dropped_and_staleness_is_told() -> None:
    config = configured(max_staleness=1)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        for number in range(4):
            new_weights(runner, number + 1)
            for _ in range(5):
                walk.step()
        walk.end(terminated=True)
        (chunk,) = all_of(runner, episodes=1, steps=20)
        np.testing.assert_array_equal(chunk.get_observations(), walk.seen[10:])
        np.testing.assert_array_equal(
            chunk.get_extra_model_outputs("weights_seq_no"), [3] * 5 + [4] * 5
        )
        assert runner.metrics.peek(("info", "live", "stale")) == 10
        assert runner.metrics.peek(("info", "live", "staleness")) == pytest.approx(0.5)
        assert runner.metrics.peek(("info", "live", "staleness_max")) == 1


@pytest.mark.parametrize(
    ("algo", "on_policy", "wanted", "bound"),
    [
        ("PPO", True, None, 1),
        ("APPO", True, None, 16),
        ("SAC", False, None, None),
        ("PPO", True, 5, 5),
        ("PPO", True, -1, None),
        ("DQN", False, 3, 3),
    ],
)
def test_the_bound_suits_the_algorithm(algo, on_policy, wanted, bound) -> None:
    assert LiveConfig(max_staleness=wanted).staleness_of(algo, on_policy) == bound


def test_weights_and_their_version_change_together() -> None:
    """All weights are 0 in odd versions: every probability is then 0.5."""
    with runner_of(configured(max_staleness=-1)) as runner:
        original = runner.get_state(components="rl_module")["rl_module"]
        zeros = {name: np.zeros_like(value) for name, value in original.items()}
        stop = threading.Event()

        def live() -> None:
            with LiveClient(runner.live_address, mode="collect") as client:
                walk = Walk(client)
                while not stop.is_set():
                    walk.step()
                walk.end(terminated=True)

        thread = threading.Thread(target=live)
        thread.start()
        try:
            chunks: list[Any] = []
            for number in range(1, 60):
                state = zeros if number % 2 else original
                runner.set_state({"rl_module": state, "weights_seq_no": number})
                chunks += runner.sample(num_timesteps=2)
        finally:
            stop.set()
            thread.join(20)
        numbers = np.concatenate([c.get_extra_model_outputs("weights_seq_no") for c in chunks])
        logits = np.concatenate([c.get_extra_model_outputs("action_dist_inputs") for c in chunks])
        odd = numbers % 2 == 1
        assert len(set(numbers)) > 20
        assert (logits[odd] == 0).all()
        assert (logits[~odd & (numbers > 0)] != 0).all()
        assert (np.diff(numbers) >= 0).all()


def test_a_session_can_not_be_pinned_to_weights_that_are_gone() -> None:
    with runner_of(configured()) as runner, pytest.raises(UnknownPolicy, match="not served"):
        LiveClient(runner.live_address, mode="collect", policy_version=7).close()


def test_other_spaces_are_refused() -> None:
    with runner_of(configured()) as runner, pytest.raises(SpaceMismatch, match="action_space"):
        LiveClient(runner.live_address, observation_space=SEEN, action_space=Discrete(3)).close()


def test_encoded_observations_and_shifted_actions() -> None:
    see = Dict({"place": Discrete(3, start=1), "size": Box(0.0, 4.0, (), np.float32)})
    groups = (Group(see, Discrete(2, start=5)),)
    config = configured(observation_space=Box(-np.inf, np.inf, (4,), np.float32), groups=groups)
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        with client.episode() as episode:
            first = {"place": np.int64(2), "size": np.float32(1.0)}
            action = episode.observe(first)
            assert action in (5, 6)
            episode.end({"place": np.int64(3), "size": np.float32(4.0)}, 1.0, terminated=True)
        (chunk,) = all_of(runner, episodes=1)
        np.testing.assert_allclose(
            chunk.get_observations(), [[0, 1, 0, -0.5], [0, 0, 1, 1]], atol=1e-6
        )
        assert chunk.get_actions().tolist() == [action - 5]


def test_masks_are_obeyed_and_learned_from() -> None:
    mask_space = Box(0.0, 1.0, (3,), np.float32)
    config = configured(
        observation_space=Dict({"observations": SEEN, "action_mask": mask_space}),
        action_space=Discrete(3),
        groups=(Group(SEEN, Discrete(3), has_action_mask=True),),
        action_mask_in_observation=True,
    )
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=MaskedModule))
    with runner_of(config) as runner, LiveClient(runner.live_address, mode="collect") as client:
        walk = Walk(client)
        masks = [np.arange(3) == number % 3 for number in range(9)]
        for mask in masks:
            walk.step(action_mask=mask)
        walk.end(terminated=True)
        assert walk.done == [number % 3 for number in range(9)]
        (chunk,) = all_of(runner, episodes=1, steps=9)
        found = chunk.get_observations()
        np.testing.assert_array_equal(found["observations"], walk.seen)
        # At the end nobody says what is allowed.
        np.testing.assert_array_equal(found["action_mask"], [*masks, [True] * 3])


def test_env_runners_have_ports_of_their_own() -> None:
    config = LiveConfig.of({"address": "0.0.0.0:50061"})
    places = [config.address_of(index, 3, False) for index in (0, 1, 2, 3)]
    assert places == [f"0.0.0.0:{port}" for port in (50061, 50061, 50062, 50063)]
    assert config.address_of(1, 3, True) == "0.0.0.0:50064"
    assert LiveConfig.of({"address": "a:0"}).address_of(3, 3, False) == "a:0"


def test_wrong_configurations() -> None:
    with pytest.raises(UnknownOption, match="did you mean 'address'"):
        LiveConfig.of({"adress": "a:1"})
    with pytest.raises(InvalidOption, match="host:port"):
        LiveConfig.of({"address": "50061"})
    with pytest.raises(InvalidOption, match="1 transition or more"):
        LiveConfig.of({"capacity": 0})
    connector = configured()
    connector.env_runners(env_to_module_connector=lambda env, spaces, device: [])
    with pytest.raises(Unsupported, match="env_to_module_connector"), runner_of(connector):
        pass
