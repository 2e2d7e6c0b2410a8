"""A workspace of Azure Machine Learning in the stand-in: datastores with blobs, jobs, metrics."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from tests.deploy.azure_endpoint import SUBSCRIPTION, Endpoint

WORKSPACE = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rl/providers"
    "/Microsoft.MachineLearningServices/workspaces/rl"
)
_TIME = "Mon, 06 Jan 2025 10:00:00 GMT"
_TRACKING = f"westeurope.api.azureml.ms/mlflow/v1.0{WORKSPACE}"


@dataclass
class Workspace:
    """What the workspace holds besides the resources of the endpoint.

    Attributes:
        blobs: content by ``container/path``; the datastore "workspaceblobstore" is the container
            "files", "workspaceartifactstore" is "artifacts".
        metrics: the values of each by name, with their steps.
        downloads: ``container/path`` of each blob that was read, and from which byte.
        on_status: called whenever a job is looked at, with its properties, to let time pass.
    """

    endpoint: Endpoint
    blobs: dict[str, bytes] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    downloads: list[tuple[str, int]] = field(default_factory=list)
    on_status: Callable[[dict[str, Any]], None] = lambda properties: None

    def __post_init__(self) -> None:
        put = self.endpoint.resources
        put[WORKSPACE.lower()] = {
            "id": WORKSPACE,
            "name": "rl",
            "location": "westeurope",
            "properties": {"mlFlowTrackingUri": f"azureml://{_TRACKING}"},
        }
        for store, container in (
            ("workspaceblobstore", "files"),
            ("workspaceartifactstore", "artifacts"),
        ):
            path = f"{WORKSPACE}/datastores/{store}"
            put[path.lower()] = {
                "id": path,
                "name": store,
                "properties": {
                    "datastoreType": "AzureBlob",
                    "accountName": "rlstorage",
                    "containerName": container,
                    "endpoint": "core.windows.net",
                    "protocol": "https",
                    "credentials": {"credentialsType": "Sas"},
                },
            }
        self.endpoint.routes += [
            (r"^POST .*/listSecrets$", self._secrets),
            (r"^PUT .*/jobs/([^/]+)$", self._submit),
            (r"^GET .*/jobs/([^/]+)$", self._look),
            (r"^POST .*/jobs/([^/]+)/cancel$", self._cancel),
            (r"^GET .*/mlflow/runs/get$", self._run),
            (r"^GET .*/mlflow/metrics/get-history$", self._history),
            (r"^(\w+) /((?:files|artifacts)/?.*)$", self._blob),
        ]

    def job(self, name: str) -> dict[str, Any]:
        """The properties of a job."""
        found = self.endpoint.resources[f"{WORKSPACE}/jobs/{name}".lower()]["properties"]
        assert isinstance(found, dict)
        return found

    def write(self, job: str, path: str, content: bytes) -> None:
        """Has a job write a file, or more of one."""
        key = f"artifacts/ExperimentRun/dcid.{job}/{path}"
        self.blobs[key] = self.blobs.get(key, b"") + content

    def _secrets(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        return 200, {"secretsType": "Sas", "sasToken": "sv=2024-01-01&sig=abc"}

    def _submit(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        path = f"{WORKSPACE}/jobs/{match[1]}"
        studio = {"jobServiceType": "Studio", "endpoint": f"https://ml.azure.com/runs/{match[1]}"}
        properties = {**body["properties"], "status": "Queued"}
        properties["services"] = {**properties.get("services", {}), "Studio": studio}
        resource = {
            "id": path,
            "name": match[1],
            "properties": properties,
            "systemData": {"createdAt": "2025-01-06T10:00:00+00:00"},
        }
        endpoint.resources[path.lower()] = resource
        return 201, resource

    def _look(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        found = endpoint.resources.get(f"{WORKSPACE}/jobs/{match[1]}".lower())
        if found is None:
            return 404, {"error": {"code": "NotFound", "message": f"no job {match[1]}"}}
        self.on_status(found["properties"])
        return 200, found

    def _cancel(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        self.job(match[1])["status"] = "Canceled"
        endpoint.operations["/operations/cancel"] = {"status": "Succeeded"}
        return 202, None, {"Location": "https://management.azure.com/operations/cancel"}

    def _run(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        last = [
            {"key": name, "value": values[-1][1], "step": str(values[-1][0])}
            for name, values in self.metrics.items()
        ]
        return 200, {
            "run": {"info": {"run_id": endpoint.query["run_id"]}, "data": {"metrics": last}}
        }

    def _history(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        values = self.metrics.get(endpoint.query["metric_key"], [])
        page = int(endpoint.query.get("page_token", "0"))
        shown = [{"step": str(step), "value": value} for step, value in values[page : page + 2]]
        answer: dict[str, Any] = {"metrics": shown}
        if page + 2 < len(values):
            answer["next_page_token"] = str(page + 2)
        return 200, answer

    def _blob(self, endpoint: Endpoint, match: re.Match[str], body: Any) -> tuple[Any, ...]:
        method, key = match[1], urllib.parse.unquote(match[2])
        headers = {"ETag": '"0x1"', "Last-Modified": _TIME}
        if endpoint.query.get("comp") == "list":
            return (
                200,
                self._listing(key.rstrip("/"), endpoint.query.get("prefix", "")),
                {"Content-Type": "application/xml"},
            )
        if method == "PUT":
            self.blobs[key] = endpoint.raw
            return 201, None, headers
        if key not in self.blobs:
            error = "<?xml version='1.0'?><Error><Code>BlobNotFound</Code></Error>"
            return (
                404,
                error,
                {"Content-Type": "application/xml", "x-ms-error-code": "BlobNotFound"},
            )
        if method == "DELETE":
            del self.blobs[key]
            return 202, None
        content = self.blobs[key]
        wanted = endpoint.headers.get("x-ms-range") or endpoint.headers.get("Range") or "bytes=0-"
        first = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.downloads.append((key, first))
        headers |= {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}",
            "x-ms-blob-type": "BlockBlob",
        }
        return 206, content[first:], headers

    def _listing(self, container: str, prefix: str) -> str:
        rows = [
            f"<Blob><Name>{escape(key.partition('/')[2])}</Name><Properties>"
            f"<Last-Modified>{_TIME}</Last-Modified><Etag>0x1</Etag>"
            f"<Content-Length>{len(content)}</Content-Length><BlobType>BlockBlob</BlobType>"
            "</Properties></Blob>"
            for key, content in sorted(self.blobs.items())
            if key.startswith(f"{container}/{prefix}")
        ]
        return (
            "<?xml version='1.0' encoding='utf-8'?><EnumerationResults><Blobs>"
            f"{''.join(rows)}</Blobs><NextMarker/></EnumerationResults>"
        )
