"""Deployment files: what they may say, and how each mistake is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.deployment_file import InvalidDeployment, load, parse

GOOD = """\
name: scheduling
azure: {resource_group: rl, location: westeurope, workspace: rl}
network:
  simulator_subnet: 10.20.1.0/24
registry: {server: rl.azurecr.io, username: rl, password_env: REGISTRY_PASSWORD}
simulators:
  - simulator: deeprm
    replicas: 4
    tls: certs
    options: {new_job_rate: 7e-1}
  - simulator: particle/simple_spread
    tls: certs
head: {nodes: 2, max_nodes: 2}
training:
  simulator: deeprm
  stop: {return: -110, steps: 2_000_000}
"""


def test_a_good_one():
    deployment = parse(GOOD, "farsim.yaml")
    deeprm, spread = deployment.simulators
    assert (deeprm.name, deeprm.replicas, deeprm.options) == ("deeprm", 4, {"new_job_rate": 0.7})
    assert (spread.name, spread.tls) == ("particle-simple-spread", Path("certs"))
    assert deployment.network is not None and deployment.network.head_subnet == "10.20.0.0/24"
    assert deployment.training is not None
    assert (deployment.training.stop.reward, deployment.training.stop.steps) == (-110, 2_000_000)


def test_flags_override_it():
    deployment = parse(GOOD, "farsim.yaml", {"head.size": "Standard_NC6s_v3", "name": "other"})
    assert deployment.head is not None
    assert (deployment.name, deployment.head.size) == ("other", "Standard_NC6s_v3")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (
            "workspace: rl",
            "workspce: rl",
            "line 2: section 'azure' has no 'workspce'; did you mean 'workspace'",
        ),
        ("network:", "netwrok:", "line 3: a deployment has no 'netwrok'; did you mean 'network'"),
        (
            "replicas: 4",
            "replica: 4",
            "line 8: section 'simulators.0' has no 'replica'; did you mean 'replicas'",
        ),
        (
            "return: -110",
            "retrun: -110",
            "line 16: section 'training.stop' has no 'retrun'; did you mean 'return'",
        ),
        (
            "replicas: 4",
            "replicas: 0",
            "line 8: simulators.0.replicas: input should be greater than",
        ),
        (
            "replicas: 4",
            "replicas: many",
            "line 8: simulators.0.replicas: input should be a valid integer",
        ),
        (
            "10.20.1.0/24",
            "10.20.0.0/25",
            "line 3: network: head_subnet 10.20.0.0/24 and simulator_subnet",
        ),
        (
            "10.20.1.0/24",
            "10.21.1.0/24",
            "line 3: network: 10.21.1.0/24 is not inside address_space",
        ),
        (
            "10.20.1.0/24",
            "10.20.1.0/99",
            "line 4: network.simulator_subnet: '10.20.1.0/99' is no IPv4 network",
        ),
        (
            "    tls: certs\n",
            "",
            "line 7: simulators.0: servers beyond one machine need tls",
        ),
        (
            ", password_env: REGISTRY_PASSWORD",
            "",
            "line 5: registry: username and password_env belong together",
        ),
        ("max_nodes: 2", "max_nodes: 1", "line 13: head: nodes 2 is more than max_nodes 1"),
        (
            "location: westeurope",
            "location: West Europe",
            "line 2: azure.location: string should match",
        ),
        ("location: westeurope, ", "", "line 2: section 'azure' needs 'location'"),
        (", workspace: rl", "", "a head needs azure.workspace"),
        (
            "name: scheduling",
            "name: Scheduling!",
            "line 1: name: 'Scheduling!' can not name a deployment",
        ),
        ("particle/simple_spread", "deeprm", "two groups of simulators are called 'deeprm'"),
        (
            "    replicas: 4",
            "    replicas: 4\n    replicas: 5",
            "line 9: 'replicas' is there twice",
        ),
        ("nodes: 2", "nodes: [", "is no YAML"),
    ],
)
def test_each_mistake_is_told_with_its_line(right: str, wrong: str, message: str):
    assert right in GOOD
    with pytest.raises(InvalidDeployment, match=re.escape(message)):
        parse(GOOD.replace(right, wrong, 1), "farsim.yaml")


def test_mistakes_of_flags_are_told_as_theirs():
    with pytest.raises(InvalidDeployment, match=r"^--set head\.sise: section 'head' has no 'sise'"):
        parse(GOOD, "farsim.yaml", {"head.sise": "Standard_NC6s_v3"})


def test_all_mistakes_are_told_at_once():
    wrong = GOOD.replace("replicas: 4", "replica: 4").replace("nodes: 2,", "nods: 2,")
    with pytest.raises(InvalidDeployment) as caught:
        parse(wrong, "farsim.yaml")
    assert [line.split(":")[0] for line in caught.value.message.splitlines()] == [
        "farsim.yaml, line 8",
        "farsim.yaml, line 13",
    ]


def test_a_missing_file_and_one_that_is_no_deployment(tmp_path: Path):
    with pytest.raises(InvalidDeployment, match="cannot read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(InvalidDeployment, match="consists of"):
        load(tmp_path / "list.yaml")
