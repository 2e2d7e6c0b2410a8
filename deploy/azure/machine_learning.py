"""What Azure Machine Learning is asked for: a cluster for the head, an environment, a job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deploy.azure.account import TAG, Account
from deploy.azure.errors import AzureError, explained
from deploy.azure.network import HEAD_SUBNET, NetworkPlan
from deploy.azure.train_command import FILES, OUTPUTS, RESUME, TrainCommand
from deploy.schema import Deployment, Head
from farsim.errors import InvalidArgument

if TYPE_CHECKING:
    from azure.ai.ml.entities import AmlCompute, Command, Environment

#: The tag of a job that says what it was asked to do, so that it is not asked for twice.
TAG_DEFINITION = "farsim-definition"
#: Datastores that every workspace has: for what is uploaded, and for what jobs write.
BLOB_STORE, ARTIFACT_STORE = "workspaceblobstore", "workspaceartifactstore"
#: Of Dockerfile.train, in its build context.
DOCKERFILE = "Dockerfile.train"
#: Of the node where Ray keeps its tables.
_RAY_PORT = 6379

_PROVIDER = "Microsoft.MachineLearningServices"


class HeadPlan:
    """The definitions that are sent, as entities of ``azure.ai.ml``.

    Args:
        account: where.
        deployment: with a section ``head``.

    Raises:
        InvalidArgument: there is no head, or Azure ML would refuse a name only when it is too
            late.
    """

    def __init__(self, account: Account, deployment: Deployment) -> None:
        if deployment.head is None:
            raise InvalidArgument(
                "the deployment has no head: add a section 'head' with its size", "head"
            )
        self.account = account
        self.deployment = deployment
        self.head: Head = deployment.head
        self._check_names()

    @property
    def tags(self) -> dict[str, str]:
        """Of everything that is made."""
        return {**self.deployment.tags, TAG: self.deployment.name}

    def resource_id(self, kind: str) -> str:
        """Of what is in the workspace, such as "computes/farsim-head"."""
        workspace = self.account.azure.workspace
        return f"{self.account.resource_id(_PROVIDER, 'workspaces', workspace)}/{kind}"

    def compute(self) -> AmlCompute:
        """The cluster on which the head runs, in the network's subnet for it."""
        from azure.ai.ml.entities import AmlCompute, NetworkSettings

        network = NetworkPlan(self.account, self.deployment).network
        return AmlCompute(
            name=self.head.compute,
            location=self.account.azure.location,
            tags=self.tags,
            size=self.head.size,
            tier="low_priority" if self.head.low_priority else "dedicated",
            min_instances=self.head.min_nodes,
            max_instances=self.head.max_nodes,
            idle_time_before_scale_down=self.head.idle_seconds,
            # By name, since an id of the whole subnet is taken for a name unless it is spelt as
            # the SDK's own pattern has it.
            network_settings=NetworkSettings(vnet_name=network.name, subnet=HEAD_SUBNET),
            enable_node_public_ip=network.public_head,
            ssh_public_access_enabled=False,
        )

    def environment(self, version: str, context_url: str = "") -> Environment:
        """The image of the head and of all nodes.

        Args:
            version: that stands for just this image or these sources.
            context_url: of the uploaded build context, if Azure is to build the image.
        """
        from azure.ai.ml.entities import BuildContext, Environment

        if self.head.image:
            return Environment(
                name=self.head.environment, version=version, tags=self.tags, image=self.head.image
            )
        return Environment(
            name=self.head.environment,
            version=version,
            tags=self.tags,
            build=BuildContext(path=context_url, dockerfile_path=DOCKERFILE),
        )

    def job(self, name: str, command: TrainCommand, version: str, files_path: str) -> Command:
        """Training.

        Args:
            name: of the job.
            command: what it runs.
            version: of the environment.
            files_path: where in the workspace's default datastore the command's files are.
        """
        from azure.ai.ml import Input, RayDistribution
        from azure.ai.ml import command as command_job
        from azure.ai.ml.entities import TensorBoardJobService

        training, head = command.training, self.head
        inputs: dict[str, Input | str | bool | int | float] = {}
        if command.files:
            inputs[FILES] = Input(
                type="uri_folder", path=datastore_uri(BLOB_STORE, files_path), mode="download"
            )
        if training.resume:
            inputs[RESUME] = Input(
                type="uri_folder", path=outputs_uri(training.resume), mode="download"
            )
        distribution = None
        if head.nodes > 1:
            # The dashboard would be one more thing to reach, and to protect.
            distribution = RayDistribution(port=_RAY_PORT, include_dashboard=False)
        job = command_job(
            name=name,
            display_name=name,
            experiment_name=training.experiment,
            description=f"farsim train {training.simulator}",
            command=command.line,
            environment=self.resource_id(f"environments/{head.environment}/versions/{version}"),
            compute=self.resource_id(f"computes/{head.compute}"),
            instance_count=head.nodes,
            shm_size=head.shm_size,
            timeout=training.time_limit_seconds,
            services={"tensorboard": TensorBoardJobService(log_dir=OUTPUTS)},
            distribution=distribution,
            inputs=inputs,
            tags={**self.tags, **training.tags},
        )
        properties = body(job)["properties"]
        del properties["displayName"]  # Which has the job's number.
        assert job.tags is not None
        job.tags[TAG_DEFINITION] = digest(json.dumps(properties, sort_keys=True))
        return job

    def _check_names(self) -> None:
        wanted = {
            "head.compute": (self.head.compute, r"[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]"),
            "head.environment": (self.head.environment, r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"),
        }
        if self.deployment.training is not None:
            experiment = self.deployment.training.experiment
            wanted["training.experiment"] = (experiment, r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")
        for key, (name, pattern) in wanted.items():
            if not re.fullmatch(pattern, name):
                raise InvalidArgument(
                    f"{key}: Azure ML takes no '{name}': begin with a letter or digit, go on with "
                    "letters, digits and hyphens"
                    + (", 3 to 24 in all" if key == "head.compute" else ", 255 at most"),
                    key,
                )


def body(entity: Any) -> dict[str, Any]:
    """The JSON that the SDK sends for a definition.

    Raises:
        InvalidArgument: the SDK does not take the definition.
    """
    from azure.ai.ml.exceptions import ValidationException

    try:
        # As the SDK does just before it sends a job.
        rest = (entity._to_job() if hasattr(entity, "_to_job") else entity)._to_rest_object()
    except ValidationException as error:
        raise InvalidArgument(f"'{entity.name}': {error.message}", str(entity.name)) from error
    return dict(json.loads(json.dumps(rest.as_dict())))


def compute_body(compute: AmlCompute, account: Account) -> dict[str, Any]:
    """The same for a cluster, whose subnet the SDK completes just before it sends it."""
    compute._set_full_subnet_name(account.subscription, account.azure.resource_group)
    return body(compute)


def digest(content: str | bytes) -> str:
    """A short name for just this content."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]


def datastore_uri(datastore: str, path: str) -> str:
    """As inputs of jobs take it."""
    return f"azureml://datastores/{datastore}/paths/{path}"


def outputs_uri(resume: str) -> str:
    """What ``training.resume`` means: an ``azureml://`` path, or a job's name."""
    if resume.startswith("azureml:"):
        return resume
    return datastore_uri(ARTIFACT_STORE, f"{artifacts_of(resume)}{OUTPUTS}/")


def artifacts_of(job: str) -> str:
    """Where in the artifact store a job's ``outputs`` and ``user_logs`` are."""
    return f"ExperimentRun/dcid.{job}/"


@contextmanager
def asked(doing: str, subject: str) -> Iterator[None]:
    """As ``explained``, also for what ``azure.ai.ml`` raises of its own."""
    from azure.ai.ml.exceptions import MlException

    with explained(doing, subject):
        try:
            yield
        except MlException as error:
            raise AzureError(f"{doing}: {_said(str(error.message))}", subject) from error


def _said(message: str) -> str:
    """What is wrong, of a message that is coloured and surrounded by advice."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", message).splitlines()]
    wrong = [line.removeprefix("(x)").strip() for line in lines if line.startswith("(x)")]
    return "; ".join(wrong or [line for line in lines if line][:1])
