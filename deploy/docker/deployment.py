"""Deployments in a Docker Engine: bringing one up, finding what belongs to it, taking it down."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors

from deploy.docker import health
from deploy.docker.engine import PortTaken, explanation, require_image, taken_port
from deploy.docker.plan import (
    LABEL,
    LABEL_ADDRESSES,
    LABEL_REPLICA,
    LABEL_SIMULATORS,
    STOP_SECONDS,
    Plan,
)
from farsim import deployment as notes
from farsim.errors import FarsimError

KIND = "docker"


class DeploymentExists(FarsimError, FileExistsError):
    """A deployment, or something else in the engine, has that name already."""


@dataclass(frozen=True)
class Running:
    """A deployment as the engine has it.

    Attributes:
        name: the deployment's.
        containers: of Docker's SDK, by replica.
    """

    name: str
    containers: tuple[Any, ...]

    @property
    def simulators(self) -> tuple[str, ...]:
        return tuple(json.loads(self.containers[0].labels[LABEL_SIMULATORS]))

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of every server, also of those in containers that do not run."""
        labels = [container.labels[LABEL_ADDRESSES] for container in self.containers]
        return tuple(address for label in labels for address in json.loads(label))

    @property
    def states(self) -> dict[str, str]:
        """Each container's, in one word."""
        return {container.name: health.state(container) for container in self.containers}


def up(
    client: docker.DockerClient, plan: Plan, seconds: float, tell: Callable[[int], None]
) -> notes.Deployment:
    """Starts a plan's containers, waits until they are healthy, and notes where they are.

    Whatever goes wrong, Ctrl-C included, nothing of it is left.

    Args:
        client: of the engine.
        plan: what is to run.
        seconds: how long to wait until all are healthy.
        tell: called with the number of healthy containers.

    Raises:
        DeploymentExists: the name is taken.
        ImageMissing: the image is not there.
        PortTaken: something else listens on a port.
        ContainerFailed: a container ended, or is not healthy.
        DeadlineExceeded: not all were healthy in time.
    """
    require_image(client, plan.image, "'farsim deploy docker build sim' makes it")
    if _of(client, plan.name):
        raise DeploymentExists(
            f"deployment '{plan.name}' is there already: take it down with 'farsim deploy docker "
            f"down {plan.name}', or give another --name",
            plan.name,
        )
    try:
        return _up(client, plan, seconds, tell)
    except BaseException:
        _remove(client, plan.name)
        raise


def _up(
    client: docker.DockerClient, plan: Plan, seconds: float, tell: Callable[[int], None]
) -> notes.Deployment:
    with _refusals():
        client.networks.create(
            plan.resource_name,
            driver="bridge",
            labels=plan.labels(),
            check_duplicate=True,
            # Servers have nothing to say to each other.
            options={"com.docker.network.bridge.enable_icc": "false"},
        )
        if plan.tls is not None:
            client.volumes.create(plan.resource_name, labels=plan.labels())
            plan.tls.fill(client, plan.image, plan.resource_name, plan.labels())
        containers = []
        for replica in range(plan.replicas):
            containers.append(client.containers.create(**plan.container(replica)))
        for container in containers:
            container.start()
    health.wait_until_healthy(containers, seconds, tell)
    deployment = notes.Deployment(
        plan.name, KIND, plan.simulators, plan.all_addresses, plan.connection()
    )
    notes.write(deployment)
    return deployment


def running(client: docker.DockerClient) -> list[Running]:
    """All deployments in the engine, in the order of their names."""
    found: dict[str, list[Any]] = {}
    for container in client.containers.list(all=True, filters={"label": LABEL_REPLICA}):
        found.setdefault(container.labels[LABEL], []).append(container)
    return [
        Running(name, tuple(sorted(found[name], key=lambda each: int(each.labels[LABEL_REPLICA]))))
        for name in sorted(found)
    ]


def find(client: docker.DockerClient, name: str) -> Running:
    """One of them.

    Raises:
        UnknownDeployment: there is none of that name; says which there are.
    """
    everything = running(client)
    for deployment in everything:
        if deployment.name == name:
            return deployment
    there = ", ".join(deployment.name for deployment in everything) or "none at all"
    raise notes.UnknownDeployment(f"the engine has no deployment '{name}'; there: {there}", name)


def down(client: docker.DockerClient, name: str) -> int:
    """Drains and removes a deployment, its network, its volume and the note of it.

    Returns:
        How many containers there were.

    Raises:
        UnknownDeployment: there was nothing of that name.
    """
    notes.check_name(name)
    count = len(_of(client, name))
    removed = _remove(client, name)
    noted = notes.remove(name)
    if not removed and not noted:
        find(client, name)
    return count


def _of(client: docker.DockerClient, name: str) -> list[Any]:
    found: list[Any] = client.containers.list(
        all=True, ignore_removed=True, filters={"label": f"{LABEL}={name}"}
    )
    return found


def _remove(client: docker.DockerClient, name: str) -> bool:
    """Removes all that is labelled; whether there was anything."""
    containers = _of(client, name)
    for container in containers:
        # To all first, so that they drain at the same time. Some may have ended.
        with contextlib.suppress(docker.errors.APIError):
            container.kill("SIGTERM")
    for container in containers:
        with contextlib.suppress(docker.errors.NotFound):
            container.stop(timeout=STOP_SECONDS)
            container.remove(v=True, force=True)
    selection = {"label": f"{LABEL}={name}"}
    networks = client.networks.list(filters=selection)
    volumes = client.volumes.list(filters=selection)
    for network in networks:
        network.remove()
    for volume in volumes:
        volume.remove(force=True)
    return bool(containers or networks or volumes)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Gives the engine's refusals that have a remedy their own types."""
    try:
        yield
    except docker.errors.APIError as error:
        port = taken_port(error)
        if port is not None:
            raise PortTaken(
                f"something listens on {port or 'a port to publish'} already: choose other ports "
                "with --port, or --port 0 for free ones",
                port,
            ) from error
        if error.status_code == 409:
            raise DeploymentExists(
                f"{explanation(error)} Remove it, or give another --name"
            ) from error
        raise
