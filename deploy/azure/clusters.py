"""The cluster of Azure Machine Learning that the head runs on: made, changed and removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deploy.azure.account import TAG
from deploy.azure.errors import AzureError, NotThere
from deploy.azure.machine_learning import HeadPlan, asked, compute_body
from deploy.azure.network import NotOurs
from farsim.errors import InvalidArgument

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

#: What of a cluster can be changed once it is there.
_CHANGEABLE = {"scaleSettings"}


def make_compute(client: MLClient, plan: HeadPlan, tell: Callable[[str], None]) -> None:
    """Makes the head's cluster, or changes how many nodes it may have; else leaves it as it is.

    Raises:
        InvalidArgument: the cluster is there with other machines or in another network.
        NotOurs: it was made by somebody else.
    """
    wanted, name = plan.compute(), plan.head.compute
    try:
        with asked(f"looking for cluster '{name}'", name):
            found: Any = client.compute.get(name)
    except NotThere:
        found = None
    if found is not None:
        tag = (found.tags or {}).get(TAG, "")
        if tag != plan.deployment.name:
            owner = f"deployment '{tag}'" if tag else "nobody's deployment"
            raise NotOurs(
                f"a cluster '{name}' is there already, and {owner} has made it: give "
                "head.compute another name",
                name,
            )
        differing = _differing(
            compute_body(found, plan.account), compute_body(wanted, plan.account)
        )
        if not differing and found.provisioning_state != "Failed":
            return
        if set(differing) - _CHANGEABLE and found.provisioning_state != "Failed":
            raise InvalidArgument(
                f"cluster '{name}' is there with other settings, of which Azure can change none: "
                f"{', '.join(differing.values())}. Remove it with 'farsim deploy azureml down', or "
                "give head.compute another name",
                "head",
            )
    with asked(f"creating cluster '{name}'", name):
        made = client.compute.begin_create_or_update(wanted).result()
    if getattr(made, "provisioning_state", None) == "Failed":
        raise AzureError(
            f"creating cluster '{name}': {getattr(made, 'provisioning_errors', None) or 'failed'}: "
            "look at the workspace's quota for this size, and at the network",
            name,
        )
    tell(f"cluster {name}")


def remove_compute(client: MLClient, plan: HeadPlan) -> bool | None:
    """Removes the head's cluster; None if there is none, False if somebody else made it.

    Raises:
        AzureError: Azure refused.
    """
    name = plan.head.compute
    try:
        with asked(f"looking for cluster '{name}'", name):
            found = client.compute.get(name)
    except NotThere:
        return None
    if (found.tags or {}).get(TAG) != plan.deployment.name:
        return False
    with asked(f"removing cluster '{name}'", name):
        client.compute.begin_delete(name).result()
    return True


def _differing(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """What a cluster has that is not as wanted, by its name in the request, as people read it."""
    has, wants = there["properties"]["properties"], wanted["properties"]["properties"]
    names = ("vmSize", "vmPriority", "scaleSettings", "subnet", "enableNodePublicIp")
    differing = {}
    for name in names:
        old, new = has.get(name), wants.get(name)
        if str(old).lower() != str(new).lower():
            differing[name] = f"{name} is {_plain(old)}, not {_plain(new)}"
    return differing


def _plain(value: Any) -> str:
    return str(value["id"]) if isinstance(value, Mapping) and "id" in value else str(value)
