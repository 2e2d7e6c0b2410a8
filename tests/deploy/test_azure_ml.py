"""Training in Azure Machine Learning: its real SDK against a stand-in for the endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.azure import job_outputs, jobs
from deploy.azure.account import Account
from deploy.azure.errors import AzureError, Busy, NotSignedIn, NotThere, QuotaExceeded
from deploy.azure.head import HeadRequests
from deploy.azure.machine_learning import HeadPlan
from deploy.azure.network import NotOurs
from deploy.deployment_file import parse
from deploy.schema import Deployment
from farsim import certs
from farsim.errors import InvalidArgument
from tests.deploy.azure_endpoint import SUBSCRIPTION, Credential, Endpoint, azure_endpoint
from tests.deploy.azure_workspace import WORKSPACE, Workspace

# What the SDK says of itself.
pytestmark = pytest.mark.filterwarnings("ignore::Warning")

AT_ONCE = {"Retry-After": "0.01"}
FILE = f"""\
name: scheduling
azure: {{subscription: {SUBSCRIPTION}, resource_group: rl, location: westeurope, workspace: rl}}
head: {{image: rl.azurecr.io/farsim-train:1.0, low_priority: true}}
training:
  simulator: deeprm
  sims: 10.20.1.4:50051-50052
  stop: {{steps: 1000, time: 90m}}
  arguments: [--video-every, "10"]
tags: {{team: planning}}
"""


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with azure_endpoint() as endpoint:
        yield Workspace(endpoint)


def deployed(
    workspace: Workspace, text: str = FILE, token: str = "a-token"
) -> tuple[Account, Deployment]:
    deployment = parse(text, "farsim.yaml")
    assert deployment.azure is not None
    account = Account(deployment.azure, Credential(token), workspace.endpoint.transport)
    return account, deployment


def submit(workspace: Workspace, text: str = FILE, **options: Any) -> jobs.Job:
    return jobs.submit(HeadRequests(*deployed(workspace, text)), print, **options)


def puts(endpoint: Endpoint) -> list[str]:
    """What was made, by the last two parts of its path."""
    return [
        "/".join(request.split("/")[-2:])
        for request in endpoint.requests
        if request.startswith("PUT /subscriptions")
    ]


def without_git(body: dict[str, Any]) -> dict[str, Any]:
    """The SDK adds the repository of the current folder, in which tests run."""
    return {**body, "properties": {**body["properties"], "properties": {}}}


def test_what_a_dry_run_shows_is_what_is_sent(workspace: Workspace):
    shown = HeadRequests(*deployed(workspace)).shown()
    assert workspace.endpoint.requests == []
    made = submit(workspace)
    assert (made.name, made.status) == ("scheduling-1", "Queued")
    assert made.studio.endswith("scheduling-1")
    for path, body in shown.items():
        if path.startswith("/subscriptions"):
            sent = workspace.endpoint.bodies[path.lower()]
            kind = path.rpartition("/")[0]
            assert (without_git(sent) if kind.endswith("jobs") else sent) == {
                key: value for key, value in body.items() if key != "name"
            } | ({"name": sent["name"]} if "name" in sent else {})
    compute = workspace.endpoint.bodies[f"{WORKSPACE}/computes/farsim-head".lower()]
    machines = compute["properties"]["properties"]
    assert machines["vmPriority"] == "LowPriority"
    assert machines["enableNodePublicIp"] is False
    assert machines["subnet"]["id"].endswith("/virtualNetworks/farsim/subnets/head")
    assert compute["tags"] == {"team": "planning", "farsim-deployment": "scheduling"}
    job = workspace.job("scheduling-1")
    assert job["command"] == (
        "farsim train deeprm --sims 10.20.1.4:50051,10.20.1.4:50052 --out outputs "
        "--wait-seconds 600 --stop-steps 1000 --stop-time 5400 --video-every 10"
    )
    assert job["computeId"] == f"{WORKSPACE}/computes/farsim-head"
    assert job["resources"] == {"instanceCount": 1, "properties": {}, "shmSize": "8g"}
    assert job["limits"]["timeout"] == "P1D"
    assert job["services"]["tensorboard"]["properties"] == {"logDir": "outputs"}
    assert "distribution" not in job


def test_several_nodes_form_a_ray_cluster(workspace: Workspace):
    submit(workspace, FILE.replace("low_priority: true", "nodes: 3, max_nodes: 4"))
    job = workspace.job("scheduling-1")
    assert job["distribution"] == {
        "distributionType": "Ray",
        "port": 6379,
        "includeDashboard": False,
    }
    assert "--ray-address auto --ray-nodes 3" in job["command"]
    assert job["resources"]["instanceCount"] == 3


def test_secrets_go_as_files_and_are_in_no_definition(workspace: Workspace, tmp_path: Path):
    folder = tmp_path / "tls"
    certs.make_certificates(folder, ["simulators"])
    (folder / certs.TOKEN).write_text("a-secret-token\n")
    training = tmp_path / "my training.yaml"
    training.write_text("algo: PPO\n")
    text = FILE.replace(
        "  stop:", f"  tls: {folder}\n  config: {training}\n  resume: earlier-4\n  stop:"
    )
    submit(workspace, text)
    files = [key for key in workspace.blobs if key.startswith("files/farsim/scheduling/")]
    assert sorted(key.rpartition("/")[2] for key in files) == [
        "ca.pem",
        "client-key.pem",
        "client.pem",
        "token",
        "training.yaml",
    ]
    key = next(key for key in files if key.endswith("client-key.pem"))
    assert workspace.blobs[key] == (folder / "client-key.pem").read_bytes()
    job = workspace.job("scheduling-1")
    bodies = workspace.endpoint.bodies
    sent = [body for path, body in bodies.items() if path.startswith("/subscriptions")]
    assert "a-secret-token" not in str(sent)
    assert "PRIVATE KEY" not in str(job)
    place = key.removeprefix("files/").rpartition("/")[0]
    assert job["inputs"]["files"] == {
        "jobInputType": "uri_folder",
        "mode": "Download",
        "uri": f"azureml://datastores/workspaceblobstore/paths/{place}/",
    }
    assert job["inputs"]["resume"]["uri"] == (
        "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.earlier-4/outputs/"
    )
    assert '--config "${{inputs.files}}/training.yaml"' in job["command"]
    assert '--tls-key "${{inputs.files}}/client-key.pem"' in job["command"]
    assert "--tls-server-name simulators" in job["command"]


def test_nothing_is_made_twice(workspace: Workspace):
    first = submit(workspace)
    made = puts(workspace.endpoint)
    assert submit(workspace) == first
    assert puts(workspace.endpoint) == made
    with pytest.raises(Busy, match="'scheduling-1' is under way with other settings"):
        submit(workspace, FILE.replace("1000", "2000"))
    assert puts(workspace.endpoint) == made
    assert submit(workspace, another=True).name == "scheduling-2"
    workspace.job("scheduling-1")["status"] = "Completed"
    workspace.job("scheduling-2")["status"] = "Failed"
    assert submit(workspace).name == "scheduling-3"
    assert puts(workspace.endpoint) == [*made, "jobs/scheduling-2", "jobs/scheduling-3"]


def test_a_cluster_grows_and_changes_no_machines(workspace: Workspace):
    submit(workspace)
    workspace.job("scheduling-1")["status"] = "Completed"
    submit(workspace, FILE.replace("low_priority: true", "low_priority: true, max_nodes: 4"))
    assert puts(workspace.endpoint).count("computes/farsim-head") == 2
    sent = workspace.endpoint.bodies[f"{WORKSPACE}/computes/farsim-head".lower()]
    assert sent["properties"]["properties"]["scaleSettings"]["maxNodeCount"] == 4
    assert sent["properties"]["properties"]["subnet"]["id"].endswith("/subnets/head")
    workspace.job("scheduling-2")["status"] = "Completed"
    with pytest.raises(InvalidArgument, match="vmSize is Standard_NC4as_T4_v3, not Standard_NC6"):
        submit(workspace, FILE.replace("low_priority: true", "size: Standard_NC6s_v3"))


def test_a_cluster_of_somebody_elses_is_left_alone(workspace: Workspace):
    submit(workspace)
    other = FILE.replace("name: scheduling", "name: other")
    with pytest.raises(NotOurs, match="'scheduling' has made it"):
        submit(workspace, other)
    left = jobs.down(HeadPlan(*deployed(workspace, other)), print)
    assert left == ["cluster farsim-head, which this deployment has not made"]
    assert workspace.endpoint.made("computes") == ["farsim-head"]


def test_half_of_it_can_be_gone_on_with_or_undone(workspace: Workspace):
    workspace.endpoint.refuse("PUT .*/jobs/", 500, "InternalServerError", headers=AT_ONCE, times=20)
    with pytest.raises(AzureError, match=r"submitting job.*Azure's fault.*run the same command"):
        submit(workspace)
    assert workspace.endpoint.made("computes") == ["farsim-head"]
    workspace.endpoint.refusals.clear()
    made = puts(workspace.endpoint)
    submit(workspace)
    assert puts(workspace.endpoint) == [*made, "jobs/scheduling-1"]
    told: list[str] = []
    left = jobs.down(HeadPlan(*deployed(workspace)), told.append)
    assert told == ["job scheduling-1 (cancelled)", "cluster farsim-head"]
    assert left == ["job scheduling-1 and its outputs"]
    assert workspace.job("scheduling-1")["status"] == "Canceled"
    assert workspace.endpoint.made("computes") == []


@pytest.mark.parametrize(
    ("status", "code", "kind", "advice"),
    [
        (409, "Conflict", Busy, "run the same command again"),
        (400, "ClusterCoreQuotaReached", QuotaExceeded, "ask for less"),
        (403, "AuthorizationFailed", AzureError, "role Contributor"),
        (400, "UserError", AzureError, "UserError"),
    ],
)
def test_what_azure_refuses_is_said_with_what_to_do(
    workspace: Workspace, status: int, code: str, kind: type[Exception], advice: str
):
    workspace.endpoint.refuse("PUT .*/computes/", status, code)
    with pytest.raises(kind, match=advice):
        submit(workspace)
    assert workspace.endpoint.made("jobs") == []


def test_too_many_requests_are_waited_for(workspace: Workspace):
    workspace.endpoint.refuse("PUT ", 429, "TooManyRequests", headers=AT_ONCE, times=2)
    assert submit(workspace).name == "scheduling-1"


def test_a_cluster_that_fails_later_is_made_anew(workspace: Workspace):
    workspace.endpoint.failing.append("computes/farsim-head$")
    with pytest.raises(AzureError, match="the test says that it fails"):
        submit(workspace)
    workspace.endpoint.failing.clear()
    assert submit(workspace).name == "scheduling-1"


def test_a_token_that_is_not_accepted(workspace: Workspace):
    with pytest.raises(NotSignedIn, match="az login"):
        jobs.submit(HeadRequests(*deployed(workspace, token="stale")), print)


def test_azure_builds_the_image_from_the_sources(workspace: Workspace, tmp_path: Path):
    (tmp_path / "Dockerfile.train").write_text("ARG EXTRAS=train,video\nRUN echo ${EXTRAS}\n")
    (tmp_path / ".dockerignore").write_text("secret.txt\n")
    (tmp_path / "secret.txt").write_text("no")
    (tmp_path / "farsim").mkdir()
    (tmp_path / "farsim" / "a.py").write_text("pass\n")
    text = FILE.replace("image: rl.azurecr.io/farsim-train:1.0, ", "")

    def send() -> jobs.Job:
        requests = HeadRequests(*deployed(workspace, text), sources=tmp_path)
        return jobs.submit(requests, print, another=True)

    send()
    uploaded = {
        key.split("/", 3)[3]: content
        for key, content in workspace.blobs.items()
        if key.startswith("files/farsim-sources/")
    }
    assert uploaded["farsim/a.py"] == b"pass\n"
    assert "secret.txt" not in uploaded
    assert b"ARG EXTRAS=train,video,mlflow\n" in uploaded["Dockerfile.train"]
    (name,) = workspace.endpoint.made("versions")
    path = f"{WORKSPACE}/environments/farsim-train/versions/{name}"
    sent = workspace.endpoint.bodies[path.lower()]
    assert sent["properties"]["build"] == {
        "contextUri": f"https://rlstorage.blob.core.windows.net/files/farsim-sources/{name}/",
        "dockerfilePath": "Dockerfile.train",
    }
    send()
    assert workspace.endpoint.made("versions") == [name]
    (tmp_path / "farsim" / "a.py").write_text("fail\n")
    send()
    assert len(workspace.endpoint.made("versions")) == 2


def test_status_and_cancel(workspace: Workspace):
    account, deployment = deployed(workspace)
    client = account.machine_learning()
    with pytest.raises(NotThere, match="'scheduling' has no job"):
        jobs.job(client, deployment)
    submit(workspace)
    found = jobs.job(client, deployment)
    assert found.created is not None
    assert found.created.year == 2025
    jobs.cancel(client, found)
    assert [each.status for each in jobs.jobs(client, deployment)] == ["Canceled"]
    jobs.cancel(client, jobs.job(client, deployment))
    assert sum(request.endswith("-1/cancel") for request in workspace.endpoint.requests) == 1
    with pytest.raises(NotThere, match="no job scheduling-7"):
        jobs.job(client, deployment, "scheduling-7")


def test_a_log_is_followed_to_its_end(workspace: Workspace):
    account, deployment = deployed(workspace)
    client = account.machine_learning()
    name = submit(workspace).name
    assert job_outputs.log(account, client, name) == ""
    chapters = [
        ("Queued", b""),
        ("Running", b"one\n"),
        ("Running", b"two\n"),
        ("Completed", b"end"),
    ]

    def pass_time(properties: dict[str, Any]) -> None:
        properties["status"], said = chapters.pop(0)
        workspace.write(name, "user_logs/std_log.txt", said)

    workspace.on_status = pass_time
    told = list(job_outputs.follow(account, client, deployment, name, pause=lambda: None))
    assert told == ["one\n", "two\n", "end"]
    assert [first for _, first in workspace.downloads] == [0, 4, 8]
    assert job_outputs.log(account, client, name) == "one\ntwo\nend"


def test_metrics(workspace: Workspace):
    account, _ = deployed(workspace)
    client = account.machine_learning()
    name = submit(workspace).name
    workspace.metrics["train/return_mean"] = [(100, -3.0), (200, -2.5), (300, -2.0)]
    assert job_outputs.metrics(account, client, name) == {"train/return_mean": -2.0}
    assert job_outputs.history(account, client, name, "train/return_mean") == [
        (100, -3.0),
        (200, -2.5),
        (300, -2.0),
    ]
    workspace.endpoint.refuse("mlflow/runs/get", 403, "Forbidden")
    with pytest.raises(AzureError, match="reading metrics of 'scheduling-1'"):
        job_outputs.metrics(account, client, name)


def test_download_goes_on_where_it_stopped(workspace: Workspace, tmp_path: Path):
    account, deployment = deployed(workspace)
    client = account.machine_learning()
    submit(workspace)
    found = jobs.job(client, deployment)
    with pytest.raises(NotThere, match=r"queued\) has written no checkpoints yet"):
        job_outputs.download(account, client, found, tmp_path, print, ("checkpoints",))
    files = {
        "outputs/checkpoint": b"checkpoints/000010\n",
        "outputs/checkpoints/000010/manifest.json": b"{}",
        "outputs/events.out.tfevents.1.host": b"events",
        "outputs/videos/000010.mp4": b"film",
        "outputs/progress.csv": b"",
        "user_logs/std_log.txt": b"hello",
    }
    for path, content in files.items():
        workspace.write(found.name, path, content)

    def there() -> dict[str, bytes]:
        return {
            str(path.relative_to(tmp_path)): path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file()
        }

    assert job_outputs.download(account, client, found, tmp_path, print, ("checkpoints",)) == 2
    assert there() == {key: files[key] for key in list(files)[:2]}
    workspace.downloads.clear()
    workspace.endpoint.refuse("GET /artifacts/.*mp4", 403, "AuthorizationFailure")
    with pytest.raises(AzureError, match=r"downloading outputs/videos/000010\.mp4"):
        job_outputs.download(account, client, found, tmp_path, print)
    assert "outputs/videos/000010.mp4" not in there()
    assert not list(tmp_path.rglob("*.partial"))
    job_outputs.download(account, client, found, tmp_path, print)
    assert there() == files
    read = [key.split("/", 3)[3] for key, _ in workspace.downloads]
    assert len(read) == len(set(read)), "what was there has been brought again"
    with pytest.raises(InvalidArgument, match="no 'chekpoints', but checkpoints"):
        job_outputs.download(account, client, found, tmp_path, print, ("chekpoints",))
    workspace.blobs["artifacts/ExperimentRun/dcid.scheduling-1/../../evil"] = b"x"
    with pytest.raises(AzureError, match="would leave"):
        job_outputs.download(account, client, found, tmp_path, print)
