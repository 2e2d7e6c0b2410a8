"""The ``Simulator`` service that a gateway offers to clients."""

from __future__ import annotations

import asyncio
import logging

import grpc

from agent.gateway.attach.clients import ClientStream, version_error
from agent.gateway.attach.roster import Roster
from farsim.protocol import SERVICE, compatible
from farsim.v1 import simulator_pb2 as pb

logger = logging.getLogger(__name__)


class RelayService:
    """``Simulator``, carried out by those who have dialled in.

    Args:
        roster: of the gateway.
        seat_seconds: how long an ``open`` waits for a seat.
        away_seconds: how long a ``resume`` waits for a server that is away.
    """

    def __init__(self, roster: Roster, seat_seconds: float, away_seconds: float) -> None:
        self._roster = roster
        self._seat_seconds, self._away_seconds = seat_seconds, away_seconds
        self._streams: set[ClientStream] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for ``grpc.aio.Server.add_generic_rpc_handlers``; ``Run`` in bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Describe": grpc.unary_unary_rpc_method_handler(
                    self._describe,
                    request_deserializer=pb.DescribeRequest.FromString,
                    response_serializer=pb.DescribeReply.SerializeToString,
                ),
                "Run": grpc.stream_stream_rpc_method_handler(self._run),
            },
        )

    def close(self, code: grpc.StatusCode, details: str) -> None:
        """Ends all streams; their sessions can be resumed when the gateway is there again."""
        for stream in self._streams:
            stream.finish(code, details)

    async def _describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeReply:
        if request.protocol_version and not compatible(request.protocol_version):
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                version_error(request.protocol_version).message,
            )
        # Who asks early, or while the servers of a gateway that was started anew dial in again, is
        # told what there will be.
        patience = context.time_remaining() or self._seat_seconds
        await self._roster.wait_for_any(min(0.8 * patience, self._seat_seconds))
        return self._roster.describe()

    async def _run(self, _: object, context: grpc.aio.ServicerContext) -> None:
        stream = ClientStream(context, self._roster, self._seat_seconds, self._away_seconds)
        self._streams.add(stream)
        reader = asyncio.create_task(self._read(stream))
        try:
            status = await stream.over
        finally:
            reader.cancel()
            self._streams.discard(stream)
            stream.leave()
        if status is not None:
            await context.abort(*status)

    @staticmethod
    async def _read(stream: ClientStream) -> None:
        try:
            await stream.read()
        except Exception:
            logger.exception("a client's stream failed")
            stream.finish(grpc.StatusCode.INTERNAL, "the gateway failed; its log says why")
