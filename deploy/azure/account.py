"""Whose Azure it is, and the SDK's clients for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploy.schema import Azure, Deployment
from farsim.errors import InvalidArgument

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core import PipelineClient
    from azure.core.rest import HttpRequest, HttpResponse
    from azure.mgmt.containerinstance import ContainerInstanceManagementClient
    from azure.storage.blob import ContainerClient

#: The tag of everything that is made, with the deployment's name.
TAG = "farsim-deployment"


@dataclass(frozen=True)
class Account:
    """A resource group, and who asks.

    Attributes:
        azure: where.
        credential: of ``azure.identity``; None for whoever is signed in on this machine.
        transport: makes a transport of ``azure.core`` for each client; None for the SDK's own.
    """

    azure: Azure
    credential: Any = field(default=None, repr=False)
    transport: Callable[[], Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, deployment: Deployment) -> Account:
        """Where a deployment goes.

        Raises:
            InvalidArgument: the file has no section ``azure``.
        """
        if deployment.azure is None:
            raise InvalidArgument(
                "the deployment says nothing of Azure: add a section 'azure' with resource_group "
                "and location",
                "azure",
            )
        return cls(deployment.azure)

    @property
    def subscription(self) -> str:
        """Its id.

        Raises:
            InvalidArgument: neither the file nor the environment has one.
        """
        subscription = self.azure.subscription or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
        if not subscription:
            raise InvalidArgument(
                "no subscription: say azure.subscription in the deployment file, or set "
                "AZURE_SUBSCRIPTION_ID ('az account show --query id' prints it)",
                "azure.subscription",
            )
        return subscription

    def network(self) -> Any:
        """The ``NetworkManagementClient``; use it in a ``with`` block.

        Untyped, since it takes bodies as JSON as well as its own models.
        """
        from azure.mgmt.network import NetworkManagementClient

        return NetworkManagementClient(self._who(), self.subscription, **self._options())

    def containers(self) -> ContainerInstanceManagementClient:
        """The client for container groups; use it in a ``with`` block."""
        from azure.mgmt.containerinstance import ContainerInstanceManagementClient

        return ContainerInstanceManagementClient(self._who(), self.subscription, **self._options())

    def machine_learning(self) -> MLClient:
        """The client for a workspace of Azure Machine Learning."""
        from azure.ai.ml import MLClient

        return MLClient(
            self._who(),
            self.subscription,
            self.azure.resource_group,
            self.azure.workspace,
            **self._options(),
        )

    def blobs(self, url: str, secret: str | None) -> ContainerClient:
        """The client for a container of Azure Blob Storage.

        Args:
            url: of the container.
            secret: an account's key or a shared access signature; None for whoever is signed in.
        """
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_container_url(url, secret or self._who(), **self._options())

    def rest(self, url: str) -> PipelineClient[HttpRequest, HttpResponse]:
        """A client for what no package of the SDK covers; it signs, retries and raises as they do.

        Args:
            url: that all requests begin with.
        """
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, RetryPolicy

        scope = "https://management.azure.com/.default"
        policies = [RetryPolicy(), BearerTokenCredentialPolicy(self._who(), scope)]
        return PipelineClient(url, policies=policies, **self._options())

    def resource_id(self, provider: str, kind: str, name: str) -> str:
        """Of a resource in the group, such as "Microsoft.Network", "virtualNetworks", "farsim"."""
        return (
            f"/subscriptions/{self.subscription}/resourceGroups/{self.azure.resource_group}"
            f"/providers/{provider}/{kind}/{name}"
        )

    def _who(self) -> Any:
        if self.credential is not None:
            return self.credential
        from azure.identity import DefaultAzureCredential

        # A page about every way that it has tried; our error says the two that matter.
        logging.getLogger("azure.identity").setLevel(logging.ERROR)
        return DefaultAzureCredential()

    def _options(self) -> dict[str, Any]:
        return {} if self.transport is None else {"transport": self.transport()}
