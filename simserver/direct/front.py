"""A server's port: greets clients, and hands each to who answers it."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator

from farsim.http2 import frames
from farsim.serving import TokenCheck
from simserver.direct.connection import Connection, discard
from simserver.direct.keeper import Keeper
from simserver.direct.listeners import bind
from simserver.direct.relay import Relay, Upstream
from simserver.direct.waker import Waker
from simserver.limits import Limits
from simserver.service import SimulatorService

logger = logging.getLogger(__name__)

#: How long a client may take to say who it is: the handshake of TLS, and its first words.
_GREETING_SECONDS = 10.0
#: Clients that have not said it yet; one more, and the first of them is let go.
_MOST_STRANGERS = 256
_READ_BYTES = 1 << 16
#: Settings that a client may begin with; ours need 24 bytes.
_SETTINGS_BYTES = 1024
#: How long to wait when the process has no more files for connections.
_PAUSE_SECONDS = 0.1
#: A peer that vanished is noticed after so long: idle, and with something on its way.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}


class Front:
    """Listens at an address, for a gRPC server that then needs none of its own.

    Args:
        upstream: gRPC's server, which answers all clients but ours.
        service: answers our own.
        address: ``host:port``; port 0 takes a free one.
        limits: the server's.
        tls: how to greet clients; None for plain text.
        token_check: whom of our own clients to let in; None for everyone.
        spin_seconds: how long waiting for our own clients keeps the processor awake.

    Attributes:
        address: with the port that was bound.

    Raises:
        InvalidAddress: ``address`` can not be listened on.
    """

    def __init__(
        self,
        upstream: Upstream,
        service: SimulatorService,
        address: str,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        token_check: TokenCheck | None = None,
        spin_seconds: float = 0.0,
    ) -> None:
        self._upstream, self._service, self._limits = upstream, service, limits
        self._tls, self._token_check = tls, token_check
        self._spin_seconds = spin_seconds
        self._listeners = bind(address)
        host = address.rpartition(":")[0]
        self.address = f"{host}:{self._listeners[0].getsockname()[1]}"
        self._keeper = Keeper(service, limits.max_in_flight)
        self._waker = Waker()
        self._closing = False
        # Each session has a connection or two; the rest is for those who look.
        self._bound = 4 * limits.max_sessions + 256
        self._lock = threading.Lock()
        #: Those who have not said who they are, in the order in which they came.
        self._strangers: dict[socket.socket, None] = {}
        self._met: set[Connection | Relay] = set()
        self._threads: set[threading.Thread] = set()

    def start(self) -> None:
        """Begins to take connections."""
        threading.Thread(target=self._accept, name="front", daemon=True).start()

    def close(self, seconds: float) -> None:
        """Takes no more connections, and ends those that there are, after what is on its way.

        Args:
            seconds: how long to wait for that.
        """
        until = time.monotonic() + seconds
        with self._lock:
            self._closing = True
            strangers, met, threads = list(self._strangers), list(self._met), list(self._threads)
        self._waker.set()
        for stranger in strangers:
            _shut(stranger)
        for one in met:
            one.leave()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._lock:
            met = list(self._met)
        for one in met:
            if isinstance(one, Connection):
                one.close()
        self._upstream.close()

    # -- connections ----------------------------------------------------------------------

    def _accept(self) -> None:
        poll = select.poll()
        for listener in self._listeners:
            poll.register(listener, select.POLLIN)
        poll.register(self._waker.descriptor, select.POLLIN)
        while not self._closing:
            poll.poll()
            for listener in self._listeners:
                self._take_from(listener)
        self._close_listeners()
        self._waker.close()

    def _take_from(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                logger.warning("no more connections can be taken: %s", error.strerror)
                time.sleep(_PAUSE_SECONDS)
            return  # It has gone already.
        with self._lock:
            if self._closing or len(self._threads) >= self._bound:
                sock.close()
                return
            try:
                if self._tls is not None:
                    sock = self._tls.wrap_socket(
                        sock, server_side=True, do_handshake_on_connect=False
                    )
            except (OSError, ValueError):
                sock.close()
                return
            if len(self._strangers) >= _MOST_STRANGERS:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                _shut(oldest)
            self._strangers[sock] = None
            thread = threading.Thread(target=self._greet, args=(sock,), name="client", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _greet(self, sock: socket.socket) -> None:
        """Finds out who a client is, and answers it until it goes."""
        try:
            greeting = _greeting(sock)
            with self._lock:
                self._strangers.pop(sock, None)
            if is_ours(greeting):
                self._answer(sock, greeting)
            elif greeting:
                self._relay(sock, greeting)
        except (OSError, ValueError) as error:
            logger.debug("a client went before it said who it is: %s", error)
        except Exception:
            logger.exception("a connection failed")
        finally:
            with self._lock:
                self._strangers.pop(sock, None)
                self._threads.discard(threading.current_thread())
            sock.close()

    def _answer(self, sock: socket.socket, greeting: bytes) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        connection = Connection(
            sock,
            self._service,
            self._limits,
            self._token_check,
            self._keeper,
            self._spin_seconds,
        )
        with self._met_with(connection):
            connection.serve(greeting)

    def _relay(self, sock: socket.socket, greeting: bytes) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        relay = Relay(sock, self._upstream.connect())
        with self._met_with(relay):
            relay.run(greeting)

    @contextlib.contextmanager
    def _met_with(self, one: Connection | Relay) -> Iterator[None]:
        """While it lasts, ``close`` knows of a connection."""
        with self._lock:
            self._met.add(one)
            closing = self._closing
        if closing:
            one.leave()
        try:
            yield
        finally:
            with self._lock:
                self._met.discard(one)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()


def is_ours(received: bytes) -> bool | None:
    """Whether a connection that begins like this is our own client's; None if it is too early.

    Settings are for the next hop, so whoever says ours reads what we write, whatever is between.
    """
    at = len(frames.PREFACE)
    if not frames.PREFACE.startswith(received[:at]):
        return False
    begin = at + frames.frame_header.size
    if len(received) < begin:
        return None
    high, low, kind, flags, stream = frames.frame_header.unpack_from(received, at)
    size = high << 16 | low
    if kind != frames.SETTINGS or flags or stream or size > _SETTINGS_BYTES or size % 6:
        return False
    if len(received) < begin + size:
        return None
    settings = frames.setting.iter_unpack(received[begin : begin + size])
    return any(name == frames.ONE_STREAM for name, _ in settings)


def _greeting(sock: socket.socket) -> bytes:
    """What a client says, as far as it takes to know who it is; nothing if it goes.

    Raises:
        OSError: it takes too long, or TLS fails.
    """
    until = time.monotonic() + _GREETING_SECONDS
    sock.settimeout(_GREETING_SECONDS)
    if isinstance(sock, ssl.SSLSocket):
        try:
            sock.do_handshake()
        except ssl.SSLError:
            discard(sock)  # It has been told what is wrong.
            raise
    received = b""
    while is_ours(received) is None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it says too little")
        sock.settimeout(left)
        data = sock.recv(_READ_BYTES)
        if not data:
            return b""
        received += data
    return received


def _shut(sock: socket.socket) -> None:
    """Wakes whoever waits there."""
    with contextlib.suppress(OSError):
        # Not that of TLS, which would take away what the other thread uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
