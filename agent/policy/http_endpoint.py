"""Actions over HTTP and JSON, for people with ``curl``.

GET  /         what is served
GET  /health   200 while actions are to be had
POST /act      {"observation": ..., "policy": "", "action_mask": [...], "greedy": true,
                "version": 0, "state": "..."}; all but the observation may be left out
POST /         {"state": <observation>}: the action alone, as agents deployed with Plato do it
"""

from __future__ import annotations

import hmac
import json
import logging
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from agent.policy.json_questions import JsonQuestions
from farsim.errors import (
    DeadlineExceeded,
    Draining,
    FarsimError,
    InvalidArgument,
    InvalidObservation,
    InvalidTensor,
    UnknownPolicy,
)
from farsim.http_server import HttpServer
from farsim.serving import ListenOptions

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 16 * 1024 * 1024
_MAX_CONNECTIONS = 256
#: A connection that is silent for so long is closed.
_SILENT_SECONDS = 60.0

#: What went wrong, for HTTP; all other errors of clients are 400.
_STATUS = {
    UnknownPolicy: HTTPStatus.NOT_FOUND,
    Draining: HTTPStatus.SERVICE_UNAVAILABLE,
    DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
}
_CLIENTS = (InvalidArgument, InvalidObservation, InvalidTensor)


def failure(error: FarsimError) -> tuple[HTTPStatus, dict[str, Any]]:
    """How an error is told over HTTP: its status, and the JSON."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, _CLIENTS):
        status = HTTPStatus.BAD_REQUEST
    kind = type(error).__name__
    document = {"kind": kind, "message": error.message, "subject": error.subject}
    return _STATUS.get(type(error), status), {"error": document}


class HttpEndpoint:
    """Serves actions over HTTP until it is stopped.

    Args:
        address: ``host:port``; port 0 takes a free one.
        options: who may reach it, as for gRPC; mutual TLS included.
        questions: what is asked, in JSON.

    Attributes:
        address: with the port that was bound.

    Raises:
        InsecureAddress: ``address`` is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
    """

    def __init__(
        self,
        address: str,
        options: ListenOptions,
        questions: JsonQuestions,
    ) -> None:
        self._server = _Server(address, _Handler, options, _MAX_CONNECTIONS)
        self._server.endpoint = self
        self.questions = questions
        self._token = options.token
        self.address = self._server.address

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def stop(self) -> None:
        """Takes no more connections, and closes those that there are."""
        self._server.stop()

    def lets_in(self, authorization: str) -> bool:
        """Whether a request with this header may ask."""
        expected = f"Bearer {self._token}".encode()
        return not self._token or hmac.compare_digest(authorization.encode(), expected)


class _Server(HttpServer):
    endpoint: HttpEndpoint


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "farsim"
    sys_version = ""
    timeout = _SILENT_SECONDS
    # Replies are written at once, or the client's system would wait for the rest.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Any
    _routes: ClassVar[dict[str, str]] = {"/act": "act", "/": "act_alone"}

    def do_GET(self) -> None:
        """What is served, and whether."""
        if not self._is_let_in():
            return
        if self.path == "/health":
            self._reply(HTTPStatus.OK, {"status": "serving"})
        elif self.path == "/":
            self._reply(HTTPStatus.OK, self.server.endpoint.questions.describe())
        else:
            self._fail(HTTPStatus.NOT_FOUND, InvalidArgument(f"no page {self.path}"))

    def do_POST(self) -> None:
        """Actions."""
        if not self._is_let_in():
            return
        method = self._routes.get(self.path)
        if method is None:
            self._fail(HTTPStatus.NOT_FOUND, InvalidArgument("POST to /act, or to /", self.path))
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self._fail(HTTPStatus.LENGTH_REQUIRED, InvalidArgument("send Content-Length"))
            return
        if int(length) > _MAX_BODY_BYTES:
            error = InvalidArgument(f"more than {_MAX_BODY_BYTES} bytes")
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error)
            return
        body = self.rfile.read(int(length))
        try:
            try:
                document = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise InvalidArgument(f"the body is no JSON: {error}") from error
            self._reply(HTTPStatus.OK, getattr(self.server.endpoint.questions, method)(document))
        except FarsimError as error:
            self._fail(failure(error)[0], error, keeps=True)

    def _is_let_in(self) -> bool:
        if self.path == "/health" or self.server.endpoint.lets_in(
            self.headers.get("Authorization", "")
        ):
            return True
        self._fail(
            HTTPStatus.UNAUTHORIZED,
            InvalidArgument("send the header 'Authorization: Bearer <token>'", "token"),
        )
        return False

    def _fail(self, status: HTTPStatus, error: FarsimError, keeps: bool = False) -> None:
        # Where the body has not been read, it must not be taken for the next request.
        self.close_connection = self.close_connection or not keeps
        self._reply(status, failure(error)[1])

    def _reply(self, status: HTTPStatus, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)
