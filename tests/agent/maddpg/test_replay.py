"""Joint transitions: every row one step of one environment, with ends that mean what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from agent.maddpg.replay import VALID, JointReplay
from tests.agent.maddpg.worlds import ACTIONS, Diary, by_letter, config_for, mark, one_each


def episodes_of(mapping: Any, timesteps: int, **env_config: Any) -> list[MultiAgentEpisode]:
    """Sampled by RLlib's own runner, in pieces of 4 steps an environment."""
    config = config_for(Diary, mapping, env_config)
    config.validate()
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    episodes = []
    for _ in range(timesteps // 8):
        episodes += runner.sample(num_timesteps=8, random_actions=True)
    runner.stop()
    return episodes


def filled(mapping: Any, episodes: list[MultiAgentEpisode]) -> JointReplay:
    replay = JointReplay(config_for(Diary, mapping).cast(), 1000, seed=1)
    assert replay.add(episodes) == sum(map(len, episodes)) == len(replay)
    return replay


@pytest.mark.parametrize("mapping", [one_each, by_letter])
def test_every_row_is_one_step_of_one_environment(mapping: Any) -> None:
    replay = filled(mapping, episodes_of(mapping, 80))

    batch = replay.sample(300)

    columns = list(batch.policy_batches.values())
    before = np.concatenate([part["obs"] for part in columns], axis=1)
    after = np.concatenate([part["new_obs"] for part in columns], axis=1)
    assert before.shape == (300, len(ACTIONS), 3)
    # The same episode and step for all agents, and the next step of that episode.
    assert (before[:, :, :2] == before[:, :1, :2]).all()
    assert (after[:, :, 0] == before[:, :, 0]).all()
    assert (after[:, :, 1] == before[:, :, 1] + 1).all()
    for part in columns:
        # What the agent did, as the observation after it tells, and what it got for it.
        did = [[mark(action) for action in row] for row in part["actions"]]
        np.testing.assert_allclose(part["new_obs"][:, :, 2], did, rtol=1e-6)
        np.testing.assert_array_equal(part["rewards"], 10 * part["new_obs"][:, :, 1])
        assert part[VALID].all()
    assert len(np.unique(before[:, 0, 0])) > 8  # Not all of one episode.


@pytest.mark.parametrize(
    ("end", "terminated"), [("all", False), ("each", False), ("terminated", True)]
)
def test_a_time_limit_does_not_terminate(end: str, terminated: bool) -> None:
    batch = filled(one_each, episodes_of(one_each, 80, end=end)).sample(300)

    for part in batch.policy_batches.values():
        last = part["new_obs"][:, :, 1] == 5
        assert last.any()
        np.testing.assert_array_equal(part["terminateds"], last & terminated)


def test_an_agent_that_has_left_is_masked() -> None:
    replay = filled(by_letter, episodes_of(by_letter, 80, leaves=2))

    batch = replay.sample(300)

    stayed, step = batch["b"], batch["b"]["obs"][:, 0, 1]
    assert stayed[VALID].all() and not stayed["terminateds"].any()
    pair = batch["a"]
    np.testing.assert_array_equal(pair[VALID][:, 1], step < 2)
    np.testing.assert_array_equal(pair["terminateds"][:, 1], step == 1)
    there = pair[VALID][:, 1]
    np.testing.assert_array_equal(pair["obs"][there, 1, :2], stayed["obs"][there, 0, :2])
    for column in ("obs", "new_obs", "actions", "rewards"):
        assert not pair[column][~there, 1].any()


def test_what_is_answered_later_is_no_joint_transition() -> None:
    replay = filled(one_each, episodes_of(one_each, 80, turns=True, length=6))

    batch = replay.sample(300)

    assert batch["b_0"][VALID].all()
    assert not batch["c_0"][VALID].any()


def test_the_oldest_steps_make_room_for_new_ones() -> None:
    episodes = episodes_of(one_each, 80)
    replay = JointReplay(config_for(Diary, one_each).cast(), 30, seed=1)

    replay.add(episodes)

    assert len(replay) == 30
    drawn = replay.sample(500)["b_0"]["obs"][:, 0, :2]
    latest = [episode.agent_episodes["b_0"].get_observations()[:-1, :2] for episode in episodes]
    expected = {tuple(row) for row in np.concatenate(latest)[-30:].tolist()}
    assert {tuple(row) for row in drawn.tolist()} == expected


def test_its_state_brings_back_the_same_draws() -> None:
    replay = JointReplay(config_for(Diary, one_each).cast(), 50, seed=1)
    replay.add(episodes_of(one_each, 80))
    other = JointReplay(config_for(Diary, one_each).cast(), 50, seed=9)

    other.set_state(replay.get_state())

    # Rows may lie elsewhere in the ring, so compare what there is, not which comes first.
    rows = [
        {tuple(row) for row in one.sample(600)["a_0"]["obs"][:, 0].tolist()}
        for one in (replay, other)
    ]
    assert len(other) == 50 and rows[0] == rows[1]
