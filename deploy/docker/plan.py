"""What is to run: containers of simulator servers, and how little they may do."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.types import Healthcheck, Mount

from deploy.docker.build import IMAGES
from deploy.docker.tls import FOLDER, TlsFiles
from farsim.addresses import is_loopback
from farsim.deployment import check_name
from farsim.errors import InvalidAddress, InvalidArgument
from farsim.serving import InsecureAddress

#: Labels of containers, networks and volumes; the first one names the deployment.
LABEL = "farsim.deployment"
LABEL_REPLICA = "farsim.replica"
LABEL_SIMULATORS = "farsim.simulators"
LABEL_ADDRESSES = "farsim.addresses"

#: Of the first worker in a container.
CONTAINER_PORT = 50051
#: A little longer than ``farsim serve`` takes to drain and stop its workers.
STOP_SECONDS = 20

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Plan:
    """Simulator servers in containers.

    Attributes:
        name: of the deployment.
        simulators: as ``farsim serve`` takes them.
        replicas: how many containers.
        workers: server processes in each, one port each.
        options: ``name=value``, defaults of the simulators' parameters.
        image: to run.
        publish: the address of this machine on which ports are published.
        host: by which clients call this machine; empty for ``publish``.
        port: the first to publish, of consecutive ones; 0 takes free ones.
        folder: modules of simulators, mounted read-only where servers look for them.
        tls: certificates, keys and token; None for plain text.
        insecure: whether plain text is fine beyond this machine.
        memory: bound of a container's memory, as in "1g".
        cpus: how many cores a container may use.
        pids: how many processes and threads a container may have.

    Raises:
        InvalidDeploymentName: the name is none.
        InvalidArgument: a count that is not positive.
        InsecureAddress: ports would be open to other machines without TLS.
    """

    name: str
    simulators: tuple[str, ...]
    replicas: int = 1
    workers: int = 1
    options: tuple[str, ...] = ()
    image: str = IMAGES["sim"]
    publish: str = "127.0.0.1"
    host: str = ""
    port: int = 50051
    folder: Path | None = None
    tls: TlsFiles | None = None
    insecure: bool = False
    memory: str = "1g"
    cpus: float = 1.0
    pids: int = 512
    addresses: tuple[tuple[str, ...], ...] = field(init=False)
    """Of each container's workers."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.simulators or self.replicas < 1 or self.workers < 1:
            raise InvalidArgument("at least one simulator, one replica and one worker")
        if self.tls is None and not self.insecure and not is_loopback(f"{self.publish}:0"):
            raise InsecureAddress(
                f"{self.publish} can be reached from other machines, and without TLS anyone on the "
                "way could read and change what is sent: give --tls with a folder of 'farsim "
                "certs', or --insecure if the network itself is protected",
                self.publish,
            )
        count = self.replicas * self.workers
        first = self.port or free_ports(self.publish, count)
        if first + count - 1 > 65535:
            raise InvalidAddress(f"{count} ports from {first} on go beyond 65535", str(first))
        ports = range(first, first + count)
        host = self.host or self._called_by()
        grouped = [ports[i : i + self.workers] for i in range(0, count, self.workers)]
        addresses = tuple(tuple(f"{host}:{port}" for port in group) for group in grouped)
        object.__setattr__(self, "addresses", addresses)

    @property
    def resource_name(self) -> str:
        """Of the network and the volume, and how the containers' names begin."""
        return f"farsim-{self.name}"

    @property
    def all_addresses(self) -> tuple[str, ...]:
        """Of all servers, in order."""
        return tuple(address for group in self.addresses for address in group)

    @property
    def sims(self) -> str:
        """The addresses as ``farsim train --sims`` takes them."""
        host, _, first = self.all_addresses[0].rpartition(":")
        last = self.all_addresses[-1].rpartition(":")[2]
        return f"{host}:{first}" if first == last else f"{host}:{first}-{last}"

    def labels(self) -> dict[str, str]:
        """Of everything that belongs to the deployment."""
        return {LABEL: self.name}

    def command(self) -> list[str]:
        """The arguments of ``farsim serve`` in a container."""
        options = [f"--option={option}" for option in self.options]
        security = self.tls.serve_arguments() if self.tls else ["--insecure"]
        listen = ["--address", f"0.0.0.0:{CONTAINER_PORT}"]
        workers = ["--workers", str(self.workers)] if self.workers > 1 else []
        return [*self.simulators, *listen, *workers, *options, *security]

    def container(self, replica: int) -> dict[str, Any]:
        """A container, in the words of the SDK's ``containers.create``.

        It has no capabilities and can gain none, writes nowhere but to a small ``/tmp`` in memory,
        and is bounded in memory, cores and processes.
        """
        ports = [address.rpartition(":")[2] for address in self.addresses[replica]]
        return {
            "image": self.image,
            "command": self.command(),
            "name": f"{self.resource_name}-{replica}",
            "labels": {
                **self.labels(),
                LABEL_REPLICA: str(replica),
                LABEL_SIMULATORS: json.dumps(self.simulators),
                LABEL_ADDRESSES: json.dumps(self.addresses[replica]),
            },
            "network": self.resource_name,
            "ports": {
                f"{CONTAINER_PORT + worker}/tcp": (self.publish, int(port))
                for worker, port in enumerate(ports)
            },
            "healthcheck": self._health_check(),
            "mounts": self._mounts(),
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "read_only": True,
            "tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m,mode=1777"},
            "mem_limit": self.memory,
            # As much as memory: no swap, in which a simulator would crawl rather than fail.
            "memswap_limit": self.memory,
            "nano_cpus": int(self.cpus * 1e9),
            "pids_limit": self.pids,
            # A simulator that crashes comes back, one that can not start does not try for ever.
            "restart_policy": {"Name": "on-failure", "MaximumRetryCount": 5},
            "stop_signal": "SIGTERM",
        }

    def connection(self) -> Mapping[str, str]:
        """How clients connect: fields of ``ConnectionOptions``."""
        return self.tls.connection() if self.tls else {}

    def _health_check(self) -> Healthcheck:
        host = self.tls.probed_host if self.tls else "127.0.0.1"
        trust = self.tls.probe_arguments() if self.tls else []
        last = CONTAINER_PORT + self.workers - 1
        return Healthcheck(
            test=["CMD", "farsim", "check", f"{host}:{CONTAINER_PORT}-{last}", "--health", *trust],
            interval=10 * _NANOSECONDS,
            # The probe has a deadline of its own; this is for machines with no time to start it.
            timeout=30 * _NANOSECONDS,
            start_period=30 * _NANOSECONDS,
            retries=3,
        )

    def _mounts(self) -> list[Mount]:
        mounts = []
        if self.folder is not None:
            mounts.append(Mount("/sims", str(self.folder.resolve()), type="bind", read_only=True))
        if self.tls is not None:
            mounts.append(Mount(FOLDER, self.resource_name, type="volume", read_only=True))
        return mounts

    def _called_by(self) -> str:
        if self.publish in ("0.0.0.0", "::"):
            return socket.getfqdn()
        return f"[{self.publish}]" if ":" in self.publish else self.publish


def free_ports(host: str, count: int) -> int:
    """The first of ``count`` consecutive ports on which nothing listens now.

    Raises:
        InvalidAddress: ``host`` is no address of this machine, or there are none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        for _ in range(100):
            with socket.socket(family) as probe:
                probe.bind((host, 0))
                first = int(probe.getsockname()[1])
            if first + count <= 65536 and _all_free(family, host, range(first, first + count)):
                return first
    except OSError as error:
        raise InvalidAddress(f"ports can not be published on {host}: {error}", host) from error
    raise InvalidAddress(f"found no {count} consecutive free ports on {host}: name --port", host)


def _all_free(family: socket.AddressFamily, host: str, ports: Sequence[int]) -> bool:
    with ExitStack() as stack:
        for port in ports:
            try:
                stack.enter_context(socket.socket(family)).bind((host, port))
            except OSError:
                return False
    return True
