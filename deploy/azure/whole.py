"""A whole deployment: network, simulators and training job, in this order, and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deploy.azure import container_instances, jobs, network
from deploy.azure.account import Account
from deploy.azure.container_instances import Replica
from deploy.azure.errors import AzureError
from deploy.azure.head import HeadRequests
from deploy.azure.machine_learning import HeadPlan
from deploy.schema import Deployment

#: How often Azure is asked whether simulators run.
_POLL_SECONDS = 5.0
#: How much of what a server printed goes into an error message.
_LAST_LINES = 15
#: States from which a container does not come back by itself.
_OVER = ("Terminated", "Failed", "Stopped")


class SimulatorsNotRunning(AzureError, TimeoutError):
    """Container groups that do not run in time, or do not run any more."""


def up(account: Account, deployment: Deployment, tell: Callable[[str], None]) -> None:
    """Makes what the deployment names and is not there; nothing is made twice.

    Args:
        account: where.
        deployment: what.
        tell: called with a line for each thing that is made.

    Raises:
        AzureError: Azure refused; what was made until then stays, and another call goes on.
    """
    if deployment.network is not None or deployment.simulators:
        network.up(network.NetworkPlan(account, deployment), tell)
    if deployment.simulators:
        container_instances.up(account, deployment, tell)
        for replica in wait(account, deployment, tell):
            tell(f"{', '.join(replica.addresses)}")
    if deployment.training is not None:
        jobs.submit(HeadRequests(account, deployment), tell)


def requests(account: Account, deployment: Deployment) -> dict[str, Any]:
    """All that ``up`` would send, by resource id; the job's as if simulators had addresses."""
    bodies: dict[str, Any] = {}
    if deployment.network is not None or deployment.simulators:
        bodies |= network.NetworkPlan(account, deployment).requests()
    pending = []
    if deployment.simulators:
        for plan in container_instances.plans(account, deployment):
            bodies |= plan.requests()
            pending += [f"{name}:{port}" for name in plan.names for port in plan.simulators.ports]
    if deployment.training is not None:
        bodies |= HeadRequests(account, deployment, tuple(pending) or None).shown()
    return bodies


def wait(account: Account, deployment: Deployment, tell: Callable[[str], None]) -> list[Replica]:
    """Waits until all simulators run and have addresses, for as long as training would.

    Raises:
        SimulatorsNotRunning: some do not; says which, and what they printed last.
    """
    training = deployment.training
    seconds = training.coordination_seconds if training is not None else 600
    deadline = time.monotonic() + seconds
    while True:
        found = container_instances.note(account, deployment)
        missing = [each for each in found if each.state != "Running" or not each.addresses]
        if not missing:
            return found
        over = next((each for each in missing if each.state in _OVER), None)
        if over is not None or time.monotonic() > deadline:
            worst = over or missing[0]
            printed = container_instances.logs(account, worst.name, _LAST_LINES).rstrip()
            states = ", ".join(f"{each.name} ({each.state})" for each in missing)
            raise SimulatorsNotRunning(
                f"not running{'' if over else f' after {seconds} s'}: {states}. {worst.name}: "
                f"{worst.said or 'Azure says nothing of it'}\n{printed}".rstrip(),
                worst.name,
            )
        tell(f"{len(found) - len(missing)} of {len(found)} container groups run")
        time.sleep(_POLL_SECONDS)


def down(account: Account, deployment: Deployment, tell: Callable[[str], None]) -> list[str]:
    """Removes what ``up`` made, and only that; what of it stays.

    Raises:
        AzureError: Azure refused; what was removed until then stays so, and another call goes on.
    """
    left = []
    if deployment.head is not None:
        left += jobs.down(HeadPlan(account, deployment), tell)
    if deployment.simulators:
        container_instances.down(account, deployment.name, tell)
    if deployment.network is not None or deployment.simulators:
        left += network.down(network.NetworkPlan(account, deployment), tell)
    return left
