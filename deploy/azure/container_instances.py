"""Simulator servers in Azure Container Instances: made, looked at and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deploy.azure.account import TAG, Account
from deploy.azure.container_groups import TAG_GROUP, TAG_PORTS, GroupPlan
from deploy.azure.errors import AzureError, NotThere, explained
from deploy.azure.network import NotOurs
from deploy.schema import Deployment
from farsim import deployment as notes
from farsim.errors import InvalidArgument


@dataclass(frozen=True)
class Replica:
    """A container group of a deployment.

    Attributes:
        name: of the container group.
        group: the name of its entry in ``simulators``.
        state: Azure's word for what it does: "Running", "Waiting", "Terminated", ...
        restarts: how often its container was started again.
        addresses: ``host:port`` of its servers; empty while it has no address.
        said: what Azure last said of it, for people.
    """

    name: str
    group: str
    state: str
    restarts: int
    addresses: tuple[str, ...]
    said: str


def plans(account: Account, deployment: Deployment) -> list[GroupPlan]:
    """One for each entry of ``simulators``.

    Raises:
        InvalidArgument: there is none.
    """
    if not deployment.simulators:
        raise InvalidArgument(
            "the deployment has no simulators: add a section 'simulators'", "simulators"
        )
    return [GroupPlan(account, deployment, group) for group in deployment.simulators]


def up(account: Account, deployment: Deployment, tell: Callable[[str], None]) -> list[Replica]:
    """Makes what is missing, brings the rest to what the file says, and notes the addresses.

    All groups are asked for at once and then waited for; none is made twice.

    Raises:
        AzureError: Azure refused one; the others go on, and another call takes it up again.
        NotOurs: a container group of that name belongs to somebody else.
    """
    group = account.azure.resource_group
    wanted = plans(account, deployment)
    bodies = [
        (name, plan.body(replica)) for plan in wanted for replica, name in enumerate(plan.names)
    ]
    with account.containers() as client:
        for name, _ in bodies:
            _check_ours(client, group, name, deployment.name)
        pollers: list[tuple[str, Any]] = []
        problems: list[AzureError] = []
        for name, body in bodies:
            with _noted(problems), explained(f"creating container group '{name}'", name):
                poller = client.container_groups.begin_create_or_update(group, name, body)
                pollers.append((name, poller))
        for name, poller in pollers:
            with _noted(problems), explained(f"creating container group '{name}'", name):
                poller.result()
                tell(name)
    if problems:
        raise problems[0]
    return note(account, deployment)


def replicas(account: Account, name: str) -> list[Replica]:
    """The container groups of a deployment, found by their tag.

    Azure cannot filter them, so all groups of the resource group are looked through.
    """
    with account.containers() as client, explained("listing container groups", name):
        listed = list(client.container_groups.list_by_resource_group(account.azure.resource_group))
        ours = [each for each in listed if (each.tags or {}).get(TAG) == name]
        # What runs in a group is said only of a single one.
        return [
            _replica(client.container_groups.get(account.azure.resource_group, each))
            for each in sorted(str(each.name) for each in ours)
        ]


def note(account: Account, deployment: Deployment) -> list[Replica]:
    """Reads the addresses, which change when a group is restarted, and notes them for clients."""
    found = replicas(account, deployment.name)
    addresses = tuple(address for replica in found for address in replica.addresses)
    if addresses:
        notes.write(
            notes.Deployment(
                name=deployment.name,
                kind="aci",
                simulators=tuple(dict.fromkeys(g.simulator for g in deployment.simulators)),
                addresses=addresses,
                connection=GroupPlan(account, deployment, deployment.simulators[0]).connection(),
            )
        )
    return found


def logs(account: Account, replica: str, tail: int | None = None) -> str:
    """What a replica's servers printed."""
    with account.containers() as client, explained(f"reading the log of '{replica}'", replica):
        said = client.containers.list_logs(
            account.azure.resource_group, replica, "simulators", tail=tail
        )
        return str(said.content or "")


def down(account: Account, name: str, tell: Callable[[str], None]) -> None:
    """Removes the container groups of a deployment, and what is noted of it here."""
    group = account.azure.resource_group
    found = replicas(account, name)
    with account.containers() as client:
        pollers = []
        for replica in found:
            with explained(f"removing container group '{replica.name}'", replica.name):
                pollers.append(
                    (replica.name, client.container_groups.begin_delete(group, replica.name))
                )
        for removed, poller in pollers:
            with explained(f"removing container group '{removed}'", removed):
                poller.result()
            tell(removed)
    notes.remove(name)


def _replica(found: Any) -> Replica:
    tags = found.tags or {}
    first, _, last = tags.get(TAG_PORTS, "0-0").partition("-")
    host = getattr(found.ip_address, "ip", None)
    ports: Sequence[int] = range(int(first), int(last) + 1) if host else ()
    state, said, restarts = str(found.provisioning_state or "Unknown"), "", 0
    view = getattr(found.containers[0], "instance_view", None) if found.containers else None
    if view is not None:
        restarts = int(view.restart_count or 0)
        if view.current_state is not None:
            state = str(view.current_state.state or state)
            said = str(view.current_state.detail_status or "")
        said = str(view.events[-1].message) if view.events else said
    return Replica(
        name=str(found.name),
        group=str(tags.get(TAG_GROUP, "")),
        state=state,
        restarts=restarts,
        addresses=tuple(f"{host}:{port}" for port in ports),
        said=said,
    )


def _check_ours(client: Any, group: str, name: str, deployment: str) -> None:
    try:
        with explained(f"looking for container group '{name}'", name):
            found = client.container_groups.get(group, name)
    except NotThere:
        return
    tag = (found.tags or {}).get(TAG, "")
    if tag != deployment:
        raise NotOurs(
            f"a container group '{name}' is there already, and "
            f"{f'deployment {tag!r}' if tag else 'none of ours'} has made it: take another name "
            "for the deployment",
            name,
        )


@contextmanager
def _noted(problems: list[AzureError]) -> Iterator[None]:
    try:
        yield
    except AzureError as error:
        problems.append(error)
