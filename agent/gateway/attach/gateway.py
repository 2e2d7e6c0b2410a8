"""One gateway process: a port where simulator servers dial in, and one where clients find them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from agent.gateway.attach.balance import Balance
from agent.gateway.attach.relay import RelayService
from agent.gateway.attach.roster import Roster
from agent.gateway.attach.seats import SimulatorGatewayService
from farsim.addresses import is_loopback
from farsim.envelope import GATEWAY_SERVICE
from farsim.protocol import SERVICE
from farsim.serving import AioTokenCheck, ListenOptions, channel_options, listen
from farsim.v1 import gateway_pb2, simulator_pb2  # noqa: F401 - reflection tells of both

_Result = TypeVar("_Result")

#: How often the gateway looks whether sessions should move, s.
_TEND_SECONDS = 0.5
#: What an envelope may add to a message, bytes.
_SLACK_BYTES = 128 * 1024


@dataclass(frozen=True)
class GatewayOptions:
    """How a gateway listens, whom it lets in and how patient it is.

    Attributes:
        dialling: how it listens for those who dial in.
        clients: how it listens for clients.
        max_seats: how many streams it takes from those who dial in.
        max_message_bytes: size of one message either way.
        seat_seconds: how long the opening of a session waits for a free seat.
        away_seconds: how long a session that is to be resumed waits for its server to come back.
    """

    dialling: ListenOptions = field(default_factory=ListenOptions)
    clients: ListenOptions = field(default_factory=ListenOptions)
    max_seats: int = 4096
    max_message_bytes: int = 64 * 1024 * 1024
    seat_seconds: float = 10.0
    away_seconds: float = 5.0


class Gateway:
    """Takes simulator servers that dial in, and offers them to clients as one server.

    Args:
        listen_at: ``host:port`` for those who dial in; port 0 takes a free one.
        address: ``host:port`` for clients; port 0 takes a free one.
        options: how.

    Attributes:
        listens_at: with the port that was bound.
        address: with the port that was bound.

    Raises:
        InsecureAddress: an address is beyond loopback, without TLS and without ``insecure``.
        InvalidAddress: it can not be listened on.
        InvalidCertificate: the PEM files do not hold what they should.
        OSError: a certificate or key can not be read.
    """

    def __init__(self, listen_at: str, address: str, options: GatewayOptions) -> None:
        self._options = options
        self._stop = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="gateway", daemon=True)
        self._thread.start()
        try:
            self.listens_at, self.address = self._in_loop(self._prepare(listen_at, address))
        except BaseException:
            self._end_loop()
            raise

    def start(self) -> None:
        """Begins to serve, and says so to health checks."""
        self._in_loop(self._start())

    def run_until_stopped(self) -> None:
        """Serves until ``stop`` is called."""
        # Event.wait without a time-out would not let signal handlers run on every platform.
        while not self._stop.wait(1.0):
            pass
        self._in_loop(self._close())
        self._end_loop()

    def stop(self, *_: Any) -> None:
        """Makes ``run_until_stopped`` return; fit for a signal handler."""
        self._stop.set()

    async def _prepare(self, listen_at: str, address: str) -> tuple[str, str]:
        options = self._options
        self._roster = Roster()
        self._balance = Balance(self._roster)
        seats = SimulatorGatewayService(self._roster, options.max_seats)
        self._relay = RelayService(self._roster, options.seat_seconds, options.away_seconds)
        self._healths: list[tuple[str, health.aio.HealthServicer]] = []
        self._dialling = self._server(options.dialling, GATEWAY_SERVICE, seats.handler())
        self._clients = self._server(options.clients, SERVICE, self._relay.handler())
        return (
            listen(self._dialling, listen_at, options.dialling),
            listen(self._clients, address, options.clients),
        )

    def _server(
        self, options: ListenOptions, service: str, handler: grpc.GenericRpcHandler
    ) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=(AioTokenCheck(options.token),) if options.token else (),
            options=channel_options(self._options.max_message_bytes + _SLACK_BYTES),
        )
        server.add_generic_rpc_handlers((handler,))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        self._healths.append((service, servicer))
        reflection.enable_server_reflection(
            (service, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    async def _start(self) -> None:
        await self._dialling.start()
        await self._clients.start()
        for name, servicer in self._healths:
            for service in ("", name):
                await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._tending = asyncio.create_task(self._tend())

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            self._roster.forget_the_gone()
            stream = self._balance.next_move()
            if stream is not None:
                await stream.move()

    async def _close(self) -> None:
        self._tending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tending
        for _, servicer in self._healths:
            await servicer.enter_graceful_shutdown()
        status = grpc.StatusCode.UNAVAILABLE, "the gateway is going away"
        self._relay.close(*status)
        self._roster.close(*status)
        await asyncio.gather(self._clients.stop(1.0), self._dialling.stop(1.0))

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def relay_options(address: str, dialling: ListenOptions) -> ListenOptions:
    """How to listen for clients: as for those who dial in, or openly on this machine alone."""
    return ListenOptions() if is_loopback(address) else dialling
