"""``farsim evaluate`` on checkpoints of real runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from agent.evaluation.evaluation import Evaluation, Request
from agent.evaluation.learned import LearnedPolicy
from agent.training import checkpoint as checkpoints
from agent.training.checkpoint import InvalidCheckpoint
from farsim.errors import SpaceMismatch
from tests.agent.training.command import Workplace, workplace
from tests.servers import Serving

#: A cluster on which episodes are short.
SMALL = ("--option", "simu_len=10", "--option", "num_nw=4")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("evaluate")) as place:
        yield place


@pytest.fixture(scope="module")
def deeprm(place: Workplace) -> Path:
    out = place.folder / "deeprm"
    place.here(
        "train", "deeprm", *SMALL, "--config", place.quick, "--stop-steps", 400, "--out", out
    )
    return out


@pytest.fixture(scope="module")
def adder(place: Workplace) -> Path:
    out = place.folder / "adder"
    place.here("train", "adder", "--config", place.quick, "--stop-steps", 400, "--out", out)
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_deeprm_is_compared_with_the_heuristics(place, deeprm):
    out = place.folder / "results"
    output = place.run(
        *("evaluate", deeprm, "--episodes", 6, "--loads", "0.4", "--out", out),
        *("--gif", "--mp4", "--trajectories", "parquet"),
    )
    policies = ["PPO sampled", "PPO greedy", "hold long jobs", "SJF", "combined (0.01)"]
    policies += ["Packer", "random", "random valid"]
    rows = rows_of(out)
    assert [(row["policy"], row["load"]) for row in rows] == [
        (policy, load) for load in ("0.4", "0.7") for policy in policies
    ]
    for row in rows:
        assert row["episodes"] == "6"
        assert float(row["slowdown"]) >= 1
        assert float(row["slowdown_se"]) >= 0
        assert row["unscheduled"] == row["dropped"] == "0.0"
        assert row["policy"] in output
    assert (out / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert iio.imread(out / "episode.png").shape[2] == 3
    assert len(iio.imread(out / "episode.gif")) > 5
    assert (out / "episode.mp4").stat().st_size > 1000
    table = pd.read_parquet(out / "trajectories.parquet")
    assert sorted(table["episode"].unique()) == list(range(6))
    assert table["terminated"].sum() == 6
    chosen = [
        mask[action]
        for mask, action in zip(table["observation/action_mask"], table["action"], strict=True)
    ]
    assert all(chosen)


def test_an_evaluation_repeats_exactly(deeprm, place):
    def evaluate(name: str) -> list[dict[str, str]]:
        out = place.folder / name
        request = Request(checkpoints.find(deeprm), out, episodes=5, seed=3)
        Evaluation(request, Console(file=io.StringIO())).carry_out()
        return rows_of(out)

    assert evaluate("first") == evaluate("second")


def test_other_simulators_are_compared_with_random(place, adder, shared_server: Serving):
    out = place.folder / "adder-results"
    output = place.here(
        *("evaluate", adder, "--sims", shared_server.address, "--episodes", 5, "--out", out),
        *("--trajectories", "csv"),
    )
    assert [row["policy"] for row in rows_of(out)] == ["PPO sampled", "PPO greedy", "random"]
    assert "±" in output
    assert len(pd.read_csv(out / "trajectories.csv")) == 50
    # Adder has no pictures, and none were asked for.
    assert not list(out.glob("episode.*"))


def test_pictures_that_a_simulator_does_not_have_are_an_error(place, adder, shared_server):
    output = place.here(
        *("evaluate", adder, "--sims", shared_server.address, "--episodes", 2, "--gif"),
        *("--out", place.folder / "none"),
        code=1,
    )
    assert "error: " in output
    assert "Traceback" not in output


def test_other_spaces_than_those_trained_for_are_an_error_that_says_where(deeprm, place):
    request = Request(checkpoints.find(deeprm), place.folder / "none", options={"num_nw": 6})
    with pytest.raises(SpaceMismatch, match=r"observation/observations.*shape.*\(73,\).*\(79,\)"):
        Evaluation(request, Console(file=io.StringIO())).carry_out()


def test_the_greedy_policy_is_deterministic_and_the_sampled_one_repeats(deeprm):
    found = checkpoints.find(deeprm)
    space = found.manifest.observation_space
    rng = np.random.default_rng(0)
    observation = {
        "observations": rng.random((50, *space["observations"].shape)).astype(np.float32),
        "action_mask": np.ones((50, 5), np.float32),
    }

    def act(greedy: bool, seed: int) -> list[int]:
        policy = LearnedPolicy(found, greedy, seed)
        policy.begin(50)
        return policy.act(observation, {}).tolist()

    assert act(True, 0) == act(True, 1)
    assert act(False, 0) == act(False, 0)
    assert act(False, 0) != act(False, 1)


def test_what_is_no_checkpoint_is_an_error(place, tmp_path):
    output = place.here("evaluate", tmp_path / "nothing", code=1)
    assert "there is nothing at" in output
    output = place.here("evaluate", tmp_path, code=1)
    assert "is no checkpoint of farsim train" in output


def test_a_damaged_checkpoint_is_an_error(deeprm, tmp_path):
    manifest = (checkpoints.find(deeprm).path / checkpoints.MANIFEST).read_text()
    (tmp_path / checkpoints.MANIFEST).write_text(manifest[:100])
    with pytest.raises(InvalidCheckpoint, match="is damaged"):
        checkpoints.find(tmp_path)
    (tmp_path / checkpoints.MANIFEST).write_text(manifest)
    with pytest.raises(InvalidCheckpoint, match="cannot load the network"):
        LearnedPolicy(checkpoints.find(tmp_path), True, 0)
    (tmp_path / checkpoints.MANIFEST).write_text(manifest.replace('"format": 1', '"format": 99'))
    with pytest.raises(InvalidCheckpoint, match="has format 99"):
        checkpoints.find(tmp_path)
