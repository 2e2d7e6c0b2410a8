"""Training jobs in Azure Machine Learning: submitted, found, cancelled and removed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from deploy.azure.account import TAG
from deploy.azure.clusters import make_compute, remove_compute
from deploy.azure.errors import Busy, NotThere
from deploy.azure.head import HeadRequests, context_folder, files_folder, job_name
from deploy.azure.machine_learning import BLOB_STORE, TAG_DEFINITION, HeadPlan, asked
from deploy.azure.workspace_files import Store
from deploy.schema import Deployment

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

#: Azure's words for a job that will do nothing more.
FINISHED = ("Completed", "Failed", "Canceled")


@dataclass(frozen=True)
class Job:
    """A job of a deployment.

    Attributes:
        name: in the workspace.
        status: Azure's word for it: "Queued", "Running", "Completed", "Failed", ...
        created: when it was submitted; None if Azure does not say.
        studio: where a browser shows it.
        definition: stands for what it was asked to do.
    """

    name: str
    status: str
    created: datetime | None
    studio: str
    definition: str

    @property
    def is_finished(self) -> bool:
        """Whether it will do nothing more."""
        return self.status in FINISHED


def submit(requests: HeadRequests, tell: Callable[[str], None], another: bool = False) -> Job:
    """Makes what the job needs and is not there, and the job, unless it is under way already.

    Args:
        requests: what to send.
        tell: called with a line for each thing that is made.
        another: whether to submit a job beside one that is under way.

    Raises:
        AzureError: Azure refused; what was made until then stays, and another call goes on.
        Busy: a job that was asked to do something else is under way.
        NotOurs: a cluster of that name belongs to somebody else.
    """
    plan = requests.plan
    client = plan.account.machine_learning()
    before = jobs(client, plan.deployment)
    number = 1 + max((_number(job.name) for job in before), default=0)
    definition = requests.job(job_name(plan.deployment, number))
    under_way = [job for job in before if not job.is_finished]
    if under_way and not another:
        if under_way[-1].definition == definition.tags[TAG_DEFINITION]:
            tell(f"job {under_way[-1].name} is under way already")
            return under_way[-1]
        raise Busy(
            f"job '{under_way[-1].name}' is under way with other settings: 'farsim deploy azureml "
            "cancel' ends it, and submit --another starts one beside it",
            under_way[-1].name,
        )
    make_compute(client, plan, tell)
    make_environment(client, requests, tell)
    if requests.files:
        Store(plan.account, client, BLOB_STORE).upload(requests.files_path, requests.files)
    with asked(f"submitting job '{definition.name}'", str(definition.name)):
        made = client.jobs.create_or_update(definition)
    tell(f"job {made.name}")
    return _job(made)


def make_environment(client: MLClient, requests: HeadRequests, tell: Callable[[str], None]) -> None:
    """Registers the image, or uploads what Azure builds it from, unless that has been done."""
    plan, name = requests.plan, requests.plan.head.environment
    try:
        with asked(f"looking for environment '{name}'", name):
            client.environments.get(name, version=requests.version)
        return
    except NotThere:
        pass
    url = ""
    if requests.context is not None:
        store = Store(plan.account, client, BLOB_STORE)
        folder = context_folder(requests.context)
        store.upload(folder, requests.context.contents())
        url = store.url_of(folder)
    with asked(f"creating environment '{name}'", name):
        client.environments.create_or_update(plan.environment(requests.version, url))
    tell(f"environment {name}:{requests.version}")


def jobs(client: MLClient, deployment: Deployment) -> list[Job]:
    """A deployment's jobs, the first submitted first."""
    from azure.ai.ml.constants import ListViewType

    with asked("listing jobs", deployment.name):
        listed = client.jobs.list(list_view_type=ListViewType.ALL, tag=TAG)
        ours = [job for job in listed if job and (job.tags or {}).get(TAG) == deployment.name]
    return sorted(map(_job, ours), key=lambda job: _number(job.name))


def job(client: MLClient, deployment: Deployment, name: str = "") -> Job:
    """One of a deployment's jobs as it is now.

    Args:
        client: for the workspace.
        deployment: whose.
        name: of the job; empty for the last one submitted.

    Raises:
        NotThere: there is no such job.
    """
    if not name:
        all_of_them = jobs(client, deployment)
        if not all_of_them:
            raise NotThere(
                f"deployment '{deployment.name}' has no job in this workspace: 'farsim deploy "
                "azureml submit' makes one",
                deployment.name,
            )
        name = all_of_them[-1].name
    with asked(f"looking for job '{name}'", name):
        return _job(client.jobs.get(name))


def cancel(client: MLClient, found: Job) -> None:
    """Ends a job; its outputs stay. Does nothing to one that is over.

    Raises:
        AzureError: Azure refused.
    """
    if found.is_finished:
        return
    with asked(f"cancelling job '{found.name}'", found.name):
        client.jobs.begin_cancel(found.name).result()


def down(plan: HeadPlan, tell: Callable[[str], None]) -> list[str]:
    """Cancels jobs, removes uploaded files and the cluster; what is left of it.

    The history of jobs, their outputs and the environment stay: they cost nothing but storage.

    Raises:
        AzureError: Azure refused; another call goes on.
    """
    client, deployment, name = plan.account.machine_learning(), plan.deployment, plan.head.compute
    left = []
    for found in jobs(client, deployment):
        if not found.is_finished:
            cancel(client, found)
            tell(f"job {found.name} (cancelled)")
        left.append(f"job {found.name} and its outputs")
    if Store(plan.account, client, BLOB_STORE).remove(files_folder(deployment)):
        tell("uploaded files")
    removed = remove_compute(client, plan)
    if removed:
        tell(f"cluster {name}")
    elif removed is False:
        left.append(f"cluster {name}, which this deployment has not made")
    return left


def _job(found: Any) -> Job:
    context = found.creation_context
    return Job(
        name=str(found.name),
        # Some answers come as an enumeration, whose text is not its value.
        status=str(getattr(found.status, "value", found.status) or "Unknown"),
        created=getattr(context, "created_at", None),
        studio=str(found.studio_url or ""),
        definition=str((found.tags or {}).get(TAG_DEFINITION, "")),
    )


def _number(name: str) -> int:
    found = re.search(r"-(\d+)$", name)
    return int(found[1]) if found else 0
