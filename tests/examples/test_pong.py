"""Atari's Pong, in the ways that it can be served, and learned from."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agent.remote_vector_env import RemoteVectorEnv
from tests.agent.training.command import workplace
from tests.servers import serving

ENVS = 3
FORMS = {
    "gymnasium/ALE/Pong-v5": (210, 160, 3),
    "gymnasium-vector/ALE/Pong-v5": (4, 84, 84),
    "examples.pong:Pong": (84, 84, 4),
}


@pytest.fixture(scope="module")
def address():
    with serving(*FORMS) as server:
        yield server.address


@pytest.mark.parametrize("simulator", FORMS)
def test_the_same_seeds_are_the_same_games(address: str, simulator: str):
    env = RemoteVectorEnv(address, simulator, num_envs=ENVS)
    try:
        assert env.single_observation_space.shape == FORMS[simulator]
        assert env.single_observation_space.dtype == np.uint8
        assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
        seen = []
        for _ in range(2):
            frames = [env.reset(seed=[2**40, 5, 7])[0]]
            for step in range(60):
                frames.append(env.step(np.full(ENVS, step % 6))[0])
            seen.append(np.stack(frames))
        np.testing.assert_array_equal(seen[0], seen[1])
        assert len({frames.tobytes() for frames in np.moveaxis(seen[0], 1, 0)}) == ENVS
    finally:
        env.close()


def test_options_that_are_true_or_false_reach_it_as_such(address: str):
    name = "gymnasium/ALE/Pong-v5"
    env = RemoteVectorEnv(address, name, options={"full_action_space": True, "frameskip": 2})
    try:
        assert env.single_action_space == gym.spaces.Discrete(18)
    finally:
        env.close()


def test_it_is_learned_from_frames(address: str, tmp_path: Path):
    small = "{train_batch_size_per_learner: 64, minibatch_size: 32, num_epochs: 1}"
    settings = tmp_path / "small.yaml"
    settings.write_text(f"training: {small}\nenv_runners: {{num_envs_per_env_runner: 4}}\n")
    run = tmp_path / "run"
    with workplace(tmp_path) as here:
        sims = ["examples.pong:Pong", "--sims", address]
        said = here.here("train", *sims, "--config", settings, "--stop-steps", 128, "--out", run)
    assert "128" in said
    assert (run / "checkpoint").exists()
