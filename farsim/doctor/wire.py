"""The way to a server below gRPC: name, port, TLS, and the first words of HTTP/2 (RFC 9113)."""

from __future__ import annotations

import socket
import ssl
import time

from farsim.channel import ConnectionOptions
from farsim.doctor.findings import Cause, Finding, Step, Stopped

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: A SETTINGS frame without content, and the answer to one (section 6.5).
_SETTINGS, _SETTINGS_ACK = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
_SETTINGS_TYPE, _ACK_FLAG, _HEADER_BYTES = 4, 1, 9
#: To wait for a web server to say that it is one.
_HTTP1_SECONDS = 1.0
#: How often the round trip is measured.
_ROUND_TRIPS = 15
#: So many times what the quick ones take, the typical one tells of more than the network.
_UNSTEADY = 1.5
#: Codes of OpenSSL's X509_verify_cert_error_string.
_TIME_CODES, _NAME_CODES = {9, 10}, {62, 63, 64}
#: What alerts about a client's certificate are called.
_CLIENT_ALERTS = (
    *("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE"),
    *("CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE"),
)


class Wire:
    """Walks to a server on a bare socket.

    Args:
        address: host:port.
        options: of the connection.
        seconds: for each step.
    """

    def __init__(self, address: str, options: ConnectionOptions, seconds: float) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._options, self._seconds = options, seconds
        #: Of a SETTINGS frame and its acknowledgement, in seconds, sorted.
        self.round_trips: list[float] = []
        #: What it took to open the connection, in seconds.
        self._connected_in = float("inf")
        #: Whether the handshake of TLS has agreed on HTTP/2.
        self._is_h2 = False

    def walk(self, steps: list[Step]) -> None:
        """Adds each good step to ``steps``.

        Raises:
            Stopped: at the first that is not.
        """
        steps.append(Step("name", self._resolve()))
        with self._connect() as plain:
            steps.append(Step("port", f"{self._port} is open"))
            if self._options.uses_tls:
                with self._secured(plain) as secured:
                    steps.append(Step("TLS", self._told(secured)))
                    self._is_h2 = secured.selected_alpn_protocol() == "h2"
                    self._greet(secured)
            else:
                self._greet(plain)
        steps.append(Step("HTTP/2", f"round trip {self.round_trip * 1e3:.2f} ms"))

    @property
    def round_trip(self) -> float:
        """What the network takes, in seconds.

        Where the answers differ a lot they tell of a busy process, whose system still takes
        connections as quickly as ever.
        """
        quick = self.round_trips[len(self.round_trips) // 10]
        typical = self.round_trips[len(self.round_trips) // 2]
        return min(quick, self._connected_in) if typical > _UNSTEADY * quick else quick

    # -- name and port ---------------------------------------------------------------------

    def _resolve(self) -> str:
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Stopped(
                "name",
                Finding(
                    Cause.NAME,
                    f"'{self._host}': {error.strerror or error}",
                    "check the spelling, or the DNS that this machine asks; give an IP address "
                    "to go without",
                ),
            ) from error
        return ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))

    def _connect(self) -> socket.socket:
        started = time.perf_counter()
        try:
            plain = socket.create_connection((self._host, self._port), self._seconds)
            self._connected_in = time.perf_counter() - started
            return plain
        except ConnectionRefusedError as error:
            raise Stopped(
                "port",
                Finding(
                    Cause.PORT_CLOSED,
                    f"{self._host} refuses connections on port {self._port}",
                    "start the server, or check the port; a server that listens on 127.0.0.1 is "
                    "reached from its own machine only (farsim serve --address 0.0.0.0:PORT)",
                ),
            ) from error
        except TimeoutError as error:
            raise Stopped(
                "port",
                Finding(
                    Cause.PORT_SILENT,
                    f"no word from {self._host}:{self._port} within {self._seconds:g} s",
                    "a firewall or security group drops packets to it, or the host is down: "
                    "allow this port, or let the simulator dial in (farsim serve --attach)",
                ),
            ) from error
        except OSError as error:
            raise Stopped(
                "port",
                Finding(
                    Cause.NO_ROUTE,
                    f"{self._host}: {error.strerror or error}",
                    "check that both are on networks that know each other (VPN, peering, routes)",
                ),
            ) from error

    # -- TLS -------------------------------------------------------------------------------

    def _secured(self, plain: socket.socket) -> ssl.SSLSocket:
        name = self._options.tls_server_name or self._host
        try:
            return self._context().wrap_socket(plain, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            raise Stopped("TLS", self._of_certificate(error, name)) from error
        except (ssl.SSLError, OSError) as error:
            raise Stopped("TLS", self._of_handshake(error)) from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._options.tls_ca)
        context.set_alpn_protocols(["h2"])
        if self._options.tls_cert is not None and self._options.tls_key is not None:
            context.load_cert_chain(self._options.tls_cert, self._options.tls_key)
        return context

    def _of_certificate(self, error: ssl.SSLCertVerificationError, name: str) -> Finding:
        if error.verify_code in _TIME_CODES:
            return Finding(
                Cause.CERTIFICATE_EXPIRED,
                error.verify_message,
                "give the server a new certificate (farsim certs makes one), and check both "
                "machines' clocks",
            )
        if error.verify_code in _NAME_CODES:
            return Finding(
                Cause.CERTIFICATE_NAME,
                error.verify_message,
                f"connect by a name that is in it, make one for '{name}' (farsim certs --host), "
                "or say what to expect with the connection option tls_server_name",
            )
        trusted = self._options.tls_ca or "the system's authorities"
        return Finding(
            Cause.CERTIFICATE_AUTHORITY,
            f"{error.verify_message}; trusted is {trusted}",
            "give --tls-ca the authority that the server's certificate comes from",
        )

    def _of_handshake(self, error: OSError) -> Finding:
        text = getattr(error, "reason", None) or error.strerror or str(error)
        if "WRONG_VERSION" in text or "RECORD_LAYER" in text or "UNKNOWN_PROTOCOL" in text:
            return self._plain()
        if any(alert in text for alert in _CLIENT_ALERTS):
            return self._client_certificate(text)
        if not self._speaks_tls():
            return self._plain()
        return Finding(Cause.TLS_FAILED, text, "check the server's log and its certificate")

    def _plain(self) -> Finding:
        return Finding(
            Cause.SPEAKS_PLAIN,
            f"{self._host}:{self._port} does not answer a TLS greeting with one",
            "leave out --tls-ca, --tls-cert and --tls-key, or start the server with --tls-cert",
        )

    def _client_certificate(self, text: str) -> Finding:
        own = self._options.tls_cert
        return Finding(
            Cause.CLIENT_CERTIFICATE,
            f"{text}; sent was {own or 'none'}",
            "give --tls-cert and --tls-key a certificate from the authority in the server's "
            "--tls-client-ca",
        )

    def _http1(self) -> bytes:
        """What it answers to a request in HTTP/1.1; some say nothing to a greeting in HTTP/2."""
        if self._options.uses_tls:
            return b""
        try:
            with socket.create_connection((self._host, self._port), self._seconds) as plain:
                plain.settimeout(min(self._seconds, _HTTP1_SECONDS))
                plain.sendall(f"HEAD / HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
                return plain.recv(1024)
        except OSError:
            return b""

    def _speaks_tls(self) -> bool:
        """Whether the server takes part in a TLS handshake, whatever its certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        try:
            with socket.create_connection((self._host, self._port), self._seconds) as plain:
                context.wrap_socket(plain, server_hostname=self._host).close()
        except ssl.SSLError as error:
            # It has answered in TLS, if with an alert.
            return "ALERT" in (error.reason or "")
        except OSError:
            return False
        return True

    @staticmethod
    def _told(secured: ssl.SSLSocket) -> str:
        certificate = secured.getpeercert() or {}
        return f"{secured.version()}, certificate until {certificate.get('notAfter', 'unknown')}"

    # -- HTTP/2 ----------------------------------------------------------------------------

    def _greet(self, wire: socket.socket) -> None:
        """Exchanges settings, and measures round trips with more of them."""
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        try:
            wire.sendall(_PREFACE + _SETTINGS)
            while len(received) < _HEADER_BYTES:
                chunk = wire.recv(4096)
                if not chunk:
                    break
                received += chunk
        except ssl.SSLError as error:
            # A client's certificate is refused only now with TLS 1.3.
            raise Stopped("TLS", self._of_handshake(error)) from error
        except OSError as error:
            raise Stopped("HTTP/2", self._no_http2(received, error)) from error
        if len(received) < _HEADER_BYTES or received[3] != _SETTINGS_TYPE:
            raise Stopped("HTTP/2", self._no_http2(received, None))
        try:
            self._measure(wire, received)
        except ssl.SSLError as error:
            raise Stopped("TLS", self._of_handshake(error)) from error
        except OSError as error:
            raise Stopped("HTTP/2", self._no_http2(b"", error)) from error

    def _measure(self, wire: socket.socket, received: bytes) -> None:
        received = self._await_ack(wire, received)
        wire.sendall(_SETTINGS_ACK)
        for _ in range(_ROUND_TRIPS):
            started = time.perf_counter()
            wire.sendall(_SETTINGS)
            received = self._await_ack(wire, received)
            self.round_trips.append(time.perf_counter() - started)
        self.round_trips.sort()

    def _await_ack(self, wire: socket.socket, received: bytes) -> bytes:
        """Reads frames until our settings are acknowledged; what came after them."""
        while True:
            while len(received) >= _HEADER_BYTES:
                length = int.from_bytes(received[:3], "big")
                if len(received) < _HEADER_BYTES + length:
                    break
                kind, flags = received[3], received[4]
                received = received[_HEADER_BYTES + length :]
                if kind == _SETTINGS_TYPE and flags & _ACK_FLAG:
                    return received
            chunk = wire.recv(4096)
            if not chunk:
                raise ConnectionResetError("closed during the exchange of settings")
            received += chunk

    def _no_http2(self, received: bytes, error: OSError | None) -> Finding:
        line = received if received.startswith(b"HTTP/1") else self._http1()
        if line.startswith(b"HTTP/1"):
            return Finding(
                Cause.HTTP1,
                line.split(b"\r\n", 1)[0].decode(errors="replace"),
                "this is a web server or proxy: check the port, or let the proxy pass HTTP/2",
            )
        if self._options.uses_tls and self._is_h2 and not received:
            return self._client_certificate("it hangs up right after the handshake")
        is_alert = received[:2] == b"\x15\x03"
        if not self._options.uses_tls and (is_alert or self._speaks_tls()):
            return Finding(
                Cause.WANTS_TLS,
                "it answers a TLS greeting, and not a plain one",
                "give --tls-ca the authority of the server's certificate, and --tls-cert and "
                "--tls-key if it asks for a client's",
            )
        seen = (
            f"it says {received[:24]!r}" if received else f"it says nothing ({error or 'hung up'})"
        )
        return Finding(
            Cause.NOT_GRPC,
            seen,
            "check the port: something else listens there, or a proxy stands"
            " in between that does not pass HTTP/2",
        )
