"""A whole deployment up and down: the commands, Azure's real clients, and a stand-in for Azure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.azure import account as accounts
from deploy.azure import whole
from deploy.cli import app
from tests.deploy.azure_endpoint import SUBSCRIPTION, Credential, Endpoint, azure_endpoint
from tests.deploy.test_azure_container_instances import running

FILE = f"""\
name: scheduling
azure: {{subscription: {SUBSCRIPTION}, resource_group: rl, location: westeurope}}
simulators:
  - {{simulator: deeprm, replicas: 2, insecure: true}}
"""


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A stand-in that the commands themselves talk to."""
    monkeypatch.setenv("FARSIM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(whole, "_POLL_SECONDS", 0.01)
    with azure_endpoint() as endpoint:
        monkeypatch.setattr(accounts.Account, "_who", lambda _: Credential())
        monkeypatch.setattr(
            accounts.Account, "_options", lambda _: {"transport": endpoint.transport()}
        )
        endpoint.routes.append((r"GET (.*/containerGroups/([^/]+))$", running))
        yield endpoint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "farsim.yaml"
    path.write_text(FILE)
    return path


def farsim(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_up_and_down(endpoint: Endpoint, file: Path):
    shown = json.loads(farsim("up", str(file), "--dry-run"))
    assert endpoint.requests == []
    said = farsim("up", str(file))
    assert "ready    scheduling-deeprm-1" in said
    for path, body in shown.items():
        assert endpoint.bodies[path.lower()] == body
    assert len(endpoint.resources) == 5
    listed = json.loads(farsim("aci", "list", str(file), "--json"))
    assert [each["state"] for each in listed] == ["Running", "Running"]
    addresses = farsim("aci", "addresses", str(file)).strip()
    assert addresses == ",".join(each["addresses"][0] for each in listed)
    farsim("up", str(file))
    assert len(endpoint.resources) == 5
    said = farsim("down", str(file))
    assert endpoint.resources == {} and said.count("removed") == 5
    assert "removed" not in farsim("down", str(file))


def test_down_leaves_what_is_not_ours(endpoint: Endpoint, file: Path):
    farsim("network", "up", str(file), "--set", "name=other")
    assert "left     farsim\n" in farsim("down", str(file))
    assert endpoint.made("virtualNetworks") == ["farsim"]


def test_half_of_it_is_gone_on_with(endpoint: Endpoint, file: Path):
    endpoint.refuse("PUT .*deeprm-1", 500, "InternalServerError", times=20)
    with pytest.raises(whole.AzureError, match="run the same command again"):
        farsim("up", str(file))
    endpoint.refusals.clear()
    farsim("up", str(file))
    assert len(endpoint.resources) == 5


def test_simulators_that_end_are_told_with_what_they_printed(endpoint: Endpoint, file: Path):
    def ended(endpoint: Endpoint, asked: re.Match[str], body: Any) -> tuple[int, Any]:
        status, group = running(endpoint, asked, body)
        if status == 200:
            view = group["properties"]["containers"][0]["properties"]["instanceView"]
            view["currentState"] = {"state": "Terminated", "exitCode": 2}
            view["events"] = [{"message": "Back-off restarting failed container"}]
        return status, group

    endpoint.routes[0] = (endpoint.routes[0][0], ended)
    endpoint.routes.append(
        (r"GET .*/containers/simulators/logs", lambda *_: (200, {"content": "error: no simulator"}))
    )
    with pytest.raises(whole.SimulatorsNotRunning) as caught:
        farsim("up", str(file))
    assert "scheduling-deeprm-0 (Terminated)" in caught.value.message
    assert caught.value.message.endswith(
        "Back-off restarting failed container\nerror: no simulator"
    )


def test_settings_override_the_file_and_mistakes_are_told(endpoint: Endpoint, file: Path):
    from deploy.deployment_file import InvalidDeployment

    shown = farsim("network", "up", str(file), "--dry-run", "--set", "network.name=rl")
    assert "/virtualNetworks/rl" in shown
    with pytest.raises(InvalidDeployment, match=r"line 2: section 'azure' has no 'locaton'; did"):
        file.write_text(FILE.replace("location", "locaton"))
        farsim("up", str(file))
    assert endpoint.requests == []


def test_the_schema_is_for_editors():
    schema = json.loads(farsim("schema"))
    assert schema["properties"]["simulators"]["items"] == {"$ref": "#/$defs/Simulators"}
    assert schema["$defs"]["Simulators"]["additionalProperties"] is False
