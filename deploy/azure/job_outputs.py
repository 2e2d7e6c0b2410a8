"""What a training job leaves, while it runs and afterwards: its log, its metrics, its files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.azure.account import Account
from deploy.azure.errors import AzureError, NotThere, explained
from deploy.azure.jobs import Job, job
from deploy.azure.machine_learning import ARTIFACT_STORE, artifacts_of, asked
from deploy.azure.train_command import OUTPUTS
from deploy.azure.workspace_files import Store
from deploy.schema import Deployment
from farsim.errors import InvalidArgument

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

#: What can be asked for, and where below a job's artifacts it is.
KINDS = {
    "checkpoints": rf"{OUTPUTS}/checkpoint(s/|$)",
    "tensorboard": rf"{OUTPUTS}/(.*/)?events\.out\.tfevents\.",
    "videos": rf"{OUTPUTS}/videos/",
    "results": rf"{OUTPUTS}/[^/]+\.(csv|json|png)$",
    "logs": r"(user_logs|logs|system_logs)/",
}
#: The log of the first node, where the command runs, as the service names it.
_LOG = re.compile(r"user_logs/std_log(_process_0+)?\.txt$")
_FOLLOW_SECONDS = 5.0


def follow(
    account: Account,
    client: MLClient,
    deployment: Deployment,
    name: str,
    pause: Callable[[], None] = lambda: time.sleep(_FOLLOW_SECONDS),
) -> Iterator[str]:
    """What a job prints, from its beginning until it is over.

    Args:
        account: where.
        client: for the workspace.
        deployment: whose job.
        name: of the job.
        pause: called between two looks.

    Raises:
        AzureError: the log cannot be read.
    """
    store = Store(account, client, ARTIFACT_STORE)
    read = 0
    while True:
        # Asked first, so that what is printed last is read.
        found = job(client, deployment, name)
        new = _log_from(store, name, read)
        read += len(new)
        if new:
            yield new.decode(errors="replace")
        if found.is_finished:
            return
        pause()


def log(account: Account, client: MLClient, name: str) -> str:
    """What a job has printed so far; empty before it runs."""
    return _log_from(Store(account, client, ARTIFACT_STORE), name, 0).decode(errors="replace")


def metrics(account: Account, client: MLClient, name: str) -> dict[str, float]:
    """The last values of a job's metrics, from MLflow's interface of the workspace.

    Raises:
        AzureError: there is no such run, or the workspace does not answer.
    """
    found = _mlflow(account, client, "runs/get", run_id=name)
    return {each["key"]: float(each["value"]) for each in found["run"]["data"].get("metrics", [])}


def history(account: Account, client: MLClient, name: str, metric: str) -> list[tuple[int, float]]:
    """All values of one metric, with the environment steps at which they were logged.

    Raises:
        AzureError: there is no such run, or the workspace does not answer.
    """
    values: list[tuple[int, float]] = []
    token = ""
    while True:
        more = {"page_token": token} if token else {}
        found = _mlflow(
            account, client, "metrics/get-history", run_id=name, metric_key=metric, **more
        )
        values += [
            (int(each.get("step", 0)), float(each["value"])) for each in found.get("metrics", [])
        ]
        token = str(found.get("next_page_token") or "")
        if not token:
            return sorted(values)


def download(
    account: Account,
    client: MLClient,
    found: Job,
    folder: Path,
    tell: Callable[[str], None],
    kinds: tuple[str, ...] = (),
) -> int:
    """Brings a job's files here, of a running one those it has written so far; how many there are.

    Files that are there in full are left alone, so that a download can be gone on with.

    Args:
        account: where.
        client: for the workspace.
        found: whose files.
        folder: where they go.
        tell: called with the name of each file that is brought.
        kinds: of ``KINDS``; empty for all files.

    Raises:
        InvalidArgument: no such kind.
        AzureError: a file cannot be read; those before it are there.
        NotThere: the job has written none of these.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise InvalidArgument(f"a job has no '{unknown[0]}', but {', '.join(KINDS)}", unknown[0])
    patterns = [KINDS[kind] for kind in kinds] or [""]
    root = artifacts_of(found.name)
    store = Store(account, client, ARTIFACT_STORE)
    wanted = [
        file
        for file in store.list(root)
        if any(re.match(pattern, file.path.removeprefix(root)) for pattern in patterns)
    ]
    if not wanted:
        what = " or ".join(kinds) or "files"
        raise NotThere(
            f"job '{found.name}' ({found.status.lower()}) has written no {what} yet", found.name
        )
    for file in wanted:
        store.download(root, file, folder, tell)
    return len(wanted)


def _log_from(store: Store, name: str, start: int) -> bytes:
    root = artifacts_of(name)
    for file in store.list(f"{root}user_logs/"):
        if _LOG.search(file.path) and file.size > start:
            return store.read(file.path, start)
    return b""


def _mlflow(account: Account, client: MLClient, method: str, **query: str) -> dict[str, Any]:
    from azure.core.rest import HttpRequest

    workspace = account.azure.workspace
    with asked(f"looking for workspace '{workspace}'", workspace):
        tracking = str(client.workspaces.get(workspace).mlflow_tracking_uri or "")
    if not tracking.startswith("azureml://"):
        raise AzureError(f"workspace '{workspace}' does not say where its metrics are", workspace)
    url = f"https://{tracking.removeprefix('azureml://')}/api/2.0/mlflow"
    with (
        explained(f"reading metrics of '{query['run_id']}'", query["run_id"]),
        account.rest(url) as rest,
    ):
        answer = rest.send_request(HttpRequest("GET", f"{url}/{method}", params=query))
        answer.raise_for_status()
        return dict(answer.json())
