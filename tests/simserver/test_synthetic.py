"""The simulator that only takes time."""

import threading
import time

import numpy as np
import pytest

from simserver.sims.synthetic import Synthetic


def made(envs: int = 2, **options: object) -> Synthetic:
    defaults = {parameter.name: parameter.default for parameter in Synthetic.parameters}
    simulator = Synthetic(envs, **(defaults | options))
    simulator.reset(np.arange(envs), None, {})
    return simulator


def step(simulator: Synthetic, envs: int = 2):
    (group,) = simulator.step(np.arange(envs), [np.zeros(envs, np.int64)]).groups
    return group


def test_observations_come_by_turns_whoever_is_stepped():
    together, apart = made(episode_steps=1000), made(episode_steps=1000)
    for turn in range(20):
        whole = step(together).observation
        singles = [
            apart.step(np.array([env]), [np.zeros(1, np.int64)]).groups[0].observation[0]
            for env in (1, 0)
        ]
        assert (whole == np.stack(singles[::-1])).all(), turn
        assert (whole[0] != whole[1]).any()


def test_episodes_are_truncated_after_so_many_steps():
    simulator = made(episode_steps=3)
    for _ in range(2):
        ends = [step(simulator).truncated.all() for _ in range(3)]
        assert ends == [False, False, True]
        simulator.reset(np.arange(2), None, {})


@pytest.mark.parametrize(
    ("options", "shape", "dtype"),
    [({"values": 7}, (2, 7), np.float32), ({"image": 1}, (2, 84, 84, 4), np.uint8)],
)
def test_observations_have_the_size_asked_for(options: dict, shape: tuple, dtype: type):
    simulator = made(**options)
    observation = step(simulator).observation
    assert observation.shape == shape and observation.dtype == dtype
    assert observation[0] in simulator.groups[0].observation_space


@pytest.mark.parametrize(("cores", "seconds"), [(1, 0.4), (2, 0.2)])
def test_sessions_share_the_cores(cores: int, seconds: float):
    """Two sessions of two environments, five steps of 20 ms for each environment."""
    sessions = [made(step_seconds=0.02, cores=cores) for _ in range(2)]

    def play(simulator: Synthetic) -> None:
        for _ in range(5):
            step(simulator)

    threads = [threading.Thread(target=play, args=(session,)) for session in sessions]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.perf_counter() - begun >= seconds
