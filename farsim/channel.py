"""Connections to servers: how long to wait, whom to trust, and what gRPC is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import grpc

from farsim.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FarsimError,
    InvalidOption,
    LimitExceeded,
    MessageTooLarge,
    ProtocolError,
    ServerUnavailable,
    SessionLost,
    UnknownOption,
    Unsupported,
)


@dataclass(frozen=True)
class ConnectionOptions:
    """How a client connects, and how patient it is. Times are in seconds.

    Raises:
        InvalidOption: a time or size that is not positive, a token given twice, or a client
            certificate without its key.
    """

    tls_ca: str | None = None
    """PEM file with the certificates that may have signed the server's. Set: the connection uses
    TLS. Unset: it does not, unless a client certificate is given; then the system's authorities
    are trusted."""

    tls_cert: str | None = None
    """PEM file with the client's certificate chain, for servers that ask for one."""

    tls_key: str | None = None
    """PEM file with the private key of ``tls_cert``."""

    tls_server_name: str | None = None
    """The name to expect in the server's certificate, where it is reached under another one, by
    its IP address for instance."""

    token: str | None = field(default=None, repr=False)
    """Bearer token, sent with every call. ``token_file`` keeps it out of configurations that are
    written to disk, as RLlib's are."""

    token_file: str | None = None
    """File whose content, without surrounding white space, is the token. It is read anew for each
    connection, so a rotated token is picked up."""

    transport: str = "direct"
    """What reads and writes the socket of a session: "direct" does it in the thread that steps;
    "grpcio" is gRPC's own client, which is also taken where a proxy is in the way. The messages
    are the same."""

    spin_seconds: float = 0.0
    """How long a wait for a reply may keep the processor awake instead of letting it sleep: 0.002
    where steps come every millisecond or two and waking a processor takes long, as on many virtual
    machines. It costs CPU time that nobody else wants; ``farsim serve`` has the same option."""

    max_message_bytes: int = 64 * 1024 * 1024
    """The largest message either way. gRPC's own default of 4 MiB is less than one batch of
    images."""

    connect_seconds: float = 10.0
    """How long one attempt to reach a server and be greeted by it may take."""

    request_seconds: float = 30.0
    """Deadline of one request, from sending it until its reply. Longer than the simulator's longest
    step or reset for a whole session's environments; for RLlib well under ``sample_timeout_s``."""

    resume_seconds: float = 20.0
    """How long to try to resume a session whose stream broke before it counts as lost. More than
    ``lease_seconds`` is of no use."""

    recovery_seconds: float = 120.0
    """How long to look for a server that takes a lost session's environments, before it is an
    error. Covers the restart of a container."""

    failover_seconds: float = 5.0
    """The part of ``recovery_seconds`` in which only the lost session's own address is tried: a
    process that its supervisor restarts is back by then, and the load stays evenly spread."""

    heartbeat_seconds: float = 5.0
    """The longest silence asked of a server that is at work on a request. After three times as
    long without a word the stream counts as broken, so it bounds the time to notice a host that
    vanished, and also the time that one message may take to arrive."""

    lease_seconds: float = 0.0
    """How long the server is asked to keep a session whose stream broke; 0 for its default."""

    keepalive_seconds: float = 30.0
    """HTTP/2 pings on an idle connection, so that routers do not forget it while the learner
    learns. Azure's load balancers forget after 240."""

    def __post_init__(self) -> None:
        zero_is_default = {"lease_seconds", "spin_seconds"}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name.endswith(("_seconds", "_bytes")):
                kind: type | tuple[type, ...] = (
                    int if option.name.endswith("_bytes") else (int, float)
                )
                least = 0 if option.name in zero_is_default else None
                good = isinstance(value, kind) and not isinstance(value, bool)
                if not good or not (value > 0 or value == least):
                    raise InvalidOption(
                        f"connection option '{option.name}' is a positive number"
                        f"{' or 0' if least == 0 else ''}, not {value!r}",
                        option.name,
                    )
            elif value is not None and not isinstance(value, str):
                raise InvalidOption(
                    f"connection option '{option.name}' is a text, not {value!r}", option.name
                )
        if self.transport not in ("direct", "grpcio"):
            raise InvalidOption(
                f"connection option 'transport' is direct or grpcio, not {self.transport!r}",
                "transport",
            )
        if self.token is not None and self.token_file is not None:
            raise InvalidOption("give either 'token' or 'token_file', not both", "token")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidOption("'tls_cert' and 'tls_key' go together: give both", "tls_cert")

    @classmethod
    def of(cls, options: ConnectionOptions | Mapping[str, Any] | None) -> ConnectionOptions:
        """The options themselves, or built from a plain mapping as configuration files have it.

        Raises:
            UnknownOption: a key that is no option; says which is nearest.
            InvalidOption: as the class does.
        """
        if options is None:
            return cls()
        if isinstance(options, ConnectionOptions):
            return options
        # Here, as it brings Gymnasium, which a container's health probe has no time for.
        from farsim.options import nearest

        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownOption(
                    f"no connection option '{name}'{nearest(str(name), known)}", name
                )
        return cls(**options)

    @property
    def uses_tls(self) -> bool:
        return self.tls_ca is not None or self.tls_cert is not None

    def read_token(self) -> str | None:
        """The token to send, or None.

        Raises:
            InvalidOption: the file cannot be read or has no token in it, or the token cannot be
                sent.
        """
        if self.token_file is None:
            if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
                raise InvalidOption("connection option 'token' is printable ASCII", "token")
            return self.token
        token = read_option_file("token_file", self.token_file).decode(errors="replace").strip()
        if not token.isascii() or not token.isprintable() or not token:
            raise InvalidOption(f"token_file: '{self.token_file}' holds no token", "token_file")
        return token


#: gRPC channel options that hold for every connection.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A connection of its own for each channel: sessions do not share a flow-control window, and a
    # new channel is a new attempt, whatever became of the last one.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's hidden retries could repeat a stream's first message.
    ("grpc.enable_retries", 0),
    # Pings also while a stream waits for its next request for long, ...
    ("grpc.http2.max_pings_without_data", 0),
    # ... but none when no session is open.
    ("grpc.keepalive_permit_without_calls", 0),
)


def open_channel(address: str, options: ConnectionOptions) -> grpc.Channel:
    """A channel to ``address`` whose every call carries the token; it connects on the first call.

    Raises:
        InvalidOption: a file that ``options`` name cannot be read.
    """
    settings = _settings(options)
    if options.uses_tls:
        channel = grpc.secure_channel(address, _credentials(options), settings)
    else:
        channel = grpc.insecure_channel(address, settings)
    token = options.read_token()
    return channel if token is None else grpc.intercept_channel(channel, _Bearer(token))


def open_aio_channel(address: str, options: ConnectionOptions) -> grpc.aio.Channel:
    """As ``open_channel`` for asyncio, but calls have to carry ``call_metadata`` themselves."""
    settings = _settings(options)
    if options.uses_tls:
        return grpc.aio.secure_channel(address, _credentials(options), settings)
    return grpc.aio.insecure_channel(address, settings)


def call_metadata(options: ConnectionOptions) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that carries the token.

    Raises:
        InvalidOption: the token's file cannot be read.
    """
    token = options.read_token()
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _settings(options: ConnectionOptions) -> list[tuple[str, Any]]:
    settings: list[tuple[str, Any]] = [
        *CHANNEL_OPTIONS,
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", int(options.keepalive_seconds * 1000)),
        # A peer that does not answer a ping for so long is gone.
        ("grpc.keepalive_timeout_ms", int(options.connect_seconds * 1000)),
    ]
    if options.tls_server_name is not None:
        settings.append(("grpc.ssl_target_name_override", options.tls_server_name))
    return settings


def _credentials(options: ConnectionOptions) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read_optional("tls_ca", options.tls_ca),
        private_key=_read_optional("tls_key", options.tls_key),
        certificate_chain=_read_optional("tls_cert", options.tls_cert),
    )


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call.

    gRPC's own call credentials do the same on TLS but refuse plain connections, on which a token
    still keeps one user of a private network from using another's server by mistake.
    """

    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    def _intercept(self, proceed: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._metadata]
        return proceed(_with_metadata(details, metadata), request)

    intercept_unary_unary = _intercept
    intercept_unary_stream = _intercept
    intercept_stream_unary = _intercept
    intercept_stream_stream = _intercept


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, metadata: list[tuple[str, str]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = details.wait_for_ready
        self.compression = details.compression


def _with_metadata(details: Any, metadata: list[tuple[str, str]]) -> grpc.ClientCallDetails:
    return _Details(details, metadata)


def backoff(first: float = 0.05, longest: float = 2.0) -> Iterator[float]:
    """Seconds to wait before each attempt but the first.

    They double up to ``longest``, and each is drawn between half and all of that, so that clients
    that lost one server do not all return at one moment.
    """
    bound = first
    while True:
        yield random.uniform(bound / 2, bound)
        bound = min(2 * bound, longest)


class CallFailed(grpc.RpcError):
    """A call that failed without gRPC's own client having any part in it.

    Args:
        status: of the call.
        details: what the server said, or what was in the way.
    """

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{status.name}: {details}")
        self._status, self._details = status, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details


#: Statuses after which the same call may succeed: something on the way, not the call, was at fault.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)

#: What gRPC's details say when TLS is at fault, and when it may be: the peer just hung up.
_TLS_FAILED = ("handshake", "certificate", "verification check", "unwrap failed")
_HUNG_UP = ("socket closed", "connection reset")


def may_pass(error: grpc.RpcError) -> bool:
    """Whether it is worth trying again after ``error``."""
    return _status(error)[0] in _PASSING


def translate(error: grpc.RpcError, address: str) -> FarsimError:
    """The error of this package for a gRPC status, which itself would not pickle."""
    status, details = _status(error)
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return AuthenticationFailed(
            f"{address} does not accept the token ({details}): give the server's token with "
            "--token-file, or with the connection option 'token_file' or 'token'",
            address,
        )
    if status == grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "message" in details.lower():
            return MessageTooLarge(
                f"a message to or from {address} is over the size limit ({details}): raise "
                "max_message_bytes on both ends, or use fewer environments in a session",
                address,
            )
        return LimitExceeded(f"{address} is at a limit: {details}", address)
    if status == grpc.StatusCode.UNAVAILABLE:
        if any(hint in details.lower() for hint in _TLS_FAILED):
            return AuthenticationFailed(
                f"no secure connection to {address}: {details}. Check 'tls_ca' against the "
                "server's certificate, and 'tls_cert' and 'tls_key' if it asks for a client's",
                address,
            )
        hint = ""
        if any(text in details.lower() for text in _HUNG_UP):
            hint = (
                ". If that server uses TLS, set 'tls_ca'; if it asks for a client certificate, "
                "'tls_cert' and 'tls_key'"
            )
        return ServerUnavailable(f"{address} cannot be reached: {details}{hint}", address)
    if status == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{address} did not answer in time: {details}", address)
    if status == grpc.StatusCode.ABORTED:
        return SessionLost(
            f"another stream has taken over the session on {address}: {details}", address
        )
    if status == grpc.StatusCode.INVALID_ARGUMENT:
        return ProtocolError(f"{address} could not read a request: {details}", address)
    if status == grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported(
            f"{address} is a gRPC server, but not one of simulators ({details}): check the port",
            address,
        )
    return ServerUnavailable(f"{address}: {status.name}: {details}", address)


def _status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, (grpc.Call, grpc.aio.AioRpcError, CallFailed)):
        return error.code() or grpc.StatusCode.UNKNOWN, error.details() or "no details"
    return grpc.StatusCode.UNKNOWN, str(error) or type(error).__name__


def _read_optional(option: str, path: str | None) -> bytes | None:
    return None if path is None else read_option_file(option, path)


def read_option_file(option: str, path: str) -> bytes:
    """What a file holds that a connection option names.

    Raises:
        InvalidOption: it cannot be read.
    """
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InvalidOption(f"{option}: cannot read '{path}': {error.strerror}", option) from error
