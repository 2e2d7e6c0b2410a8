"""Autoreset and faults, on a simulator with agents that end at different times."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from farsim.errors import EpisodeOver, InvalidOption, ProtocolError
from simserver.adapters.vector_env import VectorEnvSimulator
from simserver.episodes import Episodes
from tests.simulators.relay import FAIL, Relay

ALL = np.arange(3)


def episodes(mode: AutoresetMode) -> Episodes:
    return Episodes(lambda: Relay(3, length=np.int64(2), offset=np.int64(0)), 3, mode)


def actions(*short: int) -> list[np.ndarray]:
    return [np.stack([np.array(short), np.zeros(len(short), np.int64)], axis=1).reshape(-1)]


IDLE = actions(0, 0, 0)


def begin(mode: AutoresetMode, lengths: list[int] | None = None) -> Episodes:
    subject = episodes(mode)
    options = {} if lengths is None else {"length": np.array(lengths)}
    spaces = {parameter.name: parameter.space for parameter in Relay.parameters}
    subject.reset(ALL, None, options, spaces)
    return subject


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(ProtocolError, match=r"\[0, 1, 2\]"):
        episodes(AutoresetMode.NEXT_STEP).step(ALL, IDLE)


def test_next_step_starts_an_episode_when_all_its_agents_have_ended():
    subject = begin(AutoresetMode.NEXT_STEP, [1, 2, 2])
    subject.step(ALL, IDLE)
    second = subject.step(ALL, IDLE)  # Environment 0: long ends at step 2.
    part = second.groups[0]
    assert part.rows.tolist() == [1, 2, 3, 4, 5]
    assert part.terminated.tolist() == [True, True, False, True, False]
    third = subject.step(ALL, IDLE)
    part = third.groups[0]
    assert third.started.tolist() == [0]
    assert part.rows.tolist() == [0, 1, 3, 5]
    assert part.observation.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 3], [2, 0, 3]]
    assert part.reward.tolist() == [0, 0, 3, 3]
    assert not part.terminated.any()
    assert part.infos["step"].rows.tolist() == [2, 3]


def test_same_step_delivers_the_last_observation_apart():
    subject = begin(AutoresetMode.SAME_STEP, [1, 2, 2])
    subject.step(ALL, IDLE)
    second = subject.step(ALL, IDLE)
    part = second.groups[0]
    assert second.started.tolist() == [0]
    assert part.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert part.observation[:2].tolist() == [[0, 1, 0], [0, 1, 0]]
    assert part.reward.tolist() == [0, 2, 2, 2, 2, 2]
    assert part.terminated.tolist() == [False, True, True, False, True, False]
    assert part.final_rows.tolist() == [1]
    assert part.final_observation.tolist() == [[0, 0, 2]]
    assert part.final_infos["step"].values.tolist() == [2]
    assert 1 not in part.infos["step"].rows


def test_disabled_refuses_a_step_after_the_end():
    subject = begin(AutoresetMode.DISABLED, [1, 2, 2])
    subject.step(ALL, IDLE)
    subject.step(ALL, IDLE)
    with pytest.raises(EpisodeOver, match=r"\[0\]"):
        subject.step(ALL, IDLE)
    subject.step(np.array([1, 2]), actions(0, 0))
    subject.reset(np.array([0]), None, {}, {})
    assert subject.step(np.array([0]), actions(0)).groups[0].observation[0].tolist() == [0, 1, 1]


def test_one_failed_environment_costs_the_others_nothing():
    subject = begin(AutoresetMode.NEXT_STEP)
    batch = subject.step(ALL, actions(0, FAIL, 0))
    part = batch.groups[0]
    assert list(batch.faults) == [1]
    assert part.truncated.tolist() == [False, False, True, True, False, False]
    after = subject.step(ALL, IDLE)
    assert after.started.tolist() == [1]
    assert after.groups[0].observation[:, 1].tolist() == [0, 0, 1, 1, 0, 0]


def test_a_fault_ends_the_episode_of_every_agent_whatever_its_row_says():
    class Careless(Relay):
        def step(self, envs, actions):
            batch = super().step(envs, actions)
            for env in batch.faults:
                batch.groups[0].truncated[batch.groups[0].rows == 2 * env + 1] = False
            return batch

    subject = Episodes(
        lambda: Careless(3, length=np.int64(2), offset=np.int64(0)), 3, AutoresetMode.NEXT_STEP
    )
    subject.reset(ALL, None, {}, {})
    assert list(subject.step(ALL, actions(0, FAIL, 0)).faults) == [1]
    assert subject.step(ALL, IDLE).started.tolist() == [1]


def test_a_failed_simulator_is_a_fault_of_all_and_is_made_anew_with_the_same_options():
    subject = begin(AutoresetMode.NEXT_STEP, [1, 2, 3])
    subject.step(ALL, IDLE)
    batch = subject.step(ALL, actions(FAIL, 0, 0))
    part = batch.groups[0]
    assert sorted(batch.faults) == [0, 1, 2]
    assert part.rows.tolist() == [1, 2, 3, 4, 5], "the short agent of environment 0 has ended"
    assert part.truncated.all() and part.reward.tolist() == [0] * 5
    assert part.observation[:, 2].tolist() == [1] * 5, "the observation from before"
    after = subject.step(ALL, IDLE)
    assert after.started.tolist() == [0, 1, 2]
    assert after.episode_options["length"].tolist() == [1, 2, 3]


def test_environments_outside_the_failed_request_hear_of_it_at_their_next_step():
    subject = begin(AutoresetMode.NEXT_STEP)
    batch = subject.step(np.array([0]), actions(FAIL))
    assert list(batch.faults) == [0]
    after = subject.step(ALL, IDLE)
    assert sorted(after.faults) == [1, 2]
    assert after.started.tolist() == [0]
    assert after.groups[0].truncated.tolist() == [False, False, True, True, True, True]


def test_a_faulty_reset_of_one_environment_leaves_the_rest_of_the_batch_alone():
    class Stubborn(Relay):
        def reset(self, envs, seeds, options):
            if 1 in envs and self._episode[1] >= 0:
                raise OSError("no room")
            return super().reset(envs, seeds, options)

    subject = Episodes(
        lambda: Stubborn(3, length=np.int64(1), offset=np.int64(0)), 3, AutoresetMode.NEXT_STEP
    )
    subject.reset(ALL, None, {}, {})
    subject.step(ALL, IDLE)
    subject.step(ALL, IDLE)
    batch = subject.step(ALL, IDLE)
    assert batch.started.tolist() == [0, 2]
    assert list(batch.faults) == [1]
    assert batch.groups[0].truncated.tolist() == [False, False, True, True, False, False]


def test_a_refused_reset_leaves_the_episodes_as_they_were():
    class Picky(Relay):
        def reset(self, envs, seeds, options):
            if "length" in options:
                raise ValueError("not now")
            return super().reset(envs, seeds, options)

    subject = Episodes(
        lambda: Picky(3, length=np.int64(4), offset=np.int64(0)), 3, AutoresetMode.NEXT_STEP
    )
    subject.reset(ALL, None, {}, {})
    subject.step(ALL, IDLE)
    with pytest.raises(InvalidOption):
        subject.reset(np.array([1]), None, {"length": np.array([2])}, {})
    after = subject.step(ALL, IDLE)
    assert after.started is None
    assert after.groups[0].observation[:, 2].tolist() == [2] * 6


def test_options_given_before_hold_in_a_simulator_made_anew():
    spaces = {parameter.name: parameter.space for parameter in Relay.parameters}
    subject = begin(AutoresetMode.NEXT_STEP, [1, 2, 3])
    subject.step(ALL, actions(FAIL, 0, 0))
    batch = subject.reset(np.array([1]), None, {"length": np.array([5])}, spaces)
    assert batch.episode_options["length"].tolist() == [5]
    after = subject.step(ALL, IDLE)
    assert after.started.tolist() == [0, 2]
    assert after.episode_options["length"].tolist() == [1, 3]


def test_options_that_do_not_go_together_are_the_clients_error():
    class Picky(Relay):
        def reset(self, envs, seeds, options):
            raise ValueError("length and breadth")

    subject = Episodes(
        lambda: Picky(3, length=np.int64(1), offset=np.int64(0)), 3, AutoresetMode.NEXT_STEP
    )
    with pytest.raises(InvalidOption, match="breadth"):
        subject.reset(ALL, None, {}, {})


def test_who_resets_by_itself_goes_on_in_the_step_that_ends():
    def make() -> VectorEnvSimulator:
        keywords = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return VectorEnvSimulator(
            2,
            make_vec=lambda num_envs: gym.make_vec(
                "CartPole-v1", num_envs, gym.VectorizeMode.SYNC, vector_kwargs=keywords
            ),
        )

    subject = Episodes(make, 2, AutoresetMode.SAME_STEP)
    envs = np.arange(2)
    subject.reset(envs, [1, 2], {}, {})
    started = []
    for _ in range(30):
        batch = subject.step(envs, [np.zeros(2, np.int64)])
        started += batch.started.tolist()
        assert subject.roster.acting[0].all()
    assert {0, 1} <= set(started)


def test_a_vector_environment_with_one_random_stream_is_seeded_too():
    """As Gymnasium's own CartPole on arrays, which takes a single number."""
    simulator = VectorEnvSimulator(
        3,
        make_vec=lambda num_envs: gym.make_vec(
            "CartPole-v1", num_envs, gym.VectorizeMode.VECTOR_ENTRY_POINT
        ),
    )
    first, again, other, unseeded = (
        simulator.reset(ALL, seeds, {}).groups[0].observation.copy()
        for seeds in ([5, 6, 7], [5, 6, 7], [5, 6, 8], None)
    )
    assert (first == again).all()
    assert (first != other).any() and (unseeded != other).any()
