"""Playing episodes on real servers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from agent.evaluation import heuristics
from agent.evaluation.arena import Arena
from agent.evaluation.policy import RandomPolicy
from agent.evaluation.rollout import Transition
from agent.evaluation.seeds import evaluation_seeds
from agent.evaluation.trajectories import Trajectories
from agent.session import Session
from tests.servers import Serving, serving

CARTPOLE = "gymnasium/CartPole-v1"
SHORT = {"simu_len": 12, "num_nw": 5, "new_job_rate": [0.8, 0.8]}


@pytest.fixture(scope="module")
def deeprm() -> Iterator[Serving]:
    with serving("deeprm") as server:
        yield server


def textbook(server: Serving, seed: int = 0) -> list:
    with Session.open(server.address, "deeprm", 1, SHORT) as session:
        return heuristics.textbook(session.options, seed)


class Arrivals:
    """Notes when jobs arrive: at what times the waiting and running jobs grow in number."""

    def __init__(self) -> None:
        self.lengths: list[np.ndarray] = []

    def begun(self, env, observation, infos) -> None:
        self.jobs: dict[int, np.ndarray] = {}

    def stepped(self, transition: Transition) -> None:
        if "_jobs" in transition.infos:
            for row in transition.rows[transition.infos["_jobs"][transition.rows]]:
                self.jobs[int(row)] = transition.infos["jobs"][row]


def test_every_policy_plays_the_same_sequences(deeprm):
    arena = Arena([deeprm.address], "deeprm", {**SHORT, **heuristics.OPTIONS})
    arrivals = {policy.name: Arrivals() for policy in textbook(deeprm)}
    arena.play(
        textbook(deeprm), evaluation_seeds(1, 6), observers=lambda policy: [arrivals[policy.name]]
    )
    assert len(arrivals) == 6
    # Columns of the job table: id, enter, start, finish, length, sizes.
    unchosen = [0, 1, 4, 5, 6]
    jobs = [[a.jobs[row][:, unchosen] for row in range(6)] for a in arrivals.values()]
    for other in jobs[1:]:
        np.testing.assert_array_equal(jobs[0], other)
    assert len({rows.tobytes() for rows in jobs[0]}) == 6


def test_results_do_not_depend_on_the_servers_or_on_how_many_play_at_once(deeprm, monkeypatch):
    seeds = evaluation_seeds(2, 10)
    options = {**SHORT, **heuristics.OPTIONS}
    whole = Arena([deeprm.address], "deeprm", options).play(textbook(deeprm), seeds)
    monkeypatch.setattr("agent.evaluation.arena._MOST_ENVS", 4)
    waves = Arena([deeprm.address] * 2, "deeprm", options).play(textbook(deeprm), seeds)
    for name in ("SJF", "Packer", "hold long jobs"):
        np.testing.assert_array_equal(whole[name].returns, waves[name].returns)
        np.testing.assert_array_equal(whole[name].infos["slowdown"], waves[name].infos["slowdown"])


def test_returns_are_the_slowdowns_of_the_jobs(deeprm):
    options = {**SHORT, **heuristics.OPTIONS}
    results = Arena([deeprm.address], "deeprm", options).play(
        textbook(deeprm), evaluation_seeds(3, 5)
    )
    for episodes in results.values():
        np.testing.assert_allclose(episodes.returns, -episodes.infos["slowdown_sum"])
        assert not episodes.infos["jobs_unscheduled"].any()


def test_transitions_are_those_of_an_environment_that_replays_the_actions(shared_server):
    arena = Arena([shared_server.address], CARTPOLE)
    with arena.open(1, action_mask=False) as env:
        policy = RandomPolicy(env.single_action_space, 0)
    watching = Trajectories()
    seeds = evaluation_seeds(4, 3)
    results = arena.play([policy], seeds, observers=lambda policy: [watching])
    table = watching.table()
    episodes = results["random"]
    assert table.groupby("episode").size().tolist() == episodes.lengths.tolist()
    np.testing.assert_allclose(table.groupby("episode")["reward"].sum(), episodes.returns)
    one = table[table["episode"] == 1]
    with arena.open(1, action_mask=False) as env:
        observation, _ = env.reset(seed=[seeds[1]])
        for row in one.itertuples():
            assert row.observation == observation[0].tolist()
            observation, _, terminated, *_ = env.step(np.array([row.action]))
            assert row.next_observation == observation[0].tolist()
            assert row.terminated == terminated[0]
    assert one["terminated"].tolist() == [False] * (len(one) - 1) + [True]


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_trajectories_of_structured_spaces_are_written_and_read(
    shared_server, tmp_path, file_format
):
    import pandas as pd

    arena = Arena([shared_server.address], "adder")
    with arena.open(1, action_mask=False) as env:
        policy = RandomPolicy(env.single_action_space, 0)
    watching = Trajectories()
    arena.play([policy], evaluation_seeds(5, 4), observers=lambda policy: [watching])
    path = watching.write(tmp_path, file_format)
    table = pd.read_csv(path) if file_format == "csv" else pd.read_parquet(path)
    assert len(table) == 4 * 10
    assert {"observation/value", "action/addend", "next_observation/value"} <= {*table.columns}
    moved = table["observation/value"] + table["action/addend"]
    assert (table["next_observation/value"] == moved).all()
    assert (table["reward"] == -(moved - 50).abs()).all()
