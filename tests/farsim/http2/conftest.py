"""Servers and certificates for clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farsim.certs import make_certificates
from tests.farsim.http2.echo import KINDS, Echo, echo


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Echo]:
    with echo(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for ``localhost`` and 127.0.0.1, and in ``other`` by another authority."""
    folder = tmp_path_factory.mktemp("certs")
    make_certificates(folder, ["localhost", "127.0.0.1"], days=1)
    make_certificates(folder / "other", ["sim.test"], days=1)
    return folder
