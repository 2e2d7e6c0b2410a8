"""The client against gRPC's own servers; what goes wrong, beside gRPC's own client."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import grpc
import pytest

from agent.connection import connection_to
from farsim.channel import ConnectionOptions, translate
from farsim.errors import (
    DeadlineExceeded,
    InvalidOption,
    LimitExceeded,
    MessageTooLarge,
    ServerUnavailable,
    Unsupported,
)
from farsim.http2.client import Client, can_reach
from tests.farsim.http2.callers import RUN, SECONDS, TRANSPORTS, call, connected, failure
from tests.farsim.http2.echo import KINDS, SERVICE, Echo, echo


def test_unary_calls_and_a_stream_on_one_connection(server: Echo) -> None:
    with connected(server.address) as client:
        for request in (b"", b"x", bytes(70_000)):
            assert client.call(f"{SERVICE}/Echo", request, SECONDS) == request
        client.open(RUN)
        for request in (b"", b"x", bytes(70_000)):
            client.put(request)
            assert client.take(SECONDS) == request
        for number in range(100):
            client.put(b"%d" % number)
        assert [client.take(SECONDS) for _ in range(100)] == [b"%d" % n for n in range(100)]
        with pytest.raises(TimeoutError):
            client.take(0.01)
        client.put(b"end")
        assert client.take(SECONDS) is None
        # After a stream that the server ended before this end did.
        assert client.call(f"{SERVICE}/Echo", b"y", SECONDS) == b"y"


def test_large_messages(server: Echo) -> None:
    large = os.urandom(1 << 20) * 20
    with connected(server.address) as client:
        client.open(RUN)
        client.put(large)
        assert client.take(SECONDS) == large
        client.put(large)
        client.put(b"small")
        assert [client.take(SECONDS), client.take(SECONDS)] == [large, b"small"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_metadata(transport: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" s3cret\n")
    with echo() as server:
        said = call(transport, server.address, "Metadata", token_file=str(tmp_path / "token"))
        assert b"('authorization', 'Bearer s3cret')" in said
    with echo() as server:
        client = Client(server.address, ConnectionOptions(), [("farsim-fleet", "a b")])
        client.connect(SECONDS)
        assert b"('farsim-fleet', 'a b')" in client.call(f"{SERVICE}/Metadata", b"", SECONDS)
        client.hang_up()


def test_a_farewell_is_heard(server: Echo) -> None:
    client = Client(server.address, ConnectionOptions())
    client.connect(SECONDS)
    client.open(RUN)
    client.put(b"x")
    client.hang_up(b"good bye")
    assert server.over.wait(SECONDS)
    client.hang_up(b"again")
    with pytest.raises(grpc.RpcError, match="this end has closed"):
        client.call(f"{SERVICE}/Echo", b"", SECONDS)


def test_ipv6() -> None:
    with echo(host="[::1]") as server:
        assert call("direct", server.address, "Echo", b"x") == b"x"


@pytest.mark.parametrize(
    ("address", "variables", "expected"),
    [
        ("sim:1", {}, True),
        ("10.0.0.1:1", {}, True),
        ("[::1]:1", {}, True),
        ("[fe80::1%eth0]:1", {}, True),
        ("sim", {}, False),
        ("unix:/tmp/socket", {}, False),
        ("unix:relative", {}, False),
        ("dns:///sim:1", {}, False),
        ("dns:sim:1", {}, False),
        ("sim:1", {"http_proxy": "http://proxy:3128"}, False),
        ("sim:1", {"https_proxy": "http://proxy:3128"}, False),
        ("sim:1", {"grpc_proxy": "http://proxy:3128"}, False),
        ("sim:1", {"grpc_proxy": ""}, True),
        ("sim:1", {"http_proxy": "http://proxy:3128", "no_proxy": "other,sim"}, True),
        ("a.sim:1", {"http_proxy": "http://proxy:3128", "no_proxy": "sim"}, True),
        ("sim:1", {"http_proxy": "http://proxy:3128", "no_proxy": "other"}, False),
    ],
)
def test_where_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch, address: str, variables: dict[str, str], expected: bool
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert can_reach(address) is expected
    if "/" not in address and "unix" not in address:
        assert (type(connection_to(address, ConnectionOptions())).__name__ == "_Direct") is expected


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_status(status: grpc.StatusCode, server: Echo) -> None:
    details = f"100 % of\n„{status.name}“ + 1"
    errors = [
        failure(transport, server.address, "Fail", f"{status.name}:{details}".encode())
        for transport in TRANSPORTS
    ]
    assert type(errors[0]) is type(errors[1])
    assert errors[0].message == errors[1].message
    assert details in errors[0].message
    with connected(server.address) as client:
        client.open(RUN)
        client.put(b"x")
        assert client.take(SECONDS) == b"x"
        client.put(f"fail {status.name}:{details}".encode())
        item = client.take(SECONDS)
        assert isinstance(item, grpc.RpcError)
        assert (item.code(), item.details()) == (status, details)
        # The connection lives on.
        assert client.call(f"{SERVICE}/Echo", b"y", SECONDS) == b"y"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_such_method(transport: str, server: Echo) -> None:
    assert isinstance(failure(transport, server.address, "Nothing"), Unsupported)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_messages_over_the_limits(transport: str, server: Echo) -> None:
    limits = {"max_message_bytes": 1_000}
    assert call(transport, server.address, "Echo", bytes(1_000), **limits) == bytes(1_000)
    received = failure(transport, server.address, "Blow", b"1001", **limits)
    assert isinstance(received, MessageTooLarge)
    assert "1001 vs. 1000" in received.message
    sent = failure(transport, server.address, "Echo", bytes(1_001), **limits)
    assert isinstance(sent, MessageTooLarge)
    assert "1001 vs. 1000" in sent.message


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1_001, 1 << 20])
def test_messages_over_the_servers_limit(transport: str, kind: str, size: int) -> None:
    with echo(kind, max_receive_message_length=1_000) as server:
        error = failure(transport, server.address, "Echo", bytes(size))
        assert isinstance(error, MessageTooLarge)
        assert f"{size} vs. 1000" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_servers_that_compress(transport: str, kind: str) -> None:
    gzip = grpc.Compression.Gzip
    with echo(kind, default_compression_algorithm=int(gzip)) as server:
        assert call(transport, server.address, "Blow", b"100000") == bytes(100_000)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("token", ["käse", "a\nb"])
def test_tokens_that_cannot_be_sent(transport: str, token: str) -> None:
    with pytest.raises(InvalidOption, match="'token' is printable ASCII"):
        call(transport, "127.0.0.1:1", "Echo", token=token)


def test_after_a_message_over_the_limit_to_send() -> None:
    with echo() as server, connected(server.address, max_message_bytes=100) as client:
        client.open(RUN)
        client.put(b"x")
        client.put(bytes(101))
        item = client.take(SECONDS)
        assert isinstance(item, grpc.RpcError)
        assert item.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.call(f"{SERVICE}/Echo", b"y", SECONDS) == b"y"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_details_that_are_too_long(transport: str, server: Echo) -> None:
    error = failure(transport, server.address, "Fail", b"NOT_FOUND:" + b"x" * 100_000)
    assert isinstance(error, LimitExceeded)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_deadline(transport: str, server: Echo) -> None:
    error = failure(transport, server.address, "Hang", connect_seconds=0.3)
    assert isinstance(error, DeadlineExceeded)
    # The server hears that nobody waits any more.
    assert server.over.wait(SECONDS)


@pytest.mark.parametrize("grace", [None, 0.1])
def test_a_server_that_stops(grace: float | None, server: Echo) -> None:
    with connected(server.address) as client:
        client.open(RUN)
        client.put(b"x")
        assert client.take(SECONDS) == b"x"
        stopping = threading.Thread(target=server.stop, args=(grace,))
        stopping.start()
        item = client.take(SECONDS)
        stopping.join(SECONDS)
        assert isinstance(item, grpc.RpcError)
        assert isinstance(translate(item, server.address), ServerUnavailable)
        with pytest.raises(grpc.RpcError) as caught:
            client.call(f"{SERVICE}/Echo", b"", SECONDS)
        assert isinstance(translate(caught.value, server.address), ServerUnavailable)


def test_a_server_that_stopped_between_calls(server: Echo) -> None:
    with connected(server.address) as client:
        assert client.call(f"{SERVICE}/Echo", b"x", SECONDS) == b"x"
        server.stop()
        with pytest.raises(grpc.RpcError) as caught:
            client.call(f"{SERVICE}/Echo", b"", SECONDS)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
