"""The client's end: one connection to a server, and one call at a time on it."""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence

import grpc

from farsim import __version__
from farsim.channel import CallFailed, ConnectionOptions, read_option_file
from farsim.errors import InvalidOption
from farsim.http2 import frames, upkeep
from farsim.http2.events import Broken, End, Headers, TooLarge
from farsim.http2.link import Link

#: How long hanging up waits for the server's word that it has understood.
_FAREWELL_SECONDS = 1.0
#: How long a server may take nothing of what is sent.
_STALL_SECONDS = 60.0
#: Where gRPC looks for a proxy, which this client cannot use.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
#: A name or an IPv4 address, or an IPv6 address in brackets; not gRPC's other schemes.
_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^:/\[\]]+):[0-9]+")
#: gRPC's status by the error code of HTTP/2, where it is not INTERNAL, and by that of HTTP, where
#: it is not UNKNOWN. See https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors and
#: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md.
_STATUS_OF_RESET = {
    frames.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    frames.CANCEL: grpc.StatusCode.CANCELLED,
    frames.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}
_STATUS_OF_HTTP = {
    "400": grpc.StatusCode.INTERNAL,
    "401": grpc.StatusCode.UNAUTHENTICATED,
    "403": grpc.StatusCode.PERMISSION_DENIED,
    "404": grpc.StatusCode.UNIMPLEMENTED,
    "429": grpc.StatusCode.UNAVAILABLE,
    "502": grpc.StatusCode.UNAVAILABLE,
    "503": grpc.StatusCode.UNAVAILABLE,
    "504": grpc.StatusCode.UNAVAILABLE,
}
_STATUS_OF_NUMBER = {status.value[0]: status for status in grpc.StatusCode}


def can_reach(address: str) -> bool:
    """Whether this client is fit for ``address`` here; gRPC's own is where it is not."""
    if not hasattr(select, "poll") or _ADDRESS.fullmatch(address) is None:
        return False
    proxied = any(os.environ.get(name) for name in _PROXY_VARIABLES)
    return not proxied or bool(urllib.request.proxy_bypass(_host_and_port(address)[0]))


class Client:
    """A connection to one server, for one call at a time: unary ones, and at last a stream.

    Used by one thread at a time. While nobody does, a thread that all connections share answers
    the server's pings and sends some.

    Args:
        address: ``host:port``.
        options: how to connect.
        metadata: to send with every call, besides the token.

    Raises:
        InvalidOption: a file that ``options`` name cannot be read.
    """

    def __init__(
        self, address: str, options: ConnectionOptions, metadata: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._address, self._options = address, options
        token = options.read_token()
        authorization = [] if token is None else [("authorization", f"Bearer {token}")]
        self._metadata = [*metadata, *authorization]
        self._tls = _tls(options) if options.uses_tls else None
        self._link: Link | None = None
        self._failure: CallFailed | None = None
        self._answered = False
        self._born = time.monotonic()
        self._process = os.getpid()

    @property
    def heard_at(self) -> float:
        """When something came last, by ``time.monotonic``; at first, when it was connected."""
        return self._born if self._link is None else self._link.heard_at

    def connect(self, seconds: float) -> None:
        """Connects within ``seconds``; that it could not is what ``take`` will say.

        Does nothing if that has been done.
        """
        if self._link is not None or self._failure is not None:
            return
        until = time.monotonic() + seconds
        link = None
        try:
            link = Link(
                self._connected(seconds),
                True,
                self._options.max_message_bytes,
                min(_STALL_SECONDS, self._options.request_seconds),
                self._options.spin_seconds,
            )
            _await_greeting(link, until)
        except CallFailed as failure:
            self._failure = failure
            if link is not None:
                link.close()
        else:
            self._link = link
            upkeep.look_after(link, self._options.keepalive_seconds)

    def call(self, method: str, request: bytes, seconds: float) -> bytes:
        """The reply to a unary call.

        Args:
            method: full name of the service and the method, as in ``farsim.v1.Simulator/Run``.
            request: serialised.
            seconds: the deadline.

        Raises:
            grpc.RpcError: the call failed.
        """
        until = time.monotonic() + seconds
        self.open(method)
        self._send(request, end=True)
        replies: list[bytes] = []
        while True:
            try:
                item = self.take(max(0.0, until - time.monotonic()))
            except TimeoutError:
                raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
            if isinstance(item, bytes):
                replies.append(item)
            elif item is not None:
                raise item
            elif len(replies) != 1:
                raise CallFailed(grpc.StatusCode.INTERNAL, f"{len(replies)} replies to one request")
            else:
                return replies[0]

    def open(self, method: str) -> None:
        """Begins a call; ``put`` and ``take`` are about it until the next."""
        self._answered = False
        if self._link is None:
            return
        self._failure = None
        fields = [
            (":method", "POST"),
            (":scheme", "http" if self._tls is None else "https"),
            (":path", f"/{method}"),
            (":authority", self._options.tls_server_name or self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"farsim/{__version__}"),
            *self._metadata,
        ]
        try:
            with self._link.lock:
                self._link.open(fields)
        except Broken as broken:
            self._broke(broken)

    def put(self, message: bytes) -> None:
        """Sends a message, once the server takes it; that it could not is what ``take`` says."""
        self._send(message)

    def take(self, seconds: float) -> bytes | grpc.RpcError | None:
        """What comes next: a message, or the error that ended the call, or None if it is over.

        Raises:
            TimeoutError: nothing comes within ``seconds``.
        """
        link = self._link
        if link is None or self._failure is not None:
            return self._failure
        until = time.monotonic() + seconds
        while True:
            try:
                with link.lock:
                    event = link.take(max(0.0, until - time.monotonic()))
            except TooLarge as error:
                return CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            except Broken as broken:
                return CallFailed(grpc.StatusCode.UNAVAILABLE, str(broken))
            if type(event) is bytes:
                return event
            if event is None:
                raise TimeoutError
            assert not isinstance(event, bytes)
            if isinstance(event, Headers) and not event.end and not self._answered:
                self._answered = True
                fields = dict(event.fields)
                kind = fields.get("content-type", "")
                if fields.get(":status") != "200":
                    return _failed_in_http(fields.get(":status", "none"))
                if not kind.startswith("application/grpc"):
                    return CallFailed(grpc.StatusCode.UNKNOWN, f"invalid content-type: '{kind}'")
                continue
            return _end_of(event)

    def hang_up(self, farewell: bytes | None = None) -> None:
        """Ends the call, after the message ``farewell`` if there is one, and the connection.

        May be called from any thread: a garbage collection may be what lets go of a session. In a
        process that was forked it does nothing, as the connection is the other one's.
        """
        link = self._link
        if link is None or os.getpid() != self._process:
            return
        upkeep.leave_alone(link)
        # A thread that waits for something would keep the lock; it notices the end soon enough.
        if farewell is not None and link.lock.acquire(timeout=_FAREWELL_SECONDS):
            try:
                self._say_farewell(link, farewell)
            finally:
                link.lock.release()
        link.close()

    def _say_farewell(self, link: Link, farewell: bytes) -> None:
        until = time.monotonic() + _FAREWELL_SECONDS
        link.stall_seconds = _FAREWELL_SECONDS
        self._send(farewell, end=True)
        while time.monotonic() < until:
            try:
                item = self.take(max(0.0, until - time.monotonic()))
            except TimeoutError:
                break
            if not isinstance(item, bytes):
                break

    def _send(self, message: bytes, end: bool = False) -> None:
        link = self._link
        if link is None:
            return
        try:
            with link.lock:
                if len(message) > self._options.max_message_bytes:
                    self._refuse(link, len(message))
                else:
                    link.send(message, end)
        except Broken as broken:
            self._broke(broken)

    def _refuse(self, link: Link, size: int) -> None:
        """Gives up the call instead of sending a message of so many bytes."""
        link.reset()
        self._failure = CallFailed(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Sent message larger than max ({size} vs. {self._options.max_message_bytes})",
        )

    def _broke(self, broken: Broken) -> None:
        """Sending failed. What came before is still read, it may say why."""
        assert self._link is not None
        with self._link.lock:
            self._link.give_up(broken)

    def _connected(self, seconds: float) -> socket.socket:
        host, port = _host_and_port(self._address)
        until = time.monotonic() + seconds
        try:
            sock = socket.create_connection((host, port), timeout=seconds)
        except (OSError, ValueError, OverflowError) as error:
            raise _failed_to_connect(error) from None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is None:
            return sock
        try:
            sock.settimeout(max(0.001, until - time.monotonic()))
            return self._tls.wrap_socket(
                sock, server_hostname=self._options.tls_server_name or host
            )
        except (OSError, ValueError) as error:
            sock.close()
            raise _failed_to_connect(error) from None


def _failed_to_connect(error: Exception) -> CallFailed:
    """In gRPC's words, as far as others go by them."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        why = f"Ssl handshake failed: certificate verify failed: {said}"
    elif isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        why = f"Ssl handshake failed: {error.reason or error}"
    elif isinstance(error, (ssl.SSLEOFError, ConnectionResetError)):
        why = "Ssl handshake failed: Socket closed"
    elif isinstance(error, TimeoutError):
        return CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "it could not be connected")
    else:
        why = getattr(error, "strerror", None) or str(error)
    return CallFailed(grpc.StatusCode.UNAVAILABLE, f"failed to connect: {why}")


def _await_greeting(link: Link, until: float) -> None:
    """Waits for a server's first words: what is said before could reach it after it was given up.

    Raises:
        CallFailed: they do not come by then, or are none.
    """
    try:
        with link.lock:
            while not link.is_greeted:
                if not link.pump(max(0.0, until - time.monotonic())):
                    raise CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "it does not greet")
    except Broken as broken:
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, str(broken)) from None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _tls(options: ConnectionOptions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if options.tls_ca is None:
        context.load_default_certs()
    else:
        path = _readable("tls_ca", options.tls_ca)
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise InvalidOption(
                f"tls_ca: '{path}' holds no certificates ({error.reason or error})", "tls_ca"
            ) from None
    if options.tls_cert is not None and options.tls_key is not None:
        paths = _readable("tls_cert", options.tls_cert), _readable("tls_key", options.tls_key)
        try:
            context.load_cert_chain(*paths)
        except ssl.SSLError as error:
            raise InvalidOption(
                f"tls_cert: '{paths[0]}' and '{paths[1]}' are no certificate and its key "
                f"({error.reason or error})",
                "tls_cert",
            ) from None
    return context


def _readable(option: str, path: str) -> str:
    """Where a file is that can be read."""
    read_option_file(option, path)
    return os.path.expanduser(path)


def _failed_in_http(status: str) -> CallFailed:
    code = _STATUS_OF_HTTP.get(status, grpc.StatusCode.UNKNOWN)
    return CallFailed(code, f"Received http2 header with status: {status}")


def _end_of(event: Headers | End) -> CallFailed | None:
    """How a call ended, by its trailers or without any; None for well."""
    if isinstance(event, End):
        if event.code is None:
            return CallFailed(grpc.StatusCode.UNKNOWN, "the server ended the call without a status")
        code = _STATUS_OF_RESET.get(event.code, grpc.StatusCode.INTERNAL)
        return CallFailed(code, f"Received RST_STREAM with error code {event.code}")
    fields = dict(event.fields)
    if fields.get(":status", "200") != "200" and "grpc-status" not in fields:
        return _failed_in_http(fields[":status"])
    number = fields.get("grpc-status", "2")
    status = _STATUS_OF_NUMBER.get(int(number) if number.isdecimal() else 2)
    if status is grpc.StatusCode.OK:
        return None
    details = urllib.parse.unquote(fields.get("grpc-message", ""))
    return CallFailed(status or grpc.StatusCode.UNKNOWN, details or "no details")
