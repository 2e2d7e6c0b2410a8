"""All that is sent for a training job in Azure Machine Learning, and what it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy.azure import container_groups, container_instances
from deploy.azure.account import Account
from deploy.azure.build_context import BuildFiles
from deploy.azure.machine_learning import BLOB_STORE, HeadPlan, body, compute_body, digest
from deploy.azure.train_command import TrainCommand
from deploy.schema import Deployment, Simulators
from farsim import addresses as address_lists
from farsim.errors import InvalidArgument


class HeadRequests:
    """All that is sent for a training job.

    Args:
        account: where.
        deployment: with sections ``head`` and ``training``.
        addresses: of the simulators; None for those in ``training.sims``, or else of the
            container groups that run.
        sources: the checkout that Azure builds the head's image from, if the deployment names no
            image; None for the current folder, or where Farsim runs from.

    Raises:
        InvalidArgument: something is missing or contradicts itself; says which key.
        AzureError: the simulators' addresses are not to be had.
    """

    def __init__(
        self,
        account: Account,
        deployment: Deployment,
        addresses: tuple[str, ...] | None = None,
        sources: Path | None = None,
    ) -> None:
        self.plan = HeadPlan(account, deployment)
        self.command = TrainCommand(
            deployment,
            _addresses(account, deployment) if addresses is None else addresses,
            connection_of(account, deployment),
        )
        self.files = self.command.files
        self.context = None if self.plan.head.image else BuildFiles(sources)
        image = self.plan.head.image
        self.version = digest(image) if self.context is None else self.context.digest

    @property
    def files_path(self) -> str:
        """Where the command's files go in the default datastore; one place for one content."""
        contents = digest(b"\0".join(n.encode() + b"\0" + c for n, c in self.files.items()))
        return f"{files_folder(self.plan.deployment)}{contents}/"

    def job(self, name: str) -> Any:
        """The job's definition."""
        return self.plan.job(name, self.command, self.version, self.files_path)

    def shown(self, number: int = 1) -> dict[str, Any]:
        """The bodies by resource id in the order in which they are sent, and what is uploaded.

        The SDK adds to the job the address and commit of the Git repository in the current folder.
        """
        name = job_name(self.plan.deployment, number)
        context_url = "(of what is uploaded)/" if self.context is not None else ""
        environment = self.plan.environment(self.version, context_url)
        requests = {
            f"computes/{self.plan.head.compute}": compute_body(
                self.plan.compute(), self.plan.account
            ),
            f"environments/{self.plan.head.environment}/versions/{self.version}": body(environment),
            f"jobs/{name}": body(self.job(name)),
        }
        shown = {self.plan.resource_id(kind): request for kind, request in requests.items()}
        uploads = [self.files_path + name for name in self.files]
        if self.context is not None:
            uploads += [context_folder(self.context) + name for name in self.context.names]
        return {**shown, f"uploads to {BLOB_STORE}": uploads}


def connection_of(account: Account, deployment: Deployment) -> dict[str, str]:
    """How the head reaches the simulators: fields of ``ConnectionOptions``, files as they are here.

    Raises:
        InvalidArgument: groups of simulators have different certificates.
    """
    if deployment.training is not None and deployment.training.tls is not None:
        return container_groups.connection_of(deployment.training.tls)
    ways = [
        container_groups.GroupPlan(account, deployment, group).connection()
        for group in groups_of(deployment)
    ]
    if any(way != ways[0] for way in ways):
        raise InvalidArgument(
            "the groups of simulators to train on have different tls folders: give them one",
            "simulators.tls",
        )
    return ways[0] if ways else {}


def groups_of(deployment: Deployment) -> list[Simulators]:
    """The groups of simulators that are trained on, unless ``training.sims`` names others.

    Raises:
        InvalidArgument: there is none of the name.
    """
    training = deployment.training
    if training is None or training.sims:
        return []
    found = [group for group in deployment.simulators if group.simulator == training.simulator]
    if deployment.simulators and not found:
        there = ", ".join(group.simulator for group in deployment.simulators)
        raise InvalidArgument(
            f"training.simulator is '{training.simulator}', but the simulators are {there}",
            "training.simulator",
        )
    return found


def files_folder(deployment: Deployment) -> str:
    """Where in the default datastore the files for a deployment's jobs are."""
    return f"farsim/{deployment.name}/"


def context_folder(context: BuildFiles) -> str:
    """Where in the default datastore sources are; not a deployment's, since all share them."""
    return f"farsim-sources/{context.digest}/"


def _addresses(account: Account, deployment: Deployment) -> tuple[str, ...]:
    if deployment.training is not None and deployment.training.sims:
        return tuple(address_lists.expand(deployment.training.sims))
    names = {group.name for group in groups_of(deployment)}
    if not names:
        return ()
    found = container_instances.replicas(account, deployment.name)
    return tuple(a for replica in found if replica.group in names for a in replica.addresses)


def job_name(deployment: Deployment, number: int) -> str:
    """Of the so-manieth job of a deployment, from 1."""
    return f"{deployment.name}-{number}"
