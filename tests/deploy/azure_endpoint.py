"""A stand-in for Azure's REST endpoint, on loopback, for the real clients of its SDK.

It keeps resources by their path, answers creations and deletions as long-running operations, and
refuses what it is told to refuse. The SDK's own policies, pollers and (de)serialisers are all in
play; only the transport sends ``https://management.azure.com/...`` here.
"""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TOKEN = "a-token"


class Credential:
    """Hands out a token, as ``azure.identity`` does once somebody is signed in."""

    def __init__(self, token: str = TOKEN) -> None:
        self.token = token

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 3600)


class Transport(RequestsTransport):
    """Sends what is for Azure to the stand-in, and leaves the request as it was for the pollers."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base

    def send(self, request: Any, **options: Any) -> Any:
        wanted = request.url
        parts = urllib.parse.urlsplit(wanted)
        request.url = f"{self._base}{parts.path}?{parts.query}"
        request.headers["x-wanted-host"] = parts.netloc
        try:
            return super().send(request, **options)
        finally:
            request.url = wanted

    def __deepcopy__(self, memo: Any) -> Transport:
        return self


@dataclass
class Refusal:
    """What to answer instead, to requests whose ``"METHOD path"`` has the pattern in it."""

    pattern: str
    status: int
    code: str
    message: str = "refused by the test"
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1


@dataclass
class Endpoint:
    """What the stand-in holds and has seen.

    Attributes:
        resources: by path, in lower case.
        requests: ``"METHOD path"`` of all, in order.
        bodies: what was sent with a PUT, POST or PATCH, by path.
        refusals: for requests to come.
        failing: patterns of creations that are accepted and whose operation then fails.
        routes: further answers: a pattern of ``"METHOD path"``, and what answers it with
            ``(status, body)`` or ``(status, body, headers)``; the body is JSON, or text as it is.
        query: of the request that is being answered.
        headers: of that request.
        raw: the content of that request.
    """

    url: str = ""
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    bodies: dict[str, Any] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    routes: list[tuple[str, Callable[[Endpoint, re.Match[str], Any], tuple[Any, ...]]]] = field(
        default_factory=list
    )
    query: dict[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def transport(self) -> Transport:
        return Transport(self.url)

    def refuse(self, pattern: str, status: int, code: str, **more: Any) -> None:
        self.refusals.append(Refusal(pattern, status, code, **more))

    def made(self, kind: str) -> list[str]:
        """Names of the resources of a kind: the last part of their type."""
        parent = f"/{kind.lower()}/"
        return sorted(
            path.rpartition("/")[2]
            for path in self.resources
            if path.rpartition("/")[0].endswith(parent[:-1])
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        endpoint = self.server.endpoint
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        with endpoint.lock:
            endpoint.requests.append(f"{self.command} {path}")
            endpoint.query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
            endpoint.headers, endpoint.raw = self.headers, raw
            self._answer(endpoint, path, raw)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _handle

    def _answer(self, endpoint: Endpoint, path: str, raw: bytes) -> None:
        asked = f"{self.command} {path}"
        key = path.lower().rstrip("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and "sig" not in endpoint.query:
            self._refuse(401, "InvalidAuthenticationToken", "the access token is not accepted")
            return
        for refusal in endpoint.refusals:
            if refusal.times and re.search(refusal.pattern, asked, re.IGNORECASE):
                refusal.times -= 1
                self._refuse(refusal.status, refusal.code, refusal.message, refusal.headers)
                return
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw
        if body is not None:
            endpoint.bodies[key] = body
        for pattern, answer in endpoint.routes:
            matched = re.search(pattern, asked, re.IGNORECASE)
            if matched:
                self._send(*answer(endpoint, matched, body))
                return
        if key.startswith("/operations/"):
            self._send(200, endpoint.operations[key])
        elif self.command == "PUT":
            self._put(endpoint, path, body)
        elif self.command == "DELETE":
            self._delete(endpoint, key)
        elif self.command in ("GET", "HEAD"):
            self._get(endpoint, key)
        else:
            self._refuse(404, "NotFound", f"the stand-in knows no {asked}")

    def _put(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> None:
        key = path.lower().rstrip("/")
        fails = any(re.search(pattern, path, re.IGNORECASE) for pattern in endpoint.failing)
        existed = key in endpoint.resources
        kind = "/".join(re.findall(r"/providers/([^/]+)/(.+)", path)[-1]).split("/")
        resource = {
            **body,
            "id": path,
            "name": path.rpartition("/")[2],
            "type": "/".join([kind[0], *kind[1::2]]),
        }
        resource["properties"] = {**body.get("properties", {}), "provisioningState": "Succeeded"}
        operation = f"/operations/{len(endpoint.operations)}"
        if fails:
            resource["properties"]["provisioningState"] = "Failed"
            error = {"code": "ResourceDeploymentFailure", "message": "the test says that it fails"}
            endpoint.operations[operation] = {"status": "Failed", "error": error}
        else:
            endpoint.operations[operation] = {"status": "Succeeded"}
        endpoint.resources[key] = resource
        self._send(200 if existed else 201, resource, self._polled(operation))

    def _delete(self, endpoint: Endpoint, key: str) -> None:
        if key not in endpoint.resources:
            self._send(204, None)
            return
        for path in [p for p in endpoint.resources if p == key or p.startswith(f"{key}/")]:
            del endpoint.resources[path]
        operation = f"/operations/{len(endpoint.operations)}"
        endpoint.operations[operation] = {"status": "Succeeded"}
        self._send(202, None, {**self._polled(operation), "Location": self._url(operation)})

    def _get(self, endpoint: Endpoint, key: str) -> None:
        if key in endpoint.resources:
            self._send(200, endpoint.resources[key])
        elif re.search(r"/providers/[^/]+(/[^/]+/[^/]+)*/[^/]+$", key):
            inside = [p for p in endpoint.resources if p.rpartition("/")[0] == key]
            is_list = bool(inside) or len(key.partition("/providers/")[2].split("/")) % 2 == 0
            if is_list:
                self._send(200, {"value": [endpoint.resources[p] for p in inside]})
            else:
                self._refuse(404, "ResourceNotFound", f"there is no {key}")
        else:
            self._refuse(404, "ResourceNotFound", f"there is no {key}")

    def _polled(self, operation: str) -> dict[str, str]:
        return {"Azure-AsyncOperation": self._url(operation), "Retry-After": "0"}

    def _url(self, path: str) -> str:
        return f"https://{self.headers.get('x-wanted-host', 'management.azure.com')}{path}"

    def _refuse(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send(status, {"error": {"code": code, "message": message}}, headers)

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        if body is None:
            data = b""
        elif isinstance(body, (bytes, str)):
            data = body.encode() if isinstance(body, str) else body
        else:
            data = json.dumps(body).encode()
        self.send_response(status)
        is_text = isinstance(body, (bytes, str))
        kind = "text/plain" if is_text else "application/json"
        self.send_header("Content-Type", (headers or {}).get("Content-Type", kind))
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            if name == "Content-Type":
                continue
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = endpoint


@contextmanager
def azure_endpoint() -> Iterator[Endpoint]:
    """Runs a stand-in while the block lasts."""
    endpoint = Endpoint()
    server = _Server(endpoint)
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
