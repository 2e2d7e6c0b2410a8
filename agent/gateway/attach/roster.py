"""Who has dialled in, which seats wait, and who holds the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from farsim import __version__
from farsim.protocol import PROTOCOL_VERSION
from farsim.v1 import simulator_pb2 as pb

if TYPE_CHECKING:
    from agent.gateway.attach.clients import ClientStream
    from agent.gateway.attach.seats import Seat

logger = logging.getLogger(__name__)

#: How long a moved session is expected where there was room for it, s.
EXPECTED_SECONDS = 30.0
#: How long a session of which the lease is not known is taken to be held, s.
UNKNOWN_LEASE_SECONDS = 60.0
#: How long a server's only seat may be away between two sessions, s; after a break it dials again
#: in half a second at the earliest.
REDIAL_SECONDS = 0.4


@dataclass(eq=False)
class Held:
    """A session on an attached server.

    Attributes:
        token: what its client knows it by.
        server: where it lives.
        simulator: its name; empty if this gateway has not seen the session open.
        what: simulator and size, for people.
        client: the peer, for people.
        fleet: whose it is, if its client can move it; empty if not.
        lease_seconds: how long it outlives a broken stream.
        stream: who carries it; None while nobody does.
        since: when the last stream broke, by ``time.monotonic``.
    """

    token: str
    server: Server
    simulator: str
    what: str
    client: str
    fleet: str
    lease_seconds: float
    stream: ClientStream | None
    since: float = 0.0

    def is_held(self, now: float) -> bool:
        return self.stream is not None or now - self.since <= self.lease_seconds

    def __str__(self) -> str:
        if self.stream is not None:
            return f"{self.client} ({self.what})"
        return f"{self.client} ({self.what}), away for {time.monotonic() - self.since:.0f} s"


@dataclass(eq=False)
class Server:
    """A simulator server that has dialled in.

    Attributes:
        id: its own, of one running process.
        name: for people.
        seats: how many sessions it can hold.
        description: what it offers.
        waiting: its seats without a session.
        taken: those with one, or with one about to open.
        sessions: by token.
        away_since: when its last stream broke, by ``time.monotonic``; None while it has one.
        expected: fleets whose sessions were moved away elsewhere to come here, until when.
    """

    id: str
    name: str
    seats: int
    description: pb.DescribeReply
    waiting: deque[Seat] = field(default_factory=deque)
    taken: set[Seat] = field(default_factory=set)
    sessions: dict[str, Held] = field(default_factory=dict)
    away_since: float | None = None
    expected: list[tuple[str, float]] = field(default_factory=list)

    def load(self) -> int:
        """Sessions that it has or is about to have, those within their leases included."""
        now = time.monotonic()
        for held in [held for held in self.sessions.values() if not held.is_held(now)]:
            del self.sessions[held.token]
        return len(self.sessions) + sum(seat.is_opening for seat in self.taken)

    @property
    def has_room(self) -> bool:
        """Whether a session can be opened here now."""
        return bool(self.waiting) and self.load() < self.seats

    @property
    def is_here(self) -> bool:
        return bool(self.waiting or self.taken)

    def offer(self, simulator: str) -> pb.SimulatorDescription | None:
        return next((d for d in self.description.simulators if d.name == simulator), None)

    def still_expected(self) -> int:
        now = time.monotonic()
        self.expected = [(fleet, until) for fleet, until in self.expected if until > now]
        return len(self.expected)

    def __str__(self) -> str:
        return self.name or self.id


@dataclass(eq=False)
class _Waiter:
    """Somebody who wants a seat."""

    fleet: str
    pick: Callable[[], Seat | None]
    seat: asyncio.Future[Seat]


class Roster:
    """All simulator servers that have dialled in; used in one event loop.

    Attributes:
        servers: by id; those that are away are kept as long as a session may be resumed there.
        begun: when this gateway began, by ``time.monotonic``.
    """

    def __init__(self) -> None:
        self.servers: dict[str, Server] = {}
        self.begun = time.monotonic()
        self._waiters: list[_Waiter] = []
        self._attached = asyncio.Event()

    # -- servers --------------------------------------------------------------------------

    def arrive(
        self, server_id: str, name: str, seats: int, description: pb.DescribeReply
    ) -> Server:
        """The server of a seat that greets."""
        server = self.servers.get(server_id)
        if server is None:
            server = self.servers[server_id] = Server(server_id, name, seats, description)
            logger.info(
                "%s has dialled in with %s, seats: %d",
                server,
                ", ".join(one.name for one in description.simulators) or "no simulator",
                seats,
            )
            self._tell_differences(server)
        elif (
            server.away_since is not None and time.monotonic() - server.away_since > REDIAL_SECONDS
        ):
            logger.info("%s is back", server)
        server.away_since = None
        return server

    def seat_arrived(self, seat: Seat) -> None:
        """A seat waits."""
        seat.server.waiting.append(seat)
        self._attached.set()
        self._serve_waiters()

    def seat_left(self, seat: Seat) -> None:
        """A seat is gone, for whatever reason."""
        server = seat.server
        if seat in server.waiting:
            server.waiting.remove(seat)
        server.taken.discard(seat)
        if not server.is_here and server.away_since is None:
            server.away_since = time.monotonic()
            if not self.here():
                self._attached.clear()
        self._serve_waiters()

    def forget_the_gone(self) -> None:
        """Drops servers that are away, and to which no session can be resumed any more."""
        now = time.monotonic()
        for server in list(self.servers.values()):
            if server.away_since is not None and server.load() == 0:
                away = now - server.away_since
                # It may only have had a waiting seat that is dialled anew at this moment.
                if away > EXPECTED_SECONDS:
                    logger.info("%s has gone", server)
                    del self.servers[server.id]

    async def wait_for_any(self, seconds: float) -> None:
        """Waits until somebody has dialled in, or the time is over."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._attached.wait(), seconds)

    def here(self) -> list[Server]:
        return [server for server in self.servers.values() if server.is_here]

    # -- what is on offer -----------------------------------------------------------------

    def offered(self) -> dict[str, pb.SimulatorDescription]:
        """The simulators on offer by name, as the first server that has each says."""
        found: dict[str, pb.SimulatorDescription] = {}
        for server in self.here():
            for description in server.description.simulators:
                found.setdefault(description.name, description)
        return found

    def offering(self, simulator: str) -> list[Server]:
        """The servers that have a simulator, with the agents and spaces that it is offered with."""
        first = self.offered().get(simulator)
        if first is None:
            return []
        return [
            server
            for server in self.here()
            if (own := server.offer(simulator)) is not None and _same(own, first)
        ]

    def describe(self) -> pb.DescribeReply:
        """What all attached servers offer together."""
        here = self.here()
        limits = [server.description.limits for server in here]
        seats = sum(server.seats for server in here)
        environments = [limit.max_environments for limit in limits]
        return pb.DescribeReply(
            protocol_version=PROTOCOL_VERSION,
            server=f"farsim {__version__} gateway (attached: {len(here)}, seats: {seats})",
            simulators=list(self.offered().values()),
            limits=pb.Limits(
                max_sessions=seats,
                max_environments=min(sum(environments), 2**32 - 1) if all(environments) else 0,
                max_message_bytes=_least(limit.max_message_bytes for limit in limits),
                max_in_flight=_least(limit.max_in_flight for limit in limits),
            ),
        )

    def holders(self, simulator: str) -> str:
        """Who holds the seats of a simulator, for an error."""
        servers = self.offering(simulator)
        held = [str(held) for server in servers for held in server.sessions.values()]
        seats = sum(server.seats for server in servers)
        who = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
        return f"{seats} on {len(servers)} servers, held by: {who or 'nobody'}"

    # -- seats ----------------------------------------------------------------------------

    def open_seat(self, simulator: str, fleet: str, tried: Iterable[str] = ()) -> Seat | None:
        """Takes a seat for a new session, where the fewest are; None if none is free."""
        candidates = [
            server
            for server in self.offering(simulator)
            if server.has_room and server.id not in tried
        ]
        if not candidates:
            return None
        server = min(candidates, key=lambda one: (one.load(), one.load() / one.seats))
        self._not_expected(fleet)
        return self._take(server)

    def resume_seat(self, server_id: str) -> Seat | None:
        """Takes a seat of one server, to resume a session there; None if none waits."""
        server = self.servers.get(server_id)
        return self._take(server) if server is not None and server.waiting else None

    async def wait_for_seat(
        self, pick: Callable[[], Seat | None], fleet: str, seconds: float
    ) -> Seat | None:
        """As soon as ``pick`` gives one, in the order of asking; None if the time is over.

        Those whose fleet has the fewest sessions come first.
        """
        seat = pick()
        if seat is not None or seconds <= 0:
            return seat
        future: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(fleet, pick, future)
        self._waiters.append(waiter)
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except asyncio.TimeoutError:
            return future.result() if future.done() else None
        except asyncio.CancelledError:
            if future.done():
                future.result().release()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def sessions_of(self, fleet: str) -> list[Held]:
        return [
            held
            for server in self.servers.values()
            for held in server.sessions.values()
            if held.fleet == fleet
        ]

    def waiting_fleets(self) -> set[str]:
        """The fleets that wait for a seat."""
        return {waiter.fleet for waiter in self._waiters if waiter.fleet}

    def _serve_waiters(self) -> None:
        order = sorted(
            self._waiters, key=lambda one: len(self.sessions_of(one.fleet)) if one.fleet else 0
        )
        for waiter in order:
            if waiter.seat.done():
                continue
            seat = waiter.pick()
            if seat is not None:
                waiter.seat.set_result(seat)
                self._waiters.remove(waiter)

    def serve_waiters(self) -> None:
        """Something has changed that may let somebody have a seat."""
        self._serve_waiters()

    def _take(self, server: Server) -> Seat:
        seat = server.waiting.popleft()
        server.taken.add(seat)
        return seat

    def _not_expected(self, fleet: str) -> None:
        for server in self.servers.values():
            for entry in server.expected:
                if entry[0] == fleet:
                    server.expected.remove(entry)
                    return

    def _tell_differences(self, server: Server) -> None:
        for name, first in self.offered().items():
            own = server.offer(name)
            if own is not None and not _same(own, first):
                logger.warning(
                    "%s has a '%s' with other agents or spaces than the servers before; it gets "
                    "no session of it while they are here",
                    server,
                    name,
                )

    def close(self, code: grpc.StatusCode, details: str) -> None:
        """Ends all streams of attached servers."""
        for server in self.here():
            for seat in [*server.waiting, *server.taken]:
                seat.release(code, details)


def _same(one: pb.SimulatorDescription, other: pb.SimulatorDescription) -> bool:
    return list(one.groups) == list(other.groups)


def _least(bounds: Iterable[int]) -> int:
    """The smallest bound; 0, which means none, if there is none."""
    return min((bound for bound in bounds if bound), default=0)
