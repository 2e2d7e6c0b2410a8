"""What a deployment may say: simulators in a network, a head, and what it trains.

Field descriptions are what ``farsim deploy schema`` prints, for editors that know JSON Schema.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from farsim.deployment import check_name
from farsim.errors import FarsimError

#: A name as Azure takes it for networks, subnets and clusters.
ResourceName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,30}[A-Za-z0-9]$")]
Cidr = Annotated[str, Field(description="addresses, as in 10.20.0.0/24")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """A part of a deployment; keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Azure(Section):
    """Whose account, and where."""

    subscription: str = Field("", description="its id; AZURE_SUBSCRIPTION_ID if empty")
    resource_group: str = Field(min_length=1, max_length=90)
    location: str = Field(description="as Azure spells it: westeurope", pattern=r"^[a-z0-9]+$")
    workspace: str = Field("", description="of Azure Machine Learning; needed for the head")


class Network(Section):
    """A virtual network with a subnet for the head and one for simulators."""

    name: ResourceName = "farsim"
    address_space: Cidr = "10.20.0.0/16"
    head_subnet: Cidr = "10.20.0.0/24"
    simulator_subnet: Cidr = "10.20.1.0/24"
    public_head: bool = Field(
        False, description="whether the head's nodes have public addresses to be managed through"
    )

    @field_validator("address_space", "head_subnet", "simulator_subnet")
    @classmethod
    def _is_cidr(cls, text: str) -> str:
        try:
            ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ValueError(f"'{text}' is no IPv4 network such as 10.20.0.0/24") from error
        return text

    @model_validator(mode="after")
    def _fit(self) -> Network:
        whole = ipaddress.IPv4Network(self.address_space)
        head = ipaddress.IPv4Network(self.head_subnet)
        simulators = ipaddress.IPv4Network(self.simulator_subnet)
        for subnet in (head, simulators):
            if not subnet.subnet_of(whole):
                raise ValueError(f"{subnet} is not inside address_space {whole}")
            # Azure keeps five addresses of each subnet for itself.
            if subnet.num_addresses < 8:
                raise ValueError(f"{subnet} is too small: at least a /29")
        if head.overlaps(simulators):
            raise ValueError(f"head_subnet {head} and simulator_subnet {simulators} overlap")
        return self


class Registry(Section):
    """Where images come from, if it asks who wants them."""

    server: str = Field(min_length=1, description="as in the image's name: rl.azurecr.io")
    username: str = ""
    password_env: str = Field("", description="the environment variable that has the password")
    identity: str = Field("", description="resource id of a managed identity that may pull")

    @model_validator(mode="after")
    def _one_way(self) -> Registry:
        if bool(self.username) == bool(self.identity):
            raise ValueError("give either username and password_env, or identity")
        if bool(self.username) != bool(self.password_env):
            raise ValueError("username and password_env belong together")
        return self


class Simulators(Section):
    """Replicas of one container, each with one or several simulator servers."""

    name: str = Field("", description="of the group; after the simulator if empty")
    simulator: str = Field(min_length=1, description="as farsim serve takes it")
    replicas: int = Field(1, ge=1, le=100)
    workers: int = Field(1, ge=1, le=64, description="server processes in each, a port each")
    options: dict[str, Any] = Field({}, description="defaults of the simulator's parameters")
    image: str = Field("farsim-sim", min_length=1)
    port: Port = Field(50051, description="the first worker's")
    cpu: float = Field(1.0, gt=0, le=32, description="cores of each container")
    memory_gb: float = Field(1.0, ge=0.5, le=256)
    tls: Path | None = Field(None, description="folder of farsim certs")
    insecure: bool = Field(False, description="plain text, in a network that is trusted")
    restart: Literal["Always", "OnFailure", "Never"] = "Always"
    tags: dict[str, str] = {}

    @model_validator(mode="after")
    def _named(self) -> Simulators:
        if not self.name:
            after = re.sub(r"[^a-z0-9]+", "-", self.simulator.lower()).strip("-")[-40:].strip("-")
            object.__setattr__(self, "name", after)
        try:
            check_name(self.name)
        except FarsimError as error:
            raise ValueError(error.message) from error
        if self.port + self.workers - 1 > 65535:
            raise ValueError(f"{self.workers} ports from {self.port} on go beyond 65535")
        if self.tls is None and not self.insecure:
            raise ValueError(
                "servers beyond one machine need tls (a folder of farsim certs), or "
                "insecure: true in a network that is trusted"
            )
        return self

    @property
    def ports(self) -> range:
        """One for each worker."""
        return range(self.port, self.port + self.workers)


class Cluster(Section):
    """Machines of one size that Azure starts when they are needed."""

    compute: ResourceName = "farsim-head"
    size: str = Field("Standard_NC4as_T4_v3", pattern=r"^(Standard|Basic)_[A-Za-z0-9_]+$")
    min_nodes: int = Field(0, ge=0)
    max_nodes: int = Field(1, ge=1, le=100)
    low_priority: bool = Field(False, description="cheaper, and may be taken away at any time")
    idle_seconds: int = Field(120, ge=60, description="until a node without work is given back")

    @model_validator(mode="after")
    def _ordered(self) -> Cluster:
        if self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes {self.min_nodes} is more than max_nodes {self.max_nodes}")
        return self


class Head(Cluster):
    """The machine with the learner, and the image that it runs."""

    nodes: int = Field(
        1, ge=1, le=100, description="that one job has; more than one form a Ray cluster"
    )
    image: str = Field("", description="of Dockerfile.train; built by Azure if empty")
    shm_size: str = Field("8g", pattern=r"^[0-9]+[bkmg]$", description="for Ray's object store")
    environment: str = Field("farsim-train", min_length=1)

    @model_validator(mode="after")
    def _enough(self) -> Head:
        if self.nodes > self.max_nodes:
            raise ValueError(f"nodes {self.nodes} is more than max_nodes {self.max_nodes}")
        return self


class Stop(Section):
    """When training has done enough; whichever comes first."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    reward: float | None = Field(None, alias="return", description="mean return of an episode")
    steps: int | None = Field(None, ge=1)
    time: str | float | None = Field(None, description="seconds, or 90m, 12h")


class Training(Section):
    """What ``farsim train`` is called with."""

    simulator: str = Field(min_length=1, description="which one, as the servers offer it")
    sims: str = Field(
        "", description="addresses of servers deployed elsewhere, in place of 'simulators'"
    )
    tls: Path | None = Field(None, description="folder of farsim certs for those of sims")
    config: Path | None = Field(None, description="a training file")
    arguments: tuple[str, ...] = Field((), description="further ones of farsim train")
    stop: Stop = Field(default_factory=lambda: Stop.model_validate({}))
    coordination_seconds: int = Field(
        600, ge=1, description="how long simulators and Ray's nodes may take to be there"
    )
    time_limit_seconds: int = Field(24 * 3600, ge=60, description="then Azure ends the job")
    experiment: str = Field("farsim", min_length=1)
    tags: dict[str, str] = {}
    resume: str = Field(
        "", description="whose checkpoints to go on from: a job's name, or azureml://..."
    )


class Deployment(Section):
    """All of it. Sections that are left out are not made."""

    name: str
    azure: Azure | None = None
    network: Network | None = None
    registry: Registry | None = None
    simulators: tuple[Simulators, ...] = ()
    head: Head | None = None
    training: Training | None = None
    tags: dict[str, str] = Field({}, description="on everything that is made")

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        try:
            return check_name(name)
        except FarsimError as error:
            raise ValueError(error.message) from error

    @model_validator(mode="after")
    def _together(self) -> Deployment:
        names = [group.name for group in self.simulators]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two groups of simulators are called '{name}': give them a name")
        if len({(group.tls, group.insecure) for group in self.simulators}) > 1:
            raise ValueError(
                "the simulators of a deployment are reached in one way: give all the same tls, or "
                "all insecure: true"
            )
        if self.training is not None and self.head is None:
            raise ValueError("training needs a head")
        if self.head is not None and (self.azure is None or not self.azure.workspace):
            raise ValueError("a head needs azure.workspace")
        return self
