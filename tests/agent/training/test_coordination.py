"""Waiting for real servers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from agent.training.coordination import wait_for_servers
from farsim import certs
from farsim.errors import AuthenticationFailed, ServerUnavailable
from tests.servers import Serving, serving

#: Nobody listens there.
NOWHERE = "127.0.0.1:1"


def waited(addresses: list[str], connection: dict[str, str], seconds: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=200)
    wait_for_servers(addresses, connection, seconds, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_that_are_there(shared_server: Serving):
    assert "all 1 servers are there" in waited(shared_server.addresses, {})


def test_those_missing_are_named(shared_server: Serving):
    with pytest.raises(ServerUnavailable, match="1 of 2 simulator servers") as raised:
        waited([*shared_server.addresses, NOWHERE], {})
    assert NOWHERE in raised.value.message
    assert shared_server.address not in raised.value.message


def test_a_certificate_that_is_not_trusted_is_not_waited_for(tmp_path: Path):
    for name in ("here", "elsewhere"):
        certs.make_certificates(tmp_path / name, ["localhost", "127.0.0.1"])
    server_files = {"--tls-cert": certs.SERVER, "--tls-key": certs.SERVER_KEY}
    arguments = [
        text
        for flag, name in server_files.items()
        for text in (flag, str(tmp_path / "here" / name))
    ]
    with serving("adder", *arguments) as server:
        trusted = {"tls_ca": str(tmp_path / "here" / certs.CA)}
        assert "all 1 servers" in waited(server.addresses, trusted)
        other = {"tls_ca": str(tmp_path / "elsewhere" / certs.CA)}
        with pytest.raises(AuthenticationFailed, match="no secure connection"):
            waited(server.addresses, other, seconds=3600)
