"""Container groups: Azure's real client against a stand-in for its endpoint."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.azure import container_instances as aci
from deploy.azure.account import Account
from deploy.azure.container_groups import GroupPlan, UnfitCertificates
from deploy.azure.errors import AzureError, QuotaExceeded
from deploy.azure.network import NotOurs
from deploy.deployment_file import parse
from deploy.schema import Deployment
from farsim import deployment as notes
from farsim.errors import InvalidArgument
from tests.deploy.azure_endpoint import SUBSCRIPTION, Credential, Endpoint, azure_endpoint

FILE = f"""\
name: scheduling
azure: {{subscription: {SUBSCRIPTION}, resource_group: rl, location: westeurope}}
tags: {{owner: me}}
simulators:
  - {{simulator: deeprm, replicas: 2, workers: 2, insecure: true, options: {{new_job_rate: 0.7}}}}
  - {{simulator: adder, port: 50061, insecure: true}}
"""


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("FARSIM_STATE", str(tmp_path / "state"))
    with azure_endpoint() as endpoint:
        endpoint.routes.append((r"GET (.*/containerGroups/([^/]+))$", running))
        yield endpoint


def running(endpoint: Endpoint, asked: re.Match[str], _: Any) -> tuple[int, Any]:
    """A container group as Azure shows it once its container runs."""
    found = endpoint.resources.get(asked[1].lower())
    if found is None:
        return 404, {"error": {"code": "ResourceNotFound", "message": f"no {asked[2]}"}}
    properties = dict(found["properties"])
    number = sorted(endpoint.resources).index(asked[1].lower())
    properties["ipAddress"] = {**properties["ipAddress"], "ip": f"10.20.1.{4 + number}"}
    container = {**properties["containers"][0]}
    container["properties"] = {
        **container["properties"],
        "instanceView": {
            "restartCount": 1,
            "currentState": {"state": "Running", "detailStatus": ""},
            "events": [{"message": "Started container", "name": "Started", "count": 1}],
        },
    }
    properties["containers"] = [container]
    return 200, {**found, "properties": properties}


def opened(endpoint: Endpoint, text: str = FILE) -> tuple[Account, Deployment]:
    deployment = parse(text, "farsim.yaml")
    assert deployment.azure is not None
    return Account(deployment.azure, Credential(), endpoint.transport), deployment


def test_up_list_and_down(endpoint: Endpoint):
    account, deployment = opened(endpoint)
    told: list[str] = []
    found = aci.up(account, deployment, told.append)
    names = ["scheduling-adder-0", "scheduling-deeprm-0", "scheduling-deeprm-1"]
    assert endpoint.made("containerGroups") == sorted(told) == names
    assert [(each.name, each.state, each.restarts) for each in found] == [
        (name, "Running", 1) for name in names
    ]
    assert found[1].addresses == ("10.20.1.5:50051", "10.20.1.5:50052")
    noted = notes.read("scheduling")
    assert noted.addresses == tuple(address for each in found for address in each.addresses)
    for plan in aci.plans(account, deployment):  # What --dry-run shows is what was sent.
        for path, body in plan.requests().items():
            assert endpoint.bodies[path.lower()] == body
    aci.up(account, deployment, told.append)
    assert endpoint.made("containerGroups") == names
    aci.down(account, "scheduling", told.append)
    assert endpoint.resources == {}
    with pytest.raises(notes.UnknownDeployment):
        notes.read("scheduling")


def test_what_a_group_is(endpoint: Endpoint):
    account, deployment = opened(endpoint)
    body = GroupPlan(account, deployment, deployment.simulators[0]).body(1).serialize()
    properties = body["properties"]
    (container,) = properties["containers"]
    assert body["location"] == "westeurope"
    assert body["tags"] == {
        "owner": "me",
        "farsim-deployment": "scheduling",
        "farsim-simulators": "deeprm",
        "farsim-replica": "1",
        "farsim-ports": "50051-50052",
    }
    assert properties["ipAddress"]["type"] == "Private"
    assert properties["subnetIds"][0]["id"].endswith("/virtualNetworks/farsim/subnets/simulators")
    assert container["properties"]["command"] == [
        *("farsim", "serve", "deeprm", "--address", "0.0.0.0:50051", "--workers", "2"),
        *("--option", "new_job_rate=0.7", "--insecure"),
    ]
    probe = container["properties"]["readinessProbe"]["exec"]["command"]
    assert probe == ["farsim", "check", "127.0.0.1:50051", "--health"]


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("azure") / "certs"
    command = [sys.executable, "-m", "farsim", "certs", "--out", str(folder)]
    command += ["--host", "simulators", "--host", "localhost"]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "token").write_text("sesame\n")
    return folder


def test_keys_and_tokens_travel_as_secrets(endpoint: Endpoint, certs: Path):
    text = FILE.replace("insecure: true", f"tls: {certs}")
    account, deployment = opened(endpoint, text)
    aci.up(account, deployment, print)
    plan = aci.plans(account, deployment)[1]
    (path,) = plan.requests()
    sent = endpoint.bodies[path.lower()]["properties"]
    secrets = sent["volumes"][0]["secret"]
    key = (certs / "server-key.pem").read_bytes()
    assert base64.b64decode(secrets["server-key.pem"]) == key
    assert "ca-key.pem" not in secrets
    variables = sent["containers"][0]["properties"]["environmentVariables"]
    assert variables == [{"name": "FARSIM_TOKEN", "secureValue": "sesame"}]
    command = sent["containers"][0]["properties"]["command"]
    assert "--insecure" not in command and "--tls-client-ca" in command
    shown = str(plan.requests())
    assert "sesame" not in shown and base64.b64encode(key).decode() not in shown
    assert notes.read("scheduling").connection["tls_server_name"] == "simulators"


def test_certificates_that_are_not_there(endpoint: Endpoint, tmp_path: Path):
    text = FILE.replace("insecure: true", f"tls: {tmp_path}")
    with pytest.raises(UnfitCertificates, match=r"lacks ca\.pem"):
        aci.up(*opened(endpoint, text), print)
    assert endpoint.resources == {}


def test_registries(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    login = FILE + "registry: {server: rl.azurecr.io, username: rl, password_env: REGISTRY_KEY}\n"
    monkeypatch.delenv("REGISTRY_KEY", raising=False)
    with pytest.raises(InvalidArgument, match="REGISTRY_KEY"):
        aci.up(*opened(endpoint, login), print)
    assert endpoint.resources == {}
    monkeypatch.setenv("REGISTRY_KEY", "secret!")
    account, deployment = opened(endpoint, login)
    plan = aci.plans(account, deployment)[0]
    assert plan.body(0).image_registry_credentials[0].password == "secret!"
    assert "secret!" not in str(plan.requests())
    identity = FILE + "registry: {server: rl.azurecr.io, identity: /subscriptions/1/x}\n"
    account, deployment = opened(endpoint, identity)
    body = aci.plans(account, deployment)[0].body(0).serialize()
    assert body["identity"]["userAssignedIdentities"] == {"/subscriptions/1/x": {}}


def test_more_than_a_container_can_have(endpoint: Endpoint):
    with pytest.raises(InvalidArgument, match="8 cores"):
        aci.up(*opened(endpoint, FILE.replace("port: 50061", "cpu: 8")), print)
    assert endpoint.resources == {}


def test_one_that_azure_refuses_leaves_the_others_and_can_be_gone_on_with(endpoint: Endpoint):
    endpoint.refuse("PUT .*deeprm-1", 409, "ContainerGroupQuotaReached")
    account, deployment = opened(endpoint)
    with pytest.raises(QuotaExceeded, match=r"deeprm-1.*ask for less"):
        aci.up(account, deployment, print)
    assert endpoint.made("containerGroups") == ["scheduling-adder-0", "scheduling-deeprm-0"]
    aci.up(account, deployment, print)
    assert len(endpoint.made("containerGroups")) == 3
    endpoint.failing.append("adder-0$")
    with pytest.raises(AzureError, match="the test says that it fails"):
        aci.up(account, deployment, print)
    aci.down(account, "scheduling", print)
    assert endpoint.resources == {}


def test_the_groups_of_others_are_left_alone(endpoint: Endpoint):
    account, deployment = opened(endpoint)
    aci.up(account, deployment, print)
    other = "containergroups/scheduling-other-0"
    (path, theirs) = next(iter(endpoint.resources.items()))
    path = f"{path.rpartition('/')[0]}/scheduling-other-0"
    endpoint.resources[path] = {**theirs, "name": "scheduling-other-0", "tags": {}}
    aci.down(account, "scheduling", print)
    assert [path.endswith(other) for path in endpoint.resources] == [True]
    mine = parse(FILE.replace("simulator: adder", "simulator: adder, name: other"), "farsim.yaml")
    with pytest.raises(NotOurs, match="scheduling-other-0"):
        aci.up(account, mine, print)


def test_logs(endpoint: Endpoint):
    account, _ = opened(endpoint)
    endpoint.routes.append(
        (r"GET .*/containers/simulators/logs", lambda *_: (200, {"content": "serving deeprm\n"}))
    )
    assert aci.logs(account, "scheduling-deeprm-0", 20) == "serving deeprm\n"
