"""What Azure Container Instances is asked for: a group of one container for each replica."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.mgmt.containerinstance import models
from cryptography import x509

from deploy.azure.account import TAG, Account
from deploy.azure.network import SIMULATOR_SUBNET, NetworkPlan
from deploy.schema import Deployment, Registry, Simulators
from farsim import certs
from farsim.errors import FarsimError, InvalidArgument

#: Tags of a container group besides the deployment's.
TAG_GROUP, TAG_REPLICA, TAG_PORTS = "farsim-simulators", "farsim-replica", "farsim-ports"

_TLS_FOLDER = "/tls"
_SERVER_FILES = (certs.CA, certs.SERVER, certs.SERVER_KEY)
#: What the probe itself shows to the server.
_PROBE_FILES = (certs.CLIENT, certs.CLIENT_KEY)
#: Container Instances' bounds for one group of the standard kind in a virtual network.
_MOST_CPU, _MOST_MEMORY_GB = 4.0, 16.0


class UnfitCertificates(FarsimError, ValueError):
    """Certificates that are missing or name no host."""


@dataclass(frozen=True)
class GroupPlan:
    """Replicas of one entry of ``simulators``, as bodies of requests.

    Args:
        account: where.
        deployment: of which the simulators are a part.
        simulators: what runs in each.

    Raises:
        InvalidArgument: more cores or memory than Container Instances has, or a registry's
            password that is not in the environment.
        UnfitCertificates: a folder of TLS files lacks some, or its certificate names no host.
    """

    account: Account
    deployment: Deployment
    simulators: Simulators

    def __post_init__(self) -> None:
        cpu, memory = self.simulators.cpu, self.simulators.memory_gb
        if cpu > _MOST_CPU or memory > _MOST_MEMORY_GB:
            raise InvalidArgument(
                f"simulators '{self.simulators.name}' want {cpu:g} cores and {memory:g} GB, but a "
                f"container in a network has at most {_MOST_CPU:g} and {_MOST_MEMORY_GB:g}: take "
                "more replicas",
                self.simulators.name,
            )
        if self.simulators.tls is not None:
            _check_files(self.simulators.tls)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the container groups."""
        stem = f"{self.deployment.name}-{self.simulators.name}"[:58]
        return tuple(f"{stem}-{replica}" for replica in range(self.simulators.replicas))

    def body(self, replica: int) -> models.ContainerGroup:
        """What is sent for one replica."""
        wanted = self.simulators
        network = NetworkPlan(self.account, self.deployment)
        container = models.Container(
            name="simulators",
            image=wanted.image,
            command=["farsim", "serve", *self._serve_arguments()],
            ports=[models.ContainerPort(port=port, protocol="TCP") for port in wanted.ports],
            resources=models.ResourceRequirements(
                requests=models.ResourceRequests(cpu=wanted.cpu, memory_in_gb=wanted.memory_gb),
                limits=models.ResourceLimits(cpu=wanted.cpu, memory_in_gb=wanted.memory_gb),
            ),
            environment_variables=self._environment(),
            volume_mounts=self._mounts(),
            liveness_probe=self._probe(start=30, failures=6),
            readiness_probe=self._probe(start=2, failures=3),
        )
        registry = self.deployment.registry
        return models.ContainerGroup(
            location=self.account.azure.location,
            tags={
                **self.deployment.tags,
                **wanted.tags,
                TAG: self.deployment.name,
                TAG_GROUP: wanted.name,
                TAG_REPLICA: str(replica),
                TAG_PORTS: f"{wanted.ports[0]}-{wanted.ports[-1]}",
            },
            containers=[container],
            os_type="Linux",
            sku="Standard",
            restart_policy=wanted.restart,
            ip_address=models.IpAddress(
                type="Private",
                ports=[models.Port(port=port, protocol="TCP") for port in wanted.ports],
            ),
            subnet_ids=[models.ContainerGroupSubnetId(id=network.subnet_id(SIMULATOR_SUBNET))],
            volumes=self._volumes(),
            image_registry_credentials=_credentials(registry),
            identity=_identity(registry),
        )

    def requests(self, hide_secrets: bool = True) -> dict[str, Any]:
        """The JSON of all bodies by resource id, as the SDK sends them.

        Args:
            hide_secrets: whether keys, tokens and passwords are shown as "(secret)".
        """
        provider = "Microsoft.ContainerInstance"
        bodies = {}
        for replica, name in enumerate(self.names):
            body = self.body(replica).serialize()
            resource = self.account.resource_id(provider, "containerGroups", name)
            bodies[resource] = _without_secrets(body) if hide_secrets else body
        return bodies

    def connection(self) -> dict[str, str]:
        """How clients reach the servers: fields of ``farsim.channel.ConnectionOptions``."""
        return {} if self.simulators.tls is None else connection_of(self.simulators.tls)

    def _serve_arguments(self) -> list[str]:
        wanted = self.simulators
        arguments = [wanted.simulator, "--address", f"0.0.0.0:{wanted.port}"]
        if wanted.workers > 1:
            arguments += ["--workers", str(wanted.workers)]
        for name, value in wanted.options.items():
            arguments += ["--option", f"{name}={json.dumps(value)}"]
        if wanted.tls is None:
            return [*arguments, "--insecure"]
        files = {
            "--tls-cert": certs.SERVER,
            "--tls-key": certs.SERVER_KEY,
            "--tls-client-ca": certs.CA,
        }
        return arguments + [
            text for flag, name in files.items() for text in (flag, f"{_TLS_FOLDER}/{name}")
        ]

    def _environment(self) -> list[models.EnvironmentVariable]:
        folder = self.simulators.tls
        if folder is None or not (folder / certs.TOKEN).is_file():
            return []
        token = (folder / certs.TOKEN).read_text().strip()
        return [models.EnvironmentVariable(name="FARSIM_TOKEN", secure_value=token)]

    def _mounts(self) -> list[models.VolumeMount] | None:
        if self.simulators.tls is None:
            return None
        return [models.VolumeMount(name="tls", mount_path=_TLS_FOLDER, read_only=True)]

    def _volumes(self) -> list[models.Volume] | None:
        folder = self.simulators.tls
        if folder is None:
            return None
        wanted = (*_SERVER_FILES, *_PROBE_FILES)
        contents = {
            name: base64.b64encode((folder / name).read_bytes()).decode() for name in wanted
        }
        return [models.Volume(name="tls", secret=contents)]

    def _probe(self, start: int, failures: int) -> models.ContainerProbe:
        folder = self.simulators.tls
        command = ["farsim", "check", f"127.0.0.1:{self.simulators.port}", "--health"]
        if folder is not None:
            command += ["--tls-ca", f"{_TLS_FOLDER}/{certs.CA}"]
            command += ["--tls-cert", f"{_TLS_FOLDER}/{certs.CLIENT}"]
            command += ["--tls-key", f"{_TLS_FOLDER}/{certs.CLIENT_KEY}"]
            command += ["--tls-server-name", server_name(folder)]
        return models.ContainerProbe(
            exec_property=models.ContainerExec(command=command),
            initial_delay_seconds=start,
            period_seconds=10,
            timeout_seconds=8,
            failure_threshold=failures,
        )


def _check_files(folder: Path) -> None:
    missing = [name for name in (*_SERVER_FILES, *_PROBE_FILES) if not (folder / name).is_file()]
    if missing:
        raise UnfitCertificates(
            f"{folder} lacks {', '.join(missing)}: 'farsim certs --out {folder} --host simulators' "
            "makes all",
            str(folder),
        )
    server_name(folder)


def connection_of(folder: Path) -> dict[str, str]:
    """How clients reach servers with a folder's certificates, as ``GroupPlan.connection``."""
    folder = folder.resolve()
    files = {"tls_ca": certs.CA, "tls_cert": certs.CLIENT, "tls_key": certs.CLIENT_KEY}
    found = {key: str(folder / name) for key, name in files.items()}
    if (folder / certs.TOKEN).is_file():
        found["token_file"] = str(folder / certs.TOKEN)
    # A group's address is known only when it runs, so its certificate cannot name it.
    return {**found, "tls_server_name": server_name(folder)}


def server_name(folder: Path) -> str:
    """The host that a folder's server certificate names, rather not this machine.

    Raises:
        UnfitCertificates: there is no certificate, or it names none.
    """
    path = folder / certs.SERVER
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        hosts = names.value.get_values_for_type(x509.DNSName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        hosts = []
    if not hosts:
        raise UnfitCertificates(
            f"{path} is no certificate of a named host: farsim certs --out {folder} --host "
            "simulators",
            str(path),
        )
    return next((host for host in hosts if host != "localhost"), hosts[0])


def _credentials(registry: Registry | None) -> list[models.ImageRegistryCredential] | None:
    if registry is None:
        return None
    if registry.identity:
        return [models.ImageRegistryCredential(server=registry.server, identity=registry.identity)]
    password = os.environ.get(registry.password_env)
    if not password:
        raise InvalidArgument(
            f"the environment has no {registry.password_env}, which is to hold the password of "
            f"{registry.server}",
            "registry.password_env",
        )
    return [
        models.ImageRegistryCredential(
            server=registry.server, username=registry.username, password=password
        )
    ]


def _identity(registry: Registry | None) -> models.ContainerGroupIdentity | None:
    if registry is None or not registry.identity:
        return None
    return models.ContainerGroupIdentity(
        type="UserAssigned",
        user_assigned_identities={registry.identity: models.UserAssignedIdentities()},
    )


def _without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same JSON with what nobody should read over a shoulder left out."""

    def shown(key: str, value: Any) -> Any:
        if key in ("secureValue", "password"):
            return "(secret)"
        if key == "secret":
            return dict.fromkeys(value, "(secret)")
        if isinstance(value, dict):
            return {inner: shown(inner, each) for inner, each in value.items()}
        if isinstance(value, list):
            return [shown("", each) for each in value]
        return value

    return {key: shown(key, value) for key, value in body.items()}
