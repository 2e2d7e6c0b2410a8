"""What every HTTP server here does alike: who may reach it, how many at once, and how it stops."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from farsim.addresses import check_one, is_loopback
from farsim.errors import InvalidAddress
from farsim.serving import InsecureAddress, ListenOptions

logger = logging.getLogger(__name__)


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection, up to a bound.

    Args:
        address: ``host:port``; port 0 takes a free one.
        handler: a ``BaseHTTPRequestHandler`` class; its ``server`` is this one.
        options: who may reach it, as for gRPC; mutual TLS included, the token left to ``handler``.
        max_connections: further ones are closed at once.

    Attributes:
        address: with the port that was bound.

    Raises:
        InsecureAddress: ``address`` is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
        OSError: a certificate or key can not be read.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: str, handler: Any, options: ListenOptions, max_connections: int = 256
    ) -> None:
        check_one(address, port_zero=True)
        if options.tls_cert is None and not options.insecure and not is_loopback(address):
            raise InsecureAddress(
                f"{address} can be reached from other machines, and without TLS anyone on the way "
                "could read and change what is sent: give --tls-cert and --tls-key ('farsim "
                "certs' makes them), or --insecure if the network itself is protected",
                address,
            )
        host, _, port = address.rpartition(":")
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._max_connections = max_connections
        self._slots = threading.BoundedSemaphore(max_connections)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            super().__init__((host.strip("[]"), int(port)), handler)
        except (OSError, OverflowError) as error:
            raise InvalidAddress(
                f"can not listen on {address}: {error}; choose another --http", address
            ) from error
        if options.tls_cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.tls_cert, options.tls_key)
            if options.tls_client_ca is not None:
                context.load_verify_locations(options.tls_client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            # Later, in the connection's thread: one slow client must not keep others out.
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self.address = f"{host}:{self.server_address[1]}"
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="http", daemon=True
        )

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Takes no more connections, and closes those that there are."""
        self.shutdown()
        self.server_close()
        with self._lock:
            for connection in self._open:
                # Its thread wakes from reading; closing is up to that.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            logger.warning("more than %d HTTP connections: one was refused", self._max_connections)
            self.shutdown_request(request)
            return
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients hang up when they like, and some speak no TLS.
        logger.debug("HTTP connection from %s failed", client_address, exc_info=True)
