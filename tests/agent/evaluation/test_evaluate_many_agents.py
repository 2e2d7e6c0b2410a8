"""``farsim evaluate`` on checkpoints with several agents, of real runs."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import torch
from gymnasium.spaces import Dict
from ray.rllib.core.rl_module.rl_module import RLModule
from rich.console import Console

from agent.evaluation.evaluation import Evaluation
from agent.evaluation.gallery import hang, trained_below
from agent.evaluation.multi_agent.arena import TeamArena
from agent.evaluation.multi_agent.evaluation import MultiAgentEvaluation
from agent.evaluation.multi_agent.learned import LearnedGroup
from agent.evaluation.multi_agent.policy import LineUp, ScriptedGroup
from agent.evaluation.request import Request
from agent.evaluation.seeds import evaluation_seeds
from agent.particle.controllers import scripted
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import InvalidCheckpoint
from agent.training.interface import Simulators, look_at
from farsim.errors import InvalidArgument, SpaceMismatch, Unsupported
from tests.agent.training.command import Workplace, workplace
from tests.servers import Serving, serving

TAG, LISTENER = "particle/simple_tag", "particle/simple_speaker_listener"
SPREAD = "particle/simple_spread"

pytestmark = pytest.mark.slow

QUICK_MADDPG = """\
training: {env_steps_per_update: 100, num_steps_sampled_before_learning_starts: 300}
env_runners: {num_envs_per_env_runner: 8}
reporting: {min_sample_timesteps_per_iteration: 400}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(TAG, LISTENER, SPREAD) as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("evaluate")) as place:
        yield place


@pytest.fixture(scope="module")
def runs(place: Workplace) -> Path:
    return place.folder / "runs"


def train(place: Workplace, server: Serving, simulator: str, out: Path, *more: object) -> Path:
    config = place.folder / "maddpg.yaml"
    config.write_text(QUICK_MADDPG)
    chosen = more or ("--config", config)
    place.here(
        *("train", simulator, "--sims", server.address, "--stop-steps", 400, "--seed", 1),
        *("--out", out, *chosen),
    )
    return out


@pytest.fixture(scope="module")
def tag(place, server, runs) -> Path:
    return train(place, server, TAG, runs / "tag")


@pytest.fixture(scope="module")
def listener(place, server, runs) -> Path:
    return train(place, server, LISTENER, runs / "listener")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def changed(tag: Path, folder: Path, **fields) -> Path:
    """A copy of a checkpoint that says something else of itself."""
    found = checkpoints.find(tag)
    shutil.copytree(found.path, folder)
    manifest = replace(found.manifest, **fields)
    (folder / checkpoints.MANIFEST).write_text(json.dumps(manifest.to_json()))
    return folder


def evaluate(tag: Path, server: Serving, out: Path, **fields) -> None:
    request = Request(
        checkpoints.find(tag), out, **{"sims": server.address, "episodes": 5, **fields}
    )
    MultiAgentEvaluation(request, Console(file=io.StringIO())).carry_out()


def test_each_side_meets_each_opponent_and_tables_are_what_they_play(place, server, tag, tmp_path):
    other = changed(tag, tmp_path / "other")
    out = tmp_path / "results"
    output = place.here(
        *("evaluate", tag, "--sims", server.address, "--episodes", 6, "--out", out),
        *("--opponent", "agents=random", "--opponent", f"agents={other}"),
        *("--opponent", "adversaries=random", "--opponent", "adversaries=scripted"),
        *("--gif", "--mp4", "--trajectories", "parquet"),
    )
    names = ["MADDPG greedy", "MADDPG sampled", "scripted", "random"]
    rows = rows_of(out / "evaluation.csv")
    assert [row["policy"] for row in rows] == names
    matches = {(row["adversaries"], row["agents"]): row for row in rows_of(out / "opponents.csv")}
    assert [*matches] == [
        (hunters, prey)
        for hunters in ("tag", "random", "scripted")
        for prey in ("tag", "random", "other")
    ]
    # The same policies, whichever table they are in; the copy plays as the original.
    for table, cell in [(0, ("tag", "tag")), (3, ("random", "random")), (0, ("tag", "other"))]:
        for column in ("adversaries/return_each", "agents/return_each_se"):
            assert rows[table][column] == matches[cell][column]
    for text in (*names, "return of adversaries, each", "return of agents", "±"):
        assert text in output
    assert "collisions" in output

    # Again, by hand.
    simulators = Simulators([server.address], TAG)
    interface = look_at(simulators)
    (controllers,) = scripted(TAG, interface.session_options, interface.groups).values()
    prey = LearnedGroup(checkpoints.find(tag), interface.groups[1], greedy=True, seed=0)
    (episodes,) = TeamArena(simulators).play(
        [LineUp("", [ScriptedGroup(controllers[0]), prey])], evaluation_seeds(0, 6)
    )
    cell = matches["scripted", "tag"]
    for name in ("adversaries", "agents"):
        mean = episodes.groups[name].returns.mean()
        assert float(cell[f"{name}/return_each"]) == pytest.approx(mean)

    assert len(iio.imread(out / "episode.gif")) > 5
    assert (out / "episode.mp4").stat().st_size > 1000
    assert iio.imread(out / "evaluation.png").shape[2] >= 3
    table = pd.read_parquet(out / "trajectories-adversaries.parquet")
    assert len(table) == 6 * 25 * 3
    assert table.groupby("episode")["reward"].sum().mean() / 3 == pytest.approx(
        float(rows[0]["adversaries/return_each"])
    )


def test_an_evaluation_repeats_exactly(tag, server, tmp_path):
    for name in ("first", "second"):
        evaluate(tag, server, tmp_path / name, opponents=["agents=random"], seed=4)
    for file in ("evaluation.csv", "opponents.csv"):
        assert (tmp_path / "first" / file).read_text() == (tmp_path / "second" / file).read_text()


def test_messages_are_shuffled_beside_intact_ones(place, server, listener, tmp_path):
    output = place.here(
        *("evaluate", listener, "--sims", server.address, "--episodes", 30, "--out", tmp_path),
        "--shuffle-messages",
    )
    rows = {(row["policy"], row["messages"]): row for row in rows_of(tmp_path / "messages.csv")}
    assert [*rows] == [
        *((name, way) for name in ("MADDPG greedy", "MADDPG sampled", "scripted")
          for way in ("intact", "shuffled")),
        ("random", "intact"),
    ]  # fmt: skip
    assert float(rows["scripted", "intact"]["success"]) > 0.9
    assert float(rows["scripted", "shuffled"]["success"]) < 0.7
    compared = {row["policy"]: row for row in rows_of(tmp_path / "evaluation.csv")}
    for name, row in compared.items():
        assert row["listener/goal_distance_last"] == rows[name, "intact"]["goal_distance_last"]
    assert "shuffled" in output and "100.0 ± 0.0 %" in output


def test_opponents_that_cannot_play_are_an_error_before_anything_is_played(
    tag, listener, server, tmp_path
):
    found = checkpoints.find(tag).manifest
    space = found.observation_space
    assert isinstance(space, Dict)
    swapped = Dict({**space.spaces, "agent_0": space["adversary_0"]})
    fewer = {name: policy for name, policy in found.policies.items() if name != "adversary_2"}
    cases = [
        ("agent=random", InvalidArgument, "no group 'agent'; did you mean 'agents'"),
        (f"agents={listener}", InvalidArgument, "has no group 'agents'.*speaker_listener"),
        (
            f"agents={changed(tag, tmp_path / 'swapped', observation_space=swapped)}",
            SpaceMismatch,
            r"'agent_0'.*observation.*\(16,\).*\(14,\)",
        ),
        (
            f"adversaries={changed(tag, tmp_path / 'fewer', policies=fewer)}",
            InvalidArgument,
            "no policy for adversary_2",
        ),
        (
            f"agents={changed(tag, tmp_path / 'single', groups={}, policies={})}",
            InvalidArgument,
            "with one agent",
        ),
        (f"agents={tmp_path / 'nothing'}", InvalidCheckpoint, "there is nothing at"),
    ]
    for opponent, kind, message in cases:
        with pytest.raises(kind, match=message):
            evaluate(tag, server, tmp_path / "none", opponents=[opponent])
    with pytest.raises(Unsupported, match="nobody hears"):
        evaluate(tag, server, tmp_path / "none", shuffle_messages=True)
    with pytest.raises(SpaceMismatch, match="'adversary_0'"):
        evaluate(tag, server, tmp_path / "none", options={"num_obstacles": 1})
    assert not (tmp_path / "none").exists()


def test_one_agent_has_no_opponents(tag, tmp_path):
    single = changed(tag, tmp_path / "single", groups={}, policies={})
    request = Request(checkpoints.find(single), tmp_path, opponents=["agents=random"])
    with pytest.raises(InvalidArgument, match="one agent"):
        Evaluation(request, Console(file=io.StringIO())).carry_out()


def test_every_agent_acts_by_its_own_policy_as_the_simulator_takes_it(place, server, runs):
    out = train(
        *(place, server, SPREAD, runs / "spread", "--algo", "PPO", "--policies", "each"),
        *("--option", "action_mode=continuous", "--config", place.quick),
    )
    found = checkpoints.find(out)
    interface = look_at(Simulators([server.address], SPREAD, {"action_mode": "continuous"}))
    (group,) = interface.groups
    policy = LearnedGroup(found, group, greedy=True, seed=0)
    simulators = Simulators([server.address], SPREAD, {"action_mode": "continuous"})
    with TeamArena(simulators).open(5) as env:
        part = env.reset(seed=list(range(5))).groups[0]
        policy.begin(5)
        actions = np.asarray(policy.act(part))
    modules = found.module_paths
    assert [*modules] == ["agent_0", "agent_1", "agent_2"]
    for place_of, agent in enumerate(group.agents):
        module = RLModule.from_checkpoint(modules[agent].absolute())
        seen = torch.from_numpy(np.asarray(part.observation)[place_of::3])
        with torch.no_grad():
            outputs = module.forward_inference({"obs": seen})["action_dist_inputs"].numpy()
        # The mean of the Gaussian; -1..1 is 0..1 of the simulator's.
        expected = (np.clip(outputs[:, :5], -1, 1) + 1) / 2
        np.testing.assert_allclose(actions[place_of::3], expected, atol=1e-6)
    assert len({actions[row].tobytes() for row in range(15)}) == 15


def test_trained_policies_hang_in_the_gallery(tag, listener, runs, tmp_path):
    longer = changed(tag, runs / "longer", steps=10**6)
    (runs / "notes.txt").write_text("no run")
    found = trained_below(runs)
    assert found[TAG].path == longer
    assert found[LISTENER].manifest.steps == checkpoints.find(listener).manifest.steps
    files = list(hang(tmp_path, runs, 0, (LISTENER,)))
    assert [file.name for file in files] == ["simple_speaker_listener.gif", "gallery.png"]
