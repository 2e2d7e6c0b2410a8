"""Episodes with several agents on real servers, counted again by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from gymnasium.vector import AutoresetMode

from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.policy import LineUp, RandomGroup, ScriptedGroup
from agent.evaluation.multi_agent.recording import TeamFilm, TeamTrajectories
from agent.evaluation.multi_agent.rollout import TeamEpisodes, play
from agent.evaluation.multi_agent.summary import TeamSummary
from agent.evaluation.seeds import evaluation_seeds
from agent.group_step import GroupStep
from agent.particle.controllers import scripted
from agent.session import Session
from agent.training.interface import Simulators, look_at
from tests.servers import Serving, serving
from tests.simulators.teams import BLUES, FAIL_ALONE, REDS, alive

TEAMS, TAG = "tests.simulators.teams:Teams", "particle/simple_tag"
LENGTH = 5


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(TEAMS, TAG) as server:
        yield server


class Counting:
    """In its n-th act every agent does n; where it is told to, something breaks."""

    def __init__(self, failing: tuple[int, int] | None = None) -> None:
        self.failing = failing

    def begin(self, num_envs: int) -> None:
        self.time = 0

    def act(self, step: GroupStep) -> np.ndarray:
        self.time += 1
        actions = np.full(len(step.acting), self.time)
        if self.failing is not None and self.failing[0] == self.time:
            actions[self.failing[1]] = FAIL_ALONE
        return actions


def teams(server: Serving, failing: tuple[int, int] | None = None, **options) -> tuple:
    simulators = Simulators([server.address], TEAMS, {"length": LENGTH, **options})
    watching = TeamTrajectories()
    line_up = LineUp("counting", [Counting(failing), Counting()])
    with TeamArena(simulators).open(4) as env:
        return play(env, line_up, [1, 2, 3, 4], [watching]), watching


def expected_returns(agents: tuple[str, ...], turn: int | None = None) -> list[int]:
    """Of each agent: in step n (from 1) it gets n if it was there before, and it was its turn."""
    return [
        sum(
            step + 1
            for step in range(LENGTH)
            if alive(step, LENGTH)[agent] and turn in (None, step % 2)
        )
        for agent in agents
    ]


@pytest.mark.parametrize("turns", [0, 1])
def test_agents_that_leave_join_and_take_turns_get_what_is_theirs(server, turns):
    episodes, watching = teams(server, turns=turns)
    for name, agents, turn in (("reds", REDS, 0), ("blues", BLUES, 1)):
        expected = expected_returns(agents, turn if turns else None)
        assert episodes.groups[name].returns.tolist() == [expected] * 4
        assert sum(expected) > 0
    assert episodes.lengths.tolist() == [LENGTH] * 4
    assert not episodes.faulty.any()
    frames = {name: table.frame(["episode", "step"]) for name, table in watching._tables.items()}
    for name, agents in (("reds", REDS), ("blues", BLUES)):
        frame = frames[name]
        there = [
            (episode, step, agent)
            for episode in range(4)
            for step in range(LENGTH)
            for agent in agents
            if alive(step, LENGTH)[agent]
        ]
        found = frame.sort_values(["episode", "step", "agent"])
        assert [*zip(found["episode"], found["step"], found["agent"], strict=True)] == there
        sums = frame.groupby(["episode", "agent"])["reward"].sum().unstack()[list(agents)]
        np.testing.assert_array_equal(sums.to_numpy(), episodes.groups[name].returns)
        # Their clock is the third number of what they see.
        assert (frame["observation"].map(lambda seen: seen[3]) == frame["step"]).all()
        assert (frame["next_observation"].map(lambda seen: seen[3]) == frame["step"] + 1).all()


def test_an_episode_with_a_fault_does_not_count(server):
    # Row 6 is red_0 of environment 2, in the third step.
    episodes, watching = teams(server, failing=(3, 6))
    assert episodes.faulty.tolist() == [False, False, True, False]
    assert episodes.lengths.tolist() == [LENGTH, LENGTH, 2, LENGTH]
    summary = TeamSummary.of("counting", episodes)
    assert (summary.episodes, summary.faulty) == (3, 1)
    assert summary.total_return.error == 0
    for name, agents in (("reds", REDS), ("blues", BLUES)):
        mean = np.mean(expected_returns(agents))
        assert summary.groups[name].each.mean == pytest.approx(mean)
    faults = watching._tables["reds"].frame(["episode", "step"]).query("fault")
    assert set(zip(faults["episode"], faults["step"], strict=True)) == {(2, 2)}


def tag(server: Serving) -> tuple[Simulators, list[LineUp]]:
    simulators = Simulators([server.address], TAG, {"num_good": 2})
    interface = look_at(simulators)
    groups = interface.groups
    (found,) = scripted(TAG, interface.session_options, groups).values()
    chance = [RandomGroup(group, 5, number) for number, group in enumerate(groups)]
    return simulators, [
        LineUp("scripted", [ScriptedGroup(controller) for controller in found]),
        LineUp("random", chance),
    ]


def replayed(
    server: Serving, seed: int, actions: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """An episode in a session of its own: rewards and collisions [25, A], and what prey saw."""
    rewards, contacts, seen = defaultdict(list), defaultdict(list), []
    with Session.open(
        server.address, TAG, 1, {"num_good": 2}, autoreset_mode=AutoresetMode.NEXT_STEP
    ) as session:
        session.reset(seeds=[seed])
        for step in range(25):
            batch = session.step([actions[group.name][step] for group in session.groups])
            for group, part in zip(session.groups, batch.groups, strict=True):
                rewards[group.name].append(part.reward)
                contacts[group.name].append(part.infos["collisions"].values)
            seen.append(batch.groups[1].observation)
        assert batch.groups[0].truncated.all()
    stack = {name: np.stack(values) for name, values in rewards.items()}
    return stack, {name: np.stack(values) for name, values in contacts.items()}, np.stack(seen)


def test_tables_are_what_raw_sessions_make_of_the_same_actions(server, tmp_path):
    simulators, line_ups = tag(server)
    seeds = evaluation_seeds(3, 6)
    watching = {line_up.name: TeamTrajectories() for line_up in line_ups}
    results = TeamArena(simulators).play(
        line_ups, seeds, observers=lambda line_up: [watching[line_up.name]]
    )
    for line_up, episodes in zip(line_ups, results, strict=True):
        actions, agents = {}, {"adversaries": 3, "agents": 2}
        for path in watching[line_up.name].write(tmp_path, "csv"):
            name = path.stem.removeprefix("trajectories-")
            frame = pd.read_csv(path)
            actions[name] = frame["action"].to_numpy().reshape(6, 25, agents[name])
        # The last one is of the agents.
        told = np.stack([json.loads(text) for text in frame["next_observation"]])
        replays = [
            replayed(server, seed, {name: parts[episode] for name, parts in actions.items()})
            for episode, seed in enumerate(seeds)
        ]
        seen = np.stack([replay[2] for replay in replays])
        np.testing.assert_array_equal(told.astype(np.float32), seen.reshape(told.shape))
        summary = TeamSummary.of(line_up.name, episodes)
        total = np.zeros(6)
        for name in agents:
            returns = np.stack([replay[0][name].sum(axis=0) for replay in replays])
            np.testing.assert_allclose(episodes.groups[name].returns, returns)
            total += returns.sum(axis=1)
            each = returns.mean(axis=1)
            assert summary.groups[name].each.mean == pytest.approx(each.mean())
            error = each.std(ddof=1) / np.sqrt(6)
            assert summary.groups[name].each.error == pytest.approx(error)
            infos = np.stack([replay[1][name] for replay in replays])
            found = summary.groups[name].infos
            assert found["collisions", "mean"].mean == pytest.approx(infos.mean())
            assert found["collisions", "last"].mean == pytest.approx(infos[:, -1].mean())
        assert summary.total_return.mean == pytest.approx(total.mean())
        assert summary.row()["return_se"] == pytest.approx(total.std(ddof=1) / np.sqrt(6))


def test_results_do_not_depend_on_how_many_play_at_once_or_who_played_before(server, monkeypatch):
    simulators, (scripts, chance) = tag(server)
    seeds = evaluation_seeds(2, 10)
    whole = TeamArena(simulators).play([scripts, chance], seeds)
    monkeypatch.setattr("agent.evaluation.multi_agent.arena._MOST_ENVS", 4)
    two_servers = Simulators(simulators.addresses * 2, TAG, simulators.options)
    waves = TeamArena(two_servers).play([chance, scripts], seeds)
    for name in ("adversaries", "agents"):
        np.testing.assert_array_equal(whole[0].groups[name].returns, waves[1].groups[name].returns)
    again = TeamArena(simulators).play([chance], seeds[:4])
    np.testing.assert_array_equal(again[0].returns, waves[0].returns[:4])


def test_a_film_has_a_picture_of_the_start_and_of_every_step(server):
    simulators, (scripts, _) = tag(server)
    film = TeamFilm()
    with TeamArena(simulators).open(1, render=True) as env:
        play(env, scripts, evaluation_seeds(0, 1), [film])
    assert len(film.frames) == 26
    assert film.frames[0].shape == (672, 640, 3)
    # The last one is of the end, not of the next episode's start.
    assert np.mean(film.frames[25] != film.frames[24]) < 0.05


def test_chance_chooses_only_what_a_mask_allows(server):
    simulators = Simulators([server.address], TEAMS, {"masks": 1})
    groups = look_at(simulators).groups
    assert groups[0].has_action_mask
    policy = RandomGroup(groups[0], 1, 0)
    policy.begin(100)
    with TeamArena(simulators).open(100) as env:
        part = env.reset(seed=list(range(100))).groups[0]
    actions = np.asarray(policy.act(part))
    mask = part.action_masks[0]
    assert mask[part.acting].any(axis=1).all() and not mask[part.acting].all()
    assert mask[part.acting, actions[part.acting]].all()
    assert len(np.unique(actions[part.acting])) > 1


def test_episodes_join_one_after_the_other(server):
    simulators, (scripts, _) = tag(server)
    parts = [TeamArena(simulators).play([scripts], evaluation_seeds(seed, 3))[0] for seed in (1, 2)]
    joined = TeamEpisodes.join(parts)
    np.testing.assert_array_equal(joined.returns[3:], parts[1].returns)
    for name, group in joined.groups.items():
        last = [part.groups[name].infos["collisions"].last for part in parts]
        np.testing.assert_array_equal(group.infos["collisions"].last, np.concatenate(last))
