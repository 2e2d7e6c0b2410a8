"""The gateway as a whole: REST for simulators on one side, gRPC for learners on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simserver.gateway.bonsai.endpoint import Endpoint
from simserver.gateway.bonsai.kind import Rules
from simserver.gateway.bonsai.workspace import Waits, Workspace
from simserver.server import Server, ServerOptions


class Gateway:
    """Offers every simulator that registers as a Farsim simulator, until it is told to stop.

    Args:
        rules: for the simulators of each name; those of "" for all others.
        waits: how long for what.
        address: of the gRPC side, ``host:port``; port 0 takes a free one.
        http: of the REST side, likewise.
        options: how both listen. Client certificates and the token are for the gRPC side.
        access_key: what simulators must send; empty for anything.

    Attributes:
        address: of the gRPC side, with the port that was bound.
        http: of the REST side, likewise.

    Raises:
        FarsimError: the rules or an address can not be used.
    """

    def __init__(
        self,
        rules: Mapping[str, Rules],
        waits: Waits,
        address: str,
        http: str,
        options: ServerOptions,
        access_key: str = "",
    ) -> None:
        self.workspace = Workspace(rules, waits)
        self.server = Server(self.workspace.entries, address, options)
        rest = replace(options, tls_client_ca=None, token=access_key)
        self._endpoint = Endpoint(http, rest, self.workspace)
        self.address, self.http = self.server.address, self._endpoint.address

    def start(self) -> None:
        """Begins to serve."""
        self.server.start()
        self._endpoint.start()

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains, and tells simulators that it is over."""
        self.server.run_until_stopped()
        self.workspace.close()
        self._endpoint.stop()

    def stop(self, *_: Any) -> None:
        """Makes ``run_until_stopped`` return; fit for a signal handler."""
        self.workspace.stop_dealing()
        self.server.stop()
