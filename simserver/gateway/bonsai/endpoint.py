"""The REST side of the gateway: the simulator API, version 2, as ``microsoft-bonsai-api`` asks.

POST   /v2/workspaces/{workspace}/simulatorSessions               register
GET    /v2/workspaces/{workspace}/simulatorSessions               list
GET    /v2/workspaces/{workspace}/simulatorSessions/{id}          one of them
DELETE /v2/workspaces/{workspace}/simulatorSessions/{id}          unregister
POST   /v2/workspaces/{workspace}/simulatorSessions/{id}/advance  a state, for the next event
GET    /v2/workspaces/{workspace}/simulatorSessions/{id}/action   the last event
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from farsim.errors import FarsimError, InvalidArgument
from farsim.http_server import HttpServer
from farsim.serving import ListenOptions
from simserver.gateway.bonsai.registered import Event, Registered, State, event
from simserver.gateway.bonsai.workspace import UnknownSession, Workspace

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 16 * 1024 * 1024
#: Each simulator has one, and a thread for it.
_MAX_CONNECTIONS = 4096
#: A connection that is silent for so long is closed; simulators may take long for a step.
_SILENT_SECONDS = 900.0
_LAST_ANSWERS_SECONDS = 2.0
_PATH = re.compile(r"/v2/workspaces/([^/]+)/simulatorSessions(?:/([^/]+)(?:/(advance|action))?)?/?")

Reply = tuple[HTTPStatus, Any]


class Endpoint:
    """Serves the simulator API until it is stopped.

    Args:
        address: ``host:port``; port 0 takes a free one.
        options: who may reach it; their token is the access key.
        workspace: where simulators register.

    Attributes:
        address: with the port that was bound.

    Raises:
        As ``HttpServer``.
    """

    def __init__(self, address: str, options: ListenOptions, workspace: Workspace) -> None:
        endpoint = self

        class Handler(_Handler):
            api = endpoint

        self.workspace = workspace
        self._access_key = options.token
        self._server = HttpServer(address, Handler, options, _MAX_CONNECTIONS)
        self.address = self._server.address
        self._quiet = threading.Condition()
        self._at_work = 0

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def stop(self) -> None:
        """Lets requests that are being answered have their answers, and closes all connections."""
        with self._quiet:
            self._quiet.wait_for(lambda: not self._at_work, _LAST_ANSWERS_SECONDS)
        self._server.stop()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Around everything that is done for a request."""
        with self._quiet:
            self._at_work += 1
        try:
            yield
        finally:
            with self._quiet:
                self._at_work -= 1
                self._quiet.notify_all()

    def lets_in(self, authorization: str) -> bool:
        """Whether a request with this header may ask."""
        key = self._access_key
        return not key or hmac.compare_digest(authorization.encode(), key.encode())

    def answer(self, method: str, target: str, body: Callable[[], Any]) -> Reply:
        """The status and the JSON for one request.

        Raises:
            FarsimError: it can not be granted.
        """
        path = urlsplit(target)
        match = _PATH.fullmatch(path.path)
        if match is None:
            raise UnknownSession(f"no page {path.path}")
        session_id, what = unquote(match[2] or ""), match[3] or ""
        match method, bool(session_id), what:
            case "POST", False, "":
                interface = body()
                return HTTPStatus.CREATED, _session(self.workspace.register(interface))
            case "GET", False, "":
                wanted = dict(parse_qsl(path.query))
                summaries = [_summary(each) for each in self.workspace.all()]
                return HTTPStatus.OK, [each for each in summaries if _matches(each, wanted)]
            case "GET", True, "":
                return HTTPStatus.OK, _session(self.workspace.find(session_id))
            case "DELETE", True, "":
                registered = self.workspace.find(session_id)
                self.workspace.remove(registered, "Finished", "it unregistered")
                return HTTPStatus.NO_CONTENT, None
            case "GET", True, "action":
                last = self.workspace.find(session_id).last_event()
                if last is None:
                    raise UnknownSession("it has had no event yet", session_id)
                return HTTPStatus.OK, last
            case "POST", True, "advance":
                return HTTPStatus.OK, self._advance(session_id, body())
        raise UnknownSession(f"no {method} of {path.path}")

    def _advance(self, session_id: str, document: Mapping[str, Any]) -> Event:
        sequence, halted = document.get("sequenceId"), document.get("halted")
        if not isinstance(sequence, int) or isinstance(sequence, bool):
            raise InvalidArgument(f"sequenceId is {sequence!r}, not a number", "sequenceId")
        state = State(document.get("state"), bool(halted), str(document.get("error") or ""))
        try:
            registered = self.workspace.find(session_id)
        except UnknownSession as error:
            # The API has an event for it, on which simulators register anew.
            content = {"reason": "NotFound", "details": error.message}
            return event("Unregister", session_id, sequence, content)
        return registered.advance(sequence, state, self.workspace.waits.idle)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "farsim"
    sys_version = ""
    timeout = _SILENT_SECONDS
    # Replies are written at once, or the simulator's system would wait for the rest.
    wbufsize = -1
    disable_nagle_algorithm = True
    api: Endpoint

    def do_GET(self) -> None:
        """Sessions."""
        with self.api.at_work():
            self._carry_out("GET")

    def do_POST(self) -> None:
        """Registering and advancing."""
        with self.api.at_work():
            self._carry_out("POST")

    def do_DELETE(self) -> None:
        """Unregistering."""
        with self.api.at_work():
            self._carry_out("DELETE")

    def _carry_out(self, method: str) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY_BYTES:
            # The body has not been read, and must not be taken for the next request.
            self.close_connection = True
            text = f"send Content-Length, of {_MAX_BODY_BYTES} bytes at most"
            self._problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            return
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            self.close_connection = True  # The simulator was stopped while it wrote.
            return
        if not self.api.lets_in(self.headers.get("Authorization", "")):
            text = "the access key is missing or wrong: set SIM_ACCESS_KEY to the gateway's"
            self._problem(HTTPStatus.UNAUTHORIZED, text)
            return
        try:
            status, document = self.api.answer(method, self.path, lambda: _document(raw))
        except UnknownSession as error:
            self._problem(HTTPStatus.NOT_FOUND, error.message)
        except FarsimError as error:
            logger.warning("refused: %s", error)
            self._problem(HTTPStatus.BAD_REQUEST, error.message)
        else:
            self._reply(status, document)

    def _problem(self, status: HTTPStatus, details: str) -> None:
        problem = {"title": status.phrase, "status": int(status), "detail": details}
        self._reply(status, problem, "application/problem+json")

    def _reply(self, status: HTTPStatus, document: Any, kind: str = "application/json") -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug(format, *arguments)


def _document(raw: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidArgument("the body is no JSON object")
    return document


def _status(registered: Registered) -> str:
    return "Attached" if registered.attached else "Attachable"


def _context(registered: Registered) -> dict[str, Any]:
    """What the simulator's context, a string that should hold JSON, says."""
    try:
        context = json.loads(registered.interface.get("simulatorContext") or "{}")
    except (TypeError, ValueError):
        context = {}
    context = context if isinstance(context, dict) else {}
    return {"deploymentMode": "Unspecified", **context}


def _summary(registered: Registered) -> dict[str, Any]:
    return {
        "sessionId": registered.session_id,
        "sessionStatus": _status(registered),
        "simulatorName": registered.kind.name,
        "simulatorContext": _context(registered),
    }


def _matches(summary: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether a list with these filters, each perhaps with "neq:" before it, has the session."""
    context = summary["simulatorContext"]
    actual = {
        "session_status": summary["sessionStatus"],
        "deployment_mode": context["deploymentMode"],
        "collection": context.get("collection"),
        "package": context.get("package"),
    }
    return all(
        (actual[name] == value.removeprefix("neq:")) != value.startswith("neq:")
        for name, value in wanted.items()
        if name in actual
    )


def _session(registered: Registered) -> dict[str, Any]:
    def moment(when: Any) -> str:
        return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    return {
        "sessionId": registered.session_id,
        "sessionStatus": _status(registered),
        "interface": dict(registered.interface),
        "simulatorContext": _context(registered),
        "registrationTime": moment(registered.registered_at),
        "lastSeenTime": moment(registered.seen_at),
        "lastIteratedTime": moment(registered.iterated_at),
    }
