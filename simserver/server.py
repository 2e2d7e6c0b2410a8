"""One server process: port, transport security, health, reflection, metrics, signals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from farsim import serving
from farsim.protocol import SERVICE
from farsim.serving import (
    ListenOptions,
    TokenCheck,
    channel_options,
    check_listening,
    listen,
    metrics_at,
    tls_context,
)
from farsim.v1 import simulator_pb2
from simserver.attach import Attachment
from simserver.catalogue import Entry
from simserver.direct.front import Front
from simserver.direct.relay import Upstream
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.service import SimulatorService

logger = logging.getLogger(__name__)

#: How long what has been said at the end may take to arrive.
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True)
class ServerOptions(ListenOptions):
    """How a server listens, whom it lets in and what for.

    Attributes:
        debug: whether tracebacks reach clients.
        limits: what clients may use together.
        spin_seconds: how long waiting for a session's next request may keep the processor awake;
            see ``farsim.http2.spin``.
    """

    debug: bool = False
    limits: Limits = field(default_factory=Limits)
    spin_seconds: float = 0.0


class Server:
    """Serves simulators at one address until it is told to stop.

    Args:
        entries: the simulators by name.
        address: ``host:port``; port 0 takes a free one.
        options: how.

    Raises:
        InsecureAddress: ``address`` is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
        OSError: a certificate or key can not be read.
    """

    def __init__(self, entries: Mapping[str, Entry], address: str, options: ServerOptions) -> None:
        self._options = options
        self.metrics = Metrics()
        limits = options.limits
        self._service = SimulatorService(entries, limits, self.metrics, options.debug)
        self._health = health.HealthServicer()
        token_check = TokenCheck(options.token) if options.token else None
        self._grpc = grpc.server(
            # A stream holds a thread as long as it lives; health and description need a few.
            futures.ThreadPoolExecutor(2 * limits.max_sessions + 8, "grpc"),
            interceptors=(token_check,) if token_check else (),
            options=channel_options(limits.max_message_bytes),
        )
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        name = simulator_pb2.DESCRIPTOR.services_by_name["Simulator"].full_name
        reflection.enable_server_reflection(
            (name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        self._front: Front | None = None
        try:
            upstream = Upstream(self._grpc)
        except OSError as error:
            logger.warning("gRPC answers all clients: %s", error)
            self.address = listen(self._grpc, address, options)
        else:
            check_listening(address, options)
            tls = tls_context(options)
            self._front = Front(
                upstream, self._service, address, limits, tls, token_check, options.spin_seconds
            )
            self.address = self._front.address
        self._stop = threading.Event()

    def start(self) -> None:
        """Begins to serve, and says so to health checks."""
        self._grpc.start()
        if self._front is not None:
            self._front.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains."""
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stop.wait(1.0):
            pass
        self._health.enter_graceful_shutdown()
        self._service.drain(self._options.grace_seconds)
        self._grpc.stop(_FAREWELL_SECONDS).wait()
        if self._front is not None:
            self._front.close(_FAREWELL_SECONDS)

    def stop(self, *_: Any) -> None:
        """Tells ``run_until_stopped`` to drain and return; fit for a signal handler."""
        self._stop.set()


def run(
    server: Server | Attachment,
    metrics_address: str = "",
    ready: Callable[[str], None] = lambda address: None,
    parent: int = 0,
) -> None:
    """As ``farsim.serving.run``, with Prometheus metrics at ``metrics_address`` if not empty."""

    def expose() -> None:
        if metrics_address:
            from prometheus_client import start_http_server

            registry = server.metrics.registry
            metrics_at(metrics_address, lambda port, host: start_http_server(port, host, registry))

    serving.run(server, expose, ready, parent)
