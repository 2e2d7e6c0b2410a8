"""What every gRPC server here does alike: who may reach it, with what key, and how it stops."""

from __future__ import annotations

import hmac
import logging
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health

from farsim.addresses import check_one, is_loopback
from farsim.errors import FarsimError, InvalidAddress

logger = logging.getLogger(__name__)


class InsecureAddress(FarsimError, PermissionError):
    """An address beyond this machine, without TLS."""


class InvalidCertificate(FarsimError, ValueError):
    """A certificate or key that is none, or two that do not belong together."""


@dataclass(frozen=True)
class ListenOptions:
    """How a server listens and whom it lets in.

    Attributes:
        tls_cert: PEM file with the server's certificate chain; TLS needs it and ``tls_key``.
        tls_key: PEM file with its private key.
        tls_client_ca: PEM file; clients must show a certificate that one of its authorities
            signed (mutual TLS).
        token: clients must send it as ``authorization: Bearer <token>``.
        insecure: whether plain text is fine beyond this machine.
        grace_seconds: how long requests being carried out may take to finish on SIGTERM.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token: str = field(default="", repr=False)
    insecure: bool = False
    grace_seconds: float = 10.0


class Serving(Protocol):
    """A server that ``run`` can run."""

    address: str

    def start(self) -> None:
        """Begins to serve."""

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains."""

    def stop(self, *_: Any) -> None:
        """Makes ``run_until_stopped`` return; fit for a signal handler."""


def listen(server: Any, address: str, options: ListenOptions) -> str:
    """Adds ``address`` to a gRPC server, a synchronous or an asyncio one.

    Returns:
        The address with the port that was bound.

    Raises:
        InsecureAddress: ``address`` is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
        InvalidCertificate: the PEM files do not hold what they should.
        OSError: a certificate or key can not be read.
    """
    check_listening(address, options)
    host, _, _ = address.rpartition(":")
    credentials = _credentials(options)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise can_not_listen(address, error) from error
    return f"{host}:{port}"


def check_listening(address: str, options: ListenOptions) -> None:
    """Raises InsecureAddress or InvalidAddress as ``listen`` does, before anything is opened."""
    check_one(address, port_zero=True)
    secure = options.tls_cert is not None and options.tls_key is not None
    if not secure and not options.insecure and not is_loopback(address):
        raise InsecureAddress(
            f"{address} can be reached from other machines, and without TLS anyone on the way "
            "could read and change what is sent: give --tls-cert and --tls-key ('farsim certs' "
            "makes them), or --insecure if the network itself is protected",
            address,
        )
    if secure and not options.token and options.tls_client_ca is None:
        logger.warning(
            "whoever reaches %s can use it: TLS hides what is sent but lets anyone in; "
            "give --tls-client-ca or --token-file",
            address,
        )


def can_not_listen(address: str, error: Exception) -> InvalidAddress:
    """What to say when an address can not be bound."""
    return InvalidAddress(
        f"can not listen on {address}: is the port taken, or the address not this "
        f"machine's? ({error})",
        address,
    )


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """What gRPC is told by every server here."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        # A reply over the bound becomes an error reply; this is for that one's frame.
        ("grpc.max_send_message_length", max_message_bytes + 65536),
        # Without this two servers could share a port, and sessions would be lost between them.
        ("grpc.so_reuseport", 0),
        # Notice clients that vanished without a word, and let clients do the same.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def run(
    server: Serving,
    expose_metrics: Callable[[], object] = lambda: None,
    ready: Callable[[str], None] = lambda address: None,
    parent: int = 0,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Call it from the main thread.

    Args:
        server: which.
        expose_metrics: called before the server starts.
        ready: called with the bound address once clients can connect.
        parent: also stop when this process is no longer the parent; 0 for not.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    if parent:
        stop_with_parent(parent, server.stop)
    expose_metrics()
    server.start()
    ready(server.address)
    server.run_until_stopped()


def metrics_at(address: str, start: Callable[[int, str], object]) -> None:
    """Serves metrics at ``host:port`` by ``start(port, host)``, such as ``prometheus_client``'s.

    Raises:
        InvalidAddress: it can not be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        start(int(port), host.strip("[]"))
    except (OSError, OverflowError) as error:
        raise InvalidAddress(
            f"can not serve metrics on {address}: {error}; choose another --metrics-port", address
        ) from error


def stop_with_parent(parent: int, stop: Callable[[], None]) -> None:
    """Calls ``stop`` once the process ``parent``, which started this one, has gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        print("farsim: the process that started this server has gone", file=sys.stderr)
        stop()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def read_token(path: Path | None) -> str:
    """The token in a file, without white space around it.

    For no file it is that of the environment variable ``FARSIM_TOKEN``, which is how containers
    get secrets; empty if there is none.

    Raises:
        FarsimError: the file is empty.
    """
    if path is None:
        return os.environ.get("FARSIM_TOKEN", "").strip()
    token = path.read_text().strip()
    if not token:
        raise FarsimError(f"the token file {path} is empty; 'farsim certs' makes one", str(path))
    return token


class _Doorkeeper:
    """Lets in calls with the right bearer token, and health checks, which say only up or down."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def _lets_in(self, details: Any) -> bool:
        if details.method.startswith(f"/{health.SERVICE_NAME}/"):
            return True
        return self.accepts(str(dict(details.invocation_metadata).get("authorization", "")))

    def accepts(self, authorization: str) -> bool:
        """Whether the metadata ``authorization`` has the right token."""
        return hmac.compare_digest(authorization.encode(), self._expected)

    @staticmethod
    def _refusal(handler: Any, abort: Callable[[Any, Any], Any]) -> Any:
        """A handler of the same kind that calls ``abort``."""
        if handler is not None and handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(abort)
        return grpc.unary_unary_rpc_method_handler(abort)


class TokenCheck(_Doorkeeper, grpc.ServerInterceptor):
    """Lets in calls with the right bearer token, and health checks, which say only up or down."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        return handler if self._lets_in(details) else self._refusal(handler, self._abort)

    @staticmethod
    def _abort(_: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED)


class AioTokenCheck(_Doorkeeper, grpc.aio.ServerInterceptor):
    """``TokenCheck`` for an asyncio server."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        return handler if self._lets_in(details) else self._refusal(handler, self._abort)

    @staticmethod
    async def _abort(_: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED)


#: What calls without the right token are told.
REFUSED = "the bearer token is missing or wrong: send the one in the server's --token-file"


def tls_context(options: ListenOptions) -> ssl.SSLContext | None:
    """How to greet clients that speak HTTP/2 over TLS; None for plain text.

    Raises:
        InvalidCertificate: the PEM files do not hold what they should.
        OSError: one can not be read.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        if options.tls_client_ca is not None:
            context.load_verify_locations(options.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        files = f"{options.tls_cert}, {options.tls_key}"
        files += f" or {options.tls_client_ca}" if options.tls_client_ca else ""
        raise InvalidCertificate(
            f"{files} can not be used: {error.reason or error}; they must be PEM files, and the "
            "key must belong to the certificate",
            str(options.tls_cert),
        ) from error
    return context


def _credentials(options: ListenOptions) -> grpc.ServerCredentials | None:
    # gRPC says nothing of what is wrong with them.
    if tls_context(options) is None or options.tls_cert is None or options.tls_key is None:
        return None
    client_ca = options.tls_client_ca.read_bytes() if options.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(options.tls_key.read_bytes(), options.tls_cert.read_bytes())],
        root_certificates=client_ca,
        require_client_auth=client_ca is not None,
    )
