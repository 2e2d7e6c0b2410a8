"""What comes first: the command line, then the training file, then the checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gymnasium.spaces import Box, Dict, Discrete
from rich.console import Console

from agent.training import configuration
from agent.training.checkpoint import Checkpoint, Manifest
from agent.training.configuration import Setting
from agent.training.presets import preset
from agent.training.request import Decisions, Request
from agent.training.run import FolderInUse, Run
from agent.training.stopping import StopConditions

FILE = configuration.parse(
    "algo: APPO\noptions: {a: 1, b: 1}\nstop: {steps: 10, time: 20}\ndebugging: {seed: 4}\n",
    "file.yaml",
)
MANIFEST = Manifest(
    simulator="adder",
    options={"a": 0, "c": 0},
    session_options={},
    algo="IMPALA",
    settings={"training": {"lr": 0.5}},
    observation_space=Box(0, 1, (2,)),
    action_space=Discrete(2),
    action_mask=False,
    iteration=3,
    steps=300,
    seed=9,
)
CHECKPOINT = Checkpoint(Path("somewhere"), MANIFEST)
PLAIN = Request("adder", Path("out"))


def merged(decisions: Decisions) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for layer in decisions.layers:
        for section, members in layer.items():
            values = {name: setting.value for name, setting in members.items()}
            found.setdefault(section, {}).update(values)
    return found


def test_the_command_line_comes_before_the_file_and_that_before_the_checkpoint():
    request = replace(
        PLAIN,
        file=FILE,
        resume=CHECKPOINT,
        options={"b": 2},
        stop=StopConditions(steps=30),
        seed=7,
    )
    decisions = Decisions.of(request)
    assert decisions.algo == "APPO"
    assert decisions.options == {"a": 1, "b": 2, "c": 0}
    assert decisions.stop == StopConditions(steps=30, seconds=20)
    assert decisions.seed == merged(decisions)["debugging"]["seed"] == 7


def test_a_resumed_run_keeps_what_nobody_changes():
    decisions = Decisions.of(replace(PLAIN, resume=CHECKPOINT))
    assert (decisions.algo, decisions.seed) == ("IMPALA", 9)
    assert merged(decisions)["training"] == {"lr": 0.5}


def test_another_algorithm_starts_from_its_own_settings():
    decisions = Decisions.of(replace(PLAIN, resume=CHECKPOINT, algo="PPO"))
    assert "training" not in merged(decisions)


def test_particle_is_trained_with_maddpg_and_its_own_settings():
    decisions = Decisions.of(replace(PLAIN, simulator="particle/simple_tag"))
    assert decisions.algo == "MADDPG"
    assert decisions.policies is None
    assert merged(decisions)["env_runners"] == {"num_envs_per_env_runner": 64}


def test_policies_are_those_of_the_command_line_then_the_file_then_the_checkpoint():
    groups = {"team": ("a", "b")}
    manifest = replace(MANIFEST, groups=groups, policies={"a": "x", "b": "y"})
    resumed = replace(PLAIN, resume=Checkpoint(Path("somewhere"), manifest))
    assert Decisions.of(resumed).policies == {"a": "x", "b": "y"}
    from_file = replace(resumed, file=configuration.parse("policies: each", "file.yaml"))
    assert Decisions.of(from_file).policies == "each"
    assert Decisions.of(replace(from_file, policies="group")).policies == "group"


def test_the_files_seed_holds_without_one_on_the_command_line():
    assert Decisions.of(replace(PLAIN, file=FILE)).seed == 4


def test_without_anything_it_is_ppo_with_the_built_in_settings_and_a_drawn_seed():
    decisions = Decisions.of(replace(PLAIN, simulator="deeprm"))
    assert decisions.algo == "PPO"
    settings = merged(decisions)
    assert settings.pop("debugging") == {"seed": decisions.seed}
    assert settings == preset("deeprm", "PPO")
    assert decisions.seed != Decisions.of(replace(PLAIN, simulator="deeprm")).seed


def test_flags_override_the_file():
    file = configuration.parse("env_runners: {num_env_runners: 3}", "file.yaml")
    layer = {"env_runners": {"num_env_runners": Setting(1, "--env-runners")}}
    decisions = Decisions.of(replace(PLAIN, file=file, layer=layer))
    assert merged(decisions)["env_runners"]["num_env_runners"] == 1


def test_a_manifest_survives_json():
    settings = {"training": {"vf_clip_param": float("inf"), "lr": [[0, 0.1], [10, 0.0]]}}
    manifest = replace(MANIFEST, settings=settings, seed=None)
    assert manifest.to_json()["format"] == 1
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_for_several_agents_survives_json():
    spaces = {"a": Box(0, 1, (2,)), "b": Box(0, 1, (3,))}
    manifest = replace(
        MANIFEST,
        observation_space=Dict(spaces),
        action_space=Dict({"a": Discrete(2), "b": Discrete(3)}),
        groups={"second": ("b",), "first": ("a",)},
        policies={"b": "other", "a": "one"},
    )
    document = json.loads(json.dumps(manifest.to_json()))
    assert document["format"] == 2
    read_back = Manifest.from_json(document)
    assert read_back == manifest
    assert list(read_back.groups) == ["second", "first"]
    checkpoint = Checkpoint(Path("here"), read_back)
    assert list(checkpoint.module_paths) == ["other", "one"]
    assert checkpoint.module_paths["one"] == checkpoint.module_path.with_name("one")


def test_a_folder_with_a_run_in_it_is_not_written_over(tmp_path: Path):
    (tmp_path / "progress.csv").write_text("iteration,steps\n1,4000\n")
    with pytest.raises(FolderInUse, match="--resume"):
        Run(Request(simulator="adder", out=tmp_path), Console(quiet=True)).carry_out()
    assert [file.name for file in tmp_path.iterdir()] == ["progress.csv"]
