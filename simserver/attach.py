"""Dialling in: a simulator server that connects to a gateway instead of listening."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from farsim.channel import ConnectionOptions, backoff, open_channel, translate
from farsim.envelope import GATEWAY_SERVICE, seal, unseal
from farsim.errors import FarsimError, ProtocolError, ProtocolVersionError
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import gateway_pb2 as pb
from simserver.catalogue import Entry
from simserver.limits import Limits
from simserver.metrics import Metrics
from simserver.service import SimulatorService

logger = logging.getLogger(__name__)

#: Seconds until a gateway that was lost is dialled again: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
#: What an envelope may add to a message, and an error reply to the largest one, bytes.
_SLACK_BYTES = 128 * 1024
#: How long the gateway may take to end the streams that this side has ended, s.
_FAREWELL_SECONDS = 2.0


class _Over(Exception):
    """The service has ended a stream."""


class _Seat:
    """One stream of ``Attach``: waits for a session, then carries it.

    Args:
        head: the gateway's ``host:port``.
        connection: how to reach it.
        hello: the first message.
    """

    def __init__(self, head: str, connection: ConnectionOptions, hello: bytes) -> None:
        self._head = head
        self._channel = open_channel(head, connection)
        #: What to send after the hello; None for nothing more.
        self._replies: queue.SimpleQueue[Iterator[bytes] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        attach = self._channel.stream_stream(f"/{GATEWAY_SERVICE}/Attach")
        self._call = attach(self._outgoing(hello))
        if not self._call.add_callback(self._finish):
            self._finish()

    def welcome(self, seconds: float) -> pb.AttachWelcome:
        """Waits for the gateway's greeting.

        Raises:
            FarsimError: none came in time, or one of another version.
        """
        timer = threading.Timer(seconds, self._call.cancel)
        timer.daemon = True
        timer.start()
        try:
            message = pb.ToSimulator.FromString(next(self._call))
        except StopIteration:
            raise ProtocolError(f"{self._head} ended the stream unasked", self._head) from None
        except DecodeError:
            raise ProtocolError(f"{self._head} sent no greeting", self._head) from None
        except grpc.RpcError as error:
            raise translate(error, self._head) from None
        finally:
            timer.cancel()
        if not message.HasField("welcome"):
            raise ProtocolError(f"{self._head} sent no greeting", self._head)
        if not compatible(message.welcome.protocol_version):
            raise ProtocolVersionError(
                f"{self._head} speaks version '{message.welcome.protocol_version}' of farsim.v1, "
                f"this server {PROTOCOL_VERSION}: use releases whose major versions agree",
                self._head,
            )
        return message.welcome

    def first_request(self) -> bytes | None:
        """Waits until a client wants a session; None if the gateway ends the stream instead.

        Raises:
            FarsimError: the stream broke.
        """
        try:
            return next(self._requests(), None)
        except DecodeError:
            raise ProtocolError(f"{self._head} sent what is no request", self._head) from None
        except grpc.RpcError as error:
            raise translate(error, self._head) from None

    def serve(self, service: SimulatorService, first: bytes) -> grpc.StatusCode:
        """Carries a session until the stream is over; with what status it ended."""
        requests = itertools.chain([first], self._requests())
        self._replies.put(service.run(requests, self))
        self._over.wait()
        return self._call.code()

    def wait(self, seconds: float) -> None:
        """Waits for the end of the stream."""
        self._over.wait(seconds)

    def leave(self) -> None:
        """Ends this side of a stream that carries no session."""
        self._replies.put(None)

    def close(self) -> None:
        """Ends the stream at once; again does nothing."""
        self._call.cancel()
        self._channel.close()

    # -- what the service needs of a call -------------------------------------------------

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return bool(self._call.add_callback(callback))

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        # A dialler has no status to send; the gateway has its own for its client.
        raise _Over(f"{code.name}: {details}")

    # -- messages -------------------------------------------------------------------------

    def _outgoing(self, hello: bytes) -> Iterator[bytes]:
        yield hello
        replies = self._replies.get()
        try:
            for reply in replies or ():
                yield seal(reply)
        except _Over as over:
            logger.info("ended a session's stream: %s", over)

    def _requests(self) -> Iterator[bytes]:
        for raw in self._call:
            request = unseal(pb.ToSimulator, raw)
            if isinstance(request, bytes):
                yield request

    def _finish(self) -> None:
        self._over.set()
        self._replies.put(None)  # gRPC's own thread may still wait for something to send.


class Attachment:
    """Offers simulators to a gateway until it is told to stop; listens nowhere.

    It keeps one waiting seat, and as many taken ones as there are sessions; when the gateway is
    lost, it dials again after growing, jittered pauses, and sessions go on within their leases.

    Args:
        entries: the simulators by name.
        head: the gateway's ``host:port``.
        limits: what clients may use together; ``max_sessions`` is the number of seats.
        connection: how to reach the gateway.
        grace_seconds: how long requests being carried out may take to finish on SIGTERM.
        debug: whether tracebacks reach clients.

    Attributes:
        address: the gateway's.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        head: str,
        limits: Limits,
        connection: ConnectionOptions,
        grace_seconds: float = 10.0,
        debug: bool = False,
    ) -> None:
        self.address = head
        self.metrics = Metrics()
        self._limits, self._grace_seconds = limits, grace_seconds
        bound = limits.max_message_bytes + _SLACK_BYTES
        self._connection = replace(connection, max_message_bytes=bound)
        self._service = SimulatorService(entries, limits, self.metrics, debug)
        hello = pb.AttachHello(
            server_id=secrets.token_hex(8),
            description=self._service.description,
            seats=limits.max_sessions,
            name=f"{socket.gethostname()}/{os.getpid()}",
        )
        self._hello = pb.FromSimulator(hello=hello).SerializeToString()
        self._offered = ", ".join(entries)
        self._changed = threading.Condition()
        self._waiting: _Seat | None = None
        self._taken: set[_Seat] = set()
        self._stop = threading.Event()

    def start(self) -> None:
        """Begins to dial."""
        threading.Thread(target=self._dial, name="attach", daemon=True).start()

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called, then drains."""
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stop.wait(1.0):
            pass
        with self._changed:
            self._changed.notify_all()
            waiting, taken = self._waiting, list(self._taken)
        if waiting is not None:
            waiting.leave()
        self._service.drain(self._grace_seconds)
        until = time.monotonic() + _FAREWELL_SECONDS
        for seat in taken + ([waiting] if waiting is not None else []):
            seat.wait(max(0.0, until - time.monotonic()))
            seat.close()

    def stop(self, *_: Any) -> None:
        """Tells ``run_until_stopped`` to drain and return; fit for a signal handler."""
        self._stop.set()

    # -- dialling -------------------------------------------------------------------------

    def _dial(self) -> None:
        """Keeps one seat waiting."""
        pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        attached = False
        while self._wait_for_room():
            try:
                seat = _Seat(self.address, self._connection, self._hello)
            except FarsimError as error:  # A file with a certificate or a token, at the moment.
                self._pause(next(pauses), str(error))
                continue
            with self._changed:
                self._waiting = seat
            try:
                welcome = seat.welcome(self._connection.connect_seconds)
                if not attached:
                    logger.info(
                        "attached to %s (%s) with %s, seats: %d",
                        self.address,
                        welcome.gateway,
                        self._offered,
                        self._limits.max_sessions,
                    )
                attached = True
                pauses = backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
                first = seat.first_request()
                reason = "" if first is not None else f"{self.address} needs no seat any more"
            except FarsimError as error:
                first, reason = None, f"lost {error}" if attached else str(error)
            with self._changed:
                self._waiting = None
                if first is not None:
                    self._taken.add(seat)
            if first is not None:
                threading.Thread(
                    target=self._serve, args=(seat, first), name="seat", daemon=True
                ).start()
                continue
            seat.close()
            attached = False
            if not self._stop.is_set():
                self._pause(next(pauses), reason)

    def _wait_for_room(self) -> bool:
        """Waits while all seats are taken; False to stop."""
        with self._changed:
            while len(self._taken) >= self._limits.max_sessions and not self._stop.is_set():
                self._changed.wait(1.0)
        return not self._stop.is_set()

    def _pause(self, seconds: float, reason: str) -> None:
        logger.warning("%s; dialling again in %.1f s", reason, seconds)
        self._stop.wait(seconds)

    def _serve(self, seat: _Seat, first: bytes) -> None:
        logger.info("a seat was taken: %d of %d", len(self._taken), self._limits.max_sessions)
        code = None
        try:
            code = seat.serve(self._service, first)
        finally:
            seat.close()
            with self._changed:
                self._taken.discard(seat)
                self._changed.notify_all()
        if code is grpc.StatusCode.OK:
            logger.info("a seat is free again")
        elif not self._stop.is_set():
            logger.warning("lost the stream of a seat (%s); its session has its lease", code.name)
