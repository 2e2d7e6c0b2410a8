"""TLS with gRPC's own servers, and where it fails, beside gRPC's own client."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from farsim.channel import ConnectionOptions
from farsim.errors import AuthenticationFailed, DeadlineExceeded, InvalidOption, ServerUnavailable
from farsim.http2.client import Client
from tests.farsim.http2.callers import (
    RESTLESS,
    RUN,
    SECONDS,
    TRANSPORTS,
    answering,
    call,
    connected,
    credentials,
    failure,
    own_certificate,
)
from tests.farsim.http2.echo import KINDS, echo


@pytest.mark.parametrize("kind", KINDS)
def test_tls(folder: Path, kind: str) -> None:
    options = {"tls_ca": str(folder / "ca.pem")}
    with echo(kind, credentials=credentials(folder), **RESTLESS) as server:
        for host in ("127.0.0.1", "localhost"):
            address = f"{host}:{server.port}"
            assert call("direct", address, "Echo", b"x", **options) == b"x"
        with connected(server.address, **options) as client:
            large = os.urandom(1 << 20) * 20
            client.open(RUN)
            for request in (b"", b"x", large):
                client.put(request)
                assert client.take(SECONDS) == request
            for number in range(100):
                client.put(b"%d" % number)
            assert [client.take(SECONDS) for _ in range(100)] == [b"%d" % n for n in range(100)]
            with pytest.raises(TimeoutError):
                client.take(0.01)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls_under_another_name(transport: str, folder: Path) -> None:
    other = folder / "other"
    options = {"tls_ca": str(other / "ca.pem")}
    with echo(credentials=credentials(other)) as server:
        named = {**options, "tls_server_name": "sim.test"}
        assert call(transport, server.address, "Echo", b"x", **named) == b"x"
        for wrong in (options, {**options, "tls_server_name": "sim.example"}):
            error = failure(transport, server.address, "Echo", **wrong)
            assert isinstance(error, AuthenticationFailed)
            assert "Check 'tls_ca'" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls_of_another_authority(transport: str, folder: Path) -> None:
    with echo(credentials=credentials(folder)) as server:
        options = {"tls_ca": str(folder / "other" / "ca.pem")}
        error = failure(transport, server.address, "Echo", **options)
        assert isinstance(error, AuthenticationFailed)
        assert "ertificate" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", KINDS)
def test_mutual_tls(transport: str, kind: str, folder: Path) -> None:
    options = {"tls_ca": str(folder / "ca.pem")}
    with echo(kind, credentials=credentials(folder, mutual=True)) as server:
        assert call(transport, server.address, "Echo", b"x", **options, **own_certificate(folder))
        for wrong in ({}, own_certificate(folder / "other")):
            error = failure(transport, server.address, "Echo", **options, **wrong)
            assert isinstance(error, ServerUnavailable)
            assert "'tls_cert' and 'tls_key'" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_mutual_tls_with_a_server_that_says_what_it_misses(
    transport: str, version: ssl.TLSVersion, folder: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    options = {"tls_ca": str(folder / "ca.pem"), "connect_seconds": 2}
    with answering(b"", context) as address:
        for wrong in ({}, own_certificate(folder / "other")):
            error = failure(transport, address, "Echo", **options, **wrong)
            assert isinstance(error, AuthenticationFailed)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tls_server_reached_without_tls(transport: str, folder: Path) -> None:
    with echo(credentials=credentials(folder)) as server:
        error = failure(transport, server.address, "Echo")
    assert isinstance(error, ServerUnavailable)
    assert "set 'tls_ca'" in error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_without_tls_reached_with_it(transport: str, folder: Path) -> None:
    with echo() as server:
        error = failure(transport, server.address, "Echo", tls_ca=str(folder / "ca.pem"))
    assert isinstance(error, AuthenticationFailed)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_silent_port_reached_with_tls(transport: str, folder: Path) -> None:
    with answering(None) as address:
        options = {"tls_ca": str(folder / "ca.pem"), "connect_seconds": 0.5}
        error = failure(transport, address, "Echo", **options)
    assert isinstance(error, DeadlineExceeded)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_that_hangs_up_on_tls(transport: str, folder: Path) -> None:
    with answering(b"") as address:
        options = {"tls_ca": str(folder / "ca.pem"), "connect_seconds": 2}
        error = failure(transport, address, "Echo", **options)
    assert isinstance(error, AuthenticationFailed)


@pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key", "token_file"])
def test_files_that_are_not_what_they_should_be(name: str, folder: Path, tmp_path: Path) -> None:
    good = {"tls_ca": str(folder / "ca.pem"), **own_certificate(folder)}
    with pytest.raises(InvalidOption, match=f"{name}: cannot read"):
        Client("127.0.0.1:1", ConnectionOptions.of({**good, name: str(tmp_path / "gone")}))
    (tmp_path / "wrong").write_text("\n")
    wrong = ConnectionOptions.of({**good, name: str(tmp_path / "wrong")})
    with pytest.raises(InvalidOption, match=r"holds no|are no certificate"):
        Client("127.0.0.1:1", wrong)
