"""One server process: port, transport security, health, reflection, metrics, signals."""

from __future__ import annotations

import hmac
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from farsim.addresses import is_loopback
from farsim.errors import FarsimError, InvalidAddress
from farsim.protocol import SERVICE
from farsim.v1 import simulator_pb2
from simserver.catalogue import Entry
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.service import SimulatorService

logger = logging.getLogger(__name__)


class InsecureAddress(FarsimError, PermissionError):
    """An address beyond this machine, without TLS."""


class InvalidCertificate(FarsimError, ValueError):
    """A certificate or key that is none, or two that do not belong together."""


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens and whom it lets in.

    Attributes:
        tls_cert: PEM file with the server's certificate chain; TLS needs it and ``tls_key``.
        tls_key: PEM file with its private key.
        tls_client_ca: PEM file; clients must show a certificate that one of its authorities
            signed (mutual TLS).
        token: clients must send it as ``authorization: Bearer <token>``.
        insecure: whether plain text is fine beyond this machine.
        grace_seconds: how long requests being carried out may take to finish on SIGTERM.
        debug: whether tracebacks reach clients.
        limits: what clients may use together.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token: str = field(default="", repr=False)
    insecure: bool = False
    grace_seconds: float = 10.0
    debug: bool = False
    limits: Limits = field(default_factory=Limits)


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
        host, _, _ = address.rpartition(":")
        credentials = _credentials(options)
        if credentials is None and not options.insecure and not is_loopback(address):
            raise InsecureAddress(
                f"{address} can be reached from other machines, and without TLS anyone on the way "
                "could read and change what is sent: give --tls-cert and --tls-key ('farsim certs' "
                "makes them), or --insecure if the network itself is protected",
                address,
            )
        if credentials is not None and not options.token and options.tls_client_ca is None:
            logger.warning(
                "whoever reaches %s can use it: TLS hides what is sent but lets anyone in; "
                "give --tls-client-ca or --token-file",
                address,
            )
        self._service = SimulatorService(entries, limits, self.metrics, options.debug)
        self._health = health.HealthServicer()
        self._grpc = grpc.server(
            # A stream holds a thread as long as it lives; health and description need a few.
            futures.ThreadPoolExecutor(2 * limits.max_sessions + 8, "grpc"),
            interceptors=(_TokenCheck(options.token),) if options.token else (),
            options=_channel_options(limits),
        )
        self._grpc.add_generic_rpc_handlers((self._service.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        name = simulator_pb2.DESCRIPTOR.services_by_name["Simulator"].full_name
        reflection.enable_server_reflection(
            (name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc
        )
        self.address = self._listen(address, host, credentials)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begins to serve, and says so to health checks."""
        self._grpc.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains."""
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stop.wait(1.0):
            pass
        self._health.enter_graceful_shutdown()
        self._service.drain(self._options.grace_seconds)
        self._grpc.stop(1.0).wait()

    def stop(self, *_: Any) -> None:
        """Tells ``run_until_stopped`` to drain and return; fit for a signal handler."""
        self._stop.set()

    def _listen(self, address: str, host: str, credentials: grpc.ServerCredentials | None) -> str:
        try:
            if credentials is None:
                port = self._grpc.add_insecure_port(address)
            else:
                port = self._grpc.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InvalidAddress(
                f"can not listen on {address}: is the port taken, or the address not this "
                f"machine's? ({error})",
                address,
            ) from error
        return f"{host}:{port}"


def run(
    server: Server,
    metrics_address: str = "",
    ready: Callable[[str], None] = lambda address: None,
    parent: int = 0,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Call it from the main thread.

    Args:
        server: which.
        metrics_address: ``host:port`` for Prometheus; empty for none.
        ready: called with the bound address once clients can connect.
        parent: also stop when this process is no longer the parent; 0 for not.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    if parent:
        stop_with_parent(parent, server.stop)
    if metrics_address:
        from prometheus_client import start_http_server

        host, _, port = metrics_address.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), server.metrics.registry)
        except (OSError, OverflowError) as error:
            raise InvalidAddress(
                f"can not serve metrics on {metrics_address}: {error}; choose another "
                "--metrics-port",
                metrics_address,
            ) from error
    server.start()
    ready(server.address)
    server.run_until_stopped()


def stop_with_parent(parent: int, stop: Callable[[], None]) -> None:
    """Calls ``stop`` once the process ``parent``, which started this one, has gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        print("farsim: the process that started this server has gone", file=sys.stderr)
        stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()


class _TokenCheck(grpc.ServerInterceptor):
    """Lets in calls with the right bearer token, and health checks, which say only up or down."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refuse = grpc.unary_unary_rpc_method_handler(self._abort)
        self._refuse_stream = grpc.stream_stream_rpc_method_handler(self._abort)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return continuation(details)
        sent = dict(details.invocation_metadata).get("authorization", "")
        if hmac.compare_digest(str(sent).encode(), self._expected):
            return continuation(details)
        handler = continuation(details)
        streams = handler is not None and handler.request_streaming
        return self._refuse_stream if streams else self._refuse

    @staticmethod
    def _abort(_: Any, context: grpc.ServicerContext) -> None:
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "the bearer token is missing or wrong: send the one in the server's --token-file",
        )


def _credentials(options: ServerOptions) -> grpc.ServerCredentials | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    try:
        # gRPC says nothing of what is wrong with them.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
        if options.tls_client_ca is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(options.tls_client_ca)
    except ssl.SSLError as error:
        files = f"{options.tls_cert}, {options.tls_key}"
        files += f" or {options.tls_client_ca}" if options.tls_client_ca else ""
        raise InvalidCertificate(
            f"{files} can not be used: {error.reason or error}; they must be PEM files, and the "
            "key must belong to the certificate",
            str(options.tls_cert),
        ) from error
    client_ca = options.tls_client_ca.read_bytes() if options.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(options.tls_key.read_bytes(), options.tls_cert.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )


def _channel_options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        # A reply over the bound becomes an error reply; this is for that one's frame.
        ("grpc.max_send_message_length", limits.max_message_bytes + 65536),
        # Without this two servers could share a port, and sessions would be lost between them.
        ("grpc.so_reuseport", 0),
        # Notice clients that vanished without a word, and let clients do the same.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
