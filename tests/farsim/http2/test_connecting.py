"""Where there is no server, or one of another kind: as gRPC's own client has it."""

from __future__ import annotations

import socket

import pytest

from farsim.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FarsimError,
    LimitExceeded,
    ServerUnavailable,
    Unsupported,
)
from farsim.http2 import frames
from tests.farsim.http2.callers import TRANSPORTS, answering, failure, replying


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_there(transport: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        error = failure(transport, address, "Echo")
    assert isinstance(error, ServerUnavailable)
    assert "onnect" in error.message and "refused" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_such_name(transport: str) -> None:
    """One that nobody has to be asked about."""
    assert isinstance(failure(transport, "a..b:1", "Echo"), ServerUnavailable)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_silent_port(transport: str) -> None:
    with answering(None) as address:
        error = failure(transport, address, "Echo", connect_seconds=0.5)
    assert isinstance(error, DeadlineExceeded)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
)
def test_servers_of_another_kind(transport: str, said: bytes) -> None:
    with answering(said) as address:
        assert isinstance(failure(transport, address, "Echo", connect_seconds=2), ServerUnavailable)


HTTP_ANSWERS: dict[str, tuple[list[tuple[str, str]], type[FarsimError]]] = {
    "503": ([(":status", "503")], ServerUnavailable),
    "404": ([(":status", "404")], Unsupported),
    "401": ([(":status", "401")], AuthenticationFailed),
    "500": ([(":status", "500")], ServerUnavailable),
    "status missing": (
        [(":status", "200"), ("content-type", "application/grpc")],
        ServerUnavailable,
    ),
    "odd status": (
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "x")],
        ServerUnavailable,
    ),
    "unknown status": (
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "99")],
        ServerUnavailable,
    ),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("fields", "expected"), HTTP_ANSWERS.values(), ids=HTTP_ANSWERS)
def test_answers_of_http(
    transport: str, fields: list[tuple[str, str]], expected: type[FarsimError]
) -> None:
    said = frames.settings([]) + frames.headers(1, frames.END_STREAM, fields, 16_384)
    with replying(said) as address:
        assert type(failure(transport, address, "Echo", connect_seconds=2)) is expected


def test_a_web_page() -> None:
    said = frames.settings([]) + frames.headers(
        1, 0, [(":status", "200"), ("content-type", "text/html")], 16_384
    )
    with replying(said) as address:
        error = failure("direct", address, "Echo")
        assert isinstance(error, ServerUnavailable)
        assert "content-type: 'text/html'" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (frames.NO_ERROR, ServerUnavailable),
        (frames.PROTOCOL_ERROR, ServerUnavailable),
        (frames.REFUSED_STREAM, ServerUnavailable),
        (frames.CANCEL, ServerUnavailable),
        (frames.ENHANCE_YOUR_CALM, LimitExceeded),
        (frames.INADEQUATE_SECURITY, AuthenticationFailed),
    ],
)
def test_resets(transport: str, code: int, expected: type[FarsimError]) -> None:
    with replying(frames.settings([]) + frames.reset(1, code)) as address:
        assert type(failure(transport, address, "Echo", connect_seconds=2)) is expected
