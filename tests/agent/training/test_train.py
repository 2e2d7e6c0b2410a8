"""``farsim train`` on real servers: what it learns, prints, saves, and leaves behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.training import checkpoint as checkpoints
from agent.training.records import read_progress
from tests.agent.training.command import Workplace, descendants, workplace
from tests.servers import Serving

CARTPOLE = "gymnasium/CartPole-v1"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Workplace]:
    with workplace(tmp_path_factory.mktemp("train")) as place:
        yield place


@pytest.fixture(scope="module")
def adder(place: Workplace) -> tuple[Path, str]:
    """A run of two iterations on local servers, and what it printed."""
    out = place.folder / "adder"
    output = place.run(
        *("train", "adder", "--config", place.quick, "--stop-steps", 800, "--seed", 5),
        *("--out", out, "--checkpoint-every", 1),
    )
    return out, output


def test_a_run_leaves_everything_in_its_folder(adder):
    out, output = adder
    names = {path.name for path in out.iterdir()}
    assert {"run.json", "progress.csv", "result.json", "learning_curve.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"000001", "000002"}
    description = json.loads((out / "run.json").read_text())
    assert description["status"] == "finished"
    assert description["stopped_because"] == "800 steps are done"
    assert description["simulator"] == "adder"
    assert description["settings"]["training"]["minibatch_size"] == 200
    assert description["seed"] == 5
    assert "iteration 2  steps 800" in output
    assert "finished" in output


def test_the_checkpoint_tells_what_it_was_trained_for(adder):
    out, _ = adder
    found = checkpoints.find(out)
    assert found == checkpoints.find(out / "checkpoints" / "000002")
    assert found == checkpoints.find(out / "checkpoint")
    manifest = found.manifest
    assert (manifest.simulator, manifest.algo, manifest.steps) == ("adder", "PPO", 800)
    assert manifest.action_space["addend"].start == -10
    assert found.module_path.is_dir()


def test_resuming_goes_on_with_iterations_steps_and_settings(place, adder):
    before, _ = adder
    out = place.folder / "resumed"
    output = place.here("train", "--resume", before, "--stop-steps", 1600, "--out", out)
    rows = read_progress(out / "progress.csv")
    assert [(row["iteration"], row["steps"]) for row in rows] == [("3", "1200"), ("4", "1600")]
    manifest = checkpoints.find(out).manifest
    assert (manifest.iteration, manifest.steps, manifest.seed) == (4, 1600, 5)
    assert manifest.settings == checkpoints.find(before).manifest.settings
    assert "iteration 3  steps 1,200" in output


def test_resuming_goes_on_with_the_weights(place, adder):
    before, _ = adder
    out = place.folder / "frozen"
    (place.folder / "frozen.yaml").write_text("training: {lr: 0.0}\n")
    place.here(
        *("train", "--resume", before, "--config", place.folder / "frozen.yaml"),
        *("--stop-steps", 1200, "--out", out),
    )
    from ray.rllib.core.rl_module.rl_module import RLModule

    old, new = (
        RLModule.from_checkpoint(checkpoints.find(run).module_path).get_state()
        for run in (before, out)
    )
    assert old.keys() == new.keys()
    for name, weights in old.items():
        assert (weights == new[name]).all(), name


def test_a_return_that_is_reached_stops(place, shared_server: Serving):
    out = place.folder / "cartpole"
    config = place.folder / "patient.yaml"
    patience = "connection: {resume_seconds: 2, request_seconds: 40}\n"
    config.write_text(place.quick.read_text() + patience)
    output = place.here(
        *("train", CARTPOLE, "--sims", shared_server.address, "--config", config),
        *("--connection", "resume_seconds=3"),
        *("--stop-return", 5, "--stop-steps", 100_000, "--out", out, "--env-runners", 1),
    )
    assert "the mean return is" in output
    assert float(read_progress(out / "progress.csv")[-1]["return_mean"]) >= 5
    description = json.loads((out / "run.json").read_text())
    assert description["servers"] == [shared_server.address]
    assert description["connection"] == {"resume_seconds": 3, "request_seconds": 40}


def test_connections_are_as_they_are_asked_to_be(place, shared_server: Serving):
    train = ("train", "adder", "--sims", shared_server.address, "--out", place.folder / "none")
    output = place.here(*train, "--connection", "max_message_bytes=50", code=1)
    assert "over the size limit" in output and "raise max_message_bytes" in output
    output = place.here(*train, "--connection", "resume_second=2", code=1)
    assert "no connection option 'resume_second'; did you mean 'resume_seconds'" in output


def test_masked_simulators_are_trained_with_their_mask(place, shared_server: Serving):
    out = place.folder / "masked"
    place.here(
        *("train", "tests.simulators.envs:Masked", "--sims", shared_server.address),
        *("--config", place.quick, "--stop-steps", 400, "--out", out),
    )
    assert checkpoints.find(out).manifest.action_mask


def test_ctrl_c_finishes_the_iteration_saves_and_stops_everything(place):
    out = place.folder / "interrupted"
    process = place.start("train", "adder", "--config", place.quick, "--out", out)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("iteration 1 "):
            break
    children = descendants(process)
    names = {" ".join(child.cmdline()) for child in children}
    assert any("farsim serve" in name for name in names)
    assert any("raylet" in name for name in names)
    # As a terminal does it: to Ray's processes as well.
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    printed.append(output)
    assert process.returncode == 130, "".join(printed)
    assert "stopping after this iteration" in output
    rows = read_progress(out / "progress.csv")
    assert checkpoints.find(out).manifest.iteration == int(rows[-1]["iteration"])
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [child.cmdline() for child in alive] == []
    place.check_clean()


def test_a_simulator_that_is_not_there_is_an_error(place):
    output = place.here("train", "ader", "--out", place.folder / "none", code=1)
    assert "error: " in output
    assert "did you mean 'adder'?" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adder", "--option", "initial=3"], "no option 'initial'; did you mean 'initial_value'?"),
        (["adder", "--algo", "PPPO"], "no algorithm 'PPPO'; did you mean 'PPO'?"),
        (["adder", "--algo", "DQN"], "DQN needs a single choice"),
        (["adder", "--sims", "127.0.0.1:1-x"], "is no address"),
        (["--resume", "nowhere"], "there is nothing at nowhere"),
    ],
    ids=["option", "algorithm", "actions", "address", "checkpoint"],
)
def test_mistakes_are_errors_that_say_what_to_do(place, shared_server, arguments, expected):
    sims = [] if "--sims" in arguments else ["--sims", shared_server.address]
    output = place.here("train", *arguments, *sims, "--out", place.folder / "none", code=1)
    assert expected in output
    assert "Traceback" not in output


def test_mistakes_in_a_training_file_say_the_line(place, shared_server):
    bad = place.folder / "bad.yaml"
    bad.write_text("training:\n  gama: 0.9\n")
    output = place.here(
        *("train", "adder", "--sims", shared_server.address, "--config", bad),
        *("--out", place.folder / "none"),
        code=1,
    )
    assert "bad.yaml, line 2: section 'training' of PPO has no 'gama'" in output
    assert "did you mean 'gamma'?" in output
    assert not (place.folder / "none").exists()


def test_without_a_simulator_or_a_checkpoint_there_is_nothing_to_do(place):
    assert "name a simulator" in place.here("train", code=2)
