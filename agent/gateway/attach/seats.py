"""The side of the gateway where simulator servers dial in."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import DecodeError

from agent.gateway.attach.roster import Roster, Server
from farsim import __version__
from farsim.envelope import GATEWAY_SERVICE, seal, unseal
from farsim.protocol import PROTOCOL_VERSION, compatible
from farsim.v1 import gateway_pb2 as pb

if TYPE_CHECKING:
    from agent.gateway.attach.clients import ClientStream

logger = logging.getLogger(__name__)

#: How long a dialler may take to greet, s.
_HELLO_SECONDS = 10.0

#: What using a call raises that is over.
GONE = (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError)

_Status = tuple[grpc.StatusCode, str]


class Seat:
    """One stream of ``Attach``.

    Attributes:
        server: who dialled.
        client: whose session it carries; None while it waits.
    """

    def __init__(self, context: grpc.aio.ServicerContext, server: Server) -> None:
        self.server = server
        self.client: ClientStream | None = None
        #: What the stream is to end with; None for OK.
        self.over: asyncio.Future[_Status | None] = asyncio.get_running_loop().create_future()
        self._context = context

    @property
    def is_opening(self) -> bool:
        """Whether it was taken for a session that is not open yet."""
        return self.client is None or self.client.session is None

    async def send(self, request: bytes) -> None:
        """Passes a serialised ``SimRequest`` on; does nothing when the stream is over."""
        try:
            await self._context.write(seal(request))
        except GONE:
            self.release()

    def release(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """Ends the stream, with OK or ``code``; later calls do nothing."""
        if not self.over.done():
            self.over.set_result(None if code is None else (code, details))

    async def read(self) -> None:
        """Passes replies on until the dialler ends its side."""
        while (raw := await self._context.read()) is not grpc.aio.EOF:
            reply = unseal(pb.FromSimulator, raw)
            if not isinstance(reply, bytes) or self.client is None:
                self.release(grpc.StatusCode.INVALID_ARGUMENT, "no reply was due on this seat")
                return
            await self.client.deliver(reply)
        self.release()


class SimulatorGatewayService:
    """``SimulatorGateway``: takes those who dial in into the roster.

    Args:
        roster: of the gateway.
        max_seats: how many streams it takes.
    """

    def __init__(self, roster: Roster, max_seats: int) -> None:
        self._roster, self._max_seats = roster, max_seats
        self._streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for ``grpc.aio.Server.add_generic_rpc_handlers``; bytes in and out."""
        return grpc.method_handlers_generic_handler(
            GATEWAY_SERVICE, {"Attach": grpc.stream_stream_rpc_method_handler(self._attach)}
        )

    async def _attach(self, _: object, context: grpc.aio.ServicerContext) -> None:
        hello = await self._greeted(context)
        if self._streams >= self._max_seats:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this gateway takes {self._max_seats} seats at one time (--max-seats)",
            )
        self._streams += 1
        try:
            await self._carry(hello, context)
        finally:
            self._streams -= 1

    async def _carry(self, hello: pb.AttachHello, context: grpc.aio.ServicerContext) -> None:
        server = self._roster.arrive(hello.server_id, hello.name, hello.seats, hello.description)
        welcome = pb.AttachWelcome(
            protocol_version=PROTOCOL_VERSION, gateway=f"farsim {__version__} (Python)"
        )
        seat = Seat(context, server)
        reader = None
        try:
            await context.write(pb.ToSimulator(welcome=welcome).SerializeToString())
            self._roster.seat_arrived(seat)
            reader = asyncio.create_task(self._read(seat))
            status = await seat.over
        finally:
            seat.release()  # If it was the connection that broke.
            if reader is not None:
                reader.cancel()
            self._roster.seat_left(seat)
            if seat.client is not None:
                seat.client.seat_left(seat)
        if status is not None:
            await context.abort(*status)

    async def _greeted(self, context: grpc.aio.ServicerContext) -> pb.AttachHello:
        wrong = grpc.StatusCode.INVALID_ARGUMENT
        try:
            raw = await asyncio.wait_for(context.read(), _HELLO_SECONDS)
            message = (
                pb.FromSimulator() if raw is grpc.aio.EOF else pb.FromSimulator.FromString(raw)
            )
        except (DecodeError, asyncio.TimeoutError):
            message = pb.FromSimulator()
        hello = message.hello
        if not message.HasField("hello"):
            await context.abort(wrong, "the first message on this stream is 'hello'")
        if not hello.server_id or hello.seats < 1 or not hello.description.simulators:
            await context.abort(
                wrong, "'hello' has a server_id, at least one seat, and a simulator to offer"
            )
        if not compatible(hello.description.protocol_version):
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this gateway speaks version {PROTOCOL_VERSION} of farsim.v1, the simulator "
                f"server '{hello.description.protocol_version}': use releases whose major "
                "versions agree",
            )
        return hello

    @staticmethod
    async def _read(seat: Seat) -> None:
        try:
            await seat.read()
        except DecodeError:
            seat.release(
                grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no farsim.v1.FromSimulator"
            )
        except GONE:
            seat.release()
        except Exception:
            logger.exception("a seat failed")
            seat.release(grpc.StatusCode.UNAVAILABLE, "the gateway failed; its log says why")
