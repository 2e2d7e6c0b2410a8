"""The manifests of ``deploy/kubernetes``, against Kubernetes' own schemas.

KubeRay's schema of a RayCluster is no part of a package: what stands in there is compared with
``ray start``, and its pods with the schema of pods.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.azure.rules import RAY_START_PORTS
from farsim.addresses import expand
from tests.servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
#: Of Kubernetes: the oldest that is still kept, or newer.
VERSION = "1.33"


def documents(name: str) -> dict[str, dict[str, Any]]:
    """A file's by their kind."""
    found = yaml.safe_load_all((FOLDER / name).read_text())
    return {document["kind"]: document for document in found}


def options_of(module: str, subcommand: str) -> set[str]:
    """Those that its help tells of."""
    result = subprocess.run(
        [sys.executable, "-m", module, subcommand, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return set(re.findall(r"--[a-z-]+", result.stdout))


SIMULATORS = documents("simulators.yaml")
RAY = documents("raycluster.yaml")
POD_TEMPLATES = {
    "simulators": SIMULATORS["StatefulSet"]["spec"]["template"],
    "head": RAY["RayCluster"]["spec"]["headGroupSpec"]["template"],
    **{
        group["groupName"]: group["template"]
        for group in RAY["RayCluster"]["spec"]["workerGroupSpecs"]
    },
}


@pytest.mark.parametrize(
    "document",
    [*SIMULATORS.values(), RAY["NetworkPolicy"]],
    ids=lambda document: document["kind"],
)
def test_the_manifests_fit_the_schemas(document: dict[str, Any]):
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("name", POD_TEMPLATES)
def test_pods_fit_the_schema_and_have_little_power(name: str):
    template = POD_TEMPLATES[name]
    spec = template["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    kubernetes_validate.validate(pod, VERSION, strict=True)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["resources"]["limits"]["memory"]


def test_a_misspelt_key_would_be_found():
    broken = {**SIMULATORS["Service"], "spec": {**SIMULATORS["Service"]["spec"], "clusterIp": ""}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_what_selects_what_agrees():
    stateful = SIMULATORS["StatefulSet"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    selectors = [
        stateful["selector"]["matchLabels"],
        SIMULATORS["Service"]["spec"]["selector"],
        SIMULATORS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 3
    assert stateful["serviceName"] == SIMULATORS["Service"]["metadata"]["name"]
    # KubeRay gives its pods this label.
    of_ray = {"ray.io/cluster": RAY["RayCluster"]["metadata"]["name"]}
    ingress = SIMULATORS["NetworkPolicy"]["spec"]["ingress"]
    assert ingress[0]["from"] == [{"podSelector": {"matchLabels": of_ray}}]
    assert RAY["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == of_ray


def test_ray_starts_with_options_that_it_has_and_a_token():
    spec = RAY["RayCluster"]["spec"]
    assert set(spec) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    known = options_of("ray.scripts.scripts", "start")
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        options = {f"--{name}={value}" for name, value in group["rayStartParams"].items()}
        assert options == set(RAY_START_PORTS)
        assert {option.partition("=")[0] for option in options} <= known
        for container in group["template"]["spec"]["containers"]:
            environment = {entry["name"]: entry for entry in container["env"]}
            assert environment["RAY_AUTH_MODE"]["value"] == "token"
            assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]


def test_the_commands_have_the_options_that_are_given():
    (container,) = POD_TEMPLATES["simulators"]["spec"]["containers"]
    probe = container["readinessProbe"]["exec"]["command"]
    text = (FOLDER / "raycluster.yaml").read_text()
    at_the_top = text.partition("apiVersion:")[0].replace("#", "")
    train = shlex.split(at_the_top.partition(" -- \\\n")[2])
    for command in (["farsim", "serve", *container["args"]], probe, train):
        assert command[0] == "farsim"
        given = {word.partition("=")[0] for word in command[2:] if word.startswith("--")}
        assert given and given <= options_of("farsim", command[1])
    replicas = SIMULATORS["StatefulSet"]["spec"]["replicas"]
    sims = expand(train[train.index("--sims") + 1])
    assert sims == [f"sim-{number}.sims:50051" for number in range(replicas)]
