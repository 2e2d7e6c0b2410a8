"""The side of the gateway where clients find attached simulators as on any server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError

from agent.gateway.attach.roster import UNKNOWN_LEASE_SECONDS, Held, Roster, Server
from agent.gateway.attach.seats import GONE, Seat
from farsim import options as option_values
from farsim.envelope import peek
from farsim.errors import (
    Draining,
    FarsimError,
    LimitExceeded,
    ProtocolError,
    ProtocolVersionError,
    SequenceError,
    SessionLost,
    UnknownSimulator,
    to_proto,
)
from farsim.protocol import FLEET_KEY, PROTOCOL_VERSION, compatible
from farsim.v1 import simulator_pb2 as pb

logger = logging.getLogger(__name__)

#: A stream that has opened no session by then is ended.
_OPEN_WITHIN_SECONDS = 60.0
_HEARTBEAT_SECONDS = 2.0
#: How long a server may take to close a session that is moved, s.
_CLOSE_SECONDS = 5.0

_OPENED = pb.SimReply.OPENED_FIELD_NUMBER
_CLOSED = pb.SimReply.CLOSED_FIELD_NUMBER
_HEARTBEAT = pb.SimReply.HEARTBEAT_FIELD_NUMBER
_DRAINING = pb.SimReply.DRAINING_FIELD_NUMBER


class ClientStream:
    """One call of ``Run``: waits for a seat, and is from then on the seat's other end.

    Args:
        context: the call's.
        roster: where seats are.
        seat_seconds: how long to wait for one.
        away_seconds: how long to wait for a server that a session is to be resumed on.

    Attributes:
        session: what it carries; None before.
        over: done when the call is to end; with what status, None for OK.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext,
        roster: Roster,
        seat_seconds: float,
        away_seconds: float,
    ) -> None:
        self.session: Held | None = None
        self.over: asyncio.Future[tuple[grpc.StatusCode, str] | None]
        self.over = asyncio.get_running_loop().create_future()
        self._context, self._roster = context, roster
        self._seat_seconds, self._away_seconds = seat_seconds, away_seconds
        metadata = dict(context.invocation_metadata() or ())
        self._fleet = str(metadata.get(FLEET_KEY, ""))
        self._seat: Seat | None = None
        self._sending = asyncio.Lock()
        #: Requests that have been passed on and not been answered.
        self._unanswered = 0
        self._last_sequence = 0
        #: For the reply to a request that this gateway wants to see; None if the seat is gone.
        self._wanted: asyncio.Future[bytes | None] | None = None
        self._is_half_closed = False
        #: Whether the client knows that the stream is about to end.
        self._is_told = False
        #: Whether the session is to go elsewhere.
        self._is_moving = False
        self._handing_over: asyncio.Task[None] | None = None

    @property
    def can_move(self) -> bool:
        """Whether the client can do without the session, and will open another one."""
        return bool(self._fleet) and self.session is not None and not self._is_moving

    def finish(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """Ends the call, with OK or ``code``; later calls do nothing."""
        if not self.over.done():
            self.over.set_result(None if code is None else (code, details))

    def leave(self) -> None:
        """The call is over, whoever ended it."""
        session, self.session = self.session, None
        if session is not None and session.stream is self:
            session.stream, session.since = None, time.monotonic()
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.client = None
            seat.release()
        self._roster.serve_waiters()

    # -- from the client ------------------------------------------------------------------

    async def read(self) -> None:
        """Passes requests on until the client ends its side."""
        loop = asyncio.get_running_loop()
        bound = loop.call_later(_OPEN_WITHIN_SECONDS, self._check_opened)
        try:
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                if self.over.done():
                    return  # Its seat is gone, or about to be: it is no first request.
                request = pb.SimRequest.FromString(raw)
                if self._is_too_large(raw):
                    return
                if self._is_moving:
                    await self._refuse(
                        request, Draining("the session is being moved; open another")
                    )
                elif self._seat is None:
                    await self._begin(request, raw)
                else:
                    await self._pass_on(self._seat, request.sequence, raw)
        except DecodeError:
            self.finish(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no farsim.v1.SimRequest")
            return
        except GONE:
            self.finish()
            return
        finally:
            bound.cancel()
        self._is_half_closed = True
        if not self._unanswered:
            self.finish()

    async def _pass_on(self, seat: Seat, sequence: int, raw: bytes) -> None:
        self._unanswered += 1
        self._last_sequence = max(self._last_sequence, sequence)
        await seat.send(raw)

    async def _begin(self, request: pb.SimRequest, raw: bytes) -> None:
        """The first request, which decides where the session is."""
        kind = request.WhichOneof("request")
        try:
            if kind == "open":
                await self._open(request, raw)
            elif kind == "resume":
                await self._resume(request)
            else:
                raise ProtocolError(
                    f"the first request of a stream is 'open' or 'resume', not '{kind}'"
                )
        except FarsimError as error:
            await self._refuse(request, error)

    async def _open(self, request: pb.SimRequest, raw: bytes) -> None:
        if request.sequence != 1:
            raise SequenceError(f"'open' has sequence number 1, not {request.sequence}", "sequence")
        _check_version(request.open.protocol_version)
        until = time.monotonic() + self._seat_seconds
        tried: set[str] = set()
        refusal: bytes | None = None
        while True:
            seconds = until - time.monotonic() if refusal is None else 0.0
            seat = await self._seat_within(
                seconds,
                lambda: self._roster.open_seat(
                    self._name(request.open.simulator), self._fleet, tried
                ),
                request,
            )
            if seat is None:
                if refusal is None:
                    raise self._no_seat(request.open.simulator)
                await self.send(refusal)
                return
            reply = await self._ask(seat, raw)
            if reply is None:
                continue  # The server is gone; another one may do.
            answer = pb.SimReply.FromString(reply)
            if answer.HasField("opened"):
                await self._opened(seat.server, request.open, answer)
                return
            self._give_back(seat)
            if answer.error.code != pb.ERROR_CODE_LIMIT:
                await self.send(reply)
                return
            tried.add(seat.server.id)
            refusal = reply

    async def _opened(self, server: Server, request: pb.Open, reply: pb.SimReply) -> None:
        opened = reply.opened
        simulator = self._name(request.simulator) or server.description.simulators[0].name
        opened.session_token = f"{server.id}.{opened.session_token}"
        held = Held(
            opened.session_token,
            server,
            simulator,
            f"{request.num_environments} x {simulator}",
            self._context.peer(),
            self._fleet,
            opened.lease_seconds,
            self,
        )
        self._bind(held)
        await self.send(reply.SerializeToString())

    async def _resume(self, request: pb.SimRequest) -> None:
        _check_version(request.resume.protocol_version)
        token = request.resume.session_token
        server_id, _, inner = token.partition(".")
        server = self._roster.servers.get(server_id)
        held = server.sessions.get(token) if server is not None else None
        if held is not None and held.stream is not None:
            held.stream.finish(grpc.StatusCode.ABORTED, "another stream has resumed this session")
        away_since = self._roster.begun if server is None else server.away_since
        seconds = self._seat_seconds
        if not inner:
            seconds = 0.0  # No token of this gateway's.
        elif away_since is not None:
            seconds = away_since + self._away_seconds - time.monotonic()
        seat = await self._seat_within(
            seconds, lambda: self._roster.resume_seat(server_id), request
        )
        if seat is None:
            server = self._roster.servers.get(server_id)
            if server is not None and server.is_here:
                self.finish(grpc.StatusCode.UNAVAILABLE, f"{server} has no seat at this moment")
                return
            raise SessionLost(
                "the simulator server of this session has gone. Open a new one; the episodes of "
                "the old one are truncated",
                "session_token",
            )
        message = pb.SimRequest()
        message.CopyFrom(request)
        message.resume.session_token = inner
        reply = await self._ask(seat, message.SerializeToString())
        if reply is None:
            self.finish(grpc.StatusCode.UNAVAILABLE, f"the connection to {seat.server} broke")
            return
        answer = pb.SimReply.FromString(reply)
        if answer.HasField("resumed"):
            self._last_sequence = answer.resumed.last_sequence
            self._bind(
                held
                or Held(
                    token,
                    seat.server,
                    "",
                    "resumed",
                    self._context.peer(),
                    self._fleet,
                    UNKNOWN_LEASE_SECONDS,
                    self,
                )
            )
        else:
            seat.server.sessions.pop(token, None)
            self._give_back(seat)
        await self.send(reply)

    def _bind(self, held: Held) -> None:
        held.stream, held.client, held.fleet = self, self._context.peer(), self._fleet
        held.server.sessions[held.token] = held
        self.session = held

    async def _seat_within(
        self, seconds: float, pick: Callable[[], Seat | None], request: pb.SimRequest
    ) -> Seat | None:
        """Waits for a seat, with heartbeats."""
        begun = time.monotonic()
        interval = max(0.05, request.open.heartbeat_seconds or _HEARTBEAT_SECONDS)
        waiting = asyncio.create_task(self._roster.wait_for_seat(pick, self._fleet, seconds))
        try:
            while not (await asyncio.wait((waiting,), timeout=interval))[0]:
                if not request.sequence:
                    continue  # Nothing is being carried out while a session has no server.
                elapsed = time.monotonic() - begun
                heartbeat = pb.Heartbeat(elapsed_seconds=elapsed)
                reply = pb.SimReply(sequence=request.sequence, heartbeat=heartbeat)
                await self.send(reply.SerializeToString())
        except asyncio.CancelledError:
            if not waiting.cancel() and (seat := waiting.result()) is not None:
                seat.release()
            raise
        return waiting.result()

    async def _ask(self, seat: Seat, raw: bytes) -> bytes | None:
        """The reply to the first request on a seat; None if the seat is gone instead."""
        seat.client, self._seat = self, seat
        self._wanted = asyncio.get_running_loop().create_future()
        await seat.send(raw)
        reply = await self._wanted
        self._wanted = None
        self._last_sequence = max(self._last_sequence, 1)
        return reply

    def _give_back(self, seat: Seat) -> None:
        """The seat carries no session: whoever dialled may dial anew."""
        self._seat = seat.client = None
        seat.release()

    def _name(self, simulator: str) -> str:
        """The simulator to open, as servers call it; empty while there is none.

        Raises:
            UnknownSimulator: there are servers, but none has it.
        """
        offered = self._roster.offered()
        if simulator in offered or not offered:
            return simulator
        if not simulator and len(offered) == 1:
            return next(iter(offered))
        what = f"no simulator '{simulator}' here" if simulator else "name the simulator to open"
        raise UnknownSimulator(f"{what}{option_values.nearest(simulator, offered)}", "simulator")

    def _no_seat(self, simulator: str) -> LimitExceeded:
        if not self._roster.here():
            return LimitExceeded(
                "no simulator server has dialled in: start some with farsim serve --attach"
            )
        holders = self._roster.holders(self._name(simulator))
        return LimitExceeded(
            f"no seat became free within {self._seat_seconds:g} s; there are {holders}. Start more "
            "simulator servers with --attach, or use fewer sessions"
        )

    def _is_too_large(self, raw: bytes) -> bool:
        bound = self._roster.describe().limits.max_message_bytes if self._seat is None else 0
        if self._seat is not None:
            bound = self._seat.server.description.limits.max_message_bytes
        if not bound or len(raw) <= bound:
            return False
        self.finish(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"a message of {len(raw)} bytes; a message here has at most {bound}",
        )
        return True

    def _check_opened(self) -> None:
        if self.session is None:
            self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "no session was opened on this stream")

    # -- to the client --------------------------------------------------------------------

    async def send(self, reply: bytes) -> None:
        """Sends a serialised reply; does nothing when the client has gone."""
        async with self._sending:
            try:
                await self._context.write(reply)
            except GONE:
                self.finish()

    async def deliver(self, reply: bytes) -> None:
        """Takes a serialised reply that came from the seat."""
        _, kind = peek(reply)
        if kind == _HEARTBEAT:
            await self.send(reply)
            return
        if kind == _DRAINING:
            self._is_told = True
            await self.send(reply)
            return
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(reply)
            return
        self._unanswered -= 1
        if kind == _CLOSED and self.session is not None:
            self._is_told = True
            self.session.server.sessions.pop(self.session.token, None)
        elif kind == _OPENED and self.session is not None:  # Once more.
            again = pb.SimReply.FromString(reply)
            again.opened.session_token = self.session.token
            reply = again.SerializeToString()
        await self.send(reply)
        if self._unanswered <= 0:
            if self._is_half_closed:
                self.finish()
            elif self._is_moving:
                self._hand_over()

    def seat_left(self, seat: Seat) -> None:
        """The stream of its seat is over."""
        if self._seat is not seat:
            return
        self._seat = None
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        elif self._is_told or self._is_moving:
            self.finish()
        else:
            self.finish(grpc.StatusCode.UNAVAILABLE, f"the connection to {seat.server} has ended")

    async def _refuse(self, request: pb.SimRequest, error: FarsimError) -> None:
        reply = pb.SimReply(sequence=request.sequence, error=to_proto(error))
        await self.send(reply.SerializeToString())

    # -- moving ---------------------------------------------------------------------------

    async def move(self) -> None:
        """Takes the session from its client, which will open another one where there is room.

        What the client has asked for is finished first; the session is then closed.
        """
        if not self.can_move or self._seat is None:
            return
        self._is_moving = True
        notice = pb.SimReply(draining=pb.Draining(grace_seconds=_CLOSE_SECONDS))
        await self.send(notice.SerializeToString())
        if self._unanswered <= 0:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._handing_over is None:
            self._handing_over = asyncio.create_task(self._close())

    async def _close(self) -> None:
        seat, session = self._seat, self.session
        if seat is not None and session is not None:
            close = pb.SimRequest(sequence=self._last_sequence + 1, close=pb.Close())
            self._wanted = asyncio.get_running_loop().create_future()
            await seat.send(close.SerializeToString())
            try:
                await asyncio.wait_for(self._wanted, _CLOSE_SECONDS)
            except asyncio.TimeoutError:
                logger.warning("%s did not close a session in time", seat.server)
            else:
                session.server.sessions.pop(session.token, None)
        self.finish()


def _check_version(version: str) -> None:
    if not compatible(version):
        raise version_error(version)


def version_error(version: str) -> ProtocolVersionError:
    """Why a client of this version is refused."""
    return ProtocolVersionError(
        f"this gateway speaks version {PROTOCOL_VERSION} of farsim.v1, the client '{version}': "
        "use releases whose major versions agree",
        "protocol_version",
    )
