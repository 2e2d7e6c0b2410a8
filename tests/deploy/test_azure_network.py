"""Virtual networks: Azure's real client against a stand-in for its endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.azure.account import Account
from deploy.azure.errors import AzureError, Busy, NotSignedIn, QuotaExceeded
from deploy.azure.network import NetworkPlan, NotOurs, down, up
from deploy.deployment_file import parse
from tests.deploy.azure_endpoint import SUBSCRIPTION, Credential, Endpoint, azure_endpoint

FILE = f"""\
name: scheduling
azure: {{subscription: {SUBSCRIPTION}, resource_group: rl, location: westeurope, workspace: rl}}
simulators:
  - {{simulator: deeprm, replicas: 2, workers: 2, insecure: true}}
  - {{simulator: adder, port: 50061, insecure: true}}
"""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with azure_endpoint() as endpoint:
        yield endpoint


def planned(endpoint: Endpoint, text: str = FILE, token: str = "a-token") -> NetworkPlan:
    deployment = parse(text, "farsim.yaml")
    assert deployment.azure is not None
    account = Account(deployment.azure, Credential(token), endpoint.transport)
    return NetworkPlan(account, deployment)


def test_up_and_down(endpoint: Endpoint):
    plan = planned(endpoint)
    told: list[str] = []
    up(plan, told.append)
    assert endpoint.made("virtualNetworks") == ["farsim"]
    assert endpoint.made("networkSecurityGroups") == ["farsim-head", "farsim-simulators"]
    assert len(told) == 3
    for path, body in plan.requests().items():  # What --dry-run shows is what was sent.
        assert endpoint.bodies[path.lower()] == body
    up(plan, told.append)
    assert endpoint.made("virtualNetworks") == ["farsim"]
    assert down(plan, told.append) == []
    assert endpoint.resources == {}
    assert down(plan, told.append) == []


def test_the_rules(endpoint: Endpoint):
    one = planned(endpoint).security_groups()
    simulators = [
        rule["properties"] for rule in one["farsim-simulators"]["properties"]["securityRules"]
    ]
    assert [(rule["access"], rule["priority"]) for rule in simulators] == [
        ("Allow", 100),
        ("Deny", 4096),
    ]
    assert simulators[0]["sourceAddressPrefix"] == "10.20.0.0/24"
    assert simulators[0]["destinationPortRanges"] == ["50051-50052", "50061"]
    head = one["farsim-head"]["properties"]["securityRules"]
    assert [rule["name"] for rule in head] == ["nothing-else"]
    cluster = planned(
        endpoint,
        FILE + "network: {public_head: true}\nhead: {nodes: 2, max_nodes: 2}\n",
    ).security_groups()
    head = cluster["farsim-head"]["properties"]["securityRules"]
    assert [rule["name"] for rule in head] == [
        "ray",
        "azure-ml-management",
        "azure-load-balancer",
        "nothing-else",
    ]
    assert head[0]["properties"]["sourceAddressPrefix"] == "10.20.0.0/24"
    assert head[1]["properties"]["sourceAddressPrefix"] == "BatchNodeManagement.westeurope"


def test_a_network_of_somebody_elses_is_left_alone(endpoint: Endpoint):
    up(planned(endpoint), print)
    other = planned(endpoint, FILE.replace("scheduling", "other"))
    with pytest.raises(NotOurs, match="'scheduling'"):
        up(other, print)
    assert down(other, print) == ["farsim", "farsim-head", "farsim-simulators"]
    assert endpoint.made("virtualNetworks") == ["farsim"]


def test_half_of_it_can_be_gone_on_with_or_undone(endpoint: Endpoint):
    plan = planned(endpoint)
    endpoint.refuse("PUT .*/virtualNetworks/", 409, "AnotherOperationInProgress")
    with pytest.raises(Busy, match=r"AnotherOperationInProgress.*run the same command again"):
        up(plan, print)
    assert endpoint.made("virtualNetworks") == []
    up(plan, print)
    assert endpoint.made("virtualNetworks") == ["farsim"]
    endpoint.refuse("PUT .*/virtualNetworks/", 409, "AnotherOperationInProgress")
    down(plan, print)
    assert endpoint.resources == {}


def test_too_many_requests_are_waited_for(endpoint: Endpoint):
    endpoint.refuse("PUT ", 429, "TooManyRequests", headers={"Retry-After": "0"}, times=2)
    up(planned(endpoint), print)
    assert endpoint.made("virtualNetworks") == ["farsim"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (400, "NetworkCountLimitReached", QuotaExceeded, "ask for less"),
        (403, "AuthorizationFailed", AzureError, "role Contributor"),
        (404, "ResourceGroupNotFound", AzureError, "not made here"),
        (400, "InvalidRequestFormat", AzureError, "InvalidRequestFormat"),
    ],
)
def test_what_azure_refuses_is_said_with_what_to_do(
    endpoint: Endpoint, status: int, code: str, kind: type[Exception], advice: str
):
    endpoint.refuse("PUT .*/virtualNetworks/", status, code)
    with pytest.raises(kind, match=advice):
        up(planned(endpoint), print)


def test_an_operation_that_fails_later(endpoint: Endpoint):
    endpoint.failing.append("virtualNetworks/farsim$")
    with pytest.raises(AzureError, match="the test says that it fails"):
        up(planned(endpoint), print)


def test_a_token_that_is_not_accepted(endpoint: Endpoint):
    with pytest.raises(NotSignedIn, match="az login"):
        up(planned(endpoint, token="stale"), print)
