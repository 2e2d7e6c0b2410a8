"""Definitions for Azure Machine Learning: through the SDK's own loaders, and with mistakes in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.azure.account import Account
from deploy.azure.head import HeadRequests
from deploy.azure.machine_learning import HeadPlan, body, compute_body
from deploy.azure.train_command import TrainCommand, seconds
from deploy.deployment_file import InvalidDeployment, parse
from farsim.errors import InvalidArgument
from tests.deploy.azure_endpoint import SUBSCRIPTION, Credential

# What the SDK says of itself.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")

HEAD = f"""\
name: scheduling
azure: {{subscription: {SUBSCRIPTION}, resource_group: rl, location: westeurope, workspace: rl}}
head: {{image: rl.azurecr.io/farsim-train:1.0, nodes: 2, max_nodes: 3}}
"""
FILE = HEAD + "training: {simulator: deeprm, sims: 10.20.1.4:50051, resume: scheduling-1}\n"


def requested(text: str = FILE) -> HeadRequests:
    deployment = parse(text, "farsim.yaml")
    assert deployment.azure is not None
    return HeadRequests(Account(deployment.azure, Credential()), deployment)


def test_definitions_come_back_from_the_sdks_loaders(tmp_path: Path):
    from azure.ai.ml import load_compute, load_environment, load_job

    requests = requested()
    account = requests.plan.account
    for load, entity, sent in (
        (load_job, requests.job("scheduling-2")._to_job(), body),
        (load_compute, requests.plan.compute(), lambda each: compute_body(each, account)),
        (load_environment, requests.plan.environment("1"), body),
    ):
        path = tmp_path / "definition.yaml"
        path.unlink(missing_ok=True)
        entity.dump(path)
        assert sent(load(path)) == sent(entity)


def test_an_environment_from_sources_comes_back(tmp_path: Path):
    from azure.ai.ml import load_environment

    deployment = parse(FILE.replace("image: rl.azurecr.io/farsim-train:1.0, ", ""), "farsim.yaml")
    assert deployment.azure is not None
    plan = HeadPlan(Account(deployment.azure, Credential()), deployment)
    entity = plan.environment("1", "https://rl.blob.core.windows.net/files/x/")
    entity.dump(tmp_path / "environment.yaml")
    assert body(load_environment(tmp_path / "environment.yaml")) == body(entity)
    assert body(entity)["properties"]["build"]["dockerfilePath"] == "Dockerfile.train"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sims: 10.20.1.4:50051 -> sims: ''", "no simulators to train on"),
        ("sims: 10.20.1.4:50051 -> sims: nowhere", "nowhere"),
        ("resume: -> arguments: ['--sims=x'], resume:", "follows from training.sims"),
        ("resume: -> arguments: ['${{inputs.x}}'], resume:", "placeholder"),
        ("resume: -> stop: {time: 2d}, resume:", "before training.stop.time"),
        ("resume: -> stop: {time: soon}, resume:", "as 90m, 12h or 2d"),
        ("resume: -> time_limit_seconds: 60, resume:", "may wait for simulators for 600 s"),
        ("resume: -> experiment: 'my runs', resume:", "training.experiment: Azure ML takes no"),
        ("resume: -> config: missing.yaml, resume:", "cannot read missing.yaml"),
        ("nodes: 2 -> nodes: 2, compute: a-cluster-with-a-very-long-name", "3 to 24 in all"),
    ],
)
def test_what_the_sdk_would_let_through(change: str, message: str):
    old, new = change.split(" -> ")
    assert old in FILE
    with pytest.raises((InvalidArgument, ValueError), match=message):
        requested(FILE.replace(old, new)).shown()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nodes: 2 -> nodse: 2", "line 3: section 'head' has no 'nodse'.*nodes"),
        ("max_nodes: 3 -> max_nodes: 1", "nodes 2 is more than max_nodes 1"),
        ("resume: -> coordination: 5, resume:", "line 4: section 'training' has no 'coordination'"),
    ],
)
def test_mistakes_in_the_file(change: str, message: str):
    old, new = change.split(" -> ")
    with pytest.raises(InvalidDeployment, match=message):
        requested(FILE.replace(old, new))


def test_simulators_of_another_name():
    text = FILE.replace("sims: 10.20.1.4:50051, ", "")
    text += "simulators: [{simulator: adder, insecure: true}]\n"
    with pytest.raises(InvalidArgument, match="is 'deeprm', but the simulators are adder"):
        requested(text)


def test_arguments_reach_the_command_as_they_are():
    deployment = parse(
        HEAD + "training: {simulator: my.sim:Env, arguments: [--option, 'name=a b; rm $HOME']}\n",
        "f",
    )
    line = TrainCommand(deployment, ["10.0.0.1:50051"], {}).line
    shown = subprocess.run(
        ["/bin/sh", "-c", line.replace("farsim train", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown[0] == "my.sim:Env"
    assert shown[-2:] == ["--option", "name=a b; rm $HOME"]


@pytest.mark.parametrize(
    ("time", "expected"), [(90, 90), ("90", 90), ("1.5h", 5400), ("30m", 1800), ("2d", 172800)]
)
def test_times(time: Any, expected: float):
    assert seconds(time) == expected


def test_the_command_shows_all_that_it_would_send(tmp_path: Path):
    path = tmp_path / "farsim.yaml"
    path.write_text(FILE)
    shown = subprocess.run(
        [sys.executable, "-m", "farsim", "deploy", "azureml", "submit", str(path), "--dry-run"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    bodies = json.loads(shown.stdout)
    assert [key.split("/")[-2] for key in bodies if key.startswith("/")] == [
        "computes",
        "versions",
        "jobs",
    ]
