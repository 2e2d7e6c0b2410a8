"""Agents that take turns, leave early and join late, as a client of any language sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from tests.servers import Serving, serving
from tests.simserver.raw_play import Play, playing
from tests.simulators.council import FAIL, NONSENSE
from tests.test_docs import python_blocks

COUNCIL = "tests.simulators.council:Council"
RELAY = "tests.simulators.relay:Relay"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(COUNCIL, RELAY) as server:
        yield server


@pytest.fixture
def open_(server: Serving, request: pytest.FixtureRequest) -> Any:
    def open_session(count: int = 2, simulator: str = COUNCIL, **fields: Any) -> Play:
        context = playing(server.address, simulator, count, **fields)
        play = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return play

    return open_session


def speak(word: int, count: int = 2) -> list[Any]:
    """Actions for everybody."""
    return [np.full(3 * count, word), np.full(count, 1)]


def after(play: Play, steps: int, count: int = 2) -> Play:
    play.reset()
    for _ in range(steps):
        play.act(*speak(0, count))
    return play


def test_batches_say_who_is_to_act(open_):
    play = open_()
    start = play.reset()
    assert [part.acting for part in start.parts] == [[0, 3], []]
    assert start.parts[0].rows == [0, 1, 3, 4]
    assert start.parts[1].masks[0].tolist() == [[True, False, True]] * 2
    acting, rows = [], []
    for _ in range(4):
        batch = play.act(*speak(0))
        acting.append([part.acting for part in batch.parts])
        rows.append(batch.parts[0].rows)
    assert acting == [[[1, 4], [0, 1]], [[2, 5], []], [[2, 5], [0, 1]], [[], []]]
    assert rows == [[0, 1, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 2, 4, 5]]


def test_an_agent_leaves_while_others_go_on(open_):
    play = after(open_(), 2)
    leaving = play.act(*speak(0))
    assert leaving.parts[0].ended == [0, 3] and leaving.parts[1].ended == []
    last = play.act(*speak(0))
    assert last.parts[0].rows == last.parts[0].ended == [1, 2, 4, 5]
    assert last.parts[1].ended == [0, 1]


def test_without_turns_nothing_is_said_of_them(open_):
    play = open_(simulator=RELAY)
    assert play.reset().parts[0].acting is None
    assert play.act(np.zeros(4, np.int64)).parts[0].acting is None


def test_rows_name_just_those_who_act(open_):
    play = open_()
    play.reset()
    play.act(([0, 3], [1, 2]), ([], []))
    batch = play.act(([1, 4], [2, 0]), ([0, 1], [3, 1]))
    part = batch.parts[0]
    assert (part.at(1), part.at(4)) == ([0, 0, 2, 2], [1, 0, 2, 0])
    assert part.at(0)[3] == part.at(3)[3] == 0, "a row without an action has a zero"
    assert (part.reward_of(1), part.reward_of(0), part.reward_of(4)) == (2, -1, 0)
    assert [batch.parts[1].at(row)[3] for row in (0, 1)] == [3, 1]


def test_rows_of_others_are_ignored(open_):
    play = open_()
    play.reset()
    batch = play.act(([0, 1, 2, 3, 5], [1, -7, 99, 2, 4]), ([1], [-5]))
    assert batch.faults == [] and batch.parts[0].reward == [1, -1, 2, -1]
    assert batch.parts[0].at(1)[3] == 0, "an ignored action outside the space arrives as zero"


def test_actions_of_all_are_taken_from_those_who_act(open_):
    play = open_()
    play.reset()
    batch = play.act([1, -7, 99, 2, 4, 4], [-5, 17])
    assert batch.faults == [] and batch.parts[0].reward == [1, -1, 2, -1]


@pytest.mark.parametrize(
    ("speakers", "clerks", "words"),
    [
        pytest.param(([1], [0]), ([0, 1], [1, 1]), ["'speaker_1' of environment 1"], id="one"),
        pytest.param(([], []), ([0, 1], [1, 1]), ["0, 'speaker_1' of environment 1"], id="none"),
        pytest.param(([1, 4], [0, 0]), ([1], [1]), ["'clerk' of environment 0"], id="group"),
        pytest.param(([0, 3], [0, 0]), ([0, 1], [1, 1]), ["'speaker_1'"], id="wrong ones"),
    ],
)
def test_who_is_to_act_must_act(open_, speakers, clerks, words):
    play = after(open_(), 1)
    error = play.refused(speakers, clerks)
    assert error.code == pb.ERROR_CODE_INVALID_ACTION
    for word in words:
        assert word in error.message
    assert play.act(*speak(0)).parts[0].at(1)[2] == 2, "nothing has happened before"


@pytest.mark.parametrize(
    ("sent", "envs", "code"),
    [
        pytest.param([([3, 0], [0, 0]), ([], [])], None, "ARGUMENT", id="order"),
        pytest.param([([0, 0, 3], [0, 0, 0]), ([], [])], None, "ARGUMENT", id="twice"),
        pytest.param([([0, 3, 6], [0, 0, 0]), ([], [])], None, "ARGUMENT", id="no such row"),
        pytest.param([([0, 3], [0, 0]), ([], [])], [1], "ARGUMENT", id="not named"),
        pytest.param([([0, 3], [0, 0, 0]), ([], [])], None, "TENSOR", id="count"),
        pytest.param([([0, 3], [0, -1]), ([], [])], None, "ACTION", id="outside"),
        pytest.param([[0, 0, 0, 5, 0, 0], [0, 0]], None, "ACTION", id="outside of all"),
        pytest.param([([0, 3], [0, 0]), ([0], [[1]])], None, "TENSOR", id="ignored shape"),
        pytest.param([([0, 3], [0, 0]), ([0], np.ones(1))], None, "TENSOR", id="ignored dtype"),
    ],
)
def test_wrong_rows_and_actions_are_refused(open_, sent, envs, code):
    play = open_()
    play.reset()
    error = play.refused(*sent, envs=envs)
    assert pb.ErrorCode.Name(error.code) == f"ERROR_CODE_INVALID_{code}", error
    assert play.act(*speak(0)).parts[0].at(1)[2] == 1, "nothing has happened before"


def test_an_error_about_an_action_counts_the_rows_sent(open_):
    play = open_()
    play.reset()
    error = play.refused(([0, 1, 3], [0, 99, 7]), ([], []))
    assert "row 2" in error.message and "7" in error.message


def test_environments_can_be_named_with_their_rows(open_):
    play = after(open_(3), 1, 3)
    batch = play.act(([4, 7], [2, 1]), ([1, 2], [1, 1]), envs=[1, 2])
    assert batch.parts[0].rows == [3, 4, 5, 6, 7, 8]
    assert (batch.parts[0].reward_of(4), batch.parts[0].reward_of(7)) == (2, 1)
    batch = play.act(([1, 5, 8], [1, 2, 0]), ([0], [1]))
    assert [batch.parts[0].at(row)[2] for row in (1, 4, 7)] == [2, 3, 3]


def test_next_step_needs_no_actions_where_an_episode_is_over(open_):
    play = open_()
    play.reset(environments=tensor_pb2.Rows(index=[0]))
    play.act(([0], [0]), ([], []), envs=[0])
    play.reset(environments=tensor_pb2.Rows(index=[1]))  # One step behind environment 0.
    for _ in range(3):
        batch = play.act(*speak(0))
    assert batch.parts[0].rows == [1, 2, 3, 4, 5] and batch.parts[0].ended == [1, 2, 3]
    assert batch.parts[0].acting == [5]
    batch = play.act(([5], [2]), ([1], [1]))
    assert batch.started == [0]
    assert batch.parts[0].rows == [0, 1, 4, 5]
    assert batch.parts[0].at(0) == [0, 1, 0, -1] and batch.parts[0].reward_of(5) == 2
    assert [part.acting for part in batch.parts] == [[0], []]


def test_same_step_has_rows_of_those_who_do_not_start_the_next_episode(open_):
    play = after(open_(autoreset_mode=pb.AUTORESET_MODE_SAME_STEP), 3)
    batch = play.act(([2, 5], [1, 2]), ([0, 1], [1, 3]))
    speakers, clerks = batch.parts
    assert batch.started == [0, 1]
    assert speakers.rows == [0, 1, 2, 3, 4, 5]
    assert speakers.final_rows == speakers.ended == [1, 2, 4, 5]
    assert speakers.final_observation.tolist()[1] == [0, 0, 4, 1]
    assert speakers.reward == [0, -1, 1, 0, -1, 2]
    assert speakers.at(1) == [0, 1, 0, -1] and speakers.at(2) == [0, 0, 0, 0]
    assert speakers.acting == [0, 3], "speaker_2 is not there yet"
    assert clerks.final_rows == [0, 1] and clerks.acting == []
    again = play.act(([0, 3], [1, 1]), ([], []))
    assert again.parts[0].rows == [0, 1, 3, 4] and again.started == []
    assert again.parts[0].final_rows == []


def test_disabled_waits_for_a_reset(open_):
    play = after(open_(autoreset_mode=pb.AUTORESET_MODE_DISABLED), 4)
    assert play.refused(([], []), ([], [])).code == pb.ERROR_CODE_EPISODE_OVER
    assert play.reset().parts[0].acting == [0, 3]
    assert play.act(([0, 3], [0, 0]), ([], [])).parts[0].acting == [1, 4]


@pytest.mark.parametrize("mode", [pb.AUTORESET_MODE_NEXT_STEP, pb.AUTORESET_MODE_SAME_STEP])
def test_one_fault_is_of_the_agents_whose_episode_went_on(open_, mode):
    play = after(open_(autoreset_mode=mode), 3)
    batch = play.act(([2, 5], [1, FAIL]), ([0, 1], [1, 1]))
    assert batch.faults == [1]
    part = batch.parts[0]
    rows_of_1 = [row for row in part.rows if row >= 3]
    if mode == pb.AUTORESET_MODE_NEXT_STEP:
        assert rows_of_1 == [4, 5] and part.acting == []
        batch = play.act(([], []), ([], []))
        assert batch.started == [0, 1]
    else:
        assert part.final_rows == [1, 2, 4, 5] and rows_of_1 == [3, 4, 5]
        assert batch.started == [0, 1]
    assert play.act(([0, 3], [0, 0]), ([], [])).parts[0].acting == [1, 4]


def test_a_failed_simulator_is_a_fault_of_the_agents_whose_episode_went_on(open_):
    play = after(open_(3), 3, 3)
    batch = play.act(([2], [FAIL]), ([0], [1]), envs=[0])
    part = batch.parts[0]
    assert batch.faults == [0]
    assert part.rows == part.ended == [1, 2] and part.reward == [0, 0]
    assert [part.at(row)[:3] for row in part.rows] == [[0, 0, 3]] * 2, "the observation before"
    rest = play.act(([5, 8], [1, 1]), ([1, 2], [1, 1]))
    part = rest.parts[0]
    assert rest.faults == [1, 2] and rest.started == [0]
    assert part.rows == [0, 1, 4, 5, 7, 8] and part.ended == [4, 5, 7, 8]
    assert part.acting == [0]
    assert play.act(([0], [0]), ([], [])).started == [1, 2]


def test_a_reset_in_the_middle_forgets_who_had_joined(open_):
    play = after(open_(), 2)
    assert play.reset().parts[0].rows == [0, 1, 3, 4]
    batch = play.act(([0, 3], [FAIL, 0]), ([], []))
    assert batch.faults == [0, 1] and batch.parts[0].rows == [0, 1, 3, 4]


def test_a_reply_that_does_not_fit_the_spaces_is_a_fault(open_):
    play = after(open_(), 3)
    batch = play.act(([2, 5], [1, NONSENSE]), ([0, 1], [1, 1]))
    assert batch.faults == [0, 1]
    assert batch.parts[0].rows == [1, 2, 4, 5], "speaker_0 had left before"
    assert batch.parts[1].rows == [0, 1]
    assert play.act(([], []), ([], [])).started == [0, 1]


def test_rows_are_read_alike_in_a_simulator_without_turns(open_):
    play = open_(simulator=RELAY)
    play.reset()
    play.act(([0, 1, 2, 3], [0, 0, 0, 0]))
    assert play.act(np.zeros(4, np.int64)).parts[0].ended == [0, 2]
    assert play.refused(([1], [0])).code == pb.ERROR_CODE_INVALID_ACTION
    batch = play.act(([1, 3], [0, 0]))
    assert batch.parts[0].rows == [1, 3]


def test_the_game_of_the_guide(tmp_path: Path):
    (code,) = (block for block in python_blocks("simulators.md") if "class Ten" in block)
    (tmp_path / "ten.py").write_text(code)
    with (
        serving("ten:Ten", folder=tmp_path) as server,
        playing(server.address, "ten:Ten", 2) as play,
    ):
        part = play.reset().parts[0]
        for _ in range(5):
            assert len(part.acting) == 2 and part.ended == []
            part = play.act((part.acting, [2, 1])).parts[0]
        assert part.observation[:, 0].tolist() == [10, 10, 5, 5]
        assert part.ended == [0, 1] and part.reward == [1, -1, 0, 0] and part.acting == [3]
        part = play.act((part.acting, [2])).parts[0]
        assert part.observation[:, 0].tolist() == [0, 0, 7, 7] and part.acting == [0, 2]
