"""PettingZoo environments through their adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from farsim import tensors
from farsim.errors import UnknownSimulator
from farsim.v1 import simulator_pb2 as pb
from farsim.v1 import tensor_pb2
from simserver.adapters.agent_groups import groups_of
from simserver.catalogue import load
from tests.servers import Serving, serving
from tests.simserver.raw_play import Part, Play, playing

HERE = "tests.simulators.agents"
CROWD, MASKED, AUCTION = f"{HERE}:Crowd", f"{HERE}:Masked", f"{HERE}:Auction"
TAG, SPREAD, TICTACTOE = (
    "pettingzoo/mpe2.simple_tag_v3",
    "pettingzoo/mpe2.simple_spread_v3",
    "pettingzoo/classic.tictactoe_v3",
)
SPREAD_IN_TURNS = "mpe2.simple_spread_v3:env"
SAME_STEP = pb.AUTORESET_MODE_SAME_STEP


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    served = [CROWD, MASKED, AUCTION, TAG, SPREAD, TICTACTOE, SPREAD_IN_TURNS]
    functions = [f"{HERE}:make_crowd", f"{HERE}:make_turns", "pettingzoo/classic.connect_four_v3"]
    with serving(*served, *functions, "particle/simple_tag") as server:
        yield server


@pytest.fixture
def open_(server: Serving, request: pytest.FixtureRequest) -> Any:
    def open_session(simulator: str, count: int = 2, **fields: Any) -> Play:
        context = playing(server.address, simulator, count, **fields)
        play = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return play

    return open_session


def options(**values: Any) -> pb.Options:
    packed = {
        name: tensor_pb2.Value(tensors=[tensors.pack(np.array(value).reshape(-1))])
        for name, value in values.items()
    }
    return pb.Options(values=packed)


def idle(fox: int = 0, count: int = 2) -> list[Any]:
    """Everyone's action is 1, but that of fox_0 of environment 1."""
    foxes = np.ones(2 * count, np.int64)
    foxes[2] = fox
    return [foxes, np.ones(count, np.int64), np.ones(count, np.int64)]


# -- groups, names and parameters ---------------------------------------------------------


def test_agents_of_one_stem_and_equal_spaces_are_a_group(open_):
    groups = {group.name: list(group.agents) for group in open_(CROWD).opened.groups}
    assert groups == {"fox": ["fox_0", "fox_1"], "hen": ["hen_0"], "scout": ["scout"]}
    groups = {group.name: list(group.agents) for group in open_(TAG).opened.groups}
    assert groups == {
        "adversary": ["adversary_0", "adversary_1", "adversary_2"],
        "agent": ["agent_0"],
    }
    (group,) = open_(AUCTION).opened.groups
    assert list(group.agents) == ["0", "1", "2"]


def test_constructor_arguments_are_parameters(open_):
    play = open_(TAG, options=options(num_good=2, max_cycles=3))
    assert len(play.opened.groups[1].agents) == 2
    assert play.opened.max_episode_steps == 0, "nobody knows"
    play.reset()
    for _ in range(3):
        reply = play.act(np.zeros(6, np.int64), np.zeros(4, np.int64))
    assert reply.parts[0].ended == [0, 1, 2, 3, 4, 5]
    names = open_(CROWD).opened.options.values
    assert set(names) == {"length", "name"}, "render_mode is not the client's to choose"


def test_per_episode_parameters_reach_reset(open_):
    play = open_(AUCTION)
    assert play.reset().parts[0].at(0) == [0, 0, 7]
    assert play.reset(options=options(start=[3, 4])).parts[0].at(3) == [0, 0, 4]
    play.act(([0, 3], [0, 1]))
    play.act(([1, 4], [0, 1]))
    assert play.act(([5], [1])).parts[0].at(0) == [0, 0, 3], "also in the episodes that follow"


@pytest.mark.parametrize("function", ["make_crowd", "make_turns"])
def test_a_function_is_known_by_what_it_makes(open_, function):
    play = open_(f"{HERE}:{function}", options=options(length=1))
    start = play.reset()
    in_turns = function == "make_turns"
    assert (start.parts[0].acting == [0, 2]) == in_turns
    for _ in range(4 if in_turns else 1):
        reply = play.act(*idle(1))
    assert all(part.ended == part.rows for part in reply.parts)


# -- parallel -----------------------------------------------------------------------------


def test_agents_end_at_different_times_and_join_late(open_):
    play = open_(CROWD)
    start = play.reset(seeds=[1, -2])
    assert [part.rows for part in start.parts] == [[0, 1, 2, 3], [], [0, 1]]
    assert [part.acting for part in start.parts] == [None, None, None]
    replies = [play.act(*idle(1)) for _ in range(4)]
    assert [reply.parts[0].rows for reply in replies] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 2],
        [0, 2],
    ]
    assert [reply.parts[0].ended for reply in replies] == [[], [1, 3], [], [0, 2]]
    assert [reply.parts[1].rows for reply in replies] == [[0, 1]] * 4
    assert [reply.parts[2].ended for reply in replies] == [[], [], [], [0, 1]]
    assert replies[2].parts[0].reward == [4, 4]
    again = play.act(*idle(1))
    assert again.started == [0, 1] and again.parts[1].rows == []
    assert again.parts[0].observation[:, 0].tolist() == [0, 0, 0, 0]


def test_same_step_without_the_late_one(open_):
    play = open_(CROWD, autoreset_mode=SAME_STEP)
    play.reset()
    for _ in range(4):
        reply = play.act(*idle(1))
    foxes, hens, scouts = reply.parts
    assert reply.started == [0, 1]
    assert foxes.rows == [0, 1, 2, 3] and foxes.final_rows == foxes.ended == [0, 2]
    assert foxes.acting is None and foxes.observation[:, 0].tolist() == [0, 0, 0, 0]
    assert foxes.final_observation[:, 0].tolist() == [4, 4]
    assert hens.rows == hens.final_rows == hens.ended == [0, 1]
    assert hens.acting == [] and hens.reward == [5, 5]
    assert scouts.final_rows == [0, 1] and scouts.acting is None
    assert play.act(*idle(1)).parts[1].rows == [0, 1], "then it joins again"


def test_seeds_make_the_episodes(open_):
    drawn = [
        [play.reset(seeds=[5, 6]).parts[0].at(0)[2], play.reset().parts[0].at(0)[2]]
        for play in (open_(CROWD), open_(CROWD))
    ]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]
    unseeded = open_(CROWD).reset().parts[0]
    assert unseeded.at(0)[2] != unseeded.at(2)[2]


def test_infos_and_masks(open_):
    play = open_(MASKED)
    start = play.reset()
    assert start.parts[0].infos["nested/step"] == ([0, 2], [0, 0])
    assert start.parts[0].infos["name"] == ([0, 2], ["x", "x"])
    assert [bool(group.has_action_mask) for group in play.opened.groups] == [False, True, False]
    (mask,) = play.act(*idle(1)).parts[1].masks
    assert mask.tolist() == [[False, True, False, False, False]] * 2
    assert "action_mask" not in start.parts[1].infos


def test_pictures(open_):
    play = open_(CROWD, render_mode="rgb_array")
    play.reset()
    play.act(*idle(1))
    frames = play.ask(render=pb.Render()).frames.frames
    assert [tensors.unpack(frame).tolist() for frame in frames] == [[[[1] * 3] * 6] * 4] * 2


@pytest.mark.parametrize("action", [3, 4])
def test_an_exception_is_a_fault_of_its_environment_alone(open_, action):
    play = open_(CROWD)
    serials = play.reset().parts[0].infos["serial"][1]
    for _ in range(2):
        play.act(*idle(1))
    reply = play.act(*idle(action))
    foxes, hens, scouts = reply.parts
    assert reply.faults == [1]
    assert foxes.rows == [0, 2], "fox_1 had ended before"
    assert foxes.ended == [2] and hens.ended == scouts.ended == [1]
    assert foxes.reward_of(2) == hens.reward_of(1) == 0 and foxes.reward_of(0) == 4
    assert foxes.at(2)[0] == 2, "the observation from before"
    reply = play.act(*idle(1))
    assert reply.started == [1] and reply.parts[0].rows == [0, 2, 3]
    reply = play.act(*idle(1))
    assert reply.faults == []
    now = reply.parts[0].infos["serial"][1]
    assert now[0] == serials[0] and now[1] != serials[1], "the failed one is made anew"


def test_an_agent_that_vanishes_was_stopped(open_):
    play = open_(CROWD)
    play.reset()
    reply = play.act(*idle(2))
    scouts = reply.parts[2]
    assert reply.faults == [] and scouts.rows == [0, 1] and scouts.ended == [1]
    assert scouts.reward == [2, 0] and scouts.at(1)[0] == 0
    assert play.act(*idle(1)).parts[2].rows == [0]


def test_an_agent_that_is_seen_but_no_longer_listed_was_stopped(open_):
    play = open_(CROWD)
    play.reset()
    actions = idle(1)
    actions[2][0] = 2
    scouts = play.act(*actions).parts[2]
    assert scouts.rows == [0, 1] and scouts.ended == [0] and scouts.reward == [2, 2]
    assert scouts.at(0)[:2] == [1, 2]
    assert play.act(*idle(1)).parts[2].rows == [1]


# -- turns --------------------------------------------------------------------------------


def test_rewards_of_each_turn_are_everyones(open_):
    play = open_(AUCTION)
    assert play.reset().parts[0].acting == [0, 3]
    first = play.act(([0, 3], [2, 1])).parts[0]
    assert first.reward == [0, 2, 2, 0, 1, 1] and first.acting == [1, 4]
    second = play.act(([1, 4], [0, 2])).parts[0]
    assert second.reward == [5, 0, 5, 2, 0, 2]
    assert second.rows == [0, 1, 2, 3, 4, 5] and second.ended == [1]
    assert second.acting == [2, 5]
    third = play.act(([2, 5], [2, 2])).parts[0]
    assert third.rows == [0, 2, 3, 4, 5] and third.reward == [2, 0, 2, 2, 0]
    assert third.acting == [0, 3] and third.at(0) == [3, 2, 7]
    fourth = play.act(([0, 3], [0, 1])).parts[0]
    assert fourth.rows == [0, 2, 3, 4, 5] and fourth.ended == [0, 2], "the last one is stopped"
    assert fourth.infos["agent"][1] == [0, 2, 0, 1, 2]
    fifth = play.act(([4], [1])).parts[0]
    assert fifth.rows == [0, 1, 2, 3, 4, 5] and fifth.acting == [0, 5]


def test_an_agent_that_stays_listed_after_its_end_has_ended_once(open_):
    play = open_(AUCTION, 1)
    play.reset()
    first = play.act(([0], [3])).parts[0]
    assert first.rows == [0, 1, 2] and first.ended == [0] and first.reward == [0, 3, 3]
    second = play.act(([1], [1])).parts[0]
    assert second.rows == [1, 2] and second.reward == [0, 1] and second.acting == [2]
    third = play.act(([2], [0])).parts[0]
    assert third.rows == third.ended == [1, 2] and third.reward == [5, 0]
    assert play.act(([], [])).started == [0]


def test_a_fault_in_turns(open_):
    play = open_(AUCTION)
    play.reset()
    play.act(([0, 3], [1, 0]))
    part = play.act(([1, 4], [1, 4])).parts[0]
    assert part.rows == [0, 1, 2, 4, 5] and part.ended == [4, 5] and part.acting == [2]
    assert part.at(4) == [1, 0, 7]
    assert play.act(([2], [1])).started == [1]


@pytest.mark.parametrize("same_step", [False, True])
def test_tictactoe(open_, same_step):
    fields = {"autoreset_mode": SAME_STEP} if same_step else {}
    play = open_(TICTACTOE, 1, **fields)
    part = play.reset().parts[0]
    assert part.observation.shape == (2, 3, 3, 2), "the mask is no part of the observation"
    for square in (0, 3, 1, 4):
        assert part.masks[0][part.acting[0]][square]
        part = play.act(([part.acting[0]], [square])).parts[0]
        assert part.ended == [] and part.reward == [0, 0]
    free = [False, False, True, False, False, True, True, True, True]
    assert part.acting == [0] and part.masks[0].tolist() == [free, [True] * 9]
    reply = play.act(([0], [2]))
    part = reply.parts[0]
    assert part.reward == [1, -1] and part.ended == [0, 1]
    if same_step:
        assert reply.started == [0] and part.acting == [0]
        assert part.final_observation[0, :, :, 0].sum() == 3 and not part.observation.any()
    else:
        assert part.acting is None
        part = play.act(([], [])).parts[0]
    part = play.act(([0], [4])).parts[0]
    part = play.act(([1], [4])).parts[0]
    assert part.reward == [0, -1] and part.ended == [0, 1], "an illegal move ends the game"


def test_connect_four_to_the_end(open_):
    play = open_("pettingzoo/classic.connect_four_v3", 3)
    random = np.random.default_rng(3)
    part, finished = play.reset().parts[0], 0
    for _ in range(60):
        acting = part.acting or []
        allowed = [part.masks[0][part.rows.index(row)] for row in acting]
        chosen = [random.choice(np.flatnonzero(mask)) for mask in allowed]
        part = play.act((acting, chosen)).parts[0]
        rewards = dict(zip(part.rows, part.reward, strict=True))
        for env in {row // 2 for row in part.ended}:
            finished += 1
            assert sorted([rewards[2 * env], rewards[2 * env + 1]]) in ([-1, 1], [0, 0])
        if part.acting is None:
            part.acting = []
    assert finished > 3


# -- mpe2 ---------------------------------------------------------------------------------


def same(one: Part, other: Part) -> None:
    assert one.rows == other.rows and one.ended == other.ended and one.reward == other.reward
    assert one.observation.dtype == other.observation.dtype
    assert np.array_equal(one.observation, other.observation)


def test_mpe2_and_our_own_particles_play_the_same_episodes(open_):
    ours, theirs = open_("particle/simple_tag", 3), open_(TAG, 3)
    random = np.random.default_rng(1)
    for seeds in ([1, 2, 2**40], []):
        for one, other in zip(
            ours.reset(seeds=seeds).parts, theirs.reset(seeds=seeds).parts, strict=True
        ):
            same(one, other)
        for _ in range(25):
            actions = random.integers(5, size=9), random.integers(5, size=3)
            replies = ours.act(*actions), theirs.act(*actions)
            for one, other in zip(replies[0].parts, replies[1].parts, strict=True):
                same(one, other)
        assert replies[0].parts[0].ended == list(range(9))


def test_agents_in_turns_play_the_same_episode_as_all_at_once(open_):
    at_once, in_turns = open_(SPREAD), open_(SPREAD_IN_TURNS)
    random = np.random.default_rng(2)
    one, other = at_once.reset(seeds=[1, 2]).parts[0], in_turns.reset(seeds=[1, 2]).parts[0]
    assert np.array_equal(one.observation, other.observation)
    for _ in range(25):
        actions = random.integers(5, size=6)
        one = at_once.act(actions).parts[0]
        total = np.zeros(6)
        for turn in range(3):
            assert other.acting == [turn, 3 + turn]
            other = in_turns.act(([turn, 3 + turn], actions[[turn, 3 + turn]])).parts[0]
            total += other.reward
        assert total.tolist() == one.reward
        assert np.array_equal(one.observation, other.observation)
        assert one.ended == other.ended
    assert one.ended == [0, 1, 2, 3, 4, 5]


# -- names that lead nowhere --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pettingzoo/nope.thing_v1", ["'nope.thing_v1'", "pip install nope"]),
        ("pettingzoo/classic", ["'pettingzoo.classic'", "neither", "'parallel_env' nor 'env'"]),
        ("pettingzoo/tests.simulators.lacking", ["'some_engine'", "missing", "install it"]),
        ("pettingzoo/", ["no simulator", "pettingzoo/<module>"]),
    ],
)
def test_what_can_not_be_served_is_said(name, words):
    with pytest.raises(UnknownSimulator) as caught:
        load([name], {})
    for word in words:
        assert word in caught.value.message


def test_a_missing_pettingzoo_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    with pytest.raises(UnknownSimulator, match="pettingzoo") as caught:
        load(["pettingzoo/classic.tictactoe_v3"], {})
    assert "pip install 'pettingzoo[classic]'" in caught.value.message


def test_agents_with_equal_stems_and_different_spaces_are_groups_by_their_first():
    spaces = {"a_0": Discrete(2), "a_1": Discrete(3), "a_2": Discrete(2), "b": Discrete(2)}
    groups = groups_of(list(spaces), spaces.__getitem__, lambda agent: Discrete(4), {})
    assert [(each.group.name, each.ids) for each in groups] == [
        ("a_0", ("a_0", "a_2")),
        ("a_1", ("a_1",)),
        ("b", ("b",)),
    ]


@pytest.mark.parametrize("names", [[], [1, "1"]])
def test_agents_need_different_names(names):
    with pytest.raises(ValueError, match="different names"):
        groups_of(names, lambda agent: Discrete(2), lambda agent: Discrete(2), {})
