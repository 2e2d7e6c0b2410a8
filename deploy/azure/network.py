"""A virtual network with a subnet for the head, one for simulators, and who may reach whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deploy.azure.account import TAG, Account
from deploy.azure.errors import NotThere, explained
from deploy.azure.rules import Rule, head_rules, simulator_rules
from deploy.schema import Deployment, Network
from farsim.errors import FarsimError

HEAD_SUBNET = "head"
SIMULATOR_SUBNET = "simulators"
_PROVIDER = "Microsoft.Network"
_GROUPS = (HEAD_SUBNET, SIMULATOR_SUBNET)


class NotOurs(FarsimError, PermissionError):
    """A resource that some other deployment, or nobody here, has made."""


class NetworkPlan:
    """What Azure is asked for, as the bodies of the requests.

    Args:
        account: where.
        deployment: its section ``network``, or the defaults if it has none.
    """

    def __init__(self, account: Account, deployment: Deployment) -> None:
        self.account = account
        self.deployment = deployment
        self.network = deployment.network or Network.model_validate({})

    @property
    def tags(self) -> dict[str, str]:
        """Of everything that is made."""
        return {**self.deployment.tags, TAG: self.deployment.name}

    def group_name(self, subnet: str) -> str:
        """Of a subnet's security group."""
        return f"{self.network.name}-{subnet}"

    def subnet_id(self, subnet: str) -> str:
        """The resource id of ``HEAD_SUBNET`` or ``SIMULATOR_SUBNET``."""
        network = self.account.resource_id(_PROVIDER, "virtualNetworks", self.network.name)
        return f"{network}/subnets/{subnet}"

    def security_groups(self) -> dict[str, dict[str, Any]]:
        """The bodies of the security groups, by name."""
        rules = {
            HEAD_SUBNET: head_rules(self.deployment, self.network),
            SIMULATOR_SUBNET: simulator_rules(self.deployment, self.network),
        }
        return {self.group_name(subnet): self._group(rules[subnet]) for subnet in _GROUPS}

    def virtual_network(self) -> dict[str, Any]:
        """The body of the network, with its subnets."""
        return {
            "location": self.account.azure.location,
            "tags": self.tags,
            "properties": {
                "addressSpace": {"addressPrefixes": [self.network.address_space]},
                "subnets": [
                    self._subnet(HEAD_SUBNET, self.network.head_subnet),
                    self._subnet(
                        SIMULATOR_SUBNET,
                        self.network.simulator_subnet,
                        delegations=[_DELEGATION],
                    ),
                ],
            },
        }

    def requests(self) -> dict[str, Any]:
        """All bodies, by resource id, in the order in which they are sent."""
        groups = {
            self.account.resource_id(_PROVIDER, "networkSecurityGroups", name): body
            for name, body in self.security_groups().items()
        }
        network = self.account.resource_id(_PROVIDER, "virtualNetworks", self.network.name)
        return {**groups, network: self.virtual_network()}

    def _subnet(self, name: str, prefix: str, **properties: Any) -> dict[str, Any]:
        group = self.account.resource_id(_PROVIDER, "networkSecurityGroups", self.group_name(name))
        return {
            "name": name,
            "properties": {
                "addressPrefix": prefix,
                "networkSecurityGroup": {"id": group},
                **properties,
            },
        }

    def _group(self, rules: Sequence[Rule]) -> dict[str, Any]:
        return {
            "location": self.account.azure.location,
            "tags": self.tags,
            "properties": {"securityRules": [_security_rule(rule) for rule in rules]},
        }


_DELEGATION = {
    "name": "container-instances",
    "properties": {"serviceName": "Microsoft.ContainerInstance/containerGroups"},
}


def _security_rule(rule: Rule) -> dict[str, Any]:
    ports: dict[str, Any] = {"destinationPortRange": "*"}
    if len(rule.ports) == 1:
        ports = {"destinationPortRange": rule.ports[0]}
    elif rule.ports:
        ports = {"destinationPortRanges": list(rule.ports)}
    return {
        "name": rule.name,
        "properties": {
            "description": rule.description,
            "priority": rule.priority,
            "direction": "Inbound",
            "access": "Allow" if rule.allow else "Deny",
            "protocol": "Tcp" if rule.ports else "*",
            "sourceAddressPrefix": rule.source,
            "sourcePortRange": "*",
            "destinationAddressPrefix": rule.destination,
            **ports,
        },
    }


def up(plan: NetworkPlan, tell: Callable[[str], None]) -> None:
    """Makes the network, or brings it to what the plan says; nothing is made twice.

    Args:
        plan: what to make.
        tell: called with a line for each thing that is made.

    Raises:
        AzureError: Azure refused; what was made until then stays, and another call goes on.
        NotOurs: there is a network or group of that name that this deployment has not made.
    """
    group = plan.account.azure.resource_group
    with plan.account.network() as client:
        for name, body in plan.security_groups().items():
            _check_ours(plan, client.network_security_groups, name)
            with explained(f"creating security group '{name}'", name):
                client.network_security_groups.begin_create_or_update(group, name, body).result()
            tell(f"security group {name}")
        name = plan.network.name
        _check_ours(plan, client.virtual_networks, name)
        with explained(f"creating network '{name}'", name):
            client.virtual_networks.begin_create_or_update(
                group, name, plan.virtual_network()
            ).result()
        tell(f"network {name}")


def down(plan: NetworkPlan, tell: Callable[[str], None]) -> list[str]:
    """Removes what ``up`` made; what of it was left because somebody else made it.

    Raises:
        AzureError: Azure refused, for instance because something still uses a subnet.
    """
    group = plan.account.azure.resource_group
    left = []
    with plan.account.network() as client:
        names = [(client.virtual_networks, plan.network.name)]
        names += [(client.network_security_groups, plan.group_name(name)) for name in _GROUPS]
        for operations, name in names:
            tag = _tag(operations, group, name)
            if tag is None:
                continue
            if tag != plan.deployment.name:
                left.append(name)
                continue
            with explained(f"removing '{name}'", name):
                operations.begin_delete(group, name).result()
            tell(name)
    return left


def _check_ours(plan: NetworkPlan, operations: Any, name: str) -> None:
    tag = _tag(operations, plan.account.azure.resource_group, name)
    if tag not in (None, plan.deployment.name):
        owner = f"deployment '{tag}'" if tag else "nobody's deployment"
        raise NotOurs(
            f"'{name}' is there already, and {owner} has made it: give network.name another name",
            name,
        )


def _tag(operations: Any, group: str, name: str) -> str | None:
    """The deployment that made a resource, "" if none did; None if there is no such resource."""
    try:
        with explained(f"looking for '{name}'", name):
            found = operations.get(group, name)
    except NotThere:
        return None
    return str((found.tags or {}).get(TAG, ""))
