"""Pictures of Particle."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.servers import ROOT
from tests.simserver.particle_play import NAMES, make, random_actions


@pytest.mark.parametrize("name", NAMES)
def test_every_world_has_its_picture(name: str) -> None:
    sim, envs = make(name, 3), np.arange(3)
    sim.reset(envs, [1, 2, 3], {})
    start = sim.render(envs)
    actions = random_actions(sim, np.random.default_rng(0), 3)
    for _ in range(5):
        sim.step(envs, actions)
    later = sim.render(np.array([0, 2]))
    assert [frame.shape for frame in start] == [(672, 640, 3)] * 3
    assert all(frame.dtype == np.uint8 for frame in start)
    assert len({frame.tobytes() for frame in (*start, *later)}) == 5
    assert_array_equal(sim.render(np.array([2]))[0], later[1])


def test_a_disc_is_where_its_agent_is_and_smooth_at_the_edge() -> None:
    sim = make("particle/simple_spread", 1)
    sim.reset(np.arange(1), [1], {})
    sim._worlds.positions[:] = 2.0
    sim._worlds.positions[0] = 0.0
    (frame,) = sim.render(np.arange(1))
    middle = frame[352, :, :].astype(int)
    blue = middle[:, 2] - middle[:, 0] > 60
    across = np.flatnonzero(blue)
    centre = np.abs(across - 320) < 120
    assert abs(across[centre].mean() - 319.5) < 1
    edge = middle[across[centre][0] - 2 : across[centre][0] + 2]
    assert len(np.unique(edge, axis=0)) > 2


@pytest.mark.parametrize("mode", ["discrete", "continuous"])
def test_what_is_said_shows(mode: str) -> None:
    sim, env = make("particle/simple_crypto", 1, action_mode=mode), np.arange(1)
    sim.reset(env, [1], {})
    (silent,) = sim.render(env)
    frames = []
    for symbol in range(4):
        numbers = np.eye(4, dtype=np.float32)[[symbol]] * np.float32(0.75)
        action = numbers if mode == "continuous" else np.array([symbol])
        sim.step(env, [action, action, action])
        sim._worlds.steps[:] = 0  # So that only the messages differ.
        frames.append(sim.render(env)[0])
    assert len({frame.tobytes() for frame in (silent, *frames)}) == 5


def test_bodies_far_away_are_in_the_picture() -> None:
    sim = make("particle/simple_world_comm", 1)
    sim.reset(np.arange(1), [1], {})
    sim._worlds.positions[-1] = -7.5
    (frame,) = sim.render(np.arange(1))
    corner = frame[-70:, :70].astype(int)
    assert (corner[..., 1] - corner[..., 0] > 20).any()


def test_simulating_needs_no_pillow_and_no_display() -> None:
    code = (
        "import sys; from tests.simserver.particle_play import make\n"
        "import numpy as np\n"
        "sim = make('particle/simple', 1)\n"
        "sim.reset(np.arange(1), [1], {})\n"
        "assert 'PIL' not in sys.modules\n"
        "sim.render(np.arange(1))\n"
        "assert 'pygame' not in sys.modules and 'PIL' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}, check=False)
    assert done.returncode == 0
